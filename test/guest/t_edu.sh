#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The edu driver on QEMU's own edu device, through kernel VFIO. usage: t_edu.sh [stock|bookworm]
set -uo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
build=${SVIO_BUILD:-$top/build}

guest='
dev=$(for d in /sys/bus/pci/devices/*; do [ "$(cat $d/vendor),$(cat $d/device)" = 0x1234,0x11e8 ] && basename $d; done)
[ -n "$dev" ] || { echo "not ok - edu: no edu device"; exit 1; }
svio bind $dev && exec edu_probe $dev'
exec "$top/test/guest/vm" --kernel "${1:-stock}" --timeout 200 --add "$build/test/guest/edu_probe:/usr/bin/edu_probe" \
	--device pcie-root-port,id=edurp,chassis=40,slot=40 --device edu,bus=edurp,dma_mask=0xffffffffffff -- sh -c "$guest"
