#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_ioas.sh [KERNEL [CASE]]      (default: stock, all; CASE is a piece of a case's title)
#
# Rooms mem and ioas on real VFIO: two devices in one address space, dma_entry_limit, RLIMIT_MEMLOCK, overlap, an
# IOMMU of 39 bits, two NUMA nodes, hugepages. Runs ioas_probe in the lab, which prints one line for each thing checked.
#
# Environment: SVIO_BUILD, the build directory (default: build/ of the source tree).

set -u

here=$(cd "$(dirname "$0")" && pwd)
kernel=${1:-stock}
only=${2:-}
build=${SVIO_BUILD:-$here/../../build}
probe=$build/test/guest/ioas_probe
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-ioas.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
failed=0

[ -x "$probe" ] || {
	echo "not ok - $probe is not there: ninja -C $build"
	exit 1
}
truncate -s 64M "$dir/a.img" "$dir/b.img"

# guest CASE OPTION... -- COMMANDS: its lines pass through; no line, or an exit code, is a failure.
guest()
{
	local name=$1 status

	shift
	[[ $name == *"$only"* ]] || return 0
	echo "# $name ($kernel)"
	"$here/vm" --kernel "$kernel" --nvme "$dir/a.img" --nvme "$dir/b.img" --add "$probe:/ioas_probe" \
		"${@:1:$#-1}" sh -c "set -e; ${!#}" >"$dir/out" 2>"$dir/err"
	status=$?
	cat "$dir/out"
	if [ $status -ne 0 ] || ! grep -q '^ok - ' "$dir/out"; then
		echo "not ok - $name: exit status $status"
		sed 's/^/# /' "$dir/err" | tail -n 40
		failed=1
	fi
	! grep -q '^not ok - ' "$dir/out" || failed=1
}

a=0000:01:00.0
b=0000:02:00.0
# What a user needs: svio bind, and the group's device file.
bind="svio bind $a $b >&2"
as_user='setuser() {
	g=$(basename $(readlink /sys/bus/pci/devices/'$a'/iommu_group)); chown 1000 /dev/vfio/$g; chmod 666 /dev/vfio/vfio; }; setuser'

guest "two devices, overlap" -- "$bind; /ioas_probe two $a $b; /ioas_probe overlap $a; /ioas_probe two $b $a"

guest "dma_entry_limit" -- "$bind; echo 8 >/sys/module/vfio_iommu_type1/parameters/dma_entry_limit
	/ioas_probe entries $a; /ioas_probe entries $a
	echo 65535 >/sys/module/vfio_iommu_type1/parameters/dma_entry_limit; /ioas_probe overlap $a"

guest "RLIMIT_MEMLOCK" -- "$bind; $as_user
	su user -s /bin/sh -c 'ulimit -l 1024 && /ioas_probe memlock $a && /ioas_probe memlock $a'
	ulimit -l 131072; su user -s /bin/sh -c '/ioas_probe enough $a'"

guest "an IOMMU of 39 bits" --iommu intel-iommu,intremap=on,caching-mode=on,aw-bits=39 -- \
	"$bind; /ioas_probe aperture $a; /ioas_probe aperture $a"

guest "two NUMA nodes" --numa 2 -- "/ioas_probe numa"

guest "hugepages" --hugepages 48 --mem 2G --add "$build/test/unit/unit_mem_mem:/unit_mem_mem" -- \
	"SVIO_TEST_HUGEPAGES=1 /unit_mem_mem >&2; echo 'ok - arenas of hugepages, and too few of them'"

exit $failed
