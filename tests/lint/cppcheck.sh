#!/bin/sh
# cppcheck.sh - cppcheck finds nothing to say about the program.
#
# Left out: what a system header would tell it, matters of taste, and two checks that every
# `for (at = &list; *at; at = &(*at)->next)` misleads; compilers and sanitizers watch over those.
. "$(dirname "$0")/lint.inc"

echo 1..1
"${CPPCHECK:-cppcheck}" --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
    --error-exitcode=1 --suppress=missingIncludeSystem --suppress=missingInclude \
    --suppress=unknownMacro --suppress=checkersReport --suppress=uninitvar \
    --suppress=nullPointerRedundantCheck --suppress=normalCheckLevelMaxBranches \
    --template='{file}:{line}: {severity}: {message} [{id}]' -DPYNODE_PKGDATADIR='""' -Icnode \
    -j 2 cnode 2>&1 | lint_rule "cppcheck finds nothing"
