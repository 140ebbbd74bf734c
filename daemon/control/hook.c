#include "daemon/control/hook.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/base/log.h"
#include "common/base/program.h"
#include "common/store/work.h"
#include "daemon/control/status.h"
#include "daemon/core/manager.h"
#include "daemon/os/walls.h"

#define HOOK_MAGIC 0x400c1000u

struct hook {
    unsigned magic;
    struct manager *m;
    struct manager_db *first, **last; /* waiting */
    pid_t pid;                        /* 0: none runs */
    int pidfd;
    uv_poll_t poll;
    bool poll_open, late;
    uv_timer_t timer;
    struct work work; /* may it be run? */
    bool checking;
    char *path; /* that is checked */
    int may;
    struct err may_err;
    char outcome[sizeof(((struct err *)NULL)->msg)]; /* of the last one, as it was logged; "": it worked */
    void (*closed)(void *arg);
    void *closed_arg;
};

/* ---- running it ------------------------------------------------------------------------------------ */

static void fill_environment(char *env[static 8], const struct manager_db *e, const char *from, const char *to)
{
    const char *target = "", *message = "";
    char text[STATUS_DETAIL];
    const struct database *db = e->db;
    if (db->err)
        message = db->err->msg;
    for (size_t i = 0; i < db->n_up && !*target && strcmp(to, "replicating") != 0; i++)
        if (db->up[i]->err) {
            target = db->up[i]->target;
            message = *message ? message : db->up[i]->err->msg;
        }
    if (!*message)
        message = status_detail(db, text);
    env[0] = util_strdup("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    env[1] = util_strdup("LANG=C.UTF-8");
    env[2] = util_printf("WALSUP_DATABASE=%s", db->name);
    env[3] = util_printf("WALSUP_OLD_STATE=%s", from);
    env[4] = util_printf("WALSUP_NEW_STATE=%s", to);
    env[5] = util_printf("WALSUP_MESSAGE=%s", message);
    env[6] = util_printf("WALSUP_TARGET=%s", target);
    env[7] = NULL;
}

static void on_exit_seen(uv_poll_t *p, int status, int events);
static void on_late(uv_timer_t *t);
static void go_on(struct hook *h);

static int start(struct hook *h, const char *path, char *const env[], struct err *e)
{
    char *const argv[] = {(char *)(uintptr_t)path, NULL};
    pid_t pid = program_start(argv, env, -1, e);
    if (pid < 0)
        return err_wrap(e, "on-state-change = %s", path);
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0) {
        int saved = errno;
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        return err_sys(e, saved, "watch on-state-change = %s", path);
    }
    h->pid = pid;
    h->pidfd = fd;
    h->late = false;
    (void)uv_poll_init(h->m->loop, &h->poll, fd);
    h->poll.data = h;
    h->poll_open = true;
    (void)uv_poll_start(&h->poll, UV_READABLE, on_exit_seen);
    (void)uv_timer_start(&h->timer, on_late, h->m->conf->hook_timeout_ms, 0);
    return 0;
}

/* Said when it is another one than the last time. */
static void outcome(struct hook *h, const char *what, const char *hint)
{
    if (!strcmp(h->outcome, what))
        return;
    if (*what)
        log_line(LOG_WARN, "%s%s%s%s", what, *hint ? " (hint: " : "", hint, *hint ? ")" : "");
    else
        log_line(LOG_NOTICE, "on-state-change works again");
    (void)snprintf(h->outcome, sizeof h->outcome, "%s", what);
}

static void maybe_closed(struct hook *h);

static void on_poll_closed(uv_handle_t *p)
{
    struct hook *h = p->data;
    (void)close(TAKE_FD(h->pidfd));
    h->poll_open = false;
    h->pid = 0;
    maybe_closed(h);
    if (!h->closed)
        go_on(h);
}

static void on_exit_seen(uv_poll_t *p, int status, int events)
{
    struct hook *h = p->data;
    char text[sizeof h->outcome] = "", limit[32];
    int how = 0;
    (void)status;
    (void)events;
    assert(h->magic == HOOK_MAGIC);
    if (waitpid(h->pid, &how, WNOHANG) == 0)
        return;
    (void)kill(-h->pid, SIGKILL); /* what it has left behind in its session */
    (void)uv_timer_stop(&h->timer);
    if (h->late)
        (void)snprintf(text, sizeof text, "on-state-change: killed, because it ran for more than %s",
                       util_duration(limit, h->m->conf->hook_timeout_ms));
    else if (WIFSIGNALED(how))
        (void)snprintf(text, sizeof text, "on-state-change: ended by signal %d", WTERMSIG(how));
    else if (WEXITSTATUS(how))
        (void)snprintf(text, sizeof text, "on-state-change: exit status %d", WEXITSTATUS(how));
    if (!h->closed)
        outcome(h, text, "");
    uv_close((uv_handle_t *)p, on_poll_closed);
}

static void on_late(uv_timer_t *t)
{
    struct hook *h = t->data;
    h->late = true;
    (void)kill(-h->pid, SIGKILL);
    (void)kill(h->pid, SIGKILL); /* it may not have a session yet */
}

/* ---- what is waiting ------------------------------------------------------------------------------- */

static void unlink_from(struct hook *h, struct manager_db *e)
{
    struct manager_db **p = &h->first;
    while (*p && *p != e)
        p = &(*p)->hook.next;
    if (!*p)
        return;
    *p = e->hook.next;
    if (!*p)
        h->last = p;
    e->hook.next = NULL;
    e->hook.from = NULL;
}

static const char *told(const struct manager_db *e)
{
    return e->hook.told ? e->hook.told : "replicating";
}

static void check_work(uv_work_t *w)
{
    struct hook *h = w->data;
    h->may = program_may_run(h->path, &h->may_err);
    if (h->may < 0)
        (void)err_wrap(&h->may_err, "on-state-change = %s", h->path);
}

static void on_checked(uv_work_t *w, int status)
{
    struct hook *h = w->data;
    cleanup_free char *path = TAKE_PTR(h->path);
    struct manager_db *e = h->first;
    (void)status;
    h->checking = false;
    maybe_closed(h);
    if (h->closed || !e)
        return;
    const char *from = e->hook.from;
    char *env[8];
    struct err err = h->may_err;
    unlink_from(h, e);
    if (strcmp(from, told(e)) != 0) { /* it has not changed back meanwhile */
        fill_environment(env, e, from, told(e));
        if (h->may < 0 || start(h, path, env, &err) < 0)
            outcome(h, err.msg, err.hint);
        for (size_t i = 0; env[i]; i++)
            free(env[i]);
    }
    go_on(h);
}

/* Whether it may be run is looked up each time, on a worker. */
static void go_on(struct hook *h)
{
    const char *path = h->m->conf->on_state_change;
    while (h->first && (!path || !strcmp(h->first->hook.from, told(h->first)))) /* it has changed back meanwhile */
        unlink_from(h, h->first);
    if (h->pid || h->checking || !h->first || h->closed)
        return;
    h->checking = true;
    h->path = util_strdup(path);
    h->work.uv.data = h;
    work_queue(h->m->loop, &h->work, wall_of_mount(path), check_work, on_checked);
}

void hook_look(struct hook *h, struct manager_db *e)
{
    if (!h->m->conf->on_state_change || h->closed || h->m->stopping)
        return;
    enum db_state s = status_state(e->db);
    /* what begins is no news for the first seconds, and asleep or awake never is */
    if (db_state_row(s)->severity == SEVERITY_PENDING && status_health(e->db) == STATUS_HEALTHY)
        return;
    const char *state = db_state_row(s == DB_IDLE ? DB_REPLICATING : s)->word;
    if (!strcmp(state, told(e)))
        return;
    if (!e->hook.from) {
        e->hook.from = told(e);
        *h->last = e;
        h->last = &e->hook.next;
    }
    e->hook.told = state;
    go_on(h);
}

void hook_forget(struct hook *h, struct manager_db *e)
{
    if (e->hook.from)
        unlink_from(h, e);
}

bool hook_at_rest(const struct manager_db *e)
{
    return !strcmp(told(e), "replicating") && !e->hook.from;
}

/* ---- begin and end ---------------------------------------------------------------------------------- */

struct hook *hook_new(struct manager *m)
{
    struct hook *h = util_zalloc(sizeof *h);
    h->magic = HOOK_MAGIC;
    h->m = m;
    h->pidfd = -1;
    h->last = &h->first;
    (void)uv_timer_init(m->loop, &h->timer);
    h->timer.data = h;
    return h;
}

static void on_timer_closed(uv_handle_t *t)
{
    struct hook *h = t->data;
    void (*closed)(void *arg) = h->closed;
    void *arg = h->closed_arg;
    h->magic = 0;
    free(h);
    closed(arg);
}

static void maybe_closed(struct hook *h)
{
    if (h->closed && !h->poll_open && !h->checking)
        uv_close((uv_handle_t *)&h->timer, on_timer_closed);
}

void hook_close(struct hook *h, void (*closed)(void *arg), void *arg)
{
    h->closed = closed;
    h->closed_arg = arg;
    if (h->pid) {
        (void)kill(-h->pid, SIGKILL);
        (void)kill(h->pid, SIGKILL);
    }
    maybe_closed(h);
}
