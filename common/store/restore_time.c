/* Moments: which TXID is that of a time, and what a replica can be restored to.
 *
 * The time of a commit is in the header of its LTX file, the first 100 bytes. TXIDs and times grow
 * together, so a time is found by bisection. Where a clock was set back they do not; each header
 * says since which TXID they do (clock_txid). So the points fall into runs, which are looked
 * through from the newest to the oldest: what is found is the newest point whose own time is not
 * after the moment asked for. */
#include "common/store/restore_int.h"

struct probe {
    const struct plan_file *file;
    int64_t time_ms;
    uint64_t clock_txid;
    uint8_t head[LTX_HEADER_SIZE];
};

struct probes {
    struct probe *p;
    size_t n;
};

static int on_head(void *arg, const void *p, size_t n, struct err *e)
{
    struct restore_slot *s = arg;
    const struct restore *r = s->round->data;
    struct probe *x = &r->probes->p[s->job];
    if (n > LTX_HEADER_SIZE - s->got)
        return err_set(e, ERR_CORRUPT, "%s: more bytes than asked for", s->key);
    memcpy(x->head + s->got, p, n);
    s->got += n;
    return 0;
}

static void on_probed(struct store_req *req)
{
    struct restore_slot *s = req->data;
    const struct restore *r = s->round->data;
    struct probe *x = &r->probes->p[s->job];
    struct ltx_header h;
    if (req->err.code == ERR_OK && ltx_header_decode(x->head, &h, &req->err) < 0)
        (void)err_wrap(&req->err, "%s", s->key);
    else if (req->err.code == ERR_OK && (h.min_txid != x->file->min || h.max_txid != x->file->max))
        (void)err_set(&req->err, ERR_CORRUPT, "%s: its header says TXIDs %016llx to %016llx", s->key,
                      (unsigned long long)h.min_txid, (unsigned long long)h.max_txid);
    else if (req->err.code == ERR_OK)
        x->time_ms = h.timestamp_ms, x->clock_txid = h.clock_txid;
    restore_slot_end(req);
}

static void submit_probe(struct restore_slot *s)
{
    struct restore *r = s->round->data;
    const struct plan_file *f = r->probes->p[s->job].file;
    s->got = 0;
    restore_slot_begin(
        s, layout_key(store_type(r->store), r->opts->replica, f->level, f->min, f->max), on_probed);
    store_get(r->store, &s->req, s->key, 0, LTX_HEADER_SIZE, on_head, s, &s->info);
}

static int probe(struct restore *r, struct probe *p, size_t n, struct err *e)
{
    struct probes all = {p, n};
    r->probes = &all;
    int k = restore_round_run(&r->round, n, submit_probe, e);
    r->probes = NULL;
    return k;
}

/* ---- the TXID of a time --------------------------------------------------------------------- */

static struct restore_point point_of(const struct plan_file *f, int64_t time_ms, bool exact)
{
    return (struct restore_point){.txid = f->max, .level = f->level, .size = f->size, .way = f->way,
                                  .time_ms = time_ms, .exact = exact};
}

static int too_early(const struct restore *r, const struct probe *first, struct err *e)
{
    char asked[40], oldest[40];
    err_set(e, ERR_NOTFOUND,
            "the replica does not reach back to %s: its oldest point is TXID %016llx of %s",
            util_rfc3339(asked, r->opts->until_ms), (unsigned long long)first->file->max,
            util_rfc3339(oldest, first->time_ms));
    return err_hint(e, "the nearest is --txid %016llx; walsupctl points lists them",
                    (unsigned long long)first->file->max);
}

/* After the last point. If files lie beyond a gap, that state is not the one of that time. */
static int latest(struct restore *r, struct err *e)
{
    struct plan_file *plan = NULL;
    size_t n;
    int k = plan_restore(r->all, r->n_all, 0, &plan, &n, e);
    free(plan);
    return k;
}

/* Within the points from lo to hi, whose times grow. lo is not after the moment, hi is. */
static int bisect(struct restore *r, struct probe *lo, struct probe *hi, struct err *e)
{
    while (hi->file - lo->file > 1) {
        struct probe mid = {.file = lo->file + (hi->file - lo->file) / 2};
        int k = probe(r, &mid, 1, e);
        if (k < 0)
            return k;
        if (mid.time_ms <= r->opts->until_ms)
            *lo = mid;
        else
            *hi = mid;
    }
    return 0;
}

/* The first of the points that is in the same run as the last of them. */
static const struct plan_file *run_of(const struct plan_file *point, const struct probe *last)
{
    const struct plan_file *first = last->file;
    while (first > point && first[-1].max >= last->clock_txid)
        first--;
    return first;
}

/* A time that the clock passed twice: say where it was set back. `first` begins the run of what was found. */
static int look_back(struct restore *r, const struct plan_file *point, const struct plan_file *first, struct err *e)
{
    struct probe at[2] = {{.file = first}, {.file = first - 1}};
    if (first == point)
        return 0;
    int k = probe(r, at, 2, e);
    if (k == 0 && at[1].time_ms > r->opts->until_ms) {
        r->set_back = point_of(first, at[0].time_ms, true);
        r->set_back_from_ms = at[1].time_ms;
    }
    return k;
}

int restore_find_time(struct restore *r, uint64_t *ret_txid, struct err *e)
{
    cleanup_free struct plan_file *point = NULL;
    size_t n;
    int64_t until = r->opts->until_ms;
    restore_phase(r, "find", 0);
    int k = plan_points(r->all, r->n_all, &point, &n, NULL, e);
    if (k < 0)
        return k;
    struct probe end[2] = {{.file = &point[0]}, {.file = &point[n - 1]}};
    k = probe(r, end, 2, e);
    if (k < 0)
        return k;
    struct probe lo = end[0], hi = end[1];
    const struct plan_file *first = run_of(point, &hi);
    bool found = hi.time_ms <= until;
    if (found) {
        k = latest(r, e);
        lo = hi;
    }
    while (k == 0 && !found) {
        lo = first == point ? end[0] : (struct probe){.file = first};
        k = first == point ? 0 : probe(r, &lo, 1, e);
        if (k == 0 && lo.time_ms <= until) {
            k = bisect(r, &lo, &hi, e);
            r->next = point_of(hi.file, hi.time_ms, true);
            found = true;
            continue;
        }
        if (k == 0 && first == point)
            return too_early(r, &end[0], e);
        if (k == 0) { /* the run before it */
            r->next = point_of(first, lo.time_ms, true);
            hi = (struct probe){.file = first - 1};
            k = probe(r, &hi, 1, e);
            first = run_of(point, &hi);
            found = hi.time_ms <= until;
            lo = hi;
        }
    }
    if (k == 0)
        k = look_back(r, point, first, e);
    if (k < 0)
        return k;
    r->found = point_of(lo.file, lo.time_ms, true);
    *ret_txid = lo.file->max;
    return 0;
}

/* ---- points --------------------------------------------------------------------------------- */

static int ltx_points(struct restore *r, size_t limit, struct restore_points *ret, struct err *e)
{
    cleanup_free struct plan_file *f = NULL;
    cleanup_free struct probe *p = NULL;
    size_t n;
    int k = plan_points(r->all, r->n_all, &f, &n, &ret->newest_txid, e);
    if (k < 0)
        return k;
    ret->total = n;
    ret->n = limit && limit < n ? limit : n;
    for (size_t i = 0; i < n; i++)
        ret->at_level[f[i].level]++;
    p = calloc(ret->n + 1, sizeof *p);
    ret->point = calloc(ret->n + 1, sizeof *ret->point);
    if (!p || !ret->point)
        return err_set(e, ERR_NOMEM, "no memory for %zu points", ret->n);
    for (size_t i = 0; i < ret->n; i++)
        p[i].file = &f[n - ret->n + i];
    p[ret->n].file = &f[0];
    k = probe(r, p, ret->n + (ret->n < n), e);
    if (k < 0)
        return k;
    for (size_t i = 0; i < ret->n; i++) {
        ret->point[i] = point_of(p[i].file, p[i].time_ms, true);
        ret->point[i].set_back = i && p[i].time_ms < p[i - 1].time_ms;
    }
    ret->oldest = ret->n < n ? point_of(&f[0], p[ret->n].time_ms, true) : ret->point[0];
    return 0;
}

static struct restore_point v3_point(const struct v3_file *f)
{
    struct restore_point p = {.level = f->snapshot ? LTX_SNAPSHOT_LEVEL : 0, .size = f->size,
                              .time_ms = f->mtime_ms, .index = f->index, .off = f->off};
    memcpy(p.generation, f->generation, sizeof p.generation);
    return p;
}

static int v3_points_of(struct restore *r, size_t limit, struct restore_points *ret, struct err *e)
{
    cleanup_free struct v3_file *f = NULL;
    size_t n;
    int k = v3_points(r->v3_all, r->n_v3, r->opts->generation ? r->opts->generation : "", &f, &n, e);
    if (k < 0)
        return k;
    ret->v3 = true;
    ret->total = n;
    ret->n = limit && limit < n ? limit : n;
    ret->point = calloc(ret->n + 1, sizeof *ret->point);
    if (!ret->point)
        return err_set(e, ERR_NOMEM, "no memory for %zu points", ret->n);
    for (size_t i = 0; i < n; i++)
        ret->at_level[f[i].snapshot ? LTX_SNAPSHOT_LEVEL : 0]++;
    for (size_t i = 0; i < ret->n; i++)
        ret->point[i] = v3_point(&f[n - ret->n + i]);
    ret->oldest = v3_point(&f[0]);
    return 0;
}

static int look(struct restore *r, size_t limit, struct restore_points *ret, struct err *e)
{
    int k = restore_list(r, e);
    if (!k)
        k = r->v3 ? v3_points_of(r, limit, ret, e) : ltx_points(r, limit, ret, e);
    if (k < 0)
        restore_points_done(ret);
    return k;
}

int restore_points(uv_loop_t *loop, struct store *s, const struct restore_opts *opts, size_t limit,
                   struct restore_points *ret, struct err *e)
{
    struct restore r = {.loop = loop, .store = s, .opts = opts};
    struct restore_points p = {.v3 = false};
    restore_init(&r);
    int k = look(&r, limit, &p, e);
    if (k < 0 && r.round.vanished) /* compaction or retention came in between */
        k = look(&r, limit, &p, e);
    restore_done(&r);
    if (k < 0)
        return k;
    *ret = p;
    return 0;
}

void restore_points_done(struct restore_points *p)
{
    free(p->point);
    *p = (struct restore_points){.v3 = false};
}
