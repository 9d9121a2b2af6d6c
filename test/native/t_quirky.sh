#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Clients with ways of their own, SPDK's and QEMU's, driving the NVMe model for real: a raw client and a small driver (quirky/), which
# share nothing with lib/vfio and drivers/nvme. The whole list of requirements and their tests: README.md.
# `t_quirky.sh [CASE]…`
set -u
. "$(dirname "$0")/lib.sh"

cases=("$@")
[ $# -gt 0 ] || cases=(spdk spdk-split spdk-messages qemu qemu-messages viommu)
quirky() { timeout -k 1 "$limit" "$probes/quirky" "$@" 2>"$dir/err" || { echo "not ok - quirky $1: exit code $?"; tail -n 20 "$dir/err"; failed=1; }; }

# Each client leaves the device in a state of its own; the next one finds it.
check "a server starts" serve q nvme --size 64M --queues 8 --socket "$dir/s"
for c in "${cases[@]}"; do quirky "$c" "$dir/s"; done
check "the next client's I/O" perf 0 "user:$dir/s" --rw randrw --verify --time 1 --queues 2 -- "${proved[@]}"
check "it ends in order" stop q
check "and no client broke the protocol" [ "$(counter q protocol_errors)" = 0 ]

# Nothing of the BAR can be mapped: QEMU posts its writes.
check "a server without mappings starts" serve m nvme --size 64M --queues 8 --no-mmap --socket "$dir/s"
for c in qemu qemu-messages; do quirky $c "$dir/s"; done
check "it ends in order" stop m

check "a server that sleeps starts" serve i nvme --size 64M --queues 8 --interrupt --socket "$dir/s"
for c in sleep qemu qemu-messages; do quirky $c "$dir/s"; done
check "it ends in order" stop i
check "and no client broke the protocol" [ "$(counter i protocol_errors)" = 0 ]
exit $failed
