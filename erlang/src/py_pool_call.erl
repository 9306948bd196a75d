%% @private
%% py_pool_call - one call into a pool: the place, the wait for it, and what is tried again.
%%
%% What has not started is placed anew, as often as the limit allows. What has, or may have, is tried again only if it
%% is declared to be idempotent; then it has an id, by which the node knows a repeat.
-module(py_pool_call).

-export([options/1, run/5, entries/1, map/5]).
-export([start/7]).

-export_type([key/0]).

%% Which of the pool's nodes, and what may be done with the call.
-type key() :: {pool, py_cluster:pool(), #{labels => map(), key => term(), affinity => soft | strict,
                                           watched => true, caller => pid(), % on whose behalf, if not its own
                                           idempotent => boolean(), retries => non_neg_integer(),
                                           queue_timeout => timeout()}}.

-define(KEYS, [pool, labels, key, affinity, idempotent, retries, queue_timeout]).
-define(RETRIES, 5).
-define(PIECES, 8).       % of a list of items, for each node
-define(POISON, 3).       % nodes that went while it was running there
-define(PAUSE_MIN, 10).   % ms before what may have run is tried again; doubles, with jitter
-define(PAUSE_MAX, 1000).
-define(is_limit(T), (T =:= infinity orelse is_integer(T) andalso T >= 0 andalso T =< 16#ffffffff)).

-record(c, {module :: atom() | binary(),
            function :: atom() | binary(),
            args :: list(),
            wire :: map(),
            queued :: boolean(),
            pool :: py_cluster:pool(),
            options :: map(),
            watched :: boolean(),                  % somebody may kill the caller: the node is to hear of it
            until :: integer() | infinity,
            queue_until :: integer() | infinity,
            tries = 0 :: non_neg_integer(),        % that may have run
            lost = 0 :: non_neg_integer()}).       % nodes that went while it was running there

%%% ------------------------------------------------------------------ options

%% Takes those of a pool out of a call's options: no pool, which one and how, or what is wrong.
-spec options(map()) -> none | {ok, key(), map()} | py_call:error().
options(Options) ->
    case maps:with(?KEYS, Options) of
        Mine when map_size(Mine) =:= 0 -> none;
        #{pool := Pool} = Mine -> checked(Pool, maps:remove(pool, Mine), maps:without(?KEYS, Options));
        #{labels := _} = Mine -> checked(cluster, Mine, maps:without(?KEYS, Options));
        Mine -> {error, {bad_option, hd(lists:sort(maps:keys(Mine)))}}
    end.

checked(Pool, _, _) when not is_atom(Pool) ->
    {error, {bad_option, pool}};
checked(_, _, #{node := _}) ->
    {error, {bad_option, node}};
checked(Pool, Mine, Others) ->
    case [Key || {Key, Value} <- lists:sort(maps:to_list(Mine)), not is_valid(Key, Value)] of
        [] -> {ok, {pool, Pool, compared(Mine)}, Others};
        [Key | _] -> {error, {bad_option, Key}}
    end.

compared(#{labels := Labels} = Mine) -> Mine#{labels := py_place:labels(Labels)};
compared(Mine) -> Mine.

is_valid(labels, V) -> is_map(V);
is_valid(key, _) -> true;
is_valid(affinity, V) -> V =:= soft orelse V =:= strict;
is_valid(idempotent, V) -> is_boolean(V);
is_valid(retries, V) -> is_integer(V) andalso V >= 0;
is_valid(queue_timeout, V) -> ?is_limit(V).

%%% ------------------------------------------------------------------ a call

%% Its outcome; the caller waits.
-spec run(atom() | binary(), atom() | binary(), list(), key(), {map(), boolean(), timeout()}) -> py:result().
run(M, F, Args, {pool, Pool, Given}, {Wire, Queued, Timeout}) ->
    Options = with_queue(Wire, Given),
    place(#c{module = M, function = F, args = Args, pool = Pool, options = Options, queued = Queued,
             watched = is_map_key(watched, Options),
             wire = case Options of
                        #{idempotent := true} -> Wire#{id => new_id()};
                        #{} -> Wire
                    end,
             until = until(Timeout), queue_until = until(maps:get(queue_timeout, Options, infinity))}, back).

%% A queue is at one node, as that of py_call:pick/2.
with_queue(#{queue := Name}, Options) when not is_map_key(key, Options) -> Options#{key => Name, affinity => strict};
with_queue(_, Options) -> Options.

new_id() ->
    <<(erlang:phash2(node(), 1 bsl 32)):32, (erlang:unique_integer()):64, (erlang:system_time()):64>>.

%% The nodes that a call may go to at present; for what is not waited for.
-spec entries(key()) -> tuple().
entries({pool, Pool, Options}) ->
    case pool(Pool) of
        {ok, #{entries := Entries, labels := Labels}} ->
            py_place:matching(maps:get(labels, Options, #{}), Labels, Entries);
        {error, _} ->
            {}
    end.

%% The pool; named for the first time, its nodes are attached.
pool(Pool) ->
    case py_cluster:pool(Pool) of
        #{used := true} = Found -> {ok, Found};
        none -> not_here(Pool);
        #{used := false} -> not_here(Pool)
    end.

not_here(Pool) ->
    case py_cluster:use(Pool) of
        ok -> found(py_cluster:pool(Pool));
        {error, no_pool} -> {error, {bad_option, pool}};
        {error, not_started} -> {error, {node_down, Pool, not_started}}
    end.

found(none) -> {error, {bad_option, pool}}; % it has gone this moment
found(Pool) -> {ok, Pool}.

%% Who comes while others wait, waits behind them; not a task, which needs no worker.
place(C = #c{pool = Name, options = Options, wire = Wire}, Where) ->
    case pool(Name) of
        {error, _} = Error ->
            Error;
        {ok, Pool = #{entries := All, labels := Labels}} ->
            Entries = py_place:matching(maps:get(labels, Options, #{}), Labels, All),
            Queue = {Name, queue(Options, Entries)},
            case Where =:= back andalso not is_map_key(loop, Wire) andalso py_backlog:is_waited(Queue) of
                true when Entries =:= {} -> wait(C, Queue, Where, Pool, none);
                true -> wait(C, Queue, Where, Pool, full);
                false -> place_in(C, Queue, Where, Pool, Entries)
            end
    end.

%% Where it would wait: among those that the same nodes will do for.
queue(#{key := Key, affinity := strict}, Entries) when tuple_size(Entries) > 0 ->
    {node, element(1, py_place:any(Entries, #{key => Key}))};
queue(#{labels := Labels}, _) when map_size(Labels) > 0 ->
    {labels, Labels};
queue(_, _) ->
    any.

place_in(C = #c{options = Options, wire = Wire}, Queue, Where, Pool = #{strategy := Strategy}, Entries) ->
    How = maps:with([key, affinity], Options),
    case py_place:place(Entries, How#{strategy => Strategy, bounded => not is_map_key(loop, Wire)}) of
        {Entry, Slot, InFlight} -> call(Entry, Slot, InFlight, C);
        Full -> wait(C, Queue, Where, Pool, Full)
    end.

call(Entry, Slot, InFlight, C = #c{module = M, function = F, args = Args, wire = Wire, queued = Queued, pool = Pool}) ->
    Result = py_call:run_placed(Entry, Slot, InFlight, {M, F, Args}, Wire, Queued, C#c.watched, left(C#c.until)),
    py_backlog:free(Pool, element(1, Entry)),
    ended(Result, C).

%% What the node has refused, or never had, is placed anew.
ended({error, {node_down, _, not_started}}, C) -> again(C, 1);
ended({error, draining}, C) -> again(C, 1);
ended({error, overloaded}, C) -> again(C, ?PAUSE_MIN);
ended({error, {node_down, _, Progress}} = Error, C = #c{options = #{idempotent := true}}) -> lost(Progress, Error, C);
ended(Result, _) -> Result.

%% A node that was started again counts as another.
lost(Progress, Error, C = #c{tries = Tries, options = Options, lost = Before}) ->
    Lost = case Progress of
               started -> Before + 1;
               unknown -> Before
           end,
    Retries = maps:get(retries, Options, ?RETRIES),
    if
        Lost >= ?POISON -> {error, poison};
        Tries >= Retries -> Error;
        true -> again(C#c{tries = Tries + 1, lost = Lost}, min(?PAUSE_MAX, ?PAUSE_MIN bsl min(Tries, 10)))
    end.

%% After a pause, so that not all that have lost a node come at once.
again(C, Pause) ->
    receive after min(left(C#c.until), Pause div 2 + rand:uniform(Pause)) -> ok end,
    case left(C#c.until) of
        0 -> {error, timeout};
        _ -> place(C, back)
    end.

%% No node has room, or there is none now.
wait(C = #c{pool = Name, options = Options, until = Until, queue_until = QueueUntil}, Queue, Where, Pool, Why) ->
    #{max_queue := Max, max_queue_per_caller := Own} = Pool,
    case min(left(Until), left(QueueUntil)) of
        0 -> not_placed(Why, C);
        Limit ->
            case py_backlog:wait(Queue, Where, {Max, maps:get(caller, Options, self()), Own}, Limit) of
                turn -> place(C, front);
                overloaded -> {error, overloaded};
                timeout -> not_placed(Why, C);
                not_started -> {error, {node_down, Name, not_started}}
            end
    end.

not_placed(none, #c{pool = Pool}) -> {error, {node_down, Pool, not_started}};
not_placed(full, #c{until = Until}) ->
    case left(Until) of
        0 -> {error, timeout};
        _ -> {error, overloaded}
    end.

until(infinity) -> infinity;
until(Timeout) -> erlang:monotonic_time(millisecond) + Timeout.

left(infinity) -> infinity;
left(Until) -> max(0, Until - erlang:monotonic_time(millisecond)).

%%% ------------------------------------------------------------------ many items

%% One function with each of many argument lists, in pieces: so many that each node has several, and the last ones
%% do not wait for one that is slow. If the caller ends, so do the calls.
-spec map(atom() | binary(), atom() | binary(), [list()], key(), {map(), boolean(), timeout()}) -> {ok, [py:result()]}.
map(M, F, ListOfArgs, {pool, Pool, Options} = Key, Rest) ->
    Size = max(1, length(ListOfArgs) div max(1, ?PIECES * tuple_size(entries(Key)))),
    Caller = self(),
    Watched = {pool, Pool, Options#{watched => true, caller => Caller}},
    {_, Monitor} = spawn_monitor(fun() ->
                                         erlang:monitor(process, Caller),
                                         Self = self(),
                                         Begin = fun(Piece) ->
                                                         spawn_link(fun() -> Self ! {self(), run(M, F, Piece, Watched, Rest)} end)
                                                 end,
                                         Begun = [{Begin(Piece), Piece} || Piece <- pieces(ListOfArgs, Size)],
                                         exit({py_outcome, lists:append([collect(Pid, Piece) || {Pid, Piece} <- Begun])})
                                 end),
    receive
        {'DOWN', Monitor, process, _, {py_outcome, Results}} -> {ok, Results};
        {'DOWN', Monitor, process, _, _} -> {ok, [{error, {node_down, Pool, unknown}} || _ <- ListOfArgs]}
    end.

pieces([], _) ->
    [];
pieces(List, Size) ->
    {Piece, Rest} = lists:split(min(Size, length(List)), List),
    [Piece | pieces(Rest, Size)].

collect(Pid, Piece) ->
    receive
        {Pid, {ok, Results}} -> Results;
        {Pid, Error} -> [Error || _ <- Piece];
        {'DOWN', _, process, _, _} -> exit(shutdown) % the caller's; those that are linked end, too
    end.

%%% ------------------------------------------------------------------ begun, and answered later

%% As a task of py_task. A process of its own makes the call, and another has the row in its hands: what py_node gets
%% for a call of one node that one gets here.
-spec start(reference(), py_table:row_tag(), py_table:owner(), atom() | binary(), atom() | binary(), list(),
            py_call:checked()) -> ok.
start(Ref, Tag, Owner, M, F, Args, {ok, {pool, Pool, Options}, _, Wire, Queued, Timeout}) ->
    Creator = self(),
    Caller = case Owner of
                 none -> Creator;
                 _ -> Owner
             end,
    Key = {pool, Pool, Options#{watched => true, caller => Caller}},
    Rest = {Wire, Queued, Timeout},
    {Pid, Monitor} = spawn_monitor(fun() -> begin_call(Creator, {Ref, Tag, Owner, M, F}, Args, Key, Rest) end),
    receive
        {Ref, begun} -> erlang:demonitor(Monitor, [flush]);
        {'DOWN', Monitor, process, Pid, _} -> py_table:tell(Tag, Owner, Ref, {error, {node_down, Pool, not_started}})
    end,
    ok.

begin_call(Creator, {Ref, Tag, Owner, M, F}, Args, Key, Rest) ->
    case py_table:add_calls({Ref, self(), Owner, Tag, M, F, none}) of
        ok -> ok;
        _ -> exit(normal)
    end,
    is_pid(Owner) andalso erlang:monitor(process, Owner),
    Creator ! {Ref, begun},
    {Pid, Monitor} = spawn_monitor(fun() -> exit({py_outcome, run(M, F, Args, Key, Rest)}) end),
    Result = await_call(Ref, Pid, Monitor),
    py_table:add_answerer(none),
    Result =:= dropped orelse py_table:answer_call(Ref, Result),
    py_table:remove_answerer().

await_call(Ref, Pid, Monitor) ->
    receive
        {'DOWN', Monitor, process, Pid, {py_outcome, Result}} -> Result;
        {'DOWN', Monitor, process, Pid, _} -> {error, {node_down, default, unknown}};
        {cancel_call, Ref} -> exit(Pid, kill), {error, cancelled};
        {drop_call, {Ref, _, _, _, _, _, _}} -> exit(Pid, kill), dropped;
        {'DOWN', _, process, _, _} -> exit(Pid, kill), py_table:take_call(Ref), dropped
    end.
