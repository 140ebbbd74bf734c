/* Is what was restored what the source was? Checksums, lineages, and every object damaged in every
 * way. */
#include "common/store/restore.h"

#include "tests/unit/quick.h"
#include "tests/unit/replica_mutate.h"

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

/* Files may carry it themselves, which Litestream's do not. */
static void the_checksum_in_the_trailer(void **state)
{
    struct fix *f = *state;
    struct restore_opts o = opts(f, 12);
    struct restore_result r;
    struct err e = {0};
    f->post_apply = checksum_of(f, 12);
    put(f, 0, 12, 12);
    assert_int_equal(restore_run(&f->loop, f->s, &o, NULL, NULL, &r, &e), 0);
    assert_true(r.verified && r.checksum == f->post_apply);
    restore_result_done(&r);
    f->post_apply ^= 1;
    put(f, 0, 12, 12);
    o.force = true;
    refuses(f, &o, ERR_CORRUPT, "000000000000000c-000000000000000c.ltx: the database after it");
    set_meta(f, 0, 12, 12, CHECKSUM, f->post_apply ^ 1); /* two that contradict each other */
    refuses(f, &o, ERR_CORRUPT, "000000000000000c-000000000000000c.ltx: the database after it");
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

/* ---- every object, damaged in every way ---- */

struct tally {
    unsigned exact, refused;
};

/* Restore state k, or refuse and name the object (or, when that is missing, its TXIDs). */
static void exact_or_refused(struct fix *f, uint64_t k, size_t object, const char *what,
                             struct tally *t)
{
    struct err e = {0};
    struct restore_result r;
    struct restore_opts o = opts(f, k);
    char name[LTX_NAME_SIZE];
    o.force = true;
    if (restore_run(&f->loop, f->s, &o, NULL, NULL, &r, &e) == 0) {
        if (!r.verified)
            fail_msg("%s: TXID %u was not verified", what, (unsigned)k);
        restore_result_done(&r);
        expect_state(f, k ? k : STATES);
        t->exact++;
        return;
    }
    (void)ltx_name(name, every_object[object].min, every_object[object].max);
    if (e.code != ERR_CORRUPT || (!strstr(e.msg, name) && !strstr(e.msg, "missing") &&
         !strstr(e.msg, "no snapshot")))
        fail_msg("%s: TXID %u, object %s: \"%s\"", what, (unsigned)k, name, e.msg);
    t->refused++;
}

static void mutate(struct fix *f, const char *what, unsigned times,
                   void (*fn)(struct fix *f, size_t object, struct buf *b))
{
    struct tally t = {0, 0};
    for (size_t i = 0; i < ARRAY_LEN(every_object); i++) {
        struct err e = {0};
        unsigned level = every_object[i].level;
        uint64_t min = every_object[i].min, max = every_object[i].max;
        cleanup_buf struct buf good = BUF_INIT;
        cleanup_free char *path = object(f, level, min, max);
        assert_int_equal(fsx_read(path, 64u << 20, &good, &e), 0);
        for (unsigned n = 0; n < times; n++) {
            cleanup_buf struct buf bad = BUF_INIT;
            buf_add(&bad, good.p, good.len);
            fn(f, i, &bad);
            put_bytes(f, level, min, max, &bad);
            set_meta(f, level, min, max, CHECKSUM, checksum_of(f, max));
            exact_or_refused(f, max, i, what, &t);
            if (max < STATES)
                exact_or_refused(f, STATES, i, what, &t);
        }
        put_bytes(f, level, min, max, &good);
        set_meta(f, level, min, max, CHECKSUM, checksum_of(f, max));
    }
    printf("%s: %u restores, %u exact, %u refused and named\n", what, t.exact + t.refused, t.exact,
           t.refused);
    assert_true(t.refused > 0);
}

static void every_object_damaged_in_every_way(void **state)
{
    struct fix *f = *state;
    const char *more = getenv("WALSUP_TEST_MUTATIONS");
    unsigned times = more ? (unsigned)strtoul(more, NULL, 10) : quick("9 of 10 damages") ? 2 : 20;
    set_checksums(f);
    mutate(f, "bytes flipped", times, flip);
    mutate(f, "header bytes flipped", times, flip_header);
    mutate(f, "objects cut short", MAX(times / 4, 1u), cut);
    mutate(f, "objects swapped", MAX(times / 4, 1u), swap);
    mutate(f, "objects of another history", 1, replay);
    struct tally t = {0, 0};
    for (size_t i = 0; i < ARRAY_LEN(every_object); i++) {
        uint64_t max = every_object[i].max;
        cleanup_free char *path = object(f, every_object[i].level, every_object[i].min, max);
        cleanup_free char *away = util_printf("%s/away", f->dir);
        assert_int_equal(rename(path, away), 0);
        if (max < STATES) /* without its last object a replica is an older one, which is all it says */
            exact_or_refused(f, 0, i, "objects deleted", &t);
        for (uint64_t k = max; k <= STATES; k++) {
            struct err e = {0};
            struct restore_result r;
            struct restore_opts o = opts(f, k);
            o.force = true;
            if (restore_run(&f->loop, f->s, &o, NULL, NULL, &r, &e) == 0) {
                assert_int_equal(r.txid, k);
                restore_result_done(&r);
                expect_state(f, k);
                t.exact++;
            } else {
                assert_int_equal(e.code, ERR_CORRUPT);
                t.refused++;
            }
        }
        assert_int_equal(rename(away, path), 0);
    }
    printf("objects deleted: %u restores, %u exact, %u refused\n", t.exact + t.refused, t.exact,
           t.refused);
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

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        IN_EACH_WAY(the_whole_database_is_verified),
        IN_EACH_WAY(the_checksum_in_the_trailer),
        IN_EACH_WAY(an_object_of_another_history),
        /* read in parts, what an older file says of itself is neither known nor needed */
        T(a_wrong_base_is_named),
        IN_EACH_WAY(another_database_under_the_name),
        IN_EACH_WAY(another_page_size_under_the_name),
        IN_EACH_WAY(every_object_damaged_in_every_way),
        IN_EACH_WAY(what_is_not_needed_is_not_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
