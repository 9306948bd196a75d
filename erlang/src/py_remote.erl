%% @private
%% py_remote - what Python code asks of the VM: calls at other Python nodes, objects kept for them, other Erlang nodes.
%%
%% The functions of for_python/3 may be called from Python whatever python_may_call says; each runs in the process
%% of its call, which is killed when Python waits no longer. This process keeps what outlives a call:
%%
%%      objects    a Python node has put them, in pieces; they go when it releases them or its connection goes.
%%                 Nodes that have fetched one are told to forget it. The pieces are in a table: {{Key, Index}, Bytes}
%%      watchers   processes that each wait for the end of one Erlang node on behalf of one Python process
%%
%% Messages to it:
%%
%%      {fetched, Key, Node}         that Python node has the object now
%%      {release, Key}
%%      {nodedown, Node}             of a Python node that has put objects
%%      {'EXIT', Watcher, _}
-module(py_remote).

-behaviour(gen_server).

-compile({no_auto_import, [nodes/0, put/2, monitor_node/2]}).

-export([start_link/0, for_python/3]).
-export([run/2, slots/1, put/4, fetch/3, release/1, nodes/0, monitor_node/3]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(MAX_BYTES, 4294967296). % of all objects
-define(is_text(T), (is_binary(T) orelse is_atom(T))).

-type key() :: binary().
-type object() :: {Putter :: node(), Bytes :: non_neg_integer(), Fetchers :: #{node() => true}}.

-record(s, {objects = #{} :: #{key() => object()},
            putters = #{} :: #{node() => #{key() => true}},
            bytes = 0 :: non_neg_integer(),
            watchers = #{} :: #{pid() => {pid(), node()}}}).

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Whether any Python code may call it.
-spec for_python(module(), atom(), arity()) -> boolean().
for_python(?MODULE, run, 2) -> true;
for_python(?MODULE, slots, 1) -> true;
for_python(?MODULE, put, 4) -> true;
for_python(?MODULE, fetch, 3) -> true;
for_python(?MODULE, release, 1) -> true;
for_python(?MODULE, nodes, 0) -> true;
for_python(?MODULE, monitor_node, 3) -> true;
for_python(_, _, _) -> false.

%%% ------------------------------------------------------------------ calls at other Python nodes

%% One call of what runs the tasks there, with the options of py:call/5. Python may give it up at any time, and then
%% this process is killed.
-spec run(list(), map()) -> py:result().
run(Args, Options) ->
    case py_call:check('erlang._cluster_run', chunk, #{}, from_python(Options)) of
        {ok, M, F, Checked} -> py_call:run_watched(M, F, Args, Checked);
        Error -> Error
    end.

%% Python has a str where Erlang has an atom.
from_python(Options) ->
    maps:map(fun value/2, Options).

value(Key, Name) when is_binary(Name), (Key =:= pool orelse Key =:= node orelse Key =:= affinity) -> existing(Name);
value(labels, Labels) when is_map(Labels) -> maps:from_list([{label(Key), V} || {Key, V} <- maps:to_list(Labels)]);
value(_, Value) -> Value.

label(Key) when is_binary(Key) -> existing(Key);
label(Key) -> Key.

%% A name that nobody has is one that py:call refuses.
existing(Name) ->
    try binary_to_existing_atom(Name)
    catch
        error:badarg -> Name
    end.

%% How many tasks can run at once at the nodes that the options leave. What is wrong with these run/2 says.
-spec slots(map()) -> pos_integer().
slots(Options) ->
    Entries = case py_call:options(#{}, from_python(Options)) of
                  {ok, Key, _, _, _, _} -> py_call:nodes(Key);
                  {error, _} -> {}
              end,
    max(1, slots(tuple_to_list(Entries), 0)).

slots([{_, _, Counter, _} | Entries], Sum) ->
    #{slots := Slots} = py_counter:load(Counter),
    slots(Entries, Sum + Slots);
slots([], Sum) ->
    Sum.

%%% ------------------------------------------------------------------ objects

%% A piece of the object of that key, the first of which has index 0.
-spec put(binary(), key(), non_neg_integer(), binary()) ->
          ok | {error, overloaded | {node_down, binary(), not_started}}.
put(Node, Key, Index, Bytes) when is_binary(Key), is_integer(Index), is_binary(Bytes), ?is_text(Node) ->
    gen_server:call(?MODULE, {put, connected(Node), Node, Key, Index, Bytes}, infinity).

connected(Name) ->
    lists:search(fun(Node) -> atom_to_binary(Node) =:= Name end, erlang:nodes(connected)).

%% A piece, for the Python node of that name.
-spec fetch(key(), non_neg_integer(), binary()) -> {bytes, binary()} | gone.
fetch(Key, Index, Node) ->
    Index > 0 orelse gen_server:cast(?MODULE, {fetched, Key, connected(Node)}),
    try ets:lookup(?MODULE, {Key, Index}) of
        [{_, Bytes}] -> {bytes, Bytes};
        [] -> gone
    catch
        error:badarg -> gone
    end.

-spec release(key()) -> ok.
release(Key) ->
    gen_server:cast(?MODULE, {release, Key}).

%%% ------------------------------------------------------------------ Erlang nodes

%% This one and those that it sees. Python nodes are hidden, and not among them.
-spec nodes() -> [node(), ...].
nodes() ->
    [node() | erlang:nodes()].

%% The Python process gets {nodedown, Node}, once; false takes that back, for one true.
-spec monitor_node(binary(), pid(), boolean()) -> ok | {error, own_node | bad_name}.
monitor_node(Name, Pid, Flag) when is_pid(Pid), is_boolean(Flag) ->
    case {atom_to_binary(node()), node_name(Name)} of
        {Name, _} -> {error, own_node};
        {_, none} -> {error, bad_name};
        {_, Node} -> gen_server:call(?MODULE, {monitor_node, Node, Pid, Flag}, infinity)
    end.

node_name(Name) when is_binary(Name) ->
    case binary:split(Name, <<"@">>, [global]) of
        [<<_, _/binary>>, <<_, _/binary>>] when byte_size(Name) =< 255 -> binary_to_atom(Name);
        _ -> none
    end;
node_name(Name) when is_atom(Name) ->
    node_name(atom_to_binary(Name)).

%% Lives until the node or the process is gone. It may take a while to find out that a node is not there.
watch(Node, Pid, From) ->
    Monitor = erlang:monitor(process, Pid),
    true = erlang:monitor_node(Node, true),
    gen_server:reply(From, ok),
    receive
        {nodedown, Node} -> erlang:send(Pid, {nodedown, Node}, [noconnect]), ok;
        {'DOWN', Monitor, process, _, _} -> ok
    end.

%%% ------------------------------------------------------------------ the process

-spec init([]) -> {ok, #s{}}.
init([]) ->
    process_flag(trap_exit, true),
    ets:new(?MODULE, [named_table, ordered_set, {read_concurrency, true}]),
    {ok, #s{}}.

-spec handle_call(term(), gen_server:from(), #s{}) -> {reply, term(), #s{}} | {noreply, #s{}}.
handle_call({put, false, Node, _, _, _}, _From, S) ->
    {reply, {error, {node_down, Node, not_started}}, S};
handle_call({put, {value, Node}, _, Key, Index, Bytes}, _From, S) ->
    case S#s.bytes + byte_size(Bytes) =< ?MAX_BYTES of
        true -> {reply, ok, add(Node, Key, Index, Bytes, S)};
        false -> {reply, {error, overloaded}, remove(Key, S)}
    end;
handle_call({monitor_node, Node, Pid, true}, From, S = #s{watchers = Watchers}) ->
    Watcher = spawn_link(fun() -> watch(Node, Pid, From) end),
    {noreply, S#s{watchers = Watchers#{Watcher => {Pid, Node}}}};
handle_call({monitor_node, Node, Pid, false}, _From, S) ->
    {reply, ok, unwatch([W || {W, Whose} <- maps:to_list(S#s.watchers), Whose =:= {Pid, Node}], S)};
handle_call(_Request, _From, S) ->
    {reply, {error, bad_request}, S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}}.
handle_cast({fetched, Key, {value, Node}}, S = #s{objects = Objects}) ->
    case Objects of
        #{Key := {Putter, Size, Fetchers}} ->
            {noreply, S#s{objects = Objects#{Key := {Putter, Size, Fetchers#{Node => true}}}}};
        #{} ->
            {noreply, S}
    end;
handle_cast({release, Key}, S) ->
    {noreply, remove(Key, S)};
handle_cast(_Request, S) ->
    {noreply, S}.

-spec handle_info(term(), #s{}) -> {noreply, #s{}}.
handle_info({nodedown, Node}, S = #s{putters = Putters}) ->
    {noreply, lists:foldl(fun remove/2, S, maps:keys(maps:get(Node, Putters, #{})))};
handle_info({'EXIT', Watcher, _Reason}, S = #s{watchers = Watchers}) ->
    {noreply, S#s{watchers = maps:remove(Watcher, Watchers)}};
handle_info(_Late, S) ->
    {noreply, S}.

%% The first object of a node has its connection watched.
add(Node, Key, Index, Bytes, S = #s{objects = Objects, putters = Putters}) ->
    Keys = maps:get(Node, Putters, #{}),
    map_size(Keys) > 0 orelse erlang:monitor_node(Node, true),
    {_, Size, Fetchers} = maps:get(Key, Objects, {Node, 0, #{}}),
    ets:insert(?MODULE, {{Key, Index}, Bytes}),
    S#s{objects = Objects#{Key => {Node, Size + byte_size(Bytes), Fetchers}},
        putters = Putters#{Node => Keys#{Key => true}},
        bytes = S#s.bytes + byte_size(Bytes)}.

remove(Key, S = #s{objects = Objects, putters = Putters}) ->
    case Objects of
        #{Key := {Node, Size, Fetchers}} ->
            ets:match_delete(?MODULE, {{Key, '_'}, '_'}),
            [py:cast('erlang._cluster_run', forget, [Key], #{}, #{node => Fetcher}) || Fetcher <- maps:keys(Fetchers)],
            Left = maps:remove(Key, maps:get(Node, Putters)),
            S#s{objects = maps:remove(Key, Objects), bytes = S#s.bytes - Size, putters = putters(Node, Left, Putters)};
        #{} ->
            S
    end.

putters(Node, Left, Putters) when map_size(Left) =:= 0 ->
    erlang:monitor_node(Node, false),
    maps:remove(Node, Putters);
putters(Node, Left, Putters) ->
    Putters#{Node := Left}.

%% The call that has asked returns when its watcher can send nothing any more.
unwatch([Watcher | _], S = #s{watchers = Watchers}) ->
    exit(Watcher, kill),
    receive {'EXIT', Watcher, _} -> ok end,
    S#s{watchers = maps:remove(Watcher, Watchers)};
unwatch([], S) ->
    S.
