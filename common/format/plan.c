#include "common/format/plan.h"

#include "common/format/ltx.h"

static int by_min(const void *a, const void *b)
{
    const struct plan_file *x = a, *y = b;
    return (x->min > y->min) - (x->min < y->min);
}

/* Whether f is the better next step: it reaches further, or starts earlier, or is a compaction of
 * what the other holds. */
static bool better(const struct plan_file *f, const struct plan_file *than)
{
    if (!than || f->max != than->max)
        return !than || f->max > than->max;
    if (f->min != than->min)
        return f->min < than->min;
    return f->level > than->level;
}

static int no_snapshot(const struct plan_file *file, size_t n, uint64_t txid, struct err *e)
{
    uint64_t oldest = 0, first = UINT64_MAX;
    for (size_t i = 0; i < n; i++) {
        first = MIN(first, file[i].min);
        if (file[i].min == 1 && (!oldest || file[i].max < oldest))
            oldest = file[i].max;
    }
    if (oldest) {
        err_set(e, ERR_CORRUPT,
                "no snapshot reaches back to TXID %016llx, the oldest one is of TXID %016llx",
                (unsigned long long)txid, (unsigned long long)oldest);
        return err_hint(e, "restore TXID %016llx or a later one", (unsigned long long)oldest);
    }
    return err_set(e, ERR_CORRUPT,
                   "the replica has no snapshot: its files start at TXID %016llx",
                   (unsigned long long)first);
}

static int no_boundary(uint64_t txid, uint64_t have, uint64_t after, struct err *e)
{
    char next[80] = "";
    if (after)
        (void)snprintf(next, sizeof next, ", and a file that starts later ends at %016llx",
                       (unsigned long long)after);
    err_set(e, ERR_CORRUPT,
            "no files of the replica lead to exactly TXID %016llx: the nearest before it is "
            "%016llx%s",
            (unsigned long long)txid, (unsigned long long)have, next);
    return err_hint(e, "restore TXID %016llx instead, or the latest state",
                    (unsigned long long)have);
}

/* Follow the chain over files sorted by min; chosen ones go to out (room for n). */
static size_t follow(const struct plan_file *sorted, size_t n, uint64_t have, uint64_t txid,
                     struct plan_file *out)
{
    const struct plan_file *best = NULL;
    size_t n_out = 0, i = 0;
    for (;;) {
        for (; i < n && sorted[i].min <= have + 1; i++)
            if ((!txid || sorted[i].max <= txid) && better(&sorted[i], best))
                best = &sorted[i];
        if (!best || best->max <= have)
            return n_out;
        out[n_out++] = *best;
        have = best->max;
        if (have == UINT64_MAX)
            return n_out;
    }
}

/* Whether the chain is what was asked for. */
static int judge(const struct plan_file *sorted, size_t n, uint64_t txid, uint64_t have,
                 struct err *e)
{
    if (have == txid && txid)
        return 0;
    uint64_t newest = 0, after = 0, gap_end = 0;
    for (size_t i = 0; i < n; i++) {
        newest = MAX(newest, sorted[i].max);
        if (txid && sorted[i].max > txid && (!after || sorted[i].max < after))
            after = sorted[i].max;
        /* ends after the chain but was not taken, so (latest) it starts beyond a hole */
        if (sorted[i].max > have && (!gap_end || sorted[i].min < gap_end))
            gap_end = sorted[i].min;
    }
    if (txid)
        return no_boundary(txid, have, after, e);
    if (newest == have)
        return 0;
    err_set(e, ERR_CORRUPT,
            "TXIDs %016llx to %016llx are missing from the replica, which has newer files up to "
            "%016llx",
            (unsigned long long)have + 1, (unsigned long long)gap_end - 1,
            (unsigned long long)newest);
    return err_hint(e, "restore TXID %016llx to get the newest state before the gap",
                    (unsigned long long)have);
}

/* The files that are well-formed, sorted. */
static int sort_files(const struct plan_file *file, size_t n,
                      int (*order)(const void *, const void *), struct plan_file **ret,
                      size_t *ret_n, struct err *e)
{
    cleanup_free struct plan_file *sorted = malloc((n ? n : 1) * sizeof *sorted);
    if (!sorted)
        return err_set(e, ERR_NOMEM, "no memory for a plan over %zu files", n);
    size_t m = 0;
    for (size_t i = 0; i < n; i++)
        if (file[i].level <= LTX_SNAPSHOT_LEVEL && file[i].min && file[i].min <= file[i].max)
            sorted[m++] = file[i];
    if (!m)
        return err_set(e, ERR_NOTFOUND, "the replica is empty");
    qsort(sorted, m, sizeof *sorted, order);
    *ret = TAKE_PTR(sorted);
    *ret_n = m;
    return 0;
}

int plan_restore(const struct plan_file *file, size_t n, uint64_t txid, struct plan_file **ret,
                 size_t *ret_n, struct err *e)
{
    cleanup_free struct plan_file *sorted = NULL;
    size_t m = 0;
    int r = sort_files(file, n, by_min, &sorted, &m, e);
    if (r < 0)
        return r;
    cleanup_free struct plan_file *out = malloc((m ? m : 1) * sizeof *out);
    if (!out)
        return err_set(e, ERR_NOMEM, "no memory for a plan over %zu files", n);
    size_t n_out = follow(sorted, m, 0, txid, out);
    if (!n_out)
        return no_snapshot(sorted, m, txid, e);
    r = judge(sorted, m, txid, out[n_out - 1].max, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(out);
    *ret_n = n_out;
    return 0;
}

int plan_from(const struct plan_file *file, size_t n, uint64_t have, struct plan_file **ret,
              size_t *ret_n, struct err *e)
{
    cleanup_free struct plan_file *sorted = NULL;
    size_t m = 0;
    uint64_t newest = 0;
    *ret = NULL;
    *ret_n = 0;
    if (!n)
        return 0;
    int r = sort_files(file, n, by_min, &sorted, &m, e);
    if (r < 0)
        return r;
    struct plan_file *out = malloc(m * sizeof *out);
    if (!out)
        return err_set(e, ERR_NOMEM, "no memory for a plan over %zu files", n);
    *ret_n = follow(sorted, m, have, 0, out);
    *ret = out;
    for (size_t i = 0; i < m; i++)
        newest = MAX(newest, sorted[i].max);
    return newest > have && !*ret_n;
}

static int by_max(const void *a, const void *b)
{
    const struct plan_file *x = a, *y = b;
    if (x->max != y->max)
        return x->max < y->max ? -1 : 1;
    return (x->level > y->level) - (x->level < y->level);
}

/* The first of the n points, in order, that reaches txid. */
static size_t first_from(const struct plan_file *point, size_t n, uint64_t txid)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (point[mid].max < txid)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* What it takes to get to the end of f, when the n points before it are known. */
static uint64_t way_to(const struct plan_file *point, size_t n, const struct plan_file *f)
{
    if (f->min == 1)
        return f->size;
    size_t from = first_from(point, n, f->min - 1);
    return from < n ? point[from].way + f->size : UINT64_MAX;
}

int plan_points(const struct plan_file *file, size_t n, struct plan_file **ret, size_t *ret_n,
                uint64_t *ret_newest, struct err *e)
{
    cleanup_free struct plan_file *f = NULL;
    size_t m = 0, n_out = 0;
    uint64_t have = 0; /* as far as files that end before it reach */
    int r = sort_files(file, n, by_max, &f, &m, e);
    if (r < 0)
        return r;
    uint64_t newest = f[m - 1].max;
    for (size_t i = 0, next; i < m; i = next) {
        const struct plan_file *step = NULL; /* as a plan takes it */
        for (next = i; next < m && f[next].max == f[i].max; next++)
            if (f[next].min <= have + 1 && better(&f[next], step))
                step = &f[next];
        if (!step)
            continue;
        have = f[i].max;
        uint64_t way = way_to(f, n_out, step);
        f[n_out] = f[i];
        f[n_out++].way = way;
    }
    if (!n_out)
        return no_snapshot(f, m, 0, e);
    *ret = TAKE_PTR(f);
    *ret_n = n_out;
    if (ret_newest)
        *ret_newest = newest;
    return 0;
}
