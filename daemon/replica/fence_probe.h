/* fence_probe.h - what is done once for each store, when the first upload has worked: an idle start costs no
 * request. Does the store obey the condition that fencing stands on? Some ignore it without saying so: two
 * puts of one scratch object tell. And what large uploads did processes that died leave behind? Those that
 * are a day old are aborted. Loop thread. */
#ifndef WALSUP_FENCE_PROBE_H
#define WALSUP_FENCE_PROBE_H

#include "common/store/store.h"

/** fence_probe(store, target, may_delete): unless it is known or under way. Where nothing may be deleted the object
 * stays, with a name that is the same each time. Needs no answer of the caller's: the outcome
 * is store_fencing(store); a store that ignores the condition is warned of once. `target` is copied. */
void fence_probe(struct store *store, const char *target, bool may_delete);

#endif
