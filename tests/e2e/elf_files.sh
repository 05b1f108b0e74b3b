#!/usr/bin/env bash
# Files of this machine, chosen by seed, rewritten with every region copied: proved, undone, run or loaded: scripts/elf-files.
# $OPTVM_ELF_FILES: how many (15); $OPTVM_SEED.
exec "${OPTVM_SOURCE:?}/scripts/elf-files" "${OPTVM_ELF_FILES:-15}" --seed "${OPTVM_SEED:-1}"
