%% @private
%% py_distribution - makes the VM a distributed node if it is none, and undoes that.
%%
%% With `auto' a VM without a name gets one: on the loopback interface only, with a random cookie,
%% and with an epmd on loopback if there is none. When this process ends, what it has started is
%% gone. With `required' such a VM is an error. A VM that has a name is left as it is.
-module(py_distribution).
-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1, suffix/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(LOOPBACK, {127, 0, 0, 1}).
-define(HOST, "127.0.0.1").
-define(TRIES, 3).
-define(EPMD_LIMIT, 5000).
-define(LEAVE_LIMIT, 1000).
-define(SUFFIX, {?MODULE, suffix}).
-define(COOKIE, {?MODULE, cookie}).

-record(state, {distribution = false :: boolean(),          % started here
                epmd = false :: file:filename() | false}).  % the same

%% @doc Makes sure that this VM is a distributed node.
%%
%% ```
%% {ok, Pid} = py_distribution:start_link(#{distribution => auto}).
%% '''
-spec start_link(#{distribution := auto | required, _ => _}) -> {ok, pid()} | {error, term()}.
start_link(#{distribution := Mode}) ->
    case gen_server:start_link({local, ?MODULE}, ?MODULE, Mode, []) of
        {ok, Pid} -> {ok, Pid};
        {error, Reason} -> {error, Reason}
    end.

%% @doc What alive names of Python nodes end in, so that two VMs that have named themselves do not
%% take each other's; nothing if this VM was given a name.
%%
%% ```
%% "" = py_distribution:suffix().
%% '''
-spec suffix() -> string().
suffix() ->
    persistent_term:get(?SUFFIX, "").

%% @private
-spec init(auto | required) -> {ok, #state{}} | {stop, term()}.
init(Mode) ->
    process_flag(trap_exit, true),
    case {is_alive(), Mode} of
        {true, _} -> {ok, #state{}};
        {false, auto} -> start_distribution(?TRIES);
        {false, required} -> {stop, {not_distributed, "start the VM with -name or -sname, or set "
                                     "{distribution, auto} in the environment of pynode"}}
    end.

%% @private
-spec handle_call(term(), gen_server:from(), #state{}) -> {noreply, #state{}}.
handle_call(_, _, State) ->
    {noreply, State}.

%% @private
-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_, State) ->
    {noreply, State}.

%% @private
-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info(_, State) -> % nothing is expected; a port's end, late
    {noreply, State}.

%% @private
-spec terminate(term(), #state{}) -> ok.
terminate(_, State) ->
    undo(State).

%%% ------------------------------------------------------------------------- start

start_distribution(Tries) ->
    case start_epmd() of
        {ok, Epmd} -> start_kernel(Tries, #state{epmd = Epmd});
        {error, Reason} -> {stop, {not_distributed, Reason}}
    end.

start_kernel(Tries, State) ->
    Suffix = "_" ++ os:getpid(),
    case start_on_loopback(list_to_atom("pynode" ++ Suffix ++ "@" ++ ?HOST)) of
        {ok, _} ->
            erlang:set_cookie(node(), cookie()),
            persistent_term:put(?SUFFIX, Suffix),
            ?LOG_NOTICE("pynode: this VM had no name: it is now ~ts, on the loopback interface, with a random cookie",
                        [node()]),
            {ok, State#state{distribution = true}};
        {error, Reason} ->
            Gone = element(1, names()) =:= error, % another VM had started epmd, and has stopped it just now
            undo(State),
            if
                Gone, Tries > 1 -> start_distribution(Tries - 1);
                true -> {stop, {not_distributed, Reason}}
            end
    end.

%% The setting is put back at once: when an application stops nobody can change one.
start_on_loopback(Name) ->
    Before = application:get_env(kernel, inet_dist_use_interface),
    application:set_env(kernel, inet_dist_use_interface, ?LOOPBACK),
    try
        net_kernel:start(Name, #{name_domain => longnames})
    after
        restore(Before)
    end.

restore(undefined) -> application:unset_env(kernel, inet_dist_use_interface);
restore({ok, Interface}) -> application:set_env(kernel, inet_dist_use_interface, Interface).

%% The same for the life of the VM: each would be one more atom.
cookie() ->
    case persistent_term:get(?COOKIE, undefined) of
        undefined ->
            Cookie = random_cookie(),
            persistent_term:put(?COOKIE, Cookie),
            Cookie;
        Cookie ->
            Cookie
    end.

random_cookie() ->
    {ok, File} = file:open("/dev/urandom", [read, raw, binary]),
    {ok, Bytes} = file:read(File, 20),
    ok = file:close(File),
    list_to_atom(lists:append([io_lib:format("~2.16.0b", [Byte]) || <<Byte>> <= Bytes])).

%% epmd if there is none: the program if it was started here, else false.
start_epmd() ->
    case names() of
        {ok, _} ->
            {ok, false};
        {error, _} ->
            case find_epmd() of
                false -> {error, "no epmd runs, and there is no program epmd"};
                Epmd -> start_epmd(Epmd)
            end
    end.

start_epmd(Epmd) ->
    run(Epmd, ["-daemon"]),
    case eventually(fun() -> element(1, names()) =:= ok end, ?EPMD_LIMIT) of
        true -> {ok, Epmd};
        false -> {error, "epmd was started and does not answer"}
    end.

find_epmd() ->
    Own = filename:join([code:root_dir(), "erts-" ++ erlang:system_info(version), "bin", "epmd"]),
    case os:find_executable(Own) of
        false -> os:find_executable("epmd");
        Epmd -> Epmd
    end.

names() ->
    erl_epmd:names(?LOOPBACK).

%%% -------------------------------------------------------------------------- undo

undo(State = #state{distribution = true}) ->
    _ = net_kernel:stop(),
    _ = persistent_term:erase(?SUFFIX),
    undo(State#state{distribution = false});
undo(#state{epmd = Epmd}) ->
    stop_epmd(Epmd),
    ok.

%% Names of ours go when epmd has seen their connections end; any other name keeps it.
stop_epmd(false) ->
    true;
stop_epmd(Epmd) ->
    eventually(fun() -> not ours(names()) end, ?LEAVE_LIMIT),
    case names() of
        {ok, []} ->
            run(Epmd, ["-kill"]),
            eventually(fun() -> element(1, names()) =:= error end, ?LEAVE_LIMIT); % it answers before it goes
        _ ->
            true
    end.

ours({ok, Names}) ->
    Suffix = "_" ++ os:getpid(),
    lists:any(fun({Name, _}) -> lists:suffix(Suffix, Name) end, Names);
ours({error, _}) ->
    false.

%%% ------------------------------------------------------------------------- tools

%% Runs epmd to its end; it knows its port as this VM does.
run(Epmd, Args) ->
    Env = [{"ERL_EPMD_ADDRESS", ?HOST}, {"ERL_EPMD_PORT", integer_to_list(erl_epmd_port())}],
    Port = open_port({spawn_executable, Epmd}, [{args, Args}, {env, Env}, exit_status, stderr_to_stdout]),
    run_wait(Port).

run_wait(Port) ->
    receive
        {Port, {data, _}} -> run_wait(Port);
        {Port, {exit_status, _}} -> ok
    after ?EPMD_LIMIT ->
            port_close(Port),
            ok
    end.

erl_epmd_port() ->
    case init:get_argument(epmd_port) of
        {ok, [[Port | _] | _]} -> list_to_integer(Port);
        _ -> list_to_integer(os:getenv("ERL_EPMD_PORT", "4369"))
    end.

%% epmd tells nobody when it is up or a name has gone.
eventually(Fun, Limit) when Limit > 0 ->
    Fun() orelse begin timer:sleep(10), eventually(Fun, Limit - 10) end;
eventually(Fun, _) ->
    Fun().
