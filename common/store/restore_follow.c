/* One poll is one listing of level 0, from the copy's TXID on. What is not found there is looked for in
 * all levels: when a gap shows, at the start, and now and then when nothing comes. */
#include "common/store/restore_follow.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>

#include "common/base/clk.h"
#include "common/store/restore_copy.h"
#include "common/store/restore_int.h"

#define LOOK_ALL_MS 30000u
#define FOREIGN "something else has written to it"

struct follow {
    uv_loop_t *loop;
    struct store *store;
    struct restore_opts opts;
    restore_progress_fn progress;
    void *arg;
    struct copy copy; /* path NULL: not open */
    uint64_t look_all_ms; /* when all levels are listed again */
    const char *anew;     /* it has to be restored anew, and why */
    bool foreign;         /* its state says nothing about what is in it */
};

struct follow *follow_new(uv_loop_t *loop, struct store *s, const struct restore_opts *opts,
                          restore_progress_fn progress, void *arg)
{
    struct follow *f = util_zalloc(sizeof *f);
    *f = (struct follow){loop, s, *opts, progress, arg, {.path = NULL}, 0, NULL, false};
    return f;
}

struct follow *follow_free(struct follow *f)
{
    if (f && f->copy.path)
        copy_close(&f->copy);
    free(f);
    return NULL;
}

/* ---- from nothing, or anew ------------------------------------------------------------------ */

static int no_v3(struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "Litestream v0.3 wrote this replica, which cannot be followed");
}

static struct copy_state state_of(const struct restore_result *r)
{
    return (struct copy_state){.txid = r->txid, .lineage = r->lineage, .checksum = r->checksum,
                               .time_ms = r->timestamp_ms, .page_size = r->page_size,
                               .commit = (uint32_t)(r->database_bytes / r->page_size)};
}

static int prepare(void *arg, int fd, const struct restore_result *r, struct err *e)
{
    const struct follow *f = arg;
    struct copy_state s = state_of(r);
    return r->v3 ? no_v3(e) : copy_prepare(f->opts.output, fd, &s, e);
}

static struct follow_step step_of(const struct follow *f, const struct restore_result *r)
{
    return (struct follow_step){.from = f->copy.path ? f->copy.state.txid : 0, .to = r->txid,
                                .time_ms = r->timestamp_ms, .files = r->n_files, .bytes = r->bytes,
                                .pages = r->database_bytes / r->page_size, .verified = r->verified,
                                .anew = f->anew};
}

static int first(struct follow *f, struct follow_step *ret, struct err *e)
{
    struct restore_opts o = f->opts;
    struct restore_result r;
    o.prepare = prepare;
    o.prepare_arg = f;
    int k = restore_run(f->loop, f->store, &o, f->progress, f->arg, &r, e);
    if (k < 0)
        return k;
    *ret = step_of(f, &r);
    restore_result_done(&r);
    k = copy_open(&f->copy, f->opts.output, e);
    return k > 0 ? err_set(e, ERR_INTERNAL, "%s: the copy is not what was just restored",
                           f->opts.output) : k;
}

/* The whole beside it, then its differences as one step: readers that have the copy open go on with the
 * same file. */
static int again(struct follow *f, struct follow_step *ret, struct err *e)
{
    cleanup_free char *beside = util_printf("%s.new", f->opts.output);
    struct restore_opts o = f->opts;
    struct restore_result r;
    o.output = beside;
    o.force = true;
    int k = restore_run(f->loop, f->store, &o, f->progress, f->arg, &r, e);
    if (k < 0)
        return k;
    *ret = step_of(f, &r);
    struct copy_step s = {.to = state_of(&r)};
    cleanup_close int fd = fsx_open_own(beside, O_RDONLY, e);
    k = r.v3 ? no_v3(e) : MIN(fd, 0);
    s.fd = fd;
    if (!k)
        k = copy_apply(&f->copy, &s, e);
    restore_result_done(&r);
    (void)unlink(beside);
    ret->pages = s.pages;
    f->foreign = f->foreign && k < 0;
    return k;
}

/* ---- a step --------------------------------------------------------------------------------- */

static int temporary(const struct follow *f, struct restore *r, struct err *e)
{
    cleanup_free char *copy = util_strdup(f->opts.output);
    r->tmp.fd = open(dirname(copy), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (r->tmp.fd >= 0)
        return 0;
    cleanup_free char *beside = util_printf("%s.new", f->opts.output);
    (void)unlink(beside); /* whoever made it */
    r->tmp.fd = open(beside, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (r->tmp.fd < 0)
        return err_sys(e, errno, "create %s", beside);
    (void)unlink(beside);
    return 0;
}

/* Which files lead on: 0, 1: none is needed, 2: none is there, 3: the replica ends before. */
static int find(struct follow *f, struct restore *r, struct err *e)
{
    uint64_t have = f->copy.state.txid, now = clk_mono_ms();
    int k = 0;
    if (now < f->look_all_ms) {
        k = restore_list_newer(r, have, e);
        if (!k)
            k = plan_from(r->all, r->n_all, have, &r->plan, &r->n_plan, e);
        if (k < 0 || r->n_plan || !k)
            return k < 0 ? k : !r->n_plan;
    }
    f->look_all_ms = now + LOOK_ALL_MS;
    free(TAKE_PTR(r->plan));
    k = restore_list(r, e);
    if (!k && r->v3)
        return no_v3(e);
    if (k < 0)
        return k;
    uint64_t newest = 0;
    size_t n = 0;
    for (size_t i = 0; i < r->n_all; i++) {
        newest = MAX(newest, r->all[i].max);
        if (r->all[i].min > 1) /* a snapshot leads on as well, but it is the whole database */
            r->all[n++] = r->all[i];
    }
    r->n_all = n;
    k = plan_from(r->all, r->n_all, have, &r->plan, &r->n_plan, e);
    if (k < 0 || r->n_plan)
        return k < 0 ? k : 0;
    return newest > have ? 2 : newest == have ? 1 : 3;
}

struct job {
    struct follow *f;
    struct copy_step s;
};

static int apply(struct restore *r, struct err *e)
{
    struct job *j = r->arg;
    return copy_apply(&j->f->copy, &j->s, e);
}

/* The files changed, and what they make of the copy. */
static int get_and_apply(struct follow *f, struct restore *r, struct follow_step *ret, struct err *e)
{
    r->delta = true;
    r->keep.off = true;
    int k = restore_lay_out(r, e);
    if (!k)
        k = temporary(f, r, e);
    if (!k)
        k = restore_get_pages(r, true, e);
    if (k < 0)
        return k;
    const struct restore_applied *a = &r->job.applied;
    const struct ltx_header *h = &a->newest;
    uint64_t lineage = a->lineage ? a->lineage : f->copy.state.lineage;
    if (lineage != f->copy.state.lineage && f->copy.state.lineage) {
        f->anew = "the replica is of another database now";
        return 1;
    }
    struct job j = {f, {.fd = r->tmp.fd, .have = r->pages.have}};
    j.s.to = (struct copy_state){.txid = h->max_txid, .lineage = lineage, .checksum = a->expected,
                                 .time_ms = h->timestamp_ms, .page_size = h->page_size,
                                 .commit = h->commit};
    *ret = (struct follow_step){.from = f->copy.state.txid, .to = h->max_txid,
                                .time_ms = h->timestamp_ms, .files = r->n_plan, .bytes = r->fetched,
                                .verified = a->expected != 0};
    r->arg = &j;
    k = restore_work(r, apply, e);
    r->arg = NULL;
    ret->pages = j.s.pages;
    if (k > 0) {
        f->foreign = true;
        f->anew = FOREIGN;
    }
    return k;
}

static int next(struct follow *f, struct follow_step *ret, struct err *e)
{
    struct restore r = {.loop = f->loop, .store = f->store, .opts = &f->opts};
    restore_init(&r);
    int k = find(f, &r, e);
    if (k == 2)
        f->anew = "the files that lead on from its TXID are gone";
    if (k == 3)
        f->anew = "the replica was begun anew, it ends before the copy's TXID";
    if (!k) {
        k = get_and_apply(f, &r, ret, e);
        if (k == -(int)ERR_CORRUPT) {
            f->anew = "what is newer does not fit to it";
            err_clear(e);
            k = 1;
        } else if (k < 0 && r.round.vanished) { /* compaction came in between: look again */
            f->look_all_ms = 0;
            err_clear(e);
            k = 1;
        }
    }
    restore_done(&r);
    return k < 0 ? k : k > 0;
}

int follow_step(struct follow *f, struct follow_step *ret, struct err *e)
{
    struct err own = {0};
    int k = 0;
    e = e ? e : &own;
    if (!f->copy.path) {
        k = copy_open(&f->copy, f->opts.output, e);
        if (k == 2)
            return first(f, ret, e);
        if (k < 0)
            return k;
        f->foreign = k == 1;
    }
    f->anew = f->foreign ? FOREIGN : NULL;
    if (!f->anew)
        k = next(f, ret, e);
    return f->anew && k >= 0 ? again(f, ret, e) : k;
}
