%% live_release - an OTP release that contains the application, made with systools, calls Python.
-module(live_release).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1]).

setup() ->
    Ebin = filename:join(os:getenv("abs_top_builddir"), "lib/pynode/ebin"),
    {ok, [{application, pynode, Keys}]} = file:consult(filename:join(Ebin, "pynode.app")),
    #{ebin => Ebin, app => Keys}.

tests(Ctx) ->
    [{"the application's file names its modules, all of them", fun() -> modules(Ctx) end},
     {"the application in the build tree does not name an installed program", fun() -> program(Ctx) end},
     {"a release that contains the application boots, calls Python and stops without an error", fun() -> boot(Ctx) end}].

modules(#{ebin := Ebin, app := Keys}) ->
    Built = [list_to_atom(filename:basename(Beam, ".beam")) || Beam <- filelib:wildcard(Ebin ++ "/*.beam")],
    ?assertEqual(lists:sort(Built), lists:sort(proplists:get_value(modules, Keys))).

program(#{app := Keys}) ->
    ?assertEqual(undefined, proplists:get_value(program, proplists:get_value(env, Keys))).

%% The release has its own BEAM, and nothing of the build tree but the program.
boot(Ctx) ->
    Root = make_release(Ctx),
    Erts = filename:join([Root, "erts-" ++ erlang:system_info(version), "bin"]),
    Expr = "{ok, V} = py:call(math, sqrt, [2.0]),"
           "io:format(\"~w ~s~n\", [V, code:lib_dir(pynode)]), init:stop().",
    Proc = live:os(filename:join(Erts, "erlexec"),
                   ["-boot", filename:join([Root, "releases", "1", "start"]), "-mode", "embedded", "-noinput",
                    "-pynode", "program", io_lib:format("~p", [os:getenv("PYNODE")]), "-eval", Expr],
                   #{env => [{"ROOTDIR", Root}, {"BINDIR", Erts}, {"EMU", "beam"}, {"ERL_LIBS", false}]}),
    ?assertEqual(0, live:wait_exit(Proc)),
    Said = unicode:characters_to_list(live:stdout(Proc)),
    Want = "1.4142135623730951 " ++ filename:join([Root, "lib", "pynode-" ++ version(Ctx)]),
    ?assertEqual([], [Line || Line <- string:lexemes(Said, "\n"), string:find(Line, "ERROR") =/= nomatch]),
    ?assert(lists:member(Want, string:lexemes(Said, "\n"))).

%% Makes the release's archive and unpacks it into an empty directory.
make_release(#{ebin := Ebin} = Ctx) ->
    Dir = live:tmp(live:unique("make")),
    Name = filename:join(Dir, "pynode_release"),
    Root = live:tmp(live:unique("release")),
    ok = filelib:ensure_dir(Name),
    ok = file:write_file(Name ++ ".rel", io_lib:format("~p.~n", [release(Ctx)])),
    {ok, _, _} = systools:make_script(Name, [{path, [Ebin]}, {outdir, Dir}, no_warn_sasl, silent]),
    {ok, _, _} = systools:make_tar(Name, [{path, [Ebin]}, {outdir, Dir}, {erts, code:root_dir()},
                                          no_warn_sasl, silent]),
    ok = erl_tar:extract(Name ++ ".tar.gz", [compressed, {cwd, Root}]),
    Root.

%% The application and what it needs, of this very OTP.
release(#{app := Keys} = Ctx) ->
    Needed = [{App, otp_version(App)} || App <- proplists:get_value(applications, Keys)],
    {release, {"pynode_release", "1"}, {erts, erlang:system_info(version)},
     Needed ++ [{pynode, version(Ctx)}]}.

version(#{app := Keys}) ->
    proplists:get_value(vsn, Keys).

otp_version(App) ->
    _ = application:load(App),
    {ok, Version} = application:get_key(App, vsn),
    Version.
