/* The page map against a plain array: random changes, flushes, closes, damage of every byte. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/format/ltx.h"
#include "daemon/capture/pagemap.h"

#define PAGES 200000u

static char dir[] = "/tmp/walsup-pagemapXXXXXX";
static uint64_t model[PAGES + 1];
static uint32_t model_pages;

static int begin(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    return 0;
}

static int end(void **state)
{
    (void)state;
    pagemap_remove(dir);
    return rmdir(dir);
}

static uint64_t rnd(void)
{
    static uint64_t x = 88172645463325252ull;
    x ^= x << 13;
    x ^= x >> 7;
    return x ^= x << 17;
}

static uint64_t model_checksum(void)
{
    uint64_t sum = 0;
    for (uint32_t p = 1; p <= model_pages; p++)
        sum ^= model[p];
    return sum | LTX_CHECKSUM_FLAG;
}

static void put(struct pagemap *m, uint32_t pgno)
{
    struct err e;
    uint64_t sum = rnd() | LTX_CHECKSUM_FLAG;
    model[pgno] = sum;
    assert_int_equal(pagemap_put(m, pgno, sum, &e), 0);
}

/* The next TXID: some pages, growth or shrinking. */
static void transaction(struct pagemap *m, uint32_t pages, unsigned changes)
{
    struct err e;
    for (uint32_t p = model_pages + 1; p <= pages; p++)
        put(m, p);
    for (unsigned i = 0; i < changes; i++)
        put(m, (uint32_t)(rnd() % pages) + 1);
    for (uint32_t p = pages + 1; p <= model_pages; p++)
        model[p] = 0;
    model_pages = pages;
    assert_int_equal(pagemap_commit(m, pagemap_state(m)->txid + 1, pages, &e), 0);
    assert_true(pagemap_state(m)->checksum == model_checksum());
}

static void equals(struct pagemap *m)
{
    struct err e;
    assert_int_equal(pagemap_state(m)->pages, model_pages);
    assert_int_equal(pagemap_check(m, false, &e), 0);
    for (unsigned i = 0; i < 3000; i++) {
        uint32_t p = (uint32_t)(rnd() % model_pages) + 1;
        uint64_t v = 0;
        assert_int_equal(pagemap_get(m, p, &v, &e), 0);
        assert_true(v == model[p]);
    }
}

static struct pagemap *fresh(void)
{
    struct err e;
    struct pagemap *m = NULL;
    model_pages = 0;
    memset(model, 0, sizeof model);
    assert_int_equal(pagemap_create(dir, 512, 77, &m, &e), 0);
    return m;
}

static struct pagemap *again(struct pagemap *m)
{
    struct err e;
    (void)pagemap_close(m);
    m = NULL;
    assert_int_equal(pagemap_open(dir, &m, &e), 0);
    assert_true(pagemap_state(m)->lineage == 77 && pagemap_state(m)->page_size == 512);
    return m;
}

static void what_was_synced_is_there_again(void **state)
{
    (void)state;
    struct err e;
    struct pagemap *m = fresh();
    static const uint32_t pages[] = {1, 62, 63, 64, 126, 127, 3, 100000, 150000, 40, 200000, 199999, 126};
    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        transaction(m, pages[i], 5);
        transaction(m, pages[i], 5000);
        if (i % 3 == 1)
            assert_int_equal(pagemap_flush(m, &e), 0);
        equals(m);
        assert_int_equal(pagemap_sync(m, &e), 0);
        assert_int_equal(pagemap_state(m)->durable, pagemap_state(m)->txid);
        uint64_t txid = pagemap_state(m)->txid;
        m = again(m);
        assert_int_equal(pagemap_state(m)->txid, txid);
        assert_true(pagemap_state(m)->checksum == model_checksum());
        equals(m);
    }
    (void)pagemap_close(m);
}

static void what_was_not_flushed_is_forgotten(void **state)
{
    (void)state;
    struct err e;
    struct pagemap *m = fresh();
    transaction(m, 1000, 0);
    assert_int_equal(pagemap_sync(m, &e), 0);
    uint64_t checksum = model_checksum();
    transaction(m, 900, 300);
    m = again(m);
    assert_int_equal(pagemap_state(m)->pages, 1000);
    assert_true(pagemap_state(m)->checksum == checksum);
    assert_int_equal(pagemap_check(m, false, &e), 0);
    (void)pagemap_close(m);
}

/* Whatever byte is changed and wherever the file is cut: never believed. */
static void damage_is_noticed(void **state)
{
    (void)state;
    struct err e;
    struct pagemap *m = fresh();
    transaction(m, 200, 0); /* three full blocks and a part */
    assert_int_equal(pagemap_sync(m, &e), 0);
    (void)pagemap_close(m);
    cleanup_free char *path = util_printf("%s/pagemap", dir);
    cleanup_close int fd = open(path, O_RDWR);
    struct stat st;
    uint8_t whole[8192];
    assert_true(fd >= 0 && fstat(fd, &st) == 0 && st.st_size == 512 * 5);
    assert_int_equal(pread(fd, whole, sizeof whole, 0), st.st_size);
    unsigned found = 0, harmless = 0;
    for (off_t at = 0; at < st.st_size; at++) {
        uint8_t b = (uint8_t)(whole[at] ^ 0x40);
        assert_int_equal(pwrite(fd, &b, 1, at), 1);
        m = NULL;
        bool bad = pagemap_open(dir, &m, &e) != 0 || pagemap_check(m, false, &e) != 0;
        m = pagemap_close(m);
        found += bad;
        harmless += !bad;
        assert_true(bad || (at >= 56 && at < 512)); /* the unused part of the header */
        assert_int_equal(pwrite(fd, whole + at, 1, at), 1);
    }
    print_message("%u bytes changed: %u noticed, %u in the unused part of the header\n", found + harmless, found,
                  harmless);
    for (off_t size = 0; size < st.st_size; size += 64) {
        assert_int_equal(ftruncate(fd, size), 0);
        m = NULL;
        assert_true(pagemap_open(dir, &m, &e) != 0 || pagemap_check(m, false, &e) != 0);
        m = pagemap_close(m);
        assert_int_equal(pwrite(fd, whole, (size_t)st.st_size, 0), st.st_size);
    }
    m = NULL;
    assert_int_equal(pagemap_open(dir, &m, &e), 0);
    assert_int_equal(pagemap_check(m, false, &e), 0); /* the control: undamaged again */
    (void)pagemap_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_synced_is_there_again),
        cmocka_unit_test(what_was_not_flushed_is_forgotten),
        cmocka_unit_test(damage_is_noticed),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
