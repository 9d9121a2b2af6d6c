#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_dirty.sh [KERNEL]      (default: stock)
#
# The dirty set on real Linux VFIO, with QEMU's NVMe controller behind an emulated VT-d: the driver's log and the CPU against an oracle,
# by write protection (stock) and by soft-dirty bits (which is all that bookworm's Linux 6.1 has); type1's bitmap, also at unmap.
#
# Environment: SVIO_BUILD, the build directory (default: build/ of the source tree).

set -u

here=$(cd "$(dirname "$0")" && pwd)
kernel=${1:-stock}
build=${SVIO_BUILD:-$here/../../build}
probe=$build/test/native/dirty_probe
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-dirty.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
failed=0

[ -x "$probe" ] || {
	echo "not ok - $probe is not there: ninja -C $build"
	exit 1
}
truncate -s 64M "$dir/a.img"
a=0000:01:00.0
# What each kernel has to watch the CPU with.
case $kernel in
bookworm) cpu="soft-dirty bits" ;;
*) cpu="write protection" ;;
esac

# Every probe runs, also after one that failed.
"$here/vm" --kernel "$kernel" --mem 1G --hugepages 8 --nvme "$dir/a.img" --add "$probe:/dirty_probe" \
	--add "$build/test/unit/unit_migrate_dirty_cpu:/unit_cpu" --add "$build/test/unit/unit_migrate_dirty_freeze:/unit_freeze" \
	-- sh -c "svio bind $a >&2; rc=0
	/dirty_probe coarse $a || rc=1
	/dirty_probe exact va cpu+driver $a - 20000 || rc=1
	/dirty_probe moving va cpu+driver $a - 20000 || rc=1
	/dirty_probe exact iova cpu+driver $a - 20000 || rc=1
	SVIO_DIRTY_SOFT=1 /dirty_probe exact va cpu+driver $a - 20000 || rc=1
	SVIO_DIRTY_SOFT=1 /dirty_probe moving va cpu+driver $a - 20000 || rc=1
	/unit_cpu >&2 && echo 'ok - unit tests of the CPU source' || rc=1
	/unit_freeze >&2 && echo 'ok - unit tests of the standstill' || rc=1
	exit \$rc" >"$dir/out" 2>"$dir/err"
status=$?
cat "$dir/out"
if [ $status -ne 0 ]; then
	echo "not ok - dirty: exit status $status"
	sed 's/^/# /' "$dir/err" | tail -n 40
	failed=1
fi
! grep -q '^not ok - ' "$dir/out" || failed=1
by() { grep -c "^ok - exact, as said: the CPU by $1, 0 devices by their log, 1 by their driver$" "$dir/out"; }
if [ "$(by "$cpu")" -ge 3 ] && [ "$(by "soft-dirty bits")" -ge 2 ]; then
	echo "ok - $kernel watches the CPU by $cpu, and by soft-dirty bits when it is told to"
else
	echo "not ok - $kernel should watch the CPU by $cpu, and by soft-dirty bits when it is told to"
	failed=1
fi
exit $failed
