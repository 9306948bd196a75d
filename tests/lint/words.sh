#!/bin/sh
# words.sh - what no file may hold: unfinished work, paths of one machine, stray white space.
. "$(dirname "$0")/lint.inc"

# Everything that is written by hand, except this file, which has to name the words.
written() {
    lint_files './*.c' './*.h' './*.erl' './*.escript' './*.py' './*.pyi' './*.sh' './*.inc' \
        './m4/*' './*.md' './*.in' './*.ac' './*.am' './*.steps' './run' './check' './.ci/run' \
        './*.exs' './tests/matrix' './tests/live/run-*' './tests/cluster/run-*' './bench/run-*' './erlang/*' |
        grep -v -e '^tests/lint/words[.]sh$' -e '^config[.]h[.]in$' -e '^Makefile[.]in$'
}

echo 1..5
written | xargs grep -nE '\b(TODO|FIXME|XXX|HACK)\b' | lint_rule "no unfinished work"
written | xargs grep -nE '(^|[^[:alnum:]_.$}/-])/(root|home|work)/' | lint_rule "no path of one machine"
written | xargs grep -nE '[[:space:]]+$' | lint_rule "no white space at the end of a line"
lint_files './cnode/*' './tests/*.c' './tests/*.h' './*.erl' './*.py' | xargs grep -n "$(printf '\t')" |
    lint_rule "no tab in C, Erlang and Python"
written | while read -r file; do
    [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ] && echo "$file"
done | lint_rule "every file ends in a newline"
