#!/bin/sh
# who-may-know.sh - each piece of knowledge has its few files; no other file of cnode/ has it.
#
# The tables are data, below: edit them when a file gets a new duty, and CONTRIBUTING.md with them.
. "$(dirname "$0")/lint.inc"

# what it is | pattern in code (comments do not count) | the files of cnode/ that may
knowledge() {
    cat <<'END'
ei's connecting, the handshake | \bei_(x?connect|accept|x?listen|publish|unpublish)[a-z_]*\b | node.c handshake.c
libei at all | \bei_[a-z]+|<ei\.h>|<ei_connect\.h> | node.c handshake.[ch]
the pass-through byte, control message numbers | \bDIST_(PASS_THROUGH|HEADER)\b | dist.c dist.h
external term tags | \bETF_[A-Z]|"etf\.h" | etf.[ch] dist.[ch] request.[ch] answer.[ch] home.[ch] procs.[ch] process.c channel.c outbox.c stats.c py_atom.c py_decode.[ch] py_encode.[ch] py_types.[ch] py_place.[ch] py_error.c py_log.c py_module.c py_callback.c py_worker.c py_call.c py_server.c py_thread.c control.c route.c handshake.c
reading and writing sockets | \b(recv|recvmsg|readv|writev|sendmsg|sendto|epoll_[a-z0-9_]+) ?\( | io.c conn.c outbox.c handshake.c scrape.c notify.c
read(2) and write(2) | (^|[^[:alnum:]_>.])(read|write) ?\( | io.c conn.c outbox.c wake.c load.c log.c cookie.c owner.c thread.c
entering and leaving Python | \b(PyGILState_|PyEval_(Save|Restore)Thread|PyThreadState_|Py_Initialize|Py_Finalize|Py_(BEGIN|END)_ALLOW_THREADS) | py.c
HTTP | \bHTTP\b|"http\.h" | http.[ch] scrape.c
Python at all | <Python\.h>|\bPyObject\b|\bPy_(INCREF|DECREF)\b | py*.[ch] main.c
asyncio | asyncio | py_loop.c options.c
making threads | \bpthread_create\b | lead.c pool.c taskpool.c thread.c
the environment | \b(secure_)?getenv\b|\benviron\b | options.c cookie.c node.c
the command line | \bargv\b | options.[ch] main.c py.c
END
}

# file | the headers of ours that it may include: those that know nobody, or next to nobody
includes() {
    cat <<'END'
buf.[ch] | config.h buf.h log.h
err.[ch] | config.h err.h
log.[ch] | config.h log.h buf.h
etf.[ch] | config.h etf.h buf.h log.h
dist.[ch] | config.h dist.h etf.h buf.h
wake.[ch] | config.h wake.h log.h
leader.[ch] | config.h leader.h log.h wake.h
spin.[ch] | config.h spin.h
http.[ch] | config.h http.h buf.h
outcome.[ch] | config.h outcome.h clock.h
usage.[ch] | config.h usage.h
meet.[ch] | config.h meet.h clock.h
thread.[ch] | config.h thread.h
owner.[ch] | config.h owner.h err.h log.h thread.h
END
}

# Prints the arguments' files of cnode/ as one line, "./"-less.
expand() {
    (cd cnode && echo $*)
}

# Prints where a file that is not allowed to has the pattern.
trespassers() {
    pattern=$1 allowed=" $(expand "$2") "
    for file in cnode/*.[ch]; do
        case $allowed in *" ${file##*/} "*) continue ;; esac
        lint_code "$file" | grep -nE -- "$pattern" | sed "s|^|$file:|"
    done
}

# Prints the includes of the files in $1 that are not in $2.
strangers() {
    for file in $(expand "$1"); do
        [ -f "cnode/$file" ] || continue
        lint_code "cnode/$file" | sed -n 's/^ *# *include "\(.*\)".*/\1/p' | while read -r header; do
            case " $2 " in *" $header "*) ;; *) echo "cnode/$file includes $header" ;; esac
        done
    done
}

# Not by echo, which makes a backspace of \b in some shells.
trim() {
    printf '%s\n' "$1" | sed 's/^ *//; s/ *$//'
}

echo "1..$(($(knowledge | wc -l) + $(includes | wc -l)))"
tables=$(mktemp -d "${TMPDIR:-/tmp}/pynode-lint.XXXXXX") || exit 99
trap 'rm -rf "$tables"' EXIT
knowledge >"$tables/knowledge"
includes >"$tables/includes"
# A pattern may hold "|": the first and the last one of a line divide it.
while read -r row; do
    what=$(trim "${row%%|*}") files=$(trim "${row##*|}")
    pattern=${row#*|}
    pattern=$(trim "${pattern%|*}")
    trespassers "$pattern" "$files" | lint_rule "$what: only in $files"
done <"$tables/knowledge"
while read -r row; do
    files=$(trim "${row%%|*}") headers=$(trim "${row##*|}")
    strangers "$files" "$headers" | lint_rule "$files knows only $headers"
done <"$tables/includes"
