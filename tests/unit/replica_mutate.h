/* replica_mutate.h - the replica of restore_harness.h with the metadata that walsup writes, and what can
 * become of one of its objects. */
#ifndef REPLICA_MUTATE_H
#define REPLICA_MUTATE_H

#include "tests/unit/restore_harness.h"

static const struct {
    unsigned level;
    uint64_t min, max;
} every_object[] = {{9, 1, 1},   {0, 2, 2},   {0, 3, 3}, {0, 4, 4}, {0, 5, 5}, {0, 6, 6},
                    {0, 7, 7},   {0, 8, 8},   {0, 9, 9}, {0, 10, 10}, {0, 11, 11}, {0, 12, 12},
                    {1, 2, 4},   {1, 5, 6},   {2, 2, 6}, {1, 7, 9}};

static inline uint64_t checksum_of(const struct fix *f, uint64_t k)
{
    uint64_t sum = LTX_CHECKSUM_FLAG;
    for (uint32_t i = 1; i <= pages(f, k); i++)
        sum = LTX_CHECKSUM_FLAG | (sum ^ ltx_page_checksum(i, page_of(f, k, i), f->page_size));
    return sum;
}

static inline void set_meta(const struct fix *f, unsigned level, uint64_t min, uint64_t max,
                     const char *name, uint64_t value)
{
    cleanup_free char *path = object(f, level, min, max);
    char text[17];
    (void)snprintf(text, sizeof text, "%016llx", (unsigned long long)value);
    if (setxattr(path, name, text, 16, 0) < 0)
        skip(); /* a file system without them: nothing to verify with */
}

#define CHECKSUM "user.walsup-checksum"
#define LINEAGE "user.walsup-lineage"

static inline void set_checksums(const struct fix *f)
{
    static const struct {
        unsigned level;
        uint64_t min, max;
    } more[] = {{9, 1, 1}, {1, 2, 4}, {1, 5, 6}, {2, 2, 6}, {1, 7, 9}};
    for (size_t i = 0; i < ARRAY_LEN(more); i++)
        set_meta(f, more[i].level, more[i].min, more[i].max, CHECKSUM, checksum_of(f, more[i].max));
    for (uint64_t k = 2; k <= STATES; k++)
        set_meta(f, 0, k, k, CHECKSUM, checksum_of(f, k));
}

static inline void flip(struct fix *f, size_t object, struct buf *b)
{
    (void)f;
    (void)object;
    b->p[util_random_below(b->len)] ^= (uint8_t)(1u << util_random_below(8));
}

static inline void flip_header(struct fix *f, size_t object, struct buf *b)
{
    (void)f;
    (void)object;
    b->p[util_random_below(LTX_HEADER_SIZE)] ^= (uint8_t)(1u << util_random_below(8));
}

static inline void cut(struct fix *f, size_t object, struct buf *b)
{
    (void)f;
    (void)object;
    b->len = (size_t)util_random_below(b->len);
}

/* the content of another object, whole */
static inline void swap(struct fix *f, size_t i, struct buf *b)
{
    struct err e = {0};
    size_t other = (size_t)util_random_below(ARRAY_LEN(every_object) - 1);
    other += other >= i;
    cleanup_free char *path =
        object(f, every_object[other].level, every_object[other].min, every_object[other].max);
    b->len = 0;
    assert_int_equal(fsx_read(path, 64u << 20, b, &e), 0);
}

/* a page that file k has and the next one leaves alone, or else the last one */
static inline uint32_t page_that_stays(const struct fix *f, uint64_t k)
{
    for (uint32_t p = pages(f, k); p > 1; p--) {
        const uint8_t *old = k > 1 ? page_of(f, k - 1, p) : NULL, *new = page_of(f, k, p);
        const uint8_t *next = k < STATES ? page_of(f, k + 1, p) : new;
        if ((!old || memcmp(old, new, f->page_size) != 0) && next && memcmp(next, new, f->page_size) == 0)
            return p;
    }
    return pages(f, k);
}

/* the same object of a history in which one row was another: sound in itself, even its lineage; and the
 * checksum that would be recorded with it */
static uint64_t replayed_checksum;
static inline void replay_page(struct fix *f, size_t i, uint64_t page, struct buf *b)
{
    uint64_t k = every_object[i].max;
    cleanup_buf struct buf kept = BUF_INIT;
    buf_add(&kept, f->state[k].p, f->state[k].len);
    f->state[k].p[page * f->page_size - 8] ^= 0x10;
    b->len = 0;
    make_ltx(f, every_object[i].min, k, LTX_BLOCK, b);
    replayed_checksum = checksum_of(f, k);
    memcpy(f->state[k].p, kept.p, kept.len);
}

static inline void replay(struct fix *f, size_t i, struct buf *b)
{
    replay_page(f, i, pages(f, every_object[i].max), b);
}

#endif
