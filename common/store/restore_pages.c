#include "common/store/restore_pages.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "common/base/fsx.h"

/* the page index of a file of 50 MiB, and what the decoder needs to find it */
#define TAIL_BYTES (64u << 10)
#define TAIL_LEAST 32u

static bool bit(const uint8_t *map, uint32_t n)
{
    return map[n / 8] >> n % 8 & 1;
}

size_t pages_tail(const struct pages *p, size_t size)
{
    size_t most = (size_t)MIN(p->piece_bytes, (uint64_t)TAIL_BYTES);
    return MIN(size, MAX(most, (size_t)TAIL_LEAST));
}

struct pages_file *pages_file_new(struct restore_input *in)
{
    struct pages_file *f = util_zalloc(sizeof *f);
    f->in = in;
    f->fd = -1;
    return f;
}

void pages_file_free(struct pages_file *f)
{
    if (!f)
        return;
    if (f->fd >= 0)
        (void)close(f->fd);
    if (f->held_bytes)
        atomic_fetch_sub(f->held_bytes, f->held_size);
    free(f->bad);
    free(f->buf);
    free(f->part);
    free(f);
}

int pages_read(int fd, void *p, size_t n, uint64_t off, const char *name, struct err *e)
{
    int r = fsx_pread_all(fd, p, n, off, e);
    return r < 0 ? err_wrap(e, "%s", name) : 0;
}

/* ---- one file after the other --------------------------------------------------------------- */

/* how many pages the checksum of a database is made of */
static uint32_t all_pages(const struct ltx_header *h)
{
    return h->commit - (ltx_lock_pgno(h->page_size) <= h->commit);
}

/* All pages of the database: what came before does not matter. */
static bool has_all(const struct pages_file *f)
{
    return f->n_page == all_pages(&f->d.h);
}

bool pages_whole(const struct pages *p, const struct restore_input *in)
{
    return p->all_whole || in->size <= p->whole_bytes ||
           !p->expected;
}

void pages_drop_kept(struct pages *p)
{
    free(p->kept.map);
    p->kept = (struct pages_kept){.map = NULL};
}

static uint8_t *new_map(const struct ltx_header *h)
{
    /* commit is not verified yet, but calloc of untouched memory costs nothing */
    return calloc((size_t)h->commit / 8 + 1, 1);
}

/* The first file opened is the newest and decides what the database is. */
static int start(struct pages *p, const struct pages_file *f, struct err *e)
{
    const struct ltx_header *h = &f->d.h;
    p->newest = *h;
    p->newest_in = f->in;
    p->post_apply = f->d.post_apply;
    p->have = new_map(h);
    p->written = new_map(h);
    if (!p->have || !p->written)
        return err_set(e, ERR_NOMEM, "no memory for the map of %u pages", h->commit);
    p->expected = f->in->checksum ? f->in->checksum : p->post_apply;
    if (p->kept.page_size != h->page_size || p->kept.txid > h->max_txid || !p->expected)
        pages_drop_kept(p);
    return p->started ? p->started(p->arg, p, e) : 0;
}

static bool damaged(const struct pages_file *f)
{
    return !f->base && ltx_verify(f->buf, (size_t)f->in->size, NULL, NULL) < 0;
}

/* A page size decides how everything else is read. */
static int other_page_size(const struct pages *p, const struct pages_file *f, struct err *e)
{
    (void)err_set(e, ERR_CORRUPT, "%s: page size %u%s, newer files have %u", f->in->name,
                  f->d.h.page_size, damaged(f) ? " (and it fails its checksum)" : "",
                  p->newest.page_size);
    return -(int)ERR_CORRUPT;
}

int pages_open(struct pages *p, struct pages_file *f, struct err *e)
{
    const struct ltx_header *h = &f->d.h;
    int r = 0;
    if (h->min_txid != f->in->min || h->max_txid != f->in->max)
        r = err_set(e, ERR_CORRUPT, "%s: its header says TXIDs %016" PRIx64 " to %016" PRIx64,
                    f->in->name, h->min_txid, h->max_txid);
    else if (p->have && h->page_size != p->newest.page_size)
        r = other_page_size(p, f, e);
    if (!r && !p->have)
        r = start(p, f, e);
    if (r < 0) {
        pages_file_free(f);
        return r;
    }
    f->whole = pages_whole(p, f->in);
    p->in_part = p->in_part || !f->whole;
    f->taken = f->base ? f->in->size - f->base + LTX_HEADER_SIZE : f->in->size;
    atomic_fetch_add(p->done, f->taken);
    if (f->in->max <= p->kept.txid)
        p->kept_is_good = true;
    p->left--;
    return 0;
}

/* whether page n of a file is to be written */
static bool claim(struct pages *p, const struct pages_file *f, uint32_t pgno)
{
    /* pages beyond the end went away when the database shrank */
    if (pgno > p->newest.commit || bit(p->have, pgno))
        return false;
    uint8_t mask = (uint8_t)(1 << pgno % 8);
    p->have[pgno / 8] |= mask;
    p->n_have++;
    if (!p->kept.map || pgno > p->kept.commit || !bit(p->kept.map, pgno))
        return true;
    if (f->d.h.max_txid <= p->kept.txid)
        return false; /* it is there */
    p->kept.map[pgno / 8] &= (uint8_t)~mask; /* it was, in an older version */
    return true;
}

/* A lineage goes back to where one file holds everything. A file without one (Litestream knows
 * none) belongs to its neighbours. */
static void note_lineage(struct pages *p, const struct pages_file *f)
{
    const struct restore_input *in = f->in;
    uint64_t lineage = f->d.h.node_id ? f->d.h.node_id : in->lineage;
    if (!lineage || p->mixed.code)
        return;
    if (p->lineage && lineage != p->lineage) {
        (void)err_set(&p->mixed, ERR_CORRUPT,
                      "%s goes on from another database: it is of lineage %016" PRIx64
                      " and holds %u of %u pages, %s before it is of lineage %016" PRIx64,
                      p->lineage_in->name, p->lineage, p->lineage_pages, p->lineage_commit,
                      in->name, lineage);
        (void)err_hint(&p->mixed, "--txid %016" PRIx64 " restores the older database, another "
                                  "target may have the newer one", in->max);
    }
    p->lineage = lineage;
    p->lineage_in = in;
    p->lineage_pages = f->n_page;
    p->lineage_commit = all_pages(&f->d.h);
}

static int compare(const char *name, uint64_t expected, uint64_t found, struct err *e)
{
    if (!expected || expected == found)
        return 0;
    (void)err_set(e, ERR_CORRUPT,
                  "%s: the database after it should have checksum %016" PRIx64
                  ", what the replica holds has %016" PRIx64, name, expected, found);
    return err_hint(e, "an object of the replica was replaced or is not the one that belongs "
                       "there; try another target, or an older --txid");
}

/* All of it was walked and decoded. */
static int check_sums(const struct pages_file *f, struct err *e)
{
    struct ltx_sum sum = {0};
    if (!f->whole)
        return 0;
    for (size_t i = 0; i < f->n_part; i++)
        ltx_sum_join(&sum, &f->part[i]);
    if (ltx_walk_finish(&f->d, &sum, e) < 0)
        return err_wrap(e, "%s", f->in->name);
    return has_all(f) ? compare(f->in->name, f->in->checksum, sum.db | LTX_CHECKSUM_FLAG, e) : 0;
}

/* The page index of f was read to its end. */
static int walked(struct pages *p, struct pages_file *f, struct err *e)
{
    f->walked = true;
    note_lineage(p, f);
    atomic_fetch_sub(p->total, f->in->size - f->taken); /* nobody needs the rest */
    if (has_all(f))
        for (; p->left; p->left--) /* nor what is older */
            atomic_fetch_sub(p->total, p->in[p->left - 1].size);
    if (f->pending)
        return 1;
    int r = check_sums(f, e);
    if (r < 0)
        return r;
    pages_file_free(f);
    return 1;
}

/* ---- pieces --------------------------------------------------------------------------------- */

static void piece_free(struct pages_piece *x)
{
    if (x) {
        free(x->x);
        free(x->want);
        free(x);
    }
}

/* Whether the entry can be a part of x, which has some already. */
static bool fits(const struct pages *p, const struct pages_piece *x,
                 const struct ltx_index_entry *y)
{
    uint64_t end = x->off + x->bytes, base = x->file->base;
    if (x->n && x->off < base && y->off >= base)
        return false; /* y is in hand already */
    return !x->n || (y->off - end <= p->gap_bytes && y->off + y->size - x->off <= p->piece_bytes);
}

static int add(struct pages_piece *x, const struct ltx_index_entry *y, bool want, struct err *e)
{
    if (x->n == x->cap) {
        size_t cap = MAX(x->cap * 2, (size_t)16);
        struct ltx_index_entry *more = realloc(x->x, cap * sizeof *more);
        if (more)
            x->x = more;
        bool *more_want = more ? realloc(x->want, cap * sizeof *more_want) : NULL;
        if (!more_want)
            return err_set(e, ERR_NOMEM, "%s: no memory for a list of %zu pages", x->file->in->name,
                           cap);
        x->want = more_want;
        x->cap = cap;
    }
    if (!x->n)
        x->off = y->off;
    x->bytes = y->off + y->size - x->off;
    x->x[x->n] = *y;
    x->want[x->n++] = want;
    return 0;
}

/* The next entry that is to be read: 0, 1 at the end. */
static int next_entry(struct pages *p, struct pages_file *f, struct err *e)
{
    for (;;) {
        int r = ltx_walk_next(&f->d, &f->held, e);
        if (r < 0)
            return err_wrap(e, "%s", f->in->name);
        if (r > 0)
            return 1;
        f->n_page++;
        f->held_want = claim(p, f, f->held.pgno);
        if (f->held_want || f->whole)
            return 0;
    }
}

static int fill(struct pages *p, struct pages_file *f, struct pages_piece *x, struct err *e)
{
    for (;;) {
        int r = f->held_back ? 0 : next_entry(p, f, e);
        f->held_back = !r;
        if (r)
            return r;
        if (!fits(p, x, &f->held))
            return 0;
        r = add(x, &f->held, f->held_want, e);
        if (r < 0)
            return r;
        f->held_back = false;
    }
}

static int new_part(struct pages_file *f, size_t *ret, struct err *e)
{
    if (f->n_part == f->cap_part) {
        size_t cap = MAX(f->cap_part * 2, (size_t)4);
        struct ltx_sum *part = realloc(f->part, cap * sizeof *part);
        if (!part)
            return err_set(e, ERR_NOMEM, "%s: no memory for its sums", f->in->name);
        f->part = part;
        f->cap_part = cap;
    }
    f->part[f->n_part] = (struct ltx_sum){0};
    *ret = f->n_part++;
    return 0;
}

int pages_next(struct pages *p, struct pages_file *f, struct pages_piece **ret, struct err *e)
{
    struct pages_piece *x = util_zalloc(sizeof *x);
    x->file = f;
    int r = f->walked ? 1 : fill(p, f, x, e);
    if (r >= 0 && x->n) {
        /* an end that was seen is kept for the next call, which finds the walk at its end again */
        r = new_part(f, &x->part, e);
        if (!r) {
            f->pending++;
            if (x->off < f->base)
                f->taken += x->bytes;
            *ret = x;
            return 0;
        }
    }
    piece_free(x);
    return r < 0 ? r : walked(p, f, e);
}

static int write_at(int fd, const uint8_t *p, size_t n, uint64_t off, struct err *e)
{
    while (n) {
        ssize_t put = pwrite(fd, p, n, (off_t)off);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_sys(e, errno, "write of %zu bytes at %llu", n, (unsigned long long)off);
        p += put;
        n -= (size_t)put;
        off += (uint64_t)put;
    }
    return 0;
}

/* Pages from .. to-1 are decoded in page: write those that are wanted, neighbours at once. */
static int write_pages(const struct pages *p, const struct pages_piece *x, const uint8_t *page,
                       size_t from, size_t to, struct err *e)
{
    size_t page_size = p->newest.page_size;
    for (size_t i = from, n; i < to; i += n) {
        n = 1;
        if (!x->want[i])
            continue;
        while (i + n < to && x->want[i + n] && x->x[i + n].pgno == x->x[i].pgno + n)
            n++;
        int r = write_at(p->out, page + (i - from) * page_size, n * page_size,
                         (uint64_t)(x->x[i].pgno - 1) * page_size, e);
        if (r < 0)
            return r;
    }
    return 0;
}

int pages_decode(const struct pages *p, struct pages_piece *x, const uint8_t *bytes, uint8_t *page,
                 size_t page_bytes, struct err *e)
{
    size_t page_size = p->newest.page_size, at_once = page_bytes / page_size;
    struct ltx_sum sum = {0};
    for (size_t from = 0, to; from < x->n; from = to) {
        to = MIN(x->n, from + at_once);
        for (size_t i = from; i < to; i++) {
            int r = ltx_walk_frame(&x->file->d, &x->x[i], bytes + (x->x[i].off - x->off),
                                   page + (i - from) * page_size, &sum, e);
            if (r < 0)
                return err_wrap(e, "%s", x->file->in->name);
            if (x->want[i])
                x->checksum ^= sum.page;
        }
        int r = write_pages(p, x, page, from, to, e);
        if (r < 0)
            return r;
    }
    x->sum = sum;
    return 0;
}

int pages_end(struct pages *p, struct pages_piece *x, bool ok, struct err *e)
{
    struct pages_file *f = x->file;
    int r = 0;
    if (ok) {
        f->part[x->part] = x->sum;
        p->checksum ^= x->checksum;
        for (size_t i = 0; i < x->n; i++)
            if (x->want[i])
                p->written[x->x[i].pgno / 8] |= (uint8_t)(1 << x->x[i].pgno % 8);
    }
    if (!--f->pending && f->walked) {
        r = ok ? check_sums(f, e) : 0;
        pages_file_free(f);
    }
    piece_free(x);
    return r;
}

/* ---- the end -------------------------------------------------------------------------------- */

static int check_complete(const struct pages *p, struct err *e)
{
    const struct ltx_header *h = &p->newest;
    if (p->delta || p->n_have == all_pages(h))
        return 0;
    uint32_t missing = 1, lock = ltx_lock_pgno(h->page_size);
    while (missing == lock || bit(p->have, missing))
        missing++;
    return err_set(e, ERR_CORRUPT, "page %u of %u is in none of the files", missing, h->commit);
}

/* What an earlier attempt wrote is believed no more than what a store sends. */
static int add_kept(struct pages *p, struct err *e)
{
    size_t page_size = p->newest.page_size;
    cleanup_free uint8_t *page = malloc(page_size);
    if (!page)
        return err_set(e, ERR_NOMEM, "no memory for a page");
    for (uint32_t i = 1; p->kept.map && i <= MIN(p->kept.commit, p->newest.commit); i++) {
        if (!bit(p->kept.map, i) || !bit(p->have, i))
            continue;
        int r = fsx_pread_all(p->out, page, page_size, (uint64_t)(i - 1) * page_size, e);
        if (r < 0)
            return err_wrap(e, "page %u of an earlier attempt", i);
        p->checksum ^= ltx_page_checksum(i, page, (uint32_t)page_size);
        p->applied.kept_pages++;
    }
    return 0;
}

int pages_finish(struct pages *p, struct err *e)
{
    if (p->mixed.code) {
        if (e)
            *e = p->mixed;
        return -(int)p->mixed.code;
    }
    int r = check_complete(p, e);
    if (!r)
        r = add_kept(p, e);
    if (!r && !p->delta &&
        ftruncate(p->out, (off_t)p->newest.commit * (off_t)p->newest.page_size) < 0)
        r = err_sys(e, errno, "set the size of the database");
    const struct restore_input *in = p->newest_in;
    uint64_t found = p->checksum | LTX_CHECKSUM_FLAG;
    if (!r && !p->delta)
        r = compare(in->name, in->checksum, found, e);
    if (!r && !p->delta)
        r = compare(in->name, p->post_apply, found, e);
    p->applied.newest = p->newest;
    p->applied.lineage = p->newest.node_id ? p->newest.node_id : in->lineage;
    p->applied.checksum = found;
    p->applied.expected = p->expected;
    p->applied.in_part = p->in_part;
    return r;
}

void pages_done(struct pages *p)
{
    free(p->have);
    free(p->written);
    free(p->kept.map);
    p->have = p->written = p->kept.map = NULL;
}
