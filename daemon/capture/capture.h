/* capture.h - committed WAL frames (or the whole database) to one LTX file.
 * Worker threads; the caller holds a guard on the session throughout. */
#ifndef WALSUP_CAPTURE_H
#define WALSUP_CAPTURE_H

#include "common/base/fsx.h"
#include "common/format/ltx.h"
#include "daemon/capture/pagemap.h"
#include "daemon/capture/session.h"

/* The position: the last captured frame. Everything up to it is in LTX files. */
struct capture_pos {
    bool valid;
    uint32_t salt[2];
    uint32_t frame;
    uint32_t cksum[2]; /* running WAL checksum after that frame */
    uint32_t pages;    /* database size in pages at that frame */
    /* At some moment under two guards everything was captured and copied into the database: the
     * next change of salts is a restart that loses nothing. */
    bool restartable;
};

/* One LTX file, written but not yet visible. */
struct capture_file {
    struct ltx_header h;
    struct fsx_tmp tmp;
    uint64_t size;
    uint32_t n_pages;
    uint32_t frames; /* WAL frames it stands for */
    uint64_t checksum; /* of the database after the file; 0: not known */
};

enum capture_outcome {
    CAPTURE_NOTHING = 1, /* no committed frame after the position */
    CAPTURE_BROKEN = 2,  /* continuity with the position is lost: only a look at every page helps */
    CAPTURE_SAME = 3,    /* every page is as the old map says: no file was written */
};

/* How the file is to be made. */
struct capture_opts {
    const char *path; /* final name; full only: NULL writes no file, for the map's sake */
    uint64_t min_txid, max_txid;
    int64_t timestamp_ms;
    uint64_t lineage, clock_txid; /* see struct ltx_header */
    enum ltx_encoding encoding;
    uint64_t limit_bytes; /* range only: cut at the first commit past this many bytes of WAL */
    const struct session_index *end; /* range only: not beyond this one, read under a guard that is still held;
                                        NULL: to the end of the WAL */
    const char *dir;         /* of the file and of the map, */
    uint64_t min_free_bytes; /* so much is kept free there, else ERR_NOSPC; 0: no need */
    bool touch;           /* full only: page 1 and nothing else, a file that changes nothing */
    /* The page map takes the new checksums, and is committed with max_txid. When the call fails it may
     * hold half of them: close it. Range: the map of the position; full: an empty one. NULL: none. */
    struct pagemap *map;
    struct pagemap *old; /* full only: only the pages whose checksum differs from this map */
};

/** capture_range(s, pos, opts, ret, e): the frames after pos, newest version of each page, pages beyond
 * the final commit dropped, growth completed, into one file; pos moves to its last frame. On every
 * other outcome pos stays, except that `valid` is cleared with BROKEN. */
int capture_range(struct session *s, struct capture_pos *pos, const struct capture_opts *opts,
                  struct capture_file *ret, struct err *e);
/** capture_full(s, x, pos, opts, ret, e): every page as a reader at x sees it; pos becomes x. x was read
 * under a guard that is still held. BROKEN: the WAL was restarted under the read; try again.
 * NOTHING: the database has no page yet. SAME: there is an `old` map, and no page differs. */
int capture_full(struct session *s, const struct session_index *x, struct capture_pos *pos,
                 const struct capture_opts *opts, struct capture_file *ret, struct err *e);
/* The database as it is at x, to be read piece by piece while others write (capture_reader.c). */
struct capture_reader;
/** capture_reader_new(s, x, last, ret, e): pages 1 to last, x->pages at most. x was read under a
 * guard of s that is held until the reader is freed. BROKEN: the WAL was restarted under the read.
 * Frames of the WAL are checked here, once. */
int capture_reader_new(struct session *s, const struct session_index *x, uint32_t last, struct capture_reader **ret,
                       struct err *e);
/** capture_reader_next(r, ret_first, ret_n, ret_pages, e): the next pages, ascending, about 1 MiB, valid until the next
 * call; the lock page is among them. 1: that was all. BROKEN as above. */
int capture_reader_next(struct capture_reader *r, uint32_t *ret_first, uint32_t *ret_n, const uint8_t **ret_pages,
                        struct err *e);
struct capture_reader *capture_reader_free(struct capture_reader *r);

/** capture_behind(pos, x): frames between the position and the end of the WAL. */
uint32_t capture_behind(const struct capture_pos *pos, const struct session_index *x);
/** capture_same_wal(pos, x): the position lies in the WAL that x describes. */
bool capture_same_wal(const struct capture_pos *pos, const struct session_index *x);

#endif
