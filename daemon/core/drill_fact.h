/* drill_fact.h - what came of the last drill (control/drill.h), kept with the database. Loop thread
 * only. */
#ifndef WALSUP_DRILL_FACT_H
#define WALSUP_DRILL_FACT_H

#include "common/base/util.h"

enum drill_result {
    DRILL_PROVEN,  /* the values of walsupctl's exit status */
    DRILL_DAMAGED, /* something is wrong, the latest state restores */
    DRILL_UNSAFE,  /* it does not */
    DRILL_FAILED,  /* nothing can be said: a store is away, say */
};

/* all zero: nothing is known yet */
struct drill_fact {
    bool looked;     /* the file was read */
    int64_t time_ms; /* of the last one that could say something; 0: there was none */
    enum drill_result result;
    char *text;       /* the objects that are wrong, or the error; its own */
    int64_t retry_ms; /* real time; after DRILL_FAILED */
};

/** drill_fact_done(f): frees what it holds; nothing is known then. */
static inline void drill_fact_done(struct drill_fact *f)
{
    free(f->text);
    *f = (struct drill_fact){.looked = false};
}

#endif
