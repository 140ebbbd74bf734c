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
/** hold_upload(h, target, e): before the latest state is restored to the path: what walsupd has captured of the
 * database that is, or was, there is uploaded first, to the target (NULL: to each that works), for which it waits up
 * to half a minute. What is not uploaded then is a warning. ERR_CANCELED: by a signal. */
int hold_upload(struct hold *h, const char *target, struct err *e);
void hold_done(struct hold *h);

#endif
