/* wraps.c - walsup's own file operations, its looks at the wal-index, its clocks: what the linker
 * sends here (STEP_WRAPS in tests/engines.mk). */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <time.h>

#include "daemon/capture/session.h"
#include "tests/explorer/steps.h"

int __real_open(const char *path, int flags, ...);
ssize_t __real_write(int fd, const void *p, size_t n);
int __real_fsync(int fd);
int __real_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
int __real_unlink(const char *path);
int __real_mkdir(const char *path, mode_t mode);
int __real_session_index(struct session *s, struct session_index *ret, struct err *e);
uint64_t __real_clk_mono_ms(void);
uint64_t __real_clk_mono_us(void);

int __wrap_open(const char *path, int flags, ...);
ssize_t __wrap_write(int fd, const void *p, size_t n);
int __wrap_fsync(int fd);
int __wrap_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
int __wrap_unlink(const char *path);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_session_index(struct session *s, struct session_index *ret, struct err *e);
uint64_t __wrap_clk_mono_ms(void);
uint64_t __wrap_clk_mono_us(void);
int __wrap_nanosleep(const struct timespec *t, struct timespec *rest);
int64_t __real_clk_real_ms(void);
int64_t __wrap_clk_real_ms(void);
int __real_usleep(useconds_t us);
int __wrap_usleep(useconds_t us);

int steps_fd;
bool steps_fsync_lies;

int __wrap_open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return steps_at(flags & O_CREAT ? "open to create" : "open") ? -1 : __real_open(path, flags, mode);
}

/* Half of it is written before a write fails, as on a disk that becomes full. */
ssize_t __wrap_write(int fd, const void *p, size_t n)
{
    steps_fd = fd;
    int r = steps_at("write");
    if (!r)
        return __real_write(fd, p, n);
    (void)!__real_write(fd, p, n / 2);
    errno = r;
    return -1;
}

int __wrap_fsync(int fd)
{
    steps_fd = fd;
    int r = steps_at("fsync");
    if (steps_fsync_lies)
        return 0;
    return r ? -1 : __real_fsync(fd);
}

int __wrap_renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    return steps_at("rename") ? -1 : __real_renameat2(from_dir, from, to_dir, to, flags);
}

int __wrap_unlink(const char *path)
{
    return steps_at("unlink") ? -1 : __real_unlink(path);
}

int __wrap_mkdir(const char *path, mode_t mode)
{
    return steps_at("mkdir") ? -1 : __real_mkdir(path, mode);
}

/* Before and after: what changes the WAL between a look at it and the next call belongs here. */
int __wrap_session_index(struct session *s, struct session_index *ret, struct err *e)
{
    (void)steps_at("look at the wal-index");
    int r = __real_session_index(s, ret, e);
    (void)steps_at("wal-index seen");
    return r;
}

static uint64_t slept_us;

uint64_t __wrap_clk_mono_us(void)
{
    return __real_clk_mono_us() + slept_us;
}

uint64_t __wrap_clk_mono_ms(void)
{
    return __wrap_clk_mono_us() / 1000;
}

int __wrap_nanosleep(const struct timespec *t, struct timespec *rest)
{
    (void)rest;
    slept_us += (uint64_t)t->tv_sec * 1000000 + (uint64_t)t->tv_nsec / 1000;
    return 0;
}

/* usleep() waits for the file system's clock to get ahead of the last change of a file. That clock is
 * not ours to move, but it ticks at least every 10 ms. */
enum { TICK_US = 11000 };

static int64_t ahead_ms;

void steps_clock_reset(void)
{
    ahead_ms = 0;
}

int64_t __wrap_clk_real_ms(void)
{
    return __real_clk_real_ms() + ahead_ms;
}

int __wrap_usleep(useconds_t us)
{
    ahead_ms += us > TICK_US ? (us - TICK_US) / 1000 : 0;
    return __real_usleep(MIN(us, (useconds_t)TICK_US));
}
