#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Intel 82576 (QEMU's igb) through kernel VFIO: frames between two functions, and an SR-IOV virtual function.
# usage: t_igb.sh [stock|bookworm]
set -uo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
build=${SVIO_BUILD:-$top/build}
kernel=${1:-stock}

guest='
fail() { echo "not ok - igb: $*"; exit 1; }
# A virtual function exists once the PF is bound with enable_sriov; its token is ours to choose.
modprobe vfio-pci && echo Y > /sys/module/vfio_pci/parameters/enable_sriov || fail "vfio-pci enable_sriov"
set -- $(for d in /sys/bus/pci/devices/*; do [ "$(cat $d/vendor),$(cat $d/device)" = 0x8086,0x10c9 ] && basename $d; done)
[ $# = 2 ] || fail "two igb functions expected, found: $*"
svio bind $1 && svio bind $2 || fail "bind"
igb_probe wire $1 $2 || exit 1
token=8f3c1c0e-5b1d-4c57-9a35-2f0f7d1c5a11
# The PF must be open, with its token set, before its VFs may be: igb_probe opens it first.
echo 1 > /sys/bus/pci/devices/$1/sriov_numvfs || fail "sriov_numvfs"
vf=$(basename $(readlink /sys/bus/pci/devices/$1/virtfn0))
svio bind $vf || fail "bind the VF"
igb_probe vf $1 $vf $token
'
exec "$top/test/guest/vm" --kernel "$kernel" --timeout 120 --add "$build/test/guest/igb_probe:/usr/bin/igb_probe" \
	--device pcie-root-port,id=wirea,chassis=40,slot=40 --device pcie-root-port,id=wireb,chassis=41,slot=41 \
	--qemu-arg=-netdev --qemu-arg=hubport,id=na,hubid=1 --qemu-arg=-netdev --qemu-arg=hubport,id=nb,hubid=1 \
	--device igb,bus=wirea,netdev=na,mac=02:00:00:00:00:01 --device igb,bus=wireb,netdev=nb,mac=02:00:00:00:00:02 \
	-- sh -c "$guest"
