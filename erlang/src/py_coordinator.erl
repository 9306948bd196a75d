%% @private
%% py_coordinator - which Python nodes this VM has: starts, attaches and forgets them.
%%
%% It keeps the table that calls read (py_table), so that no call goes through it. What it is told:
%%
%%      {attached, Entry, Info}                cast of py_node: the node is there
%%      {node_ready, Name, Node, Port, Spec}   cast of py_port: the program is up
%%      {node_exited, Node, How}               cast of py_port: it has ended, {status | signal, N}
%%      {node_given_up, Name, Node, Report}    cast of py_port: it is not started again
%%      {cluster_nodes, [Node]}                cast of py_cluster: nodes of other VMs that are used here
%%      tell_locals                            the same: it has begun, and wants to know what there is
%%      {py_hello, Node}                       message of a node that was started elsewhere
%%      {py_thread, From}                      message of a Python thread: it wants a handler
%%      {py_cast, Name, Args}                  the same: erlang.cast
-module(py_coordinator).

-behaviour(gen_server).

-export([start_link/1, wait_started/0, attached/2]).
-export([connect/2, disconnect/1, nodes/0, info/0, stop_node/2]).
-export([start_node/1, started/0, cluster_nodes/1, tell_locals/0]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).

-export_type([node_info/0, down_info/0]).

-type node_info() :: #{node := node(), name => atom(), source := port | connect | hello | cluster, info := map(),
                       state := attaching | up | draining, in_flight := integer(), port => pid()}.
-type down_info() :: #{node := node(), name := atom(), state := starting | given_up, port := pid()}.

-define(FORGET, 5000).
-define(RETRY_PORT, 10).
-define(RETRY_MIN, 200).
-define(RETRY_MAX, 5000).

-record(port, {name :: atom(),
               spec :: py_options:spec(),
               node :: node() | undefined,
               settled = false :: boolean(),   % it was up once, or has failed once
               failed = false :: boolean(),
               given_up = false :: boolean(),
               stopped = false :: boolean(),   % told to go
               next = none :: none | py_options:spec()}). % of the same name, to be started then

-record(node, {pid :: pid(),
               monitor :: reference(),
               source :: {port, pid()} | connect | hello | cluster,
               entry :: py_table:entry() | undefined,
               draining = false :: boolean(),
               info = #{} :: map(),
               waiting = [] :: [gen_server:from()]}).

-record(s, {options :: py_options:env(),
            ports = #{} :: #{pid() => #port{}},
            nodes = #{} :: #{node() => #node{}},
            wanted = #{} :: #{node() => pos_integer()},  % of connect/2, and the next pause
            cluster = #{} :: #{node() => pos_integer()}, % of cluster_nodes/1, the same
            unpublished = false :: boolean(),            % a message `publish' is on its way
            left = #{} :: #{node() => true},  % disconnected by the user: their hellos are not heard
            waiting = [] :: [gen_server:from()]}).       % for all ports to settle

%%% ------------------------------------------------------------------ for the others

-spec start_link(py_options:env()) -> gen_server:start_ret().
start_link(Options) ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, Options, []).

%% Waits until each configured node has been up once, or has failed once.
-spec wait_started() -> ok.
wait_started() ->
    gen_server:call(?MODULE, wait_started, infinity).

-spec attached(py_table:entry(), map()) -> ok.
attached(Entry, Info) ->
    gen_server:cast(?MODULE, {attached, Entry, Info}).

-spec connect(node(), timeout()) -> ok | {error, term()}.
connect(Node, Timeout) ->
    call({connect, Node}, Timeout).

-spec disconnect(node()) -> ok | {error, term()}.
disconnect(Node) ->
    call({disconnect, Node}, 5000).

%% The attached nodes.
-spec nodes() -> [node()].
nodes() ->
    case call(nodes, 5000) of
        Nodes when is_list(Nodes) -> Nodes;
        {error, _} -> []
    end.

-spec info() -> #{nodes := [node_info()], down := [down_info()]} | {error, term()}.
info() ->
    call(info, 5000).

%% No new calls go to the node; if it is a configured one, the caller has py_port stop it.
-spec stop_node(node(), timeout()) -> {port, pid()} | connected | {error, term()}.
stop_node(Node, Timeout) ->
    call({stop_node, Node}, Timeout).

%% One more, which belongs to a pool. If it runs, since this process or that of the pool was killed, it is taken over.
%% If one of its name was told to go, it begins when that has gone.
-spec start_node(py_options:spec()) -> ok | {error, term()}.
start_node(Spec) ->
    call({start_node, Spec}, infinity).

%% The nodes that this VM runs and has not told to go.
-spec started() -> [node()] | {error, term()}.
started() ->
    call(started, infinity).

%% Which nodes of other VMs are to be attached: these, and no others.
-spec cluster_nodes([node()]) -> ok.
cluster_nodes(Nodes) ->
    gen_server:cast(?MODULE, {cluster_nodes, Nodes}).

-spec tell_locals() -> ok.
tell_locals() ->
    gen_server:cast(?MODULE, tell_locals).

call(Request, Timeout) ->
    try gen_server:call(?MODULE, Request, Timeout)
    catch
        exit:{timeout, _} -> {error, timeout};
        exit:{noproc, _} -> {error, not_started}
    end.

%%% ------------------------------------------------------------------ gen_server

-spec init(py_options:env()) -> {ok, #s{}, {continue, start}}.
init(Options) ->
    process_flag(trap_exit, true),
    py_table:set_nodes(#{}),
    py_table:set_may_call(maps:get(python_may_call, Options)),
    Wishes = py_table:wishes(),
    {ok, #s{options = Options,
            wanted = maps:from_list([{Node, ?RETRY_MIN} || {Node, connect} <- Wishes]),
            left = maps:from_list([{Node, true} || {Node, disconnect} <- Wishes])},
     {continue, start}}.

%% If this process had ended, its nodes have lived on, and are taken over; calls under way end.
-spec handle_continue(start, #s{}) -> {noreply, #s{}}.
handle_continue(start, S = #s{options = #{nodes := Specs}, wanted = Wanted}) ->
    [begin erlang:monitor(process, Pid), py_node:detach(Pid) end
     || {_, Pid, _, _} <- supervisor:which_children(py_node_sup), is_pid(Pid)],
    [erlang:send_after(?FORGET, self(), {forget, Pid}) || Pid <- py_table:pids()],
    [answer_gone(default, Pid) || Pid <- py_table:pids_of_calls(), not is_process_alive(Pid)],
    [self() ! {retry, Node} || Node <- maps:keys(Wanted)],
    Running = [{maps:get(node, Info), Pid, Info}
               || {_, Pid, _, _} <- supervisor:which_children(py_port_sup), is_pid(Pid), Info <- port_info(Pid)],
    {noreply, settle(lists:foldl(fun(Spec, Acc) -> take_port(Spec, Running, Acc) end, S, Specs))}.

port_info(Pid) ->
    try [py_port:info(Pid)]
    catch exit:_ -> []
    end.

take_port(Spec, Running, S) ->
    case lists:keyfind(py_program:node_name(Spec), 1, Running) of
        {Node, Pid, #{state := ready}} -> attach(Node, {port, Pid}, [], add_port(Pid, Node, Spec, S));
        {Node, Pid, #{state := given_up}} -> given_up(Node, add_port(Pid, undefined, Spec, S));
        {_, Pid, _} -> add_port(Pid, undefined, Spec, S);
        false -> start_port(Spec, S)
    end.

start_port(Spec, S) ->
    case py_port_sup:start_child(Spec) of
        {ok, Pid} -> add_port(Pid, undefined, Spec, S);
        {error, _} -> erlang:send_after(?RETRY_MAX, self(), {start_port, Spec}), S
    end.

%% Its process may have ended, which has not been heard of here.
start_after(Port, Spec, S = #s{ports = Ports}) ->
    case Ports of
        #{Port := #port{stopped = true} = P} -> S#s{ports = Ports#{Port := P#port{next = Spec}}};
        #{} -> S
    end.

add_port(Pid, Node, Spec = #{name := Name}, S = #s{ports = Ports}) ->
    erlang:monitor(process, Pid),
    S#s{ports = Ports#{Pid => #port{name = Name, spec = Spec, node = Node}}}.

-spec handle_call(term(), gen_server:from(), #s{}) -> {reply, term(), #s{}} | {noreply, #s{}}.
handle_call(wait_started, From, S) ->
    {noreply, settle(S#s{waiting = [From | S#s.waiting]})};
handle_call({connect, Node}, From, S0) ->
    S = #s{nodes = Nodes} = heard(Node, S0),
    case Nodes of
        #{Node := #node{entry = undefined, waiting = Waiting} = N} ->
            {noreply, S#s{nodes = Nodes#{Node := taken(N#node{waiting = [From | Waiting]})}}};
        #{Node := N} ->
            {reply, ok, publish(want(Node, S#s{nodes = Nodes#{Node := taken(N)}}))};
        _ ->
            {noreply, attach(Node, connect, [From], S)}
    end;
handle_call({disconnect, Node}, _From, S = #s{nodes = Nodes}) ->
    case Nodes of
        #{Node := #node{source = {port, _}}} -> {reply, {error, configured}, S};
        #{Node := #node{pid = Pid, waiting = Waiting}} ->
            py_node:detach(Pid),
            [gen_server:reply(Waits, {error, detached}) || Waits <- Waiting],
            {reply, ok, remove(Node, Pid, leave(Node, S))};
        _ -> {reply, {error, not_connected}, unwant(Node, S)}
    end;
handle_call(nodes, _From, S) ->
    {reply, [Node || {Node, #node{entry = E}} <- lists:sort(maps:to_list(S#s.nodes)), E =/= undefined], S};
handle_call(started, _From, S = #s{ports = Ports}) ->
    {reply, [port_node(P) || P = #port{stopped = Stopped, next = Next} <- maps:values(Ports), not Stopped orelse Next =/= none], S};
handle_call(info, _From, S) ->
    {reply, info(S), S};
handle_call({stop_node, Node}, _From, S0 = #s{nodes = Nodes}) ->
    S = unwant(Node, S0),
    case Nodes of
        #{Node := N = #node{source = Source}} ->
            Left = publish(stopped(Node, S#s{nodes = Nodes#{Node := N#node{entry = undefined, draining = true}}})),
            {reply, case Source of {port, _} -> Source; _ -> connected end, Left};
        _ ->
            {reply, port_of(Node, S), publish(stopped(Node, S))}
    end;
handle_call({start_node, Spec}, _From, S) ->
    Running = [{maps:get(node, Info), Pid, Info}
               || {_, Pid, _, _} <- supervisor:which_children(py_port_sup), is_pid(Pid),
                  not is_map_key(Pid, S#s.ports), Info <- port_info(Pid)],
    case port_of(py_program:node_name(Spec), S) of
        {port, Port} -> {reply, ok, start_after(Port, Spec, S)};
        {error, _} -> {reply, ok, publish(take_port(Spec, Running, S))}
    end;
handle_call(_Request, _From, S) ->
    {reply, {error, bad_request}, S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}}.
handle_cast({attached, {Node, Pid, _, _} = Entry, Info}, S = #s{nodes = Nodes}) ->
    case Nodes of
        #{Node := N = #node{pid = Pid}} ->
            Up = N#node{entry = Entry, info = Info},
            Wanted = case Up of
                         #node{source = connect} when not is_map_key(Node, S#s.left) -> want(Node, S);
                         _ -> S
                     end,
            Again = maps:merge(S#s.cluster, maps:map(fun(_, _) -> ?RETRY_MIN end, maps:with([Node], S#s.cluster))),
            {noreply, publish_soon(Wanted#s{nodes = Nodes#{Node := Up}, cluster = Again})};
        _ ->
            {noreply, S}
    end;
handle_cast({node_ready, _Name, Node, Port, _Spec}, S = #s{ports = Ports}) ->
    case Ports of
        #{Port := P} ->
            Up = P#port{node = Node, given_up = false},
            {noreply, attach(Node, {port, Port}, [], S#s{ports = Ports#{Port := Up}})};
        _ ->
            {noreply, S}
    end;
handle_cast({node_exited, Node, _How}, S) ->
    {noreply, settle(ended(Node, S))};
handle_cast({node_given_up, _Name, Node, _Report}, S) ->
    {noreply, settle(publish(given_up(Node, ended(Node, S))))};
handle_cast({cluster_nodes, Nodes}, S) ->
    {noreply, set_cluster(Nodes, S)};
handle_cast(tell_locals, S) ->
    py_cluster:locals(locals(S)),
    {noreply, S};
handle_cast(_Late, S) ->
    {noreply, S}.

-spec handle_info(term(), #s{}) -> {noreply, #s{}}.
handle_info({py_hello, Node}, S = #s{nodes = Nodes, left = Left}) when is_atom(Node) ->
    case Nodes of
        #{Node := _} -> {noreply, S};
        _ when is_map_key(Node, Left) -> {noreply, S};
        _ -> {noreply, attach(Node, hello, [], S)}
    end;
handle_info({py_thread, From}, S) when is_pid(From) ->
    py_handler_sup:start_thread(From),
    {noreply, S};
handle_info({py_cast, Name, Args}, S) when is_binary(Name), is_list(Args) ->
    py_handler_sup:start_cast(Name, Args),
    {noreply, S};
handle_info({'DOWN', Monitor, process, Pid, Reason}, S = #s{nodes = Nodes}) ->
    case [Node || {Node, #node{monitor = M}} <- maps:to_list(Nodes), M =:= Monitor] of
        [Node] -> {noreply, settle(node_down(Node, Pid, Reason, S))};
        [] -> answer_gone(default, Pid), {noreply, settle(publish(port_down(Pid, Reason, S)))}
    end;
handle_info({retry, Node}, S = #s{nodes = Nodes, wanted = Wanted}) ->
    case [Pid || {Pid, #port{node = N, stopped = false}} <- maps:to_list(S#s.ports), N =:= Node] of
        _ when is_map_key(Node, Nodes) -> {noreply, S};
        [Port] -> {noreply, attach(Node, {port, Port}, [], S)};
        [] when is_map_key(Node, Wanted) -> {noreply, attach(Node, connect, [], S)};
        [] when is_map_key(Node, S#s.cluster) -> {noreply, attach(Node, cluster, [], S)};
        [] -> {noreply, S}
    end;
handle_info(publish, S) ->
    {noreply, settle(S)};
handle_info({forget, Pid}, S) ->
    py_table:forget(Pid),
    {noreply, S};
handle_info({start_port, Spec}, S) ->
    {noreply, start_port(Spec, S)};
handle_info(_Late, S) ->
    {noreply, S}.

%%% ------------------------------------------------------------------ nodes

%% Begins to attach; a process of an earlier life of the same node is on its way out.
attach(Node, Source, Waiting, S = #s{nodes = Nodes}) ->
    case Nodes of
        #{Node := #node{pid = Old, waiting = Before}} ->
            py_node:detach(Old),
            attach(Node, Source, Waiting ++ Before, node_gone(Node, Old, S));
        _ ->
            {ok, Pid} = py_node_sup:start_node(Node, node_options(Source, S)),
            N = #node{pid = Pid, monitor = erlang:monitor(process, Pid), source = Source, waiting = Waiting},
            S#s{nodes = Nodes#{Node => N}}
    end.

node_options({port, Port}, #s{ports = Ports}) ->
    #{Port := #port{spec = #{kill_after := After}}} = Ports,
    #{kill_after => After, kill => fun() -> py_port:kill(Port) end};
node_options(_, _) ->
    #{}.

%% Tried again are nodes that connect/2 asked for, and configured ones, until their process is known to
%% have ended: the connection may have been cut. One that said hello comes by itself.
node_down(Node, Pid, Reason, S = #s{nodes = Nodes, wanted = Wanted}) ->
    #{Node := #node{source = Source, waiting = Waiting}} = Nodes,
    [gen_server:reply(From, {error, reason(Reason)}) || From <- Waiting],
    Left = node_gone(Node, Pid, S),
    case Source of
        {port, _} ->
            retry(Node, ?RETRY_PORT, Left);
        connect when is_map_key(Node, Wanted) ->
            #{Node := Pause} = Wanted,
            retry(Node, Pause, Left#s{wanted = Wanted#{Node := min(2 * Pause, ?RETRY_MAX)}});
        _ when is_map_key(Node, S#s.cluster) ->
            #{Node := Pause} = Cluster = S#s.cluster,
            retry(Node, Pause, Left#s{cluster = Cluster#{Node := min(2 * Pause, ?RETRY_MAX)}});
        _ ->
            Left
    end.

retry(Node, Pause, S) ->
    erlang:send_after(Pause + rand:uniform(Pause), self(), {retry, Node}),
    S.

reason({shutdown, Reason}) -> Reason;
reason(Reason) -> Reason.

%% What has begun there is answered, if py_home has not done it.
node_gone(Node, Pid, S) ->
    answer_gone(Node, Pid),
    remove(Node, Pid, S).

%% The counter is kept for a while: callers that learn of the end late count themselves off.
remove(Node, Pid, S = #s{nodes = Nodes}) ->
    erlang:send_after(?FORGET, self(), {forget, Pid}),
    publish(S#s{nodes = maps:remove(Node, Nodes)}).

answer_gone(Node, Pid) ->
    py_table:answer_calls([{Ref, {error, {node_down, Node, py_node:progress(Ref, Pid)}}}
                           || Ref <- py_table:calls_of(Pid)]).

%% What the user has said of a node that is not configured, which outlives this process: to be connected,
%% to be left alone, or nothing.
want(Node, S = #s{wanted = Wanted}) ->
    py_table:set_wish(Node, connect),
    S#s{wanted = Wanted#{Node => ?RETRY_MIN}}.

unwant(Node, S = #s{wanted = Wanted}) ->
    py_table:set_wish(Node, none),
    S#s{wanted = maps:remove(Node, Wanted)}.

leave(Node, S = #s{left = Left}) ->
    Unwanted = unwant(Node, S),
    py_table:set_wish(Node, disconnect),
    Unwanted#s{left = Left#{Node => true}}.

heard(Node, S = #s{left = Left}) when is_map_key(Node, Left) ->
    py_table:set_wish(Node, none),
    S#s{left = maps:remove(Node, Left)};
heard(_, S) ->
    S.

%% A node that py_cluster has attached is now also the user's.
taken(N = #node{source = cluster}) -> N#node{source = connect};
taken(N) -> N.

%% Those that are not used any more are let go; what runs there ends first, since nobody calls them.
set_cluster(Wanted, S = #s{cluster = Before, nodes = Nodes, left = Left}) ->
    New = [Node || Node <- Wanted, not is_map_key(Node, Before), not is_map_key(Node, Left)],
    [self() ! {retry, Node} || Node <- New],
    Gone = [{Node, Pid} || {Node, #node{source = cluster, pid = Pid, entry = Entry}} <- maps:to_list(Nodes),
                           not lists:member(Node, Wanted), is_idle(Entry)],
    [py_node:detach(Pid) || {_, Pid} <- Gone],
    Kept = maps:with(Wanted, maps:merge(maps:from_list([{Node, ?RETRY_MIN} || Node <- New]), Before)),
    lists:foldl(fun({Node, Pid}, Acc) -> remove(Node, Pid, Acc) end, S#s{cluster = Kept}, Gone).

is_idle(undefined) -> true;
is_idle({_, _, Counter, _}) -> py_counter:in_flight(Counter) =:= 0.

%% Behind what is in the mailbox, so that nodes that come together are published together.
publish_soon(S = #s{unpublished = true}) ->
    S;
publish_soon(S) ->
    self() ! publish,
    S#s{unpublished = true}.

published(S = #s{unpublished = true}) -> answer_connected(publish(S#s{unpublished = false}));
published(S) -> S.

%% Who calls now finds it.
answer_connected(S = #s{nodes = Nodes}) ->
    Answered = maps:map(fun(_, N = #node{entry = Entry, waiting = [_ | _] = Waiting}) when Entry =/= undefined ->
                                [gen_server:reply(From, ok) || From <- Waiting],
                                N#node{waiting = []};
                           (_, N) ->
                                N
                        end, Nodes),
    S#s{nodes = Answered}.

%% Writes what calls read: each node, each name's nodes, and those that are taken if none is named.
publish(S = #s{nodes = Nodes}) ->
    Attached = [N || {_, N} <- lists:sort(maps:to_list(Nodes)), N#node.entry =/= undefined],
    Up = [{N#node.entry, common_name(N, S)} || N <- Attached],
    Named = [{Name, E} || {E, Name} <- Up, Name =/= undefined],
    Default = case [E || {_, E} <- Named] of
                  [] -> others(Attached, S);
                  Configured -> Configured
              end,
    Keyed = [{default, E} || E <- Default]
        ++ [{{node, element(1, E)}, E} || {E, _} <- Up]
        ++ [{{name, Name}, E} || {Name, E} <- Named],
    py_table:set_nodes(maps:groups_from_list(fun({Key, _}) -> Key end, fun({_, E}) -> E end, Keyed)),
    py_cluster:locals(locals(S)),
    S.

%% What py_cluster tells of: nodes that are attached or on their way, and ports whose node is not.
locals(S = #s{nodes = Nodes, ports = Ports}) ->
    Attached = [Pid || #node{source = {port, Pid}} <- maps:values(Nodes)],
    [local(Node, N, S) || {Node, N} <- maps:to_list(Nodes)]
        ++ [#{node => port_node(P), source => port, entry => undefined, facts => facts(port_state(P), P, #{})}
            || {Pid, P} <- maps:to_list(Ports), not lists:member(Pid, Attached)].

local(Node, N = #node{source = {port, Port}, entry = Entry, info = Info}, S) ->
    #{node => Node, source => port, entry => Entry, facts => facts(node_state(N), maps:get(Port, S#s.ports, none), Info)};
local(Node, N = #node{source = Source, entry = Entry, info = Info}, _) ->
    #{node => Node, source => Source, entry => Entry, facts => facts(node_state(N), none, Info)}.

facts(State, Port, Info) ->
    Spec = case Port of
               #port{spec = Known} -> Known;
               none -> #{}
           end,
    Imports = [unicode:characters_to_binary(Module) || Module <- maps:get(import, Spec, maps:get(imports, Info, []))],
    Labels = maps:merge(maps:get(labels, Info, #{}), maps:get(labels, Spec, #{})),
    maps:merge(#{state => State, started => Port =/= none, labels => Labels, pools => [Pool || #{pool := Pool} <- [Spec]],
                 code => maps:get(code, Spec, none), imports => Imports, slots => maps:get(min_workers, Info, 1)},
               maps:with([version, python], Info)).

node_state(#node{draining = true}) -> quiet;
node_state(#node{entry = undefined}) -> starting;
node_state(_) -> ready.

port_state(#port{stopped = true}) -> quiet;
port_state(#port{given_up = true}) -> down;
port_state(_) -> starting.

%% Without configured nodes, whatever was attached otherwise.
others(Attached, #s{ports = Ports}) ->
    case [P || P = #port{spec = Spec} <- maps:values(Ports), not is_map_key(pool, Spec)] of
        [] -> [Entry || #node{source = Source, entry = Entry} <- Attached, Source =:= connect orelse Source =:= hello];
        _ -> []
    end.

%% The nodes of a pool are called by the pool alone.
common_name(#node{source = {port, Port}} = N, S = #s{ports = Ports}) ->
    case Ports of
        #{Port := #port{spec = #{pool := _}}} -> undefined;
        _ -> name(N, S)
    end;
common_name(_, _) ->
    undefined.

name(#node{source = {port, Port}}, #s{ports = Ports}) ->
    case Ports of
        #{Port := #port{name = Name}} -> Name;
        _ -> undefined
    end;
name(_, _) ->
    undefined.

%%% ------------------------------------------------------------------ the start

%% The node's program has ended: that counts as settled, for nobody knows how long it will go on.
ended(Node, S) ->
    change_port(Node, fun(P) -> P#port{node = undefined, failed = true} end, S).

given_up(Node, S) ->
    change_port(Node, fun(P) -> P#port{given_up = true} end, S).

stopped(Node, S) ->
    change_port(Node, fun(P) -> P#port{stopped = true, next = none} end, S).

change_port(Node, Change, S = #s{ports = Ports}) ->
    S#s{ports = maps:map(fun(_, P) ->
                                 case port_node(P) of
                                     Node -> Change(P);
                                     _ -> P
                                 end
                         end, Ports)}.

%% A configured node that is not attached: it waits for a start, or was given up.
port_of(Node, #s{ports = Ports}) ->
    case [Pid || {Pid, P} <- maps:to_list(Ports), port_node(P) =:= Node] of
        [Pid] -> {port, Pid};
        [] -> {error, {node_down, Node, not_started}}
    end.

port_node(#port{spec = Spec}) ->
    py_program:node_name(Spec).

%% A py_port ends as it should when its node was stopped, and else by a fault: then there is a new one.
port_down(Pid, Reason, S = #s{ports = Ports}) ->
    case maps:take(Pid, Ports) of
        {#port{next = none}, Left} when Reason =:= normal; Reason =:= shutdown -> S#s{ports = Left};
        {#port{next = Next}, Left} when Next =/= none -> start_port(Next, S#s{ports = Left});
        {#port{spec = Spec}, Left} -> start_port(Spec, S#s{ports = Left});
        error -> S
    end.

%% Answers those who wait for the start when no port is still on its way.
settle(S0) ->
    S = #s{ports = Ports, nodes = Nodes, waiting = Waiting} = published(S0),
    Attached = [Port || {_, #node{source = {port, Port}, entry = E}} <- maps:to_list(Nodes), E =/= undefined],
    Settled = maps:map(fun(Pid, P = #port{settled = Is, failed = Failed}) ->
                               P#port{settled = Is orelse Failed orelse lists:member(Pid, Attached)}
                       end, Ports),
    case [P || P = #port{settled = false} <- maps:values(Settled)] of
        [] ->
            [gen_server:reply(From, ok) || From <- Waiting],
            S#s{ports = Settled, waiting = []};
        _ ->
            S#s{ports = Settled}
    end.

%%% ------------------------------------------------------------------ info

info(S = #s{nodes = Nodes, ports = Ports}) ->
    Up = [node_info(Node, N, S) || {Node, N} <- lists:sort(maps:to_list(Nodes))],
    Attached = [Pid || #node{source = {port, Pid}} <- maps:values(Nodes)],
    Down = [#{name => P#port.name, node => port_node(P), port => Pid,
              state => case P#port.given_up of true -> given_up; false -> starting end}
            || {Pid, P} <- maps:to_list(Ports), not lists:member(Pid, Attached)],
    #{nodes => Up, down => Down}.

node_info(Node, N = #node{source = Source, entry = Entry, info = Info}, S) ->
    Base = #{node => Node, info => Info,
             state => state(N),
             in_flight => case Entry of {_, _, Counter, _} -> py_counter:in_flight(Counter); _ -> 0 end},
    case Source of
        {port, Port} -> Base#{source => port, name => name(N, S), port => Port};
        _ -> Base#{source => Source}
    end.

state(#node{draining = true}) -> draining;
state(#node{entry = undefined}) -> attaching;
state(_) -> up.
