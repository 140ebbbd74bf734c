/* In which order files are looked at, and what is to be said of the whole. By names alone: what a look at
 * a file tells comes in as `unusable`. */
#include <inttypes.h>
#include <stdarg.h>

#include "common/store/verify_int.h"

void verify_blame(struct verify_file *f, enum verify_state state, const char *fmt, ...)
{
    f->unusable = true;
    if (f->why)
        return;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&f->why, fmt, ap) < 0)
        f->why = util_strdup("something is wrong with it");
    va_end(ap);
    f->state = state;
}

/* ---- the order ------------------------------------------------------------------------------- */

static void add_step(struct verify *v, size_t i, enum verify_action action)
{
    struct verify_file *f = &v->file[i];
    if (action != VERIFY_ADVANCE && (f->read || f->planned))
        return;
    f->planned = true;
    v->step[v->n_steps++] = (struct verify_step){i, action};
}

/* Files that begin at or before the next TXID and end after the present one. */
struct open_files {
    size_t *at;
    size_t n;
};

static size_t smallest_step(const struct verify *v, struct open_files *o, uint64_t txid)
{
    size_t best = SIZE_MAX, kept = 0;
    for (size_t k = 0; k < o->n; k++) {
        const struct plan_file *f = &v->file[o->at[k]].f;
        if (f->max <= txid)
            continue;
        if (best == SIZE_MAX || f->max < v->file[best].f.max ||
            (f->max == v->file[best].f.max && f->level < v->file[best].f.level))
            best = o->at[k];
        o->at[kept++] = o->at[k];
    }
    o->n = kept;
    return best;
}

/* The files are sorted by first TXID, so those that need nothing before them come first, the shortest in
 * front. Between them lies all that is built on them. */
int verify_order(struct verify *v, struct err *e)
{
    cleanup_free size_t *open_at = malloc((v->n + 1) * sizeof *open_at);
    free(v->step);
    v->step = malloc((2 * v->n + 1) * sizeof *v->step);
    v->n_steps = 0;
    v->stopped = false;
    if (!open_at || !v->step)
        return err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", v->n);
    for (size_t i = 0; i < v->n; i++)
        v->file[i].planned = false;
    struct open_files o = {open_at, 0};
    size_t whole = 0, n_whole = 0, next;
    while (n_whole < v->n && v->file[n_whole].f.min == 1)
        n_whole++;
    next = n_whole;
    for (uint64_t t = v->sums.txid;;) {
        for (; whole < n_whole && v->file[whole].f.max <= t; whole++)
            add_step(v, whole, v->file[whole].f.max == t ? VERIFY_CHECK : VERIFY_READ);
        for (; t && next < v->n && v->file[next].f.min <= t + 1; next++)
            if (v->file[next].f.max > t && !v->file[next].unusable)
                o.at[o.n++] = next;
            else
                add_step(v, next, VERIFY_READ);
        size_t best = smallest_step(v, &o, t);
        for (size_t k = whole; best == SIZE_MAX && k < n_whole; k++)
            if (!v->file[k].unusable)
                best = k;
        if (best == SIZE_MAX)
            break;
        for (size_t k = 0; k < o.n; k++)
            if (o.at[k] != best)
                add_step(v, o.at[k], VERIFY_CHECK);
        add_step(v, best, VERIFY_ADVANCE);
        t = v->file[best].f.max;
    }
    for (size_t i = 0; i < v->n; i++)
        add_step(v, i, VERIFY_READ);
    return 0;
}

/* ---- points and gaps -------------------------------------------------------------------------- */

struct ranges {
    struct verify_range *r;
    size_t n, cap;
};

static void add_range(struct ranges *l, uint64_t first, uint64_t last)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 16;
        l->r = util_realloc(l->r, l->cap * sizeof *l->r);
    }
    l->r[l->n++] = (struct verify_range){first, last};
}

/* Behind the mark of a takeover come no TXIDs until the next whole database. The last one of these;
 * `txid` if there is no such mark, or nothing came yet. */
static uint64_t behind_mark(const struct verify *v, uint64_t txid)
{
    uint64_t next = UINT64_MAX;
    bool marked = false;
    for (size_t i = 0; i < v->n; i++) {
        const struct verify_file *f = &v->file[i];
        marked = marked || (f->mark && f->f.max == txid);
        if ((f->f.min == 1 || f->whole) && f->f.max > txid)
            next = MIN(next, f->f.max);
    }
    return marked && next != UINT64_MAX ? next - 1 : txid;
}

/* What can be reached by files, the unusable ones included or not: single TXIDs, in order, and the gaps
 * that only a snapshot gets across. */
static void reach(const struct verify *v, bool all, struct ranges *points, struct ranges *gaps)
{
    uint64_t have = 0;
    for (size_t i = 0, next; i < v->n; i = next) {
        uint64_t max = v->file[v->by_max[i]].f.max;
        bool snapshot = false, step = false;
        for (next = i; next < v->n && v->file[v->by_max[next]].f.max == max; next++) {
            const struct verify_file *f = &v->file[v->by_max[next]];
            if (f->gone || f->mark || (f->unusable && !all))
                continue;
            snapshot = snapshot || f->f.min == 1;
            step = step || (have && f->f.min <= have + 1);
        }
        if (!snapshot && !step)
            continue;
        if (!step && have && max > have + 1 && gaps && behind_mark(v, have + 1) < max - 1)
            add_range(gaps, have + 1, max - 1);
        have = max;
        add_range(points, max, max);
    }
}

static int by_first(const void *a, const void *b)
{
    const struct verify_range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

static void merge(struct ranges *l)
{
    size_t n = 0;
    if (l->n)
        qsort(l->r, l->n, sizeof *l->r, by_first);
    for (size_t i = 0; i < l->n; i++)
        if (n && l->r[i].first <= l->r[n - 1].last + 1)
            l->r[n - 1].last = MAX(l->r[n - 1].last, l->r[i].last);
        else
            l->r[n++] = l->r[i];
    l->n = n;
}

/* the number of points in a range */
static uint64_t points_in(const struct ranges *points, uint64_t first, uint64_t last)
{
    size_t lo = 0, hi = points->n, n = 0;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (points->r[mid].first < first)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < points->n && points->r[lo].first <= last; lo++)
        n++;
    return n;
}

static bool overlaps(const struct ranges *l, uint64_t first, uint64_t last)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->r[i].first <= last && l->r[i].last >= first)
            return true;
    return false;
}

/* ---- holes ------------------------------------------------------------------------------------ */

struct judge {
    struct verify *v;
    struct verify_result *ret;
    struct ranges named, usable, gaps, holes, lost;
};

static void add_hole(struct judge *j, enum verify_state state, unsigned level, uint64_t first,
                     uint64_t last, const char *why)
{
    struct verify_result *r = j->ret;
    r->object = util_realloc(r->object, (r->n_objects + 1) * sizeof *r->object);
    r->object[r->n_objects++] = (struct verify_object){
        .state = state, .level = level, .min = first, .max = last, .why = util_strdup(why)};
    add_range(&j->holes, first, last);
    if (state == VERIFY_LOST)
        add_range(&j->lost, first, last);
}

static bool is_merged(const struct verify *v, uint64_t txid)
{
    for (size_t i = 0; i < v->n; i++) {
        const struct verify_file *f = &v->file[i];
        if (f->f.level && f->f.level < LTX_SNAPSHOT_LEVEL && !f->gone && f->f.min <= txid && txid <= f->f.max)
            return true;
    }
    return false;
}

/* walsup does not upload to a level what was merged to the next one meanwhile, and leaves in the
 * level below what is not worth merging: whole databases of some size, and single files between
 * them. Litestream has no such holes. */
static bool is_skipped(const struct verify *v, unsigned level, uint64_t first, uint64_t last)
{
    uint64_t have = first - 1;
    for (size_t i = 0; i < v->n && have < last; i++) { /* ascending by min */
        const struct verify_file *f = &v->file[i];
        bool other = f->f.level != level && f->f.level < LTX_SNAPSHOT_LEVEL;
        if (other && f->lineage && !f->gone && f->f.min <= have + 1 && f->f.max > have)
            have = f->mark ? behind_mark(v, f->f.max) : f->f.max;
    }
    return have >= last;
}

/* Retention deletes of level 0 what is old and was merged. What was not stays in front of it: the last files of
 * Litestream's before a take-over, say. */
static bool is_thinned_out(const struct judge *j, uint64_t first, uint64_t last)
{
    return !overlaps(&j->gaps, first, last) && points_in(&j->named, last + 1, UINT64_MAX) &&
           !is_merged(j->v, first - 1);
}

static void hole_in_level(struct judge *j, unsigned level, uint64_t first, uint64_t last)
{
    uint64_t oldest = j->named.n ? j->named.r[0].first : 0;
    /* what lay before the oldest whole database is gone, but for the newest file of each level, and what nobody knew */
    first = MAX(first, oldest + 1);
    if (first > last || behind_mark(j->v, first - 1) >= last)
        return;
    if (level ? is_skipped(j->v, level, first, last) : is_thinned_out(j, first, last))
        return;
    bool passable = !overlaps(&j->gaps, first, last) && points_in(&j->named, last + 1, UINT64_MAX);
    bool held = level ? passable : points_in(&j->named, first, last) == last - first + 1;
    if (level && overlaps(&j->holes, first, last) && !held)
        return; /* said of the level below */
    add_hole(j, held ? VERIFY_MISSING : VERIFY_LOST, level, first, last,
             held       ? "no file of this level has them, but others do: nothing is lost"
             : passable ? "these states cannot be restored one by one, later ones can"
                        : "nothing leads across: these states cannot be restored");
}

/* the next file of the level at or behind i */
static const struct verify_file *next_of_level(const struct verify *v, unsigned level, size_t *i)
{
    for (; *i < v->n; ++*i)
        if (v->file[*i].f.level == level && !v->file[*i].gone)
            return &v->file[(*i)++];
    return NULL;
}

/* The first file of a history is a whole database, at level 0: it serves as a snapshot, which retention keeps
 * when it thins out what follows it. */
static bool is_anchor(const struct verify_file *f, uint64_t have, const struct verify_file *next)
{
    return f->f.level == 0 && f->f.min == 1 && !have && next && next->f.min > f->f.max + 1;
}

static void holes_of_level(struct judge *j, unsigned level)
{
    uint64_t have = 0;
    size_t i = 0;
    for (const struct verify_file *f = next_of_level(j->v, level, &i), *next; f; f = next) {
        next = next_of_level(j->v, level, &i);
        if (have == UINT64_MAX || is_anchor(f, have, next))
            continue;
        if (have && f->f.min > have + 1)
            hole_in_level(j, level, have + 1, f->f.min - 1);
        have = MAX(have, f->f.max);
    }
}

/* Behind the newest object: what the source has beyond it. */
static void holes_at_the_end(struct judge *j, const struct verify_opts *o, uint64_t newest)
{
    if (o->acked > newest)
        add_hole(j, VERIFY_LOST, 0, newest + 1, o->acked,
                 "it was reported as stored and is not there: the newest state is lost");
    uint64_t have = MAX(newest, o->acked);
    if (o->source_txid > have)
        add_hole(j, VERIFY_DELAYED, 0, have + 1, o->source_txid, "not uploaded yet");
}

/* Files lie beyond what can be reached. */
static void find_last_gap(struct judge *j, uint64_t reached, uint64_t newest)
{
    uint64_t next = newest;
    for (size_t i = 0; i < j->v->n; i++)
        if (!j->v->file[i].gone && j->v->file[i].f.max > reached)
            next = MIN(next, j->v->file[i].f.min);
    if (next > reached + 1 && !overlaps(&j->holes, reached + 1, next - 1))
        add_hole(j, VERIFY_LOST, 0, reached + 1, next - 1, "nothing leads across, and to what is behind it");
    add_range(&j->lost, reached + 1, newest);
}

static void find_holes(struct judge *j, const struct verify_opts *o)
{
    const struct verify *v = j->v;
    uint64_t newest = 0, newest_state = 0;
    for (size_t i = 0; i < v->n; i++) {
        newest = v->file[i].gone ? newest : MAX(newest, v->file[i].f.max);
        newest_state = v->file[i].gone || v->file[i].mark ? newest_state : MAX(newest_state, v->file[i].f.max);
    }
    for (unsigned level = 0; level < LTX_SNAPSHOT_LEVEL; level++)
        holes_of_level(j, level);
    for (size_t i = 0; i < j->gaps.n; i++)
        if (!overlaps(&j->holes, j->gaps.r[i].first, j->gaps.r[i].last))
            add_hole(j, VERIFY_LOST, 0, j->gaps.r[i].first, j->gaps.r[i].last,
                     "nothing leads across: these states cannot be restored");
    uint64_t reached = j->named.n ? j->named.r[j->named.n - 1].first : 0;
    if (newest_state > reached) /* a plan never gets there */
        find_last_gap(j, reached, newest_state);
    if (!o->txid)
        holes_at_the_end(j, o, newest);
}

/* Points by name that only unusable files lead to: from the first to the last of a row. */
static void find_lost(struct judge *j)
{
    bool row = false;
    for (size_t i = 0, k = 0; i < j->named.n; i++) {
        uint64_t at = j->named.r[i].first;
        while (k < j->usable.n && j->usable.r[k].first < at)
            k++;
        bool fine = k < j->usable.n && j->usable.r[k].first == at;
        if (!fine && row)
            j->lost.r[j->lost.n - 1].last = at;
        else if (!fine)
            add_range(&j->lost, at, at);
        row = !fine;
    }
    merge(&j->lost);
}

/* ---- the latest state ------------------------------------------------------------------------- */

static const struct verify_file *find(const struct verify *v, const struct plan_file *f)
{
    for (size_t i = 0; i < v->n; i++)
        if (v->file[i].f.level == f->level && v->file[i].f.min == f->min && v->file[i].f.max == f->max)
            return &v->file[i];
    return NULL;
}

/* What restore would do, with every object that it would take. */
static bool latest(const struct verify *v, const struct verify_opts *o, char *why, size_t size)
{
    cleanup_free struct plan_file *all = util_alloc((v->n + 1) * sizeof *all);
    cleanup_free struct plan_file *plan = NULL;
    struct err e = {0};
    size_t n = 0, n_plan = 0;
    for (size_t i = 0; i < v->n; i++)
        if (!v->file[i].gone)
            all[n++] = v->file[i].f;
    if (plan_restore(all, n, o->txid, &plan, &n_plan, &e) < 0) {
        (void)snprintf(why, size, "%s", e.msg);
        return false;
    }
    for (size_t i = n_plan; i--;) { /* a file with all pages ends the way back */
        const struct verify_file *f = find(v, &plan[i]);
        if (f && f->whole && !f->unusable)
            break;
        if (f && f->mark) {
            (void)snprintf(why, size, "it was taken over, and the whole database that follows is not there yet");
            return false;
        }
        if (f && f->unusable) {
            (void)snprintf(why, size, "it needs %s, which is %s", f->name, verify_state_name(f->state));
            return false;
        }
    }
    return true;
}

static void judge_latest(const struct verify *v, const struct verify_opts *o)
{
    struct verify_result *r = v->result;
    r->latest_restores = latest(v, o, r->latest_why, sizeof r->latest_why);
    if (r->latest_restores && r->map == VERIFY_MAP_DIFFERS) {
        r->latest_restores = false;
        (void)snprintf(r->latest_why, sizeof r->latest_why, "it is not what the source has");
    }
    for (size_t i = 0; i < r->n_objects && r->latest_restores; i++)
        if (r->object[i].state == VERIFY_LOST && r->object[i].max == o->acked && !o->txid) {
            r->latest_restores = false;
            (void)snprintf(r->latest_why, sizeof r->latest_why,
                           "TXID %016" PRIx64 " was reported as stored and is not there", o->acked);
        }
}

/* ---- the whole -------------------------------------------------------------------------------- */

static int by_level(const void *a, const void *b)
{
    const struct verify_object *x = a, *y = b;
    if (x->level != y->level)
        return x->level < y->level ? -1 : 1;
    if (x->min != y->min)
        return x->min < y->min ? -1 : 1;
    return (x->max > y->max) - (x->max < y->max);
}

static void add_objects(const struct verify *v, struct verify_result *r)
{
    r->object = util_realloc(r->object, (r->n_objects + v->n + 1) * sizeof *r->object);
    for (size_t i = 0; i < v->n; i++) {
        struct verify_file *f = &v->file[i];
        if (f->gone)
            continue;
        struct verify_object *o = &r->object[r->n_objects++];
        *o = (struct verify_object){.state = f->state, .level = f->f.level, .min = f->f.min, .max = f->f.max,
                                    .size = f->f.size, .time_ms = f->time_ms};
        o->name = TAKE_PTR(f->name);
        o->why = TAKE_PTR(f->why);
    }
}

void verify_judge(struct verify *v, const struct verify_opts *opts)
{
    struct verify_result *r = v->result;
    struct judge j = {.v = v, .ret = r};
    reach(v, true, &j.named, &j.gaps);
    reach(v, false, &j.usable, NULL);
    find_holes(&j, opts);
    find_lost(&j);
    r->n_points = j.usable.n;
    if (r->n_points) {
        r->oldest = j.usable.r[0].first;
        r->newest = j.usable.r[r->n_points - 1].first;
    }
    r->lost = TAKE_PTR(j.lost.r);
    r->n_lost = j.lost.n;
    judge_latest(v, opts);
    add_objects(v, r);
    qsort(r->object, r->n_objects, sizeof *r->object, by_level);
    for (size_t i = 0; i < r->n_objects; i++)
        r->count[r->object[i].state]++;
    free(j.named.r);
    free(j.usable.r);
    free(j.gaps.r);
    free(j.holes.r);
}
