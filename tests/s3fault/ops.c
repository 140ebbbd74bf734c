/* What S3 does, told straight. Lies are in fault.c, but for those that need to be told from inside:
 * they are asked for by x->action. */
#include "tests/s3fault/exchange.h"

#include <strings.h>

#include "common/base/clk.h"

#define XMLNS "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""
#define XML "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"

static bool is(const struct exchange *x, const char *action)
{
    return !strcmp(x->action, action);
}

static void no_such_key(struct exchange *x)
{
    answer_error(x, 404, "NoSuchKey", "The specified key does not exist.", "");
}

static void no_such_upload(struct exchange *x)
{
    answer_error(x, 404, "NoSuchUpload", "The specified upload does not exist.", "");
}

/* ---- PUT ------------------------------------------------------------------------------------- */

/* with the lock held; false: x has its answer */
static bool conditions_hold(struct exchange *x, const struct bucket *b)
{
    const char *none = request_header(&x->r, "if-none-match");
    const char *match = request_header(&x->r, "if-match");
    if (is(x, "ignore-condition"))
        return true;
    struct object *there = bucket_get(b, x->key);
    bool ok = !(none && !strcmp(none, "*") && there);
    if (match)
        ok = ok && there && !strcmp(there->etag, match);
    object_unref(there);
    if (!ok)
        answer_error(x, 412, "PreconditionFailed",
                     "At least one of the pre-conditions you specified did not hold", "");
    return ok;
}

static void took(struct exchange *x, const struct object *o)
{
    x->stored = true;
    x->size = o->size;
    (void)snprintf(x->etag, sizeof x->etag, "%s", o->etag);
    (void)snprintf(x->sha256, sizeof x->sha256, "%s", o->sha256);
}

static void flip(struct exchange *x)
{
    struct blob *b = x->r.body;
    if (is(x, "corrupt-stored") && b->mem && b->size)
        b->mem[b->size / 2] ^= 1;
}

void op_store(struct exchange *x)
{
    size_t n;
    char **h = headers_copy(&x->r, &n);
    server_lock();
    struct bucket *b = bucket_find(x->bucket);
    if (conditions_hold(x, b)) {
        flip(x);
        struct segment seg = {x->r.body, 0};
        took(x, bucket_put(b, x->key, &seg, 1, h, n));
        x->status = 200;
        answer_header(x, "ETag", x->etag);
    }
    server_unlock();
    headers_free(h, n);
}

/* ---- GET, HEAD, DELETE ----------------------------------------------------------------------- */

static void describe(struct exchange *x, const struct object *o)
{
    char date[40];
    answer_header(x, "ETag", o->etag);
    answer_header(x, "Last-Modified", http_date(date, o->time_ms));
    answer_header(x, "Accept-Ranges", "bytes");
    for (size_t i = 0; i < o->n_headers; i++)
        buf_printf(&x->headers, "%s\r\n", o->header[i]);
}

static struct object *find(struct exchange *x)
{
    server_lock();
    struct object *o = bucket_get(bucket_find(x->bucket), x->key);
    if (o && is(x, "stale")) { /* what was there before it */
        struct object *before = o->before;
        if (before)
            before->refs++;
        object_unref(o);
        o = before;
    }
    server_unlock();
    return o;
}

/* An object, or an upload, of a customer's key is nobody's without it. */
static bool has_key(struct exchange *x, char **header, size_t n)
{
    const char *given = request_header(&x->r, CUSTOMER_KEY_MD5), *want = "";
    for (size_t i = 0; i < n; i++) {
        if (!strncasecmp(header[i], CUSTOMER_KEY_MD5 ": ", strlen(CUSTOMER_KEY_MD5) + 2))
            want = header[i] + strlen(CUSTOMER_KEY_MD5) + 2;
    }
    if (!strcmp(given ? given : "", want))
        return true;
    answer_error(x, *want && given ? 403 : 400, *want && given ? "AccessDenied" : "InvalidRequest",
                 "The object was stored using a form of Server Side Encryption. The correct parameters must be "
                 "provided to retrieve the object.", "");
    return false;
}

static void drop_object(struct exchange *x)
{
    server_lock();
    object_unref(x->object);
    server_unlock();
    x->object = NULL;
}

static void get(struct exchange *x)
{
    unsigned long long first = 0, last = 0;
    x->object = find(x);
    if (!x->object) {
        no_such_key(x);
        return;
    }
    const struct object *o = x->object;
    if (!has_key(x, o->header, o->n_headers)) {
        drop_object(x);
        return;
    }
    describe(x, o);
    x->status = 200;
    x->len = o->size;
    const char *range = request_header(&x->r, "range");
    if (!range || is(x, "ignore-range") || x->head)
        return;
    int n = sscanf(range, "bytes=%llu-%llu", &first, &last);
    if (n < 1 || first >= o->size) {
        buf_free(&x->headers);
        drop_object(x);
        answer_error(x, 416, "InvalidRange", "The requested range is not satisfiable", "");
        return;
    }
    if (n == 1 || last >= o->size)
        last = o->size - 1;
    if (is(x, "wrong-range"))
        first += first < last ? 1 : 0;
    cleanup_free char *v = util_printf("bytes %llu-%llu/%llu", first, last,
                                       (unsigned long long)o->size);
    answer_header(x, "Content-Range", v);
    x->status = 206;
    x->off = first;
    x->len = last - first + 1;
}

static void delete_one(struct exchange *x)
{
    server_lock();
    bool there = bucket_delete(bucket_find(x->bucket), x->key), missed = !there && profile_misses_missing();
    server_unlock();
    x->stored = true;
    x->status = 204;
    if (missed)
        no_such_key(x);
}

/* the text of the next <tag> in [*p, end), decoded; NULL: there is none */
static char *next_text(const char **p, const char *tag)
{
    cleanup_free char *open = util_printf("<%s>", tag), *close = util_printf("</%s>", tag);
    const char *a = strstr(*p, open), *z = a ? strstr(a, close) : NULL;
    if (!z)
        return NULL;
    a += strlen(open);
    *p = z + strlen(close);
    cleanup_buf struct buf out = BUF_INIT;
    static const struct {
        const char *name, *c;
    } entity[] = {{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&apos;", "'"},
                  {"&#38;", "&"}, {"&#60;", "<"}, {"&#62;", ">"}, {"&#34;", "\""}};
    while (a < z) {
        size_t i = 0;
        while (i < ARRAY_LEN(entity) && strncmp(a, entity[i].name, strlen(entity[i].name)))
            i++;
        buf_add(&out, i < ARRAY_LEN(entity) ? entity[i].c : a, 1);
        a += i < ARRAY_LEN(entity) ? strlen(entity[i].name) : 1;
    }
    return util_strdup(buf_str(&out));
}

static char *body_text(const struct exchange *x)
{
    const struct blob *b = x->r.body;
    char *s = util_zalloc((size_t)b->size + 1);
    blob_read(b, 0, s, (size_t)b->size);
    return s;
}

static void delete_many(struct exchange *x)
{
    if (!request_header(&x->r, "content-md5") && !request_header(&x->r, "x-amz-checksum-sha256")) {
        answer_error(x, 400, "InvalidRequest", "Missing required header for this request: "
                     "Content-MD5", "");
        return;
    }
    cleanup_free char *text = body_text(x);
    const char *p = text;
    buf_add_str(&x->body, XML "<DeleteResult " XMLNS ">");
    for (unsigned n = 0;; n++) {
        cleanup_free char *key = next_text(&p, "Key");
        if (!key)
            break;
        bool refused = is(x, "delete-errors") && n % 2 == 0;
        if (!refused) {
            server_lock();
            (void)bucket_delete(bucket_find(x->bucket), key);
            server_unlock();
        }
        buf_add_str(&x->body, refused ? "<Error><Key>" : "<Deleted><Key>");
        xml_add(&x->body, key);
        buf_add_str(&x->body, refused ? "</Key><Code>AccessDenied</Code><Message>Access Denied"
                                        "</Message></Error>" : "</Key></Deleted>");
    }
    buf_add_str(&x->body, "</DeleteResult>");
    x->stored = true;
    x->status = 200;
}

/* ---- LIST ------------------------------------------------------------------------------------ */

struct listing {
    const char *prefix, *delimiter;
    char *last;       /* key or common prefix that came last */
    size_t n, max;
    bool truncated;
    long long skip_every, older_ms; /* lies: leave some out; what is newer is not seen */
};

static void list_key(struct exchange *x, const struct object *o, struct listing *l)
{
    char when[40];
    buf_add_str(&x->body, "<Contents><Key>");
    xml_add(&x->body, o->key);
    buf_printf(&x->body, "</Key><LastModified>%s</LastModified><ETag>",
               util_rfc3339(when, o->time_ms));
    xml_add(&x->body, o->etag);
    buf_printf(&x->body, "</ETag><Size>%llu</Size><StorageClass>STANDARD</StorageClass></Contents>",
               (unsigned long long)o->size);
    free(l->last);
    l->last = util_strdup(o->key);
    l->n++;
}

/* from object i on; with the lock held */
static void list_from(struct exchange *x, const struct bucket *b, size_t i, struct listing *l)
{
    size_t np = strlen(l->prefix), seen = 0;
    for (; i < b->n; i++) {
        const struct object *o = b->object[i];
        if (strncmp(o->key, l->prefix, np))
            continue;
        if (l->older_ms && clk_real_ms() - o->time_ms < l->older_ms)
            continue;
        if (l->skip_every && ++seen % (size_t)l->skip_every == 0)
            continue;
        const char *cut = l->delimiter[0] ? strstr(o->key + np, l->delimiter) : NULL;
        if (cut && l->last &&
            !strncmp(o->key, l->last, (size_t)(cut - o->key) + strlen(l->delimiter)))
            continue; /* of a common prefix that was given */
        if (l->n == l->max) {
            l->truncated = true;
            return;
        }
        if (!cut) {
            list_key(x, o, l);
            continue;
        }
        free(l->last);
        l->last = strndup(o->key, (size_t)(cut - o->key) + strlen(l->delimiter));
        buf_add_str(&x->body, "<CommonPrefixes><Prefix>");
        xml_add(&x->body, l->last);
        buf_add_str(&x->body, "</Prefix></CommonPrefixes>");
        l->n++;
    }
}

static void element(struct exchange *x, const char *name, const char *value)
{
    buf_printf(&x->body, "<%s>", name);
    xml_add(&x->body, value);
    buf_printf(&x->body, "</%s>", name);
}

static const char *asked(const struct exchange *x, const char *name)
{
    const char *v = request_query(&x->r, name);
    return v ? v : "";
}

static void list(struct exchange *x)
{
    bool v2 = !strcmp(asked(x, "list-type"), "2");
    const char *max = request_query(&x->r, "max-keys");
    struct listing l = {.prefix = asked(x, "prefix"), .delimiter = asked(x, "delimiter"),
                        .max = max ? MIN((size_t)strtoull(max, NULL, 10), (size_t)1000) : 1000};
    const char *from = v2 ? asked(x, "continuation-token") : asked(x, "marker");
    if (v2 && !from[0])
        from = asked(x, "start-after");
    if (is(x, "incomplete-listing"))
        l.skip_every = rule_int(x, "every", 2);
    if (is(x, "stale-listing"))
        l.older_ms = rule_int(x, "older_ms", 5000);
    if (from[0])
        l.last = util_strdup(from);
    buf_add_str(&x->body, XML "<ListBucketResult " XMLNS ">");
    element(x, "Name", x->bucket);
    element(x, "Prefix", l.prefix);
    server_lock();
    const struct bucket *b = bucket_find(x->bucket);
    list_from(x, b, from[0] ? bucket_after(b, from) : 0, &l);
    server_unlock();
    if (is(x, "loop-listing")) {
        l.truncated = true;
        free(l.last);
        l.last = util_strdup(from[0] ? from : "0");
    }
    element(x, "IsTruncated", l.truncated ? "true" : "false");
    if (l.truncated && (v2 || l.delimiter[0] || is(x, "loop-listing")))
        element(x, v2 ? "NextContinuationToken" : "NextMarker", l.last);
    buf_add_str(&x->body, "</ListBucketResult>");
    free(l.last);
    x->status = 200;
    answer_header(x, "Content-Type", "application/xml");
}

/* ---- multipart ------------------------------------------------------------------------------- */

static void create(struct exchange *x)
{
    size_t n;
    char **h = headers_copy(&x->r, &n);
    server_lock();
    struct upload *u = upload_new(bucket_find(x->bucket), x->key, h, n);
    x->upload_id = util_strdup(u->id);
    server_unlock();
    headers_free(h, n);
    buf_printf(&x->body, XML "<%s " XMLNS ">", profile_created());
    element(x, "Bucket", x->bucket);
    element(x, "Key", x->key);
    element(x, "UploadId", x->upload_id);
    buf_printf(&x->body, "</%s>", profile_created());
    x->status = 200;
}

static void part(struct exchange *x)
{
    unsigned long n = strtoul(asked(x, "partNumber"), NULL, 10);
    server_lock();
    struct upload *u = upload_find(bucket_find(x->bucket), x->key, asked(x, "uploadId"));
    bool key = !u || has_key(x, u->header, u->n_headers);
    if (u && key && n >= 1 && n <= 10000)
        upload_part(u, (unsigned)n, x->r.body);
    server_unlock();
    if (!u) {
        no_such_upload(x);
        return;
    }
    if (!key)
        return;
    if (n < 1 || n > 10000) {
        answer_error(x, 400, "InvalidArgument", "Part number must be between 1 and 10000", "");
        return;
    }
    char hex[33];
    util_hex(hex, x->r.body->md5, 16);
    (void)snprintf(x->etag, sizeof x->etag, "\"%s\"", hex);
    answer_header(x, "ETag", x->etag);
    x->size = x->r.body->size;
    x->status = 200; /* not "stored": that is said of objects */
}

/* the parts the document names, as segments; NULL: x has its answer. With the lock held. */
static struct segment *chosen(struct exchange *x, const struct upload *u, const char *doc,
                              size_t *ret_n)
{
    struct segment *seg = util_zalloc((u->n_parts + 1) * sizeof *seg);
    size_t n = 0;
    const char *p = doc, *why = NULL;
    for (;;) {
        cleanup_free char *number = next_text(&p, "PartNumber");
        cleanup_free char *etag = number ? next_text(&p, "ETag") : NULL;
        if (!etag)
            break;
        size_t i = 0;
        unsigned long k = strtoul(number, NULL, 10);
        while (i < u->n_parts && u->part[i].part != k)
            i++;
        char hex[33] = "";
        if (i < u->n_parts)
            util_hex(hex, u->part[i].blob->md5, 16);
        if (i == u->n_parts || !strstr(etag, hex))
            why = "InvalidPart";
        else if (n && seg[n - 1].part >= k)
            why = "InvalidPartOrder";
        else if (n && seg[n - 1].blob->size < server.min_part_bytes)
            why = "EntityTooSmall";
        if (why)
            break;
        seg[n++] = u->part[i];
    }
    if (!n && !why)
        why = "MalformedXML";
    if (!why) {
        *ret_n = n;
        return seg;
    }
    answer_error(x, 400, why, "One or more of the specified parts are not as they have to be", "");
    free(seg);
    return NULL;
}

static void complete(struct exchange *x)
{
    cleanup_free char *doc = body_text(x);
    size_t n = 0;
    server_lock();
    struct bucket *b = bucket_find(x->bucket);
    struct upload *u = upload_find(b, x->key, asked(x, "uploadId"));
    if (!u) {
        no_such_upload(x);
    } else if (conditions_hold(x, b)) {
        struct segment *seg = chosen(x, u, doc, &n);
        if (seg) {
            took(x, bucket_put(b, x->key, seg, n, u->header, u->n_headers));
            upload_free(b, u);
            x->status = 200;
        }
        free(seg);
    }
    server_unlock();
    if (x->status != 200)
        return;
    buf_add_str(&x->body, XML "<CompleteMultipartUploadResult " XMLNS ">");
    element(x, "Key", x->key);
    element(x, "ETag", x->etag);
    buf_add_str(&x->body, "</CompleteMultipartUploadResult>");
}

static void abort_upload(struct exchange *x)
{
    server_lock();
    struct bucket *b = bucket_find(x->bucket);
    struct upload *u = upload_find(b, x->key, asked(x, "uploadId"));
    if (u)
        upload_free(b, u);
    server_unlock();
    if (u)
        x->status = 204;
    else
        no_such_upload(x);
}

static void list_uploads(struct exchange *x)
{
    const char *prefix = asked(x, "prefix");
    char when[40];
    buf_add_str(&x->body, XML "<ListMultipartUploadsResult " XMLNS ">");
    server_lock();
    for (const struct upload *u = bucket_find(x->bucket)->uploads; u; u = u->next) {
        if (strncmp(u->key, prefix, strlen(prefix)))
            continue;
        buf_add_str(&x->body, "<Upload>");
        element(x, "Key", u->key);
        element(x, "UploadId", u->id);
        element(x, "Initiated", util_rfc3339(when, u->time_ms - rule_int(x, "older_ms", 0)));
        buf_add_str(&x->body, "</Upload>");
    }
    server_unlock();
    buf_add_str(&x->body, "<IsTruncated>false</IsTruncated></ListMultipartUploadsResult>");
    x->status = 200;
}

static void list_parts(struct exchange *x)
{
    server_lock();
    const struct upload *u =
        upload_find(bucket_find(x->bucket), x->key, asked(x, "uploadId"));
    buf_add_str(&x->body, XML "<ListPartsResult " XMLNS ">");
    for (size_t i = 0; u && i < u->n_parts; i++)
        buf_printf(&x->body, "<Part><PartNumber>%u</PartNumber><Size>%llu</Size></Part>",
                   u->part[i].part, (unsigned long long)u->part[i].blob->size);
    server_unlock();
    buf_add_str(&x->body, "<IsTruncated>false</IsTruncated></ListPartsResult>");
    if (u) {
        x->status = 200;
        return;
    }
    buf_free(&x->body);
    no_such_upload(x);
}

/* ---- which of them --------------------------------------------------------------------------- */

void op_run(struct exchange *x)
{
    static const struct {
        const char *verb;
        void (*run)(struct exchange *x);
    } ops[] = {
        {"PUT", op_store},      {"GET", get},           {"HEAD", get},
        {"DELETE", delete_one}, {"LIST", list},         {"DELETES", delete_many},
        {"CREATE", create},     {"PART", part},         {"COMPLETE", complete},
        {"ABORT", abort_upload}, {"UPLOADS", list_uploads}, {"PARTS", list_parts},
    };
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        if (!strcmp(ops[i].verb, x->verb)) {
            ops[i].run(x);
            return;
        }
    }
    answer_error(x, 405, "MethodNotAllowed", "The specified method is not allowed", "");
}
