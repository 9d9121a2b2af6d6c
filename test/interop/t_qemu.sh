#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_qemu.sh [--kernel NAME] [CASE]...
#
# QEMU's vfio-user-pci is the client, a stock Linux the driver: our NVMe model is its disk. In each boot there are three
# controllers, with MSI-X, with MSI only and with INTx only, and an edu device. On each disk the guest makes a file system,
# writes files, reads them again after a new mount, and unmounts; then the server is stopped and the image judged on the host:
# e2fsck, and the SHA-256 of every file as the guest computed it. Cases, all of them by default:
#
#	shared		guest memory in a memfd that the server maps
#	messages	no shared memory: all DMA is by messages
#	shared-vtd	the same two behind a strict virtual IOMMU
#	messages-vtd
#	interrupt	shared-vtd, and the server sleeps instead of polling (no mapped doorbells)
set -u

here=$(cd "$(dirname "$0")" && pwd)
build=${SVIO_BUILD:-$here/../../build}
svio=${SVIO:-$build/apps/svio}
kernel=stock
[ "${1-}" = --kernel ] && { kernel=$2; shift 2; }
[ $# -gt 0 ] || set -- shared messages shared-vtd messages-vtd interrupt
PATH=$PATH:/usr/sbin:/sbin
failed=0
server=
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-qemu.XXXXXX") || exit 1
cleanup() { [ -z "$server" ] || kill -9 "$server" 2>/dev/null; rm -rf "$dir"; }
trap cleanup EXIT
trap 'exit 130' INT TERM

check() # NAME COMMAND...
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

# ---- in the guest --------------------------------------------------------------------------------------

cat >"$dir/guest.sh" <<'GUEST'
vtd=$1
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
wait_for() # COMMAND: true within a minute
{
	tries=600
	until "$@"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || { echo "waited in vain: $*"; return 1; }
		usleep 100000
	done
}
disk_of() { set -- /sys/bus/pci/devices/$1/nvme/nvme*/nvme*n1; [ -e "$1" ] && basename "$1"; }

# Interrupts of a device's queues so far, of the kind that the pattern names.
interrupts() # ADDRESS PATTERN
{
	ctrl=$(basename /sys/bus/pci/devices/$1/nvme/nvme*)
	grep -E "[ ,]${ctrl}q[0-9]" /proc/interrupts | grep -E "$2" |
		awk '{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }'
}

# Two seconds' worth of emulated work: files small and large, a deep directory, a sparse file, holes made again.
write_files() # DIRECTORY
{
	dd if=/dev/urandom of=$1/random bs=64k count=24 2>/dev/null &&
	seq 20000 >$1/numbers && mkdir -p $1/many/a/b/c || return 1
	for i in $(seq 40); do echo "$i $1" >$1/many/a/b/c/$i || return 1; done
	rm $1/many/a/b/c/1*
	dd if=$1/random of=$1/direct bs=256k count=3 oflag=direct 2>/dev/null &&
	dd if=$1/random of=$1/sparse bs=4k count=3 seek=1000 2>/dev/null
}

data() # DISK
{
	mkfs.ext4 -q /dev/$1 && mkdir -p /mnt/$1 && mount -t ext4 /dev/$1 /mnt/$1 && write_files /mnt/$1 &&
	(cd /mnt/$1 && find . -type f | sort | xargs sha256sum) >/tmp/sums && sync && umount /mnt/$1 &&
	mount -t ext4 -o ro /dev/$1 /mnt/$1 && (cd /mnt/$1 && sha256sum -c /tmp/sums) && umount /mnt/$1
}

# The controller with INTx comes last, when one CPU is left. QEMU without KVM takes any access to a BAR for the end of an INTx: when a second
# CPU rings a doorbell while the first is in the handler, the pin may rise again with nothing to do, and stay. (MSI and MSI-X have no such end.)
intx_alone() { echo 0 >/sys/devices/system/cpu/cpu1/online && echo >$intx/driver_override && echo ${intx##*/} >/sys/bus/pci/drivers_probe; }
intx=/sys/bus/pci/devices/0000:03:00.0
echo none >$intx/driver_override
check "guest: nvme is loaded" modprobe nvme
for kind in msix msi intx; do
	case $kind in
	msix) a=0000:01:00.0 pattern=PCI-MSIX- ;;
	msi) a=0000:02:00.0 pattern=PCI-MSI- ;;
	intx)
		a=0000:03:00.0 pattern=IO-APIC
		check "guest: intx: one CPU, and the driver" intx_alone
		;;
	esac
	check "guest: $kind: the disk is there" wait_for disk_of $a
	disk=$(disk_of $a)
	before=$(interrupts $a "$pattern")
	check "guest: $kind: files written and read again" data $disk
	mv /tmp/sums /tmp/sums-$kind
	after=$(interrupts $a "$pattern")
	check "guest: $kind: its interrupts came" [ "$after" -gt "$before" ]
	echo "INTERRUPTS $kind $after"
done
if [ "$vtd" = yes ]; then
	strict() { [ "$(cat /sys/bus/pci/devices/$1/iommu_group/type)" = DMA ]; }
	check "guest: the disks are behind a strict IOMMU" eval 'strict 0000:01:00.0 && strict 0000:02:00.0 && strict 0000:03:00.0'
else
	check "guest: no IOMMU" [ ! -e /sys/bus/pci/devices/0000:01:00.0/iommu_group ]
fi
distinct() { cat /sys/class/nvme/*/serial; [ "$(sort -u /sys/class/nvme/*/serial | wc -l)" = 3 ] && [ "$(sort -u /sys/class/nvme/*/subsysnqn | wc -l)" = 3 ]; }
check "guest: three controllers, not one thrice" distinct
# edu: identification 0x010000ed at 0, and at 4 a register that reads as the inverse of what was written (QEMU's edu.rst).
edu()
{
	e=/sys/bus/pci/devices/0000:04:00.0
	[ "$(cat $e/vendor)$(cat $e/device)" = 0x12340x11e8 ] && echo 1 >$e/enable && bar=$(awk 'NR == 1 { print $1 }' $e/resource) &&
	echo "BAR0 at $bar" && [ "$(devmem $bar 32)" = 0x010000ED ] && devmem $((bar + 4)) 32 0x12345678 &&
	[ "$(devmem $((bar + 4)) 32)" = 0xEDCBA987 ]
}
check "guest: edu's registers" edu
# Nothing that the kernel complained about (I/O errors, timeouts, faults of the IOMMU).
quiet() { ! dmesg | grep -E 'nvme.*(timeout|error|fail|duplicate|abort)|I/O error|DMAR:.*fault|nobody cared|EXT4-fs error'; }
check "guest: the kernel found nothing wrong" quiet
GUEST

# ---- on the host ---------------------------------------------------------------------------------------

device() { echo '{"driver":"vfio-user-pci","bus":"'"$1"'","socket":{"type":"unix","path":"'"$2"'"}}'; }

start_server() # OPTION...
{
	local n=0
	truncate -s 24M "$dir/msix.img" "$dir/msi.img" "$dir/intx.img"
	"$svio" serve --json "$@" nvme,queues=4,file="$dir/msix.img" --socket "$dir/msix" \
		nvme,queues=4,irq=msi,file="$dir/msi.img" --socket "$dir/msi" \
		nvme,queues=4,irq=intx,file="$dir/intx.img" --socket "$dir/intx" edu --socket "$dir/edu" \
		>"$dir/server.out" 2>"$dir/server.err" &
	server=$!
	until [ -S "$dir/msix" ] && [ -S "$dir/msi" ] && [ -S "$dir/intx" ] && [ -S "$dir/edu" ]; do
		n=$((n + 1))
		if [ $n -gt 600 ] || ! kill -0 $server 2>/dev/null; then
			cat "$dir/server.err"
			return 1
		fi
		sleep 0.1
	done
}

# In order: sockets removed, and exit code 0.
stop_server()
{
	local rc
	kill -TERM $server
	wait $server
	rc=$?
	server=
	[ $rc = 0 ] || { echo "the server's exit code is $rc"; cat "$dir/server.err"; return 1; }
	[ ! -e "$dir/msix" ] && [ ! -e "$dir/edu" ] || { echo "sockets are left"; return 1; }
}

vm_ended() { [ "$1" = 0 ] || { echo "vm: exit code $1"; tail -n 40 "$dir/err"; tail -n 5 "$dir/server.err"; return 1; }; }

image() # KIND: what is in it, without mounting
{
	fsck.ext4 -fn "$dir/$1.img" || return 1
	rm -rf "$dir/tree" && mkdir "$dir/tree" && debugfs -R "rdump / $dir/tree" "$dir/$1.img" || return 1
	[ "$(wc -l <"$dir/sums-$1")" -ge 30 ] || { echo "the guest wrote too few files"; return 1; }
	(cd "$dir/tree" && sha256sum -c --strict "$dir/sums-$1" && [ "$(find . -type f | wc -l)" = "$(wc -l <"$dir/sums-$1")" ])
}

# The way that the case is about was taken: the server's own counters. The order of devices is start_server's.
counters() # shared|messages vtd yes|no
{
	python3 - "$dir/server.out" "$dir/out" "$@" <<'PY'
import json, sys
path, guest, memory, vtd = sys.argv[1:]
devices = json.load(open(path))
print(json.dumps(devices, indent=1))
taken = dict(l.split()[1:3] for l in open(guest, errors="replace") if l.startswith("INTERRUPTS "))
print("interrupts that the guest took:", taken)
for d in devices[:3]:
    assert d["connects"] == 1 and d["disconnects"] == 1 and d["protocol_errors"] == 0
    assert (d["dma_messages"] > 100) if memory == "messages" else (d["dma_messages"] == 0)
    assert (d["dma_maps"] > 500) if vtd == "yes" else (d["dma_maps"] < 100)
# No interrupt without a signal. An INTx that stays up for nothing is a storm, of thousands; a few more than were signalled are QEMU's.
for d, kind in zip(devices, ("msix", "msi", "intx")):
    assert 0 < int(taken[kind]) <= d["interrupts"] + (1000 if kind == "intx" else 0)
assert devices[3]["region_reads"] > 0
PY
}

boot() # CASE shared|messages vtd(yes|no) SERVER_OPTION...
{
	local name=$1 memory=$2 vtd=$3 kind options=()
	shift 3
	check "$name: server" start_server "$@"
	[ -n "$server" ] || return
	[ $memory = shared ] && options+=(--memfd)
	if [ $vtd = yes ]; then options+=(--append iommu.strict=1); else options+=(--iommu none); fi
	"$here/../guest/vm" --kernel "$kernel" --mem 384M --no-vfio --ports 4 --timeout 400 "${options[@]}" \
		--device "$(device hp0 "$dir/msix")" --device "$(device hp1 "$dir/msi")" \
		--device "$(device hp2 "$dir/intx")" --device "$(device hp3 "$dir/edu")" \
		--add "$(command -v mkfs.ext4):/usr/sbin/mkfs.ext4" --add /etc/mke2fs.conf --add "$dir/guest.sh:/guest.sh" \
		--out "/tmp/sums-msix:$dir/sums-msix" --out "/tmp/sums-msi:$dir/sums-msi" --out "/tmp/sums-intx:$dir/sums-intx" \
		-- sh /guest.sh $vtd >"$dir/out" 2>"$dir/err"
	check "$name: the guest ran to its end" vm_ended $?
	sed -nE "s/^(ok - |not ok - |# )/\1$name: /p" "$dir/out"
	grep -q '^not ok - ' "$dir/out" && failed=1
	check "$name: the server ended in order" stop_server
	check "$name: $memory memory was used, and each interrupt was signalled" counters "$memory" "$vtd"
	for kind in msix msi intx; do
		check "$name: $kind: the file system and its files, on the host" image $kind
	done
	rm -f "$dir"/*.img "$dir"/sums-*
}

for name in "$@"; do
	case $name in
	shared) boot shared shared no ;;
	messages) boot messages messages no ;;
	shared-vtd) boot shared-vtd shared yes ;;
	messages-vtd) boot messages-vtd messages yes ;;
	interrupt) boot interrupt shared yes --interrupt ;;
	*) echo "not ok - no case $name; see the head of $0"; exit 2 ;;
	esac
done
exit $failed
