%% py_counter_tests - counters of calls in flight: that each node has its own, however many attach at once.
-module(py_counter_tests).

-include_lib("eunit/include/eunit.hrl").

-define(NODES, 50).

%% Nodes that attach at once used to make an array each, and the last one took the place of the others'.
at_once_test() ->
    persistent_term:erase(py_counter),
    {ok, Table} = py_table:start_link(),
    Self = self(),
    Pids = [spawn_link(fun() -> receive go -> ok end, Self ! {counter, py_counter:new()}, receive stop -> ok end end)
            || _ <- lists:seq(1, ?NODES)],
    [Pid ! go || Pid <- Pids],
    Counters = [receive {counter, Counter} -> Counter end || _ <- Pids],
    Array = py_counter:array(),
    Slots = [begin
                 {Slot, 1} = py_counter:enter(Array, Counter),
                 1 = py_counter:in_flight(Counter),
                 Slot
             end || Counter <- Counters],
    ?assertEqual(?NODES, length(lists:usort(Slots))),
    [py_counter:leave(Array, Slot) || Slot <- Slots],
    [?assertEqual(0, py_counter:in_flight(Counter)) || Counter <- Counters],
    [Pid ! stop || Pid <- Pids],
    gen_server:stop(Table).

%% There is one place for each of 4096 nodes; who comes then is told, and finds one when a node has gone.
full_test_() ->
    {timeout, 60, fun full/0}.

full() ->
    persistent_term:erase(py_counter),
    {ok, Table} = py_table:start_link(),
    [true = is_integer(py_counter:new()) || _ <- lists:seq(1, 4095)],
    Self = self(),
    {Last, Monitor} = spawn_monitor(fun() -> Self ! {counter, py_counter:new()}, receive stop -> ok end end),
    Counter = receive {counter, C} -> C end,
    ?assertEqual(full, py_counter:new()),
    exit(Last, kill),
    receive {'DOWN', Monitor, process, Last, killed} -> ok end,
    ok = py_table:forget(Last),
    ?assertEqual(Counter, py_counter:new()),
    gen_server:stop(Table).
