#include "common/format/when.h"

#include <ctype.h>
#include <strings.h>
#include <time.h>

#define DAY_MS 86400000ll
#define MINUTE_MS 60000ll
#define YEAR_MAX 9999

/* a date and a time of day, without a zone */
struct civil {
    int year, month, day, hour, minute, second, ms;
};

static const char *skip(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

/* exactly n digits; NULL if they are not there */
static const char *digits(const char *p, int n, int *ret)
{
    int v = 0;
    for (int i = 0; i < n; i++, p++) {
        if (!isdigit((unsigned char)*p))
            return NULL;
        v = v * 10 + (*p - '0');
    }
    *ret = v;
    return p;
}

static const char *take_date(const char *p, struct civil *c)
{
    if (!(p = digits(p, 4, &c->year)) || *p++ != '-' || !(p = digits(p, 2, &c->month)) ||
        *p++ != '-' || !(p = digits(p, 2, &c->day)))
        return NULL;
    return p;
}

/* ".25" and so on: what is finer than a millisecond is dropped */
static const char *take_fraction(const char *p, int *ret_ms)
{
    int unit = 100;
    *ret_ms = 0;
    if ((*p != '.' && *p != ',') || !isdigit((unsigned char)p[1]))
        return p;
    for (p++; isdigit((unsigned char)*p); p++, unit /= 10)
        *ret_ms += (*p - '0') * unit;
    return p;
}

/* HH:MM[:SS[.fraction]], the hour also with one digit */
static const char *take_time(const char *p, struct civil *c)
{
    int n = isdigit((unsigned char)p[0]) && isdigit((unsigned char)p[1]) ? 2 : 1;
    if (!(p = digits(p, n, &c->hour)) || *p++ != ':' || !(p = digits(p, 2, &c->minute)))
        return NULL;
    if (*p != ':')
        return p;
    if (!(p = digits(p + 1, 2, &c->second)))
        return NULL;
    return take_fraction(p, &c->ms);
}

/* Z or +01:00, +0100; *ret in minutes. NULL: something else */
static const char *take_zone(const char *p, int *ret)
{
    int h, m, sign = *p == '-' ? -1 : 1;
    if (*p == 'Z' || *p == 'z') {
        *ret = 0;
        return p + 1;
    }
    if ((*p != '+' && *p != '-') || !(p = digits(p + 1, 2, &h)))
        return NULL;
    if (*p == ':')
        p++;
    if (!(p = digits(p, 2, &m)) || h > 23 || m > 59)
        return NULL;
    *ret = sign * (h * 60 + m);
    return p;
}

/* days since 1970 in the Gregorian calendar */
static int64_t days_of(const struct civil *c)
{
    int64_t y = c->year - (c->month <= 2), m = (c->month + 9) % 12;
    int64_t era = y / 400, of_era = y % 400;
    int64_t of_year = (153 * m + 2) / 5 + c->day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static int check_civil(const struct civil *c, const char *text, struct err *e)
{
    static const int length[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = c->year % 4 == 0 && (c->year % 100 || c->year % 400 == 0);
    if (c->year < 1970 || c->month < 1 || c->month > 12 || c->day < 1 ||
        c->day > length[c->month - 1] + (c->month == 2 && leap))
        return err_set(e, ERR_USAGE, "'%s': there is no such date", text);
    if (c->hour > 23 || c->minute > 59 || c->second > 60)
        return err_set(e, ERR_USAGE, "'%s': there is no such time of day", text);
    return 0;
}

static int64_t utc_ms(const struct civil *c)
{
    return days_of(c) * DAY_MS + ((c->hour * 60 + c->minute) * 60ll + c->second) * 1000 + c->ms;
}

/* What the clocks of the zone showed as c, with summer time or without. */
static bool local_try(const struct civil *c, int dst, int64_t *ret)
{
    struct tm tm = {.tm_year = c->year - 1900, .tm_mon = c->month - 1, .tm_mday = c->day,
                    .tm_hour = c->hour, .tm_min = c->minute, .tm_sec = c->second, .tm_isdst = dst};
    time_t t = mktime(&tm);
    *ret = (int64_t)t * 1000 + c->ms;
    return tm.tm_hour == c->hour && tm.tm_min == c->minute && tm.tm_mday == c->day;
}

static int local_ms(const struct civil *c, const char *text, int64_t *ret, struct err *e)
{
    int64_t a, b;
    char x[40], y[40];
    bool winter = local_try(c, 0, &a), summer = local_try(c, 1, &b);
    if (!winter && !summer) {
        err_set(e, ERR_USAGE, "'%s': the local clocks skipped that time", text);
        return err_hint(e, "write it with its offset, or in UTC: %s", util_rfc3339(x, a));
    }
    if (winter && summer && a != b) {
        err_set(e, ERR_USAGE, "'%s': the local clocks showed that time twice", text);
        return err_hint(e, "write %s or %s", util_rfc3339(x, MIN(a, b)), util_rfc3339(y, MAX(a, b)));
    }
    *ret = winter ? a : b;
    return 0;
}

/* ---- the forms ------------------------------------------------------------------------------ */

static int not_understood(const char *text, struct err *e)
{
    err_set(e, ERR_USAGE, "'%s' is not a time", text);
    return err_hint(e, "write 2026-11-24T10:00:00Z, or in local time '2026-11-24 10:00', 'yesterday "
                       "18:00', '2 hours ago'");
}

/* the local date of a moment */
static void date_of(int64_t ms, struct civil *c)
{
    struct tm tm = {.tm_year = 70, .tm_mday = 1};
    time_t t = (time_t)(ms / 1000);
    (void)localtime_r(&t, &tm);
    c->year = tm.tm_year + 1900;
    c->month = tm.tm_mon + 1;
    c->day = tm.tm_mday;
}

/* the day before, by the calendar: a day may have 23 or 25 hours */
static void day_before(struct civil *c)
{
    struct tm tm = {.tm_year = 70};
    time_t t = (time_t)((days_of(c) - 1) * (DAY_MS / 1000));
    (void)gmtime_r(&t, &tm);
    c->year = tm.tm_year + 1900;
    c->month = tm.tm_mon + 1;
    c->day = tm.tm_mday;
}

static bool take_word(const char **p, const char *word)
{
    size_t n = strlen(word);
    if (strncasecmp(*p, word, n) != 0 || isalnum((unsigned char)(*p)[n]))
        return false;
    *p = skip(*p + n);
    return true;
}

static int64_t unit_ms(const char *p, size_t n)
{
    static const struct {
        const char *name;
        int64_t ms;
    } unit[] = {{"s", 1000}, {"sec", 1000}, {"secs", 1000}, {"second", 1000}, {"seconds", 1000},
                {"m", MINUTE_MS}, {"min", MINUTE_MS}, {"mins", MINUTE_MS}, {"minute", MINUTE_MS},
                {"minutes", MINUTE_MS}, {"h", 60 * MINUTE_MS}, {"hour", 60 * MINUTE_MS},
                {"hours", 60 * MINUTE_MS}, {"d", DAY_MS}, {"day", DAY_MS}, {"days", DAY_MS},
                {"w", 7 * DAY_MS}, {"week", 7 * DAY_MS}, {"weeks", 7 * DAY_MS}, {"ms", 1}};
    for (size_t i = 0; i < ARRAY_LEN(unit); i++)
        if (strlen(unit[i].name) == n && !strncasecmp(unit[i].name, p, n))
            return unit[i].ms;
    return 0;
}

/* "2 hours ago", "1h30m ago" */
static bool ago(const char *p, int64_t now_ms, int64_t *ret)
{
    int64_t sum = 0;
    bool any = false;
    while (!take_word(&p, "ago")) {
        int64_t v = 0;
        if (any)
            (void)take_word(&p, "and");
        if (take_word(&p, "an") || take_word(&p, "a"))
            v = 1;
        else if (!isdigit((unsigned char)*p))
            return false;
        for (; isdigit((unsigned char)*p); p++)
            v = v > 1000000000 ? v : v * 10 + (*p - '0');
        p = skip(p);
        size_t n = 0;
        while (isalpha((unsigned char)p[n]))
            n++;
        int64_t unit = unit_ms(p, n);
        if (!unit || v > now_ms / unit)
            return false;
        sum += v * unit;
        p = skip(p + n);
        any = true;
    }
    if (!any || *p || sum > now_ms)
        return false;
    *ret = now_ms - sum;
    return true;
}

static bool since_1970(const char *p, int64_t *ret)
{
    char *end;
    int ms;
    if (!isdigit((unsigned char)*p))
        return false;
    unsigned long long v = strtoull(p, &end, 10);
    p = take_fraction(end, &ms);
    *ret = (int64_t)(v * 1000) + ms;
    return !*p && v < 253402300800ull; /* year 10000 */
}

/* what follows a date: nothing, a time, a time with a zone */
static int after_date(const char *p, struct civil *c, const char *text, int64_t *ret, struct err *e)
{
    int zone = 0;
    bool zoned = false, timed = *p == 'T' || *p == 't', spaced = *p == ' ' || *p == '\t';
    p = timed ? p + 1 : skip(p);
    if ((*p || timed) && !(p = take_time(p, c)))
        return not_understood(text, e);
    if (*skip(p)) {
        p = take_zone(spaced ? skip(p) : p, &zone);
        zoned = true;
    }
    if (!p || *skip(p))
        return not_understood(text, e);
    int r = check_civil(c, text, e);
    if (r < 0)
        return r;
    if (!zoned)
        return local_ms(c, text, ret, e);
    *ret = utc_ms(c) - zone * MINUTE_MS;
    return 0;
}

int when_parse(const char *text, int64_t now_ms, int64_t *ret_ms, struct err *e)
{
    struct civil c = {.year = 0};
    const char *p = skip(text), *rest;
    int64_t ms;
    if (*p == '@' ? since_1970(p + 1, &ms) : ago(p, now_ms, &ms)) {
        *ret_ms = ms;
        return 0;
    }
    if (take_word(&p, "now")) {
        if (*p)
            return not_understood(text, e);
        *ret_ms = now_ms;
        return 0;
    }
    if ((rest = take_date(p, &c)))
        return after_date(rest, &c, text, ret_ms, e);
    date_of(now_ms, &c);
    if (take_word(&p, "yesterday"))
        day_before(&c);
    else if (!take_word(&p, "today") && !isdigit((unsigned char)*p))
        return not_understood(text, e);
    return after_date(p, &c, text, ret_ms, e);
}

const char *when_text(char buf[static WHEN_TEXT_SIZE], int64_t ms)
{
    struct tm tm;
    int64_t frac = ms % 1000;
    time_t t = (time_t)((ms - frac) / 1000);
    if (ms < 0 || !localtime_r(&t, &tm)) {
        (void)snprintf(buf, WHEN_TEXT_SIZE, "?");
        return buf;
    }
    size_t n = strftime(buf, WHEN_TEXT_SIZE, "%Y-%m-%d %H:%M:%S", &tm);
    if (frac)
        n += (size_t)snprintf(buf + n, WHEN_TEXT_SIZE - n, ".%03d", (int)frac);
    (void)strftime(buf + n, WHEN_TEXT_SIZE - n, " %z (%Z)", &tm);
    return buf;
}
