#!/bin/sh
# eunit.sh - runs the EUnit tests of the application: eunit.sh [X_tests...], TAP on stdout.
set -u

here=$(cd "$(dirname "$0")" && pwd)
: "${abs_top_srcdir:=$(cd "$here/../.." && pwd)}"
: "${abs_top_builddir:=$abs_top_srcdir/build}"
: "${ERL:=erl}"
: "${ERLC:=erlc}"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pynode-eunit.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
HOME=$tmp ERL_LIBS=$abs_top_builddir/lib ERL_CRASH_DUMP=/dev/null
export HOME ERL_LIBS ERL_CRASH_DUMP
unset ERL_FLAGS ERL_AFLAGS ERL_ZFLAGS

[ $# -gt 0 ] || set -- $(cd "$abs_top_srcdir/erlang/test" && ls -- *_tests.erl | sed 's/[.]erl$//')
if ! "$ERLC" +debug_info -o "$tmp" "$here/eunit_tap.erl" "$abs_top_srcdir"/erlang/test/*.erl \
    >"$tmp/erlc.log" 2>&1; then
    echo "Bail out! the tests do not compile"
    sed 's/^/# /' "$tmp/erlc.log"
    exit 99
fi
# Without the default handler: what is logged would stand between the lines of TAP.
"$ERL" -noinput -pa "$tmp" -kernel logger '[{handler, default, undefined}]' -s eunit_tap main "$@"
