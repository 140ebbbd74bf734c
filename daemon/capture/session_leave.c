#include <errno.h>
#include <unistd.h>

#include "common/format/wal.h"
#include "daemon/capture/session_int.h"

#define DISOWN_TRIES 50
#define DISOWN_PAUSE_US 1000

static void let_others_in(struct session *s)
{
    sqlite3_file *f = session_db_file(&s->guard[s->held]);
    (void)f->pMethods->xUnlock(f, SQLITE_LOCK_SHARED);
}

/* Under the exclusive lock: is everything still as x says, and is the -wal nobody else's business? */
static bool unchanged(struct session *s, const struct session_index *x)
{
    struct session_index now;
    /* a -wal that was removed, and side files of a database that was moved, are ours all the more */
    if (session_side(s) == SESSION_SIDE_INDEX && os_same(&s->files.db))
        return false;
    if (session_index(s, &now, NULL) < 0 || now.n != x->n || memcmp(now.salt, x->salt, sizeof now.salt) != 0)
        return false;
    /* Somebody whose locks cannot be seen may have it open all the same. The database file itself cannot be asked:
     * SQLite keeps the descriptors of connections that were closed, because of its locks. */
    return !session_unseen(s, &now) && os_others_have(&s->files.wal) != 1;
}

/* By the connection that has the guard: nobody can restart the WAL, and there is no other connection left. */
static int fold(struct session *s, struct err *e)
{
    struct conn *c = &s->guard[s->held];
    int log = -1, done = -1;
    session_read_end(c);
    int rc = sqlite3_wal_checkpoint_v2(c->db, "main", SQLITE_CHECKPOINT_PASSIVE, &log, &done);
    if (rc != SQLITE_OK)
        return session_sql_err(e, s, c->db, rc, "checkpoint");
    return log == done ? 0 : err_set(e, ERR_BUSY, "not all of the WAL of %s could be copied", s->path);
}

static int leave(struct session *s, enum session_leave how, const struct session_index *x, struct err *e)
{
    sqlite3_file *f = session_db_file(&s->guard[s->held]);
    volatile void *p = NULL;
    if (!session_wal_file(&s->guard[s->held]) || f->pMethods->xShmMap(f, 0, SHM_BLOCK, 0, &p) != SQLITE_OK || !p)
        return err_set(e, ERR_IO, "%s has no WAL open any more", s->path);
    s->shm = p; /* the mapping of the connection that stays */
    if (f->pMethods->xLock(f, SQLITE_LOCK_EXCLUSIVE) != SQLITE_OK || !unchanged(s, x)) {
        let_others_in(s);
        return SESSION_BUSY;
    }
    int r = how == SESSION_LEAVE_FOLD && x->n > x->b ? fold(s, e) : 0;
    if (r < 0)
        let_others_in(s);
    return r;
}

int session_leave_begin(struct session *s, enum session_leave how, const struct session_index *x, struct err *e)
{
    long pid;
    if (s->both || session_company(s, &pid) != SESSION_ALONE)
        return SESSION_BUSY;
    int r = session_enter(s, e);
    if (r != 0)
        return r;
    session_one_conn(s);
    r = session_use(s, e); /* until the end */
    if (r == 0 && (r = leave(s, how, x, e)) != 0)
        session_use_end(s);
    if (r != 0)
        session_exit(s);
    return r;
}

/* SQLite would remove what has taken the names since, or nothing, if the database was moved. */
static void remove_ours(struct session *s)
{
    sqlite3_file *wal = session_wal_file(&s->guard[s->held]);
    if (os_same(&s->files.shm))
        (void)unlink(s->files.shm.path);
    if (os_same(&s->files.wal))
        (void)unlink(s->files.wal.path);
    if (wal) /* whoever opened it a moment before finds nothing in it */
        (void)wal->pMethods->xTruncate(wal, 0);
}

void session_sweep(struct session *s)
{
    struct stat st;
    const struct os_files *f = &s->files;
    if (f->wal.fd < 0 || fstat(f->wal.fd, &st) < 0 || st.st_size || !os_same(&f->wal) || os_others_have(&f->wal) != 0)
        return;
    (void)unlink(f->wal.path);
    if (os_same(&f->shm) && os_others_have(&f->shm) == 0)
        (void)unlink(f->shm.path);
}

/* Whoever has made a new wal-index for his own needs no help. */
static bool index_is_of_ours(struct session *s)
{
    uint8_t raw[WAL_HEADER_SIZE];
    struct wal_header h;
    struct session_index x;
    if (session_wal_read(s, 0, raw, sizeof raw, NULL) < 0 || wal_header_parse(raw, &h, NULL) < 0)
        return true; /* an empty one has no salts */
    return session_index(s, &x, NULL) < 0 || !memcmp(x.salt, h.salt, sizeof x.salt) || x.salt[0] == h.salt[0] + 1;
}

void session_disown(struct session *s)
{
    sqlite3_file *f = session_db_file(&s->guard[s->held]);
    volatile void *p = NULL;
    int rc = SQLITE_BUSY;
    if (os_same(&s->files.db) || !os_same(&s->files.shm) || os_same(&s->files.wal) ||
        f->pMethods->xShmMap(f, 0, SHM_BLOCK, 0, &p) != SQLITE_OK || !p || !index_is_of_ours(s))
        return;
    for (int i = 0; i < DISOWN_TRIES && rc != SQLITE_OK; i++) {
        if (i)
            (void)usleep(DISOWN_PAUSE_US);
        rc = f->pMethods->xShmLock(f, WAL_WRITE_LOCK, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE);
    }
    if (rc != SQLITE_OK)
        return;
    volatile uint32_t *header = p;
    for (unsigned i = 0; i < WAL_INDEX_BACKFILL; i++)
        header[i] = 0;
    f->pMethods->xShmBarrier(f);
    (void)f->pMethods->xShmLock(f, WAL_WRITE_LOCK, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
}

struct session *session_leave_end(struct session *s, enum session_leave how)
{
    struct conn *c = &s->guard[s->held];
    if (how == SESSION_LEAVE_DISCARD || !os_same(&s->files.db) || session_side(s) != SESSION_SIDE_SAME) {
        remove_ours(s);
    } else {
        int off = 0;
        (void)sqlite3_db_config(c->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
        (void)sqlite3_file_control(c->db, "main", SQLITE_FCNTL_PERSIST_WAL, &off);
    }
    return session_close(s);
}
