/* spool_level.h - the levels above 0 in a database's spool directory: files that compaction made, which wait for
 * their replicas and to be merged into the next level.
 *
 *   <dir>/l1/<min>-<max>.ltx     and l2, l3
 *   <dir>/merged                 up to which TXID each level was merged into the next one
 *
 * Everything here can be made anew or done without: nothing is synced, and what turns out damaged is
 * removed. Worker threads, one at a time per spool. */
#ifndef WALSUP_SPOOL_LEVEL_H
#define WALSUP_SPOOL_LEVEL_H

#include "common/base/err.h"

#define SPOOL_LEVELS 3u /* levels 1 to 3 are merged; 0 is captured */

struct level_file {
    uint64_t min, max, size;
    int64_t timestamp_ms; /* of its newest transaction */
    uint64_t checksum;    /* of the database after it; 0: not known */
    uint64_t lineage;
    bool whole; /* it has every page of the database */
};

struct level_list {
    struct level_file *file; /* ascending TXIDs */
    size_t n, cap;
};

/** spool_level_path(dir, level, min, max): malloc'ed. */
char *spool_level_path(const char *dir, unsigned level, uint64_t min, uint64_t max);
void level_list_add(struct level_list *l, const struct level_file *f);
void level_list_remove(struct level_list *l, size_t i);
void level_list_done(struct level_list *l);

/** spool_levels_load(dir, ret, e): what is there of levels 1 to SPOOL_LEVELS (ret[0] is level 1), every byte
 * verified. Left-overs and damaged files are removed. */
int spool_levels_load(const char *dir, struct level_list ret[static SPOOL_LEVELS], struct err *e);
/** spool_merged_read(dir, ret): ret[n]: TXID up to which level n is in level n + 1; zeros if it is not known. */
void spool_merged_read(const char *dir, uint64_t ret[static SPOOL_LEVELS]);
int spool_merged_write(const char *dir, const uint64_t merged[static SPOOL_LEVELS], struct err *e);

#endif
