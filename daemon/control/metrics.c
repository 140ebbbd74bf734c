#include "daemon/control/metrics.h"

#include <sqlite3.h>

#include "common/base/clk.h"
#include "daemon/control/status.h"
#include "daemon/core/patterns.h"

/* A value that is not known yields no sample. */
static bool known_time(int64_t ms, int64_t *ret)
{
    *ret = ms;
    return ms != 0;
}

static bool count(uint64_t n, int64_t *ret)
{
    *ret = (int64_t)n * 1000;
    return true;
}

static bool daemon_value(struct manager *m, enum metrics_id id, int64_t *ret)
{
    switch (id) {
    case METRICS_BUILD_INFO:
        return count(1, ret);
    case METRICS_START_TIME:
        return known_time(m->started_ms, ret);
    case METRICS_PATTERNS_LOST:
        return count(patterns_lost(m), ret);
    case METRICS_SESSIONS:
        return count(berths_taken(m->berths), ret);
    case METRICS_LOOP_DELAY:
        *ret = (int64_t)(loopmeter_max_ns(&m->meter) / 1000000);
        return true;
    case METRICS_LOOP_BUSY:
        *ret = (int64_t)(m->meter.busy_ns / 1000000);
        return true;
    default:
        return false;
    }
}

static bool db_value(const struct database *db, enum metrics_id id, int64_t *ret)
{
    switch (id) {
    case METRICS_DB_HEALTH:
        return count((uint64_t)status_health(db), ret);
    case METRICS_DB_ERROR:
        return count(db->retry.failures != 0, ret);
    case METRICS_DB_TXID:
        return count(db->txid, ret);
    case METRICS_DB_BYTES:
        return count((uint64_t)db->seen.pages * db->seen.page_size, ret);
    case METRICS_DB_WAL:
        return count(db->seen.wal_bytes, ret);
    case METRICS_DB_SPOOL_BYTES:
        return count(db->spool_bytes, ret);
    case METRICS_DB_SPOOL_FILES:
        return count(status_spool_files(db), ret);
    case METRICS_DB_CAPTURES:
        return count(db->seen.count.captures, ret);
    case METRICS_DB_MERGES:
        return count(db->seen_merges, ret);
    case METRICS_DB_COMMIT:
        return known_time(db->last_commit_ms, ret);
    case METRICS_DB_VERIFY_TIME:
        return known_time(db->drill.time_ms, ret);
    case METRICS_DB_VERIFY_RESULT:
        return count((uint64_t)db->drill.result, ret) && (db->drill.time_ms || db->drill.text);
    default:
        return false;
    }
}

static bool replica_value(const struct database *db, size_t i, enum metrics_id id, int64_t *ret)
{
    const struct uploader *u = db->up[i];
    uint64_t files;
    int64_t since;
    switch (id) {
    case METRICS_REPLICA_LAG:
        *ret = (int64_t)status_lag_ms(u);
        return true;
    case METRICS_REPLICA_LAG_BYTES:
        return count(uploader_pending(u, &files) + db->seen.pending_bytes, ret);
    case METRICS_REPLICA_TXID:
        return count(u->acked, ret) && u->known;
    case METRICS_REPLICA_SUCCESS:
        return known_time(u->last_success_ms, ret);
    case METRICS_REPLICA_ERROR:
        return count(u->fenced || u->retry.failures, ret);
    case METRICS_REPLICA_FAILURES:
        return count(u->retry.failures, ret);
    case METRICS_REPLICA_HISTORY_ERROR:
        return count(history_trouble(db, i, &since) != NULL, ret);
    case METRICS_REPLICA_SNAPSHOT:
        return known_time(u->snapshot_ms, ret);
    case METRICS_REPLICA_OLDEST:
        return known_time(u->oldest_ms, ret);
    case METRICS_REPLICA_UPLOADS:
        return count(u->uploads, ret);
    case METRICS_REPLICA_UPLOADED:
        return count(u->bytes, ret);
    case METRICS_REPLICA_DELETED:
        return count(u->deleted, ret);
    default:
        return false;
    }
}

/* ---- one sample after the other ------------------------------------------------------------------ */

/* Each writes the sample at `at` and moves it; false: there is none there any more. */

static bool of_daemon(struct manager *m, struct metrics_at *at, struct buf *out)
{
    const char *build[] = {WALSUP_VERSION, sqlite3_libversion()};
    int64_t v;
    if (at->n++)
        return false;
    if (daemon_value(m, (enum metrics_id)at->metric, &v))
        metrics_sample(out, (enum metrics_id)at->metric, build, v);
    return true;
}

static bool of_state(struct manager *m, struct metrics_at *at, struct buf *out)
{
    size_t n[DB_STATES] = {0};
    if (at->n++)
        return false;
    active_unproven(&m->active, SIZE_MAX);
    n[DB_IDLE] = m->n_dbs - m->active.n;
    for (size_t i = 0; i < m->active.n; i++)
        n[status_state(m->active.db[i])]++;
    for (size_t i = 0; i < DB_STATES; i++)
        metrics_sample(out, (enum metrics_id)at->metric, &db_state_row((enum db_state)i)->word, (int64_t)n[i] * 1000);
    return true;
}

static bool of_requests(struct manager *m, struct metrics_at *at, struct buf *out)
{
    if (at->n >= m->n_targets)
        return false;
    const struct manager_target *t = m->target[at->n++];
    const struct store_counters *c = store_counters(t->store);
    for (int op = 0; op < STORE_N_OPS; op++)
        for (int o = 0; o < STORE_N_OUTCOMES; o++) {
            const char *values[] = {t->name, store_op_name((enum store_op)op),
                                    store_outcome_name((enum store_outcome)o)};
            if (c->requests[op][o])
                metrics_sample(out, (enum metrics_id)at->metric, values, (int64_t)c->requests[op][o] * 1000);
        }
    return true;
}

static bool of_bytes(struct manager *m, struct metrics_at *at, struct buf *out)
{
    if (at->n >= m->n_targets)
        return false;
    const struct manager_target *t = m->target[at->n++];
    for (int op = 0; op < STORE_N_OPS; op++) {
        const char *values[] = {t->name, store_op_name((enum store_op)op)};
        uint64_t bytes = store_counters(t->store)->bytes[op];
        if (bytes)
            metrics_sample(out, (enum metrics_id)at->metric, values, (int64_t)bytes * 1000);
    }
    return true;
}

static bool of_db(struct manager *m, struct metrics_at *at, struct buf *out)
{
    int64_t v;
    if (at->n >= m->n_dbs)
        return false;
    const struct database *db = m->db[at->n++];
    const char *values[] = {db->name};
    if (db_value(db, (enum metrics_id)at->metric, &v))
        metrics_sample(out, (enum metrics_id)at->metric, values, v);
    return true;
}

static bool of_replica(struct manager *m, struct metrics_at *at, struct buf *out)
{
    int64_t v;
    if (at->n >= m->n_dbs)
        return false;
    const struct database *db = m->db[at->n++];
    for (size_t i = 0; i < db->n_up; i++) {
        const char *values[] = {db->name, db->up[i]->target};
        if (replica_value(db, i, (enum metrics_id)at->metric, &v))
            metrics_sample(out, (enum metrics_id)at->metric, values, v);
    }
    return true;
}

bool metrics_piece(struct manager *m, struct metrics_at *at, struct buf *out, size_t bytes)
{
    static bool (*const next[])(struct manager *m, struct metrics_at *at, struct buf *out) = {
        [METRICS_OF_DAEMON] = of_daemon, [METRICS_OF_STATE] = of_state,   [METRICS_OF_REQUESTS] = of_requests,
        [METRICS_OF_BYTES] = of_bytes,   [METRICS_OF_DB] = of_db,         [METRICS_OF_REPLICA] = of_replica,
    };
    size_t end = out->len + bytes;
    while (at->metric < METRICS_N && out->len < end) {
        if (!at->n)
            metrics_head(out, (enum metrics_id)at->metric);
        if (next[metrics_row[at->metric].scope](m, at, out))
            continue;
        at->n = 0;
        at->metric++;
    }
    return at->metric < METRICS_N;
}
