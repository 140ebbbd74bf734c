#include "common/format/conf_int.h"

#include <ctype.h>

#define COLUMN 44 /* where comments begin */

static void line(struct buf *out, const char *key, const char *value, const struct conf_origin *o)
{
    size_t start = out->len;
    buf_printf(out, "%s = ", key);
    for (const char *p = value, *var; *p; p = var) { /* as it would be written */
        var = strstr(p, "${");
        var = var ? var : p + strlen(p);
        buf_add(out, p, (size_t)(var - p));
        if (*var)
            buf_add_str(out, "$${");
        var += *var ? 2 : 0;
    }
    size_t n = out->len - start;
    buf_printf(out, "%*s; ", n < COLUMN ? (int)(COLUMN - n) : 1, "");
    if (o && o->file)
        buf_printf(out, "%s:%u\n", o->file, o->line);
    else
        buf_add_str(out, "default\n");
}

/* the default of an inheritable key is that of the key one level up */
static const char *default_text(const struct conf_key *k)
{
    if (k->flags & CONF_INHERIT)
        return k->kind == CONF_REPLICA ? "as for the database" : "as in [walsup]";
    return k->dflt;
}

static void dump_value(const struct conf_section *s, enum conf_key_id id, struct buf *out)
{
    const struct conf_key *k = &conf_key[id];
    const struct conf_value *v = conf_get(s, id);
    if (v)
        line(out, k->name, k->flags & CONF_SECRET ? "********" : v->text, &v->origin);
    else if (k->dflt[0] && !(k->flags & CONF_INHERIT))
        line(out, k->name, k->dflt, NULL);
}

static void dump_inherited(const struct conf *c, const struct conf_section *replica,
                           const struct conf_section *db, enum conf_key_id id, struct buf *out)
{
    static const enum conf_kind up[] = {CONF_REPLICA, CONF_DB, CONF_WALSUP};
    const struct conf_section *from[] = {replica, db,
                                         conf_section_find(c->raw, CONF_WALSUP, "")};
    for (size_t i = 0; i < ARRAY_LEN(up); i++)
        for (size_t k = 0; k < CONF_KEYS; k++) {
            if (conf_key[k].kind != up[i] || strcmp(conf_key[k].name, conf_key[id].name) != 0)
                continue;
            const struct conf_value *v = conf_get(from[i], (enum conf_key_id)k);
            if (v || up[i] == CONF_WALSUP) {
                line(out, conf_key[id].name, v ? v->text : conf_key[k].dflt,
                     v ? &v->origin : NULL);
                return;
            }
        }
}

static void dump_target(const struct conf *c, const struct conf_target *t, struct buf *out)
{
    const struct conf_section *s = conf_section_find(c->raw, CONF_TARGET, t->name);
    const struct conf_value *url = conf_get(s, CONF_TARGET_url);
    static const char *const addressing[] = {"auto", "path", "virtual"};
    const struct conf_origin *url_at = url ? &url->origin : NULL;
    buf_printf(out, "\n[target %s]\n", t->name);
    /* a url and an unset endpoint are shown as what they stand for */
    const struct {
        enum conf_key_id id;
        const char *value;
    } derived[] = {
        {CONF_TARGET_type, t->type == CONF_FILE ? "file" : "s3"},
        {CONF_TARGET_endpoint, t->endpoint},
        {CONF_TARGET_bucket, t->bucket},
        {CONF_TARGET_path, t->path && *t->path ? t->path : NULL},
        {CONF_TARGET_region, t->region},
        {CONF_TARGET_addressing, t->type == CONF_S3 ? addressing[t->addressing] : NULL},
        {CONF_TARGET_ca_file, t->ca_file},
        {CONF_TARGET_profile, t->profile},
        {CONF_TARGET_skip_verify, t->type == CONF_FILE ? NULL : t->skip_verify ? "yes" : "no"},
    };
    for (size_t k = 0; k < CONF_KEYS; k++) {
        if (conf_key[k].kind != CONF_TARGET || k == CONF_TARGET_url)
            continue;
        size_t i = 0;
        while (i < ARRAY_LEN(derived) && derived[i].id != k)
            i++;
        const struct conf_value *v = conf_get(s, (enum conf_key_id)k);
        if (i == ARRAY_LEN(derived)) {
            if (t->type == CONF_S3 || !(conf_key[k].flags & CONF_S3ONLY))
                dump_value(s, (enum conf_key_id)k, out);
            continue;
        }
        bool by_default = !v && (!url || (conf_key[k].dflt[0] && derived[i].value &&
                                          !strcmp(conf_key[k].dflt, derived[i].value)) ||
                                 (k == CONF_TARGET_endpoint && t->endpoint &&
                                  strstr(t->endpoint, ".amazonaws.")));
        if (derived[i].value)
            line(out, conf_key[k].name, derived[i].value,
                 v ? &v->origin : by_default ? NULL : url_at);
    }
}

void conf_dump(const struct conf *c, struct buf *out)
{
    const struct conf_section *walsup = conf_section_find(c->raw, CONF_WALSUP, "");
    buf_add_str(out, "[walsup]\n");
    for (size_t k = 0; k < CONF_KEYS; k++)
        if (conf_key[k].kind == CONF_WALSUP)
            dump_value(walsup, (enum conf_key_id)k, out);
    for (size_t i = 0; i < c->n_targets; i++)
        dump_target(c, &c->target[i], out);
    for (size_t i = 0; i < c->n_dbs; i++) {
        const struct conf_db *d = &c->db[i];
        const struct conf_section *s = conf_section_find(c->raw, CONF_DB, d->name);
        buf_printf(out, "\n[db %s]\n", d->name);
        for (size_t k = 0; k < CONF_KEYS; k++) {
            if (conf_key[k].kind != CONF_DB)
                continue;
            if (conf_key[k].flags & CONF_INHERIT)
                dump_inherited(c, NULL, s, (enum conf_key_id)k, out);
            else
                dump_value(s, (enum conf_key_id)k, out);
        }
        for (size_t j = 0; j < d->n_replicas; j++) {
            const struct conf_replica *r = &d->replica[j];
            cleanup_free char *name = util_printf("%s@%s", d->name, c->target[r->target].name);
            const struct conf_section *rs = conf_section_find(c->raw, CONF_REPLICA, name);
            const struct conf_value *path = conf_get(rs, CONF_REPLICA_path);
            buf_printf(out, "\n[replica %s]\n", name);
            dump_inherited(c, rs, s, CONF_REPLICA_sync_interval, out);
            line(out, "path", r->path, path ? &path->origin : NULL);
        }
    }
}

/* ---- from the table alone ------------------------------------------------------------------- */

static const char *section_heading(enum conf_kind kind)
{
    static const char *const heading[] = {"[walsup]", "[target NAME]", "[db NAME]",
                                          "[replica DATABASE@TARGET]"};
    return heading[kind];
}

void conf_defaults(struct buf *out)
{
    for (int kind = 0; kind < CONF_KINDS; kind++) {
        buf_printf(out, "%s%s\n", kind ? "\n" : "", section_heading((enum conf_kind)kind));
        for (size_t k = 0; k < CONF_KEYS; k++) {
            if ((int)conf_key[k].kind != kind)
                continue;
            const char *dflt = default_text(&conf_key[k]);
            bool value = *dflt && !(conf_key[k].flags & CONF_INHERIT);
            if (value)
                buf_printf(out, "%s = %s\n", conf_key[k].name, dflt);
            else
                buf_printf(out, "; %s: %s\n", conf_key[k].name, *dflt ? dflt : "no default");
        }
    }
}

/* the length of what comes next and is not broken: a word, or of one that is longer than a line a
 * part that ends with | */
static size_t unbroken(const char *p)
{
    size_t n = strcspn(p, " ");
    if (n < 79)
        return n;
    for (n = 78; n > 1 && p[n - 1] != '|';)
        n--;
    return n;
}

/* text as comment lines of at most 80 columns, then the key itself, commented out */
static void sample_key(const struct conf_key *k, struct buf *out)
{
    const char *unit = k->type == CONF_SIZE       ? "KiB, MiB, GiB, TiB"
                       : k->type == CONF_DURATION ? "ms, s, m, h, d"
                       : k->type == CONF_FLAG     ? "yes or no"
                                                  : k->unit;
    cleanup_free char *text = util_printf(*unit ? "%s (%s)" : "%s", k->text, unit);
    size_t column = 1;
    buf_add_str(out, "\n;");
    for (const char *p = text; *p;) {
        size_t n = unbroken(p);
        if (column + 1 + n > 80) {
            buf_add_str(out, "\n;");
            column = 1;
        }
        buf_add_str(out, " ");
        buf_add(out, p, n);
        column += 1 + n;
        p += n + (p[n] == ' ');
    }
    buf_add_str(out, "\n");
    const char *value = k->flags & CONF_INHERIT ? "" : k->dflt[0] ? k->dflt : k->example;
    for (size_t i = 0; !*value && i < CONF_KEYS; i++)
        if (conf_key[i].kind == CONF_WALSUP && !strcmp(conf_key[i].name, k->name))
            value = conf_key[i].dflt;
    buf_printf(out, ";%s = %s\n", k->name, value);
}

void conf_sample(struct buf *out)
{
    static const char *const about[] = {
        "The daemon. Below each text, commented out, is the default or an example.",
        "Somewhere to replicate to: a bucket or a directory. Each has its own name.",
        "A database. Its name is its identity: replicas lie at <path of target>/<name>.",
        "What is different for one replica of one database."};
    buf_add_str(out,
                "; /etc/walsup.ini: configuration of walsupd, the SQLite replication daemon.\n"
                "; Manual: walsup.ini(5). After a change: walsupctl check, then walsupctl reload.\n"
                ";\n"
                "; What is needed is one target and one database:\n"
                ";\n"
                ";   [target local]\n"
                ";   type = file\n"
                ";   path = /backup/walsup\n"
                ";\n"
                ";   [db quadtask]\n"
                ";   path = /srv/quadtask/quadtask-prod.db\n"
                ";   target = local\n"
                ";\n"
                "; Rules: one 'key = value' a line; a value never continues on the next line; a\n"
                "; ';' after white space starts a comment, so that a value (a secret, say) cannot\n"
                "; contain ' ;' nor ' #'; no quotes; sizes and durations have a unit, as in\n"
                "; 64MiB and 10s; paths are absolute; ${NAME} is taken from the environment; a\n"
                "; mistake anywhere and nothing starts.\n");
    for (int kind = 0; kind < CONF_KINDS; kind++) {
        buf_printf(out, "\n; %s\n%s%s\n", about[kind], kind ? ";" : "",
                   section_heading((enum conf_kind)kind));
        for (size_t k = 0; k < CONF_KEYS; k++)
            if ((int)conf_key[k].kind == kind)
                sample_key(&conf_key[k], out);
    }
}

/* each sentence begins a line, as mdoc wants it */
static void roff(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '.' && text[1] == ' ' && isupper((unsigned char)text[2])) {
            buf_add_str(out, ".\n");
            text++;
        } else if (*text == '-') {
            buf_add_str(out, "\\-");
        } else if (*text == '\\') {
            buf_add_str(out, "\\e");
        } else {
            buf_add(out, text, 1);
        }
    }
}

/* what to write, in angle brackets for people */
static const char *argument(const struct conf_key *k)
{
    static const char *const word[] = {
        [CONF_TEXT] = "text", [CONF_PATH] = "path",         [CONF_FLAG] = "yes|no",
        [CONF_COUNT] = "n",   [CONF_DURATION] = "duration", [CONF_SIZE] = "size"};
    return k->type == CONF_CHOICE ? k->unit : word[k->type];
}

static void man_key(const struct conf_key *k, struct buf *out)
{
    buf_add_str(out, ".It Cm ");
    roff(out, k->name);
    buf_add_str(out, " = Ar ");
    roff(out, argument(k));
    buf_add_str(out, "\n");
    char first[2] = {(char)toupper((unsigned char)k->text[0]), '\0'};
    bool keyword = !strncmp(k->text, "s3:", 3) || !strncmp(k->text, "file:", 5) ||
                   !strncmp(k->text, "path:", 5) || !strncmp(k->text, "yes:", 4) ||
                   !strncmp(k->text, "frame:", 6) || !strncmp(k->text, "type,", 5);
    roff(out, keyword ? (char[]){k->text[0], '\0'} : first);
    roff(out, k->text + 1);
    buf_add_str(out, ".\n");
    const char *dflt = default_text(k);
    if (*dflt) {
        buf_add_str(out, "Default: ");
        roff(out, dflt);
        buf_add_str(out, ".\n");
    }
    if (k->min || k->max) {
        char lo[32], hi[32];
        conf_limit_text(k, k->min, lo);
        conf_limit_text(k, k->max, hi);
        buf_printf(out, "From %s to %s", lo, hi);
        buf_printf(out, k->type == CONF_COUNT ? " %s.\n" : ".\n", k->unit);
    }
    if (!(k->flags & CONF_RELOAD))
        buf_add_str(out, "Takes effect when the daemon starts.\n");
    if (k->flags & CONF_S3ONLY)
        buf_add_str(out, "Only with type = s3.\n");
}

void conf_man(struct buf *out)
{
    for (int kind = 0; kind < CONF_KINDS; kind++) {
        buf_printf(out, ".Ss %s\n.Bl -tag -width Ds\n", section_heading((enum conf_kind)kind));
        for (size_t k = 0; k < CONF_KEYS; k++)
            if ((int)conf_key[k].kind == kind)
                man_key(&conf_key[k], out);
        buf_add_str(out, ".El\n");
    }
}
