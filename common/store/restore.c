/* The whole of a restore: list and plan (restore_list.c); get the pages (restore_local.c for files of
 * this machine, restore_fetch.c for a store); check and publish (restore_publish.c). What of it blocks
 * runs on a worker. Litestream v0.3 is fetched into one spool file first (restore_v3.c). */
#include "common/store/restore_int.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>


#define RESTORE_MAGIC 0x5701e0a1u
#define TICK_MS 250
/* a byte of LZ4 is at most 255 of a page: a header that promises more is not believed */
#define LZ4_MOST 255u
/* A request to a store costs as much as some 100 KiB of answer, one to a disk next to nothing. */
#define FAR_WHOLE (1u << 20)
#define FAR_PIECE (2u << 20)
#define FAR_GAP (64u << 10)
#define LOCAL_WHOLE (256u << 10)
#define LOCAL_PIECE (512u << 10)
#define LOCAL_GAP (16u << 10)

static void report(struct restore *r)
{
    /* read one by one while the worker may be changing them: only the display could be wrong */
    const char *phase = atomic_load(&r->job.phase);
    uint64_t done = atomic_load(&r->job.done), total = atomic_load(&r->job.total);
    if (r->progress)
        r->progress(r->arg, phase, total ? MIN(done, total) : done, total);
}

void restore_phase(struct restore *r, const char *name, uint64_t total)
{
    atomic_store(&r->job.total, 0);
    atomic_store(&r->job.done, 0);
    atomic_store(&r->job.phase, name);
    atomic_store(&r->job.total, total);
    report(r);
}

/* ---- the plan ------------------------------------------------------------------------------- */

/* the objects of the plan, by name */
static struct restore_input input_of(const struct restore *r, size_t i)
{
    const char *replica = r->opts->replica;
    struct restore_input in = {.name = NULL};
    if (r->v3) {
        const struct v3_file *f = &r->v3_plan[i];
        cleanup_free char *name = v3_name(f);
        in.name = util_printf("%s%s" V3_DIR "%s", replica, *replica ? "/" : "", name);
        in.size = f->size;
    } else {
        const struct plan_file *f = &r->plan[i];
        in.name = layout_key(store_type(r->store), replica, f->level, f->min, f->max);
        in.size = f->size;
        in.min = f->min;
        in.max = f->max;
    }
    return in;
}

int restore_lay_out(struct restore *r, struct err *e)
{
    uint64_t off = 0, bytes = 0, align = restore_align();
    r->in = calloc(r->n_plan, sizeof *r->in);
    if (!r->in)
        return err_set(e, ERR_NOMEM, "no memory for a plan of %zu files", r->n_plan);
    for (size_t i = 0; i < r->n_plan; i++) {
        r->in[i] = input_of(r, i);
        r->in[i].off = off;
        uint64_t size = r->in[i].size;
        if (size > INT64_MAX / 2 - off)
            return err_set(e, ERR_CORRUPT, "%s: listed with %llu bytes", r->in[i].name,
                           (unsigned long long)size);
        if (!size) /* nothing could be asked for; whether one that is too short matters is seen later */
            return err_set(e, ERR_CORRUPT, "%s is empty", r->in[i].name);
        off += (size + align - 1) / align * align;
        bytes += size;
    }
    r->planned = bytes;
    restore_phase(r, "fetch", bytes);
    return 0;
}

void restore_forget(struct restore *r)
{
    for (size_t i = 0; r->in && i < r->n_plan; i++)
        free(r->in[i].name);
    free(r->in);
    free(r->plan);
    free(r->v3_plan);
    if (r->spool >= 0)
        (void)close(r->spool);
    r->in = NULL;
    r->plan = NULL;
    r->v3_plan = NULL;
    r->n_plan = 0;
    r->spool = -1;
}

static void on_work(uv_work_t *w)
{
    struct restore *r = w->data;
    if (r->magic != RESTORE_MAGIC)
        abort();
    r->work_result = r->fn(r, &r->work_err);
}

static void on_worked(uv_work_t *w, int status)
{
    struct restore *r = w->data;
    if (status < 0)
        r->work_result = err_set(&r->work_err, ERR_INTERNAL, "worker: %s", uv_strerror(status));
    r->working = false;
}

/* ---- the pages ------------------------------------------------------------------------------ */

static int on_open(void *arg, struct restore_input *in, int *ret_fd, struct err *e)
{
    struct restore *r = arg;
    struct store_info info = {0};
    int k = store_open_local(r->store, in->name, ret_fd, &info, e);
    r->round.vanished = r->round.vanished || k == -(int)ERR_NOTFOUND;
    if (k < 0)
        return k;
    if (info.size != in->size) {
        (void)close(*ret_fd);
        *ret_fd = -1;
        return err_set(e, ERR_CORRUPT, "%s: %llu bytes of the %llu that were listed", in->name,
                       (unsigned long long)info.size, (unsigned long long)in->size);
    }
    in->checksum = info.meta.checksum;
    in->lineage = info.meta.lineage;
    return 0;
}

static void on_piece(void *arg)
{
    struct restore *r = arg;
    keep_save(&r->keep, &r->tmp, &r->pages, false);
}

/* The newest file says how large the database will be. */
static int on_started(void *arg, struct pages *p, struct err *e)
{
    struct restore *r = arg;
    uint64_t bytes = (uint64_t)p->newest.commit * p->newest.page_size;
    if (r->delta)
        return 0;
    if (!p->kept.map && ftruncate(p->out, 0) < 0) /* of an earlier attempt, or a failed one */
        return err_sys(e, errno, "%s: empty it", r->tmp.tmp);
    if (bytes / LZ4_MOST > r->planned)
        return 0; /* not to be believed: found and said later */
    struct stat st;
    r->need = (struct restore_need){.database = bytes};
    if (fstat(p->out, &st) == 0)
        r->need.there = (uint64_t)st.st_blocks * 512;
    return restore_room(r->opts->output, &r->need, e);
}

static void begin_pages(struct restore *r, bool all_whole)
{
    bool local = store_is_local(r->store);
    uint64_t own = r->opts->range_bytes;
    r->pages = (struct pages){
        .in = r->in, .left = r->n_plan, .out = r->tmp.fd, .all_whole = all_whole,
        .whole_bytes = own ? own : local ? LOCAL_WHOLE : FAR_WHOLE,
        .piece_bytes = own ? own : local ? LOCAL_PIECE : FAR_PIECE,
        .gap_bytes = local ? LOCAL_GAP : FAR_GAP,
        .delta = r->delta, .kept = r->kept, .started = on_started, .arg = r,
        .done = &r->job.done, .total = &r->job.total};
    r->kept = (struct pages_kept){.map = NULL};
}

int restore_work(struct restore *r, int (*fn)(struct restore *r, struct err *e), struct err *e)
{
    r->fn = fn;
    r->work.data = r;
    r->working = true;
    r->work_err = (struct err){0};
    int k = uv_queue_work(r->loop, &r->work, on_work, on_worked);
    if (k < 0)
        return err_set(e, ERR_INTERNAL, "start a worker: %s", uv_strerror(k));
    while (r->working)
        (void)uv_run(r->loop, UV_RUN_ONCE);
    if (r->work_result < 0 && e)
        *e = r->work_err;
    return r->work_result;
}

static int local_pages(struct restore *r, struct err *e)
{
    struct local_job job = {.open = on_open, .after = on_piece, .arg = r};
    return restore_local(&r->pages, &job, 0, e);
}

int restore_get_pages(struct restore *r, bool all_whole, struct err *e)
{
    struct fetch_job job = {.after = on_piece, .arg = r};
    r->round.vanished = false;
    begin_pages(r, all_whole);
    int k = store_is_local(r->store) ? restore_work(r, local_pages, e)
                                     : restore_fetch(&r->pages, &r->round, &job, e);
    r->job.applied = r->pages.applied;
    r->fetched = atomic_load(&r->job.done);
    return k;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static int open_output(struct restore *r, struct err *e)
{
    if (r->tmp.fd >= 0)
        return 0;
    r->keep = (struct keep){.output = r->opts->output, .location = r->location,
                            .off = r->opts->no_resume || r->v3};
    bool kept = keep_open(&r->keep, &r->tmp, &r->kept);
    (void)restore_sweep(r->opts->output);
    (void)restore_sweep(r->keep.path);
    return kept ? 0 : restore_tmp_open(r->opts->output, &r->tmp, e);
}

/* What was written stays right when the plan is made anew. */
static void take_over(struct restore *r)
{
    struct pages *p = &r->pages;
    if (p->written && p->expected && !r->delta) {
        size_t n = (size_t)p->newest.commit / 8 + 1;
        size_t kept = p->kept.map && p->kept_is_good ? MIN(n, (size_t)p->kept.commit / 8 + 1) : 0;
        for (size_t i = 0; i < kept; i++)
            p->written[i] |= p->kept.map[i];
        r->kept.map = TAKE_PTR(p->written);
        r->kept.commit = p->newest.commit;
        r->kept.page_size = p->newest.page_size;
        r->kept.txid = p->newest.max_txid;
    }
    pages_done(p);
}

static int v3_pages(struct restore *r, struct err *e)
{
    return restore_v3_apply(&r->job, r->tmp.fd, e);
}

static int get_v3(struct restore *r, struct err *e)
{
    int k = restore_v3_fetch(r, e);
    r->job.v3 = r->v3_plan;
    r->job.in = r->in;
    r->job.n_in = r->n_plan;
    r->job.spool = r->spool;
    r->fetched = r->planned;
    restore_phase(r, "apply", r->planned);
    return k < 0 ? k : restore_work(r, v3_pages, e);
}

/* Files of which only a part was read do not say which of them is wrong; an earlier attempt's pages
 * are nobody's promise. */
static int get_ltx(struct restore *r, struct err *e)
{
    bool whole = false;
    for (;;) {
        int k = restore_get_pages(r, whole, e);
        bool used_kept = r->pages.kept.map != NULL, in_part = r->pages.in_part;
        if (k != -(int)ERR_CORRUPT || whole || !(used_kept || in_part))
            return k;
        pages_done(&r->pages);
        whole = !used_kept;
        err_clear(e);
        restore_phase(r, whole ? "fetch again" : "fetch", r->planned);
    }
}

static int plan_and_get(struct restore *r, struct err *e)
{
    for (bool again = false;; again = true) {
        int k = restore_list(r, e);
        if (!k)
            k = restore_plan(r, e);
        if (!k && r->opts->dry_run)
            return 0;
        if (!k)
            k = restore_lay_out(r, e);
        if (!k)
            k = open_output(r, e);
        if (!k)
            k = r->v3 ? get_v3(r, e) : get_ltx(r, e);
        /* compaction or retention may have removed a file since it was listed */
        if (k == 0 || !r->round.vanished || again)
            return k;
        take_over(r);
        restore_forget(r);
    }
}

static void on_tick(uv_timer_t *t)
{
    struct restore *r = t->data;
    if (r->magic != RESTORE_MAGIC)
        abort();
    report(r);
}

static void on_tick_closed(uv_handle_t *h)
{
    struct restore *r = h->data;
    r->ticking = false;
}

void restore_init(struct restore *r)
{
    r->magic = RESTORE_MAGIC;
    r->spool = -1;
    r->tmp = (struct fsx_tmp)FSX_TMP_INIT;
    r->location = util_printf("%s %s", store_describe(r->store), r->opts->replica);
    restore_round_init(&r->round, r->loop, r->store, r->opts->parallel, r);
    (void)uv_timer_init(r->loop, &r->tick);
    r->tick.data = r;
    r->ticking = true;
    (void)uv_timer_start(&r->tick, on_tick, TICK_MS, TICK_MS);
}

void restore_done(struct restore *r)
{
    uv_close((uv_handle_t *)&r->tick, on_tick_closed);
    restore_round_done(&r->round);
    while (r->ticking)
        (void)uv_run(r->loop, UV_RUN_ONCE);
    restore_forget(r);
    pages_done(&r->pages);
    fsx_tmp_abort(&r->tmp);
    keep_done(&r->keep);
    free(r->kept.map);
    free(r->location);
    free(r->after);
    for (size_t i = 0; i < RESTORE_LEVELS; i++)
        free(r->level[i].file);
    free(r->all);
    free(r->v3_all);
    r->magic = 0;
}

static struct restore_file file_of_plan(const struct restore *r, size_t i)
{
    if (r->v3) {
        const struct v3_file *f = &r->v3_plan[i];
        return (struct restore_file){f->snapshot ? LTX_SNAPSHOT_LEVEL : 0, f->index, f->off, f->size,
                                     f->mtime_ms};
    }
    const struct plan_file *f = &r->plan[i];
    return (struct restore_file){f->level, f->min, f->max, f->size, f->mtime_ms};
}

static void fill_result(const struct restore *r, struct restore_result *ret)
{
    const struct restore_applied *a = &r->job.applied; /* all zero in a dry run */
    const struct ltx_header *h = &a->newest;
    *ret = (struct restore_result){
        .v3 = r->v3,
        .txid = r->v3 ? 0 : r->plan[r->n_plan - 1].max,
        .timestamp_ms = r->v3            ? r->v3_plan[r->n_plan - 1].mtime_ms
                        : r->found.txid  ? r->found.time_ms
                                         : h->timestamp_ms,
        .next_txid = r->next.txid,
        .next_ms = r->next.time_ms,
        .set_back_txid = r->set_back.txid,
        .set_back_from_ms = r->set_back_from_ms,
        .set_back_to_ms = r->set_back.time_ms,
        .dropped_bytes = a->dropped_bytes,
        .database_bytes = (uint64_t)h->commit * h->page_size,
        .page_size = h->page_size,
        .lineage = a->lineage,
        .checksum = a->checksum,
        .verified = a->expected != 0,
        .note = r->job.note,
        .file = util_alloc(r->n_plan * sizeof *ret->file),
        .n_files = r->n_plan,
    };
    if (r->v3)
        memcpy(ret->generation, r->v3_plan[0].generation, sizeof ret->generation);
    for (size_t i = 0; i < r->n_plan; i++) {
        ret->file[i] = file_of_plan(r, i);
        ret->planned_bytes += ret->file[i].size;
    }
    ret->bytes = r->opts->dry_run ? ret->planned_bytes : r->fetched;
    ret->kept_bytes = a->kept_pages * h->page_size;
    memcpy(ret->not_resumed, r->keep.why, sizeof ret->not_resumed);
}

static int publish(struct restore *r, struct err *e)
{
    struct restore_result result;
    if (r->opts->prepare) {
        fill_result(r, &result);
        int k = r->opts->prepare(r->opts->prepare_arg, r->tmp.fd, &result, e);
        restore_result_done(&result);
        if (k < 0)
            return k;
    }
    return restore_publish(&r->job, &r->tmp, e);
}

/* The network may be back later, or whoever stopped it: then this goes on. */
static bool worth_keeping(enum err_code code)
{
    return code == ERR_NET || code == ERR_TIMEOUT || code == ERR_STORE || code == ERR_AUTH;
}

static void end_failed(struct restore *r, struct err *e)
{
    struct stat st;
    char size[32];
    if (r->tmp.fd < 0 || !r->keep.path)
        return;
    if (e->code == ERR_NOSPC && !*e->hint) /* else it was found out before anything was written */
        (void)restore_no_room(r->opts->output, &r->need, e);
    if (!worth_keeping(e->code) || r->keep.off || !r->pages.expected || !r->pages.written) {
        keep_remove(&r->keep);
        return;
    }
    keep_save(&r->keep, &r->tmp, &r->pages, true);
    uint64_t bytes = fstat(r->tmp.fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
    (void)err_hint(e, "the same command continues where this ended: %s are kept in %s, until then or until "
                      "it is run with --no-resume", util_size(size, bytes), r->tmp.tmp);
    keep_leave(&r->tmp);
}

/* An earlier state is asked for, where a -wal without its database lies: what that holds may well be in the
 * replica, but only the latest state can tell. */
static int prove_leftover(uv_loop_t *loop, struct store *s, const struct restore_opts *opts, struct side_wal *ret,
                          struct err *e)
{
    struct side_wal w;
    struct restore_result r = {0};
    uint64_t pages = 0;
    bool earlier = opts->txid || opts->by_time || opts->generation;
    if (opts->force || !earlier || side_wal_read(opts->output, &w, NULL) < 0 || !w.frames)
        return 0; /* what cannot be read is refused in the end */
    cleanup_free char *latest = util_printf("%s.latest", opts->output);
    struct restore_opts o = {.replica = opts->replica, .output = latest, .no_resume = true, .force = true,
                             .parallel = opts->parallel, .range_bytes = opts->range_bytes,
                             .check = RESTORE_CHECK_NONE};
    int k = restore_run(loop, s, &o, NULL, NULL, &r, e);
    if (k < 0)
        return err_wrap(e, "find out whether the replica has what is in %s-wal", opts->output);
    cleanup_close int fd = open(latest, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    k = fd < 0             ? err_sys(e, errno, "open %s", latest)
        : !r.page_size     ? err_set(e, ERR_CORRUPT, "%s has no page size", latest)
                           : side_wal_adds(opts->output, &w, fd, r.page_size, (uint32_t)(r.database_bytes / r.page_size), &pages, e);
    if (!k && !pages)
        *ret = w;
    restore_result_done(&r);
    (void)unlink(latest);
    return k;
}

int restore_run(uv_loop_t *loop, struct store *s, const struct restore_opts *opts,
                restore_progress_fn progress, void *arg, struct restore_result *ret,
                struct err *e)
{
    struct err own = {0};
    e = e ? e : &own;
    struct swap swap = {.output = opts->output, .force = opts->force, .in_use = opts->in_use, .hold = opts->hold};
    /* before any work, and once more before the rename */
    int k = opts->dry_run ? 0 : swap_check(&swap, e);
    if (!k && !opts->dry_run)
        k = prove_leftover(loop, s, opts, &swap.proven, e);
    if (k < 0)
        return k;
    struct restore r = {.loop = loop, .store = s, .opts = opts, .progress = progress, .arg = arg};
    r.job = (struct restore_job){.swap = swap, .check = opts->check};
    restore_init(&r);
    k = plan_and_get(&r, e);
    if (!k && !opts->dry_run) {
        report(&r);
        k = restore_work(&r, publish, e);
    }
    if (!k) {
        report(&r);
        fill_result(&r, ret);
        if (!opts->dry_run)
            keep_remove(&r.keep);
    } else {
        end_failed(&r, e);
    }
    restore_done(&r);
    return k;
}

void restore_result_done(struct restore_result *r)
{
    free(r->file);
    *r = (struct restore_result){0};
}
