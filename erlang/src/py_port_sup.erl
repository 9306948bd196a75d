%% @private
%% py_port_sup - one py_port for each configured Python node.
%%
%% Temporary children: when and how often a node is started again is py_port's own matter, and a
%% node that was given up must not take the others with it.
-module(py_port_sup).
-behaviour(supervisor).

-export([start_link/0, start_child/1]).
-export([init/1]).

%% @doc Starts the supervisor, without children.
%%
%% ```
%% {ok, Pid} = py_port_sup:start_link().
%% '''
-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% @doc Starts the process that owns one node.
%%
%% ```
%% {ok, [Spec]} = py_options:nodes([#{}]),
%% {ok, Port} = py_port_sup:start_child(Spec).
%% '''
-spec start_child(py_options:spec()) -> {ok, pid()} | {error, term()}.
start_child(Spec) ->
    case supervisor:start_child(?MODULE, [Spec]) of
        {ok, Pid} when is_pid(Pid) -> {ok, Pid};
        {error, Reason} -> {error, Reason}
    end.

%% @private Who is told to go has as long as py_port needs to leave nothing behind.
-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    {ok, {#{strategy => simple_one_for_one},
          [#{id => py_port, start => {py_port, start_link, []}, restart => temporary, shutdown => 10000}]}}.
