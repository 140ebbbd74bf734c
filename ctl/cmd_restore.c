/* restore: which replica, how, and what came of it. The work is common/store/restore.h's. */
#include "ctl/ctl.h"

#include <errno.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "common/format/proto.h"
#include "common/store/restore.h"
#include "ctl/out.h"

/* somewhere the database can be restored from */
struct candidate {
    const char *name; /* of the target; NULL: --url */
    const struct conf_target *target;
    char *replica;
};

struct job {
    struct ctl *c;
    uv_loop_t loop;
    struct conf *conf;
    struct conf_found found;
    struct conf_target url_target;
    const char *url, *target, *output;
    char *output_path;
    const char *db_name; /* as it is called in messages */
    struct candidate *from;
    size_t n;
    struct restore_opts opts;
    bool if_db_not_exists, if_replica_exists;
    struct out_progress progress;
};

enum { OPT_TARGET = 1, OPT_URL, OPT_TXID, OPT_DRY_RUN, OPT_FORCE, OPT_IF_NO_DB, OPT_IF_REPLICA,
       OPT_CHECK, OPT_PARALLEL };

static const struct option own_option[] = {
    {"output", required_argument, NULL, 'o'},
    {"target", required_argument, NULL, OPT_TARGET},
    {"url", required_argument, NULL, OPT_URL},
    {"txid", required_argument, NULL, OPT_TXID},
    {"dry-run", no_argument, NULL, OPT_DRY_RUN},
    {"force", no_argument, NULL, OPT_FORCE},
    {"if-db-not-exists", no_argument, NULL, OPT_IF_NO_DB},
    {"if-replica-exists", no_argument, NULL, OPT_IF_REPLICA},
    {"integrity-check", required_argument, NULL, OPT_CHECK},
    {"parallel", required_argument, NULL, OPT_PARALLEL},
    {NULL, 0, NULL, 0}};

static const char *const check_name[] = {
    [RESTORE_CHECK_QUICK] = "quick", [RESTORE_CHECK_FULL] = "full", [RESTORE_CHECK_NONE] = "none"};

static bool parse_number(const char *text, int base, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, base);
    if (errno || *end || *text == '-' || *text == '+' || *text == ' ' || !*text || !v || v > max)
        return false;
    *ret = v;
    return true;
}

/* true: the option was understood */
static bool take_option(struct job *j, int o, int *ret_status)
{
    uint64_t v;
    switch (o) {
    case 'o':
        j->output = optarg;
        return true;
    case OPT_TARGET:
        j->target = optarg;
        return true;
    case OPT_URL:
        j->url = optarg;
        return true;
    case OPT_DRY_RUN:
        j->opts.dry_run = true;
        return true;
    case OPT_FORCE:
        j->opts.force = true;
        return true;
    case OPT_IF_NO_DB:
        j->if_db_not_exists = true;
        return true;
    case OPT_IF_REPLICA:
        j->if_replica_exists = true;
        return true;
    case OPT_TXID:
        if (parse_number(optarg, 16, UINT64_MAX, &j->opts.txid))
            return true;
        *ret_status = ctl_usage_error(j->c, "--txid %s is not a TXID: hexadecimal digits, as in "
                                      "the status", optarg);
        return false;
    case OPT_PARALLEL:
        if (parse_number(optarg, 10, 256, &v)) {
            j->opts.parallel = (unsigned)v;
            return true;
        }
        *ret_status = ctl_usage_error(j->c, "--parallel %s is not a number from 1 to 256", optarg);
        return false;
    default:
        for (size_t i = 0; i < ARRAY_LEN(check_name); i++)
            if (!strcmp(optarg, check_name[i])) {
                j->opts.check = (enum restore_check)i;
                return true;
            }
        *ret_status =
            ctl_usage_error(j->c, "--integrity-check %s is none of quick, full, none", optarg);
        return false;
    }
}

static bool from_url(struct job *j, int *ret_status)
{
    struct err e = {0};
    if (j->target) {
        *ret_status = ctl_usage_error(j->c, "--url and --target exclude each other");
        return false;
    }
    if (!j->output) {
        *ret_status = ctl_usage_error(j->c, "--url needs -o FILE");
        return false;
    }
    if (conf_parse_url(j->url, &j->url_target, &e) < 0) {
        (void)err_wrap(&e, "--url");
        *ret_status = out_fail(j->c->json, &e);
        return false;
    }
    const char *last = strrchr(j->url_target.path, '/');
    j->db_name = optind < j->c->argc ? j->c->argv[optind] : last ? last + 1 : j->url_target.path;
    if (!*j->db_name)
        j->db_name = j->url_target.bucket;
    j->from = util_zalloc(sizeof *j->from);
    j->from[0] = (struct candidate){NULL, &j->url_target, util_strdup("")};
    j->n = 1;
    return true;
}

static bool from_conf(struct job *j, int *ret_status)
{
    struct err e = {0};
    if (optind == j->c->argc) {
        *ret_status = ctl_usage_error(j->c, "which database? Name it, or give --url and -o");
        return false;
    }
    if (!ctl_load(j->c, &j->conf, ret_status))
        return false;
    if (ctl_resolve(j->c, j->conf, j->c->argv[optind], &j->found, &e) < 0) {
        *ret_status = out_fail(j->c->json, &e);
        return false;
    }
    const struct conf_db *d = j->found.db;
    j->db_name = j->found.name;
    j->output = j->output ? j->output : j->found.path;
    j->from = util_zalloc(d->n_replicas * sizeof *j->from);
    for (size_t i = 0; i < d->n_replicas; i++) {
        const struct conf_target *t = &j->conf->target[d->replica[i].target];
        if (!j->target || !strcmp(j->target, t->name))
            j->from[j->n++] = (struct candidate){
                t->name, t, conf_replica_path(d, &d->replica[i], j->found.path)};
    }
    if (j->n)
        return true;
    (void)err_set(&e, ERR_NOTFOUND, "database '%s' is not replicated to a target '%s'", j->db_name,
                  j->target);
    (void)err_hint(&e, "its targets are shown by walsupctl list");
    *ret_status = out_fail(j->c->json, &e);
    return false;
}

/* ---- stores --------------------------------------------------------------------------------- */

static void close_store(struct job *j, struct store *s)
{
    store_close(s, NULL, NULL);
    (void)uv_run(&j->loop, UV_RUN_DEFAULT);
}

struct look {
    struct store_req req;
    bool done;
    uint64_t objects;
};

static void look_done(struct store_req *req)
{
    ((struct look *)req->data)->done = true;
}

static int look_item(void *arg, const struct store_object *o, struct err *e)
{
    struct look *l = arg;
    (void)o;
    l->objects++;
    return err_set(e, ERR_CANCELED, "seen enough");
}

/* whether the replica is empty for certain. "Not found" may also mean that the bucket is missing,
 * and taking that for "nothing to restore" would let an application start with an empty database */
static bool surely_empty(struct job *j, struct store *s, const char *replica)
{
    struct look l = {.req = {.done = look_done, .data = NULL}};
    cleanup_free char *prefix = *replica ? util_printf("%s/", replica) : util_strdup("");
    l.req.data = &l;
    store_list(s, &l.req, prefix, NULL, look_item, &l);
    while (!l.done)
        (void)uv_run(&j->loop, UV_RUN_ONCE);
    return l.req.err.code == ERR_OK && l.objects == 0;
}

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct job *j = arg;
    out_progress(&j->progress, phase, done, total);
}

/* 0, 1 when the replica is empty, or an error */
static int run_one(struct job *j, const struct candidate *from, const struct restore_opts *opts,
                   struct restore_result *ret, char **ret_where, struct err *e)
{
    struct store *s;
    int rc = store_open(&j->loop, from->target, &s, e);
    if (rc < 0)
        return rc;
    if (ret_where)
        *ret_where = util_strdup(store_describe(s));
    struct restore_opts o = *opts;
    o.replica = from->replica;
    rc = restore_run(&j->loop, s, &o, on_progress, j, ret, e);
    out_progress_end(&j->progress);
    if (rc < 0 && e->code == ERR_NOTFOUND && surely_empty(j, s, from->replica))
        rc = 1;
    close_store(j, s);
    return rc;
}

/* the candidate that is furthest; what is wrong with the others is said. 1: all are empty */
static int choose(struct job *j, size_t *ret, struct err *e)
{
    struct err first = {0};
    uint64_t best = 0;
    size_t failed = 0;
    struct restore_opts look = j->opts;
    look.dry_run = true;
    if (j->n == 1) {
        *ret = 0;
        return 0;
    }
    for (size_t i = 0; i < j->n; i++) {
        struct restore_result r = {0};
        struct err one = {0};
        int rc = run_one(j, &j->from[i], &look, &r, NULL, &one);
        if (rc == 0 && r.txid > best) {
            best = r.txid;
            *ret = i;
        }
        if (rc == 0)
            restore_result_done(&r);
        if (rc >= 0)
            continue;
        if (one.code == ERR_EXISTS) { /* about the output: the same for every target */
            *e = one;
            return rc;
        }
        (void)err_wrap(&one, "target %s", j->from[i].name);
        if (!failed++)
            first = one;
        out_warning(&one);
    }
    if (best)
        return 0;
    if (!failed)
        return 1;
    *e = first;
    (void)err_wrap(e, "no replica of %s can be used", j->db_name);
    return -(int)e->code;
}

/* ---- what is printed ------------------------------------------------------------------------ */

static json_t *result_json(const struct job *j, const struct candidate *from,
                           const struct restore_result *r, const char *where, uint64_t took_ms)
{
    char txid[17], lineage[17];
    json_t *files = json_array();
    (void)snprintf(txid, sizeof txid, "%016llx", (unsigned long long)r->txid);
    (void)snprintf(lineage, sizeof lineage, "%016llx", (unsigned long long)r->lineage);
    for (size_t i = 0; i < r->n_files; i++) {
        char min[17], max[17];
        (void)snprintf(min, sizeof min, "%016llx", (unsigned long long)r->file[i].min);
        (void)snprintf(max, sizeof max, "%016llx", (unsigned long long)r->file[i].max);
        (void)json_array_append_new(
            files, json_pack("{s:i, s:s, s:s, s:I, s:I}", "level", (int)r->file[i].level, "min",
                             min, "max", max, "size", (json_int_t)r->file[i].size, "mtime_ms",
                             (json_int_t)r->file[i].mtime_ms));
    }
    json_t *o = json_pack("{s:b, s:b, s:s, s:o, s:s?, s:s, s:s, s:s}", "restored",
                          !j->opts.dry_run, "dry_run", (int)j->opts.dry_run, "database",
                          j->db_name, "output", proto_text(j->output_path), "target", from->name, "location",
                          where, "txid", txid, "lineage", lineage);
    (void)json_object_update_new(
        o, json_pack("{s:I, s:I, s:I, s:i, s:I, s:s, s:o}", "timestamp_ms",
                     (json_int_t)r->timestamp_ms, "fetched_bytes", (json_int_t)r->bytes,
                     "database_bytes", (json_int_t)r->database_bytes, "page_size",
                     (int)r->page_size, "elapsed_ms", (json_int_t)took_ms, "integrity_check",
                     check_name[j->opts.check], "files", files));
    if (!j->opts.dry_run) {
        char sum[17];
        (void)snprintf(sum, sizeof sum, "%016llx", (unsigned long long)r->checksum);
        (void)json_object_update_new(
            o, json_pack("{s:s, s:s}", "checksum", r->verified ? "verified" : "absent",
                         "database_checksum", sum));
    }
    return o;
}

static void print_plan(const struct job *j, const struct restore_result *r, const char *where)
{
    char size[32], stamp[40];
    printf("%s would be restored to %s\nfrom %s\nup to TXID %016llx", j->db_name, j->output_path,
           where, (unsigned long long)r->txid);
    if (r->n_files && r->file[r->n_files - 1].mtime_ms)
        printf(" (stored %s)", util_rfc3339(stamp, r->file[r->n_files - 1].mtime_ms));
    printf(", fetching %s in %zu file%s:\n", util_size(size, r->bytes), r->n_files,
           r->n_files == 1 ? "" : "s");
    for (size_t i = 0; i < r->n_files; i++)
        printf("  level %u  %016llx-%016llx  %s\n", r->file[i].level,
               (unsigned long long)r->file[i].min, (unsigned long long)r->file[i].max,
               util_size(size, r->file[i].size));
}

static void print_result(const struct job *j, const struct candidate *from,
                         const struct restore_result *r, const char *where, uint64_t took_ms)
{
    static const char *const checked[] = {[RESTORE_CHECK_QUICK] = "quick_check ok",
                                          [RESTORE_CHECK_FULL] = "integrity_check ok",
                                          [RESTORE_CHECK_NONE] = "integrity not checked"};
    char size[32], took[32], stamp[40];
    printf("restored %s at TXID %016llx", j->db_name, (unsigned long long)r->txid);
    if (r->timestamp_ms)
        printf(" (%s)", util_rfc3339(stamp, r->timestamp_ms));
    printf(from->name ? " from %s (%s)" : " from %s%s", from->name ? from->name : where,
           from->name ? where : "");
    printf(": %s to %s in %s, %s\n", util_size(size, r->database_bytes), j->output_path,
           util_duration(took, took_ms), checked[j->opts.check]);
    if (r->verified)
        printf("verified: the database checksum is the source's, %016llx\n",
               (unsigned long long)r->checksum);
    else
        printf("not verified against the source's checksum: the replica carries none\n");
}

static int nothing_done(const struct job *j, const char *why)
{
    if (j->c->json)
        return out_json(json_pack("{s:b, s:s, s:o, s:s}", "restored", 0, "database", j->db_name,
                                  "output", proto_text(j->output_path), "reason", why));
    printf("%s: %s, nothing to do\n", j->db_name, why);
    return 0;
}

static int restore(struct job *j)
{
    struct err e = {0};
    struct stat st;
    size_t which = 0;
    struct restore_result r = {0};
    cleanup_free char *where = NULL;
    j->output_path = ctl_absolute(j->output);
    j->opts.output = j->output_path;
    bool exists = stat(j->output_path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode)) {
        (void)err_set(&e, ERR_EXISTS, "%s is a directory", j->output_path);
        (void)err_hint(&e, "name the file to create in it");
        return out_fail(j->c->json, &e);
    }
    if (exists && j->if_db_not_exists)
        return nothing_done(j, "the file exists");
    if (exists && !j->opts.force && !j->opts.dry_run) { /* known before any target is asked */
        (void)err_set(&e, ERR_EXISTS, "%s is there already", j->output_path);
        (void)err_hint(&e, "restore to another path with -o, move it away, or replace it with "
                           "--force");
        return out_fail(j->c->json, &e);
    }
    uint64_t start_ms = clk_mono_ms();
    int rc = choose(j, &which, &e);
    if (rc == 0)
        rc = run_one(j, &j->from[which], &j->opts, &r, &where, &e);
    if (rc == 1 && j->if_replica_exists)
        return nothing_done(j, "the replica is empty");
    if (rc == 1 && !*e.msg) {
        (void)err_set(&e, ERR_NOTFOUND, "no target has a replica of %s", j->db_name);
        (void)err_hint(&e, "walsupctl status shows whether it was ever replicated");
    }
    if (rc != 0)
        return out_fail(j->c->json, &e);
    uint64_t took_ms = clk_mono_ms() - start_ms;
    if (j->c->json)
        (void)out_json(result_json(j, &j->from[which], &r, where, took_ms));
    else if (j->opts.dry_run)
        print_plan(j, &r, where);
    else
        print_result(j, &j->from[which], &r, where, took_ms);
    restore_result_done(&r);
    return 0;
}

int cmd_restore(struct ctl *c)
{
    struct job j = {.c = c};
    int status = 0, o;
    while ((o = ctl_option(c, own_option, &status)) >= 0)
        if (!take_option(&j, o, &status))
            return status;
    if (o == CTL_STOP || !ctl_operands(c, 0, 1, &status))
        return status;
    j.progress.quiet = c->json;
    /* reading, decompressing and checking happen on libuv's workers: one for each processor */
    char workers[16];
    (void)snprintf(workers, sizeof workers, "%ld", MAX(sysconf(_SC_NPROCESSORS_ONLN), 4L));
    (void)setenv("UV_THREADPOOL_SIZE", workers, 0);
    (void)uv_loop_init(&j.loop);
    if (j.url ? from_url(&j, &status) : from_conf(&j, &status))
        status = restore(&j);
    (void)uv_run(&j.loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&j.loop);
    if (j.url)
        conf_target_done(&j.url_target);
    for (size_t i = 0; i < j.n; i++)
        free(j.from[i].replica);
    free(j.from);
    conf_found_done(&j.found);
    (void)conf_free(j.conf);
    free(j.output_path);
    return status;
}
