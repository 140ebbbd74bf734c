#include "common/store/restore_users.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/base/fsx.h"

/* where SQLite locks: the database from PENDING_BYTE to the end of the shared range, the -shm from
 * WAL_WRITE_LOCK to the dead man's switch */
#define DB_LOCK_OFF 0x40000000
#define DB_LOCK_LEN 512
#define SHM_LOCK_OFF 120
#define SHM_LOCK_LEN 9

static const char *const part[] = {"", "-wal", "-shm"};
#define PARTS ARRAY_LEN(part)

struct search {
    enum users_except except;
    struct stat file[PARTS];
    bool there[PARTS];
    char *ret;
};

static bool comm_of(long pid, char comm[static 64])
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%ld/comm", pid);
    cleanup_buf struct buf b = BUF_INIT;
    if (fsx_read(path, 63, &b, NULL) < 0)
        return false;
    (void)snprintf(comm, 64, "%s", buf_str(&b));
    comm[strcspn(comm, "\n")] = 0;
    (void)util_plain(comm);
    return true;
}

static bool found(struct search *s, long pid)
{
    char comm[64] = "";
    if (pid == getpid())
        return false;
    if (pid <= 0) { /* of an open file rather than a process, or in another pid namespace */
        (void)snprintf(s->ret, USERS_TEXT, "a process that cannot be named from here");
        return true;
    }
    bool named = comm_of(pid, comm);
    if (named && s->except == USERS_BUT_WALSUPD && !strcmp(comm, "walsupd"))
        return false;
    (void)snprintf(s->ret, USERS_TEXT, "%s (pid %ld)", named ? comm : "a process", pid);
    return true;
}

/* Asks the kernel, which always knows, but tells of one holder only. */
static bool by_getlk(struct search *s, const char *path, off_t off, off_t len)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = off, .l_len = len};
    if (fd < 0 || fcntl(fd, F_OFD_GETLK, &l) < 0 || l.l_type == F_UNLCK)
        return false;
    return found(s, l.l_pid);
}

static bool is_one(const struct search *s, dev_t dev, ino_t ino)
{
    for (size_t i = 0; i < PARTS; i++)
        if (s->there[i] && s->file[i].st_ino == ino && s->file[i].st_dev == dev)
            return true;
    return false;
}

/* "1: POSIX  ADVISORY  READ 1234 08:01:5678 128 128"; the device is another one on some file systems (btrfs),
 * which the descriptors make up for */
static bool by_locks(struct search *s)
{
    char line[256];
    cleanup_file FILE *f = fopen("/proc/locks", "re");
    while (f && fgets(line, sizeof line, f)) {
        long pid;
        unsigned major, minor;
        unsigned long ino;
        if (sscanf(line, "%*s %*s %*s %*s %ld %x:%x:%lu", &pid, &major, &minor, &ino) == 4 &&
            is_one(s, makedev(major, minor), ino) && found(s, pid))
            return true;
    }
    return false;
}

static bool for_writing(long pid, const char *fd)
{
    char line[64];
    unsigned flags = 0;
    cleanup_free char *path = util_printf("/proc/%ld/fdinfo/%s", pid, fd);
    cleanup_file FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "flags: %o", &flags) == 1)
            return (flags & O_ACCMODE) != O_RDONLY;
    return false;
}

static bool has_open(const struct search *s, long pid)
{
    cleanup_free char *path = util_printf("/proc/%ld/fd", pid);
    DIR *d = opendir(path);
    bool yes = false;
    struct dirent *entry;
    while (d && !yes && (entry = readdir(d))) {
        struct stat st;
        yes = *entry->d_name != '.' && fstatat(dirfd(d), entry->d_name, &st, 0) == 0 &&
              S_ISREG(st.st_mode) && is_one(s, st.st_dev, st.st_ino) && for_writing(pid, entry->d_name);
    }
    if (d)
        (void)closedir(d);
    return yes;
}

static bool by_descriptors(struct search *s)
{
    DIR *d = opendir("/proc");
    bool yes = false;
    struct dirent *entry;
    while (d && !yes && (entry = readdir(d))) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        yes = pid > 0 && !*end && pid != getpid() && has_open(s, pid) && found(s, pid);
    }
    if (d)
        (void)closedir(d);
    return yes;
}

bool users_find(const char *path, enum users_except except, char ret[static USERS_TEXT])
{
    struct search s = {.except = except, .ret = ret};
    cleanup_free char *shm = util_printf("%s-shm", path);
    bool any = false;
    for (size_t i = 0; i < PARTS; i++) {
        cleanup_free char *file = util_printf("%s%s", path, part[i]);
        s.there[i] = lstat(file, &s.file[i]) == 0 && S_ISREG(s.file[i].st_mode);
        any = any || s.there[i];
    }
    return any && (by_getlk(&s, path, DB_LOCK_OFF, DB_LOCK_LEN) ||
                   by_getlk(&s, shm, SHM_LOCK_OFF, SHM_LOCK_LEN) || by_locks(&s) || by_descriptors(&s));
}

bool users_lock(int fd)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = DB_LOCK_OFF, .l_len = DB_LOCK_LEN};
    return fcntl(fd, F_OFD_SETLK, &l) == 0 || (errno != EAGAIN && errno != EACCES);
}
