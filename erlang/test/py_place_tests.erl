%% py_place_tests - which of several nodes a call goes to.
-module(py_place_tests).

-include_lib("eunit/include/eunit.hrl").

%% Nodes whose counters are this process's, with so many calls in flight, others' calls, and a limit.
with(Nodes, Fun) ->
    {ok, Table} = gen_server:start(py_table, [], []),
    try
        Entries = [begin
                       Counter = py_counter:new(),
                       py_counter:report(Counter, Others, Limit, Limit, 0),
                       [py_counter:enter(py_counter:array(), Counter) || _ <- lists:seq(1, Own)],
                       {Node, self(), Counter, {pynode, Node}}
                   end || {Node, Own, Others, Limit} <- Nodes],
        Fun(list_to_tuple(Entries))
    after
        gen_server:stop(Table)
    end.

placed({{Node, _, _, _}, _, _}) -> Node;
placed(Other) -> Other.

none_test() ->
    ?assertEqual(none, py_place:place({}, #{})),
    ?assertEqual(none, py_place:place({}, #{key => 1})),
    ?assertEqual(none, py_place:any({}, #{})).

least_loaded_test() ->
    with([{a, 3, 0, 8}, {b, 1, 0, 8}, {c, 0, 2, 8}], fun(Entries) ->
        ?assertEqual(b, placed(py_place:place(Entries, #{}))),
        ?assertEqual(5 + 6 + 8, py_place:room(Entries)) % others' calls are not this VM's limit
    end).

%% In thousandths of what it takes: four of eight are less than three of four.
by_limit_test() ->
    with([{a, 4, 0, 8}, {b, 3, 0, 4}], fun(Entries) -> ?assertEqual(a, placed(py_place:place(Entries, #{}))) end).

full_test() ->
    with([{a, 2, 0, 2}, {b, 3, 5, 3}], fun(Entries) ->
        ?assertEqual(full, py_place:place(Entries, #{})),
        ?assertEqual(full, py_place:place(Entries, #{key => k})),
        ?assertEqual(0, py_place:room(Entries)),
        ?assertMatch({{_, _, _, _}, _, _}, py_place:place(Entries, #{bounded => false}))
    end).

%% However many come at once, no node gets more than it takes.
last_place_test() ->
    with([{a, 0, 0, 5}, {b, 0, 0, 5}, {c, 0, 0, 5}], fun(Entries) ->
        Self = self(),
        [spawn_link(fun() -> Self ! {placed, placed(py_place:place(Entries, #{}))} end) || _ <- lists:seq(1, 100)],
        Placed = [receive {placed, Node} -> Node end || _ <- lists:seq(1, 100)],
        ?assertEqual(85, length([full || full <- Placed])),
        ?assertEqual([5, 5, 5], [length([N || N <- Placed, N =:= Node]) || Node <- [a, b, c]])
    end).

%% What others had there when it was said counts for as long as a call stays.
fading_test() ->
    with([{a, 2, 0, 4}, {b, 0, 4, 4}], fun({_, {b, _, Counter, _}} = Entries) ->
        ?assertEqual(a, placed(py_place:place(Entries, #{}))),
        py_counter:report(Counter, 4, 4, 4, 1000),
        receive after 20 -> ok end,
        #{others := Others} = py_counter:load(Counter),
        ?assert(Others < 0.1),
        ?assertEqual(b, placed(py_place:place(Entries, #{})))
    end).

dead_test() ->
    with([{a, 0, 0, 9}, {b, 5, 0, 9}], fun({{a, _, Counter, _}, B}) ->
        {Pid, Monitor} = spawn_monitor(fun() -> ok end),
        receive {'DOWN', Monitor, process, Pid, _} -> ok end,
        Dead = {a, Pid, Counter, {pynode, a}},
        ?assertEqual(b, placed(py_place:place({Dead, B}, #{}))),
        ?assertEqual(b, placed(py_place:place({Dead, B}, #{key => 1}))),
        ?assertEqual(none, py_place:place({Dead}, #{})),
        ?assertEqual(2, py_place:room({Dead, B}))
    end).

%% A key goes to one node; a node that goes moves its own keys, and no others.
key_test() ->
    Nodes = [{list_to_atom("n" ++ integer_to_list(I)), 0, 0, 100000} || I <- lists:seq(1, 10)],
    with(Nodes, fun(Entries) ->
        Place = fun(E) -> [placed(py_place:place(E, #{key => K})) || K <- lists:seq(1, 2000)] end,
        Before = Place(Entries),
        ?assertEqual(Before, Place(Entries)),
        [?assert(length([N || N <- Before, N =:= Node]) > 120) || {Node, _, _, _} <- Nodes],
        After = Place(erlang:delete_element(1, Entries)),
        ?assertEqual([], [moved || {B, A} <- lists:zip(Before, After), A =/= B, B =/= n1])
    end).

key_is_full_test() ->
    with([{a, 0, 0, 1}, {b, 0, 0, 1}], fun(Entries) ->
        First = placed(py_place:place(Entries, #{key => k})),
        ?assertEqual(full, py_place:place(Entries, #{key => k, affinity => strict})),
        Second = placed(py_place:place(Entries, #{key => k, affinity => soft})),
        ?assertEqual([a, b], lists:sort([First, Second]))
    end).

matching_test() ->
    Entries = list_to_tuple([{Node, self(), I, {pynode, Node}} || {Node, I} <- [{a, 1}, {b, 2}, {c, 3}]]),
    Labels = #{a => #{gpu => true, zone => x}, b => #{gpu => false}},
    Match = fun(Wanted) -> [N || {N, _, _, _} <- tuple_to_list(py_place:matching(Wanted, Labels, Entries))] end,
    ?assertEqual([a, b, c], Match(#{})),
    ?assertEqual([a], Match(#{gpu => true})),
    ?assertEqual([], Match(#{gpu => true, zone => y})).

labels_test() ->
    ?assertEqual(py_place:labels(#{gpu => true, zone => "a"}), py_place:labels(#{<<"gpu">> => true, "zone" => a})),
    ?assertNotEqual(py_place:labels(#{gpu => true}), py_place:labels(#{gpu => 1})),
    ?assert(py_place:have(#{}, #{})),
    ?assertEqual(#{<<"n">> => [300, -1]}, py_place:labels(#{n => [300, -1]})).

%% Of many two are looked at: none gets more than a fair share by far.
spread_test() ->
    Nodes = [{list_to_atom("n" ++ integer_to_list(I)), 0, 0, 1000} || I <- lists:seq(1, 50)],
    with(Nodes, fun(Entries) ->
        Placed = [spawn_monitor(fun() -> [py_place:place(Entries, #{}) || _ <- lists:seq(1, 10)] end) || _ <- lists:seq(1, 500)],
        [receive {'DOWN', Monitor, process, _, _} -> ok end || {_, Monitor} <- Placed],
        Counts = [py_counter:in_flight(C) || {_, _, C, _} <- tuple_to_list(Entries)],
        ?assert(lists:max(Counts) =< 120),
        ?assert(lists:min(Counts) >= 80)
    end).
