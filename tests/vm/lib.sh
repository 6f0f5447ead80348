# Shared by the scripts in this directory: messages, the cache, host tools, entering the build root.
# shellcheck shell=bash
set -euo pipefail
# An ordinary user's path may lack chroot.
PATH=$PATH:/usr/sbin:/sbin

VM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(cd "$VM_DIR/../.." && pwd)
CACHE=${POSTBOX_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/postbox}
TARGET=$TOP/target
export CARGO_TARGET_DIR=$TARGET
# Kernel series that kmod/ supports, newest first.
# shellcheck disable=SC2034 # for setup
SUPPORTED="7.3 7.2"

if [ -t 2 ]; then BOLD=$'\e[1m' PLAIN=$'\e[0m'; else BOLD='' PLAIN=''; fi
say() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }
note() { printf '    %s\n' "$*" >&2; }
die() {
	printf '%serror:%s %s\n' "$BOLD" "$PLAIN" "$1" >&2
	shift
	[ $# -eq 0 ] || printf '       %s\n' "$@" >&2
	exit 1
}

# Short hash of standard input: the key of a cache item.
key() { sha256sum | cut -c1-12; }

# Root rights without asking anybody: as root, or through a sudo that needs no password.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n -- "$@"; fi
}
can_root() { [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }

[ "$(uname -m)" = x86_64 ] || die "this needs an x86-64 machine (this one is $(uname -m))"

# get_packages PACKAGE...: installs them where that is possible, else says how.
get_packages() {
	if ! command -v apt-get >/dev/null || ! can_root; then
		die "missing on this machine: $*" "install with: sudo apt-get install $*"
	fi
	say "installing $* on this machine with apt-get"
	if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 ||
		! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2; then
		die "apt-get could not install $*" "install by hand, and run this again: sudo apt-get install $*"
	fi
	hash -r
}

# need "COMMAND:PACKAGE [PACKAGE]"...: gets the packages of the commands that are missing.
need() {
	local pair packages missing=()
	for pair in "$@"; do
		command -v "${pair%%:*}" >/dev/null && continue
		read -ra packages <<<"${pair#*:}"
		missing+=("${packages[@]}")
	done
	[ ${#missing[@]} = 0 ] || get_packages "${missing[@]}"
}

need_cargo() {
	command -v cargo >/dev/null && return
	[ -x "$HOME/.cargo/bin/cargo" ] && PATH=$HOME/.cargo/bin:$PATH && return
	die "cargo is not on the PATH" "install Rust with rustup (https://rustup.rs) and run this again"
}

# take_lock FILE WHAT: holds the lock until the script ends; who comes second says so and waits.
take_lock() {
	local fd
	mkdir -p "$(dirname "$1")"
	exec {fd}>"$1"
	flock -n "$fd" || {
		say "another run is busy with $2; waiting for it"
		flock "$fd"
	}
	LOCK=$fd
}

# following LOG COMMAND...: runs it and says every 20 s where its log is.
following() {
	local log=$1 follower clock status=0
	shift
	exec {clock}<> <(:)
	# read instead of sleep: nothing is left behind that keeps a pipe open.
	while kill -0 $$ 2>/dev/null; do
		read -r -t 20 -u "$clock" || note "$(wc -l <"$log" 2>/dev/null || echo 0) lines so far: $(tail -n 1 "$log" 2>/dev/null)"
	done &
	follower=$!
	"$@" || status=$?
	kill $follower
	wait $follower 2>/dev/null || :
	exec {clock}>&-
	return $status
}

# item NAME MAKER [ARG...]: one entry of the cache. MAKER gets an empty directory and fills it; it is renamed into place
# when it is whole. Who comes second waits; what an interrupted run left is removed.
item() {
	local name=$1 maker=$2 tmp
	shift 2
	[ ! -d "$CACHE/$name" ] || return 0
	take_lock "$CACHE/lock-$name" "$name"
	if [ ! -d "$CACHE/$name" ]; then
		rm -rf "$CACHE/tmp.$name".*
		tmp=$(mktemp -d "$CACHE/tmp.$name.XXXXXX")
		chmod 755 "$tmp"
		# What is started here must not hold the lock when this script is gone.
		"$maker" "$tmp" "$@" {LOCK}>&-
		mv -T "$tmp" "$CACHE/$name"
	fi
	exec {LOCK}>&-
}

# How to get a mount name space: as root, in a user name space, or with sudo.
enter_mode() {
	if [ "$(id -u)" = 0 ]; then
		unshare -m true 2>/dev/null || die "root may not mount anything here (a container?)" \
			"give the container the right to: --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
		echo root
	elif unshare -rm true 2>/dev/null; then
		echo userns
	elif can_root; then
		echo sudo
	else
		die "the build root cannot be entered: not root, no user name spaces, no sudo without a password" \
			"allow user name spaces (sysctl kernel.unprivileged_userns_clone=1, or on Ubuntu" \
			"kernel.apparmor_restrict_unprivileged_userns=0), or run once as root"
	fi
}

# in_root [--at DIR]... ROOT COMMAND...: runs COMMAND inside a build root, with the cache at /cache and the checkout at /src, and
# each DIR at the place that it names by "DIR:PLACE": a kernel tree remembers its path, so it has one that does not change when a finished
# item is renamed. The environment is fixed, so that what is built does not depend on who builds it.
in_root() {
	local root mode pre=() spec=() var keep=() at=
	while [ "$1" = --at ]; do
		at+="$2"$'\n'
		shift 2
	done
	root=$1
	shift
	mode=$(enter_mode) || exit 1
	case $mode in
	root) pre=(unshare -m) ;;
	userns) pre=(unshare -rm) ;;
	sudo) pre=(sudo -n -- unshare -m) spec=("--userspec=$(id -u):$(id -g)") ;;
	esac
	for var in http_proxy https_proxy no_proxy; do
		[ -z "${!var:-}" ] || keep+=("$var=${!var}")
	done
	# shellcheck disable=SC2016 # expanded by the inner shell
	"${pre[@]}" /bin/sh -euc '
		root=$1 cache=$2 top=$3 at=$4; shift 4
		mount --rbind /dev "$root/dev"
		mount --rbind /proc "$root/proc"
		mount --bind "$cache" "$root/cache"
		mount --bind "$top" "$root/src"
		printf %s "$at" | while IFS= read -r a; do
			mkdir -p "$root${a##*:}"
			mount --bind "${a%:*}" "$root${a##*:}"
		done
		[ ! -e /etc/resolv.conf ] || mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
		[ ! -e /etc/hosts ] || mount --bind /etc/hosts "$root/etc/hosts"
		# So that an archive that this machine trusts is trusted inside, too.
		certs=/etc/ssl/certs/ca-certificates.crt
		[ ! -e $certs ] || mount --bind $certs "$root$certs"
		exec chroot "$@"
	' sh "$root" "$CACHE" "$TOP" "$at" "${spec[@]}" "$root" /usr/bin/env -i \
		PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 TERM="${TERM:-dumb}" "${keep[@]}" "$@"
}

# root_tool ROOT PROGRAM: sets ROOT_TOOL to the command that runs a program of the build root by its own loader, without entering the root
# and without any rights.
root_tool() {
	# shellcheck disable=SC2034 # for the caller
	ROOT_TOOL=("$1/lib64/ld-linux-x86-64.so.2" --inhibit-cache
		--library-path "$1/usr/lib/x86_64-linux-gnu:$1/usr/lib/x86_64-linux-gnu/pulseaudio" "$1/usr/bin/$2")
}

# vm_cargo COMMAND [ARG]...: cargo for programs that run in the guest, which has no libraries: static, small, and checked as in a debug build
# but fast enough for an emulated processor.
VM_TRIPLE=x86_64-unknown-linux-gnu
vm_cargo() {
	local command=$1
	shift
	local flags="-C target-feature=+crt-static -C strip=debuginfo"
	RUSTFLAGS=$flags RUSTDOCFLAGS=$flags cargo "$command" \
		--target "$VM_TRIPLE" --target-dir "$TARGET/vm" "$@"
}
