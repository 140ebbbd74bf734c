/* verify.h - what came of a verification, for people and for programs. */
#ifndef WALSUP_CTL_VERIFY_H
#define WALSUP_CTL_VERIFY_H

#include "common/store/verify.h"
#include "ctl/from.h"

/** verify_status(r): the exit status: 0 proven, 1 something is wrong but the latest state restores, 2 it
 * does not. */
int verify_status(const struct verify_result *r);
/** verify_print(r, db, target, where, no_map, all): one sentence, then what is wrong (all: every object), and
 * what it means. target NULL: a url. no_map: why there was nothing to compare with, or NULL. */
void verify_print(const struct verify_result *r, const char *db, const char *target, const char *where,
                  const char *no_map, bool all);
/** verify_json(r, target, where, no_map, all): the same; a new reference. */
json_t *verify_json(const struct verify_result *r, const char *target, const char *where, const char *no_map,
                    bool all);

#endif
