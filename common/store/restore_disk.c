#include "common/store/restore_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define OPEN_TRIES 8

static char *dir_of(const char *path)
{
    cleanup_free char *copy = util_strdup(path);
    return util_strdup(dirname(copy));
}

/* ---- room ----------------------------------------------------------------------------------- */

/* Where the file system of the output's directory is mounted, for people. */
static char *mount_point(const char *output)
{
    cleanup_free char *dir = dir_of(output);
    char *at = realpath(dir, NULL);
    struct stat st, up;
    if (!at || stat(at, &st) < 0) {
        free(at);
        return TAKE_PTR(dir);
    }
    while (strcmp(at, "/") != 0) {
        char *parent = dir_of(at);
        if (stat(parent, &up) < 0 || up.st_dev != st.st_dev) {
            free(parent);
            break;
        }
        free(at);
        at = parent;
    }
    return at;
}

static bool free_bytes(const char *output, uint64_t *ret)
{
    cleanup_free char *dir = dir_of(output);
    struct statvfs v;
    if (statvfs(dir, &v) < 0 || !v.f_blocks)
        return false;
    *ret = (uint64_t)(geteuid() == 0 ? v.f_bfree : v.f_bavail) * v.f_frsize;
    return true;
}

static char *sentence(const char *output, const struct restore_need *need, uint64_t room)
{
    char total[32], database[32], fetched[32], left[32];
    cleanup_free char *at = mount_point(output);
    if (!need->database)
        return util_printf("%s needs more than %s in the file system mounted at %s, which has %s "
                           "free", output, util_size(total, need->fetched), at,
                           util_size(left, room + need->there));
    if (!need->fetched)
        return util_printf("%s needs %s for the database in the file system mounted at %s, which has %s "
                           "free", output, util_size(database, need->database), at,
                           util_size(left, room + need->there));
    return util_printf("%s needs %s in the file system mounted at %s (%s for the database and, "
                       "until it is done, %s for the fetched files), which has %s free",
                       output, util_size(total, need->database + need->fetched), at,
                       util_size(database, need->database), util_size(fetched, need->fetched),
                       util_size(left, room + need->there));
}

static int hint(struct err *e)
{
    return err_hint(e, "make room there, or restore to another file system with -o");
}

int restore_room(const char *output, const struct restore_need *need, struct err *e)
{
    uint64_t room;
    if (!free_bytes(output, &room) || need->database + need->fetched <= room + need->there)
        return 0;
    cleanup_free char *text = sentence(output, need, room);
    (void)err_sys(e, ENOSPC, "%s", text);
    return hint(e);
}

int restore_no_room(const char *output, const struct restore_need *need, struct err *e)
{
    uint64_t room;
    if (!free_bytes(output, &room))
        return -(int)e->code;
    cleanup_free char *text = sentence(output, need, room);
    (void)err_wrap(e, "%s", text);
    return hint(e);
}

/* ---- temporary files ------------------------------------------------------------------------ */

int restore_tmp_open(const char *output, struct fsx_tmp *t, struct err *e)
{
    for (unsigned i = 0; i < OPEN_TRIES; i++) {
        struct stat st;
        int r = fsx_tmp_open(output, 0600, t, e);
        if (r < 0)
            return r;
        /* where locks do not work, nobody sweeps either */
        bool swept = flock(t->fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
        if (!swept && (fstat(t->fd, &st) < 0 || st.st_nlink > 0))
            return 0;
        fsx_tmp_abort(t);
    }
    return err_set(e, ERR_BUSY, "other restores to %s keep removing the temporary file", output);
}

struct sweep {
    const char *dir, *base;
    unsigned removed;
};

static int sweep_one(const char *name, void *arg)
{
    struct sweep *s = arg;
    size_t n = strlen(s->base);
    /* "<base>.tmp-<16 hex>" and nothing else */
    if (strncmp(name, s->base, n) != 0 || strlen(name) != n + strlen(".tmp-") + 16 ||
        name[n] != '.' || !fsx_is_tmp(name))
        return 0;
    cleanup_free char *path = util_printf("%s/%s", s->dir, name);
    struct stat st, there;
    cleanup_close int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return 0;
    /* published or removed since it was opened: then the name is another file's, or nobody's */
    if (lstat(path, &there) == 0 && there.st_dev == st.st_dev && there.st_ino == st.st_ino &&
        unlink(path) == 0)
        s->removed++;
    return 0;
}

unsigned restore_sweep(const char *output)
{
    struct err e = {0};
    cleanup_free char *dir = dir_of(output), *copy = util_strdup(output);
    struct sweep s = {dir, basename(copy), 0};
    (void)fsx_list(dir, sweep_one, &s, &e);
    return s.removed;
}
