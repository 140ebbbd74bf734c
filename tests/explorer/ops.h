/* ops.h - what walsup does with a database, each with the situation in which it does it. */
#ifndef OPS_H
#define OPS_H

#include "tests/explorer/world.h"

enum op_flags {
    KEPT = 1,  /* attached before, so that continuity may not be lost */
    SLOW = 2,  /* a detach sleeps: sampled less often */
    AWAKE = 4, /* something happened, which must be noticed */
};

struct op {
    const char *name;
    void (*before)(void); /* makes the situation, in a world just begun */
    struct source_job job;
    unsigned flags;
};

extern const struct op ops[];
extern const unsigned n_ops;
enum { MAX_OPS = 64 };

#endif
