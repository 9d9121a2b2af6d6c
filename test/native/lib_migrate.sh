# SPDX-License-Identifier: BSD-3-Clause
#
# To be sourced by t_migrate*.sh behind lib.sh: processes that move, and who waits for them. $moves: how many moves one of them makes at most.

# background NAME COMMAND...: its streams are $dir/NAME.out and .err, its process $bg
background()
{
	local name=$1
	shift
	timeout -k 1 $((limit * 2 + ${moves:-0} * 20)) "$@" >"$dir/$name.out" 2>"$dir/$name.err" &
	bg=$!
	started+=("$bg")
	[ "$2" = serve ] || runs+=("$bg")
}
# child PID: of timeout(1)
child() { local c; c=$(cat "/proc/$1/task/$1/children" 2>/dev/null); echo "${c%% *}"; }
# serving NAME MODEL ARGS...: a server; never two of one name
serving()
{
	local name=$1
	shift
	background "$name" "$svio" serve "$@" --socket "$dir/$name.sock"
	servers+=("$bg")
	wait_for "grep -q '^serving ' $dir/$name.out || ! running $bg" && grep -q '^serving ' "$dir/$name.out"
}
servers=()
end_servers()
{
	local s
	for s in "${servers[@]}"; do kill -TERM "$s" 2>/dev/null; wait "$s" 2>/dev/null; done
	servers=()
}
# moving NAME COMMAND...: a run that can move; in $source
moving()
{
	local name=$1
	shift
	background "$name" "$svio" "$@" --json --migratable="$dir/$name.ctl"
	source=$bg
	wait_for "[ -S $dir/$name.ctl ] || ! running $bg" && [ -S "$dir/$name.ctl" ] || { cat "$dir/$name.err"; return 1; }
}
# target NAME DEVICE ARGS...: who waits for one; in $target
target()
{
	local name=$1 device=$2
	shift 2
	background "$name" "$svio" migrate listen --device "user:$dir/$device.sock" --addr "unix:$dir/$name.mig" --json \
		--control "$dir/$name.ctl" "$@"
	target=$bg
	wait_for "[ -S $dir/$name.mig ] || ! running $bg" && [ -S "$dir/$name.mig" ] || { cat "$dir/$name.err"; return 1; }
}
# send FROM TO ARGS...: the command; its JSON is $dir/send.json
send()
{
	local from=$1 to=$2 rc=0
	shift 2
	timeout -k 1 "$limit" "$svio" migrate send --control "$dir/$from.ctl" --addr "$to" --json "$@" >"$dir/send.json" \
		2>"$dir/send.err" || rc=$?
	complaints "$dir/send.err" || return 1
	return $rc
}
# good NAME PID: a process ended with 0 and without a sanitizer's words
good()
{
	local rc=0
	wait "$2" || rc=$?
	complaints "$dir/$1.err" || return 1
	[ $rc = 0 ] || { echo "$1: exit code $rc"; cat "$dir/$1.out" "$dir/$1.err"; return 1; }
}

# finish NAME: it ends well, now
finish_run()
{
	wait_for "[ -S $dir/$1.ctl ]" || return 1
	python3 - "$dir/$1.ctl" <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"command":"finish"}\n')
assert b'"ok":true' in s.recv(4096).replace(b" ", b"")
PY
}
# After a test: what it left is not in the way of the next.
end_runs()
{
	local p
	for p in "${runs[@]}"; do running "$p" && kill -KILL "$(child "$p")" "$p" 2>/dev/null; done
	runs=()
}
runs=()
test_of() { check "$@"; end_runs; }


# hops NAME WAY TIMES HERE THERE: the run NAME, whose process is $source, between two devices, back and forth. $last: its name then; it ended well.
hops()
{
	local from=$1 name=$1 way=$2 times=$3 here=$4 there=$5 before=$source i
	for ((i = 1; i <= times; i++)); do
		local to=${name}_hop$i
		target "$to" "$there" --by "$way" || return 1
		send "$from" "unix:$dir/$to.mig" || { cat "$dir/send.err"; cat "$dir/$from.err"; return 1; }
		good "$from" "$before" || return 1
		before=$target from=$to
		local swap=$here
		here=$there there=$swap
	done
	last=$from
	finish_run "$from" && good "$from" "$before"
}
