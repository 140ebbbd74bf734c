/* buf.h - a growing byte buffer to write into, and a bounded reader that cannot run past its
 * end. Bytes from outside are decoded through the reader only. Any thread, one at a time. */
#ifndef WALSUP_BUF_H
#define WALSUP_BUF_H

#include "common/base/util.h"

struct buf {
    uint8_t *p;
    size_t len, cap;
    bool failed; /* an allocation failed; everything after it was dropped */
};

#define BUF_INIT {NULL, 0, 0, false}
#define cleanup_buf cleanup(buf_free)

void buf_free(struct buf *b);
/** buf_reserve(b, n): room for n more bytes; returns where they go, NULL if there is no memory
 * (then b->failed is set). The bytes count only after buf_add_len. */
uint8_t *buf_reserve(struct buf *b, size_t n);
void buf_add(struct buf *b, const void *p, size_t n);
void buf_add_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/** buf_consume(b, n): forget the first n bytes (n <= len). */
void buf_consume(struct buf *b, size_t n);
/** buf_str(b): NUL-terminated view of the content ("" when empty); valid until the next call. */
const char *buf_str(struct buf *b);

struct rd {
    const uint8_t *p, *end;
    bool bad; /* something was read past the end; every later read gives zero */
};

static inline struct rd rd_of(const void *p, size_t n)
{
    return (struct rd){p, (const uint8_t *)p + n, false};
}
static inline size_t rd_left(const struct rd *r)
{
    return (size_t)(r->end - r->p);
}
/** rd_take(r, n): n bytes, or NULL (and r->bad) when fewer are left. */
const uint8_t *rd_take(struct rd *r, size_t n);
uint8_t rd_u8(struct rd *r);
uint16_t rd_be16(struct rd *r);
uint32_t rd_be32(struct rd *r);
uint64_t rd_be64(struct rd *r);

#endif
