#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The DSA driver on the DSA model, sim: and user:, by PASID and by registered memory: data, faults, trouble, death; the commands; the
# README's program. `t_dsa.sh short` is a subset, for slow builds.
set -u
. "$(dirname "$0")/lib.sh"
top=$here/../..
short=${1:-} many=1000000 some=50000 troubles=30 bonds=10000 slow=$((limit * 5))
[ "$short" != short ] || many=20000 some=5000 troubles=8 bonds=1000

# probe DEVICE TEST [N]: prints its own lines
probe()
{
	local rc=0
	timeout -k 1 $slow "$probes/dsa_probe" "$@" >"$dir/probe" 2>"$dir/probe.err" || rc=$?
	grep -E '^(ok|not ok) - ' "$dir/probe" | sed "s/ - / - ${1%%:*}: /"
	if [ $rc != 0 ] || ! complaints "$dir/probe.err"; then
		echo "not ok - dsa_probe $*: exit code $rc"
		sed 's/^/# /' "$dir/probe" "$dir/probe.err"
		failed=1
	fi
}

# ---- the library on the model -----------------------------------------------------------------------------

probe sim:dsa random $many
probe sim:dsa faults
probe sim:dsa big
probe sim:dsa bonds $bonds
probe sim:dsa identity
probe sim:dsa trouble $troubles
# Long operations in pieces; few entries; no PASID, so that the same calls go by registered memory.
probe sim:dsa,max_xfer=4k random $some
probe sim:dsa,max_xfer=4k big
probe sim:dsa,nobof,engines=1,wqs=2,size=16 random $some
probe sim:dsa,nopasid random $some
probe sim:dsa,nopasid trouble $((troubles / 2))

check "a server starts" serve polled dsa --socket "$dir/s"
probe "user:$dir/s" random $some
probe "user:$dir/s" faults
probe "user:$dir/s" bonds $((bonds / 10))
probe "user:$dir/s" identity
probe "user:$dir/s" trouble $((troubles / 3))
# Bonds and queues of a client that is killed go with it.
client_dies()
{
	local fds
	fds=$(fds_of "$pid")
	timeout -k 1 $slow "$probes/dsa_probe" "user:$dir/s" death >"$dir/victim" 2>&1 &
	local guard_of_probe=$!
	started+=("$guard_of_probe")
	wait_for "grep -q READY $dir/victim || ! running $guard_of_probe" || return 1
	kill -KILL "$(cat "/proc/$guard_of_probe/task/$guard_of_probe/children")" || { cat "$dir/victim"; return 1; }
	wait "$guard_of_probe"
	wait_for "[ \$(fds_of $pid) = $fds ]" || { ls -l "/proc/$pid/fd"; return 1; }
	timeout -k 1 $slow "$probes/dsa_probe" "user:$dir/s" random 500
}
check "a client killed under load: the next one is served" client_dies
check "the server ends in order" stop polled

server_dies()
{
	local rc=0
	serve victim dsa --socket "$dir/s" || return 1
	timeout -k 1 $slow "$probes/dsa_probe" "user:$dir/s" death >"$dir/death" 2>&1 &
	local probe_pid=$!
	started+=("$probe_pid")
	wait_for "grep -q READY $dir/death || ! running $probe_pid" || { cat "$dir/death"; return 1; }
	kill -KILL "$pid"
	wait "$guard" 2>/dev/null
	wait "$probe_pid" || rc=$?
	cat "$dir/death"
	[ $rc = 0 ] && grep -q '^ok - the device died under load' "$dir/death"
}
check "kill -9 of the server: every operation ends once, with -ENODEV" server_dies

# ---- the commands -----------------------------------------------------------------------------------------

info_says()
{
	run 0 info "$1" && grep -q '^SVA: native: simulated device' "$dir/out" || { cat "$dir/out"; return 1; }
	run 0 info "$1" --json && judge "$dir/out" 'sva["mode"] == "native"' 'sva["pasid_bits"] > 0' 'sva["simulated"]'
}
check "svio info says native, and that it is simulated" info_says sim:dsa
info_no() { run 0 info sim:nvme --json && judge "$dir/out" 'sva["mode"] == "identity"' 'sva["why"]'; }
check "svio info of a device without PASIDs says identity, and why" info_no

head -c 3000001 /dev/urandom >"$dir/a"
copy() { run 0 copy "$@" "$dir/b" && cmp "$dir/a" "$dir/b" && [ "$(ls "$dir" | grep -c '^b')" = 1 ]; }
check "svio copy" copy sim:dsa "$dir/a"
check "svio copy without PASIDs, by registered memory" copy sim:dsa,nopasid "$dir/a"
crc()
{
	local want
	want=$(python3 - "$dir/a" <<'PY'
import sys
t = []
for n in range(256):
    for _ in range(8): n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
    t.append(n)
c = 0xffffffff
for b in open(sys.argv[1], "rb").read(): c = c >> 8 ^ t[(c ^ b) & 255]
print("%08x" % (c ^ 0xffffffff))
PY
	)
	run 0 crc sim:dsa "$dir/a" && [ "$(cut -d ' ' -f 1 "$dir/out")" = "$want" ] || { echo "expected $want"; cat "$dir/out"; return 1; }
	run 0 crc sim:dsa "$dir/a" --json && judge "$dir/out" "crc32c == '0x$want'" 'bytes == 3000001' 'mode == "native"' 'simulated'
}
check "svio crc, against a table in Python" crc
refusals()
{
	: >"$dir/empty"
	run 0 copy sim:dsa "$dir/empty" "$dir/e" && [ -e "$dir/e" ] && [ ! -s "$dir/e" ] || return 1
	run 1 copy sim:dsa "$dir/none" "$dir/e2" && says "No such file" && [ ! -e "$dir/e2" ] || return 1
	run 1 copy sim:dsa "$dir/a" "$dir/no/where" && says "cannot be made" || return 1
	run 1 crc sim:dsa "$dir" && says "no regular file" || return 1
	run 1 crc sim:nvme,size=1M "$dir/a" && says "no Data Streaming Accelerator" || return 1
	run 2 copy sim:dsa "$dir/a" && run 2 crc && run 2 dsa perf sim:dsa --sizes 63 && run 2 dsa perf sim:dsa --memory tape
}
check "files that are empty, absent or no files; wrong usage" refusals
perf_table()
{
	run 0 dsa perf sim:dsa --time 2 --sizes 64,4k,1M --memory malloc,stack,file,huge,registered --json || return 1
	judge "$dir/out" 'r["ok"]' 'wrong == 0' 'len(rows) == 15' \
		'all(x["no_memory"] or x["dsa"]["copies"] and x["dsa_deep"]["copies"] and x["memcpy"]["copies"] for x in rows)' \
		'all(x["no_memory"] or x["memory"] == "registered" or x["map_copy_unmap"].get("copies") for x in rows if x["memory"] in ("malloc", "stack"))'
	run 0 dsa perf sim:dsa --time 1 --sizes 64 --memory malloc --no-map && grep -q 'memcpy GB/s' "$dir/out"
}
check "svio dsa perf: every kind of memory, verified" perf_table

# ---- the README's program -----------------------------------------------------------------------------------

example() { timeout "$limit" "$probes/dsa_copy" sim:dsa >"$dir/out" 2>"$dir/err" && grep -q '^1 MiB, PASID [0-9]*: copied$' "$dir/out" || { cat "$dir/out" "$dir/err"; return 1; }; }
check "the README's program copies between malloced buffers" example
shown()
{
	sed -n '/^int main/,/^}/p' "$top/apps/examples/dsa_copy.c" >"$dir/program"
	python3 - "$top/README.md" "$dir/program" <<'PY'
import sys
readme, program = (open(f).read() for f in sys.argv[1:])
sys.exit(not program or program not in readme)
PY
}
check "it is the program that the README shows" shown
check "a device without native SVA is explained to it" sh -c '! "$0" sim:nvme,size=1M 2>&1 | grep -q "copied" && "$0" sim:nvme,size=1M 2>&1 | grep -q "no native SVA"' "$probes/dsa_copy"
exit $failed
