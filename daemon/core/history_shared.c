/* history_shared.c - what the histories of all databases share: the time by which objects grow old, the inventory, the
 * agenda; and when things are due. */
#include "daemon/core/history_int.h"

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/format/crc64.h"
#include "daemon/capture/position.h"

#define SAVE_STEADY_MS (10 * 60000)

/* ---- time -------------------------------------------------------------------------------------- */

int64_t history_time(struct history_shared *s)
{
    int64_t now = steady_now(&s->steady, position_boot());
    if (!!s->steady.leapt_ms != s->leap_told) {
        char dur[32];
        s->leap_told = !s->leap_told;
        if (s->leap_told)
            log_line(LOG_WARN,
                     "the clock leapt forward by %s: nothing is deleted by it, the retention goes on by the time as it "
                     "was before (if the clock is right: walsupctl reconcile --trust-clock)",
                     util_duration(dur, (uint64_t)s->steady.leapt_ms));
        else
            log_line(LOG_NOTICE, "the clock is believed again");
    }
    if (s->steady_saved_ms && clk_mono_ms() < s->steady_saved_ms + SAVE_STEADY_MS)
        return now;
    s->steady_saved_ms = clk_mono_ms();
    inventory_fact_set(s->inventory, "steady.time", s->steady.time_ms);
    inventory_fact_set(s->inventory, "steady.since-boot", (int64_t)s->steady.boot_ms);
    inventory_fact_set(s->inventory, "steady.boot", (int64_t)s->steady.boot);
    inventory_fact_set(s->inventory, "steady.leapt", s->steady.leapt_ms);
    return now;
}

void history_trust_clock(struct history_shared *s)
{
    steady_trust(&s->steady, position_boot());
    s->steady_saved_ms = 0;
    (void)history_time(s);
}

uint64_t history_due_at(int64_t real_ms, uint64_t most_ms)
{
    int64_t left = real_ms - clk_real_ms();
    if (left > (int64_t)MIN(most_ms, (uint64_t)INT64_MAX)) /* it was taken from a clock that was ahead */
        left = 0;
    return clk_mono_ms() + (uint64_t)MAX(left, (int64_t)0);
}

int64_t history_boundary(const struct database *db, int64_t after_ms, uint64_t interval_ms)
{
    int64_t every = (int64_t)MAX(interval_ms, (uint64_t)1);
    int64_t shift = (int64_t)(crc64(0, db->name, strlen(db->name)) % (uint64_t)every);
    return (after_ms - shift + every) / every * every + shift;
}

/* ---- life -------------------------------------------------------------------------------------- */

static void on_look(void *arg, struct agenda_entry *x)
{
    (void)arg;
    uploader_look_due(CONTAINER_OF(x, struct uploader, look_due));
}

int history_shared_new(uv_loop_t *loop, const char *state_dir,
                       void (*fire)(void *arg, struct agenda_entry *x), void *arg,
                       struct history_shared **ret, struct err *e)
{
    struct inventory *v;
    int r = inventory_open(loop, state_dir, &v, e);
    if (r < 0)
        return r;
    struct history_shared *s = util_zalloc(sizeof *s);
    s->loop = loop;
    s->inventory = v;
    s->queue_end = &s->queue;
    s->steady = (struct steady){inventory_fact_get(v, "steady.time"),
                                (uint64_t)inventory_fact_get(v, "steady.since-boot"),
                                (uint64_t)inventory_fact_get(v, "steady.boot"), inventory_fact_get(v, "steady.leapt")};
    s->agenda = agenda_new(loop, fire, arg);
    s->looks = agenda_new(loop, on_look, s);
    *ret = s;
    return 0;
}

static void on_inventory_closed(void *arg)
{
    struct history_shared *s = arg;
    void (*closed)(void *) = s->closed;
    void *closed_arg = s->closed_arg;
    free(s);
    closed(closed_arg);
}

static void on_looks_closed(void *arg)
{
    struct history_shared *s = arg;
    inventory_close(s->inventory, on_inventory_closed, s);
}

static void on_agenda_closed(void *arg)
{
    struct history_shared *s = arg;
    agenda_close(s->looks, on_looks_closed, s);
}

void history_shared_close(struct history_shared *s, void (*closed)(void *arg), void *arg)
{
    s->closed = closed;
    s->closed_arg = arg;
    s->steady_saved_ms = 0;
    (void)history_time(s);
    agenda_close(s->agenda, on_agenda_closed, s);
}
