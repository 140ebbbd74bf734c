#include "tests/explorer/steps.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdarg.h>

#include "daemon/capture/session_os.h"

bool steps_no_guard;

static sqlite3_vfs *base;
static uint64_t random_state;
static step_hook hook;
static unsigned count;
static bool armed;

void steps_arm(step_hook h)
{
    hook = h;
    count = 0;
    armed = true;
}

unsigned steps_disarm(void)
{
    armed = false;
    return count;
}

int steps_at(const char *what)
{
    if (!armed)
        return 0;
    armed = false;
    struct os_files *mine = os_record(NULL); /* what an application of this process opens is none of the session's */
    int r = hook(++count, what);
    (void)os_record(mine);
    armed = true;
    errno = r;
    return r;
}

/* ---- files ------------------------------------------------------------------------------------ */

struct shim_file {
    sqlite3_file file; /* first: SQLite's view */
    sqlite3_file *real;
    const char *kind;
};

static struct shim_file *shim(sqlite3_file *f)
{
    return (struct shim_file *)(void *)f;
}

static sqlite3_file *real(sqlite3_file *f)
{
    return shim(f)->real;
}

/* 0, or the code of SQLite that the step is to fail with. */
static int step(sqlite3_file *f, const char *what, int code)
{
    char text[80];
    (void)snprintf(text, sizeof text, "%s %s", what, shim(f)->kind);
    int r = steps_at(text);
    return !r ? SQLITE_OK : r == ENOSPC && code == SQLITE_IOERR_WRITE ? SQLITE_FULL : code;
}

static int shim_close(sqlite3_file *f)
{
    (void)step(f, "xClose", 0); /* close() does not fail in a way that anybody could act upon */
    int rc = real(f)->pMethods->xClose(real(f));
    f->pMethods = NULL;
    return rc;
}

static int shim_read(sqlite3_file *f, void *p, int n, sqlite3_int64 off)
{
    int rc = step(f, "xRead", SQLITE_IOERR_READ);
    return rc ? rc : real(f)->pMethods->xRead(real(f), p, n, off);
}

static int shim_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 off)
{
    int rc = step(f, "xWrite", SQLITE_IOERR_WRITE);
    return rc ? rc : real(f)->pMethods->xWrite(real(f), p, n, off);
}

static int shim_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    int rc = step(f, "xTruncate", SQLITE_IOERR_TRUNCATE);
    return rc ? rc : real(f)->pMethods->xTruncate(real(f), size);
}

static int shim_sync(sqlite3_file *f, int flags)
{
    int rc = step(f, "xSync", SQLITE_IOERR_FSYNC);
    return rc ? rc : real(f)->pMethods->xSync(real(f), flags);
}

static int shim_file_size(sqlite3_file *f, sqlite3_int64 *size)
{
    int rc = step(f, "xFileSize", SQLITE_IOERR_FSTAT);
    return rc ? rc : real(f)->pMethods->xFileSize(real(f), size);
}

static int shim_lock(sqlite3_file *f, int level)
{
    int rc = step(f, "xLock", SQLITE_IOERR_LOCK);
    return rc ? rc : real(f)->pMethods->xLock(real(f), level);
}

static int shim_unlock(sqlite3_file *f, int level)
{
    (void)step(f, "xUnlock", 0);
    return real(f)->pMethods->xUnlock(real(f), level);
}

static int shim_check_reserved(sqlite3_file *f, int *ret)
{
    int rc = step(f, "xCheckReservedLock", SQLITE_IOERR_CHECKRESERVEDLOCK);
    return rc ? rc : real(f)->pMethods->xCheckReservedLock(real(f), ret);
}

static int shim_control(sqlite3_file *f, int op, void *arg)
{
    return real(f)->pMethods->xFileControl(real(f), op, arg);
}

static int shim_sector_size(sqlite3_file *f)
{
    return real(f)->pMethods->xSectorSize(real(f));
}

static int shim_characteristics(sqlite3_file *f)
{
    return real(f)->pMethods->xDeviceCharacteristics(real(f));
}

static int shim_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **ret)
{
    int rc = step(f, "xShmMap", SQLITE_IOERR_SHMMAP);
    return rc ? rc : real(f)->pMethods->xShmMap(real(f), region, size, extend, ret);
}

enum { FIRST_READ_SLOT = 3 };

static int shim_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    char what[60];
    bool lock = flags & SQLITE_SHM_LOCK, shared = flags & SQLITE_SHM_SHARED;
    (void)snprintf(what, sizeof what, "xShmLock %s %s %d+%d", lock ? "take" : "end",
                   shared ? "shared" : "exclusive", offset, n);
    int rc = step(f, what, lock ? SQLITE_IOERR_SHMLOCK : SQLITE_OK);
    if (rc != SQLITE_OK)
        return rc;
    if (steps_no_guard && shared && offset >= FIRST_READ_SLOT)
        return SQLITE_OK;
    return real(f)->pMethods->xShmLock(real(f), offset, n, flags);
}

static void shim_shm_barrier(sqlite3_file *f)
{
    (void)step(f, "xShmBarrier", 0);
    real(f)->pMethods->xShmBarrier(real(f));
}

static int shim_shm_unmap(sqlite3_file *f, int delete)
{
    (void)step(f, "xShmUnmap", 0);
    return real(f)->pMethods->xShmUnmap(real(f), delete);
}

static int shim_fetch(sqlite3_file *f, sqlite3_int64 off, int n, void **ret)
{
    return real(f)->pMethods->xFetch(real(f), off, n, ret);
}

static int shim_unfetch(sqlite3_file *f, sqlite3_int64 off, void *p)
{
    (void)step(f, "xUnfetch", 0);
    return real(f)->pMethods->xUnfetch(real(f), off, p);
}

static const sqlite3_io_methods methods = {
    .iVersion = 3,
    .xClose = shim_close,
    .xRead = shim_read,
    .xWrite = shim_write,
    .xTruncate = shim_truncate,
    .xSync = shim_sync,
    .xFileSize = shim_file_size,
    .xLock = shim_lock,
    .xUnlock = shim_unlock,
    .xCheckReservedLock = shim_check_reserved,
    .xFileControl = shim_control,
    .xSectorSize = shim_sector_size,
    .xDeviceCharacteristics = shim_characteristics,
    .xShmMap = shim_shm_map,
    .xShmLock = shim_shm_lock,
    .xShmBarrier = shim_shm_barrier,
    .xShmUnmap = shim_shm_unmap,
    .xFetch = shim_fetch,
    .xUnfetch = shim_unfetch,
};

/* ---- the VFS ---------------------------------------------------------------------------------- */

static int vfs_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *ret_flags)
{
    (void)v;
    struct shim_file *s = shim(f);
    *s = (struct shim_file){
        .real = (sqlite3_file *)(void *)(s + 1),
        .kind = flags & SQLITE_OPEN_MAIN_DB ? "db" : flags & SQLITE_OPEN_WAL ? "wal" : "other",
    };
    int r = steps_at(flags & SQLITE_OPEN_MAIN_DB ? "xOpen db" : "xOpen wal");
    if (r)
        return SQLITE_CANTOPEN;
    int rc = base->xOpen(base, name, s->real, flags, ret_flags);
    if (s->real->pMethods)
        f->pMethods = &methods;
    return rc;
}

static int vfs_delete(sqlite3_vfs *v, const char *name, int sync)
{
    (void)v;
    return steps_at("xDelete") ? SQLITE_IOERR_DELETE : base->xDelete(base, name, sync);
}

static int vfs_access(sqlite3_vfs *v, const char *name, int flags, int *ret)
{
    (void)v;
    return steps_at("xAccess") ? SQLITE_IOERR_ACCESS : base->xAccess(base, name, flags, ret);
}

static int vfs_sleep(sqlite3_vfs *v, int us)
{
    (void)v;
    return us;
}

static int vfs_randomness(sqlite3_vfs *v, int n, char *out)
{
    (void)v;
    for (int i = 0; i < n; i++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        out[i] = (char)(random_state >> 56);
    }
    return n;
}

void steps_begin(uint64_t seed)
{
    random_state = seed;
    sqlite3_randomness(0, NULL);
    steps_clock_reset();
}

void steps_install(void)
{
    static sqlite3_vfs v, app;
    base = sqlite3_vfs_find("unix");
    app = *base;
    app.zName = STEPS_APP_VFS;
    app.xSleep = vfs_sleep;
    v = app;
    v.zName = "steps";
    v.szOsFile = (int)sizeof(struct shim_file) + base->szOsFile;
    v.xOpen = vfs_open;
    v.xDelete = vfs_delete;
    v.xAccess = vfs_access;
    v.xRandomness = vfs_randomness;
    if (sqlite3_vfs_register(&app, 0) != SQLITE_OK || sqlite3_vfs_register(&v, 1) != SQLITE_OK)
        abort();
}
