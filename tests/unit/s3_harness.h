/* s3_harness.h - what the tests of the S3 store share: two s3fault (one with TLS), a store, and
 * each operation as a blocking call. Run in the order servers, setup, test, teardown. */
#ifndef WALSUP_TEST_S3_HARNESS_H
#define WALSUP_TEST_S3_HARNESS_H

#include "common/store/store.h"

#include <arpa/inet.h>
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

/* not every test program needs all of it */
#pragma GCC diagnostic ignored "-Wunused-function"

static char dir[64];
static struct server plain, tls;

/* ---- the server ---------------------------------------------------------------------------- */

/* build/<flavour>/unit/test_x has it beside its own directory */
static const char *s3fault(void)
{
    static char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 32);
    assert_true(n > 0);
    path[n] = '\0';
    for (unsigned i = 0; i < 2; i++)
        *strrchr(path, '/') = '\0';
    (void)strcat(path, "/helpers/s3fault");
    return path;
}

static struct server spawn(const char *const *more)
{
    int in[2], out[2];
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    struct server s = {.in = in[1]};
    const char *argv[32] = {s3fault(), "--until-eof", "--bucket", "bkt", "--key-pair",
                            KEY_ID ":" SECRET, "--key-pair", TOKEN_KEY_ID ":" SECRET ":" TOKEN};
    size_t n = 8;
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
        (void)execv(argv[0], args.out);
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
    buf_printf(&b, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                   "Content-Length: %zu\r\n\r\n%s", path, strlen(body), body);
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

/* ---- the store ----------------------------------------------------------------------------- */

static char *text(const char *s)
{
    return util_strdup(s);
}

static void set(char **field, const char *v)
{
    free(*field);
    *field = v ? text(v) : NULL;
}

static inline void set_secret(struct secret **field, const char *v)
{
    secret_free(*field);
    *field = secret_text(v);
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
                                .secret_access_key = secret_text(SECRET), .max_connections = 8};
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
                            &f->t.ca_file,
                            &f->t.secret_access_key_file, &f->t.credentials_file, &f->t.profile};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        free(*texts[i]);
    secret_free(f->t.secret_access_key);
    secret_free(f->t.session_token);
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

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#endif
