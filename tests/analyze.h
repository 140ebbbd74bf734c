/* analyze.h - what err.h promises in words, told to analysers, which see one file at a time. Included in
 * front of a file by `make analyze`, see tests/check.mk. */
#ifndef WALSUP_ANALYZE_H
#define WALSUP_ANALYZE_H

#include "common/base/err.h"

/* err.h: they return -code, and no code that is reported is ERR_OK */
#define ANALYZE_NEGATIVE(call)       \
    (__extension__({                 \
        int analyze_r_ = (call);     \
        if (analyze_r_ >= 0)         \
            __builtin_unreachable(); \
        analyze_r_;                  \
    }))
#define err_set(...) ANALYZE_NEGATIVE(err_set(__VA_ARGS__))
#define err_sys(...) ANALYZE_NEGATIVE(err_sys(__VA_ARGS__))
#define err_wrap(...) ANALYZE_NEGATIVE(err_wrap(__VA_ARGS__))
#define err_hint(...) ANALYZE_NEGATIVE(err_hint(__VA_ARGS__))

#endif
