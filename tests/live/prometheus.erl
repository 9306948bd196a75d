%% prometheus.erl - scrapes a node as Prometheus does, and reads the text by the letter of its format.
%%
%% Source: Prometheus, "Exposition formats", text format 0.0.4. What a lenient reader would let
%% pass (a metric without HELP or TYPE, samples out of place, a histogram whose buckets fall) is an
%% error here.
-module(prometheus).

-export([address/1, scrape/1, get/2, ask/2, read/1]).
-export([value/2, value/3, names/1]).

-define(LIMIT, 20000).

%% {Address, Port} out of the line in the node's log.
address(Proc) ->
    Line = live:wait_line(Proc, "metrics: at "),
    {match, [Host, Port]} = re:run(Line, "metrics: at http://\\[?([0-9a-f.:]+?)\\]?:([0-9]+)/metrics$",
                                   [{capture, [1, 2], list}]),
    {ok, Address} = inet:parse_address(Host),
    {Address, list_to_integer(Port)}.

%% The samples of a scrape, #{{Name, [{Label, Value}]} => Number}.
scrape(At) ->
    {200, Headers, Body} = get(At, "/metrics"),
    "text/plain; version=0.0.4; charset=utf-8" = proplists:get_value("content-type", Headers),
    read(Body).

%% {Status, Headers, Body}: the length and the end of the connection are those that were promised.
get(At, Path) ->
    ask(At, ["GET ", Path, " HTTP/1.1\r\nHost: test\r\n\r\n"]).

ask({Address, Port}, Request) ->
    Family = case Address of
                 {_, _, _, _} -> inet;
                 _ -> inet6
             end,
    {ok, Socket} = gen_tcp:connect(Address, Port, [Family, binary, {active, false}], live:ms(?LIMIT)),
    ok = gen_tcp:send(Socket, Request),
    answer(all(Socket, [])).

all(Socket, Parts) ->
    case gen_tcp:recv(Socket, 0, live:ms(?LIMIT)) of
        {ok, Part} -> all(Socket, [Part | Parts]);
        {error, closed} -> iolist_to_binary(lists:reverse(Parts))
    end.

answer(Bytes) ->
    [Head, Body] = binary:split(Bytes, <<"\r\n\r\n">>),
    [<<"HTTP/1.1 ", Status:3/binary, " ", _/binary>> | Fields] = binary:split(Head, <<"\r\n">>, [global]),
    Headers = [{string:lowercase(binary_to_list(K)), string:trim(binary_to_list(V))}
               || Field <- Fields, [K, V] <- [binary:split(Field, <<":">>)]],
    "close" = proplists:get_value("connection", Headers),
    Length = byte_size(Body),
    Length = list_to_integer(proplists:get_value("content-length", Headers)),
    {binary_to_integer(Status), Headers, Body}.

value(Name, Samples) -> value(Name, [], Samples).

value(Name, Labels, Samples) -> maps:get({Name, Labels}, Samples).

names(Samples) -> lists:usort([Name || {Name, _} <- maps:keys(Samples)]).

%%% ------------------------------------------------------------------------- reading

read(Text) ->
    Lines = string:split(unicode:characters_to_list(Text), "\n", all),
    "" = lists:last(Lines), % the last line ends, too
    metrics(lists:droplast(Lines), [], #{}).

%% Each metric is one group: HELP, TYPE, its samples.
metrics([], _, Samples) ->
    Samples;
metrics(["# HELP " ++ Help, "# TYPE " ++ TypeLine | Lines], Seen, Samples) ->
    [Name, Text] = string:split(Help, " "),
    [Name, Type] = string:split(TypeLine, " "),
    true = matches(Name, "^[a-z_:][a-z0-9_:]*$"),
    false = Text =:= "",
    true = lists:member(Type, ["counter", "gauge", "histogram"]),
    false = lists:member(Name, Seen),
    {Own, Rest} = lists:splitwith(fun(Line) -> hd(Line) =/= $# end, Lines),
    Group = [sample(Line) || Line <- Own],
    group(Type, Name, Group),
    metrics(Rest, [Name | Seen], lists:foldl(fun once/2, Samples, Group)).

once({Key, Value}, Samples) ->
    false = maps:is_key(Key, Samples),
    Samples#{Key => Value}.

group(_, Name, []) ->
    error({no_samples, Name});
group("gauge", Name, Group) ->
    [Name = Own || {{Own, _}, _} <- Group];
group("counter", Name, Group) ->
    true = lists:suffix("_total", Name),
    [{Name, true} = {Own, Value >= 0} || {{Own, _}, Value} <- Group];
group("histogram", Name, Group) ->
    {Buckets, Others} = lists:splitwith(fun({{Own, _}, _}) -> Own =:= Name ++ "_bucket" end, Group),
    Sum = Name ++ "_sum",
    Count = Name ++ "_count",
    [{{Sum, []}, S}, {{Count, []}, N}] = Others,
    true = S >= 0,
    Limits = [number(Limit) || {{_, [{"le", Limit}]}, _} <- Buckets],
    Counts = [C || {_, C} <- Buckets],
    true = length(Limits) =:= length(Buckets) andalso Limits =:= lists:usort(Limits),
    infinity = lists:last(Limits),
    Counts = lists:sort(Counts),
    N = lists:last(Counts).

%% name{label="value",...} number
sample(Line) ->
    {match, [Name, Labels, Number]} =
        re:run(Line, "^([a-z_:][a-z0-9_:]*)(?:\\{(.*)\\})? (\\S+)$", [{capture, [1, 2, 3], list}, unicode]),
    {{Name, labels(Labels)}, number(Number)}.

labels("") ->
    [];
labels(Text) ->
    {match, [Name, Value, Rest]} =
        re:run(Text, "^([a-z_][a-z0-9_]*)=\"((?:[^\"\\\\\\n]|\\\\[\\\\\"n])*)\"(.*)$", [{capture, [1, 2, 3], list}, unicode]),
    [{Name, unescaped(Value)} | more_labels(Rest)].

more_labels("") -> [];
more_labels("," ++ Rest) -> [_ | _] = labels(Rest).

unescaped("\\n" ++ Rest) -> [$\n | unescaped(Rest)];
unescaped([$\\, C | Rest]) -> [C | unescaped(Rest)];
unescaped([C | Rest]) -> [C | unescaped(Rest)];
unescaped("") -> "".

%% An atom is greater than any number.
number("+Inf") -> infinity;
number(Text) ->
    case matches(Text, "^-?[0-9]+$") of
        true -> list_to_integer(Text);
        false -> true = matches(Text, "^-?[0-9]+\\.[0-9]+$"), list_to_float(Text)
    end.

matches(Text, Re) ->
    re:run(Text, Re, [{capture, none}]) =:= match.
