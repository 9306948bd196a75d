# mix.exs - what mix needs to know of the application pynode.
defmodule Pynode.MixProject do
  use Mix.Project

  def project do
    [
      app: :pynode,
      version: "0.1.0",
      description: "Python nodes as supervised OS processes, and calls to them",
      language: :erlang,
      erlc_options: [:debug_info],
      deps: []
    ]
  end

  def application do
    [
      mod: {:pynode_app, []},
      registered: [:py_backlog, :py_cluster, :py_coordinator, :py_distribution, :py_handler_sup, :py_log, :py_node_sup, :py_pool_sup, :py_port_sup, :py_remote, :py_table, :pynode_sup]
    ]
  end
end
