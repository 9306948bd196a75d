%% @private
%% py_place - which of several nodes a call goes to.
%%
%% With a key the node that rendezvous hashing puts first, so that no other key moves when a node comes or goes;
%% else the less loaded of the caller's own and one at random, or the least loaded of all if they are few. A node that has as many calls as it
%% takes is full; one that has not reported for long counts as loaded.
-module(py_place).

-export([place/2, any/2, room/1, labels/1, have/2, matching/3]).

-export_type([how/0, labels/0]).

-type labels() :: #{term() => term()}. % as labels/1 gives them

%% `bounded': whether what a node takes is a bound; a task of the event loop waits there and needs no worker.
-type how() :: #{key => term(), affinity => soft | strict, strategy => least_loaded | random, bounded => boolean()}.
-type placed() :: {py_table:entry(), py_counter:slot(), InFlight :: integer()}.

-define(FEW, 8).
-define(OVERDUE, 7000).          % ms; an idle node reports each 5 s
-define(LOADED, 1000000).

%% One of the nodes, with a place in it taken: `full' if none has room, `none' if there is none.
-spec place(tuple(), how()) -> placed() | full | none.
place({}, _) ->
    none;
place(Entries, How = #{key := Key}) ->
    case take(highest(Key, Entries), How) of
        {_, _, _} = Placed -> Placed;
        Full when map_get(affinity, How) =:= strict -> Full;
        Full -> first(tl(ranked(Key, tuple_to_list(Entries))), How, Full)
    end;
place(Entries, How) ->
    Entry = one(Entries, How),
    case take(Entry, How) of
        {_, _, _} = Placed -> Placed;
        _ -> first(from_own(Entries), How, none)
    end.

%% One of the nodes whatever it has to do; for what is not counted.
-spec any(tuple(), how()) -> py_table:entry() | none.
any({}, _) -> none;
any(Entries, #{key := Key}) -> highest(Key, Entries);
any(Entries, How) -> one(Entries, How).

%% How many calls the nodes have room for.
-spec room(tuple()) -> non_neg_integer().
room(Entries) ->
    lists:foldl(fun room/2, 0, tuple_to_list(Entries)).

room({_, Pid, Counter, _}, Sum) ->
    case is_process_alive(Pid) of
        true -> Sum + py_counter:room(Counter);
        false -> Sum
    end.

%% Labels as they are compared: whoever has written them, in Erlang, Elixir or Python, may mean the same by an atom, a
%% binary and a string.
-spec labels(map()) -> labels().
labels(Labels) ->
    maps:fold(fun(Key, Value, Acc) -> Acc#{label(Key) => label(Value)} end, #{}, Labels).

label(Atom) when is_atom(Atom) ->
    atom_to_binary(Atom);
label([_ | _] = Text) ->
    try unicode:characters_to_binary(Text) of
        Binary when is_binary(Binary) -> Binary;
        _ -> Text
    catch
        error:badarg -> Text
    end;
label(Term) ->
    Term.

-spec have(labels(), labels()) -> boolean().
have(Wanted, Labels) ->
    maps:with(maps:keys(Wanted), Labels) =:= Wanted.

%% Those that have all these labels.
-spec matching(labels(), #{node() => labels()}, tuple()) -> tuple().
matching(Wanted, _, Entries) when map_size(Wanted) =:= 0 ->
    Entries;
matching(Wanted, Labels, Entries) ->
    list_to_tuple([Entry || Entry = {Node, _, _, _} <- tuple_to_list(Entries), have(Wanted, maps:get(Node, Labels, #{}))]).

%%% ------------------------------------------------------------------ one of them

one({Entry}, _) ->
    Entry;
one(Entries, #{strategy := random}) ->
    element(rand:uniform(tuple_size(Entries)), Entries);
one(Entries, _) when tuple_size(Entries) =< ?FEW ->
    [First | Rest] = from_own(Entries),
    least(Rest, First, load(First));
one(Entries, _) ->
    Own = element(own(Entries), Entries),
    least([element(rand:uniform(tuple_size(Entries)), Entries)], Own, load(Own)).

least([Entry | Entries], Best, Load) ->
    case load(Entry) of
        Less when Less < Load -> least(Entries, Entry, Less);
        _ -> least(Entries, Best, Load)
    end;
least([], Best, _) ->
    Best.

%% In thousandths of what it runs at once.
load({_, Pid, Counter, _}) ->
    #{in_flight := Own, others := Others, slots := Slots, reported := Age} = py_counter:load(Counter),
    Load = (Own + Others) * 1000 / max(1, Slots),
    case is_process_alive(Pid) of
        false -> 2 * ?LOADED;
        true when Age > ?OVERDUE -> ?LOADED + Load;
        true -> Load
    end.

%% Each process has one that it prefers when there is nothing to choose between them. So those who come at once do not
%% all begin with the same; and who makes one call after another finds a node that still looks for more.
from_own(Entries) ->
    {Before, From} = lists:split(own(Entries) - 1, tuple_to_list(Entries)),
    From ++ Before.

own(Entries) ->
    erlang:phash2(self(), tuple_size(Entries)) + 1.

%% As rendezvous hashing has them: the first, which is nearly always the one, by a walk; all of them by a sort.
highest(Key, Entries) ->
    [First | Rest] = tuple_to_list(Entries),
    highest(Rest, Key, rank(Key, First)).

highest([Entry | Entries], Key, Best) -> highest(Entries, Key, max(Best, rank(Key, Entry)));
highest([], _, {_, Entry}) -> Entry.

ranked(Key, Entries) ->
    [Entry || {_, Entry} <- lists:reverse(lists:sort([rank(Key, Entry) || Entry <- Entries]))].

rank(Key, {Node, _, _, _} = Entry) ->
    {erlang:phash2({Key, Node}), Entry}.

%% The first that has room.
first([Entry | Entries], How, Else) ->
    case take(Entry, How) of
        {_, _, _} = Placed -> Placed;
        full -> first(Entries, How, full);
        none -> first(Entries, How, Else)
    end;
first([], _, Else) ->
    Else.

take({_, Pid, Counter, _} = Entry, How) ->
    case is_process_alive(Pid) andalso enter(Counter, How) of
        false -> none;
        full -> full;
        {Slot, InFlight} -> {Entry, Slot, InFlight}
    end.

enter(Counter, #{bounded := false}) -> py_counter:enter_task(py_counter:array(), Counter);
enter(Counter, _) -> py_counter:try_enter(Counter).
