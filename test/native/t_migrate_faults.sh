#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Devices that are reset, disabled or unplugged in the middle of a move, at each of its stages; Ctrl-C on each side; a target without
# memory. In every case exactly one side runs, and every block verifies. Stages: apps/svio/move_stage.h.
#
#	t_migrate_faults.sh [all]
#
# Without `all` (or SVIO_MOVES) each fault comes at each stage, but not in each way on each device.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$here/lib_migrate.sh"

all=${SVIO_MOVES:+all}
all=${1:-$all}
truncate -s 64M "$dir/img"

# The models answer slowly now and then, so that requests are in flight whenever the run is stopped.
slow=(--inject "io:stall=100000:every=25")
load=(--rw randrw --qd 16 --queues 2 --time 600 --range 0:16384)
sim="sim:nvme,shared,nguid=$guid,file=$dir/img,inject=io:stall=100000:every=25"
way=driver a=a b=b

model() { server "$1" "nguid=$guid" "$dir/img" "${slow[@]}"; }
# fresh: both models, whatever became of them
fresh()
{
	end_servers a b
	model a && model b
}
# One that nothing happens to.
even() { [ -n "${servers[even]-}" ] || server even "nguid=$guid" "$dir/img" --inject io:stall=20000; }
# begin: source and target; NAME and NAME_t
begin()
{
	source run "$a" "${load[@]}" --by $way "${more[@]}" && target run_t "$b" --by $way "${more_t[@]}" || models
}
more=() more_t=()
# What the models said, and whether they live: for a test that fails.
models() { local s; for s in "${!servers[@]}"; do running "${servers[$s]}" || echo "model $s has ended"; done; cat "$dir/a.err" "$dir/b.err"; false; }
# moves AT AT_TARGET [EXPRESSION…]: it moves all the same
moves()
{
	at=$1 at_target=$2
	shift 2
	begin || return 1
	send run "unix:$dir/run_t.mig" || { cat "$dir/send.err" "$dir/run.err" "$dir/run_t.err"; return 1; }
	good run "$source" && finish_run run_t && good run_t "$target" && judge "$dir/run.out" 'r["moved"]' &&
		judge "$dir/run_t.out" "${proved[@]}" 'moves == 1' "$@" || { cat "$dir/run_t.err"; return 1; }
	happened
}
happened()
{
	local one
	for one in ${at//,/ }; do said "$one" run || return 1; done
	for one in ${at_target//,/ }; do said "$one" run_t || return 1; done
}
# stays AT AT_TARGET WHY [EXPRESSION…]: it does not move, says why, and goes on; afterwards it moves to another target
stays()
{
	at=$1 at_target=$2
	local why=$3
	shift 3
	begin || return 1
	! send run "unix:$dir/run_t.mig" --timeout 4000 || { echo "it moved"; return 1; }
	judge "$dir/send.json" 'not r["ok"]' 'phase == "failed"' && grep -q "$why" "$dir/send.err" || { cat "$dir/send.err"; return 1; }
	at="" at_target=""
	even && target again even --by $way || return 1
	send run "unix:$dir/again.mig" || { cat "$dir/send.err" "$dir/run.err"; return 1; }
	good run "$source" && finish_run again && good again "$target" && judge "$dir/again.out" "${proved[@]}" 'moves == 1' "$@"
}

# either AT AT_TARGET: it moves; or says that the controller cannot be moved right now, and moves later
either()
{
	at=$1 at_target=$2
	begin || return 1
	local moved=true
	send run "unix:$dir/run_t.mig" || moved=false
	happened || return 1
	if $moved; then
		at=run_t
	else
		grep -q 'is being reset\|admin command is under way\|is not live' "$dir/send.err" || { cat "$dir/send.err" "$dir/run.err"; return 1; }
		at="" at_target=""
		even && target again even --by $way && send run "unix:$dir/again.mig" || { cat "$dir/send.err" "$dir/run.err"; return 1; }
		at=again
	fi
	good run "$source" && finish_run "$at" && good "$at" "$target" && judge "$dir/$at.out" "${proved[@]}" 'moves == 1'
}

# ---- the device dies ------------------------------------------------------------------------------------

# Its application is told once, for every request: nothing is lost, doubled, or moved.
stated=('not r["ok"]' 'lost == 0' 'r["double"] == 0' 'verify_errors == 0' 'submitted == completed_ok + completed_err'
	'0 < completed_err <= 32' 'all(e["status"] < 0 for e in errors)' '"gone" in failure' 'devices_gone == 1')
ended_stating()
{
	local rc=0
	wait "$2" || rc=$?
	complaints "$dir/$1.err" || return 1
	[ $rc = 1 ] && [ "$(grep -c 'the device is gone; --wait-replug' "$dir/$1.err")" = 1 ] || { echo "$1: exit code $rc"; cat "$dir/$1.err"; return 1; }
	judge "$dir/$1.out" "${stated[@]}"
}
# The target waits for another source; by state only if its own driver has not been told to let go.
listens() { [ $way = state ] || running "$target" || { echo "the target has ended"; cat "$dir/run_t.err"; return 1; }; }
# at_point COMMAND…: begin to send; when the point has come, do it, and let them go on
at_point()
{
	local point=$dir/point
	begin || return 1
	send run "unix:$dir/run_t.mig" &
	sender=$!
	wait_for "[ -e $point ] || ! running $sender" && [ -e "$point" ] && "$@" && rm -f "$point" || { cat "$dir/send.err" "$dir/run.err" "$dir/run_t.err"; return 1; }
}
kill_model() { kill -KILL "$(child "${servers[$1]}")"; wait "${servers[$1]}" 2>/dev/null; unset "servers[$1]"; }

# source_gone STAGE: it cannot move any more
source_gone()
{
	at=$1:wait=$dir/point at_target=""
	fresh && at_point kill_model a || return 1
	! wait $sender || { echo "it moved"; return 1; }
	ended_stating run "$source" && listens
}
# … or it can: the controller had stopped, and all it had to say was heard
source_gone_late()
{
	at=$1:wait=$dir/point at_target=""
	fresh && at_point kill_model a || return 1
	wait $sender || { cat "$dir/send.err" "$dir/run.err"; return 1; }
	good run "$source" && finish_run run_t && good run_t "$target" && judge "$dir/run_t.out" "${proved[@]}" 'moves == 1'
}
# target_gone STAGE: before it took over
target_gone()
{
	local rc=0
	at="" at_target=$1:wait=$dir/point
	fresh && at_point kill_model b || return 1
	! wait $sender || { echo "it moved"; return 1; }
	finish_run run && good run "$source" && judge "$dir/run.out" "${proved[@]}" 'moves == 0' || return 1
	# Nobody needs a listener without a device.
	wait "$target" || rc=$?
	[ $rc = 1 ] || { echo "the target's exit code is $rc"; return 1; }
}
# target_gone_loaded: in between: whoever notices first decides
target_gone_loaded()
{
	at="" at_target=loaded:wait=$dir/point
	fresh && at_point kill_model b || return 1
	if wait $sender; then
		good run "$source" && ended_stating run_t "$target"
	else
		finish_run run && good run "$source" && judge "$dir/run.out" "${proved[@]}" 'moves == 0'
	fi
}
# … and after: the application there is told
target_gone_late()
{
	at="" at_target=$1:wait=$dir/point
	fresh && at_point kill_model b || return 1
	wait $sender || { cat "$dir/send.err"; return 1; }
	good run "$source" && ended_stating run_t "$target"
}

# The source waits for another device, and moves from there.
source_back()
{
	at="" at_target=""
	source run a "${load[@]}" --wait-replug || return 1
	kill_model a
	wait_for "grep -q 'waiting for' $dir/run.err || ! running $source" && model a &&
		wait_for "grep -q 'the same namespace is back' $dir/run.err || ! running $source" && target run_t b || { cat "$dir/run.err"; return 1; }
	send run "unix:$dir/run_t.mig" || { cat "$dir/send.err" "$dir/run.err"; return 1; }
	good run "$source" && finish_run run_t && good run_t "$target" &&
		judge "$dir/run_t.out" 'lost == 0' 'r["double"] == 0' 'verify_errors == 0' 'moves == 1' 'verify["read_back"]' \
			'verify["places_read_back"] == verify["places_written"]' 'verify["places_written"] > 0'
}

# ---- Ctrl-C ----------------------------------------------------------------------------------------------

# The one who asked thinks better of it: the process stays, and moves another time.
sender_interrupted()
{
	at=$1:wait=$dir/point at_target=""
	begin || return 1
	# In a subshell of a script SIGINT is ignored, and stays so over exec: python gives it back its meaning.
	python3 -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])' \
		"$svio" migrate send --control "$dir/run.ctl" --addr "unix:$dir/run_t.mig" --json >"$dir/send.json" 2>"$dir/send.err" &
	sender=$!
	started+=("$sender")
	wait_for "[ -e $dir/point ]" && kill -INT "$sender" && wait_for "grep -q interrupted $dir/send.err" && rm -f "$dir/point"
	local rc=0
	wait "$sender" || rc=$?
	[ $rc = 1 ] && judge "$dir/send.json" 'not r["ok"]' '"cancelled" in error' || { echo "exit code $rc"; cat "$dir/send.err"; return 1; }
	at=""
	send run "unix:$dir/run_t.mig" || { cat "$dir/send.err"; return 1; }
	good run "$source" && finish_run run_t && good run_t "$target" && judge "$dir/run_t.out" "${proved[@]}" 'moves == 1'
}
# Too late: it says that it moved.
sender_too_late()
{
	at="" at_target=running:wait=$dir/point
	begin || return 1
	python3 -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])' \
		"$svio" migrate send --control "$dir/run.ctl" --addr "unix:$dir/run_t.mig" --json >"$dir/send.json" 2>"$dir/send.err" &
	sender=$!
	started+=("$sender")
	wait_for "[ -e $dir/point ]" && { kill -INT "$sender" 2>/dev/null; rm -f "$dir/point"; }
	wait "$sender" || { cat "$dir/send.err"; return 1; }
	good run "$source" && finish_run run_t && good run_t "$target" && judge "$dir/run_t.out" "${proved[@]}" 'moves == 1'
}
interrupt() { kill -INT "$(child "$1")"; }
interrupt_target() { interrupt "$target"; }
interrupt_source() { interrupt "$source"; }
# The target: the source goes on, and nothing of the target is left.
target_interrupted()
{
	local rc=0
	at=$1 at_target=$2
	at_point interrupt_target || return 1
	! wait $sender || { echo "it moved"; return 1; }
	wait "$target" || rc=$?
	[ $rc = 1 ] && [ ! -e "$dir/run_t.mig" ] && [ ! -e "$dir/run_t.ctl" ] || { echo "exit code $rc, or a socket is left"; return 1; }
	finish_run run && good run "$source" && judge "$dir/run.out" "${proved[@]}" 'moves == 0'
}
# The source itself: it ends in order, here, and the target waits for another.
source_interrupted()
{
	local rc=0
	at=$1:wait=$dir/point at_target=""
	at_point interrupt_source || return 1
	! wait $sender || { echo "it moved"; return 1; }
	wait "$source" || rc=$?
	[ $rc = 1 ] && [ ! -e "$dir/run.ctl" ] && judge "$dir/run.out" "${clean[@]:1}" interrupted 'moves == 0' && listens
}

# ---- memory, addresses, time ------------------------------------------------------------------------------

# Limited when it listens already: what EAL took is not what this is about.
target_limited()
{
	local vm
	at="" at_target=""
	more=(--bs 64k --qd 256) # 32 MiB to move
	begin || return 1
	more=()
	vm=$(sed -n 's/^VmSize:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$(child "$target")/status")
	prlimit --pid "$(child "$target")" --as=$(((vm + 16384) * 1024)):unlimited || return 1
	! send run "unix:$dir/run_t.mig" || { echo "it moved"; return 1; }
	judge "$dir/send.json" '[d for d in differences if d["field"] == "memory" and int(d["target"]) < int(d["source"]) and "ulimit" in d["hint"]]' || return 1
	prlimit --pid "$(child "$target")" --as=unlimited:unlimited
	send run "unix:$dir/run_t.mig" && good run "$source" && finish_run run_t && good run_t "$target" &&
		judge "$dir/run_t.out" "${proved[@]}" 'moves == 1'
}
target_small()
{
	at="" at_target=""
	more_t=(--max-memory 1M)
	begin || return 1
	more_t=()
	! send run "unix:$dir/run_t.mig" || { echo "it moved"; return 1; }
	judge "$dir/send.json" '[d for d in differences if d["field"] == "memory" and d["target"] == "1048576" and "--max-memory" in d["hint"]]' &&
		finish_run run && good run "$source" && judge "$dir/run.out" "${proved[@]}" 'moves == 0'
}

# ---- time --------------------------------------------------------------------------------------------------

# 2 MiB of buffers are written every 20 ms, by a model that takes so long for each request, and not by how fast this machine is. 20 MiB/s get
# across: 100 ms, and 30 are allowed. Slowed down to a twentieth, 5 MiB/s are written.
narrow=(--max-bandwidth 20M --max-downtime 30)
busy=(--rw randwrite --bs 64k --qd 32 --time 600 --range 0:65536)
never_converges()
{
	at="" at_target=""
	even && source run even "${busy[@]}" && target run_t a || return 1
	# A single page may be left.
	! send run "unix:$dir/run_t.mig" --max-bandwidth 4M --max-downtime 1 || { echo "it moved"; return 1; }
	judge "$dir/send.json" 'phase == "failed"' 'downtime_us == 0' 'len(r["rounds"]) > 8' '"does not converge" in error' \
		'"it writes" in error' '"MiB/s get across" in error' '"1 ms allowed" in error' '"throttling" in error' || return 1
	finish_run run && good run "$source" && judge "$dir/run.out" "${proved[@]}" 'moves == 0'
}
throttled()
{
	at="" at_target=""
	even && source run even "${busy[@]}" && target run_t a || return 1
	send run "unix:$dir/run_t.mig" "${narrow[@]}" --max-rounds 60 --throttle || { cat "$dir/send.err"; return 1; }
	good run "$source" && finish_run run_t && good run_t "$target" && judge "$dir/run_t.out" "${proved[@]}" 'moves == 1' &&
		judge "$dir/send.json" 'throttle >= 20' 'rounds[-2]["expected_downtime_us"] <= 30000'
}

# ---- what is told --------------------------------------------------------------------------------------------

report()
{
	at="" at_target=""
	even && source run even "${busy[@]}" && target run_t a || return 1
	send run "unix:$dir/run_t.mig" --max-bandwidth 20M --max-downtime 150 --svg "$dir/rounds.svg" || { cat "$dir/send.err"; return 1; }
	good run "$source" && finish_run run_t && good run_t "$target" || return 1
	judge "$dir/send.json" 'abs(quiesce_us + copy_us + load_us + hand_over_us - downtime_us) <= 4' 'any(k["dirty_rate"] for k in rounds)' 'bandwidth > 0' \
		'sum(k["wire_bytes"] for k in rounds) <= wire_bytes' 'sum(k["pages"] for k in rounds) == pages' 'total_us > downtime_us > 0' \
		'[k["stopped"] for k in rounds] == [False] * (len(rounds) - 1) + [True]' || return 1
	# A line for each round, where there is no terminal.
	[ "$(grep -c 'svio: pre-copy: round' "$dir/send.err")" = "$(python3 -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["rounds"]) - 1)' "$dir/send.json")" ] || { cat "$dir/send.err"; return 1; }
	python3 - "$dir/rounds.svg" "$dir/send.json" <<'PY'
import json, sys, xml.etree.ElementTree as et
n = len(json.load(open(sys.argv[2]))["rounds"])
svg = et.parse(sys.argv[1]).getroot()
ns = "{http://www.w3.org/2000/svg}"
assert svg.tag == ns + "svg"
text = " ".join(t.text for t in svg.iter(ns + "text"))
for name in "round", "time":
    assert len([e for e in svg.iter(ns + "rect") if e.get("class") == name]) == n, name
assert len(list(svg.iter(ns + "circle"))) == 2 * (n - 1)
assert all(w in text for w in ["KiB", "ms", "round", "stop", "memory", "downtime"]), text
w, h = float(svg.get("width")), float(svg.get("height"))
for e in svg.iter(ns + "rect"):
    if e.get("class"):
        x, y, ew, eh = (float(e.get(k)) for k in ("x", "y", "width", "height"))
        assert 0 <= x and x + ew <= w and 0 <= y and eh >= 0 and y + eh <= h, e.attrib
PY
}
# On a terminal: one line, which is written again and again, and is gone at the end.
terminal()
{
	at="" at_target=""
	source run a "${load[@]}" && target run_t b || return 1
	timeout "$limit" python3 - "$dir/tty" "$svio" migrate send --control "$dir/run.ctl" --addr "unix:$dir/run_t.mig" --json <<'PY' || return 1
import os, pty, sys
with open(sys.argv[1], "wb") as log:
    def read(fd):
        data = os.read(fd, 4096)
        log.write(data)
        return data
    sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[2:], read)))
PY
	good run "$source" && finish_run run_t && good run_t "$target" && judge "$dir/run_t.out" "${proved[@]}" 'moves == 1' &&
		grep -q $'\r\e\\[Kpre-copy: round 1, ' "$dir/tty" || { od -c "$dir/tty" | head -40; return 1; }
}

# ---- which, and how --------------------------------------------------------------------------------------------

user_sim=user
# in_way WAY NAME COMMAND...: without `all`: only in this way
in_way()
{
	[ -n "$all" ] || [ "$1" = "$way" ] || return 0
	test_of "migrate $user_sim: by $way: ${@:2:1}" "${@:3}"
}
# always NAME COMMAND..., and with `all` alone:
always() { test_of "migrate $user_sim: by $way: $1" "${@:2}"; }
in_all() { [ -z "$all" ] || always "$@"; }

fresh
for way in driver state; do
	in_way driver "the source's function is reset before the first round" either before:reset ''
	in_way state "the source's function is reset in pre-copy" either round1:reset ''
	in_way driver "the target's function is reset when it runs" moves '' running:reset 'resets > 0'
	in_way state "the target's memory is off when it runs, and on again" moves '' running:off,running:on
	in_way state "the source is gone before the first round" source_gone before
	in_way driver "the source is gone in pre-copy" source_gone round1
	in_way state "the source is gone in stop-and-copy" source_gone frozen
	in_way driver "the source is gone when all was said: it moves" source_gone_late saved
	in_way state "the target is gone before it loads: the source goes on" target_gone loading
	in_way driver "the target is gone when it runs: told there, once" target_gone_late running
	fresh
	in_way state "Ctrl-C at the target in pre-copy: the source goes on" target_interrupted "round1:wait=$dir/point" ''
	in_way driver "Ctrl-C at the target while it loads" target_interrupted '' "loading:wait=$dir/point"
	in_way state "Ctrl-C at the source in stop-and-copy: it ends there, in order" source_interrupted frozen
done
always "the source's function is reset when its threads have ended" either frozen:reset ''
always "the source's function is reset when all was said: it moves" moves saved:reset ''
always "the target's function is reset when it is set up" moves '' loaded:reset
way=driver
always "the source's controller is reset in pre-copy: it moves" moves round1:controller ''
in_all "the source's function is reset when its threads have ended" moves frozen:reset ''
always "the source's function is reset when its controller is held" moves held:reset ''
in_all "the source's function is reset when all was said" moves saved:reset ''
always "the target's function is reset while it is set up" moves '' loading:reset
in_all "the target's function is reset when it is set up" moves '' loaded:reset
in_all "the source's memory is off from before the first round until its end" moves before:off,round1:on ''
always "the source's memory is off from the first round until its threads have ended" moves round1:off,frozen:on ''
# The driver gives a controller 40 s to stop.
in_all "the source's memory is off in stop-and-copy: it stays, says so, and moves later" stays frozen:off,back:on '' 'does not stop'
always "the source's memory is off once its controller has stopped: it moves" moves held:off ''
fresh
always "the target's memory is off while it loads, and on when it runs" moves '' loading:off,running:on
fresh
always "the target's memory is off when it is set up, and on when it runs" moves '' loaded:off,running:on
always "the source is gone when its controller has stopped: it moves" source_gone_late held
always "the target is gone when it is set up: told there, once, or the source goes on" target_gone_loaded
fresh
always "the source's device goes and comes back: it moves from there" source_back
stays="Ctrl-C at 'svio migrate send': the process stays, and moves later"
always "$stays: before the first round" sender_interrupted before
always "$stays: in pre-copy" sender_interrupted round1
in_all "$stays: in stop-and-copy" sender_interrupted frozen
in_all "$stays: when all was said" sender_interrupted saved
always "Ctrl-C at 'svio migrate send' when it has moved: it says so" sender_too_late
always "the target has no addresses left: refused before anything moves" target_limited
always "the target takes less memory: refused before anything moves" target_small
always "what cannot converge is given up, with the rates, and works on" never_converges
always "the same, slowed down, moves" throttled
always "report, picture and lines of progress" report
always "progress on a terminal" terminal
end_servers a b
a=$sim b=$sim user_sim=sim
for way in driver state; do
	in_way state "the source's function is reset before the first round" either before:reset ''
	in_all "the source's function is reset in pre-copy" either round1:reset ''
	in_way driver "the source's memory is off and on before the first round" either before:off,before:on ''
	in_way state "the source's memory is off and on in pre-copy" either round1:off,round1:on ''
	in_way state "the target's function is reset when it runs" moves '' running:reset 'resets > 0'
done
way=driver
always "$stays: in stop-and-copy" sender_interrupted frozen
always "$stays: when all was said" sender_interrupted saved
end_servers
exit $failed
