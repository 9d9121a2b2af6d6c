#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# kill -9 of the server and of the client, under load and often; what remains, and who comes next.
# `t_death.sh short` is a subset, for slow builds.
set -u
. "$(dirname "$0")/lib.sh"
short=${1:-} cycles=1000 kills=5
[ "$short" != short ] || cycles=100 kills=2

# client ARGUMENTS...: perf in the background, until requests complete; process $client is timeout(1), $perf_pid perf itself
client()
{
	local name=client
	rm -f "$dir/client.err"
	timeout -k 1 "$limit" "$svio" nvme perf "$@" --rw randrw --verify --print-ready READY --json >"$dir/$name.out" 2>"$dir/$name.err" &
	client=$!
	started+=("$client")
	wait_for "grep -q READY $dir/$name.err || ! running $client" || return 1
	perf_pid=$(cat "/proc/$client/task/$client/children" 2>/dev/null)
	perf_pid=${perf_pid%% *}
	[ -n "$perf_pid" ] || { cat "$dir/$name.err"; return 1; }
	started+=("$perf_pid")
}
client_ends() # EXIT_CODE
{
	local rc=0
	wait "$client" || rc=$?
	complaints "$dir/client.err" || return 1
	[ $rc = "$1" ] || { echo "exit code $rc, expected $1"; cat "$dir/client.out" "$dir/client.err"; return 1; }
}

# The memory that a client shares is a memfd called svio-node<N>; the server must not hold on to it.
holds_memory() { grep -q 'svio-node' "/proc/$pid/maps" || ls -l "/proc/$pid/fd" | grep -q svio-node; }

# ---- the server dies -----------------------------------------------------------------------------------

server_dies()
{
	serve a nvme --size 64M --socket "$dir/s" && client "user:$dir/s" --qd 32 --queues 2 --time 600 || return 1
	kill -KILL "$pid"
	wait "$guard"
	client_ends 1 || return 1
	grep -q "unplugged, or its server died" "$dir/client.err" || { cat "$dir/client.err"; return 1; }
	# All of its requests have ended, those in flight with -ENODEV, and nothing else went wrong.
	judge "$dir/client.out" 'lost == 0' 'r["double"] == 0' 'verify_errors == 0' 'submitted == completed_ok + completed_err' \
		'all(e["status"] == -19 for e in errors)' 'devices_gone == 1'
}
check "the server dies under load: the client says so and ends" server_dies
check "the next server takes the place" serve a nvme --size 64M --socket "$dir/s"
check "and serves" perf 0 "user:$dir/s" --rw randrw --verify --time 1 -- "${proved[@]}"
check "it ends in order" stop a

server_sleeping_dies()
{
	serve b nvme --size 64M --interrupt --socket "$dir/s" && client "user:$dir/s" --qd 8 --interrupt --time 600 || return 1
	kill -KILL "$pid"
	wait "$guard"
	client_ends 1 && judge "$dir/client.out" 'lost == 0' 'submitted == completed_ok + completed_err' 'devices_gone == 1'
}
check "a server that sleeps dies, with a client that sleeps" server_sleeping_dies

# Stopped, it is there and does nothing: only time tells. The probe's own lines; then the server goes on, and finds its client gone.
server_hangs()
{
	local rc=0
	serve h nvme --size 64M --socket "$dir/s" "$@" || return 1
	timeout -k 1 "$limit" "$probes/hang_probe" "user:$dir/s" "$pid" sim:nvme,size=16M 2>"$dir/err" || rc=$?
	kill -CONT "$pid"
	[ $rc = 0 ] || { cat "$dir/err"; return 1; }
	complaints "$dir/err" && says "the server did not answer request" && wait_for "! holds_memory" || return 1
	perf 0 "user:$dir/s" --rw randrw --verify --time 1 -- "${proved[@]}" && stop h
}
hung() { server_hangs "$@" >"$dir/hung"; local rc=$?; cat "$dir/hung"; return $rc; }
hung || { echo "not ok - a server that hangs"; failed=1; }
hung --interrupt || { echo "not ok - a server that hangs, and would sleep"; failed=1; }

# The file is what remains: the same namespace is back, and has every block that was acknowledged.
replug()
{
	truncate -s 64M "$dir/a.img"
	serve c nvme --file "$dir/a.img" --socket "$dir/s" || return 1
	client "user:$dir/s" --qd 32 --time 4 --wait-replug --range 0:16384 || return 1
	kill -KILL "$pid"
	wait "$guard"
	wait_for "grep -q 'waiting for' $dir/client.err || ! running $client" || return 1
	serve c nvme --file "$dir/a.img" --socket "$dir/s" || return 1
	client_ends 0 || return 1
	grep -q "the same namespace is back" "$dir/client.err" || { cat "$dir/client.err"; return 1; }
	judge "$dir/client.out" 'r["ok"]' 'lost == 0' 'r["double"] == 0' 'verify_errors == 0' 'devices_gone == 1' \
		'verify["read_back"]' 'verify["places_read_back"] == verify["places_written"]' || return 1
	stop c
}
check "a client waits for the next server, and finds all its data" replug

# ---- the client dies -----------------------------------------------------------------------------------

client_dies() # SERVER
{
	client "user:$dir/s" --qd 32 --queues 2 --time 600 || return 1
	holds_memory || { echo "the server has no memory of the client: this test sees nothing"; cat "/proc/$pid/maps"; return 1; }
	kill -KILL "$perf_pid"
	wait "$client"
	wait_for "! holds_memory"
}
clients_die()
{
	local i fds maps
	serve d nvme --size 64M "$@" --socket "$dir/s" || return 1
	perf 0 "user:$dir/s" --rw randrw --verify --time 1 --queues 2 -- "${proved[@]}" || return 1
	wait_for "! holds_memory" || return 1
	fds=$(fds_of "$pid") maps=$(maps_of "$pid")
	for ((i = 0; i < kills; i++)); do
		client_dies || return 1
		perf 0 "user:$dir/s" --rw randrw --verify --time 1 --queues 2 -- "${proved[@]}" || return 1
	done
	wait_for "! holds_memory" || return 1
	[ "$(fds_of "$pid")" = "$fds" ] || { echo "$fds descriptors before"; ls -l "/proc/$pid/fd"; return 1; }
	[ "$(maps_of "$pid")" -le $((maps + 2)) ] || { echo "$maps mappings before"; cat "/proc/$pid/maps"; return 1; }
	stop d || return 1
	[ "$(counter d disconnects)" = $((2 * kills + 1)) ] && [ "$(counter d protocol_errors)" = 0 ] || { cat "$dir/d.out" "$dir/d.err"; return 1; }
}
check "clients die under load: the server lets go of their memory and serves the next" clients_die
check "the same of a server that sleeps" clients_die --interrupt

# ---- again and again -----------------------------------------------------------------------------------

cycle()
{
	local fds maps rss grown
	serve e nvme --size 16M --socket "$dir/s" || return 1
	"$probes/cycle_probe" "user:$dir/s" 100 >/dev/null || return 1
	fds=$(fds_of "$pid") maps=$(maps_of "$pid") rss=$(rss_of "$pid")
	timeout -k 1 $((limit * 3)) "$probes/cycle_probe" "user:$dir/s" $cycles || return 1
	wait_for "[ \$(fds_of $pid) = $fds ]" || { echo "$fds descriptors before"; ls -l "/proc/$pid/fd"; return 1; }
	grown=$(($(rss_of "$pid") - rss))
	# The allocators of sanitizers keep what is freed; they look for leaks at the end.
	[ "$short" = short ] || { [ "$(maps_of "$pid")" = "$maps" ] && [ $grown -le 256 ]; } || { echo "mappings $maps, $(maps_of "$pid"); KiB $rss + $grown"; return 1; }
	stop e && [ "$(counter e connects)" = $((cycles + 200)) ] && [ "$(counter e protocol_errors)" = 0 ]
}
check "$cycles connections leave no descriptor, mapping or memory on either side" cycle
"$probes/cycle_probe" sim:nvme,size=1M $((cycles / 5)) || failed=1
exit $failed
