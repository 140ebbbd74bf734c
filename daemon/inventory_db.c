#include "daemon/inventory_db.h"

#include <sqlite3.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/base/log.h"
#include "daemon/retain.h"

#define FORMAT_VERSION "1"
#define WHOLE_MAX 4096u /* whole databases that are looked at, newest first */

static const char schema[] =
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-256; PRAGMA journal_size_limit=1048576;"
    "CREATE TABLE IF NOT EXISTS fact(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS due(db TEXT PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS replica(id INTEGER PRIMARY KEY, db TEXT NOT NULL, target TEXT NOT NULL,"
    " place INTEGER NOT NULL, known INTEGER NOT NULL, UNIQUE(db, target, place));"
    "CREATE TABLE IF NOT EXISTS object(replica INTEGER NOT NULL, level INTEGER NOT NULL, max INTEGER NOT NULL,"
    " min INTEGER NOT NULL, size INTEGER NOT NULL, time_ms INTEGER NOT NULL, added_ms INTEGER NOT NULL,"
    " PRIMARY KEY(replica, level, max, min)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS whole ON object(replica, max) WHERE min = 1;";

/* Objects that may be deleted. ?2 anchor, ?3 L0 files up to this TXID may go if a higher level has them.
 * The newest file of a level always stays: Litestream, taking over, goes on from it. */
#define DOOMED                                                                                                \
    "FROM object AS o WHERE replica = ?1 AND (CASE WHEN min = 1 THEN max < ?2 ELSE max <= ?2 END"              \
    " OR (level = 0 AND max <= ?3 AND min > 1 AND EXISTS (SELECT 1 FROM object AS c WHERE c.replica = ?1"  \
    " AND c.level BETWEEN 1 AND 3 AND c.max >= o.max AND c.min <= o.min)))"                                    \
    " AND (level = 9 OR max < (SELECT max(max) FROM object AS n WHERE n.replica = ?1 AND n.level = o.level))"

enum sql {
    SQL_FIND,
    SQL_CREATE,
    SQL_OTHER_PLACE,
    SQL_OTHER_REPLICA,
    SQL_KNOWN,
    SQL_ADD,
    SQL_LEVELS,
    SQL_WHOLE,
    SQL_ANCHOR,
    SQL_MERGED,
    SQL_DOOMED,
    SQL_FIRST_L0,
    SQL_L0,
    SQL_ALL,
    SQL_CLEAR,
    SQL_REMOVE,
    SQL_DOUBT,
    SQL_DUE_SET,
    SQL_DUE_CLEAR,
    SQL_DUE_EACH,
    SQL_FACT_GET,
    SQL_FACT_SET,
    SQL_COUNT
};

static const char *const sql_text[SQL_COUNT] = {
    [SQL_FIND] = "SELECT id, known FROM replica WHERE db = ?1 AND target = ?2 AND place = ?3",
    [SQL_CREATE] = "INSERT INTO replica(db, target, place, known) VALUES(?1, ?2, ?3, 0) RETURNING id",
    [SQL_OTHER_PLACE] = "DELETE FROM object WHERE replica IN"
                        " (SELECT id FROM replica WHERE db = ?1 AND target = ?2 AND place <> ?3)",
    [SQL_OTHER_REPLICA] = "DELETE FROM replica WHERE db = ?1 AND target = ?2 AND place <> ?3",
    [SQL_KNOWN] = "UPDATE replica SET known = 1 WHERE id = ?1",
    [SQL_ADD] = "INSERT OR REPLACE INTO object VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    [SQL_LEVELS] = "SELECT level, count(*), sum(size), max(max) FROM object WHERE replica = ?1 GROUP BY level",
    [SQL_WHOLE] = "SELECT max, time_ms, added_ms FROM object WHERE replica = ?1 AND min = 1 ORDER BY max DESC LIMIT ?2",
    [SQL_ANCHOR] = "SELECT max, level FROM object WHERE replica = ?1 AND min = 1 ORDER BY max DESC, level DESC LIMIT 1",
    [SQL_MERGED] = "SELECT max(max) FROM object WHERE replica = ?1 AND level = ?2",
    [SQL_DOOMED] = "SELECT level, min, max, size, time_ms " DOOMED " ORDER BY level, max LIMIT ?4",
    [SQL_FIRST_L0] = "SELECT time_ms FROM object WHERE replica = ?1 AND level = 0 AND min > 1 ORDER BY max LIMIT 1",
    [SQL_L0] = "SELECT max, time_ms FROM object WHERE replica = ?1 AND level = 0 AND min > 1 ORDER BY max",
    [SQL_ALL] = "SELECT level, min, max, size, time_ms FROM object WHERE replica = ?1 ORDER BY level, max",
    [SQL_CLEAR] = "DELETE FROM object WHERE replica = ?1 AND added_ms < ?2",
    [SQL_REMOVE] = "DELETE FROM object WHERE replica = ?1 AND level = ?2 AND max = ?3 AND min = ?4",
    [SQL_DOUBT] = "UPDATE replica SET known = 0",
    [SQL_DUE_SET] = "INSERT OR REPLACE INTO due VALUES(?1, ?2)",
    [SQL_DUE_CLEAR] = "DELETE FROM due WHERE db = ?1",
    [SQL_DUE_EACH] = "SELECT db, at_ms FROM due",
    [SQL_FACT_GET] = "SELECT value FROM fact WHERE key = ?1",
    [SQL_FACT_SET] = "INSERT OR REPLACE INTO fact VALUES(?1, ?2)",
};

struct inventory_db {
    sqlite3 *db;
    char *path;
    sqlite3_stmt *stmt[SQL_COUNT];
};

static int failed(const struct inventory_db *d, struct err *e)
{
    int rc = sqlite3_errcode(d->db);
    enum err_code code = rc == SQLITE_FULL                                ? ERR_NOSPC
                         : rc == SQLITE_NOMEM                             ? ERR_NOMEM
                         : rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB    ? ERR_CORRUPT
                                                                          : ERR_IO;
    bool known = rc != SQLITE_OK && rc != SQLITE_ROW && rc != SQLITE_DONE; /* else a later call has replaced it */
    return err_set(e, code, "%s: %s", d->path, known ? sqlite3_errmsg(d->db) : "a statement could not be carried out");
}

static int exec(struct inventory_db *d, const char *sql, struct err *e)
{
    return sqlite3_exec(d->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : failed(d, e);
}

/* ---- statements -------------------------------------------------------------------------------- */

static sqlite3_stmt *statement(struct inventory_db *d, enum sql id)
{
    sqlite3_stmt **st = &d->stmt[id];
    if (!*st && sqlite3_prepare_v3(d->db, sql_text[id], -1, SQLITE_PREPARE_PERSISTENT, st, NULL) != SQLITE_OK)
        return NULL;
    (void)sqlite3_reset(*st);
    return *st;
}

static void put(sqlite3_stmt *st, int at, uint64_t v)
{
    if (st)
        (void)sqlite3_bind_int64(st, at, (sqlite3_int64)v);
}

static void put_text(sqlite3_stmt *st, int at, const char *s)
{
    if (st)
        (void)sqlite3_bind_text(st, at, s, -1, SQLITE_STATIC);
}

static uint64_t column(sqlite3_stmt *st, int at)
{
    return (uint64_t)sqlite3_column_int64(st, at);
}

/* SQLITE_ROW, SQLITE_DONE, or an error of whatever step it was. */
static int step(sqlite3_stmt *st)
{
    return st ? sqlite3_step(st) : SQLITE_ERROR;
}

static int finish(const struct inventory_db *d, sqlite3_stmt *st, int rc, struct err *e)
{
    int r = rc == SQLITE_DONE ? 0 : failed(d, e);
    if (st)
        (void)sqlite3_reset(st);
    return r;
}

static int run(const struct inventory_db *d, sqlite3_stmt *st, struct err *e)
{
    return finish(d, st, step(st), e);
}

/* ---- replicas ---------------------------------------------------------------------------------- */

static void put_place(sqlite3_stmt *st, const struct inventory_place *at)
{
    put_text(st, 1, at->db);
    put_text(st, 2, at->target);
    put(st, 3, at->place);
}

/* 0 and *ret_id 0: there is none. */
static int find(struct inventory_db *d, const struct inventory_place *at, uint64_t *ret_id, bool *ret_known,
                struct err *e)
{
    sqlite3_stmt *st = statement(d, SQL_FIND);
    put_place(st, at);
    int rc = step(st);
    *ret_id = 0;
    *ret_known = false;
    if (rc == SQLITE_ROW) {
        *ret_id = column(st, 0);
        *ret_known = column(st, 1);
        rc = SQLITE_DONE;
    }
    return finish(d, st, rc, e);
}

/* A target that moved leaves its objects at the old place, where they are nobody's business any more. */
static int find_or_create(struct inventory_db *d, const struct inventory_place *at, uint64_t *ret_id, bool *ret_new,
                          struct err *e)
{
    bool known;
    int r = find(d, at, ret_id, &known, e);
    *ret_new = r == 0 && !*ret_id;
    if (!*ret_new)
        return r;
    static const enum sql forget[] = {SQL_OTHER_PLACE, SQL_OTHER_REPLICA};
    sqlite3_stmt *st;
    for (size_t i = 0; i < ARRAY_LEN(forget); i++) {
        st = statement(d, forget[i]);
        put_place(st, at);
        r = run(d, st, e);
        if (r < 0)
            return r;
    }
    st = statement(d, SQL_CREATE);
    put_place(st, at);
    int rc = step(st);
    if (rc == SQLITE_ROW) {
        *ret_id = column(st, 0);
        rc = step(st);
    }
    return finish(d, st, rc, e);
}

static int set_known(struct inventory_db *d, uint64_t id, struct err *e)
{
    sqlite3_stmt *st = statement(d, SQL_KNOWN);
    put(st, 1, id);
    return run(d, st, e);
}

int inventory_db_start(struct inventory_db *d, const struct inventory_place *at, struct err *e)
{
    uint64_t id;
    bool created;
    int r = find_or_create(d, at, &id, &created, e);
    return r == 0 && created ? set_known(d, id, e) : r;
}

static int add(struct inventory_db *d, uint64_t id, const struct inventory_object *o, struct err *e)
{
    sqlite3_stmt *st = statement(d, SQL_ADD);
    put(st, 1, id);
    put(st, 2, o->level);
    put(st, 3, o->max);
    put(st, 4, o->min);
    put(st, 5, o->size);
    put(st, 6, (uint64_t)o->time_ms);
    put(st, 7, (uint64_t)clk_real_ms());
    return run(d, st, e);
}

int inventory_db_add(struct inventory_db *d, const struct inventory_place *at, const struct inventory_object *o,
                     struct err *e)
{
    uint64_t id;
    bool created;
    int r = find_or_create(d, at, &id, &created, e);
    return r < 0 ? r : add(d, id, o, e);
}

int inventory_db_doubt(struct inventory_db *d, struct err *e)
{
    return run(d, statement(d, SQL_DOUBT), e);
}

/* ---- facts ------------------------------------------------------------------------------------- */

static int levels(struct inventory_db *d, uint64_t id, struct inventory_facts *f, struct err *e)
{
    sqlite3_stmt *st = statement(d, SQL_LEVELS);
    int rc;
    put(st, 1, id);
    while ((rc = step(st)) == SQLITE_ROW) {
        uint64_t level = column(st, 0);
        if (level >= INVENTORY_LEVELS)
            continue;
        f->count[level] = column(st, 1);
        f->bytes[level] = column(st, 2);
        f->newest[level] = column(st, 3);
    }
    return finish(d, st, rc, e);
}

static int whole_ones(struct inventory_db *d, uint64_t id, struct retain_whole **ret, size_t *ret_n,
                      int64_t *ret_stored_ms, struct err *e)
{
    sqlite3_stmt *st = statement(d, SQL_WHOLE);
    cleanup_free struct retain_whole *w = malloc(WHOLE_MAX * sizeof *w);
    size_t n = 0;
    int rc;
    if (!w)
        return err_set(e, ERR_NOMEM, "no memory for a list of snapshots");
    put(st, 1, id);
    put(st, 2, WHOLE_MAX);
    while ((rc = step(st)) == SQLITE_ROW && n < WHOLE_MAX) {
        if (!n)
            *ret_stored_ms = (int64_t)column(st, 2);
        if (!n || w[n - 1].txid != column(st, 0)) /* the same one at two levels counts once */
            w[n++] = (struct retain_whole){column(st, 0), (int64_t)column(st, 1)};
    }
    int r = finish(d, st, rc, e);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n / 2; i++) {
        struct retain_whole t = w[i];
        w[i] = w[n - 1 - i];
        w[n - 1 - i] = t;
    }
    *ret = TAKE_PTR(w);
    *ret_n = n;
    return 0;
}

/* Two steps into indexes, and one for each level. */
static int anchor(struct inventory_db *d, uint64_t id, struct inventory_anchor *a, struct err *e)
{
    sqlite3_stmt *st = statement(d, SQL_ANCHOR);
    put(st, 1, id);
    int rc = step(st);
    if (rc == SQLITE_ROW) {
        a->whole = column(st, 0);
        a->level = (unsigned)column(st, 1);
        rc = SQLITE_DONE;
    }
    int r = finish(d, st, rc, e);
    for (unsigned level = 1; level < LTX_SNAPSHOT_LEVEL && r == 0; level++) {
        st = statement(d, SQL_MERGED);
        put(st, 1, id);
        put(st, 2, level);
        rc = step(st);
        if (rc == SQLITE_ROW) {
            a->merged = MAX(a->merged, column(st, 0));
            rc = SQLITE_DONE;
        }
        r = finish(d, st, rc, e);
    }
    return r;
}

struct wholes {
    const struct retain_whole *w; /* ascending by TXID */
    size_t n;
};

/* ---- lists ------------------------------------------------------------------------------------- */

static int objects(const struct inventory_db *d, sqlite3_stmt *st, struct inventory_object **ret, size_t *ret_n,
                   struct err *e)
{
    cleanup_free struct inventory_object *o = NULL;
    size_t n = 0, cap = 0;
    int rc;
    while ((rc = step(st)) == SQLITE_ROW) {
        if (n == cap) {
            cap = cap ? 2 * cap : 64;
            struct inventory_object *more = realloc(o, cap * sizeof *o);
            if (!more) {
                (void)sqlite3_reset(st);
                return err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", cap);
            }
            o = more;
        }
        o[n++] = (struct inventory_object){(unsigned)column(st, 0), column(st, 1), column(st, 2), column(st, 3),
                                           (int64_t)column(st, 4)};
    }
    int r = finish(d, st, rc, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(o);
    *ret_n = n;
    return 0;
}

/* The last TXID of level 0 that is older than its window; whole databases tell of time as well. */
static int old_l0(struct inventory_db *d, uint64_t id, const struct inventory_rules *rules, const struct wholes *w,
                  uint64_t *ret, struct err *e)
{
    struct retain_age a;
    size_t k = 0;
    int rc = SQLITE_DONE;
    bool more = rules->l0_window_ms < rules->window_ms;
    sqlite3_stmt *st = statement(d, SQL_L0);
    put(st, 1, id);
    retain_age_init(&a, rules->now_ms, rules->l0_window_ms);
    while (more && (rc = step(st)) == SQLITE_ROW) {
        uint64_t txid = column(st, 0);
        for (; more && k < w->n && w->w[k].txid <= txid; k++)
            more = retain_age_next(&a, w->w[k].txid, w->w[k].time_ms);
        more = more && retain_age_next(&a, txid, (int64_t)column(st, 1));
    }
    *ret = a.old_txid;
    return finish(d, st, rc == SQLITE_ROW ? SQLITE_DONE : rc, e);
}

static int doomed(struct inventory_db *d, uint64_t id, const struct inventory_rules *rules, const struct wholes *w,
                  uint64_t anchor, size_t limit, struct inventory_object **ret, size_t *ret_n, struct err *e)
{
    uint64_t old = 0;
    int r = old_l0(d, id, rules, w, &old, e);
    if (r < 0)
        return r;
    sqlite3_stmt *st = statement(d, SQL_DOOMED);
    put(st, 1, id);
    put(st, 2, anchor);
    put(st, 3, old);
    put(st, 4, limit);
    return objects(d, st, ret, ret_n, e);
}

/* When the next level 0 file is old enough to go before the window ends. */
static int first_l0(struct inventory_db *d, uint64_t id, const struct inventory_rules *rules, int64_t *due_ms,
                    struct err *e)
{
    if (rules->l0_window_ms >= rules->window_ms)
        return 0;
    sqlite3_stmt *st = statement(d, SQL_FIRST_L0);
    put(st, 1, id);
    int rc = step(st);
    if (rc == SQLITE_ROW) {
        int64_t at = MIN((int64_t)column(st, 0), rules->now_ms) + (int64_t)rules->l0_window_ms;
        /* one that nothing covers yet is looked at again later */
        at = MAX(at, rules->now_ms + (int64_t)rules->l0_window_ms / 4);
        *due_ms = *due_ms ? MIN(*due_ms, at) : at;
        rc = SQLITE_DONE;
    }
    return finish(d, st, rc, e);
}

static int facts(struct inventory_db *d, uint64_t id, struct inventory_req *req, struct err *e)
{
    struct inventory_facts *f = &req->facts;
    cleanup_free struct retain_whole *w = NULL;
    cleanup_free struct inventory_object *o = NULL;
    size_t n = 0, n_o = 0, limit = req->what == INVENTORY_DOOMED ? INVENTORY_BATCH : 1;
    int r = levels(d, id, f, e);
    if (r == 0)
        r = whole_ones(d, id, &w, &n, &f->snapshot_stored_ms, e);
    if (r < 0)
        return r;
    if (n) {
        f->oldest_ms = w[0].time_ms;
        f->snapshot_ms = w[n - 1].time_ms;
        f->snapshot_txid = w[n - 1].txid;
    }
    struct retain_verdict v = retain_judge(w, n, req->rules.now_ms, req->rules.window_ms);
    r = doomed(d, id, &req->rules, &(struct wholes){w, n}, v.anchor, limit, &o, &n_o, e);
    if (r == 0)
        r = first_l0(d, id, &req->rules, &v.due_ms, e);
    if (r < 0)
        return r;
    f->retain_due_ms = n_o ? req->rules.now_ms : v.due_ms;
    if (req->what == INVENTORY_DOOMED) {
        req->object = TAKE_PTR(o);
        req->n = n_o;
    }
    return 0;
}

/* ---- what a listing, or a deletion, says ------------------------------------------------------- */

static int set(struct inventory_db *d, const struct inventory_req *req, struct err *e)
{
    uint64_t id;
    bool created;
    int r = find_or_create(d, &req->at, &id, &created, e);
    if (r < 0)
        return r;
    sqlite3_stmt *st = statement(d, SQL_CLEAR);
    put(st, 1, id);
    put(st, 2, (uint64_t)req->since_ms);
    r = run(d, st, e);
    for (size_t i = 0; i < req->n && r == 0; i++)
        r = add(d, id, &req->object[i], e);
    return r < 0 ? r : set_known(d, id, e);
}

static int drop(struct inventory_db *d, uint64_t id, const struct inventory_req *req, struct err *e)
{
    int r = 0;
    for (size_t i = 0; i < req->n && r == 0; i++) {
        sqlite3_stmt *st = statement(d, SQL_REMOVE);
        put(st, 1, id);
        put(st, 2, req->object[i].level);
        put(st, 3, req->object[i].max);
        put(st, 4, req->object[i].min);
        r = run(d, st, e);
    }
    return r;
}

static int all(struct inventory_db *d, uint64_t id, struct inventory_req *req, struct err *e)
{
    sqlite3_stmt *st = statement(d, SQL_ALL);
    put(st, 1, id);
    return objects(d, st, &req->object, &req->n, e);
}

int inventory_db_do(struct inventory_db *d, struct inventory_req *req, struct err *e)
{
    uint64_t id;
    req->facts = (struct inventory_facts){.known = false};
    req->anchor = (struct inventory_anchor){.whole = 0};
    if (req->what == INVENTORY_SET)
        return set(d, req, e);
    int r = find(d, &req->at, &id, &req->facts.known, e);
    if (r < 0 || !id)
        return r;
    switch (req->what) {
    case INVENTORY_REMOVE:
        return drop(d, id, req, e);
    case INVENTORY_ALL:
        return all(d, id, req, e);
    case INVENTORY_ANCHOR:
        return anchor(d, id, &req->anchor, e);
    default:
        return facts(d, id, req, e);
    }
}

/* ---- due times, facts -------------------------------------------------------------------------- */

int inventory_db_due_set(struct inventory_db *d, const char *db, int64_t real_ms, struct err *e)
{
    sqlite3_stmt *st = statement(d, real_ms ? SQL_DUE_SET : SQL_DUE_CLEAR);
    put_text(st, 1, db);
    if (real_ms)
        put(st, 2, (uint64_t)real_ms);
    return run(d, st, e);
}

int inventory_db_due_each(struct inventory_db *d, void (*fn)(void *arg, const char *db, int64_t real_ms), void *arg,
                          struct err *e)
{
    sqlite3_stmt *st = statement(d, SQL_DUE_EACH);
    int rc;
    while ((rc = step(st)) == SQLITE_ROW)
        fn(arg, (const char *)sqlite3_column_text(st, 0), sqlite3_column_int64(st, 1));
    return finish(d, st, rc, e);
}

int64_t inventory_db_fact_get(struct inventory_db *d, const char *key)
{
    sqlite3_stmt *st = statement(d, SQL_FACT_GET);
    put_text(st, 1, key);
    int64_t v = step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    if (st)
        (void)sqlite3_reset(st);
    return v;
}

int inventory_db_fact_set(struct inventory_db *d, const char *key, int64_t value, struct err *e)
{
    sqlite3_stmt *st = statement(d, SQL_FACT_SET);
    put_text(st, 1, key);
    put(st, 2, (uint64_t)value);
    return run(d, st, e);
}

/* ---- the file ---------------------------------------------------------------------------------- */

int inventory_db_begin(struct inventory_db *d, struct err *e)
{
    return exec(d, "BEGIN IMMEDIATE", e);
}

int inventory_db_commit(struct inventory_db *d, struct err *e)
{
    int r = exec(d, "COMMIT", e);
    if (r < 0)
        inventory_db_rollback(d);
    return r;
}

void inventory_db_rollback(struct inventory_db *d)
{
    (void)sqlite3_exec(d->db, "ROLLBACK", NULL, NULL, NULL);
}

static int version(struct inventory_db *d, struct err *e)
{
    sqlite3_stmt *st;
    int r = 0, v = -1;
    if (sqlite3_prepare_v2(d->db, "PRAGMA user_version", -1, &st, NULL) != SQLITE_OK)
        return failed(d, e);
    if (sqlite3_step(st) == SQLITE_ROW)
        v = sqlite3_column_int(st, 0);
    else
        r = failed(d, e);
    (void)sqlite3_finalize(st);
    if (r < 0 || v == atoi(FORMAT_VERSION))
        return r;
    if (v)
        return err_set(e, ERR_CORRUPT, "%s is of version %d, this walsupd has version " FORMAT_VERSION, d->path, v);
    return 0;
}

/* What the last process did at its end may be missing here, unless it said that it was done. The mark must be
 * on the disk before anything is stored. */
static int mark_open(struct inventory_db *d, struct err *e)
{
    int r = 0;
    if (inventory_db_fact_get(d, "clean") != 1)
        r = inventory_db_doubt(d, e);
    if (r == 0)
        r = exec(d, "PRAGMA synchronous=FULL", e);
    if (r == 0)
        r = inventory_db_fact_set(d, "clean", 0, e);
    return r < 0 ? r : exec(d, "PRAGMA synchronous=NORMAL", e);
}

static int try_open(const char *path, struct inventory_db **ret, struct err *e)
{
    struct inventory_db *d = util_zalloc(sizeof *d);
    d->path = util_strdup(path);
    int r = 0;
    if (sqlite3_open_v2(path, &d->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_PRIVATECACHE, NULL) !=
        SQLITE_OK)
        r = failed(d, e);
    if (r == 0)
        r = version(d, e);
    if (r == 0)
        r = exec(d, schema, e);
    if (r == 0)
        r = exec(d, "PRAGMA user_version=" FORMAT_VERSION, e);
    if (r == 0)
        r = mark_open(d, e);
    if (r < 0)
        (void)inventory_db_close(d, false);
    else
        *ret = d;
    return r;
}

int inventory_db_open(const char *path, struct inventory_db **ret, struct err *e)
{
    int r = try_open(path, ret, e);
    if (r != -(int)ERR_CORRUPT)
        return r;
    log_err(LOG_WARN, e, "the inventory is begun anew, and replicas are listed when something is to be deleted");
    static const char *const suffix[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < ARRAY_LEN(suffix); i++) {
        cleanup_free char *file = util_printf("%s%s", path, suffix[i]);
        r = fsx_unlink(file, e);
        if (r < 0)
            return r;
    }
    return try_open(path, ret, e);
}

struct inventory_db *inventory_db_close(struct inventory_db *d, bool clean)
{
    if (!d)
        return NULL;
    if (clean)
        (void)inventory_db_fact_set(d, "clean", 1, NULL);
    for (size_t i = 0; i < SQL_COUNT; i++)
        (void)sqlite3_finalize(d->stmt[i]);
    (void)sqlite3_close(d->db);
    free(d->path);
    free(d);
    return NULL;
}
