# Shared by the scripts: where things are, and installing what is missing. Source it: . "$(dirname "$0")/lib.sh"
# shellcheck shell=bash
set -eu
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${OPTVM_BUILD:-$top/build}

BUILD_PACKAGES="git gcc g++ cmake ninja-build pkg-config llvm-19-dev zlib1g-dev libzydis-dev libunwind-dev libpfm4-dev
	libcmocka-dev libzstd-dev libxxhash-dev libjansson-dev uthash-dev"
TEST_PACKAGES="make python3 csmith libcsmith-dev clang-14 llvm-14 gdb binutils elfutils patchelf xz-utils sqlite3 libsqlite3-dev python3.11 perl procps
	strace file hyperfine postgresql-15 util-linux dpkg-dev tcl ldc gnat gobjc libclang-rt-14-dev nlohmann-json3-dev libeigen3-dev lld zstd gcc-12-source linux-perf valgrind"

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_get() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
}

# need PACKAGE...: install with apt what is not there yet. Quiet when nothing is missing.
need() {
	local missing=() p
	command -v apt-get >/dev/null || { echo "no apt-get here: needs what Debian calls $*" >&2; return 0; }
	for p in "$@"; do
		dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} = 0 ] && return 0
	if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
		echo "not root, no sudo. As root: apt-get update && apt-get install ${missing[*]}" >&2
		return 1
	fi
	echo "installing: ${missing[*]}" >&2
	apt_get update >&2 || echo "apt-get update failed: trying with the lists that are there" >&2
	apt_get install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# configure and build into $build; extra words go to cmake
build_optvm() {
	# shellcheck disable=SC2086
	need $BUILD_PACKAGES
	mkdir -p "$(dirname "$build")"
	cmake -S "$top" -B "$build" -G Ninja "$@" >"$build.log" 2>&1 || { cat "$build.log" >&2; return 1; }
	ninja -C "$build" >>"$build.log" 2>&1 || { tail -50 "$build.log" >&2; return 1; }
	optvm=$build/optvm
}
