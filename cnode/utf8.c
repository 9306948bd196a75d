/* utf8.c - is it UTF-8, and how many characters are it. */
#include "config.h"

#include "utf8.h"

#include <string.h>

static const uint64_t utf8_high = 0x8080808080808080u;

size_t utf8_ascii(const uint8_t *p, size_t n) {
    uint64_t w[4];
    size_t i = 0;

    for (; n - i >= sizeof w; i += sizeof w) {
        memcpy(w, p + i, sizeof w);
        if ((w[0] | w[1] | w[2] | w[3]) & utf8_high)
            break;
    }
    for (; n - i >= sizeof w[0]; i += sizeof w[0]) {
        memcpy(w, p + i, sizeof w[0]);
        if (w[0] & utf8_high)
            break;
    }
    while (i < n && p[i] < 0x80)
        i++;
    return i;
}

/* Length in bytes of the one character at p, or 0. The second byte's range tells overlong forms,
 * surrogates and what is past the last plane. */
static size_t utf8_char(const uint8_t *p, size_t n) {
    uint8_t low = 0x80, high = 0xBF;
    size_t len;

    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xC2 || p[0] > 0xF4)
        return 0;
    len = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (p[0] == 0xE0)
        low = 0xA0;
    else if (p[0] == 0xED)
        high = 0x9F;
    else if (p[0] == 0xF0)
        low = 0x90;
    else if (p[0] == 0xF4)
        high = 0x8F;
    if (n < len || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return len;
}

ptrdiff_t utf8_count(const uint8_t *p, size_t n) {
    size_t i = 0, len;
    ptrdiff_t count = 0;

    while (i < n) {
        len = utf8_ascii(p + i, n - i);
        i += len;
        count += (ptrdiff_t)len;
        while (i < n && p[i] >= 0x80) {
            len = utf8_char(p + i, n - i);
            if (len == 0)
                return -1;
            i += len;
            count++;
        }
    }
    return count;
}

size_t utf8_from_latin1(uint8_t *out, const uint8_t *p, size_t n) {
    uint8_t *at = out;

    for (size_t i = 0; i < n; i++) {
        if (p[i] < 0x80) {
            *at++ = p[i];
        } else {
            *at++ = (uint8_t)(0xC0 | p[i] >> 6);
            *at++ = (uint8_t)(0x80 | (p[i] & 0x3F));
        }
    }
    return (size_t)(at - out);
}
