#include "common/format/wal.h"
#include "daemon/capture/session_int.h"

#define UNSEEN_BYTES (64u << 20) /* of frames without a commit: a transaction under way, or rolled back */

/* ---- identity ----------------------------------------------------------------------------------- */

enum session_side session_side(const struct session *s)
{
    if (s->files.shm.path && !os_same(&s->files.shm)) /* by a second name there is none to look for */
        return SESSION_SIDE_INDEX;
    return os_same(&s->files.wal) ? SESSION_SIDE_SAME : SESSION_SIDE_WAL;
}

bool session_other_wal(const struct session *s)
{
    struct stat st;
    return s->files.wal.path && !os_same(&s->files.wal) && stat(s->files.wal.path, &st) == 0;
}

/* ---- who else ------------------------------------------------------------------------------------ */

/* The lock is asked for, not taken: an application without a busy timeout would fail. */
static bool is_locked(struct session *s, int lock, long *ret_pid)
{
    sqlite3_file *f = session_db_file(&s->guard[s->held]);
    os_ask(true);
    int rc = f->pMethods->xShmLock(f, lock, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE);
    os_ask(false);
    if (rc == SQLITE_OK) /* this SQLite went another way, and took it */
        (void)f->pMethods->xShmLock(f, lock, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
    long pid = rc == SQLITE_OK ? -1 : os_answer();
    *ret_pid = pid > 0 ? pid : 0;
    return pid != -1;
}

bool session_writer(struct session *s, long *ret_pid)
{
    return is_locked(s, WAL_WRITE_LOCK, ret_pid);
}

bool session_checkpointer(struct session *s)
{
    long pid; /* the last close takes no locks in the wal-index any more */
    return (!session_holds_checkpoints(s) && is_locked(s, WAL_CKPT_LOCK, &pid)) ||
           session_owned(s);
}

bool session_owned(const struct session *s)
{
    return os_lock_holder(s->files.db.fd, OS_LOCK_DB_OWN) >= 0;
}

enum session_company session_company(const struct session *s, long *ret_pid)
{
    long db = os_lock_holder(s->files.db.fd, OS_LOCK_DB_SHARED);
    long shm = os_lock_holder(s->files.shm.fd, OS_LOCK_SHM_OPEN);
    *ret_pid = MAX(db >= 0 ? db : shm, 0L);
    if (db < 0)
        return shm < 0 ? SESSION_ALONE : SESSION_SHARED;
    return shm < 0 && s->files.shm.fd >= 0 ? SESSION_ELSEWHERE : SESSION_SHARED;
}

long session_reader(const struct session *s)
{
    return os_lock_holder(s->files.shm.fd, OS_LOCK_SHM_READ);
}

/* ---- the WAL as it is on disk --------------------------------------------------------------------- */

static int read_some(struct session *s, uint64_t off, void *p, size_t n)
{
    sqlite3_file *f = session_wal_file(&s->guard[s->held]);
    return f ? f->pMethods->xRead(f, p, (int)n, (sqlite3_int64)off) : SQLITE_IOERR;
}

/* From where the wal-index says that the WAL ends, or from its beginning, if it has other salts than the index. A
 * restart shows in the index first, with the first salt one higher, and then on disk; a new WAL the other way round. */
static bool begin_scan(struct session *s, const struct session_index *x, struct wal_scan *w, uint64_t *ret_first)
{
    uint8_t raw[WAL_HEADER_SIZE];
    struct wal_header h;
    if (read_some(s, 0, raw, sizeof raw) != SQLITE_OK || wal_header_parse(raw, &h, NULL) < 0 ||
        h.page_size != x->page_size)
        return false;
    if (h.salt[0] + 1 == x->salt[0])
        return false;
    wal_scan_init(w, &h);
    bool same = !memcmp(h.salt, x->salt, sizeof h.salt);
    if (same && x->n)
        memcpy(w->s, x->cksum, sizeof w->s);
    *ret_first = same ? (uint64_t)x->n + 1 : 1;
    return true;
}

uint64_t session_unseen(struct session *s, const struct session_index *x)
{
    struct wal_scan w;
    uint64_t k;
    if (!begin_scan(s, x, &w, &k))
        return 0;
    size_t size = (size_t)wal_frame_size(x->page_size);
    cleanup_free uint8_t *frame = util_alloc(size);
    struct wal_frame f;
    uint64_t bytes = 0;
    for (; bytes < UNSEEN_BYTES; bytes += size, k++) {
        if (read_some(s, wal_frame_off(x->page_size, k), frame, WAL_FRAME_HEADER_SIZE) != SQLITE_OK)
            break;
        f = wal_frame_parse(frame); /* most often a frame of an older WAL: no need for its page */
        if (memcmp(f.salt, w.h.salt, sizeof f.salt) != 0 ||
            read_some(s, wal_frame_off(x->page_size, k), frame, size) != SQLITE_OK || !wal_scan_frame(&w, frame, &f))
            break;
    }
    return w.committed;
}
