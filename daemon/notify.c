#include "daemon/notify.h"

#include <stdarg.h>
#include <systemd/sd-daemon.h>

#include "common/base/clk.h"

struct notify {
    char status[256];
    uint64_t watchdog_ms;
};

struct notify *notify_new(void)
{
    struct notify *n = util_zalloc(sizeof *n);
    uint64_t us = 0;
    if (sd_watchdog_enabled(0, &us) > 0)
        n->watchdog_ms = us / 2000;
    return n;
}

struct notify *notify_free(struct notify *n)
{
    free(n);
    return NULL;
}

void notify_ready(struct notify *n)
{
    (void)n;
    (void)sd_notify(0, "READY=1");
}

void notify_status(struct notify *n, const char *fmt, ...)
{
    char text[sizeof n->status];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!strcmp(text, n->status))
        return;
    memcpy(n->status, text, sizeof text);
    (void)sd_notifyf(0, "STATUS=%s", text);
}

void notify_reloading(struct notify *n)
{
    (void)n;
    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clk_mono_us());
}

void notify_stopping(struct notify *n)
{
    (void)n;
    (void)sd_notify(0, "STOPPING=1");
}

void notify_extend(struct notify *n, uint64_t ms)
{
    (void)n;
    (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%llu", (unsigned long long)ms * 1000);
}

uint64_t notify_watchdog_ms(const struct notify *n)
{
    return n->watchdog_ms;
}

void notify_alive(struct notify *n)
{
    (void)n;
    (void)sd_notify(0, "WATCHDOG=1");
}
