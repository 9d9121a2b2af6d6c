#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# `svio serve` as a process: options, sockets, several devices, refusals, signals.
set -u
. "$(dirname "$0")/lib.sh"

list_json() { run 0 serve --list --json && python3 -c 'import json,sys; assert {m["model"] for m in json.load(open(sys.argv[1]))} >= {"nvme","edu"}' "$dir/out"; }
list() { run 0 serve --list && grep -q '^nvme .*queues=N' "$dir/out" && grep -q '^edu ' "$dir/out" && list_json; }
check "--list names the models and their options" list

# usage WORDS ARGUMENTS...; failure the same, of what the command line alone does not show
usage() { local w=$1; shift; run 2 serve "$@" && says "$w" && [ ! -s "$dir/out" ]; }
failure() { local w=$1; shift; run 1 serve "$@" && says "$w" && [ ! -s "$dir/out" ] && ! find "$dir" -type s | grep .; }
check "no model" usage "which model?"
check "an option before its model" usage "MODEL before it" --size 1G nvme --socket "$dir/s"
check "no socket" usage "--socket PATH" nvme
check "a socket for two devices" usage "given twice" nvme --socket "$dir/s" edu --socket "$dir/s"
check "two sockets for a device" usage "one already" nvme --socket "$dir/s" --socket "$dir/t"
check "a comma in a value" usage "a comma" nvme --socket "$dir/s" --file a,b
check "an unknown model names those that exist" failure "there are: dsa edu nvme" nmve --socket "$dir/s"
check "an option that the model has not" failure "edu has no option" edu --socket "$dir/s" --queues 4
check "a file that is not there" failure "truncate -s 1G" nvme --socket "$dir/s" --file "$dir/none"
check "rules that are none" failure "expected RULE" nvme --socket "$dir/s" --inject nonsense
check "a CPU that is not there" failure "--cpu 1023" nvme --socket "$dir/s" --cpu 1023
check "a path too long" failure "socket paths" nvme --socket "/tmp/$(printf 'x%.0s' {1..200})"
check "the second device fails: the first leaves no socket" failure "no device model" nvme --socket "$dir/s" none --socket "$dir/t"
no_socket() { : >"$dir/file" && run 1 serve nvme --socket "$dir/file" && says "no socket" && [ -f "$dir/file" ] && rm "$dir/file"; }
check "a file in the socket's place is left alone" no_socket

mode()
{
	umask 0
	serve m nvme --size 16M --socket "$dir/s" || return 1
	umask 022
	[ "$(stat -c %a "$dir/s")" = 600 ] || { stat "$dir/s"; return 1; }
}
check "the socket's mode is 0600, whatever the umask" mode
in_use() { run 1 serve nvme --socket "$dir/s" && says "another server listens there" && [ -S "$dir/s" ]; }
check "a socket in use is refused, and stays" in_use

second() # a client that is there, and another one
{
	local holder
	timeout -k 1 "$limit" "$svio" nvme perf "user:$dir/s" --rw randread --time 600 --print-ready READY >"$dir/holder.out" 2>"$dir/holder.err" &
	holder=$!
	started+=("$holder")
	wait_for "grep -q READY $dir/holder.err || ! running $holder" || return 1
	run 1 info "user:$dir/s" && says "another client already" || return 1
	run 1 nvme identify "user:$dir/s" && says "another client already" || return 1
	running "$holder" || { echo "the first client did not survive it"; cat "$dir/holder.err"; return 1; }
	kill -INT "$(pgrep -P "$holder")" # the client itself: timeout(1) would pass it on twice, and the second time means at once
	wait "$holder"
	grep -q "interrupted" "$dir/holder.err" && grep -q " 0 with an error, 0 lost, 0 twice" "$dir/holder.out" || { cat "$dir/holder.err" "$dir/holder.out"; return 1; }
	run 0 nvme identify "user:$dir/s"
}
check "a second client is refused, the first goes on, and the next is served" second
check "SIGTERM: it ends in order" stop m
# Three: whether somebody listens there was tried by connecting.
statistics() { [ "$(counter m connects)" = 3 ] && [ "$(counter m refused)" = 2 ] && [ "$(counter m disconnects)" = 3 ] || { cat "$dir/m.out"; return 1; }; }
check "its statistics tell of them" statistics

sigint() { serve i edu --socket "$dir/s" && kill -INT "$pid" && wait "$guard" && [ ! -e "$dir/s" ] && grep -q '^served edu' "$dir/i.out"; }
check "SIGINT: it ends in order" sigint
stale() { serve k edu --socket "$dir/s" && kill -KILL "$pid"; wait "$guard"; [ -S "$dir/s" ] && run 1 info "user:$dir/s" && says "no server listens there" && serve k edu --socket "$dir/s" && run 0 info "user:$dir/s" && stop k; }
check "the socket of a dead server is replaced" stale

several()
{
	truncate -s 8M "$dir/a.img" "$dir/b.img"
	serve v nvme --size 16M --queues 2 --socket "$dir/1" edu --socket "$dir/2" nvme --file "$dir/a.img" --file "$dir/b.img" --socket "$dir/3" || return 1
	run 0 info "user:$dir/2" --json || return 1
	judge "$dir/out" 'vendor_id == "0x1234"' 'device_id == "0x11e8"' || return 1
	run 0 nvme identify "user:$dir/3" --json || return 1
	perf 0 "user:$dir/3" --nsid 2 --rw randrw --verify --time 1 -- "${proved[@]}" 'nsid == 2' || return 1
	perf 0 "user:$dir/1" --rw randrw --verify --time 1 --queues 2 -- "${proved[@]}" || return 1
	[ "$(stat -c %b "$dir/a.img")" = 0 ] || { echo "namespace 1 was written"; return 1; }
	[ "$(stat -c %b "$dir/b.img")" -gt 0 ] || { echo "namespace 2 was not written"; return 1; }
	stop v
}
check "three devices of two models in one server, one with two files" several
both() # two clients at once, of two devices of one server
{
	local a ra=0
	serve w nvme --size 16M --socket "$dir/1" nvme --size 16M --socket "$dir/2" || return 1
	timeout -k 1 "$limit" "$svio" nvme perf "user:$dir/1" --rw randrw --verify --time 2 >"$dir/first.out" 2>&1 &
	a=$!
	started+=("$a")
	perf 0 "user:$dir/2" --rw randrw --verify --time 2 -- "${proved[@]}" || return 1
	wait $a || ra=$?
	[ $ra = 0 ] || { cat "$dir/first.out"; return 1; }
	stop w
}
check "two clients at once" both

json()
{
	timeout -k 30 "$limit" "$svio" serve edu --socket "$dir/s" --json >"$dir/j.out" 2>"$dir/j.err" &
	started+=($!)
	wait_for "grep -q '^serving edu at ' $dir/j.err" && run 0 info "user:$dir/s" && kill %% && wait %% || return 1
	python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); assert len(d) == 1 and d[0]["model"] == "edu" and d[0]["connects"] == 1, d' "$dir/j.out"
}
check "--json: one document" json
kept() # what a client leaves, with and without --reset-on-close: edu's factorial of 5
{
	local how
	serve keep edu --socket "$dir/1" edu --socket "$dir/2" --reset-on-close || return 1
	for how in 1 2; do
		"$probes/keep_probe" "user:$dir/$how" write || return 1
		"$probes/keep_probe" "user:$dir/$how" read >"$dir/keep.$how" || return 1
	done
	grep -qx "kept" "$dir/keep.1" && grep -qx "reset" "$dir/keep.2" || { cat "$dir/keep.1" "$dir/keep.2"; return 1; }
	stop keep
}
check "state is kept for the next client, or reset (--reset-on-close)" kept
exit $failed
