/* log.h - one line per event. Where standard error is the journal, as a message with fields (MESSAGE_ID, and what it is
 * about); else as a line on standard error. Never waits for whoever reads it: what is not taken is counted, and the
 * count is said when somebody listens again. Any thread. */
#ifndef WALSUP_LOG_H
#define WALSUP_LOG_H

#include "common/base/err.h"

enum log_level { LOG_ERROR = 3, LOG_WARN = 4, LOG_NOTICE = 5, LOG_INFO = 6, LOG_DEBUG = 7 };

enum log_id {
    LOG_NO_ID,
#define ID(name, hex) name,
#include "common/base/log_ids.def"
};

/** log_setup(level): lines above `level` are dropped. May be called again at any time. */
void log_setup(enum log_level level);
/** log_level_parse(text, ret): "error", "warning", "notice", "info", "debug"; false if none. */
bool log_level_parse(const char *text, enum log_level *ret);
/** log_about(id, database, target, state): what the next line of this thread is about, whether or not that is dropped;
 * each may be NULL, and must live until then. */
void log_about(enum log_id id, const char *database, const char *target, const char *state);
/** log_line(level, fmt, ...): print one line; a newline inside becomes a space. */
void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
/** log_err(level, e, fmt, ...): "fmt: e->msg (hint: e->hint)". */
void log_err(enum log_level level, const struct err *e, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
