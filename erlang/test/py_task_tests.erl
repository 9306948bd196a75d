%% py_task_tests - calls that are answered by a message, and given up.
-module(py_task_tests).

-include_lib("eunit/include/eunit.hrl").

-define(ROUNDS, 10).
-define(WORDS, 300000). % of a row: whoever takes it collects garbage before it goes on, and is not running then

given_up_test_() ->
    {"an answer that was on its way when its call was given up is had then, or never", {timeout, 60, fun() ->
        {ok, Table} = gen_server:start(py_table, [], []),
        Node = spawn(fun() -> receive after infinity -> ok end end),
        Calls = fun() -> [{make_ref(), Node, self(), async_result, m, lists:seq(1, ?WORDS), none} || _ <- [1, 2]] end,
        try [given_up(Calls()) || _ <- lists:seq(1, ?ROUNDS)]
        after
            exit(Node, kill),
            gen_server:stop(Table)
        end
    end}}.

given_up(Rows) ->
    ok = py_table:add_calls(Rows),
    Refs = [element(1, Row) || Row <- Rows],
    ok = py_table:answer_calls([{Ref, {ok, answered}} || Ref <- Refs]),
    until(fun() -> not py_table:is_call(hd(Refs)) end), % so it is being answered
    Outcomes = [py_task:await(Ref, 0) || Ref <- Refs],
    ?assertEqual([], [Other || Other <- Outcomes, Other =/= {ok, answered}, Other =/= {error, timeout}]),
    ?assertEqual([], receive {async_result, _, _} = Late -> [Late] after 50 -> [] end).

until(Fun) -> Fun() orelse until(Fun).
