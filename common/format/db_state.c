#include "common/format/db_state.h"

#include <string.h>

#define DB_STATE(id, word, severity, meaning, remedy) [DB_##id] = {word, meaning, remedy, SEVERITY_##severity},
#define REPLICA_STATE(id, word, severity, meaning, remedy)
static const struct state_row db_row[DB_STATES] = {
#include "common/format/db_state.def"
};
#undef DB_STATE
#undef REPLICA_STATE
#define DB_STATE(id, word, severity, meaning, remedy)
#define REPLICA_STATE(id, word, severity, meaning, remedy) [REPLICA_##id] = {word, meaning, remedy, SEVERITY_##severity},
static const struct state_row replica_row[REPLICA_STATES] = {
#include "common/format/db_state.def"
};

const struct state_row *db_state_row(enum db_state s)
{
    return &db_row[s];
}

const struct state_row *replica_state_row(enum replica_state s)
{
    return &replica_row[s];
}

const struct state_row *db_state_find(const char *word)
{
    for (size_t i = 0; i < DB_STATES; i++)
        if (!strcmp(db_row[i].word, word))
            return &db_row[i];
    return NULL;
}

const struct state_row *replica_state_find(const char *word)
{
    for (size_t i = 0; i < REPLICA_STATES; i++)
        if (!strcmp(replica_row[i].word, word))
            return &replica_row[i];
    return NULL;
}
