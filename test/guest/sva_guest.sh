#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The guest's half of t_sva.sh. Arguments: what to run. The modules lie in /mod; nvme0 and nvme1 are 0000:01:00.0 and
# 0000:02:00.0, igb is 0000:03:00.0, a two-function e1000e is 0000:04:00.0 and .1, the simulated function is 10000:00:00.0.

set -u
n0=0000:01:00.0
n1=0000:02:00.0
pf=0000:03:00.0
vf=0000:03:10.0
e0=0000:04:00.0
e1=0000:04:00.1
token=0a1b2c3d-0000-1111-2222-333344445555
sys=/sys/bus/pci
par=/sys/module/svio_vfio_pci/parameters
p=/sva_probe
v=/vfio_probe
# How many times slower than usual this guest is (test/guest/vm).
slow=${SVIO_LAB_SLOW:-1}

ok() { echo "ok - $1"; }
bad() { echo "not ok - $1"; }
# verdict NAME COMMAND...
verdict()
{
	name=$1
	shift
	if "$@" >/tmp/why 2>&1; then ok "$name"; else bad "$name"; sed 's/^/# /' /tmp/why; fi
}
not() { ! "$@"; }

# bind DRIVER BDF...
bind()
{
	local driver=$1 d

	shift
	for d in "$@"; do
		[ -e $sys/devices/$d/driver ] && echo $d >$sys/devices/$d/driver/unbind
		echo $driver >$sys/devices/$d/driver_override
		echo $d >$sys/drivers_probe
	done
}
driver() { basename "$(readlink $sys/devices/$1/driver)"; }
driver_is() { [ "$(driver $1)" = "$2" ] || { echo "$1: $(driver $1)"; return 1; }; }

# Start a probe that prints "held", and wait until it has; what it says afterwards is shown by rest.
hold()
{
	rm -f /tmp/in /tmp/held
	mkfifo /tmp/in /tmp/held
	"$@" </tmp/in >/tmp/held &
	holder=$!
	exec 5>/tmp/in 6</tmp/held
	while read -r line <&6; do
		[ "$line" = held ] && return 0
		echo "$line"
	done
	bad "hold $*: it ended"
}
rest()
{
	exec 5>&-
	cat <&6
	wait $holder
	exec 6<&-
}

logged() { dmesg | grep -F "$1"; }
wait_for()
{
	for _ in $(seq $((300 * slow))); do
		eval "$1" && return 0
		usleep 100000
	done
	echo "never: $1"
	return 1
}

# The simulated function, its counters and its plug.
s=10000:00:00.0
debug=/sys/kernel/debug/svio_simdev
sim()
{
	insmod /mod/svio_simdev.ko i_know_this_is_a_test=1 window=0x30000000 "$@" || bad "svio_simdev loads"
	bind svio-vfio-pci $s
}
count() { sed -n "s/^$1 //p" $debug/stats; }
zero() { [ "$(count $1)" = 0 ] || { echo "$1: $(count $1)"; return 1; }; }
some() { [ "$(count $1)" -gt 0 ] || { echo "$1: none"; return 1; }; }
out()
{
	echo $1 >$debug/unplug
	wait_for '[ ! -e $sys/devices/$s ] && [ $(cat $debug/unplug) = 1 ]'
}
back()
{
	echo 0 >$debug/unplug
	wait_for '[ -e $sys/devices/$s ]' && bind svio-vfio-pci $s && driver_is $s svio-vfio-pci
}

# The group's other function, which t_sva.sh's simulated one has when it is told so.
twin=10000:00:01.0
# prints WORDS COMMAND...: what it prints has these words
prints()
{
	local words=$1

	shift
	"$@" >/tmp/printed 2>&1
	grep -F -- "$words" /tmp/printed >/dev/null || { echo "not said: $words"; cat /tmp/printed; return 1; }
}
try() { bind $1 $s 2>/dev/null; }
refuses() { [ ! -e $sys/devices/$s/driver ] || { driver $s; return 1; }; }
vfio_ready()
{
	echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
	grep -q " /sys/kernel/debug " /proc/mounts || mount -t debugfs none /sys/kernel/debug
}

insmod /mod/svio_vfio_pci.ko || bad "svio_vfio_pci loads"

for what in $1; do

case $what in
plain)
	# Everything of vfio-pci, through this driver.
	bind svio-vfio-pci $n0 $n1 $e0 $e1
	verdict "bound to svio-vfio-pci" driver_is $n0 svio-vfio-pci
	$v basic $n0
	$v irq $n0
	$v reset $n0
	$v domain $n0 $n1
	$v fork $n0
	$p reason $n0 $2 $3
	$p sleepless $n0
	$v basic $e0
	$p reason $e0 $2 $3
	echo 1 >$par/enable_sriov
	bind svio-vfio-pci $pf
	$v basic $pf
	$v irq $pf
	hold $v hold $pf $token
	echo 1 >$sys/devices/$pf/sriov_numvfs
	verdict "VFs are kept for the PF's driver" grep -qx svio-vfio-pci $sys/devices/$vf/driver_override
	bind svio-vfio-pci $vf
	$v refuse 13 "needs a VF token" $vf
	$v refuse 13 "wrong VF token" $vf ffffffff-0000-1111-2222-333344445555
	$v vf $vf $token
	echo 0 >$sys/devices/$pf/sriov_numvfs
	rest
	# Together with vfio-pci: one takes over from the other.
	bind vfio-pci $n1
	$v domain $n0 $n1
	bind vfio-pci $n0
	verdict "given back to vfio-pci" driver_is $n0 vfio-pci
	$v basic $n0
	bind svio-vfio-pci $n0 $n1
	verdict "and taken again" driver_is $n0 svio-vfio-pci
	$v request $n0
	bind vfio-pci $n1 $e0 $e1 $pf
	verdict "unloaded" rmmod svio_vfio_pci
	verdict "and loaded again" insmod /mod/svio_vfio_pci.ko
	;;
pasid)
	# An IOMMU with PASIDs, and functions without.
	bind svio-vfio-pci $n0 $e0 $e1
	$p reason $n0 $2 $3
	$v basic $n0
	;;
yama)
	# Another process's device, and a kernel that keeps processes apart.
	scope=/proc/sys/kernel/yama/ptrace_scope
	socket=/tmp/yama.sock
	as_user() { su user -s /bin/sh -c "$*"; }
	copied() # MODE
	{
		rm -f /tmp/copy
		prints ", $1" as_user svio copy user:$socket /tmp/original /tmp/copy && cmp /tmp/original /tmp/copy
	}
	verdict "this kernel has Yama" [ -w $scope ]
	chmod 1777 /tmp
	head -c 300001 /dev/urandom >/tmp/original
	chmod 644 /tmp/original
	echo 1 >$scope
	as_user "exec svio serve dsa --socket $socket" >/tmp/yama.log 2>&1 &
	verdict "a server of the user's" wait_for '[ -S $socket ] && pidof svio >/dev/null'
	server=$(pidof svio)
	verdict "scope 1: processes do not reach each other" not as_user ": </proc/$server/mem"
	verdict "scope 1: but the server is let in" copied native
	verdict "scope 1: svio info says native" prints "SVA: native" as_user svio info user:$socket
	echo 2 >$scope
	verdict "scope 2: not native, with the reason" prints "not native: kernel.yama.ptrace_scope is 2" as_user svio info user:$socket
	echo 0 >$scope
	verdict "scope 0: processes reach each other" as_user ": </proc/$server/mem"
	verdict "scope 0: and so does the server" copied native
	kill $server
	;;
refused)
	# A function that could, on a kernel that does not want to.
	vfio_ready
	sim
	verdict "the simulated function is bound" driver_is $s svio-vfio-pci
	$p reason $s $2 $3
	verdict "svio info says why" prints "this kernel refuses SVA (x86 before 6.19: CVE-2025-71202)" svio info $s
	verdict "svio doctor says it, too" prints "$s: identity (registered memory only), not native: this kernel refuses SVA" svio doctor
	verdict "unplug: in order" out 1
	verdict "unloaded" rmmod svio_simdev
	;;
sim)
	vfio_ready
	sim
	verdict "the simulated function is bound" driver_is $s svio-vfio-pci
	$p api $s
	$p sleep $s
	$p pass $s
	$p fork $s
	$p exec $s
	echo 2 >$par/quota
	$p quota $s
	echo 1000 >$par/quota
	$p pasids $s 200
	[ $slow = 1 ] || echo "# $((10000 / slow)) bind cycles, not 10000: this guest is $slow times slower"
	$p cycles $s $((10000 / slow))
	echo 1 >$debug/clear
	echo 500 >$debug/descriptor_delay_us
	$p close $s
	$p reset $s
	echo 0 >$debug/descriptor_delay_us
	verdict "close, reset: DMA was stopped before its PASID was taken away" zero dma_blocked
	$p storm $s 10
	verdict "storm: no reset went on before the bonds had ended" not logged "still being unbound"
	echo "# a process ends with DMA in flight"
	for how in exit kill exec; do
		echo 1 >$debug/clear
		echo 500 >$debug/descriptor_delay_us
		$p end $s $how
		verdict "$how: DMA was stopped before its PASID was taken away" zero dma_blocked
	done
	echo 0 >$debug/descriptor_delay_us
	$p two $s
	verdict "no translation was used after it was taken back" zero stale_uses
	echo "# unplugging"
	hold $p hold $s
	verdict "svio_vfio_pci does not unload under a bond at work" not rmmod svio_vfio_pci
	verdict "nor does svio_simdev" not rmmod svio_simdev
	verdict "unplug: pulled while bound" out 2
	rest
	verdict "unplug: back" back
	echo 1 >$debug/clear
	hold $p request $s
	verdict "unplug: in order, when its user has let go" out 1
	rest
	verdict "unplug: back again" back
	hold $p request $s
	echo 1 >$sys/devices/$s/remove
	verdict "unplug: removed through sysfs, when its user has let go" [ ! -e $sys/devices/$s ]
	rest
	verdict "unplug in order: DMA was stopped before its PASID was taken away" zero dma_blocked
	out 1
	verdict "unplug: back after that" back
	$p close $s
	hold $p keep $s
	verdict "unplug: with a bond file open" out 1
	verdict "the module stays while a bond file is open" not rmmod svio_vfio_pci
	rest
	verdict "unloaded" rmmod svio_vfio_pci
	verdict "no bond was left in the cache" eval '[ -r /proc/slabinfo ] && ! grep svio_bond /proc/slabinfo'
	insmod /mod/svio_vfio_pci.ko
	rmmod svio_simdev
	echo "# functions that cannot"
	sim ats=0
	$p reason $s 5
	out 1 && rmmod svio_simdev
	sim pasid_bits=0
	$p reason $s 3
	out 1 && rmmod svio_simdev
	sim twin=1
	verdict "twin: two functions in the group" [ "$(ls $sys/devices/$s/iommu_group/devices | tr '\n' ' ')" = "$s $twin " ]
	$p reason $s 6
	verdict "twin: no PASID has reached it" zero twin_pasids
	verdict "twin: svio info explains" prints "several functions share its IOMMU group" svio info $s
	verdict "twin: svio doctor explains" prints "not native: several functions share its IOMMU group" svio doctor
	verdict "twin: the kernel's side is whole" not logged "svio_simdev: cannot"
	out 1 && rmmod svio_simdev
	# vfio-pci's denylist names Intel DSA.
	insmod /mod/svio_simdev.ko i_know_this_is_a_test=1 window=0x30000000 denylisted=1 || bad "svio_simdev loads"
	verdict "denylist: the function calls itself Intel DSA" \
		[ "$(cat $sys/devices/$s/vendor $sys/devices/$s/device | tr '\n' ' ')" = "0x8086 0x0b25 " ]
	try svio-vfio-pci
	verdict "denylist: svio-vfio-pci does not take it" refuses
	verdict "denylist: and says why" logged "8086:0b25 is on vfio-pci's denylist; parameter disable_denylist=1 lets it in"
	try vfio-pci
	verdict "denylist: nor does vfio-pci" refuses
	verdict "denylist: svio bind does not even try, and says what would help" \
		prints "modprobe svio-vfio-pci disable_denylist=1" svio bind --driver svio-vfio-pci $s
	verdict "denylist: svio doctor explains" prints "an administrator loads it with disable_denylist=1" svio doctor
	rmmod svio_vfio_pci
	insmod /mod/svio_vfio_pci.ko disable_denylist=1 || bad "svio_vfio_pci loads with disable_denylist=1"
	verdict "denylist: svio bind takes it for an administrator who opts in" svio bind --driver svio-vfio-pci $s
	verdict "denylist: and so it is bound" driver_is $s svio-vfio-pci
	$p close $s
	out 1 && rmmod svio_simdev
	;;
esac
done
