/* store_s3_int.h - the queue of requests of an S3 store, for the store_s3*.c files. Loop thread. */
#ifndef WALSUP_STORE_S3_INT_H
#define WALSUP_STORE_S3_INT_H

#include "common/store/s3_pace.h"
#include "common/store/s3_transport.h"
#include "common/store/store_impl.h"
#include "common/store/work.h"

struct store_s3;

/* One request of a caller: one transfer, or several in a row. */
struct s3_op {
    unsigned magic;
    struct store_s3 *store;
    struct store_req *req;
    struct s3_op *next, *prev;
    bool started, sending, canceled, signed_again;
    bool digested;       /* it was sent once more, with a digest */
    struct store_body what; /* of a body that is to be hashed anew */
    bool held;           /* its keys were refused: they are read again first */
    unsigned keys_turn;  /* the keys that it was signed with */
    uint64_t started_ms;
    unsigned refused; /* times in a row, because of the rate */
    struct s3_xfer x;
    char *key; /* whole key or prefix */
    char *marker, *id_marker, *create_key;
    struct s3_body *body;
    /** what to do with an answer: 0: done, 1: x is ready to be sent again, negative: e is the
     * error. It sees every answer, failed ones as well (e->code is set then). */
    int (*answer)(struct s3_op *op, struct err *e);

    store_item_fn item; /* LIST */
    void *item_arg;
    const char *const *keys; /* DELETE, one or many at a time */
    size_t n_keys, at_key;

    struct store_upload *upload; /* multipart */
    unsigned part;
    struct buf document;
    uint64_t total, older_ms;
    struct s3_page swept; /* uploads to be aborted, and how many of them are */
    size_t n_swept;
    struct store_info info;
    struct err *was; /* what led to looking whether it is there all the same */
};

/* what is being read from files, by a worker (store_s3_files.c) */
struct s3_trusting {
    struct work work;
    bool running, doubted; /* doubted: a handshake failed over it */
    uint64_t read_ms;
    struct s3_trust *got;
};
struct s3_rereading {
    struct work work;
    bool running;
    int result;
    struct cred got;
};

/* keys are being fetched, by a worker; or were, to no avail */
struct s3_fetch {
    struct work work;
    bool running, failed, refused; /* the ones in use were refused */
    enum cred_kind kind;
    char *command;
    int result;
    struct cred got;
    struct err err;
    uint64_t again_ms, early_ms; /* not before; not before that while the old ones are good */
};

struct store_s3 {
    struct store base;
    struct s3_target target;
    struct s3_transport *transport;
    struct store_peer peer;
    struct s3_fetch fetch;
    struct s3_trusting trusting;
    struct s3_rereading rereading;
    unsigned reading;   /* of these two */
    unsigned keys_turn; /* grows when target.cred changes by rereading */
    char *path; /* "" or "prefix/" */
    struct s3_op *first, *last;
    unsigned started;
    struct s3_pace pace;
    bool digests; /* it was found to want one with each object, as buckets with Object Lock do */
    bool deletes_singly; /* it was found not to have DeleteObjects */
    bool fresh; /* the last transfer found no way to the server */
    uv_timer_t timer; /* until the next request may start */
    bool canceled; /* one that has not started: look for it */
    bool closed;
    /* something is wrong with keys or bucket: until then, every request fails with this at once,
     * but for one that tries */
    struct err *parked;
    uint64_t parked_until_ms;
    const struct s3_op *prober;
};

/** s3_op_new(s, req, verb, key, answer): queued; it starts from the loop, so the caller can still
 * fill in what is missing. answer NULL: one transfer, whose outcome is the request's. */
struct s3_op *s3_op_new(struct store *s, struct store_req *req, enum s3_verb verb,
                        const char *key, int (*answer)(struct s3_op *op, struct err *e));
/** s3_op_body(op, body): what it sends. `body` is copied, not what it points to. */
void s3_op_body(struct s3_op *op, const struct store_body *body);

/** s3_asks_condition(s, flags): whether If-None-Match is sent. Not to a store that was found not to obey it: it may
 * refuse every request that has it. */
bool s3_asks_condition(const struct store *s, unsigned flags);

/** s3_poke(s), s3_poke_in(s, ms): look at the queue, soon; later. */
void s3_poke(struct store_s3 *s);
void s3_poke_in(struct store_s3 *s, uint64_t ms);
/** s3_keys_ready(s): whether a request may start, or has to wait for keys, which are fetched then.
 * s3_keys_error(s): why there are none; it has to fail with that. NULL: there are some. */
bool s3_keys_ready(struct store_s3 *s);
const struct err *s3_keys_error(const struct store_s3 *s);

/** s3_trust_ready(s): whether a request may start, or has to wait for what TLS needs, which is read then.
 * s3_trust_doubt(s): a handshake failed over it: it is read again before the next one. */
bool s3_trust_ready(struct store_s3 *s);
void s3_trust_doubt(struct store_s3 *s);
/** s3_keys_reread(s): then s3_ops_resume(s) is called, never from inside. If there are other ones now, s->keys_turn is
 * another. s3_ops_resume(s): those that are held go on. */
void s3_keys_reread(struct store_s3 *s);
void s3_ops_resume(struct store_s3 *s);

/* of struct store_ops */
void s3_delete(struct store *s, struct store_req *req, const char *const *keys, size_t n);
void s3_upload_begin(struct store_upload *u, struct store_req *req);
void s3_upload_add(struct store_upload *u, struct store_req *req, unsigned n,
                   const struct store_body *body);
void s3_upload_finish(struct store_upload *u, struct store_req *req, uint64_t total);
void s3_upload_abort(struct store_upload *u, struct store_req *req);
void s3_upload_free(struct store_upload *u);
void s3_sweep(struct store *s, struct store_req *req, const char *prefix, uint64_t older_ms);

#endif
