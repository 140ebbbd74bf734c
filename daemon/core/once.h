/* once.h - a walsupd that ends by itself: --once, and the one that works for --exec (supervise.h). It brings everything
 * that is committed into every replica, then stops; and its exit status says whether it did. Loop thread only. */
#ifndef WALSUP_ONCE_H
#define WALSUP_ONCE_H

#include "common/base/util.h"

struct manager;
struct once;

/** once_new(m, ready_fd, stop_fd): --once if stop_fd is -1: it begins when everything is attached
 * (once_ready), waits for each database as long as something succeeds within shutdown-timeout, and
 * does what is due of merging and retention. Else a byte is written to ready_fd then, and it begins
 * when stop_fd reaches its end, with shutdown-timeout for all. Takes over both descriptors. m->once
 * is it. */
void once_new(struct manager *m, int ready_fd, int stop_fd);
void once_ready(struct once *o);
/** once_is_held(o): signals are somebody else's business: it ends when it is told to by stop_fd. NULL: no. */
bool once_is_held(const struct once *o);
/** once_close(o, closed, arg): after every database was closed; o is freed before closed(arg). */
void once_close(struct once *o, void (*closed)(void *arg), void *arg);

#endif
