#!/usr/bin/env bash
# Real programs with every executable and library rewritten, all code copied, do what they did: scripts/elf-programs.
# $OPTVM_ELF_PROGRAMS: names there (a few), or `all` that are installed.
names=${OPTVM_ELF_PROGRAMS:-tar coreutils sqlite3 python perl git elfutils}
[ "$names" = all ] && names=
# shellcheck disable=SC2086
exec "${OPTVM_SOURCE:?}/scripts/elf-programs" $names
