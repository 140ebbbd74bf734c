/* layout.h - names of a replica's objects below the target's path, as Litestream v0.5 lays them
 * out. S3: <replica>/<%04x level>/<min>-<max>.ltx; directory: <replica>/ltx/<level>/<min>-<max>.ltx.
 * `replica` may be empty (restore --url). Pure. */
#ifndef WALSUP_LAYOUT_H
#define WALSUP_LAYOUT_H

#include "common/format/conf.h"

/** Both return a malloc'ed key; the prefix ends in a slash. */
char *layout_key(enum conf_target_type type, const char *replica, unsigned level, uint64_t min,
                 uint64_t max);
char *layout_prefix(enum conf_target_type type, const char *replica, unsigned level);
/** layout_levels(type, replica): what the keys of all levels begin with, and hardly any other;
 * malloc'ed. layout_parse_level(key, n, ...): of a key whose first n bytes are that: level and
 * TXIDs; false: it is not the key of an object of a level. */
char *layout_levels(enum conf_target_type type, const char *replica);
bool layout_parse_level(const char *key, size_t n, unsigned *ret_level, uint64_t *ret_min,
                        uint64_t *ret_max);
/** layout_parse(key, ret_min, ret_max): the TXIDs in the last path component of a listed key. */
bool layout_parse(const char *key, uint64_t *ret_min, uint64_t *ret_max);

#endif
