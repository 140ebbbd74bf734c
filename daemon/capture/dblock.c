#include "daemon/capture/dblock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/format/crc64.h"

#define LOCK_FILE "/run/lock/walsup.databases"

static int lock_fd = -1; /* for as long as the process lives: closing it would drop every lock */

int dblock_setup(struct err *e)
{
    const char *path = getenv("WALSUP_TEST_LOCK_FILE");
    path = path ? path : LOCK_FILE;
    /* first without O_CREAT: in a sticky directory the kernel refuses that for another user's file */
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        (void)err_sys(e, errno, "open %s", path);
        return err_hint(e, "a second walsupd on the same database would not be noticed; allow writing to %s", path);
    }
    lock_fd = fd;
    return 0;
}

/* 62 bits of a checksum: with a million databases the chance that two meet is one in nine million */
static struct flock byte_of(dev_t dev, ino_t ino, short type)
{
    const uint64_t id[2] = {dev, ino};
    return (struct flock){.l_type = type, .l_whence = SEEK_SET,
                          .l_start = (off_t)(crc64(0, (const uint8_t *)id, sizeof id) >> 2), .l_len = 1};
}

/* The kernel does not count: what one source of this process drops may be another's by now, after a
 * reload. */
static struct held {
    dev_t dev;
    ino_t ino;
    unsigned n;
} *held;
static size_t n_held, cap_held;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static struct held *find(dev_t dev, ino_t ino)
{
    for (size_t i = 0; i < n_held; i++)
        if (held[i].ino == ino && held[i].dev == dev)
            return &held[i];
    return NULL;
}

static void remember(dev_t dev, ino_t ino)
{
    if (n_held == cap_held) {
        cap_held = cap_held ? cap_held * 2 : 16;
        held = util_realloc(held, cap_held * sizeof *held);
    }
    held[n_held++] = (struct held){dev, ino, 1};
}

static int refused(struct flock *who, const char *path, struct err *e)
{
    long pid = fcntl(lock_fd, F_GETLK, who) == 0 && who->l_type != F_UNLCK ? (long)who->l_pid : 0;
    (void)err_set(e, ERR_BUSY, "another walsupd replicates %s already (process %ld)", path, pid);
    return err_hint(e, "stop it, or take the database out of one of the two configurations");
}

int dblock_take(dev_t dev, ino_t ino, const char *path, struct err *e)
{
    struct flock l = byte_of(dev, ino, F_WRLCK);
    int r = 0;
    (void)pthread_mutex_lock(&mutex);
    struct held *h = find(dev, ino);
    if (h)
        h->n++;
    else if (lock_fd < 0 || fcntl(lock_fd, F_SETLK, &l) == 0)
        remember(dev, ino);
    else if (errno == EACCES || errno == EAGAIN)
        r = refused(&l, path, e);
    else
        r = err_sys(e, errno, "lock for %s", path);
    (void)pthread_mutex_unlock(&mutex);
    return r;
}

void dblock_drop(dev_t dev, ino_t ino)
{
    (void)pthread_mutex_lock(&mutex);
    struct held *h = find(dev, ino);
    if (h && --h->n == 0) {
        struct flock l = byte_of(dev, ino, F_UNLCK);
        if (lock_fd >= 0)
            (void)fcntl(lock_fd, F_SETLK, &l);
        *h = held[--n_held];
    }
    (void)pthread_mutex_unlock(&mutex);
}
