/* supervise.h - walsupd --exec: three processes. This one, which may be process 1 of a container,
 * restores what is missing, starts walsupd proper and the program, passes signals on to the
 * program, and buries whoever dies. When the program has ended, walsupd uploads the rest. Before
 * there are threads; nothing of this process but log and conf is used. */
#ifndef WALSUP_SUPERVISE_H
#define WALSUP_SUPERVISE_H

#include "common/format/conf.h"

struct supervise {
    const char *conf_path;
    const struct conf *conf;
    char **argv;    /* of the program */
    char **environ; /* for it, and for walsupctl: with the keys */
    /** daemon(arg, ready_fd, stop_fd): walsupd proper, in a process of its own (once.h); returns its exit status */
    int (*daemon)(void *arg, int ready_fd, int stop_fd);
    void *arg;
};

/** supervise_run(s): until the program has ended. Returns the exit status: the program's, 128 + n
 * after signal n; if that is 0, walsupd's. 127 and 126: it was not found, or could not be run. Of a
 * restore that failed: walsupctl's. */
int supervise_run(const struct supervise *s);
/** supervise_environment(): a copy of the environment, secrets included; it is never freed. */
char **supervise_environment(void);

#endif
