/* restore_pattern.h - restore --if-db-not-exists of a [db] section with a pattern, which is what
 * walsupd --exec asks before the program starts. */
#ifndef WALSUP_RESTORE_PATTERN_H
#define WALSUP_RESTORE_PATTERN_H

#include "ctl/ctl.h"

/** restore_pattern(c, name, ret_status): false unless `name` is a section with a pattern. Else says
 * whether a database of it is there, or none and no target has a replica of one: *ret_status is 0
 * then. Replicas and no database are an error that names them: what was lost and what was removed
 * on purpose only a person can tell apart. */
bool restore_pattern(struct ctl *c, const char *name, int *ret_status);

#endif
