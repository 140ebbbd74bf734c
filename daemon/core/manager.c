#include "daemon/core/manager.h"

#include <malloc.h>
#include <signal.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "daemon/control/ctlserver.h"
#include "daemon/control/metrics.h"
#include "daemon/core/once.h"
#include "daemon/core/patterns.h"
#include "daemon/os/ending.h"

#define TICK_MS 1000
#define EXTEND_MS 20000 /* asked for again and again while something moves */
#define EXTEND_EVERY_MS 1000
#define TRIM_TICKS 30 /* after histories were looked at while everybody slept */
#define SCAN_MS 5000          /* what has no watch is looked at so often */

static void on_reloaded(void *arg, int r, struct manager_diff *d, struct buf *errors, const struct err *e)
{
    (void)arg;
    (void)d;
    if (r == 0)
        return;
    log_about(LOG_RELOAD_REFUSED, NULL, NULL, NULL);
    log_err(LOG_ERROR, e, "reload refused, the old configuration stays");
    cleanup_free char *text = util_strdup(buf_str(errors));
    for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        log_line(LOG_ERROR, "%s", line);
}

static void on_sighup(uv_signal_t *s, int signum)
{
    (void)signum;
    manager_reload(s->data, on_reloaded, NULL);
}

/* ---- clocks ------------------------------------------------------------------------------------ */

/* Starting and stopping may take longer than the unit's limits, but not without progress. */
static void ask_for_time(struct manager *m)
{
    uint64_t now = clk_mono_ms();
    if ((m->ready && !m->stopping) || m->stuck || now - m->extended_ms < EXTEND_EVERY_MS)
        return;
    m->extended_ms = now;
    notify_extend(m->notify, EXTEND_MS);
}

static void maybe_close(struct manager *m);

/* What many databases needed for a moment goes back to the system when all of them sleep again. */
static void give_back(struct manager *m)
{
    bool asleep = !berths_taken(m->berths), later = m->fired && m->ticks % TRIM_TICKS == 0;
    if (asleep && (!m->was_asleep || later))
        (void)malloc_trim(0);
    m->fired = m->fired && !later;
    m->was_asleep = asleep;
}

static void on_tick(uv_timer_t *t)
{
    struct manager *m = t->data;
    manager_db_tick(m);
    give_back(m);
    m->ticks++;
    manager_look(m);
    if (!m->stuck)
        notify_alive(m->notify);
    ask_for_time(m);
    if (m->stopping && !m->closing)
        maybe_close(m);
}

static void on_scan(uv_timer_t *t)
{
    struct manager *m = t->data;
    uint64_t interval = m->conf->scan_interval_ms, ms = MIN(interval, (uint64_t)SCAN_MS);
    if (m->closing)
        return;
    watch_look(m->watch, ms, interval);
    discover_look(m->discover, ms, interval);
    (void)uv_timer_start(t, on_scan, ms, 0); /* the interval may have changed */
}

/* ---- shutdown ---------------------------------------------------------------------------------- */

static void step_closed(struct manager *m)
{
    ending_moved();
    if (--m->open)
        return;
    uv_stop(m->loop);
}

static void on_store_closed(void *arg)
{
    step_closed(arg);
}

static void on_handle_closed(uv_handle_t *h)
{
    step_closed(h->data);
}

void manager_asked(struct manager *m)
{
    if (m->asks_awaited && !m->asks)
        step_closed(m);
}

static void on_part_closed(void *arg)
{
    step_closed(arg);
}

/* Databases first, because they use everything else; then the rest. */
static void close_rest(struct manager *m)
{
    uv_handle_t *const handle[] = {
        (uv_handle_t *)&m->scan,    (uv_handle_t *)&m->tick,   (uv_handle_t *)&m->deadline,
        (uv_handle_t *)&m->sigterm, (uv_handle_t *)&m->sigint, (uv_handle_t *)&m->sighup};
    m->open = 1 + (m->asks != 0);
    m->asks_awaited = m->asks != 0;
    manager_close_old(m);
    for (size_t i = 0; i < m->n_targets; i++) {
        m->open++;
        store_close(m->target[i]->store, on_store_closed, m);
        manager_target_free(m->target[i]);
    }
    free(m->target);
    m->target = NULL;
    m->n_targets = 0;
    m->open += 9;
    hook_close(m->hook, on_part_closed, m);
    loopmeter_close(&m->meter, on_part_closed, m);
    metrics_http_close(m->http, on_part_closed, m);
    notify_close(m->notify, on_part_closed, m);
    drill_close(m->drill, on_part_closed, m);
    history_shared_close(m->history, on_part_closed, m);
    scan_close(m->scanner, on_part_closed, m);
    discover_close(m->discover, on_part_closed, m);
    watch_close(m->watch, on_part_closed, m);
    if (m->once) {
        m->open++;
        once_close(m->once, on_part_closed, m);
    }
    if (m->ctl) {
        m->open++;
        ctlserver_close(m->ctl, on_part_closed, m);
    }
    for (size_t i = 0; i < ARRAY_LEN(handle); i++) {
        m->open++;
        uv_close(handle[i], on_handle_closed);
    }
    step_closed(m);
}

static void begin_close(struct manager *m)
{
    if (m->closing)
        return;
    m->closing = true;
    ending_begin(m->exit_status);
    m->retired++;
    while (m->n_dbs)
        manager_retire(m, m->db[m->n_dbs - 1]->owner);
    manager_retired(m);
}

void manager_retired(struct manager *m)
{
    ending_moved();
    if (--m->retired)
        return;
    if (m->closing) {
        close_rest(m);
        return;
    }
    manager_close_old(m);
    manager_begin_waiting(m);
    discover_offer(m->discover);
}

static void maybe_close(struct manager *m)
{
    for (size_t i = 0; i < m->n_dbs; i++)
        if (!database_flushed(m->db[i]))
            return;
    begin_close(m);
}

void manager_stop_now(struct manager *m)
{
    if (m->closing)
        return;
    for (size_t i = 0; i < m->n_dbs; i++)
        for (size_t r = 0; r < m->db[i]->n_up; r++) {
            uint64_t files;
            uint64_t bytes = uploader_pending(m->db[i]->up[r], &files);
            char size[32];
            if (files)
                log_line(LOG_WARN,
                         "%s -> %s: stopped with %llu file%s (%s) not uploaded, to go from the "
                         "spool after the next start",
                         m->db[i]->name, m->db[i]->up[r]->target, (unsigned long long)files,
                         PLURAL(files), util_size(size, bytes));
        }
    if (m->once && !m->exit_status) /* whoever waits for it wants to know; a service has its spool */
        m->exit_status = err_exit_status(ERR_TIMEOUT);
    begin_close(m);
}

static void on_deadline(uv_timer_t *t)
{
    manager_stop_now(t->data);
}

void manager_stop(struct manager *m)
{
    if (m->stopping) {
        /* supervisors like to signal a process and then its group: that is one request */
        if (clk_mono_ms() - m->stopping_ms < 100)
            return;
        log_line(LOG_NOTICE, "asked to stop twice: ending at once");
        manager_stop_now(m);
        return;
    }
    m->stopping = true;
    m->stopping_ms = clk_mono_ms();
    notify_stopping(m->notify);
    notify_status(m->notify, "stopping: uploading what is left");
    ask_for_time(m);
    log_about(LOG_STOPPING, NULL, NULL, NULL);
    log_line(LOG_NOTICE, "stopping");
    for (size_t i = 0; i < m->n_dbs; i++)
        database_flush(m->db[i]);
    (void)uv_timer_start(&m->deadline, on_deadline, m->conf->shutdown_timeout_ms, 0);
    (void)uv_timer_start(&m->tick, on_tick, 1, 20);
}

static void on_signal(uv_signal_t *s, int signum)
{
    struct manager *m = s->data;
    (void)signum;
    if (!once_is_held(m->once))
        manager_stop(m);
}

/* ---- start ------------------------------------------------------------------------------------- */

static void start_timers(struct manager *m)
{
    (void)uv_timer_init(m->loop, &m->scan);
    (void)uv_timer_init(m->loop, &m->tick);
    (void)uv_timer_init(m->loop, &m->deadline);
    m->scan.data = m->tick.data = m->deadline.data = m;
    uint64_t watchdog = notify_watchdog_ms(m->notify);
    uint64_t tick = watchdog ? MIN(watchdog, (uint64_t)TICK_MS) : TICK_MS;
    (void)uv_timer_start(&m->tick, on_tick, tick, tick);
    (void)uv_timer_start(&m->scan, on_scan, MIN(m->conf->scan_interval_ms, (uint64_t)SCAN_MS), 0);
    const struct {
        uv_signal_t *handle;
        int signum;
        uv_signal_cb cb;
    } sig[] = {{&m->sigterm, SIGTERM, on_signal},
               {&m->sigint, SIGINT, on_signal},
               {&m->sighup, SIGHUP, on_sighup}};
    for (size_t i = 0; i < ARRAY_LEN(sig); i++) {
        (void)uv_signal_init(m->loop, sig[i].handle);
        sig[i].handle->data = m;
        (void)uv_signal_start(sig[i].handle, sig[i].cb, sig[i].signum);
    }
}

static void on_due(void *arg, struct agenda_entry *x)
{
    struct manager *m = arg;
    m->fired = true;
    history_due(CONTAINER_OF(x, struct database, due));
}

/* Whoever looks at the metrics will notice; what they are about goes on. */
static void start_metrics(struct manager *m)
{
    struct err e;
    if (!m->conf->metrics_listen)
        return;
    if (metrics_http_new(m, m->conf->metrics_listen, &m->http, &e) < 0)
        log_err(LOG_ERROR, &e, "no metrics");
    else
        log_line(LOG_INFO, "metrics: http://%s/metrics", m->conf->metrics_listen);
}

int manager_new(uv_loop_t *loop, const char *conf_path, struct conf *conf, struct manager **ret,
                struct err *e)
{
    struct manager *m = util_zalloc(sizeof *m);
    m->loop = loop;
    m->conf_path = util_strdup(conf_path);
    m->started_ms = clk_real_ms();
    manager_look_init(m);
    int r = scan_new(loop, &m->scanner, e); /* before anything is opened */
    if (r == 0)
        r = watch_new(loop, m->scanner, &m->watch, e);
    if (r == 0)
        r = ctlserver_new(m, conf->socket, &m->ctl, e);
    if (r == 0)
        r = history_shared_new(loop, conf->state_dir, on_due, m, &m->history, e);
    if (r == 0)
        r = manager_targets_open(m, conf, &m->target, e);
    if (r < 0) {
        /* the process ends; the loop is not run any more */
        free(m->conf_path);
        free(m);
        return r;
    }
    m->n_targets = conf->n_targets;
    m->notify = notify_new(loop);
    m->conf = conf;
    m->berths = berths_new(conf->max_open);
    discover_new(loop, m->scanner, m->watch, &manager_discover_calls, m, &m->discover);
    start_timers(m);
    loopmeter_start(&m->meter, loop);
    start_metrics(m);
    m->hook = hook_new(m);
    m->drill = drill_new(m);
    manager_learn_due(m);
    patterns_learn(m);
    for (size_t i = 0; i < conf->n_dbs; i++)
        if (!conf->db[i].glob)
            (void)manager_add(m, &conf->db[i], conf->db[i].path, NULL);
    discover_set(m->discover, conf);
    *ret = m;
    return 0;
}

int manager_free(struct manager *m)
{
    int status = m->exit_status;
    size_t at = 0;
    ctlserver_ended();
    for (void *pair; (pair = map_next(&m->overlaps, &at));)
        free(pair);
    map_free(&m->overlaps);
    map_free(&m->by_name);
    map_free(&m->by_path);
    map_free(&m->by_id);
    manager_forget_due(m);
    patterns_forget(m);
    active_done(&m->active);
    free(m->db);
    (void)conf_free(m->conf);
    (void)berths_free(m->berths);
    free(m->conf_path);
    free(m);
    return status;
}
