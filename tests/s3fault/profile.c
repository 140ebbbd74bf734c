/* What a provider's server does not have, or wants: /_profile, as JSON. The list of its members is in DESIGN.md. */
#include "tests/s3fault/exchange.h"

#include <strings.h>

#include "common/base/clk.h"

static long long number(const char *name)
{
    return json_integer_value(json_object_get(server.profile, name));
}

const char *profile_base(void)
{
    const char *base = json_string_value(json_object_get(server.profile, "base"));
    return base ? base : "";
}

const char *profile_created(void)
{
    const char *name = json_string_value(json_object_get(server.profile, "created"));
    return name ? name : "InitiateMultipartUploadResult";
}

bool profile_misses_missing(void)
{
    return json_is_true(json_object_get(server.profile, "missing_404"));
}

/* [status, code] */
static bool refuse(struct exchange *x, const json_t *how, const char *what)
{
    cleanup_free char *text = util_printf("%s is not implemented here", what);
    int status = (int)json_integer_value(json_array_get(how, 0));
    answer_error(x, status, json_string_value(json_array_get(how, 1)), text, "");
    return true;
}

/* "x-amz-checksum-*" stands for all that begin so */
static bool has(const struct request *r, const char *name)
{
    const char *star = strchr(name, '*');
    for (size_t i = 0; i < r->n_headers; i++) {
        const char *is = r->header[i].name;
        if (star ? !strncasecmp(is, name, (size_t)(star - name)) : !strcasecmp(is, name))
            return true;
    }
    return false;
}

static bool unequal(const struct upload *u)
{
    for (size_t i = 1; u && i + 1 < u->n_parts; i++) {
        if (u->part[i].blob->size != u->part[0].blob->size)
            return true;
    }
    return u && u->n_parts > 1 && u->part[u->n_parts - 1].blob->size > u->part[0].blob->size;
}

static bool refuses_part(struct exchange *x)
{
    const char *n = request_query(&x->r, "partNumber");
    if (!number("max_parts") || !n || strtoll(n, NULL, 10) <= number("max_parts"))
        return false;
    answer_error(x, 400, "InvalidArgument", "too many parts", "");
    return true;
}

static bool refuses_parts(struct exchange *x)
{
    if (!json_is_true(json_object_get(server.profile, "equal_parts")) ||
        !unequal(upload_find(bucket_find(x->bucket), x->key, request_query(&x->r, "uploadId"))))
        return false;
    answer_error(x, 400, "InvalidPart", "All non-trailing parts must have the same length.", "");
    return true;
}

/* "rate": so many requests a second, and that many at once after a pause */
static bool too_fast(struct exchange *x)
{
    static double left, at_ms;
    double rate = (double)number("rate"), now_ms = (double)clk_mono_ms();
    if (rate <= 0)
        return false;
    left = MIN(left + (now_ms - at_ms) * rate / 1000, rate);
    at_ms = now_ms;
    if (left < 1) {
        answer_error(x, 503, "SlowDown", "Please reduce your request rate.", "");
        return true;
    }
    left -= 1;
    return false;
}

/* as a bucket with Object Lock, in Amazon's words */
static bool wants_digest(struct exchange *x)
{
    bool object = !strcmp(x->verb, "PUT") || !strcmp(x->verb, "PART");
    if (!object || !json_is_true(json_object_get(server.profile, "want_digest")) ||
        has(&x->r, "content-md5") || has(&x->r, "x-amz-checksum-*"))
        return false;
    answer_error(x, 400, "InvalidRequest",
                 "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests "
                 "with Object Lock parameters", "");
    return true;
}

static bool refuses(struct exchange *x)
{
    const char *name;
    json_t *v;
    if (wants_digest(x))
        return true;
    if (too_fast(x))
        return true;
    json_object_foreach(json_object_get(server.profile, "refuse_headers"), name, v) {
        if (has(&x->r, name))
            return refuse(x, v, name);
    }
    json_object_foreach(json_object_get(server.profile, "need_headers"), name, v) {
        const char *is = request_header(&x->r, name);
        if (!is || strcmp(is, json_string_value(v)) != 0) {
            answer_error(x, 400, "InvalidRequest", "a header is missing", "");
            return true;
        }
    }
    v = json_object_get(json_object_get(server.profile, "refuse_verbs"), x->verb);
    if (v)
        return refuse(x, v, x->verb);
    return !strcmp(x->verb, "PART") ? refuses_part(x) : !strcmp(x->verb, "COMPLETE") ? refuses_parts(x) : false;
}

bool profile_refuses(struct exchange *x)
{
    server_lock();
    bool no = server.profile && refuses(x);
    server_unlock();
    return no;
}

/* R2: so many parts of one upload at a time */
static struct upload *upload_of_part(const struct exchange *x)
{
    const char *id = strcmp(x->verb, "PART") != 0 ? NULL : request_query(&x->r, "uploadId");
    struct bucket *b = id ? bucket_find(x->bucket) : NULL;
    return b ? upload_find(b, x->key, id) : NULL;
}

bool profile_enter_part(struct exchange *x)
{
    server_lock();
    struct upload *u = upload_of_part(x);
    long long at_most = number("parallel_parts"), now = u ? ++u->under_way : 0;
    server.parts_peak = MAX(server.parts_peak, now);
    server_unlock();
    return !at_most || now <= at_most;
}

void profile_leave_part(const struct exchange *x)
{
    server_lock();
    struct upload *u = upload_of_part(x);
    if (u)
        u->under_way--;
    server_unlock();
}
