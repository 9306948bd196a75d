%% @private
%% py_node - stands for one connected Python node: callers monitor it, and it combines their calls.
%%
%% It lives as long as the connection. What it knew of its requests at its end is in py_table, and callers ask for it
%% by progress/2. Messages to it:
%%
%%      {call, Ref, M, F, Args, Opts}    from callers: goes to the node as it is, with others
%%      {cast, M, F, Args, Opts}         the same
%%      {begin_call, Owner, Call}        Call as above; its row is in py_table, where its answer goes from
%%      {expect, Owner}                  one that its owner has sent to the node itself; or who will send this:
%%      {begin_calls, Owner, [Call]}
%%      {cancel, Ref, {M, F}}            the caller no longer waits
%%      {cancel_call, Ref}               of those that have a row: it ends in {error, cancelled}
%%      {call_timeout, Ref}              the same, in {error, timeout}
%%      {drop_call, Row}                 whoever sends this has taken the row: the call is cancelled
%%      {drop_queue, Name}, {credit, Ref, N}   go to the node as they are
%%      {sent, Sender}                   of its own: the connection takes messages again
%%      {watch, Pid, Ref, Slot, {M, F}}  Pid has waited for long: it is monitored from here on
%%      {unwatch, Ref}
%%      {info, Ref}                      what it knows, to that alias
%%      sweep                            of its own: owners have died
%%
%%      {{py_done, Id}, _, process, _, Outcome}   a function that Python has called has ended
%%
%% and of py_home, which has what the node sends (docs/protocol.md, "The application pynode"),
%%
%%      {home, Items, Ended}             a list has come; Items are {started, Ref}, {ended, Ref}, {log, ...},
%%                                       {load, Map}, {py_call, ...}, {py_drop, ...}, leaving
%%      {ended, [{Owner, Count}]}        so many of the owner's calls have been answered
-module(py_node).

-export([start_link/2, init/3]).
-export([detach/1, progress/2, info/1]).

-export_type([options/0]).

-type options() :: #{kill => fun(() -> term()), kill_after => timeout()}.

-define(BATCH, 256).           % requests in one message; a large one counts for more,
-define(SMALL, 4096).          % one for each so many bytes of its arguments
-define(AHEAD, 2).             % batches on their way, one that the node runs and one that it finds next
-define(PATIENCE, 1).          % ms that requests wait for others while a batch is on its way
-define(HEAP, 20000).          % words: so much garbage is made in no time
-define(ATTACH_LIMIT, 10000).
-define(STUCK, 5000).          % after which a cancelled call that has not ended is logged
-define(TURN, 5000).           % of the two counters
-define(SENT_AHEAD, 4).        % calls of a pool beyond those that can run, at least; at most,
-define(AHEAD_MAX, 256).
-define(AHEAD_TIME, 5000).     % as many as it does in so many us

-record(s, {node :: node(),
            to :: py_table:address(),
            options :: options(),
            counter :: py_counter:counter(),
            slots = 1 :: pos_integer(),      % how many calls it can run at once
            timed = {0, 0} :: {non_neg_integer(), non_neg_integer()}, % calls that it had run in a row, and their time
            ended = {0, none} :: {non_neg_integer(), integer() | none}, % calls that it had run, and since when it says
                                             % that while others run: ms
            mean = 0 :: non_neg_integer(),   % microseconds that a call takes; 0: not known
            home :: pid(),
            asked = 0 :: non_neg_integer(),  % batches on their way, less messages that have come back
            started = #{} :: #{reference() => true},
            watched = #{} :: #{reference() => watched()},
            watchers = #{} :: #{reference() => reference()}, % monitor => what is watched
            dead = #{} :: #{pid() => true},    % owners whose calls are still to be cancelled
            pause = 0 :: non_neg_integer(),    % ms until that is done, for it walks through all calls
            cancelled = #{} :: #{reference() => {mf(), [reference()]}},
            functions = #{} :: #{integer() => pid()},   % that Python has called and waits for
            urgent = false :: boolean(),                % somebody in Python waits for what is gathered
            strangers = #{} :: #{reference() => true},  % started before the last turn, and nobody's
            leaving = false :: boolean(),   % what the node has not answered by now has not begun, nor will it
            sender = none :: pid() | none,  % waits until the connection takes its message
            unsent = [] :: [term()]}).      % messages behind that one, newest first

-type mf() :: {atom() | binary(), atom() | binary()}.
-type watched() :: {Monitor :: reference(), py_counter:slot(), mf()}.

%%% ------------------------------------------------------------------ start and end

-spec start_link(node(), options()) -> {ok, pid()}.
start_link(Node, Options) ->
    {ok, proc_lib:spawn_opt(?MODULE, init, [self(), Node, Options],
                            [link, {message_queue_data, off_heap}, {min_heap_size, ?HEAP}])}.

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
    Name = {pynode, Node},
    Monitor = erlang:monitor(process, Name), % its end is the connection's
    put(monitor, Monitor),
    Counter = new_counter(Node),
    {Home, HomeMonitor} = py_home:start(Node),
    put(home, HomeMonitor),
    Name ! {attach, Home},
    receive
        {py_attached, Info} ->
            Slots = maps:get(min_workers, Info, 1),
            py_counter:report(Counter, 0, Slots, Slots + ?SENT_AHEAD, 0),
            To = maps:get(pid, Info, Name), % what is sent there late reaches no later node of this name
            py_coordinator:attached({Node, self(), Counter, To}, Info),
            py_telemetry:node(up, Node),
            erlang:send_after(?TURN, self(), turn),
            loop(#s{node = Node, to = To, options = Options, counter = Counter, home = Home,
                    slots = Slots});
        {'DOWN', Monitor, process, _, noconnection} ->
            exit({shutdown, {not_reachable, Node}});
        {'DOWN', _, process, _, _} ->
            exit({shutdown, {not_a_python_node, Node}});
        {'EXIT', Parent, Reason} ->
            exit(Reason);
        detach ->
            exit({shutdown, detached})
    after ?ATTACH_LIMIT ->
            exit({shutdown, {not_a_python_node, Node}})
    end.

new_counter(Node) ->
    case py_counter:new() of
        full -> exit({shutdown, {too_many_nodes, Node}});
        Counter -> Counter
    end.

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
take({home, Items, Ended}, Batch, N, S = #s{asked = Asked}) ->
    all_ended(Ended),
    drain(Batch, N, hear(Items, S#s{asked = max(0, Asked - 1)}));
take(Cast, Batch, N, S) when element(1, Cast) =:= cast ->
    drain([Cast | Batch], N + weight(element(4, Cast), element(5, Cast)), S);
take({begin_call, Owner, Call}, Batch, N, S) ->
    begun(Owner, 1),
    drain([Call | Batch], N + weight(element(5, Call), element(6, Call)), S);
take({expect, Owner}, Batch, N, S) ->
    begun(Owner, 1), % so that it is missed if it dies before
    drain(Batch, N, S);
take({begin_calls, Owner, Calls}, Batch, N, S) ->
    begun(Owner, length(Calls)),
    ended(Owner, 1),
    add_all(Calls, Batch, N, S);
take({cancel, Ref, MF}, Batch, N, S) ->
    cancel(Ref, MF, Batch, N, S);
take({ended, Ended}, Batch, N, S) ->
    all_ended(Ended),
    drain(Batch, N, S);
take({cancel_call, Ref}, Batch, N, S) ->
    cancel_call(Ref, cancelled, Batch, N, S);
take({call_timeout, Ref}, Batch, N, S) ->
    cancel_call(Ref, timeout, Batch, N, S);
take({drop_call, {Ref, _, Owner, _, M, F, _}}, Batch, N, S) ->
    ended(Owner, 1),
    cancel(Ref, {M, F}, Batch, N, S);
take({drop_queue, _} = Drop, Batch, _N, S) ->
    loop(flush([Drop | Batch], S));
take({credit, _, _} = Credit, Batch, N, S) ->
    drain([Credit | Batch], N + 1, S);
take({watch, Pid, Ref, Slot, MF}, Batch, N, S) ->
    drain(Batch, N, watch(Pid, Ref, Slot, MF, S));
take({unwatch, Ref}, Batch, N, S) ->
    drain(Batch, N, unwatch(Ref, S));
take({'DOWN', Monitor, process, Pid, _}, Batch, N, S) ->
    case {get(monitor), get(home)} of
        {Monitor, _} -> finish({shutdown, node_down}, Batch, S);
        {_, Monitor} -> finish(home_down, Batch, S);
        _ -> down(Monitor, Pid, Batch, N, S)
    end;
take(sweep, Batch, _N, S) ->
    sweep(Batch, S);
take({stuck, Ref}, Batch, N, S) ->
    drain(Batch, N, stuck(Ref, S));
take({kill, Ref}, Batch, N, S) ->
    drain(Batch, N, kill(Ref, S));
take({sent, Sender}, Batch, N, S = #s{sender = Sender, unsent = Unsent}) ->
    drain(Batch, N, lists:foldl(fun send/2, S#s{sender = none, unsent = []}, lists:reverse(Unsent)));
take(turn, Batch, N, S = #s{counter = Counter, watched = Watched}) ->
    py_counter:turn(Counter, [Slot || {_, Slot, _} <- maps:values(Watched)]),
    erlang:send_after(?TURN, self(), turn),
    forget_owners(),
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
take({info, Ref}, Batch, _N, S0) ->
    S = flush(Batch, S0), % what was asked for before has been done
    Ref ! {Ref, #{started => maps:keys(S#s.started), calls => py_table:calls_of(self()),
                  watched => maps:keys(S#s.watched), cancelled => maps:keys(S#s.cancelled)}},
    loop(S);
take(detach, Batch, _N, S) ->
    leave({shutdown, detached}, Batch, S);
take(_Late, Batch, N, S) -> % a second py_attached, an answer of a library that timed out
    drain(Batch, N, S).

%% Several calls that have come in one message, cut into batches like others.
add_all(Calls, Batch, N, S) when N >= ?BATCH ->
    add_all(Calls, [], 0, flush(Batch, S));
add_all([Call | Calls], Batch, N, S) ->
    add_all(Calls, [Call | Batch], N + weight(element(5, Call), element(6, Call)), S);
add_all([], Batch, N, S) ->
    drain(Batch, N, S).

%% One message to the node. A single call needs no list: its answer then goes straight to its alias. A
%% call that has a row has none: py_home answers it.
flush([], S) ->
    S;
flush([{call, Ref, _, _, _, _} = Call] = Batch, S) ->
    case py_table:is_call(Ref) of
        true -> flush_list(Batch, S);
        false -> send(Call, S)
    end;
flush(Batch, S) ->
    flush_list(Batch, S).

flush_list(Batch, S = #s{asked = Asked}) ->
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
weight(Args, Options) when map_size(Options) =:= 0; map_size(Options) =:= 1, is_map_key(loop, Options) ->
    1 + bytes(Args, 0) div ?SMALL;
weight(Args, Options) ->
    1 + bytes(Args, erlang:external_size(Options)) div ?SMALL.

%% About how long they are in a message; what is not obvious is asked for.
bytes([Arg | Args], N) when is_binary(Arg) -> bytes(Args, N + byte_size(Arg));
bytes([Arg | Args], N) when is_integer(Arg), abs(Arg) < 1 bsl 32; is_float(Arg); is_atom(Arg) -> bytes(Args, N + 9);
bytes([Arg | Args], N) -> bytes(Args, N + erlang:external_size(Arg));
bytes(_, N) -> N.

%% What the node tells of itself.
hear([{started, Ref} | Items], S = #s{started = Started}) ->
    hear(Items, S#s{started = Started#{Ref => true}});
hear([{ended, Ref} | Items], S = #s{started = Started}) ->
    hear(Items, untrack(Ref, S#s{started = maps:remove(Ref, Started)}));
hear([{py_call, Id, Name, Args} | Items], S = #s{functions = Functions}) ->
    Pid = py_handler:start_call({py_done, Id}, Name, Args),
    hear(Items, S#s{functions = Functions#{Id => Pid}});
hear([{py_drop, Id} | Items], S = #s{functions = Functions}) ->
    case maps:take(Id, Functions) of
        {Pid, Left} -> exit(Pid, kill), hear(Items, S#s{functions = Left});
        error -> hear(Items, S)
    end;
hear([{load, Load} | Items], S) when is_map(Load) ->
    hear(Items, loaded(Load, S));
hear([Log | Items], S) when element(1, Log) =:= log ->
    py_log:log(S#s.node, Log),
    hear(Items, S);
hear([leaving | Items], S = #s{home = Home}) ->
    hear(Items, send({detach, Home}, S#s{leaving = true}));
hear([_Unknown | Items], S) -> % of a newer node
    hear(Items, S);
hear([], S) ->
    S.

%% How many calls of pools are sent there from now on. Blocked ones leave room for others; of short ones many are sent
%% ahead, so that they come in batches. Once none of those that run has ended between two reports they are short no more.
loaded(Load, S = #s{node = Node, counter = Counter, slots = Slots, timed = {Count, Took}, ended = {Before, Since}}) ->
    #{others := Others, running := Running, queued := Queued, blocked := Blocked, calls := Calls,
      timed := Timed, timed_us := Us} =
        maps:merge(#{others => 0, running => 0, queued => 0, blocked => 0, calls => 0, timed => 0, timed_us => 0}, Load),
    Now = erlang:monotonic_time(millisecond),
    Ended = if
                Running =:= 0 -> {Calls, none};
                Calls =:= Before, is_integer(Since) -> {Calls, Since};
                true -> {Calls, Now}
            end,
    Mean = case Ended of
               _ when Timed > Count, Us >= Took -> max(1, (Us - Took) div (Timed - Count));
               {_, none} -> S#s.mean;
               {_, From} -> max(S#s.mean, 1000 * (Now - From))
           end,
    py_counter:report(Counter, Others, Slots, Slots + Blocked + ahead(Slots, Mean), stay(Mean, Running + Queued, Slots)),
    py_table:set_load(Node, Load),
    py_telemetry:load(Node, Load),
    S#s{timed = {Timed, Us}, ended = Ended, mean = Mean}.

ahead(_, 0) -> ?SENT_AHEAD;
ahead(Slots, Mean) -> max(?SENT_AHEAD, min(?AHEAD_MAX, Slots * ?AHEAD_TIME div Mean)).

%% With the time that it waits for a slot.
stay(Mean, Calls, Slots) -> Mean * max(Slots, Calls) div Slots.

%%% ------------------------------------------------------------------ calls that have a row

%% Owners are monitored once, and counted in the process dictionary, which makes little garbage:
%% Owner => {Monitor, how many of its calls have no answer}.
begun(Owner, Count) ->
    case get(Owner) of
        {Monitor, Before} -> put(Owner, {Monitor, Before + Count});
        undefined -> put(Owner, {watch_owner(Owner), Count})
    end.

watch_owner(none) -> none;
watch_owner(Owner) -> erlang:monitor(process, Owner).

all_ended(Ended) ->
    [ended(Owner, Count) || {Owner, Count} <- Ended, Count > 0].

ended(Owner, Count) ->
    begun(Owner, -Count). % it may come before what it ends

%% Those who have not begun anything lately are not monitored any more.
forget_owners() ->
    [begin erlang:demonitor(Monitor, [flush]), erase(Owner) end || {Owner, {Monitor, 0}} <- get(), is_pid(Owner)].

%% The node is told to stop. If its answer comes first all the same, that is the outcome.
cancel_call(Ref, Why, Batch, N, S = #s{home = Home, cancelled = Cancelled}) ->
    case py_table:call(Ref) of
        {_, _, _, _, M, F, _} when not is_map_key(Ref, Cancelled) ->
            Home ! {answer, Ref, {error, Why}},
            cancel(Ref, {M, F}, Batch, N, S);
        _ ->
            drain(Batch, N, S)
    end.

owner_down(Owner, S = #s{dead = Dead}) ->
    case erase(Owner) of
        {_, Count} when Count > 0 ->
            map_size(Dead) =:= 0 andalso erlang:send_after(S#s.pause, self(), sweep),
            S#s{dead = Dead#{Owner => true}};
        _ ->
            S
    end.

%% The calls of all that have died meanwhile. The next time waits ten times as long as this one took.
sweep(Batch, S = #s{dead = Dead}) ->
    Begin = erlang:monotonic_time(),
    Rows = [Row || Ref <- py_table:calls_of(self(), Dead), Row <- [py_table:take_call(Ref)], Row =/= none],
    Cancelled = [{cancel, element(1, Row)} || Row <- Rows],
    Track = fun({Ref, _, _, _, M, F, _}, Acc) -> track(Ref, {M, F}, Acc) end,
    Tracked = lists:foldl(Track, S, Rows),
    Took = erlang:convert_time_unit(erlang:monotonic_time() - Begin, native, microsecond),
    loop(flush(Cancelled ++ Batch, Tracked#s{dead = #{}, pause = min(1000, Took div 100)})).

%%% ------------------------------------------------------------------ callers that wait for long

watch(Pid, Ref, Slot, MF, S = #s{watched = Watched, watchers = Watchers}) ->
    Monitor = erlang:monitor(process, Pid),
    S#s{watched = Watched#{Ref => {Monitor, Slot, MF}}, watchers = Watchers#{Monitor => Ref}}.

unwatch(Ref, S = #s{watched = Watched, watchers = Watchers}) ->
    case Watched of
        #{Ref := {Monitor, _, _}} ->
            erlang:demonitor(Monitor, [flush]),
            S#s{watched = maps:remove(Ref, Watched), watchers = maps:remove(Monitor, Watchers)};
        _ ->
            S
    end.

%% Nobody waits any more: the call is cancelled, and counted off if it was counted.
down(Monitor, Pid, Batch, N, S = #s{watchers = Watchers, watched = Watched}) ->
    case Watchers of
        #{Monitor := Ref} ->
            #{Ref := {_, Slot, MF}} = Watched,
            py_counter:leave(py_counter:array(), Slot),
            cancel(Ref, MF, Batch, N, unwatch(Ref, S));
        _ ->
            drain(Batch, N, owner_down(Pid, S))
    end.

%% A caller that dies before it has made itself known leaves a call that is nobody's: at the second turn that
%% finds it running it is cancelled. Should somebody wait for it all the same, that is the answer. The same with
%% one that has a row, and whose owner has sent it and nothing more.
orphans(Batch, N, S = #s{started = Started, strangers = Before}) ->
    IsNobodys = fun(Ref, _) ->
                        not is_map_key(Ref, S#s.watched) andalso not is_map_key(Ref, S#s.cancelled)
                            andalso not has_owner(py_table:call(Ref))
                end,
    Strangers = maps:filter(IsNobodys, Started),
    case maps:keys(maps:with(maps:keys(Before), Strangers)) of
        [] ->
            drain(Batch, N, S#s{strangers = Strangers});
        Orphans ->
            [Ref ! {py_response, Ref, {error, cancelled}} || Ref <- Orphans, py_table:take_call(Ref) =:= none],
            Tracked = lists:foldl(fun(Ref, Acc) -> track(Ref, {'_', '_'}, Acc) end, S, Orphans),
            loop(flush([{cancel, Ref} || Ref <- Orphans] ++ Batch, Tracked#s{strangers = Strangers}))
    end.

has_owner(none) -> false;
has_owner({_, _, none, _, _, _, _}) -> true;
has_owner({_, _, Owner, _, _, _, _}) -> is_process_alive(Owner).

%%% ------------------------------------------------------------------ cancelled, not ended yet

%% The node is told after what is gathered: the request may be among that.
cancel(Ref, MF, Batch, N, S) ->
    drain([{cancel, Ref} | Batch], N + 1, track(Ref, MF, S)).

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

%% What is known of a request that its process has not answered, and has ended.
-spec progress(reference(), pid()) -> not_started | started | unknown.
progress(Ref, Pid) ->
    case py_table:gone(Pid) of
        {#{Ref := true}, _} -> started;
        {_, true} -> not_started;
        {_, false} -> unknown
    end.

%% What came in time goes out before.
-spec leave(term(), [tuple()], #s{}) -> no_return().
leave(Reason, Batch, S) ->
    finish(Reason, [], flush(Batch, S)).

%% Requests that have never left end as not started. All others that have a row are answered by py_home, before
%% this process ends: then the table may go.
-spec finish(term(), [tuple()], #s{}) -> no_return().
finish(Reason, Batch, S0 = #s{home = Home, unsent = Unsent}) ->
    py_table:set_load(S0#s.node, none),
    py_telemetry:node(down, S0#s.node),
    [never_sent(Request, S0) || Request <- lists:flatten(lists:reverse(Unsent)) ++ lists:reverse(Batch)],
    S = finish_mailbox(S0),
    [exit(Pid, kill) || Pid <- maps:values(S#s.functions)], % nobody waits for them any more
    py_table:set_gone(self(), S#s.started, Reason =:= {shutdown, node_down} andalso S#s.leaving),
    Home ! close,
    Monitor = get(home),
    receive
        {closed, Home} -> exit(Reason);
        {'DOWN', Monitor, process, _, _} -> exit(Reason)
    end.

%% What is there now: others go on sending until they see that this process has ended.
finish_mailbox(S) ->
    {message_queue_len, Length} = process_info(self(), message_queue_len),
    finish_mailbox(Length, S).

finish_mailbox(0, S) ->
    S;
finish_mailbox(Left, S) ->
    receive
        {begin_call, _, Call} ->
            never_sent(Call, S),
            finish_mailbox(Left - 1, S);
        {begin_calls, _, Calls} ->
            [never_sent(Call, S) || Call <- Calls],
            finish_mailbox(Left - 1, S);
        {home, Items, _} ->
            finish_mailbox(Left - 1, hear(Items, S));
        Other ->
            never_sent(Other, S),
            finish_mailbox(Left - 1, S)
    end.

never_sent({call, Ref, _, _, _, _}, #s{node = Node, home = Home}) ->
    Home ! {answer, Ref, {error, {node_down, Node, not_started}}};
never_sent(_, _) ->
    ok.
