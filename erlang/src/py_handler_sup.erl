%% @private
%% py_handler_sup - the processes that run what Python calls.
-module(py_handler_sup).

-behaviour(supervisor).

-export([start_link/0, init/1, start_handler/3]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    {ok, {#{strategy => simple_one_for_one},
          [#{id => py_handler, start => {py_handler, start_link, []}, restart => temporary, shutdown => brutal_kill}]}}.

%% Runs the function of that name for the Python thread From.
-spec start_handler(pid(), binary(), list()) -> supervisor:startchild_ret().
start_handler(From, Name, Args) ->
    supervisor:start_child(?MODULE, [From, Name, Args]).
