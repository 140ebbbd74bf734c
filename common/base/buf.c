#include "common/base/buf.h"

#include <stdarg.h>

void buf_free(struct buf *b)
{
    free(b->p);
    *b = (struct buf)BUF_INIT;
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
    if (b->failed || n > SIZE_MAX / 2 - b->len) {
        b->failed = true;
        return NULL;
    }
    if (!b->p || b->cap - b->len < n) {
        size_t cap = MAX(b->cap * 2, (size_t)256);
        while (cap - b->len < n)
            cap *= 2;
        uint8_t *p = realloc(b->p, cap);
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->p = p;
        b->cap = cap;
    }
    return b->p + b->len;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
    uint8_t *to = buf_reserve(b, n);
    if (to && n) {
        memcpy(to, p, n);
        b->len += n;
    }
}

void buf_add_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *s = NULL;
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = true;
        return;
    }
    buf_add(b, s, (size_t)n);
    free(s);
}

void buf_consume(struct buf *b, size_t n)
{
    if (n < b->len)
        memmove(b->p, b->p + n, b->len - n);
    b->len -= MIN(n, b->len);
}

const char *buf_str(struct buf *b)
{
    uint8_t *end = buf_reserve(b, 1);
    if (!end)
        return "";
    *end = '\0';
    return (const char *)b->p;
}

const uint8_t *rd_take(struct rd *r, size_t n)
{
    if (r->bad || rd_left(r) < n) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += n;
    return p;
}

uint8_t rd_u8(struct rd *r)
{
    const uint8_t *p = rd_take(r, 1);
    return p ? *p : 0;
}

uint16_t rd_be16(struct rd *r)
{
    const uint8_t *p = rd_take(r, 2);
    return p ? be16_get(p) : 0;
}

uint32_t rd_be32(struct rd *r)
{
    const uint8_t *p = rd_take(r, 4);
    return p ? be32_get(p) : 0;
}

uint64_t rd_be64(struct rd *r)
{
    const uint8_t *p = rd_take(r, 8);
    return p ? be64_get(p) : 0;
}
