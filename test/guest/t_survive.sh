#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_survive.sh [KERNEL]       (default: stock)
#
# With I/O running at depth 32, the device is taken away: (a) memory decoding cleared and set ten times, (b) the function
# reset, (c) unplugged by QMP device_del, (d) another plugged in and picked up. Every request completes exactly once with
# success or a stated error, the data verify afterwards, and in (a) and (b) the load goes on on the same mappings.
# Two boots; the disturbances of (a) and (b) come from a second thread of perf (--disturb).
set -u

here=$(cd "$(dirname "$0")" && pwd)
kernel=${1:-stock}
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-survive.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
. "$here/lib/perf.sh"

truncate -s 64M "$dir/a.img" "$dir/b.img"

# ---- (a) and (b): the device stays ---------------------------------------------------------------------

cat >"$dir/disturb.sh" <<'GUEST'
. /root/guest.sh
a=0000:01:00.0
svio bind $a >/dev/null || echo "not ok - bind"
v="--verify --time 4 --qd 32 --bs 4k --range 0:32768"
perf decode $a --rw randrw $v --disturb decode:10
perf decode-fail $a --rw randrw $v --disturb decode:10 --policy fail --queues 2
perf decode-big $a --rw randrw $v --disturb decode:10 --bs 64k --offset 516 --queues 2
perf decode-interrupt $a --rw randrw $v --disturb decode:10 --interrupt
perf reset $a --rw randrw $v --disturb reset:4
perf reset-fail $a --rw randwrite $v --disturb reset:4 --policy fail --queues 2
perf controller $a --rw randrw $v --disturb controller:10 --queues 2
perf both $a --rw randrw $v --disturb decode:10 --disturb reset:3 --disturb controller:3 --queues 4
perf afterwards $a --rw randrw $v --time 1
GUEST
boot --hugepages 64 --nvme "$dir/a.img" --add "$dir/guest.sh:/root/guest.sh" --add "$dir/disturb.sh:/main.sh" -- sh /main.sh

# All disturbances carried out, none without recovery, and the BARs where they were.
survived=('all(d["done"] == d["count"] and d["failed"] == 0 for d in disturb)'
	'mappings_before and mappings_after == mappings_before')
# Memory decoding off is seen by the driver each time, through a fault that was absorbed.
revoked=('all(d["noticed"] == d["done"] for d in disturb)' 'revocations >= 10' 'faults_absorbed >= 10' 'resets >= 10')
requeued=('completed_err == 0' 'requeued > 0')
# With --policy fail what was in flight says so, and nothing else fails.
stated=('completed_err > 0' 'requeued == 0' 'all(e["status"] == -125 for e in errors)')

judge decode 0 "${clean[@]}" "${proved[@]}" "${survived[@]}" "${revoked[@]}" "${requeued[@]}"
judge decode-fail 0 "${clean[@]}" "${proved[@]}" "${survived[@]}" "${revoked[@]}" "${stated[@]}"
judge decode-big 0 "${clean[@]}" "${proved[@]}" "${survived[@]}" "${revoked[@]}" "${requeued[@]}"
judge decode-interrupt 0 "${clean[@]}" "${proved[@]}" "${survived[@]}" "${revoked[@]}" "${requeued[@]}"
judge reset 0 "${clean[@]}" "${proved[@]}" "${survived[@]}" "${requeued[@]}" 'resets >= 4'
judge reset-fail 0 "${clean[@]}" "${proved[@]}" "${survived[@]}" "${stated[@]}" 'resets >= 4'
judge controller 0 "${clean[@]}" "${proved[@]}" "${survived[@]}" "${requeued[@]}" 'resets >= 10' 'revocations == 0'
judge both 0 "${clean[@]}" "${proved[@]}" "${survived[@]}" "${requeued[@]}" 'resets >= 16'
judge afterwards 0 "${clean[@]}" "${proved[@]}" 'resets == 0' 'revocations == 0'

# ---- (c) and (d): the device goes ----------------------------------------------------------------------

# The hot-plug port hp0 is bus 2: the root port of nvme0 comes first.
cat >"$dir/plug.sh" <<'GUEST'
. /root/guest.sh
a=0000:01:00.0 b=0000:02:00.0
svio bind $a >/dev/null || echo "not ok - bind"
v="--rw randrw --verify --qd 32 --bs 4k --range 0:32768"
# (c) nothing comes: perf ends, and says why.
perf pulled $a $v --time 600 --queues 2 --print-ready PULL-A
echo PLUG-A
wait_for '[ -e /sys/bus/pci/devices/0000:01:00.0 ]'
svio bind $a >/dev/null || echo "not ok - bind again"
perf back $a $v --time 1
# (d) another one in another place, found and bound by perf.
perf another $a $v --time 4 --queues 2 --print-ready SWAP --wait-replug=any --bind
[ ! -e /sys/bus/pci/devices/$a ] && echo "ok - the device that was unplugged is gone"
# The same one comes back: what it held is checked.
perf same $b $v --time 4 --interrupt --print-ready CYCLE --wait-replug --bind --log-series
# Asked to be given back, and not gone: perf lets go and the host gets it.
svio nvme perf $b $v --time 600 --print-ready UNBIND --json >/tmp/unbind.json 2>/tmp/unbind.err &
wait_for 'grep -q UNBIND /tmp/unbind.err'
echo $b >/sys/bus/pci/drivers/vfio-pci/unbind
wait $!
echo "PERF unbound $? $(tr -d '\n' </tmp/unbind.json)"
cat /tmp/unbind.err >&2
# Nothing appears: the wait ends.
svio bind $b >/dev/null || echo "not ok - bind for the last"
perf waited $b $v --time 600 --print-ready PULL-B --wait-replug --replug-timeout 2
GUEST

come() { echo '{"execute":"device_add","arguments":{"driver":"nvme","id":"'"$1"'","bus":"'"$2"'","drive":"'"$3"'","serial":"'"$4"'"}}'; }
boot --hugepages 64 --nvme "$dir/a.img" --disk "$dir/b.img" \
	--add "$dir/guest.sh:/root/guest.sh" --add "$dir/plug.sh:/main.sh" \
	--qmp-at "PULL-A=[$(gone nvme0)]" --qmp-at "PLUG-A=[$(come nvme0 rp0 disk0 svio0)]" \
	--qmp-at "SWAP=[$(gone nvme0),$(come new hp0 spare0 other)]" \
	--qmp-at "CYCLE=[$(gone new),$(come new hp0 spare0 other)]" \
	--qmp-at "PULL-B=[$(gone new)]" -- sh /main.sh

# What was in flight ends with -ENODEV (19), each exactly once.
enodev='all(e["status"] == -19 for e in errors)'
accounted=('lost == 0' 'r["double"] == 0' 'verify_errors == 0' 'submitted == completed_ok + completed_err' 'submitted > 0' "$enodev")
judge pulled 1 "${accounted[@]}" 'devices_gone == 1' 'replugs == 0' '"gone" in failure' 'completed_err <= 64'
judge back 0 "${clean[@]}" "${proved[@]}"
judge another 0 "${clean[@]}" "${proved[@]}" "$enodev" 'devices_gone == 1' 'replugs == 1' 'last_device == "0000:02:00.0"'
judge same 0 "${clean[@]}" "${proved[@]}" "$enodev" 'devices_gone == 1' 'replugs == 1' 'last_device == device'
check "$kernel: the namespace that came back was known again" grep -q 'the same namespace is back' "$dir/err"
check "$kernel: the other one was not taken for it" grep -q 'a new namespace' "$dir/err"
judge unbound 1 "${accounted[@]}" 'devices_gone == 1'
check "$kernel: the host's wish is named" grep -q 'the host wants it back' "$dir/err"
judge waited 1 "${accounted[@]}" 'devices_gone == 1' '"no such device appeared" in failure'
exit $failed
