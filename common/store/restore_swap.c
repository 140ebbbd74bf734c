#include "common/store/restore_swap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/store/restore_disk.h"
#include "common/store/restore_users.h"

static const char *const side[] = {"-wal", "-shm", "-journal"};
#define SIDES ARRAY_LEN(side)

static bool there(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

/* ---- what is refused ------------------------------------------------------------------------ */

static int must_not_exist(const struct swap *w, struct err *e)
{
    struct stat st;
    if (lstat(w->output, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "look at %s", w->output);
    if (!w->force) {
        err_set(e, ERR_EXISTS, "%s is there already", w->output);
        return err_hint(e, "restore to another path, move it away, or replace it with --force");
    }
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_EXISTS, "%s is not a regular file, so it is not replaced", w->output);
    return 0;
}

static int must_not_be_used(const struct swap *w, enum users_except except, struct err *e)
{
    char who[USERS_TEXT];
    if (w->in_use || !users_find(w->output, except, who))
        return 0;
    if (there(w->output))
        err_set(e, ERR_BUSY, "%s is in use by %s, which would keep writing to the replaced file", w->output, who);
    else
        err_set(e, ERR_BUSY, "the files beside %s are in use by %s, which has the database open that was there",
                w->output, who);
    if (!strncmp(who, "walsupd ", 8))
        return err_hint(e, "pause the database first (walsupctl pause), or restore to another path with -o");
    return err_hint(e, "stop it, or restore to another path with -o; --force-in-use replaces the file all the same");
}

static int must_not_be_foreign(const struct swap *w, struct err *e)
{
    const char *suffix = w->force ? NULL : side_foreign(w->output);
    if (!suffix)
        return 0;
    err_set(e, ERR_EXISTS, "%s%s is there, and is not a file of SQLite's", w->output, suffix);
    return err_hint(e, "restore to another path, move it away, or have it removed with --force");
}

int swap_check(const struct swap *w, struct err *e)
{
    int r = must_not_exist(w, e);
    if (!r)
        r = must_not_be_foreign(w, e);
    return r < 0 ? r : must_not_be_used(w, USERS_BUT_WALSUPD, e);
}

/* ---- the old database ----------------------------------------------------------------------- */

static int lock_old(const struct swap *w, int *ret_fd, struct err *e)
{
    char who[USERS_TEXT] = "another process";
    *ret_fd = open(w->output, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*ret_fd < 0 || users_lock(*ret_fd) || w->in_use) /* who may not write it cannot lock it either */
        return 0;
    (void)users_find(w->output, USERS_ANY, who);
    err_set(e, ERR_BUSY, "%s was opened by %s meanwhile", w->output, who);
    return err_hint(e, "stop it, and run the same command again");
}

/* Makes the old database complete without the files beside it, so that it does not matter when they go. */
static int settle_old(const struct swap *w, int *ret_fd, struct err *e)
{
    struct side_wal wal = {0};
    struct err why = {0};
    for (int i = 0;; i++) {
        int r = side_wal_read(w->output, &wal, e);
        bool hot = side_journal_hot(w->output);
        if (!r && (i || (!wal.frames && !hot)))
            r = lock_old(w, ret_fd, e);
        if (r < 0 || (!wal.frames && !hot) || (i && w->in_use))
            return r;
        if (i)
            break;
        if (side_fold(w->output, &why) < 0 && !w->in_use)
            break;
    }
    err_set(e, ERR_EXISTS, "%s%s holds changes of the old database that SQLite cannot bring into it%s%s", w->output,
            wal.frames ? "-wal" : "-journal", *why.msg ? ": " : "", why.msg);
    return err_hint(e, "move both away, or remove them, and run the same command again");
}

/* ---- leftovers without a database ----------------------------------------------------------- */

/* *ret_aside: there are changes in them that must not meet the new file */
static int judge_leftovers(const struct swap *w, int fd, bool *ret_aside, struct err *e)
{
    struct side_wal wal;
    uint64_t pages = 0;
    bool hot = side_journal_hot(w->output);
    if (hot && !w->force) {
        err_set(e, ERR_EXISTS, "%s-journal may be needed by the database that was there", w->output);
        return err_hint(e, "move it beside that database, under its name, or remove it");
    }
    int r = side_wal_read(w->output, &wal, e);
    if (r == -(int)ERR_UNSUPPORTED && w->force) {
        err_clear(e);
        hot = true;
        r = 0;
    }
    if (!r && wal.frames)
        r = side_wal_adds(w->output, &wal, fd, w->page_size, w->pages, &pages, e);
    if (r < 0)
        return r;
    *ret_aside = hot || pages > 0;
    if (!pages || w->force || (w->proven.frames && side_wal_same(&w->proven, &wal)))
        return 0;
    err_set(e, ERR_EXISTS,
            "%s-wal holds commits that are not in what is restored (%llu of the pages in it "
            "differ), and "
            "may be the only place that has them",
            w->output, (unsigned long long)pages);
    return err_hint(e, "move it beside the database it belongs to, under that name, or away; --force removes it");
}

/* ---- the exchange --------------------------------------------------------------------------- */

struct aside {
    char *name[SIDES];
};

static void aside_back(const struct swap *w, struct aside *a)
{
    for (size_t i = 0; i < SIDES; i++) {
        cleanup_free char *path = util_printf("%s%s", w->output, side[i]);
        if (a->name[i])
            (void)renameat2(AT_FDCWD, a->name[i], AT_FDCWD, path, RENAME_NOREPLACE);
    }
}

static int aside_move(const struct swap *w, struct aside *a, struct err *e)
{
    uint8_t rnd[8];
    char hex[17];
    util_random(rnd, sizeof rnd);
    util_hex(hex, rnd, sizeof rnd);
    for (size_t i = 0; i < SIDES; i++) {
        cleanup_free char *path = util_printf("%s%s", w->output, side[i]);
        if (!there(path))
            continue;
        a->name[i] = util_printf("%s.tmp-%s", path, hex); /* a later restore sweeps it if this one is killed */
        if (rename(path, a->name[i]) < 0)
            return err_sys(e, errno, "move %s out of the way", path);
    }
    return 0;
}

static int remove_sides(const struct swap *w, const struct aside *a, struct err *e)
{
    int r = 0;
    for (size_t i = 0; i < SIDES; i++) {
        cleanup_free char *path = util_printf("%s%s", w->output, side[i]);
        int k = fsx_unlink(path, r < 0 ? NULL : e);
        r = r < 0 ? r : k;
        if (a->name[i])
            (void)unlink(a->name[i]);
    }
    return r;
}

static void sweep(const struct swap *w)
{
    for (size_t i = 0; i < SIDES; i++) {
        cleanup_free char *path = util_printf("%s%s", w->output, side[i]);
        (void)restore_sweep(path);
    }
}

static int exchange(const struct swap *w, struct fsx_tmp *t, struct err *e)
{
    cleanup_close int old = -1, held = -1;
    struct aside a = {{NULL}};
    bool aside = false;
    int r = must_not_exist(w, e);
    if (!r)
        r = must_not_be_foreign(w, e);
    if (!r)
        r = must_not_be_used(w, USERS_ANY, e);
    if (!r)
        r = there(w->output) ? settle_old(w, &old, e) : judge_leftovers(w, t->fd, &aside, e);
    if (!r) {
        held = fcntl(t->fd, F_DUPFD_CLOEXEC, 0); /* the lock is the open file's: it outlives t */
        (void)users_lock(t->fd);
        r = held < 0 ? err_sys(e, errno, "hold %s", t->tmp) : aside ? aside_move(w, &a, e) : 0;
    }
    if (!r)
        r = fsx_tmp_publish(t, w->force ? FSX_REPLACE : 0, e);
    if (r < 0)
        aside_back(w, &a);
    else
        r = remove_sides(w, &a, e);
    for (size_t i = 0; i < SIDES; i++)
        free(a.name[i]);
    if (r == 0)
        sweep(w);
    return r;
}

int swap_publish(const struct swap *w, struct fsx_tmp *t, struct err *e)
{
    int r = w->hold ? w->hold->begin(w->hold->arg, e) : 0;
    if (r < 0)
        return r;
    r = exchange(w, t, e);
    if (w->hold)
        w->hold->end(w->hold->arg);
    return r;
}
