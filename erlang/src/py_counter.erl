%% @private
%% py_counter - how many calls are in flight at a node: counted by their callers, corrected by py_node.
%%
%% Each node has two slots, used in turns, in one array for all; another element says which slot is in
%% use. Tasks of the event loop have two of their own, since they take nobody's place. Beside them is what the node has reported: how many calls others had there, how many it runs at
%% once, how many it takes of this VM, how long a call stays, and when that was. Others' calls fade from
%% then on as those that stay do: several VMs that believe an old report would all go where there was room. The array is made once a VM, so that reading it costs nothing. A caller that is
%% killed cannot count itself off: turn/2 does it.
-module(py_counter).

-export([init/0, new/0, array/0, enter/2, enter_task/2, leave/2, in_flight/1, turn/2]).
-export([report/5, load/1, room/1, try_enter/1]).

-export_type([counter/0, slot/0, load/0]).

-type counter() :: pos_integer().  % of the first of its elements
-type slot() :: pos_integer().
-type load() :: #{in_flight := integer(), others := number(), slots := pos_integer(), limit := pos_integer(),
                  reported := integer()}.

-define(NODES, 4096).
-define(SIZE, 10).
-define(OTHERS, 3).
-define(LIMIT, 4).
-define(SLOTS, 5).
-define(REPORTED, 6). % monotonic milliseconds
-define(STAY, 7).     % microseconds; 0: not known
-define(TASKS, 7).    % from the slot of a call to that of a task

%% Makes the array, once; by whoever owns the tables, before anybody else is there.
-spec init() -> ok.
init() ->
    try array() of
        _ -> ok
    catch
        error:badarg -> persistent_term:put(?MODULE, atomics:new(?SIZE * ?NODES, [{signed, true}]))
    end.

%% The array that enter/2 and leave/2 want.
-spec array() -> atomics:atomics_ref().
array() ->
    persistent_term:get(?MODULE).

%% A counter that nobody has, for the calling process; `full' if there is none.
-spec new() -> counter() | full.
new() ->
    new(1).

new(Counter) when Counter < ?SIZE * ?NODES ->
    case py_table:take_counter(Counter, self()) of
        true ->
            atomics:put(array(), Counter, Counter + 1),
            [atomics:put(array(), Counter + I, 0) || I <- lists:seq(1, ?SIZE - 1)],
            Counter;
        false ->
            new(Counter + ?SIZE)
    end;
new(_) ->
    full.

%% A call begins: the slot that it leaves at its end, and how many are in flight with it.
-spec enter(atomics:atomics_ref(), counter()) -> {slot(), integer()}.
enter(Array, Counter) ->
    Slot = atomics:get(Array, Counter),
    Count = atomics:add_get(Array, Slot, 1),
    {Slot, Count + atomics:get(Array, 2 * Counter + 3 - Slot)}.

%% The same for a task of the event loop, among tasks.
-spec enter_task(atomics:atomics_ref(), counter()) -> {slot(), integer()}.
enter_task(Array, Counter) ->
    Slot = atomics:get(Array, Counter) + ?TASKS,
    Count = atomics:add_get(Array, Slot, 1),
    {Slot, Count + atomics:get(Array, 2 * (Counter + ?TASKS) + 3 - Slot)}.

%% As enter/2, unless the node has as many as it takes. It is counted first and looked at then: of two callers
%% that come at once only one gets the last place.
-spec try_enter(counter()) -> {slot(), integer()} | full.
try_enter(Counter) ->
    Array = array(),
    {Slot, Count} = enter(Array, Counter),
    case Count =< atomics:get(Array, Counter + ?LIMIT) of
        true -> {Slot, Count};
        false -> leave(Array, Slot), full
    end.

-spec leave(atomics:atomics_ref(), slot()) -> ok.
leave(Array, Slot) ->
    atomics:sub(Array, Slot, 1).

-spec in_flight(counter()) -> integer().
in_flight(Counter) ->
    calls(Counter) + calls(Counter + ?TASKS).

calls(Counter) ->
    Array = array(),
    atomics:get(Array, Counter + 1) + atomics:get(Array, Counter + 2).

%% How many calls there is room for.
-spec room(counter()) -> non_neg_integer().
room(Counter) ->
    max(0, atomics:get(array(), Counter + ?LIMIT) - calls(Counter)).

%% What the node has said: how many calls others have there, how many it runs at once, how many it takes, and for how
%% many microseconds a call is there.
-spec report(counter(), non_neg_integer(), pos_integer(), pos_integer(), non_neg_integer()) -> ok.
report(Counter, Others, Slots, Limit, Stay) ->
    Array = array(),
    atomics:put(Array, Counter + ?OTHERS, Others),
    atomics:put(Array, Counter + ?SLOTS, Slots),
    atomics:put(Array, Counter + ?LIMIT, Limit),
    atomics:put(Array, Counter + ?STAY, Stay),
    atomics:put(Array, Counter + ?REPORTED, erlang:monotonic_time(millisecond)).

%% How loaded the node is: calls of this VM, of others, how many it runs and takes, milliseconds since it said so.
-spec load(counter()) -> load().
load(Counter) ->
    Array = array(),
    Age = erlang:monotonic_time(millisecond) - atomics:get(Array, Counter + ?REPORTED),
    Others = faded(atomics:get(Array, Counter + ?OTHERS), Age, atomics:get(Array, Counter + ?STAY)),
    #{in_flight => in_flight(Counter), others => Others, slots => atomics:get(Array, Counter + ?SLOTS),
      limit => atomics:get(Array, Counter + ?LIMIT), reported => Age}.

%% How many of them are there still, if as many end in each moment as are there.
faded(0, _, _) -> 0;
faded(Others, _, 0) -> Others;
faded(Others, Age, Stay) -> Others * math:exp(-min(100.0, max(0, Age) * 1000 / Stay)).

%% Calls that began in the slot that has not been used since the last turn have ended, or are among
%% those that are watched, whose slots are given. What is left of it was counted by callers that were
%% killed. Then the slots change.
-spec turn(counter(), [slot()]) -> ok.
turn(Counter, Watched) ->
    Array = array(),
    Now = atomics:get(Array, Counter),
    Old = 2 * Counter + 3 - Now,
    [begin
         Alive = length([Slot || Slot <- Watched, Slot =:= Left]),
         atomics:sub(Array, Left, atomics:get(Array, Left) - Alive)
     end || Left <- [Old, Old + ?TASKS]],
    atomics:put(Array, Counter, Old).
