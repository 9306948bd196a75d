/* shakes.h - a peer's side of the handshake, by hand over TCP, with the digest made here. */
#ifndef PYNODE_SHAKES_H
#define PYNODE_SHAKES_H

#include "etf.h"
#include "node.h"
#include "peer.h"
#include "tap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

/* What OTP 25 holds to be mandatory up to OTP 29, and SPAWN, ALIAS, UNLINK_ID. */
static const uint64_t flags_of_peer = UINT64_C(0x1d03070fbc);

/* MD5, RFC 1321: of less than 56 bytes, which is enough for a cookie and a number. */
static void md5(const char *text, uint8_t *digest) {
    static const uint8_t turns[] = {7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21};
    static const uint32_t sines[] = {
        0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613,
        0xfd469501, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193,
        0xa679438e, 0x49b40821, 0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d,
        0x02441453, 0xd8a1e681, 0xe7d3fbc8, 0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed,
        0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a, 0xfffa3942, 0x8771f681, 0x6d9d6122,
        0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70, 0x289b7ec6, 0xeaa127fa,
        0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665, 0xf4292244,
        0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
        0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb,
        0xeb86d391,
    };
    uint32_t h[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}, s[4], m[16] = {0};
    size_t len = strlen(text);

    if (len >= 56)
        tap_bail("md5: %s: too long", text);
    for (size_t i = 0; i <= len; i++)
        m[i / 4] |= (uint32_t)(i < len ? (uint8_t)text[i] : 0x80) << i % 4 * 8;
    m[14] = (uint32_t)len * 8;
    memcpy(s, h, sizeof s);
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t b = s[1], c = s[2], d = s[3], f, g, n = turns[i / 16 * 4 + i % 4];

        f = i < 16   ? (b & c) | (~b & d)
            : i < 32 ? (d & b) | (~d & c)
            : i < 48 ? b ^ c ^ d
                     : c ^ (b | ~d);
        g = i < 16 ? i : i < 32 ? 5 * i + 1 : i < 48 ? 3 * i + 5 : 7 * i;
        f += s[0] + m[g % 16] + sines[i];
        s[0] = d;
        s[3] = c;
        s[2] = b;
        s[1] = b + (f << n | f >> (32 - n));
    }
    for (size_t i = 0; i < 16; i++)
        digest[i] = (uint8_t)((h[i / 4] + s[i / 4]) >> i % 4 * 8);
}

static void digest_of(const char *cookie, uint32_t challenge, uint8_t *digest) {
    char text[56];

    snprintf(text, sizeof text, "%s%u", cookie, challenge);
    md5(text, digest);
}

/* Connects to a port of this host: -1 if nobody listens there. */
static int tcp_try(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int tcp(int port) {
    int fd = tcp_try(port);

    if (fd < 0)
        tap_bail("cannot connect to port %d: %s", port, strerror(errno));
    return fd;
}

/* Listens on *port, 0 for any, which is then told: -1 if it is taken. */
static int tcp_listen(int *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)*port)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, 8) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0) {
        close(fd);
        return -1;
    }
    *port = ntohs(address.sin_port);
    return fd;
}

/* Whether the node has closed the connection. */
static bool is_closed(int fd) {
    uint8_t byte;

    while (read_all(fd, &byte, 1))
        ;
    return true;
}

/* Sends one packet of the handshake, its length in two bytes and what b holds; b is emptied. */
static void packet_send(int fd, struct buf *b) {
    uint8_t head[2] = {(uint8_t)(b->len >> 8), (uint8_t)b->len};

    if (send(fd, head, 2, MSG_NOSIGNAL | MSG_MORE) == 2)
        (void)!send(fd, b->data, b->len, MSG_NOSIGNAL);
    buf_done(b);
    *b = (struct buf){0};
}

/* The next packet, ended by a zero: its length, 0 if there is none. */
static size_t packet_read(int fd, uint8_t *packet, size_t size) {
    uint8_t head[2];
    size_t n;

    if (!read_all(fd, head, 2))
        return 0;
    n = (size_t)head[0] << 8 | head[1];
    if (n >= size || !read_all(fd, packet, n))
        return 0;
    packet[n] = 0;
    return n;
}

static void put_number(struct buf *b, uint64_t value, int bytes) {
    while (bytes-- > 0) {
        uint8_t byte = (uint8_t)(value >> 8 * bytes);

        buf_put(b, &byte, 1);
    }
}

static void put_text(struct buf *b, const char *text, bool with_length) {
    if (with_length)
        put_number(b, strlen(text), 2);
    buf_put(b, text, strlen(text));
}

/* What one side learns of the other. */
struct shake {
    const char *cookie; /* what it takes for the cookie */
    char status[32];
    uint64_t flags;
    uint32_t creation;
    char name[256];
    bool proven; /* the other knows the cookie */
};

/* Takes a packet apart that begins with N and its flags; the challenge is not in a client's. */
static bool read_name(int fd, struct shake *s, uint32_t *challenge) {
    uint8_t packet[512];
    size_t n = packet_read(fd, packet, sizeof packet), at = 9;

    if (n < 15 || packet[0] != 'N')
        return false;
    s->flags = etf_be64(packet + 1);
    if (challenge) {
        *challenge = etf_be32(packet + at);
        at += 4;
    }
    s->creation = etf_be32(packet + at);
    snprintf(s->name, sizeof s->name, "%.255s", packet + at + 6);
    return true;
}

static void hello(int fd, const char *name) {
    struct buf b = {0};

    put_text(&b, "N", false);
    put_number(&b, flags_of_peer, 8);
    put_number(&b, 4711, 4);
    put_text(&b, name, true);
    packet_send(fd, &b);
}

/* The rest of a client's handshake, from the status on. */
static bool shake_on(int fd, struct shake *s) {
    uint8_t packet[512], digest[16];
    uint32_t challenge;
    struct buf b = {0};
    size_t n = packet_read(fd, packet, sizeof packet);

    snprintf(s->status, sizeof s->status, "%.31s", n > 0 ? (char *)packet : "closed");
    if (strncmp(s->status, "sok", 3) != 0 || !read_name(fd, s, &challenge))
        return false;
    put_text(&b, "r", false);
    put_number(&b, 4712, 4);
    digest_of(s->cookie, challenge, digest);
    buf_put(&b, digest, 16);
    packet_send(fd, &b);
    n = packet_read(fd, packet, sizeof packet);
    digest_of(s->cookie, 4712, digest);
    s->proven = n == 17 && packet[0] == 'a' && memcmp(packet + 1, digest, 16) == 0;
    return s->proven;
}

/* Connects to our node as name: the socket; s->proven says whether they have shaken hands. */
static int shake(const char *name, const char *cookie, struct shake *s) {
    int fd = tcp(node_port());

    *s = (struct shake){.cookie = cookie};
    hello(fd, name);
    shake_on(fd, s);
    return fd;
}

#endif
