%% py_options_tests - every option's good and bad values, the defaults, and the command line made of them.
-module(py_options_tests).

-include_lib("eunit/include/eunit.hrl").

one(Map) ->
    case py_options:nodes([Map]) of
        {ok, [Spec]} -> {ok, Spec};
        Other -> Other
    end.

args(Map) ->
    {ok, Spec} = one(Map),
    py_options:args(Spec) -- ["--drain-timeout", "30.000"].

defaults_test() ->
    {ok, Spec} = one(#{}),
    ?assertEqual(#{name => py, alive => "py", path => [], import => [], env => [], args => [], allow => [],
                   drain_timeout => 30000, start_timeout => 30000, kill_after => infinity,
                   restart => #{intensity => 5, period => 60000, backoff_min => 100, backoff_max => 30000},
                   rlimits => #{}, cgroup => #{}, labels => #{}}, Spec).

%% Key, value given, value in the specification.
good_test_() ->
    [{lists:flatten(io_lib:format("~s: ~tp", [Key, Given])),
      fun() ->
              {ok, Spec} = one(#{Key => Given}),
              ?assertEqual(Value, maps:get(Key, Spec))
      end} || {Key, Given, Value} <-
                  [{name, 'a-B_9', 'a-B_9'},
                   {program, "/opt/pynode", "/opt/pynode"},
                   {program, <<"/opt/p">>, "/opt/p"},
                   {python, "3.11", "3.11"},
                   {python, <<"/usr/bin/python3">>, "/usr/bin/python3"},
                   {venv, "/srv/venv", "/srv/venv"},
                   {path, ["/a", <<"/b/ü"/utf8>>], ["/a", "/b/ü"]},
                   {path, [], []},
                   {import, [json, "os.path", <<"app">>], ["json", "os.path", "app"]},
                   {env, [{"A", "1"}, {<<"B">>, <<"ü"/utf8>>}, {"C", false}, {"D", ""}, {"E", <<>>}],
                    [{"A", "1"}, {"B", "ü"}, {"C", false}, {"D", ""}, {"E", ""}]},
                   {args, ["--port", <<"4711">>], ["--port", "4711"]},
                   {workers, 1, 1},
                   {workers, 1024, 1024},
                   {max_workers, 7, 7},
                   {queue_size, 10000000, 10000000},
                   {max_connections, 0, 0},
                   {max_connections, 16384, 16384},
                   {mailbox_size, 1, 1},
                   {mailbox_size, 10000000, 10000000},
                   {remember_ids, 0, 0},
                   {remember_ids, 65536, 65536},
                   {max_frame, 1024, 1024},
                   {max_atoms, 5, 5},
                   {strings, bytes, bytes},
                   {none_atom, nil, nil},
                   {unconvertible, str, str},
                   {allow, [math, "os.path:join", {json, loads}, {<<"a.b">>, "C.d"}],
                    ["math", "os.path:join", "json:loads", "a.b:C.d"]},
                   {log_level, warning, warning},
                   {net_ticktime, 5, 5},
                   {drain_timeout, 0, 0},
                   {start_timeout, 1, 1},
                   {kill_after, 500, 500},
                   {kill_after, infinity, infinity},
                   {restart, #{intensity => 0, backoff_max => 100},
                    #{intensity => 0, period => 60000, backoff_min => 100, backoff_max => 100}},
                   {rlimits, #{as => 1 bsl 30, cpu => 5, nofile => 64}, #{as => 1 bsl 30, cpu => 5, nofile => 64}},
                   {cgroup, #{memory_max => 1 bsl 30, cpu_max => 50, parent => <<"/sys/fs/cgroup/x">>},
                    #{memory_max => 1 bsl 30, cpu_max => 50, parent => "/sys/fs/cgroup/x"}},
                   {labels, #{gpu => true}, #{gpu => true}}]].

%% The map, and the key that the refusal names.
bad_test_() ->
    [{lists:flatten(io_lib:format("~tp", [Map])), ?_assertEqual({error, {bad_option, Key}}, one(Map))} ||
        {Map, Key} <-
            [{#{name => "py"}, name},
             {#{name => 'a b'}, name},
             {#{name => 'a@b'}, name},
             {#{name => ''}, name},
             {#{name => 'a\n'}, name},
             {#{name => list_to_atom(lists:duplicate(201, $a))}, name},
             {#{count => 0}, count},
             {#{count => many}, count},
             {#{count => 1001}, count},
             {#{program => ""}, program},
             {#{program => pynode}, program},
             {#{program => "a\0b"}, program},
             {#{python => 3.11}, python},
             {#{venv => <<>>}, venv},
             {#{venv => <<255>>}, venv},
             {#{path => "/a"}, path},
             {#{path => ["/a" | "/b"]}, path},
             {#{path => ["/a", 7]}, path},
             {#{import => json}, import},
             {#{import => [""]}, import},
             {#{env => #{"A" => "1"}}, env},
             {#{env => [{"A", 1}]}, env},
             {#{env => [{"A", true}]}, env},
             {#{env => [{"A=B", "1"}]}, env},
             {#{env => [{"", "1"}]}, env},
             {#{env => ["A=1"]}, env},
             {#{args => "--port"}, args},
             {#{args => [port]}, args},
             {#{workers => 0}, workers},
             {#{workers => 1025}, workers},
             {#{workers => 2.0}, workers},
             {#{max_workers => -1}, max_workers},
             {#{workers => 3, max_workers => 2}, max_workers},
             {#{queue_size => 0}, queue_size},
             {#{max_connections => -1}, max_connections},
             {#{max_connections => 16385}, max_connections},
             {#{max_connections => infinity}, max_connections},
             {#{mailbox_size => 0}, mailbox_size},
             {#{mailbox_size => 10000001}, mailbox_size},
             {#{mailbox_size => <<"5">>}, mailbox_size},
             {#{remember_ids => -1}, remember_ids},
             {#{remember_ids => 65537}, remember_ids},
             {#{max_frame => 1023}, max_frame},
             {#{max_frame => 1 bsl 31}, max_frame},
             {#{max_atoms => 0}, max_atoms},
             {#{strings => utf16}, strings},
             {#{none_atom => null}, none_atom},
             {#{unconvertible => repr}, unconvertible},
             {#{allow => [""]}, allow},
             {#{allow => ["a:b:c"]}, allow},
             {#{allow => [":b"]}, allow},
             {#{allow => ["a b"]}, allow},
             {#{allow => [{a, 1}]}, allow},
             {#{allow => ["a\n"]}, allow},
             {#{log_level => notice}, log_level},
             {#{net_ticktime => 0}, net_ticktime},
             {#{drain_timeout => -1}, drain_timeout},
             {#{drain_timeout => infinity}, drain_timeout},
             {#{start_timeout => 0}, start_timeout},
             {#{kill_after => 0}, kill_after},
             {#{kill_after => never}, kill_after},
             {#{restart => permanent}, restart},
             {#{restart => #{intensity => -1}}, intensity},
             {#{restart => #{period => 0}}, period},
             {#{restart => #{backoff_min => 0}}, backoff_min},
             {#{restart => #{backoff_max => 0}}, backoff_max},
             {#{restart => #{backoff_max => 99}}, backoff_max},
             {#{restart => #{max => 3}}, max},
             {#{rlimits => [{as, 1 bsl 30}]}, rlimits},
             {#{rlimits => #{as => -1}}, as},
             {#{rlimits => #{cpu => 0}}, cpu},
             {#{rlimits => #{nofile => "64"}}, nofile},
             {#{rlimits => #{mem => 1}}, mem},
             {#{cgroup => true}, cgroup},
             {#{cgroup => #{memory_max => 0}}, memory_max},
             {#{cgroup => #{cpu_max => 0}}, cpu_max},
             {#{cgroup => #{parent => x}}, parent},
             {#{cgroup => #{io => 1}}, io},
             {#{labels => [gpu]}, labels},
             {#{wrokers => 2}, wrokers},
             {#{"name" => py}, "name"}]].

count_test_() ->
    [{"two of them are numbered",
      fun() ->
              {ok, Specs} = py_options:nodes([#{name => ml, count => 2}]),
              ?assertEqual([{ml, "ml1"}, {ml, "ml2"}], [{N, A} || #{name := N, alive := A} <- Specs])
      end},
     {"one that is counted is numbered, too",
      ?_assertMatch({ok, [#{alive := "py1"}]}, py_options:nodes([#{count => 1}]))},
     {"auto is as many as there are schedulers online",
      fun() ->
              {ok, Specs} = py_options:nodes([#{count => auto}]),
              ?assertEqual(erlang:system_info(schedulers_online), length(Specs))
      end},
     {"a specification has no count", ?_assertNot(maps:is_key(count, element(2, one(#{count => 1}))))}].

several_test_() ->
    [{"in the order given",
      ?_assertMatch({ok, [#{alive := "b"}, #{alive := "a"}]}, py_options:nodes([#{name => b}, #{name => a}]))},
     {"none at all", ?_assertEqual({ok, []}, py_options:nodes([]))},
     {"the same name twice", ?_assertEqual({error, {bad_option, name}}, py_options:nodes([#{}, #{}]))},
     {"a name that another's count gives",
      ?_assertEqual({error, {bad_option, name}}, py_options:nodes([#{name => a, count => 2}, #{name => a2}]))},
     {"one that is no map", ?_assertEqual({error, {bad_option, nodes}}, py_options:nodes([[{name, py}]]))},
     {"no list", ?_assertEqual({error, {bad_option, nodes}}, py_options:nodes(#{}))},
     {"an improper list", ?_assertEqual({error, {bad_option, nodes}}, py_options:nodes([#{} | #{}]))},
     {"the bad one is named wherever it is",
      ?_assertEqual({error, {bad_option, cpu}}, py_options:nodes([#{name => a}, #{rlimits => #{cpu => x}}]))}].

app_env_test_() ->
    [{"nothing set: one node, distribution as needed",
      ?_assertMatch({ok, #{nodes := [#{alive := "py"}], distribution := auto, python_may_call := all,
                           program := undefined}},
                    py_options:app_env([]))},
     {"what application:get_all_env/1 puts in is no option of ours",
      ?_assertMatch({ok, _}, py_options:app_env([{included_applications, []}]))},
     {"all set",
      ?_assertMatch({ok, #{nodes := [], distribution := required, program := "/p"}},
                    py_options:app_env([{nodes, []}, {distribution, required}, {program, <<"/p">>}]))},
     {"a bad distribution", ?_assertEqual({error, {bad_option, distribution}}, py_options:app_env([{distribution, none}]))},
     [{lists:flatten(io_lib:format("Python may call ~tp", [MayCall])),
       ?_assertMatch({ok, #{python_may_call := MayCall}}, py_options:app_env([{python_may_call, MayCall}]))}
      || MayCall <- [all, registered, [], [lists], [lists, {maps, get}, {'Elixir.Enum', map}]]],
     [{lists:flatten(io_lib:format("it may not call ~tp", [Bad])),
       ?_assertEqual({error, {bad_option, python_may_call}}, py_options:app_env([{python_may_call, Bad}]))}
      || Bad <- [none, lists, {lists, map}, ["lists"], [{lists, map, 2}], [{lists, "map"}], [lists | maps], #{}, 1]],
     {"a bad program", ?_assertEqual({error, {bad_option, program}}, py_options:app_env([{program, 1}]))},
     {"no nodes", ?_assertEqual({error, {bad_option, nodes}}, py_options:app_env([{nodes, all}]))},
     {"a bad option of a node", ?_assertEqual({error, {bad_option, as}}, py_options:app_env([{nodes, [#{rlimits => #{as => 1}}]}]))},
     {"an unknown key", ?_assertEqual({error, {bad_option, node}}, py_options:app_env([{node, []}]))}].

args_test_() ->
    [?_assertEqual([], args(#{})),
     ?_assertEqual(["--drain-timeout", "1.050"],
                   begin {ok, Spec} = one(#{drain_timeout => 1050}), py_options:args(Spec) end),
     {"each option has its own",
      ?_assertEqual(["--allow", "math", "--allow", "json:loads",
                     "--import", "a", "--import", "b",
                     "--log-level", "error", "--mailbox-size", "3", "--max-atoms", "9", "--max-connections", "2",
                     "--max-frame", "2048", "--max-workers", "8",
                     "--net-ticktime", "7", "--none-atom", "undefined", "--path", "/x", "--path", "/y",
                     "--queue-size", "6", "--remember-ids", "5", "--strings", "bytes", "--unconvertible", "str", "--venv", "/v",
                     "--workers", "4", "--port", "4711"],
                    args(#{allow => [math, {json, loads}], import => [a, b], log_level => error, max_atoms => 9,
                           mailbox_size => 3, max_connections => 2, max_frame => 2048, max_workers => 8,
                           net_ticktime => 7, none_atom => undefined,
                           path => ["/x", "/y"], queue_size => 6, remember_ids => 5, strings => bytes, unconvertible => str,
                           venv => "/v", workers => 4, args => ["--port", "4711"]}))},
     {"what is not for the program is not told to it",
      ?_assertEqual([], args(#{name => a, program => "/p", python => "3.11", env => [{"A", "1"}], start_timeout => 5,
                               kill_after => 5, rlimits => #{cpu => 1}, cgroup => #{cpu_max => 1},
                               labels => #{a => 1}}))}].

pool_test_() ->
    Bad = fun(Key, Map) -> ?_assertEqual({error, {bad_option, Key}}, py_options:pool(ml, Map)) end,
    [{"nothing: the nodes of the cluster that have its labels, which are none",
      ?_assertMatch({ok, #{specs := [], labels := Labels, strategy := least_loaded, max_queue := 10000}} when Labels =:= #{},
                    py_options:pool(ml, #{}))},
     {"so many nodes", ?_assertMatch({ok, #{specs := [#{pool := ml}, #{pool := ml}], labels := none}},
                                     py_options:pool(ml, #{nodes => 2}))},
     {"one a processor",
      fun() ->
              {ok, #{specs := Specs}} = py_options:pool(ml, #{nodes => auto}),
              ?assertEqual(erlang:system_info(schedulers_online), length(Specs))
      end},
     {"a list of nodes, with labels of their own",
      ?_assertMatch({ok, #{specs := [#{workers := 3, labels := #{zone := a, gpu := true}}, #{labels := #{zone := b}}]}},
                    py_options:pool(ml, #{labels => #{zone => b},
                                          nodes => [#{workers => 3, labels => #{zone => a, gpu => true}}, #{}]}))},
     {"a limit each", ?_assertMatch({ok, #{max_tasks := 1, max_age := 2, max_rss := 3}},
                                    py_options:pool(ml, #{max_tasks => 1, max_age => 2, max_rss => 3}))},
     Bad(nodes, #{nodes => x}), Bad(nodes, #{nodes => [x]}), Bad(nodes, #{nodes => [#{} | x]}), Bad(count, #{nodes => -1}),
     Bad(workers, #{nodes => [#{workers => 0}]}), Bad(labels, #{labels => []}), Bad(strategy, #{strategy => best}),
     Bad(max_queue, #{max_queue => -1}), Bad(max_tasks, #{max_tasks => 0}), Bad(max_age, #{max_age => soon}),
     Bad(max_rss, #{max_rss => 1.5}), Bad(node, #{node => 1}), Bad(options, []),
     ?_assertEqual({error, {bad_option, pool}}, py_options:pool('a b', #{})),
     ?_assertEqual({error, {bad_option, pool}}, py_options:pool("ml", #{})),
     {"pools of the application", ?_assertMatch({ok, #{pools := #{ml := #{specs := [_]}}}},
                                                py_options:app_env([{pools, #{ml => #{nodes => 1}}}]))},
     ?_assertEqual({error, {bad_option, strategy}}, py_options:app_env([{pools, #{ml => #{strategy => x}}}])),
     ?_assertEqual({error, {bad_option, pools}}, py_options:app_env([{pools, []}]))].
