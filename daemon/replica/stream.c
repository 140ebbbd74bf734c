#include "daemon/replica/stream.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/store/layout.h"
#include "common/store/work.h"
#include "daemon/core/database_int.h"
#include "daemon/os/walls.h"
#include "daemon/replica/fence_look.h"

#define SLICE_BYTES (8u << 20)
#define SLICE_MS 40u
#define AHEAD_BYTES (32ull << 20) /* read, and not yet uploaded, beyond the parts under way */
#define PARTS_MAX 4u
#define PRESSURE 2u       /* times wal-limit: then the guard has to go, whatever it costs */
#define GIVE_UP_MS 600000 /* a replica that fails for so long is left out; its keeper tries again some day */

struct stream_part {
    struct stream_leg *leg;
    struct store_req req;
    struct store_body body;
    unsigned n;
    bool taken, busy; /* taken and not busy: it failed, and waits for another try */
};

/* One replica's share. */
struct stream_leg {
    struct stream *s;
    struct uploader *u;
    bool base; /* the replica has nothing before it */
    struct store_upload *up;
    enum leg_state { LEG_BEGINS, LEG_RUNS, LEG_FINISHES, LEG_LOOKS, LEG_ABORTS, LEG_OVER } state;
    bool asked, began, finishing, aborting; /* asked: begin, finish, look or abort is under way */
    char *key;
    struct fence_look look;  /* at what is in its way */
    struct spool_file there_already; /* it was ours; txid 0: nothing of that kind */
    struct store_req req;
    struct stream_part part[PARTS_MAX];
    unsigned parallel, next, low; /* parts: the next to be sent; all before `low` are there */
    bool *there;                  /* of each part */
    unsigned cap_there;
    struct retry retry;
    uint64_t failing_since_ms, retry_at_ms;
    struct err err; /* why it was given up */
};

struct stream {
    struct database *db;
    struct snapshot *sn;
    struct snapshot_info info;
    struct stream_leg *leg;
    size_t n_legs;
    struct work work;
    struct beat beat;
    uv_timer_t timer;
    enum stream_work { WORK_SLICE, WORK_REST, WORK_FREE } what;
    bool working, done, rested, freed, closing;
    uint64_t size, slice_ms, resume_ms, punch;
    int r;
    struct err err;
};

static void poke(struct stream *s);

uint64_t stream_txid(const struct stream *s)
{
    return s->info.txid;
}

/* ---- reading ------------------------------------------------------------------------------------- */

static void do_work(struct stream *s)
{
    uint64_t began = clk_mono_ms();
    if (s->what == WORK_FREE) {
        beat_park(true); /* it may be a large file that is removed */
        s->sn = snapshot_free(s->sn);
        beat_park(false);
        return;
    }
    snapshot_punch(s->sn, s->punch);
    if (s->what == WORK_REST)
        snapshot_rest(s->sn);
    else
        s->r = snapshot_slice(s->sn, SLICE_BYTES, SLICE_MS, &s->size, &s->done, &s->err);
    s->slice_ms = clk_mono_ms() - began;
}

static void work(uv_work_t *w)
{
    struct stream *s = w->data;
    beat_begin(&s->beat);
    do_work(s);
    beat_end();
}

struct beat *stream_beat(struct stream *s)
{
    return s->working ? &s->beat : NULL;
}

static void give_up(struct stream *s)
{
    if (s->r > 0)
        err_set(&s->err, ERR_BUSY, "the WAL was restarted under it");
    log_err(LOG_WARN, &s->err, "%s: the snapshot of TXID %016" PRIx64 " was given up", s->db->name, s->info.txid);
    s->closing = true;
    if (s->err.code == ERR_CORRUPT)
        database_distrust(s->db);
}

static void on_worked(uv_work_t *w, int status)
{
    (void)status;
    struct stream *s = w->data;
    s->working = false;
    s->resume_ms = clk_mono_ms() + s->slice_ms;
    s->rested = s->rested || s->what == WORK_REST;
    s->freed = s->freed || s->what == WORK_FREE;
    if (s->what == WORK_SLICE && s->r != 0 && !s->closing)
        give_up(s);
    poke(s);
}

static void start_work(struct stream *s, enum stream_work what)
{
    s->what = what;
    s->working = true;
    s->beat = (struct beat){.count = 0};
    work_queue(s->db->loop, &s->work, wall_of_mount(s->db->path), work, on_worked);
}

static bool under_pressure(const struct stream *s)
{
    return s->db->seen.wal_bytes > PRESSURE * s->db->source_conf.wal_limit_bytes;
}

/* What every replica has; the others are out of the race. */
static uint64_t uploaded(const struct stream *s)
{
    uint64_t least = s->size;
    for (size_t i = 0; i < s->n_legs; i++) {
        const struct stream_leg *l = &s->leg[i];
        if (l->state < LEG_ABORTS)
            least = MIN(least, l->low * store_upload_part_bytes(l->up));
    }
    return least;
}

static uint64_t in_parts(const struct stream *s)
{
    uint64_t most = 0;
    for (size_t i = 0; i < s->n_legs; i++)
        if (s->leg[i].up)
            most = MAX(most, s->leg[i].parallel * store_upload_part_bytes(s->leg[i].up));
    return most;
}

static void read_on(struct stream *s, uint64_t *wake_ms)
{
    uint64_t now = clk_mono_ms();
    if (s->working || s->closing || s->rested)
        return;
    s->punch = uploaded(s);
    if (s->done) {
        start_work(s, WORK_REST);
        return;
    }
    bool hurry = under_pressure(s);
    if (!hurry && s->size - s->punch >= AHEAD_BYTES + in_parts(s))
        return; /* an upload that ends goes on here */
    if (!hurry && s->resume_ms > now)
        *wake_ms = MIN(*wake_ms, s->resume_ms);
    else
        start_work(s, WORK_SLICE);
}

/* ---- one replica ----------------------------------------------------------------------------------- */

static void leg_over(struct stream_leg *l)
{
    l->state = LEG_OVER;
    store_upload_free(l->up);
    l->up = NULL;
    free(l->there);
    l->there = NULL;
    free(TAKE_PTR(l->key));
    l->u->streaming = false;
}

static bool parts_busy(const struct stream_leg *l)
{
    for (unsigned i = 0; i < l->parallel; i++)
        if (l->part[i].busy)
            return true;
    return false;
}

static void leg_abort(struct stream_leg *l, const struct err *e)
{
    if (l->state >= LEG_ABORTS)
        return;
    enum leg_state was = l->state;
    l->state = LEG_ABORTS;
    if (e)
        l->err = *e;
    for (unsigned i = 0; i < l->parallel; i++)
        if (l->part[i].busy)
            store_cancel(&l->part[i].req);
    if (l->asked && was == LEG_LOOKS)
        fence_look_cancel(&l->look);
    else if (l->asked)
        store_cancel(&l->req);
}

/* What store.h says may be tried again; false: it cannot. */
static bool leg_failed(struct stream_leg *l, const struct err *e)
{
    uint64_t now = clk_mono_ms();
    if (!l->retry.failures)
        l->failing_since_ms = now;
    bool again = e->code == ERR_NET || e->code == ERR_TIMEOUT || e->code == ERR_STORE;
    if (!again || now - l->failing_since_ms > GIVE_UP_MS || l->s->closing || l->s->db->low_space) {
        leg_abort(l, e);
        return false;
    }
    l->retry_at_ms = now + retry_after(&l->retry, e);
    return true;
}

static void leg_worked(struct stream_leg *l)
{
    retry_ok(&l->retry);
    l->retry_at_ms = 0;
}

static void on_part(struct store_req *req)
{
    struct stream_part *p = req->data;
    struct stream_leg *l = p->leg;
    p->busy = false;
    if (l->state == LEG_RUNS && req->err.code == ERR_OK) {
        leg_worked(l);
        p->taken = false;
        l->there[p->n] = true;
        while (l->low < l->next && l->there[l->low])
            l->low++;
    } else if (l->state == LEG_RUNS) {
        (void)leg_failed(l, &req->err);
    }
    poke(l->s);
}

/* An object of that name is there: ours, with its answer lost, or another writer's. Whichever it is, the parts
 * are not needed. */
static void judge(struct stream_leg *l)
{
    const struct stream *s = l->s;
    const struct fence_seen *seen = &l->look.seen;
    struct spool_file f = {s->info.txid, s->size, s->info.timestamp_ms, s->info.checksum, s->info.lineage, true};
    struct level_file made = {1, f.txid, f.size, f.timestamp_ms, f.checksum, f.lineage, true};
    struct err e;
    if ((l->base ? fence_judge(seen, &f, true) : fence_judge_made(seen, &made)) == FENCE_OURS) {
        f.size = seen->info.size;
        l->there_already = f;
        leg_abort(l, NULL);
        return;
    }
    (void)fence_tell(seen, &f, l->key, &e);
    uploader_fence(l->u, &e, false);
    leg_abort(l, &e);
}

static void on_looked(struct fence_look *k)
{
    struct stream_leg *l = k->data;
    l->asked = false;
    if (l->state == LEG_LOOKS && k->err.code == ERR_OK)
        judge(l);
    else if (l->state == LEG_LOOKS)
        (void)leg_failed(l, &k->err);
    poke(l->s);
}

static void on_asked(struct store_req *req)
{
    struct stream_leg *l = req->data;
    struct stream *s = l->s;
    bool ok = req->err.code == ERR_OK;
    l->asked = false;
    if (l->aborting) {
        struct spool_file f = l->there_already;
        leg_over(l); /* whatever that said */
        if (f.txid)
            database_streamed_to(s->db, l->u, l->base, &f);
    } else if (l->finishing && req->err.code == ERR_CONFLICT && l->state == LEG_FINISHES) {
        l->state = LEG_LOOKS;
    } else if (ok && l->finishing) { /* also if it was to be canceled: it is there */
        struct spool_file f = {s->info.txid, s->size, s->info.timestamp_ms, s->info.checksum, s->info.lineage, true};
        leg_over(l);
        database_streamed_to(s->db, l->u, l->base, &f);
    } else if (ok) {
        leg_worked(l);
        l->began = true;
        if (l->state == LEG_BEGINS)
            l->state = LEG_RUNS;
    } else if (l->state != LEG_ABORTS) {
        (void)leg_failed(l, &req->err);
    }
    poke(s);
}

/* The bytes of part n, if they are there already. */
static bool part_ready(const struct stream_leg *l, unsigned n, struct store_body *ret)
{
    uint64_t bytes = store_upload_part_bytes(l->up), off = n * bytes;
    if (off >= l->s->size || (off + bytes > l->s->size && !l->s->done))
        return false;
    *ret = (struct store_body){.path = l->s->info.path, .off = off, .size = MIN(bytes, l->s->size - off),
                               .file_bytes = STORE_ANY_SIZE};
    return true;
}

static void send_part(struct stream_leg *l, struct stream_part *p)
{
    p->busy = true;
    store_upload_add(l->up, &p->req, p->n, &p->body);
}

static void run_parts(struct stream_leg *l)
{
    for (unsigned i = 0; i < l->parallel; i++) {
        struct stream_part *p = &l->part[i];
        if (p->busy)
            continue;
        if (!p->taken) {
            if (!part_ready(l, l->next, &p->body))
                return;
            p->n = l->next++;
            p->taken = true;
            if (l->next > l->cap_there) {
                l->cap_there = MAX(2 * l->cap_there, 64u);
                l->there = util_realloc(l->there, l->cap_there * sizeof *l->there);
            }
            l->there[p->n] = false;
        }
        send_part(l, p);
    }
}

static bool all_there(const struct stream_leg *l)
{
    return l->s->done && l->low * store_upload_part_bytes(l->up) >= l->s->size;
}

static void leg_poke(struct stream_leg *l, uint64_t *wake_ms)
{
    uint64_t now = clk_mono_ms();
    if (l->state == LEG_OVER || l->asked)
        return;
    if (l->state == LEG_ABORTS) {
        if (parts_busy(l))
            return;
        if (!l->began) {
            leg_over(l);
            return;
        }
        l->asked = l->aborting = true;
        store_upload_abort(l->up, &l->req);
        return;
    }
    if (l->retry_at_ms > now) {
        *wake_ms = MIN(*wake_ms, l->retry_at_ms);
        return;
    }
    if (l->state == LEG_BEGINS) {
        l->asked = true;
        store_upload_begin(l->up, &l->req);
        return;
    }
    if (l->state == LEG_RUNS && all_there(l))
        l->state = LEG_FINISHES;
    if (l->state == LEG_FINISHES) {
        l->asked = l->finishing = true;
        store_upload_finish(l->up, &l->req, l->s->size);
        return;
    }
    if (l->state == LEG_LOOKS) {
        l->asked = true;
        fence_look(&l->look, l->u->store, l->key);
        return;
    }
    run_parts(l);
}

/* ---- life ------------------------------------------------------------------------------------------ */

static void on_timer(uv_timer_t *t)
{
    poke(t->data);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct stream *s = h->data;
    struct database *db = s->db;
    free(s->leg);
    free(s);
    database_streamed(db);
}

static bool legs_over(const struct stream *s)
{
    for (size_t i = 0; i < s->n_legs; i++)
        if (s->leg[i].state != LEG_OVER)
            return false;
    return true;
}

static void poke(struct stream *s)
{
    uint64_t now = clk_mono_ms(), wake_ms = UINT64_MAX;
    if (s->freed) {
        if (!uv_is_closing((uv_handle_t *)&s->timer))
            uv_close((uv_handle_t *)&s->timer, on_timer_closed);
        return;
    }
    for (size_t i = 0; i < s->n_legs; i++) {
        if (s->closing)
            leg_abort(&s->leg[i], NULL);
        leg_poke(&s->leg[i], &wake_ms);
    }
    if (legs_over(s)) {
        if (!s->working)
            start_work(s, WORK_FREE);
        return;
    }
    read_on(s, &wake_ms);
    if (wake_ms != UINT64_MAX)
        (void)uv_timer_start(&s->timer, on_timer, wake_ms > now ? wake_ms - now : 0, 0);
}

static void leg_init(struct stream *s, struct stream_leg *l, struct uploader *u)
{
    const struct snapshot_info *i = &s->info;
    struct store_meta meta = {.timestamp_ms = i->timestamp_ms, .checksum = i->checksum, .lineage = i->lineage};
    fence_sign(&meta);
    char *key = layout_key(store_type(u->store), u->replica, LTX_SNAPSHOT_LEVEL, 1, i->txid);
    *l = (struct stream_leg){.s = s, .u = u, .base = u->needs_base, .key = key};
    u->streaming = true;
    l->req.data = l;
    l->req.done = on_asked;
    l->look.data = l;
    l->look.done = on_looked;
    l->up = store_upload_new(u->store, key, &meta, STORE_IF_ABSENT, snapshot_bound(s->sn));
    if (!l->up) {
        err_set(&l->err, ERR_UNSUPPORTED, "%s: no object may be as large as this database", u->db->name);
        leg_over(l);
        return;
    }
    l->parallel = MAX(MIN(store_upload_parallel(l->up), PARTS_MAX), 1u);
    for (unsigned k = 0; k < l->parallel; k++) {
        l->part[k].leg = l;
        l->part[k].req.data = &l->part[k];
        l->part[k].req.done = on_part;
    }
}

struct stream *stream_start(struct database *db, struct snapshot *sn)
{
    struct stream *s = util_zalloc(sizeof *s);
    s->db = db;
    s->sn = sn;
    s->info = *snapshot_info(sn);
    s->work.uv.data = s;
    s->leg = util_zalloc(MAX(db->n_up, (size_t)1) * sizeof *s->leg);
    (void)uv_timer_init(db->loop, &s->timer);
    s->timer.data = s;
    for (size_t i = 0; i < db->n_up; i++)
        if (database_wants_stream(db, db->up[i], s->info.txid) && !fence_has_lost(&db->up[i]->lost, s->info.lineage))
            leg_init(s, &s->leg[s->n_legs++], db->up[i]);
    (void)uv_timer_start(&s->timer, on_timer, 0, 0); /* not from within the caller */
    return s;
}

void stream_moved(struct stream *s)
{
    if (!s->closing && !s->freed)
        poke(s);
}

void stream_close(struct stream *s)
{
    s->closing = true;
    (void)uv_timer_start(&s->timer, on_timer, 0, 0);
}

const struct err *stream_trouble(const struct stream *s, const struct uploader *u)
{
    for (size_t i = 0; i < s->n_legs; i++)
        if (s->leg[i].u == u && s->leg[i].err.code != ERR_OK)
            return &s->leg[i].err;
    return NULL;
}
