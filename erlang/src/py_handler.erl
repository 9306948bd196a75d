%% @private
%% py_handler - runs functions that Python has called, and answers.
%%
%% That of a thread lives as long as the thread's connection, to which it is linked, and runs one call after
%% another in itself. The thread sends it
%%
%%      {py_call, Tag, Name, Args}
%%
%% and gets, after a first {py_handler, Pid},
%%
%%      {py_reply, Tag, Class, Value, Stack}
%%
%% Class being ok, error, exit, throw or not_registered. A function that leaves something behind (a link, a
%% monitor, a name, an entry of the process dictionary) must not meddle with the next one: the handler then
%% ends as {shutdown, retired}, and the thread asks for another one.
%%
%% A call that py_node has started, since many come together, runs in a process of its own, whose exit reason is
%% the outcome.
-module(py_handler).

-export([start_thread/1, start_cast/2, start_call/3, outcome/1]).

-export_type([outcome/0]).

-type outcome() :: {ok | error | exit | throw | not_registered, term(), list()}.

-spec start_thread(pid()) -> pid().
start_thread(From) ->
    spawn_link(fun() -> init_thread(From) end).

%% Runs it in a process that the caller monitors, with this tag in place of 'DOWN'.
-spec start_call(term(), binary(), list()) -> pid().
start_call(Tag, Name, Args) ->
    {Pid, _} = spawn_opt(fun() -> exit({py_outcome, run(Name, Args)}) end, [{monitor, [{tag, Tag}]}]),
    Pid.

%% What such a process has ended with.
-spec outcome(term()) -> outcome().
outcome({py_outcome, Outcome}) -> Outcome;
outcome(Reason) -> {exit, Reason, []}.

-spec start_cast(binary(), list()) -> pid().
start_cast(Name, Args) ->
    spawn_link(fun() -> init_cast(Name, Args) end).

%%% ------------------------------------------------------------------ of a thread

init_thread(From) ->
    link(From),
    answer(From, {py_handler, self()}),
    loop(From, state()).

%% Messages that a function has left to come are nobody's. What it has linked could end this process, and the
%% next call with it: it is let go before the answer is given.
loop(From, Clean) ->
    receive
        {py_call, Tag, Name, Args} ->
            {Class, Value, Stack} = run(Name, Args),
            Left = state(),
            Left =:= Clean orelse let_go(Left, Clean, From),
            answer(From, {py_reply, Tag, Class, Value, Stack}),
            Left =:= Clean orelse exit({shutdown, retired}),
            loop(From, Clean);
        _ ->
            loop(From, Clean)
    end.

%% All that a function can leave behind, but for messages: before the first call, and after each.
state() ->
    [{links, Links} | Rest] =
        process_info(self(), [links, monitors, dictionary, trap_exit, registered_name, group_leader, priority]),
    {lists:sort(Links), Rest}.

let_go({Links, _}, {Own, _}, From) ->
    [unlink(Link) || Link <- Links -- Own],
    link(From). % which hears the end by that

%% Does not connect anew to a node that has gone.
answer(From, Message) ->
    erlang:send(From, Message, [noconnect]),
    ok.

%%% ------------------------------------------------------------------ without an answer

init_cast(Name, Args) ->
    case run(Name, Args) of
        {ok, _, _} -> ok;
        {Class, Reason, Stack} ->
            logger:warning("py_handler: erlang.cast of ~ts from Python: ~ts: ~tp~n~tp", [Name, Class, Reason, Stack])
    end.

%%% ------------------------------------------------------------------ the function

-spec run(binary(), list()) -> outcome().
run(Name, Args) ->
    try
        case py_table:function(Name) of
            undefined -> run_exported(Name, Args);
            {M, F} -> {ok, apply(M, F, Args), []};
            Function -> {ok, Function(Args), []}
        end
    catch
        Class:Reason:Stack -> {Class, Reason, printable(Stack)}
    end.

%% What is not registered may be a function that a module exports, if Python may call it.
run_exported(Name, Args) ->
    case exported(Name, Args) of
        {M, F, A} ->
            case py_remote:for_python(M, F, length(A)) orelse may_call(M, F, py_table:may_call()) of
                true -> {ok, apply(M, F, A), []};
                false -> {error, {not_allowed, {M, F}}, []}
            end;
        undefined ->
            {not_registered, Name, []}
    end.

may_call(_, _, all) -> true;
may_call(_, _, registered) -> false;
may_call(M, F, List) -> lists:member(M, List) orelse lists:member({M, F}, List).

%% 'module:function' with its arguments, or 'module' with function and arguments.
exported(Name, Args) ->
    case {binary:split(Name, <<":">>), Args} of
        {[M, F], _} -> exported(M, F, Args);
        {[M], [F, A]} when is_binary(F), is_list(A) -> exported(M, F, A);
        {[M], [F, A]} when is_atom(F), is_list(A) -> exported(M, atom_to_binary(F), A);
        _ -> undefined
    end.

%% Makes atoms only of names that some module has.
exported(M, F, Args) ->
    case module(M) of
        undefined -> undefined;
        Module ->
            try {Module, binary_to_existing_atom(F), Args}
            catch error:badarg -> undefined
            end
    end.

module(Name) ->
    try binary_to_existing_atom(Name) of
        Module -> loaded(Module)
    catch
        error:badarg -> find(Name)
    end.

find(Name) ->
    case code:where_is_file(binary_to_list(Name) ++ ".beam") of
        non_existing -> undefined;
        _ -> loaded(binary_to_atom(Name))
    end.

loaded(Module) ->
    case erlang:module_loaded(Module) orelse code:ensure_loaded(Module) of
        true -> Module;
        {module, Module} -> Module;
        {error, _} -> undefined
    end.

%% A stack for a reader: frames may hold arguments that have no form in Python.
printable(Stack) ->
    [{M, F, arity(A), [P || P = {K, _} <- Where, K =:= file orelse K =:= line]} || {M, F, A, Where} <- Stack].

arity(Args) when is_list(Args) -> length(Args);
arity(Arity) -> Arity.
