%% py_event_loop - tasks on the event loop of a Python node.
%% @doc Tasks on the event loop of a Python node: coroutines and whatever else can be awaited, and plain functions.
%%
%% A function is called on the loop. What it returns is awaited if it can be, as an `asyncio.Task'. A plain function
%% holds up all other tasks while it runs: with `executor => true' it runs in a worker, as with `py:call'.
%%
%% ```
%% Ref = py_event_loop:create_task(asyncio, sleep, [0.01, done]),
%% {ok, done} = py_event_loop:await(Ref).
%% '''
%%
%% Every task ends exactly once, in one of the outcomes of `py'. It reaches who has created the task as the message
%% `{async_result, Ref, Result}', also if that never awaits it. When that process ends its tasks are cancelled:
%% in Python they get `asyncio.CancelledError', so that their `finally' blocks run.
-module(py_event_loop).

-export([run/3, run/4, create_task/3, create_task/4, create_tasks/1, create_tasks/2]).
-export([await/1, await/2, cancel/1, spawn_task/3, spawn_task/4]).

-export_type([options/0]).

-type options() :: #{kwargs => py:kwargs(),
                     timeout => timeout(),
                     node => node() | atom(),
                     executor => boolean() | blocking,
                     traceback => boolean(),
                     strings => utf8 | bytes}.
%% As those of `py:call/5'. `executor => true': in a worker.

-define(RUN_TIMEOUT, 30000).
-define(AWAIT_TIMEOUT, 5000).
-define(is_limit(T), (T =:= infinity orelse is_integer(T) andalso T >= 0 andalso T =< 16#ffffffff)). % as after's

%% @doc Runs a function as a task and waits for it, 30 s at most.
%%
%% ```
%% {ok, 2.0} = py_event_loop:run(math, sqrt, [4]).
%% {ok, slept} = py_event_loop:run(asyncio, sleep, [0.01, slept]).
%% '''
-spec run(py:name(), py:name(), list()) -> py:result().
run(Module, Function, Args) when is_atom(Module), is_atom(Function) ->
    py_call:run(Module, Function, Args, {ok, default, default, #{loop => true}, false, ?RUN_TIMEOUT});
run(Module, Function, Args) ->
    run(Module, Function, Args, #{}).

%% @doc The same with a time limit or options.
%%
%% ```
%% {error, timeout} = py_event_loop:run(asyncio, sleep, [1], 20).
%% {ok, <<"[1]">>} = py_event_loop:run(json, dumps, [[1]], #{kwargs => #{indent => none}, executor => true}).
%% '''
-spec run(py:name(), py:name(), list(), timeout() | options()) -> py:result().
run(Module, Function, Args, Options) ->
    case py_task:check(Module, Function, Options, ?RUN_TIMEOUT) of
        {ok, M, F, Checked} -> py_call:run(M, F, Args, Checked);
        Error -> Error
    end.

%% @doc Begins a task. Its end comes as the message `{async_result, Ref, Result}'.
%%
%% ```
%% Ref = py_event_loop:create_task(math, sqrt, [9]),
%% {ok, 3.0} = receive {async_result, Ref, Result} -> Result end.
%% '''
-spec create_task(py:name(), py:name(), list()) -> reference().
create_task(Module, Function, Args) when is_atom(Module), is_atom(Function) ->
    py_task:start(async_result, self(), Module, Function, Args, {ok, default, default, #{loop => true}, false, infinity});
create_task(Module, Function, Args) ->
    create_task(Module, Function, Args, #{}).

%% @doc The same with a time limit or options.
%%
%% ```
%% Ref = py_event_loop:create_task(asyncio, sleep, [1], #{timeout => 20}),
%% {error, timeout} = py_event_loop:await(Ref).
%% '''
-spec create_task(py:name(), py:name(), list(), timeout() | options()) -> reference().
create_task(Module, Function, Args, Options) ->
    case py_task:check(Module, Function, Options, infinity) of
        {ok, M, F, Checked} -> py_task:start(async_result, self(), M, F, Args, Checked);
        Error -> py_task:refuse(async_result, Error)
    end.

%% @doc Begins many tasks with one message, as `{Module, Function, Args}' or with keyword arguments.
%%
%% ```
%% Refs = py_event_loop:create_tasks([{math, sqrt, [X]} || X <- [1, 4]]),
%% [{ok, 1.0}, {ok, 2.0}] = [py_event_loop:await(Ref) || Ref <- Refs].
%% '''
-spec create_tasks([py_task:call()]) -> [reference()] | {error, {bad_option, term()}}.
create_tasks(Calls) ->
    create_tasks(Calls, #{}).

%% @doc The same with a time limit or options for each.
%%
%% ```
%% [Ref] = py_event_loop:create_tasks([{asyncio, sleep, [1]}], 20),
%% {error, timeout} = py_event_loop:await(Ref).
%% '''
-spec create_tasks([py_task:call()], timeout() | options()) -> [reference()] | {error, {bad_option, term()}}.
create_tasks(Calls, Options) ->
    case {py_task:are_calls(Calls), py_task:options(Options, infinity)} of
        {true, {error, _} = Error} -> Error;
        {true, Checked} -> py_task:start_all(async_result, Calls, Checked);
        {false, _} -> {error, {bad_option, calls}}
    end.

%% @doc Waits up to 5 s for a task of this process.
%%
%% ```
%% {ok, 1} = py_event_loop:await(py_event_loop:create_task(builtins, abs, [-1])).
%% '''
-spec await(reference()) -> py:result().
await(Ref) ->
    await(Ref, ?AWAIT_TIMEOUT).

%% @doc Waits as long as the limit says. When it passes the task is cancelled, and no message of it comes any more.
%%
%% ```
%% {error, timeout} = py_event_loop:await(py_event_loop:create_task(asyncio, sleep, [1]), 20).
%% '''
-spec await(reference(), timeout()) -> py:result().
await(Ref, Timeout) when ?is_limit(Timeout) ->
    py_task:await(Ref, Timeout);
await(_, _) ->
    {error, {bad_option, timeout}}.

%% @doc Cancels a task: its end is `{error, cancelled}', unless it has one already.
%%
%% ```
%% Ref = py_event_loop:create_task(asyncio, sleep, [3600]),
%% ok = py_event_loop:cancel(Ref),
%% {error, cancelled} = py_event_loop:await(Ref).
%% '''
-spec cancel(reference()) -> ok.
cancel(Ref) ->
    py_task:cancel(Ref).

%% @doc Begins a task that nobody waits for, and that outlives this process. Its error is in the node's log.
%%
%% ```
%% ok = py_event_loop:spawn_task(builtins, print, [<<"hello">>]).
%% '''
-spec spawn_task(py:name(), py:name(), list()) -> ok | {error, {bad_option, term()}}.
spawn_task(Module, Function, Args) ->
    spawn_task(Module, Function, Args, #{}).

%% @doc The same with options. `notify': a process that gets `{async_result, Tag, Result}', as `{Pid, Tag}', or
%% `Pid' alone, and the tag is a new reference.
%%
%% ```
%% ok = py_event_loop:spawn_task(math, sqrt, [4], #{notify => {self(), root}}),
%% {ok, 2.0} = receive {async_result, root, Result} -> Result end.
%% '''
-spec spawn_task(py:name(), py:name(), list(), options() | #{notify => pid() | {pid(), term()}}) ->
          ok | {error, {bad_option, term()}}.
spawn_task(Module, Function, Args, Options) when is_map(Options) ->
    case {tag(Options), py_task:check(Module, Function, maps:remove(notify, Options), infinity)} of
        {error, _} ->
            {error, {bad_option, notify}};
        {Tag, {ok, M, F, Checked}} ->
            spawn_checked(Tag, M, F, Args, Checked);
        {_, Error} ->
            Error
    end;
spawn_task(_, _, _, _) ->
    {error, {bad_option, options}}.

tag(#{notify := {Pid, Tag}}) when is_pid(Pid) -> {notify, Pid, Tag};
tag(#{notify := Pid}) when is_pid(Pid) -> {notify, Pid, make_ref()};
tag(#{notify := _}) -> error;
tag(#{}) -> none.

%% What nobody is told of, and has no limit, is a cast: the node logs its error.
spawn_checked(none, M, F, Args, {ok, _, _, _, _, infinity} = Checked) ->
    py_task:cast(M, F, Args, Checked);
spawn_checked(Tag, M, F, Args, Checked) ->
    _ = py_task:start(Tag, none, M, F, Args, Checked),
    ok.
