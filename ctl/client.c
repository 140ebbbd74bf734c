#include "ctl/client.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/base/clk.h"

static int no_daemon(const char *path, int errnum, struct err *e)
{
    if (errnum == EACCES || errnum == EPERM) {
        (void)err_sys(e, errnum, "cannot ask walsupd at %s", path);
        return err_hint(e, "run it as root, or join the group walsup and log in again");
    }
    if (errnum != ENOENT && errnum != ECONNREFUSED && errnum != ENOTDIR)
        return err_sys(e, errnum, "cannot reach walsupd at %s", path);
    (void)err_set(e, ERR_NET, "walsupd is not running (no answer at %s)", path);
    return err_hint(e, "systemctl start walsupd; if it runs, --socket or 'socket' in the "
                       "configuration name another path");
}

static int connect_to(const char *path, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        return err_set(e, ERR_CONFIG, "the socket's path is longer than %zu bytes: %s",
                       sizeof a.sun_path - 1, path);
    memcpy(a.sun_path, path, strlen(path) + 1);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_sys(e, errno, "cannot make a socket");
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
        return no_daemon(path, errno, e);
    return TAKE_FD(fd);
}

/* wait until fd is ready for `events` */
static int ready(int fd, short events, uint64_t deadline_ms, struct err *e)
{
    for (;;) {
        uint64_t now = clk_mono_ms();
        struct pollfd p = {fd, events, 0};
        int left = now < deadline_ms ? (int)MIN(deadline_ms - now, (uint64_t)INT32_MAX) : 0;
        int n = poll(&p, 1, left);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return err_sys(e, errno, "cannot wait for walsupd");
        if (n == 0 || (n < 0 && errno == ECONNRESET)) {
            (void)err_set(e, ERR_TIMEOUT, "walsupd did not answer in time");
            return err_hint(e, "its log may say why: journalctl -u walsupd");
        }
    }
}

static int send_all(int fd, const struct buf *b, uint64_t deadline_ms, struct err *e)
{
    for (size_t done = 0; done < b->len;) {
        int rc = ready(fd, POLLOUT, deadline_ms, e);
        if (rc < 0)
            return rc;
        ssize_t n = send(fd, b->p + done, b->len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
            return 0; /* it was turned away: why can be read */
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return err_sys(e, errno, "cannot send to walsupd");
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int receive(int fd, struct buf *in, uint64_t deadline_ms, json_t **ret, struct err *e)
{
    for (;;) {
        int rc = proto_next(in, PROTO_MAX_REPLY, ret, e);
        if (rc <= 0)
            return rc;
        rc = ready(fd, POLLIN, deadline_ms, e);
        if (rc < 0)
            return rc;
        uint8_t *to = buf_reserve(in, 65536);
        if (!to)
            return err_set(e, ERR_NOMEM, "out of memory");
        ssize_t n = recv(fd, to, 65536, MSG_DONTWAIT);
        if (n == 0) {
            (void)err_set(e, ERR_NET, "walsupd closed the connection without an answer");
            return err_hint(e, "its log may say why: journalctl -u walsupd");
        }
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return err_sys(e, errno, "cannot read walsupd's answer");
        in->len += n > 0 ? (size_t)n : 0;
    }
}

int client_call_held(const char *path, const char *method, json_t *parameters, uint64_t timeout_ms,
                     json_t **ret, char **ret_message, int *ret_fd, struct err *e)
{
    uint64_t deadline_ms = clk_mono_ms() + timeout_ms;
    cleanup_buf struct buf out = BUF_INIT, in = BUF_INIT;
    json_t *reply = NULL;
    proto_add(&out, proto_make_call(method, parameters, false));
    cleanup_close int fd = connect_to(path, e);
    if (fd < 0)
        return fd;
    int rc = send_all(fd, &out, deadline_ms, e);
    rc = rc < 0 ? rc : receive(fd, &in, deadline_ms, &reply, e);
    if (rc < 0)
        return rc;
    rc = proto_reply_parse(reply, ret, NULL, e);
    const char *message =
        json_string_value(json_object_get(json_object_get(reply, "parameters"), "message"));
    if (rc < 0 && ret_message && message)
        *ret_message = util_strdup(message);
    json_decref(reply);
    if (rc == 0)
        *ret_fd = TAKE_FD(fd);
    return rc;
}

int client_call(const char *path, const char *method, json_t *parameters, uint64_t timeout_ms,
                json_t **ret, char **ret_message, struct err *e)
{
    cleanup_close int fd = -1;
    return client_call_held(path, method, parameters, timeout_ms, ret, ret_message, &fd, e);
}
