/* sync, reload */
#include "ctl/ctl.h"

#include "ctl/client.h"
#include "ctl/out.h"

#define SYNC_TIMEOUT_MS 60000
#define ANSWER_MS 5000 /* for the daemon to say that the time is over */
#define RELOAD_TIMEOUT_MS 60000

static void print_txid(const json_t *o)
{
    const json_t *t = json_object_get(o, "txid");
    if (json_is_string(t))
        out_text(stdout, json_string_value(t));
    else
        printf("%016llx", (unsigned long long)json_integer_value(t));
}

static void print_synced(const json_t *reply, bool waited)
{
    size_t i, j;
    json_t *d, *r;
    json_array_foreach(json_object_get(reply, "databases"), i, d) {
        out_text(stdout, json_string_value(json_object_get(d, "name")));
        printf(waited ? ": everything up to TXID " : ": captured up to TXID ");
        print_txid(d);
        json_array_foreach(json_object_get(d, "replicas"), j, r) {
            printf(j ? ", " : waited ? " is in " : "; in ");
            out_text(stdout, json_string_value(json_object_get(r, "target")));
            if (!waited) {
                printf(" up to ");
                print_txid(r);
            }
        }
        (void)fputc('\n', stdout);
    }
}

int cmd_sync(struct ctl *c)
{
    static const struct option own[] = {{"wait", no_argument, NULL, 'w'},
                                        {"timeout", required_argument, NULL, 't'},
                                        {NULL, 0, NULL, 0}};
    int status, o;
    bool wait = false;
    uint64_t timeout_ms = SYNC_TIMEOUT_MS;
    struct err e = {0};
    json_t *reply = NULL;
    while ((o = ctl_option(c, own, &status)) >= 0) {
        if (o == 'w')
            wait = true;
        else if (!conf_duration(optarg, &timeout_ms) || timeout_ms > 24 * 3600 * 1000)
            return ctl_usage_error(c, "--timeout %s is not a duration up to 24h, as in 30s",
                                   optarg);
    }
    if (o == CTL_STOP || !ctl_operands(c, 0, 1, &status))
        return status;
    cleanup_free char *socket = NULL;
    if (!ctl_socket(c, &socket, &status))
        return status;
    json_t *parameters =
        json_pack("{s:b, s:I}", "wait", (int)wait, "timeout_ms", (json_int_t)timeout_ms);
    if (optind < c->argc) {
        cleanup_free char *name = ctl_db_name(c, c->argv[optind]);
        (void)json_object_set_new(parameters, "db", proto_text(name));
    }
    if (client_call(socket, "Sync", parameters, timeout_ms + ANSWER_MS, &reply, NULL, &e) < 0) {
        if (optind < c->argc)
            ctl_suggest(socket, c->argv[optind], &e);
        return out_fail(c->json, &e);
    }
    if (c->json)
        return out_json(reply);
    print_synced(reply, wait);
    json_decref(reply);
    return 0;
}

/* ---- reload --------------------------------------------------------------------------------- */

static bool print_names(const json_t *reply, const char *key)
{
    size_t i;
    json_t *name;
    const json_t *names = json_object_get(reply, key);
    if (!json_array_size(names))
        return false;
    printf("%s: ", key);
    json_array_foreach(names, i, name) {
        printf(i ? ", " : "");
        out_text(stdout, json_string_value(name) ? json_string_value(name) : "?");
    }
    (void)fputc('\n', stdout);
    return true;
}

static void print_value(const json_t *c, const char *key)
{
    const char *text = json_string_value(json_object_get(c, key));
    out_text(stdout, text ? text : "default");
}

/* as it is written: section by section */
static bool print_changes(const json_t *reply)
{
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(reply, "changes"), i, c) {
        printf("[");
        print_value(c, "section");
        printf("] ");
        if (json_is_string(json_object_get(c, "key"))) {
            print_value(c, "key");
            printf(": ");
            print_value(c, "from");
            printf(" -> ");
            print_value(c, "to");
            printf(json_is_true(json_object_get(c, "restart")) ? ", when walsupd is restarted\n" : "\n");
        } else {
            print_value(c, "change");
            (void)fputc('\n', stdout);
        }
    }
    return i > 0;
}

static bool is_about(const char *line, const char *db)
{
    size_t n = strlen(db);
    return !strncmp(line, "db ", 3) && !strncmp(line + 3, db, n) && line[3 + n] == ' ';
}

bool ctl_reload_restart(const json_t *reply, const char *db, struct err *e)
{
    const json_t *list = json_object_get(reply, "restart"), *item;
    size_t n = json_array_size(list), i;
    json_array_foreach(list, i, item) {
        const char *line = json_string_value(item);
        if (!line || (db && !is_about(line, db)))
            continue;
        (void)err_set(e, ERR_PERM, "%s", line);
        (void)err_hint(e, "systemctl restart walsupd%s",
                       n > 1 ? "; walsupctl reload --json lists all that needs it" : "");
        return true;
    }
    return false;
}

void ctl_print_reload(const json_t *reply)
{
    bool any = print_changes(reply);
    any = print_names(reply, "added") || any;
    any = print_names(reply, "removed") || any;
    any = print_names(reply, "changed") || any;
    json_int_t same = json_integer_value(json_object_get(reply, "unchanged"));
    if (any)
        printf("%lld unchanged\n", (long long)same);
    else
        printf("nothing changed (%lld database%s)\n", (long long)same, PLURAL(same));
}

int ctl_reload(struct ctl *c, const char *socket, json_t **ret, int *ret_status)
{
    struct err e = {0};
    cleanup_free char *message = NULL;
    if (client_call(socket, "Reload", NULL, RELOAD_TIMEOUT_MS, ret, &message, &e) == 0)
        return 0;
    /* behind the first line: all that is wrong in the file */
    const char *lines = message ? strchr(message, '\n') : NULL;
    if (!lines) {
        *ret_status = out_fail(c->json, &e);
        return -(int)e.code;
    }
    (void)err_set(&e, e.code, "%.*s", (int)(lines - message), message);
    out_error(&e);
    *ret_status = err_exit_status(e.code);
    if (c->json) {
        *ret_status = out_fail_json(&e, lines + 1);
    } else {
        out_text(stderr, lines + 1);
        (void)fputs(lines[strlen(lines) - 1] == '\n' ? "" : "\n", stderr);
    }
    return -(int)e.code;
}

int cmd_reload(struct ctl *c)
{
    int status;
    json_t *reply = NULL;
    if (ctl_option(c, NULL, &status) == CTL_STOP || !ctl_operands(c, 0, 0, &status))
        return status;
    cleanup_free char *socket = NULL;
    if (!ctl_socket(c, &socket, &status) || ctl_reload(c, socket, &reply, &status) < 0)
        return status;
    if (c->json)
        return out_json(reply);
    ctl_print_reload(reply);
    struct err e;
    if (ctl_reload_restart(reply, NULL, &e))
        out_warning(&e);
    json_decref(reply);
    return 0;
}
