#include "daemon/replica/inventory_sql.h"

/* Objects that may be deleted. ?2 anchor, ?3 L0 files up to this TXID may go if a higher level has them.
 * The newest file of a level always stays: Litestream, taking over, goes on from it. */
#define DOOMED                                                                                                \
    "FROM object AS o WHERE replica = ?1 AND (CASE WHEN min = 1 THEN max < ?2 ELSE max <= ?2 END"              \
    " OR (level = 0 AND max <= ?3 AND min > 1 AND EXISTS (SELECT 1 FROM object AS c WHERE c.replica = ?1"  \
    " AND c.level BETWEEN 1 AND 3 AND c.max >= o.max AND c.min <= o.min)))"                                    \
    " AND (level = 9 OR max < (SELECT max(max) FROM object AS n WHERE n.replica = ?1 AND n.level = o.level))"

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

int sql_failed(const struct inventory_db *d, struct err *e)
{
    int rc = sqlite3_errcode(d->db);
    enum err_code code = rc == SQLITE_FULL                                ? ERR_NOSPC
                         : rc == SQLITE_NOMEM                             ? ERR_NOMEM
                         : rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB    ? ERR_CORRUPT
                                                                          : ERR_IO;
    bool known = rc != SQLITE_OK && rc != SQLITE_ROW && rc != SQLITE_DONE; /* else a later call has replaced it */
    return err_set(e, code, "%s: %s", d->path, known ? sqlite3_errmsg(d->db) : "a statement could not be carried out");
}

int sql_exec(struct inventory_db *d, const char *sql, struct err *e)
{
    return sqlite3_exec(d->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : sql_failed(d, e);
}

sqlite3_stmt *sql_statement(struct inventory_db *d, enum sql id)
{
    sqlite3_stmt **st = &d->stmt[id];
    if (!*st && sqlite3_prepare_v3(d->db, sql_text[id], -1, SQLITE_PREPARE_PERSISTENT, st, NULL) != SQLITE_OK)
        return NULL;
    (void)sqlite3_reset(*st);
    return *st;
}

void sql_put(sqlite3_stmt *st, int at, uint64_t v)
{
    if (st)
        (void)sqlite3_bind_int64(st, at, (sqlite3_int64)v);
}

void sql_put_text(sqlite3_stmt *st, int at, const char *s)
{
    if (st)
        (void)sqlite3_bind_text(st, at, s, -1, SQLITE_STATIC);
}

uint64_t sql_column(sqlite3_stmt *st, int at)
{
    return (uint64_t)sqlite3_column_int64(st, at);
}

int sql_step(sqlite3_stmt *st)
{
    return st ? sqlite3_step(st) : SQLITE_ERROR;
}

int sql_finish(const struct inventory_db *d, sqlite3_stmt *st, int rc, struct err *e)
{
    int r = rc == SQLITE_DONE ? 0 : sql_failed(d, e);
    if (st)
        (void)sqlite3_reset(st);
    return r;
}

int sql_run(const struct inventory_db *d, sqlite3_stmt *st, struct err *e)
{
    return sql_finish(d, st, sql_step(st), e);
}
