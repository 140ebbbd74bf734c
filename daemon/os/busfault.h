/* busfault.h - reading a mapped file that somebody has made shorter, or whose disk fails: an error of that file, not
 * the end of the process. The page that is missing reads as zeros from then on, and whoever read it finds out. Any
 * owner of a database can truncate its -shm, which SQLite reads as well. */
#ifndef WALSUP_BUSFAULT_H
#define WALSUP_BUSFAULT_H

#include "common/base/err.h"

/** busfault_setup(e): once, at the start. */
int busfault_setup(struct err *e);
/** busfault_taken(): whether this thread met such a page since it was asked last. */
bool busfault_taken(void);

#endif
