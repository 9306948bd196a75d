%% live_app - the application as a whole: its configuration, starts and stops, several nodes, what is said when it fails.
-module(live_app).

-export([setup/0, tests/1]).

-include_lib("stdlib/include/assert.hrl").

-define(TIMES, 100).

setup() ->
    #{}.

tests(_) ->
    [{"the application started and stopped 100 times leaves nothing behind", fun often/0},
     {"when the application stops, calls under way end, and later ones are not started", fun stop_under_calls/0},
     {"count => 2: calls go to both, and one that is killed leaves the other serving", fun two_of_one_name/0},
     {"count => auto: one a scheduler", fun auto/0},
     {"two nodes with names of their own: each has its options, calls go to both", fun two_names/0},
     {"env, path, import and venv have their effect", fun python_options/0},
     {"the VM's own environment is inherited, PYTHONPATH included", fun inherited/0},
     {"workers, strings, none_atom, unconvertible, allow and queue_size have their effect", fun node_options/0},
     {"every option has a bad value, which ends the start with its key and starts nothing", fun bad_options/0},
     {"a node without configuration is named py", fun default_node/0},
     {"distribution => required: a VM without a name is refused with the reason", fun required/0},
     {"a program that is not there: the application starts, calls say not_started, one report", fun no_program/0},
     {"ERL_LIBS that is relative: the program of the build tree is found all the same", fun relative/0},
     {"a node that ends is seen in the log of a VM that is set up in no way", fun logged_by_default/0},
     {"a configured node is drained: what runs finishes, it is not started again", fun drain/0},
     {"when the only configured node was drained, calls go to one that is attached", fun drain_last/0},
     {"a configured node that does not run is drained, too", fun drain_down/0}].

%%% ------------------------------------------------------------------ the scene

%% The value of the fun while the application runs with this environment.
with(Env, Fun) ->
    configure(Env),
    {ok, [pynode]} = application:ensure_all_started(pynode),
    try Fun()
    after
        ok = application:stop(pynode)
    end.

with_nodes(Nodes, Fun) ->
    with([{nodes, Nodes}], Fun).

configure(Env) ->
    [application:unset_env(pynode, Key) || {Key, _} <- application:get_all_env(pynode)],
    [application:set_env(pynode, Key, Value) || {Key, Value} <- Env].

%% The programs of this run, by their number.
programs() ->
    Mark = list_to_binary("LIVE_RUN=" ++ os:getenv("LIVE_RUN")),
    [list_to_integer(OsPid) || "/proc/" ++ Rest = Dir <- filelib:wildcard("/proc/[0-9]*"),
                               OsPid <- [Rest],
                               contains(Dir ++ "/environ", Mark), contains(Dir ++ "/cmdline", <<"--owned">>)].

contains(File, Bytes) ->
    case file:read_file(File) of
        {ok, Text} -> binary:match(Text, Bytes) =/= nomatch;
        {error, _} -> false
    end.

os_pid(Node) ->
    {ok, OsPid} = py:call(os, getpid, [], #{}, #{node => Node}),
    OsPid.

runs(OsPid) ->
    lists:member(OsPid, programs()).

%% A VM with the usual log, whether it has a name or not: what it has written.
vm(Args, Expr) ->
    Proc = live:os(os:getenv("ERL"), ["-noinput", "-eval", Expr ++ ", init:stop()." | Args],
                   #{merge => true, env => [{"PYNODE", program(Args)}]}),
    ?assertEqual(0, live:wait_exit(Proc)),
    unicode:characters_to_list(lists:join("\n", live:lines(Proc))).

%% The variable would win over the key `program'.
program(Args) ->
    case lists:member("program", Args) of
        true -> false;
        false -> os:getenv("PYNODE")
    end.

count(Re, Text) ->
    case re:run(Text, Re, [global, unicode]) of
        {match, Found} -> length(Found);
        nomatch -> 0
    end.

%%% ------------------------------------------------------------------ start and stop

often() ->
    Cycles = fun(Times) -> [with_nodes([#{}], fun once/0) || _ <- lists:seq(1, Times)] end,
    Cycles(3),
    live:eventually(fun() -> programs() =:= [] end),
    Before = resources(),
    {Took, _} = live:timed(fun() -> Cycles(?TIMES) end),
    live:note("~.1f ms a time", [Took / ?TIMES]),
    live:eventually(fun() -> resources() =:= Before orelse {Before, resources()} end),
    ?assertEqual(3 + ?TIMES, length([Ref || {py_response, Ref, _} <- live:flush()])).

%% Something of everything that could stay. The call that is begun has an answer however it ends.
once() ->
    {ok, 2.0} = py:call(math, sqrt, [4]),
    ok = py:register_function(twice, fun([X]) -> 2 * X end),
    {ok, 8} = py:eval("__import__('erlang').call('twice', 4)"),
    true = lists:member(py:call(time, sleep, [0.01], #{}, 1), [{error, timeout}, {ok, none}]),
    {ok, _} = py:call(threading, get_ident, [], #{}, #{queue => mine}),
    py:spawn_call(time, sleep, [0.01]).

resources() ->
    {ok, Descriptors} = file:list_dir("/proc/self/fd"),
    #{processes => length(processes()), ports => length(erlang:ports()), tables => length(ets:all()),
      atoms => erlang:system_info(atom_count), names => lists:sort(registered()),
      descriptors => length(Descriptors), programs => programs(), nodes => nodes(connected),
      terms => maps:get(count, persistent_term:info())}.

stop_under_calls() ->
    Gate = #{port := Port} = live:gate(),
    {Calls, Begun} =
        with_nodes([#{path => [live:py("")]}],
                   fun() ->
                           [Node] = py:nodes(),
                           Caller = spawn_monitor(fun() -> exit(py:call(gate, wait, [Port])) end),
                           live:entered(Gate),
                           Ref = py:spawn_call(gate, wait, [Port]),
                           live:entered(Gate),
                           {{Node, Caller}, Ref}
                   end),
    {Node, {Pid, Monitor}} = Calls,
    receive
        {'DOWN', Monitor, process, Pid, Outcome} -> ?assertMatch({error, {node_down, Node, _}}, Outcome)
    end,
    ?assertMatch({error, {node_down, Node, _}}, py:await(Begun)),
    ?assertEqual({error, {node_down, default, not_started}}, py:call(math, sqrt, [4])),
    ?assertEqual({error, {node_down, default, not_started}}, py:await(py:spawn_call(math, sqrt, [4]))),
    ?assertEqual([], py:nodes()),
    ?assertEqual({error, not_started}, py:info()),
    ?assertEqual({error, not_started}, py:connect('nobody@127.0.0.1')).

%%% ------------------------------------------------------------------ several nodes

two_of_one_name() ->
    Spec = #{name => two, count => 2, path => [live:py("")], restart => #{intensity => 0}},
    with_nodes([Spec], fun two_nodes/0),
    ?assertEqual([], programs()).

two_nodes() ->
    Both = [One, Two] = ['two1@127.0.0.1', 'two2@127.0.0.1'],
    ?assertEqual(Both, py:nodes()),
    OsPids = [OsPid1, OsPid2] = [os_pid(Node) || Node <- Both],
    [?assertEqual(lists:sort(OsPids), spread(Options)) || Options <- [#{}, #{node => two}]],
    ?assertEqual([OsPid1], spread(#{node => One})),
    Gate = #{port := Port} = live:gate(),
    Running = py:spawn_call(gate, wait, [Port, done], #{}, #{node => Two}),
    Door = live:entered(Gate),
    Callers = [spawn_monitor(fun() -> caller(#{}) end) || _ <- lists:seq(1, 4)],
    {0, _} = live:sh("kill -KILL " ++ integer_to_list(OsPid1)),
    live:eventually(fun() -> py:nodes() =:= [Two] end),
    [Pid ! stop || {Pid, _} <- Callers],
    Outcomes = [O || {Pid, Monitor} <- Callers,
                     O <- receive {'DOWN', Monitor, process, Pid, Seen} -> maps:keys(Seen) end],
    ?assertEqual([], [O || O <- Outcomes, O =/= {ok, OsPid1}, O =/= {ok, OsPid2}, not is_down(One, O)]),
    [?assertEqual([OsPid2], spread(Options)) || Options <- [#{}, #{node => two}]],
    ?assertEqual({error, {node_down, One, not_started}}, py:call(math, sqrt, [4], #{}, #{node => One})),
    live:eventually(fun() ->
        case py:info() of
            #{nodes := [#{node := Two, name := two, state := up}],
              down := [#{name := two, node := One, state := given_up}]} -> true;
            Other -> Other
        end
    end),
    live:open(Door),
    ?assertEqual({ok, done}, py:await(Running)).

%% Calls until it is told to stop: every outcome that it has seen.
caller(Seen) ->
    receive
        stop -> exit(Seen)
    after 0 ->
            caller(Seen#{py:call(os, getpid, []) => true})
    end.

is_down(Node, {error, {node_down, Node, _}}) -> true;
is_down(_, _) -> false.

%% The programs that take calls, one call after the other and many at once.
spread(Options) ->
    Ask = fun(_) -> {ok, OsPid} = py:call(os, getpid, [], #{}, Options), OsPid end,
    After = lists:usort([Ask(I) || I <- lists:seq(1, 100)]),
    ?assertEqual(After, lists:usort(live:pmap(Ask, lists:seq(1, 100)))),
    After.

auto() ->
    Online = erlang:system_flag(schedulers_online, min(2, erlang:system_info(schedulers))),
    try
        Expected = [list_to_atom("auto" ++ integer_to_list(N) ++ "@127.0.0.1")
                    || N <- lists:seq(1, erlang:system_info(schedulers_online))],
        with_nodes([#{name => auto, count => auto}],
                   fun() ->
                           ?assertEqual(Expected, py:nodes()),
                           ?assertEqual(length(Expected), length(spread(#{})))
                   end)
    after
        erlang:system_flag(schedulers_online, Online)
    end.

two_names() ->
    with_nodes([#{name => small, workers => 1}, #{name => 'large-1', workers => 3}],
               fun() ->
                       ?assertEqual(['large-1@127.0.0.1', 'small@127.0.0.1'], py:nodes()),
                       [?assertMatch({ok, #{workers := N}}, py:call(pynode, status, [], #{}, #{node => Name}))
                        || {Name, N} <- [{small, 1}, {'large-1', 3}]],
                       ?assertEqual(lists:sort([os_pid(Node) || Node <- [small, 'large-1']]), spread(#{}))
               end).

%%% ------------------------------------------------------------------ options

python_options() ->
    Path = live:tmp(live:unique("path")),
    module(Path, "app_found.py", "value = 'by path'"),
    module(Path, "app_imported.py", "import os\nvalue = os.environ['LIVE_APP']"),
    Venv = live:tmp(live:unique("venv")),
    {0, _} = live:sh("\"$PYTHON\" -m venv --without-pip \"$VENV\"", [{"VENV", Venv}]),
    [Site] = filelib:wildcard(filename:join(Venv, "lib/python*/site-packages")),
    module(Site, "app_installed.py", "value = 'by venv'"),
    with_nodes([#{env => [{"LIVE_APP", <<"grün"/utf8>>}], path => [Path], import => [app_imported], venv => Venv}],
               fun() ->
                       ?assertEqual({ok, <<"grün"/utf8>>}, py:call(os, getenv, [<<"LIVE_APP">>])),
                       ?assertEqual({ok, <<"grün"/utf8>>},
                                    py:eval("__import__('sys').modules['app_imported'].value")),
                       ?assertEqual({ok, <<"by path">>}, py:eval("__import__('app_found').value")),
                       ?assertEqual({ok, unicode:characters_to_binary(Venv)}, py:eval("__import__('sys').prefix")),
                       ?assertEqual({ok, <<"by venv">>}, py:eval("__import__('app_installed').value"))
               end).

module(Dir, Name, Text) ->
    File = filename:join(Dir, Name),
    ok = filelib:ensure_dir(File),
    ok = file:write_file(File, Text).

inherited() ->
    Path = live:tmp(live:unique("path")),
    module(Path, "app_inherited.py", "value = 'by PYTHONPATH'"),
    os:putenv("PYTHONPATH", Path),
    try
        with([], fun() ->
                         ?assertEqual({ok, <<"by PYTHONPATH">>}, py:eval("__import__('app_inherited').value"))
                 end)
    after
        os:unsetenv("PYTHONPATH")
    end.

default_node() ->
    with([], fun() -> ?assertEqual(['py@127.0.0.1'], py:nodes()) end).

node_options() ->
    with_nodes([#{workers => 1, max_workers => 1, queue_size => 1, strings => bytes, none_atom => undefined,
                  unconvertible => str, allow => [{builtins, object}, 'os.path:exists', gate, "bytes.__len__"],
                  args => ["--allow", "builtins:bytes.__len__"], path => [live:py("")]}],
               fun restricted/0).

restricted() ->
    ?assertEqual({error, {not_allowed, {os, getpid}}}, py:call(os, getpid, [])),
    ?assertEqual({ok, 3}, py:call(builtins, 'bytes.__len__', [<<"abc">>])),
    ?assertMatch({ok, <<"<object object", _/binary>>}, py:call(builtins, object, [])),
    ?assertEqual({ok, true}, py:call('os.path', exists, [<<"/">>])),
    [Node] = py:nodes(),
    ?assertMatch({ok, #{status := #{workers := 1, max_workers := 1}}}, py:info(Node)),
    Gate = #{port := Port} = live:gate(),
    Running = py:spawn_call(gate, wait, [Port]),
    Door = live:entered(Gate),
    Waiting = py:spawn_call(builtins, 'bytes.__len__', [<<"a">>]),
    live:eventually(fun() -> {ok, #{queued := Queued}} = py:call(pynode, status, []), Queued =:= 1 end),
    ?assertEqual({error, overloaded}, py:call(builtins, 'bytes.__len__', [<<"b">>])),
    live:open(Door),
    ?assertEqual({ok, undefined}, py:await(Running)),
    ?assertEqual({ok, 1}, py:await(Waiting)).

%% A bad value for each key. What is in a map names the inner key.
bad() ->
    Node = [{name, "py"}, {count, 0}, {program, pynode}, {python, 3}, {venv, ""}, {path, "/a"}, {import, json},
            {env, #{}}, {args, [port]}, {workers, 0}, {max_workers, 1025}, {queue_size, 0}, {max_frame, 1},
            {max_atoms, 0}, {max_connections, -1}, {mailbox_size, 0}, {max_tasks, 0}, {remember_ids, -1}, {loop, trio}, {metrics, "127.0.0.1"}, {strings, utf16}, {none_atom, null}, {unconvertible, repr}, {allow, math},
            {log_level, all}, {net_ticktime, 0}, {drain_timeout, -1}, {start_timeout, 0}, {kill_after, never},
            {restart, permanent}, {rlimits, []}, {cgroup, true}, {labels, []}, {code, #{}}, {unknown, 1}],
    Inner = [{restart, intensity}, {restart, period}, {restart, backoff_min}, {restart, backoff_max},
             {restart, unknown}, {rlimits, as}, {rlimits, cpu}, {rlimits, nofile}, {rlimits, unknown},
             {cgroup, memory_max}, {cgroup, cpu_max}, {cgroup, parent}, {cgroup, unknown}],
    [{Key, [{Key, Value}]} || {Key, Value} <- [{nodes, all}, {pools, []}, {distribution, none}, {program, 1}, {unknown, 1},
                                                 {python_may_call, [{lists, 1}]}]]
        ++ [{Key, [{nodes, [#{name => good}, #{Key => Value}]}]} || {Key, Value} <- Node]
        ++ [{Key, [{nodes, [#{Outer => #{Key => bad}}]}]} || {Outer, Key} <- Inner].

bad_options() ->
    [begin
         configure(Env),
         Expected = {error, {{bad_option, Key}, {pynode_app, start, [normal, []]}}},
         ?assertEqual({Env, Expected}, {Env, application:start(pynode)}),
         ?assertEqual(undefined, whereis(pynode_sup))
     end || {Key, Env} <- bad()],
    ?assertEqual([], programs()),
    Tested = lists:usort([Key || {Key, _} <- bad()]),
    ?assertEqual([], lists:usort(documented()) -- Tested).

%% The keys in the tables of docs/py.md, section "Configuration".
documented() ->
    {ok, Text} = file:read_file(filename:join([os:getenv("abs_top_srcdir"), "docs", "py.md"])),
    {match, [Section]} = re:run(Text, "## Configuration\\n(.*?)\\n## ", [dotall, {capture, [1], binary}]),
    {match, Rows} = re:run(Section, "^\\| (`[^|]*) \\|", [global, multiline, {capture, [1], binary}]),
    Keys = [binary_to_atom(Key) || [Cell] <- Rows,
                                   {match, Found} <- [re:run(Cell, "`([a-z_]+)`", [global, {capture, [1], binary}])],
                                   [Key] <- Found],
    ?assert(length(Keys) > 25),
    Keys.

%%% ------------------------------------------------------------------ what is said

required() ->
    Said = vm(["-pynode", "distribution", "required"],
              "{error, {{not_distributed, Text}, _}} = application:start(pynode), io:format(\"said: ~s~n\", [Text]),"
              "nonode@nohost = node()"),
    ?assertEqual(1, count("(?m)^said: start the VM with -name or -sname", Said)),
    ?assertEqual([], programs()).

relative() ->
    {Status, Output} = live:sh("cd \"$abs_top_builddir/..\" && ERL_LIBS=\"${abs_top_builddir##*/}/lib\" \"$ERL\" -noinput -eval "
                               "'{ok, Program} = py_program:find(#{}), io:format(\"~s\", [Program]), halt().'", [{"PYNODE", false}]),
    ?assertEqual({0, list_to_binary(filename:join(os:getenv("abs_top_builddir"), "pynode"))}, {Status, Output}).

no_program() ->
    Said = vm(["-name", live:unique("noprogram") ++ "@127.0.0.1", "-pynode", "program", "\"/nowhere/pynode\""],
              "{ok, [pynode]} = application:ensure_all_started(pynode),"
              "{error, {node_down, default, not_started}} = py:call(math, sqrt, [4]),"
              "{error, {node_down, py, not_started}} = py:call(math, sqrt, [4], #{}, #{node => py}),"
              "{error, {node_down, default, not_started}} = py:await(py:spawn_call(math, sqrt, [4])),"
              "ok = py:cast(math, sqrt, [4]),"
              "#{nodes := [], down := [#{name := py, state := given_up}]} = py:info(),"
              "ok = application:stop(pynode)"),
    ?assertEqual({1, 1}, {count("given up", Said), count("there is no program /nowhere/pynode", Said)}).

logged_by_default() ->
    Name = live:unique("logged"),
    Said = vm(["-name", Name ++ "vm@127.0.0.1", "-pynode", "nodes", "[#{name => " ++ Name ++ ", restart => #{intensity => 0}}]"],
              "{ok, [pynode]} = application:ensure_all_started(pynode),"
              "{error, {node_down, _, _}} = py:call(os, abort, []),"
              "(fun Wait() -> case py:info() of #{down := [#{state := given_up}]} -> ok; _ -> Wait() end end)()"),
    ?assertEqual({1, 1}, {count("given up after 1 end", Said), count("ended: signal 6 .SIGABRT.", Said)}).

%%% ------------------------------------------------------------------ drain

drain() ->
    with_nodes([#{name => drained, path => [live:py("")]}], fun drain_running/0).

drain_running() ->
    [Node] = py:nodes(),
    OsPid = os_pid(Node),
    Gate = #{port := Port} = live:gate(),
    Running = py:spawn_call(gate, wait, [Port, done]),
    Door = live:entered(Gate),
    Drain = erpc:send_request(node(), py, drain, [Node]),
    live:eventually(fun() -> py:nodes() =:= [] end),
    ?assertMatch(#{nodes := [#{node := Node, state := draining}]}, py:info()),
    ?assertEqual({error, {node_down, default, not_started}}, py:call(math, sqrt, [4])),
    ?assert(runs(OsPid)),
    live:open(Door),
    ?assertEqual({ok, done}, py:await(Running)),
    ?assertEqual(ok, erpc:receive_response(Drain, live:ms(10000))),
    ?assertNot(runs(OsPid)),
    live:eventually(fun() -> py:info() =:= #{nodes => [], down => []} end),
    ?assertEqual([], supervisor:which_children(py_port_sup)),
    ?assertEqual({error, {node_down, Node, not_started}}, py:drain(Node)).

%% When the last configured node has gone, calls go to those that are attached.
drain_last() ->
    #{node := Other} = live:pynode(),
    with_nodes([#{name => last}],
               fun() ->
                       [Node] = py:nodes(),
                       ok = py:connect(Other),
                       ?assertEqual({ok, os_pid(Node)}, py:call(os, getpid, [])),
                       ok = py:drain(Node),
                       live:eventually(fun() -> py:call(os, getpid, []) =:= {ok, os_pid(Other)} end),
                       ok = py:disconnect(Other)
               end).

%% Between two starts, or given up: there is nothing to finish, and it stays away.
drain_down() ->
    with_nodes([#{name => down, import => [no_such_module], restart => #{intensity => 0}}],
               fun() ->
                       #{down := [#{node := Node, state := given_up}]} = py:info(),
                       ?assertEqual(ok, py:drain(Node)),
                       live:eventually(fun() -> py:info() =:= #{nodes => [], down => []} end),
                       ?assertEqual([], supervisor:which_children(py_port_sup))
               end).
