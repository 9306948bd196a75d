%% py_output_tests - lines to logger: levels, texts that are no text, and a handler that is slow.
-module(py_output_tests).

-include_lib("eunit/include/eunit.hrl").

-export([log/2]).

%% A handler of logger's that hands each event to the test, and waits until it may go on.
log(Event, #{config := #{test := Test, wait := Wait}}) ->
    Test ! {event, self(), Event},
    Wait andalso receive go -> ok end.

with_handler(Wait, Fun) ->
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, all),
    ok = logger:add_handler(?MODULE, ?MODULE, #{config => #{test => self(), wait => Wait}}),
    try
        Fun(py_output:start('py@h'))
    after
        ok = logger:remove_handler(?MODULE),
        ok = logger:set_primary_config(level, Level)
    end.

next() ->
    receive {event, Pid, Event} -> {Pid, Event} after 10000 -> error(no_event) end.

text(#{msg := {Format, Args}}) ->
    lists:flatten(io_lib:format(Format, Args)).

level_test_() ->
    [?_assertEqual(Expected, py_output:level(Line)) ||
        {Line, Expected} <- [{<<"<0>a">>, {emergency, <<"a">>}},
                             {<<"<1>a">>, {alert, <<"a">>}},
                             {<<"<2>a">>, {critical, <<"a">>}},
                             {<<"<3>a">>, {error, <<"a">>}},
                             {<<"<4>a">>, {warning, <<"a">>}},
                             {<<"<5>a">>, {notice, <<"a">>}},
                             {<<"<6>a">>, {info, <<"a">>}},
                             {<<"<7>">>, {debug, <<>>}},
                             {<<"<8>a">>, {info, <<"<8>a">>}},
                             {<<"<3a">>, {info, <<"<3a">>}},
                             {<<"a">>, {info, <<"a">>}},
                             {<<>>, {info, <<>>}}]].

line_test() ->
    with_handler(false, fun(Output) ->
        py_output:line(Output, 17, <<"<4>gr", 195, 188, "n ~p">>),
        {_, Event} = next(),
        ?assertMatch(#{level := warning, meta := #{domain := [python], node := 'py@h', os_pid := 17}}, Event),
        ?assertEqual("grün ~p", text(Event))
    end).

no_utf8_test() ->
    with_handler(false, fun(Output) ->
        py_output:line(Output, 17, <<"a", 255, "b">>),
        {_, Event} = next(),
        ?assertEqual([$a, 255, $b], text(Event))
    end).

%% The handler holds the first line; of 3000 more a thousand wait, and the others are counted.
slow_handler_test() ->
    with_handler(true, fun(Output) ->
        py_output:line(Output, 17, <<"first">>),
        {Pid, _} = next(),
        [py_output:line(Output, 17, integer_to_binary(N)) || N <- lists:seq(1, 3000)],
        Pid ! go,
        {_, Dropped} = next(),
        ?assertEqual("output: 2001 lines dropped", text(Dropped)),
        ?assertMatch(#{level := warning}, Dropped),
        Pid ! go,
        [begin
             {_, Event} = next(),
             ?assertEqual(integer_to_list(N), text(Event)),
             Pid ! go
         end || N <- lists:seq(1, 999)],
        py_output:line(Output, 17, <<"last">>),
        {_, Last} = next(),
        ?assertEqual("last", text(Last)),
        Pid ! go
    end).

ends_with_its_owner_test() ->
    with_handler(false, fun(_) ->
        Test = self(),
        {Owner, Ref} = spawn_monitor(fun() ->
            Output = py_output:start('py@h'),
            py_output:line(Output, 17, <<"bye">>),
            Test ! {output, element(1, Output)}
        end),
        receive {'DOWN', Ref, process, Owner, normal} -> ok end,
        Pid = receive {output, P} -> P end,
        {_, Event} = next(),
        ?assertEqual("bye", text(Event)),
        Gone = monitor(process, Pid),
        receive {'DOWN', Gone, process, Pid, _} -> ok after 10000 -> error(still_there) end
    end).
