/* manager_look.c - what is done every second with the databases that are not at rest (active.h): do their jobs make
 * progress, how are they, who is told? */
#include "daemon/core/manager.h"

#include <assert.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "daemon/control/status.h"

/* A job that is silent for so long starves the watchdog: in a call of which it was said that it takes
 * time, or before a worker has taken it; any other after a third of the watchdog's own limit. */
#define PARKED_LIMIT_MS 300000
#define SILENT_LIMIT_MS 10000 /* without a watchdog: nor is more time asked for */
#define AT_ONCE 512 /* databases in one go */

void manager_look_init(struct manager *m)
{
    const char *how = getenv("WALSUP_TEST_LOOK");
    m->look.how = !how ? LOOK_ACTIVE : !strcmp(how, "walk") ? LOOK_WALK : LOOK_CHECK;
}

static bool silent(const struct manager *m, const struct database *db, uint64_t *ret_ms)
{
    uint64_t half = notify_watchdog_ms(m->notify), limit = half ? half * 2 / 3 : SILENT_LIMIT_MS;
    struct beat *beat[DATABASE_BEATS];
    for (size_t n = database_beats(db, beat); n > 0; n--) {
        enum beat_state state;
        *ret_ms = beat_still_ms(beat[n - 1], clk_mono_ms(), &state);
        if (*ret_ms > (state == BEAT_WORKS ? limit : (uint64_t)PARKED_LIMIT_MS))
            return true;
    }
    return false;
}

static void look_for_silence(struct manager *m, const struct database *db)
{
    uint64_t ms;
    if (m->look.stuck || !silent(m, db, &ms))
        return;
    m->look.stuck = true;
    if (m->stuck) /* that was said */
        return;
    log_about(LOG_STUCK, db->name, NULL, NULL);
    log_line(LOG_ERROR, "%s: its worker has been silent for %llu s: the watchdog is not fed until it goes on",
             db->name, (unsigned long long)(ms / 1000));
}

static void look_at(struct manager *m, struct database *db)
{
    struct manager_db *e = db->owner;
    m->look.visits++;
    manager_begin_refused(e);
    manager_look_late(e);
    hook_look(m->hook, e);
    look_for_silence(m, db);
    status_tally_add(&m->look.tally, db);
}

void manager_look_line(struct manager *m, char *buf, size_t n)
{
    struct status_tally t = {0};
    for (size_t i = 0; i < m->active.n; i++)
        status_tally_add(&t, m->active.db[i]);
    status_line(m, &t, buf, n);
}

/* For the tests: whoever is not looked at would not have made a difference. */
static void check(struct manager *m)
{
    for (size_t i = 0; i < m->n_dbs; i++) {
        const struct database *db = m->db[i];
        if (db->at_work.place || status_at_rest(db))
            continue;
        if (active_proof_is_old(db) && active_is_due(&m->active, db))
            continue;
        log_line(LOG_ERROR, "%s: is not looked at, and not at rest: %s", db->name,
                 db_state_row(status_state(db))->word);
        abort();
    }
    m->look.checks++;
}

static void round_over(struct manager *m)
{
    struct manager_look *l = &m->look;
    m->stuck = l->stuck;
    if (m->ready && !m->stopping) {
        char line[200];
        status_line(m, &l->tally, line, sizeof line);
        notify_status(m->notify, "%s", line);
    }
    if (l->how == LOOK_CHECK)
        check(m);
    l->rounds++;
    l->at = 0;
    l->stuck = false;
    l->tally = (struct status_tally){0};
    if (l->how == LOOK_WALK)
        for (size_t i = 0; i < m->n_dbs; i++)
            active_add(&m->active, m->db[i]);
}

void manager_look(struct manager *m)
{
    struct manager_look *l = &m->look;
    active_unproven(&m->active, AT_ONCE);
    manager_decide(m);
    for (unsigned n = 0; n < AT_ONCE && l->at < m->active.n; n++) {
        struct database *db = m->active.db[l->at];
        look_at(m, db);
        if (status_at_rest(db))
            active_remove(&m->active, db);
        else
            l->at++;
    }
    if (l->at >= m->active.n)
        round_over(m);
}
