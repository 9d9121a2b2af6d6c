#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: t_pci.sh [KERNEL]       (default: stock)
#
# Room pci and svio list, info, doctor, bind, unbind on real Linux: a real NVMe controller with a real filesystem, real
# drivers, a group that conventional PCI makes. Boots three machines; the checks run inside and print "ok - " or
# "not ok - ".
set -u

here=$(cd "$(dirname "$0")" && pwd)
kernel=${1:-stock}
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-pci.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
failed=0

# What the guest's scripts share.
cat >"$dir/lib.sh" <<'GUEST'
failed=0
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
		failed=1
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
has() { grep -qF -e "$2" "/tmp/$1" || { echo "std$1 lacks: $2"; cat "/tmp/$1"; return 1; }; }
driver() { basename "$(readlink "/sys/bus/pci/devices/$1/driver" 2>/dev/null)" 2>/dev/null; }
driver_is() { [ "$(driver "$1")" = "$2" ] || { echo "$1 is bound to '$(driver "$1")', not '$2'"; dmesg | tail -5; return 1; }; }
override_is() { [ "$(cat "/sys/bus/pci/devices/$1/driver_override")" = "$2" ]; }
# The kernel makes the disk's node a moment after the driver is bound.
wait_for()
{
	for i in $(seq 100); do
		eval "$1" && return 0
		usleep 50000
	done
	echo "never: $1"
	return 1
}
nvme=0000:01:00.0
GUEST

cat >"$dir/main.sh" <<'GUEST'
. /root/lib.sh

fresh()
{
	run 0 list && has out $nvme && has out bindable && run 0 info $nvme && has out "Not shown" &&
		has out "PCI Express" && has out "svio bind $nvme"
}
check "a fresh NVMe controller is listed as bindable" fresh

modprobe nvme && wait_for '[ -b /dev/nvme0n1 ]'

there_and_back()
{
	driver_is $nvme nvme || return 1
	run 0 bind $nvme && has out "nvme -> vfio-pci" && driver_is $nvme vfio-pci && override_is $nvme vfio-pci &&
		[ -e /run/svio/prev-driver/$nvme ] && [ ! -b /dev/nvme0n1 ] || return 1
	run 0 bind $nvme && has out "as before" || return 1
	run 0 list && has out ready || return 1
	run 0 unbind $nvme && has out "vfio-pci -> nvme" && driver_is $nvme nvme && override_is $nvme "(null)" &&
		[ ! -e /run/svio/prev-driver/$nvme ] && wait_for '[ -b /dev/nvme0n1 ]'
}
check "bind takes the controller from the kernel, unbind gives it back" there_and_back

opened()
{
	run 0 bind $nvme && run 0 info $nvme && has out "vfio group" && has out "MSI-X" && has out "Usable IOVA" &&
		has out "viable" || return 1
	# sysfs and VFIO agree on the size of BAR 0.
	[ "$(grep -c 'BAR 0 *16 KiB' /tmp/out)" = 2 ] || { cat /tmp/out; return 1; }
	run 0 unbind $nvme && wait_for '[ -b /dev/nvme0n1 ]'
}
check "info opens a bound controller" opened

mounted()
{
	mount -t ext4 -o ro /dev/nvme0n1 /mnt || { dmesg | tail; return 1; }
	run 1 bind $nvme && has err "/dev/nvme0n1 is mounted on /mnt; run: umount /mnt" && driver_is $nvme nvme &&
		override_is $nvme "(null)" && [ ! -e /run/svio/prev-driver/$nvme ] && grep -q witness /mnt/file &&
		run 0 list && has out "is mounted on /mnt" && run 1 bind --json $nvme
	rc=$?
	umount /mnt
	return $rc
}
check "a mounted filesystem forbids bind, and stays readable" mounted

elsewhere()
{
	unshare -m sh -c 'mount -t ext4 -o ro /dev/nvme0n1 /mnt && touch /tmp/up && exec sleep 1000' &
	pid=$!
	wait_for '[ -e /tmp/up ]' && ! grep -q nvme0n1 /proc/self/mountinfo && run 1 bind $nvme &&
		has err "the kernel holds /dev/nvme0n1" && driver_is $nvme nvme
	rc=$?
	kill $pid
	wait $pid 2>/dev/null
	return $rc
}
check "so does one in another mount namespace" elsewhere

forced()
{
	mount -t ext4 -o ro /dev/nvme0n1 /mnt && run 0 bind --force $nvme && driver_is $nvme vfio-pci
	rc=$?
	umount /mnt
	run 0 unbind $nvme && wait_for '[ -b /dev/nvme0n1 ]' && return $rc
}
check "--force does not ask" forced

refusing_driver()
{
	# virtio-pci looks at the device ID when it probes, and declines.
	run 1 bind --driver virtio-pci $nvme && has err "virtio-pci does not accept it" && driver_is $nvme nvme &&
		override_is $nvme "(null)" && [ ! -e /run/svio/prev-driver/$nvme ] && wait_for '[ -b /dev/nvme0n1 ]' &&
		run 1 bind --driver no_such_driver $nvme && has err "modprobe no_such_driver" && driver_is $nvme nvme
}
check "a driver that declines: the previous one has it again" refusing_driver

held()
{
	run 0 bind $nvme || return 1
	group=$(basename "$(readlink /sys/bus/pci/devices/$nvme/iommu_group)")
	sh -c "exec 3<>/dev/vfio/$group; touch /tmp/held; exec sleep 1000" &
	pid=$!
	wait_for '[ -e /tmp/held ]' && run 1 unbind $nvme && has err "process $pid has IOMMU group $group open" &&
		driver_is $nvme vfio-pci && run 0 info $nvme && has out "Not shown"
	rc=$?
	kill $pid
	wait $pid 2>/dev/null
	run 0 unbind $nvme && driver_is $nvme nvme && return $rc
}
check "a process that has the group open forbids unbind, and is named" held

bridge_refused() { run 1 bind 0000:00:01.0 && has err "bridge"; }
check "a bridge is refused" bridge_refused

# Two conventional functions behind a PCIe-to-PCI bridge share its group.
edu=$(svio list | awk '$2 == "1234:11e8" { print $1 }')
nic=$(svio list | awk '$2 == "8086:100e" { print $1 }')
modprobe e1000
not_viable()
{
	driver_is "$nic" e1000 && run 0 bind "$edu" && run 0 list && has out "$nic is bound to e1000 (run: svio bind $nic)" &&
		run 0 info "$edu" && has out "not viable" && has out "$nic" && has out "to conventional PCI hides" &&
		has out "Not shown"
}
check "a group that is not viable is explained device by device" not_viable

made_viable()
{
	# The kernel's verdict is the measure: after what svio says is done, the device opens.
	run 0 bind "$nic" || return 1
	run 0 info "$edu" || return 1
	if grep -q "not viable" /tmp/out; then
		# A driver on the bridge: its remedy is in the text.
		sh -c "$(sed -n 's/.*(run: \(echo [^)]*\)).*/\1/p' /tmp/out | head -1)" && run 0 info "$edu" || return 1
	fi
	has out "viable" && has out "vfio group" && run 0 unbind "$nic" "$edu" && driver_is "$nic" e1000
}
check "and becomes viable by the remedy given" made_viable

doctor_ready()
{
	run 0 doctor && has out "0 failures" && has out "groups behind dmar" && has out "interrupts are remapped" &&
		has out "$nvme (nvme) can be used" && has out "none reserved" && has out "hugeadm" || return 1
	run 0 doctor --json && has out '"ready": true'
}
check "doctor finds the machine ready" doctor_ready

doctor_fix()
{
	[ "$(cat /proc/sys/vm/nr_hugepages)" = 0 ] && run 0 doctor --fix && has out "fixed: reserved" || return 1
	[ "$(cat /proc/sys/vm/nr_hugepages)" -ge 32 ] && run 0 doctor && ! grep -q "none reserved" /tmp/out
}
check "doctor --fix reserves hugepages" doctor_fix

as_user()
{
	want=$1
	shift
	su user -c "svio $*" >/tmp/out 2>/tmp/err
	got=$?
	[ $got = "$want" ] || { echo "as user: svio $*: exit code $got, expected $want"; cat /tmp/out /tmp/err; return 1; }
}
ordinary_user()
{
	run 0 bind $nvme || return 1
	as_user 1 doctor && has out "closed to this user" && has out "99-svio-vfio.rules" && has out "svio-limits.conf" &&
		as_user 1 doctor --fix && as_user 1 unbind $nvme && has err "needs root" && driver_is $nvme vfio-pci &&
		as_user 1 bind --driver nvme $nvme && driver_is $nvme vfio-pci && as_user 0 info $nvme &&
		has out "Not shown" && as_user 0 list && has out $nvme
	rc=$?
	run 0 unbind $nvme && driver_is $nvme nvme && return $rc
}
check "an ordinary user is told what to install, and changes nothing" ordinary_user

quick()
{
	start=$(cut -d' ' -f1 /proc/uptime | tr -d .)
	for i in 1 2 3 4 5; do svio list >/dev/null || return 1; done
	end=$(cut -d' ' -f1 /proc/uptime | tr -d .)
	echo "five times svio list under emulation: $((end - start)) centiseconds"
}
quick | sed 's/^/# /'
exit $failed
GUEST

cat >"$dir/novfio.sh" <<'GUEST'
. /root/lib.sh
unloaded()
{
	[ ! -d /sys/module/vfio_pci ] && run 1 doctor && has out "vfio_pci is not loaded" && has out "modprobe vfio_pci" &&
		[ ! -d /sys/module/vfio_pci ]
}
check "doctor fails without VFIO's modules, and loads none" unloaded
fixed() { run 0 doctor --fix && has out "fixed: modprobe vfio_pci" && [ -d /sys/module/vfio_pci ] && run 0 doctor; }
check "doctor --fix loads them" fixed
exit $failed
GUEST

cat >"$dir/noiommu.sh" <<'GUEST'
. /root/lib.sh
diagnosed() { run 1 doctor && has out "no IOMMU groups" && has out "intel-iommu" && run 1 doctor --json && has out '"ready": false'; }
check "doctor says that there is no IOMMU" diagnosed
refused() { run 1 bind $nvme && has err "no IOMMU group" && has err "intel_iommu=on" && driver_is $nvme ""; }
check "bind refuses without one" refused
listed() { run 0 list && has out blocked && has out "no IOMMU group"; }
check "list shows the controller as blocked" listed
exit $failed
GUEST

mkdir "$dir/tree" && echo witness >"$dir/tree/file"
truncate -s 64M "$dir/disk.img"
mke2fs -q -F -t ext4 -d "$dir/tree" "$dir/disk.img" || { echo "not ok - a disk image could not be made"; exit 1; }

# boot SCRIPT OPTION...
boot() {
	local script=$1
	shift
	"$here/vm" --kernel "$kernel" --nvme "$dir/disk.img" --add "$dir/lib.sh:/root/lib.sh" \
		--add "$dir/$script:/root/$script" "$@" -- sh "/root/$script" </dev/null
	local rc=$?
	[ $rc = 0 ] || failed=1
	[ $rc -lt 2 ] || echo "not ok - $script: the guest ended with $rc"
}

boot main.sh --module nvme --module ext4 --module e1000 --device pcie-pci-bridge,id=br0 \
	--device e1000,bus=br0,addr=1 --device edu,bus=br0,addr=2
boot novfio.sh --no-vfio --module vfio_pci --module vfio_iommu_type1
boot noiommu.sh --iommu none
exit $failed
