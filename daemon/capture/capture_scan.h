/* capture_scan.h - committed frames of a WAL, checked and mapped to pages. For capture.c and capture_reader.c. Worker
 * threads; the caller holds a guard on the session throughout. */
#ifndef WALSUP_CAPTURE_SCAN_H
#define WALSUP_CAPTURE_SCAN_H

#include "common/format/wal.h"
#include "daemon/capture/framemap.h"
#include "daemon/capture/session.h"

#define CAPTURE_CHUNK_BYTES (1u << 20) /* read at a time */

/* The range of frames looked at, and what was learned. */
struct capture_scan {
    struct wal_header wal;
    uint32_t cksum[2]; /* running checksum, after the last frame read */
    uint32_t last;     /* last frame that counts */
    uint32_t commit;   /* database size of the last commit frame seen */
    uint32_t least;    /* smallest size at any commit seen, the position's included */
    uint32_t commit_cksum[2];
    struct framemap map;
    /* the frames as read, kept when the whole range fits: then no page is read twice */
    uint8_t *kept;
    uint32_t kept_first;
};

/** capture_scan_header(s, x, sc, e): read the WAL's header to sc->wal. CAPTURE_BROKEN: its salts are not those of x. */
int capture_scan_header(struct session *s, const struct session_index *x, struct capture_scan *sc, struct err *e);
/** capture_scan_frames(s, sc, first, last, limit_frames, e): check and map frames first..last;
 * stops at the first commit frame that is limit_frames or more into the range. sc->cksum is the
 * running checksum before `first`. */
int capture_scan_frames(struct session *s, struct capture_scan *sc, uint32_t first, uint32_t last,
                        uint64_t limit_frames, struct err *e);
/** capture_scan_page(s, sc, frame, page, e): the page of a frame in the range, or of an older one of this WAL. */
int capture_scan_page(struct session *s, const struct capture_scan *sc, uint32_t frame, uint8_t *page, struct err *e);
/** capture_scan_done(sc): free what it holds; it can be used again. */
void capture_scan_done(struct capture_scan *sc);

#endif
