#!/bin/sh
# dialyzer.sh - Dialyzer finds nothing to say about the application.
#
# What it knows of OTP takes it a minute to find out, and is kept in DIALYZER_PLT, a file for each OTP.
. "$(dirname "$0")/lint.inc"

: "${abs_top_builddir:=$abs_top_srcdir/build}" "${ERL:=erl}"
: "${DIALYZER_PLT:=$abs_top_builddir/dialyzer.plt}"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pynode-lint.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
HOME=$tmp
export HOME

# Prints a line for each fault, or for what keeps dialyzer from working.
analyse() {
    erts=$("$ERL" -noinput -eval 'io:put_chars(code:lib_dir(kernel) ++ erlang:system_info(version)), halt().' |
        cksum | cut -d ' ' -f 1)
    plt=$DIALYZER_PLT.$erts
    if [ ! -f "$plt" ]; then
        dialyzer --quiet --build_plt --output_plt "$plt.$$" --apps erts kernel stdlib >"$tmp/plt" 2>&1
        [ $? != 1 ] || cat "$tmp/plt" # 2: functions of applications that are not in it
        mv "$plt.$$" "$plt" || return
    fi
    dialyzer --quiet --plt "$plt" -Wunknown -Wextra_return -Wmissing_return \
        -r "$abs_top_builddir/lib/pynode/ebin" 2>&1
}

echo 1..1
if command -v dialyzer >/dev/null; then
    analyse | lint_rule "Dialyzer finds nothing"
else
    echo "ok - Dialyzer finds nothing # SKIP there is no dialyzer"
fi
