#include "daemon/manager.h"

#include <signal.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "daemon/ctlserver.h"
#include "daemon/status.h"

#define TICK_MS 1000
#define STUCK_LIMIT_MS 300000 /* a worker that hangs for so long trips the watchdog */

void manager_diff_done(struct manager_diff *d)
{
    buf_free(&d->added);
    buf_free(&d->removed);
    buf_free(&d->changed);
}

struct database *manager_find(const struct manager *m, const char *name_or_path)
{
    for (size_t i = 0; i < m->n_dbs; i++)
        if (!strcmp(m->db[i]->name, name_or_path))
            return m->db[i];
    for (size_t i = 0; i < m->n_dbs; i++)
        if (!strcmp(m->db[i]->path, name_or_path))
            return m->db[i];
    return NULL;
}

/* ---- targets ----------------------------------------------------------------------------------- */

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

/* Two targets with one identity are the same store; a change of any of this needs a new one. */
static char *target_identity(const struct conf_target *t)
{
    return util_printf("%d|%s|%s|%s|%s|%d|%s|%s|%s|%s|%s|%s|%d|%s|%s|%u|%llu", (int)t->type,
                       or_empty(t->endpoint), or_empty(t->bucket), or_empty(t->path),
                       or_empty(t->region), (int)t->addressing, or_empty(t->access_key_id),
                       or_empty(t->secret_access_key), or_empty(t->secret_access_key_file),
                       or_empty(t->session_token), or_empty(t->credentials_file),
                       or_empty(t->profile), (int)t->skip_verify, or_empty(t->ca_file),
                       or_empty(t->storage_class), t->max_connections,
                       (unsigned long long)t->bandwidth_limit_bytes);
}

static void target_free(struct manager_target *t)
{
    explicit_bzero(t->identity, strlen(t->identity)); /* it contains the secret */
    free(t->identity);
    free(t->name);
    free(t);
}

static int targets_open(struct manager *m, const struct conf *conf, struct manager_target ***ret,
                        struct err *e)
{
    struct manager_target **list = util_zalloc(conf->n_targets * sizeof(struct manager_target *));
    for (size_t i = 0; i < conf->n_targets; i++) {
        struct manager_target *t = util_zalloc(sizeof *t);
        t->name = util_strdup(conf->target[i].name);
        t->identity = target_identity(&conf->target[i]);
        list[i] = t;
        for (size_t k = 0; k < m->n_targets; k++)
            if (!strcmp(m->target[k]->name, t->name) &&
                !strcmp(m->target[k]->identity, t->identity))
                t->store = m->target[k]->store;
        if (t->store)
            continue;
        int r = store_open(m->loop, &conf->target[i], &t->store, e);
        if (r < 0) {
            err_wrap(e, "target %s", t->name);
            target_free(t);
            for (size_t k = 0; k < i; k++) {
                bool shared = false;
                for (size_t q = 0; q < m->n_targets; q++)
                    shared = shared || m->target[q]->store == list[k]->store;
                if (!shared)
                    store_close(list[k]->store, NULL, NULL);
                target_free(list[k]);
            }
            free(list);
            return r;
        }
        if (conf->target[i].skip_verify)
            log_line(LOG_WARN, "target %s: skip-verify is on: anybody on the way can read and "
                               "change what is replicated there",
                     t->name);
    }
    *ret = list;
    return 0;
}

/* ---- databases --------------------------------------------------------------------------------- */

static void on_changed(struct database *db, void *owner)
{
    (void)db;
    struct manager *m = owner;
    if (m->ready)
        return;
    for (size_t i = 0; i < m->n_dbs; i++) {
        const struct database *d = m->db[i];
        if (!d->attached_once)
            return;
        for (size_t r = 0; r < d->n_up; r++)
            if (!d->up[r]->known && !d->up[r]->retry.failures)
                return; /* every target has answered, or is reported */
    }
    m->ready = true;
    char line[200];
    status_line(m, line, sizeof line);
    notify_status(m->notify, "%s", line);
    notify_ready(m->notify);
    log_line(LOG_NOTICE, "ready: %s", line);
}

static char *database_dir(const struct conf *conf, const char *name)
{
    return util_printf("%s/db/%s", conf->state_dir, name);
}

static struct source_conf source_conf_of(const struct conf *conf, const struct conf_db *c,
                                         const char *dir)
{
    return (struct source_conf){
        .path = c->path,
        .dir = dir,
        .encoding = c->n_replicas ? conf->target[c->replica[0].target].ltx_encoding : LTX_BLOCK,
        .checkpoint_pages = c->checkpoint_pages,
        .wal_limit_bytes = c->wal_limit_bytes,
        .min_free_bytes = conf->min_free_bytes,
    };
}

static struct database_conf database_conf_of(const struct conf *conf, const struct conf_db *c)
{
    return (struct database_conf){
        .scan_ms = conf->scan_interval_ms,
        .idle_ms = conf->idle_timeout_ms,
        .spool_limit_bytes = c->spool_limit_bytes,
    };
}

static struct database_replica *replicas_of(const struct conf_db *c,
                                            struct manager_target *const *target)
{
    struct database_replica *r = util_zalloc(c->n_replicas * sizeof *r);
    for (size_t i = 0; i < c->n_replicas; i++)
        r[i] = (struct database_replica){
            .target = target[c->replica[i].target]->name,
            .path = c->replica[i].path,
            .store = target[c->replica[i].target]->store,
            .interval_ms = c->replica[i].sync_interval_ms,
        };
    return r;
}

static struct database *database_make(struct manager *m, const struct conf *conf,
                                      const struct conf_db *c,
                                      struct manager_target *const *target)
{
    cleanup_free char *dir = database_dir(conf, c->name);
    struct source_conf sc = source_conf_of(conf, c, dir);
    cleanup_free struct database_replica *r = replicas_of(c, target);
    struct database_conf dc = database_conf_of(conf, c);
    struct database *db = database_new(m->loop, c->name, &sc, &dc, r, c->n_replicas);
    db->berths = m->berths;
    db->owner = m;
    db->changed = on_changed;
    return db;
}

static void database_begin(struct manager *m, struct database *db)
{
    watch_add(m->watch, db);
    database_start(db);
}

/* Whether db can go on under the new configuration with new figures only. */
static bool same_shape(const struct database *db, const struct conf *conf, const struct conf_db *c,
                       struct manager_target *const *target)
{
    cleanup_free char *dir = database_dir(conf, c->name);
    if (strcmp(db->path, c->path) != 0 || strcmp(db->dir, dir) != 0 || db->n_up != c->n_replicas)
        return false;
    for (size_t i = 0; i < db->n_up; i++)
        if (db->up[i]->store != target[c->replica[i].target]->store ||
            strcmp(db->up[i]->target, target[c->replica[i].target]->name) != 0 ||
            strcmp(db->up[i]->replica, c->replica[i].path) != 0)
            return false;
    return true;
}

static bool same_figures(const struct database *db, const struct conf *conf,
                         const struct conf_db *c)
{
    struct source_conf sc = source_conf_of(conf, c, db->dir);
    struct database_conf dc = database_conf_of(conf, c);
    bool same = db->conf.scan_ms == dc.scan_ms && db->conf.idle_ms == dc.idle_ms &&
                db->conf.spool_limit_bytes == dc.spool_limit_bytes &&
                db->source_conf.min_free_bytes == sc.min_free_bytes &&
                db->source_conf.encoding == sc.encoding &&
                db->source_conf.checkpoint_pages == sc.checkpoint_pages &&
                db->source_conf.wal_limit_bytes == sc.wal_limit_bytes;
    for (size_t i = 0; i < db->n_up; i++)
        same = same && db->up[i]->interval_ms == c->replica[i].sync_interval_ms;
    return same;
}

/* ---- reload ------------------------------------------------------------------------------------ */

static void add_name(struct buf *b, const char *name)
{
    buf_add(b, name, strlen(name) + 1);
}

static void close_old_targets(struct manager *m);
static void close_rest(struct manager *m);

static void on_retired(struct database *db, void *arg)
{
    (void)db;
    struct manager *m = arg;
    if (--m->retired)
        return;
    if (m->closing)
        close_rest(m);
    else
        close_old_targets(m);
}

static void retire(struct manager *m, struct database *db)
{
    m->retired++;
    watch_remove(m->watch, db);
    database_close(db, on_retired, m);
}

static void close_old_targets(struct manager *m)
{
    for (size_t i = 0; i < m->n_old; i++) {
        if (m->old_target[i]->store)
            store_close(m->old_target[i]->store, NULL, NULL);
        target_free(m->old_target[i]);
    }
    free(m->old_target);
    m->old_target = NULL;
    m->n_old = 0;
}

static void swap_targets(struct manager *m, struct manager_target **next, size_t n)
{
    for (size_t i = 0; i < m->n_targets; i++) {
        for (size_t k = 0; k < n; k++)
            if (next[k]->store == m->target[i]->store)
                m->target[i]->store = NULL; /* lives on under the new list */
        m->old_target = util_realloc(m->old_target, (m->n_old + 1) * sizeof *m->old_target);
        m->old_target[m->n_old++] = m->target[i];
    }
    free(m->target);
    m->target = next;
    m->n_targets = n;
}

/* A database that changed and its successor must not be attached at once to one spool directory: the
 * new one starts when the old one has let go. */
struct successor {
    struct manager *m;
    struct database *db;
};

static void on_replaced(struct database *old, void *arg)
{
    struct successor *s = arg;
    struct manager *m = s->m;
    struct database *db = s->db;
    free(s);
    on_retired(old, m);
    if (m->closing)
        return; /* it will be closed without ever having started */
    database_begin(m, db);
}

static void apply(struct manager *m, struct conf *conf, struct manager_target **target,
                  struct manager_diff *ret)
{
    struct database **list = util_zalloc(conf->n_dbs * sizeof(struct database *));
    for (size_t i = 0; i < conf->n_dbs; i++) {
        const struct conf_db *c = &conf->db[i];
        struct database *old = NULL;
        for (size_t k = 0; k < m->n_dbs; k++)
            if (m->db[k] && !strcmp(m->db[k]->name, c->name)) {
                old = m->db[k];
                m->db[k] = NULL;
            }
        if (old && same_shape(old, conf, c, target)) {
            bool same = same_figures(old, conf, c);
            if (!same) {
                struct source_conf sc = source_conf_of(conf, c, old->dir);
                cleanup_free struct database_replica *r = replicas_of(c, target);
                struct database_conf dc = database_conf_of(conf, c);
                database_reconf(old, &sc, &dc, r, c->n_replicas);
                add_name(&ret->changed, c->name);
            }
            ret->unchanged += same;
            list[i] = old;
            continue;
        }
        list[i] = database_make(m, conf, c, target);
        if (!old) {
            add_name(&ret->added, c->name);
            database_begin(m, list[i]);
            continue;
        }
        add_name(&ret->changed, c->name);
        struct successor *s = util_alloc(sizeof *s);
        *s = (struct successor){m, list[i]};
        m->retired++;
        watch_remove(m->watch, old);
        database_close(old, on_replaced, s);
    }
    for (size_t k = 0; k < m->n_dbs; k++)
        if (m->db[k]) {
            add_name(&ret->removed, m->db[k]->name);
            retire(m, m->db[k]);
        }
    free(m->db);
    m->db = list;
    m->n_dbs = conf->n_dbs;
    swap_targets(m, target, conf->n_targets);
    if (!m->retired)
        close_old_targets(m);
}

int manager_reload(struct manager *m, struct manager_diff *ret, struct buf *errors, struct err *e)
{
    *ret = (struct manager_diff){BUF_INIT, BUF_INIT, BUF_INIT, 0};
    if (m->stopping)
        return err_set(e, ERR_BUSY, "walsupd is stopping");
    if (m->retired)
        return err_set(e, ERR_BUSY, "the last reload is not finished yet");
    notify_reloading(m->notify);
    struct conf *conf = NULL;
    int r = conf_load(m->conf_path, &conf, errors, e);
    struct manager_target **target = NULL;
    if (r == 0 && (strcmp(conf->state_dir, m->conf->state_dir) != 0 ||
                   strcmp(conf->socket, m->conf->socket) != 0)) {
        r = err_set(e, ERR_CONFIG, "state-dir and socket cannot change while walsupd runs");
        err_hint(e, "systemctl restart walsupd");
    }
    if (r == 0)
        r = targets_open(m, conf, &target, e);
    if (r < 0) {
        (void)conf_free(conf);
        notify_ready(m->notify);
        return r;
    }
    berths_resize(m->berths, conf->max_open);
    apply(m, conf, target, ret);
    (void)conf_free(m->conf);
    m->conf = conf;
    enum log_level level;
    if (log_level_parse(conf->log_level, &level))
        log_setup(level);
    log_line(LOG_NOTICE, "configuration reloaded: %zu databases, %u of them unchanged", m->n_dbs,
             ret->unchanged);
    notify_ready(m->notify);
    return 0;
}

static void on_sighup(uv_signal_t *s, int signum)
{
    (void)signum;
    struct manager *m = s->data;
    struct manager_diff diff;
    cleanup_buf struct buf errors = BUF_INIT;
    struct err e;
    if (manager_reload(m, &diff, &errors, &e) < 0) {
        log_err(LOG_ERROR, &e, "reload refused, the old configuration stays");
        for (char *save = NULL, *line = strtok_r((char *)(uintptr_t)buf_str(&errors), "\n", &save);
             line; line = strtok_r(NULL, "\n", &save))
            log_line(LOG_ERROR, "%s", line);
    }
    manager_diff_done(&diff);
}

/* ---- clocks ------------------------------------------------------------------------------------ */

static bool progress(const struct manager *m)
{
    for (size_t i = 0; i < m->n_dbs; i++)
        if (database_stuck_ms(m->db[i]) > STUCK_LIMIT_MS)
            return false;
    return true;
}

static void maybe_close(struct manager *m);

static void on_tick(uv_timer_t *t)
{
    struct manager *m = t->data;
    char line[200];
    if (m->ready && !m->stopping) {
        status_line(m, line, sizeof line);
        notify_status(m->notify, "%s", line);
    }
    if (notify_watchdog_ms(m->notify) && progress(m))
        notify_alive(m->notify);
    if (m->stopping && !m->closing)
        maybe_close(m);
}

static void on_scan(uv_timer_t *t)
{
    struct manager *m = t->data;
    watch_rescan(m->watch);
}

/* ---- shutdown ---------------------------------------------------------------------------------- */

static void step_closed(struct manager *m)
{
    if (--m->open)
        return;
    uv_stop(m->loop);
}

static void on_store_closed(void *arg)
{
    step_closed(arg);
}

static void on_handle_closed(uv_handle_t *h)
{
    step_closed(h->data);
}

static void on_part_closed(void *arg)
{
    step_closed(arg);
}

/* Databases first, because they use everything else; then the rest. */
static void close_rest(struct manager *m)
{
    uv_handle_t *const handle[] = {
        (uv_handle_t *)&m->scan,    (uv_handle_t *)&m->tick,   (uv_handle_t *)&m->deadline,
        (uv_handle_t *)&m->sigterm, (uv_handle_t *)&m->sigint, (uv_handle_t *)&m->sighup};
    m->open = 1;
    close_old_targets(m);
    for (size_t i = 0; i < m->n_targets; i++) {
        m->open++;
        store_close(m->target[i]->store, on_store_closed, m);
        target_free(m->target[i]);
    }
    free(m->target);
    m->target = NULL;
    m->n_targets = 0;
    m->open++;
    watch_close(m->watch, on_part_closed, m);
    if (m->ctl) {
        m->open++;
        ctlserver_close(m->ctl, on_part_closed, m);
    }
    for (size_t i = 0; i < ARRAY_LEN(handle); i++) {
        m->open++;
        uv_close(handle[i], on_handle_closed);
    }
    step_closed(m);
}

static void begin_close(struct manager *m)
{
    if (m->closing)
        return;
    m->closing = true;
    m->retired++;
    for (size_t i = 0; i < m->n_dbs; i++)
        retire(m, m->db[i]);
    free(m->db);
    m->db = NULL;
    m->n_dbs = 0;
    on_retired(NULL, m);
}

static void maybe_close(struct manager *m)
{
    for (size_t i = 0; i < m->n_dbs; i++)
        if (!database_flushed(m->db[i]))
            return;
    begin_close(m);
}

static void on_deadline(uv_timer_t *t)
{
    struct manager *m = t->data;
    if (m->closing)
        return;
    for (size_t i = 0; i < m->n_dbs; i++)
        for (size_t r = 0; r < m->db[i]->n_up; r++) {
            uint64_t files;
            uint64_t bytes = uploader_pending(m->db[i]->up[r], &files);
            char size[32];
            if (files)
                log_line(LOG_WARN,
                         "%s -> %s: stopped with %llu files (%s) not uploaded; they stay in the "
                         "spool and go up after the next start",
                         m->db[i]->name, m->db[i]->up[r]->target, (unsigned long long)files,
                         util_size(size, bytes));
        }
    m->exit_status = 0;
    begin_close(m);
}

void manager_stop(struct manager *m)
{
    if (m->stopping) {
        /* supervisors like to signal a process and then its group: that is one request */
        if (clk_mono_ms() - m->stopping_ms < 100)
            return;
        log_line(LOG_NOTICE, "asked to stop twice: ending at once");
        on_deadline(&m->deadline);
        return;
    }
    m->stopping = true;
    m->stopping_ms = clk_mono_ms();
    notify_stopping(m->notify);
    notify_status(m->notify, "stopping: uploading what is left");
    notify_extend(m->notify, m->conf->shutdown_timeout_ms + 10000);
    log_line(LOG_NOTICE, "stopping");
    for (size_t i = 0; i < m->n_dbs; i++)
        database_flush(m->db[i]);
    (void)uv_timer_start(&m->deadline, on_deadline, m->conf->shutdown_timeout_ms, 0);
    (void)uv_timer_start(&m->tick, on_tick, 1, 20);
}

static void on_signal(uv_signal_t *s, int signum)
{
    (void)signum;
    manager_stop(s->data);
}

/* ---- start ------------------------------------------------------------------------------------- */

static void start_timers(struct manager *m)
{
    (void)uv_timer_init(m->loop, &m->scan);
    (void)uv_timer_init(m->loop, &m->tick);
    (void)uv_timer_init(m->loop, &m->deadline);
    m->scan.data = m->tick.data = m->deadline.data = m;
    uint64_t watchdog = notify_watchdog_ms(m->notify);
    uint64_t tick = watchdog ? MIN(watchdog, (uint64_t)TICK_MS) : TICK_MS;
    (void)uv_timer_start(&m->tick, on_tick, tick, tick);
    (void)uv_timer_start(&m->scan, on_scan, MIN(m->conf->scan_interval_ms, (uint64_t)5000),
                         MIN(m->conf->scan_interval_ms, (uint64_t)5000));
    const struct {
        uv_signal_t *handle;
        int signum;
        uv_signal_cb cb;
    } sig[] = {{&m->sigterm, SIGTERM, on_signal},
               {&m->sigint, SIGINT, on_signal},
               {&m->sighup, SIGHUP, on_sighup}};
    for (size_t i = 0; i < ARRAY_LEN(sig); i++) {
        (void)uv_signal_init(m->loop, sig[i].handle);
        sig[i].handle->data = m;
        (void)uv_signal_start(sig[i].handle, sig[i].cb, sig[i].signum);
    }
}

int manager_new(uv_loop_t *loop, const char *conf_path, struct conf *conf, struct manager **ret,
                struct err *e)
{
    struct manager *m = util_zalloc(sizeof *m);
    m->loop = loop;
    m->conf_path = util_strdup(conf_path);
    m->started_ms = clk_real_ms();
    int r = watch_new(loop, &m->watch, e);
    if (r == 0)
        r = ctlserver_new(m, conf->socket, &m->ctl, e);
    if (r == 0)
        r = targets_open(m, conf, &m->target, e);
    if (r < 0) {
        /* the process ends; the loop is not run any more */
        free(m->conf_path);
        free(m);
        return r;
    }
    m->n_targets = conf->n_targets;
    m->notify = notify_new();
    m->conf = conf;
    m->berths = berths_new(conf->max_open);
    start_timers(m);
    m->db = util_zalloc(conf->n_dbs * sizeof(struct database *));
    for (size_t i = 0; i < conf->n_dbs; i++)
        m->db[m->n_dbs++] = database_make(m, conf, &conf->db[i], m->target);
    for (size_t i = 0; i < m->n_dbs; i++)
        database_begin(m, m->db[i]);
    if (!m->n_dbs)
        on_changed(NULL, m);
    *ret = m;
    return 0;
}

int manager_free(struct manager *m)
{
    int status = m->exit_status;
    (void)notify_free(m->notify);
    (void)conf_free(m->conf);
    (void)berths_free(m->berths);
    free(m->conf_path);
    free(m);
    return status;
}
