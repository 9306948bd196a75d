%% @private
%% py_stream - one process a stream: takes what Python yields, and gives it to who reads the stream.
%%
%% It is the alias that the node sends to, and the caller that py_node watches. The node sends no more than
%% the window ahead of the credit that it is given back. A stream that is collected gives credit for what has
%% come; one whose reader gets messages gives it for what the reader has taken out of its mailbox. How much that is
%% nobody tells: at least what is more than the mailbox holds. If it holds much else, ours are counted there. A reader
%% that takes them answers the second question about its mailbox when it has taken them all, so a few are asked at once.
-module(py_stream).

-export([collect/4, start/4, cancel/1, cancel/2]).
-export([init/6]).

-export_type([options/0]).

-type options() :: #{window => pos_integer(), executor => boolean() | blocking, _ => _}.
-type name() :: atom() | binary().

-define(WINDOW, 64).          % items that the reader has not taken yet
-define(COLLECT, 4096).       % the same when all are wanted
-define(WINDOW_MAX, 1 bsl 20).
-define(QUICK_LOOKS, 3).       % at the reader's mailbox, without a pause
-define(FIRST_LOOK, 1).       % ms until it is looked at again afterwards; doubled each time
-define(LAST_LOOK, 100).
-define(COUNT_SHARE, 20).     % counting takes at most this part of the time

-record(s, {owner :: pid(),
            ref :: reference(),           % the owner's name for it
            mode :: forward | collect,
            alias :: reference(),         % the node's
            node :: node(),
            to :: py_table:address(),
            py_node :: pid(),
            monitor :: reference(),       % of py_node
            slot :: py_counter:slot(),
            mf :: {name(), name()},
            window :: pos_integer(),
            owed = 0 :: non_neg_integer(),  % items that no credit has been given back for
            look = infinity :: timeout(),   % ms until the mailbox is looked at
            quick = 0 :: non_neg_integer(), % looks without a pause that are left
            counted :: integer(),           % when it may be counted again: monotonic, us
            items = [] :: [[term()]]}).     % that were collected, the latest first

%%% ------------------------------------------------------------------ for its reader

%% All items, in order.
-spec collect(py:name(), py:name(), list(), {py:kwargs(), timeout() | options()}) -> {ok, list()} | {error, py:reason()}.
collect(Module, Function, Args, Options) ->
    case check(Module, Function, Options, ?COLLECT) of
        {ok, M, F, Checked, Wire} -> collect_checked(M, F, Args, Checked, Wire);
        Error -> Error
    end.

collect_checked(M, F, Args, Checked, Wire) ->
    Ref = make_ref(),
    {Pid, Monitor} = spawn_monitor(?MODULE, init, [self(), Ref, collect, {M, F, Args}, Checked, Wire]),
    receive
        {Ref, Result} -> erlang:demonitor(Monitor, [flush]), Result;
        {'DOWN', Monitor, process, Pid, Reason} -> exit(Reason)
    end.

%% Its items come as messages to the calling process.
-spec start(py:name(), py:name(), list(), {py:kwargs(), timeout() | options()}) -> reference().
start(Module, Function, Args, Options) ->
    Ref = make_ref(),
    case check(Module, Function, unlimited(Options), ?WINDOW) of
        {ok, M, F, Checked, Wire} ->
            Pid = spawn(?MODULE, init, [self(), Ref, forward, {M, F, Args}, Checked, Wire]),
            py_table:add_stream(Ref, Pid),
            Pid ! registered;
        Error ->
            self() ! {py_stream, Ref, Error}
    end,
    Ref.

%% Nobody may wait for it, so it has no limit unless one is given.
unlimited({Kwargs, Options}) when is_map(Options) -> {Kwargs, maps:merge(#{timeout => infinity}, Options)};
unlimited(Given) -> Given.

%% No message of the stream is in the mailbox afterwards, nor will one come.
-spec cancel(reference()) -> ok.
cancel(Ref) ->
    case py_table:stream(Ref) of
        {ok, Pid} -> stop(Pid);
        none -> ok
    end,
    flush(Ref).

stop(Pid) ->
    Alias = erlang:monitor(process, Pid, [{alias, reply_demonitor}]),
    Pid ! {cancel, Alias},
    receive
        {Alias, cancelled} -> ok;
        {'DOWN', Alias, process, _, _} -> ok
    end.

flush(Ref) ->
    receive
        {py_stream, Ref, _} -> flush(Ref)
    after 0 -> ok
    end.

%% Its reader gets the outcome.
-spec cancel(pid(), Outcome :: term()) -> ok.
cancel(Pid, Outcome) ->
    Pid ! {give_up, Outcome},
    ok.

%%% ------------------------------------------------------------------ options

check(Module, Function, {Kwargs, Given}, Default) ->
    try own_options(Given, Default) of
        {Options, Window, Loop} ->
            case py_call:check(Module, Function, Kwargs, Options) of
                {ok, M, F, {ok, _, _, Wire, _, _} = Checked} -> {ok, M, F, Checked, wire(Wire, Window, Loop)};
                Error -> Error
            end
    catch
        throw:{bad_option, _} = Bad -> {error, Bad}
    end.

own_options(Given, Default) when is_map(Given) ->
    Window = maps:get(window, Given, Default),
    is_integer(Window) andalso Window > 0 andalso Window =< ?WINDOW_MAX orelse throw({bad_option, window}),
    Options = maps:remove(window, Given),
    case Options of
        #{executor := Is} when is_boolean(Is) -> {maps:remove(executor, Options), Window, not Is};
        _ -> {Options, Window, true}
    end;
own_options(Timeout, Default) ->
    {Timeout, Default, true}.

%% On the event loop, unless a worker is asked for in one way or another.
wire(Wire, Window, true) when not is_map_key(queue, Wire), not is_map_key(thread, Wire), not is_map_key(executor, Wire) ->
    Wire#{stream => Window, loop => true};
wire(Wire, Window, _) ->
    Wire#{stream => Window}.

%%% ------------------------------------------------------------------ the process

-spec init(pid(), reference(), forward | collect, {name(), name(), list()}, py_call:checked(), map()) -> ok.
init(Owner, Ref, Mode, {M, F, Args}, {ok, Key, Where, _, _, Timeout}, Wire = #{stream := Window}) ->
    erlang:monitor(process, Owner),
    Mode =:= collect orelse registered(Owner, Ref),
    case py_call:pick(py_call:nodes(Key), Wire) of
        {Node, Pid, Counter, To} ->
            Timeout =:= infinity orelse erlang:send_after(Timeout, self(), {give_up, {error, timeout}}),
            {Slot, _} = py_call:enter(Counter, Wire),
            S = #s{owner = Owner, ref = Ref, mode = Mode, node = Node, to = To, py_node = Pid, mf = {M, F}, slot = Slot,
                   alias = erlang:alias([explicit_unalias]), monitor = erlang:monitor(process, Pid), window = Window,
                   counted = erlang:monotonic_time(microsecond)},
            Pid ! {watch, self(), S#s.alias, Slot, {M, F}},
            Pid ! {call, S#s.alias, M, F, Args, Wire},
            loop(S);
        none ->
            tell(Mode, Owner, Ref, {error, {node_down, Where, not_started}}),
            py_table:remove_stream(Ref),
            ok
    end.

%% The owner has made it known, by which it can be cancelled.
registered(Owner, Ref) ->
    receive
        registered -> ok;
        {'DOWN', _, process, Owner, _} -> py_table:remove_stream(Ref), exit(normal)
    end.

loop(S = #s{alias = Alias, monitor = Monitor, owner = Owner}) ->
    receive
        {py_items, Alias, Items} -> loop(credit(take(Items, S)));
        {py_response, Alias, {ok, _}} -> finish(outcome(S), S);
        {py_response, Alias, Error} -> finish(Error, S);
        {cancel, From} -> abort(S), leave(S), From ! {From, cancelled}, ok;
        {give_up, Outcome} -> abort(S), finish(Outcome, S);
        {'DOWN', Monitor, process, Pid, _} ->
            finish({error, {node_down, S#s.node, py_node:progress(Alias, Pid)}}, S),
            %% The node itself may live on.
            erlang:send(S#s.to, {cancel, Alias}, [noconnect]),
            ok;
        {'DOWN', _, process, Owner, _} -> abort(S), leave(S)
    after S#s.look ->
            loop(look(S))
    end.

take(Items, S = #s{mode = collect, owed = Owed, items = Before}) ->
    S#s{owed = Owed + length(Items), items = [Items | Before]};
take(Items, S = #s{owner = Owner, ref = Ref, owed = Owed}) ->
    S#s{owed = Owed + send(Items, Owner, Ref, 0)}.

send([Item | Items], Owner, Ref, N) ->
    Owner ! {py_stream, Ref, {data, Item}},
    send(Items, Owner, Ref, N + 1);
send([], _, _, N) ->
    N.

outcome(#s{mode = collect, items = Items}) -> {ok, lists:append(lists:reverse(Items))};
outcome(_) -> done.

finish(Outcome, S = #s{mode = Mode, owner = Owner, ref = Ref}) ->
    py_table:remove_stream(Ref), % first: who has the end finds nothing to cancel
    tell(Mode, Owner, Ref, Outcome),
    S#s.py_node ! {unwatch, S#s.alias},
    leave(S).

tell(collect, Owner, Ref, Outcome) -> Owner ! {Ref, Outcome};
tell(forward, Owner, Ref, Outcome) -> Owner ! {py_stream, Ref, Outcome}.

leave(S) ->
    py_table:remove_stream(S#s.ref),
    py_counter:leave(py_counter:array(), S#s.slot),
    ok.

%% The node closes the generator.
abort(#s{py_node = Pid, alias = Alias, mf = MF}) ->
    erlang:unalias(Alias),
    Pid ! {unwatch, Alias},
    Pid ! {cancel, Alias, MF}.

%%% ------------------------------------------------------------------ credit

credit(S = #s{mode = collect, owed = Owed, window = Window}) when 2 * Owed >= Window ->
    give(Owed, S);
credit(S = #s{mode = collect}) ->
    S;
credit(S) ->
    look(S#s{look = infinity, quick = ?QUICK_LOOKS}).

%% What is not in the mailbox any more has been consumed. Half a window at a time, or all.
look(S = #s{owner = Owner, owed = Owed}) ->
    case process_info(Owner, message_queue_len) of
        {_, Length} when Length < Owed -> consumed(Owed - Length, S);
        {_, _} -> count(S);
        undefined -> S#s{look = infinity} % its 'DOWN' is on its way
    end.

consumed(N, S = #s{owed = Owed, window = Window}) when 2 * N >= Window; N =:= Owed -> give(N, S);
consumed(_, S) -> later(S).

%% The mailbox is as long as if it held all of them: it may be others' messages.
count(S = #s{owner = Owner, ref = Ref, owed = Owed, look = Look, counted = Counted}) ->
    Begin = erlang:monotonic_time(microsecond),
    case Look =:= infinity orelse Look =:= 0 orelse Begin < Counted of
        true ->
            later(S);
        false ->
            Left = case process_info(Owner, messages) of
                       {_, Messages} -> length([1 || {py_stream, R, {data, _}} <- Messages, R =:= Ref]);
                       undefined -> Owed
                   end,
            End = erlang:monotonic_time(microsecond),
            erlang:garbage_collect(),
            Next = S#s{counted = End + (End - Begin) * ?COUNT_SHARE},
            case Owed - Left of
                0 -> later(Next);
                N -> consumed(N, Next)
            end
    end.

later(S = #s{quick = Quick}) when Quick > 0 -> S#s{look = 0, quick = Quick - 1};
later(S = #s{look = Look}) when Look =:= infinity; Look =:= 0 -> S#s{look = ?FIRST_LOOK};
later(S = #s{look = Look}) -> S#s{look = min(2 * Look, ?LAST_LOOK)}.

%% When nothing is owed the next items bring the next look.
give(N, S = #s{to = To, py_node = Pid, alias = Alias, owed = Owed}) ->
    Credit = {credit, Alias, N},
    erlang:send(To, Credit, [noconnect, nosuspend]) =:= nosuspend andalso (Pid ! Credit),
    Look = case Owed - N of 0 -> infinity; _ -> 0 end,
    S#s{owed = Owed - N, look = Look, quick = ?QUICK_LOOKS}.
