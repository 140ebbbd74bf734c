/* s3_libs3.h - libs3's side of the seam. It composes requests and parses listings, and every call of libcurl that it
 * makes arrives here (the linker's --wrap): of what it composes, only its CURLOPT_PRIVATE and its write function are
 * kept; what is sent is composed and set in s3_easy.c. Knows libs3 and libcurl, not libuv. For s3_transport.c, which
 * moves the transfers. Loop thread. */
#ifndef WALSUP_S3_LIBS3_H
#define WALSUP_S3_LIBS3_H

#include <curl/curl.h>

#include "common/store/s3_transport.h"

struct S3RequestContext;

struct s3_libs3 {
    /* set by the owner before s3_libs3_open */
    const struct s3_target *target;
    void (*added)(void *arg, struct s3_xfer *x);   /* a transfer is on its way */
    void (*removed)(void *arg, struct s3_xfer *x); /* it is not any more */
    void (*completed)(void *arg); /* there is one for s3_libs3_take_complete; maybe from inside s3_libs3_send */
    void *arg;
    /* for the owner to read */
    CURLM *multi;
    struct s3_xfer *active; /* added to the multi handle */
    /* its own */
    struct S3RequestContext *context;
    struct s3_xfer *ended;    /* to be reported to libs3, in order */
    struct s3_xfer *complete; /* libs3 is through with them */
};

/** s3_libs3_open(l, e): makes context and multi handle. Fails with ERR_INTERNAL if the program was linked without the
 * --wrap flags. s3_libs3_close(l): no transfer may be left. */
int s3_libs3_open(struct s3_libs3 *l, struct err *e);
void s3_libs3_close(struct s3_libs3 *l);
/** s3_libs3_send(l, x): x->priv is there and empty. */
void s3_libs3_send(struct s3_libs3 *l, struct s3_xfer *x);
/** s3_libs3_end(x, result): queue it for libs3, unless it has a result already. */
void s3_libs3_end(struct s3_xfer *x, CURLcode result);
/** s3_libs3_reap(l): let libs3 take what has ended, by curl's word or s3_libs3_end. */
void s3_libs3_reap(struct s3_libs3 *l);
/** s3_libs3_take_complete(l): the next one that libs3 is through with, in order; NULL: none. */
struct s3_xfer *s3_libs3_take_complete(struct s3_libs3 *l);

#endif
