#include "common/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define LINE_BYTES 1400
#define JOURNAL "/run/systemd/journal/socket"

static atomic_int max_level = LOG_INFO;
static atomic_uint lost; /* lines that nobody took */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool to_journal;  /* standard error is the journal */
static int journal = -1; /* its socket for messages with fields; -1: it cannot be had */

static const char *const id_text[] = {
    [LOG_NO_ID] = "",
#define ID(name, hex) [name] = (hex),
#include "common/base/log_ids.def"
};

struct about {
    enum log_id id;
    const char *database, *target, *state;
};
static _Thread_local struct about about;

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

void log_about(enum log_id id, const char *database, const char *target, const char *state)
{
    about = (struct about){id, database, target, state};
}

/* ---- where to ---------------------------------------------------------------------------------- */

/* systemd says which file it gave us for standard error (sd_journal_print(3)). */
static void look(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat st;
    uintmax_t dev, ino;
    if (!stream || sscanf(stream, "%" SCNuMAX ":%" SCNuMAX, &dev, &ino) != 2 || fstat(STDERR_FILENO, &st) < 0 ||
        st.st_dev != (dev_t)dev || st.st_ino != (ino_t)ino)
        return;
    to_journal = true;
    const struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = JOURNAL};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&a, sizeof a) == 0)
        journal = fd;
    else if (fd >= 0)
        (void)close(fd);
}

/* One write, so that lines never mix; and none that waits: a pipe with room for this much says so. */
static bool to_stderr(enum log_level level, const char *line)
{
    char out[8 + LINE_BYTES];
    struct pollfd p = {STDERR_FILENO, POLLOUT, 0};
    int n = to_journal ? snprintf(out, sizeof out, "<%d>%s\n", (int)level, line)
                       : snprintf(out, sizeof out, "%s\n", line);
    return poll(&p, 1, 0) == 1 && write(STDERR_FILENO, out, (size_t)n) == (ssize_t)n;
}

static size_t field(char *out, size_t cap, size_t at, const char *name, const char *value)
{
    if (!value || !*value || at >= cap)
        return at;
    size_t begin = at + strlen(name) + 1;
    int n = snprintf(out + at, cap - at, "%s=%s\n", name, value);
    if (n < 0 || at + (size_t)n >= cap) {
        out[at] = '\0';
        return at;
    }
    at += (size_t)n;
    for (size_t i = begin; i + 1 < at; i++) /* a line end would begin another field */
        if ((unsigned char)out[i] < ' ')
            out[i] = '?';
    return at;
}

/* The journal's own protocol: NAME=value lines in one datagram. */
static bool with_fields(enum log_level level, const char *line, const struct about *a)
{
    char out[LINE_BYTES + 2048], priority[2] = {(char)('0' + level), '\0'};
    size_t n = field(out, sizeof out, 0, "MESSAGE", line);
    n = field(out, sizeof out, n, "PRIORITY", priority);
    n = field(out, sizeof out, n, "SYSLOG_IDENTIFIER", program_invocation_short_name);
    n = field(out, sizeof out, n, "MESSAGE_ID", id_text[a->id]);
    n = field(out, sizeof out, n, "WALSUP_DATABASE", a->database);
    n = field(out, sizeof out, n, "WALSUP_TARGET", a->target);
    n = field(out, sizeof out, n, "WALSUP_STATE", a->state);
    return send(journal, out, n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)n;
}

static bool put(enum log_level level, const char *line, const struct about *a)
{
    if (journal < 0)
        return to_stderr(level, line);
    if (with_fields(level, line, a))
        return true;
    /* full: it is lost; gone (the journal was restarted and has another socket): the other way */
    return errno != EAGAIN && errno != ENOBUFS && to_stderr(level, line);
}

static void emit(enum log_level level, char *line, size_t n)
{
    const struct about a = about;
    const struct about nothing = {LOG_NO_ID, NULL, NULL, NULL};
    int saved = errno;
    about = nothing;
    line[MIN(n, (size_t)LINE_BYTES - 2)] = '\0';
    for (char *p = line; *p; p++)
        if (*p == '\n' || *p == '\r')
            *p = ' ';
    (void)util_plain(line);
    (void)pthread_once(&once, look);
    unsigned missing = atomic_exchange(&lost, 0);
    char text[80];
    if (missing)
        (void)snprintf(text, sizeof text, "%u log lines are missing here: nobody took them", missing);
    if (missing && !put(LOG_WARN, text, &nothing))
        atomic_fetch_add(&lost, missing);
    if (!put(level, line, &a))
        atomic_fetch_add(&lost, 1);
    errno = saved;
}

static bool dropped(enum log_level level)
{
    if ((int)level <= atomic_load(&max_level))
        return false;
    log_about(LOG_NO_ID, NULL, NULL, NULL);
    return true;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if (dropped(level))
        return;
    char line[LINE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    emit(level, line, n < 0 ? 0 : (size_t)n);
}

void log_err(enum log_level level, const struct err *e, const char *fmt, ...)
{
    if (dropped(level))
        return;
    char line[LINE_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : MIN((size_t)n, sizeof line - 1);
    int more = snprintf(line + used, sizeof line - used, e->hint[0] ? ": %s (hint: %s)" : ": %s",
                        e->msg, e->hint);
    emit(level, line, used + (more < 0 ? 0 : (size_t)more));
}
