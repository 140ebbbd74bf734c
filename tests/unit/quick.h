/* quick.h - WALSUP_QUICK: where a processor is emulated, what a test does with a gigabyte takes minutes. */
#ifndef WALSUP_TESTS_QUICK_H
#define WALSUP_TESTS_QUICK_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* Whether to leave out `what`, which is then printed. */
static inline bool quick(const char *what)
{
    const char *v = getenv("WALSUP_QUICK");
    if (!v || !*v)
        return false;
    (void)printf("WALSUP_QUICK: left out: %s\n", what);
    return true;
}

#endif
