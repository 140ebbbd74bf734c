#include "common/store/s3_reply.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdarg.h>
#include <strings.h>

/* ---- headers ------------------------------------------------------------------------------- */

static bool parse_u64(const char **p, uint64_t *ret)
{
    if (**p < '0' || **p > '9')
        return false;
    char *end;
    errno = 0;
    *ret = strtoull(*p, &end, 10);
    *p = end;
    return !errno;
}

/* "bytes 5-9/100"; "bytes * /100" (unsatisfied) leaves has_range false */
static void parse_range(struct s3_answer *a, const char *v)
{
    if (strncasecmp(v, "bytes ", 6))
        return;
    v += 6;
    a->has_range = parse_u64(&v, &a->range_first) && *v++ == '-' &&
                   parse_u64(&v, &a->range_last) && *v++ == '/' &&
                   parse_u64(&v, &a->range_total) && !*v && a->range_first <= a->range_last &&
                   a->range_last < a->range_total;
}

static void copy(char *to, size_t cap, const char *v)
{
    (void)snprintf(to, cap, "%s", v);
}

/* in seconds; or as a date, which nobody is known to send */
static uint64_t retry_after(const char *v)
{
    uint64_t s;
    return parse_u64(&v, &s) && !*v ? MIN(s, (uint64_t)86400) * 1000 : 0;
}

static void take_header(struct s3_reply *r, struct s3_answer *a, const char *name, const char *v)
{
    static const char meta[] = "x-amz-meta-";
    uint64_t n;
    const char *p = v;
    if (!strcasecmp(name, "etag"))
        copy(a->etag, sizeof a->etag, v);
    else if (!strcasecmp(name, "location"))
        copy(a->location, sizeof a->location, v);
    else if (!strcasecmp(name, "x-amz-bucket-region"))
        copy(a->region, sizeof a->region, v);
    else if (!strcasecmp(name, "x-amz-request-id"))
        copy(a->request_id, sizeof a->request_id, v);
    else if (!strcasecmp(name, "content-length"))
        a->content_length = parse_u64(&p, &n) && !*p && n <= INT64_MAX ? (int64_t)n : -1;
    else if (!strcasecmp(name, "retry-after"))
        a->retry_after_ms = retry_after(v);
    else if (!strcasecmp(name, "content-range"))
        parse_range(a, v);
    else if (!strcasecmp(name, "date"))
        a->date_ms = MAX((int64_t)0, (int64_t)curl_getdate(v, NULL)) * 1000;
    else if (!strcasecmp(name, "last-modified"))
        a->modified_ms = MAX((int64_t)0, (int64_t)curl_getdate(v, NULL)) * 1000;
    else if (!strncasecmp(name, meta, strlen(meta)) && strlen(name) < 64) {
        char lower[64];
        size_t i = 0;
        for (const char *s = name + strlen(meta); *s; s++)
            lower[i++] = (char)(*s >= 'A' && *s <= 'Z' ? *s + 'a' - 'A' : *s);
        lower[i] = '\0';
        store_meta_parse(&r->meta, lower, v);
    }
}

int s3_reply_header(struct s3_reply *r, struct s3_xfer *x, const char *line, size_t n)
{
    struct s3_answer *a = &x->answer;
    r->header_bytes += n;
    if (r->header_bytes > S3_HEADERS_MAX_BYTES)
        return err_set(&x->err, ERR_STORE, "the answer has more than %zu bytes of headers",
                       S3_HEADERS_MAX_BYTES);
    if (n >= 5 && !memcmp(line, "HTTP/", 5)) {
        /* of another answer, after a 100 or a repeated request: forget the one before */
        uint64_t sent = a->sent;
        s3_answer_reset(a);
        a->sent = sent;
        r->meta = (struct store_meta){0};
        const char *sp = memchr(line, ' ', n);
        if (sp && (size_t)(line + n - sp) > 3)
            a->status = (sp[1] - '0') * 100 + (sp[2] - '0') * 10 + (sp[3] - '0');
        return 0;
    }
    const char *colon = memchr(line, ':', n);
    if (!colon)
        return 0;
    cleanup_free char *name = strndup(line, (size_t)(colon - line));
    const char *v = colon + 1, *end = line + n;
    while (v < end && (*v == ' ' || *v == '\t'))
        v++;
    while (end > v && (unsigned char)end[-1] <= ' ')
        end--;
    cleanup_free char *value = strndup(v, (size_t)(end - v));
    if (!name || !value)
        return err_set(&x->err, ERR_NOMEM, "no memory for a header");
    for (char *s = value; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
    }
    take_header(r, a, name, value);
    return 0;
}

/* ---- body ---------------------------------------------------------------------------------- */

static int lie(struct s3_xfer *x, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);

static int lie(struct s3_xfer *x, enum err_code code, const char *fmt, ...)
{
    char msg[256];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return err_set(&x->err, code, "%s", msg);
}

/* Before the first byte of an object goes to the sink: is it the part that was asked for? */
static int check_get(struct s3_reply *r, struct s3_xfer *x)
{
    const struct s3_answer *a = &x->answer;
    uint64_t total;
    if (x->off || x->len != UINT64_MAX) {
        if (a->status != 206 && (a->status != 200 || !a->has_range)) /* some servers say 200, and send the part */
            return lie(x, ERR_STORE, "the whole object instead of a part of it was sent (status "
                                     "%ld to a range request)", a->status);
        if (!a->has_range || a->range_first != x->off)
            return lie(x, ERR_STORE, "a part was sent that was not asked for");
        total = a->range_total;
        uint64_t n = a->range_last - a->range_first + 1;
        if (a->content_length >= 0 && (uint64_t)a->content_length != n)
            return lie(x, ERR_STORE, "Content-Length and Content-Range contradict each other");
        if (x->len != UINT64_MAX && (x->len > total || x->off > total - x->len))
            return lie(x, ERR_CORRUPT, "it has %llu bytes, %llu from %llu were asked for",
                       (unsigned long long)total, (unsigned long long)x->len,
                       (unsigned long long)x->off);
        if (n != (x->len == UINT64_MAX ? total - x->off : x->len))
            return lie(x, ERR_STORE, "a part was sent that was not asked for");
        r->expected = n;
    } else {
        if (a->status != 200)
            return lie(x, ERR_STORE, "status %ld to a request for the whole object", a->status);
        if (a->content_length < 0)
            return lie(x, ERR_STORE, "the answer does not say how long the object is");
        r->expected = total = (uint64_t)a->content_length;
    }
    r->checked = true;
    if (x->ret_info)
        *x->ret_info = (struct store_info){total, a->modified_ms, r->meta};
    return 0;
}

static int keep(struct s3_answer *a, const void *p, size_t n, size_t max)
{
    size_t room = max - a->body.len;
    buf_add(&a->body, p, MIN(n, room));
    a->body_cut = n > room || a->body.failed;
    return a->body_cut ? -1 : 0;
}

int s3_reply_data(struct s3_reply *r, struct s3_xfer *x, const void *p, size_t n)
{
    struct s3_answer *a = &x->answer;
    a->received += n;
    if (x->verb == S3_GET && a->status >= 200 && a->status < 300) {
        if (!r->checked && check_get(r, x) < 0)
            return -1;
        if (a->received > r->expected)
            return lie(x, ERR_STORE, "more came than the %llu bytes announced",
                       (unsigned long long)r->expected);
        if (x->progress)
            *x->progress = a->received;
        int rc = x->sink(x->sink_arg, p, n, &x->err);
        if (rc < 0 && !x->err.code)
            (void)err_set(&x->err, (enum err_code)-rc, "refused by the receiver");
        return rc < 0 ? -1 : 0;
    }
    if ((x->verb != S3_LIST && x->verb != S3_UPLOADS && x->verb != S3_DELETES) || a->status != 200)
        return keep(a, p, n, S3_ERROR_MAX_BYTES);
    if (keep(a, p, n, S3_PAGE_MAX_BYTES) < 0)
        return lie(x, ERR_STORE, "a page of the %s is larger than %zu bytes",
                   x->verb == S3_DELETES ? "answer" : "listing", S3_PAGE_MAX_BYTES);
    return 0;
}

/* ---- the verdict --------------------------------------------------------------------------- */

static uint64_t digest(uint64_t h, const char *key, uint64_t size)
{
    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 0x100000001b3u;
    return (h ^ size) * 0x100000001b3u;
}

void s3_reply_libs3_key(struct s3_reply *r, const char *key, uint64_t size)
{
    r->libs3_keys++;
    r->libs3_digest = digest(r->libs3_digest, key, size);
}

static int verdict_put(struct s3_xfer *x)
{
    const struct s3_answer *a = &x->answer;
    struct s3_error_doc doc;
    if (a->sent != s3_body_size(x->body))
        return lie(x, ERR_STORE, "it was acknowledged after %llu of %llu bytes",
                   (unsigned long long)a->sent, (unsigned long long)s3_body_size(x->body));
    if (s3_xml_error(a->body.p, a->body.len, &doc))
        return lie(x, ERR_STORE, "status 200, but the answer is an error: %s, \"%s\"", doc.code,
                   doc.message);
    if (!a->etag[0])
        return lie(x, ERR_STORE, "status 200 without an ETag: that is no acknowledgement of S3");
    return 0;
}

static int verdict_get(struct s3_reply *r, struct s3_xfer *x)
{
    if (!r->checked && check_get(r, x) < 0)
        return -1;
    if (x->answer.received != r->expected)
        return lie(x, ERR_STORE, "the answer broke off after %llu of %llu bytes",
                   (unsigned long long)x->answer.received, (unsigned long long)r->expected);
    return 0;
}

static int verdict_head(struct s3_reply *r, struct s3_xfer *x)
{
    const struct s3_answer *a = &x->answer;
    if (a->content_length < 0)
        return lie(x, ERR_STORE, "the answer does not say how long the object is");
    if (x->ret_info)
        *x->ret_info =
            (struct store_info){(uint64_t)a->content_length, a->modified_ms, r->meta};
    return 0;
}

bool s3_reply_page(struct s3_reply *r, struct s3_xfer *x)
{
    const struct s3_answer *a = &x->answer;
    if (x->verb != S3_LIST || a->status != 200 || x->err.code)
        return false;
    r->page_read = s3_xml_page(a->body.p, a->body.len, &x->page, &r->page_err) == 0;
    return r->page_read;
}

/* Whole, well-formed, and the same to two parsers; below the prefix, after the marker, ascending:
 * a listing that fails any of that may have left something out. */
static int verdict_list(struct s3_reply *r, struct s3_xfer *x)
{
    if (!r->page_read) {
        x->err = r->page_err;
        return -1;
    }
    uint64_t h = 0;
    const char *last = x->marker;
    for (size_t i = 0; i < x->page.n; i++) {
        const struct s3_page_item *item = &x->page.item[i];
        h = digest(h, item->key, item->size);
        if (strncmp(item->key, x->key, strlen(x->key)))
            return lie(x, ERR_STORE, "the listing has \"%.100s\", which is not asked for",
                       item->key);
        if (strcmp(item->key, last) <= 0)
            return lie(x, ERR_STORE, "the listing is out of order at \"%.100s\"", item->key);
        last = item->key;
    }
    if (r->libs3_keys != x->page.n || r->libs3_digest != h)
        return lie(x, ERR_STORE, "the listing has %zu keys, of which libs3 read %zu", x->page.n,
                   r->libs3_keys);
    if (!x->page.truncated)
        return 0;
    if (!x->page.next_marker)
        x->page.next_marker = util_strdup(last);
    if (strcmp(x->page.next_marker, x->marker) <= 0 || strcmp(x->page.next_marker, last) < 0)
        return lie(x, ERR_STORE, "the listing goes on, but its marker \"%.100s\" does not advance",
                   x->page.next_marker);
    return 0;
}

static int verdict_create(struct s3_xfer *x)
{
    x->new_id = s3_xml_created(x->answer.body.p, x->answer.body.len);
    return x->new_id ? 0 : lie(x, ERR_STORE, "status 200, but the answer names no upload");
}

static int verdict_complete(struct s3_xfer *x)
{
    const struct s3_answer *a = &x->answer;
    if (!s3_xml_completed(a->body.p, a->body.len))
        return lie(x, ERR_STORE, "status 200, but the answer does not say that it is complete");
    return 0;
}

static int verdict_uploads(struct s3_xfer *x)
{
    const struct s3_answer *a = &x->answer;
    if (s3_xml_uploads(a->body.p, a->body.len, &x->page, &x->err) < 0)
        return -1;
    for (size_t i = 0; i < x->page.n; i++) {
        if (strncmp(x->page.item[i].key, x->key, strlen(x->key)))
            return lie(x, ERR_STORE, "the listing has \"%.100s\", which is not asked for",
                       x->page.item[i].key);
    }
    if (x->page.truncated &&
        (!x->page.next_marker || !x->page.next_id ||
         (!strcmp(x->page.next_marker, x->marker) && !strcmp(x->page.next_id, x->upload_id))))
        return lie(x, ERR_STORE, "the listing goes on, but its marker does not advance");
    return 0;
}

/* a page to sign in at says 200 as well */
static int verdict_gone(struct s3_xfer *x)
{
    if (x->answer.status == 200 && x->answer.body.len)
        return lie(x, ERR_STORE, "status 200 with a text, which is no answer of S3 to a deletion");
    return 0;
}

static bool status_fits(const struct s3_xfer *x)
{
    long status = x->answer.status;
    switch (x->verb) {
    case S3_PUT:
    case S3_LIST:
    case S3_HEAD:
    case S3_CREATE:
    case S3_PART:
    case S3_COMPLETE:
    case S3_UPLOADS:
    case S3_DELETES:
        return status == 200;
    case S3_GET:
        return status == 200 || status == 206;
    case S3_DELETE:
    case S3_ABORT:
        return status == 200 || status == 204;
    }
    return false;
}

static int verdict(struct s3_reply *r, struct s3_xfer *x)
{
    switch (x->verb) {
    case S3_PUT:
    case S3_PART:
        return verdict_put(x);
    case S3_GET:
        return verdict_get(r, x);
    case S3_HEAD:
        return verdict_head(r, x);
    case S3_LIST:
        return verdict_list(r, x);
    case S3_CREATE:
        return verdict_create(x);
    case S3_COMPLETE:
        return verdict_complete(x);
    case S3_UPLOADS:
        return verdict_uploads(x);
    case S3_DELETES:
        return s3_xml_deleted(x->answer.body.p, x->answer.body.len, &x->page, &x->err);
    case S3_DELETE:
    case S3_ABORT:
        return verdict_gone(x);
    }
    return 0;
}

static int judge(struct s3_reply *r, struct s3_xfer *x, const struct s3_target *t)
{
    const struct s3_answer *a = &x->answer;
    struct s3_error_doc doc;
    if (x->err.code)
        return s3_error_where(t, x->verb, x->key, &x->err);
    if ((x->verb == S3_DELETE || x->verb == S3_ABORT) && a->status == 404 && a->curl == CURLE_OK &&
        !(s3_xml_error(a->body.p, a->body.len, &doc) && !strcmp(doc.code, "NoSuchBucket")))
        return 0;
    if (a->curl != CURLE_OK || !status_fits(x))
        return s3_error(t, x->verb, x->key, a, &x->err);
    if ((x->verb == S3_COMPLETE || x->verb == S3_DELETES) && s3_xml_error(a->body.p, a->body.len, &doc))
        return s3_error(t, x->verb, x->key, a, &x->err); /* found after its 200 had been sent */
    return verdict(r, x) < 0 ? s3_error_where(t, x->verb, x->key, &x->err) : 0;
}

void s3_reply_verdict(struct s3_reply *r, struct s3_xfer *x, const struct s3_target *t)
{
    struct s3_error_doc doc;
    if (s3_xml_error(x->answer.body.p, x->answer.body.len, &doc)) {
        copy(x->answer.code, sizeof x->answer.code, doc.code);
        copy(x->answer.doc_region, sizeof x->answer.doc_region, doc.region);
        x->answer.wants_digest = strcasestr(doc.message, "Content-MD5") ||
                                 strcasestr(doc.message, "x-amz-checksum");
    }
    if (judge(r, x, t) < 0)
        s3_page_done(&x->page);
    buf_free(&x->answer.body);
}
