/* What tests ask for, without a signature: below /_ and answered in JSON. */
#include "tests/s3fault/exchange.h"

#include "common/base/clk.h"

static json_t *objects(void)
{
    json_t *a = json_array();
    for (const struct bucket *b = server.buckets; b; b = b->next) {
        for (size_t i = 0; i < b->n; i++) {
            const struct object *o = b->object[i];
            json_t *h = json_array();
            for (size_t k = 0; k < o->n_headers; k++)
                (void)json_array_append_new(h, json_string(o->header[k]));
            (void)json_array_append_new(
                a, json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:o}", "bucket", b->name, "key",
                             o->key, "size", (json_int_t)o->size, "etag", o->etag, "sha256",
                             o->sha256, "time_ms", (json_int_t)o->time_ms, "headers", h));
        }
    }
    return a;
}

static json_t *uploads(void)
{
    json_t *a = json_array();
    for (const struct bucket *b = server.buckets; b; b = b->next) {
        for (const struct upload *u = b->uploads; u; u = u->next)
            (void)json_array_append_new(a, json_pack("{s:s, s:s, s:I}", "key", u->key, "id", u->id,
                                                     "parts", (json_int_t)u->n_parts));
    }
    return a;
}

static json_t *stats(void)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "connections", (json_int_t)server.connections,
                     "tls_failures", (json_int_t)server.tls_failures, "requests",
                     (json_int_t)server.requests, "peak", (json_int_t)server.peak,
                     "parts_peak", (json_int_t)server.parts_peak);
}

/* how many requests of each verb had which outcome: {"PUT": {"200": 3, "503": 1}} */
static json_t *counts(void)
{
    json_t *all = json_object(), *j;
    size_t i;
    json_array_foreach(server.ledger, i, j) {
        char status[24];
        const char *verb = json_string_value(json_object_get(j, "verb"));
        json_t *of = json_object_get(all, verb);
        if (!of) {
            of = json_object();
            (void)json_object_set_new(all, verb, of);
        }
        (void)snprintf(status, sizeof status, "%lld",
                       json_integer_value(json_object_get(j, "status")));
        json_int_t n = json_integer_value(json_object_get(of, status));
        (void)json_object_set_new(of, status, json_integer(n + 1));
    }
    return all;
}

static json_t *keys(json_t *list)
{
    size_t i;
    json_t *j;
    server.n_keys = 0;
    json_array_foreach(list, i, j) {
        char *text = json_is_string(j) ? util_strdup(json_string_value(j)) : NULL;
        if (!text || server.n_keys == ARRAY_LEN(server.key)) {
            free(text);
            break;
        }
        struct key_pair *k = &server.key[server.n_keys++];
        *k = (struct key_pair){.id = strsep(&text, ":")};
        k->secret = strsep(&text, ":");
        k->token = text;
    }
    return json_object();
}

static json_t *set_clock(const json_t *in)
{
    server.clock_offset_ms = (int64_t)json_integer_value(json_object_get(in, "offset_ms"));
    return json_object();
}

static json_t *set_profile(json_t *in)
{
    json_decref(server.profile);
    server.profile = json_incref(in);
    const char *region = json_string_value(json_object_get(in, "region"));
    if (region)
        server.region = region;
    return json_object();
}

static json_t *faults(json_t *rules, char **ret_why)
{
    return fault_load(rules, ret_why) ? json_object() : NULL;
}

static json_t *reset(void)
{
    char *why = NULL;
    json_t *none = json_array();
    (void)fault_load(none, &why);
    json_decref(none);
    (void)json_array_clear(server.ledger);
    server.peak = server.active;
    server.requests = 0;
    return json_object();
}

void control(struct exchange *x)
{
    cleanup_free char *why = NULL;
    json_t *in = NULL, *out = NULL;
    if (!request_body(x->c, &x->r, UINT64_MAX) || x->r.body->size > 1u << 20)
        return;
    if (x->r.body->size) {
        in = json_loadb((char *)x->r.body->mem, (size_t)x->r.body->size, 0, NULL);
        if (!in)
            why = util_strdup("the body is not JSON");
    }
    const char *what = x->r.path;
    server_lock();
    if (why)
        ;
    else if (!strcmp(what, "/_faults"))
        out = in ? faults(in, &why) : fault_rules();
    else if (!strcmp(what, "/_reset"))
        out = reset();
    else if (!strcmp(what, "/_ledger"))
        out = json_incref(server.ledger);
    else if (!strcmp(what, "/_objects"))
        out = objects();
    else if (!strcmp(what, "/_uploads"))
        out = uploads();
    else if (!strcmp(what, "/_counts"))
        out = counts();
    else if (!strcmp(what, "/_keys") && in)
        out = keys(in);
    else if (!strcmp(what, "/_profile"))
        out = set_profile(in);
    else if (!strcmp(what, "/_clock"))
        out = set_clock(in);
    else
        out = stats();
    cleanup_free char *text = out ? json_dumps(out, JSON_COMPACT) : util_strdup(why ? why : "no");
    json_decref(out);
    server_unlock();
    json_decref(in);
    x->logged = true;
    x->status = out ? 200 : 400;
    buf_add_str(&x->body, text);
    answer_header(x, "Content-Type", "application/json");
    exchange_send(x);
    buf_free(&x->body);
    buf_free(&x->headers);
}
