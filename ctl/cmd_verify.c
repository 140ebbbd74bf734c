/* verify: is everything in the replicas what it claims to be, and the same as the source? The work is
 * common/store/verify.h's. Here: what to compare with, and what came of it. */
#include <errno.h>
#include <fcntl.h>

#include "common/format/name.h"
#include "common/store/verify.h"
#include "ctl/client.h"
#include "ctl/verify.h"

#define MAP_TIMEOUT_MS 40000
#define SYNC_TIMEOUT_MS 20000

enum { OPT_TARGET = 1, OPT_URL, OPT_TXID, OPT_ALL };

static const struct option own_option[] = {{"target", required_argument, NULL, OPT_TARGET},
                                           {"url", required_argument, NULL, OPT_URL},
                                           {"txid", required_argument, NULL, OPT_TXID},
                                           {"all", no_argument, NULL, OPT_ALL},
                                           {NULL, 0, NULL, 0}};

struct job {
    struct from from;
    struct verify_opts opts;
    bool all;
    int held;        /* the connection that the daemon's copy of the map lives with; -1 */
    json_t *status;  /* of the database, from the daemon; NULL: nobody to ask */
    char *no_map;    /* why there is nothing to compare with; NULL: there is */
};

/* ---- the source ------------------------------------------------------------------------------- */

static uint64_t hex_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? strtoull(text, NULL, 16) : 0;
}

static void no_map(struct job *j, const char *why)
{
    free(j->no_map);
    j->no_map = util_strdup(why);
}

static void ask_status(struct job *j, const char *socket)
{
    json_t *reply = NULL;
    struct err ignored;
    if (client_call(socket, "Status", json_pack("{s:o}", "db", proto_text(j->from.db_name)), MAP_TIMEOUT_MS,
                    &reply, NULL, &ignored) < 0)
        return;
    json_decref(j->status);
    j->status = json_incref(json_array_get(json_object_get(reply, "databases"), 0));
    json_decref(reply);
}

/* No use in waiting for it. */
static bool in_trouble(const struct job *j)
{
    size_t i;
    json_t *r;
    json_array_foreach(json_object_get(j->status, "replicas"), i, r)
        if (json_is_object(json_object_get(r, "error")))
            return true;
    return false;
}

/* Everything captured, and as far as possible uploaded; and a map of it. */
static int ask_daemon(struct job *j, const char *socket, struct err *e)
{
    json_t *reply = NULL, *synced = NULL;
    struct err ignored;
    int rc = client_call_held(socket, "PageMap", json_pack("{s:o}", "db", proto_text(j->from.db_name)),
                              MAP_TIMEOUT_MS, &reply, NULL, &j->held, e);
    if (rc < 0)
        return rc;
    const char *path = json_string_value(json_object_get(reply, "path"));
    j->opts.map_fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    j->opts.source_txid = hex_of(reply, "txid");
    if (j->opts.map_fd < 0)
        rc = err_sys(e, errno, "open the page map %s", path ? path : "?");
    ask_status(j, socket);
    /* what fails to be uploaded is said to be delayed */
    if (!in_trouble(j) &&
        client_call(socket, "Sync",
                    json_pack("{s:o, s:b, s:I}", "db", proto_text(j->from.db_name), "wait", 1,
                              "timeout_ms", (json_int_t)SYNC_TIMEOUT_MS),
                    SYNC_TIMEOUT_MS * 2, &synced, NULL, &ignored) == 0)
        json_decref(synced);
    json_decref(reply);
    return rc;
}

/* The daemon does not run: what it left behind, as far as it holds together. */
static bool map_on_disk(struct job *j, const char *state_dir)
{
    cleanup_free char *entry = name_dir(j->from.db_name);
    cleanup_free char *path = util_printf("%s/db/%s/pagemap", state_dir, entry);
    j->opts.map_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return j->opts.map_fd >= 0;
}

static void find_source(struct job *j)
{
    struct err e = {0};
    struct conf *conf = NULL;
    cleanup_free char *socket = NULL;
    int status;
    if (j->from.url || j->opts.txid) {
        no_map(j, j->from.url ? "with --url there is no source to ask"
                              : "only what leads to an earlier TXID was asked for");
        return;
    }
    if (!ctl_socket(j->from.c, &socket, &status))
        return;
    int rc = ask_daemon(j, socket, &e);
    if (rc == 0 || e.code != ERR_NET)
        ask_status(j, socket);
    if (rc == 0)
        return;
    no_map(j, e.msg);
    if (e.code != ERR_NET || conf_load(j->from.c->config, &conf, NULL, &e) < 0)
        return;
    if (map_on_disk(j, conf->state_dir)) {
        free(j->no_map);
        j->no_map = NULL;
    }
    (void)conf_free(conf);
}

static uint64_t acked_by(const struct job *j, const char *target)
{
    size_t i;
    json_t *r;
    json_array_foreach(json_object_get(j->status, "replicas"), i, r) {
        const char *name = json_string_value(json_object_get(r, "target"));
        if (name && target && !strcmp(name, target))
            return hex_of(r, "txid");
    }
    return 0;
}

/* ---- the verb --------------------------------------------------------------------------------- */

struct run {
    struct job *j;
    struct verify_opts opts;
    struct verify_result result;
};

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct from *f = arg;
    out_progress(&f->progress, phase, done, total);
}

static int run(struct store *s, void *arg, struct err *e)
{
    struct run *x = arg;
    return verify_run(&x->j->from.loop, s, &x->opts, on_progress, &x->j->from, &x->result, e);
}

/* One replica; its exit status. */
static int verify_one(struct job *j, const struct from_replica *r, json_t *all)
{
    struct run x = {.j = j, .opts = j->opts};
    struct err e = {0};
    cleanup_free char *where = NULL;
    x.opts.replica = r->replica;
    x.opts.acked = acked_by(j, r->name);
    int rc = from_store(&j->from, r, run, &x, &where, &e);
    if (rc != 0) {
        if (r->name)
            (void)err_wrap(&e, "target %s", r->name);
        if (!j->from.c->json)
            out_error(&e);
        else
            (void)json_array_append_new(all, json_pack("{s:s?, s:{s:s, s:s, s:s}}", "target", r->name, "error",
                                                       "code", err_name(e.code), "message", e.msg, "hint",
                                                       e.hint));
        return err_exit_status(e.code);
    }
    if (j->from.c->json)
        (void)json_array_append_new(all, verify_json(&x.result, r->name, where, j->no_map, j->all));
    else
        verify_print(&x.result, j->from.db_name, r->name, where, j->no_map, j->all);
    int status = verify_status(&x.result);
    verify_result_done(&x.result);
    return status;
}

static int verify(struct job *j)
{
    json_t *all = json_array();
    int worst = 0;
    find_source(j);
    for (size_t i = 0; i < j->from.n; i++) {
        if (i && !j->from.c->json)
            (void)fputc('\n', stdout);
        int status = verify_one(j, &j->from.replica[i], all);
        worst = MAX(worst, status);
    }
    if (j->from.c->json)
        (void)out_json(json_pack("{s:s, s:i, s:o}", "database", j->from.db_name, "status", worst, "replicas", all));
    else
        json_decref(all);
    if (j->opts.map_fd >= 0)
        (void)close(j->opts.map_fd);
    if (j->held >= 0)
        (void)close(j->held);
    json_decref(j->status);
    free(j->no_map);
    return worst;
}

static bool take_txid(struct job *j, int *ret_status)
{
    char *end;
    errno = 0;
    j->opts.txid = strtoull(optarg, &end, 16);
    if (!errno && !*end && j->opts.txid && strspn(optarg, "0123456789abcdefABCDEF") == strlen(optarg))
        return true;
    *ret_status = ctl_usage_error(j->from.c, "--txid %s is not a TXID: hexadecimal digits, as in the status",
                                  optarg);
    return false;
}

int cmd_verify(struct ctl *c)
{
    struct job j = {.from = {.c = c}, .opts = {.map_fd = -1}, .held = -1};
    int status = 0, o;
    while ((o = ctl_option(c, own_option, &status)) >= 0) {
        if (o == OPT_TARGET)
            j.from.target = optarg;
        else if (o == OPT_URL)
            j.from.url = optarg;
        else if (o == OPT_ALL)
            j.all = true;
        else if (!take_txid(&j, &status))
            return status;
    }
    if (o == CTL_STOP || !ctl_operands(c, 0, 1, &status))
        return status;
    const char *tmp = getenv("TMPDIR");
    j.opts.tmp_dir = tmp && *tmp ? tmp : NULL;
    if (from_open(&j.from, &status))
        status = verify(&j);
    from_done(&j.from);
    return status;
}
