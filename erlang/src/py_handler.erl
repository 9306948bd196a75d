%% @private
%% py_handler - runs one function that Python has called, and answers.
%%
%% The answer is a message to the process that Python's thread is:
%%
%%      {py_reply, ok, Value, []}
%%      {py_reply, error | exit | throw, Reason, Stack}
%%      {py_reply, not_registered, Name, []}
%%
%% The function runs in a process of its own, so that there is an answer also if that is killed.
-module(py_handler).

-export([start_link/3, init/3]).

-spec start_link(pid(), binary(), list()) -> {ok, pid()}.
start_link(From, Name, Args) ->
    {ok, proc_lib:spawn_link(?MODULE, init, [From, Name, Args])}.

-spec init(pid(), binary(), list()) -> ok.
init(From, Name, Args) ->
    case py_table:function(Name) of
        undefined -> From ! {py_reply, not_registered, Name, []};
        Function -> From ! run(Function, Args)
    end,
    ok.

run(Function, Args) ->
    {Pid, Monitor} = spawn_monitor(fun() -> exit({py_reply, apply_to(Function, Args)}) end),
    receive
        {'DOWN', Monitor, process, Pid, {py_reply, {Class, Value, Stack}}} ->
            {py_reply, Class, Value, Stack};
        {'DOWN', Monitor, process, Pid, Reason} ->
            {py_reply, exit, Reason, []}
    end.

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
