%% cluster_faults - what goes wrong in a cluster, one thing at a time: who learns of it when, and what comes back.
%%
%% Two hosts have two Python nodes each, a third one has one. A load runs most of the time; the last cases count it.
-module(cluster_faults).

-export([setup/0, tests/1]).

-include_lib("stdlib/include/assert.hrl").

-define(KILLS, 7).
-define(CALLERS, 20).
-define(PAUSE, 15).
-define(BURSTS, 2).

setup() ->
    cluster:start(#{1 => #{nodes => 2}, 2 => #{nodes => 2}, 3 => #{nodes => 1}}),
    All = cluster:nodes(1) ++ cluster:nodes(2) ++ cluster:nodes(3),
    live:pmap(fun(Host) -> cluster:connect(Host, All -- cluster:nodes(Host)) end, [1, 2, 3]),
    #{}.

tests(_) ->
    [{Name, fun() -> try Fun() after mend() end end} || {Name, Fun} <- cases()].

%% Each case finds whole links, whatever has become of the one before.
mend() ->
    cluster:mend(),
    [cluster:await_calls(Host, cluster:nodes(1) ++ cluster:nodes(2)) || Host <- [1, 2]].

cases() ->
    [{"a node is killed: callers on all hosts know in 50 ms, another is ready in 1 s", fun killed/0},
     {"20 callers on each of two hosts begin to call all nodes", fun load/0},
     {"a link is cut: both sides know within the net tick, and nobody else is touched", fun cut/0},
     {"what one host sends is lost: both sides know within the net tick", fun cut_one_way/0},
     {"a link loses all for a while, over and over, but not for a net tick: each call gets its value", fun bursts/0},
     {"a VM is killed: callers of its nodes know at once, and find those of the next one", fun vm_killed/0},
     {"epmd is killed: calls go on; when it is back new connections can be made", fun epmd_killed/0},
     {"a VM stands still for more than the net tick: its nodes serve others, and it finds them again", fun vm_suspended/0},
     {"each call and task has had one outcome, and none has run twice", fun counted/0},
     {"nothing odd is in the logs", fun logs/0}].

%%% ------------------------------------------------------------------ nodes

killed() ->
    [Node | _] = cluster:nodes(1),
    Rounds = [killed(Node) || _ <- lists:seq(1, ?KILLS)],
    {Here, There, Ready, ReadyThere} = unzip(Rounds),
    live:note("ms until callers know, on the node's host: ~w, on another: ~w", [Here, There]),
    live:note("ms until another node is ready on its host: ~w, for another host: ~w", [Ready, ReadyThere]),
    ?assert(median(Here) =< live:ms(50)),
    ?assert(median(There) =< live:ms(50)),
    ?assert(median(Ready) =< live:ms(1000)).

killed(Node) ->
    Held = [{Host, cluster:hold(Host, Way, Node)} || Host <- [1, 2], Way <- [call, spawn_call, task]],
    Killed = cluster:now_ms(),
    cluster:kill_node(1, Node),
    Answered = [{Host, know(Call, Node) - Killed} || {Host, Call} <- Held],
    cluster:await_calls(1, [Node]),
    Ready = cluster:now_ms() - Killed,
    cluster:await_calls(2, [Node]),
    ReadyThere = cluster:now_ms() - Killed,
    {round(lists:max([T || {1, T} <- Answered])), round(lists:max([T || {2, T} <- Answered])),
     round(Ready), round(ReadyThere)}.

%% When the caller of a call that lasts was told that the node has gone.
know(Call, Node) ->
    {Result, When} = cluster:outcome(Call),
    ?assertMatch({error, {node_down, Node, Progress}} when Progress =:= started; Progress =:= unknown, Result),
    When.

unzip(Rounds) ->
    list_to_tuple([[element(I, Round) || Round <- Rounds] || I <- [1, 2, 3, 4]]).

median(List) ->
    lists:nth((length(List) + 1) div 2, lists:sort(List)).

load() ->
    Targets = [{node, Node} || Host <- [1, 2, 3], Node <- cluster:nodes(Host)],
    [ok = cluster:rpc(Host, load, start, [#{callers => ?CALLERS, host => Host, pause => ?PAUSE, targets => Targets}])
     || Host <- [1, 2]],
    live:eventually(fun() -> lists:min([cluster:rpc(Host, load, submitted, []) || Host <- [1, 2]]) > 10 * ?CALLERS end).

%%% ------------------------------------------------------------------ links

cut() ->
    Elsewhere = cluster:hold(1, call, hd(cluster:nodes(3))),
    {Known, Back} = interrupted([{1, 2}, {2, 1}], fun() -> cluster:cut(1, 2) end),
    live:note("ms until callers know: ~w; until they can call again: ~w", [Known, Back]),
    ?assertEqual(true, cluster:is_held(Elsewhere)).

cut_one_way() ->
    {Known, Back} = interrupted([{1, 2}, {2, 1}], fun() -> cluster:cut_one_way(1, 2) end),
    live:note("ms until callers know: ~w; until they can call again: ~w", [Known, Back]).

%% Calls last from one host to another when a fault comes that goes by itself, but for the mending of links: when
%% their callers know, and how long it takes then until the nodes can be used again.
interrupted(Ways, Fault) ->
    Held = [{To, cluster:hold(From, Way, hd(cluster:nodes(To)))} || {From, To} <- Ways, Way <- [call, spawn_call, task]],
    Begin = cluster:now_ms(),
    Fault(),
    live:note("ms that the fault took to begin: ~b", [round(cluster:now_ms() - Begin)]),
    Known = [round(know(Call, hd(cluster:nodes(To))) - Begin) || {To, Call} <- Held],
    ?assert(lists:max(Known) =< live:ms(cluster:detected())),
    [{ok, _} = cluster:try_call(Host, Node) || Host <- [1, 2], Node <- cluster:nodes(Host)],
    cluster:mend(),
    {Known, [cluster:await_calls(From, cluster:nodes(To)) || {From, To} <- Ways]}.

%% Shorter than what the tick notices; TCP sends again. The next time begins when it has: else its pauses, which
%% double, would add up to a net tick.
bursts() ->
    Ways = [{1, hd(cluster:nodes(2))}, {2, hd(cluster:nodes(1))}],
    Held = [cluster:hold(Host, call, Node) || {Host, Node} <- Ways],
    Took = [burst(Cut, Ways) || Cut <- lists:append(lists:duplicate(?BURSTS, [{1, 2}, {2, 1}, both]))],
    live:note("ms that calls took: ~w", [Took]),
    ?assertEqual([true, true], [cluster:is_held(Call) || Call <- Held]).

%% Calls both ways that are begun meanwhile: how long they took.
burst(Cut, Ways) ->
    case Cut of
        both -> cluster:cut(1, 2);
        {From, To} -> cluster:cut_one_way(From, To)
    end,
    {Took, [_ | Results]} = live:timed(fun() ->
        live:pmap(fun(Fun) -> Fun() end, [fun mend_soon/0 | [fun() -> cluster:try_call(Host, Node) end || {Host, Node} <- Ways]])
    end),
    ?assertMatch([{ok, _}, {ok, _}], Results),
    round(Took).

mend_soon() ->
    receive after 300 -> ok end,
    cluster:mend().

%%% ------------------------------------------------------------------ VMs and epmd

vm_killed() ->
    [Node] = cluster:nodes(3),
    Held = [cluster:hold(1, Way, Node) || Way <- [call, spawn_call, task]],
    Inwards = cluster:hold(3, call, hd(cluster:nodes(1))),
    true = cluster:is_held(Inwards),
    OsPid = cluster:os_pid(3, Node),
    Killed = cluster:now_ms(),
    cluster:kill_vm(3),
    Known = [round(know(Call, Node) - Killed) || Call <- Held],
    live:eventually(fun() -> not filelib:is_dir("/proc/" ++ integer_to_list(OsPid)) end),
    ?assertMatch({ok, _}, cluster:try_call(1, hd(cluster:nodes(1)))),
    cluster:start_vm(3, #{nodes => 1}),
    Found = [cluster:await_calls(Host, [Node]) || Host <- [3, 1, 2]],
    live:note("ms until callers know: ~w; after the start of the next one, until hosts 3, 1 and 2 can call: ~w", [Known, Found]),
    ?assert(lists:max(Known) =< live:ms(500)).

epmd_killed() ->
    Nodes = cluster:nodes(2),
    [cluster:rpc(3, py, disconnect, [Node]) || Node <- Nodes],
    ?assertEqual(cluster:nodes(3), cluster:rpc(3, py, nodes, []) -- cluster:nodes(1)),
    cluster:kill_epmd(2),
    ?assertEqual([], cluster:registered(1, 2)),
    [{ok, _} = cluster:try_call(Host, Node) || Host <- [1, 2], Node <- Nodes],
    cluster:start_epmd(2),
    {Took, _} = live:timed(fun() -> live:eventually(fun() -> registered(cluster:registered(1, 2), ["py1", "py2"]) end) end),
    live:note("ms until the nodes are registered again: ~b", [round(Took)]),
    cluster:connect(3, Nodes),
    [{ok, _} = cluster:try_call(3, Node) || Node <- Nodes],
    ok.

registered(Names, Wanted) ->
    Wanted -- Names =:= [] orelse Names.

vm_suspended() ->
    Serving = [{1, Node} || Node <- cluster:nodes(2)],
    Outwards = [cluster:hold(2, Way, hd(cluster:nodes(1))) || Way <- [call, spawn_call, task]],
    Home = cluster:hold(2, call, hd(cluster:nodes(2))),
    Elsewhere = cluster:hold(1, call, hd(cluster:nodes(2))),
    cluster:suspend_vm(2),
    Resumed = try serve_until(cluster:now_ms() + cluster:detected(), Serving, 0), cluster:now_ms()
              after cluster:resume_vm(2)
              end,
    Known = [round(know(Call, Node) - Resumed)
             || {Call, Node} <- [{Call, hd(cluster:nodes(1))} || Call <- Outwards] ++ [{Home, hd(cluster:nodes(2))}]],
    Back = cluster:await_calls(2, cluster:nodes(1) ++ cluster:nodes(2)),
    live:note("ms until its own callers know: ~w; until they can call again: ~b", [Known, Back]),
    ?assert(lists:max(Known) =< live:ms(1000)),
    ?assertEqual(true, cluster:is_held(Elsewhere)).

%% Calls until then.
serve_until(Until, Serving, Count) ->
    case cluster:now_ms() < Until of
        true ->
            [{ok, _} = cluster:try_call(Host, Node) || {Host, Node} <- Serving],
            receive after 50 -> ok end,
            serve_until(Until, Serving, Count + 1);
        false ->
            ?assert(Count > 0)
    end.

%%% ------------------------------------------------------------------ what is counted

counted() ->
    Loads = live:pmap(fun(Host) -> cluster:rpc(Host, load, stop, [live:ms(15000)]) end, [1, 2]),
    live:note("~p", [load:check(Loads, cluster:ran())]).

logs() ->
    ?assertEqual([], [Line || Host <- [1, 2, 3], Line <- cluster:odd_lines(Host)]).
