/* All files are walked side by side in the order of their pages, by a heap. Each page of each file is
 * decoded once, for the checksum of its file; the newest version of it is written on the way. */
#include "common/format/merge.h"

struct leg {
    struct ltx_decoder d;
    struct ltx_index_entry x; /* the page it stands at */
    struct ltx_sum sum;
};

struct merge {
    struct leg *leg;
    size_t n;
    size_t *heap; /* indexes of legs; the first one has the smallest page, and is the newest that has it */
    size_t n_heap;
    uint32_t page_size;
    uint8_t *page, *other; /* two pages in one allocation */
    struct ltx_encoder *enc;
};

static bool before(const struct merge *m, size_t a, size_t b)
{
    uint32_t x = m->leg[a].x.pgno, y = m->leg[b].x.pgno;
    return x != y ? x < y : a > b;
}

static void sift_down(struct merge *m, size_t i)
{
    for (size_t k; (k = 2 * i + 1) < m->n_heap; i = k) {
        if (k + 1 < m->n_heap && before(m, m->heap[k + 1], m->heap[k]))
            k++;
        if (!before(m, m->heap[k], m->heap[i]))
            return;
        size_t t = m->heap[k];
        m->heap[k] = m->heap[i];
        m->heap[i] = t;
    }
}

static int of_file(struct err *e, size_t i)
{
    return err_wrap(e, "file %zu", i + 1);
}

/* The leg at the top of the heap to its next page; at its end it leaves. */
static int step(struct merge *m, struct err *e)
{
    size_t i = m->heap[0];
    struct leg *l = &m->leg[i];
    int r = ltx_walk_next(&l->d, &l->x, e);
    if (r > 0) {
        m->heap[0] = m->heap[--m->n_heap];
        r = ltx_walk_finish(&l->d, &l->sum, e);
    }
    if (r < 0)
        return of_file(e, i);
    sift_down(m, 0);
    return 0;
}

/* The newest version of the page goes into the file; all of them into their files' sums. */
static int one_page(struct merge *m, const struct ltx_header *h, struct err *e)
{
    uint32_t pgno = m->leg[m->heap[0]].x.pgno;
    for (bool newest = true; m->n_heap && m->leg[m->heap[0]].x.pgno == pgno; newest = false) {
        size_t i = m->heap[0];
        struct leg *l = &m->leg[i];
        uint8_t *page = newest ? m->page : m->other;
        int r = ltx_walk_page(&l->d, &l->x, page, &l->sum, e);
        if (r < 0)
            return of_file(e, i);
        if (newest && pgno <= h->commit)
            r = ltx_encoder_copy(m->enc, l->d.p + l->x.off, (size_t)l->x.size, page, e);
        if (r == 0)
            r = step(m, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_chain(const struct merge *m, size_t i, struct err *e)
{
    const struct ltx_header *h = &m->leg[i].d.h, *first = &m->leg[0].d.h;
    if (h->page_size != first->page_size)
        return err_set(e, ERR_CORRUPT, "page size %u, the first has %u", h->page_size, first->page_size);
    if (h->node_id != first->node_id)
        return err_set(e, ERR_CORRUPT, "lineage %016llx, the first has %016llx", (unsigned long long)h->node_id,
                       (unsigned long long)first->node_id);
    const struct ltx_header *prev = i ? &m->leg[i - 1].d.h : NULL;
    if (prev && (h->min_txid > prev->max_txid + 1 || h->max_txid <= prev->max_txid))
        return err_set(e, ERR_CORRUPT, "TXIDs %016llx to %016llx after %016llx", (unsigned long long)h->min_txid,
                       (unsigned long long)h->max_txid, (unsigned long long)prev->max_txid);
    return 0;
}

static int open_legs(struct merge *m, const struct merge_input *in, struct err *e)
{
    m->leg = calloc(m->n, sizeof *m->leg);
    m->heap = calloc(m->n, sizeof *m->heap);
    if (!m->leg || !m->heap)
        return err_set(e, ERR_NOMEM, "no memory to merge %zu files", m->n);
    for (size_t i = 0; i < m->n; i++) {
        struct leg *l = &m->leg[i];
        int r = ltx_decoder_open(&l->d, in[i].p, in[i].n, e);
        if (r == 0)
            r = check_chain(m, i, e);
        if (r == 0)
            r = ltx_walk_next(&l->d, &l->x, e);
        if (r > 0) /* without a page */
            r = ltx_walk_finish(&l->d, &l->sum, e);
        else if (r == 0)
            m->heap[m->n_heap++] = i;
        if (r < 0)
            return of_file(e, i);
    }
    for (size_t i = m->n_heap / 2; i-- > 0;)
        sift_down(m, i);
    m->page_size = m->leg[0].d.h.page_size;
    m->page = malloc(2 * (size_t)m->page_size);
    if (!m->page)
        return err_set(e, ERR_NOMEM, "no memory for two pages");
    m->other = m->page + m->page_size;
    return 0;
}

static int run(struct merge *m, enum ltx_encoding encoding, ltx_write_fn write, void *arg,
               struct merge_output *ret, struct err *e)
{
    const struct ltx_header *last = &m->leg[m->n - 1].d.h;
    struct merge_output o = {.h = {
        .flags = LTX_FLAG_NO_CHECKSUM,
        .page_size = m->page_size,
        .commit = last->commit,
        .min_txid = m->leg[0].d.h.min_txid,
        .max_txid = last->max_txid,
        .timestamp_ms = last->timestamp_ms,
        .node_id = last->node_id,
        .clock_txid = last->clock_txid,
    }};
    int r = ltx_encoder_new(&o.h, encoding, write, arg, &m->enc, e);
    while (r == 0 && m->n_heap) {
        o.pages += m->leg[m->heap[0]].x.pgno <= last->commit;
        r = one_page(m, last, e);
    }
    if (r == 0)
        r = ltx_encoder_finish(m->enc, 0, &o.size, e);
    if (r == 0)
        *ret = o;
    return r;
}

int merge_ltx(const struct merge_input *in, size_t n, enum ltx_encoding encoding, ltx_write_fn write,
              void *arg, struct merge_output *ret, struct err *e)
{
    struct merge m = {.n = n};
    if (!n)
        return err_set(e, ERR_INTERNAL, "nothing to merge");
    int r = open_legs(&m, in, e);
    if (r == 0)
        r = run(&m, encoding, write, arg, ret, e);
    (void)ltx_encoder_free(m.enc);
    free(m.leg);
    free(m.heap);
    free(m.page);
    return r;
}
