#!/bin/sh
# listed.sh - every source, test and document is listed in Makefile.am: what is not never runs.
. "$(dirname "$0")/lint.inc"

# Prints the files that Makefile.am does not name.
unlisted() {
    while read -r file; do
        grep -qE "(^|[[:space:]])$(echo "$file" | sed 's/[.]/[.]/g')([[:space:]]|\$)" Makefile.am ||
            echo "$file"
    done
}

echo 1..8
lint_files './cnode/*.[ch]' | unlisted | lint_rule "the program's sources"
lint_files './tests/c/test_*.c' './tests/fuzz/fuzz_*.c' | sed 's/[.]c$//' | unlisted |
    lint_rule "the C tests and fuzz targets"
lint_files './tests/*/live_*.erl' './tests/cluster/cluster_*.erl' | unlisted | lint_rule "the live tests and those of clusters"
lint_files './erlang/src/*.?rl' './erlang/include/*' './erlang/test/*' | unlisted |
    lint_rule "the application and its EUnit tests"
lint_files './tests/py/test_*.py' './tests/py/plain_*.py' | unlisted | lint_rule "the tests in Python"
lint_files './tests/lint/*.sh' | unlisted | lint_rule "the lint tests"
lint_files './python/erlang/*' | grep -v '[.]pyc$' | unlisted | lint_rule "the Python package"
lint_files './docs/*.md' './README.md' './NEWS.md' './CONTRIBUTING.md' | unlisted | lint_rule "the documents"
