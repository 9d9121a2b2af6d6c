#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Prepares the lab in which test/guest/vm boots Linux: an emulator, kernels and,
# on demand, a root in which kernel modules are built. See test/guest/README.md.
#
# Everything lives in one cache directory, each thing in an entry
# NAME-KEY, where KEY is a digest of the recipe and of the versions of the
# packages that went into it, and NAME is a link to the current entry. An entry
# is made in a temporary directory and renamed when it is whole.
#
# Each entry has a lock of its own, held while it is made, so that a kernel's build
# keeps nobody from what is there; the lock "lists" is held while the archive's
# package lists are fetched or read. Who makes one entry may ask for another only
# in this order: kernels, roots, qemu, lists.

set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lab=${SVIO_LAB_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/svio/lab}
keyring=${SVIO_LAB_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
index_max_age=${SVIO_LAB_INDEX_HOURS:-24}
jobs=${SVIO_LAB_JOBS:-$(nproc)}

# Packages of the host distribution (Debian 12) that the lab runs on.
host_packages=(apt dpkg debian-archive-keyring mmdebstrap busybox-static kmod
	pciutils python3 util-linux xz-utils zstd)

# All entries, in the order in which their locks are taken.
entries=(kernel-stock kernel-bookworm kernel-backports kernel-own kernel-own-debug
	modules-root modules-root-bookworm qemu)

# Packages in the roots where modules are built, besides the compilers that kernel
# headers ask for; and those that building a kernel needs too.
modules_root_packages=(gcc make libc6-dev libelf-dev libssl-dev pahole kmod sparse xz-utils)
kernel_build_packages=(bc bison flex)

usage()
{
	cat <<USAGE
usage: config/lab.sh prepare [NAME]...
       config/lab.sh module KERNEL TREE SUBDIR OUT [MAKE-ARGUMENT]...
       config/lab.sh status | packages | dir [NAME] | clean [--all] | --help

prepare   makes what test/guest/vm needs: QEMU, and the things named:
  stock         the current kernel of trixie-backports
  bookworm      the kernel of Debian 12
  backports     the current kernel of bookworm-backports
  own           a kernel built from trixie-backports' linux-source with
                config/lab/kernel-own.config (iommufd, VFIO cdev, lockdep;
                several minutes; needs root)
  own-debug     the same with config/lab/kernel-own-debug.config on top (KASAN, UBSAN)
  modules-root, modules-root-bookworm
                the roots in which modules are built, against the stock kernel and
                own ones, and against Debian 12's and its backports' (need root)
  With no name: stock and bookworm. What is there and current is kept.
module    builds the kernel module in SUBDIR of the source directory TREE against
          KERNEL (any of the above; needs root) and copies its .ko files into the
          directory OUT. Arguments for make may follow, as W=1, C=1 (sparse) or NAME=VALUE.
status    lists the entries.
packages  prints the host's Debian packages that the lab needs.
dir       prints the cache directory, or with a name that entry's directory.
clean     removes entries that are no longer current; --all removes everything.
          Waits for runs that are making one.

The cache is \${SVIO_LAB_DIR}, else \${XDG_CACHE_HOME:-~/.cache}/svio/lab.
  SVIO_LAB_MIRROR       Debian mirror (default: the one apt is configured with)
  SVIO_LAB_INDEX_HOURS  age at which package lists are fetched again (24)
  SVIO_LAB_JOBS         parallel jobs of a kernel build (number of processors)
USAGE
}

say()
{
	printf 'lab: %s\n' "$*" >&2
}

die()
{
	printf 'lab: error: %s\n' "$1" >&2
	shift
	for line in "$@"; do
		printf 'lab:   %s\n' "$line" >&2
	done
	exit 1
}

# --- temporary directories and locks ------------------------------------------

tmp=

cleanup()
{
	[ -z "$tmp" ] || rm -rf --one-file-system "$tmp"
	tmp=
}

trap cleanup EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP

# Long commands run beside the shell, which could not act on a signal while it
# waits for one in the foreground.
child=
child_signal=TERM

interrupted()
{
	if [ -n "$child" ]; then
		kill -s "$child_signal" "$child" 2>/dev/null || true
		wait "$child" || true
	fi
	exit "$1"
}

run_child()
{
	local status=0

	"$@" &
	child=$!
	wait "$child" || status=$?
	child=
	return "$status"
}

declare -A lock_fd

# lock NAME: waits until no other run holds that lock.
lock()
{
	local file=$lab/.lock.$1 fd

	mkdir -p "$lab" || die "cannot create $lab" "set SVIO_LAB_DIR to a directory you can write"
	while :; do
		exec {fd}>"$file"
		if ! flock -n "$fd"; then
			say "$1: waiting for another run"
			run_child flock "$fd"
		fi
		# "clean --all" removes the file: then the lock is on none that others see.
		[ ! "$file" -ef "/proc/self/fd/$fd" ] || break
		exec {fd}>&-
	done
	lock_fd[$1]=$fd
}

unlock()
{
	local fd=${lock_fd[$1]}

	exec {fd}>&-
	unset "lock_fd[$1]"
}

# locked NAME COMMAND...: runs it with that lock held.
locked()
{
	lock "$1"
	"${@:2}"
	unlock "$1"
}

# begin NAME: the temporary directory in which that entry, whose lock is held, is made.
begin()
{
	# Whatever is half made was left by a run that was killed.
	rm -rf --one-file-system "$lab/.making.$1".*
	tmp=$(mktemp -d "$lab/.making.$1.XXXXXX")
}

# publish NAME KEY: the temporary directory becomes the current entry NAME.
publish()
{
	local name=$1 key=$2

	touch "$tmp/.complete"
	rm -rf --one-file-system "${lab:?}/$name-$key"
	mv -T "$tmp" "$lab/$name-$key"
	tmp=
	point "$name" "$key"
}

point()
{
	ln -sfn "$1-$2" "$lab/.link.$1"
	mv -T "$lab/.link.$1" "$lab/$1"
}

# current NAME KEY: true if that entry exists; it is made the current one.
current()
{
	[ -e "$lab/$1-$2/.complete" ] || return 1
	[ "$(readlink "$lab/$1" || true)" = "$1-$2" ] || point "$1" "$2"
	say "$1: up to date"
}

digest()
{
	sha256sum | cut -c1-12
}

# --- the Debian archive, seen without touching the host's package state ------

# apt_uri LABEL: the URI of the host's apt source with that label ("Debian" or
# "Debian-Security"). While the host has no package lists, apt knows no labels, and
# the suite's name decides.
apt_uri()
{
	local uri

	# shellcheck disable=SC2016 # apt expands these
	uri=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
		awk -F'|' -v label="$1" '$1 == "Debian" && $2 == label && !n++ { print $3 }')
	# shellcheck disable=SC2016
	[ -n "$uri" ] || uri=$(apt-get indextargets --no-release-info \
		--format '$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' |
		awk -F'|' -v label="$1" '
			$1 ~ /^(bookworm|trixie|(old)?stable)$/ && label == "Debian" && !n++ { print $2 }
			$1 ~ /-security$/ && label == "Debian-Security" && !n++ { print $2 }')
	echo "$uri"
}

# What is called a suite here: trixie (with its backports), bookworm, and backports
# (bookworm with its backports).

# apt_options SUITE: options that make apt see SUITE alone, in $aptopts.
apt_options()
{
	local dir=$lab/apt/$1

	aptopts=(-q
		-o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
		-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
		-o "Dir::State=$dir" -o "Dir::State::status=$dir/status"
		-o "Dir::Cache=$dir/cache" -o Dir::Cache::pkgcache=pkgcache.bin
		-o Dir::Cache::srcpkgcache=srcpkgcache.bin
		-o APT::Architecture=amd64 -o APT::Architectures::=amd64
		-o APT::Install-Recommends=false -o Acquire::Languages=none
		-o APT::Sandbox::User=root -o Debug::NoLocking=1
		-o APT::Get::Assume-Yes=true)
	case $1 in
	trixie) aptopts+=(-o APT::Default-Release=trixie-backports) ;;
	backports) aptopts+=(-o APT::Default-Release=bookworm-backports) ;;
	esac
}

# apt_sources SUITE: the sources.list lines of SUITE.
apt_sources()
{
	local mirror security

	mirror=${SVIO_LAB_MIRROR:-$(apt_uri Debian)}
	[ -n "$mirror" ] || die "found no Debian mirror in apt's configuration" \
		"set SVIO_LAB_MIRROR to the address of one"
	case $1 in
	trixie)
		printf 'deb [signed-by=%s] %s trixie main\n' "$keyring" "$mirror"
		printf 'deb [signed-by=%s] %s trixie-backports main\n' "$keyring" "$mirror"
		;;
	bookworm | backports)
		printf 'deb [signed-by=%s] %s bookworm main\n' "$keyring" "$mirror"
		[ "$1" = bookworm ] ||
			printf 'deb [signed-by=%s] %s bookworm-backports main\n' "$keyring" "$mirror"
		security=$(apt_uri Debian-Security)
		[ -z "$security" ] ||
			printf 'deb [signed-by=%s] %s bookworm-security main\n' "$keyring" "$security"
		;;
	esac
}

# apt_view SUITE: sets $aptopts, and fetches the package lists if they are old.
apt_view()
{
	local suite=$1 dir=$lab/apt/$1 release=${1/backports/bookworm} sources

	apt_options "$suite"
	[ -e "$keyring" ] || die "no archive keyring at $keyring" \
		"run: apt-get install debian-archive-keyring"
	# One keyring file per release shows which releases the keyring knows.
	[ -e "${keyring%/*}/debian-archive-$release-stable.gpg" ] || [ "${SVIO_LAB_KEYRING:-}" ] ||
		die "the archive keyring is too old to verify Debian $release" \
			"run: apt-get update && apt-get install debian-archive-keyring"
	sources=$(apt_sources "$suite")
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
	[ -e "$dir/status" ] || : >"$dir/status"
	if [ "$(cat "$dir/sources.list" 2>/dev/null || true)" = "$sources" ] &&
	   [ -n "$(find "$dir/updated" -mmin "-$((index_max_age * 60))" 2>/dev/null || true)" ]; then
		return
	fi
	printf '%s\n' "$sources" >"$dir/sources.list"
	say "fetching the package lists of $suite"
	if apt-get "${aptopts[@]}" -o APT::Update::Error-Mode=any update >"$dir/update.log" 2>&1; then
		touch "$dir/updated"
		return
	fi
	sed 's/^/lab:   /' "$dir/update.log" | grep -E ' (E|W|Err)[: ]' >&2 || true
	[ -e "$dir/updated" ] || die "cannot fetch the package lists of Debian $suite" \
		"is the network up? does the mirror carry $suite? (SVIO_LAB_MIRROR names another)"
	say "using the package lists fetched on $(date -r "$dir/updated" +%F)"
}

# apt_closure SUITE PACKAGE...: NAME=VERSION of these and all they depend on. The
# answer is kept until the package lists are fetched again.
apt_closure()
{
	local dir=$lab/apt/$1 answer

	shift
	answer=$dir/closure-$(echo "$@" | digest)
	if [ ! "$answer" -nt "$dir/updated" ]; then
		apt-get "${aptopts[@]}" -s install "$@" |
			awk '$1 == "Inst" { v = $3; sub(/^\(/, "", v); print $2 "=" v }' >"$answer.new"
		[ -s "$answer.new" ] || return 0
		mv "$answer.new" "$answer"
	fi
	cat "$answer"
}

# resolve SUITE PACKAGE...: $list becomes apt_closure's answer, and $aptopts SUITE's options.
resolve()
{
	lock lists
	apt_view "$1"
	list=$(apt_closure "$@")
	unlock lists
}

# apt_unpack DIR NAME=VERSION...: fetches packages of the suite last resolved, verifies
# them by the digests of its signed lists, unpacks them into DIR. The lists are
# locked only while they are read, not while packages are fetched.
apt_unpack()
{
	local dir=$1 uris uri file digest fetch=() deb

	shift
	mkdir -p "$dir" "$tmp/debs"
	lock lists
	uris=$(apt-get "${aptopts[@]}" --print-uris download "$@") ||
		die "no such packages: $*" "run config/lab.sh again; if it repeats, remove $lab/apt"
	unlock lists
	while read -r uri file _ digest; do
		[[ $digest =~ ^SHA(256|512):[0-9a-f]+$ ]] || die "the package lists hold no digest of $file"
		fetch+=("${uri//\'/}" "$tmp/debs/$file" "$digest")
	done <<<"$uris"
	run_child /usr/lib/apt/apt-helper "${aptopts[@]}" download-file "${fetch[@]}" >"$tmp/download.log" 2>&1 || {
		cat "$tmp/download.log" >&2
		die "cannot fetch packages" "run config/lab.sh again; if it repeats, remove $lab/apt"
	}
	for deb in "$tmp"/debs/*.deb; do
		dpkg-deb -x "$deb" "$dir"
	done
	rm -rf "$tmp/debs" "$tmp/download.log"
}

# --- QEMU ---------------------------------------------------------------------

# The packages are unpacked, not installed: their own loader runs the program on
# their own libraries, so neither root nor a chroot is needed.
make_qemu()
{
	local list key

	resolve trixie qemu-system-x86
	[ -n "$list" ] || die "qemu-system-x86 cannot be resolved in trixie-backports"
	key=$({ declare -f make_qemu apt_unpack; echo "$list"; } | digest)
	! current qemu "$key" || return 0

	begin qemu
	say "qemu: $(grep ^qemu-system-x86= <<<"$list"), $(wc -l <<<"$list") packages"
	# shellcheck disable=SC2086 # one word per package
	apt_unpack "$tmp/root" $list
	cat >"$tmp/qemu-system-x86_64" <<-'WRAPPER'
		#!/bin/sh
		here=$(dirname "$(readlink -f "$0")")
		lib=$here/root/usr/lib/x86_64-linux-gnu
		QEMU_MODULE_DIR=$lib/qemu
		export QEMU_MODULE_DIR
		exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" \
			"$here/root/usr/bin/qemu-system-x86_64" -L "$here/root/usr/share/qemu" \
			-L "$here/root/usr/share/seabios" -L "$here/root/usr/lib/ipxe/qemu" "$@"
	WRAPPER
	chmod +x "$tmp/qemu-system-x86_64"
	grep ^qemu-system-x86= <<<"$list" >"$tmp/version"
	"$tmp/qemu-system-x86_64" --version >"$tmp/selftest" 2>&1 || {
		cat "$tmp/selftest" >&2
		die "the unpacked QEMU does not start"
	}
	publish qemu "$key"
	say "qemu: ready"
}

# --- packaged kernels -----------------------------------------------------------

# make_packaged_kernel NAME SUITE
make_packaged_kernel()
{
	local name=kernel-$1 suite=$2 list key release vmlinuz modules config

	resolve "$suite" linux-image-amd64
	list=$(grep -E '^linux-(image|binary|modules|base)-[0-9]' <<<"$list" || true)
	[ -n "$list" ] || die "linux-image-amd64 of $suite depends on no kernel package" \
		"its packaging has changed: config/lab.sh, make_packaged_kernel must follow it"
	key=$({ declare -f make_packaged_kernel apt_unpack; cat "$here/lab/extract-vmlinux"
		echo "$list"; } | digest)
	! current "$name" "$key" || return 0

	begin "$name"
	# shellcheck disable=SC2086 # one word per package
	say "$name: fetching and unpacking" $list
	# shellcheck disable=SC2086 # one word per package
	apt_unpack "$tmp/root" $list
	# The image is in /boot, or beside its modules; those are in /lib or /usr/lib.
	vmlinuz=$(find "$tmp/root" -type f -name 'vmlinuz*')
	modules=$(find "$tmp/root" -type d -path '*/lib/modules/*' -name kernel -prune)
	if [ ! -f "$vmlinuz" ] || [ ! -d "$modules" ]; then
		# shellcheck disable=SC2086
		die "the packages do not hold exactly one kernel with its modules:" $list
	fi
	release=$(basename "${modules%/kernel}")
	mkdir -p "$tmp/lib/modules"
	mv "$vmlinuz" "$tmp/vmlinuz"
	config=$(find "$tmp/root" -type f ! -name '*.ko*' \( -name config -o -name 'config-*' \))
	mv "$config" "$tmp/config"
	mv "${modules%/kernel}" "$tmp/lib/modules/"
	rm -rf "$tmp/root"
	"$here/lab/extract-vmlinux" "$tmp/vmlinuz" "$tmp/vmlinux"
	PATH=$PATH:/usr/sbin:/sbin depmod -b "$tmp" "$release"
	echo "$release" >"$tmp/release"
	echo "$list" >"$tmp/version"
	publish "$name" "$key"
	say "$name: ready, $release"
}

# --- the root for building modules and kernels ----------------------------------

# What mmdebstrap's apt must know of the host's: how to reach the archive.
apt_access_options()
{
	apt-config dump | sed -n 's/^\(Acquire::\(https\?\|Check\|Retries\)[^ ]* ".\+"\);$/--aptopt=\1/p'
}

# make_modules_root NAME SUITES PACKAGE...: a root with these packages of the first suite,
# and the headers of each suite's current kernel.
make_modules_root()
{
	local name=$1 suites=$2 suite packages=("${@:3}") list key access=() release sub
	local -A headers

	[ "$(id -u)" = 0 ] || die "making $name needs root" "run it as root, or leave it out"
	for suite in $suites; do
		resolve "$suite" linux-headers-amd64
		# Unpacked, not installed: some depend on the image, whose installation takes minutes.
		headers[$suite]=$(grep -E '^linux-(headers|kbuild)-[0-9]' <<<"$list" || true)
		[ "${headers[$suite]}" ] || die "linux-headers-amd64 of $suite depends on no headers"
		readarray -t -O ${#packages[@]} packages < <(sed -n 's/^\(gcc-[0-9]*\(-for-host\)\?\)=.*/\1/p' <<<"$list")
	done
	suite=${suites%% *}
	resolve "$suite" "${packages[@]}"
	[ -n "$list" ] || die "cannot resolve in $suite: ${packages[*]}"
	key=$({ declare -f make_modules_root; cat "$here/lab/sparse"
		echo "$list" "${headers[@]}"; } | digest)
	! current "$name" "$key" || return 0

	begin "$name"
	chmod 755 "$tmp"
	say "$name: installing ${packages[*]}"
	release=${suite/backports/bookworm}
	readarray -t access < <(apt_access_options)
	sed 's/ \[[^]]*\]//' "$lab/apt/$suite/sources.list" >"$tmp/sources"
	run_child mmdebstrap --quiet --mode=root --variant=apt --keyring="$keyring" \
		--include="$(tr ' ' , <<<"${packages[*]}")" "${access[@]}" \
		--aptopt='APT::Install-Recommends "false"' \
		--aptopt="APT::Default-Release \"$release-backports\"" \
		"$release" "$tmp/root" "$tmp/sources" >"$tmp/log" 2>&1 || {
		tail -n 20 "$tmp/log" >&2
		die "mmdebstrap failed"
	}
	for suite in $suites; do
		apt_options "$suite"
		# shellcheck disable=SC2086 # one word per package
		apt_unpack "$tmp/headers" ${headers[$suite]}
	done
	# The root's /lib is a link, which packages do not know.
	for sub in usr lib; do
		[ ! -d "$tmp/headers/$sub" ] || cp -a "$tmp/headers/$sub/." "$tmp/root/$sub/"
	done
	rm -rf "$tmp/headers"
	install -m 755 "$here/lab/sparse" "$tmp/root/usr/local/bin/"
	# Debian's headers leave out the script by which they ask what sparse knows.
	for sub in "$tmp"/root/usr/lib/linux-kbuild-*/scripts; do
		[ -e "$sub/checker-valid.sh" ] ||
			install -m 755 /dev/stdin "$sub/checker-valid.sh" <<<$'#!/bin/sh\necho 1'
	done
	mkdir "$tmp/root/build" "$tmp/root/kernel"
	grep -hE '^linux-headers-[0-9]+.*-amd64=' <<<"$(printf '%s\n' "${headers[@]}")" >"$tmp/version"
	publish "$name" "$key"
	say "$name: ready"
}

# enter NAME: that root is where in_root runs commands.
enter()
{
	root=$(readlink -f "$lab/$1")/root
}

# in_root DIR COMMAND...: runs it in $root, with DIR at /build and, if set, $kernel_tree
# at /kernel. The mounts are in a namespace of its own and go with it.
root=
kernel_tree=

in_root()
{
	local dir=$1 status=0

	shift
	# unshare ignores all but SIGKILL, and takes what it runs along.
	child_signal=KILL
	# shellcheck disable=SC2016 # expanded by the inner shell
	run_child unshare --mount --propagation private --pid --fork --kill-child sh -ec '
		root=$1 dir=$2 tree=$3
		shift 3
		mount --bind "$dir" "$root/build"
		[ -z "$tree" ] || mount --bind "$tree" "$root/kernel"
		mount -t proc proc "$root/proc"
		mount --rbind /dev "$root/dev"
		# make names its files there by process numbers, which are the same in each namespace.
		mount -t tmpfs tmpfs "$root/tmp"
		exec chroot "$root" "$@"' sh "$root" "$dir" "$kernel_tree" \
		env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C.UTF-8 "$@" || status=$?
	child_signal=TERM
	return "$status"
}

# build_own_kernel FRAGMENT...: the kernel of the source in $tmp/build; vmlinux, config,
# release and lib/modules in $tmp, and in $tmp/build what modules are built against.
# With KASAN a bzImage too: what runs first when QEMU enters at the PVH note is instrumented,
# and the shadow memory is not there yet.
build_own_kernel()
{
	local dropped release images=vmlinux

	cat "$@" >"$tmp/build/svio.config"
	in_root "$tmp/build" make -C /build KCONFIG_ALLCONFIG=svio.config allnoconfig \
		>"$tmp/log" 2>&1 || { tail -n 20 "$tmp/log" >&2; die "configuring failed"; }
	# A later fragment may say otherwise than an earlier one: the last line counts.
	awk -F= '/^CONFIG_/ { want[$1] = $0 } END { for (o in want) print want[o] }' \
		"$tmp/build/svio.config" | sort >"$tmp/wanted"
	dropped=$(grep -vxFf "$tmp/build/.config" "$tmp/wanted" || true)
	# shellcheck disable=SC2086 # one word per line of it
	[ -z "$dropped" ] || die "the kernel's Kconfig does not take these lines:" $dropped

	! grep -qx CONFIG_KASAN=y "$tmp/build/.config" || images="vmlinux bzImage"
	# shellcheck disable=SC2086 # one target per word
	in_root "$tmp/build" make -C /build -j"$jobs" $images modules >"$tmp/log" 2>&1 || {
		grep -E -B2 -A5 'error|Error' "$tmp/log" | tail -n 30 >&2
		die "building the kernel failed"
	}
	in_root "$tmp/build" make -s -C /build kernelrelease >"$tmp/release" 2>/dev/null
	release=$(cat "$tmp/release")
	in_root "$tmp/build" make -s -C /build INSTALL_MOD_PATH=/build/installed INSTALL_MOD_STRIP=1 \
		DEPMOD=/bin/true modules_install >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; die "modules_install failed"; }
	mv "$tmp/build/installed/lib" "$tmp/lib"
	rm -f "$tmp/lib/modules/$release/build"
	PATH=$PATH:/usr/sbin:/sbin depmod -b "$tmp" "$release"
	in_root "$tmp/build" strip -g -o /build/vmlinux.stripped /build/vmlinux
	mv "$tmp/build/vmlinux.stripped" "$tmp/vmlinux"
	[ "$images" = vmlinux ] || mv "$tmp/build/arch/x86/boot/bzImage" "$tmp/bzImage"
	cp "$tmp/build/.config" "$tmp/config"
	find "$tmp/build" -path "$tmp/build/scripts" -prune -o -path "$tmp/build/tools" -prune -o \
		-type f ! -name '*.h' ! -name 'Makefile*' ! -name 'Kbuild*' ! -name 'Kconfig*' \
		! -name Module.symvers ! -name .config ! -name auto.conf ! -name '*.release' \
		! -name '*.lds' -exec rm -f {} +
}

# make_own_kernel NAME FRAGMENT...
make_own_kernel()
{
	local name=kernel-$1 list key tarball started=$SECONDS

	shift
	[ "$(id -u)" = 0 ] || die "making $name needs root" "run it as root, or leave it out"
	resolve trixie linux-source
	list=$(grep -E '^linux-source-[0-9]' <<<"$list" || true)
	[ -n "$list" ] || die "linux-source of trixie-backports depends on no kernel source"
	key=$({ declare -f build_own_kernel; cat "$@"; echo "$list"; } | digest)
	! current "$name" "$key" || return 0
	prepare_entry modules-root
	enter modules-root

	begin "$name"
	say "$name: fetching $list"
	apt_unpack "$tmp/deb" "$list"
	tarball=$(find "$tmp/deb" -name 'linux-source-*.tar.*' -type f)
	[ -f "$tarball" ] || die "$list holds no tarball"
	mkdir "$tmp/build"
	tar -xf "$tarball" -C "$tmp/build" --strip-components=1
	rm -rf "$tmp/deb"
	say "$name: building with $jobs jobs; this takes several minutes"
	build_own_kernel "$@"
	echo "$list" >"$tmp/version"
	publish "$name" "$key"
	say "$name: ready, $(cat "$lab/$name/release"), after $((SECONDS - started)) s"
}

# module KERNEL TREE SUBDIR OUT [MAKE-ARGUMENT]...
module()
{
	local kernel=${1:-} builder=modules-root headers

	[ $# -ge 4 ] || { usage >&2; exit 2; }
	[ "$(id -u)" = 0 ] || die "building modules needs root"
	[ -d "$2/$3" ] || die "no directory $2/$3"
	[ -d "$4" ] || die "no directory $4"
	case $kernel in
	stock | own | own-debug) ;;
	bookworm | backports) builder="modules-root-bookworm" ;;
	*) die "no such kernel: $kernel" "see config/lab.sh --help" ;;
	esac
	prepare "$kernel" $builder
	enter $builder
	case $kernel in
	own*)
		kernel_tree=$(readlink -f "$lab/kernel-$kernel")/build
		headers=/kernel
		;;
	*)
		headers=/lib/modules/$(cat "$lab/kernel-$kernel/release")/build
		[ -L "$root$headers" ] || [ -e "$root$headers" ] ||
			die "$builder holds no headers of kernel $(cat "$lab/kernel-$kernel/release")" \
				"the archive is between two versions: try again later"
		;;
	esac
	# Not in the lab: it is no entry, and any number of modules may be built at a time.
	tmp=$(mktemp -d "${TMPDIR:-/tmp}/svio-module.XXXXXX")
	cp -a "$2/." "$tmp/"
	say "building $3 for $kernel"
	in_root "$tmp" make -C "$headers" "M=/build/$3" -j"$jobs" "${@:5}" modules >&2 ||
		die "the module does not build"
	cp "$tmp/$3"/*.ko "$4/"
}

# --- commands -------------------------------------------------------------------

check_host()
{
	local missing=() package

	[ "$(uname -m)" = x86_64 ] || die "the lab needs an x86-64 machine, this is $(uname -m)"
	for package in "${host_packages[@]}"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
			missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] ||
		die "missing packages: ${missing[*]}" "run: apt-get install ${missing[*]}"
}

# prepare_entry ENTRY: makes it, unless it is there and current.
prepare_entry()
{
	local own=$here/lab/kernel-own.config debug=$here/lab/kernel-own-debug.config

	case $1 in
	qemu) locked qemu make_qemu ;;
	kernel-stock) locked kernel-stock make_packaged_kernel stock trixie ;;
	kernel-bookworm) locked kernel-bookworm make_packaged_kernel bookworm bookworm ;;
	kernel-backports) locked kernel-backports make_packaged_kernel backports backports ;;
	kernel-own) locked kernel-own make_own_kernel own "$own" ;;
	kernel-own-debug) locked kernel-own-debug make_own_kernel own-debug "$own" "$debug" ;;
	modules-root)
		locked modules-root make_modules_root modules-root trixie \
			"${modules_root_packages[@]}" "${kernel_build_packages[@]}"
		;;
	modules-root-bookworm)
		locked modules-root-bookworm make_modules_root modules-root-bookworm "backports bookworm" \
			"${modules_root_packages[@]}"
		;;
	esac
}

prepare()
{
	local what known=" ${entries[*]} "

	[ $# -gt 0 ] || set -- stock bookworm
	for what in "$@"; do
		[[ $known == *" kernel-$what "* || "$known" == *" $what "* ]] ||
			die "unknown thing to prepare: $what" "see config/lab.sh --help"
	done
	check_host
	prepare_entry qemu
	for what in "$@"; do
		[[ $known == *" $what "* ]] || what=kernel-$what
		prepare_entry "$what"
	done
}

clean()
{
	local entry name

	[ -d "$lab" ] || return 0
	for name in "${entries[@]}" lists; do
		lock "$name"
	done
	if [ "${1:-}" = --all ]; then
		say "removing $lab"
		rm -rf --one-file-system "$lab"
		return
	fi
	for entry in "$lab"/*-*; do
		if [ ! -d "$entry" ] || [ -L "$entry" ]; then
			continue
		fi
		name=$(basename "$entry")
		[ "$(readlink "$lab/${name%-*}" || true)" = "$name" ] || {
			say "removing $name"
			rm -rf --one-file-system "$entry"
		}
	done
	rm -rf --one-file-system "$lab/initrd" "$lab"/.making.*
}

status()
{
	local link name

	echo "cache: $lab"
	for name in "${entries[@]}"; do
		link=$lab/$name
		if [ -e "$link/.complete" ]; then
			printf '%-21s %s\n' "$name" "$(tr '\n' ' ' <"$link/version")"
		else
			printf '%-21s absent\n' "$name"
		fi
	done
}

main()
{
	local command=${1:-}

	[ $# = 0 ] || shift
	case $command in
	prepare) prepare "$@" ;;
	module) module "$@" ;;
	clean) clean "$@" ;;
	status) status ;;
	packages) printf '%s\n' "${host_packages[@]}" ;;
	dir) echo "$lab${1:+/$1}" ;;
	-h | --help | help) usage ;;
	*) usage >&2; exit 2 ;;
	esac
}

main "$@"; exit
