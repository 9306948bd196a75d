%% live_threads_chaos - what Python threads call, while VMs, connections and processes there die or stand still.
-module(live_threads_chaos).

-export([never/1, kill_stuck/0]).
-export([setup/0, tests/1]).
-export([vm/0, sweep/1]). % for the other VM

-include_lib("stdlib/include/assert.hrl").

-define(THREADS, 64).

setup() ->
    #{}.

tests(_) ->
    cases().

cases() ->
    [{background, "a stopped VM: its calls end when its heartbeat is missed, and go on when it does", fun vm_stopped/0},
     {background, "net_ticktime 4: threads that idle, compute or are flooded keep their connections", fun ticks/0},
     {"the VM is killed and started again under 64 threads: each call ends, and they go on", fun vm_killed/0},
     {"the VM is killed under threads that make a new connection each time", fun vm_killed_fresh/0},
     {"idle handlers are killed: the next call of each thread has another", fun idle_handlers/0},
     {"busy handlers are killed again and again: each call ends, and they go on", fun busy_handlers/0},
     {"the coordinator is killed again and again: calls go on, new threads find it", fun coordinator/0},
     {"connections are cut in the middle of answers of a megabyte", fun cut/0},
     {"the application stops and starts again under 64 threads", fun application_again/0},
     {"the application stops while calls wait: each ends, and says why", fun application_stops/0},
     {"epmd is killed and comes again: calls go on", fun epmd/0}].

%%% ------------------------------------------------------------------ the scene

%% In the other VM: the application, and the functions that the threads call.
vm() ->
    application:set_env(pynode, nodes, []),
    {ok, _} = application:ensure_all_started(pynode),
    [ok = py:register_function(Name, Fun)
     || {Name, Fun} <- [{tag, fun([X]) -> X end}, {handler, fun([]) -> self() end},
                        {never, fun([X]) -> never(X) end}]],
    ok.

%% A VM of that name with the application, up.
start(Name) ->
    start(Name, []).

start(Name, Args) ->
    start(Name, Args, []).

start(Name, Args, Env) ->
    Proc = live:os(os:getenv("ERL"), ["-noinput", "-start_epmd", "false", "-name", Name, "-pa", live:tmp("."),
                                      "-kernel", "prevent_overlapping_partitions", "false",
                                      "-kernel", "logger_level", "emergency"] ++ Args ++
                       ["-eval", atom_to_list(?MODULE) ++ ":vm(), io:format(\"vm up~n\")"], #{merge => true, env => Env}),
    live:wait_line(Proc, "^vm up"),
    Proc.

%% {The VM's name, its program, a node that is connected to it}.
scene() ->
    scene([], []).

scene(VmArgs, NodeArgs) ->
    Name = live:unique("app") ++ "@127.0.0.1",
    Vm = start(Name, VmArgs),
    Node = #{node := N} = live:pynode(#{args => ["--connect", Name | NodeArgs]}),
    attached(list_to_atom(Name), N),
    {list_to_atom(Name), Vm, Node}.

%% One whose ticks are a second apart. This VM's are not, so it has to say that it lives.
ticking_scene() ->
    Scene = {Vm, _, #{node := N}} = scene(["-kernel", "net_ticktime", "4"], ["--net-ticktime", "4"]),
    spawn_link(fun() -> say_alive([Vm, N]) end),
    Scene.

say_alive(Nodes) ->
    [erlang:send({nobody, N}, alive, [noconnect, nosuspend]) || N <- Nodes],
    receive after 300 -> say_alive(Nodes) end.

attached(Vm, N) ->
    live:eventually(fun() ->
        case rpc:call(Vm, py, nodes, []) of
            Nodes when is_list(Nodes) -> lists:member(N, Nodes);
            Failed -> Failed
        end
    end).

py(N, Function, Args) ->
    case rpc:call(N, storm, Function, Args, live:ms(45000)) of
        {badrpc, Why} -> error({Function, [{why, Why}]});
        Value -> Value
    end.

%% The end of a storm: no thread hangs, no answer was another's, and all errors are Erlang's.
check(N) ->
    {Hang, Values, Errors, Wrong} = py(N, 'end', []),
    live:note("~b values, ~0tp", [Values, Errors]),
    ?assertEqual({0, []}, {Hang, Wrong}),
    ?assertEqual([], [E || E = {{Kind, _}, _} <- Errors, Kind =/= <<"ErlangError">>]),
    Values.

threads(Vm) ->
    [T || T <- rpc:call(Vm, erlang, nodes, [hidden]), string:find(atom_to_list(T), "-thread-") =/= nomatch].

handlers(Vm) ->
    [Pid || {_, Pid, _, _} <- rpc:call(Vm, supervisor, which_children, [py_handler_sup])].

%%% ------------------------------------------------------------------ the VM dies

vm_killed() ->
    {Vm, Proc, #{node := N}} = scene(),
    py(N, 'begin', [?THREADS]),
    Last = lists:foldl(fun(_, P) ->
        py(N, settled, []),
        live:kill(P),
        py(N, failed, []),
        New = start(atom_to_list(Vm)),
        py(N, settled, []),
        New
    end, Proc, [1, 2]),
    ?assert(check(N) >= 4 * ?THREADS),
    live:kill(Last).

vm_killed_fresh() ->
    {Vm, Proc, #{node := N}} = scene(),
    py(N, 'begin', [16, {'$kwargs', #{fresh => true}}]),
    Last = lists:foldl(fun(_, P) ->
        py(N, settled, [30, 3]),
        live:kill(P),
        New = start(atom_to_list(Vm)),
        py(N, settled, []),
        New
    end, Proc, [1, 2]),
    check(N),
    live:kill(Last).

vm_stopped() ->
    {Vm, Proc, Node = #{node := N}} = ticking_scene(),
    py(N, 'begin', [?THREADS]),
    py(N, settled, []),
    live:signal(Proc, "STOP"),
    live:wait_line(Node, "channel .*heartbeat missed"),
    py(N, failed, []),
    live:signal(Proc, "CONT"),
    attached(Vm, N),
    py(N, settled, []),
    check(N).

%%% ------------------------------------------------------------------ processes die

idle_handlers() ->
    {Vm, _, #{node := N}} = scene(),
    [begin
         py(N, idle_threads, [8]),
         Handlers = handlers(Vm),
         [exit(H, kill) || H <- Handlers],
         live:eventually(fun() -> handlers(Vm) =:= [] end),
         receive after live:ms(200) -> ok end, % what tells of their end is on its way: a call sent meanwhile is lost
         Got = py(N, resume, []),
         [?assertMatch({_, {<<"ok">>, _}}, G) || G <- Got],
         ?assertEqual([], [Old || {Old, {_, New}} <- Got, lists:member(New, Handlers)])
     end || _ <- [1, 2]].

busy_handlers() ->
    {Vm, _, #{node := N}} = scene(),
    py(N, 'begin', [?THREADS]),
    [begin
         py(N, settled, []),
         [exit(H, kill) || H <- handlers(Vm)]
     end || _ <- lists:seq(1, 10)],
    py(N, settled, []),
    check(N),
    py(N, 'begin', [8, never]),
    live:eventually(fun() -> rpc:call(Vm, ?MODULE, sweep, [8]) end), % all are in the function
    py(N, failed, []),
    rpc:call(Vm, py, register_function, [never, fun([X]) -> X end]),
    live:eventually(fun() -> rpc:call(Vm, ?MODULE, kill_stuck, []) =:= 0 end),
    py(N, settled, []),
    check(N).

never(_) ->
    receive after infinity -> ok end.

%% Kills whatever runs never/1, handlers and others: how many.
kill_stuck() ->
    length([exit(Pid, kill) || Pid <- processes(), process_info(Pid, current_function) =:= {current_function, {?MODULE, never, 1}}]).

%% Kills the handlers if so many are in a function: whether they were.
sweep(Count) ->
    Busy = [Pid || {_, Pid, _, _} <- supervisor:which_children(py_handler_sup),
                   process_info(Pid, current_function) =/= {current_function, {py_handler, loop, 2}}],
    length(Busy) =:= Count andalso [exit(Pid, kill) || Pid <- Busy] =/= [].

coordinator() ->
    {Vm, _, #{node := N}} = scene(),
    py(N, 'begin', [16, {'$kwargs', #{fresh => true}}]),
    [begin
         py(N, settled, []),
         Pid = rpc:call(Vm, erlang, whereis, [py_coordinator]),
         exit(Pid, kill),
         [exit(H, kill) || H <- handlers(Vm)], % so that it is asked for others
         live:eventually(fun() -> New = rpc:call(Vm, erlang, whereis, [py_coordinator]), is_pid(New) andalso New =/= Pid end),
         py(N, settled, [])
     end || _ <- [1, 2, 3]], % as often as its supervisor bears it
    check(N),
    attached(Vm, N).

%%% ------------------------------------------------------------------ connections die

cut() ->
    {Vm, _, #{node := N}} = scene(),
    py(N, 'begin', [16, tag, 1000000]),
    py(N, settled, []),
    [begin
         Cut = threads(Vm),
         [rpc:call(Vm, erlang, disconnect_node, [T]) || T <- Cut],
         py(N, settled, [])
     end || _ <- lists:seq(1, 5)],
    [begin
         [rpc:call(Vm, erlang, disconnect_node, [T]) || T <- [N | threads(Vm)]],
         py(N, settled, [])
     end || _ <- [1, 2]],
    check(N).

ticks() ->
    {Vm, _, Node = #{node := N}} = ticking_scene(),
    py(N, idle_threads, [4]),
    Idle = lists:sort(threads(Vm)),
    Computing = rpc:async_call(N, storm, compute, [3, 7]),
    live:eventually(fun() -> length(threads(Vm)) =:= 7 end),
    {_, M} = spawn_monitor(fun() -> exit({ended, rpc:call(N, storm, flood, [4, 7])}) end),
    Computed = rpc:yield(Computing),
    kept(Vm, Computed),
    {ended, Flooded} = receive {'DOWN', M, process, _, Why} -> Why end,
    ?assertEqual(4, length(Flooded)),
    kept(Vm, [{Handler, Outcome} || Outcome = {_, Handler} <- Flooded]),
    ?assertEqual([], Idle -- threads(Vm)),
    kept(Vm, py(N, resume, [])),
    ?assertEqual([], [L || L <- live:lines(Node), re:run(L, "heartbeat|closed", [{capture, none}]) =:= match]).

%% Each call was answered, and the handler that each thread had got before still lives, so its connection does.
kept(Vm, Got) ->
    ?assertEqual([], [Outcome || {_, Outcome} <- Got, element(1, Outcome) =/= <<"ok">>]),
    ?assertEqual([], [Handler || {Handler, _} <- Got] -- handlers(Vm)).

%% With an epmd of its own, so that this VM cannot reach the node: that is driven by gates.
epmd() ->
    {ok, Socket} = gen_tcp:listen(0, []),
    {ok, EpmdPort} = inet:port(Socket),
    gen_tcp:close(Socket),
    Env = [{"ERL_EPMD_PORT", integer_to_list(EpmdPort)}],
    Epmd = epmd(EpmdPort),
    Name = live:unique("app") ++ "@127.0.0.1",
    Vm = start(Name, [], Env),
    Gate = #{port := Port} = live:gate(),
    Code = "import callers, gate, storm, sys, time\nport = int(sys.argv[1])\n"
           "while callers.call_here('tag', 1)[0] != 'ok':\n    time.sleep(0.01)\n"
           "storm.begin(8)\nstorm.settled()\ngate.wait(port)\n"
           "storm.settled()\nprint(storm.end())\nstorm.begin(32, fresh=True)\nstorm.settled()\ngate.wait(port)\n"
           "storm.settled()\nprint(storm.end())\n",
    Node = live:pynode(#{args => ["--connect", Name], env => Env, program => ["-c", Code, integer_to_list(Port)]}),
    Gone = live:entered(Gate),
    live:kill(Epmd),
    live:wait_line(Node, "epmd: gone"),
    live:open(Gone),
    Back = live:entered(Gate),
    epmd(EpmdPort),
    live:wait_line(Node, "epmd: registered again"),
    live:open(Back),
    ?assertEqual(0, live:wait_exit(Node, 30000)),
    ?assertMatch({match, _}, re:run(live:stdout(Node), "^\\(0, [0-9]+, \\[\\], \\[\\]\\)\n\\(0, [0-9]+, \\[\\], \\[\\]\\)\n$")),
    live:kill(Vm).

epmd(Port) ->
    Command = os:getenv("EPMD") ++ " -port " ++ integer_to_list(Port),
    Epmd = live:os(os:getenv("EPMD"), ["-port", integer_to_list(Port)], #{merge => true}),
    live:eventually(fun() -> element(1, live:sh(Command ++ " -names")) =:= 0 end),
    Epmd.

%%% ------------------------------------------------------------------ the application stops

application_again() ->
    {Vm, _, #{node := N}} = scene(),
    py(N, 'begin', [?THREADS]),
    [begin
         py(N, settled, []),
         ok = rpc:call(Vm, application, stop, [pynode]),
         py(N, failed, []),
         ok = rpc:call(Vm, ?MODULE, vm, []),
         py(N, settled, [])
     end || _ <- [1, 2]],
    check(N),
    attached(Vm, N),
    ?assertEqual(length(threads(Vm)), length(handlers(Vm))).

application_stops() ->
    {Vm, _, #{node := N}} = scene(),
    py(N, 'begin', [8, never]),
    live:eventually(fun() -> length(handlers(Vm)) =:= 8 end),
    ok = rpc:call(Vm, application, stop, [pynode]),
    py(N, failed, []),
    {0, 0, Errors, []} = py(N, 'end', []),
    live:note("~0tp", [Errors]),
    ?assertEqual([<<"ErlangError">>], lists:usort([Kind || {{Kind, _}, _} <- Errors])).
