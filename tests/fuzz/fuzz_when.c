/* Any text is a time or is refused; a time is understood again when it is written in UTC. */
#include "common/format/when.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct err e = {0};
    int64_t ms = -1, back = -1, now_ms = 1795516200000;
    char utc[40], local[WHEN_TEXT_SIZE];
    char *text = strndup((const char *)p, n);
    if (!text)
        abort();
    (void)setenv("TZ", "Europe/Berlin", 1);
    int r = when_parse(text, now_ms, &ms, &e);
    if (r < 0 ? ms != -1 || e.code != ERR_USAGE || !e.msg[0]
              : ms >= 0 && ms <= 253402300799999 &&
                    (when_parse(util_rfc3339(utc, ms), now_ms, &back, &e) < 0 || back != ms))
        abort();
    (void)when_text(local, ms);
    free(text);
    return 0;
}
