/* A directory as a store. Everything that touches the disk runs in on_work() on a worker, a
 * bounded piece at a time; after_work() delivers on the loop thread and queues the next piece. */
#include "common/store/store_file_int.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/format/crc64.h"

#define OP_MAGIC 0x0f11e0a1u
#define TMP_STALE_MS (3600 * 1000)
#define DEFAULT_CONNECTIONS 4
#define PARALLEL_PARTS 2
#define PART_BYTES ((uint64_t)16 << 20)
#define MAX_DEPTH 64

/* ---- on a worker: get, head, delete --------------------------------------------------------- */

static void read_meta(int fd, struct store_meta *m)
{
    static const char *const names[] = {STORE_META_TIMESTAMP, STORE_META_CHECKSUM,
                                        STORE_META_LINEAGE, STORE_META_WRITER};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char full[64], value[64];
        (void)snprintf(full, sizeof full, "user.%s", names[i]);
        ssize_t n = fgetxattr(fd, full, value, sizeof value - 1);
        if (n < 0)
            continue;
        value[n] = '\0';
        store_meta_parse(m, names[i], value);
    }
}

static int64_t mtime_ms(const struct stat *st)
{
    return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

static int open_path(const char *path, int *ret_fd, struct store_info *ret, struct err *e)
{
    struct stat st;
    /* O_NONBLOCK: a fifo in the way must not hold a worker */
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ELOOP)
        return err_set(e, ERR_IO, "it is a symbolic link, which is not followed");
    if (fd < 0)
        return err_sys(e, errno, "open");
    if (fstat(fd, &st) < 0)
        return err_sys(e, errno, "stat");
    if (S_ISDIR(st.st_mode)) /* a prefix, and on S3 that would be no object either */
        return err_set(e, ERR_NOTFOUND, "it is a directory");
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_IO, "it is not a regular file");
    *ret = (struct store_info){.size = (uint64_t)st.st_size, .mtime_ms = mtime_ms(&st)};
    read_meta(fd, &ret->meta);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int open_object(struct file_op *op, struct err *e)
{
    return open_path(op->path, &op->fd, &op->info, e);
}

static int work_get(struct file_op *op, struct err *e)
{
    if (op->fd < 0) {
        int r = open_object(op, e);
        if (r < 0)
            return r;
        if (op->end == UINT64_MAX && op->off <= op->info.size)
            op->end = op->info.size;
        if (op->end > op->info.size || (op->off && op->off == op->info.size))
            return err_set(e, ERR_CORRUPT, "it has %llu bytes, %llu from %llu were asked for",
                           (unsigned long long)op->info.size,
                           (unsigned long long)(op->end - op->off), (unsigned long long)op->off);
        op->chunk = malloc(MAX((size_t)1, (size_t)MIN(op->end - op->off, CHUNK_BYTES)));
        if (!op->chunk)
            return err_set(e, ERR_NOMEM, "no memory to read");
    }
    size_t n = (size_t)MIN(op->end - op->off, CHUNK_BYTES);
    int r = fsx_pread_all(op->fd, op->chunk, n, op->off, e);
    if (r < 0)
        return r;
    op->n_chunk = n;
    op->off += n;
    op->finished = op->off == op->end;
    return 0;
}

static int work_head(struct file_op *op, struct err *e)
{
    op->finished = true;
    return open_object(op, e);
}

static int work_delete(struct file_op *op, struct err *e)
{
    op->finished = true;
    for (size_t i = 0; i < op->n_keys; i++) {
        if (atomic_load(&op->canceled))
            return err_set(e, ERR_CANCELED, "canceled");
        cleanup_free char *path = util_printf("%s/%s", op->store->dir, op->keys[i]);
        if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR)
            return err_sys(e, errno, "remove %s", path);
    }
    return 0;
}

/* ---- on a worker: list ---------------------------------------------------------------------- */

static void closedirp(DIR **d)
{
    if (*d)
        (void)closedir(*d);
}

static int add_found(struct file_op *op, const char *key, const struct stat *st, struct err *e)
{
    if (op->n_found == op->cap_found) {
        size_t cap = op->cap_found ? op->cap_found * 2 : 64;
        struct found *more = realloc(op->found, cap * sizeof *more);
        if (!more)
            return err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", cap);
        op->found = more;
        op->cap_found = cap;
    }
    op->found[op->n_found++] =
        (struct found){util_strdup(key), (uint64_t)st->st_size, mtime_ms(st)};
    return 0;
}

/* can a key below this directory (given with its slash) match the prefix? */
static bool dir_matches(const char *dir_key, const char *prefix)
{
    return !strncmp(dir_key, prefix, MIN(strlen(dir_key), strlen(prefix)));
}

static int walk(struct file_op *op, int dir_fd, const char *dir_key, unsigned depth, struct err *e);

static int walk_entry(struct file_op *op, int dir_fd, const char *dir_key, const char *name,
                      unsigned depth, struct err *e)
{
    cleanup_free char *key = util_printf("%s%s", dir_key, name);
    struct stat st;
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "stat %s/%s", op->store->dir, key);
    if (S_ISDIR(st.st_mode)) {
        cleanup_free char *sub = util_printf("%s/", key);
        if (!dir_matches(sub, op->prefix))
            return 0;
        if (depth >= MAX_DEPTH)
            return err_set(e, ERR_IO, "%s/%s is nested too deeply", op->store->dir, key);
        int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return errno == ENOENT ? 0 : err_sys(e, errno, "open %s/%s", op->store->dir, key);
        return walk(op, fd, sub, depth + 1, e);
    }
    if (!S_ISREG(st.st_mode))
        return 0;
    if (fsx_is_tmp(name)) {
        /* by the change time, which no put sets: a file that is being written is never old */
        if (clk_real_ms() - (int64_t)st.st_ctim.tv_sec * 1000 > TMP_STALE_MS)
            (void)unlinkat(dir_fd, name, 0);
        return 0;
    }
    if (strncmp(key, op->prefix, strlen(op->prefix)) || strcmp(key, op->after) <= 0)
        return 0;
    return add_found(op, key, &st, e);
}

/* takes over dir_fd */
static int walk(struct file_op *op, int dir_fd, const char *dir_key, unsigned depth, struct err *e)
{
    cleanup(closedirp) DIR *d = fdopendir(dir_fd);
    if (!d) {
        int errnum = errno;
        (void)close(dir_fd);
        return err_sys(e, errnum, "open directory %s/%s", op->store->dir, dir_key);
    }
    for (;;) {
        if (atomic_load(&op->canceled))
            return err_set(e, ERR_CANCELED, "canceled");
        errno = 0;
        const struct dirent *ent = readdir(d);
        if (!ent)
            return errno ? err_sys(e, errno, "read directory %s/%s", op->store->dir, dir_key) : 0;
        if (!strcmp(ent->d_name, ".") || !strcmp(ent->d_name, ".."))
            continue;
        int r = walk_entry(op, dirfd(d), dir_key, ent->d_name, depth, e);
        if (r < 0)
            return r;
    }
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct found *)a)->key, ((const struct found *)b)->key);
}

static int work_list(struct file_op *op, struct err *e)
{
    op->finished = true;
    const char *slash = strrchr(op->prefix, '/');
    cleanup_free char *dir_key =
        slash ? strndup(op->prefix, (size_t)(slash - op->prefix) + 1) : util_strdup("");
    int fd = open(op->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : err_sys(e, errno, "open directory");
    int r = walk(op, fd, dir_key, 0, e);
    if (r == 0 && op->n_found)
        qsort(op->found, op->n_found, sizeof *op->found, by_key);
    return r;
}

/* ---- the loop's side ------------------------------------------------------------------------ */

static void on_work(uv_work_t *w)
{
    struct file_op *op = w->data;
    assert(op->magic == OP_MAGIC);
    static int (*const work[])(struct file_op *, struct err *) = {
        [PUT] = file_work_put,     [GET] = work_get,         [LIST] = work_list,
        [DELETE] = work_delete,    [HEAD] = work_head,       [UP_BEGIN] = file_work_begin,
        [UP_ADD] = file_work_add,  [UP_FINISH] = file_work_finish,
        [UP_ABORT] = file_work_abort};
    bool writes = op->verb == PUT || op->verb == UP_BEGIN || op->verb == UP_FINISH;
    if (atomic_load(&op->canceled))
        (void)err_set(&op->err, ERR_CANCELED, "canceled");
    else if (!op->store->root || store_root_look(op->store->root, writes, &op->err) == 0)
        (void)work[op->verb](op, &op->err);
    if (op->err.code && op->tmp.path)
        fsx_tmp_abort(&op->tmp);
}

static void op_finish(struct file_op *op)
{
    static const char *const name[] = {
        [PUT] = "write", [GET] = "read", [LIST] = "list", [DELETE] = "delete", [HEAD] = "look up",
        [UP_BEGIN] = "begin to write", [UP_ADD] = "write a part of", [UP_FINISH] = "write",
        [UP_ABORT] = "give up"};
    struct store_req *req = op->req;
    struct store_file *f = op->store;
    if (op->err.code == ERR_CANCELED)
        (void)err_set(&req->err, ERR_CANCELED, "%s %s was canceled", name[op->verb], op->path);
    else if (op->err.code) {
        req->err = op->err;
        (void)err_wrap(&req->err, "%s %s", name[op->verb], op->path);
        if (req->err.code == ERR_PERM && !*req->err.hint)
            (void)err_hint(&req->err, "walsupctl check says what keeps walsupd from it");
    }
    if (op->prev)
        op->prev->next = op->next;
    else
        f->ops = op->next;
    if (op->next)
        op->next->prev = op->prev;
    if (op->fd >= 0)
        (void)close(op->fd);
    fsx_tmp_abort(&op->tmp);
    for (size_t i = 0; i < op->n_found; i++)
        free(op->found[i].key);
    free(op->found);
    free(op->chunk);
    free(op->path);
    op->magic = 0;
    free(op);
    /* the last request of a closing store: its done() comes first, then the barrier */
    bool last = f->base.impl_closing && !f->ops;
    store_finish(req);
    if (last)
        store_impl_closed(&f->base);
}

static int deliver(struct file_op *op)
{
    struct store_req *req = op->req;
    if (op->ret_info && !op->info_given)
        *op->ret_info = op->info;
    op->info_given = true;
    if (op->verb == PUT || op->verb == UP_ADD)
        req->bytes = op->off;
    if (op->verb == GET && op->n_chunk) {
        size_t n = op->n_chunk;
        op->n_chunk = 0;
        req->bytes += n;
        return op->sink(op->arg, op->chunk, n, &op->err);
    }
    for (size_t i = 0; i < op->n_found; i++) {
        if (atomic_load(&op->canceled))
            return err_set(&op->err, ERR_CANCELED, "canceled");
        struct store_object o = {op->found[i].key, op->found[i].size, op->found[i].mtime_ms};
        int r = op->item(op->arg, &o, &op->err);
        if (r < 0)
            return r;
    }
    return 0;
}

static void after_work(uv_work_t *w, int status);

void file_op_queue(struct file_op *op)
{
    op->work.uv.data = op;
    work_queue(op->store->base.loop, &op->work, op->store->wall, on_work, after_work);
}

static void after_work(uv_work_t *w, int status)
{
    struct file_op *op = w->data;
    assert(op->magic == OP_MAGIC);
    if (status == UV_ECANCELED)
        (void)err_set(&op->err, ERR_CANCELED, "canceled");
    if (!op->err.code) {
        int r = deliver(op);
        if (r < 0 && !op->err.code)
            (void)err_set(&op->err, (enum err_code)-r, "refused by the receiver");
    }
    if (op->err.code || op->finished)
        op_finish(op);
    else
        file_op_queue(op);
}

struct file_op *file_op_new(struct store *s, struct store_req *req, enum file_verb verb,
                            const char *key)
{
    struct store_file *f = CONTAINER_OF(s, struct store_file, base);
    struct file_op *op = util_zalloc(sizeof *op);
    op->magic = OP_MAGIC;
    op->verb = verb;
    op->store = f;
    op->req = req;
    op->fd = -1;
    op->tmp = (struct fsx_tmp)FSX_TMP_INIT;
    op->path = key ? util_printf("%s/%s", f->dir, key) : util_strdup(f->dir);
    op->next = f->ops;
    if (op->next)
        op->next->prev = op;
    f->ops = op;
    req->impl = op;
    return op;
}

static void file_put(struct store *s, struct store_req *req, const char *key,
                     const struct store_body *body, const struct store_meta *meta, unsigned flags)
{
    const char *slash = strrchr(key, '/');
    if (fsx_is_tmp(slash ? slash + 1 : key)) { /* list would take it for a left-over */
        (void)err_set(&req->err, ERR_USAGE, "object name \"%s\" looks like a temporary file", key);
        store_finish_later(req);
        return;
    }
    struct file_op *op = file_op_new(s, req, PUT, key);
    op->body = *body;
    if (meta)
        op->meta = *meta;
    op->flags = flags;
    op->end = body->size;
    file_op_queue(op);
}

static void file_get(struct store *s, struct store_req *req, const char *key, uint64_t off,
                     uint64_t len, store_sink_fn sink, void *arg, struct store_info *ret_info)
{
    struct file_op *op = file_op_new(s, req, GET, key);
    op->off = off;
    op->end = len == UINT64_MAX ? UINT64_MAX : off + len;
    op->sink = sink;
    op->arg = arg;
    op->ret_info = ret_info;
    file_op_queue(op);
}

static void file_list(struct store *s, struct store_req *req, const char *prefix,
                      const char *after, store_item_fn item, void *arg)
{
    const char *slash = strrchr(prefix, '/');
    cleanup_free char *dir = slash ? strndup(prefix, (size_t)(slash - prefix)) : NULL;
    if (dir && store_key_ok(dir, &req->err) < 0) {
        store_finish_later(req);
        return;
    }
    struct file_op *op = file_op_new(s, req, LIST, dir);
    op->prefix = prefix;
    op->after = after;
    op->item = item;
    op->arg = arg;
    file_op_queue(op);
}

static void file_delete(struct store *s, struct store_req *req, const char *const *keys, size_t n)
{
    struct file_op *op = file_op_new(s, req, DELETE, n == 1 ? keys[0] : NULL);
    op->keys = keys;
    op->n_keys = n;
    file_op_queue(op);
}

static void file_head(struct store *s, struct store_req *req, const char *key,
                      struct store_info *ret_info)
{
    struct file_op *op = file_op_new(s, req, HEAD, key);
    op->ret_info = ret_info;
    file_op_queue(op);
}

static void op_cancel(struct file_op *op)
{
    atomic_store(&op->canceled, true);
    work_cancel(&op->work); /* not when it runs: then the flag ends it */
}

static void file_cancel(struct store_req *req)
{
    op_cancel(req->impl);
}

static void file_close(struct store *s)
{
    struct store_file *f = CONTAINER_OF(s, struct store_file, base);
    s->impl_closing = true;
    for (struct file_op *op = f->ops; op; op = op->next)
        op_cancel(op);
    if (!f->ops)
        store_impl_closed(s);
}

static void file_free(struct store *s)
{
    struct store_file *f = CONTAINER_OF(s, struct store_file, base);
    (void)store_root_unref(f->root);
    free(f->dir);
    free(f);
}

static int file_open(const struct store *s, const char *key, int *ret_fd,
                     struct store_info *ret_info, struct err *e)
{
    const struct store_file *f = (const struct store_file *)(const void *)s; /* its first member */
    cleanup_free char *path = util_printf("%s/%s", f->dir, key);
    int r = open_path(path, ret_fd, ret_info, e);
    return r < 0 ? err_wrap(e, "get %s", path) : 0;
}

/* what a killed put leaves is removed by listing */
static void file_sweep(struct store *s, struct store_req *req, const char *prefix,
                       uint64_t older_ms)
{
    (void)s, (void)prefix, (void)older_ms;
    store_finish_later(req);
}

void store_guard(struct store *s, const char *name, const char *state_dir,
                 bool (*used)(const char *state_dir, const char *name))
{
    struct store_file *f = CONTAINER_OF(s, struct store_file, base);
    if (s->type == CONF_FILE && !f->root)
        f->root = store_root_new(f->dir, name, state_dir, used);
}

struct store_root *store_root_of(const struct store *s)
{
    return s->type == CONF_FILE ? ((const struct store_file *)(const void *)s)->root : NULL;
}

static const struct store_ops ops = {
    file_put, file_get, file_list, file_delete, file_head, file_cancel, file_close, file_free,
    file_upload_begin, file_upload_add, file_upload_finish, file_upload_abort, file_upload_free,
    file_sweep, file_open};

int store_file_new(uv_loop_t *loop, const struct conf_target *t, struct store **ret,
                   struct err *e)
{
    (void)loop;
    if (!t->path || t->path[0] != '/') {
        (void)err_set(e, ERR_CONFIG, "target %s: the directory \"%s\" is not an absolute path",
                      t->name ? t->name : "", t->path ? t->path : "");
        return err_hint(e, "write path = /some/directory");
    }
    struct store_file *f = util_zalloc(sizeof *f);
    f->base.ops = &ops;
    f->base.describe = util_strdup(t->path);
    f->base.connections = t->max_connections ? t->max_connections : DEFAULT_CONNECTIONS;
    f->base.fencing = STORE_FENCING_ON; /* a rename that replaces nothing */
    f->base.put_bytes = UINT64_MAX;
    f->base.part_bytes = PART_BYTES;
    f->base.max_parts = UINT_MAX;
    f->base.parallel_parts = PARALLEL_PARTS;
    f->dir = util_strdup(t->path);
    size_t n = strlen(f->dir);
    while (n > 1 && f->dir[n - 1] == '/')
        f->dir[--n] = '\0';
    f->wall = crc64(1, f->dir, n);
    *ret = &f->base;
    return 0;
}
