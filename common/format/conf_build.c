#include "common/format/conf_int.h"

#include <arpa/inet.h>
#include <ctype.h>

#include "common/format/name.h"
#include "common/format/near.h"

/* ---- [walsup] ------------------------------------------------------------------------------- */

/* 192.0.2.1:9629 or [2001:db8::1]:9629; a bare port would be open to everybody without saying so */
static bool is_address(const char *text)
{
    const char *colon = strrchr(text, ':');
    char host[64], *end;
    struct in6_addr ip;
    size_t n = colon ? (size_t)(colon - text) : 0;
    bool six = n > 2 && text[0] == '[' && text[n - 1] == ']';
    if (n == 0 || n >= sizeof host || colon[1] < '1' || colon[1] > '9')
        return false;
    (void)snprintf(host, sizeof host, "%.*s", (int)(six ? n - 2 : n), text + six);
    unsigned long port = strtoul(colon + 1, &end, 10);
    return !*end && port <= 65535 && inet_pton(six ? AF_INET6 : AF_INET, host, &ip) == 1;
}

static void build_daemon(struct conf_ctx *x)
{
    struct conf *c = x->c;
    const struct conf_section *s = conf_section_find(c->raw, CONF_WALSUP, "");
    c->state_dir = conf_dup_of(s, CONF_WALSUP_state_dir);
    c->socket = conf_dup_of(s, CONF_WALSUP_socket);
    c->landlock = conf_num_of(s, CONF_WALSUP_landlock) == 0;
    c->log_requests = conf_num_of(s, CONF_WALSUP_log_requests) != 0;
    if (conf_get(s, CONF_WALSUP_include)) /* else it is known where they are by default */
        c->include = conf_dup_of(s, CONF_WALSUP_include);
    c->log_level = conf_dup_of(s, CONF_WALSUP_log_level);
    c->workers = (uint32_t)conf_num_of(s, CONF_WALSUP_workers);
    c->scan_interval_ms = conf_num_of(s, CONF_WALSUP_scan_interval);
    c->idle_timeout_ms = conf_num_of(s, CONF_WALSUP_idle_timeout);
    c->copy_wait_ms = conf_num_of(s, CONF_WALSUP_copy_wait);
    c->max_open = (uint32_t)conf_num_of(s, CONF_WALSUP_max_open);
    c->min_free_bytes = conf_num_of(s, CONF_WALSUP_min_free);
    c->shutdown_timeout_ms = conf_num_of(s, CONF_WALSUP_shutdown_timeout);
    c->metrics_listen = conf_dup_of(s, CONF_WALSUP_metrics_listen);
    c->on_state_change = conf_dup_of(s, CONF_WALSUP_on_state_change);
    c->hook_timeout_ms = conf_num_of(s, CONF_WALSUP_hook_timeout);
    if (c->metrics_listen && !is_address(c->metrics_listen))
        conf_problem(x, &conf_get(s, CONF_WALSUP_metrics_listen)->origin, "write 127.0.0.1:9629, or [::]:9629 for every address",
                     "'%.100s' is no address in digits with a port", c->metrics_listen);
    if (strlen(c->socket) > 107)
        conf_problem(x, &conf_get(s, CONF_WALSUP_socket)->origin,
                     "the kernel allows 107: choose a shorter path",
                     "socket is %zu bytes long", strlen(c->socket));
}

/* ---- [db] and [replica] --------------------------------------------------------------------- */

static void unknown_target(struct conf_ctx *x, const struct conf_origin *o, const char *name)
{
    char hint[128] = "add a section [target NAME]";
    for (size_t i = 0; i < x->c->n_targets; i++)
        if (near_enough(name, near_distance(name, x->c->target[i].name)))
            (void)snprintf(hint, sizeof hint, "did you mean %s?", x->c->target[i].name);
    conf_problem(x, o, hint, "there is no target '%.64s'", name);
}

static void add_replica(struct conf_ctx *x, struct conf_db *d, const struct conf_section *s,
                        const char *target)
{
    struct conf *c = x->c;
    const struct conf_origin *o = conf_origin_of(s, CONF_DB_target);
    struct conf_replica r = {0};
    while (r.target < c->n_targets && strcmp(c->target[r.target].name, target) != 0)
        r.target++;
    if (r.target == c->n_targets) {
        unknown_target(x, o, target);
        return;
    }
    for (size_t i = 0; i < d->n_replicas; i++)
        if (d->replica[i].target == r.target) {
            conf_problem(x, o, "name it once", "target '%s' appears twice", target);
            return;
        }
    cleanup_free char *title = util_printf("%s@%s", s->name, target);
    const struct conf_section *over = conf_section_find(c->raw, CONF_REPLICA, title);
    const char *path = conf_text_of(over, CONF_REPLICA_path);
    struct err e = {0};
    r.sync_interval_ms = conf_effective(c->raw, over, s, "sync-interval", NULL);
    r.path = path                ? conf_prefix_clean(path, &e)
             : d->name_template ? util_strdup(d->name_template)
                                : util_strdup(s->name);
    if (r.path && path && d->name_template && name_check(r.path, &e) < 0)
        free(TAKE_PTR(r.path));
    if (r.path && !*r.path) {
        (void)err_set(&e, ERR_CONFIG, "it is empty");
        free(TAKE_PTR(r.path));
    }
    if (!r.path) {
        (void)err_wrap(&e, "path = %s", path);
        conf_problem_err(x, conf_origin_of(over, CONF_REPLICA_path), &e);
        r.path = util_strdup(d->name_template ? d->name_template : s->name);
    }
    d->replica = util_realloc(d->replica, (d->n_replicas + 1) * sizeof *d->replica);
    d->replica[d->n_replicas++] = r;
}

static void build_replicas(struct conf_ctx *x, struct conf_db *d, const struct conf_section *s)
{
    const char *list = conf_text_of(s, CONF_DB_target);
    if (!list) {
        if (!conf_get(s, CONF_DB_target))
            conf_problem(x, &s->origin, "add target = NAME", "[db %s] has no target", s->name);
        return;
    }
    for (const char *p = list;; p++) {
        size_t n = strcspn(p, ",");
        const char *a = p, *z = p + n;
        while (a < z && isspace((unsigned char)*a))
            a++;
        while (z > a && isspace((unsigned char)z[-1]))
            z--;
        cleanup_free char *name = strndup(a, (size_t)(z - a));
        if (name && *name)
            add_replica(x, d, s, name);
        else
            conf_problem(x, conf_origin_of(s, CONF_DB_target), "as in target = homelab, local",
                         "target has a comma too many");
        p += n;
        if (!*p)
            return;
    }
}

/* Levels, snapshots, retention. */
static void build_history(struct conf_ctx *x, struct conf_db *d, const struct conf_section *s)
{
    static const char *const level[] = {"level1-interval", "level2-interval", "level3-interval"};
    const struct conf_raw *raw = x->c->raw;
    struct conf_origin at, l0_at;
    for (size_t i = 0; i < ARRAY_LEN(level); i++)
        d->level_ms[i] = i && !d->level_ms[i - 1] ? 0 : conf_effective(raw, NULL, s, level[i], NULL);
    d->snapshot_ms = conf_effective(raw, NULL, s, "snapshot-interval", NULL);
    d->retention_ms = conf_effective(raw, NULL, s, "retention", &at);
    d->l0_retention_ms = conf_effective(raw, NULL, s, "l0-retention", &l0_at);
    d->delete_delay_ms = conf_effective(raw, NULL, s, "delete-delay", NULL);
    d->verify_ms = conf_effective(raw, NULL, s, "verify-interval", NULL);
    if (d->retention_ms && d->retention_ms < d->snapshot_ms)
        conf_problem(x, at.file ? &at : &s->origin, "make retention longer, or snapshots more frequent",
                     "[db %s] has a retention that is shorter than its snapshot-interval", s->name);
    if (d->retention_ms && d->l0_retention_ms > d->retention_ms)
        conf_problem(x, l0_at.file ? &l0_at : &s->origin, "make it shorter, or leave it out",
                     "[db %s] has an l0-retention that is longer than its retention", s->name);
    if (!d->l0_retention_ms)
        d->l0_retention_ms = d->retention_ms;
}

static void build_pattern(struct conf_ctx *x, struct conf_db *d, const struct conf_section *s,
                          const struct conf_origin *at)
{
    const char *name = conf_text_of(s, CONF_DB_name);
    struct err e = {0};
    if (glob_new(d->path, &d->glob, &e) < 0) {
        (void)err_wrap(&e, "path = %s", d->path);
        conf_problem_err(x, at, &e);
    }
    if (name && name_check(name, &e) < 0) {
        (void)err_wrap(&e, "name = %s", name);
        conf_problem_err(x, conf_origin_of(s, CONF_DB_name), &e);
        name = NULL;
    }
    d->name_template = util_strdup(name ? name : NAME_TEMPLATE);
}

static void build_db(struct conf_ctx *x, const struct conf_section *s)
{
    struct conf *c = x->c;
    struct conf_db *d = &c->db[c->n_dbs++];
    const struct conf_value *path = conf_get(s, CONF_DB_path);
    *d = (struct conf_db){.name = util_strdup(s->name), .origin = s->origin};
    d->checkpoint_pages = conf_effective(c->raw, NULL, s, "checkpoint-pages", NULL);
    d->wal_limit_bytes = conf_effective(c->raw, NULL, s, "wal-limit", NULL);
    d->spool_limit_bytes = conf_effective(c->raw, NULL, s, "spool-limit", NULL);
    build_history(x, d, s);
    if (path && !path->bad) {
        d->path = util_strdup(path->text);
        if (glob_is(d->path))
            build_pattern(x, d, s, &path->origin);
        else if (!strcmp(d->path, "/"))
            conf_problem(x, &path->origin, "name the database file", "path = / is a directory");
    } else if (!path) {
        conf_problem(x, &s->origin, "add path = /PATH/OF/THE/DATABASE", "[db %s] has no path",
                     s->name);
    }
    if (conf_get(s, CONF_DB_name) && path && !path->bad && !d->name_template)
        conf_problem(x, conf_origin_of(s, CONF_DB_name), "remove the line",
                     "name is for patterns: this database is called %s", s->name);
    build_replicas(x, d, s);
}

static void check_replica_sections(struct conf_ctx *x)
{
    struct conf_raw *raw = x->c->raw;
    for (size_t i = 0; i < raw->n; i++) {
        struct conf_section *s = raw->section[i];
        if (s->kind != CONF_REPLICA)
            continue;
        const char *at = strchr(s->name, '@');
        cleanup_free char *db = strndup(s->name, (size_t)(at - s->name));
        const struct conf_db *d = db ? map_get_str(&x->c->by_name, db) : NULL;
        if (!d) {
            conf_problem(x, &s->origin, "write [replica DATABASE@TARGET]",
                         "there is no database '%s'", db ? db : "");
            continue;
        }
        if (!conf_find_target(x->c, at + 1)) {
            unknown_target(x, &s->origin, at + 1);
            continue;
        }
        bool used = false;
        for (size_t j = 0; j < d->n_replicas; j++)
            used = used || !strcmp(x->c->target[d->replica[j].target].name, at + 1);
        if (!used && d->n_replicas)
            conf_problem(x, &s->origin, "add it to the target line of the database",
                         "database '%s' is not replicated to '%s'", d->name, at + 1);
    }
}

/* ---- all of it ------------------------------------------------------------------------------ */

void conf_build(struct conf_ctx *x)
{
    struct conf *c = x->c;
    struct conf_raw *raw = c->raw;
    conf_sort_sections(x);
    build_daemon(x);
    c->target = util_zalloc(raw->n * sizeof *c->target);
    c->db = util_zalloc(raw->n * sizeof *c->db);
    for (size_t i = 0; i < raw->n; i++)
        if (raw->section[i]->kind == CONF_TARGET)
            conf_build_target(x, raw->section[i]);
    for (size_t i = 0; i < raw->n; i++)
        if (raw->section[i]->kind == CONF_DB)
            build_db(x, raw->section[i]);
    conf_index(c);
    check_replica_sections(x);
    conf_check_places(x);
}
