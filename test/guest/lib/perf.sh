# SPDX-License-Identifier: BSD-3-Clause
#
# What t_nvme.sh and t_survive.sh share: running `svio nvme perf --json` in the guest, and judging its results on the host.
# To be sourced; `dir` is a directory for files.

# For the guest's scripts. Every perf run becomes one line on stdout:
#	PERF NAME EXITCODE {...}
# and what it said on stderr comes through, for markers and for people.
cat >"$dir/guest.sh" <<'GUEST'
# check NAME COMMAND...
check()
{
	name=$1
	shift
	if "$@" >/tmp/why 2>&1; then
		echo "ok - $name"
	else
		echo "not ok - $name"
		sed 's/^/# /' /tmp/why
	fi
}
# run EXIT_CODE ARGUMENTS...: svio; its streams are in /tmp/out and /tmp/err
run()
{
	want=$1
	shift
	svio "$@" >/tmp/out 2>/tmp/err
	got=$?
	[ $got = "$want" ] || { echo "svio $*: exit code $got, expected $want"; cat /tmp/out /tmp/err; return 1; }
}
says() { grep -qF -e "$1" /tmp/err || { echo "stderr lacks: $1"; cat /tmp/err; return 1; }; }
# perf NAME ARGUMENTS...
perf()
{
	tag=$1
	shift
	svio nvme perf "$@" --json >/tmp/perf.json
	code=$?
	echo "PERF $tag $code $(tr -d '\n' </tmp/perf.json)"
}
# wait_for CONDITION: a shell expression, for up to 30 s
wait_for()
{
	tries=0
	until eval "$1"; do
		tries=$((tries + 1))
		[ $tries -lt 600 ] || { echo "never: $1"; return 1; }
		usleep 50000
	done
}
GUEST

failed=0
verdict() # STATUS NAME [WHY-FILE]
{
	if [ "$1" = 0 ]; then
		echo "ok - $2"
	else
		echo "not ok - $2"
		[ -z "${3-}" ] || sed 's/^/# /' "$3"
		failed=1
	fi
}

check() # NAME COMMAND...
{
	local name=$1
	shift
	"$@" >"$dir/why" 2>&1
	verdict $? "$name" "$dir/why"
}

# boot OPTION... -- COMMAND...: the guest's own "ok - " lines come through; its output stays in $dir/out.
boot()
{
	# The host's clock decides when a guest hangs; emulation on a busy machine is slow.
	"$here/vm" --kernel "$kernel" --timeout 600 "$@" >"$dir/out" 2>"$dir/err"
	status=$?
	grep -E '^(ok|not ok|#) ' "$dir/out"
	grep -q '^not ok - ' "$dir/out" && failed=1
	check "$kernel: the guest ran to its end" guest_ended $status
}
guest_ended() { [ "$1" = 0 ] || { echo "vm: exit code $1"; tail -n 40 "$dir/err"; return 1; }; }

# gone ID: for --qmp-at, a device is unplugged
gone() { echo '{"execute":"device_del","arguments":{"id":"'"$1"'"}},{"wait":"DEVICE_DELETED","data":{"device":"'"$1"'"}}'; }

# judge NAME EXIT_CODE EXPRESSION...: of the run called NAME; its JSON's members are Python variables.
judge()
{
	local name=$1
	check "$kernel: $name" python3 - "$dir/out" "$dir/err" "$@" <<'PY'
import json, re, sys
out, err, name, code, *expressions = sys.argv[1:]
runs = [l.split(" ", 3) for l in open(out, errors="replace") if l.startswith(f"PERF {name} ")]
if len(runs) != 1:
    sys.exit(f"{len(runs)} results of {name}")
try:
    r = json.loads(runs[0][3])
except ValueError:
    sys.exit(f"exit code {runs[0][2]} and no JSON: {runs[0][3]!r}")
bad = [e for e in expressions if not eval(e, {}, dict(r, r=r))]
if runs[0][2] != code:
    bad.insert(0, f"exit code {code} (it was {runs[0][2]})")
if bad:
    r.pop("series", None)
    print(*(f"not so: {b}" for b in bad), json.dumps(r, indent=1), sep="\n")
    print(*open(err, errors="replace").read().splitlines()[-20:], sep="\n")
    sys.exit(1)
PY
}

# What holds for every run that ends well. "double" is the JSON's name for completed twice.
clean=('r["ok"]' 'lost == 0' 'r["double"] == 0' 'verify_errors == 0' 'submitted == completed_ok + completed_err'
	'submitted > 0')
# … and that wrote with --verify.
proved=('verify["read_back"]' 'verify["places_written"] > 0' 'verify["places_read_back"] == verify["places_written"]'
	'verify["ok"] > 0')
