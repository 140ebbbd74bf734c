/* service_env.c - what the unit gives to its process: user and groups, environment, credentials. */
#include "ctl/service_int.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/base/fsx.h"
#include "common/store/cred.h"

#define MAX_ENVIRONMENT (1u << 20)

static void found(struct service *s, const char *step, enum verdict v, char *text, char *hint)
{
    s->found = util_realloc(s->found, (s->n_found + 1) * sizeof *s->found);
    s->found[s->n_found++] = (struct finding){util_strdup(step), text, hint ? hint : util_strdup(""), v};
}

/* ---- environment ------------------------------------------------------------------------------ */

static void env_set(struct service *s, const char *assignment)
{
    const char *eq = strchr(assignment, '=');
    if (!eq || eq == assignment)
        return;
    size_t n = (size_t)(eq - assignment) + 1;
    for (size_t i = 0; i < s->n_env; i++)
        if (!strncmp(s->env[i], assignment, n)) {
            free(s->env[i]);
            s->env[i] = util_strdup(assignment);
            return;
        }
    s->env = util_realloc(s->env, (s->n_env + 1) * sizeof *s->env);
    s->env[s->n_env++] = util_strdup(assignment);
}

static void env_unset(struct service *s, const char *name)
{
    size_t n = strlen(name), kept = 0;
    for (size_t i = 0; i < s->n_env; i++) {
        bool it = !strncmp(s->env[i], name, n) && (s->env[i][n] == '=' || s->env[i][n] == '\0');
        if (it)
            free(s->env[i]);
        else
            s->env[kept++] = s->env[i];
    }
    s->n_env = kept;
}

enum env_at { BETWEEN, COMMENT, NAME, BEFORE_VALUE, VALUE, ESCAPED, SINGLE, DOUBLE, DOUBLE_ESCAPED };

static const char env_newline[] = "\r\n";

/* One character of a value, which may be a newline if it is in quotes or escaped. *ret_space: it is
 * a space that does not count at the end of the value. */
static enum env_at env_value(struct buf *one, enum env_at at, char c, bool *ret_space)
{
    *ret_space = at == VALUE && strchr(" \t", c);
    switch (at) {
    case ESCAPED:
        if (!strchr(env_newline, c))
            buf_add(one, &c, 1);
        return VALUE;
    case SINGLE:
    case DOUBLE:
        if (c == (at == SINGLE ? '\'' : '"'))
            return BEFORE_VALUE;
        if (at == DOUBLE && c == '\\')
            return DOUBLE_ESCAPED;
        buf_add(one, &c, 1);
        return at;
    case DOUBLE_ESCAPED:
        if (!strchr("\"\\`$\n", c))
            buf_add(one, "\\", 1);
        if (c != '\n')
            buf_add(one, &c, 1);
        return DOUBLE;
    default:
        if (at == BEFORE_VALUE && strchr(" \t'\"", c))
            return c == '"' ? DOUBLE : c == '\'' ? SINGLE : at;
        if (c == '\\')
            return ESCAPED;
        buf_add(one, &c, 1);
        return VALUE;
    }
}

/* As systemd reads such a file (systemd.exec(5), "EnvironmentFile="): quotes are quotes where a value
 * or the next part of it begins, spaces around name and value do not count, and a backslash at the
 * end continues a line. */
static void env_text(struct service *s, const char *text)
{
    cleanup_wiped_buf struct buf one = BUF_INIT;
    enum env_at at = BETWEEN;
    size_t kept = 0; /* what follows are spaces at the end */
    for (const char *p = text;; p++) {
        bool in_quotes = at >= ESCAPED, space = strchr(" \t", *p);
        if (!*p || (strchr(env_newline, *p) && !in_quotes)) {
            one.len = kept;
            if (at >= BEFORE_VALUE)
                env_set(s, buf_str(&one));
            buf_consume(&one, one.len);
            kept = 0;
            at = BETWEEN;
            if (!*p)
                return;
        } else if (at >= BEFORE_VALUE) {
            at = env_value(&one, at, *p, &space);
        } else if (at == NAME && *p == '=') {
            one.len = kept;
            buf_add(&one, p, 1);
            at = BEFORE_VALUE;
        } else if (at != COMMENT && !(at == BETWEEN && space)) {
            at = at == BETWEEN && (*p == '#' || *p == ';') ? COMMENT : NAME;
            if (at == NAME)
                buf_add(&one, p, 1);
        }
        kept = space ? kept : one.len;
    }
}

static void env_unknown(struct service *s, const char *word, const struct err *e)
{
    const char *path = word + (*word == '-');
    if (e->code == ERR_PERM && geteuid() != 0)
        found(s, "environment", WARNING,
              util_printf("EnvironmentFile=%s cannot be read by this user, so what it sets is not known", path),
              util_strdup("run the check as root"));
    else if (*word != '-')
        found(s, "environment", FAILED,
              util_printf("%s has EnvironmentFile=%s, and cannot start: %s", s->unit->name, path,
                          e->msg),
              util_printf("create the file (chmod 600), or write EnvironmentFile=-%s", path));
}

static void env_read(struct service *s, const char *word, const char *path)
{
    cleanup_wiped_buf struct buf text = BUF_INIT;
    struct err e;
    if (fsx_read(path, MAX_ENVIRONMENT, &text, &e) == 0)
        env_text(s, buf_str(&text));
    else
        env_unknown(s, word, &e);
}

/* Wildcards are allowed. With a '-' before it, whatever cannot be read is left out. */
static void env_file(struct service *s, const char *word)
{
    const char *path = word + (*word == '-');
    glob_t files = {0};
    if (glob(path, GLOB_BRACE, NULL, &files) != 0)
        env_read(s, word, path); /* which says why not */
    for (size_t i = 0; i < files.gl_pathc; i++)
        env_read(s, word, files.gl_pathv[i]);
    globfree(&files);
}

/* The manager's own; systemd.exec(5), "Environment Variables in Spawned Processes". */
void service_env_take(struct service *s)
{
    const struct unit *u = s->unit;
    env_set(s, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if (s->user) {
        const char *const own[][2] = {{"HOME", s->home}, {"LOGNAME", s->user}, {"USER", s->user}, {"SHELL", s->shell}};
        for (size_t i = 0; i < ARRAY_LEN(own); i++) {
            cleanup_free char *one = util_printf("%s=%s", own[i][0], own[i][1] ? own[i][1] : "");
            env_set(s, one);
        }
    }
    for (const struct unit_line *l = NULL; (l = unit_next(u, "Environment", l));) {
        const char *p = l->value;
        for (char *word; (p = unit_word(p, &word)); secret_wipe(word))
            env_set(s, word);
    }
    for (const struct unit_line *l = NULL; (l = unit_next(u, "EnvironmentFile", l));)
        env_file(s, l->value);
    for (const struct unit_line *l = NULL; (l = unit_next(u, "UnsetEnvironment", l));) {
        const char *p = l->value;
        for (char *word; (p = unit_word(p, &word)); free(word))
            env_unset(s, word);
    }
}

void service_env_keys(struct service *s)
{
    const char *prefix = cred_in_environment();
    if (prefix)
        s->shell_keys = util_printf("%s_*", prefix);
    const char *home = getenv("HOME"), *file = getenv("AWS_SHARED_CREDENTIALS_FILE");
    cleanup_free char *aws = home ? util_printf("%s/.aws/credentials", home) : NULL;
    if (!s->shell_keys && file)
        s->shell_keys = util_strdup("AWS_SHARED_CREDENTIALS_FILE");
    else if (!s->shell_keys && aws && access(aws, R_OK) == 0)
        s->shell_keys = TAKE_PTR(aws);
}

/* ---- credentials ------------------------------------------------------------------------------ */

static bool decrypt(const char *id, const char *from, const char *to)
{
    cleanup_free char *name = util_printf("--name=%s", id);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        (void)dup2(null, STDOUT_FILENO);
        (void)dup2(null, STDERR_FILENO);
        (void)execlp("systemd-creds", "systemd-creds", "decrypt", name, from, to, (char *)NULL);
        _exit(127);
    }
    int status = 1;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void give(struct service *s, const char *path)
{
    if (s->drop && chown(path, s->uid, (gid_t)-1) < 0)
        found(s, "credentials", FAILED,
              util_printf("cannot give %s to user %s: %s", path, s->user, strerror(errno)), NULL);
}

static void keep_credential(struct service *s, const char *id, const void *p, size_t n)
{
    cleanup_free char *path = util_printf("%s/%s", s->credentials, id);
    cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0400);
    struct err ignored;
    if (fd >= 0 && fsx_write_all(fd, p, n, &ignored) == 0)
        give(s, path);
}

static void load_credential(struct service *s, const struct unit_line *l, bool encrypted)
{
    cleanup_wiped_buf struct buf text = BUF_INIT;
    struct err e;
    const char *colon = strchr(l->value, ':');
    cleanup_free char *id = util_printf("%.*s", (int)strcspn(l->value, ":"), l->value);
    const char *path = colon ? colon + 1 : "";
    struct stat st;
    if (strchr(id, '/') || *path != '/' || (stat(path, &st) == 0 && !S_ISREG(st.st_mode)))
        return; /* of the manager, a socket or a directory: not ours to read */
    if (encrypted) {
        cleanup_free char *to = util_printf("%s/%s", s->credentials, id);
        if (!decrypt(id, path, to))
            found(s, "credentials", FAILED, util_printf("systemd-creds cannot decrypt %s=%s", l->key, l->value),
                  util_printf("systemd-creds decrypt --name=%s %s says why", id, path));
        else
            give(s, to);
    } else if (fsx_read(path, MAX_ENVIRONMENT, &text, &e) == 0) {
        keep_credential(s, id, text.p, text.len);
    } else {
        found(s, "credentials", FAILED,
              util_printf("%s has %s=%s, and cannot start: %s", s->unit->name, l->key, l->value, e.msg),
              util_printf("create %s (chmod 600), or correct the line in %s", path, l->file));
    }
}

static bool has_credentials(const struct unit *u)
{
    static const char *const key[] = {"LoadCredential", "LoadCredentialEncrypted", "SetCredential"};
    for (size_t i = 0; i < ARRAY_LEN(key); i++)
        if (unit_next(u, key[i], NULL))
            return true;
    return false;
}

void service_env_credentials(struct service *s)
{
    char dir[] = "/run/walsup-check-XXXXXX";
    if (!has_credentials(s->unit))
        return;
    if (geteuid() != 0 || !mkdtemp(dir)) {
        found(s, "credentials", WARNING,
              util_printf("the credentials of %s cannot be read by this user", s->unit->name),
              util_strdup("run the check as root"));
        return;
    }
    s->credentials = util_strdup(dir);
    give(s, dir);
    for (const struct unit_line *l = NULL; (l = unit_next(s->unit, "SetCredential", l));) {
        const char *colon = strchr(l->value, ':');
        cleanup_free char *id = util_printf("%.*s", (int)strcspn(l->value, ":"), l->value);
        if (colon && !strchr(id, '/'))
            keep_credential(s, id, colon + 1, strlen(colon + 1));
    }
    for (const struct unit_line *l = NULL; (l = unit_next(s->unit, "LoadCredential", l));)
        load_credential(s, l, false);
    for (const struct unit_line *l = NULL; (l = unit_next(s->unit, "LoadCredentialEncrypted", l));)
        load_credential(s, l, true);
    cleanup_free char *one = util_printf("CREDENTIALS_DIRECTORY=%s", dir);
    env_set(s, one);
}

/* ---- the user --------------------------------------------------------------------------------- */

static const struct passwd *user_of(const char *name)
{
    return name[strspn(name, "0123456789")] ? getpwnam(name) : getpwuid((uid_t)strtoul(name, NULL, 10));
}

static const struct group *group_of(const char *name)
{
    return name[strspn(name, "0123456789")] ? getgrnam(name) : getgrgid((gid_t)strtoul(name, NULL, 10));
}

static void no_such(struct service *s, const char *what, const char *name)
{
    bool ours = !strcmp(name, "walsup");
    found(s, "user", FAILED, util_printf("%s runs as %s %s, which does not exist, so it cannot start (status 217/USER)",
                                         s->unit->name, what, name),
          ours ? util_strdup("systemd-sysusers creates it, if its file walsup.conf is in /usr/lib/sysusers.d")
               : util_printf("create it, or correct %s= in the unit", !strcmp(what, "user") ? "User" : "Group"));
}

void service_env_user(struct service *s)
{
    const struct unit_line *user = unit_get(s->unit, "User"), *group = unit_get(s->unit, "Group");
    bool dynamic = unit_is(s->unit, "DynamicUser", "yes");
    s->as_root = !dynamic && (!user || !strcmp(user->value, "root") || !strcmp(user->value, "0"));
    if (dynamic)
        found(s, "user", WARNING,
              util_printf("%s runs as a user that exists only while it runs (DynamicUser=yes), so what "
                          "that user may read and write is not judged", s->unit->name),
              util_strdup("User=walsup is what its databases and directories can be given to"));
    if (!user || dynamic)
        return;
    const struct passwd *p = user_of(user->value);
    if (!p) {
        no_such(s, "user", user->value);
        return;
    }
    s->user = util_strdup(p->pw_name);
    s->home = util_strdup(p->pw_dir);
    s->shell = util_strdup(p->pw_shell);
    s->uid = p->pw_uid;
    s->gid = p->pw_gid;
    const struct group *g = group ? group_of(group->value) : NULL;
    if (group && !g) {
        no_such(s, "group", group->value);
        return;
    }
    if (g)
        s->gid = g->gr_gid;
    s->n_groups = SERVICE_GROUPS;
    if (getgrouplist(s->user, s->gid, s->group, &s->n_groups) < 0)
        s->n_groups = SERVICE_GROUPS;
    for (const struct unit_line *l = NULL; (l = unit_next(s->unit, "SupplementaryGroups", l));) {
        const char *w = l->value;
        for (char *word; (w = unit_word(w, &word)); free(word))
            if (s->n_groups < SERVICE_GROUPS && (g = group_of(word)))
                s->group[s->n_groups++] = g->gr_gid;
    }
    s->drop = geteuid() == 0 && s->uid != 0;
    if (geteuid() != 0 && geteuid() != s->uid)
        found(
            s, "user", WARNING,
            util_printf("%s runs as %s, and this user cannot tell what that one may read and write",
                        s->unit->name, s->user),
            util_strdup("run the check as root"));
}

void service_env_done(struct service *s)
{
    for (size_t i = 0; i < s->n_env; i++)
        secret_wipe(s->env[i]);
    for (size_t i = 0; i < s->n_found; i++) {
        free(s->found[i].step);
        free(s->found[i].text);
        free(s->found[i].hint);
    }
    free(s->env);
    free(s->found);
}

char *unit_variable(struct unit *u, const char *name)
{
    struct service s = {.unit = u};
    size_t n = strlen(name);
    char *value = NULL;
    service_env_take(&s);
    for (size_t i = 0; i < s.n_env && !value; i++)
        if (!strncmp(s.env[i], name, n) && s.env[i][n] == '=')
            value = util_strdup(s.env[i] + n + 1);
    service_env_done(&s);
    return value;
}
