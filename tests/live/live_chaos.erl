%% live_chaos - a configured node that dies in every way, under load: each call has one outcome.
-module(live_chaos).

-export([setup/0, tests/1]).

-include_lib("stdlib/include/assert.hrl").

-define(ROUNDS, 100).

setup() ->
    application:set_env(pynode, nodes, [#{path => [live:py("")], workers => 2, program => os:getenv("PYNODE"),
                                          restart => #{intensity => 3, period => 50, backoff_min => 10}}]),
    {ok, _} = application:ensure_all_started(pynode),
    [Node] = py:nodes(),
    #{node => Node}.

tests(Ctx) ->
    [{Name, fun() -> Fun(Ctx) end} || {Name, Fun} <- cases()].

cases() ->
    [{"the node is killed 100 times under 50 callers: each call has one outcome", fun killed/1},
     {"the connection is cut 100 times under 50 callers: each call has one outcome", fun disconnected/1},
     {"a killed node: its callers know in 50 ms, a new one is ready in 1 s", fun times/1},
     {"node_down says whether a call had been started", fun progress/1},
     {"spawn_call: an answer for each, whatever becomes of the node", fun spawned/1},
     {"a segmentation fault, an abort, an exit in a call end that node alone", fun crashes/1},
     {"a call that does not end, with kill_after, ends the node", fun kill_after/1},
     {"the process that stands for the node is killed: callers know, the node is attached again", fun stand_in_killed/1},
     {"the coordinator is killed: the node lives on and is taken over", fun coordinator_killed/1},
     {"nothing is left behind", fun no_litter/1}].

%%% ------------------------------------------------------------------ load

%% Callers that call until they are stopped; each counts what it got.
load(Count) ->
    [spawn_monitor(fun() -> caller(P, 0, #{}) end) || P <- lists:seq(1, Count)].

caller(P, I, Outcomes) ->
    receive
        stop -> exit({calls, I, Outcomes, process_info(self(), message_queue_len)})
    after 0 ->
            Outcome = case py:call(operator, add, [P, I]) of
                          {ok, Sum} when Sum =:= P + I -> ok;
                          {error, {node_down, _, Progress}} -> Progress;
                          Other -> {wrong, Other}
                      end,
            Outcome =/= not_started orelse receive after 5 -> ok end,
            caller(P, I + 1, maps:update_with(Outcome, fun(N) -> N + 1 end, 1, Outcomes))
    end.

%% Stops them: {how many calls, what became of them}. None has anything in its mailbox.
outcomes(Callers) ->
    [Pid ! stop || {Pid, _} <- Callers],
    Ends = [receive {'DOWN', Ref, process, _, End} -> End after live:ms(10000) -> {unanswered, Pid} end
            || {Pid, Ref} <- Callers],
    Unanswered = [Pid || {unanswered, Pid} <- Ends],
    ?assertEqual([], Unanswered),
    ?assertEqual([], [Len || {calls, _, _, {message_queue_len, Len}} <- Ends, Len > 0]),
    Sum = lists:foldl(fun({calls, _, M, _}, Acc) ->
        maps:fold(fun(K, N, A) -> maps:update_with(K, fun(V) -> V + N end, N, A) end, Acc, M)
    end, #{}, Ends),
    {lists:sum([N || {calls, N, _, _} <- Ends]), Sum}.

%% Kills the node's process, whichever it is now: its name and when.
kill() ->
    live:eventually(fun() -> length(py:nodes()) =:= 1 end),
    #{nodes := [#{node := Node, info := #{os_pid := Pid}}]} = py:info(),
    {0, _} = live:sh("kill -KILL " ++ integer_to_list(Pid)),
    {Node, Pid}.

%% Waits for a node with another process.
back(Old) ->
    live:eventually(fun() ->
        case py:info() of
            #{nodes := [#{state := up, info := #{os_pid := Pid}}]} -> Pid =/= Old;
            Other -> Other
        end
    end).

killed(_) ->
    Callers = load(50),
    [begin {_, Pid} = kill(), back(Pid) end || _ <- lists:seq(1, ?ROUNDS)],
    check(outcomes(Callers)).

check({Calls, Outcomes}) ->
    live:note("~b calls: ~p", [Calls, Outcomes]),
    ?assertEqual([], maps:keys(Outcomes) -- [ok, not_started, started, unknown]),
    ?assertEqual(Calls, lists:sum(maps:values(Outcomes))),
    ?assert(maps:get(ok, Outcomes) > ?ROUNDS).

disconnected(#{node := Node}) ->
    Callers = load(50),
    [begin
         #{nodes := [#{info := #{os_pid := Pid}}]} = py:info(),
         true = erlang:disconnect_node(Node),
         live:eventually(fun() -> py:call(math, sqrt, [4]) =:= {ok, 2.0} end),
         #{nodes := [#{info := #{os_pid := Pid}}]} = py:info() % the node itself lives on
     end || _ <- lists:seq(1, ?ROUNDS)],
    check(outcomes(Callers)).

times(_) ->
    Rounds = [begin
                  Gate = #{port := Port} = live:gate(),
                  Self = self(),
                  Callers = [spawn_link(fun() ->
                      Result = py:call(gate, wait, [Port], #{}, infinity),
                      Self ! {answered, self(), Result, erlang:monotonic_time(millisecond)}
                  end) || _ <- lists:seq(1, 10)],
                  Doors = [live:entered(Gate) || _ <- Callers],
                  {Node, Pid} = kill(),
                  Killed = erlang:monotonic_time(millisecond),
                  Answered = [receive {answered, C, {error, {node_down, Node, _}}, T} -> T end || C <- Callers],
                  back(Pid),
                  Back = erlang:monotonic_time(millisecond),
                  [gen_tcp:close(D) || D <- Doors],
                  {lists:max(Answered) - Killed, Back - Killed}
              end || _ <- lists:seq(1, 7)],
    {Answers, Backs} = lists:unzip(Rounds),
    live:note("ms until callers know: ~w, until a new node is ready: ~w", [Answers, Backs]),
    ?assert(median(Answers) =< live:ms(50)),
    ?assert(median(Backs) =< live:ms(1000)).

median(List) ->
    lists:nth((length(List) + 1) div 2, lists:sort(List)).

progress(#{node := Node}) ->
    Gate = #{port := Port} = live:gate(),
    Refs = [py:spawn_call(gate, wait, [Port], #{}, infinity) || _ <- [1, 2]],
    Doors = [live:entered(Gate) || _ <- Refs],
    Caller = live:pmap(fun(F) -> F() end, [fun() -> py:call(gate, wait, [Port], #{}, infinity) end,
                                           fun() -> live:entered(Gate), started(), kill() end]),
    ?assertMatch([{error, {node_down, Node, started}}, {Node, _}], Caller),
    ?assertEqual([{error, {node_down, Node, started}} || _ <- Refs], [py:await(Ref) || Ref <- Refs]),
    {_, Pid} = lists:last(Caller),
    [gen_tcp:close(D) || D <- Doors],
    back(Pid).

%% The node tells of what has run for a millisecond; wait until its process here knows of three.
started() ->
    {{_, Pid, _, _}} = py_table:nodes(default),
    live:eventually(fun() -> #{started := Refs} = py_node:info(Pid), length(Refs) >= 3 end).

spawned(_) ->
    Refs = [py:spawn_call(time, sleep, [0.0001]) || _ <- lists:seq(1, 500)],
    {_, Pid} = kill(),
    Results = [py:await(Ref, live:ms(10000)) || Ref <- Refs],
    ?assertEqual([], [R || R <- Results, R =/= {ok, none}, not is_down(R)]),
    back(Pid),
    ?assertEqual([], live:flush()).

is_down({error, {node_down, _, _}}) -> true;
is_down(_) -> false.

crashes(#{node := Node}) ->
    ?assert(is_alive()),
    [begin
         #{nodes := [#{info := #{os_pid := Pid}}]} = py:info(),
         Result = py:eval(Code),
         ?assertMatch({Code, {error, {node_down, Node, _}}}, {Code, Result}),
         back(Pid),
         ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4]))
     end || Code <- ["__import__('ctypes').string_at(0)", "__import__('os').abort()", "__import__('os')._exit(3)",
                     "__import__('os')._exit(0)"]].

kill_after(_) ->
    Spec = #{name => stuck, path => [live:py("")], program => os:getenv("PYNODE"), kill_after => 200,
             restart => #{intensity => 3, period => 50}},
    with_nodes([Spec], fun() ->
        #{nodes := [#{info := #{os_pid := Pid}}]} = py:info(),
        %% Holds the GIL in C: no bytecode, no other thread.
        ?assertEqual({error, timeout}, py:eval("__import__('ctypes').PyDLL(None).sleep(60)", #{}, 50)),
        back(Pid),
        ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4]))
    end).

%% The application with other nodes for a while.
with_nodes(Specs, Fun) ->
    {ok, Before} = application:get_env(pynode, nodes),
    restart_with(Specs),
    try Fun() after restart_with(Before) end.

restart_with(Specs) ->
    ok = application:stop(pynode),
    application:set_env(pynode, nodes, Specs),
    {ok, _} = application:ensure_all_started(pynode).

stand_in_killed(#{node := Node}) ->
    {{Node, Pid, _, _}} = py_table:nodes({node, Node}),
    Gate = #{port := Port} = live:gate(),
    Ref = py:spawn_call(gate, wait, [Port], #{}, infinity),
    Call = spawn_monitor(fun() -> exit({result, py:call(gate, wait, [Port], #{}, infinity)}) end),
    Doors = [live:entered(Gate), live:entered(Gate)],
    exit(Pid, kill),
    ?assertMatch({error, {node_down, Node, unknown}}, py:await(Ref)),
    ?assertMatch({result, {error, {node_down, Node, unknown}}},
                 receive {'DOWN', M, process, _, R} when M =:= element(2, Call) -> R end),
    live:eventually(fun() -> py:call(math, sqrt, [4]) =:= {ok, 2.0} end),
    [live:open(Door) || Door <- Doors],
    ?assertEqual([], live:flush()).

coordinator_killed(#{node := Node}) ->
    #{nodes := [#{info := #{os_pid := Pid}}]} = py:info(),
    Callers = load(10),
    exit(whereis(py_coordinator), kill),
    live:eventually(fun() ->
        try py:info() of
            #{nodes := [#{node := Node, state := up, info := #{os_pid := Pid}}], down := []} -> true;
            Other -> Other
        catch exit:R -> R
        end
    end),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4])),
    {Calls, Outcomes} = outcomes(Callers),
    ?assertEqual(Calls, lists:sum(maps:values(Outcomes))).

no_litter(_) ->
    ?assertEqual([], ets:tab2list(py_calls)),
    ?assertEqual(1, length(supervisor:which_children(py_node_sup))),
    ?assertEqual(1, length(supervisor:which_children(py_port_sup))),
    Names = [py_coordinator, py_table, py_log, pynode_sup, py_node_sup, py_port_sup],
    ?assertEqual([], [N || N <- Names, process_info(whereis(N), message_queue_len) =/= {message_queue_len, 0}]).
