/* replicas.h - which replicas are in a target, by a listing that passes each over after its first object. */
#ifndef WALSUP_REPLICAS_H
#define WALSUP_REPLICAS_H

#include <uv.h>

#include "common/base/buf.h"
#include "common/store/store.h"

#define REPLICAS_SHOWN 8

struct replicas {
    char *name[REPLICAS_SHOWN]; /* below the target's path */
    size_t n;
    bool more; /* there are others */
};

/** replicas_find(loop, target, prefix, requests, wanted, arg, ret, e): the replicas below a prefix
 * that wanted(arg, name) takes (NULL: all), with at most so many requests. Runs the loop. Fill
 * `ret` with zeroes before; replicas_done() also after an error, which leaves in it what had been
 * found. */
int replicas_find(uv_loop_t *loop, const struct conf_target *target, const char *prefix, unsigned requests,
                  bool (*wanted)(void *arg, const char *name), void *arg, struct replicas *ret, struct err *e);
/** replicas_text(r, b): their names, and whether there are more. */
void replicas_text(const struct replicas *r, struct buf *b);
void replicas_done(struct replicas *r);

#endif
