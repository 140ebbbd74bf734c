/* The S3 store against tests/s3fault with scripted faults. What the tests are after: nothing
 * is ever called stored that the server may not have, nothing is ever called complete that is not,
 * and every error says where and what to change. */
#include "tests/unit/s3_harness.h"
#include "tests/unit/within.h"

#include "common/store/s3_easy.h"

/* ---- refusals ------------------------------------------------------------------------------ */

static void refusals_say_what_to_change(void **state)
{
    struct fix *f = *state;
    set_secret(&f->t.secret_access_key, "wrong");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_AUTH, "SignatureDoesNotMatch", "secret access key");
    failed(list(f, "", ""), ERR_AUTH, "SignatureDoesNotMatch", "secret access key");
    set_secret(&f->t.secret_access_key, SECRET);
    set(&f->t.access_key_id, "AKIDWHO");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_AUTH, "InvalidAccessKeyId", "AKIDWHO");
    set(&f->t.access_key_id, KEY_ID);
    set(&f->t.bucket, "nosuch");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_NOTFOUND, "NoSuchBucket", "create the bucket nosuch");
    failed(list(f, "", ""), ERR_NOTFOUND, "NoSuchBucket", "create the bucket nosuch");
    static const char *const keys[] = {"k"};
    failed(delete(f, keys, 1), ERR_NOTFOUND, "NoSuchBucket", "create the bucket nosuch");
    set(&f->t.bucket, "bkt");
    set(&f->t.region, "eu-north-9");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_CONFIG, "AuthorizationHeaderMalformed", "region = us-east-1");
    set(&f->t.region, "us-east-1");
    reopen(f);
    static const struct {
        const char *rule;
        enum err_code code;
        const char *said, *hint;
    } rows[] = {
        {"\"status\": 403, \"code\": \"AccessDenied\"", ERR_AUTH, "403 AccessDenied",
         "s3:PutObject"},
        {"\"status\": 403", ERR_AUTH, "403", "permission"},
        {"\"status\": 403, \"code\": \"RequestTimeTooSkewed\", "
         "\"headers\": {\"Date\": \"Thu, 01 Jan 2026 00:00:00 GMT\"}", ERR_AUTH, "TooSkewed",
         "clock"},
        {"\"status\": 400, \"code\": \"ExpiredToken\"", ERR_AUTH, "ExpiredToken", "token"},
        {"\"status\": 400, \"body\": \"Client sent an HTTP request to an HTTPS server.\"",
         ERR_STORE, "HTTPS server", "https://"},
        {"\"status\": 404", ERR_NOTFOUND, "404", "check bucket"},
        {"\"status\": 503, \"code\": \"SlowDown\"", ERR_STORE, "503 SlowDown", ""},
        {"\"status\": 429", ERR_STORE, "429", ""},
        {"\"status\": 507", ERR_NOSPC, "507", "quota"},
        {"\"status\": 403, \"code\": \"QuotaExceeded\"", ERR_NOSPC, "Quota", "quota"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cleanup_free char *rule =
            util_printf("[{\"action\": \"status\", %s}]", rows[i].rule);
        faults(rule);
        failed(put(f, "k", "x", 0), rows[i].code, rows[i].said, rows[i].hint);
        assert_false(ledger_says_stored("p/q/k"));
    }
}

static void unreachable_servers_are_told_apart(void **state)
{
    struct fix *f = *state;
    set(&f->t.endpoint, "http://127.0.0.1:1");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_NET, "nothing listens at 127.0.0.1:1", "running");
    set(&f->t.endpoint, "http://host.invalid");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_NET, "host.invalid does not resolve", "endpoint");
    struct err e;
    struct store *s = NULL;
    static const char *const bad[] = {"127.0.0.1", "ftp://x", "https://", "https://h/bucket",
                                      "https://user@h"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        set(&f->t.endpoint, bad[i]);
        assert_int_equal(store_open(&f->loop, &f->t, &s, &e), -ERR_CONFIG);
    }
    assert_null(s);
}

/* ---- lies ---------------------------------------------------------------------------------- */

static void no_lie_makes_a_put_a_success(void **state)
{
    struct fix *f = *state;
    static const struct {
        const char *rule;
        enum err_code code;
    } rows[] = {
        {"\"action\": \"status\", \"status\": 503", ERR_STORE},
        {"\"action\": \"status\", \"status\": 500", ERR_STORE},
        {"\"action\": \"status\", \"status\": 403", ERR_AUTH},
        {"\"action\": \"status\", \"status\": 412", ERR_CONFLICT},
        {"\"action\": \"status\", \"status\": 301", ERR_CONFIG},
        {"\"action\": \"status\", \"status\": 204", ERR_STORE},
        {"\"action\": \"status\", \"status\": 201", ERR_STORE},
        {"\"action\": \"status\", \"status\": 502, \"html\": true", ERR_STORE},
        {"\"action\": \"status\", \"status\": 200, \"html\": true", ERR_STORE},
        {"\"action\": \"status\", \"status\": 503, \"code\": \"SlowDown\"", ERR_STORE},
        {"\"action\": \"truncate\"", ERR_STORE},
        {"\"action\": \"reset-before\"", ERR_NET},
        {"\"action\": \"reset-after\"", ERR_NET},
        {"\"action\": \"reset-after\", \"stored\": true", ERR_NET},
        {"\"action\": \"no-store\"", ERR_STORE},
        {"\"action\": \"error-200\"", ERR_STORE},
        {"\"action\": \"error-200\", \"etag\": true", ERR_STORE},
        {"\"action\": \"store-then\"", ERR_STORE},
        {"\"action\": \"big-header\"", ERR_STORE},
        {"\"action\": \"big-body\"", ERR_STORE},
        {"\"action\": \"big-body\", \"status\": 200", ERR_NET},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cleanup_free char *rule = util_printf("[{\"verb\": \"PUT\", %s}]", rows[i].rule);
        cleanup_free char *key = util_printf("lie/%zu", i);
        faults(rule);
        struct err e = put(f, key, "content", 0);
        if (e.code != rows[i].code)
            fail_msg("%s: %s \"%s\"", rule, err_name(e.code), e.msg);
        assert_non_null(strstr(e.msg, key));
    }
}

static void a_put_acknowledged_too_early_is_no_success(void **state)
{
    struct fix *f = *state;
    size_t n = (size_t)8 << 20;
    uint8_t *big = util_zalloc(n);
    struct store_body b = {.p = big, .size = n};
    faults("[{\"verb\": \"PUT\", \"action\": \"early-200\"}]");
    assert_int_not_equal(put_body(f, "early", &b, NULL, 0).code, ERR_OK);
    assert_false(ledger_says_stored("p/q/early"));
    free(big);
}

/* What nobody can see from the answer: a perfect 200 for nothing. An audit of the replica has to
 * find that; here it is only written down. */
static void a_perfect_lie_is_believed(void **state)
{
    struct fix *f = *state;
    faults("[{\"verb\": \"PUT\", \"action\": \"no-store\", \"etag\": true}]");
    ok(put(f, "phantom", "content", 0));
    assert_false(ledger_says_stored("p/q/phantom"));
    faults("[]");
    assert_int_equal(head(f, "phantom", NULL).code, ERR_NOTFOUND);
}

static void no_lie_makes_a_get_a_success(void **state)
{
    struct fix *f = *state;
    ok(put(f, "g", "0123456789", 0));
    static const struct {
        const char *rule;
        uint64_t off, len;
        enum err_code code;
    } rows[] = {
        {"\"action\": \"truncate\"", 0, UINT64_MAX, ERR_STORE},
        {"\"action\": \"truncate\"", 2, 6, ERR_STORE},
        {"\"action\": \"ignore-range\"", 2, 6, ERR_STORE},
        {"\"action\": \"ignore-range\"", 2, UINT64_MAX, ERR_STORE},
        {"\"action\": \"wrong-range\"", 2, 6, ERR_STORE},
        {"\"action\": \"no-length\"", 0, UINT64_MAX, ERR_STORE},
        {"\"action\": \"status\", \"status\": 206, \"body\": \"0123456789\"", 0, UINT64_MAX,
         ERR_STORE},
        {"\"action\": \"status\", \"status\": 206, \"body\": \"234567\"", 2, 6, ERR_STORE},
        {"\"action\": \"status\", \"status\": 204", 0, UINT64_MAX, ERR_STORE},
        {"\"action\": \"status\", \"status\": 503", 0, UINT64_MAX, ERR_STORE},
        {"\"action\": \"status\", \"status\": 503, \"html\": true", 2, 6, ERR_STORE},
        {"\"action\": \"reset-after\"", 0, UINT64_MAX, ERR_NET},
        {"\"action\": \"big-header\"", 0, UINT64_MAX, ERR_STORE},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cleanup_free char *rule = util_printf("[{\"verb\": \"GET\", %s}]", rows[i].rule);
        faults(rule);
        struct err e = get(f, "g", rows[i].off, rows[i].len, NULL);
        if (e.code != rows[i].code)
            fail_msg("%s: %s \"%s\"", rule, err_name(e.code), e.msg);
        /* at most the right beginning of the right part has been delivered */
        assert_true(f->got.len < MIN(rows[i].len, (uint64_t)10));
        assert_memory_equal(buf_str(&f->got), &"0123456789"[rows[i].off], f->got.len);
    }
}

#define PAGE_OF_ONE \
    "<ListBucketResult><Contents><Key>p/q/l/1</Key><Size>1</Size>" \
    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"

static void no_lie_makes_a_listing_complete(void **state)
{
    struct fix *f = *state;
    ok(put(f, "l/1", "x", 0));
    ok(put(f, "l/2", "x", 0));
    static const struct {
        const char *rule;
        enum err_code code;
    } rows[] = {
        {"\"action\": \"truncate\"", ERR_STORE},
        {"\"action\": \"cut-listing\"", ERR_STORE},
        {"\"action\": \"html-listing\"", ERR_STORE},
        {"\"action\": \"error-listing\"", ERR_STORE},
        {"\"action\": \"empty-listing\"", ERR_STORE},
        {"\"action\": \"loop-listing\"", ERR_STORE},
        {"\"action\": \"disorder\"", ERR_STORE},
        {"\"action\": \"bomb\"", ERR_STORE},
        {"\"action\": \"status\", \"status\": 200, \"body\": \"" PAGE_OF_ONE "\"", ERR_STORE},
        {"\"action\": \"status\", \"status\": 200, \"body\": \"<ListBucketResult><IsTruncated>"
         "false</IsTruncated><Contents><Key>elsewhere</Key><Size>1</Size></Contents>"
         "</ListBucketResult>\"", ERR_STORE},
        {"\"action\": \"status\", \"status\": 200, \"body\": \"<ListBucketResult><IsTruncated>"
         "false</IsTruncated><Contents><Key>p/q/l/1</Key></Contents></ListBucketResult>\"",
         ERR_STORE},
        {"\"action\": \"status\", \"status\": 503", ERR_STORE},
        {"\"action\": \"status\", \"status\": 204", ERR_STORE},
        {"\"action\": \"reset-after\"", ERR_NET},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cleanup_free char *rule = util_printf("[{\"verb\": \"LIST\", %s}]", rows[i].rule);
        faults(rule);
        struct err e = list(f, "l/", "");
        if (e.code != rows[i].code)
            fail_msg("%s: %s \"%s\"", rule, err_name(e.code), e.msg);
    }
    faults("[]");
    ok(list(f, "l/", ""));
    assert_int_equal(f->n_listed, 2);
}

static void a_listing_that_does_not_say_that_it_is_whole_is_asked_for_to_its_end(void **state)
{
    struct fix *f = *state;
    ok(put(f, "l/1", "x", 0));
    ok(put(f, "l/2", "x", 0));
    ok(put(f, "l/3", "x", 0));
    faults("[{\"verb\": \"LIST\", \"count\": 1, \"action\": \"status\", \"status\": 200, "
           "\"body\": \"" PAGE_OF_ONE "\"}]");
    ok(list(f, "l/", ""));
    assert_int_equal(f->n_listed, 3);
    assert_int_equal(requests(), 2);
    faults("[{\"verb\": \"LIST\", \"action\": \"status\", \"status\": 200, "
           "\"body\": \"<ListBucketResult></ListBucketResult>\"}]");
    ok(list(f, "l/", ""));
    assert_int_equal(f->n_listed, 0);
    assert_int_equal(requests(), 1);
}

static void redirects_are_not_followed(void **state)
{
    struct fix *f = *state;
    static const int statuses[] = {301, 302, 307, 308};
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++) {
        cleanup_free char *rule = util_printf(
            "[{\"count\": 1, \"action\": \"redirect\", \"status\": %d, \"location\": "
            "\"http://localhost:%d/bkt/elsewhere\", \"headers\": "
            "{\"x-amz-bucket-region\": \"eu-west-7\"}}]", statuses[i], plain.port);
        faults(rule);
        failed(put(f, "r", "x", 0), ERR_CONFIG, "redirect to http://localhost",
               "region = eu-west-7");
        assert_int_equal(requests(), 1);
        faults(rule);
        failed(get(f, "r", 0, UINT64_MAX, NULL), ERR_CONFIG, "redirect to", "eu-west-7");
        assert_int_equal(requests(), 1);
    }
}

/* ---- TLS ----------------------------------------------------------------------------------- */

static size_t tls_requests(void)
{
    cleanup_free char *path = util_printf("%s/tls.ledger", dir);
    cleanup_buf struct buf b = BUF_INIT;
    size_t n = 0;
    if (fsx_read(path, 1 << 20, &b, NULL) < 0)
        return 0;
    for (size_t i = 0; i < b.len; i++)
        n += b.p[i] == '\n';
    return n;
}

static void only_trusted_certificates_get_requests(void **state)
{
    struct fix *f = *state;
    cleanup_free char *by_name = util_printf("https://localhost:%d", tls.port);
    cleanup_free char *by_ip = util_printf("https://127.0.0.1:%d", tls.port);
    cleanup_free char *ca = util_printf("%s/cert.pem", dir);
    set(&f->t.endpoint, by_name);
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_CONFIG, "not trusted", "ca-file");
    assert_int_equal(tls_requests(), 0);
    set(&f->t.ca_file, ca);
    set(&f->t.endpoint, by_ip); /* the right authority, the wrong name */
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_CONFIG, "not trusted", "");
    assert_int_equal(tls_requests(), 0);
    set(&f->t.endpoint, by_name);
    reopen(f);
    ok(put(f, "k", "x", 0));
    for (unsigned i = 0; i < 100 && !tls_requests(); i++) /* written after the answer */
        (void)usleep(10000);
    assert_int_equal(tls_requests(), 1);
    set(&f->t.ca_file, "/nonexistent/ca.pem");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_CONFIG, "/nonexistent/ca.pem", "PEM");
    set(&f->t.ca_file, NULL);
    f->t.skip_verify = true;
    set(&f->t.endpoint, by_ip);
    reopen(f);
    ok(put(f, "k", "x", 0));
}

static void the_wrong_protocol_is_named(void **state)
{
    struct fix *f = *state;
    cleanup_free char *https = util_printf("https://127.0.0.1:%d", plain.port);
    cleanup_free char *http = util_printf("http://127.0.0.1:%d", tls.port);
    set(&f->t.endpoint, https);
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_CONFIG, "does not speak TLS", "http://");
    set(&f->t.endpoint, http);
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_NET, "", "https://");
}

static bool seen[7];

static void option(int o, long long number, const char *value)
{
    static const struct {
        int option;
        long long number;
        const char *value;
    } want[ARRAY_LEN(seen)] = {{CURLOPT_SSL_VERIFYPEER, 1, NULL},
                               {CURLOPT_SSL_VERIFYHOST, 2, NULL},
                               {CURLOPT_FOLLOWLOCATION, 0, NULL},
                               {CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2, NULL},
                               {CURLOPT_NOSIGNAL, 1, NULL},
                               {CURLOPT_PROTOCOLS_STR, 0, "https"},
                               {CURLOPT_PROXY, 0, ""}};
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        if (want[i].option != o)
            continue;
        assert_int_equal(number, want[i].number);
        if (want[i].value)
            assert_string_equal(value, want[i].value);
        assert_false(seen[i]); /* and nothing sets it a second time */
        seen[i] = true;
    }
}

static void the_options_are_the_safe_ones(void **state)
{
    struct fix *f = *state;
    cleanup_free char *endpoint = util_printf("https://localhost:%d", tls.port);
    set(&f->t.endpoint, endpoint);
    reopen(f);
    memset(seen, 0, sizeof seen);
    s3_easy_option_hook = option;
    (void)get(f, "k", 0, UINT64_MAX, NULL);
    s3_easy_option_hook = NULL;
    for (size_t i = 0; i < ARRAY_LEN(seen); i++)
        assert_true(seen[i]);
}

static void every_curl_call_of_libs3_is_wrapped(void **state)
{
    (void)state;
    cleanup_buf struct buf make = BUF_INIT;
    assert_int_equal(fsx_read("Makefile", 1 << 20, &make, NULL), 0);
    const char *from = strstr(buf_str(&make), "LIBS3_WRAPS :=");
    assert_non_null(from);
    cleanup_free char *wraps = strndup(from, (size_t)(strstr(from, "LIBS3_A") - from));
    for (char *p = wraps; *p; p++) {
        if (*p == '\n' || *p == '\t')
            *p = ' ';
    }
    FILE *nm = popen("nm -u /usr/lib/libs3.a 2>/dev/null", "r");
    assert_non_null(nm);
    char line[256];
    unsigned n = 0;
    while (fgets(line, sizeof line, nm)) {
        char name[128];
        if (sscanf(line, " U %127s", name) != 1 || strncmp(name, "curl_", 5))
            continue;
        cleanup_free char *word = util_printf(" %s ", name);
        if (!strstr(wraps, word))
            fail_msg("%s is not wrapped", name);
        n++;
    }
    (void)pclose(nm);
    assert_true(n >= 17);
}

/* ---- time and cancellation ----------------------------------------------------------------- */

static void a_stall_ends(void **state)
{
    struct fix *f = *state;
    (void)setenv("WALSUP_TEST_S3_IDLE_MS", "300", 1);
    reopen(f);
    ok(put(f, "g", "0123456789", 0));
    static const char *const rules[] = {
        "[{\"verb\": \"PUT\", \"action\": \"stall\"}]",
        "[{\"verb\": \"PUT\", \"action\": \"stall\", \"when\": \"before\"}]",
    };
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        faults(rules[i]);
        uint64_t t0 = clk_mono_ms();
        failed(put(f, "k", "x", 0), ERR_TIMEOUT, "no answer for 300 ms", "");
        assert_within(clk_mono_ms() - t0, 290, 10000); /* not the usual half a minute */
    }
    size_t n = (size_t)16 << 20; /* more than the kernel's buffers take */
    uint8_t *big = util_zalloc(n);
    struct store_body b = {.p = big, .size = n};
    failed(put_body(f, "k", &b, NULL, 0), ERR_TIMEOUT, "no answer for 300 ms", "");
    free(big);
    faults("[{\"verb\": \"GET\", \"action\": \"stall-body\"}]");
    failed(get(f, "g", 0, UINT64_MAX, NULL), ERR_TIMEOUT, "nothing more came", "");
    /* slow is not stalled: this answer takes longer than the limit, which a busy machine's server must not reach */
    (void)setenv("WALSUP_TEST_S3_IDLE_MS", "2000", 1);
    reopen(f);
    faults("[{\"action\": \"drip\", \"delay_ms\": 15}]");
    uint64_t t0 = clk_mono_ms();
    ok(put(f, "k", "x", 0));
    assert_true(clk_mono_ms() - t0 > 2000);
}

/* The server has the whole body and says nothing for a while, as a proxy does that hands it on. */
static void an_upload_is_waited_for_the_longer_the_larger_it_is(void **state)
{
    struct fix *f = *state;
    enum { N = 1 << 20 };
    cleanup_free char *much = util_zalloc(N);
    struct store_body large = {.p = much, .size = N}, small = {.p = much, .size = 100};
    (void)setenv("WALSUP_TEST_S3_IDLE_MS", "300", 1);
    reopen(f);
    faults("[{\"verb\": \"PUT\", \"action\": \"delay\", \"after_ms\": 1500}]");
    ok(put_body(f, "large", &large, NULL, 0));
    assert_true(ledger_says_stored("p/q/large"));
    assert_int_equal(requests(), 1);
    /* the control */
    failed(put_body(f, "small", &small, NULL, 0), ERR_TIMEOUT, "no answer for 300 ms", "");
    /* not for ever */
    faults("[{\"verb\": \"PUT\", \"action\": \"stall\", \"when\": \"after\"}]");
    failed(put_body(f, "large", &large, NULL, 0), ERR_TIMEOUT, "no answer for 4396 ms", "");
}

static void a_handshake_that_stalls_ends(void **state)
{
    struct fix *f = *state;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 8), 0); /* nobody accepts */
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    cleanup_free char *endpoint = util_printf("https://127.0.0.1:%d", ntohs(a.sin_port));
    set(&f->t.endpoint, endpoint);
    (void)setenv("WALSUP_TEST_S3_CONNECT_MS", "300", 1);
    reopen(f);
    (void)unsetenv("WALSUP_TEST_S3_CONNECT_MS");
    uint64_t t0 = clk_mono_ms();
    failed(put(f, "k", "x", 0), ERR_TIMEOUT, "no TLS connection to 127.0.0.1", "");
    assert_within(clk_mono_ms() - t0, 290, 8000);
}

static void cancel_ends_a_request_wherever_it_is(void **state)
{
    struct fix *f = *state;
    static struct store_req r[12];
    struct store_body b = {.p = "x", .size = 1};
    faults("[{\"action\": \"stall\"}]");
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        r[i] = request(f);
        store_put(f->s, &r[i], "k", &b, NULL, 0);
    }
    f->in_call = true;
    store_cancel(&r[11]); /* not started yet */
    f->in_call = false;
    while (requests() < 8) /* all connections are busy, three requests wait */
        (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    f->in_call = true;
    store_cancel(&r[0]);
    store_cancel(&r[10]);
    wait_done(f, 3);
    failed(r[11].err, ERR_CANCELED, "canceled", "");
    failed(r[0].err, ERR_CANCELED, "canceled", "");
    failed(r[10].err, ERR_CANCELED, "canceled", "");
    close_store(f);
    assert_int_equal(f->done, ARRAY_LEN(r) - 3);
    f->done = 0;
    for (size_t i = 0; i < ARRAY_LEN(r); i++)
        assert_int_equal(r[i].err.code, ERR_CANCELED);
}

static void cancel_while_a_file_is_hashed(void **state)
{
    struct fix *f = *state;
    cleanup_free char *src = util_printf("%s/source", dir);
    size_t n = (size_t)20 << 20;
    uint8_t *big = util_zalloc(n);
    assert_int_equal(fsx_publish(src, big, n, 0600, FSX_REPLACE | FSX_NOSYNC, NULL), 0);
    free(big);
    struct store_body b = {.path = src, .size = n};
    struct store_req r = request(f);
    store_put(f->s, &r, "hashed", &b, NULL, 0);
    f->in_call = false;
    (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    store_cancel(&r);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_CANCELED);
    r = request(f);
    store_put(f->s, &r, "hashed", &b, NULL, 0);
    f->in_call = false;
    while (!r.bytes && !f->done)
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    store_cancel(&r);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_CANCELED);
    assert_false(ledger_says_stored("p/q/hashed"));
}

static int refuse(void *arg, const void *p, size_t n, struct err *e)
{
    (void)arg, (void)p, (void)n;
    return err_set(e, ERR_CORRUPT, "no good");
}

static int refuse_item(void *arg, const struct store_object *o, struct err *e)
{
    (void)arg, (void)o;
    return err_set(e, ERR_NOSPC, "no room");
}

static void the_receiver_can_end_it(void **state)
{
    struct fix *f = *state;
    ok(put(f, "g", "x", 0));
    struct store_req r = request(f);
    store_get(f->s, &r, "g", 0, UINT64_MAX, refuse, f, NULL);
    wait_done(f, 1);
    failed(r.err, ERR_CORRUPT, "no good", "");
    r = request(f);
    store_list(f->s, &r, "g", "", refuse_item, f);
    wait_done(f, 1);
    failed(r.err, ERR_NOSPC, "no room", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(refusals_say_what_to_change),
        T(unreachable_servers_are_told_apart),
        T(no_lie_makes_a_put_a_success),
        T(a_put_acknowledged_too_early_is_no_success),
        T(a_perfect_lie_is_believed),
        T(no_lie_makes_a_get_a_success),
        T(no_lie_makes_a_listing_complete),
        T(a_listing_that_does_not_say_that_it_is_whole_is_asked_for_to_its_end),
        T(redirects_are_not_followed),
        T(only_trusted_certificates_get_requests),
        T(the_wrong_protocol_is_named),
        T(the_options_are_the_safe_ones),
        T(every_curl_call_of_libs3_is_wrapped),
        T(a_stall_ends),
        T(an_upload_is_waited_for_the_longer_the_larger_it_is),
        T(a_handshake_that_stalls_ends),
        T(cancel_ends_a_request_wherever_it_is),
        T(cancel_while_a_file_is_hashed),
        T(the_receiver_can_end_it),
    };
    return cmocka_run_group_tests(tests, start_servers, end_servers);
}
