#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Data through user: and sim:, at depths, sizes, offsets, queues and modes; every block checked. A file system, both ways.
# `t_io.sh short` is a subset, for slow builds.
set -u
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
short=${1:-}
quick=(--rw randrw --verify --time 1)

# depth:size:offset:queues
loads=(1:4k:0:1 32:512:0:2 256:4k:0:1 32:4k:516:4 16:64k:4:1 4:1M:2052:2)
[ "$short" != short ] || loads=(32:4k:516:2 4:1M:4:1)
load() # DEVICE DEPTH:SIZE:OFFSET:QUEUES
{
	local qd bs offset queues
	IFS=: read -r qd bs offset queues <<<"$2"
	perf 0 "$1" "${quick[@]}" --qd "$qd" --bs "$bs" --offset "$offset" --queues "$queues" -- "${proved[@]}"
}
all_loads() # NAME DEVICE
{
	local l
	for l in "${loads[@]}"; do check "$1: depth:size:offset:queues $l" load "$2" "$l"; done
}

check "a server starts" serve polled nvme --size 256M --queues 8 --socket "$dir/s"
all_loads "user:" "user:$dir/s"
check "user: sleeping client" perf 0 "user:$dir/s" "${quick[@]}" --qd 8 --interrupt -- "${proved[@]}"
check "user: writes in order, then reads in order" perf 0 "user:$dir/s" --rw write --bs 128k --time 1 --verify -- "${proved[@]}"
check "the server ends in order" stop polled
all_loads "sim:" sim:nvme,size=256M,queues=8
check "sim: sleeping client" perf 0 sim:nvme,size=64M "${quick[@]}" --qd 8 --interrupt -- "${proved[@]}"
check "sim: blocks of 4096 bytes" perf 0 sim:nvme,size=64M,lba=4096 "${quick[@]}" -- "${proved[@]}" 'lba_size == 4096'

# ---- a server that sleeps ------------------------------------------------------------------------------

check "a server in interrupt mode starts" serve sleeping nvme --size 64M --interrupt --socket "$dir/s"
check "server and client sleep, depth 1" perf 0 "user:$dir/s" "${quick[@]}" --qd 1 --interrupt -- "${proved[@]}"
check "server and client sleep, depth 31 on 2 queues" perf 0 "user:$dir/s" "${quick[@]}" --qd 31 --queues 2 --interrupt -- "${proved[@]}"
check "polling client of a sleeping server" perf 0 "user:$dir/s" "${quick[@]}" --qd 256 -- "${proved[@]}"
idle() # it costs no CPU time while nobody asks it for anything (proc(5): utime and stime are fields 14 and 15)
{
	local before after
	before=$(cut -d ' ' -f 14,15 "/proc/$pid/stat")
	sleep 1
	after=$(cut -d ' ' -f 14,15 "/proc/$pid/stat")
	[ "$before" = "$after" ] || { echo "utime, stime: $before, a second later $after"; return 1; }
}
check "it sleeps indeed" idle
check "it ends in order" stop sleeping

check "a server without mappings starts" serve plain nvme --size 64M --no-mmap --socket "$dir/s"
check "doorbells as messages" perf 0 "user:$dir/s" "${quick[@]}" --qd 16 -- "${proved[@]}"
check "it ends in order" stop plain

# ---- a file system -------------------------------------------------------------------------------------

image() # SERVER OPTIONS...: an image copied in by one client, out by another
{
	local sum
	serve image nvme,"$1" --file "$dir/b.img" --socket "$dir/s" "${@:2}" || return 1
	sum=$(sha256sum <"$dir/a.img")
	run 0 nvme write "user:$dir/s" --in "$dir/a.img" --flush || return 1
	run 0 nvme read "user:$dir/s" --blocks all --out "$dir/copy.img" || return 1
	stop image || return 1
	[ "$sum" = "$(sha256sum <"$dir/copy.img")" ] || { echo "what was read differs"; return 1; }
	[ "$sum" = "$(sha256sum <"$dir/b.img")" ] || { echo "the server's file differs"; return 1; }
	e2fsck -fn "$dir/copy.img"
}
mkdir "$dir/files"
head -c 3000001 /dev/urandom >"$dir/files/random"
seq 200000 >"$dir/files/numbers"
if mke2fs -q -t ext4 -d "$dir/files" "$dir/a.img" 24M; then
	truncate -s 24M "$dir/b.img"
	check "a file system through a mapped file" image lba=512
	truncate -s 0 "$dir/b.img"; truncate -s 24M "$dir/b.img"
	check "a file system through a server that sleeps" image lba=4096 --interrupt
	rm "$dir/b.img"; truncate -s 24M "$dir/b.img"
	if dd if="$dir/b.img" of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; then
		check "a file system past the page cache (O_DIRECT)" image direct,lba=4096
	fi
else
	echo "not ok - mke2fs"
	failed=1
fi
perf_refuses() { serve fs nvme --file "$dir/a.img" --socket "$dir/s" && run 1 nvme perf "user:$dir/s" --rw randwrite --time 1 && says "ext2/3/4" && stop fs; }
check "perf refuses to write over a file system" perf_refuses
twice() { serve one nvme --file "$dir/a.img" --socket "$dir/s" && run 1 serve nvme --file "$dir/a.img" --socket "$dir/t" && says "in use by another server" && stop one; }
check "a file is served once" twice
exit $failed
