#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The svio command from outside: help, usage errors, exit codes, JSON, and that it answers without starting EAL.
# Usage: cli.sh SVIO. Prints one line per test in CUnit's form, so that it is counted like the others.
set -u
svio=$1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
failed=0

check() { # NAME COMMAND...
	local name=$1
	shift
	if "$@" >"$dir/log" 2>&1; then
		echo "  Test: $name ...passed"
	else
		echo "  Test: $name ...FAILED"
		sed 's/^/    /' "$dir/log"
		failed=1
	fi
}

# run EXIT_CODE ARGUMENTS...: the streams are in $dir/out and $dir/err afterwards
run() {
	local want=$1 got=0
	shift
	"$svio" "$@" >"$dir/out" 2>"$dir/err" </dev/null || got=$?
	[ "$got" = "$want" ] && return 0
	echo "svio $*: exit code $got, expected $want"
	cat "$dir/out" "$dir/err"
	return 1
}
out_has() { grep -qF -- "$1" "$dir/out" || { echo "stdout lacks: $1"; cat "$dir/out"; return 1; }; }
err_has() { grep -qF -- "$1" "$dir/err" || { echo "stderr lacks: $1"; cat "$dir/err"; return 1; }; }
no_out() { [ ! -s "$dir/out" ] || { echo "unexpected on stdout:"; cat "$dir/out"; return 1; }; }
no_err() { [ ! -s "$dir/err" ] || { echo "unexpected on stderr:"; cat "$dir/err"; return 1; }; }

commands="list info doctor bind unbind nvme copy crc dsa serve"

help_names_all() {
	local form c
	for form in help --help -h; do
		run 0 $form && no_err || return 1
		for c in $commands; do out_has "  $c " || return 1; done
	done
}
help_of_each() {
	local c
	for c in $commands; do
		run 0 help "$c" && no_err && out_has "svio $c" || return 1
		cp "$dir/out" "$dir/first"
		run 0 "$c" --help && cmp "$dir/out" "$dir/first" || return 1
	done
}
version() {
	run 0 --version && grep -qE '^svio [0-9]+\.[0-9]+\.[0-9]+$' "$dir/out" && no_err
}
no_command() { run 2 && no_out && err_has "Usage: svio"; }
unknown_command() {
	run 2 lsit && no_out && err_has "did you mean 'svio list'?" || return 1
	run 2 unbid && err_has "did you mean 'svio unbind'?" || return 1
	run 2 help doktor && err_has "did you mean 'svio doctor'?" || return 1
	run 2 somethingelse && err_has "svio help" && ! grep -q "did you mean" "$dir/err" || return 1
	run 2 "$(printf 'x%.0s' {1..5000})" && err_has "is no command"
}
usage_errors() {
	run 2 --nonsense && err_has "--nonsense" || return 1
	run 2 list --nonsense && err_has "svio list" && no_out || return 1
	run 2 list extra && no_out || return 1
	run 2 info && err_has "which device?" || return 1
	run 2 info a:0 b:0 && err_has "one device at a time" || return 1
	run 2 info nonsense && err_has "'nonsense' is no device" || return 1
	run 2 bind && err_has "which device?" || return 1
	run 2 bind 1:2:3:4 && err_has "'1:2:3:4' is no PCI address" || return 1
	run 2 unbind zz && err_has "'zz' is no PCI address" || return 1
	run 2 bind --driver && no_out
}
# A domain that no machine has.
absent=fffffff0:00:00.0
absent_device() {
	run 1 info $absent && no_out && err_has "svio: $absent: there is no such PCI function" || return 1
	run 1 bind $absent && no_out && err_has "svio: $absent" || return 1
	run 1 unbind $absent && no_out && err_has "svio: $absent"
}
json_list() {
	run 0 list --all --json && no_err || return 1
	python3 - "$dir/out" <<'PY'
import json, os, sys
got = json.load(open(sys.argv[1]))
want = sorted(os.listdir('/sys/bus/pci/devices')) if os.path.isdir('/sys/bus/pci/devices') else []
assert sorted(d['address'] for d in got) == want, (got, want)
for d in got:
    path = '/sys/bus/pci/devices/' + d['address']
    assert int(d['vendor_id'], 16) == int(open(path + '/vendor').read(), 16)
    driver = os.path.basename(os.readlink(path + '/driver')) if os.path.islink(path + '/driver') else None
    assert d['driver'] == driver, d
    assert d['svio']['state'] in ('ready', 'bindable', 'blocked', 'never')
    assert d['svio']['state'] == 'ready' or d['svio']['note']
PY
}
json_info() {
	local d
	for d in /sys/bus/pci/devices/*; do
		[ -e "$d" ] || continue
		run 0 info "${d##*/}" --json && no_err || return 1
		python3 -c 'import json, sys
got = json.load(open(sys.argv[1]))
assert got["device"] == got["pci"]["address"] == sys.argv[2], got
assert isinstance(got["capabilities"], list) and isinstance(got["bars"], list)
assert "transport" in got or got["missing"]' "$dir/out" "${d##*/}" || return 1
		run 0 info "${d##*/}" && no_err && out_has "${d##*/}" || return 1
	done
}
json_doctor() {
	local rc=0
	"$svio" doctor --json >"$dir/out" 2>"$dir/err" || rc=$?
	no_err && python3 - "$dir/out" $rc <<'PY'
import json, os, sys
got, rc = json.load(open(sys.argv[1])), int(sys.argv[2])
checks = {f['check'] for f in got['findings']}
assert {'iommu', 'module', 'permissions', 'memlock', 'hugepages', 'device', 'sva'} <= checks, checks
failed = [f for f in got['findings'] if f['status'] == 'fail']
assert rc == (1 if failed else 0) and got['ready'] == (not failed), (rc, failed)
assert all(f['remedy'] for f in failed), failed
assert all(f['fixed'] is None for f in got['findings'])      # nobody asked
groups = os.path.isdir('/sys/kernel/iommu_groups') and os.listdir('/sys/kernel/iommu_groups')
iommu = next(f for f in got['findings'] if f['check'] == 'iommu')
assert iommu['status'] == ('ok' if groups else 'fail'), iommu
PY
}
# A failure is JSON's absence, not half a document.
json_error() { run 1 info $absent --json && no_out && err_has "$absent"; }

full_disk() {
	[ -e /dev/full ] || return 0
	local rc=0
	"$svio" list --all >/dev/full 2>"$dir/err" || rc=$?
	[ $rc = 1 ] && err_has "cannot write" || return 1
	rc=0
	"$svio" list --all --json >/dev/full 2>"$dir/err" || rc=$?
	[ $rc = 1 ] && err_has "cannot write"
}
# EAL would open its runtime directory and map hugepages; these commands touch neither. Without strace, say so and pass.
no_eal() {
	local c
	command -v strace >/dev/null || { echo "no strace"; return 0; }
	for c in "list --all" "doctor" "info $absent" "help"; do
		# shellcheck disable=SC2086
		strace -f -e trace=file,network -o "$dir/trace" "$svio" $c >/dev/null 2>&1
		[ -s "$dir/trace" ] || return 0 # not permitted here
		! grep -E '/dpdk/rte|/dev/hugepages|mp_socket' "$dir/trace" || return 1
	done
}

check "help names every command" help_names_all
check "help CMD and CMD --help are the same" help_of_each
check "--version" version
check "no command is a usage error" no_command
check "an unknown command is answered with the nearest" unknown_command
check "usage errors exit with 2 and say why" usage_errors
check "an absent device exits with 1 and says which" absent_device
check "list --json agrees with sysfs" json_list
check "info --json of every function here" json_info
check "doctor --json: exit code, remedies, IOMMU" json_doctor
check "a failed command prints no JSON" json_error
check "output that cannot be written is a failure" full_disk
check "no EAL is started" no_eal
exit $failed
