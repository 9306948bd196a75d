%% live_load - what the node tells its home of its load, to a home made by hand: this process.
-module(live_load).

-export([setup/0, tests/1]).

-include_lib("stdlib/include/assert.hrl").

-define(KEYS, [blocked, calls, errors, gil_wait, max_workers, min_workers, others, queued, rss, running, state, tasks, timed, timed_us, workers]).
-define(BEAT, 5000).

setup() ->
    live:pynode(#{args => ["--workers", "1", "--max-workers", "3"]}).

tests(Node) ->
    [{background, "an idle node says the same every five seconds, and sleeps in between", fun idle/0},
     {"a home is told at once, all there is to tell", fun() -> at_once(Node) end},
     {"what runs, waits, fails and has ended", fun() -> changes(Node) end},
     {"tasks of the event loop, and requests of a queue", fun() -> tasks_and_queues(Node) end},
     {"after a pause the first call is told at once", fun after_pause/0},
     {"memory that Python takes", fun memory/0},
     {"the GIL: nobody waits, behind a thread that computes, behind one that keeps it", fun gil/0},
     {"two homes, each on its own connection", fun() -> two_homes(Node) end},
     {"pynode:status/0 has the memory and the wait for the GIL", fun() -> status(Node) end},
     {"a node that drains says so at once", fun drains/0}].

%%% ------------------------------------------------------------------ helpers

attach(#{node := N}) ->
    pong = net_adm:ping(N),
    {pynode, N} ! {attach, self()},
    live:expect(10000, fun({py_attached, _}) -> {ok, attached} end).

detach(#{node := N}) ->
    {pynode, N} ! {detach, self()}.

%% The next report; other items are dropped.
report() ->
    Items = live:expect(15000, fun(Items) when is_list(Items) -> {ok, Items} end),
    case lists:keyfind(load, 1, Items) of
        {load, Load} -> Load;
        false -> report()
    end.

%% The first report that is so. Its keys may not be all that are matched.
report(Wanted) ->
    Load = report(),
    case maps:with(maps:keys(Wanted), Load) of
        Wanted -> Load;
        _ -> report(Wanted)
    end.

report_with(Key, Holds) ->
    Load = report(),
    case Holds(maps:get(Key, Load)) of
        true -> Load;
        false -> report_with(Key, Holds)
    end.

call(#{node := N}, M, F, Args, Opts) ->
    Ref = alias([reply]),
    {pynode, N} ! {call, Ref, M, F, Args, Opts},
    Ref.

answer(Ref) ->
    live:expect(15000, fun({py_response, R, Result}) when R =:= Ref -> {ok, Result} end).

%%% ------------------------------------------------------------------ cases

at_once(Node) ->
    attach(Node),
    Load = live:within(900, fun report/0),
    ?assertEqual(?KEYS, lists:sort(maps:keys(Load))),
    ?assertMatch(#{state := ready, running := 0, queued := 0, tasks := 0, max_workers := 3}, Load),
    #{workers := Workers, rss := Rss, gil_wait := Wait} = Load,
    ?assert(Workers >= 1 andalso Workers =< 3),
    ?assert(Rss > 1 bsl 20 andalso Rss < 1 bsl 36),
    ?assert(Wait >= 0),
    detach(Node).

changes(Node = #{node := N}) ->
    Gate = #{port := Port} = live:gate(),
    #{calls := Calls, errors := Errors} = erpc:call(N, pynode, stats, []),
    attach(Node),
    Refs = [call(Node, gate, wait, [Port], #{}) || _ <- lists:seq(1, 5)],
    Held = [live:entered(Gate) || _ <- [1, 2, 3]],
    ?assertMatch(#{workers := 3, state := ready}, report(#{running => 3, queued => 2})),
    [live:open(Door) || Door <- Held],
    [live:open(live:entered(Gate)) || _ <- [1, 2]],
    [?assertMatch({ok, _}, answer(Ref)) || Ref <- Refs],
    #{calls := Five} = report(#{running => 0, queued => 0}),
    ?assertEqual(Calls + 5, Five),
    ?assertMatch({error, {'ValueError', _}}, answer(call(Node, math, sqrt, [-1], #{}))),
    report(#{calls => Calls + 6, errors => Errors + 1}),
    detach(Node).

tasks_and_queues(Node) ->
    Gate = #{port := Port} = live:gate(),
    attach(Node),
    Task = call(Node, asyncio, sleep, [60], #{loop => true}),
    report(#{tasks => 1, running => 0}),
    Queued = [call(Node, gate, wait, [Port], #{queue => q}) || _ <- [1, 2, 3]],
    Door = live:entered(Gate),
    report(#{tasks => 1, running => 1, queued => 2}),
    live:open(Door),
    [live:open(live:entered(Gate)) || _ <- [1, 2]],
    [?assertMatch({ok, _}, answer(Ref)) || Ref <- Queued],
    #{node := N} = Node,
    {pynode, N} ! {cancel, Task},
    report(#{tasks => 0, running => 0, queued => 0}),
    detach(Node).

%% Between two beats an idle node has been woken for the second one, a ping and little else. Before the first one, on a
%% slow machine, it may still have been starting.
idle() ->
    Node = live:pynode(),
    attach(Node),
    _ = report(),
    idle(maps:remove(rss, report()), Node, 0).

idle(_, Node, 2) ->
    live:stop(Node);
idle(Before, Node = #{os_pid := OsPid}, Beats) ->
    Switches = switches(OsPid),
    {Took, Load} = live:timed(fun report/0),
    case maps:remove(rss, Load) of % which allocators change in their own time
        Before ->
            live:note("~.2f s, ~b switches", [Took / 1000, switches(OsPid) - Switches]),
            ?assert(Took > ?BEAT - 200),
            ?assert(switches(OsPid) - Switches < 20),
            idle(Before, Node, Beats + 1);
        After -> idle(After, Node, 0) % it has just started
    end.

%% How often its threads have gone to sleep.
switches(OsPid) ->
    lists:sum([begin
                   {ok, Text} = file:read_file(File),
                   {match, [N]} = re:run(Text, "\nvoluntary_ctxt_switches:\\s*([0-9]+)", [{capture, [1], list}]),
                   list_to_integer(N)
               end || File <- filelib:wildcard("/proc/" ++ integer_to_list(OsPid) ++ "/task/*/status")]).

after_pause() ->
    Node = live:pynode(),
    attach(Node),
    live:eventually(fun() -> element(1, live:timed(fun report/0)) > ?BEAT - 200 end), % a beat has just been
    receive after 1100 -> ok end,
    ?assertEqual({ok, 2.0}, answer(call(Node, math, sqrt, [4], #{}))),
    {Took, _} = live:timed(fun() -> report(#{calls => 1}) end),
    live:note("~.1f ms", [Took]),
    ?assert(Took < ?BEAT - 2500),
    live:stop(Node).

memory() ->
    Node = #{node := N} = live:pynode(),
    attach(Node),
    #{rss := Before} = report(),
    %% More than AddressSanitizer keeps of what was freed.
    erpc:call(N, builtins, exec, [<<"import erlang\nerlang.much = b'1' * (1 << 29)">>]),
    report_with(rss, fun(Rss) -> Rss >= Before + (1 bsl 29) - (1 bsl 22) end),
    erpc:call(N, builtins, exec, [<<"import erlang\ndel erlang.much">>]),
    report_with(rss, fun(Rss) -> Rss < Before + (1 bsl 28) end),
    live:stop(Node).

%% A thread that computes lets others have the GIL each half a millisecond; ctypes.PyDLL keeps it. Somebody wants it until
%% the wait has been told: how long that takes is not known.
gil() ->
    Node = #{node := N} = live:pynode(#{args => ["--workers", "2"]}),
    attach(Node),
    report(#{gil_wait => 0}),
    erpc:call(N, builtins, exec, [<<"import erlang\ndef hold(f):\n    erlang.on = True\n    while erlang.on: f()\n"
                                    "erlang.hold = hold">>]),
    [Computing, Kept] =
        [begin
             Holds = call(Node, builtins, exec, [Hold], #{}),
             Wants = spawn_link(fun() -> wants(N) end),
             #{gil_wait := Wait} = report_with(gil_wait, fun(W) -> W >= Least end),
             unlink(Wants),
             exit(Wants, kill),
             erpc:call(N, builtins, exec, [<<"import erlang\nerlang.on = False">>]),
             {ok, none} = answer(Holds),
             report(#{gil_wait => 0, running => 0}),
             Wait
         end || {Hold, Least} <- [{<<"import erlang\nerlang.hold(lambda: None)">>, 100},
                                  {<<"import ctypes, erlang\nerlang.hold(lambda: ctypes.PyDLL(None).usleep(900000))">>, 500000}]],
    live:note("~b us behind one that computes, ~b behind one that keeps it", [Computing, Kept]),
    live:stop(Node).

wants(N) ->
    2.0 = erpc:call(N, math, sqrt, [4]),
    wants(N).

two_homes(Node = #{node := N}) ->
    Test = self(),
    Homes = [spawn_link(Peer, fun() -> home(N, Test) end) || #{node := Peer} <- live:peers(2)],
    [live:expect(10000, fun({From, [{load, #{state := ready}}]}) when From =:= Home -> {ok, told} end)
     || Home <- Homes],
    {ok, 2.0} = answer(call(Node, math, sqrt, [4], #{})),
    #{calls := Calls} = erpc:call(N, pynode, stats, []),
    [live:expect(10000, fun({From, [{load, #{calls := C}}]}) when From =:= Home, C =:= Calls -> {ok, told} end)
     || Home <- Homes],
    [begin unlink(Home), exit(Home, kill) end || Home <- Homes].

home(N, Test) ->
    {pynode, N} ! {attach, self()},
    tell_on(Test).

tell_on(Test) ->
    receive Message -> Test ! {self(), Message} end,
    tell_on(Test).

status(#{node := N}) ->
    #{rss := Rss, gil_wait := Wait} = erpc:call(N, pynode, status, []),
    ?assert(Rss > 1 bsl 20 andalso Rss < 1 bsl 36),
    ?assert(is_integer(Wait) andalso Wait >= 0).

drains() ->
    Gate = #{port := Port} = live:gate(),
    Node = #{node := N, proc := Proc} = live:pynode(),
    attach(Node),
    Ref = call(Node, gate, wait, [Port], #{}),
    Door = live:entered(Gate),
    report(#{state => ready, running => 1}),
    ok = erpc:call(N, pynode, drain, []),
    live:within(900, fun() -> report(#{state => draining, running => 1}) end),
    live:open(Door),
    ?assertMatch({ok, _}, answer(Ref)),
    ?assertEqual(0, live:wait_exit(Proc)).
