%% live_executor - erlang.cluster: functions of a Python node that run at others, and all that can become of them.
-module(live_executor).

-export([setup/0, tests/1]).
-export([vm/1]). % for other VMs

-include_lib("stdlib/include/assert.hrl").

setup() ->
    start(all),
    ok.

%% A node that calls, and two that work.
start(MayCall) ->
    Base = #{path => [live:py("")], program => os:getenv("PYNODE")},
    application:set_env(pynode, nodes, [Base#{name => caller, workers => 4},
                                        Base#{name => w, count => 2, workers => 2},
                                        Base#{name => narrow, workers => 1, max_workers => 1, queue_size => 2}]),
    application:set_env(pynode, python_may_call, MayCall),
    {ok, _} = application:ensure_all_started(pynode).

tests(ok) ->
    [{"submit and map, of functions and methods of builtin types, with keyword arguments", fun basics/0},
     {"both nodes have tasks", fun spread/0},
     {"10 000 tasks of a millisecond", fun many/0},
     {"10 000 short tasks travel in few requests", fun few_requests/0},
     {"values go as terms, and what has no form is a TypeError that says where", fun forms/0},
     {"pickle=True takes what can be pickled", fun pickled/0},
     {"ship=True takes functions that have no name", fun shipped/0},
     {"what nodes cannot import is a TypeError that names it", fun names/0},
     {"builtin exceptions come as they were, others as RemoteError, both with their traceback", fun raised/0},
     {"a task of a map that fails is raised in its place, and the rest is cancelled", fun in_place/0},
     {"time limits of the executor, of map and of result", fun timed_out/0},
     {"cancel() ends a task that runs", fun cancels/0},
     {"tasks that are cancelled as soon as they are there", fun cancels_at_once/0},
     {"tasks that are cancelled before the executor's thread has seen to them leave room for others", fun cancels_unseen/0},
     {"options that are wrong", fun bad_options/0},
     {"a node that is full is Overloaded", fun overloads/0},
     {"kill -9 of a node in the middle of a map is NodeDown, and the next map goes well", fun killed/0},
     {"the VM is killed under a map: NodeDown, and another one will do", fun vm_killed/0},
     {"the application stops under a map, and is found again", fun application_stops/0},
     {"a fork cannot, and the tasks of its parent go on", fun forked/0},
     {"pools: labels, keys, and what there is not", fun pools/0},
     {"a map of idempotent tasks survives the loss of a pool's nodes", fun pool_loses_nodes/0},
     {"a task that takes its nodes with it is Poison", fun pool_poison/0},
     {"a pool that has no room is Overloaded, and tasks that wait for a place are cancelled", fun pool_is_full/0},
     {"8 threads share an executor", fun threads/0},
     {"coroutines of asyncio and uvloop", fun coroutines/0},
     {"a coroutine that is cancelled cancels its task", fun coroutine_cancelled/0},
     {"tasks that use the nodes themselves", fun nested/0},
     {"a call that is cancelled while it waits for tasks hears of it, and they are cancelled", fun call_cancelled/0},
     {"shutdown waits, or cancels what was not sent", fun shut/0},
     {"one thread for all of it", fun one_thread/0},
     {"a bar on a terminal", fun progress/0},
     {"an object travels once to each node, and is forgotten when its handle is released", fun objects/0},
     {"the object that was used last stays when a node has too many", fun limit/0},
     {"a handle that nobody has any more, and one that only a task has", fun dropped/0},
     {"objects go with the node that has put them", fun putter_gone/0},
     {"py_remote is killed: tasks go on, and objects are gone", fun py_remote_killed/0},
     {"more objects than there is room for are refused", fun no_room/0},
     {"nodes()", fun nodes_there/0},
     {"monitor_node: one message when the node goes, none after False", fun monitored/0},
     {"python_may_call leaves what this needs, and nothing more", fun policy/0},
     {"the errors can be pickled", fun() -> ?assertEqual([true, true, true], py(errors_pickle, [])) end},
     {"nothing is left", fun no_litter/0}].

py(Function, Args) ->
    {ok, Value} = py:call(executors, Function, Args, #{}, #{node => caller, timeout => live:ms(55000)}),
    Value.

%% The same without waiting.
begin_py(Function, Args) ->
    py:spawn_call(executors, Function, Args, #{}, #{node => caller}).

await(Ref) ->
    {ok, Value} = py:await(Ref, live:ms(40000)),
    Value.

workers() ->
    [Node || Node <- py:nodes(), lists:prefix("w", atom_to_list(Node))].

at(Node, Module, Function, Args) ->
    {ok, Value} = py:call(Module, Function, Args, #{}, #{node => Node}),
    Value.

%% Waits until a task has noted that in its node's box: the node.
noted(Key) ->
    live:eventually(fun() -> boxes(Key) =/= [] end),
    [Name | _] = boxes(Key),
    Name.

boxes(Key) ->
    [Name || Node <- workers(), Name <- [at(Node, box, get, [Key])], Name =/= none].

%% Nobody works on anything: the nodes themselves are asked, for what is known of them here is up to a second old.
idle() ->
    live:eventually(fun() ->
        Busy = [{Node, R, Q} || Node <- workers(), {ok, #{running := R, queued := Q}} <- [py:call(pynode, status, [], #{}, #{node => Node})],
                                {R, Q} =/= {0, 0}],
        Busy =:= [] orelse Busy
    end).

%%% ------------------------------------------------------------------ what users do

basics() ->
    {Values, Pow, None, Squares} = py(basics, []),
    ?assertEqual([49, {1, #{<<"b">> => 2}}, 3, <<"ABC">>, true, false, false], Values),
    ?assertEqual([16, 243], Pow),
    ?assertEqual([], None),
    ?assertEqual([X * X || X <- lists:seq(0, 499)], Squares).

spread() ->
    ?assertEqual(lists:sort([atom_to_binary(Node) || Node <- workers()]), py(spread, [])).

many() ->
    {true, Seconds} = py(many, [10000, 0.001]),
    live:note("~.2f s", [Seconds]).

few_requests() ->
    Count = fun() -> lists:sum([N || Node <- workers(), {ok, #{calls := N}} <- [py:stats(Node)]]) end,
    Before = Count(),
    ?assertEqual(true, py(squares, [10000])),
    After = Count(),
    live:note("~b requests", [After - Before]),
    ?assert(After - Before < 1000).

forms() ->
    {Same, Kinds, {Args, Kwargs}, Map, Back} = py(forms, []),
    ?assertEqual([true, true, true, true, true, false, true, true], Same), % a set is a list
    ?assertEqual([<<"bytes">>, <<"str">>, <<"list">>, <<"dict">>, <<"Atom">>, <<"list">>, <<"bytes">>, <<"int">>], Kinds),
    ?assertEqual({<<"TypeError">>, <<"args[0][1]: cannot convert object to an Erlang term">>}, Args),
    ?assertEqual({<<"TypeError">>, <<"kwargs['a']: cannot convert object to an Erlang term">>}, Kwargs),
    ?assertEqual({<<"TypeError">>, <<"args[0]: cannot convert object to an Erlang term">>}, Map),
    ?assertEqual({<<"TypeError">>, <<"result: cannot convert object to an Erlang term">>}, Back).

pickled() ->
    {Kinds, Equal, {Type, Text}} = py(pickled, []),
    ?assertEqual([<<"set">>, <<"complex">>, <<"Custom">>, <<"bytes">>, <<"range">>, <<"float">>], Kinds),
    ?assert(Equal),
    ?assertEqual(<<"TypeError">>, Type),
    ?assertMatch({_, _}, binary:match(Text, <<"the arguments cannot be pickled: ">>)).

shipped() ->
    NoPackage = {<<"ImportError">>, <<"ship=True needs the package cloudpickle (Debian: python3-cloudpickle) on all nodes">>},
    ?assertEqual(NoPackage, py(without_cloudpickle, [])),
    case py(shipped, []) of
        NoPackage -> live:note("there is no cloudpickle here", []);
        Shipped -> ?assertEqual({[10, 11, 12], 6}, Shipped)
    end.

names() ->
    All = [Lambda, Local, Main, Gone, Partial, Bound, Map] = py(names, []),
    [?assertMatch({<<"TypeError">>, _}, Each) || Each <- All],
    Says = fun({_, Text}, Words) -> [?assertMatch({Word, {_, _}}, {Word, binary:match(Text, Word)}) || Word <- [<<"ship=True">> | Words]] end,
    Says(Lambda, [<<"executors.names.<locals>.<lambda>">>, <<"a lambda">>]),
    Says(Local, [<<"executors.names.<locals>.local">>, <<"a local function">>]),
    Says(Main, [<<"__main__.f">>, <<"a function of __main__">>]),
    Says(Gone, [<<"is not what pooled.square is">>]),
    Says(Partial, [<<"functools.partial(">>]),
    Says(Bound, [<<"read">>]),
    Says(Map, [<<"a lambda">>]).

%%% ------------------------------------------------------------------ failures

raised() ->
    {Got, Missing} = py(raised, []),
    ?assertEqual([{<<"ValueError">>, [<<"a">>, <<"1">>], true},
                  {<<"KeyError">>, [<<"no such key">>], true},
                  {<<"FileNotFoundError">>, [<<"2">>, <<"No such file or directory">>], true},
                  {<<"UnicodeDecodeError">>, [<<"ascii">>, <<"b'\\xc3\\xa9'">>, <<"0">>, <<"1">>, <<"ordinal not in range(128)">>], true},
                  {<<"RemoteError">>, [<<"builtins.StopIteration">>, <<"7">>], true},
                  {<<"RemoteError">>, [<<"builtins.SystemExit">>, <<"3">>], true},
                  {<<"RemoteError">>, [<<"pooled.Custom">>, <<"of mine">>], true}], Got),
    ?assertEqual(<<"TypeError">>, Missing).

in_place() ->
    Count = fun() -> lists:sum([at(Node, pooled, calls, []) || Node <- workers()]) end,
    Before = Count(),
    ?assertEqual({true, <<"bad 5">>}, py(in_place, [5, 3000])),
    idle(),
    Run = Count() - Before,
    live:note("~b of 3000 tasks have run", [Run]),
    ?assert(Run < 1500).

timed_out() ->
    ?assertEqual({[<<"TimeoutError">>, true, true], <<"TimeoutError">>, <<"TimeoutError">>, false, true}, py(timed_out, [])),
    [noted(<<"cancelled ", Key/binary>>) || Key <- [<<"late">>, <<"map">>, <<"waiting">>]],
    idle().

cancels() ->
    Ref = begin_py(cancels, [<<"one">>]),
    Node = noted(<<"begun one">>),
    at(caller, box, put, [<<"go one">>, true]),
    ?assertEqual({[true, true, true, true, <<"CancelledError">>], 1, [true]}, await(Ref)),
    ?assertEqual(Node, noted(<<"cancelled one">>)),
    idle().

cancels_at_once() ->
    ?assertEqual({true, 9}, py(cancels_at_once, [100])),
    idle().

cancels_unseen() ->
    ?assertEqual(9, py(cancels_unseen, [200])),
    idle().

bad_options() ->
    ?assertEqual({{<<"NodeDown">>, <<"erlang">>, <<"not_started">>}, <<"ValueError">>, <<"ValueError">>, <<"TypeError">>, <<"ValueError">>},
                 py(bad_options, [])).

overloads() ->
    {Refused, Others} = py(overloads, [20]),
    live:note("~b of 20 refused", [Refused]),
    ?assert(Refused > 0 andalso Refused < 20),
    ?assertEqual([], Others).

%% Its tasks stay there until then: else it may have none in the moment when it is killed, while the one that sends
%% them is held up.
killed() ->
    [Node | _] = workers(),
    OsPid = at(Node, pooled, os_pid, []),
    Before = at(Node, '_erlang', node, []),
    Ref = begin_py(killed, [20000, atom_to_binary(Node)]),
    live:eventually(fun() -> at(Node, box, get, [<<"begun stays">>]) =/= none end),
    live:os_signal(OsPid, "KILL"),
    {Type, Name, Progress} = await(Ref),
    ?assertEqual({<<"NodeDown">>, Before}, {Type, Name}),
    ?assert(lists:member(Progress, [<<"started">>, <<"unknown">>, <<"not_started">>])),
    live:note("the outcome was ~s", [Progress]),
    live:eventually(fun() -> length(workers()) =:= 2 end),
    ?assertEqual(true, py(squares, [1000])),
    idle().

%% In another VM: the application without nodes, attached to that one.
vm(Node) ->
    application:set_env(pynode, nodes, []),
    {ok, _} = application:ensure_all_started(pynode),
    ok = py:connect(Node).

%% The function is called from here, so that it is no call of that VM's, which would end with it.
vm_gone(End) ->
    #{node := N} = live:pynode(),
    #{node := Vm} = Peer = live:peer(),
    ok = rpc:call(Vm, ?MODULE, vm, [N]),
    Call = erpc:send_request(N, executors, vm_goes, []),
    _ = rpc:call(N, box, wait, [<<"begun vm">>]),
    End(Peer),
    {{Type, Text}, {Next, _}} = erpc:receive_response(Call, live:ms(20000)),
    ?assertEqual({<<"NodeDown">>, <<"NodeDown">>}, {Type, Next}),
    ?assertEqual(iolist_to_binary([atom_to_list(Vm), " went down: unknown"]), Text),
    {N, Vm}.

vm_killed() ->
    {N, _} = vm_gone(fun live:kill/1),
    #{node := Other} = live:peer(),
    ok = rpc:call(Other, ?MODULE, vm, [N]),
    ?assertEqual(true, rpc:call(N, executors, squares_here, [100])).

application_stops() ->
    {N, Vm} = vm_gone(fun(#{node := Vm}) -> ok = rpc:call(Vm, application, stop, [pynode]) end),
    ok = rpc:call(Vm, ?MODULE, vm, [N]),
    ?assertEqual(true, rpc:call(N, executors, squares_here, [100])).

forked() ->
    Fork = "('ErlangError', 'this process is a fork of the node: only the node itself can call Erlang')",
    {Text, Status, Slept, Sum} = py(forked, []),
    ?assertEqual({0, none, 3}, {Status, Slept, Sum}),
    {match, Begin} = re:run(Text, "ErlangError|NodeDown", [global]),
    ?assertEqual({Text, 3}, {Text, length(Begin)}),
    ?assertMatch({_, _}, binary:match(Text, list_to_binary(Fork))).

%%% ------------------------------------------------------------------ pools

with_pool(Fun) ->
    Spec = #{path => [live:py("")], program => os:getenv("PYNODE"), workers => 1, max_workers => 1,
             restart => #{intensity => 1000}},
    ok = py:pool_start(ml, #{nodes => [Spec#{labels => #{odd => true}}, Spec]}),
    try Fun()
    after
        ok = py:pool_stop(ml)
    end.

pool_nodes() ->
    {ok, #{nodes := Nodes}} = py:pool_info(ml),
    lists:sort([Node || #{node := Node} <- Nodes]).

pools() ->
    with_pool(fun() ->
        Names = [atom_to_binary(Node) || Node <- pool_nodes()],
        [All, Odd, Key | Errors] = py(pooled_tasks, [<<"ml">>]),
        ?assertEqual(Names, All),
        ?assertMatch([_], Odd),
        ?assertMatch([_], Key),
        ?assertEqual([], (Odd ++ Key) -- Names ++ Names),
        ?assertEqual([<<"NodeDown">>, <<"ValueError">>, <<"ValueError">>, <<"ValueError">>], Errors)
    end).

pool_loses_nodes() ->
    with_pool(fun() ->
        Ref = begin_py(pool_loses_nodes, [<<"ml">>, 1000]),
        [begin
             OsPid = at(Node, os, getpid, []),
             live:eventually(fun() -> {ok, #{status := #{running := R}}} = py:info(Node), R > 0 end),
             live:os_signal(OsPid, "KILL")
         end || Node <- pool_nodes()],
        ?assertEqual(true, await(Ref))
    end).

pool_poison() ->
    with_pool(fun() -> ?assertEqual(<<"Poison">>, py(pool_poison, [<<"ml">>])) end).

pool_is_full() ->
    with_pool(fun() ->
        ?assertEqual({<<"Overloaded">>, true, 16}, py(pool_is_full, [<<"ml">>, 30])),
        {ok, #{waiting := Waiting}} = py:pool_info(ml),
        ?assertEqual(0, Waiting)
    end).

%%% ------------------------------------------------------------------ who uses it

threads() ->
    ?assertEqual([{<<"ok">>, true} || _ <- lists:seq(1, 8)], py(threads, [8, 300])).

kinds() ->
    at(caller, asyncs, loops, []).

coroutines() ->
    [begin
         ?assertEqual({true, true, 5, 3}, py(coroutines, [Kind, 200])),
         ?assertEqual({[0, 1, 2, <<"bad 3">>], <<"TimeoutError">>}, py(coroutine_errors, [Kind]))
     end || Kind <- kinds()],
    idle().

coroutine_cancelled() ->
    [begin
         Key = <<"coroutine ", Kind/binary>>,
         Ref = begin_py(coroutine_cancelled, [Kind, Key]),
         Node = noted(<<"begun ", Key/binary>>),
         at(caller, box, put, [<<"go ", Key/binary>>, true]),
         ?assertEqual(<<"CancelledError">>, await(Ref)),
         ?assertEqual(Node, noted(<<"cancelled ", Key/binary>>))
     end || Kind <- kinds()],
    idle().

nested() ->
    ?assertEqual([lists:sum([X * X || X <- lists:seq(0, 49)]) || _ <- lists:seq(1, 8)], py(nested, [50])).

call_cancelled() ->
    Ref = py:spawn_call(executors, many, [100000, 0.01], #{}, #{node => caller}),
    [Node | _] = workers(),
    live:eventually(fun() -> {ok, #{status := #{running := R}}} = py:info(Node), R > 0 end),
    py:cancel(Ref),
    ?assertEqual({error, cancelled}, py:await(Ref, live:ms(10000))),
    idle(),
    Inside = py:spawn_call(executors, waits_inside, [<<"inside">>], #{}, #{node => caller}),
    [noted(Key) || Key <- [<<"begun inside">>, <<"begun inside of a map">>]],
    py:cancel(Inside),
    ?assertEqual({error, cancelled}, py:await(Inside, live:ms(10000))),
    [noted(Key) || Key <- [<<"cancelled inside">>, <<"cancelled inside of a map">>]],
    [begin
         Key = <<"inside ", Kind/binary>>,
         Waits = begin_py(waits_inside_async, [Kind, Key]),
         noted(<<"begun ", Key/binary>>),
         at(caller, box, put, [<<"go ", Key/binary>>, true]),
         ?assertEqual(<<"CancelledError">>, await(Waits)),
         noted(<<"cancelled ", Key/binary>>)
     end || Kind <- kinds()],
    idle().

shut() ->
    Gate = #{port := Port} = live:gate(),
    Ref = begin_py(shut, [Port]),
    Door = live:entered(Gate),
    ?assert(at(caller, box, wait, [<<"unsent">>]) > 100),
    at(caller, box, put, [<<"go shut">>, true]),
    live:open(Door),
    Closed = {<<"RuntimeError">>, <<"cannot schedule new futures after shutdown">>},
    ?assertEqual({{Closed, Closed}, true, true, <<"CancelledError">>, <<"through">>}, await(Ref)),
    idle().

one_thread() ->
    ?assertEqual(1, py(threads_of_it, [])).

progress() ->
    ?assertEqual([3, 1, 1, 1, <<"closed">>], py(progress, [3])).

%%% ------------------------------------------------------------------ objects

kept() ->
    ets:info(py_remote, size).

%% {how many this node keeps, how many it has fetched so far}
fetched(Node) ->
    {Kept, _, Fetched} = at(Node, pooled, objects, []),
    {Kept, Fetched}.

objects() ->
    Before = [{Node, element(2, fetched(Node))} || Node <- workers()],
    _ = py(put, [<<"big">>, 2000000]), % of more than one piece
    ?assert(kept() > 1),
    Sum = lists:sum(lists:seq(0, 1999999)),
    ?assertEqual({[Sum], 1 + 2 * Sum, <<"TypeError">>, 2000000}, py(use, [<<"big">>, 40])),
    [?assertEqual({Node, {1, N + 1}}, {Node, fetched(Node)}) || {Node, N} <- Before],
    {<<"LookupError">>, Text} = py(release, [<<"big">>]),
    ?assertMatch({_, _}, binary:match(Text, <<"has been released">>)),
    live:eventually(fun() -> kept() =:= 0 end),
    live:eventually(fun() -> [fetched(Node) || Node <- workers()] =:= [{0, N + 1} || {_, N} <- Before] end).

limit() ->
    Workers = workers(),
    [at(Node, pooled, limit_objects, [1500]) || Node <- Workers],
    [py(put, [Name, 300]) || Name <- [<<"a">>, <<"b">>, <<"c">>]],
    [py(use, [Name, 10]) || Name <- [<<"a">>, <<"b">>, <<"c">>]],
    [begin
         {Kept, Bytes, _} = at(Node, pooled, objects, []),
         ?assert(Kept < 3 andalso Bytes =< 1500)
     end || Node <- Workers],
    ?assertMatch({[44850], _, _, 300}, py(use, [<<"a">>, 10])), % fetched anew
    [at(Node, pooled, limit_objects, [1 bsl 30]) || Node <- Workers],
    [py(drop, [Name]) || Name <- [<<"a">>, <<"b">>, <<"c">>]],
    live:eventually(fun() -> kept() =:= 0 end).

dropped() ->
    _ = py(put, [<<"mine">>, 10]),
    ?assertEqual(1, kept()),
    py(drop, [<<"mine">>]),
    live:eventually(fun() -> kept() =:= 0 end),
    py(handles_die, [100]),
    live:eventually(fun() -> kept() =:= 0 end),
    Gate = #{port := Port} = live:gate(),
    Ref = begin_py(release_under_way, [Port, <<"x">>]),
    Doors = [live:entered(Gate) || _ <- [1, 2]],
    [live:open(Door) || Door <- Doors],
    ?assertEqual({6, [none, none]}, await(Ref)),
    live:eventually(fun() -> kept() =:= 0 end),
    live:eventually(fun() -> [Kept || Node <- workers(), {Kept, _} <- [fetched(Node)]] =:= [0, 0] end).

putter_gone() ->
    _ = py(put, [<<"gone">>, 1000]),
    _ = py(use, [<<"gone">>, 20]),
    ?assertEqual([1, 1], [Kept || Node <- workers(), {Kept, _} <- [fetched(Node)]]),
    Caller = hd([Node || Node <- py:nodes(), lists:prefix("caller", atom_to_list(Node))]),
    live:os_signal(at(caller, os, getpid, []), "KILL"),
    live:eventually(fun() -> kept() =:= 0 end),
    live:eventually(fun() -> [Kept || Node <- workers(), {Kept, _} <- [fetched(Node)]] =:= [0, 0] end),
    live:eventually(fun() -> lists:member(Caller, py:nodes()) end).

py_remote_killed() ->
    _ = py(put, [<<"lost">>, 1000]),
    Ref = begin_py(squares, [20000]),
    Server = whereis(py_remote),
    exit(Server, kill),
    live:eventually(fun() -> is_pid(whereis(py_remote)) andalso whereis(py_remote) =/= Server end),
    ?assertEqual(true, await(Ref)),
    {<<"LookupError">>, Text} = py(lost, [<<"lost">>]),
    ?assertMatch({_, _}, binary:match(Text, <<"is gone">>)),
    py(drop, [<<"lost">>]).

no_room() ->
    [Node | _] = py:nodes(),
    Name = atom_to_binary(Node),
    ?assertEqual(ok, py_remote:put(Name, <<"full">>, 0, <<"x">>)),
    sys:replace_state(py_remote, fun(S) -> setelement(4, S, 4294967295) end),
    ?assertEqual(ok, py_remote:put(Name, <<"full">>, 1, <<"y">>)),
    ?assertEqual({error, overloaded}, py_remote:put(Name, <<"full">>, 2, <<"z">>)),
    live:eventually(fun() -> kept() =:= 0 end), % its other pieces have gone, too
    sys:replace_state(py_remote, fun(S) -> setelement(4, S, 0) end),
    ?assertEqual({error, {node_down, <<"nobody@127.0.0.1">>, not_started}}, py_remote:put(<<"nobody@127.0.0.1">>, <<"k">>, 0, <<"x">>)).

%%% ------------------------------------------------------------------ Erlang nodes

nodes_there() ->
    #{node := Peer} = live:peer(),
    ?assertEqual(node(), hd(py(erlang_nodes, []))),
    ?assertEqual(lists:sort([node() | nodes()]), lists:sort(py(erlang_nodes, []))),
    ?assert(lists:member(Peer, py(erlang_nodes, []))).

monitored() ->
    [#{node := Peer, proc := Proc}, #{node := Other, proc := OtherProc}] = live:peers(2),
    Ref = begin_py(watches, [atom_to_binary(Peer), false]),
    Undone = begin_py(watches, [atom_to_binary(Other), true]),
    [live:eventually(fun() -> at(caller, box, get, [atom_to_binary(N)]) =:= <<"watching">> end) || N <- [Peer, Other]],
    ?assertEqual([Peer], watchers()),
    live:kill(Proc),
    live:kill(OtherProc),
    ?assertEqual({<<"ok">>, {nodedown, Peer}}, await(Ref)),
    ?assertEqual({<<"TimeoutError">>, <<"no message in time">>}, await(Undone)),
    ?assertEqual({<<"ok">>, {nodedown, 'nobody@127.0.0.1'}}, py(watches, [<<"nobody@127.0.0.1">>, false])),
    live:eventually(fun() -> watchers() =:= [] end),
    [Own | Names] = py(watches_wrong, []),
    ?assertMatch({<<"ValueError">>, _}, Own),
    ?assertMatch({_, _}, binary:match(element(2, Own), <<"erlang.monitor">>)),
    [?assertMatch({{<<"ValueError">>, _}, {_, _}}, {Each, binary:match(element(2, Each), <<"is not NAME@HOST">>)}) || Each <- Names].

%% The nodes that py_remote's processes watch.
watchers() ->
    S = sys:get_state(py_remote),
    [Node || {_, Node} <- maps:values(element(5, S))].

policy() ->
    ok = application:stop(pynode),
    start(registered),
    ?assertEqual(true, py(squares, [100])),
    ?assertEqual(node(), hd(py(erlang_nodes, []))),
    _ = py(put, [<<"p">>, 10]),
    ?assertMatch({[45], _, _, _}, py(use, [<<"p">>, 4])),
    py(drop, [<<"p">>]),
    [begin
         {Type, Text} = py(not_for_python, Call),
         ?assertEqual(<<"ErlangError">>, Type),
         ?assertMatch({_, _}, binary:match(Text, <<"not_allowed">>))
     end || Call <- [[<<"start_link">>], [<<"init">>, []], [<<"run">>, 1], [<<"for_python">>, a, b, 1]]],
    ok = application:stop(pynode),
    start(all).

%%% ------------------------------------------------------------------ the end

no_litter() ->
    idle(),
    live:eventually(fun() -> kept() =:= 0 end),
    ?assertEqual([], watchers()),
    ?assertEqual({message_queue_len, 0}, process_info(whereis(py_remote), message_queue_len)).
