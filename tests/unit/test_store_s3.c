/* The S3 store against an honest server: objects, listings, keys, limits. What it does
 * when the server fails, lies or stalls: test_store_s3_faults.c. */
#include "tests/unit/s3_harness.h"
#include "tests/unit/within.h"

#include "common/store/cred.h"

/* ---- what works ---------------------------------------------------------------------------- */

static void objects_come_back_whole_and_in_parts(void **state)
{
    struct fix *f = *state;
    assert_string_equal(strstr(store_describe(f->s), "/bkt"), "/bkt/p/q as key id " KEY_ID);
    ok(put(f, "db/0000/a.ltx", "hello world", 0));
    assert_true(ledger_says_stored("p/q/db/0000/a.ltx"));
    struct store_info info = {0};
    ok(get(f, "db/0000/a.ltx", 0, UINT64_MAX, &info));
    assert_string_equal(buf_str(&f->got), "hello world");
    assert_int_equal(info.size, 11);
    assert_true(info.mtime_ms > 1600000000000);
    info.size = 0;
    ok(get(f, "db/0000/a.ltx", 6, 3, &info));
    assert_string_equal(buf_str(&f->got), "wor");
    assert_int_equal(info.size, 11);
    ok(get(f, "db/0000/a.ltx", 6, UINT64_MAX, NULL));
    assert_string_equal(buf_str(&f->got), "world");
    assert_int_equal(get(f, "db/0000/a.ltx", 6, 6, NULL).code, ERR_CORRUPT);
    assert_int_equal(get(f, "db/0000/a.ltx", 50, 6, NULL).code, ERR_CORRUPT);
    assert_int_equal(get(f, "db/0000/a.ltx", 11, UINT64_MAX, NULL).code, ERR_CORRUPT);
    assert_int_equal(get(f, "db/0000/a.ltx", 0, 0, NULL).code, ERR_USAGE);
    ok(put(f, "empty", "", 0));
    ok(get(f, "empty", 0, UINT64_MAX, &info));
    assert_int_equal(info.size, 0);
    assert_int_equal(f->got.len, 0);
    struct err e = get(f, "none", 0, UINT64_MAX, NULL);
    failed(e, ERR_NOTFOUND, "NoSuchKey", "");
    assert_string_equal(e.hint, "");
    assert_non_null(strstr(e.msg, f->endpoint));
    assert_non_null(strstr(e.msg, "bkt"));
    assert_non_null(strstr(e.msg, "p/q/none"));
    assert_non_null(strstr(e.msg, KEY_ID));
    static const char *const keys[] = {"db/0000/a.ltx", "not there", "empty"};
    ok(delete(f, keys, 3));
    failed(head(f, "empty", NULL), ERR_NOTFOUND, "404", "");
}

static void metadata_comes_back(void **state)
{
    struct fix *f = *state;
    struct store_meta m = {1767225600120, 0x0123456789abcdef, 0xfedcba9876543210, ""};
    struct store_body b = {.p = "x", .size = 1};
    ok(put_body(f, "m", &b, &m, 0));
    struct store_info info = {0};
    ok(head(f, "m", &info));
    assert_int_equal(info.size, 1);
    assert_memory_equal(&info.meta, &m, sizeof m);
    memset(&info, 0, sizeof info);
    ok(get(f, "m", 0, UINT64_MAX, &info));
    assert_memory_equal(&info.meta, &m, sizeof m);
}

static void odd_keys_arrive_as_they_are(void **state)
{
    struct fix *f = *state;
    static const char *const keys[] = {"odd/a b", "odd/a+b", "odd/a%20b", "odd/a&b<c>\"d'",
                                       "odd/caf\xc3\xa9 \xe2\x82\xac", "odd/~t=1?x#y;z,@:!$()*"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        ok(put(f, keys[i], keys[i], 0));
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        cleanup_free char *full = util_printf("p/q/%s", keys[i]);
        assert_true(ledger_says_stored(full));
        ok(get(f, keys[i], 0, UINT64_MAX, NULL));
        assert_string_equal(buf_str(&f->got), keys[i]);
        ok(list(f, keys[i], ""));
        assert_int_equal(f->n_listed, 1);
        assert_string_equal(f->listed[0], keys[i]);
    }
    ok(list(f, "odd/", "odd/a b"));
    assert_int_equal(f->n_listed, ARRAY_LEN(keys) - 1);
    ok(delete(f, keys, ARRAY_LEN(keys)));
    ok(list(f, "odd/", ""));
    assert_int_equal(f->n_listed, 0);
}

static void two_and_a_half_thousand_keys_are_listed(void **state)
{
    struct fix *f = *state;
    enum { N = 2500 };
    struct store_req *r = util_zalloc(N * sizeof *r);
    char(*keys)[32] = util_zalloc(N * sizeof *keys);
    struct store_body b = {.p = "x", .size = 1};
    for (size_t i = 0; i < N; i++) {
        r[i] = request(f);
        (void)snprintf(keys[i], sizeof keys[i], "many/%04zx", i);
        store_put(f->s, &r[i], keys[i], &b, NULL, STORE_IF_ABSENT);
    }
    wait_done(f, N);
    for (size_t i = 0; i < N; i++)
        ok(r[i].err);
    assert_true(stat_of("peak") <= 8);
    json_decref(control("/_reset", ""));
    ok(list(f, "many/", NULL));
    assert_int_equal(f->n_listed, N);
    for (size_t i = 0; i < N; i++)
        assert_string_equal(f->listed[i], keys[i]);
    assert_int_equal(requests(), 3);
    ok(list(f, "many/", keys[2397]));
    assert_int_equal(f->n_listed, 102);
    ok(list(f, "many/0", "many/0"));
    assert_int_equal(f->n_listed, N);
    ok(list(f, "nothing/", ""));
    assert_int_equal(f->n_listed, 0);
    /* the second page is cut: the whole listing fails */
    faults("[{\"verb\": \"LIST\", \"nth\": 2, \"action\": \"cut-listing\"}]");
    failed(list(f, "many/", NULL), ERR_STORE, "no complete XML", "");
    /* the second page is refused for the rate: it alone is asked for again */
    faults("[{\"verb\": \"LIST\", \"nth\": 2, \"count\": 3, \"action\": \"status\", "
           "\"status\": 503}]");
    ok(list(f, "many/", NULL));
    assert_int_equal(f->n_listed, N);
    for (size_t i = 0; i < N; i++)
        assert_string_equal(f->listed[i], keys[i]);
    assert_int_equal(requests(), 3 + 3);
    /* but not for ever */
    faults("[{\"verb\": \"LIST\", \"nth\": 2, \"action\": \"status\", \"status\": 503}]");
    failed(list(f, "many/", NULL), ERR_STORE, "503", "");
    assert_int_equal(requests(), 1 + 6);
    free(r);
    free(keys);
}

static void put_if_absent_keeps_the_first(void **state)
{
    struct fix *f = *state;
    ok(put(f, "once", "first", STORE_IF_ABSENT));
    failed(put(f, "once", "second", STORE_IF_ABSENT), ERR_CONFLICT, "412", "another writer");
    ok(get(f, "once", 0, UINT64_MAX, NULL));
    assert_string_equal(buf_str(&f->got), "first");
    ok(put(f, "once", "third", 0));
}

static void a_session_token_is_sent(void **state)
{
    struct fix *f = *state;
    set(&f->t.access_key_id, TOKEN_KEY_ID);
    set_secret(&f->t.session_token, TOKEN);
    reopen(f);
    ok(put(f, "k", "x", 0));
    set_secret(&f->t.session_token, "stale");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_AUTH, "InvalidToken", "session token");
}

static void the_bucket_can_be_in_the_host_name(void **state)
{
    struct fix *f = *state;
    cleanup_free char *endpoint = util_printf("http://localhost:%d", plain.port);
    set(&f->t.endpoint, endpoint);
    f->t.addressing = CONF_ADDR_VIRTUAL;
    reopen(f);
    ok(put(f, "virtual/host k", "x", 0));
    ok(list(f, "virtual/", ""));
    assert_int_equal(f->n_listed, 1);
    ok(get(f, "virtual/host k", 0, 1, NULL));
}

static void a_large_file_is_sent_in_chunks(void **state)
{
    struct fix *f = *state;
    size_t n = ((size_t)20 << 20) + 17;
    uint8_t *big = malloc(n);
    for (size_t i = 0; i < n; i++)
        big[i] = (uint8_t)(i * 7 + i / 4096);
    cleanup_free char *src = util_printf("%s/source", dir);
    assert_int_equal(fsx_publish(src, big, n, 0600, FSX_REPLACE | FSX_NOSYNC, NULL), 0);
    struct store_body b = {.path = src, .size = n};
    uint64_t t0 = clk_mono_ms();
    ok(put_body(f, "big", &b, NULL, 0));
    print_message("20 MiB from a file: %llu ms\n", (unsigned long long)(clk_mono_ms() - t0));
    ok(get(f, "big", 0, UINT64_MAX, NULL));
    assert_int_equal(f->got.len, n);
    assert_memory_equal(f->got.p, big, n);
    ok(get(f, "big", n - 5, 5, NULL));
    assert_memory_equal(f->got.p, big + n - 5, 5);
    free(big);
    b.size = n + 1;
    failed(put_body(f, "other", &b, NULL, 0), ERR_CORRUPT, "announced", "");
    b.size = n - 1;
    failed(put_body(f, "other", &b, NULL, 0), ERR_CORRUPT, "announced", "");
    b.path = "/nonexistent/file";
    failed(put_body(f, "other", &b, NULL, 0), ERR_NOTFOUND, "/nonexistent/file", "");
    assert_false(ledger_says_stored("p/q/other"));
    static const char *const keys[] = {"big"};
    ok(delete(f, keys, 1));
}

/* The connection of the first request is kept; the second finds it dead, and curl asks for the
 * body again from its beginning. */
static void a_dead_kept_connection_costs_nothing(void **state)
{
    struct fix *f = *state;
    cleanup_free char *src = util_printf("%s/source2", dir);
    size_t n = (size_t)3 << 20;
    uint8_t *big = util_zalloc(n);
    big[n - 1] = 7;
    assert_int_equal(fsx_publish(src, big, n, 0600, FSX_REPLACE | FSX_NOSYNC, NULL), 0);
    ok(put(f, "first", "x", 0));
    faults("[{\"verb\": \"PUT\", \"count\": 1, \"action\": \"reset-after\"}]");
    ok(put(f, "second", "text", 0));
    assert_int_equal(requests(), 2);
    ok(get(f, "second", 0, UINT64_MAX, NULL));
    assert_string_equal(buf_str(&f->got), "text");
    faults("[{\"verb\": \"PUT\", \"count\": 1, \"action\": \"reset-after\"}]");
    struct store_body b = {.path = src, .size = n};
    ok(put_body(f, "third", &b, NULL, 0));
    assert_int_equal(requests(), 2);
    ok(get(f, "third", 0, UINT64_MAX, NULL));
    assert_int_equal(f->got.len, n);
    assert_memory_equal(f->got.p, big, n);
    free(big);
}

static void two_hundred_puts_at_once(void **state)
{
    struct fix *f = *state;
    static struct store_req r[200];
    static char keys[200][32];
    char block[4096] = {1};
    struct store_body b = {.p = block, .size = sizeof block};
    f->t.max_connections = 5;
    reopen(f);
    long long before = stat_of("connections");
    uint64_t t0 = clk_mono_us();
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        r[i] = request(f);
        (void)snprintf(keys[i], sizeof keys[i], "quick/%03zu", i);
        store_put(f->s, &r[i], keys[i], &b, NULL, 0);
    }
    wait_done(f, ARRAY_LEN(r));
    uint64_t us = clk_mono_us() - t0;
    print_message("%zu puts of 4 KiB: %.0f a second\n", ARRAY_LEN(r),
                  (double)ARRAY_LEN(r) * 1e6 / (double)us);
    for (size_t i = 0; i < ARRAY_LEN(r); i++)
        ok(r[i].err);
    assert_int_equal(requests(), ARRAY_LEN(r));
    assert_true(stat_of("peak") <= 5);
    /* one for each question to the server, the rest is ours */
    assert_true(stat_of("connections") - before <= 5 + 4);
    assert_int_equal(store_connections(f->s), 5);
}

static void bandwidth_is_limited(void **state)
{
    struct fix *f = *state;
    size_t n = (size_t)6 << 20;
    uint8_t *big = util_zalloc(n);
    struct store_body b = {.p = big, .size = n};
    f->t.bandwidth_limit_bytes = (uint64_t)2 << 20;
    reopen(f);
    uint64_t t0 = clk_mono_ms();
    ok(put_body(f, "slow", &b, NULL, 0));
    uint64_t ms = clk_mono_ms() - t0;
    print_message("6 MiB at 2 MiB/s: %llu ms\n", (unsigned long long)ms);
    assert_within(ms, 2700, 8000);
    free(big);
}

/* each of them would be through in no time: what commits are */
static void bandwidth_is_limited_for_many_small_objects(void **state)
{
    enum { N = 120, SIZE = 25000 };
    struct fix *f = *state;
    uint8_t *some = util_zalloc(SIZE);
    struct store_body b = {.p = some, .size = SIZE};
    struct store_req r[N];
    char name[N][16];
    f->t.bandwidth_limit_bytes = (uint64_t)1 << 20;
    reopen(f);
    uint64_t t0 = clk_mono_ms();
    for (unsigned i = 0; i < N; i++) {
        r[i] = request(f);
        (void)snprintf(name[i], sizeof name[i], "small%u", i);
        store_put(f->s, &r[i], name[i], &b, NULL, 0);
    }
    wait_done(f, N);
    uint64_t ms = clk_mono_ms() - t0;
    print_message("120 objects, 2.9 MiB at 1 MiB/s: %llu ms\n", (unsigned long long)ms);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(r[i].err.code, 0);
    assert_within(ms, 2600, 8000);
    free(some);
}

static void on_done_again(struct store_req *req)
{
    struct fix *f = req->data;
    static const struct store_body b = {.p = "x", .size = 1};
    assert_false(f->in_call);
    f->done++;
    f->in_call = true;
    if (f->done == 3)
        store_close(f->s, on_closed, f);
    if (f->done < 5) /* from the fourth on the store is closing, and still answers */
        store_put(f->s, req, "again", &b, NULL, 0);
    f->in_call = false;
}

static void done_may_submit_and_close(void **state)
{
    struct fix *f = *state;
    struct store_body b = {.p = "x", .size = 1};
    struct store_req r = request(f);
    r.done = on_done_again;
    store_put(f->s, &r, "again", &b, NULL, 0);
    f->in_call = false;
    unsigned before = f->closed;
    while (f->closed == before)
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    f->s = NULL;
    assert_int_equal(f->done, 5);
    assert_int_equal(r.err.code, ERR_CANCELED);
    assert_int_equal(requests(), 3);
}

/* ---- keys ---------------------------------------------------------------------------------- */

static void keys_come_from_where_they_are_put(void **state)
{
    struct fix *f = *state;
    struct cred c;
    struct err e = {0};
    cleanup_free char *file = util_printf("%s/secret", dir);
    set_secret(&f->t.secret_access_key, NULL);
    set(&f->t.secret_access_key_file, file);
    assert_int_equal(fsx_publish(file, SECRET "\n", strlen(SECRET) + 1, 0640, FSX_REPLACE, NULL),
                     0);
    assert_int_equal(cred_load(&f->t, &c, &e), -ERR_PERM);
    assert_non_null(strstr(e.hint, "chmod 600"));
    assert_int_equal(chmod(file, 0600), 0);
    reopen(f);
    ok(put(f, "k", "x", 0));
    set(&f->t.secret_access_key_file, NULL);
    assert_int_equal(cred_load(&f->t, &c, &e), -ERR_CONFIG);
    assert_non_null(strstr(e.hint, "secret-access-key-file"));
    /* a secret beside another key id is not ours */
    (void)setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER", 1);
    (void)setenv("AWS_SECRET_ACCESS_KEY", "other", 1);
    assert_int_equal(cred_load(&f->t, &c, &e), -ERR_CONFIG);
    (void)setenv("WALSUP_SECRET_ACCESS_KEY", SECRET, 1);
    assert_int_equal(cred_load(&f->t, &c, &e), 0);
    assert_string_equal(c.key_id, KEY_ID);
    assert_string_equal(secret_reveal(c.secret), SECRET);
    cred_done(&c);
    (void)unsetenv("WALSUP_SECRET_ACCESS_KEY");
    set(&f->t.access_key_id, NULL);
    assert_int_equal(cred_load(&f->t, &c, &e), 0);
    assert_string_equal(c.key_id, "AKIDOTHER");
    cred_done(&c);
    static const char shared[] = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
                                 "[ lab ]\n# comment\naws_access_key_id=c\n"
                                 "aws_secret_access_key =d=e\naws_session_token= f\n[x]\n";
    assert_int_equal(fsx_publish(file, shared, sizeof shared - 1, 0600, FSX_REPLACE, NULL), 0);
    set(&f->t.credentials_file, file);
    set(&f->t.profile, "lab");
    assert_int_equal(cred_load(&f->t, &c, &e), 0);
    assert_string_equal(c.key_id, "c");
    assert_string_equal(secret_reveal(c.secret), "d=e");
    assert_string_equal(secret_reveal(c.token), "f");
    cred_done(&c);
    set(&f->t.profile, "nobody");
    assert_int_equal(cred_load(&f->t, &c, &e), -ERR_CONFIG);
    set(&f->t.credentials_file, NULL);
    (void)setenv("CREDENTIALS_DIRECTORY", dir, 1);
    cleanup_free char *id = util_printf("%s/s3-access-key-id", dir);
    cleanup_free char *secret = util_printf("%s/s3-secret-access-key", dir);
    assert_int_equal(fsx_publish(id, "dirid\n", 6, 0440, FSX_REPLACE, NULL), 0);
    assert_int_equal(fsx_publish(secret, "dirsecret", 9, 0440, FSX_REPLACE, NULL), 0);
    assert_int_equal(cred_load(&f->t, &c, &e), 0);
    assert_string_equal(c.key_id, "dirid");
    assert_string_equal(secret_reveal(c.secret), "dirsecret");
    cred_done(&c);
    (void)unsetenv("CREDENTIALS_DIRECTORY");
    (void)unsetenv("AWS_ACCESS_KEY_ID");
    (void)unsetenv("AWS_SECRET_ACCESS_KEY");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(objects_come_back_whole_and_in_parts),
        T(metadata_comes_back),
        T(odd_keys_arrive_as_they_are),
        T(put_if_absent_keeps_the_first),
        T(a_session_token_is_sent),
        T(the_bucket_can_be_in_the_host_name),
        T(two_and_a_half_thousand_keys_are_listed),
        T(two_hundred_puts_at_once),
        T(a_large_file_is_sent_in_chunks),
        T(a_dead_kept_connection_costs_nothing),
        T(bandwidth_is_limited),
        T(bandwidth_is_limited_for_many_small_objects),
        T(done_may_submit_and_close),
        T(keys_come_from_where_they_are_put),
    };
    return cmocka_run_group_tests(tests, start_servers, end_servers);
}
