%% live_ping.erl - the node as a member of the cluster: pings, cookies, monitors of the node, many BEAMs.
-module(live_ping).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1]).

setup() ->
    live:pynode().

tests(Node) ->
    [{"net_adm:ping gives pong", fun() -> ping(Node) end},
     {"the node is a hidden one", fun() -> hidden(Node) end},
     {"is known to the BEAM by its name and a live connection", fun() -> node_info(Node) end},
     {"pings are answered while a pure-Python loop holds the GIL", fun() -> ping_under_load(Node) end},
     {"a wrong cookie gives pang, and the node works on", fun() -> wrong_cookie(Node) end},
     {"a BEAM with another cookie gets pang", fun() -> foreign_beam(Node) end},
     {"the node's own cookie does not serve under the wrong name", fun() -> other_name(Node) end},
     {"both nodes connect at once, the node's name is the greater: what each sends arrives", fun() -> both_at_once(Node) end},
     {"both nodes connect at once, the node's name is the lesser: what each sends arrives",
      fun() -> both_at_once(live:pynode(#{name => live:unique("a") ++ "@127.0.0.1"})) end},
     {"many Python threads that send to a node without a connection open one", fun() -> crowd(Node) end},
     {"the BEAM connects again after disconnect_node", fun() -> reconnect(Node) end},
     {"monitor_node says nodedown when the node leaves", fun monitor_node_leaves/0},
     {"monitor_node says nodedown when the node is killed", fun monitor_node_killed/0},
     {"several BEAMs at once get answers", fun() -> several(Node) end},
     {"a new BEAM is served after another one was killed", fun() -> killed_beam(Node) end},
     {"erlang:monitor_node of a node that never was says nodedown", fun never_there/0}].

ping(#{node := N}) ->
    [?assertEqual(pong, net_adm:ping(N)) || _ <- lists:seq(1, 100)].

hidden(#{node := N}) ->
    pong = net_adm:ping(N),
    ?assert(lists:member(N, nodes(hidden))),
    ?assertNot(lists:member(N, nodes())).

node_info(#{node := N, port := Port}) ->
    pong = net_adm:ping(N),
    {ok, Info} = net_kernel:node_info(N),
    ?assertEqual(up, proplists:get_value(state, Info)),
    ?assertEqual(hidden, proplists:get_value(type, Info)),
    {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
    [Alive, _] = string:split(atom_to_list(N), "@"),
    ?assertEqual({Alive, Port}, lists:keyfind(Alive, 1, Names)).

%% The loop runs on two workers while each ping is timed; the exact figure is the benchmark's.
ping_under_load(#{node := N}) ->
    Gate = #{port := Port} = live:gate(),
    Calls = [erpc:send_request(N, spin, until, [Port]) || _ <- [1, 2]],
    Doors = [live:entered(Gate) || _ <- Calls],
    Times = lists:sort([element(1, live:timed(fun() -> pong = net_adm:ping(N) end)) || _ <- lists:seq(1, 300)]),
    [live:open(Door) || Door <- Doors],
    [?assert(erpc:receive_response(Call, live:ms(10000)) > 0) || Call <- Calls],
    Median = lists:nth(150, Times),
    live:note("ping under load: median ~.3f ms, p97 ~.3f ms", [Median, lists:nth(291, Times)]),
    ?assert(Median < live:ms(5)),
    ?assert(lists:nth(291, Times) < live:ms(50)).

wrong_cookie(Node = #{node := N}) ->
    Good = erlang:get_cookie(),
    erlang:disconnect_node(N),
    true = erlang:set_cookie(N, 'quite_another'),
    ?assertEqual(pang, net_adm:ping(N)),
    true = erlang:set_cookie(N, Good),
    live:eventually(fun() -> net_adm:ping(N) =:= pong end),
    ?assertEqual(2.0, rpc:call(N, math, sqrt, [4])),
    live:wait_line(Node, " warning .*(cookie|handshake)"),
    ?assertEqual(nomatch, re:run(lists:join("\n", live:lines(Node)), live:cookie())).

foreign_beam(#{node := N}) ->
    Ask = lists:flatten(io_lib:format("io:format(\"~~p~~n\", [net_adm:ping('~s')]), halt().", [N])),
    Beam = live:os(os:getenv("ERL"), ["-noinput", "-start_epmd", "false", "-name", live:unique("foreign") ++ "@127.0.0.1",
                                      "-setcookie", "quite_another", "-kernel", "logger_level", "emergency",
                                      "-eval", Ask], #{merge => true}),
    live:wait_line(Beam, "^pang"),
    ?assertEqual(pong, net_adm:ping(N)).

%% A feigned peer with a good cookie that asks for a digest it cannot make stays outside.
other_name(Node = #{node := N}) ->
    ?assertMatch({error, {digest, _}}, wire:connect(Node, #{cookie => "not the cookie"})),
    {ok, Peer} = wire:connect(Node),
    wire:ping(Peer, 1),
    ?assertEqual(pong, wire:pong(Peer, 1)),
    ?assertEqual(pong, net_adm:ping(N)).

reconnect(#{node := N}) ->
    pong = net_adm:ping(N),
    ok = net_kernel:monitor_nodes(true, [{node_type, all}]),
    [begin
         true = erlang:disconnect_node(N),
         live:expect(5000, fun({nodedown, X, _}) when X =:= N -> {ok, down} end),
         live:eventually(fun() -> net_adm:ping(N) =:= pong end),
         live:expect(5000, fun({nodeup, X, _}) when X =:= N -> {ok, up} end)
     end || _ <- lists:seq(1, 5)],
    net_kernel:monitor_nodes(false, [{node_type, all}]),
    ?assertEqual(2.0, rpc:call(N, math, sqrt, [4])).

monitor_node_leaves() ->
    Node = #{node := N} = live:pynode(),
    pong = net_adm:ping(N),
    true = erlang:monitor_node(N, true),
    ?assertEqual(0, live:stop(Node)),
    ?assertEqual(down, live:expect(5000, fun({nodedown, X}) when X =:= N -> {ok, down} end)),
    ?assertEqual(pang, net_adm:ping(N)).

monitor_node_killed() ->
    Node = #{node := N} = live:pynode(),
    pong = net_adm:ping(N),
    Gate = #{port := Port} = live:gate(),
    Call = erpc:send_request(N, gate, wait, [Port]),
    live:entered(Gate),
    true = erlang:monitor_node(N, true),
    live:kill(Node),
    ?assertEqual(down, live:expect(5000, fun({nodedown, X}) when X =:= N -> {ok, down} end)),
    ?assertEqual({erpc, noconnection}, live:error_of(fun() -> erpc:receive_response(Call, 5000) end)).

several(#{node := N}) ->
    Peers = [P || #{node := P} <- live:peers(2)],
    Ask = fun(P) -> erpc:call(P, lists, map, [fun(X) -> rpc:call(N, math, sqrt, [X * X]) end, lists:seq(1, 200)]) end,
    Want = [float(X) || X <- lists:seq(1, 200)],
    [?assertEqual(Want, Got) || Got <- live:pmap(Ask, [node() | Peers])],
    [?assertEqual(pong, erpc:call(P, net_adm, ping, [N])) || P <- Peers],
    [?assert(lists:member(N, erpc:call(P, erlang, nodes, [hidden]))) || P <- Peers].

killed_beam(#{node := N}) ->
    Peer = #{node := P} = live:peer(),
    pong = erpc:call(P, net_adm, ping, [N]),
    live:kill(Peer),
    #{node := Next} = live:peer(),
    ?assertEqual(pong, erpc:call(Next, net_adm, ping, [N])),
    ?assertEqual(3.0, erpc:call(Next, rpc, call, [N, math, sqrt, [9]])).

never_there() ->
    true = erlang:monitor_node('nobody@127.0.0.1', true),
    ?assertEqual(down, live:expect(5000, fun({nodedown, 'nobody@127.0.0.1'}) -> {ok, down} end)).

%% Python sends when the door is opened, and that only when the node has seen the connection go, for
%% what is sent on one that is gone is lost. The ping comes 0 to 1.5 ms later, so that all orders of
%% the two handshakes occur.
both_at_once(Node = #{node := N}) ->
    true = register(both_at_once, self()),
    Gate = #{port := Port} = live:gate(),
    [begin
         none = rpc:call(N, meet, send_later, [Port, <<"both_at_once">>, atom_to_binary(node()), I]),
         Door = live:entered(Gate),
         disconnect(Node),
         live:open(Door),
         busy(I rem 16 * 100),
         pong = net_adm:ping(N),
         ?assertEqual(I, live:expect(5000, fun(M) when is_integer(M) -> {ok, M} end))
     end || I <- lists:seq(1, 32)],
    unregister(both_at_once).

%% Returns when the node knows it, too.
disconnect(Node = #{node := N}) ->
    Mark = live:mark(Node),
    true = erlang:disconnect_node(N),
    live:wait_line(Node, "conn " ++ atom_to_list(node()) ++ ": closed", Mark).

busy(Us) ->
    End = erlang:monotonic_time(microsecond) + Us,
    (fun Spin() -> erlang:monotonic_time(microsecond) < End andalso Spin() end)().

%% Each thread finds no connection; had each opened one, the later would close the earlier ones.
crowd(Node = #{node := N}) ->
    true = register(crowd, self()),
    Gate = #{port := Port} = live:gate(),
    [begin
         none = rpc:call(N, meet, crowd_later, [Port, 20, <<"crowd">>, atom_to_binary(node())]),
         Door = live:entered(Gate),
         disconnect(Node),
         live:open(Door),
         ?assertEqual(lists:seq(0, 19), lists:sort([live:expect(5000, fun(M) when is_integer(M) -> {ok, M} end)
                                                    || _ <- lists:seq(1, 20)]))
     end || _ <- lists:seq(1, 10)],
    unregister(crowd).
