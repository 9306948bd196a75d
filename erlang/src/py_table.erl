%% @private
%% py_table - owns the tables that the others work on, and does nothing else.
%%
%%      py_nodes      {{counter, Counter}, Pid}: who counts there (py_counter)
%%                    {{gone, Pid}, {Started, Left}}: what the py_node Pid knew at its end, for a while
%%                    {{wish, Node}, connect | disconnect}: what the user has last said of it
%%                    {{pool, Pool}, Options}: those that were started here; {{used, Pool}, true}: called from here
%%                    {{load, Node}, Load}: what it has last reported
%%      py_calls      row() of each call that spawn_call and others have begun (py_task). Who takes the row
%%                    answers, and nobody else: there is one answer, whatever ends meanwhile
%%      py_answerers  {Pid, PyNode | none}: who takes rows out of py_calls. A {settle, Alias} sent there has the answer
%%                    {Alias, settled}, unless the process ends first
%%      py_streams    {Ref, Pid} of each py_stream whose reader gets messages
%%      py_functions  {Name, Fun | {Module, Function}} that Python may call
%%                    {may_call, all | registered | [Module | {Module, Function}]}: what else it may
%%
%% What a call reads, and only the coordinator writes, is a persistent term, so that it is not copied: a map of the
%% nodes {{Node, Pid, Counter, Address}, ...} by `default', {node, Node} and {name, Name}. It is replaced when a node comes or
%% goes, as a whole. Another one has the pools, and is written by py_cluster; a third which modules and functions are
%% called in a pool by themselves (routes/0).
%%
%% The tables go with the application: who comes later finds nothing in them, and nothing is kept. py_calls and
%% py_answerers are the supervisor's, so that no answer is lost with this process; the first is called py_calls_closed
%% while this does not run.
-module(py_table).

-behaviour(gen_server).

-export([start_link/0, new_calls/0]).
-export([nodes/1, set_nodes/1, pools/0, set_pools/1, used_pools/0, set_used_pool/1]).
-export([set_load/2, load/1, set_pool/2, remove_pool/1, pool_options/0]).
-export([routes/0, set_route/2]).
-export([take_counter/2, set_gone/3, gone/1, pids/0, forget/1]).
-export([set_wish/2, wishes/0]).
-export([add_calls/1, set_timer/2, answer_call/2, answer_calls/1, add_answerer/1, remove_answerer/0, settle/0, settled/1]).
-export([tell/4, take_call/1, call/1, is_call/1, count_calls/0, pids_of_calls/0, calls_of/1, calls_of/2]).
-export([add_stream/2, remove_stream/1, stream/1]).
-export([add_function/2, remove_function/1, function/1, set_may_call/1, may_call/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-export_type([entry/0, address/0, key/0, pool/0, row/0, row_tag/0, owner/0]).

-type entry() :: {node(), PyNode :: pid(), py_counter:counter(), address()}.
-type address() :: pid() | {pynode, node()}. % of the node that runs now, or of any of that name
-type key() :: default | {node, node()} | {name, atom()}.
-type pool() :: #{entries := tuple(), labels := #{node() => map()}, strategy := least_loaded | random,
                  max_queue := non_neg_integer(), max_queue_per_caller := non_neg_integer(), used := boolean()}.
-type owner() :: pid() | none. % whose end cancels it
-type row() :: {reference(), PyNode :: pid(), owner(), row_tag(), Module :: atom() | binary(),
                Function :: atom() | binary(), Timer :: reference() | none}.
-type row_tag() :: py_response | async_result % the owner gets {Tag, Ref, Result}
                 | {batch, reference(), pos_integer()} % the owner gets {reference(), pos_integer(), Result}
                 | {notify, pid(), term()}    % that process gets {async_result, Term, Result}
                 | none.

-define(POOLS, py_pools).
-define(ROUTES, py_routes).

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Made by the supervisor, which may be asked for what it is more than once.
-spec new_calls() -> ok.
new_calls() ->
    lists:any(fun(Name) -> ets:whereis(Name) =/= undefined end, [py_calls, py_calls_closed])
        orelse ets:new(py_calls_closed, [named_table, public, {write_concurrency, auto}, {decentralized_counters, false}]),
    ets:whereis(py_answerers) =/= undefined orelse ets:new(py_answerers, [named_table, public]),
    ok.

-spec init([]) -> {ok, none}.
init([]) ->
    process_flag(trap_exit, true),
    py_counter:init(),
    empty_terms(),
    new_calls(),
    ets:new(py_nodes, [named_table, public, {read_concurrency, true}]),
    ets:new(py_streams, [named_table, public, {write_concurrency, true}]),
    ets:new(py_functions, [named_table, public, {read_concurrency, true}]),
    ets:whereis(py_calls) =:= undefined orelse close_calls(), % one before has been killed
    [ets:delete(py_answerers, Pid) || {Pid, _} <- ets:tab2list(py_answerers), not is_process_alive(Pid)],
    ets:rename(py_calls_closed, py_calls),
    {ok, none}.

%% Nobody adds any more. What was added and has not been answered is answered.
close_calls() ->
    add_answerer(none),
    Closed = ets:rename(py_calls, py_calls_closed),
    [answer(Closed, element(1, Row), {error, {node_down, default, unknown}}) || Row <- ets:tab2list(Closed)],
    remove_answerer().

-spec handle_call(term(), gen_server:from(), none) -> {reply, ok, none}.
handle_call(_Request, _From, State) ->
    {reply, ok, State}.

-spec handle_cast(term(), none) -> {noreply, none}.
handle_cast(_Request, State) ->
    {noreply, State}.

-spec handle_info(term(), none) -> {noreply, none}.
handle_info({settle, Alias}, none) ->
    settled(Alias),
    {noreply, none};
handle_info(_Late, none) ->
    {noreply, none}.

-spec terminate(term(), none) -> ok.
terminate(_Reason, none) ->
    empty_terms(),
    close_calls(),
    ok.

%% The nodes that a call with this key may go to; none also when the application does not run.
-spec nodes(key()) -> tuple().
nodes(Key) ->
    case persistent_term:get(?MODULE, #{}) of
        #{Key := Entries} -> Entries;
        _ -> {}
    end.

%% When this returns, every call finds them.
-spec set_nodes(#{key() => [entry(), ...]}) -> ok.
set_nodes(Nodes) ->
    persistent_term:put(?MODULE, maps:map(fun(_, Entries) -> list_to_tuple(Entries) end, Nodes)).

-spec pools() -> #{py_cluster:pool() => pool()}.
pools() ->
    persistent_term:get(?POOLS, #{}).

-spec set_pools(#{py_cluster:pool() => pool()}) -> ok.
set_pools(Pools) ->
    persistent_term:put(?POOLS, Pools).

%% By {Module, Function} or {Module, any}.
-spec routes() -> #{{binary(), binary() | any} => py_cluster:pool()}.
routes() ->
    persistent_term:get(?ROUTES, #{}).

-spec set_route({binary(), binary() | any}, py_cluster:pool() | none) -> ok.
set_route(What, none) ->
    persistent_term:put(?ROUTES, maps:remove(What, routes()));
set_route(What, Pool) ->
    persistent_term:put(?ROUTES, maps:put(What, Pool, routes())).

empty_terms() ->
    set_nodes(#{}),
    set_pools(#{}),
    persistent_term:put(?ROUTES, #{}).

%% Pools whose nodes are wanted on this VM.
-spec used_pools() -> [py_cluster:pool()].
used_pools() ->
    lists:append(ets:match(py_nodes, {{used, '$1'}, true})).

-spec set_used_pool(py_cluster:pool()) -> ok.
set_used_pool(Pool) ->
    ets:insert(py_nodes, {{used, Pool}, true}),
    ok.

%% What was started here, by the process that starts it again.
-spec set_pool(py_cluster:pool(), py_options:pool()) -> ok | {error, not_started}.
set_pool(Pool, Options) ->
    insert(py_nodes, {{pool, Pool}, Options}).

-spec remove_pool(py_cluster:pool()) -> ok | {error, not_started}.
remove_pool(Pool) ->
    delete(py_nodes, {pool, Pool}).

-spec pool_options() -> #{py_cluster:pool() => py_options:pool()}.
pool_options() ->
    try ets:match(py_nodes, {{pool, '$1'}, '$2'}) of
        Found -> maps:from_list([{Pool, Options} || [Pool, Options] <- Found])
    catch
        error:badarg -> #{}
    end.

-spec set_load(node(), map() | none) -> ok | {error, not_started}.
set_load(Node, none) -> delete(py_nodes, {load, Node});
set_load(Node, Load) -> insert(py_nodes, {{load, Node}, Load}).

-spec load(node()) -> map().
load(Node) ->
    case lookup(py_nodes, {load, Node}) of
        [{_, Load}] -> Load;
        [] -> #{}
    end.

%% Whether nobody had the counter; Pid has it now.
-spec take_counter(pos_integer(), pid()) -> boolean().
take_counter(Counter, Pid) ->
    ets:insert_new(py_nodes, {{counter, Counter}, Pid}).

%% Of a py_node that ends: which requests it knew to be started, and whether its node has left and answered all that
%% had begun there. For callers that learn of its end, soon or late.
-spec set_gone(pid(), #{reference() => true}, boolean()) -> ok | {error, not_started}.
set_gone(Pid, Started, Left) ->
    insert(py_nodes, {{gone, Pid}, {Started, Left}}).

-spec gone(pid()) -> {#{reference() => true}, boolean()}.
gone(Pid) ->
    case lookup(py_nodes, {gone, Pid}) of
        [{_, Known}] -> Known;
        [] -> {#{}, false}
    end.

%% Each py_node of which something is here, and what is forgotten when it has ended long ago.
-spec pids() -> [pid()].
pids() ->
    try ets:match(py_nodes, {{counter, '_'}, '$1'}) ++ ets:match(py_nodes, {{gone, '$1'}, '_'}) of
        Found -> lists:usort(lists:append(Found))
    catch
        error:badarg -> []
    end.

-spec forget(pid()) -> ok.
forget(Pid) ->
    ets:match_delete(py_nodes, {{counter, '_'}, Pid}),
    ets:match_delete(py_answerers, {'_', Pid}),
    ets:delete(py_nodes, {gone, Pid}),
    ok.

-spec set_wish(node(), connect | disconnect | none) -> ok.
set_wish(Node, none) ->
    ets:delete(py_nodes, {wish, Node}),
    ok;
set_wish(Node, Wish) ->
    ets:insert(py_nodes, {{wish, Node}, Wish}),
    ok.

-spec wishes() -> [{node(), connect | disconnect}].
wishes() ->
    [{Node, Wish} || [Node, Wish] <- ets:match(py_nodes, {{wish, '$1'}, '$2'})].

%% Before py_node is told of them: should it end, they are found here.
-spec add_calls(row() | [row()]) -> ok | {error, not_started}.
add_calls(Rows) ->
    insert(py_calls, Rows).

%% It ends with the call.
-spec set_timer(reference(), reference()) -> ok.
set_timer(Ref, Timer) ->
    IsCall = try ets:update_element(py_calls, Ref, {7, Timer})
             catch error:badarg -> false
             end,
    IsCall orelse stop_timer(Timer),
    ok.

%% The answer to a call, unless it has one: the row it had. A process that is killed in between has the row and has
%% not sent: so this is for those that nobody knows.
-spec answer_call(reference(), py:result()) -> row() | none.
answer_call(Ref, Result) ->
    answer(py_calls, Ref, Result).

answer(Table, Ref, Result) ->
    try ets:take(Table, Ref) of
        [{_, _, Owner, Tag, _, _, Timer} = Row] ->
            case Tag of
                {batch, Group, I} -> Owner ! {Group, I, Result};
                {notify, Pid, Term} -> Pid ! {async_result, Term, Result};
                none -> ok;
                _ -> Owner ! {Tag, Ref, Result}
            end,
            stop_timer(Timer),
            Row;
        [] ->
            none
    catch
        error:badarg -> none
    end.

%% The same for many, by a process that nobody knows.
-spec answer_calls([{reference(), py:result()}]) -> ok.
answer_calls(Answers) ->
    spawn(fun() ->
                  add_answerer(none),
                  [answer_call(Ref, Result) || {Ref, Result} <- Answers],
                  remove_answerer()
          end),
    ok.

%% The calling process is about to use answer_call/2; for a py_node, or none.
-spec add_answerer(pid() | none) -> ok | {error, not_started}.
add_answerer(PyNode) ->
    insert(py_answerers, {self(), PyNode}).

-spec remove_answerer() -> ok | {error, not_started}.
remove_answerer() ->
    delete(py_answerers, self()).

%% When this returns, whoever had taken a row has sent the answer: each has read a message since, or has ended. That it
%% hears signals would say nothing: it may be collecting garbage between the two.
-spec settle() -> ok.
settle() ->
    Pids = try ets:match(py_answerers, {'$1', '_'})
           catch error:badarg -> []
           end,
    Asked = [begin
                 Alias = erlang:monitor(process, Pid, [{alias, reply_demonitor}]),
                 Pid ! {settle, Alias},
                 Alias
             end || [Pid] <- Pids],
    [receive
         {Alias, settled} -> ok;
         {'DOWN', Alias, process, _, _} -> ok
     end || Alias <- Asked],
    ok.

%% What an answerer that goes on says to {settle, Alias}.
-spec settled(reference()) -> ok.
settled(Alias) ->
    Alias ! {Alias, settled},
    ok.

%% The same for what never had a row.
-spec tell(row_tag(), owner(), reference(), py:result()) -> term().
tell({batch, Group, I}, Owner, _, Result) -> Owner ! {Group, I, Result};
tell({notify, Pid, Term}, _, _, Result) -> Pid ! {async_result, Term, Result};
tell(none, _, _, _) -> ok;
tell(Tag, Owner, Ref, Result) -> Owner ! {Tag, Ref, Result}.

stop_timer(none) -> ok;
stop_timer(Timer) -> erlang:cancel_timer(Timer, [{async, true}, {info, false}]).

%% It has no answer and gets none. Those in the closed table are being answered.
-spec take_call(reference()) -> row() | none.
take_call(Ref) ->
    take_call(Ref, [py_calls, py_calls_closed]).

take_call(Ref, [Table | Tables]) ->
    try ets:take(Table, Ref) of
        [Row] -> stop_timer(element(7, Row)), Row;
        [] -> none
    catch
        error:badarg -> take_call(Ref, Tables)
    end;
take_call(_, []) ->
    none.

-spec call(reference()) -> row() | none.
call(Ref) ->
    case lookup(py_calls, Ref) of
        [Row] -> Row;
        [] -> none
    end.

%% How many have no answer. A call is among them before it is sent. That they are counted in one place makes it
%% quick to ask.
-spec count_calls() -> non_neg_integer().
count_calls() ->
    case ets:info(py_calls, size) of
        undefined -> 0;
        Count -> Count
    end.

-spec is_call(reference()) -> boolean().
is_call(Ref) ->
    try ets:member(py_calls, Ref)
    catch error:badarg -> false
    end.

%% Each py_node that has calls.
-spec pids_of_calls() -> [pid()].
pids_of_calls() ->
    lists:usort(select([{{'_', '$1', '_', '_', '_', '_', '_'}, [], ['$1']}])).

-spec calls_of(pid()) -> [reference()].
calls_of(Pid) ->
    select([{{'$1', Pid, '_', '_', '_', '_', '_'}, [], ['$1']}]).

%% Those of any of these owners, in one walk through all.
-spec calls_of(pid(), #{owner() => term()}) -> [reference()].
calls_of(Pid, Owners) ->
    select([{{'$1', Pid, '$2', '_', '_', '_', '_'}, [{is_map_key, '$2', {const, Owners}}], ['$1']}]).

select(Spec) ->
    try ets:select(py_calls, Spec)
    catch error:badarg -> []
    end.

-spec add_stream(reference(), pid()) -> ok | {error, not_started}.
add_stream(Ref, Pid) ->
    insert(py_streams, {Ref, Pid}).

-spec remove_stream(reference()) -> ok | {error, not_started}.
remove_stream(Ref) ->
    delete(py_streams, Ref).

-spec stream(reference()) -> {ok, pid()} | none.
stream(Ref) ->
    case lookup(py_streams, Ref) of
        [{_, Pid}] -> {ok, Pid};
        [] -> none
    end.

-spec add_function(binary(), fun((list()) -> term()) | {module(), atom()}) -> ok | {error, not_started}.
add_function(Name, Function) ->
    insert(py_functions, {Name, Function}).

-spec remove_function(binary()) -> ok | {error, not_started}.
remove_function(Name) ->
    delete(py_functions, Name).

-spec function(binary()) -> fun((list()) -> term()) | {module(), atom()} | undefined.
function(Name) ->
    case lookup(py_functions, Name) of
        [{_, Function}] -> Function;
        [] -> undefined
    end.

-spec set_may_call(py_options:may_call()) -> ok | {error, not_started}.
set_may_call(MayCall) ->
    insert(py_functions, {may_call, MayCall}).

-spec may_call() -> py_options:may_call().
may_call() ->
    case lookup(py_functions, may_call) of
        [{_, MayCall}] -> MayCall;
        [] -> registered
    end.

lookup(Table, Key) ->
    try ets:lookup(Table, Key)
    catch error:badarg -> []
    end.

insert(Table, Row) ->
    try ets:insert(Table, Row) of
        true -> ok
    catch
        error:badarg -> {error, not_started}
    end.

delete(Table, Key) ->
    try ets:delete(Table, Key) of
        true -> ok
    catch
        error:badarg -> {error, not_started}
    end.
