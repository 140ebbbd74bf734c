#include "daemon/capture/session_int.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "common/format/wal.h"
#include "daemon/os/busfault.h"

#define SESSION_MAGIC 0x5e551011u
#define ATTACH_BUSY_MS 2000

/* ---- process-wide settings -------------------------------------------------------------------- */

int session_setup(struct err *e)
{
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    (void)sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0); /* 48 KiB a connection, for statements that we have not */
    int rc = sqlite3_initialize();
    if (rc != SQLITE_OK)
        return err_set(e, ERR_INTERNAL, "sqlite3_initialize: %s", sqlite3_errstr(rc));
    return os_setup(e) < 0 ? -(int)e->code : busfault_setup(e);
}

/* ---- connections ------------------------------------------------------------------------------ */

int session_not_writable(const struct session *s, struct err *e)
{
    cleanup_free char *dir = util_strdup(s->path);
    char *slash = strrchr(dir, '/');
    if (slash)
        slash[slash == dir] = '\0';
    const char *const each[] = {s->path, slash ? dir : "."};
    for (size_t i = 0; i < ARRAY_LEN(each); i++) {
        if (faccessat(AT_FDCWD, each[i], R_OK | W_OK, AT_EACCESS) == 0)
            continue;
        (void)err_sys(e, errno, "cannot write %s", each[i]);
        return err_hint(e, "SQLite has to write the database's side files; walsupctl check says what is in the way");
    }
    return 0;
}

int session_sql_err(struct err *e, const struct session *s, sqlite3 *db, int rc, const char *what)
{
    /* Another call since the failure, as a ROLLBACK, has left its own text and errno in the connection. */
    bool latest = db && sqlite3_extended_errcode(db) == rc;
    const char *text = latest ? sqlite3_errmsg(db) : sqlite3_errstr(rc);
    int sys = latest ? sqlite3_system_errno(db) : 0;
    bool refused = (rc & 0xff) == SQLITE_CANTOPEN || (rc & 0xff) == SQLITE_READONLY || (rc & 0xff) == SQLITE_PERM;
    enum err_code code = ERR_IO;
    int why = refused ? os_refused() : 0;
    if (why == EWOULDBLOCK) {
        err_set(e, ERR_IO, "another program has a lease (fcntl F_SETLEASE) on %s, its -wal or -shm, and does not "
                           "give it up", s->path);
        return err_hint(e, "only its owner and root can take one: end that program; /proc/locks has its pid in "
                           "the line LEASE");
    }
    if (why == ELOOP) {
        err_set(e, ERR_PERM, "the -wal or -shm of %s is a symbolic link, which is not followed", s->path);
        return err_hint(e, "SQLite makes no such link: move what it leads to here, in its place, while nobody "
                           "has the database open");
    }
    if (refused && access(s->path, F_OK) == 0 && session_not_writable(s, e) < 0)
        return -(int)e->code;
    switch (rc & 0xff) {
    case SQLITE_NOMEM:
        code = ERR_NOMEM;
        break;
    case SQLITE_FULL:
        code = ERR_NOSPC;
        break;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
        code = ERR_PERM;
        break;
    case SQLITE_CANTOPEN:
        code = sys == EACCES || sys == EPERM || sys == EROFS ? ERR_PERM : ERR_IO;
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        code = ERR_CORRUPT;
        break;
    case SQLITE_BUSY:
        code = ERR_BUSY;
        break;
    default:
        break;
    }
    return sys ? err_set(e, code, "%s %s: %s (%s)", what, s->path, text, strerror(sys))
               : err_set(e, code, "%s %s: %s", what, s->path, text);
}

void session_conn_close(struct conn *c)
{
    (void)sqlite3_finalize(c->begin);
    (void)sqlite3_finalize(c->read);
    (void)sqlite3_finalize(c->rollback);
    (void)sqlite3_close(c->db);
    free(c->slot);
    *c = (struct conn){.db = NULL};
}

static int conn_settings(const struct session *s, struct conn *c, struct err *e)
{
    static const struct {
        int op, value;
    } config[] = {
        {SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1}, {SQLITE_DBCONFIG_DEFENSIVE, 1},
        {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},   {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0},
        {SQLITE_DBCONFIG_ENABLE_VIEW, 0},      {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(config); i++) {
        int rc = sqlite3_db_config(c->db, config[i].op, config[i].value, NULL);
        if (rc != SQLITE_OK)
            return session_sql_err(e, s, c->db, rc, "configure the connection to");
    }
    (void)sqlite3_busy_timeout(c->db, 0); /* we retry by ourselves, where we know for how long */
    (void)sqlite3_wal_autocheckpoint(c->db, 0);
    (void)sqlite3_extended_result_codes(c->db, 1);
    int persist = 1;
    int rc = sqlite3_file_control(c->db, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
    if (rc != SQLITE_OK)
        return session_sql_err(e, s, c->db, rc, "set persistent WAL on");
    rc = sqlite3_exec(c->db, "PRAGMA mmap_size=0", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return session_sql_err(e, s, c->db, rc, "configure the connection to");
    return 0;
}

static int conn_open(const struct session *s, struct conn *c, struct err *e)
{
    int rc = sqlite3_open_v2(s->path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) {
        session_sql_err(e, s, c->db, rc, "open");
        session_conn_close(c);
        return -(int)e->code;
    }
    return 0;
}

/* The statements need no schema, so a huge or hostile schema is never even parsed. */
static int conn_prepare(const struct session *s, struct conn *c, struct err *e)
{
    const struct {
        const char *sql;
        sqlite3_stmt **stmt;
    } list[] = {{"BEGIN", &c->begin},
                {"PRAGMA schema_version", &c->read},
                {"ROLLBACK", &c->rollback}};
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        int rc = sqlite3_prepare_v3(c->db, list[i].sql, -1, SQLITE_PREPARE_PERSISTENT,
                                    list[i].stmt, NULL);
        if (rc != SQLITE_OK)
            return session_sql_err(e, s, c->db, rc, "prepare a statement on");
    }
    if (c == &s->guard[0] || c == &s->guard[1])
        session_slot_watch(c);
    return 0;
}

static int conn_add(const struct session *s, struct conn *c, struct err *e)
{
    int r = conn_open(s, c, e);
    if (r == 0)
        r = conn_settings(s, c, e);
    if (r == 0)
        r = conn_prepare(s, c, e);
    return r;
}

static int step(sqlite3_stmt *stmt)
{
    int rc = sqlite3_step(stmt);
    int rc2 = sqlite3_reset(stmt);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc2;
}

void session_read_end(struct conn *c)
{
    if (!sqlite3_get_autocommit(c->db))
        (void)step(c->rollback);
}

/* BEGIN takes no lock; the read does. Result code of SQLite. */
int session_read_begin(struct conn *c)
{
    int rc = step(c->begin);
    if (rc == SQLITE_OK)
        rc = step(c->read);
    if (rc != SQLITE_OK)
        session_read_end(c);
    return rc;
}

/* ---- attach and detach ------------------------------------------------------------------------ */

sqlite3_file *session_db_file(struct conn *c)
{
    sqlite3_file *f = NULL;
    (void)sqlite3_file_control(c->db, "main", SQLITE_FCNTL_FILE_POINTER, &f);
    return f;
}

sqlite3_file *session_wal_file(struct conn *c)
{
    sqlite3_file *f = NULL;
    (void)sqlite3_file_control(c->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &f);
    return f && f->pMethods ? f : NULL;
}

/* The header decides whether this is ours to attach; read through SQLite's handle, no lock taken. */
static int check_header(struct session *s, struct err *e)
{
    uint8_t h[100];
    sqlite3_file *f = session_db_file(&s->guard[0]);
    if (!f || !f->pMethods)
        return err_set(e, ERR_INTERNAL, "no file handle for %s", s->path);
    sqlite3_int64 size = 0;
    int rc = f->pMethods->xFileSize(f, &size);
    if (rc == SQLITE_OK && size < (sqlite3_int64)sizeof h) {
        if (size)
            err_set(e, ERR_CORRUPT, "%s is %lld bytes long, which is too short for a database", s->path, (long long)size);
        else
            err_set(e, ERR_NOTFOUND, "%s is empty: no application has made a database of it yet", s->path);
        return SESSION_EMPTY;
    }
    if (rc == SQLITE_OK)
        rc = f->pMethods->xRead(f, h, sizeof h, 0);
    if (rc != SQLITE_OK)
        return session_sql_err(e, s, s->guard[0].db, rc, "read the header of");
    if (memcmp(h, "SQLite format 3", 16) != 0) {
        err_set(e, ERR_CORRUPT, "%s is not an SQLite database (or it is encrypted)", s->path);
        return err_hint(e, "point path = at the database file itself");
    }
    if (h[18] == 3 || h[19] == 3) {
        err_set(e, ERR_UNSUPPORTED, "%s uses WAL2, which walsup does not support", s->path);
        return err_hint(e, "run PRAGMA journal_mode=WAL with a released version of SQLite");
    }
    if (h[18] != 2 || h[19] != 2)
        return SESSION_NOT_WAL;
    uint32_t page_size = be16_get(h + 16);
    s->page_size = page_size == 1 ? 65536 : page_size;
    if (!page_size_valid(s->page_size))
        return err_set(e, ERR_CORRUPT, "the header of %s gives page size %u", s->path, page_size);
    return 0;
}

static int begin_guard(struct session *s, struct err *e)
{
    uint64_t end = clk_mono_ms() + ATTACH_BUSY_MS;
    for (;;) {
        int rc = session_read_begin(&s->guard[s->held]);
        if (rc == SQLITE_OK)
            break;
        if ((rc & 0xff) != SQLITE_BUSY)
            return session_sql_err(e, s, s->guard[s->held].db, rc, "read");
        if (clk_mono_ms() > end)
            return SESSION_BUSY;
        clk_pause_us(1000);
    }
    /* The journal mode was changed after the header was looked at. To ask such a handle for its -shm would create one, which
     * SQLite would never let go. */
    if (!session_wal_file(&s->guard[s->held])) {
        int r = check_header(s, e);
        return r != 0 ? r : SESSION_BUSY;
    }
    sqlite3_file *f = session_db_file(&s->guard[s->held]);
    volatile void *p = NULL;
    int rc = f->pMethods->iVersion >= 2 && f->pMethods->xShmMap
                 ? f->pMethods->xShmMap(f, 0, SHM_BLOCK, 0, &p)
                 : SQLITE_NOTFOUND;
    if ((rc != SQLITE_OK || !p) && session_not_writable(s, e) < 0)
        return -(int)e->code;
    if (rc != SQLITE_OK || !p) {
        err_set(e, ERR_UNSUPPORTED, "%s is in WAL mode without a shared wal-index", s->path);
        return err_hint(e, "an application holds it in locking_mode=EXCLUSIVE, or it lies on a "
                           "file system without shared memory");
    }
    s->shm = p;
    return 0;
}

int session_first_guard(struct session *s, struct err *e)
{
    int r = session_use(s, e);
    if (r != 0)
        return r;
    r = begin_guard(s, e);
    session_use_end(s);
    return r;
}

/* Replaced meanwhile: a connection may have the old file with the new one's WAL. What it would read was
 * never committed, and a checkpoint would put the new frames into the file that is gone. */
static int unmoved(const struct session *s)
{
    return session_moved(s) ? SESSION_BUSY : 0;
}

static int open_first(struct session *s, struct err *e)
{
    int r = conn_open(s, &s->guard[0], e);
    if (r == 0)
        r = check_header(s, e);
    if (r == 0)
        r = conn_settings(s, &s->guard[0], e);
    if (r == 0)
        r = conn_prepare(s, &s->guard[0], e);
    return r == 0 ? session_first_guard(s, e) : r;
}

void session_tell_holder(const struct session *s, struct err *e)
{
    char who[80];
    (void)os_command(os_lock_holder(s->files.db.fd, OS_LOCK_DB_ANY), who, sizeof who);
    err_set(e, ERR_BUSY, "another process%s holds an exclusive lock on %s", who, s->path);
    (void)err_hint(e, "an application with PRAGMA locking_mode=EXCLUSIVE, or with its own locking, cannot be replicated: "
                      "use locking_mode=NORMAL there");
}

static int open_all(struct session *s, struct err *e)
{
    struct stat st;
    if (stat(s->path, &st) < 0)
        return errno == ENOENT || errno == ENOTDIR ? SESSION_MISSING
                                                   : err_sys(e, errno, "look at %s", s->path);
    if (!S_ISREG(st.st_mode)) {
        err_set(e, ERR_CONFIG, "%s is not a regular file", s->path);
        return err_hint(e, "path = names the database file");
    }
    s->claim = (struct os_id){st.st_dev, st.st_ino};
    os_claim(s->claim);
    struct os_files *before = os_record(&s->files);
    int r = open_first(s, e);
    (void)os_record(before);
    os_fill(&s->files, s->path, &st);
    s->guard[0].db_fd = s->files.db.fd;
    s->guard[0].wal_fd = s->files.wal.fd;
    if (r == SESSION_BUSY)
        session_tell_holder(s, e);
    if (r == 0 && (r = unmoved(s)) != 0)
        session_sweep(s);
    return r;
}

static bool same_file(const struct os_file *a, const struct os_file *b)
{
    return b->fd < 0 || (a->dev == b->dev && a->ino == b->ino); /* not opened: SQLite shares it with the first one */
}

/* The other connections are opened when they are needed first: each costs more than a short wake-up. One that has
 * another file under one of the three names must not be used for anything, least of all for a checkpoint. It reads
 * once, because a connection that never read has no WAL open, and its checkpoint would silently do nothing. */
static int more_conn(struct session *s, struct conn *c, struct err *e)
{
    struct os_files f = OS_FILES_INIT;
    struct os_files *before = os_record(&f);
    int r = conn_add(s, c, e);
    int rc = r == 0 ? session_read_begin(c) : SQLITE_OK;
    (void)os_record(before);
    if (rc != SQLITE_OK)
        r = (rc & 0xff) == SQLITE_BUSY ? SESSION_BUSY : session_sql_err(e, s, c->db, rc, "read");
    if (r == 0) {
        session_read_end(c);
        r = unmoved(s);
    }
    if (r == 0 && !session_wal_file(c)) /* opened in another journal mode: of another file, in between */
        r = SESSION_BUSY;
    if (r == 0 && !(same_file(&s->files.db, &f.db) && same_file(&s->files.wal, &f.wal) && same_file(&s->files.shm, &f.shm)))
        r = SESSION_BUSY;
    c->db_fd = f.db.fd;
    c->wal_fd = f.wal.fd;
    os_files_done(&f);
    if (r != 0)
        session_conn_close(c);
    return r;
}

int session_more_conn(struct session *s, struct conn *c, struct err *e)
{
    if (c->db)
        return 0;
    int r = session_enter(s, e);
    if (r != 0)
        return r;
    r = session_use_ours(s, e);
    if (r == 0) {
        os_join(true); /* SQLite would make new files if ours have just been removed */
        r = more_conn(s, c, e);
        if (os_join(false)) {
            session_conn_close(c);
            r = SESSION_BUSY;
        }
        session_use_end(s);
    }
    session_exit(s);
    return r;
}

static int open_session(const char *path, struct session **ret, struct err *e)
{
    struct session *s = util_zalloc(sizeof *s);
    s->magic = SESSION_MAGIC;
    s->path = util_strdup(path);
    s->files = (struct os_files)OS_FILES_INIT;
    int r = open_all(s, e);
    if (r != 0) {
        (void)session_close(s);
        return r;
    }
    s->dms = dms_join(&s->files.shm);
    *ret = s;
    return 0;
}

int session_open(const char *path, struct session **ret, struct err *e)
{
    return open_session(path, ret, e);
}

int session_join(const char *path, struct session **ret, struct err *e)
{
    os_join(true);
    int r = open_session(path, ret, e);
    bool first = os_join(false);
    if (r == 0 || r == SESSION_MISSING || !first)
        return r;
    err_clear(e);
    return SESSION_FIRST;
}

void session_one_conn(struct session *s)
{
    if (s->writer.db)
        session_conn_close(&s->writer);
    if (s->ckpt.db) {
        session_shim_remove(s);
        session_conn_close(&s->ckpt);
    }
    session_conn_close(&s->guard[!s->held]);
    s->both = false;
    const struct conn *c = &s->guard[s->held]; /* the questions go through its descriptors from now on */
    if (c->db_fd >= 0) {
        s->files.db.fd = c->db_fd;
    } else { /* giving up the last lock would close what SQLite keeps */
        s->stuck = true;
        s->aside = false;
    }
    s->files.wal.fd = c->wal_fd;
}

struct session *session_close(struct session *s)
{
    if (!s)
        return NULL;
    session_one_conn(s);
    if (s->guard[s->held].db)
        session_read_end(&s->guard[s->held]);
    if (s->using)
        dms_let_go(s->dms); /* by SQLite's descriptor */
    session_conn_close(&s->guard[s->held]);
    s->dms = dms_leave(s->dms);
    if (s->claim.ino)
        os_unclaim(s->claim);
    os_files_done(&s->files);
    free(s->path);
    s->magic = 0;
    free(s);
    return NULL;
}

const char *session_path(const struct session *s)
{
    return s->path;
}

uint32_t session_page_size(const struct session *s)
{
    return s->page_size;
}

int session_stat(const struct session *s, struct stat *ret)
{
    struct stat st;
    if (stat(s->path, &st) < 0)
        return -1;
    if (st.st_dev != s->files.db.dev || st.st_ino != s->files.db.ino) {
        errno = ESTALE;
        return -1;
    }
    *ret = st;
    return 0;
}

bool session_is(const struct session *s, const struct stat *st)
{
    return s->files.db.dev == st->st_dev && s->files.db.ino == st->st_ino;
}

bool session_moved(const struct session *s)
{
    struct stat st;
    return session_stat(s, &st) < 0;
}

bool session_removed(const struct session *s)
{
    struct stat st;
    return s->files.db.fd >= 0 && fstat(s->files.db.fd, &st) == 0 && st.st_nlink == 0;
}

/* ---- reading ---------------------------------------------------------------------------------- */

int session_wal_read(struct session *s, uint64_t off, void *p, size_t n, struct err *e)
{
    sqlite3_file *f = session_wal_file(&s->guard[s->held]);
    if (!f)
        return err_set(e, ERR_IO, "%s has no WAL open", s->path);
    uint8_t *to = p;
    while (n) {
        int part = (int)MIN(n, (size_t)1 << 30);
        int rc = f->pMethods->xRead(f, to, part, (sqlite3_int64)off);
        if (rc == SQLITE_IOERR_SHORT_READ)
            return err_set(e, ERR_CORRUPT, "the WAL of %s ends before offset %llu", s->path,
                           (unsigned long long)(off + (uint64_t)part));
        if (rc != SQLITE_OK)
            return err_set(e, ERR_IO, "read the WAL of %s at %llu: %s", s->path,
                           (unsigned long long)off, sqlite3_errstr(rc));
        to += part;
        off += (uint64_t)part;
        n -= (size_t)part;
    }
    return 0;
}

int session_db_read(struct session *s, uint32_t pgno, uint32_t n_pages, uint8_t *p, struct err *e)
{
    sqlite3_file *f = session_db_file(&s->guard[s->held]);
    if (!f || !f->pMethods)
        return err_set(e, ERR_IO, "%s is not open", s->path);
    uint64_t off = (uint64_t)(pgno - 1) * s->page_size;
    int rc = f->pMethods->xRead(f, p, (int)(n_pages * s->page_size), (sqlite3_int64)off);
    if (rc != SQLITE_OK && rc != SQLITE_IOERR_SHORT_READ) /* a short read filled up with zeros */
        return err_set(e, ERR_IO, "read page %u of %s: %s", pgno, s->path, sqlite3_errstr(rc));
    return 0;
}
