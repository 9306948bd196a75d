%% py_cgroup_tests - a control group of its own, below a directory that plays one.
-module(py_cgroup_tests).

-include_lib("eunit/include/eunit.hrl").

with_parent(Fun) ->
    Dir = filename:join(os:getenv("HOME"), "cgroup" ++ integer_to_list(erlang:unique_integer([positive]))),
    ok = file:make_dir(Dir),
    try Fun(Dir) after file:del_dir_r(Dir) end.

read(Parts) ->
    {ok, Text} = file:read_file(filename:join(Parts)),
    Text.

limits_test() ->
    with_parent(fun(Parent) ->
        ok = file:write_file(filename:join(Parent, "cgroup.controllers"), "memory cpu"),
        {ok, Dir} = py_cgroup:make("py", #{parent => Parent, memory_max => 1048576, cpu_max => 150}),
        ?assertEqual(filename:join(Parent, "pynode-py-" ++ os:getpid()), Dir),
        ?assertEqual(<<"1048576">>, read([Dir, "memory.max"])),
        ?assertEqual(<<"150000 100000">>, read([Dir, "cpu.max"])),
        ?assertEqual(<<"+memory +cpu">>, read([Parent, "cgroup.subtree_control"])),
        ?assertMatch({ok, Dir}, py_cgroup:make("py", #{parent => Parent}))
    end).

no_group_test() ->
    with_parent(fun(Parent) ->
        ?assertEqual({error, {Parent, enotsup}}, py_cgroup:make("py", #{parent => Parent}))
    end).

not_writable_test() ->
    ?assertMatch({error, {_, _}}, py_cgroup:make("py", #{parent => "/proc/self", memory_max => 1 bsl 30})).

removed_test() ->
    with_parent(fun(Parent) ->
        ok = file:write_file(filename:join(Parent, "cgroup.controllers"), ""),
        {ok, Dir} = py_cgroup:make("py", #{parent => Parent}),
        ok = py_cgroup:remove(Dir),
        ?assertNot(filelib:is_dir(Dir)),
        ?assertEqual(ok, py_cgroup:remove(Dir))
    end).
