#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# From a fresh clone to a running svio. Every step is idempotent: what is there already is not done again.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
build=${SVIO_BUILD:-$top/build}

usage() {
	cat <<TXT
usage: config/setup.sh COMMAND

  run           install what is missing, build, and show the main job: a poll-mode NVMe driver doing
                verified I/O, and surviving the loss of its BARs under load (no root after installing)
  run-lab       the same on real Linux VFIO: a full-emulation machine with an IOMMU and NVMe controllers
  test          install what is missing, build, and run every test (see test/README.md)
  test STEP...  only these steps of it; 'test --list' names them
  bench         instruction counts and throughput, as tables
  packages      only install the Debian packages
  build         only build (into \$SVIO_BUILD, default ./build)
  clean         remove the build directories (the lab's cache: config/lab.sh clean)

Packages are installed with apt-get, as root; everything else runs as any user.
TXT
}

say() { printf '\n== %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

build_packages=(gcc libc6-dev meson ninja-build pkg-config libdpdk-dev libjson-c-dev libisal-dev libzstd-dev libnuma-dev libpci-dev)
test_packages=(libcunit1-dev g++ python3 clang libclang-rt-dev cppcheck valgrind strace e2fsprogs dosfstools pciutils kmod
	libhugetlbfs-bin man-db groff-base)

# Those of the arguments that dpkg does not know as installed. A virtual package counts by its provider.
missing_packages() {
	local p
	for p in "$@"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
	done
}

install_packages() {
	local missing
	[ -e /etc/debian_version ] && command -v apt-get >/dev/null ||
		die "this script installs Debian packages and finds no apt-get here; install by hand what README.md lists under Dependencies, then run: meson setup build && ninja -C build"
	mapfile -t missing < <(missing_packages "$@")
	if [ ${#missing[@]} -eq 0 ]; then
		say "packages: all ${#} are installed"
		return
	fi
	say "packages: installing ${missing[*]}"
	[ "$(id -u)" = 0 ] || die "packages are missing and only root can install them; run: sudo config/setup.sh packages"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update || die "apt-get update failed; mend the package sources (or the network) and run this again"
	apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null ||
		die "apt-get could not install: ${missing[*]}; its message is above"
}

do_build() {
	say "build: ${build#"$top"/}"
	[ -e "$build/build.ninja" ] || meson setup "$build" "$top" >/dev/null ||
		die "meson setup failed; see $build/meson-logs/meson-log.txt"
	ninja -C "$build" || die "the build failed; the compiler's message is above"
}

lab_packages() { mapfile -t lab < <("$top/config/lab.sh" packages); }

[ $# -ge 1 ] || { usage >&2; exit 2; }
command=$1
shift
case $command in
run)
	install_packages "${build_packages[@]}"
	do_build
	say "run: poll-mode NVMe on a simulated device, no root, no hugepages, no kernel module"
	exec "$top/apps/demo.sh" "$build" native
	;;
run-lab)
	lab_packages
	install_packages "${build_packages[@]}" "${lab[@]}"
	do_build
	say "lab: preparing (the first time takes about a minute)"
	"$top/config/lab.sh" prepare stock
	say "run: poll-mode NVMe through Linux VFIO, behind an emulated VT-d IOMMU"
	exec "$top/apps/demo.sh" "$build" lab
	;;
test)
	if [ "${1-}" = --list ]; then exec "$top/test/run" --list; fi
	lab_packages
	install_packages "${build_packages[@]}" "${test_packages[@]}" "${lab[@]}"
	do_build
	say "test"
	SVIO_BUILD=$build exec "$top/test/run" "$@"
	;;
bench)
	install_packages "${build_packages[@]}" "${test_packages[@]}"
	do_build
	say "bench: the driver's hot path, in instructions"
	SVIO_BUILD=$build "$top/test/bench/run" "$@"
	say "bench: which pages were written"
	case " $* " in *" --json "*) "$build/test/bench/bench_dirty" --json ;; *) "$build/test/bench/bench_dirty" ;; esac
	say "bench: device and driver in two processes"
	SVIO_BUILD=$build exec "$top/test/bench/vfio_user" "$@"
	;;
packages)
	lab_packages
	install_packages "${build_packages[@]}" "${test_packages[@]}" "${lab[@]}"
	;;
build)
	do_build
	;;
clean)
	rm -rf "$build" "$build"-asan "$build"-tsan "$build"-fuzz
	;;
help | -h | --help)
	usage
	;;
*)
	usage >&2
	die "unknown command '$command'"
	;;
esac
