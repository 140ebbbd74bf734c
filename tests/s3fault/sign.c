#include "tests/s3fault/sign.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <strings.h>
#include <time.h>

#include "common/base/clk.h"

#define SKEW_MS (15 * 60 * 1000)

static bool refuse(struct refusal *r, int status, const char *code, const char *message)
{
    *r = (struct refusal){.status = status, .code = code, .message = message};
    return false;
}

static void encode(struct buf *out, const char *s, bool slash)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~";
    for (; *s; s++) {
        if (strchr(plain, *s) || (slash && *s == '/'))
            buf_add(out, s, 1);
        else
            buf_printf(out, "%%%02X", (unsigned)(unsigned char)*s);
    }
}

static int by_encoded(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_query(struct buf *out, const struct request *r)
{
    char *one[16];
    for (size_t i = 0; i < r->n_query; i++) {
        cleanup_buf struct buf b = BUF_INIT;
        encode(&b, r->query[i].name, false);
        buf_add_str(&b, "=");
        encode(&b, r->query[i].value, false);
        one[i] = util_strdup(buf_str(&b));
    }
    qsort(one, r->n_query, sizeof *one, by_encoded);
    for (size_t i = 0; i < r->n_query; i++) {
        buf_printf(out, "%s%s", i ? "&" : "", one[i]);
        free(one[i]);
    }
}

/* name:value of each signed header, inner white space as one blank */
static bool add_headers(struct buf *out, const struct request *r, const char *names)
{
    cleanup_free char *copy = util_strdup(names);
    char *save = NULL;
    const char *last = "";
    bool host = false;
    for (char *n = strtok_r(copy, ";", &save); n; n = strtok_r(NULL, ";", &save)) {
        const char *v = request_header(r, n);
        if (!v || strcmp(n, last) <= 0)
            return false;
        last = n;
        host = host || !strcmp(n, "host");
        buf_printf(out, "%s:", n);
        bool blank = false, any = false;
        for (; *v; v++) {
            if (*v == ' ' || *v == '\t') {
                blank = any;
                continue;
            }
            if (blank)
                buf_add_str(out, " ");
            blank = false;
            any = true;
            buf_add(out, v, 1);
        }
        buf_add_str(out, "\n");
    }
    return host;
}

static bool all_amz_signed(const struct request *r, const char *names)
{
    cleanup_free char *list = util_printf(";%s;", names);
    for (size_t i = 0; i < r->n_headers; i++) {
        cleanup_free char *n = util_printf(";%s;", r->header[i].name);
        if (!strncasecmp(n, ";x-amz-", 7) && !strcasestr(list, n))
            return false;
    }
    return true;
}

static void sha256_hex(char out[static HEX_SHA256], const void *p, size_t n)
{
    uint8_t sum[32];
    unsigned len;
    (void)EVP_Digest(p, n, sum, &len, EVP_sha256(), NULL);
    util_hex(out, sum, sizeof sum);
}

static void sign(uint8_t out[static 32], const void *key, size_t n_key, const char *text)
{
    unsigned n;
    (void)HMAC(EVP_sha256(), key, (int)n_key, (const uint8_t *)text, strlen(text), out, &n);
}

static void signature(char out[static HEX_SHA256], const char *secret, const char *day,
                      const char *region, const char *text)
{
    uint8_t k[32], next[32];
    cleanup_free char *first = util_printf("AWS4%s", secret);
    const char *const steps[] = {day, region, "s3", "aws4_request", text};
    sign(k, first, strlen(first), steps[0]);
    for (size_t i = 1; i < ARRAY_LEN(steps); i++) {
        sign(next, k, sizeof k, steps[i]);
        memcpy(k, next, sizeof k);
    }
    util_hex(out, k, sizeof k);
}

static int64_t parse_time(const char *s)
{
    struct tm tm = {0};
    const char *end = s ? strptime(s, "%Y%m%dT%H%M%SZ", &tm) : NULL;
    return end && !*end ? (int64_t)timegm(&tm) * 1000 : 0;
}

static const struct key_pair *find_key(const char *id)
{
    for (size_t i = 0; i < server.n_keys; i++) {
        if (!strcmp(server.key[i].id, id))
            return &server.key[i];
    }
    return NULL;
}

bool sign_check(const struct request *r, struct refusal *ret)
{
    char id[128], day[16], region[64], names[1024], given[128], want[HEX_SHA256];
    const char *auth = request_header(r, "authorization");
    const char *date = request_header(r, "x-amz-date");
    const char *hash = request_header(r, "x-amz-content-sha256");
    if (!auth || !date || !hash ||
        sscanf(auth, "AWS4-HMAC-SHA256 Credential=%127[^/]/%15[^/]/%63[^/]/s3/aws4_request, "
                     "SignedHeaders=%1023[^,], Signature=%127s", id, day, region, names, given) != 5)
        return refuse(ret, 403, "AccessDenied", "no signature of version 4");
    server_lock();
    const struct key_pair *found = find_key(id);
    struct key_pair key = found ? *found : (struct key_pair){0}; /* keys are never freed */
    server_unlock();
    if (!key.id)
        return refuse(ret, 403, "InvalidAccessKeyId",
                      "The AWS Access Key Id you provided does not exist in our records.");
    const char *token = request_header(r, "x-amz-security-token");
    if (key.token && (!token || strcmp(token, key.token)))
        return refuse(ret, 403, "InvalidToken", "the token is not the one of this key");
    if (strcmp(region, server.region)) {
        (void)refuse(ret, 400, "AuthorizationHeaderMalformed", "the region is wrong");
        (void)snprintf(ret->extra, sizeof ret->extra, "<Region>%s</Region>", server.region);
        return false;
    }
    int64_t off = parse_time(date) - clk_real_ms() - server.clock_offset_ms;
    if (off > SKEW_MS || off < -SKEW_MS || strncmp(date, day, 8))
        return refuse(ret, 403, "RequestTimeTooSkewed", "the clocks differ too much");
    if (!all_amz_signed(r, names))
        return refuse(ret, 403, "AccessDenied", "an x-amz- header is not signed");

    cleanup_buf struct buf c = BUF_INIT;
    cleanup_free char *path = util_strdup(r->path);
    http_decode(path);
    buf_printf(&c, "%s\n", r->method);
    encode(&c, path, true);
    buf_add_str(&c, "\n");
    add_query(&c, r);
    buf_add_str(&c, "\n");
    if (!add_headers(&c, r, names))
        return refuse(ret, 403, "AccessDenied", "signed headers out of order, or without host");
    buf_printf(&c, "\n%s\n%s", names, hash);
    sha256_hex(want, c.p, c.len);
    cleanup_free char *text = util_printf("AWS4-HMAC-SHA256\n%s\n%s/%s/s3/aws4_request\n%s", date,
                                          day, region, want);
    signature(want, key.secret, day, region, text);
    if (strcmp(want, given))
        return refuse(ret, 403, "SignatureDoesNotMatch",
                      "The request signature we calculated does not match the signature you "
                      "provided. Check your key and signing method.");
    return true;
}

/* base64 and hex of the same? */
static bool same_sum(const char *base64, const char *hex)
{
    unsigned char raw[48];
    char text[HEX_SHA256];
    if (strlen(base64) != 44 || EVP_DecodeBlock(raw, (const unsigned char *)base64, 44) < 32)
        return false;
    util_hex(text, raw, 32);
    return !strcmp(text, hex);
}

bool sign_check_body(const struct request *r, struct refusal *ret)
{
    const char *hash = request_header(r, "x-amz-content-sha256");
    const char *md5 = request_header(r, "content-md5");
    char want[32];
    if (!hash || strcmp(hash, r->body->sha256))
        return refuse(ret, 400, "XAmzContentSHA256Mismatch", "the body is not the one signed");
    (void)EVP_EncodeBlock((uint8_t *)want, r->body->md5, 16);
    if (md5 && strcmp(md5, want))
        return refuse(ret, 400, "BadDigest", "the body is not that of Content-MD5");
    const char *sum = request_header(r, "x-amz-checksum-sha256");
    if (sum && !same_sum(sum, r->body->sha256))
        return refuse(ret, 400, "BadDigest", "the body is not that of x-amz-checksum-sha256");
    return true;
}
