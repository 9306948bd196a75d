%% @private
%% py_backlog - callers of this VM that wait for a place in a pool, first come first served.
%%
%% Who may go to any node of the pool must not wait behind one who may not: there is a queue for the pool, one for each
%% node that is the only one for somebody's key, and one for each set of labels. Messages, beside calls:
%%
%%      {free, Pool, Node}           a call of the pool has ended there, and somebody waits
%%      {leave, Ref}                 who waits does so no longer
%%
%% Who waits gets {turn, Ref} once, to the alias Ref, and then looks for a place; who finds none comes back,
%% to the front. A tick gives turns, too, since places come also from calls of other VMs and from new nodes.
-module(py_backlog).

-behaviour(gen_server).

-export([start_link/0, wait/4, is_waited/1, free/2, count/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(TICK, 20).
-define(LEFT, 1000). % who have left, beyond those who wait, until their places go

-export_type([queue/0, bounds/0]).

-type queue() :: {py_cluster:pool(), any | {node, node()} | {labels, map()}}.
-type bounds() :: {All :: non_neg_integer(), Caller :: pid(), OfCaller :: non_neg_integer()}. % how many may wait
-type waiter() :: {Ref :: reference(), Monitor :: reference()}.

-record(s, {queues = #{} :: #{queue() => {[waiter()], [waiter()]}},
            monitors = #{} :: #{reference() => {queue(), reference(), pid()}}, % monitor => whose, and for whom
            callers = #{} :: #{{py_cluster:pool(), pid()} => pos_integer()}, % how many wait for each
            refs = #{} :: #{reference() => reference()},                          % alias => monitor
            left = 0 :: non_neg_integer(), % how many have left, and may still have a place in a queue
            ticks = false :: boolean()}).

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Until it is the calling process's turn; `overloaded' if so many wait already, in all or on behalf of the same caller;
%% `timeout' when the limit has passed.
-spec wait(queue(), back | front, bounds(), timeout()) -> turn | overloaded | timeout | not_started.
wait(Queue, Where, Bounds, Timeout) ->
    Ref = erlang:alias([reply]),
    Pid = whereis(?MODULE), % who has promised it is monitored, and not the next one
    try gen_server:call(Pid, {wait, Queue, Where, Bounds, Ref}, infinity) of
        ok -> wait_turn(Ref, erlang:monitor(process, Pid), Timeout);
        overloaded -> erlang:unalias(Ref), overloaded
    catch
        exit:_ -> erlang:unalias(Ref), not_started
    end.

wait_turn(Ref, Monitor, Timeout) ->
    Result = receive
                 {turn, Ref} -> turn;
                 {'DOWN', Monitor, process, _, _} -> turn % the next one knows nothing of this
             after Timeout ->
                     ?MODULE ! {leave, Ref},
                     timeout
             end,
    erlang:demonitor(Monitor, [flush]),
    erlang:unalias(Ref),
    receive {turn, Ref} -> turn
    after 0 -> Result
    end.

%% Whether anybody waits there: who comes then waits, too.
-spec is_waited(queue()) -> boolean().
is_waited(Queue) ->
    length_of(Queue) > 0.

length_of(Queue) ->
    try ets:lookup_element(?MODULE, Queue, 2)
    catch error:badarg -> 0
    end.

%% How many wait for a place in the pool.
-spec count(py_cluster:pool()) -> non_neg_integer().
count(Pool) ->
    try ets:match(?MODULE, {{Pool, '_'}, '$1'}) of
        Counts -> count(lists:append(Counts), 0)
    catch
        error:badarg -> 0
    end.

count([N | Counts], Sum) when is_integer(N) -> count(Counts, Sum + N);
count([], Sum) -> Sum.

%% A call has ended. When nobody waits anywhere, that is all.
-spec free(py_cluster:pool(), node()) -> ok.
free(Pool, Node) ->
    try ets:info(?MODULE, size) of
        Size when is_integer(Size), Size > 0 -> ?MODULE ! {free, Pool, Node}, ok;
        _ -> ok
    catch
        error:badarg -> ok
    end.

%%% ------------------------------------------------------------------ gen_server

-spec init([]) -> {ok, #s{}}.
init([]) ->
    ets:new(?MODULE, [named_table, {read_concurrency, true}]), % {queue(), how many wait}, of those where anybody does
    {ok, #s{}}.

-spec handle_call(term(), gen_server:from(), #s{}) -> {reply, term(), #s{}}.
handle_call({wait, {Pool, _} = Queue, Where, {Max, Caller, Own}, Ref}, {Pid, _}, S = #s{callers = Callers}) ->
    case Where =:= back andalso (count(Pool) >= Max orelse maps:get({Pool, Caller}, Callers, 0) >= Own) of
        true -> {reply, overloaded, S};
        false -> {reply, ok, tick(add(Queue, Where, Pid, Ref, Caller, S))}
    end;
handle_call(_Request, _From, S) ->
    {reply, {error, bad_request}, S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}}.
handle_cast(_Request, S) ->
    {noreply, S}.

-spec handle_info(term(), #s{}) -> {noreply, #s{}}.
handle_info({free, Pool, Node}, S = #s{queues = Queues}) ->
    Free = [Queue || {P, Which} = Queue <- maps:keys(Queues), P =:= Pool, may_be_free(Which, Node)],
    {noreply, lists:foldl(fun(Queue, Acc) -> turns(Queue, 1, Acc) end, S, Free)};
handle_info({leave, Ref}, S = #s{refs = Refs}) ->
    case Refs of
        #{Ref := Monitor} -> {noreply, leave(Monitor, S)};
        #{} -> {noreply, S}
    end;
handle_info({'DOWN', Monitor, process, _, _}, S) ->
    {noreply, leave(Monitor, S)};
handle_info(tick, S = #s{queues = Queues}) ->
    Turned = lists:foldl(fun(Queue, Acc) -> turns(Queue, py_cluster:room(Queue), Acc) end, S, maps:keys(Queues)),
    {noreply, tick(Turned#s{ticks = false})};
handle_info(_Late, S) ->
    {noreply, S}.

may_be_free({node, Only}, Node) -> Only =:= Node;
may_be_free(_, _) -> true.

%% While anybody waits.
tick(S = #s{ticks = false, queues = Queues}) when map_size(Queues) > 0 ->
    erlang:send_after(?TICK, self(), tick),
    S#s{ticks = true};
tick(S) ->
    S.

%%% ------------------------------------------------------------------ the queues

add({Pool, _} = Queue, Where, Pid, Ref, Caller, S0) ->
    S = #s{queues = Queues, monitors = Monitors, refs = Refs} = counted(Pool, Caller, 1, S0),
    Monitor = erlang:monitor(process, Pid),
    {Out, In} = maps:get(Queue, Queues, {[], []}),
    Longer = case Where of
                 back -> {Out, [{Ref, Monitor} | In]};
                 front -> {[{Ref, Monitor} | Out], In}
             end,
    ets:update_counter(?MODULE, Queue, 1, {Queue, 0}),
    S#s{queues = Queues#{Queue => Longer}, monitors = Monitors#{Monitor => {Queue, Ref, Caller}}, refs = Refs#{Ref => Monitor}}.

counted(Pool, Caller, More, S = #s{callers = Callers}) ->
    case maps:get({Pool, Caller}, Callers, 0) + More of
        0 -> S#s{callers = maps:remove({Pool, Caller}, Callers)};
        Count -> S#s{callers = Callers#{{Pool, Caller} => Count}}
    end.

%% So many of those who wait, as they came. One that has left is passed over.
turns(_, 0, S) ->
    S;
turns(Queue, N, S = #s{queues = Queues}) ->
    case Queues of
        #{Queue := {[], []}} ->
            S#s{queues = maps:remove(Queue, Queues)};
        #{Queue := {[], In}} ->
            turns(Queue, N, S#s{queues = Queues#{Queue := {lists:reverse(In), []}}});
        #{Queue := {[{Ref, Monitor} | Out], In}} ->
            Left = S#s{queues = Queues#{Queue := {Out, In}}},
            case is_map_key(Ref, S#s.refs) of
                true -> Ref ! {turn, Ref}, turns(Queue, N - 1, remove(Monitor, Left));
                false -> turns(Queue, N, Left)
            end;
        #{} ->
            S
    end.

%% Its place in the queue stays until its turn would come, or until more have left than wait.
leave(Monitor, S = #s{left = Left}) ->
    without_left(remove(Monitor, S#s{left = Left + 1})).

without_left(S = #s{left = Left, refs = Refs, queues = Queues}) when Left > map_size(Refs) + ?LEFT ->
    Waits = fun({Ref, _}) -> is_map_key(Ref, Refs) end,
    S#s{left = 0, queues = maps:map(fun(_, {Out, In}) -> {lists:filter(Waits, Out), lists:filter(Waits, In)} end, Queues)};
without_left(S) ->
    S.

%% The queue goes with the last one who waits there.
remove(Monitor, S = #s{queues = Queues, monitors = Monitors, refs = Refs}) ->
    case maps:take(Monitor, Monitors) of
        {{{Pool, _} = Queue, Ref, Caller}, Left} ->
            erlang:demonitor(Monitor, [flush]),
            Removed = counted(Pool, Caller, -1, S#s{monitors = Left, refs = maps:remove(Ref, Refs)}),
            case ets:update_counter(?MODULE, Queue, -1) of
                0 -> ets:delete(?MODULE, Queue), Removed#s{queues = maps:remove(Queue, Queues)};
                _ -> Removed
            end;
        error ->
            S
    end.
