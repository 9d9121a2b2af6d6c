#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_sva.sh [KERNEL]      (default: stock; bookworm means its backports, which has no native mode)
# SVIO_PART=plain|pasid|sim runs one boot of them.
#
# kernel/svio_vfio_pci, built here against the kernel's headers (needs root), on QEMU's nvme, igb and e1000e as a VFIO driver like any
# other, and on kernel/svio_simdev with native SVA. The checks are those of sva_probe.c and vfio_probe.c, in the guest.

set -u

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
build=${SVIO_BUILD:-$top/build}
kernel=${1:-stock}
[ "$kernel" != bookworm ] || kernel=backports
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-sva.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
failed=0

truncate -s 16M "$dir/a.img" "$dir/b.img"
mkdir -p "$dir/mod" "$dir/tree/drivers"
cp -r "$top/kernel" "$dir/tree/"
cp -r "$top/drivers/dsa" "$dir/tree/drivers/"

# module NAME: built without a warning
module()
{
	if "$top/config/lab.sh" module "$kernel" "$dir/tree" "kernel/$1" "$dir/mod" W=1 >"$dir/log" 2>&1 &&
	   ! grep -qE 'warning|WARNING' "$dir/log"; then
		echo "ok - $1 builds on $kernel without warnings"
	else
		echo "not ok - $1 builds on $kernel without warnings"
		tail -n 30 "$dir/log" | sed 's/^/# /'
		failed=1
	fi
}

# boot WHAT CHECKS VM-OPTION... -- ARGUMENT...: run that part of sva_guest.sh; at least CHECKS must have passed and none failed.
boot()
{
	local what=$1 least=$2 status good options=()

	shift 2
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	shift
	[ -z "${SVIO_PART:-}" ] || [ "$SVIO_PART" = "$what" ] || return 0
	"$here/vm" --kernel "$kernel" --nvme "$dir/a.img" --nvme "$dir/b.img" "${options[@]}" --add "$dir/mod:/mod" \
		--add "$build/test/guest/vfio_probe:/vfio_probe" --add "$build/test/guest/sva_probe:/sva_probe" \
		--add "$here/sva_guest.sh:/sva_guest.sh" -- sh /sva_guest.sh "$what" "$@" >"$dir/out" 2>"$dir/err"
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

# SVIO_SVA_*, and -errno where there is one: no IOMMU with PASIDs, no PASID capability, the kernel does not want to.
no_iommu="2 0"
no_pasid="3 0"
[ "$kernel" != backports ] || no_iommu="1 -95" no_pasid="1 -95"

module svio_vfio_pci
# shellcheck disable=SC2054 # commas are QEMU's
devices=(--ports 2 --device igb,bus=hp0
	--device e1000e,bus=hp1,addr=0.0,multifunction=on --device e1000e,bus=hp1,addr=0.1)
# shellcheck disable=SC2086 # two words
boot plain 200 "${devices[@]}" --qmp-at 'PULL={"execute":"device_del","arguments":{"id":"nvme0"}}' -- $no_iommu
# shellcheck disable=SC2086
boot pasid 40 "${devices[@]}" \
	--iommu intel-iommu,intremap=on,caching-mode=on,scalable-mode=on,fsts=on,svm=on,pasid-bits=20,device-iotlb=on -- $no_pasid
if [ "$kernel" != backports ] && [ "${SVIO_PART:-sim}" = sim ]; then
	module svio_simdev
	boot sim 150 --timeout 600 --append "memmap=2M\$0x30000000" --
fi
exit $failed
