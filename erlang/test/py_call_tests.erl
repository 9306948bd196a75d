%% py_call_tests - what a caller sends, and when: a process that stands for the node takes it.
-module(py_call_tests).

-include_lib("eunit/include/eunit.hrl").

%% It was killed between the two, and the call ran on for nobody.
caller_that_may_be_killed_is_known_before_its_call_test() ->
    py_counter:init(),
    Self = self(),
    MF = {m, f},
    Caller = spawn(fun() -> py_call:run_placed({node(), Self, 1, {pynode, node()}}, 1, 1, {m, f, []}, #{}, true, true, infinity) end),
    {Ref, First} = receive
                       {call, R, m, f, [], #{}} -> {R, call};
                       {watch, Caller, R, 1, MF} -> {R, watch}
                   end,
    exit(Caller, kill),
    ?assertEqual(watch, First),
    ?assertEqual(call, receive {call, Ref, m, f, [], #{}} -> call after 5000 -> none end).

%% What has no connection has made itself known for nothing.
caller_without_a_connection_is_forgotten_test() ->
    py_counter:init(),
    ?assertEqual({error, {node_down, no@where, not_started}},
                 py_call:run_placed({no@where, self(), 1, {pynode, no@where}}, 1, 1, {m, f, []}, #{}, false, true, infinity)),
    Self = self(),
    Ref = receive {watch, Self, R, 1, _} -> R end,
    ?assertEqual(unwatch, receive {unwatch, Ref} -> unwatch after 5000 -> none end).
