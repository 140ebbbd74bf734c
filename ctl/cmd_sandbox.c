/* sandbox: a drop-in for walsupd.service that opens what this configuration needs and nothing else */
#include "ctl/ctl.h"

#include <limits.h>
#include <stdlib.h>

#include "ctl/out.h"

/* the unit's own, which are there without being listed */
#define UNIT_STATE "/var/lib/walsup"
#define UNIT_RUN "/run/walsup"
#define LOCKS "/run/lock"

struct paths {
    char **dir;
    size_t n;
};

/* what walsupd.service takes away as a whole, by InaccessiblePaths= */
static const char *const hidden[] = {"/root", "/boot", "/etc/ssh", "/etc/ssl/private", "/var/lib/private",
                                     "/var/lib/systemd"};
static const char *const homes[] = {"/home", "/run/user"};
static const char *const temporary[] = {"/tmp", "/var/tmp"};

static bool below(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return !strncmp(path, dir, n) && (!path[n] || path[n] == '/' || (n && dir[n - 1] == '/'));
}

static const char *below_any(const char *path, const char *const *dir, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (below(path, dir[i]))
            return dir[i];
    return NULL;
}

static void add(struct paths *p, const char *dir)
{
    p->dir = util_realloc(p->dir, (p->n + 1) * sizeof *p->dir);
    p->dir[p->n++] = util_strdup(*dir ? dir : "/");
}

static void add_parent(struct paths *p, const char *path)
{
    cleanup_free char *dir = util_strdup(path);
    *strrchr(dir, '/') = '\0';
    add(p, dir);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Each once, and none that lies below another one. */
static void thin_out(struct paths *p)
{
    size_t kept = 0;
    if (p->n)
        qsort(p->dir, p->n, sizeof *p->dir, by_name);
    for (size_t i = 0; i < p->n; i++) {
        bool needed = true;
        for (size_t k = 0; k < kept && needed; k++)
            needed = !below(p->dir[i], p->dir[k]);
        if (needed)
            p->dir[kept++] = p->dir[i];
        else
            free(p->dir[i]);
    }
    p->n = kept;
}

static void collect(const struct conf *conf, struct paths *p)
{
    add(p, LOCKS); /* of two daemons that are given one database */
    if (!below(conf->state_dir, UNIT_STATE))
        add(p, conf->state_dir);
    if (!below(conf->socket, UNIT_RUN))
        add_parent(p, conf->socket);
    for (size_t i = 0; i < conf->n_dbs; i++) {
        const struct conf_db *d = &conf->db[i];
        if (d->glob) {
            add(p, glob_base(d->glob));
            continue;
        }
        add_parent(p, d->path);
        char real[PATH_MAX]; /* SQLite puts its side files beside what a symbolic link leads to */
        if (realpath(d->path, real))
            add_parent(p, real);
    }
    for (size_t i = 0; i < conf->n_targets; i++)
        if (conf->target[i].type == CONF_FILE)
            add(p, conf->target[i].path);
    thin_out(p);
}

/* One path for a list of systemd.exec(5): in quotes, % doubled. "-": it need not be there. */
static void put(struct buf *out, const char *key, const char *path)
{
    buf_printf(out, "%s=\"-", key);
    for (; *path; path++) {
        if (*path == '"' || *path == '\\')
            buf_add_str(out, "\\");
        if (*path == '%')
            buf_add_str(out, "%");
        buf_add(out, path, 1);
    }
    buf_add_str(out, "\"\n");
}

static void make(const char *config, const struct paths *p, struct buf *out)
{
    bool home = false, tmp = false;
    buf_printf(out, "# What walsupd may write with %s, made by: walsupctl sandbox\n"
                    "#   walsupctl sandbox > /etc/systemd/system/walsupd.service.d/paths.conf\n"
                    "#   systemctl daemon-reload && systemctl restart walsupd\n"
                    "# Make it again when databases or targets come to lie elsewhere. A directory that\n"
                    "# is not there yet when walsupd starts is opened by the next restart.\n"
                    "[Service]\n"
                    "# not those of the unit\n"
                    "ReadWritePaths=\n", config);
    for (size_t i = 0; i < p->n; i++) {
        const char *path = p->dir[i];
        const char *hider = below_any(path, hidden, ARRAY_LEN(hidden));
        if (hider)
            buf_printf(out, "# the next one is of no use: the unit hides %s\n", hider);
        if (!home && below_any(path, homes, ARRAY_LEN(homes))) {
            buf_add_str(out, "# homes are empty but for what is listed\nProtectHome=tmpfs\n");
            home = true;
        }
        if (!tmp && below_any(path, temporary, ARRAY_LEN(temporary))) {
            buf_add_str(out, "# else it has a /tmp of its own\nPrivateTmp=no\n");
            tmp = true;
        }
        put(out, below_any(path, homes, ARRAY_LEN(homes)) ? "BindPaths" : "ReadWritePaths", path);
    }
}

static void warn_hidden(const struct paths *p)
{
    for (size_t i = 0; i < p->n; i++) {
        const char *hider = below_any(p->dir[i], hidden, ARRAY_LEN(hidden));
        struct err e;
        if (!hider)
            continue;
        (void)err_set(&e, ERR_PERM, "walsupd.service hides %s, so %s stays out of its reach", hider, p->dir[i]);
        (void)err_hint(&e, "move the database or the target to another directory");
        out_warning(&e);
    }
}

int cmd_sandbox(struct ctl *c)
{
    int status;
    struct conf *conf = NULL;
    struct paths p = {0};
    cleanup_buf struct buf out = BUF_INIT;
    if (ctl_option(c, NULL, &status) == CTL_STOP || !ctl_operands(c, 0, 0, &status) ||
        !ctl_load(c, &conf, &status))
        return status;
    cleanup_free char *config = ctl_absolute(c->config);
    collect(conf, &p);
    make(config, &p, &out);
    if (c->json) {
        json_t *dirs = json_array();
        for (size_t i = 0; i < p.n; i++)
            (void)json_array_append_new(dirs, json_string(p.dir[i]));
        status = out_json(json_pack("{s:o, s:s}", "paths", dirs, "text", buf_str(&out)));
    } else {
        status = ctl_print(c, &out);
    }
    warn_hidden(&p);
    for (size_t i = 0; i < p.n; i++)
        free(p.dir[i]);
    free(p.dir);
    (void)conf_free(conf);
    return status;
}
