#include "daemon/control/drill.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/format/crc64.h"
#include "common/store/work.h"
#include "daemon/core/manager.h"
#include "daemon/os/walls.h"

#define DRILL_MAGIC 0xd5111000u
#define TICK_MS 5000u
#define TICK_MIN_MS 200u
#define READ_AT_ONCE 256u
#define RETRY_MS (15 * 60 * 1000)
#define FIRST_MS (3600 * 1000) /* databases that were never verified take their turns within so much */
#define ANSWER_MAX (1u << 20)
#define FILE_MAX 4096u
#define IOPRIO_IDLE (3 << 13)

/* facts to be read, or one to be written, by a worker; databases may go away meanwhile */
struct paper {
    char *name, *dir;
    struct drill_fact fact;
};

struct drill {
    unsigned magic;
    struct manager *m;
    uv_timer_t timer;
    struct agenda *turns;  /* by the real time at which somebody is to be looked at; NULL: closed */
    int64_t looked_ms;     /* real time of the last look */
    uint64_t least_ms;     /* the shortest interval; UINT64_MAX: nobody has one */
    struct work work;
    struct paper paper[READ_AT_ONCE];
    size_t n_papers;
    bool working, writing;
    /* the one under way */
    char *name;
    uv_process_t process;
    uv_pipe_t out;
    struct buf answer;
    bool running;
    unsigned open; /* handles */
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
};

static const char *const result_name[] = {"proven", "damaged", "unsafe", "failed"};

/* ---- the file ---------------------------------------------------------------------------------- */

static void fact_read(const char *dir, struct drill_fact *f)
{
    cleanup_free char *path = util_printf("%s/verified", dir);
    cleanup_buf struct buf b = BUF_INIT;
    int64_t time_ms = 0;
    unsigned result = 0;
    int used = 0;
    f->looked = true;
    if (fsx_read(path, FILE_MAX, &b, NULL) < 0 ||
        sscanf(buf_str(&b), "1 %" SCNd64 " %u %n", &time_ms, &result, &used) != 2 || result > DRILL_UNSAFE)
        return; /* none yet, or none that could be read: it is due */
    f->time_ms = time_ms;
    f->result = (enum drill_result)result;
    f->text = util_strdup(buf_str(&b) + used);
    f->text[strcspn(f->text, "\n")] = '\0';
}

static void fact_write(const char *dir, const struct drill_fact *f)
{
    cleanup_free char *path = util_printf("%s/verified", dir);
    cleanup_free char *text = util_printf("1 %" PRId64 " %u %.3000s\n", f->time_ms, (unsigned)f->result, f->text);
    struct err e;
    if (fsx_publish(path, text, strlen(text), 0600, FSX_REPLACE, &e) < 0)
        log_err(LOG_WARN, &e, "the result of a verification is not kept");
}

static void on_paper_work(uv_work_t *w)
{
    struct drill *d = w->data;
    for (size_t i = 0; i < d->n_papers; i++)
        if (d->writing)
            fact_write(d->paper[i].dir, &d->paper[i].fact);
        else
            fact_read(d->paper[i].dir, &d->paper[i].fact);
}

static void maybe_closed(struct drill *d)
{
    if (!d->closing || d->open || d->turns || d->working || d->running)
        return;
    void (*closed)(void *) = d->closed;
    void *arg = d->closed_arg;
    d->magic = 0;
    free(d);
    closed(arg);
}

static void on_paper_done(uv_work_t *w, int status)
{
    struct drill *d = w->data;
    (void)status;
    for (size_t i = 0; i < d->n_papers; i++) {
        struct paper *p = &d->paper[i];
        struct database *db = d->writing || d->closing ? NULL : manager_find(d->m, p->name);
        if (db && !db->drill.looked) {
            db->drill = p->fact;
            active_add(db->active, db);
            p->fact.text = NULL;
        }
        drill_fact_done(&p->fact);
        free(p->name);
        free(p->dir);
    }
    d->n_papers = 0;
    d->working = d->writing = false;
    maybe_closed(d);
}

static struct paper *add_paper(struct drill *d, const struct database *db)
{
    struct paper *p = &d->paper[d->n_papers++];
    *p = (struct paper){.name = util_strdup(db->name), .dir = util_strdup(db->dir)};
    return p;
}

static void start_papers(struct drill *d, bool writing)
{
    d->working = true;
    d->writing = writing;
    d->work.uv.data = d;
    work_queue(d->m->loop, &d->work, WALL_OWN, on_paper_work, on_paper_done);
}

/* ---- what came of it --------------------------------------------------------------------------- */

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* "local: 12 objects proven; s3: DAMAGED <name>: <why>, and 2 more" */
static void add_replica(struct buf *b, const json_t *r)
{
    const json_t *error = json_object_get(r, "error"), *objects = json_object_get(r, "objects"), *o;
    size_t i, n = 0;
    buf_printf(b, "%s%s: ", b->len ? "; " : "", text_of(r, "target"));
    if (error) {
        buf_add_str(b, text_of(error, "message"));
        return;
    }
    json_array_foreach(objects, i, o) {
        const char *state = text_of(o, "state"), *name = text_of(o, "name");
        if (!strcmp(state, "DELAYED"))
            continue;
        if (!n++)
            buf_printf(b, "%s %s%s%s%s: %s", state, name, *name ? "" : text_of(o, "min"), *name ? "" : " to ",
                       *name ? "" : text_of(o, "max"), text_of(o, "why"));
    }
    if (n > 1)
        buf_printf(b, ", and %zu more", n - 1);
    if (!n && json_is_true(json_object_get(r, "latest_restores")))
        buf_printf(b, "%" PRId64 " objects proven",
                   (int64_t)json_integer_value(json_object_get(json_object_get(r, "counts"), "FOUND")));
    else if (!n)
        buf_add_str(b, text_of(r, "latest_why"));
}

static void judge(struct drill *d, struct drill_fact *f)
{
    json_t *j = json_loads(buf_str(&d->answer), 0, NULL), *r;
    cleanup_buf struct buf b = BUF_INIT;
    size_t i;
    *f = (struct drill_fact){.looked = true, .result = DRILL_FAILED};
    const json_t *status = json_object_get(j, "status");
    if (json_is_integer(status) && json_integer_value(status) >= 0 && json_integer_value(status) <= DRILL_UNSAFE)
        f->result = (enum drill_result)json_integer_value(status);
    json_array_foreach(json_object_get(j, "replicas"), i, r) {
        add_replica(&b, r);
    }
    if (!b.len)
        buf_add_str(&b, json_object_get(j, "error") ? text_of(json_object_get(j, "error"), "message")
                                                    : "walsupctl verify gave no answer");
    f->text = util_plain(util_strdup(buf_str(&b)));
    for (char *p = f->text; (p = strchr(p, '\n'));)
        *p = ' ';
    json_decref(j);
}

static void tell(const struct database *db, const struct drill_fact *was, const struct drill_fact *now)
{
    static const char *const say[] = {"replicas verified", "a replica is damaged, its latest state restores",
                                      "THE LATEST STATE OF A REPLICA IS NOT SAFE", "not verified"};
    bool first = !was->time_ms && !was->text;
    if (!first && was->result == now->result)
        return;
    log_about(LOG_VERIFIED, db->name, NULL, NULL);
    log_line(now->result == DRILL_PROVEN ? LOG_NOTICE : now->result == DRILL_FAILED ? LOG_WARN : LOG_ERROR,
             "%s: %s: %s", db->name, say[now->result], now->text);
}

static void take_answer(struct drill *d)
{
    struct database *db = manager_find(d->m, d->name);
    struct drill_fact f;
    if (!db)
        return;
    judge(d, &f);
    tell(db, &db->drill, &f);
    if (f.result == DRILL_FAILED) { /* what was known before stays true of then */
        f.time_ms = db->drill.time_ms;
        f.retry_ms = clk_real_ms() + RETRY_MS;
    } else {
        f.time_ms = clk_real_ms();
    }
    drill_fact_done(&db->drill);
    db->drill = f;
    active_add(db->active, db);
    if (f.result == DRILL_FAILED || d->working)
        return;
    struct paper *p = add_paper(d, db);
    p->fact = f;
    p->fact.text = util_strdup(f.text);
    start_papers(d, true);
}

/* ---- the process ------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *h)
{
    struct drill *d = h->data;
    d->open--;
    if (!d->closing && d->running && d->open == 1) { /* only the timer is left */
        take_answer(d);
        d->running = false;
    } else if (d->closing && d->open == 0) {
        d->running = false;
    }
    if (!d->running) {
        free(d->name);
        d->name = NULL;
        buf_free(&d->answer);
        d->answer = (struct buf)BUF_INIT;
    }
    maybe_closed(d);
}

static void on_ended(uv_process_t *p, int64_t status, int signum)
{
    (void)status;
    (void)signum;
    uv_close((uv_handle_t *)p, on_closed);
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *ret)
{
    struct drill *d = h->data;
    (void)hint;
    uint8_t *p = d->answer.len < ANSWER_MAX ? buf_reserve(&d->answer, 65536) : NULL;
    *ret = uv_buf_init((char *)p, p ? 65536 : 0);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    struct drill *d = s->data;
    (void)b;
    if (n >= 0)
        d->answer.len += (size_t)n;
    else if (!uv_is_closing((uv_handle_t *)s))
        uv_close((uv_handle_t *)s, on_closed);
}

static char **child_env(const struct drill *d)
{
    static const char *const not_for_it[] = {"NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_", "TMPDIR=", "FDSTORE="};
    size_t n = 0, kept = 0;
    while (environ[n])
        n++;
    char **env = util_zalloc((n + 2) * sizeof(char *));
    for (size_t i = 0; i < n; i++) {
        bool leave = false;
        for (size_t k = 0; k < ARRAY_LEN(not_for_it); k++)
            leave = leave || !strncmp(environ[i], not_for_it[k], strlen(not_for_it[k]));
        if (!leave)
            env[kept++] = environ[i];
    }
    env[kept] = util_printf("TMPDIR=%s", d->m->conf->state_dir);
    return env;
}

static void child_env_free(char **env)
{
    size_t n = 0;
    while (env[n])
        n++;
    free(env[n - 1]); /* the one that was made */
    free(env);
}

static char *tool_path(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[MAX(n, (ssize_t)0)] = '\0';
    char *slash = strrchr(path, '/');
    return slash ? util_printf("%.*s/walsupctl", (int)(slash - path), path) : util_strdup("walsupctl");
}

static void start(struct drill *d, const struct database *db)
{
    cleanup_free char *tool = tool_path();
    char *args[] = {tool, (char[]){"-c"}, d->m->conf_path, (char[]){"--socket"}, d->m->conf->socket,
                    (char[]){"verify"}, (char[]){"--json"}, (char[]){"--"}, db->name, NULL};
    char **env = child_env(d);
    uv_stdio_container_t io[] = {{.flags = UV_IGNORE},
                                 {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&d->out},
                                 {.flags = UV_IGNORE}};
    uv_process_options_t o = {.file = tool, .args = args, .env = env, .exit_cb = on_ended, .stdio = io,
                              .stdio_count = ARRAY_LEN(io)};
    (void)uv_pipe_init(d->m->loop, &d->out, 0);
    d->out.data = d->process.data = d;
    d->name = util_strdup(db->name);
    d->running = true;
    d->open += 2;
    int r = uv_spawn(d->m->loop, &d->process, &o);
    child_env_free(env);
    if (r < 0) {
        log_line(LOG_WARN, "%s: cannot be verified: start %s: %s", db->name, tool, uv_strerror(r));
        uv_close((uv_handle_t *)&d->process, on_closed);
        uv_close((uv_handle_t *)&d->out, on_closed);
        return;
    }
    (void)setpriority(PRIO_PROCESS, (id_t)d->process.pid, 19);
    (void)syscall(SYS_ioprio_set, 1, d->process.pid, IOPRIO_IDLE);
    (void)uv_read_start((uv_stream_t *)&d->out, on_alloc, on_read);
}

/* ---- when -------------------------------------------------------------------------------------- */

static uint64_t interval_of(const struct database *db)
{
    const struct manager_db *e = db->owner;
    return e->begun && !e->leaving ? e->conf->verify_ms : 0;
}

/* Something is there to be verified. */
static bool is_ready(const struct database *db)
{
    bool stored = false;
    for (size_t i = 0; i < db->n_up; i++)
        stored = stored || (db->up[i]->known && db->up[i]->acked);
    return stored && !db->closing && db->attached_once &&
           (db->state == SOURCE_ATTACHED || db->state == SOURCE_ASLEEP);
}

/* Spread by the name: databases that were configured together are not due together. */
static int64_t due_ms(const struct database *db, uint64_t interval, int64_t now)
{
    const struct drill_fact *f = &db->drill;
    uint64_t jitter = crc64(0, db->name, strlen(db->name));
    if (f->retry_ms)
        return f->retry_ms;
    if (f->time_ms > now) /* the clock was set back */
        return now;
    if (!f->time_ms)
        return db->owner ? ((const struct manager_db *)db->owner)->m->started_ms +
                               (int64_t)(jitter % MIN(interval, (uint64_t)FIRST_MS))
                         : now;
    return f->time_ms + (int64_t)(interval + jitter % (interval / 10 + 1));
}

static uint64_t tick_ms(const struct drill *d)
{
    uint64_t least = d->least_ms;
    if (least == UINT64_MAX)
        return TICK_MS;
    if (clk_real_ms() - d->m->started_ms < TICK_MS) /* what was overdue before the start */
        least = 0;
    return MAX(MIN(least / 4, (uint64_t)TICK_MS), (uint64_t)TICK_MIN_MS);
}

/* Whether it is its turn. Else it is put where it will be looked at again. */
static bool has_turn(struct drill *d, struct database *db, int64_t now)
{
    struct agenda_entry *x = &db->drill_turn;
    uint64_t interval = interval_of(db);
    d->m->look.visits++;
    if (!((const struct manager_db *)db->owner)->conf->verify_ms) {
        agenda_remove(d->turns, x);
        return false;
    }
    if (!interval || !is_ready(db)) {
        agenda_set(d->turns, x, (uint64_t)now + tick_ms(d));
        return false;
    }
    if (!db->drill.looked) {
        (void)add_paper(d, db);
        agenda_set(d->turns, x, (uint64_t)now + 1);
        return false;
    }
    uint64_t at = (uint64_t)MAX(due_ms(db, interval, now), (int64_t)0);
    if (x->at_ms == at)
        return true;
    agenda_set(d->turns, x, at);
    return false;
}

static void look(struct drill *d)
{
    int64_t now = clk_real_ms();
    const struct database *best = NULL;
    if (now < d->looked_ms) /* the clock was set back */
        drill_reconf(d);
    d->looked_ms = now;
    for (unsigned n = 0; n < READ_AT_ONCE && !best; n++) {
        struct agenda_entry *x = agenda_first(d->turns);
        if (!x || x->at_ms > (uint64_t)now)
            break;
        struct database *db = CONTAINER_OF(x, struct database, drill_turn);
        if (has_turn(d, db, now))
            best = db;
    }
    if (d->n_papers)
        start_papers(d, false);
    else if (best)
        start(d, best);
}

void drill_know(struct drill *d, struct database *db)
{
    if (((const struct manager_db *)db->owner)->conf->verify_ms)
        agenda_set(d->turns, &db->drill_turn, 0);
}

void drill_forget(struct drill *d, struct database *db)
{
    agenda_remove(d->turns, &db->drill_turn);
}

void drill_reconf(struct drill *d)
{
    const struct conf *c = d->m->conf;
    d->least_ms = UINT64_MAX;
    for (size_t i = 0; i < c->n_dbs; i++)
        if (c->db[i].verify_ms)
            d->least_ms = MIN(d->least_ms, c->db[i].verify_ms);
    for (size_t i = 0; i < d->m->n_dbs && d->least_ms != UINT64_MAX; i++)
        drill_know(d, d->m->db[i]);
}

static void on_tick(uv_timer_t *t)
{
    struct drill *d = t->data;
    if (d->magic != DRILL_MAGIC)
        abort();
    if (!d->running && !d->working && !d->m->stopping && d->m->ready)
        look(d);
    (void)uv_timer_start(t, on_tick, tick_ms(d), 0);
}

/* ---- the whole --------------------------------------------------------------------------------- */

struct drill *drill_new(struct manager *m)
{
    struct drill *d = util_zalloc(sizeof *d);
    d->magic = DRILL_MAGIC;
    d->m = m;
    d->turns = agenda_new(m->loop, NULL, NULL);
    drill_reconf(d);
    (void)uv_timer_init(m->loop, &d->timer);
    d->timer.data = d;
    d->open = 1;
    (void)uv_timer_start(&d->timer, on_tick, tick_ms(d), 0);
    return d;
}

static void on_turns_closed(void *arg)
{
    struct drill *d = arg;
    d->turns = NULL;
    maybe_closed(d);
}

void drill_close(struct drill *d, void (*closed)(void *arg), void *arg)
{
    d->closing = true;
    d->closed = closed;
    d->closed_arg = arg;
    agenda_close(d->turns, on_turns_closed, d);
    uv_close((uv_handle_t *)&d->timer, on_closed);
    if (d->running && uv_is_active((uv_handle_t *)&d->process))
        (void)uv_process_kill(&d->process, SIGKILL);
}

bool drill_is_bad(const struct database *db)
{
    return db->drill.time_ms && (db->drill.result == DRILL_DAMAGED || db->drill.result == DRILL_UNSAFE);
}

json_t *drill_json(const struct database *db)
{
    const struct drill_fact *f = &db->drill;
    if (!f->time_ms && !f->text)
        return json_null();
    return json_pack("{s:s, s:o, s:s, s:I}", "result", result_name[f->result], "time_ms",
                     f->time_ms ? json_integer(f->time_ms) : json_null(), "text", f->text ? f->text : "",
                     "interval_ms", (json_int_t)((const struct manager_db *)db->owner)->conf->verify_ms);
}
