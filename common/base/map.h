/* map.h - a hash map from short byte strings to pointers: paths, names, numbers. Keys are not
 * copied: they are usually part of what the value points to, and must stay where they are while
 * they are in the map. One thread at a time. */
#ifndef WALSUP_MAP_H
#define WALSUP_MAP_H

#include "common/base/util.h"

struct map_slot {
    const void *key; /* NULL: free */
    void *value;
    uint32_t key_bytes, hash;
};

struct map {
    struct map_slot *slot;
    size_t n, cap; /* cap is 0 or a power of two */
};

#define MAP_INIT {NULL, 0, 0}

/** map_get(m, key, n): the value, NULL if there is none. */
void *map_get(const struct map *m, const void *key, size_t n);
/** map_put(m, key, n, value): value is not NULL; an entry with an equal key is replaced, key and
 * value. */
void map_put(struct map *m, const void *key, size_t n, void *value);
/** map_remove(m, key, n): the value that was there, or NULL. */
void *map_remove(struct map *m, const void *key, size_t n);
/** map_next(m, at): the values one by one, in no order; *at begins with 0; NULL at the end. The map
 * must not change meanwhile. */
void *map_next(const struct map *m, size_t *at);
void map_free(struct map *m);

static inline void *map_get_str(const struct map *m, const char *key)
{
    return map_get(m, key, strlen(key));
}
static inline void map_put_str(struct map *m, const char *key, void *value)
{
    map_put(m, key, strlen(key), value);
}
static inline void *map_remove_str(struct map *m, const char *key)
{
    return map_remove(m, key, strlen(key));
}

#endif
