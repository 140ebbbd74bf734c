/* restore: which replica, how, and what came of it. The work is common/store/restore.h's. */
#include "ctl/ctl.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "common/format/proto.h"
#include "common/format/when.h"
#include "ctl/follow.h"
#include "ctl/from.h"
#include "ctl/hold.h"
#include "ctl/restore_pattern.h"

#define FOLLOW_MS 1000u

struct job {
    struct ctl *c;
    struct from from;
    const char *output;
    char *output_path;
    struct restore_opts opts;
    bool if_db_not_exists, if_replica_exists;
    bool follow;
    uint64_t follow_ms;
};

enum { OPT_TARGET = 1, OPT_URL, OPT_TXID, OPT_DRY_RUN, OPT_FORCE, OPT_IF_NO_DB, OPT_IF_REPLICA,
       OPT_CHECK, OPT_PARALLEL, OPT_TIMESTAMP, OPT_GENERATION, OPT_NO_RESUME, OPT_FOLLOW, OPT_FOLLOW_INTERVAL,
       OPT_FORCE_IN_USE };

static const struct option own_option[] = {
    {"output", required_argument, NULL, 'o'},
    {"target", required_argument, NULL, OPT_TARGET},
    {"url", required_argument, NULL, OPT_URL},
    {"txid", required_argument, NULL, OPT_TXID},
    {"timestamp", required_argument, NULL, OPT_TIMESTAMP},
    {"generation", required_argument, NULL, OPT_GENERATION},
    {"dry-run", no_argument, NULL, OPT_DRY_RUN},
    {"force", no_argument, NULL, OPT_FORCE},
    {"force-in-use", no_argument, NULL, OPT_FORCE_IN_USE},
    {"if-db-not-exists", no_argument, NULL, OPT_IF_NO_DB},
    {"if-replica-exists", no_argument, NULL, OPT_IF_REPLICA},
    {"integrity-check", required_argument, NULL, OPT_CHECK},
    {"parallel", required_argument, NULL, OPT_PARALLEL},
    {"no-resume", no_argument, NULL, OPT_NO_RESUME},
    {"follow", no_argument, NULL, OPT_FOLLOW},
    {"follow-interval", required_argument, NULL, OPT_FOLLOW_INTERVAL},
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
        if (!strstr(optarg, "://"))
            return true;
        *ret_status = ctl_usage_error(j->c, "-o %s is a url: -o takes the file to create", optarg);
        return false;
    case OPT_TARGET:
        j->from.target = optarg;
        return true;
    case OPT_URL:
        j->from.url = optarg;
        return true;
    case OPT_DRY_RUN:
        j->opts.dry_run = true;
        return true;
    case OPT_FORCE:
        j->opts.force = true;
        return true;
    case OPT_FORCE_IN_USE:
        j->opts.force = j->opts.in_use = true;
        return true;
    case OPT_NO_RESUME:
        j->opts.no_resume = true;
        return true;
    case OPT_FOLLOW:
        j->follow = true;
        return true;
    case OPT_FOLLOW_INTERVAL:
        if (conf_duration(optarg, &j->follow_ms) && j->follow_ms && j->follow_ms <= 24 * 3600 * 1000)
            return true;
        *ret_status = ctl_usage_error(j->c, "--follow-interval %s is not a duration up to 24h, as in 1s",
                                      optarg);
        return false;
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
    case OPT_TIMESTAMP:
        j->opts.by_time = true;
        return from_time(j->c, "--timestamp", optarg, &j->opts.until_ms, ret_status);
    case OPT_GENERATION:
        j->opts.generation = optarg;
        return from_generation(j->c, optarg, ret_status);
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

/* ---- what is printed ------------------------------------------------------------------------ */

static json_t *files_json(const struct restore_result *r)
{
    json_t *files = json_array();
    for (size_t i = 0; i < r->n_files; i++) {
        const struct restore_file *f = &r->file[i];
        char min[17], max[17];
        (void)snprintf(min, sizeof min, r->v3 ? "%08llx" : "%016llx", (unsigned long long)f->min);
        (void)snprintf(max, sizeof max, r->v3 ? "%08llx" : "%016llx", (unsigned long long)f->max);
        json_t *o = r->v3 && f->level ? json_pack("{s:s, s:s}", "kind", "snapshot", "index", min)
                    : r->v3 ? json_pack("{s:s, s:s, s:s}", "kind", "wal", "index", min, "offset", max)
                            : json_pack("{s:i, s:s, s:s}", "level", (int)f->level, "min", min, "max",
                                        max);
        (void)json_object_update_new(o, json_pack("{s:I, s:I}", "size", (json_int_t)f->size,
                                                  "mtime_ms", (json_int_t)f->mtime_ms));
        (void)json_array_append_new(files, o);
    }
    return files;
}

static json_t *result_json(const struct job *j, const struct from_replica *from,
                           const struct restore_result *r, const char *where, uint64_t took_ms)
{
    char txid[17], lineage[17], stamp[OUT_MOMENT_SIZE];
    (void)snprintf(txid, sizeof txid, "%016llx", (unsigned long long)r->txid);
    (void)snprintf(lineage, sizeof lineage, "%016llx", (unsigned long long)r->lineage);
    json_t *o = json_pack("{s:b, s:b, s:s, s:o, s:s?, s:s, s:s, s:s}", "restored",
                          !j->opts.dry_run, "dry_run", (int)j->opts.dry_run, "database",
                          j->from.db_name, "output", proto_text(j->output_path), "target", from->name,
                          "location", where, "txid", txid, "lineage", lineage);
    (void)json_object_update_new(
        o, json_pack("{s:I, s:I, s:I, s:i, s:I, s:s, s:s, s:o}", "timestamp_ms",
                     (json_int_t)r->timestamp_ms, "fetched_bytes", (json_int_t)r->bytes,
                     "database_bytes", (json_int_t)r->database_bytes, "page_size",
                     (int)r->page_size, "elapsed_ms", (json_int_t)took_ms, "integrity_check",
                     check_name[j->opts.check], "format", r->v3 ? "litestream-v0.3" : "ltx", "files",
                     files_json(r)));
    if (r->timestamp_ms)
        (void)json_object_set_new(o, "timestamp", json_string(out_moment(stamp, r->timestamp_ms)));
    (void)json_object_set_new(o, "kept_bytes", json_integer((json_int_t)r->kept_bytes));
    if (r->v3) {
        (void)json_object_del(o, "txid");
        (void)json_object_update_new(o, json_pack("{s:s, s:I}", "generation", r->generation,
                                                  "dropped_bytes", (json_int_t)r->dropped_bytes));
    }
    if (j->opts.by_time)
        (void)json_object_set_new(o, "asked_ms", json_integer((json_int_t)j->opts.until_ms));
    if (r->next_txid) {
        (void)snprintf(txid, sizeof txid, "%016llx", (unsigned long long)r->next_txid);
        (void)json_object_set_new(o, "next", json_pack("{s:s, s:I}", "txid", txid, "timestamp_ms",
                                                       (json_int_t)r->next_ms));
    }
    if (r->set_back_txid) {
        (void)snprintf(txid, sizeof txid, "%016llx", (unsigned long long)r->set_back_txid);
        (void)json_object_set_new(o, "clock_set_back",
                                  json_pack("{s:s, s:I, s:I}", "txid", txid, "from_ms", (json_int_t)r->set_back_from_ms,
                                            "to_ms", (json_int_t)r->set_back_to_ms));
    }
    if (!j->opts.dry_run) {
        char sum[17];
        (void)snprintf(sum, sizeof sum, "%016llx", (unsigned long long)r->checksum);
        (void)json_object_set_new(o, "checksum", json_string(r->verified ? "verified" : "absent"));
        if (*r->not_resumed)
            (void)json_object_set_new(o, "not_resumed", json_string(r->not_resumed));
        if (*r->note.text)
            (void)json_object_set_new(o, r->note.unchecked ? "unchecked" : "forbidden_values",
                                      json_string(r->note.text));
        if (r->checksum)
            (void)json_object_set_new(o, "database_checksum", json_string(sum));
    }
    return o;
}

/* "TXID ... of <time>", or what stands for it in v0.3 */
static void add_point(const struct restore_result *r, struct buf *b)
{
    char stamp[WHEN_TEXT_SIZE], utc[OUT_MOMENT_SIZE];
    const struct restore_file *last = &r->file[r->n_files - 1];
    if (!r->v3) {
        buf_printf(b, "TXID %016llx", (unsigned long long)r->txid);
        if (r->timestamp_ms)
            buf_printf(b, " of %s", out_moment(utc, r->timestamp_ms));
        else if (last->mtime_ms)
            buf_printf(b, " (stored %s)", when_text(stamp, last->mtime_ms));
        return;
    }
    buf_printf(b, "generation %s, ", r->generation);
    if (r->n_files == 1)
        buf_printf(b, "snapshot %08llx", (unsigned long long)last->min);
    else
        buf_printf(b, "WAL %08llx_%08llx", (unsigned long long)last->min, (unsigned long long)last->max);
    buf_printf(b, ", stored %s", when_text(stamp, r->timestamp_ms));
}

/* what was asked for, and how it fits with what was found */
static void add_asked(const struct job *j, const struct restore_result *r, struct buf *b)
{
    char asked[WHEN_TEXT_SIZE], stamp[WHEN_TEXT_SIZE];
    if (!j->opts.by_time)
        return;
    buf_printf(b, "asked for: %s\n", when_text(asked, j->opts.until_ms));
    if (r->timestamp_ms)
        buf_printf(b, "restored:  %s\n", when_text(stamp, r->timestamp_ms));
    if (r->v3)
        buf_printf(b, "the time is when objects were stored, which is up to a sync interval after the commit\n");
    else if (r->next_txid)
        buf_printf(b, "the next point is TXID %016llx of %s\n", (unsigned long long)r->next_txid,
               when_text(stamp, r->next_ms));
    else
        buf_printf(b, "nothing newer is in the replica\n");
    if (r->set_back_txid) {
        buf_printf(b, "warning: the clock was set back at TXID %016llx, from %s", (unsigned long long)r->set_back_txid,
               when_text(stamp, r->set_back_from_ms));
        buf_printf(b, " to %s, so this time may have passed twice; this is the newest state whose own time is not after it. "
               "walsupctl points shows the others, and --txid restores them\n", when_text(stamp, r->set_back_to_ms));
    }
}

static void add_plan(const struct job *j, const struct restore_result *r, const char *where, struct buf *b)
{
    char size[32];
    buf_printf(b, "%s would be restored to %s\nfrom %s\nup to ", j->from.db_name, j->output_path, where);
    add_point(r, b);
    buf_printf(b, ", fetching %s in %zu file%s:\n", util_size(size, r->bytes), r->n_files,
           r->n_files == 1 ? "" : "s");
    for (size_t i = 0; i < r->n_files; i++) {
        const struct restore_file *f = &r->file[i];
        (void)util_size(size, f->size);
        if (r->v3 && f->level)
            buf_printf(b, "  snapshot %08llx  %s\n", (unsigned long long)f->min, size);
        else if (r->v3)
            buf_printf(b, "  WAL %08llx_%08llx  %s\n", (unsigned long long)f->min,
                   (unsigned long long)f->max, size);
        else
            buf_printf(b, "  level %u  %016llx-%016llx  %s\n", f->level, (unsigned long long)f->min,
                   (unsigned long long)f->max, size);
    }
    add_asked(j, r, b);
}

/* The lost file's mode and owner are not in the replica. */
static void add_access(const struct job *j, struct buf *b)
{
    struct stat st;
    if (j->opts.force || stat(j->output_path, &st) < 0)
        return;
    const struct passwd *user = getpwuid(st.st_uid);
    const struct group *group = getgrgid(st.st_gid);
    buf_printf(b, "access: mode %04o, owner ", (unsigned)(st.st_mode & 07777));
    if (user)
        buf_printf(b, "%s:", user->pw_name);
    else
        buf_printf(b, "%u:", (unsigned)st.st_uid);
    if (group)
        buf_add_str(b, group->gr_name);
    else
        buf_printf(b, "%u", (unsigned)st.st_gid);
    buf_add_str(b, " (a replica knows neither)\n");
}

static void add_result(const struct job *j, const struct from_replica *from, const struct restore_result *r,
                       const char *where, uint64_t took_ms, struct buf *b)
{
    static const char *const checked[] = {[RESTORE_CHECK_QUICK] = "quick_check ok",
                                          [RESTORE_CHECK_FULL] = "integrity_check ok",
                                          [RESTORE_CHECK_NONE] = "integrity not checked"};
    char size[32], took[32];
    buf_printf(b, "restored %s at ", j->from.db_name);
    add_point(r, b);
    buf_printf(b, from->name ? " from %s (%s)" : " from %s%s", from->name ? from->name : where,
           from->name ? where : "");
    buf_printf(b, ": %s to %s in %s, ", util_size(size, r->database_bytes), j->output_path, util_duration(took, took_ms));
    if (r->note.unchecked)
        buf_printf(b, "%scould not be checked by SQLite: ", r->verified ? "checksum verified; " : "");
    else
        buf_printf(b, "%s%s", checked[j->opts.check], *r->note.text ? ", but for values that its schema forbids: " : "");
    buf_printf(b, "%s\n", r->note.text);
    buf_printf(b, "fetched: %s in %zu file%s", util_size(size, r->bytes), r->n_files,
           r->n_files == 1 ? "" : "s");
    if (r->kept_bytes)
        buf_printf(b, "; %s were there from an interrupted restore", util_size(size, r->kept_bytes));
    buf_printf(b, "\n");
    if (*r->not_resumed)
        buf_printf(b, "not gone on with what lay beside the output: %s\n", r->not_resumed);
    if (r->dropped_bytes)
        buf_printf(b, "the last %llu bytes of the WAL are no whole transaction and were left out\n",
               (unsigned long long)r->dropped_bytes);
    add_asked(j, r, b);
    if (r->verified)
        buf_printf(b, "verified: the database checksum is the source's, %016llx\n",
               (unsigned long long)r->checksum);
    else
        buf_printf(b, "not verified against the source's checksum: the replica carries none\n");
    add_access(j, b);
}

static int nothing_done(const struct job *j, const char *why)
{
    if (j->c->json)
        return out_json(json_pack("{s:b, s:s, s:o, s:s}", "restored", 0, "database", j->from.db_name,
                                  "output", proto_text(j->output_path), "reason", why));
    printf("%s: %s, nothing to do\n", j->from.db_name, why);
    return 0;
}

static int follow(struct job *j)
{
    struct err e = {0};
    size_t which = 0;
    if (!j->output && !j->from.url) /* the path of the application's own database */
        return ctl_usage_error(j->c, "--follow needs -o FILE, for the copy");
    struct restore_opts look = j->opts;
    look.force = true; /* the output is looked at later */
    int rc = from_choose(&j->from, &look, &which, &e);
    if (rc == 1)
        (void)err_set(&e, ERR_NOTFOUND, "no target has a replica of %s", j->from.db_name);
    return rc ? out_fail(j->c->json, &e)
              : follow_run(&j->from, &j->from.replica[which], &j->opts, j->follow_ms);
}

/* Damage is never passed over by taking another replica in silence. */
static void name_others(const struct job *j, size_t which, struct err *e)
{
    cleanup_buf struct buf b = BUF_INIT;
    const struct from *f = &j->from;
    if (f->n < 2)
        return;
    for (size_t i = 0; i < f->n; i++)
        if (i != which)
            buf_printf(&b, "%s--target %s", b.len ? " or " : "", f->replica[i].name);
    (void)err_wrap(e, "target %s", f->replica[which].name);
    (void)err_hint(e, "another replica may be sound: %s", buf_str(&b));
}

/* From the best replica to the file; with walsupd, if that has to do with it. */
static int fetch(struct job *j, size_t *ret_which, struct restore_result *ret, char **ret_where, struct err *e)
{
    struct hold hold;
    struct restore_hold hook = hold_init(&hold, j->c, j->output_path);
    bool latest = !j->opts.txid && !j->opts.by_time && !j->opts.generation && !j->opts.dry_run && !j->from.url;
    int rc = hook.begin && latest ? hold_upload(&hold, j->from.target, e) : 0;
    if (rc == 0)
        rc = from_choose(&j->from, &j->opts, ret_which, e);
    if (rc == 0) {
        j->opts.hold = hook.begin ? &hook : NULL;
        rc = from_restore(&j->from, &j->from.replica[*ret_which], &j->opts, ret, ret_where, e);
        j->opts.hold = NULL;
        if (rc == -(int)ERR_CORRUPT)
            name_others(j, *ret_which, e);
    }
    hold_done(&hold);
    return rc;
}

static int restore(struct job *j)
{
    struct err e = {0};
    struct stat st;
    size_t which = 0;
    struct restore_result r = {0};
    cleanup_free char *where = NULL;
    cleanup_buf struct buf text = BUF_INIT;
    if (!j->output && j->from.url)
        return ctl_usage_error(j->c, "a url needs -o FILE");
    j->output_path = ctl_absolute(j->output ? j->output : j->from.db_path);
    j->opts.output = j->output_path;
    bool exists = stat(j->output_path, &st) == 0;
    if (j->follow && !(exists && S_ISDIR(st.st_mode)))
        return follow(j);
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
    int rc = fetch(j, &which, &r, &where, &e);
    const struct from_replica *from = &j->from.replica[which];
    if (rc == 1 && j->if_replica_exists)
        return nothing_done(j, "the replica is empty");
    if (rc == 1 && !*e.msg) {
        (void)err_set(&e, ERR_NOTFOUND, "no target has a replica of %s", j->from.db_name);
        (void)err_hint(&e, "walsupctl status shows whether it was ever replicated");
    }
    if (rc != 0)
        return out_fail(j->c->json, &e);
    uint64_t took_ms = clk_mono_ms() - start_ms;
    if (j->c->json)
        (void)out_json(result_json(j, from, &r, where, took_ms));
    else if (j->opts.dry_run)
        add_plan(j, &r, where, &text);
    else
        add_result(j, from, &r, where, took_ms, &text);
    out_sentences(stdout, buf_str(&text));
    restore_result_done(&r);
    return 0;
}

int cmd_restore(struct ctl *c)
{
    struct job j = {.c = c, .from = {.c = c}, .follow_ms = FOLLOW_MS};
    int status = 0, o;
    while ((o = ctl_option(c, own_option, &status)) >= 0)
        if (!take_option(&j, o, &status))
            return status;
    if (o == CTL_STOP || !ctl_operands(c, 0, 1, &status))
        return status;
    if (j.opts.by_time && j.opts.txid)
        return ctl_usage_error(c, "--timestamp and --txid exclude each other");
    if (j.opts.generation && j.opts.txid)
        return ctl_usage_error(c, "--generation and --txid exclude each other");
    if (j.follow && (j.opts.by_time || j.opts.txid || j.opts.generation || j.opts.dry_run ||
                     j.opts.force || j.if_db_not_exists || j.if_replica_exists))
        return ctl_usage_error(c, "--follow goes on to the latest state: it excludes --timestamp, --txid, "
                               "--generation, --dry-run, --force, --force-in-use and --if-...");
    if (j.if_db_not_exists && !j.from.url && optind < c->argc && restore_pattern(c, c->argv[optind], &status))
        return status;
    if (from_open(&j.from, &status))
        status = restore(&j);
    from_done(&j.from);
    free(j.output_path);
    return status;
}
