/* agenda.h - what is due when, for any number of databases with one timer. Loop thread only. */
#ifndef WALSUP_AGENDA_H
#define WALSUP_AGENDA_H

#include <uv.h>

#include "common/base/util.h"

struct agenda;

/* embedded in what has something to do; zero: is not in the agenda */
struct agenda_entry {
    uint64_t at_ms; /* monotonic */
    size_t place;   /* the agenda's own; 0: not in it */
};

/** agenda_new(loop, fire, arg): fire(arg, x) is called when x is due; x is in the agenda no more
 * then. fire NULL: nothing happens by itself, and times may be of any clock: see agenda_first(). */
struct agenda *agenda_new(uv_loop_t *loop, void (*fire)(void *arg, struct agenda_entry *x), void *arg);
/** agenda_set(a, x, at_ms): due then, and no more when it was due before. */
void agenda_set(struct agenda *a, struct agenda_entry *x, uint64_t at_ms);
/** agenda_sooner(a, x, at_ms): due then at the latest. */
void agenda_sooner(struct agenda *a, struct agenda_entry *x, uint64_t at_ms);
void agenda_remove(struct agenda *a, struct agenda_entry *x);
/** agenda_first(a): what is due before everything else; NULL: nothing is in it. */
struct agenda_entry *agenda_first(const struct agenda *a);
/** agenda_look(a): the clock was moved (clk_shift). Whether something is due. */
bool agenda_look(struct agenda *a);
/** agenda_close(a, closed, arg): nothing fires any more; then closed(arg), and a is freed. */
void agenda_close(struct agenda *a, void (*closed)(void *arg), void *arg);

#endif
