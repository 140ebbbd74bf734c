/* app.h - the application, as a process of its own beside the daemon that runs in the test's: it must have its own
 * locks. One at a time; it opens and closes databases as it is told. */
#ifndef ENGINES_APP_H
#define ENGINES_APP_H

#include <errno.h>
#include <openssl/sha.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/base/util.h"

#define APP_TEXT 1000

static int app_fd = -1;

static inline void app_hash_of(sqlite3 *db, char out[static 65])
{
    sqlite3_int64 n = 0;
    uint8_t h[SHA256_DIGEST_LENGTH], *p = sqlite3_serialize(db, "main", &n, 0);
    if (!p)
        _exit(4);
    (void)SHA256(p, (size_t)n, h);
    sqlite3_free(p);
    util_hex(out, h, sizeof h);
}

static _Noreturn inline void app_serve(int fd)
{
    char text[APP_TEXT + 1];
    sqlite3 *db = NULL;
    for (ssize_t n; (n = recv(fd, text, APP_TEXT, 0)) > 0;) {
        char answer[APP_TEXT] = "";
        text[n] = '\0';
        if (text[0] == 'O') {
            if (sqlite3_open(text + 1, &db) != SQLITE_OK)
                (void)snprintf(answer, sizeof answer, "%s", sqlite3_errmsg(db));
            (void)sqlite3_busy_timeout(db, 10000);
        } else if (text[0] == 'C') {
            (void)sqlite3_close(db);
            db = NULL;
        } else if (text[0] == 'H') {
            app_hash_of(db, answer);
        } else if (sqlite3_exec(db, text + 1, NULL, NULL, NULL) != SQLITE_OK) {
            (void)snprintf(answer, sizeof answer, "%s: %s", text + 1, sqlite3_errmsg(db));
        }
        if (send(fd, answer, strlen(answer) + 1, 0) < 0)
            break;
    }
    _exit(0);
}

/** app_start(): before there is a second thread. */
static inline bool app_start(void)
{
    int fd[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) < 0)
        return false;
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(fd[0]);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        app_serve(fd[1]);
    }
    (void)close(fd[1]);
    app_fd = fd[0];
    return pid > 0;
}

/** app_do(what, text, answer): 'O' open text, 'C' close, 'S' execute text, 'H' hash; false: answer says why. */
static inline bool app_do(char what, const char *text, char answer[static APP_TEXT])
{
    char message[APP_TEXT + 1];
    int n = snprintf(message, sizeof message, "%c%s", what, text);
    if (n < 0 || n > APP_TEXT || send(app_fd, message, (size_t)n, 0) < 0 || recv(app_fd, answer, APP_TEXT, 0) <= 0) {
        (void)snprintf(answer, APP_TEXT, "the application is gone: %s", strerror(errno));
        return false;
    }
    return what == 'H' || !answer[0];
}

#endif
