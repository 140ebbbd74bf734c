/* from_url.h - what those hear who restore by a url at which nothing is: most likely the name is wrong. */
#ifndef WALSUP_FROM_URL_H
#define WALSUP_FROM_URL_H

#include "ctl/from.h"

/** from_url_replicas(f, e): nothing was found at f's url: name in the hint of e the replicas that are below it, or else
 * beside it. Nothing changes if there are none. */
void from_url_replicas(struct from *f, struct err *e);

#endif
