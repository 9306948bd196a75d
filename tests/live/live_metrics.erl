%% live_metrics.erl - --metrics: the text, its numbers, under load, while Python hangs, bad clients.
-module(live_metrics).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1]).

-define(CONNS, 8).

setup() ->
    none.

tests(_) ->
    [{"port 0 picks one and the log says which; the text is by the letter", fun text/0},
     {"an address of IPv6", fun ipv6/0},
     {"what is no address: 64; one that is taken: 69; the option is named", fun refused/0},
     {"the numbers are those of pynode:stats and pynode:status", fun numbers/0},
     {"each outcome is counted, and those that were answered have a time", fun outcomes/0},
     {"a task and a cast count as any other request", fun tasks/0},
     {"under load no counter falls", fun load/0},
     {"while C code keeps the interpreter lock", fun blocked/0},
     {"while the node drains", fun draining/0},
     {"other paths, other methods, nonsense, and what is too long", fun other_requests/0},
     {"a client that is slow is dropped after five seconds", fun slow/0},
     {"a hundred slow clients do no harm", fun many/0},
     {"a child that Python forks does not keep the port", fun child/0},
     {"without the option there is nothing of it", fun without/0},
     {"docs/operation.md has each of them, and no other", fun documented/0},
     {"as an option of a node of the application", fun application/0}].

started(Args) ->
    Node = live:pynode(#{args => ["--metrics", "127.0.0.1:0" | Args]}),
    Node#{at => prometheus:address(Node)}.

started() ->
    started([]).

stats(N) ->
    erpc:call(N, pynode, stats, []).

%% One that nobody has: it may be another's by the time it is used, but hardly.
free_port() ->
    {ok, Listen} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listen),
    gen_tcp:close(Listen),
    Port.

value(Name, Samples) ->
    prometheus:value(Name, Samples).

outcome(What, Samples) ->
    prometheus:value("pynode_requests_total", [{"outcome", What}], Samples).

%%% -------------------------------------------------------------------------- the text

text() ->
    #{node := N, name := Name, at := At, os_pid := OsPid} = started(),
    Samples = prometheus:scrape(At),
    [Labels] = [L || {"pynode_info", L} <- maps:keys(Samples)],
    #{python := Python, version := Version} = erpc:call(N, pynode, status, []),
    ?assertEqual([{"version", binary_to_list(Version)}, {"python", binary_to_list(Python)}, {"node", Name}], Labels),
    ?assertEqual([{"draining", 0}, {"ready", 1}, {"starting", 0}],
                 lists:sort([{S, V} || {{"pynode_state", [{"state", S}]}, V} <- maps:to_list(Samples)])),
    ?assertEqual(18 + 1, length([1 || {"pynode_request_seconds_bucket", _} <- maps:keys(Samples)])),
    {ok, Fds} = file:list_dir("/proc/" ++ integer_to_list(OsPid) ++ "/fd"),
    ?assert(abs(value("process_open_fds", Samples) - length(Fds)) =< 3),
    Rss = value("process_resident_memory_bytes", Samples),
    ?assert(Rss > 4 bsl 20),
    ?assert(abs(value("process_start_time_seconds", Samples) - os:system_time(second)) < 120),
    ?assert(value("process_cpu_seconds_total", Samples) > 0),
    ?assert(value("pynode_uptime_seconds", Samples) < 120).

ipv6() ->
    case gen_tcp:listen(0, [inet6, {ip, {0, 0, 0, 0, 0, 0, 0, 1}}]) of
        {ok, Listen} ->
            gen_tcp:close(Listen),
            At = prometheus:address(live:pynode(#{args => ["--metrics", "[::1]:0"]})),
            ?assertMatch({{0, 0, 0, 0, 0, 0, 0, 1}, _}, At),
            ?assertEqual(0, value("pynode_calls_total", prometheus:scrape(At)));
        {error, Reason} ->
            live:note("no IPv6 here: ~p", [Reason])
    end.

refused() ->
    {ok, Listen} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listen),
    Taken = "127.0.0.1:" ++ integer_to_list(Port),
    [begin
         Node = live:pynode(#{args => ["--metrics", Address], ready => false}),
         ?assertEqual({Address, Status}, {Address, live:wait_exit(Node)}),
         ?assertMatch([Line] when Line =/= <<>>, [L || L <- live:lines(Node), binary:match(L, <<"--metrics: ">>) =/= nomatch])
     end || {Address, Status} <- [{"9464", 64}, {"localhost:9464", 64}, {"127.0.0.1:70000", 64}, {"[::1", 64}, {Taken, 69}]],
    gen_tcp:close(Listen).

%%% ----------------------------------------------------------------------- the numbers

numbers() ->
    #{node := N, at := At} = started(["--workers", "2", "--max-workers", "5"]),
    [2.0 = erpc:call(N, math, sqrt, [4]) || _ <- lists:seq(1, 50)],
    [live:error_of(fun() -> erpc:call(N, math, sqrt, [x]) end) || _ <- lists:seq(1, 7)],
    [pong = net_adm:ping(N) || _ <- lists:seq(1, 3)],
    {nobody, N} ! hello,
    Workers = workers(N),
    Before = stats(N),
    Samples = prometheus:scrape(At),
    After = stats(N),
    ?assertEqual(lists:sort(["pynode_" ++ atom_to_list(K) ++ "_total" || K <- maps:keys(Before)]),
                 [Name || Name = "pynode_" ++ _ <- prometheus:names(Samples), lists:suffix("_total", Name),
                          Name =/= "pynode_requests_total"]),
    maps:foreach(fun(Key, Low) ->
                         Value = value("pynode_" ++ atom_to_list(Key) ++ "_total", Samples),
                         ?assert({Key, Low =< Value} =:= {Key, true} andalso Value =< map_get(Key, After))
                 end, Before),
    ?assertEqual(57, value("pynode_calls_total", Samples)),
    ?assertEqual(7, value("pynode_errors_total", Samples)),
    ?assertEqual(1, value("pynode_dropped_total", Samples)),
    Status = erpc:call(N, pynode, status, []),
    [?assertEqual({Key, map_get(Key, Status)}, {Key, value("pynode_" ++ atom_to_list(Key), Samples)})
     || Key <- [max_workers, running, blocked, queued, tasks, registered, processes, thread_connections,
                thread_connections_unused]],
    ?assertEqual(1, value("pynode_connections", Samples)),
    Value = value("pynode_workers", Samples),
    ?assert(Value >= Workers andalso Value =< map_get(workers, Status), {Value, Workers, Status}). % on a slow machine it grows

workers(N) -> maps:get(workers, erpc:call(N, pynode, status, [])).

outcomes() ->
    Gate = #{port := Port} = live:gate(),
    #{node := N, at := At} = started(["--workers", "1", "--max-workers", "1", "--queue-size", "1", "--path", live:py("")]),
    [live:error_of(fun() -> erpc:call(N, math, sqrt, [x]) end) || _ <- lists:seq(1, 3)],
    Running = erpc:send_request(N, gate, wait, [Port]),
    Door = live:entered(Gate),
    Given = live:error_of(fun() -> erpc:call(N, math, sqrt, [4], 100) end),
    ?assertEqual({erpc, timeout}, Given),
    live:eventually(fun() -> outcome("cancelled", prometheus:scrape(At)) =:= 1 end),
    Waiting = erpc:send_request(N, math, sqrt, [9]),
    live:eventually(fun() -> value("pynode_queued", prometheus:scrape(At)) =:= 1 end),
    ?assertMatch({erpc, _}, live:error_of(fun() -> erpc:call(N, math, sqrt, [4]) end)),
    Held = prometheus:scrape(At),
    ?assertEqual({0, 3, 1, 1}, {outcome("ok", Held), outcome("error", Held), outcome("cancelled", Held), outcome("refused", Held)}),
    ?assertEqual(1, value("pynode_running", Held)),
    receive after live:ms(150) -> live:open(Door) end,
    none = erpc:receive_response(Running),
    3.0 = erpc:receive_response(Waiting),
    live:eventually(fun() -> outcome("ok", prometheus:scrape(At)) =:= 2 end),
    Samples = prometheus:scrape(At),
    ?assertEqual(5, value("pynode_request_seconds_count", Samples)),
    ?assert(value("pynode_request_seconds_sum", Samples) > 0.3), % both have waited
    Quick = prometheus:value("pynode_request_seconds_bucket", [{"le", "0.1"}], Samples),
    ?assertEqual(3, Quick).

tasks() ->
    #{node := N, at := At} = started(),
    application:set_env(pynode, nodes, []),
    {ok, _} = application:ensure_all_started(pynode),
    try
        ok = py:connect(N),
        {ok, none} = py_event_loop:run(asyncio, sleep, [0.01]),
        ok = py:cast(math, sqrt, [4]),
        {error, {'ValueError', _}} = py_event_loop:run(math, sqrt, [-1]),
        live:eventually(fun() ->
                                Samples = prometheus:scrape(At),
                                {outcome("ok", Samples), outcome("error", Samples),
                                 value("pynode_request_seconds_count", Samples)} =:= {2, 1, 3} orelse Samples
                        end)
    after
        application:stop(pynode)
    end.

%%% --------------------------------------------------------------------------- trouble

load() ->
    #{node := N, at := At} = started(),
    Callers = [spawn_monitor(fun() -> [2.0 = erpc:call(N, math, sqrt, [4]) || _ <- lists:seq(1, 500)] end)
               || _ <- lists:seq(1, 20)],
    scrape_while(At, Callers, #{}),
    Last = prometheus:scrape(At),
    ?assertEqual({10000, 10000, 0}, {value("pynode_calls_total", Last), outcome("ok", Last), outcome("error", Last)}),
    ?assertEqual(10000, value("pynode_request_seconds_count", Last)),
    ?assert(value("pynode_request_seconds_sum", Last) > 0).

%% Each scrape against the one before, until the callers are through.
scrape_while(_, [], _) ->
    ok;
scrape_while(At, Callers = [{_, Ref} | Rest], Before) ->
    Now = prometheus:scrape(At),
    Fallen = [{Key, V, map_get(Key, Now)} || {Key = {Name, _}, V} <- maps:to_list(Before), rises(Name), map_get(Key, Now) < V],
    ?assertEqual([], Fallen),
    receive
        {'DOWN', Ref, process, _, Reason} ->
            ?assertEqual(normal, Reason),
            scrape_while(At, Rest, Now)
    after 0 ->
            scrape_while(At, Callers, Now)
    end.

rises(Name) ->
    lists:any(fun(End) -> lists:suffix(End, Name) end, ["_total", "_bucket", "_sum", "_count"]).

blocked() ->
    Gate = #{port := Port} = live:gate(),
    #{node := N, at := At} = started(),
    Request = erpc:send_request(N, held, until, [Port]),
    Door = live:entered(Gate),
    Other = unanswered(N),
    live:eventually(fun() ->
        Waits = value("pynode_gil_wait_seconds", live:within(2000, fun() -> prometheus:scrape(At) end)),
        Waits > 0.2 orelse Waits
    end),
    Samples = live:within(2000, fun() -> prometheus:scrape(At) end),
    ?assert(value("pynode_running", Samples) >= 1),
    ?assert(value("pynode_calls_total", Samples) > outcome("ok", Samples)),
    [live:within(2000, fun() -> prometheus:scrape(At) end) || _ <- lists:seq(1, 20)],
    no_response = erpc:wait_response(Other, 0),
    live:open(Door),
    1 = erpc:receive_response(Request),
    2.0 = erpc:receive_response(Other).

%% The first call that has to wait: from then on the lock is taken.
unanswered(N) ->
    Request = erpc:send_request(N, math, sqrt, [4]),
    case erpc:wait_response(Request, 300) of
        {response, 2.0} -> unanswered(N);
        no_response -> Request
    end.

draining() ->
    Gate = #{port := Port} = live:gate(),
    Node = #{node := N, at := At} = started(),
    Request = erpc:send_request(N, gate, wait, [Port]),
    Door = live:entered(Gate),
    live:signal(Node, "TERM"),
    live:eventually(fun() ->
                            Samples = prometheus:scrape(At),
                            [prometheus:value("pynode_state", [{"state", S}], Samples) || S <- ["draining", "ready"]]
                                =:= [1, 0]
                    end),
    ?assertEqual(1, value("pynode_running", prometheus:scrape(At))),
    live:open(Door),
    none = erpc:receive_response(Request),
    ?assertEqual(0, live:wait_exit(Node)).

other_requests() ->
    #{node := N, at := At} = started(),
    ?assertMatch({404, _, _}, prometheus:get(At, "/")),
    ?assertMatch({404, _, _}, prometheus:get(At, "/metrics/x")),
    ?assertMatch({200, _, _}, prometheus:get(At, "/metrics?x=1")),
    {405, Headers, _} = prometheus:ask(At, "POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n"),
    ?assertEqual("GET", proplists:get_value("allow", Headers)),
    [?assertMatch({400, _, _}, prometheus:ask(At, Bad))
     || Bad <- ["nonsense\r\n\r\n", "GET /metrics\r\n\r\n", "GET /metrics HTTP/2.0\r\n\r\n", "GET /metrics HTTP/1.1\n\n",
                "GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", [22, 3, 1, 0, 1, $\n],
                lists:duplicate(4096, $a), ["GET /metrics HTTP/1.1\r\nA: ", lists:duplicate(100000, $a), "\r\n\r\n"]]],
    Last = prometheus:scrape(At),
    ?assertEqual(0, value("pynode_frames_in_total", Last)),
    2.0 = erpc:call(N, math, sqrt, [4]).

connect({Address, Port}) ->
    {ok, Socket} = gen_tcp:connect(Address, Port, [binary, {active, false}]),
    Socket.

slow() ->
    #{at := At} = started(),
    Socket = connect(At),
    ok = gen_tcp:send(Socket, "GET /metr"),
    {Took, Result} = live:timed(fun() -> gen_tcp:recv(Socket, 0, live:ms(20000)) end),
    ?assertMatch({error, _}, Result),
    ?assertNotEqual({error, timeout}, Result),
    ?assert(Took > 4500),
    prometheus:scrape(At).

%% They have the places for a moment only; calls do not notice them at all.
many() ->
    #{node := N, at := At} = started(),
    Sockets = [begin
                   Socket = connect(At),
                   ok = gen_tcp:send(Socket, "GET /metrics HTTP/1.1\r\n"),
                   Socket
               end || _ <- lists:seq(1, 100)],
    [begin
         live:within(2000, fun() -> prometheus:scrape(At) end),
         live:within(2000, fun() -> 2.0 = erpc:call(N, math, sqrt, [4]) end)
     end || _ <- lists:seq(1, 10)],
    Open = [Socket || Socket <- Sockets, gen_tcp:recv(Socket, 0, 0) =:= {error, timeout}],
    ?assert(length(Open) < ?CONNS),
    [gen_tcp:close(Socket) || Socket <- Sockets],
    ?assertEqual(10, value("pynode_calls_total", prometheus:scrape(At))).

child() ->
    Address = "127.0.0.1:" ++ integer_to_list(free_port()),
    Node = #{node := N} = live:pynode(#{args => ["--metrics", Address]}),
    Child = erpc:call(N, builtins, eval, [<<"(lambda os, time: os.fork() or (os.closerange(0, 3), time.sleep(600), os._exit(0)))(__import__('os'), __import__('time'))">>]),
    ?assert(is_integer(Child)),
    live:kill(Node),
    Next = live:pynode(#{args => ["--metrics", Address]}),
    prometheus:scrape(prometheus:address(Next)),
    live:os_signal(Child, "KILL").

without() ->
    Node = #{node := N} = live:pynode(),
    2.0 = erpc:call(N, math, sqrt, [4]),
    ?assertEqual([], [L || L <- live:lines(Node), binary:match(L, <<"metrics">>) =/= nomatch]).

documented() ->
    {ok, Text} = file:read_file(filename:join([os:getenv("abs_top_srcdir"), "docs", "operation.md"])),
    {match, Rows} = re:run(Text, "^\\| (`p[a-z]+_[^|]*) \\| (?:gauge|counter|histogram) \\|", [global, multiline, {capture, [1], list}]),
    Told = [string:trim(Name, both, "`") || [Names] <- Rows, Name <- string:split(Names, ", ", all)],
    Shown = [re:replace(Name, "^(pynode_request_seconds)_(bucket|sum|count)$", "\\1", [{return, list}])
             || Name <- prometheus:names(prometheus:scrape(maps:get(at, started())))],
    ?assertEqual(lists:usort(Shown), lists:sort(Told)).

application() ->
    Port = free_port(),
    application:set_env(pynode, nodes, [#{metrics => "127.0.0.1:" ++ integer_to_list(Port)}]),
    {ok, _} = application:ensure_all_started(pynode),
    try
        {ok, 2.0} = py:call(math, sqrt, [4]),
        live:eventually(fun() -> outcome("ok", prometheus:scrape({{127, 0, 0, 1}, Port})) =:= 1 end)
    after
        application:stop(pynode)
    end.
