%% @private
%% py_call - one call: its options, the node it goes to, the way there, and the wait for its answer.
-module(py_call).

-compile({no_auto_import, [nodes/1]}).

-export([call/3, call/5, run/4, run_watched/4]).
-export([check/4, options/2, name/1, text/1, to_binary/1, node_key/1]).
-export([nodes/1, pick/2, enter/2, run_placed/8]).

-export_type([checked/0, error/0]).

%% {ok, key of the table or of a pool, what to call it, options on the wire, whether in order, limit}
-type checked() :: {ok, py_table:key() | py_pool_call:key(), node() | atom(), Wire :: map(), boolean(), timeout()}.
-type error() :: {error, {bad_option, term()}}.

-define(TIMEOUT, 30000).
-define(WATCHED, 40).         % ms after which a caller makes itself known to py_node
-define(DIRECT, 6).           % calls in flight up to which each is sent by itself
-define(is_limit(T), (T =:= infinity orelse is_integer(T) andalso T >= 0 andalso T =< 16#ffffffff)). % as after's

%%% ------------------------------------------------------------------ a call

-spec call(py:name(), py:name(), list()) -> py:result().
call(Module, Function, Args) when is_atom(Module), is_atom(Function) ->
    run(Module, Function, Args, {ok, default, default, #{}, false, ?TIMEOUT});
call(Module, Function, Args) ->
    call(Module, Function, Args, #{}, ?TIMEOUT).

-spec call(py:name(), py:name(), list(), py:kwargs(), timeout() | py:options()) -> py:result().
call(Module, Function, Args, Kwargs, Options) ->
    case check(Module, Function, Kwargs, Options) of
        {ok, M, F, Checked} -> run(M, F, Args, Checked);
        Error -> Error
    end.

%% At one of the nodes that the options leave.
-spec run(atom() | binary(), atom() | binary(), list(), checked()) -> py:result().
run(M, F, Args, Checked) ->
    py_telemetry:call(M, F, Checked, fun() -> run_checked(M, F, Args, Checked) end).

run_checked(M, F, Args, {ok, {pool, _, _} = Key, _, Wire, Queued, Timeout}) ->
    py_pool_call:run(M, F, Args, Key, {Wire, Queued, Timeout});
run_checked(M, F, Args, {ok, Key, Where, Wire, Queued, Timeout}) ->
    case Key =:= default andalso routed(M, F) of
        false -> run_at(M, F, Args, Key, Where, Wire, Queued, false, Timeout);
        Pool -> py_pool_call:run(M, F, Args, {pool, Pool, #{}}, {Wire, Queued, Timeout})
    end.

%% The same for a caller that somebody may kill: the node hears of that at once. It goes by no route.
-spec run_watched(atom() | binary(), atom() | binary(), list(), checked()) -> py:result().
run_watched(M, F, Args, {ok, {pool, Pool, Options}, _, Wire, Queued, Timeout}) ->
    py_pool_call:run(M, F, Args, {pool, Pool, Options#{watched => true}}, {Wire, Queued, Timeout});
run_watched(M, F, Args, {ok, Key, Where, Wire, Queued, Timeout}) ->
    run_at(M, F, Args, Key, Where, Wire, Queued, true, Timeout).

%% The pool that calls of this function go to by themselves.
routed(M, F) ->
    case py_table:routes() of
        None when map_size(None) =:= 0 ->
            false;
        Routes ->
            {Module, Function} = {to_binary(M), to_binary(F)},
            maps:get({Module, Function}, Routes, maps:get({Module, any}, Routes, false))
    end.

run_at(M, F, Args, Key, Where, Wire, Queued, Watched, Timeout) ->
    case pick(py_table:nodes(Key), Wire) of
        {Node, Pid, Counter, _} = Entry ->
            case is_process_alive(Pid) of
                true ->
                    {Slot, InFlight} = enter(Counter, Wire),
                    run_placed(Entry, Slot, InFlight, {M, F, Args}, Wire, Queued, Watched, Timeout);
                false -> {error, {node_down, Node, not_started}}
            end;
        none ->
            {error, {node_down, Where, not_started}}
    end.

%% It is counted, as a call or as a task.
-spec enter(py_counter:counter(), map()) -> {py_counter:slot(), integer()}.
enter(Counter, #{loop := true}) -> py_counter:enter_task(py_counter:array(), Counter);
enter(Counter, _) -> py_counter:enter(py_counter:array(), Counter).

%% An alias takes one answer. Nothing is monitored at first, for that costs two signals to the process
%% that stands for the node; who waits for long does it then, and is told also of an end before that.
%% The call has been counted, in that slot. A caller that may be killed makes itself known before it sends anything:
%% whenever it is killed, the call does not run on for nobody.
-spec run_placed(py_table:entry(), py_counter:slot(), integer(), {atom() | binary(), atom() | binary(), list()}, map(),
                 boolean(), boolean(), timeout()) -> py:result().
run_placed({Node, Pid, _, To}, Slot, InFlight, {M, F, Args}, Wire, Queued, Watched, Timeout) ->
    Ref = erlang:alias([reply]),
    Call = {call, Ref, M, F, Args, Wire},
    Watched andalso (Pid ! {watch, self(), Ref, Slot, {M, F}}),
    case send_call(To, Pid, Call, Queued orelse InFlight > ?DIRECT) of
        noconnect ->
            erlang:unalias(Ref),
            Watched andalso (Pid ! {unwatch, Ref}),
            py_counter:leave(py_counter:array(), Slot),
            {error, {node_down, Node, not_started}};
        _ when Watched ->
            wait_watched(Node, Pid, Slot, Ref, {M, F}, Timeout, 0);
        _ ->
            receive
                {py_response, Ref, Result} ->
                    py_counter:leave(py_counter:array(), Slot),
                    Result
            after min(Timeout, ?WATCHED) ->
                    wait_long(Node, Pid, Slot, Ref, {M, F}, Timeout, ?WATCHED)
            end
    end.

%% A busy connection must not hold up the caller, who has a limit: the process of the node waits for it.
send_call(_, Pid, Call, true) ->
    Pid ! Call;
send_call(To, Pid, Call, false) ->
    case erlang:send(To, Call, [noconnect, nosuspend]) of
        nosuspend -> Pid ! Call;
        Sent -> Sent
    end.

%% The caller makes itself known, so that the call can be cancelled if it dies, and waits on.
wait_long(Node, Pid, Slot, Ref, MF, Timeout, Waited) ->
    Timeout =< Waited orelse (Pid ! {watch, self(), Ref, Slot, MF}),
    wait_watched(Node, Pid, Slot, Ref, MF, Timeout, Waited).

wait_watched(Node, Pid, Slot, Ref, MF, Timeout, Waited) ->
    Monitor = erlang:monitor(process, Pid),
    Result = receive
                 {py_response, Ref, R} ->
                     R;
                 {'DOWN', Monitor, process, _, _} ->
                     ended(Ref, {error, {node_down, Node, py_node:progress(Ref, Pid)}})
             after left(Timeout, Waited) ->
                     case ended(Ref, none) of
                         none -> Pid ! {cancel, Ref, MF}, {error, timeout};
                         R -> R
                     end
             end,
    erlang:demonitor(Monitor, [flush]),
    py_counter:leave(py_counter:array(), Slot),
    Pid ! {unwatch, Ref},
    Result.

left(infinity, _) -> infinity;
left(Timeout, Waited) -> max(0, Timeout - Waited).

%% The alias goes; an answer that came first is the outcome.
ended(Ref, Outcome) ->
    erlang:unalias(Ref),
    receive
        {py_response, Ref, Result} -> Result
    after 0 ->
            Outcome
    end.

%% The nodes that a call with this key may go to.
-spec nodes(py_table:key() | py_pool_call:key()) -> tuple().
nodes({pool, _, _} = Key) -> py_pool_call:entries(Key);
nodes(Key) -> py_table:nodes(Key).

%% One of the nodes: for a queue always the same, as long as it is there; else of two taken at random the
%% one with fewer calls in flight.
-spec pick(tuple(), map()) -> py_table:entry() | none.
pick({Entry}, _) ->
    Entry;
pick({}, _) ->
    none;
pick(Entries, #{queue := Name}) ->
    {_, Entry} = lists:max([{erlang:phash2({Name, element(1, E)}), E} || E <- tuple_to_list(Entries)]),
    Entry;
pick(Entries, _) ->
    A = element(rand:uniform(tuple_size(Entries)), Entries),
    B = element(rand:uniform(tuple_size(Entries)), Entries),
    case py_counter:in_flight(element(3, A)) =< py_counter:in_flight(element(3, B)) of
        true -> A;
        false -> B
    end.

%%% ------------------------------------------------------------------ options

%% What is given with every call: module, function and options, or which of it is wrong.
-spec check(py:name(), py:name(), py:kwargs(), timeout() | py:options()) ->
          {ok, atom() | binary(), atom() | binary(), checked()} | error().
check(Module, Function, Kwargs, Options) ->
    named(name(Module), name(Function), options(Kwargs, Options)).

named(error, _, _) -> {error, {bad_option, module}};
named(_, error, _) -> {error, {bad_option, function}};
named(M, F, {ok, _, _, _, _, _} = Checked) -> {ok, M, F, Checked};
named(_, _, Error) -> Error.

-spec to_binary(atom() | binary()) -> binary().
to_binary(Name) when is_atom(Name) -> atom_to_binary(Name);
to_binary(Name) -> Name.

%% The node looks at binaries itself.
-spec name(term()) -> atom() | binary() | error.
name(Name) when is_atom(Name); is_binary(Name) -> Name;
name(Name) when is_list(Name) -> text(Name);
name(_) -> error.

-spec text(term()) -> binary() | error.
text(Text) ->
    try unicode:characters_to_binary(Text) of
        Binary when is_binary(Binary) -> Binary;
        _ -> error
    catch
        error:badarg -> error
    end.

-spec options(py:kwargs(), timeout() | py:options()) -> checked() | error().
options(Kwargs, Timeout) when ?is_limit(Timeout) ->
    options(Kwargs, #{timeout => Timeout});
options(Kwargs, Options) when is_map(Kwargs), is_map(Options) ->
    Wire = with_kwargs(Kwargs, #{}),
    case py_pool_call:options(Options) of
        none -> fold(fun option/3, {ok, default, default, Wire, false, ?TIMEOUT}, Options);
        {ok, {pool, Pool, _} = Key, Others} -> fold(fun option/3, {ok, Key, Pool, Wire, false, ?TIMEOUT}, Others);
        Error -> Error
    end;
options(Kwargs, _) when not is_map(Kwargs) ->
    {error, {bad_option, kwargs}};
options(_, _) ->
    {error, {bad_option, timeout}}.

fold(Option, Acc, Options) ->
    try maps:fold(Option, Acc, Options)
    catch
        throw:{bad_option, Key} -> {error, {bad_option, Key}}
    end.

option(timeout, T, {ok, K, N, W, Q, _}) when ?is_limit(T) -> {ok, K, N, W, Q, T};
option(node, N, {ok, _, _, W, Q, T}) when is_atom(N) -> {ok, node_key(N), N, W, Q, T};
option(strings, S, {ok, K, N, W, Q, T}) when S =:= utf8; S =:= bytes -> {ok, K, N, W#{strings => S}, Q, T};
option(traceback, true, {ok, K, N, W, Q, T}) -> {ok, K, N, W#{traceback => true}, Q, T};
option(traceback, false, Acc) -> Acc;
option(queue, Name, {ok, K, N, W, _, T}) -> {ok, K, N, W#{queue => Name}, true, T};
option(thread, new, {ok, K, N, W, Q, T}) -> {ok, K, N, W#{thread => new}, Q, T};
option(executor, blocking, {ok, K, N, W, Q, T}) -> {ok, K, N, W#{executor => blocking}, Q, T};
option(Key, _, _) -> throw({bad_option, Key}).

with_kwargs(Kwargs, Wire) when map_size(Kwargs) =:= 0 -> Wire;
with_kwargs(Kwargs, Wire) -> Wire#{kwargs => Kwargs}.

%% A node has an @ in its name, the common name of configured ones has none.
-spec node_key(node() | atom()) -> py_table:key().
node_key(Node) ->
    case lists:member($@, atom_to_list(Node)) of
        true -> {node, Node};
        false -> {name, Node}
    end.
