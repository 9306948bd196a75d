/* test_etf.c - the reader of the external term format, above all on bytes that lie, and the writer.
 *
 * Every input is copied into a block of just its length, so that AddressSanitizer sees a read of
 * one byte too many.
 */
#include "config.h"

#include "etf.h"
#include "tap.h"

/* One encoded term. */
struct sample {
    const char *name;
    const char *bytes;
    size_t len;
};

#define SAMPLE(name, bytes) \
    { name, bytes, sizeof bytes - 1 }

#define NODE   \
    "\x77\x03" \
    "a@b"

static const struct sample samples[] = {
    SAMPLE("SMALL_INTEGER", "\x61\x07"),
    SAMPLE("INTEGER", "\x62\xff\xff\xff\xfe"),
    SAMPLE("SMALL_BIG", "\x6e\x03\x01\x01\x02\x03"),
    SAMPLE("SMALL_BIG of no bytes", "\x6e\x00\x00"),
    SAMPLE("LARGE_BIG", "\x6f\x00\x00\x00\x02\x00\x01\x02"),
    SAMPLE("NEW_FLOAT", "\x46\x3f\xf0\x00\x00\x00\x00\x00\x00"),
    SAMPLE("FLOAT", "\x63"
                    "1.00000000000000000000e+00\0\0\0\0\0"),
    SAMPLE("SMALL_ATOM_UTF8", "\x77\x02ok"),
    SAMPLE("ATOM_UTF8", "\x76\x00\x02ok"),
    SAMPLE("SMALL_ATOM", "\x73\x02ok"),
    SAMPLE("ATOM", "\x64\x00\x02ok"),
    SAMPLE("empty atom", "\x77\x00"),
    SAMPLE("NIL", "\x6a"),
    SAMPLE("STRING", "\x6b\x00\x03"
                     "abc"),
    SAMPLE("BINARY", "\x6d\x00\x00\x00\x03"
                     "abc"),
    SAMPLE("empty BINARY", "\x6d\x00\x00\x00\x00"),
    SAMPLE("BIT_BINARY", "\x4d\x00\x00\x00\x02\x05"
                         "ab"),
    SAMPLE("LIST", "\x6c\x00\x00\x00\x02\x61\x01\x61\x02\x6a"),
    SAMPLE("improper LIST", "\x6c\x00\x00\x00\x01\x61\x01\x61\x02"),
    SAMPLE("SMALL_TUPLE", "\x68\x02\x61\x01\x6a"),
    SAMPLE("empty tuple", "\x68\x00"),
    SAMPLE("LARGE_TUPLE", "\x69\x00\x00\x00\x02\x61\x01\x6a"),
    SAMPLE("MAP", "\x74\x00\x00\x00\x02\x61\x01\x61\x02\x61\x03\x61\x04"),
    SAMPLE("empty MAP", "\x74\x00\x00\x00\x00"),
    SAMPLE("NEW_PID", "\x58" NODE "\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03"),
    SAMPLE("PID", "\x67" NODE "\x00\x00\x00\x01\x00\x00\x00\x02\x03"),
    SAMPLE("NEW_PORT", "\x59" NODE "\x00\x00\x00\x01\x00\x00\x00\x02"),
    SAMPLE("V4_PORT", "\x78" NODE "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02"),
    SAMPLE("PORT", "\x66" NODE "\x00\x00\x00\x01\x02"),
    SAMPLE("NEWER_REF", "\x5a\x00\x02" NODE "\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03"),
    SAMPLE("NEWER_REF of 5",
           "\x5a\x00\x05" NODE "\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0\5\0\0\0\6"),
    SAMPLE("NEW_REFERENCE", "\x72\x00\x01" NODE "\x01\x00\x00\x00\x02"),
    SAMPLE("REFERENCE", "\x65" NODE "\x00\x00\x00\x01\x02"),
    SAMPLE("EXPORT", "\x71\x77\x01m\x77\x01"
                     "f\x61\x02"),
    SAMPLE("NEW_FUN", "\x70\x00\x00\x00\x29\x01"
                      "0123456789abcdef"
                      "\x00\x00\x00\x02\x00\x00\x00\x01"
                      "\x77\x01m\x61\x02\x61\x03\x58" NODE "\0\0\0\1\0\0\0\2\0\0\0\3\x6a"),
    SAMPLE("nested", "\x68\x02\x6c\x00\x00\x00\x01\x74\x00\x00\x00\x01\x6a\x6a\x6a\x77\x01z"),
};

enum { SAMPLES = sizeof samples / sizeof *samples };

/* A copy of the bytes in a block of their own, and a reader at its start. */
static uint8_t *copy(struct etf *r, const void *bytes, size_t len) {
    uint8_t *p = malloc(len ? len : 1);

    if (!p)
        tap_bail("no memory");
    memcpy(p, bytes, len);
    *r = (struct etf){p, p + len};
    return p;
}

/* What etf_get_term says of the bytes; a failed read may not move. */
static int read_term(const void *bytes, size_t len, size_t *term_len) {
    struct etf r;
    uint8_t *p = copy(&r, bytes, len);
    struct slice term = {0};
    int result = etf_get_term(&r, &term);

    if (result < 0 ? r.p != p : term.data != p || r.p != p + term.len)
        result = -2;
    *term_len = term.len;
    free(p);
    return result;
}

static void test_terms(void) {
    size_t i, n, len, wrong;
    char longer[64];

    for (i = 0; i < SAMPLES; i++) {
        const struct sample *s = &samples[i];

        is_int(read_term(s->bytes, s->len, &len), 0, "%s is read", s->name);
        is_int(len, s->len, "%s has its length", s->name);
        for (n = wrong = 0; n < s->len; n++)
            wrong += read_term(s->bytes, n, &len) != -1;
        is_int(wrong, 0, "%s cut short is refused at each length", s->name);
        memcpy(longer, s->bytes, s->len);
        memset(longer + s->len, 0xff, sizeof longer - s->len);
        read_term(longer, sizeof longer, &len);
        is_int(len, s->len, "%s followed by other bytes has the same length", s->name);
    }
}

/* Each single byte as a whole term: NIL is the only one; and all bytes as tags of a longer run. */
static void test_tags(void) {
    char bytes[64];
    size_t len, known = 0;
    int tag, alone = 0, only = -1, moved = 0;

    for (tag = 0; tag < 256; tag++) {
        memset(bytes, 0, sizeof bytes);
        bytes[0] = (char)tag;
        if (read_term(bytes, 1, &len) == 0) {
            alone++;
            only = tag;
        }
        moved += read_term(bytes, sizeof bytes, &len) == -2;
        known += len > 0;
    }
    is_int(alone, 1, "one tag is a term by itself");
    is_int(only, ETF_NIL, "NIL");
    is_int(moved, 0, "no tag moves the reader without a term");
    ok(known < 30, "most tags are unknown");
    is_int(read_term("\x83\x6a", 2, &len), -1, "a version byte is no term");
    is_int(read_term("\x50\0\0\0\1x", 6, &len), -1, "a compressed term is none here");
    is_int(read_term("\x44\x00", 2, &len), -1, "nor is an atom cache header");
}

static void test_absurd(void) {
    static const struct sample cases[] = {
        SAMPLE("tuple of 2^32-1", "\x69\xff\xff\xff\xff\x6a\x6a\x6a"),
        SAMPLE("list of 2^32-1", "\x6c\xff\xff\xff\xff\x6a\x6a\x6a"),
        SAMPLE("map of 2^32-1", "\x74\xff\xff\xff\xff\x6a\x6a\x6a"),
        SAMPLE("binary of 2^32-1", "\x6d\xff\xff\xff\xff"
                                   "abc"),
        SAMPLE("bitstring of 2^32-1", "\x4d\xff\xff\xff\xff\x01"
                                      "abc"),
        SAMPLE("bignum of 2^32-1", "\x6f\xff\xff\xff\xff\x00"
                                   "abc"),
        SAMPLE("fun of 2^32-1", "\x70\xff\xff\xff\xff"
                                "abc"),
        SAMPLE("fun of 3", "\x70\x00\x00\x00\x03"
                           "abc"),
        SAMPLE("fun of 0", "\x70\x00\x00\x00\x00"
                           "abc"),
        SAMPLE("string of 65535", "\x6b\xff\xff"
                                  "abc"),
        SAMPLE("atom of 65535", "\x76\xff\xff"
                                "abc"),
        SAMPLE("small bignum of 255", "\x6e\xff\x00"
                                      "abc"),
        SAMPLE("reference of 6 words", "\x5a\x00\x06" NODE "\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0"
                                       "\5\0\0\0\6\0\0\0\7"),
        SAMPLE("reference of 65535 words", "\x5a\xff\xff" NODE "\0\0\0\1"),
        SAMPLE("pid whose node is an integer", "\x58\x61\x01\0\0\0\1\0\0\0\2\0\0\0\3"),
        SAMPLE("tuples of tuples of 2^32-1",
               "\x69\xff\xff\xff\xff\x69\xff\xff\xff\xff\x69\xff\xff\xff\xff\x69\xff\xff\xff\xff"),
    };
    size_t i, len;

    for (i = 0; i < sizeof cases / sizeof *cases; i++)
        is_int(read_term(cases[i].bytes, cases[i].len, &len), -1, "refused: %s", cases[i].name);
}

/* A million levels: reading them must not use the stack, nor take long. */
static void test_deep(void) {
    enum { DEPTH = 1000000 };
    struct buf b = {0};
    size_t len, i;

    for (i = 0; i < DEPTH; i++)
        etf_put_list(&b, 1);
    etf_put_nil(&b);
    for (i = 0; i < DEPTH; i++)
        etf_put_nil(&b);
    is_int(read_term(b.data, b.len, &len), 0, "a list nested 1000000 deep is read");
    is_int(len, b.len, "whole");
    is_int(read_term(b.data, b.len - 1, &len), -1, "one byte less is refused");
    buf_done(&b);

    for (i = 0; i < DEPTH; i++)
        etf_put_tuple(&b, 1);
    etf_put_integer(&b, 1);
    is_int(read_term(b.data, b.len, &len), 0, "a tuple nested 1000000 deep, too");
    is_int(len, b.len, "whole");
    buf_done(&b);

    for (i = 0; i < DEPTH; i++)
        etf_put_map(&b, 1);
    is_int(read_term(b.data, b.len, &len), -1, "maps without an end are refused");
    buf_done(&b);
}

/* A getter by the term it wants. */
enum want { VERSION, TUPLE, LIST, NIL, INTEGER, ATOM };

static int get(enum want want, struct etf *r) {
    uint32_t n;
    int64_t v;
    struct slice s;

    switch (want) {
    case VERSION:
        return etf_get_version(r);
    case TUPLE:
        return etf_get_tuple(r, &n);
    case LIST:
        return etf_get_list(r, &n);
    case NIL:
        return etf_get_nil(r);
    case INTEGER:
        return etf_get_integer(r, &v);
    default:
        return etf_get_atom(r, &s);
    }
}

/* Each getter on the heads that it takes, cut at each length, and on all other samples. */
static void test_getters(void) {
    static const struct {
        enum want want;
        struct sample head;
    } heads[] = {
        {VERSION, SAMPLE("version", "\x83")},
        {TUPLE, SAMPLE("small tuple", "\x68\x02")},
        {TUPLE, SAMPLE("large tuple", "\x69\x00\x00\x00\x02")},
        {LIST, SAMPLE("list", "\x6c\x00\x00\x00\x02")},
        {LIST, SAMPLE("list that is nil", "\x6a")},
        {NIL, SAMPLE("nil", "\x6a")},
        {INTEGER, SAMPLE("small integer", "\x61\xff")},
        {INTEGER, SAMPLE("integer", "\x62\x80\x00\x00\x00")},
        {INTEGER, SAMPLE("small bignum", "\x6e\x04\x00\x01\x02\x03\x04")},
        {ATOM, SAMPLE("small UTF-8 atom", "\x77\x02ok")},
        {ATOM, SAMPLE("UTF-8 atom", "\x76\x00\x02ok")},
        {ATOM, SAMPLE("small Latin-1 atom", "\x73\x02ok")},
        {ATOM, SAMPLE("Latin-1 atom", "\x64\x00\x02ok")},
    };
    size_t i, n, wrong;
    struct etf r;
    uint8_t *p;

    for (i = 0; i < sizeof heads / sizeof *heads; i++) {
        const struct sample *h = &heads[i].head;

        p = copy(&r, h->bytes, h->len);
        is_int(get(heads[i].want, &r), 0, "getter: %s", h->name);
        ok(r.p == p + h->len, "getter: %s: moves past it", h->name);
        free(p);
        for (n = wrong = 0; n < h->len; n++) {
            p = copy(&r, h->bytes, n);
            wrong += get(heads[i].want, &r) != -1 || r.p != p;
            free(p);
        }
        is_int(wrong, 0, "getter: %s: cut short it is refused, and nothing moves", h->name);
    }
}

/* The getters on every tag that is not theirs. */
static void test_getters_refuse(void) {
    static const char *const tags[] = {"\x83", "hi", "lj", "j", "abn", "wvsd"};
    uint8_t bytes[16] = {0};
    int want, tag, wrong = 0;

    for (want = VERSION; want <= ATOM; want++)
        for (tag = 0; tag < 256; tag++) {
            struct etf r = {bytes, bytes + sizeof bytes};
            bool taken;

            bytes[0] = (uint8_t)tag;
            taken = get((enum want)want, &r) == 0;
            if (taken != (tag && strchr(tags[want], (char)tag)))
                wrong++;
            if (!taken && r.p != bytes)
                wrong++;
        }
    is_int(wrong, 0, "each getter takes its own tags and no other");
}

static int64_t integer(const char *bytes, size_t len, int *result) {
    struct etf r;
    uint8_t *p = copy(&r, bytes, len);
    int64_t value = 4711;

    *result = etf_get_integer(&r, &value);
    free(p);
    return value;
}

#define INTEGER_OF(bytes) integer(bytes, sizeof bytes - 1, &result)

static void test_integers(void) {
    static const int64_t values[] = {0,
                                     1,
                                     255,
                                     256,
                                     -1,
                                     -256,
                                     INT32_MAX,
                                     INT32_MIN,
                                     (int64_t)INT32_MAX + 1,
                                     (int64_t)INT32_MIN - 1,
                                     INT64_MAX,
                                     -INT64_MAX,
                                     1LL << 40,
                                     -(1LL << 40)};
    int result;
    size_t i;

    is_int(INTEGER_OF("\x61\xff"), 255, "255");
    is_int(INTEGER_OF("\x62\xff\xff\xff\xff"), -1, "-1");
    is_int(INTEGER_OF("\x62\x80\x00\x00\x00"), INT32_MIN, "-2^31");
    is_int(INTEGER_OF("\x6e\x08\x00\xff\xff\xff\xff\xff\xff\xff\x7f"), INT64_MAX, "2^63-1");
    is_int(INTEGER_OF("\x6e\x08\x01\xff\xff\xff\xff\xff\xff\xff\x7f"), -INT64_MAX, "-(2^63-1)");
    is_int(INTEGER_OF("\x6e\x00\x00"), 0, "a bignum of no bytes is 0");
    INTEGER_OF("\x6e\x08\x00\xff\xff\xff\xff\xff\xff\xff\xff");
    is_int(result, -1, "2^64-1 does not fit");
    INTEGER_OF("\x6e\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01");
    is_int(result, -1, "2^64 does not fit");
    for (i = 0; i < sizeof values / sizeof *values; i++) {
        struct buf b = {0};

        etf_put_integer(&b, values[i]);
        is_int(integer((char *)b.data, b.len, &result), values[i], "%jd goes out and in",
               (intmax_t)values[i]);
        buf_done(&b);
    }
}

static void test_atoms(void) {
    struct etf r;
    uint8_t *p = copy(&r, "\x77\x02ok\x77\x00", 6);
    struct slice name;

    etf_get_atom(&r, &name);
    is_mem(name.data, name.len, "ok", 2, "an atom's name");
    ok(etf_atom_is(name, "ok"), "is ok");
    ok(!etf_atom_is(name, "o") && !etf_atom_is(name, "okay") && !etf_atom_is(name, "on"),
       "and nothing else");
    etf_get_atom(&r, &name);
    ok(etf_atom_is(name, ""), "an empty atom");
    free(p);
}

/* Compares what was written and empties the buffer. */
#define WRITTEN(bytes, ...) (is_mem(b.data, b.len, bytes, sizeof bytes - 1, __VA_ARGS__), b.len = 0)

static void test_writer(void) {
    struct buf b = {0};
    char name[300];

    etf_put_version(&b);
    WRITTEN("\x83", "put version");
    etf_put_tuple(&b, 0);
    WRITTEN("\x68\x00", "put an empty tuple");
    etf_put_tuple(&b, 255);
    WRITTEN("\x68\xff", "put a tuple of 255");
    etf_put_tuple(&b, 256);
    WRITTEN("\x69\x00\x00\x01\x00", "put a tuple of 256");
    etf_put_list(&b, 0x01020304);
    WRITTEN("\x6c\x01\x02\x03\x04", "put a list");
    etf_put_nil(&b);
    WRITTEN("\x6a", "put nil");
    etf_put_map(&b, 3);
    WRITTEN("\x74\x00\x00\x00\x03", "put a map");
    etf_put_integer(&b, 255);
    WRITTEN("\x61\xff", "put 255");
    etf_put_integer(&b, 256);
    WRITTEN("\x62\x00\x00\x01\x00", "put 256");
    etf_put_integer(&b, -1);
    WRITTEN("\x62\xff\xff\xff\xff", "put -1");
    etf_put_integer(&b, INT64_MIN);
    WRITTEN("\x6e\x08\x01\x00\x00\x00\x00\x00\x00\x00\x80", "put -2^63");
    etf_put_float(&b, 1.0);
    WRITTEN("\x46\x3f\xf0\x00\x00\x00\x00\x00\x00", "put 1.0");
    etf_put_float(&b, -0.0);
    WRITTEN("\x46\x80\x00\x00\x00\x00\x00\x00\x00", "put -0.0");
    etf_put_atom(&b, "ok");
    WRITTEN("\x77\x02ok", "put an atom");
    etf_put_binary(&b, "a\0b", 3);
    WRITTEN("\x6d\x00\x00\x00\x03"
            "a\0b",
            "put a binary");
    etf_put_binary(&b, NULL, 0);
    WRITTEN("\x6d\x00\x00\x00\x00", "put an empty binary");
    etf_put_string(&b, "str");
    WRITTEN("\x6d\x00\x00\x00\x03str", "put a string");
    etf_put_slice(&b, (struct slice){(const uint8_t *)"\x61\x01", 2});
    WRITTEN("\x61\x01", "put a term that is encoded already");
    etf_put_pid(&b, "a@b", 1, 2, 3);
    WRITTEN("\x58" NODE "\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03", "put a pid");
    etf_put_ref(&b, "a@b", 9, (const uint32_t[]){1, 2, 3}, 3);
    WRITTEN("\x5a\x00\x03" NODE "\0\0\0\x09\0\0\0\1\0\0\0\2\0\0\0\3", "put a reference");

    memset(name, 'x', sizeof name);
    etf_put_atom_slice(&b, (struct slice){(const uint8_t *)name, 255});
    is_mem(b.data, 3,
           "\x77\xff"
           "x",
           3, "an atom of 255 bytes has the short form");
    is_int(b.len, 257, "and its length");
    b.len = 0;
    etf_put_atom_slice(&b, (struct slice){(const uint8_t *)name, 256});
    is_mem(b.data, 4, "\x76\x01\x00x", 4, "one of 256 bytes the long form");
    is_int(b.len, 259, "and its length");
    buf_done(&b);
}

/* Random bytes, the first of them a tag that exists: nothing may be read past the end. */
static void test_random(void) {
    uint64_t seed = 88172645463325252ULL;
    int i, wrong = 0;

    for (i = 0; i < 200000; i++) {
        uint8_t bytes[48];
        size_t len, n;

        for (n = 0; n < sizeof bytes; n++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes[n] = (uint8_t)(n % 3 ? seed % 4 : (uint8_t)*samples[seed % SAMPLES].bytes);
        }
        n = 1 + seed % sizeof bytes;
        if (read_term(bytes, n, &len) == -2)
            wrong++;
    }
    is_int(wrong, 0, "200000 random runs are read whole or refused");
}

int main(void) {
    test_terms();
    test_tags();
    test_absurd();
    test_deep();
    test_getters();
    test_getters_refuse();
    test_integers();
    test_atoms();
    test_writer();
    test_random();
    return tap_end();
}
