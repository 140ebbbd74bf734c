/* loop_guard - loaded into walsupd by LD_PRELOAD: the thread that runs the loop may not touch a disk (daemon/DESIGN.md,
 * I3). A call that may wait for a file system, made by that thread while the loop runs, is written to the standard
 * error, and ends the process; LOOP_GUARD=FILE only writes it there. What is no disk may be asked for: /dev, /proc, /sys.
 * LOOP_GUARD_CONTROL has the loop make such a call. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static bool running;
static int fd = 2;

static void look(const char *call, const char *path)
{
    if (!running || gettid() != getpid())
        return;
    if (path && (!strncmp(path, "/dev/", 5) || !strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5)))
        return;
    void *at[20];
    running = false;
    (void)dprintf(fd, "loop_guard: the loop calls %s(%s)\n", call, path ? path : "");
    backtrace_symbols_fd(at, backtrace(at, 20), fd);
    running = true;
    if (fd == 2)
        abort();
}

/* before it is confined */
__attribute__((constructor)) static void begin(void)
{
    const char *file = getenv("LOOP_GUARD");
    int f = file ? (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    fd = f >= 0 ? fcntl(f, F_DUPFD_CLOEXEC, 500) : 2;
}

int uv_run(void *loop, int mode);
int uv_run(void *loop, int mode)
{
    int (*real)(void *, int) = (int (*)(void *, int))dlsym(RTLD_NEXT, "uv_run");
    running = mode == 0 && !strcmp(program_invocation_short_name, "walsupd"); /* UV_RUN_DEFAULT */
    int r = real(loop, mode);
    running = false;
    return r;
}

#define GUARD(type, name, params, args, path)                      \
    type name params;                                              \
    type name params                                               \
    {                                                              \
        static type(*real) params;                                 \
        if (!real)                                                 \
            real = (type(*) params)dlsym(RTLD_NEXT, #name);        \
        look(#name, path);                                         \
        return real args;                                          \
    }

GUARD(int, stat, (const char *p, struct stat *st), (p, st), p)
GUARD(int, lstat, (const char *p, struct stat *st), (p, st), p)
GUARD(int, fstatat, (int d, const char *p, struct stat *st, int f), (d, p, st, f), p)
GUARD(int, statvfs, (const char *p, struct statvfs *st), (p, st), p)
GUARD(int, access, (const char *p, int m), (p, m), p)
GUARD(int, faccessat, (int d, const char *p, int m, int f), (d, p, m, f), p)
GUARD(int, unlink, (const char *p), (p), p)
GUARD(int, unlinkat, (int d, const char *p, int f), (d, p, f), p)
GUARD(int, rename, (const char *p, const char *q), (p, q), p)
GUARD(int, renameat2, (int d, const char *p, int e, const char *q, unsigned f), (d, p, e, q, f), p)
GUARD(int, link, (const char *p, const char *q), (p, q), p)
GUARD(int, mkdir, (const char *p, mode_t m), (p, m), p)
GUARD(int, chmod, (const char *p, mode_t m), (p, m), p)
GUARD(int, truncate, (const char *p, off_t n), (p, n), p)
GUARD(char *, realpath, (const char *p, char *r), (p, r), p)
GUARD(char *, __realpath_chk, (const char *p, char *r, size_t n), (p, r, n), p)
GUARD(ssize_t, readlink, (const char *p, char *b, size_t n), (p, b, n), p)
GUARD(DIR *, opendir, (const char *p), (p), p)
GUARD(FILE *, fopen, (const char *p, const char *m), (p, m), p)
GUARD(FILE *, fopen64, (const char *p, const char *m), (p, m), p)
GUARD(int, inotify_add_watch, (int fd, const char *p, uint32_t m), (fd, p, m), p)
GUARD(int, fsync, (int fd), (fd), NULL)
GUARD(int, fdatasync, (int fd), (fd), NULL)
GUARD(ssize_t, pread, (int fd, void *b, size_t n, off_t o), (fd, b, n, o), NULL)
GUARD(ssize_t, pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), NULL)
GUARD(int, ftruncate, (int fd, off_t n), (fd, n), NULL)
GUARD(int, __open_2, (const char *p, int f), (p, f), p)
GUARD(int, __open64_2, (const char *p, int f), (p, f), p)

/* which the loop calls all the time */
int clock_gettime(clockid_t clock, struct timespec *ret)
{
    static bool done;
    if (running && !done && getenv("LOOP_GUARD_CONTROL")) {
        done = true;
        (void)access("/somewhere/on/a/disk", F_OK);
    }
    return (int)syscall(SYS_clock_gettime, clock, ret);
}

#define GUARD_OPEN(name)                                                             \
    int name(const char *p, int f, ...);                                             \
    int name(const char *p, int f, ...)                                              \
    {                                                                                \
        static int (*real)(const char *, int, ...);                                  \
        va_list ap;                                                                  \
        va_start(ap, f);                                                             \
        mode_t m = f & (O_CREAT | __O_TMPFILE) ? (mode_t)va_arg(ap, int) : 0;        \
        va_end(ap);                                                                  \
        if (!real)                                                                   \
            real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);         \
        look(#name, p);                                                              \
        return real(p, f, m);                                                        \
    }
#define GUARD_OPENAT(name)                                                           \
    int name(int d, const char *p, int f, ...);                                      \
    int name(int d, const char *p, int f, ...)                                       \
    {                                                                                \
        static int (*real)(int, const char *, int, ...);                             \
        va_list ap;                                                                  \
        va_start(ap, f);                                                             \
        mode_t m = f & (O_CREAT | __O_TMPFILE) ? (mode_t)va_arg(ap, int) : 0;        \
        va_end(ap);                                                                  \
        if (!real)                                                                   \
            real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name);    \
        look(#name, p);                                                              \
        return real(d, p, f, m);                                                     \
    }
GUARD_OPEN(open)
GUARD_OPEN(open64)
GUARD_OPENAT(openat)
GUARD_OPENAT(openat64)
