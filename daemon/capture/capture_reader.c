/* capture_reader.c - the database as it is at one moment, piece by piece. */
#include "common/base/beat.h"
#include "daemon/capture/capture.h"
#include "daemon/capture/capture_scan.h"

struct capture_reader {
    struct session *s;
    struct session_index x;
    struct capture_scan sc;
    size_t at_frame;  /* of sc.map, sorted */
    uint64_t at_page; /* 64 bits: pages may be 2^32 - 2 */
    uint32_t last;    /* page */
    uint8_t *pages;
};

/* The WAL was read: is it still that one? */
static int same_wal_still(struct session *s, const struct session_index *x, struct err *e)
{
    struct session_index after = {0};
    int r = x->n != x->b ? session_index(s, &after, e) : 0;
    if (r == 0 && x->n != x->b && (after.salt[0] != x->salt[0] || after.salt[1] != x->salt[1]))
        r = CAPTURE_BROKEN;
    return r;
}

/* When everything was copied the file alone is the truth, and the WAL may be overwritten under us: do not
 * look at it. */
static int reader_start(struct capture_reader *r, struct err *e)
{
    const struct session_index *x = &r->x;
    if (x->n == x->b)
        return 0;
    int k = capture_scan_header(r->s, x, &r->sc, e);
    if (k != 0)
        return k;
    memcpy(r->sc.cksum, r->sc.wal.cksum, sizeof r->sc.cksum);
    k = capture_scan_frames(r->s, &r->sc, 1, x->n, UINT64_MAX, e);
    if (k < 0)
        return k;
    if (r->sc.last != x->n || memcmp(r->sc.commit_cksum, x->cksum, sizeof x->cksum))
        return err_set(e, ERR_CORRUPT, "the WAL of %s does not end in the commit its wal-index names",
                       session_path(r->s));
    framemap_sort(&r->sc.map, r->last);
    return 0;
}

/* Whatever seemed damaged while the WAL was restarted means nothing. */
static int judge_read(struct session *s, const struct session_index *x, int k, struct err *e)
{
    if (k != 0 && k != -(int)ERR_CORRUPT)
        return k;
    int k2 = same_wal_still(s, x, k ? NULL : e);
    return k2 > 0 || k == 0 ? k2 : k;
}

int capture_reader_new(struct session *s, const struct session_index *x, uint32_t last, struct capture_reader **ret,
                       struct err *e)
{
    struct capture_reader *r = util_zalloc(sizeof *r);
    r->s = s;
    r->x = *x;
    r->at_page = 1;
    r->last = last;
    r->pages = malloc(CAPTURE_CHUNK_BYTES);
    int k = r->pages ? 0 : err_set(e, ERR_NOMEM, "no memory to read %s", session_path(s));
    if (k == 0)
        k = judge_read(s, x, reader_start(r, e), e);
    if (k == 0)
        *ret = r;
    else
        (void)capture_reader_free(r);
    return k;
}

static int read_pages(struct capture_reader *r, uint32_t first, uint32_t n, struct err *e)
{
    uint32_t ps = r->x.page_size;
    beat_step();
    int k = session_db_read(r->s, first, n, r->pages, e);
    const struct framemap *m = &r->sc.map;
    for (; k == 0 && r->at_frame < m->n && m->slot[r->at_frame].pgno < first + n; r->at_frame++) {
        const struct framemap_entry *f = &m->slot[r->at_frame];
        k = capture_scan_page(r->s, &r->sc, f->frame, r->pages + (size_t)(f->pgno - first) * ps, e);
    }
    return k;
}

int capture_reader_next(struct capture_reader *r, uint32_t *ret_first, uint32_t *ret_n, const uint8_t **ret_pages,
                        struct err *e)
{
    if (r->at_page > r->last)
        return 1;
    uint32_t first = (uint32_t)r->at_page;
    uint32_t n = MIN(CAPTURE_CHUNK_BYTES / r->x.page_size, r->last - first + 1);
    int k = judge_read(r->s, &r->x, read_pages(r, first, n, e), e);
    if (k != 0)
        return k;
    r->at_page += n;
    *ret_first = first;
    *ret_n = n;
    *ret_pages = r->pages;
    return 0;
}

struct capture_reader *capture_reader_free(struct capture_reader *r)
{
    if (!r)
        return NULL;
    capture_scan_done(&r->sc);
    free(r->pages);
    free(r);
    return NULL;
}
