/* metrics.h - the table of metrics (metrics.def), and how a sample is written in Prometheus' text format.
 * Pure. */
#ifndef WALSUP_METRICS_H
#define WALSUP_METRICS_H

#include "common/base/buf.h"

enum metrics_id {
#define METRIC(id, name, type, scope, labels, help) METRICS_##id,
#include "common/format/metrics.def"
    METRICS_N
};

enum metrics_type { METRICS_GAUGE, METRICS_COUNTER };
enum metrics_scope {
    METRICS_OF_DAEMON,
    METRICS_OF_STATE,
    METRICS_OF_REQUESTS,
    METRICS_OF_BYTES,
    METRICS_OF_DB,
    METRICS_OF_REPLICA,
};

struct metrics_row {
    const char *name;
    enum metrics_type type;
    enum metrics_scope scope;
    const char *labels; /* names, separated by commas */
    const char *help;
};

extern const struct metrics_row metrics_row[METRICS_N];

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define METRICS_LABELS 3 /* at most */

/** metrics_type_name(t): "gauge", "counter". */
const char *metrics_type_name(enum metrics_type t);
/** metrics_head(out, id): the lines HELP and TYPE. */
void metrics_head(struct buf *out, enum metrics_id id);
/** metrics_sample(out, id, values, milli): a line; values are those of the row's labels, in its order, any
 * bytes; the value is milli / 1000. */
void metrics_sample(struct buf *out, enum metrics_id id, const char *const *values, int64_t milli);
/** metrics_man(out): the table of walsupd(8) as roff. */
void metrics_man(struct buf *out);

#endif
