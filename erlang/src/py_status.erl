%% @private
%% py_status - how the Python nodes of the cluster fare: what pynodectl shows.
-module(py_status).

-export([local/0, cluster/0]).

-export_type([node_status/0, vm_status/0]).

-type node_status() :: #{node := node(), state := atom(), pools := [atom()], labels := map(), slots := pos_integer(),
                         in_flight := non_neg_integer(), _ => _}. % and what it has last reported
-type vm_status() :: #{vm := node(), nodes := [node_status()], pools := [#{pool := atom(), nodes := non_neg_integer(),
                                                                             waiting := non_neg_integer()}]}.

-define(LIMIT, 2000).

%% Of the nodes that this VM speaks for, and the pools as it sees them.
-spec local() -> vm_status() | {error, not_started}.
local() ->
    case py_cluster:nodes() of
        {error, _} = Error ->
            Error;
        Known ->
            #{vm => node(),
              nodes => [status(Info) || #{vms := [Vm | _]} = Info <- Known, Vm =:= node()],
              pools => [#{pool => Pool, nodes => tuple_size(Entries), waiting => py_backlog:count(Pool)}
                        || {Pool, #{entries := Entries}} <- lists:sort(maps:to_list(py_table:pools()))]}
    end.

status(Info = #{node := Node}) ->
    InFlight = case py_table:nodes({node, Node}) of
                   {{_, _, Counter, _}} -> max(0, py_counter:in_flight(Counter));
                   _ -> 0
               end,
    lists:foldl(fun maps:merge/2, #{}, [outcomes(Info), maps:remove(state, py_table:load(Node)), Info#{in_flight => InFlight}]).

%% Python is not needed for that.
outcomes(#{node := Node, state := ready}) ->
    case py:call(pynode, outcomes, [], #{}, #{node => Node, timeout => ?LIMIT div 2}) of
        {ok, Outcomes} -> #{outcomes => Outcomes};
        {error, _} -> #{}
    end;
outcomes(_) ->
    #{}.

%% The same of all VMs, and those that have not answered.
-spec cluster() -> {[vm_status()], [node()]}.
cluster() ->
    Vms = py_cluster:vms(),
    Results = lists:zip(Vms, erpc:multicall(Vms, ?MODULE, local, [], ?LIMIT)),
    {[Status || {_, {ok, #{} = Status}} <- Results], [Vm || {Vm, Result} <- Results, not is_status(Result)]}.

is_status({ok, #{}}) -> true;
is_status(_) -> false.
