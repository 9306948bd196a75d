#!/bin/sh
# version.sh - configure.ac, the application and its mix.exs agree on the version and the rest.
. "$(dirname "$0")/lint.inc"

# Prints the second file and what it has for the words of the first, unless it has just those.
same() {
    [ -n "$1" ] && [ "$1" = "$3" ] || echo "$2: $3, and not: $1"
}

app=erlang/src/pynode.app.src mix=erlang/mix.exs
version=$(sed -n 's/^AC_INIT(\[pynode\], \[\(.*\)\])$/\1/p' configure.ac)

echo 1..3
{
    same "$version" $app "$(sed -n 's/.*{vsn, "\(.*\)"}.*/\1/p' $app)"
    same "$version" $mix "$(sed -n 's/.*version: "\(.*\)",/\1/p' $mix)"
} | lint_rule "one version"
same "$(sed -n 's/.*{description, \(".*"\)}.*/\1/p' $app)" $mix \
    "$(sed -n 's/.*description: \(".*"\),/\1/p' $mix)" | lint_rule "one description"
registered=$(grep -lF '{local, ?MODULE}' erlang/src/*.erl | sed 's|.*/||; s|[.]erl||' | xargs | sed 's/ /, /g')
{
    same "$registered" $app "$(sed -n 's/.*{registered, \[\(.*\)\]}.*/\1/p' $app)"
    same "$registered" $mix "$(sed -n 's/.*registered: \[\(.*\)\].*/\1/p' $mix | tr -d :)"
} | lint_rule "the registered names are those of the processes that register one"
