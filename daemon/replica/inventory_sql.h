/* inventory_sql.h - the statements of state.db: prepared once, by number, bound and stepped. For inventory_db.c. One
 * thread at a time. A statement that cannot be prepared is NULL, which every function but sql_column takes; the error
 * comes out at its end. */
#ifndef WALSUP_INVENTORY_SQL_H
#define WALSUP_INVENTORY_SQL_H

#include <sqlite3.h>

#include "daemon/replica/inventory_db.h"

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

struct inventory_db {
    sqlite3 *db;
    char *path;
    sqlite3_stmt *stmt[SQL_COUNT];
};

/** sql_failed(d, e): what the last call of SQLite failed of. sql_exec(d, sql, e): statements without results. */
int sql_failed(const struct inventory_db *d, struct err *e);
int sql_exec(struct inventory_db *d, const char *sql, struct err *e);
/** sql_statement(d, id): reset; its bindings are those of the last time. It stays d's. */
sqlite3_stmt *sql_statement(struct inventory_db *d, enum sql id);
/** sql_put(st, at, v), sql_put_text(st, at, s): bind; s stays valid until the statement is finished. */
void sql_put(sqlite3_stmt *st, int at, uint64_t v);
void sql_put_text(sqlite3_stmt *st, int at, const char *s);
uint64_t sql_column(sqlite3_stmt *st, int at);
/** sql_step(st): SQLITE_ROW, SQLITE_DONE, or an error of whatever step it was. */
int sql_step(sqlite3_stmt *st);
/** sql_finish(d, st, rc, e): reset it; rc is what the last step said, and anything but SQLITE_DONE is an error.
 * sql_run(d, st, e): one step, then that. */
int sql_finish(const struct inventory_db *d, sqlite3_stmt *st, int rc, struct err *e);
int sql_run(const struct inventory_db *d, sqlite3_stmt *st, struct err *e);

#endif
