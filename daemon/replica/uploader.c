#include "daemon/replica/uploader_int.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/format/crc64.h"
#include "common/store/layout.h"
#include "daemon/core/database.h"
#include "daemon/os/walls.h"
#include "daemon/replica/fence_probe.h"

#define TXID_MAX (1ull << 62)
#define UPLOADER_MAGIC 0x0b10ade7u

static void on_timer(uv_timer_t *t);
static void on_done(struct store_req *req);
static void listed(struct uploader *u, bool ours);

struct uploader *uploader_new(struct database *db, const struct database_replica *r)
{
    struct uploader *u = util_zalloc(sizeof *u);
    u->magic = UPLOADER_MAGIC;
    u->db = db;
    u->store = r->store;
    u->target = util_strdup(r->target);
    u->replica = util_strdup(r->path);
    u->interval_ms = r->interval_ms;
    u->may_delete = r->may_delete;
    (void)uv_timer_init(db->loop, &u->timer);
    u->timer.data = u;
    u->timer_open = true;
    return u;
}

/* ---- closing: one barrier ---------------------------------------------------------------------- */

static void maybe_closed(struct uploader *u)
{
    if (!u->closing || u->flight || u->noting || u->timer_open)
        return;
    database_uploader_closed(u->db, u);
}

void uploader_free(struct uploader *u)
{
    free(u->target);
    free(u->replica);
    free(u->newest);
    free(u->err);
    free(u->broken);
    u->magic = 0;
    free(u);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct uploader *u = h->data;
    u->timer_open = false;
    maybe_closed(u);
}

void uploader_close(struct uploader *u)
{
    if (u->closing)
        return;
    u->closing = true;
    if (uploader_look_close(u))
        ;
    else if (u->flight && u->flight->what == FLIGHT_IN_THE_WAY)
        fence_look_cancel(&u->flight->look);
    else if (u->flight)
        store_cancel(&u->flight->req);
    uv_close((uv_handle_t *)&u->timer, on_timer_closed);
}

/* ---- requests ----------------------------------------------------------------------------------- */

struct uploader_flight *uploader_take_off(struct uploader *u, enum flight_kind what, char *key)
{
    struct uploader_flight *f = util_zalloc(sizeof *f);
    f->what = what;
    f->key = key;
    f->req.data = u;
    f->req.done = on_done;
    u->flight = f;
    return f;
}

static void land(struct uploader_flight *f)
{
    free(f->key);
    free(f->path);
    free(f->after);
    free(f->looking);
    buf_free(&f->mark);
    free(f);
}

/* ---- what the replica has ---------------------------------------------------------------------- */

uint64_t uploader_place(const struct uploader *u, uint64_t lineage)
{
    const char *where = store_describe(u->store);
    return lineage ^ crc64(crc64(0, where, strlen(where) + 1), u->replica, strlen(u->replica));
}

void uploader_learn(struct uploader *u, bool known, uint64_t acked)
{
    u->known = known;
    u->acked = u->noted = known ? acked : 0;
    if (known && acked)
        uploader_look_plan(u);
}

static int on_item(void *arg, const struct store_object *o, struct err *e)
{
    (void)e;
    struct uploader *u = arg;
    uint64_t min, max;
    if (!layout_parse(o->key, &min, &max) || max > TXID_MAX)
        return 0; /* nobody ever counted that far: not a file of a replica */
    if (u->list_level == 0)
        u->list_l0 = MAX(u->list_l0, max);
    if (max <= u->list_max)
        return 0;
    u->list_max = max;
    free(u->newest);
    u->newest = util_strdup(o->key);
    return 0;
}

static void list_level(struct uploader *u)
{
    struct uploader_flight *f =
        uploader_take_off(u, FLIGHT_LIST, layout_prefix(store_type(u->store), u->replica, u->list_level));
    store_list(u->store, &f->req, f->key, NULL, on_item, u);
}

static int on_head(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    struct uploader_flight *f = arg;
    n = MIN(n, sizeof f->head - f->head_n);
    memcpy(f->head + f->head_n, p, n);
    f->head_n += n;
    return 0;
}

/* Numbers alone do not tell: another history, of state that was lost or of another machine, has the
 * same ones. The newest file names its lineage. */
static void probe(struct uploader *u)
{
    struct uploader_flight *f = uploader_take_off(u, FLIGHT_PROBE, NULL);
    store_get(u->store, &f->req, u->newest, 0, sizeof f->head, on_head, f, NULL);
}

static int on_ahead(void *arg, const struct store_object *o, struct err *e)
{
    (void)e;
    struct uploader_flight *f = arg;
    const struct uploader *u = f->req.data;
    uint64_t min, max;
    if (layout_parse(o->key, &min, &max) && max <= TXID_MAX && min > u->acked && (!f->ahead || min < f->ahead))
        f->ahead = min;
    return 0;
}

/* A base is as large as the database: it is not made for a store that is away. And it may bear a name that is
 * free although another writer went on at level 0, whose chain it would break. */
static void look_ahead(struct uploader *u)
{
    struct uploader_flight *f = uploader_take_off(u, FLIGHT_AHEAD, layout_prefix(store_type(u->store), u->replica, 0));
    f->after = layout_key(store_type(u->store), u->replica, 0, u->acked, u->acked);
    store_list(u->store, &f->req, f->key, f->after, on_ahead, f);
}

/* The next name, which the other writer would use, is made ours before anything else. */
static void mark(struct uploader *u)
{
    uint64_t txid = u->list_max + 1;
    struct uploader_flight *f =
        uploader_take_off(u, FLIGHT_MARK, layout_key(store_type(u->store), u->replica, 0, txid, txid));
    fence_mark(&f->mark, txid, u->db->seen.page_size, u->db->seen.pages);
    f->body = (struct store_body){.p = f->mark.p, .size = f->mark.len};
    fence_sign(&f->meta);
    store_put(u->store, &f->req, f->key, &f->body, &f->meta, STORE_IF_ABSENT);
}

static void marked(struct uploader *u, const struct uploader_flight *f, bool in_time)
{
    if (!in_time)
        return; /* it was quicker: list again */
    u->list_l0 = ++u->list_max;
    u->takeover = false;
    struct spool_file mine = {.txid = u->list_max, .size = f->body.size, .timestamp_ms = clk_real_ms()};
    history_stored(u->db, u, 0, mine.txid, &mine);
    history_heal(u->db, u); /* what the other one stored is in no inventory of ours */
    database_uploader_takes_over(u->db, u->list_max);
    listed(u, false);
}

static void listed(struct uploader *u, bool ours)
{
    if (u->takeover && u->list_max) {
        mark(u);
        return;
    }
    u->takeover = false;
    u->known = true;
    /* the L0 file that belongs to the base may be missing still, see uploader_sent() */
    u->acked = u->list_l0 < u->list_max ? u->list_max - 1 : u->list_max;
    free(u->newest);
    u->newest = NULL;
    if (!u->list_max)
        history_empty(u->db, u);
    else
        uploader_look_plan(u);
    database_uploader_listed(u->db, u, u->list_max, ours);
}

static void on_listed(struct uploader *u)
{
    if (u->list_level < LTX_SNAPSHOT_LEVEL) {
        u->list_level++;
        list_level(u);
    } else if (u->list_max && u->db->has_history) {
        probe(u);
    } else {
        listed(u, false);
    }
}

static void on_probed(struct uploader *u, const struct uploader_flight *f)
{
    struct ltx_header h;
    listed(u, f->head_n == sizeof f->head && ltx_header_decode(f->head, &h, NULL) == 0 &&
                  h.node_id == u->db->loaded_lineage && u->list_max <= u->db->loaded_txid);
}

/* ---- uploading --------------------------------------------------------------------------------- */

const struct spool_file *uploader_next_file(const struct uploader *u)
{
    const struct database *db = u->db;
    for (size_t i = 0; i < db->n_files; i++)
        if (db->file[i].txid > u->acked)
            return &db->file[i];
    return NULL;
}

uint64_t uploader_pending(const struct uploader *u, uint64_t *ret_files)
{
    uint64_t bytes = 0;
    *ret_files = 0;
    for (size_t i = u->db->n_files; i > 0 && u->db->file[i - 1].txid > u->acked; i--) {
        bytes += u->db->file[i - 1].size;
        (*ret_files)++;
    }
    return bytes;
}

bool uploader_has(const struct uploader *u, uint64_t txid)
{
    return u->known && !u->needs_base && u->acked >= txid && uploader_is_seen(u);
}

uint64_t uploader_due_ms(const struct uploader *u)
{
    return u->next_due_ms;
}

static void arm(struct uploader *u, uint64_t at_ms)
{
    uint64_t now = clk_mono_ms();
    (void)uv_timer_start(&u->timer, on_timer, at_ms > now ? at_ms - now : 0, 0);
}

static void send_file(struct uploader *u, const struct spool_file *file, unsigned level, uint64_t min,
                      char *path)
{
    struct uploader_flight *f =
        uploader_take_off(u, level == LTX_SNAPSHOT_LEVEL ? FLIGHT_BASE : FLIGHT_FILE,
                 layout_key(store_type(u->store), u->replica, level, min, file->txid));
    f->sending = *file;
    f->path = path;
    f->body = (struct store_body){.path = path, .size = file->size};
    f->meta = (struct store_meta){.timestamp_ms = file->timestamp_ms,
                                  .checksum = file->checksum,
                                  .lineage = file->lineage};
    fence_sign(&f->meta);
    store_put(u->store, &f->req, f->key, &f->body, &f->meta, STORE_IF_ABSENT);
}

/* The replica's chain must go on with exactly the next TXID; else it needs a base that covers the
 * gap. */
static bool fits(const struct uploader *u, const struct spool_file *f)
{
    return f->txid == u->acked + 1 && !fence_has_lost(&u->lost, f->lineage);
}

void uploader_poke(struct uploader *u)
{
    if (u->closing || u->flight || !u->db->loaded || (u->fenced && !u->undo_base) || (u->needs_base && u->streaming))
        return;
    uint64_t now = clk_mono_ms();
    if (u->retry_at_ms > now) {
        arm(u, u->retry_at_ms);
        return;
    }
    if (u->fenced) {
        uploader_undo_base(u);
        return;
    }
    if (!u->known) {
        u->list_level = 0;
        u->list_max = u->list_l0 = 0;
        list_level(u);
        return;
    }
    const struct spool_file *f = uploader_next_file(u);
    if (u->look_wanted && !u->needs_base && !u->broken && u->acked) {
        uploader_look(u);
        return;
    }
    if (!f && u->acked < u->db->txid)
        u->needs_base = true; /* what it lacks is in the spool no more: a target added later */
    if ((!f && !u->needs_base) || !u->db->numbered) {
        u->flush = false;
        return;
    }
    if (!u->snapshot.txid && (!f || u->needs_base || !fits(u, f))) {
        u->needs_base = true;
        if ((u->retry.failures && !u->broken) || !u->alone)
            look_ahead(u);
        else
            database_want_snapshot(u->db, true); /* it comes back with u->snapshot set */
        return;
    }
    bool in_batch = f && f->txid <= u->batch_last;
    if (!in_batch && !u->flush && !u->db->flushing && u->next_due_ms > now) {
        arm(u, u->next_due_ms);
        return;
    }
    if (!in_batch && u->db->n_files) {
        u->batch_last = u->db->file[u->db->n_files - 1].txid;
        u->next_due_ms = now + u->interval_ms;
    }
    if (!u->snapshot.txid && f && uploader_look_first(u))
        uploader_look(u);
    else if (u->snapshot.txid)
        send_file(u, &u->snapshot, LTX_SNAPSHOT_LEVEL, 1,
                  spool_snapshot_path(u->db->dir, u->snapshot.txid));
    else if (f)
        send_file(u, f, 0, f->txid, spool_path(u->db->dir, f->txid));
}

static void on_timer(uv_timer_t *t)
{
    uploader_poke(t->data);
}

/* ---- remembering ------------------------------------------------------------------------------- */

static void note_work(uv_work_t *w)
{
    struct uploader *u = w->data;
    if (u->noting_fence > 0)
        (void)fence_write(u->db->dir, u->target, &u->noting_err, NULL);
    else if (u->noting_fence < 0 && fence_lost_write(u->db->dir, u->target, &u->noting_lost, NULL) == 0)
        (void)fence_remove(u->db->dir, u->target, NULL);
    (void)spool_acked_write(u->db->dir, u->target, u->noting_lineage, u->noting_txid, NULL);
}

static void note_done(uv_work_t *w, int status)
{
    (void)status;
    struct uploader *u = w->data;
    u->noting = false;
    u->noted = u->noting_txid;
    if (u->closing) {
        maybe_closed(u);
        return;
    }
    uploader_note(u);
    database_uploader_changed(u->db, u); /* the files it covers may be dropped now */
}

/* A hint only: when it is lost or old the store is listed. Spool files are dropped only after it covers
 * them, so that this is rare. */
void uploader_note(struct uploader *u)
{
    if (u->noting || (u->noted == u->acked && u->fence_noted == u->fenced))
        return;
    u->noting_fence = u->fence_noted == u->fenced ? 0 : u->fenced ? 1 : -1;
    u->fence_noted = u->fenced;
    if (u->noting_fence > 0 && u->err)
        u->noting_err = *u->err;
    u->noting_lost = u->lost;
    u->noting = true;
    u->noting_txid = u->acked;
    u->noting_lineage = uploader_place(u, u->db->seen.lineage);
    u->note.uv.data = u;
    work_queue(u->db->loop, &u->note, WALL_OWN, note_work, note_done);
}

/* ---- outcome ----------------------------------------------------------------------------------- */

void uploader_failed(struct uploader *u, const struct uploader_flight *f)
{
    const struct err *e = &f->req.err;
    if (u->fenced)
        return;
    bool news = !u->err || u->err->code != e->code;
    uint64_t wait = retry_after(&u->retry, e);
    if (!u->err)
        u->err = util_alloc(sizeof *u->err);
    *u->err = *e;
    u->retry_at_ms = clk_mono_ms() + wait;
    if (e->retry == RETRY_BUG) /* does it refuse the condition? */
        fence_probe(u->store, u->target, u->may_delete);
    if (news) {
        char dur[32];
        log_about(LOG_NOT_UPLOADED, u->db->name, u->target, "error");
        log_err(LOG_WARN, e, "%s -> %s: not uploaded, next try in %s", u->db->name, u->target,
                util_duration(dur, wait));
    }
    if (e->body_gone && f->path) {
        /* the spool file itself is gone: nothing but a new base helps */
        u->gone = MAX(u->gone, f->what == FLIGHT_BASE ? 0 : f->sending.txid);
        u->snapshot.txid = 0;
        u->needs_base = true;
        retry_ok(&u->retry); /* the store is not to blame */
        database_want_snapshot(u->db, true);
    }
}

void uploader_succeeded(struct uploader *u)
{
    u->contact_ms = clk_mono_ms();
    if (u->fenced)
        return; /* while it was under way; that is not undone by it */
    if (u->broken) { /* which lasts until a whole database is there, whatever else works */
        if (!u->retry.failures)
            (void)retry_after(&u->retry, u->broken);
        if (!u->err)
            u->err = util_alloc(sizeof *u->err);
        *u->err = *u->broken;
        u->retry_at_ms = 0;
        return;
    }
    if (u->retry.failures) {
        char dur[32];
        log_about(LOG_UPLOADED_AGAIN, u->db->name, u->target, "ok");
        log_line(LOG_NOTICE, "%s -> %s: works again after %u failed attempt%s in %s", u->db->name,
                 u->target, u->retry.failures, PLURAL(u->retry.failures),
                 util_duration(dur, (uint64_t)MAX(clk_real_ms() - u->retry.since_ms, (int64_t)0)));
    }
    retry_ok(&u->retry);
    free(u->err);
    u->err = NULL;
    u->retry_at_ms = 0;
}

/* A base stands for everything up to its TXID. The L0 file of that very TXID follows all the same:
 * Litestream, taking over, sees only level 0, and would number from 1 again below the base. */
static void take_base(struct uploader *u, uint64_t txid)
{
    u->acked = MAX(u->acked, txid - 1);
    const struct spool_file *f = uploader_next_file(u);
    if (!f || f->txid != txid || txid <= u->gone)
        u->acked = MAX(u->acked, txid);
    u->snapshot.txid = 0;
    u->needs_base = u->alone = false;
    u->own_base = txid;
}

static void count_upload(struct uploader *u, const struct spool_file *f, bool base)
{
    u->last_success_ms = clk_real_ms(); /* of an upload: a listing stores nothing */
    fence_probe(u->store, u->target, u->may_delete);
    u->uploads++;
    u->bytes += f->size;
    history_stored(u->db, u, base ? LTX_SNAPSHOT_LEVEL : 0, base ? 1 : f->txid, f);
}

void uploader_sent(struct uploader *u, const struct uploader_flight *flight)
{
    uint64_t txid = flight->sending.txid;
    bool base = flight->what == FLIGHT_BASE;
    count_upload(u, &flight->sending, base);
    if (base || txid == 1)
        uploader_anchored(u, txid);
    if (!base) {
        u->acked = MAX(u->acked, txid);
        u->own_base = 0; /* somebody's at its TXID would have been in the way */
        return;
    }
    take_base(u, txid);
    database_snapshot_used(u->db, txid);
}

/* ---- what came of it ------------------------------------------------------------------------------ */

void uploader_based(struct uploader *u, const struct spool_file *f)
{
    count_upload(u, f, true);
    uploader_anchored(u, f->txid);
    take_base(u, f->txid);
    uploader_note(u);
    database_uploader_changed(u->db, u);
    uploader_poke(u);
}

void uploader_landed(struct uploader *u, struct uploader_flight *f)
{
    land(f);
    if (u->closing) {
        maybe_closed(u);
        return;
    }
    database_uploader_changed(u->db, u);
    uploader_poke(u);
}

static void on_success(struct uploader *u, const struct uploader_flight *f)
{
    uploader_succeeded(u);
    switch (f->what) {
    case FLIGHT_LIST:
        on_listed(u);
        break;
    case FLIGHT_PROBE:
        on_probed(u, f);
        break;
    case FLIGHT_AHEAD:
        uploader_ahead_listed(u, f);
        break;
    default:
        uploader_sent(u, f);
        uploader_note(u);
    }
}

static void on_done(struct store_req *req)
{
    struct uploader *u = req->data;
    struct uploader_flight *f = TAKE_PTR(u->flight);
    bool put = f->what == FLIGHT_FILE || f->what == FLIGHT_BASE;
    if (u->closing)
        ;
    else if (f->what == FLIGHT_LOOK) {
        if (uploader_looked(u, f))
            return;
    } else if (f->what == FLIGHT_UNDO)
        uploader_undone(u, f);
    else if (f->what == FLIGHT_MARK && (req->err.code == ERR_OK || req->err.code == ERR_CONFLICT))
        marked(u, f, req->err.code == ERR_OK);
    else if (put && req->err.code == ERR_CONFLICT)
        uploader_look_in_the_way(u, &f->sending, f->what == FLIGHT_BASE, TAKE_PTR(f->key));
    else if (req->err.code != ERR_OK)
        uploader_failed(u, f);
    else
        on_success(u, f);
    uploader_landed(u, f);
}
