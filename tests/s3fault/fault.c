/* Rules, and what each action does to an exchange. The list of actions is in DESIGN.md. */
#include "tests/s3fault/exchange.h"

#include <regex.h>
#include <time.h>

#include "common/base/clk.h"

/* ---- rules ------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static bool fires(struct rule *r, const char *verb, const char *key)
{
    /* a connection is no request: it has to be meant */
    if ((r->verb ? strcmp(r->verb, verb) : !strcmp(verb, "CONNECT")) || (r->regex && regexec(r->regex, key, 0, NULL, 0)))
        return false;
    r->seen++;
    if (r->seen < r->nth || (r->count >= 0 && r->fired >= r->count))
        return false;
    if (r->probability < 1 &&
        (double)(next_random(&r->random) >> 11) / 9007199254740992.0 >= r->probability)
        return false;
    r->fired++;
    return true;
}

json_t *fault_match(const char *verb, const char *key)
{
    json_t *found = NULL;
    server_lock();
    for (struct rule *r = server.rules; r && !found; r = r->next) {
        if (fires(r, verb, key))
            found = json_deep_copy(r->json); /* its references are not counted atomically */
    }
    server_unlock();
    return found;
}

static void rule_free(struct rule *r)
{
    if (r->regex)
        regfree(r->regex);
    free(r->regex);
    json_decref(r->json);
    free(r);
}

static long long integer(const json_t *j, const char *name, long long otherwise)
{
    const json_t *v = json_object_get(j, name);
    return json_is_number(v) ? (long long)json_number_value(v) : otherwise;
}

static struct rule *rule_new(json_t *j, char **ret_why)
{
    static const char *const known[] = {
        "verb", "key_regex", "nth", "count", "probability", "seed", "action", "status", "code",
        "message", "body", "headers", "html", "stored", "when", "delay_ms", "location", "etag",
        "extra", "every", "older_ms", "after_ms", "reset", "bytes"};
    const char *name, *key = json_string_value(json_object_get(j, "key_regex"));
    json_t *value;
    json_object_foreach(j, name, value) {
        size_t i = 0;
        while (i < ARRAY_LEN(known) && strcmp(known[i], name))
            i++;
        if (i == ARRAY_LEN(known)) {
            *ret_why = util_printf("no rule has a \"%s\"", name);
            return NULL;
        }
    }
    struct rule *r = util_zalloc(sizeof *r);
    r->json = json_deep_copy(j);
    r->verb = json_string_value(json_object_get(r->json, "verb"));
    r->action = json_string_value(json_object_get(r->json, "action"));
    r->nth = integer(j, "nth", 1);
    r->count = integer(j, "count", -1);
    const json_t *p = json_object_get(j, "probability");
    r->probability = p ? json_number_value(p) : 1;
    r->random = (server.seed ^ (uint64_t)integer(j, "seed", 0)) * 0x9e3779b97f4a7c15u | 1;
    if (key) {
        r->regex = util_zalloc(sizeof(regex_t));
        if (regcomp(r->regex, key, REG_EXTENDED | REG_NOSUB)) {
            free(r->regex);
            r->regex = NULL;
            *ret_why = util_printf("\"%s\" is no regular expression", key);
        }
    }
    if (!r->action)
        *ret_why = util_strdup("a rule has no action");
    if (!*ret_why)
        return r;
    rule_free(r);
    return NULL;
}

bool fault_load(json_t *rules, char **ret_why)
{
    struct rule *all = NULL, **at = &all;
    size_t i;
    json_t *j;
    json_array_foreach(rules, i, j) {
        *at = rule_new(j, ret_why);
        if (!*at)
            break;
        at = &(*at)->next;
    }
    bool ok = json_is_array(rules) && !*ret_why;
    struct rule *drop = ok ? server.rules : all;
    if (ok)
        server.rules = all;
    for (struct rule *next; drop; drop = next) {
        next = drop->next;
        rule_free(drop);
    }
    return ok;
}

json_t *fault_rules(void)
{
    json_t *a = json_array();
    for (const struct rule *r = server.rules; r; r = r->next)
        (void)json_array_append_new(a, json_pack("{s:O, s:I, s:I}", "rule", r->json, "seen", r->seen,
                                                 "fired", r->fired));
    return a;
}

const char *rule_text(const struct exchange *x, const char *name, const char *otherwise)
{
    const char *v = x->rule ? json_string_value(json_object_get(x->rule, name)) : NULL;
    return v ? v : otherwise;
}

long long rule_int(const struct exchange *x, const char *name, long long otherwise)
{
    return x->rule ? integer(x->rule, name, otherwise) : otherwise;
}

static bool rule_true(const struct exchange *x, const char *name)
{
    return json_is_true(json_object_get(x->rule, name));
}

/* ---- actions ----------------------------------------------------------------------------------- */

static bool is(const struct exchange *x, const char *action)
{
    return !strcmp(x->action, action);
}

static bool at(const struct exchange *x, const char *when)
{
    return !strcmp(rule_text(x, "when", "after"), when);
}

static void rule_headers(struct exchange *x)
{
    const char *name;
    json_t *v;
    json_object_foreach(json_object_get(x->rule, "headers"), name, v) {
        if (json_is_string(v))
            answer_header(x, name, json_string_value(v));
    }
}

static void status(struct exchange *x, int otherwise)
{
    int s = (int)rule_int(x, "status", otherwise);
    const char *code = rule_text(x, "code", NULL);
    if (code) {
        answer_error(x, s, code, rule_text(x, "message", "scripted"), rule_text(x, "extra", ""));
    } else {
        x->status = s;
        buf_add_str(&x->body, rule_true(x, "html")
                                  ? "<html><head><title>Sign in</title></head><body><h1>Hotel "
                                    "network</h1></body></html>"
                                  : rule_text(x, "body", ""));
    }
    rule_headers(x);
    if (rule_true(x, "reset"))
        x->spoil = SPOIL_RESET;
}

bool fault_before(struct exchange *x)
{
    if (is(x, "drip"))
        x->c->drip_ms = (uint64_t)rule_int(x, "delay_ms", 50);
    if (is(x, "delay")) {
        long long ms = rule_int(x, "after_ms", 100);
        struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
        (void)nanosleep(&t, NULL);
    }
    if (is(x, "refuse-continue") && request_header(&x->r, "expect")) {
        x->status = 417;
        x->c->closing = true;
        exchange_send(x);
        return true;
    }
    if (is(x, "reset-before") || is(x, "reset-mid-upload")) {
        if (is(x, "reset-mid-upload"))
            (void)request_body(x->c, &x->r, x->r.length / 2);
        exchange_log(x);
        conn_reset(x->c);
        return true;
    }
    if (is(x, "stall") && (at(x, "before") || at(x, "upload"))) {
        if (at(x, "upload"))
            (void)request_body(x->c, &x->r, x->r.length / 2);
        exchange_stall(x);
        return true;
    }
    if (is(x, "early-200")) {
        x->status = 200;
        x->c->closing = true;
        answer_header(x, "ETag", "\"0\"");
        exchange_send(x);
        return true;
    }
    return false;
}

/* the answer to a PUT that S3 would give, for one that did not happen */
static void false_etag(struct exchange *x, const char *etag)
{
    char hex[33], mine[40];
    util_hex(hex, x->r.body->md5, 16);
    (void)snprintf(mine, sizeof mine, "\"%s\"", hex);
    answer_header(x, "ETag", etag ? etag : mine);
}

static void hostile(struct exchange *x)
{
    x->status = (int)rule_int(x, "status", is(x, "big-body") ? 500 : 200);
    size_t bytes = (size_t)rule_int(x, "bytes", 4 << 20);
    if (is(x, "big-header")) {
        false_etag(x, NULL);
        cleanup_free char *v = util_zalloc(4001);
        memset(v, 'x', 4000);
        for (size_t i = 0; i < bytes; i += 4000)
            answer_header(x, "X-Big", v);
    } else if (is(x, "big-body")) {
        memset(buf_reserve(&x->body, bytes), 'x', bytes);
        x->body.len += bytes;
    } else if (is(x, "big-xml")) {
        buf_add_str(&x->body, "<ListBucketResult><IsTruncated>false</IsTruncated>");
        for (size_t i = 0; i < bytes; i += 60)
            buf_add_str(&x->body, "<Contents><Key>k</Key><Size>1</Size><x></x></Contents>      ");
        buf_add_str(&x->body, "</ListBucketResult>");
    } else {
        buf_add_str(&x->body, "<?xml version=\"1.0\"?><!DOCTYPE z [<!ENTITY a \"aaaaaaaaaa\">");
        for (int i = 0; i < 12; i++) {
            buf_printf(&x->body, "<!ENTITY %c \"", 'b' + i);
            for (int k = 0; k < 10; k++)
                buf_printf(&x->body, "&%c;", 'a' + i);
            buf_add_str(&x->body, "\">");
        }
        buf_add_str(&x->body, "]><ListBucketResult><IsTruncated>false</IsTruncated>"
                              "<Name>&m;</Name></ListBucketResult>");
    }
}

static bool of(const char *action, const char *const *list)
{
    while (*list && strcmp(action, *list))
        list++;
    return *list;
}

/* done all the same, before the answer lies about it */
static void do_it(struct exchange *x)
{
    op_run(x);
    if (x->status >= 300)
        x->stored = false;
    x->status = 0;
    x->len = 0;
    buf_free(&x->headers);
    buf_free(&x->body);
    server_lock();
    object_unref(TAKE_PTR(x->object));
    server_unlock();
}

struct late {
    struct bucket *bucket;
    char *key;
    struct blob *blob;
    char **header;
    size_t n;
    long long ms;
};

static void *deliver_late(void *arg)
{
    struct late *l = arg;
    struct timespec t = {(time_t)(l->ms / 1000), (long)(l->ms % 1000) * 1000000};
    (void)nanosleep(&t, NULL);
    server_lock();
    struct segment seg = {l->blob, 0};
    struct object *o = bucket_put(l->bucket, l->key, &seg, 1, l->header, l->n);
    (void)json_array_append_new(server.ledger,
                                json_pack("{s:s, s:s, s:s, s:b, s:s, s:s, s:I, s:b}", "verb", "PUT",
                                          "bucket", l->bucket->name, "key", l->key, "stored", 1,
                                          "etag", o->etag, "sha256", o->sha256, "size",
                                          (json_int_t)o->size, "late", 1));
    server_unlock();
    headers_free(l->header, l->n);
    blob_unref(l->blob);
    free(l->key);
    free(l);
    return NULL;
}

/* an old PUT that a proxy held back arrives when nobody expects it any more, and without asking */
static void hold_back(struct exchange *x)
{
    struct late *l = util_zalloc(sizeof *l);
    pthread_t t;
    server_lock();
    l->bucket = bucket_find(x->bucket);
    server_unlock();
    l->key = util_strdup(x->key);
    l->blob = blob_ref(x->r.body);
    l->header = headers_copy(&x->r, &l->n);
    l->ms = rule_int(x, "after_ms", 500);
    if (pthread_create(&t, NULL, deliver_late, l) == 0)
        (void)pthread_detach(t);
}

bool fault_instead(struct exchange *x)
{
    static const char *const hostility[] = {"big-header", "big-body", "big-xml", "bomb", NULL};
    const char *etag = rule_text(x, "etag", NULL);
    bool told = etag || rule_true(x, "etag");
    if (rule_true(x, "stored") || is(x, "store-then") || is(x, "duplicate"))
        do_it(x);
    if (is(x, "late") || is(x, "duplicate"))
        hold_back(x);
    if (is(x, "reset-after")) {
        conn_reset(x->c);
    } else if (is(x, "stall") && at(x, "after")) {
        exchange_stall(x);
    } else if (is(x, "status") || is(x, "store-then") || is(x, "late") || is(x, "duplicate")) {
        status(x, is(x, "status") ? 503 : 500);
    } else if (is(x, "redirect")) {
        x->status = (int)rule_int(x, "status", 307);
        answer_header(x, "Location", rule_text(x, "location", "http://127.0.0.1:1/"));
        rule_headers(x);
    } else if (is(x, "no-store")) {
        x->status = 200;
        if (told)
            false_etag(x, etag);
    } else if (is(x, "error-200") || is(x, "error-listing")) {
        answer_error(x, 200, rule_text(x, "code", "InternalError"), "We had a problem.", "");
        if (told)
            false_etag(x, etag);
    } else if (is(x, "html-listing")) {
        x->status = 200;
        buf_add_str(&x->body, "<html><head><title>Sign in</title></head><body/></html>");
    } else if (is(x, "empty-listing")) {
        x->status = 200;
    } else if (is(x, "delete-marker")) {
        answer_error(x, 404, "NoSuchKey", "The specified key does not exist.", "");
        answer_header(x, "x-amz-delete-marker", "true");
    } else if (is(x, "object-lock")) {
        answer_error(x, 403, "AccessDenied",
                     "Access Denied because object protected by object lock.", "");
    } else if (of(x->action, hostility)) {
        hostile(x);
    } else {
        return false;
    }
    return true;
}

/* ---- after the answer is made ------------------------------------------------------------------ */

static void swap_entries(struct buf *b, bool twice)
{
    char *first = strstr((char *)(uintptr_t)buf_str(b), "<Contents>");
    char *second = first ? strstr(first + 1, "<Contents>") : NULL;
    const char *end = second ? strstr(second, "</Contents>") : NULL;
    if (!end)
        return;
    end += strlen("</Contents>");
    cleanup_buf struct buf out = BUF_INIT;
    buf_add(&out, b->p, (size_t)((uint8_t *)first - b->p));
    buf_add(&out, twice ? first : second, (size_t)(twice ? second - first : end - second));
    buf_add(&out, first, (size_t)(second - first));
    buf_add_str(&out, twice ? second : end);
    buf_free(b);
    *b = out;
    out = (struct buf)BUF_INIT;
}

void fault_after(struct exchange *x)
{
    static const struct {
        const char *action;
        enum spoil spoil;
    } spoils[] = {{"truncate", SPOIL_CUT},       {"truncate-honest", SPOIL_CUT_HONEST},
                  {"reset-answer", SPOIL_RESET}, {"stall-body", SPOIL_STALL},
                  {"no-length", SPOIL_NO_LENGTH}, {"bad-chunk", SPOIL_BAD_CHUNK},
                  {"corrupt", SPOIL_CORRUPT},    {"more", SPOIL_MORE}};
    for (size_t i = 0; i < ARRAY_LEN(spoils); i++) {
        if (is(x, spoils[i].action))
            x->spoil = spoils[i].spoil;
    }
    if (x->spoil != SPOIL_NOT && !x->body.len && !x->object) /* there must be something to spoil */
        buf_add_str(&x->body, "<?xml version=\"1.0\"?><Result></Result>");
    if (is(x, "cut-listing") && x->body.len)
        x->body.len = x->body.len * 2 / 3;
    if (is(x, "disorder") || is(x, "duplicate-keys"))
        swap_entries(&x->body, is(x, "duplicate-keys"));
    if (is(x, "wrong-etag")) {
        buf_free(&x->headers);
        answer_header(x, "ETag", rule_text(x, "etag", "\"00000000000000000000000000000000\""));
    }
}
