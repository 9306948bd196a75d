%% @private
%% py_cluster - what this VM knows of all Python nodes of the cluster, and tells the other VMs of its own.
%%
%% One on each VM; they find each other in a group of pg. Messages between them:
%%
%%      {py_nodes, Pid, #{Node => Facts | gone}}   what Pid says of its nodes, as far as it has changed
%%      {py_pools, Pid, #{Pool => Policy}}         the pools that were started there, all of them
%%
%% and from the coordinator, as a cast, {locals, [Local]}: the nodes that are attached here or are to be. A node is
%% announced by the VM that has started it, was told to connect to it or was greeted by it; not by those that use it
%% in a pool. What pool calls read is written from all that (py_table:pools/0).
-module(py_cluster).

-behaviour(gen_server).

-export([start_link/0, locals/1, use/1, set_pool/2, remove_pool/1, set_route/2]).
-export([pool/1, room/1, nodes/0, owner/1, vms/0, await_ready/2]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).

-export_type([pool/0, facts/0, policy/0, local/0, node_info/0]).

-type pool() :: atom().
-type facts() :: #{state := starting | ready | quiet | down, labels := map(), pools := [pool()], slots := pos_integer(),
                   started := boolean(), % by the VM that speaks
                   python => binary(), version => binary(), imports => [binary()], code => term()}.
-type policy() :: #{labels := map() | none,  % none: it has the nodes that were started for it
                    strategy := least_loaded | random, max_queue := non_neg_integer(),
                    max_queue_per_caller => non_neg_integer()}. % as many as max_queue
-type local() :: #{node := node(), source := port | connect | hello | cluster, entry := py_table:entry() | undefined,
                   facts := facts()}.
-type node_info() :: #{node := node(), vms := [node()], state := atom(), _ => _}.

-define(SCOPE, pynode).
-define(GROUP, py_cluster).
-define(ALL, cluster). % the pool of all nodes
-define(STATES, [quiet, ready, starting, down]). % of two the first one is believed
-define(MAX_QUEUE, 10000).
-define(ALL_WAITERS, 1 bsl 58).
-define(NEW, 1000). % ms in which the other VMs will have said what there is

-record(s, {entries = #{} :: #{node() => py_table:entry()},  % attached here
            own = #{} :: #{node() => facts()},
            pools = #{} :: #{pool() => policy()},             % started here
            members = #{} :: #{pid() => {#{node() => facts()}, #{pool() => policy()}}},
            used = #{} :: #{pool() => true},                  % whose nodes are wanted here
            wanted = [] :: [node()],
            unwritten = false :: boolean(),                   % a message `write' is on its way
            waiting = [] :: [{node(), gen_server:from()}],
            is_new = true :: boolean(),                       % others may not have said yet what there is
            unknown = [] :: [{pool(), gen_server:from()}]}).  % asked for meanwhile

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% What the coordinator has.
-spec locals([local()]) -> ok.
locals(Locals) ->
    gen_server:cast(?MODULE, {locals, Locals}).

%% The nodes of the pool are to be attached here.
-spec use(pool()) -> ok | {error, no_pool | not_started}.
use(Pool) ->
    call({use, Pool}).

%% A pool is started here.
-spec set_pool(pool(), py_options:pool()) -> ok | {error, not_started}.
set_pool(Pool, Options) ->
    call({set_pool, Pool, policy(Options)}).

policy(Options) ->
    maps:with([labels, strategy, max_queue, max_queue_per_caller], Options).

-spec remove_pool(pool()) -> ok | {error, not_started}.
remove_pool(Pool) ->
    call({remove_pool, Pool}).

%% Calls of that go to the pool, or to none any more.
-spec set_route({binary(), binary() | any}, pool() | none) -> ok | {error, not_started}.
set_route(What, Pool) ->
    call({set_route, What, Pool}).

%% What a call into the pool reads.
-spec pool(pool()) -> py_table:pool() | none.
pool(Pool) ->
    case py_table:pools() of
        #{Pool := Found} -> Found;
        _ -> none
    end.

%% How many calls there is room for; enough for all if the pool has gone, or the only node, so that who waits looks anew.
-spec room(py_backlog:queue()) -> non_neg_integer().
room({Pool, Which}) ->
    case {pool(Pool), Which} of
        {none, _} -> ?ALL_WAITERS;
        {#{entries := Entries}, any} -> py_place:room(Entries);
        {#{entries := Entries}, {node, Node}} ->
            case lists:keyfind(Node, 1, tuple_to_list(Entries)) of
                false -> ?ALL_WAITERS;
                Entry -> py_place:room({Entry})
            end;
        {#{entries := Entries, labels := Labels}, {labels, Wanted}} -> py_place:room(py_place:matching(Wanted, Labels, Entries))
    end.

%% All nodes of the cluster, whoever has them.
-spec nodes() -> [node_info()] | {error, not_started}.
nodes() ->
    call(nodes).

%% The VM that has the node: the one that has started it, if any has.
-spec owner(node()) -> node() | none.
owner(Node) ->
    case call({owner, Node}) of
        {error, not_started} -> none;
        Vm -> Vm
    end.

%% The VMs that are in the cluster.
-spec vms() -> [node()].
vms() ->
    try pg:get_members(?SCOPE, ?GROUP) of
        Pids -> lists:usort([node(Pid) || Pid <- Pids])
    catch
        error:badarg -> []
    end.

%% Until the node is ready and attached here.
-spec await_ready(node(), timeout()) -> ok | {error, timeout | not_started}.
await_ready(Node, Timeout) ->
    try gen_server:call(?MODULE, {await_ready, Node}, Timeout)
    catch
        exit:{timeout, _} -> {error, timeout};
        exit:_ -> {error, not_started}
    end.

call(Request) ->
    try gen_server:call(?MODULE, Request, infinity)
    catch exit:_ -> {error, not_started}
    end.

%%% ------------------------------------------------------------------ gen_server

-spec init([]) -> {ok, #s{}, {continue, join}}.
init([]) ->
    erlang:send_after(?NEW, self(), known),
    Pools = maps:map(fun(_, Options) -> policy(Options) end, py_table:pool_options()),
    {ok, #s{pools = Pools, used = maps:from_list([{Pool, true} || Pool <- py_table:used_pools()])}, {continue, join}}.

-spec handle_continue(join, #s{}) -> {noreply, #s{}}.
handle_continue(join, S) ->
    _ = py_members:start_link(self(), ?SCOPE, ?GROUP),
    ok = pg:join(?SCOPE, ?GROUP, self()),
    py_coordinator:tell_locals(),
    {noreply, S}.

-spec handle_call(term(), gen_server:from(), #s{}) -> {reply, term(), #s{}} | {noreply, #s{}}.
handle_call({use, Pool}, From, S = #s{is_new = IsNew, unknown = Unknown}) ->
    case is_map_key(Pool, policies(S)) of
        true -> {reply, ok, used(Pool, S)};
        false when IsNew -> {noreply, S#s{unknown = [{Pool, From} | Unknown]}};
        false -> {reply, {error, no_pool}, S}
    end;
handle_call({set_pool, Pool, Policy}, _From, S = #s{pools = Pools}) ->
    {reply, ok, written(tell_pools(S#s{pools = Pools#{Pool => Policy}}))};
handle_call({remove_pool, Pool}, _From, S = #s{pools = Pools}) ->
    {reply, ok, written(tell_pools(S#s{pools = maps:remove(Pool, Pools)}))};
handle_call({set_route, What, Pool}, _From, S) ->
    {reply, py_table:set_route(What, Pool), S};
handle_call(nodes, _From, S0) ->
    S = answer_waiting(written(S0)),
    {reply, [Info#{node => Node} || {Node, Info} <- lists:sort(maps:to_list(known(S)))], S};
handle_call({owner, Node}, _From, S) ->
    {reply, owner_of(said(Node, S)), S};
handle_call({await_ready, Node}, From, S = #s{waiting = Waiting}) ->
    {noreply, answer_waiting(S#s{waiting = [{Node, From} | Waiting]})};
handle_call(_Request, _From, S) ->
    {reply, {error, bad_request}, S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}}.
handle_cast({locals, Locals}, S = #s{own = Before}) ->
    Own = maps:from_list([{Node, Facts} || #{node := Node, source := Source, facts := Facts} <- Locals, Source =/= cluster]),
    Entries = maps:from_list([{Node, Entry} || #{node := Node, entry := Entry} <- Locals, Entry =/= undefined]),
    tell(changes(Before, Own), others(S)),
    {noreply, write_soon(S#s{own = Own, entries = Entries})};
handle_cast(_Request, S) ->
    {noreply, S}.

-spec handle_info(term(), #s{}) -> {noreply, #s{}}.
handle_info({members, join, Pids}, S) ->
    {noreply, lists:foldl(fun greet/2, S, Pids -- [self()])};
handle_info({members, leave, Pids}, S = #s{members = Members}) ->
    {noreply, written(S#s{members = maps:without(Pids, Members)})};
handle_info({py_nodes, Pid, Said}, S) when is_map(Said) ->
    Changes = maps:filter(fun is_about_node/2, Said),
    {noreply, write_soon(change_member(Pid, fun({Nodes, Pools}) -> {changed(Nodes, Changes), Pools} end, S))};
handle_info({py_pools, Pid, Said}, S0) when is_map(Said) ->
    Pools = maps:filter(fun is_policy/2, Said),
    S = written(change_member(Pid, fun({Nodes, _}) -> {Nodes, Pools} end, S0)),
    {Known, Unknown} = lists:partition(fun({Pool, _}) -> is_map_key(Pool, Pools) end, S#s.unknown),
    [gen_server:reply(From, ok) || {_, From} <- Known],
    {noreply, lists:foldl(fun({Pool, _}, Acc) -> used(Pool, Acc) end, S#s{unknown = Unknown}, Known)};
handle_info(write, S) ->
    {noreply, answer_waiting(written(S#s{unwritten = false}))};
handle_info(known, S = #s{unknown = Unknown}) ->
    [gen_server:reply(From, {error, no_pool}) || {_, From} <- Unknown],
    {noreply, S#s{is_new = false, unknown = []}};
handle_info(_Late, S) ->
    {noreply, S}.

%% What a member of another version says in a form that is not known here is passed over.
is_about_node(Node, gone) ->
    is_atom(Node);
is_about_node(Node, #{state := State, labels := Labels, pools := Pools, started := Started}) ->
    is_atom(Node) andalso lists:member(State, ?STATES) andalso is_map(Labels) andalso is_list(Pools) andalso is_boolean(Started);
is_about_node(_, _) ->
    false.

is_policy(Pool, #{labels := Labels, strategy := Strategy, max_queue := Max} = Policy) ->
    is_atom(Pool) andalso (Labels =:= none orelse is_map(Labels)) andalso is_atom(Strategy) andalso is_integer(Max)
        andalso is_integer(maps:get(max_queue_per_caller, Policy, Max));
is_policy(_, _) ->
    false.

used(Pool, S = #s{used = Used}) ->
    py_table:set_used_pool(Pool),
    written(S#s{used = Used#{Pool => true}}).

%%% ------------------------------------------------------------------ members

%% One that has come is told all. What it says itself may have come before.
greet(Pid, S = #s{own = Own, pools = Pools, members = Members}) ->
    Pid ! {py_nodes, self(), Own},
    Pid ! {py_pools, self(), Pools},
    S#s{members = maps:merge(#{Pid => {#{}, #{}}}, Members)}.

%% Its words may come before pg says that it has joined, but not after it has left: the connection is the same.
change_member(Pid, Change, S = #s{members = Members}) ->
    S#s{members = Members#{Pid => Change(maps:get(Pid, Members, {#{}, #{}}))}}.

others(#s{members = Members}) ->
    maps:keys(Members).

%% What has to be said so that Before becomes Now.
changes(Before, Now) ->
    Changed = maps:filter(fun(Node, Facts) -> maps:get(Node, Before, none) =/= Facts end, Now),
    maps:merge(Changed, maps:map(fun(_, _) -> gone end, maps:without(maps:keys(Now), Before))).

changed(Nodes, Changes) ->
    maps:filter(fun(_, Facts) -> Facts =/= gone end, maps:merge(Nodes, Changes)).

tell(Changes, Pids) when map_size(Changes) > 0 ->
    [Pid ! {py_nodes, self(), Changes} || Pid <- Pids];
tell(_, _) ->
    ok.

tell_pools(S = #s{pools = Pools}) ->
    [Pid ! {py_pools, self(), Pools} || Pid <- others(S)],
    S.

%%% ------------------------------------------------------------------ what is known

%% Each node with who speaks for it. Two may; one that says it is quiet is believed.
known(S = #s{own = Own}) ->
    Said = [{Node, Vm, Facts} || {Vm, Nodes} <- [{node(), Own} | theirs(S)], {Node, Facts} <- maps:to_list(Nodes)],
    lists:foldl(fun({Node, Vm, Facts}, Acc) -> Acc#{Node => agreed(Vm, Facts, maps:get(Node, Acc, none))} end, #{},
                lists:sort(Said)).

theirs(#s{members = Members}) ->
    [{node(Pid), Nodes} || {Pid, {Nodes, _}} <- maps:to_list(Members)].

%% Who speaks for it, and whether that VM has started it.
said(Node, S = #s{own = Own}) ->
    [{not maps:get(started, Facts), Vm} || {Vm, #{Node := Facts}} <- [{node(), Own} | lists:sort(theirs(S))]].

owner_of([]) -> none;
owner_of(Said) -> element(2, lists:min(Said)).

agreed(Vm, Facts, none) ->
    (maps:remove(started, Facts))#{vms => [Vm]};
agreed(Vm, #{state := State, labels := Labels, pools := Pools}, Known = #{state := Before, vms := Vms}) ->
    Known#{vms => Vms ++ [Vm], state => stronger(State, Before), labels => maps:merge(Labels, maps:get(labels, Known)),
           pools => lists:usort(Pools ++ maps:get(pools, Known))}.

stronger(A, B) ->
    hd([State || State <- ?STATES, A =:= State orelse B =:= State]).

%% The policy of each pool: that of this VM, if it was started here, else of the first that has it.
policies(#s{pools = Own, members = Members}) ->
    Theirs = [Pools || {_, Pools} <- lists:sort([{node(Pid), Pools} || {Pid, {_, Pools}} <- maps:to_list(Members)])],
    lists:foldr(fun(Pools, Acc) -> maps:merge(Acc, Pools) end, #{?ALL => all()}, [Own | Theirs]).

all() ->
    #{labels => #{}, strategy => least_loaded, max_queue => ?MAX_QUEUE}.

%%% ------------------------------------------------------------------ what is written

%% Behind what is in the mailbox: it is a walk through all nodes.
write_soon(S = #s{unwritten = true}) ->
    S;
write_soon(S) ->
    self() ! write,
    S#s{unwritten = true}.

%% The pools, if they have changed, and to the coordinator which nodes are to be attached for those that are used.
written(S = #s{wanted = Before, used = Used}) ->
    Known = known(S),
    Policies = policies(S),
    Pools = maps:map(fun(Pool, Policy) -> written_pool(Pool, Policy, Known, S) end, Policies),
    py_table:pools() =:= Pools orelse py_table:set_pools(Pools),
    Wanted = [Node || {Node, #{state := ready} = Facts} <- maps:to_list(Known), not is_map_key(Node, S#s.own),
                      {Pool, Policy} <- maps:to_list(Policies), is_map_key(Pool, Used), belongs(Pool, Policy, Facts)],
    case lists:usort(Wanted) of
        Before ->
            S;
        Now ->
            py_coordinator:cluster_nodes(Now),
            S#s{wanted = Now}
    end.

written_pool(Pool, Policy = #{max_queue := Max}, Known, #s{entries = Entries, used = Used}) ->
    Ready = [Node || {Node, #{state := ready} = Facts} <- lists:sort(maps:to_list(Known)), belongs(Pool, Policy, Facts),
                     is_map_key(Node, Entries)],
    #{entries => list_to_tuple([maps:get(Node, Entries) || Node <- Ready]),
      labels => maps:from_list([{Node, py_place:labels(maps:get(labels, maps:get(Node, Known)))} || Node <- Ready]),
      strategy => maps:get(strategy, Policy), max_queue => Max, max_queue_per_caller => maps:get(max_queue_per_caller, Policy, Max),
      used => is_map_key(Pool, Used)}.

%% A pool has the nodes that were started for it, or those with its labels.
belongs(Pool, #{labels := none}, #{pools := Pools}) -> lists:member(Pool, Pools);
belongs(_, #{labels := Wanted}, #{labels := Labels}) -> py_place:have(py_place:labels(Wanted), py_place:labels(Labels)).

answer_waiting(S = #s{waiting = []}) ->
    S;
answer_waiting(S = #s{waiting = Waiting, own = Own, entries = Entries}) ->
    IsReady = fun(Node) ->
                      case Own of
                          #{Node := #{state := ready}} -> is_map_key(Node, Entries);
                          _ -> false
                      end
              end,
    {Ready, Left} = lists:partition(fun({Node, _}) -> IsReady(Node) end, Waiting),
    [gen_server:reply(From, ok) || {_, From} <- Ready],
    S#s{waiting = [Waits || {_, {Pid, _}} = Waits <- Left, is_process_alive(Pid)]}.
