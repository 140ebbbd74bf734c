#include "common/base/whose.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>

#include "common/base/util.h"

#define LINKS_MAX 40 /* as the kernel */

struct way {
    int dir;            /* -1: not opened by us, but at `from` */
    int from;
    char *rest;         /* malloc'ed; what is still to be gone */
    unsigned links;
    uid_t by;           /* whose links were followed; 0: only trusted ones */
};

static bool trusted(uid_t uid)
{
    return uid == 0 || uid == geteuid();
}

static int at(const struct way *w)
{
    return w->dir >= 0 ? w->dir : w->from;
}

static void enter(struct way *w, int fd)
{
    if (w->dir >= 0)
        (void)close(w->dir);
    w->dir = fd;
}

static int refuse(struct err *e, const char *name, const char *what, uid_t of, const char *but, uid_t uid)
{
    err_set(e, ERR_PERM, "%s is %s uid %u, %s uid %u", name, what, (unsigned)of, but, (unsigned)uid);
    return err_hint(e, "give both to one owner, or name the file itself in a [db] section");
}

/* A link: what it says comes before the rest. */
static int follow(struct way *w, const char *name, int fd, const struct stat *st, struct err *e)
{
    char to[PATH_MAX];
    ssize_t n = readlinkat(fd, "", to, sizeof to - 1);
    if (n <= 0 || ++w->links > LINKS_MAX)
        return err_sys(e, n < 0 ? errno : ELOOP, "follow %s", name);
    to[n] = '\0';
    if (!trusted(st->st_uid)) {
        if (w->by && w->by != st->st_uid)
            return refuse(e, name, "reached by symbolic links of", w->by, "and one of", st->st_uid);
        w->by = st->st_uid;
    }
    char *rest = w->rest ? util_printf("%s/%s", to, w->rest) : util_strdup(to);
    free(w->rest);
    w->rest = rest;
    if (*to != '/')
        return 0;
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return err_sys(e, errno, "open /");
    enter(w, root);
    return 0;
}

/* The next part of the way: 1 it was the last, whose descriptor is *ret_fd. */
static int go_on(struct way *w, int *ret_fd, struct stat *st, struct err *e)
{
    cleanup_free char *all = w->rest;
    w->rest = NULL;
    const char *name = all + strspn(all, "/");
    char *end = all + (name - all) + strcspn(name, "/");
    const char *rest = end + strspn(end, "/");
    w->rest = *rest ? util_strdup(rest) : NULL;
    *end = '\0';
    cleanup_close int fd = openat(at(w), *name ? name : ".", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, st) < 0)
        return err_sys(e, errno, "look at %s", name);
    if (S_ISLNK(st->st_mode))
        return follow(w, name, fd, st, e);
    if (!w->rest) {
        *ret_fd = TAKE_FD(fd);
        return 1;
    }
    if (!S_ISDIR(st->st_mode))
        return err_sys(e, ENOTDIR, "enter %s", name);
    enter(w, TAKE_FD(fd));
    return 0;
}

static int judge(const struct way *w, const char *path, const struct stat *st, struct err *e)
{
    struct stat dir;
    if (w->by && w->by != st->st_uid)
        return refuse(e, path, "reached by a symbolic link of", w->by, "but belongs to", st->st_uid);
    if (!S_ISREG(st->st_mode) || st->st_nlink == 1)
        return 0;
    if (fstat(at(w), &dir) < 0)
        return err_sys(e, errno, "look at the directory of %s", path);
    return trusted(dir.st_uid) || dir.st_uid == st->st_uid
               ? 0
               : refuse(e, path, "one of several names of a file, in a directory of", dir.st_uid, "but belongs to", st->st_uid);
}

int whose_follow(int dir, const char *path, struct stat *ret, struct err *e)
{
    struct way w = {.dir = -1, .from = dir, .rest = util_strdup(path)};
    int fd = -1, r;
    do
        r = go_on(&w, &fd, ret, e);
    while (r == 0);
    if (r == 1)
        r = judge(&w, path, ret, e);
    if (fd >= 0)
        (void)close(fd);
    enter(&w, -1);
    free(w.rest);
    return r;
}

int whose_below(size_t root_len, const char *path, struct stat *ret, struct err *e)
{
    cleanup_free char *root = util_printf("%.*s/", (int)root_len, path);
    cleanup_close int dir = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return dir < 0 ? err_sys(e, errno, "open %s", root) : whose_follow(dir, path + root_len, ret, e);
}
