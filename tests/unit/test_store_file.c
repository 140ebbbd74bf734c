/* The directory store: what is acknowledged is there, whole, under its name; what is not leaves
 * nothing behind. */
#include "common/store/store.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>

#include <cmocka.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/store/store_impl.h"

struct fix {
    char dir[64], root[96];
    uv_loop_t loop;
    struct store *s;
    unsigned done, closed;
    struct buf got;
    char *listed[4096];
    uint64_t listed_size[4096];
    size_t n_listed;
    bool in_call;
};

static void open_store(struct fix *f)
{
    struct conf_target t = {.name = (char[]){"t"}, .type = CONF_FILE, .path = f->root};
    struct err e;
    assert_int_equal(store_open(&f->loop, &t, &f->s, &e), 0);
}

static int setup(void **state)
{
    struct fix *f = util_zalloc(sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/walsup-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->root, sizeof f->root, "%s/a/b", f->dir);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    open_store(f);
    *state = f;
    return 0;
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
    cleanup_free char *cmd = util_printf("rm -rf %s", f->dir);
    assert_int_equal(system(cmd), 0);
    forget_listed(f);
    buf_free(&f->got);
    free(f);
    return 0;
}

static void on_done(struct store_req *req)
{
    struct fix *f = req->data;
    assert_false(f->in_call);
    f->done++;
}

static void wait_done(struct fix *f, unsigned n)
{
    f->in_call = false;
    while (f->done < n)
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    assert_int_equal(f->done, n);
    f->done = 0;
}

static struct store_req request(struct fix *f)
{
    f->in_call = true;
    return (struct store_req){.done = on_done, .data = f};
}

static enum err_code put(struct fix *f, const char *key, const struct store_body *body,
                         const struct store_meta *meta, unsigned flags)
{
    struct store_req r = request(f);
    store_put(f->s, &r, key, body, meta, flags);
    wait_done(f, 1);
    if (!r.err.code)
        assert_int_equal(r.bytes, body->size);
    return r.err.code;
}

static enum err_code put_text(struct fix *f, const char *key, const char *text, unsigned flags)
{
    struct store_body b = {.p = text, .size = strlen(text)};
    return put(f, key, &b, NULL, flags);
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
    f->listed_size[f->n_listed] = o->size;
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

static bool has(struct fix *f, const char *name)
{
    cleanup_free char *p = util_printf("%s/%s", f->root, name);
    struct stat st;
    return lstat(p, &st) == 0;
}

static void put_then_get_returns_the_bytes(void **state)
{
    struct fix *f = *state;
    assert_int_equal(put_text(f, "db/ltx/0/one", "hello world", 0), ERR_OK);
    struct store_info info = {0};
    assert_int_equal(get(f, "db/ltx/0/one", 0, UINT64_MAX, &info).code, ERR_OK);
    assert_string_equal(buf_str(&f->got), "hello world");
    assert_int_equal(info.size, 11);
    assert_int_equal(get(f, "db/ltx/0/one", 6, 3, &info).code, ERR_OK);
    assert_string_equal(buf_str(&f->got), "wor");
    assert_int_equal(get(f, "db/ltx/0/one", 6, UINT64_MAX, NULL).code, ERR_OK);
    assert_string_equal(buf_str(&f->got), "world");
    assert_int_equal(get(f, "db/ltx/0/one", 6, 6, NULL).code, ERR_CORRUPT);
    assert_int_equal(get(f, "db/ltx/0/one", 12, UINT64_MAX, NULL).code, ERR_CORRUPT);
    assert_int_equal(get(f, "db/ltx/0/one", 11, UINT64_MAX, NULL).code, ERR_CORRUPT);
    assert_int_equal(get(f, "db/ltx/0/one", 0, 0, NULL).code, ERR_USAGE);
    struct err e = get(f, "db/ltx/0/two", 0, UINT64_MAX, NULL);
    assert_int_equal(e.code, ERR_NOTFOUND);
    assert_non_null(strstr(e.msg, "/a/b/db/ltx/0/two"));
    assert_int_equal(get(f, "db/ltx", 0, UINT64_MAX, NULL).code, ERR_NOTFOUND);
}

static void an_empty_object_is_an_object(void **state)
{
    struct fix *f = *state;
    assert_int_equal(put_text(f, "empty", "", 0), ERR_OK);
    assert_int_equal(get(f, "empty", 0, UINT64_MAX, NULL).code, ERR_OK);
    assert_int_equal(f->got.len, 0);
    assert_int_equal(list(f, "", NULL).code, ERR_OK);
    assert_int_equal(f->n_listed, 1);
}

static void put_replaces_unless_told_not_to(void **state)
{
    struct fix *f = *state;
    assert_int_equal(put_text(f, "k", "first", STORE_IF_ABSENT), ERR_OK);
    assert_int_equal(put_text(f, "k", "second", STORE_IF_ABSENT), ERR_CONFLICT);
    assert_int_equal(get(f, "k", 0, UINT64_MAX, NULL).code, ERR_OK);
    assert_string_equal(buf_str(&f->got), "first");
    assert_int_equal(put_text(f, "k", "second", 0), ERR_OK);
    assert_int_equal(get(f, "k", 0, UINT64_MAX, NULL).code, ERR_OK);
    assert_string_equal(buf_str(&f->got), "second");
}

static void a_file_of_another_size_is_not_stored(void **state)
{
    struct fix *f = *state;
    size_t n = ((size_t)20 << 20) + 17;
    uint8_t *big = malloc(n);
    for (size_t i = 0; i < n; i++)
        big[i] = (uint8_t)(i * 7 + i / 4096);
    cleanup_free char *src = util_printf("%s/source", f->dir);
    assert_int_equal(fsx_publish(src, big, n, 0600, FSX_NOSYNC, NULL), 0);
    struct store_body b = {.path = src, .size = n};
    assert_int_equal(put(f, "big", &b, NULL, 0), ERR_OK);
    assert_int_equal(get(f, "big", 0, UINT64_MAX, NULL).code, ERR_OK);
    assert_int_equal(f->got.len, n);
    assert_memory_equal(f->got.p, big, n);
    free(big);
    b.size = n + 1;
    assert_int_equal(put(f, "longer", &b, NULL, 0), ERR_CORRUPT);
    b.size = n - 1;
    assert_int_equal(put(f, "shorter", &b, NULL, 0), ERR_CORRUPT);
    b.path = "/nonexistent/file";
    assert_int_not_equal(put(f, "nothing", &b, NULL, 0), ERR_OK);
    assert_int_equal(list(f, "", NULL).code, ERR_OK);
    assert_int_equal(f->n_listed, 1);
}

static void metadata_comes_back(void **state)
{
    struct fix *f = *state;
    struct store_meta m = {1767225600120, 0x0123456789abcdef, 0xfedcba9876543210, ""};
    struct store_body b = {.p = "x", .size = 1};
    assert_int_equal(put(f, "m", &b, &m, 0), ERR_OK);
    struct store_info info = {0};
    struct store_req r = request(f);
    store_head(f->s, &r, "m", &info);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_OK);
    assert_int_equal(info.mtime_ms, 1767225600120);
    cleanup_free char *p = util_printf("%s/m", f->root);
    char value[64] = "";
    if (getxattr(p, "user." STORE_META_TIMESTAMP, value, sizeof value - 1) > 0) {
        assert_string_equal(value, "2026-01-01T00:00:00.12Z");
        assert_true(info.meta.timestamp_ms == m.timestamp_ms);
        assert_true(info.meta.checksum == m.checksum);
        assert_true(info.meta.lineage == m.lineage);
    }
    r = request(f);
    store_head(f->s, &r, "n", &info);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_NOTFOUND);
}

static void timestamps_of_others_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {{"2026-01-01T00:00:00Z", 1767225600000},
                {"2026-01-01T00:00:00.123456789Z", 1767225600123},
                {"2026-01-01T02:00:00.5+02:00", 1767225600500},
                {"1970-01-01T00:00:00-00:30", 1800000}};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        int64_t ms = -1;
        assert_true(store_rfc3339(good[i].text, &ms));
        assert_int_equal(ms, good[i].ms);
    }
    static const char *const bad[] = {"", "2026", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00",
                                      "2026-01-01T00:00:00Zx", "2026-01-01T00:00:00+1",
                                      "x026-01-01T00:00:00Z"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        int64_t ms;
        assert_false(store_rfc3339(bad[i], &ms));
    }
}

static void list_is_in_byte_order_of_whole_keys(void **state)
{
    struct fix *f = *state;
    static const char *const keys[] = {"a/x", "a.b", "a0", "a/b/c", "b", "a/\xc3\xa9", "A"};
    assert_int_equal(list(f, "", NULL).code, ERR_OK); /* the directory is not there yet */
    assert_int_equal(f->n_listed, 0);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        assert_int_equal(put_text(f, keys[i], keys[i], 0), ERR_OK);
    static const char *const sorted[] = {"A", "a.b", "a/b/c", "a/x", "a/\xc3\xa9", "a0", "b"};
    assert_int_equal(list(f, "", NULL).code, ERR_OK);
    assert_int_equal(f->n_listed, ARRAY_LEN(sorted));
    for (size_t i = 0; i < ARRAY_LEN(sorted); i++) {
        assert_string_equal(f->listed[i], sorted[i]);
        assert_int_equal(f->listed_size[i], strlen(sorted[i]));
    }
    assert_int_equal(list(f, "a/", "a/b/c").code, ERR_OK);
    assert_int_equal(f->n_listed, 2);
    assert_string_equal(f->listed[0], "a/x");
    assert_int_equal(list(f, "a/b", "").code, ERR_OK);
    assert_int_equal(f->n_listed, 1);
    assert_int_equal(list(f, "zz/none/", "").code, ERR_OK);
    assert_int_equal(f->n_listed, 0);
    assert_int_equal(list(f, "../", "").code, ERR_USAGE);
}

static void leftovers_are_neither_listed_nor_objects(void **state)
{
    struct fix *f = *state;
    assert_int_equal(put_text(f, "d/k", "x", 0), ERR_OK);
    cleanup_free char *tmp = util_printf("%s/d/k.tmp-0123456789abcdef", f->root);
    assert_int_equal(fsx_publish(tmp, "y", 1, 0600, FSX_NOSYNC, NULL), 0);
    /* an old modification time alone proves nothing: put sets it before the rename */
    struct timespec old[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    assert_int_equal(utimensat(AT_FDCWD, tmp, old, 0), 0);
    assert_int_equal(list(f, "", NULL).code, ERR_OK);
    assert_int_equal(f->n_listed, 1);
    assert_true(has(f, "d/k.tmp-0123456789abcdef"));
    assert_int_equal(put_text(f, "d/k.tmp-0123456789abcdef", "z", 0), ERR_USAGE);
}

static void delete_takes_what_is_there(void **state)
{
    struct fix *f = *state;
    assert_int_equal(put_text(f, "d/1", "x", 0), ERR_OK);
    assert_int_equal(put_text(f, "d/2", "x", 0), ERR_OK);
    static const char *const keys[] = {"d/1", "d/none", "nodir/x", "d/2"};
    struct store_req r = request(f);
    store_delete(f->s, &r, keys, ARRAY_LEN(keys));
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_OK);
    assert_int_equal(list(f, "", NULL).code, ERR_OK);
    assert_int_equal(f->n_listed, 0);
    r = request(f);
    store_delete(f->s, &r, keys, 0);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_OK);
}

static void names_that_leave_the_directory_are_refused(void **state)
{
    struct fix *f = *state;
    static const char *const bad[] = {"", "/x", "../x", "a/../../x", "a//b", "a/", "./a", "a\nb"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(put_text(f, bad[i], "x", 0), ERR_USAGE);
    static const char *const keys[] = {"ok", "../x"};
    struct store_req r = request(f);
    store_delete(f->s, &r, keys, 2);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_USAGE);
}

static void a_symlink_is_no_object(void **state)
{
    struct fix *f = *state;
    assert_int_equal(put_text(f, "real", "secret", 0), ERR_OK);
    cleanup_free char *link = util_printf("%s/link", f->root);
    cleanup_free char *real = util_printf("%s/real", f->root);
    assert_int_equal(symlink(real, link), 0);
    assert_int_equal(get(f, "link", 0, UINT64_MAX, NULL).code, ERR_IO);
    assert_int_equal(list(f, "", NULL).code, ERR_OK);
    assert_int_equal(f->n_listed, 1);
    assert_int_equal(put_text(f, "link", "new", 0), ERR_OK); /* replaces the link itself */
    assert_int_equal(get(f, "real", 0, UINT64_MAX, NULL).code, ERR_OK);
    assert_string_equal(buf_str(&f->got), "secret");
}

static int refuse(void *arg, const void *p, size_t n, struct err *e)
{
    (void)arg, (void)p, (void)n;
    return err_set(e, ERR_CORRUPT, "no good");
}

static void the_sink_can_end_it(void **state)
{
    struct fix *f = *state;
    assert_int_equal(put_text(f, "k", "x", 0), ERR_OK);
    struct store_req r = request(f);
    store_get(f->s, &r, "k", 0, UINT64_MAX, refuse, f, NULL);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_CORRUPT);
    assert_non_null(strstr(r.err.msg, "no good"));
}

static void cancel_leaves_nothing_behind(void **state)
{
    struct fix *f = *state;
    size_t n = (size_t)32 << 20;
    uint8_t *big = calloc(1, n);
    cleanup_free char *src = util_printf("%s/source", f->dir);
    assert_int_equal(fsx_publish(src, big, n, 0600, FSX_NOSYNC, NULL), 0);
    free(big);
    struct store_body b = {.path = src, .size = n};
    struct store_req r = request(f);
    store_put(f->s, &r, "big", &b, NULL, 0);
    store_cancel(&r);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_CANCELED);
    r = request(f);
    store_put(f->s, &r, "big", &b, NULL, 0);
    f->in_call = false;
    while (!r.bytes)
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    store_cancel(&r);
    wait_done(f, 1);
    assert_int_equal(r.err.code, ERR_CANCELED);
    assert_true(r.bytes < n);
    assert_int_equal(list(f, "", NULL).code, ERR_OK);
    assert_int_equal(f->n_listed, 0);
}

static void close_ends_everything_in_flight(void **state)
{
    struct fix *f = *state;
    static struct store_req r[64];
    struct store_body b = {.p = "x", .size = 1};
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        r[i] = request(f);
        store_put(f->s, &r[i], "k", &b, NULL, 0);
    }
    close_store(f);
    assert_int_equal(f->done, ARRAY_LEN(r));
    for (size_t i = 0; i < ARRAY_LEN(r); i++)
        assert_true(r[i].err.code == ERR_OK || r[i].err.code == ERR_CANCELED);
}

static void many_puts_are_quick_enough(void **state)
{
    struct fix *f = *state;
    static struct store_req r[200];
    static char keys[200][32];
    char block[4096] = {0};
    struct store_body b = {.p = block, .size = sizeof block};
    uint64_t t0 = clk_mono_us();
    for (size_t i = 0; i < ARRAY_LEN(r); i++) {
        r[i] = request(f);
        (void)snprintf(keys[i], sizeof keys[i], "db/ltx/0/%03zu", i);
        store_put(f->s, &r[i], keys[i], &b, NULL, STORE_IF_ABSENT);
    }
    wait_done(f, ARRAY_LEN(r));
    uint64_t us = clk_mono_us() - t0;
    print_message("%zu puts of 4 KiB: %.0f a second\n", ARRAY_LEN(r),
                  (double)ARRAY_LEN(r) * 1e6 / (double)us);
    for (size_t i = 0; i < ARRAY_LEN(r); i++)
        assert_int_equal(r[i].err.code, ERR_OK);
    assert_int_equal(list(f, "db/", NULL).code, ERR_OK);
    assert_int_equal(f->n_listed, ARRAY_LEN(r));
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(put_then_get_returns_the_bytes),
        T(an_empty_object_is_an_object),
        T(put_replaces_unless_told_not_to),
        T(a_file_of_another_size_is_not_stored),
        T(metadata_comes_back),
        T(timestamps_of_others_are_read),
        T(list_is_in_byte_order_of_whole_keys),
        T(leftovers_are_neither_listed_nor_objects),
        T(delete_takes_what_is_there),
        T(names_that_leave_the_directory_are_refused),
        T(a_symlink_is_no_object),
        T(the_sink_can_end_it),
        T(cancel_leaves_nothing_behind),
        T(close_ends_everything_in_flight),
        T(many_puts_are_quick_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
