# Shared by the scripts: where things are, and installing what is missing. Source it: . "$(dirname "$0")/lib.sh"
# shellcheck shell=bash
set -eu
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${OPTVM_BUILD:-$top/build}

BUILD_PACKAGES="git gcc g++ cmake ninja-build pkg-config llvm-19-dev zlib1g-dev libzydis-dev libunwind-dev libpfm4-dev
	libcmocka-dev libzstd-dev libxxhash-dev libjansson-dev uthash-dev"
TEST_PACKAGES="make python3 csmith libcsmith-dev clang-14 llvm-14 gdb binutils elfutils patchelf xz-utils sqlite3 libsqlite3-dev python3.11 perl procps
	strace file hyperfine postgresql-15 util-linux dpkg-dev tcl ldc gnat gobjc libclang-rt-14-dev nlohmann-json3-dev libeigen3-dev lld mold zstd gcc-12-source linux-perf valgrind libpython3.11-testsuite lua5.4 lua-lpeg liblzma-dev"

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

# source_of PACKAGE: prints the folder of its unpacked source, below $sources (OPTVM_WORK/bench); fetched with an apt configuration of our own
source_of() {
	local sources=${sources:-${OPTVM_WORK:-$top/build/work}/bench} apt dir
	apt=$sources/apt
	for dir in "$sources/src/$1"-*/; do [ -f "$dir/.unpacked" ] && { echo "${dir%/}"; return; }; done
	mkdir -p "$apt"/{lists/partial,cache/archives/partial} "$sources/src"
	printf '%s\n' "Dir::State::lists \"$apt/lists\";" "Dir::Cache \"$apt/cache\";" "Dir::Etc::sourcelist \"$apt/sources.list\";" \
		'Dir::Etc::sourceparts "-";' 'APT::Sandbox::User "root";' >"$apt/apt.conf"
	echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian ${OPTVM_SUITE:-bookworm} main" \
		>"$apt/sources.list"
	if [ ! -f "$apt/updated" ]; then
		APT_CONFIG=$apt/apt.conf apt-get -qq update >&2
		touch "$apt/updated"
	fi
	rm -rf "$sources/src/$1"-*/
	(cd "$sources/src" && APT_CONFIG=$apt/apt.conf apt-get -qq source "$1" >"$1.log" 2>&1) || { cat "$sources/src/$1.log" >&2; return 1; }
	for dir in "$sources/src/$1"-*/; do touch "$dir/.unpacked"; echo "${dir%/}"; done
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
