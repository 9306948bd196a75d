%% live.erl - what every live test stands on: TAP, OS processes, Python nodes, peer BEAMs, gates.
%%
%% A test module live_X exports setup/0 -> Ctx and tests(Ctx) -> [{Sentence, Fun}]. Cases run one
%% after another, each in a process of its own; {background, Sentence, Fun} runs beside the others
%% from the beginning. A case passes when its fun returns. What a case has started (pynode/1, peer/1,
%% os/3) is killed when it ends; what setup/0 has started lives until the last case is through, and
%% its nodes must then leave with status 0 on SIGTERM and without a sanitizer's complaint.
-module(live).

-export([main/1]).
-export([pynode/1, pynode/0, stop/1, cookie/0, cookie_file/0, tmp/1, py/1, unique/1]).
-export([peer/0, peer/1, peers/1, os/3, sh/1, sh/2, kill/1]).
-export([signal/2, os_signal/2, wait_exit/1, wait_exit/2, wait_line/2, wait_line/3, mark/1, lines/1, stdout/1]).
-export([gate/0, entered/1, open/1]).
-export([ms/1, within/2, timed/1, eventually/1, eventually/2, expect/2, flush/0, pmap/2, note/2]).
-export([error_of/1, exit_of/1, is_odd/1]).

-define(CASE_LIMIT, 60000).
-define(WAIT_LIMIT, 15000).
-define(GIVE_UP, 3).
-define(SLOW, 1000).

%%% ------------------------------------------------------------------ the run

%% Runs the module's cases and ends the VM with status 0 if all passed.
main([Module]) ->
    process_flag(trap_exit, true),
    ets:new(live_os, [named_table, public, ordered_set]),
    ets:new(live_count, [named_table]),
    io:setopts([{encoding, unicode}]),
    try run(Module) of
        true -> halt(0);
        false -> halt(1)
    catch
        C:R:S ->
            io:format("Bail out! ~ts~n", [one_line(io_lib:format("~tp:~tp", [C, R]))]),
            diagnose(io_lib:format("~tp", [S])),
            diagnose_nodes([self()]),
            halt(99)
    end.

run(Module) ->
    Ctx = Module:setup(),
    Tests = Module:tests(Ctx),
    io:format("1..~b~n", [length(Tests) + 1]),
    Behind = [{Name, start_case(Fun)} || {background, Name, Fun} <- Tests],
    Front = [report(Name, finish_case(start_case(Fun))) || {Name, Fun} <- Tests],
    Back = [report(Name, finish_case(Case)) || {Name, Case} <- Behind],
    Last = report("the nodes leave with status 0 on SIGTERM, nothing odd in their logs",
                  finish_case(start_case(fun end_nodes/0))),
    lists:all(fun(Ok) -> Ok end, [Last | Front ++ Back]).

start_case(Fun) ->
    spawn_monitor(fun() ->
                          try timed(Fun) of
                              {Took, _} -> exit({passed, Took})
                          catch
                              C:R:S -> exit({failed, C, R, S})
                          end
                  end).

finish_case({Pid, Ref}) ->
    Result = receive
                 {'DOWN', Ref, process, Pid, Reason} -> Reason
             after ms(?CASE_LIMIT) ->
                     Where = process_info(Pid, current_stacktrace),
                     exit(Pid, kill),
                     receive {'DOWN', Ref, process, Pid, _} -> {too_long, Where} end
             end,
    element(1, Result) =:= passed orelse diagnose_nodes([self(), Pid]),
    [os_kill(Proc) || {Proc, #{owner := Owner}} <- ets:tab2list(live_os), Owner =:= Pid],
    Result.

report(Name, {passed, Took}) ->
    Took < ?SLOW orelse note("~.1f s:", [Took / 1000]),
    io:format("ok - ~ts~n", [Name]),
    true;
report(Name, Failure) ->
    io:format("not ok - ~ts~n", [Name]),
    diagnose(failure_text(Failure)),
    give_up(Failure),
    false.

%% A node that answers nothing would cost a minute a case.
give_up({too_long, _}) ->
    Count = ets:update_counter(live_count, too_long, 1, {too_long, 0}),
    Count < ?GIVE_UP orelse throw({given_up, Count, cases_took_too_long});
give_up(_) ->
    ok.

%% An assertion of assert.hrl has its facts in a list: one a line reads better than ~p of it all.
failure_text({failed, error, {Kind, Facts}, Stack}) when is_list(Facts), is_atom(Kind) ->
    [io_lib:format("~s~n", [Kind]),
     [try io_lib:format("  ~s: ~ts~n", [K, cut(value_text(V))])
      catch _:_ -> io_lib:format("  ~tP~n", [{K, V}, 60]) end || {K, V} <- Facts],
     cut(io_lib:format("  at ~tP", [Stack, 200]))];
failure_text({failed, Class, Reason, Stack}) ->
    [cut(io_lib:format("~s: ~tP", [Class, Reason, 200])), "\n", cut(io_lib:format("  at ~tP", [Stack, 200]))];
failure_text(Other) ->
    cut(io_lib:format("~tP", [Other, 200])).

value_text(V) ->
    case io_lib:printable_unicode_list(V) of
        true -> V;
        false -> io_lib:format("~tP", [V, 200])
    end.

cut(Text) ->
    cut(unicode:characters_to_list(Text), 3000).

cut(Text, Length) when is_list(Text) -> string:slice(Text, 0, Length);
cut(_, _) -> "(not UTF-8)".

one_line(Text) ->
    lists:join(" ", string:lexemes(unicode:characters_to_list(Text), "\n ")).

diagnose(Text) ->
    [io:format("# ~ts~n", [L]) || L <- string:split(unicode:characters_to_list(Text), "\n", all)].

%% A line of diagnostics, also from a case that passes (a seed, a measured figure).
note(Format, Args) ->
    diagnose(io_lib:format(Format, Args)).

%% The end of what the programs of these owners have said: what one wants to see when a case failed.
diagnose_nodes(Owners) ->
    [begin
         Lines = try lines(Proc) catch _:_ -> [] end,
         Last = lists:nthtail(max(0, length(Lines) - 12), Lines),
         diagnose(["--- ", What]),
         diagnose(lists:join("\n", [cut(unicode:characters_to_list(L), 300) || L <- Last]))
     end || {Proc, #{what := What, owner := Owner}} <- ets:tab2list(live_os), lists:member(Owner, Owners)].

end_nodes() ->
    Nodes = [Proc || {Proc, #{kind := node}} <- ets:tab2list(live_os)],
    [signal(Proc, "TERM") || Proc <- Nodes],
    Ends = [{wait_exit(Proc, 40000), odd_lines(Proc)} || Proc <- Nodes],
    Ends = [{0, []} || _ <- Nodes].

%% Lines that no healthy node writes: of a sanitizer, valgrind, the interpreter's end, an abort.
odd_lines(Proc) ->
    [L || L <- lines(Proc), is_odd(L)].

is_odd(Line) ->
    re:run(Line, "Sanitizer|runtime error:|Fatal Python|fatal|ERROR SUMMARY: [1-9]|"
           "Exception ignored|assert", [{capture, none}]) =:= match.

%%% ------------------------------------------------------------- time and waiting

%% Milliseconds stretched for slow builds: LIVE_FACTOR=10 under valgrind.
ms(Ms) ->
    Ms * list_to_integer(os:getenv("LIVE_FACTOR", "1")).

%% The fun's value; a failure if it took longer than the limit.
within(Ms, Fun) ->
    {Took, Value} = timed(Fun),
    case Took =< ms(Ms) of
        true -> Value;
        false -> error({too_slow, [{limit_ms, ms(Ms)}, {took_ms, Took}, {value, Value}]})
    end.

%% {Milliseconds, Value}, the former a float.
timed(Fun) ->
    T0 = erlang:monotonic_time(microsecond),
    Value = Fun(),
    {(erlang:monotonic_time(microsecond) - T0) / 1000, Value}.

%% Waits until the fun gives true, for states that announce themselves by no event.
eventually(Fun) ->
    eventually(?WAIT_LIMIT, Fun).

eventually(Limit, Fun) ->
    eventually_until(erlang:monotonic_time(millisecond) + ms(Limit), Fun).

eventually_until(End, Fun) ->
    case Fun() of
        true -> true;
        Other ->
            case erlang:monotonic_time(millisecond) < End of
                true ->
                    receive after 10 -> ok end,
                    eventually_until(End, Fun);
                false -> error({never, [{last, Other}]})
            end
    end.

%% The next message that the fun takes (it answers {ok, V}); others stay in the mailbox.
expect(Limit, Fun) ->
    expect(erlang:monotonic_time(millisecond) + ms(Limit), Fun, []).

expect(End, Fun, Seen) ->
    receive
        Msg ->
            try Fun(Msg) of
                {ok, Value} ->
                    [self() ! M || M <- lists:reverse(Seen)],
                    Value
            catch
                error:function_clause -> expect(End, Fun, [Msg | Seen])
            end
    after max(0, End - erlang:monotonic_time(millisecond)) ->
            error({no_message, [{mailbox, lists:reverse(Seen)}]})
    end.

%% Empties the mailbox and gives what was in it.
flush() ->
    receive M -> [M | flush()] after 0 -> [] end.

%% The fun over all the list at once, each in a process of its own; the values in order.
pmap(Fun, List) ->
    Refs = [element(2, spawn_monitor(fun() -> exit({pmap, Fun(X)}) end)) || X <- List],
    [receive
         {'DOWN', Ref, process, _, {pmap, V}} -> V;
         {'DOWN', Ref, process, _, Other} -> error({pmap, [{reason, Other}]})
     end || Ref <- Refs].

%% {Reason} of the error that the fun raises, {returned, V} if it raises none.
error_of(Fun) ->
    try Fun() of V -> {returned, V} catch error:R -> R end.

exit_of(Fun) ->
    try Fun() of V -> {returned, V} catch exit:R -> R end.

%%% ---------------------------------------------------------------- OS processes

%% Starts a program. Its stderr comes in line by line; stdout goes to a file (stdout/1), or comes
%% in with stderr for merge => true. Its owner is the calling process.
os(Cmd, Args, Opts) ->
    Owner = self(),
    Ref = make_ref(),
    Proc = spawn(fun() -> os_init(Owner, Ref, Cmd, Args, Opts) end),
    receive {Ref, started} -> Proc after 10000 -> error({not_started, [{cmd, Cmd}]}) end.

os_init(Owner, Ref, Cmd, Args, Opts) ->
    Out = tmp(unique("out")),
    Redirect = case Opts of
                   #{merge := true} -> "2>&1";
                   #{} -> "2>&1 >\"$out\""
               end,
    Script = "out=$1; shift; exec \"$@\" </dev/null " ++ Redirect,
    Port = open_port({spawn_executable, "/bin/sh"},
                     [{args, ["-c", Script, "sh", Out, Cmd | Args]}, {line, 65536}, binary, exit_status,
                      {env, maps:get(env, Opts, [])}, {cd, maps:get(cd, Opts, tmp("."))}]),
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    ets:insert(live_os, {self(), #{owner => Owner, os_pid => OsPid, out => Out,
                                   kind => maps:get(kind, Opts, program),
                                   what => lists:join(" ", [filename:basename(Cmd) | Args])}}),
    Owner ! {Ref, started},
    os_loop(#{port => Port, lines => [], part => [], status => running, waiters => []}).

os_loop(S = #{port := Port, lines := Lines, part := Part, waiters := Waiters}) ->
    receive
        {Port, {data, {noeol, Bin}}} ->
            os_loop(S#{part := [Part, Bin]});
        {Port, {data, {eol, Bin}}} ->
            Line = iolist_to_binary([Part, Bin]),
            os_loop(os_serve(S#{part := [], lines := [{length(Lines) + 1, Line} | Lines]}));
        {Port, {exit_status, Status}} ->
            os_loop(os_serve(S#{status := Status}));
        {lines, From, Ref} ->
            From ! {Ref, [L || {_, L} <- lists:reverse(Lines)]},
            os_loop(S);
        {wait, From, Ref, What} ->
            os_loop(os_serve(S#{waiters := [{From, Ref, What} | Waiters]}));
        {cancel, Ref} ->
            os_loop(S#{waiters := lists:keydelete(Ref, 2, Waiters)})
    end.

%% Answers the waiters whose line or end has come.
os_serve(S = #{waiters := Waiters}) ->
    Left = [W || W = {From, Ref, What} <- Waiters,
                 case os_ready(What, S) of
                     wait -> true;
                     Answer -> From ! {Ref, Answer}, false
                 end],
    S#{waiters := Left}.

os_ready(exit, #{status := running}) -> wait;
os_ready(exit, #{status := Status}) -> {ok, Status};
os_ready({line, After, Re}, #{lines := Lines, status := Status}) ->
    Match = fun({N, L}) -> N > After andalso re:run(L, Re, [{capture, none}]) =:= match end,
    case lists:filter(Match, Lines) of
        [] when Status =:= running -> wait;
        [] -> {exited, Status};
        Found -> {ok, element(2, lists:last(Found))}
    end.

os_ask(Proc, What, Limit) ->
    Ref = make_ref(),
    proc(Proc) ! {wait, self(), Ref, What},
    receive
        {Ref, {ok, Value}} -> Value;
        {Ref, Other} -> error({What, [{got, Other}, {lines, lines(Proc)}]})
    after ms(Limit) ->
            proc(Proc) ! {cancel, Ref},
            error({What, [{got, nothing}, {limit, Limit}, {lines, lines(Proc)}]})
    end.

proc(#{proc := Proc}) -> Proc;
proc(Proc) when is_pid(Proc) -> Proc.

os_info(Proc) ->
    [{_, Info}] = ets:lookup(live_os, proc(Proc)),
    Info.

%% The exit status, 128 + signal if a signal was its end.
wait_exit(Proc) ->
    wait_exit(Proc, ?WAIT_LIMIT).

wait_exit(Proc, Limit) ->
    os_ask(Proc, exit, Limit).

%% The first line of stderr that matches; after a mark/1: the first one after it.
wait_line(Proc, Re) ->
    wait_line(Proc, Re, 0).

wait_line(Proc, Re, After) ->
    os_ask(Proc, {line, After, Re}, ?WAIT_LIMIT).

mark(Proc) ->
    length(lines(Proc)).

lines(Proc) ->
    Ref = make_ref(),
    proc(Proc) ! {lines, self(), Ref},
    receive {Ref, Lines} -> Lines after 5000 -> error(os_gone) end.

stdout(Proc) ->
    #{out := Out} = os_info(Proc),
    case file:read_file(Out) of
        {ok, Bin} -> Bin;
        {error, enoent} -> <<>>
    end.

%% Sends a signal by its name, to a program of ours that runs still.
signal(Proc, Name) ->
    #{os_pid := OsPid} = os_info(Proc),
    os_signal(OsPid, Name).

%% Signals a process of the system. One that is to stop has stopped then: kill(1) returns when one of
%% its threads has heard of it, and on a busy machine the others go on for a while.
os_signal(OsPid, Name) ->
    {0, _} = sh("kill -" ++ Name ++ " " ++ integer_to_list(OsPid)),
    Name =/= "STOP" orelse eventually(fun() -> thread_states(OsPid) =:= "T" orelse thread_states(OsPid) end),
    ok.

%% The states that its threads are in, a letter each (proc(5)).
thread_states(OsPid) ->
    lists:usort([hd(string:trim(lists:last(string:split(binary_to_list(Stat), ")", trailing))))
                 || File <- filelib:wildcard("/proc/" ++ integer_to_list(OsPid) ++ "/task/*/stat"),
                    {ok, Stat} <- [file:read_file(File)]]).

%% Kills at once and waits for its end.
kill(Proc) ->
    signal(Proc, "KILL"),
    wait_exit(Proc).

%% Kills without a word if it runs still, and forgets it.
os_kill(Proc) ->
    #{os_pid := OsPid} = os_info(Proc),
    Ref = make_ref(),
    Proc ! {wait, self(), Ref, exit},
    receive
        {Ref, _} -> ok
    after 0 ->
            sh("kill -KILL " ++ integer_to_list(OsPid)),
            receive {Ref, _} -> ok after 10000 -> ok end
    end,
    exit(Proc, kill),
    ets:delete(live_os, Proc).

%% {Status, Output} of a shell command.
sh(Command) ->
    sh(Command, []).

sh(Command, Env) ->
    Port = open_port({spawn_executable, "/bin/sh"},
                     [{args, ["-c", Command]}, exit_status, binary, stderr_to_stdout, {env, Env}]),
    sh_loop(Port, []).

sh_loop(Port, Acc) ->
    receive
        {Port, {data, Bin}} -> sh_loop(Port, [Acc, Bin]);
        {Port, {exit_status, Status}} -> {Status, iolist_to_binary(Acc)}
    end.

%%% ----------------------------------------------------------------- Python nodes

pynode() ->
    pynode(#{}).

%% Starts pynode and waits for its ready line. args: further options; program: what follows them;
%% name, env, cookie => none (no --cookie-file); ready => false: do not wait.
pynode(Opts) ->
    Name = maps:get(name, Opts, unique("py") ++ "@127.0.0.1"),
    Cookie = case Opts of
                 #{cookie := none} -> [];
                 #{} -> ["--cookie-file", cookie_file()]
             end,
    Args = ["--name", Name] ++ Cookie ++ ["--path", py("")] ++ maps:get(args, Opts, [])
        ++ maps:get(program, Opts, []),
    Proc = os(os:getenv("PYNODE"), Args, Opts#{kind => node}),
    #{os_pid := OsPid} = os_info(Proc),
    Node = #{proc => Proc, os_pid => OsPid, node => list_to_atom(Name), name => Name},
    case Opts of
        #{ready := false} -> Node;
        #{} ->
            Line = wait_line(Proc, "ready: "),
            {match, [Port]} = re:run(Line, "port ([0-9]+)", [{capture, [1], list}]),
            Node#{port => list_to_integer(Port), ready => Line}
    end.

%% SIGTERM and the exit status.
stop(Node) ->
    signal(Node, "TERM"),
    wait_exit(Node, 40000).

%% A name that no other of this run has.
unique(Prefix) ->
    Prefix ++ integer_to_list(erlang:unique_integer([positive])).

cookie() ->
    atom_to_list(erlang:get_cookie()).

cookie_file() ->
    tmp(".erlang.cookie").

%% A path in this run's own directory, which is empty at start and removed at the end.
tmp(File) ->
    filename:join(os:getenv("LIVE_TMP"), File).

%% A path among the Python modules of the tests.
py("") ->
    filename:join(os:getenv("LIVE_SRC"), "py");
py(File) ->
    filename:join([os:getenv("LIVE_SRC"), "py", File]).

%%% ------------------------------------------------------------------- peer BEAMs

peer() ->
    peer([]).

%% Starts a BEAM of its own, with this run's code path and cookie.
peer(Args) ->
    peer_up(peer_start(Args)).

%% That many of them, started at the same time.
peers(Count) ->
    [peer_up(Peer) || Peer <- [peer_start([]) || _ <- lists:seq(1, Count)]].

peer_start(Args) ->
    Name = unique("peer") ++ "@127.0.0.1",
    Proc = os(os:getenv("ERL"),
              ["-noinput", "-start_epmd", "false", "-name", Name, "-pa", tmp("."),
               "-kernel", "prevent_overlapping_partitions", "false",
               "-kernel", "logger_level", "emergency"] ++ Args
              ++ ["-eval", "io:format(\"peer up~n\")"], #{merge => true}),
    #{proc => Proc, node => list_to_atom(Name)}.

peer_up(Peer = #{node := Name}) ->
    wait_line(Peer, "^peer up"),
    pong = net_adm:ping(Name),
    Peer.

%%% ------------------------------------------------------------------------ gates

%% A door that Python code waits at (py/gate.py): the test knows when a call has come in
%% (entered/1) and lets it go on (open/1), without a clock.
gate() ->
    {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}, {backlog, 512}]),
    {ok, Port} = inet:port(Listen),
    #{listen => Listen, port => Port}.

entered(#{listen := Listen}) ->
    case gen_tcp:accept(Listen, ms(?WAIT_LIMIT)) of
        {ok, Socket} -> Socket;
        {error, Reason} -> error({nobody_entered, [{reason, Reason}]})
    end.

open(Socket) ->
    ok = gen_tcp:send(Socket, "go\n"),
    gen_tcp:close(Socket).
