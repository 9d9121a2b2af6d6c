#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_nvme.sh [KERNEL]       (default: stock)
#
# svio nvme on QEMU's controllers through kernel VFIO: a file system made by mkfs read whole, files written and found again
# on the host, perf --verify over depths, sizes and queues, and a new process after kill -9. Two boots.
set -u

here=$(cd "$(dirname "$0")" && pwd)
kernel=${1:-stock}
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-nvme.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
. "$here/lib/perf.sh"

PATH=$PATH:/usr/sbin:/sbin
# ---- data, both ways -----------------------------------------------------------------------------------

mkdir "$dir/files"
head -c 3000001 /dev/urandom >"$dir/files/random"
seq 200000 >"$dir/files/numbers"
mke2fs -q -t ext4 -d "$dir/files" "$dir/a.img" 24M || { echo "not ok - mke2fs"; exit 1; }
truncate -s 24M "$dir/b.img"
truncate -s 8M "$dir/c.img"
head -c 1000123 /dev/urandom >"$dir/odd"
sum=$(sha256sum <"$dir/a.img")

cat >"$dir/data.sh" <<'GUEST'
. /root/guest.sh
a=0000:01:00.0 b=0000:02:00.0 c=0000:03:00.0
for d in $a $b $c; do svio bind $d >/dev/null || echo "not ok - bind $d"; done

identify() { run 0 nvme identify $a --json && grep -q '"serial": "svio0"' /tmp/out && grep -q '"blocks": 49152' /tmp/out; }
check "identify names the controller and its namespace" identify
raw() { run 0 nvme identify $a --raw /tmp/raw && [ "$(stat -c %s /tmp/raw)" = 4096 ] && grep -q 'QEMU NVMe Ctrl' /tmp/raw; }
check "identify --raw gives the controller's own bytes" raw

svio nvme read $a --blocks all --out /tmp/whole >/tmp/out 2>&1 || echo "not ok - read: $(cat /tmp/out)"
echo "WHOLE $(sha256sum </tmp/whole)"
echo "PIPE $(svio nvme read $a --lba 2 --blocks 999 --bs 4k --qd 3 --out - 2>/dev/null | sha256sum)"
check "a whole image is written" run 0 nvme write $b --in /tmp/whole --flush
rm /tmp/whole

partial() { run 1 nvme write $c --lba 100 --in /odd && says "--pad"; }
check "input that fills no whole number of blocks is refused" partial
beyond() { run 1 nvme write $c --lba 16000 --in /odd --pad && says "beyond"; }
check "input that does not fit is refused" beyond
check "a file is written, its last block filled up" run 0 nvme write $c --lba 100 --in /odd --pad --flush
from_pipe() { head -c 51200 /odd | run 0 nvme write $c --lba 10000 --in - --bs 4k; }
check "a pipe is written" from_pipe

no_file() { run 1 nvme read $a --lba 49000 --blocks 1000 --out /tmp/none && [ ! -e /tmp/none ] && [ -z "$(ls /tmp/none.* 2>/dev/null)" ]; }
check "a read that fails leaves no file" no_file
full() { mkdir -p /tmp/small && mount -t tmpfs -o size=1m tmpfs /tmp/small && run 1 nvme read $a --blocks all --out /tmp/small/x && says "No space" && [ -z "$(ls /tmp/small)" ]; }
check "a full disk is reported, and the part of the file removed" full

refuse() { run 1 nvme perf $a --rw randwrite --time 1 && says "ext2/3/4" && says "--force"; }
check "perf refuses to write over a file system" refuse
check "perf reads it" run 0 nvme perf $a --rw randread --time 1
namespace() { run 1 nvme perf $a --rw randread --nsid 9 && says "not active"; }
check "a namespace that is not there is named" namespace
large() { run 1 nvme perf $a --rw randread --bs 1M && says "largest transfer"; }
check "a transfer beyond the controller's is explained" large
deep() { run 1 nvme perf $a --rw randread --qd 4096 --bs 512 && says "entries"; }
check "a depth beyond the controller's is explained" deep
GUEST

boot --hugepages 64 --nvme "$dir/a.img" --nvme "$dir/b.img" --nvme "$dir/c.img" \
	--add "$dir/guest.sh:/root/guest.sh" --add "$dir/data.sh:/data.sh" --add "$dir/odd:/odd" -- sh /data.sh

found() { grep -qxF -e "$1" "$dir/out" || { echo "no line: $1"; grep -E '^(WHOLE|PIPE)' "$dir/out"; return 1; }; }
check "$kernel: the file system was read whole, identical by SHA-256" found "WHOLE $sum"
check "$kernel: blocks 2 to 1000 came through a pipe" \
	found "PIPE $(dd if="$dir/a.img" bs=512 skip=2 count=999 status=none | sha256sum)"
check "$kernel: nobody changed the image" [ "$(sha256sum <"$dir/a.img")" = "$sum" ]
check "$kernel: the image written is found on the host" cmp "$dir/a.img" "$dir/b.img"
file_in() { debugfs -R "cat /$1" "$dir/b.img" 2>/dev/null | cmp - "$dir/files/$1"; }
check "$kernel: and the file system in it holds its files" file_in random
check "$kernel: (text, too)" file_in numbers
padded() { cmp -n 1000123 "$dir/odd" "$dir/c.img" 0 $((100 * 512)); }
check "$kernel: the file written is found on the host" padded
# 1000123 = 1953 * 512 + 187: 325 bytes of the last block are zeroes, and what follows was never touched.
zeroes() { cmp -n $((9900 * 512 - 1000123)) /dev/zero "$dir/c.img" 0 $((100 * 512 + 1000123)); }
check "$kernel: followed by nothing else" zeroes
check "$kernel: the pipe's data are found on the host" cmp -n 51200 "$dir/odd" "$dir/c.img" 0 $((10000 * 512))

# ---- perf --verify -------------------------------------------------------------------------------------

truncate -s 1G "$dir/d.img"
cat >"$dir/perf_main.sh" <<'GUEST'
. /root/guest.sh
a=0000:01:00.0
svio bind $a >/dev/null || echo "not ok - bind"
v="--rw randrw --verify --time 1 --seed 7 --min-ios 1000"
perf qd1-512 $a $v --qd 1 --bs 512 --queues 1 --range 0:4096
perf qd1-1M $a $v --min-ios 20 --qd 1 --bs 1M --queues 1 --offset 1028
perf qd32-512 $a $v --qd 32 --bs 512 --queues 4 --range 10000:8192 --log-series
perf qd32-4k $a $v --qd 32 --bs 4k --queues 2 --range 0:16384 --mix 70
perf qd32-64k $a $v --qd 32 --bs 64k --queues 3 --offset 516 --range 0:65536
perf qd32-1M $a $v --min-ios 100 --qd 32 --bs 1M --queues 1 --offset 4092 --range 0:131072
perf qd256-512 $a $v --qd 256 --bs 512 --queues 3 --offset 4 --batch 16
perf qd256-4k $a $v --qd 256 --bs 4k --queues 4 --offset 2048 --range 0:65536
perf qd256-64k $a $v --qd 256 --bs 64k --queues 1 --offset 12
perf qd256-1M $a $v --min-ios 300 --qd 256 --bs 1M --queues 1 --offset 4092
perf tight $a $v --qd 64 --bs 4k --queues 2 --range 800:160
perf interrupt $a $v --qd 4 --bs 4k --queues 2 --interrupt
perf write $a --rw write --verify --time 1 --min-ios 64 --qd 32 --bs 64k --range 200000:8192
perf reread $a --rw read --verify --time 1 --min-ios 64 --qd 32 --bs 64k --range 200000:8192

svio nvme perf $a --rw randrw --verify --time 600 --qd 256 --bs 4k --queues 2 --range 200000:8192 --print-ready RUNNING 2>/tmp/killed &
wait_for 'grep -q RUNNING /tmp/killed' || cat /tmp/killed
kill -9 $!
wait $!
echo "KILLED $?"
perf survivors $a --rw read --verify --time 1 --min-ios 64 --qd 8 --bs 64k --range 200000:8192
perf after-kill $a $v --qd 32 --bs 4k --queues 2 --range 200000:8192
GUEST
boot --mem 1536M --hugepages 160 --nvme "$dir/d.img,mdts=8" --add "$dir/guest.sh:/root/guest.sh" \
	--add "$dir/perf_main.sh:/main.sh" -- sh /main.sh

mixed=('read["count"] > 0' 'write["count"] > 0' 'revocations == 0' 'resets == 0' 'completed_err == 0')
judge qd1-512 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}"
judge qd1-1M 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}" 'offset == 1028' 'bs == 1048576'
judge qd32-512 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}" 'queues == 4' 'threads == 2' \
	'sum(s["reads"] + s["writes"] for s in series) <= completed_ok' 'len(series) >= 1'
judge qd32-4k 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}" 'read["count"] > write["count"]'
judge qd32-64k 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}"
judge qd32-1M 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}"
judge qd256-512 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}"
judge qd256-4k 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}"
judge qd256-64k 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}"
judge qd256-1M 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}" 'bs == 1048576'
# 20 places for 128 requests: every place is contended.
judge tight 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}" 'verify["places_written"] == 20'
judge interrupt 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}"
judge write 0 "${clean[@]}" "${proved[@]}" 'write["count"] > 0' 'read["count"] == 0'
# Another process finds the blocks of the one before, each by itself.
judge reread 0 "${clean[@]}" 'verify["foreign"] > 0'
check "$kernel: kill -9 killed it" grep -qx 'KILLED 137' "$dir/out"
judge survivors 0 "${clean[@]}" 'verify["foreign"] > 0'
judge after-kill 0 "${clean[@]}" "${proved[@]}" "${mixed[@]}"
exit $failed
