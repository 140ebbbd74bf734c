/* The reply of Status, a piece at a time. */
#include <sqlite3.h>

#include "common/base/clk.h"
#include "daemon/control/status.h"
#include "daemon/core/patterns.h"

#define LOOK_AT_ONCE 500u /* databases that are counted in one go */

struct status_walk {
    struct manager *m;
    bool one, limited, begun;
    size_t limit;
    size_t at; /* in m->db; if it need not list what is at rest, in m->active */
    size_t listed;
    size_t count[DB_STATES];
    enum status_health worst;
    char *only;     /* text of the one that was asked for */
    char **later;   /* texts of those that are degraded: those that failed come before them */
    size_t n_later, said;
};

static char *text_of(json_t *j)
{
    char *text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    return text ? text : util_strdup("null");
}

struct status_walk *status_walk_new(struct manager *m, const struct database *only, size_t limit)
{
    struct status_walk *w = util_zalloc(sizeof *w);
    w->m = m;
    w->one = only != NULL;
    w->limited = limit < m->n_dbs;
    active_unproven(&m->active, SIZE_MAX);
    w->limit = MIN(limit, (size_t)STATUS_LIMIT);
    w->only = only ? text_of(status_database_json(only)) : NULL;
    w->worst = only ? status_health(only) : STATUS_HEALTHY;
    return w;
}

void status_walk_free(struct status_walk *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n_later; i++)
        free(w->later[i]);
    free(w->later);
    free(w->only);
    free(w);
}

static void list(struct status_walk *w, struct buf *out, const char *text)
{
    if (w->listed++)
        buf_add_str(out, ",");
    buf_add_str(out, text);
}

static void visit(struct status_walk *w, struct buf *out, const struct database *db)
{
    enum status_health h = status_health(db);
    w->count[status_state(db)]++;
    if (w->one)
        return;
    w->worst = MAX(w->worst, h);
    if (w->limited && (h == STATUS_HEALTHY || w->listed == w->limit))
        return;
    if (w->limited && h == STATUS_DEGRADED) {
        if (!w->later)
            w->later = util_zalloc(w->limit * sizeof *w->later);
        if (w->n_later < w->limit)
            w->later[w->n_later++] = text_of(status_database_json(db));
        return;
    }
    cleanup_free char *text = text_of(status_database_json(db));
    list(w, out, text);
}

static void add_tail(struct status_walk *w, struct buf *out)
{
    static const char *const health[] = {"healthy", "degraded", "failed"};
    json_t *lost = patterns_json(w->m);
    if (!w->one && json_array_size(lost))
        w->worst = MAX(w->worst, STATUS_DEGRADED);
    json_t *counts = json_object();
    if (w->limited || w->one)
        w->count[DB_IDLE] += w->m->n_dbs - MIN(w->m->active.n, w->m->n_dbs);
    for (size_t i = 0; i < DB_STATES; i++)
        if (w->count[i])
            json_object_set_new(counts, db_state_row((enum db_state)i)->word, json_integer((json_int_t)w->count[i]));
    cleanup_free char *tail = text_of(json_pack(
        "{s:i, s:s, s:i, s:I, s:I, s:s, s:s, s:I, s:o, s:o, s:o, s:{s:I, s:I, s:I}}", "schema",
        STATUS_SCHEMA, "version", WALSUP_VERSION, "pid", (int)getpid(), "started_ms",
        (json_int_t)w->m->started_ms, "now_ms", (json_int_t)clk_real_ms(), "sqlite_version",
        sqlite3_libversion(), "state", health[w->worst], "total", (json_int_t)w->m->n_dbs, "counts",
        counts, "lost_patterns", lost, "watch", status_watch_json(w->m), "looks", "rounds",
        (json_int_t)w->m->look.rounds, "visits", (json_int_t)w->m->look.visits, "checks",
        (json_int_t)w->m->look.checks));
    buf_printf(out, "],%s", tail + 1);
}

/* What is at rest is healthy: there is no need to look at it if it is not listed. */
static bool next(struct status_walk *w, const struct database **ret)
{
    struct manager *m = w->m;
    bool some = w->limited || w->one;
    if (w->at >= (some ? m->active.n : m->n_dbs))
        return false;
    *ret = some ? m->active.db[w->at] : m->db[w->at];
    w->at++;
    return true;
}

bool status_walk_piece(struct status_walk *w, struct buf *out, size_t bytes)
{
    size_t end = out->len + bytes, until = w->at + LOOK_AT_ONCE;
    const struct database *db = NULL;
    bool more = true;
    if (!w->begun)
        buf_add_str(out, "{\"databases\":[");
    if (!w->begun && w->only)
        list(w, out, w->only);
    w->begun = true;
    while (more && w->at < until && out->len < end) {
        more = next(w, &db);
        if (more)
            visit(w, out, db);
    }
    if (!out->len)
        buf_add_str(out, " "); /* a piece is at least a byte: JSON does not mind */
    if (more)
        return true;
    for (; w->said < w->n_later && w->listed < w->limit && out->len < end; w->said++)
        list(w, out, w->later[w->said]);
    if (w->said < w->n_later && w->listed < w->limit)
        return true;
    add_tail(w, out);
    return false;
}
