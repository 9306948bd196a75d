%% live_ids - calls with an id: each runs once, however often it is sent and whatever becomes of its connection.
-module(live_ids).

-export([setup/0, tests/1]).

-include_lib("stdlib/include/assert.hrl").

-define(COUNT, <<"import erlang\nerlang.counts = {}\n"
                 "def count(id):\n    erlang.counts[id] = erlang.counts.get(id, 0) + 1\n"
                 "    return erlang.counts[id]\n"
                 "erlang.count = count\n"
                 "def slow(id, seconds):\n    import time\n    n = count(id)\n    time.sleep(seconds)\n    return [id, n]\n"
                 "erlang.slow = slow\n"
                 "async def task(id, seconds):\n    import asyncio\n    n = count(id)\n    await asyncio.sleep(seconds)\n"
                 "    return [id, n]\n"
                 "erlang.task = task\n"
                 "def forever(id):\n    import time\n    count(id)\n    while True: time.sleep(0.01)\n"
                 "erlang.forever = forever\n"
                 "def fail(id):\n    raise ValueError(count(id))\n"
                 "erlang.fail = fail\n"
                 "def large(id, size):\n    count(id)\n    return b'\\xff' * size\n"
                 "erlang.large = large\n">>).

setup() ->
    Node = #{node := N} = live:pynode(#{args => ["--workers", "2", "--remember-ids", "8"]}),
    prepare(N),
    Node.

prepare(N) ->
    erpc:call(N, builtins, exec, [?COUNT, #{}]).

tests(Node) ->
    [{Name, fun() -> Fun(Node) end} ||
        {Name, Fun} <-
            [{"a repeat while the first one runs waits for it and gets the same answer", fun while_it_runs/1},
             {"a repeat later has the same answer from memory, in a list and alone", fun from_memory/1},
             {"tasks, maps, queues, threads, coroutines and errors", fun kinds/1},
             {"the connection is cut in the middle of a call: the repeat over a new one gets its answer", fun cut/1},
             {"the same for a task of the event loop", fun cut_task/1},
             {"the connection is cut, and the call ends before anybody asks", fun cut_and_ended/1},
             {"without an id what runs is interrupted when its connection is cut", fun cut_without_id/1},
             {"a repeat from another VM, which waits when the first VM goes", fun two_vms/1},
             {"who cancels takes nothing from those who wait", fun cancels/1},
             {"a call that is cancelled is forgotten", fun cancelled/1},
             {"that it runs is reported to those who wait, too", fun started/1},
             {"what is no id, and what cannot have one", fun bad/1},
             {"more ids than are remembered, and an answer that is too large", fun bounds/1}]]
        ++ [{"with --remember-ids 0 each call runs", fun off/0},
            {"a node that drains answers what it remembers, and goes on for those who wait", fun drains/0}].

%%% ------------------------------------------------------------------ helpers

call(#{node := N}, Id, F, Args) ->
    call_with(N, F, Args, #{id => Id}).

call_with(N, F, Args, Opts) ->
    Ref = alias([reply]),
    {pynode, N} ! {call, Ref, erlang, F, Args, Opts},
    Ref.

answer(Ref) ->
    live:expect(15000, fun({py_response, R, Result}) when R =:= Ref -> {ok, Result} end).

count(#{node := N}, Id) ->
    erpc:call(N, builtins, eval, [<<"__import__('erlang').counts.get('", Id/binary, "', 0)">>]).

id() ->
    list_to_binary(live:unique("id")).

%% Waits until the function has begun.
begun(Node, Id) ->
    live:eventually(fun() -> count(Node, Id) > 0 end).

attach(N) ->
    pong = net_adm:ping(N),
    {pynode, N} ! {attach, self()},
    live:expect(10000, fun({py_attached, _}) -> {ok, attached} end).

%% The next item that is so, of all lists.
item(Is) ->
    live:expect(15000, fun(Items) when is_list(Items) -> {ok, Item} = find(Is, Items), {ok, Item} end).

find(Is, Items) ->
    case lists:filter(Is, Items) of
        [Item | _] -> {ok, Item};
        [] -> error(function_clause)
    end.

cut_connection(#{node := N, proc := Proc}) ->
    Mark = live:mark(Proc),
    true = erlang:disconnect_node(N),
    live:wait_line(Proc, "conn live@127.0.0.1: closed", Mark),
    pong = net_adm:ping(N).

%%% ------------------------------------------------------------------ cases

while_it_runs(Node = #{node := N}) ->
    Id = id(),
    First = call(Node, Id, slow, [Id, 0.3]),
    begun(Node, Id),
    Refs = [call(Node, Id, slow, [Id, 0.3]) || _ <- [1, 2, 3]],
    Gathered = alias([reply]),
    {pynode, N} ! [{call, Gathered, erlang, slow, [Id, 0.3], #{id => Id}}],
    [?assertEqual({ok, [Id, 1]}, answer(Ref)) || Ref <- [First, Gathered | Refs]],
    ?assertEqual(1, count(Node, Id)).

from_memory(Node = #{node := N}) ->
    Id = id(),
    ?assertEqual({ok, 1}, answer(call(Node, Id, count, [Id]))),
    attach(N),
    Ref = make_ref(),
    {pynode, N} ! [{call, Ref, erlang, count, [Id], #{id => Id}}],
    ?assertEqual({Ref, {ok, 1}}, item(fun(Item) -> element(1, Item) =:= Ref end)),
    ?assertEqual({ok, 1}, answer(call(Node, Id, count, [Id]))),
    ?assertEqual({ok, 1}, answer(call(Node, Id, count, [<<"with another argument">>]))),
    {pynode, N} ! {detach, self()},
    ?assertEqual(1, count(Node, Id)).

kinds(Node = #{node := N}) ->
    Twice = fun(F, Args, Opts) ->
                    Id = id(),
                    Options = Opts#{id => Id},
                    Refs = [call_with(N, F, Args(Id), Options) || _ <- [1, 2]],
                    [Same, Same] = [answer(Ref) || Ref <- Refs],
                    Same = answer(call_with(N, F, Args(Id), Options)),
                    {Same, count(Node, Id), Id}
            end,
    {{ok, [I1, 1]}, 1, I1} = Twice(task, fun(I) -> [I, 0.1] end, #{loop => true}),
    {{ok, [I2, 1]}, 1, I2} = Twice(task, fun(I) -> [I, 0.1] end, #{}),
    {{ok, 1}, 1, _} = Twice(count, fun(I) -> [I] end, #{loop => true}),
    {{ok, [{ok, 1}, {ok, 2}]}, 2, _} = Twice(count, fun(I) -> [[I], [I]] end, #{loop => true, map => true}),
    {{ok, [I3, 1]}, 1, I3} = Twice(slow, fun(I) -> [I, 0.1] end, #{queue => mine}),
    {{ok, [I4, 1]}, 1, I4} = Twice(slow, fun(I) -> [I, 0.1] end, #{thread => new}),
    {{error, {'ValueError', <<"1">>}}, 1, _} = Twice(fail, fun(I) -> [I] end, #{}),
    {{error, {'ValueError', <<"1">>, _}}, 1, _} = Twice(fail, fun(I) -> [I] end, #{traceback => true}),
    {{error, {'AttributeError', _}}, 0, _} = Twice(nothing, fun(_) -> [] end, #{}).

cut(Node) ->
    Id = id(),
    _ = call(Node, Id, slow, [Id, 1]),
    begun(Node, Id),
    cut_connection(Node),
    {Took, Answer} = live:timed(fun() -> answer(call(Node, Id, slow, [Id, 1])) end),
    ?assertEqual({ok, [Id, 1]}, Answer),
    live:note("the repeat waited for ~b ms", [round(Took)]),
    ?assertEqual(1, count(Node, Id)).

cut_task(Node = #{node := N}) ->
    Id = id(),
    Opts = #{id => Id, loop => true},
    _ = call_with(N, task, [Id, 1], Opts),
    begun(Node, Id),
    cut_connection(Node),
    Refs = [call_with(N, task, [Id, 1], Opts) || _ <- [1, 2]],
    [?assertEqual({ok, [Id, 1]}, answer(Ref)) || Ref <- Refs],
    ?assertEqual(1, count(Node, Id)).

cut_and_ended(Node = #{node := N}) ->
    Gate = #{port := Port} = live:gate(),
    Id = id(),
    Send = fun() ->
                   Ref = alias([reply]),
                   {pynode, N} ! {call, Ref, gate, wait, [Port, Id], #{id => Id}},
                   Ref
           end,
    Send(),
    Door = live:entered(Gate),
    cut_connection(Node),
    live:open(Door),
    live:eventually(fun() -> maps:get(running, erpc:call(N, pynode, status, [])) =:= 0 end),
    ?assertEqual({ok, Id}, live:within(2000, fun() -> answer(Send()) end)).

cut_without_id(Node = #{node := N}) ->
    _ = call_with(N, forever, [<<"forever">>], #{}),
    begun(Node, <<"forever">>),
    _ = call_with(N, task, [<<"long">>, 3600], #{loop => true}),
    begun(Node, <<"long">>),
    ?assertMatch(#{running := 1, tasks := 1}, erpc:call(N, pynode, status, [])),
    cut_connection(Node),
    live:eventually(fun() ->
                            #{running := Running, tasks := Tasks} = erpc:call(N, pynode, status, []),
                            Running + Tasks =:= 0
                    end).

two_vms(Node = #{node := N}) ->
    [First, Second] = [Name || #{node := Name} <- live:peers(2)],
    Test = self(),
    Id = id(),
    Ask = fun() ->
                  Ref = alias([reply]),
                  {pynode, N} ! {call, Ref, erlang, slow, [Id, 1], #{id => Id}},
                  Test ! {sent, node()},
                  receive {py_response, Ref, Result} -> Test ! {node(), Result} end
          end,
    spawn(First, Ask),
    begun(Node, Id),
    spawn(Second, Ask),
    live:expect(10000, fun({sent, Vm}) when Vm =:= Second -> {ok, sent} end),
    pong = erpc:call(Second, net_adm, ping, [N]), % it has come
    erpc:cast(First, erlang, halt, [0]),
    ?assertEqual({ok, [Id, 1]}, live:expect(10000, fun({Vm, Result}) when Vm =:= Second -> {ok, Result} end)),
    ?assertEqual(1, count(Node, Id)).

cancels(Node = #{node := N}) ->
    attach(N),
    Id = id(),
    [First, Second, Third] = [begin
                                  Ref = make_ref(),
                                  {pynode, N} ! [{call, Ref, erlang, slow, [Id, 0.5], #{id => Id}}],
                                  Ref
                              end || _ <- [1, 2, 3]],
    begun(Node, Id),
    {pynode, N} ! {cancel, First},
    ?assertEqual({ended, First}, item(fun(Item) -> Item =:= {ended, First} end)),
    {pynode, N} ! {cancel, Third},
    ?assertEqual({ended, Third}, item(fun(Item) -> Item =:= {ended, Third} end)),
    ?assertEqual({Second, {ok, [Id, 1]}}, item(fun(Item) -> element(1, Item) =:= Second end)),
    {pynode, N} ! {detach, self()},
    ?assertEqual({ok, [Id, 1]}, answer(call(Node, Id, slow, [Id, 0.5]))),
    ?assertEqual(1, count(Node, Id)).

cancelled(Node = #{node := N}) ->
    attach(N),
    Id = id(),
    Ref = make_ref(),
    {pynode, N} ! [{call, Ref, erlang, task, [Id, 60], #{id => Id, loop => true}}],
    begun(Node, Id),
    {pynode, N} ! {cancel, Ref},
    ?assertEqual({ended, Ref}, item(fun(Item) -> Item =:= {ended, Ref} end)),
    {pynode, N} ! {detach, self()},
    ?assertEqual({ok, [Id, 2]}, answer(call(Node, Id, slow, [Id, 0]))),
    ?assertEqual({ok, [Id, 2]}, answer(call(Node, Id, slow, [Id, 0]))).

started(#{node := N} = Node) ->
    attach(N),
    Id = id(),
    [First, Second] = [begin
                           Ref = make_ref(),
                           {pynode, N} ! [{call, Ref, erlang, slow, [Id, 0.5], #{id => Id}}],
                           Ref
                       end || _ <- [1, 2]],
    begun(Node, Id),
    Items = all_items([{Kind, Ref} || Kind <- [started, ended], Ref <- [First, Second]], []),
    [begin
         Order = [case Item of {Kind, Ref} -> Kind; {Ref, {ok, [Id, 1]}} -> answer end
                  || Item <- Items, element(1, Item) =:= Ref orelse element(2, Item) =:= Ref],
         ?assertEqual([started, answer, ended], Order)
     end || Ref <- [First, Second]],
    {pynode, N} ! {detach, self()}.

%% All items until these have come.
all_items(Wanted, Seen) ->
    case Wanted -- Seen of
        [] -> Seen;
        _ -> all_items(Wanted, Seen ++ live:expect(15000, fun(Items) when is_list(Items) -> {ok, Items} end))
    end.

bad(#{node := N}) ->
    Answer = fun(Opts) -> answer(call_with(N, count, [<<"bad">>], Opts)) end,
    [?assertEqual({Id, {error, {bad_option, id}}}, {Id, Answer(#{id => Id})})
     || Id <- [a, "a", 1, <<>>, binary:copy(<<"a">>, 65), <<1:9>>, [<<"a">>]]],
    ?assertEqual({error, {bad_option, id}}, Answer(#{id => <<"a">>, stream => 4})),
    Longest = binary:copy(<<255>>, 64),
    ?assertEqual({ok, 1}, Answer(#{id => Longest})),
    ?assertEqual({ok, 1}, Answer(#{id => Longest})),
    ?assertEqual({ok, 2}, Answer(#{id => binary:part(Longest, 0, 63)})).

bounds(Node) ->
    Ids = [id() || _ <- lists:seq(1, 9)],
    [?assertEqual({ok, 1}, answer(call(Node, Id, count, [Id]))) || Id <- Ids],
    [?assertEqual({ok, 1}, answer(call(Node, Id, count, [Id]))) || Id <- tl(Ids)],
    ?assertEqual({ok, 2}, answer(call(Node, hd(Ids), count, [hd(Ids)]))),
    {Small, Large} = {id(), id()},
    [?assertMatch({ok, <<255, _/binary>>}, answer(call(Node, Id, large, [Id, Size])))
     || {Id, Size} <- [{Small, 1000000}, {Large, 1 bsl 20}], _ <- [1, 2]],
    ?assertEqual({1, 2}, {count(Node, Small), count(Node, Large)}).

off() ->
    Node = #{node := N} = live:pynode(#{args => ["--remember-ids", "0"]}),
    prepare(N),
    Id = id(),
    [?assertEqual({ok, I}, answer(call(Node, Id, count, [Id]))) || I <- [1, 2, 3]],
    live:stop(Node).

drains() ->
    Node = #{node := N, proc := Proc} = live:pynode(),
    prepare(N),
    [Done, Runs] = [id(), id()],
    {ok, 1} = answer(call(Node, Done, count, [Done])),
    First = call(Node, Runs, slow, [Runs, 1]),
    begun(Node, Runs),
    ok = erpc:call(N, pynode, drain, []),
    ?assertEqual({ok, 1}, answer(call(Node, Done, count, [Done]))),
    Second = call(Node, Runs, slow, [Runs, 1]),
    New = id(),
    ?assertEqual({error, draining}, answer(call(Node, New, count, [New]))),
    [?assertEqual({ok, [Runs, 1]}, answer(Ref)) || Ref <- [First, Second]],
    ?assertEqual(0, live:wait_exit(Proc)).
