/* verify.h - is everything in a replica what it claims to be? Lists it, fetches every object once and
 * proves it: the rules of LTX, the name, the metadata; and what the objects make. The checksums of all
 * pages are replayed in the order of TXIDs: each object must lead to the database checksum that is
 * recorded with it, and each file of a higher level to the same state as the files it stands for. At the
 * end the sums are compared with the page map of the source, page by page. The database itself is not
 * opened.
 *
 * Pages are not kept, their checksums are: in a temporary file, 8 bytes a page (32 while a file is read).
 * Runs on a uv loop of the caller's, blocks in uv_run. */
#ifndef WALSUP_VERIFY_H
#define WALSUP_VERIFY_H

#include "common/store/restore.h"

enum verify_state {
    VERIFY_FOUND,   /* proven, as far as there is something to prove it with */
    VERIFY_DAMAGED, /* breaks a rule, or is not what belongs there */
    VERIFY_FOREIGN, /* of another history, or of nobody we know */
    VERIFY_MISSING, /* a hole, but everything it held is held by others */
    VERIFY_LOST,    /* a hole: states in it cannot be restored */
    VERIFY_DELAYED, /* not there yet: the source has it, and nobody said it was stored */
};

struct verify_object {
    enum verify_state state;
    unsigned level;
    uint64_t min, max; /* 0: its name says none */
    uint64_t size;
    int64_t time_ms; /* as in the header; 0: not read */
    char *name;      /* below the target's path; NULL: a hole */
    char *why;       /* NULL: nothing to say */
};

enum verify_map {
    VERIFY_MAP_NONE,      /* there was none */
    VERIFY_MAP_UNUSABLE,  /* map_why says why */
    VERIFY_MAP_UNREACHED, /* no object ends at its TXID, or not in its history */
    VERIFY_MAP_DIFFERS,
    VERIFY_MAP_EQUAL,
};

#define VERIFY_DIFFER_MAX 16

struct verify_range {
    uint64_t first, last;
};

struct verify_result {
    struct verify_object *object; /* by level, then TXID */
    size_t n_objects;
    size_t count[VERIFY_DELAYED + 1];
    uint64_t bytes;
    size_t compared; /* objects whose recorded database checksum was arrived at */
    uint64_t oldest, newest; /* points that can be restored; 0: none */
    size_t n_points;
    struct verify_range *lost; /* TXIDs that cannot be restored and once could */
    size_t n_lost;
    bool latest_restores; /* every object that its restore would take is as it should be */
    char latest_why[200]; /* if not */
    enum verify_map map;
    uint64_t map_txid;
    uint32_t map_pages, map_differ;
    uint32_t differ[VERIFY_DIFFER_MAX]; /* the first of those pages */
    char map_why[200];
};

struct verify_opts {
    const char *replica; /* as for restore */
    const char *tmp_dir; /* for what is fetched, each object at a time; NULL: /var/tmp */
    uint64_t txid;       /* only what leads to there; 0 = all */
    unsigned parallel;   /* objects fetched at once; 0 = store_connections() */
    int map_fd;          /* of a page map (mapfile.h); -1: none */
    uint64_t source_txid; /* the newest the source is known to have; 0 = not known */
    uint64_t acked;       /* the newest that was reported as stored; 0 = not known */
};

/** verify_run(loop, s, opts, progress, arg, ret, e): negative when nothing can be said: the store cannot be
 * reached, the replica is empty (ERR_NOTFOUND) or one of Litestream v0.3 (ERR_UNSUPPORTED). What is wrong
 * with the replica is in ret: free with verify_result_done. */
int verify_run(uv_loop_t *loop, struct store *s, const struct verify_opts *opts,
               restore_progress_fn progress, void *arg, struct verify_result *ret, struct err *e);
void verify_result_done(struct verify_result *r);
/** verify_wrong(r): objects and holes that are not as they should be. DELAYED is. */
size_t verify_wrong(const struct verify_result *r);
/** verify_state_name(state): "FOUND". */
const char *verify_state_name(enum verify_state state);

#endif
