/* status, list */
#include "common/format/db_state.h"
#include "ctl/ctl.h"

#include "ctl/client.h"
#include "ctl/out.h"
#include "ctl/status.h"

#define SHOW_AT_ONCE 50 /* databases; of more, only those that are not fine */
#define WATCH_MS 2000

static const char *str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static uint64_t num(const json_t *o, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(o, key));
    return v > 0 ? (uint64_t)v : 0;
}

/* TXIDs are hexadecimal everywhere, as in the names of the files */
static char *txid_text(const json_t *o)
{
    const json_t *t = json_object_get(o, "txid");
    const char *s = json_string_value(t);
    if (s) {
        s += strspn(s, "0");
        return util_strdup(*s ? s : "-");
    }
    return num(o, "txid") ? util_printf("%llx", (unsigned long long)num(o, "txid"))
                          : util_strdup("-");
}

static char *ago(uint64_t then_ms, uint64_t now_ms, const char *never)
{
    char t[32];
    if (!then_ms)
        return util_strdup(never);
    return util_printf("%s ago", out_short_duration(t, now_ms > then_ms ? now_ms - then_ms : 0));
}

/* " (for 5m, since 2026-01-01T00:00:00Z)" behind a problem's sentence */
static void add_since(struct buf *b, uint64_t since_ms, uint64_t now_ms)
{
    char t[32], stamp[40];
    if (since_ms)
        buf_printf(b, " (for %s, since %s)",
                   out_short_duration(t, now_ms > since_ms ? now_ms - since_ms : 0),
                   util_rfc3339(stamp, (int64_t)(since_ms / 1000 * 1000)));
}

static void add_history_error(struct buf *b, const json_t *r, uint64_t now_ms)
{
    const json_t *error = json_object_get(r, "history_error");
    if (!json_is_object(error))
        return;
    buf_printf(b, "%s%s: commits are uploaded, snapshots and merged files are not: %s", b->len ? "; " : "",
               str(r, "target"), str(error, "message"));
    add_since(b, num(error, "since_ms"), now_ms);
    if (*str(error, "hint"))
        buf_printf(b, "; hint: %s", str(error, "hint"));
}

static void add_replica_error(struct buf *b, const json_t *r, uint64_t now_ms)
{
    char t[32];
    const json_t *error = json_object_get(r, "error");
    if (!strcmp(str(r, "fencing"), "off"))
        buf_printf(b, "%s%s: fencing: off: the store ignores If-None-Match, so a second writer at this path would not "
                   "be noticed", b->len ? "; " : "", str(r, "target"));
    if (json_is_true(json_object_get(r, "skip_verify")))
        buf_printf(b, "%s%s: skip-verify is on: anybody on the way can read and change what is replicated",
                   b->len ? "; " : "", str(r, "target"));
    if (json_is_true(json_object_get(r, "retained")))
        buf_printf(b,
                   "%s%s: Object Lock keeps files that are older than the retention; they are "
                   "deleted later",
                   b->len ? "; " : "", str(r, "target"));
    if (!json_is_object(error)) {
        add_history_error(b, r, now_ms);
        return;
    }
    buf_printf(b, "%s%s: %s", b->len ? "; " : "", str(r, "target"), str(error, "message"));
    add_since(b, num(error, "since_ms"), now_ms);
    uint64_t next = num(error, "next_retry_ms"), failures = num(error, "failures");
    if (failures)
        buf_printf(b, "; failed %llu time%s", (unsigned long long)failures,
                   failures == 1 ? "" : "s");
    if (next)
        buf_printf(b, "; next try %s%s", next > now_ms ? "in " : "now",
                   next > now_ms ? out_short_duration(t, next - now_ms + 999) : "");
    if (*str(error, "hint"))
        buf_printf(b, "; hint: %s", str(error, "hint"));
}

/* What the table of states advises; a replica that is behind has its own line. */
static void add_remedy(struct buf *b, const json_t *d)
{
    const struct state_row *row = db_state_find(str(d, "state"));
    if (!row || row == db_state_row(DB_BEHIND) || !*row->remedy)
        return;
    const char *db = strstr(row->remedy, " DB"); /* the last word of a command */
    if (db)
        buf_printf(b, "; hint: %.*s %s", (int)(db - row->remedy), row->remedy, str(d, "name"));
    else
        buf_printf(b, "; hint: %s", row->remedy);
}

static void add_db_error(struct buf *b, const json_t *d, uint64_t now_ms, enum out_tone tone)
{
    const json_t *error = json_object_get(d, "error");
    if (json_is_object(error)) {
        buf_add_str(b, str(error, "message"));
        add_since(b, num(error, "since_ms"), now_ms);
        if (*str(error, "next"))
            buf_printf(b, "; %s", str(error, "next"));
        if (*str(error, "hint"))
            buf_printf(b, "; hint: %s", str(error, "hint"));
    } else if (*str(d, "detail") && tone != OUT_PLAIN) {
        buf_add_str(b, str(d, "detail"));
        add_since(b, num(d, "since_ms"), now_ms);
        add_remedy(b, d);
    }
}

/* What the last verification found, if that was not that all is well. */
static enum out_tone verify_tone(const json_t *d)
{
    const char *result = str(json_object_get(d, "verify"), "result");
    return !strcmp(result, "unsafe") ? OUT_BAD : !strcmp(result, "damaged") ? OUT_WARN : OUT_PLAIN;
}

static void add_verify(struct buf *b, const json_t *d, uint64_t now_ms)
{
    const json_t *v = json_object_get(d, "verify");
    enum out_tone tone = verify_tone(d);
    if (tone == OUT_PLAIN)
        return;
    buf_printf(b, "%s%s: %s", b->len ? "; " : "",
               tone == OUT_BAD ? "verified, and the latest state of a replica is not safe"
                               : "verified, and something in a replica is damaged", str(v, "text"));
    add_since(b, num(v, "time_ms"), now_ms);
    buf_printf(b, "; hint: walsupctl verify %s says everything", str(d, "name"));
}

static enum out_tone db_tone(const char *state)
{
    const struct state_row *row = db_state_find(state);
    switch (row ? row->severity : SEVERITY_HEALTHY) {
    case SEVERITY_HEALTHY:
        break;
    case SEVERITY_PENDING: /* "starting" is no trouble by itself; its target is, if it does not answer */
        return row == db_state_row(DB_STARTING) ? OUT_PLAIN : OUT_WARN;
    case SEVERITY_DEGRADED:
        return OUT_WARN;
    case SEVERITY_FAILED:
        return OUT_BAD;
    }
    return OUT_PLAIN;
}

/* one row to be sorted: worst first, then most behind, then as configured */
struct line {
    const json_t *db, *replica;
    enum out_tone tone;
    uint64_t lag_ms, lag_bytes;
    size_t order;
    bool first; /* of its database: carries the database's own problem */
};

static int worst_first(const void *pa, const void *pb)
{
    const struct line *a = pa, *b = pb;
    if (a->tone != b->tone)
        return (int)b->tone - (int)a->tone;
    if (a->tone != OUT_PLAIN && a->lag_ms != b->lag_ms)
        return a->lag_ms < b->lag_ms ? 1 : -1;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* The state of one row. A database is "behind" because one of its replicas is; the others are not
 * to be blamed for it. */
const char *status_row_state(const json_t *db, const json_t *replica)
{
    const char *state = str(db, "state"), *replica_state = str(replica, "state");
    if (db_tone(state) != OUT_PLAIN && strcmp(state, "behind") != 0)
        return state;
    if (!strcmp(replica_state, "error") || !strcmp(replica_state, "behind") ||
        !strcmp(replica_state, "fenced"))
        return replica_state;
    return !strcmp(state, "behind") && replica ? "replicating" : state;
}

static char *lag_text(const struct line *l)
{
    char size[32], time[32];
    if (!l->replica)
        return util_strdup("-");
    if (!l->lag_bytes && !l->lag_ms)
        return util_strdup("none");
    if (l->lag_ms < 1000)
        return util_strdup(util_size(size, l->lag_bytes));
    if (!l->lag_bytes)
        return util_strdup(out_short_duration(time, l->lag_ms));
    return util_printf("%s %s", util_size(size, l->lag_bytes), out_short_duration(time, l->lag_ms));
}

void status_note(struct buf *b, const json_t *db, const json_t *replica, uint64_t now_ms)
{
    if (db) {
        add_db_error(b, db, now_ms, db_tone(str(db, "state")));
        add_verify(b, db, now_ms);
    }
    if (replica)
        add_replica_error(b, replica, now_ms);
}

static void add_line(struct out_table *t, const struct line *l, uint64_t now_ms)
{
    struct out_row *row = out_row(t);
    cleanup_buf struct buf note = BUF_INIT;
    const char *state = status_row_state(l->db, l->replica);
    row->cell[0] = util_strdup(str(l->db, "name"));
    row->cell[1] = util_strdup(*state ? state : "?");
    row->cell[2] = util_strdup(l->replica ? str(l->replica, "target") : "-");
    row->cell[3] = txid_text(l->replica ? l->replica : l->db);
    row->cell[4] = lag_text(l);
    /* of what an earlier process stored, only what was stored is known, not when */
    const char *none =
        l->replica && strspn(str(l->replica, "txid"), "0") < strlen(str(l->replica, "txid"))
            ? "before start"
            : "never";
    row->cell[5] = l->replica ? ago(num(l->replica, "last_success_ms"), now_ms, none)
                              : util_strdup("-");
    row->tone = l->tone;
    status_note(&note, l->first ? l->db : NULL, l->replica, now_ms);
    if (note.len)
        row->note = util_strdup(buf_str(&note));
}

static enum out_tone replica_tone(const json_t *r)
{
    const char *state = str(r, "state");
    return !strcmp(state, "error") || !strcmp(state, "fenced") ? OUT_BAD
           : !strcmp(state, "behind")                          ? OUT_WARN
                                                               : OUT_PLAIN;
}

static void print_table(const json_t *reply)
{
    static const char *const head[] = {"DATABASE", "STATE", "TARGET", "TXID",
                                       "LAG",      "LAST-SUCCESS", NULL};
    struct out_table t = {.head = head, .shrink = 1u | 1u << 2};
    struct line *line = NULL;
    size_t n = 0, i, j;
    json_t *d, *r;
    json_array_foreach(json_object_get(reply, "databases"), i, d) {
        json_t *replicas = json_object_get(d, "replicas");
        size_t rows = json_array_size(replicas);
        line = util_realloc(line, (n + rows + 1) * sizeof *line);
        for (j = 0; j < MAX(rows, (size_t)1); j++) {
            r = json_array_get(replicas, j);
            const char *state = status_row_state(d, r);
            enum out_tone tone = MAX(db_tone(state), replica_tone(r));
            line[n] = (struct line){d, r, MAX(tone, verify_tone(d)), num(r, "lag_ms"),
                                    num(r, "lag_bytes"), n, j == 0};
            n++;
        }
    }
    if (n)
        qsort(line, n, sizeof *line, worst_first);
    for (i = 0; i < n; i++)
        add_line(&t, &line[i], num(reply, "now_ms"));
    free(line);
    if (n)
        out_table_print(&t);
    out_table_done(&t);
}

enum status_exit status_exit_of(const json_t *reply)
{
    const char *state = str(reply, "state");
    return !strcmp(state, "healthy") ? STATUS_HEALTHY : !strcmp(state, "degraded") ? STATUS_DEGRADED : STATUS_FAILED;
}

/* "9990 replicating, 10 behind" */
static void print_counts(const json_t *reply)
{
    const char *state;
    json_t *n;
    bool first = true;
    json_object_foreach(json_object_get(reply, "counts"), state, n) {
        printf(first ? "%lld " : ", %lld ", (long long)json_integer_value(n));
        out_text(stdout, state);
        first = false;
    }
    (void)fputc('\n', stdout);
}

/* Of one database: how far back it can be restored, and from where. */
static void print_history(const json_t *reply)
{
    size_t i;
    uint64_t now = num(reply, "now_ms");
    const json_t *r, *db = json_array_get(json_object_get(reply, "databases"), 0);
    json_array_foreach(json_object_get(db, "replicas"), i, r) {
        char t[32], stamp[40];
        uint64_t snapshot = num(r, "snapshot_ms"), oldest = num(r, "oldest_ms");
        if (!snapshot)
            continue;
        printf(i ? "" : "\n");
        out_text(stdout, str(r, "target"));
        printf(": newest snapshot %s ago", out_short_duration(t, now > snapshot ? now - snapshot : 0));
        if (oldest)
            printf(", restorable back to %s", util_rfc3339(stamp, (int64_t)(oldest / 1000 * 1000)));
        (void)fputc('\n', stdout);
    }
}

static void print_verify(const json_t *reply)
{
    char t[32];
    const json_t *v = json_object_get(json_array_get(json_object_get(reply, "databases"), 0), "verify");
    uint64_t now = num(reply, "now_ms"), at = num(v, "time_ms");
    if (!json_is_object(v) || !strcmp(str(v, "result"), "unsafe") || !strcmp(str(v, "result"), "damaged"))
        return; /* said in the table */
    cleanup_buf struct buf b = BUF_INIT;
    if (at)
        buf_printf(&b, "verified %s ago", out_short_duration(t, now > at ? now - at : 0));
    if (!strcmp(str(v, "result"), "failed"))
        buf_printf(&b, "%snot verified now", at ? "; " : "");
    buf_printf(&b, ": %s", str(v, "text"));
    out_wrapped(stdout, 0, buf_str(&b));
}

static void print_watch(const json_t *reply)
{
    uint64_t scanned = num(json_object_get(reply, "watch"), "scanned_only");
    if (!scanned)
        return;
    cleanup_free char *line =
        util_printf("%llu directories have no inotify watch and are only scanned every few seconds "
                    "(raise fs.inotify.max_user_watches).", (unsigned long long)scanned);
    (void)fputc('\n', stdout);
    out_wrapped(stdout, 0, line);
}

static void print_lost(const json_t *reply)
{
    size_t i;
    json_t *p;
    json_array_foreach(json_object_get(reply, "lost_patterns"), i, p) {
        cleanup_free char *line = util_printf("[db %s] %s: %s; hint: %s", str(p, "section"),
                                              str(p, "path"), str(p, "detail"), str(p, "hint"));
        out_tone(stdout, OUT_WARN);
        out_wrapped(stdout, 0, line);
        out_tone(stdout, OUT_PLAIN);
    }
}

void status_print(const json_t *reply, bool one)
{
    static const enum out_tone tone[] = {OUT_GOOD, OUT_WARN, OUT_BAD};
    char up[32];
    size_t n = json_array_size(json_object_get(reply, "databases"));
    uint64_t now = num(reply, "now_ms"), started = num(reply, "started_ms");
    uint64_t total = one ? n : MAX(num(reply, "total"), (uint64_t)n);
    bool some = n < total;
    out_tone(stdout, tone[status_exit_of(reply)]);
    out_text(stdout, str(reply, "state"));
    out_tone(stdout, OUT_PLAIN);
    printf(": %llu database%s, walsupd ", (unsigned long long)total, total == 1 ? "" : "s");
    out_text(stdout, str(reply, "version"));
    printf(", pid %llu, up %s\n", (unsigned long long)num(reply, "pid"),
           out_short_duration(up, now > started ? now - started : 0));
    if (!one)
        print_lost(reply);
    if (!total && !json_array_size(json_object_get(reply, "lost_patterns"))) {
        out_wrapped(stdout, 0, "Nothing is replicated: walsupctl add FILE adds a database (walsup.ini(5) "
                               "has the rules for sections and patterns).");
        return;
    }
    if (some)
        print_counts(reply);
    if (n) {
        (void)fputc('\n', stdout);
        print_table(reply);
    }
    if (some)
        printf(n ? "\nThe worst are shown; --all shows all.\n" : "--all shows all.\n");
    if (one) {
        print_history(reply);
        print_verify(reply);
    }
    print_watch(reply);
}

/* what the options say; false: *ret_status is the end of it */
static bool options(struct ctl *c, struct status_ask *ask, bool *ret_watch, int *ret_status)
{
    static const struct option own[] = {{"all", no_argument, NULL, 'a'},
                                        {"watch", no_argument, NULL, 'w'},
                                        {"interval", required_argument, NULL, 'i'},
                                        {"states", no_argument, NULL, 's'},
                                        {"man", no_argument, NULL, 'm'},
                                        {NULL, 0, NULL, 0}};
    int o;
    ask->interval_ms = WATCH_MS;
    while ((o = ctl_option(c, own, ret_status)) >= 0)
        if (o == 'a') {
            ask->all = true;
        } else if (o == 's' || o == 'm') {
            *ret_status = status_states(c->json, o == 'm');
            return false;
        } else if (o == 'w') {
            *ret_watch = true;
        } else if (!conf_duration(optarg, &ask->interval_ms) || ask->interval_ms < 100) {
            *ret_status = ctl_usage_error(c, "--interval %s is not a time of at least 100ms, such as 2s", optarg);
            return false;
        }
    return o != CTL_STOP && ctl_operands(c, 0, 1, ret_status);
}

json_t *status_parameters(const struct status_ask *ask, bool json)
{
    json_t *p = json_object();
    if (ask->db)
        (void)json_object_set_new(p, "db", proto_text(ask->db));
    else if (!ask->all && !json)
        (void)json_object_set_new(p, "limit", json_integer(SHOW_AT_ONCE));
    return p;
}

int cmd_status(struct ctl *c)
{
    int status;
    bool watch = false;
    struct err e = {0};
    json_t *reply = NULL;
    struct status_ask ask = {0};
    if (!options(c, &ask, &watch, &status))
        return status;
    cleanup_free char *socket = NULL;
    cleanup_free char *name = optind < c->argc ? ctl_db_name(c, c->argv[optind]) : NULL;
    if (!ctl_socket(c, &socket, &status))
        return status;
    ask.socket = socket;
    ask.db = name;
    if (watch)
        return status_watch(&ask, c->json);
    if (client_call(socket, "Status", status_parameters(&ask, c->json), STATUS_TIMEOUT_MS, &reply, NULL, &e) < 0) {
        if (ask.db)
            ctl_suggest(socket, c->argv[optind], &e);
        status = out_fail(c->json, &e);
        return e.code == ERR_NET || e.code == ERR_TIMEOUT ? (int)STATUS_FAILED : status;
    }
    status = (int)status_exit_of(reply);
    if (c->json) {
        (void)out_json(reply);
        return status;
    }
    status_print(reply, ask.db != NULL);
    json_decref(reply);
    return status;
}

/* ---- list ----------------------------------------------------------------------------------- */

static json_t *section_json(const struct conf *conf, const struct conf_db *d)
{
    json_t *targets = json_array();
    for (size_t j = 0; j < d->n_replicas; j++)
        (void)json_array_append_new(targets,
                                    json_string(conf->target[d->replica[j].target].name));
    return json_pack("{s:s, s:s, s:s, s:b, s:o}", "name", d->name, "path", d->path, "section", d->name,
                     "pattern", d->glob != NULL, "targets", targets);
}

/* Sections; those that stand for many are replaced by what the daemon has found for them, as far as it
 * can be asked. */
static json_t *list_json(struct ctl *c, const struct conf *conf, const char *socket)
{
    json_t *all = json_array(), *found = NULL, *d;
    struct err e;
    size_t k;
    if (conf->n_patterns)
        (void)client_call(socket, "List", NULL, STATUS_TIMEOUT_MS, &found, NULL, &e);
    if (conf->n_patterns && !found && !c->json) {
        (void)err_hint(&e, "only the patterns are listed, not what they stand for");
        out_warning(&e);
    }
    for (size_t i = 0; i < conf->n_dbs; i++) {
        const struct conf_db *section = &conf->db[i];
        if (!section->glob || !found) {
            (void)json_array_append_new(all, section_json(conf, section));
            continue;
        }
        json_array_foreach(json_object_get(found, "databases"), k, d) {
            if (strcmp(str(d, "section"), section->name) != 0)
                continue;
            (void)json_object_set_new(d, "pattern", json_false());
            (void)json_array_append(all, d);
        }
    }
    json_decref(found);
    return all;
}

static char *target_names(const json_t *d)
{
    cleanup_buf struct buf b = BUF_INIT;
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(d, "targets"), i, t) {
        buf_printf(&b, "%s%s", i ? ", " : "", json_string_value(t) ? json_string_value(t) : "?");
    }
    return util_strdup(buf_str(&b));
}

int cmd_list(struct ctl *c)
{
    static const char *const head[] = {"DATABASE", "TARGETS", "PATH", NULL};
    int status;
    struct conf *conf = NULL;
    struct out_table t = {.head = head};
    size_t i;
    json_t *d;
    if (ctl_option(c, NULL, &status) == CTL_STOP || !ctl_operands(c, 0, 0, &status) ||
        !ctl_load(c, &conf, &status))
        return status;
    json_t *all = list_json(c, conf, c->socket ? c->socket : conf->socket);
    if (c->json) {
        (void)out_json(json_pack("{s:O}", "databases", all));
    } else if (!json_array_size(all)) {
        printf(conf->n_dbs ? "nothing matches the patterns in %s yet\n"
                           : "%s names no database: add a section [db NAME]\n",
               c->config);
    } else {
        json_array_foreach(all, i, d) {
            struct out_row *row = out_row(&t);
            row->cell[0] = json_is_true(json_object_get(d, "pattern"))
                               ? util_printf("[db %s]", str(d, "name"))
                               : util_strdup(str(d, "name"));
            row->cell[1] = target_names(d);
            row->cell[2] = util_strdup(str(d, "path"));
        }
        out_table_print(&t);
    }
    out_table_done(&t);
    json_decref(all);
    (void)conf_free(conf);
    return 0;
}
