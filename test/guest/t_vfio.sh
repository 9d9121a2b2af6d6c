#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_vfio.sh [KERNEL]      (default: stock)
# SVIO_PART=main|sriov|pull|no-iommu|no-vfio runs one boot of them.
#
# Room vfio on real Linux VFIO, on QEMU's nvme, igb (SR-IOV) and e1000e. The checks are those of vfio_probe.c, in the guest.

set -u

here=$(cd "$(dirname "$0")" && pwd)
build=${SVIO_BUILD:-$here/../../build}
kernel=${1:-stock}
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-vfio.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
failed=0

truncate -s 16M "$dir/a.img" "$dir/b.img"

# boot WHAT CHECKS VM-OPTION...: run that part of vfio_guest.sh; at least CHECKS checks must have passed and none failed.
boot()
{
	local what=$1 least=$2 status good

	shift 2
	[ -z "${SVIO_PART:-}" ] || [ "$SVIO_PART" = "$what" ] || return 0
	"$here/vm" --kernel "$kernel" --nvme "$dir/a.img" --nvme "$dir/b.img" "$@" \
		--add "$build/test/guest/vfio_probe:/vfio_probe" --add "$here/vfio_guest.sh:/vfio_guest.sh" \
		-- sh /vfio_guest.sh "$what" >"$dir/out" 2>"$dir/err"
	status=$?
	sed "s/^\(not ok\|ok\) - /&$what: /" "$dir/out"
	good=$(grep -c '^ok - ' "$dir/out")
	if grep -q '^not ok - ' "$dir/out"; then
		failed=1
	fi
	if [ "$status" -ge 124 ] || [ "$good" -lt "$least" ]; then
		echo "not ok - $what: ran to its end (status $status, $good checks, at least $least expected)"
		tail -n 30 "$dir/err" | sed 's/^/# /'
		failed=1
	fi
}

boot main 130 --ports 3 --device igb,bus=hp0 \
	--device e1000e,bus=hp1,addr=0.0,multifunction=on --device e1000e,bus=hp1,addr=0.1 \
	--device pcie-pci-bridge,bus=hp2,id=br --device e1000,bus=br,addr=1 --device e1000,bus=br,addr=2
boot sriov 60 --device igb,bus=hp0
boot pull 3 --qmp-at 'PULL={"execute":"device_del","arguments":{"id":"nvme0"}}'
boot no-iommu 1 --iommu none
boot no-vfio 1 --no-vfio
exit $failed
