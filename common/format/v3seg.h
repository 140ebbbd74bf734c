/* v3seg.h - replicas of Litestream v0.3: names of objects, which of them restore a moment, their
 * compression, and the WAL they hold. Pure; any thread, one object at a time. The format stands in
 * common/format/DESIGN.md. */
#ifndef WALSUP_V3SEG_H
#define WALSUP_V3SEG_H

#include "common/format/wal.h"

#define V3_GENERATION_SIZE 17u /* 16 hex digits and a NUL */
#define V3_DIR "generations/"

struct v3_file {
    char generation[V3_GENERATION_SIZE];
    bool snapshot;
    uint8_t off_digits; /* as the name has it */
    uint32_t index;     /* of the WAL; a snapshot: where replaying starts */
    uint64_t off;       /* of a segment in the WAL of that index */
    uint64_t size;      /* of the object */
    int64_t mtime_ms;
};

/** v3_generation_ok(s): 16 lower-case hex digits. */
bool v3_generation_ok(const char *s);
/** v3_name_parse(name, ret): "<generation>/snapshots/<index>.snapshot.lz4" or
 * "<generation>/wal/<index>_<offset>.wal.lz4", the name below V3_DIR. Index: 8 digits up to
 * 7fffffff; offset: 8 to 16 up to 7fffffffffffffff. Sets neither size nor time. */
bool v3_name_parse(const char *name, struct v3_file *ret);
/** v3_name(f): the same way back, malloc'ed. */
char *v3_name(const struct v3_file *f);

/** v3_plan(file, n, generation, until_ms, ret, ret_n, e): the snapshot and then the segments, in the
 * order of replay, that restore the newest state, or (until_ms != INT64_MAX) what was stored by
 * then. generation "": the one with the newest object. ERR_NOTFOUND: there is none, or it did not
 * exist then. ERR_CORRUPT: no snapshot, a segment is missing (that one follows within an index is
 * seen when they are replayed); names it. ERR_USAGE: two generations are equally new. ret is
 * malloc'ed. */
int v3_plan(const struct v3_file *file, size_t n, const char *generation, int64_t until_ms,
            struct v3_file **ret, size_t *ret_n, struct err *e);

/** v3_points(file, n, generation, ret, ret_n, e): the objects that end a state which can be restored:
 * snapshots, and segments that follow one without a gap in their names; the oldest first.
 * ERR_NOTFOUND: there is none. ret is malloc'ed. */
int v3_points(const struct v3_file *file, size_t n, const char *generation, struct v3_file **ret,
              size_t *ret_n, struct err *e);

/* ---- objects: one LZ4 frame each ------------------------------------------------------------ */

/** receives consecutive bytes; a negative return ends the call with that code (fill e) */
typedef int (*v3_sink_fn)(void *arg, const uint8_t *p, size_t n, struct err *e);

struct v3_unpack;
/** v3_unpack_new(e): for one object after the other; memory: some 10 MiB. NULL with e filled. */
struct v3_unpack *v3_unpack_new(struct err *e);
/** v3_unpack(u, p, n, sink, arg, e): a whole object: exactly one LZ4 frame with a content checksum,
 * which is compared after the last byte went to the sink. ERR_UNSUPPORTED: it is encrypted. */
int v3_unpack(struct v3_unpack *u, const uint8_t *p, size_t n, v3_sink_fn sink, void *arg,
              struct err *e);
void v3_unpack_free(struct v3_unpack *u);

/* ---- the WAL of one index, from its segments ------------------------------------------------ */

/** called for each valid frame, in order; k counts from 1 */
typedef int (*v3_frame_fn)(void *arg, uint64_t k, const struct wal_frame *f, const uint8_t *page,
                           struct err *e);

struct v3_wal {
    struct wal_scan scan; /* scan.h.page_size 0: no header yet */
    uint64_t off;         /* bytes fed */
    v3_frame_fn fn;
    void *arg;
    uint8_t *frame; /* being put together */
    size_t have;
};

/** v3_wal_start(w, fn, arg): begin an index; fn may be NULL. w starts as all zero, and keeps its
 * buffer from one index to the next; v3_wal_done frees it. */
void v3_wal_start(struct v3_wal *w, v3_frame_fn fn, void *arg);
/** v3_wal_feed(w, p, n, e): the next bytes. ERR_CORRUPT at the first frame that is not valid. Is a
 * v3_sink_fn. */
int v3_wal_feed(void *w, const uint8_t *p, size_t n, struct err *e);
/** v3_wal_whole(w): whether it ended with a commit, or was empty but for its header. */
bool v3_wal_whole(const struct v3_wal *w);
void v3_wal_done(struct v3_wal *w);

#endif
