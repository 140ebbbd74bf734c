/* active.h - the databases that are not at rest: a job is under way, something is wrong or late, or
 * was a moment ago. What happens every second (beats, health, the status line, the hook) looks at
 * these alone, so that a sleeping database costs nothing. Loop thread only.
 *
 * Whoever changes something by which a database is at rest no more calls active_add(); that it is
 * at rest again is noticed by the next look (manager_look.c). A sleeping database changes by itself
 * in one way only: nobody has compared its files for too long. So all databases are also in a list
 * by the time of that, the longest ago first. */
#ifndef WALSUP_ACTIVE_H
#define WALSUP_ACTIVE_H

#include "common/base/util.h"

struct database;

struct active {
    struct database **db;
    size_t n, cap;
    struct database *oldest, *newest; /* by their last proof */
};

/* embedded in a database; zero: in none of the lists */
struct active_entry {
    size_t place; /* in struct active, plus 1; 0: at rest */
    bool proven;  /* in the list of proofs */
    struct database *older, *newer;
};

/** active_add(a, db): cheap, also if it is there already. a may be NULL: nobody looks. */
void active_add(struct active *a, struct database *db);
/** active_remove(a, db): it is at rest. What was last takes its place. */
void active_remove(struct active *a, struct database *db);
/** active_proof_ms(db): monotonic time at which its files were last found to be what was captured; 0: never.
 * active_proof_limit_ms(db): how old that may be; active_proof_is_old(db): it is older. */
uint64_t active_proof_ms(const struct database *db);
uint64_t active_proof_limit_ms(const struct database *db);
bool active_proof_is_old(const struct database *db);
/** active_proven(a, db): its files were just found to be what was captured. a may be NULL. */
void active_proven(struct active *a, struct database *db);
/** active_unproven(a, max): at most so many databases whose proof is too old become active. */
void active_unproven(struct active *a, size_t max);
/** active_is_due(a, db): active_unproven() will come to it without anything happening to it. */
bool active_is_due(const struct active *a, const struct database *db);
/** active_forget(a, db): it goes away. active_done(a): frees what a holds, not a. */
void active_forget(struct active *a, struct database *db);
void active_done(struct active *a);

#endif
