#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_simdev.sh [KERNEL]      (default: stock)
#
# The simulated device of kernel/svio_simdev, which other tests stand on: what Linux sees of it, its operations through VFIO's type1, and
# with kernel/svio_vfio_pci shared virtual addressing; and that its detector detects. The checks are in simdev_guest.sh
# and simdev_probe.c, in the guest.
#
# not for: bookworm (the module needs Linux 6.12)
# also for: backports

set -u

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
build=${SVIO_BUILD:-$top/build}
kernel=${1:-stock}
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-simdev.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

case $kernel in
stock | own | own-debug)
	parts="type1 sva"
	least=80
	;;
backports)
	parts=type1 # no native SVA before Linux 6.19
	least=55
	;;
*)
	echo "# simdev: for Linux 6.12, and from 6.19 on; not for $kernel"
	exit 0
	;;
esac

mkdir "$dir/modules"
"$here/lib/build_modules" simdev "$kernel" "$dir/modules" svio_simdev svio_vfio_pci || exit 1

# A boot each. lockdep knows locks by class: that vfio-pci's page faults wait for a reset with mmap_lock held, which svio-vfio-pci's do not
# (kernel/svio_vfio_pci/bar.c), would be held against the IOMMU group of the one that shares an address space.
# lspci is the host's, with the names it knows.
status=0
for part in $parts; do
	# shellcheck disable=SC2016 # no variable: the kernel takes a dollar
	"$here/vm" --kernel "$kernel" --append 'memmap=2M$0x30000000' --add "$dir/modules:/modules" \
		--add "$build/test/guest/simdev_probe:/simdev_probe" --add "$here/simdev_guest.sh:/simdev_guest.sh" \
		--add "$(command -v lspci):/usr/bin/lspci" -- sh /simdev_guest.sh "$part" >>"$dir/out" 2>>"$dir/err" || status=$?
done
cat "$dir/out"
good=$(grep -c '^ok - ' "$dir/out")
if [ "$status" -ne 0 ] || [ "$good" -lt "$least" ]; then
	echo "not ok - simdev: ran to its end (status $status, $good checks, at least $least expected)"
	tail -n 150 "$dir/err" | sed 's/^/# /'
	exit 1
fi
! grep -q '^not ok - ' "$dir/out"
