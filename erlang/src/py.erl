%% py - Python from Erlang and Elixir: calls, tasks, functions, nodes.
%% @doc Python from Erlang and Elixir.
%%
%% Every call ends exactly once, in one of
%%
%% ```
%% {ok, Value}
%% {error, {Type, Message}}                           % Python raised: {error, {'ValueError', <<"...">>}}
%% {error, {Type, Message, Stack}}                    % with #{traceback => true}
%% {error, timeout}        {error, cancelled}         % the work in Python is stopped, too
%% {error, overloaded}     {error, draining}          % the node takes no more
%% {error, {node_down, Node, not_started | started | unknown}}
%% {error, {not_allowed, {Module, Function}}}         % by the node's --allow
%% {error, {bad_option, Key}}
%% '''
%%
%% Modules and functions are atoms, binaries or strings, and may be dotted: `py:call('os.path', join, ["a", "b"])'.
%% How terms become Python objects and back: docs/terms.md.
-module(py).

-compile({no_auto_import, [nodes/0, register/2]}).

-export([call/3, call/4, call/5, eval/1, eval/2, eval/3, exec/1, exec/2]).
-export([cast/3, cast/4, cast/5, spawn_call/3, spawn_call/4, spawn_call/5, await/1, await/2, cancel/1]).
-export([parallel/1, parallel/2, async_call/3, async_call/4, async_await/1, async_await/2]).
-export([async_gather/1, async_gather/2, map/3, map/4, create_tasks/1, create_tasks/2]).
-export([stream/3, stream/4, stream/5, stream_eval/1, stream_eval/2, stream_eval/3]).
-export([stream_start/3, stream_start/4, stream_start/5, stream_cancel/1]).
-export([register_function/2, register_function/3, unregister_function/1]).
-export([nodes/0, connect/1, connect/2, disconnect/1, info/0, info/1, stats/1, drain/1, drain/2]).
-export([version/0, version/1, memory_stats/0, memory_stats/1, gc/0, gc/1, reload/1, reload/2]).
-export([stop_queue/1, stop_queue/2]).
-export([pool_start/2, pool_stop/1, pool_stop/2, pool_resize/2, pool_info/1, pools/0, rolling_restart/1, rolling_restart/2]).
-export([register_pool/2, unregister_pool/1, cluster/0]).

-export_type([name/0, kwargs/0, options/0, stream_options/0, result/0, reason/0]).

-type name() :: atom() | binary() | string().
%% Keyword arguments: `#{indent => 2}'.
-type kwargs() :: #{atom() | binary() => term()}.
-type options() :: #{timeout => timeout(),
                     node => node() | atom(),
                     strings => utf8 | bytes,
                     traceback => boolean(),
                     queue => term(),
                     thread => new,
                     executor => blocking,
                     pool => atom(),
                     labels => map(),
                     key => term(),
                     affinity => soft | strict,
                     idempotent => boolean(),
                     retries => non_neg_integer(),
                     queue_timeout => timeout()}.
%% `timeout' in milliseconds, 30000 if it is not given. `node': a node, or the name that configured nodes
%% share. `queue': one after another, in order, on one thread; of several nodes at one, as long as that is up.
%% `thread': on a thread of its own. `executor': in the thread pool of `erlang.blocking'.
-type stream_options() :: #{window => pos_integer(),
                            executor => boolean() | blocking,
                            timeout => timeout(),
                            node => node() | atom(),
                            strings => utf8 | bytes,
                            traceback => boolean(),
                            queue => term(),
                            thread => new}.
%% `window': items that are on their way at most, 64, or 4096 when all are collected. `executor => true': in a worker.
-type result() :: {ok, term()} | {error, reason()}.
-type reason() :: term().

-define(TIMEOUT, 30000).
-define(is_limit(T), (T =:= infinity orelse is_integer(T) andalso T >= 0 andalso T =< 16#ffffffff)). % as after's

%%% ------------------------------------------------------------------ calls

%% @doc Calls a Python function.
%%
%% ```
%% {ok, 4.0} = py:call(math, sqrt, [16]).
%% {error, {'ValueError', _}} = py:call(math, sqrt, [-1]).
%% '''
-spec call(name(), name(), list()) -> result().
call(Module, Function, Args) ->
    py_call:call(Module, Function, Args).

%% @doc Calls it with keyword arguments.
%%
%% ```
%% {ok, <<"[\n 1\n]">>} = py:call(json, dumps, [[1]], #{indent => 1}).
%% '''
-spec call(name(), name(), list(), kwargs()) -> result().
call(Module, Function, Args, Kwargs) ->
    call(Module, Function, Args, Kwargs, ?TIMEOUT).

%% @doc Calls it with a time limit in milliseconds, or with options.
%%
%% ```
%% {error, timeout} = py:call(time, sleep, [1], #{}, 20).
%% {ok, <<"abc">>} = py:call(builtins, bytes, [<<"abc">>], #{}, #{strings => bytes, timeout => 1000}).
%% '''
-spec call(name(), name(), list(), kwargs(), timeout() | options()) -> result().
call(Module, Function, Args, Kwargs, Options) ->
    py_call:call(Module, Function, Args, Kwargs, Options).

%% @doc The value of a Python expression.
%%
%% ```
%% {ok, 6} = py:eval(<<"sum(range(4))">>).
%% '''
-spec eval(iodata()) -> result().
eval(Code) ->
    eval(Code, #{}).

%% @doc The value of an expression with these names.
%%
%% ```
%% {ok, 50} = py:eval(<<"x * y">>, #{x => 5, y => 10}).
%% '''
-spec eval(iodata(), kwargs()) -> result().
eval(Code, Locals) ->
    eval(Code, Locals, ?TIMEOUT).

%% @doc The same with a time limit or options.
%%
%% ```
%% {error, timeout} = py:eval(<<"__import__('time').sleep(1)">>, #{}, 20).
%% '''
-spec eval(iodata(), kwargs(), timeout() | options()) -> result().
eval(Code, Locals, Options) when is_map(Locals) ->
    run_code(eval, Code, [none, Locals], Options);
eval(_, _, _) ->
    {error, {bad_option, locals}}.

run_code(Function, Code, Args, Options) ->
    case py_call:text(Code) of
        error -> {error, {bad_option, code}};
        Text -> call(builtins, Function, [Text | Args], #{}, Options)
    end.

%% @doc Runs statements in Python's `__main__', where later calls find what they define.
%%
%% ```
%% ok = py:exec(<<"def twice(x):\n    return 2 * x\n">>),
%% {ok, 8} = py:call('__main__', twice, [4]).
%% '''
-spec exec(iodata()) -> ok | {error, reason()}.
exec(Code) ->
    exec(Code, ?TIMEOUT).

%% @doc The same with a time limit or options.
%%
%% ```
%% ok = py:exec(<<"import json">>, #{timeout => 5000}).
%% '''
-spec exec(iodata(), timeout() | options()) -> ok | {error, reason()}.
exec(Code, Options) ->
    case run_code(exec, Code, [], Options) of
        {ok, _} -> ok;
        Error -> Error
    end.

%%% ------------------------------------------------------------------ without waiting

%% @doc Calls a function and asks for no answer; its error is in the node's log.
%%
%% ```
%% ok = py:cast(builtins, print, [<<"hello">>]).
%% '''
-spec cast(name(), name(), list()) -> ok | {error, {bad_option, term()}}.
cast(Module, Function, Args) ->
    cast(Module, Function, Args, #{}).

%% @doc The same with keyword arguments.
%%
%% ```
%% ok = py:cast(builtins, print, [1, 2], #{sep => <<"-">>}).
%% '''
-spec cast(name(), name(), list(), kwargs()) -> ok | {error, {bad_option, term()}}.
cast(Module, Function, Args, Kwargs) ->
    cast(Module, Function, Args, Kwargs, #{}).

%% @doc The same with options. A cast to a node that is not there is dropped, as a message would be.
%%
%% ```
%% ok = py:cast(builtins, print, [1], #{}, #{queue => printer}).
%% '''
-spec cast(name(), name(), list(), kwargs(), options()) -> ok | {error, {bad_option, term()}}.
cast(Module, Function, Args, Kwargs, Options) ->
    case py_call:check(Module, Function, Kwargs, Options) of
        {ok, M, F, Checked} -> py_task:cast(M, F, Args, Checked);
        Error -> Error
    end.

%% @doc Begins a call. Its answer comes as the message `{py_response, Ref, Result}', also when the node
%% goes; `await/1' waits for it. The call is cancelled when this process ends.
%%
%% ```
%% Ref = py:spawn_call(math, sqrt, [9.0]),
%% {ok, 3.0} = py:await(Ref).
%% '''
-spec spawn_call(name(), name(), list()) -> reference().
spawn_call(Module, Function, Args) when is_atom(Module), is_atom(Function) ->
    py_task:start(py_response, self(), Module, Function, Args, {ok, default, default, #{}, false, infinity});
spawn_call(Module, Function, Args) ->
    spawn_call(Module, Function, Args, #{}).

%% @doc The same with keyword arguments.
%%
%% ```
%% Ref = py:spawn_call(json, dumps, [[1]], #{indent => 0}),
%% {ok, <<"[\n1\n]">>} = py:await(Ref).
%% '''
-spec spawn_call(name(), name(), list(), kwargs()) -> reference().
spawn_call(Module, Function, Args, Kwargs) ->
    spawn_call(Module, Function, Args, Kwargs, infinity).

%% @doc The same with a time limit or options.
%%
%% ```
%% Ref = py:spawn_call(time, sleep, [1], #{}, 20),
%% {error, timeout} = receive {py_response, Ref, Result} -> Result end.
%% '''
-spec spawn_call(name(), name(), list(), kwargs(), timeout() | options()) -> reference().
spawn_call(Module, Function, Args, Kwargs, Options) ->
    case py_call:check(Module, Function, Kwargs, spawn_options(Options)) of
        {ok, M, F, Checked} -> py_task:start(py_response, self(), M, F, Args, Checked);
        Error -> py_task:refuse(py_response, Error)
    end.

%% The limit of what nobody may wait for is that of await/1,2, unless one is given.
spawn_options(Options) when is_map(Options) -> maps:merge(#{timeout => infinity}, Options);
spawn_options(Timeout) -> Timeout.

%% @doc Waits up to 30 s for what `spawn_call' has begun.
%%
%% ```
%% {ok, 3} = py:await(py:spawn_call(builtins, len, [[1, 2, 3]])).
%% '''
-spec await(reference()) -> result().
await(Ref) ->
    await(Ref, ?TIMEOUT).

%% @doc Waits as long as the limit says; when it passes the call is cancelled.
%%
%% ```
%% {error, timeout} = py:await(py:spawn_call(time, sleep, [1]), 20).
%% '''
-spec await(reference(), timeout()) -> result().
await(Ref, Timeout) when ?is_limit(Timeout) ->
    py_task:await(Ref, Timeout);
await(_, _) ->
    {error, {bad_option, timeout}}.

%% @doc Cancels what `spawn_call' has begun: its answer is `{error, cancelled}', unless it has one already.
%% In Python a running call gets the exception `erlang.Cancelled'.
%%
%% ```
%% Ref = py:spawn_call(time, sleep, [1]),
%% ok = py:cancel(Ref),
%% {error, cancelled} = py:await(Ref).
%% '''
-spec cancel(reference()) -> ok.
cancel(Ref) ->
    case py_table:stream(Ref) of
        {ok, Pid} -> py_stream:cancel(Pid, {error, cancelled});
        none -> py_task:cancel(Ref)
    end.

%% @doc Several calls at once, as `{Module, Function, Args}' or with keyword arguments. The answers are
%% in the order of the calls, each as `call/3' would give it.
%%
%% ```
%% {ok, [{ok, 2.0}, {error, {'ValueError', _}}]} = py:parallel([{math, sqrt, [4]}, {math, sqrt, [-4]}]).
%% '''
-spec parallel([{name(), name(), list()} | {name(), name(), list(), kwargs()}]) ->
          {ok, [result()]} | {error, {bad_option, term()}}.
parallel(Calls) ->
    parallel(Calls, #{}).

%% @doc The same with a time limit for all of them together, or options for each.
%%
%% ```
%% {ok, [{error, timeout}, {ok, 1}]} =
%%     py:parallel([{time, sleep, [1]}, {builtins, abs, [-1]}], 100).
%% '''
-spec parallel([{name(), name(), list()} | {name(), name(), list(), kwargs()}], timeout() | options()) ->
          {ok, [result()]} | {error, {bad_option, term()}}.
parallel(Calls, Options) ->
    gather(Calls, py_call:options(#{}, Options)).

gather(Calls, Checked) ->
    case {py_task:are_calls(Calls), Checked} of
        {true, {error, _}} -> Checked;
        {true, _} -> {ok, py_task:gather(Calls, Checked)};
        {false, _} -> {error, {bad_option, calls}}
    end.

%%% ------------------------------------------------------------------ tasks of the event loop

%% @doc Begins a task of the event loop: the same as `py_event_loop:create_task/3'. Its end comes as the message
%% `{async_result, Ref, Result}'.
%%
%% ```
%% Ref = py:async_call(asyncio, sleep, [0.01, done]),
%% {ok, done} = py:async_await(Ref).
%% '''
-spec async_call(name(), name(), list()) -> reference().
async_call(Module, Function, Args) ->
    py_event_loop:create_task(Module, Function, Args).

%% @doc The same with keyword arguments.
%%
%% ```
%% Ref = py:async_call(asyncio, sleep, [0.01], #{result => done}),
%% {ok, done} = py:async_await(Ref).
%% '''
-spec async_call(name(), name(), list(), kwargs()) -> reference().
async_call(Module, Function, Args, Kwargs) ->
    py_event_loop:create_task(Module, Function, Args, #{kwargs => Kwargs}).

%% @doc Waits up to 30 s for a task of this process.
%%
%% ```
%% {ok, 2.0} = py:async_await(py:async_call(math, sqrt, [4])).
%% '''
-spec async_await(reference()) -> result().
async_await(Ref) ->
    async_await(Ref, ?TIMEOUT).

%% @doc Waits as long as the limit says; when it passes the task is cancelled.
%%
%% ```
%% {error, timeout} = py:async_await(py:async_call(asyncio, sleep, [1]), 20).
%% '''
-spec async_await(reference(), timeout()) -> result().
async_await(Ref, Timeout) ->
    py_event_loop:await(Ref, Timeout).

%% @doc Several tasks at once, as `{Module, Function, Args}' or with keyword arguments, with one message. The
%% answers are in the order of the tasks.
%%
%% ```
%% {ok, [{ok, a}, {error, {'ValueError', _}}]} = py:async_gather([{asyncio, sleep, [0.01, a]}, {math, sqrt, [-1]}]).
%% '''
-spec async_gather([py_task:call()]) -> {ok, [result()]} | {error, {bad_option, term()}}.
async_gather(Calls) ->
    async_gather(Calls, #{}).

%% @doc The same with a time limit for all of them together, or options for each.
%%
%% ```
%% {ok, [{error, timeout}, {ok, 1}]} = py:async_gather([{asyncio, sleep, [1]}, {builtins, abs, [-1]}], 100).
%% '''
-spec async_gather([py_task:call()], timeout() | py_event_loop:options()) ->
          {ok, [result()]} | {error, {bad_option, term()}}.
async_gather(Calls, Options) ->
    gather(Calls, py_task:options(Options, ?TIMEOUT)).

%% @doc Calls one function with each of many argument lists, as tasks of the event loop, with one message. The
%% results are in their order, and what fails is that one's error.
%%
%% ```
%% {ok, [{ok, 1.0}, {ok, 2.0}, {error, {'ValueError', _}}]} = py:map(math, sqrt, [[1], [4], [-1]]).
%% '''
-spec map(name(), name(), [list()]) -> {ok, [result()]} | {error, reason()}.
map(Module, Function, ListOfArgs) ->
    map(Module, Function, ListOfArgs, #{}).

%% @doc The same with a time limit for all of them together, or options.
%%
%% ```
%% {ok, [{ok, <<"{}">>}]} = py:map(json, dumps, [[#{}]], #{kwargs => #{sort_keys => true}}).
%% '''
-spec map(name(), name(), [list()], timeout() | py_event_loop:options()) -> {ok, [result()]} | {error, reason()}.
map(Module, Function, ListOfArgs, Options) ->
    case py_task:check(Module, Function, Options, ?TIMEOUT) of
        {ok, M, F, {ok, Key, Where, Wire = #{loop := true}, Queued, Limit}} ->
            case is_proper(ListOfArgs) of
                true when element(1, Key) =:= pool -> py_pool_call:map(M, F, ListOfArgs, Key, {Wire#{map => true}, Queued, Limit});
                true -> py_call:run(M, F, ListOfArgs, {ok, Key, Where, Wire#{map => true}, Queued, Limit});
                false -> {error, {bad_option, args}}
            end;
        {ok, _, _, _} ->
            {error, {bad_option, executor}}; % or queue or thread
        Error ->
            Error
    end.

is_proper(List) ->
    try length(List) of
        _ -> true
    catch
        error:badarg -> false
    end.

%% @doc Begins many tasks with one message: the same as `py_event_loop:create_tasks/1'.
%%
%% ```
%% [Ref] = py:create_tasks([{math, sqrt, [4]}]),
%% {ok, 2.0} = py:async_await(Ref).
%% '''
-spec create_tasks([py_task:call()]) -> [reference()] | {error, {bad_option, term()}}.
create_tasks(Calls) ->
    py_event_loop:create_tasks(Calls).

%% @doc The same with a time limit or options for each.
%%
%% ```
%% [Ref] = py:create_tasks([{math, sqrt, [4]}], #{timeout => 5000}),
%% {ok, 2.0} = py:async_await(Ref).
%% '''
-spec create_tasks([py_task:call()], timeout() | py_event_loop:options()) ->
          [reference()] | {error, {bad_option, term()}}.
create_tasks(Calls, Options) ->
    py_event_loop:create_tasks(Calls, Options).

%%% ------------------------------------------------------------------ streams

%% @doc All that a generator yields, in order: of a generator function, an asynchronous one, or any that returns
%% something iterable. It runs on the node's event loop, 30 s at most.
%%
%% ```
%% {ok, [0, 1, 2]} = py:stream(builtins, range, [3]).
%% '''
-spec stream(name(), name(), list()) -> {ok, list()} | {error, reason()}.
stream(Module, Function, Args) ->
    stream(Module, Function, Args, #{}).

%% @doc The same with keyword arguments.
%%
%% ```
%% {ok, [{1, <<"a">>}]} = py:stream(builtins, enumerate, [[<<"a">>]], #{start => 1}).
%% '''
-spec stream(name(), name(), list(), kwargs()) -> {ok, list()} | {error, reason()}.
stream(Module, Function, Args, Kwargs) ->
    stream(Module, Function, Args, Kwargs, ?TIMEOUT).

%% @doc The same with a time limit or options. With `executor => true' a worker runs the generator, as one that
%% blocks should.
%%
%% ```
%% {ok, [0, 1]} = py:stream(builtins, range, [2], #{}, #{executor => true, timeout => 1000}).
%% {error, timeout} = py:stream(itertools, count, [], #{}, 50).
%% '''
-spec stream(name(), name(), list(), kwargs(), timeout() | stream_options()) -> {ok, list()} | {error, reason()}.
stream(Module, Function, Args, Kwargs, Options) ->
    py_stream:collect(Module, Function, Args, {Kwargs, Options}).

%% @doc All that the value of an expression yields.
%%
%% ```
%% {ok, [0, 1, 4]} = py:stream_eval(<<"(x * x for x in range(3))">>).
%% '''
-spec stream_eval(iodata()) -> {ok, list()} | {error, reason()}.
stream_eval(Code) ->
    stream_eval(Code, #{}).

%% @doc The same with these names.
%%
%% ```
%% {ok, [0, 2]} = py:stream_eval(<<"(x * n for x in range(2))">>, #{n => 2}).
%% '''
-spec stream_eval(iodata(), kwargs()) -> {ok, list()} | {error, reason()}.
stream_eval(Code, Locals) ->
    stream_eval(Code, Locals, ?TIMEOUT).

%% @doc The same with a time limit or options.
%%
%% ```
%% {ok, [1]} = py:stream_eval(<<"[n]">>, #{n => 1}, #{timeout => 1000}).
%% '''
-spec stream_eval(iodata(), kwargs(), timeout() | stream_options()) -> {ok, list()} | {error, reason()}.
stream_eval(Code, Locals, Options) when is_map(Locals) ->
    case py_call:text(Code) of
        error -> {error, {bad_option, code}};
        Text -> stream(builtins, eval, [Text, none, Locals], #{}, Options)
    end;
stream_eval(_, _, _) ->
    {error, {bad_option, locals}}.

%% @doc Begins a stream. What it yields comes as the messages `{py_stream, Ref, {data, Value}}', and its end as
%% `{py_stream, Ref, done}' or `{py_stream, Ref, {error, Reason}}', once. At most 64 items are in the mailbox: the
%% generator waits until some have been taken out. It is closed when this process ends.
%%
%% ```
%% Ref = py:stream_start(builtins, range, [2]),
%% receive {py_stream, Ref, {data, 0}} -> ok end,
%% receive {py_stream, Ref, {data, 1}} -> ok end,
%% receive {py_stream, Ref, done} -> ok end.
%% '''
-spec stream_start(name(), name(), list()) -> reference().
stream_start(Module, Function, Args) ->
    stream_start(Module, Function, Args, #{}).

%% @doc The same with keyword arguments.
%%
%% ```
%% Ref = py:stream_start(builtins, enumerate, [[]], #{start => 1}),
%% receive {py_stream, Ref, done} -> ok end.
%% '''
-spec stream_start(name(), name(), list(), kwargs()) -> reference().
stream_start(Module, Function, Args, Kwargs) ->
    stream_start(Module, Function, Args, Kwargs, infinity).

%% @doc The same with a time limit or options. `window': how many items may wait to be taken out of the mailbox.
%%
%% ```
%% Ref = py:stream_start(itertools, count, [], #{}, #{window => 2}),
%% receive {py_stream, Ref, {data, 0}} -> ok end,
%% ok = py:stream_cancel(Ref).
%% '''
-spec stream_start(name(), name(), list(), kwargs(), timeout() | stream_options()) -> reference().
stream_start(Module, Function, Args, Kwargs, Options) ->
    py_stream:start(Module, Function, Args, {Kwargs, Options}).

%% @doc Ends a stream that this process has begun: its generator is closed. No message of it is in the mailbox
%% afterwards, nor will one come. `cancel/1' ends it, too, with the message `{py_stream, Ref, {error, cancelled}}'.
%%
%% ```
%% Ref = py:stream_start(itertools, count, []),
%% ok = py:stream_cancel(Ref),
%% none = receive {py_stream, Ref, _} -> some after 0 -> none end.
%% '''
-spec stream_cancel(reference()) -> ok.
stream_cancel(Ref) ->
    py_stream:cancel(Ref).

%%% ------------------------------------------------------------------ functions for Python

%% @doc Lets Python call this function by its name; it takes the list of arguments. Each call is a process of its
%% own, which is killed when Python waits no longer.
%%
%% ```
%% ok = py:register_function(add_one, fun([X]) -> X + 1 end).
%% '''
-spec register_function(name(), fun((list()) -> term())) ->
          ok | {error, {bad_option, name | function} | not_started}.
register_function(Name, Function) when is_function(Function, 1) ->
    named(Name, fun(Binary) -> py_table:add_function(Binary, Function) end);
register_function(_, _) ->
    {error, {bad_option, function}}.

%% @doc Lets Python call `Module:Function', with as many arguments as it gives.
%%
%% ```
%% ok = py:register_function(reverse, lists, reverse).
%% '''
-spec register_function(name(), module(), atom()) ->
          ok | {error, {bad_option, name | function} | not_started}.
register_function(Name, Module, Function) when is_atom(Module), is_atom(Function) ->
    named(Name, fun(Binary) -> py_table:add_function(Binary, {Module, Function}) end);
register_function(_, _, _) ->
    {error, {bad_option, function}}.

%% @doc Takes the name away again.
%%
%% ```
%% ok = py:unregister_function(reverse).
%% '''
-spec unregister_function(name()) -> ok | {error, {bad_option, name} | not_started}.
unregister_function(Name) ->
    named(Name, fun py_table:remove_function/1).

%% Does it with the name as Python will say it.
named(Name, Do) when is_atom(Name) ->
    Do(atom_to_binary(Name));
named(Name, Do) ->
    case py_call:text(Name) of
        error -> {error, {bad_option, name}};
        Binary -> Do(Binary)
    end.

%%% ------------------------------------------------------------------ nodes

%% @doc The Python nodes that this VM is attached to.
%%
%% ```
%% [Node] = py:nodes().
%% '''
-spec nodes() -> [node()].
nodes() ->
    py_coordinator:nodes().

%% @doc Attaches a Python node that was started elsewhere. When the connection is lost it is made again,
%% until `disconnect/1'. What is wrong is `{not_reachable, Node}', `{not_a_python_node, Node}', `{too_many_nodes, Node}' for
%% more than 4096, `timeout' or `not_started'.
%%
%% ```
%% {error, _} = py:connect('nobody@127.0.0.1').
%% '''
-spec connect(node()) -> ok | {error, term()}.
connect(Node) ->
    connect(Node, ?TIMEOUT).

%% @doc The same with a time limit in milliseconds.
%%
%% ```
%% {error, _} = py:connect('nobody@127.0.0.1', 5000).
%% '''
-spec connect(node(), timeout()) -> ok | {error, term()}.
connect(Node, Timeout) when is_atom(Node), ?is_limit(Timeout) ->
    py_coordinator:connect(Node, Timeout);
connect(Node, _) when is_atom(Node) ->
    {error, {bad_option, timeout}};
connect(_, _) ->
    {error, {bad_option, node}}.

%% @doc Lets go of a node that was attached by `connect/1' or has come by itself. It lives on.
%%
%% ```
%% {error, not_connected} = py:disconnect('nobody@127.0.0.1').
%% '''
-spec disconnect(node()) -> ok | {error, term()}.
disconnect(Node) ->
    py_coordinator:disconnect(Node).

%% @doc What there is: each node with its state, where it comes from, its calls in flight, and what it
%% said of itself when it was attached.
%%
%% ```
%% #{nodes := [#{state := up, source := port, info := #{python := _}}], down := []} = py:info().
%% '''
-spec info() -> map() | {error, term()}.
info() ->
    py_coordinator:info().

%% @doc The same of one node, and how it is now (`pynode:status/0').
%%
%% ```
%% [Node] = py:nodes(),
%% {ok, #{status := #{state := ready}}} = py:info(Node).
%% '''
-spec info(node()) -> {ok, map()} | {error, reason()}.
info(Node) ->
    case {py_coordinator:info(), own(Node, status)} of
        {#{nodes := Nodes}, {ok, Status}} ->
            case [Info || Info = #{node := Name} <- Nodes, Name =:= Node] of
                [Info] -> {ok, Info#{status => Status}};
                [] -> {error, {node_down, Node, not_started}}
            end;
        {#{}, Error} ->
            Error;
        {Error, _} ->
            Error
    end.

%% @doc What the node has counted since its start, with the pool of `erlang.blocking' if it is in use.
%%
%% ```
%% [Node] = py:nodes(),
%% {ok, #{calls := _, errors := _, blocking := _}} = py:stats(Node).
%% '''
-spec stats(node() | atom()) -> {ok, map()} | {error, reason()}.
stats(Node) ->
    case own(Node, stats) of
        {ok, Stats} ->
            case call('erlang.blocking', '_default_stats', [], #{}, #{node => Node}) of
                {ok, Pool} -> {ok, Stats#{blocking => Pool}};
                {error, _} -> {ok, Stats#{blocking => none}}
            end;
        Error ->
            Error
    end.

%% @doc Lets a node finish what it has and leave, whichever VM has it. It is not started again.
%%
%% ```
%% {error, {node_down, 'nobody@127.0.0.1', not_started}} = py:drain('nobody@127.0.0.1').
%% '''
-spec drain(node()) -> ok | {error, reason()}.
drain(Node) ->
    drain(Node, ?TIMEOUT).

%% @doc The same with a time limit in milliseconds, after which it is stopped.
%%
%% ```
%% {error, {node_down, 'nobody@127.0.0.1', not_started}} = py:drain('nobody@127.0.0.1', 1000).
%% '''
-spec drain(node(), timeout()) -> ok | {error, reason()}.
drain(_, Timeout) when not ?is_limit(Timeout) ->
    {error, {bad_option, timeout}};
drain(Node, Timeout) ->
    case py_cluster:owner(Node) of
        Vm when Vm =:= node(); Vm =:= none -> drain_here(Node, Timeout);
        Vm -> drain_at(Vm, Node, Timeout)
    end.

drain_here(Node, Timeout) ->
    case py_coordinator:stop_node(Node, 5000) of
        {port, Port} -> py_port:stop(Port, Timeout);
        connected -> drain_connected(Node);
        Error -> Error
    end.

%% Whoever has started it would start it again.
drain_at(Vm, Node, Timeout) ->
    try erpc:call(Vm, ?MODULE, drain, [Node, Timeout], infinity)
    catch
        error:{erpc, Reason} -> {error, {Vm, Reason}}
    end.

drain_connected(Node) ->
    Ref = erlang:monitor(process, {pynode, Node}, [{alias, reply_demonitor}]),
    {pynode, Node} ! {call, Ref, pynode, drain, [], #{}},
    receive
        {py_response, Ref, {ok, _}} -> ok;
        {py_response, Ref, Error} -> Error;
        {'DOWN', Ref, process, _, _} -> ok
    after ?TIMEOUT ->
            erlang:demonitor(Ref, [flush]),
            {error, timeout}
    end.

%% @doc The versions of pynode, Python and erl_interface.
%%
%% ```
%% {ok, #{python := <<"3.", _/binary>>}} = py:version().
%% '''
-spec version() -> {ok, map()} | {error, reason()}.
version() ->
    version(default).

%% @doc The same of one node.
%%
%% ```
%% [Node] = py:nodes(),
%% {ok, #{pynode := _}} = py:version(Node).
%% '''
-spec version(node() | atom()) -> {ok, map()} | {error, reason()}.
version(Node) ->
    own(Node, version).

%% @doc What Python's collector has counted, and the memory of the process in bytes.
%%
%% ```
%% {ok, #{gc_count := [_, _, _], rss := _}} = py:memory_stats().
%% '''
-spec memory_stats() -> result().
memory_stats() ->
    memory_stats(default).

%% @doc The same of one node.
%%
%% ```
%% [Node] = py:nodes(),
%% {ok, #{rss := _}} = py:memory_stats(Node).
%% '''
-spec memory_stats(node() | atom()) -> result().
memory_stats(Node) ->
    at(Node, 'erlang._node', memory_stats, []).

%% @doc Runs Python's collector; the value is how many objects it could not reach.
%%
%% ```
%% {ok, Count} = py:gc(), true = is_integer(Count).
%% '''
-spec gc() -> {ok, non_neg_integer()} | {error, reason()}.
gc() ->
    gc(default).

%% @doc The same at one node.
%%
%% ```
%% [Node] = py:nodes(),
%% {ok, _} = py:gc(Node).
%% '''
-spec gc(node() | atom()) -> {ok, non_neg_integer()} | {error, reason()}.
gc(Node) ->
    at(Node, gc, collect, []).

%% @doc Loads a module anew in every node, or for the first time.
%%
%% ```
%% ok = py:reload(json).
%% '''
-spec reload(name()) -> ok | {error, [{node(), reason()}]}.
reload(Module) ->
    Results = [{Node, reload(Node, Module)} || Node <- nodes()],
    case [{Node, Reason} || {Node, {error, Reason}} <- Results] of
        [] -> ok;
        Failed -> {error, Failed}
    end.

%% @doc The same in one node.
%%
%% ```
%% [Node] = py:nodes(),
%% ok = py:reload(Node, json).
%% '''
-spec reload(node() | atom(), name()) -> ok | {error, reason()}.
reload(Node, Module) ->
    case py_call:name(Module) of
        error -> {error, {bad_option, module}};
        Name -> reload_at(Node, Name)
    end.

reload_at(Node, Name) ->
    case at(Node, pynode, reload, [Name]) of
        {ok, _} -> ok;
        Error -> Error
    end.

own(Node, Function) ->
    at(Node, pynode, Function, []).

at(default, Module, Function, Args) ->
    call(Module, Function, Args);
at(Node, Module, Function, Args) ->
    call(Module, Function, Args, #{}, #{node => Node}).

%%% ------------------------------------------------------------------ queues

%% @doc Ends a queue: what it holds is finished first, then its thread ends. Up to 30 s.
%%
%% ```
%% {ok, 1} = py:call(builtins, abs, [-1], #{}, #{queue => example}),
%% ok = py:stop_queue(example).
%% '''
-spec stop_queue(term()) -> ok | {error, reason()}.
stop_queue(Name) ->
    stop_queue(Name, ?TIMEOUT).

%% @doc The same with a time limit or options. When the limit passes, what the queue holds is cancelled:
%% those callers get `{error, cancelled}'.
%%
%% ```
%% ok = py:stop_queue(example, 1000).
%% '''
-spec stop_queue(term(), timeout() | options()) -> ok | {error, reason()}.
stop_queue(Name, Options) when is_map(Options) ->
    case call(pynode, end_queue, [], #{}, Options#{queue => Name}) of
        {ok, _} ->
            ok;
        {error, timeout} ->
            Key = case Options of
                      #{node := Node} -> py_call:node_key(Node);
                      #{} -> default
                  end,
            [Pid ! {drop_queue, Name} || {_, Pid, _, _} <- tuple_to_list(py_table:nodes(Key))],
            {error, timeout};
        Error ->
            Error
    end;
stop_queue(Name, Timeout) ->
    stop_queue(Name, #{timeout => Timeout}).

%%% ------------------------------------------------------------------ pools

%% @doc Starts a pool: nodes of this VM that belong together, or a name for those of the whole cluster that have some
%% labels. Any VM of the cluster can call it by its name. A pool of the same name that another VM starts adds its nodes.
%% When this returns each node is up, or has failed once.
%%
%% Options: `nodes': how many this VM starts, `auto' for one a processor, or a list of maps as in the configuration;
%% without it the pool has the nodes with the labels, of whatever VM. `labels': a map. `strategy': `least_loaded' or
%% `random'. `max_queue': calls of a VM that may wait for a place, 10000; `max_queue_per_caller': how many of them one
%% process may have begun, as many. A node is replaced by a new one after `max_tasks' calls, `max_age' milliseconds, or
%% when it has `max_rss' bytes.
%%
%% ```
%% ok = py:pool_start(example, #{nodes => 1}),
%% {ok, 2.0} = py:call(math, sqrt, [4], #{}, #{pool => example}),
%% ok = py:pool_stop(example).
%% '''
-spec pool_start(atom(), map()) -> ok | {error, reason()}.
pool_start(Name, Options) ->
    case py_options:pool(Name, Options) of
        {ok, Pool} ->
            Started = py_pool_sup:start_pool(Name, Pool),
            Started =:= ok andalso py_coordinator:wait_started(),
            _ = py_cluster:nodes(), % it has heard of that by now
            Started;
        Error -> Error
    end.

%% @doc Ends what this VM has of a pool: no calls go to its nodes any more, they finish and leave.
%%
%% ```
%% {error, no_pool} = py:pool_stop(nobody).
%% '''
-spec pool_stop(atom()) -> ok | {error, no_pool | reason()}.
pool_stop(Name) ->
    pool_stop(Name, ?TIMEOUT).

%% @doc The same with a time limit in milliseconds, after which the nodes are stopped.
%%
%% ```
%% {error, no_pool} = py:pool_stop(nobody, 1000).
%% '''
-spec pool_stop(atom(), timeout()) -> ok | {error, no_pool | reason()}.
pool_stop(_, Timeout) when not ?is_limit(Timeout) ->
    {error, {bad_option, timeout}};
pool_stop(Name, Timeout) ->
    at_pool(Name, fun(Pid) ->
                          case py_pool:stop(Pid, Timeout) of
                              {error, not_started} -> % it was killed: the next one has its nodes
                                  pool_stop(Name, Timeout);
                              Stopped ->
                                  py_pool_sup:stop_pool(Name),
                                  Stopped
                          end
                  end).

%% @doc So many nodes of this VM from now on.
%%
%% ```
%% {error, no_pool} = py:pool_resize(nobody, 2).
%% '''
-spec pool_resize(atom(), non_neg_integer()) -> ok | {error, no_pool | reason()}.
pool_resize(_, Count) when not is_integer(Count); Count < 0; Count > 1000 ->
    {error, {bad_option, nodes}};
pool_resize(Name, Count) ->
    at_pool(Name, fun(Pid) -> py_pool:resize(Pid, Count) end).

at_pool(Name, Fun) ->
    case py_pool_sup:pool(Name) of
        none -> {error, no_pool};
        Pid -> Fun(Pid)
    end.

%% @doc A pool as this VM sees it: its nodes and how loaded they are, and how many callers of this VM wait.
%%
%% ```
%% {ok, #{nodes := [#{node := _, in_flight := _} | _], waiting := 0}} = py:pool_info(cluster),
%% {error, no_pool} = py:pool_info(nobody).
%% '''
-spec pool_info(atom()) -> {ok, map()} | {error, no_pool}.
pool_info(Name) ->
    case py_cluster:pool(Name) of
        none ->
            {error, no_pool};
        #{entries := Entries, strategy := Strategy, max_queue := Max, max_queue_per_caller := Own} ->
            {ok, #{nodes => [(py_counter:load(Counter))#{node => Node} || {Node, _, Counter, _} <- tuple_to_list(Entries)],
                   strategy => Strategy, max_queue => Max, max_queue_per_caller => Own, waiting => py_backlog:count(Name)}}
    end.

%% @doc The names of the pools that there are in the cluster. `cluster' is the one of all nodes.
%%
%% ```
%% true = lists:member(cluster, py:pools()).
%% '''
-spec pools() -> [atom()].
pools() ->
    lists:sort(maps:keys(py_table:pools())).

%% @doc Replaces the nodes of a pool on all VMs one after another: each time the new one is ready before the old one is
%% asked to finish and leave. No call is lost by it.
%%
%% ```
%% {error, no_pool} = py:rolling_restart(nobody).
%% '''
-spec rolling_restart(atom()) -> ok | {error, reason()}.
rolling_restart(Name) ->
    rolling_restart(Name, infinity).

%% @doc The same with a time limit in milliseconds for what each VM has.
%%
%% ```
%% {error, no_pool} = py:rolling_restart(nobody, 60000).
%% '''
-spec rolling_restart(atom(), timeout()) -> ok | {error, reason()}.
rolling_restart(_, Timeout) when not ?is_limit(Timeout) ->
    {error, {bad_option, timeout}};
rolling_restart(Name, Timeout) ->
    case py_cluster:pool(Name) of
        none -> {error, no_pool};
        _ -> restart_each(Name, Timeout, py_cluster:vms())
    end.

restart_each(_, _, []) ->
    ok;
restart_each(Name, Timeout, [Vm | Vms]) ->
    try erpc:call(Vm, py_pool_sup, replace_all, [Name, Timeout]) of
        ok -> restart_each(Name, Timeout, Vms);
        Error -> Error
    catch
        _:Reason -> {error, {Vm, Reason}}
    end.

%% @doc Calls of this module, or of this function, go to the pool by themselves, if they name neither node nor pool.
%%
%% ```
%% {error, no_pool} = py:register_pool(math, nobody).
%% '''
-spec register_pool(name() | {name(), name()}, atom()) -> ok | {error, reason()}.
register_pool(What, Pool) ->
    case {route(What), py_cluster:pool(Pool)} of
        {error, _} -> {error, {bad_option, module}};
        {_, none} -> {error, no_pool};
        {Route, _} -> py_cluster:set_route(Route, Pool)
    end.

%% @doc Undoes that.
%%
%% ```
%% ok = py:unregister_pool(math).
%% '''
-spec unregister_pool(name() | {name(), name()}) -> ok | {error, reason()}.
unregister_pool(What) ->
    case route(What) of
        error -> {error, {bad_option, module}};
        Route -> py_cluster:set_route(Route, none)
    end.

route({M, F}) ->
    case {py_call:name(M), py_call:name(F)} of
        {error, _} -> error;
        {_, error} -> error;
        {Module, Function} -> {py_call:to_binary(Module), py_call:to_binary(Function)}
    end;
route(M) ->
    case py_call:name(M) of
        error -> error;
        Module -> {py_call:to_binary(Module), any}
    end.

%% @doc All Python nodes of the cluster: which VMs have them, in what state they are, their labels, pools and versions.
%%
%% ```
%% [_ | _] = [Node || #{node := Node, vms := [_], state := ready, labels := #{}} <- py:cluster()].
%% '''
-spec cluster() -> [py_cluster:node_info()] | {error, not_started}.
cluster() ->
    py_cluster:nodes().
