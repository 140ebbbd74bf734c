/* near.h - "did you mean": the known word nearest to what somebody typed. Pure. */
#ifndef WALSUP_NEAR_H
#define WALSUP_NEAR_H

#include "common/base/util.h"

/** near_distance(a, b): how many letters to insert, delete, replace or swap; SIZE_MAX when a word
 * is too long to be worth comparing. */
size_t near_distance(const char *a, const char *b);
/** near_enough(word, distance): whether a word at this distance is a plausible slip of `word`. */
bool near_enough(const char *word, size_t distance);

#endif
