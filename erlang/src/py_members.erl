%% @private
%% py_members - which VMs are in the cluster: tells py_cluster who comes and goes, and looks for those that were lost.
%%
%% Beside py_cluster, which starts it; they end together. A process of its own, since the pg of OTP 25 ends when a process
%% that is a member and watches the group, too, is killed. A VM whose connection is lost is sent a word again and again,
%% which makes a new one if it can be made; with `dist_auto_connect' it is for the user to make that, and nothing is done here.
-module(py_members).

-export([start_link/3, init/3]).

-define(PAUSE, 500).         % ms between two words at first; then twice as long each time,
-define(PAUSE_MAX, 20000).   % at most
-define(GIVE_UP, 3600000).   % ms after which it is no more looked for

-record(s, {cluster :: pid(),
            group :: {Scope :: atom(), Name :: atom(), pg_monitor()},
            lost = #{} :: #{node() => {Since :: integer(), Pause :: pos_integer()}}}).

-type pg_monitor() :: reference().

%% Sends the process {members, join | leave, [pid()]}.
-spec start_link(pid(), atom(), atom()) -> pid().
start_link(Cluster, Scope, Group) ->
    spawn_link(?MODULE, init, [Cluster, Scope, Group]).

-spec init(pid(), atom(), atom()) -> no_return().
init(Cluster, Scope, Group) ->
    {Monitor, Members} = pg:monitor(Scope, Group),
    Cluster ! {members, join, Members},
    loop(#s{cluster = Cluster, group = {Scope, Group, Monitor}}).

loop(S = #s{cluster = Cluster, group = {_, Group, Monitor}, lost = Lost}) ->
    receive
        {Monitor, join, Group, Pids} ->
            Cluster ! {members, join, Pids},
            loop(S#s{lost = maps:without(vms(Pids), Lost)});
        {Monitor, leave, Group, Pids} ->
            Cluster ! {members, leave, Pids},
            Now = erlang:monotonic_time(millisecond),
            loop(lists:foldl(fun(Vm, Acc) -> look_later(Vm, Now, ?PAUSE, Acc) end, S, vms(Pids) -- [node()]));
        {look, Vm} when is_map_key(Vm, Lost) ->
            loop(look(Vm, S));
        _ ->
            loop(S)
    end.

vms(Pids) -> lists:usort([node(Pid) || Pid <- Pids]).

look_later(Vm, Since, Pause, S = #s{lost = Lost}) ->
    erlang:send_after(Pause, self(), {look, Vm}),
    S#s{lost = Lost#{Vm => {Since, Pause}}}.

%% One that is connected and no member has stopped the application.
look(Vm, S = #s{lost = Lost}) ->
    #{Vm := {Since, Pause}} = Lost,
    Long = erlang:monotonic_time(millisecond) - Since > ?GIVE_UP,
    case Long orelse lists:member(Vm, erlang:nodes(connected)) of
        true ->
            S#s{lost = maps:remove(Vm, Lost)};
        false ->
            spawn(fun() -> {py_cluster, Vm} ! looked_for end),
            look_later(Vm, Since, min(2 * Pause, ?PAUSE_MAX), S)
    end.
