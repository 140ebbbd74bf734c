#include "common/format/conf_int.h"

static struct secret *secret_of(const struct conf_section *s, enum conf_key_id key)
{
    return secret_text(conf_text_of(s, key));
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
        conf_problem_err(x, &v->origin, &e);
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
            conf_problem(x, conf_origin_of(s, both[i].key), "remove one of them",
                         "%s is given here and by url", conf_key[both[i].key].name);
    return true;
}

static void take_text(char **to, const struct conf_section *s, enum conf_key_id key)
{
    if (!*to)
        *to = conf_dup_of(s, key);
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
        conf_origin_of(s, conf_get(s, CONF_TARGET_path) ? CONF_TARGET_path : CONF_TARGET_url);
    if (!clean) {
        (void)err_wrap(&e, "path = %s", t->path);
        conf_problem_err(x, o, &e);
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
        conf_problem(x, conf_origin_of(s, CONF_TARGET_secret_access_key), "keep one of them",
                     "secret-access-key and secret-access-key-file are both given");
    if (id && !secret && !file)
        conf_problem(x, conf_origin_of(s, CONF_TARGET_access_key_id),
                     "add secret-access-key-file = FILE",
                     "access-key-id is given without its secret");
    if (!id && (secret || file))
        conf_problem(x, conf_origin_of(s, secret ? CONF_TARGET_secret_access_key
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
        const char *t = conf_text_of(s, word[i]);
        bool plain = true;
        for (; t && *t; t++)
            plain = plain && *t > ' ' && *t < 0x7f;
        if (!plain)
            conf_problem(x, conf_origin_of(s, word[i]), "no spaces, only printable ASCII",
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
    t->sse_customer_key_file = conf_dup_of(s, CONF_TARGET_sse_customer_key_file);
    if (t->sse_customer_key_file && t->sse != CONF_SSE_C)
        conf_problem(x, conf_origin_of(s, CONF_TARGET_sse_customer_key_file), "add sse = C",
                     "sse-customer-key-file is given without sse = C");
    if (t->sse != CONF_SSE_C)
        return;
    if (!t->sse_customer_key_file)
        conf_problem(x, conf_origin_of(s, CONF_TARGET_sse), "add sse-customer-key-file = FILE", "sse = C has no key");
    if (t->endpoint && !strncmp(t->endpoint, "http://", 7) && !conf_host_is_local(t->endpoint + 7))
        conf_problem(x, conf_origin_of(s, CONF_TARGET_sse), "write endpoint = https://...",
                     "sse = C over plain http would show the key to everybody in between");
}

static void build_s3_target(struct conf_ctx *x, const struct conf_section *s,
                            struct conf_target *t, struct conf_url *u)
{
    struct err e = {0};
    bool from_url = conf_get(s, CONF_TARGET_url) != NULL;
    const struct conf_origin *url_at = conf_origin_of(s, CONF_TARGET_url);
    uint64_t addressing = conf_num_of(s, CONF_TARGET_addressing);
    uint64_t skip = conf_num_of(s, CONF_TARGET_skip_verify);
    t->region = TAKE_PTR(u->region);
    take_text(&t->region, s, CONF_TARGET_region);
    t->ca_file = TAKE_PTR(u->ca_file);
    take_text(&t->ca_file, s, CONF_TARGET_ca_file);
    t->profile = TAKE_PTR(u->profile);
    take_text(&t->profile, s, CONF_TARGET_profile);
    if (u->addressing &&
        conf_number(&conf_key[CONF_TARGET_addressing], u->addressing, &addressing, &e) < 0)
        conf_problem_err(x, url_at, &e);
    if (u->skip_verify &&
        conf_number(&conf_key[CONF_TARGET_skip_verify], u->skip_verify, &skip, &e) < 0)
        conf_problem_err(x, url_at, &e);
    const char *endpoint = u->endpoint ? u->endpoint : conf_text_of(s, CONF_TARGET_endpoint);
    bool endpoint_set = u->endpoint || conf_get(s, CONF_TARGET_endpoint);
    const struct conf_origin *endpoint_at =
        u->endpoint ? url_at : conf_origin_of(s, CONF_TARGET_endpoint);
    if (endpoint && !(t->endpoint = conf_endpoint_clean(endpoint, &e)))
        conf_problem_err(x, endpoint_at, &e);
    if (!t->endpoint)
        t->endpoint = conf_endpoint_aws(t->region);
    const struct conf_origin *path_at = conf_origin_of(s, from_url ? CONF_TARGET_url : CONF_TARGET_path);
    const char *given = t->path ? t->path : "";
    if (!t->bucket && !conf_get(s, CONF_TARGET_bucket))
        conf_problem(x, &s->origin, "add bucket = NAME", "[target %s] has no bucket", s->name);
    else if (!t->bucket)
        /* what is wrong with it was reported */;
    else if (conf_bucket_check(t->bucket, given, t->region, endpoint_set,
                               from_url && !conf_get(s, CONF_TARGET_bucket), &e) < 0)
        conf_problem_err(x, conf_origin_of(s, conf_get(s, CONF_TARGET_bucket) ? CONF_TARGET_bucket
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
        conf_problem_err(x, path_at, &e);
        clean = util_strdup("");
    }
    free(t->path);
    t->path = clean;
    t->addressing = conf_addressing_resolve((enum conf_addressing)addressing, endpoint_set,
                                            t->bucket ? t->bucket : "");
    t->skip_verify = skip != 0;
    t->access_key_id = conf_dup_of(s, CONF_TARGET_access_key_id);
    t->secret_access_key = secret_of(s, CONF_TARGET_secret_access_key);
    t->secret_access_key_file = conf_dup_of(s, CONF_TARGET_secret_access_key_file);
    t->session_token = secret_of(s, CONF_TARGET_session_token);
    t->credentials_file = conf_dup_of(s, CONF_TARGET_credentials_file);
    t->credential_process = conf_dup_of(s, CONF_TARGET_credential_process);
    t->instance_role = conf_num_of(s, CONF_TARGET_instance_role) != 0;
    if (t->credential_process && conf_get(s, CONF_TARGET_access_key_id))
        conf_problem(x, conf_origin_of(s, CONF_TARGET_credential_process), "keep one of them",
                     "credential-process and access-key-id are both given");
    t->ca_path = conf_dup_of(s, CONF_TARGET_ca_path);
    t->client_certificate = conf_dup_of(s, CONF_TARGET_client_certificate);
    t->client_key = conf_dup_of(s, CONF_TARGET_client_key);
    if (t->client_key && !t->client_certificate)
        conf_problem(x, conf_origin_of(s, CONF_TARGET_client_key), "add client-certificate",
                     "client-key is given without client-certificate");
    t->sse = (enum conf_sse)conf_num_of(s, CONF_TARGET_sse);
    t->sse_kms_key_id = conf_dup_of(s, CONF_TARGET_sse_kms_key_id);
    if (t->sse_kms_key_id && t->sse != CONF_SSE_KMS)
        conf_problem(x, conf_origin_of(s, CONF_TARGET_sse_kms_key_id), "add sse = aws:kms",
                     "sse-kms-key-id is given without sse = aws:kms");
    build_customer_key(x, s, t);
    t->provider = (enum conf_provider)conf_num_of(s, CONF_TARGET_provider);
    t->storage_class = conf_dup_of(s, CONF_TARGET_storage_class);
    t->bandwidth_limit_bytes = conf_num_of(s, CONF_TARGET_bandwidth_limit);
    check_keys(x, s);
    check_words(x, s);
}

void conf_build_target(struct conf_ctx *x, const struct conf_section *s)
{
    struct conf *c = x->c;
    struct conf_url u = {0};
    struct conf_target *t = &c->target[c->n_targets++];
    bool has_type;
    *t = (struct conf_target){.name = util_strdup(s->name), .origin = s->origin};
    t->max_connections = (uint32_t)conf_num_of(s, CONF_TARGET_max_connections);
    t->ltx_encoding = (enum ltx_encoding)conf_num_of(s, CONF_TARGET_ltx_encoding);
    if (merge_url(x, s, &u, &has_type)) {
        t->type = u.type;
        t->path = TAKE_PTR(u.path);
        t->bucket = TAKE_PTR(u.bucket);
        take_text(&t->path, s, CONF_TARGET_path);
        t->may_delete = conf_num_of(s, CONF_TARGET_delete) != 0;
        if (t->type == CONF_FILE) {
            build_file_target(x, s, t);
        } else {
            take_text(&t->bucket, s, CONF_TARGET_bucket);
            build_s3_target(x, s, t, &u);
        }
    }
    conf_url_done(&u);
}
