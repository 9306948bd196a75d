%% erlang_docs - prints the exported functions whose EDoc comment lacks a description or an example.
-module(erlang_docs).

-include_lib("xmerl/include/xmerl.hrl").

-export([main/1]).

%% A line on stdout for each; what EDoc itself has to say comes there too.
main(Files) ->
    lists:foreach(fun file/1, Files),
    halt(0).

file(File) ->
    try edoc:get_doc(File, [{preprocess, true}]) of
        {Module, Doc} ->
            [io:format("~ts: ~ts/~ts: ~s~n", [File, Name, Arity, What])
             || Function <- xmerl_xpath:string("//functions/function[@exported='yes']", Doc),
                Name <- [attribute("@name", Function)], Arity <- [attribute("@arity", Function)],
                What <- lacks(Module, Name, text("description/fullDescription//text()", Function))]
    catch
        Class:Reason -> io:format("~ts: ~p~n", [File, {Class, Reason}])
    end.

%% An example is a call with the module's name.
lacks(Module, Name, Text) ->
    Call = atom_to_list(Module) ++ ":" ++ Name ++ "(",
    case {string:trim(Text), string:find(Text, Call)} of
        {"", _} -> ["no description"];
        {_, nomatch} -> ["no example: " ++ Call];
        _ -> []
    end.

attribute(Path, Node) ->
    [#xmlAttribute{value = Value}] = xmerl_xpath:string(Path, Node),
    Value.

text(Path, Node) ->
    lists:flatten([Value || #xmlText{value = Value} <- xmerl_xpath:string(Path, Node)]).
