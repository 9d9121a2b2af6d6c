#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The MMIO guard on real Linux VFIO: BARs of QEMU's nvme, edu and pci-testdev are disabled, reset and put to sleep under
# a thread that uses them; foreign faults go where they belong.
# usage: t_guard.sh [stock|bookworm|own]
set -uo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
build=${SVIO_BUILD:-$top/build}
kernel=${1:-stock}
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-guard.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
truncate -s 16M "$dir/disk.img"

# shellcheck disable=SC2016 # the guest's shell expands it
guest='
failed=0
for d in /sys/bus/pci/devices/*; do
	case $(cat $d/vendor),$(cat $d/device) in
	0x1b36,0x0010) nvme=${d##*/} ;;
	0x1234,0x11e8) edu=${d##*/} ;;
	0x1b36,0x0005) testdev=${d##*/} ;;
	esac
done
for d in "${nvme:-no-nvme}" "${edu:-no-edu}" "${testdev:-no-testdev}"; do
	svio bind "$d" || { echo "not ok - guard: svio bind $d"; exit 1; }
	for t in toggle orderly reset sleep foreign; do
		guard_probe $t $d || { echo "not ok - guard: $t $d: exit code $?"; failed=1; }
	done
	guard_probe die $d
	rc=$?
	# 128 + SIGBUS
	if [ $rc = 135 ]; then
		echo "ok - guard: $d: a foreign fault without a handler kills by SIGBUS"
	else
		echo "not ok - guard: $d: foreign fault: exit code $rc, not 135 (SIGBUS)"
		failed=1
	fi
	# Killed with its BAR mapped and decoding off: the next process finds the device in order.
	guard_probe toggle $d || failed=1
done
exit $failed
'
exec_vm=("$top/test/guest/vm" --kernel "$kernel" --timeout 280 --add "$build/test/guest/guard_probe:/usr/bin/guard_probe"
	--nvme "$dir/disk.img" --device edu --device pci-testdev)
"${exec_vm[@]}" -- sh -c "$guest"
