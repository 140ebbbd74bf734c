#include "tests/s3fault/http.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

#include "common/base/fsx.h"

#define IN_MEMORY_BYTES ((uint64_t)1 << 20)
#define CHUNK ((size_t)64 << 10)

/* ---- bytes ------------------------------------------------------------------------------------- */

static size_t receive(struct conn *c, void *p, size_t n)
{
    for (;;) {
        ssize_t got = c->ssl ? SSL_read(c->ssl, p, (int)MIN(n, (size_t)1 << 20)) : read(c->fd, p, n);
        if (got > 0)
            return (size_t)got;
        if (c->ssl || got == 0 || errno != EINTR)
            return 0;
    }
}

size_t conn_read(struct conn *c, void *p, size_t n)
{
    if (c->at == c->end) {
        if (n >= sizeof c->in)
            return receive(c, p, n);
        c->at = 0;
        c->end = receive(c, c->in, sizeof c->in);
    }
    n = MIN(n, c->end - c->at);
    memcpy(p, c->in + c->at, n);
    c->at += n;
    return n;
}

static bool write_all(struct conn *c, const uint8_t *p, size_t n)
{
    while (n) {
        ssize_t w = c->ssl ? SSL_write(c->ssl, p, (int)MIN(n, (size_t)1 << 20))
                           : send(c->fd, p, n, MSG_NOSIGNAL);
        if (w <= 0 && (c->ssl || errno != EINTR))
            return false;
        p += w > 0 ? w : 0;
        n -= w > 0 ? (size_t)w : 0;
    }
    return true;
}

bool conn_write(struct conn *c, const void *p, size_t n)
{
    if (!c->drip_ms)
        return write_all(c, p, n);
    for (size_t i = 0; i < n; i++) {
        struct timespec t = {(time_t)(c->drip_ms / 1000), (long)(c->drip_ms % 1000) * 1000000};
        if (!write_all(c, (const uint8_t *)p + i, 1))
            return false;
        (void)nanosleep(&t, NULL);
    }
    return true;
}

void conn_reset(struct conn *c)
{
    struct linger l = {1, 0};
    (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    c->closing = true;
}

/* ---- blobs ------------------------------------------------------------------------------------- */

struct blob *blob_ref(struct blob *b)
{
    __atomic_add_fetch(&b->refs, 1, __ATOMIC_SEQ_CST);
    return b;
}

void blob_unref(struct blob *b)
{
    if (!b || __atomic_sub_fetch(&b->refs, 1, __ATOMIC_SEQ_CST))
        return;
    if (b->path)
        (void)unlink(b->path);
    free(b->path);
    free(b->mem);
    free(b);
}

void blob_read(const struct blob *b, uint64_t off, void *p, size_t n)
{
    struct err e = {0};
    if (b->mem) {
        memcpy(p, b->mem + off, n);
        return;
    }
    cleanup_close int fd = open(b->path, O_RDONLY | O_CLOEXEC);
    if (fsx_pread_all(fd, p, n, off, &e) < 0) {
        (void)fprintf(stderr, "s3fault: %s: %s\n", b->path, e.msg);
        abort();
    }
}

static struct blob *blob_new(uint64_t size)
{
    struct blob *b = util_zalloc(sizeof *b);
    b->refs = 1;
    b->size = size;
    if (size <= IN_MEMORY_BYTES) {
        b->mem = util_alloc((size_t)size + 1);
        return b;
    }
    server_lock();
    uint64_t n = server.next_blob++;
    server_unlock();
    b->path = util_printf("%s/%016llx", server.dir, (unsigned long long)n);
    return b;
}

static void die(const char *what)
{
    perror(what);
    abort();
}

static bool zero(const uint8_t *p, size_t n)
{
    return !p[0] && !memcmp(p, p + 1, n - 1);
}

static void blob_write(struct blob *b, int fd, uint64_t off, const uint8_t *p, size_t n)
{
    if (b->mem)
        memcpy(b->mem + off, p, n);
    else if (!zero(p, n) && pwrite(fd, p, n, (off_t)off) != (ssize_t)n)
        die("s3fault: write");
}

/* a whole chunk, so that zeros are found */
static size_t fill(struct conn *c, uint8_t *p, size_t n)
{
    size_t done = 0;
    for (size_t got; done < n && (got = conn_read(c, p + done, n - done)) > 0;)
        done += got;
    return done;
}

bool request_body(struct conn *c, struct request *r, uint64_t stop_after)
{
    if (r->body_read)
        return true;
    r->body_read = true;
    struct blob *b = r->body = blob_new(r->length);
    int fd = b->path ? open(b->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    EVP_MD_CTX *sha = EVP_MD_CTX_new(), *md5 = EVP_MD_CTX_new();
    (void)EVP_DigestInit_ex(sha, EVP_sha256(), NULL);
    (void)EVP_DigestInit_ex(md5, EVP_md5(), NULL);
    uint8_t *p = util_alloc(CHUNK), sum[32];
    uint64_t off = 0;
    bool ok = true;
    while (ok && off < r->length) {
        size_t n = (size_t)MIN(r->length - off, CHUNK);
        if (off >= stop_after || fill(c, p, n) < n) {
            ok = false;
            break;
        }
        (void)EVP_DigestUpdate(sha, p, n);
        (void)EVP_DigestUpdate(md5, p, n);
        blob_write(b, fd, off, p, n);
        off += n;
    }
    if (fd >= 0 && ftruncate(fd, (off_t)r->length) < 0)
        die("s3fault: ftruncate");
    (void)EVP_DigestFinal_ex(sha, sum, NULL);
    util_hex(b->sha256, sum, 32);
    (void)EVP_DigestFinal_ex(md5, b->md5, NULL);
    EVP_MD_CTX_free(sha);
    EVP_MD_CTX_free(md5);
    if (fd >= 0)
        (void)close(fd);
    free(p);
    return ok;
}

/* ---- requests ---------------------------------------------------------------------------------- */

static bool read_line(struct conn *c, struct buf *b)
{
    b->len = 0;
    for (char ch; conn_read(c, &ch, 1) == 1;) {
        if (ch == '\n') {
            if (b->len && b->p[b->len - 1] == '\r')
                b->len--;
            return true;
        }
        if (b->len > 65536)
            return false;
        buf_add(b, &ch, 1);
    }
    return false;
}

static int hex(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;
    return at ? (int)(at - digits) : -1;
}

void http_decode(char *s)
{
    char *to = s;
    for (; *s; s++) {
        int hi = *s == '%' ? hex(s[1]) : -1, lo = hi >= 0 ? hex(s[2]) : -1;
        if (lo >= 0) {
            *to++ = (char)(hi << 4 | lo);
            s += 2;
        } else {
            *to++ = *s;
        }
    }
    *to = '\0';
}

static void parse_query(struct request *r, char *q)
{
    char *save = NULL;
    for (char *one = strtok_r(q, "&", &save); one && r->n_query < ARRAY_LEN(r->query);
         one = strtok_r(NULL, "&", &save)) {
        char *eq = strchr(one, '=');
        if (eq)
            *eq++ = '\0';
        struct pair *p = &r->query[r->n_query++];
        p->name = util_strdup(one);
        p->value = util_strdup(eq ? eq : "");
        http_decode(p->name);
        http_decode(p->value);
    }
}

bool request_read(struct conn *c, struct request *r)
{
    cleanup_buf struct buf b = BUF_INIT;
    if (!read_line(c, &b))
        return false;
    char *line = (char *)(uintptr_t)buf_str(&b), *sp = strchr(line, ' ');
    char *end = sp ? strchr(sp + 1, ' ') : NULL;
    if (!end || strncmp(end + 1, "HTTP/1", 6)) {
        static const char no[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        (void)conn_write(c, no, b.len ? sizeof no - 1 : 0);
        return false;
    }
    *sp = *end = '\0';
    r->method = util_strdup(line);
    r->target = util_strdup(sp + 1);
    r->path = util_strdup(sp + 1);
    char *q = strchr(r->path, '?');
    if (q) {
        *q++ = '\0';
        parse_query(r, q);
    }
    while (read_line(c, &b)) {
        if (!b.len) {
            const char *length = request_header(r, "content-length");
            r->length = length ? strtoull(length, NULL, 10) : 0;
            return true;
        }
        char *name = (char *)(uintptr_t)buf_str(&b), *colon = strchr(name, ':');
        if (!colon || r->n_headers == ARRAY_LEN(r->header))
            return false;
        *colon++ = '\0';
        colon += strspn(colon, " \t");
        r->header[r->n_headers++] = (struct pair){util_strdup(name), util_strdup(colon)};
    }
    return false;
}

void request_done(struct request *r)
{
    for (size_t i = 0; i < r->n_headers; i++) {
        free(r->header[i].name);
        free(r->header[i].value);
    }
    for (size_t i = 0; i < r->n_query; i++) {
        free(r->query[i].name);
        free(r->query[i].value);
    }
    free(r->method);
    free(r->target);
    free(r->path);
    blob_unref(r->body);
    *r = (struct request){0};
}

const char *request_header(const struct request *r, const char *name)
{
    for (size_t i = 0; i < r->n_headers; i++) {
        if (!strcasecmp(r->header[i].name, name))
            return r->header[i].value;
    }
    return NULL;
}

const char *request_query(const struct request *r, const char *name)
{
    for (size_t i = 0; i < r->n_query; i++) {
        if (!strcmp(r->query[i].name, name))
            return r->query[i].value;
    }
    return NULL;
}

const char *http_date(char buf[static 40], int64_t ms)
{
    time_t t = (time_t)(ms / 1000);
    struct tm tm;
    (void)gmtime_r(&t, &tm);
    (void)strftime(buf, 40, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    return buf;
}

const char *http_reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 409: return "Conflict";
    case 412: return "Precondition Failed";
    case 503: return "Slow Down";
    default: return "Status";
    }
}
