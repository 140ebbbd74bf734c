/* analyze.h - what the headers promise in words, told to gcc -fanalyzer, which sees one file at a time.
 * Included in front of every file but err.c by `make analyze-gcc`. */
#ifndef WALSUP_ANALYZE_H
#define WALSUP_ANALYZE_H

#include "common/base/err.h"

/* err.h: they return -code, and no code that is reported is ERR_OK */
static inline int analyze_negative(int r)
{
    if (r >= 0)
        __builtin_unreachable();
    return r;
}
#define err_set(...) analyze_negative(err_set(__VA_ARGS__))
#define err_sys(...) analyze_negative(err_sys(__VA_ARGS__))
#define err_wrap(...) analyze_negative(err_wrap(__VA_ARGS__))
#define err_hint(...) analyze_negative(err_hint(__VA_ARGS__))

#endif
