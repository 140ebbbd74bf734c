#include "common/store/s3_request.h"

#include <assert.h>

#include "common/format/sigv4.h"

#define SIGNED_MAX 20

/* the headers to sign, with the texts they point to */
struct parts {
    struct sigv4_pair header[SIGNED_MAX], query[4];
    size_t n_headers, n_query;
    struct store_meta_text meta[STORE_META_MAX];
    char name[STORE_META_MAX][64], date[SIGV4_DATE_SIZE], range[64], limit[16], part[16];
};

static void sign_also(struct parts *p, const char *name, const char *value)
{
    assert(p->n_headers < SIGNED_MAX);
    p->header[p->n_headers++] = (struct sigv4_pair){name, value};
}

static void ask(struct parts *p, const char *name, const char *value)
{
    assert(p->n_query < ARRAY_LEN(p->query));
    p->query[p->n_query++] = (struct sigv4_pair){name, value};
}

static void put_headers(struct parts *p, const struct s3_xfer *x, const struct s3_target *t)
{
    if (t->storage_class)
        sign_also(p, "x-amz-storage-class", t->storage_class);
    if (t->sse)
        sign_also(p, "x-amz-server-side-encryption", t->sse);
    if (t->sse_kms_key_id)
        sign_also(p, "x-amz-server-side-encryption-aws-kms-key-id", t->sse_kms_key_id);
    size_t n = store_meta_format(&x->meta, p->meta);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(p->name[i], sizeof p->name[i], "x-amz-meta-%s", p->meta[i].name);
        sign_also(p, p->name[i], p->meta[i].value);
    }
}

/* what reads an object or writes bytes of one */
static bool of_object(const struct s3_xfer *x)
{
    return x->verb == S3_PUT || x->verb == S3_GET || x->verb == S3_HEAD || x->verb == S3_CREATE || x->verb == S3_PART;
}

static void customer_key(struct parts *p, const struct s3_target *t)
{
    sign_also(p, "x-amz-server-side-encryption-customer-algorithm", "AES256");
    sign_also(p, "x-amz-server-side-encryption-customer-key", secret_reveal(t->customer_key.key));
    sign_also(p, "x-amz-server-side-encryption-customer-key-md5", t->customer_key.md5);
}

static void range_header(struct parts *p, const struct s3_xfer *x)
{
    if (x->len == UINT64_MAX)
        (void)snprintf(p->range, sizeof p->range, "bytes=%llu-", (unsigned long long)x->off);
    else
        (void)snprintf(p->range, sizeof p->range, "bytes=%llu-%llu", (unsigned long long)x->off,
                       (unsigned long long)(x->off + x->len - 1));
    sign_also(p, "range", p->range);
}

static void list_query(struct parts *p, const struct s3_xfer *x)
{
    (void)snprintf(p->limit, sizeof p->limit, "%d", S3_LIST_MAX_KEYS);
    ask(p, "prefix", x->key);
    if (x->verb == S3_LIST) {
        ask(p, "max-keys", p->limit);
        if (x->marker[0])
            ask(p, "marker", x->marker);
        return;
    }
    ask(p, "uploads", "");
    if (x->marker[0]) {
        ask(p, "key-marker", x->marker);
        ask(p, "upload-id-marker", x->upload_id);
    }
}

static void upload_query(struct parts *p, const struct s3_xfer *x)
{
    if (x->verb == S3_CREATE) {
        ask(p, "uploads", "");
        return;
    }
    if (x->verb == S3_PART) {
        (void)snprintf(p->part, sizeof p->part, "%u", x->part);
        ask(p, "partNumber", p->part);
    }
    ask(p, "uploadId", x->upload_id);
}

static void digest_header(struct parts *p, const struct s3_xfer *x, const struct s3_target *t)
{
    if (t->provider->digest == S3_DIGEST_MD5 && x->md5[0])
        sign_also(p, "content-md5", x->md5);
    else if (x->sha256[0])
        sign_also(p, "x-amz-checksum-sha256", x->sha256);
}

static void deletes_parts(struct parts *p, const struct s3_xfer *x, const struct s3_target *t)
{
    ask(p, "delete", "");
    digest_header(p, x, t);
    sign_also(p, "content-type", "application/xml");
}

static bool of_bucket(const struct s3_xfer *x)
{
    return x->verb == S3_LIST || x->verb == S3_UPLOADS || x->verb == S3_DELETES;
}

static void add_line(struct s3_request *r, const char *name, const char *value)
{
    assert(r->n_headers < S3_REQUEST_HEADERS);
    r->header[r->n_headers++] = util_printf(value[0] ? "%s: %s" : "%s:%s", name, value);
}

void s3_request_compose(struct s3_request *r, const struct s3_xfer *x, const struct s3_target *t,
                        int64_t now_ms)
{
    static const char *const method[] = {[S3_PUT] = "PUT", [S3_GET] = "GET", [S3_LIST] = "GET",
                                         [S3_DELETE] = "DELETE", [S3_HEAD] = "HEAD", [S3_DELETES] = "POST",
                                         [S3_CREATE] = "POST", [S3_PART] = "PUT",
                                         [S3_COMPLETE] = "POST", [S3_ABORT] = "DELETE",
                                         [S3_UPLOADS] = "GET"};
    struct parts p = {0};
    cleanup_buf struct buf path = BUF_INIT, query = BUF_INIT, auth = BUF_INIT;
    const char *hash = x->body ? s3_body_sha256(x->body) : SIGV4_EMPTY_HASH;

    buf_add_str(&path, t->base);
    if (!t->virtual_host)
        buf_printf(&path, "/%s", t->bucket);
    if (!of_bucket(x) || !path.len)
        buf_add_str(&path, "/");
    if (!of_bucket(x))
        sigv4_encode(&path, x->key, true);

    sigv4_date(p.date, now_ms);
    sign_also(&p, "host", t->host);
    sign_also(&p, "x-amz-content-sha256", hash);
    sign_also(&p, "x-amz-date", p.date);
    if (t->cred.token)
        sign_also(&p, "x-amz-security-token", secret_reveal(t->cred.token));
    if (x->verb == S3_GET && (x->off || x->len != UINT64_MAX))
        range_header(&p, x);
    if (t->provider->header)
        sign_also(&p, t->provider->header, t->provider->header_value);
    if (t->customer_key.key && of_object(x))
        customer_key(&p, t);
    if (x->verb == S3_PUT || x->verb == S3_CREATE)
        put_headers(&p, x, t);
    if (x->verb == S3_PUT || x->verb == S3_PART)
        digest_header(&p, x, t);
    if (x->if_absent) /* signed, so that a proxy that drops it is noticed */
        sign_also(&p, "if-none-match", "*");
    if (x->verb == S3_DELETES)
        deletes_parts(&p, x, t);
    else if (of_bucket(x))
        list_query(&p, x);
    else if (x->verb >= S3_CREATE)
        upload_query(&p, x);

    struct sigv4_request s = {method[x->verb], buf_str(&path), p.query, p.n_query, p.header,
                              p.n_headers, hash, p.date, t->region, "s3"};
    sigv4_authorization(&auth, &s, t->cred.key_id, secret_reveal(t->cred.secret));
    sigv4_query(&query, p.query, p.n_query);
    r->url = util_printf("%s://%s%s%s%s", t->https ? "https" : "http", t->host, buf_str(&path),
                         p.n_query ? "?" : "", buf_str(&query));
    add_line(r, "Authorization", buf_str(&auth));
    for (size_t i = 0; i < p.n_headers; i++)
        add_line(r, p.header[i].name, p.header[i].value);
    add_line(r, "Expect", ""); /* it would cost a round trip for each PUT */
    add_line(r, "Accept", "");
}

void s3_request_done(struct s3_request *r)
{
    for (size_t i = 0; i < r->n_headers; i++)
        secret_wipe(r->header[i]); /* one of them is the session token */
    free(r->url);
    *r = (struct s3_request){0};
}
