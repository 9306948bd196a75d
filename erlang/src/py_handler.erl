%% @private
%% py_handler - runs one function that Python has called, and answers.
%%
%% The answer is a message to the process that Python's thread is:
%%
%%      {py_reply, ok, Value, []}
%%      {py_reply, error | exit | throw, Reason, Stack}
%%      {py_reply, not_registered, Name, []}
%%
%% The function runs in a process of its own, so that there is an answer also if that is killed. When nobody
%% waits for the answer any more (a time limit has passed, the node has gone) it is killed.
-module(py_handler).

-export([start_link/3, init/3]).

-define(WATCHED, 40). % ms after which Python's thread is monitored, which costs messages both ways

-spec start_link(pid(), binary(), list()) -> {ok, pid()}.
start_link(From, Name, Args) ->
    {ok, proc_lib:spawn_link(?MODULE, init, [From, Name, Args])}.

-spec init(pid(), binary(), list()) -> ok.
init(From, Name, Args) ->
    case py_table:function(Name) of
        undefined -> answer(From, {not_registered, Name, []});
        Function -> run(From, Function, Args)
    end.

%% Does not connect anew to a node that has gone.
answer(From, {Class, Value, Stack}) ->
    erlang:send(From, {py_reply, Class, Value, Stack}, [noconnect]),
    ok.

run(From, Function, Args) ->
    process_flag(trap_exit, true), % the function goes with this process, not the other way round
    {Pid, Monitor} = spawn_opt(fun() -> exit({py_reply, apply_to(Function, Args)}) end, [link, monitor]),
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> answer(From, outcome(Reason))
    after ?WATCHED ->
            run_long(From, Pid, Monitor)
    end.

run_long(From, Pid, Monitor) ->
    Caller = erlang:monitor(process, From),
    receive
        {'DOWN', Monitor, process, Pid, Reason} ->
            answer(From, outcome(Reason));
        {'DOWN', Caller, process, From, _} ->
            exit(Pid, kill),
            ok
    end.

outcome({py_reply, Outcome}) -> Outcome;
outcome(Reason) -> {exit, Reason, []}.

apply_to(Function, Args) ->
    try
        case Function of
            {M, F} -> {ok, apply(M, F, Args), []};
            _ -> {ok, Function(Args), []}
        end
    catch
        Class:Reason:Stack -> {Class, Reason, printable(Stack)}
    end.

%% A stack for a reader: frames may hold arguments that have no form in Python.
printable(Stack) ->
    [{M, F, arity(A), [P || P = {K, _} <- Where, K =:= file orelse K =:= line]} || {M, F, A, Where} <- Stack].

arity(Args) when is_list(Args) -> length(Args);
arity(Arity) -> Arity.
