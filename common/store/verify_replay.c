/* One file against the sums. Its pages are decoded once: every rule of LTX is checked by that, and page
 * numbers and checksums go to the list. Only then does anything else look at it, so that a damaged file
 * changes nothing. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/store/verify_int.h"

#define FIRST_CAP 65536u /* numbers */
#define DROP_BYTES (8u << 20) /* so much of a file stays mapped behind the page being read */

/* ---- arrays ---------------------------------------------------------------------------------- */

int verify_array_open(struct verify_array *a, const char *tmp_dir, struct err *e)
{
    *a = (struct verify_array){.fd = open(tmp_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
    if (a->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        cleanup_free char *name = util_printf("%s/walsup-verify-XXXXXX", tmp_dir);
        a->fd = mkostemp(name, O_CLOEXEC);
        if (a->fd >= 0)
            (void)unlink(name);
    }
    if (a->fd < 0)
        return err_sys(e, errno, "create a temporary file in %s", tmp_dir);
    return 0;
}

void verify_array_close(struct verify_array *a)
{
    if (a->p)
        (void)munmap(a->p, a->cap * 8);
    if (a->fd >= 0)
        (void)close(a->fd);
    *a = (struct verify_array){.fd = -1};
}

/* Room for n numbers; new ones are 0. */
static int reserve(struct verify_array *a, size_t n, struct err *e)
{
    if (n <= a->cap)
        return 0;
    size_t cap = MAX(a->cap, (size_t)FIRST_CAP);
    while (cap < n)
        cap *= 2;
    /* allocated, not only promised: a full disk must not become a SIGBUS */
    int err = posix_fallocate(a->fd, (off_t)(a->cap * 8), (off_t)((cap - a->cap) * 8));
    if (err)
        return err_sys(e, err, "a temporary file of %zu bytes", cap * 8);
    void *p = a->p ? mremap(a->p, a->cap * 8, cap * 8, MREMAP_MAYMOVE)
                   : mmap(NULL, cap * 8, PROT_READ | PROT_WRITE, MAP_SHARED, a->fd, 0);
    if (p == MAP_FAILED)
        return err_sys(e, errno, "map a temporary file of %zu bytes", cap * 8);
    a->p = p;
    a->cap = cap;
    return 0;
}

/* ---- one file -------------------------------------------------------------------------------- */

struct replay {
    struct verify *v;
    struct verify_file *file;
    struct ltx_decoder d;
    size_t n;     /* pages: list[2 * i] is the number, list[2 * i + 1] the checksum */
    uint64_t xor; /* of the checksums */
    uint64_t lineage;
};

/* how many pages the checksum of a database is made of */
static uint32_t all_pages(const struct ltx_header *h)
{
    return h->commit - (ltx_lock_pgno(h->page_size) <= h->commit);
}

/* Positive: the file is damaged, which was noted. */
static int decode(struct replay *r, void *p, size_t size, struct err *e)
{
    struct err bad = {0};
    size_t dropped = 0;
    uint32_t pgno;
    int k = ltx_decoder_open(&r->d, p, size, &bad);
    cleanup_free uint8_t *page = malloc(k ? 1 : r->d.h.page_size);
    if (!page)
        return err_set(e, ERR_NOMEM, "no memory for a page");
    struct verify_array *list = &r->v->list;
    while (k == 0 && (k = ltx_decoder_next(&r->d, &pgno, page, &bad)) == 0) {
        int full = reserve(list, 2 * r->n + 2, e);
        if (full < 0)
            return full;
        uint64_t sum = ltx_page_checksum(pgno, page, r->d.h.page_size);
        list->p[2 * r->n] = pgno;
        list->p[2 * r->n + 1] = sum;
        r->xor ^= sum;
        r->n++;
        if (r->d.pos - dropped >= 2 * DROP_BYTES) {
            (void)madvise((uint8_t *)p + dropped, DROP_BYTES, MADV_DONTNEED);
            dropped += DROP_BYTES;
        }
    }
    if (k < 0) {
        verify_blame(r->file, VERIFY_DAMAGED, "%s", bad.msg);
        return 1;
    }
    r->file->whole = r->n == all_pages(&r->d.h);
    r->file->mark = !r->n && r->file->f.level == 0 && r->d.h.node_id && (r->d.h.flags & LTX_FLAG_NO_CHECKSUM);
    return 0;
}

/* What its name and its metadata say of it. */
static void check_labels(struct replay *r)
{
    struct verify_file *f = r->file;
    const struct ltx_header *h = &r->d.h;
    f->time_ms = h->timestamp_ms;
    r->lineage = f->lineage = h->node_id ? h->node_id : f->meta_lineage;
    if (h->min_txid != f->f.min || h->max_txid != f->f.max)
        verify_blame(f, VERIFY_DAMAGED,
                     "its header says TXIDs %016" PRIx64 " to %016" PRIx64
                     ": it is another object's content", h->min_txid, h->max_txid);
    else if (f->f.level == 0 && h->min_txid != h->max_txid)
        verify_blame(f, VERIFY_DAMAGED, "a file of level 0 holds one TXID");
    else if (f->f.level == LTX_SNAPSHOT_LEVEL && h->min_txid != 1)
        verify_blame(f, VERIFY_DAMAGED, "a snapshot begins at TXID 1");
    else if (h->node_id && f->meta_lineage && h->node_id != f->meta_lineage)
        verify_blame(f, VERIFY_FOREIGN,
                     "its header names the history %016" PRIx64 ", its metadata %016" PRIx64, h->node_id,
                     f->meta_lineage);
    else if (f->meta_time_ms && f->meta_time_ms != h->timestamp_ms)
        verify_blame(f, VERIFY_DAMAGED, "its header and its metadata are of different times");
    uint64_t trailer = r->d.post_apply, meta = f->meta_checksum;
    if (!f->unusable && trailer && meta && trailer != meta)
        verify_blame(f, VERIFY_DAMAGED,
                     "two database checksums are recorded, %016" PRIx64 " and %016" PRIx64, trailer, meta);
    f->recorded = meta ? meta : trailer;
}

static bool compare(struct replay *r)
{
    struct verify_file *f = r->file;
    if (!f->recorded)
        return true;
    if (f->recorded == f->leads_to) {
        r->v->result->compared++;
        return true;
    }
    verify_blame(f, VERIFY_DAMAGED,
                 "the database after it should have checksum %016" PRIx64 ", with it it has %016" PRIx64,
                 f->recorded, f->leads_to);
    return false;
}

/* The pages by which the database grew must all be in it. */
static bool growth_is_there(const struct replay *r)
{
    const struct ltx_header *h = &r->d.h;
    const struct verify_sums *s = &r->v->sums;
    uint64_t grown = 0, lock = ltx_lock_pgno(h->page_size);
    if (h->commit <= s->pages)
        return true;
    for (size_t i = r->n; i-- && r->v->list.p[2 * i] > s->pages;)
        grown++;
    if (grown == (uint64_t)h->commit - s->pages - (lock > s->pages && lock <= h->commit))
        return true;
    verify_blame(r->file, VERIFY_DAMAGED,
                 "the database grows from page %u to %u with it, but not all of those pages are in it",
                 s->pages, h->commit);
    return false;
}

/* Whether it goes on from the present state. */
static bool fits(struct replay *r)
{
    const struct verify_sums *s = &r->v->sums;
    const struct ltx_header *h = &r->d.h;
    if (r->file->whole)
        return true;
    if (r->lineage && s->lineage && r->lineage != s->lineage) {
        verify_blame(r->file, VERIFY_FOREIGN,
                     "it goes on from another history (%016" PRIx64 "; what is before it is of %016" PRIx64 ")",
                     r->lineage, s->lineage);
        return false;
    }
    if (h->page_size != s->page_size) {
        verify_blame(r->file, VERIFY_FOREIGN, "it has pages of %u bytes, what is before it %u", h->page_size,
                     s->page_size);
        return false;
    }
    return growth_is_there(r);
}

/* The sum of the present state with it applied. */
static uint64_t applied(const struct replay *r)
{
    const struct verify_sums *s = &r->v->sums;
    uint64_t x = r->xor;
    if (!r->file->whole) {
        x ^= s->xor;
        for (size_t i = 0; i < r->n && r->v->list.p[2 * i] <= s->pages; i++)
            x ^= s->page.p[r->v->list.p[2 * i]];
        for (uint64_t p = (uint64_t)r->d.h.commit + 1; p <= s->pages; p++)
            x ^= s->page.p[p];
    }
    return x | LTX_CHECKSUM_FLAG;
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* Files that were said to lead to where we are now, from wherever they were applied. */
static void meet(struct verify *v, struct verify_file *by)
{
    uint64_t here = v->sums.xor | LTX_CHECKSUM_FLAG;
    while (v->next_max < v->n && v->file[v->by_max[v->next_max]].f.max < v->sums.txid)
        v->next_max++;
    for (size_t i = v->next_max; i < v->n && v->file[v->by_max[i]].f.max == v->sums.txid; i++) {
        struct verify_file *f = &v->file[v->by_max[i]];
        if (f == by || f->unusable || !f->leads_to || f->leads_to == here)
            continue;
        bool f_is_right = f->recorded && !by->recorded; /* what is recorded was compared already */
        struct verify_file *bad = f_is_right ? by : f, *good = f_is_right ? f : by;
        verify_blame(bad, VERIFY_DAMAGED,
                     "it leads to database checksum %016" PRIx64 ", but %s to %016" PRIx64,
                     bad == f ? f->leads_to : here, good->name, bad == f ? here : f->leads_to);
    }
    verify_map_meet(v);
}

static int advance(struct replay *r, struct err *e)
{
    struct verify_sums *s = &r->v->sums;
    const struct ltx_header *h = &r->d.h;
    const uint64_t *list = r->v->list.p;
    int k = reserve(&s->page, (size_t)h->commit + 1, e);
    if (k < 0)
        return k;
    uint64_t keep = r->file->whole ? 0 : h->commit;
    if (s->pages > keep)
        memset(s->page.p + keep + 1, 0, (size_t)(s->pages - keep) * 8);
    for (size_t i = 0; i < r->n; i++)
        s->page.p[list[2 * i]] = list[2 * i + 1];
    s->xor = r->file->leads_to;
    s->txid = r->file->f.max;
    s->page_size = h->page_size;
    s->pages = h->commit;
    s->time_ms = h->timestamp_ms;
    if (r->file->whole || !s->lineage)
        s->lineage = r->lineage;
    return 0;
}

/* A whole file proves itself; others what they make of the state they belong on. */
static int apply(struct replay *r, enum verify_action action, struct err *e)
{
    struct verify *v = r->v;
    struct verify_file *f = r->file;
    struct verify_sums *s = &v->sums;
    bool at_hand = r->file->whole || (action != VERIFY_READ && s->txid);
    if (!at_hand || !fits(r))
        return 0;
    uint64_t before = f->leads_to; /* from an earlier state, if it was looked at then */
    f->leads_to = applied(r);
    if (f->leads_to != before && !compare(r))
        return 0;
    if (action == VERIFY_ADVANCE) {
        bool back = s->txid && s->time_ms > r->d.h.timestamp_ms;
        int k = advance(r, e);
        if (k < 0)
            return k;
        if (back && !f->why)
            f->why = util_strdup("its time is before that of the TXID before it: the clock was set back");
        meet(v, f);
        return 0;
    }
    uint64_t here = s->xor | LTX_CHECKSUM_FLAG;
    if (s->txid == f->f.max && f->leads_to != here)
        verify_blame(f, VERIFY_DAMAGED,
                     "it has database checksum %016" PRIx64 ", the files that lead to its TXID make %016" PRIx64,
                     f->leads_to, here);
    return 0;
}

int verify_step_run(struct verify *v, const struct verify_step *step, int fd, struct err *e)
{
    struct verify_file *f = &v->file[step->file];
    struct replay r = {.v = v, .file = f};
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_sys(e, errno, "look at a temporary file");
    size_t size = (size_t)st.st_size;
    if (!size) {
        verify_blame(f, VERIFY_DAMAGED, "it is empty");
    } else if (!f->unusable) {
        void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            return err_sys(e, errno, "map a temporary file of %zu bytes", size);
        (void)madvise(p, size, MADV_SEQUENTIAL);
        int k = decode(&r, p, size, e);
        (void)munmap(p, size);
        if (k < 0)
            return k;
        if (k == 0)
            check_labels(&r);
        if (f->mark)
            verify_blame(f, VERIFY_FOUND, "walsup took the replica over here: a new history begins behind it");
        k = f->unusable ? 0 : apply(&r, step->action, e);
        if (k < 0)
            return k;
    }
    f->read = true;
    v->stopped = v->stopped || (step->action == VERIFY_ADVANCE && v->sums.txid != f->f.max);
    return 0;
}
