/* Objects that go up in parts, into a directory. The same against a bucket: test_s3_upload.c. */
#include "common/store/store.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/base/fsx.h"
#include "common/store/store_impl.h"

#define PART ((uint64_t)64 << 10)

struct fix {
    char dir[64], root[96], src[96];
    uv_loop_t loop;
    struct store *s;
    unsigned done;
    bool closed;
};

static int setup(void **state)
{
    struct fix *f = util_zalloc(sizeof *f);
    struct err e;
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/walsup-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->root, sizeof f->root, "%s/r", f->dir);
    (void)snprintf(f->src, sizeof f->src, "%s/src", f->dir);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    struct conf_target t = {.name = (char[]){"t"}, .type = CONF_FILE, .path = f->root};
    assert_int_equal(store_open(&f->loop, &t, &f->s, &e), 0);
    f->s->part_bytes = PART;
    *state = f;
    return 0;
}

static void on_closed(void *arg)
{
    struct fix *f = arg;
    f->closed = true;
}

static int teardown(void **state)
{
    struct fix *f = *state;
    store_close(f->s, on_closed, f);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_true(f->closed);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    cleanup_free char *cmd = util_printf("rm -rf %s", f->dir);
    assert_int_equal(system(cmd), 0);
    free(f);
    return 0;
}

static void on_done(struct store_req *req)
{
    struct fix *f = req->data;
    f->done++;
}

static struct store_req request(struct fix *f)
{
    return (struct store_req){.done = on_done, .data = f};
}

static void wait_done(struct fix *f, unsigned n)
{
    while (f->done < n)
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    assert_int_equal(f->done, n);
    f->done = 0;
}

static void ok(struct err e)
{
    if (e.code)
        fail_msg("%s", e.msg);
}

/* a source whose every byte tells where it is from */
static uint8_t *source(struct fix *f, uint64_t n)
{
    uint8_t *p = util_alloc((size_t)n);
    for (uint64_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i ^ i >> 8 ^ i >> 16);
    assert_int_equal(fsx_publish(f->src, p, (size_t)n, 0600, FSX_REPLACE, NULL), 0);
    return p;
}

static void object_is(struct fix *f, const char *key, const uint8_t *p, uint64_t n)
{
    cleanup_buf struct buf b = BUF_INIT;
    cleanup_free char *path = util_printf("%s/%s", f->root, key);
    assert_int_equal(fsx_read(path, 1u << 30, &b, NULL), 0);
    assert_int_equal(b.len, n);
    assert_memory_equal(b.p, p, (size_t)n);
}

static int count(const char *name, void *arg)
{
    (void)name;
    ++*(unsigned *)arg;
    return 0;
}

static unsigned files_in(struct fix *f, const char *sub)
{
    unsigned n = 0;
    cleanup_free char *path = util_printf("%s/%s", f->root, sub);
    (void)fsx_list(path, count, &n, NULL);
    return n;
}

/* ---- uploads ------------------------------------------------------------------------------- */

static void begin(struct fix *f, struct store_upload *u)
{
    struct store_req r = request(f);
    store_upload_begin(u, &r);
    wait_done(f, 1);
    ok(r.err);
}

static struct err add(struct fix *f, struct store_upload *u, unsigned n, uint64_t off,
                      uint64_t size, uint64_t file_bytes)
{
    struct store_req r = request(f);
    struct store_body b = {.path = f->src, .off = off, .size = size, .file_bytes = file_bytes};
    store_upload_add(u, &r, n, &b);
    wait_done(f, 1);
    return r.err;
}

static struct err finish(struct fix *f, struct store_upload *u, uint64_t total)
{
    struct store_req r = request(f);
    store_upload_finish(u, &r, total);
    wait_done(f, 1);
    return r.err;
}

static void parts_in_any_order_become_the_object(void **state)
{
    struct fix *f = *state;
    uint64_t n = PART * 5 + 123;
    cleanup_free uint8_t *p = source(f, n);
    struct store_meta m = {.timestamp_ms = 1700000000123, .checksum = 7, .lineage = 9};
    struct store_upload *u = store_upload_new(f->s, "db/ltx/9/x", &m, STORE_IF_ABSENT, 0);
    assert_int_equal(store_upload_part_bytes(u), PART);
    begin(f, u);
    static const unsigned order[] = {3, 0, 5, 1, 4, 2};
    struct store_req r[6];
    struct store_body b[6];
    for (size_t i = 0; i < 6; i++) {
        unsigned k = order[i];
        r[i] = request(f);
        b[i] = (struct store_body){.path = f->src, .off = k * PART, .size = MIN(PART, n - k * PART),
                                   .file_bytes = n};
        store_upload_add(u, &r[i], k, &b[i]);
    }
    wait_done(f, 6);
    for (size_t i = 0; i < 6; i++)
        ok(r[i].err);
    assert_int_equal(finish(f, u, n - 1).code, ERR_CORRUPT);
    ok(finish(f, u, n));
    store_upload_free(u);
    object_is(f, "db/ltx/9/x", p, n);
    assert_int_equal(files_in(f, "db/ltx/9"), 1);
    struct store_info info;
    struct store_req h = request(f);
    store_head(f->s, &h, "db/ltx/9/x", &info);
    wait_done(f, 1);
    ok(h.err);
    assert_int_equal(info.meta.checksum, 7);
    assert_int_equal(info.meta.timestamp_ms, 1700000000123);
}

/* how a snapshot is streamed: one region of a file, used for one part after the other */
static void a_region_may_be_reused_once_its_part_is_added(void **state)
{
    struct fix *f = *state;
    struct store_upload *u = store_upload_new(f->s, "k", NULL, 0, 0);
    begin(f, u);
    cleanup_free uint8_t *all = util_alloc(3 * PART);
    for (unsigned k = 0; k < 3; k++) {
        memset(all + k * PART, 'a' + (int)k, PART);
        int fd = open(f->src, O_WRONLY | O_CREAT, 0600);
        assert_int_equal(pwrite(fd, all + k * PART, PART, 4096), PART);
        (void)close(fd);
        ok(add(f, u, k, 4096, PART, STORE_ANY_SIZE));
    }
    ok(finish(f, u, 3 * PART));
    store_upload_free(u);
    object_is(f, "k", all, 3 * PART);
}

static void what_is_not_finished_is_not_there(void **state)
{
    struct fix *f = *state;
    free(source(f, PART * 2));
    struct store_upload *u = store_upload_new(f->s, "d/k", NULL, 0, 0);
    struct store_req r = request(f);
    struct store_body b = {.path = f->src, .size = PART, .file_bytes = PART * 2};
    store_upload_add(u, &r, 0, &b);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_USAGE); /* not begun */
    begin(f, u);
    ok(add(f, u, 0, 0, PART, PART * 2));
    assert_int_equal(add(f, u, 1, PART, PART + 1, STORE_ANY_SIZE).code, ERR_USAGE);
    assert_int_equal(add(f, u, 1, PART, PART, PART * 3).code, ERR_CORRUPT);
    assert_int_equal(add(f, u, 1, PART + 1, PART, STORE_ANY_SIZE).code, ERR_CORRUPT);
    r = request(f);
    store_upload_abort(u, &r);
    wait_done(f, 1);
    ok(r.err);
    store_upload_free(u);
    assert_int_equal(files_in(f, "d"), 0);
    u = store_upload_new(f->s, "d/k", NULL, 0, 0);
    begin(f, u);
    assert_int_equal(files_in(f, "d"), 1); /* a temporary file, which is no object */
    store_upload_free(u);
    assert_int_equal(files_in(f, "d"), 0);
    assert_null(store_upload_new(f->s, "d/k", NULL, 0, (uint64_t)6 << 40));
}

static void an_object_in_the_way_is_a_conflict_where_asked_for(void **state)
{
    struct fix *f = *state;
    cleanup_free uint8_t *p = source(f, PART);
    for (unsigned i = 0; i < 3; i++) {
        struct store_upload *u = store_upload_new(f->s, "k", NULL, i == 1 ? STORE_IF_ABSENT : 0, 0);
        begin(f, u);
        ok(add(f, u, 0, 0, PART, 0));
        assert_int_equal(finish(f, u, PART).code, i == 1 ? ERR_CONFLICT : ERR_OK);
        store_upload_free(u);
    }
    object_is(f, "k", p, PART);
}

/* ---- puts that go up in parts ----------------------------------------------------------------- */

static void a_large_put_is_one_request_to_its_caller(void **state)
{
    struct fix *f = *state;
    uint64_t n = PART * 21 + 1;
    cleanup_free uint8_t *p = source(f, n);
    f->s->put_bytes = PART * 4;
    struct store_body b = {.path = f->src, .size = n};
    struct store_req r = request(f);
    store_put(f->s, &r, "big", &b, NULL, 0);
    wait_done(f, 1);
    ok(r.err);
    assert_int_equal(r.bytes, n);
    object_is(f, "big", p, n);
    b = (struct store_body){.p = p, .size = n};
    r = request(f);
    store_put(f->s, &r, "mem", &b, NULL, 0);
    wait_done(f, 1);
    ok(r.err);
    object_is(f, "mem", p, n);
    b = (struct store_body){.path = f->src, .size = n - 1};
    r = request(f);
    store_put(f->s, &r, "d/short", &b, NULL, 0);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_CORRUPT);
    assert_int_equal(files_in(f, "d"), 0);
}

static void a_canceled_large_put_leaves_nothing(void **state)
{
    struct fix *f = *state;
    free(source(f, PART * 300));
    f->s->put_bytes = PART;
    struct store_body b = {.path = f->src, .size = PART * 300};
    for (unsigned i = 0; i < 40; i += 3) {
        struct store_req r = request(f);
        store_put(f->s, &r, "d/k", &b, NULL, 0);
        for (unsigned k = 0; k < i; k++)
            (void)uv_run(&f->loop, UV_RUN_NOWAIT);
        store_cancel(&r);
        wait_done(f, 1);
        assert_int_equal(r.err.code, ERR_CANCELED);
        assert_int_equal(files_in(f, "d"), 0);
    }
    struct store_req r = request(f);
    store_put(f->s, &r, "d/k", &b, NULL, 0);
    for (unsigned k = 0; k < 20; k++)
        (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    store_close(f->s, on_closed, f);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_CANCELED);
    while (!f->closed)
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    f->closed = false;
    assert_int_equal(files_in(f, "d"), 0);
    struct err e;
    struct conf_target t = {.name = (char[]){"t"}, .type = CONF_FILE, .path = f->root};
    assert_int_equal(store_open(&f->loop, &t, &f->s, &e), 0);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(parts_in_any_order_become_the_object),
        T(a_region_may_be_reused_once_its_part_is_added),
        T(what_is_not_finished_is_not_there),
        T(an_object_in_the_way_is_a_conflict_where_asked_for),
        T(a_large_put_is_one_request_to_its_caller),
        T(a_canceled_large_put_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
