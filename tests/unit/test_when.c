#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <time.h>

#include "common/format/when.h"

/* 2026-11-24T10:30:00Z, a Tuesday */
#define NOW 1795516200000ll
#define HOUR 3600000ll

static void zone(const char *tz)
{
    (void)setenv("TZ", tz, 1);
    tzset();
}

static void is(const char *text, int64_t want)
{
    struct err e = {0};
    int64_t got = -1;
    if (when_parse(text, NOW, &got, &e) < 0)
        fail_msg("%s: %s", text, e.msg);
    if (got != want)
        fail_msg("%s: %lld, not %lld", text, (long long)got, (long long)want);
}

static void is_not(const char *text, const char *why)
{
    struct err e = {0};
    int64_t got = -7;
    if (when_parse(text, NOW, &got, &e) != -(int)ERR_USAGE)
        fail_msg("'%s' is %lld", text, (long long)got);
    if (!strstr(e.msg, why))
        fail_msg("%s: \"%s\" is not in \"%s\"", text, why, e.msg);
    assert_true(*e.hint || strstr(e.msg, "no such"));
    assert_int_equal(got, -7);
}

static void rfc_3339(void **state)
{
    (void)state;
    zone("America/New_York");
    is("2026-11-24T10:30:00Z", NOW);
    is("2026-11-24t10:30:00z", NOW);
    is("2026-11-24 10:30Z", NOW);
    is("2026-11-24 10:30 Z", NOW);
    is("2026-11-24T11:30:00+01:00", NOW);
    is("2026-11-24T11:30+0100", NOW);
    is("2026-11-24 05:00:00 -05:30", NOW);
    is("2026-11-24T10:30:00.25Z", NOW + 250);
    is("2026-11-24T10:30:00.123456789Z", NOW + 123);
    is("  2026-11-24T10:30:00Z ", NOW);
    is("1970-01-01T00:00:00Z", 0);
    is("2024-02-29T00:00:00Z", 1709164800000);
    is("2000-02-29T00:00:00Z", 951782400000);
    is("9999-12-31T23:59:59Z", 253402300799000);
    is("@1795516200", NOW);
    is("@1795516200.5", NOW + 500);
}

static void local_time(void **state)
{
    (void)state;
    zone("Europe/Berlin");
    is("2026-11-24 11:30", NOW);
    is("2026-11-24T11:30:00", NOW);
    is("2026-11-24", NOW - 11 * HOUR - HOUR / 2);
    is("2026-07-01 12:00", 1782900000000); /* summer */
    is("11:30", NOW);
    is("9:05:30.5", NOW - 2 * HOUR - 1470 * 1000 + 500);
    is("now", NOW);
    is("today", NOW - 11 * HOUR - HOUR / 2);
    is("today 11:30", NOW);
    is("Yesterday 11:30", NOW - 24 * HOUR);
    is("yesterday", NOW - 35 * HOUR - HOUR / 2);
    /* the local date, not the one of UTC */
    zone("Pacific/Auckland"); /* 23:30 on the 24th */
    is("today 23:30", NOW);
    zone("Pacific/Kiritimati"); /* 00:30 on the 25th */
    is("today 00:30", NOW);
    is("yesterday 00:30", NOW - 24 * HOUR);
}

static void so_long_ago(void **state)
{
    (void)state;
    zone("UTC");
    is("2 hours ago", NOW - 2 * HOUR);
    is("2h ago", NOW - 2 * HOUR);
    is("an hour ago", NOW - HOUR);
    is("a minute ago", NOW - 60000);
    is("1h30m ago", NOW - HOUR - HOUR / 2);
    is("1 hour and 30 minutes ago", NOW - HOUR - HOUR / 2);
    is("90 s ago", NOW - 90000);
    is("3 days ago", NOW - 72 * HOUR);
    is("1 WEEK AGO", NOW - 168 * HOUR);
    is("500 ms ago", NOW - 500);
    is("0 s ago", NOW);
}

static void what_is_no_time(void **state)
{
    (void)state;
    zone("UTC");
    static const char *const text[] = {
        "", " ", "soon", "ago", "2 ago", "hours ago", "2 hours", "2 fortnights ago", "-2 hours ago",
        "99999999999 years ago", "9999999999999999999 s ago", "60000 days ago", "2026", "2026-11",
        "2026-1-1", "24.11.2026", "11/24/2026", "2026-11-24T", "2026-11-24T10", "2026-11-24 10:3",
        "2026-11-24 10:30 CET", "2026-11-24T10:30:00+1", "2026-11-24T10:30:00+01:0",
        "2026-11-24T10:30:00+01:00x", "2026-11-24 10:30 a", "tomorrow 10:00", "now 10:00",
        "yesterday yesterday", "2026-11-24T10:30:00.Z", "@", "@-5", "@1x", "@99999999999999999999",
        "10:30 ago", "2026-11-24T10:30:00+25:00"};
    for (size_t i = 0; i < ARRAY_LEN(text); i++)
        is_not(text[i], "is not a time");
    is_not("2026-13-01", "no such date");
    is_not("2026-02-29", "no such date");
    is_not("1900-02-29T00:00:00Z", "no such date");
    is_not("2026-00-10", "no such date");
    is_not("1969-12-31T23:59:59Z", "no such date");
    is_not("2026-11-24 24:00", "no such time of day");
    is_not("2026-11-24 10:60", "no such time of day");
    is_not("2026-11-24 10:00:61", "no such time of day");
}

static void clocks_that_were_changed(void **state)
{
    (void)state;
    struct err e = {0};
    int64_t ms = 0;
    zone("Europe/Berlin");
    is_not("2026-03-29 02:30", "skipped that time");
    is_not("2026-10-25 02:30", "showed that time twice");
    assert_int_equal(when_parse("2026-10-25 02:30", NOW, &ms, &e), -(int)ERR_USAGE);
    assert_non_null(strstr(e.hint, "2026-10-25T00:30:00Z or 2026-10-25T01:30:00Z"));
    is("2026-10-25 02:30+02:00", 1792888200000);
    is("2026-10-25 02:30+01:00", 1792888200000 + HOUR);
    is("2026-10-25 03:00", 1792890000000 + HOUR);
    is("2026-03-29 03:00", 1774746000000);
}

static void the_zone_is_stated_back(void **state)
{
    char buf[WHEN_TEXT_SIZE];
    (void)state;
    zone("Europe/Berlin");
    assert_string_equal(when_text(buf, NOW), "2026-11-24 11:30:00 +0100 (CET)");
    assert_string_equal(when_text(buf, NOW + 25), "2026-11-24 11:30:00.025 +0100 (CET)");
    assert_string_equal(when_text(buf, 1782900000000), "2026-07-01 12:00:00 +0200 (CEST)");
    assert_string_equal(when_text(buf, -1), "?");
    zone("UTC");
    assert_string_equal(when_text(buf, 0), "1970-01-01 00:00:00 +0000 (UTC)");
    /* and understood again */
    for (int64_t ms = 0; ms < NOW; ms += 86400000ll * 97 + 1234567) {
        int64_t back = 0;
        struct err e = {0};
        (void)when_text(buf, ms);
        *strchr(buf, '(') = '\0';
        assert_int_equal(when_parse(buf, NOW, &back, &e), 0);
        assert_int_equal(back, ms);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rfc_3339),
        cmocka_unit_test(local_time),
        cmocka_unit_test(so_long_ago),
        cmocka_unit_test(what_is_no_time),
        cmocka_unit_test(clocks_that_were_changed),
        cmocka_unit_test(the_zone_is_stated_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
