#!/bin/sh
# erlang-docs.sh - what the application exports has a spec; what is for users has words and an example.
#
# The words are EDoc's comments, which every OTP from 25 on reads, and no -doc attributes.
. "$(dirname "$0")/lint.inc"

: "${ERL:=erl}" "${ERLC:=erlc}"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pynode-lint.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
HOME=$tmp
export HOME

public_modules() {
    lint_files './erlang/src/py.erl' './erlang/src/py_event_loop.erl'
}

echo 1..3
lint_files './erlang/src/*.erl' | xargs "$ERLC" +warn_missing_spec -o "$tmp" 2>&1 |
    lint_rule "every exported function has a spec"
lint_files './erlang/*.erl' | xargs grep -nE '^-(module)?doc' | lint_rule "no -doc attribute"
"$ERLC" -o "$tmp" tests/lint/erlang_docs.erl 2>&1
public_modules | xargs -r "$ERL" -noinput -pa "$tmp" -run erlang_docs main 2>&1 |
    lint_rule "every function for users has a comment of EDoc with a call of it"
