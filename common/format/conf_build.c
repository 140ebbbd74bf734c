#include "common/format/conf_int.h"

#include <arpa/inet.h>
#include <ctype.h>

#include "common/format/name.h"
#include "common/format/near.h"

static const char *text_of(const struct conf_section *s, enum conf_key_id key)
{
    const struct conf_value *v = conf_get(s, key);
    return v && !v->bad ? v->text : NULL;
}

static char *dup_of(const struct conf_section *s, enum conf_key_id key)
{
    const char *t = text_of(s, key);
    return t ? util_strdup(t) : conf_key[key].dflt[0] ? util_strdup(conf_key[key].dflt) : NULL;
}

static struct secret *secret_of(const struct conf_section *s, enum conf_key_id key)
{
    return secret_text(text_of(s, key));
}

static uint64_t num_of(const struct conf_section *s, enum conf_key_id key)
{
    const struct conf_value *v = conf_get(s, key);
    return v && !v->bad ? v->num : conf_default(key);
}

/* ---- sections by name ----------------------------------------------------------------------- */

static int by_name(const void *pa, const void *pb)
{
    const struct conf_section *a = *(struct conf_section *const *)pa;
    const struct conf_section *b = *(struct conf_section *const *)pb;
    return a->kind != b->kind ? (int)a->kind - (int)b->kind : strcmp(a->name, b->name);
}

static void sort_sections(struct conf_ctx *x)
{
    struct conf_raw *raw = x->c->raw;
    raw->sorted = util_alloc(raw->n * sizeof(struct conf_section *));
    if (raw->n)
        memcpy(raw->sorted, raw->section, raw->n * sizeof(struct conf_section *));
    qsort(raw->sorted, raw->n, sizeof(struct conf_section *), by_name);
    for (size_t i = 1; i < raw->n; i++) {
        struct conf_section *a = raw->sorted[i - 1], *b = raw->sorted[i];
        if (a->kind != b->kind || strcmp(a->name, b->name) != 0)
            continue;
        bool swap = a->origin.file == b->origin.file && a->origin.line > b->origin.line;
        const struct conf_origin *first = swap ? &b->origin : &a->origin;
        conf_problem(x, swap ? &a->origin : &b->origin, "merge the two",
                     "duplicate section [%s%s%s], first at %s:%u", conf_kind_name[a->kind],
                     *a->name ? " " : "", a->name, first->file, first->line);
    }
}

struct conf_section *conf_section_find(const struct conf_raw *raw, enum conf_kind kind,
                                       const char *name)
{
    size_t lo = 0, hi = raw->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        struct conf_section *s = raw->sorted[mid];
        int d = s->kind != kind ? (int)s->kind - (int)kind : strcmp(s->name, name);
        if (d == 0)
            return s;
        if (d < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

uint64_t conf_effective(const struct conf_raw *raw, const struct conf_section *replica,
                        const struct conf_section *db, const char *key,
                        struct conf_origin *ret_origin)
{
    const struct conf_section *from[] = {replica, db, conf_section_find(raw, CONF_WALSUP, "")};
    for (size_t i = 0; i < ARRAY_LEN(from); i++)
        for (size_t j = 0; from[i] && j < from[i]->n; j++) {
            const struct conf_value *v = &from[i]->value[j];
            if (v->bad || strcmp(conf_key[v->key].name, key) != 0)
                continue;
            if (ret_origin)
                *ret_origin = v->origin;
            return v->num;
        }
    if (ret_origin)
        *ret_origin = (struct conf_origin){NULL, 0};
    for (size_t k = 0; k < CONF_KEYS; k++)
        if (conf_key[k].kind == CONF_WALSUP && !strcmp(conf_key[k].name, key))
            return conf_default((enum conf_key_id)k);
    return 0;
}

/* ---- [walsup] ------------------------------------------------------------------------------- */

/* 192.0.2.1:9629 or [2001:db8::1]:9629; a bare port would be open to everybody without saying so */
static bool is_address(const char *text)
{
    const char *colon = strrchr(text, ':');
    char host[64], *end;
    struct in6_addr ip;
    size_t n = colon ? (size_t)(colon - text) : 0;
    bool six = n > 2 && text[0] == '[' && text[n - 1] == ']';
    if (n == 0 || n >= sizeof host || colon[1] < '1' || colon[1] > '9')
        return false;
    (void)snprintf(host, sizeof host, "%.*s", (int)(six ? n - 2 : n), text + six);
    unsigned long port = strtoul(colon + 1, &end, 10);
    return !*end && port <= 65535 && inet_pton(six ? AF_INET6 : AF_INET, host, &ip) == 1;
}

static void build_daemon(struct conf_ctx *x)
{
    struct conf *c = x->c;
    const struct conf_section *s = conf_section_find(c->raw, CONF_WALSUP, "");
    c->state_dir = dup_of(s, CONF_WALSUP_state_dir);
    c->socket = dup_of(s, CONF_WALSUP_socket);
    c->landlock = num_of(s, CONF_WALSUP_landlock) == 0;
    c->log_requests = num_of(s, CONF_WALSUP_log_requests) != 0;
    if (conf_get(s, CONF_WALSUP_include)) /* else it is known where they are by default */
        c->include = dup_of(s, CONF_WALSUP_include);
    c->log_level = dup_of(s, CONF_WALSUP_log_level);
    c->workers = (uint32_t)num_of(s, CONF_WALSUP_workers);
    c->scan_interval_ms = num_of(s, CONF_WALSUP_scan_interval);
    c->idle_timeout_ms = num_of(s, CONF_WALSUP_idle_timeout);
    c->copy_wait_ms = num_of(s, CONF_WALSUP_copy_wait);
    c->max_open = (uint32_t)num_of(s, CONF_WALSUP_max_open);
    c->min_free_bytes = num_of(s, CONF_WALSUP_min_free);
    c->shutdown_timeout_ms = num_of(s, CONF_WALSUP_shutdown_timeout);
    c->metrics_listen = dup_of(s, CONF_WALSUP_metrics_listen);
    c->on_state_change = dup_of(s, CONF_WALSUP_on_state_change);
    c->hook_timeout_ms = num_of(s, CONF_WALSUP_hook_timeout);
    if (c->metrics_listen && !is_address(c->metrics_listen))
        conf_problem(x, &conf_get(s, CONF_WALSUP_metrics_listen)->origin, "write 127.0.0.1:9629, or [::]:9629 for every address",
                     "'%.100s' is no address in digits with a port", c->metrics_listen);
    if (strlen(c->socket) > 107)
        conf_problem(x, &conf_get(s, CONF_WALSUP_socket)->origin,
                     "the kernel allows 107: choose a shorter path",
                     "socket is %zu bytes long", strlen(c->socket));
}

/* ---- [target] ------------------------------------------------------------------------------- */

static void problem_err(struct conf_ctx *x, const struct conf_origin *o, const struct err *e)
{
    conf_problem(x, o, e->hint, "%s", e->msg);
}

static const struct conf_origin *origin_of(const struct conf_section *s, enum conf_key_id key)
{
    const struct conf_value *v = conf_get(s, key);
    return v ? &v->origin : &s->origin;
}

/* url and the keys it stands for; what is missing in u comes from the keys */
static bool merge_url(struct conf_ctx *x, const struct conf_section *s, struct conf_url *u,
                      bool *ret_has_type)
{
    const struct conf_value *v = conf_get(s, CONF_TARGET_url);
    const struct conf_value *type = conf_get(s, CONF_TARGET_type);
    struct err e = {0};
    *ret_has_type = type && !type->bad;
    if (type && !type->bad)
        u->type = (enum conf_target_type)type->num;
    if (type && type->bad && !v)
        return false;
    if (!v) {
        if (!type) {
            conf_problem(x, &s->origin, "add type = s3 or type = file",
                         "[target %s] has no type", s->name);
            return false;
        }
        return true;
    }
    enum conf_target_type wanted = u->type;
    if (v->bad)
        return false;
    if (conf_url_split(v->text, u, &e) < 0) {
        problem_err(x, &v->origin, &e);
        return false;
    }
    if (*ret_has_type && wanted != u->type) {
        conf_problem(x, &type->origin, "remove the line",
                     "type and url contradict each other");
        return false;
    }
    *ret_has_type = true;
    const struct {
        enum conf_key_id key;
        const char *in_url;
    } both[] = {{CONF_TARGET_bucket, u->bucket},     {CONF_TARGET_path, u->path},
                {CONF_TARGET_endpoint, u->endpoint}, {CONF_TARGET_region, u->region},
                {CONF_TARGET_addressing, u->addressing}, {CONF_TARGET_skip_verify, u->skip_verify},
                {CONF_TARGET_ca_file, u->ca_file},   {CONF_TARGET_profile, u->profile}};
    for (size_t i = 0; i < ARRAY_LEN(both); i++)
        if (both[i].in_url && conf_get(s, both[i].key))
            conf_problem(x, origin_of(s, both[i].key), "remove one of them",
                         "%s is given here and by url", conf_key[both[i].key].name);
    return true;
}

static void take_text(char **to, const struct conf_section *s, enum conf_key_id key)
{
    if (!*to)
        *to = dup_of(s, key);
}

static void build_file_target(struct conf_ctx *x, const struct conf_section *s,
                              struct conf_target *t)
{
    struct err e = {0};
    for (size_t i = 0; i < s->n; i++)
        if (conf_key[s->value[i].key].flags & CONF_S3ONLY)
            conf_problem(x, &s->value[i].origin, "remove the line",
                         "%s has no meaning for a target of type file",
                         conf_key[s->value[i].key].name);
    if (!t->path) {
        if (!conf_get(s, CONF_TARGET_path))
            conf_problem(x, &s->origin, "add path = /DIRECTORY", "[target %s] has no path",
                         s->name);
        t->path = util_strdup("");
        return;
    }
    char *clean = conf_path_clean(t->path, &e);
    const struct conf_origin *o =
        origin_of(s, conf_get(s, CONF_TARGET_path) ? CONF_TARGET_path : CONF_TARGET_url);
    if (!clean) {
        (void)err_wrap(&e, "path = %s", t->path);
        problem_err(x, o, &e);
        return;
    }
    free(t->path);
    t->path = clean;
    if (!strcmp(clean, "/"))
        conf_problem(x, o, "name a directory below it", "path = / cannot hold replicas");
}

static void check_keys(struct conf_ctx *x, const struct conf_section *s)
{
    bool id = conf_get(s, CONF_TARGET_access_key_id);
    bool secret = conf_get(s, CONF_TARGET_secret_access_key);
    bool file = conf_get(s, CONF_TARGET_secret_access_key_file);
    if (secret && file)
        conf_problem(x, origin_of(s, CONF_TARGET_secret_access_key), "keep one of them",
                     "secret-access-key and secret-access-key-file are both given");
    if (id && !secret && !file)
        conf_problem(x, origin_of(s, CONF_TARGET_access_key_id),
                     "add secret-access-key-file = FILE",
                     "access-key-id is given without its secret");
    if (!id && (secret || file))
        conf_problem(x, origin_of(s, secret ? CONF_TARGET_secret_access_key
                                            : CONF_TARGET_secret_access_key_file),
                     "add access-key-id", "the secret is given without access-key-id");
}

static void check_words(struct conf_ctx *x, const struct conf_section *s)
{
    static const enum conf_key_id word[] = {CONF_TARGET_region, CONF_TARGET_access_key_id,
                                            CONF_TARGET_storage_class, CONF_TARGET_session_token,
                                            CONF_TARGET_sse_kms_key_id,
                                            CONF_TARGET_secret_access_key};
    for (size_t i = 0; i < ARRAY_LEN(word); i++) {
        const char *t = text_of(s, word[i]);
        bool plain = true;
        for (; t && *t; t++)
            plain = plain && *t > ' ' && *t < 0x7f;
        if (!plain)
            conf_problem(x, origin_of(s, word[i]), "no spaces, only printable ASCII",
                         "%s has a character that it cannot have", conf_key[word[i]].name);
    }
}

/* the endpoint names its bucket already: every request would name it twice */
static bool bucket_in_endpoint(const char *endpoint, const char *bucket)
{
    const char *host = strstr(endpoint, "://") + 3;
    size_t n = strlen(bucket);
    return !strncmp(host, bucket, n) && !strncmp(host + n, ".s3", 3);
}

/* The key goes with every request: so never in the clear, unless it stays on this machine. */
static void build_customer_key(struct conf_ctx *x, const struct conf_section *s, struct conf_target *t)
{
    t->sse_customer_key_file = dup_of(s, CONF_TARGET_sse_customer_key_file);
    if (t->sse_customer_key_file && t->sse != CONF_SSE_C)
        conf_problem(x, origin_of(s, CONF_TARGET_sse_customer_key_file), "add sse = C",
                     "sse-customer-key-file is given without sse = C");
    if (t->sse != CONF_SSE_C)
        return;
    if (!t->sse_customer_key_file)
        conf_problem(x, origin_of(s, CONF_TARGET_sse), "add sse-customer-key-file = FILE", "sse = C has no key");
    if (t->endpoint && !strncmp(t->endpoint, "http://", 7) && !conf_host_is_local(t->endpoint + 7))
        conf_problem(x, origin_of(s, CONF_TARGET_sse), "write endpoint = https://...",
                     "sse = C over plain http would show the key to everybody in between");
}

static void build_s3_target(struct conf_ctx *x, const struct conf_section *s,
                            struct conf_target *t, struct conf_url *u)
{
    struct err e = {0};
    bool from_url = conf_get(s, CONF_TARGET_url) != NULL;
    const struct conf_origin *url_at = origin_of(s, CONF_TARGET_url);
    uint64_t addressing = num_of(s, CONF_TARGET_addressing);
    uint64_t skip = num_of(s, CONF_TARGET_skip_verify);
    t->region = TAKE_PTR(u->region);
    take_text(&t->region, s, CONF_TARGET_region);
    t->ca_file = TAKE_PTR(u->ca_file);
    take_text(&t->ca_file, s, CONF_TARGET_ca_file);
    t->profile = TAKE_PTR(u->profile);
    take_text(&t->profile, s, CONF_TARGET_profile);
    if (u->addressing &&
        conf_number(&conf_key[CONF_TARGET_addressing], u->addressing, &addressing, &e) < 0)
        problem_err(x, url_at, &e);
    if (u->skip_verify &&
        conf_number(&conf_key[CONF_TARGET_skip_verify], u->skip_verify, &skip, &e) < 0)
        problem_err(x, url_at, &e);
    const char *endpoint = u->endpoint ? u->endpoint : text_of(s, CONF_TARGET_endpoint);
    bool endpoint_set = u->endpoint || conf_get(s, CONF_TARGET_endpoint);
    const struct conf_origin *endpoint_at =
        u->endpoint ? url_at : origin_of(s, CONF_TARGET_endpoint);
    if (endpoint && !(t->endpoint = conf_endpoint_clean(endpoint, &e)))
        problem_err(x, endpoint_at, &e);
    if (!t->endpoint)
        t->endpoint = conf_endpoint_aws(t->region);
    const struct conf_origin *path_at = origin_of(s, from_url ? CONF_TARGET_url : CONF_TARGET_path);
    const char *given = t->path ? t->path : "";
    if (!t->bucket && !conf_get(s, CONF_TARGET_bucket))
        conf_problem(x, &s->origin, "add bucket = NAME", "[target %s] has no bucket", s->name);
    else if (!t->bucket)
        /* what is wrong with it was reported */;
    else if (conf_bucket_check(t->bucket, given, t->region, endpoint_set,
                               from_url && !conf_get(s, CONF_TARGET_bucket), &e) < 0)
        problem_err(x, origin_of(s, conf_get(s, CONF_TARGET_bucket) ? CONF_TARGET_bucket
                                                                    : CONF_TARGET_url), &e);
    else if (endpoint_set && bucket_in_endpoint(t->endpoint, t->bucket)) {
        char hint[400];
        (void)snprintf(hint, sizeof hint, "write endpoint = https://%.300s",
                       strstr(t->endpoint, "://") + 3 + strlen(t->bucket) + 1);
        conf_problem(x, endpoint_at, hint, "endpoint = %s contains the bucket's name", t->endpoint);
    }
    char *clean = conf_prefix_clean(given, &e);
    if (!clean) {
        (void)err_wrap(&e, "path = %s", given);
        problem_err(x, path_at, &e);
        clean = util_strdup("");
    }
    free(t->path);
    t->path = clean;
    t->addressing = conf_addressing_resolve((enum conf_addressing)addressing, endpoint_set,
                                            t->bucket ? t->bucket : "");
    t->skip_verify = skip != 0;
    t->access_key_id = dup_of(s, CONF_TARGET_access_key_id);
    t->secret_access_key = secret_of(s, CONF_TARGET_secret_access_key);
    t->secret_access_key_file = dup_of(s, CONF_TARGET_secret_access_key_file);
    t->session_token = secret_of(s, CONF_TARGET_session_token);
    t->credentials_file = dup_of(s, CONF_TARGET_credentials_file);
    t->credential_process = dup_of(s, CONF_TARGET_credential_process);
    t->instance_role = num_of(s, CONF_TARGET_instance_role) != 0;
    if (t->credential_process && conf_get(s, CONF_TARGET_access_key_id))
        conf_problem(x, origin_of(s, CONF_TARGET_credential_process), "keep one of them",
                     "credential-process and access-key-id are both given");
    t->ca_path = dup_of(s, CONF_TARGET_ca_path);
    t->client_certificate = dup_of(s, CONF_TARGET_client_certificate);
    t->client_key = dup_of(s, CONF_TARGET_client_key);
    if (t->client_key && !t->client_certificate)
        conf_problem(x, origin_of(s, CONF_TARGET_client_key), "add client-certificate",
                     "client-key is given without client-certificate");
    t->sse = (enum conf_sse)num_of(s, CONF_TARGET_sse);
    t->sse_kms_key_id = dup_of(s, CONF_TARGET_sse_kms_key_id);
    if (t->sse_kms_key_id && t->sse != CONF_SSE_KMS)
        conf_problem(x, origin_of(s, CONF_TARGET_sse_kms_key_id), "add sse = aws:kms",
                     "sse-kms-key-id is given without sse = aws:kms");
    build_customer_key(x, s, t);
    t->provider = (enum conf_provider)num_of(s, CONF_TARGET_provider);
    t->storage_class = dup_of(s, CONF_TARGET_storage_class);
    t->bandwidth_limit_bytes = num_of(s, CONF_TARGET_bandwidth_limit);
    check_keys(x, s);
    check_words(x, s);
}

static void build_target(struct conf_ctx *x, const struct conf_section *s)
{
    struct conf *c = x->c;
    struct conf_url u = {0};
    struct conf_target *t = &c->target[c->n_targets++];
    bool has_type;
    *t = (struct conf_target){.name = util_strdup(s->name), .origin = s->origin};
    t->max_connections = (uint32_t)num_of(s, CONF_TARGET_max_connections);
    t->ltx_encoding = (enum ltx_encoding)num_of(s, CONF_TARGET_ltx_encoding);
    if (merge_url(x, s, &u, &has_type)) {
        t->type = u.type;
        t->path = TAKE_PTR(u.path);
        t->bucket = TAKE_PTR(u.bucket);
        take_text(&t->path, s, CONF_TARGET_path);
        t->may_delete = num_of(s, CONF_TARGET_delete) != 0;
        if (t->type == CONF_FILE) {
            build_file_target(x, s, t);
        } else {
            take_text(&t->bucket, s, CONF_TARGET_bucket);
            build_s3_target(x, s, t, &u);
        }
    }
    conf_url_done(&u);
}

/* ---- [db] and [replica] --------------------------------------------------------------------- */

static void unknown_target(struct conf_ctx *x, const struct conf_origin *o, const char *name)
{
    char hint[128] = "add a section [target NAME]";
    for (size_t i = 0; i < x->c->n_targets; i++)
        if (near_enough(name, near_distance(name, x->c->target[i].name)))
            (void)snprintf(hint, sizeof hint, "did you mean %s?", x->c->target[i].name);
    conf_problem(x, o, hint, "there is no target '%.64s'", name);
}

static void add_replica(struct conf_ctx *x, struct conf_db *d, const struct conf_section *s,
                        const char *target)
{
    struct conf *c = x->c;
    const struct conf_origin *o = origin_of(s, CONF_DB_target);
    struct conf_replica r = {0};
    while (r.target < c->n_targets && strcmp(c->target[r.target].name, target) != 0)
        r.target++;
    if (r.target == c->n_targets) {
        unknown_target(x, o, target);
        return;
    }
    for (size_t i = 0; i < d->n_replicas; i++)
        if (d->replica[i].target == r.target) {
            conf_problem(x, o, "name it once", "target '%s' appears twice", target);
            return;
        }
    cleanup_free char *title = util_printf("%s@%s", s->name, target);
    const struct conf_section *over = conf_section_find(c->raw, CONF_REPLICA, title);
    const char *path = text_of(over, CONF_REPLICA_path);
    struct err e = {0};
    r.sync_interval_ms = conf_effective(c->raw, over, s, "sync-interval", NULL);
    r.path = path                ? conf_prefix_clean(path, &e)
             : d->name_template ? util_strdup(d->name_template)
                                : util_strdup(s->name);
    if (r.path && path && d->name_template && name_check(r.path, &e) < 0)
        free(TAKE_PTR(r.path));
    if (r.path && !*r.path) {
        (void)err_set(&e, ERR_CONFIG, "it is empty");
        free(TAKE_PTR(r.path));
    }
    if (!r.path) {
        (void)err_wrap(&e, "path = %s", path);
        problem_err(x, origin_of(over, CONF_REPLICA_path), &e);
        r.path = util_strdup(d->name_template ? d->name_template : s->name);
    }
    d->replica = util_realloc(d->replica, (d->n_replicas + 1) * sizeof *d->replica);
    d->replica[d->n_replicas++] = r;
}

static void build_replicas(struct conf_ctx *x, struct conf_db *d, const struct conf_section *s)
{
    const char *list = text_of(s, CONF_DB_target);
    if (!list) {
        if (!conf_get(s, CONF_DB_target))
            conf_problem(x, &s->origin, "add target = NAME", "[db %s] has no target", s->name);
        return;
    }
    for (const char *p = list;; p++) {
        size_t n = strcspn(p, ",");
        const char *a = p, *z = p + n;
        while (a < z && isspace((unsigned char)*a))
            a++;
        while (z > a && isspace((unsigned char)z[-1]))
            z--;
        cleanup_free char *name = strndup(a, (size_t)(z - a));
        if (name && *name)
            add_replica(x, d, s, name);
        else
            conf_problem(x, origin_of(s, CONF_DB_target), "as in target = homelab, local",
                         "target has a comma too many");
        p += n;
        if (!*p)
            return;
    }
}

/* Levels, snapshots, retention. */
static void build_history(struct conf_ctx *x, struct conf_db *d, const struct conf_section *s)
{
    static const char *const level[] = {"level1-interval", "level2-interval", "level3-interval"};
    const struct conf_raw *raw = x->c->raw;
    struct conf_origin at, l0_at;
    for (size_t i = 0; i < ARRAY_LEN(level); i++)
        d->level_ms[i] = i && !d->level_ms[i - 1] ? 0 : conf_effective(raw, NULL, s, level[i], NULL);
    d->snapshot_ms = conf_effective(raw, NULL, s, "snapshot-interval", NULL);
    d->retention_ms = conf_effective(raw, NULL, s, "retention", &at);
    d->l0_retention_ms = conf_effective(raw, NULL, s, "l0-retention", &l0_at);
    d->delete_delay_ms = conf_effective(raw, NULL, s, "delete-delay", NULL);
    d->verify_ms = conf_effective(raw, NULL, s, "verify-interval", NULL);
    if (d->retention_ms && d->retention_ms < d->snapshot_ms)
        conf_problem(x, at.file ? &at : &s->origin, "make retention longer, or snapshots more frequent",
                     "[db %s] has a retention that is shorter than its snapshot-interval", s->name);
    if (d->retention_ms && d->l0_retention_ms > d->retention_ms)
        conf_problem(x, l0_at.file ? &l0_at : &s->origin, "make it shorter, or leave it out",
                     "[db %s] has an l0-retention that is longer than its retention", s->name);
    if (!d->l0_retention_ms)
        d->l0_retention_ms = d->retention_ms;
}

static void build_pattern(struct conf_ctx *x, struct conf_db *d, const struct conf_section *s,
                          const struct conf_origin *at)
{
    const char *name = text_of(s, CONF_DB_name);
    struct err e = {0};
    if (glob_new(d->path, &d->glob, &e) < 0) {
        (void)err_wrap(&e, "path = %s", d->path);
        problem_err(x, at, &e);
    }
    if (name && name_check(name, &e) < 0) {
        (void)err_wrap(&e, "name = %s", name);
        problem_err(x, origin_of(s, CONF_DB_name), &e);
        name = NULL;
    }
    d->name_template = util_strdup(name ? name : NAME_TEMPLATE);
}

static void build_db(struct conf_ctx *x, const struct conf_section *s)
{
    struct conf *c = x->c;
    struct conf_db *d = &c->db[c->n_dbs++];
    const struct conf_value *path = conf_get(s, CONF_DB_path);
    *d = (struct conf_db){.name = util_strdup(s->name), .origin = s->origin};
    d->checkpoint_pages = conf_effective(c->raw, NULL, s, "checkpoint-pages", NULL);
    d->wal_limit_bytes = conf_effective(c->raw, NULL, s, "wal-limit", NULL);
    d->spool_limit_bytes = conf_effective(c->raw, NULL, s, "spool-limit", NULL);
    build_history(x, d, s);
    if (path && !path->bad) {
        d->path = util_strdup(path->text);
        if (glob_is(d->path))
            build_pattern(x, d, s, &path->origin);
        else if (!strcmp(d->path, "/"))
            conf_problem(x, &path->origin, "name the database file", "path = / is a directory");
    } else if (!path) {
        conf_problem(x, &s->origin, "add path = /PATH/OF/THE/DATABASE", "[db %s] has no path",
                     s->name);
    }
    if (conf_get(s, CONF_DB_name) && path && !path->bad && !d->name_template)
        conf_problem(x, origin_of(s, CONF_DB_name), "remove the line",
                     "name is for patterns: this database is called %s", s->name);
    build_replicas(x, d, s);
}

static void check_replica_sections(struct conf_ctx *x)
{
    struct conf_raw *raw = x->c->raw;
    for (size_t i = 0; i < raw->n; i++) {
        struct conf_section *s = raw->section[i];
        if (s->kind != CONF_REPLICA)
            continue;
        const char *at = strchr(s->name, '@');
        cleanup_free char *db = strndup(s->name, (size_t)(at - s->name));
        const struct conf_db *d = db ? map_get_str(&x->c->by_name, db) : NULL;
        if (!d) {
            conf_problem(x, &s->origin, "write [replica DATABASE@TARGET]",
                         "there is no database '%s'", db ? db : "");
            continue;
        }
        if (!conf_find_target(x->c, at + 1)) {
            unknown_target(x, &s->origin, at + 1);
            continue;
        }
        bool used = false;
        for (size_t j = 0; j < d->n_replicas; j++)
            used = used || !strcmp(x->c->target[d->replica[j].target].name, at + 1);
        if (!used && d->n_replicas)
            conf_problem(x, &s->origin, "add it to the target line of the database",
                         "database '%s' is not replicated to '%s'", d->name, at + 1);
    }
}

/* ---- all of it ------------------------------------------------------------------------------ */

void conf_build(struct conf_ctx *x)
{
    struct conf *c = x->c;
    struct conf_raw *raw = c->raw;
    sort_sections(x);
    build_daemon(x);
    c->target = util_zalloc(raw->n * sizeof *c->target);
    c->db = util_zalloc(raw->n * sizeof *c->db);
    for (size_t i = 0; i < raw->n; i++)
        if (raw->section[i]->kind == CONF_TARGET)
            build_target(x, raw->section[i]);
    for (size_t i = 0; i < raw->n; i++)
        if (raw->section[i]->kind == CONF_DB)
            build_db(x, raw->section[i]);
    conf_index(c);
    check_replica_sections(x);
    conf_check_places(x);
}
