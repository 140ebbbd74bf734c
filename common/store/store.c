#include "common/store/store.h"

#include <assert.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include "common/store/store_impl.h"
#include "common/store/store_root.h"

#define STORE_MAGIC 0x5701e001u
#define KEY_MAX_BYTES 1024 /* S3's own limit */

/* ---- close barrier -------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *h)
{
    struct store *s = h->data;
    assert(s->magic == STORE_MAGIC);
    void (*closed)(void *) = s->closed;
    void *arg = s->closed_arg;
    s->magic = 0;
    free(s->describe);
    free(s->late);
    s->ops->free(s);
    if (closed)
        closed(arg);
}

/* The one place that decides that a store may go. In flight can be: requests, of which some wait
 * in `late`; whatever the kind of store has running; and the idle handle itself. */
static void maybe_closed(struct store *s)
{
    if (!s->closing || s->in_flight || !s->impl_closed || s->handle_closing)
        return;
    s->handle_closing = true;
    uv_close((uv_handle_t *)&s->later, on_handle_closed);
}

void store_impl_closed(struct store *s)
{
    s->impl_closed = true;
    maybe_closed(s);
}

void store_finish(struct store_req *req)
{
    struct store *s = req->store;
    assert(s->magic == STORE_MAGIC && s->in_flight);
    req->impl = NULL;
    store_count(req);
    req->done(req);
    s->in_flight--;
    maybe_closed(s);
}

static void on_later(uv_idle_t *h)
{
    struct store *s = h->data;
    assert(s->magic == STORE_MAGIC);
    /* a done() may submit again and so append here: only those that were there at the start */
    size_t n = s->n_late;
    for (size_t i = 0; i < n; i++) {
        struct store_req *req = s->late[0];
        s->n_late--;
        memmove(s->late, s->late + 1, s->n_late * sizeof *s->late);
        store_finish(req);
    }
    if (!s->n_late)
        (void)uv_idle_stop(h);
}

void store_finish_later(struct store_req *req)
{
    struct store *s = req->store;
    if (s->n_late == s->cap_late) {
        s->cap_late = s->cap_late ? s->cap_late * 2 : 8;
        s->late = util_realloc(s->late, s->cap_late * sizeof *s->late);
    }
    s->late[s->n_late++] = req;
    (void)uv_idle_start(&s->later, on_later);
}

/* ---- the interface -------------------------------------------------------------------------- */

int store_open(uv_loop_t *loop, const struct conf_target *target, struct store **ret,
               struct err *e)
{
    struct store *s = NULL;
    int r = target->type == CONF_S3 ? store_s3_new(loop, target, &s, e)
                                    : store_file_new(loop, target, &s, e);
    if (r < 0)
        return r;
    s->magic = STORE_MAGIC;
    s->loop = loop;
    s->type = target->type;
    (void)uv_idle_init(loop, &s->later);
    s->later.data = s;
    *ret = s;
    return 0;
}

void store_close(struct store *s, void (*closed)(void *arg), void *arg)
{
    assert(s->magic == STORE_MAGIC && !s->closing);
    s->closing = true;
    s->closed = closed;
    s->closed_arg = arg;
    store_big_close(s);
    s->ops->close(s);
}

const char *store_describe(const struct store *s)
{
    return s->describe;
}

char *store_place(const struct store *s, const char *replica)
{
    const char *key = strstr(s->describe, " as key id ");
    size_t n = key ? (size_t)(key - s->describe) : strlen(s->describe);
    return util_printf("%.*s%s%s%s", (int)n, s->describe, *replica ? "/" : "", replica, s->describe + n);
}

int store_hint_empty(const struct store *s, struct err *e)
{
    if (s->type == CONF_FILE) {
        cleanup_free char *marker = util_printf("%s/" STORE_ROOT_MARKER, s->describe);
        if (access(marker, F_OK) < 0)
            (void)err_hint(
                e, "%s has no file " STORE_ROOT_MARKER ": is its disk mounted, is the path right?",
                s->describe);
    }
    return -(int)e->code;
}

const struct store_peer *store_peer(const struct store *s)
{
    return s->peer;
}

enum conf_target_type store_type(const struct store *s)
{
    return s->type;
}

bool store_is_local(const struct store *s)
{
    return s->ops->open != NULL;
}

int store_open_local(const struct store *s, const char *key, int *ret_fd,
                     struct store_info *ret_info, struct err *e)
{
    int r = store_key_ok(key, e);
    return r < 0 ? r : s->ops->open(s, key, ret_fd, ret_info, e);
}

enum store_fencing store_fencing(const struct store *s)
{
    return s->fencing;
}

void store_fencing_set(struct store *s, enum store_fencing f)
{
    s->fencing = f;
}

void store_share(struct store *s)
{
    s->shared = true;
}

unsigned store_connections(const struct store *s)
{
    return s->connections;
}

bool store_submit(struct store *s, struct store_req *req, enum store_op op, const char *key)
{
    assert(s->magic == STORE_MAGIC && req->done);
    err_clear(&req->err);
    req->bytes = 0;
    req->store = s;
    req->op = op;
    req->in_parts = false;
    req->impl = NULL;
    req->cancel = NULL;
    s->in_flight++;
    if (s->closing)
        (void)err_set(&req->err, ERR_CANCELED, "the store %s is closing", s->describe);
    else if (!key || store_key_ok(key, &req->err) == 0)
        return true;
    store_finish_later(req);
    return false;
}

void store_put(struct store *s, struct store_req *req, const char *key,
               const struct store_body *body, const struct store_meta *meta, unsigned flags)
{
    if (!store_submit(s, req, STORE_PUT, key))
        return;
    if (body->size > s->put_bytes)
        store_big_put(s, req, key, body, meta, flags);
    else
        s->ops->put(s, req, key, body, meta, flags);
}

void store_get(struct store *s, struct store_req *req, const char *key, uint64_t off, uint64_t len,
               store_sink_fn sink, void *arg, struct store_info *ret_info)
{
    if (!store_submit(s, req, STORE_GET, key))
        return;
    if (len && (len == UINT64_MAX || off <= UINT64_MAX - len)) {
        s->ops->get(s, req, key, off, len, sink, arg, ret_info);
        return;
    }
    (void)err_set(&req->err, ERR_USAGE, "an impossible part of \"%s\" was asked for", key);
    store_finish_later(req);
}

void store_list(struct store *s, struct store_req *req, const char *prefix, const char *after,
                store_item_fn item, void *arg)
{
    if (store_submit(s, req, STORE_LIST, NULL))
        s->ops->list(s, req, prefix ? prefix : "", after ? after : "", item, arg);
}

void store_delete(struct store *s, struct store_req *req, const char *const *keys, size_t n)
{
    if (!store_submit(s, req, STORE_DELETE, NULL))
        return;
    for (size_t i = 0; i < n; i++) {
        if (store_key_ok(keys[i], &req->err) < 0) {
            store_finish_later(req);
            return;
        }
    }
    if (n)
        s->ops->del(s, req, keys, n);
    else
        store_finish_later(req);
}

void store_head(struct store *s, struct store_req *req, const char *key,
                struct store_info *ret_info)
{
    if (store_submit(s, req, STORE_HEAD, key))
        s->ops->head(s, req, key, ret_info);
}

void store_cancel(struct store_req *req)
{
    if (!req->store || !req->impl)
        return;
    if (req->cancel)
        req->cancel(req);
    else
        req->store->ops->cancel(req);
}

int store_body_fits(const struct store_body *b, uint64_t file_bytes, struct err *e)
{
    uint64_t end = b->off + b->size;
    uint64_t expected = b->file_bytes ? b->file_bytes : end;
    if (expected == STORE_ANY_SIZE ? file_bytes >= end : file_bytes == expected)
        return 0;
    return err_set(e, ERR_CORRUPT, "%s has %llu bytes, %llu were announced", b->path,
                   (unsigned long long)file_bytes,
                   (unsigned long long)(expected == STORE_ANY_SIZE ? end : expected));
}

/* ---- keys and metadata ---------------------------------------------------------------------- */

int store_key_ok(const char *key, struct err *e)
{
    size_t len = strlen(key);
    if (!len || len > KEY_MAX_BYTES)
        return err_set(e, ERR_USAGE, "object name of %zu bytes (1 to %d are possible)", len,
                       KEY_MAX_BYTES);
    for (const char *p = key; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return err_set(e, ERR_USAGE, "object name with a control character at byte %zu",
                           (size_t)(p - key));
    }
    for (const char *p = key;;) {
        size_t n = strcspn(p, "/");
        if (!n || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return err_set(e, ERR_USAGE, "object name \"%s\" has an empty, \".\" or \"..\" part",
                           key);
        if (!p[n])
            return 0;
        p += n + 1;
    }
}

static void add_text(struct store_meta_text *out, size_t *n, const char *name, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

static void add_text(struct store_meta_text *out, size_t *n, const char *name, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    out[*n].name = name;
    (void)vsnprintf(out[*n].value, sizeof out[*n].value, fmt, ap);
    (*n)++;
    va_end(ap);
}

size_t store_meta_format(const struct store_meta *m, struct store_meta_text out[STORE_META_MAX])
{
    size_t n = 0;
    char when[40];
    if (!m)
        return 0;
    if (m->timestamp_ms)
        add_text(out, &n, STORE_META_TIMESTAMP, "%s", util_rfc3339(when, m->timestamp_ms));
    if (m->checksum)
        add_text(out, &n, STORE_META_CHECKSUM, "%016llx", (unsigned long long)m->checksum);
    if (m->lineage)
        add_text(out, &n, STORE_META_LINEAGE, "%016llx", (unsigned long long)m->lineage);
    if (m->writer[0])
        add_text(out, &n, STORE_META_WRITER, "%s", m->writer);
    return n;
}

static uint64_t parse_hex(const char *s)
{
    if (strlen(s) != 16 || strspn(s, "0123456789abcdefABCDEF") != 16)
        return 0;
    return strtoull(s, NULL, 16);
}

void store_meta_parse(struct store_meta *m, const char *name, const char *value)
{
    if (!strcmp(name, STORE_META_TIMESTAMP))
        (void)store_rfc3339(value, &m->timestamp_ms);
    else if (!strcmp(name, STORE_META_CHECKSUM))
        m->checksum = parse_hex(value);
    else if (!strcmp(name, STORE_META_LINEAGE))
        m->lineage = parse_hex(value);
    else if (!strcmp(name, STORE_META_WRITER))
        (void)snprintf(m->writer, sizeof m->writer, "%s", value);
}

bool store_rfc3339(const char *text, int64_t *ret_ms)
{
    struct tm tm = {0};
    int used = 0;
    if (sscanf(text, "%4d-%2d-%2d%*1[Tt ]%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
               &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &used) != 6 ||
        !used)
        return false;
    if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 ||
        tm.tm_min > 59 || tm.tm_sec > 60 || tm.tm_year < 0)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon--;
    const char *p = text + used;
    int ms = 0;
    if (*p == '.') {
        int scale = 100;
        for (p++; *p >= '0' && *p <= '9'; p++, scale /= 10)
            ms += (*p - '0') * scale;
    }
    int off_h = 0, off_m = 0;
    if (*p == '+' || *p == '-') {
        int n = 0;
        if (sscanf(p + 1, "%2d:%2d%n", &off_h, &off_m, &n) != 2 || p[1 + n] || off_h < 0 ||
            off_h > 23 || off_m < 0 || off_m > 59)
            return false;
        if (*p == '-') {
            off_h = -off_h;
            off_m = -off_m;
        }
    } else if ((*p != 'Z' && *p != 'z') || p[1]) {
        return false;
    }
    time_t t = timegm(&tm);
    *ret_ms = ((int64_t)t - off_h * 3600 - off_m * 60) * 1000 + ms;
    return true;
}
