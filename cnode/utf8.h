/* utf8.h - is it UTF-8, and how many characters are it.
 *
 * Strict as Unicode says: no overlong forms, no surrogates, nothing past U+10FFFF. Pure: any
 * thread, no GIL.
 */
#ifndef PYNODE_UTF8_H
#define PYNODE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Longest run of ASCII at the start. */
size_t utf8_ascii(const uint8_t *p, size_t n);

/* Number of characters, or -1 when the bytes are not UTF-8. */
ptrdiff_t utf8_count(const uint8_t *p, size_t n);

/* Writes Latin-1 as UTF-8 into out, which has room for 2 * n bytes; answers how many. */
size_t utf8_from_latin1(uint8_t *out, const uint8_t *p, size_t n);

#endif
