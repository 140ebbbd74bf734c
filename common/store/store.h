/* store.h - somewhere to keep objects: an S3 bucket or a directory. One struct store per target,
 * shared by every database that replicates there.
 *
 * Thread: everything here is called on the loop thread and calls back on the loop thread. No
 * call blocks; disk work runs on libuv's workers.
 *
 * Requests are caller-owned and intrusive: embed a struct store_req, fill done and data, submit.
 * From submission until done() returns the request and everything passed with it by pointer
 * (keys, body, lists, sink argument) must stay valid and untouched. done() is called exactly once
 * for every submitted request, never from inside the submitting call; in it the request may be
 * reused or freed.
 *
 * Errors arrive as req->err, a whole sentence that names operation, object, endpoint, bucket and
 * key id, with a hint where a person can do something. Codes: ERR_NET and ERR_TIMEOUT (no answer),
 * ERR_STORE (5xx, 429, broken or lying answer), ERR_AUTH (401, 403), ERR_NOTFOUND (object, or
 * bucket: then `err.hint` says so), ERR_CONFLICT (412), ERR_CORRUPT (what came back is not what
 * was promised), ERR_CANCELED, ERR_NOSPC, ERR_PERM, ERR_IO (file store), ERR_CONFIG. Whether and
 * when to try again is the caller's decision; err.retry says what the failure means for it
 * (store/retry.h). The store itself repeats a request once, signed again, when the answer taught it
 * the server's clock, the region, or new keys are in the files; and it holds requests back while
 * the server is in trouble. */
#ifndef WALSUP_STORE_H
#define WALSUP_STORE_H

#include "common/base/err.h"
#include "common/format/conf.h"

#include <uv.h> /* after ours: it brings sys/param.h with its own MIN and MAX */

struct store;
struct store_req;
struct store_upload;

/* Metadata kept with an object; 0 = not there. On S3: x-amz-meta-litestream-timestamp (RFC 3339),
 * x-amz-meta-walsup-checksum, x-amz-meta-walsup-lineage (16 hex digits), x-amz-meta-walsup-writer.
 * In a directory: extended attributes user.litestream-timestamp and so on (missing support is not
 * an error), and mtime. */
struct store_meta {
    int64_t timestamp_ms;
    uint64_t checksum;
    uint64_t lineage;
    char writer[56]; /* host and boot, for people; "": not there */
};

struct store_object {
    const char *key; /* relative to the target's path, valid only during the call */
    uint64_t size;
    int64_t mtime_ms;
};

struct store_info {
    uint64_t size;
    int64_t mtime_ms;
    struct store_meta meta;
};

/* What to upload: `size` bytes in memory (p), or of a file (path) from `off` on. A file that turns
 * out to be larger or smaller than `file_bytes` (0: off + size) is ERR_CORRUPT, and nothing counts
 * as stored; STORE_ANY_SIZE: it only has to reach to the end of the body. */
struct store_body {
    const void *p;
    const char *path;
    uint64_t off, size, file_bytes;
};
#define STORE_ANY_SIZE UINT64_MAX

enum store_put_flags {
    STORE_IF_ABSENT = 1, /* fail with ERR_CONFLICT if the key exists (If-None-Match: *) */
};

/* What is counted of each store. An object that goes up in parts is one put without bytes, and what its
 * parts are. */
#define STORE_OPS(X)                                                                                     \
    X(STORE_PUT, "put") X(STORE_GET, "get") X(STORE_LIST, "list") X(STORE_DELETE, "delete")              \
    X(STORE_HEAD, "head") X(STORE_BEGIN, "begin") X(STORE_PART, "part") X(STORE_FINISH, "finish")        \
    X(STORE_ABORT, "abort") X(STORE_SWEEP, "sweep")
/* not-found and conflict are answers, not failures */
#define STORE_OUTCOMES(X)                                                                                \
    X(STORE_OK, "ok") X(STORE_NOT_FOUND, "not-found") X(STORE_CONFLICT, "conflict")                      \
    X(STORE_CANCELED, "canceled") X(STORE_DENIED, "denied") X(STORE_FAILED, "error")
#define STORE_ENUM(id, name) id,
enum store_op { STORE_OPS(STORE_ENUM) STORE_N_OPS };
enum store_outcome { STORE_OUTCOMES(STORE_ENUM) STORE_N_OUTCOMES };
#undef STORE_ENUM
struct store_counters {
    uint64_t requests[STORE_N_OPS][STORE_N_OUTCOMES];
    uint64_t bytes[STORE_N_OPS];
};

typedef void (*store_done_fn)(struct store_req *req);
/** receives consecutive bytes; a negative return ends the request with that code (fill e) */
typedef int (*store_sink_fn)(void *arg, const void *p, size_t n, struct err *e);
/** one listed object; a negative return ends the request with that code (fill e) */
typedef int (*store_item_fn)(void *arg, const struct store_object *o, struct err *e);

struct store_req {
    /* set by the caller */
    store_done_fn done;
    void *data;
    /* set by the store, valid in done() */
    struct err err; /* err.code == ERR_OK: done as asked */
    uint64_t bytes; /* body bytes moved so far; may be read at any time on the loop thread */
    /* the store's own */
    struct store *store;
    enum store_op op;
    bool in_parts;
    void *impl;
    void (*cancel)(struct store_req *req); /* NULL: impl is of the kind of store */
};

/** store_open(loop, target, ret, e): a store for a configured target. Copies what it needs from
 * `target`. Does not touch the network, and of the disk only the small files that hold its keys. */
int store_open(uv_loop_t *loop, const struct conf_target *target, struct store **ret,
               struct err *e);
/** store_close(s, closed, arg): cancel everything, call every done(), then closed(arg) and free.
 * closed may be NULL. Never from inside the call. */
void store_close(struct store *s, void (*closed)(void *arg), void *arg);
/** store_describe(s): "https://host/bucket/path as key id X" or "/dir"; lives as long as s. */
const char *store_describe(const struct store *s);
/** store_place(s, replica): the same of a replica in it, malloc'ed. */
char *store_place(const struct store *s, const char *replica);
/** store_type(s): decides the replica layout (store/layout.h). */
enum conf_target_type store_type(const struct store *s);
/** store_connections(s): how many requests make sense at once. */
unsigned store_connections(const struct store *s);

/* How far the requests of a bucket came, and through what. */
enum store_stage {
    STORE_NOWHERE,   /* the name does not resolve, or nothing was asked yet */
    STORE_RESOLVED,
    STORE_CONNECTED,
    STORE_SECURED,   /* by TLS */
    STORE_ANSWERED,
};

struct store_peer {
    enum store_stage stage; /* the farthest so far */
    char address[64];       /* "192.0.2.1:443" */
    uint64_t resolve_ms, connect_ms, tls_ms;
    bool skip_verify;   /* whatever certificate the server shows */
    const char *provider; /* whose peculiarities are minded, for people */
    char tls[16];       /* "TLSv1.3", "" without */
    char issuer[128];   /* of the server's certificate */
    int64_t expires_ms; /* 0: not known */
    bool has_clock;
    int64_t clock_offset_ms; /* the server's clock minus ours */
    long status;             /* of the last answer, and the code of its error document or "" */
    char code[64];
    bool digests; /* it wants a digest with each object, as buckets with Object Lock do */
    bool no_keys;            /* they have to be fetched, and could not be */
    const char *region; /* that is signed for: the configured one, or what the server taught */
    const char *key_id, *key_source;
};

/** store_counters(s): since it was opened. store_op_name(op), store_outcome_name(o): as in metrics. */
const struct store_counters *store_counters(const struct store *s);
const char *store_op_name(enum store_op op);
const char *store_outcome_name(enum store_outcome o);

/** store_peer(s): NULL for a directory. Lives until the next request ends. */
const struct store_peer *store_peer(const struct store *s);

/** store_share(s): many use this store, each with its own timer. Trouble with the keys or the bucket
 * is found out by one request every 15 to 30 s, and told to the others without asking the server;
 * the error is then the words of the request that found out. */
void store_share(struct store *s);

/** store_guard(s, name, state_dir, used): of a directory: from now on see with each request that it
 * is the one that it was (store_root.h, where the arguments are explained). Before the first
 * request. store_root_of(s): NULL if it is not guarded. */
struct store_root;
void store_guard(struct store *s, const char *name, const char *state_dir,
                 bool (*used)(const char *state_dir, const char *name));
struct store_root *store_root_of(const struct store *s);

/** store_hint_empty(s, e): for an error that says that nothing is stored there: of a directory
 * without a marker, that its disk may not be mounted. Blocking. Returns the error. */
int store_hint_empty(const struct store *s, struct err *e);

/** store_fencing(s): does it obey STORE_IF_ABSENT? A directory does; of a bucket somebody has to find out,
 * and say so with store_fencing_set. */
enum store_fencing {
    STORE_FENCING_UNKNOWN,
    STORE_FENCING_ASKED,
    STORE_FENCING_ON,
    STORE_FENCING_OFF,
};
enum store_fencing store_fencing(const struct store *s);
void store_fencing_set(struct store *s, enum store_fencing f);

/** store_put(s, req, key, body, meta, flags): replace or create the object; meta may be NULL. Done
 * without error means: the store has acknowledged every byte (S3: 200 and an ETag; directory: file
 * and directory fsynced). To a bucket, what is large goes up in parts, some at a time, each of them
 * tried again on its own while the trouble looks like passing; memory stays bounded. */
void store_put(struct store *s, struct store_req *req, const char *key,
               const struct store_body *body, const struct store_meta *meta, unsigned flags);
/** store_get(s, req, key, off, len, sink, arg): bytes [off, off+len) into the sink; len UINT64_MAX:
 * to the end. Zero bytes are ERR_USAGE; an object shorter than off+len, or with nothing at off > 0,
 * is ERR_CORRUPT. ret_info (may be NULL) gets
 * size and metadata before the first sink call. */
void store_get(struct store *s, struct store_req *req, const char *key, uint64_t off, uint64_t len,
               store_sink_fn sink, void *arg, struct store_info *ret_info);
/** store_list(s, req, prefix, after, item, arg): every object whose key starts with prefix and
 * sorts after `after` ("" or NULL: all), in byte order of the keys, however many there are. A
 * listing that broke off is an error, never a short list. A prefix without objects is an empty
 * list (also a missing directory), a missing bucket is ERR_NOTFOUND. */
void store_list(struct store *s, struct store_req *req, const char *prefix, const char *after,
                store_item_fn item, void *arg);
/** store_delete(s, req, keys, n): all of them; one that is not there is fine. */
void store_delete(struct store *s, struct store_req *req, const char *const *keys, size_t n);
/** store_head(s, req, key, ret_info): ERR_NOTFOUND if there is no such object. */
void store_head(struct store *s, struct store_req *req, const char *key,
                struct store_info *ret_info);
/** store_is_local(s): whether objects are files of this machine. store_open_local(s, key, ret_fd,
 * ret_info, e): then open one for reading. Blocking, any thread; errors as those of store_get. */
bool store_is_local(const struct store *s);
int store_open_local(const struct store *s, const char *key, int *ret_fd,
                     struct store_info *ret_info, struct err *e);

/* An object whose bytes come into being over time, and whose length is not known at the beginning.
 * It goes up in parts, and is not visible before its end:
 *
 *   u = store_upload_new(s, key, meta, flags, at_most)
 *   store_upload_begin(u, req)            done(): parts may be added
 *   store_upload_add(u, req, n, body)     done(): the store has it; its bytes may be overwritten
 *   store_upload_finish(u, req, total)    done() without error: what store_put promises
 *   store_upload_free(u)
 *
 * After ERR_NET, ERR_TIMEOUT and ERR_STORE the same request may be submitted again, however often.
 * After anything else (ERR_NOTFOUND: the server has forgotten the upload) it has to be aborted and
 * begun anew. Whoever gives up calls store_upload_abort, and frees after its done(), whatever that
 * says. What was neither finished nor aborted is removed by the next upload into the same
 * directory, or by store_sweep. So a directory must have only one writer at a time. */

/** store_upload_new(s, key, meta, flags, at_most): copies key and meta. The object may become
 * at_most bytes long (0: as long as parts of the usual size allow, some 150 GiB); that decides how
 * large a part is. Submits nothing. NULL: no object may be that long (5 TiB). */
struct store_upload *store_upload_new(struct store *s, const char *key,
                                      const struct store_meta *meta, unsigned flags,
                                      uint64_t at_most);
/** store_upload_part_bytes(u), store_upload_parallel(u): every part but the last has exactly so
 * many bytes (16 MiB or more); so many at a time make sense. */
uint64_t store_upload_part_bytes(const struct store_upload *u);
unsigned store_upload_parallel(const struct store_upload *u);
void store_upload_begin(struct store_upload *u, struct store_req *req);
/** store_upload_add(u, req, n, body): part n, which starts at byte n * part_bytes of the object. In
 * any order, and several at a time, but no part twice at the same time. A part that was added
 * before is replaced. */
void store_upload_add(struct store_upload *u, struct store_req *req, unsigned n,
                      const struct store_body *body);
/** store_upload_finish(u, req, total): parts 0 to the last were added, and have `total` bytes
 * together (at least one). Nothing else may be under way. */
void store_upload_finish(struct store_upload *u, struct store_req *req, uint64_t total);
/** store_upload_abort(u, req): drop the parts. Cancel what is under way first, and await it. */
void store_upload_abort(struct store_upload *u, struct store_req *req);
/** store_upload_free(u): none of its requests may be under way; NULL is fine. Call it before
 * the store is closed, or in the done() of its last request. */
void store_upload_free(struct store_upload *u);

/** store_sweep(s, req, prefix, older_ms): abort the uploads of objects below prefix that this
 * store did not begin and that were begun more than older_ms ago, by the server's clock. In a
 * directory nothing: listing does it there. */
void store_sweep(struct store *s, struct store_req *req, const char *prefix, uint64_t older_ms);

/** store_cancel(req): end it soon; done() comes with ERR_CANCELED (or with the outcome, if that was
 * already decided). For a put this says nothing about what the store has. */
void store_cancel(struct store_req *req);

#endif
