%% live_loop - the node's event loop, asyncio's own and uvloop: what runs there, and what goes on there or elsewhere.
-module(live_loop).

-export([setup/0, tests/1]).

-include_lib("stdlib/include/assert.hrl").

setup() ->
    Loops = [asyncio | [uvloop || has_uvloop()]],
    application:set_env(pynode, nodes, [spec(Loop, []) || Loop <- Loops] ++ [spec(script, ["-c", script()])]),
    {ok, _} = application:ensure_all_started(pynode),
    functions(),
    #{loops => Loops}.

functions() ->
    ok = py:register_function(add_one, fun([X]) -> X + 1 end),
    ok = py:register_function(fails, fun([]) -> error(oops) end),
    ok = py:register_function(sum_of_py, fun([X]) -> {ok, V} = py:call(loops, double, [X]), V + 1 end).

spec(Name, Args) ->
    Loop = case Name of script -> asyncio; _ -> Name end,
    #{name => Name, path => [live:py("")], workers => 2, loop => Loop, args => Args, program => os:getenv("PYNODE")}.

%% A script that stays on the main thread until it is told to go.
script() ->
    "import threading; threading.Event().wait()".

has_uvloop() ->
    Python = os:getenv("PYTHON", "python3"),
    string:trim(os:cmd(Python ++ " -c 'import uvloop; print(1)' 2>/dev/null")) =:= "1".

%% Other nodes for a while.
with(Spec, Fun) ->
    Before = application:get_env(pynode, nodes, []),
    ok = application:stop(pynode),
    application:set_env(pynode, nodes, [maps:merge(spec(asyncio, []), Spec)]),
    {ok, _} = application:ensure_all_started(pynode),
    functions(),
    try Fun()
    after
        application:stop(pynode),
        application:set_env(pynode, nodes, Before),
        setup()
    end.

tests(#{loops := Loops}) ->
    live:note("event loops: ~p", [Loops]),
    [{"nothing of it is loaded before the first task", fun nothing_loaded/0}] ++
    [{lists:flatten(io_lib:format("~s: ~s", [Loop, Name])), fun() -> Fun(Loop) end}
     || Loop <- Loops ++ [script], {Name, Fun} <- cases()] ++
    others().

cases() ->
    [{"coroutines, awaitables, futures, tasks and plain functions", fun kinds/1},
     {"a plain function sees the running loop", fun plain/1},
     {"inside, current_task(), timeouts, groups and context variables work", fun inside/1},
     {"sockets and child processes", fun real/1},
     {"a coroutine that a call returns is awaited, whichever way it was called", fun awaited/1},
     {"a thousand sleeps of 0.1 s take about as long as one", fun sleeps/1},
     {"a cancelled task runs its finally, and its caller has its answer", fun cancelled/1},
     {"so does a call whose coroutine is awaited", fun call_cancelled/1},
     {"a coroutine that erpc waits for no longer, or whose VM is gone, is cancelled", fun erpc_cancelled/1},
     {"one that resists ends when it likes, and answers nobody", fun stubborn/1},
     {"what cancels itself is cancelled", fun cancels_itself/1},
     {"what stops the loop or exits does not end it", fun stopped/1},
     {"handlers that are coroutines are served one after another", fun handlers/1},
     {"a call goes on in Erlang", fun in_erlang/1},
     {"a call goes to the end of the queue, again and again; nothing runs twice", fun countdown/1},
     {"erlang.run and spawn_task, from workers and on the loop", fun run_and_spawn/1},
     {"erlang.run is cancelled with the call that waits in it", fun run_cancelled/1},
     {"erlang.sleep, plain and awaited", fun sleep/1},
     {"a task is a process to Erlang", fun process/1},
     {"a task that forks comes back once", fun forks/1},
     {"what would go on for ever ends when it is cancelled", fun for_ever/1},
     {"what steps or closes itself is told that it runs", fun steps_itself/1},
     {"a map whose coroutines begin at once stays the process that it is", fun eager/1},
     {"what a generator has yielded before it fails comes before its error", fun items_before_error/1},
     {"an item does not wait for the next one", fun items_at_once/1}].

others() ->
    [{"many maps, many items, of all kinds", fun maps_of_all_kinds/0},
     {"signals reach handlers on the main thread's loop", fun signals/0},
     {"who sleeps leaves the worker to others, and hears that it is cancelled", fun sleepers/0},
     {"a call that goes on in Erlang holds no worker", fun no_worker_held/0},
     {"time slices", fun slices/0},
     {"a call that blocks is logged once, with its name", fun slow/0},
     {"while the loop is blocked the node answers pings and calls, and then the tasks", fun starved/0},
     {"more than --max-tasks are refused, the others are served", fun max_tasks/0},
     {"options that do not go together are refused", fun bad_options/0},
     {"drain: tasks end first; those that take too long are cancelled", fun drained/0},
     {"the first task comes together with SIGTERM: it is answered", fun first_and_last/0},
     {"the loop sleeps at its end, whatever comes then", fun sleeps_at_end/0},
     {"a node whose loop is blocked leaves when the drain's time is over", fun blocked/0},
     {"who waits for a loop that cannot start is told so", fun no_loop/0},
     {"what is imported before the node has started cannot wait for its loop", fun run_in_import/0},
     {"a signal's handler runs while the loop has nothing to do", fun plain_handler/0},
     {"an exception out of a signal's handler does not end the loop", fun raising_handler/0},
     {"who exits while the node leaves, or does not end, leaves the others their time", fun tidy_up/0},
     {"who stops the loop while the node leaves holds up nothing, and nothing is logged", fun stops_at_the_end/0},
     {"a script that runs a loop of its own, and the node's beside it", fun own_loop/0},
     {"--loop uvloop without uvloop is an error of the configuration", fun no_uvloop/0},
     {"a peer that takes no answers gets no tasks run", fun held_back/0}].

%%% ------------------------------------------------------------------ helpers

call(Node, F, Args) -> py:call(loops, F, Args, #{}, #{node => Node}).

run(Node, F, Args) -> py_event_loop:run(loops, F, Args, #{node => Node}).
run(Node, M, F, Args) -> py_event_loop:run(M, F, Args, #{node => Node}).

create(Node, F, Args) -> py_event_loop:create_task(loops, F, Args, #{node => Node}).

name(Alias) ->
    [Name] = [N || N <- py:nodes(), lists:prefix(atom_to_list(Alias) ++ "@", atom_to_list(N))],
    Name.

notes(Node) ->
    {ok, Notes} = call(Node, take_notes, []),
    Notes.

%%% ------------------------------------------------------------------ what runs

nothing_loaded() ->
    [begin
         {ok, 2.0} = py:call(math, sqrt, [4], #{}, #{node => Node}),
         ?assertEqual({ok, [false, false]},
                      py:call(builtins, eval, [<<"[m in __import__('sys').modules for m in ('asyncio', 'erlang._loop')]">>],
                              #{}, #{node => Node}))
     end || Node <- [asyncio, script]].

kinds(L) ->
    ?assertEqual({ok, 14}, run(L, double, [7])),
    ?assertEqual({ok, 1}, run(L, later, [1])),
    ?assertEqual({ok, <<"now">>}, run(L, future, [<<"now">>])),
    ?assertEqual({ok, [1, 2]}, run(L, task, [[1, 2]])),
    ?assertEqual({ok, 3.0}, run(L, math, sqrt, [9])),
    ?assertEqual({ok, 5}, run(L, asyncio, sleep, [0.001, 5])),
    ?assertMatch({error, {'ValueError', <<"bad">>}}, run(L, fails, [<<"bad">>])),
    ?assertMatch({error, {'ValueError', _}}, run(L, math, sqrt, [-1])),
    ?assertMatch({error, {'ModuleNotFoundError', _}}, run(L, no_such_module, f, [])),
    ?assertMatch({error, {'AttributeError', _}}, run(L, math, no_such_function, [])),
    ?assertMatch({error, {'TypeError', _}}, run(L, double, [])),
    ?assertMatch({error, {'TypeError', _}}, run(L, builtins, object, [])),
    ?assertMatch({error, {'ValueError', <<"b">>, [_ | _]}},
                 py_event_loop:run(loops, fails, [<<"b">>], #{node => L, traceback => true})).

plain(L) ->
    {ok, [Module, Main]} = run(L, plain, []),
    ?assertEqual(L =:= uvloop, binary:match(Module, <<"uvloop">>) =/= nomatch),
    ?assertEqual(L =/= script, Main).

inside(L) ->
    ?assertEqual({ok, [true, true, true]}, run(L, current, [])),
    ?assertEqual({ok, <<"too long">>}, run(L, limited, [0.01])),
    ?assertEqual({ok, <<"too long">>}, run(L, in_timeout, [0.01])),
    ?assertEqual({ok, [0, 2, 4, 6]}, run(L, group, [4])),
    Refs = [{I, create(L, context, [I])} || I <- lists:seq(1, 20)],
    [?assertEqual({ok, [<<"unset">>, I]}, py_event_loop:await(Ref)) || {I, Ref} <- Refs].

real(L) ->
    ?assertEqual({ok, lists:seq(0, 49)}, run(L, sockets, [50])),
    ?assertEqual({ok, [<<"hello">>, 0]}, run(L, command, [<<"echo">>, <<"hello">>])),
    ?assertEqual({ok, [<<>>, 3]}, run(L, command, [<<"sh">>, <<"-c">>, <<"exit 3">>])).

awaited(L) ->
    N = name(L),
    ?assertEqual({ok, 8}, call(L, double, [4])),
    ?assertEqual(8, rpc:call(N, loops, double, [4])),
    ?assertEqual(8, erpc:call(N, loops, double, [4])),
    ?assertMatch({error, {'ValueError', <<"late">>}}, call(L, fails, [<<"late">>])),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'ValueError', <<"late">>}, _}}}, rpc:call(N, loops, fails, [<<"late">>])),
    ?assertEqual({ok, 8}, py:call(loops, double, [4], #{}, #{node => L, queue => q})),
    Calls = [erpc:send_request(N, loops, nap, [0.05, I]) || I <- lists:seq(1, 200)],
    [?assertEqual(I, erpc:receive_response(Call, live:ms(10000))) || {I, Call} <- lists:zip(lists:seq(1, 200), Calls)],
    {Pid, Monitor} = erlang:spawn_monitor(N, loops, nap, [0.01]),
    ?assertEqual(normal, receive {'DOWN', Monitor, process, Pid, Reason} -> Reason after live:ms(10000) -> late end).

sleeps(L) ->
    {ok, _} = run(L, nap, [0]),
    {Took, _} = live:timed(fun() ->
        Refs = [create(L, nap, [0.1, I]) || I <- lists:seq(1, 1000)],
        [?assertEqual({ok, I}, py_event_loop:await(Ref)) || {I, Ref} <- lists:zip(lists:seq(1, 1000), Refs)]
    end),
    live:note("1000 sleeps of 0.1 s: ~.1f ms", [Took]),
    ?assert(Took < live:ms(1000)).

%%% ------------------------------------------------------------------ how it ends

cancelled(L) ->
    Gate = #{port := Port} = live:gate(),
    Ref = create(L, held, [Port, <<"cancelled">>]),
    live:entered(Gate),
    ok = py_event_loop:cancel(Ref),
    ?assertEqual({error, cancelled}, py_event_loop:await(Ref)),
    live:eventually(fun() -> notes(L) =:= [<<"cancelled">>] end),
    ?assertEqual({error, timeout}, py_event_loop:run(loops, held, [Port, <<"too long">>], #{node => L, timeout => live:ms(100)})),
    live:eventually(fun() -> notes(L) =:= [<<"too long">>] end).

call_cancelled(L) ->
    Gate = #{port := Port} = live:gate(),
    Ref = py:spawn_call(loops, held, [Port, <<"call">>], #{}, #{node => L}),
    live:entered(Gate),
    ok = py:cancel(Ref),
    ?assertEqual({error, cancelled}, py:await(Ref)),
    live:eventually(fun() -> notes(L) =:= [<<"call">>] end).

erpc_cancelled(L) ->
    N = name(L),
    Gate = #{port := Port} = live:gate(),
    ?assertError({erpc, timeout}, erpc:call(N, loops, held, [Port, <<"erpc">>], 200)),
    live:eventually(fun() -> notes(L) =:= [<<"erpc">>] end),
    Pid = spawn(N, loops, held, [Port, <<"spawn">>]),
    [live:entered(Gate) || _ <- [1, 2]],
    exit(Pid, bye),
    live:eventually(fun() -> notes(L) =:= [<<"spawn">>] end),
    live:eventually(fun() -> idle(L) end).

stubborn(L) ->
    Gate = #{port := Port} = live:gate(),
    Ref = create(L, stubborn, [Port]),
    live:entered(Gate),
    ok = py_event_loop:cancel(Ref),
    ?assertEqual({error, cancelled}, py_event_loop:await(Ref)),
    live:eventually(fun() -> notes(L) =:= [<<"stubborn">>] end),
    ?assertEqual(nothing, receive {_, Ref, _} = M -> M after 50 -> nothing end).

cancels_itself(L) ->
    ?assertEqual({error, cancelled}, run(L, cancels_itself, [])).

stopped(L) ->
    ?assertEqual({ok, none}, run(L, stop_loop, [])),
    ?assertEqual({ok, 2}, run(L, double, [1])),
    ?assertEqual({ok, none}, run(L, exit_in_callback, [])),
    ?assertEqual({ok, 2}, run(L, double, [1])),
    ?assertMatch({error, {'SystemExit', _}}, run(L, exits, [])),
    ?assertMatch({error, {'SystemExit', _}}, run(L, sys, exit, [3])),
    ?assertEqual({ok, 2}, run(L, double, [1])).

%%% ------------------------------------------------------------------ where it goes on

handlers(L) ->
    Bank = {bank, name(L)},
    {ok, none} = call(L, open_bank, []),
    try
        live:pmap(fun(_) -> gen_server:call(Bank, 1) end, lists:seq(1, 100)),
        ?assertEqual(100, gen_server:call(Bank, <<"balance">>)),
        ?assertEqual(1, gen_server:call(Bank, <<"most">>)),
        ?assertMatch({{{python_error, 'ValueError', <<"no money">>}, _}, _},
                     live:exit_of(fun() -> gen_server:call(Bank, <<"fail">>) end)),
        ok = gen_server:cast(Bank, 5),
        Bank ! <<"fail">>,
        Bank ! <<"times ten">>,
        ?assertEqual(1050, gen_server:call(Bank, <<"balance">>)),
        Monitor = erlang:monitor(process, Bank),
        ?assertEqual(<<"gone">>, gen_server:call(Bank, <<"leave">>)),
        ?assertEqual(normal, receive {'DOWN', Monitor, process, _, Reason} -> Reason after live:ms(5000) -> late end)
    after
        py:call(erlang, unregister, [<<"bank">>], #{}, #{node => L})
    end.

in_erlang(L) ->
    ?assertEqual({ok, 5}, call(L, in_erlang, [<<"add_one">>, 4])),
    ?assertEqual({ok, 5}, run(L, in_erlang, [<<"add_one">>, 4])),
    ?assertEqual({ok, 5}, run(L, async_in_erlang, [<<"add_one">>, 4])),
    ?assertEqual(5, erpc:call(name(L), loops, in_erlang, [<<"add_one">>, 4])),
    ?assertMatch({error, {'ErlangError', _}}, call(L, in_erlang, [<<"fails">>])),
    ?assertMatch({error, {'ErlangError', <<"Function 'none' not registered">>}}, call(L, in_erlang, [<<"none">>])),
    ?assertEqual([<<"in_erlang">> || _ <- lists:seq(1, 5)], notes(L)).

countdown(L) ->
    ?assertEqual({ok, <<"done">>}, call(L, countdown, [100])),
    ?assertEqual(lists:seq(100, 0, -1), notes(L)),
    ?assertEqual({ok, <<"done">>}, run(L, countdown, [100])),
    ?assertEqual(lists:seq(100, 0, -1), notes(L)),
    ?assertEqual({ok, <<"done">>}, run(L, async_countdown, [20])),
    ?assertEqual({ok, <<"done">>}, py:call(loops, countdown, [10], #{}, #{node => L, queue => q})),
    ?assertEqual(lists:seq(10, 0, -1), notes(L)),
    ?assertMatch({error, {'ModuleNotFoundError', _}}, call(L, to_nowhere, [])),
    Refs = [py:spawn_call(loops, countdown, [20], #{}, #{node => L}) || _ <- lists:seq(1, 50)],
    [?assertEqual({ok, <<"done">>}, py:await(Ref)) || Ref <- Refs],
    ?assertEqual(50 * 21, length(notes(L))).

run_and_spawn(L) ->
    ?assertEqual({ok, 6}, call(L, nested_run, [3])),
    ?assertMatch({error, {'ValueError', <<"inner">>}}, call(L, run_failing, [<<"inner">>])),
    {ok, Text} = run(L, run_inside, []),
    ?assertMatch({_, _}, binary:match(Text, <<"await instead">>)),
    ?assertEqual({ok, 6}, call(L, spawned, [3])),
    ?assertEqual({ok, [true, <<"inside">>, 6]}, run(L, spawned_inside, [3])),
    Calls = [py:spawn_call(loops, nested_run, [I], #{}, #{node => L}) || I <- lists:seq(1, 50)],
    [?assertEqual({ok, 2 * I}, py:await(Ref)) || {I, Ref} <- lists:zip(lists:seq(1, 50), Calls)].

run_cancelled(L) ->
    Gate = #{port := Port} = live:gate(),
    Ref = py:spawn_call(loops, run_held, [Port, <<"run">>], #{}, #{node => L}),
    live:entered(Gate),
    ok = py:cancel(Ref),
    ?assertEqual({error, cancelled}, py:await(Ref)),
    live:eventually(fun() -> notes(L) =:= [<<"run">>] end).

sleep(L) ->
    ?assertEqual({ok, 1}, call(L, sleep, [0.01, 1])),
    ?assertEqual({ok, 1}, run(L, async_sleep, [0.01, 1])),
    ?assertEqual({ok, none}, run(L, erlang, sleep, [0.01])),
    ?assertMatch({error, {'ValueError', _}}, call(L, sleep, [-1])),
    ?assertMatch({error, {'TypeError', _}}, call(L, sleep, [none])).

process(L) ->
    {ok, [Pid, Same]} = run(L, whoami, []),
    ?assert(is_pid(Pid)),
    ?assert(Same),
    Monitor = erlang:monitor(process, Pid),
    ?assertEqual(noproc, receive {'DOWN', Monitor, process, Pid, Reason} -> Reason after live:ms(5000) -> late end),
    {ok, [Other, true]} = run(L, self_and_later, []),
    ?assert(is_pid(Other) andalso Other =/= Pid).

forks(L) ->
    ?assertEqual({ok, <<"plain">>}, run(L, fork, [<<"plain">>])),
    ?assertEqual({ok, <<"coroutine">>}, run(L, async_fork, [<<"coroutine">>])),
    L =:= uvloop orelse ?assertEqual({ok, 0}, run(L, fork_in_callback, [])),
    ?assertEqual({ok, 2}, run(L, double, [1])).

for_ever(L) ->
    [begin
         Gate = #{port := Port} = live:gate(),
         Ref = Begin(Port),
         live:open(live:entered(Gate)),
         timer:sleep(20),
         ok = py:cancel(Ref),
         ?assertEqual({error, cancelled}, Await(Ref)),
         live:eventually(fun() -> idle(L) end)
     end || {Begin, Await} <- [{fun(Port) -> create(L, for_ever, [Port]) end, fun(R) -> py_event_loop:await(R) end},
                               {fun(Port) -> py:spawn_call(loops, for_ever, [Port], #{}, #{node => L}) end, fun(R) -> py:await(R) end}]].

steps_itself(L) ->
    [?assertEqual({ok, <<"coroutine already executing">>}, run(L, steps_itself, Args))
     || Args <- [[<<"close">>], [<<"send">>, none], [<<"throw">>, none]]].

eager(L) ->
    {ok, none} = run(L, set_eager, [true]),
    {ok, Results} = py:map(loops, self_or_later, [[Later] || Later <- [false, true, false, true, false]], #{node => L}),
    {ok, none} = run(L, set_eager, [false]),
    [{ok, Map}, {ok, One}, {ok, Map2}, {ok, Other}, {ok, Map3}] = Results,
    ?assertEqual([Map, Map], [Map2, Map3]),
    ?assertEqual(3, length(lists:usort([Map, One, Other]))),
    [begin
         Monitor = erlang:monitor(process, Pid),
         ?assertEqual(noproc, receive {'DOWN', Monitor, process, Pid, Reason} -> Reason after live:ms(5000) -> late end)
     end || Pid <- [Map, One, Other]].

items_before_error(L) ->
    [?assertMatch([0, 1, 2, {error, {Class, _}}], items(py:stream_start(loops, F, [3], #{}, Options#{node => L})))
     || {F, Class} <- [{yields_and_fails, 'ValueError'}, {async_yields_and_fails, 'ValueError'}, {yields_object, 'TypeError'}],
        Options <- [#{}, #{executor => true}]].

items(Ref) ->
    receive
        {py_stream, Ref, {data, Item}} -> [Item | items(Ref)];
        {py_stream, Ref, End} -> [End]
    after live:ms(10000) -> [late]
    end.

items_at_once(L) ->
    [begin
         Gate = #{port := Port} = live:gate(),
         Ref = py:stream_start(loops, F, [Port], #{}, Options#{node => L}),
         Door = live:entered(Gate),
         ?assertEqual(<<"first">>, receive {py_stream, Ref, {data, Item}} -> Item after live:ms(5000) -> late end),
         live:open(Door),
         ?assertEqual([<<"second">>, done], items(Ref))
     end || {F, Options} <- [{yields_and_waits, #{}}, {yields_and_waits, #{executor => true}}, {yields_and_blocks, #{executor => true}}]].

idle(L) ->
    #{tasks := Tasks, running := Running, queued := Queued} = rpc:call(name(L), pynode, status, []),
    Tasks + Running + Queued =:= 0.

%%% ------------------------------------------------------------------ the node

maps_of_all_kinds() ->
    N = 20000,
    {ok, Roots} = py:map(math, sqrt, [[I] || I <- lists:seq(1, N)], #{node => asyncio}),
    ?assertEqual([{ok, math:sqrt(I)} || I <- lists:seq(1, N)], Roots),
    ?assertEqual({ok, [{ok, 2 * I} || I <- lists:seq(1, 500)]}, py:map(loops, double, [[I] || I <- lists:seq(1, 500)], #{node => asyncio})),
    Mixed = [[I] || I <- lists:seq(-3, 3)] ++ [[<<"x">>], [], [1, 2]],
    {ok, Results} = py:map(math, sqrt, Mixed, #{node => asyncio}),
    ?assertMatch([{error, {'ValueError', _}}, {error, _}, {error, _}, {ok, Zero}, {ok, 1.0}, {ok, _}, {ok, _},
                  {error, {'TypeError', _}}, {error, {'TypeError', _}}, {error, {'TypeError', _}}] when Zero == 0, Results),
    %% Those that end first do not come first.
    {ok, Naps} = py:map(loops, nap, [[I / 1000, I] || I <- lists:seq(50, 1, -1)], #{node => asyncio}),
    ?assertEqual([{ok, I} || I <- lists:seq(50, 1, -1)], Naps),
    ?assertMatch({ok, [{ok, 5}, {error, {'ErlangError', _}}]}, py:map(loops, in_erlang, [[<<"add_one">>, 4], [<<"none">>]], #{node => asyncio})),
    notes(asyncio),
    Gate = #{port := Port} = live:gate(),
    Self = self(),
    spawn(fun() -> Self ! {map, py:map(loops, held, [[Port, I] || I <- lists:seq(1, 3)], #{node => asyncio, timeout => live:ms(300)})} end),
    [live:entered(Gate) || _ <- lists:seq(1, 3)],
    ?assertEqual({error, timeout}, receive {map, R} -> R after live:ms(10000) -> late end),
    ?assertEqual([1, 2, 3], lists:sort(collect(3))).

%% So many notes, as they come.
collect(N) when N > 0 ->
    Notes = notes(asyncio),
    Notes =/= [] orelse timer:sleep(10),
    Notes ++ collect(N - length(Notes));
collect(0) ->
    [].

signals() ->
    [?assertEqual({ok, true}, run(L, signalled, [])) || L <- [asyncio]].

sleepers() ->
    with(#{workers => 1, max_workers => 1}, fun() ->
        {Took, _} = live:timed(fun() ->
            Refs = [py:spawn_call(loops, sleep, [0.3, I]) || I <- lists:seq(1, 20)],
            [?assertEqual({ok, I}, py:await(Ref)) || {I, Ref} <- lists:zip(lists:seq(1, 20), Refs)]
        end),
        live:note("20 sleeps of 0.3 s on one worker: ~.1f ms", [Took]),
        ?assert(Took < live:ms(3000)),
        Ref = py:spawn_call(loops, sleep, [3600]),
        live:eventually(fun() -> {ok, #{running := R}} = py:call(pynode, status, []), R > 0 end),
        ok = py:cancel(Ref),
        ?assertEqual({error, cancelled}, py:await(Ref)),
        live:eventually(fun() -> {ok, #{running := R}} = py:call(pynode, status, []), R =:= 0 end)
    end).

no_worker_held() ->
    with(#{workers => 1, max_workers => 1}, fun() ->
        Refs = [py:spawn_call(loops, in_erlang, [<<"sum_of_py">>, I]) || I <- lists:seq(1, 50)],
        [?assertEqual({ok, 2 * I + 1}, py:await(Ref)) || {I, Ref} <- lists:zip(lists:seq(1, 50), Refs)]
    end).

slices() ->
    ?assertEqual({ok, [false, true, false, true]}, call(asyncio, slices, [50, 4])),
    ?assertEqual({ok, [true, true]}, call(asyncio, slices, [100, 2])),
    ?assertEqual({ok, [false]}, call(asyncio, slices, [99, 1])),
    ?assertEqual({ok, [false]}, call(asyncio, slices, [99, 1])),
    ?assertEqual({ok, [false, true]}, run(asyncio, slices, [60, 2])),
    [?assertMatch({error, {'ValueError', _}}, call(asyncio, slices, [P, 1])) || P <- [0, 101, -5]].

slow() ->
    Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio"]}),
    Mark = live:mark(Node),
    {Us, _} = timer:tc(fun() -> [{ok, <<"blocked">>} = raw(N, loops, block, [0.2]) || _ <- [1, 2]] end),
    Line = live:wait_line(Node, "loops:block held up all other tasks", Mark),
    {match, [Ms]} = re:run(Line, "held up all other tasks for (\\d+) ms", [{capture, all_but_first, list}]),
    ?assert(list_to_integer(Ms) >= 200 andalso list_to_integer(Ms) =< Us div 1000, {Ms, Us}),
    ?assertMatch({_, _}, binary:match(iolist_to_binary(Line), <<"executor">>)),
    {ok, none} = raw(N, asyncio, sleep, [0.2]),
    {ok, 2} = raw(N, loops, double, [1]),
    ?assertEqual(1, length([L || L <- live:lines(Node), string:find(L, "held up") =/= nomatch])).

%% A task of a node that the application is not attached to.
raw(N, M, F, Args) ->
    raw(N, M, F, Args, #{}).

raw(N, M, F, Args, Options) ->
    Ref = erlang:monitor(process, {pynode, N}, [{alias, reply_demonitor}]),
    {pynode, N} ! {call, Ref, M, F, Args, Options#{loop => true}},
    receive {py_response, Ref, Result} -> Result;
            {'DOWN', Ref, _, _, Why} -> {down, Why}
    after live:ms(10000) -> late end.

starved() ->
    Gate = #{port := Port} = live:gate(),
    Ref = py_event_loop:create_task(gate, wait, [Port], #{node => asyncio, timeout => infinity}),
    Door = live:entered(Gate),
    Behind = [create(asyncio, double, [I]) || I <- lists:seq(1, 100)],
    ?assertEqual(pong, net_adm:ping(name(asyncio))),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, #{node => asyncio})),
    ?assertEqual({error, timeout}, py_event_loop:run(loops, double, [1], #{node => asyncio, timeout => 50})),
    live:open(Door),
    ?assertEqual({ok, none}, py_event_loop:await(Ref)),
    [?assertEqual({ok, 2 * I}, py_event_loop:await(R)) || {I, R} <- lists:zip(lists:seq(1, 100), Behind)].

max_tasks() ->
    with(#{max_tasks => 10}, fun() ->
        Refs = [py_event_loop:create_task(loops, nap, [0.3, I]) || I <- lists:seq(1, 30)],
        Results = [py_event_loop:await(Ref, infinity) || Ref <- Refs],
        ?assertEqual(20, length([1 || {error, overloaded} <- Results])),
        ?assertEqual(10, length([1 || {ok, _} <- Results])),
        ?assertEqual({ok, 2}, py_event_loop:run(loops, double, [1])),
        ?assertEqual({ok, 2}, py:call(loops, double, [1]))
    end).

bad_options() ->
    N = name(asyncio),
    [?assertEqual({error, {bad_option, Key}}, raw(N, math, sqrt, [4], Options))
     || {Key, Options} <- [{loop, #{queue => q}}, {loop, #{thread => new}}, {loop, #{executor => blocking}},
                           {map, #{map => true, stream => 5}}, {stream, #{stream => 0}}, {stream, #{stream => many}},
                           {map, #{map => false}}]],
    ?assertEqual({ok, 2.0}, raw(N, math, sqrt, [4])).

drained() ->
    Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio"]}),
    Self = self(),
    spawn_link(fun() -> Self ! {nap, raw(N, loops, nap, [0.3, <<"ended">>])} end),
    live:eventually(fun() -> maps:get(tasks, rpc:call(N, pynode, status, [])) =:= 1 end),
    live:signal(Node, "TERM"),
    live:eventually(fun() -> rpc:call(N, pynode, ready, []) =/= true end),
    ?assertEqual({ok, <<"ended">>}, receive {nap, R} -> R after live:ms(10000) -> late end),
    ?assertEqual(0, live:wait_exit(Node)),
    Other = #{node := O} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio", "--drain-timeout", "0.2"]}),
    File = live:tmp("drained.ended"),
    Code = io_lib:format("import asyncio\nasync def stay():\n    try:\n        await asyncio.sleep(3600)\n    finally:\n"
                         "        open('~s', 'w').close()\n", [File]),
    none = rpc:call(O, builtins, exec, [iolist_to_binary(Code)]),
    spawn(fun() -> raw(O, '__main__', stay, []) end),
    live:eventually(fun() -> maps:get(tasks, rpc:call(O, pynode, status, [])) =:= 1 end),
    live:signal(Other, "TERM"),
    ?assertEqual(0, live:wait_exit(Other)),
    ?assert(filelib:is_regular(File)).

%% Stopped before, the node finds both when it goes on.
first_and_last() ->
    [begin
         Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio"]}),
         pong = net_adm:ping(N),
         live:signal(Node, "STOP"),
         Self = self(),
         spawn_link(fun() -> Self ! {result, raw(N, loops, double, [1])} end),
         live:signal(Node, "TERM"),
         live:signal(Node, "CONT"),
         Result = receive {result, R} -> R end,
         ?assert(lists:member(Result, [{ok, 2}, {error, draining}, {down, noconnection}]), {Result}),
         ?assertEqual(0, live:wait_exit(Node))
     end || _ <- lists:seq(1, 10)].

sleeps_at_end() ->
    Gate = #{port := Port} = live:gate(),
    Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio", "--drain-timeout", "0.2"]}),
    Took = live:tmp("sleeps_at_end"),
    Ref = make_ref(),
    {pynode, N} ! {call, Ref, loops, resists, [iolist_to_binary(Took)], #{loop => true}},
    live:eventually(fun() -> maps:get(tasks, rpc:call(N, pynode, status, [])) =:= 1 end),
    spawn(fun() -> raw(N, gate, wait, [Port]) end),
    Door = live:entered(Gate),
    [spawn(fun() -> raw(N, loops, double, [1]) end) || _ <- [1, 2, 3]],
    live:eventually(fun() -> maps:get(tasks, rpc:call(N, pynode, status, [])) =:= 5 end),
    live:signal(Node, "TERM"),
    live:wait_line(Node, "drain timeout: 5 requests"),
    live:open(Door),
    live:eventually(fun() -> filelib:is_regular(Took) end),
    {pynode, N} ! {cancel, Ref},
    ?assertEqual(0, live:wait_exit(Node)),
    {ok, Seconds} = file:read_file(Took),
    live:note("~s s of a processor in 0.5 s", [Seconds]),
    ?assert(binary_to_float(Seconds) < 0.1).

blocked() ->
    Gate = #{port := Port} = live:gate(),
    Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio", "--drain-timeout", "0.3"]}),
    spawn(fun() -> raw(N, gate, wait, [Port]) end),
    live:entered(Gate),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:wait_exit(Node)),
    live:wait_line(Node, "drain timeout: 1 requests").

no_loop() ->
    Dir = live:tmp("no_loop"),
    ok = file:make_dir(Dir),
    ok = file:write_file(filename:join(Dir, "uvloop.py"), "raise OSError('broken')\n"),
    Node = #{node := N} = live:pynode(#{args => ["--path", Dir, "--path", live:py(""), "--loop", "auto"]}),
    ?assertMatch({error, {'RuntimeError', <<"this node's event loop could not start">>}}, raw(N, loops, double, [1])),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'RuntimeError', <<"this node's event loop could not start">>}, _}}},
                 rpc:call(N, loops, nested_run, [1], live:ms(5000))),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:wait_exit(Node)).

run_in_import() ->
    File = live:tmp("run_in_import.py"),
    ok = file:write_file(File, "import erlang, loops\ntry:\n    erlang.run(loops.double(1))\nexcept RuntimeError as e:\n    print(e, flush=True)\n"),
    [begin
         Node = live:pynode(#{args => ["--path", filename:dirname(File), "--path", live:py(""), "--import", "run_in_import" | Args]}),
         ?assertMatch({_, _}, binary:match(live:stdout(Node), <<"has not started">>)),
         live:signal(Node, "TERM"),
         live:wait_exit(Node)
     end || Args <- [[], ["-c", script()]]].

plain_handler() ->
    [begin
         Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", atom_to_list(L)]}),
         {ok, none} = raw(N, loops, plain_handler, []),
         [begin
              [{ok, 2} = raw(N, loops, double, [1]) || _ <- lists:seq(1, 50)],
              timer:sleep(50),
              Mark = live:mark(Node),
              live:signal(Node, "USR2"),
              live:wait_line(Node, "handled", Mark)
          end || _ <- lists:seq(1, 20)],
         live:signal(Node, "TERM"),
         ?assertEqual(0, live:wait_exit(Node))
     end || L <- [asyncio | [uvloop || has_uvloop()]]].

raising_handler() ->
    Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio"]}),
    {ok, none} = raw(N, loops, raising_handler, []),
    [begin
         Mark = live:mark(Node),
         live:signal(Node, "USR2"),
         live:wait_line(Node, "OSError: from a handler", Mark),
         ?assertEqual({ok, 2}, raw(N, loops, double, [1])) % the loop looks about, and then sleeps, when the next comes
     end || _ <- lists:seq(1, 20)],
    {ok, none} = raw(N, loops, raising_exception_handler, []),
    {ok, none} = raw(N, loops, exit_in_callback, []),
    ?assertEqual({ok, 2}, raw(N, loops, double, [1])),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:wait_exit(Node)).

tidy_up() ->
    Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio"]}),
    File = live:tmp("tidy_up.ended"),
    {ok, none} = raw(N, loops, async_generator_stays, []),
    {ok, none} = raw(N, loops, tidy_up, [list_to_binary(File)]),
    {ok, 2} = raw(N, loops, double, [1]),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:wait_exit(Node)),
    ?assert(filelib:is_regular(File)),
    ?assertEqual([], [L || L <- live:lines(Node), string:find(L, "could not run") =/= nomatch]).

stops_at_the_end() ->
    [begin
         Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", Loop]}),
         File = live:tmp("stops_at_the_end." ++ Loop),
         {ok, none} = raw(N, loops, stops_at_the_end, [list_to_binary(File)]),
         {ok, 2} = raw(N, loops, double, [1]), % so it runs
         live:signal(Node, "TERM"),
         ?assertEqual(0, live:wait_exit(Node)),
         ?assert(filelib:is_regular(File)),
         ?assertEqual([], [L || L <- live:lines(Node), string:find(L, "Error") =/= nomatch])
     end || Loop <- ["asyncio" | ["uvloop" || has_uvloop()]]].

own_loop() ->
    Script = "import asyncio, loops\n"
        "async def main():\n"
        "    print(await loops.double(4), await loops.group(3), flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n",
    Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio", "-c", Script]}),
    live:eventually(fun() -> iolist_to_binary(live:stdout(Node)) =:= <<"8 [0, 2, 4]\n">> end),
    ?assertEqual({ok, 2}, raw(N, loops, double, [1])),
    ?assertEqual(2, erpc:call(N, loops, double, [1])),
    {ok, [_, false]} = raw(N, loops, plain, []),
    Calls = [erpc:send_request(N, loops, nap, [0.05, I]) || I <- lists:seq(1, 50)],
    [?assertEqual(I, erpc:receive_response(C, live:ms(10000))) || {I, C} <- lists:zip(lists:seq(1, 50), Calls)],
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:wait_exit(Node)).

no_uvloop() ->
    Dir = live:tmp("no_uvloop"),
    ok = file:make_dir(Dir),
    ok = file:write_file(filename:join(Dir, "sitecustomize.py"),
                         "import sys\nclass No:\n    def find_spec(self, name, path=None, target=None):\n"
                         "        if name == 'uvloop':\n            raise ModuleNotFoundError(name)\nsys.meta_path.insert(0, No())\n"),
    {Status, Text} = live:sh("PYTHONPATH=" ++ Dir ++ " " ++ os:getenv("PYNODE") ++ " --cookie-file " ++ live:cookie_file() ++ " --loop uvloop --check-config 2>&1"),
    ?assertEqual(78, Status),
    ?assertMatch({_, _}, binary:match(iolist_to_binary(Text), <<"--loop uvloop">>)).

%% Answers of 200 kB to somebody who reads none: the outbox is full, and what waits is kept back until it reads, in
%% the node or, if it has not been read yet, before it.
held_back() ->
    Node = #{node := N} = live:pynode(#{args => ["--path", live:py(""), "--loop", "asyncio"]}),
    {ok, 2} = raw(N, loops, double, [1]),
    {ok, Peer} = wire:connect(Node),
    Calls = fun() -> maps:get(calls, rpc:call(N, pynode, stats, [])) end,
    Before = Calls(),
    [wire:ctl(Peer, {6, wire:pid(Peer, 1), '', pynode}, {call, wire:ref(Peer, I), builtins, bytes, [200000], #{loop => true}})
     || I <- lists:seq(1, 200)],
    Tasks = fun() -> maps:get(tasks, rpc:call(N, pynode, status, [])) end,
    live:eventually(fun() -> Ran = Calls() - Before, timer:sleep(100), Ran > 5 andalso Calls() - Before =:= Ran orelse Ran end),
    ?assert(Calls() - Before < 150),
    ?assertEqual({ok, 2}, raw(N, loops, double, [1])),
    Answers = [wire:next(Peer) || _ <- lists:seq(1, 200)],
    ?assertEqual(200, length(Answers)),
    live:eventually(fun() -> Tasks() =:= 0 end).
