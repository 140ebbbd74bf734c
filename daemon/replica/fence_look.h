/* fence_look.h - read of an object that is in the way what tells whose it is: its metadata, the first and the
 * last bytes. For those who put large things: keeper.c and stream.c. Loop thread. */
#ifndef WALSUP_FENCE_LOOK_H
#define WALSUP_FENCE_LOOK_H

#include "daemon/replica/fence.h"

struct fence_look {
    /* set by the caller */
    void (*done)(struct fence_look *l); /* never from inside fence_look() */
    void *data;
    /* valid in done() */
    struct fence_seen seen;
    struct err err; /* ERR_OK also if it is no LTX file: that is an answer, too */
    /* its own */
    struct store *store;
    const char *key;
    struct store_req req;
};

/** fence_look(l, store, key): key stays the caller's, and valid. */
void fence_look(struct fence_look *l, struct store *store, const char *key);
/** fence_look_cancel(l): done() comes soon. */
void fence_look_cancel(struct fence_look *l);

#endif
