/* The control socket itself: inherited from systemd, or bound; and removed only if it still is the
 * one that was bound. */
#include "daemon/control/ctlserver_int.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "common/base/log.h"

#define FD_NAME "walsup" /* FileDescriptorName= of walsupd.socket */

static int remove_stale(const char *path, const struct sockaddr_un *a, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "look at %s", path);
    if (!S_ISSOCK(st.st_mode))
        return err_set(e, ERR_EXISTS, "%s exists and is not a socket", path);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(e, errno, "create a socket");
    int r = connect(fd, (const struct sockaddr *)a, sizeof *a);
    if (r == 0 || errno == EAGAIN) { /* EAGAIN: somebody listens, and has a long queue */
        err_set(e, ERR_BUSY, "another walsupd answers at %s", path);
        return err_hint(e, "stop it first, or give this one its own socket and state-dir");
    }
    if (errno != ECONNREFUSED)
        return err_sys(e, errno, "connect to %s", path);
    if (geteuid() != 0 && st.st_uid != geteuid()) {
        err_set(e, ERR_PERM, "a socket that nobody listens at is at %s, and belongs to uid %u",
                path, (unsigned)st.st_uid);
        return err_hint(e, "remove it");
    }
    return fsx_unlink(path, e);
}

static int make_directory(const char *path, struct err *e)
{
    cleanup_free char *dir = util_strdup(path);
    char *slash = strrchr(dir, '/');
    if (!slash || slash == dir)
        return 0;
    *slash = '\0';
    return fsx_mkdirs(dir, 0755, e) < 0 ? err_wrap(e, "control socket") : 0;
}

static int bind_socket(const char *path, int *ret, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        return err_set(e, ERR_CONFIG, "socket path %s is longer than the %zu bytes a socket may have", path,
                       sizeof a.sun_path - 1);
    memcpy(a.sun_path, path, strlen(path) + 1);
    int r = make_directory(path, e);
    if (r == 0)
        r = remove_stale(path, &a, e);
    if (r < 0)
        return r;
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(e, errno, "create the control socket");
    mode_t old = umask(0117); /* 0660 from the first moment */
    int bound = bind(fd, (const struct sockaddr *)&a, sizeof a);
    int saved = errno;
    (void)umask(old);
    if (bound < 0)
        return err_sys(e, saved, "bind the control socket %s", path);
    const struct group *g = getgrnam("walsup");
    if (g && g->gr_gid != getegid() && lchown(path, (uid_t)-1, g->gr_gid) < 0) /* it has the group of the unit */
        log_line(LOG_WARN, "cannot give %s to group walsup: %s", path, strerror(errno));
    *ret = TAKE_FD(fd);
    return 0;
}

/* The one with our name, or the only one. Any other is somebody's mistake, and closed. */
static int inherited(int *ret, struct err *e)
{
    char **name = NULL;
    int n = sd_listen_fds_with_names(1, &name), fd = -1;
    for (int i = 0; i < n; i++)
        if (fd < 0 && (n == 1 || !strcmp(name[i], FD_NAME)))
            fd = SD_LISTEN_FDS_START + i;
        else
            (void)close(SD_LISTEN_FDS_START + i);
    for (int i = 0; name && i < n; i++)
        free(name[i]);
    free(name);
    if (n <= 0)
        return 0;
    if (fd < 0 || sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0) {
        err_set(e, ERR_CONFIG, "what systemd passed is no listening Unix stream socket called " FD_NAME);
        return err_hint(e, "compare walsupd.socket with the one that walsup brings");
    }
    *ret = fd;
    return 1;
}

int ctl_socket_open(const char *path, struct ctl_socket *ret, struct err *e)
{
    struct stat st;
    *ret = (struct ctl_socket){.fd = -1};
    int r = inherited(&ret->fd, e);
    if (r == 0)
        r = bind_socket(path, &ret->fd, e);
    else if (r > 0)
        return 0; /* systemd owns its path */
    if (r == 0 && lstat(path, &st) == 0) {
        ret->path = util_strdup(path);
        ret->dev = st.st_dev;
        ret->ino = st.st_ino;
    }
    return r;
}

static struct ctl_socket left; /* to be removed after the loop, which touches no disk */

void ctl_socket_done(struct ctl_socket *s)
{
    left = *s;
    s->path = NULL;
}

void ctlserver_ended(void)
{
    struct stat st;
    cleanup_free char *path = TAKE_PTR(left.path);
    if (path && lstat(path, &st) == 0 && st.st_dev == left.dev && st.st_ino == left.ino)
        (void)unlink(path);
}
