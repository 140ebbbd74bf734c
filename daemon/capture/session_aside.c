/* session_aside.c - out of the way of whoever wants the database file for himself: between the moments in which the
 * file has to stay as it is, SQLite's shared lock on it is given up, behind the back of SQLite's pager. */
#include <time.h>
#include <unistd.h>

#include "common/base/clk.h"
#include "daemon/capture/session_int.h"

#define ENTER_MS 20 /* the last close of an application: its checkpoint takes a moment */
#define PAUSE_US 200

static struct conn *nth(struct session *s, unsigned i)
{
    struct conn *const all[] = {&s->guard[s->held], &s->guard[!s->held], &s->ckpt, &s->writer};
    return i < ARRAY_LEN(all) ? all[i] : NULL;
}

static void give_up(struct session *s)
{
    struct conn *c;
    for (unsigned i = 0; (c = nth(s, i)); i++)
        if (c->db)
            (void)session_db_file(c)->pMethods->xUnlock(session_db_file(c), SQLITE_LOCK_NONE);
}

/* The first connection asks the kernel, the others are only counted. */
static bool take(struct session *s)
{
    struct conn *c;
    for (unsigned i = 0; (c = nth(s, i)); i++)
        if (c->db && session_db_file(c)->pMethods->xLock(session_db_file(c), SQLITE_LOCK_SHARED) != SQLITE_OK) {
            give_up(s);
            return false;
        }
    return true;
}

int session_use(struct session *s, struct err *e)
{
    uint64_t end = clk_mono_ms() + ENTER_MS;
    while (!s->using && !dms_hold(s->dms)) {
        if (clk_mono_ms() >= end) {
            err_set(e, ERR_BUSY, "somebody has been making a new wal-index of %s for %d ms", s->path, ENTER_MS);
            return SESSION_BUSY;
        }
        (void)usleep(PAUSE_US);
    }
    s->using++;
    return 0;
}

void session_use_end(struct session *s)
{
    if (!--s->using)
        dms_let_go(s->dms);
}

int session_use_ours(struct session *s, struct err *e)
{
    int r = session_use(s, e);
    if (r == 0 && s->aside && session_side(s) != SESSION_SIDE_SAME) {
        session_use_end(s);
        r = SESSION_BUSY;
    }
    return r;
}

void session_aside(struct session *s)
{
    if (s->aside || s->stuck)
        return;
    s->aside = true;
    if (!s->inside)
        give_up(s);
}

int session_enter(struct session *s, struct err *e)
{
    uint64_t end = clk_mono_ms() + ENTER_MS;
    if (!s->aside || s->inside) {
        s->inside++;
        return 0;
    }
    while (!take(s)) {
        uint64_t now = clk_mono_ms();
        if (!s->shut_out_at_ms)
            s->shut_out_at_ms = now;
        if (now >= end) {
            session_tell_holder(s, e);
            return SESSION_BUSY;
        }
        (void)usleep(PAUSE_US);
    }
    s->shut_out_at_ms = 0;
    s->inside = 1;
    return 0;
}

void session_exit(struct session *s)
{
    if (!--s->inside && s->aside)
        give_up(s);
}

void session_stay(struct session *s)
{
    if (!s->aside || session_enter(s, NULL) != 0)
        return;
    s->aside = false;
    session_exit(s);
}

uint64_t session_shut_out_ms(const struct session *s)
{
    return s->shut_out_at_ms ? clk_mono_ms() - s->shut_out_at_ms + 1 : 0;
}

bool session_folded(const struct session *s, int64_t *ret_ns)
{
    struct stat wal, shm;
    if (s->files.wal.fd < 0 || s->files.shm.fd < 0 || fstat(s->files.wal.fd, &wal) < 0 || fstat(s->files.shm.fd, &shm) < 0 ||
        wal.st_nlink || shm.st_nlink || os_lock_holder(s->files.shm.fd, OS_LOCK_SHM_OPEN) >= 0)
        return false;
    *ret_ns = (int64_t)wal.st_ctim.tv_sec * 1000000000 + wal.st_ctim.tv_nsec;
    return true;
}
