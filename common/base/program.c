#include "common/base/program.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/base/util.h"

static bool ours(const struct stat *st)
{
    return st->st_uid == 0 || st->st_uid == geteuid();
}

int program_may_run(const char *path, struct err *e)
{
    struct stat st;
    cleanup_free char *real = realpath(path, NULL);
    if (!real || stat(real, &st) < 0)
        return err_sys(e, errno, "it cannot be run");
    if (!S_ISREG(st.st_mode) || !ours(&st) || (st.st_mode & (S_IWGRP | S_IWOTH))) {
        err_set(e, ERR_PERM, "it is not run: %s",
                S_ISREG(st.st_mode) ? "others than root and walsup's user may write it" : "it is no file");
        return err_hint(e, "chown root, chmod go-w");
    }
    if (faccessat(AT_FDCWD, real, X_OK, AT_EACCESS) < 0)
        return err_sys(e, errno, "it cannot be run");
    for (char *slash; (slash = strrchr(real, '/'));) {
        slash[slash == real] = '\0';
        if (stat(real, &st) < 0)
            return err_sys(e, errno, "it cannot be run: look at %s", real);
        if (!ours(&st) || ((st.st_mode & (S_IWGRP | S_IWOTH)) && !(st.st_mode & S_ISVTX))) {
            err_set(e, ERR_PERM, "it is not run: others may put another file in its place, in %s", real);
            return err_hint(e, "chown root, chmod go-w");
        }
        if (slash == real)
            break;
    }
    return 0;
}

/* In the child, between fork and exec: only what is safe there. */
static _Noreturn void become(char *const argv[], char *const env[], int out)
{
    const struct sigaction dfl = {.sa_handler = SIG_DFL};
    sigset_t none;
    int null = open("/dev/null", O_RDWR);
    for (int s = 1; s < NSIG; s++)
        (void)sigaction(s, &dfl, NULL);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (null < 0 || setsid() < 0 || chdir("/") < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 || /* it need not read every database */
        dup2(out < 0 ? null : out, 1) < 0 || dup2(null, 0) < 0 || dup2(null, 2) < 0 ||
        syscall(SYS_close_range, 3u, ~0u, 0u) < 0)
        _exit(127);
    (void)umask(0077);
    (void)execve(argv[0], argv, env);
    _exit(127);
}

pid_t program_start(char *const argv[], char *const env[], int out, struct err *e)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* no handler of ours runs in the child */
    pid_t pid = fork();
    int saved = errno;
    if (pid == 0)
        become(argv, env, out);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid < 0 ? err_sys(e, saved, "it cannot be started") : pid;
}
