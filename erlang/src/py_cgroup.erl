%% @private
%% py_cgroup - a control group (version 2) of its own for an OS process, where one can be made.
-module(py_cgroup).

-export([make/2, remove/1]).
-export_type([limits/0]).

-type limits() :: #{memory_max => pos_integer(), cpu_max => pos_integer(), parent => string()}.

-define(MOUNT, "/sys/fs/cgroup").

%% @doc Makes a group below `parent', or below the group of this VM, and sets its limits: bytes of
%% memory, and per cent of one processor. A process joins by writing its number to `cgroup.procs'.
%%
%% ```
%% {ok, Dir} = py_cgroup:make("py", #{memory_max => 1 bsl 30, cpu_max => 150}).
%% '''
-spec make(string(), limits()) -> {ok, file:filename()} | {error, {file:filename(), atom()}}.
make(Name, Limits) ->
    case parent(Limits) of
        {ok, Parent} -> make_in(Parent, filename:join(Parent, "pynode-" ++ Name ++ "-" ++ os:getpid()), Limits);
        Error -> Error
    end.

%% @doc Removes a group whose processes have ended.
%%
%% ```
%% py_cgroup:remove(Dir).
%% '''
-spec remove(file:filename()) -> ok.
remove(Dir) ->
    _ = file:del_dir(Dir),
    ok.

parent(#{parent := Parent}) ->
    is_group(Parent);
parent(#{}) ->
    {ok, Text} = read("/proc/self/cgroup"),
    case re:run(Text, "^0::(.*)$", [multiline, {capture, [1], list}]) of
        {match, [Path]} -> is_group(?MOUNT ++ Path);
        nomatch -> {error, {?MOUNT, enotsup}}
    end.

%% Where there is no /proc there are no groups.
read(File) ->
    case file:read_file(File) of
        {ok, Text} -> {ok, Text};
        {error, _} -> {ok, <<>>}
    end.

is_group(Dir) ->
    case filelib:is_regular(filename:join(Dir, "cgroup.controllers")) of
        true -> {ok, Dir};
        false -> {error, {Dir, enotsup}}
    end.

make_in(Parent, Dir, Limits) ->
    %% What the parent does not hand down cannot be set below; that shows then.
    _ = file:write_file(filename:join(Parent, "cgroup.subtree_control"), "+memory +cpu"),
    case file:make_dir(Dir) of
        {error, Reason} when Reason =/= eexist -> {error, {Dir, Reason}};
        _ -> limit(Dir, settings(Limits))
    end.

settings(Limits) ->
    [{"memory.max", integer_to_list(N)} || #{memory_max := N} <- [Limits]]
        ++ [{"cpu.max", integer_to_list(N * 1000) ++ " 100000"} || #{cpu_max := N} <- [Limits]].

limit(Dir, []) ->
    {ok, Dir};
limit(Dir, [{File, Text} | Settings]) ->
    case file:write_file(filename:join(Dir, File), Text) of
        ok ->
            limit(Dir, Settings);
        {error, Reason} ->
            remove(Dir),
            {error, {filename:join(Dir, File), Reason}}
    end.
