#include "common/format/conf.h"

#include <ctype.h>
#include <errno.h>
#include <glob.h>
#include <ini.h>
#include <inttypes.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "common/format/conf_int.h"
#include "common/format/near.h"

#define MAX_FILE (64u << 20)
#define MAX_LINE 4096u
#define MAX_PROBLEMS 1000u

/* one file on its way through the INI library */
struct lines {
    struct conf_ctx *x;
    const char *p, *end;      /* not yet looked at */
    const char *feed, *stop;  /* the rest of the current line */
    struct conf_origin at;
    struct conf_section *section; /* the current one; NULL: before the first, or a bad header */
    bool bad_section;
    bool expect; /* the current line must arrive as a key */
    bool secret;
    bool wiped; /* inih's buffer was, of the secret */
    bool include_ok;
};

void conf_problem(struct conf_ctx *x, const struct conf_origin *o, const char *hint,
                  const char *fmt, ...)
{
    char msg[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    char where[300] = "";
    if (o && o->file && o->line)
        (void)snprintf(where, sizeof where, "%s:%u: ", o->file, o->line);
    else if (o && o->file)
        (void)snprintf(where, sizeof where, "%s: ", o->file);
    if (x->problems++ == 0) {
        (void)err_set(x->e, ERR_CONFIG, "%s%s", where, msg);
        if (*hint)
            (void)err_hint(x->e, "%s", hint);
    }
    if (!x->errors || x->problems > MAX_PROBLEMS)
        return;
    buf_printf(x->errors, "%s%s", where, msg);
    if (*hint)
        buf_printf(x->errors, strchr(hint, '\n') ? ":\n  %s" : " (%s)", hint);
    buf_add_str(x->errors, "\n");
    if (x->problems == MAX_PROBLEMS)
        buf_add_str(x->errors, "more problems are not shown\n");
}

/* ---- keys ----------------------------------------------------------------------------------- */

static const char *section_title(const struct conf_section *s, char buf[static 128])
{
    (void)snprintf(buf, 128, *s->name ? "[%s %s]" : "[%s%s]", conf_kind_name[s->kind], s->name);
    return buf;
}

/* As the AWS tools and Litestream write it. */
static char *other_spelling(const char *name)
{
    char *s = util_strdup(strncasecmp(name, "aws_", 4) && strncasecmp(name, "aws-", 4) ? name : name + 4);
    for (char *p = s; *p; p++)
        *p = *p == '_' ? '-' : (char)tolower((unsigned char)*p);
    return s;
}

static void unknown_key(struct lines *l, const char *name)
{
    char title[128], hint[256] = "";
    size_t best = SIZE_MAX;
    cleanup_free char *other = other_spelling(name);
    for (size_t i = 0; i < CONF_KEYS; i++) {
        if (conf_key[i].kind != l->section->kind)
            continue;
        size_t d = near_distance(other, conf_key[i].name);
        if (near_enough(other, d) && d < best) {
            best = d;
            (void)snprintf(hint, sizeof hint, "did you mean %s?", conf_key[i].name);
        }
    }
    for (size_t i = 0; i < CONF_KEYS && !*hint; i++)
        if (!strcmp(name, conf_key[i].name))
            (void)snprintf(hint, sizeof hint, "it belongs in a section [%s%s]",
                           conf_kind_name[conf_key[i].kind],
                           conf_key[i].kind == CONF_WALSUP   ? ""
                           : conf_key[i].kind == CONF_REPLICA ? " DATABASE@TARGET"
                                                              : " NAME");
    if (!*hint)
        (void)snprintf(hint, sizeof hint, "walsupctl config --defaults lists the keys");
    conf_problem(l->x, &l->at, hint, "unknown key '%.64s' in %s", name,
                 section_title(l->section, title));
}

/* what no value may look like as it is written, whatever its type */
static bool value_plain(struct lines *l, const char *name, const char *value)
{
    if (!strstr(value, " #"))
        return true;
    conf_problem(l->x, &l->at, "put the comment on its own line, or start it with ' ;'",
                 "the value of %s contains ' #', which starts no comment here", name);
    return false;
}

/* nor as it is meant, once variables are expanded */
static bool value_usable(struct lines *l, const char *name, const char *value)
{
    size_t n = strlen(value);
    if (n == 0) {
        conf_problem(l->x, &l->at, "leave the line out for the default", "%s has no value", name);
        return false;
    }
    if (n > 1 && (value[0] == '"' || value[0] == '\'') && value[n - 1] == value[0]) {
        conf_problem(l->x, &l->at, "quotes would become part of it", "%s is in quotes: write it "
                     "without them", name);
        return false;
    }
    return true;
}

/* As it was written, with variables expanded. A file holds a secret unless that comes from the environment. */
static bool take_text(struct lines *l, struct conf_value *v, const char *written)
{
    const struct conf_key *k = &conf_key[v->key];
    struct err e = {0};
    char *expanded = NULL;
    int rc = value_plain(l, k->name, written)
                 ? conf_expand(written, k->flags & CONF_SECRET, &expanded, &e)
                 : -ERR_CONFIG;
    l->secret = l->secret || ((k->flags & CONF_SECRET) && rc != CONF_EXPANDED);
    v->text = expanded ? expanded : util_strdup(written);
    if (rc < 0 && e.code)
        conf_problem(l->x, &l->at, e.hint, "%s: %s", k->name, e.msg);
    return rc >= 0 && value_usable(l, k->name, v->text);
}

static void take_value(struct lines *l, struct conf_value *v, const char *written)
{
    const struct conf_key *k = &conf_key[v->key];
    struct err e = {0};
    int rc = 0;
    v->bad = !take_text(l, v, written);
    if (v->bad)
        return;
    const char *text = v->text;
    if (k->type == CONF_PATH && text[0] == '~') {
        rc = err_set(&e, ERR_CONFIG, "%s = %s: '~' is not expanded", k->name, text);
        (void)err_hint(&e, "write the absolute path");
    } else if (k->type == CONF_PATH) {
        char *clean = conf_path_clean(text, &e);
        rc = clean ? 0 : err_wrap(&e, "%s = %s", k->name, text);
        if (clean) {
            free(v->text);
            v->text = clean;
        }
    } else if (k->type != CONF_TEXT) {
        rc = conf_number(k, text, &v->num, &e);
    }
    if (rc < 0) {
        v->bad = true;
        conf_problem(l->x, &l->at, e.hint, "%s", e.msg);
    }
}

static int on_key(void *user, const char *section, const char *name, const char *value)
{
    struct lines *l = user;
    (void)section; /* cut at 49 bytes; ours is l->section */
    l->expect = false;
    struct conf_section *s = l->section;
    if (!s) {
        if (!l->bad_section)
            conf_problem(l->x, &l->at, "begin with [walsup], [target NAME] or [db NAME]",
                         "key '%.64s' stands before the first section", name);
        return 1;
    }
    size_t k = 0;
    while (k < CONF_KEYS && (conf_key[k].kind != s->kind || strcmp(conf_key[k].name, name) != 0))
        k++;
    if (k == CONF_KEYS) {
        unknown_key(l, name);
        return 1;
    }
    const struct conf_value *first = conf_get(s, (enum conf_key_id)k);
    if (first) {
        conf_problem(l->x, &l->at, "keep one of the lines", "duplicate key '%s', first on line %u",
                     name, first->origin.line);
        return 1;
    }
    s->value = util_realloc(s->value, (s->n + 1) * sizeof *s->value);
    struct conf_value *v = &s->value[s->n++];
    *v = (struct conf_value){.key = (enum conf_key_id)k, .origin = l->at};
    take_value(l, v, value);
    return 1;
}

/* ---- lines ---------------------------------------------------------------------------------- */

static bool section_name(struct lines *l, enum conf_kind kind, const char *name)
{
    static const char rule[] = "names are 1 to 40 of A-Z a-z 0-9 . _ - and do not start with a dot";
    const char *at = strchr(name, '@');
    if (kind == CONF_WALSUP) {
        if (*name)
            conf_problem(l->x, &l->at, "write [walsup]", "[walsup] takes no name");
        return !*name;
    }
    if (!*name) {
        conf_problem(l->x, &l->at, kind == CONF_REPLICA ? "write [replica DATABASE@TARGET]" : rule,
                     "[%s] needs a name", conf_kind_name[kind]);
        return false;
    }
    if (kind == CONF_REPLICA) {
        if (at && conf_name_ok(name, (size_t)(at - name)) && conf_name_ok(at + 1, strlen(at + 1)))
            return true;
        conf_problem(l->x, &l->at, "write [replica DATABASE@TARGET]",
                     "'%.100s' does not name a replica", name);
        return false;
    }
    if (conf_name_ok(name, strlen(name)))
        return true;
    conf_problem(l->x, &l->at, rule, "'%.100s' cannot be the name of a %s", name,
                 kind == CONF_DB ? "database" : "target");
    return false;
}

/* p..end is the line from '[' on, without the newline */
static void on_section(struct lines *l, const char *p, const char *end)
{
    struct conf_raw *raw = l->x->c->raw;
    const char *close = memchr(p, ']', (size_t)(end - p));
    const char *comment = memmem(p, (size_t)(end - p), " ;", 2);
    l->section = NULL;
    l->bad_section = true;
    if (!close || (comment && comment < close)) {
        conf_problem(l->x, &l->at, "write [section]", "the section's closing ']' is missing");
        return;
    }
    const char *rest = close + 1;
    while (rest < end && isspace((unsigned char)*rest))
        rest++;
    if (rest < end && *rest != ';' && *rest != '#') {
        conf_problem(l->x, &l->at, "keys go on lines of their own", "text after the section");
        return;
    }
    cleanup_free char *title = strndup(p + 1, (size_t)(close - p - 1));
    char *save = NULL;
    const char *word = title ? strtok_r(title, " \t", &save) : NULL;
    const char *name = word ? strtok_r(NULL, " \t", &save) : NULL;
    const char *more = name ? strtok_r(NULL, " \t", &save) : NULL;
    size_t kind = 0;
    while (word && kind < CONF_KINDS && strcmp(word, conf_kind_name[kind]) != 0)
        kind++;
    if (!word || kind == CONF_KINDS) {
        conf_problem(l->x, &l->at,
                     "there are [walsup], [target NAME], [db NAME] and [replica DATABASE@TARGET]",
                     "unknown section '%.64s'", word ? word : "");
        return;
    }
    if (more) {
        conf_problem(l->x, &l->at, "names contain no spaces", "'%.64s' after the section's name",
                     more);
        return;
    }
    if (!section_name(l, (enum conf_kind)kind, name ? name : ""))
        return;
    struct conf_section *s = util_zalloc(sizeof *s);
    s->kind = (enum conf_kind)kind;
    s->name = util_strdup(name ? name : "");
    s->origin = l->at;
    if ((raw->n & (raw->n - 1)) == 0)
        raw->section =
            util_realloc(raw->section, (raw->n ? raw->n * 2 : 1) * sizeof(struct conf_section *));
    raw->section[raw->n++] = s;
    l->section = s;
    l->bad_section = false;
}

/* looks at one whole line before the INI library gets it; false: the library must not see it */
static bool line_plain(struct lines *l, const char *p, const char *end)
{
    if ((size_t)(end - p) > MAX_LINE) {
        conf_problem(l->x, &l->at, "the limit is 4096 bytes", "the line is too long");
        return false;
    }
    for (const char *q = p; q < end; q++)
        if (((unsigned char)*q < ' ' && *q != '\t') || *q == 0x7f) {
            conf_problem(l->x, &l->at, "remove it", "control character %u in the line",
                         (unsigned char)*q);
            return false;
        }
    if (!conf_utf8_ok(p, (size_t)(end - p))) {
        conf_problem(l->x, &l->at, "save the file as UTF-8", "the line is not UTF-8 text");
        return false;
    }
    while (p < end && isspace((unsigned char)*p))
        p++;
    if (p < end && *p == '[') {
        on_section(l, p, end);
        return false;
    }
    l->expect = p < end && *p != ';' && *p != '#';
    return true;
}

static void line_done(struct lines *l)
{
    if (l->expect && (l->section || !l->bad_section))
        conf_problem(l->x, &l->at, "a value does not continue on the next line; comments start "
                     "with ; or #", "expected 'key = value' or '[section]'");
    l->expect = false;
}

/* fgets for the INI library; a long line comes in pieces */
static char *next_piece(char *str, int num, void *stream)
{
    struct lines *l = stream;
    if (l->feed == l->stop) {
        line_done(l);
        if (l->p == l->end && l->secret && !l->wiped && num > 2) {
            /* one more line, a comment that fills the buffer which inih frees as it is */
            l->wiped = true;
            memset(str, '#', (size_t)num - 2);
            memcpy(str + num - 2, "\n", 2);
            return str;
        }
        if (l->p == l->end)
            return NULL;
        const char *nl = memchr(l->p, '\n', (size_t)(l->end - l->p));
        const char *end = nl ? nl : l->end;
        const char *text_end = end > l->p && end[-1] == '\r' ? end - 1 : end;
        l->at.line++;
        static const char blank[] = "\n";
        bool use = line_plain(l, l->p, text_end);
        l->feed = use ? l->p : blank;
        l->stop = use ? (nl ? nl + 1 : l->end) : blank + 1;
        l->p = nl ? nl + 1 : l->end;
    }
    size_t n = MIN((size_t)(l->stop - l->feed), (size_t)num - 1);
    memcpy(str, l->feed, n);
    str[n] = '\0';
    l->feed += n;
    return str;
}

/* ---- files ---------------------------------------------------------------------------------- */

static const char *keep_file_name(struct conf *c, const char *name)
{
    c->file = util_realloc(c->file, (c->n_files + 1) * sizeof *c->file);
    c->file[c->n_files] = util_strdup(name);
    return c->file[c->n_files++];
}

/* returns whether the text holds a secret */
static bool parse_text(struct conf_ctx *x, const char *name, const char *text, size_t n)
{
    static const char bom[] = "\xef\xbb\xbf";
    struct lines l = {.x = x, .p = text, .end = text + n};
    l.at.file = keep_file_name(x->c, name);
    if (n >= 3 && !memcmp(text, bom, 3))
        l.p += 3;
    /* Debian's build reads these at run time; its defaults cut long lines and join indented ones */
    ini_use_stack = false;
    ini_allow_realloc = true;
    ini_max_line = (int)MAX_LINE * 2;
    ini_allow_multiline = false;
    ini_allow_no_value = false;
    ini_stop_on_first_error = false;
    if (ini_parse_stream(next_piece, &l, on_key, &l) == -2)
        conf_problem(x, &l.at, "", "out of memory");
    return l.secret;
}

/* a missing or unreadable file is e's; everything else is a problem */
static int parse_file(struct conf_ctx *x, const char *path, struct err *e)
{
    cleanup_wiped_buf struct buf text = BUF_INIT;
    struct stat st;
    if (stat(path, &st) < 0)
        return err_sys(e, errno, "cannot read the configuration %s", path);
    if (S_ISDIR(st.st_mode))
        return err_set(e, ERR_CONFIG, "the configuration %s is a directory", path);
    int rc = fsx_read(path, MAX_FILE, &text, e);
    if (rc < 0)
        return err_wrap(e, "cannot read the configuration");
    bool secret = parse_text(x, path, buf_str(&text), text.len);
    if (secret && (st.st_mode & S_IROTH) && x->exposed) {
        buf_printf(x->exposed, "%s\n", path);
    } else if (secret && (st.st_mode & S_IROTH)) {
        struct conf_origin o = {path, 0};
        char hint[320];
        (void)snprintf(hint, sizeof hint, "chgrp walsup %s; chmod 640 %s", path, path);
        conf_problem(x, &o, hint, "the file contains a secret and everybody on this machine can "
                     "read it");
    }
    return 0;
}

static int glob_failed(const char *path, int errnum)
{
    (void)path;
    return errnum == ENOENT || errnum == ENOTDIR ? 0 : 1;
}

/* what is to be taken for an included file, whatever is on the disk */
struct stand_in {
    const char *file, *text; /* text NULL: it is not there */
};

static void read_includes(struct conf_ctx *x, const struct conf_value *v, const struct stand_in *in)
{
    if (v->bad)
        return;
    if (v->text[0] != '/') {
        conf_problem(x, &v->origin, "as in /etc/walsup.d/*.ini",
                     "include = %s is not an absolute path", v->text);
        return;
    }
    glob_t g = {0};
    struct conf_origin at = v->origin; /* v moves when sections are added; its file name does not */
    cleanup_free char *pattern = util_strdup(v->text);
    int rc = glob(pattern, 0, glob_failed, &g); /* with GLOB_ERR nobody asks glob_failed */
    if (rc == GLOB_NOMATCH && !strpbrk(pattern, "*?["))
        conf_problem(x, &at, "create it or remove the line", "include = %s: there is no such file",
                     pattern);
    else if (rc != 0 && rc != GLOB_NOMATCH)
        conf_problem(x, &at, "", "include = %s: cannot look for files: %s", pattern,
                     rc == GLOB_NOSPACE ? "out of memory" : strerror(errno));
    for (size_t i = 0; rc == 0 && i < g.gl_pathc; i++) {
        struct err e = {0};
        if (in && !strcmp(g.gl_pathv[i], in->file))
            continue;
        if (parse_file(x, g.gl_pathv[i], &e) < 0)
            conf_problem(x, &at, e.hint, "include: %s", e.msg);
    }
    globfree(&g);
    if (in && in->text)
        (void)parse_text(x, in->file, in->text, strlen(in->text));
}

static struct conf *conf_new(void)
{
    struct conf *c = util_zalloc(sizeof *c);
    c->raw = util_zalloc(sizeof *c->raw);
    return c;
}

static const struct conf_value *find_include(const struct conf_raw *raw)
{
    for (size_t i = 0; i < raw->n; i++)
        if (raw->section[i]->kind == CONF_WALSUP)
            return conf_get(raw->section[i], CONF_WALSUP_include);
    return NULL;
}

/* What was written is kept, secrets only as something that changes with them. */
static void hide_secrets(struct conf_raw *raw)
{
    for (size_t i = 0; i < raw->n; i++) {
        for (size_t k = 0; k < raw->section[i]->n; k++) {
            struct conf_value *v = &raw->section[i]->value[k];
            if (!(conf_key[v->key].flags & CONF_SECRET))
                continue;
            uint8_t digest[SHA256_DIGEST_LENGTH];
            (void)SHA256((const unsigned char *)v->text, strlen(v->text), digest);
            secret_wipe(v->text);
            v->text = util_printf("%016" PRIx64, be64_get(digest));
        }
    }
}

static int finish(struct conf_ctx *x, struct conf **ret)
{
    conf_build(x);
    hide_secrets(x->c->raw);
    if (x->problems) {
        (void)conf_free(x->c);
        return -ERR_CONFIG;
    }
    *ret = x->c;
    return 0;
}

/* Beside the configuration: /etc/walsup.d/<any>.ini for /etc/walsup.ini. NULL: it has no absolute name. */
static char *default_include(const char *path)
{
    cleanup_free char *real = realpath(path, NULL);
    size_t n = real ? strlen(real) : 0;
    if (n > 4 && !strcmp(real + n - 4, ".ini"))
        n -= 4;
    return n && !strpbrk(real, "*?[\\") ? util_printf("%.*s.d/*.ini", (int)n, real) : NULL;
}

static int load(const char *path, const struct stand_in *in, struct buf *exposed, struct conf **ret, struct buf *errors,
                struct err *e)
{
    struct err own = {0};
    struct conf_ctx x = {conf_new(), errors, e ? e : &own, 0, exposed};
    int rc = parse_file(&x, path, x.e);
    if (rc < 0) {
        if (errors)
            buf_printf(errors, "%s\n", x.e->msg);
        (void)conf_free(x.c);
        return rc;
    }
    const struct conf_value *include = find_include(x.c->raw);
    struct conf_value beside = {.origin = {path, 0}, .text = include ? NULL : default_include(path)};
    if (include || beside.text)
        read_includes(&x, include ? include : &beside, in);
    x.c->include = TAKE_PTR(beside.text);
    return finish(&x, ret);
}

int conf_load(const char *path, struct conf **ret, struct buf *errors, struct err *e)
{
    return load(path, NULL, NULL, ret, errors, e);
}

int conf_load_exposed(const char *path, struct conf **ret, struct buf *exposed, struct buf *errors, struct err *e)
{
    return load(path, NULL, exposed, ret, errors, e);
}

int conf_load_with(const char *path, const char *file, const char *text, struct conf **ret, struct buf *errors,
                   struct err *e)
{
    const struct stand_in in = {file, text};
    return load(path, &in, NULL, ret, errors, e);
}

int conf_parse(const char *name, const char *text, size_t n, struct conf **ret,
               struct buf *errors, struct err *e)
{
    struct err own = {0};
    struct conf_ctx x = {conf_new(), errors, e ? e : &own, 0, NULL};
    (void)parse_text(&x, name, text, n);
    const struct conf_value *include = find_include(x.c->raw);
    if (include)
        conf_problem(&x, &include->origin, "", "include is not possible here");
    return finish(&x, ret);
}

static void section_free(struct conf_section *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->value[i].text);
    free(s->value);
    free(s->name);
    free(s);
}

struct conf *conf_free(struct conf *c)
{
    if (!c)
        return NULL;
    for (size_t i = 0; i < c->n_targets; i++)
        conf_target_done(&c->target[i]);
    for (size_t i = 0; i < c->n_dbs; i++) {
        for (size_t j = 0; j < c->db[i].n_replicas; j++)
            free(c->db[i].replica[j].path);
        free(c->db[i].replica);
        free(c->db[i].name);
        free(c->db[i].path);
        free(c->db[i].name_template);
        (void)glob_free(c->db[i].glob);
    }
    map_free(&c->by_name);
    map_free(&c->by_path);
    free(c->pattern);
    for (size_t i = 0; i < c->raw->n; i++)
        section_free(c->raw->section[i]);
    for (size_t i = 0; i < c->n_files; i++)
        free(c->file[i]);
    free(c->raw->section);
    free(c->raw->sorted);
    free(c->raw);
    free(c->target);
    free(c->db);
    free(c->file);
    free(c->state_dir);
    free(c->socket);
    free(c->metrics_listen);
    free(c->on_state_change);
    free(c->log_level);
    free(c->include);
    free(c);
    return NULL;
}
