/* s3_reply.h - an answer as it comes in, and the verdict over it. Neither curl's handles nor
 * libuv. */
#ifndef WALSUP_S3_REPLY_H
#define WALSUP_S3_REPLY_H

#include "common/store/s3_transport.h"

#define S3_HEADERS_MAX_BYTES ((size_t)64 << 10)
#define S3_ERROR_MAX_BYTES ((size_t)256 << 10)
#define S3_PAGE_MAX_BYTES ((size_t)16 << 20)

struct s3_reply {
    size_t header_bytes;
    bool checked;             /* S3_GET: status, length and range were as asked; sink may have it */
    uint64_t expected;        /* S3_GET: body bytes to come */
    size_t libs3_keys;        /* what libs3 read of a listing: how many, and a digest of them */
    uint64_t libs3_digest;
    struct store_meta meta;
    bool page_read; /* S3_LIST: x->page is filled; otherwise page_err says why not */
    struct err page_err;
};

/** s3_reply_header(r, x, line, n), s3_reply_data(r, x, p, n): negative: break off; x->err says why,
 * or, if it is empty, the answer is an error of which enough was read. */
int s3_reply_header(struct s3_reply *r, struct s3_xfer *x, const char *line, size_t n);
int s3_reply_data(struct s3_reply *r, struct s3_xfer *x, const void *p, size_t n);
/** s3_reply_page(r, x): at the end of a transfer: if it brought a whole listing, read it. */
bool s3_reply_page(struct s3_reply *r, struct s3_xfer *x);
void s3_reply_libs3_key(struct s3_reply *r, const char *key, uint64_t size);
/** s3_reply_verdict(r, x, t): fill x->err and the results; frees what x->answer holds. */
void s3_reply_verdict(struct s3_reply *r, struct s3_xfer *x, const struct s3_target *t);

#endif
