/* keeper.c - one replica's share of a history: merged files and snapshots go up, what is needed no more is
 * deleted. One request at a time, beside the uploader's, so that a large file never holds up a commit. */
#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/store/layout.h"
#include "daemon/core/history_int.h"

#define KEEPER_MAGIC 0x6eee9e57u
#define CLOCK_MENDED_MS (3600 * 1000)
#define NO_DELETE_MS (3600u * 1000)
#define LOOK_AGAIN_MS (24u * 3600 * 1000) /* nothing is due: facts are looked at once a day */

static void on_done(struct store_req *req);
static void on_asked(struct inventory_req *req);
static void on_looked(struct fence_look *l);

void keeper_init(struct keeper *k, struct history *h, struct uploader *u)
{
    *k = (struct keeper){.magic = KEEPER_MAGIC, .h = h, .u = u};
    k->req.data = k->ask.data = k;
    k->req.done = on_done;
    k->ask.done = on_asked;
    k->look.data = k;
    k->look.done = on_looked;
}

struct inventory_place keeper_place(const struct keeper *k)
{
    return (struct inventory_place){k->h->db->name, k->u->target, uploader_place(k->u, 0)};
}

bool keeper_is_quiet(const struct keeper *k)
{
    return k->doing == KEEPER_RESTS && !k->wants_snapshot && !k->snapshot.txid && !k->wants_list &&
           !k->retry.failures && !k->delete_retry.failures;
}

/* ---- outcome ----------------------------------------------------------------------------------- */

/* Remember it, and when it is tried again. Whether it is another trouble than before, which is said once. */
static bool take_trouble(const struct err *e, struct retry *retry, struct err **ret_last, uint64_t *ret_until_ms,
                         char dur[static 32])
{
    bool news = !*ret_last || (*ret_last)->code != e->code;
    uint64_t wait = retry_after(retry, e);
    if (!*ret_last)
        *ret_last = util_alloc(sizeof **ret_last);
    **ret_last = *e;
    *ret_until_ms = clk_mono_ms() + wait;
    (void)util_duration(dur, wait);
    return news;
}

void keeper_failed(struct keeper *k, const struct err *e, const char *what)
{
    char dur[32];
    if (take_trouble(e, &k->retry, &k->err, &k->retry_at_ms, dur)) {
        log_about(LOG_HISTORY_FAILED, k->h->db->name, k->u->target, NULL);
        log_err(LOG_WARN, e, "%s -> %s: %s, next try in %s", k->h->db->name, k->u->target, what, dur);
    }
}

void keeper_worked(struct keeper *k)
{
    if (k->retry.failures) {
        log_about(LOG_HISTORY_WORKS, k->h->db->name, k->u->target, NULL);
        log_line(LOG_NOTICE, "%s -> %s: history works again", k->h->db->name, k->u->target);
    }
    retry_ok(&k->retry);
    free(k->err);
    k->err = NULL;
    k->retry_at_ms = 0;
}

static void rest(struct keeper *k)
{
    k->doing = KEEPER_RESTS;
    history_poke(k->h);
}

/* ---- the inventory ----------------------------------------------------------------------------- */

static void ask(struct keeper *k, enum inventory_do what)
{
    const struct history_conf *c = &k->h->db->conf.history;
    k->doing = KEEPER_ASKS;
    k->ask.what = what;
    k->ask.at = keeper_place(k);
    k->ask.rules = (struct inventory_rules){
        .now_ms = history_time(k->h->shared),
        .window_ms = c->retention_ms + c->delete_delay_ms,
        .l0_window_ms = c->l0_retention_ms + c->delete_delay_ms,
    };
    inventory_ask(k->h->shared->inventory, &k->ask);
}

static void take_facts(struct keeper *k)
{
    k->facts = k->ask.facts;
    k->has_facts = true;
    k->stale = false;
    for (unsigned i = 0; i < SPOOL_LEVELS; i++)
        k->has[i] = MAX(k->has[i], k->facts.newest[i + 1]);
    k->u->snapshot_txid = k->facts.snapshot_txid;
    k->u->snapshot_ms = k->facts.snapshot_ms;
    k->u->oldest_ms = k->facts.oldest_ms;
}

static void forget_doomed(struct keeper *k)
{
    for (size_t i = 0; k->doomed_key && i < k->ask.n; i++)
        free((char *)(uintptr_t)k->doomed_key[i]);
    free(k->doomed_key);
    free(k->ask.object);
    k->doomed_key = NULL;
    k->ask.object = NULL;
    k->ask.n = 0;
}

/* ---- deleting ---------------------------------------------------------------------------------- */

static void delete_doomed(struct keeper *k)
{
    size_t n = k->ask.n;
    k->doing = KEEPER_DELETES;
    k->doomed_key = util_zalloc(n * sizeof(char *));
    for (size_t i = 0; i < n; i++) {
        const struct inventory_object *o = &k->ask.object[i];
        k->doomed_key[i] = layout_key(store_type(k->u->store), k->u->replica, o->level, o->min, o->max);
    }
    store_delete(k->u->store, &k->req, k->doomed_key, n);
}

static void deletes_again(struct keeper *k)
{
    if (k->delete_err)
        log_line(LOG_NOTICE, "%s -> %s: deleting old files works again", k->h->db->name, k->u->target);
    retry_ok(&k->delete_retry);
    free(TAKE_PTR(k->delete_err));
    k->no_delete_until_ms = 0;
}

static void delete_failed(struct keeper *k, const struct err *e)
{
    char dur[32];
    if (take_trouble(e, &k->delete_retry, &k->delete_err, &k->no_delete_until_ms, dur))
        log_err(LOG_WARN, e, "%s -> %s: old files not deleted, next try in %s", k->h->db->name, k->u->target, dur);
}

/* Keys that may write and not delete are a good idea: no reason to complain for ever. */
static void not_deleted(struct keeper *k)
{
    const struct err *e = &k->req.err;
    forget_doomed(k);
    bool passes = retry_class(e) == RETRY_RESIGN; /* a clock, a token: with others it works again */
    if ((e->code != ERR_AUTH && e->code != ERR_PERM) || passes) {
        delete_failed(k, e);
        return;
    }
    retry_ok(&k->delete_retry);
    free(TAKE_PTR(k->delete_err));
    if (!k->may_not_delete)
        log_err(LOG_WARN, e,
                "%s -> %s: the store does not let old files be deleted; if that is meant to be, set delete = no",
                k->h->db->name, k->u->target);
    k->may_not_delete = true;
    k->no_delete_until_ms = clk_mono_ms() + NO_DELETE_MS;
}

static void deleted(struct keeper *k)
{
    log_line(LOG_INFO, "%s -> %s: %zu file%s older than the retention deleted", k->h->db->name, k->u->target,
             k->ask.n, PLURAL(k->ask.n));
    k->u->deleted += k->ask.n;
    k->may_not_delete = false;
    deletes_again(k);
    ask(k, INVENTORY_REMOVE);
}

static void on_asked(struct inventory_req *req)
{
    struct keeper *k = req->data;
    if (k->magic != KEEPER_MAGIC)
        abort();
    if (k->closing || req->err.code != ERR_OK) {
        forget_doomed(k);
        if (req->err.code != ERR_OK) { /* said by the inventory, once for all */
            (void)retry_after(&k->retry, &req->err);
            k->retry_at_ms = clk_mono_ms() + 5000;
        }
    } else if (req->what == INVENTORY_REMOVE) {
        forget_doomed(k);
        k->stale = true;
    } else {
        take_facts(k);
        if (!k->err) /* a store's trouble is not over because the inventory answered */
            keeper_worked(k);
        if (req->what == INVENTORY_DOOMED && req->n) {
            delete_doomed(k);
            return;
        }
        if (req->what == INVENTORY_DOOMED)
            deletes_again(k); /* or need not */
        forget_doomed(k);
    }
    rest(k);
}

/* ---- uploading --------------------------------------------------------------------------------- */

/* What a higher level has as well need not go up any more. */
static bool is_covered(const struct history *h, unsigned level, const struct level_file *f)
{
    for (unsigned i = level; i < SPOOL_LEVELS; i++)
        for (size_t j = 0; j < h->level[i].n; j++)
            if (h->level[i].file[j].min <= f->min && h->level[i].file[j].max >= f->max)
                return true;
    return false;
}

bool keeper_needs(const struct keeper *k, unsigned level, const struct level_file *f)
{
    return f->max > k->has[level - 1] && !is_covered(k->h, level, f) && !fence_has_lost(&k->u->lost, f->lineage);
}

/* Between what the replica has above level 0 and this file there is something that only level 0
 * has: where walsup took over, or behind a whole database that is not merged. Litestream, handed
 * the replica back, would delete it from level 0. A snapshot in between makes it dispensable. */
static bool leaves_hole(const struct keeper *k, const struct level_file *f)
{
    uint64_t reach = k->facts.newest[LTX_SNAPSHOT_LEVEL];
    bool merged = false;
    for (unsigned i = 0; i < SPOOL_LEVELS; i++) {
        reach = MAX(reach, k->has[i]);
        merged = merged || k->has[i];
    }
    return merged && f->min > reach + 1;
}

/* Higher levels first: they fill what the lower ones skipped. Level 0 goes before all of them. */
static const struct level_file *next_file(struct keeper *k, unsigned *ret_level)
{
    for (unsigned level = SPOOL_LEVELS; level; level--) {
        const struct level_list *l = &k->h->level[level - 1];
        for (size_t i = 0; i < l->n; i++)
            if (keeper_needs(k, level, &l->file[i])) {
                if (leaves_hole(k, &l->file[i])) {
                    k->wants_snapshot = true;
                    return NULL;
                }
                *ret_level = level;
                return l->file[i].max <= k->u->acked ? &l->file[i] : NULL;
            }
    }
    return NULL;
}

static void send_file(struct keeper *k, unsigned level, const struct level_file *f, char *path)
{
    k->doing = KEEPER_SENDS;
    k->level = level;
    k->sending = *f;
    k->path = path;
    k->key = layout_key(store_type(k->u->store), k->u->replica, level, f->min, f->max);
    k->body = (struct store_body){.path = path, .size = f->size};
    k->meta = (struct store_meta){.timestamp_ms = f->timestamp_ms, .checksum = f->checksum, .lineage = f->lineage};
    fence_sign(&k->meta);
    store_put(k->u->store, &k->req, k->key, &k->body, &k->meta, STORE_IF_ABSENT);
}

static bool send_something(struct keeper *k)
{
    const char *dir = k->h->db->dir;
    unsigned level;
    const struct level_file *f = next_file(k, &level);
    if (f) {
        send_file(k, level, f, spool_level_path(dir, level, f->min, f->max));
        return true;
    }
    struct spool_file *s = &k->snapshot;
    if (fence_has_lost(&k->u->lost, s->lineage))
        s->txid = 0; /* made before the takeover */
    if (!s->txid || k->u->acked < s->txid)
        return false;
    send_file(
        k, LTX_SNAPSHOT_LEVEL,
        &(struct level_file){1, s->txid, s->size, s->timestamp_ms, s->checksum, s->lineage, true},
        spool_snapshot_path(dir, s->txid));
    return true;
}

void keeper_stored(struct keeper *k, unsigned level, const struct level_file *f)
{
    struct inventory_place at = keeper_place(k);
    inventory_added(k->h->shared->inventory, &at,
                    &(struct inventory_object){level, f->min, f->max, f->size, f->timestamp_ms});
    k->u->uploads++;
    k->u->bytes += f->size;
    k->u->level_bytes[level] += f->size;
    if (level == LTX_SNAPSHOT_LEVEL) {
        char size[32];
        log_line(LOG_INFO, "%s -> %s: snapshot of TXID %016" PRIx64 ", %s", k->h->db->name, k->u->target, f->max,
                 util_size(size, f->size));
        k->snapshot.txid = 0;
        k->wants_snapshot = false;
        k->stale = true;
        k->u->snapshot_txid = f->max;
        k->u->snapshot_bytes = f->size;
        k->u->snapshot_ms = f->timestamp_ms;
        uploader_anchored(k->u, f->max);
    } else {
        k->has[level - 1] = MAX(k->has[level - 1], f->max);
    }
    keeper_worked(k);
}

static void sent(struct keeper *k)
{
    keeper_stored(k, k->level, &k->sending);
    if (k->level == LTX_SNAPSHOT_LEVEL)
        database_snapshot_used(k->h->db, k->sending.max);
}

/* Not to be tried again: another snapshot can be made, and level 0 has what a merged file has. */
static void let_go(struct keeper *k)
{
    if (k->level == LTX_SNAPSHOT_LEVEL)
        k->snapshot.txid = 0;
    else
        k->has[k->level - 1] = MAX(k->has[k->level - 1], k->sending.max);
}

static void not_sent(struct keeper *k)
{
    if (k->req.err.body_gone) {
        let_go(k); /* dropped from the spool for want of room */
        return;
    }
    keeper_failed(k, &k->req.err,
                  k->level == LTX_SNAPSHOT_LEVEL ? "snapshot not uploaded"
                                                 : "merged file not uploaded");
}

static void sending_over(struct keeper *k)
{
    free(TAKE_PTR(k->key));
    free(TAKE_PTR(k->path));
    rest(k);
}

/* An object of that name is there: ours, from before a crash or with its answer lost, or another writer's. */
static void on_looked(struct fence_look *l)
{
    struct keeper *k = l->data;
    if (k->magic != KEEPER_MAGIC)
        abort();
    if (l->err.code != ERR_OK) {
        if (!k->closing)
            keeper_failed(k, &l->err, "what is in the way of a file was not read");
    } else if (fence_judge_made(&l->seen, &k->sending) == FENCE_OURS) {
        sent(k);
    } else if (!k->closing) { /* else the next process meets it again */
        struct err e;
        struct spool_file mine = {.txid = k->sending.max, .lineage = k->sending.lineage};
        (void)fence_tell(&l->seen, &mine, k->key, &e);
        let_go(k); /* after a takeover its name is still the other's */
        uploader_fence(k->u, &e, false);
    }
    sending_over(k);
}

static void on_done(struct store_req *req)
{
    struct keeper *k = req->data;
    if (k->magic != KEEPER_MAGIC)
        abort();
    bool ok = req->err.code == ERR_OK;
    if (k->doing == KEEPER_DELETES) {
        if (ok && !k->closing) {
            deleted(k);
            return;
        }
        if (k->closing)
            forget_doomed(k);
        else
            not_deleted(k);
        rest(k);
        return;
    }
    if (req->err.code == ERR_CONFLICT && !k->closing) {
        k->doing = KEEPER_LOOKS;
        fence_look(&k->look, k->u->store, k->key);
        return;
    }
    if (ok) /* also when it is the last thing to happen: it is in the replica */
        sent(k);
    else if (!k->closing)
        not_sent(k);
    sending_over(k);
}

/* ---- what is next ------------------------------------------------------------------------------ */

static bool is_settled(const struct keeper *k)
{
    return k->u->known && !k->u->fenced && !k->u->needs_base && !k->h->db->flushing;
}

/* Monotonic; HISTORY_NEVER: it waits for something else than time. */
static uint64_t retain_due(const struct keeper *k)
{
    if (!k->u->may_delete || !k->facts.retain_due_ms)
        return HISTORY_NEVER;
    int64_t left = k->facts.retain_due_ms - history_time(k->h->shared);
    uint64_t at = clk_mono_ms() + (left > 0 ? MIN((uint64_t)left, (uint64_t)LOOK_AGAIN_MS) : 0);
    return MAX(at, k->no_delete_until_ms);
}

/* When the next snapshot is due; now, if nothing is known of one although there should be. */
static uint64_t snapshot_due(const struct keeper *k)
{
    const struct database *db = k->h->db;
    uint64_t interval = db->conf.history.snapshot_ms;
    if (!interval || !db->txid || k->facts.snapshot_txid >= db->txid || k->wants_snapshot)
        return HISTORY_NEVER;
    if (!k->facts.snapshot_ms)
        return k->facts.known ? 0 : HISTORY_NEVER; /* else the listing tells */
    if (k->facts.snapshot_stored_ms > clk_real_ms() + CLOCK_MENDED_MS)
        return 0; /* by a clock that was ahead: it tells nothing */
    return history_due_at(history_boundary(db, k->facts.snapshot_stored_ms, interval), interval);
}

uint64_t keeper_poke(struct keeper *k)
{
    uint64_t now = clk_mono_ms();
    if (k->doing != KEEPER_RESTS || k->closing)
        return HISTORY_NEVER;
    if (k->retry_at_ms > now)
        return k->retry_at_ms;
    if (!k->has_facts || k->stale) {
        ask(k, INVENTORY_FACTS);
        return HISTORY_NEVER;
    }
    if (!is_settled(k))
        return HISTORY_NEVER;
    if (!k->facts.known && !k->facts.snapshot_ms) { /* somebody else began it, or everything was forgotten */
        keeper_list_start(k);
        return HISTORY_NEVER;
    }
    if (send_something(k))
        return HISTORY_NEVER;
    uint64_t retain = retain_due(k), snapshot = snapshot_due(k);
    if (k->wants_list || (!k->facts.known && retain <= now)) {
        keeper_list_start(k);
        return HISTORY_NEVER;
    }
    if (retain <= now) {
        ask(k, INVENTORY_DOOMED);
        return HISTORY_NEVER;
    }
    if (snapshot <= now) {
        k->wants_snapshot = true;
        snapshot = HISTORY_NEVER;
    } else if (k->err) {
        keeper_worked(k); /* what failed is not needed any more */
    }
    return MIN(retain, snapshot);
}

void keeper_listed(struct keeper *k)
{
    k->req.done = on_done;
    k->ask.done = on_asked;
    rest(k);
}

/* ---- closing ----------------------------------------------------------------------------------- */

bool keeper_close(struct keeper *k)
{
    if (!k->closing) {
        k->closing = true;
        if (k->doing == KEEPER_SENDS || k->doing == KEEPER_DELETES)
            store_cancel(&k->req);
        else if (k->doing == KEEPER_LOOKS)
            fence_look_cancel(&k->look);
        else if (k->doing == KEEPER_LISTS)
            keeper_list_cancel(k);
    }
    if (k->doing != KEEPER_RESTS)
        return false;
    free(TAKE_PTR(k->err));
    free(TAKE_PTR(k->delete_err));
    return true;
}
