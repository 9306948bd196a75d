#!/bin/sh
# build-tools.sh - projects of rebar3 and of mix take the folder erlang/ as a dependency.
set -u

here=$(cd "$(dirname "$0")" && pwd)
: "${abs_top_srcdir:=$(cd "$here/../.." && pwd)}"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pynode-tools.XXXXXX") || exit 99
trap 'rm -rf "$tmp"' EXIT
HOME=$tmp REBAR_OFFLINE=1 HEX_OFFLINE=1
export HOME REBAR_OFFLINE HEX_OFFLINE
unset ERL_LIBS ERL_FLAGS MIX_ENV REBAR_PROFILE

# A project whose only dependency is a copy of the folder.
make_project() {
    mkdir -p "$tmp/rebar3/src" "$tmp/rebar3/_checkouts" "$tmp/mix/lib" &&
        cp -R "$abs_top_srcdir/erlang" "$tmp/erlang" && chmod -R u+w "$tmp/erlang" &&
        ln -s ../../erlang "$tmp/rebar3/_checkouts/pynode" || return
    echo '{deps, [pynode]}.' >"$tmp/rebar3/rebar.config"
    echo '{application, user, [{vsn, "1"}, {applications, [kernel, stdlib, pynode]}]}.' \
        >"$tmp/rebar3/src/user.app.src"
    cat >"$tmp/mix/mix.exs" <<'END'
defmodule User.MixProject do
  use Mix.Project
  def project, do: [app: :user, version: "1.0.0", deps: [{:pynode, path: "../erlang"}]]
  def application, do: []
end
END
}

# Whether the directory has the application, with all its modules.
has_application() {
    [ -f "$1/pynode.app" ] || return
    for file in "$abs_top_srcdir"/erlang/src/*.erl; do
        module=$(basename "$file" .erl)
        [ -f "$1/$module.beam" ] && grep -qw "$module" "$1/pynode.app" || return
    done
}

# try TOOL EBIN COMMAND...: a line of TAP for what the command builds.
try() {
    tool=$1 ebin=$2
    shift 2
    if ! command -v "$tool" >/dev/null; then
        echo "ok - $tool # SKIP there is no $tool"
    elif (cd "$tmp/$tool" && "$@") >"$tmp/log" 2>&1 && has_application "$tmp/$tool/$ebin"; then
        echo "ok - $tool compiles a project that depends on the folder erlang/"
    else
        echo "not ok - $tool compiles a project that depends on the folder erlang/"
        sed 's/^/# /' "$tmp/log"
    fi
}

echo 1..2
make_project || exit 99
try rebar3 _build/default/checkouts/pynode/ebin rebar3 compile
try mix _build/dev/lib/pynode/ebin mix compile
