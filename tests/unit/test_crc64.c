#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/format/crc64.h"

/* The definition, a bit at a time. */
static uint64_t bitwise(uint64_t crc, const uint8_t *p, size_t n)
{
    for (crc = ~crc; n; n--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? 0xd800000000000000ull : 0);
    }
    return ~crc;
}

static void check_values(void **state)
{
    (void)state;
    static const struct {
        const char *p;
        size_t n;
        uint64_t crc;
    } v[] = {
        {"123456789", 9, 0xb90956c775a41001ull},
        {"", 0, 0},
        {"\0", 1, 0x6f90000000000000ull},
        {"a", 1, 0x3420000000000000ull},
    };
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        assert_int_equal(crc64(0, v[i].p, v[i].n), v[i].crc);
        assert_int_equal(crc64_portable(0, v[i].p, v[i].n), v[i].crc);
    }
}

static void all_lengths_and_alignments_agree(void **state)
{
    (void)state;
    uint8_t b[16 + 700];
    util_random(b, sizeof b);
    for (size_t off = 0; off < 16; off++)
        for (size_t n = 0; n <= 700; n++) {
            uint64_t seed = n & 1 ? 0 : 0x0123456789abcdefull * (off + 1);
            uint64_t want = bitwise(seed, b + off, n);
            assert_int_equal(crc64(seed, b + off, n), want);
            assert_int_equal(crc64_portable(seed, b + off, n), want);
        }
}

static void long_inputs_agree(void **state)
{
    (void)state;
    size_t max = 1u << 20;
    uint8_t *b = malloc(max);
    assert_non_null(b);
    util_random(b, max);
    for (int i = 0; i < 200; i++) {
        size_t off = (size_t)util_random_below(max), n = (size_t)util_random_below(max - off);
        assert_int_equal(crc64(7, b + off, n), crc64_portable(7, b + off, n));
    }
    free(b);
}

static void pieces_give_the_sum_of_the_whole(void **state)
{
    (void)state;
    uint8_t b[1000];
    util_random(b, sizeof b);
    uint64_t want = crc64(0, b, sizeof b);
    for (size_t cut = 0; cut <= sizeof b; cut++) {
        assert_int_equal(crc64(crc64(0, b, cut), b + cut, sizeof b - cut), want);
        assert_int_equal(crc64_combine(crc64(0, b, cut), crc64(0, b + cut, sizeof b - cut),
                                       sizeof b - cut),
                         want);
    }
}

/* Skipping n zero bytes twice is skipping 2n, also where no memory could hold them. */
static void combine_works_beyond_4_gib(void **state)
{
    (void)state;
    uint64_t a = crc64(0, "walsup", 6), zeros[64];
    uint8_t z = 0;
    zeros[0] = crc64(0, &z, 1);
    for (unsigned k = 1; k < 63; k++)
        zeros[k] = crc64_combine(zeros[k - 1], zeros[k - 1], 1ull << (k - 1));
    uint64_t half = crc64_combine(a, zeros[39], 1ull << 39);
    assert_int_equal(crc64_combine(half, zeros[39], 1ull << 39),
                     crc64_combine(a, zeros[40], 1ull << 40));
    uint8_t *mem = calloc(1, 1u << 20);
    assert_non_null(mem);
    assert_int_equal(zeros[20], crc64(0, mem, 1u << 20));
    free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_values),
        cmocka_unit_test(all_lengths_and_alignments_agree),
        cmocka_unit_test(long_inputs_agree),
        cmocka_unit_test(pieces_give_the_sum_of_the_whole),
        cmocka_unit_test(combine_works_beyond_4_gib),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
