%% @private
%% py_program - which program a Python node is, and how it is started: command line and environment.
-module(py_program).

-include_lib("kernel/include/logger.hrl").

-export([find/1, node_name/1, check_python/2, open/3, signal/3]).

-define(RUN_LIMIT, 10000).

%% @doc The program of a node: the specification's, that of the environment variable `PYNODE' or of
%% the application's key `program', the one of the tree in which this application was built, or
%% the one that `PATH' finds. What is named and not there is an error.
%%
%% ```
%% {ok, "/usr/local/bin/pynode"} = py_program:find(#{}).
%% '''
-spec find(#{program => string(), _ => _}) -> {ok, file:filename()} | {error, {no_program, string()}}.
find(Spec) ->
    Named = [P || #{program := P} <- [Spec]]
        ++ [P || P = [_ | _] <- [os:getenv("PYNODE"), application:get_env(pynode, program, undefined)]],
    case Named of
        [Program | _] -> executable(Program);
        [] -> first([beside(), os:find_executable("pynode")])
    end.

%% @doc The name that a node has in this cluster.
%%
%% ```
%% 'py@127.0.0.1' = py_program:node_name(#{alive => "py"}).
%% '''
-spec node_name(#{alive := string(), _ => _}) -> node().
node_name(#{alive := Alive}) ->
    list_to_atom(Alive ++ py_distribution:suffix() ++ "@" ++ host()).

%% @doc Whether the program is built for the Python that a specification wants: a version as
%% `"3.11"', or the path of an interpreter.
%%
%% ```
%% ok = py_program:check_python("/usr/local/bin/pynode", #{python => "3.11"}).
%% '''
-spec check_python(file:filename(), #{python => string(), _ => _}) ->
          ok | {error, {python, string(), string()}}.
check_python(Program, #{python := Wanted}) ->
    Version = case re:run(Wanted, "^[0-9.]+$", [{capture, none}]) of
                  match -> minor(Wanted);
                  nomatch -> minor(run(Wanted, ["--version"]))
              end,
    case minor(run(Program, ["--version"])) of
        Version when Version =/= none -> ok;
        Other -> {error, {python, Wanted, Other}}
    end;
check_python(_, _) ->
    ok.

%% @doc Starts the program as a port of the calling process. The cookie goes by the environment,
%% which the program clears at once.
%%
%% ```
%% {ok, Port} = py_program:open("/usr/local/bin/pynode", Spec, none).
%% '''
-spec open(file:filename(), py_options:spec(), file:filename() | none) -> {ok, port()} | {error, term()}.
open(Program, Spec, Cgroup) ->
    {Executable, Args} = limited(maps:get(rlimits, Spec), Cgroup, [Program | args(Spec)]),
    Options = [{args, [unicode:characters_to_binary(A) || A <- Args]}, {env, env(Spec)},
               {line, 65536}, binary, exit_status, stderr_to_stdout],
    try
        {ok, open_port({spawn_executable, Executable}, Options)}
    catch
        error:Reason -> {error, Reason}
    end.

%% @doc Sends a signal to an OS process, to the group that it leads or has led, or to both.
%%
%% ```
%% py_program:signal("TERM", process, 4711).
%% py_program:signal("KILL", both, 4711).
%% '''
-spec signal(string(), process | group | both, pos_integer()) -> ok.
signal(Name, process, OsPid) ->
    shell("kill -~s ~b", [Name, OsPid]);
signal(Name, group, OsPid) ->
    shell("kill -~s -~b", [Name, OsPid]);
signal(Name, both, OsPid) ->
    shell("kill -~s -~b; kill -~s ~b", [Name, OsPid, Name, OsPid]).

%%% ----------------------------------------------------------------------- finding

executable(Path) ->
    case os:find_executable(Path) of
        false -> {error, {no_program, Path}};
        Program -> {ok, Program}
    end.

first([]) -> {error, {no_program, "pynode"}};
first([false | Rest]) -> first(Rest);
first([Program | _]) -> {ok, Program}.

%% <build>/lib/pynode is this application, <build>/pynode the program. What is relative would be sought by PATH.
beside() ->
    case code:lib_dir(pynode) of
        {error, bad_name} -> false;
        Dir -> os:find_executable(filename:absname("pynode", filename:absname(filename:dirname(filename:dirname(Dir)))))
    end.

%% "X.Y" of "Python X.Y.Z", of "pynode 1.2.3 (Python X.Y.Z)" or of "X.Y".
minor(Text) ->
    case re:run(Text, "(?:Python |^)([0-9]+[.][0-9]+)", [{capture, [1], list}]) of
        {match, [Version]} -> Version;
        nomatch -> none
    end.

%% What a program prints; nothing if it cannot be started or lasts too long.
run(Program, Args) ->
    try open_port({spawn_executable, Program}, [{args, Args}, exit_status, stderr_to_stdout]) of
        Port -> collect(Port, [])
    catch
        error:_ -> ""
    end.

collect(Port, Text) ->
    receive
        {Port, {data, Data}} -> collect(Port, [Text, Data]);
        {Port, {exit_status, _}} -> lists:flatten(Text)
    after ?RUN_LIMIT ->
            port_close(Port),
            ""
    end.

%%% ------------------------------------------------------------------ command line

args(Spec) ->
    Name = atom_to_list(node_name(Spec)),
    ["--owned", "--log-format", "journal", name_option(host()), Name]
        ++ bind(py_distribution:suffix(), application:get_env(kernel, inet_dist_use_interface))
        ++ ticktime(Spec, net_kernel:get_net_ticktime())
        ++ py_options:args(Spec).

host() ->
    [_, Host] = string:split(atom_to_list(node()), "@"),
    Host.

%% The same rule as the program's: a host with a dot or a colon is a long name.
name_option(Host) ->
    case lists:member($., Host) orelse lists:member($:, Host) of
        true -> "--name";
        false -> "--sname"
    end.

%% Where this VM listens on one interface only, so does the node. One that had no name is on loopback.
bind("", {ok, {A, B, C, D}}) -> ["--bind", inet:ntoa({A, B, C, D})];
bind("", _) -> [];
bind(_, _) -> ["--bind", "127.0.0.1"].

ticktime(#{net_ticktime := _}, _) -> [];
ticktime(_, {ongoing_change_to, Seconds}) -> ["--net-ticktime", integer_to_list(Seconds)];
ticktime(_, Seconds) when is_integer(Seconds) -> ["--net-ticktime", integer_to_list(Seconds)];
ticktime(_, ignored) -> [].

%% Limits are set by a shell that then becomes the program.
limited(Limits, none, [Program | Args]) when map_size(Limits) =:= 0 ->
    {Program, Args};
limited(Limits, Cgroup, Command) ->
    Steps = [limit(Key, Value) || {Key, Value} <- maps:to_list(Limits)],
    {Join, Dir} = case Cgroup of
                      none -> {[], []};
                      _ -> {["echo $$ >\"$1/cgroup.procs\" && shift || exit 71"], [Cgroup]}
                  end,
    Script = lists:flatten(lists:join("; ", Join ++ Steps ++ ["exec \"$@\""])),
    {"/bin/sh", ["-c", Script, "sh" | Dir ++ Command]}.

%% At the soft limit of processor time comes a signal that says so, a second later the hard one.
limit(as, Bytes) -> io_lib:format("ulimit -v ~b || exit 71", [Bytes div 1024]);
limit(cpu, Seconds) -> io_lib:format("ulimit -t ~b && ulimit -S -t ~b || exit 71", [Seconds + 1, Seconds]);
limit(nofile, N) -> io_lib:format("ulimit -n ~b || exit 71", [N]).

%%% ------------------------------------------------------------------- environment

env(Spec = #{env := Given}) ->
    Ours = [{"PYNODE_COOKIE", atom_to_list(erlang:get_cookie())}] ++ epmd_port(init:get_argument(epmd_port)),
    Names = [Name || {Name, _} <- Ours],
    [Variable || Variable = {Name, _} <- Given, not lists:member(Name, Names)] ++ Ours ++ unset(Spec).

%% `erl' has the port as an argument, wherever it was told it.
epmd_port({ok, [[Port | _] | _]}) -> [{"ERL_EPMD_PORT", Port}];
epmd_port(_) -> [].

%% What the start of this VM has put into its environment means nothing to Python.
unset(#{env := Given}) ->
    [{Name, false} || Name <- ["BINDIR", "EMU", "PROGNAME", "ROOTDIR"], not lists:keymember(Name, 1, Given)].

%% A VM that has no descriptor left for a shell must not lose sight of its nodes for that.
shell(Format, Args) ->
    try os:cmd(lists:flatten(io_lib:format("{ " ++ Format ++ "; } 2>/dev/null", Args))) of
        _ -> ok
    catch
        error:Reason ->
            ?LOG_ERROR("pynode: no shell can be started to send a signal: ~tp", [Reason])
    end.
