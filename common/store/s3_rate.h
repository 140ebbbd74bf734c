/* s3_rate.h - the bytes that may be sent by now, over all requests of a store. libcurl limits each
 * transfer by itself, and small ones not at all: since 8.23 a transfer's first second is free, so a
 * thousand small objects would be as well. The loop thread. */
#ifndef WALSUP_S3_RATE_H
#define WALSUP_S3_RATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* how long whoever got nothing waits */
#define S3_RATE_STEP_MS 50

struct s3_rate {
    uint64_t bytes_per_s; /* 0 = no limit */
    uint64_t credit;      /* thousandths of a byte */
    uint64_t at_ms;       /* when the credit was last added to */
};

/** s3_rate_set(r, bytes_per_s, now_ms): from now on; what was saved up is forgotten. */
void s3_rate_set(struct s3_rate *r, uint64_t bytes_per_s, uint64_t now_ms);
/** s3_rate_take(r, want, n, now_ms): how many of `want` bytes one of n transfers may send now, at most a step's share.
 * 0: none before S3_RATE_STEP_MS have passed. Nothing is saved up beyond two steps. */
size_t s3_rate_take(struct s3_rate *r, size_t want, unsigned n, uint64_t now_ms);
/** s3_rate_return(r, n): of what was taken n bytes were not sent. */
void s3_rate_return(struct s3_rate *r, size_t n);

#endif
