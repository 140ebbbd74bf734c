#include <inttypes.h>

#include "common/format/crc64.h"
#include "common/format/ltx_page.h"

/* header, zero page header, empty index, its size, trailer */
#define MIN_SIZE                                                                          \
    (LTX_HEADER_SIZE + LTX_PAGE_HEADER_SIZE + 1 + LTX_INDEX_SIZE_SIZE + LTX_TRAILER_SIZE)

/* what is at an offset of the file, from d->base on */
static const uint8_t *at(const struct ltx_decoder *d, size_t off)
{
    return d->p + (off - d->base);
}

int ltx_decoder_open_tail(struct ltx_decoder *d, const uint8_t header[static LTX_HEADER_SIZE],
                          const void *p, size_t base, size_t n, size_t *ret_from, struct err *e)
{
    if (n < MIN_SIZE)
        return err_set(e, ERR_CORRUPT, "LTX file of %zu bytes: cut off", n);
    struct ltx_decoder t = {.p = p, .base = base, .n = n, .pos = LTX_HEADER_SIZE};
    int r = ltx_header_decode(header, &t.h, e);
    if (r < 0)
        return r;
    size_t trailer = n - LTX_TRAILER_SIZE, size_at = trailer - LTX_INDEX_SIZE_SIZE;
    uint64_t index_size = be64_get(at(&t, size_at));
    if (!index_size || index_size > size_at - LTX_PAGE_HEADER_SIZE - LTX_HEADER_SIZE)
        return err_set(e, ERR_CORRUPT, "LTX file of %zu bytes: page index of %" PRIu64 " bytes", n,
                       index_size);
    t.index_off = size_at - (size_t)index_size;
    t.index_end = size_at - 1;
    if (t.index_off - LTX_PAGE_HEADER_SIZE < base) {
        *ret_from = t.index_off - LTX_PAGE_HEADER_SIZE;
        return 1;
    }
    if (*at(&t, t.index_end) != 0)
        return err_set(e, ERR_CORRUPT, "LTX file: page index without an end mark");
    t.post_apply = be64_get(at(&t, trailer));
    t.file_checksum = be64_get(at(&t, trailer + 8));
    r = ltx_post_apply_check(&t.h, t.post_apply, ERR_CORRUPT, e);
    if (r < 0)
        return r;
    if (!(t.file_checksum & LTX_CHECKSUM_FLAG))
        return err_set(e, ERR_CORRUPT, "LTX file checksum is %016" PRIx64, t.file_checksum);
    t.crc = crc64(0, header, LTX_HEADER_SIZE);
    t.index_pos = t.index_off;
    *d = t;
    return 0;
}

int ltx_decoder_open(struct ltx_decoder *d, const void *p, size_t n, struct err *e)
{
    size_t from;
    if (n < MIN_SIZE)
        return err_set(e, ERR_CORRUPT, "LTX file of %zu bytes: cut off", n);
    return ltx_decoder_open_tail(d, p, p, 0, n, &from, e);
}

static bool has_db_checksum(const struct ltx_header *h)
{
    return h->min_txid == 1 && !(h->flags & LTX_FLAG_NO_CHECKSUM);
}

/* d->pos is behind the last page: what can only be said then. */
static int check_end(const struct ltx_decoder *d, struct err *e)
{
    static const uint8_t zero[LTX_PAGE_HEADER_SIZE];
    const struct ltx_header *h = &d->h;
    if (d->index_off - d->pos != sizeof zero || memcmp(at(d, d->pos), zero, sizeof zero) != 0)
        return err_set(e, ERR_CORRUPT, "page block ends at %zu, the page index starts at %zu",
                       d->pos + sizeof zero, d->index_off);
    if (d->index_pos != d->index_end)
        return err_set(e, ERR_CORRUPT, "page index goes on after the last page, %u", d->last_pgno);
    if (h->min_txid == 1 && ltx_snapshot_next(h, d->last_pgno) <= h->commit)
        return err_set(e, ERR_CORRUPT, "snapshot ends at page %u of %u", d->last_pgno, h->commit);
    return 0;
}

/* crc: over header and pages; db: the checksum of the pages of a snapshot. */
static int check_sums(const struct ltx_decoder *d, uint64_t crc, uint64_t db, struct err *e)
{
    size_t summed_end = d->n - 8;
    uint64_t sum = LTX_CHECKSUM_FLAG | crc64(crc, at(d, d->pos), summed_end - d->pos);
    if (sum != d->file_checksum)
        return err_set(e, ERR_CORRUPT,
                       "file checksum is %016" PRIx64 ", its bytes give %016" PRIx64,
                       d->file_checksum, sum);
    db |= LTX_CHECKSUM_FLAG;
    if (has_db_checksum(&d->h) && db != d->post_apply)
        return err_set(e, ERR_CORRUPT,
                       "post-apply checksum is %016" PRIx64 ", the pages give %016" PRIx64,
                       d->post_apply, db);
    return 0;
}

static int check_order(const struct ltx_decoder *d, uint32_t pgno, struct err *e)
{
    const struct ltx_header *h = &d->h;
    if (pgno <= d->last_pgno)
        return err_set(e, ERR_CORRUPT, "page %u comes after page %u", pgno, d->last_pgno);
    if (pgno > h->commit)
        return err_set(e, ERR_CORRUPT, "page %u is beyond commit %u", pgno, h->commit);
    if (pgno == ltx_lock_pgno(h->page_size))
        return err_set(e, ERR_CORRUPT, "page %u is the lock page", pgno);
    if (h->min_txid == 1 && pgno != ltx_snapshot_next(h, d->last_pgno))
        return err_set(e, ERR_CORRUPT, "page %u follows page %u in a snapshot", pgno, d->last_pgno);
    return 0;
}

static int finish(struct ltx_decoder *d, struct err *e)
{
    int r = check_end(d, e);
    if (!r)
        r = check_sums(d, d->crc, d->db_checksum, e);
    if (r < 0)
        return r;
    d->done = true;
    return 1;
}

int ltx_decoder_next(struct ltx_decoder *d, uint32_t *ret_pgno, uint8_t *page, struct err *e)
{
    static const uint8_t zero[LTX_PAGE_HEADER_SIZE];
    struct ltx_frame f;
    struct ltx_index_entry x;
    if (d->done)
        return 1;
    size_t left = d->index_off - d->pos;
    if (left >= sizeof zero && memcmp(d->p + d->pos, zero, sizeof zero) == 0)
        return finish(d, e);
    int r = ltx_frame_parse(d->p + d->pos, left, d->h.page_size, &f, e);
    if (r >= 0)
        r = check_order(d, f.pgno, e);
    if (r < 0)
        return r;
    r = ltx_index_next(d->p, d->index_end, &d->index_pos, &x, e);
    if (r < 0)
        return r;
    if (r > 0 || x.pgno != f.pgno || x.off != d->pos || x.size != f.size)
        return err_set(e, ERR_CORRUPT, "page %u is not where the page index says", f.pgno);
    r = ltx_frame_unpack(&f, d->h.page_size, page, e);
    if (r < 0)
        return r;
    d->crc = crc64(crc64(d->crc, d->p + d->pos, f.summed), page, d->h.page_size);
    if (has_db_checksum(&d->h))
        d->db_checksum ^= ltx_page_checksum(f.pgno, page, d->h.page_size);
    d->last_pgno = f.pgno;
    d->pos += f.size;
    *ret_pgno = f.pgno;
    return 0;
}

int ltx_verify(const void *p, size_t n, struct ltx_header *ret_h, struct err *e)
{
    struct ltx_decoder d;
    uint32_t pgno;
    int r = ltx_decoder_open(&d, p, n, e);
    if (r < 0)
        return r;
    cleanup_free uint8_t *page = malloc(d.h.page_size);
    if (!page)
        return err_set(e, ERR_NOMEM, "no memory for a page");
    do
        r = ltx_decoder_next(&d, &pgno, page, e);
    while (!r);
    if (r < 0)
        return r;
    if (ret_h)
        *ret_h = d.h;
    return 0;
}

uint32_t ltx_pages(const struct ltx_header *h)
{
    return h->commit - (ltx_lock_pgno(h->page_size) <= h->commit);
}

bool ltx_is_whole(const void *p, size_t n)
{
    struct ltx_decoder d;
    struct ltx_index_entry x;
    uint32_t pages = 0;
    if (ltx_decoder_open(&d, p, n, NULL) < 0)
        return false;
    while (ltx_index_next(d.p, d.index_end, &d.index_pos, &x, NULL) == 0)
        pages++;
    return pages == ltx_pages(&d.h);
}

/* ---- several threads ------------------------------------------------------------------------ */

int ltx_walk_next(struct ltx_decoder *d, struct ltx_index_entry *ret, struct err *e)
{
    struct ltx_index_entry x;
    if (d->done)
        return 1;
    size_t pos = d->index_pos - d->base;
    int r = ltx_index_next(d->p, d->index_end - d->base, &pos, &x, e);
    d->index_pos = pos + d->base;
    if (r < 0)
        return r;
    if (r > 0) {
        r = check_end(d, e);
        d->done = !r;
        return r < 0 ? r : 1;
    }
    r = check_order(d, x.pgno, e);
    if (r < 0)
        return r;
    if (x.off != d->pos || x.size > d->index_off - d->pos)
        return err_set(e, ERR_CORRUPT, "page %u is not where the page index says", x.pgno);
    d->pos += (size_t)x.size;
    d->last_pgno = x.pgno;
    *ret = x;
    return 0;
}

int ltx_walk_frame(const struct ltx_decoder *d, const struct ltx_index_entry *x, const uint8_t *p,
                   uint8_t *page, struct ltx_sum *sum, struct err *e)
{
    uint32_t page_size = d->h.page_size;
    struct ltx_frame f;
    int r = ltx_frame_parse(p, (size_t)x->size, page_size, &f, e);
    if (r < 0)
        return r;
    if (f.pgno != x->pgno || f.size != x->size)
        return err_set(e, ERR_CORRUPT, "page %u is not where the page index says", x->pgno);
    r = ltx_frame_unpack(&f, page_size, page, e);
    if (r < 0)
        return r;
    /* one pass over the page for both sums: putting two CRCs together costs as much as a second
       pass with PCLMULQDQ, and a twentieth of one without */
    uint8_t pgno[4];
    be32_put(pgno, f.pgno);
    uint64_t crc = crc64(0, page, page_size);
    sum->crc = crc64_combine(crc64(sum->crc, p, f.summed), crc, page_size);
    sum->n += f.summed + (uint64_t)page_size;
    sum->page = LTX_CHECKSUM_FLAG | crc64_combine(crc64(0, pgno, sizeof pgno), crc, page_size);
    sum->db ^= sum->page;
    return 0;
}

int ltx_walk_page(const struct ltx_decoder *d, const struct ltx_index_entry *x, uint8_t *page,
                  struct ltx_sum *sum, struct err *e)
{
    return ltx_walk_frame(d, x, at(d, (size_t)x->off), page, sum, e);
}

void ltx_sum_join(struct ltx_sum *a, const struct ltx_sum *b)
{
    a->crc = crc64_combine(a->crc, b->crc, b->n);
    a->n += b->n;
    a->db ^= b->db;
    a->page = b->page;
}

int ltx_walk_finish(const struct ltx_decoder *d, const struct ltx_sum *sum, struct err *e)
{
    return check_sums(d, crc64_combine(d->crc, sum->crc, sum->n), sum->db, e);
}
