%% @private
%% py_pool_sup - one py_pool for each pool that was started on this VM.
%%
%% Which these are outlives it (py_table): when it is started again it has them all again, and each finds the
%% processes that it had.
-module(py_pool_sup).

-behaviour(supervisor).

-export([start_link/1, start_pool/2, stop_pool/1, pool/1, replace_all/2]).
-export([init/1]).

-spec start_link(py_options:env()) -> supervisor:startlink_ret().
start_link(Options) ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, Options).

%% Those that the configuration names, and those that were started meanwhile.
-spec init(py_options:env()) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init(#{pools := Configured}) ->
    Pools = maps:merge(Configured, py_table:pool_options()),
    {ok, {#{strategy => one_for_one, intensity => 10, period => 10}, [child(Pool, O) || {Pool, O} <- maps:to_list(Pools)]}}.

-spec start_pool(py_cluster:pool(), py_options:pool()) -> ok | {error, already_started | not_started}.
start_pool(Pool, Options) ->
    try supervisor:start_child(?MODULE, child(Pool, Options)) of
        {ok, _} -> ok;
        {error, _} -> {error, already_started}
    catch
        exit:_ -> {error, not_started}
    end.

%% The process, which has stopped all that it had, and what is known of it here.
-spec stop_pool(py_cluster:pool()) -> ok.
stop_pool(Pool) ->
    _ = supervisor:terminate_child(?MODULE, Pool),
    _ = supervisor:delete_child(?MODULE, Pool),
    ok.

-spec pool(py_cluster:pool()) -> pid() | none.
pool(Pool) ->
    try [Pid || {Id, Pid, _, _} <- supervisor:which_children(?MODULE), Id =:= Pool, is_pid(Pid)] of
        [Pid] -> Pid;
        [] -> none
    catch
        exit:_ -> none
    end.

%% What this VM has of the pool is replaced.
-spec replace_all(py_cluster:pool(), timeout()) -> ok | {error, term()}.
replace_all(Pool, Timeout) ->
    case pool(Pool) of
        none -> ok;
        Pid -> py_pool:replace_all(Pid, Timeout)
    end.

child(Pool, Options) ->
    #{id => Pool, start => {py_pool, start_link, [Pool, Options]}, shutdown => 5000}.
