#!/usr/bin/env escript
%% -*- erlang -*-
%%! -hidden -setcookie replaced_below
%% The tour: plays examples/tour.steps against a Python node and checks every answer.
%%
%%     escript tour.escript NODE COOKIEFILE SRCDIR LOGFILE
%%
%% Prints each expression with its result, as an Erlang shell would. Exit 0: every step was
%% right; 1: some step was not, or the node could not be reached; 64: wrong use.
%% For the first part this VM needs nothing of pynode's: plain OTP only. The second one starts the
%% application, which ERL_LIBS must find; what is logged meanwhile goes to LOGFILE.
-mode(compile).

-record(step, {title = "" :: string(),
               expr = "" :: string(),
               check = none :: none | {equal | true, string()}}).

-define(DEADLINE, 120_000). % for all of it; a step that hangs is a wrong one

main([Node, CookieFile, SrcDir, LogFile]) ->
    {ok, _} = timer:apply_after(?DEADLINE, erlang, halt, [1]),
    ok = io:setopts(standard_io, [{encoding, unicode}]),
    log_to(LogFile),
    Status = try play(list_to_atom(Node), CookieFile, SrcDir)
             catch
                 throw:Why ->
                     io:format(standard_error, "tour: ~ts~n", [Why]),
                     1
             end,
    logger_std_h:filesync(default),
    halt(Status);
main(_) ->
    io:format(standard_error, "usage: escript tour.escript NODE COOKIEFILE SRCDIR LOGFILE~n", []),
    halt(64).

%% Plays all steps and gives the exit status.
play(Node, CookieFile, SrcDir) ->
    start_distribution(Node, CookieFile),
    Here = filename:dirname(escript:script_name()),
    none = reach_helpers(Node, filename:absname(Here)),
    Files = files(SrcDir),
    Bindings = bind([{'N', Node},
                     {'Ml', free_name("ml")},
                     {'Examples', filename:absname(Here)},
                     {'Files', [unicode:characters_to_binary(F) || F <- Files]},
                     {'Contents', [content(SrcDir, F) || F <- Files]}]),
    Steps = read_steps(filename:join(Here, "tour.steps")),
    Paint = painter(),
    Wrong = play_steps(Steps, 1, Bindings, Paint, 0),
    _ = application:stop(pynode), % also after a wrong step
    close(length(Steps), Wrong, Paint).

close(All, 0, Paint) ->
    io:format("~n~ts~n", [Paint(good, io_lib:format("~b steps, all right.", [All]))]),
    0;
close(All, Wrong, Paint) ->
    io:format("~n~ts~n", [Paint(bad, io_lib:format("~b of ~b steps were wrong.", [Wrong, All]))]),
    1.

%% Log lines would stand between the steps.
log_to(File) ->
    ok = logger:remove_handler(default),
    ok = logger:add_handler(default, logger_std_h, #{config => #{file => File}}),
    ok = logger:set_primary_config(level, info).

%% Makes this VM a node on the loopback interface, with the Python node's cookie.
start_distribution(Node, CookieFile) ->
    [_, Host] = string:split(atom_to_list(Node), "@"),
    Names = case lists:member($., Host) of true -> longnames; false -> shortnames end,
    application:set_env(kernel, inet_dist_use_interface, {127, 0, 0, 1}),
    Me = list_to_atom("tour" ++ os:getpid() ++ "@" ++ Host),
    case net_kernel:start([Me, Names]) of
        {ok, _} -> ok;
        {error, Why} -> throw(io_lib:format("cannot start distribution: ~0p", [Why]))
    end,
    case file:read_file(CookieFile) of
        {ok, Cookie} ->
            true = erlang:set_cookie(binary_to_atom(string:trim(Cookie)));
        {error, Posix} ->
            throw(io_lib:format("~ts: ~ts", [CookieFile, file:format_error(Posix)]))
    end.

%% A name for a node of the application that no node here has.
free_name(Name) ->
    {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
    list_to_atom(case lists:keymember(Name, 1, Names) of
                     false -> Name;
                     true -> Name ++ os:getpid()
                 end).

%% Puts the directory of tour_helpers.py on the node's sys.path; once is enough for site.
reach_helpers(Node, Dir) ->
    case rpc:call(Node, site, addsitedir, [unicode:characters_to_binary(Dir)]) of
        {badrpc, Why} -> throw(io_lib:format("~ts does not answer: ~0p", [Node, Why]));
        None -> None
    end.

%% The files of the source tree, not what a build or git has put beside them.
files(Dir) ->
    lists:sort([F || F <- walk(Dir, ""), filelib:is_regular(filename:join(Dir, F))]).

walk(Dir, Rel) ->
    {ok, Names} = file:list_dir(filename:join(Dir, Rel)),
    lists:append([walk_one(Dir, join(Rel, N), N) || N <- Names]).

walk_one(_, _, "." ++ _) -> [];
walk_one(_, _, "build" ++ _) -> [];
walk_one(_, _, "__pycache__") -> [];
walk_one(_, _, "autom4te.cache") -> [];
walk_one(Dir, Path, _) ->
    case filelib:is_dir(filename:join(Dir, Path)) of
        true -> walk(Dir, Path);
        false -> [Path]
    end.

join("", Name) -> Name;
join(Rel, Name) -> filename:join(Rel, Name).

content(Dir, File) ->
    {ok, Bytes} = file:read_file(filename:join(Dir, File)),
    Bytes.

%% tour.steps: "# title", "> expression", "= expression of equal value", "? must be true",
%% a line that starts with two spaces goes on with the one before, "%" is a comment.
read_steps(File) ->
    {ok, Text} = file:read_file(File),
    Lines = string:split(unicode:characters_to_list(Text), "\n", all),
    lists:reverse(lists:foldl(fun add_line/2, [], Lines)).

add_line("# " ++ Title, Steps) -> [#step{title = Title} | Steps];
add_line("> " ++ Expr, [#step{expr = ""} = S | Steps]) -> [S#step{expr = Expr} | Steps];
add_line("> " ++ Expr, Steps) -> [#step{expr = Expr} | Steps];
add_line("= " ++ Expr, [S | Steps]) -> [S#step{check = {equal, Expr}} | Steps];
add_line("? " ++ Expr, [S | Steps]) -> [S#step{check = {true, Expr}} | Steps];
add_line("  " ++ More, [#step{check = none, expr = E} = S | Steps]) ->
    [S#step{expr = E ++ "\n  " ++ More} | Steps];
add_line("  " ++ More, [#step{check = {How, E}} = S | Steps]) ->
    [S#step{check = {How, E ++ "\n  " ++ More}} | Steps];
add_line(_, Steps) -> Steps.

play_steps([], _, _, _, Wrong) -> Wrong;
play_steps([Step | Steps], Nr, Bindings, Paint, Wrong) ->
    announce(Step, Nr, Paint),
    {Outcome, Next} = run(Step, Bindings),
    play_steps(Steps, Nr + 1, Next, Paint, Wrong + report(Outcome, Paint)).

announce(#step{title = Title, expr = Expr}, Nr, Paint) ->
    [io:format("~n~ts~n", [Paint(title, Title)]) || Title =/= ""],
    io:format("~ts ~ts~n", [Paint(prompt, io_lib:format("~b>", [Nr])), Expr]).

%% Evaluates a step and its check: {Outcome, the bindings that the next step sees}.
run(#step{expr = Expr, check = Check}, Bindings) ->
    try eval(Expr, Bindings) of
        {value, Value, Next} -> {check(Check, Value, Next), Next}
    catch
        Class:Why -> {{wrong, {Class, Why}, "no exception"}, Bindings}
    end.

check(none, Value, _) -> {right, Value};
check({equal, Expr}, Value, Bindings) ->
    try eval(Expr, Bindings) of
        {value, Value, _} -> {right, Value};
        {value, Other, _} -> {wrong, Value, show(Other)}
    catch
        _:_ -> {wrong, Value, Expr}
    end;
check({true, Expr}, Value, Bindings) ->
    try eval(Expr, erl_eval:add_binding('V', Value, Bindings)) of
        {value, true, _} -> {right, Value};
        _ -> {wrong, Value, "V such that " ++ Expr}
    catch
        _:_ -> {wrong, Value, "V such that " ++ Expr}
    end.

report({right, Value}, Paint) ->
    io:format("~ts  ~ts~n", [show(Value), Paint(good, "ok")]),
    0;
report({wrong, Value, Expected}, Paint) ->
    io:format("~ts  ~ts, expected: ~ts~n", [show(Value), Paint(bad, "WRONG"), Expected]),
    1.

%% A value as the shell prints it, cut where it gets long.
show(Value) ->
    Text = unicode:characters_to_list(io_lib:format("~80tP", [Value, 30])),
    case string:split(Text, "\n", all) of
        Lines when length(Lines) > 14 -> lists:join("\n", lists:sublist(Lines, 13) ++ ["..."]);
        _ -> Text
    end.

eval(Expr, Bindings) ->
    {ok, Tokens, _} = erl_scan:string(string:trim(Expr, trailing, ".") ++ "."),
    {ok, Forms} = erl_parse:parse_exprs(Tokens),
    erl_eval:exprs(Forms, Bindings).

bind(Pairs) ->
    lists:foldl(fun({K, V}, B) -> erl_eval:add_binding(K, V, B) end, erl_eval:new_bindings(), Pairs).

%% Colours on a terminal, plain text elsewhere and where NO_COLOR is set.
painter() ->
    case is_terminal() andalso os:getenv("NO_COLOR", "") =:= "" of
        true -> fun(What, Text) -> [colour(What), Text, "\e[0m"] end;
        false -> fun(_, Text) -> Text end
    end.

colour(title) -> "\e[1m";
colour(prompt) -> "\e[2m";
colour(good) -> "\e[32m";
colour(bad) -> "\e[31m".

%% io:columns/0 knows it from OTP 26 on; before, Linux's /proc does.
is_terminal() ->
    case {io:columns(), file:read_link("/proc/self/fd/1")} of
        {{ok, _}, _} -> true;
        {_, {ok, "/dev/pts/" ++ _}} -> true;
        {_, {ok, "/dev/tty" ++ _}} -> true;
        _ -> false
    end.
