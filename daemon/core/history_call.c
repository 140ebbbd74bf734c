/* history_call.c - what people ask for: a snapshot now, a comparison with the bucket. */
#include "daemon/core/history_int.h"

static bool is_meant(const struct history_call *c, const struct keeper *k)
{
    return !c->target || !strcmp(c->target, k->u->target);
}

static void finish(struct history_call *c, const struct err *e)
{
    if (e)
        c->err = *e;
    else
        err_clear(&c->err);
    c->done(c);
}

void history_call_done(struct history_call *c)
{
    for (size_t i = 0; i < c->n; i++)
        free(c->result[i].target);
    free(c->result);
    c->result = NULL;
    c->n = 0;
}

/* Why it does not go on; NULL. */
static const struct err *trouble(const struct keeper *k)
{
    return k->u->fenced ? k->u->err : k->err;
}

/* 1: the replica is done with it, for better or worse. */
static bool is_over(const struct history_call *c, const struct keeper *k)
{
    if (trouble(k))
        return true;
    return c->what == HISTORY_SNAPSHOT ? !k->wants_snapshot && !k->snapshot.txid : !k->wants_list;
}

static struct history_result result_of(const struct history_call *c, const struct keeper *k)
{
    struct history_result r = {.target = util_strdup(k->u->target)};
    if (trouble(k))
        r.err = *trouble(k);
    if (c->what == HISTORY_SNAPSHOT) {
        r.txid = k->u->snapshot_txid;
        r.size = k->u->snapshot_bytes;
    } else {
        r.objects = k->found.objects;
        r.bytes = k->found.bytes;
        r.unknown = k->found.unknown;
        r.missing = k->found.missing;
        r.foreign = k->found.foreign;
        memcpy(r.example, k->found.example, sizeof r.example);
    }
    return r;
}

void history_calls_check(struct history *h)
{
    struct history_call **p = &h->call;
    while (*p) {
        struct history_call *c = *p;
        bool over = true;
        for (size_t i = 0; i < h->n_keepers; i++)
            over = over && (!is_meant(c, &h->keeper[i]) || is_over(c, &h->keeper[i]));
        if (!over) {
            p = &c->next;
            continue;
        }
        *p = c->next;
        c->result = util_zalloc(MAX(h->n_keepers, (size_t)1) * sizeof *c->result);
        for (size_t i = 0; i < h->n_keepers; i++)
            if (is_meant(c, &h->keeper[i]))
                c->result[c->n++] = result_of(c, &h->keeper[i]);
        finish(c, NULL);
    }
}

void history_calls_fail(struct history *h, const struct err *e)
{
    while (h->call) {
        struct history_call *c = h->call;
        h->call = c->next;
        finish(c, e);
    }
}

void history_cancel(struct history_call *c)
{
    struct history *h = c->db->history;
    struct err e;
    for (struct history_call **p = h ? &h->call : NULL; p && *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            err_set(&e, ERR_CANCELED, "%s: nobody waits any more", c->db->name);
            finish(c, &e);
            return;
        }
}

static int refused(const struct database *db, const struct history_call *c, struct err *e)
{
    bool known = !c->target;
    for (size_t i = 0; i < db->n_up; i++)
        known = known || !strcmp(db->up[i]->target, c->target);
    if (!known) {
        err_set(e, ERR_NOTFOUND, "%s is not replicated to a target called %s", db->name, c->target);
        return err_hint(e, "walsupctl status %s shows its targets", db->name);
    }
    if (!db->shared || !db->loaded || db->closing || db->flushing)
        return err_set(e, ERR_BUSY, "%s: walsupd is starting or stopping; try again in a moment", db->name);
    if (c->what == HISTORY_SNAPSHOT && db->pause)
        return database_paused_error(db, e);
    if (c->what == HISTORY_SNAPSHOT && db->attached_once && db->state == SOURCE_WAITING)
        return err_set(e, ERR_NOTFOUND, "%s: there is no database at %s", db->name, db->path);
    if (c->what == HISTORY_SNAPSHOT && db->attached_once && db->state == SOURCE_NOT_WAL)
        return err_set(e, ERR_UNSUPPORTED, "%s: %s is not in WAL mode and not replicated", db->name, db->path);
    return 0;
}

void history_ask(struct database *db, struct history_call *c)
{
    struct err e;
    c->db = db;
    c->next = NULL;
    c->result = NULL;
    c->n = 0;
    if (refused(db, c, &e) < 0) {
        finish(c, &e);
        return;
    }
    struct history *h = history_wake(db);
    for (size_t i = 0; i < h->n_keepers; i++) {
        struct keeper *k = &h->keeper[i];
        if (!is_meant(c, k))
            continue;
        if (c->what == HISTORY_SNAPSHOT)
            k->wants_snapshot = true;
        else
            k->wants_list = true;
        k->retry_at_ms = 0;
        free(TAKE_PTR(k->err)); /* now, not what was before */
    }
    c->next = h->call;
    h->call = c;
    history_poke(h);
}
