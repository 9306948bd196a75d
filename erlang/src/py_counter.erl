%% @private
%% py_counter - how many calls are in flight at a node: counted by their callers, corrected by py_node.
%%
%% Each node has two slots, used in turns, in one array for all; a third element says which slot is in
%% use. The array is made once a VM, so that reading it costs nothing. A caller that is killed cannot
%% count itself off: turn/2 does it.
-module(py_counter).

-export([init/0, new/0, array/0, enter/2, leave/2, in_flight/1, turn/2]).

-export_type([counter/0, slot/0]).

-type counter() :: pos_integer().  % of the first of its three elements
-type slot() :: pos_integer().

-define(NODES, 4096).

%% Makes the array, once; by whoever owns the tables, before anybody else is there.
-spec init() -> ok.
init() ->
    try array() of
        _ -> ok
    catch
        error:badarg -> persistent_term:put(?MODULE, atomics:new(3 * ?NODES, [{signed, true}]))
    end.

%% The array that enter/2 and leave/2 want.
-spec array() -> atomics:atomics_ref().
array() ->
    persistent_term:get(?MODULE).

%% A counter that nobody has, for the calling process.
-spec new() -> counter().
new() ->
    new(1).

new(Counter) when Counter < 3 * ?NODES ->
    case py_table:take_counter(Counter, self()) of
        true ->
            atomics:put(array(), Counter, Counter + 1),
            [atomics:put(array(), Slot, 0) || Slot <- [Counter + 1, Counter + 2]],
            Counter;
        false ->
            new(Counter + 3)
    end.

%% A call begins: the slot that it leaves at its end, and how many are in flight with it.
-spec enter(atomics:atomics_ref(), counter()) -> {slot(), integer()}.
enter(Array, Counter) ->
    Slot = atomics:get(Array, Counter),
    Count = atomics:add_get(Array, Slot, 1),
    {Slot, Count + atomics:get(Array, 2 * Counter + 3 - Slot)}.

-spec leave(atomics:atomics_ref(), slot()) -> ok.
leave(Array, Slot) ->
    atomics:sub(Array, Slot, 1).

-spec in_flight(counter()) -> integer().
in_flight(Counter) ->
    Array = array(),
    atomics:get(Array, Counter + 1) + atomics:get(Array, Counter + 2).

%% Calls that began in the slot that has not been used since the last turn have ended, or are among
%% those that are watched, whose slots are given. What is left of it was counted by callers that were
%% killed. Then the slots change.
-spec turn(counter(), [slot()]) -> ok.
turn(Counter, Watched) ->
    Array = array(),
    Now = atomics:get(Array, Counter),
    Old = 2 * Counter + 3 - Now,
    Alive = length([Slot || Slot <- Watched, Slot =:= Old]),
    atomics:sub(Array, Old, atomics:get(Array, Old) - Alive),
    atomics:put(Array, Counter, Old).
