%% live_threads - Python threads that call Erlang: one by one and many at once, in every way, and what they leave.
-module(live_threads).

-export([setup/0, tests/1]).
-export([vm/1, quit/0, sum/2]). % for other VMs, and for Python

-include_lib("stdlib/include/assert.hrl").

setup() ->
    start([#{}], all),
    #{}.

%% The application in this VM, with these nodes, and the functions that Python calls.
start(Specs, MayCall) ->
    Base = #{path => [live:py("")], workers => 2, program => os:getenv("PYNODE")},
    application:set_env(pynode, nodes, [maps:merge(Base, Spec) || Spec <- Specs]),
    application:set_env(pynode, python_may_call, MayCall),
    {ok, _} = application:ensure_all_started(pynode),
    functions().

functions() ->
    [ok = py:register_function(Name, Fun)
     || {Name, Fun} <- [{add_one, fun([X]) -> X + 1 end},
                        {double_it, fun([X]) -> X * 2 end},
                        {tag, fun([X]) -> X end},
                        {nested, fun([N]) -> nested(N) end},
                        {handler, fun([]) -> self() end},
                        {node, fun([]) -> node() end},
                        {improper, fun([]) -> improper() end},
                        {down, fun([N]) -> {ok, V} = py:call(callers, down, [N], #{}, infinity), V end},
                        {badarith, fun([]) -> 1 / length(py:nodes() -- py:nodes()) end},
                        {exits, fun([]) -> exit({shutdown, bye}) end},
                        {throws, fun([]) -> throw(ball) end}]],
    ok.

%% Other nodes, or another policy, for a while.
with(Specs, Fun) ->
    with(Specs, all, Fun).

with(Specs, MayCall, Fun) ->
    ok = application:stop(pynode),
    start(Specs, MayCall),
    try Fun()
    after
        application:stop(pynode),
        start([#{}], all)
    end.

tests(Ctx) ->
    [{Name, fun() -> Fun(Ctx) end} || {Name, Fun} <- cases()].

cases() ->
    [{"three chained calls in one thread", fun chain/1},
     {"a ThreadPoolExecutor of 4 maps over 10 items", fun executor_map/1},
     {"ten threads call at once", fun ten/1},
     {"what fails in Erlang is a RuntimeError with class, reason and stack", fun errors/1},
     {"threads made by _thread, and asyncio's executor", fun other_threads/1},
     {"a thread that has ended, by whatever, gives its connection and its handler to the next", fun in_turn/1},
     {"pools of threads one after another use the same connections", fun pools/1},
     {"30 bursts of 64 fresh threads leave no more than the first", fun bursts/1},
     {"what is local to a thread calls Erlang when the thread ends", fun finalizers/1},
     {"a converter of an argument calls Erlang itself, to any depth", fun converted/1},
     {"what the collector finds during a call calls Erlang itself", fun collected/1},
     {"Erlang and Python call each other 100 deep", fun deep/1},
     {"the same with one worker and a limit of two", fun deep_narrow/1},
     {"the same over one connection that all share", fun deep_shared/1},
     {"4 connections for 40 threads, and none: each is answered", fun few_connections/1},
     {"2000 threads are in erlang.call at once", fun crowd/1},
     {"answers of 64 threads never go to the wrong one", fun tagged/1},
     {"arguments and answers of 20 MB from 4 threads, by connections of their own and by the shared one", fun big/1},
     {"arguments and answers without a form are that call's error, not the connection's", fun mixed/1},
     {"a name that is none, no UTF-8 or longer than an atom, and arguments that are none", fun bad_arguments/1},
     {"'mod:fun', and 'mod' with function and arguments", fun exported/1},
     {"python_may_call: registered, modules, functions", fun policies/1},
     {"a VM that allows the node alone, and one whose threads' names would be too long: calls share a connection", fun not_allowed/1},
     {"no descriptors are left: threads share a connection", fun no_descriptors/1},
     {"calls that wait in erlang.call are cancelled at every moment: the next calls are not touched", fun cancelled/1},
     {"an answer beyond --max-frame is that call's error", fun max_frame/1},
     {"node= names another VM, one without the application, none, nonsense", fun nodes_by_name/1},
     {"calls go to the VM whose request is served, others to the first", fun two_vms/1},
     {"cast: it arrives, and its failure harms nobody", fun casts/1},
     {"a time limit kills the function, and the thread calls on", fun limits/1},
     {"what a function leaves behind does not touch the next call", fun litter/1},
     {"a fork gets clear errors, and the node's calls go on", fun forks/1},
     {"a script: Ctrl-C ends a call in the main thread", fun ctrl_c/1},
     {"a script: Ctrl-C while arguments are made ends the call, too", fun ctrl_c_early/1},
     {"a script: a signal's handler calls Erlang while the main thread is in a call", fun handler_calls/1},
     {"a script that ends while its threads wait: at once", fun script_ends/1},
     {"a script: subprocess and multiprocessing", fun processes/1},
     {"nothing is left", fun no_litter/1}].

%%% ------------------------------------------------------------------ what is there

py(Function, Args) ->
    py(Function, Args, #{}).

py(Function, Args, Options) ->
    {ok, Value} = py:call(callers, Function, Args, #{}, maps:merge(#{timeout => live:ms(50000)}, Options)),
    Value.

%% The nodes that are threads' connections to this VM.
threads() ->
    [N || N <- nodes(hidden), string:find(atom_to_list(N), "-thread-") =/= nomatch].

handlers() ->
    [Pid || {_, Pid, _, _} <- supervisor:which_children(py_handler_sup)].

%% Those of threads stay, and wait for the next call.
busy_handlers() ->
    [Pid || Pid <- handlers(), process_info(Pid, current_function) =/= {current_function, {py_handler, loop, 2}}].

improper() -> [1 | 2].
nested(N) -> [{I, #{<<"i">> => [I]}} || I <- lists:seq(1, N)].
sum(A, B) -> A + B.

%% The outcome of a Python expression in a thread.
evaluated(Code) ->
    py(evaluated, [unicode:characters_to_binary(Code)]).

%%% ------------------------------------------------------------------ what users do

chain(_) ->
    ?assertEqual({<<"ok">>, 3}, py(chain, [])).

executor_map(_) ->
    ?assertEqual([2 * X || X <- lists:seq(0, 9)], py(executor_map, [4, 10])).

ten(_) ->
    ?assertEqual([{<<"ok">>, I + 1} || I <- lists:seq(0, 9)], py(together, [10])).

errors(_) ->
    [Error, Exit, Throw, None, Undef] = py(errors, [[<<"badarith">>, <<"exits">>, <<"throws">>, <<"nobody">>, <<"lists:no_such">>]]),
    ?assertMatch({<<"ErlangError">>, <<"error">>, badarith, [{?MODULE, _, 1, [_ | _]} | _], <<"error:badarith">>}, Error),
    ?assertMatch({<<"ErlangError">>, <<"exit">>, {shutdown, bye}, [_ | _], <<"exit:", _/binary>>}, Exit),
    ?assertMatch({<<"ErlangError">>, <<"throw">>, ball, [_ | _], <<"throw:ball">>}, Throw),
    ?assertEqual({<<"ErlangError">>, <<"error">>, <<"Function 'nobody' not registered">>, [], <<"Function 'nobody' not registered">>}, None),
    ?assertMatch({<<"ErlangError">>, <<"error">>, _, _, _}, Undef).

other_threads(_) ->
    ?assertEqual({<<"ok">>, 8}, py(raw_thread, [<<"add_one">>, 7])),
    ?assertEqual(lists:seq(1, 21), py(from_asyncio, [20])).

%%% ------------------------------------------------------------------ what is used again

%% The one that was given back last is taken first.
in_turn(_) ->
    [begin
         Handlers = py(handlers_in_turn, [10, Ending]),
         ?assertMatch({Ending, [_], 10}, {Ending, lists:usort(Handlers), length(Handlers)})
     end || Ending <- [<<"return">>, <<"raise">>, <<"exit">>, <<"executor">>]].

pools(_) ->
    with([#{}], fun() ->
        First = lists:sort(py(handlers_in_pool, [4])),
        ?assertEqual({4, 4, First}, {length(lists:usort(First)), length(threads()), lists:sort(handlers())}),
        [?assertEqual(First, lists:sort(py(handlers_in_pool, [4]))) || _ <- lists:seq(1, 5)],
        ?assertEqual([], lists:usort(py(handlers_in_pool, [3])) -- First),
        ?assertEqual({4, First}, {length(threads()), lists:sort(handlers())})
    end).

bursts(_) ->
    Burst = fun() ->
        Got = py(handlers_at_once, [64], #{queue => bursts}),
        ?assertEqual(64, length(lists:usort([H || {<<"ok">>, H} <- Got])))
    end,
    Burst(),
    Before = [Fds, Threads, Memory] = tuple_to_list(py(resources, [], #{queue => bursts})),
    Counts = {length(threads()), lists:sort(handlers())},
    [Burst() || _ <- lists:seq(1, 29)],
    %% A thread of the system goes a moment after join() has returned.
    live:eventually(fun() ->
        [F, T, _] = tuple_to_list(py(resources, [], #{queue => bursts})),
        F =< Fds andalso T =< Threads orelse {F, T}
    end),
    [_, _, Later] = After = tuple_to_list(py(resources, [], #{queue => bursts})),
    live:note("descriptors, threads, KiB: ~w, after 29 more bursts ~w", [Before, After]),
    ?assertEqual(Counts, {length(threads()), lists:sort(handlers())}),
    ?assert(Later - Memory < live:ms(16384)),
    ok = py:stop_queue(bursts).

finalizers(_) ->
    Counts = {length(threads()), length(handlers())},
    Got = py(finalizers, [<<"finalizers">>, 10]),
    ?assertEqual(10, length([H || {<<"ok">>, H} <- Got, is_pid(H)])),
    ?assertEqual(Counts, {length(threads()), length(handlers())}).

converted(_) ->
    ?assertEqual({<<"ok">>, 0}, live:within(10000, fun() -> py(converted, [1]) end)),
    ?assertEqual({<<"ok">>, 0}, live:within(10000, fun() -> py(converted, [5]) end)).

collected(_) ->
    ?assertEqual({{<<"ok">>, {1000, 1000}}, [{<<"ok">>, 1}]}, live:within(10000, fun() -> py(collected, []) end)).

%%% ------------------------------------------------------------------ depth and number

deep(_) ->
    ?assertEqual(100, py(down, [100])).

deep_narrow(_) ->
    with([#{workers => 1, max_workers => 2}], fun() ->
        ?assertEqual(100, py(down, [100])),
        ?assertEqual([20 || _ <- lists:seq(1, 6)], live:pmap(fun(_) -> py(down, [20]) end, lists:seq(1, 6)))
    end).

deep_shared(_) ->
    with([#{workers => 1, max_workers => 2, max_connections => 0}], fun() ->
        ?assertEqual(100, py(down, [100])),
        ?assertEqual([], threads())
    end).

few_connections(_) ->
    [with([#{max_connections => Max}], fun() ->
         Want = [{<<"ok">>, I + 1} || I <- lists:seq(0, 39)],
         [?assertEqual(Want, py(together, [40])) || _ <- lists:seq(1, 5)],
         ?assert(length(threads()) =< Max),
         ?assertEqual({<<"ok">>, 3}, py(chain, [])),
         [Error | _] = py(errors, [[<<"badarith">>]]),
         ?assertMatch({<<"ErlangError">>, <<"error">>, badarith, [_ | _], _}, Error),
         ?assertMatch({<<"TimeoutError">>, _}, py(call_timeout, [<<"timer:sleep">>, 60000, 0.05])),
         live:eventually(fun() -> busy_handlers() =:= [] end)
     end) || Max <- [4, 0]].

crowd(_) ->
    Self = self(),
    ok = py:register_function(crowd, fun([I]) -> Self ! {inside, self()}, receive go -> I end end),
    Call = spawn_monitor(fun() -> exit({wrong, py(crowd, [2000])}) end),
    Inside = [receive {inside, Pid} -> Pid after live:ms(40000) -> error({only, N}) end || N <- lists:seq(1, 2000)],
    ?assertEqual(2000, length(lists:usort(Inside))),
    live:note("~b connections of their own", [length(threads())]),
    [Pid ! go || Pid <- Inside],
    ?assertEqual({wrong, []}, receive {'DOWN', M, process, _, Why} when M =:= element(2, Call) -> Why end),
    live:eventually(fun() -> busy_handlers() =:= [] end),
    ok = py:unregister_function(crowd).

%% LIVE_CALLS=1000000 for the long run.
tagged(_) ->
    Calls = list_to_integer(os:getenv("LIVE_CALLS", integer_to_list(100000 div live:ms(1)))),
    {Took, Wrong} = live:timed(fun() ->
        py:call(callers, tagged, [64, Calls div 64], #{}, infinity)
    end),
    live:note("~b calls from 64 threads: ~b a second", [Calls, round(Calls * 1000 / Took)]),
    ?assertEqual({ok, 0}, Wrong).

big(_) ->
    [with([Spec], fun() ->
         ?assertEqual([{<<"ok">>, true} || _ <- [1, 2, 3, 4]], py(echo_big, [4, 20 bsl 20]))
     end) || Spec <- [#{}, #{max_connections => 0}]].

%%% ------------------------------------------------------------------ arguments

mixed(_) ->
    [with([Spec], fun() ->
         Handlers = handlers(),
         Got = py(mixed, [30]),
         {<<"ok">>, List} = Got,
         [?assertMatch({0, {<<"TypeError">>, _}}, {I rem 3, G}) || {I, G} <- lists:enumerate(0, List), I rem 3 =:= 0],
         [?assertMatch({1, {<<"TypeError">>, <<"answer", _/binary>>}}, {I rem 3, G}) || {I, G} <- lists:enumerate(0, List), I rem 3 =:= 1],
         [?assertEqual({2, {<<"ok">>, I}}, {I rem 3, G}) || {I, G} <- lists:enumerate(0, List), I rem 3 =:= 2],
         live:eventually(fun() -> length(handlers() -- Handlers) =< 1 end)
     end) || Spec <- [#{}, #{max_connections => 0}]].

bad_arguments(_) ->
    E = fun(Code) -> element(1, evaluated(Code)) end,
    ?assertEqual(<<"TypeError">>, E("erlang.call()")),
    ?assertEqual(<<"TypeError">>, E("erlang.call(1)")),
    ?assertEqual(<<"TypeError">>, E("erlang.call(b'add_one', 1)")),
    ?assertEqual(<<"TypeError">>, E("erlang.call('add_one', 1, x=2)")),
    ?assertEqual(<<"TypeError">>, E("erlang.call('add_one', 1, timeout='soon')")),
    ?assertEqual(<<"UnicodeEncodeError">>, E("erlang.call('\\ud800')")),
    ?assertEqual(<<"ValueError">>, E("erlang.call('tag', '\\ud800')")),
    [?assertEqual({T, <<"ValueError">>}, {T, E("erlang.call('add_one', 1, timeout=" ++ T ++ ")")}) || T <- ["-1", "float('nan')", "-float('inf')"]],
    [?assertEqual({T, {<<"ok">>, 2}}, {T, evaluated(["erlang.call('add_one', 1, timeout=" ++ T ++ ")"])})
     || T <- ["None", "1e300", "float('inf')", "60", "True"]],
    ?assertEqual(<<"TimeoutError">>, E("erlang.call('timer:sleep', 1000, timeout=0)")),
    [?assertMatch({Name, {<<"ErlangError">>, <<"Function '", _/binary>>}}, {Name, evaluated(["erlang.call(" ++ Name ++ ")"])})
     || Name <- ["''", "'x' * 300", "':'", "'a:b:c'", "':reverse'", "'no_such_module:f'", "'lists'",
                 "'\\0'", "'a/../b:c'", "'\u00e4\u4e16'", "'x' * 100000"]],
    ?assertEqual({<<"ErlangError">>, <<"error:undef">>}, evaluated("erlang.call('lists:')")),
    ?assertEqual({<<"ok">>, 2}, evaluated(["erlang.call(erlang.Atom('add_one'), 1)"])).

exported(_) ->
    Reversed = {<<"ok">>, [3, 2, 1]},
    ?assertEqual(Reversed, py(call, [<<"lists:reverse">>, [1, 2, 3]])),
    ?assertEqual(Reversed, py(call, [<<"lists">>, <<"reverse">>, [[1, 2, 3]]])),
    ?assertEqual(Reversed, py(call, [<<"lists">>, reverse, [[1, 2, 3]]])),
    ?assertEqual({<<"ok">>, 5}, py(call, [<<"live_threads:sum">>, 2, 3])),
    ?assertEqual({<<"ok">>, 5}, py(call, [<<"live_threads">>, <<"sum">>, [2, 3]])),
    ?assertMatch({<<"ErlangError">>, _}, py(call, [<<"lists:reverse">>])), % undef
    ?assertMatch({<<"ErlangError">>, _}, py(call, [<<"lists">>, <<"reverse">>, [1 | []], 1])),
    ok = py:register_function(<<"lists:reverse">>, fun([_]) -> mine end), % what is registered goes first
    ?assertEqual({<<"ok">>, mine}, py(call, [<<"lists:reverse">>, [1, 2, 3]])),
    ok = py:unregister_function(<<"lists:reverse">>),
    ?assertEqual(Reversed, py(call, [<<"lists:reverse">>, [1, 2, 3]])).

policies(_) ->
    Call = fun(Name, Args) -> element(1, py(call, [Name | Args])) end,
    Refused = fun(Name, Args) -> {_, Text} = py(call, [Name | Args]), string:find(Text, "not_allowed") =/= nomatch end,
    [with([Spec], MayCall, fun() ->
         ?assertEqual(<<"ok">>, Call(<<"add_one">>, [1])),
         [?assertEqual({Allowed, MayCall, <<"ok">>}, {Allowed, MayCall, Call(Allowed, Args)}) || {Allowed, Args} <- Yes],
         [?assertEqual({Name, MayCall, true}, {Name, MayCall, Refused(Name, Args)}) || {Name, Args} <- No]
     end)
     || {Spec, MayCall, Yes, No} <-
            [{#{}, registered, [], [{<<"lists:reverse">>, [[1]]}, {<<"lists">>, [<<"reverse">>, [[1]]]}, {<<"os:cmd">>, [<<"true">>]}]},
             {#{}, [lists, {erlang, abs}], [{<<"lists:reverse">>, [[1]]}, {<<"erlang">>, [<<"abs">>, [-1]]}],
              [{<<"erlang:node">>, []}, {<<"erlang">>, [<<"apply">>, [lists, reverse, [[1]]]]}, {<<"os:cmd">>, ["true"]}]},
             {#{max_connections => 0}, [{lists, reverse}], [{<<"lists:reverse">>, [[1]]}], [{<<"lists:sort">>, [[1]]}]}]].

%%% ------------------------------------------------------------------ which VM

%% In another VM: the application without nodes, attached to that one.
vm(Node) ->
    application:set_env(pynode, nodes, []),
    {ok, _} = application:ensure_all_started(pynode),
    [ok = py:connect(Node) || Node =/= none],
    ok = py:register_function(node, erlang, node).

quit() ->
    application:stop(pynode).

nodes_by_name(_) ->
    [#{node := With, proc := Proc}, #{node := Without}] = live:peers(2),
    ok = rpc:call(With, ?MODULE, vm, [none]),
    Call = fun(N) -> py(call_node, [<<"node">>, atom_to_binary(N)]) end,
    ?assertEqual({<<"ok">>, With}, Call(With)),
    ?assertEqual({<<"ok">>, node()}, Call(node())),
    ?assertEqual({<<"ok">>, [With, node(), With, node()]}, py(nodes_in_turn, [[atom_to_binary(N) || N <- [With, node(), With, node()]]])),
    {<<"ErlangError">>, NotRunning} = Call(Without),
    ?assertNotEqual(nomatch, string:find(NotRunning, "pynode does not run at")),
    {<<"ErlangError">>, NoNode} = Call('nobody@127.0.0.1'),
    ?assertNotEqual(nomatch, string:find(NoNode, "nobody@127.0.0.1")),
    {<<"ErlangError">>, _} = Call('nobody@no-such-host.invalid'),
    [?assertEqual({N, T}, {N, element(1, evaluated(["erlang.call('node', node=" ++ N ++ ")"]))})
     || {N, T} <- [{"1", <<"TypeError">>}, {"b'a@b'", <<"TypeError">>}, {"'a'", <<"ValueError">>}, {"''", <<"ValueError">>},
                   {"'a@' + 'b' * 300", <<"ValueError">>}, {"'\\ud800@b'", <<"UnicodeEncodeError">>}, {"'a@b\\0c'", <<"ValueError">>},
                   {"erlang.node()", <<"ErlangError">>}]],
    ?assertEqual({<<"ok">>, node()}, evaluated(["erlang.call('node', node=None)"])),
    Self = self(),
    ok = py:register_function(tell, fun([X]) -> Self ! {told, X}, ok end),
    {<<"ok">>, none} = evaluated(["erlang.cast('tell', 1, node='" ++ atom_to_list(node()) ++ "')"]),
    live:expect(5000, fun({told, 1}) -> {ok, told} end),
    live:kill(Proc),
    {<<"ErlangError">>, _} = Call(With),
    ?assertEqual({<<"ok">>, node()}, Call(node())).

two_vms(_) ->
    #{node := N} = live:pynode(),
    [#{node := A}, #{node := B}] = live:peers(2),
    [ok = rpc:call(Vm, ?MODULE, vm, [N]) || Vm <- [A, B]],
    Own = fun(Vm) -> rpc:call(Vm, py, call, [callers, call_here, [<<"node">>]]) end,
    New = fun(Vm) -> rpc:call(Vm, py, call, [callers, call, [<<"node">>]]) end,
    [?assertEqual({ok, {<<"ok">>, Vm}}, Own(Vm)) || _ <- lists:seq(1, 20), Vm <- [A, B]], % by two threads
    [?assertEqual({ok, {<<"ok">>, A}}, New(Vm)) || Vm <- [A, B, B]], % a thread serves nobody: the first
    Both = live:pmap(fun(Vm) -> [Own(Vm) || _ <- lists:seq(1, 100)] end, [A, B, A, B]),
    ?assertEqual([[{ok, {<<"ok">>, Vm}}] || Vm <- [A, B, A, B]], [lists:usort(L) || L <- Both]),
    ok = rpc:call(A, ?MODULE, quit, []),
    live:eventually(fun() -> New(B) =:= {ok, {<<"ok">>, B}} end),
    ?assertEqual({ok, {<<"ok">>, B}}, Own(B)).

not_allowed(_) ->
    #{node := Vm} = live:peer(),
    #{node := N} = live:pynode(),
    ok = rpc:call(Vm, ?MODULE, vm, [N]),
    ok = rpc:call(Vm, net_kernel, allow, [[N, node()]]),
    Calls = fun(At) -> rpc:call(At, callers, together_on, [<<"node">>, 20], live:ms(20000)) end,
    ?assertEqual([{<<"ok">>, Vm} || _ <- lists:seq(1, 20)], Calls(N)),
    ?assertEqual([Vm], [H || H <- rpc:call(Vm, erlang, nodes, [hidden]) ++ [Vm], H =:= Vm orelse string:find(atom_to_list(H), "-thread-") =/= nomatch]),
    #{node := Long} = live:pynode(#{name => lists:duplicate(60, $n) ++ "@127.0.0.1"}),
    #{node := Other} = live:peer(),
    ok = rpc:call(Other, ?MODULE, vm, [Long]),
    ?assertEqual([{<<"ok">>, Other} || _ <- lists:seq(1, 20)], Calls(Long)).

no_descriptors(_) ->
    with([#{rlimits => #{nofile => 40}}], fun() ->
        [?assertEqual([{<<"ok">>, I + 1} || I <- lists:seq(0, 99)], py(together, [100])) || _ <- [1, 2]],
        ?assert(length(threads()) < 40)
    end).

cancelled(_) ->
    {<<"ok">>, 0} = py(call_here, [<<"tag">>, 0]), % so that none is cancelled in the middle of an import
    Refs = [begin
                Ref = py:spawn_call(callers, call_here, [<<"timer:sleep">>, rand:uniform(10)]),
                case I rem 3 of
                    0 -> py:cancel(Ref);
                    1 -> spawn(fun() -> receive after rand:uniform(10) -> py:cancel(Ref) end end);
                    2 -> ok
                end,
                {I rem 3, Ref}
            end || I <- lists:seq(1, 300)],
    Results = [{How, py:await(Ref, live:ms(20000))} || {How, Ref} <- Refs],
    ?assertEqual([], [R || R = {How, Result} <- Results, Result =/= {ok, {<<"ok">>, ok}},
                           not (How < 2 andalso Result =:= {error, cancelled})]),
    Next = live:pmap(fun(I) -> [py(call_here, [<<"tag">>, I * K]) || K <- lists:seq(1, 20)] end, lists:seq(1, 8)),
    ?assertEqual([[{<<"ok">>, I * K} || K <- lists:seq(1, 20)] || I <- lists:seq(1, 8)], Next).

max_frame(_) ->
    with([#{max_frame => 1 bsl 20}], fun() ->
        {<<"ok">>, Got} = py(outcomes, [[{<<"tag">>, 1}, {<<"binary:copy">>, <<"x">>, 2 bsl 20}, {<<"tag">>, 2}]]),
        ?assertMatch([{<<"ok">>, 1}, {<<"ErlangError">>, _}, {<<"ok">>, 2}], Got)
    end).

%%% ------------------------------------------------------------------ casts and limits

casts(_) ->
    Self = self(),
    ok = py:register_function(tell, fun([X]) -> Self ! {told, X}, ok end),
    [{<<"ok">>, none} = evaluated(["erlang.cast(" ++ A ++ ")"]) || A <- ["'badarith'", "'nobody'", "'tell', 1", "'erlang:send'", "'tell', 2"]],
    {<<"TypeError">>, _} = evaluated(["erlang.cast('tell', object())"]),
    {<<"TypeError">>, _} = evaluated(["erlang.cast('tell', 1, timeout=1)"]),
    ?assertEqual([1, 2], lists:sort([live:expect(5000, fun({told, X}) -> {ok, X} end) || _ <- [1, 2]])),
    live:eventually(fun() -> busy_handlers() =:= [] end).

limits(_) ->
    Self = self(),
    [with([Spec], fun() ->
         ok = py:register_function(never, fun([]) -> Self ! {never, self()}, process_flag(trap_exit, true), receive after infinity -> ok end end),
         Got = py(limited, [<<"never">>, 0.3, 4]),
         ?assertEqual({<<"ok">>, [<<"TimeoutError">> || _ <- lists:seq(1, 4)] ++ [2]}, Got),
         Begun = [P || {never, P} <- live:flush()], % some limits may have passed before
         ?assertNotEqual([], Begun),
         [begin
              Monitor = erlang:monitor(process, Pid),
              live:expect(5000, fun({'DOWN', M, process, _, _}) when M =:= Monitor -> {ok, down} end)
          end || Pid <- Begun]
     end) || Spec <- [#{}, #{max_connections => 0}]].

%% What the next function finds, after each of them.
litter(_) ->
    Leave = [{link, fun() -> spawn_link(fun() -> receive after infinity -> ok end end) end},
             {dying_link, fun() -> spawn_link(fun() -> receive after 1 -> exit(boom) end end) end},
             {port, fun() -> open_port({spawn, "cat"}, []) end},
             {monitor, fun() -> erlang:monitor(process, whereis(init)) end},
             {down, fun() -> erlang:monitor(process, nobody) end},
             {messages, fun() -> [self() ! {left, I} || I <- [1, 2, 3]] end},
             {call, fun() -> self() ! {py_call, 1, <<"tag">>, [1]}, self() ! {py_call, -1, <<"exits">>, []} end},
             {dictionary, fun() -> put(left, behind) end},
             {trap_exit, fun() -> process_flag(trap_exit, true) end},
             {name, fun() -> register(left_name, self()) end},
             {group_leader, fun() -> group_leader(whereis(init), self()) end},
             {priority, fun() -> process_flag(priority, high) end},
             {unlinked, fun() -> [unlink(P) || P <- element(2, process_info(self(), links)), is_pid(P)] end}],
    ok = py:register_function(leave, fun([Name]) -> {_, Fun} = lists:keyfind(Name, 1, Leave), Fun(), left end),
    ok = py:register_function(found, fun([]) ->
        Messages = receive M -> [M] after 20 -> [] end,
        Info = process_info(self(), [monitors, dictionary, trap_exit, registered_name, group_leader, priority]),
        {Messages, Info, length(element(2, process_info(self(), links)))}
    end),
    {Clean, _} = py(call, [<<"tag">>, 1]),
    ?assertEqual(<<"ok">>, Clean),
    Found = py(call, [<<"found">>]),
    [?assertEqual({Name, {<<"ok">>, [left, element(2, Found)]}}, {Name, py(in_one_thread, [[{<<"leave">>, Name}, {<<"found">>}]])})
     || {Name, _} <- Leave],
    ok = py:register_function(dying_link, fun([N]) -> spawn_link(fun() -> lists:seq(1, N), exit(boom) end), left end),
    {<<"ok">>, Dying} = py(outcomes, [lists:append([[{<<"dying_link">>, 10 * N}, {<<"tag">>, N}] || N <- lists:seq(1, 300)])]),
    ?assertEqual([{<<"ok">>, N} || N <- lists:seq(1, 300)], [D || {I, D} <- lists:enumerate(Dying), I rem 2 =:= 0]),
    ?assertEqual({<<"ok">>, [left || _ <- Leave]}, py(in_one_thread, [[{<<"leave">>, Name} || {Name, _} <- Leave]])),
    ?assertEqual(Found, py(call, [<<"found">>])),
    live:eventually(fun() -> busy_handlers() =:= [] end).

%%% ------------------------------------------------------------------ processes of the system

forks(_) ->
    Refused = <<"['ErlangError', 'ErlangError', 'RuntimeError', 'RuntimeError', 'RuntimeError', 'RuntimeError', 'RuntimeError', 'RuntimeError']">>,
    [begin
         ?assertEqual({<<"ok">>, {2, {Refused, 0}, 3}}, py(fork_in_thread, [])),
         ?assertEqual({Refused, 0}, py(forked, [])),
         ?assertEqual({<<"ok">>, 2}, py(call, [<<"add_one">>, 1]))
     end || _ <- [1, 2, 3]].

%% A program that is connected to this VM, and waits at the gate before it begins.
script(Code) ->
    Gate = #{port := Port} = live:gate(),
    Node = #{node := N} = live:pynode(#{args => ["--connect", atom_to_list(node())],
                                        program => ["-c", "import sys, gate, erlang, signal, callers\n"
                                                    "gate.wait(int(sys.argv[1]))\n" ++ Code, integer_to_list(Port)]}),
    Door = live:entered(Gate),
    live:eventually(fun() -> lists:member(N, py:nodes()) end),
    live:open(Door),
    Node.

never() ->
    Self = self(),
    ok = py:register_function(never, fun([]) -> Self ! {never, self()}, receive after infinity -> ok end end).

%% The function is there, and is watched.
inside() ->
    live:expect(10000, fun({never, Pid}) -> {ok, {Pid, erlang:monitor(process, Pid)}} end).

killed({Pid, Monitor}) ->
    live:expect(10000, fun({'DOWN', M, process, P, _}) when M =:= Monitor, P =:= Pid -> {ok, killed} end).

ctrl_c(_) ->
    never(),
    Script = script("for i in range(3):\n    try:\n        erlang.call('never')\n    except KeyboardInterrupt:\n        print(i, erlang.call('add_one', i), flush=True)\n"
                    "erlang.call('never')\n"),
    [begin
         Never = inside(),
         live:signal(Script, "INT"),
         killed(Never)
     end || _ <- [1, 2, 3]],
    inside(),
    live:signal(Script, "INT"),
    ?assertEqual(130, live:wait_exit(Script)),
    ?assertEqual(<<"0 1\n1 2\n2 3\n">>, live:stdout(Script)),
    ?assertMatch([_ | _], [L || L <- live:lines(Script), re:run(L, "^KeyboardInterrupt", [{capture, none}]) =:= match]).

%% The signal comes while a converter runs in C code that looks at no signal.
ctrl_c_early(_) ->
    ok = py:register_function(never_but, fun([_]) -> receive after infinity -> ok end end),
    Script = script("import ctypes, functools, os\nkill = ctypes.PyDLL(None).kill\n"
                    "class Kill: pass\narg = Kill()\narg.tolist = functools.partial(list, map(kill, [os.getpid()], [2]))\n"
                    "try:\n    erlang.call('never_but', arg)\nexcept KeyboardInterrupt:\n    print('interrupted')\n"),
    ?assertEqual(0, live:wait_exit(Script, 10000)),
    ?assertEqual(<<"interrupted\n">>, live:stdout(Script)).

handler_calls(_) ->
    never(),
    Script = script("def handle(*_):\n    print(erlang.call('add_one', 1), flush=True)\n    if erlang.call('tag', True):\n        raise ValueError('by the handler')\n"
                    "signal.signal(signal.SIGINT, handle)\n"
                    "try:\n    erlang.call('never')\nexcept ValueError as e:\n    print(e, flush=True)\nprint(erlang.call('add_one', 2))\n"),
    Never = inside(),
    live:signal(Script, "INT"),
    killed(Never),
    ?assertEqual(0, live:wait_exit(Script)),
    ?assertEqual(<<"2\nby the handler\n3\n">>, live:stdout(Script)).

script_ends(_) ->
    never(),
    Script = script("import atexit, threading\natexit.register(lambda: print(callers.call_here('add_one', 1)[0] in ('ok', 'ErlangError'), flush=True))\n"
                    "for f, *a in [(erlang.call, 'never'), (erlang.receive,), (erlang.call, 'never')]:\n    threading.Thread(target=f, args=a, daemon=True).start()\n"
                    "import box\nbox.wait('end', 60)\n"),
    #{node := N} = Script,
    Inside = [inside(), inside()],
    none = rpc:call(N, box, put, [<<"end">>, true]),
    ?assertEqual(0, live:within(5000, fun() -> live:wait_exit(Script) end)),
    ?assertEqual(<<"True\n">>, live:stdout(Script)),
    [killed(I) || I <- Inside].

processes(_) ->
    Script = live:pynode(#{args => ["--connect", atom_to_list(node())], program => [live:py("children.py")]}),
    ?assertEqual(0, live:wait_exit(Script, 40000)),
    ?assertEqual(<<"subprocess 42\nspawn [2.0, 3.0]\npool [4.0, 5.0]\nthread [6.0, 7.0]\nerlang 3\n">>, live:stdout(Script)).

%%% ------------------------------------------------------------------ the end

no_litter(_) ->
    live:eventually(fun() -> busy_handlers() =:= [] end),
    ?assertEqual(length(threads()), length(handlers())),
    [Node] = py:nodes(),
    live:eventually(fun() -> {ok, #{status := #{running := R, queued := Q}}} = py:info(Node), {R, Q} =:= {0, 0} orelse {R, Q} end),
    Names = [py_coordinator, py_table, py_handler_sup],
    live:eventually(fun() -> [N || N <- Names, process_info(whereis(N), message_queue_len) =/= {message_queue_len, 0}] =:= [] end).
