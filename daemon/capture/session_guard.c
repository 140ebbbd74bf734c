/* session_guard.c - the guards, taking turns, and which read mark each has. */
#include <unistd.h>

#include "daemon/capture/session_int.h"

#define NEXT_TRIES 20
#define NEXT_PAUSE_US 500

/* ---- the read mark ------------------------------------------------------------------------------ */

static int slot_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    struct slot_shim *shim = (struct slot_shim *)(uintptr_t)f->pMethods;
    int rc = shim->real->xShmLock(f, offset, n, flags), slot = offset - WAL_READ_LOCK_0;
    if (rc == SQLITE_OK && slot >= 0 && flags == (SQLITE_SHM_LOCK | SQLITE_SHM_SHARED))
        shim->slot = slot;
    else if (slot >= 0 && slot == shim->slot && flags == (SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED))
        shim->slot = -1;
    return rc;
}

void session_slot_watch(struct conn *c)
{
    sqlite3_file *f = session_db_file(c);
    if (!f || !f->pMethods || f->pMethods->iVersion < 2)
        return;
    c->slot = util_alloc(sizeof *c->slot);
    *c->slot = (struct slot_shim){.methods = *f->pMethods, .real = f->pMethods, .slot = -1};
    c->slot->methods.xShmLock = slot_shm_lock;
    f->pMethods = &c->slot->methods;
}

/* ---- taking turns ------------------------------------------------------------------------------- */

static int next_guard(struct session *s, struct conn *c, struct err *e)
{
    for (int tries = 0;; tries++) {
        int rc = session_read_begin(c);
        if (rc == SQLITE_OK) {
            s->both = true;
            return 0;
        }
        if ((rc & 0xff) != SQLITE_BUSY && s->aside && session_side(s) != SESSION_SIDE_SAME)
            return SESSION_BUSY; /* of files that have been folded together since */
        if ((rc & 0xff) != SQLITE_BUSY)
            return session_sql_err(e, s, c->db, rc, "begin a read transaction on");
        if (tries >= NEXT_TRIES)
            return SESSION_BUSY;
        (void)usleep(NEXT_PAUSE_US);
    }
}

int session_guard_next(struct session *s, struct err *e)
{
    struct conn *c = &s->guard[!s->held];
    int r = session_more_conn(s, c, e);
    if (r == 0)
        r = session_use_ours(s, e);
    if (r != 0)
        return r;
    r = next_guard(s, c, e);
    session_use_end(s);
    return r;
}

int session_guard_again(struct session *s, struct session_index *ret, struct err *e)
{
    int r = session_index(s, ret, e);
    if (r < 0)
        return r;
    session_read_end(&s->guard[s->held]);
    return session_first_guard(s, e);
}

int session_guard_back(struct session *s, struct err *e)
{
    return session_first_guard(s, e);
}

void session_guard_switch(struct session *s)
{
    if (!s->both)
        return;
    session_read_end(&s->guard[s->held]);
    s->held = !s->held;
    s->both = false;
}

bool session_alone_guard(const struct session *s)
{
    return s->aside && !s->guard[!s->held].db;
}

/* Of the newest guard; -1: none, or it is not known. */
static int newest_slot(const struct session *s)
{
    const struct conn *c = &s->guard[s->both ? !s->held : s->held];
    return c->slot ? c->slot->slot : -1;
}

bool session_guard_lets_restart(const struct session *s)
{
    return newest_slot(s) == 0;
}

bool session_guard_behind(const struct session *s, uint32_t n)
{
    int slot = newest_slot(s);
    return slot > 0 && s->shm[WAL_INDEX_READ_MARKS + slot] < n;
}

/* Of marks that are as high SQLite takes the last. */
static void raise_a_mark_above(sqlite3_file *f, int slot, uint32_t n)
{
    volatile void *p = NULL;
    if (f->pMethods->xShmMap(f, 0, SHM_BLOCK, 0, &p) != SQLITE_OK || !p)
        return;
    for (int i = slot + 1; i <= WAL_READ_LOCKS; i++) {
        if (f->pMethods->xShmLock(f, WAL_READ_LOCK_0 + i, 1, SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE) != SQLITE_OK)
            continue;
        ((volatile uint32_t *)p)[WAL_INDEX_READ_MARKS + i] = n;
        (void)f->pMethods->xShmLock(f, WAL_READ_LOCK_0 + i, 1, SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE);
        return;
    }
}

void session_guard_elsewhere(struct session *s)
{
    struct session_index x;
    int slot = newest_slot(s);
    if (slot <= 0 || session_use_ours(s, NULL) != 0)
        return;
    if (session_index(s, &x, NULL) == 0)
        raise_a_mark_above(session_db_file(&s->guard[s->held]), slot, x.n);
    session_use_end(s);
}

void session_guard_undo(struct session *s)
{
    if (!s->both)
        return;
    session_read_end(&s->guard[!s->held]);
    s->both = false;
}

