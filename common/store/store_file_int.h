/* store_file_int.h - one operation of a store in a directory, for store_file.c (the loop's side, and
 * what reads) and store_file_put.c (what writes). */
#ifndef WALSUP_STORE_FILE_INT_H
#define WALSUP_STORE_FILE_INT_H

#include "common/store/store_impl.h"
#include "common/store/store_root.h"
#include "common/store/work.h"

#include <stdatomic.h>

#define CHUNK_BYTES ((size_t)1 << 20)

struct store_file {
    struct store base;
    char *dir;
    uint64_t wall; /* work.h: each directory has its own */
    struct store_root *root; /* NULL: whatever is there is the directory */
    struct file_op *ops; /* all that run, for close */
};

enum file_verb { PUT, GET, LIST, DELETE, HEAD, UP_BEGIN, UP_ADD, UP_FINISH, UP_ABORT };

struct found {
    char *key;
    uint64_t size;
    int64_t mtime_ms;
};

struct file_op {
    unsigned magic;
    enum file_verb verb;
    struct store_file *store;
    struct store_req *req;
    struct file_op *next, *prev;
    struct work work;
    atomic_bool canceled;
    bool finished; /* the worker has nothing left to do */
    struct err err;
    char *path; /* of the object; the directory where the walk starts for LIST */

    struct store_body body; /* PUT */
    struct store_meta meta;
    unsigned flags;
    struct fsx_tmp tmp;
    struct store_upload *upload; /* UP_: holds the temporary file */
    uint64_t to;                 /* UP_ADD: where in it; UP_FINISH: its size */

    int fd; /* PUT: the source; GET: the object */
    uint64_t off, end;
    void *chunk;
    size_t n_chunk;
    store_sink_fn sink;
    void *arg;
    struct store_info info, *ret_info;
    bool info_given;

    const char *prefix, *after; /* LIST */
    store_item_fn item;
    struct found *found;
    size_t n_found, cap_found;

    const char *const *keys; /* DELETE */
    size_t n_keys;
};

/** file_op_new(s, req, verb, key), file_op_queue(op): key NULL: the store's directory. Loop
 * thread; between the two the caller fills in what is missing. */
struct file_op *file_op_new(struct store *s, struct store_req *req, enum file_verb verb,
                            const char *key);
void file_op_queue(struct file_op *op);

/** file_work_put() and so on: on a worker; called again until op->finished or an error. */
int file_work_put(struct file_op *op, struct err *e);
int file_work_begin(struct file_op *op, struct err *e);
int file_work_add(struct file_op *op, struct err *e);
int file_work_finish(struct file_op *op, struct err *e);
int file_work_abort(struct file_op *op, struct err *e);

/* of struct store_ops */
void file_upload_begin(struct store_upload *u, struct store_req *req);
void file_upload_add(struct store_upload *u, struct store_req *req, unsigned n,
                     const struct store_body *body);
void file_upload_finish(struct store_upload *u, struct store_req *req, uint64_t total);
void file_upload_abort(struct store_upload *u, struct store_req *req);
void file_upload_free(struct store_upload *u);

#endif
