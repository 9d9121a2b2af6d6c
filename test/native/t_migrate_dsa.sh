#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# `svio dsa perf --verify --migratable` on plain pointers moves between processes and between two DSA models, by the driver and by the
# device's own state. SVIO_MOVES: how often in a row (4, and 2 by the state; the long run: 100).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/lib_migrate.sh"

moves=${SVIO_MOVES:-4}
few=${SVIO_MOVES:-2}
# Every operation has completed once, and was checked.
sound=('ok' 'completed == submitted' 'verified == completed' 'verified > 0' 'wrong == 0' 'errors == 0' 'lost == 0' 'doubled == 0'
	'canceled == 0' 'all(n > 0 for n in kinds.values())')
run=(--verify --sizes 256k --depth 32 --queues 2)

# So slow that much is in flight whenever the run is stopped.
slow=dsa,slow=1000

# source NAME DEVICE ARGS...
source()
{
	local name=$1 device=$2
	shift 2
	moving "$name" dsa perf "$device" "${run[@]}" --time 3600000 "$@"
}

# many_moves NAME WAY TIMES HERE THERE EXPRESSION...
many_moves()
{
	local name=$1 way=$2 times=$3 from=$4 to=$5
	shift 5
	source "$name" "user:$dir/$from.sock" --by $way || return 1
	hops "$name" $way "$times" "$from" "$to" "${through[@]}" && judge "$dir/$last.out" "${sound[@]}" "moves == $times" "$@"
}

through=()
# As between two machines, the pages in the stream.
stream_moves()
{
	local through=(--no-share)
	many_moves "$@" && judge "$dir/send.json" 'shared_bytes == 0'
}

# A model in a thread of the process itself, and no server at all.
within()
{
	source within sim:dsa || return 1
	background within_t "$svio" migrate listen --device sim:dsa,wqs=2 --addr "unix:$dir/within_t.mig" --json --control "$dir/within_t.ctl"
	target=$bg
	wait_for "[ -S $dir/within_t.mig ] || ! running $bg" || return 1
	send within "unix:$dir/within_t.mig" || { cat "$dir/send.err" "$dir/within_t.err"; return 1; }
	good within "$source" && finish_run within_t && good within_t "$target" &&
		judge "$dir/within_t.out" "${sound[@]}" 'moves == 1' 'mode == "native"'
}

# Compared before the first byte: fewer entries, shorter transfers, registered memory only.
refused()
{
	serving small dsa,size=16,max_xfer=64K,nopasid || return 1
	source no "user:$dir/a.sock" || return 1
	target no_t small || return 1
	! send no "unix:$dir/no_t.mig" || { echo "send succeeded"; return 1; }
	judge "$dir/send.json" 'not ok' '{d["field"] for d in differences} == {"dsa.queue_depth", "dsa.max_transfer", "dsa.native"}' || return 1
	kill -TERM "$(child "$target")"
	finish_run no && good no "$source" && judge "$dir/no.out" "${sound[@]}" 'moves == 0'
}

# 200 operations a second, by a model that takes so long, and not by how fast this machine is; all 1.3 MiB of 16 requests are written ten times a
# second, and 2 MiB/s get across. Slowed down to a twentieth, less than a round's.
throttled()
{
	local run=(--verify --sizes 16k --depth 8 --queues 2)
	serving slow dsa,slow=20000 && source slows "user:$dir/slow.sock" || return 1
	target slows_t b || return 1
	! send slows "unix:$dir/slows_t.mig" "${narrow[@]}" || { echo "it moved"; return 1; }
	judge "$dir/send.json" '"does not converge" in error' 'throttle == 0' || return 1
	send slows "unix:$dir/slows_t.mig" "${narrow[@]}" --throttle || { cat "$dir/send.err"; return 1; }
	good slows "$source" && finish_run slows_t && good slows_t "$target" && judge "$dir/send.json" 'throttle >= 20' &&
		judge "$dir/slows_t.out" "${sound[@]}" 'moves == 1'
}
narrow=(--max-bandwidth 2M --max-downtime 100 --max-rounds 60)

# Killed while it receives: the source goes on, and moves elsewhere afterwards.
target_dies()
{
	source dies "user:$dir/a.sock" || return 1
	target dies_1 b || return 1
	send dies "unix:$dir/dies_1.mig" --max-bandwidth 500K &
	local sender=$!
	sleep 0.5
	kill -KILL "$(child "$target")"
	! wait $sender || { echo "send succeeded"; return 1; }
	target dies_2 b || return 1
	send dies "unix:$dir/dies_2.mig" || { cat "$dir/send.err"; return 1; }
	good dies "$source" && finish_run dies_2 && good dies_2 "$target" && judge "$dir/dies_2.out" "${sound[@]}" 'moves == 1'
}

# ---- devices that fail in the middle of a move (apps/svio/move_stage.h) -------------------------------------------

# disturbed WAY AT AT_TARGET: it moves; or it says why not, goes on, and moves to another target. Exactly one runs, and every result is right.
disturbed()
{
	local way=$1 last=fault_t
	at=$2 at_target=$3
	source fault "user:$dir/a.sock" --by "$way" && target fault_t b --by "$way" || return 1
	local first=$target
	if send fault "unix:$dir/fault_t.mig" --timeout 4000; then
		[ -z "$at_target" ] || said "$at_target" fault_t || return 1
	else
		judge "$dir/send.json" 'not r["ok"]' 'phase == "failed"' 'len(error) > 10' || return 1
		at="" at_target="" last=again
		target again c_ok --by "$way" && send fault "unix:$dir/again.mig" || { cat "$dir/send.err" "$dir/fault.err"; return 1; }
	fi
	[ -z "$2" ] || said "${2%%,*}" fault || return 1
	at="" at_target=""
	good fault "$source" && finish_run "$last" && good "$last" "$target" && judge "$dir/$last.out" "${sound[@]}" 'moves == 1' || return 1
	! running "$first" || kill -TERM "$(child "$first")"
}
fresh()
{
	end_servers a b
	serving a "$slow" && serving b "$slow"
}
# unplugged WHO STAGE WAY: the model of the source or of the target dies there, and not before
unplugged()
{
	local who=$1 way=$3 point=$dir/point gone=a
	at="" at_target=""
	[ $who = source ] && at=$2:wait=$point || { at_target=$2:wait=$point; gone=b; }
	source gone "user:$dir/a.sock" --by "$way" && target gone_t b --by "$way" || return 1
	at="" at_target=""
	send gone "unix:$dir/gone_t.mig" --timeout 4000 &
	local sender=$! moved=true
	wait_for "[ -e $point ] || ! running $sender" && [ -e "$point" ] || { echo "the point did not come"; return 1; }
	kill -KILL "$(child "${servers[$gone]}")"
	wait "${servers[$gone]}" 2>/dev/null
	unset "servers[$gone]"
	rm -f "$point"
	wait $sender || moved=false
	if $moved; then # all that the source's device had to say was heard
		[ $who = source ] || { echo "it moved to a device that is gone"; return 1; }
		good gone "$source" && finish_run gone_t && good gone_t "$target" && judge "$dir/gone_t.out" "${sound[@]}" 'moves == 1'
	elif [ $who = source ]; then # nobody can go on; it says so, and no result is wrong or came twice
		local rc=0
		wait "$source" || rc=$?
		complaints "$dir/gone.err" || return 1
		[ $rc = 1 ] && judge "$dir/gone.out" 'not r["ok"]' 'wrong == 0' 'doubled == 0' 'moves == 0'
	else # the source works on, to a good end: what was in flight completes where it is
		finish_run gone && good gone "$source" && judge "$dir/gone.out" "${sound[@]}" 'moves == 0'
	fi
}

check "migrate dsa: servers start" eval 'serving a $slow && serving b $slow && serving c $slow,nopasid && serving d $slow,nopasid'
test_of "migrate dsa: plain pointers, $moves moves in a row, there and back; every result is checked" \
	many_moves native driver "$moves" a b 'requeued > 0' 'mode == "native"'
test_of "migrate dsa: $few moves by the device's own state: nothing is sent again, no reset" \
	many_moves state state "$few" a b 'requeued == 0' 'resets == 0' 'mode == "native"'
test_of "migrate dsa: plain pointers, $moves moves with the pages in the stream" stream_moves nstream driver "$moves" a b 'mode == "native"'
test_of "migrate dsa: $few moves with the pages in the stream, by the device's own state" stream_moves sstream state "$few" a b 'mode == "native"'
test_of "migrate dsa: registered memory, by the driver" many_moves id driver "$moves" c d 'requeued > 0' 'mode == "identity"'
test_of "migrate dsa: registered memory, by the device's own state" many_moves idstate state "$few" c d 'requeued == 0' 'mode == "identity"'
test_of "migrate dsa: between models in the processes themselves" within
test_of "migrate dsa: what does not fit is refused with its fields" refused
test_of "migrate dsa: what does not converge, slowed down, moves" throttled
test_of "migrate dsa: the target is killed while it receives; the source goes on, and moves elsewhere" target_dies
serving c_ok "$slow"
for way in driver state; do
	check "migrate dsa: by $way, servers start afresh" fresh # the last test took one away
	for stage in before frozen saved; do
		test_of "migrate dsa: by $way, the source's device is reset: $stage" disturbed $way $stage:reset ""
	done
	test_of "migrate dsa: by $way, the source's device is disabled while it is saved, and comes back" disturbed $way frozen:off,back:on ""
	for stage in loading loaded running; do
		test_of "migrate dsa: by $way, the target's device is reset: $stage" disturbed $way "" $stage:reset
	done
	for who in "source frozen" "source saved" "target loading" "target loaded"; do
		test_of "migrate dsa: by $way, unplugged: $who" eval "fresh && unplugged $who $way"
	done
done
end_servers
exit $failed
