%% live_tasks - what is begun and answered later, against a real node: calls, tasks, batches, streams.
-module(live_tasks).

-export([setup/0, tests/1]).

-include_lib("stdlib/include/assert.hrl").

setup() ->
    start([#{}]),
    #{}.

%% The application in this VM, with these nodes.
start(Specs) ->
    Base = #{path => [live:py("")], workers => 2, program => os:getenv("PYNODE")},
    application:set_env(pynode, nodes, [maps:merge(Base, Spec) || Spec <- Specs]),
    {ok, _} = application:ensure_all_started(pynode),
    ok.

tests(Ctx) ->
    [{Name, fun() -> Fun(Ctx) end} || {Name, Fun} <- cases()].

cases() ->
    [{"10000 under way and the node is killed: each has one outcome", fun storm_node/1},
     {"10000 under way and the connection is cut: each has one outcome", fun storm_cut/1},
     {"10000 under way and py_node is killed: each has one outcome", fun storm_py_node/1},
     {"10000 under way and the coordinator is killed: each has one outcome", fun storm_coordinator/1},
     {"10000 under way and py_table is killed: each has one outcome", fun storm_table/1},
     {"10000 under way and the application stops: each has one outcome", fun storm_stop/1},
     {"their owners are killed, many at once: nothing is left of what they began", fun storm_owners/1},
     {"nothing is left in any mailbox or table", fun no_litter/1}].

%%% ------------------------------------------------------------------ storms

%% Owners begin calls of all kinds until they are told to stop, and give up some; meanwhile something happens.
%% Each call must have had one outcome then, and no message may be left.
storm(Happens) ->
    Self = self(),
    Owners = [spawn_link(fun() -> Self ! {self(), owner(I)} end) || I <- lists:seq(1, 20)],
    receive after 100 -> ok end,
    Happens(),
    receive after 100 -> ok end,
    [Pid ! stop || Pid <- Owners],
    All = lists:append([receive {Pid, Outcomes} -> Outcomes end || Pid <- Owners]),
    Counts = lists:foldl(fun(O, Acc) -> maps:update_with(O, fun(N) -> N + 1 end, 1, Acc) end, #{}, All),
    live:note("~p", [Counts]),
    ?assertEqual([], maps:keys(Counts) -- [ok, timeout, cancelled, draining, not_started, started, unknown]),
    ?assert(maps:get(ok, Counts) > 0),
    live:eventually(fun() -> rows() =:= [] orelse length(rows()) end).

rows() ->
    try ets:tab2list(py_calls) catch error:badarg -> [] end.

owner(I) ->
    rand:seed(exsss, I),
    owner_rounds([]).

owner_rounds(Outcomes) ->
    receive
        stop -> no_more(), Outcomes
    after 0 ->
            owner_rounds(owner_round() ++ Outcomes)
    end.

%% 500 at a time under way.
owner_round() ->
    Refs = [begin_one(rand:uniform(10), N) || N <- lists:seq(1, 500)],
    Outcomes = lists:append([end_one(Ref, N) || {Ref, N} <- Refs]),
    is_quiet(Outcomes) andalso receive after 5 -> ok end,
    Outcomes.

is_quiet(Outcomes) -> lists:any(fun(O) -> O =:= not_started end, Outcomes).

begin_one(1, N) -> {py:spawn_call(operator, add, [N, 1], #{}, 1 + N rem 20), N};
begin_one(2, N) -> Ref = py:spawn_call(operator, add, [N, 1]), py:cancel(Ref), {Ref, N};
begin_one(3, N) -> {{await, py:spawn_call(operator, add, [N, 1])}, N};
begin_one(4, N) -> {{parallel, N}, N};
begin_one(_, N) -> {py:spawn_call(operator, add, [N, 1]), N}.

end_one({await, Ref}, N) -> [outcome(py:await(Ref, N rem 3), N)];
end_one({parallel, N}, _) when N rem 50 =:= 0 ->
    {ok, Results} = py:parallel([{operator, add, [N, 1]} || _ <- lists:seq(1, 20)], N rem 4),
    20 = length(Results),
    [outcome(Result, N) || Result <- Results];
end_one({parallel, _}, _) -> [];
end_one(Ref, N) ->
    receive {Tag, Ref, Result} when Tag =:= py_response; Tag =:= async_result -> [outcome(Result, N)]
    after live:ms(15000) -> exit({no_answer, Ref, ets:lookup(py_calls, Ref)})
    end.

outcome({ok, V}, N) when V =:= N + 1 -> ok;
outcome({error, {node_down, _, Progress}}, _) -> Progress;
outcome({error, What}, _) when is_atom(What) -> What;
outcome(Other, _) -> exit({wrong, Other}).

%% Longer than anything late could be on its way.
no_more() ->
    receive Message -> exit({late, Message}) after 200 -> ok end.

serves() ->
    live:eventually(fun() -> Result = py:call(math, sqrt, [4]), Result =:= {ok, 2.0} orelse Result end).

py_node() ->
    {{_, Pid, _}} = py_table:nodes(default),
    Pid.

storm_node(_) ->
    storm(fun() ->
        #{nodes := [#{info := #{os_pid := Pid}}]} = py:info(),
        {0, _} = live:sh("kill -KILL " ++ integer_to_list(Pid))
    end),
    serves().

storm_cut(_) ->
    storm(fun() -> [begin [erlang:disconnect_node(N) || N <- py:nodes()], serves() end || _ <- lists:seq(1, 5)] end).

storm_py_node(_) ->
    [storm(fun() -> [begin exit(py_node(), kill), serves() end || _ <- lists:seq(1, 20)] end) || _ <- [1, 2]].

storm_coordinator(_) ->
    storm(fun() -> [kill(py_coordinator) || _ <- [1, 2]] end),
    serves().

kill(Name) ->
    Pid = whereis(Name),
    exit(Pid, kill),
    live:eventually(fun() -> whereis(Name) =/= Pid andalso is_pid(whereis(Name)) end),
    serves().

storm_table(_) ->
    storm(fun() -> kill(py_table) end).

storm_stop(_) ->
    storm(fun() ->
        ok = application:stop(pynode),
        {ok, _} = application:ensure_all_started(pynode)
    end),
    serves().

storm_owners(_) ->
    Pids = [spawn(fun() -> [py:spawn_call(time, sleep, [0.001]) || _ <- lists:seq(1, 100)], receive stop -> ok end end)
            || _ <- lists:seq(1, 200)],
    live:eventually(fun() -> length(rows()) > 10000 orelse length(rows()) end),
    [exit(Pid, kill) || Pid <- Pids],
    live:eventually(fun() -> rows() =:= [] orelse length(rows()) end),
    ?assertEqual(0, proplists:get_value(owners, element(2, process_info(py_node(), dictionary)))),
    live:within(10000, fun serves/0).

no_litter(_) ->
    live:eventually(fun() -> rows() =:= [] end),
    live:eventually(fun() -> #{started := S, cancelled := C} = py_node:info(py_node()), {S, C} =:= {[], []} orelse {S, C} end),
    %% The monitors of owners that have ended or begin nothing are let go at a turn.
    live:eventually(10000, fun() ->
        {monitors, Monitors} = process_info(py_node(), monitors),
        length(Monitors) =:= 2 orelse Monitors % the node, py_home
    end),
    Names = [py_coordinator, py_table, py_log, pynode_sup, py_node_sup, py_port_sup],
    ?assertEqual([], [N || N <- Names, process_info(whereis(N), message_queue_len) =/= {message_queue_len, 0}]).
