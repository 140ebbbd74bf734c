/* A restore that ends before its time, and the next one. Each page fetched once. */
#include "common/store/restore.h"

#include "tests/unit/restore_harness.h"

static uint64_t checksum_of(const struct fix *f, uint64_t k)
{
    uint64_t sum = LTX_CHECKSUM_FLAG;
    for (uint32_t i = 1; i <= pages(f, k); i++)
        sum = LTX_CHECKSUM_FLAG | (sum ^ ltx_page_checksum(i, page_of(f, k, i), f->page_size));
    return sum;
}

/* files that say in their trailers what the database is after them */
static void put_summed(struct fix *f, unsigned level, uint64_t min, uint64_t max)
{
    f->post_apply = checksum_of(f, max);
    put(f, level, min, max);
    f->post_apply = 0;
}

static void sum_all(struct fix *f)
{
    put_summed(f, 9, 1, 1);
    for (uint64_t k = 2; k <= STATES; k++)
        put_summed(f, 0, k, k);
    put_summed(f, 2, 2, 6);
    put_summed(f, 1, 7, 9);
}

/* A store that has answered `left` requests when its key stops being good. */
static struct {
    void (*get)(struct store *s, struct store_req *req, const char *key, uint64_t off, uint64_t len,
                store_sink_fn sink, void *arg, struct store_info *ret_info);
    unsigned left, gets;
    uint64_t bytes;
} cut;

static void cut_get(struct store *s, struct store_req *req, const char *key, uint64_t off,
                    uint64_t len, store_sink_fn sink, void *arg, struct store_info *ret_info)
{
    if (!cut.left) {
        (void)err_set(&req->err, ERR_AUTH, "%s: not any more", key);
        store_finish_later(req);
        return;
    }
    cut.left--;
    cut.gets++;
    cut.bytes += len;
    cut.get(s, req, key, off, len, sink, arg, ret_info);
}

static int setup_cut(void **state)
{
    (void)setup_far_parts(state);
    struct fix *f = *state;
    cut.get = f->far.get;
    f->far.get = cut_get;
    sum_all(f);
    return 0;
}

static int run(struct fix *f, const struct restore_opts *o, unsigned left, struct restore_result *r,
               struct err *e)
{
    cut.left = left;
    cut.gets = 0;
    cut.bytes = 0;
    *r = (struct restore_result){0};
    err_clear(e);
    return restore_run(&f->loop, f->s, o, NULL, NULL, r, e);
}

static struct restore_opts one_at_a_time(const struct fix *f, uint64_t txid)
{
    struct restore_opts o = opts(f, txid);
    o.parallel = 1;
    return o;
}

static void each_page_is_fetched_once(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = one_at_a_time(f, 0);
    struct restore_result r;
    struct err e = {0};
    uint64_t all = 0, ends = 0;
    assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
    for (size_t i = 0; i < r.n_files; i++) {
        all += r.file[i].size;
        ends += MIN(r.file[i].size, (uint64_t)64 << 10) + LTX_HEADER_SIZE;
    }
    assert_int_equal(r.planned_bytes, all);
    /* headers, page indexes, and no more frames than the database has pages */
    assert_true(cut.bytes < ends + pages(f, STATES) * (uint64_t)(f->page_size + 100));
    assert_true(r.bytes <= all && r.verified);
    restore_result_done(&r);
    expect_state(f, STATES);
}

static void cut_off_after_each_request(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = one_at_a_time(f, 9);
    struct restore_result r;
    struct err e = {0};
    unsigned resumed = 0;
    assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
    unsigned all = cut.gets;
    restore_result_done(&r);
    for (unsigned left = 0; left < all; left++) {
        (void)unlink(f->out);
        assert_int_equal(run(f, &o, left, &r, &e), -(int)ERR_AUTH);
        if (files_beside(f)) { /* the file and what says what it is, and that it is told */
            assert_int_equal(files_beside(f), 2);
            assert_non_null(strstr(e.hint, "the same command continues"));
        }
        assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
        assert_true(r.verified);
        resumed += r.kept_bytes > 0;
        restore_result_done(&r);
        expect_state(f, 9);
    }
    assert_true(resumed > 0);
}

/* The source went on: what changed is fetched, the rest is there. */
static void what_was_kept_may_be_of_an_older_txid(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = one_at_a_time(f, 9);
    struct restore_result r;
    struct err e = {0};
    o.check = RESTORE_CHECK_NONE; /* of a byte in the middle of a page */
    buf_free(&f->state[10]);
    buf_add(&f->state[10], f->state[9].p, f->state[9].len);
    f->state[10].p[f->state[10].len - 40] ^= 1;
    put_summed(f, 0, 10, 10);
    assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
    unsigned all = cut.gets;
    restore_result_done(&r);
    for (unsigned left = all - 6; left < all; left++) {
        (void)unlink(f->out);
        o.txid = 9;
        assert_int_equal(run(f, &o, left, &r, &e), -(int)ERR_AUTH);
        o.txid = 10;
        assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
        assert_true(r.verified && r.kept_bytes > 0);
        /* header, page index in two steps and page of file 10; less what is there */
        assert_true(cut.gets + r.kept_bytes / f->page_size <= all + 4);
        restore_result_done(&r);
        expect_state(f, 10);
        (void)unlink(f->out);
        assert_int_equal(run(f, &o, left, &r, &e), -(int)ERR_AUTH);
        o.txid = 4; /* an older one is wanted: nothing of it is used */
        assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
        assert_int_equal(r.kept_bytes, 0);
        restore_result_done(&r);
        expect_state(f, 4);
    }
}

static int first_tmp(const char *name, void *arg)
{
    if (!fsx_is_tmp(name))
        return 0;
    *(char **)arg = util_strdup(name);
    return 1;
}

static char *tmp_of(const struct fix *f)
{
    struct err e = {0};
    char *name = NULL;
    cleanup_free char *dir = util_printf("%s/out", f->dir);
    (void)fsx_list(dir, first_tmp, &name, &e);
    if (!name)
        return NULL;
    char *path = util_printf("%s/%s", dir, name);
    free(name);
    return path;
}

/* Never at the same place of two pages: LTX's checksum of a database is the pages' CRCs, XORed, and
 * the same difference in two of them is none. */
static void turn_byte(int fd, uint64_t at)
{
    uint8_t c = 0;
    assert_true(pread(fd, &c, 1, (off_t)at) >= 0);
    c ^= 0x5a;
    assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
}

/* Whatever happened to the file meanwhile, the result is right. */
static void what_was_kept_is_not_believed(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = one_at_a_time(f, 9);
    struct restore_result r;
    struct err e = {0};
    cleanup_free char *journal = util_printf("%s.resume", f->out);
    assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
    unsigned all = cut.gets;
    restore_result_done(&r);
    for (unsigned way = 0; way < 6; way++) {
        (void)unlink(f->out);
        assert_int_equal(run(f, &o, all - 1, &r, &e), -(int)ERR_AUTH);
        cleanup_free char *tmp = tmp_of(f);
        assert_non_null(tmp);
        if (way == 0) {
            assert_int_equal(truncate(tmp, 5000), 0);
        } else if (way == 1 || way == 2) {
            int fd = open(way == 1 ? tmp : journal, O_RDWR);
            for (uint64_t at = 0; way == 1 && at < f->state[9].len; at += f->page_size)
                turn_byte(fd, at + 100 + at / f->page_size);
            if (way == 2)
                turn_byte(fd, 60);
            (void)close(fd);
        } else if (way == 3) {
            assert_int_equal(unlink(tmp), 0);
        } else if (way == 4) {
            o.no_resume = true;
        } else {
            cleanup_free char *cmd = util_printf("rm -rf %s/bucket/other; cp -r --preserve=all "
                                                 "%s/bucket/app %s/bucket/other", f->dir, f->dir, f->dir);
            assert_int_equal(system(cmd), 0);
            o.replica = "other";
        }
        assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
        assert_true(r.verified);
        assert_true(r.kept_bytes == 0 || way < 2);
        restore_result_done(&r);
        expect_state(f, 9);
        o = one_at_a_time(f, 9);
    }
}

/* In a directory where others may make files: they would have what is published open for writing. */
static void what_others_can_have_made_is_not_gone_on_with(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = one_at_a_time(f, 9);
    struct restore_result r;
    struct err e = {0};
    cleanup_free char *journal = util_printf("%s.resume", f->out), *second = util_printf("%s/second", f->dir);
    const char *const why[] = {"can be written by others", "can be written by others", "has 2 names",
                               "is no regular file", "is no regular file", "belongs to uid 61001"};
    assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
    unsigned all = cut.gets;
    restore_result_done(&r);
    for (size_t way = 0; way < ARRAY_LEN(why) - (geteuid() != 0); way++) {
        (void)unlink(f->out);
        assert_int_equal(run(f, &o, all - 1, &r, &e), -(int)ERR_AUTH);
        cleanup_free char *tmp = tmp_of(f);
        assert_non_null(tmp);
        struct stat left;
        int held = open(tmp, O_RDONLY | O_CLOEXEC); /* so that its number is not given to the next one */
        assert_int_equal(fstat(held, &left), 0);
        if (way < 2)
            assert_int_equal(chmod(way ? journal : tmp, 0622), 0);
        else if (way == 2)
            assert_int_equal(link(tmp, second), 0);
        else if (way == 3)
            assert_int_equal(rename(journal, second) | symlink(second, journal), 0);
        else if (way == 4)
            assert_int_equal(unlink(journal) | mkfifo(journal, 0600), 0); /* nobody ever writes into it */
        else
            assert_int_equal(chown(tmp, 61001, 61001), 0);
        assert_int_equal(run(f, &o, UINT32_MAX, &r, &e), 0);
        assert_int_equal(r.kept_bytes, 0);
        if (!strstr(r.not_resumed, why[way]))
            fail_msg("way %zu: %s", way, r.not_resumed);
        restore_result_done(&r);
        expect_state(f, 9);
        struct stat out;
        assert_int_equal(stat(f->out, &out), 0);
        assert_true(out.st_ino != left.st_ino);
        (void)close(held);
        (void)unlink(second);
    }
}

static void nothing_is_kept_that_could_not_be_checked(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = one_at_a_time(f, 9);
    struct restore_result r;
    struct err e = {0};
    put(f, 1, 7, 9); /* as Litestream writes it: without a checksum of the database */
    assert_int_equal(run(f, &o, 6, &r, &e), -(int)ERR_AUTH);
    assert_int_equal(files_beside(f), 0);
    sum_all(f);
    o.no_resume = true;
    assert_int_equal(run(f, &o, 6, &r, &e), -(int)ERR_AUTH);
    assert_int_equal(files_beside(f), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup_cut, teardown)
    const struct CMUnitTest tests[] = {
        T(each_page_is_fetched_once),
        T(cut_off_after_each_request),
        T(what_was_kept_may_be_of_an_older_txid),
        T(what_was_kept_is_not_believed),
        T(what_others_can_have_made_is_not_gone_on_with),
        T(nothing_is_kept_that_could_not_be_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
