%% live_web - web services in a node, which ask Erlang: FastAPI and Starlette under uvicorn, and real clients.
-module(live_web).

-export([setup/0, tests/1]).
-export([vm/0, never/0]). % for the other VM

-include_lib("stdlib/include/assert.hrl").

-define(PACKAGES, "fastapi, starlette, uvicorn, websockets, httpx").

%% What is missing for the embedded Python, if anything is.
setup() ->
    Lib = filename:join(os:getenv("abs_top_srcdir"), "examples/fastapi/library.erl"),
    {ok, library} = compile:file(Lib, [{outdir, live:tmp(".")}]),
    {Status, Output} = live:sh("\"$PYTHON\" -c 'import " ?PACKAGES "'"),
    #{missing => Status =/= 0 andalso lists:last(string:lexemes(Output, "\n")), loops => loops()}.

loops() ->
    case live:sh("\"$PYTHON\" -c 'import uvloop'") of
        {0, _} -> ["asyncio", "uvloop"];
        _ -> ["asyncio"]
    end.

tests(#{missing := Missing}) when Missing =/= false ->
    live:note("~ts", [Missing]),
    [{[Name, " # SKIP not all of " ?PACKAGES " are there for this Python"], fun() -> ok end} || {Name, _} <- cases()];
tests(#{loops := Loops}) ->
    [{Name, fun() -> [Fun(Loop) || Loop <- Loops] end} || {Name, Fun} <- cases()].

cases() ->
    [{"the example as its README starts it: HTTP, a page of a gen_server, a WebSocket", fun example/1},
     {"200 requests at once, 50 conversations at once", fun many/1},
     {"a middleware that catches everything sees no more than what fails", fun middleware/1},
     {"a limit that passes kills the function", fun limit/1},
     {"the VM is killed under requests: the app's own error, and fine again when the VM is back", fun vm_killed/1},
     {"SIGTERM: what is asked is answered, and the node leaves", fun stops/1}].

%%% ------------------------------------------------------------------ what there is

%% The application here, and a node with that ASGI application: its port, when it listens.
with_service(Loop, App, Fun) ->
    Port = free_port(),
    application:set_env(pynode, nodes, [#{name => web, path => [examples(), live:py("")], workers => 2, program => os:getenv("PYNODE"),
                                          args => uvicorn(Loop, App, Port)}]),
    {ok, _} = application:ensure_all_started(pynode),
    {ok, Library} = start_library(),
    try
        listens(Port),
        Fun(Port)
    after
        application:stop(pynode),
        gen_server:stop(Library)
    end.

start_library() ->
    ok = library:start(),
    {ok, whereis(library)}.

examples() ->
    filename:join(os:getenv("abs_top_srcdir"), "examples/fastapi").

%% A connection stays open for longer than a slow machine may let its client wait: a request that meets its end has no answer.
uvicorn(Loop, App, Port) ->
    ["-m", "uvicorn", App, "--port", integer_to_list(Port), "--loop", Loop, "--timeout-keep-alive", "60"].

%% Not one of those that the system gives: a node of another test would have it a moment later.
free_port() ->
    Port = 30000 + rand:uniform(2700),
    case gen_tcp:listen(Port, [{ip, {127, 0, 0, 1}}, {reuseaddr, true}]) of
        {ok, Socket} -> gen_tcp:close(Socket), Port;
        {error, eaddrinuse} -> free_port()
    end.

listens(Port) ->
    live:eventually(fun() ->
        case gen_tcp:connect({127, 0, 0, 1}, Port, []) of
            {ok, Socket} -> gen_tcp:close(Socket) =:= ok;
            Error -> Error
        end
    end).

%% What the client prints.
client(Args) ->
    {0, Output} = live:sh(command(Args)),
    Output.

command(Args) ->
    lists:flatten(["exec \"$PYTHON\" ", lists:join(" ", [["'", A, "'"] || A <- [live:py("web_client.py") | strings(Args)]])]).

strings(Args) ->
    [if is_list(A) -> A; true -> io_lib:format("~w", [A]) end || A <- Args].

register_functions() ->
    Self = self(),
    ok = py:register_function(tag, fun([X]) -> X end),
    ok = py:register_function(badarith, fun([]) -> error(badarith) end),
    ok = py:register_function(never, fun([]) -> Self ! {never, self()}, never() end).

never() ->
    receive after infinity -> ok end.

killed(Pid) ->
    Monitor = erlang:monitor(process, Pid),
    live:expect(10000, fun({'DOWN', M, process, _, _}) when M =:= Monitor -> {ok, down} end).

%%% ------------------------------------------------------------------ the cases

example(Loop) ->
    with_service(Loop, "app:app", fun(Port) ->
        ?assertEqual(<<"200 {\"value\":42}\n"
                       "200 {\"books\":[\"Book 41\",\"Book 42\"],\"page\":5,\"total\":42}\n"
                       "200 {\"books\":[],\"page\":9,\"total\":42}\n">>,
                     client([get, Port, "/double/21", "/books?page=5&size=10", "/books?page=9"])),
        ?assertMatch(<<"422 ", _/binary>>, client([get, Port, "/books?page=0"])),
        ?assertEqual(<<"3 of 3\n">>, client([converse, Port, "/shelve", 3])),
        ?assertMatch(#{<<"total">> := 72, <<"books">> := [_, _, <<"Book 42">>]}, library:page(14, 3)),
        ok = py:unregister_function(double_it),
        ?assertEqual(<<"503 {\"error\":\"Function 'double_it' not registered\"}\n">>, client([get, Port, "/double/21"]))
    end).

many(Loop) ->
    with_service(Loop, "app:app", fun(Port) ->
        {Took, Output} = live:timed(fun() -> client([parallel, Port, "/double/", 200]) end),
        live:note("~s: 200 requests in ~b ms, the client's start included", [Loop, round(Took)]),
        ?assertEqual(<<"200 of 200\n">>, Output),
        ?assertEqual(<<"50 of 50\n">>, client([converse, Port, "/shelve", 50]))
    end).

middleware(Loop) ->
    with_service(Loop, "webs:app", fun(Port) ->
        register_functions(),
        ?assertEqual(<<"200 of 200\n">>, client([parallel, Port, "/tag?i=", 200])),
        ?assertEqual(<<"20 of 20\n">>, client([converse, Port, "/talk", 20])),
        ?assertEqual(<<"200 []\n">>, client([get, Port, "/seen"])),
        ?assertEqual(<<"500 Internal Server Error\n">>, client([get, Port, "/fail"])),
        ?assertEqual(<<"200 [\"inner: ErlangError\",\"outer: ErlangError\"]\n">>, client([get, Port, "/seen"]))
    end).

limit(Loop) ->
    with_service(Loop, "webs:app", fun(Port) ->
        register_functions(),
        ?assertEqual(<<"500 Internal Server Error\n">>, client([get, Port, "/never?timeout=0.2"])),
        killed(live:expect(10000, fun({never, P}) -> {ok, P} end)),
        ?assertEqual(<<"200 [\"inner: TimeoutError\",\"outer: TimeoutError\"]\n">>, client([get, Port, "/seen"]))
    end).

%% In the other VM.
vm() ->
    application:set_env(pynode, nodes, []),
    {ok, _} = application:ensure_all_started(pynode),
    library:start().

start_vm(Name) ->
    Proc = live:os(os:getenv("ERL"), ["-noinput", "-start_epmd", "false", "-name", Name, "-pa", live:tmp("."),
                                      "-kernel", "prevent_overlapping_partitions", "false", "-kernel", "logger_level", "emergency",
                                      "-eval", atom_to_list(?MODULE) ++ ":vm(), io:format(\"vm up~n\")"], #{merge => true}),
    live:wait_line(Proc, "^vm up"),
    Proc.

service(Name, Loop, App) ->
    Port = free_port(),
    Node = live:pynode(#{args => ["--connect", Name, "--path", examples()], program => uvicorn(Loop, App, Port)}),
    listens(Port),
    {Node, Port}.

vm_killed(Loop) ->
    Name = live:unique("app") ++ "@127.0.0.1",
    Vm = start_vm(Name),
    {_, Port} = service(Name, Loop, "app:app"),
    Client = live:os("/bin/sh", ["-c", command([storm, Port, "/double/21"])], #{merge => true}),
    live:wait_line(Client, "^status 200"),
    Mark = live:mark(Client),
    live:kill(Vm),
    live:wait_line(Client, "^status 503", Mark),
    Later = live:mark(Client),
    Again = start_vm(Name),
    live:wait_line(Client, "^status 200", Later),
    ?assertEqual([], [L || L <- live:lines(Client), L =/= <<"status 200">>, L =/= <<"status 503">>]),
    live:kill(Client),
    live:kill(Again).

stops(Loop) ->
    Name = live:unique("app") ++ "@127.0.0.1",
    Vm = start_vm(Name),
    {Node, Port} = service(Name, Loop, "app:app"),
    ?assertEqual(<<"200 of 200\n">>, client([parallel, Port, "/double/", 200])),
    live:signal(Node, "TERM"),
    ?assertEqual(0, live:within(10000, fun() -> live:wait_exit(Node) end)),
    live:kill(Vm).
