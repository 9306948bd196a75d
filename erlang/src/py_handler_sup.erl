%% @private
%% py_handler_sup - starts the processes that run what Python calls, and ends them when it ends.
%%
%% Handlers end when the thread or the call that they serve does, for whatever reason; that is nothing to
%% report and nothing to start again, so this is no OTP supervisor. Messages:
%%
%%      {thread, From}              a handler for a Python thread
%%      {cast, Name, Args}          one for a call without an answer
-module(py_handler_sup).

-behaviour(gen_server).

-export([start_link/0, start_thread/1, start_cast/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Gives the thread whose pid is From a handler, which introduces itself there.
-spec start_thread(pid()) -> ok.
start_thread(From) ->
    gen_server:cast(?MODULE, {thread, From}).

-spec start_cast(binary(), list()) -> ok.
start_cast(Name, Args) ->
    gen_server:cast(?MODULE, {cast, Name, Args}).

-spec init([]) -> {ok, none}.
init([]) ->
    process_flag(trap_exit, true),
    {ok, none}.

%% As a supervisor is asked by supervisor:which_children/1.
-spec handle_call(term(), gen_server:from(), none) -> {reply, term(), none}.
handle_call(which_children, _From, State) ->
    {reply, [{undefined, Pid, worker, [py_handler]} || Pid <- handlers()], State};
handle_call(_Request, _From, State) ->
    {reply, {error, bad_request}, State}.

-spec handle_cast(term(), none) -> {noreply, none}.
handle_cast({thread, From}, State) ->
    py_handler:start_thread(From),
    {noreply, State};
handle_cast({cast, Name, Args}, State) ->
    py_handler:start_cast(Name, Args),
    {noreply, State};
handle_cast(_Late, State) ->
    {noreply, State}.

-spec handle_info(term(), none) -> {noreply, none}.
handle_info(_Exit, State) ->
    {noreply, State}.

%% What runs in a handler may trap exits.
-spec terminate(term(), none) -> ok.
terminate(_Reason, _State) ->
    [exit(Pid, kill) || Pid <- handlers()],
    ok.

handlers() ->
    {links, Links} = process_info(self(), links),
    Parent = parent(),
    [Pid || Pid <- Links, is_pid(Pid), Pid =/= Parent].

parent() ->
    case get('$ancestors') of
        [Parent | _] when is_pid(Parent) -> Parent;
        [Parent | _] -> whereis(Parent)
    end.
