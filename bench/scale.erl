%% scale - what one more node, connection, report or word about a node costs: the figures behind docs/scale.md.
%%
%% By hand, after a build, and not by `make bench': sh tests/live/run-live bench/scale.erl
%% The parts are the real ones. Of the Python nodes that a VM is connected to, most are feigned by another BEAM, and so
%% are the VMs that a Python node is connected to: they shake hands, attach and report as real ones do, and cost
%% nothing where it is measured. A case notes what it has measured; it fails if the parts do not do what they should.
-module(scale).

-export([setup/0, tests/1]).
-export([start_app/0, usage/0, attach/1, feign/4, report/3, shake/2, calls/3]).

-include_lib("stdlib/include/assert.hrl").

-define(IDLE, ["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]). % or schedulers that look for work are counted
-define(LABELS, #{zone => a, gpu => true}).
-define(LIMIT, 40000).

setup() ->
    ok.

tests(ok) ->
    [{"where a call goes: 10, 100, 1000 nodes", fun place/0},
     {"the pools' persistent term: 1000, 10000 entries", fun pools_term/0},
     {"what is known of the cluster is worked out anew: 1000, 10000, 100000 nodes", fun recompute/0},
     {"counters: how many nodes there are places for", fun counters/0},
     {"a VM with many Python nodes: memory, processor time of attaching and of reports", fun many_nodes/0},
     {"a Python node with 200 VMs: memory, processor time of reports", fun many_homes/0},
     {"200 VMs come to a Python node at once", fun herd_of_vms/0},
     {"a VM connects to 40 Python nodes at once", fun herd_of_nodes/0},
     {"one VM and four VMs that keep four nodes busy to 80 %: how long calls wait", fun waits/0}].

%%% ------------------------------------------------------------------ where a call goes

place() ->
    with_table(fun() -> [place(N) || N <- [10, 100, 1000]] end).

place(N) ->
    Entries = entries(N),
    Labels = maps:from_list([{Node, py_place:labels(?LABELS)} || {Node, _, _} <- tuple_to_list(Entries)]),
    Wanted = py_place:labels(#{gpu => true}),
    Any = us(fun(_) -> placed(Entries, #{}) end),
    Keyed = us(fun(I) -> placed(Entries, #{key => I}) end),
    Labelled = us(fun(_) -> placed(py_place:matching(Wanted, Labels, Entries), #{}) end),
    [py_counter:enter(py_counter:array(), Counter) || {_, _, Counter} <- tuple_to_list(Entries), _ <- lists:seq(1, 8)],
    Full = us(fun(_) -> full = py_place:place(Entries, #{strategy => least_loaded}) end),
    Room = us(fun(_) -> 0 = py_place:room(Entries) end),
    live:note("~b nodes: ~.1f us, with a key ~.1f us, with labels ~.1f us, all full ~.1f us, room ~.1f us",
              [N, Any, Keyed, Labelled, Full, Room]).

placed(Entries, How) ->
    {_, Slot, _} = py_place:place(Entries, How#{strategy => least_loaded}),
    py_counter:leave(py_counter:array(), Slot).

entries(N) ->
    list_to_tuple([begin
                       Counter = py_counter:new(),
                       py_counter:report(Counter, 0, 4, 8, 0),
                       {node_name(I), self(), Counter}
                   end || I <- lists:seq(1, N)]).

node_name(I) ->
    list_to_atom("calc-shop-" ++ integer_to_list(I) ++ "@host-" ++ integer_to_list(I rem 100) ++ ".example.net").

with_table(Fun) ->
    {ok, Table} = gen_server:start(py_table, [], []),
    try Fun()
    after gen_server:stop(Table)
    end.

%% The median of the means of seven rounds of about ten milliseconds, in microseconds.
us(Fun) ->
    Once = max(1, element(1, timer:tc(fun() -> Fun(0), Fun(1) end)) div 2),
    Times = max(1, 10000 div Once),
    median([element(1, timer:tc(fun() -> [Fun(I) || I <- lists:seq(1, Times)] end)) / Times || _ <- lists:seq(1, 7)]).

median(List) ->
    lists:nth(length(List) div 2 + 1, lists:sort(List)).

%%% ------------------------------------------------------------------ the persistent term

pools_term() ->
    with_table(fun() -> [pools_term(N, Processes) || Processes <- [0, 10000], N <- [1000, 10000]] end).

%% A write of a term that was different before has all processes look for the old one.
pools_term(N, Processes) ->
    Idle = idle(Processes),
    Entries = [{node_name(I), self(), 1} || I <- lists:seq(1, N)],
    Labels = maps:from_list([{Node, py_place:labels(?LABELS)} || {Node, _, _} <- Entries]),
    Pool = fun(Max) ->
                   #{calc => #{entries => list_to_tuple(Entries), labels => Labels, strategy => least_loaded,
                               max_queue => Max, max_queue_per_caller => Max, used => true}}
           end,
    Pools = [Pool(Max) || Max <- lists:seq(1, 10)],
    {Cpu, Times} = cpu(fun() ->
                               Took = [element(1, timer:tc(py_table, set_pools, [P])) || P <- Pools],
                               timer:sleep(500), % what is put off until the processes run is counted, too
                               Took
                       end),
    [exit(Pid, kill) || Pid <- Idle],
    live:note("~b entries, ~b processes: ~.2f ms a write, ~.2f ms of processor time; ~b KiB",
              [N, Processes, median(Times) / 1000, Cpu / 1.0e6 / 10, erts_debug:flat_size(hd(Pools)) * 8 div 1024]).

idle(Count) ->
    [spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, Count)].

%%% ------------------------------------------------------------------ py_cluster

%% The real process, with the words of 100 members. This process is the coordinator.
recompute() ->
    true = register(py_coordinator, self()),
    [with_table(fun() -> with_pg(fun() -> recompute(N) end) end) || N <- [1000, 10000, 100000]].

with_pg(Fun) ->
    {ok, Pg} = pg:start(pynode),
    try Fun()
    after gen_server:stop(Pg)
    end.

recompute(N) ->
    {ok, Cluster} = gen_server:start({local, py_cluster}, py_cluster, [], []),
    recompute(N, Cluster),
    gen_server:stop(Cluster).

%% One member speaks for all nodes, so that they are not worked out a hundred times before anything is measured.
recompute(N, Cluster) ->
    [Member | _] = Members = idle(100),
    Nodes = [node_name(I) || I <- lists:seq(1, N)],
    [Cluster ! {py_pools, Pid, policy()} || Pid <- Members],
    sys:get_state(Cluster, infinity),
    All = maps:from_list([{Node, facts(ready)} || Node <- Nodes]),
    Known = ms(fun() -> say(All, Member, Cluster) end),
    Used = ms(fun() -> ok = py_cluster:use(calc) end),
    Attached = ms(fun() -> py_cluster:locals([local(Node) || Node <- Nodes]), settle(Cluster) end),
    #{entries := Entries} = py_cluster:pool(calc),
    ?assertEqual(N, tuple_size(Entries)),
    Change = median([ms(fun() -> say(#{hd(Nodes) => facts(State)}, Member, Cluster) end)
                     || State <- [quiet, ready, quiet]]),
    live:note("~b nodes: the word about one ~.1f ms; about all ~.1f ms; first use ~.1f ms; all attached ~.1f ms; heap ~b KiB",
              [N, Change, Known, Used, Attached, element(2, process_info(Cluster, total_heap_size)) * 8 div 1024]),
    live:note("bytes of the word about one: ~b; about all: ~b",
              [erlang:external_size({py_nodes, self(), #{hd(Nodes) => facts(ready)}}), erlang:external_size({py_nodes, self(), All})]),
    [exit(Pid, kill) || Pid <- Members].

say(Words, Member, Cluster) ->
    Cluster ! {py_nodes, Member, Words},
    settle(Cluster).

%% It has written what it puts off until it has read all.
settle(Cluster) ->
    [sys:get_state(Cluster, infinity) || _ <- [1, 2]].

local(Node) ->
    #{node => Node, source => cluster, entry => {Node, self(), 1}, facts => facts(ready)}.

ms(Fun) ->
    element(1, timer:tc(Fun)) / 1000.

facts(State) ->
    #{state => State, started => true, labels => ?LABELS, pools => [calc], code => none, slots => 4, version => <<"0.1.0">>,
      python => <<"3.11.7">>, imports => [<<"numpy">>, <<"shop.model">>]}.

policy() ->
    #{calc => #{labels => none, strategy => least_loaded, max_queue => 10000}}.

%%% ------------------------------------------------------------------ counters

counters() ->
    with_table(fun() ->
                       {Took, Count} = timer:tc(fun() -> count_counters(0) end),
                       live:note("~b counters, ~.1f ms to take all of them", [Count, Took / 1000])
               end).

count_counters(N) ->
    case py_counter:new() of
        full -> N;
        _ -> count_counters(N + 1)
    end.

%%% ------------------------------------------------------------------ a VM with many Python nodes

many_nodes() ->
    {Info, Load} = real_words(),
    Count = list_to_integer(os:getenv("SCALE_NODES", "400")),
    Vm = app(),
    #{node := Others} = live:peer(?IDLE),
    Names = [live:unique("feigned") || _ <- lists:seq(1, Count)],
    Before = used(Vm),
    Port = port(Vm),
    Shaken = ms(fun() -> put(feigned, erpc:call(Others, ?MODULE, feign, [Names, Vm, Port, Info], ?LIMIT)) end),
    Connected = used(Vm),
    live:note("~b nodes connect: ~.1f ms, ~.2f ms of processor time each; ~s",
              [Count, Shaken, cpu_each(Before, Connected, Count), memory(Before, Connected, Count)]),
    lists:foldl(fun(Batch, Done) -> attach_batch(Batch, Done, Vm) end, 0, batches([Count div 4, Count div 4, Count div 2], Names)),
    ?assertEqual(Count, length(erpc:call(Vm, py_coordinator, nodes, []))),
    Attached = used(Vm),
    live:note("~b nodes attached: ~s besides", [Count, memory(Connected, Attached, Count)]),
    erpc:call(Others, ?MODULE, report, [get(feigned), Load, 5], ?LIMIT),
    Reported = used(Vm),
    live:note("~b reports, each of ~b bytes: ~.1f us of processor time each; ~s",
              [5 * Count, report_size(Load), 1000 * cpu_each(Attached, Reported, 5 * Count), memory(Attached, Reported, Count)]),
    timer:sleep(5000),
    Idle = used(Vm),
    live:note("without reports ~.2f ms of processor time a second", [cpu_each(Reported, Idle, 5)]).

attach_batch(Names, Done, Vm) ->
    Before = used(Vm),
    Took = ms(fun() -> erpc:call(Vm, ?MODULE, attach, [[full_name(Name) || Name <- Names]], ?LIMIT) end),
    Known = ms(fun() -> erpc:call(Vm, py_cluster, nodes, [], ?LIMIT) end), % when it has worked out all that it was told
    {Quiet, Peak} = quiet(Vm),
    Count = length(Names),
    live:note("attaching nodes ~b to ~b: ~.1f ms; ~.1f ms until the cluster knows, ~.1f s until all is quiet; "
              "~.2f ms of processor time each; up to ~b MiB", [Done + 1, Done + Count, Took, Known, Quiet / 1000,
                                                              cpu_each(Before, used(Vm), Count), Peak bsr 20]),
    Done + Count.

%% Old persistent terms are still looked for when all else is done: how long in ms, and the most memory meanwhile.
quiet(Vm) ->
    quiet(Vm, erlang:monotonic_time(millisecond), used(Vm), 0).

quiet(Vm, Begin, Before = {_, #{rss := Rss}}, Peak) ->
    timer:sleep(250),
    After = used(Vm),
    case cpu_each(Before, After, 1) < 25 of
        true -> {erlang:monotonic_time(millisecond) - Begin, max(Rss, Peak)};
        false -> quiet(Vm, Begin, After, max(Rss, Peak))
    end.

batches([Size | Sizes], Names) ->
    {Batch, Rest} = lists:split(Size, Names),
    [Batch | batches(Sizes, Rest)];
batches([], []) ->
    [].

%% The words of a real node: when it is attached, and its load.
real_words() ->
    #{node := Node} = Real = live:pynode(#{args => ["--workers", "4"]}),
    pong = net_adm:ping(Node),
    {pynode, Node} ! {attach, self()},
    Info = live:expect(?LIMIT, fun({py_attached, Info}) -> {ok, Info} end),
    Load = live:expect(?LIMIT, fun([{load, Load}]) -> {ok, Load} end),
    live:kill(Real),
    {Info, Load}.

report_size(Load) ->
    iolist_size(wire:frame([112, wire:bytes({2, '', self()}), wire:bytes([{load, Load}])])).

app() ->
    #{node := Vm} = live:peer(["-pynode", "nodes", "[]" | ?IDLE]),
    ok = erpc:call(Vm, ?MODULE, start_app, []),
    Vm.

start_app() ->
    {ok, _} = application:ensure_all_started(pynode),
    ok.

port(Node) ->
    [Name, _] = string:lexemes(atom_to_list(Node), "@"),
    {port, Port, _} = erl_epmd:port_please(Name, {127, 0, 0, 1}),
    Port.

full_name(Name) ->
    list_to_atom(Name ++ "@127.0.0.1").

%% All at once, as when a pool is called for the first time.
attach(Nodes) ->
    Results = live:pmap(fun(Node) -> py_coordinator:connect(Node, ?LIMIT) end, Nodes),
    [] = [Result || Result <- Results, Result =/= ok],
    ok.

%% Milliseconds.
cpu_each({Before, _}, {After, _}, Count) ->
    (After - Before) / Count / 1.0e6.

memory({_, Before}, {_, After}, Count) ->
    io_lib:format("~.1f KiB each, of processes ~.1f, resident ~.1f",
                  [(maps:get(What, After) - maps:get(What, Before)) / Count / 1024 || What <- [total, processes, rss]]).

used(Vm) ->
    erpc:call(Vm, ?MODULE, usage, []).

%%% ------------------------------------------------------------------ feigned Python nodes

%% Processes, each of them a node that connects to Vm and can be attached.
feign(Names, Vm, Port, Info) ->
    Self = self(),
    Pids = [spawn(fun() -> feigned(Name, Vm, Port, Info, Self) end) || Name <- Names],
    [receive {connected, Pid} -> ok end || Pid <- Pids],
    Pids.

feigned(Name, Vm, Port, Info, Parent) ->
    {ok, #{socket := Socket}} = wire:connect(#{node => Vm, port => Port}, #{name => Name ++ "@127.0.0.1"}),
    ok = inet:setopts(Socket, [{packet, 4}, {active, true}]),
    Parent ! {connected, self()},
    feigned(Socket, Info, none).

feigned(Socket, Info, Home) ->
    receive
        {tcp, Socket, <<>>} ->
            ok = gen_tcp:send(Socket, <<>>),
            feigned(Socket, Info, Home);
        {tcp, Socket, <<112, Terms/binary>>} ->
            case attached(Terms) of
                {attach, Pid} -> tell(Socket, Pid, {py_attached, Info}), feigned(Socket, Info, Pid);
                other -> feigned(Socket, Info, Home)
            end;
        {report, Load} ->
            tell(Socket, Home, [{load, Load}]),
            feigned(Socket, Info, Home);
        {tcp_closed, Socket} ->
            ok
    end.

attached(Terms) ->
    {Control, Used} = binary_to_term(Terms, [used]),
    case {Control, Terms} of
        {{6, _, _, pynode}, <<_:Used/binary, Payload/binary>>} -> binary_to_term(Payload);
        _ -> other
    end.

tell(Socket, Pid, Message) ->
    ok = gen_tcp:send(Socket, [112, wire:bytes({2, '', Pid}), wire:bytes(Message)]).

%% Each of them reports once a second, one after another, as nodes do that have begun at different times.
report(Pids, Load, Seconds) ->
    [begin
         Due = erlang:monotonic_time(millisecond) + 1000,
         [begin Pid ! {report, Load#{calls => Second * 50}}, I rem 8 =:= 0 andalso timer:sleep(8) end
          || {I, Pid} <- lists:enumerate(Pids)],
         timer:sleep(max(0, Due - erlang:monotonic_time(millisecond)))
     end || Second <- lists:seq(1, Seconds)],
    ok.

%%% ------------------------------------------------------------------ a Python node with many VMs

many_homes() ->
    Node = live:pynode(#{args => ["--workers", "1", "--max-workers", "1", "--queue-size", "10000"]}),
    {Cpu, Rss} = {fun() -> cpu_of(Node) end, fun() -> rss_of(Node) end},
    [First | Rest] = [live:unique("feigned") || _ <- lists:seq(1, 200)],
    One = home(First, Node),
    busy_for(Node, 2000),
    {Rss1, Alone} = {Rss(), during(Cpu, fun() -> busy_for(Node, 10000) end)},
    Homes = [home(Name, Node) || Name <- Rest],
    busy_for(Node, 2000),
    {Rss2, Many} = {Rss(), during(Cpu, fun() -> busy_for(Node, 10000) end)},
    live:note("199 more VMs: ~.1f KiB each, resident; ~.1f us of processor time a report",
              [(Rss2 - Rss1) / 199 / 1024, (Many - Alone) / 199 / 10 / 1000]),
    queue_up(Node, 5000),
    Queued = during(Cpu, fun() -> timer:sleep(4000) end),
    live:note("with 5000 calls queued ~.1f ms of processor time a second", [Queued / 4 / 1.0e6]),
    [gen_tcp:close(Socket) || #{socket := Socket} <- [One | Homes]],
    live:kill(Node).

%% A VM that attaches and then takes no notice of what it is told.
home(Name, Node) ->
    {ok, Peer} = wire:connect(Node, #{name => Name ++ "@127.0.0.1"}),
    wire:ctl(Peer, {6, wire:pid(Peer, 1), '', pynode}, {attach, wire:pid(Peer, 1)}),
    {{2, _, _}, {py_attached, _}} = wire:next(Peer),
    ok = inet:setopts(maps:get(socket, Peer), [{active, true}, {packet, 4}]),
    Peer.

%% Something to tell each second, but little.
busy_for(#{node := Name}, Ms) ->
    [begin 4.0 = rpc:call(Name, math, sqrt, [16]), timer:sleep(500) end || _ <- lists:seq(1, Ms div 500)],
    live:flush().

queue_up(#{node := Name}, Count) ->
    {pynode, Name} ! {call, make_ref(), time, sleep, [30], #{}},
    [{pynode, Name} ! {call, make_ref(), math, sqrt, [16], #{}} || _ <- lists:seq(1, Count)],
    live:eventually(fun() -> maps:get(queued, rpc:call(Name, pynode, status, [])) =:= Count end).

during(Read, Fun) ->
    Before = Read(),
    Fun(),
    Read() - Before.

%%% ------------------------------------------------------------------ herds

herd_of_vms() ->
    Node = live:pynode(#{}),
    #{node := Others} = live:peer(?IDLE),
    Names = [live:unique("feigned") ++ "@127.0.0.1" || _ <- lists:seq(1, 200)],
    Before = cpu_of(Node),
    {Took, Results} = timer:tc(fun() -> erpc:call(Others, ?MODULE, shake, [Names, maps:with([node, port], Node)], ?LIMIT) end),
    live:note("200 at once: ~.1f ms, ~b of them at the first try; ~.2f ms of processor time each",
              [Took / 1000, length([ok || ok <- Results]), (cpu_of(Node) - Before) / 200 / 1.0e6]).

shake(Names, Node) ->
    live:pmap(fun(Name) ->
                      try wire:connect(Node, #{name => Name}) of
                          {ok, _} -> ok;
                          {error, _} -> refused
                      catch
                          error:_ -> refused
                      end
              end, Names).

herd_of_nodes() ->
    Vm = app(),
    Nodes = [live:pynode(#{args => ["--workers", "1"], ready => false}) || _ <- lists:seq(1, 40)],
    [live:wait_line(Node, "ready: ") || Node <- Nodes],
    Before = used(Vm),
    Took = ms(fun() -> erpc:call(Vm, ?MODULE, attach, [[Node || #{node := Node} <- Nodes]], ?LIMIT) end),
    live:note("40 at once: ~.1f ms; ~.2f ms of the VM's processor time each", [Took, cpu_each(Before, used(Vm), 40)]),
    [live:kill(Node) || Node <- Nodes].

%%% ------------------------------------------------------------------ calls that wait

%% What bench/scale.py says of as many VMs and nodes can be held against this.
waits() ->
    Nodes = [Node || _ <- lists:seq(1, 4), #{node := Node} <- [live:pynode(#{args => ["--workers", "2", "--max-workers", "2"]})]],
    Vms = [app() || _ <- lists:seq(1, 4)],
    [ok = erpc:call(Vm, ?MODULE, attach, [Nodes]) || Vm <- Vms],
    [waits(Callers) || Callers <- [[hd(Vms)], Vms]].

%% Calls come at random; of each it is known how long it sleeps, on average 50 ms.
waits(Vms) ->
    Rate = 0.8 * 4 * 2 / 0.05 / length(Vms),
    Waits = lists:sort(lists:append(live:pmap(fun(Vm) -> erpc:call(Vm, ?MODULE, calls, [Rate, 0.05, 10000], ?LIMIT) end, Vms))),
    live:note("~b VMs: ~b calls wait ~.1f ms, p99 ~.1f ms",
              [length(Vms), length(Waits), median(Waits), lists:nth(length(Waits) * 99 div 100, Waits)]).

%% The waits of those that have come in Ms, but for the first two seconds.
calls(Rate, Service, Ms) ->
    {ok, 2.0} = py:call(math, sqrt, [4], #{}, #{pool => cluster}),
    Begin = erlang:monotonic_time(millisecond),
    Pids = begin_calls(Rate, Service, Begin + Ms, erlang:monotonic_time(microsecond)),
    [Wait || {Came, Wait} <- [receive {waited, Pid, Came, Wait} -> {Came, Wait} end || Pid <- Pids], Came > Begin + 2000].

begin_calls(Rate, Service, End, Due) ->
    timer:sleep(max(0, (Due - erlang:monotonic_time(microsecond)) div 1000)),
    case erlang:monotonic_time(millisecond) < End of
        true ->
            Self = self(),
            Pid = spawn_link(fun() -> call(at_random(Service), Self) end),
            [Pid | begin_calls(Rate, Service, End, Due + round(1.0e6 * at_random(1 / Rate)))];
        false ->
            []
    end.

at_random(Mean) ->
    -math:log(rand:uniform()) * Mean.

call(Service, Parent) ->
    Begin = erlang:monotonic_time(microsecond),
    {ok, none} = py:call(time, sleep, [Service], #{}, #{pool => cluster, timeout => infinity}),
    Took = erlang:monotonic_time(microsecond) - Begin,
    Parent ! {waited, self(), Begin div 1000, Took / 1000 - Service * 1000}.

%%% ------------------------------------------------------------------ what is used

%% Processor time so far in nanoseconds, and memory in bytes.
usage() ->
    {cpu(os:getpid()), (maps:from_list(erlang:memory()))#{rss => rss(os:getpid())}}.

cpu(Fun) when is_function(Fun) ->
    Before = cpu(os:getpid()),
    Result = Fun(),
    {cpu(os:getpid()) - Before, Result};
cpu(OsPid) ->
    lists:sum([cpu_of_thread(File) || File <- filelib:wildcard("/proc/" ++ OsPid ++ "/task/*/schedstat")]).

cpu_of_thread(File) ->
    case file:read_file(File) of
        {ok, Text} -> binary_to_integer(hd(binary:split(Text, <<" ">>)));
        {error, _} -> 0 % it has ended
    end.

rss(OsPid) ->
    {ok, Text} = file:read_file("/proc/" ++ OsPid ++ "/statm"),
    4096 * binary_to_integer(lists:nth(2, binary:split(Text, <<" ">>, [global]))).

cpu_of(#{os_pid := OsPid}) -> cpu(integer_to_list(OsPid)).
rss_of(#{os_pid := OsPid}) -> rss(integer_to_list(OsPid)).
