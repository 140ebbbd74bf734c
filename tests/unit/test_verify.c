/* verify: a sound replica is proven; whatever is wrong with one is found, named, and what it means is said
 * rightly, which restore shows. */
#include "common/store/verify.h"

#include <fcntl.h>

#include "common/format/mapfile.h"
#include "tests/unit/replica_mutate.h"

static struct verify_opts verify_all(const struct fix *f)
{
    return (struct verify_opts){.replica = "app", .tmp_dir = f->dir, .map_fd = -1};
}

static void verify(struct fix *f, const struct verify_opts *o, struct verify_result *r)
{
    struct err e = {0};
    if (verify_run(&f->loop, f->s, o, on_progress, f, r, &e) < 0)
        fail_msg("%s", e.msg);
}

static const struct verify_object *find(const struct verify_result *r, unsigned level, uint64_t min,
                                        uint64_t max)
{
    for (size_t i = 0; i < r->n_objects; i++) {
        const struct verify_object *o = &r->object[i];
        if (o->level == level && o->min == min && o->max == max)
            return o;
    }
    return NULL;
}

static const char *why(const struct verify_object *o)
{
    return o && o->why ? o->why : "";
}

static void print_wrong(const struct verify_result *r)
{
    for (size_t i = 0; i < r->n_objects; i++) {
        const struct verify_object *o = &r->object[i];
        if (o->state != VERIFY_FOUND)
            print_message("%s level %u %llx-%llx: %s\n", verify_state_name(o->state), o->level,
                          (unsigned long long)o->min, (unsigned long long)o->max, why(o));
    }
}

static void expect_wrong(const struct verify_result *r, size_t n)
{
    if (verify_wrong(r) != n) {
        print_wrong(r);
        fail_msg("%zu are wrong, not %zu", verify_wrong(r), n);
    }
}

/* the map of state k, as the daemon would have it */
static int map_of(const struct fix *f, uint64_t k)
{
    cleanup_free char *path = util_printf("%s/map", f->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    struct mapfile_header h = {f->page_size, pages(f, k), 0xabcd, k, 0};
    for (uint32_t no = 0; no < mapfile_blocks(h.pages); no++) {
        uint8_t b[MAPFILE_BLOCK] = {0};
        for (uint32_t i = 0; i < MAPFILE_PER_BLOCK; i++) {
            uint32_t pgno = no * MAPFILE_PER_BLOCK + i + 1;
            uint64_t sum = pgno <= h.pages ? ltx_page_checksum(pgno, page_of(f, k, pgno), f->page_size) : 0;
            be64_put(b + (size_t)i * 8, sum);
            h.sum ^= sum;
        }
        be64_put(b + (size_t)MAPFILE_PER_BLOCK * 8, mapfile_block_sum(b, no));
        assert_int_equal(pwrite(fd, b, sizeof b, (off_t)mapfile_block_off(no)), sizeof b);
    }
    uint8_t head[MAPFILE_HEADER_SPACE];
    mapfile_header_encode(&h, head);
    assert_int_equal(pwrite(fd, head, sizeof head, 0), sizeof head);
    return fd;
}

static void a_sound_replica_is_proven(void **state)
{
    struct fix *f = *state;
    struct verify_opts o = verify_all(f);
    struct verify_result r;
    verify(f, &o, &r);
    expect_wrong(&r, 0);
    assert_int_equal(r.n_objects, ARRAY_LEN(every_object));
    assert_int_equal(r.count[VERIFY_FOUND], ARRAY_LEN(every_object));
    assert_true(r.latest_restores && r.oldest == 1 && r.newest == STATES && r.n_points == STATES);
    assert_int_equal(r.n_lost, 0);
    assert_int_equal(r.compared, 0); /* Litestream's have no checksums */
    assert_int_equal(r.map, VERIFY_MAP_NONE);
    verify_result_done(&r);
    set_checksums(f);
    verify(f, &o, &r);
    expect_wrong(&r, 0);
    assert_int_equal(r.compared, ARRAY_LEN(every_object));
    assert_true(r.bytes > 0);
    verify_result_done(&r);
}

static void the_page_map_is_the_source(void **state)
{
    struct fix *f = *state;
    struct verify_opts o = verify_all(f);
    struct verify_result r;
    for (uint64_t k = 1; k <= STATES; k++) {
        o.map_fd = map_of(f, k);
        verify(f, &o, &r);
        assert_int_equal(r.map, VERIFY_MAP_EQUAL);
        assert_true(r.map_txid == k && r.map_pages == pages(f, k) && r.latest_restores);
        verify_result_done(&r);
        (void)close(o.map_fd);
    }
    /* pages that never went through the WAL, and pages more */
    f->state[STATES].p[f->page_size * 2 + 7] ^= 1;
    f->state[STATES].p[f->page_size * 5] ^= 1;
    o.map_fd = map_of(f, STATES);
    verify(f, &o, &r);
    assert_int_equal(r.map, VERIFY_MAP_DIFFERS);
    assert_true(r.map_differ == 2 && r.differ[0] == 3 && r.differ[1] == 6);
    assert_true(!r.latest_restores && strstr(r.latest_why, "not what the source has"));
    verify_result_done(&r);
    /* its own damage is no verdict over the replica */
    assert_int_equal(pwrite(o.map_fd, "x", 1, MAPFILE_HEADER_SPACE + 9), 1);
    verify(f, &o, &r);
    assert_int_equal(r.map, VERIFY_MAP_UNUSABLE);
    assert_true(r.latest_restores && strstr(r.map_why, "block 0"));
    verify_result_done(&r);
    assert_int_equal(pwrite(o.map_fd, "x", 1, 20), 1);
    verify(f, &o, &r);
    assert_int_equal(r.map, VERIFY_MAP_UNUSABLE);
    assert_true(strstr(r.map_why, "header") != NULL);
    verify_result_done(&r);
    (void)close(o.map_fd);
    o.map_fd = map_of(f, STATES);
    drop(f, 0, STATES, STATES);
    verify(f, &o, &r);
    assert_int_equal(r.map, VERIFY_MAP_UNREACHED);
    verify_result_done(&r);
    (void)close(o.map_fd);
}

static void what_is_on_its_way_is_not_missing(void **state)
{
    struct fix *f = *state;
    struct verify_opts o = verify_all(f);
    struct verify_result r;
    o.source_txid = 14;
    o.acked = 12;
    verify(f, &o, &r);
    const struct verify_object *x = find(&r, 0, 13, 14);
    assert_true(x && x->state == VERIFY_DELAYED && !x->name);
    assert_true(verify_wrong(&r) == 0 && r.latest_restores);
    verify_result_done(&r);
    o.acked = 13; /* somebody said that it was there */
    verify(f, &o, &r);
    x = find(&r, 0, 13, 13);
    assert_true(x && x->state == VERIFY_LOST && find(&r, 0, 14, 14)->state == VERIFY_DELAYED);
    assert_true(!r.latest_restores && strstr(r.latest_why, "000000000000000d was reported as stored"));
    assert_true(r.n_lost == 1 && r.lost[0].first == 13 && r.lost[0].last == 13);
    verify_result_done(&r);
    o.txid = 8; /* only what leads to there */
    verify(f, &o, &r);
    expect_wrong(&r, 0);
    assert_true(r.newest == 8 && r.latest_restores && !find(&r, 0, 9, 9));
    verify_result_done(&r);
}

static void holes(void **state)
{
    struct fix *f = *state;
    struct verify_opts o = verify_all(f);
    struct verify_result r;
    drop(f, 1, 5, 6); /* walsup itself leaves out what level 2 has */
    verify(f, &o, &r);
    expect_wrong(&r, 0);
    verify_result_done(&r);
    drop(f, 2, 2, 6); /* level 0 has it all: as where something was not worth merging, or its merge was lost */
    verify(f, &o, &r);
    expect_wrong(&r, 0);
    assert_true(r.latest_restores && !r.n_lost);
    verify_result_done(&r);
    drop(f, 0, 8, 8); /* level 1 leads across */
    verify(f, &o, &r);
    assert_int_equal(find(&r, 0, 8, 8)->state, VERIFY_LOST);
    assert_true(strstr(find(&r, 0, 8, 8)->why, "later ones can") != NULL);
    assert_true(r.latest_restores && r.n_lost == 1 && r.lost[0].first == 8 && r.lost[0].last == 8);
    verify_result_done(&r);
    drop(f, 0, 11, 11); /* nothing does */
    verify(f, &o, &r);
    assert_int_equal(find(&r, 0, 11, 11)->state, VERIFY_LOST);
    assert_true(strstr(find(&r, 0, 11, 11)->why, "nothing leads across") != NULL);
    assert_true(!r.latest_restores && strstr(r.latest_why, "are missing"));
    assert_true(r.n_lost == 2 && r.lost[1].first == 11 && r.lost[1].last == STATES);
    verify_result_done(&r);
    put(f, 9, 1, 11); /* but a snapshot goes on */
    verify(f, &o, &r);
    assert_true(r.latest_restores && r.newest == STATES);
    verify_result_done(&r);
}

/* Retention keeps a whole database of level 0 and thins out what follows it, as far as others have it. */
static void what_retention_thins_out_is_no_hole(void **state)
{
    struct fix *f = *state;
    struct verify_opts o = verify_all(f);
    struct verify_result r;
    put(f, 0, 1, 1);
    drop(f, 9, 1, 1);
    for (uint64_t k = 2; k <= 6; k++)
        drop(f, 0, k, k);
    verify(f, &o, &r);
    expect_wrong(&r, 0);
    assert_true(r.latest_restores && r.n_lost == 0);
    verify_result_done(&r);
    /* behind files that were not merged */
    put(f, 0, 2, 2);
    put(f, 0, 3, 3);
    put(f, 1, 4, 6);
    drop(f, 1, 2, 4);
    drop(f, 1, 5, 6);
    drop(f, 2, 2, 6);
    verify(f, &o, &r);
    expect_wrong(&r, 0);
    verify_result_done(&r);
    put(f, 1, 2, 4);
    put(f, 2, 2, 6);
    drop(f, 1, 4, 6);
    put(f, 1, 5, 6);
    drop(f, 0, 2, 2);
    drop(f, 0, 3, 3);
    drop(f, 2, 2, 6); /* but it must not end there */
    drop(f, 1, 2, 4);
    verify(f, &o, &r);
    assert_true(!r.latest_restores && r.count[VERIFY_LOST] == 1);
    assert_int_equal(find(&r, 0, 2, 4)->state, VERIFY_LOST);
    assert_true(r.n_lost == 1 && r.lost[0].first == 2 && r.lost[0].last == STATES);
    verify_result_done(&r);
    put(f, 1, 2, 3); /* what was not merged is gone: only level 1 can tell */
    verify(f, &o, &r);
    assert_true(!r.latest_restores && r.count[VERIFY_LOST] == 1);
    assert_int_equal(find(&r, 1, 4, 4)->state, VERIFY_LOST);
    verify_result_done(&r);
}

static void strangers(void **state)
{
    struct fix *f = *state;
    struct verify_opts o = verify_all(f);
    struct verify_result r;
    struct err e = {0};
    cleanup_free char *name = util_printf("%s/app/ltx/1/0000000000000002-0000000000000004.ltx.bak", f->root);
    assert_int_equal(fsx_publish(name, "x", 1, 0600, 0, &e), 0);
    verify(f, &o, &r);
    expect_wrong(&r, 1);
    assert_true(r.count[VERIFY_FOREIGN] == 1 && r.latest_restores);
    verify_result_done(&r);
    assert_int_equal(unlink(name), 0);
    /* another history's, with a history of its own in its metadata or its header */
    set_meta(f, 0, 12, 12, LINEAGE, 0xbeef);
    verify(f, &o, &r);
    expect_wrong(&r, 1);
    assert_int_equal(find(&r, 0, 12, 12)->state, VERIFY_FOREIGN);
    assert_true(!r.latest_restores && strstr(r.latest_why, "which is FOREIGN"));
    verify_result_done(&r);
}

/* One of another file's times, two checksums that contradict, a level 0 file of two TXIDs. */
static void labels_that_contradict(void **state)
{
    struct fix *f = *state;
    struct verify_opts o = verify_all(f);
    struct verify_result r;
    cleanup_free char *path = object(f, 0, 7, 7);
    const char *stamp = "2026-01-01T00:00:00Z";
    if (setxattr(path, "user.litestream-timestamp", stamp, strlen(stamp), 0) < 0)
        skip();
    put(f, 0, 9, 10);
    put(f, 9, 2, 3);
    verify(f, &o, &r);
    assert_true(find(&r, 0, 7, 7)->state == VERIFY_DAMAGED && strstr(why(find(&r, 0, 7, 7)), "different times"));
    assert_true(strstr(why(find(&r, 0, 9, 10)), "holds one TXID") != NULL);
    assert_true(strstr(why(find(&r, 9, 2, 3)), "begins at TXID 1") != NULL);
    expect_wrong(&r, 3);
    verify_result_done(&r);
}

/* Nothing is recorded, but a merge must come to the same as what it was made of. */
static void a_merge_that_is_none(void **state)
{
    struct fix *f = *state;
    struct verify_opts o = verify_all(f);
    struct verify_result r;
    cleanup_buf struct buf b = BUF_INIT;
    for (size_t i = 0; i < ARRAY_LEN(every_object); i++)
        if (every_object[i].level == 1 || every_object[i].level == 2) {
            b.len = 0;
            replay(f, i, &b);
            put_bytes(f, every_object[i].level, every_object[i].min, every_object[i].max, &b);
            verify(f, &o, &r);
            const struct verify_object *x = find(&r, every_object[i].level, every_object[i].min,
                                                 every_object[i].max);
            if (verify_wrong(&r) != 1 || x->state != VERIFY_DAMAGED)
                print_wrong(&r);
            assert_true(verify_wrong(&r) == 1 && x->state == VERIFY_DAMAGED);
            assert_non_null(strstr(x->why, "it leads to database checksum"));
            verify_result_done(&r);
            put(f, every_object[i].level, every_object[i].min, every_object[i].max);
        }
    /* a snapshot in the middle */
    put(f, 9, 1, 6);
    verify(f, &o, &r);
    expect_wrong(&r, 0);
    verify_result_done(&r);
    f->state[6].p[f->page_size + 100] ^= 1;
    put(f, 9, 1, 6);
    f->state[6].p[f->page_size + 100] ^= 1;
    verify(f, &o, &r);
    expect_wrong(&r, 1);
    assert_int_equal(find(&r, 9, 1, 6)->state, VERIFY_DAMAGED);
    verify_result_done(&r);
}

static void an_empty_replica_and_one_of_v03(void **state)
{
    struct fix *f = *state;
    struct verify_opts o = verify_all(f);
    struct verify_result r = {.n_objects = 77};
    struct err e = {0};
    o.replica = "nobody";
    assert_int_equal(verify_run(&f->loop, f->s, &o, NULL, NULL, &r, &e), -(int)ERR_NOTFOUND);
    cleanup_free char *dir = util_printf("%s/nobody/generations/0123456789abcdef/wal", f->root);
    cleanup_free char *seg = util_printf("%s/00000000_00000000.wal.lz4", dir);
    assert_int_equal(fsx_mkdirs(dir, 0700, &e), 0);
    assert_int_equal(fsx_publish(seg, "x", 1, 0600, 0, &e), 0);
    assert_int_equal(verify_run(&f->loop, f->s, &o, NULL, NULL, &r, &e), -(int)ERR_UNSUPPORTED);
    assert_non_null(strstr(e.hint, "restore"));
    assert_int_equal(r.n_objects, 77);
}

/* ---- every object, changed in every way ---- */

struct tally {
    unsigned mutations, named, other_named, silent, restores, wrong, refused, lucky;
};

/* What restore makes of it: never anything but the state that was asked for. */
static void restore_all(struct fix *f, const struct verify_result *v, struct tally *t)
{
    for (uint64_t k = 0; k <= STATES; k++) {
        struct err e = {0};
        struct restore_result r;
        struct restore_opts o = opts(f, k);
        o.force = true;
        o.check = RESTORE_CHECK_NONE;
        bool done = restore_run(&f->loop, f->s, &o, NULL, NULL, &r, &e) == 0;
        /* a page of another history may have been overwritten later: then restore is luckier than verify says */
        t->lucky += k == 0 && done && !v->latest_restores;
        if (k == 0 && !done && v->latest_restores)
            fail_msg("verify says that the latest restores, restore: %s", e.msg);
        t->restores++;
        t->refused += !done;
        if (!done)
            continue;
        cleanup_buf struct buf b = BUF_INIT;
        assert_int_equal(fsx_read(f->out, 64u << 20, &b, &e), 0);
        const struct buf *want = &f->state[k ? k : r.txid];
        t->wrong += b.len != want->len || memcmp(b.p, want->p, b.len) != 0;
        restore_result_done(&r);
    }
}

static void judge(struct fix *f, size_t i, struct tally *t)
{
    struct verify_opts o = verify_all(f);
    struct verify_result r;
    verify(f, &o, &r);
    const struct verify_object *x =
        find(&r, every_object[i].level, every_object[i].min, every_object[i].max);
    t->mutations++;
    if (x && x->state != VERIFY_FOUND)
        t->named++;
    else if (verify_wrong(&r) || !r.latest_restores)
        t->other_named++;
    else
        t->silent++;
    restore_all(f, &r, t);
    verify_result_done(&r);
}

static void tell(const char *what, const struct tally *t)
{
    printf("%-28s %4u mutations: %u named, %u known by others, %u silent; %u restores, %u wrong, %u refused\n",
           what, t->mutations, t->named, t->other_named, t->silent, t->restores, t->wrong, t->refused);
    assert_int_equal(t->wrong, 0);
}

static void mutate(struct fix *f, const char *what, unsigned times, unsigned may_be_silent,
                   void (*fn)(struct fix *f, size_t object, struct buf *b))
{
    struct tally t = {0};
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
            judge(f, i, &t);
        }
        put_bytes(f, level, min, max, &good);
        set_meta(f, level, min, max, CHECKSUM, checksum_of(f, max));
    }
    tell(what, &t);
    assert_int_equal(t.other_named, 0);
    if (fn != replay)
        assert_int_equal(t.lucky, 0);
    if (t.silent > may_be_silent)
        fail_msg("%u of %u were not noticed", t.silent, t.mutations);
}

/* With its own metadata, as a bucket put together from two would have it: only what is around it can tell.
 * For a file of level 0 that is a file of a higher level that ends with it, or the next one: that is then
 * named in its place. The newest one is nobody's neighbour; the page map knows it. */
static void every_object_of_a_twin(struct fix *f)
{
    struct tally t = {0};
    unsigned untold = 0;
    for (size_t i = 0; i < ARRAY_LEN(every_object); i++) {
        struct err e = {0};
        unsigned level = every_object[i].level;
        uint64_t min = every_object[i].min, max = every_object[i].max;
        cleanup_buf struct buf good = BUF_INIT, bad = BUF_INIT;
        cleanup_free char *path = object(f, level, min, max);
        assert_int_equal(fsx_read(path, 64u << 20, &good, &e), 0);
        replay_page(f, i, page_that_stays(f, max), &bad);
        put_bytes(f, level, min, max, &bad);
        set_meta(f, level, min, max, CHECKSUM, replayed_checksum);
        struct verify_opts o = verify_all(f);
        struct verify_result r;
        verify(f, &o, &r);
        const struct verify_object *x = find(&r, level, min, max);
        bool known = verify_wrong(&r) > 0;
        t.mutations++;
        t.named += x->state != VERIFY_FOUND;
        t.other_named += known && x->state == VERIFY_FOUND;
        t.silent += !known;
        verify_result_done(&r);
        o.map_fd = map_of(f, STATES);
        verify(f, &o, &r);
        if (!known && r.map != VERIFY_MAP_DIFFERS) {
            /* nothing else ends there, and the next file overwrites the page: only its own state is wrong */
            print_message("level %u %u-%u: nobody can tell\n", level, (unsigned)min, (unsigned)max);
            assert_true(max < STATES);
            untold++;
        }
        verify_result_done(&r);
        (void)close(o.map_fd);
        put_bytes(f, level, min, max, &good);
        set_meta(f, level, min, max, CHECKSUM, checksum_of(f, max));
    }
    tell("of a twin, with its metadata", &t);
    assert_true(untold < 4);
}

/* What of them verify can tell: a hole in level 0, or that nothing is left to begin with. The first and the
 * last of a level are not missed where others hold the same, nor what a higher level holds: retention and
 * compaction make such replicas. Without the newest one a replica is an older one, unless the daemon says how far it
 * was (what_is_on_its_way_is_not_missing). */
static void every_object_deleted(struct fix *f)
{
    struct tally t = {0};
    for (size_t i = 0; i < ARRAY_LEN(every_object); i++) {
        uint64_t min = every_object[i].min, max = every_object[i].max;
        unsigned level = every_object[i].level;
        cleanup_free char *path = object(f, level, min, max);
        cleanup_free char *away = util_printf("%s/away", f->dir);
        unsigned before = t.silent;
        assert_int_equal(rename(path, away), 0);
        judge(f, i, &t);
        assert_int_equal(rename(away, path), 0);
        bool end = (level == 0 && (min == 2 || max == STATES)) || level == 1 || level == 2;
        if ((t.silent > before) != end)
            fail_msg("level %u %u-%u: %s", level, (unsigned)min, (unsigned)max,
                     end ? "known after all" : "not missed");
    }
    tell("deleted", &t);
}

static void every_object_changed_in_every_way(void **state)
{
    struct fix *f = *state;
    const char *more = getenv("WALSUP_TEST_MUTATIONS");
    unsigned times = more ? (unsigned)strtoul(more, NULL, 10) : 4;
    set_checksums(f);
    /* a bit of compressed data may make no difference: LZ4 has more than one way to write a page */
    mutate(f, "one bit flipped", times, times * (unsigned)ARRAY_LEN(every_object) / 20, flip);
    mutate(f, "one bit of the header", times, 0, flip_header);
    mutate(f, "cut short", MAX(times / 2, 1u), 0, cut);
    mutate(f, "swapped with another", MAX(times / 2, 1u), 0, swap);
    mutate(f, "of another history", 1, 0, replay);
    every_object_of_a_twin(f);
    every_object_deleted(f);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_sound_replica_is_proven),
        T(the_page_map_is_the_source),
        T(what_is_on_its_way_is_not_missing),
        T(holes),
        T(what_retention_thins_out_is_no_hole),
        T(strangers),
        T(labels_that_contradict),
        T(a_merge_that_is_none),
        T(an_empty_replica_and_one_of_v03),
        T(every_object_changed_in_every_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
