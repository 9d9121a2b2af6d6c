#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_migrate.sh [KERNEL]       (default: stock)
#
# `svio nvme perf --verify --migratable` at depth 32 moves between two of QEMU's NVMe controllers, of one subsystem with a shared
# namespace, each behind kernel VFIO: there and back, SVIO_MOVES (6) times. Refused: a device without migration state that is
# to move by it, another namespace, one without identity, a target that may lock too little. Killed by SIGKILL during stop-and-copy and hand-over: either side,
# where a relay between the two finds the frame named. Unplugged: the source's device in the pre-copy, and one that waits. Two boots.
#
# QEMU's log of every access to the controllers' registers is the witness for rule 1 of svio_nvme_migrate.h: the controller that
# was left had stopped (CC.EN = 0 written, CSTS.RDY = 0 read) before the other one was given its first request.
set -u

here=$(cd "$(dirname "$0")" && pwd)
kernel=${1:-stock}
build=${SVIO_BUILD:-$here/../../build}
probe=$build/test/guest/migrate_probe
moves=${SVIO_MOVES:-6}
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-migrate.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
. "$here/lib/perf.sh"

[ -x "$probe" ] || { echo "not ok - $probe is not there: ninja -C $build"; exit 1; }
truncate -s 64M "$dir/shared.img" "$dir/other.img" "$dir/bare.img"

# What each kernel has to watch the CPU with. Devices: the driver's log alone; type1 would say "everything that is pinned".
case $kernel in
bookworm) cpu="soft-dirty bits" ;;
*) cpu="write protection" ;;
esac
tracker="tracker == \"$cpu; devices: 0 log, 1 driver, 0 iommu, 0 none\""

# a and b reach one namespace, c another, and the one of d has no identity. The disk of a and b takes its time, so that requests
# are in flight whenever they are stopped.
nguid=00112233445566778899aabbccddeeff
machine=(--mem 1536M --hugepages 96 --ports 4 --disk "$dir/shared.img" --disk "$dir/other.img" --disk "$dir/bare.img"
	--qemu-arg=-object --qemu-arg=throttle-group,id=slow,x-iops-total=2000
	--qemu-arg=-blockdev --qemu-arg=throttle,node-name=shared,throttle-group=slow,file=spare0
	--device nvme-subsys,id=sub0,nqn=shared --device nvme,id=a,bus=hp0,subsys=sub0,serial=svio-ab
	--device nvme,id=b,bus=hp1,subsys=sub0,serial=svio-ab
	--device "nvme-ns,bus=a,drive=shared,nsid=1,shared=on,nguid=$nguid,eui64=0x0123456789abcdef,uuid=00112233-4455-6677-8899-aabbccddeeff"
	--device nvme-subsys,id=sub1,nqn=other --device nvme,id=c,bus=hp2,subsys=sub1,serial=svio-c
	--device nvme-ns,bus=c,drive=spare1,nsid=1,nguid=ffeeddccbbaa99887766554433221100,uuid=ffeeddcc-bbaa-9988-7766-554433221100
	--device nvme,id=d,bus=hp3,drive=spare2,serial=svio-d
	--add "$probe:/migrate_probe" --add "$dir/guest.sh:/root/guest.sh" --add "$dir/sides.sh:/root/sides.sh")
# witness FILE: what QEMU logs
witness()
{
	echo --qemu-arg=-D --qemu-arg="$1" --qemu-arg=-trace --qemu-arg=memory_region_ops_write --qemu-arg=-trace \
		--qemu-arg=memory_region_ops_read
}

# ---- what both boots do in the guest ----------------------------------------------------------------------

cat >"$dir/sides.sh" <<'GUEST'
. /root/guest.sh
a=0000:01:00.0 b=0000:02:00.0 c=0000:03:00.0 d=0000:04:00.0
for i in $a $b $c $d; do svio bind $i >/dev/null || echo "not ok - bind $i"; done
load="--verify --rw randrw --bs 4k --qd 32 --queues 2 --range 0:16384 --time 3600"

running() { [ -e /proc/$1 ] && ! grep -q '^State:.Z' /proc/$1/status 2>/dev/null; }
# It has its socket, or it ended.
ready() # NAME SOCKET PID
{
	wait_for "[ -S $2 ] || ! running $3" && [ -S $2 ] || { echo "not ok - $1 does not start"; sed 's/^/# /' /tmp/$1.err; return 1; }
}
# from NAME DEVICE ARGUMENTS...: a run that can move; $pid
from()
{
	tag=$1 dev=$2
	shift 2
	svio nvme perf $dev --force --json --migratable=/tmp/$tag.ctl "$@" >/tmp/$tag.json 2>/tmp/$tag.err &
	pid=$!
	ready $tag /tmp/$tag.ctl $pid
}
# to NAME DEVICE ARGUMENTS...: who waits for one; $pid
to()
{
	tag=$1 dev=$2
	shift 2
	svio migrate listen --device $dev --addr unix:/tmp/$tag.mig --json --control /tmp/$tag.ctl "$@" >/tmp/$tag.json 2>/tmp/$tag.err &
	pid=$!
	ready $tag /tmp/$tag.mig $pid
}
# result NAME CODE: for judge
result() { echo "PERF $1 $2 $(tr -d '\n' </tmp/$1.json)"; }
# send NAME FROM ADDRESS ARGUMENTS...
send()
{
	tag=$1 ctl=$2 addr=$3
	shift 3
	svio migrate send --control /tmp/$ctl.ctl --addr unix:/tmp/$addr --json "$@" >/tmp/$tag.json 2>/tmp/$tag.err
	code=$?
	sed "s/^/$tag: /" /tmp/$tag.err >&2
	result $tag $code
}
# ended NAME PID
ended()
{
	wait $2
	code=$?
	sed "s/^/$1: /" /tmp/$1.err >&2
	result $1 $code
}
finish() { wait_for "[ -S /tmp/$1.ctl ]" && /migrate_probe finish /tmp/$1.ctl || echo "not ok - finish $1"; ended $1 $2; }
GUEST

# stopped_first FILE HANDOVERS: so often another controller was given requests, and the one before had stopped each time
stopped_first()
{
	python3 - "$1" "$2" <<'PY'
import re, sys
access = re.compile(r"memory_region_ops_(read|write) cpu -?\d+ mr (0x[0-9a-f]+) addr 0x([0-9a-f]+) value 0x([0-9a-f]+) .*name 'nvme'")
CC, CSTS, DOORBELLS, BAR = 0x14, 0x1c, 0x1000, 0x2000
disabled, busy, owner, handovers, requests, early = {}, {}, None, 0, 0, 0
for line in open(sys.argv[1], errors="replace"):
    m = access.search(line)
    if not m:
        continue
    write, ctrl, off, value = m[1] == "write", m[2], int(m[3], 16) % BAR, int(m[4], 16)
    if off == CC and write:
        disabled[ctrl] = not value & 1
    elif off == CSTS and not write and disabled.get(ctrl) and not value & 1:
        busy[ctrl] = False
    elif off >= DOORBELLS + 8 and off % 8 == 0 and write: # a submission queue's, and not the admin queue's
        requests += 1
        others = [c for c in busy if c != ctrl and busy[c]]
        if ctrl != owner:
            handovers += owner is not None
            early += bool(others)
            owner = ctrl
        busy[ctrl] = True
print(f"{requests} times a request was announced, {handovers} times by another controller, {early} times before the last had stopped")
sys.exit(not (requests > 100 and handovers == int(sys.argv[2]) and early == 0))
PY
}

# ---- moves, and what is refused ---------------------------------------------------------------------------

cat >"$dir/moves.sh" <<'GUEST'
. /root/sides.sh
by_state() { run 1 nvme perf $a --rw randread --time 1 --migratable=/tmp/s.ctl --by state && says "no migration state" && says "--by driver"; }
check "a controller without migration state says so, and names the other way" by_state
by_state_there() { run 1 migrate listen --device $b --addr unix:/tmp/s.mig --by state && says "no migration state" && says "--by driver"; }
check "and at the target, too" by_state_there

to stranger $c
stranger=$pid
from bare $d $load
bare=$pid
send nobody bare stranger.mig
finish bare $bare
from hop0 $a $load --ballast 24M:1
old=$pid
# A user who may lock 48 MiB: enough for the driver, but not for the 24 MiB and more that come.
chown 1000 /dev/vfio/$(basename $(readlink /sys/bus/pci/devices/$b/iommu_group))
chmod 666 /dev/vfio/vfio
(ulimit -l 49152; exec su user -s /bin/sh -c "exec svio migrate listen --device $b --addr unix:/tmp/poor.mig --control /tmp/poor.ctl") \
	>/tmp/poor.json 2>/tmp/poor.err &
poor=$!
ready poor /tmp/poor.mig $poor
send too_little hop0 poor.mig
kill $poor
wait $poor
sed 's/^/poor: /' /tmp/poor.err >&2
to hop1 $b
new=$pid
svio migrate check /tmp/hop0.ctl unix:/tmp/stranger.mig unix:/tmp/hop1.mig --json >/tmp/which.json 2>/tmp/err
echo "WHICH $? $(tr -d '\n' </tmp/which.json)"
send elsewhere hop0 stranger.mig
kill $stranger
wait $stranger

i=1 there=$b back=$a
while :; do
	send move$i hop$((i - 1)) hop$i.mig
	ended hop$((i - 1)) $old
	[ $i -lt $1 ] || break
	swap=$there there=$back back=$swap old=$new
	i=$((i + 1))
	to hop$i $there
	new=$pid
done
finish hop$i $new

# Reads into memory that no CPU touches: what is dirty was written by DMA.
from reads $back --rw randread --bs 16k --qd 32 --time 3600
old=$pid
to reads_t $there
new=$pid
send reads_move reads reads_t.mig
ended reads $old
finish reads_t $new
GUEST
# shellcheck disable=SC2046 # words
boot "${machine[@]}" $(witness "$dir/moves.log") --add "$dir/moves.sh:/main.sh" -- sh /main.sh "$moves"

which_fits()
{
	python3 - "$dir/out" <<'PY'
import json, sys
line, = [l.split(" ", 2) for l in open(sys.argv[1], errors="replace") if l.startswith("WHICH ")]
no, yes = json.loads(line[2])
fields = {d["field"]: d for d in no["differences"]}
assert line[1] == "1" and not no["ok"] and yes["ok"] and not yes["differences"], (no, yes)
d = fields.pop("nvme.namespace.identity")
assert "nguid:00112233445566778899aabbccddeeff" in d["source"] and "eui64:0123456789abcdef" in d["source"], d
assert "uuid:00112233445566778899aabbccddeeff" in d["source"] and "nguid:ffeeddcc" in d["target"] and d["hint"], d
assert not fields, fields
PY
}
check "$kernel: of two controllers the one of the same subsystem fits, and the other differs by NGUID, UUID and EUI64" which_fits
judge elsewhere 1 'not r["ok"]' '"nvme.namespace.identity" in error' 'phase == "failed"' 'downtime_us == 0'
judge too_little 1 'not r["ok"]' '"RLIMIT_MEMLOCK" in error' 'phase == "failed"' 'downtime_us == 0'
judge nobody 1 'not r["ok"]' '"neither NGUID, UUID nor EUI64" in error' 'downtime_us == 0'
judge bare 0 "${clean[@]}" "${proved[@]}" 'moves == 0'
for ((i = 1; i <= moves; i++)); do
	judge "move$i" 0 'r["ok"]' 'phase == "done"' 'downtime_us > 0' "$tracker" 'not differences'
	judge "hop$((i - 1))" 0 'r["moved"]'
done
judge "hop$moves" 0 "${clean[@]}" "${proved[@]}" "moves == $moves" 'requeued > 0' 'completed_err == 0' 'resets == 0' \
	'read["count"] > 1000' 'write["count"] > 1000'
# 32 requests of 16 KiB: 128 pages in each of which another block lay by the end of the first round.
judge reads_move 0 'r["ok"]' "$tracker" 'rounds[0]["dirty_pages"] >= 100'
judge reads_t 0 "${clean[@]}" 'moves == 1' 'completed_err == 0'
# d, then a; the moves; back for the reads, and their move.
check "$kernel: each controller had stopped before the next one was given a request" stopped_first "$dir/moves.log" $((moves + 3))

# ---- one side is killed -----------------------------------------------------------------------------------

# The relay is not the target, so end of file through it says nothing; the lease decides.
cat >"$dir/faults.sh" <<'GUEST'
. /root/sides.sh
# relay NAME FRAME PID [drop]: to NAME's socket
relay()
{
	tag=$1
	shift
	/migrate_probe relay /tmp/$tag.relay /tmp/$tag.mig "$@" >/tmp/$tag.relayed 2>&1 &
	relay=$!
	wait_for "grep -q relaying /tmp/$tag.relayed || ! running $relay"
}
relayed() # NAME FRAME
{
	wait $relay && grep -q "killed at $2" /tmp/$1.relayed || { echo "not ok - $1: nobody was killed at $2"; sed 's/^/# /' /tmp/$1.relayed; }
}
lease="--lease /tmp/lease"

# The target, before and after it is ready, and when it is told to run: three times the source goes on; then it moves.
from steady $a $load
steady=$pid
for frame in PREPARE READY COMMIT; do
	to t_$frame $b $lease
	victim=$pid
	relay t_$frame $frame $victim
	send s_$frame steady t_$frame.relay $lease
	relayed t_$frame $frame
	wait $victim
	echo "VICTIM t_$frame $? $(wc -c </tmp/t_$frame.json)"
done
to t_last $b $lease
new=$pid
send s_last steady t_last.mig $lease
ended steady $steady
finish t_last $new

# source_dies NAME FROM TO FRAME DROP ARGUMENT: the source is killed when FRAME has come; the target is $new
source_dies()
{
	name=$1 frame=$4
	from $name $2 $load
	victim=$pid
	to t_$name $3 $lease $6
	new=$pid
	relay t_$name $frame $victim $5
	send s_$name $name t_$name.relay $lease
	relayed t_$name $frame
	wait $victim
}
# Everything is sent but COMMIT: the target must not run.
source_dies early $b $a READY "" --once
ended t_early $new
# What the dead one wrote is found, each block whole.
perf after_early $a --rw read --verify --bs 4k --qd 8 --range 0:16384 --time 1
# COMMIT was written, and did not come: nobody runs.
source_dies unheard $a $b COMMIT drop --once
ended t_unheard $new
# COMMIT comes from one that is dead: the target takes over.
source_dies late $a $b COMMIT "" ""
finish t_late $new

# The source's device is unplugged while memory is copied, and then the target's that waits.
from pulled $a $load --bs 16k
old=$pid
to t_pulled $b
new=$pid
relay t_pulled PAGES 0
send s_pulled pulled t_pulled.relay --max-bandwidth 100K &
sender=$!
wait_for 'grep -q PAGES /tmp/t_pulled.relayed || ! running $sender'
echo PULL-A
wait $sender
ended pulled $old
echo PULL-B
ended t_pulled $new
GUEST
# shellcheck disable=SC2046
boot "${machine[@]}" $(witness "$dir/faults.log") --qmp-at "PULL-A=[$(gone a)]" --qmp-at "PULL-B=[$(gone b)]" --add "$dir/faults.sh:/main.sh" -- sh /main.sh

for frame in PREPARE READY COMMIT; do
	check "$kernel: the target died at $frame" grep -qx "VICTIM t_$frame 137 0" "$dir/out"
	judge "s_$frame" 1 'not r["ok"]' 'phase == "failed"' 'downtime_us > 0'
done
judge s_last 0 'r["ok"]' 'phase == "done"'
judge steady 0 'r["moved"]'
# Each time it went on, its controller was set up again.
judge t_last 0 "${clean[@]}" "${proved[@]}" 'moves == 1' 'completed_err == 0' 'requeued > 0' 'resets >= 3'
refused() # NAME: the target printed no report
{
	grep -qE "^PERF $1 1 *$" "$dir/out" || { grep "^PERF $1 " "$dir/out"; return 1; }
	grep "^$1: " "$dir/err" | grep -q 'connection\|ended\|end of' || { grep "^$1: " "$dir/err"; return 1; }
}
check "$kernel: the source dies before COMMIT: the target does not run" refused t_early
judge after_early 0 "${clean[@]}" 'verify["foreign"] > 0'
check "$kernel: the source dies, its COMMIT does not come: the target does not run" refused t_unheard
judge t_late 0 "${clean[@]}" "${proved[@]}" 'moves == 1' 'completed_err == 0' 'requeued > 0'
judge s_pulled 1 'not r["ok"]' 'phase == "failed"' '"the device goes" in error' 'downtime_us == 0'
judge pulled 1 'lost == 0' 'r["double"] == 0' 'verify_errors == 0' 'submitted == completed_ok + completed_err' 'devices_gone == 1' \
	'moves == 0' 'all(e["status"] == -19 for e in errors)'
check "$kernel: who waits for a source ends when its own device is unplugged" grep -q '^t_pulled: .*the device goes' "$dir/err"
# steady a → b; early on b, read afterwards on a; unheard and late on a → b; pulled on a.
check "$kernel: each controller had stopped before the next one was given a request" stopped_first "$dir/faults.log" 4
exit $failed
