#include "common/store/s3_body.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "common/format/sigv4.h"
#include "common/store/store_impl.h"

#define BODY_MAGIC 0x53b0d1e5u
#define HASH_AT_ONCE_BYTES ((uint64_t)64 << 10) /* some 50 us: less than the way to a worker */

struct chunk {
    uint8_t *p;
    size_t len; /* 0: empty */
};

struct s3_body {
    unsigned magic;
    uv_loop_t *loop;
    struct store_body what;
    void (*event)(void *arg);
    void *arg;
    char sha256[SIGV4_HASH_SIZE];
    uint8_t sum[32], md5[16];
    bool wants_md5, has_md5;
    struct err err;
    bool hashing;

    uint64_t at;        /* next byte to hand out */
    uint64_t work_done;
    int fd;
    struct chunk chunk[2]; /* the file in turns: chunk k of the file lives in chunk[k % 2] */
    uint64_t load_off;     /* what the worker reads, or would read next */

    uv_work_t work;
    bool busy;              /* the worker has it */
    bool stale;             /* rewound meanwhile: what it brings is not wanted */
    struct err worker_err;
    atomic_bool canceled;
    void (*closed)(void *arg);
    void *closed_arg;
    bool closing;
};

struct s3_body *s3_body_new(uv_loop_t *loop, const struct store_body *what,
                            void (*event)(void *arg), void *arg)
{
    struct s3_body *b = util_zalloc(sizeof *b);
    b->magic = BODY_MAGIC;
    b->loop = loop;
    b->what = *what;
    b->event = event;
    b->arg = arg;
    b->fd = -1;
    return b;
}

static void body_free(struct s3_body *b)
{
    void (*closed)(void *) = b->closed;
    void *arg = b->closed_arg;
    if (b->fd >= 0)
        (void)close(b->fd);
    free(b->chunk[0].p);
    free(b->chunk[1].p);
    b->magic = 0;
    free(b);
    if (closed)
        closed(arg);
}

/* ---- on a worker ----------------------------------------------------------------------------- */

static int check_size(struct s3_body *b, struct err *e)
{
    struct stat st;
    if (fstat(b->fd, &st) < 0)
        return err_sys(e, errno, "stat %s", b->what.path);
    return store_body_fits(&b->what, (uint64_t)st.st_size, e);
}

/* SHA-256, and MD5 if that is wanted and there */
struct sums {
    EVP_MD_CTX *sha, *md5;
};

static bool sums_begin(struct sums *s, bool md5)
{
    s->sha = EVP_MD_CTX_new();
    s->md5 = md5 ? EVP_MD_CTX_new() : NULL;
    if (s->md5 && EVP_DigestInit_ex(s->md5, EVP_md5(), NULL) != 1) {
        EVP_MD_CTX_free(s->md5);
        s->md5 = NULL;
    }
    return s->sha && EVP_DigestInit_ex(s->sha, EVP_sha256(), NULL) == 1;
}

static void sums_add(const struct sums *s, const void *p, size_t n)
{
    (void)EVP_DigestUpdate(s->sha, p, n);
    if (s->md5)
        (void)EVP_DigestUpdate(s->md5, p, n);
}

static void sums_end(struct sums *s, struct s3_body *b)
{
    (void)EVP_DigestFinal_ex(s->sha, b->sum, NULL);
    b->has_md5 = s->md5 && EVP_DigestFinal_ex(s->md5, b->md5, NULL) == 1;
    util_hex(b->sha256, b->sum, sizeof b->sum);
}

static int hash_file(struct s3_body *b, const struct sums *s, struct err *e)
{
    b->fd = open(b->what.path, O_RDONLY | O_CLOEXEC);
    if (b->fd < 0) {
        int r = err_sys(e, errno, "open %s", b->what.path);
        e->body_gone = e->code == ERR_NOTFOUND;
        return r;
    }
    int r = check_size(b, e);
    if (r < 0)
        return r;
    (void)posix_fadvise(b->fd, (off_t)b->what.off, (off_t)b->what.size, POSIX_FADV_SEQUENTIAL);
    b->chunk[0].p = malloc(S3_BODY_CHUNK_BYTES);
    b->chunk[1].p = malloc(S3_BODY_CHUNK_BYTES);
    if (!b->chunk[0].p || !b->chunk[1].p)
        return err_set(e, ERR_NOMEM, "no memory to upload %s", b->what.path);
    for (uint64_t off = 0; off < b->what.size;) {
        size_t n = (size_t)MIN(b->what.size - off, S3_BODY_CHUNK_BYTES);
        if (atomic_load(&b->canceled))
            return err_set(e, ERR_CANCELED, "canceled");
        r = fsx_pread_all(b->fd, b->chunk[0].p, n, b->what.off + off, e);
        if (r < 0)
            return err_wrap(e, "read %s", b->what.path);
        sums_add(s, b->chunk[0].p, n);
        off += n;
    }
    return 0;
}

static void hash_work(uv_work_t *w)
{
    struct s3_body *b = w->data;
    struct sums s;
    if (!sums_begin(&s, b->wants_md5)) {
        (void)err_set(&b->worker_err, ERR_INTERNAL, "SHA-256 is not available");
    } else {
        if (b->what.path)
            (void)hash_file(b, &s, &b->worker_err);
        else
            sums_add(&s, b->what.p, (size_t)b->what.size);
        sums_end(&s, b);
    }
    EVP_MD_CTX_free(s.sha);
    EVP_MD_CTX_free(s.md5);
}

static void load_work(uv_work_t *w)
{
    struct s3_body *b = w->data;
    struct chunk *c = &b->chunk[b->load_off / S3_BODY_CHUNK_BYTES % 2];
    size_t n = (size_t)MIN(b->what.size - b->load_off, S3_BODY_CHUNK_BYTES);
    if (fsx_pread_all(b->fd, c->p, n, b->what.off + b->load_off, &b->worker_err) < 0)
        (void)err_wrap(&b->worker_err, "read %s", b->what.path);
    else if (b->load_off + n == b->what.size)
        (void)check_size(b, &b->worker_err); /* it must not have grown either */
}

/* ---- on the loop ----------------------------------------------------------------------------- */

static void load_next(struct s3_body *b);

static void after_work(uv_work_t *w, int status)
{
    struct s3_body *b = w->data;
    assert(b->magic == BODY_MAGIC);
    b->busy = false;
    if (b->closing) {
        body_free(b);
        return;
    }
    if (status == UV_ECANCELED)
        (void)err_set(&b->worker_err, ERR_CANCELED, "canceled");
    b->work_done++;
    if (b->worker_err.code)
        b->err = b->worker_err;
    if (b->hashing) {
        b->hashing = false;
    } else if (b->stale) {
        b->stale = false;
        b->load_off = 0;
        load_next(b);
        return;
    } else if (!b->err.code) {
        size_t n = (size_t)MIN(b->what.size - b->load_off, S3_BODY_CHUNK_BYTES);
        b->chunk[b->load_off / S3_BODY_CHUNK_BYTES % 2].len = n;
        b->load_off += n;
        load_next(b);
    }
    b->event(b->arg);
}

static void start(struct s3_body *b, void (*work)(uv_work_t *))
{
    b->busy = true;
    b->work.data = b;
    err_clear(&b->worker_err);
    (void)uv_queue_work(b->loop, &b->work, work, after_work);
}

static void load_next(struct s3_body *b)
{
    if (!b->busy && !b->err.code && b->load_off < b->what.size &&
        !b->chunk[b->load_off / S3_BODY_CHUNK_BYTES % 2].len)
        start(b, load_work);
}

bool s3_body_hash(struct s3_body *b, bool md5)
{
    if (b->sha256[0])
        return true;
    b->wants_md5 = md5;
    if (!b->what.path && b->what.size <= HASH_AT_ONCE_BYTES) {
        b->work.data = b;
        hash_work(&b->work);
        assert(b->sha256[0]);
        return true;
    }
    b->hashing = true;
    start(b, hash_work);
    return false;
}

const char *s3_body_sha256(const struct s3_body *b)
{
    return b->sha256;
}

void s3_body_digests(const struct s3_body *b, char md5[static 28], char sha256[static 48])
{
    md5[0] = '\0';
    if (b->has_md5)
        (void)EVP_EncodeBlock((unsigned char *)md5, b->md5, sizeof b->md5);
    (void)EVP_EncodeBlock((unsigned char *)sha256, b->sum, sizeof b->sum);
}

const struct store_body *s3_body_what(const struct s3_body *b)
{
    return &b->what;
}

uint64_t s3_body_size(const struct s3_body *b)
{
    return b->what.size;
}

const struct err *s3_body_error(const struct s3_body *b)
{
    return b->err.code ? &b->err : NULL;
}

uint64_t s3_body_work(const struct s3_body *b)
{
    return b->work_done;
}

ssize_t s3_body_read(struct s3_body *b, void *to, size_t n)
{
    n = (size_t)MIN(n, b->what.size - b->at);
    if (!n)
        return b->err.code ? S3_BODY_FAILED : 0;
    if (!b->what.path) {
        memcpy(to, (const uint8_t *)b->what.p + b->at, n);
        b->at += n;
        return (ssize_t)n;
    }
    if (b->err.code)
        return S3_BODY_FAILED;
    struct chunk *c = &b->chunk[b->at / S3_BODY_CHUNK_BYTES % 2];
    size_t in = (size_t)(b->at % S3_BODY_CHUNK_BYTES);
    if (!c->len || b->stale) {
        load_next(b);
        return S3_BODY_WAIT;
    }
    n = MIN(n, c->len - in);
    memcpy(to, c->p + in, n);
    b->at += n;
    if (in + n == c->len) {
        c->len = 0;
        load_next(b);
    }
    return (ssize_t)n;
}

void s3_body_rewind(struct s3_body *b)
{
    b->at = 0;
    b->chunk[0].len = b->chunk[1].len = 0;
    b->stale = b->busy;
    if (!b->busy)
        b->load_off = 0;
}

void s3_body_close(struct s3_body *b, void (*closed)(void *arg), void *arg)
{
    assert(b->magic == BODY_MAGIC && !b->closing);
    b->closing = true;
    b->closed = closed;
    b->closed_arg = arg;
    atomic_store(&b->canceled, true);
    if (!b->busy)
        body_free(b);
    else
        (void)uv_cancel((uv_req_t *)&b->work);
}
