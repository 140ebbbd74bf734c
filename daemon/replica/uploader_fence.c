/* uploader_fence.c - somebody else writes to the replica: noticed, remembered, told; and what was
 * stored before that and does not fit is taken back. */
#include "daemon/replica/uploader_int.h"

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/store/layout.h"
#include "daemon/core/database.h"

static void on_looked(struct fence_look *l);

void uploader_fence(struct uploader *u, const struct err *why, bool noted)
{
    u->fenced = true;
    u->fence_noted = noted;
    active_add(u->db->active, u->db);
    if (!u->err)
        u->err = util_alloc(sizeof *u->err);
    *u->err = *why;
    if (!u->retry.failures)
        (void)retry_after(&u->retry, why);
    u->retry_at_ms = 0;
    log_about(LOG_FENCED, u->db->name, u->target, "fenced");
    log_err(LOG_ERROR, why, "%s -> %s", u->db->name, u->target);
    if (!noted)
        uploader_note(u);
}

void uploader_takeover(struct uploader *u)
{
    log_line(LOG_NOTICE, "%s -> %s: taken over", u->db->name, u->target);
    u->fenced = u->known = u->alone = u->undo_base = false;
    active_add(u->db->active, u->db);
    u->own_base = u->snapshot.txid = 0;
    fence_lose(&u->lost, u->db->seen.lineage);
    u->takeover = u->flush = true;
    uploader_succeeded(u);
    uploader_note(u);
    uploader_poke(u);
}

/* An object of that name is there. Ours, whose acknowledgement was lost, or another writer's? */
void uploader_look_in_the_way(struct uploader *u, const struct spool_file *mine, bool base, char *key)
{
    struct uploader_flight *f = uploader_take_off(u, FLIGHT_IN_THE_WAY, key);
    f->sending = *mine;
    f->base = base;
    f->look.done = on_looked;
    f->look.data = u;
    fence_look(&f->look, u->store, f->key);
}

static void judge_in_the_way(struct uploader *u, struct uploader_flight *f)
{
    struct level_file gone = {.min = f->sending.txid, .max = f->sending.txid, .lineage = f->sending.lineage};
    bool is_gone = !f->base && f->sending.txid <= u->gone; /* there is nothing left to compare it with */
    if ((is_gone ? fence_judge_made(&f->look.seen, &gone)
                 : fence_judge(&f->look.seen, &f->sending, f->base)) == FENCE_OURS) {
        f->what = f->base ? FLIGHT_BASE : FLIGHT_FILE;
        uploader_sent(u, f);
        uploader_note(u);
        return;
    }
    struct err e;
    (void)fence_tell(&f->look.seen, &f->sending, f->key, &e);
    u->undo_base = !f->base && u->own_base == f->sending.txid;
    uploader_fence(u, &e, false);
}

static void on_looked(struct fence_look *l)
{
    struct uploader *u = l->data;
    struct uploader_flight *f = TAKE_PTR(u->flight);
    if (!u->closing) {
        f->req.err = l->err;
        if (l->err.code == ERR_OK) {
            uploader_succeeded(u);
            judge_in_the_way(u, f);
        } else {
            uploader_failed(u, f);
        }
    }
    uploader_landed(u, f);
}

/* Somebody has gone on from where we are; or it is a file of ours whose acknowledgement was lost. */
void uploader_ahead_listed(struct uploader *u, const struct uploader_flight *f)
{
    u->alone = !f->ahead;
    if (u->alone)
        return;
    const struct spool_file *next = uploader_next_file(u);
    struct spool_file mine = {.txid = f->ahead, .lineage = u->db->seen.lineage};
    if (next && next->txid == f->ahead)
        mine = *next;
    uploader_look_in_the_way(u, &mine, false, layout_key(store_type(u->store), u->replica, 0, f->ahead, f->ahead));
}

/* ---- a base that should not have been ------------------------------------------------------------ */

static char *own_base_key(const struct uploader *u)
{
    return layout_key(store_type(u->store), u->replica, LTX_SNAPSHOT_LEVEL, 1, u->own_base);
}

static void leave_base(struct uploader *u, const char *key, const struct err *e)
{
    log_line(LOG_ERROR, "%s -> %s: \"%s\" was stored before the other writer was noticed, and does not fit with what "
             "it stored%s%s; delete it, or let the other one run walsupctl snapshot", u->db->name, u->target, key,
             e ? ": " : "", e ? e->msg : "");
    u->undo_base = false;
}

/* The other writer was quicker than the base: that does not belong to its chain, and would break it. */
void uploader_undo_base(struct uploader *u)
{
    char *key = own_base_key(u);
    if (!u->may_delete) {
        leave_base(u, key, NULL);
        free(key);
        return;
    }
    struct uploader_flight *f = uploader_take_off(u, FLIGHT_UNDO, key);
    const char *keys[] = {f->key};
    store_delete(u->store, &f->req, keys, 1);
}

void uploader_undone(struct uploader *u, const struct uploader_flight *f)
{
    const struct err *e = &f->req.err;
    if (e->code == ERR_OK) {
        log_line(LOG_NOTICE, "%s -> %s: took back \"%s\", which was stored before the other writer was noticed",
                 u->db->name, u->target, f->key);
        u->undo_base = false;
        u->retry_at_ms = 0;
    } else if (e->code == ERR_NET || e->code == ERR_TIMEOUT || e->code == ERR_STORE || e->code == ERR_BUSY) {
        u->retry_at_ms = clk_mono_ms() + retry_after(&u->retry, e);
    } else {
        leave_base(u, f->key, e);
    }
}
