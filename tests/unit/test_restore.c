/* Restores that work and restores that are refused. Whether what was restored is the source's:
 * test_restore_verify.c. */
#include "common/store/restore.h"

#include <fcntl.h>

#include "common/store/restore_local.h"
#include "tests/unit/restore_harness.h"

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
    /* what SQLite would pass over is in nobody's way, what it would play back is */
    for (size_t i = 1; i < ARRAY_LEN(suffix); i++) {
        cleanup_free char *path = util_printf("%s%s", f->out, suffix[i]);
        assert_int_equal(fsx_publish(path, "\0\0\0\0\0\0\0\0\0", 9, 0640, 0, &e), 0);
    }
    restores(f, &o, 3, 0); /* which counts the files */
    assert_int_equal(unlink(f->out), 0);
    cleanup_free char *journal = util_printf("%s-journal", f->out);
    assert_int_equal(fsx_publish(journal, "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", 8, 0640, 0, &e), 0);
    refuses(f, &o, ERR_EXISTS, "may be needed by the database that was there");
    assert_int_equal(unlink(journal), 0);
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
    refuses(f, &o, ERR_CORRUPT, "the replica's files");
}

/* Compaction at the other end removes a file between listing and fetching. */
static void an_object_that_vanishes(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 9);
    cleanup_free char *one = object(f, 1, 7, 9), *two = object(f, 0, 9, 9);
    f->vanish = one;
    restores(f, &o, 9, 5); /* the way over 7, 8, 9 */
    o.force = true;
    f->vanish = two;
    refuses(f, &o, ERR_CORRUPT, "lead to exactly TXID 0000000000000009");
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
        assert_int_equal(sink(arg, b.p + off, (size_t)(len / 2), &e), 0);
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
    bad.ops.open = NULL;
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

struct files {
    const struct restore_input *in;
    const int *fd;
};

static int dup_file(void *arg, struct restore_input *in, int *ret_fd, struct err *e)
{
    const struct files *f = arg;
    (void)e;
    *ret_fd = dup(f->fd[in - f->in]);
    return 0;
}

static void apply(struct restore_input *in, size_t n, const int *fd, int out, unsigned threads)
{
    struct err e = {0};
    atomic_uint_fast64_t done = 0, total = 0;
    struct files f = {in, fd};
    struct local_job job = {.open = dup_file, .arg = &f};
    struct pages p = {.in = in, .left = n, .out = out, .whole_bytes = 1 << 20, .piece_bytes = 1 << 17,
                      .done = &done, .total = &total};
    if (restore_local(&p, &job, threads, &e))
        fail_msg("%s", e.msg);
    pages_done(&p);
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
    struct ltx_encoder *enc;
    struct restore_input in = {.name = (char[]){"x"}, .min = 1, .max = 1};
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
    apply(&in, 1, &spool, out, 2);
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
    int fd[STATES];
    for (uint64_t k = 1; k <= STATES; k++) {
        cleanup_buf struct buf b = BUF_INIT;
        make_ltx(f, k, k, LTX_BLOCK, &b);
        fd[k - 1] = open(f->dir, O_TMPFILE | O_RDWR, 0600);
        assert_int_equal(fsx_write_all(fd[k - 1], b.p, b.len, &e), 0);
        in[k - 1] = (struct restore_input){(char[]){"x"}, 0, b.len, k, k, 0, 0};
    }
    for (unsigned round = 0; round < 60; round++) {
        cleanup_close int out = open(f->dir, O_TMPFILE | O_RDWR, 0600);
        size_t n = 1 + round % STATES;
        uint8_t *got = malloc(f->state[n].len);
        apply(in, n, fd, out, round % 9);
        assert_int_equal(fsx_pread_all(out, got, f->state[n].len, 0, &e), 0);
        assert_memory_equal(got, f->state[n].p, f->state[n].len);
        free(got);
    }
    for (size_t i = 0; i < STATES; i++)
        (void)close(fd[i]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        IN_EACH_WAY(every_txid),
        T(txids_and_replicas_that_are_not_there),
        T(a_dry_run_writes_nothing),
        T(nothing_is_overwritten_unless_forced),
        IN_EACH_WAY(damage_is_found_and_named),
        IN_EACH_WAY(a_file_under_a_wrong_name),
        IN_EACH_WAY(growth_that_was_forgotten),
        IN_EACH_WAY(a_database_that_is_damaged),
        IN_EACH_WAY(an_object_that_vanishes),
        T(a_bad_network),
        T(strange_objects_are_passed_over),
        IN_EACH_WAY(all_page_sizes),
        T(the_lock_page_stays_zero),
        T(any_number_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
