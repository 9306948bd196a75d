%% live_elixir - docs/elixir.md as a project of mix: its files, and its sessions in a VM that runs it.
%%
%% A block of the document that begins with "# a/file.ex" is that file of the project. play.exs, which the project runs,
%% plays the blocks with prompts.
-module(live_elixir).

-export([setup/0, tests/1]).

-define(DOCUMENT, "docs/elixir.md").

setup() ->
    Top = os:getenv("abs_top_srcdir"),
    #{document => filename:join(Top, ?DOCUMENT),
      player => filename:join(Top, "tests/docs/play.exs"),
      application => filename:join(Top, "erlang")}.

tests(Ctx) ->
    [{Name ++ Skip, Fun}
     || {Skip, Played} <- [why_not()],
        {Name, Case} <- [{?DOCUMENT ++ " gives what it shows, as a project of mix", fun plays/1},
                         {"a session that gives something else is noticed", fun notices/1}],
        Fun <- [fun() -> Played andalso Case(Ctx) end]].

%% Elixir there may be for another OTP than the one that it finds.
why_not() ->
    case live:sh("command -v mix && elixir -e ''") of
        {0, _} -> {"", true};
        {_, <<>>} -> {" # SKIP there is no elixir", false};
        {_, _} -> {" # SKIP elixir does not run with the erl in PATH", false}
    end.

plays(#{document := Document, player := Player, application := Application}) ->
    Dir = live:tmp("elixir"),
    ok = filelib:ensure_dir(filename:join([Dir, "pynode", "x"])),
    copy(Application, filename:join(Dir, "pynode")),
    Project = filename:join(Dir, "shop"),
    [_ | _] = save(Document, Project),
    Output = run("mix run \"$PLAYER\" \"$DOCUMENT\"", Project, [{"PLAYER", Player}, {"DOCUMENT", Document}]),
    live:note("~ts", [found("^[0-9]+ expressions.*$", Output)]),
    _ = found("[[]warning[]] low: 3 left$", Output). % by Logger itself

%% The sources may be where nothing can be written.
copy(From, To) ->
    {0, _} = live:sh("cp -R \"$FROM\" \"$TO\" && chmod -R u+w \"$TO\"", [{"FROM", From}, {"TO", To}]).

%% The files of the document.
save(Document, Dir) ->
    {ok, Text} = file:read_file(Document),
    {match, Files} = re:run(Text, "^```(?:elixir|python)\\n# ([a-z_./]+)\\n.*?^```$",
                            [global, multiline, dotall, {capture, [1, 0], binary}]),
    [begin
         File = filename:join(Dir, Name),
         ok = filelib:ensure_dir(File),
         [_ | Lines] = lists:droplast(binary:split(Block, <<"\n">>, [global])),
         ok = file:write_file(File, lists:join("\n", Lines ++ [""])),
         File
     end || [Name, Block] <- Files].

run(Command, Dir, Env) ->
    Unset = [{Name, false} || Name <- ["ERL_LIBS", "ERL_FLAGS", "MIX_ENV", "MIX_TARGET", "ELIXIR_ERL_OPTIONS"]],
    case live:sh("cd \"$DIR\" && " ++ Command, [{"DIR", Dir}, {"HEX_OFFLINE", "1"} | Unset ++ Env]) of
        {0, Output} -> Output;
        {Status, Output} -> error({not_as_shown, [{status, Status}, {output, unicode:characters_to_list(Output)}]})
    end.

found(Pattern, Output) ->
    case re:run(Output, Pattern, [multiline, {capture, first, binary}]) of
        {match, [Found]} -> Found;
        nomatch -> error({not_said, [{pattern, Pattern}, {output, unicode:characters_to_list(Output)}]})
    end.

%% In a session that goes on: a value, an exception where none is shown, one that is shown, a missing one.
notices(#{player := Player}) ->
    File = live:tmp("session.md"),
    ok = file:write_file(File, "```elixir\niex> x = 1\niex> [x,\n...>  2]\n[1, 2]\niex> x + 1\n3\niex> raise \"no\"\n:ok\n"
                         "iex> raise \"no\"\n** (RuntimeError) ...\niex> x\n** (RuntimeError) no\n```\n```elixir\nx\n```\n"
                         "```elixir\niex> {:a, x, 3}\n{:a, ..., 3}\n```\n"),
    {1, Output} = live:sh("elixir \"$PLAYER\" \"$FILE\"", [{"PLAYER", Player}, {"FILE", File}]),
    {match, Wrong} = re:run(Output, "^line ([0-9]+):", [global, multiline, {capture, [1], list}]),
    ["6", "8", "12"] = lists:append(Wrong),
    _ = found("^7 expressions, 3 give something else$", Output).
