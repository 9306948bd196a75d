%% live_docs - plays what README.md and docs/*.md show and compares it with what they say it gives.
%%
%% Of the fenced blocks:
%%   ```console  "$ command" and its output. A pynode that is shown to say "ready:" stays up in the
%%               background; "erl ..." opens the shell that the erlang blocks after it go into, also
%%               with variables of the environment before it.
%%   ```erlang   a session of a real shell, "1> expression." and what it prints. Without a shell or
%%               node opened before, the usual ones. Without prompts: must be Erlang's tokens.
%%   ```python   must compile; "# name.py" in the first line saves it for the blocks after it.
%%   ```sh       not run (it installs or builds): the programs named by a path must be there.
%% In expected text "..." stands for anything, and white space does not count. What a first line of "..." stands for,
%% as what is logged meanwhile, may also come after the rest.
-module(live_docs).

-export([setup/0, tests/1]).

-define(LIMIT, 20000).

-record(block, {line :: pos_integer(), kind :: string(), text :: [string()]}).
-record(play, {dir :: string(), node = none, shell = none}).

setup() ->
    Top = os:getenv("abs_top_srcdir"),
    Files = [filename:join(Top, "README.md") | filelib:wildcard(filename:join([Top, "docs", "*.md"]))],
    #{top => Top, files => Files}.

%% One case a document; what a document has started ends with it.
tests(#{top := Top, files := Files}) ->
    [{case_name(File, Blocks), fun() -> play(Top, Blocks) end}
     || File <- Files, Blocks <- [blocks(File)]]
        ++ [{"an output that differs is noticed", fun notices_difference/0}].

case_name(File, Blocks) ->
    lists:flatten(io_lib:format("~ts: ~b blocks give what they show", [filename:basename(File), length(Blocks)])).

play(Top, Blocks) ->
    Dir = work_dir(Top),
    lists:foldl(fun play_block/2, #play{dir = Dir}, Blocks).

%% A directory that looks like the source tree after a build.
work_dir(Top) ->
    Dir = live:tmp(live:unique("docs")),
    ok = filelib:ensure_dir(filename:join([Dir, "build", "x"])),
    [ok = file:make_symlink(filename:join(Top, N), filename:join(Dir, N))
     || N <- ["bench", "docs", "examples", "run", "check", "configure.ac", "tests"],
        filelib:is_file(filename:join(Top, N))],
    ok = file:make_symlink(filename:join(os:getenv("abs_top_builddir"), "lib"), filename:join([Dir, "build", "lib"])),
    [script(filename:join([Dir, "build", Name]), os:getenv(Env))
     || {Name, Env} <- [{"pynode", "PYNODE"}, {"erl", "ERL"}, {"python3", "PYTHON"}]],
    script(filename:join([Dir, "build", "pynodectl"]), filename:join([Top, "erlang", "pynodectl"])),
    Dir.

%% A program of the test's environment under its usual name; this directory leads PATH, so by path.
script(File, Name) ->
    Program = case os:find_executable(Name) of false -> Name; Found -> Found end,
    ok = file:write_file(File, ["#!/bin/sh\nexec \"", Program, "\" \"$@\"\n"]),
    ok = file:change_mode(File, 8#755).

path(Dir) -> filename:join(Dir, "build") ++ ":" ++ os:getenv("PATH").

%%% ------------------------------------------------------------------ reading

%% The fenced blocks of a document, in order.
blocks(File) ->
    {ok, Bin} = file:read_file(File),
    Lines = string:split(unicode:characters_to_list(Bin), "\n", all),
    outside(lists:zip(lists:seq(1, length(Lines)), Lines)).

outside([]) -> [];
outside([{N, "```" ++ Kind} | Rest]) -> inside(Rest, #block{line = N, kind = string:trim(Kind), text = []});
outside([_ | Rest]) -> outside(Rest).

inside([{_, "```" ++ _} | Rest], Block) ->
    [Block#block{text = lists:reverse(Block#block.text)} | outside(Rest)];
inside([{_, Line} | Rest], Block) ->
    inside(Rest, Block#block{text = [Line | Block#block.text]}).

%% [{Input, Expected}] of a block whose inputs Split recognizes: {input, Text} | output.
exchanges([], _) -> [];
exchanges([Line | Rest], Split) ->
    {input, Input} = Split(Line),
    {Expected, More} = lists:splitwith(fun(L) -> Split(L) =:= output end, Rest),
    [{Input, lists:join("\n", Expected)} | exchanges(More, Split)].

shell_line("$ " ++ Command) -> {input, Command};
shell_line(_) -> output.

%% Joins the lines of an expression, which ends with a full stop, into one.
expressions([]) -> [];
expressions([Line | Rest]) ->
    case re:run(Line, "^(?:\\(.*\\))?[0-9]+> (.*)$", [{capture, [1], list}, unicode]) of
        {match, [Begin]} -> expression(Begin, Rest);
        nomatch -> [Line | expressions(Rest)]
    end.

expression(Text, Rest) ->
    case lists:suffix(".", string:trim(Text, trailing)) of
        true -> ["> " ++ string:trim(Text) | expressions(Rest)];
        false -> expression(Text ++ " " ++ string:trim(hd(Rest)), tl(Rest))
    end.

erlang_line("> " ++ Expr) -> {input, Expr};
erlang_line(_) -> output.

%%% ------------------------------------------------------------------ playing

play_block(#block{kind = "console", text = Text} = B, Play) ->
    lists:foldl(fun(X, P) -> console(X, B, P) end, Play, exchanges(Text, fun shell_line/1));
play_block(#block{kind = "erlang", text = Text} = B, Play) ->
    case expressions(Text) of
        ["> " ++ _ | _] = Session ->
            Ready = with_shell(with_node(Play)),
            lists:foldl(fun(X, P) -> ask(X, B, P) end, Ready, exchanges(Session, fun erlang_line/1));
        _ ->
            {ok, _, _} = erl_scan:string(lists:flatten(lists:join("\n", Text))),
            Play
    end;
play_block(#block{kind = "python", text = Text} = B, Play) ->
    python(Text, B, Play);
play_block(#block{kind = "sh", text = Text} = B, #play{dir = Dir} = Play) ->
    Programs = [W || Line <- Text, [W | _] <- [string:lexemes(Line, " ")], lists:member($/, W)],
    Missing = [W || W <- Programs, W =/= "./configure", not filelib:is_file(filename:join(Dir, W))],
    equal([], Missing, B),
    Play;
play_block(_, Play) -> Play.

%% Runs one command; a node stays, a shell stays, anything else gives its output.
console({Command, Expected}, B, #play{dir = Dir} = Play) ->
    case {is_shell(Command), is_node(Command, lists:flatten(Expected))} of
        {true, _} ->
            Play#play{shell = open_shell(Command, Dir)};
        {false, true} ->
            Play#play.node =:= none orelse live:stop(Play#play.node),
            Node = start_node(Command, Dir),
            compare(Command, Expected, lists:join("\n", live:lines(Node)), B),
            Play#play{node = Node};
        {false, false} ->
            {Status, Output} = live:sh("cd \"$DIR\" && " ++ Command, [{"DIR", Dir}, {"PATH", path(Dir)}]),
            Expected =:= [] andalso equal(0, Status, B),
            compare(Command, Expected, Output, B),
            Play
    end.

is_shell(Command) ->
    re:run(Command, "^([A-Z_]+=[^ ]* )*erl ", [{capture, none}]) =:= match.

is_node(Command, Expected) ->
    re:run(Command, "^(build/)?pynode ", [{capture, none}]) =:= match
        andalso string:find(Expected, "ready:") =/= nomatch.

start_node(Command, Dir) ->
    Node = live:os("/bin/sh", ["-c", "exec " ++ Command],
                   #{cd => Dir, env => [{"PATH", path(Dir)}], kind => node}),
    _ = live:wait_line(Node, "ready: "),
    Node.

with_node(#play{node = none, dir = Dir} = Play) ->
    Play#play{node = start_node("pynode --name py@127.0.0.1 --path .", Dir)};
with_node(Play) -> Play.

python(Text, B, #play{dir = Dir} = Play) ->
    Name = case re:run(hd(Text), "^# ([a-z_0-9]+\\.py)", [{capture, [1], list}]) of
               {match, [N]} -> N;
               nomatch -> live:unique("block") ++ ".py"
           end,
    File = filename:join(Dir, Name),
    ok = file:write_file(File, unicode:characters_to_binary(lists:join("\n", Text))),
    Check = "import sys; compile(open(sys.argv[1]).read(), sys.argv[1], 'exec')",
    equal({0, <<>>}, live:sh("\"$PYTHON\" -c \"$CHECK\" \"$FILE\"", [{"CHECK", Check}, {"FILE", File}]), B),
    Play.

%%% ------------------------------------------------------- a shell as users have it

with_shell(#play{shell = none, dir = Dir} = Play) ->
    Play#play{shell = open_shell("erl -name me@127.0.0.1", Dir)};
with_shell(Play) -> Play.

%% {Port, number of the prompt that it shows}
open_shell(Command, Dir) ->
    Port = open_port({spawn_executable, "/bin/sh"},
                     [{args, ["-c", "exec env " ++ Command]}, binary, stream, stderr_to_stdout, exit_status,
                      {cd, Dir}, {env, [{"PATH", path(Dir)}, {"TERM", "dumb"}]}]),
    _ = until_prompt(Port, 1, <<>>),
    {Port, 1}.

ask({Expr, Expected}, B, #play{shell = {Port, N}} = Play) ->
    port_command(Port, [unicode:characters_to_binary(Expr), "\n"]),
    Output = until_prompt(Port, N + 1, <<>>),
    compare(Expr, Expected, Output, B),
    Play#play{shell = {Port, N + 1}}.

%% What the shell prints before its next prompt.
until_prompt(Port, N, Seen) ->
    case before_prompt(N, Seen) of
        none ->
            receive
                {Port, {data, More}} -> until_prompt(Port, N, <<Seen/binary, More/binary>>);
                {Port, {exit_status, S}} -> error({shell_ended, [{status, S}, {output, Seen}]})
            after live:ms(?LIMIT) -> error({no_prompt, [{number, N}, {output, Seen}]})
            end;
        Before ->
            Before
    end.

%% What is logged when the shell waits already comes after its prompt, and then the prompt once more.
before_prompt(N, Seen) ->
    Prompt = io_lib:format("(?:\\([^()\\n]*\\))?~b> ", [N]),
    case re:run(Seen, [Prompt, "$"], [{capture, none}]) of
        match -> hd(re:split(Seen, Prompt));
        nomatch -> none
    end.

%%% ---------------------------------------------------------------- comparing

compare(What, Expected, Output, #block{line = Line}) ->
    Text = unicode:characters_to_list(iolist_to_binary([Output])),
    matches(lists:flatten(Expected), Text)
        orelse error({not_as_shown, [{block_at_line, Line}, {input, What},
                                     {shown, lists:flatten(Expected)}, {is, Text}]}).

%% No output shown: any will do.
matches(Expected, Output) ->
    Squeezed = squeeze(Expected),
    case Expected of
        _ when Squeezed =:= "" -> true;
        "...\n" ++ _ -> is_like(Squeezed ++ "...", squeeze(Output));
        _ -> is_like(Squeezed, squeeze(Output))
    end.

is_like(Expected, Output) ->
    Parts = string:split(Expected, "...", all),
    Pattern = lists:join(".*", [["\\Q", P, "\\E"] || P <- Parts]),
    re:run(Output, ["^", Pattern, "$"], [unicode, dotall, {capture, none}]) =:= match.

squeeze(Text) -> [C || C <- Text, not lists:member(C, " \t\r\n")].

equal(Same, Same, _) -> ok;
equal(Expected, Is, #block{line = Line}) ->
    error({not_as_shown, [{block_at_line, Line}, {expected, Expected}, {is, Is}]}).

notices_difference() ->
    true = matches("{a, ..., b}", "{a,1,2,\n  b}"),
    false = matches("pong", "pang"),
    [true, true, false] = [matches("...\nok", Is) || Is <- ["=WARNING\nok", "ok\n=WARNING", "=WARNING"]],
    false = matches("{a, ..., b}", "{a,1,c}"),
    [<<"ok\n">>, <<"ok\n">>, none] = [before_prompt(2, Seen) || Seen <- [<<"ok\n2> ">>, <<"ok\n(a@b)2> =WARNING\n(a@b)2> ">>, <<"ok\n2> =WAR">>]],
    B = #block{line = 1, kind = "erlang", text = []},
    {not_as_shown, _} = live:error_of(fun() -> compare("x", "1.0", <<"2.0">>, B) end).
