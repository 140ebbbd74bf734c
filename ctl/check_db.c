/* check, of databases: one, or all that match a pattern. */
#include "ctl/check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define LOCK_TRIES 5
#define LOCK_PAUSE_US 100000
#define SHARED_FIRST 0x40000002 /* of os_unix.c in SQLite's source: the bytes of a lock on the database */
#define SHARED_SIZE 510

/* ---- a database ----------------------------------------------------------------------------- */

static bool may(const char *path, int mode)
{
    return faccessat(AT_FDCWD, path, mode, AT_EACCESS) == 0; /* of capabilities as well */
}

static bool check_directory(struct check *k, const char *path)
{
    cleanup_free char *real = unit_real(path); /* the side files lie beside what a link leads to */
    cleanup_free char *dir = needs_parent(real);
    struct err e;
    if (!service_reaches(k, "directory", path, false))
        return false;
    if (may(dir, W_OK | X_OK)) {
        if (!service_reaches(k, "directory", dir, true))
            return false;
        check_step(k, "directory", OK, "writable", "");
        return true;
    }
    (void)err_sys(&e, errno, "%s", dir);
    if (e.code == ERR_NOTFOUND)
        (void)err_hint(&e, "is the path right, is the file system mounted?");
    else if (k->service)
        service_denied(k, dir, true, &e);
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
        service_denied(k, path, true, &e);
        check_step_err(k, "file", &e);
        return false;
    }
    if (S_ISREG(st->st_mode) && !may(path, W_OK)) {
        (void)err_sys(&e, errno, "cannot write %s", path);
        service_denied(k, path, true, &e);
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

void check_database(struct check *k, const struct conf_db *d)
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
    const struct check *k;
    const struct conf *conf;
    const struct conf_db *d;
    size_t databases, wal, unreadable, lost;
    char *not_wal;        /* one of them */
    char *link, *link_to; /* a directory elsewhere that walsupd gives up when it starts */
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

/* What Landlock leaves to walsupd: the directories that are written, and those above the ones of databases. */
static bool granted(const struct walk *w, const char *real)
{
    const struct needs *l = &w->k->needs;
    bool programs = w->conf->on_state_change;
    for (size_t i = 0; i < w->conf->n_targets; i++)
        programs = programs || w->conf->target[i].credential_process;
    bool in = !w->conf->landlock || programs;
    for (size_t i = 0; i < l->n && !in; i++) {
        const struct need *n = &l->item[i];
        if (n->kind != NEED_WRITE_DIR && n->kind != NEED_WRITE_BESIDE)
            continue;
        cleanup_free char *at = unit_real(n->path);
        cleanup_free char *dir = n->kind == NEED_WRITE_BESIDE ? needs_parent(at) : util_strdup(at);
        cleanup_free char *above = !strcmp(n->what, "db") ? needs_parent(dir) : util_strdup(dir);
        in = needs_below(real, above[1] ? above : dir);
    }
    return in;
}

static void walk_dir(struct walk *w, const char *dir, glob_at at);

/* As the daemon, links to directories are followed; not to those in which this began, which would be endless. */
static void walk_link(struct walk *w, const char *path, glob_at at)
{
    cleanup_free char *real = realpath(path, NULL);
    cleanup_free char *base = unit_real(glob_base(w->d->glob));
    if (!real || needs_below(real, base) || needs_below(base, real))
        return;
    if (granted(w, real)) {
        walk_dir(w, path, at);
        return;
    }
    w->lost++;
    if (!w->link) {
        w->link = util_strdup(path);
        w->link_to = TAKE_PTR(real);
    }
}

/* much as the daemon does */
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
        struct stat st, to;
        if (lstat(path, &st) < 0 || conf_aside(w->conf, path))
            continue;
        if (S_ISLNK(st.st_mode) && glob_below(w->d->glob, next) && stat(path, &to) == 0 && S_ISDIR(to.st_mode))
            walk_link(w, path, next);
        if (S_ISDIR(st.st_mode) && glob_below(w->d->glob, next))
            walk_dir(w, path, next);
        else if (S_ISREG(st.st_mode) && glob_file(w->d->glob, next))
            walk_file(w, path);
    }
    (void)closedir(d);
}

static void check_links(struct check *k, const struct walk *w)
{
    if (!w->lost)
        return;
    cleanup_free char *more = w->lost > 1 ? util_printf(", and %zu more", w->lost - 1) : util_strdup("");
    cleanup_free char *text = util_printf("%s is a link to %s%s, which walsupd gives up when it starts (landlock), since the "
                                          "pattern begins elsewhere", w->link, w->link_to, more);
    cleanup_free char *hint = util_printf("add a section [db NAME] with path = %s/...", w->link_to);
    check_step(k, "links", FAILED, text, hint);
}

void check_pattern(struct check *k, const struct conf *conf, const struct conf_db *d)
{
    struct walk w = {.k = k, .conf = conf, .d = d};
    struct err e;
    char text[96];
    const char *base = glob_base(d->glob);
    if (!k->c->json)
        printf("\ndatabases %s: %s\n", d->name, d->path);
    if (!service_reaches(k, "directory", base, true))
        return;
    if (!may(base, R_OK | X_OK) && errno != ENOENT) {
        (void)err_sys(&e, errno, "%s", base);
        service_denied(k, base, true, &e);
        check_step_err(k, "directory", &e);
        return;
    }
    if (!may(base, F_OK)) {
        check_step(k, "directory", WARNING, "there is no such directory yet: walsupd waits for it",
             "is the path right?");
        return;
    }
    walk_dir(&w, base, glob_start(d->glob));
    (void)snprintf(text, sizeof text, "%zu database%s now, %zu of them in WAL mode", w.databases,
                   w.databases == 1 ? " matches" : "s match", w.wal);
    check_step(k, "files", w.databases ? OK : WARNING, text, w.databases ? "" : "is the pattern right?");
    if (w.unreadable) {
        (void)err_set(&e, ERR_PERM, "some files or directories could not be read");
        service_denied(k, base, true, &e);
        check_step(k, "access", WARNING, e.msg, e.hint);
    }
    if (w.not_wal) {
        cleanup_free char *hint =
            util_printf("walsup does not change it; do: sqlite3 %s 'PRAGMA journal_mode=WAL'", w.not_wal);
        check_step(k, "journal mode", WARNING, "some databases are not in WAL mode and not replicated", hint);
    }
    check_links(k, &w);
    free(w.not_wal);
    free(w.link);
    free(w.link_to);
}
