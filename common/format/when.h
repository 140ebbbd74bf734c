/* when.h - moments as people write them, and back. Pure but for the local time zone (TZ,
 * /etc/localtime); any thread. */
#ifndef WALSUP_WHEN_H
#define WALSUP_WHEN_H

#include "common/base/err.h"

#define WHEN_TEXT_SIZE 64u

/** when_parse(text, now_ms, ret_ms, e): ms since 1970. ERR_USAGE names what is wrong. Understood:
 *   2026-11-24T10:00:00.25Z, 2026-11-24 10:00+01:00    RFC 3339, seconds may be left out
 *   2026-11-24 10:00, 2026-11-24, 10:00, 10:00:30       local time; a missing time is 00:00, a missing
 *                                                       date is today
 *   now, today 10:00, yesterday, yesterday 18:00        local time
 *   2 hours ago, 1h30m ago, 90 s ago, 3 days ago        a day is 24 hours
 *   @1790157600, @1790157600.5                          seconds since 1970
 * A local time that the clocks skipped or showed twice is refused, with what to write instead. */
int when_parse(const char *text, int64_t now_ms, int64_t *ret_ms, struct err *e);
/** when_text(buf, ms): local time with its zone: "2026-11-24 10:00:00.25 +0100 (CET)". Returns buf. */
const char *when_text(char buf[static WHEN_TEXT_SIZE], int64_t ms);

#endif
