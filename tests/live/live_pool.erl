%% live_pool - pools of Python nodes: where calls go, what is tried again, how nodes are replaced.
-module(live_pool).

-export([setup/0, tests/1]).
-export([start/1, many/3]). % for other VMs

-include_lib("stdlib/include/assert.hrl").

setup() ->
    start([]),
    ok = py:pool_start(ml, #{nodes => [spec(#{count => 2})]}),
    #{}.

%% The application in this VM, with nothing but these nodes.
start(Nodes) ->
    application:set_env(pynode, nodes, Nodes),
    {ok, _} = application:ensure_all_started(pynode),
    ok.

spec(Spec) ->
    maps:merge(#{path => [live:py("")], workers => 2, program => os:getenv("PYNODE"), restart => #{intensity => 1000, backoff_max => 200}}, Spec).

tests(Ctx) ->
    [{Name, fun() -> Fun(Ctx) end} || {Name, Fun} <- cases()].

cases() ->
    [{"calls of every kind go to the nodes of the pool", fun kinds/1},
     {"what is wrong with the options of a pool or of its calls is said", fun options/1},
     {"a pool is there once on a VM, and has gone when it was stopped", fun start_stop/1},
     {"equal tasks are spread evenly", fun even/1},
     {"a node is sent no more than its slots and a few; who comes then waits, and nobody waits in vain", fun bounded/1},
     {"a node whose calls were short and are long now is not sent more than its slots and a few", fun short_then_long/1},
     {"tasks of the event loop do not wait for calls, and calls do not for them", fun tasks_and_calls/1},
     {"a stream that is cancelled gives its place back at once", fun streams_cancelled/1},
     {"no room: overloaded at once, after queue_timeout, or when too many wait; the limit is the limit", fun no_room/1},
     {"one caller's calls that wait leave room for others", fun greedy/1},
     {"no node: who comes while others wait for one is told so, too", fun no_node/1},
     {"a key goes to one node, and strictly to no other", fun keys/1},
     {"a strict key whose node is replaced or drained: who waits for it goes to the next one", fun keys_go_on/1},
     {"a pool is stopped while many wait: all are told at once", fun stopped_waiting/1},
     {"callers that give up waiting leave nothing behind, also where there is never room", fun given_up/1},
     {"a queue is at one node of the pool, however loaded that is", fun queues/1},
     {"labels choose among the nodes, and among those of the whole cluster", fun labels/1},
     {"a node that no VM has started says its labels itself", fun own_labels/1},
     {"functions of a registered module go to the pool by themselves", fun routes/1},
     {"many items are spread over the nodes, in order, and each fails by itself", fun items/1},
     {"a caller that is killed: its call is cancelled, and its place is free", fun caller_killed/1},
     {"spawn_call into a pool: cancelled, given up, its owner killed", fun spawned/1},
     {"a node is killed: what has not started is tried elsewhere, what had is told", fun node_killed/1},
     {"idempotent calls survive the loss of nodes", fun idempotent/1},
     {"a task that takes its nodes with it is poison", fun poison/1},
     {"all nodes are gone for a moment: callers wait for them", fun all_killed/1},
     {"a rolling restart under load loses nothing", fun rolling/1},
     {"a node that is drained: its callers go elsewhere", fun drained/1},
     {"a node that leaves in peace: what reaches it too late has not started", fun too_late/1},
     {"a node is replaced after so many calls, so long a time, so much memory", fun recycled/1},
     {"more nodes and fewer while it runs", fun resized/1},
     {"more nodes or fewer, and the process of the pool is killed: it has as many as before", fun resized_killed/1},
     {"a pool that has been made empty is made larger again", fun resized_from_none/1},
     {"a new node that never gets ready: the old one stays", fun not_ready/1},
     {"a name is used again while the node that had it is still known: there is a node", fun name_again/1},
     {"the process of a pool is killed: its nodes live on, as many as before", fun pool_killed/1},
     {"the process of a pool is killed while the pool is stopped: that ends all the same", fun stopping_killed/1},
     {"the coordinator, while a node waits for its name, py_cluster and py_backlog are killed: calls go on", fun killed/1},
     {"py_backlog is killed when it has told a caller to wait, and is there again: that asks the next one", fun backlog_killed/1},
     {"another VM uses the pool, and adds to it; it goes, and its nodes with it", fun two_vms/1},
     {"a member of the cluster says what is not known here: it is passed over", fun unknown_words/1},
     {"a member of the cluster is suspended and comes back", fun suspended/1},
     {"VMs whose connection is lost find each other again, and call each other's nodes", fun parted/1},
     {"an executor in Python uses pools and labels", fun executor/1},
     {"pynodectl shows, pings, drains and restarts, and says what is wrong", fun ctl/1},
     {"the library telemetry hears of calls, nodes and load", fun telemetry/1},
     {"nothing is left in any mailbox or table", fun no_litter/1}].

%%% ------------------------------------------------------------------ tools

pool(Pool) -> #{pool => Pool}.

nodes_of(Pool) ->
    {ok, #{nodes := Nodes}} = py:pool_info(Pool),
    [Node || #{node := Node} <- Nodes].

in_flight(Pool) ->
    {ok, #{nodes := Nodes}} = py:pool_info(Pool),
    lists:sum([N || #{in_flight := N} <- Nodes]).

%% The pool has its two nodes, and both answer.
whole(Pool) ->
    live:eventually(fun() ->
        Nodes = nodes_of(Pool),
        length(Nodes) =:= 2 andalso
            lists:all(fun(Node) -> py:call(os, getpid, [], #{}, #{node => Node, timeout => 1000}) =:= {ok, os_pid(Node)} end, Nodes)
            orelse Nodes
    end).

has(Pool, Count) ->
    live:eventually(fun() -> Nodes = nodes_of(Pool), length(Nodes) =:= Count orelse Nodes end).

%% The pool has these many nodes for a while.
with(Pool, Options, Fun) ->
    ok = py:pool_start(Pool, Options),
    try Fun()
    after
        ok = py:pool_stop(Pool)
    end.

os_pid(Node) ->
    #{nodes := Nodes} = py:info(),
    case [Pid || #{node := N, info := #{os_pid := Pid}} <- Nodes, N =:= Node] of
        [Pid] -> Pid;
        [] -> none
    end.

kill_node(Node) ->
    live:os_signal(os_pid(Node), "KILL").

%% Kills it and waits until it is there again.
again(Pool, Node) ->
    Before = os_pid(Node),
    kill_node(Node),
    live:eventually(fun() ->
        Nodes = nodes_of(Pool),
        lists:member(Node, Nodes) andalso not lists:member(os_pid(Node), [Before, none]) orelse Nodes
    end).

name(Options) ->
    {ok, Name} = py:eval("__import__('erlang').self().node", #{}, Options),
    Name.

%% Calls by so many processes, so many each: their outcomes.
many(Callers, Count, Fun) ->
    lists:append(live:pmap(fun(C) -> [Fun({C, I}) || I <- lists:seq(1, Count)] end, lists:seq(1, Callers))).

%% Callers that go on until something has happened: their outcomes.
meanwhile(Callers, Call, Happens) ->
    Self = self(),
    Pids = [spawn_link(fun() -> Self ! {self(), until_told(Call, [])} end) || _ <- lists:seq(1, Callers)],
    Result = Happens(),
    [Pid ! stop || Pid <- Pids],
    {Result, lists:append([receive {Pid, Results} -> Results after live:ms(30000) -> error({no_answer, [{pid, Pid}]}) end
                           || Pid <- Pids])}.

until_told(Call, Results) ->
    receive stop -> Results
    after 0 -> until_told(Call, [Call() | Results])
    end.

%%% ------------------------------------------------------------------ calls

kinds(_) ->
    Root = fun(Options) -> py:call(math, sqrt, [4], #{}, Options) end,
    ?assertEqual({ok, 2.0}, Root(pool(ml))),
    ?assertEqual({ok, 2.0}, Root(#{pool => ml, timeout => infinity, traceback => true})),
    ?assertEqual({ok, 2.0}, py:await(py:spawn_call(math, sqrt, [4], #{}, pool(ml)))),
    ?assertEqual({ok, 2.0}, py_event_loop:await(py_event_loop:create_task(math, sqrt, [4], pool(ml)))),
    ?assertEqual({ok, 2.0}, py_event_loop:run(math, sqrt, [4], pool(ml))),
    ?assertEqual({ok, [{ok, 1.0}, {ok, 2.0}]}, py:map(math, sqrt, [[1], [4]], pool(ml))),
    ?assertEqual({ok, [{ok, 1.0}, {ok, 2.0}]}, py:async_gather([{math, sqrt, [1]}, {math, sqrt, [4]}], pool(ml))),
    ?assertEqual({ok, [0, 1, 2]}, py:stream(builtins, range, [3], #{}, pool(ml))),
    ?assertEqual({ok, 6}, py:eval("x + 1", #{x => 5}, pool(ml))),
    ?assertEqual(ok, py:cast(math, sqrt, [4], #{}, pool(ml))),
    ?assertMatch({error, {'ValueError', _}}, py:call(math, sqrt, [-1], #{}, pool(ml))),
    ?assertEqual({error, {node_down, default, not_started}}, py:call(math, sqrt, [4])), % which is for others
    ?assertEqual([cluster, ml], py:pools()),
    ?assertEqual(0, in_flight(ml)).

options(_) ->
    Call = fun(Options) -> py:call(math, sqrt, [4], #{}, Options) end,
    [?assertEqual({K, {error, {bad_option, K}}}, {K, Call(maps:put(K, V, pool(ml)))})
     || {K, V} <- [{labels, []}, {affinity, hard}, {idempotent, 1}, {retries, -1}, {queue_timeout, soon}, {node, 'a@b'},
                   {pool, "ml"}, {pools, ml}]],
    [?assertEqual({K, {error, {bad_option, K}}}, {K, Call(#{K => V})})
     || {K, V} <- [{affinity, soft}, {idempotent, true}, {key, 1}, {retries, 1}, {queue_timeout, 1}]],
    ?assertEqual({error, {bad_option, pool}}, Call(pool(nobody))),
    ?assertEqual({error, {bad_option, pool}}, py:await(py:spawn_call(math, sqrt, [4], #{}, pool(nobody)))),
    ?assertEqual({error, {bad_option, strategy}}, py:pool_start(x, #{strategy => best})),
    ?assertEqual({error, {bad_option, pool}}, py:pool_start(cluster, #{})),
    ?assertEqual({error, {bad_option, pool}}, py_options:app_env([{pools, #{cluster => #{nodes => 1}}}])),
    ?assertEqual({error, {bad_option, nodes}}, py:pool_resize(ml, -1)),
    ?assertEqual({error, no_pool}, py:pool_stop(nobody)).

start_stop(_) ->
    ?assertEqual({error, already_started}, py:pool_start(ml, #{})),
    with(other, #{nodes => [spec(#{})]}, fun() ->
        ?assertEqual(['other-live-1@127.0.0.1'], nodes_of(other)),
        ?assertEqual('other-live-1@127.0.0.1', name(pool(other)))
    end),
    ?assertEqual({error, no_pool}, py:pool_info(other)),
    ?assertEqual({error, {bad_option, pool}}, py:call(math, sqrt, [4], #{}, pool(other))),
    live:eventually(fun() -> [N || #{node := N = 'other-live-1@127.0.0.1'} <- py:cluster()] =:= [] end).

%% What runs where, looked at again and again.
even(_) ->
    Running = fun() -> {ok, #{nodes := Nodes}} = py:pool_info(ml), [{N, I} || #{node := N, in_flight := I} <- Nodes] end,
    {Seen, Results} = meanwhile(8, fun() -> py:call(time, sleep, [0.02], #{}, pool(ml)) end, fun() ->
        [begin receive after 10 -> ok end, Running() end || _ <- lists:seq(1, 100)]
    end),
    ?assertEqual([{ok, none}], lists:usort(Results)),
    Sums = [lists:sum([I || Now <- Seen, {Name, I} <- Now, Name =:= Node]) || Node <- nodes_of(ml)],
    live:note("max/mean running ~.2f", [lists:max(Sums) / (lists:sum(Sums) / 2)]),
    ?assert(lists:max(Sums) / (lists:sum(Sums) / 2) =< 1.2).

%%% ------------------------------------------------------------------ room

%% Two nodes of two workers, and four more each: so many get in, the others wait.
bounded(_) ->
    with(few, #{nodes => [spec(#{count => 2})]}, fun() ->
        Gate = #{port := Port} = live:gate(),
        Refs = [py:spawn_call(gate, wait, [Port, I], #{}, pool(few)) || I <- lists:seq(1, 30)],
        Doors = [live:entered(Gate) || _ <- lists:seq(1, 4)],
        live:eventually(fun() -> {ok, #{waiting := W}} = py:pool_info(few), W =:= 30 - in_flight(few) orelse W end),
        ?assert(in_flight(few) >= 12),
        [spawn_link(fun() -> live:open(live:entered(Gate)) end) || _ <- lists:seq(5, 30)],
        [live:open(Door) || Door <- Doors],
        ?assertEqual([{ok, I} || I <- lists:seq(1, 30)], [py:await(Ref) || Ref <- Refs]),
        ?assertEqual(0, in_flight(few)),
        ?assertMatch({ok, #{waiting := 0}}, py:pool_info(few))
    end).

short_then_long(_) ->
    with(moody, #{nodes => [spec(#{workers => 1, max_workers => 1})]}, fun() ->
        Limit = fun() -> {ok, #{nodes := [#{limit := L}]}} = py:pool_info(moody), L end,
        live:eventually(fun() -> many(20, 50, fun(_) -> {ok, 2.0} = py:call(math, sqrt, [4], #{}, pool(moody)) end), Limit() > 50 end),
        Gate = #{port := Port} = live:gate(),
        Held = py:spawn_call(gate, wait, [Port], #{}, pool(moody)),
        Door = live:entered(Gate),
        live:eventually(fun() -> Limit() =< 1 + 1 + 4 orelse Limit() end), % its slot, as much again while it is blocked, a few
        live:open(Door),
        ?assertEqual({ok, none}, py:await(Held))
    end).

tasks_and_calls(_) ->
    with(both, #{nodes => [spec(#{workers => 1, max_workers => 1})]}, fun() ->
        Task = fun() -> py_event_loop:run(math, sqrt, [4], (pool(both))#{timeout => 2000}) end,
        Call = fun() -> py:call(math, sqrt, [4], #{}, (pool(both))#{timeout => 2000}) end,
        Gate = #{port := Port} = live:gate(),
        Held = [py:spawn_call(gate, wait, [Port], #{}, pool(both)) || _ <- lists:seq(1, 10)],
        Door = live:entered(Gate),
        live:eventually(fun() -> {ok, #{waiting := W}} = py:pool_info(both), W > 0 orelse W end),
        ?assertEqual({ok, 2.0}, Task()),
        [spawn_link(fun() -> live:open(live:entered(Gate)) end) || _ <- tl(Held)],
        live:open(Door),
        ?assertEqual([{ok, none}], lists:usort([py:await(Ref) || Ref <- Held])),
        Tasks = [py_event_loop:create_task(asyncio, sleep, [3600], pool(both)) || _ <- lists:seq(1, 50)],
        live:eventually(fun() -> in_flight(both) =:= 50 orelse in_flight(both) end),
        ?assertEqual([{ok, 2.0}], lists:usort(many(10, 20, fun(_) -> Call() end))),
        [py_event_loop:cancel(Ref) || Ref <- Tasks],
        ?assertEqual([{error, cancelled}], lists:usort([py_event_loop:await(Ref) || Ref <- Tasks])),
        Streams = [py:stream_start(itertools, count, [], #{}, (pool(both))#{window => 1}) || _ <- lists:seq(1, 20)],
        live:eventually(fun() -> in_flight(both) =:= 20 orelse in_flight(both) end),
        ?assertEqual({ok, 2.0}, Call()),
        [py:stream_cancel(Ref) || Ref <- Streams],
        live:eventually(fun() -> in_flight(both) =:= 0 orelse in_flight(both) end)
    end).

streams_cancelled(_) ->
    [begin
         Ref = py:stream_start(itertools, count, [], #{}, (pool(ml))#{executor => Executor}),
         live:eventually(fun() -> in_flight(ml) =:= 1 orelse in_flight(ml) end),
         py:stream_cancel(Ref),
         ?assertEqual(0, in_flight(ml))
     end || Executor <- [false, true]].

%% One worker waits, and as many calls as the node takes then: one more for each worker that is blocked. The fun lets
%% them end.
filled(Pool) ->
    Gate = #{port := Port} = live:gate(),
    Hold = fun(I) -> py:spawn_call(gate, wait, [Port, I], #{}, pool(Pool)) end,
    First = [Hold(I) || I <- lists:seq(1, 5)],
    Door = live:entered(Gate),
    live:eventually(fun() -> {ok, #{nodes := [#{limit := Limit}]}} = py:pool_info(Pool), Limit =:= 6 orelse Limit end),
    Held = First ++ [Hold(6)],
    live:eventually(fun() -> in_flight(Pool) =:= 6 orelse in_flight(Pool) end),
    fun() ->
        [spawn_link(fun() -> live:open(live:entered(Gate)) end) || _ <- tl(Held)],
        live:open(Door),
        ?assertEqual([{ok, I} || I <- lists:seq(1, 6)], [py:await(Ref) || Ref <- Held])
    end.

no_room(_) ->
    with(one, #{nodes => [spec(#{workers => 1, max_workers => 1})], max_queue => 2}, fun() ->
        Open = filled(one),
        Call = fun(Options) -> timer:tc(fun() -> py:call(math, sqrt, [4], #{}, maps:merge(pool(one), Options)) end) end,
        ?assertMatch({T, {error, overloaded}} when T < 50000, Call(#{queue_timeout => 0})),
        ?assertMatch({T, {error, overloaded}} when T > 50000, Call(#{queue_timeout => 50})),
        ?assertMatch({T, {error, timeout}} when T > 50000, Call(#{timeout => 50})),
        Waiting = [py:spawn_call(math, sqrt, [I], #{}, pool(one)) || I <- [1, 4]],
        live:eventually(fun() -> {ok, #{waiting := W}} = py:pool_info(one), W =:= 2 end),
        ?assertMatch({_, {error, overloaded}}, Call(#{})),
        Open(),
        ?assertEqual([{ok, 1.0}, {ok, 2.0}], [py:await(Ref) || Ref <- Waiting])
    end).

%% By spawn_call and parallel one process may have many that wait.
greedy(_) ->
    with(two, #{nodes => [spec(#{workers => 1, max_workers => 1})], max_queue => 20, max_queue_per_caller => 2}, fun() ->
        Open = filled(two),
        Waiting = [py:spawn_call(math, sqrt, [I], #{}, pool(two)) || I <- [1, 4]],
        Waits = fun(Count) -> live:eventually(fun() -> {ok, #{waiting := W}} = py:pool_info(two), W =:= Count orelse W end) end,
        Waits(2),
        Refused = py:spawn_call(math, sqrt, [9], #{}, pool(two)),
        ?assertEqual({error, overloaded}, py:await(Refused, 1000)),
        Many = spawn_monitor(fun() -> exit(py:parallel([{math, sqrt, [I]} || I <- lists:seq(1, 8)], pool(two))) end),
        Waits(4), % two of its eight
        Other = spawn_monitor(fun() -> exit(py:call(math, sqrt, [16], #{}, pool(two))) end),
        Waits(5),
        Open(),
        ?assertEqual([{ok, 1.0}, {ok, 2.0}], [py:await(Ref) || Ref <- Waiting]),
        Ended = fun({Pid, Monitor}) -> receive {'DOWN', Monitor, process, Pid, Result} -> Result end end,
        ?assertEqual({ok, 4.0}, Ended(Other)),
        {ok, Items} = Ended(Many),
        ?assertEqual(2, length([V || {ok, V} <- Items])),
        ?assertEqual(6, length([E || {error, overloaded} = E <- Items]))
    end).

no_node(_) ->
    with(nobody, #{labels => #{nobody => has}}, fun() ->
        [?assertEqual([{error, {node_down, nobody, not_started}}],
                      lists:usort(live:pmap(fun(I) ->
                          receive after 20 * I -> ok end,
                          py:call(math, sqrt, [4], #{}, maps:merge(pool(nobody), Options))
                      end, lists:seq(1, 5))))
         || Options <- [#{queue_timeout => 200}, #{timeout => 200}, #{queue_timeout => 0}]]
    end).

%% As many are begun as it takes until one waits for a place; how many a node is sent depends on what it ran before.
until_waiting(Pool, Begin) ->
    case py:pool_info(Pool) of
        {ok, #{waiting := 0}} -> [Begin() | until_waiting(Pool, Begin)];
        {ok, _} -> []
    end.

keys(_) ->
    Names = [name(#{pool => ml, key => Key}) || Key <- lists:seq(1, 40)],
    ?assertEqual(Names, [name(#{pool => ml, key => Key}) || Key <- lists:seq(1, 40)]),
    ?assertEqual(2, length(lists:usort(Names))),
    Mine = name(#{pool => ml, key => k}),
    Gate = #{port := Port} = live:gate(),
    Strict = #{pool => ml, key => k, affinity => strict},
    Held = until_waiting(ml, fun() -> py:spawn_call(gate, wait, [Port], #{}, Strict) end),
    ?assertNotEqual(Mine, name(#{pool => ml, key => k, queue_timeout => 5000})), % softly: the other one has room
    [spawn_link(fun() -> live:open(live:entered(Gate)) end) || _ <- Held],
    ?assertEqual([{ok, none}], lists:usort([py:await(Ref) || Ref <- Held])).

keys_go_on(_) ->
    with(kept, #{nodes => [spec(#{count => 2, workers => 1, max_workers => 1})]}, fun() ->
        has(kept, 2),
        Strict = #{pool => kept, key => k, affinity => strict, timeout => 15000},
        Waiting = fun(Count) -> live:eventually(fun() -> {ok, #{waiting := W}} = py:pool_info(kept), W >= Count orelse W end) end,
        [begin
             Mine = name(Strict),
             Refs = [py:spawn_call(time, sleep, [0.05], #{}, Strict) || _ <- lists:seq(1, 40)],
             Waiting(10),
             ?assertEqual(ok, Leave(Mine)),
             ?assertEqual([{ok, none}], lists:usort([py:await(Ref) || Ref <- Refs]))
         end || Leave <- [fun(_) -> py:rolling_restart(kept) end, fun py:drain/1]],
        ?assertMatch({ok, #{waiting := 0}}, py:pool_info(kept))
    end).

stopped_waiting(_) ->
    ok = py:pool_start(ends, #{nodes => [spec(#{workers => 1, max_workers => 1})]}),
    Open = filled(ends),
    Refs = [py:spawn_call(math, sqrt, [4], #{}, pool(ends)) || _ <- lists:seq(1, 1000)],
    live:eventually(fun() -> {ok, #{waiting := W}} = py:pool_info(ends), W =:= 1000 orelse W end),
    Self = self(),
    spawn_link(fun() -> Self ! {stopped, py:pool_stop(ends)} end),
    {Took, Told} = timer:tc(fun() -> [py:await(Ref) || Ref <- Refs] end),
    ?assertEqual([{error, {bad_option, pool}}], lists:usort(Told)),
    ?assert(Took < live:ms(5000) * 1000),
    Open(),
    receive {stopped, ok} -> ok end.

given_up(_) ->
    with(never, #{labels => #{nobody => has}}, fun() ->
        Words = fun() -> erts_debug:flat_size(sys:get_state(py_backlog)) end,
        Empty = Words(),
        Call = fun(Limit) -> py:call(math, sqrt, [4], #{}, (pool(never))#{timeout => Limit}) end,
        Errors = fun(Count) -> ?assertEqual([error], lists:usort([element(1, R) || R <- many(50, Count, fun(_) -> Call(2) end)])) end,
        Errors(10),
        live:eventually(fun() -> Words() =< Empty + 100 orelse Words() end),
        Waits = spawn_link(fun() -> Call(infinity) end),
        Errors(100),
        live:eventually(fun() -> Words() < 20000 orelse Words() end), % of 5000 more than 60000 would be left
        unlink(Waits),
        exit(Waits, kill),
        live:eventually(fun() -> Words() =< Empty + 100 orelse Words() end)
    end).

queues(_) ->
    with(queued, #{nodes => [spec(#{count => 3})]}, fun() ->
        has(queued, 3),
        Names = fun(Queue) -> lists:usort(many(20, 5, fun(_) -> name(#{pool => queued, queue => Queue}) end)) end,
        Found = [Names({queue, I}) || I <- lists:seq(1, 10)],
        ?assertEqual([], [Several || Several <- Found, length(Several) > 1]),
        ?assert(length(lists:usort(Found)) > 1),
        ok = py:cast(builtins, exec, [<<"import builtins; builtins.cast_was_here = 1">>], #{}, #{pool => queued, queue => {queue, 1}}),
        ?assertEqual({ok, 1}, py:eval(<<"__import__('builtins').cast_was_here">>, #{}, #{pool => queued, queue => {queue, 1}}))
    end).

labels(_) ->
    Labelled = [spec(#{labels => #{gpu => true, zone => a}}), spec(#{labels => #{zone => a}}), spec(#{})],
    with(mixed, #{nodes => Labelled, labels => #{kind => test}}, fun() ->
        ?assertEqual(3, length(nodes_of(mixed))),
        Names = fun(Options) -> lists:usort(many(40, 1, fun(_) -> name(Options) end)) end,
        ?assertEqual(3, length(Names(pool(mixed)))),
        ?assertEqual(2, length(Names(#{pool => mixed, labels => #{zone => a}}))),
        ?assertEqual(['mixed-live-1@127.0.0.1'], Names(#{pool => mixed, labels => #{gpu => true}})),
        ?assertEqual(['mixed-live-1@127.0.0.1'], Names(#{labels => #{gpu => true}})), % of all that there are
        ?assertEqual({error, {node_down, mixed, not_started}},
                     py:call(math, sqrt, [4], #{}, #{pool => mixed, labels => #{zone => b}, timeout => 50})),
        with(zone_a, #{labels => #{zone => a}}, fun() -> ?assertEqual(2, length(Names(pool(zone_a)))) end)
    end).

own_labels(_) ->
    #{node := Node} = Proc = live:pynode(#{args => ["--label", "gpu=mine", "--label", "memory=64", "--label", "spare", "--import", "json"]}),
    ok = py:connect(Node),
    [Facts] = [F || #{node := N} = F <- py:cluster(), N =:= Node],
    ?assertMatch(#{labels := #{<<"gpu">> := <<"mine">>, <<"memory">> := 64, <<"spare">> := true}, imports := [<<"json">>]}, Facts),
    ?assertEqual(Node, name(#{labels => #{gpu => mine, memory => 64, spare => true}})),
    ?assertMatch({error, {node_down, _, not_started}},
                 py:call(math, sqrt, [4], #{}, #{labels => #{gpu => mine, memory => 65}, timeout => 50})),
    live:kill(Proc).

routes(_) ->
    ok = py:register_pool(math, ml),
    ok = py:register_pool({"json", <<"dumps">>}, ml),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4])),
    ?assertEqual({ok, 2.0}, py:call("math", "sqrt", [4])),
    ?assertEqual({ok, <<"1">>}, py:call(json, dumps, [1])),
    ?assertMatch({error, {node_down, default, not_started}}, py:call(json, loads, [<<"1">>])),
    ok = py:unregister_pool(math),
    ?assertMatch({error, {node_down, default, not_started}}, py:call(math, sqrt, [4])),
    ok = py:unregister_pool({json, dumps}).

items(_) ->
    Options = pool(ml),
    ?assertEqual({ok, [{ok, abs(I)} || I <- lists:seq(-500, 500)]}, py:map(builtins, abs, [[I] || I <- lists:seq(-500, 500)], Options)),
    {ok, Names} = py:map(builtins, eval, [[<<"__import__('os').getpid()">>] || _ <- lists:seq(1, 100)], Options),
    ?assertEqual(2, length(lists:usort(Names))),
    ?assertMatch({ok, [{ok, 1.0}, {error, {'ValueError', _}}]}, py:map(math, sqrt, [[1], [-1]], Options)),
    ?assertEqual({ok, []}, py:map(math, sqrt, [], Options)),
    ?assertEqual({ok, [{error, timeout} || _ <- [1, 2]]},
                 py:map(asyncio, sleep, [[60], [60]], Options#{timeout => 100})),
    Calls = [{math, sqrt, [I * I]} || I <- lists:seq(1, 50)],
    ?assertEqual({ok, [{ok, float(I)} || I <- lists:seq(1, 50)]}, py:parallel(Calls, Options)),
    ?assertEqual({ok, [{ok, float(I)} || I <- lists:seq(1, 50)]}, py:async_gather(Calls, Options)),
    ?assertEqual([{ok, float(I)} || I <- lists:seq(1, 50)], [py:await(Ref) || Ref <- py:create_tasks(Calls, Options)]),
    ?assertEqual({ok, [{ok, 1.0}, {error, timeout}]}, py:parallel([{math, sqrt, [1]}, {time, sleep, [60]}], Options#{timeout => 300})),
    {Pid, Monitor} = spawn_monitor(fun() -> py:map(asyncio, sleep, [[60] || _ <- lists:seq(1, 10)], Options#{timeout => infinity}) end),
    live:eventually(fun() -> in_flight(ml) =:= 10 end),
    exit(Pid, kill),
    receive {'DOWN', Monitor, _, _, _} -> ok end,
    live:eventually(fun() -> in_flight(ml) =:= 0 end),
    ?assertEqual([], live:flush()).

%%% ------------------------------------------------------------------ callers

caller_killed(_) ->
    Gate = #{port := Port} = live:gate(),
    Pid = spawn(fun() -> py:call(gate, wait, [Port], #{}, pool(ml)) end),
    Door = live:entered(Gate),
    receive after 100 -> ok end,
    exit(Pid, kill),
    live:eventually(fun() -> in_flight(ml) =:= 0 end),
    gen_tcp:close(Door).

spawned(_) ->
    Gate = #{port := Port} = live:gate(),
    Begin = fun() -> Ref = py:spawn_call(gate, wait, [Port], #{}, pool(ml)), {Ref, live:entered(Gate)} end,
    {Cancelled, Door1} = Begin(),
    ok = py:cancel(Cancelled),
    ?assertEqual({error, cancelled}, py:await(Cancelled)),
    {Left, Door2} = Begin(),
    ?assertEqual({error, timeout}, py:await(Left, 20)),
    Self = self(),
    Owner = spawn(fun() -> Self ! {begun, Begin()}, receive after infinity -> ok end end),
    Door3 = receive {begun, {_, Door}} -> Door end,
    exit(Owner, kill),
    live:eventually(fun() -> in_flight(ml) =:= 0 end),
    live:eventually(fun() -> ets:info(py_calls, size) =:= 0 end),
    [gen_tcp:close(D) || D <- [Door1, Door2, Door3]],
    ?assertEqual([], live:flush()).

%%% ------------------------------------------------------------------ loss

node_killed(_) ->
    {_, Results} = meanwhile(20, fun() -> py:call(time, sleep, [0.005], #{}, pool(ml)) end, fun() ->
        [again(ml, Node) || Node <- nodes_of(ml)]
    end),
    Down = [Result || Result <- Results, Result =/= {ok, none}],
    live:note("~b calls, ~b lost", [length(Results), length(Down)]),
    [?assertMatch({error, {node_down, _, Progress}} when Progress =/= not_started, Result) || Result <- Down],
    ?assert(length(Down) =< 2 * 20), % what was under way, each time
    has(ml, 2).

idempotent(_) ->
    Options = #{pool => ml, idempotent => true},
    {_, Results} = meanwhile(20, fun() -> py:call(time, sleep, [0.005], #{}, Options) end, fun() ->
        [again(ml, hd(nodes_of(ml))) || _ <- lists:seq(1, 5)]
    end),
    ?assertEqual([{ok, none}], lists:usort(Results)),
    ?assertMatch({error, {'ValueError', _}}, py:call(math, sqrt, [-1], #{}, Options)).

poison(_) ->
    Poison = fun(Options) -> py:eval("(__import__('time').sleep(0.05), __import__('os')._exit(3))", #{}, Options) end,
    ?assertEqual({error, poison}, Poison(#{pool => ml, idempotent => true, timeout => 20000})),
    whole(ml),
    ?assertMatch({error, {node_down, _, started}}, Poison(pool(ml))),
    whole(ml),
    ?assertMatch({error, {node_down, _, started}}, Poison(#{pool => ml, idempotent => true, retries => 0})),
    whole(ml).

all_killed(_) ->
    [kill_node(Node) || Node <- nodes_of(ml)],
    live:eventually(fun() -> nodes_of(ml) =:= [] end),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, pool(ml))),
    whole(ml).

%%% ------------------------------------------------------------------ nodes that come and go

rolling(_) ->
    whole(ml),
    Before = nodes_of(ml),
    {Result, Results} = meanwhile(20, fun() -> py:call(time, sleep, [0.005], #{}, pool(ml)) end,
                                  fun() -> py:rolling_restart(ml) end),
    ?assertEqual(ok, Result),
    ?assertEqual([{ok, none}], lists:usort(Results)),
    ?assertEqual([], [Node || Node <- nodes_of(ml), lists:member(Node, Before), os_pid(Node) =:= undefined]),
    whole(ml),
    ?assertEqual(1, length(nodes_of(ml) -- Before)). % the names are taken in turns

drained(_) ->
    whole(ml),
    [Node | _] = nodes_of(ml),
    {Result, Results} = meanwhile(20, fun() -> py:call(time, sleep, [0.005], #{}, pool(ml)) end,
                                  fun() -> py:drain(Node) end),
    ?assertEqual(ok, Result),
    ?assertEqual([{ok, none}], lists:usort(Results)),
    ?assertNot(lists:member(Node, nodes_of(ml))),
    receive after 2500 -> ok end, % the pool has looked
    ?assertEqual(1, length(nodes_of(ml))),
    ok = py:pool_resize(ml, 2),
    whole(ml).

%% Calls go on until the node has gone, so that some are sent when nobody reads there any more.
too_late(_) ->
    with(late, #{nodes => [spec(#{})]}, fun() ->
        [Node] = nodes_of(late),
        At = #{node => Node, timeout => live:ms(5000)},
        Kinds = [fun() -> py:call(math, sqrt, [4], #{}, At) end,
                 fun() -> py:await(py:spawn_call(math, sqrt, [4], #{}, At)) end,
                 fun() -> {ok, [Result]} = py:parallel([{math, sqrt, [4]}], At), Result end,
                 fun() -> py:call(math, sqrt, [4], #{}, At#{queue => self()}) end,
                 fun() -> py:stream(builtins, iter, [[4]], #{}, At) end],
        Callers = [spawn_monitor(fun() -> exit({outcomes, until_down(Kind, [])}) end) || Kind <- Kinds, _ <- [1, 2]],
        live:os_signal(os_pid(Node), "TERM"),
        Outcomes = [receive {'DOWN', Monitor, process, _, {outcomes, Outcomes}} -> Outcomes end || {_, Monitor} <- Callers],
        ?assertEqual([], lists:usort(lists:append(Outcomes)) -- [{ok, 2.0}, {ok, [4]}, {error, draining},
                                                                 {error, {node_down, Node, not_started}}])
    end).

until_down(Call, Before) ->
    case Call() of
        {error, {node_down, _, _}} = Down -> [Down | Before];
        Outcome -> until_down(Call, [Outcome | Before])
    end.

only([Node]) -> Node;
only(Nodes) -> error({not_one, [{nodes, Nodes}, {cluster, py:cluster()}, {info, py:info()}]}).

recycled(_) ->
    Replaced = fun(Options, Work) ->
        with(recycled, maps:merge(#{nodes => [spec(#{})]}, Options), fun() ->
            Before = only(nodes_of(recycled)),
            {_, Results} = meanwhile(2, Work, fun() ->
                live:eventually(fun() -> Now = nodes_of(recycled), not lists:member(Before, Now) orelse Now end)
            end),
            ?assertEqual([], [Result || Result <- Results, element(1, Result) =/= ok])
        end)
    end,
    Call = fun() -> py:call(time, sleep, [0.001], #{}, pool(recycled)) end,
    Replaced(#{max_tasks => 100}, Call),
    Replaced(#{max_age => 500}, Call),
    Replaced(#{max_rss => 100 bsl 20}, fun() ->
        py:eval("globals().setdefault('kept', bytearray(120 << 20)) and 1", #{}, pool(recycled))
    end).

resized(_) ->
    with(sized, #{nodes => [spec(#{})]}, fun() ->
        {_, Results} = meanwhile(10, fun() -> py:call(time, sleep, [0.002], #{}, pool(sized)) end, fun() ->
            ok = py:pool_resize(sized, 3),
            has(sized, 3),
            ok = py:pool_resize(sized, 1),
            has(sized, 1)
        end),
        ?assertEqual([{ok, none}], lists:usort(Results))
    end).

%% The process of the pool is killed after that, and has as many as before.
resized_killed(_) ->
    with(again, #{nodes => [spec(#{})]}, fun() ->
        Kept = fun(Count) ->
            has(again, Count),
            Before = [{Node, os_pid(Node)} || Node <- nodes_of(again)],
            Pid = py_pool_sup:pool(again),
            exit(Pid, kill),
            live:eventually(fun() -> New = py_pool_sup:pool(again), is_pid(New) andalso New =/= Pid end),
            receive after 500 -> ok end,
            ?assertEqual(Before, [{Node, os_pid(Node)} || Node <- nodes_of(again)])
        end,
        ok = py:pool_resize(again, 3),
        Kept(3),
        ok = py:drain(hd(nodes_of(again))),
        receive after 2500 -> ok end, % the pool has looked
        Kept(2)
    end).

%% None is left, and then there are some again.
resized_from_none(_) ->
    with(none, #{nodes => [spec(#{})]}, fun() ->
        ok = py:pool_resize(none, 0),
        has(none, 0),
        ?assertEqual(ok, py:pool_resize(none, 1)),
        has(none, 1),
        ok = py:drain(hd(nodes_of(none))),
        receive after 2500 -> ok end,
        ?assertEqual(ok, py:pool_resize(none, 1)),
        has(none, 1)
    end).

%% Its replacement has the same specification: what makes it fail has come meanwhile.
not_ready(_) ->
    Flag = live:tmp("not_ready.py"),
    Spec = spec(#{import => [maybe_ready], path => [live:py(""), filename:dirname(Flag)], start_timeout => 1500}),
    ok = file:write_file(filename:join(filename:dirname(Flag), "maybe_ready.py"), "import os\n"),
    with(later, #{nodes => [Spec]}, fun() ->
        [Node] = nodes_of(later),
        ok = file:write_file(filename:join(filename:dirname(Flag), "maybe_ready.py"), "import time\ntime.sleep(60)\n"),
        {error, {not_ready, New}} = py:rolling_restart(later),
        live:eventually(fun() -> % nobody waits for it any more
            _ = py:cluster(),
            not lists:any(fun(Part) -> is_list(Part) andalso lists:keymember(New, 1, Part) end, tuple_to_list(sys:get_state(py_cluster)))
        end),
        ?assertEqual([Node], nodes_of(later)),
        ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, pool(later)))
    end).

%% The process that has the old one has ended, say, and the coordinator has not heard of it yet: nothing was started.
name_again(_) ->
    with(named, #{nodes => [spec(#{})]}, fun() ->
        [First] = nodes_of(named),
        {port, Port} = py_coordinator:stop_node(First, infinity),
        #{spec := Spec} = py_port:info(Port),
        Monitor = erlang:monitor(process, Port),
        ?assertEqual(ok, py_coordinator:start_node(Spec)),
        ok = py_port:stop(Port, 5000),
        receive {'DOWN', Monitor, process, Port, _} -> ok end,
        ?assertEqual(ok, py_cluster:await_ready(First, live:ms(15000))),
        ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, pool(named))),
        receive after 2500 -> ok end, % the pool has looked
        has(named, 1),
        % that one was not wanted any more when it was to be started
        {port, Next} = py_coordinator:stop_node(First, infinity),
        ?assertEqual(ok, py_coordinator:start_node(Spec)),
        ?assertEqual({port, Next}, py_coordinator:stop_node(First, infinity)),
        ok = py_port:stop(Next, 5000),
        live:eventually(fun() -> not lists:member(First, [Node || #{node := Node} <- py:cluster()]) end)
    end).

%%% ------------------------------------------------------------------ processes that are killed

pool_killed(_) ->
    ok = py:pool_resize(ml, 2),
    has(ml, 2),
    Before = [{Node, os_pid(Node)} || Node <- nodes_of(ml)],
    {_, Results} = meanwhile(5, fun() -> py:call(math, sqrt, [4], #{}, pool(ml)) end, fun() ->
        exit(py_pool_sup:pool(ml), kill),
        live:eventually(fun() -> is_pid(py_pool_sup:pool(ml)) end),
        receive after 200 -> ok end
    end),
    ?assertEqual([{ok, 2.0}], lists:usort(Results)),
    ?assertEqual(Before, [{Node, os_pid(Node)} || Node <- nodes_of(ml)]).

stopping_killed(_) ->
    ok = py:pool_start(ending, #{nodes => [spec(#{})]}),
    Gate = #{port := Port} = live:gate(),
    Held = py:spawn_call(gate, wait, [Port], #{}, pool(ending)),
    Door = live:entered(Gate),
    Self = self(),
    spawn_link(fun() -> Self ! {stopped, py:pool_stop(ending)} end),
    live:eventually(fun() -> py:pool_info(ending) =:= {error, no_pool} end),
    exit(py_pool_sup:pool(ending), kill),
    receive after 300 -> ok end,
    live:open(Door),
    ?assertEqual({ok, none}, py:await(Held)),
    ?assertEqual(ok, receive {stopped, Result} -> Result after live:ms(10000) -> none end),
    ?assertEqual({error, no_pool}, py:pool_info(ending)),
    live:eventually(fun() -> Left = [Node || #{node := Node, pools := [ending]} <- py:cluster()], Left =:= [] orelse Left end).

killed(_) ->
    with(named, #{nodes => [spec(#{})]}, fun() ->
        [begin
             {_, Results} = meanwhile(5, fun() -> py:call(math, sqrt, [4], #{}, #{pool => ml, idempotent => true}) end, fun() ->
                 Pid = whereis(Name),
                 Name =:= py_coordinator andalso waits_for_name(),
                 exit(Pid, kill),
                 live:eventually(fun() -> New = whereis(Name), is_pid(New) andalso New =/= Pid end),
                 live:eventually(fun() -> py:pool_info(ml) =/= {error, no_pool} end),
                 has(ml, 2)
             end),
             Bad = [Result || Result <- Results, Result =/= {ok, 2.0}],
             live:note("~s: ~b calls, ~p", [Name, length(Results), lists:usort(Bad)]),
             ?assertEqual({Name, []}, {Name, [Result || Result <- Bad, not is_down(Result)]}),
             ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, pool(ml)))
         end || Name <- [py_backlog, py_cluster, py_coordinator]],
        has(named, 1),
        live:eventually(fun() -> py:call(math, sqrt, [4], #{}, pool(named)) =:= {ok, 2.0} end)
    end).

%% A node is to be started under the name of one that has gone, of which the coordinator will not hear.
waits_for_name() ->
    [Node] = nodes_of(named),
    {port, Port} = py_coordinator:stop_node(Node, infinity),
    #{spec := Spec} = py_port:info(Port),
    ?assertEqual(ok, py_coordinator:start_node(Spec)),
    ok = sys:suspend(py_coordinator),
    Monitor = erlang:monitor(process, Port),
    ok = py_port:stop(Port, 5000),
    receive {'DOWN', Monitor, process, Port, _} -> ok end.

%% One in the place of py_backlog answers, and ends when that is there again.
backlog_killed(_) ->
    Next = whereis(py_backlog),
    Self = self(),
    true = unregister(py_backlog),
    spawn_link(fun() ->
        register(py_backlog, self()),
        Self ! begun,
        receive
            {'$gen_call', From, {wait, _, _, _, _}} ->
                unregister(py_backlog),
                register(py_backlog, Next),
                gen_server:reply(From, ok)
        end
    end),
    receive begun -> ok end,
    ?assertEqual(turn, py_backlog:wait({ml, any}, back, {10, self(), 10}, 3000)).

is_down({error, {node_down, _, _}}) -> true;
is_down(_) -> false.

%%% ------------------------------------------------------------------ other VMs

two_vms(_) ->
    #{node := Peer} = Proc = live:peer(),
    ok = erpc:call(Peer, live_pool, start, [[]]),
    ?assertEqual({ok, 2.0}, erpc:call(Peer, py, call, [math, sqrt, [4], #{}, pool(ml)])), % although it has just come
    live:eventually(fun() -> lists:sort(py_cluster:vms()) =:= lists:sort([node(), Peer]) end),
    live:eventually(fun() -> {ok, #{nodes := N}} = erpc:call(Peer, py, pool_info, [ml]), length(N) =:= 2 end),
    ok = erpc:call(Peer, py, pool_start, [ml, #{nodes => [spec(#{})]}]),
    has(ml, 3),
    ?assertEqual(3, length(lists:usort(many(40, 1, fun(_) -> name(pool(ml)) end)))),
    ok = erpc:call(Peer, py, pool_resize, [ml, 2]),
    has(ml, 4),
    [Theirs | _] = [Node || #{node := Node, vms := [Vm]} <- py:cluster(), Vm =:= Peer],
    ?assertEqual(ok, py:drain(Theirs)),
    has(ml, 3),
    {_, Results} = meanwhile(10, fun() -> py:call(time, sleep, [0.005], #{}, #{pool => ml, idempotent => true}) end, fun() ->
        live:kill(Proc),
        live:eventually(fun() -> py_cluster:vms() =:= [node()] end),
        has(ml, 2)
    end),
    ?assertEqual([{ok, none}], lists:usort(Results)).

unknown_words(_) ->
    Pid = whereis(py_cluster),
    Member = spawn_link(fun() -> ok = pg:join(pynode, py_cluster, self()), receive after infinity -> ok end end),
    live:eventually(fun() -> lists:member(Member, pg:get_members(pynode, py_cluster)) end),
    [Pid ! {Tag, Member, Words} || Tag <- [py_nodes, py_pools, py_words],
                                   Words <- [none, #{}, #{1 => gone}, #{'a@b' => #{}}, #{x => #{labels => none}}, #{x => 1},
                                             #{'a@b' => #{state => new, labels => #{}, pools => [ml], started => true}}]],
    ?assertEqual([cluster, ml], py:pools()),
    ?assertEqual([], [Node || #{node := Node} <- py:cluster(), Node =:= 'a@b']),
    unlink(Member),
    exit(Member, kill),
    live:eventually(fun() -> not lists:member(Member, pg:get_members(pynode, py_cluster)) end),
    ?assertEqual(Pid, whereis(py_cluster)).

suspended(_) ->
    #{node := Peer} = Proc = live:peer(["-kernel", "net_ticktime", "4"]),
    ok = erpc:call(Peer, live_pool, start, [[]]),
    ?assertEqual({ok, 2.0}, erpc:call(Peer, py, call, [math, sqrt, [4], #{}, pool(ml)])),
    live:signal(Proc, "STOP"),
    erlang:disconnect_node(Peer),
    live:eventually(fun() -> py_cluster:vms() =:= [node()] end),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, pool(ml))),
    live:signal(Proc, "CONT"),
    live:eventually(20000, fun() -> length(py_cluster:vms()) =:= 2 end), % nobody pings
    live:eventually(fun() -> erpc:call(Peer, py, call, [math, sqrt, [4], #{}, pool(ml)]) =:= {ok, 2.0} end).

parted(_) ->
    #{node := Peer} = Proc = live:peer(),
    ok = erpc:call(Peer, live_pool, start, [[]]),
    ok = erpc:call(Peer, py, pool_start, [theirs, #{nodes => [spec(#{})]}]),
    Whole = fun() -> py:call(math, sqrt, [4], #{}, #{pool => theirs, timeout => 2000}) =:= {ok, 2.0} end,
    live:eventually(Whole),
    [begin
         erlang:disconnect_node(Peer),
         live:eventually(fun() -> length(py_cluster:vms()) =:= 2 end),
         live:eventually(Whole)
     end || _ <- [1, 2, 3]],
    ok = erpc:call(Peer, application, stop, [pynode]),
    live:eventually(fun() -> py_cluster:vms() =:= [node()] end),
    live:kill(Proc).

executor(_) ->
    with(tagged, #{nodes => [spec(#{labels => #{gpu => true, zone => "a"}})]}, fun() ->
        In = fun(Options) ->
                 Code = ["{__import__('erlang.cluster').cluster.Executor(", Options, ").submit(__import__('os').getpid).result()}"],
                 {ok, [Pid]} = py:eval(iolist_to_binary(Code), #{}, pool(ml)),
                 Pid
             end,
        Tagged = os_pid('tagged-live-1@127.0.0.1'),
        Ml = [os_pid(Node) || Node <- nodes_of(ml)],
        ?assertEqual(Tagged, In("pool='tagged'")),
        ?assertEqual(Tagged, In("labels={'gpu': True, 'zone': 'a'}")),
        ?assert(lists:member(In("pool='ml'"), Ml))
    end).

ctl(_) ->
    Top = os:getenv("abs_top_srcdir"),
    Ctl = fun(Args) ->
              live:sh(lists:flatten([os:getenv("ESCRIPT", "escript"), " ", Top, "/erlang/pynodectl --cookie-file ", live:cookie_file(), " ", Args]))
          end,
    At = " --vm live@127.0.0.1 ",
    %% What runs is what the node has last reported, up to a second ago.
    live:eventually(fun() ->
        {0, Status} = Ctl([At, "status"]),
        lists:all(fun(Pattern) -> re:run(Status, Pattern, [multiline]) =/= nomatch end,
                  ["^1 VMs: live@127.0.0.1$", "^ml-live-[0-9]+@127.0.0.1 +ready +ml +0 +0 +0 +2 +[0-9]+ +[0-9]+ +[0-9]+ +0 ", "^ml +live@127.0.0.1 +2 +0$"])
    end),
    ?assertMatch({0, _}, Ctl([At, "nodes"])),
    {0, Two} = Ctl([At, "top 2"]),
    ?assertMatch({match, [_, _]}, re:run(Two, "NODE +STATE", [global])),
    [Node | _] = nodes_of(ml),
    ?assertMatch({0, <<_/binary>>}, Ctl([At, "ping ", atom_to_list(Node)])),
    ?assertMatch({1, <<"nobody@127.0.0.1: pang", _/binary>>}, Ctl([At, "ping nobody@127.0.0.1"])),
    ?assertMatch({0, _}, Ctl([At, "restart ml"])),
    ?assertMatch({1, _}, Ctl([At, "restart nobody"])),
    with(drained, #{nodes => [spec(#{})]}, fun() ->
        ?assertEqual({0, <<"drained-live-1@127.0.0.1 has left\n">>}, Ctl([At, "drain drained-live-1@127.0.0.1"]))
    end),
    ?assertMatch({1, _}, Ctl([At, "drain nobody@127.0.0.1"])),
    ?assertMatch({1, <<"pynodectl: nobody@127.0.0.1 cannot be reached", _/binary>>}, Ctl("--vm nobody@127.0.0.1 status")),
    [?assertMatch({64, _}, Ctl(Args)) || Args <- ["", "status", [At, "stat"], [At, "ping nobody"], [At, "top x"]]],
    ?assertMatch({0, <<"Usage:", _/binary>>}, Ctl("--help")).

%% A library of that name, which sends what it gets.
telemetry(_) ->
    Source = "-module(telemetry). -export([execute/3]).\n"
             "execute(Event, Measurements, Metadata) -> live_pool_telemetry ! {Event, Measurements, Metadata}, ok.\n",
    File = live:tmp("telemetry.erl"),
    ok = file:write_file(File, Source),
    {ok, telemetry, Binary} = compile:file(File, [binary]),
    register(live_pool_telemetry, self()),
    {module, telemetry} = code:load_binary(telemetry, "telemetry.erl", Binary),
    Heard = fun(Event) -> receive {Event, Measurements, Metadata} -> {Measurements, Metadata} after live:ms(10000) -> none end end,
    ok = py:pool_start(heard, #{nodes => [spec(#{})]}),
    Node = 'heard-live-1@127.0.0.1',
    ?assertMatch({#{system_time := _}, #{node := Node}}, Heard([pynode, node, up])),
    {ok, 2.0} = py:call(math, sqrt, [4], #{}, pool(heard)),
    ?assertMatch({#{duration := D}, #{pool := heard, node := undefined, module := math, function := sqrt, outcome := ok}} when D > 0,
                 Heard([pynode, call, stop])),
    {error, timeout} = py:call(time, sleep, [1], #{}, #{node => Node, timeout => 10}),
    ?assertMatch({_, #{pool := undefined, node := Node, outcome := timeout}}, Heard([pynode, call, stop])),
    ?assertMatch({#{running := _, rss := _}, #{node := _}}, Heard([pynode, load])),
    ok = py:pool_stop(heard),
    ?assertMatch({_, #{node := Node}}, Heard([pynode, node, down])),
    code:purge(telemetry),
    code:delete(telemetry),
    code:purge(telemetry),
    unregister(live_pool_telemetry),
    live:flush().

no_litter(_) ->
    live:eventually(fun() -> in_flight(ml) =:= 0 andalso ets:info(py_calls, size) =:= 0 end),
    ?assertEqual([], live:flush()),
    live:eventually(fun() -> Waiting = [{Name, N} || Name <- [py_backlog, py_cluster, py_coordinator],
                                                     {message_queue_len, N} <- [process_info(whereis(Name), message_queue_len)], N > 0],
                             Waiting =:= [] orelse Waiting end), % one that comes now and then is read
    ?assertEqual([], ets:match(py_answerers, {'$1', none})).
