%% eunit_tap - runs EUnit tests with TAP on stdout: a line for each test.
-module(eunit_tap).
-behaviour(eunit_listener).

-export([main/1]).
-export([start/0, start/1, init/1, handle_begin/3, handle_end/3, handle_cancel/3, terminate/2]).

%% Runs the modules' tests and ends the VM with status 0 if all passed and there was one.
main(Modules) ->
    io:setopts([{encoding, unicode}]),
    Tests = [{module, Module} || Module <- Modules],
    case eunit:test(Tests, [no_tty, {report, {?MODULE, []}}]) of
        ok -> halt(0);
        _ -> halt(1)
    end.

start() ->
    start([]).

start(Options) ->
    eunit_listener:start(?MODULE, Options).

%% The state is how many lines there are, and how many of them are bad.
init(_Options) ->
    {0, 0}.

handle_begin(_Kind, _Data, Count) ->
    Count.

handle_end(group, _Data, Count) ->
    Count;
handle_end(test, Data, {All, Bad}) ->
    case proplists:get_value(status, Data) of
        ok ->
            io:format("ok - ~ts~n", [name(Data)]),
            {All + 1, Bad};
        {skipped, Why} ->
            io:format("ok - ~ts # SKIP ~ts~n", [name(Data), one_line("~tp", [Why])]),
            {All + 1, Bad};
        {error, Error} ->
            failed(name(Data), Error, Data),
            {All + 1, Bad + 1}
    end.

%% A test that was not run: its setup failed, say, or it took too long.
handle_cancel(Kind, Data, {All, Bad} = Count) ->
    case proplists:get_value(reason, Data) of
        undefined ->
            Count;
        {blame, _} -> % what is in the group has been reported
            Count;
        Reason ->
            failed([atom_to_list(Kind), " not run: ", name(Data)], Reason, Data),
            {All + 1, Bad + 1}
    end.

%% EUnit's own way to hand over the result, as eunit_tty does it.
terminate(_Outcome, {All, Bad}) ->
    io:format("1..~b~n", [All]),
    Result = if All > 0, Bad =:= 0 -> ok; true -> error end,
    receive
        {stop, Reference, ReplyTo} -> ReplyTo ! {result, Reference, Result}
    end.

failed(Name, Error, Data) ->
    io:format("not ok - ~ts~n", [Name]),
    diagnose(io_lib:format("~tp", [Error])),
    diagnose(proplists:get_value(output, Data, <<>>)).

diagnose(Text) ->
    [io:format("# ~ts~n", [Line]) || Line <- string:lexemes(Text, "\n")].

%% Module: description, or the function with its line, or for a group its place.
name(Data) ->
    Sentence = proplists:get_value(desc, Data, undefined),
    case proplists:get_value(source, Data, undefined) of
        {Module, Function, _} when Sentence =:= undefined ->
            one_line("~s: ~s~s", [Module, Function, line(Data)]);
        {Module, _, _} ->
            one_line("~s: ~ts", [Module, Sentence]);
        undefined ->
            one_line("~w ~ts", [proplists:get_value(id, Data), Sentence])
    end.

line(Data) ->
    case proplists:get_value(line, Data, 0) of
        0 -> "";
        Line -> [" (line ", integer_to_list(Line), ")"]
    end.

one_line(Format, Arguments) ->
    string:replace(io_lib:format(Format, Arguments), "\n", " ", all).
