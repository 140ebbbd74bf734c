/* Objects that go up to a bucket in parts, against s3fault: nothing is called stored that is not
 * there whole, one lost connection costs one part, and nothing is left behind. */
#include "tests/unit/s3_harness.h"

#include "common/store/s3_xml.h"

#include <sys/resource.h>

#define PART ((size_t)64 << 10)
#define N (PART * 9 + 77)

static uint8_t big[N];
static const struct store_meta meta = {.timestamp_ms = 1700000000000, .checksum = 11, .lineage = 12};

static int small_parts(void **state)
{
    (void)setenv("WALSUP_TEST_S3_PART_BYTES", "65536", 1);
    for (size_t i = 0; i < N; i++)
        big[i] = (uint8_t)(i ^ i >> 8 ^ i >> 16);
    int r = setup(state);
    /* a beginning whose answer was lost leaves an upload that nobody knows: not for this test */
    struct fix *f = *state;
    struct store_req sweep = request(f);
    store_sweep(f->s, &sweep, "", 0);
    wait_done(f, 1);
    return r;
}

static struct err put_big(struct fix *f, const char *key, unsigned flags)
{
    struct store_body b = {.p = big, .size = N};
    return put_body(f, key, &b, &meta, flags);
}

static size_t uploads(void)
{
    json_t *j = control("/_uploads", "");
    size_t n = json_array_size(j);
    json_decref(j);
    return n;
}

static long long counted(const char *verb, const char *status)
{
    json_t *j = control("/_counts", "");
    long long n = json_integer_value(json_object_get(json_object_get(j, verb), status));
    json_decref(j);
    return n;
}

static void is_there_whole(struct fix *f, const char *key)
{
    struct store_info info = {0};
    ok(get(f, key, 0, UINT64_MAX, &info));
    assert_int_equal(f->got.len, N);
    assert_memory_equal(f->got.p, big, N);
    assert_int_equal(info.meta.checksum, 11);
    assert_int_equal(info.meta.lineage, 12);
}

static void a_large_put_goes_up_in_parts(void **state)
{
    struct fix *f = *state;
    ok(put_big(f, "k", 0));
    assert_int_equal(counted("PUT", "200"), 0);
    assert_int_equal(counted("PART", "200"), 10);
    assert_true(ledger_says_stored("p/q/k"));
    is_there_whole(f, "k");
    cleanup_free char *src = util_printf("%s/src", dir);
    assert_int_equal(fsx_publish(src, big, N, 0600, FSX_REPLACE, NULL), 0);
    struct store_body b = {.path = src, .size = N};
    ok(put_body(f, "file", &b, &meta, 0));
    is_there_whole(f, "file");
    b.size--;
    failed(put_body(f, "short", &b, &meta, 0), ERR_CORRUPT, "were announced", "");
    assert_false(ledger_says_stored("p/q/short"));
    assert_int_equal(uploads(), 0);
    assert_true(stat_of("peak") <= 4);
}

static void the_answer_that_begins_an_upload_may_bear_another_name(void **state)
{
    struct fix *f = *state;
    json_decref(control("/_profile", "{\"created\": \"InitiateMultipartUpload\"}"));
    ok(put_big(f, "k", 0));
    is_there_whole(f, "k");
    json_decref(control("/_profile", "{}"));
    static const char error[] = "<Error><UploadId>u1</UploadId></Error>"; /* the control */
    assert_null(s3_xml_created(error, sizeof error - 1));
}

static void trouble_in_any_step_costs_that_step(void **state)
{
    struct fix *f = *state;
    static const char *const verbs[] = {"CREATE", "PART", "COMPLETE"};
    static const char *const what[] = {
        "\"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\"",
        "\"action\": \"status\", \"status\": 500",
        "\"action\": \"store-then\"",
        "\"action\": \"reset-before\"",
        "\"action\": \"reset-mid-upload\"",
        "\"action\": \"reset-after\"",
        "\"action\": \"reset-after\", \"stored\": true",
        "\"action\": \"no-store\"",
        "\"action\": \"error-200\", \"etag\": true",
        "\"action\": \"truncate\"",
    };
    for (size_t v = 0; v < ARRAY_LEN(verbs); v++) {
        for (size_t i = 0; i < ARRAY_LEN(what); i++) {
            cleanup_free char *rule = util_printf("[{\"verb\": \"%s\", \"nth\": %d, \"count\": 1, %s}]",
                                                  verbs[v], v == 1 ? 4 : 1, what[i]);
            cleanup_free char *key = util_printf("t/%zu-%zu", v, i);
            faults(rule);
            struct err e = put_big(f, key, STORE_IF_ABSENT);
            if (e.code)
                fail_msg("%s: %s", rule, e.msg);
            cleanup_free char *whole = util_printf("p/q/%s", key);
            assert_true(ledger_says_stored(whole));
            assert_true(counted("PART", "200") <= 11);
            is_there_whole(f, key);
        }
    }
}

static void what_does_not_pass_is_an_error_and_leaves_nothing(void **state)
{
    struct fix *f = *state;
    static const struct {
        const char *verb, *rule;
        enum err_code code;
        const char *said;
    } rows[] = {
        {"CREATE", "\"status\": 403, \"code\": \"AccessDenied\"", ERR_AUTH, "begin the upload of"},
        {"PART", "\"status\": 403, \"code\": \"AccessDenied\"", ERR_AUTH, "PUT a part of"},
        {"COMPLETE", "\"status\": 403, \"code\": \"AccessDenied\"", ERR_AUTH, "complete the upload"},
        {"PART", "\"status\": 404, \"code\": \"NoSuchUpload\"", ERR_NOTFOUND, "NoSuchUpload"},
        {"COMPLETE", "\"status\": 404, \"code\": \"NoSuchUpload\"", ERR_NOTFOUND, "NoSuchUpload"},
        {"COMPLETE", "\"status\": 400, \"code\": \"InvalidPart\"", ERR_STORE, "InvalidPart"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cleanup_free char *rule = util_printf("[{\"verb\": \"%s\", \"action\": \"status\", %s}]",
                                              rows[i].verb, rows[i].rule);
        faults(rule);
        failed(put_big(f, "x/never", 0), rows[i].code, rows[i].said, "");
        assert_false(ledger_says_stored("p/q/x/never"));
        assert_int_equal(uploads(), 0);
        failed(head(f, "x/never", NULL), ERR_NOTFOUND, "404", "");
    }
}

static void an_object_in_the_way_of_a_large_put_is_a_conflict(void **state)
{
    struct fix *f = *state;
    ok(put(f, "c", "somebody else's", 0));
    failed(put_big(f, "c", STORE_IF_ABSENT), ERR_CONFLICT, "412", "another writer");
    assert_int_equal(uploads(), 0);
    ok(get(f, "c", 0, UINT64_MAX, NULL));
    assert_string_equal(buf_str(&f->got), "somebody else's");
}

static void cancel_ends_a_large_put_wherever_it_is(void **state)
{
    struct fix *f = *state;
    for (unsigned i = 0; i < 60; i += 4) {
        struct store_body b = {.p = big, .size = N};
        struct store_req r = request(f);
        store_put(f->s, &r, "canceled", &b, &meta, 0);
        f->in_call = false;
        for (unsigned k = 0; k < i && !f->done; k++)
            (void)uv_run(&f->loop, UV_RUN_ONCE);
        if (!f->done)
            store_cancel(&r);
        wait_done(f, 1);
        assert_true(r.err.code == ERR_CANCELED || r.err.code == ERR_OK);
    }
    /* one whose beginning was canceled may have begun all the same: the sweep is for that */
    struct store_req r = request(f);
    store_sweep(f->s, &r, "", 0);
    wait_done(f, 1);
    ok(r.err);
    assert_int_equal(uploads(), 0);
}

static void what_a_killed_process_left_is_swept(void **state)
{
    struct fix *f = *state;
    static const char *const keys[] = {"a/1/x", "a/2/x", "a/3/x"};
    struct store_upload *u = NULL;
    for (unsigned i = 0; i < 3; i++) {
        store_upload_free(u); /* each but the last is forgotten */
        u = store_upload_new(f->s, keys[i], NULL, 0, 0);
        struct store_req r = request(f);
        store_upload_begin(u, &r);
        wait_done(f, 1);
        ok(r.err);
    }
    assert_int_equal(uploads(), 3);
    static const struct {
        const char *prefix;
        uint64_t older_ms;
        size_t left;
    } rows[] = {{"z/", 0, 3}, {"a/", 3600000, 3}, {"a/", 0, 1}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct store_req r = request(f);
        store_sweep(f->s, &r, rows[i].prefix, rows[i].older_ms);
        wait_done(f, 1);
        ok(r.err);
        assert_int_equal(uploads(), rows[i].left);
    }
    store_upload_free(u);
    u = store_upload_new(f->s, "a/3/y", NULL, 0, 0); /* the next one into that directory */
    struct store_req b = request(f);
    store_upload_begin(u, &b);
    wait_done(f, 1);
    ok(b.err);
    assert_int_equal(uploads(), 1);
    store_upload_free(u);
    faults("[{\"verb\": \"UPLOADS\", \"action\": \"cut-listing\"}]");
    struct store_req r = request(f);
    store_sweep(f->s, &r, "", 0);
    wait_done(f, 1);
    failed(r.err, ERR_STORE, "no complete XML", "");
    faults("[]");
    r = request(f);
    store_sweep(f->s, &r, "", 0);
    wait_done(f, 1);
    ok(r.err);
    assert_int_equal(uploads(), 0);
}

static uint64_t gib(void)
{
    const char *v = getenv("WALSUP_BIG_GIB");
    return v ? strtoull(v, NULL, 10) : 0;
}

/* `make big`: a sparse file beyond what one PUT may be. Neither end keeps it in memory or on disk. */
static void a_put_beyond_5_gib(void **state)
{
    struct fix *f = *state;
    uint64_t size = (gib() << 30) + 12345, t0 = clk_mono_ms();
    cleanup_free char *src = util_printf("%s/sparse", dir);
    cleanup_close int fd = open(src, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite(fd, "first", 5, 0), 5);
    assert_int_equal(pwrite(fd, "last!", 5, (off_t)size - 5), 5);
    struct store_body b = {.path = src, .size = size};
    struct store_req r = request(f);
    store_put(f->s, &r, "huge", &b, &meta, STORE_IF_ABSENT);
    f->in_call = false;
    while (!f->done)
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    f->done = 0;
    ok(r.err);
    struct store_info info = {0};
    ok(head(f, "huge", &info));
    assert_int_equal(info.size, size);
    ok(get(f, "huge", 0, 5, NULL));
    assert_memory_equal(f->got.p, "first", 5);
    ok(get(f, "huge", size - 5, 5, NULL));
    assert_memory_equal(f->got.p, "last!", 5);
    struct rusage u;
    assert_int_equal(getrusage(RUSAGE_SELF, &u), 0);
    print_message("%llu bytes in %lld parts, %.1f s, %ld MiB of memory\n", (unsigned long long)size,
                  counted("PART", "200"), (double)(clk_mono_ms() - t0) / 1000, u.ru_maxrss / 1024);
    assert_true(u.ru_maxrss < 256 << 10);
    static const char *const keys[] = {"huge"};
    ok(delete(f, keys, 1));
}

static int large_parts(void **state)
{
    (void)unsetenv("WALSUP_TEST_S3_PART_BYTES");
    return setup(state);
}

int main(void)
{
    if (gib()) {
        const struct CMUnitTest huge[] = {
            cmocka_unit_test_setup_teardown(a_put_beyond_5_gib, large_parts, teardown)};
        return cmocka_run_group_tests(huge, start_servers, end_servers);
    }
#define TB(fn) cmocka_unit_test_setup_teardown(fn, small_parts, teardown)
    const struct CMUnitTest tests[] = {
        TB(a_large_put_goes_up_in_parts),
        TB(the_answer_that_begins_an_upload_may_bear_another_name),
        TB(trouble_in_any_step_costs_that_step),
        TB(what_does_not_pass_is_an_error_and_leaves_nothing),
        TB(an_object_in_the_way_of_a_large_put_is_a_conflict),
        TB(cancel_ends_a_large_put_wherever_it_is),
        TB(what_a_killed_process_left_is_swept),
    };
    return cmocka_run_group_tests(tests, start_servers, end_servers);
}
