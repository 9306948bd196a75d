%% live_manager.erl - a service manager hears how the node is: ready, alive or not, draining, stopping.
%%
%% The manager is the test: a local datagram socket, as systemd has one. The intervals of the watchdog
%% are short here, and the limits wide, for a busy machine.
-module(live_manager).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1]).

-define(INTERVAL, 1000).

setup() ->
    none.

tests(_) ->
    [{"ready is told when the node is, with what it is", fun ready/0},
     {"an abstract socket", fun abstract/0},
     {"Python and its children do not see the variables", fun variables/0},
     {"a watchdog for another process, and none at all: nothing", fun no_watchdog/0},
     {"the watchdog hears of an idle node at half the interval", fun rate/0},
     {"and of one that computes in Python, or is full of calls that block", fun busy/0},
     {"not while C code keeps the interpreter lock, but again afterwards", fun held/0},
     {"not while a regular expression keeps it", fun matching/0},
     {"SIGTERM: stopping, more time each second, alive meanwhile", fun stopping/0},
     {"a program that returns: stopping", fun script/0},
     {"a child that Python forks says nothing, also when it is told to end", fun child/0},
     {"a manager that goes away does no harm", fun manager_gone/0},
     {"a socket that is none: 64, and the variable is named", fun bad_socket/0},
     {"a node that the application owns leaves the manager to the BEAM", fun owned/0}].

%%% ------------------------------------------------------------------------ the scene

%% The manager, with its path.
manager() ->
    Path = live:tmp(live:unique("manager")),
    {manager(list_to_binary(Path)), Path}.

manager(Address) ->
    {ok, Socket} = gen_udp:open(0, [binary, {active, true}, {ifaddr, {local, Address}}]),
    Socket.

%% A node that speaks to it; watchdog: ms.
started(Path, Opts) ->
    Watchdog = [{"WATCHDOG_USEC", integer_to_list(Ms * 1000)} || #{watchdog := Ms} <- [Opts]],
    live:pynode(Opts#{env => [{"NOTIFY_SOCKET", Path} | Watchdog ++ maps:get(env, Opts, [])]}).

%% The next message, or none.
hear(Socket, Ms) ->
    receive
        {udp, Socket, _, _, Message} -> Message
    after Ms -> none
    end.

%% The next one that is not the watchdog's.
hear_other(Socket) ->
    case hear(Socket, live:ms(15000)) of
        <<"WATCHDOG=1">> -> hear_other(Socket);
        Message -> Message
    end.

alive(Socket) ->
    ?assertEqual(<<"WATCHDOG=1">>, hear(Socket, live:ms(15000))).

%% What is under way is taken, and then what comes is of what holds now.
settle(Socket) ->
    receive after ?INTERVAL -> ok end,
    forget(Socket).

forget(Socket) ->
    case hear(Socket, 0) of
        none -> ok;
        _ -> forget(Socket)
    end.

%% When each of so many messages of the watchdog came, in ms.
times(Socket, Count) ->
    [begin alive(Socket), erlang:monotonic_time(microsecond) / 1000 end || _ <- lists:seq(1, Count)].

gaps(Times) ->
    [B - A || {A, B} <- lists:zip(lists:droplast(Times), tl(Times))].

%%% ------------------------------------------------------------------------ the start

ready() ->
    {Socket, Path} = manager(),
    #{name := Name, port := Port, node := N} = started(Path, #{}),
    ?assertEqual(iolist_to_binary(io_lib:format("READY=1\nSTATUS=ready: node ~s, port ~b", [Name, Port])), hear_other(Socket)),
    2.0 = erpc:call(N, math, sqrt, [4]).

abstract() ->
    Name = live:unique("pynode-manager-" ++ os:getpid() ++ "-"),
    Socket = manager(iolist_to_binary([0, Name])),
    started("@" ++ Name, #{}),
    ?assertMatch(<<"READY=1\n", _/binary>>, hear_other(Socket)).

variables() ->
    {Socket, Path} = manager(),
    #{node := N} = started(Path, #{watchdog => 60000, env => [{"OTHER_VARIABLE", "1"}]}),
    hear_other(Socket),
    Env = erpc:call(N, subprocess, check_output, [[<<"env">>]]),
    ?assertMatch({match, _}, re:run(Env, "OTHER_VARIABLE=1")),
    ?assertEqual(nomatch, re:run(Env, "NOTIFY_SOCKET|WATCHDOG")),
    ?assertEqual(none, erpc:call(N, os, getenv, [<<"NOTIFY_SOCKET">>])).

no_watchdog() ->
    {Socket, Path} = manager(),
    started(Path, #{}),
    started(Path, #{watchdog => 200, env => [{"WATCHDOG_PID", "1"}]}),
    ?assertMatch(<<"READY=1\n", _/binary>>, hear(Socket, live:ms(15000))),
    ?assertMatch(<<"READY=1\n", _/binary>>, hear(Socket, live:ms(15000))),
    ?assertEqual(none, hear(Socket, 1000)).

%%% --------------------------------------------------------------------- the watchdog

rate() ->
    {Socket, Path} = manager(),
    started(Path, #{watchdog => ?INTERVAL}),
    ?assertMatch(<<"READY=1\n", _/binary>>, hear_other(Socket)),
    Gaps = gaps(times(Socket, 7)),
    live:note("between the messages: ~w ms", [[round(G) || G <- Gaps]]),
    ?assertEqual([], [G || G <- Gaps, G > live:ms(?INTERVAL)]),
    ?assert(lists:sum(Gaps) / length(Gaps) > 0.9 * ?INTERVAL / 2).

busy() ->
    Gate = #{port := Port} = live:gate(),
    {Socket, Path} = manager(),
    #{node := N} = started(Path, #{watchdog => ?INTERVAL, args => ["--workers", "2", "--max-workers", "2"]}),
    Computing = erpc:send_request(N, spin, until, [Port]),
    Door = live:entered(Gate),
    Waiting = [erpc:send_request(N, gate, wait, [Port]) || _ <- lists:seq(1, 3)],
    Other = live:entered(Gate),
    settle(Socket),
    Gaps = gaps(times(Socket, 5)),
    ?assertEqual([], [G || G <- Gaps, G > live:ms(?INTERVAL)]),
    [live:open(D) || D <- [Door, Other]],
    true = is_integer(erpc:receive_response(Computing)),
    [live:open(live:entered(Gate)) || _ <- tl(Waiting)],
    [none = erpc:receive_response(W) || W <- Waiting].

held() ->
    Gate = #{port := Port} = live:gate(),
    {Socket, Path} = manager(),
    #{node := N} = started(Path, #{watchdog => ?INTERVAL}),
    Request = erpc:send_request(N, held, until, [Port]),
    Door = live:entered(Gate),
    live:eventually(fun() -> forget(Socket), hear(Socket, ?INTERVAL) =:= none end),
    ?assertEqual(none, hear(Socket, 2 * ?INTERVAL)),
    pong = net_adm:ping(N), % the leader goes round all the while
    live:open(Door),
    1 = erpc:receive_response(Request),
    alive(Socket),
    alive(Socket).

matching() ->
    {Socket, Path} = manager(),
    #{node := N} = started(Path, #{watchdog => 200}),
    alive_after_ready(Socket),
    Begun = erlang:monotonic_time(microsecond) / 1000,
    Request = erpc:send_request(N, held, matching, [36]),
    Gaps = gaps([Begun | times(Socket, 10)]),
    none = erpc:receive_response(Request),
    live:note("between the messages: ~w ms", [[round(G) || G <- Gaps]]),
    ?assert(lists:max(Gaps) > 400).

alive_after_ready(Socket) ->
    ?assertMatch(<<"READY=1\n", _/binary>>, hear_other(Socket)),
    alive(Socket).

%%% -------------------------------------------------------------------------- the end

stopping() ->
    Gate = #{port := Port} = live:gate(),
    {Socket, Path} = manager(),
    Node = #{node := N} = started(Path, #{watchdog => ?INTERVAL}),
    ?assertMatch(<<"READY=1\n", _/binary>>, hear_other(Socket)),
    Request = erpc:send_request(N, gate, wait, [Port]),
    Door = live:entered(Gate),
    live:signal(Node, "TERM"),
    Draining = <<"EXTEND_TIMEOUT_USEC=10000000\nSTATUS=draining: 1 requests to finish">>,
    ?assertEqual(<<"STOPPING=1\n", Draining/binary>>, hear_other(Socket)),
    alive(Socket),
    ?assertEqual(Draining, hear_other(Socket)),
    ?assertEqual(Draining, hear_other(Socket)),
    live:open(Door),
    none = erpc:receive_response(Request),
    ?assertEqual(<<"STATUS=stopping">>, last(Socket, none)),
    ?assertEqual(0, live:wait_exit(Node)).

%% The last message but those of the drain and of the watchdog.
last(Socket, Found) ->
    case hear(Socket, live:ms(3000)) of
        none -> Found;
        <<"WATCHDOG=1">> -> last(Socket, Found);
        <<"EXTEND", _/binary>> -> last(Socket, Found);
        Message -> last(Socket, Message)
    end.

script() ->
    {Socket, Path} = manager(),
    Node = started(Path, #{watchdog => ?INTERVAL, program => ["-c", "import time; time.sleep(0.1)"]}),
    ?assertMatch(<<"READY=1\n", _/binary>>, hear_other(Socket)),
    ?assertMatch(<<"STOPPING=1\n", _/binary>>, hear_other(Socket)),
    ?assertEqual(0, live:wait_exit(Node)).

child() ->
    {Socket, Path} = manager(),
    Code = "import os, signal, time\n"
        "for _ in range(20):\n"
        "    up, told = os.pipe()\n"
        "    child = os.fork()\n"
        "    if child == 0:\n" % in the middle of fork() Python forgets signals
        "        os.write(told, b'x')\n"
        "        while True:\n" % a signal just before sleep() does not end it: so not one that is long
        "            time.sleep(0.01)\n"
        "    os.read(up, 1)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n",
    Node = started(Path, #{program => ["-c", Code]}),
    ?assertMatch(<<"READY=1\n", _/binary>>, hear_other(Socket)),
    ?assertEqual(<<"STOPPING=1\nSTATUS=stopping">>, hear_other(Socket)),
    ?assertEqual(0, live:wait_exit(Node)),
    ?assertEqual(none, hear(Socket, 0)).

manager_gone() ->
    {Socket, Path} = manager(),
    Node = #{node := N} = started(Path, #{watchdog => 100}),
    alive_after_ready(Socket),
    gen_udp:close(Socket),
    live:wait_line(Node, "warning notify: the service manager cannot be told: "),
    2.0 = erpc:call(N, math, sqrt, [4]),
    ?assertEqual(0, live:stop(Node)),
    ?assertEqual(1, length([L || L <- live:lines(Node), binary:match(L, <<"notify:">>) =/= nomatch])).

bad_socket() ->
    Node = live:pynode(#{env => [{"NOTIFY_SOCKET", "vsock:2:1"}], ready => false}),
    ?assertEqual(64, live:wait_exit(Node)),
    ?assert(lists:any(fun(L) -> binary:match(L, <<"NOTIFY_SOCKET: 'vsock:2:1'">>) =/= nomatch end, live:lines(Node))).

owned() ->
    {Socket, Path} = manager(),
    Env = [{"NOTIFY_SOCKET", Path}, {"WATCHDOG_USEC", "100000"}],
    application:set_env(pynode, nodes, [#{env => Env}]),
    {ok, _} = application:ensure_all_started(pynode),
    try
        {ok, none} = py:call(os, getenv, [<<"NOTIFY_SOCKET">>]),
        ?assertEqual(none, hear(Socket, 500))
    after
        application:stop(pynode)
    end.
