/* The S3 store against tests/s3server.py: real HTTP, real signatures, scripted lies. What the
 * tests are after: nothing is ever called stored that the server may not have, nothing is ever
 * called complete that is not, and every error says where and what to change. */
#include "common/store/store.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/store/s3_easy.h"

#define KEY_ID "AKIDTEST"
#define SECRET "s3cr3t/with+characters"
#define TOKEN_KEY_ID "ASIATEMP"
#define TOKEN "tok/en+=="
#define MAX_LISTED 3000

struct server {
    pid_t pid;
    int in; /* its life line */
    int port;
};

struct fix {
    uv_loop_t loop;
    struct store *s;
    struct conf_target t;
    char endpoint[64];
    unsigned done, closed;
    bool in_call;
    struct buf got;
    char *listed[MAX_LISTED];
    size_t n_listed;
};

static char dir[64];
static struct server plain, tls;

/* ---- the server ------------------------------------------------------------------------------- */

static struct server spawn(const char *const *more)
{
    int in[2], out[2];
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    struct server s = {.in = in[1]};
    const char *argv[32] = {"python3", "tests/s3server.py", "--until-eof", "--bucket", "bkt",
                            "--key-pair", KEY_ID ":" SECRET, "--key-pair",
                            TOKEN_KEY_ID ":" SECRET ":" TOKEN};
    size_t n = 9;
    while (*more)
        argv[n++] = *more++;
    s.pid = fork();
    if (!s.pid) {
        (void)dup2(in[0], 0);
        (void)dup2(out[1], 1);
        union {
            const char **in;
            char **out;
        } args = {argv};
        (void)execvp("python3", args.out);
        _exit(127);
    }
    (void)close(in[0]);
    (void)close(out[1]);
    char line[32] = "";
    size_t len = 0;
    while (len < sizeof line - 1 && read(out[0], line + len, 1) == 1 && line[len] != '\n')
        len++;
    (void)close(out[0]);
    s.port = atoi(line);
    assert_true(s.port > 0);
    return s;
}

static void end_server(struct server *s)
{
    (void)close(s->in);
    (void)waitpid(s->pid, NULL, 0);
}

static int dial(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static json_t *control(const char *path, const char *body)
{
    cleanup_close int fd = dial(plain.port);
    cleanup_buf struct buf b = BUF_INIT;
    buf_printf(&b, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
               path, strlen(body), body);
    assert_int_equal(fsx_write_all(fd, b.p, b.len, NULL), 0);
    buf_free(&b);
    for (ssize_t n; (n = read(fd, buf_reserve(&b, 65536), 65536)) > 0;)
        b.len += (size_t)n;
    const char *at = strstr(buf_str(&b), "\r\n\r\n");
    assert_non_null(at);
    json_t *j = json_loads(at + 4, JSON_DECODE_ANY, NULL);
    assert_non_null(j);
    return j;
}

static void faults(const char *rules)
{
    json_decref(control("/_reset", ""));
    json_decref(control("/_faults", rules));
}

static size_t requests(void)
{
    json_t *j = control("/_ledger", "");
    size_t n = json_array_size(j);
    json_decref(j);
    return n;
}

static bool ledger_says_stored(const char *key)
{
    json_t *j = control("/_ledger", ""), *entry;
    size_t i;
    bool stored = false;
    json_array_foreach(j, i, entry) {
        if (!strcmp(json_string_value(json_object_get(entry, "key")), key))
            stored |= json_is_true(json_object_get(entry, "stored"));
    }
    json_decref(j);
    return stored;
}

static long long stat_of(const char *name)
{
    json_t *j = control("/_stats", "");
    long long n = json_integer_value(json_object_get(j, name));
    json_decref(j);
    return n;
}

/* ---- the store -------------------------------------------------------------------------------- */

static char *text(const char *s)
{
    return util_strdup(s);
}

static void set(char **field, const char *v)
{
    free(*field);
    *field = v ? text(v) : NULL;
}

static void on_closed(void *arg)
{
    struct fix *f = arg;
    assert_false(f->in_call);
    f->closed++;
}

static void close_store(struct fix *f)
{
    unsigned before = f->closed;
    f->in_call = true;
    store_close(f->s, on_closed, f);
    f->in_call = false;
    while (f->closed == before)
        assert_true(uv_run(&f->loop, UV_RUN_ONCE) || f->closed != before);
    f->s = NULL;
}

static void reopen(struct fix *f)
{
    struct err e = {0};
    if (f->s)
        close_store(f);
    if (store_open(&f->loop, &f->t, &f->s, &e) < 0)
        fail_msg("%s", e.msg);
}

static int setup(void **state)
{
    struct fix *f = util_zalloc(sizeof *f);
    (void)snprintf(f->endpoint, sizeof f->endpoint, "http://127.0.0.1:%d", plain.port);
    f->t = (struct conf_target){.name = text("lab"), .type = CONF_S3, .endpoint = text(f->endpoint),
                                .bucket = text("bkt"), .path = text("p/q"),
                                .region = text("us-east-1"), .access_key_id = text(KEY_ID),
                                .secret_access_key = text(SECRET), .max_connections = 8};
    assert_int_equal(uv_loop_init(&f->loop), 0);
    faults("[]");
    reopen(f);
    *state = f;
    return 0;
}

static void forget_listed(struct fix *f)
{
    for (size_t i = 0; i < f->n_listed; i++)
        free(f->listed[i]);
    f->n_listed = 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;
    if (f->s)
        close_store(f);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    char **const texts[] = {&f->t.name,   &f->t.endpoint,      &f->t.bucket,
                            &f->t.path,   &f->t.region,        &f->t.access_key_id,
                            &f->t.ca_file, &f->t.secret_access_key, &f->t.session_token,
                            &f->t.secret_access_key_file, &f->t.credentials_file, &f->t.profile};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(*texts[i]);
    forget_listed(f);
    buf_free(&f->got);
    free(f);
    (void)unsetenv("WALSUP_TEST_S3_IDLE_MS");
    return 0;
}

static void on_done(struct store_req *req)
{
    struct fix *f = req->data;
    assert_false(f->in_call);
    assert_null(strstr(req->err.msg, SECRET));
    assert_null(strstr(req->err.hint, SECRET));
    assert_null(strstr(req->err.msg, TOKEN));
    f->done++;
}

static struct store_req request(struct fix *f)
{
    f->in_call = true;
    return (struct store_req){.done = on_done, .data = f};
}

static void wait_done(struct fix *f, unsigned n)
{
    f->in_call = false;
    uint64_t start = clk_mono_ms();
    while (f->done < n) {
        (void)uv_run(&f->loop, UV_RUN_ONCE);
        assert_true(clk_mono_ms() - start < 60000);
    }
    assert_int_equal(f->done, n);
    f->done = 0;
}

static struct err put_body(struct fix *f, const char *key, const struct store_body *b,
                           const struct store_meta *m, unsigned flags)
{
    struct store_req r = request(f);
    store_put(f->s, &r, key, b, m, flags);
    wait_done(f, 1);
    return r.err;
}

static struct err put(struct fix *f, const char *key, const char *what, unsigned flags)
{
    struct store_body b = {.p = what, .size = strlen(what)};
    return put_body(f, key, &b, NULL, flags);
}

static int take(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    struct fix *f = arg;
    buf_add(&f->got, p, n);
    return 0;
}

static struct err get(struct fix *f, const char *key, uint64_t off, uint64_t len,
                      struct store_info *info)
{
    struct store_req r = request(f);
    buf_free(&f->got);
    store_get(f->s, &r, key, off, len, take, f, info);
    wait_done(f, 1);
    return r.err;
}

static int item(void *arg, const struct store_object *o, struct err *e)
{
    (void)e;
    struct fix *f = arg;
    assert_true(f->n_listed < MAX_LISTED);
    assert_true(o->mtime_ms > 1600000000000);
    f->listed[f->n_listed++] = util_strdup(o->key);
    return 0;
}

static struct err list(struct fix *f, const char *prefix, const char *after)
{
    struct store_req r = request(f);
    forget_listed(f);
    store_list(f->s, &r, prefix, after, item, f);
    wait_done(f, 1);
    return r.err;
}

static struct err head(struct fix *f, const char *key, struct store_info *info)
{
    struct store_req r = request(f);
    store_head(f->s, &r, key, info);
    wait_done(f, 1);
    return r.err;
}

static struct err delete(struct fix *f, const char *const *keys, size_t n)
{
    struct store_req r = request(f);
    store_delete(f->s, &r, keys, n);
    wait_done(f, 1);
    return r.err;
}

static void ok(struct err e)
{
    if (e.code)
        fail_msg("%s (%s)", e.msg, e.hint);
}

static void failed(struct err e, enum err_code code, const char *said, const char *hint)
{
    if (e.code != code || !strstr(e.msg, said) || !strstr(e.hint, hint))
        fail_msg("%s \"%s\" hint \"%s\", expected %s \"%s\" hint \"%s\"", err_name(e.code), e.msg,
                 e.hint, err_name(code), said, hint);
}

/* ---- what works ------------------------------------------------------------------------------- */

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
    struct store_meta m = {1767225600120, 0x0123456789abcdef, 0xfedcba9876543210};
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
    set(&f->t.session_token, TOKEN);
    reopen(f);
    ok(put(f, "k", "x", 0));
    set(&f->t.session_token, "stale");
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
    size_t n = (size_t)2 << 20;
    uint8_t *big = util_zalloc(n);
    struct store_body b = {.p = big, .size = n};
    f->t.bandwidth_limit_bytes = (uint64_t)2 << 20;
    reopen(f);
    uint64_t t0 = clk_mono_ms();
    ok(put_body(f, "slow", &b, NULL, 0));
    uint64_t ms = clk_mono_ms() - t0;
    print_message("2 MiB at 2 MiB/s: %llu ms\n", (unsigned long long)ms);
    assert_in_range(ms, 500, 3000);
    free(big);
}

/* ---- refusals --------------------------------------------------------------------------------- */

static void refusals_say_what_to_change(void **state)
{
    struct fix *f = *state;
    set(&f->t.secret_access_key, "wrong");
    reopen(f);
    failed(put(f, "k", "x", 0), ERR_AUTH, "SignatureDoesNotMatch", "secret access key");
    failed(list(f, "", ""), ERR_AUTH, "SignatureDoesNotMatch", "secret access key");
    set(&f->t.secret_access_key, SECRET);
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

/* ---- lies ------------------------------------------------------------------------------------- */

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
        assert_memory_equal(buf_str(&f->got), "0123456789" + rows[i].off, f->got.len);
    }
}

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
        {"\"action\": \"status\", \"status\": 200, \"body\": \"<ListBucketResult><Contents><Key>"
         "p/q/l/1</Key><Size>1</Size></Contents></ListBucketResult>\"", ERR_STORE},
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

/* ---- TLS -------------------------------------------------------------------------------------- */

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

/* ---- time and cancellation -------------------------------------------------------------------- */

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
        assert_in_range(clk_mono_ms() - t0, 290, 1500);
    }
    size_t n = (size_t)16 << 20; /* more than the kernel's buffers take */
    uint8_t *big = util_zalloc(n);
    struct store_body b = {.p = big, .size = n};
    failed(put_body(f, "k", &b, NULL, 0), ERR_TIMEOUT, "no answer for 300 ms", "");
    free(big);
    faults("[{\"verb\": \"GET\", \"action\": \"stall-body\"}]");
    failed(get(f, "g", 0, UINT64_MAX, NULL), ERR_TIMEOUT, "nothing more came", "");
    /* slow is not stalled: this answer takes longer than the limit */
    faults("[{\"action\": \"drip\", \"delay\": 0.005}]");
    uint64_t t0 = clk_mono_ms();
    ok(put(f, "k", "x", 0));
    assert_true(clk_mono_ms() - t0 > 300);
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
    struct stat st;
    if (stat(src, &st) < 0)
        skip();
    struct store_body b = {.path = src, .size = (uint64_t)st.st_size};
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

/* ---- keys ------------------------------------------------------------------------------------- */

static void keys_come_from_where_they_are_put(void **state)
{
    struct fix *f = *state;
    struct cred c;
    struct err e = {0};
    cleanup_free char *file = util_printf("%s/secret", dir);
    set(&f->t.secret_access_key, NULL);
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
    assert_string_equal(c.secret, SECRET);
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
    assert_string_equal(c.secret, "d=e");
    assert_string_equal(c.token, "f");
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
    assert_string_equal(c.secret, "dirsecret");
    cred_done(&c);
    (void)unsetenv("CREDENTIALS_DIRECTORY");
    (void)unsetenv("AWS_ACCESS_KEY_ID");
    (void)unsetenv("AWS_SECRET_ACCESS_KEY");
}

static int start_servers(void **state)
{
    (void)state;
    static const char *const names[] = {"HOME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                                        "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        (void)unsetenv(names[i]);
    (void)snprintf(dir, sizeof dir, "/tmp/walsup-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
    cleanup_free char *cmd = util_printf(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout %s/key.pem "
        "-out %s/cert.pem 2>/dev/null && mkdir %s/plain %s/tls", dir, dir, dir, dir);
    assert_int_equal(system(cmd), 0);
    cleanup_free char *p = util_printf("%s/plain", dir), *t = util_printf("%s/tls", dir);
    cleanup_free char *cert = util_printf("%s/cert.pem", dir);
    cleanup_free char *key = util_printf("%s/key.pem", dir);
    cleanup_free char *ledger = util_printf("%s/tls.ledger", dir);
    plain = spawn((const char *const[]){"--dir", p, NULL});
    tls = spawn((const char *const[]){"--dir", t, "--cert", cert, "--key", key, "--ledger", ledger,
                                      NULL});
    return 0;
}

static int end_servers(void **state)
{
    (void)state;
    end_server(&plain);
    end_server(&tls);
    cleanup_free char *cmd = util_printf("rm -rf %s", dir);
    return system(cmd);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
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
        T(refusals_say_what_to_change),
        T(unreachable_servers_are_told_apart),
        T(no_lie_makes_a_put_a_success),
        T(a_put_acknowledged_too_early_is_no_success),
        T(a_perfect_lie_is_believed),
        T(no_lie_makes_a_get_a_success),
        T(no_lie_makes_a_listing_complete),
        T(redirects_are_not_followed),
        T(only_trusted_certificates_get_requests),
        T(the_wrong_protocol_is_named),
        T(the_options_are_the_safe_ones),
        T(every_curl_call_of_libs3_is_wrapped),
        T(a_stall_ends),
        T(cancel_ends_a_request_wherever_it_is),
        T(cancel_while_a_file_is_hashed),
        T(the_receiver_can_end_it),
        T(keys_come_from_where_they_are_put),
    };
    return cmocka_run_group_tests(tests, start_servers, end_servers);
}
