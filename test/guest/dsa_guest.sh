#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The guest's half of t_dsa.sh: dsa_guest.sh native|identity. The modules are in /modules.
set -u
dev=10000:00:00.0
dbg=/sys/kernel/debug/svio_simdev
# How many times slower than usual this guest is (test/guest/vm).
slow=${SVIO_LAB_SLOW:-1}

check() # NAME CONDITION
{
	if eval "$2"; then echo "ok - dsa: $1"; else echo "not ok - dsa: $1"; fi
}
probe() # TEST [N]: prints its own lines
{
	timeout $((150 * slow)) /usr/bin/dsa_probe $dev "$@" >/tmp/probe 2>&1
	rc=$?
	sed 's/^\(ok\|not ok\) - /\1 - dsa: /' /tmp/probe
	check "dsa_probe $1 ended well" "[ $rc = 0 ]"
}

[ -e /sys/kernel/debug/pinctrl ] || mount -t debugfs none /sys/kernel/debug 2>/dev/null
modprobe vfio-pci
echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
insmod /modules/svio_simdev.ko i_know_this_is_a_test=1 window=0x30000000 || exit 1
insmod /modules/svio_vfio_pci.ko || exit 1
check "svio bind gives it to svio-vfio-pci" 'svio bind --driver svio-vfio-pci $dev'
svio info $dev >/tmp/info
sed -n 's/^SVA/# SVA/p' /tmp/info
check "svio info says the mode: $1" "grep -q '^SVA: $1' /tmp/info"
check "svio list knows the driver" "svio list --all | grep -q '$dev.* dsa  *ready'"
if [ "$1" = identity ]; then
	check "and why it is not native" "grep '^SVA: ' /tmp/info | grep -q CVE-2025-71202"
fi
svio doctor >/tmp/doctor
check "svio doctor says it of the device" "grep -q 'sva  *$dev: $1' /tmp/doctor"

[ $slow = 1 ] || echo "# $((2000 / slow)) random operations, not 2000, and $((200 / slow)) bonds, not 200: this guest is $slow times slower"
probe random $((2000 / slow))
probe identity
probe trouble 8
probe big 4
probe bonds $((200 / slow))
[ "$1" = identity ] || probe faults
head -c 300001 /dev/urandom >/tmp/a
check "svio copy" 'svio copy $dev /tmp/a /tmp/b >/dev/null && cmp /tmp/a /tmp/b'
check "svio crc: as the kit's device says" '[ "$(svio crc $dev /tmp/a)" = "$(svio crc sim:dsa /tmp/a)" ]'
check "svio dsa perf" 'svio dsa perf $dev --time 2 --sizes 64,64k --memory malloc,stack,file >/tmp/table'
sed 's/^/# /' /tmp/table
check "no stale translation was used" "! grep -q '^stale_uses [1-9]' $dbg/stats"
check "the kernel has nothing to complain of" "! dmesg | grep -E 'WARNING|BUG:|Oops|stale'"
grep -v ' 0$' $dbg/stats | sed 's/^/# /'
