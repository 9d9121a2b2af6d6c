#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_sva.sh [KERNEL]      (default: stock; backports has no native mode)
# SVIO_PART=plain|pasid|sim runs one boot of them.
#
# kernel/svio_vfio_pci, built here against the kernel's headers (needs root), on QEMU's nvme, igb and e1000e as a VFIO driver like any
# other, and on kernel/svio_simdev with native SVA. The checks are those of sva_probe.c and vfio_probe.c, in the guest.
#
# not for: bookworm (the module needs Linux 6.12)
# also for: backports

set -u

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
build=${SVIO_BUILD:-$top/build}
kernel=${1:-stock}
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-sva.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
failed=0

truncate -s 16M "$dir/a.img" "$dir/b.img"
mkdir -p "$dir/mod"

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
	[ -z "${SVIO_PART:-}" ] || [ "$SVIO_PART" = "${what%% *}" ] || return 0
	"$here/vm" --kernel "$kernel" --nvme "$dir/a.img" --nvme "$dir/b.img" "${options[@]}" --add "$dir/mod:/mod" \
		--add "$build/test/guest/vfio_probe:/vfio_probe" --add "$build/test/guest/sva_probe:/sva_probe" \
		--add "$here/sva_guest.sh:/sva_guest.sh" -- sh /sva_guest.sh "$what" "$@" >"$dir/out" 2>"$dir/err"
	status=$?
	sed "s/^\(not ok\|ok\) - /&${what%% *}: /" "$dir/out"
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

"$here/lib/build_modules" sva "$kernel" "$dir/mod" svio_vfio_pci svio_simdev || exit 1
# shellcheck disable=SC2054 # commas are QEMU's
devices=(--ports 2 --device igb,bus=hp0
	--device e1000e,bus=hp1,addr=0.0,multifunction=on --device e1000e,bus=hp1,addr=0.1)
memory=(--append "memmap=2M\$0x30000000") # for svio_simdev
with_pasids=(--iommu intel-iommu,intremap=on,caching-mode=on,scalable-mode=on,fsts=on,svm=on,pasid-bits=20,device-iotlb=on)
pull=(--qmp-at 'PULL={"execute":"device_del","arguments":{"id":"nvme0"}}')
if [ "$kernel" = backports ]; then
	# The reason is the kernel's, whatever the IOMMU has and the function could: one boot shows both.
	boot "plain refused yama" 225 "${devices[@]}" "${with_pasids[@]}" "${memory[@]}" "${pull[@]}" -- 1 -95
	exit $failed
fi
# SVIO_SVA_*, and -errno where there is one: no IOMMU with PASIDs, no PASID capability.
boot plain 200 "${devices[@]}" "${pull[@]}" -- 2 0
boot "pasid yama" 45 "${devices[@]}" "${with_pasids[@]}" -- 3 0
boot sim 190 --timeout 600 "${memory[@]}" --
exit $failed
