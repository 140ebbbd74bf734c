#include "common/format/sigv4.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <time.h>

#define ALGORITHM "AWS4-HMAC-SHA256"
#define HASH_BYTES 32

struct text {
    char *name, *value;
};

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 'a' - 'A') : c;
}

void sigv4_encode(struct buf *out, const char *s, bool keep_slash)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        bool plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '.' || c == '_' || c == '~' || (c == '/' && keep_slash);
        if (plain)
            buf_add(out, s, 1);
        else
            buf_printf(out, "%%%02X", c);
    }
}

static int by_name_then_value(const void *a, const void *b)
{
    const struct text *x = a, *y = b;
    int r = strcmp(x->name, y->name);
    return r ? r : strcmp(x->value, y->value);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct text *)a)->name, ((const struct text *)b)->name);
}

static void free_texts(struct text *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(t[i].name);
        free(t[i].value);
    }
    free(t);
}

static char *encoded(const char *s)
{
    cleanup_buf struct buf b = BUF_INIT;
    sigv4_encode(&b, s, false);
    return util_strdup(buf_str(&b));
}

void sigv4_query(struct buf *out, const struct sigv4_pair *query, size_t n)
{
    struct text *t = util_zalloc((n + 1) * sizeof *t);
    for (size_t i = 0; i < n; i++)
        t[i] = (struct text){encoded(query[i].name), encoded(query[i].value)};
    qsort(t, n, sizeof *t, by_name_then_value);
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%s%s=%s", i ? "&" : "", t[i].name, t[i].value);
    free_texts(t, n);
}

/* lower-case name; value without blanks at the ends and with runs of blanks made one */
static struct text header_text(const struct sigv4_pair *h)
{
    struct text t = {util_strdup(h->name), util_strdup(h->value)};
    for (char *p = t.name; *p; p++)
        *p = lower(*p);
    char *to = t.value;
    for (const char *p = t.value; *p; p++) {
        bool blank = *p == ' ' || *p == '\t';
        if (!blank)
            *to++ = *p;
        else if (to > t.value && to[-1] != ' ')
            *to++ = ' ';
    }
    if (to > t.value && to[-1] == ' ')
        to--;
    *to = '\0';
    return t;
}

static struct text *sorted_headers(const struct sigv4_request *r)
{
    struct text *t = util_zalloc((r->n_headers + 1) * sizeof *t);
    for (size_t i = 0; i < r->n_headers; i++)
        t[i] = header_text(&r->header[i]);
    qsort(t, r->n_headers, sizeof *t, by_name);
    return t;
}

static void signed_headers(struct buf *out, const struct text *t, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%s%s", i ? ";" : "", t[i].name);
}

void sigv4_canonical(struct buf *out, const struct sigv4_request *r)
{
    struct text *t = sorted_headers(r);
    buf_printf(out, "%s\n%s\n", r->method, r->path);
    sigv4_query(out, r->query, r->n_query);
    buf_add_str(out, "\n");
    for (size_t i = 0; i < r->n_headers; i++)
        buf_printf(out, "%s:%s\n", t[i].name, t[i].value);
    buf_add_str(out, "\n");
    signed_headers(out, t, r->n_headers);
    buf_printf(out, "\n%s", r->payload_hash);
    free_texts(t, r->n_headers);
}

void sigv4_hash(char out[static SIGV4_HASH_SIZE], const void *p, size_t n)
{
    uint8_t md[HASH_BYTES] = {0};
    (void)EVP_Digest(p, n, md, NULL, EVP_sha256(), NULL);
    util_hex(out, md, sizeof md);
}

static void scope(struct buf *out, const struct sigv4_request *r)
{
    buf_printf(out, "%.8s/%s/%s/aws4_request", r->date, r->region, r->service);
}

void sigv4_string_to_sign(struct buf *out, const struct sigv4_request *r)
{
    cleanup_buf struct buf canonical = BUF_INIT;
    char hash[SIGV4_HASH_SIZE];
    sigv4_canonical(&canonical, r);
    sigv4_hash(hash, canonical.p, canonical.len);
    buf_printf(out, ALGORITHM "\n%s\n", r->date);
    scope(out, r);
    buf_printf(out, "\n%s", hash);
}

static void hmac(uint8_t out[static HASH_BYTES], const void *key, size_t n_key, const void *p,
                 size_t n)
{
    unsigned len = HASH_BYTES;
    (void)HMAC(EVP_sha256(), key, (int)n_key, p, n, out, &len);
}

void sigv4_signature(char out[static SIGV4_HASH_SIZE], const struct sigv4_request *r,
                     const char *secret)
{
    cleanup_buf struct buf sts = BUF_INIT;
    uint8_t k[HASH_BYTES] = {0};
    size_t n = 4 + strlen(secret);
    char *first = util_alloc(n + 1);
    (void)snprintf(first, n + 1, "AWS4%s", secret);
    sigv4_string_to_sign(&sts, r);
    hmac(k, first, n, r->date, 8);
    hmac(k, k, sizeof k, r->region, strlen(r->region));
    hmac(k, k, sizeof k, r->service, strlen(r->service));
    hmac(k, k, sizeof k, "aws4_request", strlen("aws4_request"));
    hmac(k, k, sizeof k, sts.p, sts.len);
    util_hex(out, k, sizeof k);
    explicit_bzero(first, n);
    explicit_bzero(k, sizeof k);
    free(first);
}

void sigv4_authorization(struct buf *out, const struct sigv4_request *r, const char *key_id,
                         const char *secret)
{
    char signature[SIGV4_HASH_SIZE];
    sigv4_signature(signature, r, secret);
    buf_printf(out, ALGORITHM " Credential=%s/", key_id);
    scope(out, r);
    buf_add_str(out, ", SignedHeaders=");
    struct text *t = sorted_headers(r);
    signed_headers(out, t, r->n_headers);
    free_texts(t, r->n_headers);
    buf_printf(out, ", Signature=%s", signature);
}

void sigv4_date(char out[static SIGV4_DATE_SIZE], int64_t ms)
{
    time_t t = (time_t)(ms / 1000);
    struct tm tm = {0};
    (void)gmtime_r(&t, &tm);
    if (!strftime(out, SIGV4_DATE_SIZE, "%Y%m%dT%H%M%SZ", &tm))
        out[0] = '\0'; /* a year of five digits */
}
