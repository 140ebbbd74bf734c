/* log.h - one line per event on standard error. Under systemd each line starts with the
 * priority in angle brackets (sd-daemon(3)); on a terminal it does not. Any thread. */
#ifndef WALSUP_LOG_H
#define WALSUP_LOG_H

#include "common/base/err.h"

enum log_level { LOG_ERROR = 3, LOG_WARN = 4, LOG_NOTICE = 5, LOG_INFO = 6, LOG_DEBUG = 7 };

/** log_setup(level): lines above `level` are dropped. May be called again at any time. */
void log_setup(enum log_level level);
/** log_level_parse(text, ret): "error", "warning", "notice", "info", "debug"; false if none. */
bool log_level_parse(const char *text, enum log_level *ret);
/** log_line(level, fmt, ...): print one line; a newline inside becomes a space. */
void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
/** log_err(level, e, fmt, ...): "fmt: e->msg (hint: e->hint)". */
void log_err(enum log_level level, const struct err *e, const char *fmt, ...) PRINTF_LIKE(3, 4);

#endif
