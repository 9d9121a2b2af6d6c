#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The dirty set against an oracle, on our own models: random writes by three threads, an NVMe controller and an edu device, a million in
# all for each of the sources and both kinds of addresses; then everything that comes and goes meanwhile.
set -u
. "$(dirname "$0")/lib.sh"

probe() { timeout -k 1 "$limit" "$probes/dirty_probe" "$@" || { echo "not ok - dirty: $*: exit code $?"; failed=1; }; }

ops=${SVIO_DIRTY_OPS:-250000}
edu_opts=dma_mask=0xffffffffffffffff # without, it has 28 address bits
dsa=sim:dsa nvme=sim:nvme,size=1M edu=sim:edu,$edu_opts
probe exact va cpu+device $nvme $edu "$ops"
probe exact va cpu+driver $nvme $edu "$ops"
probe exact iova cpu+device $nvme $edu "$ops"
probe exact iova cpu+driver $nvme $edu "$ops"
probe moving va cpu+device $nvme $edu "$ops"
probe moving va cpu+driver $nvme $edu "$ops"
probe moving iova cpu+driver $nvme $edu "$ops"
# With a device that writes under SVA, by plain pointers.
probe exact va cpu+device $nvme $edu "$ops" $dsa
probe moving va cpu+driver $nvme $edu "$ops" $dsa
# With the same writing by IOVAs that are no addresses, into registered memory: its own log, and its driver's.
probe exact iova cpu+driver $nvme $edu "$ops" identity:$dsa
probe moving iova cpu+driver $nvme $edu "$ops" identity:$dsa
probe exact iova cpu+device $nvme $edu "$ops" identity:$dsa
probe follow $nvme $edu
probe messages $edu
# The same with a server in a process of its own, which writes to its own mapping of our memory.
check "servers start" serve p nvme --size 1M --socket "$dir/1" edu,$edu_opts --socket "$dir/2" dsa --socket "$dir/3"
probe moving va cpu+device "user:$dir/1" "user:$dir/2" "$ops"
probe moving iova cpu+device "user:$dir/1" "user:$dir/2" "$ops" "user:$dir/3"
probe follow "user:$dir/1" "user:$dir/2"
check "the server ends in order" stop p
exit $failed
