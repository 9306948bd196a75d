%% @private
%% py_telemetry - events for the library telemetry, when the system has it.
%%
%%      [pynode, call, stop]    #{duration}                 #{node, module, function, pool, outcome}
%%      [pynode, node, up]      #{system_time}              #{node}; the same with down
%%      [pynode, load]          what the node has reported  #{node}
%%
%% Durations are in native units, as telemetry has them; `node' and `pool' of a call are what it asked for. Without the
%% library that costs a look at the table of exported functions.
-module(py_telemetry).

-export([call/4, node/2, load/2]).

%% Runs a call, and tells of it.
-spec call(atom() | binary(), atom() | binary(), py_call:checked(), fun(() -> py:result())) -> py:result().
call(M, F, {ok, Key, Where, _, _, _}, Run) ->
    case is_there() of
        false ->
            Run();
        true ->
            Begin = erlang:monotonic_time(),
            Result = Run(),
            {Node, Pool} = case Key of
                               {pool, Name, _} -> {undefined, Name};
                               _ -> {Where, undefined}
                           end,
            execute([pynode, call, stop], #{duration => erlang:monotonic_time() - Begin},
                    #{node => Node, pool => Pool, module => M, function => F, outcome => outcome(Result)}),
            Result
    end.

outcome({ok, _}) -> ok;
outcome({error, {node_down, _, _}}) -> node_down;
outcome({error, Reason}) when is_atom(Reason) -> Reason;
outcome({error, _}) -> error.

-spec node(up | down, node()) -> ok.
node(Event, Node) ->
    is_there() andalso execute([pynode, node, Event], #{system_time => erlang:system_time()}, #{node => Node}),
    ok.

-spec load(node(), map()) -> ok.
load(Node, Load) ->
    is_there() andalso execute([pynode, load], maps:filter(fun(_, V) -> is_integer(V) end, Load), #{node => Node}),
    ok.

is_there() ->
    erlang:function_exported(telemetry, execute, 3).

%% Not a dependency, so not called by its name.
execute(Event, Measurements, Metadata) ->
    apply(telemetry, execute, [Event, Measurements, Metadata]).
