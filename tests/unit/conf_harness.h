/* conf_harness.h - texts of configurations, accepted or refused, for test_conf.c and test_conf_files.c. */
#ifndef WALSUP_TESTS_CONF_HARNESS_H
#define WALSUP_TESTS_CONF_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/format/conf.h"

#define S3 "[target t]\ntype = s3\nendpoint = https://s3.example.com\nbucket = litestream\n"
#define FILE_T "[target f]\ntype = file\npath = /backup\n"
#define DB "[db a]\npath = /srv/a.db\ntarget = "

static inline struct conf *good(const char *text)
{
    struct conf *c = NULL;
    struct err e = {0};
    cleanup_buf struct buf errors = BUF_INIT;
    if (conf_parse("x.ini", text, strlen(text), &c, &errors, &e) < 0)
        fail_msg("refused: %s", buf_str(&errors));
    assert_int_equal(errors.len, 0);
    assert_non_null(c);
    return c;
}

/* every text of `want` (a NULL-ended list) is in the report, which has `lines` problems */
static inline void bad(unsigned lines, const char *text, ...)
{
    struct conf *c = NULL;
    struct err e = {0};
    cleanup_buf struct buf errors = BUF_INIT;
    assert_int_equal(conf_parse("x.ini", text, strlen(text), &c, &errors, &e), -ERR_CONFIG);
    assert_null(c);
    assert_int_equal(e.code, ERR_CONFIG);
    const char *report = buf_str(&errors);
    unsigned n = 0;
    for (const char *p = report; *p; p = strchr(p, '\n') + 1)
        n += *p != ' ';
    va_list ap;
    va_start(ap, text);
    for (const char *w = va_arg(ap, const char *); w; w = va_arg(ap, const char *))
        if (!strstr(report, w))
            fail_msg("'%s' is not in:\n%s", w, report);
    va_end(ap);
    if (n != lines)
        fail_msg("%u problems instead of %u:\n%s", n, lines, report);
}

#endif
