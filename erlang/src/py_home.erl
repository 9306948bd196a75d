%% @private
%% py_home - where a Python node sends: gives answers to those who wait, and tells py_node all else.
%%
%% One beside each py_node, which starts it; they end together. It has no name and no supervisor: who takes a
%% row (py_table) must live to send the answer, and py_node may be killed at any time. When py_node has ended,
%% this answers what is left. Messages:
%%
%%      a list                       from the node: {Ref, Result}, and items that are for py_node
%%      {answer, Ref, Result}        of py_node: the outcome, if there is none yet
%%      {settle, Alias}              of who gives up a call (py_table)
%%      close                        of py_node, which waits for {closed, self()} and ends then
%%
%% py_node is told for each list {home, Items, Ended}, and else {ended, Ended}; Ended is [{Owner, how many of its
%% calls have their answer now}].
-module(py_home).

-export([start/1, init/2]).

-define(HEAP, 20000). % words: so much garbage is made in no time

-record(h, {py_node :: pid(),
            monitor :: reference(),
            node :: node()}).

-spec start(node()) -> {pid(), reference()}.
start(Node) ->
    {_, _} = spawn_opt(?MODULE, init, [self(), Node], [monitor, {message_queue_data, off_heap}, {min_heap_size, ?HEAP}]).

-spec init(pid(), node()) -> ok.
init(PyNode, Node) ->
    py_table:add_answerer(PyNode),
    loop(#h{py_node = PyNode, monitor = erlang:monitor(process, PyNode), node = Node}).

loop(H = #h{py_node = PyNode, monitor = Monitor}) ->
    receive
        Items when is_list(Items) ->
            {Left, Ended} = case py_table:count_calls() of
                                0 -> {spread(Items, []), []};
                                _ -> answer(Items, [], none, 0, [])
                            end,
            PyNode ! {home, Left, Ended},
            loop(H);
        {answer, Ref, Result} ->
            {[], Ended} = answer([{Ref, Result}], [], none, 0, []),
            PyNode ! {ended, Ended},
            loop(H);
        {settle, Alias} ->
            py_table:settled(Alias),
            loop(H);
        close ->
            close(H);
        {'DOWN', Monitor, process, _, _} ->
            close(H);
        Other -> % py_attached
            PyNode ! Other,
            loop(H)
    end.

%% Only calls that wait with an alias. What is left is py_node's.
spread([{Ref, Result} | Items], Left) when is_reference(Ref) ->
    Ref ! {py_response, Ref, Result},
    spread(Items, Left);
spread([Item | Items], Left) ->
    spread(Items, [Item | Left]);
spread([], Left) ->
    lists:reverse(Left).

%% Calls that have rows among them; those of one owner mostly come together.
answer([{Ref, Result} | Items], Left, Owner, Count, Ended) when is_reference(Ref) ->
    case py_table:answer_call(Ref, Result) of
        none ->
            Ref ! {py_response, Ref, Result},
            answer(Items, Left, Owner, Count, Ended);
        {_, _, Owner, _, _, _, _} ->
            answer(Items, Left, Owner, Count + 1, Ended);
        {_, _, Other, _, _, _, _} ->
            answer(Items, Left, Other, 1, [{Owner, Count} | Ended])
    end;
answer([Item | Items], Left, Owner, Count, Ended) ->
    answer(Items, [Item | Left], Owner, Count, Ended);
answer([], Left, Owner, Count, Ended) ->
    {lists:reverse(Left), [{Owner, Count} | Ended]}.

%% The node is told that it has no home any more: it would not look for another one. That may wait for ever, so another
%% process does it.
close(#h{py_node = PyNode, node = Node}) ->
    [py_table:answer_call(Ref, {error, {node_down, Node, py_node:progress(Ref, PyNode)}})
     || Ref <- py_table:calls_of(PyNode)],
    PyNode ! {closed, self()},
    Self = self(),
    spawn(fun() -> erlang:send({pynode, Node}, {detach, Self}, [noconnect]) end),
    ok.
