/* Sync: capture now, and wait for the replicas. */
#include "daemon/control/ctlserver_int.h"

#define SYNC_TIMEOUT_MS 30000
#define SYNC_TIMEOUT_MAX_MS 3600000

/* One Sync call: a waiter per database, answered when the last one is. */
struct sync_call {
    struct client *client;
    size_t n, left;
    bool all; /* of every database: those that cannot be replicated now are left out */
    struct err err;
    struct sync_one {
        struct database_sync w;
        json_t *result;
        bool asked; /* and not answered yet */
    } one[];
};

static json_t *sync_result(const struct database *db, const struct database_sync *w)
{
    json_t *replicas = json_array();
    for (size_t i = 0; i < db->n_up; i++)
        json_array_append_new(replicas, json_pack("{s:s, s:o}", "target", db->up[i]->target,
                                                  "txid", ctl_hex(db->up[i]->acked)));
    return json_pack("{s:s, s:o, s:o}", "name", db->name, "txid", ctl_hex(w->txid), "replicas",
                     replicas);
}

static void on_sync(struct database_sync *w, const struct err *e)
{
    struct sync_call *s = w->data;
    struct sync_one *one = CONTAINER_OF(w, struct sync_one, w);
    one->asked = false;
    if (e->code == ERR_OK)
        one->result = sync_result(w->db, w);
    bool left_out = s->all && (e->code == ERR_NOTFOUND || e->code == ERR_UNSUPPORTED || w->db->pause);
    if (e->code != ERR_OK && !left_out && s->err.code == ERR_OK)
        s->err = *e;
    if (--s->left)
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < s->n; i++)
        if (s->one[i].result)
            json_array_append_new(list, s->one[i].result);
    if (s->err.code != ERR_OK) {
        json_decref(list);
        ctl_reply_err(s->client, &s->err);
    } else {
        ctl_reply_ok(s->client, json_pack("{s:o}", "databases", list));
    }
    ctl_release(s->client);
    free(s);
}

/* The client went away: it must not count as one for as long as its call would have waited. */
static void abandon(void *arg)
{
    struct sync_call *s = arg;
    for (size_t i = 0; i < s->n; i++)
        if (s->one[i].asked)
            database_sync_cancel(&s->one[i].w);
}

void ctl_call_sync(struct client *cl, json_t *p)
{
    const char *name = NULL;
    int wait = 0;
    json_int_t timeout = SYNC_TIMEOUT_MS;
    struct database *db;
    struct err e;
    struct manager *m = ctl_manager(cl);
    if (ctl_unpack(p, &e, "{s?:s, s?:b, s?:I}", "db", &name, "wait", &wait, "timeout_ms", &timeout) < 0 ||
        ctl_find_db(m, name, &db, &e) < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    timeout = MAX((json_int_t)1, MIN(timeout, (json_int_t)SYNC_TIMEOUT_MAX_MS));
    size_t n = db ? 1 : m->n_dbs;
    if (!n || m->stopping) {
        err_set(&e, n ? ERR_BUSY : ERR_NOTFOUND,
                n ? "walsupd is stopping" : "no database is configured");
        ctl_reply_err(cl, &e);
        return;
    }
    struct sync_call *s = util_zalloc(sizeof *s + n * sizeof s->one[0]);
    s->client = cl;
    s->n = s->left = n;
    s->all = !db;
    ctl_hold(cl, abandon, s);
    for (size_t i = 0; i < n; i++) {
        s->one[i].asked = true;
        s->one[i].w = (struct database_sync){.done = on_sync, .data = s, .wait = wait};
        database_sync(db ? db : m->db[i], &s->one[i].w, (uint64_t)timeout);
    }
}
