/* berths.h - how many databases may be attached at once (max-open). Whoever wants to attach takes a
 * berth; when they run short, those whose last commit is longest ago are asked to leave. Loop thread
 * only. */
#ifndef WALSUP_BERTHS_H
#define WALSUP_BERTHS_H

#include "common/base/util.h"

struct berths;
struct berth;

/* Both come from the midst of another one's call: act on them later. */
struct berth_calls {
    void (*leave)(struct berth *x); /* others wait: detach soon, and berths_leave() */
    void (*enter)(struct berth *x); /* there may be room now: try again */
};

/* embedded in a database; zero but for call: has none */
struct berth {
    const struct berth_calls *call;
    enum { BERTH_NONE, BERTH_WAITS, BERTH_HAS, BERTH_LOADS } where;
    bool asked; /* to leave */
    struct berth *prev, *next;
};

/** berths_new(max): max is at least 1. */
struct berths *berths_new(unsigned max);
struct berths *berths_free(struct berths *b);
void berths_resize(struct berths *b, unsigned max);
/** berths_enter(b, x): true: x has a berth, now or already. False: it waits in line, and
 * x->call->enter(x) is called when one may be had. b NULL: always true. */
bool berths_enter(struct berths *b, struct berth *x);
/** berths_touch(b, x): it was active just now: the last to be asked, and no longer asked unless others
 * wait. */
void berths_touch(struct berths *b, struct berth *x);
/** berths_leave(b, x): gives the berth back, or the place in the line. */
void berths_leave(struct berths *b, struct berth *x);
/** berths_load(b, x), berths_loaded(b): at start everybody reads his spool directory: only so many at
 * once, the others are told when it is their turn, as with a berth. b NULL: always true. */
bool berths_load(struct berths *b, struct berth *x);
void berths_loaded(struct berths *b);
unsigned berths_taken(const struct berths *b);

#endif
