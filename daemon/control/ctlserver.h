/* ctlserver.h - the control socket: Varlink framing, peer credentials, one table of methods.
 * Loop thread only. Malformed input costs that client its connection and nothing else. */
#ifndef WALSUP_CTLSERVER_H
#define WALSUP_CTLSERVER_H

#include "daemon/core/manager.h"

struct ctlserver;

/** ctlserver_new(m, path, ret, e): take an inherited socket (systemd activation) or bind `path`; a stale
 * socket is replaced, one that answers is ERR_BUSY. */
int ctlserver_new(struct manager *m, const char *path, struct ctlserver **ret, struct err *e);
/** ctlserver_close(c, closed, arg): drop every client and free. */
void ctlserver_close(struct ctlserver *c, void (*closed)(void *arg), void *arg);
/** ctlserver_ended(): after the loop: removes the socket, if it is still ours. */
void ctlserver_ended(void);

#endif
