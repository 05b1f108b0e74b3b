#!/usr/bin/env bash
# Each tests/golden/<stage>/<scenario>.s holds input, profile, command and expected dump:
#   # RUN: dump layout %t -p %p          words for optvm; %t the linked program, %p the profile
#   # PROF: .Lhot 900                    samples at a label (no raw addresses)
#   # OUT: ...                           the expected lines
# `scripts/rebase-golden` rewrites the OUT lines; read the diff before you commit it.
exec python3.11 "$(dirname "$0")/run.py" "$@"
