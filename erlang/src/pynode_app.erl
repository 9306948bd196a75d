%% @private
%% pynode_app - starts the application, and waits until its configured Python nodes are there.
-module(pynode_app).

-behaviour(application).

-export([start/2, stop/1]).

-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Args) ->
    case py_options:app_env(application:get_all_env(pynode)) of
        {ok, Options} ->
            case pynode_sup:start_link(Options) of
                {ok, Sup} ->
                    py_coordinator:wait_started(),
                    {ok, Sup};
                {error, Reason} ->
                    {error, start_error(Reason)}
            end;
        {error, Reason} ->
            {error, Reason}
    end.

%% A child's own reason says more than that the supervisor could not start it.
start_error({shutdown, {failed_to_start_child, _, Reason}}) -> Reason;
start_error(Reason) -> Reason.

-spec stop(term()) -> ok.
stop(_State) ->
    ok.
