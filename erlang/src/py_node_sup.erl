%% @private
%% py_node_sup - the processes that stand for connected Python nodes; none is started again by it.
-module(py_node_sup).

-behaviour(supervisor).

-export([start_link/0, init/1, start_node/2]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    {ok, {#{strategy => simple_one_for_one},
          [#{id => py_node, start => {py_node, start_link, []}, restart => temporary, shutdown => 5000}]}}.

%% Begins to attach the node; its process tells the coordinator what comes of it.
-spec start_node(node(), py_node:options()) -> supervisor:startchild_ret().
start_node(Node, Options) ->
    supervisor:start_child(py_node_sup, [Node, Options]).
