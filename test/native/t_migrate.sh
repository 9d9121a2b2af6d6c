#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# `svio nvme perf --verify --migratable` moves between processes and between two NVMe models on one file. SVIO_MOVES: how often in a
# row (12; the long run: 100).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/lib_migrate.sh"

moves=${SVIO_MOVES:-12}
truncate -s 64M "$dir/img" "$dir/other"

# The models answer slowly now and then, so that requests are in flight whenever the run is stopped.
slow=(--inject "io:stall=400000:every=25")

one_move()
{
	server a "nguid=$guid" "$dir/img" "${slow[@]}" && server b "nguid=$guid" "$dir/img" "${slow[@]}" || return 1
	source one a --rw randrw --qd 32 --queues 2 --time 600 || return 1
	target one_t b || return 1
	send one "unix:$dir/one_t.mig" --svg "$dir/one.svg" || { cat "$dir/send.err"; return 1; }
	good one "$source" && finish_run one_t && good one_t "$target" || return 1
	judge "$dir/send.json" 'r["ok"]' 'phase == "done"' 'downtime_us > 0' 'len(r["rounds"]) >= 2' 'shared_bytes == (pages - zero_pages) * 4096' &&
		judge "$dir/one.out" 'r["moved"]' &&
		judge "$dir/one_t.out" "${proved[@]}" 'moves == 1' &&
		grep -q '<polyline' "$dir/one.svg"
}

# many_moves WAY TIMES EXPRESSION...
many_moves()
{
	local way=$1 times=$2
	shift 2
	source "$way" a --rw randrw --qd 32 --queues 2 --time 3600 --by $way || return 1
	hops "$way" $way "$times" a b && judge "$dir/$last.out" "${proved[@]}" "moves == $times" "$@"
}

# The same with the pages in the stream, as between two machines: what the device writes meanwhile arrives torn, and comes again.
through_the_stream()
{
	local way=$1 times=$2
	source "stream_$way" a --rw randrw --qd 32 --queues 2 --time 3600 --by $way || return 1
	hops "stream_$way" $way "$times" a b --no-share && judge "$dir/$last.out" "${proved[@]}" "moves == $times" &&
		judge "$dir/send.json" 'shared_bytes == 0' 'wire_bytes > (pages - zero_pages) * 4096'
}

two_ways()
{
	source way a --rw randrw --qd 8 --time 600 --by state || return 1
	target way_t b || return 1
	! send way "unix:$dir/way_t.mig" && judge "$dir/send.json" '"way" in [d["field"] for d in differences]' &&
		finish_run way && good way "$source" && judge "$dir/way.out" "${proved[@]}" 'moves == 0'
}

by_tcp_packed()
{
	local port=$((20000 + RANDOM % 20000))
	source tcp a --rw randrw --qd 32 --time 600 || return 1
	background tcp_t "$svio" migrate listen --device "user:$dir/b.sock" --addr "tcp:127.0.0.1:$port" --json --control "$dir/tcp_t.ctl"
	target=$bg
	wait_for "grep -q listening $dir/tcp_t.err || ! running $target" || return 1
	send tcp "tcp:127.0.0.1:$port" --compress --max-bandwidth 50M || { cat "$dir/send.err" "$dir/tcp_t.err"; return 1; }
	judge "$dir/send.json" 'shared_bytes == 0' && good tcp "$source" && finish_run tcp_t && good tcp_t "$target" && judge "$dir/tcp_t.out" "${proved[@]}" 'moves == 1'
}

by_pipe()
{
	local rc=0
	mkfifo "$dir/there" "$dir/back"
	source pipe a --rw randrw --qd 16 --time 600 || return 1
	timeout -k 1 "$limit" "$svio" migrate listen --device "user:$dir/b.sock" --addr stdio --control "$dir/pipe_t.ctl" <"$dir/there" >"$dir/back" 2>"$dir/pipe_t.err" &
	target=$!
	started+=("$target")
	timeout -k 1 "$limit" "$svio" migrate send --control "$dir/pipe.ctl" --addr stdio >"$dir/there" <"$dir/back" 2>"$dir/send.err" || rc=$?
	[ $rc = 0 ] || { cat "$dir/send.err" "$dir/pipe_t.err"; return 1; }
	good pipe "$source" && finish_run pipe_t && wait "$target" && complaints "$dir/pipe_t.err"
}

by_lease()
{
	source lease a --rw randrw --qd 32 --time 600 || return 1
	target lease_t b --lease "$dir/lease" || return 1
	send lease "unix:$dir/lease_t.mig" --lease "$dir/lease" --no-share || { cat "$dir/send.err"; return 1; }
	judge "$dir/send.json" 'shared_bytes == 0' 'wire_bytes > (pages - zero_pages) * 4096' && good lease "$source" && finish_run lease_t && good lease_t "$target" && judge "$dir/lease_t.out" "${proved[@]}" 'moves == 1'
}

# Refused before the first byte, with the fields; told by check, and by send.
refused()
{
	server stranger nguid=ffeeddccbbaa99887766554433221100 "$dir/other" --queues 1 || return 1
	source no a --rw randrw --qd 8 --queues 2 --time 600 || return 1
	target no_t stranger || return 1
	local no=$target
	target yes_t b || return 1
	local rc=0
	timeout "$limit" "$svio" migrate check "$dir/no.ctl" "unix:$dir/no_t.mig" "unix:$dir/yes_t.mig" --json >"$dir/check.json" || rc=$?
	[ $rc = 1 ] || { echo "check: exit code $rc"; return 1; }
	python3 - "$dir/check.json" <<'PY' || return 1
import json, sys
no, yes = json.load(open(sys.argv[1]))
fields = {d["field"]: d for d in no["differences"]}
assert not no["ok"] and yes["ok"] and not yes["differences"], (no, yes)
assert fields.keys() == {"nvme.namespace.identity", "nvme.queues"}, fields
assert "00112233" in fields["nvme.namespace.identity"]["source"] and "ffeeddcc" in fields["nvme.namespace.identity"]["target"]
assert fields["nvme.queues"]["source"] == "2" and fields["nvme.queues"]["target"] == "1" and fields["nvme.queues"]["hint"]
PY
	! send no "unix:$dir/no_t.mig" || return 1
	kill -TERM "$(child "$target")"
	finish_run no && good no "$source" && judge "$dir/no.out" "${proved[@]}" 'moves == 0' || return 1
	# Who refused goes on listening.
	running "$no" || return 1
	# A source that does not answer has its entry too.
	rc=0
	timeout "$limit" "$svio" migrate check "$dir/nobody.ctl" unix:/x --json >"$dir/check.json" 2>"$dir/check.err" || rc=$?
	[ $rc = 1 ] && grep -q 'no process listens there' "$dir/check.err" &&
		python3 -c 'import json, sys; assert json.load(open(sys.argv[1])) == [{"ok": False, "error": "no answer", "target": "unix:/x"}]' \
			"$dir/check.json"
}

# Killed while it receives: the source goes on, and moves elsewhere afterwards.
target_dies()
{
	local victim
	source dies a --rw randrw --qd 32 --time 600 || return 1
	target dies_1 b || return 1
	victim=$(child "$target")
	# 200 KiB/s: in the middle of the first round for seconds.
	send dies "unix:$dir/dies_1.mig" --max-bandwidth 200K &
	local sender=$!
	wait_for "grep -q . /proc/$victim/net/unix" && sleep 0.5
	kill -KILL "$victim"
	! wait $sender || { echo "send succeeded"; return 1; }
	target dies_2 b || return 1
	send dies "unix:$dir/dies_2.mig" || { cat "$dir/send.err"; return 1; }
	good dies "$source" && finish_run dies_2 && good dies_2 "$target" && judge "$dir/dies_2.out" "${proved[@]}" 'moves == 1'
}

# The same by the one who asked for it: that is no reason to stop.
sender_dies()
{
	source asks a --rw randrw --qd 32 --time 600 || return 1
	target asks_t b || return 1
	timeout "$limit" "$svio" migrate send --control "$dir/asks.ctl" --addr "unix:$dir/asks_t.mig" --max-bandwidth 2M >/dev/null 2>&1 &
	local s=$!
	started+=("$s")
	wait_for "running $s" && sleep 0.2
	kill -KILL "$(child $s)" 2>/dev/null
	good asks "$source" && finish_run asks_t && good asks_t "$target" && judge "$dir/asks_t.out" "${proved[@]}" 'moves == 1'
}

test_of "migrate: a run at depth 32 on two queues moves once; every block verifies" one_move
test_of "migrate: $moves moves in a row, there and back" many_moves driver "$moves" 'requeued > 0'
test_of "migrate: $moves moves by the controller's own state: nothing is sent again, no reset" many_moves state "$moves" \
	'requeued == 0' 'resets == 0'
test_of "migrate: $moves moves with the pages in the stream" through_the_stream driver "$moves"
test_of "migrate: $moves moves with the pages in the stream, by the controller's own state" through_the_stream state "$moves"
test_of "migrate: both sides must move it the same way" two_ways
test_of "migrate: over TCP, packed, within a bandwidth" by_tcp_packed
test_of "migrate: over a pair of pipes" by_pipe
test_of "migrate: by a lease" by_lease
test_of "migrate: what does not fit is refused with its fields before anything moves" refused
test_of "migrate: the target is killed while it receives; the source goes on, and moves elsewhere" target_dies
test_of "migrate: who asked for it is killed; it moves all the same" sender_dies
end_servers
exit $failed
