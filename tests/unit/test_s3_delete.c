/* Deleting from a bucket: many keys a request, what is refused, and stores that have no such request. */
#include "tests/unit/s3_harness.h"

#include "common/store/retry.h"

#define N 2300

static char many[N][24];
static const char *keys[N];

static void fill(struct fix *f, size_t n)
{
    struct store_req *r = util_zalloc(n * sizeof *r);
    struct store_body b = {.p = "x", .size = 1};
    for (size_t i = 0; i < n; i++) {
        r[i] = request(f);
        (void)snprintf(many[i], sizeof many[i], "del/%04zu", i);
        keys[i] = many[i];
        store_put(f->s, &r[i], keys[i], &b, NULL, 0);
    }
    wait_done(f, (unsigned)n);
    for (size_t i = 0; i < n; i++)
        ok(r[i].err);
    free(r);
    json_decref(control("/_reset", ""));
}

/* requests of that verb since the last reset */
static size_t asked(const char *verb)
{
    json_t *j = control("/_ledger", ""), *entry;
    size_t i, n = 0;
    json_array_foreach(j, i, entry)
        n += !strcmp(json_string_value(json_object_get(entry, "verb")), verb);
    json_decref(j);
    return n;
}

static size_t left(struct fix *f)
{
    ok(list(f, "del/", ""));
    return f->n_listed;
}

static void a_thousand_keys_go_in_one_request(void **state)
{
    struct fix *f = *state;
    fill(f, N);
    ok(delete(f, keys, N));
    assert_int_equal(asked("DELETES"), 3);
    assert_int_equal(asked("DELETE"), 0);
    assert_int_equal(left(f), 0);
    ok(delete(f, keys, 5)); /* what is not there is fine */
}

static void one_key_needs_no_list(void **state)
{
    struct fix *f = *state;
    fill(f, 2);
    ok(delete(f, keys, 1));
    assert_int_equal(asked("DELETES"), 0);
    assert_int_equal(asked("DELETE"), 1);
    assert_int_equal(left(f), 1);
}

static void a_key_that_is_refused_is_named_and_the_others_go(void **state)
{
    struct fix *f = *state;
    fill(f, 6);
    faults("[{\"verb\": \"DELETES\", \"action\": \"delete-errors\"}]");
    struct err e = delete(f, keys, 6);
    failed(e, ERR_AUTH, "3 of 6 objects were not deleted: DELETE \"p/q/del/0000\" in bucket bkt", "s3:DeleteObject");
    failed(e, ERR_AUTH, "403 AccessDenied, \"Access Denied\"", "");
    assert_int_equal(e.retry, RETRY_PARK);
    assert_int_equal(left(f), 3);
    assert_string_equal(f->listed[0], "del/0000");
    assert_string_equal(f->listed[2], "del/0004");
    faults("[]");
    ok(delete(f, keys, 6));
    assert_int_equal(left(f), 0);
}

#define ANSWER(text) "[{\"verb\": \"DELETES\", \"action\": \"status\", \"status\": 200, \"body\": \"" text "\"}]"
#define DELETED(key) "<Deleted><Key>p/q/del/" key "</Key></Deleted>"
#define REFUSED(key, code) "<Error><Key>p/q/del/" key "</Key><Code>" code "</Code><Message>m</Message></Error>"

static void what_each_answer_means(void **state)
{
    struct fix *f = *state;
    static const struct {
        const char *answer, *said;
        enum err_code code;
        enum retry_class retry;
    } rows[] = {
        {ANSWER("<DeleteResult>" DELETED("0001") REFUSED("0000", "NoSuchKey") "</DeleteResult>"), "", ERR_OK, 0},
        {ANSWER("<DeleteResult>" REFUSED("0000", "InternalError") DELETED("0001") "</DeleteResult>"),
         "1 of 2 objects were not deleted: DELETE \"p/q/del/0000\"", ERR_STORE, RETRY_BACKOFF},
        {ANSWER("<DeleteResult>" DELETED("0000") REFUSED("0001", "SlowDown") "</DeleteResult>"), "503 SlowDown",
         ERR_STORE, RETRY_SLOW},
        {ANSWER("<DeleteResult>" DELETED("0000") REFUSED("0001", "WhoKnows") "</DeleteResult>"), "WhoKnows", ERR_STORE,
         RETRY_BACKOFF},
        {ANSWER("<DeleteResult>" DELETED("0000") "</DeleteResult>"),
         "\"p/q/del/0001\" in bucket bkt", ERR_STORE, RETRY_BACKOFF},
        {ANSWER("<DeleteResult/>"), "2 of 2 objects were not deleted", ERR_STORE, RETRY_BACKOFF},
        {ANSWER("<DeleteResult><Deleted/></DeleteResult>"), "no usable key", ERR_STORE, 0},
        {ANSWER("<DeleteResult>" DELETED("0000")), "no complete XML document", ERR_STORE, 0},
        {ANSWER("<html>sign in</html>"), "<html> and no <DeleteResult>", ERR_STORE, 0},
        {ANSWER(""), "empty", ERR_STORE, 0},
        {ANSWER("<Error><Code>InternalError</Code><Message>m</Message></Error>"), "InternalError", ERR_STORE,
         RETRY_BACKOFF},
    };
    fill(f, 2);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        faults(rows[i].answer);
        struct err e = delete(f, keys, 2);
        failed(e, rows[i].code, rows[i].said, "");
        if (rows[i].retry)
            assert_int_equal(e.retry, rows[i].retry);
        assert_int_equal(asked("DELETE"), 0);
    }
    print_message("%zu answers\n", ARRAY_LEN(rows));
}

static void a_store_without_it_is_asked_once_and_gets_one_key_at_a_time(void **state)
{
    struct fix *f = *state;
    static const char *const lacks[] = {
        "\"status\": 501, \"code\": \"NotImplemented\"", "\"status\": 501", "\"status\": 405",
        "\"status\": 404", "\"status\": 400, \"code\": \"InvalidArgument\"",
        "\"status\": 400, \"code\": \"MalformedPOSTRequest\""};
    for (size_t i = 0; i < ARRAY_LEN(lacks); i++) {
        fill(f, 4);
        cleanup_free char *rule = util_printf("[{\"verb\": \"DELETES\", \"action\": \"status\", %s}]", lacks[i]);
        faults(rule);
        ok(delete(f, keys, 4));
        assert_int_equal(asked("DELETES"), 1);
        assert_int_equal(asked("DELETE"), 4);
        ok(delete(f, keys, 4));
        assert_int_equal(asked("DELETES"), 1);
        assert_int_equal(left(f), 0);
        reopen(f);
    }
    print_message("%zu ways not to have it\n", ARRAY_LEN(lacks));
}

static void trouble_is_not_taken_for_lacking_it(void **state)
{
    struct fix *f = *state;
    static const struct {
        const char *rule;
        enum err_code code;
    } rows[] = {
        {"\"action\": \"status\", \"status\": 500", ERR_STORE},
        {"\"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\"", ERR_STORE},
        {"\"action\": \"status\", \"status\": 403, \"code\": \"AccessDenied\"", ERR_AUTH},
        {"\"action\": \"status\", \"status\": 404, \"code\": \"NoSuchBucket\"", ERR_NOTFOUND},
        {"\"action\": \"status\", \"status\": 400, \"code\": \"RequestTimeout\"", ERR_STORE},
        {"\"action\": \"status\", \"status\": 400, \"code\": \"BadDigest\"", ERR_STORE},
        {"\"action\": \"status\", \"status\": 400, \"code\": \"ExpiredToken\"", ERR_AUTH},
        {"\"action\": \"reset-before\"", ERR_NET},
        {"\"action\": \"reset-after\"", ERR_NET},
    };
    fill(f, 3);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        reopen(f);
        cleanup_free char *rule = util_printf("[{\"verb\": \"DELETES\", %s}]", rows[i].rule);
        faults(rule);
        struct err e = delete(f, keys, 3);
        failed(e, rows[i].code, "DELETE several beginning with \"p/q/del/0000\" in bucket bkt", "");
        faults("[]");
        ok(delete(f, keys, 3));
        assert_int_equal(asked("DELETES"), 1);
        assert_int_equal(asked("DELETE"), 0);
    }
}

static void a_clock_that_is_wrong_is_learned_and_the_list_sent_again(void **state)
{
    struct fix *f = *state;
    fill(f, 3);
    json_decref(control("/_clock", "{\"offset_ms\": 7200000}"));
    ok(delete(f, keys, 3));
    json_decref(control("/_clock", "{\"offset_ms\": 0}"));
    assert_int_equal(asked("DELETES"), 2);
}

static void it_can_be_canceled_between_two_lists(void **state)
{
    struct fix *f = *state;
    fill(f, N);
    faults("[{\"verb\": \"DELETES\", \"nth\": 2, \"action\": \"stall\"}]");
    struct store_req r = request(f);
    store_delete(f->s, &r, keys, N);
    f->in_call = false;
    while (asked("DELETES") < 2)
        (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    store_cancel(&r);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_CANCELED);
    faults("[]");
    assert_int_equal(left(f), N - 1000);
}

/* a page to sign in at */
static void a_200_with_a_text_is_no_deletion(void **state)
{
    struct fix *f = *state;
    fill(f, 1);
    faults("[{\"verb\": \"DELETE\", \"action\": \"status\", \"status\": 200, \"html\": true}]");
    failed(delete(f, keys, 1), ERR_STORE, "no answer of S3 to a deletion", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_thousand_keys_go_in_one_request),
        T(one_key_needs_no_list),
        T(a_key_that_is_refused_is_named_and_the_others_go),
        T(what_each_answer_means),
        T(a_store_without_it_is_asked_once_and_gets_one_key_at_a_time),
        T(trouble_is_not_taken_for_lacking_it),
        T(a_clock_that_is_wrong_is_learned_and_the_list_sent_again),
        T(it_can_be_canceled_between_two_lists),
        T(a_200_with_a_text_is_no_deletion),
    };
    return cmocka_run_group_tests(tests, start_servers, end_servers);
}
