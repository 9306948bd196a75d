%% live_async - coroutines that call Erlang: on asyncio's loop and on uvloop, many at once, and all that can end them.
-module(live_async).

-export([setup/0, tests/1]).
-export([vm/1, never/1, task/3]). % for other VMs

-include_lib("stdlib/include/assert.hrl").

setup() ->
    start([#{}], all),
    [Kind || Kind <- py(loops, [])].

%% The application in this VM, with these nodes, and the functions that Python calls.
start(Specs, MayCall) ->
    Base = #{path => [live:py("")], workers => 2, program => os:getenv("PYNODE")},
    application:set_env(pynode, nodes, [maps:merge(Base, Spec) || Spec <- Specs]),
    application:set_env(pynode, python_may_call, MayCall),
    {ok, _} = application:ensure_all_started(pynode),
    functions().

functions() ->
    [ok = py:register_function(Name, Fun)
     || {Name, Fun} <- [{add_one, fun([X]) -> X + 1 end},
                        {double_it, fun([X]) -> X * 2 end},
                        {tag, fun([X]) -> X end},
                        {node, fun([]) -> node() end},
                        {improper, fun([]) -> improper() end},
                        {down, fun([Kind, N]) -> {ok, V} = py:call(asyncs, down, [Kind, N], #{}, infinity), V end},
                        {badarith, fun([]) -> 1 / length(py:nodes() -- py:nodes()) end},
                        {exits, fun([]) -> exit({shutdown, bye}) end},
                        {throws, fun([]) -> throw(ball) end}]],
    ok.

%% Other nodes, or another policy, for a while.
with(Specs, MayCall, Fun) ->
    ok = application:stop(pynode),
    start(Specs, MayCall),
    try Fun()
    after
        application:stop(pynode),
        start([#{}], all)
    end.

%% Each is tried with every loop that there is.
tests(Kinds) ->
    [{Name, fun() -> [Fun(Kind) || Kind <- Kinds] end} || {Name, Fun} <- each()]
        ++ [{skipped(Name, Kinds), fun() -> Fun(Kinds) end} || {Name, Fun} <- once()].

skipped("several threads" ++ _ = Name, Kinds) ->
    lists:member(<<"uvloop">>, Kinds) orelse live:note("there is no uvloop here: only asyncio's loop is tried", []),
    Name;
skipped(Name, _) ->
    Name.

each() ->
    [{"a gather of three", fun three/1},
     {"TaskGroup, wait, as_completed", fun group/1},
     {"a hundred one after another", fun chain/1},
     {"1000 at once, a hundred times: each has its own answer", fun thousand/1},
     {"50000 at once", fun many/1},
     {"code that catches everything sees nothing of calls that go well", fun caught/1},
     {"what fails in Erlang is an ErlangError with class, reason and stack", fun errors/1},
     {"arguments and answers without a form are that call's error", fun mixed/1},
     {"names, time limits and nodes that are none", fun bad_arguments/1},
     {"arguments and answers of 20 MB", fun big/1},
     {"Erlang and Python call each other 20 deep", fun deep/1},
     {"wait_for, a time limit, cancel() and close() kill the function and leave nothing", fun timed_out/1},
     {"calls that are cancelled at every moment: no other is touched", fun cancelled_early/1},
     {"a loop that is closed, or let go, kills what it has called", fun abandoned/1},
     {"a py:call that is cancelled ends, and so does what its loop waits for", fun cancelled_call/1},
     {"200 loops leave no descriptor", fun descriptors/1},
     {"node= names another VM, one without the application, none", fun nodes_by_name/1},
     {"a fork gets a clear error, and the call that is under way goes on", fun forks/1},
     {"the VM is killed under 1000 calls: all end, the loop goes on, and finds the VM that comes back", fun vm_killed/1},
     {"the application stops under 1000 calls: all end, and it is found again", fun application_stops/1},
     {"a script: Ctrl-C in asyncio.run ends the call", fun ctrl_c/1}].

once() ->
    [{"several threads with a loop each, at once", fun(_) -> threads() end},
     {"on the node's own loop, asyncio's or uvloop, beside others", fun node_loop/1},
     {"a task of the node's own loop that is cancelled: what it waits for is killed, and it can call again", fun(_) -> task_cancelled() end},
     {"a signal's handler that raises while answers are handed out ends the loop, and loses no other", fun(_) -> interrupted() end},
     {"python_may_call holds", fun(_) -> policies() end},
     {"calls go to the VM whose request is served, others to the first", fun(_) -> two_vms() end},
     {"a node does not load asyncio before somebody asks for it", fun(_) -> no_asyncio() end},
     {"nothing is left", fun(_) -> no_litter() end}].

%%% ------------------------------------------------------------------ what is there

py(Function, Args) ->
    py(Function, Args, #{}).

py(Function, Args, Options) ->
    {ok, Value} = py:call(asyncs, Function, Args, #{}, maps:merge(#{timeout => live:ms(50000)}, Options)),
    Value.

improper() -> [1 | 2].

%% The calls that run: each has a process, which py_node monitors, as it does who has waited for long.
running() ->
    [Pid || Node <- py_nodes(), Pid <- monitored(Node), process_info(Pid, initial_call) =:= {initial_call, {erlang, apply, 2}}].

py_nodes() ->
    [Pid || {_, Pid, _, _} <- supervisor:which_children(py_node_sup), is_pid(Pid)].

monitored(Pid) ->
    {monitors, Monitors} = process_info(Pid, monitors),
    [P || {process, P} <- Monitors, is_pid(P), node(P) =:= node()].

%% A function that never ends, and tells of each call; another one gives how many of them have begun.
never_ending() ->
    Self = self(),
    Begun = atomics:new(1, []),
    Never = fun(_) ->
        Self ! {never, self()},
        process_flag(trap_exit, true),
        atomics:add(Begun, 1, 1),
        receive after infinity -> ok end
    end,
    ok = py:register_function(never, Never),
    ok = py:register_function(begun, fun([]) -> atomics:get(Begun, 1) end).

%% So many of them have begun and are dead.
killed(N) ->
    [begin
         Pid = live:expect(10000, fun({never, P}) -> {ok, P} end),
         Monitor = erlang:monitor(process, Pid),
         live:expect(10000, fun({'DOWN', M, process, _, _}) when M =:= Monitor -> {ok, down} end)
     end || _ <- lists:seq(1, N)].

%%% ------------------------------------------------------------------ what users do

three(Kind) ->
    ?assertEqual([2, 8, [3, 2, 1]], py(three, [Kind])).

group(Kind) ->
    All = lists:seq(0, 49),
    ?assertEqual({All, All, All}, py(group, [Kind, 50])).

chain(Kind) ->
    ?assertEqual(100, py(chain, [Kind, 100])).

thousand(Kind) ->
    {Took, Result} = live:timed(fun() -> py(gathered, [Kind, 1000, 100]) end),
    live:note("~s: ~b calls a second", [Kind, round(1.0e8 / Took)]),
    ?assertEqual({0, 0}, Result).

many(Kind) ->
    {Took, Result} = live:timed(fun() -> py(gathered, [Kind, 50000]) end),
    live:note("~s: ~b calls a second", [Kind, round(5.0e7 / Took)]),
    ?assertEqual({0, 0}, Result),
    live:eventually(fun() -> running() =:= [] end).

threads() ->
    ?assertEqual([{<<"ok">>, {0, 0}} || _ <- lists:seq(1, 8)], py(in_threads, [8, 250, 20])).

node_loop(Kinds) ->
    [with([#{loop => binary_to_atom(Kind)}], all, fun() ->
         {Took, Result} = live:timed(fun() -> py(on_node_loop, [1000]) end),
         live:note("~s: ~b calls in ~b ms", [Kind, 3000, round(Took)]),
         ?assertEqual({0, {0, 0}, true}, Result)
     end) || Kind <- Kinds].

caught(Kind) ->
    ?assertEqual({true, []}, py(caught, [Kind, 200])).

errors(Kind) ->
    [Error, Exit, Throw, None, Undef] = py(errors, [Kind, [<<"badarith">>, <<"exits">>, <<"throws">>, <<"nobody">>, <<"lists:no_such">>]]),
    ?assertMatch({<<"ErlangError">>, <<"error">>, badarith, [{?MODULE, _, 1, [_ | _]} | _], <<"error:badarith">>}, Error),
    ?assertMatch({<<"ErlangError">>, <<"exit">>, {shutdown, bye}, [_ | _], <<"exit:", _/binary>>}, Exit),
    ?assertMatch({<<"ErlangError">>, <<"throw">>, ball, [_ | _], <<"throw:ball">>}, Throw),
    ?assertEqual({<<"ErlangError">>, <<"error">>, <<"Function 'nobody' not registered">>, [], <<"Function 'nobody' not registered">>}, None),
    ?assertMatch({<<"ErlangError">>, <<"error">>, _, _, _}, Undef).

mixed(Kind) ->
    Got = py(mixed, [Kind, 30]),
    [case I rem 3 of
         0 -> ?assertMatch({I, {<<"TypeError">>, <<"args", _/binary>>}}, {I, G});
         1 -> ?assertMatch({I, {<<"TypeError">>, <<"answer", _/binary>>}}, {I, G});
         2 -> ?assertEqual({I, {<<"ok">>, I}}, {I, G})
     end || {I, G} <- lists:enumerate(0, Got)].

bad_arguments(Kind) ->
    E = fun(Code) -> element(1, py(evaluated, [Kind, Code])) end,
    ?assertEqual({<<"TypeError">>, <<"async_call() wants the name of a function, a str, first">>}, py(evaluated, [Kind, <<"call(1)">>])),
    [?assertEqual({Code, Want}, {Code, E(Code)})
     || {Code, Want} <- [{<<"call()">>, <<"TypeError">>}, {<<"call(b'add_one', 1)">>, <<"TypeError">>},
                         {<<"call('add_one', 1, x=2)">>, <<"TypeError">>}, {<<"call('add_one', 1, timeout='soon')">>, <<"TypeError">>},
                         {<<"call('add_one', 1, timeout=-1)">>, <<"ValueError">>}, {<<"call('add_one', 1, timeout=float('nan'))">>, <<"ValueError">>},
                         {<<"call('\\ud800')">>, <<"UnicodeEncodeError">>}, {<<"call('tag', '\\ud800')">>, <<"ValueError">>},
                         {<<"call('tag', 1, node=1)">>, <<"TypeError">>}, {<<"call('tag', 1, node='a')">>, <<"ValueError">>},
                         {<<"call('timer:sleep', 1000, timeout=0)">>, <<"TimeoutError">>}]],
    [?assertEqual({T, {<<"ok">>, 2}}, {T, py(evaluated, [Kind, <<"call('add_one', 1, timeout=", T/binary, ")">>])})
     || T <- [<<"None">>, <<"1e300">>, <<"float('inf')">>, <<"60">>, <<"True * 60">>]],
    ?assertEqual({<<"ok">>, 2}, py(evaluated, [Kind, <<"call(erlang.Atom('add_one'), 1)">>])),
    ?assertEqual({<<"ok">>, [2, 1]}, py(evaluated, [Kind, <<"call('lists', 'reverse', [[1, 2]])">>])).

big(Kind) ->
    ?assertEqual([true, true], py(echo_big, [Kind, 2, 20 bsl 20])).

deep(Kind) ->
    ?assertEqual(20, py(down, [Kind, 20])).

interrupted() ->
    ?assertEqual({<<"KeyboardInterrupt">>, 2, [<<"ValueError(\"which is nobody's\")">>]}, py(interrupted, [100])).

policies() ->
    with([#{}], registered, fun() ->
        ?assertEqual({<<"ok">>, 2}, py(call, [<<"asyncio">>, <<"add_one">>, 1])),
        {<<"ErlangError">>, Text} = py(call, [<<"asyncio">>, <<"lists:reverse">>, [1]]),
        ?assertNotEqual(nomatch, string:find(Text, "not_allowed"))
    end).

no_asyncio() ->
    #{node := N} = live:pynode(#{args => ["--import", "erlang"]}),
    ?assertEqual(false, rpc:call(N, builtins, eval, [<<"'asyncio' in __import__('sys').modules">>])).

%%% ------------------------------------------------------------------ who gives up

timed_out(Kind) ->
    never_ending(),
    ?assertEqual({[<<"TimeoutError">>, <<"TimeoutError">>, <<"CancelledError">>, 0], 2}, py(timed_out, [Kind, <<"never">>])),
    killed(3), % the fourth may have been given up before its function began
    live:eventually(fun() -> running() =:= [] end),
    ?assertEqual([], [Pid || {never, Pid} <- live:flush(), is_process_alive(Pid)]).

cancelled_early(Kind) ->
    [?assertEqual({0, 0}, py(cancelled_early, [Kind, 300])) || _ <- lists:seq(1, 5)],
    live:eventually(fun() -> running() =:= [] end).

abandoned(Kind) ->
    %% A loop of uvloop that is not closed is never let go.
    [begin
         never_ending(),
         ?assertEqual(2, py(abandoned, [Kind, <<"never">>, 5, Close])),
         killed(5)
     end || Close <- [true, false], Close orelse Kind =:= <<"asyncio">>],
    live:eventually(fun() -> running() =:= [] end).

cancelled_call(Kind) ->
    never_ending(),
    Ref = py:spawn_call(asyncs, waits_for, [Kind, <<"never">>]),
    Pid = live:expect(10000, fun({never, P}) -> {ok, P} end),
    py:cancel(Ref),
    ?assertEqual({error, cancelled}, py:await(Ref, live:ms(10000))),
    Monitor = erlang:monitor(process, Pid),
    live:expect(10000, fun({'DOWN', M, process, _, _}) when M =:= Monitor -> {ok, down} end),
    ?assertEqual({ok, <<"cleaned up">>}, py:call(box, wait, [<<"waits_for">>])).

task_cancelled() ->
    never_ending(),
    [Node] = py:nodes(),
    Ref = begin_task(Node, task_waits, [<<"never">>]),
    Inside = [live:expect(10000, fun({never, P}) -> {ok, P} end) || _ <- [1, 2]],
    Monitors = [erlang:monitor(process, Pid) || Pid <- Inside],
    {pynode, Node} ! {cancel, Ref},
    [live:expect(10000, fun({'DOWN', M, process, _, _}) when M =:= Monitor -> {ok, down} end) || Monitor <- Monitors],
    ?assertEqual({ok, 2}, py:call(box, wait, [<<"task_waits">>])),
    erlang:demonitor(Ref, [flush]).

%% A connection of a thread that another case has left may go meanwhile.
descriptors(Kind) ->
    [First, Last] = py(descriptors, [Kind, 200]),
    ?assert(Last =< First).

%%% ------------------------------------------------------------------ which VM

%% In another VM: the application without nodes, attached to that one.
vm(Node) ->
    application:set_env(pynode, nodes, []),
    {ok, _} = application:ensure_all_started(pynode),
    [ok = py:connect(Node) || Node =/= none],
    [ok = py:register_function(Name, Fun)
     || {Name, Fun} <- [{node, fun([]) -> node() end}, {tag, fun([X]) -> X end}, {never, fun([X]) -> never(X) end}]],
    ok.

never(_) ->
    receive after infinity -> ok end.

nodes_by_name(Kind) ->
    [#{node := With, proc := Proc}, #{node := Without}] = live:peers(2),
    ok = rpc:call(With, ?MODULE, vm, [none]),
    Call = fun(N) -> py(call_node, [Kind, <<"node">>, atom_to_binary(N)]) end,
    ?assertEqual({<<"ok">>, With}, Call(With)),
    ?assertEqual({<<"ok">>, node()}, Call(node())),
    {<<"ErlangError">>, NotRunning} = Call(Without),
    ?assertNotEqual(nomatch, string:find(NotRunning, "pynode does not run at")),
    {<<"ErlangError">>, NoNode} = Call('nobody@127.0.0.1'),
    ?assertNotEqual(nomatch, string:find(NoNode, "nobody@127.0.0.1")),
    Never = iolist_to_binary(["call('never', 1, timeout=0.3, node='", atom_to_list(With), "')"]),
    ?assertEqual({<<"TimeoutError">>, <<"no answer from 'never' in time">>}, py(evaluated, [Kind, Never])),
    live:kill(Proc),
    {<<"ErlangError">>, _} = Call(With).

two_vms() ->
    #{node := N} = live:pynode(),
    [#{node := A}, #{node := B}] = live:peers(2),
    [ok = rpc:call(Vm, ?MODULE, vm, [N]) || Vm <- [A, B]],
    Own = fun(Vm) -> rpc:call(Vm, py, call, [asyncs, call, [<<"asyncio">>, <<"node">>]]) end,
    [?assertEqual({ok, {<<"ok">>, Vm}}, Own(Vm)) || _ <- lists:seq(1, 20), Vm <- [A, B]],
    ?assertEqual({<<"ok">>, A}, rpc:call(N, asyncs, call, [<<"asyncio">>, <<"node">>])),
    [?assertEqual({ok, lists:duplicate(4, Vm)}, rpc:call(Vm, ?MODULE, task, [N, task_nodes, []])) || _ <- lists:seq(1, 20), Vm <- [A, B]].

%% A task of a node's own loop: its result.
task(N, Function, Args) ->
    await(begin_task(N, Function, Args)).

begin_task(N, Function, Args) ->
    Ref = erlang:monitor(process, {pynode, N}, [{alias, reply_demonitor}]),
    {pynode, N} ! {call, Ref, asyncs, Function, Args, #{loop => true}},
    Ref.

await(Ref) ->
    receive
        {py_response, Ref, Result} -> Result;
        {'DOWN', Ref, process, _, Reason} -> {error, Reason}
    end.

%%% ------------------------------------------------------------------ what goes away

%% A VM of that name with the application, up.
start_vm(Name) ->
    Proc = live:os(os:getenv("ERL"), ["-noinput", "-start_epmd", "false", "-name", Name, "-pa", live:tmp("."),
                                      "-kernel", "prevent_overlapping_partitions", "false", "-kernel", "logger_level", "emergency",
                                      "-eval", atom_to_list(?MODULE) ++ ":vm(none), io:format(\"vm up~n\")"], #{merge => true}),
    live:wait_line(Proc, "^vm up"),
    Proc.

%% A node that is connected to a VM of its own, in which so many calls wait.
storm(Kind, Calls) ->
    Name = live:unique("app") ++ "@127.0.0.1",
    Vm = list_to_atom(Name),
    Proc = start_vm(Name),
    #{node := N} = live:pynode(#{args => ["--connect", Name]}),
    live:eventually(fun() -> rpc:call(Vm, py, nodes, []) =:= [N] end),
    none = rpc:call(N, asyncs, storm, [<<"storm">>, Kind, Calls]),
    live:eventually(fun() -> inside(Vm) =:= Calls orelse inside(Vm) end),
    {Vm, Proc, N}.

inside(Vm) ->
    length([P || P <- rpc:call(Vm, erlang, processes, []), rpc:call(Vm, erlang, process_info, [P, current_function]) =:= {current_function, {?MODULE, never, 1}}]).

box(N, What) ->
    rpc:call(N, box, wait, [<<"storm_", What/binary>>, 30], live:ms(40000)).

%% All have ended, and the loop is at work.
ended(N, Vm) ->
    Lost = iolist_to_binary(["the connection to ", atom_to_list(Vm), " was lost during the call"]),
    ?assertEqual(lists:sort([<<"ErlangError">>, Lost]), lists:sort(box(N, <<"ended">>))),
    Ticks = box(N, <<"ticks">>),
    live:eventually(fun() -> box(N, <<"ticks">>) > Ticks end).

vm_killed(Kind) ->
    {Vm, Proc, N} = storm(Kind, 1000),
    live:kill(Proc),
    live:within(5000, fun() -> ended(N, Vm) end),
    Again = start_vm(atom_to_list(Vm)),
    ?assertEqual({<<"ok">>, <<"back">>, 0}, box(N, <<"back">>)),
    live:kill(Again).

application_stops(Kind) ->
    {Vm, _, N} = storm(Kind, 1000),
    ok = rpc:call(Vm, application, stop, [pynode]),
    ended(N, Vm),
    ?assertEqual(0, inside(Vm)),
    ok = rpc:call(Vm, ?MODULE, vm, [N]),
    ?assertEqual({<<"ok">>, <<"back">>, 0}, box(N, <<"back">>)).

forks(Kind) ->
    Self = self(),
    ok = py:register_function(slow, fun([X]) -> Self ! {slow, self()}, receive go_on -> X + 1 end end),
    ok = py:register_function(go_on, fun([]) -> live_async_slow ! go_on, ok end),
    {Holder, Monitor} = spawn_monitor(fun() -> register(live_async_slow, self()), hold() end),
    Call = spawn_monitor(fun() -> exit({got, py(forked, [Kind])}) end),
    Holder ! {pid, live:expect(10000, fun({slow, P}) -> {ok, P} end)},
    {Text, Status, Value} = live:expect(20000, fun({'DOWN', M, process, _, {got, Got}}) when M =:= element(2, Call) -> {ok, Got} end),
    ?assertEqual({<<"(True, ('ErlangError', 'this process is a fork of the node: only the node itself can call Erlang'))">>, 0, 2},
                 {Text, Status, Value}),
    Holder ! stop,
    live:expect(5000, fun({'DOWN', M, process, _, normal}) when M =:= Monitor -> {ok, down} end).

%% Hands on, to whom it has been told of.
hold() ->
    receive {pid, Pid} -> receive go_on -> Pid ! go_on end end,
    receive stop -> ok end.

%% Which is KeyboardInterrupt when the task has been cancelled.
ctrl_c(Kind) ->
    never_ending(),
    Gate = #{port := Port} = live:gate(),
    Script = #{node := N} = live:pynode(#{args => ["--connect", atom_to_list(node())],
                                          program => ["-c", "import sys, gate, asyncs, erlang\ngate.wait(int(sys.argv[1]))\n"
                                                      "try:\n    asyncs.run('" ++ binary_to_list(Kind) ++ "', erlang.async_call('never'))\n"
                                                      "except KeyboardInterrupt:\n    print(asyncs.call('asyncio', 'add_one', 1), flush=True)\n",
                                                      integer_to_list(Port)]}),
    Door = live:entered(Gate),
    live:eventually(fun() -> lists:member(N, py:nodes()) end),
    live:open(Door),
    Pid = live:expect(10000, fun({never, P}) -> {ok, P} end),
    Monitor = erlang:monitor(process, Pid),
    live:signal(Script, "INT"),
    live:expect(10000, fun({'DOWN', M, process, _, _}) when M =:= Monitor -> {ok, down} end),
    ?assertEqual(0, live:wait_exit(Script)),
    ?assertEqual(<<"('ok', 2)\n">>, live:stdout(Script)).

%%% ------------------------------------------------------------------ the end

no_litter() ->
    live:eventually(fun() -> running() =:= [] end),
    [Node] = py:nodes(),
    live:eventually(fun() -> {ok, #{status := #{running := R, queued := Q}}} = py:info(Node), {R, Q} =:= {0, 0} orelse {R, Q} end),
    live:eventually(fun() -> [P || P <- [whereis(py_coordinator) | py_nodes()], process_info(P, message_queue_len) =/= {message_queue_len, 0}] =:= [] end).
