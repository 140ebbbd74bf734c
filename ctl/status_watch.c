/* status --watch */
#include "ctl/status.h"

#include <poll.h>
#include <signal.h>

#include "common/base/clk.h"
#include "common/base/map.h"
#include "common/format/proto.h"
#include "ctl/client.h"
#include "ctl/out.h"

/* what was last said of a database or a replica */
struct said {
    char *key, *name, *target, *state;
    bool seen; /* in the reply at hand */
};

struct watching {
    const struct status_ask *ask;
    bool json, whole; /* whole: what a reply does not name is not there */
    struct map said;
    char *health; /* of all, or why the daemon does not answer */
    int status;
};

static volatile sig_atomic_t stopped;

static void on_signal(int signum)
{
    (void)signum;
    stopped = 1;
}

static const char *str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* ---- one line for each change -------------------------------------------------------------------- */

static void say(const struct watching *w, const struct said *s, const char *old, const char *state, const char *note)
{
    char moment[OUT_MOMENT_SIZE];
    int64_t now = clk_real_ms();
    if (w->json) {
        json_t *j =
            json_pack("{s:I, s:s?, s:s?, s:s?, s:s, s:s}", "time_ms", (json_int_t)now, "name",
                      s ? s->name : NULL, "target", s && *s->target ? s->target : NULL, "from", old,
                      "to", state, "message", note);
        (void)json_dumpf(j, stdout, JSON_COMPACT);
        json_decref(j);
    } else {
        cleanup_free char *line =
            util_printf("%s %s%s%s%s: %s%s%s%s%s", out_moment(moment, now), s ? s->name : "walsupd",
                        s && *s->target ? " (" : "", s ? s->target : "", s && *s->target ? ")" : "", old ? old : "",
                        old ? " -> " : "", state, *note ? ": " : "", note);
        for (char *p = line; *p; p++)
            *p = *p == '\n' ? ' ' : *p;
        out_text(stdout, line);
    }
    (void)fputc('\n', stdout);
}

static struct said *find(struct watching *w, const char *name, const char *target)
{
    cleanup_free char *key = util_printf("%s\n%s", name, target);
    struct said *s = map_get_str(&w->said, key);
    if (s)
        return s;
    s = util_zalloc(sizeof *s);
    s->key = TAKE_PTR(key);
    s->name = util_strdup(name);
    s->target = util_strdup(target);
    map_put_str(&w->said, s->key, s);
    return s;
}

static void look_at(struct watching *w, const json_t *db, const json_t *replica, bool first, uint64_t now_ms)
{
    struct said *s = find(w, str(db, "name"), str(replica, "target"));
    const char *state = status_row_state(db, replica);
    cleanup_buf struct buf note = BUF_INIT;
    s->seen = true;
    if (s->state && !strcmp(s->state, state))
        return;
    status_note(&note, first ? db : NULL, replica, now_ms);
    say(w, s, s->state, state, buf_str(&note));
    free(s->state);
    s->state = util_strdup(state);
}

/* Those that the reply does not name: gone, or, of many, fine again. */
static void look_for_missing(struct watching *w)
{
    size_t at = 0;
    for (struct said *s; (s = map_next(&w->said, &at));) {
        const char *now = w->whole ? "gone" : "fine";
        if (!s->seen && s->state && strcmp(s->state, now) != 0) {
            say(w, s, s->state, now, "");
            free(s->state);
            s->state = util_strdup(now);
        }
        s->seen = false;
    }
}

static void say_health(struct watching *w, const char *health, const char *note)
{
    if (w->health && !strcmp(w->health, health))
        return;
    say(w, NULL, w->health, health, note);
    free(w->health);
    w->health = util_strdup(health);
}

static void changes(struct watching *w, const json_t *reply)
{
    size_t i, j;
    const json_t *d, *r, *all = json_object_get(reply, "databases");
    uint64_t now = (uint64_t)json_integer_value(json_object_get(reply, "now_ms"));
    json_int_t total = json_integer_value(json_object_get(reply, "total"));
    w->whole = w->ask->db || (json_int_t)json_array_size(all) == total;
    cleanup_free char *note = util_printf("%lld database%s", (long long)total, total == 1 ? "" : "s");
    say_health(w, str(reply, "state"), note);
    json_array_foreach(all, i, d) {
        const json_t *replicas = json_object_get(d, "replicas");
        if (!json_array_size(replicas))
            look_at(w, d, NULL, true, now);
        json_array_foreach(replicas, j, r) {
            look_at(w, d, r, j == 0, now);
        }
    }
    look_for_missing(w);
}

/* ---- the loop -------------------------------------------------------------------------------------- */

static void look(struct watching *w, bool terminal)
{
    struct err e = {0};
    json_t *reply = NULL;
    int r = client_call(w->ask->socket, "Status", status_parameters(w->ask, false),
                        STATUS_TIMEOUT_MS, &reply, NULL, &e);
    if (r < 0 && e.code != ERR_NET && e.code != ERR_TIMEOUT) { /* there is no such database: waiting is no use */
        w->status = out_fail(w->json, &e);
        stopped = 1;
        return;
    }
    w->status = r < 0 ? (int)STATUS_FAILED : (int)status_exit_of(reply);
    if (terminal) {
        (void)fputs("\033[H\033[2J", stdout);
        if (r == 0)
            status_print(reply, w->ask->db != NULL);
        else
            out_wrapped(stdout, 0, e.msg);
    } else if (r == 0) {
        changes(w, reply);
    } else {
        say_health(w, "not answering", e.msg);
    }
    json_decref(reply);
    (void)fflush(stdout);
}

static void done(struct watching *w)
{
    size_t at = 0;
    for (struct said *s; (s = map_next(&w->said, &at));) {
        free(s->key);
        free(s->name);
        free(s->target);
        free(s->state);
        free(s);
    }
    map_free(&w->said);
    free(w->health);
}

int status_watch(const struct status_ask *ask, bool json)
{
    struct watching w = {.ask = ask, .json = json};
    bool terminal = !json && isatty(STDOUT_FILENO);
    const struct sigaction stop = {.sa_handler = on_signal};
    sigset_t signals, before;
    (void)sigaction(SIGINT, &stop, NULL);
    (void)sigaction(SIGTERM, &stop, NULL);
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGINT);
    (void)sigaddset(&signals, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &signals, &before); /* they come in the pause only: none gets lost */
    const struct timespec pause = {.tv_sec = (time_t)(ask->interval_ms / 1000),
                                   .tv_nsec = (long)(ask->interval_ms % 1000 * 1000000)};
    for (look(&w, terminal); !stopped && !ferror(stdout); look(&w, terminal))
        if (ppoll(NULL, 0, &pause, &before) < 0)
            break;
    if (terminal)
        (void)fputc('\n', stdout);
    done(&w);
    return w.status;
}
