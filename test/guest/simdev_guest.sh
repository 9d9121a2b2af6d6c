#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The guest's half of t_simdev.sh: simdev_guest.sh "type1 sva", or one of them. The modules are in /modules.

set -u
dev=10000:00:00.0
sys=/sys/bus/pci/devices/$dev
dbg=/sys/kernel/debug/svio_simdev
window=0x30000000

check()
{
	if eval "$2"; then
		echo "ok - simdev: $1"
	else
		echo "not ok - simdev: $1"
	fi
}

load()
{
	insmod /modules/svio_simdev.ko i_know_this_is_a_test=1 window=$window "$@" || echo "not ok - simdev: insmod $*"
}

# bind DRIVER
bind()
{
	[ -e $sys/driver ] && echo $dev >$sys/driver/unbind
	echo "$1" >$sys/driver_override
	echo $dev >/sys/bus/pci/drivers_probe
	check "bound to $1" '[ "$(basename "$(readlink $sys/driver)")" = '"$1"' ]'
}

probe()
{
	/simdev_probe $1 $dev || echo "not ok - simdev: probe $1 ended with status $?"
}

# wait_for CONDITION: up to ten seconds, more in a guest that is slower than usual (test/guest/vm)
wait_for()
{
	for _ in $(seq $((100 * ${SVIO_LAB_SLOW:-1}))); do
		eval "$1" && return 0
		sleep 0.1
	done
	return 1
}

[ -e /sys/kernel/debug/pinctrl ] || mount -t debugfs none /sys/kernel/debug 2>/dev/null
echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts

unload()
{
	echo 1 >$dbg/unplug
	wait_for "[ ! -e $sys ]"
	wait_for "rmmod svio_simdev 2>/dev/null"
}

for part in $1; do
case $part in
type1)
	check "does not load without its parameter" '! insmod /modules/svio_simdev.ko 2>/dev/null'
	check "does not load without a window" '! insmod /modules/svio_simdev.ko i_know_this_is_a_test=1 2>/dev/null'
	check "does not take memory that the kernel uses for its window" \
		'! insmod /modules/svio_simdev.ko i_know_this_is_a_test=1 window=0x10000000 2>/dev/null'
	load
	check "is enumerated" '[ "$(cat $sys/vendor $sys/device)" = "0x1234
0xd5a0" ]'
	check "is alone in an IOMMU group" '[ "$(ls $sys/iommu_group/devices)" = $dev ]'
	check "has identity as its group's default domain" '[ "$(cat $sys/iommu_group/type)" = identity ]'
	check "has its interrupt window reserved" 'grep -q "0x00000000fee00000 0x00000000feefffff msi" $sys/iommu_group/reserved_regions'
	lspci -vvv -s $dev >/tmp/lspci
	for cap in "Express (v2) Root Complex Integrated Endpoint" "MSI-X: Enable- Count=9" "FLReset+" \
		"Address Translation Service (ATS)" "Page Request Interface (PRI)" "Process Address Space ID (PASID)"; do
		check "lspci: $cap" 'grep -qF "'"$cap"'" /tmp/lspci'
	done
	check "lspci: ATS, PRI and PASIDs are enabled" \
		'[ $(grep -cE "(ATSCtl|PRICtl|PASIDCtl):.*Enable\+" /tmp/lspci) = 3 ]'
	[ -z "${SVIO_VERBOSE:-}" ] || cat /tmp/lspci
	bind vfio-pci
	probe type1
	check "no translation was stale but the one that was made so" '[ "$(grep stale_uses $dbg/stats)" = "stale_uses 1" ]'
	check "does not unload while it is plugged" '! rmmod svio_simdev 2>/dev/null'
	echo 1 >$dbg/unplug
	check "is unplugged" 'wait_for "[ ! -e $sys ]"'
	echo 0 >$dbg/unplug
	check "is plugged in again" 'wait_for "[ -e $sys/iommu_group ]"'
	check "unloads when it is unplugged" unload
	load pasid_bits=0 pri=0 ats=0
	lspci -vvv -s $dev >/tmp/lspci
	check "has no PASIDs, PRI and ATS if told so" '! grep -qE "ATS|PASID|Page Request" /tmp/lspci'
	unload
	;;
sva)
	load
	modprobe vfio-pci
	insmod /modules/svio_vfio_pci.ko
	bind svio-vfio-pci
	probe sva
	grep -v ' 0$' $dbg/stats | sed 's/^/# /'
	probe gone
	check "has vanished" 'wait_for "[ ! -e $sys ]"'
	echo 0 >$dbg/unplug
	check "is plugged in again" 'wait_for "[ -e $sys/iommu_group ]"'
	bind svio-vfio-pci
	check "and works again" '/simdev_probe type1 $dev | grep "^ok - .*type1: memmove, 100" >/dev/null'
	unload
	;;
esac
done
