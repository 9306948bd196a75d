%% live_port.erl - the OS process of a configured node: started, watched, restarted, given up, never left behind.
-module(live_port).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1]).
-export([log/2, own/1, alone/0, whole/0, unnamed/0]).

-define(SIGABRT, 6).
-define(SIGXCPU, 24).

%% What is logged would stand between the lines of TAP, so the test is the only one to get it.
setup() ->
    logger:set_primary_config(level, all),
    logger:remove_handler(default),
    logger:add_handler(?MODULE, ?MODULE, #{config => prompt}).

tests(_) ->
    [{"a node is started, says that it is ready, is called and stopped", fun started/0},
     {"two nodes of one name are numbered", fun two/0},
     {"what Python prints comes to logger, each line with its level", fun output/0},
     {"a line that is too long comes in pieces, one that is no text as bytes", fun odd_output/0},
     {"a flood of lines does not hold up the node", fun flood/0},
     {"an exit by a signal is seen, and the node is back within a second", fun signal_seen/0},
     {"an exit status is seen", fun status_seen/0},
     {"the end is seen while a process that Python has started keeps the output open", fun child_keeps_output/0},
     {"the end is seen while a daemon that Python has started keeps the output open", fun daemon_keeps_output/0},
     {"a node that dies at each start is given up with one report, and can be started again", fun given_up/0},
     {"the pause before a restart doubles", fun backoff/0},
     {"a program that is not there is given up at once", fun no_program/0},
     {"a program for another Python is given up at once", fun other_python/0},
     {"a node that is not ready in time is killed", fun start_timeout/0},
     {"a name that is taken is told", fun name_taken/0},
     {"limits hold, and too much memory is a MemoryError", fun rlimits/0},
     {"the limit of processor time ends the node", fun cpu_limit/0},
     {"a limit that cannot be set ends the start", fun hard_limit/0},
     {"without a writable cgroup there is a warning, and the node runs", fun no_cgroup/0},
     {"a node joins its cgroup", fun cgroup/0},
     {"the environment is as asked for", fun environment/0},
     {"the cookie is neither in the command line nor in the environment", fun cookie_hidden/0},
     {"stop lets what runs finish", fun stop_waits/0},
     {"stop kills what does not finish in time", fun stop_kills/0},
     {"kill ends a node that holds the interpreter lock, and it is started again", fun kill_held/0},
     {"the supervisor's shutdown leaves nothing behind", fun shutdown/0},
     {"a port process that is killed leaves nothing behind", fun brutal/0},
     {"a VM that is killed leaves nothing behind, though Python holds its lock", fun vm_killed/0},
     {"a VM that is killed leaves nothing behind, though an import holds the lock", fun vm_killed_early/0},
     {"what Python has started goes with the VM, too", fun vm_killed_children/0},
     {"--owned without a standard input ends at once", fun no_input/0},
     {"--connect greets the coordinator until it attaches, and again after a lost connection", fun connect/0},
     {"--connect waits for a node that is not there yet, and for its coordinator", fun connect_later/0},
     {"a VM without a name becomes a node, and is none again afterwards", fun alone_vm/0},
     {"the application stops in a moment in a VM without a name", fun application_vm/0},
     {"a VM without a name is refused if a name is required", fun required/0}].

%%% ---------------------------------------------------------------------- the scene

%% This process plays the coordinator. The map is one of the application's key `nodes'.
specs(Map) ->
    {ok, Specs} = py_options:nodes([maps:merge(#{name => list_to_atom(live:unique("port")), path => [live:py("")],
                                                drain_timeout => live:ms(10000)}, Map)]),
    Specs.

start(Map) ->
    register(py_coordinator, self()),
    process_flag(trap_exit, true),
    Ports = [{py_program:node_name(Spec), element(2, {ok, _} = py_port:start_link(Spec))} || Spec <- specs(Map)],
    case Ports of
        [One] -> One;
        _ -> Ports
    end.

%% Starts a node and waits until it can be called.
up(Map) ->
    Port = {Node, Pid} = start(Map),
    ready(Port),
    #{os_pid := OsPid} = py_port:info(Pid),
    {Node, Pid, OsPid}.

ready({Node, Pid}) ->
    live:expect(20000, fun({'$gen_cast', {node_ready, _, N, P, #{alive := _}}}) when N =:= Node, P =:= Pid -> {ok, ok} end),
    true = net_kernel:hidden_connect_node(Node).

exited(Node) ->
    live:expect(20000, fun({'$gen_cast', {node_exited, N, How}}) when N =:= Node -> {ok, How} end).

%% The next event of logger's that the fun takes.
logged(Fun) ->
    live:expect(20000, fun({logged, Level, Text, Meta}) -> Fun(Level, Text, Meta) end).

logged_text(Re) ->
    logged(fun(Level, Text, _) ->
                   case re:run(Text, Re, [unicode, {capture, none}]) of
                       match -> {ok, {Level, Text}};
                       nomatch -> error(function_clause)
                   end
           end).

%% A handler of logger's: the coordinator gets each event as a message; if slow it has to answer.
log(#{level := Level, msg := Msg, meta := Meta}, #{config := Config}) ->
    Text = lists:flatten(text(Msg, maps:get(report_cb, Meta, fun logger:format_report/1))),
    case whereis(py_coordinator) of
        undefined -> ok;
        Test when Config =:= prompt -> Test ! {logged, Level, Text, Meta};
        Test ->
            Test ! {slow, self()},
            receive go -> ok end
    end.

text({report, Report}, Format) when is_function(Format, 1) -> text(Format(Report), Format);
text({report, _}, _) -> "";
text({string, String}, _) -> unicode:characters_to_list(String);
text({Format, Args}, _) -> io_lib:format(Format, Args).

%% A sanitizer maps more memory than a limit may be, and makes a status of SIGSEGV.
sanitized() ->
    os:getenv("ASAN_OPTIONS", "") =/= "".

%% A zombie does not.
runs(OsPid) ->
    case file:read_file("/proc/" ++ integer_to_list(OsPid) ++ "/stat") of
        {ok, Stat} -> re:run(Stat, "\\) Z", [{capture, none}]) =:= nomatch;
        {error, _} -> false
    end.

gone(OsPid) ->
    live:eventually(2000, fun() -> not runs(OsPid) end).

%% Makes Python hold its lock for good.
hold(Node) ->
    Gate = #{port := Port} = live:gate(),
    Call = erpc:send_request(Node, owned, hold, [Port]),
    live:open(live:entered(Gate)),
    live:eventually(fun() -> stuck(Node) end),
    Call.

%% The lock is held: a call that does nothing gets no answer.
stuck(Node) ->
    try erpc:call(Node, os, getpid, [], 100) of
        _ -> false
    catch
        error:{erpc, timeout} -> true
    end.

%%% ------------------------------------------------------------------ start and output

started() ->
    {Node, Pid, OsPid} = up(#{workers => 3}),
    ?assertEqual(OsPid, erpc:call(Node, os, getpid, [])),
    ?assertMatch(#{workers := 3}, erpc:call(Node, pynode, status, [])),
    ?assertMatch(#{state := ready, starts := 1, last_end := undefined, ends := [], node := Node}, py_port:info(Pid)),
    ?assertEqual({error, running}, py_port:restart(Pid)),
    ok = py_port:stop(Pid, live:ms(20000)),
    ?assertEqual({status, 0}, exited(Node)),
    receive {'EXIT', Pid, Reason} -> ?assertEqual(normal, Reason) end,
    ?assertNot(runs(OsPid)).

two() ->
    Ports = start(#{name => pair, count => 2}),
    ?assertEqual(['pair1@127.0.0.1', 'pair2@127.0.0.1'], [Node || {Node, _} <- Ports]),
    [ready(Port) || Port <- Ports],
    [?assertEqual(4, erpc:call(Node, operator, add, [2, 2])) || {Node, _} <- Ports],
    ?assertEqual([ok, ok], live:pmap(fun({_, Pid}) -> py_port:stop(Pid, live:ms(20000)) end, Ports)).

output() ->
    {Node, Pid, OsPid} = up(#{}),
    Said = fun(Wanted) ->
                   logged(fun(Level, Text, Meta) when Text =:= Wanted -> {ok, {Level, Meta}} end)
           end,
    erpc:call(Node, owned, say, [<<"to stdout ü ~p"/utf8>>]),
    {Level, Meta} = Said("to stdout ü ~p"),
    ?assertEqual(info, Level),
    ?assertMatch(#{domain := [python], node := Node, os_pid := OsPid}, Meta),
    erpc:call(Node, owned, say, [<<"to stderr">>, stderr]),
    ?assertMatch({info, _}, Said("to stderr")),
    [begin
         erpc:call(Node, owned, say, [<<"<", Digit, ">of that level">>]),
         ?assertMatch({Expected, _}, Said("of that level"))
     end || {Digit, Expected} <- [{$3, error}, {$4, warning}, {$5, notice}, {$7, debug}]],
    py_port:stop(Pid, live:ms(20000)),
    ?assertMatch({info, _}, Said("node: stopped")).

odd_output() ->
    {Node, Pid, _} = up(#{}),
    erpc:call(Node, owned, say_bytes, [{bytes, <<(binary:copy(<<"x">>, 150000))/binary, "\n">>}]),
    Pieces = [logged(fun(_, Text = "xxx" ++ _, _) -> {ok, length(Text)} end) || _ <- [1, 2, 3]],
    ?assertEqual([65536, 65536, 150000 - 2 * 65536], Pieces),
    erpc:call(Node, owned, say_bytes, [{bytes, <<"y", 255, "\n">>}]),
    ?assertEqual([$y, 255], logged(fun(_, Text = "y" ++ _, _) -> {ok, Text} end)),
    py_port:stop(Pid, live:ms(20000)).

%% The handler is held up; the node prints on, the end is seen, and what was dropped is told.
flood() ->
    {Node, Pid, _} = up(#{restart => #{intensity => 0}}),
    ok = logger:update_handler_config(?MODULE, config, slow),
    erpc:call(Node, owned, say, [<<"first">>]),
    Writer = live:expect(5000, fun({slow, From}) -> {ok, From} end),
    erpc:call(Node, owned, say, [binary:copy(<<"line\n">>, 100000)]),
    erpc:cast(Node, owned, die, [9]),
    ?assertEqual({signal, 9}, exited(Node)),
    ok = logger:update_handler_config(?MODULE, config, prompt),
    Writer ! go,
    {warning, Text} = logged_text("lines dropped"),
    {match, [N]} = re:run(Text, "output: ([0-9]+) lines dropped", [{capture, [1], list}]),
    ?assert(list_to_integer(N) > 90000),
    py_port:stop(Pid, 1000).

signal_seen() ->
    {Node, Pid, OsPid} = up(#{}),
    erpc:cast(Node, owned, die, [?SIGABRT]),
    {Took, ok} = live:timed(fun() ->
                                    ?assertEqual({signal, ?SIGABRT}, exited(Node)),
                                    ready({Node, Pid}),
                                    ok
                            end),
    live:note("back after ~.1f ms", [Took]),
    ?assert(Took < live:ms(1000)),
    ?assertMatch({warning, _}, logged_text("ended: signal 6 \\(SIGABRT\\); started again at once")),
    ?assertMatch(#{state := ready, starts := 2, last_end := {signal, ?SIGABRT}}, py_port:info(Pid)),
    ?assertNotEqual(OsPid, erpc:call(Node, os, getpid, [])),
    py_port:stop(Pid, live:ms(20000)).

status_seen() ->
    {Node, Pid, _} = up(#{restart => #{intensity => 0}}),
    erpc:cast(Node, os, '_exit', [3]),
    ?assertEqual({status, 3}, exited(Node)),
    live:expect(5000, fun({'$gen_cast', {node_given_up, _, N, #{ends := [{status, 3}]}}}) when N =:= Node -> {ok, ok} end),
    ok = py_port:stop(Pid, 1000).

child_keeps_output() ->
    {Node, Pid, _} = up(#{}),
    Child = erpc:call(Node, owned, child, []),
    erpc:cast(Node, owned, die, [?SIGABRT]),
    ?assertEqual({signal, ?SIGABRT}, live:within(1000, fun() -> exited(Node) end)),
    gone(Child),
    py_port:stop(Pid, live:ms(20000)).

%% It has left the group, so it is left alone, and nobody can tell how the node has ended.
daemon_keeps_output() ->
    {Node, Pid, _} = up(#{}),
    Child = erpc:call(Node, owned, child, [true]),
    erpc:cast(Node, owned, die, [?SIGABRT]),
    ?assertEqual(unknown, live:within(3000, fun() -> exited(Node) end)),
    ready({Node, Pid}),
    ?assert(runs(Child)),
    live:sh("kill -KILL " ++ integer_to_list(Child)),
    py_port:stop(Pid, live:ms(20000)).

%%% -------------------------------------------------------------- restarts, giving up

given_up() ->
    {Node, Pid} = start(#{import => [no_such_module], restart => #{intensity => 2, backoff_min => 10}}),
    ?assertEqual([{status, 78}, {status, 78}, {status, 78}], [exited(Node) || _ <- [1, 2, 3]]),
    GivenUp = fun() ->
                      live:expect(5000, fun({'$gen_cast', {node_given_up, _, N, Report}}) when N =:= Node -> {ok, Report} end)
              end,
    #{what := given_up, ends := Ends, output := Lines} = GivenUp(),
    ?assertEqual([{status, 78}, {status, 78}, {status, 78}], Ends),
    ?assertMatch({match, _}, re:run(lists:join("\n", Lines), "No module named 'no_such_module'")),
    ?assertMatch(#{state := given_up, os_pid := undefined, starts := 3}, py_port:info(Pid)),
    {error, Text} = logged_text("given up"),
    ?assertMatch(match, re:run(Text, "given up after 3 ends in .*status 78: .*No module named", [dotall, {capture, none}])),
    ?assertEqual([], [T || {logged, error, T, Meta = #{node := _}} <- live:flush(), not is_map_key(domain, Meta)]),
    ok = py_port:restart(Pid),
    ?assertEqual(3, length([exited(Node) || _ <- [1, 2, 3]])),
    #{ends := [_, _, _]} = GivenUp(),
    ?assertMatch(#{starts := 6}, py_port:info(Pid)),
    ok = py_port:stop(Pid, 1000).

backoff() ->
    {Node, Pid} = start(#{import => [no_such_module],
                          restart => #{intensity => 5, backoff_min => 40, backoff_max => 100}}),
    receive {'$gen_cast', {node_given_up, _, Node, _}} -> ok end,
    Pauses = [case re:run(Text, "in ([0-9]+) ms", [{capture, [1], list}]) of
                  {match, [Ms]} -> list_to_integer(Ms);
                  nomatch -> at_once
              end || {logged, warning, Text, _} <- live:flush(), re:run(Text, "started again") =/= nomatch],
    live:note("pauses: ~p", [Pauses]),
    [First | Rest] = Pauses,
    ?assertEqual(at_once, First),
    [?assert(abs(Pause - Middle) =< Middle div 4 + 1) || {Pause, Middle} <- lists:zip(Rest, [40, 80, 100, 100])],
    ok = py_port:stop(Pid, 1000).

at_once_given_up(Map) ->
    {Node, Pid} = start(Map),
    Report = live:expect(10000, fun({'$gen_cast', {node_given_up, _, N, R}}) when N =:= Node -> {ok, R} end),
    {error, Text} = logged_text("given up"),
    ok = py_port:stop(Pid, 1000),
    {Report, Text}.

no_program() ->
    {#{ends := Ends, output := []}, Text} = at_once_given_up(#{program => "/nowhere/pynode"}),
    ?assertEqual([{error, {no_program, "/nowhere/pynode"}}], Ends),
    ?assertMatch({match, _}, re:run(Text, "there is no program /nowhere/pynode")).

other_python() ->
    {#{ends := [{error, {python, "2.7", Has}}]}, Text} = at_once_given_up(#{python => "2.7"}),
    ?assertMatch({match, _}, re:run(Text, "built for Python " ++ Has ++ ", not for 2.7")),
    true = unregister(py_coordinator),
    {_, Pid, _} = up(#{python => os:getenv("PYTHON")}),
    py_port:stop(Pid, live:ms(20000)).

start_timeout() ->
    {Node, Pid} = start(#{import => [owned_hold], start_timeout => live:ms(700), restart => #{intensity => 0}}),
    {info, "importing " ++ OsPid} = logged_text("^importing"),
    ?assertEqual(start_timeout, exited(Node)),
    ?assertNot(runs(list_to_integer(OsPid))),
    ?assertMatch({error, _}, logged_text("killed, not ready within start_timeout")),
    py_port:stop(Pid, 1000).

name_taken() ->
    Name = live:unique("taken"),
    live:pynode(#{name => Name ++ "@127.0.0.1"}),
    {Node, Pid} = start(#{name => list_to_atom(Name), restart => #{intensity => 0}}),
    ?assertEqual({status, 75}, exited(Node)),
    ?assertMatch({error, _}, logged_text("the name is taken by another node")),
    py_port:stop(Pid, 1000).

%%% -------------------------------------------------------------------------- limits

rlimits() ->
    Memory = 3 bsl 30,
    {Node, Pid, _} = up(#{rlimits => maps:merge(#{nofile => 200, cpu => 1000},
                                                maps:from_list([{as, Memory} || not sanitized()]))}),
    Limit = fun(Name) -> erpc:call(Node, owned, limit, [Name]) end,
    ?assertEqual({200, 200}, Limit('RLIMIT_NOFILE')),
    ?assertEqual({1000, 1001}, Limit('RLIMIT_CPU')),
    sanitized() orelse ?assertEqual({Memory, Memory}, Limit('RLIMIT_AS')),
    sanitized() orelse ?assertMatch({exception, {python_error, 'MemoryError', _}, _},
                                    live:error_of(fun() -> erpc:call(Node, builtins, bytearray, [Memory]) end)),
    ?assertEqual(2.0, erpc:call(Node, math, sqrt, [4])),
    py_port:stop(Pid, live:ms(20000)).

cpu_limit() ->
    {Node, Pid, _} = up(#{rlimits => #{cpu => 1}, restart => #{intensity => 0}}),
    erpc:cast(Node, owned, compute, []),
    ?assertEqual({signal, ?SIGXCPU}, exited(Node)),
    py_port:stop(Pid, 1000).

%% More than the hard limit that a shell has set before; root may, so the number is one nobody can have.
hard_limit() ->
    {Node, Pid} = start(#{rlimits => #{nofile => 1 bsl 30}, restart => #{intensity => 0}}),
    ?assertMatch({status, N} when N > 0, exited(Node)),
    ?assertMatch({error, _}, logged_text("given up")),
    py_port:stop(Pid, 1000).

no_cgroup() ->
    {_, Pid, _} = up(#{cgroup => #{parent => live:tmp("."), memory_max => 1 bsl 30}}),
    ?assertMatch({warning, _}, logged_text("no cgroup: ")),
    py_port:stop(Pid, live:ms(20000)).

%% A directory plays the parent group.
cgroup() ->
    Parent = live:tmp(live:unique("cgroup")),
    ok = file:make_dir(Parent),
    ok = file:write_file(filename:join(Parent, "cgroup.controllers"), ""),
    {_, Pid, OsPid} = up(#{cgroup => #{parent => Parent, memory_max => 1 bsl 30}, rlimits => #{nofile => 500}}),
    [Dir] = filelib:wildcard(filename:join(Parent, "pynode-*")),
    ?assertEqual({ok, <<(integer_to_binary(OsPid))/binary, "\n">>}, file:read_file(filename:join(Dir, "cgroup.procs"))),
    ?assertEqual({ok, <<"1073741824">>}, file:read_file(filename:join(Dir, "memory.max"))),
    py_port:stop(Pid, live:ms(20000)).

environment() ->
    os:putenv("LIVE_PORT_OWN", "inherited"),
    os:putenv("LIVE_PORT_GONE", "inherited"),
    {Node, Pid, _} = up(#{env => [{"LIVE_PORT_NEW", <<"ü"/utf8>>}, {"LIVE_PORT_GONE", false}]}),
    Env = fun(Name) -> erpc:call(Node, owned, environment, [Name]) end,
    ?assertEqual([<<"inherited">>, <<"ü"/utf8>>, none, none, none],
                 [Env(Name) || Name <- [<<"LIVE_PORT_OWN">>, <<"LIVE_PORT_NEW">>, <<"LIVE_PORT_GONE">>,
                                        <<"PYNODE_COOKIE">>, <<"BINDIR">>]]),
    py_port:stop(Pid, live:ms(20000)).

cookie_hidden() ->
    {_, Pid, OsPid} = up(#{rlimits => #{nofile => 1000}}),
    Cookie = list_to_binary(live:cookie()),
    [begin
         {ok, Text} = file:read_file("/proc/" ++ integer_to_list(OsPid) ++ "/" ++ File),
         ?assertEqual(nomatch, binary:match(Text, Cookie)),
         ?assertNotEqual(<<>>, Text)
     end || File <- ["cmdline", "environ"]],
    py_port:stop(Pid, live:ms(20000)).

%%% -------------------------------------------------------------------------- the end

stop_waits() ->
    {Node, Pid, _} = up(#{}),
    Gate = #{port := Port} = live:gate(),
    Call = erpc:send_request(Node, gate, wait, [Port, finished]),
    Door = live:entered(Gate),
    Stop = erpc:send_request(node(), py_port, stop, [Pid, infinity]),
    {info, _} = logged_text("node: draining: 1 "),
    live:open(Door),
    ?assertEqual(finished, binary_to_atom(to_binary(erpc:receive_response(Call, live:ms(10000))))),
    ?assertEqual(ok, erpc:receive_response(Stop, live:ms(10000))),
    ?assertEqual({status, 0}, exited(Node)).

to_binary(V) when is_atom(V) -> atom_to_binary(V);
to_binary(V) -> V.

stop_kills() ->
    {Node, Pid, OsPid} = up(#{}),
    hold(Node),
    ok = py_port:stop(Pid, 100),
    ?assertEqual({signal, 9}, exited(Node)),
    ?assertMatch({warning, _}, logged_text("did not leave in time, killed")),
    ?assertNot(runs(OsPid)).

kill_held() ->
    {Node, Pid, OsPid} = up(#{}),
    hold(Node),
    ok = py_port:kill(Pid),
    ?assertEqual({signal, 9}, live:within(500, fun() -> exited(Node) end)),
    ready({Node, Pid}),
    ?assertNot(runs(OsPid)),
    ?assertMatch(#{starts := 2}, py_port:info(Pid)),
    py_port:stop(Pid, live:ms(20000)).

shutdown() ->
    register(py_coordinator, self()),
    process_flag(trap_exit, true),
    {ok, Sup} = py_port_sup:start_link(),
    Ports = [begin
                 {ok, Pid} = py_port_sup:start_child(Spec),
                 {py_program:node_name(Spec), Pid}
             end || Spec <- specs(#{count => 2})],
    [ready(Port) || Port <- Ports],
    OsPids = [maps:get(os_pid, py_port:info(Pid)) || {_, Pid} <- Ports],
    [{Node, _} | _] = Ports,
    hold(Node),
    exit(Sup, shutdown),
    receive {'EXIT', Sup, Reason} -> ?assertEqual(shutdown, Reason) end,
    ?assertEqual([false, false], [runs(OsPid) || OsPid <- OsPids]).

brutal() ->
    {Node, Pid, OsPid} = up(#{}),
    hold(Node),
    exit(Pid, kill),
    receive {'EXIT', Pid, killed} -> ok end,
    gone(OsPid).

%% Runs in the VM that is killed: owns a node, and tells who has asked for it.
own({Test, Spec}) ->
    spawn(fun() ->
                  register(py_coordinator, self()),
                  logger:remove_handler(default),
                  {ok, Pid} = py_port:start_link(Spec),
                  Test ! {owns, Pid},
                  relay(Test)
          end).

relay(Test) ->
    receive Message -> Test ! Message, relay(Test) end.

owned_by_peer(Map) ->
    Peer = #{node := Beam} = live:peer(),
    [Spec] = specs(Map),
    erpc:call(Beam, ?MODULE, own, [{self(), Spec}]),
    Pid = live:expect(5000, fun({owns, P}) -> {ok, P} end),
    {Peer, Pid, py_program:node_name(Spec)}.

vm_killed() ->
    {Peer, Pid, Node} = owned_by_peer(#{}),
    ready({Node, Pid}),
    #{os_pid := OsPid} = py_port:info(Pid),
    hold(Node),
    live:kill(Peer),
    gone(OsPid).

vm_killed_early() ->
    {Peer, Pid, _} = owned_by_peer(#{import => [owned_hold]}),
    live:eventually(fun() -> maps:get(output, py_port:info(Pid)) =/= [] end),
    #{output := [<<"importing ", _/binary>>], os_pid := OsPid, state := starting} = py_port:info(Pid),
    live:kill(Peer),
    gone(OsPid).

vm_killed_children() ->
    {Peer, Pid, Node} = owned_by_peer(#{}),
    ready({Node, Pid}),
    Child = erpc:call(Node, owned, child, []),
    live:kill(Peer),
    gone(Child).

no_input() ->
    #{proc := Proc} = live:pynode(#{args => ["--owned"], ready => false}),
    live:wait_line(Proc, "owner: gone, leaving at once"),
    live:wait_exit(Proc).

%%% ------------------------------------------------------------------------- --connect

greeted(Limit) ->
    live:expect(Limit, fun({py_hello, Node}) -> {ok, Node} end).

connect() ->
    register(py_coordinator, self()),
    Python = #{node := Node} = live:pynode(#{args => ["--connect", atom_to_list(node())]}),
    ?assertEqual(Node, greeted(10000)),
    ?assert(lists:member(Node, nodes(hidden))),
    attach(Node),
    [begin
         true = erlang:disconnect_node(Node),
         ?assertEqual(Node, greeted(10000)),
         attach(Node)
     end || _ <- [1, 2, 3]],
    {pynode, Node} ! {detach, self()},
    ?assertEqual(Node, greeted(10000)),
    ?assertEqual(0, live:stop(Python)).

%% As the coordinator would: greetings end then, but one may be on its way. The list is the load's.
attach(Node) ->
    {pynode, Node} ! {attach, self()},
    live:expect(5000, fun({py_attached, _}) -> {ok, ok} end),
    [{py_hello, Node} = Hello || Hello <- live:flush(), not is_list(Hello)].

connect_later() ->
    Name = live:unique("later") ++ "@127.0.0.1",
    #{proc := Proc, node := Node} = live:pynode(#{args => ["--connect", Name]}),
    live:wait_line(Proc, "connect " ++ Name ++ ": trying on"),
    Beam = live:os(os:getenv("ERL"),
            ["-noinput", "-name", Name, "-kernel", "logger_level", "emergency", "-eval",
             "register(py_coordinator, self()), receive {py_hello, N} -> io:format(\"hello ~s~n\", [N]) end, "
             "receive after infinity -> ok end"], #{merge => true}),
    live:wait_line(Beam, "hello " ++ atom_to_list(Node)),
    ?assertEqual(1, length([L || L <- live:lines(Proc), re:run(L, "trying on", [{capture, none}]) =:= match])).

%%% ---------------------------------------------------------------------- distribution

%% A VM without a name, with an epmd port that nobody listens at.
vm(Function) ->
    {ok, Listen} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listen),
    gen_tcp:close(Listen),
    Proc = live:os(os:getenv("ERL"), ["-noinput", "-pa", live:tmp("."), "-s", ?MODULE_STRING, atom_to_list(Function)],
                   #{merge => true, env => [{"ERL_EPMD_PORT", integer_to_list(Port)}]}),
    ?assertEqual({0, []}, {live:wait_exit(Proc, 40000), [L || L <- live:lines(Proc), re:run(L, "failed") =/= nomatch]}),
    ?assertEqual({error, econnrefused}, gen_tcp:connect({127, 0, 0, 1}, Port, [])),
    Proc.

in_vm(Fun) ->
    try Fun() of
        _ -> halt(0)
    catch
        C:R:S ->
            io:format("failed: ~tp~n", [{C, R, S}]),
            halt(1)
    end.

alone_vm() ->
    Proc = vm(alone),
    live:wait_line(Proc, "this VM had no name: it is now pynode_[0-9]+@127.0.0.1").

%% Runs in that VM.
alone() ->
    in_vm(fun() ->
                  process_flag(trap_exit, true),
                  Again = fun(Times) -> [undone(do(fun() -> ok end)) || _ <- lists:seq(1, Times)] end,
                  Count = fun() -> [length(processes()), length(erlang:ports()), length(ets:all())] end,
                  Again(2),
                  Before = Count(),
                  Again(100),
                  ?assertEqual(Before, Count()),
                  undone(do(fun alone_node/0))
          end).

do(Fun) ->
    {ok, Pid} = py_distribution:start_link(#{distribution => auto}),
    ?assertEqual("pynode_" ++ os:getpid() ++ "@127.0.0.1", atom_to_list(node())),
    ?assertEqual("_" ++ os:getpid(), py_distribution:suffix()),
    ?assertNotEqual(nocookie, erlang:get_cookie()),
    Fun(),
    Pid.

undone(Pid) ->
    exit(Pid, shutdown),
    receive {'EXIT', Pid, shutdown} -> ok end,
    ?assertEqual('nonode@nohost', node()),
    ?assertEqual("", py_distribution:suffix()),
    ?assertEqual(undefined, application:get_env(kernel, inet_dist_use_interface)).

%% Two nodes with names of their own; neither is to be reached from elsewhere.
alone_node() ->
    register(py_coordinator, self()),
    {ok, [Spec]} = py_options:nodes([#{}]),
    {ok, Pid} = py_port:start_link(Spec),
    Node = py_program:node_name(Spec),
    ?assertEqual("py_" ++ os:getpid() ++ "@127.0.0.1", atom_to_list(Node)),
    ready({Node, Pid}),
    ?assertEqual(2.0, erpc:call(Node, math, sqrt, [4])),
    [?assertMatch({ok, {{127, 0, 0, 1}, _}}, {ok, element(2, {ok, _} = inet:sockname(S))}) ||
        S <- erlang:ports(), {name, "tcp_inet"} =:= erlang:port_info(S, name),
        element(1, inet:sockname(S)) =:= ok],
    ok = py_port:stop(Pid, live:ms(20000)),
    unregister(py_coordinator).

%% Nobody can change a setting while an application stops.
application_vm() ->
    vm(whole).

whole() ->
    in_vm(fun() ->
                  {ok, [pynode]} = application:ensure_all_started(pynode),
                  [Node] = py:nodes(),
                  [{_, Port, _, _}] = supervisor:which_children(py_port_sup),
                  #{os_pid := OsPid, node := Node} = py_port:info(Port),
                  ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4])),
                  ok = live:within(2000, fun() -> application:stop(pynode) end),
                  ?assertEqual('nonode@nohost', node()),
                  ?assertNot(runs(OsPid))
          end).

required() ->
    vm(unnamed).

unnamed() ->
    in_vm(fun() ->
                  process_flag(trap_exit, true),
                  {error, {not_distributed, Text}} = py_distribution:start_link(#{distribution => required}),
                  ?assertMatch({match, _}, re:run(Text, "-name")),
                  ?assertEqual('nonode@nohost', node())
          end).
