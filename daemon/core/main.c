/* main.c - walsupd: options, limits, the loop. The only place that ends the process. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/format/words.h"
#include "common/store/cred.h"
#include "common/store/s3_log.h"
#include "common/store/work.h"
#include "daemon/capture/dblock.h"
#include "daemon/capture/session.h"
#include "daemon/core/adhoc.h"
#include "daemon/core/manager.h"
#include "daemon/core/once.h"
#include "daemon/core/supervise.h"
#include "daemon/os/confine.h"

#define DEFAULT_CONFIG "/etc/walsup.ini"

static const char usage[] =
    "Usage: walsupd [-c FILE] [--once | --exec 'PROGRAM ARGS']\n"
    "       walsupd [--once | --exec 'PROGRAM ARGS'] [--set KEY=VALUE] DB URL...\n"
    "\n"
    "Replicates SQLite databases to the targets of the configuration file, or the\n"
    "database DB to s3://BUCKET/PATH?endpoint=https://HOST or file:///PATH.\n"
    "\n"
    "  -c, --config FILE     configuration (" DEFAULT_CONFIG ")\n"
    "      --once            replicate what is committed now, and exit\n"
    "      --exec 'PROGRAM ARGS'\n"
    "                        restore databases that are missing, run the program,\n"
    "                        replicate until it ends, and exit as it did\n"
    "      --set KEY=VALUE   a key of the section [walsup]; with DB URL\n"
    "      --check           read the configuration, say what is wrong, exit\n"
    "  -h, --help            this text\n"
    "  -V, --version         version of walsup and of the SQLite it uses\n"
    "\n"
    "walsupctl(1) shows and steers a running walsupd.\n";

#define MAX_SET 64

struct call {
    const char *path; /* of the configuration */
    char *kept;       /* of one that was made from the command line */
    struct conf *conf;
    bool config_given, check, once;
    const char *exec;
    const char *set[MAX_SET];
    struct adhoc adhoc;
    struct buf text; /* of the configuration from the command line */
    char **argv, **environment; /* of the program; like the rest, as long as the process lives */
};

/* What a restart does not mend (RestartPreventExitStatus= of the unit) is worth a look as a whole. */
static int fail(const struct err *e)
{
    log_err(LOG_ERROR, e, "walsupd");
    if (e->code == ERR_CONFIG || e->code == ERR_PERM || e->code == ERR_NOTFOUND)
        log_line(LOG_ERROR, "walsupctl check, run as root, tries everything that the configuration names");
    return err_exit_status(e->code);
}

/* Descriptors: as many as the system lets us; core dumps: never, they would hold secrets. */
static void set_limits(void)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < rl.rlim_max) {
        rl.rlim_cur = rl.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &rl);
    }
    (void)prctl(PR_SET_DUMPABLE, 0);
    (void)signal(SIGPIPE, SIG_IGN);
    cred_take_environment();
    (void)OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG,
                              NULL); /* it reads files, and would when the loop first needs it */
}

/* Two daemons on one state directory would give out the same TXIDs. */
static int lock_state(const char *dir, int *ret_fd, struct err *e)
{
    int r = fsx_mkdirs(dir, 0700, e);
    if (r < 0)
        return err_wrap(e, "state-dir");
    cleanup_free char *path = util_printf("%s/lock", dir);
    cleanup_close int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(e, errno, "open %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        err_set(e, ERR_BUSY, "another walsupd uses the state directory %s", dir);
        return err_hint(e, "stop it first, or give this one its own state-dir");
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* Affected by the WAL-reset bug: 3.7.0 to 3.51.2 but for the back-ports. walsup's own checkpoints are
 * safe by protocol; the application's are shielded only while walsup is attached. */
static bool sqlite_affected(int v)
{
    return v < 3051003 && !(v >= 3050007 && v < 3051000) && !(v >= 3044006 && v < 3045000);
}

/* walsupd proper; conf is taken over. */
static int run(const struct call *c, struct conf *conf, int ready_fd, int stop_fd)
{
    struct err e;
    set_limits();
    enum log_level level;
    if (log_level_parse(conf->log_level, &level))
        log_setup(level);
    s3_log_requests(conf->log_requests);
    int r = session_setup(&e);
    struct err le;
    if (r == 0 && dblock_setup(&le) < 0)
        log_err(LOG_WARN, &le, "databases are not locked");
    if (r == 0)
        confine_apply(conf, c->path);
    static uv_loop_t loop; /* what a start that fails leaves in it goes with the process */
    if (r == 0 && uv_loop_init(&loop) < 0)
        r = err_set(&e, ERR_INTERNAL, "uv_loop_init failed");
    if (r == 0)
        work_setup(&loop, conf->workers);
    struct manager *m = NULL;
    if (r == 0)
        r = manager_new(&loop, c->path, conf, &m, &e);
    if (r == 0 && (c->once || stop_fd >= 0))
        once_new(m, ready_fd, stop_fd);
    if (r < 0) {
        (void)conf_free(conf);
        return fail(&e);
    }
    log_line(LOG_NOTICE, "walsupd %s, SQLite %s%s, %zu database%s", WALSUP_VERSION,
             sqlite3_libversion(),
             sqlite_affected(sqlite3_libversion_number())
                 ? " (has the WAL-reset bug; walsup's checkpoints do not trigger it)"
                 : "",
             m->n_dbs, PLURAL(m->n_dbs));
    confine_tell();
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    work_close();
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    int status = manager_free(m);
    (void)uv_loop_close(&loop);
    log_line(LOG_NOTICE, "stopped");
    return status;
}

static void mark_by_url(const struct call *c, const struct conf *conf)
{
    for (size_t i = 0; c->adhoc.n && i < conf->n_targets; i++)
        conf->target[i].by_url = true;
}

/* ---- what it was called with ------------------------------------------------------------------- */

/* The descriptor stays open as long as the process, and a process that it forks. */
static int prepare(struct call *c, struct err *e)
{
    static int lock = -1;
    int r = lock_state(c->conf->state_dir, &lock, e);
    if (r < 0 && e->code != ERR_BUSY && c->adhoc.n)
        return err_hint(e, "name a directory of your own: --set state-dir=DIR --set socket=DIR/walsup.sock");
    if (r < 0 || !c->adhoc.n)
        return r;
    r = adhoc_keep(c->conf->state_dir, buf_str(&c->text), &c->kept, e);
    c->path = c->kept ? c->kept : c->path;
    return r;
}

static int daemon_of(void *arg, int ready_fd, int stop_fd)
{
    struct call *c = arg;
    struct conf *conf = NULL;
    struct err e;
    /* it may have been changed, since this one is not the first */
    if (conf_load(c->path, &conf, NULL, &e) < 0)
        conf = c->conf;
    mark_by_url(c, conf);
    return run(c, conf, ready_fd, stop_fd);
}

static int run_program(struct call *c)
{
    struct err e;
    enum log_level level;
    if (words_split(c->exec, &c->argv, &e) < 0) {
        (void)err_wrap(&e, "--exec");
        return fail(&e);
    }
    if (log_level_parse(c->conf->log_level, &level))
        log_setup(level);
    const struct supervise s = {c->path, c->conf, c->argv, c->environment, daemon_of, c};
    return supervise_run(&s);
}

static int load(struct call *c)
{
    struct err e = {0};
    cleanup_buf struct buf errors = BUF_INIT;
    int r = c->adhoc.n ? adhoc_text(&c->adhoc, &c->text, &e) : conf_load(c->path, &c->conf, &errors, &e);
    if (r < 0 && !errors.len)
        return fail(&e);
    if (r == 0 && c->adhoc.n)
        r = conf_parse("the command line", buf_str(&c->text), c->text.len, &c->conf, &errors, &e);
    if (r == 0) {
        mark_by_url(c, c->conf);
        return 0;
    }
    (void)fputs(buf_str(&errors), stderr);
    return err_exit_status(ERR_CONFIG);
}

/* True: go on. */
static bool take_options(struct call *c, int argc, char **argv, int *ret_status)
{
    static const struct option opts[] = {
        {"config", required_argument, NULL, 'c'}, {"check", no_argument, NULL, 'k'},
        {"once", no_argument, NULL, 'o'},         {"exec", required_argument, NULL, 'e'},
        {"set", required_argument, NULL, 's'},    {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},      {NULL, 0, NULL, 0}};
    *ret_status = 0;
    for (int o; (o = getopt_long(argc, argv, "c:hV", opts, NULL)) != -1;)
        switch (o) {
        case 'c':
            c->path = optarg;
            c->config_given = true;
            break;
        case 'k':
            c->check = true;
            break;
        case 'o':
            c->once = true;
            break;
        case 'e':
            c->exec = optarg;
            break;
        case 's':
            if (c->adhoc.n_set < MAX_SET)
                c->set[c->adhoc.n_set++] = optarg;
            break;
        case 'h':
            (void)fputs(usage, stdout);
            return false;
        case 'V':
            (void)printf("walsupd %s (SQLite %s)\n", WALSUP_VERSION, sqlite3_libversion());
            return false;
        default:
            (void)fputs(usage, stderr);
            *ret_status = err_exit_status(ERR_USAGE);
            return false;
        }
    c->adhoc.set = c->set;
    c->adhoc.operand = (const char *const *)argv + optind;
    c->adhoc.n = (size_t)(argc - optind);
    const char *wrong =
        c->once && c->exec              ? "--once and --exec exclude each other"
        : c->config_given && c->adhoc.n ? "--config and DB URL exclude each other"
        : c->adhoc.n_set && !c->adhoc.n
            ? "--set is for DB URL; a configuration file has its own section [walsup]"
            : NULL;
    if (!wrong)
        return true;
    (void)fprintf(stderr, "walsupd: %s\n%s", wrong, usage);
    *ret_status = err_exit_status(ERR_USAGE);
    return false;
}

int main(int argc, char **argv)
{
    static struct call c = {.path = DEFAULT_CONFIG, .text = BUF_INIT};
    struct err e;
    int status;
    if (!take_options(&c, argc, argv, &status))
        return status;
    (void)mallopt(M_ARENA_MAX, 2); /* one a thread would keep what each of them needed once */
    c.environment = c.exec ? supervise_environment() : NULL;
    status = load(&c);
    if (status)
        return status;
    if (c.check) {
        (void)printf("%s: ok, %zu database%s, %zu target%s\n", c.adhoc.n ? "the command line" : c.path, c.conf->n_dbs,
                     PLURAL(c.conf->n_dbs), c.conf->n_targets, PLURAL(c.conf->n_targets));
        (void)conf_free(c.conf);
        return 0;
    }
    if (prepare(&c, &e) < 0)
        return fail(&e);
    return c.exec ? run_program(&c) : run(&c, c.conf, -1, -1);
}
