#include "daemon/core/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "common/base/clk.h"
#include "common/base/log.h"

#define READY_MS 5000 /* a program is not held up for longer by a store that does not answer */
#define AGAIN_MS 1000
#define AGAIN_MAX_MS 60000
#define GRACE_MS 10000 /* beyond twice shutdown-timeout walsupd hangs */
#define FOREVER UINT64_MAX

static const int forwarded[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT};

struct super {
    const struct supervise *s;
    sigset_t old, all;
    int signal_fd;
    int ready_fd, stop_fd; /* of walsupd; -1: none */
    pid_t restore, daemon, program; /* 0: none, or not any more */
    int restore_status, daemon_status, program_status; /* as waitpid() has them, once those are 0 again */
    int asked; /* a signal that asks to end, while there is no program yet; 0: none */
    uint64_t again_ms, wait_ms; /* when walsupd is started again; 0: it is there, or is not to be */
};

static int exit_status(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static const char *ended(int status, char text[static 64])
{
    (void)snprintf(text, 64, WIFSIGNALED(status) ? "was ended by signal %d" : "ended with status %d",
                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return text;
}

/* ---- waiting ----------------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

/* Also those that nobody here has started: orphans come to process 1. */
static void bury(struct super *x)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == x->restore) {
            x->restore = 0;
            x->restore_status = status;
        } else if (pid == x->daemon) {
            x->daemon = 0;
            x->daemon_status = status;
        } else if (pid == x->program) {
            x->program = 0;
            x->program_status = status;
        }
    }
}

/* A signal of the terminal has reached the program as well: it is in the same process group. */
static bool from_terminal(const struct signalfd_siginfo *i)
{
    return i->ssi_code == SI_KERNEL && (i->ssi_signo == SIGINT || i->ssi_signo == SIGQUIT || i->ssi_signo == SIGWINCH);
}

static void pass_on(struct super *x, const struct signalfd_siginfo *i)
{
    int n = (int)i->ssi_signo;
    if (n == SIGCHLD)
        bury(x);
    else if (x->program && !from_terminal(i))
        (void)kill(x->program, n);
    else if (!x->program && (n == SIGTERM || n == SIGINT || n == SIGQUIT || n == SIGHUP))
        x->asked = n;
}

static uint64_t left(uint64_t at)
{
    uint64_t now = clk_mono_ms();
    return at == FOREVER ? (uint64_t)INT_MAX : at > now ? MIN(at - now, (uint64_t)INT_MAX) : 0;
}

/* Until something happened, or that moment. */
static void await(struct super *x, uint64_t at)
{
    struct pollfd fd[] = {{.fd = x->signal_fd, .events = POLLIN}, {.fd = x->ready_fd, .events = POLLIN}};
    struct signalfd_siginfo i;
    (void)poll(fd, ARRAY_LEN(fd), at == FOREVER ? -1 : (int)left(at));
    if (fd[1].revents)
        close_fd(&x->ready_fd);
    while (read(x->signal_fd, &i, sizeof i) == (ssize_t)sizeof i)
        pass_on(x, &i);
}

/* ---- starting ---------------------------------------------------------------------------------- */

/* 0, or an errno. The program gets signals as they were before; output: where its standard output goes, -1: as ours. */
static int start(const struct super *x, const char *path, char **argv, int output, pid_t *ret)
{
    posix_spawnattr_t a;
    posix_spawn_file_actions_t f;
    sigset_t dflt;
    (void)sigemptyset(&dflt);
    (void)sigaddset(&dflt, SIGPIPE);
    (void)posix_spawnattr_init(&a);
    (void)posix_spawn_file_actions_init(&f);
    (void)posix_spawnattr_setflags(&a, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    (void)posix_spawnattr_setsigmask(&a, &x->old);
    (void)posix_spawnattr_setsigdefault(&a, &dflt);
    if (output >= 0)
        (void)posix_spawn_file_actions_adddup2(&f, output, STDOUT_FILENO);
    int r = strchr(path, '/') ? posix_spawn(ret, path, &f, &a, argv, x->s->environ)
                              : posix_spawnp(ret, path, &f, &a, argv, x->s->environ);
    (void)posix_spawn_file_actions_destroy(&f);
    (void)posix_spawnattr_destroy(&a);
    return r;
}

static void fork_daemon(struct super *x)
{
    int ready[2], stop[2];
    if (pipe2(ready, O_CLOEXEC) < 0)
        return;
    if (pipe2(stop, O_CLOEXEC) < 0) {
        (void)close(ready[0]);
        (void)close(ready[1]);
        return;
    }
    close_fd(&x->ready_fd);
    close_fd(&x->stop_fd);
    x->again_ms = 0;
    x->daemon = fork();
    if (x->daemon == 0) {
        (void)close(ready[0]);
        (void)close(stop[1]);
        (void)close(x->signal_fd);
        (void)setpgid(0, 0); /* what the terminal sends is for the program: walsupd outlives it */
        (void)sigprocmask(SIG_SETMASK, &x->old, NULL);
        exit(x->s->daemon(x->s->arg, ready[1], stop[0]));
    }
    (void)close(ready[1]);
    (void)close(stop[0]);
    x->ready_fd = ready[0];
    x->stop_fd = stop[1];
    if (x->daemon > 0)
        return;
    x->daemon = 0;
    log_line(LOG_ERROR, "walsupd cannot be started: fork: %s", strerror(errno));
    x->again_ms = clk_mono_ms() + AGAIN_MS;
}

/* ---- before the program ------------------------------------------------------------------------ */

static char *beside_us(const char *program)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[MAX(n, (ssize_t)0)] = '\0';
    char *slash = strrchr(exe, '/');
    return slash ? util_printf("%.*s/%s", (int)(slash - exe), exe, program) : util_strdup(program);
}

/* walsupctl says what it does. False: the program must not start, since it would begin with an empty database. */
static bool restore(struct super *x, const struct conf_db *d, int *ret_status)
{
    cleanup_free char *ctl = beside_us("walsupctl");
    const char *const argv[] = {"walsupctl", "-c", x->s->conf_path, "restore", d->name, "--if-db-not-exists",
                                "--if-replica-exists", NULL};
    if (!d->glob)
        log_line(LOG_NOTICE, "%s: %s is not there: restoring it", d->name, d->path);
    int r = start(x, ctl, (char **)(uintptr_t)argv, STDERR_FILENO, &x->restore);
    if (r) {
        log_line(LOG_ERROR, "%s: cannot run %s: %s", d->name, ctl, strerror(r));
        *ret_status = err_exit_status(ERR_INTERNAL);
        return false;
    }
    for (bool told = false; x->restore;) {
        await(x, FOREVER);
        if (x->asked && x->restore && !told)
            (void)kill(x->restore, SIGTERM);
        told = told || x->asked;
    }
    if (x->asked)
        return false;
    *ret_status = exit_status(x->restore_status);
    if (*ret_status)
        log_line(LOG_ERROR, d->glob ? "[db %s]: %s is not started" : "%s: not restored: %s is not started", d->name,
                 x->s->argv[0]);
    return *ret_status == 0;
}

static bool restore_missing(struct super *x, int *ret_status)
{
    const struct conf *c = x->s->conf;
    for (size_t i = 0; i < c->n_dbs && !x->asked; i++) {
        const struct conf_db *d = &c->db[i];
        /* of a pattern, walsupctl looks whether there is any */
        if ((d->glob || (access(d->path, F_OK) < 0 && errno == ENOENT)) && !restore(x, d, ret_status))
            return false;
    }
    return !x->asked;
}

/* ---- the program ------------------------------------------------------------------------------- */

static int not_run(const char *program, int why)
{
    struct err e;
    (void)err_sys(&e, why, "--exec: cannot run %s", program);
    if (why == ENOENT)
        (void)err_hint(&e, "no shell is involved: give a path or a program in $PATH, or write --exec \"sh -c '...'\"");
    log_err(LOG_ERROR, &e, "walsupd");
    return why == ENOENT ? 127 : 126;
}

static void daemon_ended(struct super *x)
{
    char text[64];
    x->wait_ms = x->wait_ms ? MIN(x->wait_ms * 2, (uint64_t)AGAIN_MAX_MS) : AGAIN_MS;
    x->again_ms = clk_mono_ms() + x->wait_ms;
    log_line(LOG_ERROR, "walsupd %s while %s runs: it is started again in %u s",
             ended(x->daemon_status, text), x->s->argv[0], (unsigned)(x->wait_ms / 1000));
}

static void attend(struct super *x)
{
    while (x->program) {
        await(x, x->again_ms ? x->again_ms : FOREVER);
        if (!x->daemon && !x->again_ms && x->program)
            daemon_ended(x);
        if (x->again_ms && x->again_ms <= clk_mono_ms() && x->program)
            fork_daemon(x);
    }
}

/* It uploads what is left, for a while. Its exit status. */
static int end_daemon(struct super *x)
{
    bool was_there = x->daemon != 0;
    uint64_t at = clk_mono_ms() + 2 * x->s->conf->shutdown_timeout_ms + GRACE_MS;
    close_fd(&x->stop_fd);
    while (x->daemon && clk_mono_ms() < at)
        await(x, at);
    if (x->daemon) {
        log_line(LOG_ERROR, "walsupd does not end: it is killed");
        (void)kill(x->daemon, SIGKILL);
        while (x->daemon)
            await(x, FOREVER);
    }
    if (!was_there)
        log_line(LOG_ERROR, "walsupd was not running at the end: the last commits may not be in the replicas");
    return was_there ? exit_status(x->daemon_status) : err_exit_status(ERR_INTERNAL);
}

static int run(struct super *x)
{
    char text[64];
    int status = 0;
    if (!restore_missing(x, &status))
        return x->asked ? 128 + x->asked : status;
    fork_daemon(x);
    uint64_t at = clk_mono_ms() + READY_MS;
    while (x->ready_fd >= 0 && !x->asked && clk_mono_ms() < at)
        await(x, at);
    int r = x->asked ? 0 : start(x, x->s->argv[0], x->s->argv, -1, &x->program);
    if (x->asked || r) {
        x->program = 0;
        (void)end_daemon(x);
        return r ? not_run(x->s->argv[0], r) : 128 + x->asked;
    }
    log_line(LOG_NOTICE, "%s is started as process %d", x->s->argv[0], (int)x->program);
    attend(x);
    log_line(LOG_NOTICE, "%s %s: uploading what is left", x->s->argv[0], ended(x->program_status, text));
    int ours = end_daemon(x);
    status = exit_status(x->program_status);
    return status ? status : ours;
}

int supervise_run(const struct supervise *s)
{
    struct super x = {.s = s, .ready_fd = -1, .stop_fd = -1};
    (void)sigemptyset(&x.all);
    (void)sigaddset(&x.all, SIGCHLD);
    for (size_t i = 0; i < ARRAY_LEN(forwarded); i++)
        (void)sigaddset(&x.all, forwarded[i]);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    (void)sigprocmask(SIG_BLOCK, &x.all, &x.old);
    x.signal_fd = signalfd(-1, &x.all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (x.signal_fd < 0) {
        log_line(LOG_ERROR, "signalfd: %s", strerror(errno));
        return err_exit_status(ERR_INTERNAL);
    }
    int status = run(&x);
    (void)close(x.signal_fd);
    return status;
}

char **supervise_environment(void)
{
    size_t n = 0;
    while (environ[n])
        n++;
    char **copy = util_zalloc((n + 1) * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        copy[i] = util_strdup(environ[i]);
    return copy;
}
