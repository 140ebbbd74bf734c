/* sse = C: the key goes with every request for an object, and nowhere else. */
#include "tests/unit/s3_harness.h"

#include "common/store/s3_easy.h"
#include "common/store/s3_sse.h"

#define HEX "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define BASE64 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

static char key_file[128];
static bool seen;

static void write_key(const char *text, size_t n, mode_t mode)
{
    (void)snprintf(key_file, sizeof key_file, "%s/sse", dir);
    assert_int_equal(fsx_publish(key_file, text, n, mode, FSX_REPLACE, NULL), 0);
    assert_int_equal(chmod(key_file, mode), 0);
}

static void a_key_in_three_forms_is_the_same(void **state)
{
    (void)state;
    char raw[32];
    for (size_t i = 0; i < sizeof raw; i++)
        raw[i] = (char)i;
    const struct {
        const char *text;
        size_t n;
    } forms[] = {{raw, 32}, {HEX, 64}, {HEX "\n", 65}, {BASE64, 44}, {BASE64 "\n", 45}, {BASE64 "\r\n", 46}};
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct s3_customer_key k = {0};
        write_key(forms[i].text, forms[i].n, 0600);
        ok((struct err){.code = (enum err_code)-s3_sse_load(key_file, &k, &(struct err){0})});
        assert_string_equal(secret_reveal(k.key), BASE64);
        assert_int_equal(strlen(k.md5), 24);
        secret_free(k.key);
    }
}

static void what_is_no_key_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "\n", "short", HEX "0", BASE64 "=",
                                        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==",
                                        "g00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct s3_customer_key k;
        struct err e = {0};
        write_key(texts[i], strlen(texts[i]), 0600);
        assert_int_equal(s3_sse_load(key_file, &k, &e), -ERR_CONFIG);
        failed(e, ERR_CONFIG, "holds no key of 256 bits", "openssl rand -base64 32");
    }
    struct s3_customer_key k;
    struct err e = {0};
    write_key(BASE64, 44, 0604);
    assert_int_equal(s3_sse_load(key_file, &k, &e), -ERR_CONFIG);
    failed(e, ERR_CONFIG, "others may read", "chmod 600");
    assert_null(strstr(e.msg, BASE64));
    assert_int_equal(s3_sse_load("/nonexistent/sse", &k, &e), -ERR_NOTFOUND);
}

static void look(int option, long long n, const char *text)
{
    (void)option, (void)n;
    seen |= text && strstr(text, BASE64);
}

static void open_with(struct fix *f, enum conf_sse sse)
{
    f->t.sse = sse;
    f->t.sse_customer_key_file = key_file;
    reopen(f);
    f->t.sse_customer_key_file = NULL;
}

static void objects_are_read_with_their_key_and_not_without(void **state)
{
    struct fix *f = *state;
    struct store_info info = {0};
    write_key(BASE64, 44, 0600);
    s3_easy_option_hook = look;
    open_with(f, CONF_SSE_C);
    ok(put(f, "sse/a", "hello", 0));
    ok(head(f, "sse/a", &info));
    assert_int_equal(info.size, 5);
    ok(get(f, "sse/a", 0, UINT64_MAX, NULL));
    ok(get(f, "sse/a", 1, 3, NULL));
    assert_string_equal(buf_str(&f->got), "ell");
    ok(list(f, "sse/", ""));
    assert_int_equal(f->n_listed, 1);
    assert_false(seen); /* it is in no option but the headers */
    s3_easy_option_hook = NULL;
    open_with(f, CONF_SSE_OFF);
    struct err e = get(f, "sse/a", 0, UINT64_MAX, NULL);
    failed(e, ERR_STORE, "Server Side Encryption", "sse = C");
    write_key(HEX, 64, 0600);
    write_key("11111111111111111111111111111111", 32, 0600);
    open_with(f, CONF_SSE_C);
    e = get(f, "sse/a", 0, UINT64_MAX, NULL);
    failed(e, ERR_AUTH, "AccessDenied", "");
    assert_null(strstr(e.msg, "1111"));
    static const char *const keys[] = {"sse/a"};
    ok(delete(f, keys, 1)); /* needs none */
}

static void parts_have_the_key_as_well(void **state)
{
    struct fix *f = *state;
    enum { PART = 1 << 20, N = 5 };
    (void)setenv("WALSUP_TEST_S3_PART_BYTES", "1048576", 1);
    write_key(BASE64, 44, 0600);
    open_with(f, CONF_SSE_C);
    char *p = util_zalloc(PART * N);
    memset(p, 'x', PART * N);
    struct store_body b = {.p = p, .size = PART * N};
    ok(put_body(f, "sse/big", &b, NULL, STORE_IF_ABSENT));
    ok(get(f, "sse/big", 0, UINT64_MAX, NULL));
    assert_int_equal(f->got.len, PART * N);
    free(p);
    open_with(f, CONF_SSE_OFF);
    failed(get(f, "sse/big", 0, UINT64_MAX, NULL), ERR_STORE, "Server Side Encryption", "");
    (void)unsetenv("WALSUP_TEST_S3_PART_BYTES");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_key_in_three_forms_is_the_same),
        T(what_is_no_key_is_refused),
        T(objects_are_read_with_their_key_and_not_without),
        T(parts_have_the_key_as_well),
    };
    return cmocka_run_group_tests(tests, start_servers, end_servers);
}
