#include "common/base/map.h"

#define MIN_CAP 8

/* FNV-1a, then a mixer, because the slot is taken from the low bits. The seed differs from one
 * process to the next: file names come from whoever may create files. */
static uint32_t hash_of(const void *key, size_t n)
{
    static uint64_t seed;
    while (!seed)
        util_random(&seed, sizeof seed);
    uint64_t h = seed;
    for (const uint8_t *p = key, *end = p + n; p < end; p++)
        h = (h ^ *p) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93u;
    h ^= h >> 32;
    return (uint32_t)h;
}

static size_t find(const struct map *m, const void *key, size_t n, uint32_t hash)
{
    size_t i = hash & (m->cap - 1);
    for (; m->slot[i].key; i = (i + 1) & (m->cap - 1))
        if (m->slot[i].hash == hash && m->slot[i].key_bytes == n &&
            !memcmp(m->slot[i].key, key, n))
            break;
    return i;
}

void *map_get(const struct map *m, const void *key, size_t n)
{
    return m->cap ? m->slot[find(m, key, n, hash_of(key, n))].value : NULL;
}

static void grow(struct map *m)
{
    struct map old = *m;
    m->cap = old.cap ? old.cap * 2 : MIN_CAP;
    m->slot = util_zalloc(m->cap * sizeof *m->slot);
    for (size_t i = 0; i < old.cap; i++)
        if (old.slot[i].key) {
            size_t at = old.slot[i].hash & (m->cap - 1);
            while (m->slot[at].key)
                at = (at + 1) & (m->cap - 1);
            m->slot[at] = old.slot[i];
        }
    free(old.slot);
}

void map_put(struct map *m, const void *key, size_t n, void *value)
{
    if ((m->n + 1) * 4 > m->cap * 3)
        grow(m);
    uint32_t hash = hash_of(key, n);
    size_t i = find(m, key, n, hash);
    m->n += !m->slot[i].key;
    m->slot[i] = (struct map_slot){key, value, (uint32_t)n, hash};
}

void *map_remove(struct map *m, const void *key, size_t n)
{
    if (!m->cap)
        return NULL;
    size_t mask = m->cap - 1, hole = find(m, key, n, hash_of(key, n));
    void *value = m->slot[hole].value;
    if (!m->slot[hole].key)
        return NULL;
    /* close the gap: move up what could not have its own place because of this one */
    for (size_t i = (hole + 1) & mask; m->slot[i].key; i = (i + 1) & mask) {
        size_t home = m->slot[i].hash & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            m->slot[hole] = m->slot[i];
            hole = i;
        }
    }
    m->slot[hole] = (struct map_slot){NULL, NULL, 0, 0};
    m->n--;
    return value;
}

void *map_next(const struct map *m, size_t *at)
{
    while (*at < m->cap) {
        const struct map_slot *s = &m->slot[(*at)++];
        if (s->key)
            return s->value;
    }
    return NULL;
}

void map_free(struct map *m)
{
    free(m->slot);
    *m = (struct map)MAP_INIT;
}
