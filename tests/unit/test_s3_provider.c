/* Which provider an endpoint is of, and what follows from that. */
#include "common/store/s3_provider.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void a_host_name_tells_the_provider(void **state)
{
    (void)state;
    static const struct {
        const char *endpoint, *key, *region;
    } rows[] = {
        {"https://s3.eu-central-1.amazonaws.com", "aws", "eu-central-1"},
        {"https://s3.cn-north-1.amazonaws.com.cn", "aws", "cn-north-1"},
        {"https://S3.EU-West-1.AmazonAWS.com", "aws", "EU-West-1"},
        {"https://s3.amazonaws.com", "aws", "us-east-1"},
        {"https://abc123.r2.cloudflarestorage.com", "r2", "auto"},
        {"https://abc123.eu.r2.cloudflarestorage.com:443", "r2", "auto"},
        {"https://s3.us-west-004.backblazeb2.com", "b2", "us-west-004"},
        {"https://fsn1.your-objectstorage.com", "hetzner", "fsn1"},
        {"https://s3.fr-par.scw.cloud", "scaleway", "fr-par"},
        {"https://nyc3.digitaloceanspaces.com", "digitalocean", "nyc3"},
        {"https://fly.storage.tigris.dev", "tigris", "auto"},
        {"https://t3.storage.dev", "tigris", "auto"},
        {"https://storage.googleapis.com", "gcs", "auto"},
        {"https://abcdef.supabase.co", "supabase", "us-east-1"},
        {"https://abcdef.storage.supabase.co/storage/v1/s3", "supabase", "us-east-1"},
        {"http://127.0.0.1:8000/storage/v1/s3", "supabase", "us-east-1"},
        {"https://play.min.io:9000", "minio", "us-east-1"},
        /* names that only look like it */
        {"https://r2.cloudflarestorage.com.example.com", "generic", "us-east-1"},
        {"https://notbackblazeb2.com", "generic", "us-east-1"},
        {"https://backblazeb2.com", "generic", "us-east-1"},
        {"https://storage.googleapis.com.evil.example", "generic", "us-east-1"},
        {"http://127.0.0.1:9000", "generic", "us-east-1"},
        {"https://s3.example.com", "generic", "us-east-1"},
        {"", "generic", "us-east-1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct s3_provider *p = s3_provider_find(CONF_PROVIDER_AUTO, rows[i].endpoint);
        if (strcmp(p->key, rows[i].key) != 0)
            fail_msg("%s: %s, not %s", rows[i].endpoint, p->key, rows[i].key);
        const char *sep = strstr(rows[i].endpoint, "://");
        cleanup_free char *region = s3_provider_region(p, sep ? sep + 3 : "", "us-east-1");
        if (strcmp(region, rows[i].region) != 0)
            fail_msg("%s: region %s, not %s", rows[i].endpoint, region, rows[i].region);
    }
    print_message("%zu endpoints\n", ARRAY_LEN(rows));
}

static void a_region_that_was_configured_stays(void **state)
{
    (void)state;
    const struct s3_provider *p = s3_provider_find(CONF_PROVIDER_AUTO, "https://s3.us-west-004.backblazeb2.com");
    cleanup_free char *given = s3_provider_region(p, "s3.us-west-004.backblazeb2.com", "eu-central-003");
    assert_string_equal(given, "eu-central-003");
    /* behind a name of one's own nothing can be told */
    p = s3_provider_find(CONF_PROVIDER_B2, "https://backup.example.com");
    assert_string_equal(p->key, "b2");
    cleanup_free char *own = s3_provider_region(p, "backup.example.com", NULL);
    assert_string_equal(own, "us-east-1");
}

/* the words of the configuration, the enum and the table go together */
static void every_provider_can_be_configured(void **state)
{
    (void)state;
    unsigned n = 0;
    for (enum conf_provider id = CONF_PROVIDER_GENERIC; id <= CONF_PROVIDER_SUPABASE; id++, n++) {
        const char *key = s3_provider_find(id, NULL)->key;
        cleanup_free char *text = util_printf(
            "[target t]\ntype = s3\nendpoint = https://s3.example.com\nbucket = litestream\nprovider = %s\n", key);
        struct conf *c = NULL;
        struct err e = {0};
        cleanup_buf struct buf errors = BUF_INIT;
        if (conf_parse("x.ini", text, strlen(text), &c, &errors, &e) < 0)
            fail_msg("%s", buf_str(&errors));
        assert_int_equal(c->target[0].provider, id);
        assert_string_equal(s3_provider_find(c->target[0].provider, c->target[0].endpoint)->key, key);
        conf_free(c);
    }
    assert_int_equal(n, 12);
}

static void doubts(enum conf_provider id, enum conf_sse sse, const char *class, const char *want)
{
    cleanup_free char *name = class ? util_strdup(class) : NULL;
    struct conf_target c = {.sse = sse, .storage_class = name};
    cleanup_buf struct buf out = BUF_INIT;
    assert_int_equal(s3_provider_doubts(s3_provider_find(id, NULL), &c, &out), *want != 0);
    assert_string_equal(buf_str(&out), want);
}

static void what_a_provider_does_not_have_is_doubted(void **state)
{
    (void)state;
    doubts(CONF_PROVIDER_AWS, CONF_SSE_KMS, "STANDARD_IA", "");
    doubts(CONF_PROVIDER_GENERIC, CONF_SSE_C, "WHATEVER", "");
    doubts(CONF_PROVIDER_HETZNER, CONF_SSE_C, NULL, "");
    doubts(CONF_PROVIDER_HETZNER, CONF_SSE_KMS, NULL,
           "sse = aws:kms is nothing that Hetzner Object Storage is known to have");
    doubts(CONF_PROVIDER_SCALEWAY, CONF_SSE_OFF, "ONEZONE", "storage-class = ONEZONE is nothing that Scaleway Object "
                                                             "Storage is known to have");
    doubts(CONF_PROVIDER_SUPABASE, CONF_SSE_AES256, "STANDARD",
           "sse = AES256 and storage-class = STANDARD is nothing that Supabase Storage is known to have");
    /* objects there have to be thawed before they can be read */
    doubts(CONF_PROVIDER_AWS, CONF_SSE_OFF, "GLACIER",
           "storage-class = GLACIER is nothing that Amazon S3 is known to have");
}

#define T(test) cmocka_unit_test(test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_host_name_tells_the_provider),
        T(a_region_that_was_configured_stays),
        T(every_provider_can_be_configured),
        T(what_a_provider_does_not_have_is_doubted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
