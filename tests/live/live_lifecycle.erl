%% live_lifecycle.erl - start, programs, exit statuses, epmd, signals, the cookie, the listener, the log.
-module(live_lifecycle).

-include_lib("stdlib/include/assert.hrl").
-include_lib("kernel/include/file.hrl").

-export([setup/0, tests/1]).

setup() ->
    none.

tests(_) ->
    [{"the ready line tells port, epmd, Python and workers", fun ready_line/0},
     {"--log-format json: each line is an object with time, level and event", fun json_log/0},
     {"--version and --help answer on stdout with status 0", fun version_help/0},
     {"--check-config: 0 when all is well, nothing is registered", fun check_config/0},
     {"a wrong option: 64 and one line", fun usage/0},
     {"a script: __main__, sys.argv, __file__, and its status, the node up meanwhile", fun script/0},
     {"a script that raises: its traceback, status 1", fun script_raises/0},
     {"sys.exit of a text: on stderr, status 1", fun script_exit_text/0},
     {"-m runs a module, -c runs code", fun module_and_code/0},
     {"a script that is not there: 66", fun no_script/0},
     {"a program finds __main__ and sys.orig_argv as under python3", fun like_python3/0},
     {"a program that comes from stdin", fun from_stdin/0},
     {"a program whose calls import threading ends with its status", fun late_threading/0},
     {"SIGTERM while a program waits for its threads: no traceback", fun sigterm_at_the_end/0},
     {"a child of a program leaves the node's name and connections alone", fun children/0},
     {"--venv: its packages, its prefix; one of another Python: 78", fun venv/0},
     {"ERL_EPMD_PORT that is no port: 64", fun bad_epmd_port/0},
     {"--log-file that cannot be opened: 73, with its name and why", fun bad_log_file/0},
     {"pynode:drain and then a SIGTERM: what runs still ends", fun drain_then_sigterm/0},
     {"a program that ends while a call runs: the caller is told", fun script_ends_in_call/0},
     {"a name that is taken: 75, and the first node lives on", fun name_taken/0},
     {"a cookie file that others can read: 77; none: 78; an empty one: 78", fun cookie_files/0},
     {"a trailing newline in the cookie file does no harm", fun cookie_newline/0},
     {"PYNODE_COOKIE serves and is seen nowhere", fun cookie_env/0},
     {"--import of an unknown or broken module: 78, one line, no traceback", fun bad_import/0},
     {"--path comes before PYTHONPATH, which is heeded too", fun python_path/0},
     {"a name without a host, --sname", fun sname/0},
     {"--port and --listen-min/--listen-max", fun ports/0},
     {"a loopback name listens on loopback only; --bind changes it", fun bind/0},
     {"epmd that is absent is started", fun epmd_absent/0},
     {"epmd killed and started again: registered again within a second", fun epmd_restarted/0},
     {"SIGTERM: the running call ends well, new ones get draining, status 0", fun sigterm/0},
     {"SIGTERM while --import runs: at once, status 0", fun sigterm_importing/0},
     {"SIGTERM: --drain-timeout ends a call that does not end", fun drain_timeout/0},
     {"a second SIGTERM: at once, 143", fun second_sigterm/0},
     {"SIGINT: at once, 130", fun sigint/0},
     {"SIGTERM while a script runs", fun sigterm_script/0},
     {"SIGTERM that another thread of a script gets, while the main one sleeps for good", fun sigterm_elsewhere/0},
     {"signals while Python computes", fun signals_computing/0},
     {"SIGUSR1: the stacks of all Python threads and the native state", fun sigusr1/0},
     {"SIGHUP opens the log file again", fun sighup/0},
     {"SIGPIPE is ignored", fun sigpipe/0},
     {"Python threads of the user do not keep the node from leaving", fun user_threads/0},
     {"the node has a new creation at each start", fun creation/0}].

%% Runs pynode to its end: {Status, stderr lines, stdout}.
run(Args) ->
    run(Args, []).

run(Args, Env) ->
    Proc = live:os(os:getenv("PYNODE"), Args, #{env => Env}),
    Status = live:wait_exit(Proc),
    {Status, live:lines(Proc), live:stdout(Proc)}.

text(Lines) ->
    unicode:characters_to_list(lists:join("\n", Lines)).

matches(Text, Re) ->
    re:run(Text, Re, [unicode, {capture, none}]) =:= match orelse {text, Text}.

%% A refusal to start: the status, and one line that matches and no traceback.
refused(Status, Re, Args) ->
    refused(Status, Re, Args, []).

refused(Status, Re, Args, Env) ->
    {Got, Lines, _} = run(Args, Env),
    ?assertEqual({Status, 1}, {Got, length([L || L <- Lines, L =/= <<>>])}),
    ?assert(matches(text(Lines), Re)).

base() ->
    ["--name", live:unique("py") ++ "@127.0.0.1", "--cookie-file", live:cookie_file(), "--path", live:py("")].

%%% ------------------------------------------------------------------------ start

ready_line() ->
    #{ready := Line, port := Port, name := Name} = live:pynode(#{args => ["--workers", "3"]}),
    {match, [Epmd, Python]} =
        re:run(Line, "^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z info node " ++ Name ++
                   ": ready: port \\d+, epmd (\\d+), python (\\d+\\.\\d+\\.\\d+\\S*), workers 3$", [{capture, [1, 2], list}]),
    ?assertEqual(os:getenv("ERL_EPMD_PORT"), Epmd),
    ?assert(matches(Python, "^3\\.1[1-9]\\.")),
    ?assert(Port > 0 andalso Port < 65536).

json_log() ->
    Node = #{node := N} = live:pynode(#{args => ["--log-format", "json"]}),
    Lines = live:lines(Node),
    ?assertNotEqual([], Lines),
    Objects = [erpc:call(N, json, loads, [L]) || L <- Lines],
    [?assertMatch(#{<<"time">> := _, <<"level">> := _, <<"event">> := _}, O) || O <- Objects],
    ?assert(matches(maps:get(<<"event">>, lists:last(Objects)), "ready")).

version_help() ->
    {0, [], Version} = run(["--version"]),
    ?assert(matches(Version, "^pynode \\d+\\.\\d+")),
    {0, [], Help} = run(["--help"]),
    [?assert(matches(Help, Option)) || Option <- ["--name", "--cookie-file", "--allow", "--max-frame", "--drain-timeout"]].

check_config() ->
    ?assertMatch({0, _, _}, run(base() ++ ["--check-config", "--import", "box"])),
    {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
    ?assertEqual([], [X || {"py" ++ _, _} = X <- Names]),
    refused(78, "no_such_module", base() ++ ["--check-config", "--import", "no_such_module"]),
    refused(64, "--workers", base() ++ ["--check-config", "--workers", "0"]).

usage() ->
    refused(64, "--nonsense", ["--nonsense"]),
    refused(64, "--port", base() ++ ["--port", "x"]),
    refused(64, "--workers", base() ++ ["--workers", "-1"]),
    refused(64, "--name", ["--name", "a@b@c", "--cookie-file", live:cookie_file()]),
    refused(64, "--strings", base() ++ ["--strings", "latin1"]).

script() ->
    Gate = #{port := Port} = live:gate(),
    Node = #{node := N} = live:pynode(#{program => [live:py("script.py"), integer_to_list(Port), "7", "--name", "x y"]}),
    Door = live:entered(Gate),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])),
    ?assertEqual(<<"__main__">>, erpc:call(N, '__main__', '__name__.__str__', [])),
    live:open(Door),
    ?assertEqual(7, live:wait_exit(Node)),
    ?assertEqual(list_to_binary(["name __main__\nargv ['", integer_to_list(Port), "', '7', '--name', 'x y']\nfile ",
                                 live:py("script.py"), "\n"]), live:stdout(Node)),
    ?assertEqual(pang, net_adm:ping(N)).

script_raises() ->
    {Status, Lines, _} = run(base() ++ [live:py("script.py"), "no-gate", "raise"]),
    ?assertEqual(1, Status),
    ?assert(matches(text(Lines), "Traceback \\(most recent call last\\)")),
    ?assert(matches(text(Lines), "script.py\", line \\d+, in <module>")),
    ?assert(matches(text(Lines), "ValueError: the script's own")),
    ?assertMatch({0, _, _}, run(base() ++ [live:py("script.py"), "no-gate", "0"])).

script_exit_text() ->
    {Status, Lines, _} = run(base() ++ [live:py("script.py"), "no-gate", "exit-text"]),
    ?assertEqual(1, Status),
    ?assert(lists:member(<<"said on leaving">>, Lines)).

module_and_code() ->
    {5, _, Module} = run(base() ++ ["-m", "script", "no-gate", "5"]),
    ?assert(matches(Module, "^name __main__\nargv \\['no-gate', '5'\\]\n")),
    {3, _, Code} = run(base() ++ ["-c", "import sys; print(sys.argv, __name__); sys.exit(3)", "a", "-c", "b"]),
    ?assertEqual(<<"['-c', 'a', '-c', 'b'] __main__\n">>, Code),
    {Status, Lines, _} = run(base() ++ ["-m", "no_such_module"]),
    ?assertEqual(1, Status),
    ?assert(matches(text(Lines), "No module named '?no_such_module")).

%% python3 itself is the measure.
like_python3() ->
    Code = "import sys; print(sorted(n for n in globals() if n[0] != '_'), sys.argv, sys.orig_argv[1:])",
    {0, Want} = live:sh(os:getenv("PYTHON") ++ " -c \"" ++ Code ++ "\" a -c b"),
    {0, _, Got} = run(base() ++ ["-c", Code, "a", "-c", "b"]),
    ?assertEqual(Want, iolist_to_binary(Got)).

from_stdin() ->
    Command = lists:join(" ", ["echo 'import sys; print(sys.argv, 6 * 7)' | ", os:getenv("PYNODE") | base()]),
    {0, Out} = live:sh(lists:flatten([Command, " - x 2>/dev/null"])),
    ?assertEqual(<<"['-', 'x'] 42\n">>, Out).

late_threading() ->
    Gate = #{port := Port} = live:gate(),
    Code = "import gate, sys; gate.wait(int(sys.argv[1])); sys.exit(9)",
    Node = #{node := N} = live:pynode(#{program => ["-c", Code, integer_to_list(Port)]}),
    Door = live:entered(Gate),
    ?assertEqual(<<"DEBUG">>, rpc:call(N, logging, getLevelName, [10])),
    ?assertEqual(false, rpc:call(N, here, is_main, [])),
    live:open(Door),
    ?assertEqual(9, live:within(5000, fun() -> live:wait_exit(Node) end)).

sigterm_at_the_end() ->
    Gate = #{port := Port} = live:gate(),
    Code = "import gate, sys, threading; threading.Thread(target=gate.wait, args=[int(sys.argv[1])]).start()",
    Node = live:pynode(#{program => ["-c", Code, integer_to_list(Port)]}),
    live:entered(Gate),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:within(5000, fun() -> live:wait_exit(Node) end)),
    ?assertEqual([], [L || L <- live:lines(Node), re:run(L, "Traceback|Exception|SystemExit") =/= nomatch]).

%% The children sleep on when the node is dead; each node has the same name.
children() ->
    Name = live:unique("py") ++ "@127.0.0.1",
    [begin
         Node = #{node := N} = live:pynode(#{name => Name}),
         pong = net_adm:ping(N),
         true = erlang:monitor_node(N, true),
         Pid = rpc:call(N, here, Function, []),
         ?assert(is_integer(Pid)),
         live:kill(Node),
         live:expect(5000, fun({nodedown, X}) when X =:= N -> {ok, down} end),
         ?assertMatch({{0, _}, _}, {live:sh("kill -0 " ++ integer_to_list(Pid)), Function}),
         live:sh("kill -9 " ++ integer_to_list(Pid))
     end || Function <- [spawn_sleeper, fork_sleeper]],
    #{node := M} = live:pynode(),
    Fork = rpc:call(M, os, fork, []),
    live:eventually(fun() ->
                            case file:read_file("/proc/" ++ integer_to_list(Fork) ++ "/stat") of
                                {ok, Stat} -> re:run(Stat, "\\) Z ", [{capture, none}]) =:= match;
                                {error, enoent} -> true
                            end
                    end),
    ?assertEqual(2.0, rpc:call(M, math, sqrt, [4])),
    Code = "import os, sys, erlang\n"
        "if os.fork() == 0:\n"
        "    try: erlang.send(('x', 'live@127.0.0.1'), 1)\n"
        "    except RuntimeError as e: print(e, flush=True)\n"
        "    sys.exit(0)\n"
        "os.wait()\nsys.exit(4)\n",
    {Status, Lines, Out} = run(base() ++ ["-c", Code]),
    ?assertEqual(4, Status),
    ?assertEqual(1, length([L || L <- Lines, re:run(L, "node: stopped") =/= nomatch])),
    ?assert(matches(Out, "this process is a fork of the node")).

venv() ->
    Dir = live:tmp("venv"),
    {0, _} = live:sh(os:getenv("PYTHON") ++ " -m venv --without-pip " ++ Dir),
    {ok, [Lib]} = {ok, filelib:wildcard(Dir ++ "/lib/python*/site-packages")},
    ok = file:write_file(Lib ++ "/in_the_venv.py", "answer = 42\n"),
    Code = "import sys, in_the_venv; print(in_the_venv.answer, sys.prefix != sys.base_prefix, sys.executable)",
    {0, _, Out} = run(base() ++ ["--venv", Dir, "-c", Code]),
    ?assertEqual(list_to_binary(["42 True ", Dir, "/bin/python3\n"]), iolist_to_binary(Out)),
    Relative = "cd " ++ live:tmp("") ++ " && " ++ lists:flatten(lists:join(" ", [os:getenv("PYNODE") | base()])),
    {0, There} = live:sh(Relative ++ " --venv venv -c 'import sys; print(sys.executable)' 2>/dev/null"),
    ?assertEqual(list_to_binary([Dir, "/bin/python3\n"]), There),
    {0, _} = live:sh("mv " ++ Dir ++ "/lib/python* " ++ Dir ++ "/lib/python3.1"),
    refused(78, "of another Python", base() ++ ["--venv", Dir]).

bad_epmd_port() ->
    [refused(64, "ERL_EPMD_PORT: '" ++ Port ++ "' is not a port", base(), [{"ERL_EPMD_PORT", Port}])
     || Port <- ["x", "99999", "0", "-1", "1x"]].

bad_log_file() ->
    refused(73, "--log-file /no/such/dir/log: No such file or directory", base() ++ ["--log-file", "/no/such/dir/log"]).

drain_then_sigterm() ->
    {Node = #{node := N}, Call, Door} = with_call([]),
    ok = rpc:call(N, pynode, drain, []),
    live:wait_line(Node, "draining"),
    live:signal(Node, "TERM"),
    receive after 200 -> ok end,
    live:open(Door),
    ?assertEqual(finished, erpc:receive_response(Call, live:ms(5000))),
    ?assertEqual(0, live:wait_exit(Node)).

no_script() ->
    refused(66, "no_such_script", base() ++ ["/no_such_script.py"]).

script_ends_in_call() ->
    Program = #{port := ProgramPort} = live:gate(),
    Gate = #{port := Port} = live:gate(),
    Node = #{node := N} = live:pynode(#{args => ["--drain-timeout", "0.2"],
                                        program => [live:py("script.py"), integer_to_list(ProgramPort), "0"]}),
    Door = live:entered(Program),
    Call = erpc:send_request(N, gate, wait, [Port]),
    live:entered(Gate),
    live:open(Door),
    ?assertMatch({erpc, _}, live:error_of(fun() -> erpc:receive_response(Call, live:ms(10000)) end)),
    ?assertEqual(0, live:wait_exit(Node)).

name_taken() ->
    #{node := N, name := Name} = live:pynode(),
    refused(75, Name, ["--name", Name, "--cookie-file", live:cookie_file()]),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])).

%%% --------------------------------------------------------------- cookie, imports

cookie_files() ->
    File = live:tmp("cookie"),
    ok = file:write_file(File, "secret-in-file"),
    With = ["--name", "py_cookie@127.0.0.1", "--cookie-file", File],
    [begin
         ok = file:change_mode(File, Mode),
         refused(77, File, With)
     end || Mode <- [8#644, 8#640, 8#604, 8#622]],
    ok = file:change_mode(File, 8#600),
    ?assertMatch({0, _, _}, run(["--check-config" | With])),
    ok = file:write_file(File, "\n"),
    refused(78, File, With),
    ok = file:write_file(File, "has a \x01"),
    refused(78, File, With),
    ok = file:delete(File),
    refused(78, File, With).

cookie_newline() ->
    File = live:tmp("newline"),
    ok = file:write_file(File, [live:cookie(), "\n"]),
    ok = file:change_mode(File, 8#600),
    #{node := N} = live:pynode(#{cookie => none, args => ["--cookie-file", File]}),
    ?assertEqual(pong, net_adm:ping(N)).

cookie_env() ->
    Home = live:tmp("empty_home"),
    ok = file:make_dir(Home),
    Node = #{node := N, os_pid := OsPid} =
        live:pynode(#{cookie => none, env => [{"PYNODE_COOKIE", live:cookie()}, {"HOME", Home}],
                      args => ["--log-level", "debug"]}),
    ?assertEqual(pong, net_adm:ping(N)),
    ?assertEqual(none, erpc:call(N, os, getenv, [<<"PYNODE_COOKIE">>])),
    Cookie = list_to_binary(live:cookie()),
    Proc = "/proc/" ++ integer_to_list(OsPid),
    [begin
         {ok, Bin} = file:read_file(filename:join(Proc, File)),
         ?assertNotEqual(<<>>, Bin),
         ?assertEqual(nomatch, binary:match(Bin, Cookie))
     end || File <- ["environ", "cmdline"]],
    ?assertEqual(nomatch, binary:match(erpc:call(N, subprocess, check_output, [[<<"env">>]]), Cookie)),
    wire:connect(Node, #{cookie => "not the cookie"}),
    live:signal(Node, "USR1"),
    0 = live:stop(Node),
    ?assertEqual(nomatch, binary:match(iolist_to_binary(live:lines(Node)), Cookie)).

bad_import() ->
    refused(78, "no_such_module", base() ++ ["--import", "no_such_module"]),
    refused(78, "broken", base() ++ ["--import", "broken"]),
    refused(78, "broken", base() ++ ["--import", "box", "--import", "broken"]).

python_path() ->
    [First, Second] = [begin
                           Dir = live:tmp(D),
                           ok = file:make_dir(Dir),
                           [ok = file:write_file(filename:join(Dir, M ++ ".py"), ["def where():\n    return '", D, "'\n"])
                            || M <- Modules],
                           Dir
                       end || {D, Modules} <- [{"path_first", ["both"]}, {"path_second", ["both", "single"]}]],
    #{node := N} = live:pynode(#{args => ["--path", First], env => [{"PYTHONPATH", Second}]}),
    ?assertEqual(<<"path_first">>, erpc:call(N, both, where, [])),
    ?assertEqual(<<"path_second">>, erpc:call(N, single, where, [])).

sname() ->
    Proc = live:os(os:getenv("PYNODE"), ["--sname", "short@localhost", "--cookie-file", live:cookie_file()], #{kind => node}),
    live:wait_line(Proc, "info node short@localhost: ready: "),
    Ask = "io:format(\"~p~n\", [net_adm:ping('short@localhost')]), halt().",
    Beam = live:os(os:getenv("ERL"), ["-noinput", "-start_epmd", "false", "-sname", "other@localhost",
                                      "-kernel", "logger_level", "emergency", "-eval", Ask], #{merge => true}),
    live:wait_line(Beam, "^pong").

%%% --------------------------------------------------------------------- listener

free_port() ->
    {ok, Socket} = gen_tcp:listen(0, []),
    {ok, Port} = inet:port(Socket),
    gen_tcp:close(Socket),
    Port.

ports() ->
    Port = free_port(),
    #{port := Port, node := N} = Node = live:pynode(#{args => ["--port", integer_to_list(Port)]}),
    ?assertEqual(pong, net_adm:ping(N)),
    refused(69, integer_to_list(Port), base() ++ ["--port", integer_to_list(Port)]),
    Range = ["--listen-min", integer_to_list(Port), "--listen-max", integer_to_list(Port + 20)],
    #{port := Next, node := M} = live:pynode(#{args => Range}),
    ?assert(Next > Port andalso Next =< Port + 20),
    ?assertEqual(pong, net_adm:ping(M)),
    0 = live:stop(Node),
    %% The port is free again at once, though connections of the old node linger.
    #{port := Port} = live:pynode(#{args => ["--port", integer_to_list(Port)]}).

%% The local addresses that the kernel says are listened on at the port: /proc/net/tcp.
listening(Port) ->
    {ok, Table} = file:read_file("/proc/net/tcp"),
    Suffix = io_lib:format(":~4.16.0B", [Port]),
    [Address || Line <- string:split(binary_to_list(Table), "\n", all),
                [_, Local, _, "0A" | _] <- [string:lexemes(Line, " ")],
                {Address, Tail} <- [lists:split(8, Local)], Tail =:= lists:flatten(Suffix)].

bind() ->
    #{port := Port} = live:pynode(),
    ?assertEqual(["0100007F"], listening(Port)),
    #{port := Any, node := N} = live:pynode(#{args => ["--bind", "0.0.0.0"]}),
    ?assertEqual(["00000000"], listening(Any)),
    ?assertEqual(pong, net_adm:ping(N)),
    #{port := Second} = live:pynode(#{args => ["--bind", "127.0.0.2"]}),
    ?assertEqual(["0200007F"], listening(Second)).

%%% ------------------------------------------------------------------------- epmd

%% The names that the epmd on the port has, or error.
epmd_names(Port) ->
    case gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]) of
        {ok, Socket} ->
            ok = gen_tcp:send(Socket, <<1:16, $n>>),
            Answer = epmd_answer(Socket, <<>>),
            gen_tcp:close(Socket),
            case Answer of
                <<_:32, Names/binary>> -> Names;
                _ -> error
            end;
        {error, _} -> error
    end.

%% All that epmd says until it closes: it may come in pieces.
epmd_answer(Socket, Sofar) ->
    case gen_tcp:recv(Socket, 0, 2000) of
        {ok, More} -> epmd_answer(Socket, <<Sofar/binary, More/binary>>);
        {error, _} -> Sofar
    end.

epmd_absent() ->
    Port = free_port(),
    error = epmd_names(Port),
    Env = [{"ERL_EPMD_PORT", integer_to_list(Port)}],
    #{name := Name} = live:pynode(#{env => Env}),
    [Alive, _] = string:split(Name, "@"),
    ?assert(matches(epmd_names(Port), "name " ++ Alive ++ " at port")),
    %% run-live ends the daemon by its environment; a second node finds it.
    #{name := Other} = live:pynode(#{env => Env}),
    ?assert(matches(epmd_names(Port), "name " ++ hd(string:split(Other, "@")) ++ " at port")).

start_epmd(Port) ->
    Epmd = live:os(os:getenv("EPMD"), ["-port", integer_to_list(Port)], #{merge => true}),
    live:eventually(fun() -> epmd_names(Port) =/= error end),
    Epmd.

epmd_restarted() ->
    Port = free_port(),
    Epmd = start_epmd(Port),
    Node = #{name := Name} = live:pynode(#{env => [{"ERL_EPMD_PORT", integer_to_list(Port)}]}),
    [Alive, _] = string:split(Name, "@"),
    Registered = fun() -> matches(case epmd_names(Port) of error -> ""; Names -> Names end, "name " ++ Alive ++ " ") =:= true end,
    true = Registered(),
    {ok, Peer} = wire:connect(Node),
    live:kill(Epmd),
    start_epmd(Port),
    {Took, true} = live:timed(fun() -> live:eventually(5000, Registered) end),
    live:note("registered again after ~.1f ms", [Took]),
    ?assert(Took < live:ms(1500)),
    wire:ping(Peer, 1),
    ?assertEqual(pong, wire:pong(Peer, 1)),
    ?assertEqual(0, live:stop(Node)),
    live:eventually(fun() -> not Registered() end).

%%% ---------------------------------------------------------------------- signals

%% A node with a call that waits at a gate: {Node, Call, Door}.
with_call(Args) ->
    Node = #{node := N} = live:pynode(#{args => Args}),
    Gate = #{port := Port} = live:gate(),
    Call = erpc:send_request(N, gate, wait, [Port, finished]),
    {Node, Call, live:entered(Gate)}.

sigterm_importing() ->
    Gate = #{port := Port} = live:gate(),
    Node = live:pynode(#{args => ["--import", "slow"], env => [{"GATE", integer_to_list(Port)}], ready => false}),
    live:entered(Gate),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:within(2000, fun() -> live:wait_exit(Node) end)).

sigterm() ->
    {Node = #{node := N}, Call, Door} = with_call(["--import", "registered"]),
    live:signal(Node, "TERM"),
    live:eventually(fun() -> live:error_of(fun() -> erpc:call(N, math, sqrt, [4]) end) =:= {erpc, draining} end),
    ?assertEqual({badrpc, {'EXIT', draining}}, rpc:call(N, math, sqrt, [4])),
    ?assertMatch({draining, {gen_server, call, _}}, live:exit_of(fun() -> gen_server:call({counter, N}, get) end)),
    ?assertEqual(pong, net_adm:ping(N)),
    live:open(Door),
    ?assertEqual(finished, erpc:receive_response(Call, live:ms(5000))),
    ?assertEqual(0, live:wait_exit(Node)).

drain_timeout() ->
    {Node, Call, _} = with_call(["--drain-timeout", "0.3"]),
    live:signal(Node, "TERM"),
    ?assertMatch({erpc, _}, live:error_of(fun() -> erpc:receive_response(Call, live:ms(10000)) end)),
    ?assertEqual(0, live:within(5000, fun() -> live:wait_exit(Node) end)).

second_sigterm() ->
    {Node = #{node := N}, _, _} = with_call([]),
    live:signal(Node, "TERM"),
    live:eventually(fun() -> live:error_of(fun() -> erpc:call(N, math, sqrt, [4]) end) =:= {erpc, draining} end),
    live:signal(Node, "TERM"),
    ?assertEqual(143, live:within(2000, fun() -> live:wait_exit(Node) end)).

sigint() ->
    {Node, Call, _} = with_call([]),
    live:signal(Node, "INT"),
    ?assertEqual(130, live:within(2000, fun() -> live:wait_exit(Node) end)),
    ?assertMatch({erpc, noconnection}, live:error_of(fun() -> erpc:receive_response(Call, live:ms(5000)) end)).

sigterm_script() ->
    Gate = #{port := Port} = live:gate(),
    Node = live:pynode(#{args => ["--drain-timeout", "0.3"], program => [live:py("script.py"), integer_to_list(Port), "7"]}),
    live:entered(Gate),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:within(5000, fun() -> live:wait_exit(Node) end)).

%% As when it comes just before the main thread goes to sleep: that is not woken by it.
sigterm_elsewhere() ->
    Code = "import signal, threading\n"
        "term = lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)\n"
        "threading.Timer(0.3, term).start()\n"
        "threading.Event().wait()\n",
    Node = live:pynode(#{program => ["-c", Code]}),
    ?assertEqual(0, live:within(5000, fun() -> live:wait_exit(Node) end)).

signals_computing() ->
    Node = #{node := N} = live:pynode(#{args => ["--drain-timeout", "0.3"]}),
    Gate = #{port := Port} = live:gate(),
    [erpc:send_request(N, spin, until, [Port]) || _ <- [1, 2]],
    [live:entered(Gate) || _ <- [1, 2]],
    live:signal(Node, "USR1"),
    live:wait_line(Node, "File .*spin.py"),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:within(5000, fun() -> live:wait_exit(Node) end)).

sigusr1() ->
    {Node = #{node := N}, Call, Door} = with_call([]),
    Mark = live:mark(Node),
    live:signal(Node, "USR1"),
    live:wait_line(Node, "hread 0x[0-9a-f]+ .*most recent call first", Mark),
    live:wait_line(Node, "state worker \\d+: \\w+, gate:wait for \\d+ ms", Mark),
    live:wait_line(Node, "File .*gate.py\", line \\d+ in wait", Mark),
    live:wait_line(Node, "workers", Mark),
    live:wait_line(Node, "queue", Mark),
    live:wait_line(Node, "live@127\\.0\\.0\\.1", Mark),
    ?assertEqual(pong, net_adm:ping(N)),
    live:open(Door),
    ?assertEqual(finished, erpc:receive_response(Call, live:ms(5000))).

sighup() ->
    Log = live:tmp("node.log"),
    Proc = live:os(os:getenv("PYNODE"), base() ++ ["--log-file", Log, "--log-level", "debug"], #{kind => node}),
    Has = fun(File, Re) ->
                  case file:read_file(File) of
                      {ok, Bin} -> re:run(Bin, Re, [{capture, none}]) =:= match;
                      {error, _} -> false
                  end
          end,
    live:eventually(fun() -> Has(Log, "ready: ") end),
    ok = file:rename(Log, Log ++ ".1"),
    live:signal(Proc, "HUP"),
    live:eventually(fun() -> filelib:is_regular(Log) end),
    receive after 100 -> ok end, % a line that was being written goes to the old one still
    {ok, #file_info{size = Old}} = file:read_file_info(Log ++ ".1"),
    0 = live:stop(Proc),
    ?assert(Has(Log, "Z (info|debug) ")),
    {ok, #file_info{size = Old}} = file:read_file_info(Log ++ ".1"),
    ?assertEqual([], live:lines(Proc)).

sigpipe() ->
    Node = #{node := N} = live:pynode(),
    live:signal(Node, "PIPE"),
    ?assertEqual(pong, net_adm:ping(N)),
    ?assertEqual(0, live:stop(Node)).

user_threads() ->
    Node = #{node := N} = live:pynode(#{args => ["--drain-timeout", "1"]}),
    Gate = #{port := Port} = live:gate(),
    none = erpc:call(N, builtins, exec, [list_to_binary(
        ["import threading, gate\n",
         "threading.Thread(target=gate.wait, args=(", integer_to_list(Port), ",)).start()\n"]), #{}]),
    live:entered(Gate),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:within(10000, fun() -> live:wait_exit(Node) end)).

creation() ->
    Creations = [begin
                     Node = live:pynode(#{name => "same@127.0.0.1"}),
                     {ok, #{their_creation := Creation}} = wire:connect(Node),
                     0 = live:stop(Node),
                     Creation
                 end || _ <- [1, 2, 3]],
    ?assertEqual(3, length(lists:usort(Creations))),
    [?assert(C > 3) || C <- Creations].
