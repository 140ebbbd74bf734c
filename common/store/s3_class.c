#include "common/store/s3_class.h"

#include <curl/curl.h>

#include "common/base/clk.h"

#define SKEW_MIN_MS 60000

/* The first row that fits. status 0: any, code NULL: any. */
static const struct {
    long status, last; /* last 0: status alone */
    const char *code;
    enum retry_class class;
} table[] = {
    /* the store asks for less */
    {0, 0, "SlowDown", RETRY_SLOW},
    {0, 0, "ReduceYourRequestRate", RETRY_SLOW},
    {0, 0, "ServiceUnavailable", RETRY_SLOW},
    {0, 0, "RequestLimitExceeded", RETRY_SLOW},
    {0, 0, "TooManyRequests", RETRY_SLOW},
    {0, 0, "Throttling", RETRY_SLOW},
    {0, 0, "ThrottlingException", RETRY_SLOW},
    {0, 0, "BandwidthLimitExceeded", RETRY_SLOW},
    /* it may work when signed again */
    {0, 0, "RequestTimeTooSkewed", RETRY_RESIGN},
    {0, 0, "RequestExpired", RETRY_RESIGN},
    {0, 0, "ExpiredToken", RETRY_RESIGN},
    {0, 0, "TokenRefreshRequired", RETRY_RESIGN},
    {0, 0, "InvalidToken", RETRY_RESIGN},
    {0, 0, "AuthorizationHeaderMalformed", RETRY_RESIGN},
    {0, 0, "PermanentRedirect", RETRY_RESIGN},
    {0, 0, "IllegalLocationConstraintException", RETRY_RESIGN},
    /* it passes, whatever the status says */
    {0, 0, "InternalError", RETRY_BACKOFF},
    {0, 0, "RequestTimeout", RETRY_BACKOFF},
    {0, 0, "OperationAborted", RETRY_BACKOFF},
    {0, 0, "ConditionalRequestConflict", RETRY_BACKOFF},
    {0, 0, "BadDigest", RETRY_BACKOFF},
    {0, 0, "XAmzContentSHA256Mismatch", RETRY_BACKOFF},
    {0, 0, "IncompleteBody", RETRY_BACKOFF},
    /* somebody has to do something */
    {0, 0, "NoSuchBucket", RETRY_PARK},
    {0, 0, "QuotaExceeded", RETRY_PARK},
    {0, 0, "InvalidAccessKeyId", RETRY_PARK},
    {0, 0, "InvalidBucketName", RETRY_PARK},
    /* by status alone */
    {408, 0, NULL, RETRY_BACKOFF},
    {409, 0, NULL, RETRY_BACKOFF},
    {412, 0, NULL, RETRY_CONFLICT},
    {429, 0, NULL, RETRY_SLOW},
    {503, 0, NULL, RETRY_SLOW},
    {501, 0, NULL, RETRY_BUG},
    {507, 0, NULL, RETRY_PARK},
    {500, 599, NULL, RETRY_BACKOFF},
    {300, 399, NULL, RETRY_PARK},
    {401, 0, NULL, RETRY_PARK},
    {403, 404, NULL, RETRY_PARK},
    {400, 499, NULL, RETRY_BUG},
};

/* no answer at all: what a person has to change parks, the rest passes */
static enum retry_class by_curl(int curl)
{
    switch (curl) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
        return RETRY_PARK;
    case CURLE_ABORTED_BY_CALLBACK:
        return RETRY_UNKNOWN;
    default:
        return RETRY_BACKOFF;
    }
}

enum retry_class s3_class(const struct s3_answer *a, const char *code)
{
    if (a->status < 300 && a->curl != CURLE_OK)
        return by_curl(a->curl);
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].code && strcmp(table[i].code, code))
            continue;
        if (table[i].status &&
            (a->status < table[i].status || a->status > MAX(table[i].status, table[i].last)))
            continue;
        return table[i].class;
    }
    return RETRY_BACKOFF; /* a success that is none */
}

bool s3_of_account(const char *code)
{
    static const char *const codes[] = {
        "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "ExpiredToken",
        "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed", "RequestExpired",
        "AccountProblem", "AllAccessDisabled", "AuthorizationHeaderMalformed"};
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        if (!strcmp(code, codes[i]))
            return true;
    }
    return false;
}

/* ---- learning ---------------------------------------------------------------------------------- */

static bool learn_clock(struct s3_target *t, const struct s3_answer *a)
{
    if (!a->date_ms)
        return false;
    int64_t off = a->date_ms + 500 - clk_real_ms(), change = off - t->clock_offset_ms;
    if (change < SKEW_MIN_MS && change > -SKEW_MIN_MS)
        return false;
    t->clock_offset_ms = off;
    return true;
}

/* Over plain http anybody could say where to sign for. */
static bool learn_region(struct s3_target *t, const struct s3_answer *a)
{
    const char *region = a->region[0] ? a->region : a->doc_region;
    if (!t->https || !region[0] || !strcmp(region, t->region) ||
        region[strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-")])
        return false;
    free(t->region);
    t->region = util_strdup(region);
    return true;
}

bool s3_refuses_keys(const struct s3_answer *a)
{
    bool of_clock = !strcmp(a->code, "RequestTimeTooSkewed") || !strcmp(a->code, "RequestExpired");
    bool of_region = !strcmp(a->code, "AuthorizationHeaderMalformed");
    return a->status >= 300 && !of_clock && !of_region &&
           (a->status == 401 || a->status == 403 || strstr(a->code, "Token"));
}

/* Amazon: 400 InvalidRequest, "Content-MD5 OR x-amz-checksum- HTTP header is required for Put
 * Object requests with Object Lock parameters"; MinIO: MissingContentMD5. */
bool s3_wants_digest(const struct s3_answer *a)
{
    return a->status == 400 &&
           (!strcmp(a->code, "MissingContentMD5") ||
            (!strcmp(a->code, "InvalidRequest") && a->wants_digest));
}

bool s3_is_retained(const struct s3_answer *a, const char *message)
{
    static const char *const words[] = {"object lock", "objectlock", "retention", "retained",
                                        "WORM"};
    if (a->status != 403 && a->status != 400 && a->status != 409)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcasestr(a->code, words[i]) || strcasestr(message, words[i]))
            return true;
    }
    return false;
}

bool s3_is_of_trust(const struct s3_answer *a)
{
    return a->curl == CURLE_PEER_FAILED_VERIFICATION || a->curl == CURLE_SSL_ISSUER_ERROR ||
           a->curl == CURLE_SSL_CACERT_BADFILE || a->curl == CURLE_SSL_CERTPROBLEM ||
           a->curl == CURLE_SSL_CONNECT_ERROR;
}

bool s3_learn(struct s3_target *t, const struct s3_answer *a)
{
    if (a->status < 300)
        return false;
    if (!strcmp(a->code, "RequestTimeTooSkewed") || !strcmp(a->code, "RequestExpired"))
        return learn_clock(t, a);
    if (!strcmp(a->code, "AuthorizationHeaderMalformed"))
        return learn_region(t, a);
    if (t->cred.kind != CRED_STATIC && s3_refuses_keys(a))
        t->cred.expires_ms = 1; /* whatever it said: the next request fetches new ones first */
    return false;
}
