%% @private
%% py_backlog - callers of this VM that wait for a place in a pool, first come first served.
%%
%% Messages to it, beside calls:
%%
%%      {free, Pool}                 a call of the pool has ended, and somebody waits
%%      {leave, Ref}                 who waits does so no longer
%%
%% Who waits gets {turn, Ref} once, to the alias Ref, and then looks for a place; who finds none comes back,
%% to the front. A tick gives turns, too, since places come also from calls of other VMs and from new nodes.
-module(py_backlog).

-behaviour(gen_server).

-export([start_link/0, wait/4, is_waited/1, free/1, count/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(TICK, 20).

-type waiter() :: {Ref :: reference(), Monitor :: reference()}.

-record(s, {queues = #{} :: #{py_cluster:pool() => {[waiter()], [waiter()]}},
            monitors = #{} :: #{reference() => {py_cluster:pool(), reference()}}, % monitor => whose
            refs = #{} :: #{reference() => reference()},                          % alias => monitor
            ticks = false :: boolean()}).

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Until it is the caller's turn; `overloaded' if so many wait already, `timeout' when the limit has passed.
-spec wait(py_cluster:pool(), back | front, non_neg_integer(), timeout()) -> turn | overloaded | timeout | not_started.
wait(Pool, Where, Max, Timeout) ->
    Ref = erlang:alias([reply]),
    try gen_server:call(?MODULE, {wait, Pool, Where, Max, Ref}, infinity) of
        ok -> wait_turn(Ref, erlang:monitor(process, ?MODULE), Timeout);
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

%% Whether anybody waits for a place in that pool: who comes then waits, too.
-spec is_waited(py_cluster:pool()) -> boolean().
is_waited(Pool) ->
    count(Pool) > 0.

-spec count(py_cluster:pool()) -> non_neg_integer().
count(Pool) ->
    try ets:lookup_element(?MODULE, Pool, 2)
    catch error:badarg -> 0
    end.

%% A call has ended.
-spec free(py_cluster:pool()) -> ok.
free(Pool) ->
    is_waited(Pool) andalso (whereis(?MODULE) =/= undefined) andalso (?MODULE ! {free, Pool}),
    ok.

%%% ------------------------------------------------------------------ gen_server

-spec init([]) -> {ok, #s{}}.
init([]) ->
    ets:new(?MODULE, [named_table, {read_concurrency, true}]), % {Pool, how many wait}
    {ok, #s{}}.

-spec handle_call(term(), gen_server:from(), #s{}) -> {reply, term(), #s{}}.
handle_call({wait, Pool, Where, Max, Ref}, {Pid, _}, S) ->
    case Where =:= back andalso count(Pool) >= Max of
        true -> {reply, overloaded, S};
        false -> {reply, ok, tick(add(Pool, Where, Pid, Ref, S))}
    end;
handle_call(_Request, _From, S) ->
    {reply, {error, bad_request}, S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}}.
handle_cast(_Request, S) ->
    {noreply, S}.

-spec handle_info(term(), #s{}) -> {noreply, #s{}}.
handle_info({free, Pool}, S) ->
    {noreply, turns(Pool, 1, S)};
handle_info({leave, Ref}, S = #s{refs = Refs}) ->
    case Refs of
        #{Ref := Monitor} -> {noreply, remove(Monitor, S)};
        #{} -> {noreply, S}
    end;
handle_info({'DOWN', Monitor, process, _, _}, S) ->
    {noreply, remove(Monitor, S)};
handle_info(tick, S = #s{queues = Queues}) ->
    Turned = lists:foldl(fun(Pool, Acc) -> turns(Pool, py_cluster:room(Pool), Acc) end, S, maps:keys(Queues)),
    {noreply, tick(Turned#s{ticks = false})};
handle_info(_Late, S) ->
    {noreply, S}.

%% While anybody waits.
tick(S = #s{ticks = false, queues = Queues}) when map_size(Queues) > 0 ->
    erlang:send_after(?TICK, self(), tick),
    S#s{ticks = true};
tick(S) ->
    S.

%%% ------------------------------------------------------------------ the queues

add(Pool, Where, Pid, Ref, S = #s{queues = Queues, monitors = Monitors, refs = Refs}) ->
    Monitor = erlang:monitor(process, Pid),
    {Out, In} = maps:get(Pool, Queues, {[], []}),
    Queue = case Where of
                back -> {Out, [{Ref, Monitor} | In]};
                front -> {[{Ref, Monitor} | Out], In}
            end,
    counted(Pool, 1),
    S#s{queues = Queues#{Pool => Queue}, monitors = Monitors#{Monitor => {Pool, Ref}}, refs = Refs#{Ref => Monitor}}.

counted(Pool, Change) ->
    ets:update_counter(?MODULE, Pool, Change, {Pool, 0}).

%% So many of those who wait, as they came. One that has left is passed over.
turns(_, 0, S) ->
    S;
turns(Pool, N, S = #s{queues = Queues}) ->
    case Queues of
        #{Pool := {[], []}} ->
            S#s{queues = maps:remove(Pool, Queues)};
        #{Pool := {[], In}} ->
            turns(Pool, N, S#s{queues = Queues#{Pool := {lists:reverse(In), []}}});
        #{Pool := {[{Ref, Monitor} | Out], In}} ->
            Left = S#s{queues = Queues#{Pool := {Out, In}}},
            case is_map_key(Ref, S#s.refs) of
                true -> Ref ! {turn, Ref}, turns(Pool, N - 1, remove(Monitor, Left));
                false -> turns(Pool, N, Left)
            end;
        #{} ->
            S
    end.

%% Its place in the queue stays until its turn would come.
remove(Monitor, S = #s{monitors = Monitors, refs = Refs}) ->
    case maps:take(Monitor, Monitors) of
        {{Pool, Ref}, Left} ->
            erlang:demonitor(Monitor, [flush]),
            counted(Pool, -1),
            S#s{monitors = Left, refs = maps:remove(Ref, Refs)};
        error ->
            S
    end.
