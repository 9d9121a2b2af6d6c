#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Where threads meet: the model's, the connection's reader and the pollers, in one process. For ThreadSanitizer.
set -u
. "$(dirname "$0")/lib.sh"

load=(--rw randrw --verify --time 1 --qd 16 --range 0:8192)
check "sim: 2 queues" perf 0 sim:nvme,size=16M "${load[@]}" --queues 2 -- "${proved[@]}"
check "sim: sleeping client" perf 0 sim:nvme,size=16M "${load[@]}" --interrupt -- "${proved[@]}"
check "sim: decoding off and on, function and controller resets, 2 queues" perf 0 sim:nvme,size=16M "${load[@]}" --queues 2 \
	--disturb decode:4 --disturb reset:2 --disturb controller:2 -- "${proved[@]}"
# Its flushes are a thread's of their own.
flushed() { truncate -s 4M "$dir/f.img" && head -c 1M /dev/urandom >"$dir/in" && run 0 nvme write "sim:nvme,file=$dir/f.img" --in "$dir/in" --flush && cmp -n 1048576 "$dir/in" "$dir/f.img"; }
check "sim: a file, flushed" flushed
check "sim: connections" timeout "$limit" "$probes/cycle_probe" sim:nvme,size=1M 50
for t in "random 2000" "trouble 4"; do
	# shellcheck disable=SC2086 # a test and its number
	check "sim: dsa: $t" timeout "$limit" "$probes/dsa_probe" sim:dsa $t
done
exit $failed
