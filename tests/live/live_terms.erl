%% live_terms.erl - the conversion of terms, both ways, against the BEAM's own idea of equality.
-module(live_terms).

-include_lib("stdlib/include/assert.hrl").

-export([setup/0, tests/1, third_terms/2]).

setup() ->
    #{node => live:pynode(), peer => live:peer()}.

tests(#{node := #{node := N}, peer := #{node := Peer}}) ->
    [{"random terms come back as they went", fun() -> random_terms(N) end},
     {"random terms of a third node come back as they went", fun() -> from_third_node(N, Peer) end},
     {"integers of every size", fun() -> integers(N) end},
     {"floats, bit by bit, also the extremes and -0.0", fun() -> floats(N) end},
     {"binaries: valid UTF-8 is str, all other is bytes", fun() -> binaries(N) end},
     {"bitstrings of every length", fun() -> bitstrings(N) end},
     {"atoms: booleans, None, Unicode, 255 characters", fun() -> atoms(N) end},
     {"lists and charlists up to and past 65535 elements", fun() -> lists_(N) end},
     {"tuples of many elements", fun() -> tuples(N) end},
     {"maps: nested, large, with every kind of key", fun() -> maps_(N) end},
     {"a dict has the order of the map on the wire", fun() -> dict_order(N) end},
     {"a list or map as a key becomes a tuple", fun() -> odd_keys(N) end},
     {"keys that Python holds to be equal are a clear error", fun() -> equal_keys(N) end},
     {"pids, references, ports and funs of this and of a third node", fun() -> identities(N, Peer) end},
     {"they are hashable and equal to themselves", fun() -> hashable(N) end},
     {"what changes on the way: undefined, nil, {bytes,B}", fun() -> changes(N) end},
     {"Python types: what each Erlang type becomes", fun() -> kinds(N) end},
     {"Erlang types: what each Python type becomes", fun() -> made(N) end},
     {"what has no form in Erlang is a TypeError that names type and place", fun() -> refused(N) end},
     {"a registered converter is used", fun() -> converter(N) end},
     {"nesting is capped at 512, both ways", fun() -> depth(N) end},
     {"a binary of 100 MiB", fun() -> huge(N) end},
     {"a list of a million integers and a map of 20000 keys", fun() -> large(N) end},
     {"compressed size does not matter: highly repetitive terms", fun() -> repetitive(N) end},
     {"--strings bytes: every binary is bytes", fun strings_bytes/0},
     {"--none-atom undefined", fun none_atom/0},
     {"--unconvertible str", fun unconvertible/0},
     {"--max-atoms: one atom too many is that call's error", fun max_atoms/0}].

echo(N, Term) ->
    erpc:call(N, echo, echo, [Term]).

pickled(N, Term) ->
    erpc:call(N, echo, pickled, [Term]).

same(N, Term) ->
    Back = echo(N, Term),
    ?assert(Back =:= Term orelse {sent, Term, got, Back}).

%% The text of the Python exception that the call ends in, which must be of this type.
refusal(Type, Fun) ->
    {exception, {python_error, Type, Text}, _} = live:error_of(Fun),
    Text.

has(Text, Re) ->
    re:run(Text, Re, [caseless, unicode, {capture, none}]) =:= match orelse {text, Text}.

%%% ---------------------------------------------------------------- random terms

random_terms(N) ->
    Seed = seed(),
    live:note("seed ~w", [Seed]),
    rand:seed(exsss, Seed),
    [begin
         Batch = [term(6) || _ <- lists:seq(1, 20)],
         Back = echo(N, Batch),
         Batch =:= Back orelse [same(N, T) || T <- Batch],
         ?assertEqual([exact(T) || T <- Batch], [exact(T) || T <- Back])
     end || _ <- lists:seq(1, 100)].

%% The system's own randomness, without the crypto application.
seed() ->
    {ok, File} = file:open("/dev/urandom", [read, binary, raw]),
    {ok, <<A:56, B:56, C:56>>} = file:read(File, 21),
    file:close(File),
    {A, B, C}.

%% =:= takes -0.0 for 0.0 up to OTP 26: the bytes tell them apart.
exact(Term) ->
    erlang:md5(term_to_binary(Term, [deterministic])).

%% The same generator run on the other node, so that the pids and funs are of that one.
from_third_node(N, Peer) ->
    Seed = seed(),
    live:note("seed ~w", [Seed]),
    [begin
         Term = erpc:call(Peer, ?MODULE, third_terms, [Seed, I]),
         Back = echo(N, Term),
         ?assert(Back =:= Term orelse {sent, Term, got, Back}),
         ?assertEqual(exact(Term), exact(Back))
     end || I <- lists:seq(1, 40)].

third_terms({A, B, C}, I) ->
    rand:seed(exsss, {A, B, C + I}),
    [term(6) || _ <- lists:seq(1, 20)].

term(Depth) ->
    case rand:uniform(if Depth > 0 -> 17; true -> 12 end) of
        1 -> rand:uniform(256) - 1;
        2 -> sign() * rand:uniform(1 bsl 31);
        3 -> sign() * rand:uniform(1 bsl 64);
        4 -> sign() * (rand:uniform(1 bsl (8 * rand:uniform(300))) - 1);
        5 -> float_term();
        6 -> atom_term();
        7 -> rand:bytes(rand:uniform(40) - 1);
        8 -> unicode:characters_to_binary(text(rand:uniform(30) - 1));
        9 -> bits();
        10 -> text(rand:uniform(20));
        11 -> [rand:uniform(256) - 1 || _ <- lists:seq(1, rand:uniform(40))];
        12 -> identity();
        13 -> [term(Depth - 1) || _ <- lists:seq(1, rand:uniform(7) - 1)];
        14 -> list_to_tuple([term(Depth - 1) || _ <- lists:seq(1, rand:uniform(7) - 1)]);
        15 -> [term(Depth - 1)];
        16 -> {term(Depth - 1)};
        17 -> maps:from_list([{key(), term(Depth - 1)} || _ <- lists:seq(1, rand:uniform(12) - 1)])
    end.

sign() -> 3 - 2 * rand:uniform(2).

float_term() ->
    <<Bits:64>> = rand:bytes(8),
    case <<Bits:64>> of
        <<F/float>> -> F;
        _ -> rand:normal()
    end.

atom_term() ->
    case rand:uniform(4) of
        1 -> lists:nth(rand:uniform(5), [true, false, none, '', ok]);
        2 -> list_to_atom(text(rand:uniform(3)));
        _ -> list_to_atom("atom" ++ integer_to_list(rand:uniform(500)))
    end.

text(Length) ->
    [case rand:uniform(4) of
         1 -> 16#20 + rand:uniform(16#5e);
         2 -> 16#a0 + rand:uniform(16#500);
         3 -> 16#4e00 + rand:uniform(16#5000);
         4 -> 16#1f300 + rand:uniform(16#200)
     end || _ <- lists:seq(1, Length)].

bits() ->
    Size = rand:uniform(200),
    <<Bits:Size/bits, _/bits>> = rand:bytes(25),
    Bits.

identity() ->
    case rand:uniform(6) of
        1 -> self();
        2 -> make_ref();
        3 -> hd(erlang:ports());
        4 -> fun lists:map/2;
        5 -> X = rand:uniform(100), fun(Y) -> {X, Y} end;
        6 -> hd(processes())
    end.

%% Keys of which no two are equal in Python: text in binaries only, integers and no floats.
key() ->
    case rand:uniform(6) of
        1 -> rand:uniform(1000) + 1;
        2 -> -rand:uniform(1 bsl 200);
        3 -> <<"k", (unicode:characters_to_binary(text(rand:uniform(8))))/binary>>;
        4 -> list_to_atom("atom" ++ integer_to_list(rand:uniform(500)));
        5 -> {rand:uniform(1000) + 1, list_to_atom("atom" ++ integer_to_list(rand:uniform(500)))};
        6 -> identity()
    end.

%%% ------------------------------------------------------------------ type by type

integers(N) ->
    Around = fun(X) -> [X - 1, X, X + 1, -X - 1, -X, 1 - X] end,
    Ints = lists:flatmap(Around, [1, 255, 256, 1 bsl 27, 1 bsl 28, 1 bsl 30, 1 bsl 31, 1 bsl 32, 1 bsl 59, 1 bsl 60,
                                  1 bsl 62, 1 bsl 63, 1 bsl 64, 1 bsl 128, 1 bsl 2039, 1 bsl 2040, 1 bsl 2048, 1 bsl 5000]),
    ?assert(echo(N, Ints) =:= Ints),
    Huge = 1 bsl (8 * 100000) + 17,
    ?assert(echo(N, Huge) =:= Huge),
    [?assertEqual(integer_to_binary(I), erpc:call(N, echo, digits, [I])) || I <- [0, -1, 1 bsl 63, -(1 bsl 64), 1 bsl 5000 - 1]],
    ?assertEqual(1 bsl 5000, erpc:call(N, builtins, pow, [2, 5000])),
    ?assertEqual(-(1 bsl 64), erpc:call(N, builtins, int, [<<"-18446744073709551616">>])).

floats(N) ->
    Bits = [16#0000000000000000, 16#8000000000000000, 16#0000000000000001, 16#8000000000000001, 16#000fffffffffffff,
            16#0010000000000000, 16#7fefffffffffffff, 16#ffefffffffffffff, 16#3ff0000000000000, 16#3ff0000000000001,
            16#3fb999999999999a, 16#4340000000000000, 16#4340000000000001],
    Floats = [begin <<F/float>> = <<B:64>>, F end || B <- Bits],
    ?assertEqual(Bits, [begin <<B:64>> = <<F/float>>, B end || F <- echo(N, Floats)]),
    ?assert(echo(N, 1.0) =:= 1.0),
    ?assert(echo(N, 1) =:= 1).

binaries(N) ->
    Utf8 = [<<>>, <<"a">>, <<0>>, <<"žluť"/utf8>>, <<"日本語"/utf8>>, <<"🐍"/utf8>>, <<16#10ffff/utf8>>, <<16#ffff/utf8>>,
            <<16#7f>>, <<16#80/utf8>>, <<16#7ff/utf8>>, <<16#800/utf8>>, binary:copy(<<"ab">>, 100000)],
    Raw = [<<255>>, <<16#80>>, <<16#c0, 16#80>>, <<16#c1, 16#bf>>, <<16#ed, 16#a0, 16#80>>, <<16#f4, 16#90, 16#80, 16#80>>,
           <<16#e0, 16#80, 16#80>>, <<16#f0, 16#80, 16#80, 16#80>>, <<"abc", 16#c3>>, <<16#f8, 16#88, 16#80, 16#80, 16#80>>,
           binary:copy(<<255>>, 100000)],
    [same(N, B) || B <- Utf8 ++ Raw],
    ?assertEqual([<<"str">> || _ <- Utf8], erpc:call(N, echo, kinds, [Utf8])),
    ?assertEqual([<<"bytes">> || _ <- Raw], erpc:call(N, echo, kinds, [Raw])),
    ?assertEqual(3, erpc:call(N, echo, size, [<<"日本語"/utf8>>])),
    All = [<<X, Y>> || X <- lists:seq(0, 255, 5), Y <- lists:seq(0, 255, 3)],
    ?assert(echo(N, All) =:= All).

bitstrings(N) ->
    Bits = [<<X:Size>> || Size <- lists:seq(1, 40), X <- [0, 1, (1 bsl Size) - 1]],
    ?assert(echo(N, Bits) =:= Bits),
    ?assertEqual(<<"Bitstring">>, erpc:call(N, echo, kind, [<<5:3>>])),
    ?assertEqual(<<"here">>, erpc:call(N, echo, as_key, [<<5:3>>])).

atoms(N) ->
    Atoms = [true, false, none, '', ok, 'with space', 'Ünï', '日本語', '🐍', list_to_atom(lists:duplicate(255, $a)),
             list_to_atom(lists:duplicate(255, 255)), list_to_atom(lists:duplicate(255, 16#1f40d)), 'True', 'None', error],
    ?assertEqual(Atoms, echo(N, Atoms)),
    ?assertEqual([<<"bool">>, <<"bool">>, <<"NoneType">>, <<"Atom">>, <<"Atom">>],
                 erpc:call(N, echo, kinds, [[true, false, none, ok, 'True']])),
    ?assertEqual(<<"OK">>, erpc:call(N, builtins, 'str.upper', [ok])).

lists_(N) ->
    Lists = [[], [[]], [1], "abc", [0], [255], [256], [1, 256], [a | [b]], lists:duplicate(1000, []), [1.0, 1],
             [$a || _ <- lists:seq(1, 65534)], [$a || _ <- lists:seq(1, 65535)], [$a || _ <- lists:seq(1, 65536)],
             [X rem 256 || X <- lists:seq(1, 70000)]],
    [same(N, L) || L <- Lists],
    ?assertEqual([<<"list">> || _ <- Lists], erpc:call(N, echo, kinds, [Lists])),
    ?assertEqual(65535, erpc:call(N, echo, size, [[$a || _ <- lists:seq(1, 65535)]])),
    ?assertEqual(70000, erpc:call(N, echo, size, [lists:seq(1, 70000)])).

tuples(N) ->
    [same(N, T) || T <- [{}, {1}, {{}}, {1, {2, {3, {}}}}, erlang:make_tuple(255, x), erlang:make_tuple(256, 1),
                         erlang:make_tuple(70000, [])]],
    ?assertEqual(<<"tuple">>, erpc:call(N, echo, kind, [{1, 2}])).

maps_(N) ->
    Maps = [#{}, #{a => 1}, #{<<"a">> => #{b => #{{c} => []}}}, maps:from_list([{X, X * X} || X <- lists:seq(1, 32)]),
            maps:from_list([{X, X} || X <- lists:seq(1, 33)]), maps:from_list([{integer_to_binary(X), X} || X <- lists:seq(1, 5000)]),
            #{2.5 => x, 2 => y}, #{{} => 1}, #{<<255>> => raw, <<"s">> => str, <<3:2>> => bits},
            #{self() => 1, make_ref() => 2, fun lists:map/2 => 3}, #{{1, {2, <<"x">>}} => z}, #{none => 1}, #{true => 2},
            #{(1 bsl 100) => big, -1 => small}],
    [same(N, M) || M <- Maps],
    ?assertEqual(<<"dict">>, erpc:call(N, echo, kind, [#{a => 1}])).

%% The keys as they stand in the external format are what the dict must have, in that order.
dict_order(N) ->
    [begin
         Map = maps:from_list([{X, 0} || X <- Keys]),
         <<131, 116, Size:32, Pairs/binary>> = term_to_binary(Map),
         Wire = [X || <<97, X, 97, 0>> <= Pairs],
         ?assertEqual(Size, length(Wire)),
         ?assertEqual(Wire, erpc:call(N, echo, keys, [Map]))
     end || Keys <- [lists:seq(10, 1, -1), lists:seq(1, 100), lists:seq(255, 0, -1)]].

odd_keys(N) ->
    ?assertEqual(#{{1, 2} => x}, echo(N, #{[1, 2] => x})),
    ?assertEqual(#{{} => x}, echo(N, #{[] => x})),
    ?assertEqual(#{{97, 98} => x}, echo(N, #{"ab" => x})),
    ?assertEqual(#{{{a, 1}, {b, 2}} => x}, echo(N, #{#{b => 2, a => 1} => x})),
    ?assertEqual(#{{} => x}, echo(N, #{#{} => x})),
    ?assertEqual(#{{k, {1, {2}}} => x}, echo(N, #{{k, [1, [2]]} => x})),
    ?assertEqual(#{{{a, {1}}} => x}, echo(N, #{#{a => [1]} => x})).

%% No entry may be lost in silence.
equal_keys(N) ->
    [?assert(has(refusal('ValueError', fun() -> echo(N, Map) end), "key"))
     || Map <- [#{1 => a, 1.0 => b}, #{true => a, 1 => b}, #{false => a, 0 => b}, #{none => a, nil => b},
                #{none => a, undefined => b}, #{[1] => a, {1} => b}, #{{1} => a, {1.0} => b}]],
    ?assert(has(refusal('ValueError', fun() -> erpc:call(N, echo, make, [<<"equal keys">>]) end), "key")),
    ?assert(has(refusal('ValueError', fun() -> echo(N, #{foo => 1, <<"foo">> => 2}) end), "key")).

identities(N, Peer) ->
    X = rand:uniform(1000),
    Local = [self(), make_ref(), hd(erlang:ports()), fun() -> X end, fun lists:map/2, fun ?MODULE:tests/1, alias()],
    Third = erpc:call(Peer, erlang, apply, [fun() -> [self(), make_ref(), hd(erlang:ports()), fun() -> X end, alias()] end, []]),
    Python = [spawn(N, math, sqrt, [4])],
    [same(N, T) || T <- Local ++ Third ++ Python],
    [?assertEqual(T, pickled(N, T)) || T <- Local ++ Third ++ Python],
    [F1, F2] = [lists:nth(4, echo(N, L)) || L <- [Local, Third]],
    ?assertEqual([X, X], [F1(), F2()]),
    ?assertEqual([<<"Pid">>, <<"Ref">>, <<"Port">>, <<"Fun">>, <<"Fun">>, <<"Fun">>, <<"Ref">>],
                 erpc:call(N, echo, kinds, [Local])),
    Big = list_to_binary(lists:duplicate(5000, $x)),
    Closure = fun(Y) -> {Big, Y, self()} end,
    same(N, Closure).

hashable(N) ->
    [begin
         ?assertEqual(<<"here">>, erpc:call(N, echo, as_key, [T])),
         ?assertEqual(true, erpc:call(N, echo, same, [T, T])),
         ?assertEqual(false, erpc:call(N, echo, same, [T, {T}]))
     end || T <- [self(), make_ref(), hd(erlang:ports()), fun lists:map/2, ok, <<5:3>>]],
    ?assertEqual(false, erpc:call(N, echo, same, [make_ref(), make_ref()])),
    ?assertEqual(false, erpc:call(N, echo, same, [self(), spawn(fun() -> ok end)])).

changes(N) ->
    ?assertEqual([none, none, none, none], echo(N, [undefined, nil, none, none])),
    ?assertEqual([<<"NoneType">>, <<"NoneType">>, <<"NoneType">>], erpc:call(N, echo, kinds, [[undefined, nil, none]])),
    ?assertEqual(<<"text">>, echo(N, {bytes, <<"text">>})),
    ?assertEqual(<<"bytes">>, erpc:call(N, echo, kind, [{bytes, <<"text">>}])),
    ?assertEqual(<<"bytes">>, erpc:call(N, echo, kind, [{bytes, <<>>}])),
    ?assertEqual([{bytes, 1}, {bytes, "x"}, {bytes}], echo(N, [{bytes, 1}, {bytes, "x"}, {bytes}])).

kinds(N) ->
    ?assertEqual([<<"bool">>, <<"int">>, <<"int">>, <<"float">>, <<"str">>, <<"bytes">>, <<"Bitstring">>, <<"list">>,
                  <<"list">>, <<"tuple">>, <<"dict">>, <<"Pid">>, <<"Ref">>, <<"Atom">>, <<"NoneType">>],
                 erpc:call(N, echo, kinds, [[true, 1, 1 bsl 100, 1.0, <<"s">>, <<255>>, <<1:1>>, [], "s", {}, #{}, self(),
                                             make_ref(), atom, none]])).

made(N) ->
    Make = fun(What) -> erpc:call(N, echo, make, [What]) end,
    Seven = 7,
    [?assertEqual(Want, Make(What))
     || {What, Want} <- [{<<"set">>, [Seven]}, {<<"frozenset">>, [Seven]}, {<<"namedtuple">>, {1, 2}},
                         {<<"bytearray">>, <<255, 0>>}, {<<"memoryview">>, <<"bc">>}, {<<"array">>, <<1, 2, 255>>},
                         {<<"tolist">>, [[1, 2], [3, 4]]}, {<<"subclass">>, <<"text">>}, {<<"nan">>, nan},
                         {<<"inf">>, infinity}, {<<"-inf">>, neg_infinity}, {<<"none">>, none}, {<<"str">>, <<"plain">>},
                         {<<"atom">>, 'made here'}, {<<"atom()">>, 'made here'},
                         {<<"atom255">>, list_to_atom(lists:duplicate(255, 255))}, {<<"bits">>, <<255, 7:3>>},
                         {<<"big">>, big(7, 1000)}, {<<"ordered">>, #{<<"a">> => 2, <<"m">> => 3, <<"z">> => 1}}]],
    ?assertMatch({exception, {python_error, _, _}, _}, live:error_of(fun() -> Make(<<"atom256">>) end)).

big(_, 0) -> 1;
big(X, N) -> X * big(X, N - 1).

refused(N) ->
    [?assert(has(refusal('TypeError', fun() -> erpc:call(N, echo, make, [What]) end), Type))
     || {What, Type} <- [{<<"enum">>, "Colour"}, {<<"decimal">>, "Decimal"}, {<<"uuid">>, "UUID"}, {<<"complex">>, "complex"},
                         {<<"generator">>, "generator"}, {<<"module">>, "module"}, {<<"function">>, "function"},
                         {<<"unknown">>, "Unknown"}]],
    Place = refusal('TypeError', fun() -> erpc:call(N, echo, make, [<<"in a dict">>]) end),
    ?assert(has(Place, "^result\\['k'\\]\\[1\\]\\[0\\]: .*Unknown")),
    Improper = refusal('TypeError', fun() -> echo(N, #{<<"key">> => [x, {y, [1 | 2]}]}) end),
    ?assert(has(Improper, "^args\\[0\\]\\['key'\\]\\[1\\]\\[1\\]: an improper list")),
    ?assert(has(refusal('ValueError', fun() -> erpc:call(N, builtins, pow, [2, 5000000]) end), "too large")).

converter(N) ->
    none = erpc:call(N, echo, convert_decimals, []),
    ?assertEqual({decimal, <<"1.5">>}, erpc:call(N, echo, make, [<<"decimal">>])).

depth(N) ->
    Nest = fun(Depth) -> lists:foldl(fun(_, T) -> [T] end, [], lists:seq(1, Depth)) end,
    same(N, Nest(480)),
    [?assert(has(refusal('ValueError', fun() -> echo(N, Nest(D)) end), "depth|deep|nest")) || D <- [600, 100000, 2000000]],
    Tuples = lists:foldl(fun(_, T) -> {T} end, {}, lists:seq(1, 100000)),
    ?assert(has(refusal('ValueError', fun() -> echo(N, Tuples) end), "depth|deep|nest")),
    Maps = lists:foldl(fun(_, T) -> #{a => T} end, #{}, lists:seq(1, 10000)),
    ?assert(has(refusal('ValueError', fun() -> echo(N, Maps) end), "depth|deep|nest")),
    Keys = lists:foldl(fun(_, T) -> #{T => a} end, #{}, lists:seq(1, 1000)),
    ?assert(has(refusal('ValueError', fun() -> echo(N, Keys) end), "depth|deep|nest")),
    ?assert(has(refusal('ValueError', fun() -> erpc:call(N, faulty, deep, [100000]) end), "depth|deep|nest")),
    ?assertEqual(pong, net_adm:ping(N)).

huge(N) ->
    Size = 100 * 1024 * 1024,
    Bin = binary:copy(<<255, 0:24, "pynode ", 254>>, Size div 12),
    ?assertEqual(byte_size(Bin), erpc:call(N, echo, size, [Bin])),
    ?assert(echo(N, Bin) =:= Bin),
    ?assertEqual(pong, net_adm:ping(N)).

large(N) ->
    List = lists:seq(1, 1000000),
    ?assert(echo(N, List) =:= List),
    ?assertEqual(500000500000, erpc:call(N, builtins, sum, [List])),
    Map = maps:from_list([{integer_to_binary(X), X / 7} || X <- lists:seq(1, 20000)]),
    ?assert(echo(N, Map) =:= Map).

repetitive(N) ->
    Item = {item, <<"the same">>, [1, 2, 3], #{k => v}},
    Term = lists:duplicate(20000, Item),
    ?assert(echo(N, Term) =:= Term).

%%% --------------------------------------------------------------------- settings

strings_bytes() ->
    ?assertEqual(11, erpc:call(maps:get(node, live:pynode(#{args => ["--strings", "bytes"]})), builtins, int,
                               [<<"b">>, {'$kwargs', #{<<"base">> => 16}}])),
    #{node := N} = live:pynode(#{args => ["--strings", "bytes"]}),
    ?assertEqual([<<"bytes">>, <<"bytes">>], erpc:call(N, echo, kinds, [[<<"text">>, <<255>>]])),
    ?assertEqual(<<"text">>, echo(N, <<"text">>)),
    ?assertEqual(<<"str">>, erpc:call(N, echo, echo, [<<"str">>])),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])).

none_atom() ->
    #{node := N} = live:pynode(#{args => ["--none-atom", "undefined"]}),
    ?assertEqual([undefined, undefined, undefined], echo(N, [none, nil, undefined])),
    ?assertEqual(undefined, erpc:call(N, gc, enable, [])).

unconvertible() ->
    #{node := N} = live:pynode(#{args => ["--unconvertible", "str"]}),
    ?assertEqual(<<"an unknown thing">>, erpc:call(N, echo, make, [<<"unknown">>])),
    ?assertEqual(#{<<"k">> => [0, {<<"an unknown thing">>}]}, erpc:call(N, echo, make, [<<"in a dict">>])),
    ?assertEqual(<<"1.5">>, erpc:call(N, echo, make, [<<"decimal">>])),
    ?assertMatch(<<"/", _/binary>>, erpc:call(N, pathlib, 'Path.cwd', [])).

max_atoms() ->
    #{node := N} = live:pynode(#{args => ["--max-atoms", "2000"]}),
    Atoms = [list_to_atom("cap" ++ integer_to_list(X)) || X <- lists:seq(1, 3000)],
    ?assertEqual(lists:sublist(Atoms, 100), echo(N, lists:sublist(Atoms, 100))),
    Text = refusal('ValueError', fun() -> echo(N, Atoms) end),
    ?assert(has(Text, "atom")),
    ?assert(has(refusal('ValueError', fun() -> erpc:call(N, echo, make, [<<"atoms">>]) end), "atom")),
    ?assertEqual(lists:sublist(Atoms, 100), echo(N, lists:sublist(Atoms, 100))),
    ?assertEqual(<<"text">>, echo(N, <<"text">>)),
    ?assertEqual(2.0, erpc:call(N, math, sqrt, [4])),
    ?assertEqual(pong, net_adm:ping(N)).
