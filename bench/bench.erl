%% bench - the same work done on a Python node and on a BEAM peer, turn by turn.
%%
%% Every job is measured in rounds; in a round the Python node and the peer take turns, and who
%% begins alternates, so that what else the machine does meets both. A ratio is the median of
%% the rounds' own ratios; above 1 the Python node is the better one. run-bench starts this.
-module(bench).

-export([main/1, list/0]).
-export([identity/1, busy/1, peer_rate/3, start_server/0, init/1, handle_call/3, handle_cast/2]).

-define(PY, 'py@127.0.0.1').
-define(PEER, 'peer@127.0.0.1').

-type target() :: {ratio, number()} | {at_most, number()} | {at_least, number()} | none.

-record(ctx, {py_pid :: string(),     % OS processes
              peer_pid :: string(),
              quick :: boolean(),
              rounds :: pos_integer(),
              first_rss :: number()}). % MiB, before anything spoke to the node

-record(job, {name :: string(),
              title :: string(),
              unit :: string(),
              better = higher :: higher | lower,
              target = none :: target(),
              run :: fun((#ctx{}) -> {[number()], [number()]})}). % node's values, peer's or none

-record(row, {job :: #job{}, py :: [number()], peer :: [number()], ratios :: [number()]}).

%% Does the jobs named after the options, or all; halts 0, or 1 when an answer was wrong.
-spec main([string()]) -> no_return().
main([PyPid, PeerPid, Quick, Rounds, Csv | Names]) ->
    FirstRss = rss(PyPid),
    try
        await_nodes(100),
        Ctx = #ctx{py_pid = PyPid, peer_pid = PeerPid, quick = Quick =:= "true",
                   rounds = rounds(list_to_integer(Rounds), Quick), first_rss = FirstRss},
        ok = logger:set_primary_config(level, error), % no progress reports of the application
        ok = prepare(),
        print_head(Ctx),
        Rows = [print_row(run(Job, Ctx)) || Job <- choose(Names)],
        ok = write_csv(Csv, Rows),
        io:format("~nratio: above 1 the Python node is the better one. CSV: ~ts~n", [Csv]),
        halt(0)
    catch
        Class:Why:Stack ->
            io:format("bench: ~p: ~p~n~p~n", [Class, Why, Stack]),
            halt(1)
    end.

%% Prints the jobs' names.
-spec list() -> ok.
list() ->
    [io:format("~-14ts ~ts~n", [J#job.name, J#job.title]) || J <- jobs()],
    ok.

rounds(0, "true") -> 5;
rounds(0, _) -> 7;
rounds(N, _) -> N.

choose([]) -> jobs();
choose(Names) ->
    Chosen = [J || J <- jobs(), lists:member(J#job.name, Names)],
    length(Chosen) =:= length(lists:usort(Names)) orelse error({no_such_job, Names}),
    Chosen.

%%% The jobs, the memory ones first: they want a node that has done nothing yet.

jobs() ->
    [#job{name = "rss", title = "RSS after start", unit = "MiB",
          better = lower, target = {at_most, 20},
          run = fun(Ctx) -> {[Ctx#ctx.first_rss], []} end},
     #job{name = "growth", title = "RSS growth over many calls", unit = "MiB",
          better = lower, target = {at_most, 1}, run = fun growth/1},
     #job{name = "idle", title = "CPU of the idle node", unit = "%",
          better = lower, target = {at_most, 0.2}, run = fun idle/1},
     #job{name = "latency", title = "erpc:call(math, sqrt), sequential", unit = "us",
          better = lower, target = {ratio, 2.5}, run = paired(fun latency/2)},
     #job{name = "calls-1", title = "the same from 1 process", unit = "calls/s",
          run = calls(1)},
     #job{name = "calls-8", title = "the same from 8 processes", unit = "calls/s",
          run = calls(8)},
     #job{name = "calls-50", title = "the same from 50 processes", unit = "calls/s",
          target = {ratio, 1.5}, run = calls(50)},
     #job{name = "calls-200", title = "the same from 200 processes", unit = "calls/s",
          run = calls(200)},
     #job{name = "py-latency", title = "py:call(math, sqrt), sequential", unit = "us",
          better = lower, target = {ratio, 2.5}, run = paired(fun py_latency/2)},
     #job{name = "py-8", title = "py:call from 8 processes", unit = "calls/s",
          target = {ratio, 1.6}, run = py_calls(8)},
     #job{name = "py-50", title = "py:call from 50 processes", unit = "calls/s",
          target = {ratio, 4}, run = py_calls(50)},
     #job{name = "py-200", title = "py:call from 200 processes", unit = "calls/s",
          target = {ratio, 5}, run = py_calls(200)},
     #job{name = "py-1000", title = "py:call from 1000 processes", unit = "calls/s",
          target = {ratio, 6}, run = py_calls(1000)},
     #job{name = "py-growth", title = "RSS growth over many py:calls, cancelled ones", unit = "MiB",
          better = lower, target = {at_most, 1}, run = fun py_growth/1},
     #job{name = "task-latency", title = "create_task and await, sequential, to py:call", unit = "us",
          better = lower, target = {ratio, 1 / 1.3}, run = fun task_latency/1},
     #job{name = "tasks", title = "10 000 tasks of 50 processes, plain function", unit = "tasks/s",
          target = {ratio, 6}, run = tasks(math, sqrt, [2.0])},
     #job{name = "tasks-await", title = "the same, coroutine with one sleep(0)", unit = "tasks/s",
          target = {ratio, 2}, run = tasks(bench_fixture, yielding, [2.0])},
     #job{name = "tasks-map", title = "py:map of 100 000 math:sqrt", unit = "items/s",
          target = {at_least, 1000000}, run = fun task_map/1},
     #job{name = "tasks-sleep", title = "1000 tasks of asyncio.sleep(0.1)", unit = "s",
          better = lower, target = {at_most, 0.13}, run = fun task_sleep/1},
     #job{name = "stream", title = "stream of 100 000 integers", unit = "items/s",
          target = {at_least, 300000}, run = fun stream/1},
     #job{name = "tasks-growth", title = "RSS growth over 1 000 000 tasks", unit = "MiB",
          better = lower, target = {at_most, 0.5}, run = fun task_growth/1},
     #job{name = "pool-latency", title = "py:call into a pool, sequential, to py:call", unit = "us",
          better = lower, run = fun pool_latency/1},
     #job{name = "pool-200", title = "py:call into a pool of 2 from 200 processes", unit = "calls/s",
          run = fun pool_calls/1},
     #job{name = "pool-cpu", title = "50 ms of computing, 2 nodes, to 1 node", unit = "calls/s",
          target = {ratio, 1.9}, run = fun pool_cpu/1},
     #job{name = "plain-cpu", title = "the same, 2 plain Python processes, to 1", unit = "calls/s",
          run = fun plain_cpu/1},
     #job{name = "executor-map", title = "Executor.map of 10 000 x 1 ms on 2 nodes, to the same in 2 calls", unit = "s",
          better = lower, target = {ratio, 0.95}, run = fun executor_map/1},
     #job{name = "cold-64", title = "64 new threads at once, cold: the last answer", unit = "ms",
          better = lower, target = {at_most, 150}, run = fun cold/1},
     #job{name = "threads-1", title = "erlang.call from 1 Python thread", unit = "calls/s",
          run = callbacks(1)},
     #job{name = "threads-8", title = "the same from 8 threads", unit = "calls/s",
          run = callbacks(8)},
     #job{name = "threads-64", title = "the same from 64 threads", unit = "calls/s",
          run = callbacks(64)},
     #job{name = "first-call", title = "first erlang.call of a new thread", unit = "us",
          better = lower, target = {at_most, 100}, run = fun first_call/1},
     #job{name = "wait-64", title = "64 threads each in a function of 100 ms", unit = "s",
          better = lower, target = {at_most, 0.12}, run = fun waiting/1},
     #job{name = "bursts", title = "RSS growth over 30 bursts of 64 new threads", unit = "MiB",
          better = lower, target = {at_most, 0.5}, run = fun bursts/1},
     #job{name = "async-gather", title = "asyncio.gather of 1000 erlang.async_calls", unit = "calls/s",
          target = {at_least, 80_000}, run = gathered(1000)},
     #job{name = "async-gather-50000", title = "the same of 50 000", unit = "calls/s", run = gathered(50_000)},
     #job{name = "cpu", title = "CPU of the called node, 50 callers", unit = "us/call",
          better = lower, run = paired(fun cpu_per_call/2)},
     #job{name = "server", title = "gen_server:call, sequential", unit = "us",
          better = lower, run = paired(fun server_latency/2)},
     #job{name = "ping", title = "net_adm:ping, sequential", unit = "us",
          better = lower, run = paired(fun ping_latency/2)},
     #job{name = "echo-1m", title = "echo of 1 MiB, random bytes", unit = "MiB/s",
          target = {ratio, 0.9}, run = echo(fun random/1, 1, 40)},
     #job{name = "echo-16m", title = "echo of 16 MiB, random bytes", unit = "MiB/s",
          target = {ratio, 0.9}, run = echo(fun random/1, 16, 6)},
     #job{name = "text-1m", title = "echo of 1 MiB, ASCII text", unit = "MiB/s",
          run = echo(fun ascii/1, 1, 40)},
     #job{name = "text-16m", title = "echo of 16 MiB, ASCII text", unit = "MiB/s",
          run = echo(fun ascii/1, 16, 6)},
     #job{name = "ints", title = "echo of a list of 100 000 ints", unit = "1/s",
          target = {ratio, 0.7}, run = trips(fun ints/0, 30)},
     #job{name = "map", title = "echo of a map, 1000 string->float", unit = "1/s",
          target = {ratio, 1.0}, run = trips(fun floats/0, 200)},
     #job{name = "ping-busy", title = "ping p99 while a Python loop runs", unit = "us",
          better = lower, target = {at_most, 1000}, run = paired(fun busy_ping/2)},
     #job{name = "call-busy", title = "erpc:call median while a Python loop runs", unit = "us",
          better = lower, run = paired(fun busy_call/2)}].

%% RSS after every tenth of the calls, less RSS after the warming up: the value is the last of
%% them. What the first calls take for buffers and threads is not growth.
growth(#ctx{py_pid = Pid, quick = Quick}) ->
    Part = case Quick of true -> 20_000; false -> 100_000 end,
    _ = many_calls(?PY, 50, 20_000),
    Before = rss(Pid),
    Grown = [begin many_calls(?PY, 50, Part), rss(Pid) - Before end || _ <- lists:seq(1, 10)],
    {{last, Grown}, []}.

%% CPU in per cent over windows of 5 s, after traffic: the connections stay open. The peer
%% idles in the same windows.
idle(#ctx{py_pid = Py, peer_pid = Peer, quick = Quick}) ->
    _ = [many_calls(N, 50, 1000) || N <- [?PY, ?PEER]],
    timer:sleep(2000), % what follows traffic at once is not yet idling
    Windows = case Quick of true -> 2; false -> 12 end,
    Seen = [idle_window(Py, Peer, 5000) || _ <- lists:seq(1, Windows)],
    {PyUsed, PeerUsed} = lists:unzip(Seen),
    {{mean, PyUsed}, {mean, PeerUsed}}.

idle_window(Py, Peer, Ms) ->
    Begin = erlang:monotonic_time(nanosecond),
    Before = {cpu_ns(Py), cpu_ns(Peer)},
    timer:sleep(Ms),
    Took = erlang:monotonic_time(nanosecond) - Begin,
    {used(Before, 1, cpu_ns(Py), Took), used(Before, 2, cpu_ns(Peer), Took)}.

used(Before, I, After, Took) -> 100 * max(0, After - element(I, Before)) / Took.

%% Median of single calls, in microseconds.
latency(Node, #ctx{quick = Quick}) ->
    median_us(calls_in_round(Quick), fun() -> erpc:call(Node, math, sqrt, [2.0]) end).

%% The application's calls, against erpc between two BEAMs.
py_latency(?PY, #ctx{quick = Quick}) ->
    median_us(calls_in_round(Quick), fun() -> py:call(math, sqrt, [2.0]) end);
py_latency(Node, Ctx) ->
    latency(Node, Ctx).

py_calls(Callers) ->
    paired(fun(?PY, #ctx{quick = Quick}) -> py_rate(Callers, span(Quick));
              (Node, #ctx{quick = Quick}) -> rate(Node, Callers, span(Quick)) end).

py_rate(Callers, Ms) ->
    Done = callers(?PY, Callers, fun(Go) -> py_call_until(Go + Ms * 1000, 0) end),
    lists:sum(Done) * 1000 / Ms.

py_call_until(End, Done) ->
    {ok, _} = py:call(math, sqrt, [2.0]),
    case erlang:monotonic_time(microsecond) < End of
        true -> py_call_until(End, Done + 1);
        false -> Done
    end.

%% RSS of the node after many calls and a tenth as many that are cancelled, less that after a few;
%% and no process more than before on this side.
py_growth(#ctx{py_pid = Pid, quick = Quick}) ->
    Calls = case Quick of true -> 20_000; false -> 100_000 end,
    _ = py_mixed(20_000),
    Before = rss(Pid),
    Processes = erlang:system_info(process_count),
    Grown = [begin _ = py_mixed(Calls), rss(Pid) - Before end || _ <- lists:seq(1, 10)],
    Processes = erlang:system_info(process_count),
    {{last, Grown}, []}.

py_mixed(Calls) ->
    callers(?PY, 50, fun(_) ->
        [begin
             {ok, _} = py:call(math, sqrt, [2.0]),
             I rem 10 =:= 0 andalso py_cancelled()
         end || I <- lists:seq(1, Calls div 50)]
    end).

py_cancelled() ->
    Ref = py:spawn_call(math, sqrt, [2.0]),
    ok = py:cancel(Ref),
    _ = py:await(Ref).

%% A task after another, beside py:call in place of the peer.
task_latency(#ctx{quick = Quick, rounds = Rounds}) ->
    N = calls_in_round(Quick),
    Task = fun() -> {ok, _} = py_event_loop:await(py_event_loop:create_task(math, sqrt, [2.0])) end,
    Call = fun() -> {ok, _} = py:call(math, sqrt, [2.0]) end,
    Task(),
    lists:unzip([{median_us(N, Task), median_us(N, Call)} || _ <- lists:seq(1, Rounds)]).

%% 50 processes create 200 tasks each and then await them; the peer's calls are erpc's from 50 processes.
tasks(M, F, A) ->
    paired(fun(?PY, _) ->
                   Took = callers(?PY, 50, fun(Go) ->
                       create_and_await(M, F, A, 200),
                       erlang:monotonic_time(microsecond) - Go
                   end),
                   10_000 * 1.0e6 / lists:max(Took);
              (Node, #ctx{quick = Quick}) ->
                   rate(Node, 50, span(Quick))
           end).

create_and_await(M, F, A, N) ->
    Refs = [py_event_loop:create_task(M, F, A) || _ <- lists:seq(1, N)],
    [{ok, _} = py_event_loop:await(Ref) || Ref <- Refs].

%% A pool for the time of a job.
with_pool(Name, Count, Fun) ->
    Spec = #{count => Count, path => [os:getenv("BENCH_DIR")], workers => 1, program => os:getenv("PYNODE")},
    ok = py:pool_start(Name, #{nodes => [Spec]}),
    try Fun()
    after
        ok = py:pool_stop(Name)
    end.

pool_latency(#ctx{quick = Quick, rounds = Rounds}) ->
    N = calls_in_round(Quick),
    with_pool(bench, 2, fun() ->
        Pool = fun() -> {ok, _} = py:call(math, sqrt, [2.0], #{}, #{pool => bench}) end,
        Call = fun() -> {ok, _} = py:call(math, sqrt, [2.0], #{}, #{}) end,
        Pool(),
        lists:unzip([{median_us(N, Pool), median_us(N, Call)} || _ <- lists:seq(1, Rounds)])
    end).

%% The peer is a BEAM, which 200 processes call by erpc.
pool_calls(Ctx) ->
    with_pool(bench, 2, fun() ->
        (paired(fun(?PY, #ctx{quick = Quick}) -> pool_rate(bench, 200, math, sqrt, [2.0], span(Quick));
                   (Node, #ctx{quick = Quick}) -> rate(Node, 200, span(Quick)) end))(Ctx)
    end).

pool_rate(Pool, Callers, M, F, Args, Ms) ->
    Done = callers(?PY, Callers, fun(Go) -> pool_call_until(Pool, M, F, Args, Go + Ms * 1000, 0) end),
    lists:sum(Done) * 1000 / Ms.

pool_call_until(Pool, M, F, Args, End, Done) ->
    {ok, _} = py:call(M, F, Args, #{}, #{pool => Pool}),
    case erlang:monotonic_time(microsecond) < End of
        true -> pool_call_until(Pool, M, F, Args, End, Done + 1);
        false -> Done
    end.

pool_cpu(Ctx) ->
    with_pool(two, 2, fun() ->
        with_pool(one, 1, fun() ->
            {N, _} = {spins_in(0.05, one), spins_in(0.05, two)},
            (paired(fun(?PY, _) -> steady_rate(two, 8, bench_spin, spin, [N], 2000);
                       (_, _) -> steady_rate(one, 8, bench_spin, spin, [N], 2000) end))(Ctx)
        end)
    end).

%% How much work that is. Each node is asked: CPython has specialised its bytecode then, in all of them alike; without that
%% some compute slower by an eighth for as long as they live.
spins_in(Seconds, Pool) ->
    {ok, #{nodes := Nodes}} = py:pool_info(Pool),
    lists:last([begin
                    {ok, N} = py:call(bench_spin, spin_of, [Seconds], #{}, #{node => Node}),
                    N
                end || #{node := Node} <- Nodes]).

%% From one end of a call to another, without the begin: a window would have a part of a call at each of its ends.
steady_rate(Pool, Callers, M, F, Args, Ms) ->
    Begin = erlang:monotonic_time(microsecond),
    Ends = callers(?PY, Callers, fun(Go) -> pool_call_ends(Pool, M, F, Args, Go + Ms * 1000, []) end),
    [First | Steady] = [T || T <- lists:sort(lists:append(Ends)), T > Begin + Ms * 100, T < Begin + Ms * 1000],
    length(Steady) * 1.0e6 / (lists:last(Steady) - First).

pool_call_ends(Pool, M, F, Args, End, Ends) ->
    {ok, _} = py:call(M, F, Args, #{}, #{pool => Pool}),
    case erlang:monotonic_time(microsecond) of
        Now when Now < End -> pool_call_ends(Pool, M, F, Args, End, [Now | Ends]);
        _ -> Ends
    end.

%% What the machine gives: the same work by Python processes that are no nodes.
plain_cpu(Ctx) ->
    N = rpc:call(?PY, bench_spin, spin_of, [0.05]),
    Rate = fun(Processes) -> rpc:call(?PY, bench_spin, plain_rate, [Processes, 2, N]) end,
    (paired(fun(?PY, _) -> Rate(2); (_, _) -> Rate(1) end))(Ctx).

%% In one call each the nodes do nothing but the work. As fast as they can be is what they make until the first has ended.
executor_map(Ctx = #ctx{quick = Quick}) ->
    Tasks = case Quick of true -> 2000; false -> 10_000 end,
    with_pool(bench, 2, fun() ->
        N = spins_in(0.001, bench),
        {ok, #{nodes := Nodes}} = py:pool_info(bench),
        (paired(fun(?PY, _) ->
                        {ok, Took} = py:call(bench_fixture, executor_map, [<<"bench">>, Tasks, N], #{}, infinity),
                        Took;
                   (_, _) ->
                        Refs = [py:spawn_call(bench_spin, spins, [Tasks div 2, N], #{}, #{node => Node})
                                || #{node := Node} <- Nodes],
                        Ends = [begin {ok, Times} = py:await(Ref, infinity), Times end || Ref <- Refs],
                        Begin = lists:min(lists:map(fun hd/1, Ends)),
                        End = lists:min(lists:map(fun lists:last/1, Ends)),
                        Tasks * (End - Begin) / length([T || [_ | Times] <- Ends, T <- Times, T =< End])
                end))(Ctx)
    end).

task_map(#ctx{rounds = Rounds}) ->
    Args = [[X] || X <- lists:seq(1, 100_000)],
    {[begin
          {Us, {ok, Results}} = timer:tc(fun() -> py:map(math, sqrt, Args) end),
          {ok, 2.0} = lists:nth(4, Results),
          100_000 * 1.0e6 / Us
      end || _ <- lists:seq(1, Rounds)], []}.

task_sleep(#ctx{rounds = Rounds}) ->
    _ = py_event_loop:run(asyncio, sleep, [0]),
    {[begin
          {Us, _} = timer:tc(fun() -> create_and_await(asyncio, sleep, [0.1], 1000) end),
          Us / 1.0e6
      end || _ <- lists:seq(1, Rounds)], []}.

stream(#ctx{rounds = Rounds}) ->
    {[begin
          {Us, {ok, Items}} = timer:tc(fun() -> py:stream(builtins, range, [100_000]) end),
          100_000 = length(Items),
          100_000 * 1.0e6 / Us
      end || _ <- lists:seq(1, Rounds)], []}.

%% Ten times a tenth of a million, after a tenth; no process and no message more than before on this side.
task_growth(#ctx{py_pid = Pid, quick = Quick}) ->
    Each = case Quick of true -> 400; false -> 2000 end,
    Round = fun() -> callers(?PY, 50, fun(_) -> [create_and_await(math, sqrt, [2.0], 100) || _ <- lists:seq(1, Each div 100)] end) end,
    _ = Round(),
    Count = fun() -> {erlang:system_info(process_count), ets:info(py_calls, size), queued()} end,
    {Rss, Counted} = {rss(Pid), Count()},
    Grown = [begin _ = Round(), rss(Pid) - Rss end || _ <- lists:seq(1, 10)],
    Counted = Count(),
    {{last, Grown}, []}.

queued() ->
    lists:sum([N || P <- processes(), P =/= self(), {message_queue_len, N} <- [process_info(P, message_queue_len)]]).

%% Calls/s of Python threads that call a function here; of as many processes of the peer, by erpc.
callbacks(Threads) ->
    paired(fun(?PY, #ctx{quick = Quick}) ->
                   {ok, Rate} = py:call(bench_fixture, call_rate, [Threads, span(Quick) / 1000], #{}, infinity),
                   Rate;
              (Node, #ctx{quick = Quick}) ->
                   erpc:call(Node, ?MODULE, peer_rate, [node(), Threads, span(Quick)])
           end).

%% The peer's part of it.
-spec peer_rate(node(), pos_integer(), pos_integer()) -> number().
peer_rate(Node, Callers, Ms) ->
    Done = callers(Node, Callers, fun(Go) -> call_until(Node, Go + Ms * 1000, 0) end),
    lists:sum(Done) * 1000 / Ms.

%% How long until the last of 64 threads has its first answer, when no connection is there yet: a round is a
%% new node.
cold(#ctx{rounds = Rounds}) ->
    {[cold_round() || _ <- lists:seq(1, Rounds)], []}.

cold_round() ->
    ok = application:stop(pynode),
    ok = application:set_env(pynode, nodes, [#{name => cold, path => [os:getenv("BENCH_DIR")]}]),
    {ok, _} = application:ensure_all_started(pynode),
    ok = register_functions(),
    {ok, Seconds} = py:call(bench_fixture, new_threads, [64, <<"bench_identity">>, 1]),
    ok = application:stop(pynode),
    ok = start_application(),
    Seconds * 1000.

%% Median first calls of threads that find a connection in the pool.
first_call(#ctx{rounds = Rounds}) ->
    {[begin {ok, Us} = py:call(bench_fixture, first_call, [200]), Us end || _ <- lists:seq(1, Rounds)], []}.

waiting(#ctx{rounds = Rounds}) ->
    {ok, _} = py:call(bench_fixture, new_threads, [64, <<"bench_wait">>, 1]),
    {[begin {ok, Seconds} = py:call(bench_fixture, new_threads, [64, <<"bench_wait">>, 100]), Seconds end
      || _ <- lists:seq(1, Rounds)], []}.

%% After the first burst; neither descriptors nor threads nor processes may be more than then.
bursts(#ctx{py_pid = Pid}) ->
    Burst = fun() -> {ok, _} = py:call(bench_fixture, new_threads, [64, <<"bench_identity">>, 1]) end,
    Count = fun() -> {files("/proc/" ++ Pid ++ "/fd"), length(nodes(hidden)), erlang:system_info(process_count)} end,
    _ = [Burst() || _ <- lists:seq(1, 3)],
    {Rss, Counted} = {rss(Pid), Count()},
    Grown = [begin Burst(), rss(Pid) - Rss end || _ <- lists:seq(1, 30)],
    Counted = Count(),
    {{last, Grown}, []}.

files(Dir) ->
    {ok, Names} = file:list_dir(Dir),
    length(Names).

%% Calls/s of coroutines that call a function here, so many at once.
gathered(Calls) ->
    fun(#ctx{rounds = Rounds, quick = Quick}) ->
        {ok, _} = py:call(bench_fixture, gather_rate, [Calls, 0], #{}, infinity),
        {[begin {ok, Rate} = py:call(bench_fixture, gather_rate, [Calls, span(Quick) / 1000], #{}, infinity), Rate end
          || _ <- lists:seq(1, Rounds)], []}
    end.

server_latency(Node, #ctx{quick = Quick}) ->
    median_us(calls_in_round(Quick), fun() -> gen_server:call({bench_server, Node}, 2.0) end).

ping_latency(Node, #ctx{quick = Quick}) ->
    median_us(calls_in_round(Quick), fun() -> net_adm:ping(Node) end).

calls_in_round(true) -> 2000;
calls_in_round(false) -> 5000.

%% Calls/s from so many processes, all warm and inside one span of time.
calls(Callers) ->
    paired(fun(Node, #ctx{quick = Quick}) -> rate(Node, Callers, span(Quick)) end).

span(true) -> 500;
span(false) -> 1500.

rate(Node, Callers, Ms) ->
    Done = callers(Node, Callers, fun(Go) -> call_until(Node, Go + Ms * 1000, 0) end),
    lists:sum(Done) * 1000 / Ms.

%% User and system time of the called node's OS process for a call, from 50 callers.
cpu_per_call(Node, #ctx{quick = Quick} = Ctx) ->
    Pid = case Node of ?PY -> Ctx#ctx.py_pid; ?PEER -> Ctx#ctx.peer_pid end,
    N = case Quick of true -> 20_000; false -> 50_000 end,
    Before = cpu_ns(Pid),
    _ = many_calls(Node, 50, N),
    (cpu_ns(Pid) - Before) / N / 1000.

echo(Make, MiB, Times) ->
    fun(Ctx) ->
        Bytes = Make(MiB * 1024 * 1024),
        (paired(fun(Node, #ctx{quick = Quick}) ->
                    Us = median_us(times(Times, Quick), fun() -> there_and_back(Node, Bytes) end),
                    MiB * 1.0e6 / Us
                end))(Ctx)
    end.

trips(Make, Times) ->
    fun(Ctx) ->
        Term = Make(),
        (paired(fun(Node, #ctx{quick = Quick}) ->
                    1.0e6 / median_us(times(Times, Quick), fun() -> there_and_back(Node, Term) end)
                end))(Ctx)
    end.

times(N, true) -> max(5, N div 2);
times(N, false) -> N.

there_and_back(Node, Term) -> erpc:call(Node, fixture(Node), identity, [Term]).

%% p99 of pings while the node computes; on the peer an Erlang process computes.
busy_ping(Node, #ctx{quick = Quick}) ->
    while_busy(Node, Quick, fun(N) -> percentile(99, samples(N, fun() -> net_adm:ping(Node) end)) end).

busy_call(Node, #ctx{quick = Quick}) ->
    while_busy(Node, Quick,
               fun(N) -> median(samples(N, fun() -> erpc:call(Node, math, sqrt, [2.0]) end)) end).

while_busy(Node, Quick, Measure) ->
    {Seconds, N} = case Quick of true -> {1.0, 300}; false -> {3.0, 1000} end,
    Busy = erpc:send_request(Node, fixture(Node), busy, [Seconds]),
    ok = await_busy(Node),
    Value = Measure(N),
    no_response = erpc:wait_response(Busy, 0), % it was busy to the end
    _ = erpc:receive_response(Busy),
    Value.

await_busy(?PEER) -> ok;
await_busy(?PY) ->
    case erpc:call(?PY, bench_fixture, is_busy, []) of
        true -> ok;
        false -> await_busy(?PY)
    end.

fixture(?PY) -> bench_fixture;
fixture(?PEER) -> ?MODULE.

%%% What the peer runs: the functions of bench_fixture.py.

-spec identity(T) -> T.
identity(X) -> X.

-spec busy(number()) -> ok.
busy(Seconds) -> spin(erlang:monotonic_time(microsecond) + round(Seconds * 1.0e6)).

spin(End) ->
    case erlang:monotonic_time(microsecond) < End of
        true -> spin(End);
        false -> ok
    end.

-spec start_server() -> ok.
start_server() ->
    {ok, _} = gen_server:start({local, bench_server}, ?MODULE, [], []),
    ok.

-spec init([]) -> {ok, none}.
init([]) -> {ok, none}.

-spec handle_call(T, gen_server:from(), none) -> {reply, T, none}.
handle_call(Request, _From, State) -> {reply, Request, State}.

-spec handle_cast(term(), none) -> {noreply, none}.
handle_cast(_, State) -> {noreply, State}.

%%% Measuring

%% Turns a measurement of one node into one of both, round by round, after a warm round.
paired(Measure) ->
    fun(#ctx{rounds = Rounds} = Ctx) ->
        _ = [Measure(Node, Ctx#ctx{quick = true}) || Node <- [?PY, ?PEER]],
        lists:unzip([round(R, Measure, Ctx) || R <- lists:seq(1, Rounds)])
    end.

round(R, Measure, Ctx) when R rem 2 =:= 0 ->
    Py = Measure(?PY, Ctx),
    {Py, Measure(?PEER, Ctx)};
round(_, Measure, Ctx) ->
    Peer = Measure(?PEER, Ctx),
    {Measure(?PY, Ctx), Peer}.

median_us(N, Fun) -> median(samples(N, Fun)).

%% Times N runs in a process of its own, so that no garbage of another job is met.
samples(N, Fun) ->
    {Pid, Mon} = spawn_monitor(fun() -> exit({done, [us(Fun) || _ <- lists:seq(1, N)]}) end),
    receive
        {'DOWN', Mon, process, Pid, {done, Us}} -> Us;
        {'DOWN', Mon, process, Pid, Why} -> error(Why)
    end.

us(Fun) ->
    Begin = erlang:monotonic_time(nanosecond),
    _ = Fun(),
    (erlang:monotonic_time(nanosecond) - Begin) / 1000.

%% Runs so many callers at once: each warms up, all wait, then all begin. What each gave.
callers(Node, Callers, Work) ->
    Self = self(),
    Begun = [spawn_monitor(fun() ->
                               _ = call_n(Node, 20),
                               Self ! {warm, self()},
                               receive {go, Go} -> exit({gave, Work(Go)}) end
                           end) || _ <- lists:seq(1, Callers)],
    [receive
         {warm, P} -> ok;
         {'DOWN', M, process, P, Why} -> error(Why)
     end || {P, M} <- Begun],
    Go = erlang:monotonic_time(microsecond),
    [P ! {go, Go} || {P, _} <- Begun],
    [receive
         {'DOWN', M, process, P, {gave, What}} -> What;
         {'DOWN', M, process, P, Why} -> error(Why)
     end || {P, M} <- Begun].

many_calls(Node, Callers, All) ->
    callers(Node, Callers, fun(_) -> call_n(Node, All div Callers) end).

call_n(_, 0) -> ok;
call_n(Node, N) ->
    _ = erpc:call(Node, math, sqrt, [2.0]),
    call_n(Node, N - 1).

%% A call that ends after the end is not counted.
call_until(Node, End, Done) ->
    _ = erpc:call(Node, math, sqrt, [2.0]),
    case erlang:monotonic_time(microsecond) < End of
        true -> call_until(Node, End, Done + 1);
        false -> Done
    end.

%% MiB of memory in use by an OS process.
rss(Pid) ->
    {ok, Text} = file:read_file("/proc/" ++ Pid ++ "/status"),
    {match, [KiB]} = re:run(Text, "VmRSS:\\s*(\\d+) kB", [{capture, all_but_first, list}]),
    list_to_integer(KiB) / 1024.

%% CPU of all its threads: to the nanosecond where the kernel keeps count, else in ticks.
cpu_ns(Pid) ->
    max(schedstat_ns(Pid), stat_ns(Pid)).

%% Of the threads that live; one that has ended is only in stat.
schedstat_ns(Pid) ->
    Files = filelib:wildcard("/proc/" ++ Pid ++ "/task/*/schedstat"),
    lists:sum([first_number(file:read_file(F)) || F <- Files]).

first_number({ok, Text}) -> binary_to_integer(hd(binary:split(Text, <<" ">>)));
first_number(_) -> 0.

stat_ns(Pid) ->
    {ok, Text} = file:read_file("/proc/" ++ Pid ++ "/stat"),
    [_, Rest] = string:split(Text, ") ", trailing),
    Fields = string:split(Rest, " ", all),
    Ticks = [binary_to_integer(lists:nth(I, Fields)) || I <- [12, 13]], % utime, stime
    lists:sum(Ticks) * 10_000_000.

random(Size) -> crypto:strong_rand_bytes(Size).

ascii(Size) ->
    Line = <<"The quick brown fox jumps over the lazy dog, as it does every day of the year.\n">>,
    binary:part(binary:copy(Line, Size div byte_size(Line) + 1), 0, Size).

ints() -> lists:seq(1, 100_000).

floats() ->
    maps:from_list([{integer_to_binary(I), I / 7} || I <- lists:seq(1, 1000)]).

%%% Before and after

await_nodes(0) -> error(nodes_do_not_answer);
await_nodes(Left) ->
    case [net_adm:ping(N) || N <- [?PY, ?PEER]] of
        [pong, pong] -> ok;
        _ -> timer:sleep(100), await_nodes(Left - 1)
    end.

%% Both nodes must give right answers before they are measured.
prepare() ->
    ok = start_application(),
    ok = erpc:call(?PEER, ?MODULE, start_server, []),
    Terms = [random(100_000), ascii(1000), ints(), floats(), 1 bsl 200],
    _ = [{N, T, T} = {N, T, there_and_back(N, T)} || N <- [?PY, ?PEER], T <- Terms],
    _ = [2.5 = gen_server:call({bench_server, N}, 2.5) || N <- [?PY, ?PEER]],
    true = erpc:call(?PY, math, sqrt, [2.0]) =:= math:sqrt(2.0),
    ok.

start_application() ->
    ok = application:set_env(pynode, nodes, []),
    {ok, _} = application:ensure_all_started(pynode),
    ok = py:connect(?PY),
    register_functions().

register_functions() ->
    ok = py:register_function(bench_identity, fun([X]) -> X end),
    py:register_function(bench_wait, fun([Ms]) -> timer:sleep(Ms) end).

run(#job{run = Run} = Job, Ctx) ->
    case Run(Ctx) of
        {{How, Py}, []} -> row(Job, {How, Py}, [], []);
        {{How, Py}, {How, Peer}} -> row(Job, {How, Py}, {How, Peer}, []);
        {Py, Peer} -> row(Job, Py, Peer, ratios(Job, Py, Peer))
    end.

row(Job, Py, Peer, Ratios) -> #row{job = Job, py = Py, peer = Peer, ratios = Ratios}.

ratios(_, _, []) -> [];
ratios(#job{better = higher}, Py, Peer) -> lists:zipwith(fun(A, B) -> A / B end, Py, Peer);
ratios(#job{better = lower}, Py, Peer) -> lists:zipwith(fun(A, B) -> B / A end, Py, Peer).

%% The value that stands for a row's rounds: the median unless the job says another.
stand({last, Values}) -> lists:last(Values);
stand({mean, Values}) -> lists:sum(Values) / length(Values);
stand(Values) -> median(Values).

all({_, Values}) -> Values;
all(Values) -> Values.

median(Values) -> percentile(50, Values).

percentile(P, Values) ->
    Sorted = lists:sort(Values),
    lists:nth(max(1, ceil(length(Sorted) * P / 100)), Sorted).

reached(#row{job = #job{target = none}}) -> "";
reached(#row{job = #job{target = {ratio, T}}, ratios = Rs}) -> yes_no(median(Rs) >= T);
reached(#row{job = #job{target = {at_most, T}}, py = Py}) -> yes_no(stand(Py) =< T);
reached(#row{job = #job{target = {at_least, T}}, py = Py}) -> yes_no(stand(Py) >= T).

yes_no(true) -> "yes";
yes_no(false) -> "NO".

-define(ROW, "~-42ts ~-8ts ~9ts ~19ts ~9ts ~6ts ~12ts ~9ts ~ts~n").

print_head(#ctx{rounds = Rounds, quick = Quick}) ->
    Python = erpc:call(?PY, platform, python_version, []),
    io:format("OTP ~ts, Python ~ts, ~b schedulers, ~b rounds~ts~n~n",
              [erlang:system_info(otp_release), Python, erlang:system_info(schedulers_online),
               Rounds, case Quick of true -> ", quick"; false -> "" end]),
    io:format(?ROW, ["job", "unit", "pynode", "min..max", "peer", "ratio", "min..max",
                      "target", "reached"]).

print_row(#row{job = #job{title = Title, unit = Unit} = Job, py = Py, peer = Peer,
               ratios = Ratios} = Row) ->
    io:format(?ROW, [Title, Unit, num(stand(Py)), span(all(Py), fun num/1),
                      maybe_num(Peer), ratio(Ratios), span(Ratios, fun two/1),
                      target(Job#job.target), reached(Row)]),
    Row.

maybe_num([]) -> "";
maybe_num(Values) -> num(stand(Values)).

ratio([]) -> "";
ratio(Ratios) -> two(median(Ratios)).

span([_ | _] = Values, Show) -> [Show(lists:min(Values)), "..", Show(lists:max(Values))];
span(_, _) -> "".

target(none) -> "";
target({ratio, T}) -> [">= x ", two(T)];
target({at_most, T}) -> ["<= ", io_lib:format("~w", [T])];
target({at_least, T}) -> [">= ", io_lib:format("~w", [T])].

num(V) when abs(V) >= 1000 -> integer_to_list(erlang:round(V));
num(V) when abs(V) >= 10 -> io_lib:format("~.1f", [float(V)]);
num(V) -> io_lib:format("~.3f", [float(V)]).

two(V) -> io_lib:format("~.2f", [float(V)]).

write_csv(File, Rows) ->
    Head = "job,unit,better,pynode,pynode_min,pynode_max,peer,peer_min,peer_max,"
           "ratio,ratio_min,ratio_max,target,reached\n",
    file:write_file(File, [Head | [csv_line(R) || R <- Rows]]).

csv_line(#row{job = J, py = Py, peer = Peer, ratios = Ratios} = Row) ->
    Cells = [J#job.name, J#job.unit, atom_to_list(J#job.better)] ++
        cells(Py) ++ cells(Peer) ++ cells(Ratios) ++ [target(J#job.target), reached(Row)],
    [lists:join(",", Cells), "\n"].

cells([]) -> ["", "", ""];
cells(Values) ->
    [io_lib:format("~.4f", [float(V)])
     || V <- [stand(Values), lists:min(all(Values)), lists:max(all(Values))]].
