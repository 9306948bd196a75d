%% @private
%% py_task - calls that are begun and answered by a message: spawn_call, tasks, batches of them.
%%
%% Each has a row in py_table, made before py_node hears of it. Who takes the row answers: py_node when the
%% answer comes or the limit passes, the coordinator when py_node has been killed, the owner when it gives up.
-module(py_task).

-export([check/4, options/2]).
-export([start/6, cast/4, refuse/2, start_all/3, gather/2, await/2, cancel/1, are_calls/1]).

-export_type([call/0]).

-type call() :: {py:name(), py:name(), list()} | {py:name(), py:name(), list(), py:kwargs()}.
-type name() :: atom() | binary().

-define(DIRECT, 6). % calls without an answer up to which each is sent by itself

%%% ------------------------------------------------------------------ options

%% What is given with a task: as py_call:check/4, for the event loop.
-spec check(py:name(), py:name(), timeout() | py_event_loop:options(), timeout()) ->
          {ok, name(), name(), py_call:checked()} | py_call:error().
check(Module, Function, Options, Default) ->
    case {py_call:name(Module), py_call:name(Function), options(Options, Default)} of
        {error, _, _} -> {error, {bad_option, module}};
        {_, error, _} -> {error, {bad_option, function}};
        {M, F, {ok, _, _, _, _, _} = Checked} -> {ok, M, F, Checked};
        {_, _, Error} -> Error
    end.

%% The keyword arguments are among the options; without a limit it is the default.
-spec options(timeout() | py_event_loop:options(), timeout()) -> py_call:checked() | py_call:error().
options(Given, Default) when is_map(Given) ->
    {Worker, Options} = case Given of
                            #{executor := Is} when is_boolean(Is) -> {Is, maps:remove(executor, Given)};
                            _ -> {false, Given}
                        end,
    on_loop(Worker, py_call:options(maps:get(kwargs, Options, #{}),
                                    maps:merge(#{timeout => Default}, maps:remove(kwargs, Options))));
options(Timeout, _) ->
    on_loop(false, py_call:options(#{}, Timeout)).

%% On the event loop, unless a worker is asked for in one way or another.
on_loop(false, {ok, Key, Where, Wire, Queued, Timeout})
  when not is_map_key(queue, Wire), not is_map_key(thread, Wire), not is_map_key(executor, Wire) ->
    {ok, Key, Where, Wire#{loop => true}, Queued, Timeout};
on_loop(_, Checked) ->
    Checked.

%%% ------------------------------------------------------------------ one

%% Its result goes where the tag says; in any case there will be one.
-spec start(py_table:row_tag(), py_table:owner(), name(), name(), list(), py_call:checked()) -> reference().
start(Tag, Owner, M, F, Args, {ok, {pool, _, _}, _, _, _, _} = Checked) ->
    Ref = make_ref(),
    py_pool_call:start(Ref, Tag, Owner, M, F, Args, Checked),
    Ref;
start(Tag, Owner, M, F, Args, {ok, Key, Where, Wire, _, Timeout}) ->
    Ref = make_ref(),
    case py_call:pick(py_call:nodes(Key), Wire) of
        {_, Pid, _, _} = Entry -> start_at(Entry, {Ref, Pid, Owner, Tag, M, F, none}, Args, Wire, Timeout);
        none -> py_table:tell(Tag, Owner, Ref, down(Where, not_started))
    end,
    Ref.

%% Few are sent by whoever begins them, which spares a wait for py_node; that is told who it has to watch. In the
%% table first: if the process of the node has just ended, the coordinator has not seen this
%% call there, or it has, and then it has answered.
start_at({Node, Pid, _, To}, {Ref, _, Owner, Tag, M, F, _} = Row, Args, Wire, Timeout) ->
    case is_process_alive(Pid) andalso py_table:add_calls(Row) of
        ok ->
            Call = {call, Ref, M, F, Args, Wire},
            case py_table:count_calls() =< ?DIRECT andalso not is_map_key(queue, Wire) andalso send(To, Call) of
                true -> Pid ! {expect, Owner};
                false -> Pid ! {begin_call, Owner, Call}
            end,
            start_timer(Timeout, Pid, Ref),
            is_process_alive(Pid) orelse py_table:answer_calls([{Ref, late(Node, Pid, Ref)}]);
        _ ->
            py_table:tell(Tag, Owner, Ref, down(Node, not_started))
    end.

%% A list has its answers in a list, and that goes to py_home.
send(To, Call) ->
    erlang:send(To, [Call], [noconnect, nosuspend]) =:= ok.

%% When it has been sent: a limit that passed before would find nothing to end.
start_timer(infinity, _, _) -> ok;
start_timer(Timeout, Pid, Ref) -> py_table:set_timer(Ref, erlang:send_after(Timeout, Pid, {call_timeout, Ref})).

down(Node, Progress) -> {error, {node_down, Node, Progress}}.

%% It was sent, or given to a py_node that had ended.
late(Node, Pid, Ref) -> down(Node, py_node:progress(Ref, Pid)).

%% Nobody is told how it ends. One to a node that is not there is dropped, as a message would be.
-spec cast(name(), name(), list(), py_call:checked()) -> ok.
cast(M, F, Args, {ok, Key, _, Wire, Queued, _}) ->
    case py_call:pick(py_call:nodes(Key), Wire) of
        none -> ok;
        {_, Pid, _, _} when Queued -> Pid ! {cast, M, F, Args, Wire}, ok;
        {_, _, _, To} -> erlang:send(To, {cast, M, F, Args, Wire}, [noconnect]), ok
    end.

%% The same of what cannot begin.
-spec refuse(py_response | async_result, py_call:error()) -> reference().
refuse(Tag, Error) ->
    Ref = make_ref(),
    self() ! {Tag, Ref, Error},
    Ref.

%% What was begun by this process. Who waits no longer takes the row.
-spec await(reference(), timeout()) -> py:result().
await(Ref, Timeout) ->
    receive
        {async_result, Ref, Result} -> Result;
        {py_response, Ref, Result} -> Result
    after Timeout ->
            case py_table:call(Ref) of
                Row when Row =:= none; element(3, Row) =:= self() -> give_up(Ref);
                _ -> cancel(Ref), {error, timeout} % another process gets its message
            end
    end.

give_up(Ref) ->
    drop(Ref) orelse py_table:settle(),
    receive
        {async_result, Ref, Result} -> Result;
        {py_response, Ref, Result} -> Result
    after 0 ->
            {error, timeout}
    end.

%% Whether it has no answer; then it gets none.
drop(Ref) ->
    case py_table:take_call(Ref) of
        none -> false;
        Row -> element(2, Row) ! {drop_call, Row}, true
    end.

-spec cancel(reference()) -> ok.
cancel(Ref) ->
    case py_table:call(Ref) of
        none -> ok;
        Row -> element(2, Row) ! {cancel_call, Ref}, ok
    end.

%%% ------------------------------------------------------------------ many

-spec are_calls(term()) -> boolean().
are_calls([Call | Calls]) when tuple_size(Call) =:= 3; tuple_size(Call) =:= 4 -> are_calls(Calls);
are_calls(Rest) -> Rest =:= [].

%% Tasks of the calling process, each with a message of its own.
-spec start_all(async_result, [call()], py_call:checked()) -> [reference()].
start_all(Tag, Calls, {ok, _, _, _, _, Timeout} = Checked) ->
    Named = [{make_ref(), Tag, Call} || Call <- Calls],
    begin_all(Named, Timeout, Checked),
    [Ref || {Ref, _, _} <- Named].

%% Their results in order, within one limit. They come as {Group, I, Result}: the group is a new
%% reference, so that no other message is looked at.
-spec gather([call()], py_call:checked()) -> [py:result()].
gather(Calls, {ok, _, _, _, _, Timeout} = Checked) ->
    Group = make_ref(),
    Count = length(Calls),
    Named = [{make_ref(), {batch, Group, I}, Call} || {I, Call} <- lists:zip(lists:seq(1, Count), Calls)],
    End = case Timeout of
              infinity -> infinity;
              _ -> erlang:monotonic_time(millisecond) + Timeout
          end,
    begin_all(Named, infinity, Checked),
    in_order(collect(Group, Count, End, Named, [])).

collect(_, 0, _, _, Results) ->
    Results;
collect(Group, Left, End, Named, Results) ->
    receive
        {Group, I, Result} -> collect(Group, Left - 1, End, Named, [{I, Result} | Results])
    after until(End) ->
            Dropped = [{I, {error, timeout}} || {Ref, {batch, _, I}, _} <- Named, drop(Ref)],
            length(Dropped) =:= Left orelse py_table:settle(),
            collect(Group, Left - length(Dropped), infinity, Named, Dropped ++ Results)
    end.

until(infinity) -> infinity;
until(End) -> max(0, End - erlang:monotonic_time(millisecond)).

in_order(Results) -> [Result || {_, Result} <- lists:keysort(1, Results)].

%% One message for all that go to one node; in a pool each finds its own place.
begin_all(Named, Timeout, {ok, {pool, _, _}, _, Wire, _, _} = Checked) ->
    [case request(Call, Wire) of
         {ok, M, F, Args, Options} ->
             InPool = setelement(6, setelement(4, Checked, Options), Timeout),
             py_pool_call:start(Ref, Tag, self(), M, F, Args, InPool);
         Error ->
             py_table:tell(Tag, self(), Ref, Error)
     end || {Ref, Tag, Call} <- Named];
begin_all(Named, Timeout, {ok, Key, Where, Wire, _, _}) ->
    case py_call:nodes(Key) of
        {} ->
            tell_all(Named, down(Where, not_started));
        Entries when map_size(Wire) =:= 0; not is_map_key(queue, Wire) ->
            deal(Named, tuple_to_list(Entries), Wire, Timeout);
        Entries ->
            begin_at(py_call:pick(Entries, Wire), Named, Wire, Timeout)
    end.

tell_all(Named, Result) ->
    [py_table:tell(Tag, self(), Ref, Result) || {Ref, Tag, _} <- Named].

%% To each node as many in a row as to any other.
deal(Named, Entries, Wire, Timeout) ->
    Share = max(1, (length(Named) + length(Entries) - 1) div length(Entries)),
    deal_out(Named, Share, Entries, Wire, Timeout).

deal_out([], _, _, _, _) ->
    ok;
deal_out(Named, Share, [Entry | Entries], Wire, Timeout) ->
    {Mine, Others} = lists:split(min(Share, length(Named)), Named),
    begin_at(Entry, Mine, Wire, Timeout),
    deal_out(Others, Share, Entries, Wire, Timeout).

%% py_node watches this process before the first of them is in the table.
begin_at({Node, Pid, _, _}, Named, Wire, Timeout) ->
    {Rows, Calls} = rows(Named, Pid, Wire, [], []),
    Pid ! {expect, self()},
    case is_process_alive(Pid) andalso py_table:add_calls(Rows) of
        ok ->
            Pid ! {begin_calls, self(), Calls},
            [start_timer(Timeout, Pid, element(1, Row)) || Timeout =/= infinity, Row <- Rows],
            is_process_alive(Pid) orelse py_table:answer_calls([{Ref, late(Node, Pid, Ref)} || {Ref, _, _, _, _, _, _} <- Rows]);
        _ ->
            Pid ! {begin_calls, self(), []},
            [py_table:tell(Tag, self(), Ref, down(Node, not_started)) || {Ref, _, _, Tag, _, _, _} <- Rows]
    end.

%% What is wrong with one of them is its own answer.
rows([{Ref, Tag, Call} | Named], Pid, Wire, Rows, Calls) ->
    case request(Call, Wire) of
        {ok, M, F, Args, Options} ->
            Row = {Ref, Pid, self(), Tag, M, F, none},
            rows(Named, Pid, Wire, [Row | Rows], [{call, Ref, M, F, Args, Options} | Calls]);
        Error ->
            py_table:tell(Tag, self(), Ref, Error),
            rows(Named, Pid, Wire, Rows, Calls)
    end;
rows([], _, _, Rows, Calls) ->
    {Rows, lists:reverse(Calls)}.

request({M, F, Args}, Wire) when is_atom(M), is_atom(F) ->
    {ok, M, F, Args, Wire};
request({M, F, Args}, Wire) ->
    request({M, F, Args, #{}}, Wire);
request({M, F, Args, Kwargs}, Wire) ->
    case {py_call:name(M), py_call:name(F)} of
        {error, _} -> {error, {bad_option, module}};
        {_, error} -> {error, {bad_option, function}};
        {Module, Function} when Kwargs =:= #{} -> {ok, Module, Function, Args, Wire};
        {Module, Function} when is_map(Kwargs) -> {ok, Module, Function, Args, Wire#{kwargs => Kwargs}};
        _ -> {error, {bad_option, kwargs}}
    end.
