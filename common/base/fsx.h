/* fsx.h - files: whole reads and writes, and the one way a file of ours becomes visible.
 * Blocking: worker threads and the tool only. Never used on a database or its -shm. */
#ifndef WALSUP_FSX_H
#define WALSUP_FSX_H

#include <sys/types.h>

#include "common/base/buf.h"
#include "common/base/err.h"

/** struct fsx_tmp: a file being written beside its final name, invisible until published. */
struct fsx_tmp {
    int fd;
    char *path; /* the final name */
    char *tmp;  /* "<path>.tmp-<16 hex>" */
};

#define FSX_TMP_INIT {-1, NULL, NULL}
#define cleanup_fsx_tmp cleanup(fsx_tmp_abort)

enum fsx_flags {
    FSX_REPLACE = 1, /* an existing file is replaced; without it that is ERR_EXISTS */
    FSX_NOSYNC = 2,  /* neither the file nor the directory is synced: loss at a power cut is fine */
};

/** fsx_tmp_open(path, mode, t, e): create the temporary file. */
int fsx_tmp_open(const char *path, mode_t mode, struct fsx_tmp *t, struct err *e);
/** fsx_tmp_publish(t, flags, e): fsync, rename (atomically, never over an existing file unless
 * FSX_REPLACE), fsync of the directory. On failure the temporary file is removed. Either way t
 * is empty afterwards. */
int fsx_tmp_publish(struct fsx_tmp *t, unsigned flags, struct err *e);
/** fsx_tmp_abort(t): close and remove; nothing if t is empty. */
void fsx_tmp_abort(struct fsx_tmp *t);
/** fsx_publish(path, p, n, mode, flags, e): the three above for bytes at hand. */
int fsx_publish(const char *path, const void *p, size_t n, mode_t mode, unsigned flags,
                struct err *e);
/** fsx_is_tmp(name): whether a directory entry is a left-over of fsx_tmp_open. */
bool fsx_is_tmp(const char *name);

/** fsx_write_all(fd, p, n, e), fsx_pread_all(fd, p, n, off, e): all n bytes or an error; a file
 * that ends early is ERR_CORRUPT. Neither names the file: wrap it. */
int fsx_write_all(int fd, const void *p, size_t n, struct err *e);
int fsx_pread_all(int fd, void *p, size_t n, uint64_t off, struct err *e);
/** fsx_read(path, max, b, e): append the whole file to b; larger than max is ERR_CORRUPT. */
int fsx_read(const char *path, size_t max, struct buf *b, struct err *e);
/** fsx_open_own(path, flags, e): open a file in a directory where others may make files: one that
 * only we can have made and can write, which is regular, of our uid, has one name, and no rights
 * for group and others to write. Links are not followed, and nothing blocks. The descriptor;
 * -ERR_PERM: it is none, with what is wrong with it. */
int fsx_open_own(const char *path, int flags, struct err *e);
/** fsx_read_own(path, max, b, e): fsx_read() of such a file. */
int fsx_read_own(const char *path, size_t max, struct buf *b, struct err *e);
/** fsx_room(dir, keep, e): ERR_NOSPC if the file system of dir has less than `keep` bytes free for
 * programs that are not root's. 0 with keep 0, and on a file system that does not tell. */
int fsx_room(const char *dir, uint64_t keep, struct err *e);
/** fsx_mkdirs(path, mode, e): the directory and its parents. */
int fsx_mkdirs(const char *path, mode_t mode, struct err *e);
/** fsx_sync_dir(path, e): fsync a directory. */
int fsx_sync_dir(const char *path, struct err *e);
/** fsx_unlink(path, e): missing is fine. */
int fsx_unlink(const char *path, struct err *e);
/** fsx_list(dir, fn, arg, e): fn(name, arg) for every entry but . and ..; stops at non-zero and
 * returns that. A missing directory is ERR_NOTFOUND. */
int fsx_list(const char *dir, int (*fn)(const char *name, void *arg), void *arg, struct err *e);

#endif
