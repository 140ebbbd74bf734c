/* Snapshot and Reconcile: one history_call for each database that is meant, one answer. Takeover. */
#include "daemon/control/ctlserver_int.h"

#include "common/format/proto.h"

struct asking {
    struct client *client;
    bool whole; /* of every database */
    size_t n, left;
    struct err err;
    char *target;
    struct one {
        struct asking *of;
        struct history_call call;
        json_t *result;
        bool open;
    } one[];
};

static json_t *error_json(const struct err *e)
{
    return json_pack("{s:s, s:s, s:s}", "code", err_name(e->code), "message", e->msg, "hint", e->hint);
}

static json_t *result_json(const struct history_call *c, const struct history_result *r)
{
    json_t *j = json_pack("{s:s}", "target", r->target);
    if (r->err.code != ERR_OK)
        json_object_set_new(j, "error", error_json(&r->err));
    if (r->err.code == ERR_OK && c->what == HISTORY_SNAPSHOT) {
        json_object_set_new(j, "txid", ctl_hex(r->txid));
        json_object_set_new(j, "bytes", json_integer((json_int_t)r->size));
    } else if (r->err.code == ERR_OK) {
        json_object_set_new(j, "objects", json_integer((json_int_t)r->objects));
        json_object_set_new(j, "bytes", json_integer((json_int_t)r->bytes));
        json_object_set_new(j, "not_in_inventory", json_integer((json_int_t)r->unknown));
        json_object_set_new(j, "missing", json_integer((json_int_t)r->missing));
        json_object_set_new(j, "foreign", json_integer((json_int_t)r->foreign));
        if (r->example[0])
            json_object_set_new(j, "missing_example", json_string(r->example));
    }
    return j;
}

static void answer(struct asking *a)
{
    json_t *list = json_array();
    for (size_t i = 0; i < a->n; i++)
        if (a->one[i].result)
            json_array_append_new(list, a->one[i].result);
    if (a->err.code != ERR_OK)
        ctl_reply_err(a->client, &a->err);
    else if (a->one[0].call.what == HISTORY_SNAPSHOT)
        ctl_reply_ok(a->client, json_incref(json_array_get(list, 0)));
    else
        ctl_reply_ok(a->client, json_pack("{s:O}", "databases", list));
    json_decref(list);
    ctl_release(a->client);
    free(a->target);
    free(a);
}

static void on_one(struct history_call *c)
{
    struct one *one = c->data;
    struct asking *a = one->of;
    one->open = false;
    if (c->err.code == ERR_OK) {
        json_t *replicas = json_array();
        for (size_t i = 0; i < c->n; i++)
            json_array_append_new(replicas, result_json(c, &c->result[i]));
        one->result = json_pack("{s:s, s:o}", "name", c->db->name, "replicas", replicas);
    } else if (a->err.code == ERR_OK && !(a->whole && c->err.code == ERR_NOTFOUND)) {
        a->err = c->err;
    }
    history_call_done(c);
    if (--a->left == 0)
        answer(a);
}

static void abandon(void *arg)
{
    struct asking *a = arg;
    a->left++; /* the last one must not free it here */
    for (size_t i = 0; i < a->n; i++)
        if (a->one[i].open)
            history_cancel(&a->one[i].call);
    if (--a->left == 0)
        answer(a);
}

static void start(struct client *cl, struct database *db, const char *target, enum history_wish what)
{
    struct manager *m = ctl_manager(cl);
    size_t n = db ? 1 : m->n_dbs;
    struct err e;
    if (!n) {
        err_set(&e, ERR_NOTFOUND, "no database is configured");
        ctl_reply_err(cl, &e);
        return;
    }
    struct asking *a = util_zalloc(sizeof *a + n * sizeof a->one[0]);
    a->client = cl;
    a->whole = !db;
    a->n = n;
    a->left = n + 1;
    a->target = target ? util_strdup(target) : NULL;
    ctl_hold(cl, abandon, a);
    for (size_t i = 0; i < n; i++) {
        a->one[i].of = a;
        a->one[i].open = true;
        a->one[i].call = (struct history_call){.what = what, .target = a->target, .done = on_one, .data = &a->one[i]};
        history_ask(db ? db : m->db[i], &a->one[i].call);
    }
    if (--a->left == 0)
        answer(a);
}

void ctl_call_snapshot(struct client *cl, json_t *p)
{
    const char *name = NULL, *target = NULL;
    struct database *db;
    struct err e;
    if (ctl_unpack(p, &e, "{s:s, s?:s}", "db", &name, "target", &target) < 0 ||
        ctl_find_db(ctl_manager(cl), name, &db, &e) < 0)
        ctl_reply_err(cl, &e);
    else
        start(cl, db, target, HISTORY_SNAPSHOT);
}

void ctl_call_reconcile(struct client *cl, json_t *p)
{
    const char *name = NULL, *target = NULL;
    int trust = 0;
    struct database *db;
    struct err e;
    if (ctl_unpack(p, &e, "{s?:s, s?:s, s?:b}", "db", &name, "target", &target, "trust_clock", &trust) < 0 ||
        ctl_find_db(ctl_manager(cl), name, &db, &e) < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    if (trust)
        history_trust_clock(ctl_manager(cl)->history);
    start(cl, db, target, HISTORY_RECONCILE);
}

void ctl_call_takeover(struct client *cl, json_t *p)
{
    const char *name = NULL, *target = NULL;
    struct database *db;
    struct err e;
    if (ctl_unpack(p, &e, "{s:s, s?:s}", "db", &name, "target", &target) < 0 ||
        ctl_find_db(ctl_manager(cl), name, &db, &e) < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    json_t *taken = json_array();
    bool known = !target;
    for (size_t i = 0; i < db->n_up; i++) {
        struct uploader *u = db->up[i];
        if (target && strcmp(target, u->target) != 0)
            continue;
        known = true;
        if (!u->fenced)
            continue;
        json_array_append_new(taken, json_string(u->target));
        uploader_takeover(u);
    }
    if (json_array_size(taken)) {
        ctl_reply_ok(cl, json_pack("{s:s, s:o}", "name", db->name, "targets", taken));
        return;
    }
    json_decref(taken);
    if (!known)
        err_set(&e, ERR_NOTFOUND, "%s has no target %s", db->name, target);
    else
        err_set(&e, ERR_USAGE, "%s: no other writer was found at %s, so there is nothing to take over", db->name,
                target ? target : "any of its targets");
    ctl_reply_err(cl, &e);
}
