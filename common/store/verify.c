/* The loop half: list, fetch some objects ahead, and have a worker look at them one after the other in
 * the order of verify_plan.c. Where a file that others build on turns out to be unusable, the order is
 * made anew from the last good state. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "common/store/layout.h"
#include "common/store/restore_round.h"
#include "common/store/verify_int.h"

#define VERIFY_MAGIC 0x7e51f1edu
#define TICK_MS 250
#define LEVELS (LTX_SNAPSHOT_LEVEL + 1u)
#define CORRUPT_TRIES 2u
#define LOOKS 6u /* as long as objects go away while they are looked at; then the others will do */

/* a slot of the round, and the object it has fetched */
struct fetched {
    int fd; /* an unnamed file; -1: not opened yet */
    struct restore_slot *slot;
    bool ready; /* waits for its turn, or has it */
};

struct run {
    unsigned magic;
    uv_loop_t *loop;
    struct store *store;
    const struct verify_opts *opts;
    const char *tmp_dir;
    restore_progress_fn progress;
    void *arg;
    struct restore_round round;
    uv_timer_t tick;
    bool ticking;
    const char *phase;
    uint64_t done, total;

    struct verify v;
    struct verify_result *ret;
    bool v3;
    size_t n_gone;
    char **vanished; /* what was listed and not there any more, in all looks so far: once may happen */
    size_t n_vanished;
    struct fetched *fetched; /* by slot */
    size_t turn;             /* the step that is next */
    uv_work_t work;
    bool working;
    struct fetched *at_work;
    int work_result;
    struct err work_err;
};

static void phase(struct run *r, const char *name, uint64_t total)
{
    r->phase = name;
    r->done = 0;
    r->total = total;
    if (r->progress)
        r->progress(r->arg, name, 0, total);
}

static void on_tick(uv_timer_t *t)
{
    const struct run *r = t->data;
    if (r->magic != VERIFY_MAGIC)
        abort();
    if (r->progress && r->phase)
        r->progress(r->arg, r->phase, r->total ? MIN(r->done, r->total) : r->done, r->total);
}

/* ---- listing --------------------------------------------------------------------------------- */

static struct verify_file *new_file(struct run *r)
{
    struct verify *v = &r->v;
    if (v->n == v->cap) {
        v->cap = v->cap ? v->cap * 2 : 64;
        v->file = util_realloc(v->file, v->cap * sizeof *v->file);
    }
    v->file[v->n] = (struct verify_file){.state = VERIFY_FOUND};
    return &v->file[v->n++];
}

static void add_stranger(struct run *r, unsigned level, const struct store_object *o)
{
    struct verify_result *ret = r->ret;
    ret->object = util_realloc(ret->object, (ret->n_objects + 1) * sizeof *ret->object);
    ret->object[ret->n_objects++] =
        (struct verify_object){.state = VERIFY_FOREIGN, .level = level, .size = o->size,
                               .name = util_strdup(o->key),
                               .why = util_strdup("no object of a replica is called that")};
}

static int on_object(void *arg, const struct store_object *o, struct err *e)
{
    struct restore_slot *s = arg;
    struct run *r = s->round->data;
    unsigned level = (unsigned)s->job;
    uint64_t min, max;
    (void)e;
    size_t prefix = strlen(s->key);
    if (strncmp(o->key, s->key, prefix) != 0)
        return 0;
    if (strchr(o->key + prefix, '/') || !layout_parse(o->key, &min, &max)) {
        add_stranger(r, level, o);
        return 0;
    }
    if (r->opts->txid && max > r->opts->txid)
        return 0;
    struct verify_file *f = new_file(r);
    f->f = (struct plan_file){.level = level, .min = min, .max = max, .size = o->size, .mtime_ms = o->mtime_ms};
    f->name = util_strdup(o->key);
    return 0;
}

static void forget_files(struct run *r)
{
    struct verify *v = &r->v;
    for (size_t i = 0; i < v->n; i++) {
        free(v->file[i].name);
        free(v->file[i].why);
    }
    v->n = 0;
    free(v->by_max);
    v->by_max = NULL;
    verify_result_done(r->ret);
}

/* what this try at the level found is found again by the next one */
static void forget_level(struct run *r, unsigned level)
{
    struct verify *v = &r->v;
    size_t n = 0;
    for (size_t i = 0; i < v->n; i++)
        if (v->file[i].f.level == level)
            free(v->file[i].name);
        else
            v->file[n++] = v->file[i];
    v->n = n;
    struct verify_result *ret = r->ret;
    for (size_t i = n = 0; i < ret->n_objects; i++)
        if (ret->object[i].level == level) {
            free(ret->object[i].name);
            free(ret->object[i].why);
        } else {
            ret->object[n++] = ret->object[i];
        }
    ret->n_objects = n;
}

static void submit_level(struct restore_slot *s)
{
    struct run *r = s->round->data;
    forget_level(r, (unsigned)s->job);
    restore_slot_begin(
        s, layout_prefix(store_type(r->store), r->opts->replica, (unsigned)s->job), NULL);
    store_list(r->store, &s->req, s->key, NULL, on_object, s);
}

static int on_v3(void *arg, const struct store_object *o, struct err *e)
{
    struct restore_slot *s = arg;
    struct run *r = s->round->data;
    (void)o;
    (void)e;
    r->v3 = true;
    return 0;
}

static void submit_v3(struct restore_slot *s)
{
    struct run *r = s->round->data;
    const char *replica = r->opts->replica;
    restore_slot_begin(s, util_printf("%s%s" V3_DIR, replica, *replica ? "/" : ""), NULL);
    store_list(r->store, &s->req, s->key, NULL, on_v3, s);
}

static int nothing(struct run *r, struct err *e)
{
    cleanup_free char *place = store_place(r->store, r->opts->replica);
    int k = restore_round_run(&r->round, 1, submit_v3, e);
    if (k < 0)
        return k;
    if (r->v3) {
        err_set(e, ERR_UNSUPPORTED, "%s: Litestream v0.3 wrote this replica, which has nothing to compare with", place);
        return err_hint(e, "walsupctl restore checks what it restores of it");
    }
    err_set(e, ERR_NOTFOUND, "%s: the replica is empty", place);
    return store_hint_empty(r->store, e);
}

static int by_min(const void *a, const void *b)
{
    const struct plan_file *x = &((const struct verify_file *)a)->f, *y = &((const struct verify_file *)b)->f;
    if (x->min != y->min)
        return x->min < y->min ? -1 : 1;
    if (x->max != y->max)
        return x->max < y->max ? -1 : 1;
    return (x->level > y->level) - (x->level < y->level);
}

static int by_max(const void *a, const void *b, void *arg)
{
    const struct verify_file *file = arg;
    const struct plan_file *x = &file[*(const size_t *)a].f, *y = &file[*(const size_t *)b].f;
    return x->max != y->max ? (x->max < y->max ? -1 : 1) : (x->level > y->level) - (x->level < y->level);
}

static int list(struct run *r, struct err *e)
{
    struct verify *v = &r->v;
    phase(r, "list", 0);
    int k = restore_round_run(&r->round, LEVELS, submit_level, e);
    if (k == 0 && !v->n)
        k = nothing(r, e);
    if (k < 0)
        return k;
    qsort(v->file, v->n, sizeof *v->file, by_min);
    v->by_max = util_alloc(v->n * sizeof *v->by_max);
    for (size_t i = 0; i < v->n; i++)
        v->by_max[i] = i;
    qsort_r(v->by_max, v->n, sizeof *v->by_max, by_max, v->file);
    return 0;
}

/* ---- fetching, and whose turn it is ------------------------------------------------------------ */

static struct fetched *fetched_of(const struct restore_slot *s)
{
    const struct run *r = s->round->data;
    return &r->fetched[s - r->round.slot];
}

static bool is_over(const struct run *r);
static void take_turn(struct run *r);

static void on_work(uv_work_t *w)
{
    struct run *r = w->data;
    if (r->magic != VERIFY_MAGIC)
        abort();
    const struct verify_step *step = &r->v.step[r->turn];
    r->work_result = verify_step_run(&r->v, step, r->at_work->fd, &r->work_err);
}

/* No more steps: what was fetched ahead is let go. */
static void stop(struct run *r)
{
    r->round.next_job = r->round.n_jobs;
    for (unsigned i = 0; i < r->round.n_slots; i++) {
        struct fetched *f = &r->fetched[i];
        if (!f->ready || f == r->at_work)
            continue;
        f->ready = false;
        restore_slot_end(&f->slot->req);
    }
}

static void on_worked(uv_work_t *w, int status)
{
    struct run *r = w->data;
    struct fetched *f = r->at_work;
    if (status < 0)
        r->work_result = err_set(&r->work_err, ERR_INTERNAL, "worker: %s", uv_strerror(status));
    r->working = false;
    r->at_work = NULL;
    r->turn++;
    f->ready = false;
    if (is_over(r))
        stop(r);
    restore_slot_end(&f->slot->req);
    take_turn(r);
}

static bool is_over(const struct run *r)
{
    return r->work_result < 0 || r->v.stopped || r->round.failed;
}

static void take_turn(struct run *r)
{
    if (r->working || is_over(r))
        return;
    for (unsigned i = 0; i < r->round.n_slots; i++) {
        struct fetched *f = &r->fetched[i];
        if (!f->ready || f->slot->job != r->turn)
            continue;
        r->at_work = f;
        r->working = true;
        r->work.data = r;
        (void)uv_queue_work(r->loop, &r->work, on_work, on_worked);
        return;
    }
}

static int on_bytes(void *arg, const void *p, size_t n, struct err *e)
{
    struct restore_slot *s = arg;
    struct run *r = s->round->data;
    const uint8_t *b = p;
    while (n) {
        ssize_t put = pwrite(fetched_of(s)->fd, b, n, (off_t)s->got);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_sys(e, errno, "fetch %s: write to a temporary file in %s", s->key, r->tmp_dir);
        b += put;
        n -= (size_t)put;
        s->got += (uint64_t)put;
        r->done += (uint64_t)put;
    }
    return 0;
}

/* What is true of the object, and no trouble of the store's: it may not be tried again. */
static bool is_verdict(const struct restore_slot *s, const struct err *e)
{
    return e->code == ERR_OK || e->code == ERR_NOTFOUND ||
           (e->code == ERR_CORRUPT && s->retry.failures + 1 >= CORRUPT_TRIES);
}

/* Its turn comes; nothing is in flight for the slot, but it stays the object's. */
static void is_there(struct restore_slot *s)
{
    struct run *r = s->round->data;
    err_clear(&s->req.err);
    if (is_over(r)) {
        restore_slot_end(&s->req);
        return;
    }
    s->in_flight = false;
    fetched_of(s)->ready = true;
    take_turn(r);
}

static void failed(struct restore_slot *s)
{
    struct run *r = s->round->data;
    restore_slot_end(&s->req);
    if (r->round.failed)
        stop(r);
}

/* Compaction and retention go on meanwhile. But what was gone and is listed again is not deleted. */
static void take_vanished(struct run *r, struct verify_file *f, const struct err *e)
{
    if (f->gone)
        return;
    for (size_t i = 0; i < r->n_vanished; i++)
        if (!strcmp(r->vanished[i], f->name)) {
            verify_blame(f, VERIFY_DAMAGED, "it is listed, but cannot be fetched: %s", e->msg);
            return;
        }
    r->vanished = util_realloc(r->vanished, (r->n_vanished + 1) * sizeof(char *));
    r->vanished[r->n_vanished++] = util_strdup(f->name);
    r->n_gone++;
    f->gone = f->unusable = f->read = true;
}

static void on_fetched(struct store_req *req)
{
    struct restore_slot *s = req->data;
    struct run *r = s->round->data;
    struct verify_file *f = &r->v.file[r->v.step[s->job].file];
    if (r->round.failed || !is_verdict(s, &req->err)) {
        failed(s);
        return;
    }
    if (req->err.code == ERR_NOTFOUND) {
        take_vanished(r, f, &req->err);
    } else if (req->err.code == ERR_CORRUPT) {
        verify_blame(f, VERIFY_DAMAGED, "%s", req->err.msg);
    } else if (s->got != f->f.size) {
        verify_blame(f, VERIFY_DAMAGED, "it was listed with %" PRIu64 " bytes and has %" PRIu64, f->f.size, s->got);
    }
    f->meta_checksum = s->info.meta.checksum;
    f->meta_lineage = s->info.meta.lineage;
    f->meta_time_ms = s->info.meta.timestamp_ms;
    is_there(s);
}

static void submit_get(struct restore_slot *s)
{
    struct run *r = s->round->data;
    const struct verify_file *f = &r->v.file[r->v.step[s->job].file];
    struct fetched *to = fetched_of(s);
    struct err e = {0};
    to->slot = s;
    if (to->fd < 0) {
        struct verify_array a;
        if (verify_array_open(&a, r->tmp_dir, &e) == 0)
            to->fd = a.fd;
    } else if (ftruncate(to->fd, 0) < 0) {
        (void)err_sys(&e, errno, "empty a temporary file in %s", r->tmp_dir);
    }
    s->got = 0;
    restore_slot_begin(s, util_strdup(f->name), on_fetched);
    if (e.code) {
        s->req.err = e;
        failed(s);
    } else if (f->f.size && !f->gone) {
        store_get(r->store, &s->req, s->key, 0, f->f.size, on_bytes, s, &s->info);
    } else { /* nothing could be asked for */
        is_there(s);
    }
}

static uint64_t bytes_of(const struct verify *v)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < v->n_steps; i++)
        bytes += v->file[v->step[i].file].f.size;
    return bytes;
}

static int prove(struct run *r, struct err *e)
{
    do {
        int k = verify_order(&r->v, e);
        if (k < 0)
            return k;
        phase(r, "verify", bytes_of(&r->v));
        r->turn = 0;
        k = restore_round_run(&r->round, r->v.n_steps, submit_get, e);
        r->ret->bytes += r->done;
        if (r->work_result < 0 && e)
            *e = r->work_err;
        if (k < 0 || r->work_result < 0)
            return k < 0 ? k : r->work_result;
    } while (r->v.stopped);
    return 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int begin(struct run *r, struct err *e)
{
    struct verify *v = &r->v;
    r->magic = VERIFY_MAGIC;
    r->tmp_dir = r->opts->tmp_dir ? r->opts->tmp_dir : "/var/tmp";
    v->result = r->ret;
    v->sums.page.fd = v->list.fd = -1;
    restore_round_init(&r->round, r->loop, r->store, r->opts->parallel, r);
    r->fetched = util_zalloc(r->round.n_slots * sizeof *r->fetched);
    for (unsigned i = 0; i < r->round.n_slots; i++)
        r->fetched[i].fd = -1;
    (void)uv_timer_init(r->loop, &r->tick);
    r->tick.data = r;
    r->ticking = true;
    (void)uv_timer_start(&r->tick, on_tick, TICK_MS, TICK_MS);
    int k = verify_array_open(&v->sums.page, r->tmp_dir, e);
    return k < 0 ? k : verify_array_open(&v->list, r->tmp_dir, e);
}

static void on_tick_closed(uv_handle_t *h)
{
    struct run *r = h->data;
    r->ticking = false;
}

static void end(struct run *r)
{
    uv_close((uv_handle_t *)&r->tick, on_tick_closed);
    unsigned n = r->round.n_slots;
    restore_round_done(&r->round);
    while (r->ticking)
        (void)uv_run(r->loop, UV_RUN_ONCE);
    for (unsigned i = 0; i < n; i++)
        if (r->fetched[i].fd >= 0)
            (void)close(r->fetched[i].fd);
    free(r->fetched);
    verify_array_close(&r->v.sums.page);
    verify_array_close(&r->v.list);
    for (size_t i = 0; i < r->v.n; i++) {
        free(r->v.file[i].name);
        free(r->v.file[i].why);
    }
    for (size_t i = 0; i < r->n_vanished; i++)
        free(r->vanished[i]);
    free(r->vanished);
    free(r->v.file);
    free(r->v.by_max);
    free(r->v.step);
    r->magic = 0;
}

/* From an empty state, with a fresh list. */
static int once(struct run *r, struct err *e)
{
    struct verify_array page = r->v.sums.page;
    forget_files(r);
    if (page.p)
        memset(page.p, 0, page.cap * 8);
    r->v.sums = (struct verify_sums){.page = page};
    r->v.next_max = 0;
    r->n_gone = 0;
    verify_map_open(&r->v, r->opts->map_fd);
    int k = list(r, e);
    return k < 0 ? k : prove(r, e);
}

int verify_run(uv_loop_t *loop, struct store *s, const struct verify_opts *opts,
               restore_progress_fn progress, void *arg, struct verify_result *ret, struct err *e)
{
    struct verify_result out = {.n_objects = 0};
    struct run r = {.loop = loop, .store = s, .opts = opts, .progress = progress, .arg = arg, .ret = &out};
    int k = begin(&r, e);
    if (k == 0)
        k = once(&r, e);
    for (unsigned i = 1; i < LOOKS && k == 0 && r.n_gone; i++)
        k = once(&r, e);
    if (k == 0) {
        verify_map_close(&r.v);
        verify_judge(&r.v, opts);
    }
    end(&r);
    if (k < 0)
        verify_result_done(&out);
    else
        *ret = out;
    return k;
}

void verify_result_done(struct verify_result *r)
{
    for (size_t i = 0; i < r->n_objects; i++) {
        free(r->object[i].name);
        free(r->object[i].why);
    }
    free(r->object);
    free(r->lost);
    *r = (struct verify_result){.n_objects = 0};
}

size_t verify_wrong(const struct verify_result *r)
{
    return r->count[VERIFY_DAMAGED] + r->count[VERIFY_FOREIGN] + r->count[VERIFY_MISSING] + r->count[VERIFY_LOST];
}

const char *verify_state_name(enum verify_state state)
{
    static const char *const name[] = {[VERIFY_FOUND] = "FOUND",     [VERIFY_DAMAGED] = "DAMAGED",
                                       [VERIFY_FOREIGN] = "FOREIGN", [VERIFY_MISSING] = "MISSING",
                                       [VERIFY_LOST] = "LOST",       [VERIFY_DELAYED] = "DELAYED"};
    return name[state];
}
