/* snapshot, reconcile, takeover: what walsupd does to the history of a database when it is asked; adopt: and to a
 * target. */
#include "ctl/ctl.h"

#include "ctl/client.h"
#include "ctl/out.h"

#define ADOPT_MS 60000
#define ANSWER_MS (24ull * 3600 * 1000) /* a large database to a slow store */

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static uint64_t count_of(const json_t *o, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(o, key));
}

/* of the first replica that failed */
static int status_of(const json_t *db)
{
    size_t i;
    const json_t *r;
    json_array_foreach(json_object_get(db, "replicas"), i, r) {
        const json_t *error = json_object_get(r, "error");
        if (error)
            return err_exit_status(err_by_name(text_of(error, "code")));
    }
    return 0;
}

/* One line for each replica. */
static int print_replicas(const json_t *db, void (*print)(const json_t *replica))
{
    size_t i;
    const json_t *r;
    json_array_foreach(json_object_get(db, "replicas"), i, r) {
        const json_t *error = json_object_get(r, "error");
        struct err e = {0};
        if (!error) {
            out_text(stdout, text_of(db, "name"));
            printf(" -> ");
            out_text(stdout, text_of(r, "target"));
            printf(": ");
            print(r);
            continue;
        }
        (void)err_set(&e, err_by_name(text_of(error, "code")), "%s -> %s: %s", text_of(db, "name"),
                      text_of(r, "target"), text_of(error, "message"));
        if (*text_of(error, "hint"))
            (void)err_hint(&e, "%s", text_of(error, "hint"));
        out_error(&e);
    }
    return status_of(db);
}

static int ask(struct ctl *c, const char *method, json_t *parameters, json_t **ret)
{
    int status;
    struct err e = {0};
    cleanup_free char *socket = NULL;
    if (!ctl_socket(c, &socket, &status)) {
        json_decref(parameters);
        return status;
    }
    if (optind < c->argc) {
        cleanup_free char *name = ctl_db_name(c, c->argv[optind]);
        (void)json_object_set_new(parameters, "db", json_string(name));
    }
    if (client_call(socket, method, parameters, ANSWER_MS, ret, NULL, &e) == 0)
        return 0;
    if (optind < c->argc && strstr(e.msg, "no database is called"))
        ctl_suggest(socket, c->argv[optind], &e);
    return out_fail(c->json, &e);
}

static void print_snapshot(const json_t *r)
{
    char size[32];
    printf("snapshot of TXID %s, %s\n", text_of(r, "txid"), util_size(size, count_of(r, "bytes")));
}

int cmd_snapshot(struct ctl *c)
{
    static const struct option own[] = {{"target", required_argument, NULL, 't'}, {NULL, 0, NULL, 0}};
    int status, o;
    const char *target = NULL;
    json_t *reply = NULL;
    while ((o = ctl_option(c, own, &status)) >= 0)
        target = optarg;
    if (o == CTL_STOP || !ctl_operands(c, 1, 1, &status))
        return status;
    json_t *p = json_object();
    if (target)
        (void)json_object_set_new(p, "target", json_string(target));
    status = ask(c, "Snapshot", p, &reply);
    if (status)
        return status;
    if (c->json) {
        status = status_of(reply);
        (void)out_json(reply);
        return status;
    }
    status = print_replicas(reply, print_snapshot);
    json_decref(reply);
    return status;
}

static void print_comparison(const json_t *r)
{
    char size[32];
    uint64_t unknown = count_of(r, "not_in_inventory"), missing = count_of(r, "missing"),
             foreign = count_of(r, "foreign");
    printf("%llu file%s, %s", (unsigned long long)count_of(r, "objects"),
           PLURAL(count_of(r, "objects")), util_size(size, count_of(r, "bytes")));
    if (!unknown && !missing)
        printf(", as expected");
    if (unknown)
        printf(", %llu of them added to the inventory", (unsigned long long)unknown);
    if (missing)
        printf(", %llu missing (such as %s): a new snapshot is made, so that the latest state can be restored; points "
               "that need them cannot",
               (unsigned long long)missing, text_of(r, "missing_example"));
    if (foreign)
        printf("; %llu that are no files of a replica are left alone", (unsigned long long)foreign);
    (void)fputc('\n', stdout);
}

int cmd_reconcile(struct ctl *c)
{
    static const struct option own[] = {{"target", required_argument, NULL, 't'},
                                        {"trust-clock", no_argument, NULL, 'T'},
                                        {NULL, 0, NULL, 0}};
    int status, o;
    json_t *p = json_object(), *reply = NULL;
    while ((o = ctl_option(c, own, &status)) >= 0) {
        if (o == 't')
            (void)json_object_set_new(p, "target", json_string(optarg));
        else
            (void)json_object_set_new(p, "trust_clock", json_true());
    }
    if (o == CTL_STOP || !ctl_operands(c, 0, 1, &status)) {
        json_decref(p);
        return status;
    }
    status = ask(c, "Reconcile", p, &reply);
    if (status)
        return status;
    size_t i;
    const json_t *db;
    json_array_foreach(json_object_get(reply, "databases"), i, db) {
        int one = c->json ? status_of(db) : print_replicas(db, print_comparison);
        status = status ? status : one;
    }
    if (c->json)
        (void)out_json(reply);
    else
        json_decref(reply);
    return status;
}

static void print_taken(const json_t *reply)
{
    size_t i;
    const json_t *t;
    json_array_foreach(json_object_get(reply, "targets"), i, t) {
        out_text(stdout, text_of(reply, "name"));
        printf(" -> ");
        out_text(stdout, json_string_value(t));
        printf(": taken over; a new history begins there, behind what the other writer left\n");
    }
}

static json_t *takeover_of(const char *name, const char *target)
{
    json_t *p = json_object();
    if (name)
        (void)json_object_set_new(p, "db", proto_text(name));
    if (target)
        (void)json_object_set_new(p, "target", proto_text(target));
    return p;
}

static bool is_fenced(const json_t *db, const char *target)
{
    size_t i;
    const json_t *r;
    json_array_foreach(json_object_get(db, "replicas"), i, r)
        if (!strcmp(text_of(r, "state"), "fenced") && (!target || !strcmp(text_of(r, "target"), target)))
            return true;
    return false;
}

/* One call for each database: so many decisions are no single event for the daemon. */
static int take_all(struct ctl *c, const char *target)
{
    int status;
    size_t i;
    const json_t *d;
    struct err e = {0};
    json_t *dbs = NULL, *taken = json_array();
    cleanup_free char *socket = NULL;
    if (!ctl_socket(c, &socket, &status))
        return status;
    if (client_call(socket, "Status", json_object(), ANSWER_MS, &dbs, NULL, &e) < 0) {
        json_decref(taken);
        return out_fail(c->json, &e);
    }
    json_array_foreach(json_object_get(dbs, "databases"), i, d) {
        json_t *reply = NULL;
        if (!is_fenced(d, target))
            continue;
        if (client_call(socket, "Takeover", takeover_of(text_of(d, "name"), target), ANSWER_MS, &reply, NULL, &e) < 0)
            break;
        if (!c->json)
            print_taken(reply);
        (void)json_array_append_new(taken, reply);
    }
    size_t n = json_array_size(taken);
    json_decref(dbs);
    if (e.code == ERR_OK && c->json)
        return out_json(json_pack("{s:o}", "databases", taken));
    json_decref(taken);
    if (e.code != ERR_OK)
        return out_fail(c->json, &e);
    if (!n)
        printf("no other writer was found anywhere, so there is nothing to take over\n");
    return 0;
}

int cmd_takeover(struct ctl *c)
{
    static const struct option own[] = {{"target", required_argument, NULL, 't'}, {"all", no_argument, NULL, 'a'},
                                        {NULL, 0, NULL, 0}};
    int status, o;
    bool all = false;
    const char *target = NULL;
    json_t *reply = NULL;
    while ((o = ctl_option(c, own, &status)) >= 0) {
        if (o == 'a')
            all = true;
        else
            target = optarg;
    }
    if (o == CTL_STOP || !ctl_operands(c, 0, 1, &status))
        return status;
    if (all == (optind < c->argc))
        return ctl_usage_error(c, all ? "name a database or say --all, not both" : "name a database, or say --all");
    if (all)
        return take_all(c, target);
    status = ask(c, "Takeover", takeover_of(NULL, target), &reply);
    if (status)
        return status;
    if (c->json)
        return out_json(reply);
    print_taken(reply);
    json_decref(reply);
    return 0;
}

int cmd_adopt(struct ctl *c)
{
    static const struct option own[] = {{NULL, 0, NULL, 0}};
    int status;
    struct err e = {0};
    json_t *reply = NULL;
    cleanup_free char *socket = NULL;
    if (ctl_option(c, own, &status) == CTL_STOP || !ctl_operands(c, 1, 1, &status) || !ctl_socket(c, &socket, &status))
        return status;
    json_t *p = json_pack("{s:o}", "target", proto_text(c->argv[optind]));
    if (client_call(socket, "Adopt", p, ADOPT_MS, &reply, NULL, &e) < 0)
        return out_fail(c->json, &e);
    if (c->json)
        return out_json(reply);
    printf("target ");
    out_text(stdout, text_of(reply, "target"));
    printf(": ");
    out_text(stdout, text_of(reply, "path"));
    printf(" is its directory from now on; every replica there is checked\n");
    json_decref(reply);
    return 0;
}
