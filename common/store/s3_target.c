#include "common/store/s3_answer.h"

#include "common/format/conf.h"
#include "common/store/s3_trust.h"

#define DEFAULT_CONNECTIONS 8
#define DEFAULT_CONNECT_MS 5000
#define DEFAULT_IDLE_MS 15000
#define DEFAULT_PART_BYTES ((uint64_t)16 << 20)
#define DEFAULT_PUT_BYTES ((uint64_t)64 << 20) /* up to this an object goes up in one piece */
#define PARALLEL_PARTS 4
#define MAX_PARTS 10000

static char *copy_if_given(const char *s)
{
    return s && *s ? util_strdup(s) : NULL;
}

static uint64_t from_env(const char *name, uint64_t otherwise)
{
    const char *v = getenv(name);
    uint64_t n = v ? strtoull(v, NULL, 10) : 0;
    return n ? n : otherwise;
}

int s3_target_fill(const struct conf_target *c, struct s3_target *t, struct err *e)
{
    static const char *const sse[] = {NULL, "AES256", "aws:kms", NULL};
    const char *sep = c->endpoint ? strstr(c->endpoint, "://") : NULL;
    t->name = util_strdup(c->name ? c->name : "");
    t->by_url = c->by_url;
    t->https = sep && !strncmp(c->endpoint, "https://", 8);
    t->provider = s3_provider_find(c->provider, c->endpoint);
    t->base = t->provider->base ? t->provider->base : "";
    const char *path = sep ? sep + 3 + strcspn(sep + 3, "/") : "";
    if (!sep || (!t->https && strncmp(c->endpoint, "http://", 7)) || !sep[3] || path == sep + 3 ||
        (*path && strcmp(path, t->base)) || strpbrk(sep + 3, "?#@ \t")) {
        (void)err_set(e, ERR_CONFIG, "target %s: endpoint \"%s\" is not scheme://host[:port]",
                      t->name, c->endpoint ? c->endpoint : "");
        return err_hint(e, "write endpoint = https://host in [target %s]; bucket and path have "
                           "keys of their own", t->name);
    }
    if (!c->bucket || !*c->bucket || strpbrk(c->bucket, "/?#@% \t")) {
        (void)err_set(e, ERR_CONFIG, "target %s: \"%s\" is no name of a bucket", t->name,
                      c->bucket ? c->bucket : "");
        return err_hint(e, "write bucket = NAME in [target %s]", t->name);
    }
    cleanup_free char *host = util_printf("%.*s", (int)(path - sep - 3), sep + 3);
    t->aws = t->provider == s3_provider_find(CONF_PROVIDER_AWS, NULL);
    t->virtual_host = c->addressing == CONF_ADDR_VIRTUAL ||
                      (c->addressing == CONF_ADDR_AUTO && t->provider->virtual_host);
    /* a dot in the bucket's name is one too many for the wildcard of Amazon's certificate */
    if (c->addressing == CONF_ADDR_AUTO && t->https && strchr(c->bucket, '.'))
        t->virtual_host = false;
    t->host = t->virtual_host ? util_printf("%s.%s", c->bucket, host) : util_strdup(host);
    size_t n = strlen(t->host), port = t->https ? 4 : 3;
    if (n > port && !strcmp(t->host + n - port, t->https ? ":443" : ":80"))
        t->host[n - port] = '\0'; /* as curl and every server writes it */
    t->endpoint = util_strdup(c->endpoint);
    t->bucket = util_strdup(c->bucket);
    t->region = s3_provider_region(t->provider, host, c->region);
    t->ca_file = copy_if_given(c->ca_file);
    t->ca_path = copy_if_given(c->ca_path);
    t->client_cert = copy_if_given(c->client_certificate);
    t->client_key = copy_if_given(c->client_key);
    t->sse = sse[c->sse];
    t->sse_kms_key_id = copy_if_given(c->sse_kms_key_id);
    t->storage_class = copy_if_given(c->storage_class);
    t->skip_verify = c->skip_verify;
    t->max_connections = c->max_connections ? c->max_connections : DEFAULT_CONNECTIONS;
    t->bandwidth_limit_bytes = c->bandwidth_limit_bytes;
    t->connect_ms = from_env("WALSUP_TEST_S3_CONNECT_MS", DEFAULT_CONNECT_MS);
    t->idle_ms = from_env("WALSUP_TEST_S3_IDLE_MS", DEFAULT_IDLE_MS);
    t->part_bytes = from_env("WALSUP_TEST_S3_PART_BYTES", DEFAULT_PART_BYTES);
    t->put_bytes = MIN(t->part_bytes * 4, DEFAULT_PUT_BYTES);
    t->parallel_parts = MIN(t->provider->parallel_parts ? t->provider->parallel_parts : (unsigned)PARALLEL_PARTS,
                            t->max_connections);
    t->max_parts = t->provider->max_parts ? t->provider->max_parts : MAX_PARTS;
    t->keys_from = (struct conf_target){
        .name = util_strdup(t->name),
        .access_key_id = copy_if_given(c->access_key_id),
        .secret_access_key = secret_dup(c->secret_access_key),
        .secret_access_key_file = copy_if_given(c->secret_access_key_file),
        .session_token = secret_dup(c->session_token),
        .credentials_file = copy_if_given(c->credentials_file),
        .profile = copy_if_given(c->profile),
        .credential_process = copy_if_given(c->credential_process),
        .instance_role = c->instance_role,
        .by_url = c->by_url,
    };
    cleanup_buf struct buf doubts = BUF_INIT;
    if (s3_provider_doubts(t->provider, c, &doubts))
        t->doubts = util_strdup(buf_str(&doubts));
    if (c->sse == CONF_SSE_C) {
        int r = s3_sse_load(c->sse_customer_key_file, &t->customer_key, e);
        if (r < 0)
            return r;
    }
    return cred_load(c, &t->cred, e);
}

void s3_target_done(struct s3_target *t)
{
    free(t->name);
    free(t->endpoint);
    free(t->host);
    free(t->bucket);
    free(t->region);
    free(t->ca_file);
    free(t->ca_path);
    free(t->sse_kms_key_id);
    free(t->client_cert);
    free(t->client_key);
    free(t->storage_class);
    free(t->doubts);
    free(t->keys_from.name);
    free(t->keys_from.access_key_id);
    secret_free(t->keys_from.secret_access_key);
    free(t->keys_from.secret_access_key_file);
    secret_free(t->keys_from.session_token);
    free(t->keys_from.credentials_file);
    free(t->keys_from.profile);
    free(t->keys_from.credential_process);
    secret_free(t->customer_key.key);
    cred_done(&t->cred);
    s3_trust_free(t->trust);
}
