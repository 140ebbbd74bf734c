/* import-litestream: a litestream.yml as walsup's INI. What each key becomes stands in import_keys.c;
 * here are those that become something. */
#include "ctl/import.h"

#include <ctype.h>
#include <libgen.h>

#include "common/base/fsx.h"
#include "ctl/out.h"
#include "ctl/unit.h"

#define MAX_FILE (4u << 20)
#define NAME_MAX_LEN 34

/* ---- comments and values -------------------------------------------------------------------- */

/* the name at an IMPORT_UNSET; returns what follows it, NULL if s begins with something else */
static const char *unset_at(const char *s, const char **ret, size_t *ret_n)
{
    size_t n = strlen(IMPORT_UNSET);
    const char *end = strncmp(s, IMPORT_UNSET, n) ? NULL : strstr(s, IMPORT_UNSET_END);
    if (!end)
        return NULL;
    *ret = s + n;
    *ret_n = (size_t)(end - *ret);
    return end + strlen(IMPORT_UNSET_END);
}

static void clean_text(struct buf *b, const char *s)
{
    for (const char *name, *after; *s; s++) {
        size_t n;
        if ((after = unset_at(s, &name, &n))) {
            buf_printf(b, "${%.*s}", (int)n, name);
            s = after - 1;
            continue;
        }
        char c = iscntrl((unsigned char)*s) ? ' ' : *s;
        buf_add(b, &c, 1);
    }
}

void import_note(struct import *x, unsigned line, const char *key, const char *why)
{
    buf_printf(&x->notes, "; line %u: ", line);
    clean_text(&x->notes, key);
    buf_add_str(&x->notes, ": ");
    clean_text(&x->notes, why);
    buf_add_str(&x->notes, "\n");
}

void import_warn(struct import *x, unsigned line, const char *what, const char *why)
{
    import_note(x, line, what, why);
    buf_printf(&x->warnings, "%s:%u: ", x->file, line);
    clean_text(&x->warnings, what);
    buf_printf(&x->warnings, ": %s\n", why);
}

void import_take_notes(struct import *x, struct buf *to)
{
    if (x->notes.len)
        buf_add(to, x->notes.p, x->notes.len);
    buf_consume(&x->notes, x->notes.len);
}

static void note_unset(struct import *x, const char *name, size_t n)
{
    for (size_t i = 0; i < x->n_unset; i++)
        if (!strncmp(x->unset[i], name, n) && !x->unset[i][n])
            return;
    x->unset = util_realloc(x->unset, (x->n_unset + 1) * sizeof *x->unset);
    x->unset[x->n_unset++] = util_strndup(name, n);
    buf_printf(&x->warnings, "%s: $%.*s is not set here, and stands in the result as ${%.*s}: give it to walsupd in "
                             "/etc/walsup.env, or set it and import again\n", x->file, (int)n, name, (int)n, name);
}

/* Unset variables are walsupd's to take from its environment; a ${ of the text itself is not. */
static void put_value(struct import *x, struct buf *b, const char *value)
{
    for (const char *p = value, *name, *after; *p;) {
        size_t n;
        if ((after = unset_at(p, &name, &n))) {
            note_unset(x, name, n);
            buf_printf(b, "${%.*s}", (int)n, name);
            p = after;
        } else {
            if (!strncmp(p, "${", 2))
                buf_add_str(b, "$");
            buf_add(b, p++, 1);
        }
    }
}

/* One line; what an INI cannot hold stays a comment. */
void import_put(struct import *x, struct buf *b, const char *key, const char *value)
{
    bool ok = *value && !isspace((unsigned char)*value) && *value != ';' && *value != '#' &&
              !isspace((unsigned char)value[strlen(value) - 1]);
    for (const char *p = value; *p; p++)
        ok = ok && !iscntrl((unsigned char)*p) &&
             !(isspace((unsigned char)*p) && (p[1] == ';' || p[1] == '#'));
    if (ok) {
        buf_printf(b, "%s = ", key);
        put_value(x, b, value);
        buf_add_str(b, "\n");
        return;
    }
    buf_printf(b, "; %s: its value cannot stand in this file\n", key);
    buf_printf(&x->warnings, "%s: the value of %s cannot stand in an INI file\n", x->file, key);
}

void import_put_duration(struct import *x, struct buf *b, const char *key, const char *text,
                         uint64_t min_ms, uint64_t max_ms)
{
    uint64_t ms;
    if (!import_duration(text, &ms)) {
        cleanup_free char *why = util_printf("'%s' is not a duration", text);
        buf_add_str(b, "; ");
        clean_text(b, why);
        buf_add_str(b, "\n");
        buf_printf(&x->warnings, "%s: %s: ", x->file, key);
        clean_text(&x->warnings, why);
        buf_add_str(&x->warnings, "\n");
        return;
    }
    if (ms < min_ms || ms > max_ms)
        buf_printf(b, "; %s was %llums\n", key, (unsigned long long)ms);
    ms = MIN(MAX(ms, min_ms), max_ms);
    import_put_ms(b, key, ms);
}

void import_put_ms(struct buf *b, const char *key, uint64_t ms)
{
    buf_printf(b, ms % 1000 ? "%s = %llums\n" : "%s = %llus\n", key,
               (unsigned long long)(ms % 1000 ? ms : ms / 1000));
}

/* A name for a section: letters, digits and . _ - of text, and no other one's. */
char *import_name(const char *text, bool (*taken)(const struct import *x, const char *name),
                      const struct import *x)
{
    char base[NAME_MAX_LEN + 1];
    size_t n = 0;
    for (const char *p = text; *p && n < NAME_MAX_LEN; p++) {
        bool ok = isalnum((unsigned char)*p) || strchr("._-", *p);
        if (n || (ok && !strchr(".-", *p)))
            base[n++] = ok ? *p : '-';
    }
    while (n && base[n - 1] == '-')
        n--;
    base[n] = '\0';
    char *name = util_strdup(n ? base : "db");
    for (unsigned i = 2; taken(x, name); i++) {
        free(name);
        name = util_printf("%s-%u", n ? base : "db", i);
    }
    return name;
}

char *import_path(const char *path, bool absolute, char **ret_last)
{
    cleanup_buf struct buf b = BUF_INIT;
    char *last = util_strdup("");
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");
        if (n && !(n == 1 && *p == '.')) {
            if (*last)
                buf_printf(&b, "%s%s", b.len || absolute ? "/" : "", last);
            free(last);
            last = util_strndup(p, n);
        }
        p += n + (p[n] == '/');
    }
    *ret_last = last;
    return util_strdup(buf_str(&b));
}

/* ---- databases ------------------------------------------------------------------------------ */

static bool db_taken(const struct import *x, const char *name)
{
    for (size_t i = 0; i < x->n_db_names; i++)
        if (!strcmp(x->db_name[i], name))
            return true;
    return false;
}

static void take_ms(struct import *x, const struct import_pair *p, uint64_t *ret)
{
    const char *text = import_text(p->value);
    uint64_t ms;
    if (text && import_duration(text, &ms) && ms) {
        *ret = ms;
    } else if (text) {
        cleanup_free char *why = util_printf("'%s' is not a duration", text);
        import_warn(x, p->line, p->key, why);
    }
}

/* snapshot: {interval, retention}, of all databases or of one; validation: {interval} */
static void take_snapshot(struct import *x, const struct import_pair *of, struct import_history *h)
{
    cleanup_free struct import_pair *p = NULL;
    size_t n = import_pairs(&x->doc, of->value, &p);
    bool validation = !strcmp(of->key, "validation");
    for (size_t i = 0; i < n; i++)
        if (!strcmp(p[i].key, "interval"))
            take_ms(x, &p[i], validation ? &h->verify_ms : &h->snapshot_ms);
        else if (!strcmp(p[i].key, "retention") && !validation)
            take_ms(x, &p[i], &h->retention_ms);
}

/* The lines of [walsup], or of a database beside those. A snapshot has to be there before the last one is too old. */
static void put_history(struct buf *b, struct import_history h, const struct import_history *above)
{
    static const struct import_history dflt = {.retention_ms = 7 * (uint64_t)IMPORT_DAY_MS,
                                               .snapshot_ms = IMPORT_DAY_MS};
    uint64_t retention = h.retention_ms     ? h.retention_ms
                         : above && above->retention_ms ? above->retention_ms
                                                        : dflt.retention_ms;
    uint64_t snapshot = h.snapshot_ms     ? h.snapshot_ms
                        : above && above->snapshot_ms ? above->snapshot_ms
                                                      : dflt.snapshot_ms;
    if (snapshot > retention) {
        buf_add_str(b, "; not longer than retention\n");
        h.snapshot_ms = retention;
    }
    if (h.snapshot_ms)
        import_put_ms(b, "snapshot-interval", MIN(MAX(h.snapshot_ms, 1000u), 366ull * IMPORT_DAY_MS));
    if (h.retention_ms)
        import_put_ms(b, "retention", MIN(MAX(h.retention_ms, 1000u), 3660ull * IMPORT_DAY_MS));
    if (h.verify_ms)
        import_put_ms(b, "verify-interval", MIN(MAX(h.verify_ms, 60000u), 366ull * IMPORT_DAY_MS));
}

static void take_levels(struct import *x, const struct import_pair *p)
{
    static const char *const name[] = {"level1-interval", "level2-interval", "level3-interval"};
    for (size_t i = 0; i < import_items(p->value); i++) {
        cleanup_free struct import_pair *of = NULL;
        size_t n = import_pairs(&x->doc, import_item(&x->doc, p->value, i), &of);
        for (size_t k = 0; k < n && i < ARRAY_LEN(name); k++)
            if (import_text(of[k].value) && !strcmp(of[k].key, "interval"))
                import_put_duration(x, &x->walsup, name[i], import_text(of[k].value), 1000, IMPORT_DAY_MS);
    }
    if (import_items(p->value) > ARRAY_LEN(name))
        import_note(x, p->line, p->key, "walsup has three, besides level 0 and snapshots");
}

static void take_db_pair(struct import *x, struct import_db *d, const struct import_pair *p)
{
    const struct import_key *k = import_key(IMPORT_DB, p->key);
    const char *text = import_text(p->value);
    if (!k)
        import_note(x, p->line, p->key, "no key of Litestream's, which ignores it");
    else if (k->act == IMPORT_NOTE)
        import_note(x, p->line, p->key, k->why);
    else if (!strcmp(p->key, "path"))
        d->path = text ? util_strdup(text) : NULL;
    else if (!strcmp(p->key, "dir") || !strcmp(p->key, "directory"))
        d->dir = text;
    else if (!strcmp(p->key, "pattern"))
        d->pattern = text;
    else if (!strcmp(p->key, "recursive"))
        (void)(text && import_bool(text, &d->recursive));
    else if (!strcmp(p->key, "min-checkpoint-page-count"))
        d->pages = text;
    else if (!strcmp(p->key, "snapshot"))
        take_snapshot(x, p, &d->history);
    else if (!strcmp(p->key, "watch"))
        import_note(x, p->line, p->key, "walsup always finds new databases of a pattern, and forgets none that "
                                 "went away");
}

static char *db_path(struct import *x, const struct import_db *d)
{
    const char *given = d->dir ? d->dir : d->path;
    static const char *const scheme[] = {"sqlite://", "sqlite3://"};
    for (size_t i = 0; given && i < ARRAY_LEN(scheme); i++)
        if (!strncmp(given, scheme[i], strlen(scheme[i])))
            given += strlen(scheme[i]);
    if (!given || !*given)
        return NULL;
    cleanup_free char *absolute = !strncmp(given, "~/", 2) && getenv("HOME")
                                      ? util_printf("%s/%s", getenv("HOME"), given + 2)
                                      : ctl_absolute(given);
    if (*given != '/')
        import_warn(
            x, d->line, "path",
            "was relative, and is taken from the home or the working directory: correct it if "
            "Litestream runs in another one");
    cleanup_free char *last = NULL;
    cleanup_free char *dir = import_path(absolute, true, &last);
    const char *pattern = d->pattern ? d->pattern : "*.db";
    return d->dir ? util_printf("%s/%s/%s%s", dir, last, d->recursive ? "**/" : "", pattern)
                  : util_printf("%s/%s", dir, last);
}

/* the file's name without its ending, or that of the directory */
static char *db_name(struct import *x, const struct import_db *d, const char *path)
{
    cleanup_free char *copy = util_strdup(d->dir ? d->dir : path);
    char *base = basename(copy), *dot = strrchr(base, '.');
    if (dot && dot != base && !d->dir)
        *dot = '\0';
    char *name = import_name(base, db_taken, x);
    x->db_name = util_realloc(x->db_name, (x->n_db_names + 1) * sizeof *x->db_name);
    x->db_name[x->n_db_names++] = util_strdup(name);
    return name;
}

static void write_db(struct import *x, struct import_db *d)
{
    char *end;
    bool any = d->targets.len > 0;
    buf_add_str(&x->dbs, "\n");
    import_take_notes(x, &x->dbs);
    if (!any)
        buf_printf(&x->dbs, "; without a replica that walsup knows: left out\n; ");
    buf_printf(&x->dbs, "[db %s]\n%s", d->name, any ? "" : "; ");
    import_put(x, &x->dbs, "path", d->path);
    if (any)
        buf_printf(&x->dbs, "target = %s\n", buf_str(&d->targets));
    unsigned long pages = d->pages ? strtoul(d->pages, &end, 10) : 0;
    if (any && pages && !*end)
        buf_printf(&x->dbs, "checkpoint-pages = %lu\n", MIN(pages, 10000000ul));
    if (any && d->differ)
        buf_add_str(&x->dbs, "; walsup has these for each database, not for each replica: the longest retention\n");
    if (any)
        put_history(&x->dbs, d->history, &x->history);
    if (d->replicas.len)
        buf_add(&x->dbs, d->replicas.p, d->replicas.len);
}

static void take_db(struct import *x, const yaml_node_t *node)
{
    struct import_db d = {.line = (unsigned)node->start_mark.line + 1};
    cleanup_free struct import_pair *p = NULL;
    size_t n = import_pairs(&x->doc, node, &p);
    for (size_t i = 0; i < n; i++)
        take_db_pair(x, &d, &p[i]);
    char *path = db_path(x, &d);
    free(d.path);
    d.path = path;
    if (!path) {
        import_warn(x, d.line, "a database", "has neither path nor dir and is left out");
        import_take_notes(x, &x->dbs);
        return;
    }
    d.name = db_name(x, &d, path);
    cleanup_buf struct buf above = BUF_INIT; /* notes of replicas go to these */
    import_take_notes(x, &above);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(p[i].key, "replica"))
            import_replica(x, &d, p[i].value);
        for (size_t k = 0; !strcmp(p[i].key, "replicas") && k < import_items(p[i].value); k++)
            import_replica(x, &d, import_item(&x->doc, p[i].value, k));
    }
    if (above.len)
        buf_add(&x->notes, above.p, above.len);
    write_db(x, &d);
    buf_free(&d.targets);
    buf_free(&d.replicas);
    free(d.name);
    free(d.path);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void take_logging(struct import *x, const yaml_node_t *node)
{
    static const char *const level[][2] = {{"trace", "debug"}, {"debug", "debug"}, {"info", "info"},
                                           {"warn", "warning"}, {"warning", "warning"},
                                           {"error", "error"}};
    cleanup_free struct import_pair *p = NULL;
    size_t n = import_pairs(&x->doc, node, &p);
    for (size_t i = 0; i < n; i++) {
        const char *text = import_text(p[i].value);
        if (strcmp(p[i].key, "level") != 0)
            import_note(x, p[i].line, p[i].key, "walsupd writes to standard error as the journal wants it");
        for (size_t k = 0; text && !strcmp(p[i].key, "level") && k < ARRAY_LEN(level); k++)
            if (!strcasecmp(text, level[k][0]))
                buf_printf(&x->walsup, "log-level = %s\n", level[k][1]);
    }
}

/* Go's [HOST]:PORT; walsup takes addresses in digits */
static void take_addr(struct import *x, const struct import_pair *p, const char *text)
{
    const char *colon = strrchr(text, ':');
    cleanup_free char *host = util_printf("%.*s", colon ? (int)(colon - text) : 0, text);
    const char *digits = !colon                       ? NULL
                         : !*host                     ? "[::]"
                         : !strcmp(host, "localhost") ? "127.0.0.1"
                         : host[strspn(host, "[]:.0123456789abcdefABCDEF")] ? NULL
                                                                             : host;
    if (!digits) {
        cleanup_free char *why = util_printf("'%s' is not an address in digits with a port: write metrics-listen = "
                                             "127.0.0.1:9629 or another one into [walsup]", text);
        import_warn(x, p->line, p->key, why);
        return;
    }
    cleanup_free char *listen = util_printf("%s%s", digits, colon);
    buf_add_str(&x->walsup, "; the names of the metrics are walsup's, see walsupd(8)\n");
    import_put(x, &x->walsup, "metrics-listen", listen);
}

/* {enabled: false}: the bucket deletes by rules of its own */
static void take_retention(struct import *x, const struct import_pair *of)
{
    cleanup_free struct import_pair *p = NULL;
    size_t n = import_pairs(&x->doc, of->value, &p);
    bool on;
    for (size_t i = 0; i < n; i++)
        if (!strcmp(p[i].key, "enabled") && import_text(p[i].value) && import_bool(import_text(p[i].value), &on))
            x->no_delete = !on;
}

static void take_top(struct import *x, const struct import_pair *p)
{
    const struct import_key *k = import_key(IMPORT_TOP, p->key);
    const char *text = import_text(p->value);
    if (!k)
        import_note(x, p->line, p->key, "no key of Litestream's, which ignores it");
    else if (k->where == IMPORT_REPLICA)
        (void)import_setting(x, p, &x->dflt);
    else if (k->act == IMPORT_NOTE)
        import_note(x, p->line, p->key, k->why);
    else if (!strcmp(p->key, "logging"))
        take_logging(x, p->value);
    else if (!strcmp(p->key, "addr") && text)
        take_addr(x, p, text);
    else if (!strcmp(p->key, "exec") && text)
        import_warn(x, p->line, p->key, "is not started by the service: run that program as a unit of its own, with "
                                        "After=walsupd.service, or in a container with walsupd --exec 'PROGRAM ARGS'");
    else if (!strcmp(p->key, "retention"))
        take_retention(x, p);
    else if (!strcmp(p->key, "snapshot") || !strcmp(p->key, "validation"))
        take_snapshot(x, p, &x->history);
    else if (!strcmp(p->key, "levels"))
        take_levels(x, p);
    else if (!strcmp(p->key, "l0-retention") && text)
        import_put_duration(x, &x->walsup, "l0-retention", text, 1000, 3660ull * IMPORT_DAY_MS);
    else if (!strcmp(p->key, "shutdown-sync-timeout") && text)
        import_put_duration(x, &x->walsup, "shutdown-timeout", text, 1000, 3600000);
}

static void build(struct import *x, struct buf *out)
{
    cleanup_free struct import_pair *top = NULL;
    size_t n = import_pairs(&x->doc, yaml_document_get_root_node(&x->doc), &top);
    for (size_t i = 0; i < n; i++)
        take_top(x, &top[i]);
    put_history(&x->walsup, x->history, NULL);
    if (x->dflt.sync_interval)
        import_put_duration(x, &x->walsup, "sync-interval", x->dflt.sync_interval, IMPORT_SYNC_MIN_MS,
                            IMPORT_DAY_MS);
    buf_printf(out, "; from %s, by walsupctl import-litestream\n", x->file);
    import_take_notes(x, out);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; !strcmp(top[i].key, "dbs") && k < import_items(top[i].value); k++)
            take_db(x, import_item(&x->doc, top[i].value, k));
    buf_printf(out, "\n[walsup]\n%s", buf_str(&x->walsup));
    for (size_t i = 0; i < x->n_targets; i++)
        buf_printf(out, "\n[target %s]\n%s", x->target[i].name, buf_str(&x->target[i].body));
    buf_add_str(out, buf_str(&x->dbs));
}

/* What was printed is read back: a mistake of the file may have been taken over. Something stands
 * for variables that are not set here, which was said; digits are right wherever one may stand. */
static int check(struct import *x, struct buf *out, struct err *e)
{
    cleanup_buf struct buf problems = BUF_INIT;
    struct conf *conf = NULL;
    for (size_t i = 0; i < x->n_unset; i++)
        (void)setenv(x->unset[i], "9000", 1);
    int r = conf_parse("the result", buf_str(out), out->len, &conf, &problems, e);
    (void)conf_free(conf);
    if (r < 0)
        buf_add_str(&x->warnings, buf_str(&problems));
    return r;
}

static int print(struct import *x, struct buf *out, const struct err *bad)
{
    if (x->c->json) {
        json_t *o = json_pack("{s:s, s:s, s:b}", "ini", buf_str(out), "warnings",
                              buf_str(&x->warnings), "loads", !bad->code);
        (void)out_json(o ? o : json_pack("{s:s}", "ini", ""));
    } else {
        out_text(stdout, buf_str(out));
        (void)fflush(stdout);
        out_text(stderr, buf_str(&x->warnings));
    }
    return bad->code ? err_exit_status(bad->code) : 0;
}

static int import(struct import *x)
{
    struct err e = {0};
    cleanup_wiped_buf struct buf text = BUF_INIT, expanded = BUF_INIT, out = BUF_INIT;
    if (fsx_read(x->file, MAX_FILE, &text, &e) < 0)
        return out_fail(x->c->json, &e);
    if (x->expand)
        import_expand(x, buf_str(&text), &expanded);
    struct buf *yaml = x->expand ? &expanded : &text;
    if (import_load(x->file, yaml->p, yaml->len, &x->doc, &e) < 0)
        return out_fail(x->c->json, &e);
    build(x, &out);
    int status = 0;
    if (x->err.code) {
        status = out_fail(x->c->json, &x->err);
    } else {
        (void)check(x, &out, &e);
        status = print(x, &out, &e);
    }
    yaml_document_delete(&x->doc);
    return status;
}

int cmd_import(struct ctl *c)
{
    static const struct option own[] = {{"no-expand-env", no_argument, NULL, 'n'}, {NULL, 0, NULL, 0}};
    struct import x = {.c = c, .expand = true};
    int status, o;
    while ((o = ctl_option(c, own, &status)) >= 0)
        x.expand = false;
    if (o == CTL_STOP || !ctl_operands(c, 1, 1, &status))
        return status;
    x.file = c->argv[optind];
    status = import(&x);
    for (size_t i = 0; i < x.n_targets; i++) {
        free(x.target[i].name);
        buf_free(&x.target[i].body);
    }
    for (size_t i = 0; i < x.n_db_names; i++)
        free(x.db_name[i]);
    for (size_t i = 0; i < x.n_unset; i++)
        free(x.unset[i]);
    free(x.unset);
    (void)unit_free(x.unit);
    free(x.target);
    free(x.db_name);
    buf_free(&x.notes);
    buf_free(&x.walsup);
    buf_free(&x.dbs);
    buf_free(&x.warnings);
    return status;
}
