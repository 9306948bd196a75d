%% live_gen_server.erl - Python objects under a name: calls, casts, messages, monitors, links, exits.
-module(live_gen_server).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1]).

setup() ->
    live:pynode(#{args => ["--import", "registered"]}).

tests(#{node := N}) ->
    [{"gen_server:call reaches an object that an --import has registered", fun() -> call(N) end},
     {"a caller is the Pid of the calling process", fun() -> caller(N) end},
     {"gen_server:send_request and receive_response", fun() -> send_request(N) end},
     {"gen_server:cast goes to handle_cast, a plain message to handle_info", fun() -> cast_and_info(N) end},
     {"casts of one sender are served in their order", fun() -> order(N) end},
     {"requests to one object are served one after another", fun() -> one_by_one(N) end},
     {"two objects are served at the same time", fun() -> side_by_side(N) end},
     {"gen_server:multi_call and abcast", fun() -> multi_call(N) end},
     {"a name that is not there gives noproc at once", fun() -> noproc(N) end},
     {"a cast or a message to a missing name harms nothing", fun() -> lost(N) end},
     {"a handler that raises: the caller exits with the exception, the object lives on", fun() -> raises(N) end},
     {"a reply that cannot be converted is that call's error", fun() -> bad_reply(N) end},
     {"a request that cannot be converted is that call's error", fun() -> bad_request(N) end},
     {"a cast or a message whose handler raises leaves the object at work", fun() -> cast_raises(N) end},
     {"a '$gen_call' sent by Python itself is a message, and ends nobody", fun() -> own_gen_call(N) end},
     {"an object without handlers answers a call with an error", fun() -> no_handler(N) end},
     {"a time-out leaves no late reply in the mailbox", fun() -> timeout_litter(N) end},
     {"a time-out cancels a request that is still queued", fun() -> timeout_cancels(N) end},
     {"a monitor by name of a missing name says noproc at once", fun() -> monitor_missing(N) end},
     {"a monitor by name says DOWN when the name is unregistered", fun() -> monitor_unregistered(N) end},
     {"an object that unregisters itself answers first and is gone then", fun() -> stops_itself(N) end},
     {"a monitor that was taken back says nothing", fun() -> demonitored(N) end},
     {"a name can be registered again and serves the new object", fun() -> again(N) end},
     {"a monitor of a finished process says noproc", fun() -> monitor_finished(N) end},
     {"a monitor of a running process says how it ended", fun() -> monitor_running(N) end},
     {"a link to a finished process says noproc", fun() -> link_finished(N) end},
     {"a link says how the process ended, and nothing after unlink", fun() -> link_running(N) end},
     {"exit/2 ends a process that has not begun, and it never runs", fun exit_queued/0},
     {"exit/2 with normal does nothing to a process", fun() -> exit_normal(N) end},
     {"exit/2 of a running process is seen by its monitor", fun() -> exit_running(N) end},
     {"messages to pids of processes that are not there vanish", fun() -> pid_messages(N) end},
     {"net_kernel and other system names answer or vanish, but stay up", fun() -> system_names(N) end},
     {"a full queue gives overloaded at once", fun overloaded/0},
     {"fifty processes count together", fun() -> many(N) end}].

call(N) ->
    C = {counter, N},
    Before = gen_server:call(C, get),
    ?assertEqual(Before + 5, gen_server:call(C, {add, 5})),
    ?assertEqual(Before + 2, gen_server:call(C, {add, -3}, infinity)),
    ?assertEqual(Before + 2, gen_server:call(C, get, 1000)),
    Term = #{<<"k">> => [1, 2.5, {a, <<255>>}], {1, 2} => make_ref()},
    ?assertEqual(Term, gen_server:call(C, {echo, Term})).

caller(N) ->
    ?assertEqual(self(), gen_server:call({counter, N}, caller)).

send_request(N) ->
    Gate = #{port := Port} = live:gate(),
    Request = gen_server:send_request({counter, N}, {gate, Port, served}),
    Door = live:entered(Gate),
    ?assertEqual(timeout, gen_server:wait_response(Request, 0)),
    live:open(Door),
    ?assertEqual({reply, served}, gen_server:wait_response(Request, live:ms(5000))),
    Missing = gen_server:send_request({not_there, N}, get),
    ?assertMatch({error, {noproc, _}}, gen_server:wait_response(Missing, live:ms(5000))).

cast_and_info(N) ->
    none = rpc:call(N, servers, start, [mailbox, <<"Counter">>]),
    ?assertEqual(ok, gen_server:cast({mailbox, N}, {one, 1})),
    {mailbox, N} ! {two, 2},
    ?assertEqual({three, [<<"3">>]}, erlang:send({mailbox, N}, {three, [<<"3">>]})),
    ok = gen_server:cast({mailbox, N}, {four, #{}}),
    ?assertEqual([{cast, {one, 1}}, {info, {two, 2}}, {info, {three, [<<"3">>]}}, {cast, {four, #{}}}],
                 gen_server:call({mailbox, N}, seen)).

order(N) ->
    none = rpc:call(N, servers, start, [in_order, <<"Counter">>]),
    [gen_server:cast({in_order, N}, {I}) || I <- lists:seq(1, 2000)],
    ?assertEqual([{cast, {I}} || I <- lists:seq(1, 2000)], gen_server:call({in_order, N}, seen)).

one_by_one(N) ->
    live:pmap(fun(_) -> gen_server:call({alone, N}, work, infinity) end, lists:seq(1, 50)),
    ?assertEqual(1, gen_server:call({alone, N}, most)).

side_by_side(N) ->
    none = rpc:call(N, servers, start, [left, <<"Counter">>]),
    none = rpc:call(N, servers, start, [right, <<"Counter">>]),
    Gate = #{port := Port} = live:gate(),
    Left = gen_server:send_request({left, N}, {gate, Port, l}),
    LeftDoor = live:entered(Gate),
    Right = gen_server:send_request({right, N}, {gate, Port, r}),
    RightDoor = live:entered(Gate),
    live:open(RightDoor),
    ?assertEqual({reply, r}, gen_server:wait_response(Right, live:ms(5000))),
    live:open(LeftDoor),
    ?assertEqual({reply, l}, gen_server:wait_response(Left, live:ms(5000))).

multi_call(N) ->
    none = rpc:call(N, servers, start, [multi, <<"Counter">>]),
    ?assertEqual({[{N, 4}], ['nobody@127.0.0.1']}, gen_server:multi_call([N, 'nobody@127.0.0.1'], multi, {add, 4})),
    ?assertEqual({[{N, 4}], []}, gen_server:multi_call([N], multi, get, 5000)),
    ?assertEqual({[], [N]}, live:within(1000, fun() -> gen_server:multi_call([N], not_there, get, 5000) end)),
    abcast = gen_server:abcast([N], multi, {all}),
    ?assertEqual([{cast, {all}}], gen_server:call({multi, N}, seen)),
    ?assertEqual([], live:flush()).

noproc(N) ->
    Exit = live:within(1000, fun() -> live:exit_of(fun() -> gen_server:call({not_there, N}, get, 30000) end) end),
    ?assertEqual({noproc, {gen_server, call, [{not_there, N}, get, 30000]}}, Exit),
    ?assertMatch({noproc, _}, live:exit_of(fun() -> gen_server:call({'not there, ever', N}, get, infinity) end)).

lost(N) ->
    ok = gen_server:cast({not_there, N}, x),
    {not_there, N} ! x,
    {'', N} ! x,
    ?assertEqual(pong, net_adm:ping(N)).

raises(N) ->
    Before = gen_server:call({counter, N}, get),
    {Reason, Call} = live:exit_of(fun() -> gen_server:call({counter, N}, {fail, <<"bad add">>}) end),
    ?assertEqual({gen_server, call, [{counter, N}, {fail, <<"bad add">>}]}, Call),
    {{python_error, 'ValueError', <<"bad add">>}, [Top | _]} = Reason,
    ?assertMatch({servers, 'Counter.call_fail', 2, [{file, _}, {line, _}]}, Top),
    ?assertMatch({{{python_error, 'SystemExit', _}, _}, _},
                 live:exit_of(fun() -> gen_server:call({counter, N}, {leave}) end)),
    ?assertEqual(Before + 1, gen_server:call({counter, N}, {add, 1})).

bad_reply(N) ->
    {Reason, _} = live:exit_of(fun() -> gen_server:call({counter, N}, {thing}) end),
    ?assertMatch({{python_error, 'TypeError', _}, _}, Reason),
    ?assert(is_integer(gen_server:call({counter, N}, get))).

bad_request(N) ->
    {Reason, _} = live:exit_of(fun() -> gen_server:call({counter, N}, {echo, [1 | 2]}) end),
    ?assertMatch({{python_error, 'TypeError', _}, _}, Reason),
    ok = gen_server:cast({counter, N}, [1 | 2]),
    {counter, N} ! {bad, [1 | 2]},
    ?assert(is_integer(gen_server:call({counter, N}, get))).

cast_raises(N) ->
    none = rpc:call(N, servers, start, [sturdy, <<"Counter">>]),
    Ref = monitor(process, {sturdy, N}),
    ok = gen_server:cast({sturdy, N}, {fail, <<"cast">>}),
    {sturdy, N} ! {fail, <<"info">>},
    {sturdy, N} ! 17,
    ok = gen_server:cast({sturdy, N}, {good}),
    ?assertEqual([{cast, {good}}], gen_server:call({sturdy, N}, seen)),
    true = demonitor(Ref, [info]).

own_gen_call(N) ->
    [none = rpc:call(N, servers, start, [Name, <<"Counter">>]) || Name <- [caller_py, callee_py]],
    none = gen_server:call({caller_py, N}, {send_as_call, callee_py, self()}),
    ?assertEqual([{info, {'$gen_call', {self(), 1}, 7}}], gen_server:call({callee_py, N}, seen)).

no_handler(N) ->
    ?assertMatch({{{python_error, 'AttributeError', _}, _}, {gen_server, call, _}},
                 live:exit_of(fun() -> gen_server:call({nothing, N}, get, 5000) end)),
    ok = gen_server:cast({nothing, N}, x),
    {nothing, N} ! x,
    ?assertMatch({{{python_error, 'AttributeError', _}, _}, _},
                 live:exit_of(fun() -> gen_server:call({nothing, N}, get, 5000) end)).

timeout_litter(N) ->
    none = rpc:call(N, servers, start, [slow, <<"Counter">>]),
    Gate = #{port := Port} = live:gate(),
    ?assertMatch({timeout, _}, live:exit_of(fun() -> gen_server:call({slow, N}, {gate, Port, late}, 200) end)),
    live:open(live:entered(Gate)),
    ?assertEqual(0, gen_server:call({slow, N}, get)),
    ?assertEqual([], live:flush()).

timeout_cancels(N) ->
    none = rpc:call(N, servers, start, [queued, <<"Counter">>]),
    Gate = #{port := Port} = live:gate(),
    First = gen_server:send_request({queued, N}, {gate, Port, first}),
    Door = live:entered(Gate),
    ?assertMatch({timeout, _}, live:exit_of(fun() -> gen_server:call({queued, N}, {add, 100}, 200) end)),
    pong = net_adm:ping(N), % the node knows by now
    live:open(Door),
    ?assertEqual({reply, first}, gen_server:wait_response(First, live:ms(5000))),
    ?assertEqual(0, gen_server:call({queued, N}, get)).

%% The reason of the DOWN with this reference, which must be about this item.
down(Ref, Item) ->
    live:expect(5000, fun({'DOWN', R, process, X, Why}) when R =:= Ref, X =:= Item -> {ok, Why} end).

monitor_missing(N) ->
    Ref = monitor(process, {not_there, N}),
    ?assertEqual(noproc, live:within(1000, fun() -> down(Ref, {not_there, N}) end)).

monitor_unregistered(N) ->
    none = rpc:call(N, servers, start, [leaving, <<"Counter">>]),
    Ref = monitor(process, {leaving, N}),
    Other = monitor(process, {leaving, N}),
    ?assertEqual(0, gen_server:call({leaving, N}, get)),
    ?assertEqual([], live:flush()),
    none = rpc:call(N, servers, stop, [leaving]),
    ?assertEqual(normal, down(Ref, {leaving, N})),
    ?assertEqual(normal, down(Other, {leaving, N})),
    ?assertMatch({noproc, _}, live:exit_of(fun() -> gen_server:call({leaving, N}, get) end)).

stops_itself(N) ->
    none = rpc:call(N, servers, start, [stopping, <<"Counter">>]),
    Ref = monitor(process, {stopping, N}),
    ?assertEqual(<<"stopped">>, gen_server:call({stopping, N}, {stop, <<"stopping">>})),
    ?assertEqual(normal, down(Ref, {stopping, N})),
    ?assertMatch({noproc, _}, live:exit_of(fun() -> gen_server:call({stopping, N}, get) end)).

demonitored(N) ->
    none = rpc:call(N, servers, start, [unwatched, <<"Counter">>]),
    Ref = monitor(process, {unwatched, N}),
    Kept = monitor(process, {unwatched, N}),
    true = demonitor(Ref),
    none = rpc:call(N, servers, stop, [unwatched]),
    ?assertEqual(normal, down(Kept, {unwatched, N})),
    ?assertEqual([], live:flush()).

again(N) ->
    none = rpc:call(N, servers, start, [phoenix, <<"Counter">>]),
    1 = gen_server:call({phoenix, N}, {add, 1}),
    ?assertMatch({badrpc, {'EXIT', {{python_error, _, _}, _}}}, rpc:call(N, servers, start, [phoenix, <<"Counter">>])),
    1 = gen_server:call({phoenix, N}, get),
    none = rpc:call(N, servers, stop, [phoenix]),
    ?assertMatch({badrpc, {'EXIT', {{python_error, _, _}, _}}}, rpc:call(N, servers, stop, [phoenix])),
    none = rpc:call(N, servers, start, [phoenix, <<"Counter">>]),
    ?assertEqual(0, gen_server:call({phoenix, N}, get)).

%% The pid of a Python process that has come to its end.
finished(N) ->
    {Pid, Ref} = spawn_monitor(N, math, sqrt, [4]),
    normal = down(Ref, Pid),
    Pid.

%% A Python process that waits at a gate: {Pid, Door}.
waiting(N) ->
    Gate = #{port := Port} = live:gate(),
    Pid = spawn(N, gate, wait, [Port]),
    {Pid, live:entered(Gate)}.

monitor_finished(N) ->
    Pid = finished(N),
    ?assertEqual(noproc, down(monitor(process, Pid), Pid)).

monitor_running(N) ->
    {Pid, Door} = waiting(N),
    Ref = monitor(process, Pid),
    Dropped = monitor(process, Pid),
    demonitor(Dropped),
    pong = net_adm:ping(N),
    ?assertEqual([], live:flush()),
    live:open(Door),
    ?assertEqual(normal, down(Ref, Pid)),
    Gate = #{port := Port} = live:gate(),
    Failing = spawn(N, gate, fail, [Port, <<"over">>]),
    FailDoor = live:entered(Gate),
    FailRef = monitor(process, Failing),
    pong = net_adm:ping(N),
    live:open(FailDoor),
    ?assertMatch({{python_error, 'ValueError', <<"over">>}, [{gate, fail, 2, _} | _]}, down(FailRef, Failing)),
    ?assertEqual([], live:flush()).

link_finished(N) ->
    process_flag(trap_exit, true),
    Pid = finished(N),
    link(Pid),
    ?assertEqual(noproc, live:expect(5000, fun({'EXIT', P, Why}) when P =:= Pid -> {ok, Why} end)).

link_running(N) ->
    process_flag(trap_exit, true),
    {Pid, Door} = waiting(N),
    {Unlinked, UnlinkedDoor} = waiting(N),
    link(Pid),
    link(Unlinked),
    unlink(Unlinked),
    live:open(UnlinkedDoor),
    Ref = monitor(process, Unlinked),
    Why = down(Ref, Unlinked),
    ?assert(lists:member(Why, [normal, noproc])),
    live:open(Door),
    ?assertEqual(normal, live:expect(5000, fun({'EXIT', P, W}) when P =:= Pid -> {ok, W} end)),
    ?assertEqual([], live:flush()).

exit_queued() ->
    #{node := N} = live:pynode(#{args => ["--workers", "1", "--max-workers", "1"]}),
    {_, Door} = waiting(N),
    {Pid, Ref} = spawn_monitor(N, box, put, [<<"exit_queued">>, 1]),
    {Linked, LinkedRef} = spawn_monitor(N, box, put, [<<"linked">>, 1]),
    exit(Pid, stop_it),
    ?assertEqual(stop_it, down(Ref, Pid)),
    %% The death of a linked process is an exit signal as well.
    Linker = spawn(fun() -> link(Linked), exit(linker_died) end),
    ?assertEqual(linker_died, down(LinkedRef, Linked)),
    ?assertNot(is_process_alive(Linker)),
    live:open(Door),
    ?assertEqual(none, erpc:call(N, box, get, [<<"exit_queued">>])),
    ?assertEqual(none, erpc:call(N, box, get, [<<"linked">>])).

exit_normal(N) ->
    {Pid, Door} = waiting(N),
    Ref = monitor(process, Pid),
    exit(Pid, normal),
    pong = net_adm:ping(N),
    ?assertEqual([], live:flush()),
    live:open(Door),
    ?assertEqual(normal, down(Ref, Pid)).

%% A Python function cannot be torn out of its thread; to the cluster its process is dead at once.
exit_running(N) ->
    [begin
         {Pid, Door} = waiting(N),
         Ref = monitor(process, Pid),
         exit(Pid, Sent),
         ?assertEqual(Seen, down(Ref, Pid)),
         ?assertEqual(noproc, down(monitor(process, Pid), Pid)),
         live:open(Door)
     end || {Sent, Seen} <- [{kill, killed}, {enough, enough}]],
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])),
    ?assertEqual([], live:flush()).

pid_messages(N) ->
    Pid = finished(N),
    [Pid ! {hello, I} || I <- lists:seq(1, 100)],
    exit(Pid, kill),
    unlink(Pid),
    demonitor(make_ref()),
    group_leader(self(), self()),
    ?assertMatch({noproc, _}, live:exit_of(fun() -> gen_server:call(Pid, get, 5000) end)),
    ?assertEqual(pong, net_adm:ping(N)).

system_names(N) ->
    [{Name, N} ! {self(), hello} || Name <- [net_kernel, rex, init, global_name_server, erts_code_purger]],
    ?assertMatch({noproc, _}, live:exit_of(fun() -> gen_server:call({global_name_server, N}, x, 5000) end)),
    ?assertEqual(yes, gen_server:call({net_kernel, N}, {is_auth, node()})),
    ?assertEqual(pong, net_adm:ping(N)).

overloaded() ->
    #{node := N} = live:pynode(#{args => ["--workers", "1", "--max-workers", "1", "--queue-size", "4",
                                          "--import", "registered"]}),
    Gate = #{port := Port} = live:gate(),
    First = gen_server:send_request({counter, N}, {gate, Port, first}),
    Door = live:entered(Gate),
    Rest = [gen_server:send_request({counter, N}, {add, 1}) || _ <- lists:seq(1, 20)],
    Refused = [R || R <- Rest, {error, {overloaded, _}} <- [gen_server:wait_response(R, live:ms(500))]],
    ?assert(length(Refused) >= 20 - 4 - 1),
    ?assertMatch({overloaded, {gen_server, call, _}},
                 live:within(1000, fun() -> live:exit_of(fun() -> gen_server:call({counter, N}, get) end) end)),
    ?assertEqual(pong, net_adm:ping(N)),
    live:open(Door),
    ?assertEqual({reply, first}, gen_server:wait_response(First, live:ms(5000))),
    Served = 20 - length(Refused),
    live:eventually(fun() -> live:exit_of(fun() -> gen_server:call({counter, N}, get) end) =:= {returned, Served} end).

many(N) ->
    none = rpc:call(N, servers, start, [total, <<"Counter">>]),
    live:pmap(fun(_) -> [gen_server:call({total, N}, {add, 1}) || _ <- lists:seq(1, 40)] end, lists:seq(1, 50)),
    ?assertEqual(2000, gen_server:call({total, N}, get)).
