%% live_py - the module py against a real node: calls, options, limits at every stage, outcomes.
-module(live_py).

-export([setup/0, tests/1]).
-export([log/2]). % a handler of logger

-include_lib("stdlib/include/assert.hrl").

setup() ->
    start(#{}),
    #{node => hd(py:nodes())}.

%% The application in this VM, with one node that has the tests' Python modules.
start(Spec) ->
    Node = maps:merge(#{path => [live:py("")], workers => 2, program => os:getenv("PYNODE")}, Spec),
    application:set_env(pynode, nodes, [Node]),
    {ok, _} = application:ensure_all_started(pynode),
    ok.

tests(Ctx) ->
    [{Name, fun() -> Fun(Ctx) end} || {Name, Fun} <- cases()].

cases() ->
    [{"every example in the documentation of py", fun examples/1},
     {"a call: values, errors, keyword arguments", fun calls/1},
     {"modules and functions as atoms, binaries and strings, dotted", fun names/1},
     {"options of a call: what each does", fun options/1},
     {"options of a call: what each refuses", fun bad_options/1},
     {"eval: names are seen in inner scopes, exec's stay", fun eval/1},
     {"a traceback when it is asked for, and only then", fun traceback/1},
     {"a cast's error is nobody's, a cast does arrive", fun casts/1},
     {"spawn_call: message, await, an answer taken once", fun spawn_calls/1},
     {"cancel: queued, running, ended, unknown", fun cancels/1},
     {"parallel keeps the order, and one limit holds for all", fun parallel/1},
     {"a limit that passes while the call is queued", fun limit_queued/1},
     {"a limit that passes while arguments are decoded", fun limit_decoding/1},
     {"a limit that passes while the function runs", fun limit_running/1},
     {"a limit that passes while the answer is encoded", fun limit_encoding/1},
     {"limits that pass while the answer is under way leave nothing behind", fun limit_under_way/1},
     {"a cancelled call gets erlang.Cancelled, and the next on that worker its own answer", fun interrupted/1},
     {"what is cancelled while it imports is stopped after that, and the package is whole", fun interrupted_import/1},
     {"a caller that dies: what it waits for is cancelled", fun caller_dies/1},
     {"callers that are killed do not spoil the count of calls in flight", fun counter/1},
     {"many callers: each gets its own answers, straight or combined", fun many/1},
     {"large arguments and answers, alone and among many", fun large/1},
     {"a queue: order under 50 callers, one thread, other calls beside it", fun queue_order/1},
     {"a queue's objects stay on its thread: sqlite3", fun queue_sqlite/1},
     {"a queue is stopped: in time, and not in time", fun queue_stop/1},
     {"a thread of its own", fun thread_new/1},
     {"cancelling in a queue: waiting and running", fun queue_cancel/1},
     {"the executor of erlang.blocking, and its numbers in stats", fun executor/1},
     {"Python's logging arrives at logger", fun logging/1},
     {"a registered function is in the table until it is taken away", fun functions/1},
     {"Python calls registered functions: values, errors, limits", fun callbacks/1},
     {"Erlang calls Python calls Erlang calls Python ..., 40 deep", fun nested/1},
     {"many Python threads call Erlang at once: each gets its own answers", fun callback_threads/1},
     {"a node elsewhere: connect, call by name, disconnect, connect again", fun connected/1},
     {"what is not a Python node cannot be attached", fun not_python/1},
     {"who has connected to a node can call it at once", fun connected_at_once/1},
     {"drain: a node elsewhere finishes and leaves", fun drain_connected/1},
     {"drain does not wait for what was cancelled and sleeps on", fun drain_cancelled/1},
     {"a call to nowhere says that it was not started", fun nowhere/1},
     {"nothing is left in any mailbox or table", fun no_litter/1}].

%%% ------------------------------------------------------------------ calls

%% The examples between ``` and ''' in py.erl, each an expression that must match.
examples(_) ->
    {ok, Source} = file:read_file(filename:join([os:getenv("abs_top_srcdir"), "erlang", "src", "py.erl"])),
    {match, Found} = re:run(Source, "^%% ```\\n((?:%%.*\\n)*?)%% '''", [global, multiline, {capture, [1], list}]),
    Examples = [re:replace(Text, "^%% ?", "", [global, multiline, {return, list}])
                || [Text] <- Found, re:run(Text, "py:", [{capture, none}]) =:= match],
    ?assert(length(Examples) >= 40),
    [example(Text) || Text <- Examples].

%% Sentence after sentence, each seeing the names of those before it.
example(Text) ->
    {ok, Tokens, _} = erl_scan:string(Text),
    lists:foldl(fun(Sentence, Bindings) ->
        {ok, Exprs} = erl_parse:parse_exprs(Sentence),
        try erl_eval:exprs(Exprs, Bindings) of
            {value, _, New} -> New
        catch C:R -> error({example_fails, [{text, Text}, {reason, {C, R}}]})
        end
    end, [], sentences(Tokens)).

sentences([]) -> [];
sentences(Tokens) ->
    {Sentence, [Dot | Rest]} = lists:splitwith(fun(T) -> element(1, T) =/= dot end, Tokens),
    [Sentence ++ [Dot] | sentences(Rest)].

calls(_) ->
    ?assertEqual({ok, 4.0}, py:call(math, sqrt, [16])),
    ?assertEqual({ok, [2, 1]}, py:call(builtins, sorted, [[1, 2]], #{reverse => true})),
    ?assertEqual({ok, [2, 1]}, py:call(builtins, sorted, [[1, 2]], #{<<"reverse">> => true})),
    ?assertEqual({ok, 1 bsl 100}, py:call(operator, lshift, [1, 100])),
    ?assertEqual({ok, self()}, py:call(echo, echo, [self()])),
    ?assertEqual({error, {'ValueError', <<"invalid literal for int() with base 10: 'x'">>}},
                 py:call(builtins, int, [<<"x">>])),
    ?assertMatch({error, {'ModuleNotFoundError', <<"No module named 'no_such'">>}}, py:call(no_such, f, [])),
    ?assertMatch({error, {'AttributeError', _}}, py:call(math, no_such, [])),
    ?assertMatch({error, {'TypeError', _}}, py:call(math, sqrt, [a, b])),
    ?assertMatch({error, {'TypeError', <<"args: not a list">>}}, py:call(math, sqrt, 16)),
    ?assertMatch({error, {'TypeError', <<"args[0]", _/binary>>}}, py:call(math, sqrt, [[1 | 2]])),
    ?assertMatch({error, {'TypeError', <<"result: ", _/binary>>}}, py:call(builtins, object, [])),
    ?assertMatch({error, {'AttributeError', _}}, py:call(pynode, no_such, [])).

names(_) ->
    ?assertEqual({ok, <<"a/b">>}, py:call('os.path', join, [<<"a">>, <<"b">>])),
    ?assertEqual({ok, <<"a/b">>}, py:call("os.path", "join", [<<"a">>, <<"b">>])),
    ?assertEqual({ok, <<"a/b">>}, py:call(<<"posixpath">>, <<"join">>, [<<"a">>, <<"b">>])),
    ?assertEqual({ok, #{}}, py:call(builtins, 'dict.fromkeys', [[]])),
    ?assertEqual({error, {bad_option, module}}, py:call(binary:copy(<<"m">>, 256), f, [])),
    ?assertEqual({error, {bad_option, function}}, py:call(math, <<255>>, [])),
    ?assertMatch({error, {'ModuleNotFoundError', _}}, py:call(<<"größe"/utf8>>, f, [])).

options(#{node := Node}) ->
    Text = <<"text">>,
    ?assertEqual({ok, Text}, py:call(echo, echo, [Text], #{}, #{strings => bytes})),
    ?assertEqual({ok, 4}, py:call(builtins, 'bytes.__len__', [Text], #{}, #{strings => bytes})),
    ?assertEqual({ok, 4}, py:call(builtins, 'str.__len__', [Text], #{}, #{strings => utf8})),
    ?assertMatch({error, {'TypeError', _}}, py:call(builtins, 'bytes.__len__', [Text])),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, #{node => Node})),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, #{node => py})),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4], #{}, infinity)),
    ?assertEqual({error, {node_down, other, not_started}}, py:call(math, sqrt, [4], #{}, #{node => other})).

bad_options(_) ->
    Bad = [{timeout, -1}, {timeout, soon}, {node, "py"}, {strings, latin1}, {traceback, yes}, {thread, old},
           {executor, process}, {nodee, py}],
    [?assertEqual({Key, {error, {bad_option, Key}}}, {Key, py:call(math, sqrt, [4], #{}, #{Key => Value})})
     || {Key, Value} <- Bad],
    ?assertEqual({error, {bad_option, timeout}}, py:call(math, sqrt, [4], #{}, soon)),
    ?assertEqual({error, {bad_option, kwargs}}, py:call(math, sqrt, [4], [{a, 1}], #{})),
    ?assertEqual({error, {bad_option, locals}}, py:eval("1", [])),
    ?assertMatch({error, {'TypeError', _}}, py:call(builtins, sorted, [[1]], #{1 => 2})),
    %% What the facade refuses the node refuses, too, for others that speak its protocol.
    [?assertEqual({Key, {error, {bad_option, Key}}}, {Key, raw_call(#{Key => Value})})
     || {Key, Value} <- [{kwargs, []}, {strings, latin1}, {traceback, 1}, {thread, 1}, {executor, 1}, {other, 1}]],
    ?assertEqual([], live:flush()).

%% A call without the module py.
raw_call(Options) ->
    [Node] = py:nodes(),
    Ref = erlang:alias([reply]),
    {pynode, Node} ! {call, Ref, math, sqrt, [4], Options},
    receive {py_response, Ref, Result} -> Result after live:ms(5000) -> none end.

eval(_) ->
    ?assertEqual({ok, [10, 10]}, py:eval("[x * y for _ in range(2)]", #{x => 5, <<"y">> => 2})),
    ?assertEqual(ok, py:exec(["def eval_twice(x):\n", "    return 2 * x\n"])),
    ?assertEqual({ok, 42}, py:eval("eval_twice(n)", #{n => 21})),
    ?assertEqual({ok, 42}, py:call('__main__', eval_twice, [21])),
    ?assertMatch({error, {'NameError', _}}, py:eval("n")),
    ?assertMatch({error, {'SyntaxError', _}}, py:exec("def")),
    ?assertEqual({ok, <<"größe"/utf8>>}, py:eval("'größe'")),
    ?assertEqual({error, timeout}, py:exec("import time; time.sleep(1)", 50)).

traceback(_) ->
    ?assertEqual(ok, py:exec("def tb_inner():\n    raise ValueError('no')\ndef tb_outer():\n    tb_inner()\n")),
    {error, {'ValueError', <<"no">>, Stack}} = py:call('__main__', tb_outer, [], #{}, #{traceback => true}),
    ?assertMatch([{'__main__', tb_inner, 0, [{file, _}, {line, 2}]}, {'__main__', tb_outer, 0, _} | _], Stack),
    ?assertEqual({error, {'ValueError', <<"no">>}}, py:call('__main__', tb_outer, [], #{}, #{traceback => false})).

casts(_) ->
    ?assertEqual(ok, py:cast(box, put, [<<"cast">>, 1])),
    ?assertEqual({ok, 1}, py:call(box, wait, [<<"cast">>])),
    ?assertEqual(ok, py:cast(box, put, [<<"cast2">>], #{value => 2})),
    ?assertEqual({ok, 2}, py:call(box, wait, [<<"cast2">>])),
    ?assertEqual(ok, py:cast(math, sqrt, [-1])),
    ?assertEqual({error, {bad_option, strings}}, py:cast(math, sqrt, [1], #{}, #{strings => 1})),
    ?assertEqual(ok, py:cast(math, sqrt, [1], #{}, #{node => 'nobody@127.0.0.1'})),
    ?assertEqual([], live:flush()).

spawn_calls(_) ->
    Ref = py:spawn_call(math, sqrt, [9]),
    ?assertEqual({ok, 3.0}, receive {py_response, Ref, R} -> R after live:ms(5000) -> none end),
    ?assertMatch({error, {'ValueError', _}}, py:await(py:spawn_call(math, sqrt, [-1]))),
    Nowhere = py:spawn_call(math, sqrt, [9], #{}, #{node => 'nobody@127.0.0.1'}),
    ?assertEqual({error, {node_down, 'nobody@127.0.0.1', not_started}}, py:await(Nowhere)),
    ?assertEqual({error, {bad_option, strings}}, py:await(py:spawn_call(math, sqrt, [9], #{}, #{strings => 1}))),
    ?assertEqual({error, timeout}, py:await(py:spawn_call(time, sleep, [1], #{}, 30))),
    ?assertEqual({error, timeout}, py:await(py:spawn_call(time, sleep, [1]), 30)),
    ?assertEqual([], live:flush()).

cancels(_) ->
    #{node := N} = Node = one_worker(),
    On = #{node => N},
    Gate = #{port := Port} = live:gate(),
    Running = py:spawn_call(gate, wait, [Port], #{}, On),
    Door = live:entered(Gate),
    Queued = py:spawn_call(box, put, [<<"cancelled">>, 1], #{}, On),
    [ok = py:cancel(Ref) || Ref <- [Queued, Running]],
    ?assertEqual([{error, cancelled}, {error, cancelled}], [py:await(Ref) || Ref <- [Queued, Running]]),
    [ok = py:cancel(Ref) || Ref <- [Queued, Running, make_ref()]],
    told(N),
    live:open(Door),
    ?assertEqual({ok, none}, py:call(box, get, [<<"cancelled">>], #{}, On)),
    ?assertEqual([], live:flush()),
    gone(Node).

parallel(_) ->
    Calls = [{operator, mul, [I, I]} || I <- lists:seq(1, 300)],
    ?assertEqual({ok, [{ok, I * I} || I <- lists:seq(1, 300)]}, py:parallel(Calls)),
    ?assertEqual({ok, []}, py:parallel([])),
    ?assertMatch({ok, [{ok, [1]}, {error, {'ValueError', _}}]},
                 py:parallel([{builtins, sorted, [[1]], #{reverse => true}}, {math, sqrt, [-1]}])),
    live:within(2000, fun() ->
        ?assertEqual({ok, [{error, timeout} || _ <- lists:seq(1, 5)]},
                     py:parallel([{time, sleep, [1]} || _ <- lists:seq(1, 5)], 100))
    end),
    ?assertEqual([], live:flush()).

%%% ------------------------------------------------------------------ limits

limit_queued(_) ->
    #{node := N} = Node = one_worker(),
    Gate = #{port := Port} = live:gate(),
    First = py:spawn_call(gate, wait, [Port, first], #{}, #{node => N}),
    Door = live:entered(Gate),
    ?assertEqual({error, timeout}, py:call(box, put, [<<"queued">>, 1], #{}, #{node => N, timeout => 50})),
    {ok, #{status := #{queued := 0}}} = py:info(N),
    live:open(Door),
    ?assertEqual({ok, first}, py:await(First)),
    ?assertEqual({ok, none}, py:call(box, get, [<<"queued">>], #{}, #{node => N})),
    gone(Node).

%% The node knows what this process has had cancelled.
told(Node) ->
    {{Node, Pid, _, _}} = py_table:nodes({node, Node}),
    #{} = py_node:info(Pid),
    {ok, _} = py:info(Node).

%% A node beside the configured one, with one worker and no more.
one_worker() ->
    Node = #{node := N} = live:pynode(#{args => ["--workers", "1", "--max-workers", "1"]}),
    ok = py:connect(N),
    Node.

gone(Node = #{node := N}) ->
    ok = py:disconnect(N),
    live:eventually(fun() -> not lists:member(N, py:nodes()) end),
    ?assertEqual(0, live:stop(Node)).

limit_decoding(_) ->
    Big = [integer_to_binary(I) || I <- lists:seq(1, 300000)],
    Results = [py:call(builtins, len, [Big], #{}, T) || T <- [1, 5, 10, 20, 40]],
    [?assert(R =:= {error, timeout} orelse R =:= {ok, 300000}) || R <- Results],
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4])),
    ?assertEqual([], live:flush()).

limit_running(_) ->
    ?assertEqual(ok, py:exec("def limit_spin():\n    while True:\n        pass\n")),
    live:within(3000, fun() ->
        ?assertEqual([{error, timeout} || _ <- [1, 2, 3, 4]],
                     live:pmap(fun(_) -> py:call('__main__', limit_spin, [], #{}, 100) end, [1, 2, 3, 4])),
        ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4]))
    end),
    idle().

%% No call is left running in the configured node.
idle() ->
    [Node] = py:nodes(),
    live:eventually(fun() ->
        {ok, #{status := #{running := Running, queued := Queued}}} = py:info(Node),
        {Running, Queued} =:= {0, 0} orelse {Running, Queued}
    end).

limit_encoding(_) ->
    Results = [py:call(builtins, 'list', [lists:seq(300, 200300)], #{}, T) || T <- [1, 3, 6, 12, 25]],
    [?assert(R =:= {error, timeout} orelse R =:= {ok, lists:seq(300, 200300)}) || R <- Results],
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4])),
    ?assertEqual([], live:flush()).

limit_under_way(_) ->
    Results = live:pmap(fun(_) ->
        R = [py:call(math, sqrt, [4], #{}, 0) || _ <- lists:seq(1, 200)],
        {R, process_info(self(), message_queue_len)}
    end, lists:seq(1, 20)),
    [begin
         ?assertEqual([], [R || R <- Rs, R =/= {error, timeout}, R =/= {ok, 2.0}]),
         ?assertEqual({message_queue_len, 0}, Queue)
     end || {Rs, Queue} <- Results],
    idle(),
    ?assertEqual({ok, 2.0}, py:call(math, sqrt, [4])).

%% A package that an exception has left in the middle of itself cannot be imported any more: its parts are there, and
%% nobody tells it so.
interrupted_import(#{node := Node}) ->
    Gate = #{port := Port} = live:gate(),
    Q = #{queue => imports},
    {ok, none} = py:eval(<<"__import__('os').environ.update(HALVES_GATE=str(port))">>, #{port => Port}),
    Ref = py:spawn_call(halves, spin, [], #{}, Q),
    Importing = live:entered(Gate),
    ok = py:cancel(Ref),
    ?assertEqual({error, cancelled}, py:await(Ref)),
    told(Node),
    [{ok, none} = py:call(time, sleep, [0.001]) || _ <- lists:seq(1, 50)], % whoever wants to interrupt has had its turn
    live:open(Importing),
    ?assertEqual({ok, [<<"spin">>]}, py:call(halves, 'whole.copy', [], #{}, Q)),
    ?assertEqual(ok, py:stop_queue(imports)).

interrupted(_) ->
    ?assertEqual(ok, py:exec("import erlang, threading, time\nimport box\n"
                             "def cleanup(key):\n"
                             "    try:\n        while True:\n            time.sleep(0.001)\n"
                             "    except erlang.Cancelled:\n"
                             "        box.put(key, 'Cancelled')\n        raise\n")),
    ?assertEqual({error, timeout}, py:call('__main__', cleanup, [<<"interrupted">>], #{}, 50)),
    ?assertEqual({ok, <<"Cancelled">>}, py:call(box, wait, [<<"interrupted">>])),
    idle(),
    %% Calls that end just when they are cancelled: the exception must not meet the next one.
    ?assertEqual(ok, py:exec("def brief(n):\n    for _ in range(n):\n        pass\n    return n\n")),
    Outcomes = live:pmap(fun(I) ->
        [begin
             Ref = py:spawn_call('__main__', brief, [1000 * J]),
             J rem 2 =:= 0 andalso py:cancel(Ref),
             {J, py:await(Ref)}
         end || J <- lists:seq(I, I + 100)]
    end, lists:seq(1, 8)),
    [?assert(R =:= {ok, 1000 * J} orelse (J rem 2 =:= 0 andalso R =:= {error, cancelled}))
     || List <- Outcomes, {J, R} <- List],
    ?assertEqual([], live:flush()).

caller_dies(_) ->
    [begin
         Gate = #{port := Port} = live:gate(),
         {Pid, Monitor} = spawn_monitor(fun() -> Start(Port) end),
         Door = live:entered(Gate),
         live:eventually(fun() -> Known(Pid) end),
         exit(Pid, kill),
         receive {'DOWN', Monitor, process, Pid, killed} -> ok end,
         live:open(Door),
         idle()
     end || {Start, Known} <- [{fun(Port) -> py:call(gate, wait, [Port]) end, fun is_monitored/1},
                               {fun(Port) -> py:await(py:spawn_call(gate, wait, [Port])) end, fun is_monitored/1}]],
    ?assertEqual(ok, py:exec("def forever():\n    while True:\n        pass\n")),
    Pids = [spawn(fun() -> py:call('__main__', forever, [], #{}, infinity) end) || _ <- [1, 2]],
    live:eventually(fun() -> lists:all(fun is_monitored/1, Pids) end),
    [exit(Pid, kill) || Pid <- Pids],
    idle().

is_monitored(Pid) ->
    {monitored_by, By} = process_info(Pid, monitored_by),
    lists:any(fun(P) -> is_pid(P) andalso P =/= self() end, By).

%% 40 callers are killed in the first moments of their calls; after two turns the count is right.
counter(_) ->
    [begin
         Pid = spawn(fun() -> py:call(time, sleep, [0.02]) end),
         live:eventually(fun() -> in_flight() > 0 end),
         exit(Pid, kill)
     end || _ <- lists:seq(1, 40)],
    live:eventually(20000, fun() -> in_flight() =:= 0 orelse in_flight() end).

in_flight() ->
    #{nodes := [#{in_flight := N} | _]} = py:info(),
    N.

many(_) ->
    Work = fun(Count) ->
        live:pmap(fun(P) ->
            [?assertEqual({ok, P * 1000 + I}, py:call(operator, add, [P * 1000, I])) || I <- lists:seq(1, 200)],
            process_info(self(), message_queue_len)
        end, lists:seq(1, Count))
    end,
    [?assertEqual([{message_queue_len, 0}], lists:usort(Work(Count))) || Count <- [1, 2, 8, 20, 100]].

large(_) ->
    Big = binary:copy(<<"0123456789abcdef">>, 200000),
    ?assertEqual({ok, Big}, py:call(echo, echo, [Big])),
    Results = live:pmap(fun(I) ->
        Mine = binary:copy(<<I>>, 1000 * I),
        [?assertEqual({ok, {bytes, Mine}}, bytes(py:call(echo, echo, [{bytes, Mine}]))) || _ <- [1, 2, 3]],
        done
    end, lists:seq(1, 60)),
    ?assertEqual([done], lists:usort(Results)).

bytes({ok, B}) when is_binary(B) -> {ok, {bytes, B}};
bytes(Other) -> Other.

%%% ------------------------------------------------------------------ queues and threads

queue_order(_) ->
    ?assertEqual(ok, py:exec("import threading\nseen, threads = {}, set()\n"
                             "def note(who, i):\n    seen.setdefault(who, []).append(i)\n"
                             "    threads.add(threading.get_ident())\n"
                             "def unordered():\n    return [w for w, s in seen.items() if s != sorted(s)]\n"
                             "def counts():\n    return [len(seen), sum(map(len, seen.values())), len(threads)]\n")),
    live:pmap(fun(Who) ->
        Refs = [py:spawn_call('__main__', note, [Who, I], #{}, #{queue => order}) || I <- lists:seq(1, 40)],
        Casts = [py:cast('__main__', note, [Who, I], #{}, #{queue => order}) || I <- lists:seq(41, 60)],
        [{ok, none} = py:call('__main__', note, [Who, I], #{}, #{queue => order}) || I <- lists:seq(61, 70)],
        [{ok, none} = py:await(Ref) || Ref <- Refs],
        Casts
    end, lists:seq(1, 50)),
    ?assertEqual({ok, []}, py:call('__main__', unordered, [])),
    ?assertEqual({ok, [50, 3500, 1]}, py:call('__main__', counts, [])),
    ?assertEqual(ok, py:stop_queue(order)).

queue_sqlite(_) ->
    Q = #{queue => {db, 1}},
    ?assertEqual(ok, py:exec("import sqlite3\ndef db_open():\n    global db\n    db = sqlite3.connect(':memory:')\n"
                             "def db_run(sql, args=()):\n    return [list(r) for r in db.execute(sql, args)]\n")),
    ?assertEqual({ok, none}, py:call('__main__', db_open, [], #{}, Q)),
    ?assertEqual({ok, []}, py:call('__main__', db_run, [<<"create table t (n)">>], #{}, Q)),
    live:pmap(fun(I) -> {ok, []} = py:call('__main__', db_run, [<<"insert into t values (?)">>, [I]], #{}, Q) end,
              lists:seq(1, 30)),
    ?assertEqual({ok, [[465]]}, py:call('__main__', db_run, [<<"select sum(n) from t">>], #{}, Q)),
    ?assertMatch({error, {'ProgrammingError', _}}, py:call('__main__', db_run, [<<"select 1">>])),
    ?assertEqual(ok, py:stop_queue({db, 1})).

queue_stop(_) ->
    Q = #{queue => stopped},
    Ident = fun() -> {ok, I} = py:call(threading, get_native_id, [], #{}, Q), I end,
    First = Ident(),
    ?assertEqual(First, Ident()),
    ok = py:exec("import box, time\ndef busy_queue():\n    box.put('busy_queue', 1)\n"
                 "    while True:\n        time.sleep(0.001)\n"),
    Running = py:spawn_call('__main__', busy_queue, [], #{}, Q),
    Waiting = [py:spawn_call(math, sqrt, [I * I], #{}, Q) || I <- [1, 2]],
    {ok, 1} = py:call(box, wait, [<<"busy_queue">>]),
    ?assertEqual({error, timeout}, py:stop_queue(stopped, 50)),
    ?assertEqual([{error, cancelled} || _ <- [Running | Waiting]], [py:await(Ref) || Ref <- [Running | Waiting]]),
    ?assertEqual(ok, py:stop_queue(stopped)),
    ?assertNotEqual(First, Ident()),
    ?assertEqual(ok, py:stop_queue(stopped)),
    idle().

thread_new(_) ->
    Before = threads(),
    Ids = live:pmap(fun(_) ->
        {ok, Id} = py:call(threading, get_native_id, [], #{}, #{thread => new}), Id
    end, lists:seq(1, 20)),
    ?assertEqual(20, length(Ids)),
    ?assertMatch({error, {'ValueError', _}}, py:call(math, sqrt, [-1], #{}, #{thread => new})),
    live:eventually(fun() -> threads() =< Before orelse threads() end).

threads() ->
    {ok, Threads} = py:call(pynode, threads, []),
    length(Threads).

queue_cancel(#{node := Node}) ->
    Q = #{queue => cancelled},
    Gate = #{port := Port} = live:gate(),
    Running = py:spawn_call(gate, wait, [Port], #{}, Q),
    Waiting = py:spawn_call(box, put, [<<"queue_cancel">>, 1], #{}, Q),
    Door = live:entered(Gate),
    [ok = py:cancel(Ref) || Ref <- [Waiting, Running]],
    ?assertEqual([{error, cancelled}, {error, cancelled}], [py:await(Ref) || Ref <- [Running, Waiting]]),
    told(Node),
    live:open(Door),
    ?assertEqual({ok, none}, py:call(box, get, [<<"queue_cancel">>], #{}, Q)),
    ?assertEqual(ok, py:stop_queue(cancelled)).

executor(#{node := Node}) ->
    ?assertEqual({ok, 3}, py:call(builtins, sum, [[1, 2]], #{}, #{executor => blocking})),
    ?assertEqual({ok, 13}, py:call(builtins, sum, [[1, 2]], #{start => 10}, #{executor => blocking})),
    ?assertMatch({error, {'ValueError', _}}, py:call(math, sqrt, [-1], #{}, #{executor => blocking})),
    {ok, Name} = py:eval("__import__('threading').current_thread().name", #{}, #{executor => blocking}),
    ?assertMatch(<<"blocking", _/binary>>, Name),
    ?assertMatch({ok, #{blocking := #{done := Done, threads := T}}} when Done >= 3 andalso T >= 1, py:stats(Node)).

%%% ------------------------------------------------------------------ logging and functions

logging(#{node := Node}) ->
    Self = self(),
    ok = logger:add_handler(?MODULE, ?MODULE, #{config => Self, level => all}),
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, all),
    ?assertEqual(ok, py:exec("import logging\nlogging.getLogger('app.db').warning('slow: %d ms', 7, extra={'table': 't'})\n")),
    ?assertEqual(logged, live:expect(5000, fun({log, #{level := warning, meta := Meta, msg := {string, Text}}}) ->
        <<"slow: 7 ms">> = unicode:characters_to_binary(Text),
        #{domain := [python], node := Node, logger_name := <<"app.db">>, line := 2,
          python := #{<<"table">> := <<"t">>}} = Meta,
        {ok, logged}
    end)),
    logger:set_primary_config(level, Level),
    logger:remove_handler(?MODULE),
    live:flush().

log(Event, #{config := Pid}) ->
    Pid ! {log, Event}.

functions(_) ->
    ?assertEqual(ok, py:register_function(add_one, fun([X]) -> X + 1 end)),
    ?assertEqual(ok, py:register_function("rev", lists, reverse)),
    ?assertMatch({lists, reverse}, py_table:function(<<"rev">>)),
    Fun = py_table:function(<<"add_one">>),
    ?assertEqual(2, Fun([1])),
    ?assertEqual({error, {bad_option, function}}, py:register_function(bad, fun() -> 1 end)),
    ?assertEqual({error, {bad_option, function}}, py:register_function(bad, "lists", reverse)),
    [ok = py:unregister_function(Name) || Name <- [add_one, <<"rev">>, never]],
    ?assertEqual(undefined, py_table:function(<<"add_one">>)).

callbacks(_) ->
    [ok = py:register_function(Name, F)
     || {Name, F} <- [{twice, fun([X]) -> 2 * X end}, {fail, fun([X]) -> error({bad, X}) end},
                      {throws, fun([X]) -> throw(X) end}, {exits, fun([X]) -> exit(X) end},
                      {killed, fun([]) -> exit(self(), kill), receive after infinity -> ok end end},
                      {slow, fun([]) -> receive after 60000 -> ok end end}, {no_form, fun([]) -> [1 | 2] end}]],
    ok = py:register_function(rev, lists, reverse),
    ok = py:exec("import erlang\n"
                 "def ask(name, *args, timeout=None):\n"
                 "    try:\n        return erlang.call(name, *args, timeout=timeout)\n"
                 "    except Exception as e:\n"
                 "        return [type(e).__name__, str(getattr(e, 'error_class', '')), str(e)]\n"),
    Ask = fun(Name, Args) -> {ok, V} = py:call('__main__', ask, [Name | Args]), V end,
    ?assertEqual(42, Ask(twice, [21])),
    ?assertEqual(42, Ask(<<"twice">>, [21])),
    ?assertEqual([3, 2, 1], Ask(rev, [[1, 2, 3]])),
    ?assertEqual([<<"ErlangError">>, <<"error">>, <<"error:(Atom('bad'), 1)">>], Ask(fail, [1])),
    ?assertEqual([<<"ErlangError">>, <<"throw">>, <<"throw:1">>], Ask(throws, [1])),
    ?assertEqual([<<"ErlangError">>, <<"exit">>, <<"exit:1">>], Ask(exits, [1])),
    ?assertEqual([<<"ErlangError">>, <<"exit">>, <<"exit:killed">>], Ask(killed, [])),
    ?assertEqual([<<"ErlangError">>, <<"error">>, <<"error:function_clause">>], Ask(twice, [1, 2])),
    ?assertEqual([<<"ErlangError">>, <<"error">>, <<"Function 'nobody' not registered">>], Ask(nobody, [])),
    ?assertMatch([<<"TypeError">>, _, <<"answer", _/binary>>], Ask(no_form, [])),
    ?assertMatch({ok, [<<"TimeoutError">>, _, _]}, py:call('__main__', ask, [slow], #{timeout => 0.05})),
    ?assertMatch({ok, [<<"ValueError">>, _, _]}, py:call('__main__', ask, [slow], #{timeout => -1})),
    ok = py:unregister_function(twice),
    ?assertEqual([<<"ErlangError">>, <<"error">>, <<"Function 'twice' not registered">>], Ask(twice, [1])),
    [ok = py:unregister_function(Name) || Name <- [fail, throws, exits, killed, slow, no_form, rev]].

nested(_) ->
    ok = py:register_function(deeper, fun([N]) -> {ok, V} = py:call('__main__', dig, [N - 1]), V + 1 end),
    ok = py:exec("import erlang\ndef dig(n):\n    return erlang.call('deeper', n) if n else 0\n"),
    ?assertEqual({ok, 40}, py:call('__main__', dig, [40])),
    ok = py:unregister_function(deeper).

callback_threads(_) ->
    ok = py:register_function(tag, fun([T, I]) -> [T, I] end),
    ok = py:exec("import erlang, threading\n"
                 "def many(threads, calls):\n"
                 "    wrong = []\n"
                 "    def work(t):\n"
                 "        for i in range(calls):\n"
                 "            if erlang.call('tag', t, i) != [t, i]:\n                wrong.append((t, i))\n"
                 "    ts = [threading.Thread(target=work, args=(t,)) for t in range(threads)]\n"
                 "    [t.start() for t in ts]\n    [t.join() for t in ts]\n    return wrong\n"),
    ?assertEqual({ok, []}, py:call('__main__', many, [32, 100])),
    ok = py:unregister_function(tag).

%%% ------------------------------------------------------------------ nodes

connected(#{node := Mine}) ->
    Node = #{node := N} = live:pynode(),
    ?assertEqual(ok, py:connect(N)),
    ?assertEqual(ok, py:connect(N)),
    ?assertEqual(lists:sort([Mine, N]), lists:sort(py:nodes())),
    ?assertMatch({ok, #{node := N}}, py:call(pynode, status, [], #{}, #{node => N})),
    [?assertEqual({ok, 2.0}, py:call(math, sqrt, [4])) || _ <- lists:seq(1, 20)],
    {ok, #{calls := Calls}} = py:stats(N),
    ?assert(Calls < 20), % those without a node go to the configured one
    ?assertEqual(ok, py:disconnect(N)),
    live:eventually(fun() -> py:nodes() =:= [Mine] end),
    ?assertEqual({error, {node_down, N, not_started}}, py:call(math, sqrt, [4], #{}, #{node => N})),
    ?assertEqual({error, not_connected}, py:disconnect(N)),
    ?assertEqual({error, configured}, py:disconnect(Mine)),
    ?assertEqual(pong, net_adm:ping(N)),
    ?assertEqual(ok, py:connect(N)),
    erlang:disconnect_node(N),
    live:eventually(fun() -> py:call(math, sqrt, [4], #{}, #{node => N}) =:= {ok, 2.0} end),
    gone(Node).

not_python(_) ->
    ?assertMatch({error, {not_reachable, 'nobody@127.0.0.1'}}, py:connect('nobody@127.0.0.1')),
    #{node := Beam} = live:peer(),
    ?assertMatch({error, {not_a_python_node, Beam}}, py:connect(Beam)).

connected_at_once(_) ->
    #{node := Node} = live:pynode(),
    [begin
         ?assertEqual(ok, py:connect(Node)),
         ?assertEqual({ok, I}, py:call(builtins, abs, [-I], #{}, #{node => Node})),
         ?assertEqual(ok, py:disconnect(Node)),
         ?assertEqual({error, {node_down, Node, not_started}}, py:call(builtins, abs, [-I], #{}, #{node => Node}))
     end || I <- lists:seq(1, 50)],
    ok.

drain_connected(_) ->
    Node = #{node := N} = live:pynode(),
    ok = py:connect(N),
    Gate = #{port := Port} = live:gate(),
    Ref = py:spawn_call(gate, wait, [Port, done], #{}, #{node => N}),
    Door = live:entered(Gate),
    ?assertEqual(ok, py:drain(N)),
    ?assertEqual({error, {node_down, N, not_started}}, py:call(math, sqrt, [4], #{}, #{node => N})),
    live:open(Door),
    ?assertEqual({ok, done}, py:await(Ref)),
    ?assertEqual(0, live:wait_exit(Node)).

drain_cancelled(_) ->
    Node = #{node := N} = live:pynode(),
    ok = py:connect(N),
    Ref = py:spawn_call(time, sleep, [60], #{}, #{node => N}),
    {{N, Pid, _, _}} = py_table:nodes({node, N}),
    live:eventually(fun() -> #{started := Refs} = py_node:info(Pid), lists:member(Ref, Refs) end),
    ok = py:cancel(Ref),
    ?assertEqual({error, cancelled}, py:await(Ref)),
    live:within(10000, fun() ->
        ?assertEqual(ok, py:drain(N)),
        ?assertEqual(0, live:wait_exit(Node))
    end).

nowhere(_) ->
    Down = {error, {node_down, 'nobody@127.0.0.1', not_started}},
    Opts = #{node => 'nobody@127.0.0.1'},
    ?assertEqual(Down, py:call(math, sqrt, [4], #{}, Opts)),
    ?assertEqual(Down, py:eval("1", #{}, Opts)),
    ?assertEqual(Down, py:exec("1", Opts)),
    ?assertEqual(Down, py:version('nobody@127.0.0.1')),
    ?assertEqual(Down, py:stats('nobody@127.0.0.1')),
    ?assertEqual(Down, py:info('nobody@127.0.0.1')).

no_litter(_) ->
    idle(),
    live:eventually(fun() -> ets:tab2list(py_calls) =:= [] end),
    live:eventually(fun() -> in_flight() =:= 0 end),
    live:eventually(fun() -> Waiting = [P || Name <- [py_coordinator, py_table, py_log, pynode_sup],
                                             P <- [{Name, process_info(whereis(Name), message_queue_len)}],
                                             element(2, P) =/= {message_queue_len, 0}],
                             Waiting =:= [] orelse Waiting end). % one that comes now and then is read
