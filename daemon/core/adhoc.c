#include "daemon/core/adhoc.h"

#include "common/base/fsx.h"

#define NAME_MAX_BYTES 40

/* What an INI file cannot hold. */
static int plain(const char *what, const char *text, struct err *e)
{
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return err_set(e, ERR_USAGE, "%s has a control character", what);
    const char *bad = strstr(text, " ;") ? " ;" : strstr(text, " #") ? " #" : NULL;
    if (!bad && *text && text[0] != ' ' && text[strlen(text) - 1] != ' ')
        return 0;
    (void)err_set(e, ERR_USAGE,
                  bad ? "%s contains '%s', which a configuration cannot hold"
                      : "%s is empty, or begins or ends with a blank",
                  what, bad);
    return err_hint(e, "rename it, or make a link to it");
}

static void add_value(struct buf *out, const char *key, const char *value)
{
    buf_printf(out, "%s = ", key);
    for (const char *p = value; *p; p++) {
        if (!strncmp(p, "${", 2))
            buf_add_str(out, "$");
        buf_add(out, p, 1);
    }
    buf_add_str(out, "\n");
}

/* What the file is called, without its last suffix, in the letters that a name may have. */
static char *name_of(const char *path)
{
    const char *base = strrchr(path, '/') + 1;
    base += strspn(base, ".");
    const char *dot = strrchr(base, '.');
    size_t n = dot && dot > base ? (size_t)(dot - base) : strlen(base);
    char *name = util_printf("%.*s", (int)MIN(n, (size_t)NAME_MAX_BYTES), base);
    for (char *p = name; *p; p++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", *p))
            *p = '-';
    return name;
}

/* The url without the last part of its path. */
static char *parent_of(const char *url)
{
    size_t from = !strncmp(url, "file://", 7) ? 7 : 0, head = strcspn(url, "?");
    if (!strncmp(url, "s3://", 5))
        from = 5 + strcspn(url + 5, "/?");
    size_t n = head;
    while (n > from && url[n - 1] == '/')
        n--;
    while (n > from && url[n - 1] != '/')
        n--;
    while (n > from && url[n - 1] == '/')
        n--;
    return util_printf("%.*s%s%s", (int)n, url, n == from && *url != 's' ? "/" : "", url + head);
}

/* The target is everything but the last part of the path, which is the replica's. */
static int add_target(struct buf *out, struct buf *replicas, const char *db, const char *url,
                      const char *name, struct err *e)
{
    struct conf_target t = {0};
    int r = plain("the url", url, e);
    r = r < 0 ? r : conf_parse_url(url, &t, e);
    if (r < 0)
        return r;
    const char *last = strrchr(t.path, '/');
    cleanup_free char *replica = util_strdup(last ? last + 1 : t.path);
    bool bucket = t.type == CONF_S3;
    conf_target_done(&t);
    if (!*replica) {
        (void)err_set(e, ERR_CONFIG, "%s names no place in the %s for the replica", url,
                      bucket ? "bucket" : "directory");
        return err_hint(e, "append a path, such as /app");
    }
    cleanup_free char *parent = parent_of(url);
    buf_printf(out, "\n[target %s]\n", name);
    add_value(out, "url", parent);
    buf_printf(replicas, "\n[replica %s@%s]\n", db, name);
    add_value(replicas, "path", replica);
    return 0;
}

static void add_database(struct buf *out, const char *path, const char *name, size_t n_targets)
{
    buf_printf(out, "\n[db %s]\n", name);
    add_value(out, "path", path);
    buf_add_str(out, "target = ");
    for (size_t i = 0; i < n_targets; i++)
        buf_printf(out, i ? ", url-%zu" : "url", i + 1);
    buf_add_str(out, "\n");
}

int adhoc_text(const struct adhoc *a, struct buf *out, struct err *e)
{
    buf_add_str(out, "; made by walsupd from its command line, and made again at every start\n[walsup]\n");
    for (size_t i = 0; i < a->n_set; i++) {
        const char *eq = strchr(a->set[i], '=');
        if (!eq || eq == a->set[i])
            return err_set(e, ERR_USAGE, "--set %s is not KEY=VALUE, as in retention=14d", a->set[i]);
        cleanup_free char *key = strndup(a->set[i], (size_t)(eq - a->set[i]));
        int r = plain("--set", a->set[i], e);
        if (r < 0)
            return r;
        buf_printf(out, "%s = %s\n", key, eq + 1); /* ${NAME} is meant */
    }
    if (a->n < 2) {
        (void)err_set(e, ERR_USAGE, "%s has no url to replicate to", a->operand[0]);
        return err_hint(e, "walsupd /path/app.db 's3://BUCKET/app?endpoint=https://HOST', or file:///DIRECTORY/app");
    }
    const char *db = a->operand[0];
    cleanup_free char *cwd = *db == '/' ? NULL : getcwd(NULL, 0);
    cleanup_free char *path = *db == '/' ? util_strdup(db) : util_printf("%s/%s", cwd ? cwd : "", db + (strncmp(db, "./", 2) ? 0 : 2));
    int r = plain(db, path, e);
    if (r < 0)
        return r;
    if (strpbrk(path, "*?[")) {
        (void)err_set(e, ERR_USAGE, "%s is a pattern, which needs a configuration file", path);
        return err_hint(e, "walsup.ini(5) shows a section [db NAME] with one");
    }
    cleanup_free char *name = name_of(path);
    cleanup_buf struct buf replicas = BUF_INIT;
    for (size_t i = 1; r == 0 && i < a->n; i++) {
        cleanup_free char *target = i == 1 ? util_strdup("url") : util_printf("url-%zu", i);
        r = add_target(out, &replicas, name, a->operand[i], target, e);
    }
    add_database(out, path, name, a->n - 1);
    buf_add(out, replicas.p, replicas.len);
    return r;
}

int adhoc_keep(const char *state_dir, const char *text, char **ret_path, struct err *e)
{
    cleanup_free char *path = util_printf("%s/walsup.ini", state_dir);
    cleanup_buf struct buf old = BUF_INIT;
    struct err ignored;
    bool same = fsx_read(path, 1u << 20, &old, &ignored) == 0 && !strcmp(buf_str(&old), text);
    int r = same ? 0 : fsx_publish(path, text, strlen(text), 0600, FSX_REPLACE, e);
    if (r == 0)
        *ret_path = TAKE_PTR(path);
    return r;
}
