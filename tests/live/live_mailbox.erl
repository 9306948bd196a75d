%% live_mailbox - Python threads and calls as Erlang processes: messages, names, monitors, links, exit signals.
-module(live_mailbox).

-export([setup/0, tests/1]).

-include_lib("stdlib/include/assert.hrl").

-define(PROC, live_mailbox).

setup() ->
    application:set_env(pynode, nodes, []),
    {ok, _} = application:ensure_all_started(pynode),
    #{node := N} = live:pynode(),
    ok = py:connect(N),
    N.

tests(N) ->
    [{Name, fun() -> Fun(N) end} || {Name, Fun} <- cases()].

cases() ->
    [{"each call and each thread is a process of its own", fun selves/1},
     {"a thread gets what Erlang sends, in order, and sends back", fun order/1},
     {"many senders to one thread: nothing is lost, each one's order is kept", fun senders/1},
     {"messages go round Python threads", fun ring/1},
     {"messages of all sizes, up to 20 MB", fun sizes/1},
     {"a message without a form is that receive's TypeError", fun undecodable/1},
     {"spawn: messages that come before the function runs, and while it does", fun spawned/1},
     {"a message to a call that has ended does not reach the next one of its thread", fun no_leak/1},
     {"names: register, whereis, unregister, messages to {Name, Node}", fun names/1},
     {"a name goes with the thread or the call that has it", fun names_end/1},
     {"a thread that ends: DOWN for its pid and its name, with its exception as reason", fun monitored/1},
     {"a thread that ends: exit signals to who is linked to it", fun linked/1},
     {"Python monitors a process, by pid and by name: it ends, it is not there, its node is not", fun monitors/1},
     {"a node goes: DOWN and EXIT with noconnection", fun node_goes/1},
     {"Python threads monitor and link each other", fun each_other/1},
     {"demonitor and unlink: nothing comes any more", fun dropped/1},
     {"link in both directions, twice, and to what is not there", fun links/1},
     {"exit/2 to a thread is a message, whatever the reason", fun exits/1},
     {"exit/2 with kill ends a spawned function that waits in receive", fun killed_receiving/1},
     {"a served call monitors and links, and leaves none when it ends", fun served/1},
     {"a call that is cancelled or late while it waits in receive ends", fun cancelled/1},
     {"a registered object: self, handle_info for what it watches, no receive", fun objects/1},
     {"a full mailbox drops what others send, counts it and says so once; DOWN and EXIT are taken", fun full/1},
     {"a full mailbox of this node's own: BlockingIOError", fun full_own/1},
     {"a script: Ctrl-C ends receive, and a signal's handler may receive itself", fun ctrl_c/1},
     {"a receive with a limit ends in time, without one it waits", fun limits/1},
     {"arguments that are none", fun bad_arguments/1},
     {"nothing is left", fun no_litter/1}].

%%% ------------------------------------------------------------------ the scene

py(N, Function, Args) ->
    rpc:call(N, letters, Function, Args, live:ms(40000)).

%% A Python thread that sends on to this process what it gets.
thread(N) ->
    thread(N, none).

thread(N, Name) ->
    Pid = py(N, thread, [{'$kwargs', #{to => self(), name => Name}}]),
    ?assertEqual(N, node(Pid)),
    Pid.

%% What the thread has got next.
got(Pid) ->
    live:expect(10000, fun({got, P, Message}) when P =:= Pid -> {ok, Message} end).

%% Has the thread do something, and gives its value.
do(Pid, What) ->
    do(Pid, What, []).

do(Pid, What, Args) ->
    Pid ! list_to_tuple([do, self(), atom_to_binary(What) | Args]),
    receive Value -> Value after live:ms(10000) -> error({no_value, What}) end.

%% The next thing that the thread gets is this, so nothing was before it.
nothing_before(Pid, Marker) ->
    Pid ! Marker,
    ?assertEqual(Marker, got(Pid)).

down(Monitor) ->
    live:expect(10000, fun({'DOWN', M, process, Object, Reason}) when M =:= Monitor -> {ok, {Object, Reason}} end).

%% A process that ends as it is told.
victim() ->
    spawn(fun() -> receive Reason -> exit(Reason) end end).

status(N, Key) ->
    maps:get(Key, rpc:call(N, pynode, status, [])).

idle(N) ->
    live:eventually(fun() ->
        #{running := R, queued := Q} = rpc:call(N, pynode, status, []),
        {R, Q} =:= {0, 0} orelse {R, Q}
    end).

%%% ------------------------------------------------------------------ messages

selves(N) ->
    Calls = [py(N, who, []) || _ <- lists:seq(1, 5)],
    Pids = lists:append([[Call, Thread] || {Call, Thread} <- Calls]),
    ?assertEqual(10, length(lists:usort(Pids))),
    ?assertEqual([N], lists:usort([node(P) || P <- Pids])),
    {ok, {A, _}} = py:call(letters, who, [], #{}, #{queue => selves}),
    {ok, {B, _}} = py:call(letters, who, [], #{}, #{queue => selves}),
    ?assertNotEqual(A, B),
    ok = py:stop_queue(selves),
    Pid = thread(N),
    ?assertEqual([Pid, Pid], [do(Pid, who_am_i) || _ <- [1, 2]]),
    Pid ! <<"end">>.

order(N) ->
    Pid = thread(N),
    [Pid ! I || I <- lists:seq(1, 2000)],
    ?assertEqual(lists:seq(1, 2000), [got(Pid) || _ <- lists:seq(1, 2000)]),
    Terms = [self(), make_ref(), {a, [<<"b">>, #{c => 1.5}]}, [], <<255>>, 1 bsl 100, N],
    [Pid ! T || T <- Terms],
    ?assertEqual(Terms, [got(Pid) || _ <- Terms]),
    Pid ! <<"end">>.

senders(N) ->
    Pid = thread(N),
    Senders = [spawn_link(fun() -> [Pid ! {S, I} || I <- lists:seq(1, 100)] end) || S <- lists:seq(1, 50)],
    Got = [got(Pid) || _ <- Senders, _ <- lists:seq(1, 100)],
    [?assertEqual({S, lists:seq(1, 100)}, {S, [I || {T, I} <- Got, T =:= S]}) || S <- lists:seq(1, 50)],
    Pid ! <<"end">>.

ring(N) ->
    ?assertEqual({<<"ok">>, 1000}, py(N, ring, [5, 200])).

sizes(N) ->
    Sizes = [0, 1, 100, 16 bsl 10, (16 bsl 10) + 1, 64 bsl 10, 1 bsl 20, 20 bsl 20, 3],
    spawn(N, letters, sizes, [self(), length(Sizes)]),
    Pid = receive {me, P} -> P end,
    Terms = [{Size, no_text(Size)} || Size <- Sizes],
    [Pid ! T || T <- Terms],
    [?assert(receive T -> true after live:ms(20000) -> Size end) || T = {Size, _} <- Terms].

%% Bytes that are no UTF-8, so that they come back as they are.
no_text(Size) ->
    binary:part(binary:copy(<<255, (rand:uniform(256) - 1), 7>>, Size div 3 + 1), 0, Size).

undecodable(N) ->
    Call = erpc:send_request(N, letters, receive_all, [self(), 4]),
    Pid = receive {me, P} -> P end,
    [Pid ! M || M <- [first, [1 | 2], {deep, #{[1 | 2] => [3 | 4]}}, last]],
    ?assertMatch([{<<"ok">>, first}, {<<"TypeError">>, <<"message", _/binary>>}, {<<"TypeError">>, _}, {<<"ok">>, last}],
                 erpc:receive_response(Call, live:ms(10000))).

spawned(_) ->
    #{node := N} = live:pynode(#{args => ["--workers", "1", "--max-workers", "1"]}),
    Gate = #{port := Port} = live:gate(),
    Call = erpc:send_request(N, gate, wait, [Port]),
    Door = live:entered(Gate),
    [begin
         Pid = spawn(N, letters, tell_and_receive, [self(), 3]),
         [Pid ! I || I <- [1, 2, 3]]
     end || _ <- [1, 2]],
    {Early, Ref} = spawn_monitor(N, letters, tell_and_receive, [self(), 2]),
    Early ! one,
    live:open(Door),
    erpc:receive_response(Call),
    ?assertEqual(Early, receive {me, P} when P =:= Early -> P after live:ms(10000) -> none end),
    Early ! two,
    ?assertEqual({Early, normal}, down(Ref)),
    ?assertEqual(2, length(live:flush())), % the two before said who they are
    Unasked = spawn(N, letters, send_from, [Port, self()]), % has not asked who it is when this comes
    Last = live:entered(Gate),
    Unasked ! early,
    pong = net_adm:ping(N),
    live:open(Last),
    ?assertEqual({first, Unasked, early}, receive M = {first, _, _} -> M after live:ms(10000) -> none end),
    idle(N),
    ?assertEqual(0, status(N, processes)).

no_leak(_) ->
    On = #{queue => no_leak},
    Call = fun(F, Args) -> {ok, V} = py:call(letters, F, Args, #{}, On), V end,
    Late = fun() -> Call(receive_all, [self(), 0]), receive {me, P} -> P end end,
    Old = [Late() || _ <- lists:seq(1, 3)],
    [P ! late || P <- Old],
    ?assertMatch({<<"TimeoutError">>, _}, Call('receive', [0.05])),
    Ref = py:spawn_call(letters, tell_and_receive, [self(), 1], #{}, On), % two messages, it takes one
    Pid = receive {me, P} -> P end,
    [Pid ! M || M <- [taken, left]],
    ?assertEqual({ok, [taken]}, py:await(Ref)),
    ?assertMatch({<<"TimeoutError">>, _}, Call('receive', [0])),
    ok = py:stop_queue(no_leak).

%%% ------------------------------------------------------------------ names

names(N) ->
    Pid = thread(N, mailbox_a),
    {mailbox_a, N} ! {hello, 1},
    ?assertEqual({hello, 1}, got(Pid)),
    ?assertEqual(Pid, rpc:call(N, erlang, whereis, [mailbox_a])),
    ?assertEqual(none, rpc:call(N, erlang, whereis, [mailbox_nobody])),
    ?assertMatch({<<"ValueError">>, _}, do(Pid, name_me, [<<"mailbox_b">>])), % it has one
    Other = thread(N),
    ?assertMatch({<<"ValueError">>, _}, do(Other, name_me, [<<"mailbox_a">>])), % it is another's
    ?assertMatch({<<"ok">>, _}, do(Other, unname, [<<"mailbox_a">>])), % anybody may, as in Erlang
    ?assertEqual({<<"ok">>, none}, do(Other, name_me, [<<"mailbox_a">>])),
    ?assertEqual(Other, rpc:call(N, erlang, whereis, [mailbox_a])),
    {mailbox_a, N} ! {hello, 2},
    ?assertEqual({hello, 2}, got(Other)),
    nothing_before(Pid, {still, here}),
    ?assertEqual({<<"ok">>, none}, do(Pid, name_me, [<<"mailbox_b">>])),
    rpc:call(N, erlang, send, [mailbox_b, {hello, 3}]),
    ?assertEqual({hello, 3}, got(Pid)),
    Name = unicode:characters_to_binary("näme " ++ [16#1F600]),
    Odd = thread(N, Name),
    {binary_to_atom(Name), N} ! {hello, 4},
    ?assertEqual({hello, 4}, got(Odd)),
    [P ! <<"end">> || P <- [Pid, Other, Odd]].

names_end(N) ->
    [begin
         Pid = thread(N, mailbox_ends),
         Ref = erlang:monitor(process, Pid),
         Pid ! End,
         down(Ref),
         {mailbox_ends, N} ! lost,
         ?assertEqual(none, rpc:call(N, erlang, whereis, [mailbox_ends]))
     end || End <- [<<"end">>, <<"raise">>, <<"exit">>]],
    [?assertEqual({ok, {<<"ok">>, none}}, py:call(letters, name_me, [<<"mailbox_ends">>])) || _ <- [1, 2]],
    ?assertEqual({<<"ok">>, none}, py(N, name_me, [<<"mailbox_ends">>])).

%%% ------------------------------------------------------------------ Erlang watches

monitored(N) ->
    [begin
         Pid = thread(N, mailbox_watched),
         Refs = [erlang:monitor(process, Target) || Target <- [Pid, {mailbox_watched, N}, Pid]],
         [A, B, C] = Refs,
         Pid ! End,
         ?assertMatch({Pid, _}, down(A)),
         {Object, Reason} = down(B),
         ?assertEqual({{mailbox_watched, N}, {Pid, Reason}}, {Object, down(C)}),
         Check(Reason),
         ?assertEqual({Pid, noproc}, down(erlang:monitor(process, Pid))),
         ?assertEqual({{mailbox_watched, N}, noproc}, down(erlang:monitor(process, {mailbox_watched, N})))
     end || {End, Check} <- [{<<"end">>, fun(R) -> ?assertEqual(normal, R) end},
                             {<<"exit">>, fun(R) -> ?assertEqual(normal, R) end},
                             {<<"raise">>, fun raised/1}]],
    Pid = thread(N, mailbox_watched),
    Ref = erlang:monitor(process, {mailbox_watched, N}),
    Pid ! {do, {?MODULE, node()}, <<"unname">>, <<"mailbox_watched">>},
    ?assertEqual({{mailbox_watched, N}, normal}, down(Ref)), % the name has ended
    nothing_before(Pid, {lives, on}),
    Pid ! <<"end">>,
    ?assertEqual([], live:flush()).

raised({{python_error, Type, Message}, Stack}) ->
    ?assertEqual({'ValueError', <<"as it was told">>}, {Type, Message}),
    ?assertMatch([{letters, _, _, [{file, _}, {line, _}]} | _], Stack).

linked(N) ->
    [begin
         Pid = thread(N),
         {Linked, Ref} = spawn_monitor(fun() -> link(Pid), Pid ! ready, receive after infinity -> ok end end),
         ready = got(Pid),
         Pid ! End,
         case End of
             <<"raise">> -> {Linked, Reason} = down(Ref), raised(Reason);
             _ ->
                 down(erlang:monitor(process, Pid)),
                 ?assert(is_process_alive(Linked)), % normal ends nobody
                 exit(Linked, kill)
         end
     end || End <- [<<"end">>, <<"raise">>, <<"exit">>]],
    process_flag(trap_exit, true),
    Pid = thread(N),
    link(Pid),
    Pid ! <<"end">>,
    ?assertEqual(normal, live:expect(5000, fun({'EXIT', P, R}) when P =:= Pid -> {ok, R} end)),
    link(Pid),
    ?assertEqual(noproc, live:expect(5000, fun({'EXIT', P, R}) when P =:= Pid -> {ok, R} end)).

%%% ------------------------------------------------------------------ Python watches

monitors(N) ->
    Pid = thread(N),
    Monitor = fun(Target) -> do(Pid, monitor, [Target]) end,
    Victim = victim(),
    true = register(?PROC, Victim),
    Here = node(),
    Refs = [A, B, C] = [Monitor(T) || T <- [Victim, {?PROC, Here}, Victim]],
    ?assertEqual(3, length(lists:usort(Refs))),
    Victim ! {sad, [end_of, 1]},
    Got = [got(Pid) || _ <- Refs],
    ?assertEqual(lists:sort([{'DOWN', A, process, Victim, {sad, [end_of, 1]}}, {'DOWN', B, process, {?PROC, Here}, {sad, [end_of, 1]}},
                             {'DOWN', C, process, Victim, {sad, [end_of, 1]}}]), lists:sort(Got)),
    [begin
         Ref = Monitor(Target),
         ?assertEqual({Target, {'DOWN', Ref, process, Object, Reason}}, {Target, got(Pid)})
     end || {Target, Object, Reason} <-
                [{Victim, Victim, noproc}, {{?PROC, Here}, {?PROC, Here}, noproc},
                 {<<"mailbox_nobody">>, {mailbox_nobody, N}, noproc}, {{mailbox_nobody, N}, {mailbox_nobody, N}, noproc},
                 {{some, 'nobody@127.0.0.1'}, {some, 'nobody@127.0.0.1'}, noconnection}]],
    nothing_before(Pid, marker),
    Pid ! <<"end">>.

node_goes(N) ->
    Vm = #{node := Other} = live:peer(),
    Remote = rpc:call(Other, erlang, spawn, [timer, sleep, [infinity]]),
    Pid = thread(N),
    Ref = do(Pid, monitor, [Remote]),
    Named = do(Pid, monitor, [{init, Other}]),
    ok = do(Pid, link, [Remote]),
    Forgotten = do(Pid, monitor, [Remote]),
    ok = do(Pid, demonitor, [Forgotten]),
    live:kill(Vm),
    ?assertEqual(lists:sort([{'DOWN', Ref, process, Remote, noconnection}, {'DOWN', Named, process, {init, Other}, noconnection},
                             {'EXIT', Remote, noconnection}]),
                 lists:sort([got(Pid) || _ <- [1, 2, 3]])),
    Again = do(Pid, monitor, [Remote]),
    ?assertEqual({'DOWN', Again, process, Remote, noconnection}, got(Pid)),
    ok = do(Pid, link, [Remote]),
    ?assertEqual({'EXIT', Remote, noconnection}, got(Pid)),
    nothing_before(Pid, marker),
    Pid ! <<"end">>.

each_other(N) ->
    [A, B] = [thread(N, Name) || Name <- [mailbox_one, mailbox_two]],
    ByPid = do(A, monitor, [B]),
    ByName = do(A, monitor, [<<"mailbox_two">>]),
    ok = do(A, link, [B]),
    Self = do(A, monitor, [A]),
    ok = do(A, link, [A]),
    B ! <<"raise">>,
    Got = [got(A) || _ <- [1, 2, 3]],
    [Reason] = [R || {'EXIT', P, R} <- Got, P =:= B],
    raised(Reason),
    ?assertEqual(lists:sort([{'DOWN', ByPid, process, B, Reason}, {'DOWN', ByName, process, {mailbox_two, N}, Reason},
                             {'EXIT', B, Reason}]), lists:sort(Got)),
    C = thread(N),
    ok = do(C, link, [A]),
    ?assert(is_reference(Self)),
    A ! <<"end">>,
    ?assertEqual({'EXIT', A, normal}, got(C)),
    nothing_before(C, marker),
    C ! <<"end">>.

dropped(N) ->
    Pid = thread(N),
    Victim = victim(),
    Own = thread(N),
    [begin
         Ref = do(Pid, monitor, [Target]),
         ok = do(Pid, demonitor, [Ref]),
         ok = do(Pid, demonitor, [Ref]),
         ok = do(Pid, link, [Target]),
         ok = do(Pid, unlink, [Target]),
         ok = do(Pid, unlink, [Target])
     end || Target <- [Victim, Own]],
    ?assertEqual(none, watched(Victim)),
    Victim ! bang,
    Own ! <<"raise">>,
    down(erlang:monitor(process, Victim)),
    down(erlang:monitor(process, Own)),
    nothing_before(Pid, marker),
    ok = do(Pid, demonitor, [make_ref()]), % not one of its own
    Linked = spawn(fun() -> process_flag(trap_exit, true), receive Stop -> exit(Stop) end end),
    ok = do(Pid, link, [Linked]),
    ok = do(Pid, unlink, [Linked]),
    Pid ! <<"raise">>,
    down(erlang:monitor(process, Pid)),
    ?assertEqual([], [M || M <- element(2, process_info(Linked, messages))]),
    exit(Linked, kill).

%% What a process of this VM has of other nodes.
watched(Pid) ->
    live:eventually(fun() ->
        Info = process_info(Pid, [links, monitored_by]),
        Info =:= [{links, []}, {monitored_by, []}] orelse Info
    end),
    none.

links(N) ->
    process_flag(trap_exit, true),
    Pid = thread(N),
    Victim = victim(),
    [ok = do(Pid, link, [Victim]) || _ <- [1, 2]],
    Victim ! normal,
    ?assertEqual({'EXIT', Victim, normal}, got(Pid)),
    ok = do(Pid, link, [Victim]),
    ?assertEqual({'EXIT', Victim, noproc}, got(Pid)),
    link(Pid), % both ends link
    ok = do(Pid, link, [self()]),
    unlink(Pid), % is for both
    exit(Pid, {by, exit2}),
    ?assertEqual({'EXIT', self(), {by, exit2}}, got(Pid)),
    ok = do(Pid, link, [self()]),
    Pid ! <<"raise">>,
    {{python_error, 'ValueError', _}, _} = live:expect(10000, fun({'EXIT', P, R}) when P =:= Pid -> {ok, R} end),
    ?assertEqual([], live:flush()).

exits(N) ->
    Pid = thread(N),
    [begin
         exit(Pid, Reason),
         ?assertEqual({'EXIT', self(), Reason}, got(Pid))
     end || Reason <- [normal, shutdown, kill, {a, tuple}]],
    Pid ! <<"end">>.

killed_receiving(N) ->
    Key = <<"killed_receiving">>,
    [begin
         {Pid, Ref} = spawn_monitor(N, letters, tell_and_wait, [self(), Key]),
         Pid = receive {me, P} -> P end,
         exit(Pid, shutdown), % which it gets as a message
         exit(Pid, kill),
         ?assertEqual({Pid, killed}, down(Ref))
     end || _ <- [1, 2]],
    idle(N),
    ?assertEqual([<<"Cancelled">>, <<"Cancelled">>], [X || X <- rpc:call(N, box, get, [Key]), is_binary(X)]).

served(N) ->
    Victim = victim(),
    {ok, Ref} = py:call(letters, monitor, [Victim]),
    ?assert(is_reference(Ref)),
    {ok, ok} = py:call(letters, link, [Victim]),
    none = watched_links(Victim),
    Other = victim(),
    Call = erpc:send_request(N, letters, tell_and_receive, [self(), 1]),
    Pid = receive {me, P} -> P end,
    link(Pid),
    Monitor = erlang:monitor(process, Pid),
    Pid ! go,
    ?assertEqual([go], erpc:receive_response(Call, live:ms(10000))),
    ?assertEqual({Pid, normal}, down(Monitor)),
    [V ! normal || V <- [Victim, Other]].

%% A call that had linked itself has ended normally, and the victim lives.
watched_links(Victim) ->
    live:eventually(fun() -> process_info(Victim, links) =:= {links, []} end),
    ?assert(is_process_alive(Victim)),
    watched(Victim).

cancelled(N) ->
    Key = <<"cancelled">>,
    On = #{queue => mailbox_cancelled},
    ?assertEqual({error, timeout}, py:call(letters, tell_and_wait, [self(), Key], #{}, 100)),
    Late = receive {me, P} -> P end,
    Ref = py:spawn_call(letters, tell_and_wait, [self(), Key], #{}, On),
    Pid = receive {me, P2} -> P2 end,
    Pid ! {a, message},
    live:eventually(fun() -> rpc:call(N, box, wait_count, [Key, 2]) =/= [] end),
    ok = py:cancel(Ref),
    ?assertEqual({error, cancelled}, py:await(Ref)),
    ?assertEqual(lists:sort([<<"Cancelled">>, <<"Cancelled">>, {<<"got">>, {a, message}}]), lists:sort(rpc:call(N, box, wait_count, [Key, 3]))),
    [P3 ! late || P3 <- [Late, Pid]],
    {ok, Next} = py:call(letters, 'receive', [0], #{}, On),
    ?assertMatch({<<"TimeoutError">>, _}, Next),
    Self = self(),
    Caller = spawn(fun() -> py:call(letters, tell_and_wait, [Self, Key], #{}, On#{timeout => infinity}) end),
    receive {me, _} -> ok end,
    [Stand] = [P4 || {_, P4, _, _} <- supervisor:which_children(py_node_sup)],
    live:eventually(fun() -> maps:get(watched, py_node:info(Stand)) =/= [] end),
    exit(Caller, kill),
    ?assertEqual(4, length(rpc:call(N, box, wait_count, [Key, 4, 20]))),
    idle(N),
    ok = py:stop_queue(mailbox_cancelled).

objects(N) ->
    none = py(N, serve, [<<"mailbox_object">>]),
    O = {mailbox_object, N},
    Pid = gen_server:call(O, self),
    ?assertEqual({N, Pid}, {node(Pid), gen_server:call(O, self)}),
    ?assertEqual(Pid, rpc:call(N, erlang, whereis, [<<"mailbox_object">>])),
    ?assertMatch({<<"RuntimeError">>, _}, gen_server:call(O, 'receive')),
    ?assertMatch({<<"ValueError">>, _}, gen_server:call(O, register)),
    Victim = victim(),
    Ref = gen_server:call(O, {monitor, Victim}),
    {<<"ok">>, none} = gen_server:call(O, {link, Victim}),
    Pid ! {plain, message},
    Victim ! bang,
    Thread = thread(N),
    Of = gen_server:call(O, {monitor, Thread}),
    Thread ! <<"raise">>,
    Got = lists:sort(rpc:call(N, box, wait_count, [server, 4])),
    [{plain, message}] = [M || M = {plain, _} <- Got],
    [{'EXIT', Victim, bang}] = [M || M = {'EXIT', _, _} <- Got],
    [{'DOWN', Of, process, Thread, Reason}] = [M || M = {'DOWN', R, _, _, _} <- Got, R =:= Of],
    raised(Reason),
    [{'DOWN', Ref, process, Victim, bang}] = [M || M = {'DOWN', R, _, _, _} <- Got, R =:= Ref],
    Monitor = erlang:monitor(process, Pid),
    Last = victim(),
    _ = gen_server:call(O, {monitor, Last}),
    none = rpc:call(N, erlang, unregister, [mailbox_object]),
    ?assertEqual({Pid, normal}, down(Monitor)),
    none = watched(Last),
    exit(Last, kill).

%%% ------------------------------------------------------------------ full

dropped_so_far(N) ->
    maps:get(mailbox_dropped, rpc:call(N, pynode, stats, [])).

full(_) ->
    Node = #{node := N} = live:pynode(#{args => ["--mailbox-size", "5"]}),
    Gate = #{port := Port} = live:gate(),
    Victim = victim(),
    Thread = py(N, full_thread, [Port, self(), Victim]),
    Door = live:entered(Gate),
    [Thread ! I || I <- lists:seq(1, 20)],
    Victim ! bang, % the thread monitors it and is linked to it
    pong = net_adm:ping(N),
    live:eventually(fun() -> dropped_so_far(N) =:= 15 orelse dropped_so_far(N) end),
    down(erlang:monitor(process, Victim)),
    exit(Thread, dropped_too), % not of a link of its own
    live:eventually(fun() -> dropped_so_far(N) =:= 16 orelse dropped_so_far(N) end),
    pong = net_adm:ping(N),
    live:open(Door),
    Got = receive {all, All} -> All after live:ms(10000) -> none end,
    ?assertEqual([1, 2, 3, 4, 5], lists:sublist(Got, 5)),
    [{'EXIT', Victim, bang}] = lists:nthtail(5, Got) -- [Down || Down = {'DOWN', _, process, V, bang} <- Got, V =:= Victim],
    ?assertEqual(7, length(Got)),
    ?assertEqual(1, length([L || L <- live:lines(Node), re:run(L, "mailbox is full", [{capture, none}]) =:= match])),
    live:wait_line(Node, "mailbox is full").

full_own(_) ->
    #{node := N} = live:pynode(#{args => ["--mailbox-size", "100"]}),
    ?assertEqual({<<"ok">>, {100, lists:seq(0, 99), true, <<"room again">>}}, py(N, flood_own, [150])),
    ?assertEqual(50, dropped_so_far(N)).

%%% ------------------------------------------------------------------ signals and limits

ctrl_c(_) ->
    Self = unicode:characters_to_list(io_lib:format("('live_mailbox_c', '~s')", [node()])),
    true = register(live_mailbox_c, self()),
    Code = "import erlang, signal\nto = " ++ Self ++ "\n"
           "def say(what): erlang.send(to, (erlang.Atom(what), erlang.self()))\n"
           "for i in range(2):\n    try:\n        say('ready')\n        erlang.receive()\n    except KeyboardInterrupt:\n        print('interrupted', flush=True)\n"
           "def handle(*_):\n    say('handler')\n    print('in the handler', erlang.receive(), flush=True)\n"
           "signal.signal(signal.SIGINT, handle)\nsay('ready')\nprint('outside', erlang.receive(), flush=True)\n"
           "def handle(*_):\n    print('once more', erlang.receive(5), flush=True)\n"
           "signal.signal(signal.SIGINT, handle)\nsay('ready')\nsignal.raise_signal(2)\nprint('last', erlang.receive(), flush=True)\n",
    Script = live:pynode(#{program => ["-c", Code]}),
    Ready = fun(What) -> live:expect(10000, fun({W, P}) when W =:= What -> {ok, P} end) end,
    Pid = Ready(ready),
    waits(Script),
    live:signal(Script, "INT"),
    Pid = Ready(ready),
    waits(Script),
    live:signal(Script, "INT"),
    Pid = Ready(ready),
    waits(Script),
    live:signal(Script, "INT"),
    Pid = Ready(handler),
    [Pid ! M || M <- [1, 2]],
    Pid = Ready(ready),
    [Pid ! M || M <- [3, 4]],
    ?assertEqual(0, live:wait_exit(Script)),
    ?assertEqual(<<"interrupted\ninterrupted\nin the handler 1\noutside 2\nonce more 3\nlast 4\n">>, live:stdout(Script)),
    unregister(live_mailbox_c).

%% Its main thread sleeps.
waits(#{os_pid := OsPid}) ->
    File = "/proc/" ++ integer_to_list(OsPid) ++ "/task/" ++ integer_to_list(OsPid) ++ "/wchan",
    live:eventually(fun() ->
        case file:read_file(File) of
            {ok, <<"futex", _/binary>>} -> true;
            {ok, Other} -> Other =:= <<"0">> orelse Other;
            {error, _} -> true
        end
    end).

limits(N) ->
    {Took, Late} = live:timed(fun() -> py(N, 'receive', [0.2]) end),
    ?assertMatch({<<"TimeoutError">>, <<"no message in time">>}, Late),
    ?assert(Took >= 200),
    [?assertMatch({T, {<<"TimeoutError">>, _}}, {T, py(N, 'receive', [T])}) || T <- [0, 0.001, false]],
    Call = erpc:send_request(N, letters, tell_and_receive, [self(), 1]),
    Pid = receive {me, P} -> P end,
    Pid ! here,
    ?assertEqual([here], erpc:receive_response(Call, live:ms(5000))).

bad_arguments(N) ->
    ?assertEqual([<<"TypeError">>, <<"ValueError">>, <<"ValueError">>, <<"TypeError">>, <<"ValueError">>, <<"TypeError">>,
                  <<"ValueError">>, <<"TypeError">>, <<"TypeError">>, <<"TypeError">>, <<"TypeError">>, <<"TypeError">>,
                  <<"ValueError">>, <<"ValueError">>, <<"ValueError">>, <<"ValueError">>, <<"TypeError">>, <<"TypeError">>,
                  <<"TypeError">>, <<"ValueError">>, <<"ValueError">>, <<"UnicodeEncodeError">>], py(N, bad_calls, [])).

no_litter(N) ->
    idle(N),
    live:eventually(fun() -> status(N, processes) =:= 0 orelse status(N, processes) end),
    ?assertEqual(0, status(N, registered)),
    ?assertEqual(#{processes => 0}, #{processes => status(N, processes)}).
