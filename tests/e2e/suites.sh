#!/usr/bin/env bash
# What passes of the test suites of real programs passes with their optimized copies: scripts/suites says how.
#   OPTVM_SUITES        suites (default: those for which nothing has to be built), OPTVM_SUITES_TIER: --nightly for all their tests
set -u
export OPTVM_WORK=${OPTVM_WORK:-$OPTVM_BUILD/work}
# shellcheck disable=SC2086
exec "${OPTVM_SOURCE:?}/scripts/suites" ${OPTVM_SUITES_TIER:-} ${OPTVM_SUITES:-}
