#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The main job, shown: a poll-mode driver identifies a controller, does verified I/O, is measured, and goes on while its BAR
# is taken away and given back under load. usage: demo.sh BUILD native|lab
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
build=$1 mode=$2
work=$(mktemp -d)
server=
cleanup() {
	[ -z "$server" ] || kill "$server" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# What is run, shown as the user would type it.
job='
show() { printf "\n$ svio %s\n" "$*"; svio "$@"; }
show nvme identify "$DEV"
echo "-- every block checksummed and numbered, and proved on read-back"
show nvme perf "$DEV" --rw randrw --bs 4k --qd 32 --time "$T" --range 0:65536 --verify --force
echo "-- throughput and latency"
show nvme perf "$DEV" --rw randread --bs 4k --qd 32 --time "$T"
show nvme perf "$DEV" --rw randread --bs 4k --qd 1 --time "$T"
echo "-- the device memory is disabled and enabled again five times under load, and the function reset twice"
show nvme perf "$DEV" --rw randrw --bs 4k --qd 32 --time "$T" --range 0:65536 --verify --force --disturb decode:5
show nvme perf "$DEV" --rw randrw --bs 4k --qd 32 --time "$T" --range 0:65536 --verify --force --disturb reset:2
'
case $mode in
native)
	export PATH=$build/apps:$PATH
	# The device runs in a process of its own, as a vfio-user server; doorbells, queues and data are shared memory.
	echo
	echo "\$ svio serve nvme --size 256M --socket $work/nvme.sock &"
	svio serve nvme --size 256M --socket "$work/nvme.sock" >"$work/log" &
	server=$!
	for _ in $(seq 100); do
		grep -q "^serving" "$work/log" && break
		kill -0 "$server" 2>/dev/null || { cat "$work/log"; exit 1; }
		sleep 0.05
	done
	DEV=user:$work/nvme.sock T=3 bash -euc "$job"
	;;
lab)
	truncate -s 256M "$work/disk.img"
	"$top/test/guest/vm" --kernel stock --nvme "$work/disk.img" --timeout 600 -- sh -euc "
		svio bind 0000:01:00.0
		export DEV=0000:01:00.0 T=5
		$job"
	;;
*)
	echo "usage: demo.sh BUILD native|lab" >&2
	exit 2
	;;
esac
echo
echo "That was a poll-mode NVMe driver. README.md tells how it works, and how to run it on your hardware."
