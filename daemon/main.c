/* main.c - walsupd: options, limits, the loop. The only place that ends the process. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/store/cred.h"
#include "daemon/confine.h"
#include "daemon/dblock.h"
#include "common/store/s3_log.h"
#include "daemon/manager.h"
#include "daemon/session.h"

#define DEFAULT_CONFIG "/etc/walsup.ini"

static const char usage[] =
    "usage: walsupd [-c FILE] [--check] [--help] [--version]\n"
    "\n"
    "Replicates SQLite databases to the targets of the configuration file.\n"
    "\n"
    "  -c, --config FILE  configuration (default: " DEFAULT_CONFIG ")\n"
    "      --check        read the configuration, say what is wrong, exit\n"
    "  -h, --help         this text\n"
    "  -V, --version      version of walsup and of the SQLite it uses\n"
    "\n"
    "walsupctl(1) shows and steers a running walsupd.\n";

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

static int run(const char *conf_path, struct conf *conf)
{
    struct err e;
    int lock = -1;
    set_limits();
    cleanup_free char *workers = util_printf("%u", conf->workers);
    (void)setenv("UV_THREADPOOL_SIZE", workers, 1);
    enum log_level level;
    if (log_level_parse(conf->log_level, &level))
        log_setup(level);
    s3_log_requests(conf->log_requests);
    int r = session_setup(&e);
    if (r == 0)
        r = lock_state(conf->state_dir, &lock, &e);
    struct err le;
    if (r == 0 && dblock_setup(&le) < 0)
        log_err(LOG_WARN, &le, "databases are not locked");
    if (r == 0)
        confine_apply(conf, conf_path);
    static uv_loop_t loop; /* what a start that fails leaves in it goes with the process */
    if (r == 0 && uv_loop_init(&loop) < 0)
        r = err_set(&e, ERR_INTERNAL, "uv_loop_init failed");
    struct manager *m = NULL;
    if (r == 0)
        r = manager_new(&loop, conf_path, conf, &m, &e);
    if (r < 0) {
        (void)conf_free(conf);
        return fail(&e);
    }
    log_line(LOG_NOTICE, "walsupd %s, SQLite %s%s, %zu database%s", WALSUP_VERSION,
             sqlite3_libversion(),
             sqlite_affected(sqlite3_libversion_number()) ? " (has the WAL-reset bug; walsup's checkpoints do not trigger it)"
                                                          : "",
             m->n_dbs, PLURAL(m->n_dbs));
    confine_tell();
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    int status = manager_free(m);
    (void)uv_loop_close(&loop);
    (void)close(lock);
    log_line(LOG_NOTICE, "stopped");
    return status;
}

int main(int argc, char **argv)
{
    static const struct option opts[] = {{"config", required_argument, NULL, 'c'},
                                         {"check", no_argument, NULL, 'k'},
                                         {"help", no_argument, NULL, 'h'},
                                         {"version", no_argument, NULL, 'V'},
                                         {NULL, 0, NULL, 0}};
    const char *path = DEFAULT_CONFIG;
    bool check = false;
    for (int o; (o = getopt_long(argc, argv, "c:hV", opts, NULL)) != -1;)
        switch (o) {
        case 'c':
            path = optarg;
            break;
        case 'k':
            check = true;
            break;
        case 'h':
            (void)fputs(usage, stdout);
            return 0;
        case 'V':
            (void)printf("walsupd %s (SQLite %s)\n", WALSUP_VERSION, sqlite3_libversion());
            return 0;
        default:
            (void)fputs(usage, stderr);
            return err_exit_status(ERR_USAGE);
        }
    if (optind < argc) {
        (void)fprintf(stderr, "walsupd: unexpected argument %s\n%s", argv[optind], usage);
        return err_exit_status(ERR_USAGE);
    }
    (void)mallopt(M_ARENA_MAX, 2); /* one a thread would keep what each of them needed once */
    struct conf *conf = NULL;
    struct err e;
    cleanup_buf struct buf errors = BUF_INIT;
    if (conf_load(path, &conf, &errors, &e) < 0) {
        if (!errors.len)
            return fail(&e);
        (void)fputs(buf_str(&errors), stderr);
        (void)fputs("walsupd does not start with this configuration; walsupctl check, run as root, looks at it again\n",
                    stderr);
        return err_exit_status(ERR_CONFIG);
    }
    if (check) {
        (void)printf("%s: ok, %zu database%s, %zu target%s\n", path, conf->n_dbs, PLURAL(conf->n_dbs),
                     conf->n_targets, PLURAL(conf->n_targets));
        (void)conf_free(conf);
        return 0;
    }
    return run(path, conf);
}
