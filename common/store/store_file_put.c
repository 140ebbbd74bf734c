/* A directory as a store: what writes. Nearly all of it runs on a worker, a bounded piece at a
 * time. */
#include "common/store/store_file_int.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>

#include "common/base/fsx.h"

#define PUT_STEP_BYTES ((uint64_t)8 << 20) /* copied before the loop hears of it */
#define DIR_MODE 0750
#define FILE_MODE 0640

/* Create what is missing of a directory below the store's, and make each new entry durable in its parent: a file
 * in a directory that a power cut undoes is not stored. */
static int make_dirs(const char *dir, const struct store_file *f, struct err *e)
{
    if (f->root && !strcmp(dir, f->dir)) /* it was there a moment ago, and is not ours to make */
        return err_set(e, ERR_IO, "%s is gone", dir);
    if (mkdir(dir, DIR_MODE) == 0 || errno == ENOENT) {
        cleanup_free char *copy = util_strdup(dir);
        const char *parent = dirname(copy);
        struct stat st;
        if (stat(dir, &st) < 0) {
            int r = make_dirs(parent, f, e);
            if (r < 0)
                return r;
            if (mkdir(dir, DIR_MODE) < 0 && errno != EEXIST)
                return err_sys(e, errno, "create directory %s", dir);
        }
        return fsx_sync_dir(parent, e);
    }
    if (errno != EEXIST)
        return err_sys(e, errno, "create directory %s", dir);
    return 0;
}

static int set_xattr(int fd, const char *name, const char *value, struct err *e)
{
    char full[64];
    (void)snprintf(full, sizeof full, "user.%s", name);
    if (fsetxattr(fd, full, value, strlen(value), 0) == 0)
        return 0;
    /* no support, or no room for attributes: the object is what counts */
    if (errno == ENOTSUP || errno == ENOSPC || errno == E2BIG || errno == EPERM)
        return 0;
    return err_sys(e, errno, "set attribute %s", full);
}

static int set_meta(int fd, const struct store_meta *m, struct err *e)
{
    struct store_meta_text text[STORE_META_MAX];
    size_t n = store_meta_format(m, text);
    for (size_t i = 0; i < n; i++) {
        int r = set_xattr(fd, text[i].name, text[i].value, e);
        if (r < 0)
            return r;
    }
    if (m->timestamp_ms) {
        struct timespec t = {.tv_sec = (time_t)(m->timestamp_ms / 1000),
                             .tv_nsec = (long)(m->timestamp_ms % 1000) * 1000000};
        struct timespec both[2] = {{.tv_nsec = UTIME_OMIT}, t};
        if (futimens(fd, both) < 0)
            return err_sys(e, errno, "set time");
    }
    return 0;
}

/* the parents are there except for the first object: try before looking */
static int open_tmp(const struct store_file *f, const char *path, struct fsx_tmp *tmp, struct err *e)
{
    int r = fsx_tmp_open(path, FILE_MODE, tmp, e);
    if (r != -ERR_NOTFOUND)
        return r;
    cleanup_free char *copy = util_strdup(path);
    r = make_dirs(dirname(copy), f, e);
    if (r < 0)
        return r;
    err_clear(e);
    return fsx_tmp_open(path, FILE_MODE, tmp, e);
}

static int open_source(struct file_op *op, struct err *e)
{
    if (!op->body.path)
        return 0;
    op->fd = open(op->body.path, O_RDONLY | O_CLOEXEC);
    if (op->fd < 0) {
        int r = err_sys(e, errno, "open %s", op->body.path);
        e->body_gone = e->code == ERR_NOTFOUND;
        return r;
    }
    op->chunk = malloc(CHUNK_BYTES);
    if (!op->chunk)
        return err_set(e, ERR_NOMEM, "no memory to copy %s", op->body.path);
    return 0;
}

static int put_begin(struct file_op *op, struct err *e)
{
    int r = open_source(op, e);
    return r < 0 ? r : open_tmp(op->store, op->path, &op->tmp, e);
}

static int write_at(int fd, const void *p, size_t n, uint64_t at, struct err *e)
{
    for (size_t done = 0; done < n;) {
        ssize_t w = pwrite(fd, (const uint8_t *)p + done, n - done, (off_t)(at + done));
        if (w < 0 && errno != EINTR)
            return err_sys(e, errno, "write");
        done += w > 0 ? (size_t)w : 0;
    }
    return 0;
}

/* a step of the copy to fd, where it starts at op->to */
static int copy_step(struct file_op *op, int fd, struct err *e)
{
    if (!op->body.path) {
        op->off = op->end;
        return write_at(fd, op->body.p, (size_t)op->body.size, op->to, e);
    }
    for (uint64_t stop = MIN(op->end, op->off + PUT_STEP_BYTES); op->off < stop;) {
        if (atomic_load(&op->canceled))
            return err_set(e, ERR_CANCELED, "canceled");
        size_t n = (size_t)MIN(stop - op->off, CHUNK_BYTES);
        int r = fsx_pread_all(op->fd, op->chunk, n, op->body.off + op->off, e);
        if (r < 0)
            return err_wrap(e, "read %s", op->body.path);
        r = write_at(fd, op->chunk, n, op->to + op->off, e);
        if (r < 0)
            return r;
        op->off += n;
    }
    return 0;
}

static int source_fits(const struct file_op *op, struct err *e)
{
    struct stat st;
    if (!op->body.path)
        return 0;
    if (fstat(op->fd, &st) < 0)
        return err_sys(e, errno, "stat %s", op->body.path);
    return store_body_fits(&op->body, (uint64_t)st.st_size, e);
}

static int publish(struct fsx_tmp *tmp, const struct store_meta *meta, unsigned flags,
                   struct err *e)
{
    int r = set_meta(tmp->fd, meta, e);
    if (r < 0)
        return r;
    r = fsx_tmp_publish(tmp, flags & STORE_IF_ABSENT ? 0 : FSX_REPLACE, e);
    if (r == -ERR_EXISTS) {
        r = err_set(e, ERR_CONFLICT, "it exists already");
        (void)err_hint(e, "another writer may be replicating to this path");
    }
    return r;
}

int file_work_put(struct file_op *op, struct err *e)
{
    int r = op->tmp.path ? 0 : put_begin(op, e);
    if (r == 0)
        r = copy_step(op, op->tmp.fd, e);
    if (r < 0 || op->off < op->end)
        return r;
    op->finished = true;
    r = source_fits(op, e);
    return r < 0 ? r : publish(&op->tmp, &op->meta, op->flags, e);
}

/* ---- uploads in parts: the temporary file is the upload's, and stays between the requests ------ */

int file_work_begin(struct file_op *op, struct err *e)
{
    op->finished = true;
    fsx_tmp_abort(&op->upload->tmp); /* begun again */
    return open_tmp(op->store, op->path, &op->upload->tmp, e);
}

int file_work_add(struct file_op *op, struct err *e)
{
    int r = op->body.path && op->fd < 0 ? open_source(op, e) : 0;
    if (r == 0)
        r = copy_step(op, op->upload->tmp.fd, e);
    if (r < 0 || op->off < op->end)
        return r;
    op->finished = true;
    return source_fits(op, e);
}

int file_work_finish(struct file_op *op, struct err *e)
{
    struct stat st;
    op->finished = true;
    if (fstat(op->upload->tmp.fd, &st) < 0)
        return err_sys(e, errno, "stat %s", op->upload->tmp.tmp);
    if ((uint64_t)st.st_size != op->to)
        return err_set(e, ERR_CORRUPT, "%s has %lld bytes, %llu were announced",
                       op->upload->tmp.tmp, (long long)st.st_size, (unsigned long long)op->to);
    return publish(&op->upload->tmp, &op->upload->meta, op->upload->flags, e);
}

int file_work_abort(struct file_op *op, struct err *e)
{
    (void)e;
    op->finished = true;
    fsx_tmp_abort(&op->upload->tmp);
    return 0;
}

/* ---- the loop's side of them -------------------------------------------------------------------- */

static struct file_op *upload_op(struct store_upload *u, struct store_req *req, enum file_verb verb)
{
    if (verb != UP_BEGIN && verb != UP_ABORT && !u->tmp.path) {
        (void)err_set(&req->err, ERR_USAGE, "the upload of \"%s\" has not begun", u->key);
        store_finish_later(req);
        return NULL;
    }
    struct file_op *op = file_op_new(u->store, req, verb, u->key);
    op->upload = u;
    return op;
}

void file_upload_begin(struct store_upload *u, struct store_req *req)
{
    file_op_queue(upload_op(u, req, UP_BEGIN));
}

void file_upload_add(struct store_upload *u, struct store_req *req, unsigned n,
                     const struct store_body *body)
{
    struct file_op *op = upload_op(u, req, UP_ADD);
    if (!op)
        return;
    op->body = *body;
    op->end = body->size;
    op->to = n * u->part_bytes;
    file_op_queue(op);
}

void file_upload_finish(struct store_upload *u, struct store_req *req, uint64_t total)
{
    struct file_op *op = upload_op(u, req, UP_FINISH);
    if (!op)
        return;
    op->to = total;
    file_op_queue(op);
}

void file_upload_abort(struct store_upload *u, struct store_req *req)
{
    file_op_queue(upload_op(u, req, UP_ABORT));
}

void file_upload_free(struct store_upload *u)
{
    fsx_tmp_abort(&u->tmp); /* neither finished nor aborted: the process is about to end */
}
