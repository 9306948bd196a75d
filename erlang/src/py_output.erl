%% @private
%% py_output - what a Python node prints, line by line, given to logger.
%%
%% A process of its own, so that a slow log handler holds up neither the node, whose pipe is read
%% on, nor py_port, whose own events come this way, too. At most ?LINES lines wait; more are dropped and counted. A line
%% may begin with the priority of sd-daemon(3), "<3>" to "<7>"; without one it is `info'.
%%
%%     {line, Level, OsPid, Line}      a line to log
%%     {event, Level, What, Meta}      an event of the one who has started it
%%     'DOWN'                          who has started it has ended, and all lines are logged
-module(py_output).

-export([start/1, line/3, event/4, level/1]).
-export_type([output/0]).

-opaque output() :: {pid(), counters:counters_ref()}.

-define(LINES, 1000).
-define(WAITING, 1).
-define(DROPPED, 2).

%% @doc Starts a process that logs for this node until the caller ends.
%%
%% ```
%% Output = py_output:start('py@127.0.0.1').
%% '''
-spec start(node()) -> output().
start(Node) ->
    Owner = self(),
    Counts = counters:new(2, [atomics]),
    {proc_lib:spawn(fun() -> main(Node, monitor(process, Owner), Counts) end), Counts}.

%% @doc Logs a line of the OS process with this number; never blocks.
%%
%% ```
%% py_output:line(Output, 4711, <<"<4>disk is nearly full">>).
%% '''
-spec line(output(), pos_integer() | undefined, binary()) -> ok.
line({Pid, Counts}, OsPid, Line) ->
    case counters:get(Counts, ?WAITING) < ?LINES of
        true ->
            counters:add(Counts, ?WAITING, 1),
            {Level, Text} = level(Line),
            Pid ! {line, Level, OsPid, Text},
            ok;
        false ->
            counters:add(Counts, ?DROPPED, 1)
    end.

%% @doc Logs an event of the caller's own, after the lines that came before it; never dropped.
%%
%% ```
%% py_output:event(Output, warning, "node py@127.0.0.1: killed", #{}).
%% '''
-spec event(output(), logger:level(), unicode:chardata() | logger:report(), logger:metadata()) -> ok.
event({Pid, _}, Level, What, Meta) ->
    Pid ! {event, Level, What, Meta},
    ok.

%% @doc Level and text of a line.
%%
%% ```
%% {warning, <<"low">>} = py_output:level(<<"<4>low">>).
%% '''
-spec level(binary()) -> {logger:level(), binary()}.
level(<<"<0>", Text/binary>>) -> {emergency, Text};
level(<<"<1>", Text/binary>>) -> {alert, Text};
level(<<"<2>", Text/binary>>) -> {critical, Text};
level(<<"<3>", Text/binary>>) -> {error, Text};
level(<<"<4>", Text/binary>>) -> {warning, Text};
level(<<"<5>", Text/binary>>) -> {notice, Text};
level(<<"<6>", Text/binary>>) -> {info, Text};
level(<<"<7>", Text/binary>>) -> {debug, Text};
level(Text) -> {info, Text}.

main(Node, Owner, Counts) ->
    receive
        {line, Level, OsPid, Text} ->
            log(Level, text(Text), Node, OsPid),
            counters:sub(Counts, ?WAITING, 1),
            tell_dropped(Node, OsPid, Counts),
            main(Node, Owner, Counts);
        {event, Level, Report, Meta} when is_map(Report) ->
            logger:log(Level, Report, Meta),
            main(Node, Owner, Counts);
        {event, Level, Text, Meta} ->
            logger:log(Level, "~ts", [Text], Meta),
            main(Node, Owner, Counts);
        {'DOWN', Owner, process, _, _} ->
            ok
    end.

tell_dropped(Node, OsPid, Counts) ->
    case counters:get(Counts, ?DROPPED) of
        0 ->
            ok;
        N ->
            counters:sub(Counts, ?DROPPED, N),
            log(warning, "output: " ++ integer_to_list(N) ++ " lines dropped", Node, OsPid)
    end.

log(Level, Text, Node, OsPid) ->
    logger:log(Level, "~ts", [Text], #{domain => [python], node => Node, os_pid => OsPid}).

%% What is no UTF-8 is shown byte by byte.
text(Line) ->
    case unicode:characters_to_list(Line) of
        Text when is_list(Text) -> Text;
        _ -> binary_to_list(Line)
    end.
