#include "daemon/capture/session_os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>

#include "common/base/fsx.h"
#include "common/base/util.h"

/* os_unix.c: PENDING_BYTE, RESERVED_BYTE, SHARED_FIRST, SHARED_SIZE; UNIX_SHM_BASE, UNIX_SHM_DMS. wal.c: the read marks
 * are locks 3 to 7, of which 0 is for readers that do not use the WAL. */
#define PENDING_BYTE 0x40000000
#define SHARED_FIRST (PENDING_BYTE + 2)
#define SHARED_SIZE 510
#define SHM_BASE 120
#define SHM_READ_1 4
/* Checkpoint, and after it recovery. Whoever needs a recovery while another is under way, and finds that lock taken, tells his
 * application SQLITE_BUSY; without it he tries again, for up to ten seconds. What keeps two recoveries apart is the write
 * lock. So an application that opens the database while we are the first is not refused. */
#define SHM_CKPT (SHM_BASE + 1)
#define LEASE_TRIES 50 /* whoever gives a lease up when he is asked has done it by then */
#define LEASE_PAUSE_US 4000

static _Thread_local struct os_files *recording;
static _Thread_local struct {
    bool on;
    long answer;
} asking;

static _Thread_local struct {
    bool on, first;
} joining;

/* Why a file was not opened, an errno. After a lease that is not given up SQLite would try once more, and be content
 * with reading. */
static _Thread_local int refused;

static uid_t pretend_root(void)
{
    return 0;
}

static bool ends_with(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && !memcmp(path + n - m, suffix, m);
}

static void note(struct os_files *f, const char *path, int fd)
{
    struct os_file *o = ends_with(path, "-wal") ? &f->wal : ends_with(path, "-shm") ? &f->shm : &f->db;
    struct stat st;
    if (ends_with(path, "-journal") || fstat(fd, &st) < 0 || o->fd >= 0)
        return;
    *o = (struct os_file){.fd = fd, .dev = st.st_dev, .ino = st.st_ino, .path = util_strdup(path)};
}

/* openat(), here and below: SQLite holds its mutex where it opens a -shm, and open() is a step of
 * the explorer's, at which an application of the same process may want that mutex. */

/* Whoever may read a file can have a lease on it, and who opens it meanwhile waits for him, 45 seconds each time. */
static int open_unleased(const char *path, int flags, mode_t mode)
{
    for (unsigned tries = 1; refused != EWOULDBLOCK; tries++) {
        int fd = openat(AT_FDCWD, path, flags | O_NONBLOCK, mode);
        if (fd >= 0 || errno != EWOULDBLOCK || !recording)
            return fd;
        refused = tries == LEASE_TRIES ? EWOULDBLOCK : 0;
        (void)usleep(LEASE_PAUSE_US);
    }
    errno = EWOULDBLOCK;
    return -1;
}

/* A -wal or -shm appears with the owner of the database: SQLite gives it to him after it was made, and an application
 * that opens it before is refused. -1 and ENOENT: there is no such file yet, and the file system or our rights do not let
 * us make one in this way, or somebody else was quicker. */
static int make_side(const char *path, int flags, mode_t mode)
{
    cleanup_free char *db = util_strdup(path), *dir = util_strdup(path);
    char from[40], *slash = strrchr(dir, '/');
    struct stat st;
    db[strlen(db) - strlen("-wal")] = '\0';
    if (slash)
        slash[slash == dir] = '\0';
    cleanup_close int fd = -1;
    if (stat(db, &st) == 0)
        fd = openat(AT_FDCWD, slash ? dir : ".", O_TMPFILE | (flags & O_ACCMODE) | O_CLOEXEC, mode);
    (void)snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    /* in this order: once it is another's, CAP_CHOWN does not let us change the mode */
    if (fd < 0 || fchmod(fd, mode & 0777) < 0 || fchown(fd, st.st_uid, st.st_gid) < 0 ||
        linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0) {
        errno = ENOENT;
        return -1;
    }
    return TAKE_FD(fd);
}

static int os_open(const char *path, int flags, int mode)
{
    bool side = ends_with(path, "-wal") || ends_with(path, "-shm");
    int less = joining.on && side ? O_CREAT : 0;
    int more = recording && side ? O_NOFOLLOW : 0; /* or what a link leads to is written, and read into the replica */
    int fd = open_unleased(path, (flags & ~(less | (more ? O_CREAT : 0))) | more, (mode_t)mode);
    if (fd < 0 && errno == ENOENT && more && !less && flags & O_CREAT) {
        fd = make_side(path, flags, (mode_t)mode);
        if (fd < 0)
            fd = open_unleased(path, flags | more, (mode_t)mode);
    }
    /* it is for SQLite, which knows when it may close it */
    refused = fd < 0 && more && errno == ELOOP ? ELOOP : refused;
    joining.first = joining.first || (fd < 0 && less && errno == ENOENT);
    if (fd >= 0 && recording)
        note(recording, path, fd);
    return fd;
}

static int os_fcntl(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    const struct flock *want = arg;
    if (cmd == F_SETLK && want->l_type == F_WRLCK && want->l_start == SHM_CKPT && want->l_len == 2) {
        struct flock less = *want; /* a recovery of ours: without SHM_CKPT + 1 */
        less.l_len = 1;
        return fcntl(fd, cmd, &less);
    }
    if (joining.on && cmd == F_GETLK && want->l_start == OS_SHM_DMS && want->l_len == 1) {
        int r = fcntl(fd, cmd, arg);
        if (r < 0 || want->l_type != F_UNLCK)
            return r;
        joining.first = true;
        errno = EIO;
        return -1;
    }
    if (!asking.on || cmd != F_SETLK || want->l_type == F_UNLCK)
        return fcntl(fd, cmd, arg);
    struct flock q = *want;
    if (fcntl(fd, F_GETLK, &q) < 0)
        asking.answer = 0;
    else
        asking.answer = q.l_type == F_UNLCK ? -1 : MAX((long)q.l_pid, 0L);
    errno = EAGAIN;
    return -1;
}

int os_setup(struct err *e)
{
    static const struct {
        const char *name;
        sqlite3_syscall_ptr call;
    } calls[] = {{"open", (sqlite3_syscall_ptr)os_open}, {"fcntl", (sqlite3_syscall_ptr)os_fcntl}};
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    if (!vfs || vfs->iVersion < 3 || !vfs->xSetSystemCall)
        return err_set(e, ERR_UNSUPPORTED, "this SQLite has no table of system calls");
    for (size_t i = 0; i < ARRAY_LEN(calls); i++)
        if (vfs->xSetSystemCall(vfs, calls[i].name, calls[i].call) != SQLITE_OK)
            return err_set(e, ERR_UNSUPPORTED, "this SQLite has no system call %s to replace", calls[i].name);
    /* SQLite gives -wal and -shm to the database's owner only if it believes to be root; with
     * CAP_CHOWN that works for our own user as well, and without it nothing changes. */
    if (geteuid() != 0)
        (void)vfs->xSetSystemCall(vfs, "geteuid", (sqlite3_syscall_ptr)pretend_root);
    (void)signal(SIGIO, SIG_IGN); /* somebody opens a file on which os_others_have() has its lease for a moment */
    return 0;
}

struct os_files *os_record(struct os_files *f)
{
    struct os_files *before = recording;
    recording = f;
    refused = f ? 0 : refused;
    return before;
}

int os_refused(void)
{
    int r = refused;
    refused = 0;
    return r;
}

static void fill(struct os_file *f, char *path, const struct stat *st)
{
    *f = (struct os_file){.fd = -1, .dev = st->st_dev, .ino = st->st_ino, .path = path};
}

void os_fill(struct os_files *f, const char *path, const struct stat *db)
{
    char real[PATH_MAX];
    const char *base = realpath(path, real) ? real : path;
    cleanup_free char *shm = util_printf("%s-shm", base);
    struct stat st;
    if (!f->db.path)
        fill(&f->db, util_strdup(base), db);
    if (!f->shm.path && stat(shm, &st) == 0)
        fill(&f->shm, TAKE_PTR(shm), &st);
}

void os_files_done(struct os_files *f)
{
    struct os_file *const all[] = {&f->db, &f->wal, &f->shm};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        free(all[i]->path);
        *all[i] = (struct os_file){.fd = -1};
    }
}

/* ---- locks -------------------------------------------------------------------------------------- */

void os_ask(bool on)
{
    asking.on = on;
    if (on)
        asking.answer = -2;
}

long os_answer(void)
{
    return asking.answer;
}

bool os_join(bool on)
{
    bool first = joining.first;
    joining.on = on;
    joining.first = false;
    return first;
}

long os_lock_holder(int fd, enum os_lock which)
{
    static const struct {
        off_t start, len;
    } range[] = {[OS_LOCK_DB_SHARED] = {SHARED_FIRST, SHARED_SIZE},
                 [OS_LOCK_DB_ANY] = {PENDING_BYTE, 2 + SHARED_SIZE},
                 [OS_LOCK_DB_OWN] = {SHARED_FIRST, SHARED_SIZE},
                 [OS_LOCK_SHM_OPEN] = {OS_SHM_DMS, 1},
                 [OS_LOCK_SHM_READ] = {SHM_BASE + SHM_READ_1, 4}};
    struct flock q = {.l_type = which == OS_LOCK_DB_OWN ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET,
                      .l_start = range[which].start, .l_len = range[which].len};
    if (fd < 0 || fcntl(fd, F_GETLK, &q) < 0 || q.l_type == F_UNLCK)
        return -1;
    return MAX((long)q.l_pid, 0L);
}

/* ---- open files --------------------------------------------------------------------------------- */

/* A lease is granted only to somebody who has the file for himself. It is given back at once; whoever opens the file
 * in between waits for that moment. */
static int leased(int fd, int type)
{
    if (fcntl(fd, F_SETLEASE, type) == 0) {
        (void)fcntl(fd, F_SETLEASE, F_UNLCK);
        return 0;
    }
    return errno == EAGAIN ? 1 : -1;
}

int os_others_have(const struct os_file *f)
{
    return f->fd < 0 ? -1 : leased(f->fd, F_WRLCK);
}

/* Under the mutex a file that is not claimed stays so, and is opened and closed without harm to anybody. */
static pthread_mutex_t claims = PTHREAD_MUTEX_INITIALIZER;
static struct {
    struct os_id id;
    unsigned n;
} *claim;
static size_t n_claims, cap_claims;

static size_t find_claim(struct os_id id)
{
    size_t i = 0;
    while (i < n_claims && (claim[i].id.dev != id.dev || claim[i].id.ino != id.ino))
        i++;
    return i;
}

void os_claim(struct os_id id)
{
    (void)pthread_mutex_lock(&claims);
    size_t i = find_claim(id);
    if (i == n_claims) {
        if (n_claims == cap_claims) {
            cap_claims = cap_claims ? 2 * cap_claims : 16;
            claim = util_realloc(claim, cap_claims * sizeof *claim);
        }
        claim[n_claims].id = id;
        claim[n_claims++].n = 0;
    }
    claim[i].n++;
    (void)pthread_mutex_unlock(&claims);
}

void os_unclaim(struct os_id id)
{
    (void)pthread_mutex_lock(&claims);
    size_t i = find_claim(id);
    if (i < n_claims && !--claim[i].n)
        claim[i] = claim[--n_claims];
    (void)pthread_mutex_unlock(&claims);
}

static bool claimed(const char *path)
{
    struct stat st;
    return stat(path, &st) < 0 || find_claim((struct os_id){st.st_dev, st.st_ino}) < n_claims;
}

int os_being_written(const char *path)
{
    int r = -1;
    (void)pthread_mutex_lock(&claims);
    if (!claimed(path)) {
        cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
        r = fd < 0 ? -1 : leased(fd, F_RDLCK);
    }
    (void)pthread_mutex_unlock(&claims);
    return r;
}

static long holder_of(const char *path, const char *shm)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    cleanup_close int shm_fd = open(shm, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    long pid = os_lock_holder(fd, OS_LOCK_DB_ANY);
    return pid >= 0 ? pid : os_lock_holder(shm_fd, OS_LOCK_SHM_OPEN);
}

static bool read_without_index(const char *path, const char *shm)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (os_lock_holder(fd, OS_LOCK_DB_SHARED) < 0)
        return false;
    cleanup_close int shm_fd = open(shm, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    return os_lock_holder(shm_fd, OS_LOCK_SHM_OPEN) < 0;
}

long os_holder_of(const char *path)
{
    char real[PATH_MAX];
    if (!realpath(path, real)) /* the -shm lies beside the file that a symbolic link leads to */
        return -1;
    cleanup_free char *shm = util_printf("%s-shm", real);
    (void)pthread_mutex_lock(&claims);
    long pid = claimed(real) ? 0 : holder_of(real, shm);
    (void)pthread_mutex_unlock(&claims);
    return pid;
}

bool os_elsewhere(const char *path)
{
    char real[PATH_MAX];
    if (!realpath(path, real))
        return false;
    cleanup_free char *shm = util_printf("%s-shm", real);
    (void)pthread_mutex_lock(&claims);
    bool ret = !claimed(real) && read_without_index(real, shm);
    (void)pthread_mutex_unlock(&claims);
    return ret;
}

bool os_same(const struct os_file *f)
{
    struct stat st;
    return f->path && stat(f->path, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino;
}

const char *os_command(long pid, char *buf, size_t n)
{
    char path[64];
    cleanup_buf struct buf b = BUF_INIT;
    *buf = '\0';
    if (pid <= 0)
        return buf;
    (void)snprintf(path, sizeof path, "/proc/%ld/comm", pid);
    bool known = fsx_read(path, 64, &b, NULL) == 0 && b.len > 1;
    (void)snprintf(buf, n, known ? " (pid %ld, %.*s)" : " (pid %ld)", pid, known ? (int)b.len - 1 : 0,
                   known ? (const char *)b.p : "");
    return buf;
}
