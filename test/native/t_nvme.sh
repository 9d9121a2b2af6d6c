#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The lab's NVMe cases (test/guest/t_nvme.sh, t_survive.sh) on user: and sim:, as far as t_io.sh, t_survive.sh and t_death.sh have not got them;
# README.md has the whole list. `t_nvme.sh short` is a subset, for slow builds.
set -u
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
short=${1:-}

# ---- data, both ways -----------------------------------------------------------------------------------

mkdir "$dir/files"
head -c 3000001 /dev/urandom >"$dir/files/random"
mke2fs -q -t ext4 -d "$dir/files" "$dir/a.img" 24M >/dev/null 2>&1 || { echo "not ok - mke2fs"; exit 1; }
head -c 1000123 /dev/urandom >"$dir/odd"

data() # NAME A B C: devices with a.img (a file system), b.img (24 MiB) and c.img (8 MiB)
{
	local t=$1 a=$2 b=$3 c=$4 sum
	sum=$(sha256sum <"$dir/a.img")
	identify() { run 0 nvme identify "$a" --json && judge "$dir/out" 'serial.startswith("SVIO")' 'namespaces[0]["blocks"] == 49152'; }
	check "$t identify names the controller and its namespace" identify
	raw() { run 0 nvme identify "$a" --raw "$dir/raw" && [ "$(stat -c %s "$dir/raw")" = 4096 ] && grep -q svio "$dir/raw"; }
	check "$t identify --raw gives the controller's own bytes" raw
	whole() { run 0 nvme read "$a" --blocks all --out "$dir/whole" && [ "$(sha256sum <"$dir/whole")" = "$sum" ]; }
	check "$t a whole image is read" whole
	piped()
	{
		timeout -k 1 "$limit" "$svio" nvme read "$a" --lba 2 --blocks 999 --bs 4k --qd 3 --out - 2>"$dir/err" >"$dir/pipe" &&
			dd if="$dir/a.img" bs=512 skip=2 count=999 status=none | cmp - "$dir/pipe"
	}
	check "$t blocks 2 to 1000 come through a pipe" piped
	written() { run 0 nvme write "$b" --in "$dir/whole" --flush && cmp "$dir/a.img" "$dir/b.img"; }
	check "$t a whole image is written" written
	partial() { run 1 nvme write "$c" --lba 100 --in "$dir/odd" && says "--pad"; }
	check "$t input that fills no whole number of blocks is refused" partial
	beyond() { run 1 nvme write "$c" --lba 16000 --in "$dir/odd" --pad && says "beyond"; }
	check "$t input that does not fit is refused" beyond
	# 1000123 = 1953 * 512 + 187: 325 bytes of the last block are zeroes, and what follows was never touched.
	padded()
	{
		run 0 nvme write "$c" --lba 100 --in "$dir/odd" --pad --flush && cmp -n 1000123 "$dir/odd" "$dir/c.img" 0 $((100 * 512)) &&
			cmp -n $((9900 * 512 - 1000123)) /dev/zero "$dir/c.img" 0 $((100 * 512 + 1000123))
	}
	check "$t a file is written, its last block filled up, and nothing else" padded
	from_pipe() { head -c 51200 "$dir/odd" | run 0 nvme write "$c" --lba 10000 --in - --bs 4k && cmp -n 51200 "$dir/odd" "$dir/c.img" 0 $((10000 * 512)); }
	check "$t a pipe is written" from_pipe
	no_file() { run 1 nvme read "$a" --lba 49000 --blocks 1000 --out "$dir/none" && ! ls "$dir"/none* 2>/dev/null; }
	check "$t a read that fails leaves no file" no_file
	# A full disk: no tmpfs of our own without root, but a limit on what a file may grow to (bash counts KiB).
	full() { (ulimit -f 1024; trap '' XFSZ; run 1 nvme read "$a" --blocks all --out "$dir/x") && says "File too large" && ! ls "$dir"/x* 2>/dev/null; }
	check "$t a file that cannot be written is reported, and the part of it removed" full
	check "$t perf reads a file system" run 0 nvme perf "$a" --rw randread --time 1
	namespace() { run 1 nvme perf "$a" --rw randread --nsid 9 && says "not active"; }
	check "$t a namespace that is not there is named" namespace
	deep() { run 1 nvme perf "$a" --rw randread --qd 4096 --bs 512 && says "entries"; }
	check "$t a depth beyond the controller's is explained" deep
	unchanged() { [ "$(sha256sum <"$dir/a.img")" = "$sum" ]; }
	check "$t nobody changed the image" unchanged
}
fresh() { rm -f "$dir/b.img" "$dir/c.img"; truncate -s 24M "$dir/b.img"; truncate -s 8M "$dir/c.img"; }

fresh
check "a server with three images starts" serve d nvme --file "$dir/a.img" --socket "$dir/1" nvme --file "$dir/b.img" --socket "$dir/2" \
	nvme --file "$dir/c.img" --socket "$dir/3"
data user: "user:$dir/1" "user:$dir/2" "user:$dir/3"
check "it ends in order" stop d
fresh
data sim: "sim:nvme,file=$dir/a.img" "sim:nvme,file=$dir/b.img" "sim:nvme,file=$dir/c.img"

# ---- perf --verify: blocks x depths x queues -------------------------------------------------------------

# Sizes and depths all with all; the numbers of queues in turn, others on user: than on sim:.
turn=0
matrix() # NAME DEVICE
{
	local bs qd queues min
	for bs in 512 4k 64k 1M; do
		for qd in 1 32 256; do
			queues=$((turn % 4 + 1)) min=500
			turn=$((turn + 1))
			[ $bs != 1M ] || min=20
			# 256 MiB of buffers for each queue.
			[ $bs:$qd != 1M:256 ] || queues=$((queues > 2 ? 2 : queues))
			check "$1 $bs, depth $qd, queues $queues" perf 0 "$2" --rw randrw --verify --time 1 --seed 7 --min-ios $min --bs $bs --qd $qd \
				--queues $queues -- "${proved[@]}" "bs == $(numfmt --from=iec "${bs^^}")" "qd == $qd" "queues == $queues" 'revocations == 0'
		done
	done
}
if [ "$short" != short ]; then
	check "a server starts" serve v nvme --size 1G --queues 8 --socket "$dir/s"
	matrix user: "user:$dir/s"
	turn=2
	matrix sim: sim:nvme,size=1G,queues=8
fi
# 20 places for 128 requests: every place is contended.
tight() { perf 0 "$1" --rw randrw --verify --time 1 --qd 64 --bs 4k --queues 2 --range 800:160 -- "${proved[@]}" 'verify["places_written"] == 20'; }
[ "$short" != short ] || check "a server starts" serve v nvme --size 64M --queues 8 --socket "$dir/s"
check "user: every place is contended" tight "user:$dir/s"
check "sim: every place is contended" tight sim:nvme,size=64M
check "user: written in order" perf 0 "user:$dir/s" --rw write --verify --time 1 --min-ios 64 --qd 32 --bs 64k --range 10000:8192 -- "${proved[@]}" \
	'write["count"] > 0' 'read["count"] == 0'
foreign() { perf 0 "$@" --rw read --verify --time 1 --min-ios 64 --qd 8 --bs 64k -- "${clean[@]}" 'verify["foreign"] > 0'; }
check "user: another process finds the blocks of the one before" foreign "user:$dir/s" --range 10000:8192

# ---- kill -9 with I/O in flight ---------------------------------------------------------------------------

killed() # DEVICE [torn]
{
	local w p rc=0
	timeout -k 1 "$limit" "$svio" nvme perf "$1" --rw randrw --verify --time 600 --qd 256 --bs 4k --queues 2 --range 30000:8192 --print-ready RUNNING \
		>"$dir/killed.out" 2>"$dir/killed.err" &
	w=$!
	started+=("$w")
	wait_for "grep -q RUNNING $dir/killed.err || ! running $w" || return 1
	p=$(cat "/proc/$w/task/$w/children")
	p=${p%% *}
	[ -n "$p" ] || { cat "$dir/killed.err"; return 1; }
	kill -KILL "$p"
	wait "$w" 2>/dev/null || rc=$?
	[ $rc = 137 ] || { echo "exit code $rc"; cat "$dir/killed.err"; return 1; }
	[ "${2-}" = torn ] || foreign "$1" --range 30000:8192 || return 1
	perf 0 "$1" --rw randrw --verify --time 1 --qd 32 --queues 2 --range 30000:8192 -- "${proved[@]}"
}
check "user: kill -9 with 512 requests in flight: every block is whole, and the next process works" killed "user:$dir/s"
check "it ends in order" stop v
truncate -s 64M "$dir/k.img"
# There the device dies too, and may be in the middle of storing a block: that one is torn.
check "sim: a device that dies with its process: the next process works on its file" killed "sim:nvme,file=$dir/k.img" torn

# ---- a disk that takes its time -------------------------------------------------------------------------------

# A flush waits for the disk, and nothing else does: the server answers, to others and to the client that flushes.
slow_disk() # SERVER OPTIONS...
{
	local w rc=0
	truncate -s 16M "$dir/slow.img"
	rm -f "$dir/sync" "$dir/sync.gate"
	export SVIO_SLOW_SYNC=$dir/sync
	local preload=$probes/slow_sync.so ASAN_OPTIONS=${ASAN_OPTIONS-}:verify_asan_link_order=0
	export ASAN_OPTIONS
	serve f nvme --file "$dir/slow.img" --socket "$dir/s" "$@" || return 1
	preload=
	head -c 1M /dev/urandom >"$dir/in"
	: >"$dir/sync.gate"
	timeout -k 1 "$limit" "$svio" nvme write "user:$dir/s" --in "$dir/in" --flush >"$dir/w.out" 2>"$dir/w.err" &
	w=$!
	started+=("$w")
	wait_for "[ -s $dir/sync ] || ! running $w" && running "$w" || { cat "$dir/w.err"; return 1; }
	# It is in the middle of fdatasync().
	run 1 info "user:$dir/s" && says "another client already" || return 1
	running "$w" || { echo "the client has not waited"; cat "$dir/w.err"; return 1; }
	rm "$dir/sync.gate"
	wait "$w" || rc=$?
	[ $rc = 0 ] || { echo "exit code $rc"; cat "$dir/w.err"; return 1; }
	cmp -n 1048576 "$dir/in" "$dir/slow.img" || return 1
	# Shutdown notification, by the close of the client before, has flushed too; force unit access does.
	rm -f "$dir/sync"
	"$probes/quirky" fua "$dir/s" || return 1
	stop f
}
check "a flush that waits for the disk holds up nobody else; a write with FUA is flushed" slow_disk
check "the same of a server that sleeps" slow_disk --interrupt

# ---- a device that is gone, and nothing comes ---------------------------------------------------------------

waited()
{
	local w rc=0
	serve w nvme --size 64M --socket "$dir/s" || return 1
	timeout -k 1 "$limit" "$svio" nvme perf "user:$dir/s" --rw randrw --time 600 --print-ready READY --wait-replug --replug-timeout 2 --json \
		>"$dir/w.out" 2>"$dir/w.perf" &
	w=$!
	started+=("$w")
	wait_for "grep -q READY $dir/w.perf || ! running $w" || return 1
	kill -KILL "$pid"
	wait "$guard" 2>/dev/null
	wait "$w" || rc=$?
	[ $rc = 1 ] || { echo "exit code $rc"; cat "$dir/w.perf"; return 1; }
	judge "$dir/w.out" 'lost == 0' 'r["double"] == 0' 'submitted == completed_ok + completed_err' 'devices_gone == 1' 'replugs == 0' \
		'all(e["status"] == -19 for e in errors)' '"no server listens there" in failure'
}
check "the server is gone and none comes: the wait ends" waited
exit $failed
