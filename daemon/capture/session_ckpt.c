/* session_ckpt.c - checkpoints, and keeping others from theirs, or from writing, for a moment. */
#include <pthread.h>
#include <sys/stat.h>

#include "common/base/beat.h"
#include "common/base/clk.h"
#include "daemon/capture/session_int.h"

#define SPIN_MS 20
#define HELD_SYNC_MS 1000 /* SQLite gives up waiting for a read mark after ten seconds, whatever the busy timeout */
#define WRITES_A_LOOK 64

/* While the checkpoint lock is held, SQLite's own taking and giving up of it around our checkpoints is
 * answered here and goes no further: otherwise an application could slip in at every end of one. */
static int shim_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    const struct shim *shim = (const struct shim *)(const void *)f->pMethods;
    unsigned slot = n == 1 && offset >= WAL_READ_LOCK_1 ? 1u << (offset - WAL_READ_LOCK_1) : 0;
    if ((shim->holding && offset == WAL_CKPT_LOCK && n == 1) || (slot & shim->slots))
        return SQLITE_OK;
    return shim->real->xShmLock(f, offset, n, flags);
}

/* Somebody copies another file over the database, or another checkpoint is quicker: not now. */
static bool is_other(const struct shim *shim)
{
    struct stat now;
    const struct stat *was = &shim->before;
    return session_stat(shim->s, &now) < 0 || now.st_size != was->st_size ||
           memcmp(&now.st_mtim, &was->st_mtim, sizeof now.st_mtim) != 0;
}

/* A checkpoint reads the WAL where the wal-index that is mapped here says. Once that index has been removed from its
 * name, others may have another one by which they overwrite the very frames. */
static int shim_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 off)
{
    struct shim *shim = (struct shim *)(uintptr_t)f->pMethods;
    if (shim->writes % WRITES_A_LOOK == 0 && !os_same(&shim->s->files.shm))
        shim->refused = true;
    if (!shim->writes++ && is_other(shim)) /* SQLite has just synced the WAL, which takes its time */
        shim->refused = true;
    if (shim->refused)
        return SQLITE_IOERR_WRITE;
    return shim->real->xWrite(f, p, n, off);
}

static int slot_lock(struct session *s, unsigned i, int how)
{
    return s->shim.real->xShmLock(session_db_file(&s->ckpt), WAL_READ_LOCK_1 + (int)i, 1, how | SQLITE_SHM_EXCLUSIVE);
}

static void slots_free(struct session *s)
{
    for (unsigned i = 0; i < WAL_READ_LOCKS; i++)
        if (s->shim.slots & 1u << i)
            (void)slot_lock(s, i, SQLITE_SHM_UNLOCK);
    s->shim.slots = 0;
}

struct syncing {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    sqlite3_file *f;
    const sqlite3_io_methods *real;
    int flags, rc;
    bool done;
};

static void *sync_thread(void *arg)
{
    struct syncing *y = arg;
    int rc = y->real->xSync(y->f, y->flags);
    (void)pthread_mutex_lock(&y->mutex);
    y->rc = rc;
    y->done = true;
    (void)pthread_cond_signal(&y->cond);
    (void)pthread_mutex_unlock(&y->mutex);
    return NULL;
}

/* While everybody waits the disk may stall, though it was quick a moment ago: then they are let go. The WAL cannot be
 * restarted before all of it is marked as copied, which comes after this, and all of that was captured. */
static int sync_held(struct session *s, sqlite3_file *f, const sqlite3_io_methods *real, int flags)
{
    struct syncing y = {.f = f, .real = real, .flags = flags, .mutex = PTHREAD_MUTEX_INITIALIZER};
    pthread_condattr_t a;
    pthread_t t;
    struct timespec end;
    if (!s->shim.slots || pthread_condattr_init(&a) != 0)
        return real->xSync(f, flags);
    (void)pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&y.cond, &a);
    (void)pthread_condattr_destroy(&a);
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += HELD_SYNC_MS / 1000;
    if (pthread_create(&t, NULL, sync_thread, &y) != 0) {
        (void)pthread_cond_destroy(&y.cond);
        return real->xSync(f, flags);
    }
    (void)pthread_mutex_lock(&y.mutex);
    while (!y.done && pthread_cond_timedwait(&y.cond, &y.mutex, &end) == 0)
        ;
    bool late = !y.done;
    (void)pthread_mutex_unlock(&y.mutex);
    if (late)
        slots_free(s);
    (void)pthread_join(t, NULL);
    (void)pthread_cond_destroy(&y.cond);
    return y.rc;
}

static int shim_sync(sqlite3_file *f, int flags)
{
    struct shim *shim = (struct shim *)(uintptr_t)f->pMethods;
    if (session_stat(shim->s, &shim->left) < 0) /* all is written, and this may take its time */
        shim->left.st_ino = 0;
    return sync_held(shim->s, f, shim->real, flags);
}

static int wal_shim_sync(sqlite3_file *f, int flags)
{
    struct wal_shim *shim = (struct wal_shim *)(uintptr_t)f->pMethods;
    return sync_held(shim->s, f, shim->real, flags);
}

static void wal_shim_install(struct session *s)
{
    sqlite3_file *f = session_wal_file(&s->ckpt);
    if (!f)
        return;
    s->wal_shim.s = s;
    s->wal_shim.real = f->pMethods;
    s->wal_shim.methods = *f->pMethods;
    s->wal_shim.methods.xSync = wal_shim_sync;
    f->pMethods = &s->wal_shim.methods;
}

static void shim_install(struct session *s)
{
    wal_shim_install(s);
    sqlite3_file *f = session_db_file(&s->ckpt);
    s->shim.s = s;
    s->shim.real = f->pMethods;
    s->shim.methods = *f->pMethods;
    s->shim.methods.xShmLock = shim_shm_lock;
    s->shim.methods.xWrite = shim_write;
    s->shim.methods.xSync = shim_sync;
    f->pMethods = &s->shim.methods;
}

void session_shim_remove(struct session *s)
{
    if (!s->shim.real)
        return;
    session_hold_checkpoints(s, false);
    sqlite3_file *wal = session_wal_file(&s->ckpt);
    if (wal && s->wal_shim.real)
        wal->pMethods = s->wal_shim.real;
    s->wal_shim.real = NULL;
    session_db_file(&s->ckpt)->pMethods = s->shim.real;
    s->shim.real = NULL;
}

static int ckpt_ready(struct session *s, struct err *e)
{
    if (s->ckpt.db)
        return 0;
    int r = session_more_conn(s, &s->ckpt, e);
    if (r != 0)
        return r;
    shim_install(s);
    return 0;
}

void session_hold_checkpoints(struct session *s, bool on)
{
    struct err e;
    if (on == s->shim.holding || ckpt_ready(s, &e) != 0 || (on && session_use(s, &e) != 0))
        return;
    int rc = s->shim.real->xShmLock(session_db_file(&s->ckpt), WAL_CKPT_LOCK, 1,
                                    (on ? SQLITE_SHM_LOCK : SQLITE_SHM_UNLOCK) | SQLITE_SHM_EXCLUSIVE);
    s->shim.holding = on && rc == SQLITE_OK;
    if (!s->shim.holding)
        session_use_end(s);
}

bool session_holds_checkpoints(const struct session *s)
{
    return s->shim.holding;
}

static int passive(struct session *s, bool *ret_all, struct err *e)
{
    int log = -1, done = -1;
    if (s->aside && session_side(s) != SESSION_SIDE_SAME)
        return SESSION_BUSY;
    s->shim.writes = 0;
    s->shim.refused = false;
    s->shim.left.st_ino = 0;
    if (session_stat(s, &s->shim.before) < 0)
        return SESSION_BUSY;
    beat_park(true);
    int rc = sqlite3_wal_checkpoint_v2(s->ckpt.db, "main", SQLITE_CHECKPOINT_PASSIVE, &log, &done);
    beat_park(false);
    if ((rc & 0xff) == SQLITE_BUSY || (rc != SQLITE_OK && s->shim.refused))
        return SESSION_BUSY;
    if (rc != SQLITE_OK)
        return session_sql_err(e, s, s->ckpt.db, rc, "checkpoint");
    if (session_faulted(s))
        return err_set(e, ERR_CORRUPT, "%s-shm was truncated while it was in use", s->path);
    *ret_all = log >= 0 && log == done;
    return 0;
}

int session_passive(struct session *s, bool *ret_all, struct err *e)
{
    int r = ckpt_ready(s, e);
    if (r == 0)
        r = session_enter(s, e);
    if (r != 0)
        return r;
    r = session_use(s, e);
    if (r == 0) {
        r = passive(s, ret_all, e);
        session_use_end(s);
    }
    session_exit(s);
    return r;
}

bool session_left(const struct session *s, struct stat *ret)
{
    *ret = s->shim.left;
    return ret->st_ino;
}

static int write_lock(struct session *s, unsigned timeout_ms, struct err *e)
{
    uint64_t start = clk_mono_ms(), end = start + timeout_ms;
    for (;;) {
        int rc = sqlite3_exec(s->writer.db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
        if (rc == SQLITE_OK)
            return 0;
        if ((rc & 0xff) != SQLITE_BUSY)
            return session_sql_err(e, s, s->writer.db, rc, "take the write lock of");
        uint64_t now = clk_mono_ms();
        if (now >= end)
            return SESSION_BUSY;
        if (now >= start + SPIN_MS) /* a writer that never pauses leaves a microsecond at a time */
            clk_pause_us(50);
    }
}

int session_write_lock(struct session *s, unsigned timeout_ms, struct err *e)
{
    int r = session_more_conn(s, &s->writer, e);
    if (r == 0)
        r = session_use(s, e);
    if (r != 0)
        return r;
    r = write_lock(s, timeout_ms, e);
    if (r != 0)
        session_use_end(s);
    return r;
}

void session_write_unlock(struct session *s)
{
    session_read_end(&s->writer);
    session_use_end(s);
}

/* ---- everybody waits ------------------------------------------------------------------------------ */

int session_sync(struct session *s, uint64_t *ret_us, struct err *e)
{
    sqlite3_file *const file[] = {session_wal_file(&s->guard[s->held]), session_db_file(&s->guard[s->held])};
    uint64_t start = clk_mono_us();
    int rc = SQLITE_OK;
    beat_park(true);
    for (size_t i = 0; i < ARRAY_LEN(file) && rc == SQLITE_OK; i++)
        rc = file[i] ? file[i]->pMethods->xSync(file[i], SQLITE_SYNC_NORMAL) : SQLITE_OK;
    beat_park(false);
    *ret_us = clk_mono_us() - start;
    return rc == SQLITE_OK ? 0 : session_sql_err(e, s, s->guard[s->held].db, rc, "sync");
}

static void note_writer(struct session *s)
{
    long pid;
    if (!session_writer(s, &pid) || !pid)
        return;
    s->several = s->several || (s->writer_pid && s->writer_pid != pid);
    s->writer_pid = pid;
}

bool session_several_writers(const struct session *s)
{
    return s->several;
}

/* A writer that never pauses is without its slot for some microseconds between two transactions. */
static bool slots_take(struct session *s, unsigned timeout_ms)
{
    uint64_t start = clk_mono_ms(), last = start;
    for (;;) {
        for (unsigned i = 0; i < WAL_READ_LOCKS; i++)
            if (!(s->shim.slots & 1u << i) && slot_lock(s, i, SQLITE_SHM_LOCK) == SQLITE_OK)
                s->shim.slots |= 1u << i;
        if (s->shim.slots == (1u << WAL_READ_LOCKS) - 1)
            return true;
        uint64_t now = clk_mono_ms();
        if (now >= start + timeout_ms)
            break;
        if (now > last)
            note_writer(s);
        last = now;
        if (now >= start + SPIN_MS)
            clk_pause_us(50);
    }
    slots_free(s);
    return false;
}

/* With the checkpoint lock ours and N > B nobody can restart the WAL, so that the guard can be done without. */
int session_hold_all(struct session *s, unsigned timeout_ms, struct err *e)
{
    struct session_index x;
    session_hold_checkpoints(s, true);
    int r = session_index(s, &x, e);
    if (r < 0)
        return r;
    if (!s->shim.holding || s->both || x.n == x.b)
        return SESSION_BUSY;
    session_read_end(&s->guard[s->held]);
    if (slots_take(s, timeout_ms))
        return 0;
    r = session_guard_back(s, e);
    return r != 0 ? r : SESSION_BUSY;
}

int session_release_all(struct session *s, struct err *e)
{
    struct session_index x;
    int r = session_index(s, &x, e);
    bool copied = r == 0 && x.n == x.b;
    if (!copied) /* the guard needs one of them; nothing can be restarted before it has it */
        slots_free(s);
    int r2 = session_guard_back(s, e);
    slots_free(s);
    return r < 0 ? r : r2;
}
