%% cluster_chaos - faults of all kinds at random while two VMs call one pool: each task has one outcome.
%%
%% CLUSTER_TASKS and CLUSTER_FAULTS say how many there are at least, CLUSTER_SEED which faults: a run notes its
%% own. Half of the tasks are idempotent, and all of these must succeed.
-module(cluster_chaos).

-export([setup/0, tests/1]).

-include_lib("stdlib/include/assert.hrl").

-define(NODES, 4).
-define(CALLERS, 10). % on each host
-define(PAUSE, 1).
-define(TARGETS, [{pool, chaos}, {again, chaos}]).

setup() ->
    cluster:start(#{1 => #{}, 2 => #{}}),
    true = cluster:rpc(1, net_kernel, connect_node, [cluster:vm(2)]), % once: they find each other again by themselves
    [ok = cluster:rpc(Host, py, pool_start, [chaos, #{nodes => cluster:specs(?NODES)}]) || Host <- [1, 2]],
    [await_pool(Host) || Host <- [1, 2]],
    #{}.

%% Until a VM can call all nodes of the pool, which it attaches when it has named the pool: how many milliseconds
%% that took.
await_pool(Host) ->
    {ok, 2.0} = cluster:rpc(Host, py, call, [math, sqrt, [4], #{}, #{pool => chaos}]),
    {Took, _} = live:timed(fun() -> live:eventually(fun() -> pool_nodes(Host) =:= 2 * ?NODES orelse pool_nodes(Host) end) end),
    round(Took).

pool_nodes(Host) ->
    {ok, #{nodes := Nodes}} = cluster:rpc(Host, py, pool_info, [chaos]),
    length(Nodes).

tests(_) ->
    [{"tasks and faults: each task has one outcome, and none has run twice that must not", fun chaos/0},
     {"nothing odd is in the logs", fun logs/0}].

number(Name, Default) ->
    list_to_integer(os:getenv(Name, integer_to_list(Default))).

chaos() ->
    Seed = number("CLUSTER_SEED", erlang:system_time(millisecond)),
    live:note("CLUSTER_SEED=~b", [Seed]),
    rand:seed(exsss, Seed),
    [ok = cluster:rpc(Host, load, start, [#{callers => ?CALLERS, host => Host, pause => ?PAUSE, targets => ?TARGETS}])
     || Host <- [1, 2]],
    {Took, Faults} = live:timed(fun() -> faults(number("CLUSTER_FAULTS", 20)) end),
    await_tasks(number("CLUSTER_TASKS", 10000)),
    Loads = live:pmap(fun(Host) -> cluster:rpc(Host, load, stop, [live:ms(15000)]) end, [1, 2]),
    live:note("in ~b s ~p", [round(Took / 1000), Faults]),
    Outcomes = load:check(Loads, cluster:ran()),
    live:note("~b tasks: ~p", [lists:sum([N || #{submitted := N} <- Loads]), Outcomes]),
    ?assertNot(is_map_key(not_started, Outcomes)), % what has not started is placed anew
    live:note("ms until each VM has all nodes again: ~w", [[await_pool(Host) || Host <- [1, 2]]]).

await_tasks(Count) ->
    live:eventually(live:ms(600000), fun() ->
        Submitted = lists:sum([cluster:rpc(Host, load, submitted, []) || Host <- [1, 2]]),
        Submitted >= Count orelse Submitted
    end).

logs() ->
    ?assertEqual([], [Line || Host <- [1, 2], Line <- cluster:odd_lines(Host)]).

%%% ------------------------------------------------------------------ faults

%% One after another, with pauses at random; at the end all links are whole and epmd is there. How many of each.
faults(Count) ->
    Kinds = lists:sublist(lists:append([shuffled(deck()) || _ <- lists:seq(0, Count div length(deck()))]), Count),
    [begin fault(Kind, rand:uniform(2)), pause(500) end || Kind <- Kinds],
    cluster:mend(),
    [cluster:start_epmd(Host) || Host <- [1, 2]],
    maps:map(fun(_, Those) -> length(Those) end, maps:groups_from_list(fun(Kind) -> Kind end, Kinds)).

%% How often each is among so many; a cut that is noticed takes five seconds.
deck() ->
    lists:duplicate(10, kill) ++ lists:duplicate(3, disconnect) ++ [epmd, epmd, cut, cut, cut_one_way, cut_one_way, cut_long].

shuffled(List) ->
    [X || {_, X} <- lists:sort([{rand:uniform(), X} || X <- List])].

pause(Ms) ->
    receive after rand:uniform(Ms) -> ok end.

fault(kill, Host) ->
    kill(Host);
fault(disconnect, Host) ->
    [cluster:rpc(Host, erlang, disconnect_node, [Node]) || Node <- any(cluster:rpc(Host, py, nodes, []))];
fault(epmd, Host) ->
    cluster:kill_epmd(Host),
    pause(500),
    cluster:start_epmd(Host);
fault(cut, _) ->
    cluster:cut(1, 2),
    pause(1500),
    cluster:mend();
fault(cut_one_way, Host) ->
    cluster:cut_one_way(Host, 3 - Host),
    pause(1500),
    cluster:mend();
fault(cut_long, Host) -> % a node is killed, too, while half of its callers cannot see it
    cluster:cut(1, 2),
    kill(Host),
    receive after cluster:detected() -> ok end,
    cluster:mend().

%% Any that is up; one that was killed a moment ago may still count as that.
kill(Host) ->
    [live:sh("kill -KILL " ++ integer_to_list(OsPid)) || {_, OsPid} <- any(cluster:running(Host))].

any([]) -> [];
any(List) -> [lists:nth(rand:uniform(length(List)), List)].
