/* What an error means for the next request: the table of classes, the pace of a store in trouble,
 * and what a store learns from an answer. */
#include "tests/unit/s3_harness.h"

#include "common/store/s3_class.h"
#include "common/store/s3_pace.h"

static void each_answer_has_its_class(void **state)
{
    (void)state;
    static const struct {
        long status;
        const char *code;
        enum retry_class class;
    } rows[] = {
        {500, "", RETRY_BACKOFF}, {502, "", RETRY_BACKOFF}, {504, "", RETRY_BACKOFF},
        {500, "InternalError", RETRY_BACKOFF}, {503, "", RETRY_SLOW}, {503, "SlowDown", RETRY_SLOW},
        {429, "", RETRY_SLOW}, {400, "SlowDown", RETRY_SLOW}, {408, "", RETRY_BACKOFF},
        {400, "RequestTimeout", RETRY_BACKOFF}, {400, "BadDigest", RETRY_BACKOFF},
        {409, "ConditionalRequestConflict", RETRY_BACKOFF}, {409, "", RETRY_BACKOFF},
        {412, "PreconditionFailed", RETRY_CONFLICT}, {412, "", RETRY_CONFLICT},
        {403, "", RETRY_PARK}, {401, "", RETRY_PARK}, {403, "AccessDenied", RETRY_PARK},
        {403, "SignatureDoesNotMatch", RETRY_PARK}, {403, "InvalidAccessKeyId", RETRY_PARK},
        {404, "NoSuchBucket", RETRY_PARK}, {404, "", RETRY_PARK}, {507, "", RETRY_PARK},
        {403, "QuotaExceeded", RETRY_PARK}, {403, "RequestTimeTooSkewed", RETRY_RESIGN},
        {400, "ExpiredToken", RETRY_RESIGN}, {400, "AuthorizationHeaderMalformed", RETRY_RESIGN},
        {301, "PermanentRedirect", RETRY_RESIGN}, {301, "", RETRY_PARK}, {307, "", RETRY_PARK},
        {400, "InvalidArgument", RETRY_BUG}, {400, "", RETRY_BUG}, {405, "", RETRY_BUG},
        {501, "NotImplemented", RETRY_BUG}, {200, "InternalError", RETRY_BACKOFF},
        {200, "SlowDown", RETRY_SLOW},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct s3_answer a = {.status = rows[i].status};
        if (s3_class(&a, rows[i].code) != rows[i].class)
            fail_msg("%ld %s: %d", rows[i].status, rows[i].code, (int)s3_class(&a, rows[i].code));
    }
    struct s3_answer none = {.curl = 7}; /* CURLE_COULDNT_CONNECT */
    assert_int_equal(s3_class(&none, ""), RETRY_BACKOFF);
    none.curl = 60; /* CURLE_PEER_FAILED_VERIFICATION */
    assert_int_equal(s3_class(&none, ""), RETRY_PARK);
}

/* 200 databases that want to upload once a second, through an outage of ten minutes */
static void a_storm_sees_fewer_requests_than_a_calm(void **state)
{
    (void)state;
    enum { DBS = 200 };
    struct s3_pace p;
    struct retry retry[DBS] = {{0}};
    uint64_t due[DBS], sent[3] = {0};
    struct err down = {.code = ERR_STORE, .retry = RETRY_SLOW};
    s3_pace_init(&p, 8, 0);
    for (size_t i = 0; i < DBS; i++)
        due[i] = i * 5;
    for (uint64_t now = 0; now < 1500000; now += 5) {
        unsigned phase = now < 600000 ? 0 : now < 1200000 ? 1 : 2;
        for (size_t i = 0; i < DBS; i++) {
            if (due[i] > now || s3_pace_wait(&p, 0, now))
                continue;
            sent[phase]++;
            if (phase == 1) {
                s3_pace_failed(&p, RETRY_SLOW, 0, now, now);
                due[i] = now + retry_after(&retry[i], &down);
            } else {
                s3_pace_ok(&p, now);
                retry_ok(&retry[i]);
                due[i] = now + 1000;
            }
        }
        if (now == 1235000) /* half a minute after it everybody has been served again */
            for (size_t i = 0; i < DBS; i++)
                assert_int_equal(retry[i].failures, 0);
    }
    print_message("requests in 10 min of calm %llu, of 503 %llu, ratio %.3f\n",
                  (unsigned long long)sent[0], (unsigned long long)sent[1],
                  (double)sent[1] / (double)sent[0]);
    assert_true(sent[1] > 100 && sent[1] * 10 <= sent[0] * 12);
    assert_int_equal(p.limit, 8);
}

/* A server that admits two requests a second, one of which is always wanted */
static void a_limit_of_two_a_second_is_met_with_few_refusals(void **state)
{
    (void)state;
    struct s3_pace p;
    double admitted = 2;
    unsigned served = 0, refused = 0;
    s3_pace_init(&p, 8, 0);
    for (uint64_t now = 0; now < 120000; now += 5) {
        admitted = MIN(admitted + 2 * 0.005, 2.0);
        if (s3_pace_wait(&p, 0, now))
            continue;
        if (admitted < 1) {
            refused++;
            s3_pace_failed(&p, RETRY_SLOW, 0, now, now);
            continue;
        }
        admitted -= 1;
        served++;
        s3_pace_ok(&p, now);
    }
    print_message("of 240 in two minutes %u were served, %u refused\n", served, refused);
    assert_true(served >= 160 && refused * 5 <= served);
}

static void slow_down_halves_and_success_adds_one(void **state)
{
    (void)state;
    struct s3_pace p;
    s3_pace_init(&p, 16, 0);
    s3_pace_failed(&p, RETRY_SLOW, 0, 90, 100);
    assert_int_equal(p.limit, 8);
    s3_pace_failed(&p, RETRY_SLOW, 0, 90, 105); /* sent before the cut: says nothing new */
    assert_int_equal(p.limit, 8);
    s3_pace_failed(&p, RETRY_SLOW, 0, 110, 120);
    assert_int_equal(p.limit, 4);
    for (unsigned i = 0; i < 4; i++)
        s3_pace_ok(&p, 130);
    assert_int_equal(p.limit, 5);
    for (uint64_t t = 200; t < 210; t++)
        s3_pace_failed(&p, RETRY_SLOW, 0, t, t);
    assert_int_equal(p.limit, 1);
    assert_int_equal(s3_pace_wait(&p, 1, 210), UINT64_MAX);
    s3_pace_failed(&p, RETRY_SLOW, 7000, 211, 211);
    assert_int_equal(s3_pace_wait(&p, 0, 211), 7000);
    s3_pace_failed(&p, RETRY_SLOW, 86400000, 212, 212); /* a day: nobody means that */
    assert_int_equal(s3_pace_wait(&p, 0, 212), 300000);
    s3_pace_ok(&p, 211); /* sent before: says nothing */
    assert_int_equal(s3_pace_wait(&p, 0, 212), 300000);
    s3_pace_ok(&p, 212);
    assert_in_range(s3_pace_wait(&p, 0, 213), 900, 1000); /* nor is it back at full speed */
    for (unsigned i = 0; i < 100; i++)
        s3_pace_ok(&p, 220);
    assert_int_equal(s3_pace_wait(&p, 0, 1300), 0);
    assert_int_equal(s3_pace_wait(&p, 0, 1300), 0);
}

/* ---- learning ---------------------------------------------------------------------------------- */

static void a_clock_that_is_wrong_costs_one_request(void **state)
{
    struct fix *f = *state;
    static const int hours[] = {5, -30};
    for (size_t i = 0; i < ARRAY_LEN(hours); i++) {
        cleanup_free char *body = util_printf("{\"offset_ms\": %lld}", hours[i] * 3600000ll);
        json_decref(control("/_clock", body));
        faults("[]");
        ok(put(f, "k", "x", 0));
        assert_int_equal(requests(), 2);
        ok(put(f, "k", "x", 0));
        assert_int_equal(requests(), 3);
    }
    json_decref(control("/_clock", "{}"));
    /* without a Date, or with one that explains nothing, it is an error */
    faults("[{\"action\": \"status\", \"status\": 403, \"code\": \"RequestTimeTooSkewed\"}]");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_AUTH, "TooSkewed", "clock");
    assert_int_equal(requests(), 1);
}

static void a_region_is_learned_over_tls_only(void **state)
{
    struct fix *f = *state;
    set(&f->t.region, "eu-north-9");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_CONFIG, "AuthorizationHeaderMalformed", "region = us-east-1");
    cleanup_free char *https = util_printf("https://localhost:%d", tls.port);
    cleanup_free char *ca = util_printf("%s/cert.pem", dir);
    set(&f->t.endpoint, https);
    set(&f->t.ca_file, ca);
    reopen(f);
    ok(put(f, "k", "x", 0));
}

static void new_keys_are_used_without_a_restart(void **state)
{
    struct fix *f = *state;
    cleanup_free char *file = util_printf("%s/secret", dir);
    set_secret(&f->t.secret_access_key, NULL);
    set(&f->t.secret_access_key_file, file);
    assert_int_equal(fsx_publish(file, "first", 5, 0600, FSX_REPLACE, NULL), 0);
    reopen(f);
    store_share(f->s);
    failed(put(f, "k", "x", 0), ERR_AUTH, "SignatureDoesNotMatch", "");
    /* everybody else hears of it without a request: it is one probe for all */
    for (unsigned i = 0; i < 50; i++)
        failed(put(f, "others", "x", 0), ERR_AUTH, "SignatureDoesNotMatch", "");
    assert_int_equal(requests(), 1);
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_AUTH, "SignatureDoesNotMatch", "");
    assert_int_equal(fsx_publish(file, SECRET, strlen(SECRET), 0600, FSX_REPLACE, NULL), 0);
    faults("[]");
    ok(put(f, "k", "x", 0));
    assert_int_equal(requests(), 2);
    ok(put(f, "k", "x", 0));
    assert_int_equal(requests(), 3);
}

static void a_store_that_is_slow_gets_fewer_at_a_time(void **state)
{
    struct fix *f = *state;
    struct store_req r[40];
    struct store_body b = {.p = "x", .size = 1};
    faults("[{\"action\": \"status\", \"status\": 503, \"headers\": {\"Retry-After\": \"1\"}, "
           "\"count\": 8}]");
    uint64_t t0 = clk_mono_ms();
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        r[i] = request(f);
        store_put(f->s, &r[i], "k", &b, NULL, 0);
    }
    wait_done(f, ARRAY_LEN(r));
    unsigned refused = 0;
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        refused += r[i].err.code == ERR_STORE;
        if (r[i].err.code) {
            assert_int_equal(r[i].err.retry, RETRY_SLOW);
            assert_int_equal(r[i].err.after_ms, 1000);
        }
    }
    assert_int_equal(refused, 8);
    assert_true(clk_mono_ms() - t0 >= 1000); /* the ninth waited as long as it was asked to */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(each_answer_has_its_class),
        T(a_storm_sees_fewer_requests_than_a_calm),
        T(a_limit_of_two_a_second_is_met_with_few_refusals),
        T(slow_down_halves_and_success_adds_one),
        T(a_clock_that_is_wrong_costs_one_request),
        T(a_region_is_learned_over_tls_only),
        T(new_keys_are_used_without_a_restart),
        T(a_store_that_is_slow_gets_fewer_at_a_time),
    };
    return cmocka_run_group_tests(tests, start_servers, end_servers);
}
