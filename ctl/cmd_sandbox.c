/* sandbox: a drop-in for the unit that opens what this configuration needs and nothing else */
#include "ctl/ctl.h"

#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "common/base/fsx.h"
#include "common/store/needs.h"
#include "ctl/out.h"
#include "ctl/unit.h"

#define LOCKS "/run/lock"
#define DROPIN "paths.conf"

struct paths {
    char **dir;
    size_t n;
};

/* what is asked of the unit, and what it says today */
struct sandbox {
    struct unit *unit;
    struct unit_view *view;
    struct paths write, read, opened; /* opened: of InaccessiblePaths= */
    bool home, tmp;
};

static const char *const homes[] = {"/home", "/root", "/run/user"};

static const char *below_any(const char *path, const char *const *dir, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (needs_below(path, dir[i]))
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
    cleanup_free char *dir = needs_parent(path);
    add(p, dir);
}

static bool has(const struct paths *p, const char *dir)
{
    for (size_t i = 0; i < p->n; i++)
        if (!strcmp(p->dir[i], dir))
            return true;
    return false;
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
            needed = !needs_below(p->dir[i], p->dir[k]);
        if (needed)
            p->dir[kept++] = p->dir[i];
        else
            free(p->dir[i]);
    }
    p->n = kept;
}

static void paths_done(struct paths *p)
{
    for (size_t i = 0; i < p->n; i++)
        free(p->dir[i]);
    free(p->dir);
}

/* ---- what is needed --------------------------------------------------------------------------- */

/* systemd makes the directories of the unit by itself, and opens them */
static bool of_the_unit(const struct unit *u, const char *path)
{
    static const char *const own[][2] = {{"StateDirectory", "/var/lib"}, {"RuntimeDirectory", "/run"}};
    for (size_t i = 0; i < ARRAY_LEN(own); i++) {
        const struct unit_line *l = unit_get(u, own[i][0]);
        cleanup_free char *dir = l ? util_printf("%s/%s", own[i][1], l->value) : NULL;
        if (dir && needs_below(path, dir))
            return true;
    }
    return false;
}

/* Files are read wherever the unit does not hide them. */
static void collect_read(struct sandbox *s, const struct need *n)
{
    enum unit_sight sight = unit_look(s->view, n->path, NULL, NULL);
    if (sight == UNIT_HIDDEN || sight == UNIT_EMPTY)
        add(&s->read, n->path);
}

static void collect(struct sandbox *s, const struct conf *conf, const char *config)
{
    struct needs l = {.item = NULL};
    char real[PATH_MAX];
    add(&s->write, LOCKS); /* of two daemons that are given one database */
    needs_collect(conf, config, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct need *n = &l.item[i];
        if (of_the_unit(s->unit, n->path))
            continue;
        switch (n->kind) {
        case NEED_WRITE_DIR:
            add(&s->write, n->path);
            break;
        case NEED_WRITE_BESIDE:
            add_parent(&s->write, n->path);
            /* SQLite puts its side files beside what a symbolic link leads to */
            if (!strcmp(n->what, "db") && realpath(n->path, real))
                add_parent(&s->write, real);
            break;
        case NEED_READ_FILE:
        case NEED_READ_DIR:
        case NEED_RUN:
            collect_read(s, n);
            break;
        }
    }
    needs_done(&l);
    thin_out(&s->write);
    thin_out(&s->read);
}

/* ---- what the unit hides ---------------------------------------------------------------------- */

/* Lines that have to go: ProtectHome=yes, PrivateTmp=yes, words of InaccessiblePaths=. False: the path contains what is
 * hidden, and opening all of that is not for us to do. */
static bool open_path(struct sandbox *s, const char *path)
{
    cleanup_free char *real = unit_real(path);
    const char *where = NULL;
    const struct unit_line *line;
    enum unit_sight sight = unit_look(s->view, path, &line, &where);
    if (sight != UNIT_HIDDEN && sight != UNIT_EMPTY)
        return true;
    if (needs_below(where, real))
        return false;
    s->home = s->home || below_any(real, homes, ARRAY_LEN(homes));
    s->tmp = s->tmp || (line && !strcmp(line->key, "PrivateTmp"));
    for (const struct unit_line *l = NULL; (l = unit_next(s->unit, "InaccessiblePaths", l));) {
        const char *p = l->value;
        for (char *word; (p = unit_word(p, &word)); free(word)) {
            const char *dir = word + strspn(word, "-+");
            cleanup_free char *hidden = *dir == '/' ? unit_real(dir) : NULL;
            if (hidden && needs_below(real, hidden) && !has(&s->opened, dir))
                add(&s->opened, dir);
        }
    }
    return true;
}

/* ---- the drop-in ------------------------------------------------------------------------------ */

/* One path for a list of systemd.exec(5): in quotes, % doubled. "-": it need not be there. */
static void put(struct buf *out, const char *key, const char *path, const char *options)
{
    buf_printf(out, "%s=\"%s", key, *options ? "" : "-");
    for (; *path; path++) {
        if (*path == '"' || *path == '\\')
            buf_add_str(out, "\\");
        if (*path == '%')
            buf_add_str(out, "%");
        buf_add(out, path, 1);
    }
    buf_printf(out, "%s\"\n", options);
}

/* The list without what is opened; in place of a directory of it lies an empty one with what is needed. */
static void put_hidden(const struct sandbox *s, struct buf *out)
{
    if (!s->opened.n)
        return;
    buf_add_str(out, "# without what is opened below\nInaccessiblePaths=\n");
    for (const struct unit_line *l = NULL; (l = unit_next(s->unit, "InaccessiblePaths", l));) {
        const char *p = l->value;
        for (char *word; (p = unit_word(p, &word)); free(word)) {
            const char *dir = word + strspn(word, "-+");
            if (!has(&s->opened, dir))
                put(out, "InaccessiblePaths", dir, "");
        }
    }
    for (size_t i = 0; i < s->opened.n; i++)
        if (!below_any(s->opened.dir[i], homes, ARRAY_LEN(homes)))
            put(out, "TemporaryFileSystem", s->opened.dir[i], ":ro");
}

static void put_paths(struct sandbox *s, const struct paths *p, bool write, struct buf *out)
{
    for (size_t i = 0; i < p->n; i++) {
        const char *where = NULL;
        enum unit_sight sight = unit_look(s->view, p->dir[i], NULL, &where);
        bool hidden = sight == UNIT_HIDDEN || sight == UNIT_EMPTY, in_tmp = where && strstr(where, "/tmp");
        if (!open_path(s, p->dir[i])) /* said in warn_hidden() */
            buf_printf(out, "# not opened, since the unit hides all of %s: %s\n", where, p->dir[i]);
        else if (hidden && !(in_tmp && s->tmp))
            put(out, write ? "BindPaths" : "BindReadOnlyPaths", p->dir[i], "");
        else if (write)
            put(out, "ReadWritePaths", p->dir[i], "");
    }
}

static void make(struct sandbox *s, const char *config, const char *file, struct buf *out)
{
    cleanup_buf struct buf lines = BUF_INIT;
    cleanup_free char *dir = needs_parent(file);
    put_paths(s, &s->write, true, &lines);
    put_paths(s, &s->read, false, &lines);
    buf_printf(out, "# What %s may reach with %s, made by:\n"
                    "#   walsupctl%s%s sandbox --install\n"
                    "# or by hand, if that printed it:\n"
                    "#   mkdir -p %s\n"
                    "#   walsupctl%s%s sandbox > %s\n"
                    "#   systemctl daemon-reload && systemctl restart %s\n"
                    "# Make it again when databases, targets or keys come to lie elsewhere. A directory\n"
                    "# that is not there yet when walsupd starts is opened by the next restart.\n"
                    "[Service]\n"
                    "# not those of the unit\n"
                    "ReadWritePaths=\n",
               s->unit->name, config, strcmp(config, CTL_DEFAULT_CONFIG) != 0 ? " -c " : "",
               strcmp(config, CTL_DEFAULT_CONFIG) != 0 ? config : "", dir,
               strcmp(config, CTL_DEFAULT_CONFIG) != 0 ? " -c " : "",
               strcmp(config, CTL_DEFAULT_CONFIG) != 0 ? config : "", file, s->unit->name);
    if (s->home)
        buf_add_str(out, "# homes are empty but for what is listed\nProtectHome=tmpfs\n");
    if (s->tmp)
        buf_add_str(out, "# else it has a /tmp of its own\nPrivateTmp=no\n");
    put_hidden(s, out);
    buf_add(out, lines.p, lines.len);
}

static void warn_hidden(const struct sandbox *s)
{
    for (size_t i = 0; i < s->write.n; i++) {
        const char *where = NULL;
        struct err e;
        cleanup_free char *real = unit_real(s->write.dir[i]);
        enum unit_sight sight = unit_look(s->view, real, NULL, &where);
        if ((sight != UNIT_HIDDEN && sight != UNIT_EMPTY) || !needs_below(where, real))
            continue;
        (void)err_set(&e, ERR_PERM, "%s hides %s, so %s stays out of its reach", s->unit->name, where, s->write.dir[i]);
        (void)err_hint(&e, "move the database or the target to a directory of its own, as below /srv");
        out_warning(&e);
    }
}

/* ---- where systemd reads it ------------------------------------------------------------------- */

static int daemon_reload(struct err *e)
{
    char *const argv[] = {(char *)(uintptr_t)"systemctl", (char *)(uintptr_t)"daemon-reload", NULL};
    pid_t pid;
    int status = 0;
    if (access("/run/systemd/system", F_OK) < 0)
        return 0;
    int rc = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
    if (rc)
        return err_sys(e, rc, "systemctl daemon-reload");
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : err_set(e, ERR_IO, "systemctl daemon-reload failed");
}

static int install(const char *file, const struct buf *text, struct err *e)
{
    cleanup_free char *dir = needs_parent(file);
    int r = fsx_mkdirs(dir, 0755, e);
    if (r == 0)
        r = fsx_publish(file, text->p, text->len, 0644, FSX_REPLACE, e);
    if (r < 0 && e->code == ERR_PERM)
        (void)err_hint(e, "run it as root");
    return r < 0 ? r : daemon_reload(e);
}

static int finish(struct ctl *c, struct sandbox *s, const char *file, bool installed, struct buf *out)
{
    int status = 0;
    struct err e;
    if (installed && install(file, out, &e) < 0)
        return out_fail(c->json, &e);
    if (c->json) {
        json_t *dirs = json_array(), *files = json_array();
        for (size_t i = 0; i < s->write.n; i++)
            (void)json_array_append_new(dirs, json_string(s->write.dir[i]));
        for (size_t i = 0; i < s->read.n; i++)
            (void)json_array_append_new(files, json_string(s->read.dir[i]));
        status = out_json(json_pack("{s:o, s:o, s:s, s:s}", "paths", dirs, "files", files, "unit",
                                    s->unit->name, "text", buf_str(out)));
    } else if (installed) {
        printf("%s: written; it takes effect with: systemctl restart %s\n", file, s->unit->name);
    } else {
        status = ctl_print(c, out);
    }
    warn_hidden(s);
    return status;
}

int cmd_sandbox(struct ctl *c)
{
    static const struct option own[] = {{"install", no_argument, NULL, 'i'}, {NULL, 0, NULL, 0}};
    int status, o;
    bool installed = false;
    struct conf *conf = NULL;
    struct sandbox s = {.unit = NULL};
    cleanup_buf struct buf out = BUF_INIT;
    while ((o = ctl_option(c, own, &status)) >= 0)
        installed = true;
    if (o == CTL_STOP || !ctl_operands(c, 0, 0, &status) || !ctl_load(c, &conf, &status))
        return status;
    cleanup_free char *config = ctl_absolute(c->config);
    s.unit = unit_of_config(config, DROPIN);
    if (!s.unit)
        s.unit = unit_shipped();
    s.view = unit_view_new(s.unit);
    cleanup_free char *file = util_printf("/etc/systemd/system/%s.d/" DROPIN, s.unit->name);
    collect(&s, conf, config);
    make(&s, config, file, &out);
    status = finish(c, &s, file, installed, &out);
    paths_done(&s.write);
    paths_done(&s.read);
    paths_done(&s.opened);
    (void)unit_view_free(s.view);
    (void)unit_free(s.unit);
    (void)conf_free(conf);
    return status;
}
