/* uploader_int.h - what uploader.c and uploader_fence.c share. Nobody else includes this. Loop thread. */
#ifndef WALSUP_UPLOADER_INT_H
#define WALSUP_UPLOADER_INT_H

#include "daemon/replica/uploader.h"

/* uploader.c */
/** uploader_take_off(u, what, key): a request is about to be made; key becomes its. Its req.done ends in
 * uploader_landed(). */
struct uploader_flight *uploader_take_off(struct uploader *u, enum flight_kind what, char *key);
/** uploader_landed(u, f): f is freed, and what can be done next is started. */
void uploader_landed(struct uploader *u, struct uploader_flight *f);
/** uploader_succeeded(u), uploader_failed(u, f): what the store is known to be like. */
void uploader_succeeded(struct uploader *u);
void uploader_failed(struct uploader *u, const struct uploader_flight *f);
/** uploader_sent(u, f): the replica has what f carried. */
void uploader_sent(struct uploader *u, const struct uploader_flight *f);
/** uploader_note(u): write down how far it is, and whether it is fenced. */
void uploader_note(struct uploader *u);
/** uploader_next_file(u): of the spool; NULL: none. */
const struct spool_file *uploader_next_file(const struct uploader *u);

/* uploader_look.c */
/** uploader_look_plan(u): the replica is known from now on: it is looked at when its turn comes. */
void uploader_look_plan(struct uploader *u);
/** uploader_is_seen(u): it was looked at, nothing is missing, and nobody has asked for another look. */
bool uploader_is_seen(const struct uploader *u);
/** uploader_look_first(u): what is about to go up would stand on what was not seen for long. */
bool uploader_look_first(const struct uploader *u);
/** uploader_look(u): take off. uploader_looked(u, f): its request has ended; true: another one is under way, and f
 * lives on. */
void uploader_look(struct uploader *u);
bool uploader_looked(struct uploader *u, struct uploader_flight *f);
/** uploader_look_close(u): no more looks. True: the flight under way is not at the store, and ends by itself. */
bool uploader_look_close(struct uploader *u);

/* uploader_fence.c */
/** uploader_look_in_the_way(u, mine, base, key): an object of that name is there; key becomes its. */
void uploader_look_in_the_way(struct uploader *u, const struct spool_file *mine, bool base, char *key);
/** uploader_ahead_listed(u, f): level 0 behind acked was listed, see f->ahead. */
void uploader_ahead_listed(struct uploader *u, const struct uploader_flight *f);
/** uploader_undo_base(u), uploader_undone(u, f): the base in u->own_base is deleted; that has ended. */
void uploader_undo_base(struct uploader *u);
void uploader_undone(struct uploader *u, const struct uploader_flight *f);

#endif
