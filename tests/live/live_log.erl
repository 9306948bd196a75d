%% live_log - Python's logging on the wire: what a home gets, what a program keeps, and bounds.
-module(live_log).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1]).

setup() ->
    live:pynode().

tests(Node = #{node := N}) ->
    [{"without a home logging writes to standard error, as ever", fun() -> no_home(Node) end},
     {"a record has logger, text, place and thread", fun() -> record(N) end},
     {"levels are Erlang's, those between are the nearest below", fun() -> levels(N) end},
     {"an exception's traceback is part of the text", fun() -> failure(N) end},
     {"text beyond ASCII arrives, half a surrogate pair as its escape", fun() -> texts(N) end},
     {"extras arrive, as their text if they have no Erlang form", fun() -> extra(N) end},
     {"extras with names that no map could have do not break the connection", fun() -> odd_keys(N) end},
     {"what is logged while a record is converted has no end elsewhere", fun() -> chatty(N) end},
     {"an exception that is no error, while a record is converted, goes on", fun() -> interrupted(N) end},
     {"an extra that is too deep for a term is its text", fun() -> deep(N) end},
     {"a record from a thread of the user's", fun() -> from_thread(N) end},
     {"a record whose arguments do not fit is told on standard error", fun() -> bad_format(Node) end},
     {"a logger that does not propagate keeps its records, or has a LogHandler", fun() -> apart(N) end},
     {"a record beyond 64 K is cut, one beyond a megabyte dropped and reported", fun() -> huge(N) end},
     {"a child of the node has no home", fun() -> forked(Node) end},
     {"a program without handlers writes nothing to standard error besides", fun() -> no_double(Node) end},
     {"logging.warning() does not make a handler for standard error", fun implicit/0},
     {"a LogHandler of the user's on the root logger: a record arrives once", fun own_handler/0},
     {"basicConfig does what it does, and records still arrive", fun basic_config/0},
     {"when the home has gone logging writes to standard error again, until there is one", fun home_gone/0},
     {"a home that does not read: nobody waits, the dropped are counted, once", fun flood/0}].

%%% ------------------------------------------------------------------ cases

%% In the order of the list: this is the first one of the node that has no home yet.
no_home(#{node := N, proc := Proc}) ->
    erpc:call(N, logs, text, [<<"no home">>]),
    live:wait_line(Proc, "^no home$").

record(N) ->
    attach(N),
    {log, warning, <<"app.db">>, <<"disk is full">>, Meta} = logged(N, text, [<<"disk is full">>]),
    #{<<"lineno">> := Line, <<"funcName">> := <<"text">>, <<"created">> := Created, <<"threadName">> := Thread} = Meta,
    ?assert(is_integer(Line) andalso is_binary(Thread) andalso Created > 1.0e9),
    ?assertEqual(5, map_size(Meta)),
    ?assertMatch("logs.py", filename:basename(binary_to_list(maps:get(<<"pathname">>, Meta)))).

levels(N) ->
    attach(N),
    [?assertMatch({log, Want, _, _, _}, logged(N, level, [Number]))
     || {Number, Want} <- [{5, debug}, {10, debug}, {20, info}, {29, info}, {30, warning}, {40, error},
                           {50, critical}, {70, critical}]].

failure(N) ->
    attach(N),
    {log, error, _, Text, _} = logged(N, failure, []),
    ?assertMatch({match, _}, re:run(Text, "^it failed\nTraceback .*KeyError: 'missing'$", [dotall])).

texts(N) ->
    attach(N),
    Text = <<"gr\x{fc}n \x{1f40d}\n%d"/utf8>>,
    ?assertMatch({log, _, _, Text, _}, logged(N, text, [Text])),
    ?assertMatch({log, _, _, <<"half \\ud800 a pair">>, #{<<"half">> := <<"\\udfff">>}}, logged(N, surrogate, [])).

extra(N) ->
    attach(N),
    {log, error, _, <<"extra">>, Meta} = logged(N, extra, []),
    ?assertMatch(#{<<"user">> := <<"ann">>, <<"n">> := 1, <<"opaque">> := <<"opaque">>, <<"faulty">> := <<"Faulty">>,
                   <<"d">> := <<"{'k': [<class 'logs.Opaque'>]}">>}, Meta).

odd_keys(N) ->
    attach(N),
    {log, warning, _, <<"odd">>, Meta} = logged(N, odd_keys, []),
    ?assertMatch(#{<<"1">> := _, <<"fine">> := <<"d">>}, Meta),
    ?assertEqual(7, map_size(Meta)).

chatty(N) ->
    attach(N),
    ?assertMatch({log, _, _, <<"outer">>, #{<<"chatty">> := <<"chatty">>}}, logged(N, chatty, [])),
    ?assertMatch({log, _, _, <<"next">>, _}, logged(N, text, [<<"next">>])).

interrupted(N) ->
    attach(N),
    ?assertError({exception, {python_error, 'KeyboardInterrupt', _}, _}, erpc:call(N, logs, interrupted, [])),
    ?assertMatch({log, _, _, <<"next">>, _}, logged(N, text, [<<"next">>])).

deep(N) ->
    attach(N),
    {log, _, _, <<"deep">>, Meta} = logged(N, deep, []),
    ?assertMatch(#{<<"ring">> := <<"[[...]]">>, <<"nested">> := <<"list">>}, Meta).

from_thread(N) ->
    attach(N),
    ?assertMatch({log, warning, _, <<"from a thread">>, #{<<"threadName">> := <<"T7">>}}, logged(N, from_thread, [])).

bad_format(#{node := N, proc := Proc}) ->
    attach(N),
    Mark = live:mark(Proc),
    erpc:call(N, logs, bad_format, []),
    live:wait_line(Proc, "^--- Logging error ---", Mark),
    ?assertMatch({log, _, _, <<"next">>, _}, logged(N, text, [<<"next">>])).

apart(N) ->
    attach(N),
    erpc:call(N, logs, apart, []),
    ?assertMatch({log, _, _, <<"next">>, _}, logged(N, text, [<<"next">>])),
    ?assertMatch({log, _, <<"apart">>, <<"apart">>, _}, logged(N, apart, ['LogHandler'])),
    ?assertMatch({log, _, _, <<"next">>, _}, logged(N, text, [<<"next">>])).

huge(N) ->
    attach(N),
    {log, _, _, Cut, _} = logged(N, huge, [1 bsl 20]),
    ?assertMatch({match, _}, re:run(Cut, "^x{60000}x*[.]{3} and 983040 characters more$")),
    ?assertMatch({log, _, _, <<"next">>, _}, logged(N, text, [<<"next">>])),
    ?assertMatch({log, warning, <<"erlang">>, <<"1 log records dropped">>, _}, item()).

forked(#{node := N, proc := Proc}) ->
    attach(N),
    Mark = live:mark(Proc),
    ?assertEqual(0, erpc:call(N, logs, forked, [])),
    live:wait_line(Proc, "^from the child$", Mark),
    ?assertMatch({log, _, _, <<"next">>, _}, logged(N, text, [<<"next">>])).

no_double(#{node := N, proc := Proc}) ->
    attach(N),
    Mark = live:mark(Proc),
    logged(N, text, [<<"not twice">>]),
    erpc:call(N, builtins, exec, [<<"import sys; print('then', file=sys.stderr)">>]),
    live:wait_line(Proc, "^then$", Mark),
    ?assertEqual([], [Line || Line <- live:lines(Proc), string:find(Line, "not twice") =/= nomatch]).

implicit() ->
    #{node := N, proc := Proc} = live:pynode(),
    attach(N),
    erpc:call(N, logging, warning, [<<"%s">>, <<"for the home">>]),
    ?assertMatch({log, warning, <<"root">>, <<"for the home">>, _}, item()),
    ?assertEqual(0, erpc:call(N, logs, handlers, [])),
    none = erpc:call(N, logging, basicConfig, []),
    ?assertEqual(1, erpc:call(N, logs, handlers, [])),
    ?assertEqual([], [Line || Line <- live:lines(Proc), string:find(Line, "for the home") =/= nomatch]).

own_handler() ->
    #{node := N} = live:pynode(),
    attach(N),
    ?assertMatch({log, _, _, <<"once">>, _}, logged(N, own_handler, [])),
    ?assertMatch({log, _, _, <<"next">>, _}, logged(N, text, [<<"next">>])).

basic_config() ->
    #{node := N, proc := Proc} = live:pynode(),
    attach(N),
    ?assertMatch({log, _, _, <<"before">>, _}, logged(N, text, [<<"before">>])),
    erpc:call(N, logs, basic_config, [20]),
    ?assertEqual(1, erpc:call(N, logs, handlers, [])),
    ?assertMatch({log, info, <<"root">>, <<"after basicConfig">>, _}, item()),
    live:wait_line(Proc, "^basic:after basicConfig$").

home_gone() ->
    #{node := N, proc := Proc} = live:pynode(),
    attach(N),
    ?assertMatch({log, _, _, <<"1">>, _}, logged(N, text, [<<"1">>])),
    {pynode, N} ! {detach, self()},
    erpc:call(N, logs, text, [<<"detached">>]),
    live:wait_line(Proc, "^detached$"),
    attach(N),
    ?assertMatch({log, _, _, <<"2">>, _}, logged(N, text, [<<"2">>])),
    erlang:disconnect_node(N),
    live:wait_line(Proc, "conn live@127.0.0.1: closed"),
    erpc:call(N, logs, text, [<<"disconnected">>]),
    live:wait_line(Proc, "^disconnected$").

%% 64 MB for a home that reads nothing of it until they are all logged. When it has read what was
%% before the pong, there is room for two records more, and between them for a report.
flood() ->
    Node = #{node := N} = live:pynode(),
    {ok, Peer} = wire:connect(Node),
    Home = wire:pid(Peer, 1),
    wire:ctl(Peer, {6, Home, '', pynode}, {attach, Home}),
    {_, {py_attached, _}} = wire:next(Peer),
    All = erpc:call(N, logs, flood, [4, 4000, 4096], live:ms(60000)),
    wire:ping(Peer, 1),
    Pong = {wire:ref(Peer, 1), yes},
    Before = read_until(fun(Item) -> Item =:= Pong end, Peer, []),
    [erpc:call(N, logs, text, [Text]) || Text <- [<<"room">>, <<"end">>]],
    Items = read_until(fun({log, _, _, Text, _}) -> Text =:= <<"end">> end, Peer, Before),
    {Reports, Records} = lists:partition(fun({log, _, Logger, _, _}) -> Logger =:= <<"erlang">> end, Items),
    Dropped = lists:sum([dropped(Report) || Report <- Reports]),
    ?assertEqual(All + 2, length(Records) + Dropped),
    ?assert(Dropped > All div 2),
    live:note("~b of ~b records arrived, the others were reported as dropped", [length(Records) - 2, All]).

dropped({log, warning, <<"erlang">>, Text, _}) ->
    {match, [N]} = re:run(Text, "^([0-9]+) log records dropped$", [{capture, [1], list}]),
    list_to_integer(N).

%%% ------------------------------------------------------------------ helpers

%% This process is the log's home, until it ends.
attach(N) ->
    pong = net_adm:ping(N),
    {pynode, N} ! {attach, self()},
    live:expect(10000, fun({py_attached, _}) -> {ok, attached} end).

%% The first record after a call of the function.
logged(N, Function, Arguments) ->
    none = erpc:call(N, logs, Function, Arguments),
    item().

item() ->
    case live:expect(10000, fun([Item | More]) -> {ok, {Item, More}} end) of
        {{load, _}, More} ->
            [self() ! More || More =/= []],
            item();
        {Item, More} ->
            [self() ! More || More =/= []],
            Item
    end.

%% The items that the peer has read, and before them those that were read before, when the last one
%% is the wanted one; or when the message is, which is not in the list.
read_until(Wanted, Peer, Before) ->
    case wire:next(Peer) of
        {_, Items} when is_list(Items) ->
            Read = lists:reverse([Item || Item <- Items, element(1, Item) =/= load], Before),
            case Read =/= [] andalso Wanted(hd(Read)) of
                true -> Read;
                false -> read_until(Wanted, Peer, Read)
            end;
        {_, Message} ->
            true = Wanted(Message),
            Before
    end.
