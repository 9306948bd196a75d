%% cluster - hosts for tests of a whole cluster: their VMs, Python nodes and epmd, and faults of all of these.
%%
%% A host is a number: run-cluster has made a network namespace for each, with the address 10.77.1.N. This
%% module runs outside of them, in the VM of the test. It speaks to a host's VM by OTP's `peer' over the
%% VM's standard input and output, so that no fault reaches that, and no VM is connected to the test.
%% What was started here lives until the run ends, or until a fault ends it.
-module(cluster).

-export([start/1, host/2, rpc/4, rpc/5]).
-export([vm/1, nodes/1, specs/1, running/1, os_pid/2, registered/2, try_call/2, odd_lines/1]).
-export([kill_node/2, start_vm/2, kill_vm/1, suspend_vm/1, resume_vm/1, start_epmd/1, kill_epmd/1]).
-export([cut/2, cut_one_way/2, mend/2, mend/0, detected/0]).
-export([connect/2, await_calls/2, hold/3, is_held/1, outcome/1, now_ms/0, ran/0]).

-define(TICKTIME, 4). % seconds: four ticks, so that none is missed because the machine is busy
-define(RPC_LIMIT, 20000).

%%% ------------------------------------------------------------------ hosts

%% Starts hosts at the same time: #{Host => Options}.
start(Hosts) ->
    cluster = ets:new(cluster, [named_table, public]),
    live:pmap(fun({Host, Options}) -> host(Host, Options) end, maps:to_list(Hosts)),
    ok.

%% Starts a host: epmd, and a VM with the application. nodes: how many Python nodes it has; env: more of the
%% application's environment.
host(Host, Options) ->
    start_epmd(Host),
    start_vm(Host, Options).

%% Calls a function in the VM of a host.
rpc(Host, M, F, A) ->
    rpc(Host, M, F, A, ?RPC_LIMIT).

rpc(Host, M, F, A, Limit) ->
    #{peer := Peer} = fact(vm, Host),
    peer:call(Peer, M, F, A, live:ms(Limit)).

address(Host) ->
    "10.77.1." ++ integer_to_list(Host).

vm(Host) ->
    list_to_atom("vm@" ++ address(Host)).

%% The names of a host's Python nodes.
nodes(Host) ->
    #{count := Count} = fact(vm, Host),
    [list_to_atom("py" ++ integer_to_list(I) ++ "@" ++ address(Host)) || I <- lists:seq(1, Count)].

fact(What, Host) ->
    [{_, Fact}] = ets:lookup(cluster, {What, Host}),
    Fact.

%% {Program, Arguments} of a command in a host's namespace.
in_host(Host, Command) ->
    {os:find_executable("nsenter"), ["--net=/run/netns/" ++ namespace(Host) | Command]}.

%% The same as a line for the shell.
line_in_host(Host, Command) ->
    {Program, Args} = in_host(Host, Command),
    lists:flatten(lists:join(" ", [Program | Args])).

namespace(Host) ->
    os:getenv("CLUSTER_NS") ++ "-h" ++ integer_to_list(Host).

%%% ------------------------------------------------------------------ VMs

%% Starts the VM, and returns when its Python nodes are up.
start_vm(Host, Options) ->
    Count = maps:get(nodes, Options, 0),
    Args = ["-name", atom_to_list(vm(Host)), "-start_epmd", "false", "-pa", live:tmp("."),
            "-kernel", "net_ticktime", integer_to_list(?TICKTIME), "-kernel", "logger_level", "info",
            "-kernel", "logger", lists:flatten(io_lib:format("~p", [logger(Host)]))],
    Started = peer:start(#{connection => standard_io, wait_boot => live:ms(?RPC_LIMIT), args => Args,
                           exec => in_host(Host, [os:getenv("ERL")])}),
    Peer = element(2, Started),
    OsPid = list_to_integer(peer:call(Peer, os, getpid, [])),
    ets:insert(cluster, {{vm, Host}, #{peer => Peer, os_pid => OsPid, count => Count}}),
    [ok = rpc(Host, application, set_env, [pynode, Key, Value])
     || {Key, Value} <- [{nodes, specs(Count)} | maps:get(env, Options, [])]],
    {ok, _} = rpc(Host, application, ensure_all_started, [pynode]),
    ok.

%% All that a VM and its Python nodes have to say goes to a file.
logger(Host) ->
    [{handler, default, logger_std_h, #{config => #{file => log(Host)}, filters => [],
                                        formatter => {logger_formatter, #{single_line => true}}}}].

log(Host) ->
    live:tmp("log." ++ integer_to_list(Host)).

%% Lines of it that no healthy node writes.
odd_lines(Host) ->
    {ok, Log} = file:read_file(log(Host)),
    [Line || Line <- binary:split(Log, <<"\n">>, [global, trim]), live:is_odd(Line)].

%% The application's `nodes'. They are killed often, and are to come back as quickly each time.
specs(0) ->
    [];
specs(Count) ->
    Python = filename:join([os:getenv("abs_top_srcdir"), "tests", "cluster", "py"]),
    [#{name => py, count => Count, path => [Python], import => [tally], program => os:getenv("PYNODE"),
       restart => #{intensity => 1000, backoff_min => 1, backoff_max => 200}}].

%% Kills the VM; its Python nodes go with it.
kill_vm(Host) ->
    #{peer := Peer, os_pid := OsPid} = fact(vm, Host),
    Monitor = monitor(process, Peer),
    live:os_signal(OsPid, "KILL"),
    receive {'DOWN', Monitor, process, _, _} -> ok end.

suspend_vm(Host) ->
    #{os_pid := OsPid} = fact(vm, Host),
    live:os_signal(OsPid, "STOP").

resume_vm(Host) ->
    #{os_pid := OsPid} = fact(vm, Host),
    live:os_signal(OsPid, "CONT").

%%% ------------------------------------------------------------------ Python nodes

%% The Python nodes of a host that are up, each with its OS process.
running(Host) ->
    #{nodes := Nodes} = rpc(Host, py, info, []),
    [{Node, OsPid} || #{node := Node, source := port, state := up, info := #{os_pid := OsPid}} <- Nodes].

%% The OS process of one.
os_pid(Host, Node) ->
    {Node, OsPid} = lists:keyfind(Node, 1, running(Host)),
    OsPid.

%% Kills it.
kill_node(Host, Node) ->
    live:os_signal(os_pid(Host, Node), "KILL").

%% What a call from a VM to a Python node gives: {ok, _} if it can be used.
try_call(Host, Node) ->
    rpc(Host, py, call, [tally, run, [number()], #{}, #{node => Node, timeout => live:ms(5000)}], 6000).

%% Has a VM use the Python nodes of others.
connect(Host, Nodes) ->
    [ok = rpc(Host, py, connect, [Node, live:ms(?RPC_LIMIT)]) || Node <- Nodes],
    ok.

%% Waits until a VM can use all these Python nodes, and says how many milliseconds that took.
await_calls(Host, Nodes) ->
    {Took, _} = live:timed(fun() ->
        [live:eventually(fun() ->
             case try_call(Host, Node) of
                 {ok, _} -> true;
                 Other -> Other
             end
         end) || Node <- Nodes]
    end),
    round(Took).

%%% ------------------------------------------------------------------ epmd

%% Starts a host's epmd, unless a node has. Its owner is a process that has gone, so no case ends it.
start_epmd(Host) ->
    Epmd = [os:getenv("EPMD"), "-port", os:getenv("ERL_EPMD_PORT"), "-relaxed_command_check"],
    live:pmap(fun({Program, Args}) -> live:os(Program, Args, #{}) end, [in_host(Host, Epmd)]),
    live:eventually(fun() -> element(1, live:sh(line_in_host(Host, Epmd ++ ["-names"]))) =:= 0 end),
    ok.

%% Kills it, whoever has started it.
kill_epmd(Host) ->
    {0, Pids} = live:sh("ip netns pids " ++ namespace(Host)),
    Epmds = [Pid || Pid <- string:lexemes(binary_to_list(Pids), "\n"), name(Pid) =:= {ok, <<"epmd\n">>}],
    [live:sh("kill -KILL " ++ Pid) || Pid <- Epmds], % the parent of a daemon that begins may have gone meanwhile
    live:eventually(fun() -> [Pid || Pid <- Epmds, name(Pid) =:= {ok, <<"epmd\n">>}] =:= [] end),
    ok.

name(Pid) ->
    file:read_file("/proc/" ++ Pid ++ "/comm").

%% The names that a host's epmd tells another host; none if there is no epmd.
registered(From, Host) ->
    {ok, Address} = inet:parse_address(address(Host)),
    case rpc(From, erl_epmd, names, [Address]) of
        {ok, Names} -> lists:sort([Name || {Name, _} <- Names]);
        {error, _} -> []
    end.

%%% ------------------------------------------------------------------ links

%% Both directions.
cut(A, B) ->
    cut_one_way(A, B),
    cut_one_way(B, A).

%% What one host sends to another is lost from now on, without a word to either. The receiver drops it, before
%% anything else sees it.
cut_one_way(From, To) ->
    ets:insert_new(cluster, {{cut, From, To}, true}) andalso rule("add", From, To),
    ok.

mend(A, B) ->
    [rule("del", From, To) || {From, To} <- [{A, B}, {B, A}], ets:take(cluster, {cut, From, To}) =/= []],
    ok.

%% All links.
mend() ->
    [mend(From, To) || {{cut, From, To}, _} <- ets:tab2list(cluster)],
    ok.

rule(Do, From, To) ->
    Rule = ["ip", "rule", Do, "pref", "10", "from", address(From), "iif", "eth0", "blackhole"],
    {0, <<>>} = live:sh(line_in_host(To, Rule)).

%% Milliseconds after which a cut must have been noticed: net_ticktime and a quarter, which is as late as a tick
%% can be found missing, and what a busy machine may take for telling it.
detected() ->
    ?TICKTIME * 1250 + 500.

%%% ------------------------------------------------------------------ calls that last

%% Begins a call on a VM that does not end by itself, and returns when Python has begun it. Way: call,
%% spawn_call, task.
hold(Host, Way, Node) ->
    Number = number(),
    Pid = rpc(Host, load, hold, [Way, Number, Node]),
    live:eventually(fun() -> filelib:is_file(live:tmp("held." ++ integer_to_list(Number))) end),
    {Host, Pid}.

%% Whether it has no outcome yet.
is_held({Host, Pid}) ->
    rpc(Host, load, is_held, [Pid]).

%% {Result, When}, the latter as now_ms/0.
outcome({Host, Pid}) ->
    rpc(Host, load, outcome, [Pid]).

%% The same clock on all hosts.
now_ms() ->
    os:system_time(microsecond) / 1000.

%% The number of a task that is not the load's.
number() ->
    erlang:unique_integer([positive]).

%%% ------------------------------------------------------------------ what ran

%% The numbers of all tasks that have run, each as often as it has.
ran() ->
    lists:append([begin
                      {ok, Lines} = file:read_file(File),
                      [binary_to_integer(Line) || Line <- binary:split(Lines, <<"\n">>, [global, trim])]
                  end || File <- filelib:wildcard(live:tmp("tally/*"))]).
