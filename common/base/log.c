#include "common/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>

static atomic_int max_level = LOG_INFO;

void log_setup(enum log_level level)
{
    atomic_store(&max_level, (int)level);
}

bool log_level_parse(const char *text, enum log_level *ret)
{
    static const struct {
        const char *name;
        enum log_level level;
    } names[] = {{"error", LOG_ERROR},
                 {"warning", LOG_WARN},
                 {"notice", LOG_NOTICE},
                 {"info", LOG_INFO},
                 {"debug", LOG_DEBUG}};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(text, names[i].name)) {
            *ret = names[i].level;
            return true;
        }
    return false;
}

static void emit(enum log_level level, char *line, size_t cap, size_t n)
{
    if (n > cap - 2)
        n = cap - 2;
    for (size_t i = 0; i < n; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[n] = '\0';
    (void)util_plain(line);
    line[n] = '\n';
    char prefix[8];
    int p = getenv("JOURNAL_STREAM") ? snprintf(prefix, sizeof prefix, "<%d>", (int)level) : 0;
    char out[8 + 1400];
    memcpy(out, prefix, (size_t)p);
    memcpy(out + p, line, n + 1);
    (void)!write(STDERR_FILENO, out, (size_t)p + n + 1); /* one write, so that lines never mix */
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if ((int)level > atomic_load(&max_level))
        return;
    char line[1400];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    emit(level, line, sizeof line, n < 0 ? 0 : (size_t)n);
}

void log_err(enum log_level level, const struct err *e, const char *fmt, ...)
{
    if ((int)level > atomic_load(&max_level))
        return;
    char line[1400];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : MIN((size_t)n, sizeof line - 1);
    int more = snprintf(line + used, sizeof line - used, e->hint[0] ? ": %s (hint: %s)" : ": %s",
                        e->msg, e->hint);
    emit(level, line, sizeof line, used + (more < 0 ? 0 : (size_t)more));
}
