/* levels.h - the levels of the explorer that have an application in a process of its own (apart.h). */
#ifndef LEVELS_H
#define LEVELS_H

#include "common/base/util.h"

struct search {
    uint64_t seed;
    unsigned long runs;
    bool control;
    char *only; /* one run instead, as a violation prints it */
};

/** held_search(s): level 4, an application that is stopped in the middle of a statement. The exit status. */
int held_search(const struct search *s);
/** files_search(s): level 5, files that are moved, removed and copied beneath walsup. The exit status. */
int files_search(const struct search *s);

/** search_below(n): a random number below n, by the seed. */
unsigned search_below(unsigned n);

#endif
