/* manager_id.c - one file is one database: which file a path leads to is asked on a worker, because
 * a file system that is away does not answer. Until it does, what was known holds. */
#include "daemon/core/manager.h"

#include <sys/stat.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/store/work.h"
#include "daemon/os/walls.h"

#define ORDER_MS 1000
#define SURE_MS 2000 /* the answer is good for those who waited for it */

struct id_ask {
    struct work work;
    struct manager *m;
    char *name, *path;
    char *waiter; /* name of the database that has to know; NULL: it is a file that a pattern found, or nobody */
    struct manager_file_id id; /* zero: there is no file */
};

static void second_name(struct err *e, const char *path, const struct manager_db *other)
{
    err_set(e, ERR_EXISTS, "%s is the same file as %s, which is replicated as %s", path,
            other->db->path, other->db->name);
    err_hint(e, "remove one of the two, or the link");
}

static void ask_work(uv_work_t *w)
{
    struct id_ask *a = w->data;
    struct stat st;
    if (stat(a->path, &st) == 0)
        a->id = (struct manager_file_id){st.st_dev, st.st_ino};
}

static void ask(struct manager_db *e, const char *waiter, uv_after_work_cb done)
{
    if (e->asking_id)
        return;
    struct id_ask *a = util_zalloc(sizeof *a);
    e->asking_id = true;
    a->m = e->m;
    a->name = util_strdup(e->db->name);
    a->path = util_strdup(e->db->path);
    a->waiter = waiter ? util_strdup(waiter) : NULL;
    a->work.uv.data = a;
    a->m->asks++;
    work_queue(a->m->loop, &a->work, wall_of_mount(a->path), ask_work, done);
}

/* The database that it was about; NULL: it is gone, or another one has its name. */
static struct manager_db *answered(const struct id_ask *a)
{
    const struct database *db = a->m->closing ? NULL : map_get_str(&a->m->by_name, a->name);
    struct manager_db *e = db && !strcmp(db->path, a->path) ? db->owner : NULL;
    if (e)
        e->asking_id = false;
    return e;
}

static void ask_over(struct id_ask *a)
{
    struct manager *m = a->m;
    free(a->name);
    free(a->path);
    free(a->waiter);
    free(a);
    m->asks--;
    manager_asked(m);
}

/* ---- does it still have that file? ---------------------------------------------------------------- */

static void on_checked(uv_work_t *w, int status)
{
    struct id_ask *a = w->data;
    struct manager *m = a->m;
    struct manager_db *e = answered(a);
    (void)status;
    if (e && !memcmp(&e->id, &a->id, sizeof a->id)) {
        e->sure_ms = clk_mono_ms();
    } else if (e) {
        if (map_get(&m->by_id, &e->id, sizeof e->id) == e) /* it was replaced or is gone */
            (void)map_remove(&m->by_id, &e->id, sizeof e->id);
        e->id = (struct manager_file_id){0};
    }
    struct database *waiter = a->waiter && !m->closing ? map_get_str(&m->by_name, a->waiter) : NULL;
    if (waiter && ((struct manager_db *)waiter->owner)->begun)
        manager_identify(waiter->owner);
    else if (waiter)
        manager_begin_refused(waiter->owner);
    else if (!m->closing)
        discover_offer(m->discover);
    ask_over(a);
}

const struct manager_db *manager_same_file(struct manager *m, const struct manager_file_id *id,
                                           const struct manager_db *self, bool *ret_sure)
{
    struct manager_db *other = id->ino ? map_get(&m->by_id, id, sizeof *id) : NULL;
    if (!other || other == self)
        return NULL;
    *ret_sure = other->sure_ms && clk_mono_ms() < other->sure_ms + SURE_MS;
    if (!*ret_sure)
        ask(other, self ? self->db->name : NULL, on_checked);
    return other;
}

/* ---- which file does it have now? ------------------------------------------------------------------ */

static void on_identified(uv_work_t *w, int status)
{
    struct id_ask *a = w->data;
    struct manager *m = a->m;
    struct manager_db *e = answered(a);
    bool sure;
    (void)status;
    if (!e || !a->id.ino) {
        ask_over(a);
        return;
    }
    const struct manager_db *other = manager_same_file(m, &a->id, e, &sure);
    if (map_get(&m->by_id, &e->id, sizeof e->id) == e)
        (void)map_remove(&m->by_id, &e->id, sizeof e->id);
    e->id = a->id;
    struct err err;
    if (!other) {
        map_put(&m->by_id, &e->id, sizeof e->id, e);
    } else if (sure) { /* too late to refuse it */
        second_name(&err, e->db->path, other);
        log_err(LOG_WARN, &err, "%s", e->db->name);
    }
    ask_over(a);
}

void manager_identify(struct manager_db *e)
{
    e->lineage = e->db->seen.lineage;
    ask(e, NULL, on_identified);
}

/* ---- begin --------------------------------------------------------------------------------------- */

/* Two names for one file, by links: there would be two replicas of one database, and its -wal lies
 * beside one of the names only. */
static void refuse(struct manager_db *e, const struct manager_db *other, bool sure)
{
    struct database *db = e->db;
    e->refused = true;
    if (!sure)
        return; /* the answer comes back here */
    if (!db->err)
        db->err = util_zalloc(sizeof *db->err);
    second_name(db->err, db->path, other);
    if (!e->refusal_told)
        log_err(LOG_WARN, db->err, "%s: not replicated", db->name);
    e->refusal_told = true;
    db->attached_once = true;
    if (!db->retry.failures)
        (void)retry_failed(&db->retry, ERR_EXISTS);
    manager_uncount(e);
    manager_maybe_ready(e->m);
}

static void let_run(struct manager_db *e)
{
    if (e->refusal_told) {
        retry_ok(&e->db->retry);
        free(TAKE_PTR(e->db->err));
        e->db->attached_once = false;
    }
    e->refused = e->refusal_told = false;
    if (e->id.ino)
        map_put(&e->m->by_id, &e->id, sizeof e->id, e);
    e->begun = true;
    database_start(e->db);
}

/* It is watched, and its file is known. */
static void decide(struct manager_db *e)
{
    struct manager *m = e->m;
    bool sure;
    e->asked_ms = 0;
    e->answered = false;
    const struct manager_db *other = manager_same_file(m, &e->id, e, &sure);
    if (!other) {
        let_run(e);
        return;
    }
    watch_remove(m->watch, &e->db->watched);
    refuse(e, other, sure);
}

/* Of two names for one file the first one in the configuration is meant: they are decided in its
 * order, as long as their file systems answer. */
void manager_decide(struct manager *m)
{
    struct manager_db *e;
    bool waited = m->asked != NULL;
    while ((e = m->asked) && (e->answered || clk_mono_ms() >= e->asked_ms + ORDER_MS)) {
        manager_decide_not(e);
        if (e->answered)
            decide(e);
    }
    if (waited && !m->asked && !m->closing)
        discover_offer(m->discover);
}

void manager_decide_not(struct manager_db *e)
{
    struct manager *m = e->m;
    if (!e->in_order)
        return;
    *(e->asked_prev ? &e->asked_prev->asked_next : &m->asked) = e->asked_next;
    *(e->asked_next ? &e->asked_next->asked_prev : &m->asked_last) = e->asked_prev;
    e->asked_prev = e->asked_next = NULL;
    e->in_order = false;
}

static void on_watched(struct watched *wd, const struct watch_found *found)
{
    struct manager_db *e = CONTAINER_OF(wd, struct database, watched)->owner;
    if (!e->file)
        e->id = (struct manager_file_id){found->dev, found->ino};
    e->answered = true;
    if (e->in_order)
        manager_decide(e->m);
    else
        decide(e);
}

void manager_begin(struct manager_db *e)
{
    struct manager *m = e->m;
    if (e->asked_ms)
        return;
    e->asked_ms = clk_mono_ms();
    if (!e->file) {
        e->in_order = true;
        e->asked_prev = m->asked_last;
        *(e->asked_prev ? &e->asked_prev->asked_next : &m->asked) = e;
        m->asked_last = e;
    } else if (!map_get(&m->by_id, &e->id, sizeof e->id)) {
        map_put(&m->by_id, &e->id, sizeof e->id, e); /* whoever is found next knows */
    }
    watch_add(m->watch, &e->db->watched, e->file ? e->file->mark : NULL, on_watched);
}

void manager_begin_refused(struct manager_db *e)
{
    if (e->refused && !e->m->closing)
        manager_begin(e);
}

bool manager_is_second_name(struct manager *m, struct discover_file *f)
{
    const struct manager_file_id id = {f->dev, f->ino};
    bool sure;
    const struct manager_db *other = manager_same_file(m, &id, NULL, &sure);
    struct err e;
    if (!other)
        return false;
    second_name(&e, f->path, other);
    if (sure && !f->told)
        log_err(LOG_WARN, &e, "[db %s]: not replicated", f->section);
    f->told = f->told || sure;
    return true;
}
