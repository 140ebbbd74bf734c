/* notify.h - telling systemd the truth: READY, STATUS, WATCHDOG, RELOADING, STOPPING. Does nothing
 * without NOTIFY_SOCKET. Loop thread only. */
#ifndef WALSUP_NOTIFY_H
#define WALSUP_NOTIFY_H

#include "common/base/util.h"

struct notify;

struct notify *notify_new(void);
struct notify *notify_free(struct notify *n);
void notify_ready(struct notify *n);
/** notify_status(n, fmt, ...): one line; sent only when it differs from the last. */
void notify_status(struct notify *n, const char *fmt, ...) PRINTF_LIKE(2, 3);
void notify_reloading(struct notify *n);
void notify_stopping(struct notify *n);
/** notify_extend(n, ms): ask for at least so much more time to stop. */
void notify_extend(struct notify *n, uint64_t ms);
/** notify_watchdog_ms(n): how often notify_alive must be called at least, half the limit; 0 = never. */
uint64_t notify_watchdog_ms(const struct notify *n);
void notify_alive(struct notify *n);

#endif
