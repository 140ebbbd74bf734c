/* The loop half of a restore: list ten levels, plan, fetch into one spool file; then the blocking
 * half (restore_publish) runs on a worker.
 *
 * Both listing and fetching are a round of jobs over a few slots: a slot takes the next job, tries
 * it a few times with growing pauses, and goes on. The first failure cancels what is in flight;
 * a round is over when no slot is busy, so nothing outlives the call. */
#include "common/store/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>

#include "common/format/plan.h"
#include "common/store/layout.h"
#include "common/store/restore_apply.h"
#include "common/store/restore_disk.h"
#include "common/store/retry.h"

#define RESTORE_MAGIC 0x5701e0a1u
#define SLOT_MAGIC 0x5701e0a2u
#define TRIES 5u
#define LEVELS (LTX_SNAPSHOT_LEVEL + 1u)
#define PARALLEL_MAX 64u
#define TICK_MS 250
/* a byte of LZ4 is at most 255 of a page: a header that promises more is not believed */
#define LZ4_MOST 255u

struct restore;

struct slot {
    unsigned magic;
    struct restore *r;
    struct store_req req;
    uv_timer_t pause;
    struct retry retry;
    size_t job;
    size_t file; /* of the plan, when fetching */
    char *key;   /* key or prefix of the job */
    struct store_info info;
    bool busy, in_flight;
    uint64_t got; /* bytes of the object in the spool; a new try goes on from there */
};

struct level {
    struct plan_file *file;
    size_t n, cap;
};

struct restore {
    unsigned magic;
    uv_loop_t *loop;
    struct store *store;
    const struct restore_opts *opts;
    restore_progress_fn progress;
    void *arg;
    uv_timer_t tick;
    struct slot *slot;
    unsigned n_slots;
    unsigned n_handles; /* not closed yet */

    /* the round */
    void (*submit)(struct slot *s);
    size_t n_jobs, next_job;
    unsigned n_busy;
    bool failed, vanished; /* vanished: an object that was listed is gone */
    struct err err;

    struct level level[LEVELS];
    struct plan_file *plan;
    struct restore_input *in;
    size_t n_plan;
    int spool;
    struct restore_need need;
    struct restore_job job;
    uv_work_t work;
    bool working;
    int work_result;
};

static void report(struct restore *r)
{
    /* read one by one while the worker may be changing them: only the display could be wrong */
    const char *phase = atomic_load(&r->job.phase);
    uint64_t done = atomic_load(&r->job.done), total = atomic_load(&r->job.total);
    if (r->progress)
        r->progress(r->arg, phase, total ? MIN(done, total) : done, total);
}

/* ---- a round of jobs ------------------------------------------------------------------------ */

static void next_job(struct slot *s)
{
    struct restore *r = s->r;
    if (s->busy)
        r->n_busy--;
    s->busy = false;
    if (r->failed || r->next_job == r->n_jobs)
        return;
    s->busy = true;
    r->n_busy++;
    s->job = r->next_job++;
    s->got = 0;
    retry_ok(&s->retry);
    r->submit(s);
}

static void on_pause_over(uv_timer_t *t)
{
    struct slot *s = t->data;
    if (s->magic != SLOT_MAGIC)
        abort();
    s->r->submit(s);
}

static void round_failed(struct restore *r, const struct err *e)
{
    if (r->failed)
        return;
    r->failed = true;
    r->err = *e;
    for (unsigned i = 0; i < r->n_slots; i++) {
        struct slot *s = &r->slot[i];
        if (s->in_flight)
            store_cancel(&s->req);
        else if (s->busy && uv_is_active((uv_handle_t *)&s->pause)) {
            (void)uv_timer_stop(&s->pause);
            next_job(s);
        }
    }
}

/* What another try may mend: the network, the store's mood, an answer cut short. */
static bool may_retry(enum err_code code)
{
    return code == ERR_NET || code == ERR_TIMEOUT || code == ERR_STORE || code == ERR_CORRUPT ||
           code == ERR_BUSY;
}

static void on_done(struct store_req *req)
{
    struct slot *s = req->data;
    if (s->magic != SLOT_MAGIC)
        abort();
    struct restore *r = s->r;
    s->in_flight = false;
    if (!r->failed && req->err.code != ERR_OK) {
        uint64_t wait_ms = retry_failed(&s->retry, req->err.code);
        if (may_retry(req->err.code) && s->retry.failures < TRIES) {
            (void)uv_timer_start(&s->pause, on_pause_over, wait_ms, 0);
            return;
        }
        round_failed(r, &req->err);
    }
    next_job(s);
}

static int run_round(struct restore *r, size_t n_jobs, void (*submit)(struct slot *s),
                     struct err *e)
{
    r->submit = submit;
    r->n_jobs = n_jobs;
    r->next_job = 0;
    for (unsigned i = 0; i < r->n_slots; i++)
        next_job(&r->slot[i]);
    while (r->n_busy)
        (void)uv_run(r->loop, UV_RUN_ONCE);
    if (!r->failed)
        return 0;
    if (e)
        *e = r->err;
    return -(int)r->err.code;
}

static void slot_key(struct slot *s, char *key)
{
    free(s->key);
    s->key = key;
}

/* ---- listing -------------------------------------------------------------------------------- */

static int on_item(void *arg, const struct store_object *o, struct err *e)
{
    struct slot *s = arg;
    struct level *l = &s->r->level[s->job];
    uint64_t min, max;
    /* what lies deeper, or has another name, is not ours */
    if (strncmp(o->key, s->key, strlen(s->key)) != 0 || strchr(o->key + strlen(s->key), '/') ||
        !layout_parse(o->key, &min, &max))
        return 0;
    if (l->n == l->cap) {
        size_t cap = MAX(l->cap * 2, (size_t)64);
        struct plan_file *f = realloc(l->file, cap * sizeof *f);
        if (!f)
            return err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", cap);
        l->file = f;
        l->cap = cap;
    }
    l->file[l->n++] = (struct plan_file){(unsigned)s->job, min, max, o->size, o->mtime_ms};
    return 0;
}

static void submit_list(struct slot *s)
{
    struct restore *r = s->r;
    slot_key(s, layout_prefix(store_type(r->store), r->opts->replica, (unsigned)s->job));
    r->level[s->job].n = 0;
    s->in_flight = true;
    s->req.done = on_done;
    store_list(r->store, &s->req, s->key, NULL, on_item, s);
}

static int list_and_plan(struct restore *r, struct err *e)
{
    atomic_store(&r->job.total, 0);
    atomic_store(&r->job.done, 0);
    atomic_store(&r->job.phase, "list");
    report(r);
    int k = run_round(r, LEVELS, submit_list, e);
    if (k < 0)
        return k;
    size_t n = 0, at = 0;
    for (size_t i = 0; i < LEVELS; i++)
        n += r->level[i].n;
    cleanup_free struct plan_file *all = malloc((n ? n : 1) * sizeof *all);
    if (!all)
        return err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", n);
    for (size_t i = 0; i < LEVELS; i++) {
        if (r->level[i].n)
            memcpy(all + at, r->level[i].file, r->level[i].n * sizeof *all);
        at += r->level[i].n;
    }
    k = plan_restore(all, n, r->opts->txid, &r->plan, &r->n_plan, e);
    if (k < 0)
        return err_wrap(e, "%s%s%s", store_describe(r->store), r->opts->replica[0] ? "/" : "",
                        r->opts->replica);
    return 0;
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

static int on_bytes(void *arg, const void *p, size_t n, struct err *e)
{
    struct slot *s = arg;
    struct restore *r = s->r;
    const struct restore_input *in = &r->in[s->file];
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
    if (headless && s->got >= LTX_HEADER_SIZE && s->file == r->n_plan - 1)
        return check_room(r, in, e);
    return 0;
}

static void on_fetched(struct store_req *req)
{
    struct slot *s = req->data;
    struct restore_input *in = &s->r->in[s->file];
    if (req->err.code == ERR_OK && s->got != in->size)
        (void)err_set(&req->err, ERR_CORRUPT, "%s: %llu bytes of the %llu that were listed", s->key,
                      (unsigned long long)s->got, (unsigned long long)in->size);
    if (req->err.code == ERR_NOTFOUND && !s->r->failed)
        s->r->vanished = true;
    in->checksum = s->info.meta.checksum;
    in->lineage = s->info.meta.lineage;
    on_done(req);
}

static void submit_get(struct slot *s)
{
    struct restore *r = s->r;
    /* the newest file first: its header says how large the database is */
    s->file = (s->job ? s->job : r->n_plan) - 1;
    const struct plan_file *f = &r->plan[s->file];
    s->info = (struct store_info){0};
    slot_key(s, layout_key(store_type(r->store), r->opts->replica, f->level, f->min, f->max));
    s->in_flight = true;
    s->req.done = on_fetched;
    store_get(r->store, &s->req, s->key, s->got, f->size - s->got, on_bytes, s, &s->info);
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

static int lay_out(struct restore *r, struct err *e)
{
    uint64_t off = 0, bytes = 0, align = restore_align();
    r->in = calloc(r->n_plan, sizeof *r->in);
    if (!r->in)
        return err_set(e, ERR_NOMEM, "no memory for a plan of %zu files", r->n_plan);
    for (size_t i = 0; i < r->n_plan; i++) {
        const struct plan_file *f = &r->plan[i];
        char *name = layout_key(store_type(r->store), r->opts->replica, f->level, f->min, f->max);
        r->in[i] = (struct restore_input){name, off, f->size, f->min, f->max, 0, 0};
        if (f->size > INT64_MAX / 2 - off)
            return err_set(e, ERR_CORRUPT, "%s: listed with %llu bytes", name,
                           (unsigned long long)f->size);
        off += (f->size + align - 1) / align * align;
        bytes += f->size;
    }
    atomic_store(&r->job.total, 0);
    atomic_store(&r->job.done, 0);
    atomic_store(&r->job.phase, "fetch");
    atomic_store(&r->job.total, bytes);
    report(r);
    r->need = (struct restore_need){.fetched = bytes};
    int k = restore_room(r->opts->output, &r->need, e);
    return k < 0 ? k : open_spool(r->opts->output, &r->spool, e);
}

static void forget_plan(struct restore *r)
{
    for (size_t i = 0; r->in && i < r->n_plan; i++)
        free(r->in[i].name);
    free(r->in);
    free(r->plan);
    if (r->spool >= 0)
        (void)close(r->spool);
    r->in = NULL;
    r->plan = NULL;
    r->n_plan = 0;
    r->spool = -1;
    r->failed = r->vanished = false;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void on_work(uv_work_t *w)
{
    struct restore *r = w->data;
    if (r->magic != RESTORE_MAGIC)
        abort();
    r->work_result = restore_publish(&r->job, &r->err);
}

static void on_worked(uv_work_t *w, int status)
{
    struct restore *r = w->data;
    if (status < 0)
        r->work_result = err_set(&r->err, ERR_INTERNAL, "worker: %s", uv_strerror(status));
    r->working = false;
}

static int apply(struct restore *r, struct err *e)
{
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
        (void)restore_no_room(r->opts->output, &r->need, &r->err);
    if (r->work_result < 0 && e)
        *e = r->err;
    return r->work_result;
}

static int plan_and_fetch(struct restore *r, struct err *e)
{
    for (bool again = false;; again = true) {
        int k = list_and_plan(r, e);
        if (k < 0 || r->opts->dry_run)
            return k;
        k = lay_out(r, e);
        if (k < 0)
            return k;
        k = run_round(r, r->n_plan, submit_get, e);
        /* compaction or retention may have removed a file since it was listed */
        if (k == 0 || !r->vanished || again)
            return k;
        forget_plan(r);
    }
}

static void on_tick(uv_timer_t *t)
{
    struct restore *r = t->data;
    if (r->magic != RESTORE_MAGIC)
        abort();
    report(r);
}

static void on_slot_closed(uv_handle_t *h)
{
    struct slot *s = h->data;
    s->r->n_handles--;
}

static void on_tick_closed(uv_handle_t *h)
{
    struct restore *r = h->data;
    r->n_handles--;
}

static void init(struct restore *r)
{
    unsigned want = r->opts->parallel ? r->opts->parallel : store_connections(r->store);
    r->n_slots = MIN(MAX(want, 1u), PARALLEL_MAX);
    r->slot = util_zalloc(r->n_slots * sizeof *r->slot);
    for (unsigned i = 0; i < r->n_slots; i++) {
        struct slot *s = &r->slot[i];
        s->magic = SLOT_MAGIC;
        s->r = r;
        s->req.data = s;
        (void)uv_timer_init(r->loop, &s->pause);
        s->pause.data = s;
    }
    (void)uv_timer_init(r->loop, &r->tick);
    r->tick.data = r;
    (void)uv_timer_start(&r->tick, on_tick, TICK_MS, TICK_MS);
    r->n_handles = r->n_slots + 1;
}

static void done(struct restore *r)
{
    for (unsigned i = 0; i < r->n_slots; i++)
        uv_close((uv_handle_t *)&r->slot[i].pause, on_slot_closed);
    uv_close((uv_handle_t *)&r->tick, on_tick_closed);
    while (r->n_handles)
        (void)uv_run(r->loop, UV_RUN_ONCE);
    forget_plan(r);
    for (unsigned i = 0; i < r->n_slots; i++)
        free(r->slot[i].key);
    for (size_t i = 0; i < LEVELS; i++)
        free(r->level[i].file);
    free(r->slot);
    r->magic = 0;
}

static void fill_result(const struct restore *r, struct restore_result *ret)
{
    const struct restore_applied *a = &r->job.applied; /* all zero in a dry run */
    const struct ltx_header *h = &a->newest;
    *ret = (struct restore_result){
        .txid = r->plan[r->n_plan - 1].max,
        .timestamp_ms = h->timestamp_ms,
        .database_bytes = (uint64_t)h->commit * h->page_size,
        .page_size = h->page_size,
        .lineage = a->lineage,
        .checksum = a->checksum,
        .verified = a->expected != 0,
        .file = util_alloc(r->n_plan * sizeof *ret->file),
        .n_files = r->n_plan,
    };
    for (size_t i = 0; i < r->n_plan; i++) {
        const struct plan_file *f = &r->plan[i];
        ret->file[i] = (struct restore_file){f->level, f->min, f->max, f->size, f->mtime_ms};
        ret->bytes += f->size;
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
    struct restore r = {.magic = RESTORE_MAGIC, .loop = loop, .store = s, .opts = opts,
                        .progress = progress, .arg = arg, .spool = -1};
    init(&r);
    k = plan_and_fetch(&r, e);
    if (!k && !opts->dry_run) {
        report(&r);
        k = apply(&r, e);
    }
    if (!k) {
        report(&r);
        fill_result(&r, ret);
    }
    done(&r);
    return k;
}

void restore_result_done(struct restore_result *r)
{
    free(r->file);
    *r = (struct restore_result){0};
}
