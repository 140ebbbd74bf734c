#include "common/format/xxh32.h"

#define P1 2654435761u
#define P2 2246822519u
#define P3 3266489917u
#define P4 668265263u
#define P5 374761393u

static inline uint32_t rol(uint32_t v, int n)
{
    return v << n | v >> (32 - n);
}

static inline uint32_t le32_get(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static inline uint32_t lane(uint32_t v, const uint8_t *p)
{
    return rol(v + le32_get(p) * P2, 13) * P1;
}

uint32_t xxh32(const void *data, size_t n)
{
    const uint8_t *p = data, *end = p + n;
    uint32_t h = P5;
    if (n >= 16) {
        uint32_t a = P1 + P2, b = P2, c = 0, d = 0u - P1;
        for (; end - p >= 16; p += 16) {
            a = lane(a, p);
            b = lane(b, p + 4);
            c = lane(c, p + 8);
            d = lane(d, p + 12);
        }
        h = rol(a, 1) + rol(b, 7) + rol(c, 12) + rol(d, 18);
    }
    h += (uint32_t)n;
    for (; end - p >= 4; p += 4)
        h = rol(h + le32_get(p) * P3, 17) * P4;
    for (; p < end; p++)
        h = rol(h + *p * P5, 11) * P1;
    h = (h ^ h >> 15) * P2;
    h = (h ^ h >> 13) * P3;
    return h ^ h >> 16;
}
