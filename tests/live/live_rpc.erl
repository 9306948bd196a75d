%% live_rpc.erl - every way in which rpc, erpc, rex and spawn of a plain BEAM can call Python.
%%
%% Also run alone with other builds of the program (PYNODE), as the test of another Python.
-module(live_rpc).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1]).

setup() ->
    live:pynode().

tests(#{node := N}) ->
    [{"rpc:call/4 and /5 give the bare value", fun() -> rpc_call(N) end},
     {"rpc:call/5 gives {badrpc,timeout} after its limit", fun() -> rpc_timeout(N) end},
     {"rpc:async_call, yield and nb_yield", fun() -> async_call(N) end},
     {"rpc:multicall over Python nodes and one that is down", fun() -> rpc_multicall(N) end},
     {"rpc:cast has its effect", fun() -> rpc_cast(N) end},
     {"rpc:block_call/4 and /5, values and errors", fun() -> block_call(N) end},
     {"rpc:pmap and parallel_eval", fun() -> parallel_eval(N) end},
     {"erpc:call/4 and /5 give the bare value", fun() -> erpc_call(N) end},
     {"erpc:call/5 raises {erpc,timeout} after its limit", fun() -> erpc_timeout(N) end},
     {"erpc:multicall gives a result for each node", fun() -> erpc_multicall(N) end},
     {"erpc:send_request, receive_response, wait_response, check_response", fun() -> send_request(N) end},
     {"answers come in the order in which the calls finish", fun() -> order(N) end},
     {"erpc:cast and multicast have their effect", fun() -> erpc_cast(N) end},
     {"a dotted module and a dotted function", fun() -> dotted(N) end},
     {"arguments that travel as a string, as nothing, in hundreds", fun() -> arguments(N) end},
     {"builtins that ask for the caller's names get those of __main__", fun() -> frameless(N) end},
     {"an unknown function of the pseudo-module pynode is named", fun() -> unknown_own(N) end},
     {"an exception group tells its members", fun() -> group(N) end},
     {"keyword arguments in a last argument {'$kwargs', Map}", fun() -> kwargs(N) end},
     {"a Python exception in erpc: type, message and the Python frames", fun() -> erpc_exception(N) end},
     {"the same in rpc:call and in rpc:block_call", fun() -> rpc_exception(N) end},
     {"frames of methods and of a user's own exception type", fun() -> methods(N) end},
     {"a cause and a note are kept in the message", fun() -> cause_and_note(N) end},
     {"odd exceptions: without text, in Unicode, that cannot be shown, without end", fun() -> odd(N) end},
     {"no such module, no such function, not callable", fun() -> missing(N) end},
     {"arguments that cannot be converted are that call's TypeError", fun() -> bad_arguments(N) end},
     {"results that cannot be converted are that call's TypeError", fun() -> bad_results(N) end},
     {"SystemExit and KeyboardInterrupt end the call, not the node", fun() -> exits(N) end},
     {"the old message of rex clients: {From,{call,M,F,A,GL}}", fun() -> rex(N) end},
     {"gen_server:call and cast to rex, as old nodes send them", fun() -> rex_gen(N) end},
     {"features_request is answered with erpc", fun() -> features(N) end},
     {"rpc:sbcast and abcast reach a registered object", fun() -> broadcast(N) end},
     {"erl_call -a 'math sqrt [2]'", fun() -> erl_call(N) end},
     {"spawn runs a Python function in a process of the node", fun() -> spawned(N) end},
     {"spawn_monitor: DOWN with normal, or with the exception and its frames", fun() -> spawn_monitored(N) end},
     {"spawn_link: EXIT with normal, or with the exception", fun() -> spawn_linked(N) end},
     {"spawn_request with its options", fun() -> spawn_requested(N) end},
     {"a fun is refused with a clear error", fun() -> funs(N) end},
     {"a client's time-out cancels what is still queued", fun queued_timeout/0},
     {"a client's death cancels what is still queued", fun queued_death/0},
     {"two thousand calls by fifty processes, each with its own answer", fun() -> many(N) end}].

%%% ------------------------------------------------------------------------- rpc

rpc_call(N) ->
    ?assertEqual(math:sqrt(2), rpc:call(N, math, sqrt, [2.0])),
    ?assertEqual(1024, rpc:call(N, builtins, pow, [2, 10], 5000)),
    ?assertEqual(<<"Abc Def">>, rpc:call(N, string, capwords, [<<"abc def">>], infinity)),
    ?assertEqual([3, 2, 1], rpc:call(N, builtins, sorted, [[1, 2, 3], {'$kwargs', #{reverse => true}}])).

rpc_timeout(N) ->
    Gate = #{port := Port} = live:gate(),
    ?assertEqual({badrpc, timeout}, rpc:call(N, gate, wait, [Port], 200)),
    live:open(live:entered(Gate)),
    ?assertEqual([], live:flush()).

async_call(N) ->
    Gate = #{port := Port} = live:gate(),
    Slow = rpc:async_call(N, gate, wait, [Port, done]),
    Quick = rpc:async_call(N, math, factorial, [20]),
    ?assertEqual(2432902008176640000, rpc:yield(Quick)),
    Door = live:entered(Gate),
    ?assertEqual(timeout, rpc:nb_yield(Slow)),
    live:open(Door),
    ?assertEqual({value, done}, rpc:nb_yield(Slow, live:ms(5000))),
    Bad = rpc:async_call(N, faulty, refuse, []),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'Refusal', <<"not today">>}, _}}}, rpc:yield(Bad)).

rpc_multicall(N) ->
    ?assertEqual({[7, 7], ['nobody@127.0.0.1']},
                 rpc:multicall([N, 'nobody@127.0.0.1', N], builtins, abs, [-7])),
    ?assertMatch({[{badrpc, {'EXIT', {{python_error, 'Refusal', _}, _}}}], []},
                 rpc:multicall([N], faulty, refuse, [], 5000)).

rpc_cast(N) ->
    ?assertEqual(true, rpc:cast(N, box, put, [<<"rpc_cast">>, {1, <<"two">>}])),
    ?assertEqual({1, <<"two">>}, rpc:call(N, box, wait, [<<"rpc_cast">>])).

block_call(N) ->
    ?assertEqual(3.0, rpc:block_call(N, math, sqrt, [9])),
    ?assertEqual(3.0, rpc:block_call(N, math, sqrt, [9], 5000)),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'Refusal', <<"not today">>}, [{faulty, refuse, 0, _} | _]}}},
                 rpc:block_call(N, faulty, refuse, [])),
    Gate = #{port := Port} = live:gate(),
    ?assertEqual({badrpc, timeout}, rpc:block_call(N, gate, wait, [Port], 200)),
    live:open(live:entered(Gate)),
    ?assertEqual(4.0, rpc:block_call(N, math, sqrt, [16])).

%% These two choose their nodes from nodes(), which has no hidden ones: the calls stay here, but a
%% Python node among the known ones must not disturb them.
parallel_eval(N) ->
    pong = net_adm:ping(N),
    ?assertEqual([1, 2, 3], rpc:pmap({erlang, abs}, [], [-1, -2, -3])),
    ?assertEqual([2.0, 3.0], rpc:parallel_eval([{math, sqrt, [4]}, {math, sqrt, [9]}])).

%%% ------------------------------------------------------------------------ erpc

erpc_call(N) ->
    ?assertEqual(math:sqrt(2), erpc:call(N, math, sqrt, [2.0])),
    ?assertEqual(none, erpc:call(N, gc, enable, [])),
    ?assertEqual(#{<<"a">> => [1, 2.5, true, none]},
                 erpc:call(N, json, loads, [<<"{\"a\": [1, 2.5, true, null]}">>], 5000)),
    ?assertEqual({1, {2, 3}}, erpc:call(N, copy, deepcopy, [{1, {2, 3}}], infinity)).

erpc_timeout(N) ->
    Gate = #{port := Port} = live:gate(),
    ?assertEqual({erpc, timeout}, live:error_of(fun() -> erpc:call(N, gate, wait, [Port], 200) end)),
    live:open(live:entered(Gate)),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])),
    ?assertEqual([], live:flush()).

erpc_multicall(N) ->
    ?assertEqual([{ok, 6}, {error, {erpc, noconnection}}],
                 erpc:multicall([N, 'nobody@127.0.0.1'], math, factorial, [3])),
    ?assertMatch([{error, {exception, {python_error, 'Refusal', <<"not today">>}, [_ | _]}}],
                 erpc:multicall([N], faulty, refuse, [], 5000)).

send_request(N) ->
    Gate = #{port := Port} = live:gate(),
    Slow = erpc:send_request(N, gate, wait, [Port, <<"late">>]),
    Quick = erpc:send_request(N, math, sqrt, [4]),
    ?assertEqual(2.0, erpc:receive_response(Quick)),
    Door = live:entered(Gate),
    ?assertEqual(no_response, erpc:wait_response(Slow, 0)),
    ?assertEqual(no_response, erpc:check_response({strange, message}, Slow)),
    live:open(Door),
    ?assertEqual({response, <<"late">>}, erpc:wait_response(Slow, live:ms(5000))),
    Checked = erpc:send_request(N, math, sqrt, [9]),
    receive Msg -> ?assertEqual({response, 3.0}, erpc:check_response(Msg, Checked)) end.

order(N) ->
    Gate = #{port := Port} = live:gate(),
    [First, Second] = [begin
                           Call = erpc:send_request(N, gate, wait, [Port, X]),
                           {Call, live:entered(Gate)}
                       end || X <- [first, second]],
    live:open(element(2, Second)),
    ?assertEqual(second, erpc:receive_response(element(1, Second), live:ms(5000))),
    ?assertEqual(no_response, erpc:wait_response(element(1, First), 0)),
    live:open(element(2, First)),
    ?assertEqual(first, erpc:receive_response(element(1, First), live:ms(5000))).

erpc_cast(N) ->
    ?assertEqual(ok, erpc:cast(N, box, put, [<<"erpc_cast">>, [1, 2]])),
    ?assertEqual([1, 2], erpc:call(N, box, wait, [<<"erpc_cast">>])),
    ?assertEqual(ok, erpc:multicast([N, N], box, add, [<<"multicast">>, x])),
    ?assertEqual([x, x], erpc:call(N, box, wait_count, [<<"multicast">>, 2])),
    ?assertEqual(ok, erpc:cast(N, faulty, refuse, [])),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])).

dotted(N) ->
    ?assertEqual(<<"a/b">>, erpc:call(N, 'os.path', join, [<<"a">>, <<"b">>])),
    ?assertEqual(<<"c">>, rpc:call(N, 'os.path', basename, [<<"/a/b/c">>])),
    ?assertEqual(<<"ABC">>, erpc:call(N, builtins, 'str.upper', [<<"abc">>])),
    ?assertEqual(#{a => 1, b => 1}, erpc:call(N, builtins, 'dict.fromkeys', [[a, b], 1])),
    ?assertMatch({exception, {python_error, 'TypeError', <<_/binary>>}, _},
                 live:error_of(fun() -> erpc:call(N, pathlib, 'Path.cwd', []) end)).

arguments(N) ->
    ?assertEqual(3, erpc:call(N, builtins, max, [1, 2, 3])),
    ?assertEqual(#{}, erpc:call(N, builtins, dict, [])),
    ?assertEqual(255, erpc:call(N, builtins, max, lists:seq(1, 255))),
    ?assertEqual(1000, erpc:call(N, builtins, max, lists:seq(1, 1000))),
    ?assertEqual("hello", erpc:call(N, builtins, list, ["hello"])).

frameless(N) ->
    ?assertEqual(2, rpc:call(N, builtins, eval, [<<"1+1">>])),
    ?assertEqual(none, rpc:call(N, builtins, exec, [<<"frameless = 17">>])),
    ?assertEqual(18, erpc:call(N, builtins, eval, [<<"frameless + 1">>])),
    ?assertEqual(3, rpc:call(N, builtins, eval, [<<"x">>, #{<<"x">> => 3}])),
    ?assert(lists:member(<<"frameless">>, rpc:call(N, builtins, dir, []))),
    ?assert(lists:member(<<"append">>, rpc:call(N, builtins, dir, [[]]))),
    ?assertEqual(none, rpc:call(N, builtins, exec, [<<"del frameless">>])).

unknown_own(N) ->
    {badrpc, {'EXIT', {{python_error, 'AttributeError', Text}, _}}} = rpc:call(N, pynode, foo, []),
    ?assertEqual(<<"the node has no function pynode:foo with these arguments">>, Text).

group(N) ->
    {badrpc, {'EXIT', {{python_error, 'ExceptionGroup', Text}, _}}} = rpc:call(N, faulty, group, []),
    ?assertEqual(<<"many (2 sub-exceptions)\nwith ValueError: one\nwith KeyError: 'two'">>, Text).

kwargs(N) ->
    ?assertEqual(<<"{\n  \"a\": 1\n}">>,
                 rpc:call(N, json, dumps, [#{<<"a">> => 1}, {'$kwargs', #{indent => 2}}])),
    ?assertEqual(<<"[1,2]">>,
                 erpc:call(N, json, dumps, [[1, 2], {'$kwargs', #{<<"separators">> => {<<",">>, <<":">>}}}])),
    ?assertEqual(2.0, rpc:call(N, math, sqrt, [4, {'$kwargs', #{}}])),
    ?assertEqual(#{<<"x">> => 1, <<"y">> => 2}, rpc:call(N, builtins, dict, [{'$kwargs', #{x => 1, y => 2}}])),
    ?assertEqual(3.5, rpc:block_call(N, builtins, round, [3.46, {'$kwargs', #{ndigits => 1}}])),
    [?assertMatch({badrpc, {'EXIT', {{python_error, 'TypeError', _}, _}}},
                  rpc:call(N, json, dumps, [1, {'$kwargs', Map}]))
     || Map <- [#{nonsense => 1}, #{17 => 1}, [], none]].

%%% ---------------------------------------------------------------------- errors

%% The entry of a stack trace that belongs to the line of faulty.py with this mark.
frame(Function, Arity, Mark) ->
    {ok, Text} = file:read_file(live:py("faulty.py")),
    Lines = lists:zip(lists:seq(1, length(string:split(Text, "\n", all))), string:split(Text, "\n", all)),
    [Line] = [No || {No, L} <- Lines, binary:match(L, list_to_binary("# mark: " ++ Mark)) =/= nomatch],
    {faulty, Function, Arity, [{file, live:py("faulty.py")}, {line, Line}]}.

erpc_exception(N) ->
    {exception, Reason, Stack} = live:error_of(fun() -> erpc:call(N, faulty, outer, [<<"boom">>, 2]) end),
    ?assertEqual({python_error, 'ValueError', <<"boom">>}, Reason),
    ?assertEqual([frame(inner, 3, "inner"), frame(middle, 1, "middle"), frame(outer, 2, "outer")], Stack),
    {exception, Builtin, BuiltinStack} = live:error_of(fun() -> erpc:call(N, math, sqrt, [-1.0]) end),
    ?assertMatch({python_error, 'ValueError', <<_, _/binary>>}, Builtin),
    ?assert(is_list(BuiltinStack)).

rpc_exception(N) ->
    Want = {badrpc, {'EXIT', {{python_error, 'ValueError', <<"boom">>},
                              [frame(inner, 3, "inner"), frame(middle, 1, "middle"), frame(outer, 2, "outer")]}}},
    ?assertEqual(Want, rpc:call(N, faulty, outer, [<<"boom">>, 2])),
    ?assertEqual(Want, rpc:call(N, faulty, outer, [<<"boom">>, 2], 5000)),
    ?assertEqual(Want, rpc:block_call(N, faulty, outer, [<<"boom">>, 2])).

methods(N) ->
    {exception, Reason, [Top, Next]} = live:error_of(fun() -> erpc:call(N, faulty, 'Class.build', [<<"k">>]) end),
    ?assertEqual({python_error, 'KeyError', <<"'k'">>}, Reason),
    ?assertMatch({faulty, 'Class.method', 2, [{file, _}, {line, _}]}, Top),
    ?assertMatch({faulty, 'Class.build', 2, [{file, _}, {line, _}]}, Next),
    ?assertMatch({exception, {python_error, 'Refusal', <<"not today">>}, [{faulty, refuse, 0, _}]},
                 live:error_of(fun() -> erpc:call(N, faulty, refuse, []) end)).

cause_and_note(N) ->
    {exception, {python_error, 'ValueError', Chained}, _} = live:error_of(fun() -> erpc:call(N, faulty, chained, []) end),
    ?assertMatch({0, _}, binary:match(Chained, <<"what came of it">>)),
    ?assertNotEqual(nomatch, binary:match(Chained, <<"KeyError">>)),
    ?assertNotEqual(nomatch, binary:match(Chained, <<"the first cause">>)),
    {exception, {python_error, 'ValueError', Noted}, _} = live:error_of(fun() -> erpc:call(N, faulty, noted, []) end),
    ?assertMatch({0, _}, binary:match(Noted, <<"the message itself">>)),
    ?assertNotEqual(nomatch, binary:match(Noted, <<"a note on it">>)).

odd(N) ->
    Reason = fun(F) -> element(2, live:error_of(fun() -> erpc:call(N, faulty, F, []) end)) end,
    ?assertEqual({python_error, 'ValueError', <<>>}, Reason(empty)),
    ?assertEqual({python_error, 'ValueError', <<"žluťoučký 🐍"/utf8>>}, Reason(unicode)),
    ?assertMatch({python_error, 'ValueError', <<"lone ", _/binary>>}, Reason(surrogate)),
    ?assertMatch({python_error, 'Mute', <<_/binary>>}, Reason(mute)),
    ?assertMatch({python_error, 'RecursionError', <<_/binary>>}, Reason(bottomless)),
    ?assertMatch({python_error, 'BaseException', <<"of the base">>}, Reason(base)),
    [?assertMatch({exception, {python_error, Type, _}, _},
                  live:error_of(fun() -> erpc:call(N, faulty, hand_over, [Name]) end))
     || {Name, Type} <- [{<<"memory">>, 'MemoryError'}, {<<"stop">>, 'StopIteration'},
                         {<<"generator">>, 'GeneratorExit'}]],
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])).

missing(N) ->
    Reason = fun(M, F, A) -> element(2, live:error_of(fun() -> erpc:call(N, M, F, A) end)) end,
    {python_error, 'ModuleNotFoundError', NoModule} = Reason(no_such_module, f, []),
    ?assertNotEqual(nomatch, binary:match(NoModule, <<"no_such_module">>)),
    {python_error, 'ModuleNotFoundError', _} = Reason('os.no_such_module', f, []),
    {python_error, 'AttributeError', NoFunction} = Reason(math, no_such_function, []),
    ?assertNotEqual(nomatch, binary:match(NoFunction, <<"no_such_function">>)),
    ?assertMatch({python_error, 'AttributeError', _}, Reason(os, 'path.no_such_function', [])),
    ?assertMatch({python_error, 'TypeError', _}, Reason(math, pi, [])),
    ?assertMatch({python_error, 'TypeError', _}, Reason(math, sqrt, [1, 2, 3])),
    [?assertMatch({python_error, _, _}, Reason(M, F, []))
     || {M, F} <- [{'', f}, {'.', f}, {'..os', f}, {math, ''}, {math, '.'}, {math, 'sqrt.'}]],
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'ModuleNotFoundError', _}, _}}},
                 rpc:call(N, no_such_module, f, [])).

bad_arguments(N) ->
    Reason = fun(Arg) -> element(2, live:error_of(fun() -> erpc:call(N, builtins, repr, [Arg]) end)) end,
    {python_error, 'TypeError', Text} = Reason([1, 2 | 3]),
    ?assertNotEqual(nomatch, re:run(Text, "improper", [caseless])),
    ?assertMatch({python_error, 'TypeError', _}, Reason(#{a => [{1, [x | y]}]})),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'TypeError', _}, _}}}, rpc:call(N, builtins, repr, [[a | b]])),
    ?assertMatch({exception, {python_error, 'TypeError', _}, _},
                 live:error_of(fun() -> erpc:call(N, builtins, max, [1 | 2]) end)),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])).

bad_results(N) ->
    Reason = fun(F, A) -> element(2, live:error_of(fun() -> erpc:call(N, faulty, F, A) end)) end,
    {python_error, 'TypeError', Text} = Reason(thing, []),
    ?assertNotEqual(nomatch, binary:match(Text, <<"object">>)),
    {python_error, 'TypeError', Nested} = Reason(nested_thing, []),
    ?assertNotEqual(nomatch, binary:match(Nested, <<"object">>)),
    ?assertNotEqual(nomatch, re:run(Nested, "1")),
    ?assertMatch({python_error, _, _}, Reason(loop, [])),
    ?assertMatch({python_error, _, _}, Reason(deep, [100000])),
    ?assertMatch({python_error, _, _}, Reason(lone, [])),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])).

exits(N) ->
    ?assertMatch({exception, {python_error, 'SystemExit', <<"3">>}, [{faulty, leave, 1, _} | _]},
                 live:error_of(fun() -> erpc:call(N, faulty, leave, [3]) end)),
    ?assertMatch({exception, {python_error, 'KeyboardInterrupt', <<>>}, _},
                 live:error_of(fun() -> erpc:call(N, faulty, interrupt, []) end)),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'SystemExit', _}, _}}}, rpc:call(N, sys, exit, [<<"bye">>])),
    true = rpc:cast(N, sys, exit, [0]),
    ?assertEqual(pong, net_adm:ping(N)),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])).

%%% ------------------------------------------------------------------------- rex

rex(N) ->
    Ask = fun(M, F, A) ->
                  {rex, N} ! {self(), {call, M, F, A, user}},
                  live:expect(5000, fun({rex, Answer}) -> {ok, Answer} end)
          end,
    ?assertEqual(math:sqrt(2), Ask(math, sqrt, [2.0])),
    ?assertEqual(<<"a/b">>, Ask('os.path', join, [<<"a">>, <<"b">>])),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'Refusal', <<"not today">>}, [{faulty, refuse, 0, _} | _]}}},
                 Ask(faulty, refuse, [])),
    {rex, N} ! {self(), {call, math, sqrt, [16], group_leader()}},
    ?assertEqual(4.0, live:expect(5000, fun({rex, V}) -> {ok, V} end)),
    {rex, N} ! nonsense,
    {rex, N} ! {self(), nonsense},
    ?assertEqual(3.0, Ask(math, sqrt, [9])).

rex_gen(N) ->
    ?assertEqual(2.0, gen_server:call({rex, N}, {call, math, sqrt, [4], group_leader()})),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'Refusal', _}, _}}},
                 gen_server:call({rex, N}, {call, faulty, refuse, [], user})),
    gen_server:cast({rex, N}, {cast, box, put, [<<"rex_cast">>, 1], group_leader()}),
    ?assertEqual(1, rpc:call(N, box, wait, [<<"rex_cast">>])).

features(N) ->
    {rex, N} ! {self(), features_request},
    Features = live:expect(5000, fun({features_reply, X, L}) when X =:= N -> {ok, L} end),
    ?assert(lists:member(erpc, Features)).

broadcast(N) ->
    ?assertEqual({[], [N]}, rpc:sbcast([N], bulletin, {sbcast, 0})),
    none = rpc:call(N, servers, start, [bulletin, <<"Bulletin">>]),
    ?assertEqual({[N], []}, rpc:sbcast([N], bulletin, {sbcast, 1})),
    ?assertEqual(abcast, rpc:abcast([N], bulletin, {abcast, 2})),
    ?assertEqual([{sbcast, 1}, {abcast, 2}], rpc:call(N, box, wait_count, [bulletin, 2])).

%% OTP's own program, which speaks to rex as ei_rpc does.
erl_call(N) ->
    Program = filename:join([code:root_dir(), "bin", "erl_call"]),
    Command = lists:flatten(io_lib:format("~ts -c ~s -name ~s -a 'math sqrt [2]'", [Program, live:cookie(), N])),
    {Status, Out} = live:sh(Command),
    ?assertMatch({0, <<"1.41421", _/binary>>}, {Status, Out}),
    ?assertEqual({1, 2}, rpc:call(N, copy, copy, [{1, 2}])).

%%% ----------------------------------------------------------------------- spawn

spawned(N) ->
    Pid = spawn(N, box, put, [<<"spawned">>, 17]),
    ?assertEqual(N, node(Pid)),
    ?assertEqual(17, erpc:call(N, box, wait, [<<"spawned">>])),
    Gate = #{port := Port} = live:gate(),
    Waiting = spawn(N, gate, wait, [Port]),
    Door = live:entered(Gate),
    Ref = monitor(process, Waiting),
    pong = net_adm:ping(N), % the node knows by now
    live:open(Door),
    ?assertEqual(normal, live:expect(5000, fun({'DOWN', R, process, P, Why}) when R =:= Ref, P =:= Waiting -> {ok, Why} end)).

spawn_monitored(N) ->
    Down = fun(M, F, A) ->
                   {Pid, Ref} = spawn_monitor(N, M, F, A),
                   live:expect(5000, fun({'DOWN', R, process, P, Why}) when R =:= Ref, P =:= Pid -> {ok, Why} end)
           end,
    ?assertEqual(normal, Down(math, sqrt, [4])),
    ?assertEqual(normal, Down(faulty, thing, [])),
    ?assertEqual({{python_error, 'ValueError', <<"boom">>},
                  [frame(inner, 3, "inner"), frame(middle, 1, "middle"), frame(outer, 2, "outer")]},
                 Down(faulty, outer, [<<"boom">>, 1])),
    ?assertMatch({{python_error, 'ModuleNotFoundError', _}, _}, Down(no_such_module, f, [])),
    ?assertMatch({{python_error, 'SystemExit', _}, _}, Down(faulty, leave, [0])).

spawn_linked(N) ->
    process_flag(trap_exit, true),
    Exit = fun(M, F, A) ->
                   Pid = spawn_link(N, M, F, A),
                   live:expect(5000, fun({'EXIT', P, Why}) when P =:= Pid -> {ok, Why} end)
           end,
    ?assertEqual(normal, Exit(math, sqrt, [4])),
    ?assertMatch({{python_error, 'Refusal', <<"not today">>}, [{faulty, refuse, 0, _} | _]}, Exit(faulty, refuse, [])).

spawn_requested(N) ->
    Tagged = spawn_request(N, math, sqrt, [4], [monitor, link, {reply_tag, tag}]),
    process_flag(trap_exit, true),
    Pid = live:expect(5000, fun({tag, R, ok, P}) when R =:= Tagged -> {ok, P} end),
    ?assertEqual(normal, live:expect(5000, fun({'DOWN', R, process, P, W}) when R =:= Tagged, P =:= Pid -> {ok, W} end)),
    Silent = spawn_request(N, box, put, [<<"silent">>, 1], [{reply, no}]),
    ?assertEqual(1, erpc:call(N, box, wait, [<<"silent">>])),
    live:flush(),
    Alias = spawn_request(N, math, sqrt, [4], [{monitor, [{alias, demonitor}]}]),
    live:expect(5000, fun({spawn_reply, R, ok, _}) when R =:= Alias -> {ok, yes} end),
    ?assertEqual(normal, live:expect(5000, fun({'DOWN', R, process, _, W}) when R =:= Alias -> {ok, W} end)),
    ?assert(is_reference(Silent)).

funs(N) ->
    ?assertMatch({exception, {python_error, 'AttributeError', _}, _},
                 live:error_of(fun() -> erpc:call(N, fun() -> 1 end) end)),
    {_, Ref} = spawn_monitor(N, fun() -> 1 end),
    ?assertMatch({{python_error, 'AttributeError', _}, _},
                 live:expect(5000, fun({'DOWN', R, process, _, Why}) when R =:= Ref -> {ok, Why} end)).

%%% --------------------------------------------------------------- cancellation

%% A node with one worker, which waits at a gate: whatever comes now is queued behind it.
busy_node() ->
    Node = #{node := N} = live:pynode(#{args => ["--workers", "1", "--max-workers", "1"]}),
    Gate = #{port := Port} = live:gate(),
    Call = erpc:send_request(N, gate, wait, [Port, opened]),
    {Node, Call, live:entered(Gate)}.

queued_timeout() ->
    {#{node := N}, Call, Door} = busy_node(),
    Limit = live:ms(300), % longer than a SPAWN_REPLY takes on a machine at its limit
    ?assertEqual({erpc, timeout}, live:error_of(fun() -> erpc:call(N, box, put, [<<"erpc">>, 1], Limit) end)),
    ?assertEqual({badrpc, timeout}, rpc:call(N, box, put, [<<"rpc">>, 1], Limit)),
    ?assertEqual({badrpc, timeout}, rpc:block_call(N, box, put, [<<"block">>, 1], Limit)),
    Kept = erpc:send_request(N, box, put, [<<"kept">>, 1]),
    pong = net_adm:ping(N), % the node knows by now
    live:open(Door),
    ?assertEqual(opened, erpc:receive_response(Call, live:ms(5000))),
    ?assertEqual(none, erpc:receive_response(Kept, live:ms(5000))),
    ?assertEqual([none, none, none, 1],
                 [erpc:call(N, box, get, [Key]) || Key <- [<<"erpc">>, <<"rpc">>, <<"block">>, <<"kept">>]]),
    ?assertEqual([], live:flush()).

queued_death() ->
    {#{node := N}, Call, Door} = busy_node(),
    {Pid, Ref} = spawn_monitor(fun() -> erpc:call(N, box, put, [<<"death">>, 1]) end),
    %% A BEAM tells the node of the death only if it has had the SPAWN_REPLY. The first pong may be
    %% written before that, in the same turn; the second is not.
    live:eventually(fun() -> process_info(Pid, status) =:= {status, waiting} end),
    pong = net_adm:ping(N),
    pong = net_adm:ping(N),
    exit(Pid, kill),
    receive {'DOWN', Ref, process, Pid, killed} -> ok end,
    pong = net_adm:ping(N), % the node knows by now
    live:open(Door),
    ?assertEqual(opened, erpc:receive_response(Call, live:ms(5000))),
    ?assertEqual(none, erpc:call(N, box, get, [<<"death">>])).

many(N) ->
    Work = fun(P) -> [erpc:call(N, builtins, divmod, [P * 1000 + I, 7]) || I <- lists:seq(1, 40)] end,
    Want = fun(P) -> [{(P * 1000 + I) div 7, (P * 1000 + I) rem 7} || I <- lists:seq(1, 40)] end,
    ?assertEqual([Want(P) || P <- lists:seq(1, 50)], live:pmap(Work, lists:seq(1, 50))).
