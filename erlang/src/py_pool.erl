%% @private
%% py_pool - the nodes of one pool that this VM runs: how many, and when one is replaced.
%%
%% Their alive names are of the pool's, this VM's and the lowest number that is free. To replace one the next is started, and when
%% that is ready the old one is quiet, finishes and leaves; one at a time, by a process of its own. If this process ends
%% its nodes live on, and the next one finds them by their names; what was half replaced has one node more for a while.
-module(py_pool).

-behaviour(gen_server).

-export([start_link/2, replace_all/2, resize/2, stop/2, info/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(LOOK, 1000).

-record(s, {pool :: py_cluster:pool(),
            options :: py_options:pool(),
            nodes = #{} :: #{Alive :: string() => {py_options:spec(), Since :: integer()}},
            todo = [] :: [{Alive :: string(), gen_server:from() | none}], % to be replaced, the next one first
            busy = none :: none | {Pid :: pid(), Old :: string(), New :: py_options:spec()}}). % who replaces one

-spec start_link(py_cluster:pool(), py_options:pool()) -> gen_server:start_ret().
start_link(Pool, Options) ->
    gen_server:start_link(?MODULE, {Pool, Options}, []).

%% Each node is replaced by a new one, one after another.
-spec replace_all(pid(), timeout()) -> ok | {error, term()}.
replace_all(Pid, Timeout) ->
    call(Pid, replace_all, Timeout).

-spec resize(pid(), non_neg_integer()) -> ok | {error, term()}.
resize(Pid, Count) ->
    call(Pid, {resize, Count}, infinity).

%% All nodes finish what they have and leave; for how long at most.
-spec stop(pid(), timeout()) -> ok | {error, term()}.
stop(Pid, Timeout) ->
    call(Pid, {stop, Timeout}, infinity).

-spec info(pid()) -> #{nodes := [node()], replacing := [node()]} | {error, term()}.
info(Pid) ->
    call(Pid, info, infinity).

call(Pid, Request, Timeout) ->
    try gen_server:call(Pid, Request, Timeout)
    catch
        exit:{timeout, _} -> {error, timeout};
        exit:_ -> {error, not_started}
    end.

%%% ------------------------------------------------------------------ gen_server

%% Those that run already, and as many new ones as are missing.
-spec init({py_cluster:pool(), py_options:pool()}) -> {ok, #s{}}.
init({Pool, Given}) ->
    process_flag(trap_exit, true), % of who replaces a node, and ends with this process
    Options = maps:get(Pool, py_table:pool_options(), Given), % what one before has made of them
    py_table:set_pool(Pool, Options),
    py_cluster:set_pool(Pool, Options),
    erlang:send_after(?LOOK, self(), look),
    {ok, fill(lists:foldl(fun add/2, #s{pool = Pool, options = Options}, running(Pool)))}.

running(Pool) ->
    [Spec || {_, Pid, _, _} <- supervisor:which_children(py_port_sup), is_pid(Pid),
             #{spec := #{pool := Name} = Spec, state := State} <- port_info(Pid), Name =:= Pool, State =/= stopping].

port_info(Pid) ->
    try [py_port:info(Pid)]
    catch exit:_ -> []
    end.

-spec handle_call(term(), gen_server:from(), #s{}) -> {reply, term(), #s{}} | {noreply, #s{}}.
handle_call(replace_all, From, S = #s{nodes = Nodes, todo = Todo}) ->
    case lists:sort(maps:keys(Nodes)) of
        [] -> {reply, ok, S};
        Alive -> {noreply, next(S#s{todo = Todo ++ [{A, none} || A <- lists:droplast(Alive)] ++ [{lists:last(Alive), From}]})}
    end;
handle_call({resize, Count}, _From, S = #s{options = #{kinds := []}}) when Count > 0 ->
    {reply, {error, {bad_option, nodes}}, S};
handle_call({resize, Count}, _From, S = #s{options = #{kinds := Kinds}}) ->
    {reply, ok, fill(sized([lists:nth(I rem length(Kinds) + 1, Kinds) || I <- lists:seq(0, Count - 1)], S))};
handle_call({stop, Timeout}, _From, S = #s{pool = Pool, nodes = Nodes, busy = Busy}) ->
    py_table:remove_pool(Pool),
    py_cluster:remove_pool(Pool),
    [exit(Pid, kill) || {Pid, _, _} <- [Busy]],
    Specs = [Spec || {Spec, _} <- maps:values(Nodes)] ++ [New || {_, _, New} <- [Busy]],
    Stopping = [spawn_monitor(fun() -> stop_node(Spec, Timeout) end) || Spec <- Specs],
    [receive {'DOWN', Monitor, process, _, _} -> ok end || {_, Monitor} <- Stopping],
    {reply, ok, S#s{nodes = #{}, options = (S#s.options)#{specs => []}, todo = [], busy = none}};
handle_call(info, _From, S = #s{nodes = Nodes, todo = Todo, busy = Busy}) ->
    Replaced = [A || {A, _} <- Todo] ++ [Old || {_, Old, _} <- [Busy]],
    {reply, #{nodes => lists:sort([py_program:node_name(Spec) || {Spec, _} <- maps:values(Nodes)]),
              replacing => [py_program:node_name(Spec) || A <- Replaced, {Spec, _} <- [maps:get(A, Nodes, none)]]}, S};
handle_call(_Request, _From, S) ->
    {reply, {error, bad_request}, S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}}.
handle_cast(_Request, S) ->
    {noreply, S}.

-spec handle_info(term(), #s{}) -> {noreply, #s{}}.
handle_info(look, S0) ->
    erlang:send_after(?LOOK, self(), look),
    S = without_drained(S0),
    {noreply, next(lists:foldl(fun due/2, S, maps:to_list(S#s.nodes)))};
handle_info({'EXIT', Pid, Reason}, S = #s{busy = {Pid, Old, _}}) ->
    {noreply, next(replaced(Reason, Old, S#s{busy = none}))};
handle_info(_Late, S) ->
    {noreply, S}.

%%% ------------------------------------------------------------------ how many

%% So many from now on, also for the next process if this one ends.
sized(Specs, S = #s{pool = Pool, options = Options}) ->
    Sized = Options#{specs => Specs},
    py_table:set_pool(Pool, Sized),
    S#s{options = Sized}.

%% As many nodes as there are specifications: new ones where some are missing; what is too much leaves.
fill(S = #s{options = #{specs := Specs}, nodes = Nodes}) ->
    Missing = length(Specs) - map_size(Nodes),
    if
        Missing > 0 -> lists:foldl(fun start/2, S, lists:nthtail(map_size(Nodes), Specs));
        Missing < 0 -> lists:foldl(fun dismiss/2, S, lists:nthtail(length(Specs), lists:sort(maps:keys(Nodes))));
        true -> S
    end.

start(Base, S) ->
    add(named(Base, S), S).

add(Spec = #{alive := Alive}, S = #s{nodes = Nodes}) ->
    ok = py_coordinator:start_node(Spec), % which takes over one that runs
    S#s{nodes = Nodes#{Alive => {Spec, erlang:monotonic_time(millisecond)}}}.

%% The lowest number that is free; that of a node that is on its way out is not.
named(Base, #s{pool = Pool, nodes = Nodes, busy = Busy}) ->
    Taken = maps:keys(Nodes) ++ [New || {_, _, #{alive := New}} <- [Busy]]
        ++ [Alive || {_, Pid, _, _} <- supervisor:which_children(py_port_sup), is_pid(Pid), #{spec := #{alive := Alive}} <- port_info(Pid)],
    Base#{alive => free(prefix(Pool), 1, Taken)}.

%% Other VMs of this host may have a pool of the same name. One that has named itself ends all names in its own.
prefix(Pool) ->
    case {py_distribution:suffix(), atom_to_list(node())} of
        {"", Vm} -> atom_to_list(Pool) ++ "-" ++ lists:takewhile(fun(C) -> C =/= $@ end, Vm) ++ "-";
        _ -> atom_to_list(Pool) ++ "-"
    end.

free(Prefix, I, Taken) ->
    Alive = Prefix ++ integer_to_list(I),
    case lists:member(Alive, Taken) of
        true -> free(Prefix, I + 1, Taken);
        false -> Alive
    end.

%% A node that the user has drained is not replaced: the pool has one less.
without_drained(S = #s{nodes = Nodes, busy = Busy, options = #{specs := Specs}}) ->
    case py_coordinator:started() of
        Started when is_list(Started) ->
            Left = maps:filter(fun(Alive, {Spec, _}) ->
                                       is_busy(Alive, Busy) orelse lists:member(py_program:node_name(Spec), Started)
                               end, Nodes),
            case map_size(Nodes) - map_size(Left) of
                0 -> S;
                Fewer -> sized(lists:nthtail(Fewer, Specs), S#s{nodes = Left})
            end;
        {error, _} ->
            S
    end.

dismiss(Alive, S = #s{nodes = Nodes}) ->
    {{Spec, _}, Left} = maps:take(Alive, Nodes),
    spawn(fun() -> stop_node(Spec, maps:get(drain_timeout, Spec)) end),
    S#s{nodes = Left}.

stop_node(Spec, Timeout) ->
    case py_coordinator:stop_node(py_program:node_name(Spec), infinity) of
        {port, Port} -> py_port:stop(Port, Timeout);
        _ -> ok
    end.

%%% ------------------------------------------------------------------ replacing

%% A node that has done enough, is old or has grown is to be replaced, once.
due({Alive, {Spec, Since}}, S = #s{options = Options, todo = Todo, busy = Busy}) ->
    Load = py_table:load(py_program:node_name(Spec)),
    Age = erlang:monotonic_time(millisecond) - Since,
    Is = [true || {Key, Value} <- [{max_tasks, maps:get(calls, Load, 0)}, {max_rss, maps:get(rss, Load, 0)}, {max_age, Age}],
                  Limit <- [maps:get(Key, Options, infinity)], Value >= Limit],
    case Is =/= [] andalso not lists:keymember(Alive, 1, Todo) andalso not is_busy(Alive, Busy) of
        true -> S#s{todo = Todo ++ [{Alive, none}]};
        false -> S
    end.

is_busy(Alive, {_, Alive, _}) -> true;
is_busy(_, _) -> false.

next(S = #s{busy = none, todo = [{Alive, From} | Todo], nodes = Nodes}) ->
    case Nodes of
        #{Alive := {Spec, _}} ->
            New = named(Spec, S),
            Pid = spawn_link(fun() -> exit(replace(Spec, New)) end),
            S#s{busy = {Pid, Alive, New}, todo = [{Alive, From} | Todo]};
        #{} ->
            next(answered(ok, S))
    end;
next(S) ->
    S.

%% The new one is ready before the old one is asked to go.
replace(Old, New = #{start_timeout := Limit}) ->
    case py_coordinator:start_node(New) of
        ok ->
            case py_cluster:await_ready(py_program:node_name(New), Limit) of
                ok ->
                    stop_node(Old, maps:get(drain_timeout, Old)),
                    {replaced, New};
                {error, _} ->
                    stop_node(New, 0),
                    {error, {not_ready, py_program:node_name(New)}}
            end;
        Error ->
            Error
    end.

replaced({replaced, New = #{alive := Alive}}, Old, S = #s{nodes = Nodes}) ->
    Left = maps:remove(Old, Nodes),
    answered(ok, fill(S#s{nodes = Left#{Alive => {New, erlang:monotonic_time(millisecond)}}}));
replaced(Failed, Old, S = #s{pool = Pool}) ->
    logger:warning("py_pool ~ts: ~ts is not replaced: ~tp", [Pool, Old, Failed]),
    failed(Failed, S).

%% The first of what is to be done has been done.
answered(Result, S = #s{todo = [{_, From} | Todo]}) ->
    From =:= none orelse gen_server:reply(From, Result),
    S#s{todo = Todo}.

%% Whoever waits for all of them learns of it; the others are left as they are.
failed(Failed, S = #s{todo = Todo}) ->
    [gen_server:reply(From, Failed) || {_, From} <- Todo, From =/= none],
    S#s{todo = []}.
