/* from_url.h - what those hear who restore by a url: there is no section of a configuration to change, and a place that is
 * empty is most likely a name that is wrong. */
#ifndef WALSUP_FROM_URL_H
#define WALSUP_FROM_URL_H

#include "ctl/from.h"

/** from_url_hint(e): what a hint says to write into the target's section goes to the url, or the environment. */
void from_url_hint(struct err *e);
/** from_url_replicas(f, e): nothing was found at f's url: name in the hint of e the replicas that are below it, or else
 * beside it. Nothing changes if there are none. */
void from_url_replicas(struct from *f, struct err *e);

#endif
