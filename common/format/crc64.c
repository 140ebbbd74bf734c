#include "common/format/crc64.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* x^4+x^3+x+1 with the bits reversed. A 64-bit value stands for a polynomial whose coefficient of
 * x^(63-i) is bit i, so multiplying by x is a shift to the right. */
#define POLY 0xd800000000000000ull
#define ONE (1ull << 63)
#define SLICES 16

/* table[k][b]: what byte b contributes when k more bytes of the same slice follow it */
static uint64_t table[SLICES][256];
/* shift[k]: x^(8 * 2^k) mod P, to skip 2^k bytes */
static uint64_t shift[64];

static inline uint64_t times_x(uint64_t a)
{
    return a >> 1 ^ (a & 1 ? POLY : 0);
}

static uint64_t mul(uint64_t a, uint64_t b)
{
    uint64_t r = 0;
    /* without branches: the bits of a checksum cannot be foretold */
    for (; a; a <<= 1, b = b >> 1 ^ (POLY & (0 - (b & 1))))
        r ^= b & (0 - (a >> 63));
    return r;
}

static inline uint64_t le64_get(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

/* One slice of 16 bytes, given as two little-endian words, the state already in the first. */
static inline uint64_t slice(uint64_t a, uint64_t b)
{
    uint64_t s = 0;
    for (unsigned i = 0; i < 8; i++) {
        s ^= table[SLICES - 1 - i][a >> 8 * i & 0xff];
        s ^= table[SLICES / 2 - 1 - i][b >> 8 * i & 0xff];
    }
    return s;
}

/* Here and below: the raw state, before the final inversion. */
static uint64_t update_tables(uint64_t s, const uint8_t *p, size_t n)
{
    for (; n >= SLICES; p += SLICES, n -= SLICES)
        s = slice(s ^ le64_get(p), le64_get(p + 8));
    for (; n; n--)
        s = table[0][(s ^ *p++) & 0xff] ^ s >> 8;
    return s;
}

#if defined(__x86_64__)

#define CLMUL __attribute__((target("pclmul,sse4.1")))

static bool have_clmul;
/* For folding an accumulator over 16 and over 64 bytes: x^(D+63) for its first word, x^(D-1) for
 * its second, D in bits. The missing factor x comes from the product of two reversed words being
 * reversed in 127 bits, not 128. */
static uint64_t fold16[2], fold64[2];

CLMUL static inline __m128i load(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

CLMUL static inline __m128i fold(__m128i acc, __m128i k, __m128i next)
{
    __m128i a = _mm_clmulepi64_si128(acc, k, 0x00);
    __m128i b = _mm_clmulepi64_si128(acc, k, 0x11);
    return _mm_xor_si128(_mm_xor_si128(a, b), next);
}

CLMUL static uint64_t update_clmul(uint64_t s, const uint8_t *p, size_t n)
{
    __m128i k16 = load((const uint8_t *)fold16), k64 = load((const uint8_t *)fold64);
    /* four accumulators hide the latency of the multiplication */
    __m128i a0 = _mm_xor_si128(load(p), _mm_set_epi64x(0, (long long)s));
    __m128i a1 = load(p + 16), a2 = load(p + 32), a3 = load(p + 48);
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
        a0 = fold(a0, k64, load(p));
        a1 = fold(a1, k64, load(p + 16));
        a2 = fold(a2, k64, load(p + 32));
        a3 = fold(a3, k64, load(p + 48));
    }
    a0 = fold(fold(fold(a0, k16, a1), k16, a2), k16, a3);
    for (; n >= 16; p += 16, n -= 16)
        a0 = fold(a0, k16, load(p));
    s = slice((uint64_t)_mm_extract_epi64(a0, 0), (uint64_t)_mm_extract_epi64(a0, 1));
    return update_tables(s, p, n);
}

static uint64_t x_to(unsigned k)
{
    uint64_t a = ONE;
    while (k--)
        a = times_x(a);
    return a;
}

static void init_clmul(void)
{
    __builtin_cpu_init();
    have_clmul = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
    fold16[0] = x_to(128 + 63);
    fold16[1] = x_to(128 - 1);
    fold64[0] = x_to(512 + 63);
    fold64[1] = x_to(512 - 1);
}

#endif

/* Before main(), so that no thread can see half a table. */
__attribute__((constructor)) static void init(void)
{
    for (unsigned b = 0; b < 256; b++) {
        uint64_t s = b;
        for (int i = 0; i < 8; i++)
            s = times_x(s);
        table[0][b] = s;
    }
    for (unsigned k = 1; k < SLICES; k++)
        for (unsigned b = 0; b < 256; b++)
            table[k][b] = table[0][table[k - 1][b] & 0xff] ^ table[k - 1][b] >> 8;
    shift[0] = ONE >> 8;
    for (unsigned k = 1; k < ARRAY_LEN(shift); k++)
        shift[k] = mul(shift[k - 1], shift[k - 1]);
#if defined(__x86_64__)
    init_clmul();
#endif
}

uint64_t crc64_portable(uint64_t crc, const void *p, size_t n)
{
    return ~update_tables(~crc, p, n);
}

uint64_t crc64(uint64_t crc, const void *p, size_t n)
{
#if defined(__x86_64__)
    if (have_clmul && n >= 64)
        return ~update_clmul(~crc, p, n);
#endif
    return ~update_tables(~crc, p, n);
}

uint64_t crc64_combine(uint64_t a, uint64_t b, uint64_t n_b)
{
    /* init and final inversion cancel out: append n_b zero bytes to A, then add B */
    for (unsigned k = 0; n_b; k++, n_b >>= 1)
        if (n_b & 1)
            a = mul(a, shift[k]);
    return a ^ b;
}
