#include "daemon/capture/capture_scan.h"

#include "common/base/beat.h"
#include "daemon/capture/capture.h"

void capture_scan_done(struct capture_scan *sc)
{
    framemap_free(&sc->map);
    free(sc->kept);
    sc->kept = NULL;
}

int capture_scan_header(struct session *s, const struct session_index *x, struct capture_scan *sc,
                       struct err *e)
{
    uint8_t h[WAL_HEADER_SIZE];
    int r = session_wal_read(s, 0, h, sizeof h, e);
    if (r == 0)
        r = wal_header_parse(h, &sc->wal, e);
    if (r < 0)
        return err_wrap(e, "WAL of %s", session_path(s));
    if (sc->wal.salt[0] != x->salt[0] || sc->wal.salt[1] != x->salt[1])
        return CAPTURE_BROKEN;
    if (sc->wal.page_size != x->page_size)
        return err_set(e, ERR_CORRUPT, "the WAL of %s has page size %u, its wal-index %u",
                       session_path(s), sc->wal.page_size, x->page_size);
    return 0;
}

enum { SCAN_CUT = 1 };

static int scan_chunk(struct session *s, struct capture_scan *sc, const uint8_t *p, uint32_t first,
                      uint32_t n, uint64_t limit_frames, uint32_t from, struct err *e)
{
    size_t size = (size_t)wal_frame_size(sc->wal.page_size);
    beat_step();
    for (uint32_t i = 0; i < n; i++) {
        struct wal_frame f;
        if (!wal_frame_check(&sc->wal, p + i * size, sc->cksum, &f))
            return err_set(e, ERR_CORRUPT, "frame %u of the WAL of %s fails its checksum",
                           first + i, session_path(s));
        int r = framemap_put(&sc->map, f.pgno, first + i, e);
        if (r < 0)
            return r;
        if (!f.commit)
            continue;
        sc->last = first + i;
        sc->commit = f.commit;
        sc->least = MIN(sc->least, f.commit);
        memcpy(sc->commit_cksum, sc->cksum, sizeof sc->cksum);
        if (sc->last - from + 1 >= limit_frames)
            return SCAN_CUT;
    }
    return 0;
}

int capture_scan_frames(struct session *s, struct capture_scan *sc, uint32_t first, uint32_t last,
                       uint64_t limit_frames, struct err *e)
{
    size_t size = (size_t)wal_frame_size(sc->wal.page_size);
    uint32_t per = MAX(CAPTURE_CHUNK_BYTES / (uint32_t)size, 1u);
    uint32_t total = last - first + 1;
    bool keep = total <= per;
    if (keep)
        per = total;
    cleanup_free uint8_t *chunk = malloc(per * size);
    if (!chunk)
        return err_set(e, ERR_NOMEM, "no memory to read the WAL of %s", session_path(s));
    for (uint32_t k = first; k <= last;) {
        uint32_t n = MIN(per, last - k + 1);
        int r = session_wal_read(s, wal_frame_off(sc->wal.page_size, k), chunk, n * size, e);
        if (r == 0)
            r = scan_chunk(s, sc, chunk, k, n, limit_frames, first, e);
        if (r < 0)
            return r;
        k += n;
        if (r == SCAN_CUT)
            break;
    }
    if (keep) {
        sc->kept = TAKE_PTR(chunk);
        sc->kept_first = first;
    }
    return 0;
}

int capture_scan_page(struct session *s, const struct capture_scan *sc, uint32_t frame, uint8_t *page,
                           struct err *e)
{
    uint32_t ps = sc->wal.page_size;
    if (sc->kept && frame >= sc->kept_first) {
        memcpy(page,
               sc->kept + (frame - sc->kept_first) * wal_frame_size(ps) + WAL_FRAME_HEADER_SIZE,
               ps);
        return 0;
    }
    return session_wal_read(s, wal_frame_off(ps, frame) + WAL_FRAME_HEADER_SIZE, page, ps, e);
}
