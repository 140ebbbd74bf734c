/* store_impl.h - what a kind of store provides, and what store.c gives it in return. Only the
 * store_*.c files include this. Loop thread only. */
#ifndef WALSUP_STORE_IMPL_H
#define WALSUP_STORE_IMPL_H

#include "common/base/fsx.h"
#include "common/store/store.h"

/* Each of the first five has to end in exactly one store_finish(req), later. `close` cancels all
 * of the store's requests and ends in exactly one store_impl_closed(s), which may come from inside
 * and must come only when no request is left and nothing of the kind refers to the store. */
struct store_ops {
    void (*put)(struct store *s, struct store_req *req, const char *key,
                const struct store_body *body, const struct store_meta *meta, unsigned flags);
    void (*get)(struct store *s, struct store_req *req, const char *key, uint64_t off,
                uint64_t len, store_sink_fn sink, void *arg, struct store_info *ret_info);
    void (*list)(struct store *s, struct store_req *req, const char *prefix, const char *after,
                 store_item_fn item, void *arg);
    void (*del)(struct store *s, struct store_req *req, const char *const *keys, size_t n);
    void (*head)(struct store *s, struct store_req *req, const char *key,
                 struct store_info *ret_info);
    void (*cancel)(struct store_req *req);
    void (*close)(struct store *s);
    void (*free)(struct store *s);
    /* as store_upload_ and store_sweep; upload_free frees what the kind put into u */
    void (*upload_begin)(struct store_upload *u, struct store_req *req);
    void (*upload_add)(struct store_upload *u, struct store_req *req, unsigned n,
                       const struct store_body *body);
    void (*upload_finish)(struct store_upload *u, struct store_req *req, uint64_t total);
    void (*upload_abort)(struct store_upload *u, struct store_req *req);
    void (*upload_free)(struct store_upload *u);
    void (*sweep)(struct store *s, struct store_req *req, const char *prefix, uint64_t older_ms);
    /* blocking, any thread; NULL: objects are not files of this machine */
    int (*open)(const struct store *s, const char *key, int *ret_fd, struct store_info *ret_info,
                struct err *e);
};

struct store_big;

/* one multipart upload, or one file that grows beside its final name */
struct store_upload {
    struct store *store;
    struct store_upload *next, *prev; /* all of the store's */
    char *key;
    struct store_meta meta;
    unsigned flags;
    uint64_t part_bytes;
    /* a bucket's: the upload's name once it is begun, and what was answered for each part */
    char *id;
    char **etag;
    size_t n_etags;
    /* a directory's */
    struct fsx_tmp tmp;
};

/* embedded as the first member of struct store_file and struct store_s3 */
struct store {
    unsigned magic;
    const struct store_ops *ops;
    uv_loop_t *loop;
    enum conf_target_type type;
    char *describe;
    unsigned connections;
    /* in one piece up to put_bytes, then in parts of part_bytes or more */
    uint64_t put_bytes, part_bytes;
    unsigned max_parts, parallel_parts;
    bool shared; /* store_share */
    struct store_peer *peer; /* a bucket's */
    enum store_fencing fencing;
    struct store_counters count;
    struct store_upload *uploads;
    struct store_big *bigs; /* puts that go up in parts */

    unsigned in_flight; /* submitted, done() not yet called */
    bool closing, impl_closing, impl_closed, handle_closing;
    void (*closed)(void *arg);
    void *closed_arg;
    uv_idle_t later;           /* calls done() of the requests in late */
    struct store_req **late;   /* failed inside their own submitting call */
    size_t n_late, cap_late;
};

/** store_file_new(), store_s3_new(): like store_open, without the common part. */
int store_file_new(uv_loop_t *loop, const struct conf_target *t, struct store **ret,
                   struct err *e);
int store_s3_new(uv_loop_t *loop, const struct conf_target *t, struct store **ret, struct err *e);

/** store_finish(req): call done(); the request and, once the store is closing, everything else
 * may be gone when this returns. */
void store_finish(struct store_req *req);
/** store_finish_later(req): the same from inside a submitting call. */
void store_finish_later(struct store_req *req);
void store_impl_closed(struct store *s);

/** store_submit(s, req, op, key): begin a request; false: it has been refused and its done() is on the
 * way. key NULL: there is none to be looked at. */
bool store_submit(struct store *s, struct store_req *req, enum store_op op, const char *key);
/** store_count(req): it has ended. */
void store_count(const struct store_req *req);
/** store_body_fits(b, file_bytes, e): is a file of that size what the body announced? */
int store_body_fits(const struct store_body *b, uint64_t file_bytes, struct err *e);

/** store_big_put(...): like store_put, submitted already, in parts. store_big_close(s): cancel them
 * all. */
void store_big_put(struct store *s, struct store_req *req, const char *key,
                   const struct store_body *body, const struct store_meta *meta, unsigned flags);
void store_big_close(struct store *s);

/** store_key_ok(key, e): no empty, "." or ".." component, no control character, at most 1024
 * bytes: such names mean different things to different stores. */
int store_key_ok(const char *key, struct err *e);

/* Metadata as text: names without their "user." or "x-amz-meta-". */
#define STORE_META_TIMESTAMP "litestream-timestamp"
#define STORE_META_CHECKSUM "walsup-checksum"
#define STORE_META_LINEAGE "walsup-lineage"
#define STORE_META_WRITER "walsup-writer"
#define STORE_META_MAX 4
struct store_meta_text {
    const char *name;
    char value[56];
};
/** store_meta_format(m, out): the fields that are set; returns how many. m may be NULL. */
size_t store_meta_format(const struct store_meta *m, struct store_meta_text out[STORE_META_MAX]);
/** store_meta_parse(m, name, value): unknown names and unreadable values are left out, because
 * other programs may have written them. */
void store_meta_parse(struct store_meta *m, const char *name, const char *value);
/** store_rfc3339(text, ret_ms): false when malformed. */
bool store_rfc3339(const char *text, int64_t *ret_ms);

#endif
