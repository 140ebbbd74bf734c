/* util.h - small things every file needs: cleanup attributes, hand-over macros,
 * big-endian integers, the one allocator. Ring 0: libc only. Any thread. */
#ifndef WALSUP_UTIL_H
#define WALSUP_UTIL_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h> /* MIN, MAX */
#include <time.h>
#include <unistd.h>

/* 32-bit processors need flags for it (Makefile, LARGE), in every file alike */
_Static_assert(sizeof(off_t) == 8 && sizeof(time_t) == 8, "files beyond 2 GiB, times beyond 2038");

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))
/* behind a number: 1 database, 2 databases */
#define PLURAL(n) ((n) == 1 ? "" : "s")
#define PRINTF_LIKE(fmt, first) __attribute__((format(printf, fmt, first)))

/* Locals that free themselves. TAKE_PTR and TAKE_FD hand a local over to somebody else. */
#define cleanup(fn) __attribute__((cleanup(fn)))
#define cleanup_free cleanup(util_freep)
#define cleanup_close cleanup(util_closep)
#define cleanup_file cleanup(util_fclosep)
#define TAKE_PTR(p)                \
    (__extension__({               \
        __typeof__(p) taken_ = (p); \
        (p) = NULL;                \
        taken_;                    \
    }))
#define TAKE_FD(fd)         \
    (__extension__({        \
        int taken_ = (fd);  \
        (fd) = -1;          \
        taken_;             \
    }))

static inline void util_freep(void *p)
{
    free(*(void **)p);
}
static inline void util_closep(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}
static inline void util_fclosep(FILE **f)
{
    if (*f)
        (void)fclose(*f);
}

/* Big-endian integers at any alignment (LTX headers, WAL headers). */
static inline uint16_t be16_get(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return be16toh(v);
}
static inline uint32_t be32_get(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return be32toh(v);
}
static inline uint64_t be64_get(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return be64toh(v);
}
static inline void be16_put(uint8_t *p, uint16_t v)
{
    v = htobe16(v);
    memcpy(p, &v, sizeof v);
}
static inline void be32_put(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof v);
}
static inline void be64_put(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof v);
}

/** util_alloc(n) / util_zalloc(n) / util_strdup(s) / util_strndup(s, n):
 * Memory for small control objects; the process aborts with a message when there is none,
 * because a loop that cannot allocate a list node cannot report that either. Work whose size
 * depends on a database (page maps, indexes, buffers) uses malloc and returns ERR_NOMEM. */
void *util_alloc(size_t n) __attribute__((malloc, returns_nonnull));
void *util_zalloc(size_t n) __attribute__((malloc, returns_nonnull));
void *util_realloc(void *p, size_t n) __attribute__((returns_nonnull));
char *util_strdup(const char *s) __attribute__((malloc, returns_nonnull));
char *util_strndup(const char *s, size_t n) __attribute__((malloc, returns_nonnull));
/** util_printf(fmt, ...): asprintf that cannot fail; the caller frees. */
char *util_printf(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((returns_nonnull));

/** util_random(p, n): fill with random bytes from the kernel. */
void util_random(void *p, size_t n);
/** util_random_below(n): uniform in [0, n), 0 when n is 0. For jitter and temporary names. */
uint64_t util_random_below(uint64_t n);

/** util_size(buf, bytes): "1.5 MiB" style text for people. Returns buf. */
const char *util_size(char buf[static 32], uint64_t bytes);
/** util_duration(buf, ms): "120 ms", "3.4 s", "5 min", "2.1 h", "3.0 d". Returns buf. */
const char *util_duration(char buf[static 32], uint64_t ms);
/** util_rfc3339(buf, ms): UTC time of `ms` since 1970, e.g. 2026-01-01T00:00:00.12Z; trailing
 * zeros of the fraction dropped, as Litestream's metadata wants it. Returns buf. */
const char *util_rfc3339(char buf[static 40], int64_t ms);
/** util_plain(s): in place, whatever a terminal, a log or JSON could not take becomes '?': control
 * characters but newlines, and bytes that are no UTF-8. For file names in messages. Returns s. */
char *util_plain(char *s);
/** util_hex(out, p, n): 2n lower-case hex digits and a NUL into out. */
void util_hex(char *out, const uint8_t *p, size_t n);

#endif
