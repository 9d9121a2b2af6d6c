#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
#
# The guest's half of t_vfio.sh. Arguments: what to run. nvme0 and nvme1 are 0000:01:00.0 and 0000:02:00.0, igb is
# 0000:03:00.0 (VFs from 0000:03:10.0), a two-function e1000e is 0000:04:00.0 and .1, two e1000 behind a PCI bridge are
# 0000:06:01.0 and 0000:06:02.0.

set -u
p=/vfio_probe
n0=0000:01:00.0
n1=0000:02:00.0
pf=0000:03:00.0
vf=0000:03:10.0
e0=0000:04:00.0
e1=0000:04:00.1
b1=0000:06:01.0
b2=0000:06:02.0
token=0a1b2c3d-0000-1111-2222-333344445555
wrong=ffffffff-0000-1111-2222-333344445555
sys=/sys/bus/pci

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

# Start a holder and wait until it holds; release ends it.
hold()
{
	rm -f /tmp/in /tmp/held
	mkfifo /tmp/in /tmp/held
	$p hold "$@" </tmp/in >/tmp/held &
	holder=$!
	exec 5>/tmp/in 6</tmp/held
	while read -r line <&6; do
		[ "$line" = held ] && return 0
		echo "$line"
	done
	echo "not ok - hold $*: it ended"
}

release()
{
	exec 5>&-
	wait $holder
	exec 6<&-
}

case $1 in
main)
	$p refuse 1 "bound to no driver; run: svio bind $n0" $n0
	bind vfio-pci $n0 $n1 $e0 $e1
	$p basic $n0
	$p irq $n0
	$p reset $n0
	$p domain $n0 $n1
	$p fork $n0
	echo "# busy"
	hold $n0
	$p refuse 16 "process $holder" $n0
	release
	$p refuse-user 13 chown $n0
	echo "# limits"
	old=$(cat /sys/module/vfio_iommu_type1/parameters/dma_entry_limit)
	echo 4 >/sys/module/vfio_iommu_type1/parameters/dma_entry_limit
	$p limits $n0
	echo $old >/sys/module/vfio_iommu_type1/parameters/dma_entry_limit
	echo "# two functions of one group"
	$p basic $e0
	$p irq $e0
	modprobe e1000e
	bind e1000e $e1
	$p refuse 1 "$e1 is bound to e1000e" $e0
	bind vfio-pci $e1
	$p basic $e1
	echo "# hot reset, on a conventional bus: QEMU's PCIe ports do not bring their link up again"
	bind vfio-pci $b1 $b2
	$p hot $b1 $b2
	hold $b1
	$p refuse 16 "process $holder" $b2
	release
	;;
sriov)
	echo 1 >/sys/module/vfio_pci/parameters/enable_sriov
	bind vfio-pci $pf
	$p basic $pf
	$p irq $pf
	echo "# virtual function, its PF owned by user space"
	hold $pf $token
	echo 1 >$sys/devices/$pf/sriov_numvfs
	bind vfio-pci $vf
	$p refuse 13 "needs a VF token" $vf
	$p refuse 13 "wrong VF token" $vf $wrong
	$p refuse 22 "no UUID" $vf secret
	$p vf $vf $token
	echo 0 >$sys/devices/$pf/sriov_numvfs
	release
	bind vfio-pci $n0
	$p refuse 22 "takes none" $n0 $token
	;;
pull)
	bind vfio-pci $n0
	$p request $n0
	;;
no-iommu)
	$p refuse 95 "enable the IOMMU" $n0
	;;
no-vfio)
	$p refuse 95 "modprobe vfio-pci" $n0
	;;
esac
