#include "common/base/fsx.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/base/beat.h"

#define TMP_MARK ".tmp-"

static void tmp_clear(struct fsx_tmp *t)
{
    if (t->fd >= 0)
        (void)close(t->fd);
    free(t->path);
    free(t->tmp);
    *t = (struct fsx_tmp)FSX_TMP_INIT;
}

int fsx_tmp_open(const char *path, mode_t mode, struct fsx_tmp *t, struct err *e)
{
    uint8_t rnd[8];
    char hex[17];
    util_random(rnd, sizeof rnd);
    util_hex(hex, rnd, sizeof rnd);
    cleanup_free char *tmp = util_printf("%s" TMP_MARK "%s", path, hex);
    int fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return err_sys(e, errno, "create %s", tmp);
    *t = (struct fsx_tmp){fd, util_strdup(path), TAKE_PTR(tmp)};
    return 0;
}

void fsx_tmp_abort(struct fsx_tmp *t)
{
    if (t->tmp)
        (void)unlink(t->tmp);
    tmp_clear(t);
}

static int sync_parked(int fd)
{
    beat_park(true); /* a slow disk is no hung worker */
    int r = fsync(fd);
    beat_park(false);
    return r;
}

static int publish(struct fsx_tmp *t, unsigned flags, struct err *e)
{
    bool sync = !(flags & FSX_NOSYNC);
    if (sync && sync_parked(t->fd) < 0)
        return err_sys(e, errno, "fsync %s", t->tmp);
    if (renameat2(AT_FDCWD, t->tmp, AT_FDCWD, t->path,
                  flags & FSX_REPLACE ? 0 : RENAME_NOREPLACE) < 0) {
        /* some file systems lack RENAME_NOREPLACE: link() refuses an existing name as well */
        if (errno != EINVAL || flags & FSX_REPLACE || link(t->tmp, t->path) < 0)
            return err_sys(e, errno, "rename %s to %s", t->tmp, t->path);
        (void)unlink(t->tmp);
    }
    if (!sync)
        return 0;
    cleanup_free char *copy = util_strdup(t->path);
    return fsx_sync_dir(dirname(copy), e);
}

int fsx_tmp_publish(struct fsx_tmp *t, unsigned flags, struct err *e)
{
    int r = publish(t, flags, e);
    if (r < 0)
        (void)unlink(t->tmp);
    tmp_clear(t);
    return r;
}

int fsx_publish(const char *path, const void *p, size_t n, mode_t mode, unsigned flags,
                struct err *e)
{
    cleanup_fsx_tmp struct fsx_tmp t = FSX_TMP_INIT;
    int r = fsx_tmp_open(path, mode, &t, e);
    if (r < 0)
        return r;
    r = fsx_write_all(t.fd, p, n, e);
    if (r < 0)
        return err_wrap(e, "write %s", t.tmp);
    return fsx_tmp_publish(&t, flags, e);
}

bool fsx_is_tmp(const char *name)
{
    const char *mark = NULL;
    for (const char *p = strstr(name, TMP_MARK); p; p = strstr(p + 1, TMP_MARK))
        mark = p;
    if (!mark)
        return false;
    const char *hex = mark + strlen(TMP_MARK);
    return strlen(hex) == 16 && strspn(hex, "0123456789abcdef") == 16;
}

int fsx_write_all(int fd, const void *p, size_t n, struct err *e)
{
    const uint8_t *b = p;
    while (n) {
        beat_step();
        ssize_t put = write(fd, b, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_sys(e, errno, "write of %zu bytes", n);
        b += put;
        n -= (size_t)put;
    }
    return 0;
}

int fsx_pread_all(int fd, void *p, size_t n, uint64_t off, struct err *e)
{
    uint8_t *b = p;
    while (n) {
        beat_step();
        ssize_t got = pread(fd, b, n, (off_t)off);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_sys(e, errno, "read of %zu bytes at %llu", n, (unsigned long long)off);
        if (!got)
            return err_set(e, ERR_CORRUPT, "file ends at %llu, %zu bytes early",
                           (unsigned long long)off, n);
        b += got;
        n -= (size_t)got;
        off += (uint64_t)got;
    }
    return 0;
}

static int read_all(int fd, const char *path, size_t max, struct buf *b, struct err *e)
{
    size_t start = b->len;
    for (;;) {
        uint8_t *to = buf_reserve(b, 65536);
        if (!to)
            return err_set(e, ERR_NOMEM, "no memory to read %s", path);
        ssize_t got = read(fd, to, 65536);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_sys(e, errno, "read %s", path);
        if (!got)
            return 0;
        b->len += (size_t)got;
        if (b->len - start > max)
            return err_set(e, ERR_CORRUPT, "%s is larger than the %zu bytes allowed", path, max);
    }
}

int fsx_read(const char *path, size_t max, struct buf *b, struct err *e)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? err_sys(e, errno, "open %s", path) : read_all(fd, path, max, b, e);
}

int fsx_open_own(const char *path, int flags, struct err *e)
{
    struct stat st;
    cleanup_close int fd = open(path, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && (errno == ELOOP || errno == ENXIO))
        return err_set(e, ERR_PERM, "%s is no regular file", path);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, errno, "open %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_PERM, "%s is no regular file", path);
    if (st.st_uid != geteuid())
        return err_set(e, ERR_PERM, "%s belongs to uid %u", path, (unsigned)st.st_uid);
    if (st.st_nlink != 1)
        return err_set(e, ERR_PERM, "%s has %u names", path, (unsigned)st.st_nlink);
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        return err_set(e, ERR_PERM, "%s can be written by others", path);
    return TAKE_FD(fd);
}

int fsx_read_own(const char *path, size_t max, struct buf *b, struct err *e)
{
    cleanup_close int fd = fsx_open_own(path, O_RDONLY, e);
    return fd < 0 ? fd : read_all(fd, path, max, b, e);
}

int fsx_mkdirs(const char *path, mode_t mode, struct err *e)
{
    cleanup_free char *p = util_strdup(path);
    for (char *s = p + 1;; s++) {
        if (*s && *s != '/')
            continue;
        char c = *s;
        *s = '\0';
        if (mkdir(p, mode) < 0 && errno != EEXIST)
            return err_sys(e, errno, "create directory %s", p);
        *s = c;
        if (!c)
            break;
    }
    struct stat st;
    if (stat(path, &st) < 0)
        return err_sys(e, errno, "stat %s", path);
    if (!S_ISDIR(st.st_mode))
        return err_set(e, ERR_IO, "%s exists and is not a directory", path);
    return 0;
}

int fsx_sync_dir(const char *path, struct err *e)
{
    cleanup_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "open directory %s", path);
    if (sync_parked(fd) < 0)
        return err_sys(e, errno, "fsync directory %s", path);
    return 0;
}

int fsx_unlink(const char *path, struct err *e)
{
    if (unlink(path) < 0 && errno != ENOENT)
        return err_sys(e, errno, "remove %s", path);
    return 0;
}

int fsx_room(const char *dir, uint64_t keep, struct err *e)
{
    struct statvfs v;
    if (!keep || statvfs(dir, &v) < 0 || (uint64_t)v.f_bavail * v.f_frsize >= keep)
        return 0;
    char have[32], want[32];
    err_set(e, ERR_NOSPC, "the file system of %s has %s free, and %s are kept free", dir,
            util_size(have, (uint64_t)v.f_bavail * v.f_frsize), util_size(want, keep));
    return err_hint(e, "make room there, or lower min-free");
}

static void closedirp(DIR **d)
{
    if (*d)
        (void)closedir(*d);
}

int fsx_list(const char *dir, int (*fn)(const char *name, void *arg), void *arg, struct err *e)
{
    cleanup(closedirp) DIR *d = opendir(dir);
    if (!d)
        return err_sys(e, errno, "open directory %s", dir);
    for (;;) {
        errno = 0;
        struct dirent *ent = readdir(d);
        if (!ent)
            return errno ? err_sys(e, errno, "read directory %s", dir) : 0;
        if (!strcmp(ent->d_name, ".") || !strcmp(ent->d_name, ".."))
            continue;
        int r = fn(ent->d_name, arg);
        if (r)
            return r;
    }
}
