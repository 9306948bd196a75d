#!/bin/sh
# systemd.sh - systemd-analyze has nothing to say about the units.
#
# It looks whether the program that a unit starts is there, and nothing is built yet where this runs: any will do.
. "$(dirname "$0")/lint.inc"

: "${abs_top_builddir:=$abs_top_srcdir/build}"
program=$(command -v env)
if ! command -v systemd-analyze >/dev/null; then
    echo "1..0 # SKIP systemd-analyze is not there (it is in Debian's package systemd)"
    exit
fi
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pynode-lint.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT

# Prints what is wrong with a unit.
verify() {
    sed "s|^ExecStart=[^ ]*|ExecStart=$program|" "$abs_top_builddir/systemd/$1" >"$tmp/$1" &&
        systemd-analyze verify --man=no --recursive-errors=no "$tmp/$1" 2>&1
    [ $? = 0 ] || echo "$1: systemd-analyze ends with an error"
}

# Prints a complaint if a unit does not leave the node the time that it takes by itself.
hurries() {
    seconds=$(sed -n 's/^TimeoutStopSec=//p' "$abs_top_builddir/systemd/$1")
    [ "${seconds:-0}" -gt 32 ] || echo "TimeoutStopSec=$seconds, but a drain takes 30 s and the end 2"
}

echo 1..4
for unit in pynode.service pynode@.service; do
    verify "$unit" | lint_rule "$unit: systemd-analyze verify"
    hurries "$unit" | lint_rule "$unit: there is time to drain"
done
