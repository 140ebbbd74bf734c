/* follow.h - restore --follow: one line for each step, until somebody ends it. */
#ifndef WALSUP_FOLLOW_H
#define WALSUP_FOLLOW_H

#include "ctl/from.h"

/** follow_run(f, r, opts, interval_ms): returns the exit status. SIGINT and SIGTERM end it after the step in
 * hand, with a summary; a failure before the copy is there ends it as well, one after that is said and tried
 * again with growing pauses. */
int follow_run(struct from *f, const struct from_replica *r, const struct restore_opts *opts,
               uint64_t interval_ms);

#endif
