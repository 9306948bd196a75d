%% live_edge - where the application could break: odd arguments, processes that are killed, nodes that do not read.
-module(live_edge).

-export([setup/0, tests/1]).
-export([orphan/0, vm/1]). % for other VMs

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

%% Other nodes for a while.
with(Specs, Fun) ->
    ok = application:stop(pynode),
    start(Specs),
    try Fun()
    after
        application:stop(pynode),
        start([#{}])
    end.

tests(Ctx) ->
    [{background, "a caller that is killed in the first moments of its call: that is cancelled", fun first_moments/0}
     | [{Name, fun() -> Fun(Ctx) end} || {Name, Fun} <- cases()]].

cases() ->
    [{"names that are none, or no UTF-8, are bad options, not calls that hang", fun names/1},
     {"code that is no text is a bad option, not a crash of the caller", fun code/1},
     {"limits that are none, or that no receive can take, are bad options and harm nobody", fun limits/1},
     {"calls that are none are a bad option of parallel, and nothing is begun", fun parallel/1},
     {"functions with names that Python cannot say are bad options", fun function_names/1},
     {"nodes that are none are bad options, not crashes", fun node_names/1},
     {"without the application each function says so", fun not_started/1},
     {"the application stops in the first moments of a call: that has its outcome", fun stopped_early/1},
     {"the application stops: what spawn_call has begun has its answer", fun stopped_spawned/1},
     {"the coordinator is killed: what spawn_call has begun has its answer, and no row is left", fun coordinator_spawned/1},
     {"the coordinator is killed: nodes of connect are connected, those of disconnect are not", fun coordinator_wishes/1},
     {"disconnect while a node is being attached: connect ends, and it stays away", fun disconnect_early/1},
     {"a py_port that is killed is replaced, and its node with it", fun port_killed/1},
     {"a node that came by itself comes again after the application was stopped and started", fun came_again/1},
     {"a connection that is cut again and again is made again as soon as the first time", fun pauses/1},
     {"a queue stays at one of several nodes", fun queue_of_two/1},
     {"casts do not slow down the queue behind them", fun after_casts/1},
     {"large calls that come together are not one message that the node refuses", fun large_together/1},
     {"a queue's order from one caller: call, cast and spawn_call, with limits, large and small", fun mixed_order/1},
     {"a node that does not read: limits hold, and what waited arrives in order", fun unread/1},
     {"a node that does not read is killed when it does not end what was cancelled", fun unread_killed/1},
     {"erlang.call after the connection was lost is an error, not a wait without end", fun lost_before/1},
     {"a node is given up while it is being attached: it does not wait for that for ever", fun given_up_early/1},
     {"erlang.call while connections are lost: no thread waits for ever", fun lost_meanwhile/1},
     {"erlang.call when the application there stops is an error", fun stopped_meanwhile/1},
     {"a call that is cancelled while it waits in erlang.call ends, and the function with it", fun cancelled_waiting/1},
     {"erlang.call gives up: the function that never returns is killed", fun given_up/1},
     {"600 Python threads call Erlang at once", fun many_threads/1},
     {"the connection is cut: what runs for its callers is interrupted", fun cut/1},
     {"a call is as fast from a process with 100000 messages in its mailbox", fun full_mailbox/1},
     {"two VMs attach one node and call; one is killed", fun two_vms/1},
     {"a VM that was killed comes again under its name", fun vm_again/1},
     {"a node that was killed comes again under its name", fun node_again/1},
     {"a flood of casts beyond the queue is reported, and calls go on", fun cast_flood/1},
     {"a storm of log records: what waits for logger is bounded, and calls go on", fun log_storm/1},
     {"nothing is left in any mailbox or table", fun no_litter/1}].

%%% ------------------------------------------------------------------ arguments

bad(Key) ->
    {error, {bad_option, Key}}.

names(_) ->
    Bad = [1, {a}, [16#d800], [$a | b], <<255>>, self()],
    live:within(5000, fun() ->
        [begin
             ?assertEqual({Name, bad(module)}, {Name, py:call(Name, f, [])}),
             ?assertEqual({Name, bad(function)}, {Name, py:call(math, Name, [])}),
             ?assertEqual({Name, bad(module)}, {Name, py:call(Name, f, [], #{}, #{queue => a})}),
             ?assertEqual({Name, bad(module)}, {Name, py:await(py:spawn_call(Name, f, []))})
         end || Name <- Bad],
        [?assertEqual({Name, bad(module)}, {Name, py:cast(Name, f, [])}) || Name <- Bad, not is_binary(Name)],
        ?assertEqual(bad(module), py:reload(hd(py:nodes()), 1))
    end),
    ?assertEqual({ok, 2.0}, py:call([<<"ma">>, "th"], "sqrt", [4])),
    ?assertEqual([], live:flush()).

code(_) ->
    [begin
         ?assertEqual({Code, bad(code)}, {Code, py:eval(Code)}),
         ?assertEqual({Code, bad(code)}, {Code, py:exec(Code)})
     end || Code <- [<<255>>, foo, [$1 | foo], [16#d800], 1]],
    ?assertEqual({ok, 12}, py:eval(["1" | <<"2">>])).

limits(_) ->
    [Node] = py:nodes(),
    {{_, Pid, _, _}} = py_table:nodes(default),
    [begin
         ?assertEqual({T, bad(timeout)}, {T, py:call(math, sqrt, [4], #{}, T)}),
         ?assertEqual({T, bad(timeout)}, {T, py:call(math, sqrt, [4], #{}, #{timeout => T})}),
         ?assertEqual({T, bad(timeout)}, {T, py:await(py:spawn_call(math, sqrt, [4], #{}, T))}),
         ?assertEqual({T, bad(timeout)}, {T, py:await(make_ref(), T)}),
         ?assertEqual({T, bad(timeout)}, {T, py:parallel([{math, sqrt, [4]}], T)}),
         ?assertEqual({T, bad(timeout)}, {T, py:parallel([{math, sqrt, [4]}], #{timeout => T})}),
         ?assertEqual({T, bad(timeout)}, {T, py:eval("1", #{}, T)}),
         ?assertEqual({T, bad(timeout)}, {T, py:stop_queue(q, T)}),
         ?assertEqual({T, bad(timeout)}, {T, py:connect('nobody@127.0.0.1', T)}),
         ?assertEqual({T, bad(timeout)}, {T, py:drain(Node, T)})
     end || T <- [soon, -1, 0.5, 1 bsl 32, 1 bsl 70]],
    [?assertEqual({T, {ok, none}}, {T, py:call(time, sleep, [0.06], #{}, T)}) || T <- [16#ffffffff, infinity]],
    [?assertEqual({T, {error, timeout}}, {T, py:call(time, sleep, [0.2], #{}, T)}) || T <- [0, 1, 40, 41]],
    ?assertMatch({{_, Pid, _, _}}, py_table:nodes(default)),
    ?assertEqual([], live:flush()).

parallel(_) ->
    [?assertEqual({Calls, bad(calls)}, {Calls, py:parallel(Calls)})
     || Calls <- [foo, [foo], [{math, sqrt, [4]}, foo], [{math, sqrt, [4]} | foo], [{a, b}]]],
    ?assertEqual([], live:flush()).

function_names(_) ->
    Fun = fun(_) -> 1 end,
    [begin
         ?assertEqual({Name, bad(name)}, {Name, py:register_function(Name, Fun)}),
         ?assertEqual({Name, bad(name)}, {Name, py:register_function(Name, lists, reverse)}),
         ?assertEqual({Name, bad(name)}, {Name, py:unregister_function(Name)})
     end || Name <- [1, {a}, [16#d800], [$a | b], <<255>>]].

node_names(_) ->
    ?assertEqual(bad(node), py:connect("nobody@127.0.0.1")),
    ?assertEqual({error, not_connected}, py:disconnect("nobody@127.0.0.1")),
    ?assertEqual(bad(node), py:info("py")),
    ?assertEqual({error, {node_down, py, not_started}}, py:info(py)), % the name that nodes share
    ?assertMatch({error, {node_down, _, not_started}}, py:drain("py")).

not_started(_) ->
    ok = application:stop(pynode),
    Down = {error, {node_down, default, not_started}},
    Fun = fun(_) -> 1 end,
    Node = 'nobody@127.0.0.1',
    [?assertEqual({I, Down}, {I, F()})
     || {I, F} <- lists:enumerate([fun() -> py:call(math, sqrt, [4]) end, fun() -> py:eval("1") end,
                                   fun() -> py:exec("1") end, fun() -> py:await(py:spawn_call(math, sqrt, [4])) end,
                                   fun() -> py:version() end, fun() -> py:memory_stats() end,
                                   fun() -> py:gc() end, fun() -> py:stop_queue(q) end])],
    ?assertEqual({ok, [Down]}, py:parallel([{math, sqrt, [4]}])),
    [?assertEqual({I, {error, not_started}}, {I, F()})
     || {I, F} <- lists:enumerate([fun() -> py:register_function(a, Fun) end, fun() -> py:unregister_function(a) end,
                                   fun() -> py:register_function(a, lists, reverse) end,
                                   fun() -> py:connect(Node) end, fun() -> py:disconnect(Node) end,
                                   fun() -> py:info() end, fun() -> py:info(Node) end, fun() -> py:drain(Node) end])],
    ?assertEqual(ok, py:cast(math, sqrt, [4])),
    ?assertEqual(ok, py:cancel(make_ref())),
    ?assertEqual({error, timeout}, py:await(make_ref(), 0)),
    ?assertEqual([], py:nodes()),
    ?assertEqual([], live:flush()),
    start([#{}]).

%%% ------------------------------------------------------------------ starts and stops

%% A node of no VM's, attached.
attached() ->
    Node = #{node := N} = live:pynode(),
    ok = py:connect(N),
    Node.

serves(N) ->
    live:eventually(fun() -> py:call(math, sqrt, [4], #{}, #{node => N}) =:= {ok, 2.0} end).

%% The process that stands for the node.
py_node(Key) ->
    {{_, Pid, _, _}} = py_table:nodes(Key),
    Pid.

stopped_early(_) ->
    with([], fun() ->
        #{node := N} = attached(),
        Gate = #{port := Port} = live:gate(),
        Calls = [spawn_monitor(fun() -> exit({result, py:call(gate, wait, [Port], #{}, 5000)}) end) || _ <- [1, 2, 3]],
        Doors = [live:entered(Gate) || _ <- Calls],
        ok = application:stop(pynode),
        [?assertMatch({result, {error, {node_down, N, _}}}, receive {'DOWN', M, process, _, R} -> R end) || {_, M} <- Calls],
        [gen_tcp:close(Door) || Door <- Doors]
    end).

stopped_spawned(_) ->
    with([], fun() ->
        #{node := N} = attached(),
        Gate = #{port := Port} = live:gate(),
        Ref = py:spawn_call(gate, wait, [Port]),
        Door = live:entered(Gate),
        ok = application:stop(pynode),
        ?assertMatch({error, {node_down, N, _}}, py:await(Ref, live:ms(5000))),
        live:open(Door)
    end),
    ?assertEqual([], live:flush()).

kill(Name) ->
    Pid = whereis(Name),
    exit(Pid, kill),
    live:eventually(fun() -> whereis(Name) =/= Pid andalso is_pid(whereis(Name)) end).

coordinator_spawned(_) ->
    [Node] = py:nodes(),
    Gate = #{port := Port} = live:gate(),
    Ref = py:spawn_call(gate, wait, [Port], #{}, infinity),
    Door = live:entered(Gate),
    kill(py_coordinator),
    ?assertMatch({error, {node_down, Node, _}}, py:await(Ref, live:ms(5000))),
    live:open(Door),
    serves(Node),
    Callers = [spawn_monitor(fun() ->
        exit({results, [py:await(py:spawn_call(math, sqrt, [4]), live:ms(10000)) || _ <- lists:seq(1, 500)]})
    end) || _ <- lists:seq(1, 10)],
    kill(py_coordinator),
    Results = lists:append([receive {'DOWN', M, process, _, {results, R}} -> R end || {_, M} <- Callers]),
    ?assertEqual([], [R || R <- Results, R =/= {ok, 2.0}, not is_down(R)]),
    live:eventually(fun() -> ets:tab2list(py_calls) =:= [] end),
    serves(Node).

is_down({error, {node_down, _, _}}) -> true;
is_down(_) -> false.

coordinator_wishes(_) ->
    #{node := N} = attached(),
    Came = #{node := C} = live:pynode(#{args => ["--connect", atom_to_list(node())]}),
    live:wait_line(Came, "home .* attached"),
    serves(C),
    ok = py:disconnect(C),
    kill(py_coordinator),
    serves(N),
    py_coordinator ! {py_hello, C}, % as it does itself, sooner or later
    ?assertNot(lists:member(C, py:nodes())),
    ?assertEqual(ok, py:connect(C)),
    [ok = py:disconnect(X) || X <- [N, C]].

disconnect_early(_) ->
    Node = #{node := N, os_pid := OsPid} = live:pynode(),
    pong = net_adm:ping(N),
    live:signal(Node, "STOP"),
    live:eventually(fun() -> is_stopped(OsPid) end),
    {_, Monitor} = spawn_monitor(fun() -> exit({result, py:connect(N)}) end),
    live:eventually(fun() -> [attaching] =:= [S || #{node := X, state := S} <- maps:get(nodes, py:info()), X =:= N] end),
    ?assertEqual(ok, py:disconnect(N)),
    ?assertEqual({result, {error, detached}}, live:expect(3000, fun({'DOWN', M, process, _, R}) when M =:= Monitor -> {ok, R} end)),
    live:signal(Node, "CONT"),
    pong = net_adm:ping(N),
    ?assertEqual([], [X || #{node := X} <- maps:get(nodes, py:info()), X =:= N]),
    ?assertEqual(ok, py:connect(N)),
    ok = py:disconnect(N).

%% Whether each of its threads has heard the signal.
is_stopped(OsPid) ->
    Stats = filelib:wildcard("/proc/" ++ integer_to_list(OsPid) ++ "/task/*/stat"),
    Stats =/= [] andalso lists:all(fun(Stat) ->
        {ok, Text} = file:read_file(Stat),
        re:run(Text, "\\) T ", [{capture, none}]) =:= match
    end, Stats).

port_killed(_) ->
    #{nodes := [#{node := Node, port := Port, info := #{os_pid := OsPid}}]} = py:info(),
    exit(Port, kill),
    live:eventually(fun() ->
        case py:info() of
            #{nodes := [#{node := Node, state := up, info := #{os_pid := New}}]} -> New =/= OsPid;
            Other -> Other
        end
    end),
    serves(Node).

came_again(_) ->
    with([], fun() ->
        #{node := N} = live:pynode(#{args => ["--connect", atom_to_list(node())]}),
        serves(N),
        ok = application:stop(pynode),
        {ok, _} = application:ensure_all_started(pynode),
        serves(N),
        exit(py_node({node, N}), kill),
        live:eventually(fun() -> py:nodes() =:= [] end),
        serves(N),
        kill(py_coordinator),
        serves(N)
    end).

pauses(_) ->
    #{node := N} = attached(),
    live:within(6000, fun() ->
        [begin
             Old = py_node({node, N}),
             erlang:disconnect_node(N),
             live:eventually(fun() -> not is_process_alive(Old) end),
             serves(N)
         end || _ <- lists:seq(1, 7)]
    end),
    ok = py:disconnect(N).

%%% ------------------------------------------------------------------ queues and batches

queue_of_two(_) ->
    with([#{count => 2}], fun() ->
        Pids = fun(Opts) -> lists:usort([py:call(os, getpid, [], #{}, Opts) || _ <- lists:seq(1, 40)]) end,
        ?assertMatch([_, _], Pids(#{})),
        Queues = [Pids(#{queue => {q, I}}) || I <- lists:seq(1, 12)],
        [?assertMatch([{ok, _}], Pid) || Pid <- Queues],
        ?assertMatch([_, _], lists:usort(Queues)),
        [?assertEqual(ok, py:stop_queue({q, I})) || I <- lists:seq(1, 12)]
    end).

%% In microseconds, of many.
median(Fun, Count) ->
    Times = [element(1, timer:tc(Fun)) || _ <- lists:seq(1, Count)],
    lists:nth(Count div 2, lists:sort(Times)).

after_casts(_) ->
    Q = #{queue => after_casts},
    Call = fun() -> {ok, 2.0} = py:call(math, sqrt, [4], #{}, Q) end,
    Before = median(Call, 200),
    each_by_itself([math, sqrt, [4], #{}, Q], 5),
    After = median(Call, 200),
    live:note("us a call: ~b, after casts ~b", [Before, After]),
    ?assert(After < live:ms(900)),
    ok = py:stop_queue(after_casts).

%% Casts that are gone from the node's process before the next one comes.
each_by_itself(Args, Count) ->
    Pid = py_node(default),
    [begin
         ok = apply(py, cast, Args),
         live:eventually(fun() ->
             #{} = py_node:info(Pid),
             process_info(Pid, current_function) =:= {current_function, {py_node, loop, 1}}
         end)
     end || _ <- lists:seq(1, Count)].

large_together(_) ->
    with([#{max_frame => 8000000}], fun() ->
        Node = hd(py:nodes()),
        Pid = py_node(default),
        Deep = [lists:seq(1, 200000)],
        Refs = [py:spawn_call(builtins, len, [Arg]) || _ <- lists:seq(1, 20), Arg <- [binary:copy(<<"x">>, 1000000), Deep]],
        ?assertEqual([{ok, 1}, {ok, 1000000}], lists:usort([py:await(Ref) || Ref <- Refs])),
        Big = binary:copy(<<"y">>, 500000),
        ?assertEqual([{ok, 500000}], lists:usort(live:pmap(fun(_) -> py:call(builtins, len, [Big]) end, lists:seq(1, 60)))),
        ?assertEqual([{ok, 500000}], lists:usort(live:pmap(fun(_) ->
            py:call(builtins, 'str.__len__', [<<"z">>], #{}, #{queue => large}),
            py:eval("len(big)", #{big => Big}, #{queue => large})
        end, lists:seq(1, 40)))),
        ?assertEqual({Node, Pid}, {hd(py:nodes()), py_node(default)})
    end).

mixed_order(_) ->
    Q = #{queue => mixed},
    ok = py:exec("mixed = {}\ndef mix(who, i, pad=None):\n    mixed.setdefault(who, []).append(i)\n"
                 "def unmixed():\n    return [who for who, s in mixed.items() if s != sorted(s)]\n"),
    Pad = binary:copy(<<"x">>, 300000),
    live:pmap(fun(Who) ->
        Refs = lists:append([begin
            Args = [Who, I | case I rem 7 of 0 -> [Pad]; _ -> [] end],
            case rand:uniform(4) of
                1 -> ok = py:cast('__main__', mix, Args, #{}, Q), [];
                2 -> {ok, none} = py:call('__main__', mix, Args, #{}, Q), [];
                3 -> [py:spawn_call('__main__', mix, Args, #{}, Q)];
                4 -> py:call('__main__', mix, Args, #{}, Q#{timeout => rand:uniform(2) - 1}), []
            end
        end || I <- lists:seq(1, 100)]),
        ?assertEqual([{ok, none}], lists:usort([{ok, none} | [py:await(Ref) || Ref <- Refs]])),
        ?assertEqual({message_queue_len, 0}, process_info(self(), message_queue_len))
    end, lists:seq(1, 20)),
    ?assertEqual({ok, []}, py:call('__main__', unmixed, [], #{}, Q)),
    ok = py:stop_queue(mixed).

%%% ------------------------------------------------------------------ a node that does not read

%% The process of the configured node gets the signal.
os_signal(Name) ->
    #{nodes := [#{info := #{os_pid := OsPid}}]} = py:info(),
    live:os_signal(OsPid, Name).

unread(_) ->
    Q = #{queue => unread},
    ok = py:exec("unread = []\ndef note_unread(i, pad=None):\n    unread.append(i)\n"),
    Pad = binary:copy(<<"x">>, 200000),
    Pid = py_node(default),
    os_signal("STOP"),
    [ok = py:cast('__main__', note_unread, [I, Pad], #{}, Q) || I <- lists:seq(1, 60)],
    Ref = py:spawn_call('__main__', note_unread, [61], #{}, Q),
    Casters = [spawn_monitor(fun() -> [py:cast(builtins, len, [Pad]) || _ <- lists:seq(1, 30)] end) || _ <- [1, 2]],
    live:within(3000, fun() ->
        ?assertEqual([{error, timeout}],
                     lists:usort(live:pmap(fun(_) -> py:call(math, sqrt, [4], #{}, 100) end, lists:seq(1, 20)))),
        ?assertEqual({error, timeout}, py:call(math, sqrt, [4], #{}, Q#{timeout => 100})),
        Late = py:spawn_call(math, sqrt, [4], #{}, 100),
        ?assertEqual({error, timeout}, receive {py_response, Late, R} -> R after live:ms(2000) -> none end),
        ?assertMatch(#{calls := [Ref]}, py_node:info(Pid))
    end),
    os_signal("CONT"),
    ?assertEqual({ok, none}, py:await(Ref)),
    ?assertEqual({ok, lists:seq(1, 61)}, py:eval("unread")),
    [receive {'DOWN', M, process, _, Reason} -> ?assertEqual(normal, Reason) end || {_, M} <- Casters],
    ?assertEqual(Pid, py_node(default)),
    ok = py:stop_queue(unread).

unread_killed(_) ->
    with([#{kill_after => 200, restart => #{intensity => 3, period => 50}}], fun() ->
        #{nodes := [#{node := Node, info := #{os_pid := OsPid}}]} = py:info(),
        Pad = binary:copy(<<"x">>, 1000000),
        os_signal("STOP"),
        each_by_itself([builtins, len, [Pad], #{}, #{queue => q}], 40),
        ?assertEqual({error, timeout}, py:call(math, sqrt, [4], #{}, 50)),
        live:eventually(fun() ->
            case py:info() of
                #{nodes := [#{node := Node, state := up, info := #{os_pid := New}}]} -> New =/= OsPid;
                Other -> Other
            end
        end),
        serves(Node)
    end).

%%% ------------------------------------------------------------------ Python calls Erlang

lost_before(_) ->
    #{node := N} = attached(),
    On = #{node => N},
    ok = py:exec("import box, erlang, gate\ndef late(port):\n    gate.wait(port)\n    try:\n        erlang.call('nobody')\n"
                 "    except BaseException as e:\n        box.put('late', type(e).__name__)\n        raise\n", On),
    Gate = #{port := Port} = live:gate(),
    ok = py:cast('__main__', late, [Port], #{}, On), % which goes on without the connection
    Door = live:entered(Gate),
    erlang:disconnect_node(N),
    serves(N),
    live:open(Door),
    ?assertEqual({ok, <<"ErlangError">>}, py:call(box, wait, [<<"late">>], #{}, On)),
    idle(N),
    ok = py:disconnect(N).

%% Nothing runs there but what asks.
idle(N) ->
    live:eventually(fun() ->
        {ok, #{status := #{running := Running, queued := Queued}}} = py:info(N),
        {Running, Queued} =:= {0, 0} orelse {Running, Queued}
    end).

%% The node took a process for its home for ever that had ended before it knew.
given_up_early(_) ->
    Node = #{node := N} = live:pynode(),
    pong = net_adm:ping(N),
    {ok, Pid} = py_node:start_link(N, #{}),
    unlink(Pid),
    ok = py_node:detach(Pid),
    live:wait_line(Node, "home .*: attached"),
    live:wait_line(Node, "home .*: detached"),
    ok = py:connect(N),
    serves(N),
    ok = py:disconnect(N).

lost_meanwhile(_) ->
    #{node := N} = attached(),
    On = #{node => N},
    ok = py:register_function(tag, fun([T]) -> T end),
    ok = py:exec("import erlang, threading, time\nstop, lost, threads = False, 0, []\n"
                 "def work(t):\n    global lost\n    while not stop:\n"
                 "        try:\n            erlang.call('tag', t)\n"
                 "        except erlang.ErlangError:\n            lost += 1\n            time.sleep(0.001)\n"
                 "def begin(n):\n    threads.extend(threading.Thread(target=work, args=(t,), daemon=True) for t in range(n))\n"
                 "    [t.start() for t in threads]\n"
                 "def finish():\n    global stop\n    stop = True\n    [t.join(5) for t in threads]\n"
                 "    return [sum(t.is_alive() for t in threads), lost > 0]\n", On),
    {ok, _} = py:call('__main__', 'begin', [20], #{}, On),
    [begin
         Old = py_node({node, N}),
         [erlang:disconnect_node(H) || H <- [N | nodes(hidden)]], % those of the threads, too
         live:eventually(fun() -> not is_process_alive(Old) end),
         serves(N)
     end || _ <- lists:seq(1, 8)],
    ?assertEqual({ok, [0, true]}, py:call('__main__', finish, [], #{}, On)),
    ok = py:unregister_function(tag),
    ok = py:disconnect(N).

%% A function that never returns: it says who it is, and ends only by force.
register_never() ->
    Self = self(),
    ok = py:register_function(never, fun([]) -> Self ! {never, self()}, receive after infinity -> ok end end),
    ok = py:exec("import box, erlang\ndef ask(key, timeout=None):\n    try:\n        erlang.call('never', timeout=timeout)\n"
                 "    except BaseException as e:\n        box.put(key, type(e).__name__)\n        raise\n").

never() ->
    live:expect(5000, fun({never, Pid}) -> {ok, {Pid, erlang:monitor(process, Pid)}} end).

killed({Pid, Monitor}) ->
    Why = live:expect(5000, fun({'DOWN', M, process, P, R}) when M =:= Monitor, P =:= Pid -> {ok, R} end),
    ?assert(Why =:= killed orelse Why =:= noproc orelse Why =:= noconnection).

stopped_meanwhile(_) ->
    with([], fun() ->
        #{node := N} = attached(),
        register_never(),
        Ref = py:spawn_call('__main__', ask, [<<"stopped">>]),
        Never = never(),
        ok = application:stop(pynode),
        killed(Never),
        ?assertMatch({error, {node_down, N, _}}, py:await(Ref)),
        {ok, _} = application:ensure_all_started(pynode),
        ok = py:connect(N),
        ?assertEqual({ok, <<"ErlangError">>}, py:call(box, wait, [<<"stopped">>])),
        idle(N)
    end).

cancelled_waiting(_) ->
    [Node] = py:nodes(),
    register_never(),
    ?assertEqual({error, timeout}, py:call('__main__', ask, [<<"limit">>], #{}, 100)),
    killed(never()),
    ?assertEqual({ok, <<"Cancelled">>}, py:call(box, wait, [<<"limit">>])),
    Ref = py:spawn_call('__main__', ask, [<<"cancel">>], #{}, #{queue => cancelled_waiting}),
    Never = never(),
    ok = py:cancel(Ref),
    ?assertEqual({error, cancelled}, py:await(Ref)),
    killed(Never),
    ?assertEqual({ok, <<"Cancelled">>}, py:call(box, wait, [<<"cancel">>])),
    idle(Node),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, #{queue => cancelled_waiting})),
    ok = py:stop_queue(cancelled_waiting).

given_up(_) ->
    register_never(),
    Results = live:pmap(fun(_) -> py:call('__main__', ask, [<<"given up">>], #{timeout => live:ms(1000) / 1000}) end, lists:seq(1, 20)), % in which all have begun
    [?assertMatch({error, {'TimeoutError', _}}, R) || R <- Results],
    [killed(never()) || _ <- Results],
    live:eventually(fun() -> busy_handlers() =:= [] end),
    ok = py:unregister_function(never).

many_threads(_) ->
    ok = py:register_function(tag, fun([T]) -> T end),
    ok = py:exec("import erlang, threading\ndef many(n, calls):\n    wrong = []\n    def work(t):\n"
                 "        for i in range(calls):\n            if erlang.call('tag', [t, i]) != [t, i]:\n                wrong.append(t)\n"
                 "    ts = [threading.Thread(target=work, args=(t,)) for t in range(n)]\n"
                 "    [t.start() for t in ts]\n    [t.join() for t in ts]\n    return wrong\n"),
    ?assertEqual({ok, []}, py:call('__main__', many, [600, 10])),
    live:eventually(fun() -> busy_handlers() =:= [] end),
    ok = py:unregister_function(tag).

%% Those of threads stay, and wait for the next call.
busy_handlers() ->
    [Pid || {_, Pid, _, _} <- supervisor:which_children(py_handler_sup),
            process_info(Pid, current_function) =/= {current_function, {py_handler, loop, 2}}].

%%% ------------------------------------------------------------------ callers

cut(_) ->
    [Node] = py:nodes(),
    ok = py:exec("def forever():\n    while True:\n        pass\n"),
    Gate = #{port := Port} = live:gate(),
    Ref = py:spawn_call('__main__', forever, [], #{}, infinity),
    Cast = py:cast(gate, wait, [Port]),
    Door = live:entered(Gate),
    live:eventually(fun() -> {ok, #{status := #{running := R}}} = py:info(Node), R =:= 2 orelse R end),
    erlang:disconnect_node(Node),
    ?assertMatch({error, {node_down, Node, _}}, py:await(Ref)),
    serves(Node),
    live:eventually(fun() -> {ok, #{status := #{running := R}}} = py:info(Node), R =:= 1 orelse R end), % the cast goes on
    ?assertEqual(ok, Cast),
    live:open(Door),
    idle(Node).

%% In a VM of its own, as others stop the application here: a caller is killed before anybody knows of it.
first_moments() ->
    #{node := Vm} = live:peer(),
    ?assertEqual(ok, rpc:call(Vm, ?MODULE, orphan, [], live:ms(50000))).

orphan() ->
    start([#{name => orphan}]), % the name must be none of the other VM's
    [Node] = py:nodes(),
    ok = py:exec("import gate\ndef forever(port):\n    gate.wait(port)\n    while True:\n        pass\n"),
    Gate = #{port := Port} = live:gate(),
    {Pid, Monitor} = spawn_monitor(fun() -> py:call('__main__', forever, [Port], #{}, infinity) end),
    Door = live:entered(Gate),
    exit(Pid, kill),
    receive {'DOWN', Monitor, process, Pid, killed} -> ok end,
    live:open(Door),
    live:eventually(30000, fun() -> {ok, #{status := #{running := R}}} = py:info(Node), R =:= 0 orelse R end),
    application:stop(pynode).

full_mailbox(_) ->
    Call = fun() -> {ok, 2.0} = py:call(math, sqrt, [4]) end,
    Empty = median(Call, 300),
    [self() ! {other, I} || I <- lists:seq(1, 100000)],
    Full = median(Call, 300),
    live:note("us a call: ~b, with 100000 messages ~b", [Empty, Full]),
    ?assert(Full < 3 * Empty + live:ms(200)),
    ?assertEqual(100000, length(live:flush())).

%%% ------------------------------------------------------------------ who comes and goes

%% In another VM: the application without nodes, attached to this one.
vm(Node) ->
    application:set_env(pynode, nodes, []),
    {ok, _} = application:ensure_all_started(pynode),
    ok = py:connect(Node),
    ok = py:register_function(who, erlang, node).

two_vms(_) ->
    #{node := N} = live:pynode(),
    Vms = [#{proc := First, node := A}, #{node := B}] = live:peers(2),
    [ok = rpc:call(Vm, ?MODULE, vm, [N]) || #{node := Vm} <- Vms],
    ok = rpc:call(A, py, exec, ["import erlang\ndef who():\n    return erlang.call('who')\n"]),
    [?assertEqual([{ok, A}, {ok, B}], [rpc:call(Vm, py, call, ['__main__', who, [], #{}, How]) || Vm <- [A, B]])
     || How <- [#{}, #{queue => who}, #{thread => new}, #{executor => blocking}]],
    Calls = [{Vm, rpc:async_call(Vm, py, parallel, [[{'__main__', who, []} || _ <- lists:seq(1, 500)]])} || Vm <- [A, B, B]],
    [?assertEqual({ok, [{ok, Vm} || _ <- lists:seq(1, 500)]}, rpc:yield(Call)) || {Vm, Call} <- Calls],
    Gate = #{port := Port} = live:gate(),
    Waits = rpc:async_call(B, py, call, [gate, wait, [Port, done]]),
    Door = live:entered(Gate),
    ok = rpc:call(A, py, cast, [gate, wait, [Port]]),
    Other = live:entered(Gate),
    live:kill(First),
    ?assertEqual({ok, B}, rpc:call(B, py, call, ['__main__', who, []])),
    ?assertEqual({ok, true}, rpc:call(B, py, eval, ["__import__('_erlang')._log_wanted()"])),
    [live:open(D) || D <- [Door, Other]],
    ?assertEqual({ok, done}, rpc:yield(Waits)).

%% It has not detached, and the node may not have seen its end yet.
vm_again(_) ->
    #{node := N} = live:pynode(),
    #{proc := First, node := Vm} = live:peer(),
    ok = rpc:call(Vm, ?MODULE, vm, [N]),
    live:kill(First),
    Name = atom_to_list(Vm),
    Again = live:os(os:getenv("ERL"), ["-noinput", "-start_epmd", "false", "-name", Name, "-pa", live:tmp("."),
                                       "-kernel", "logger_level", "emergency", "-eval", "io:format(\"up~n\")"], #{merge => true}),
    live:wait_line(Again, "^up"),
    pong = net_adm:ping(Vm),
    ok = rpc:call(Vm, ?MODULE, vm, [N]),
    ?assertEqual({ok, 2.0}, rpc:call(Vm, py, call, [math, sqrt, [4]])).

node_again(_) ->
    Name = live:unique("again") ++ "@127.0.0.1",
    First = #{node := N} = live:pynode(#{name => Name}),
    ok = py:connect(N),
    Gate = #{port := Port} = live:gate(),
    Refs = [py:spawn_call(gate, wait, [Port], #{}, #{node => N}) || _ <- [1, 2]],
    [live:entered(Gate) || _ <- Refs],
    live:kill(First),
    live:pynode(#{name => Name}),
    [?assertMatch({error, {node_down, N, _}}, py:await(Ref)) || Ref <- Refs],
    serves(N),
    ok = py:disconnect(N).

%%% ------------------------------------------------------------------ floods

cast_flood(_) ->
    Node = #{node := N} = live:pynode(#{args => ["--workers", "1", "--max-workers", "1", "--queue-size", "10"]}),
    ok = py:connect(N),
    Gate = #{port := Port} = live:gate(),
    Ref = py:spawn_call(gate, wait, [Port, done], #{}, #{node => N}),
    Door = live:entered(Gate),
    [ok = py:cast(math, sqrt, [4], #{}, #{node => N}) || _ <- lists:seq(1, 5000)],
    live:wait_line(Node, "cast math:sqrt: overloaded"),
    {ok, #{status := #{queued := 10}}} = py:info(N),
    ?assert(length([L || L <- live:lines(Node), re:run(L, "overloaded", [{capture, none}]) =:= match]) < 20),
    live:open(Door),
    ?assertEqual({ok, done}, py:await(Ref)),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, #{node => N})),
    ok = py:disconnect(N).

log_storm(_) ->
    #{level := Level} = logger:get_primary_config(),
    logger:set_primary_config(level, all),
    ok = py:exec("import logging, threading, time\nlogging.getLogger().setLevel(0)\n"
                 "def storm(n, seconds):\n    end = time.monotonic() + seconds\n    def work():\n"
                 "        while time.monotonic() < end:\n            logging.getLogger('storm').info('a line')\n"
                 "    ts = [threading.Thread(target=work) for _ in range(n)]\n    [t.start() for t in ts]\n    [t.join() for t in ts]\n"),
    Ref = py:spawn_call('__main__', storm, [4, 1]),
    Pid = py_node(default),
    Lengths = [begin
                   ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4])),
                   [element(2, process_info(P, message_queue_len)) || P <- [Pid, whereis(py_log)]]
               end || _ <- lists:seq(1, 20)],
    ?assertEqual({ok, none}, py:await(Ref)),
    logger:set_primary_config(level, Level),
    [begin
         ?assert(AtLog =< 1100),
         ?assert(AtNode =< 10000) % it has no bound but its pace
     end || [AtNode, AtLog] <- Lengths],
    live:eventually(fun() -> process_info(whereis(py_log), message_queue_len) =:= {message_queue_len, 0} end).

%%% ------------------------------------------------------------------ the end

no_litter(_) ->
    [Node] = py:nodes(),
    idle(Node),
    Pid = py_node(default),
    ?assertMatch(#{calls := [], watched := []}, py_node:info(Pid)),
    live:eventually(fun() -> #{started := S, cancelled := C} = py_node:info(Pid), {S, C} =:= {[], []} orelse {S, C} end),
    ?assertEqual([], ets:tab2list(py_calls)),
    ?assertEqual([], busy_handlers()),
    ?assertEqual(1, length(supervisor:which_children(py_node_sup))),
    ?assertEqual([], [N || {N, connect} <- py_table:wishes()]),
    live:eventually(10000, fun() -> length(py_table:pids()) =:= 1 orelse py_table:pids() end),
    Names = [py_coordinator, py_table, py_log, pynode_sup, py_node_sup, py_port_sup, py_handler_sup],
    live:eventually(fun() -> [N || N <- Names, process_info(whereis(N), message_queue_len) =/= {message_queue_len, 0}] =:= [] end).
