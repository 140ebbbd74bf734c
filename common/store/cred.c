#include "common/store/cred.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>

#include "common/base/env.h"
#include "common/base/fsx.h"

#define FILE_MAX_BYTES ((size_t)64 << 10)
#define GROUP_BYTES 4096

void cred_done(struct cred *c)
{
    free(c->key_id);
    secret_free(c->secret);
    secret_free(c->token);
    free(c->source);
    free(c->command);
    *c = (struct cred){0};
}

static bool given(const char *s)
{
    return s && *s;
}

static char *trimmed(const char *s, size_t n)
{
    while (n && isspace((unsigned char)s[0])) {
        s++;
        n--;
    }
    while (n && isspace((unsigned char)s[n - 1]))
        n--;
    char *copy = strndup(s, n);
    return copy ? copy : util_strdup("");
}

/* root:walsup 0640 */
static bool of_our_group(const struct stat *st)
{
    struct group room, *g = NULL; /* on any thread */
    char names[GROUP_BYTES];
    (void)getgrnam_r("walsup", &room, names, sizeof names, &g);
    return g && st->st_uid == 0 && st->st_gid == g->gr_gid && (st->st_mode & 0777 & ~0640u) == 0;
}

/* The whole of a file that holds a secret. The check is on the open descriptor, so that the file
 * that was looked at is the one that is read. */
static int read_secret_file(const char *path, bool strict, struct buf *out, struct err *e)
{
    struct stat st, link;
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_sys(e, errno, "open %s", path);
    if (fstat(fd, &st) < 0)
        return err_sys(e, errno, "stat %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_CONFIG, "%s is not a regular file", path);
    if (strict && (st.st_mode & (S_IRWXO | S_IRWXG)) && !of_our_group(&st)) {
        (void)err_set(e, ERR_PERM, "%s holds a secret and others than its owner may use it "
                      "(mode %04o)", path, (unsigned)(st.st_mode & 07777));
        return err_hint(e, "chmod 600 %s (or, owned by root:walsup, 640)", path);
    }
    if (strict && lstat(path, &link) == 0 && S_ISLNK(link.st_mode) && link.st_uid != 0 &&
        link.st_uid != geteuid() && link.st_uid != st.st_uid) {
        (void)err_set(e, ERR_PERM, "%s is a link that another user made", path);
        return err_hint(e, "name the file itself");
    }
    if (st.st_size < 0 || (size_t)st.st_size > FILE_MAX_BYTES)
        return err_set(e, ERR_CONFIG, "%s is too large for a file with a key", path);
    uint8_t *p = buf_reserve(out, (size_t)st.st_size + 1);
    if (!p)
        return err_set(e, ERR_NOMEM, "no memory to read %s", path);
    int r = fsx_pread_all(fd, p, (size_t)st.st_size, 0, e);
    if (r < 0)
        return err_wrap(e, "read %s", path);
    out->len += (size_t)st.st_size;
    return 0;
}

/* A container's runtime made these files and their modes, usually readable for everybody in the container. */
static bool of_a_container(const char *path)
{
    return !strncmp(path, "/run/secrets/", 13) || !strncmp(path, "/var/run/secrets/", 17);
}

int cred_read_secret(const char *path, bool strict, struct secret **ret, struct err *e)
{
    cleanup_wiped_buf struct buf b = BUF_INIT;
    int r = read_secret_file(path, strict && !of_a_container(path), &b, e);
    if (r < 0)
        return r;
    struct secret *s = secret_take(trimmed((const char *)b.p, b.len));
    if (!s)
        return err_set(e, ERR_CONFIG, "%s is empty", path);
    *ret = s;
    return 0;
}

/* ---- the sources; each returns 1 when it has a pair, 0 when not, negative on error ---------- */

/* Use what a source has, unless it belongs to another key id than the configured one. */
static int adopt(const struct conf_target *t, struct cred *found, const char *source,
                 struct cred *ret)
{
    const char *id = given(t->access_key_id) ? t->access_key_id : found->key_id;
    bool same = !given(found->key_id) || !given(id) || !strcmp(id, found->key_id);
    if (!found->secret || !given(id) || !same) {
        cred_done(found);
        return 0;
    }
    char *copy = util_strdup(id);
    free(found->key_id);
    found->key_id = copy;
    if (!found->token)
        found->token = secret_dup(t->session_token);
    found->source = util_strdup(source);
    *ret = *found;
    return 1;
}

static int from_conf(const struct conf_target *t, struct cred *ret, struct err *e)
{
    struct cred c = {0};
    if (t->secret_access_key) {
        c.secret = secret_dup(t->secret_access_key);
        return adopt(t, &c, "the configuration", ret);
    }
    if (!given(t->secret_access_key_file))
        return 0;
    int r = cred_read_secret(t->secret_access_key_file, true, &c.secret, e);
    if (r < 0)
        return err_wrap(e, "secret-access-key-file");
    if (!given(t->access_key_id)) {
        cred_done(&c);
        return err_set(e, ERR_CONFIG, "there is a secret-access-key-file but no access-key-id");
    }
    return adopt(t, &c, t->secret_access_key_file, ret);
}

static bool names_keys(const struct conf_target *t)
{
    return t->secret_access_key || given(t->secret_access_key_file) || given(t->credentials_file) ||
           given(t->credential_process);
}

/* a file of the directory; 1: there is none */
static int read_beside(const char *dir, const char *prefix, const char *name, struct secret **ret, struct err *e)
{
    cleanup_free char *path = util_printf("%s/%s%s", dir, prefix, name);
    if (access(path, F_OK) < 0)
        return 1;
    /* systemd made these files and their modes: no check */
    return cred_read_secret(path, false, ret, e);
}

static int from_credential_dir(const struct conf_target *t, struct cred *ret, struct err *e)
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    cleanup_free char *own = util_printf("%s.", t->name ? t->name : "");
    const char *const prefix[] = {own, "s3-"};
    for (size_t i = 0; given(dir) && i < ARRAY_LEN(prefix); i++) {
        struct cred c = {0};
        if (i == 1 && names_keys(t)) /* meant for the targets that have nothing of their own */
            break;
        int r = read_beside(dir, prefix[i], "secret-access-key", &c.secret, e);
        if (r > 0)
            continue;
        cleanup_secret struct secret *id = NULL;
        r = r < 0 ? r : read_beside(dir, prefix[i], "access-key-id", &id, e);
        r = r < 0 ? r : read_beside(dir, prefix[i], "session-token", &c.token, e);
        c.key_id = util_strdup(secret_reveal(id));
        if (r < 0) {
            cred_done(&c);
            return r;
        }
        r = adopt(t, &c, "$CREDENTIALS_DIRECTORY", ret);
        if (r)
            return r;
    }
    return 0;
}

/* ---- the environment ------------------------------------------------------------------------ */

static const char *const env_prefix[] = {"WALSUP", "LITESTREAM", "AWS"};
static const char *const env_name[] = {"SECRET_ACCESS_KEY", "SESSION_TOKEN"};

void cred_take_environment(void)
{
    char name[64];
    for (size_t i = 0; i < ARRAY_LEN(env_prefix); i++)
        for (size_t k = 0; k < ARRAY_LEN(env_name); k++) {
            (void)snprintf(name, sizeof name, "%s_%s", env_prefix[i], env_name[k]);
            env_take(name);
        }
}

static struct secret *env_secret(size_t prefix, size_t which)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%s_%s", env_prefix[prefix], env_name[which]);
    return secret_take(env_get(name));
}

const char *cred_in_environment(void)
{
    for (size_t i = 0; i < ARRAY_LEN(env_prefix); i++) {
        cleanup_secret struct secret *s = env_secret(i, 0);
        if (s)
            return env_prefix[i];
    }
    return NULL;
}

static int from_env(const struct conf_target *t, size_t prefix, struct cred *ret)
{
    char name[64], source[64];
    struct cred c = {0};
    c.secret = env_secret(prefix, 0);
    if (!c.secret)
        return 0;
    (void)snprintf(name, sizeof name, "%s_ACCESS_KEY_ID", env_prefix[prefix]);
    const char *id = getenv(name);
    c.key_id = id ? util_strdup(id) : NULL;
    c.token = env_secret(prefix, 1);
    (void)snprintf(source, sizeof source, "the environment (%s_*)", env_prefix[prefix]);
    return adopt(t, &c, source, ret);
}

/* one "name = value" line of a shared credentials file */
static void take_line(struct cred *c, const char *line, size_t n)
{
    const char *eq = memchr(line, '=', n);
    if (!eq)
        return;
    cleanup_free char *name = trimmed(line, (size_t)(eq - line));
    char **to = !strcmp(name, "aws_access_key_id")    ? &c->key_id
                : !strcmp(name, "credential_process") ? &c->command
                                                      : NULL;
    struct secret **secret = !strcmp(name, "aws_secret_access_key") ? &c->secret
                             : !strcmp(name, "aws_session_token")   ? &c->token
                                                                    : NULL;
    char *value = trimmed(eq + 1, n - (size_t)(eq + 1 - line));
    if (to) {
        free(*to);
        *to = value;
    } else if (secret) {
        secret_free(*secret);
        *secret = secret_take(value);
    } else {
        secret_wipe(value);
    }
}

static void to_fetch(enum cred_kind kind, const char *command, struct cred *ret)
{
    static const char *const source[] = {[CRED_PROCESS] = "credential-process",
                                         [CRED_CONTAINER] = "the container's role",
                                         [CRED_INSTANCE] = "the instance's role"};
    *ret = (struct cred){.key_id = util_strdup("(not fetched yet)"), .secret = NULL,
                         .source = util_strdup(source[kind]), .kind = kind,
                         .command = command ? util_strdup(command) : NULL, .expires_ms = 1};
}

static int from_shared(const struct conf_target *t, const char *path, bool required,
                       struct cred *ret, struct err *e)
{
    const char *env = getenv("AWS_PROFILE");
    const char *profile = given(t->profile) ? t->profile : given(env) ? env : "default";
    cleanup_wiped_buf struct buf b = BUF_INIT;
    struct cred c = {0};
    if (!required && access(path, R_OK) < 0)
        return 0;
    int r = read_secret_file(path, required, &b, e);
    if (r < 0)
        return err_wrap(e, "credentials-file");
    bool inside = false, seen = false;
    for (const char *p = (const char *)b.p, *end = p + b.len; p < end;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - p);
        cleanup_free char *head = trimmed(p, n && *p == '[' ? n : 0);
        size_t h = strlen(head);
        if (h > 2 && head[h - 1] == ']') {
            cleanup_free char *name = trimmed(head + 1, h - 2);
            inside = !strcmp(name, profile);
            seen |= inside;
        } else if (inside && *p != '#' && *p != ';') {
            take_line(&c, p, n);
        }
        p += n + (nl ? 1 : 0);
    }
    if (!c.secret && given(c.command)) {
        to_fetch(CRED_PROCESS, c.command, ret);
        cred_done(&c);
        return 1;
    }
    r = adopt(t, &c, path, ret);
    if (r == 0 && required)
        return err_set(e, ERR_CONFIG, "%s has no %s [%s]", path,
                       seen ? "usable key pair in profile" : "profile", profile);
    return r;
}

static int from_home(const struct conf_target *t, struct cred *ret, struct err *e)
{
    const char *path = getenv("AWS_SHARED_CREDENTIALS_FILE"), *home = getenv("HOME");
    if (given(path))
        return from_shared(t, path, false, ret, e);
    if (!given(home) || (!given(t->profile) && !given(getenv("AWS_PROFILE"))))
        return 0;
    cleanup_free char *p = util_printf("%s/.aws/credentials", home);
    return from_shared(t, p, false, ret, e);
}

static int from_elsewhere(const struct conf_target *t, struct cred *ret)
{
    if (given(t->credential_process))
        to_fetch(CRED_PROCESS, t->credential_process, ret);
    else if (given(getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")) ||
             given(getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")))
        to_fetch(CRED_CONTAINER, NULL, ret);
    else if (t->instance_role)
        to_fetch(CRED_INSTANCE, NULL, ret);
    else
        return 0;
    return 1;
}

int cred_load(const struct conf_target *t, struct cred *ret, struct err *e)
{
    int r = from_credential_dir(t, ret, e);
    if (r == 0)
        r = from_conf(t, ret, e);
    if (r == 0 && given(t->credentials_file))
        r = from_shared(t, t->credentials_file, true, ret, e);
    bool elsewhere = given(t->credential_process); /* more to the point than what is in the environment */
    for (size_t i = 0; r == 0 && !elsewhere && i < ARRAY_LEN(env_prefix); i++)
        r = from_env(t, i, ret);
    if (r == 0 && !elsewhere)
        r = from_home(t, ret, e);
    if (r == 0)
        r = from_elsewhere(t, ret);
    if (r > 0)
        return 0;
    if (r < 0)
        return t->by_url ? r : err_wrap(e, "target %s", t->name ? t->name : "");
    (void)err_set(e, ERR_CONFIG, "%s%s%sno secret access key was found%s%s",
                  t->by_url ? "" : "target ", t->by_url || !t->name ? "" : t->name,
                  t->by_url ? "" : ": ", given(t->access_key_id) ? " for key id " : "",
                  given(t->access_key_id) ? t->access_key_id : "");
    return err_hint(e, "write access-key-id and secret-access-key-file in the target's section, or "
                       "set WALSUP_ACCESS_KEY_ID and WALSUP_SECRET_ACCESS_KEY (LITESTREAM_* and "
                       "AWS_* work as well)");
}
