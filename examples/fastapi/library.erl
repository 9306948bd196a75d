%% library - a gen_server that has books, and the functions of it that app.py calls.
-module(library).
-behaviour(gen_server).

-export([start/0, page/2, add/1]).
-export([init/1, handle_call/3, handle_cast/2]).

-spec start() -> ok.
start() ->
    {ok, _} = gen_server:start({local, ?MODULE}, ?MODULE, [], []),
    ok = py:register_function(double_it, fun([X]) -> 2 * X end),
    ok = py:register_function(books, ?MODULE, page),
    ok = py:register_function(add_book, ?MODULE, add).

%% The books of a page, from 1, and how many there are in all.
-spec page(pos_integer(), pos_integer()) -> #{binary() => term()}.
page(Page, Size) ->
    gen_server:call(?MODULE, {page, Page, Size}).

%% How many there are then.
-spec add(binary()) -> pos_integer().
add(Title) ->
    gen_server:call(?MODULE, {add, Title}).

-spec init([]) -> {ok, [binary()]}.
init([]) ->
    {ok, [<<"Book ", (integer_to_binary(I))/binary>> || I <- lists:seq(1, 42)]}.

-spec handle_call(term(), gen_server:from(), [binary()]) -> {reply, term(), [binary()]}.
handle_call({page, Page, Size}, _From, Books) ->
    Skipped = lists:nthtail(min((Page - 1) * Size, length(Books)), Books),
    {reply, #{<<"page">> => Page, <<"total">> => length(Books), <<"books">> => lists:sublist(Skipped, Size)}, Books};
handle_call({add, Title}, _From, Books) ->
    {reply, length(Books) + 1, Books ++ [Title]}.

-spec handle_cast(term(), [binary()]) -> {noreply, [binary()]}.
handle_cast(_, Books) ->
    {noreply, Books}.
