#include "daemon/replica/inventory_db.h"

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/base/log.h"
#include "daemon/replica/inventory_sql.h"
#include "daemon/replica/retain.h"

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

/* ---- replicas ---------------------------------------------------------------------------------- */

static void put_place(sqlite3_stmt *st, const struct inventory_place *at)
{
    sql_put_text(st, 1, at->db);
    sql_put_text(st, 2, at->target);
    sql_put(st, 3, at->place);
}

/* 0 and *ret_id 0: there is none. */
static int find(struct inventory_db *d, const struct inventory_place *at, uint64_t *ret_id, bool *ret_known,
                struct err *e)
{
    sqlite3_stmt *st = sql_statement(d, SQL_FIND);
    put_place(st, at);
    int rc = sql_step(st);
    *ret_id = 0;
    *ret_known = false;
    if (rc == SQLITE_ROW) {
        *ret_id = sql_column(st, 0);
        *ret_known = sql_column(st, 1);
        rc = SQLITE_DONE;
    }
    return sql_finish(d, st, rc, e);
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
        st = sql_statement(d, forget[i]);
        put_place(st, at);
        r = sql_run(d, st, e);
        if (r < 0)
            return r;
    }
    st = sql_statement(d, SQL_CREATE);
    put_place(st, at);
    int rc = sql_step(st);
    if (rc == SQLITE_ROW) {
        *ret_id = sql_column(st, 0);
        rc = sql_step(st);
    }
    return sql_finish(d, st, rc, e);
}

static int set_known(struct inventory_db *d, uint64_t id, struct err *e)
{
    sqlite3_stmt *st = sql_statement(d, SQL_KNOWN);
    sql_put(st, 1, id);
    return sql_run(d, st, e);
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
    sqlite3_stmt *st = sql_statement(d, SQL_ADD);
    sql_put(st, 1, id);
    sql_put(st, 2, o->level);
    sql_put(st, 3, o->max);
    sql_put(st, 4, o->min);
    sql_put(st, 5, o->size);
    sql_put(st, 6, (uint64_t)o->time_ms);
    sql_put(st, 7, (uint64_t)clk_real_ms());
    return sql_run(d, st, e);
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
    return sql_run(d, sql_statement(d, SQL_DOUBT), e);
}

/* ---- facts ------------------------------------------------------------------------------------- */

static int levels(struct inventory_db *d, uint64_t id, struct inventory_facts *f, struct err *e)
{
    sqlite3_stmt *st = sql_statement(d, SQL_LEVELS);
    int rc;
    sql_put(st, 1, id);
    while ((rc = sql_step(st)) == SQLITE_ROW) {
        uint64_t level = sql_column(st, 0);
        if (level >= INVENTORY_LEVELS)
            continue;
        f->count[level] = sql_column(st, 1);
        f->bytes[level] = sql_column(st, 2);
        f->newest[level] = sql_column(st, 3);
    }
    return sql_finish(d, st, rc, e);
}

static int whole_ones(struct inventory_db *d, uint64_t id, struct retain_whole **ret, size_t *ret_n,
                      int64_t *ret_stored_ms, struct err *e)
{
    sqlite3_stmt *st = sql_statement(d, SQL_WHOLE);
    cleanup_free struct retain_whole *w = malloc(WHOLE_MAX * sizeof *w);
    size_t n = 0;
    int rc;
    if (!w)
        return err_set(e, ERR_NOMEM, "no memory for a list of snapshots");
    sql_put(st, 1, id);
    sql_put(st, 2, WHOLE_MAX);
    while ((rc = sql_step(st)) == SQLITE_ROW && n < WHOLE_MAX) {
        if (!n)
            *ret_stored_ms = (int64_t)sql_column(st, 2);
        if (!n || w[n - 1].txid != sql_column(st, 0)) /* the same one at two levels counts once */
            w[n++] = (struct retain_whole){sql_column(st, 0), (int64_t)sql_column(st, 1)};
    }
    int r = sql_finish(d, st, rc, e);
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
    sqlite3_stmt *st = sql_statement(d, SQL_ANCHOR);
    sql_put(st, 1, id);
    int rc = sql_step(st);
    if (rc == SQLITE_ROW) {
        a->whole = sql_column(st, 0);
        a->level = (unsigned)sql_column(st, 1);
        rc = SQLITE_DONE;
    }
    int r = sql_finish(d, st, rc, e);
    for (unsigned level = 1; level < LTX_SNAPSHOT_LEVEL && r == 0; level++) {
        st = sql_statement(d, SQL_MERGED);
        sql_put(st, 1, id);
        sql_put(st, 2, level);
        rc = sql_step(st);
        if (rc == SQLITE_ROW) {
            a->merged = MAX(a->merged, sql_column(st, 0));
            rc = SQLITE_DONE;
        }
        r = sql_finish(d, st, rc, e);
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
    while ((rc = sql_step(st)) == SQLITE_ROW) {
        if (n == cap) {
            cap = cap ? 2 * cap : 64;
            struct inventory_object *more = realloc(o, cap * sizeof *o);
            if (!more) {
                (void)sqlite3_reset(st);
                return err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", cap);
            }
            o = more;
        }
        o[n++] = (struct inventory_object){(unsigned)sql_column(st, 0), sql_column(st, 1),
                                           sql_column(st, 2), sql_column(st, 3),
                                           (int64_t)sql_column(st, 4)};
    }
    int r = sql_finish(d, st, rc, e);
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
    sqlite3_stmt *st = sql_statement(d, SQL_L0);
    sql_put(st, 1, id);
    retain_age_init(&a, rules->now_ms, rules->l0_window_ms);
    while (more && (rc = sql_step(st)) == SQLITE_ROW) {
        uint64_t txid = sql_column(st, 0);
        for (; more && k < w->n && w->w[k].txid <= txid; k++)
            more = retain_age_next(&a, w->w[k].txid, w->w[k].time_ms);
        more = more && retain_age_next(&a, txid, (int64_t)sql_column(st, 1));
    }
    *ret = a.old_txid;
    return sql_finish(d, st, rc == SQLITE_ROW ? SQLITE_DONE : rc, e);
}

static int doomed(struct inventory_db *d, uint64_t id, const struct inventory_rules *rules, const struct wholes *w,
                  uint64_t anchor, size_t limit, struct inventory_object **ret, size_t *ret_n, struct err *e)
{
    uint64_t old = 0;
    int r = old_l0(d, id, rules, w, &old, e);
    if (r < 0)
        return r;
    sqlite3_stmt *st = sql_statement(d, SQL_DOOMED);
    sql_put(st, 1, id);
    sql_put(st, 2, anchor);
    sql_put(st, 3, old);
    sql_put(st, 4, limit);
    return objects(d, st, ret, ret_n, e);
}

/* When the next level 0 file is old enough to go before the window ends. */
static int first_l0(struct inventory_db *d, uint64_t id, const struct inventory_rules *rules, int64_t *due_ms,
                    struct err *e)
{
    if (rules->l0_window_ms >= rules->window_ms)
        return 0;
    sqlite3_stmt *st = sql_statement(d, SQL_FIRST_L0);
    sql_put(st, 1, id);
    int rc = sql_step(st);
    if (rc == SQLITE_ROW) {
        int64_t at = MIN((int64_t)sql_column(st, 0), rules->now_ms) + (int64_t)rules->l0_window_ms;
        /* one that nothing covers yet is looked at again later */
        at = MAX(at, rules->now_ms + (int64_t)rules->l0_window_ms / 4);
        *due_ms = *due_ms ? MIN(*due_ms, at) : at;
        rc = SQLITE_DONE;
    }
    return sql_finish(d, st, rc, e);
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
    sqlite3_stmt *st = sql_statement(d, SQL_CLEAR);
    sql_put(st, 1, id);
    sql_put(st, 2, (uint64_t)req->since_ms);
    r = sql_run(d, st, e);
    for (size_t i = 0; i < req->n && r == 0; i++)
        r = add(d, id, &req->object[i], e);
    return r < 0 ? r : set_known(d, id, e);
}

static int drop(struct inventory_db *d, uint64_t id, const struct inventory_req *req, struct err *e)
{
    int r = 0;
    for (size_t i = 0; i < req->n && r == 0; i++) {
        sqlite3_stmt *st = sql_statement(d, SQL_REMOVE);
        sql_put(st, 1, id);
        sql_put(st, 2, req->object[i].level);
        sql_put(st, 3, req->object[i].max);
        sql_put(st, 4, req->object[i].min);
        r = sql_run(d, st, e);
    }
    return r;
}

static int all(struct inventory_db *d, uint64_t id, struct inventory_req *req, struct err *e)
{
    sqlite3_stmt *st = sql_statement(d, SQL_ALL);
    sql_put(st, 1, id);
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
    sqlite3_stmt *st = sql_statement(d, real_ms ? SQL_DUE_SET : SQL_DUE_CLEAR);
    sql_put_text(st, 1, db);
    if (real_ms)
        sql_put(st, 2, (uint64_t)real_ms);
    return sql_run(d, st, e);
}

int inventory_db_due_each(struct inventory_db *d, void (*fn)(void *arg, const char *db, int64_t real_ms), void *arg,
                          struct err *e)
{
    sqlite3_stmt *st = sql_statement(d, SQL_DUE_EACH);
    int rc;
    while ((rc = sql_step(st)) == SQLITE_ROW)
        fn(arg, (const char *)sqlite3_column_text(st, 0), sqlite3_column_int64(st, 1));
    return sql_finish(d, st, rc, e);
}

int64_t inventory_db_fact_get(struct inventory_db *d, const char *key)
{
    sqlite3_stmt *st = sql_statement(d, SQL_FACT_GET);
    sql_put_text(st, 1, key);
    int64_t v = sql_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    if (st)
        (void)sqlite3_reset(st);
    return v;
}

int inventory_db_fact_set(struct inventory_db *d, const char *key, int64_t value, struct err *e)
{
    sqlite3_stmt *st = sql_statement(d, SQL_FACT_SET);
    sql_put_text(st, 1, key);
    sql_put(st, 2, (uint64_t)value);
    return sql_run(d, st, e);
}

/* ---- the file ---------------------------------------------------------------------------------- */

int inventory_db_begin(struct inventory_db *d, struct err *e)
{
    return sql_exec(d, "BEGIN IMMEDIATE", e);
}

int inventory_db_commit(struct inventory_db *d, struct err *e)
{
    int r = sql_exec(d, "COMMIT", e);
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
        return sql_failed(d, e);
    if (sqlite3_step(st) == SQLITE_ROW)
        v = sqlite3_column_int(st, 0);
    else
        r = sql_failed(d, e);
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
        r = sql_exec(d, "PRAGMA synchronous=FULL", e);
    if (r == 0)
        r = inventory_db_fact_set(d, "clean", 0, e);
    return r < 0 ? r : sql_exec(d, "PRAGMA synchronous=NORMAL", e);
}

static int try_open(const char *path, struct inventory_db **ret, struct err *e)
{
    struct inventory_db *d = util_zalloc(sizeof *d);
    d->path = util_strdup(path);
    int r = 0;
    if (sqlite3_open_v2(path, &d->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_PRIVATECACHE, NULL) !=
        SQLITE_OK)
        r = sql_failed(d, e);
    if (r == 0)
        r = version(d, e);
    if (r == 0)
        r = sql_exec(d, schema, e);
    if (r == 0)
        r = sql_exec(d, "PRAGMA user_version=" FORMAT_VERSION, e);
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
