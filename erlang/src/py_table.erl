%% @private
%% py_table - owns the tables that the others work on, and does nothing else.
%%
%%      py_nodes      {default | {node, Node} | {name, Name}, {{Node, Pid, Counter}, ...}}:
%%                    what a call reads; written by the coordinator
%%                    {{counter, Counter}, Pid}: who counts there (py_counter)
%%                    {{gone, Pid}, Started}: what the py_node Pid knew at its end, for a while
%%                    {{wish, Node}, connect | disconnect}: what the user has last said of it
%%      py_calls      {Ref, Pid} of what spawn_call has begun: Pid is the py_node it went to
%%      py_functions  {Name, Fun | {Module, Function}} that Python may call
%%                    {may_call, all | registered | [Module | {Module, Function}]}: what else it may
%%
%% The tables go with the application: who comes later finds nothing in them, and nothing is kept.
-module(py_table).

-behaviour(gen_server).

-export([start_link/0]).
-export([nodes/1, set_nodes/2, keys/0]).
-export([take_counter/2, set_started/2, started/1, pids/0, forget/1]).
-export([set_wish/2, wishes/0]).
-export([add_call/2, remove_call/1, call/1, calls/0, calls_of/1]).
-export([add_function/2, remove_function/1, function/1, set_may_call/1, may_call/0]).
-export([init/1, handle_call/3, handle_cast/2]).

-export_type([entry/0, key/0]).

-type entry() :: {node(), pid(), py_counter:counter()}.
-type key() :: default | {node, node()} | {name, atom()}.

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec init([]) -> {ok, none}.
init([]) ->
    py_counter:init(),
    ets:new(py_nodes, [named_table, public, {read_concurrency, true}]),
    ets:new(py_calls, [named_table, public, {write_concurrency, true}]),
    ets:new(py_functions, [named_table, public, {read_concurrency, true}]),
    {ok, none}.

-spec handle_call(term(), gen_server:from(), none) -> {reply, ok, none}.
handle_call(_Request, _From, State) ->
    {reply, ok, State}.

-spec handle_cast(term(), none) -> {noreply, none}.
handle_cast(_Request, State) ->
    {noreply, State}.

%% The nodes that a call with this key may go to; none also when the application does not run.
-spec nodes(key()) -> tuple().
nodes(Key) ->
    case lookup(py_nodes, Key) of
        [{_, Entries}] -> Entries;
        [] -> {}
    end.

-spec set_nodes(key(), [entry()]) -> ok.
set_nodes(Key, []) ->
    ets:delete(py_nodes, Key),
    ok;
set_nodes(Key, Entries) ->
    ets:insert(py_nodes, {Key, list_to_tuple(Entries)}),
    ok.

-spec keys() -> [key()].
keys() ->
    [Key || [Key] <- ets:match(py_nodes, {'$1', '_'}), is_for_calls(Key)].

is_for_calls(default) -> true;
is_for_calls({Kind, _}) -> Kind =:= node orelse Kind =:= name.

%% Whether nobody had the counter; Pid has it now.
-spec take_counter(pos_integer(), pid()) -> boolean().
take_counter(Counter, Pid) ->
    ets:insert_new(py_nodes, {{counter, Counter}, Pid}).

%% Which requests a py_node that has ended knew to be started: for callers that learn of its end late.
-spec set_started(pid(), #{reference() => true}) -> ok | {error, not_started}.
set_started(Pid, Started) ->
    insert(py_nodes, {{gone, Pid}, Started}).

-spec started(pid()) -> #{reference() => true}.
started(Pid) ->
    case lookup(py_nodes, {gone, Pid}) of
        [{_, Started}] -> Started;
        [] -> #{}
    end.

%% Each py_node of which something is here, and what is forgotten when it has ended long ago.
-spec pids() -> [pid()].
pids() ->
    lists:usort([Pid || [Pid] <- ets:match(py_nodes, {{counter, '_'}, '$1'}) ++ ets:match(py_nodes, {{gone, '$1'}, '_'})]).

-spec forget(pid()) -> ok.
forget(Pid) ->
    ets:match_delete(py_nodes, {{counter, '_'}, Pid}),
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

-spec add_call(reference(), pid()) -> ok | {error, not_started}.
add_call(Ref, Pid) ->
    insert(py_calls, {Ref, Pid}).

-spec remove_call(reference()) -> ok | {error, not_started}.
remove_call(Ref) ->
    delete(py_calls, Ref).

-spec call(reference()) -> {ok, pid()} | none.
call(Ref) ->
    case lookup(py_calls, Ref) of
        [{_, Pid}] -> {ok, Pid};
        [] -> none
    end.

-spec calls() -> [{reference(), pid()}].
calls() ->
    ets:tab2list(py_calls).

-spec calls_of(pid()) -> [reference()].
calls_of(Pid) ->
    [Ref || [Ref] <- ets:match(py_calls, {'$1', Pid})].

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
