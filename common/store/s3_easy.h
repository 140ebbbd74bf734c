/* s3_easy.h - one transfer as a curl easy handle: the options it gets, its callbacks, its progress.
 * Knows libcurl, not libuv. For s3_transport.c and s3_libs3.c. */
#ifndef WALSUP_S3_EASY_H
#define WALSUP_S3_EASY_H

#include <curl/curl.h>

#include "common/store/s3_rate.h"
#include "common/store/s3_reply.h"

typedef size_t (*s3_write_fn)(char *, size_t, size_t, void *);

/* What the uploads of a transport share. Whoever had a share in this round lets those go first who wait for theirs. */
struct s3_throttle {
    struct s3_rate rate;
    unsigned uploads, waiting, round;
    void (*wait)(void *arg); /* somebody waits, for S3_RATE_STEP_MS: then a round begins */
    void *arg;
};

struct s3_private {
    struct s3_transport *tr;
    struct s3_libs3 *libs3;
    struct s3_throttle *throttle;
    CURL *easy;
    struct curl_slist *headers;
    struct s3_xfer *next_active, *prev_active, *next_ended, *next_complete;
    void *libs3_private, *libs3_data;
    s3_write_fn libs3_write;
    bool in_ended, added;
    bool throttled; /* it waits for its share of the target's rate */
    unsigned round; /* in which it got the last one */
    CURLcode option_rc, result;
    struct s3_reply reply;
    uint64_t last_state, last_change_ms, sent_ms;
    char error[CURL_ERROR_SIZE];
};

/** s3_easy_prepare(x, t): x->priv->easy is what libs3 wants to have sent; make it ours from the
 * ground up, signed as of now. */
int s3_easy_prepare(struct s3_xfer *x, const struct s3_target *t);
/** s3_easy_uploads(x): it sends an object, or a part of one. */
bool s3_easy_uploads(const struct s3_xfer *x);
/** s3_easy_unthrottled(p): it waits no longer, because it is served or over. */
void s3_easy_unthrottled(struct s3_private *p);
/** s3_easy_has_connection(x): false: it still looks for an address that answers. */
bool s3_easy_has_connection(const struct s3_xfer *x);
/** s3_easy_state(x): a number that changes whenever anything moves. */
uint64_t s3_easy_state(struct s3_xfer *x);
/** s3_easy_done(p): wipe and free; not the handle, which is libs3's. */
void s3_easy_done(struct s3_private *p);

/* Tests: called with every option that is set on a transfer (CURLOPT_*; text is NULL for numbers,
 * and for what is neither). Credentials are in no option but the header list, which is left out. */
extern void (*s3_easy_option_hook)(int option, long long number, const char *text);

#endif
