%% @private
%% pynode_sup - the top supervisor: what comes later leans on what came before.
-module(pynode_sup).

-behaviour(supervisor).

-export([start_link/1, init/1]).

-spec start_link(py_options:env()) -> supervisor:startlink_ret().
start_link(Options) ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, Options).

-spec init(py_options:env()) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init(Options) ->
    py_table:new_calls(), % it outlives all below
    {ok, {#{strategy => rest_for_one, intensity => 3, period => 10},
          [worker(py_distribution, [Options], 30000),
           worker(py_table, [], 5000),
           worker(py_log, [], 5000),
           worker(py_handler_sup, [], 5000),
           sup(py_node_sup),
           sup(py_port_sup),
           worker(py_coordinator, [Options], 5000),
          #{id => pg, start => {pg, start_link, [pynode]}},
          worker(py_backlog, [], 5000),
          worker(py_cluster, [], 5000),
          worker(py_remote, [], 5000),
          #{id => py_pool_sup, start => {py_pool_sup, start_link, [Options]}, type => supervisor, shutdown => infinity}]}}.

worker(Module, Args, Shutdown) ->
    #{id => Module, start => {Module, start_link, Args}, shutdown => Shutdown}.

sup(Module) ->
    #{id => Module, start => {Module, start_link, []}, type => supervisor, shutdown => infinity}.
