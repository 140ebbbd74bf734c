#include "common/base/util.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/random.h>
#include <time.h>

static void *or_die(void *p)
{
    if (!p) {
        static const char text[] = "<2>out of memory\n";
        (void)!write(STDERR_FILENO, text, sizeof text - 1);
        abort();
    }
    return p;
}

void *util_alloc(size_t n)
{
    return or_die(malloc(n ? n : 1));
}

void *util_zalloc(size_t n)
{
    return or_die(calloc(1, n ? n : 1));
}

void *util_realloc(void *p, size_t n)
{
    return or_die(realloc(p, n ? n : 1));
}

char *util_strdup(const char *s)
{
    return or_die(strdup(s));
}

char *util_strndup(const char *s, size_t n)
{
    return or_die(strndup(s, n));
}

char *util_printf(const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    return or_die(n < 0 ? NULL : s);
}

void util_random(void *p, size_t n)
{
    uint8_t *b = p;
    while (n) {
        ssize_t got = getrandom(b, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            abort(); /* every kernel since 3.17 has it */
        b += got;
        n -= (size_t)got;
    }
}

uint64_t util_random_below(uint64_t n)
{
    uint64_t v;
    util_random(&v, sizeof v);
    return n ? v % n : 0;
}

const char *util_size(char buf[static 32], uint64_t bytes)
{
    static const char *const unit[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    if (bytes < 1024) {
        (void)snprintf(buf, 32, "%u B", (unsigned)bytes);
        return buf;
    }
    double v = (double)bytes / 1024;
    size_t u = 0;
    while (v >= 1023.95 && u + 1 < ARRAY_LEN(unit)) {
        v /= 1024;
        u++;
    }
    (void)snprintf(buf, 32, "%.1f %s", v, unit[u]);
    return buf;
}

const char *util_duration(char buf[static 32], uint64_t ms)
{
    if (ms < 1000)
        (void)snprintf(buf, 32, "%u ms", (unsigned)ms);
    else if (ms < 120 * 1000)
        (void)snprintf(buf, 32, "%.1f s", (double)ms / 1000);
    else if (ms < 120 * 60 * 1000)
        (void)snprintf(buf, 32, "%.0f min", (double)ms / 60e3);
    else if (ms < 48 * 3600 * 1000ull)
        (void)snprintf(buf, 32, "%.1f h", (double)ms / 3600e3);
    else
        (void)snprintf(buf, 32, "%.1f d", (double)ms / 86400e3);
    return buf;
}

const char *util_rfc3339(char buf[static 40], int64_t ms)
{
    int64_t sec = ms / 1000;
    int64_t frac = ms % 1000;
    if (frac < 0) {
        frac += 1000;
        sec--;
    }
    struct tm tm;
    time_t t = (time_t)sec;
    if (!gmtime_r(&t, &tm)) {
        (void)snprintf(buf, 40, "?");
        return buf;
    }
    size_t n = strftime(buf, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    if (frac) {
        n += (size_t)snprintf(buf + n, 40 - n, ".%03d", (int)frac);
        while (buf[n - 1] == '0')
            n--;
    }
    (void)snprintf(buf + n, 40 - n, "Z");
    return buf;
}

void util_hex(char *out, const uint8_t *p, size_t n)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digit[p[i] >> 4];
        out[2 * i + 1] = digit[p[i] & 15];
    }
    out[2 * n] = '\0';
}

/* how many bytes the character at p has, 0 if it is none of UTF-8's */
static size_t utf8_bytes(const uint8_t *p)
{
    size_t n = *p < 0x80 ? 1 : *p >= 0xc2 && *p < 0xe0 ? 2 : *p >= 0xe0 && *p < 0xf0 ? 3
               : *p >= 0xf0 && *p < 0xf5               ? 4
                                                       : 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
        (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

char *util_plain(char *s)
{
    for (uint8_t *p = (uint8_t *)s; *p;) {
        size_t n = utf8_bytes(p);
        if (!n || (*p < ' ' && *p != '\n') || *p == 0x7f)
            *p = '?';
        p += n ? n : 1;
    }
    return s;
}
