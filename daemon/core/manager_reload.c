/* manager_reload.c - targets, and from one configuration to the next. */
#include "daemon/core/manager.h"

#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/store/s3_log.h"
#include "common/store/work.h"
#include "daemon/os/confine.h"
#include "daemon/os/walls.h"

static void diff_done(struct manager_diff *d)
{
    buf_free(&d->added);
    buf_free(&d->removed);
    buf_free(&d->changed);
    buf_free(&d->restart);
    conf_diff_free(d->change, d->n_changes);
}

/* ---- targets ----------------------------------------------------------------------------------- */

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

/* Two targets with one identity are the same store; a change of any of this needs a new one. */
static struct secret *target_identity(const struct conf_target *t)
{
    return secret_take(util_printf("%d|%d|%d|%s|%s|%s|%s|%s|%s|%d|%s|%s|%s|%s|%s|%s|%s|%d|%d|%s|%s|%s|%s|%s|%u|%llu",
                       (int)t->type,
                       (int)t->provider, (int)t->sse, or_empty(t->sse_customer_key_file), or_empty(t->sse_kms_key_id),
                       or_empty(t->endpoint), or_empty(t->bucket), or_empty(t->path),
                       or_empty(t->region), (int)t->addressing, or_empty(t->access_key_id),
                       secret_reveal(t->secret_access_key), or_empty(t->secret_access_key_file),
                       secret_reveal(t->session_token), or_empty(t->credentials_file),
                       or_empty(t->profile), or_empty(t->credential_process),
                       (int)t->instance_role, (int)t->skip_verify, or_empty(t->ca_file), or_empty(t->ca_path),
                       or_empty(t->client_certificate), or_empty(t->client_key),
                       or_empty(t->storage_class), t->max_connections,
                       (unsigned long long)t->bandwidth_limit_bytes));
}

void manager_target_free(struct manager_target *t)
{
    secret_free(t->identity);
    free(t->name);
    free(t);
}

struct used {
    const char *state_dir, *record;
};

static int find_record(const char *name, void *arg)
{
    const struct used *u = arg;
    cleanup_free char *path = util_printf("%s/db/%s/%s", u->state_dir, name, u->record);
    return access(path, F_OK) == 0;
}

/* Something of some database was acknowledged there. Asked once for a target, if at all. */
static bool was_used(const char *state_dir, const char *target)
{
    cleanup_free char *dir = util_printf("%s/db", state_dir), *record = util_printf("acked.%s", target);
    struct used u = {state_dir, record};
    return fsx_list(dir, find_record, &u, NULL) == 1;
}

int manager_targets_open(struct manager *m, const struct conf *conf, struct manager_target ***ret,
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
                secret_same(m->target[k]->identity, t->identity))
                t->store = m->target[k]->store;
        if (t->store)
            continue;
        int r = store_open(m->loop, &conf->target[i], &t->store, e);
        if (r < 0) {
            err_wrap(e, "target %s", t->name);
            manager_target_free(t);
            for (size_t k = 0; k < i; k++) {
                bool shared = false;
                for (size_t q = 0; q < m->n_targets; q++)
                    shared = shared || m->target[q]->store == list[k]->store;
                if (!shared)
                    store_close(list[k]->store, NULL, NULL);
                manager_target_free(list[k]);
            }
            free(list);
            return r;
        }
        store_share(t->store);
        store_guard(t->store, t->name, conf->state_dir, was_used);
        if (conf->target[i].skip_verify)
            log_line(LOG_WARN, "target %s: skip-verify is on: anybody on the way can read and "
                               "change what is replicated there",
                     t->name);
    }
    *ret = list;
    return 0;
}

void manager_close_old(struct manager *m)
{
    for (size_t i = 0; i < m->n_old; i++) {
        if (m->old_target[i]->store)
            store_close(m->old_target[i]->store, NULL, NULL);
        manager_target_free(m->old_target[i]);
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

/* ---- reload ------------------------------------------------------------------------------------ */

static void add_name(struct buf *b, const char *name)
{
    buf_add(b, name, strlen(name) + 1);
}

/* its section in the new configuration, if it keeps its name */
static const struct conf_db *section_of(const struct manager_db *e, const struct conf *conf)
{
    const struct conf_db *c = e->conf->glob ? conf_of_path(conf, e->db->path)
                                            : conf_find_db(conf, e->conf->name);
    return c && strcmp(c->name, e->conf->name) == 0 && !c->glob == !e->conf->glob ? c : NULL;
}

/* A database that changed and its successor must not be attached at once to one spool directory: what is
 * new waits until the old ones have let go (manager_add, on_found). */
static void apply(struct manager *m, struct conf *conf, struct manager_target **target,
                  struct manager_diff *ret)
{
    struct map replaced = MAP_INIT; /* sections */
    for (size_t i = m->n_dbs; i-- > 0;) { /* what is retired leaves its place to the last one */
        struct manager_db *e = m->db[i]->owner;
        const struct conf_db *c = section_of(e, conf);
        if (!c || !manager_same_shape(e, conf, c, target)) {
            add_name(c ? &ret->changed : &ret->removed, e->db->name);
            if (c && !c->glob)
                map_put_str(&replaced, c->name, e);
            manager_retire(m, e);
            continue;
        }
        e->conf = c;
        if (manager_refigure(e, conf, c, target))
            add_name(&ret->changed, e->db->name);
        else
            ret->unchanged++;
    }
    struct conf *old = m->conf;
    m->conf = conf;
    swap_targets(m, target, conf->n_targets);
    for (size_t i = 0; i < conf->n_dbs; i++) {
        const struct conf_db *c = &conf->db[i];
        const struct database *db = c->glob ? NULL : map_get_str(&m->by_name, c->name);
        if (c->glob || (db && !((struct manager_db *)db->owner)->conf->glob))
            continue;
        if (!map_get_str(&replaced, c->name))
            add_name(&ret->added, c->name);
        (void)manager_add(m, c, c->path, NULL);
    }
    map_free(&replaced);
    drill_reconf(m->drill);
    discover_set(m->discover, conf);
    (void)conf_free(old);
    if (!m->retired)
        manager_close_old(m);
}

static void say_changes(struct manager_diff *d)
{
    const char *line = buf_str(&d->restart);
    for (size_t n; (n = strcspn(line, "\n")) > 0; line += n + 1)
        log_line(LOG_WARN, "reload: %.*s", (int)n, line);
    for (size_t i = 0; i < d->n_changes; i++) {
        const struct conf_change *c = &d->change[i];
        if (!c->key)
            log_line(LOG_INFO, "reload: [%s] is %s", c->section, c->to ? "new" : "gone");
        else
            log_line(c->restart ? LOG_NOTICE : LOG_INFO, "reload: [%s] %s: %s, was %s%s", c->section, c->key,
                     c->to ? c->to : "default", c->from ? c->from : "default",
                     c->restart ? "; takes effect when walsupd is restarted" : "");
    }
}

/* One that was asked for. The configuration is read by a worker: it, and what it names, may lie on a file system that
 * does not answer. */
struct reload {
    struct work work;
    struct manager *m;
    manager_reload_fn done;
    void *arg;
    char *path;
    struct conf *conf; /* as it was read; NULL: r says why not */
    int r;
    struct err e;
    struct buf errors;
    struct manager_diff diff;
    struct reload *next;
};

static void read_work(uv_work_t *w)
{
    struct reload *l = w->data;
    l->r = conf_load(l->path, &l->conf, &l->errors, &l->e);
    if (l->r == 0)
        confine_missing(l->conf, l->path, &l->diff.restart);
}

/* l->conf is handed over on success. */
static int take(struct reload *l)
{
    struct manager *m = l->m;
    struct conf *conf = l->conf;
    struct manager_target **target = NULL;
    if (m->stopping)
        return err_set(&l->e, ERR_BUSY, "walsupd is stopping");
    if (l->r < 0)
        return l->r;
    if (strcmp(conf->state_dir, m->conf->state_dir) != 0 || strcmp(conf->socket, m->conf->socket) != 0) {
        err_set(&l->e, ERR_CONFIG, "state-dir and socket cannot change while walsupd runs");
        return err_hint(&l->e, "systemctl restart walsupd");
    }
    int r = manager_targets_open(m, conf, &target, &l->e);
    if (r < 0)
        return r;
    l->conf = NULL;
    conf_diff(m->conf, conf, &l->diff.change, &l->diff.n_changes);
    say_changes(&l->diff);
    berths_resize(m->berths, conf->max_open);
    apply(m, conf, target, &l->diff);
    enum log_level level;
    if (log_level_parse(conf->log_level, &level))
        log_setup(level);
    s3_log_requests(conf->log_requests);
    log_about(LOG_RELOADED, NULL, NULL, NULL);
    log_line(LOG_NOTICE, "configuration reloaded: %zu database%s, %u of them unchanged", m->n_dbs,
             PLURAL(m->n_dbs), l->diff.unchanged);
    return 0;
}

static void start(struct reload *l);

static void on_read(uv_work_t *w, int status)
{
    struct reload *l = w->data;
    struct manager *m = l->m;
    (void)status;
    int r = take(l);
    if (l->conf)
        (void)conf_free(l->conf);
    if (!m->stopping)
        notify_ready(m->notify);
    l->done(l->arg, r, &l->diff, &l->errors, &l->e);
    m->reload = l->next;
    if (m->reload)
        start(m->reload);
    diff_done(&l->diff);
    buf_free(&l->errors);
    free(l->path);
    free(l);
    m->asks--;
    manager_asked(m);
}

static void start(struct reload *l)
{
    struct manager *m = l->m;
    if (!m->stopping)
        notify_reloading(m->notify);
    m->asks++;
    work_queue(m->loop, &l->work, wall_of_mount(l->path), read_work, on_read);
}

void manager_reload(struct manager *m, manager_reload_fn done, void *arg)
{
    struct reload *l = util_zalloc(sizeof *l), **end = &m->reload;
    l->m = m;
    l->done = done;
    l->arg = arg;
    l->path = util_strdup(m->conf_path);
    l->errors = (struct buf)BUF_INIT;
    l->diff = (struct manager_diff){BUF_INIT, BUF_INIT, BUF_INIT, 0, NULL, 0, BUF_INIT};
    l->work.uv.data = l;
    while (*end)
        end = &(*end)->next;
    *end = l;
    if (m->reload == l)
        start(l);
}
