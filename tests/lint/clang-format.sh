#!/bin/sh
# clang-format.sh - C is laid out as .clang-format says; `clang-format -i FILE` does it.
#
# Not tests/c: its tables are laid out by hand.
. "$(dirname "$0")/lint.inc"

echo 1..1
lint_files './cnode/*.[ch]' './tests/fuzz/*.c' | xargs "${CLANG_FORMAT:-clang-format}" --dry-run 2>&1 |
    lint_rule "C is laid out as .clang-format says"
