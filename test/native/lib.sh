# SPDX-License-Identifier: BSD-3-Clause
#
# To be sourced by t_*.sh: servers that are started, waited for and stopped; runs of `svio nvme perf`, judged by their JSON.
# Every process that is started has a time limit and is gone when the script ends.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${SVIO_BUILD:-$here/../../build}
svio=$build/apps/svio
probes=$build/test/native
limit=${SVIO_NATIVE_LIMIT:-120} # seconds that one command may take; a busy machine is slow, and no test measures
dir=$(mktemp -d "${TMPDIR:-/tmp}/svio-native.XXXXXX") || exit 1
failed=0
started=() # process ids
preload=
guard="" pid="" # of the server: timeout(1), and svio itself

# Not by name: others run svio too.
finish()
{
	local p
	# timeout(1) cannot pass SIGKILL on: its child is named, too.
	for p in "${started[@]}"; do kill -KILL $(cat "/proc/$p/task/$p/children" 2>/dev/null) "$p" 2>/dev/null; done
	wait 2>/dev/null
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP PIPE # whoever reads may go first

# check NAME COMMAND...: one test; what it prints is shown when it fails
check()
{
	local name=$1
	shift
	if "$@" >"$dir/why" 2>&1; then
		echo "ok - $name"
	else
		echo "not ok - $name"
		sed 's/^/# /' "$dir/why"
		failed=1
	fi
}

# wait_for CONDITION: a shell expression that others will make true; for up to $limit seconds
wait_for()
{
	local end=$((SECONDS + limit))
	until eval "$1"; do
		[ $SECONDS -lt $end ] || { echo "never: $1"; return 1; }
		sleep 0.02
	done
}

# A process that has ended but was not waited for is a zombie (proc(5)).
running() { [ -e "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

# serve NAME MODEL --socket PATH...: in the background, with the library $preload in front when there is one; its output is $dir/NAME.out, its process id $pid
serve()
{
	local name=$1 devices=0 word
	shift
	# One server at a time: that of a test that failed is not in the way of the next.
	if [ -n "${pid-}" ] && running "$pid"; then kill -KILL "$pid"; wait "$guard" 2>/dev/null; fi
	pid=
	rm -f "$dir/$name.out"
	for word in "$@"; do [ "$word" != --socket ] || devices=$((devices + 1)); done
	timeout -k 1 $((limit * 4)) env ${preload:+"LD_PRELOAD=$preload"} "$svio" serve "$@" >"$dir/$name.out" 2>"$dir/$name.err" &
	guard=$!
	started+=("$guard")
	wait_for "[ \$(grep -c '^serving ' $dir/$name.out) = $devices ] || ! running $guard" || return 1
	# timeout(1) has one child.
	pid=$(cat "/proc/$guard/task/$guard/children" 2>/dev/null)
	pid=${pid%% *}
	[ -n "$pid" ] || { echo "the server did not start:"; cat "$dir/$name.out" "$dir/$name.err"; return 1; }
	started+=("$pid")
}

# stop NAME: by SIGTERM; it must end well and take its sockets with it
stop()
{
	local rc=0
	kill -TERM "$pid" || return 1
	wait "$guard" || rc=$?
	[ $rc = 0 ] || { echo "the server's exit code is $rc"; cat "$dir/$1.err"; return 1; }
	! find "$dir" -type s | grep . || { echo "a socket is left"; return 1; }
	grep -q '^served ' "$dir/$1.out" || { echo "no statistics"; cat "$dir/$1.out"; return 1; }
	complaints "$dir/$1.err"
}
# What sanitizers say, in whatever process.
complaints() { ! grep -E 'Sanitizer|runtime error' -A 20 "$1"; }
# counter NAME COUNTER: of the (first) device's statistics, after stop
counter() { sed -n "s/^served .*[:,] $2 \([0-9]*\).*/\1/p" "$dir/$1.out" | head -n 1; }

# run EXIT_CODE ARGUMENTS...: svio; its streams are $dir/out and $dir/err
run()
{
	local want=$1 got=0
	shift
	timeout -k 1 "$limit" "$svio" "$@" >"$dir/out" 2>"$dir/err" || got=$?
	complaints "$dir/err" || return 1
	[ $got = "$want" ] || { echo "svio $*: exit code $got, expected $want"; cat "$dir/out" "$dir/err"; return 1; }
}
says() { grep -qF -e "$1" "$dir/err" || { echo "stderr lacks: $1"; cat "$dir/err"; return 1; }; }

# Of every run that ends well: each request completed once, and without an error.
clean=('r["ok"]' 'lost == 0' 'r["double"] == 0' 'verify_errors == 0' 'submitted == completed_ok + completed_err'
	'submitted > 0' 'completed_err == 0')
# … and with --verify all that was written was read again, and is right.
proved=("${clean[@]}" 'verify["read_back"]' 'verify["places_written"] > 0'
	'verify["places_read_back"] == verify["places_written"]' 'verify["ok"] > 0')

# perf EXIT_CODE ARGUMENTS... -- EXPRESSION...: run it; members of its JSON are Python variables of the expressions
perf()
{
	local want=$1 args=()
	shift
	while [ "$1" != -- ]; do args+=("$1"); shift; done
	shift
	run "$want" nvme perf "${args[@]}" --json || return 1
	judge "$dir/out" "$@"
}

# judge FILE EXPRESSION...
judge()
{
	python3 - "$@" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
bad = [e for e in sys.argv[2:] if not eval(e, {}, dict(r, r=r))]
if bad:
    r.pop("series", None)
    sys.exit("\n".join("not so: " + b for b in bad) + "\n" + json.dumps(r, indent=1))
PY
}

# Descriptors and mappings of a process; its memory in KiB.
fds_of() { ls "/proc/$1/fd" | wc -l; }
maps_of() { wc -l <"/proc/$1/maps"; }
rss_of() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$1/status"; }
