%% py_backlog_tests - callers that wait for a place in a pool.
-module(py_backlog_tests).

-include_lib("eunit/include/eunit.hrl").

%% A pool without room: its only node is one that has just gone.
with(Fun) ->
    {ok, Table} = gen_server:start(py_table, [], []),
    {Gone, Monitor} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', Monitor, process, Gone, _} -> ok end,
    py_table:set_pools(#{p => #{entries => {{a, Gone, 1, {pynode, a}}}, labels => #{}, strategy => random,
                                max_queue => 3, max_queue_per_caller => 2, used => true}}),
    start(),
    try Fun()
    after
        gen_server:stop(py_backlog),
        gen_server:stop(Table)
    end.

start() ->
    {ok, _} = gen_server:start({local, py_backlog}, py_backlog, [], []).

waiter(Where, Timeout) ->
    waiter(any, Where, Timeout).

waiter(Which, Where, Timeout) ->
    waiter(Which, Where, Timeout, make_pid()).

%% It waits on behalf of that process.
waiter(Which, Where, Timeout, Caller) ->
    Self = self(),
    Before = py_backlog:count(p),
    Pid = spawn(fun() -> Self ! {self(), py_backlog:wait({p, Which}, Where, {3, Caller, 2}, Timeout)} end),
    until(fun() -> py_backlog:count(p) =:= Before + 1 end),
    Pid.

%% One that nobody else waits for.
make_pid() ->
    spawn(fun() -> ok end).

until(Fun) ->
    case Fun() of
        true -> ok;
        false -> timer:sleep(1), until(Fun)
    end.

outcome(Waiter) ->
    receive {Waiter, Result} -> Result after 2000 -> none end.

in_order_test() ->
    with(fun() ->
        [A, B, C] = [waiter(Where, infinity) || Where <- [back, back, front]],
        [begin
             py_backlog:free(p, n),
             ?assertEqual(turn, outcome(Waiter))
         end || Waiter <- [C, A, B]],
        ?assertNot(py_backlog:is_waited({p, any}))
    end).

%% Ticks give turns where there is room: the tests of this pool lost those who waited when a tick came too early.
no_tick_gives_a_turn_without_room_test() ->
    with(fun() ->
        Waiters = [waiter(Which, back, infinity) || Which <- [any, {node, a}, {labels, #{x => 1}}]],
        [?assertEqual(none, receive {Waiter, Result} -> Result after 50 -> none end) || Waiter <- Waiters],
        ?assertEqual(3, py_backlog:count(p))
    end).

%% Who may go to one node only, or to some, holds up nobody else.
apart_test() ->
    with(fun() ->
        A = waiter({node, a}, back, infinity),
        L = waiter({labels, #{x => 1}}, back, infinity),
        Any = waiter(any, back, infinity),
        ?assertEqual(3, py_backlog:count(p)),
        py_backlog:free(p, b),
        ?assertEqual([turn, turn], [outcome(Waiter) || Waiter <- [L, Any]]),
        py_backlog:free(p, a),
        ?assertEqual(turn, outcome(A)),
        ?assertEqual(0, py_backlog:count(p))
    end).

overloaded_test() ->
    with(fun() ->
        [waiter(back, infinity) || _ <- [1, 2, 3]],
        ?assertEqual(overloaded, py_backlog:wait({p, any}, back, {3, self(), 2}, infinity)),
        ?assertEqual(overloaded, py_backlog:wait({p, any}, back, {0, self(), 2}, infinity)),
        waiter(front, infinity)
    end).

%% One caller has two waiting, and no more; others have room, also after one of the two has left.
greedy_test() ->
    with(fun() ->
        Wait = fun() -> py_backlog:wait({p, any}, back, {9, self(), 2}, infinity) end,
        A = waiter(any, back, infinity, self()),
        B = waiter({node, a}, back, infinity, self()),
        ?assertEqual(overloaded, Wait()),
        Other = waiter(any, back, infinity),
        py_backlog:free(p, n),
        ?assertEqual(turn, outcome(A)),
        waiter(any, back, infinity, self()),
        ?assertEqual(overloaded, Wait()),
        exit(B, kill),
        until(fun() -> py_backlog:count(p) =:= 2 end),
        Again = waiter(any, back, infinity, self()),
        ?assertEqual(overloaded, Wait()),
        [py_backlog:free(p, n) || _ <- [1, 2, 3]],
        ?assertEqual([turn, turn], [outcome(Pid) || Pid <- [Other, Again]])
    end).

timeout_test() ->
    with(fun() ->
        ?assertEqual(timeout, py_backlog:wait({p, any}, back, {3, self(), 2}, 20)),
        until(fun() -> not py_backlog:is_waited({p, any}) end),
        A = waiter(back, 1000),
        B = waiter(back, infinity),
        ?assertEqual(timeout, outcome(A)),
        py_backlog:free(p, n),
        ?assertEqual(turn, outcome(B))
    end).

killed_test() ->
    with(fun() ->
        A = waiter(back, infinity),
        B = waiter(back, infinity),
        exit(A, kill),
        until(fun() -> py_backlog:count(p) =:= 1 end),
        py_backlog:free(p, n),
        ?assertEqual(turn, outcome(B))
    end).

%% Who waits is not left alone: it asks again.
restarted_test() ->
    with(fun() ->
        A = waiter(back, infinity),
        exit(whereis(py_backlog), kill),
        ?assertEqual(turn, outcome(A)),
        ?assertEqual(not_started, py_backlog:wait({p, any}, back, {3, self(), 2}, 20)),
        start()
    end).

%% A pool that has gone lets those who wait find out.
gone_test() ->
    with(fun() ->
        A = waiter(back, infinity),
        py_table:set_pools(#{}),
        ?assertEqual(turn, outcome(A))
    end).
