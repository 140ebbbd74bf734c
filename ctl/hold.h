/* hold.h - walsupd lets go of a database while its file is replaced: paused over the control socket, resumed
 * afterwards, whatever comes in between. */
#ifndef WALSUP_HOLD_H
#define WALSUP_HOLD_H

#include "common/store/restore.h"
#include "ctl/ctl.h"

struct hold {
    char *socket;
    const char *path; /* of the database file */
    char *name;       /* what walsupd calls it, while it is held; else NULL */
    bool was_paused;  /* by somebody else before: it stays so */
};

/** hold_init(h, c, path): the hook for a restore that replaces path. path stays the caller's. Without a daemon, and
 * for a path that it does not replicate, the hook does nothing. */
struct restore_hold hold_init(struct hold *h, struct ctl *c, const char *path);
void hold_done(struct hold *h);

#endif
