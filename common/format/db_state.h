/* db_state.h - the states of databases and replicas: names, what they mean, how bad they are. Pure; any thread.
 * The rows are in db_state.def. */
#ifndef WALSUP_DB_STATE_H
#define WALSUP_DB_STATE_H

#include <stddef.h>

enum severity { SEVERITY_HEALTHY, SEVERITY_PENDING, SEVERITY_DEGRADED, SEVERITY_FAILED };

#define REPLICA_STATE(id, word, severity, meaning, remedy)
#define DB_STATE(id, word, severity, meaning, remedy) DB_##id,
enum db_state {
#include "common/format/db_state.def"
    DB_STATES
};
#undef DB_STATE
#undef REPLICA_STATE
#define DB_STATE(id, word, severity, meaning, remedy)
#define REPLICA_STATE(id, word, severity, meaning, remedy) REPLICA_##id,
enum replica_state {
#include "common/format/db_state.def"
    REPLICA_STATES
};
#undef DB_STATE
#undef REPLICA_STATE

struct state_row {
    const char *word, *meaning, *remedy;
    enum severity severity;
};

/** db_state_row(s), replica_state_row(s): never NULL. */
const struct state_row *db_state_row(enum db_state s);
const struct state_row *replica_state_row(enum replica_state s);
/** db_state_find(word), replica_state_find(word): NULL for a word of a later version. */
const struct state_row *db_state_find(const char *word);
const struct state_row *replica_state_find(const char *word);

#endif
