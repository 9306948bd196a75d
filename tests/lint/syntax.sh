#!/bin/sh
# syntax.sh - every script parses, also those that the other tests do not run.
. "$(dirname "$0")/lint.inc"

tmp=$(mktemp -d "${TMPDIR:-/tmp}/pynode-lint.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
HOME=$tmp # erl wants one
export HOME
: "${ERLC:=erlc}" "${ESCRIPT:=escript}" "${PYTHON:=/usr/bin/python3}"

echo 1..4
lint_files './*.erl' | xargs -r "$ERLC" -Wall -Werror +nowarn_export_all -o "$tmp" 2>&1 |
    lint_rule "Erlang modules compile without a warning"
lint_files './*.escript' | while read -r file; do
    "$ESCRIPT" -s "$file" 2>&1 | sed "s|^|$file: |"
done | lint_rule "escripts compile"
lint_files './*.py' | xargs -r "$PYTHON" -W error -c '
import ast, sys
for name in sys.argv[1:]:
    try:
        with open(name, encoding="utf-8") as file:
            ast.parse(file.read(), name)
    except (SyntaxError, SyntaxWarning, DeprecationWarning, UnicodeDecodeError) as e:
        print(f"{name}: {e}")
' | lint_rule "Python files parse"
lint_files './*.sh' './*.inc' './run' './check' './.ci/run' './tests/matrix' './tests/live/run-*' './tests/cluster/run-*' \
    './bench/run-*' | while read -r file; do
    sh -n "$file" 2>&1
done | lint_rule "shell scripts parse"
