#include "daemon/replica/inventory.h"

#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/store/work.h"
#include "daemon/os/walls.h"
#include "daemon/replica/inventory_db.h"

/* Something to write for which nobody waits. */
struct note {
    enum note_kind { NOTE_ADD, NOTE_BEGIN, NOTE_DUE, NOTE_FACT } what;
    char *db, *target; /* NOTE_DUE: db; NOTE_FACT: its key is in db */
    uint64_t place;
    struct inventory_object object;
    int64_t value;
    struct note *next;
};

struct inventory {
    uv_loop_t *loop;
    struct inventory_db *d;
    struct work work;
    bool working;
    struct note *note, **note_end; /* waiting */
    struct inventory_req *req, **req_end;
    /* the worker's, while it works */
    struct note *notes;
    struct inventory_req *reqs;
    struct err err;  /* of the last transaction */
    bool lost;       /* notes did not get in */
    bool told;
    void (*closed)(void *arg);
    void *closed_arg;
    bool ending;  /* inventory_close was called */
    bool closing; /* and nothing waits any more */
};

/* ---- the worker -------------------------------------------------------------------------------- */

static int do_note(struct inventory_db *d, const struct note *n, struct err *e)
{
    struct inventory_place at = {n->db, n->target, n->place};
    switch (n->what) {
    case NOTE_ADD:
        return inventory_db_add(d, &at, &n->object, e);
    case NOTE_BEGIN:
        return inventory_db_start(d, &at, e);
    case NOTE_DUE:
        return inventory_db_due_set(d, n->db, n->value, e);
    default:
        return inventory_db_fact_set(d, n->db, n->value, e);
    }
}

static void transaction(struct inventory *v, struct err *e)
{
    int r = inventory_db_begin(v->d, e);
    if (r < 0)
        return;
    if (v->lost)
        r = inventory_db_doubt(v->d, e);
    for (const struct note *n = v->notes; n && r == 0; n = n->next)
        r = do_note(v->d, n, e);
    for (struct inventory_req *q = v->reqs; q && r == 0; q = q->next)
        r = inventory_db_do(v->d, q, e);
    if (r < 0)
        inventory_db_rollback(v->d);
    else
        (void)inventory_db_commit(v->d, e);
}

static void work(uv_work_t *w)
{
    struct inventory *v = w->data;
    if (v->closing) {
        v->d = inventory_db_close(v->d, !v->lost);
        return;
    }
    err_clear(&v->err);
    transaction(v, &v->err);
}

/* ---- the loop ---------------------------------------------------------------------------------- */

static void done(uv_work_t *w, int status);

static void start(struct inventory *v)
{
    bool idle = !v->note && !v->req;
    if (v->working || (idle && !v->ending))
        return;
    v->working = true;
    v->closing = idle;
    v->notes = v->note;
    v->reqs = v->req;
    v->note = NULL;
    v->note_end = &v->note;
    v->req = NULL;
    v->req_end = &v->req;
    v->work.uv.data = v;
    work_queue(v->loop, &v->work, WALL_OWN, work, done);
}

static void free_notes(struct note *n)
{
    while (n) {
        struct note *next = n->next;
        free(n->db);
        free(n->target);
        free(n);
        n = next;
    }
}

static void judge(struct inventory *v)
{
    bool bad = v->err.code != ERR_OK;
    if (bad && !v->told)
        log_err(LOG_ERROR, &v->err, "the inventory cannot be kept; nothing is deleted from any replica meanwhile");
    if (!bad && v->told)
        log_line(LOG_NOTICE, "the inventory works again");
    v->told = bad;
    v->lost = bad && (v->lost || v->notes);
}

static void done(uv_work_t *w, int status)
{
    (void)status;
    struct inventory *v = w->data;
    v->working = false;
    if (!v->d) {
        void (*closed)(void *) = v->closed;
        void *arg = v->closed_arg;
        free(v);
        closed(arg);
        return;
    }
    judge(v);
    struct inventory_req *q = TAKE_PTR(v->reqs);
    free_notes(TAKE_PTR(v->notes));
    while (q) {
        struct inventory_req *next = q->next;
        q->err = v->err;
        q->done(q);
        q = next;
    }
    start(v);
}

static void add_note(struct inventory *v, struct note *n)
{
    *v->note_end = n;
    v->note_end = &n->next;
    start(v);
}

void inventory_ask(struct inventory *v, struct inventory_req *req)
{
    req->next = NULL;
    *v->req_end = req;
    v->req_end = &req->next;
    start(v);
}

static struct note *note_of(enum note_kind what, const struct inventory_place *at)
{
    struct note *n = util_zalloc(sizeof *n);
    n->what = what;
    n->db = util_strdup(at->db);
    n->target = util_strdup(at->target);
    n->place = at->place;
    return n;
}

void inventory_added(struct inventory *v, const struct inventory_place *at, const struct inventory_object *o)
{
    struct note *n = note_of(NOTE_ADD, at);
    n->object = *o;
    add_note(v, n);
}

void inventory_begin(struct inventory *v, const struct inventory_place *at)
{
    add_note(v, note_of(NOTE_BEGIN, at));
}

static void add_value(struct inventory *v, enum note_kind what, const char *key, int64_t value)
{
    struct note *n = util_zalloc(sizeof *n);
    n->what = what;
    n->db = util_strdup(key);
    n->value = value;
    add_note(v, n);
}

void inventory_due_set(struct inventory *v, const char *db, int64_t real_ms)
{
    add_value(v, NOTE_DUE, db, real_ms);
}

void inventory_due_each(struct inventory *v, void (*fn)(void *arg, const char *db, int64_t real_ms), void *arg)
{
    struct err e;
    if (inventory_db_due_each(v->d, fn, arg, &e) < 0)
        log_err(LOG_WARN, &e, "what is due is not known");
}

int64_t inventory_fact_get(struct inventory *v, const char *key)
{
    return inventory_db_fact_get(v->d, key);
}

void inventory_fact_set(struct inventory *v, const char *key, int64_t value)
{
    add_value(v, NOTE_FACT, key, value);
}

int inventory_open(uv_loop_t *loop, const char *state_dir, struct inventory **ret, struct err *e)
{
    cleanup_free char *path = util_printf("%s/state.db", state_dir);
    struct inventory_db *d = NULL;
    int r = fsx_mkdirs(state_dir, 0700, e);
    if (r == 0)
        r = inventory_db_open(path, &d, e);
    if (r < 0)
        return r;
    struct inventory *v = util_zalloc(sizeof *v);
    v->loop = loop;
    v->d = d;
    v->note_end = &v->note;
    v->req_end = &v->req;
    *ret = v;
    return 0;
}

void inventory_close(struct inventory *v, void (*closed)(void *arg), void *arg)
{
    v->closed = closed;
    v->closed_arg = arg;
    v->ending = true;
    start(v);
}
