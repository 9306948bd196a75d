#!/bin/sh
# headers.sh - every source file begins by saying its name and, in one sentence, what it is.
. "$(dirname "$0")/lint.inc"

# Prints the files whose line NUMBER does not match the pattern with their name put for NAME.
without_header() {
    number=$1 pattern=$2
    while read -r file; do
        want=$(echo "$pattern" | sed "s|NAME|$(basename "$file" | sed 's/[.]/[.]/g')|")
        sed -n "${number}p" "$file" | grep -q "$want" || echo "$file: line $number is not: $want"
    done
}

echo 1..6
lint_files './*.c' './*.h' | without_header 1 '^/\* NAME - ' | lint_rule "C: /* name - what it is"
lint_files './*.erl' | sed 's/[.]erl$//' | while read -r file; do
    grep -vx -m 1 '%% @private' "$file.erl" | grep -q "^%% ${file##*/}\([.]erl\)\{0,1\} - " || echo "$file.erl: line 1"
done | lint_rule "Erlang: %% name - what it is"
lint_files './*.sh' './run' './check' './tests/live/run-*' './tests/cluster/run-*' './tests/matrix' './bench/run-*' |
    without_header 2 '^# NAME - ' | lint_rule "shell: # name - what it is, below the first line"
lint_files './*.py' | while read -r file; do
    head -n 5 "$file" | grep -q '^r\{0,1\}"""' || echo "$file"
done | lint_rule "Python: a docstring first"
lint_files './*.exs' | without_header 1 '^# NAME - ' | lint_rule "Elixir: # name - what it is"
lint_files './m4/*.m4' './configure.ac' | without_header 1 '^dnl NAME - ' |
    lint_rule "m4: dnl name - what it is"
