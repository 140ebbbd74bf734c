/* check: everything that can be found wrong before the daemon is started */
#include "ctl/check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define LOCK_TRIES 5
#define LOCK_PAUSE_US 100000
#define SHARED_FIRST 0x40000002 /* of os_unix.c in SQLite's source: the bytes of a lock on the database */
#define SHARED_SIZE 510

/* one line: what was tried and what came of it */
void check_step(struct check *k, const char *name, enum verdict v, const char *text, const char *hint)
{
    static const char *const word[] = {"ok", "warning", "FAILED"};
    static const enum out_tone tone[] = {OUT_GOOD, OUT_WARN, OUT_BAD};
    k->failed += v == FAILED;
    k->warned += v == WARNING;
    (void)json_array_append_new(
        k->steps, json_pack("{s:s, s:s, s:s%, s:s%}", "step", name, "result",
                            v == FAILED ? "failed" : word[v], "message", text, strlen(text), "hint",
                            hint, strlen(hint)));
    if (k->c->json)
        return;
    printf("  %-12s ", name);
    out_tone(stdout, tone[v]);
    (void)fputs(word[v], stdout);
    out_tone(stdout, OUT_PLAIN);
    if (v == OK) {
        printf("  ");
        out_text(stdout, text);
        (void)fputc('\n', stdout);
    } else {
        (void)fputc('\n', stdout);
        out_wrapped(stdout, 4, text);
        if (*hint) {
            cleanup_free char *line = util_printf("hint: %s", hint);
            out_wrapped(stdout, 4, line);
        }
    }
    (void)fflush(stdout);
}

void check_step_err(struct check *k, const char *name, const struct err *e)
{
    check_step(k, name, FAILED, e->msg, e->hint);
}

/* ---- a database ----------------------------------------------------------------------------- */

static bool check_directory(struct check *k, const char *path)
{
    cleanup_free char *dir = util_strdup(path);
    struct err e;
    *strrchr(dir, '/') = '\0';
    if (access(*dir ? dir : "/", W_OK | X_OK) == 0) {
        check_step(k, "directory", OK, "writable", "");
        return true;
    }
    (void)err_sys(&e, errno, "%s", *dir ? dir : "/");
    if (e.code == ERR_NOTFOUND)
        (void)err_hint(&e, "is the path right, is the file system mounted?");
    else
        (void)err_hint(&e, "SQLite keeps its -wal and -shm files there, so it must be writable; "
                           "run the check as the user of the daemon or as root");
    check_step_err(k, "directory", &e);
    return e.code != ERR_NOTFOUND;
}

/* The -wal of an application that uses another name lies beside that name, where nobody looks. */
static void check_names(struct check *k, const char *path, const struct stat *st)
{
    if (st->st_nlink < 2)
        return;
    cleanup_free char *text = util_printf("the file has %llu names (hard links): commits of an application that uses another "
                                          "one are not captured", (unsigned long long)st->st_nlink);
    cleanup_free char *hint = util_printf("find %s -xdev -samefile %s lists them; keep one", "/", path);
    check_step(k, "names", WARNING, text, hint);
}

/* Only a lock that stays: SQLite itself takes it for moments. */
static void check_lock(struct check *k, int fd)
{
    struct flock q;
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (i)
            (void)usleep(LOCK_PAUSE_US);
        q = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = SHARED_FIRST, .l_len = SHARED_SIZE};
        if (fcntl(fd, F_GETLK, &q) < 0 || q.l_type == F_UNLCK)
            return;
    }
    cleanup_free char *text = util_printf("process %ld holds an exclusive lock on it, so nothing can be captured", (long)q.l_pid);
    check_step(k, "lock", FAILED, text, "set PRAGMA locking_mode=NORMAL in the application");
}

/* The header is read raw, which is right only here: closing a descriptor drops a process's locks
 * on the database, and this process has none. */
static bool read_header(struct check *k, const char *path, uint8_t h[static 100], struct stat *st)
{
    struct err e;
    if (stat(path, st) < 0 && errno == ENOENT) {
        check_step(k, "file", WARNING, "there is no such file yet: walsupd waits for it",
             "is the path right?");
        return false;
    }
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, st) < 0) {
        (void)err_sys(&e, errno, "cannot read %s", path);
        (void)err_hint(&e, "run the check as the user of the daemon or as root");
        check_step_err(k, "file", &e);
        return false;
    }
    if (!S_ISREG(st->st_mode)) {
        bool dir = S_ISDIR(st->st_mode);
        check_step(k, "file", FAILED, dir ? "it is a directory" : "it is not a regular file",
             dir ? "name the database file in it" : "");
        return false;
    }
    if (st->st_size == 0) {
        check_step(k, "file", WARNING, "the file is empty: walsupd waits for the first table", "");
        return false;
    }
    ssize_t n = pread(fd, h, 100, 0);
    if (n == 100 && !memcmp(h, "SQLite format 3", 16)) {
        check_names(k, path, st);
        check_lock(k, fd);
        return true;
    }
    check_step(k, "file", FAILED, "it is not an SQLite database",
         "is the path right? (an encrypted database cannot be replicated)");
    return false;
}

static void check_database(struct check *k, const struct conf_db *d)
{
    uint8_t h[100];
    struct stat st;
    char text[96], size[32];
    if (!k->c->json)
        printf("\ndatabase %s: %s\n", d->name, d->path);
    if (!check_directory(k, d->path) || !read_header(k, d->path, h, &st))
        return;
    uint32_t page_size = be16_get(h + 16) == 1 ? 65536 : be16_get(h + 16);
    if (page_size < 512 || (page_size & (page_size - 1))) {
        check_step(k, "file", FAILED, "its header is damaged: there is no such page size",
             "sqlite3 FILE 'PRAGMA integrity_check'");
        return;
    }
    (void)snprintf(text, sizeof text, "SQLite, %s, page size %u",
                   util_size(size, (uint64_t)st.st_size), page_size);
    check_step(k, "file", OK, text, "");
    if (h[18] == 2 && h[19] == 2) {
        check_step(k, "journal mode", OK, "WAL", "");
        return;
    }
    cleanup_free char *hint =
        util_printf("walsup does not change it; do: sqlite3 %s 'PRAGMA journal_mode=WAL'", d->path);
    check_step(k, "journal mode", FAILED, "the database is not in WAL mode, so there is nothing to "
         "replicate from", hint);
}

/* ---- a pattern ------------------------------------------------------------------------------ */

struct walk {
    const struct conf *conf;
    const struct conf_db *d;
    size_t databases, wal, unreadable;
    char *not_wal; /* one of them */
};

static void walk_file(struct walk *w, const char *path)
{
    uint8_t h[100];
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        w->unreadable++;
        return;
    }
    if (conf_of_path(w->conf, path) != w->d || pread(fd, h, sizeof h, 0) != (ssize_t)sizeof h ||
        memcmp(h, "SQLite format 3", 16) != 0)
        return;
    w->databases++;
    if (h[18] == 2 && h[19] == 2)
        w->wal++;
    else if (!w->not_wal)
        w->not_wal = util_strdup(path);
}

/* much as the daemon does, but links are not followed */
static void walk_dir(struct walk *w, const char *dir, glob_at at)
{
    DIR *d = opendir(dir);
    if (!d) {
        w->unreadable++;
        return;
    }
    for (const struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        glob_at next = glob_step(w->d->glob, at, e->d_name, n);
        if (!next || glob_aside(e->d_name, n) || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        cleanup_free char *path = util_printf("%s/%s", dir[1] ? dir : "", e->d_name);
        struct stat st;
        if (lstat(path, &st) < 0 || conf_aside(w->conf, path))
            continue;
        if (S_ISDIR(st.st_mode) && glob_below(w->d->glob, next))
            walk_dir(w, path, next);
        else if (S_ISREG(st.st_mode) && glob_file(w->d->glob, next))
            walk_file(w, path);
    }
    (void)closedir(d);
}

static void check_pattern(struct check *k, const struct conf *conf, const struct conf_db *d)
{
    struct walk w = {.conf = conf, .d = d};
    struct err e;
    char text[96];
    const char *base = glob_base(d->glob);
    if (!k->c->json)
        printf("\ndatabases %s: %s\n", d->name, d->path);
    if (access(base, R_OK | X_OK) < 0 && errno != ENOENT) {
        (void)err_sys(&e, errno, "%s", base);
        (void)err_hint(&e, "run the check as the user of the daemon or as root");
        check_step_err(k, "directory", &e);
        return;
    }
    if (access(base, F_OK) < 0) {
        check_step(k, "directory", WARNING, "there is no such directory yet: walsupd waits for it",
             "is the path right?");
        return;
    }
    walk_dir(&w, base, glob_start(d->glob));
    (void)snprintf(text, sizeof text, "%zu database%s now, %zu of them in WAL mode", w.databases,
                   w.databases == 1 ? " matches" : "s match", w.wal);
    check_step(k, "files", w.databases ? OK : WARNING, text, w.databases ? "" : "is the pattern right?");
    if (w.unreadable)
        check_step(k, "access", WARNING, "some files or directories could not be read",
             "run the check as the user of the daemon or as root");
    if (w.not_wal) {
        cleanup_free char *hint =
            util_printf("walsup does not change it; do: sqlite3 %s 'PRAGMA journal_mode=WAL'", w.not_wal);
        check_step(k, "journal mode", WARNING, "some databases are not in WAL mode and not replicated", hint);
    }
    free(w.not_wal);
}

/* ---- the verb ------------------------------------------------------------------------------- */

static json_t *check_all(struct check *k, const struct conf *conf)
{
    json_t *targets = json_array(), *databases = json_array();
    for (size_t i = 0; i < conf->n_targets; i++) {
        k->steps = json_array();
        unsigned before = k->failed;
        check_target(k, &conf->target[i]);
        (void)json_array_append_new(
            targets, json_pack("{s:s, s:b, s:o}", "name", conf->target[i].name, "ok",
                               k->failed == before, "steps", k->steps));
    }
    for (size_t i = 0; i < conf->n_dbs; i++) {
        k->steps = json_array();
        unsigned before = k->failed;
        if (conf->db[i].glob)
            check_pattern(k, conf, &conf->db[i]);
        else
            check_database(k, &conf->db[i]);
        (void)json_array_append_new(
            databases, json_pack("{s:s, s:s, s:b, s:o}", "name", conf->db[i].name, "path",
                                 conf->db[i].path, "ok", k->failed == before, "steps", k->steps));
    }
    return json_pack("{s:b, s:i, s:i, s:s, s:o, s:o}", "ok", !k->failed, "failed", (int)k->failed,
                     "warnings", (int)k->warned, "configuration", k->c->config, "targets", targets,
                     "databases", databases);
}

static const char *plural(size_t n)
{
    return n == 1 ? "" : "s";
}

int cmd_check(struct ctl *c)
{
    struct check k = {.c = c};
    struct conf *conf = NULL;
    int status;
    if (ctl_option(c, NULL, &status) == CTL_STOP || !ctl_operands(c, 0, 0, &status) ||
        !ctl_load(c, &conf, &status))
        return status;
    if (!c->json)
        printf("configuration %s: ok, %zu target%s, %zu database%s\n", c->config, conf->n_targets,
               plural(conf->n_targets), conf->n_dbs, plural(conf->n_dbs));
    (void)uv_loop_init(&k.loop);
    k.state_dir = conf->state_dir;
    json_t *all = check_all(&k, conf);
    (void)uv_loop_close(&k.loop);
    if (c->json) {
        (void)out_json(all);
    } else {
        json_decref(all);
        printf("\n");
        if (!conf->n_dbs && !k.failed)
            printf("no database is configured, so there is nothing to do: add a section "
                   "[db NAME]\n");
        else if (k.failed)
            printf("%u problem%s\n", k.failed, plural(k.failed));
        else if (k.warned)
            printf("no problems, %u warning%s\n", k.warned, plural(k.warned));
        else
            printf("everything is fine\n");
    }
    (void)conf_free(conf);
    return k.failed ? 1 : 0;
}
