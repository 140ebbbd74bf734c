/* A replica made from a real database, every state of which is remembered; whatever is restored has
 * to be one of them, byte for byte, or nothing at all. */
#include "common/store/restore.h"

#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "common/base/fsx.h"
#include "common/format/ltx.h"
#include "common/store/restore_apply.h"
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
};

static int take(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    buf_add(arg, p, n);
    return 0;
}

static uint32_t pages(const struct fix *f, uint64_t k)
{
    return (uint32_t)(f->state[k].len / f->page_size);
}

static const uint8_t *page_of(const struct fix *f, uint64_t k, uint32_t pgno)
{
    return pgno <= pages(f, k) ? f->state[k].p + (size_t)(pgno - 1) * f->page_size : NULL;
}

/* What changed from state min-1 to state max, as an LTX file. */
static void make_ltx(const struct fix *f, uint64_t min, uint64_t max, enum ltx_encoding encoding,
                     struct buf *b)
{
    struct err e = {0};
    struct ltx_encoder *enc;
    struct ltx_header h = {.flags = LTX_FLAG_NO_CHECKSUM, .page_size = f->page_size,
                           .commit = pages(f, max), .min_txid = min, .max_txid = max,
                           .timestamp_ms = 1000 * (int64_t)max, .wal_offset = 32,
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
    assert_int_equal(ltx_encoder_finish(enc, 0, NULL, &e), 0);
    (void)ltx_encoder_free(enc);
}

static char *object(const struct fix *f, unsigned level, uint64_t min, uint64_t max)
{
    char name[LTX_NAME_SIZE];
    return util_printf("%s/app/ltx/%u/%s", f->root, level, ltx_name(name, min, max));
}

static void put_bytes(const struct fix *f, unsigned level, uint64_t min, uint64_t max,
                      const struct buf *b)
{
    struct err e = {0};
    cleanup_free char *path = object(f, level, min, max);
    cleanup_free char *dir = util_printf("%s/app/ltx/%u", f->root, level);
    assert_int_equal(fsx_mkdirs(dir, 0700, &e), 0);
    assert_int_equal(fsx_publish(path, b->p, b->len, 0600, FSX_NOSYNC | FSX_REPLACE, &e), 0);
}

static void put(const struct fix *f, unsigned level, uint64_t min, uint64_t max)
{
    cleanup_buf struct buf b = BUF_INIT;
    make_ltx(f, min, max, (min + level) & 1 ? LTX_BLOCK : LTX_FRAME, &b);
    put_bytes(f, level, min, max, &b);
}

static void drop(const struct fix *f, unsigned level, uint64_t min, uint64_t max)
{
    cleanup_free char *path = object(f, level, min, max);
    assert_int_equal(unlink(path), 0);
}

static void sql(sqlite3 *db, const char *text)
{
    char *msg = NULL;
    if (sqlite3_exec(db, text, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s: %s", text, msg);
}

/* Growth, changes in place, and twice a database that shrinks and grows again. */
static void make_states(struct fix *f)
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

static int setup(void **state)
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

static void on_closed(void *arg)
{
    ((struct fix *)arg)->closed = true;
}

static int teardown(void **state)
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

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
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

static int count(const char *name, void *arg)
{
    (void)name;
    ++*(unsigned *)arg;
    return 0;
}

static unsigned files_beside(const struct fix *f)
{
    struct err e = {0};
    unsigned n = 0;
    cleanup_free char *dir = util_printf("%s/out", f->dir);
    assert_int_equal(fsx_list(dir, count, &n, &e), 0);
    return n;
}

static struct restore_opts opts(const struct fix *f, uint64_t txid)
{
    return (struct restore_opts){.replica = "app", .output = f->out, .txid = txid};
}

static void expect_state(const struct fix *f, uint64_t k)
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    assert_int_equal(fsx_read(f->out, 64u << 20, &b, &e), 0);
    assert_int_equal(b.len, f->state[k].len);
    assert_memory_equal(b.p, f->state[k].p, b.len);
    assert_int_equal(files_beside(f), 1);
}

static void restores(struct fix *f, const struct restore_opts *o, uint64_t k, size_t n_files)
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

static void refuses(struct fix *f, const struct restore_opts *o, enum err_code code,
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

static void every_txid(void **state)
{
    struct fix *f = *state;
    for (uint64_t k = 1; k <= STATES; k++) {
        struct restore_opts o = opts(f, k);
        o.check = k & 1 ? RESTORE_CHECK_FULL : RESTORE_CHECK_QUICK;
        o.parallel = (unsigned)k % 4;
        restores(f, &o, k, 0);
        assert_int_equal(unlink(f->out), 0);
    }
    struct restore_opts latest = opts(f, 0);
    restores(f, &latest, STATES, 6); /* 1, 2-6, 7-9, 10, 11, 12 */
    assert_true(f->reports > 0);
    struct stat st;
    assert_int_equal(stat(f->out, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

static void txids_and_replicas_that_are_not_there(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, STATES + 1);
    refuses(f, &o, ERR_CORRUPT, "exactly TXID 000000000000000d");
    drop(f, 0, 11, 11);
    o.txid = 0;
    refuses(f, &o, ERR_CORRUPT, "TXIDs 000000000000000b to 000000000000000b are missing");
    o.txid = 10;
    restores(f, &o, 10, 0);
    o = opts(f, 0);
    o.force = true;
    o.replica = "nothing";
    refuses(f, &o, ERR_NOTFOUND, "empty");
}

static void a_dry_run_writes_nothing(void **state)
{
    struct fix *f = *state;
    struct err e = {0};
    struct restore_result r;
    struct restore_opts o = opts(f, 0);
    o.dry_run = true;
    o.output = NULL;
    assert_int_equal(restore_run(&f->loop, f->s, &o, NULL, NULL, &r, &e), 0);
    assert_int_equal(r.txid, STATES);
    assert_int_equal(r.n_files, 6);
    assert_int_equal(r.timestamp_ms, 0);
    assert_true(r.bytes > 0);
    restore_result_done(&r);
    assert_int_equal(files_beside(f), 0);
}

static void nothing_is_overwritten_unless_forced(void **state)
{
    struct fix *f = *state;
    struct err e = {0};
    struct stat st;
    static const char *const suffix[] = {"", "-wal", "-shm", "-journal"};
    struct restore_opts o = opts(f, 3);
    for (size_t i = 0; i < ARRAY_LEN(suffix); i++) {
        cleanup_free char *path = util_printf("%s%s", f->out, suffix[i]);
        assert_int_equal(fsx_publish(path, "x", 1, 0640, 0, &e), 0);
        refuses(f, &o, ERR_EXISTS, path);
        if (i)
            assert_int_equal(unlink(path), 0);
        else
            assert_int_equal(rename(path, f->db), 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(suffix); i++) {
        cleanup_free char *path = util_printf("%s%s", f->out, suffix[i]);
        assert_int_equal(fsx_publish(path, "x", 1, 0640, 0, &e), 0);
    }
    o.force = true;
    restores(f, &o, 3, 0); /* which counts the files */
    assert_int_equal(stat(f->out, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640); /* as the file that was replaced */
    /* a failure leaves the old database and its side files alone */
    cleanup_free char *wal = util_printf("%s-wal", f->out), *bad = object(f, 0, 12, 12);
    assert_int_equal(fsx_publish(wal, "x", 1, 0640, 0, &e), 0);
    assert_int_equal(truncate(bad, 200), 0);
    o.txid = 0;
    refuses(f, &o, ERR_CORRUPT, "000000000000000c-000000000000000c.ltx");
    assert_int_equal(unlink(wal), 0);
    expect_state(f, 3);
    assert_int_equal(unlink(f->out), 0);
    assert_int_equal(mkdir(f->out, 0700), 0);
    refuses(f, &o, ERR_EXISTS, "not a regular file");
}

static void damage_is_found_and_named(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 0);
    static const struct {
        unsigned level;
        uint64_t min, max;
    } part[] = {{9, 1, 1}, {2, 2, 6}, {1, 7, 9}, {0, 10, 10}, {0, 12, 12}};
    for (size_t i = 0; i < ARRAY_LEN(part); i++)
        for (int round = 0; round < 10; round++) {
            struct err e = {0};
            char name[LTX_NAME_SIZE];
            cleanup_buf struct buf b = BUF_INIT, good = BUF_INIT;
            cleanup_free char *path = object(f, part[i].level, part[i].min, part[i].max);
            assert_int_equal(fsx_read(path, 64u << 20, &b, &e), 0);
            buf_add(&good, b.p, b.len);
            /* page numbers of frames, index and trailer: never harmless */
            size_t at = round < 4 ? (size_t)round * 4 + 4 : b.len - 1 - (size_t)round * 3;
            if (round == 9)
                b.len--;
            else
                b.p[at] ^= 0x41;
            put_bytes(f, part[i].level, part[i].min, part[i].max, &b);
            o.parallel = (unsigned)round;
            o.txid = part[i].max; /* a later file that holds all pages would do without it */
            refuses(f, &o, ERR_CORRUPT, ltx_name(name, part[i].min, part[i].max));
            put_bytes(f, part[i].level, part[i].min, part[i].max, &good);
        }
    restores(f, &o, STATES, 0);
}

static uint64_t checksum_of(const struct fix *f, uint64_t k)
{
    uint64_t sum = LTX_CHECKSUM_FLAG;
    for (uint32_t i = 1; i <= pages(f, k); i++)
        sum = LTX_CHECKSUM_FLAG | (sum ^ ltx_page_checksum(i, page_of(f, k, i), f->page_size));
    return sum;
}

static void set_meta(const struct fix *f, unsigned level, uint64_t min, uint64_t max,
                     const char *name, uint64_t value)
{
    cleanup_free char *path = object(f, level, min, max);
    char text[17];
    (void)snprintf(text, sizeof text, "%016llx", (unsigned long long)value);
    if (setxattr(path, name, text, 16, 0) < 0)
        skip(); /* a file system without them: nothing to verify with */
}

#define CHECKSUM "user.walsup-checksum"
#define LINEAGE "user.walsup-lineage"

static void set_checksums(const struct fix *f)
{
    static const struct {
        unsigned level;
        uint64_t min, max;
    } more[] = {{9, 1, 1}, {1, 2, 4}, {1, 5, 6}, {2, 2, 6}, {1, 7, 9}};
    for (size_t i = 0; i < ARRAY_LEN(more); i++)
        set_meta(f, more[i].level, more[i].min, more[i].max, CHECKSUM, checksum_of(f, more[i].max));
    for (uint64_t k = 2; k <= STATES; k++)
        set_meta(f, 0, k, k, CHECKSUM, checksum_of(f, k));
}

static void the_whole_database_is_verified(void **state)
{
    struct fix *f = *state;
    set_checksums(f);
    for (uint64_t k = 1; k <= STATES; k++) {
        struct restore_opts o = opts(f, k);
        struct restore_result r;
        struct err e = {0};
        o.force = true;
        if (restore_run(&f->loop, f->s, &o, NULL, NULL, &r, &e) < 0)
            fail_msg("%s", e.msg);
        assert_true(r.verified && r.checksum == checksum_of(f, k));
        restore_result_done(&r);
        expect_state(f, k);
    }
    struct restore_opts o = opts(f, 0);
    struct restore_result r;
    struct err e = {0};
    o.force = true;
    set_meta(f, 0, 12, 12, CHECKSUM, 0x8000000000000001);
    cleanup_free char *want = util_printf("000000000000000c-000000000000000c.ltx: the database after "
                                          "it should have checksum 8000000000000001, what the "
                                          "replica holds has %016llx",
                                          (unsigned long long)checksum_of(f, 12));
    refuses(f, &o, ERR_CORRUPT, want);
    /* what Litestream wrote, or a copy that lost its attributes */
    put(f, 0, 12, 12);
    assert_int_equal(restore_run(&f->loop, f->s, &o, NULL, NULL, &r, &e), 0);
    assert_true(!r.verified && r.checksum == checksum_of(f, 12));
    restore_result_done(&r);
}

/* Every file is sound and bears the right name: only the whole shows it. */
static void an_object_of_another_history(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 0);
    cleanup_buf struct buf old = BUF_INIT;
    set_checksums(f);
    make_ltx(f, 11, 11, LTX_BLOCK, &old);
    /* the same page as in the right one, with another content in the middle */
    size_t at = (size_t)(pages(f, 11) - 1) * f->page_size + f->page_size - 20;
    cleanup_buf struct buf kept = BUF_INIT;
    buf_add(&kept, f->state[11].p, f->state[11].len);
    f->state[11].p[at] ^= 1;
    put(f, 0, 11, 11);
    set_meta(f, 0, 11, 11, CHECKSUM, checksum_of(f, 11));
    memcpy(f->state[11].p, kept.p, kept.len);
    o.txid = 11;
    set_meta(f, 0, 11, 11, CHECKSUM, checksum_of(f, 11));
    refuses(f, &o, ERR_CORRUPT, "000000000000000b-000000000000000b.ltx: the database after it");
    put_bytes(f, 0, 11, 11, &old);
    set_meta(f, 0, 11, 11, CHECKSUM, checksum_of(f, 11));
    restores(f, &o, 11, 0);
}


/* A file of TXID k with all pages of state `of`, or those that differ from state `base`. */
static void put_lineage(const struct fix *f, uint64_t k, uint64_t of, uint64_t base, uint64_t lineage)
{
    struct err e = {0};
    struct ltx_encoder *enc;
    cleanup_buf struct buf b = BUF_INIT;
    struct ltx_header h = {.flags = LTX_FLAG_NO_CHECKSUM, .page_size = f->page_size,
                           .commit = pages(f, of), .min_txid = k, .max_txid = k,
                           .timestamp_ms = 1000 * (int64_t)of, .wal_offset = 32,
                           .node_id = lineage};
    assert_int_equal(ltx_encoder_new(&h, LTX_BLOCK, take, &b, &enc, &e), 0);
    for (uint32_t i = 1; i <= h.commit; i++) {
        const uint8_t *old = base ? page_of(f, base, i) : NULL;
        if (!old || memcmp(old, page_of(f, of, i), f->page_size) != 0)
            assert_int_equal(ltx_encoder_page(enc, i, page_of(f, of, i), &e), 0);
    }
    assert_int_equal(ltx_encoder_finish(enc, 0, NULL, &e), 0);
    (void)ltx_encoder_free(enc);
    put_bytes(f, 0, k, k, &b);
}

static void becomes(struct fix *f, const struct restore_opts *o, uint64_t k, uint64_t lineage)
{
    struct err e = {0};
    struct restore_result r;
    if (restore_run(&f->loop, f->s, o, on_progress, f, &r, &e) < 0)
        fail_msg("%s", e.msg);
    assert_true(r.lineage == lineage);
    restore_result_done(&r);
    expect_state(f, k);
}

/* A file with all pages that is wrong is named itself, not the one after it. */
static void a_wrong_base_is_named(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 0);
    put_lineage(f, 13, 3, 0, 0xabcd);
    put_lineage(f, 14, 4, 3, 0xabcd);
    set_meta(f, 0, 14, 14, CHECKSUM, checksum_of(f, 4));
    set_meta(f, 0, 13, 13, CHECKSUM, checksum_of(f, 2));
    refuses(f, &o, ERR_CORRUPT, "000000000000000d-000000000000000d.ltx: the database after it");
    set_meta(f, 0, 13, 13, CHECKSUM, checksum_of(f, 3));
    becomes(f, &o, 4, 0xabcd);
}

/* A different database under the old name: TXIDs go on, the lineage is new, and its first file
 * holds all of it. */
static void another_database_under_the_name(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 0);
    o.force = true;
    put_lineage(f, 13, 3, 0, 0xbeef);
    put_lineage(f, 14, 4, 3, 0xbeef);
    becomes(f, &o, 4, 0xbeef);
    o.txid = 13;
    becomes(f, &o, 3, 0xbeef);
    o.txid = 12; /* the old history is still there */
    becomes(f, &o, 12, 0xabcd);
    /* its first file is gone: nothing of the old one may be taken in its place */
    o.txid = 0;
    drop(f, 0, 13, 13);
    refuses(f, &o, ERR_CORRUPT, "missing");
    put_lineage(f, 13, 3, 2, 0xbeef);
    refuses(f, &o, ERR_CORRUPT, "000000000000000d-000000000000000d.ltx goes on from another");
    /* and back to the old one: a third writer, or a bucket put together by hand */
    put_lineage(f, 13, 3, 0, 0xbeef);
    put_lineage(f, 14, 4, 3, 0xabcd);
    refuses(f, &o, ERR_CORRUPT, "000000000000000e-000000000000000e.ltx goes on from another");
    /* files that do not say belong to those around them */
    put_lineage(f, 14, 4, 3, 0);
    put_lineage(f, 15, 4, 4, 0xbeef);
    becomes(f, &o, 4, 0xbeef);
    put_lineage(f, 15, 4, 4, 0xabcd);
    refuses(f, &o, ERR_CORRUPT, "000000000000000f-000000000000000f.ltx goes on from another");
    /* only the metadata says */
    put_lineage(f, 15, 4, 4, 0);
    set_meta(f, 0, 15, 15, LINEAGE, 0xbeef);
    becomes(f, &o, 4, 0xbeef);
    set_meta(f, 0, 15, 15, LINEAGE, 0xabcd);
    refuses(f, &o, ERR_CORRUPT, "000000000000000f-000000000000000f.ltx goes on from another");
}

/* Its page size is another one as well. */
static void another_page_size_under_the_name(void **state)
{
    struct fix *f = *state;
    struct fix g = *f;
    struct restore_opts o = opts(f, 0);
    o.force = true;
    g.page_size = 1024;
    g.db = util_printf("%s/other", f->dir);
    memset(g.state, 0, sizeof g.state);
    make_states(&g);
    put_lineage(&g, 13, 3, 0, 0xbeef);
    put_lineage(&g, 14, 4, 3, 0xbeef);
    struct err e = {0};
    struct restore_result r;
    if (restore_run(&f->loop, f->s, &o, on_progress, f, &r, &e) < 0)
        fail_msg("%s", e.msg);
    assert_true(r.lineage == 0xbeef && r.page_size == 1024);
    restore_result_done(&r);
    expect_state(&g, 4);
    put_lineage(&g, 13, 3, 2, 0xbeef);
    refuses(f, &o, ERR_CORRUPT, "page size 4096, newer files have 1024");
    for (unsigned k = 0; k <= STATES; k++)
        buf_free(&g.state[k]);
    free(g.db);
}

/* What is older than a file with everything in it may be damaged. */
static void what_is_not_needed_is_not_asked_for(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 0);
    o.force = true;
    put_lineage(f, 13, 12, 0, 0xabcd);
    cleanup_free char *path = object(f, 9, 1, 1);
    assert_int_equal(truncate(path, 1000), 0);
    becomes(f, &o, 12, 0xabcd);
    o.txid = 1;
    refuses(f, &o, ERR_CORRUPT, "0000000000000001-0000000000000001.ltx");
}

static void a_file_under_a_wrong_name(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 12);
    cleanup_buf struct buf b = BUF_INIT;
    make_ltx(f, 11, 11, LTX_BLOCK, &b);
    put_bytes(f, 0, 12, 12, &b);
    refuses(f, &o, ERR_CORRUPT, "its header says TXIDs 000000000000000b");
}

static void growth_that_was_forgotten(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 2);
    struct buf *last = &f->state[2];
    cleanup_buf struct buf b = BUF_INIT;
    struct err e = {0};
    struct ltx_encoder *enc;
    struct ltx_header h = {.flags = LTX_FLAG_NO_CHECKSUM, .page_size = f->page_size,
                           .commit = pages(f, 2), .min_txid = 2, .max_txid = 2, .wal_offset = 32};
    assert_true(h.commit > pages(f, 1) + 1);
    assert_int_equal(ltx_encoder_new(&h, LTX_BLOCK, take, &b, &enc, &e), 0);
    assert_int_equal(ltx_encoder_page(enc, 1, last->p, &e), 0);
    assert_int_equal(ltx_encoder_page(enc, h.commit, page_of(f, 2, h.commit), &e), 0);
    assert_int_equal(ltx_encoder_finish(enc, 0, NULL, &e), 0);
    (void)ltx_encoder_free(enc);
    put_bytes(f, 0, 2, 2, &b);
    cleanup_free char *text = util_printf("page %u of %u", pages(f, 1) + 1, h.commit);
    refuses(f, &o, ERR_CORRUPT, text);
}

/* Sound LTX files, unsound database. */
static void a_database_that_is_damaged(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 3);
    memset(f->state[3].p + 2 * f->page_size, 0xff, f->page_size);
    put(f, 0, 3, 3);
    refuses(f, &o, ERR_CORRUPT, "quick_check");
    o.check = RESTORE_CHECK_FULL;
    refuses(f, &o, ERR_CORRUPT, "integrity_check");
    o.check = RESTORE_CHECK_NONE;
    restores(f, &o, 3, 0);
    o.force = true;
    f->state[3].p[3] = 'x';
    put(f, 0, 3, 3);
    refuses(f, &o, ERR_CORRUPT, "not a database");
    f->state[3].p[3] = 'i';
    be16_put(f->state[3].p + 16, 8192);
    put(f, 0, 3, 3);
    refuses(f, &o, ERR_CORRUPT, "page size 8192");
    be16_put(f->state[3].p + 16, 4096);
    be32_put(f->state[3].p + 28, pages(f, 3) + 1);
    put(f, 0, 3, 3);
    refuses(f, &o, ERR_CORRUPT, "the LTX files");
}

/* Compaction at the other end removes a file between listing and fetching. */
static void an_object_that_vanishes(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 0);
    cleanup_free char *one = object(f, 2, 2, 6), *two = object(f, 0, 11, 11);
    f->vanish = one;
    restores(f, &o, STATES, 7); /* the way over 2-4, 5-6 */
    o.force = true;
    f->vanish = two;
    refuses(f, &o, ERR_CORRUPT, "missing");
}

/* A store whose requests fail `fails` times, an object's after half of what is left of it. */
static struct {
    const struct store_ops *real;
    struct store_ops ops;
    enum err_code code;
    unsigned fails, gets, lists;
    uint64_t resumed;
} bad;

static void bad_get(struct store *s, struct store_req *req, const char *key, uint64_t off,
                    uint64_t len, store_sink_fn sink, void *arg, struct store_info *ret_info)
{
    bad.gets++;
    bad.resumed += off > 0;
    if (bad.fails) {
        cleanup_buf struct buf b = BUF_INIT;
        struct err e = {0};
        cleanup_free char *path = util_printf("%s/%s", s->describe, key);
        bad.fails--;
        assert_int_equal(fsx_read(path, 64u << 20, &b, &e), 0);
        assert_int_equal(off + len, b.len);
        assert_int_equal(sink(arg, b.p + off, len / 2, &e), 0);
        (void)err_set(&req->err, bad.code, "%s: something happened", key);
        store_finish_later(req);
        return;
    }
    bad.real->get(s, req, key, off, len, sink, arg, ret_info);
}

static void bad_list(struct store *s, struct store_req *req, const char *prefix, const char *after,
                     store_item_fn item, void *arg)
{
    bad.lists++;
    if (bad.fails) {
        struct err e = {0};
        cleanup_free char *key = util_printf("%s0000000000000001-0000000000000063.ltx", prefix);
        struct store_object o = {key, 200, 0};
        bad.fails--;
        assert_int_equal(item(arg, &o, &e), 0);
        (void)err_set(&req->err, bad.code, "%s: something happened", prefix);
        store_finish_later(req);
        return;
    }
    bad.real->list(s, req, prefix, after, item, arg);
}

static void make_bad(struct fix *f, enum err_code code, unsigned fails, bool lists)
{
    bad.real = bad.real ? bad.real : f->s->ops;
    bad.ops = *bad.real;
    if (lists)
        bad.ops.list = bad_list;
    else
        bad.ops.get = bad_get;
    bad.code = code;
    bad.fails = fails;
    bad.gets = bad.lists = 0;
    bad.resumed = 0;
    f->s->ops = &bad.ops;
}

static void a_bad_network(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 0);
    o.force = true;
    make_bad(f, ERR_NET, 4, false); /* even if one object gets them all */
    restores(f, &o, STATES, 6);
    assert_int_equal(bad.gets, 6 + 4);
    assert_int_equal(bad.resumed, 4); /* not from the start each time */
    make_bad(f, ERR_STORE, 4, true);
    restores(f, &o, STATES, 6); /* what a broken listing gave is forgotten */
    assert_int_equal(bad.lists, 10 + 4);
    assert_int_equal(unlink(f->out), 0);
    o.force = false;
    o.parallel = 1;
    make_bad(f, ERR_TIMEOUT, UINT32_MAX, false);
    refuses(f, &o, ERR_TIMEOUT, "000000000000000c.ltx: something happened");
    assert_int_equal(bad.gets, 5);
    o.parallel = 4; /* of which three wait for another try when the last one gives up */
    make_bad(f, ERR_TIMEOUT, UINT32_MAX, false);
    refuses(f, &o, ERR_TIMEOUT, "something happened");
    make_bad(f, ERR_AUTH, UINT32_MAX, false);
    refuses(f, &o, ERR_AUTH, "something happened"); /* no second try */
    assert_true(bad.gets <= 4);
    make_bad(f, ERR_AUTH, UINT32_MAX, true);
    refuses(f, &o, ERR_AUTH, "something happened");
    f->s->ops = bad.real;
}

static void strange_objects_are_passed_over(void **state)
{
    struct fix *f = *state;
    struct err e = {0};
    static const char *const name[] = {"ltx/0/README", "ltx/0/0000000000000000-0000000000000001.ltx",
                                       "ltx/0/000000000000000D-000000000000000D.ltx",
                                       "ltx/12/0000000000000001-00000000000000ff.ltx"};
    for (size_t i = 0; i < ARRAY_LEN(name); i++) {
        cleanup_free char *path = util_printf("%s/app/%s", f->root, name[i]);
        cleanup_free char *dir = util_strdup(path);
        *strrchr(dir, '/') = '\0';
        assert_int_equal(fsx_mkdirs(dir, 0700, &e), 0);
        assert_int_equal(fsx_publish(path, "x", 1, 0600, 0, &e), 0);
    }
    struct restore_opts o = opts(f, 0);
    restores(f, &o, STATES, 6);
}

static void all_page_sizes(void **state)
{
    struct fix *f = *state;
    for (uint32_t ps = 512; ps <= 65536; ps *= 2) {
        cleanup_free char *rm = util_printf("rm -r %s %s*", f->root, f->db);
        assert_int_equal(system(rm), 0);
        f->page_size = ps;
        for (unsigned k = 0; k <= STATES; k++)
            buf_free(&f->state[k]);
        make_states(f);
        put(f, 1, 1, 4);
        put(f, 0, 5, 5);
        put(f, 1, 3, 8);
        for (uint64_t k = 6; k <= STATES; k++)
            put(f, 0, k, k);
        struct restore_opts o = opts(f, 0);
        o.force = true;
        restores(f, &o, STATES, 0);
        o.txid = 5;
        restores(f, &o, 5, 2);
    }
}

/* 1 GiB: only the apply, which is where the lock page matters. */
static int to_fd(void *arg, const void *p, size_t n, struct err *e)
{
    return fsx_write_all(*(int *)arg, p, n, e);
}

static void the_lock_page_stays_zero(void **state)
{
    struct fix *f = *state;
    const uint32_t ps = 65536, lock = ltx_lock_pgno(ps), commit = lock + 2;
    struct err e = {0};
    cleanup_close int spool = open(f->dir, O_TMPFILE | O_RDWR, 0600);
    cleanup_close int out = open(f->dir, O_TMPFILE | O_RDWR, 0600);
    uint8_t *page = malloc(ps), *got = malloc(ps);
    struct ltx_header h = {.flags = LTX_FLAG_NO_CHECKSUM, .page_size = ps, .commit = commit,
                           .min_txid = 1, .max_txid = 1};
    struct restore_applied applied;
    struct ltx_encoder *enc;
    struct restore_input in = {.name = (char[]){"x"}, .min = 1, .max = 1};
    atomic_uint_fast64_t done = 0;
    assert_true(spool >= 0 && out >= 0 && page && got);
    memset(page, 0x5a, ps);
    assert_int_equal(ltx_encoder_new(&h, LTX_BLOCK, to_fd, &spool, &enc, &e), 0);
    for (uint32_t i = 1; i <= commit; i++) {
        be32_put(page, i);
        if (i != lock)
            assert_int_equal(ltx_encoder_page(enc, i, page, &e), 0);
    }
    assert_int_equal(ltx_encoder_finish(enc, 0, &in.size, &e), 0);
    (void)ltx_encoder_free(enc);
    if (restore_apply(&in, 1, spool, out, 2, &done, &applied, &e))
        fail_msg("%s", e.msg);
    for (uint32_t i = lock - 1; i <= commit; i++) {
        assert_int_equal(fsx_pread_all(out, got, ps, (uint64_t)(i - 1) * ps, &e), 0);
        if (i == lock)
            memset(page, 0, ps);
        else
            memset(page, 0x5a, ps);
        if (i != lock)
            be32_put(page, i);
        assert_memory_equal(got, page, ps);
    }
    struct stat st;
    assert_int_equal(fstat(out, &st), 0);
    assert_int_equal(st.st_size, (uint64_t)commit * ps);
    free(page);
    free(got);
}

static void any_number_of_threads(void **state)
{
    struct fix *f = *state;
    struct restore_input in[STATES];
    struct err e = {0};
    cleanup_close int spool = open(f->dir, O_TMPFILE | O_RDWR, 0600);
    uint64_t off = 0;
    for (uint64_t k = 1; k <= STATES; k++) {
        cleanup_buf struct buf b = BUF_INIT;
        make_ltx(f, k, k, LTX_BLOCK, &b);
        assert_int_equal(pwrite(spool, b.p, b.len, (off_t)off), b.len);
        in[k - 1] = (struct restore_input){(char[]){"x"}, off, b.len, k, k, 0, 0};
        off += (b.len + restore_align() - 1) / restore_align() * restore_align();
    }
    for (unsigned round = 0; round < 60; round++) {
        cleanup_close int out = open(f->dir, O_TMPFILE | O_RDWR, 0600);
        atomic_uint_fast64_t done = 0;
        struct restore_applied applied;
        size_t n = 1 + round % STATES;
        uint8_t *got = malloc(f->state[n].len);
        if (restore_apply(in, n, spool, out, round % 9, &done, &applied, &e))
            fail_msg("%s", e.msg);
        assert_int_equal(fsx_pread_all(out, got, f->state[n].len, 0, &e), 0);
        assert_memory_equal(got, f->state[n].p, f->state[n].len);
        free(got);
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(every_txid),
        T(txids_and_replicas_that_are_not_there),
        T(a_dry_run_writes_nothing),
        T(nothing_is_overwritten_unless_forced),
        T(damage_is_found_and_named),
        T(the_whole_database_is_verified),
        T(an_object_of_another_history),
        T(a_wrong_base_is_named),
        T(another_database_under_the_name),
        T(another_page_size_under_the_name),
        T(what_is_not_needed_is_not_asked_for),
        T(a_file_under_a_wrong_name),
        T(growth_that_was_forgotten),
        T(a_database_that_is_damaged),
        T(an_object_that_vanishes),
        T(a_bad_network),
        T(strange_objects_are_passed_over),
        T(all_page_sizes),
        T(the_lock_page_stays_zero),
        T(any_number_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
