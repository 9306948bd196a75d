%% @private
%% py_port - owns the OS process of one configured Python node: starts, watches, restarts, gives up.
%%
%% States:
%%
%%     waiting      no OS process; the next start comes after a pause
%%     starting     it runs, and has not said that it is ready
%%     ready        it has
%%     stopping     it was told to go; then this process ends, too
%%     given_up     it has ended too often; only restart/1 starts it again
%%
%% What the coordinator gets, as casts:
%%
%%     {node_ready, Name, Node, Port, Spec}       Node can be connected to; Port is this process
%%     {node_exited, Node, How}                   its OS process has ended
%%     {node_given_up, Name, Node, Report}        and is not started again
%%
%% After the first end it is started again at once, then after a pause that doubles each time. More
%% than `intensity' ends are too many; those of a start that came to nothing count for ever, the
%% others for `period', and all are forgotten when a node has been ready for so long.
%%
%% The end of the OS process is told by its exit status. That comes only when its output has ended,
%% too, which processes that Python has started may keep open; so when the connection to the node is
%% lost a look is taken, and if it has gone, its process group is killed.
-module(py_port).
-behaviour(gen_statem).

-export([start_link/1, stop/2, kill/1, restart/1, info/1]).
-export([init/1, callback_mode/0, handle_event/4, terminate/3]).
-export([format_report/1]).
-export_type([how/0, report/0]).

%% How a node ended: `unknown' if others have kept its output open, `start_timeout' if it was killed
%% because it was not ready in time.
-type how() :: {status, 0..127} | {signal, pos_integer()} | start_timeout | unknown | {error, term()}.

-type report() :: #{what := given_up, node := node(), name := atom(), ends := [how()],
                    took := non_neg_integer(), output := [binary()]}.

-define(TERM_LIMIT, 2000).  % when the supervisor says go
-define(KILL_LIMIT, 1000).  % from SIGKILL to the exit status
-define(LOOK_EVERY, 20).
-define(LOOKS, 50).
-define(LINES, 10).
-define(EX_TEMPFAIL, 75).

-record(data, {spec :: py_options:spec(),
               node :: node(),
               output :: py_output:output(),
               ready_line :: binary(),
               checked = false :: boolean(),          % the program is for the right Python
               port :: port() | undefined,
               os_pid :: pos_integer() | undefined,
               cgroup = none :: file:filename() | none,
               starts = 0 :: non_neg_integer(),
               ready_at :: integer() | undefined,     % monotonic milliseconds
               late = false :: boolean(),             % killed, as it was not ready in time
               ends = [] :: [{integer(), boolean(), how()}],  % when, was it ready, how; last first
               lines = [] :: [binary()],              % the last ones, last first
               stoppers = [] :: [gen_statem:from()]}).

%% @doc Starts the process that owns a node, which then starts the node.
%%
%% ```
%% {ok, [Spec]} = py_options:nodes([#{}]),
%% {ok, Port} = py_port:start_link(Spec).
%% '''
-spec start_link(py_options:spec()) -> {ok, pid()} | {error, term()}.
start_link(Spec) ->
    case gen_statem:start_link(?MODULE, Spec, []) of
        {ok, Pid} -> {ok, Pid};
        {error, Reason} -> {error, Reason}
    end.

%% @doc Asks the node to leave in good order, and kills it if it has not left in so many
%% milliseconds. Answers when it has gone; the process of Port ends then, too.
%%
%% ```
%% ok = py_port:stop(Port, 30000).
%% '''
-spec stop(pid(), timeout()) -> ok.
stop(Port, Timeout) ->
    try gen_statem:call(Port, {stop, Timeout}, infinity)
    catch exit:_ -> ok % it has gone before
    end.

%% @doc Kills the OS process now. It is started again as after any other end.
%%
%% ```
%% ok = py_port:kill(Port).
%% '''
-spec kill(pid()) -> ok.
kill(Port) ->
    gen_statem:cast(Port, kill).

%% @doc Starts a node again that was given up, or that waits for its next start.
%%
%% ```
%% ok = py_port:restart(Port).
%% '''
-spec restart(pid()) -> ok | {error, running}.
restart(Port) ->
    gen_statem:call(Port, restart, infinity).

%% @doc What is known of the node's OS process.
%%
%% ```
%% #{state := ready, os_pid := 4711, starts := 1, last_end := undefined} = py_port:info(Port).
%% '''
-spec info(pid()) -> #{state := waiting | starting | ready | stopping | given_up,
                       name := atom(), node := node(), spec := py_options:spec(), os_pid := pos_integer() | undefined,
                       starts := non_neg_integer(), ends := [how()],
                       last_end := how() | undefined, output := [binary()]}.
info(Port) ->
    gen_statem:call(Port, info, infinity).

%%% ------------------------------------------------------------------------ events

%% @private
-spec callback_mode() -> handle_event_function.
callback_mode() ->
    handle_event_function.

%% @private
-spec init(py_options:spec()) -> gen_statem:init_result(waiting).
init(Spec) ->
    process_flag(trap_exit, true),
    case net_kernel:monitor_nodes(true, [{node_type, hidden}]) of
        ok ->
            Node = py_program:node_name(Spec),
            Data = #data{spec = Spec, node = Node, output = py_output:start(Node),
                         ready_line = iolist_to_binary(["node ", atom_to_binary(Node), ": ready: "])},
            {ok, waiting, Data, {state_timeout, 0, start}};
        _ ->
            {stop, not_distributed}
    end.

%% @private
-spec handle_event(gen_statem:event_type(), term(), atom(), #data{}) ->
          gen_statem:event_handler_result(atom()).
%% The pause is over.
handle_event(state_timeout, start, waiting, Data) ->
    start(Data);

%% What the OS process says, and its end.
handle_event(info, {Port, {data, {_, Line}}}, State, Data = #data{port = Port}) ->
    said(Line, State, Data);
handle_event(info, {Port, {exit_status, Status}}, State, Data = #data{port = Port}) ->
    ended(how(Status, Data), State, Data);
handle_event(info, {'EXIT', Port, Reason}, State, Data = #data{port = Port}) when Reason =/= normal ->
    signal("KILL", both, Data),
    ended({error, Reason}, State, Data);

%% It is not ready in time, or has not left in time.
handle_event(state_timeout, late, starting, Data) ->
    signal("KILL", both, Data),
    {keep_state, Data#data{late = true}, expect_end(Data)};
handle_event(state_timeout, late, stopping, Data) ->
    event(warning, "did not leave in time, killed", [], Data),
    signal("KILL", both, Data),
    {keep_state_and_data, expect_end(Data)};

%% The connection to the node is lost: is the OS process, too?
handle_event(info, {nodedown, Node, _}, _, #data{node = Node, port = Port}) when Port =/= undefined ->
    {keep_state_and_data, {{timeout, look}, 0, {Port, ?LOOKS}}};
handle_event({timeout, look}, {Port, Left}, _, Data = #data{port = Port}) ->
    look(Left, Data);
handle_event({timeout, silent}, Port, State, Data = #data{port = Port}) ->
    close(Port),
    ended(how(unknown, Data), State, Data);

%% Requests.
handle_event({call, From}, info, State, Data) ->
    {keep_state_and_data, {reply, From, facts(State, Data)}};
handle_event({call, From}, restart, given_up, Data) ->
    {next_state, waiting, Data#data{ends = []}, [{reply, From, ok}, {state_timeout, 0, start}]};
handle_event({call, From}, restart, waiting, _) ->
    {keep_state_and_data, [{reply, From, ok}, {state_timeout, 0, start}]};
handle_event({call, From}, restart, _, _) ->
    {keep_state_and_data, {reply, From, {error, running}}};
handle_event({call, From}, {stop, _}, _, #data{port = undefined}) ->
    {stop_and_reply, normal, {reply, From, ok}};
handle_event({call, From}, {stop, _}, stopping, Data = #data{stoppers = Stoppers}) ->
    {keep_state, Data#data{stoppers = [From | Stoppers]}};
handle_event({call, From}, {stop, Timeout}, _, Data) ->
    signal("TERM", process, Data),
    {next_state, stopping, Data#data{stoppers = [From]}, {state_timeout, Timeout, late}};
handle_event(cast, kill, _, #data{port = undefined}) ->
    keep_state_and_data;
handle_event(cast, kill, _, Data) ->
    signal("KILL", both, Data),
    {keep_state_and_data, expect_end(Data)};

%% Other nodes' comings and goings; a port that was closed; timers of a process that has ended.
handle_event(info, _, _, _) ->
    keep_state_and_data;
handle_event({timeout, _}, _, _, _) ->
    keep_state_and_data.

%% @private
-spec terminate(term(), atom(), #data{}) -> ok.
terminate(_, _, #data{port = undefined}) ->
    ok;
terminate(_, _, Data) ->
    signal("TERM", process, Data),
    await_end(?TERM_LIMIT, Data) orelse begin signal("KILL", both, Data), await_end(?KILL_LIMIT, Data) end,
    signal("KILL", group, Data),
    forget_cgroup(Data).

%%% ------------------------------------------------------------------------- start

start(Data = #data{spec = Spec}) ->
    case program(Data) of
        {ok, Program} ->
            Limited = make_cgroup(Data),
            case py_program:open(Program, Spec, Limited#data.cgroup) of
                {ok, Port} -> started(Port, Limited);
                {error, Reason} -> ended({error, {Program, Reason}}, starting, Limited)
            end;
        {error, Reason} ->
            give_up({error, Reason}, Data)
    end.

started(Port, Data = #data{spec = #{start_timeout := Limit}, starts = Starts}) ->
    OsPid = case erlang:port_info(Port, os_pid) of
                {os_pid, N} -> N;
                undefined -> undefined % it has ended already; its status is in the mailbox
            end,
    {next_state, starting,
     Data#data{port = Port, os_pid = OsPid, checked = true, starts = Starts + 1, late = false,
               ready_at = undefined, lines = []},
     {state_timeout, Limit, late}}.

program(#data{spec = Spec, checked = Checked}) ->
    case py_program:find(Spec) of
        {ok, Program} when not Checked ->
            case py_program:check_python(Program, Spec) of
                ok -> {ok, Program};
                Error -> Error
            end;
        Result ->
            Result
    end.

make_cgroup(Data = #data{spec = #{cgroup := Limits}}) when map_size(Limits) =:= 0 ->
    Data;
make_cgroup(Data = #data{spec = #{cgroup := Limits, alive := Alive}}) ->
    case py_cgroup:make(Alive, Limits) of
        {ok, Dir} ->
            Data#data{cgroup = Dir};
        {error, {File, Reason}} ->
            event(warning, "no cgroup: ~ts: ~ts", [File, file:format_error(Reason)], Data),
            Data#data{cgroup = none}
    end.

forget_cgroup(#data{cgroup = none}) -> ok;
forget_cgroup(#data{cgroup = Dir}) -> py_cgroup:remove(Dir).

%%% ------------------------------------------------------------------------ output

said(Line, State, Data = #data{output = Output, os_pid = OsPid, lines = Lines, ready_line = Ready}) ->
    py_output:line(Output, OsPid, Line),
    {_, Text} = py_output:level(Line),
    Kept = Data#data{lines = lists:sublist([Text | Lines], ?LINES)},
    case State =:= starting andalso binary:match(Line, Ready) of
        {_, _} -> ready(Kept);
        _ -> {keep_state, Kept}
    end.

ready(Data = #data{spec = Spec = #{name := Name}, node = Node}) ->
    tell({node_ready, Name, Node, self(), Spec}),
    {next_state, ready, Data#data{ready_at = now_ms()}}.

tell(Message) ->
    gen_server:cast(py_coordinator, Message).

%%% --------------------------------------------------------------------------- end

signal(_, _, #data{os_pid = undefined}) -> ok;
signal(Name, To, #data{os_pid = OsPid}) -> py_program:signal(Name, To, OsPid).


look(Left, Data = #data{os_pid = OsPid, port = Port}) ->
    case is_integer(OsPid) andalso filelib:is_dir("/proc/" ++ integer_to_list(OsPid)) of
        true when Left > 0 ->
            {keep_state_and_data, {{timeout, look}, ?LOOK_EVERY, {Port, Left - 1}}};
        true ->
            keep_state_and_data;
        false ->
            signal("KILL", group, Data),
            {keep_state_and_data, expect_end(Data)}
    end.

%% The exit status comes soon after SIGKILL, or not at all.
expect_end(#data{port = Port}) ->
    {{timeout, silent}, ?KILL_LIMIT, Port}.

how(_, #data{late = true}) -> start_timeout;
how(unknown, _) -> unknown;
how(Status, _) when Status >= 128 -> {signal, Status - 128};
how(Status, _) -> {status, Status}.

%% The OS process has gone. What it has started goes with it, but its number may soon be another's.
ended(How, State, Data = #data{node = Node}) ->
    signal("KILL", group, Data),
    forget_cgroup(Data),
    tell({node_exited, Node, How}),
    Gone = Data#data{port = undefined, os_pid = undefined, cgroup = none},
    case State of
        stopping -> stopped(How, Gone);
        _ -> again(How, counted(How, Gone))
    end.

stopped(How, Data = #data{stoppers = Stoppers}) ->
    event(info, "left: ~ts", [how_text(How)], Data),
    {stop_and_reply, normal, [{reply, From, ok} || From <- Stoppers], Data}.

%% Puts the end to those that count; it may be the first for a long time.
counted(How, Data = #data{spec = #{restart := #{period := Period}}, ready_at = ReadyAt, ends = Ends}) ->
    Now = now_ms(),
    Left = case ReadyAt of
               undefined -> Ends;
               _ when Now - ReadyAt > Period -> [];
               _ -> [E || E = {At, WasReady, _} <- Ends, not WasReady orelse Now - At =< Period]
           end,
    Data#data{ends = [{Now, ReadyAt =/= undefined, How} | Left]}.

again(How, Data = #data{spec = #{restart := #{intensity := Intensity}}, ends = Ends}) ->
    case length(Ends) > Intensity of
        true -> given_up(Data);
        false -> wait(How, pause(Data), Data)
    end.

wait(How, Pause, Data) ->
    event(warning, "ended: ~ts; started again ~ts", [how_text(How), pause_text(Pause)], Data),
    {next_state, waiting, Data, {state_timeout, Pause, start}}.

%% None after the first end, then doubled each time, give or take a quarter.
pause(#data{ends = [_]}) ->
    0;
pause(#data{spec = #{restart := #{backoff_min := Min, backoff_max := Max}}, ends = Ends}) ->
    Pause = min(Max, Min bsl min(40, length(Ends) - 2)),
    Pause - Pause div 4 + rand:uniform(Pause div 2 + 1) - 1.

pause_text(0) -> "at once";
pause_text(Pause) -> io_lib:format("in ~b ms", [Pause]).

%% What cannot get better by trying.
give_up(How, Data) ->
    given_up(counted(How, Data)).

given_up(Data = #data{spec = #{name := Name}, node = Node, output = Output}) ->
    Report = report(Data),
    py_output:event(Output, error, Report, (meta(Data))#{report_cb => fun ?MODULE:format_report/1}),
    tell({node_given_up, Name, Node, Report}),
    {next_state, given_up, Data}.

report(#data{spec = #{name := Name}, node = Node, ends = Ends, lines = Lines}) ->
    {First, _, _} = lists:last(Ends),
    #{what => given_up, node => Node, name => Name, ends => hows(Ends), took => now_ms() - First,
      output => lists:reverse(Lines)}.

%% @private The report of a node that was given up, as text.
-spec format_report(report()) -> {io:format(), [term()]}.
format_report(#{node := Node, ends := Ends, took := Took, output := Output}) ->
    {"node ~ts: given up after ~ts in ~.1f s:~n~ts~ts",
     [Node, count_text(length(Ends)), Took / 1000,
      [["  ended: ", how_text(How), "\n"] || How <- Ends],
      case Output of
          [] -> "  it has printed nothing";
          _ -> ["  last lines:", [["\n    ", Line] || Line <- Output]]
      end]}.

count_text(1) -> "1 end";
count_text(N) -> integer_to_list(N) ++ " ends".

hows(Ends) ->
    [How || {_, _, How} <- lists:reverse(Ends)].

%%% -------------------------------------------------------------------------- text

how_text({status, Status}) ->
    io_lib:format("status ~b~ts", [Status, status_text(Status)]);
how_text({signal, Signal}) ->
    io_lib:format("signal ~b~ts", [Signal, signal_text(Signal)]);
how_text(start_timeout) ->
    "killed, not ready within start_timeout";
how_text(unknown) ->
    "it is not known how";
how_text({error, {no_program, Program}}) ->
    io_lib:format("there is no program ~ts", [Program]);
how_text({error, {python, Wanted, Has}}) ->
    io_lib:format("the program is built for Python ~ts, not for ~ts", [Has, Wanted]);
how_text({error, Reason}) ->
    io_lib:format("~tp", [Reason]).

%% pynode(1), EXIT STATUS.
status_text(64) -> ": an option or its value is wrong";
status_text(69) -> ": epmd cannot be reached, or the node cannot listen";
status_text(71) -> ": the system refuses a limit or a thread";
status_text(?EX_TEMPFAIL) -> ": the name is taken by another node at epmd";
status_text(78) -> ": the configuration is wrong, or a module cannot be imported";
status_text(_) -> "".

signal_text(4) -> " (SIGILL)";
signal_text(6) -> " (SIGABRT)";
signal_text(7) -> " (SIGBUS)";
signal_text(8) -> " (SIGFPE)";
signal_text(9) -> " (SIGKILL)";
signal_text(11) -> " (SIGSEGV)";
signal_text(15) -> " (SIGTERM)";
signal_text(24) -> " (SIGXCPU: the limit of processor time)";
signal_text(_) -> "".

event(Level, Format, Args, Data = #data{node = Node, output = Output}) ->
    py_output:event(Output, Level, io_lib:format("node ~ts: " ++ Format, [Node | Args]), meta(Data)).

%% Without a domain: the default handler of logger shows no events that have one of ours.
meta(#data{node = Node}) ->
    #{node => Node, pid => self()}.

facts(State, #data{spec = #{name := Name} = Spec, node = Node, os_pid = OsPid, starts = Starts, ends = Ends, lines = Lines}) ->
    #{state => State, name => Name, node => Node, spec => Spec, os_pid => OsPid, starts => Starts, ends => hows(Ends),
      last_end => case Ends of [] -> undefined; [{_, _, How} | _] -> How end,
      output => lists:reverse(Lines)}.

%%% ------------------------------------------------------------------------- tools

%% Whether the OS process ends within so long; what it says meanwhile is logged as ever.
await_end(Limit, Data) ->
    await_end_until(now_ms() + Limit, Data).

await_end_until(Until, Data = #data{port = Port, output = Output, os_pid = OsPid}) ->
    receive
        {Port, {data, {_, Line}}} ->
            py_output:line(Output, OsPid, Line),
            await_end_until(Until, Data);
        {Port, {exit_status, _}} ->
            true
    after max(0, Until - now_ms()) ->
            false
    end.

close(Port) ->
    try port_close(Port), ok catch error:badarg -> ok end.

now_ms() ->
    erlang:monotonic_time(millisecond).
