/* test_utf8.c - UTF-8: what is valid and what not, at every place of a word, and against a plain
 * reader that knows nothing of words and tables.
 */
#include "config.h"

#include "tap.h"
#include "utf8.h"

enum { ROUNDS = 200000, SPAN = 80 };

static const struct {
    const char *bytes;
    size_t len;
    int count; /* -1: not UTF-8 */
    const char *what;
} cases[] = {
    {"", 0, 0, "nothing"},
    {"a", 1, 1, "a letter"},
    {"\0", 1, 1, "U+0000"},
    {"\x7f", 1, 1, "U+007F"},
    {"\xc2\x80", 2, 1, "U+0080, the first of two bytes"},
    {"\xdf\xbf", 2, 1, "U+07FF, the last of two bytes"},
    {"\xe0\xa0\x80", 3, 1, "U+0800, the first of three bytes"},
    {"\xed\x9f\xbf", 3, 1, "U+D7FF, the last before the surrogates"},
    {"\xee\x80\x80", 3, 1, "U+E000, the first after the surrogates"},
    {"\xef\xbf\xbf", 3, 1, "U+FFFF, the last of three bytes"},
    {"\xf0\x90\x80\x80", 4, 1, "U+10000, the first of four bytes"},
    {"\xf4\x8f\xbf\xbf", 4, 1, "U+10FFFF, the last of all"},
    {"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z", 11, 5, "one of each length between letters"},
    {"\x80", 1, -1, "a continuation alone"},
    {"\xbf", 1, -1, "the last continuation alone"},
    {"a\x80", 2, -1, "a continuation after a letter"},
    {"\xc3\xa9\xa9", 3, -1, "one continuation too many"},
    {"\xc0\x80", 2, -1, "U+0000 in two bytes"},
    {"\xc1\xbf", 2, -1, "U+007F in two bytes"},
    {"\xe0\x80\x80", 3, -1, "U+0000 in three bytes"},
    {"\xe0\x9f\xbf", 3, -1, "U+07FF in three bytes"},
    {"\xf0\x80\x80\x80", 4, -1, "U+0000 in four bytes"},
    {"\xf0\x8f\xbf\xbf", 4, -1, "U+FFFF in four bytes"},
    {"\xed\xa0\x80", 3, -1, "U+D800, the first surrogate"},
    {"\xed\xbf\xbf", 3, -1, "U+DFFF, the last surrogate"},
    {"\xed\xa0\xbd\xed\xb8\x80", 6, -1, "a pair of surrogates"},
    {"\xf4\x90\x80\x80", 4, -1, "U+110000"},
    {"\xf5\x80\x80\x80", 4, -1, "U+140000"},
    {"\xf8\x88\x80\x80\x80", 5, -1, "five bytes"},
    {"\xfc\x84\x80\x80\x80\x80", 6, -1, "six bytes"},
    {"\xfe", 1, -1, "the byte fe"},
    {"\xff", 1, -1, "the byte ff"},
    {"\xc3", 1, -1, "the first of two bytes"},
    {"\xe2\x82", 2, -1, "the first two of three bytes"},
    {"\xf0\x9f\x98", 3, -1, "the first three of four bytes"},
    {"\xf0\x9f", 2, -1, "the first two of four bytes"},
    {"\xc3\xc3\xa9", 3, -1, "a first byte after a first byte"},
    {"\xe2\x82z", 3, -1, "a letter for the third byte"},
    {"\xf0\x9f\x98z", 4, -1, "a letter for the fourth byte"},
    {"\xf0\x9f\xc3\xa9", 4, -1, "a first byte for the third byte"},
};

/* The plain way: the code point first, then whether it needs the bytes it was given. */
static ptrdiff_t slow_count(const uint8_t *p, size_t n) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    ptrdiff_t count = 0;

    for (size_t i = 0; i < n; count++) {
        size_t len = p[i] < 0x80             ? 1
                     : (p[i] & 0xe0) == 0xc0 ? 2
                     : (p[i] & 0xf0) == 0xe0 ? 3
                     : (p[i] & 0xf8) == 0xf0 ? 4
                                             : 0;
        uint32_t code = len == 1 ? p[i] : len == 0 ? 0 : p[i] & (0x7fu >> len);

        if (len == 0 || len > n - i)
            return -1;
        for (size_t k = 1; k < len; k++) {
            if ((p[i + k] & 0xc0) != 0x80)
                return -1;
            code = code << 6 | (p[i + k] & 0x3fu);
        }
        if (code < least[len] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return -1;
        i += len;
    }
    return count;
}

static size_t slow_ascii(const uint8_t *p, size_t n) {
    size_t i = 0;

    while (i < n && p[i] < 0x80)
        i++;
    return i;
}

/* A copy of exactly n bytes, so that AddressSanitizer sees a look past their end. */
static uint8_t *exact(const void *bytes, size_t n) {
    uint8_t *p = malloc(n ? n : 1);

    if (!p)
        tap_bail("no memory");
    if (n > 0)
        memcpy(p, bytes, n);
    return p;
}

static void test_cases(void) {
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t *p = exact(cases[i].bytes, cases[i].len);

        is_int(utf8_count(p, cases[i].len), cases[i].count, "%s: %s", cases[i].what,
               cases[i].count < 0 ? "refused" : "counted");
        free(p);
    }
}

/* Each case behind and before any number of letters: what is wrong must not hide in a word. */
static void test_places(void) {
    int wrong = 0, lost = 0;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t before = 0; before < SPAN; before++) {
            size_t after = (before * 7 + i) % 40, n = before + cases[i].len + after;
            static uint8_t text[SPAN + 64];
            uint8_t *p;

            memset(text, 'x', sizeof text);
            memcpy(text + before, cases[i].bytes, cases[i].len);
            p = exact(text, n);
            wrong += utf8_count(p, n) !=
                     (cases[i].count < 0 ? -1 : cases[i].count + (ptrdiff_t)(before + after));
            lost += utf8_ascii(p, n) != slow_ascii(p, n);
            free(p);
        }
    is_int(wrong, 0, "the same wherever it stands between letters");
    is_int(lost, 0, "and the letters before it are found");
}

/* Runs of every length, from every address of a word, with one byte that ends them or none. */
static void test_ascii(void) {
    static uint8_t area[SPAN + 8];
    int wrong = 0;

    for (size_t at = 0; at < 8; at++)
        for (size_t n = 0; n < SPAN; n++)
            for (size_t end = 0; end <= n; end++) {
                memset(area, 0x80, sizeof area);
                memset(area + at, 0x7f, n);
                if (end < n)
                    area[at + end] = 0x80;
                wrong += utf8_ascii(area + at, n) != end;
            }
    is_int(wrong, 0, "a run of ASCII ends where it ends, whatever its address and length");
    is_int(utf8_ascii(NULL, 0), 0, "nothing is a run of none");
}

/* Every two bytes, and every three and four whose first two are worth it. */
static void test_all_short(void) {
    uint8_t p[4];
    int wrong = 0;

    for (int a = 0; a < 256; a++)
        for (int b = 0; b < 256; b++) {
            p[0] = (uint8_t)a;
            p[1] = (uint8_t)b;
            wrong += utf8_count(p, 2) != slow_count(p, 2);
        }
    is_int(wrong, 0, "all pairs of bytes");
    for (uint32_t code = 0xe0; code < 0x100; code++)
        for (int b = 0x7f; b < 0xc1; b++)
            for (int c = 0x7f; c < 0xc1; c++)
                for (int d = 0x7e; d < 0xc2; d += 0x21) {
                    p[0] = (uint8_t)code;
                    p[1] = (uint8_t)b;
                    p[2] = (uint8_t)c;
                    p[3] = (uint8_t)d;
                    wrong += utf8_count(p, 3) != slow_count(p, 3);
                    wrong += utf8_count(p, 4) != slow_count(p, 4);
                }
    is_int(wrong, 0, "all threes and fours that begin as such");
}

static uint32_t seed = 20261121;

static uint32_t random_u32(void) {
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed;
}

static size_t put_code(uint8_t *p, uint32_t code) {
    if (code < 0x80) {
        p[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        p[0] = (uint8_t)(0xc0 | code >> 6);
        p[1] = (uint8_t)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        p[0] = (uint8_t)(0xe0 | code >> 12);
        p[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        p[2] = (uint8_t)(0x80 | (code & 0x3f));
        return 3;
    }
    p[0] = (uint8_t)(0xf0 | code >> 18);
    p[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
    p[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    p[3] = (uint8_t)(0x80 | (code & 0x3f));
    return 4;
}

/* Text of a few lengths of character, letters mostly; sometimes with a code point that is none. */
static size_t random_text(uint8_t *p, size_t max) {
    static const uint32_t below[] = {0x80, 0x80, 0x80, 0x800, 0x10000, 0x118000};
    size_t n = 0, want = random_u32() % (max - 4);

    while (n < want) {
        uint32_t limit = below[random_u32() % 6];
        uint32_t run = random_u32() % 40;

        do
            n += put_code(p + n, random_u32() % limit);
        while (n < want && run-- > 0);
    }
    return n;
}

static void test_random(void) {
    static uint8_t text[204];
    int wrong = 0, lost = 0, valid = 0;

    for (int i = 0; i < ROUNDS; i++) {
        size_t n = random_text(text, sizeof text);
        ptrdiff_t want;
        uint8_t *p;

        if (n > 0 && i % 4 == 0) /* a byte changed, or the end cut off */
            text[random_u32() % n] = (uint8_t)random_u32();
        else if (n > 0 && i % 4 == 1)
            n -= random_u32() % (n < 4 ? n : 4);
        want = slow_count(text, n);
        p = exact(text, n);
        wrong += utf8_count(p, n) != want;
        lost += utf8_ascii(p, n) != slow_ascii(p, n);
        valid += want >= 0;
        free(p);
    }
    is_int(wrong, 0, "%d random texts: counted as the plain reader counts", ROUNDS);
    is_int(lost, 0, "and their first letters, too");
    ok(valid > ROUNDS / 10 && valid < ROUNDS - ROUNDS / 10, "both kinds were among them: %d valid",
       valid);
}

static void test_latin1(void) {
    uint8_t all[256], *out = malloc(512);
    size_t n, wrong = 0;

    if (!out)
        tap_bail("no memory");
    for (int i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    is_int(utf8_from_latin1(out, all, 0), 0, "no Latin-1, no UTF-8");
    n = utf8_from_latin1(out, (const uint8_t *)"caf\xe9", 4);
    is_mem(out, n, "caf\xc3\xa9", 5, "a word in Latin-1");
    n = utf8_from_latin1(out, all, 256);
    is_int(n, 128 + 2 * 128, "all of Latin-1: one byte each for the lower half, two for the upper");
    is_int(utf8_count(out, n), 256, "which are as many characters");
    for (size_t i = 0, at = 0; i < 256; i++) {
        uint8_t one[4];
        size_t len = put_code(one, (uint32_t)i);

        wrong += memcmp(out + at, one, len) != 0;
        at += len;
    }
    is_int(wrong, 0, "and the right ones");
    memset(all, 0xff, sizeof all);
    is_int(utf8_from_latin1(out, all, 256), 512, "it never takes more than twice the room");
    free(out);
}

int main(void) {
    test_cases();
    test_places();
    test_ascii();
    test_all_short();
    test_random();
    test_latin1();
    return tap_end();
}
