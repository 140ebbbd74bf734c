/* s3_transport.h - the seam under libs3: one CURLM and one libs3 request context per store, driven
 * by libuv. libs3 composes requests and parses listings; what is really sent, and whether it
 * succeeded, is decided here. Loop thread. */
#ifndef WALSUP_S3_TRANSPORT_H
#define WALSUP_S3_TRANSPORT_H

#include "common/store/s3_answer.h"
#include "common/store/s3_body.h"
#include "common/store/s3_xml.h"
#include "common/store/store_impl.h"

#define S3_LIST_MAX_KEYS 1000
#define S3_DELETE_MAX_KEYS 1000

struct s3_transport;
struct s3_private;

/* One request and its answer. Caller-owned; untouched by the caller from send to done. */
struct s3_xfer {
    /* set by the caller */
    enum s3_verb verb;
    const char *key;    /* whole key, target's path included; the prefix for S3_LIST */
    const char *marker; /* S3_LIST, S3_UPLOADS: "" at the beginning */
    struct s3_body *body; /* S3_PUT, S3_PART, S3_COMPLETE, S3_DELETES: hashed */
    /* of the body, in base64; S3_DELETES, and S3_PUT and S3_PART where the store wants one. md5 "":
     * not known; both "": none is sent */
    char md5[28], sha256[48];
    bool if_absent;
    bool fresh; /* not over a connection that was kept, nor to an address that was remembered */
    struct store_meta meta; /* S3_PUT, S3_CREATE: to send; otherwise what came */
    const char *upload_id;  /* S3_PART, S3_COMPLETE, S3_ABORT; S3_UPLOADS: goes with the marker */
    unsigned part;          /* S3_PART: from 1 */
    uint64_t off, len;      /* S3_GET: UINT64_MAX: to the end */
    store_sink_fn sink;
    void *sink_arg;
    struct store_peer *peer;     /* what is learned of the connection; may be NULL */
    struct store_info *ret_info; /* S3_GET, S3_HEAD; may be NULL */
    uint64_t *progress;          /* body bytes moved; may be NULL */
    void (*done)(struct s3_xfer *x); /* never from inside s3_transport_send or _cancel */
    void *data;
    /* the outcome */
    struct err err;
    struct s3_page page; /* S3_LIST, S3_UPLOADS, S3_DELETES; the caller frees it with s3_page_done */
    char *new_id;        /* S3_CREATE: of the upload; the caller frees it */
    struct s3_answer answer; /* gone when done() returns */
    struct s3_private *priv;
};

/** s3_transport_new(loop, t, ret, e): t stays valid until closed. Fails with ERR_INTERNAL if the
 * program was linked without the --wrap flags. */
int s3_transport_new(uv_loop_t *loop, const struct s3_target *t, struct s3_transport **ret,
                     struct err *e);
/** s3_transport_wake(tr, fn, arg): call fn(arg) soon, once, from the loop. One at a time. */
void s3_transport_wake(struct s3_transport *tr, void (*fn)(void *arg), void *arg);
void s3_transport_send(struct s3_transport *tr, struct s3_xfer *x);
/** s3_transport_cancel(x): done() comes soon with ERR_CANCELED, or with an outcome that was
 * decided before. */
void s3_transport_cancel(struct s3_xfer *x);
/** s3_transport_body_event(x): to be called for the events of x->body while x is sent. */
void s3_transport_body_event(struct s3_xfer *x);
/** s3_transport_close(tr, closed, arg): no transfer may be left. closed(arg) comes later. */
void s3_transport_close(struct s3_transport *tr, void (*closed)(void *arg), void *arg);

#endif
