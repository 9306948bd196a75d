%% py_log_tests - records of Python's logging given to logger: what a handler gets, and bounds.
-module(py_log_tests).

-include_lib("eunit/include/eunit.hrl").

-export([log/2]).

-define(NODE, 'py@127.0.0.1').
-define(LIMIT, 30000).
-define(RECORDS, 1000). % that may wait

%% Each test has a py_log of its own, and a log handler that sends it the events.
py_log_test_() ->
    [{timeout, 60, {Sentence, fun() -> with_log(Test) end}}
     || {Sentence, Test} <-
            [{"a record is a log event with Python's domain", fun event/0},
             {"node, logger, file, line, function, thread and time are metadata", fun metadata/0},
             {"what the program has added is under python", fun extra/0},
             {"each level is logger's of that name, an unknown one is info", fun levels/0},
             {"text beyond ASCII arrives as it is", fun text/0},
             {"what is no record is a warning, and the next record is logged", fun no_record/0},
             {"metadata of a wrong type is kept among what the program has added", fun wrong_type/0},
             {"a slow handler: no caller waits, records are dropped and reported once", fun bound/0},
             {"what is dropped while a report is made is in another report", fun next_report/0},
             {"a message of nobody's does not hurt", fun stranger/0}]].

nothing_without_the_application_test() ->
    ?assertEqual(ok, py_log:log(?NODE, record(info, <<"x">>))).

with_log(Test) ->
    {ok, Pid} = py_log:start_link(),
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, all),
    ok = logger:add_handler(?MODULE, ?MODULE, #{config => #{pid => self(), gate => none}}),
    try
        Test()
    after
        ok = logger:remove_handler(?MODULE),
        ok = logger:set_primary_config(level, Level),
        unlink(Pid),
        exit(Pid, kill)
    end.

%% As a log handler: sends the event on, and waits with one of the gate's level.
log(#{level := Level, meta := #{domain := [python]}} = Event, #{config := #{pid := Pid, gate := Gate}}) ->
    Pid ! {event, Event},
    Level =:= Gate andalso receive open -> ok end;
log(_Event, _Config) ->
    ok.

event() ->
    py_log:log(?NODE, record(warning, <<"disk is full">>)),
    ?assertMatch(#{level := warning, msg := {string, <<"disk is full">>}, meta := #{domain := [python]}}, next()).

metadata() ->
    py_log:log(?NODE, record(info, <<"x">>, #{<<"pathname">> => <<"/srv/app.py">>, <<"lineno">> => 7,
                                              <<"funcName">> => <<"run">>, <<"threadName">> => <<"T1">>,
                                              <<"created">> => 1.5})),
    #{meta := Meta} = next(),
    ?assertMatch(#{node := ?NODE, logger_name := <<"app.db">>, file := "/srv/app.py", line := 7,
                   function := <<"run">>, thread := <<"T1">>, time := 1500000}, Meta),
    ?assertEqual(#{}, maps:get(python, Meta)).

extra() ->
    py_log:log(?NODE, record(info, <<"x">>, #{<<"user">> => <<"ann">>, <<"lineno">> => 7})),
    ?assertMatch(#{meta := #{python := #{<<"user">> := <<"ann">>}, line := 7}}, next()).

levels() ->
    [begin
         py_log:log(?NODE, record(Level, <<"x">>)),
         ?assertMatch(#{level := Want}, next())
     end || {Level, Want} <- [{debug, debug}, {info, info}, {warning, warning}, {error, error},
                              {critical, critical}, {loud, info}, {<<"error">>, info}]].

text() ->
    Text = <<"gr\x{fc}n \x{1f40d}"/utf8>>,
    py_log:log(?NODE, record(info, Text)),
    #{msg := {string, Got}} = Event = next(),
    ?assertEqual(Text, Got),
    ?assertNotEqual(nomatch, string:find(logger_formatter:format(Event, #{}), Text)).

no_record() ->
    [begin
         py_log:log(?NODE, Item),
         ?assertMatch(#{level := warning, msg := {_, _}}, next())
     end || Item <- [nothing, {log}, {log, info, <<"a">>, not_text, #{}}, {log, info, <<"a">>, <<"b">>, []}]],
    event().

wrong_type() ->
    Meta = #{<<"pathname">> => none, <<"lineno">> => <<"7">>, <<"created">> => soon},
    py_log:log(?NODE, record(info, <<"x">>, Meta)),
    #{meta := #{python := Python} = Got} = next(),
    ?assertEqual(Meta, Python),
    ?assertNot(is_map_key(file, Got) or is_map_key(line, Got)).

%% One record is in the handler, others wait, the last ones find no room.
bound() ->
    gate(info),
    py_log:log(?NODE, record(info, <<"first">>)),
    next(),
    fill(5),
    open(none),
    [next() || _ <- lists:seq(1, ?RECORDS - 1)],
    ?assertEqual("5 records of Python's logging dropped", reported(next())),
    event().

%% The report is in the handler, and counts as no record.
next_report() ->
    gate(info),
    py_log:log(?NODE, record(info, <<"first">>)),
    next(),
    fill(5),
    open(warning),
    [next() || _ <- lists:seq(1, ?RECORDS - 1)],
    ?assertEqual("5 records of Python's logging dropped", reported(next())),
    [py_log:log(?NODE, record(info, <<"next">>)) || _ <- lists:seq(1, ?RECORDS + 3)],
    open(none),
    [next() || _ <- lists:seq(1, ?RECORDS)],
    ?assertEqual("3 records of Python's logging dropped", reported(next())).

stranger() ->
    whereis(py_log) ! hello,
    gen_server:cast(py_log, hello),
    ok = gen_server:call(py_log, hello),
    event().

%%% ------------------------------------------------------------------ helpers

record(Level, Text) ->
    record(Level, Text, #{}).

record(Level, Text, Meta) ->
    {log, Level, <<"app.db">>, Text, Meta}.

%% What has room while the handler has a record, and so many more.
fill(Surplus) ->
    [py_log:log(?NODE, record(info, <<"more">>)) || _ <- lists:seq(1, ?RECORDS - 1 + Surplus)].

gate(Level) ->
    ok = logger:update_handler_config(?MODULE, #{config => #{pid => self(), gate => Level}}).

%% Lets on who waits at the gate; from now on it is for that level.
open(Level) ->
    gate(Level),
    whereis(py_log) ! open.

next() ->
    receive {event, Event} -> Event after ?LIMIT -> error(no_event) end.

reported(#{level := warning, msg := {Format, Arguments}}) ->
    lists:flatten(io_lib:format(Format, Arguments)).
