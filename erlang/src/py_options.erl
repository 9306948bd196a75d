%% @private
%% py_options - the application's environment, checked key by key.
%%
%% Pure. Each key has a clause of its own; what it refuses, a key that nobody knows included, is
%% answered with {error, {bad_option, Key}}, Key being the innermost one: for
%% #{rlimits => #{as => -1}} it is `as'. Text is a string or a UTF-8 binary.
-module(py_options).

-compile({no_auto_import, [nodes/1]}).

-export([app_env/1, nodes/1, pool/2, args/1]).
-export_type([env/0, spec/0, pool/0, restart/0, may_call/0, bad_option/0]).

-type bad_option() :: {error, {bad_option, term()}}.

-type env() :: #{nodes := [spec()],
                 pools := #{atom() => pool()},
                 distribution := auto | required,
                 python_may_call := may_call(),
                 program := string() | undefined}.

%% What Python may call beside the registered functions.
-type may_call() :: all | registered | [module() | {module(), atom()}].

%% One node: `name' is what the nodes of one map share, `alive' the part before the @. A key that
%% was not given and has no default is not there.
-type spec() :: #{name := atom(),
                  alive := string(),
                  program => string(),
                  python => string(),
                  venv => string(),
                  path := [string()],
                  import := [string()],
                  env := [{string(), string() | false}],
                  args := [string()],
                  workers => pos_integer(),
                  max_workers => pos_integer(),
                  queue_size => pos_integer(),
                  max_frame => pos_integer(),
                  max_atoms => pos_integer(),
                  max_connections => non_neg_integer(),
                  mailbox_size => pos_integer(),
                  max_tasks => pos_integer(),
                  remember_ids => non_neg_integer(),
                  loop => auto | asyncio | uvloop,
                  metrics => string(),
                  strings => utf8 | bytes,
                  none_atom => none | undefined | nil,
                  unconvertible => error | str,
                  allow := [string()],
                  log_level => debug | info | warning | error,
                  net_ticktime => pos_integer(),
                  drain_timeout := non_neg_integer(),
                  start_timeout := pos_integer(),
                  kill_after := pos_integer() | infinity,
                  restart := restart(),
                  rlimits := #{as => pos_integer(), cpu => pos_integer(), nofile => pos_integer()},
                  cgroup := #{memory_max => pos_integer(), cpu_max => pos_integer(),
                              parent => string()},
                  labels := map(),
                  code => binary(),
                  pool => atom()}.

%% A pool: a specification for each node that it starts, still without a name; and with none those with its labels.
-type pool() :: #{specs := [spec()],
                  kinds := [spec()], % what it was started with; it may have more or fewer since
                  labels := map() | none,
                  strategy := least_loaded | random,
                  max_queue := non_neg_integer(),
                  max_queue_per_caller => non_neg_integer(),
                  max_tasks => pos_integer(),
                  max_age => pos_integer(),
                  max_rss => pos_integer()}.

-type restart() :: #{intensity := non_neg_integer(),
                     period := pos_integer(),
                     backoff_min := pos_integer(),
                     backoff_max := pos_integer()}.

-define(PYTHON_WORKERS, 1024).
-define(FRAME_MAX, 2147483647).
-define(ATOMS_MAX, 16777216).
-define(QUEUE_MAX, 10000000).
-define(CONNECTIONS_MAX, 16384).
-define(IDS_MAX, 65536).
-define(DAY, 86400).
-define(ALIVE_MAX, 200).

%% @doc Checks the whole environment of the application, as `application:get_all_env/1' gives it.
%%
%% ```
%% {ok, #{nodes := [#{alive := "py"}], distribution := auto}} = py_options:app_env([]),
%% {error, {bad_option, nodse}} = py_options:app_env([{nodse, []}]).
%% '''
-spec app_env([{atom(), term()}]) -> {ok, env()} | bad_option().
app_env(Env) ->
    Default = #{nodes => [#{}], pools => #{}, distribution => auto, python_may_call => all, program => undefined},
    checked(fun app_option/2, maps:merge(Default, maps:remove(included_applications, maps:from_list(Env)))).

%% @doc Checks the value of the key `nodes', a list of maps: one specification for each node, with
%% all defaults filled in.
%%
%% ```
%% {ok, [#{name := ml, alive := "ml1"}, #{name := ml, alive := "ml2"}]} =
%%     py_options:nodes([#{name => ml, count => 2}]).
%% '''
-spec nodes(term()) -> {ok, [spec()]} | bad_option().
nodes(Maps) when is_list(Maps), length(Maps) >= 0 ->
    specs(Maps, []);
nodes(_) ->
    bad(nodes).

%% @doc Checks what a pool is started with. `nodes' is how many, `auto' for one a scheduler, or a list of
%% specifications; those get the labels, too. Without `nodes' the pool has all nodes of the cluster with its labels.
%%
%% ```
%% {ok, #{specs := [_, _], strategy := least_loaded}} = py_options:pool(ml, #{nodes => 2}).
%% '''
-spec pool(term(), term()) -> {ok, pool()} | bad_option().
pool(cluster, _) -> % which is that of all nodes
    bad(pool);
pool(Name, Map) when is_map(Map) ->
    Defaults = #{nodes => none, labels => #{}, strategy => least_loaded, max_queue => 10000},
    case {alive(Name), checked(fun(Key, V) -> pool_option(Key, V, Name) end, maps:merge(Defaults, Map))} of
        {error, _} -> bad(pool);
        {_, {ok, #{nodes := none} = Pool}} -> {ok, (maps:remove(nodes, Pool))#{specs => [], kinds => []}};
        {_, {ok, #{nodes := Specs, labels := Labels} = Pool}} ->
            Labelled = [Spec#{labels => maps:merge(Labels, Own), pool => Name} || #{labels := Own} = Spec <- Specs],
            {ok, (maps:remove(nodes, Pool))#{specs => Labelled, kinds => Labelled, labels => none}};
        {_, Bad} -> Bad
    end;
pool(_, _) ->
    bad(options).

pool_option(nodes, none, _) -> {ok, none};
pool_option(nodes, 0, _) -> {ok, []};
pool_option(nodes, V, Name) when is_integer(V); V =:= auto -> pool_specs([#{count => V}], Name);
pool_option(nodes, V, Name) when is_list(V), length(V) >= 0 -> pool_specs(V, Name);
pool_option(labels, V, _) when is_map(V) -> {ok, V};
pool_option(strategy, V, _) -> one_of(V, [least_loaded, random]);
pool_option(max_queue, V, _) -> number(V, 0, ?QUEUE_MAX);
pool_option(max_queue_per_caller, V, _) -> number(V, 0, ?QUEUE_MAX);
pool_option(max_tasks, V, _) -> number(V, 1, 1 bsl 62);
pool_option(max_age, V, _) -> number(V, 1, 1 bsl 62);
pool_option(max_rss, V, _) -> number(V, 1, 1 bsl 62);
pool_option(_, _, _) -> error.

%% Their own names are given later: here all may have the pool's.
pool_specs(Maps, Name) ->
    Named = [case Map of
                 #{} -> spec(Map#{name => Name});
                 _ -> bad(nodes)
             end || Map <- Maps],
    case [Bad || {error, _} = Bad <- Named] of
        [] -> {ok, lists:append([Specs || {ok, Specs} <- Named])};
        [Bad | _] -> Bad
    end.

%% @doc The options of the program that a specification asks for.
%%
%% ```
%% {ok, [Spec]} = py_options:nodes([#{workers => 4, path => ["/srv/app"]}]),
%% ["--drain-timeout", "30.000", "--path", "/srv/app", "--workers", "4"] = py_options:args(Spec).
%% '''
-spec args(spec()) -> [string()].
args(Spec) ->
    lists:append([arg(Key, Value) || {Key, Value} <- lists:sort(maps:to_list(Spec))]) ++ maps:get(args, Spec).

%%% ---------------------------------------------------------------- the application

app_option(nodes, V) -> nodes(V);
app_option(pools, V) when is_map(V) -> checked(fun pool/2, V);
app_option(distribution, V) -> one_of(V, [auto, required]);
app_option(python_may_call, V) -> may_call(V);
app_option(program, undefined) -> {ok, undefined};
app_option(program, V) -> text(V);
app_option(_, _) -> error.

may_call(V) when V =:= all; V =:= registered ->
    {ok, V};
may_call(V) when is_list(V), length(V) >= 0 ->
    case [X || X <- V, not is_callable(X)] of
        [] -> {ok, V};
        _ -> error
    end;
may_call(_) ->
    error.

is_callable({M, F}) -> is_atom(M) andalso is_atom(F);
is_callable(M) -> is_atom(M).

%%% ----------------------------------------------------------------------- one map

specs([], Specs) ->
    unique(lists:append(lists:reverse(Specs)));
specs([Map | Maps], Specs) ->
    case spec(Map) of
        {ok, More} -> specs(Maps, [More | Specs]);
        Bad -> Bad
    end.

%% Two nodes cannot have the same alive name.
unique(Specs) ->
    Alive = [A || #{alive := A} <- Specs],
    case Alive -- lists:usort(Alive) of
        [] -> {ok, Specs};
        _ -> bad(name)
    end.

spec(Map) when is_map(Map) ->
    case checked(fun option/2, maps:merge(defaults(), Map)) of
        {ok, #{workers := Workers, max_workers := Max}} when Workers > Max -> bad(max_workers);
        {ok, Spec = #{count := Count}} -> several(Count, maps:remove(count, Spec));
        {ok, Spec} -> {ok, [Spec#{alive => atom_to_list(maps:get(name, Spec))}]};
        Bad -> Bad
    end;
spec(_) ->
    bad(nodes).

%% They cannot share a port.
several(Count, Spec = #{metrics := Address}) when Count > 1 ->
    case lists:last(string:split(Address, ":", trailing)) of
        "0" -> {ok, instances(Count, Spec)};
        _ -> bad(metrics)
    end;
several(Count, Spec) ->
    {ok, instances(Count, Spec)}.

instances(Count, Spec = #{name := Name}) ->
    [Spec#{alive => atom_to_list(Name) ++ integer_to_list(N)} || N <- lists:seq(1, Count)].

defaults() ->
    #{name => py,
      path => [],
      import => [],
      env => [],
      args => [],
      allow => [],
      drain_timeout => 30000,
      start_timeout => 30000,
      kill_after => infinity,
      restart => #{},
      rlimits => #{},
      cgroup => #{},
      labels => #{}}.

option(name, V) -> alive(V);
option(count, auto) -> {ok, erlang:system_info(schedulers_online)};
option(count, V) -> number(V, 1, 1000);
option(program, V) -> text(V);
option(python, V) -> text(V);
option(venv, V) -> text(V);
option(path, V) -> list(V, fun text/1);
option(import, V) -> list(V, fun word/1);
option(env, V) -> list(V, fun variable/1);
option(args, V) -> list(V, fun text/1);
option(workers, V) -> number(V, 1, ?PYTHON_WORKERS);
option(max_workers, V) -> number(V, 1, ?PYTHON_WORKERS);
option(queue_size, V) -> number(V, 1, ?QUEUE_MAX);
option(max_frame, V) -> number(V, 1024, ?FRAME_MAX);
option(max_atoms, V) -> number(V, 1, ?ATOMS_MAX);
option(max_connections, V) -> number(V, 0, ?CONNECTIONS_MAX);
option(mailbox_size, V) -> number(V, 1, ?QUEUE_MAX);
option(max_tasks, V) -> number(V, 1, ?QUEUE_MAX);
option(remember_ids, V) -> number(V, 0, ?IDS_MAX);
option(metrics, V) -> address(V);
option(loop, V) -> one_of(V, [auto, asyncio, uvloop]);
option(strings, V) -> one_of(V, [utf8, bytes]);
option(none_atom, V) -> one_of(V, [none, undefined, nil]);
option(unconvertible, V) -> one_of(V, [error, str]);
option(allow, V) -> list(V, fun allowed/1);
option(log_level, V) -> one_of(V, [debug, info, warning, error]);
option(net_ticktime, V) -> number(V, 1, ?DAY);
option(drain_timeout, V) -> number(V, 0, ?DAY * 1000);
option(start_timeout, V) -> number(V, 1, ?DAY * 1000);
option(kill_after, infinity) -> {ok, infinity};
option(kill_after, V) -> number(V, 1, ?DAY * 1000);
option(restart, V) -> restart(V);
option(rlimits, V) -> inner(V, fun rlimit/2);
option(cgroup, V) -> inner(V, fun cgroup/2);
option(labels, V) when is_map(V) -> {ok, V};
option(code, V) -> code(V);
option(_, _) -> error.

restart(V) when is_map(V) ->
    Default = #{intensity => 5, period => 60000, backoff_min => 100, backoff_max => 30000},
    case checked(fun restart/2, maps:merge(Default, V)) of
        {ok, #{backoff_min := Min, backoff_max := Max}} when Min > Max -> bad(backoff_max);
        Result -> Result
    end;
restart(_) ->
    error.

restart(intensity, V) -> number(V, 0, 1000000);
restart(period, V) -> number(V, 1, ?DAY * 1000);
restart(backoff_min, V) -> number(V, 1, ?DAY * 1000);
restart(backoff_max, V) -> number(V, 1, ?DAY * 1000);
restart(_, _) -> error.

rlimit(as, V) -> number(V, 1 bsl 20, 1 bsl 60);
rlimit(cpu, V) -> number(V, 1, 1 bsl 31);
rlimit(nofile, V) -> number(V, 16, 1 bsl 30);
rlimit(_, _) -> error.

cgroup(memory_max, V) -> number(V, 1 bsl 20, 1 bsl 60);
cgroup(cpu_max, V) -> number(V, 1, 1000000);
cgroup(parent, V) -> text(V);
cgroup(_, _) -> error.

%%% ------------------------------------------------------------------------- values
%%% Each answers {ok, Value}, error, or with the key of something inside {error, {bad_option, Key}}.

%% All pairs of a map, in the order of their keys; the first that is refused ends it.
checked(Check, Map) ->
    checked(Check, lists:sort(maps:to_list(Map)), #{}).

checked(_, [], Done) ->
    {ok, Done};
checked(Check, [{Key, V} | Rest], Done) ->
    case Check(Key, V) of
        {ok, Value} -> checked(Check, Rest, Done#{Key => Value});
        error -> bad(Key);
        Bad -> Bad
    end.

bad(Key) ->
    {error, {bad_option, Key}}.

inner(V, Check) when is_map(V) -> checked(Check, V);
inner(_, _) -> error.

number(V, Min, Max) when is_integer(V), V >= Min, V =< Max -> {ok, V};
number(_, _, _) -> error.

one_of(V, Words) ->
    case lists:member(V, Words) of
        true -> {ok, V};
        false -> error
    end.

list(V, Check) when is_list(V), length(V) >= 0 ->
    Checked = [Check(Item) || Item <- V],
    case lists:all(fun(Result) -> Result =/= error end, Checked) of
        true -> {ok, [Item || {ok, Item} <- Checked]};
        false -> error
    end;
list(_, _) ->
    error.

%% Text as a string, neither empty nor with a character that ends it for the system.
text(V) when is_binary(V); is_list(V), length(V) >= 0 ->
    try unicode:characters_to_list(V) of
        [_ | _] = Text ->
            case lists:member(0, Text) of
                true -> error;
                false -> {ok, Text}
            end;
        _ -> error
    catch
        error:badarg -> error
    end;
text(_) ->
    error.

%% The version of the user's own code.
code(V) ->
    case text(V) of
        {ok, Text} -> {ok, unicode:characters_to_binary(Text)};
        error -> error
    end.

%% A Python name: an atom will do, too.
word(V) when is_atom(V) -> text(atom_to_list(V));
word(V) -> text(V).

%% The program's own rule for what stands before the @. The rest of 255 is the host's.
alive(V) when is_atom(V) ->
    Text = atom_to_list(V),
    Valid = length(Text) =< ?ALIVE_MAX andalso re:run(Text, "^[A-Za-z0-9_-]+$", [{capture, none}, dollar_endonly]),
    case Valid of
        match -> {ok, V};
        _ -> error
    end;
alive(_) ->
    error.

variable({K, V}) ->
    case {text(K), V} of
        {{ok, Key}, false} -> name_of_variable(Key, false);
        {{ok, Key}, Empty} when Empty =:= ""; Empty =:= <<>> -> name_of_variable(Key, "");
        {{ok, Key}, _} ->
            case text(V) of
                {ok, Value} -> name_of_variable(Key, Value);
                error -> error
            end;
        {error, _} -> error
    end;
variable(_) ->
    error.

name_of_variable(Key, Value) ->
    case lists:member($=, Key) of
        true -> error;
        false -> {ok, {Key, Value}}
    end.

%% "127.0.0.1:9464" or "[::1]:9464": an address, which is a number, and a port.
address(V) ->
    case text(V) of
        {ok, Text} ->
            case re:run(Text, "^(.+):([0-9]{1,5})$", [{capture, all_but_first, list}, unicode, dollar_endonly]) of
                {match, [Host, Port]} -> address(Text, is_numeric(Host), list_to_integer(Port));
                nomatch -> error
            end;
        error -> error
    end.

address(Text, true, Port) when Port =< 65535 -> {ok, Text};
address(_, _, _) -> error.

is_numeric("[" ++ Rest) ->
    lists:suffix("]", Rest) andalso element(1, inet:parse_ipv6strict_address(lists:droplast(Rest))) =:= ok;
is_numeric(Host) ->
    element(1, inet:parse_ipv4strict_address(Host)) =:= ok.

%% Module, "module:function" or {Module, Function}.
allowed({M, F}) ->
    case {word(M), word(F)} of
        {{ok, Module}, {ok, Function}} -> allowed(Module ++ ":" ++ Function);
        _ -> error
    end;
allowed(V) ->
    case word(V) of
        {ok, Text} ->
            case re:run(Text, "^[^:\\s]+(:[^:\\s]+)?$", [{capture, none}, unicode, dollar_endonly]) of
                match -> {ok, Text};
                nomatch -> error
            end;
        error -> error
    end.

%%% ------------------------------------------------------------------- the command line

arg(venv, V) -> ["--venv", V];
arg(path, Dirs) -> repeated("--path", Dirs);
arg(import, Modules) -> repeated("--import", Modules);
arg(allow, Allowed) -> repeated("--allow", Allowed);
arg(workers, V) -> ["--workers", integer_to_list(V)];
arg(max_workers, V) -> ["--max-workers", integer_to_list(V)];
arg(queue_size, V) -> ["--queue-size", integer_to_list(V)];
arg(max_frame, V) -> ["--max-frame", integer_to_list(V)];
arg(max_atoms, V) -> ["--max-atoms", integer_to_list(V)];
arg(max_connections, V) -> ["--max-connections", integer_to_list(V)];
arg(mailbox_size, V) -> ["--mailbox-size", integer_to_list(V)];
arg(max_tasks, V) -> ["--max-tasks", integer_to_list(V)];
arg(remember_ids, V) -> ["--remember-ids", integer_to_list(V)];
arg(metrics, V) -> ["--metrics", V];
arg(loop, V) -> ["--loop", atom_to_list(V)];
arg(strings, V) -> ["--strings", atom_to_list(V)];
arg(none_atom, V) -> ["--none-atom", atom_to_list(V)];
arg(unconvertible, V) -> ["--unconvertible", atom_to_list(V)];
arg(log_level, V) -> ["--log-level", atom_to_list(V)];
arg(net_ticktime, V) -> ["--net-ticktime", integer_to_list(V)];
arg(drain_timeout, V) -> ["--drain-timeout", lists:flatten(io_lib:format("~b.~3..0b", [V div 1000, V rem 1000]))];
arg(_, _) -> [].

repeated(Option, Values) ->
    lists:append([[Option, V] || V <- Values]).
