/* status --states: what the words mean, from common/format/db_state.def; with --man as the table of walsupctl(1). */
#include "common/format/db_state.h"
#include "ctl/ctl.h"
#include "ctl/out.h"
#include "ctl/status.h"

static const char *severity_name(enum severity s)
{
    switch (s) {
    case SEVERITY_HEALTHY:
        return "healthy";
    case SEVERITY_PENDING:
        return "healthy for 5 s, then degraded";
    case SEVERITY_DEGRADED:
        return "degraded";
    case SEVERITY_FAILED:
        return "failed";
    }
    return "";
}

static void print_row(const struct state_row *r, bool man)
{
    if (man) {
        printf(".It Sy %s\n%c%s:\n%s.\n", r->word, severity_name(r->severity)[0] - 'a' + 'A',
               severity_name(r->severity) + 1, r->meaning);
        if (*r->remedy)
            printf("What to do: %s.\n", r->remedy);
        return;
    }
    printf("  %s: %s\n", r->word, severity_name(r->severity));
    cleanup_free char *meaning = util_printf("%s.", r->meaning);
    out_wrapped(stdout, 6, meaning);
    if (!*r->remedy)
        return;
    cleanup_free char *remedy = util_printf("What to do: %s.", r->remedy);
    out_wrapped(stdout, 6, remedy);
}

static json_t *row_json(const struct state_row *r)
{
    return json_pack("{s:s, s:s, s:s, s:s}", "state", r->word, "health", severity_name(r->severity),
                     "meaning", r->meaning, "remedy", r->remedy);
}

int status_states(bool json, bool man)
{
    json_t *db = json_array(), *replica = json_array();
    if (!man && !json)
        printf("A database:\n");
    for (int i = 0; i < DB_STATES; i++)
        if (json)
            json_array_append_new(db, row_json(db_state_row((enum db_state)i)));
        else
            print_row(db_state_row((enum db_state)i), man);
    if (!man && !json)
        printf("A replica:\n");
    for (int i = 0; i < REPLICA_STATES; i++)
        if (json)
            json_array_append_new(replica, row_json(replica_state_row((enum replica_state)i)));
        else if (!man || i == REPLICA_ERROR || i == REPLICA_FENCED || i == REPLICA_OK)
            print_row(replica_state_row((enum replica_state)i), man);
    json_t *all = json_pack("{s:o, s:o}", "databases", db, "replicas", replica);
    if (json)
        return out_json(all);
    json_decref(all);
    return 0;
}
