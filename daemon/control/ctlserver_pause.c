/* Pause and Resume: first on record, by a worker; then in memory; answered when the databases are let go. */
#include "common/base/clk.h"
#include "common/format/proto.h"
#include "common/store/work.h"
#include "daemon/control/ctlserver_int.h"
#include "daemon/os/walls.h"

struct asking {
    struct client *client;
    struct manager *m;
    struct work work;
    bool pause;
    size_t n, left;
    struct one {
        struct asking *of;
        char *name, *dir;
        struct pause *record; /* to be written */
        bool changed;
        struct err err;
        struct database_pause_wait wait;
    } one[];
};

static json_t *result(const struct asking *a, const struct one *one)
{
    const struct database *db = manager_find(a->m, one->name);
    uint64_t most = 0;
    for (size_t i = 0; db && i < db->n_up; i++) {
        uint64_t n;
        (void)uploader_pending(db->up[i], &n);
        most = MAX(most, n);
    }
    return json_pack("{s:o, s:b, s:b, s:o, s:I}", "name", proto_text(one->name), "changed", (int)one->changed,
                     "captured", (int)(db && db->state == SOURCE_ASLEEP), "txid", ctl_hex(db ? db->txid : 0),
                     "pending_files", (json_int_t)most);
}

static void answer(struct asking *a)
{
    struct err e;
    const struct err *first = NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < a->n; i++) {
        if (!first && a->one[i].err.code != ERR_OK)
            first = &a->one[i].err;
        json_array_append_new(list, result(a, &a->one[i]));
    }
    if (first) {
        e = *first;
        json_decref(list);
        ctl_reply_err(a->client, &e);
    } else {
        ctl_reply_ok(a->client, json_pack("{s:o}", "databases", list));
    }
    ctl_release(a->client);
    for (size_t i = 0; i < a->n; i++) {
        free(a->one[i].name);
        free(a->one[i].dir);
        free(a->one[i].record);
    }
    free(a);
}

static void step_done(struct asking *a)
{
    if (--a->left == 0)
        answer(a);
}

static void on_let_go(struct database_pause_wait *w)
{
    const struct one *one = w->data;
    step_done(one->of);
}

static void work(uv_work_t *w)
{
    struct asking *a = w->data;
    for (size_t i = 0; i < a->n; i++) {
        struct one *one = &a->one[i];
        int r = a->pause ? pause_write(one->dir, one->record, &one->err) : pause_remove(one->dir, &one->err);
        if (r < 0)
            err_wrap(&one->err, "%s: cannot be %s", one->name, a->pause ? "paused" : "resumed");
        else
            err_clear(&one->err);
    }
}

static void work_done(uv_work_t *w, int status)
{
    struct asking *a = w->data;
    (void)status;
    a->left = a->n + 1;
    for (size_t i = 0; i < a->n; i++) {
        struct one *one = &a->one[i];
        struct database *db = manager_find(a->m, one->name);
        if (one->err.code == ERR_OK && db && a->pause) {
            one->changed = !db->pause;
            one->wait = (struct database_pause_wait){.done = on_let_go, .data = one};
            database_pause(db, TAKE_PTR(one->record), &one->wait);
            continue;
        }
        if (one->err.code == ERR_OK && db) {
            one->changed = db->pause != NULL;
            database_resume(db);
        }
        a->left--;
    }
    step_done(a);
}

/* What was begun is finished: it is short, and the next one who looks wants to see all of it. */
static void abandon(void *arg)
{
    (void)arg;
}

static void start(struct client *cl, struct database *only, bool pause, const char *reason, json_int_t for_ms)
{
    struct manager *m = ctl_manager(cl);
    size_t n = only ? 1 : m->n_dbs;
    struct asking *a = util_zalloc(sizeof *a + n * sizeof a->one[0]);
    a->client = cl;
    a->m = m;
    a->pause = pause;
    a->n = n;
    a->work.uv.data = a;
    for (size_t i = 0; i < n; i++) {
        const struct database *db = only ? only : m->db[i];
        a->one[i] = (struct one){.of = a, .name = util_strdup(db->name), .dir = util_strdup(db->dir)};
        if (pause)
            a->one[i].record = pause_new(db->pause ? db->pause->since_ms : clk_real_ms(),
                                         for_ms ? clk_real_ms() + for_ms : 0, ctl_uid(cl),
                                         reason      ? reason
                                         : db->pause ? db->pause->reason
                                                     : "");
    }
    ctl_hold(cl, abandon, a);
    work_queue(m->loop, &a->work, WALL_OWN, work, work_done);
}

static void call(struct client *cl, json_t *p, bool pause)
{
    const char *name = NULL, *reason = NULL;
    json_int_t for_ms = 0;
    int all = 0;
    struct database *db = NULL;
    struct err e;
    const struct manager *m = ctl_manager(cl);
    int r = pause ? ctl_unpack(p, &e, "{s?:s, s?:b, s?:s, s?:I}", "db", &name, "all", &all, "reason", &reason, "for_ms",
                             &for_ms)
                  : ctl_unpack(p, &e, "{s?:s, s?:b}", "db", &name, "all", &all);
    if (r == 0 && !name == !all)
        r = err_set(&e, ERR_USAGE, "name a database, or ask for all of them");
    if (r == 0 && reason && strlen(reason) > PAUSE_REASON_MAX)
        r = err_set(&e, ERR_USAGE, "the reason is longer than %u bytes", PAUSE_REASON_MAX);
    if (r == 0 && (for_ms < 0 || for_ms > PAUSE_FOR_MAX_MS))
        r = err_set(&e, ERR_USAGE, "a pause for a time lasts at most 366 days");
    if (r == 0)
        r = ctl_find_db(m, name, &db, &e);
    if (r == 0 && m->stopping)
        r = err_set(&e, ERR_BUSY, "walsupd is stopping");
    if (r == 0 && !db && !m->n_dbs)
        r = err_set(&e, ERR_NOTFOUND, "no database is configured");
    if (r < 0)
        ctl_reply_err(cl, &e);
    else
        start(cl, db, pause, reason, for_ms);
}

void ctl_call_pause(struct client *cl, json_t *p)
{
    call(cl, p, true);
}

void ctl_call_resume(struct client *cl, json_t *p)
{
    call(cl, p, false);
}
