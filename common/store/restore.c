/* The loop half of a restore: list and plan (restore_list.c), fetch into one spool file; then the
 * blocking half (restore_publish) runs on a worker. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>

#include "common/store/restore_int.h"

#define RESTORE_MAGIC 0x5701e0a1u
#define TICK_MS 250
/* a byte of LZ4 is at most 255 of a page: a header that promises more is not believed */
#define LZ4_MOST 255u

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

/* ---- fetching ------------------------------------------------------------------------------- */

/* The newest file's header says how much the database will take. */
static int check_room(struct restore *r, const struct restore_input *newest, struct err *e)
{
    uint8_t p[LTX_HEADER_SIZE];
    struct ltx_header h;
    struct err no = {0};
    if (fsx_pread_all(r->spool, p, sizeof p, newest->off, &no) < 0 ||
        ltx_header_decode(p, &h, &no) < 0)
        return 0; /* damaged: found and said later */
    uint64_t bytes = (uint64_t)h.commit * h.page_size;
    if (bytes / LZ4_MOST > r->need.fetched)
        return 0;
    r->need.database = bytes;
    return restore_room(r->opts->output, &r->need, e);
}

/* the newest file first: its header says how large the database is */
static size_t file_of(const struct restore_slot *s)
{
    const struct restore *r = s->round->data;
    return (s->job ? s->job : r->n_plan) - 1;
}

static int on_bytes(void *arg, const void *p, size_t n, struct err *e)
{
    struct restore_slot *s = arg;
    struct restore *r = s->round->data;
    size_t file = file_of(s);
    const struct restore_input *in = &r->in[file];
    const uint8_t *b = p;
    bool headless = s->got < LTX_HEADER_SIZE;
    if (n > in->size - s->got)
        return err_set(e, ERR_CORRUPT, "%s: more than the %llu bytes that were listed", s->key,
                       (unsigned long long)in->size);
    while (n) {
        ssize_t put = pwrite(r->spool, b, n, (off_t)(in->off + s->got));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            int k = err_sys(e, errno, "write to the temporary file beside it");
            return k == -(int)ERR_NOSPC ? restore_no_room(r->opts->output, &r->need, e)
                                        : err_wrap(e, "%s: fetch %s", r->opts->output, s->key);
        }
        b += put;
        n -= (size_t)put;
        s->got += (uint64_t)put;
        r->need.there += (uint64_t)put;
        atomic_fetch_add(&r->job.done, (uint64_t)put);
    }
    if (headless && s->got >= LTX_HEADER_SIZE && file == r->n_plan - 1 && !r->v3)
        return check_room(r, in, e);
    return 0;
}

static void on_fetched(struct store_req *req)
{
    struct restore_slot *s = req->data;
    struct restore *r = s->round->data;
    struct restore_input *in = &r->in[file_of(s)];
    if (req->err.code == ERR_OK && s->got != in->size)
        (void)err_set(&req->err, ERR_CORRUPT, "%s: %llu bytes of the %llu that were listed", s->key,
                      (unsigned long long)s->got, (unsigned long long)in->size);
    in->checksum = s->info.meta.checksum;
    in->lineage = s->info.meta.lineage;
    restore_slot_end(req);
}

static void submit_get(struct restore_slot *s)
{
    struct restore *r = s->round->data;
    const struct restore_input *in = &r->in[file_of(s)];
    restore_slot_begin(s, util_strdup(in->name), on_fetched);
    store_get(r->store, &s->req, s->key, s->got, in->size - s->got, on_bytes, s, &s->info);
}

/* An unnamed file in the output's directory, where there has to be room anyway. */
static int open_spool(const char *output, int *ret, struct err *e)
{
    cleanup_free char *copy = util_strdup(output);
    const char *dir = dirname(copy);
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        /* some file systems cannot: give it a name for a moment */
        struct fsx_tmp t = FSX_TMP_INIT;
        int k = fsx_tmp_open(output, 0600, &t, e);
        if (k < 0)
            return k;
        *ret = TAKE_FD(t.fd);
        fsx_tmp_abort(&t);
        return 0;
    }
    if (fd < 0)
        return err_sys(e, errno, "create a temporary file in %s", dir);
    *ret = fd;
    return 0;
}

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

static int lay_out(struct restore *r, struct err *e)
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
        if (!size) /* nothing could be asked for */
            return err_set(e, ERR_CORRUPT, "%s is empty", r->in[i].name);
        off += (size + align - 1) / align * align;
        bytes += size;
    }
    restore_phase(r, "fetch", bytes);
    r->need = (struct restore_need){.fetched = bytes};
    int k = restore_room(r->opts->output, &r->need, e);
    return k < 0 ? k : open_spool(r->opts->output, &r->spool, e);
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

/* ---- the whole ------------------------------------------------------------------------------ */

static void on_work(uv_work_t *w)
{
    struct restore *r = w->data;
    if (r->magic != RESTORE_MAGIC)
        abort();
    r->work_result = restore_publish(&r->job, &r->work_err);
}

static void on_worked(uv_work_t *w, int status)
{
    struct restore *r = w->data;
    if (status < 0)
        r->work_result = err_set(&r->work_err, ERR_INTERNAL, "worker: %s", uv_strerror(status));
    r->working = false;
}

static int apply(struct restore *r, struct err *e)
{
    r->job.apply = r->v3 ? restore_v3_apply : NULL;
    r->job.v3 = r->v3_plan;
    r->job.in = r->in;
    r->job.n_in = r->n_plan;
    r->job.spool = r->spool;
    r->job.output = r->opts->output;
    r->job.force = r->opts->force;
    r->job.check = r->opts->check;
    r->work.data = r;
    r->working = true;
    int k = uv_queue_work(r->loop, &r->work, on_work, on_worked);
    if (k < 0)
        return err_set(e, ERR_INTERNAL, "start a worker: %s", uv_strerror(k));
    while (r->working)
        (void)uv_run(r->loop, UV_RUN_ONCE);
    if (r->work_result == -(int)ERR_NOSPC)
        (void)restore_no_room(r->opts->output, &r->need, &r->work_err);
    if (r->work_result < 0 && e)
        *e = r->work_err;
    return r->work_result;
}

static int plan_and_fetch(struct restore *r, struct err *e)
{
    for (bool again = false;; again = true) {
        int k = restore_list(r, e);
        if (!k)
            k = restore_plan(r, e);
        if (!k && r->opts->dry_run)
            return 0;
        if (!k)
            k = lay_out(r, e);
        if (!k)
            k = restore_round_run(&r->round, r->n_plan, submit_get, e);
        /* compaction or retention may have removed a file since it was listed */
        if (k == 0 || !r->round.vanished || again)
            return k;
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
        .dropped_bytes = a->dropped_bytes,
        .database_bytes = (uint64_t)h->commit * h->page_size,
        .page_size = h->page_size,
        .lineage = a->lineage,
        .checksum = a->checksum,
        .verified = a->expected != 0,
        .file = util_alloc(r->n_plan * sizeof *ret->file),
        .n_files = r->n_plan,
    };
    if (r->v3)
        memcpy(ret->generation, r->v3_plan[0].generation, sizeof ret->generation);
    for (size_t i = 0; i < r->n_plan; i++) {
        ret->file[i] = file_of_plan(r, i);
        ret->bytes += ret->file[i].size;
    }
}

int restore_run(uv_loop_t *loop, struct store *s, const struct restore_opts *opts,
                restore_progress_fn progress, void *arg, struct restore_result *ret,
                struct err *e)
{
    /* before any work, and once more before the rename */
    int k = opts->dry_run ? 0 : restore_target_check(opts->output, opts->force, e);
    if (k < 0)
        return k;
    if (!opts->dry_run)
        (void)restore_sweep(opts->output);
    struct restore r = {.loop = loop, .store = s, .opts = opts, .progress = progress, .arg = arg};
    restore_init(&r);
    k = plan_and_fetch(&r, e);
    if (!k && !opts->dry_run) {
        report(&r);
        k = apply(&r, e);
    }
    if (!k) {
        report(&r);
        fill_result(&r, ret);
    }
    restore_done(&r);
    return k;
}

void restore_result_done(struct restore_result *r)
{
    free(r->file);
    *r = (struct restore_result){0};
}
