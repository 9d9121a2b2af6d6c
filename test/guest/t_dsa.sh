#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The DSA driver (test/native/dsa_probe.c) and its commands on kernel/svio_simdev through kernel/svio_vfio_pci: by PASID where the kernel
# can (stock, 7.3), by registered memory where it cannot (backports, 6.12). The device is simulated, the kernel's IOMMU, VFIO and memory
# code is not. usage: t_dsa.sh [stock|own|own-debug|backports]
#
# not for: bookworm (svio_simdev needs Linux 6.12)
# also for: backports
set -uo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
build=${SVIO_BUILD:-$top/build}
kernel=${1:-stock} mode=native least=50
[ "$kernel" != backports ] || mode=identity least=25
dir=$(mktemp -d "${TMPDIR:-/tmp}/t-dsa.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

mkdir "$dir/modules"
"$top/test/guest/lib/build_modules" dsa "$kernel" "$dir/modules" svio_simdev svio_vfio_pci || exit 1

status=0
"$top/test/guest/vm" --kernel "$kernel" --timeout 500 --append 'memmap=2M$0x30000000' --add "$dir/modules:/modules" \
	--add "$build/test/native/dsa_probe:/usr/bin/dsa_probe" --add "$top/test/guest/dsa_guest.sh:/dsa_guest.sh" \
	-- sh /dsa_guest.sh $mode >"$dir/out" 2>"$dir/err" || status=$?
cat "$dir/out"
good=$(grep -c '^ok - ' "$dir/out")
if [ $status != 0 ] || [ "$good" -lt $least ]; then
	tail -n 30 "$dir/err" | sed 's/^/# /'
	echo "not ok - dsa: ran to its end (status $status, $good checks, at least $least expected)"
	exit 1
fi
! grep -q '^not ok - ' "$dir/out"
