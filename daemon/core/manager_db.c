/* manager_db.c - which databases there are: from sections, from patterns; one name, one path and one
 * file each. */
#include "daemon/core/manager.h"

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/format/glob.h"
#include "common/format/name.h"
#include "daemon/control/status.h"
#include "daemon/core/once.h"
#include "daemon/core/patterns.h"

#define OVERDUE_MS 60000
#define FAR_MS (366ull * 24 * 3600 * 1000)
#define LATE_MS 5000 /* a file system that answers does it sooner */
#define GONE_MS 1500 /* a file that is away for so long was not just replaced */

struct database *manager_find(const struct manager *m, const char *name_or_path)
{
    struct database *db = map_get_str(&m->by_name, name_or_path);
    return db ? db : map_get_str(&m->by_path, name_or_path);
}

/* ---- READY ------------------------------------------------------------------------------------- */

void manager_maybe_ready(struct manager *m)
{
    if (m->ready || m->not_ready || !m->settled)
        return;
    m->ready = true;
    char line[200];
    manager_look_line(m, line, sizeof line);
    notify_status(m->notify, "%s", line);
    notify_ready(m->notify);
    log_about(LOG_READY, NULL, NULL, NULL);
    log_line(LOG_NOTICE, "ready: %s", line);
    if (m->once)
        once_ready(m->once);
}

void manager_uncount(struct manager_db *e)
{
    if (!e->counted)
        return;
    e->counted = false;
    e->m->not_ready--;
}

/* ---- settings ---------------------------------------------------------------------------------- */

static char *database_dir(const struct conf *conf, const char *name)
{
    cleanup_free char *entry = name_dir(name);
    return util_printf("%s/db/%s", conf->state_dir, entry);
}

static struct source_conf source_conf_of(const struct conf *conf, const struct conf_db *c,
                                         const char *path, const char *dir)
{
    return (struct source_conf){
        .path = path,
        .dir = dir,
        .encoding = c->n_replicas ? conf->target[c->replica[0].target].ltx_encoding : LTX_BLOCK,
        .checkpoint_pages = c->checkpoint_pages,
        .wal_limit_bytes = c->wal_limit_bytes,
        .min_free_bytes = conf->min_free_bytes,
        .found = glob_is(c->path),
        .base_len = glob_base_len(c->path),
        .copy_wait_ms = conf->copy_wait_ms,
        .stream_bytes = STREAM_BYTES,
    };
}

static struct database_conf database_conf_of(const struct conf *conf, const struct conf_db *c)
{
    return (struct database_conf){
        .scan_ms = conf->scan_interval_ms,
        .idle_ms = conf->idle_timeout_ms,
        .spool_limit_bytes = c->spool_limit_bytes,
        .history = {.level_ms = {c->level_ms[0], c->level_ms[1], c->level_ms[2]},
                    .snapshot_ms = c->snapshot_ms,
                    .retention_ms = c->retention_ms,
                    .l0_retention_ms = c->l0_retention_ms,
                    .delete_delay_ms = c->delete_delay_ms},
    };
}

static struct database_replica *replicas_of(const struct conf *conf, const struct conf_db *c, const char *path,
                                            struct manager_target *const *target)
{
    struct database_replica *r = util_zalloc(c->n_replicas * sizeof *r);
    for (size_t i = 0; i < c->n_replicas; i++)
        r[i] = (struct database_replica){
            .target = target[c->replica[i].target]->name,
            .path = conf_replica_path(c, &c->replica[i], path),
            .store = target[c->replica[i].target]->store,
            .interval_ms = c->replica[i].sync_interval_ms,
            .may_delete = conf->target[c->replica[i].target].may_delete && c->retention_ms,
        };
    return r;
}

static void replicas_free(struct database_replica *r, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free((char *)(uintptr_t)r[i].path);
    free(r);
}

bool manager_same_shape(const struct manager_db *e, const struct conf *conf, const struct conf_db *c,
                        struct manager_target *const *target)
{
    const struct database *db = e->db;
    cleanup_free char *name = conf_name_of(c, db->path);
    cleanup_free char *dir = database_dir(conf, name);
    if ((!c->glob && strcmp(db->path, c->path) != 0) || strcmp(db->name, name) != 0 || strcmp(db->dir, dir) != 0 ||
        db->n_up != c->n_replicas)
        return false;
    for (size_t i = 0; i < db->n_up; i++) {
        cleanup_free char *place = conf_replica_path(c, &c->replica[i], db->path);
        if (db->up[i]->store != target[c->replica[i].target]->store ||
            strcmp(db->up[i]->target, target[c->replica[i].target]->name) != 0 ||
            strcmp(db->up[i]->replica, place) != 0)
            return false;
    }
    return true;
}

bool manager_refigure(struct manager_db *e, const struct conf *conf, const struct conf_db *c,
                      struct manager_target *const *target)
{
    struct database *db = e->db;
    struct source_conf sc = source_conf_of(conf, c, db->path, db->dir);
    struct database_conf dc = database_conf_of(conf, c);
    bool same = !memcmp(&db->conf, &dc, sizeof dc) && /* numbers without gaps between them */
                db->source_conf.min_free_bytes == sc.min_free_bytes &&
                db->source_conf.encoding == sc.encoding &&
                db->source_conf.checkpoint_pages == sc.checkpoint_pages &&
                db->source_conf.wal_limit_bytes == sc.wal_limit_bytes &&
                db->source_conf.copy_wait_ms == sc.copy_wait_ms;
    for (size_t i = 0; i < db->n_up; i++)
        same = same && db->up[i]->interval_ms == c->replica[i].sync_interval_ms &&
               db->up[i]->may_delete == (conf->target[c->replica[i].target].may_delete && c->retention_ms);
    if (same)
        return false;
    struct database_replica *r = replicas_of(conf, c, db->path, target);
    database_reconf(db, &sc, &dc, r, c->n_replicas);
    replicas_free(r, c->n_replicas);
    return true;
}

static void on_changed(struct database *db, void *owner)
{
    struct manager_db *e = owner;
    if (e->begun && db->seen.lineage != e->lineage)
        manager_identify(e);
    hook_look(e->m->hook, e);
    if (!e->counted || !db->attached_once)
        return;
    for (size_t r = 0; r < db->n_up; r++)
        if (!db->up[r]->known && !db->up[r]->retry.failures)
            return; /* every target has answered, or is reported */
    manager_uncount(e);
    manager_maybe_ready(e->m);
}

/* ---- what is due --------------------------------------------------------------------------------- */

/* As the inventory knows it from before the start. */
struct due {
    int64_t at_ms;
    char name[];
};

static void learn_due(void *arg, const char *name, int64_t at_ms)
{
    struct manager *m = arg;
    struct due *d = util_alloc(sizeof *d + strlen(name) + 1);
    d->at_ms = at_ms;
    memcpy(d->name, name, strlen(name) + 1);
    map_put_str(&m->due, d->name, d);
}

void manager_learn_due(struct manager *m)
{
    inventory_due_each(m->history->inventory, learn_due, m);
}

void manager_forget_due(struct manager *m)
{
    size_t at = 0;
    for (void *d; (d = map_next(&m->due, &at));)
        free(d);
    map_free(&m->due);
}

/* What is overdue is spread over a while: after a day off everything is. */
static void recall_due(struct manager *m, struct database *db)
{
    cleanup_free struct due *d = map_remove_str(&m->due, db->name);
    if (!d)
        return;
    int64_t left = d->at_ms - clk_real_ms();
    uint64_t wait = left > 0 ? (uint64_t)left : OVERDUE_MS / 10 + util_random_below(OVERDUE_MS);
    agenda_set(m->history->agenda, &db->due, clk_mono_ms() + MIN(wait, (uint64_t)FAR_MS));
}

/* ---- life -------------------------------------------------------------------------------------- */

static void say_same_name(const struct conf_db *c, const char *path, const struct database *same)
{
    log_line(LOG_WARN, "[db %s]: %s would be called %s, as %s is: not replicated", c->name, path,
             same->name, same->path);
}

static bool hush(struct database *db, bool on)
{
    const struct manager_db *e = db->owner;
    return watch_hush(e->m->watch, &db->watched, on);
}

static void hear(struct database *db)
{
    const struct manager_db *e = db->owner;
    watch_hear(e->m->watch);
}

static void set_file(struct manager_db *e, struct discover_file *f)
{
    if (f)
        patterns_found(e->m, e->conf->name);
    if (e->file)
        patterns_gone(e->m, e->conf->name);
    e->file = f;
}

struct manager_db *manager_add(struct manager *m, const struct conf_db *c, const char *path,
                               struct discover_file *file)
{
    cleanup_free char *name = conf_name_of(c, path);
    const struct database *same = map_get_str(&m->by_name, name);
    if (same) {
        say_same_name(c, path, same);
        return NULL;
    }
    cleanup_free char *dir = database_dir(m->conf, name);
    struct source_conf sc = source_conf_of(m->conf, c, path, dir);
    struct database_replica *r = replicas_of(m->conf, c, path, m->target);
    struct manager_db *e = util_zalloc(sizeof *e);
    e->m = m;
    e->conf = c;
    if (file) {
        set_file(e, file);
        e->id.dev = file->dev;
        e->id.ino = file->ino;
    }
    struct database_conf dc = database_conf_of(m->conf, c);
    e->db = database_new(m->loop, name, &sc, &dc, r, c->n_replicas);
    e->db->active = &m->active;
    active_add(&m->active, e->db);
    e->db->berths = m->berths;
    e->db->shared = m->history;
    e->db->owner = e;
    e->db->changed = on_changed;
    e->db->hush = hush;
    e->db->hear = hear;
    replicas_free(r, c->n_replicas);
    if (m->n_dbs == m->cap_dbs) {
        m->cap_dbs = m->cap_dbs ? 2 * m->cap_dbs : 16;
        m->db = util_realloc(m->db, m->cap_dbs * sizeof(struct database *));
    }
    e->at = m->n_dbs;
    m->db[m->n_dbs++] = e->db;
    map_put_str(&m->by_name, e->db->name, e->db);
    recall_due(m, e->db);
    drill_know(m->drill, e->db);
    if (!map_get_str(&m->by_path, path))
        map_put_str(&m->by_path, e->db->path, e->db);
    e->counted = !m->ready;
    m->not_ready += e->counted;
    if (m->retired && !file) { /* what has its name or file may still be on its way out */
        e->next = m->waiting;
        m->waiting = e;
    } else {
        manager_begin(e);
    }
    return e;
}

static void unlink_from(struct manager_db **list, const struct manager_db *e)
{
    for (; *list; list = &(*list)->next)
        if (*list == e) {
            *list = e->next;
            return;
        }
}

static void on_closed(struct database *db, void *arg)
{
    struct manager_db *e = arg;
    struct manager *m = e->m;
    (void)db;
    free(e);
    manager_retired(m);
}

void manager_retire(struct manager *m, struct manager_db *e)
{
    struct database *db = e->db;
    manager_uncount(e);
    hook_forget(m->hook, e);
    unlink_from(&m->leaving, e);
    unlink_from(&m->waiting, e);
    manager_decide_not(e);
    if (e->file)
        e->file->user = NULL;
    set_file(e, NULL);
    if (map_get_str(&m->by_name, db->name) == db)
        (void)map_remove_str(&m->by_name, db->name);
    if (map_get_str(&m->by_path, db->path) == db)
        (void)map_remove_str(&m->by_path, db->path);
    if (map_get(&m->by_id, &e->id, sizeof e->id) == e)
        (void)map_remove(&m->by_id, &e->id, sizeof e->id);
    m->db[e->at] = m->db[--m->n_dbs];
    ((struct manager_db *)m->db[e->at]->owner)->at = e->at;
    m->retired++;
    drill_forget(m->drill, db);
    active_forget(&m->active, db);
    db->active = NULL;
    watch_remove(m->watch, &db->watched);
    database_close(db, on_closed, e);
}

/* ---- what the patterns find -------------------------------------------------------------------- */

/* said once for each pair of sections */
static void overlap(struct manager *m, const char *first, const char *second, const char *path)
{
    cleanup_free char *pair = util_printf("%s %s", first, second);
    if (map_get_str(&m->overlaps, pair))
        return;
    log_line(LOG_WARN,
             "the patterns of [db %s] and [db %s] both match %s and maybe more: such databases belong "
             "to [db %s], which comes first",
             first, second, path, first);
    char *key = TAKE_PTR(pair);
    map_put_str(&m->overlaps, key, key);
}

static enum discover_answer on_found(void *owner, struct discover_file *f)
{
    struct manager *m = owner;
    const struct conf_db *c = conf_of_path(m->conf, f->path);
    if (m->stopping || !c)
        return DISCOVER_FOREIGN;
    if (strcmp(c->name, f->section) != 0) {
        if (c->glob)
            overlap(m, c->name, f->section, f->path);
        return DISCOVER_FOREIGN;
    }
    struct database *db = map_get_str(&m->by_path, f->path);
    if (db) { /* it was away for a moment */
        struct manager_db *e = db->owner;
        if (e->file)
            return DISCOVER_LATER;
        unlink_from(&m->leaving, e);
        e->leaving = false;
        set_file(e, f);
        f->user = e;
        database_event(db, WATCH_NAME);
        log_line(e->told ? LOG_NOTICE : LOG_DEBUG, "%s: %s is back", db->name, db->path);
        e->told = false;
        return DISCOVER_TAKEN;
    }
    if (m->asked) /* a section of its own comes first */
        return DISCOVER_LATER;
    if (m->retired) /* maybe the one with this name; that must have let go of its spool first */
        return DISCOVER_LATER;
    cleanup_free char *name = conf_name_of(c, f->path);
    if (strlen(name) > NAME_BYTES) {
        if (!f->told)
            log_line(LOG_WARN,
                     "[db %s]: %s is not replicated: its name would have %zu bytes, and %d is what a "
                     "bucket can take",
                     c->name, f->path, strlen(name), NAME_BYTES);
        f->told = true;
        return DISCOVER_FOREIGN;
    }
    if (manager_is_second_name(m, f))
        return DISCOVER_LATER;
    const struct database *same = map_get_str(&m->by_name, name);
    if (same) {
        if (!f->told)
            say_same_name(c, f->path, same);
        f->told = true;
        return DISCOVER_LATER;
    }
    struct manager_db *e = manager_add(m, c, f->path, f);
    if (!e)
        return DISCOVER_LATER;
    f->user = e;
    log_line(m->settled ? LOG_NOTICE : LOG_DEBUG, "%s: found at %s", e->db->name, f->path);
    return DISCOVER_TAKEN;
}

static void on_gone(void *owner, struct discover_file *f)
{
    struct manager *m = owner;
    struct manager_db *e = f->user;
    set_file(e, NULL);
    f->user = NULL;
    e->gone_ms = clk_mono_ms();
    e->leaving = true;
    e->next = m->leaving;
    m->leaving = e;
    database_event(e->db, WATCH_NAME);
}

static void on_settled(void *owner)
{
    struct manager *m = owner;
    m->settled = true;
    const struct discover_counters *n = discover_counters(m->discover);
    if (m->conf->n_patterns)
        log_line(LOG_NOTICE, "patterns: %llu database%s in %llu director%s", (unsigned long long)n->files,
                 PLURAL(n->files), (unsigned long long)n->directories, n->directories == 1 ? "y" : "ies");
    manager_maybe_ready(m);
}

const struct discover_calls manager_discover_calls = {on_found, on_gone, on_settled};

/* Uploads what there was; its replica and, if that fails for ever, its spool stay. */
static bool leave(struct manager *m, struct manager_db *e)
{
    struct database *db = e->db;
    uint64_t files = 0;
    if (clk_mono_ms() < e->gone_ms + GONE_MS || discover_listing(m->discover) ||
        (e->begun && db->run))
        return false;
    for (size_t i = 0; i < db->n_up && e->begun; i++) {
        uint64_t n;
        (void)uploader_pending(db->up[i], &n);
        if (!db->up[i]->needs_base) /* which cannot be made any more */
            files += n + (db->up[i]->flight != NULL);
    }
    if (!e->told)
        log_line(LOG_NOTICE, "%s: %s is gone: no longer replicated; its replica stays%s", db->name,
                 db->path, files ? ", and what is pending is still uploaded" : "");
    e->told = true;
    if (files)
        return false;
    manager_retire(m, e);
    return true;
}

void manager_db_tick(struct manager *m)
{
    for (struct manager_db *e = m->leaving, *next; e; e = next) {
        next = e->next;
        (void)leave(m, e);
    }
}

void manager_look_late(struct manager_db *e)
{
    if (!e->counted || !e->asked_ms || clk_mono_ms() < e->asked_ms + LATE_MS)
        return;
    log_line(LOG_WARN, "%s: the file system of %s does not answer: replicated when it does", e->db->name, e->db->path);
    manager_uncount(e);
    manager_maybe_ready(e->m);
}

/* begin what had to wait for others to be closed */
void manager_begin_waiting(struct manager *m)
{
    struct manager_db *e = m->waiting;
    m->waiting = NULL;
    while (e) {
        struct manager_db *next = e->next;
        manager_begin(e);
        e = next;
    }
}
