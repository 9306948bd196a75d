%% load - a load of calls and tasks that is counted: each has one outcome, and none runs twice.
%%
%% It runs in the VM of a host. Each caller makes one task after another, in all the ways there are, at a node or
%% pool that is taken at random. Each task has a number that no other has, which Python writes down
%% (py/tally.py). What is counted is checked by check/2, in the VM of the test.
-module(load).

-export([start/1, submitted/0, stop/1]).
-export([hold/3, is_held/1, outcome/1]).
-export([check/2]).

-include_lib("stdlib/include/assert.hrl").

-define(CALLERS, 1000).
-define(TASKS, 1000000000).

%%% ------------------------------------------------------------------ callers, in a host's VM

%% Starts them: how many callers, the host's number, the targets, and the pause of a caller after each task.
%% A target is {node, Node}, {pool, Pool}, or {again, Pool}: for tasks that are declared to be idempotent.
start(#{callers := Count, host := Host, targets := Targets, pause := Pause}) ->
    Submitted = atomics:new(1, []),
    persistent_term:put(?MODULE, Submitted),
    Caller = fun(I) -> caller(Submitted, (Host * ?CALLERS + I) * ?TASKS, list_to_tuple(Targets), Pause, []) end,
    register(?MODULE, spawn(fun() ->
        callers([spawn_monitor(fun() -> Caller(I) end) || I <- lists:seq(1, Count)])
    end)),
    ok.

%% How many tasks there were so far.
submitted() ->
    atomics:get(persistent_term:get(?MODULE), 1).

%% Ends the callers, each after the task that it is at, and gives what was counted: results is a list of
%% {Number, Idempotent, Outcome}. One that has no outcome within the limit counts as unanswered.
stop(Limit) ->
    Ref = monitor(process, ?MODULE),
    ?MODULE ! {stop, self(), Ref, Limit},
    receive
        {Ref, Count} -> demonitor(Ref, [flush]), Count#{submitted => submitted()};
        {'DOWN', Ref, process, _, Reason} -> error({load_ended, [{reason, Reason}]})
    end.

callers(Callers) ->
    receive
        {stop, From, Ref, Limit} ->
            [Pid ! stop || {Pid, _} <- Callers],
            End = erlang:monotonic_time(millisecond) + Limit,
            Ends = [receive {'DOWN', Monitor, process, _, Reason} -> Reason
                    after max(0, End - erlang:monotonic_time(millisecond)) -> unanswered
                    end || {_, Monitor} <- Callers],
            From ! {Ref, #{results => lists:append([Results || {done, Results, _} <- Ends]),
                           late => lists:append([Late || {done, _, Late} <- Ends]),
                           unanswered => [E || E <- Ends, not is_tuple(E) orelse element(1, E) =/= done]}}
    end.

%% The mailbox is empty after each task: a second outcome would be found in it.
caller(Submitted, Number, Targets, Pause, Results) ->
    receive
        stop -> exit({done, Results, live:flush()})
    after Pause ->
            Target = element(rand:uniform(tuple_size(Targets)), Targets),
            atomics:add(Submitted, 1, 1),
            Outcome = outcome(Number, run(way(Number), function(Number), Number, options(Target))),
            caller(Submitted, Number + 1, Targets, Pause, [{Number, element(1, Target) =:= again, Outcome} | Results])
    end.

%% Some tasks last for a while, so that there are always some under way.
function(Number) when Number rem 7 =:= 0 -> linger;
function(_) -> run.

options({node, Node}) -> #{node => Node};
options({pool, Pool}) -> #{pool => Pool};
options({again, Pool}) -> #{pool => Pool, idempotent => true}.

way(Number) ->
    element(1 + Number rem 3, {call, spawn_call, task}).

run(spawn_call, Function, Number, Options) ->
    py:await(py:spawn_call(tally, Function, [Number], #{}, Options), infinity);
run(task, Function, Number, Options) ->
    OnLoop = atom_to_list(Function) ++ "_task",
    Ref = py_event_loop:create_task(tally, OnLoop, [Number], Options),
    receive {async_result, Ref, Result} -> Result end;
run(call, Function, Number, Options) ->
    py:call(tally, Function, [Number], #{}, Options#{timeout => infinity}).

outcome(Number, {ok, Number}) -> ok;
outcome(_, {error, {node_down, _, Progress}}) -> Progress;
outcome(_, Other) -> {other, Other}.

%%% ------------------------------------------------------------------ calls that last

%% Begins one in a process of its own, which keeps the outcome.
hold(Way, Number, Node) ->
    spawn(fun() ->
        Result = run(Way, hold, Number, #{node => Node}),
        put(outcome, {Result, cluster:now_ms()}),
        receive {tell, From} -> From ! {self(), get(outcome)} end
    end).

is_held(Pid) ->
    {dictionary, Dictionary} = process_info(Pid, dictionary),
    not lists:keymember(outcome, 1, Dictionary).

outcome(Pid) ->
    Pid ! {tell, self()},
    receive {Pid, Outcome} -> Outcome end.

%%% ------------------------------------------------------------------ in the test's VM

%% Holds what loads have counted against the numbers that have run, and gives how many there were of each
%% outcome. A number may have run twice only if its task was idempotent.
check(Loads, Ran) ->
    ?assertEqual([], lists:append([Unanswered || #{unanswered := Unanswered} <- Loads])),
    ?assertEqual([], lists:append([Late || #{late := Late} <- Loads])),
    Results = lists:append([R || #{results := R} <- Loads]),
    ?assertEqual(lists:sum([Submitted || #{submitted := Submitted} <- Loads]), length(Results)),
    Times = times(Ran),
    Twice = [Result || {Number, false, _} = Result <- Results, maps:get(Number, Times, 0) > 1],
    ?assertEqual([], Twice),
    Never = [Number || {Number, _, ok} <- Results, not is_map_key(Number, Times)],
    ?assertEqual([], Never),
    Begun = [Number || {Number, _, not_started} <- Results, is_map_key(Number, Times)],
    ?assertEqual([], Begun),
    Outcomes = times([{Idempotent, Outcome} || {_, Idempotent, Outcome} <- Results]),
    ?assertEqual([], [O || {_, O} <- maps:keys(Outcomes), not lists:member(O, [ok, not_started, started, unknown])]),
    ?assertEqual([], [O || {true, O} <- maps:keys(Outcomes), O =/= ok]),
    maps:from_list([{Outcome, Count} || {{false, Outcome}, Count} <- maps:to_list(Outcomes)]
                   ++ [{idempotent, Count} || {{true, ok}, Count} <- maps:to_list(Outcomes)]).

%% How often each is in the list.
times(List) ->
    lists:foldl(fun(X, Acc) -> maps:update_with(X, fun(N) -> N + 1 end, 1, Acc) end, #{}, List).
