#include "daemon/control/status.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/format/proto.h"
#include "daemon/core/patterns.h"

/* A replica counts as late when it lacks something for longer than this beyond its interval. */
#define LATE_MS 5000
#define PENDING_MS 5000 /* what begins may take so long */
#define STALLED_MS 10000 /* a job that is not begun, or does not get on */
#define PARKED_MS 60000  /* in one call of which it was said that it takes time */

uint64_t status_lag_ms(const struct uploader *u)
{
    const struct database *db = u->db;
    if (db->ahead_ms)
        return (uint64_t)MAX(clk_real_ms() - db->ahead_ms, (int64_t)1);
    for (size_t i = 0; i < db->n_files; i++)
        if (db->file[i].txid > u->acked)
            return (uint64_t)MAX(clk_real_ms() - db->file[i].timestamp_ms, (int64_t)1);
    return 0;
}

static enum replica_state replica_state(const struct uploader *u)
{
    if (u->fenced)
        return REPLICA_FENCED;
    if (u->retry.failures)
        return REPLICA_ERROR;
    if (!u->known)
        return REPLICA_STARTING;
    return status_lag_ms(u) > u->interval_ms + LATE_MS ? REPLICA_BEHIND : REPLICA_OK;
}

/* A job that no worker has taken, or that has stopped getting on. */
static bool stalled(const struct database *db, uint64_t now)
{
    enum beat_state beat;
    if (!db->run || now < db->run->started_ms + STALLED_MS)
        return false;
    uint64_t still = beat_still_ms(&db->run->beat, now, &beat);
    return still > (beat == BEAT_PARKED ? PARKED_MS : STALLED_MS);
}

/* For how long nobody has compared the files with what was captured. */
static uint64_t unproven_ms(const struct database *db, uint64_t now)
{
    uint64_t at = db->state == SOURCE_ASLEEP ? active_proof_ms(db) : db->audited_ms;
    return now > at ? now - at : 0;
}

static enum db_state state_of_replicas(const struct database *db)
{
    bool starting = !db->txid;
    for (size_t i = 0; i < db->n_up; i++)
        switch (replica_state(db->up[i])) {
        case REPLICA_OK:
            break;
        case REPLICA_STARTING:
            starting = true;
            break;
        case REPLICA_BEHIND:
        case REPLICA_ERROR:
        case REPLICA_FENCED:
        case REPLICA_STATES:
            return DB_BEHIND;
        }
    return starting ? DB_STARTING : db->state == SOURCE_ASLEEP ? DB_IDLE : DB_REPLICATING;
}

enum db_state status_state(const struct database *db)
{
    uint64_t now = clk_mono_ms();
    if (db->pause)
        return DB_PAUSED;
    if (db->retry.failures)
        return DB_FAILED;
    if (stalled(db, now))
        return DB_STALLED;
    if (!db->attached_once)
        return DB_STARTING;
    switch (db->state) {
    case SOURCE_LOADED:
        return DB_STARTING;
    case SOURCE_WAITING:
        return db->has_history || db->txid ? DB_MISSING : DB_WAITING;
    case SOURCE_NOT_WAL:
        return DB_NOT_WAL;
    case SOURCE_BUSY:
        return DB_LOCKED;
    case SOURCE_ARRIVING:
        return DB_COPYING;
    case SOURCE_ATTACHED:
    case SOURCE_ASLEEP:
        break;
    }
    if (db->doubt.why)
        return DB_UNSEEN;
    return unproven_ms(db, now) > active_proof_limit_ms(db) ? DB_UNPROVEN : state_of_replicas(db);
}

/* What is only beginning is no trouble yet. */
static enum status_health health_of(enum severity s, int64_t since_ms)
{
    switch (s) {
    case SEVERITY_HEALTHY:
        return STATUS_HEALTHY;
    case SEVERITY_PENDING:
        return clk_real_ms() > since_ms + PENDING_MS || clk_real_ms() < since_ms ? STATUS_DEGRADED : STATUS_HEALTHY;
    case SEVERITY_DEGRADED:
        return STATUS_DEGRADED;
    case SEVERITY_FAILED:
        return STATUS_FAILED;
    }
    return STATUS_FAILED;
}

enum status_health status_health(const struct database *db)
{
    int64_t since;
    enum status_health h = health_of(db_state_row(status_state(db))->severity, db->since_ms);
    for (size_t i = 0; i < db->n_up && h == STATUS_HEALTHY; i++)
        if (history_trouble(db, i, &since))
            h = STATUS_DEGRADED;
    return h == STATUS_HEALTHY && drill_is_bad(db) ? STATUS_DEGRADED : h;
}

bool status_at_rest(const struct database *db)
{
    struct beat *beat[DATABASE_BEATS];
    if (db->state != SOURCE_ASLEEP || db->history || database_beats(db, beat))
        return false;
    for (size_t i = 0; i < db->n_up; i++)
        if (status_lag_ms(db->up[i]))
            return false;
    return status_state(db) == DB_IDLE && status_health(db) == STATUS_HEALTHY && hook_at_rest(db->owner);
}

static json_t *json_time(int64_t ms)
{
    return ms ? json_integer(ms) : json_null();
}

static int64_t wall_of(uint64_t mono_ms)
{
    return clk_real_ms() + (int64_t)mono_ms - (int64_t)clk_mono_ms();
}

static json_t *replica_error(const struct uploader *u)
{
    if (!u->err)
        return json_null();
    return json_pack("{s:s, s:s, s:s, s:o, s:i, s:o}", "code", err_name(u->err->code), "message",
                     u->err->msg, "hint", u->err->hint, "since_ms", json_time(u->retry.since_ms),
                     "failures", (int)u->retry.failures, "next_retry_ms",
                     json_time(u->retry_at_ms ? wall_of(u->retry_at_ms) : 0));
}

static json_t *txid_json(uint64_t txid)
{
    char hex[17];
    (void)snprintf(hex, sizeof hex, "%016" PRIx64, txid);
    return json_string(hex);
}

/* uploaded since the start, by level */
static json_t *level_bytes_json(const struct uploader *u)
{
    json_t *j = json_object();
    for (unsigned i = 0; i < ARRAY_LEN(u->level_bytes); i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "%u", i);
        if (u->level_bytes[i])
            json_object_set_new(j, name, json_integer((json_int_t)u->level_bytes[i]));
    }
    return j;
}

static json_t *history_error(const struct uploader *u)
{
    int64_t since = 0;
    size_t i = 0;
    while (u->db->up[i] != u)
        i++;
    const struct err *e = history_trouble(u->db, i, &since);
    return e ? json_pack("{s:s, s:s, s:s, s:o}", "code", err_name(e->code), "message", e->msg, "hint", e->hint,
                         "since_ms", json_time(since))
             : json_null();
}

static const char *fencing_text(const struct store *s)
{
    enum store_fencing f = store_fencing(s);
    return f == STORE_FENCING_ON ? "on" : f == STORE_FENCING_OFF ? "off" : "unknown";
}

static json_t *replica_json(const struct uploader *u)
{
    uint64_t files;
    uint64_t bytes = uploader_pending(u, &files);
    cleanup_free char *where = util_printf("%s%s%s", store_describe(u->store),
                                           u->replica[0] ? " replica " : "", u->replica);
    json_t *r = json_object();
    json_object_set_new(r, "target", json_string(u->target));
    json_object_set_new(r, "location", json_string(where));
    json_object_set_new(r, "state", json_string(replica_state_row(replica_state(u))->word));
    json_object_set_new(r, "fencing", json_string(fencing_text(u->store)));
    const struct store_peer *peer = store_peer(u->store);
    json_object_set_new(r, "provider", peer ? json_string(peer->provider) : json_null());
    json_object_set_new(r, "skip_verify", json_boolean(peer && peer->skip_verify));
    json_object_set_new(r, "txid", txid_json(u->acked));
    json_object_set_new(r, "lag_bytes", json_integer((json_int_t)(bytes + u->db->seen.pending_bytes)));
    json_object_set_new(r, "lag_ms", json_integer((json_int_t)status_lag_ms(u)));
    json_object_set_new(r, "pending_files", json_integer((json_int_t)files));
    json_object_set_new(r, "pending_bytes", json_integer((json_int_t)bytes));
    json_object_set_new(r, "uploads", json_integer((json_int_t)u->uploads));
    json_object_set_new(r, "uploaded_bytes", json_integer((json_int_t)u->bytes));
    json_object_set_new(r, "sync_interval_ms", json_integer((json_int_t)u->interval_ms));
    json_object_set_new(r, "last_success_ms", json_time(u->last_success_ms));
    json_object_set_new(r, "snapshot_txid", u->snapshot_txid ? txid_json(u->snapshot_txid) : json_null());
    json_object_set_new(r, "snapshot_ms", json_time(u->snapshot_ms));
    json_object_set_new(r, "oldest_ms", json_time(u->oldest_ms));
    json_object_set_new(r, "deleted_files", json_integer((json_int_t)u->deleted));
    json_object_set_new(r, "level_bytes", level_bytes_json(u));
    json_object_set_new(r, "error", replica_error(u));
    json_object_set_new(r, "history_error", history_error(u));
    return r;
}

const char *status_detail(const struct database *db, char buf[static STATUS_DETAIL])
{
    const struct manager_db *e = db->owner;
    if (db->pause) {
        char stamp[40], by[24];
        (void)snprintf(buf, STATUS_DETAIL, "%s%spaused by %s%s%s; commits are not captured",
                       db->pause->reason, *db->pause->reason ? ": " : "", pause_by(db->pause, by),
                       db->pause->until_ms ? " until " : "",
                       db->pause->until_ms ? util_rfc3339(stamp, db->pause->until_ms / 1000 * 1000)
                                           : "");
        return buf;
    }
    if (e->leaving)
        return "the file is gone; what is pending is uploaded, then replication ends";
    if (db->doubt.why || db->away) {
        (void)snprintf(buf, STATUS_DETAIL, "%s", db->doubt.why ? db->doubt.why : db->away);
        return buf;
    }
    if (db->seen.pinned) {
        (void)snprintf(buf, STATUS_DETAIL, "a reader of the application%s keeps the WAL from being checkpointed",
                       db->seen.reader);
        return buf;
    }
    uint64_t now = clk_mono_ms();
    char dur[32];
    switch (status_state(db)) {
    case DB_WAITING:
        return "no database at this path yet; it is picked up when it appears";
    case DB_MISSING:
        (void)snprintf(buf, STATUS_DETAIL, "the file %s; a restored or new one is picked up when it appears",
                       db->gone ? db->gone : "is gone");
        return buf;
    case DB_NOT_WAL:
        return "the database has a rollback journal, so it is not replicated";
    case DB_STALLED:
        (void)snprintf(buf, STATUS_DETAIL, "its job has made no progress for %s",
                       util_duration(dur, now - db->run->started_ms));
        return buf;
    case DB_UNPROVEN:
        (void)snprintf(buf, STATUS_DETAIL, "its files were compared with what was captured %s ago, and not since",
                       util_duration(dur, unproven_ms(db, now)));
        return buf;
    case DB_STARTING:
        return e->asked_ms && now > e->asked_ms + PENDING_MS ? "the file system of its directory does not answer" : "";
    case DB_REPLICATING:
    case DB_IDLE:
    case DB_COPYING:
    case DB_LOCKED:
    case DB_UNSEEN:
    case DB_BEHIND:
    case DB_PAUSED:
    case DB_FAILED:
    case DB_STATES:
        break;
    }
    return "";
}

static json_t *database_error(const struct database *db)
{
    if (!db->err)
        return json_null();
    char dur[32], next[64];
    uint64_t now = clk_mono_ms();
    bool later = db->retry_at_ms > now;
    (void)snprintf(next, sizeof next, "next try %s%s", later ? "in " : "now",
                   later ? util_duration(dur, db->retry_at_ms - now) : "");
    return json_pack("{s:s, s:s, s:s, s:o, s:s}", "code", err_name(db->err->code), "message",
                     db->err->msg, "hint", db->err->hint, "since_ms",
                     json_time(db->retry.since_ms), "next", next);
}

static json_t *paused_json(const struct database *db)
{
    const struct pause *p = db->pause;
    return p ? json_pack("{s:I, s:i, s:o, s:o}", "since_ms", (json_int_t)p->since_ms, "uid", (int)p->uid, "reason",
                         proto_text(p->reason), "until_ms", json_time(p->until_ms))
             : json_null();
}

static json_t *counters_json(const struct source_counters *c)
{
    json_t *j = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } list[] = {
        {"captures", c->captures},       {"full_captures", c->fulls},
        {"resyncs", c->resyncs},         {"resync_pages", c->resync_pages},
        {"resumed", c->resumed},
        {"frames", c->frames},           {"pages", c->pages},
        {"ltx_bytes", c->bytes},         {"handovers", c->handovers},
        {"checkpoints", c->checkpoints}, {"wal_restarts", c->restarts},
        {"barriers", c->barriers},       {"barrier_us", c->barrier_us},
        {"barrier_max_us", c->barrier_max_us}, {"barriers_forced", c->barriers_forced},
        {"barriers_skipped", c->barriers_skipped}, {"last_closes", c->last_closes},
        {"continuity_lost", c->broken},
    };
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        json_object_set_new(j, list[i].name, json_integer((json_int_t)list[i].value));
    return j;
}

size_t status_spool_files(const struct database *db)
{
    uint64_t most = 0;
    for (size_t i = 0; i < db->n_up; i++) {
        uint64_t n;
        (void)uploader_pending(db->up[i], &n);
        most = MAX(most, n);
    }
    return (size_t)most;
}

static int64_t proven_ms(const struct database *db)
{
    uint64_t now = clk_mono_ms();
    return db->audited_ms ? wall_of(now - unproven_ms(db, now)) : 0;
}

static int64_t since_ms(const struct database *db)
{
    if (db->pause)
        return db->pause->since_ms;
    return status_state(db) == DB_UNSEEN ? db->doubt.since_ms : db->since_ms;
}

json_t *status_database_json(const struct database *db)
{
    const struct database_seen *s = &db->seen;
    const struct manager_db *e = db->owner;
    json_t *d = json_object();
    char text[STATUS_DETAIL];
    json_t *replicas = json_array();
    json_object_set_new(d, "name", json_string(db->name));
    json_object_set_new(d, "path", proto_text(db->path));
    json_object_set_new(d, "section", json_string(e->conf->name));
    json_object_set_new(d, "state", json_string(db_state_row(status_state(db))->word));
    json_object_set_new(d, "detail", proto_text(status_detail(db, text)));
    json_object_set_new(d, "since_ms", json_time(since_ms(db)));
    json_object_set_new(d, "paused", paused_json(db));
    json_object_set_new(d, "txid", txid_json(db->txid));
    json_object_set_new(d, "page_size", json_integer(s->page_size));
    json_object_set_new(d, "db_bytes", json_integer((json_int_t)s->pages * s->page_size));
    json_object_set_new(d, "wal_bytes", json_integer((json_int_t)s->wal_bytes));
    json_object_set_new(d, "wal_pending_bytes", json_integer((json_int_t)s->pending_bytes));
    json_object_set_new(d, "spool_files", json_integer((json_int_t)status_spool_files(db)));
    json_object_set_new(d, "spool_bytes", json_integer((json_int_t)db->spool_bytes));
    json_object_set_new(d, "merges", json_integer((json_int_t)db->seen_merges));
    json_object_set_new(d, "last_commit_ms", json_time(db->last_commit_ms));
    json_object_set_new(d, "proven_ms", json_time(proven_ms(db)));
    json_object_set_new(d, "verify", drill_json(db));
    json_object_set_new(d, "error", database_error(db));
    json_object_set_new(d, "counters", counters_json(&s->count));
    for (size_t i = 0; i < db->n_up; i++)
        json_array_append_new(replicas, replica_json(db->up[i]));
    json_object_set_new(d, "replicas", replicas);
    return d;
}

json_t *status_watch_json(const struct manager *m)
{
    const struct watch_counters *w = watch_counters(m->watch);
    const struct discover_counters *d = discover_counters(m->discover);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "directories", (json_int_t)w->directories,
                     "scanned_only", (json_int_t)w->scanned, "events", (json_int_t)w->events,
                     "overflows", (json_int_t)w->overflows, "found", (json_int_t)d->files, "lists",
                     (json_int_t)d->lists, "looked", (json_int_t)(w->looked + d->looked));
}

void status_tally_add(struct status_tally *t, const struct database *db)
{
    enum status_health h = status_health(db);
    t->failed += h == STATUS_FAILED;
    t->degraded += h == STATUS_DEGRADED;
    for (size_t r = 0; r < db->n_up; r++)
        t->worst_ms = MAX(t->worst_ms, status_lag_ms(db->up[r]));
}

void status_line(const struct manager *m, const struct status_tally *t, char *buf, size_t n)
{
    char dur[32];
    size_t lost = patterns_lost(m);
    if (!m->n_dbs && !lost) {
        (void)snprintf(buf, n, "nothing to replicate: %s",
                       m->conf->n_patterns ? "no file matches a pattern"
                                           : "no database is configured (walsupctl add FILE)");
        return;
    }
    /* below a few seconds the figure would change with every commit and say nothing */
    if (t->worst_ms < LATE_MS)
        (void)snprintf(buf, n, "%zu database%s%s", m->n_dbs, PLURAL(m->n_dbs),
                       t->failed || t->degraded || lost ? "" : ", all replicas up to date");
    else
        (void)snprintf(buf, n, "%zu database%s, worst lag %s", m->n_dbs, PLURAL(m->n_dbs),
                       util_duration(dur, t->worst_ms));
    size_t used = strlen(buf);
    if (t->failed || t->degraded)
        (void)snprintf(buf + used, n - used, ", %u failed, %u degraded (walsupctl status)", t->failed, t->degraded);
    used = strlen(buf);
    if (lost)
        (void)snprintf(buf + used, n - used, ", %zu pattern%s lost all databases", lost, PLURAL(lost));
}
