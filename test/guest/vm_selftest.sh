#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# usage: vm_selftest.sh [KERNEL]...      (default: stock bookworm)
# SVIO_ONLY=REGEX runs the tests whose names it matches.
#
# Tests the lab itself: that test/guest/vm reports what happens in the guest and
# nothing else, that the guest has what the lab tests stand on, and that modules
# build and load (as root only). Prints "ok - ..." lines. What does not depend on the
# kernel is tested on the first one.

set -u

here=$(cd "$(dirname "$0")" && pwd)
vm=$here/vm
lab_sh=$here/../../config/lab.sh
dir=$(mktemp -d "${TMPDIR:-/tmp}/vm-selftest.XXXXXX")
export TMPDIR=$dir
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

count=0
failed=0

# check NAME COMMAND...: one line; what the test wrote follows a failure.
check()
{
	local name=$1

	[[ $name =~ ${SVIO_ONLY:-} ]] || return 0
	shift
	count=$((count + 1))
	if "$@" >"$dir/why" 2>&1; then
		echo "ok - $name"
	else
		echo "not ok - $name"
		sed 's/^/# /' "$dir/why"
		failed=$((failed + 1))
	fi
}

# boot OPTION... -- COMMAND...: runs it; output in $dir/out and $dir/err, status in $status.
boot()
{
	"$vm" --kernel "$kernel" "$@" >"$dir/out" 2>"$dir/err"
	status=$?
}

# expect WHAT GOT WANTED
expect()
{
	[ "$2" = "$3" ] || {
		echo "$1: got '$2', wanted '$3'; stderr was:"
		tail -n 40 "$dir/err"
		return 1
	}
}

t_status()
{
	boot -- sh -c 'echo to-out; echo to-err >&2; exit 77'
	expect status $status 77 && expect stdout "$(cat "$dir/out")" to-out &&
		expect stderr "$(cat "$dir/err")" to-err
}

t_arguments()
{
	# shellcheck disable=SC2016 # the guest's shell expands it
	boot -- sh -c 'for a; do echo "[$a]"; done' sh 'two words' "it's" '$HOME' '*'
	expect status $status 0 &&
		expect arguments "$(tr '\n' ' ' <"$dir/out")" "[two words] [it's] [\$HOME] [*] "
}

t_signal_status()
{
	boot -- sh -c 'kill -BUS $$'
	expect status $status 135
}

# 1 MiB of bytes of every value, while the kernel is noisy.
t_clean_output()
{
	head -c 1048576 /dev/urandom >"$dir/noise"
	boot --add "$dir/noise:/noise" -- \
		sh -c 'echo 8 >/proc/sys/kernel/printk; echo m >/proc/sysrq-trigger
			cat /noise; echo m >/proc/sysrq-trigger; cat /noise >/dev/stderr'
	expect status $status 0 || return 1
	cmp "$dir/noise" "$dir/out" && cmp "$dir/noise" "$dir/err"
}

t_background()
{
	boot --timeout 60 -- sh -c '(while :; do sleep 1; done) & echo done'
	expect status $status 0 && expect stdout "$(cat "$dir/out")" 'done'
}

t_markers()
{
	# The second occurrence of the marker unplugs what the first plugged; a
	# marker in two pieces is a marker, a third occurrence fires nothing.
	boot --qmp-at 'MARK={"execute":"device_add","arguments":{"driver":"e1000e","id":"x","bus":"hp0"}}' \
		--qmp-at 'MARK=[{"execute":"device_del","arguments":{"id":"x"}},{"wait":"DEVICE_DELETED","data":{"device":"x"}},{"execute":"device_add","arguments":{"driver":"igb","id":"y","bus":"hp0"}}]' \
		-- sh -c 'devices() { cat /sys/bus/pci/devices/0000:01:00.0/device 2>/dev/null || echo none; }
			await() { until [ "$(devices)" = "$1" ]; do usleep 20000; done; echo "$1"; }
			devices
			printf MA; sleep 1; echo RK
			await 0x10d3
			echo MARK
			await 0x10c9
			echo MARK'
	expect status $status 0 && expect devices "$(grep -v MARK "$dir/out" | tr '\n' ' ')" \
		'none 0x10d3 0x10c9 '
}

t_marker_error()
{
	boot --timeout 60 --qmp-at 'NOW={"execute":"device_del","arguments":{"id":"nothere"}}' \
		-- sh -c 'echo NOW; sleep 1000'
	expect status $status 125 && grep -q "nothere" "$dir/err"
}

t_panic()
{
	boot --timeout 60 -- sh -c 'echo before; echo c >/proc/sysrq-trigger'
	expect status $status 125 && expect stdout "$(cat "$dir/out")" before &&
		grep -q 'vm: failed: .*sysrq triggered crash\|vm: failed: .*BUG\|vm: failed: .*panic' "$dir/err" &&
		grep -q 'sysrq_handle_crash' "$dir/err"
}

# A kernel warning that the command survives is a failure all the same.
t_warning()
{
	boot --timeout 60 -- sh -c 'echo "WARNING: possible circular locking dependency detected" >/dev/kmsg'
	expect status $status 125 && grep -q 'circular locking' "$dir/err"
}

t_timeout()
{
	boot --timeout 5 -- sh -c 'echo begun; sleep 1000'
	expect status $status 124 && expect stdout "$(cat "$dir/out")" begun &&
		grep -q 'timeout: the command did not end within [0-9]* s' "$dir/err"
}

t_qemu_dies()
{
	boot --timeout 60 --qmp-at 'NOW={"execute":"quit"}' -- sh -c 'echo NOW; sleep 1000'
	expect status $status 125 && grep -q 'QEMU ended' "$dir/err" || return 1
	boot --device nosuchdevice -- true
	expect status $status 125 && grep -q nosuchdevice "$dir/err"
}

t_wrong_usage()
{
	boot --nvme "$dir/missing.img" -- true
	expect status $status 125 && grep -q 'missing.img: no such file' "$dir/err" || return 1
	boot --nosuchoption -- true
	expect status $status 125 || return 1
	boot --add "$dir/missing" -- true
	expect status $status 125 && grep -q 'no such file or directory' "$dir/err"
}

t_out()
{
	rm -f "$dir/back"
	boot --out "/tmp/made here:$dir/back" -- \
		sh -c 'head -c 300000 /dev/urandom >"/tmp/made here"; sha256sum <"/tmp/made here"'
	expect status $status 0 && expect content "$(sha256sum <"$dir/back")" "$(cat "$dir/out")" ||
		return 1
	boot --out "/tmp/never:$dir/never" -- true
	expect status $status 125 && grep -q '/tmp/never' "$dir/err" && [ ! -e "$dir/never" ]
}

t_share()
{
	mkdir -p "$dir/shared"
	echo from-host >"$dir/shared/a"
	boot --share "$dir/shared:/mnt/host" -- sh -c 'cat /mnt/host/a; echo from-guest >/mnt/host/b'
	expect status $status 0 && expect read "$(cat "$dir/out")" from-host &&
		expect written "$(cat "$dir/shared/b")" from-guest
}

t_programs()
{
	mkdir -p "$dir/tree/sub"
	cp /usr/bin/setpriv "$dir/tree/sub/"
	ln -sf sub/setpriv "$dir/tree/link"
	boot --add "$dir/tree:/opt/tree" --add /usr/bin/prlimit -- \
		sh -c '/opt/tree/link --reuid 1000 --regid 1000 --clear-groups id -u && prlimit --version'
	expect status $status 0 && expect user "$(head -n 1 "$dir/out")" 1000
}

t_hugepages_numa()
{
	boot --hugepages 16 --numa 2 --mem 1G -- sh -c 'grep -E "HugePages_(Total|Free)" /proc/meminfo |
		tr -s " " | tr "\n" " "; grep -c "hugetlbfs /dev/hugepages" </proc/mounts; ls -d /sys/devices/system/node/node?'
	expect status $status 0 && expect hugepages "$(tr '\n' ' ' <"$dir/out")" \
		'HugePages_Total: 16 HugePages_Free: 16 1 /sys/devices/system/node/node0 /sys/devices/system/node/node1 '
}

t_icount_memfd()
{
	boot --icount --memfd -- sh -c 'echo counted'
	expect status $status 0 && expect stdout "$(cat "$dir/out")" counted
}

t_parallel()
{
	local a b

	"$vm" --kernel "$kernel" -- sh -c 'sleep 1; echo one' >"$dir/one" 2>"$dir/err" &
	a=$!
	"$vm" --kernel "$kernel" -- sh -c 'sleep 1; echo two' >"$dir/two" 2>>"$dir/err" &
	b=$!
	wait $a && wait $b && expect first "$(cat "$dir/one")" one && expect second "$(cat "$dir/two")" two
}

t_no_iommu()
{
	boot --iommu none -- sh -c 'ls /sys/kernel/iommu_groups | wc -l'
	expect status $status 0 && expect groups "$(cat "$dir/out")" 0
}

t_interrupted()
{
	local pid qemu

	"$vm" --kernel "$kernel" -- sh -c 'echo up; sleep 100' >"$dir/out" 2>"$dir/err" &
	pid=$!
	until grep -q up "$dir/out"; do
		kill -0 $pid 2>/dev/null || { echo "vm ended"; cat "$dir/err"; return 1; }
		sleep 0.1
	done
	qemu=$(pgrep -P $pid)
	kill -0 "$qemu" || { echo "no emulator found"; return 1; }
	kill -KILL $pid
	wait $pid 2>/dev/null
	for _ in $(seq 50); do
		kill -0 "$qemu" 2>/dev/null || return 0
		sleep 0.1
	done
	echo "the emulator outlived the runner"
	return 1
}

# The guest as the tests of svio need it.
t_vfio()
{
	truncate -s 16M "$dir/disk.img"
	printf 'first sector' | dd of="$dir/disk.img" conv=notrunc status=none
	boot --nvme "$dir/disk.img" --device igb,bus=hp0 -- sh -c '
		set -e
		dev=0000:01:00.0
		[ ! -e /sys/bus/pci/devices/$dev/driver ]
		[ "$(cat /sys/bus/pci/devices/$dev/class)" = 0x010802 ]
		[ -c /dev/vfio/vfio ]
		group=$(basename $(readlink /sys/bus/pci/devices/$dev/iommu_group))
		[ -d /sys/kernel/iommu_groups/$group/devices/$dev ]
		echo vfio-pci >/sys/bus/pci/devices/$dev/driver_override
		echo $dev >/sys/bus/pci/drivers_probe
		[ -c /dev/vfio/$group ]
		echo $dev >/sys/bus/pci/drivers/vfio-pci/unbind
		[ ! -e /dev/vfio/$group ]
		echo >/sys/bus/pci/devices/$dev/driver_override
		modprobe nvme
		until [ -b /dev/nvme0n1 ]; do usleep 20000; done
		head -c 12 /dev/nvme0n1; echo
		printf "second" | dd of=/dev/nvme0n1 seek=1 bs=512 conv=sync,fsync 2>/dev/null
		modprobe igb
		until [ -e /sys/bus/pci/devices/0000:02:00.0/driver ]; do usleep 20000; done
		cat /sys/bus/pci/devices/0000:02:00.0/sriov_totalvfs'
	expect status $status 0 && expect output "$(tr '\n' ' ' <"$dir/out")" 'first sector 7 ' &&
		expect written "$(dd if="$dir/disk.img" bs=512 skip=1 count=1 status=none | tr -d '\0')" second
}

t_sriov()
{
	boot --device igb,bus=hp0 -- sh -ec 'modprobe igb; pf=/sys/bus/pci/devices/0000:01:00.0
		until [ -e $pf/driver ]; do usleep 20000; done
		echo 2 >$pf/sriov_numvfs
		for d in $pf $pf/virtfn0 $pf/virtfn1; do readlink $d/iommu_group; done | sort -u | wc -l'
	expect status $status 0 && expect groups "$(cat "$dir/out")" 3
}

t_filesystems()
{
	truncate -s 16M "$dir/fs.img"
	PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q "$dir/fs.img" 2>"$dir/err" || { cat "$dir/err"; return 1; }
	boot --nvme "$dir/fs.img" -- sh -ec 'modprobe nvme
		until [ -b /dev/nvme0n1 ]; do usleep 20000; done
		modprobe ext4; mount -t ext4 /dev/nvme0n1 /mnt; echo kept >/mnt/file; umount /mnt
		mount -t ext4 -o ro /dev/nvme0n1 /mnt; cat /mnt/file; umount /mnt
		modprobe loop; modprobe vfat; grep -c vfat /proc/filesystems'
	expect status $status 0 && expect read "$(tr '\n' ' ' <"$dir/out")" 'kept 1 ' || return 1
	expect written "$(PATH=$PATH:/usr/sbin:/sbin debugfs -R 'cat file' "$dir/fs.img" 2>/dev/null)" kept
}

# A module of two files that uses what those of kernel/ use, built with options and loaded.
t_module()
{
	local tree=$dir/tree.$kernel out=$dir/modules.$kernel

	mkdir -p "$tree/include" "$tree/lab_hello" "$out"
	echo '#define LAB_GREETING "lab_hello: at your service"' >"$tree/include/greeting.h"
	# shellcheck disable=SC2016 # make expands it
	printf '%s\n' 'obj-m := lab_hello.o' 'lab_hello-y := main.o say.o' \
		'ccflags-y := -I$(src)/../include -DLAB_SIGN=$(SIGN)' >"$tree/lab_hello/Kbuild"
	cat >"$tree/lab_hello/say.c" <<-'C'
		// SPDX-License-Identifier: GPL-2.0
		#include <linux/printk.h>
		#include "greeting.h"
		void lab_hello_say(void);
		void lab_hello_say(void)
		{
			pr_info(LAB_GREETING ", sign %d\n", LAB_SIGN);
		}
	C
	cat >"$tree/lab_hello/main.c" <<-'C'
		// SPDX-License-Identifier: GPL-2.0
		#include <linux/iommu.h>
		#include <linux/module.h>
		#include <linux/vfio_pci_core.h>
		void lab_hello_say(void);
		static unsigned long address;
		static int __init lab_hello_init(void)
		{
			lab_hello_say();
			address = (unsigned long)vfio_pci_core_ioctl ^ (unsigned long)iommu_attach_device;
			return address ? 0 : -EINVAL;
		}
		static void __exit lab_hello_exit(void)
		{
			pr_info("lab_hello: gone\n");
		}
		module_init(lab_hello_init);
		module_exit(lab_hello_exit);
		MODULE_DESCRIPTION("tests that the lab builds modules");
		MODULE_LICENSE("GPL");
	C
	"$lab_sh" module "$kernel" "$tree" lab_hello "$out" W=1 C=1 SIGN=7 >"$dir/out" 2>"$dir/err" ||
		{ cat "$dir/err"; return 1; }
	# Sparse was run on both; the function that no header declares is none of its business.
	expect sparse "$(grep -c '^ *CHECK .*\(main\|say\)\.c$' "$dir/err")" 2 || return 1
	[ ! -e "$tree/lab_hello/lab_hello.ko" ] || { echo "the source directory was built in"; return 1; }
	boot --add "$out/lab_hello.ko:/lab_hello.ko" -- sh -ec 'insmod /lab_hello.ko
		grep -o "^lab_hello" /proc/modules; rmmod lab_hello
		! grep "^lab_hello" /proc/modules; dmesg | grep -o "lab_hello: \(at your\|gone\).*"'
	expect status $status 0 && expect output "$(tr '\n' ' ' <"$dir/out")" \
		'lab_hello lab_hello: at your service, sign 7 lab_hello: gone ' || return 1

	echo 'no C' >>"$tree/lab_hello/say.c"
	rm "$out/lab_hello.ko"
	! "$lab_sh" module "$kernel" "$tree" lab_hello "$out" SIGN=7 >"$dir/out" 2>"$dir/err" ||
		{ echo "a module that does not compile was built"; return 1; }
	grep -q 'lab: error: the module does not build' "$dir/err" && [ ! -e "$out/lab_hello.ko" ]
}

# What own kernels are for: each of their checks makes a run fail that the module's fault breaks, though the
# command ends well. One boot a fault, as the first report may end the check that made it.
t_checks()
{
	local out=$dir/modules.$kernel fault want faults=(
		"circular:possible circular locking dependency detected"
		"sleep:BUG: sleeping function called from invalid context")

	! grep -qx CONFIG_KASAN=y "$("$lab_sh" dir "kernel-$kernel")/config" || faults+=(
		"heap:BUG: KASAN: slab-out-of-bounds"
		"freed:BUG: KASAN: slab-use-after-free"
		"array:UBSAN: array-index-out-of-bounds"
		"shift:UBSAN: shift-out-of-bounds"
		"cpu:BUG: using smp_processor_id() in preemptible")
	mkdir -p "$dir/fault/lab_fault" "$out"
	echo 'obj-m := lab_fault.o' >"$dir/fault/lab_fault/Kbuild"
	cat >"$dir/fault/lab_fault/lab_fault.c" <<-'C'
		// SPDX-License-Identifier: GPL-2.0
		#include <linux/module.h>
		#include <linux/mutex.h>
		#include <linux/slab.h>
		#include <linux/smp.h>
		#include <linux/spinlock.h>
		static DEFINE_MUTEX(one);
		static DEFINE_MUTEX(other);
		static DEFINE_SPINLOCK(spin);
		static struct { int in[4], beyond[4]; } array;
		static int volatile n;
		static char *fault = "";
		module_param(fault, charp, 0);
		static int __init lab_fault_init(void)
		{
			char volatile *heap = kzalloc(64, GFP_KERNEL);
			if (!heap)
				return -ENOMEM;
			n = 1;
			if (!strcmp(fault, "circular")) {
				mutex_lock(&one);
				mutex_lock(&other);
				mutex_unlock(&other);
				mutex_unlock(&one);
				mutex_lock(&other);
				mutex_lock(&one);
				mutex_unlock(&one);
				mutex_unlock(&other);
			} else if (!strcmp(fault, "sleep")) {
				spin_lock(&spin);
				mutex_lock(&one);
				mutex_unlock(&one);
				spin_unlock(&spin);
			} else if (!strcmp(fault, "heap")) {
				heap[63 + n] = 1;
			} else if (!strcmp(fault, "freed")) {
				kfree((void *)heap);
				n = heap[n];
				return 0;
			} else if (!strcmp(fault, "array")) {
				array.in[3 + n] = 1;
			} else if (!strcmp(fault, "shift")) {
				n = 1 << (31 + n);
			} else if (!strcmp(fault, "cpu")) {
				n = smp_processor_id();
			}
			kfree((void *)heap);
			return 0;
		}
		static void __exit lab_fault_exit(void)
		{
		}
		module_init(lab_fault_init);
		module_exit(lab_fault_exit);
		MODULE_DESCRIPTION("has faults that the kernel's checks must find");
		MODULE_LICENSE("GPL");
	C
	"$lab_sh" module "$kernel" "$dir/fault" lab_fault "$out" >"$dir/out" 2>"$dir/err" ||
		{ cat "$dir/err"; return 1; }
	boot --add "$out/lab_fault.ko:/lab_fault.ko" -- sh -ec 'insmod /lab_fault.ko; rmmod lab_fault'
	expect "status without a fault" $status 0 || return 1
	for fault in "${faults[@]}"; do
		want=${fault#*:}
		fault=${fault%%:*}
		boot --add "$out/lab_fault.ko:/lab_fault.ko" -- sh -ec 'insmod /lab_fault.ko fault=$1; echo survived' sh "$fault"
		expect "$fault: status" $status 125 && expect "$fault: stdout" "$(cat "$dir/out")" survived || return 1
		grep -q "^vm: failed: the guest's kernel failed" "$dir/err" && grep -qF "$want" "$dir/err" ||
			{ echo "$fault: '$want' is not said:"; tail -n 40 "$dir/err"; return 1; }
	done
}

# Who makes one thing keeps nobody from another, but from the same.
t_locks()
{
	local lab busy=kernel-own

	lab=$("$lab_sh" dir)
	[ "$kernel" != own ] || busy="kernel-stock"
	(
		# Should it be held by a run that does make it, all the better.
		exec 8>"$lab/.lock.$busy"
		flock -n 8
		timeout 120 "$lab_sh" prepare "$kernel" >"$dir/out" 2>"$dir/err"
	) || { echo "not prepared while $busy is made:"; cat "$dir/err"; return 1; }
	flock "$lab/.lock.kernel-$kernel" timeout 10 "$lab_sh" prepare "$kernel" >"$dir/out" 2>"$dir/err"
	expect status $? 124 && grep -q "kernel-$kernel: waiting for another run" "$dir/err"
}

[ $# -gt 0 ] || set -- stock bookworm
kernel=$1
check "$kernel: exit status, stdout and stderr" t_status
check "$kernel: arguments arrive as they are" t_arguments
check "$kernel: death by a signal" t_signal_status
check "$kernel: 1 MiB of output is clean on both streams" t_clean_output
check "$kernel: a command's background processes end with it" t_background
check "$kernel: QMP commands answer markers" t_markers
check "$kernel: a QMP error is a failure" t_marker_error
check "$kernel: a kernel warning is a failure" t_warning
check "$kernel: timeout" t_timeout
check "$kernel: QEMU ending early" t_qemu_dies
check "$kernel: wrong usage" t_wrong_usage
check "$kernel: --out" t_out
check "$kernel: --share" t_share
check "$kernel: --add of directories and programs" t_programs
check "$kernel: hugepages and NUMA nodes" t_hugepages_numa
check "$kernel: --icount and --memfd" t_icount_memfd
check "$kernel: two at a time" t_parallel
check "$kernel: --iommu none" t_no_iommu
check "$kernel: a killed runner takes the emulator along" t_interrupted
check "$kernel: preparing it waits for no other" t_locks
for kernel; do
	check "$kernel: a panic is a failure" t_panic
	check "$kernel: IOMMU groups, vfio-pci and the kernel's drivers" t_vfio
	check "$kernel: SR-IOV, each function in a group of its own" t_sriov
	check "$kernel: ext4 on the NVMe disk, and vfat" t_filesystems
	if [ "$(id -u)" = 0 ]; then
		check "$kernel: a module is built, checked, loaded and unloaded" t_module
		case $kernel in
		own*) check "$kernel: what the kernel's own checks find is a failure" t_checks ;;
		esac
	else
		echo "# $kernel: not root, so no module was built"
	fi
done
echo "# $((count - failed)) of $count passed"
[ $failed = 0 ] && [ $count -gt 0 ]
