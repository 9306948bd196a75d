%% live_exec.erl - the pool, its queue, --allow and the node's own pseudo-module pynode.
-module(live_exec).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1]).

setup() ->
    live:pynode().

tests(Node = #{node := N}) ->
    [{background, "the pool shrinks after a burst", fun() -> shrinks(Node) end},
     {"fifty calls that sleep 0.1 s take about 0.1 s together", fun fifty_sleeps/0},
     {"the pool is bounded by --max-workers", fun bounded/0},
     {"calls that wait do not hold up one that computes", fun() -> waiting(N) end},
     {"what comes while the reading thread is in Python is seen at once", fun unattended/0},
     {"a call sent together with one that computes does not stall", fun behind_a_long_one/0},
     {"calls that compute do not hold up pings, casts or the queue", fun() -> computing(N) end},
     {"a call that comes when as many as there are workers, or more, have computed for long, does not wait for their end", fun computing_long/0},
     {"a full queue answers overloaded at once, and pings go on", fun queue_full/0},
     {"a burst past the queue: each caller gets one outcome", fun burst/0},
     {"the first calls of eval that come at once all have names to look at", fun first_evals/0},
     {"--allow M allows all functions of M and nothing else", fun allow_module/0},
     {"--allow M:F allows this one", fun allow_function/0},
     {"--allow: dots lead nowhere else", fun allow_dots/0},
     {"--allow: spawn, rex and casts are under the same policy", fun allow_other_ways/0},
     {"pynode: ready, version, status, stats, threads", fun() -> pseudo(N) end},
     {"pynode: stats count the calls", fun() -> stats(N) end},
     {"pynode: answered while every worker is busy", fun pseudo_busy/0},
     {"pynode: reload takes the module as it is now", fun reload/0},
     {"pynode: reload of a module that registers an object: the new one serves", fun reload_server/0},
     {"pynode: drain refuses new work and lets the running finish", fun drain/0},
     {"pynode: no such function", fun() -> pseudo_missing(N) end},
     {"what Python code prints comes out line by line", fun printing/0}].

%% Each node has one first time; its threads change while it is prepared.
first_evals() ->
    [begin
         Node = #{node := N} = live:pynode(#{args => ["--workers", "8", "--import", "hasty"]}),
         Calls = [erpc:send_request(N, builtins, eval, [<<"'__builtins__' in globals()">>]) || _ <- lists:seq(1, 16)],
         ?assertEqual([true], lists:usort([erpc:receive_response(Call, live:ms(10000)) || Call <- Calls])),
         live:stop(Node)
     end || _ <- lists:seq(1, 12)],
    ok.

%% The OS's own count of the node's threads.
threads(#{os_pid := OsPid}) ->
    {ok, Tasks} = file:list_dir("/proc/" ++ integer_to_list(OsPid) ++ "/task"),
    length(Tasks).

shrinks(_) ->
    Node = #{node := N} = live:pynode(#{args => ["--workers", "2"]}),
    Gate = #{port := Port} = live:gate(),
    erpc:call(N, math, sqrt, [4]),
    Before = threads(Node),
    Calls = [erpc:send_request(N, gate, wait, [Port]) || _ <- lists:seq(1, 40)],
    Doors = [live:entered(Gate) || _ <- Calls],
    Most = threads(Node),
    ?assert(Most >= 40),
    [live:open(Door) || Door <- Doors],
    [?assertEqual(none, erpc:receive_response(Call, live:ms(10000))) || Call <- Calls],
    live:eventually(30000, fun() -> threads(Node) =< Before + 4 end),
    live:note("threads: ~b before, ~b at most, ~b after", [Before, Most, threads(Node)]).

fifty_sleeps() ->
    #{node := N} = live:pynode(#{args => ["--workers", "2"]}),
    Sleep = fun() ->
                    Calls = [erpc:send_request(N, time, sleep, [0.1]) || _ <- lists:seq(1, 50)],
                    [?assertEqual(none, erpc:receive_response(Call, live:ms(10000))) || Call <- Calls]
            end,
    {First, _} = live:timed(Sleep),
    {Second, _} = live:timed(Sleep),
    live:note("50 sleeps of 0.1 s: ~.1f ms, again ~.1f ms", [First, Second]),
    ?assert(First >= 100),
    ?assert(First < live:ms(500)),
    ?assert(Second < live:ms(500)).

bounded() ->
    Node = #{node := N} = live:pynode(#{args => ["--workers", "2", "--max-workers", "8"]}),
    {Took, _} = live:timed(fun() ->
                                   Calls = [erpc:send_request(N, time, sleep, [0.05]) || _ <- lists:seq(1, 32)],
                                   [erpc:receive_response(Call, live:ms(10000)) || Call <- Calls]
                           end),
    ?assert(Took >= 4 * 50 - 1),
    ?assert(Took < live:ms(2000)),
    ?assert(threads(Node) =< 8 + 6).

waiting(N) ->
    Gate = #{port := Port} = live:gate(),
    Calls = [erpc:send_request(N, gate, wait, [Port]) || _ <- lists:seq(1, 20)],
    Doors = [live:entered(Gate) || _ <- Calls],
    ?assertEqual(2.0, live:within(1000, fun() -> erpc:call(N, math, sqrt, [4]) end)),
    [live:open(Door) || Door <- Doors],
    [?assertEqual(none, erpc:receive_response(Call, live:ms(10000))) || Call <- Calls].

%% Whoever reads the sockets runs what it has read; while it waits there, another has to read.
%% Each step is a way by which the lead can have changed hands before.
unattended() ->
    #{node := N} = live:pynode(),
    Gate = #{port := Port} = live:gate(),
    Begin = fun() -> live:within(1000, fun() -> Pid = spawn(N, gate, wait, [Port]), {Pid, live:entered(Gate)} end) end,
    Soon = fun(Want, Fun) -> ?assertEqual(Want, live:within(1000, Fun)) end,
    [begin
         {Pid, Door} = Begin(),
         Soon(pong, fun() -> net_adm:ping(N) end),
         {_, Other} = Begin(),
         Soon(2.0, fun() -> erpc:call(N, math, sqrt, [4]) end),
         live:open(Other),
         Ref = monitor(process, Pid),
         I rem 2 =:= 0 andalso exit(Pid, enough),
         Soon(pong, fun() -> net_adm:ping(N) end),
         live:open(Door),
         Soon(true, fun() -> receive {'DOWN', Ref, process, Pid, _} -> true end end),
         {_, Next} = Begin(),
         Quick = erpc:send_request(N, math, sqrt, [9]),
         Soon(3.0, fun() -> erpc:receive_response(Quick) end),
         live:open(Next)
     end || I <- lists:seq(1, 20)].

computing(N) ->
    Gate = #{port := Port} = live:gate(),
    Calls = [erpc:send_request(N, spin, until, [Port]) || _ <- [1, 2, 3]],
    Doors = [live:entered(Gate) || _ <- Calls],
    ?assertEqual(pong, live:within(1000, fun() -> net_adm:ping(N) end)),
    ?assertEqual(2.0, live:within(5000, fun() -> erpc:call(N, math, sqrt, [4]) end)),
    ok = erpc:cast(N, box, put, [<<"computing">>, 1]),
    ?assertEqual(1, live:within(5000, fun() -> erpc:call(N, box, wait, [<<"computing">>]) end)),
    [live:open(Door) || Door <- Doors],
    [?assert(erpc:receive_response(Call, live:ms(10000)) > 0) || Call <- Calls].

%% The looks at them are rare by then, and each of them has had turns with the GIL between two looks.
computing_long() ->
    #{node := N} = live:pynode(#{args => ["--workers", "2"]}),
    [begin
         Gate = #{port := Port} = live:gate(),
         Calls = [erpc:send_request(N, spin, until, [Port]) || _ <- lists:seq(1, Computing)],
         Doors = [live:entered(Gate) || _ <- Calls],
         timer:sleep(300),
         [?assertEqual(2.0, live:within(1000, fun() -> erpc:call(N, math, sqrt, [4], live:ms(10000)) end)) || _ <- [1, 2, 3]],
         [live:open(Door) || Door <- Doors],
         [?assert(erpc:receive_response(Call, live:ms(10000)) > 0) || Call <- Calls]
     end || Computing <- [2, 3, 5]].

%% A node whose one worker waits at a gate and whose queue of four is full.
full_node() ->
    #{node := N} = live:pynode(#{args => ["--workers", "1", "--max-workers", "1", "--queue-size", "4"]}),
    Gate = #{port := Port} = live:gate(),
    Running = erpc:send_request(N, gate, wait, [Port, ran]),
    Door = live:entered(Gate),
    Queued = [erpc:send_request(N, math, sqrt, [I * I]) || I <- lists:seq(1, 4)],
    {N, Running, Queued, Door}.

queue_full() ->
    {N, Running, Queued, Door} = full_node(),
    Refused = [erpc:send_request(N, math, sqrt, [I * I]) || I <- lists:seq(5, 10)],
    [?assertEqual({erpc, overloaded},
                  live:within(1000, fun() -> live:error_of(fun() -> erpc:receive_response(R, 5000) end) end))
     || R <- lists:nthtail(1, Refused)],
    ?assertEqual({badrpc, {'EXIT', overloaded}}, live:within(1000, fun() -> rpc:call(N, math, sqrt, [4]) end)),
    ?assertEqual({badrpc, overloaded}, live:within(1000, fun() -> rpc:block_call(N, math, sqrt, [4]) end)),
    {rex, N} ! {self(), {call, math, sqrt, [4], user}},
    ?assertEqual({badrpc, overloaded}, live:expect(1000, fun({rex, V}) -> {ok, V} end)),
    ?assertEqual(overloaded, live:error_of(fun() -> spawn_monitor(N, math, sqrt, [4]) end)),
    ?assertEqual(ok, erpc:cast(N, math, sqrt, [4])),
    ?assertEqual(pong, live:within(1000, fun() -> net_adm:ping(N) end)),
    live:open(Door),
    ?assertEqual(ran, erpc:receive_response(Running, live:ms(5000))),
    ?assertEqual([1.0, 2.0, 3.0, 4.0], [erpc:receive_response(Q, live:ms(5000)) || Q <- Queued]),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])).

burst() ->
    #{node := N} = live:pynode(#{args => ["--workers", "1", "--max-workers", "2", "--queue-size", "10"]}),
    Calls = [erpc:send_request(N, time, sleep, [0.001]) || _ <- lists:seq(1, 2000)],
    Outcomes = [try erpc:receive_response(Call, live:ms(20000)) catch error:{erpc, overloaded} -> overloaded end
                || Call <- Calls],
    Served = length([x || none <- Outcomes]),
    ?assertEqual(2000, Served + length([x || overloaded <- Outcomes])),
    ?assert(Served >= 10),
    ?assertEqual([], live:flush()),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])).

%%% ----------------------------------------------------------------------- policy

%% The reason with which a call is refused.
reason(N, M, F, A) ->
    case live:error_of(fun() -> erpc:call(N, M, F, A) end) of
        {exception, Reason, Stack} when is_list(Stack) -> Reason;
        Other -> Other
    end.

allow_module() ->
    #{node := N} = live:pynode(#{args => ["--allow", "math", "--allow", "os.path"]}),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])),
    ?assertEqual(24, rpc:call(N, math, factorial, [4])),
    ?assertEqual(<<"a/b">>, rpc:call(N, 'os.path', join, [<<"a">>, <<"b">>])),
    ?assertEqual({not_allowed, {os, getpid}}, reason(N, os, getpid, [])),
    ?assertEqual({not_allowed, {builtins, eval}}, reason(N, builtins, eval, [<<"1">>])),
    ?assertEqual({not_allowed, {builtins, '__import__'}}, reason(N, builtins, '__import__', [<<"os">>])),
    ?assertEqual({not_allowed, {no_such_module, f}}, reason(N, no_such_module, f, [])),
    ?assertEqual({not_allowed, {erlang, whereis}}, reason(N, erlang, whereis, [x])),
    ?assertEqual({not_allowed, {mat, sqrt}}, reason(N, mat, sqrt, [4])),
    ?assertEqual({not_allowed, {'math.x', sqrt}}, reason(N, 'math.x', sqrt, [4])),
    ?assertMatch({badrpc, {'EXIT', {{not_allowed, {os, getpid}}, _}}}, rpc:call(N, os, getpid, [])),
    ?assertMatch({python_error, 'AttributeError', _}, reason(N, math, nothing, [])),
    ?assertEqual(pong, net_adm:ping(N)).

allow_function() ->
    #{node := N} = live:pynode(#{args => ["--allow", "math:sqrt", "--allow", "builtins:str.upper"]}),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])),
    ?assertEqual(<<"UP">>, erpc:call(N, builtins, 'str.upper', [<<"up">>])),
    ?assertEqual({not_allowed, {math, factorial}}, reason(N, math, factorial, [4])),
    ?assertEqual({not_allowed, {math, 'sqrt.__call__'}}, reason(N, math, 'sqrt.__call__', [4])),
    ?assertEqual({not_allowed, {builtins, 'str.lower'}}, reason(N, builtins, 'str.lower', [<<"X">>])),
    ?assertEqual({not_allowed, {builtins, str}}, reason(N, builtins, str, [1])).

%% json imports codecs and re: what a module has imported is not the module's own.
allow_dots() ->
    #{node := N} = live:pynode(#{args => ["--allow", "json"]}),
    ?assertEqual(<<"[1]">>, erpc:call(N, json, dumps, [[1]])),
    [?assertEqual({not_allowed, {json, F}}, reason(N, json, F, A))
     || {F, A} <- [{'codecs.open', [<<"/etc/passwd">>]}, {'decoder.re.compile', [<<"x">>]},
                   {'codecs.sys.exit', [1]}, {'dumps.__globals__.get', [<<"codecs">>]},
                   {'JSONEncoder.__init__.__globals__.clear', []}, {'__builtins__.get', [<<"eval">>]},
                   {'__loader__.get_data', [<<"/etc/passwd">>]}, {'codecs.builtins.eval', [<<"1">>]}]],
    ?assertEqual({not_allowed, {'json.decoder', 'JSONDecoder'}}, reason(N, 'json.decoder', 'JSONDecoder', [])).

allow_other_ways() ->
    #{node := N} = live:pynode(#{args => ["--allow", "math", "--allow", "box"]}),
    {_, Ref} = spawn_monitor(N, os, getpid, []),
    ?assertMatch({{not_allowed, {os, getpid}}, _},
                 live:expect(5000, fun({'DOWN', R, process, _, Why}) when R =:= Ref -> {ok, Why} end)),
    {_, Allowed} = spawn_monitor(N, math, sqrt, [4]),
    ?assertEqual(normal, live:expect(5000, fun({'DOWN', R, process, _, Why}) when R =:= Allowed -> {ok, Why} end)),
    {rex, N} ! {self(), {call, os, getpid, [], user}},
    ?assertMatch({badrpc, {'EXIT', {{not_allowed, {os, getpid}}, _}}}, live:expect(5000, fun({rex, V}) -> {ok, V} end)),
    ?assertMatch({badrpc, {'EXIT', {{not_allowed, {os, getpid}}, _}}}, rpc:block_call(N, os, getpid, [])),
    File = live:tmp("must_not_be"),
    erpc:cast(N, os, mkdir, [list_to_binary(File)]),
    rpc:cast(N, os, mkdir, [list_to_binary(File)]),
    spawn(N, os, mkdir, [list_to_binary(File)]),
    gen_server:cast({rex, N}, {cast, os, mkdir, [list_to_binary(File)], group_leader()}),
    erpc:cast(N, box, put, [<<"after">>, 1]),
    ?assertEqual(1, erpc:call(N, box, wait, [<<"after">>])),
    ?assertEqual({error, enoent}, file:read_file_info(File)).

%%% ---------------------------------------------------------------- pseudo-module

pseudo(N) ->
    ?assertEqual(true, rpc:call(N, pynode, ready, [])),
    #{pynode := Version, python := Python} = rpc:call(N, pynode, version, []),
    {0, Printed} = live:sh("\"$PYNODE\" --version"),
    ?assert(is_binary(Version)),
    ?assertNotEqual(nomatch, binary:match(Printed, Version)),
    ?assertEqual(Python, erpc:call(N, platform, python_version, [])),
    Status = rpc:call(N, pynode, status, []),
    ?assertMatch(#{state := ready, node := N, version := Version, python := Python}, Status),
    [?assert(is_integer(maps:get(Key, Status)))
     || Key <- [uptime, workers, max_workers, running, blocked, queued, registered]],
    Threads = rpc:call(N, pynode, threads, []),
    ?assertNotEqual([], Threads),
    [?assertMatch(#{worker := _, state := _, call := _, ms := _}, T) || T <- Threads],
    ?assertEqual(true, erpc:call(N, pynode, ready, [])),
    ?assertEqual(true, rpc:block_call(N, pynode, ready, [])).

stats(N) ->
    Before = rpc:call(N, pynode, stats, []),
    [erpc:call(N, math, sqrt, [4]) || _ <- lists:seq(1, 100)],
    After = rpc:call(N, pynode, stats, []),
    Grown = fun(Key) -> maps:get(Key, After) - maps:get(Key, Before) end,
    ?assertEqual(100, Grown(calls)),
    ?assertEqual(0, Grown(errors)),
    ?assert(Grown(frames_in) >= 100),
    ?assert(Grown(bytes_in) > 1000),
    ?assert(Grown(bytes_out) > 1000),
    pong = net_adm:ping(N),
    {badrpc, _} = rpc:call(N, faulty, refuse, []),
    Later = rpc:call(N, pynode, stats, []),
    ?assertEqual(maps:get(errors, After) + 1, maps:get(errors, Later)),
    ?assert(maps:get(pings, Later) > maps:get(pings, After)).

pseudo_busy() ->
    {N, Running, Queued, Door} = full_node(),
    [?assertNotMatch({badrpc, _}, live:within(1000, fun() -> rpc:call(N, pynode, F, []) end))
     || F <- [ready, status, stats, version, threads]],
    ?assertMatch(#{queued := 4}, rpc:call(N, pynode, status, [])),
    ?assertMatch([#{call := {gate, wait}}], [T || T = #{call := {_, _}} <- rpc:call(N, pynode, threads, [])]),
    live:open(Door),
    [erpc:receive_response(R, live:ms(5000)) || R <- [Running | Queued]].

reload() ->
    Dir = live:tmp("reload"),
    ok = file:make_dir(Dir),
    File = filename:join(Dir, "changing.py"),
    Write = fun(Value) ->
                    ok = file:write_file(File, ["def value():\n    return ", Value, "\n"])
            end,
    Write("'first'"),
    #{node := N} = live:pynode(#{args => ["--path", Dir]}),
    ?assertEqual(<<"first">>, erpc:call(N, changing, value, [])),
    Write("'the second'"),
    ?assertEqual(<<"first">>, erpc:call(N, changing, value, [])),
    ?assertEqual(ok, rpc:call(N, pynode, reload, [changing])),
    ?assertEqual(<<"the second">>, erpc:call(N, changing, value, [])),
    Write("'syntax"),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'SyntaxError', _}, _}}}, rpc:call(N, pynode, reload, [changing])),
    ?assertEqual(<<"the second">>, erpc:call(N, changing, value, [])).

%% Name, monitors and what others have registered stay.
reload_server() ->
    Dir = live:tmp("reload_server"),
    ok = file:make_dir(Dir),
    Write = fun(Value) ->
                    Text = ["import erlang\nclass Server:\n    def handle_call(self, request, caller):\n        return ", Value,
                            "\nerlang.register('reloaded', Server())\n"],
                    ok = file:write_file(filename:join(Dir, "serving.py"), Text),
                    ok = file:write_file(filename:join(Dir, "stealing.py"), Text)
            end,
    Write("'one'"),
    #{node := N} = live:pynode(#{args => ["--path", Dir, "--import", "serving"]}),
    Ref = monitor(process, {reloaded, N}),
    ?assertEqual(<<"one">>, gen_server:call({reloaded, N}, x)),
    Write("'number two'"),
    ?assertEqual(ok, rpc:call(N, pynode, reload, [serving])),
    ?assertEqual(<<"number two">>, gen_server:call({reloaded, N}, x)),
    ?assertEqual([], live:flush()),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'ValueError', _}, _}}}, rpc:call(N, stealing, x, [])),
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'ValueError', _}, _}}}, rpc:call(N, pynode, reload, [stealing])),
    ?assertEqual(<<"number two">>, gen_server:call({reloaded, N}, x)),
    true = demonitor(Ref).

drain() ->
    Node = #{node := N} = live:pynode(),
    Gate = #{port := Port} = live:gate(),
    Running = erpc:send_request(N, gate, wait, [Port, finished]),
    Door = live:entered(Gate),
    ?assertEqual(ok, rpc:call(N, pynode, drain, [])),
    ?assertEqual({erpc, draining}, live:error_of(fun() -> erpc:call(N, math, sqrt, [4]) end)),
    ?assertEqual({badrpc, {'EXIT', draining}}, rpc:call(N, math, sqrt, [4])),
    ?assertEqual(pong, net_adm:ping(N)),
    ?assertEqual(false, rpc:call(N, pynode, ready, [])),
    live:open(Door),
    ?assertEqual(finished, erpc:receive_response(Running, live:ms(5000))),
    ?assertEqual(0, live:wait_exit(Node)).

pseudo_missing(N) ->
    ?assertMatch({badrpc, {'EXIT', {{python_error, 'AttributeError', _}, _}}}, rpc:call(N, pynode, nothing, [])).

printing() ->
    Node = #{node := N} = live:pynode(),
    none = erpc:call(N, builtins, print, [<<"line one">>]),
    live:eventually(fun() -> live:stdout(Node) =:= <<"line one\n">> end),
    none = erpc:call(N, builtins, print, [<<"žluť"/utf8>>, 2]),
    live:eventually(fun() -> live:stdout(Node) =:= <<"line one\nžluť 2\n"/utf8>> end).

%% The io thread once slept on when a worker had read both requests and was away with the first.
behind_a_long_one() ->
    [begin
         Node = #{node := N} = live:pynode(),
         2.0 = erpc:call(N, math, sqrt, [4]),
         Long = erpc:send_request(N, spin, seconds, [1.0]),
         {Took, 3.0} = live:timed(fun() -> erpc:call(N, math, sqrt, [9]) end),
         ?assert(Took < live:ms(500)),
         _ = erpc:receive_response(Long, live:ms(10000)),
         0 = live:stop(Node)
     end || _ <- lists:seq(1, 4)].
