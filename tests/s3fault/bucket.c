#include "tests/s3fault/bucket.h"

#include <openssl/evp.h>
#include <strings.h>

#include "common/base/clk.h"

/* ---- headers ----------------------------------------------------------------------------------- */

char **headers_copy(const struct request *r, size_t *ret_n)
{
    char **h = util_zalloc((r->n_headers + 1) * sizeof *h);
    size_t n = 0;
    for (size_t i = 0; i < r->n_headers; i++) {
        const struct pair *p = &r->header[i];
        if (!strncasecmp(p->name, "x-amz-meta-", 11) || !strcasecmp(p->name, "x-amz-storage-class") ||
            !strcasecmp(p->name, "x-amz-server-side-encryption") || !strcasecmp(p->name, CUSTOMER_KEY_MD5))
            h[n++] = util_printf("%s: %s", p->name, p->value);
    }
    *ret_n = n;
    return h;
}

void headers_free(char **h, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(h[i]);
    free(h);
}

static char **headers_dup(char **h, size_t n)
{
    char **copy = util_zalloc((n + 1) * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        copy[i] = util_strdup(h[i]);
    return copy;
}

/* ---- objects ----------------------------------------------------------------------------------- */

struct bucket *bucket_new(const char *name)
{
    struct bucket *b = util_zalloc(sizeof *b);
    b->name = util_strdup(name);
    b->next = server.buckets;
    server.buckets = b;
    return b;
}

struct bucket *bucket_find(const char *name)
{
    for (struct bucket *b = server.buckets; b; b = b->next) {
        if (!strcmp(b->name, name))
            return b;
    }
    return NULL;
}

/* where it is, or would be */
static size_t position(const struct bucket *b, const char *key, bool *found)
{
    size_t lo = 0, hi = b->n;
    *found = false;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int c = strcmp(b->object[mid]->key, key);
        if (c == 0) {
            *found = true;
            return mid;
        }
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

size_t bucket_after(const struct bucket *b, const char *key)
{
    bool found;
    size_t i = position(b, key, &found);
    return found ? i + 1 : i;
}

void object_unref(struct object *o)
{
    if (!o || --o->refs)
        return;
    for (size_t i = 0; i < o->n_seg; i++)
        blob_unref(o->seg[i].blob);
    headers_free(o->header, o->n_headers);
    object_unref(o->before);
    free(o->seg);
    free(o->key);
    free(o);
}

struct object *bucket_get(const struct bucket *b, const char *key)
{
    bool found;
    size_t i = position(b, key, &found);
    if (!found)
        return NULL;
    b->object[i]->refs++;
    return b->object[i];
}

static void make_etag(struct object *o)
{
    char hex[33];
    uint8_t sum[16];
    if (o->n_seg == 1 && !o->seg[0].part) {
        util_hex(hex, o->seg[0].blob->md5, 16);
        (void)snprintf(o->etag, sizeof o->etag, "\"%s\"", hex);
        memcpy(o->sha256, o->seg[0].blob->sha256, sizeof o->sha256);
        return;
    }
    cleanup_buf struct buf all = BUF_INIT;
    for (size_t i = 0; i < o->n_seg; i++)
        buf_add(&all, o->seg[i].blob->md5, 16);
    unsigned len;
    (void)EVP_Digest(all.p, all.len, sum, &len, EVP_md5(), NULL);
    util_hex(hex, sum, 16);
    (void)snprintf(o->etag, sizeof o->etag, "\"%s-%zu\"", hex, o->n_seg);
}

struct object *bucket_put(struct bucket *b, const char *key, const struct segment *seg, size_t n,
                          char **header, size_t n_headers)
{
    struct object *o = util_zalloc(sizeof *o);
    o->refs = 1;
    o->key = util_strdup(key);
    o->seg = util_zalloc(n * sizeof *o->seg);
    o->n_seg = n;
    for (size_t i = 0; i < n; i++) {
        o->seg[i] = (struct segment){blob_ref(seg[i].blob), seg[i].part};
        o->size += seg[i].blob->size;
    }
    o->header = headers_dup(header, n_headers);
    o->n_headers = n_headers;
    o->time_ms = clk_real_ms();
    make_etag(o);
    bool found;
    size_t i = position(b, key, &found);
    if (found) {
        object_unref(b->object[i]->before); /* one version back is enough */
        b->object[i]->before = NULL;
        o->before = b->object[i];
        b->object[i] = o;
        return o;
    }
    if (b->n == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 64;
        b->object = util_realloc(b->object, b->cap * sizeof *b->object);
    }
    memmove(b->object + i + 1, b->object + i, (b->n - i) * sizeof *b->object);
    b->object[i] = o;
    b->n++;
    return o;
}

bool bucket_delete(struct bucket *b, const char *key)
{
    bool found;
    size_t i = position(b, key, &found);
    if (!found)
        return false;
    object_unref(b->object[i]);
    b->n--;
    memmove(b->object + i, b->object + i + 1, (b->n - i) * sizeof *b->object);
    return true;
}

void object_read(const struct object *o, uint64_t off, void *p, size_t n)
{
    uint8_t *to = p;
    uint64_t start = 0;
    for (size_t i = 0; i < o->n_seg && n; i++) {
        const struct blob *b = o->seg[i].blob;
        if (off < start + b->size) {
            size_t part = (size_t)MIN((uint64_t)n, start + b->size - off);
            blob_read(b, off - start, to, part);
            to += part;
            off += part;
            n -= part;
        }
        start += b->size;
    }
}

/* ---- uploads in parts -------------------------------------------------------------------------- */

struct upload *upload_new(struct bucket *b, const char *key, char **header, size_t n_headers)
{
    static unsigned long long count;
    struct upload *u = util_zalloc(sizeof *u);
    u->key = util_strdup(key);
    (void)snprintf(u->id, sizeof u->id, "upload.%llu_%08llx", ++count,
                   (unsigned long long)util_random_below(UINT32_MAX));
    u->time_ms = clk_real_ms();
    u->header = headers_dup(header, n_headers);
    u->n_headers = n_headers;
    u->next = b->uploads;
    b->uploads = u;
    return u;
}

struct upload *upload_find(const struct bucket *b, const char *key, const char *id)
{
    for (struct upload *u = b->uploads; u; u = u->next) {
        if (!strcmp(u->key, key) && !strcmp(u->id, id))
            return u;
    }
    return NULL;
}

void upload_part(struct upload *u, unsigned part, struct blob *blob)
{
    size_t i = 0;
    while (i < u->n_parts && u->part[i].part < part)
        i++;
    if (i < u->n_parts && u->part[i].part == part) {
        blob_unref(u->part[i].blob);
        u->part[i].blob = blob_ref(blob);
        return;
    }
    u->part = util_realloc(u->part, (u->n_parts + 1) * sizeof *u->part);
    memmove(u->part + i + 1, u->part + i, (u->n_parts - i) * sizeof *u->part);
    u->part[i] = (struct segment){blob_ref(blob), part};
    u->n_parts++;
}

void upload_free(struct bucket *b, struct upload *u)
{
    struct upload **at = &b->uploads;
    while (*at != u)
        at = &(*at)->next;
    *at = u->next;
    for (size_t i = 0; i < u->n_parts; i++)
        blob_unref(u->part[i].blob);
    headers_free(u->header, u->n_headers);
    free(u->part);
    free(u->key);
    free(u);
}
