# SPDX-License-Identifier: BSD-3-Clause
#
# To be sourced by t_migrate*.sh behind lib.sh: processes that move, and who waits for them. $moves: how many moves one of them makes at most.

# NVMe models of one file (truncate it) are one namespace.
guid=00112233445566778899aabbccddeeff

# background NAME COMMAND...: its streams are $dir/NAME.out and .err, its process $bg
background()
{
	local name=$1
	shift
	timeout -k 1 $((limit * ${patience:-2} + ${moves:-0} * 20)) "$@" >"$dir/$name.out" 2>"$dir/$name.err" &
	bg=$!
	started+=("$bg")
	[ "$2" = serve ] || runs+=("$bg")
}
# child PID: of timeout(1)
child() { local c; c=$(cat "/proc/$1/task/$1/children" 2>/dev/null); echo "${c%% *}"; }
# serving NAME MODEL ARGS...: a server; never two of one name
serving()
{
	local name=$1 patience=30 # it serves many tests
	shift
	rm -f "$dir/$name.out" "$dir/$name.sock" # of one that was killed
	background "$name" "$svio" serve "$@" --socket "$dir/$name.sock"
	servers[$name]=$bg
	wait_for "grep -qs '^serving ' $dir/$name.out || ! running $bg" && grep -q '^serving ' "$dir/$name.out"
}
# server NAME OPTIONS FILE [ARGS...]: an NVMe model
server()
{
	local name=$1 options=$2 file=$3
	shift 3
	serving "$name" "nvme,shared,$options" --file "$file" "$@"
}
declare -A servers
# end_servers [NAME...]: all of them
end_servers()
{
	local s
	[ $# -gt 0 ] || set -- "${!servers[@]}"
	for s; do
		[ -n "${servers[$s]-}" ] || continue
		kill -TERM "${servers[$s]}" 2>/dev/null
		wait "${servers[$s]}" 2>/dev/null
		unset "servers[$s]"
	done
}
# device NAME: of a server, or sim:… as it is
device() { case $1 in sim:*) echo "$1" ;; *) echo "user:$dir/$1.sock" ;; esac; }
# What shall happen at which point of a move (apps/svio/move_stage.h), of the source and of the target.
at="" at_target=""
# said STAGE:ACTION NAME: it happened
said() { grep -q "test: $1$" "$dir/$2.err" || { echo "$1 did not happen"; cat "$dir/$2.err"; return 1; }; }
# moving NAME COMMAND...: a run that can move; in $source
moving()
{
	local name=$1
	shift
	rm -f "$dir/$name.ctl" "$dir/$name.mig" # of one that was killed
	background "$name" env ${at:+"SVIO_MOVE_AT=$at"} "$svio" "$@" --json --migratable="$dir/$name.ctl"
	source=$bg
	wait_for "[ -S $dir/$name.ctl ] || ! running $bg" && [ -S "$dir/$name.ctl" ] || { cat "$dir/$name.err"; return 1; }
}
# source NAME DEVICE ARGS...: the same, of `svio nvme perf`
source()
{
	local name=$1 device=$2
	shift 2
	moving "$name" nvme perf "$(device "$device")" --verify --force "$@"
}
# target NAME DEVICE ARGS...: who waits for one; in $target
target()
{
	local name=$1 device=$2
	shift 2
	rm -f "$dir/$name.ctl" "$dir/$name.mig"
	background "$name" env ${at_target:+"SVIO_MOVE_AT=$at_target"} "$svio" migrate listen --device "$(device "$device")" \
		--addr "unix:$dir/$name.mig" --json --control "$dir/$name.ctl" "$@"
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
# SVIO_ONLY: a pattern of names
test_of() { [[ $1 =~ ${SVIO_ONLY-} ]] || return 0; check "$@"; end_runs; }

# hops NAME WAY TIMES HERE THERE [SEND_ARGS...]: the run NAME, whose process is $source, between two devices, back and forth. $last: its name
# then; it ended well.
hops()
{
	local from=$1 name=$1 way=$2 times=$3 here=$4 there=$5 before=$source i
	shift 5
	for ((i = 1; i <= times; i++)); do
		local to=${name}_hop$i
		target "$to" "$there" --by "$way" || return 1
		send "$from" "unix:$dir/$to.mig" "$@" || { cat "$dir/send.err"; cat "$dir/$from.err"; return 1; }
		good "$from" "$before" || return 1
		before=$target from=$to
		local swap=$here
		here=$there there=$swap
	done
	last=$from
	finish_run "$from" && good "$from" "$before"
}
