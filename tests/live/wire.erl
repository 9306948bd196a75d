%% wire.erl - the distribution protocol by hand: a peer that can say what no BEAM would say.
%%
%% connect/2 shakes hands as a node of protocol version 6; the other functions write frames and
%% read them, tick by tick. Pids and references of the feigned node are made from their bytes.
-module(wire).

-export([raw/1, connect/1, connect/2, hello/2, pid/2, ref/2, ctl/2, ctl/3, bytes/1, frame/1, send/2,
         next/1, next/2, ping/2, pong/2, closed/1, closed/2, call/5, reply/2, any_reply/1]).

%% What OTP 25 holds to be mandatory up to OTP 29, and SPAWN, ALIAS, UNLINK_ID.
-define(FLAGS, (16#4 bor 16#8 bor 16#10 bor 16#20 bor 16#80 bor 16#100 bor 16#200 bor 16#400 bor 16#800
                bor 16#10000 bor 16#20000 bor 16#40000 bor 16#1000000 bor 16#2000000
                bor (1 bsl 32) bor (1 bsl 34) bor (1 bsl 35) bor (1 bsl 36))).
-define(LIMIT, live:ms(10000)).

%% A bare TCP connection to the node's listener.
raw(#{port := Port}) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}, {nodelay, true}], ?LIMIT),
    Socket.

connect(Node) ->
    connect(Node, #{}).

%% Shakes hands with a node; {ok, Peer}, a map with the socket, or {error, Where}.
connect(Node, Opts) ->
    Name = maps:get(name, Opts, live:unique("feigned") ++ "@127.0.0.1"),
    Peer = #{socket => raw(Node), name => Name, node => maps:get(node, Node),
             creation => erlang:unique_integer([positive]) band 16#ffffff},
    hello(Peer, Opts).

hello(Peer = #{socket := Socket, name := Name, creation := Creation}, Opts) ->
    Flags = maps:get(flags, Opts, ?FLAGS),
    Bin = list_to_binary(Name),
    ok = short(Socket, <<$N, Flags:64, Creation:32, (byte_size(Bin)):16, Bin/binary>>),
    case short(Socket) of
        {ok, <<"sok">>} -> challenge(Peer, maps:get(cookie, Opts, live:cookie()));
        {ok, <<"s", Status/binary>>} -> {error, {status, Status}};
        Other -> {error, {status, Other}}
    end.

challenge(Peer = #{socket := Socket}, Cookie) ->
    {ok, <<$N, Flags:64, Theirs:32, Creation:32, Len:16, Name:Len/binary>>} = short(Socket),
    ok = short(Socket, <<$r, 4711:32, (digest(Cookie, Theirs))/binary>>),
    Want = digest(Cookie, 4711),
    case short(Socket) of
        {ok, <<$a, Want:16/binary>>} ->
            {ok, Peer#{flags => Flags, their_creation => Creation, their_name => Name}};
        Other -> {error, {digest, Other}}
    end.

digest(Cookie, Challenge) ->
    erlang:md5(Cookie ++ integer_to_list(Challenge)).

%% Handshake messages have a length of two bytes.
short(Socket, Data) ->
    gen_tcp:send(Socket, <<(byte_size(Data)):16, Data/binary>>).

short(Socket) ->
    case gen_tcp:recv(Socket, 2, ?LIMIT) of
        {ok, <<Len:16>>} -> gen_tcp:recv(Socket, Len, ?LIMIT);
        Error -> Error
    end.

%% Pid and reference number N of the feigned node, as terms of this VM.
pid(#{name := Name, creation := Creation}, N) ->
    binary_to_term(<<131, 88, (atom(Name))/binary, N:32, 0:32, Creation:32>>).

ref(#{name := Name, creation := Creation}, N) ->
    binary_to_term(<<131, 90, 3:16, (atom(Name))/binary, Creation:32, N:32, 1:32, 2:32>>).

atom(Name) ->
    <<119, (length(Name)), (list_to_binary(Name))/binary>>.

%% Frames around a control message, without and with a payload.
ctl(Peer, Control) ->
    send(Peer, frame([112, bytes(Control)])).

ctl(Peer, Control, Payload) ->
    send(Peer, frame([112, bytes(Control), bytes(Payload)])).

%% As nodes write it: with atoms in UTF-8, which OTP 25 leaves out by default.
bytes(Term) ->
    term_to_binary(Term, [{minor_version, 2}]).

frame(Data) ->
    [<<(iolist_size(Data)):32>>, Data].

send(#{socket := Socket}, Data) ->
    gen_tcp:send(Socket, Data).

%% The next frame that is no tick: {Control}, {Control, Payload} or closed.
next(Peer) ->
    next(Peer, 10000).

next(Peer = #{socket := Socket}, Limit) ->
    case gen_tcp:recv(Socket, 4, live:ms(Limit)) of
        {ok, <<0:32>>} -> next(Peer, Limit);
        {ok, <<Len:32>>} ->
            {ok, <<112, Rest/binary>>} = gen_tcp:recv(Socket, Len, live:ms(Limit)),
            terms(Rest);
        {error, closed} -> closed;
        {error, econnreset} -> closed;
        {error, timeout} -> timeout
    end.

terms(Bin) ->
    {Control, Used} = binary_to_term(Bin, [used]),
    case Bin of
        <<_:Used/binary>> -> {Control};
        <<_:Used/binary, Payload/binary>> -> {Control, binary_to_term(Payload)}
    end.

%% net_adm:ping/1 as it looks on the wire, number N; pong/2 takes its answer.
ping(Peer = #{name := Name}, N) ->
    Pid = pid(Peer, N),
    ctl(Peer, {6, Pid, '', net_kernel}, {'$gen_call', {Pid, ref(Peer, N)}, {is_auth, list_to_atom(Name)}}).

pong(Peer, N) ->
    Pid = pid(Peer, N),
    Ref = ref(Peer, N),
    case next(Peer) of
        {{2, _, Pid}, {Ref, yes}} -> pong;
        {{22, _, Pid}, {Ref, yes}} -> pong;
        {{12, _, Pid, _}, {Ref, yes}} -> pong;
        Other -> Other
    end.

%% The request of erpc:call/4, number N; reply/2 takes its answer: {return, V}, {error, R, Stack} ...
call(Peer, N, M, F, A) ->
    Pid = pid(Peer, 1),
    ctl(Peer, {29, ref(Peer, N), Pid, Pid, {erpc, execute_call, 4}, [monitor]}, [ref(Peer, 1000000 + N), M, F, A]).

reply(Peer, N) ->
    Pid = pid(Peer, 1),
    Id = ref(Peer, N),
    Res = ref(Peer, 1000000 + N),
    case next(Peer) of
        {{31, Id, Pid, _, _}} -> reply(Peer, N);
        {{21, _, Pid, Id, Reason}} -> result(Res, Reason);
        {{28, _, Pid, Id}, Reason} -> result(Res, Reason);
        Other -> {unexpected, Other}
    end.

%% The next answer to any of the calls: {N, Answer}.
any_reply(Peer) ->
    case next(Peer) of
        {{31, _, _, _, _}} -> any_reply(Peer);
        {{21, _, _, Id, Reason}} -> numbered(Peer, Id, Reason);
        {{28, _, _, Id}, Reason} -> numbered(Peer, Id, Reason);
        Other -> {unexpected, Other}
    end.

numbered(Peer, Id, Reason) ->
    <<N:32, 1:32, 2:32>> = binary:part(term_to_binary(Id), {byte_size(term_to_binary(Id)), -12}),
    {N, result(ref(Peer, 1000000 + N), Reason)}.

result(Res, Reason) when element(1, Reason) =:= Res -> erlang:delete_element(1, Reason);
result(_, Reason) -> {down, Reason}.

%% Waits until the node closes the connection; what came before is thrown away.
closed(Peer) ->
    closed(Peer, 10000).

closed(Peer = #{socket := Socket}, Limit) ->
    case gen_tcp:recv(Socket, 0, live:ms(Limit)) of
        {ok, _} -> closed(Peer, Limit);
        {error, timeout} -> false;
        {error, _} -> true
    end.
