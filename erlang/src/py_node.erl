%% @private
%% py_node - stands for one connected Python node: callers monitor it, and it combines their calls.
%%
%% It lives as long as the connection; its exit reason is what its callers learn:
%% {node_down, Node, Started}, with the requests that had been reported as started. Messages to it:
%%
%%      {call, Ref, M, F, Args, Opts}    from callers: goes to the node as it is, with others
%%      {cast, M, F, Args, Opts}         the same
%%      {spawn_call, Owner, Timeout, Call}   Call as above; the answer goes to its Ref in any case
%%      {cancel, Ref, {M, F}}            the caller no longer waits
%%      {cancel_call, Ref}               for whoever has this spawn_call: it ends in {error, cancelled}
%%      {drop_queue, Name}
%%      {sent, Sender}                   of its own: the connection takes messages again
%%      {watch, Pid, Ref, Slot, {M, F}}  Pid has waited for long: it is monitored from here on
%%      {unwatch, Ref}
%%      {info, Ref}                      what it knows, to that alias
%%
%%      {{py_done, Id}, _, process, _, Outcome}   a function that Python has called has ended
%%
%% and from the node lists of {Ref, Result}, {started, Ref}, {ended, Ref}, {log, ...}, {py_call, ...}, {py_drop, ...}
%% (docs/protocol.md, "The application pynode").
-module(py_node).

-export([start_link/2, init/3]).
-export([detach/1, progress/3, info/1]).

-export_type([options/0]).

-type options() :: #{kill => fun(() -> term()), kill_after => timeout()}.

-define(BATCH, 256).           % requests in one message; a large one counts for more,
-define(SMALL, 4096).          % one for each so many bytes of its arguments
-define(AHEAD, 2).             % batches on their way, one that the node runs and one that it finds next
-define(PATIENCE, 1).          % ms that requests wait for others while a batch is on its way
-define(ATTACH_LIMIT, 10000).
-define(STUCK, 5000).          % after which a cancelled call that has not ended is logged
-define(TURN, 5000).           % of the two counters

-record(s, {node :: node(),
            to :: {pynode, node()},
            options :: options(),
            counter :: py_counter:counter(),
            asked = 0 :: non_neg_integer(),  % batches on their way, less messages that have come back
            started = #{} :: #{reference() => true},
            calls = #{} :: #{reference() => call()},        % of spawn_call
            watched = #{} :: #{reference() => watched()},
            owners = #{} :: #{reference() => reference()},  % monitor => call, of both
            cancelled = #{} :: #{reference() => {mf(), [reference()]}},
            functions = #{} :: #{integer() => pid()},   % that Python has called and waits for
            urgent = false :: boolean(),                % somebody in Python waits for what is gathered
            strangers = #{} :: #{reference() => true},  % started before the last turn, and nobody's
            sender = none :: pid() | none,  % waits until the connection takes its message
            unsent = [] :: [term()]}).      % messages behind that one, newest first

-type mf() :: {atom() | binary(), atom() | binary()}.
-type call() :: {Monitor :: reference(), Timer :: reference() | none, mf()}.
-type watched() :: {Monitor :: reference(), py_counter:slot(), mf()}.

%%% ------------------------------------------------------------------ start and end

-spec start_link(node(), options()) -> {ok, pid()}.
start_link(Node, Options) ->
    {ok, proc_lib:spawn_opt(?MODULE, init, [self(), Node, Options],
                            [link, {message_queue_data, off_heap}])}.

%% Leaves the node alone; calls under way end as if it had gone.
-spec detach(pid()) -> ok.
detach(Pid) ->
    Pid ! detach,
    ok.

%% What it knows at present: requests started, begun by spawn_call, waited for long, being cancelled.
-spec info(pid()) -> #{started | calls | watched | cancelled => [reference()]}.
info(Pid) ->
    Ref = erlang:monitor(process, Pid, [{alias, reply_demonitor}]),
    Pid ! {info, Ref},
    receive
        {Ref, Info} -> Info;
        {'DOWN', Ref, process, _, _} -> #{}
    end.

%% Attaches the node and tells the coordinator; ends at once if it cannot.
-spec init(pid(), node(), options()) -> no_return().
init(Parent, Node, Options) ->
    process_flag(trap_exit, true),
    put(parent, Parent),
    To = {pynode, Node},
    Monitor = erlang:monitor(process, To), % its end is the connection's
    put(monitor, Monitor),
    Counter = py_counter:new(),
    To ! {attach, self()},
    receive
        {py_attached, Info} ->
            py_coordinator:attached(self(), Node, Info, Counter),
            erlang:send_after(?TURN, self(), turn),
            loop(#s{node = Node, to = To, options = Options, counter = Counter});
        {'DOWN', Monitor, process, _, noconnection} ->
            exit({shutdown, {not_reachable, Node}});
        {'DOWN', Monitor, process, _, _} ->
            exit({shutdown, {not_a_python_node, Node}});
        {'EXIT', Parent, Reason} ->
            give_up(To, Reason);
        detach ->
            give_up(To, {shutdown, detached})
    after ?ATTACH_LIMIT ->
            give_up(To, {shutdown, {not_a_python_node, Node}})
    end.

%% The node may have this process for its home already, and would not look for another one.
-spec give_up({pynode, node()}, term()) -> no_return().
give_up(To, Reason) ->
    erlang:send(To, {detach, self()}, [noconnect, nosuspend]),
    exit(Reason).

%%% ------------------------------------------------------------------ the loop

loop(S) ->
    receive
        Message -> take(Message, [], 0, S)
    end.

%% All that is in the mailbox, up to a batch: requests are gathered, newest first. As long as nothing
%% has come back of the last batch, the node has work, and more are waited for.
drain(Batch, N, S) when N >= ?BATCH ->
    loop(flush(Batch, S));
drain([], _, S) ->
    loop(S);
drain(Batch, N, S = #s{asked = Asked}) ->
    receive
        Message -> take(Message, Batch, N, S)
    after if Asked >= ?AHEAD, not S#s.urgent -> ?PATIENCE; true -> 0 end ->
            loop(flush(Batch, S))
    end.

take(Call, Batch, N, S) when element(1, Call) =:= call ->
    drain([Call | Batch], N + weight(element(5, Call), element(6, Call)), S);
take(Items, Batch, N, S = #s{asked = Asked}) when is_list(Items) ->
    drain(Batch, N, spread(Items, S#s{asked = max(0, Asked - 1)}));
take(Cast, Batch, N, S) when element(1, Cast) =:= cast ->
    drain([Cast | Batch], N + weight(element(4, Cast), element(5, Cast)), S);
take({spawn_call, Owner, Timeout, Call}, Batch, N, S) ->
    drain([Call | Batch], N + weight(element(5, Call), element(6, Call)), begin_call(Owner, Timeout, Call, S));
take({cancel, Ref, MF}, Batch, _N, S) ->
    cancel(Ref, MF, Batch, S);
take({cancel_call, Ref}, Batch, N, S) ->
    cancel_call(Ref, cancelled, Batch, N, S);
take({call_timeout, Ref}, Batch, N, S) ->
    cancel_call(Ref, timeout, Batch, N, S);
take({drop_queue, _} = Drop, Batch, _N, S) ->
    loop(flush([Drop | Batch], S));
take({watch, Pid, Ref, Slot, MF}, Batch, N, S) ->
    drain(Batch, N, watch(Pid, Ref, Slot, MF, S));
take({unwatch, Ref}, Batch, N, S) ->
    drain(Batch, N, unwatch(Ref, S));
take({'DOWN', Monitor, process, _, _}, Batch, N, S) ->
    case get(monitor) of
        Monitor -> finish({node_down, S#s.node, S#s.started}, Batch, S);
        _ -> owner_down(Monitor, Batch, N, S)
    end;
take({stuck, Ref}, Batch, N, S) ->
    drain(Batch, N, stuck(Ref, S));
take({kill, Ref}, Batch, N, S) ->
    drain(Batch, N, kill(Ref, S));
take({sent, Sender}, Batch, N, S = #s{sender = Sender, unsent = Unsent}) ->
    drain(Batch, N, lists:foldl(fun send/2, S#s{sender = none, unsent = []}, lists:reverse(Unsent)));
take(turn, Batch, N, S = #s{counter = Counter, watched = Watched}) ->
    py_counter:turn(Counter, [Slot || {_, Slot, _} <- maps:values(Watched)]),
    erlang:send_after(?TURN, self(), turn),
    orphans(Batch, N, S);
take({'EXIT', Parent, Reason}, Batch, N, S) ->
    case get(parent) of
        Parent -> leave(Reason, Batch, S);
        _ -> drain(Batch, N, S)
    end;
take({{py_done, Id}, _, process, _, Reason}, Batch, N, S = #s{functions = Functions}) ->
    case maps:take(Id, Functions) of
        {_, Left} ->
            {Class, Value, Stack} = py_handler:outcome(Reason),
            Reply = {py_reply, Id, Class, Value, Stack},
            drain([Reply | Batch], N + weight([Value], #{}), S#s{functions = Left, urgent = true});
        error ->
            drain(Batch, N, S)
    end;
take({info, Ref}, Batch, N, S) ->
    Ref ! {Ref, #{started => maps:keys(S#s.started), calls => maps:keys(S#s.calls),
                  watched => maps:keys(S#s.watched), cancelled => maps:keys(S#s.cancelled)}},
    drain(Batch, N, S);
take(detach, Batch, _N, S) ->
    leave({shutdown, detached}, Batch, S);
take(_Late, Batch, N, S) -> % a second py_attached, an answer of a library that timed out
    drain(Batch, N, S).

%% One message to the node. A single call needs no list: its answer then goes straight to its alias.
flush([], S) ->
    S;
flush([{call, Ref, _, _, _, _} = Call], S = #s{calls = Calls}) when not is_map_key(Ref, Calls) ->
    send(Call, S);
flush(Batch, S = #s{asked = Asked}) ->
    Sent = send(lists:reverse(Batch), S#s{urgent = false}),
    case lists:any(fun is_answered/1, Batch) of
        true -> Sent#s{asked = min(?AHEAD, Asked + 1)};
        false -> Sent
    end.

is_answered(Request) ->
    element(1, Request) =:= call orelse element(1, Request) =:= cancel.

%% If the connection is busy another process waits for it, and what follows waits behind that: whatever
%% the node does, limits that pass and callers that die are heard of here.
send(Message, S = #s{sender = none, to = To}) ->
    case erlang:send(To, Message, [noconnect, nosuspend]) of
        nosuspend -> S#s{sender = start_sender(To, Message)};
        _ -> S
    end;
send(Message, S = #s{unsent = Unsent}) ->
    S#s{unsent = [Message | Unsent]}.

start_sender(To, Message) ->
    Self = self(),
    spawn(fun() ->
                  erlang:send(To, Message, [noconnect]),
                  Self ! {sent, self()}
          end).

%% A batch must not be longer than what the node reads in one frame, or the connection would end.
weight(Args, Options) when map_size(Options) =:= 0 ->
    1 + bytes(Args, 0) div ?SMALL;
weight(Args, Options) ->
    1 + bytes(Args, erlang:external_size(Options)) div ?SMALL.

%% About how long they are in a message; what is not obvious is asked for.
bytes([Arg | Args], N) when is_binary(Arg) -> bytes(Args, N + byte_size(Arg));
bytes([Arg | Args], N) when is_integer(Arg), abs(Arg) < 1 bsl 32; is_float(Arg); is_atom(Arg) -> bytes(Args, N + 9);
bytes([Arg | Args], N) -> bytes(Args, N + erlang:external_size(Arg));
bytes(_, N) -> N.

%% What comes back: answers to their aliases, and what the node tells of itself.
spread([{Ref, Result} | Items], S = #s{calls = Calls}) when is_reference(Ref) ->
    Ref ! {py_response, Ref, Result},
    case Calls of
        #{Ref := Call} -> spread(Items, end_call(Ref, Call, S));
        _ -> spread(Items, S)
    end;
spread([{started, Ref} | Items], S = #s{started = Started}) ->
    spread(Items, S#s{started = Started#{Ref => true}});
spread([{ended, Ref} | Items], S = #s{started = Started}) ->
    spread(Items, untrack(Ref, S#s{started = maps:remove(Ref, Started)}));
spread([{py_call, Id, Name, Args} | Items], S = #s{functions = Functions}) ->
    Pid = py_handler:start_call({py_done, Id}, Name, Args),
    spread(Items, S#s{functions = Functions#{Id => Pid}});
spread([{py_drop, Id} | Items], S = #s{functions = Functions}) ->
    case maps:take(Id, Functions) of
        {Pid, Left} -> exit(Pid, kill), spread(Items, S#s{functions = Left});
        error -> spread(Items, S)
    end;
spread([Log | Items], S) when element(1, Log) =:= log ->
    py_log:log(S#s.node, Log),
    spread(Items, S);
spread([_Unknown | Items], S) -> % of a newer node
    spread(Items, S);
spread([], S) ->
    S.

%%% ------------------------------------------------------------------ spawn_call

begin_call(Owner, Timeout, {call, Ref, M, F, _, _}, S = #s{calls = Calls, owners = Owners}) ->
    Monitor = erlang:monitor(process, Owner),
    Timer = case Timeout of
                infinity -> none;
                _ -> erlang:send_after(Timeout, self(), {call_timeout, Ref})
            end,
    S#s{calls = Calls#{Ref => {Monitor, Timer, {M, F}}}, owners = Owners#{Monitor => Ref}}.

end_call(Ref, {Monitor, Timer, _}, S = #s{calls = Calls, owners = Owners}) ->
    erlang:demonitor(Monitor, [flush]),
    Timer =:= none orelse erlang:cancel_timer(Timer),
    py_table:remove_call(Ref),
    S#s{calls = maps:remove(Ref, Calls), owners = maps:remove(Monitor, Owners)}.

%% Answers it here and now; the node is told to stop.
cancel_call(Ref, Why, Batch, N, S = #s{calls = Calls}) ->
    case Calls of
        #{Ref := Call} ->
            Ref ! {py_response, Ref, {error, Why}},
            cancel(Ref, element(3, Call), Batch, end_call(Ref, Call, S));
        _ ->
            drain(Batch, N, S)
    end.

%%% ------------------------------------------------------------------ callers that wait for long

watch(Pid, Ref, Slot, MF, S = #s{watched = Watched, owners = Owners}) ->
    Monitor = erlang:monitor(process, Pid),
    S#s{watched = Watched#{Ref => {Monitor, Slot, MF}}, owners = Owners#{Monitor => Ref}}.

unwatch(Ref, S = #s{watched = Watched, owners = Owners}) ->
    case Watched of
        #{Ref := {Monitor, _, _}} ->
            erlang:demonitor(Monitor, [flush]),
            S#s{watched = maps:remove(Ref, Watched), owners = maps:remove(Monitor, Owners)};
        _ ->
            S
    end.

%% Nobody waits any more: the call is cancelled, and counted off if it was counted.
owner_down(Monitor, Batch, N, S = #s{owners = Owners, watched = Watched, calls = Calls}) ->
    case Owners of
        #{Monitor := Ref} when is_map_key(Ref, Watched) ->
            #{Ref := {_, Slot, MF}} = Watched,
            py_counter:leave(py_counter:array(), Slot),
            cancel(Ref, MF, Batch, unwatch(Ref, S));
        #{Monitor := Ref} when is_map_key(Ref, Calls) ->
            #{Ref := Call} = Calls,
            cancel(Ref, element(3, Call), Batch, end_call(Ref, Call, S));
        _ ->
            drain(Batch, N, S)
    end.

%% A caller that dies before it has made itself known leaves a call that is nobody's: at the second turn that
%% finds it running it is cancelled. Should somebody wait for it all the same, that is the answer.
orphans(Batch, N, S = #s{started = Started, strangers = Before}) ->
    Known = maps:keys(S#s.calls) ++ maps:keys(S#s.watched) ++ maps:keys(S#s.cancelled),
    Strangers = maps:without(Known, Started),
    case maps:keys(maps:with(maps:keys(Before), Strangers)) of
        [] ->
            drain(Batch, N, S#s{strangers = Strangers});
        Orphans ->
            [Ref ! {py_response, Ref, {error, cancelled}} || Ref <- Orphans],
            Tracked = lists:foldl(fun(Ref, Acc) -> track(Ref, {'_', '_'}, Acc) end, S, Orphans),
            loop(flush([{cancel, Ref} || Ref <- Orphans] ++ Batch, Tracked#s{strangers = Strangers}))
    end.

%%% ------------------------------------------------------------------ cancelled, not ended yet

%% The node is told at once, after what is gathered: the request may be among that.
cancel(Ref, MF, Batch, S) ->
    loop(flush([{cancel, Ref} | Batch], track(Ref, MF, S))).

track(Ref, MF, S = #s{cancelled = Cancelled, options = Options}) ->
    Kill = case Options of
               #{kill_after := After} when is_integer(After) -> [erlang:send_after(After, self(), {kill, Ref})];
               _ -> []
           end,
    Stuck = erlang:send_after(?STUCK, self(), {stuck, Ref}),
    S#s{cancelled = Cancelled#{Ref => {MF, [Stuck | Kill]}}}.

untrack(Ref, S = #s{cancelled = Cancelled}) ->
    case Cancelled of
        #{Ref := {_, Timers}} ->
            [erlang:cancel_timer(Timer) || Timer <- Timers],
            S#s{cancelled = maps:remove(Ref, Cancelled)};
        _ ->
            S
    end.

stuck(Ref, S = #s{cancelled = Cancelled, node = Node}) ->
    case Cancelled of
        #{Ref := {{M, F}, _}} ->
            logger:warning("py_node ~s: ~ts:~ts was cancelled ~b s ago and still runs",
                           [Node, M, F, ?STUCK div 1000], #{node => Node});
        _ ->
            ok
    end,
    S.

kill(Ref, S = #s{cancelled = Cancelled, node = Node, options = Options}) ->
    case Cancelled of
        #{Ref := {{M, F}, _}} ->
            logger:error("py_node ~s: ~ts:~ts was cancelled and does not end: the node is killed",
                         [Node, M, F], #{node => Node}),
            #{kill := Kill} = Options,
            Kill(),
            S#s{cancelled = #{}};
        _ ->
            S
    end.

%%% ------------------------------------------------------------------ the end

%% What is known of a request of a node that has gone, by the exit reason of its process.
-spec progress(reference(), pid(), term()) -> started | unknown.
progress(Ref, _, {shutdown, {node_down, _, Started}}) -> reached(Ref, Started);
progress(Ref, Pid, _) -> reached(Ref, py_table:started(Pid)).

reached(Ref, Started) when is_map_key(Ref, Started) -> started;
reached(_, _) -> unknown.

%% What came in time goes out before.
-spec leave(term(), [tuple()], #s{}) -> no_return().
leave(Reason, Batch, S) ->
    finish(Reason, [], send({detach, self()}, flush(Batch, S))).

%% Requests that have never left end as not started. Nobody else answers those of spawn_call when the
%% application stops; the coordinator does when this process is killed.
-spec finish(term(), [tuple()], #s{}) -> no_return().
finish(Reason, Batch, S0 = #s{node = Node, unsent = Unsent, functions = Functions}) ->
    [exit(Pid, kill) || Pid <- maps:values(Functions)], % nobody waits for them any more
    [never_sent(Request, S0) || Request <- lists:flatten(lists:reverse(Unsent)) ++ lists:reverse(Batch)],
    S = finish_mailbox(S0),
    [begin
         Ref ! {py_response, Ref, {error, {node_down, Node, reached(Ref, S#s.started)}}},
         py_table:remove_call(Ref)
     end || Ref <- maps:keys(S#s.calls)],
    map_size(S#s.started) > 0 andalso py_table:set_started(self(), S#s.started),
    exit(case Reason of
             {node_down, _, _} -> {shutdown, Reason};
             _ -> Reason
         end).

finish_mailbox(S) ->
    receive
        Request when element(1, Request) =:= call; element(1, Request) =:= spawn_call ->
            never_sent(Request, S),
            finish_mailbox(S);
        Items when is_list(Items) ->
            finish_mailbox(spread(Items, S))
    after 0 ->
            S
    end.

never_sent({spawn_call, _, _, Call}, S) ->
    never_sent(Call, S);
never_sent({call, Ref, _, _, _, _}, #s{node = Node}) ->
    Ref ! {py_response, Ref, {error, {node_down, Node, not_started}}};
never_sent(_, _) ->
    ok.
