/* metrics.h - the values of common/format/metrics.def, in Prometheus' text format, a piece at a time: of ten thousand
 * databases it is megabytes, and neither the loop nor the memory is for that. From memory only. Loop thread only. */
#ifndef WALSUP_DAEMON_METRICS_H
#define WALSUP_DAEMON_METRICS_H

#include "common/format/metrics.h"
#include "daemon/core/manager.h"

/* where a text is; begins with zeros */
struct metrics_at {
    size_t metric, n;
};

/** metrics_piece(m, at, out, bytes): append about so many bytes of it; false: that was all. Databases may come
 * and go between the pieces: one that does may be in or not, none is in twice. */
bool metrics_piece(struct manager *m, struct metrics_at *at, struct buf *out, size_t bytes);

/* metrics_http.c: for whoever scrapes. */
struct metrics_http;

/** metrics_http_new(m, address, ret, e): answer GET /metrics at HOST:PORT. */
int metrics_http_new(struct manager *m, const char *address, struct metrics_http **ret, struct err *e);
/** metrics_http_close(h, closed, arg): closed(arg) comes from the loop. h NULL: at once. */
void metrics_http_close(struct metrics_http *h, void (*closed)(void *arg), void *arg);

#endif
