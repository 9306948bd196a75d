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
    [{"every example in the documentation of py_event_loop", fun examples/1},
     {"functions of the standard library, begun in every way", fun stdlib/1},
     {"no module, no function, no arguments, in every way", fun invalid/1},
     {"what is no option, in every way", fun bad_options/1},
     {"arguments: none, keywords, nested, large", fun arguments/1},
     {"on the loop, or in a worker with executor", fun executors/1},
     {"limits: of run, of a task, of await; none leaves a message", fun limits/1},
     {"limits that pass while the tasks are being begun", fun short_limits/1},
     {"a task that nobody awaits: its message comes", fun never_awaited/1},
     {"the creator dies: its tasks are cancelled, those that it spawned go on", fun creator_dies/1},
     {"spawn_task: who is told", fun notified/1},
     {"cancel: waiting, running, ended, unknown, by others", fun cancels/1},
     {"batches: each its own outcome, in order", fun batches/1},
     {"a gather in which some fail, and some take too long", fun gathers/1},
     {"map: order, errors, limits, what is no list", fun maps_/1},
     {"50 processes with 200 tasks each; run from 50 processes", fun many/1},
     {"streams of all kinds, collected", fun streams/1},
     {"streams of all kinds, as messages", fun stream_messages/1},
     {"a generator that takes its time: what it has made is there meanwhile", fun stream_slow_generator/1},
     {"streams: what is no option, no function, no generator", fun stream_errors/1},
     {"a stream that is cancelled: no message afterwards, its generator is closed", fun stream_cancels/1},
     {"a stream that is cancelled at any moment", fun stream_cancelled_any_time/1},
     {"a slow reader: neither its mailbox nor the generator goes on beyond the window", fun stream_slow_reader/1},
     {"a reader with 10000 other messages has its stream", fun stream_busy_reader/1},
     {"a stream's limit, and its reader's death", fun stream_ends_early/1},
     {"a stream whose node, connection or py_node goes: one end", fun stream_node_down/1},
     {"a stream whose node does not read: cancelled all the same", fun stream_unread/1},
     {"10000 under way and the node is killed: each has one outcome", fun storm_node/1},
     {"10000 under way and the connection is cut: each has one outcome", fun storm_cut/1},
     {"10000 under way and py_node is killed: each has one outcome", fun storm_py_node/1},
     {"10000 under way and the coordinator is killed: each has one outcome", fun storm_coordinator/1},
     {"10000 under way and py_table is killed: each has one outcome", fun storm_table/1},
     {"10000 under way and the application stops: each has one outcome", fun storm_stop/1},
     {"a creator that is killed right after it has sent a task: that is cancelled", fun sent_and_killed/1},
     {"an answer that comes before it is said who waits for it", fun answered_first/1},
     {"their owners are killed, many at once: nothing is left of what they began", fun storm_owners/1},
     {"nothing is left in any mailbox or table", fun no_litter/1}].

%%% ------------------------------------------------------------------ tasks

%% Sentence after sentence, each seeing the names of those before it.
examples(_) ->
    {ok, Source} = file:read_file(filename:join([os:getenv("abs_top_srcdir"), "erlang", "src", "py_event_loop.erl"])),
    {match, Found} = re:run(Source, "^%% ```\\n((?:%%.*\\n)*?)%% '''", [global, multiline, {capture, [1], list}]),
    ?assert(length(Found) >= 12),
    [example(re:replace(Text, "^%% ?", "", [global, multiline, {return, list}])) || [Text] <- Found].

example(Text) ->
    {ok, Tokens, _} = erl_scan:string(Text),
    lists:foldl(fun(Sentence, Bindings) ->
        {ok, Exprs} = erl_parse:parse_exprs(Sentence),
        try erl_eval:exprs(Exprs, Bindings) of
            {value, _, New} -> New
        catch C:R -> error({example_fails, [{text, Text}, {reason, {C, R}}]})
        end
    end, [], sentences(Tokens)).

sentences([]) -> [];
sentences(Tokens) ->
    {Sentence, [Dot | Rest]} = lists:splitwith(fun(T) -> element(1, T) =/= dot end, Tokens),
    [Sentence ++ [Dot] | sentences(Rest)].

%% Every way in which a task is begun and its outcome had.
ways() ->
    [{run, fun(M, F, A) -> py_event_loop:run(M, F, A) end},
     {run_options, fun(M, F, A) -> py_event_loop:run(M, F, A, #{timeout => 10000}) end},
     {create_task, fun(M, F, A) -> py_event_loop:await(py_event_loop:create_task(M, F, A)) end},
     {create_task_options, fun(M, F, A) -> py_event_loop:await(py_event_loop:create_task(M, F, A, #{timeout => 10000})) end},
     {executor, fun(M, F, A) -> py_event_loop:await(py_event_loop:create_task(M, F, A, #{executor => true})) end},
     {message, fun(M, F, A) -> message(py_event_loop:create_task(M, F, A)) end},
     {async_call, fun(M, F, A) -> py:async_await(py:async_call(M, F, A)) end},
     {async_call_kwargs, fun(M, F, A) -> py:async_await(py:async_call(M, F, A, #{})) end},
     {create_tasks, fun(M, F, A) -> [Ref] = py_event_loop:create_tasks([{M, F, A}]), py_event_loop:await(Ref) end},
     {py_create_tasks, fun(M, F, A) -> [Ref] = py:create_tasks([{M, F, A, #{}}], #{}), py:await(Ref) end},
     {async_gather, fun(M, F, A) -> {ok, [Result]} = py:async_gather([{M, F, A}]), Result end},
     {notify, fun notify/3}].

message(Ref) ->
    receive {async_result, Ref, Result} -> Result after live:ms(10000) -> no_message end.

notify(M, F, A) ->
    case py_event_loop:spawn_task(M, F, A, #{notify => {self(), here}}) of
        ok -> message(here);
        Error -> Error
    end.

stdlib(_) ->
    Calls = [{math, sqrt, [16], 4.0}, {math, pow, [2, 10], 1024.0}, {math, floor, [3.7], 3}, {math, ceil, [3.2], 4},
             {"math", <<"sqrt">>, [9], 3.0}, {operator, add, [1, 2], 3}, {operator, sub, [1, 2], -1},
             {operator, mul, [6, 7], 42}, {operator, truediv, [1, 4], 0.25}, {operator, concat, [[1], [2]], [1, 2]},
             {'os.path', join, [<<"a">>, <<"b">>], <<"a/b">>}, {builtins, 'str.upper', [<<"a">>], <<"A">>},
             {asyncio, sleep, [0, slept], slept}, {tasks, nap, [0.001, [1]], [1]}],
    [?assertEqual({Way, M, F, {ok, V}}, {Way, M, F, Do(M, F, A)}) || {Way, Do} <- ways(), {M, F, A, V} <- Calls],
    ?assertEqual({ok, [{ok, V} || {_, _, _, V} <- Calls]}, py:async_gather([{M, F, A} || {M, F, A, _} <- Calls])),
    ?assertEqual([], live:flush()).

invalid(_) ->
    [begin
         ?assertMatch({Way, {error, {'ModuleNotFoundError', <<"No module named 'no_such'">>}}}, {Way, Do(no_such, f, [])}),
         ?assertMatch({Way, {error, {'AttributeError', _}}}, {Way, Do(math, no_such, [])}),
         ?assertMatch({Way, {error, {'TypeError', _}}}, {Way, Do(math, sqrt, [a, b])}),
         ?assertMatch({Way, {error, {'TypeError', _}}}, {Way, Do(math, sqrt, [])}),
         ?assertMatch({Way, {error, {'TypeError', <<"args: not a list">>}}}, {Way, Do(math, sqrt, 16)}),
         ?assertMatch({Way, {error, {'TypeError', _}}}, {Way, Do(math, sqrt, [1 | 2])}),
         ?assertMatch({Way, {error, {'TypeError', <<"result: ", _/binary>>}}}, {Way, Do(builtins, object, [])}),
         ?assertMatch({Way, {error, {'ValueError', <<"late">>}}}, {Way, Do(tasks, fails, [<<"late">>])}),
         [?assertEqual({Way, Name, {error, {bad_option, module}}}, {Way, Name, Do(Name, f, [])}) || Name <- [1, {a}, <<255>>]],
         [?assertEqual({Way, Name, {error, {bad_option, function}}}, {Way, Name, Do(math, Name, [])}) || Name <- [1, {a}, <<255>>]]
     end || {Way, Do} <- ways()],
    ?assertEqual([], live:flush()).

bad_options(_) ->
    Bad = [{timeout, -1}, {timeout, soon}, {node, "py"}, {strings, latin1}, {traceback, yes}, {kwargs, []}, {executor, no},
           {notify, 1}, {loop, true}, {map, true}, {stream, 1}, {window, 1}, {nodee, py}],
    Ways = [fun(O) -> py_event_loop:run(math, sqrt, [4], O) end,
            fun(O) -> py_event_loop:await(py_event_loop:create_task(math, sqrt, [4], O)) end,
            fun(O) -> py_event_loop:spawn_task(math, sqrt, [4], O) end,
            fun(O) -> py_event_loop:create_tasks([{math, sqrt, [4]}], O) end,
            fun(O) -> py:create_tasks([{math, sqrt, [4]}], O) end,
            fun(O) -> py:async_gather([{math, sqrt, [4]}], O) end,
            fun(O) -> py:map(math, sqrt, [[4]], O) end],
    [?assertEqual({I, K, {error, {bad_option, K}}}, {I, K, Do(#{K => V})})
     || {I, Do} <- lists:enumerate(Ways), {K, V} <- Bad],
    [?assertMatch({I, {error, {bad_option, _}}}, {I, Do([])}) || {I, Do} <- lists:enumerate(Ways)],
    ?assertEqual({error, {bad_option, kwargs}}, py:async_await(py:async_call(math, sqrt, [4], []))),
    [?assertEqual({error, {bad_option, calls}}, Do(Calls))
     || Do <- [fun py:async_gather/1, fun py:create_tasks/1, fun py_event_loop:create_tasks/1],
        Calls <- [foo, [foo], [{math, sqrt, [4]} | foo], [{a, b}]]],
    ?assertEqual({ok, [{error, {bad_option, kwargs}}]}, py:async_gather([{math, sqrt, [4], []}])),
    [?assertEqual({T, {error, {bad_option, timeout}}}, {T, Await(make_ref(), T)})
     || Await <- [fun py_event_loop:await/2, fun py:async_await/2], T <- [soon, -1, 0.5, 1 bsl 32]],
    [?assertEqual({error, timeout}, Await(make_ref(), 0)) || Await <- [fun py_event_loop:await/2, fun py:async_await/2]],
    ?assertEqual([], live:flush()).

arguments(_) ->
    [?assertEqual({ok, [[], #{}]}, py_event_loop:run(tasks, F, [])) || F <- [given, given_later]],
    Kwargs = #{<<"a">> => 1, b => [2]},
    [?assertEqual({ok, [[1], #{<<"a">> => 1, <<"b">> => [2]}]}, py_event_loop:run(tasks, F, [1], #{kwargs => Kwargs, executor => E}))
     || F <- [given, given_later], E <- [false, true]],
    ?assertEqual({ok, [[1], #{<<"a">> => 1, <<"b">> => [2]}]}, py:async_await(py:async_call(tasks, given, [1], Kwargs))),
    ?assertEqual({ok, [{ok, [[1], #{<<"x">> => 2}]}, {ok, [[3], #{}]}]}, py:async_gather([{tasks, given, [1], #{x => 2}}, {tasks, given, [3]}])),
    Nested = #{<<"list">> => [1, [2, [3, #{<<"deep">> => {1, 2.5, [true, none]}}]]], {1, 2} => <<"tuple">>, 7 => []},
    ?assertEqual({ok, [[Nested], #{}]}, py_event_loop:run(tasks, given_later, [Nested])),
    Large = {bytes, binary:copy(<<0, 1, 2, 255>>, 1000000)},
    {ok, [[Back], #{}]} = py_event_loop:await(py_event_loop:create_task(tasks, given, [Large]), 20000),
    ?assertEqual(Large, {bytes, Back}),
    ?assertEqual({ok, [[<<"text">>], #{}]}, py_event_loop:run(tasks, given, [<<"text">>], #{strings => bytes})),
    ?assertMatch({error, {'ValueError', <<"b">>, [_ | _]}}, py_event_loop:run(tasks, fails, [<<"b">>], #{traceback => true})),
    Refs = [py_event_loop:create_task(builtins, 'list', [lists:seq(1, 20000)]) || _ <- lists:seq(1, 50)],
    [?assertEqual({ok, lists:seq(1, 20000)}, py_event_loop:await(Ref, 20000)) || Ref <- Refs].

executors(_) ->
    ?assertEqual({ok, true}, py_event_loop:run(tasks, on_loop, [])),
    [?assertEqual({E, {ok, false}}, {E, py_event_loop:run(tasks, on_loop, [], #{executor => E})}) || E <- [true, blocking]],
    ?assertEqual({ok, [{ok, true}]}, py:async_gather([{tasks, on_loop, []}])),
    ?assertEqual({ok, [{ok, false}]}, py:async_gather([{tasks, on_loop, []}], #{executor => true})),
    ?assertEqual({ok, [{ok, false}]}, py:parallel([{tasks, on_loop, []}])),
    ?assertEqual({ok, 1}, py_event_loop:run(tasks, nap, [0.001, 1], #{executor => true})), % a coroutine is awaited all the same
    ?assertMatch({error, {bad_option, executor}}, py:map(tasks, on_loop, [[]], #{executor => true})).

short_limits(_) ->
    [begin
         Refs = py:create_tasks([{asyncio, sleep, [3600]} || _ <- lists:seq(1, 5000)], #{timeout => Limit}),
         ?assertEqual([{error, timeout}], lists:usort([message(Ref) || Ref <- Refs]))
     end || Limit <- [0, 1, 5]],
    %% So large that they are sent for longer than that: what has been cancelled does not run.
    Large = binary:copy(<<0>>, 1 bsl 22),
    Refs = [py_event_loop:create_task(asyncio, sleep, [3600, Large], Limit) || _ <- lists:seq(1, 20), Limit <- [0, 1]],
    ?assertEqual([{error, timeout}], lists:usort([message(Ref) || Ref <- Refs])),
    live:eventually(fun() -> {ok, #{tasks := Tasks}} = py:call(pynode, status, []), Tasks =:= 0 orelse Tasks end),
    ?assertEqual([], live:flush()).

limits(_) ->
    Gate = #{port := Port} = live:gate(),
    Held = fun(Begin) ->
               _ = notes(),
               ?assertEqual({error, timeout}, Begin()),
               live:eventually(fun() -> notes() =:= [[<<"x">>, <<"cancelled">>]] end),
               gen_tcp:close(live:entered(Gate))
           end,
    Args = [Port, <<"x">>],
    Limit = live:ms(200), % in which they have begun
    Held(fun() -> py_event_loop:run(tasks, held, Args, Limit) end),
    Held(fun() -> py_event_loop:run(tasks, held, Args, #{timeout => Limit}) end),
    Held(fun() -> py_event_loop:await(py_event_loop:create_task(tasks, held, Args), Limit) end),
    Held(fun() -> py_event_loop:await(py_event_loop:create_task(tasks, held, Args, Limit)) end),
    Held(fun() -> message(py_event_loop:create_task(tasks, held, Args, #{timeout => Limit})) end),
    Held(fun() -> [Ref] = py:create_tasks([{tasks, held, Args}], Limit), message(Ref) end),
    Held(fun() -> py:async_await(py:async_call(tasks, held, Args), Limit) end),
    Held(fun() -> {ok, [R]} = py:async_gather([{tasks, held, Args}], Limit), R end),
    Held(fun() -> ok = py_event_loop:spawn_task(tasks, held, Args, #{notify => {self(), here}, timeout => Limit}), message(here) end),
    Held(fun() -> py:map(tasks, held, [Args], Limit) end),
    ?assertEqual([], live:flush()),
    %% Limits that pass while the answer is under way.
    live:pmap(fun(I) ->
        Refs = [{T, py_event_loop:create_task(operator, add, [I, T], T rem 4)} || T <- lists:seq(1, 200)],
        Outcomes = [{T, py_event_loop:await(Ref, T rem 3)} || {T, Ref} <- Refs],
        ?assertEqual([], [O || {T, O} <- Outcomes, O =/= {ok, I + T}, O =/= {error, timeout}]),
        receive after 300 -> ok end,
        ?assertEqual([], live:flush())
    end, lists:seq(1, 20)).

%% What the tasks have noted since.
notes() ->
    {ok, Notes} = py:call(tasks, take_notes, []),
    Notes.

never_awaited(_) ->
    Self = self(),
    spawn_link(fun() ->
        Refs = [py_event_loop:create_task(tasks, nap, [0.001, I]) || I <- lists:seq(1, 100)],
        Self ! [receive {async_result, Ref, {ok, I}} -> I after live:ms(10000) -> none end || {I, Ref} <- lists:enumerate(Refs)],
        Self ! live:flush()
    end),
    ?assertEqual(lists:seq(1, 100), receive L -> L end),
    ?assertEqual([], receive L2 -> L2 end).

creator_dies(_) ->
    Gate = #{port := Port} = live:gate(),
    _ = notes(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        py_event_loop:create_task(tasks, held, [Port, 1]),
        py:async_call(tasks, held, [Port, 2]),
        py:create_tasks([{tasks, held, [Port, I]} || I <- [3, 4]]),
        ok = py_event_loop:spawn_task(tasks, held, [Port, 5]),
        ok = py_event_loop:spawn_task(tasks, held, [Port, 6], #{timeout => 60000}),
        receive stop -> ok end
    end),
    Doors = [live:entered(Gate) || _ <- lists:seq(1, 6)],
    exit(Pid, kill),
    receive {'DOWN', Monitor, process, Pid, killed} -> ok end,
    Noted = collect(4),
    ?assertEqual([[I, <<"cancelled">>] || I <- [1, 2, 3, 4]], lists:sort(Noted)),
    [live:open(Door) || Door <- Doors],
    ?assertEqual([[I, <<"went on">>] || I <- [5, 6]], lists:sort(collect(2))).

%% So many notes, as they come.
collect(N) when N =< 0 -> [];
collect(N) ->
    case notes() of
        [] -> receive after 5 -> ok end, collect(N);
        Notes -> Notes ++ collect(N - length(Notes))
    end.

notified(_) ->
    _ = notes(),
    ?assertEqual(ok, py_event_loop:spawn_task(tasks, note, [1])),
    ?assertEqual(ok, py_event_loop:spawn_task(tasks, note, [2], #{executor => true})),
    ?assertEqual(ok, py_event_loop:spawn_task(tasks, fails, [<<"nobody hears of it">>])),
    ?assertEqual([1, 2], lists:sort(collect(2))),
    ok = py_event_loop:spawn_task(tasks, nap, [0.01, 3], #{notify => self()}),
    ?assertMatch({ok, 3}, receive {async_result, Ref, R} when is_reference(Ref) -> R after live:ms(10000) -> none end),
    ok = py_event_loop:spawn_task(tasks, fails, [<<"bad">>], #{notify => {self(), [any, term]}}),
    ?assertEqual({error, {'ValueError', <<"bad">>}}, message([any, term])),
    ok = py_event_loop:spawn_task(math, sqrt, [4], #{notify => {self(), n}, node => 'nobody@127.0.0.1'}),
    ?assertEqual({error, {node_down, 'nobody@127.0.0.1', not_started}}, message(n)),
    %% Of one that ends first, for another one.
    Self = self(),
    spawn(fun() -> ok = py_event_loop:spawn_task(tasks, nap, [0.05, 4], #{notify => {Self, other}}) end),
    ?assertEqual({ok, 4}, message(other)),
    ?assertEqual([], live:flush()).

cancels(_) ->
    Gate = #{port := Port} = live:gate(),
    _ = notes(),
    Refs = [py_event_loop:create_task(tasks, held, [Port, 1]), py:async_call(tasks, held, [Port, 2])],
    Doors = [live:entered(Gate) || _ <- Refs],
    [?assertEqual(ok, Cancel(Ref)) || {Cancel, Ref} <- lists:zip([fun py_event_loop:cancel/1, fun py:cancel/1], Refs)],
    ?assertEqual([{error, cancelled}, {error, cancelled}], [py_event_loop:await(Ref) || Ref <- Refs]),
    ?assertEqual([[1, <<"cancelled">>], [2, <<"cancelled">>]], lists:sort(collect(2))),
    [?assertEqual(ok, py_event_loop:cancel(Ref)) || Ref <- [make_ref() | Refs]],
    [gen_tcp:close(Door) || Door <- Doors],
    %% While it waits behind another one that holds up the loop.
    Blocking = py_event_loop:create_task(gate, wait, [Port, blocked]),
    Door = live:entered(Gate),
    Waiting = py_event_loop:create_task(tasks, note, [<<"never">>]),
    ok = py_event_loop:cancel(Waiting),
    ?assertEqual({error, cancelled}, py_event_loop:await(Waiting)),
    live:open(Door),
    ?assertEqual({ok, blocked}, py_event_loop:await(Blocking)),
    ?assertEqual([], notes()),
    %% By another process: the creator is told. One with an answer keeps it.
    Ref = py_event_loop:create_task(tasks, held, [Port, 3]),
    live:entered(Gate),
    spawn(fun() -> py_event_loop:cancel(Ref) end),
    ?assertEqual({error, cancelled}, message(Ref)),
    ?assertEqual([[3, <<"cancelled">>]], collect(1)),
    %% At any moment: one outcome each.
    Many = [{I, py_event_loop:create_task(operator, add, [I, 1])} || I <- lists:seq(1, 2000)],
    [py_event_loop:cancel(R) || {I, R} <- Many, I rem 3 =:= 0],
    Outcomes = [{I, py_event_loop:await(R)} || {I, R} <- Many],
    ?assertEqual([], [O || {I, R} = O <- Outcomes, R =/= {ok, I + 1}, not (R =:= {error, cancelled} andalso I rem 3 =:= 0)]),
    ?assertEqual([], live:flush()).

batches(_) ->
    N = 3000,
    Refs = py_event_loop:create_tasks([{operator, mul, [I, I]} || I <- lists:seq(1, N)]),
    ?assertEqual([{ok, I * I} || I <- lists:seq(1, N)], [py_event_loop:await(Ref) || Ref <- Refs]),
    ?assertEqual([], py_event_loop:create_tasks([])),
    Mixed = py:create_tasks([{math, sqrt, [4]}, {1, sqrt, [4]}, {math, sqrt, [-1]}, {math, {}, [1]}, {math, sqrt, [4], []},
                             {tasks, given, [], #{a => 1}}]),
    ?assertMatch([{ok, 2.0}, {error, {bad_option, module}}, {error, {'ValueError', _}}, {error, {bad_option, function}},
                  {error, {bad_option, kwargs}}, {ok, [[], #{<<"a">> := 1}]}], [py_event_loop:await(Ref) || Ref <- Mixed]),
    %% Large ones together are more messages than one.
    Big = binary:copy(<<"x">>, 1000000),
    ?assertEqual({ok, [{ok, 1000000} || _ <- lists:seq(1, 200)]}, py:async_gather([{builtins, len, [Big]} || _ <- lists:seq(1, 200)])),
    live:pmap(fun(P) ->
        R = py_event_loop:create_tasks([{tasks, nap, [0.001, {P, I}]} || I <- lists:seq(1, 100)], #{timeout => 20000}),
        ?assertEqual([{ok, {P, I}} || I <- lists:seq(1, 100)], [py_event_loop:await(X) || X <- R])
    end, lists:seq(1, 30)),
    Nowhere = py:create_tasks([{math, sqrt, [4]} || _ <- [1, 2]], #{node => 'nobody@127.0.0.1'}),
    [?assertEqual({error, {node_down, 'nobody@127.0.0.1', not_started}}, message(Ref)) || Ref <- Nowhere],
    ?assertEqual([], live:flush()).

gathers(_) ->
    N = 1000,
    Calls = [case I rem 5 of
                 0 -> {math, sqrt, [-1]};
                 1 -> {tasks, nap, [0.002 * (I rem 7), I]};
                 _ -> {operator, add, [I, 0]}
             end || I <- lists:seq(1, N)],
    Check = fun({ok, Results}) ->
                ?assertEqual(N, length(Results)),
                [case I rem 5 of
                     0 -> ?assertMatch({I, {error, {'ValueError', _}}}, {I, R});
                     _ -> ?assertEqual({I, {ok, I}}, {I, R})
                 end || {I, R} <- lists:enumerate(Results)]
            end,
    Check(py:async_gather(Calls)),
    Check(py:async_gather(Calls, #{executor => true})),
    Check(py:parallel(Calls)),
    ?assertEqual({ok, []}, py:async_gather([])),
    live:within(5000, fun() ->
        {ok, Results} = py:async_gather([{tasks, nap, [case I rem 2 of 0 -> 60; 1 -> 0 end, I]} || I <- lists:seq(1, 100)], 300),
        ?assertEqual([case I rem 2 of 0 -> {error, timeout}; 1 -> {ok, I} end || I <- lists:seq(1, 100)], Results)
    end),
    %% Also from a process with a long mailbox.
    [self() ! {other, I} || I <- lists:seq(1, 10000)],
    live:within(10000, fun() -> Check(py:async_gather(Calls)) end),
    ?assertEqual(10000, length(live:flush())).

maps_(_) ->
    ?assertEqual({ok, []}, py:map(math, sqrt, [])),
    ?assertEqual({ok, [{ok, I} || I <- lists:seq(1, 300)]}, py:map(tasks, nap, [[0.0001 * (I rem 9), I] || I <- lists:seq(1, 300)])),
    {ok, Results} = py:map(math, sqrt, [[4], [-1], [9], [], [1, 2], [a]]),
    ?assertMatch([{ok, 2.0}, {error, {'ValueError', _}}, {ok, 3.0}, {error, {'TypeError', _}}, {error, {'TypeError', _}},
                  {error, {'TypeError', _}}], Results),
    ?assertEqual({ok, [{ok, [[1], #{<<"k">> => 2}]}]}, py:map(tasks, given, [[1]], #{kwargs => #{k => 2}})),
    [?assertMatch({A, {error, _}}, {A, py:map(math, sqrt, A)}) || A <- [foo, [[1] | foo], #{}]],
    {ok, Odd} = py:map(math, sqrt, [[4], foo]),
    ?assertMatch([{ok, 2.0}, {error, {'TypeError', _}}], Odd),
    ?assertMatch({error, {'ModuleNotFoundError', _}}, py:map(no_such, f, [[1]])),
    ?assertEqual({error, {bad_option, module}}, py:map(1, f, [[1]])),
    ?assertEqual({error, {node_down, 'nobody@127.0.0.1', not_started}}, py:map(math, sqrt, [[1]], #{node => 'nobody@127.0.0.1'})),
    {ok, Many} = py:map(operator, add, [[I, 1] || I <- lists:seq(1, 50000)]),
    ?assertEqual([{ok, I + 1} || I <- lists:seq(1, 50000)], Many),
    ?assertEqual([], live:flush()).

many(_) ->
    live:pmap(fun(P) ->
        Refs = [py_event_loop:create_task(operator, add, [1000 * P, I]) || I <- lists:seq(1, 200)],
        ?assertEqual([{ok, 1000 * P + I} || I <- lists:seq(1, 200)], [py_event_loop:await(Ref) || Ref <- Refs]),
        ?assertEqual({message_queue_len, 0}, process_info(self(), message_queue_len))
    end, lists:seq(1, 50)),
    live:pmap(fun(P) ->
        [?assertEqual({ok, [P, I]}, py_event_loop:run(tasks, nap, [0, [P, I]])) || I <- lists:seq(1, 50)]
    end, lists:seq(1, 50)).

%%% ------------------------------------------------------------------ streams

streams(_) ->
    To = fun(N) -> {ok, lists:seq(0, N - 1)} end,
    [?assertEqual({F, N, E, To(N)}, {F, N, E, py:stream(tasks, F, [N], #{}, #{executor => E})})
     || F <- [count, async_count], N <- [0, 1, 2, 100, 5000], E <- [false, true]],
    ?assertEqual(To(10), py:stream(builtins, range, [10])),
    ?assertEqual({ok, [2, 1, 0]}, py:stream(tasks, 'Countdown', [3])),
    ?assertEqual(To(7), py:stream(tasks, later, [7])),
    ?assertEqual({ok, [1, 2]}, py:stream(builtins, list, [[1, 2]])),
    ?assertEqual({ok, [<<"a">>, <<"b">>]}, py:stream(builtins, iter, [<<"ab">>])),
    ?assertEqual(To(4), py:stream(tasks, count, [], #{n => 4})),
    ?assertEqual({ok, [0, 1, 4]}, py:stream_eval("(x * x for x in range(n))", #{n => 3})),
    [?assertEqual({W, To(300)}, {W, py:stream(tasks, count, [300], #{}, #{window => W})}) || W <- [1, 2, 3, 299, 300, 1000]],
    ?assertEqual({ok, [[true, true]]}, py:stream(tasks, where, [1])),
    ?assertMatch({ok, [[false, false]]}, py:stream(tasks, where, [1], #{}, #{executor => true})),
    ?assertMatch({ok, [[false, false]]}, py:stream(tasks, where, [1], #{}, #{executor => blocking})),
    ?assertEqual(To(5), py:stream(tasks, count, [5], #{}, #{queue => streams})),
    ok = py:stop_queue(streams),
    Big = binary:copy(<<"0123456789">>, 100000),
    ?assertEqual({ok, [Big || _ <- lists:seq(1, 20)]}, py:stream_eval("(b for _ in range(20))", #{b => Big})),
    Results = live:pmap(fun(I) -> py:stream(tasks, case I rem 2 of 0 -> count; 1 -> async_count end, [100 * I]) end, lists:seq(1, 40)),
    ?assertEqual([To(100 * I) || I <- lists:seq(1, 40)], Results),
    ?assertEqual([], live:flush()).

%% All messages of a stream until its end.
items(Ref) ->
    receive
        {py_stream, Ref, {data, V}} -> [V | items(Ref)];
        {py_stream, Ref, End} -> [End]
    after live:ms(10000) -> [no_end]
    end.

stream_messages(_) ->
    [?assertEqual({F, N, E, W, lists:seq(0, N - 1) ++ [done]},
                  {F, N, E, W, items(py:stream_start(tasks, F, [N], #{}, #{executor => E, window => W}))})
     || F <- [count, async_count], N <- [0, 1, 200], E <- [false, true], W <- [1, 3, 64]],
    ?assertEqual([0, 1, done], items(py:stream_start(builtins, range, [2]))),
    ?assertEqual([{5, <<"a">>}, done], items(py:stream_start(builtins, enumerate, [[<<"a">>]], #{start => 5}))),
    Refs = [{N, py:stream_start(tasks, count, [N])} || N <- lists:seq(0, 50)],
    [?assertEqual(lists:seq(0, N - 1) ++ [done], items(Ref)) || {N, Ref} <- lists:reverse(Refs)],
    ?assertEqual([], live:flush()).

%% Each door opens only when all items before it have come.
stream_slow_generator(_) ->
    [begin
         Gate = #{port := Port} = live:gate(),
         Ref = py:stream_start(tasks, F, [Port, 5, Size], #{}, #{executor => E}),
         [begin
              ?assertEqual({F, Size, I}, {F, Size, first(Ref)}),
              (I + 1) rem Size =:= 0 andalso live:open(live:entered(Gate))
          end || I <- lists:seq(0, 5 * Size - 1)],
         ?assertEqual([done], items(Ref))
     end || {F, E} <- [{async_behind, false}, {async_behind, true}, {behind, true}], Size <- [1, 2, 30, 300]],
    %% On the loop a plain generator holds up all others; its first item and what takes longer comes at once.
    Gate = #{port := Port} = live:gate(),
    Ref = py:stream_start(tasks, behind, [Port, 3, 1]),
    [begin ?assertEqual(I, first(Ref)), live:open(live:entered(Gate)) end || I <- [0, 1, 2]],
    ?assertEqual([done], items(Ref)).

stream_errors(_) ->
    [begin
         ?assertEqual({F, E, {error, {'ValueError', <<"no 5">>}}},
                      {F, E, py:stream(tasks, F, [10], #{fail_at => 5}, #{executor => E})}),
         ?assertEqual({F, E, [0, 1, 2, 3, 4, {error, {'ValueError', <<"no 5">>}}]},
                      {F, E, items(py:stream_start(tasks, F, [10], #{fail_at => 5}, #{executor => E}))}),
         ?assertMatch({error, {'TypeError', _}}, py:stream(tasks, F, [], #{}, #{executor => E})),
         ?assertMatch({error, {'TypeError', _}}, py:stream(math, sqrt, [4], #{}, #{executor => E})),
         ?assertMatch({error, {'TypeError', _}}, py:stream_eval("[1, object()]", #{}, #{executor => E})),
         ?assertMatch({error, {'ValueError', <<"no 0">>, [_ | _]}}, py:stream(tasks, F, [1], #{fail_at => 0}, #{executor => E, traceback => true}))
     end || F <- [count, async_count], E <- [false, true]],
    ?assertMatch({error, {'ModuleNotFoundError', _}}, py:stream(no_such, f, [])),
    ?assertMatch([{error, {'AttributeError', _}}], items(py:stream_start(math, no_such, []))),
    ?assertMatch({error, {'SyntaxError', _}}, py:stream_eval("def")),
    ?assertEqual({error, {bad_option, code}}, py:stream_eval(foo)),
    ?assertEqual({error, {bad_option, locals}}, py:stream_eval("[]", [])),
    ?assertEqual({error, {bad_option, module}}, py:stream(1, f, [])),
    ?assertEqual([{error, {bad_option, function}}], items(py:stream_start(math, 1, []))),
    Down = {error, {node_down, 'nobody@127.0.0.1', not_started}},
    ?assertEqual(Down, py:stream(math, f, [], #{}, #{node => 'nobody@127.0.0.1'})),
    ?assertEqual([Down], items(py:stream_start(math, f, [], #{}, #{node => 'nobody@127.0.0.1'}))),
    [begin
         ?assertEqual({K, V, {error, {bad_option, K}}}, {K, V, py:stream(builtins, range, [1], #{}, #{K => V})}),
         ?assertEqual({K, V, [{error, {bad_option, K}}]}, {K, V, items(py:stream_start(builtins, range, [1], #{}, #{K => V}))})
     end || {K, V} <- [{window, 0}, {window, -1}, {window, a}, {window, (1 bsl 20) + 1}, {timeout, soon}, {executor, 1},
                       {stream, 1}, {loop, true}, {node, "a"}, {notify, 1}, {kwargs, #{}}]],
    ?assertEqual({error, {bad_option, timeout}}, py:stream(builtins, range, [1], #{}, soon)),
    ?assertEqual({error, {bad_option, kwargs}}, py:stream(builtins, range, [1], [])),
    ?assertEqual([{error, {bad_option, kwargs}}], items(py:stream_start(builtins, range, [1], []))),
    ?assertEqual([], live:flush()).

first(Ref) ->
    receive {py_stream, Ref, {data, V}} -> V after live:ms(10000) -> none end.

closed(Note) ->
    live:eventually(fun() -> lists:member([Note, <<"closed">>], notes()) end).

stream_cancels(_) ->
    [begin
         Note = {F, E},
         Ref = py:stream_start(tasks, F, [none, Note], #{}, #{executor => E}),
         ?assertEqual(0, first(Ref)),
         ?assertEqual(ok, py:stream_cancel(Ref)),
         ?assertEqual(none, receive {py_stream, Ref, _} -> some after 50 -> none end),
         closed(Note),
         ?assertEqual(ok, py:stream_cancel(Ref)),
         Other = py:stream_start(tasks, F, [none, Note], #{}, #{executor => E}),
         ?assertEqual(0, first(Other)),
         ?assertEqual(ok, py:cancel(Other)),
         ?assertEqual({error, cancelled}, lists:last(items(Other))),
         closed(Note),
         ?assertEqual(ok, py:cancel(Other)),
         ?assertEqual(ok, py:stream_cancel(Other))
     end || F <- [count, async_count], E <- [false, true]],
    ?assertEqual(ok, py:stream_cancel(make_ref())),
    %% One that has ended, whose messages nobody has taken.
    Ended = py:stream_start(builtins, range, [3]),
    live:eventually(fun() -> process_info(self(), message_queue_len) =:= {message_queue_len, 4} end),
    ?assertEqual(ok, py:stream_cancel(Ended)),
    %% One that waits for something else.
    Gate = #{port := Port} = live:gate(),
    Behind = py:stream_start(tasks, async_behind, [Port, 3, 1]),
    Door = live:entered(Gate),
    ?assertEqual(0, first(Behind)),
    ?assertEqual(ok, py:stream_cancel(Behind)),
    ?assertEqual({error, closed}, gen_tcp:recv(Door, 0, live:ms(5000))),
    ?assertEqual([], live:flush()).

stream_cancelled_any_time(_) ->
    live:pmap(fun(I) ->
        rand:seed(exsss, I),
        [begin
             F = case J rem 2 of 0 -> count; 1 -> async_count end,
             Ref = py:stream_start(tasks, F, [rand:uniform(50)], #{}, #{window => rand:uniform(20), executor => J rem 3 =:= 0}),
             receive after rand:uniform(3) - 1 -> ok end,
             J rem 4 =:= 0 orelse first_or_end(Ref),
             ok = py:stream_cancel(Ref),
             ?assertEqual([], [M || {messages, Ms} <- [process_info(self(), messages)], M <- Ms])
         end || J <- lists:seq(1, 40)],
        receive M -> error({late, M}) after 300 -> ok end
    end, lists:seq(1, 10)).

first_or_end(Ref) ->
    receive {py_stream, Ref, _} -> ok after 5 -> ok end.

stream_slow_reader(_) ->
    Window = 10,
    [begin
         Note = {slow, F, E},
         Ref = py:stream_start(tasks, F, [none, Note], #{}, #{executor => E, window => Window}),
         Made = fun() -> {ok, N} = py:call(tasks, how_many, [Note]), N end,
         Full = fun(Taken) ->
                    live:eventually(fun() -> process_info(self(), message_queue_len) =:= {message_queue_len, Window}
                                                 orelse process_info(self(), message_queue_len) end),
                    receive after 150 -> ok end,
                    ?assertEqual({message_queue_len, Window}, process_info(self(), message_queue_len)),
                    ?assert(Made() - Taken =< Window + 1)
                end,
         Full(0),
         [?assertEqual(I, first(Ref)) || I <- lists:seq(0, 9)],
         Full(10),
         [?assertEqual(I, first(Ref)) || I <- lists:seq(10, 500)],
         live:eventually(fun() -> {_, Len} = process_info(self(), message_queue_len), Len =< Window andalso Made() - 501 =< Window + 1 end),
         ok = py:stream_cancel(Ref),
         closed(Note)
     end || F <- [count, async_count], E <- [false, true]],
    ?assertEqual([], live:flush()).

%% It reads one item after another among them, and stalls now and then: the mailbox has never more than the window.
stream_busy_reader(_) ->
    [self() ! {other, I} || I <- lists:seq(1, 10000)],
    Ref = py:stream_start(tasks, count, [2000], #{}, #{window => 50}),
    live:within(20000, fun() -> ?assertEqual(lists:seq(0, 1999) ++ [done], items(Ref)) end),
    Slow = py:stream_start(tasks, count, [none, <<"busy">>], #{}, #{window => 50}),
    live:eventually(fun() -> process_info(self(), message_queue_len) =:= {message_queue_len, 10050} end),
    receive after 300 -> ok end,
    ?assertEqual({message_queue_len, 10050}, process_info(self(), message_queue_len)),
    {ok, Made} = py:call(tasks, how_many, [<<"busy">>]),
    ?assert(Made =< 51),
    ok = py:stream_cancel(Slow),
    closed(<<"busy">>),
    ?assertEqual([{other, I} || I <- lists:seq(1, 10000)], live:flush()).

stream_ends_early(_) ->
    [begin
         ?assertEqual({error, timeout}, py:stream(tasks, F, [none, F], #{}, #{timeout => live:ms(200), executor => E})),
         closed(F),
         Ref = py:stream_start(tasks, F, [none, F], #{}, #{timeout => live:ms(200), executor => E}),
         ?assertEqual({error, timeout}, lists:last(items(Ref))),
         closed(F),
         Self = self(),
         Pid = spawn(fun() -> R = py:stream_start(tasks, F, [none, F], #{}, #{executor => E}), first(R), Self ! first, receive stop -> ok end end),
         receive first -> ok end,
         exit(Pid, kill),
         closed(F),
         Collector = spawn(fun() -> py:stream(tasks, F, [none, F], #{}, #{executor => E, timeout => infinity}) end),
         live:eventually(fun() -> {ok, N} = py:call(tasks, how_many, [F]), N > 1000 end),
         exit(Collector, kill),
         closed(F)
     end || F <- [count, async_count], E <- [false, true]],
    ?assertEqual([], live:flush()).

stream_node_down(_) ->
    [Node] = py:nodes(),
    Begin = fun() ->
                _ = notes(),
                Refs = [py:stream_start(tasks, F, [none, F], #{}, #{executor => E}) || F <- [count, async_count], E <- [false, true]],
                [?assertEqual(0, first(Ref)) || Ref <- Refs],
                Collect = element(2, spawn_monitor(fun() -> exit({collected, py:stream(tasks, count, [none, 1], #{}, infinity)}) end)),
                live:eventually(fun() -> {ok, N} = py:call(tasks, how_many, [1]), N > 1000 end),
                {Refs, Collect}
            end,
    Ended = fun({Refs, Collect}) ->
                [?assertMatch({error, {node_down, Node, _}}, lists:last(items(Ref))) || Ref <- Refs],
                ?assertMatch({collected, {error, {node_down, Node, _}}}, receive {'DOWN', Collect, process, _, R} -> R end),
                ?assertEqual(none, receive {py_stream, _, _} = M -> M after 200 -> none end)
            end,
    First = Begin(),
    exit(py_node(), kill),
    Ended(First),
    serves(),
    ?assertEqual([1, async_count, async_count, count, count], lists:sort([N || [N, <<"closed">>] <- collect(5)])),
    Second = Begin(),
    erlang:disconnect_node(Node),
    Ended(Second),
    serves(),
    Third = Begin(),
    #{nodes := [#{info := #{os_pid := Pid}}]} = py:info(),
    {0, _} = live:sh("kill -KILL " ++ integer_to_list(Pid)),
    Ended(Third),
    serves(),
    Fourth = Begin(),
    ok = application:stop(pynode),
    Ended(Fourth),
    {ok, _} = application:ensure_all_started(pynode),
    serves(),
    ?assertEqual([], live:flush()).

%% The connection is full, so that nothing can be sent.
stream_unread(_) ->
    Node = #{node := N} = live:pynode(),
    ok = py:connect(N),
    {ok, [0]} = py:stream(builtins, range, [1], #{}, #{node => N}), % what the first one needs is there
    Ref = py:stream_start(itertools, count, [], #{}, #{node => N, timeout => live:ms(1000)}),
    Other = py:stream_start(itertools, count, [], #{}, #{node => N}),
    [?assertEqual(0, first(R)) || R <- [Ref, Other]],
    live:eventually(fun() -> {_, L} = process_info(self(), message_queue_len), L >= 100 orelse L end), % all they may send
    live:signal(Node, "STOP"),
    Big = binary:copy(<<"x">>, 30000000),
    Calls = [py:spawn_call(builtins, len, [Big], #{}, #{node => N}) || _ <- lists:seq(1, 3)],
    live:within(10000, fun() ->
        ?assertEqual({error, timeout}, lists:last(items(Ref))),
        _ = [first(Other) || _ <- lists:seq(1, 20)],
        ?assertEqual(ok, py:stream_cancel(Other))
    end),
    live:signal(Node, "CONT"),
    [?assertEqual({ok, 30000000}, py:await(Call)) || Call <- Calls],
    ok = py:disconnect(N),
    ?assertEqual([], live:flush()).

%%% ------------------------------------------------------------------ storms

%% Owners begin calls of all kinds until they are told to stop, and give up some; when calls get through something happens.
%% Each call must have had one outcome then, and no message may be left.
storm(Happens) ->
    Self = self(),
    Through = atomics:new(1, []),
    Owners = [spawn_link(fun() -> Self ! {self(), owner(I, Through)} end) || I <- lists:seq(1, 20)],
    receive after 100 -> ok end,
    live:eventually(fun() -> atomics:get(Through, 1) > 0 end),
    Happens(),
    receive after 100 -> ok end,
    [Pid ! stop || Pid <- Owners],
    All = lists:append([receive {Pid, Outcomes} -> Outcomes end || Pid <- Owners]),
    Counts = lists:foldl(fun(O, Acc) -> maps:update_with(O, fun(N) -> N + 1 end, 1, Acc) end, #{}, All),
    live:note("~p", [Counts]),
    ?assertEqual([], maps:keys(Counts) -- [ok, timeout, cancelled, draining, not_started, started, unknown]),
    live:eventually(fun() -> rows() =:= [] orelse length(rows()) end).

rows() ->
    try ets:tab2list(py_calls) catch error:badarg -> [] end.

owner(I, Through) ->
    rand:seed(exsss, I),
    owner_rounds(Through, []).

owner_rounds(Through, Outcomes) ->
    receive
        stop -> no_more(), Outcomes
    after 0 ->
            Round = owner_round(),
            lists:member(ok, Round) andalso atomics:add(Through, 1, 1),
            owner_rounds(Through, Round ++ Outcomes)
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
begin_one(5, N) -> {py:spawn_call(operator, add, [N, 1]), N};
begin_one(6, N) -> {{await, py_event_loop:create_task(operator, add, [N, 1], 1 + N rem 20)}, N};
begin_one(7, N) -> Ref = py_event_loop:create_task(operator, add, [N, 1]), py_event_loop:cancel(Ref), {Ref, N};
begin_one(8, N) when N rem 20 =:= 0 -> {{many, py_event_loop:create_tasks([{operator, add, [N, 1]} || _ <- lists:seq(1, 20)])}, N};
begin_one(9, N) when N rem 20 =:= 0 ->
    Ref = make_ref(),
    ok = py_event_loop:spawn_task(operator, add, [N, 1], #{notify => {self(), Ref}, timeout => 20}),
    {Ref, N};
begin_one(_, N) -> {py_event_loop:create_task(operator, add, [N, 1]), N}.

end_one({await, Ref}, N) -> [outcome(py:await(Ref, N rem 3), N)];
end_one({many, Refs}, N) -> lists:append([end_one(Ref, N) || Ref <- Refs]);
end_one({parallel, N}, _) when N rem 50 =:= 0 ->
    Gather = case N rem 100 of 0 -> fun py:parallel/2; _ -> fun py:async_gather/2 end,
    {ok, Results} = Gather([{operator, add, [N, 1]} || _ <- lists:seq(1, 20)], N rem 4),
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
    {{_, Pid, _, _}} = py_table:nodes(default),
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
    live:eventually(fun() -> [Count || {Owner, {_, Count}} <- dictionary(), is_pid(Owner), Count =/= 0] =:= [] end),
    live:within(10000, fun serves/0).

dictionary() ->
    {dictionary, Dictionary} = process_info(py_node(), dictionary),
    Dictionary.

%% Killed by somebody between sending it and saying so, which is feigned here.
sent_and_killed(_) ->
    Ref = make_ref(),
    {Dead, Monitor} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', Monitor, process, _, _} -> ok end,
    ok = py_table:add_calls({Ref, py_node(), Dead, async_result, time, sleep, none}),
    {pynode, hd(py:nodes())} ! [{call, Ref, asyncio, sleep, [3600], #{loop => true}}],
    Running = fun() -> lists:member(Ref, maps:get(started, py_node:info(py_node()))) end,
    live:eventually(Running),
    [py_node() ! turn || _ <- [1, 2]],
    live:eventually(fun() -> not Running() andalso not py_table:is_call(Ref) end).

%% The node answers before it is said who is to be watched.
answered_first(_) ->
    Self = self(),
    Ref = make_ref(),
    Pid = py_node(),
    Watched = fun() -> proplists:get_value(Self, dictionary(), {none, 0}) end,
    {_, Before} = Watched(),
    ok = py_table:add_calls({Ref, Pid, Self, async_result, math, sqrt, none}),
    {pynode, hd(py:nodes())} ! [{call, Ref, math, sqrt, [4], #{loop => true}}],
    receive {async_result, Ref, {ok, 2.0}} -> ok end,
    live:eventually(fun() -> element(2, Watched()) =:= Before - 1 end),
    Pid ! {expect, Self},
    live:eventually(fun() -> element(2, Watched()) =:= Before end).

no_litter(_) ->
    live:eventually(fun() -> rows() =:= [] end),
    live:eventually(fun() -> #{started := S, cancelled := C} = py_node:info(py_node()), {S, C} =:= {[], []} orelse {S, C} end),
    %% The monitors of owners that have ended or begin nothing are let go at a turn.
    live:eventually(10000, fun() ->
        {monitors, Monitors} = process_info(py_node(), monitors),
        length(Monitors) =:= 2 orelse Monitors % the node, py_home
    end),
    Names = [py_coordinator, py_table, py_log, pynode_sup, py_node_sup, py_port_sup],
    live:eventually(fun() -> Waiting = [N || N <- Names, process_info(whereis(N), message_queue_len) =/= {message_queue_len, 0}],
                             Waiting =:= [] orelse Waiting end). % one that comes now and then is read
