#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The device is taken away under load, and injected faults: the BAR loses its memory (SIGBUS in the client) and gets it
# back, the function is reset, commands fail, are never answered, are late, or their interrupts are lost.
# `t_survive.sh short` is a subset, for slow builds.
set -u
. "$(dirname "$0")/lib.sh"
short=${1:-}
load=(--rw randrw --verify --time 2 --qd 32 --range 0:32768)

# As many revocations as disturbances, each seen by the driver through a fault that was absorbed, and the load went on.
survived=("${proved[@]}" 'all(d["done"] == d["count"] and d["failed"] == 0 for d in disturb)')
revoked=("${survived[@]}" 'requeued > 0' 'all(d["noticed"] == d["done"] for d in disturb)' 'revocations >= 10' 'faults_absorbed >= 10')
reset=("${survived[@]}" 'resets >= 3')
stated=('r["ok"]' 'lost == 0' 'r["double"] == 0' 'verify_errors == 0' 'submitted == completed_ok + completed_err'
	'requeued == 0' 'all(e["status"] == -125 for e in errors)')

check "a server starts" serve s nvme --size 64M --socket "$dir/s"
check "user: memory decoding off and on, 10 times" perf 0 "user:$dir/s" "${load[@]}" --disturb decode:10 -- "${revoked[@]}"
check "user: function reset, 3 times" perf 0 "user:$dir/s" "${load[@]}" --disturb reset:3 -- "${reset[@]}"
check "user: the next client finds it in order" perf 0 "user:$dir/s" "${load[@]}" --time 1 -- "${proved[@]}" 'resets == 0' 'revocations == 0'
if [ "$short" != short ]; then
	check "user: both and controller resets, 2 queues" perf 0 "user:$dir/s" "${load[@]}" --queues 2 \
		--disturb decode:10 --disturb reset:3 --disturb controller:3 -- "${survived[@]}"
	check "user: decoding, --policy fail" perf 0 "user:$dir/s" "${load[@]}" --policy fail --disturb decode:10 -- "${stated[@]}"
	check "user: decoding, sleeping client" perf 0 "user:$dir/s" "${load[@]}" --interrupt --disturb decode:10 -- "${survived[@]}"
	check "sim: function reset, 3 times" perf 0 sim:nvme,size=64M "${load[@]}" --disturb reset:3 -- "${reset[@]}"
fi
# Some are still under way when the reset comes, since they take their time; the others the model has done before it looks.
check "sim: function reset, 3 times, with late completions" perf 0 sim:nvme,size=64M,inject=io:stall=30000:every=7 "${load[@]}" --disturb reset:3 \
	-- "${reset[@]}" 'requeued > 0'
check "sim: memory decoding off and on, 10 times" perf 0 sim:nvme,size=64M "${load[@]}" --disturb decode:10 -- "${revoked[@]}"
check "the server ends in order" stop s

check "a server that sleeps starts" serve i nvme --size 64M --interrupt --socket "$dir/s"
check "sleeping server: function reset, 3 times" perf 0 "user:$dir/s" "${load[@]}" --disturb reset:3 -- "${reset[@]}"
# Nothing of its BAR is mapped, so no store faults; the driver learns of it by its own reset afterwards, or not at all.
check "sleeping server: controller reset, 3 times" perf 0 "user:$dir/s" "${load[@]}" --disturb controller:3 -- "${reset[@]}"
check "it ends in order" stop i

# ---- injected faults -----------------------------------------------------------------------------------

# 0x281: unrecovered read error (NVMe 1.4 figure 129)
check "status codes reach the application, as many as there were" perf 1 \
	sim:nvme,size=64M,inject=read:sc=0x281:times=7 --rw randread --time 1 -- 'completed_err == 7' 'lost == 0' \
	'[(e["status"], e["count"]) for e in errors] == [(0x281, 7)]'
check "late completions are in nobody's way" perf 0 sim:nvme,size=64M,inject=io:stall=20000:every=50 "${load[@]}" -- "${proved[@]}"
check "lost interrupts are found by the clock" perf 0 sim:nvme,size=64M,inject=io:noirq:every=20 "${load[@]}" --interrupt --qd 4 -- "${proved[@]}"
for c in sc drop abort-lost stall dead; do
	timeout -k 1 "$limit" "$probes/fault_probe" $c 2>"$dir/err" || { echo "not ok - fault_probe $c"; tail -n 20 "$dir/err"; failed=1; }
done
exit $failed
