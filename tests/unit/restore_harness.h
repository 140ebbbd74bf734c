/* restore_harness.h - a replica made from a real database, every state of which is remembered;
 * whatever is restored has to be one of them, byte for byte, or nothing at all. */
#ifndef RESTORE_HARNESS_H
#define RESTORE_HARNESS_H

#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "common/base/fsx.h"
#include "common/format/ltx.h"
#include "common/store/restore_publish.h"
#include "common/store/store_impl.h"

#define STATES 12u

struct fix {
    char dir[64];
    char *db, *out, *root;
    uint32_t page_size;
    struct buf state[STATES + 1]; /* state[k]: the database after TXID k */
    uv_loop_t loop;
    struct store *s;
    bool closed;
    const char *vanish; /* removed when fetching starts */
    unsigned reports;
    uint64_t post_apply; /* 0: files without database checksums */
    struct store_ops far; /* the store, as if it were on another machine */
    uint64_t range_bytes;
};

static inline int take(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    buf_add(arg, p, n);
    return 0;
}

static inline uint32_t pages(const struct fix *f, uint64_t k)
{
    return (uint32_t)(f->state[k].len / f->page_size);
}

static const uint8_t *page_of(const struct fix *f, uint64_t k, uint32_t pgno)
{
    return pgno <= pages(f, k) ? f->state[k].p + (size_t)(pgno - 1) * f->page_size : NULL;
}

/* What changed from state min-1 to state max, as an LTX file. */
static inline void make_ltx(const struct fix *f, uint64_t min, uint64_t max, enum ltx_encoding encoding,
                     struct buf *b)
{
    struct err e = {0};
    struct ltx_encoder *enc;
    struct ltx_header h = {.flags = f->post_apply ? 0 : LTX_FLAG_NO_CHECKSUM,
                           .page_size = f->page_size, .commit = pages(f, max), .min_txid = min,
                           .max_txid = max, .timestamp_ms = 1000 * (int64_t)max, .wal_offset = 32,
                           .pre_apply = f->post_apply && min > 1 ? LTX_CHECKSUM_FLAG : 0,
                           .node_id = 0xabcd};
    assert_int_equal(ltx_encoder_new(&h, encoding, take, b, &enc, &e), 0);
    for (uint32_t i = 1; i <= h.commit; i++) {
        const uint8_t *old = page_of(f, min - 1, i), *new = page_of(f, max, i);
        /* also what changed in between and back, and what was cut off in between */
        bool changed = min == 1;
        for (uint64_t k = min; k <= max && !changed; k++) {
            const uint8_t *p = page_of(f, k, i);
            changed = !old || !p || memcmp(p, old, f->page_size) != 0;
        }
        if (changed)
            assert_int_equal(ltx_encoder_page(enc, i, new, &e), 0);
    }
    assert_int_equal(ltx_encoder_finish(enc, f->post_apply, NULL, &e), 0);
    (void)ltx_encoder_free(enc);
}

static inline char *object(const struct fix *f, unsigned level, uint64_t min, uint64_t max)
{
    char name[LTX_NAME_SIZE];
    return util_printf("%s/app/ltx/%u/%s", f->root, level, ltx_name(name, min, max));
}

static inline void put_bytes(const struct fix *f, unsigned level, uint64_t min, uint64_t max,
                      const struct buf *b)
{
    struct err e = {0};
    cleanup_free char *path = object(f, level, min, max);
    cleanup_free char *dir = util_printf("%s/app/ltx/%u", f->root, level);
    assert_int_equal(fsx_mkdirs(dir, 0700, &e), 0);
    assert_int_equal(fsx_publish(path, b->p, b->len, 0600, FSX_NOSYNC | FSX_REPLACE, &e), 0);
}

static inline void put(const struct fix *f, unsigned level, uint64_t min, uint64_t max)
{
    cleanup_buf struct buf b = BUF_INIT;
    make_ltx(f, min, max, (min + level) & 1 ? LTX_BLOCK : LTX_FRAME, &b);
    put_bytes(f, level, min, max, &b);
}

static inline void drop(const struct fix *f, unsigned level, uint64_t min, uint64_t max)
{
    cleanup_free char *path = object(f, level, min, max);
    assert_int_equal(unlink(path), 0);
}

static inline void sql(sqlite3 *db, const char *text)
{
    char *msg = NULL;
    if (sqlite3_exec(db, text, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s: %s", text, msg);
}

/* Growth, changes in place, and twice a database that shrinks and grows again. */
static inline void make_states(struct fix *f)
{
    sqlite3 *db;
    struct err e = {0};
    cleanup_free char *pragma = util_printf("PRAGMA page_size=%u", f->page_size);
    assert_int_equal(sqlite3_open(f->db, &db), SQLITE_OK);
    sql(db, pragma);
    sql(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF");
    for (unsigned k = 1; k <= STATES; k++) {
        if (k == 1)
            sql(db, "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b)");
        else if (k == 5 || k == 9)
            sql(db, "DELETE FROM t WHERE a % 5; VACUUM");
        else
            sql(db, "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<100) "
                    "INSERT INTO t(b) SELECT randomblob(n*4) FROM c; "
                    "UPDATE t SET b = randomblob(30) WHERE a % 17 = 0");
        sql(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        assert_int_equal(fsx_read(f->db, 64u << 20, &f->state[k], &e), 0);
    }
    if (f->page_size <= 4096)
        assert_true(pages(f, 5) < pages(f, 4) && pages(f, 6) > pages(f, 5));
    (void)sqlite3_close(db);
}

static inline int setup(void **state)
{
    struct fix *f = util_zalloc(sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/walsup-test-restore-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->db = util_printf("%s/source", f->dir);
    f->root = util_printf("%s/bucket", f->dir);
    /* a directory of its own, to see what is left behind, and a name that is no good as a URI */
    cleanup_free char *sub = util_printf("%s/out", f->dir);
    assert_int_equal(mkdir(sub, 0700), 0);
    f->out = util_printf("%s/out/100%% a?b#c", f->dir);
    f->page_size = 4096;
    make_states(f);
    put(f, 9, 1, 1);
    for (uint64_t k = 2; k <= STATES; k++)
        put(f, 0, k, k);
    put(f, 1, 2, 4);
    put(f, 1, 5, 6);
    put(f, 2, 2, 6);
    put(f, 1, 7, 9);
    struct conf_target t = {.name = (char[]){"t"}, .type = CONF_FILE, .path = f->root};
    struct err e;
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(store_open(&f->loop, &t, &f->s, &e), 0);
    *state = f;
    return 0;
}

/* The same tests for what a store elsewhere needs, and for files of which only parts are read. */
static inline int setup_far(void **state)
{
    (void)setup(state);
    struct fix *f = *state;
    f->far = *f->s->ops;
    f->far.open = NULL;
    f->s->ops = &f->far;
    return 0;
}

static inline int setup_parts(void **state)
{
    (void)setup(state);
    ((struct fix *)*state)->range_bytes = 1;
    return 0;
}

static inline int setup_far_parts(void **state)
{
    (void)setup_far(state);
    ((struct fix *)*state)->range_bytes = 1;
    return 0;
}

#define IN_EACH_WAY(f)                                                                  \
    {#f ", far", f, setup_far, teardown, NULL}, {#f ", in parts", f, setup_parts, teardown, NULL}, \
    {#f ", far, in parts", f, setup_far_parts, teardown, NULL}, {#f, f, setup, teardown, NULL}

static inline void on_closed(void *arg)
{
    ((struct fix *)arg)->closed = true;
}

static inline int teardown(void **state)
{
    struct fix *f = *state;
    store_close(f->s, on_closed, f);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_true(f->closed);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    cleanup_free char *rm = util_printf("rm -r %s", f->dir);
    assert_int_equal(system(rm), 0);
    for (unsigned k = 0; k <= STATES; k++)
        buf_free(&f->state[k]);
    free(f->db);
    free(f->out);
    free(f->root);
    free(f);
    return 0;
}

static inline void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct fix *f = arg;
    assert_non_null(phase);
    assert_true(!total || done <= total);
    f->reports++;
    if (f->vanish && strcmp(phase, "fetch") == 0) {
        assert_int_equal(unlink(f->vanish), 0);
        f->vanish = NULL;
    }
}

static inline int count(const char *name, void *arg)
{
    (void)name;
    ++*(unsigned *)arg;
    return 0;
}

static inline unsigned files_beside(const struct fix *f)
{
    struct err e = {0};
    unsigned n = 0;
    cleanup_free char *dir = util_printf("%s/out", f->dir);
    assert_int_equal(fsx_list(dir, count, &n, &e), 0);
    return n;
}

static inline struct restore_opts opts(const struct fix *f, uint64_t txid)
{
    return (struct restore_opts){.replica = "app", .output = f->out, .txid = txid,
                                 .range_bytes = f->range_bytes};
}

static inline void expect_state(const struct fix *f, uint64_t k)
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    assert_int_equal(fsx_read(f->out, 64u << 20, &b, &e), 0);
    assert_int_equal(b.len, f->state[k].len);
    assert_memory_equal(b.p, f->state[k].p, b.len);
    assert_int_equal(files_beside(f), 1);
}

static inline void restores(struct fix *f, const struct restore_opts *o, uint64_t k, size_t n_files)
{
    struct err e = {0};
    struct restore_result r;
    if (restore_run(&f->loop, f->s, o, on_progress, f, &r, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(r.txid, k);
    assert_int_equal(r.timestamp_ms, 1000 * k);
    assert_int_equal(r.lineage, 0xabcd);
    assert_int_equal(r.page_size, f->page_size);
    assert_int_equal(r.database_bytes, f->state[k].len);
    assert_true(r.bytes > 0);
    if (n_files)
        assert_int_equal(r.n_files, n_files);
    assert_int_equal(r.file[r.n_files - 1].max, k);
    restore_result_done(&r);
    expect_state(f, k);
}

static inline void refuses(struct fix *f, const struct restore_opts *o, enum err_code code,
                    const char *text)
{
    struct err e = {0};
    struct restore_result r = {.txid = 99};
    unsigned before = files_beside(f);
    int k = restore_run(&f->loop, f->s, o, on_progress, f, &r, &e);
    if (!strstr(e.msg, text))
        fail_msg("\"%s\" is not in \"%s\"", text, e.msg);
    assert_int_equal(k, -(int)code);
    assert_int_equal(r.txid, 99);
    assert_int_equal(files_beside(f), before);
}

#endif
