#include "daemon/capture/session_dms.h"

#include <fcntl.h>
#include <pthread.h>

#include "common/base/util.h"

struct dms {
    struct dms *next;
    dev_t dev;
    ino_t ino;
    int fd;
    unsigned sessions;
    bool replaced;       /* SQLite has closed that descriptor, and opened the file again for another session */
    pthread_mutex_t mutex; /* of what follows */
    unsigned users;
    off_t size; /* when it was let go: as much of it may be mapped here */
};

static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;
static struct dms *all;

static struct dms **find(dev_t dev, ino_t ino)
{
    struct dms **d = &all;
    while (*d && ((*d)->dev != dev || (*d)->ino != ino))
        d = &(*d)->next;
    return d;
}

static int lock(const struct dms *d, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = OS_SHM_DMS, .l_len = 1};
    return fcntl(d->fd, F_SETLK, &l);
}

/* Somebody has made a new wal-index meanwhile, which may be shorter. What is mapped beyond its end is not memory. */
static bool whole(const struct dms *d)
{
    struct stat st;
    return fstat(d->fd, &st) == 0 && (st.st_size >= d->size || fallocate(d->fd, 0, 0, d->size) == 0);
}

bool dms_hold(struct dms *d)
{
    if (!d)
        return true;
    (void)pthread_mutex_lock(&d->mutex);
    bool held = d->users || lock(d, F_RDLCK) == 0;
    if (held && !d->users && !whole(d)) {
        (void)lock(d, F_UNLCK);
        held = false;
    }
    d->users += held;
    (void)pthread_mutex_unlock(&d->mutex);
    return held;
}

void dms_let_go(struct dms *d)
{
    struct stat st;
    if (!d)
        return;
    (void)pthread_mutex_lock(&d->mutex);
    if (!--d->users && fstat(d->fd, &st) == 0) {
        d->size = st.st_size;
        (void)lock(d, F_UNLCK);
    }
    (void)pthread_mutex_unlock(&d->mutex);
}

struct dms *dms_join(const struct os_file *shm)
{
    if (!shm->ino)
        return NULL;
    (void)pthread_mutex_lock(&table);
    struct dms **at = find(shm->dev, shm->ino), *d = *at;
    if (d && shm->fd >= 0) { /* the last of its sessions is about to leave */
        d->replaced = true;
        *at = d->next;
        d = NULL;
    }
    if (!d && shm->fd >= 0) {
        d = util_zalloc(sizeof *d);
        *d = (struct dms){.next = all, .dev = shm->dev, .ino = shm->ino, .fd = shm->fd, .mutex = PTHREAD_MUTEX_INITIALIZER};
        all = d;
    }
    if (d)
        d->sessions++;
    (void)pthread_mutex_unlock(&table);
    if (d && shm->fd >= 0) {
        d->users = 1; /* SQLite */
        dms_let_go(d);
    }
    return d;
}

struct dms *dms_leave(struct dms *d)
{
    if (!d)
        return NULL;
    (void)pthread_mutex_lock(&table);
    bool last = !--d->sessions;
    if (last && !d->replaced)
        *find(d->dev, d->ino) = d->next;
    (void)pthread_mutex_unlock(&table);
    if (last) {
        (void)pthread_mutex_destroy(&d->mutex);
        free(d);
    }
    return NULL;
}
