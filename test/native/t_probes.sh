#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The lab's probes on our own models: the guard (a BAR that loses its memory under a thread, foreign faults) and ioas.
set -u
. "$(dirname "$0")/lib.sh"

guard() # DEVICE
{
	local t rc=0
	for t in toggle orderly reset sleep foreign; do
		timeout -k 1 "$limit" "$probes/guard_probe" $t "$1" || { echo "not ok - guard: $t $1: exit code $?"; failed=1; }
	done
	timeout -k 1 "$limit" "$probes/guard_probe" die "$1" || rc=$?
	if [ $rc = 135 ]; then # 128 + SIGBUS
		echo "ok - guard: $1: a foreign fault without a handler kills by SIGBUS"
	else
		echo "not ok - guard: $1: foreign fault: exit code $rc, not 135 (SIGBUS)"
		failed=1
	fi
}
ioas() { timeout -k 1 "$limit" "$probes/ioas_probe" "$@" || { echo "not ok - ioas: $*: exit code $?"; failed=1; }; }

# Sanitizers report a deadly signal in their own way, and end with their own code.
ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}handle_sigbus=0
export ASAN_OPTIONS
guard sim:nvme,size=1M
guard sim:edu,map
check "servers start" serve p nvme --size 1M --socket "$dir/1" edu,map --socket "$dir/2"
guard "user:$dir/1"
guard "user:$dir/2"
# Killed with its BAR mapped and decoding off: the next client finds the device as it was left, and puts it in order.
# Killed with decoding off, it finds the next client who puts it in order.
timeout -k 1 "$limit" "$probes/guard_probe" toggle "user:$dir/1" || { echo "not ok - guard: toggle after die: exit code $?"; failed=1; }
check "after that, the next client's I/O" perf 0 "user:$dir/1" --rw randrw --verify --time 1 -- "${proved[@]}"
ioas overlap sim:edu
ioas overlap "user:$dir/1"
ioas models "user:$dir/1" "user:$dir/2"
ioas models sim:nvme,size=1M "user:$dir/2"
check "the server ends in order" stop p
exit $failed
