%% @private
%% py_log - gives the records of Python's logging to logger.
%%
%% A process of its own, so that a slow log handler holds up no py_node. At most ?RECORDS records
%% wait; more are dropped, counted, and reported once a second. The counts are in a table that ends
%% with the process, so that nobody has to ask it, nor whether it is there.
%%
%%     {record, Node, Record}   from log/2; Record is docs/protocol.md's {log, ...}
%%     dropped                  from log/2: the first record since the last report was dropped
%%     report                   a second later
-module(py_log).

-behaviour(gen_server).

-export([start_link/0, log/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(RECORDS, 1000).
-define(REPORT_AFTER, 1000).

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Logs what a node has sent; never waits, and does nothing when the application does not run.
-spec log(node(), Record :: term()) -> ok.
log(Node, Record) ->
    try ets:update_counter(?MODULE, waiting, [{2, 0}, {2, 1, ?RECORDS, ?RECORDS}]) of
        [Waiting, _] when Waiting < ?RECORDS -> send({record, Node, Record});
        _ -> drop()
    catch
        error:badarg -> ok
    end.

drop() ->
    case ets:update_counter(?MODULE, dropped, 1) of
        1 -> send(dropped);
        _ -> ok
    end.

send(Message) ->
    try ?MODULE ! Message, ok
    catch error:badarg -> ok % the application is stopping
    end.

%%% ------------------------------------------------------------------ the process

-spec init([]) -> {ok, none}.
init([]) ->
    ?MODULE = ets:new(?MODULE, [named_table, public, {write_concurrency, true}]),
    true = ets:insert(?MODULE, [{waiting, 0}, {dropped, 0}]),
    {ok, none}.

-spec handle_call(term(), gen_server:from(), none) -> {reply, ok, none}.
handle_call(_Request, _From, none) ->
    {reply, ok, none}.

-spec handle_cast(term(), none) -> {noreply, none}.
handle_cast(_Request, none) ->
    {noreply, none}.

-spec handle_info(term(), none) -> {noreply, none}.
handle_info({record, Node, Record}, none) ->
    give(Node, Record),
    _ = ets:update_counter(?MODULE, waiting, -1),
    {noreply, none};
handle_info(dropped, none) ->
    _ = erlang:send_after(?REPORT_AFTER, self(), report),
    {noreply, none};
handle_info(report, none) ->
    report(ets:lookup_element(?MODULE, dropped, 2)),
    {noreply, none};
handle_info(_Other, none) ->
    {noreply, none}.

%% What has been dropped meanwhile was not announced, as it was not the first.
report(N) ->
    logger:warning("~b records of Python's logging dropped", [N], #{domain => [python]}),
    case ets:update_counter(?MODULE, dropped, -N) of
        0 -> ok;
        _ -> self() ! dropped
    end.

give(Node, {log, Level, Logger, Text, Meta}) when is_binary(Text), is_map(Meta) ->
    logger:log(level(Level), Text, metadata(Node, Logger, Meta));
give(Node, Other) ->
    logger:warning("~s: not a log record: ~tP", [Node, Other, 30], #{domain => [python], node => Node}).

level(Level) ->
    case lists:member(Level, [debug, info, warning, error, critical]) of
        true -> Level;
        false -> info
    end.

%% Of what Python says of every record, what logger has keys for; its extras are under `python'.
metadata(Node, Logger, Meta) ->
    Known = #{domain => [python], node => Node, logger_name => Logger},
    {Usual, Extra} = maps:fold(fun sort/3, {Known, #{}}, Meta),
    Usual#{python => Extra}.

sort(<<"created">>, Seconds, {Usual, Extra}) when is_float(Seconds) ->
    {Usual#{time => round(Seconds * 1000000)}, Extra};
sort(<<"pathname">>, Path, {Usual, Extra}) when is_binary(Path) ->
    {Usual#{file => unicode:characters_to_list(Path)}, Extra};
sort(<<"lineno">>, Line, {Usual, Extra}) when is_integer(Line) ->
    {Usual#{line => Line}, Extra};
sort(<<"funcName">>, Function, {Usual, Extra}) ->
    {Usual#{function => Function}, Extra};
sort(<<"threadName">>, Thread, {Usual, Extra}) ->
    {Usual#{thread => Thread}, Extra};
sort(Key, Value, {Usual, Extra}) ->
    {Usual, Extra#{Key => Value}}.
