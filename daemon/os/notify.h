/* notify.h - telling systemd the truth: READY, STATUS, WATCHDOG, RELOADING, STOPPING. Does nothing
 * without NOTIFY_SOCKET. Never waits for whoever listens: what finds no room is kept and sent later, of
 * each kind the newest. Loop thread only. */
#ifndef WALSUP_NOTIFY_H
#define WALSUP_NOTIFY_H

#include <uv.h>

#include "common/base/util.h"

struct notify;

struct notify *notify_new(uv_loop_t *loop);
/** notify_close(n, closed, arg): a last attempt for what is waiting; closed(arg) comes from the loop, n
 * is freed then. */
void notify_close(struct notify *n, void (*closed)(void *arg), void *arg);
void notify_ready(struct notify *n);
/** notify_status(n, fmt, ...): one line; sent only when it differs from the last. */
void notify_status(struct notify *n, const char *fmt, ...) PRINTF_LIKE(2, 3);
/** notify_reloading(n): until the next notify_ready(). */
void notify_reloading(struct notify *n);
void notify_stopping(struct notify *n);
/** notify_extend(n, ms): ask for at least so much more time, from now, to start or to stop. */
void notify_extend(struct notify *n, uint64_t ms);
/** notify_watchdog_ms(n): how often notify_alive must be called at least, half the limit; 0 = never. */
uint64_t notify_watchdog_ms(const struct notify *n);
/** notify_alive(n): can be called more often than needed. */
void notify_alive(struct notify *n);

#endif
