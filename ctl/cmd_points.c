/* points: what a database can be restored to */
#include <errno.h>

#include "common/format/when.h"
#include "ctl/from.h"

#define LIMIT 20

enum { OPT_TARGET = 1, OPT_URL, OPT_LIMIT, OPT_GENERATION };

static const struct option own_option[] = {
    {"target", required_argument, NULL, OPT_TARGET},
    {"url", required_argument, NULL, OPT_URL},
    {"limit", required_argument, NULL, OPT_LIMIT},
    {"generation", required_argument, NULL, OPT_GENERATION},
    {NULL, 0, NULL, 0}};

struct job {
    struct from from;
    struct restore_opts opts;
    size_t limit;
    struct restore_points points;
};

static int look(struct store *s, void *arg, struct err *e)
{
    struct job *j = arg;
    return restore_points(&j->from.loop, s, &j->opts, j->limit, &j->points, e);
}

/* ---- what is printed ------------------------------------------------------------------------ */

static char *name_of(const struct restore_point *p)
{
    if (p->txid)
        return util_printf("%016llx", (unsigned long long)p->txid);
    return p->level ? util_printf("%s/%08llx", p->generation, (unsigned long long)p->index)
                    : util_printf("%s/%08llx_%08llx", p->generation, (unsigned long long)p->index,
                                  (unsigned long long)p->off);
}

static json_t *point_json(const struct restore_point *p)
{
    char stamp[40], text[17];
    json_t *o = json_pack("{s:I, s:s, s:I}", "timestamp_ms", (json_int_t)p->time_ms, "timestamp",
                          util_rfc3339(stamp, p->time_ms), "size", (json_int_t)p->size);
    (void)snprintf(text, sizeof text, p->txid ? "%016llx" : "%08llx",
                   (unsigned long long)(p->txid ? p->txid : p->index));
    (void)json_object_set_new(o, p->txid ? "txid" : "index", json_string(text));
    if (p->txid) {
        (void)json_object_set_new(o, "level", json_integer((json_int_t)p->level));
        (void)json_object_set_new(o, "restore_bytes", json_integer((json_int_t)p->way));
        (void)json_object_set_new(o, "clock_set_back", json_boolean(p->set_back));
        return o;
    }
    (void)json_object_set_new(o, "generation", json_string(p->generation));
    (void)json_object_set_new(o, "kind", json_string(p->level ? "snapshot" : "wal"));
    (void)snprintf(text, sizeof text, "%08llx", (unsigned long long)p->off);
    if (!p->level)
        (void)json_object_set_new(o, "offset", json_string(text));
    return o;
}

static int print_json(const struct job *j, const struct from_replica *from, const char *where)
{
    const struct restore_points *p = &j->points;
    json_t *all = json_array(), *levels = json_object();
    for (size_t i = 0; i < p->n; i++)
        (void)json_array_append_new(all, point_json(&p->point[i]));
    for (size_t i = 0; i < ARRAY_LEN(p->at_level); i++) {
        char key[4];
        (void)snprintf(key, sizeof key, "%zu", i);
        if (p->at_level[i])
            (void)json_object_set_new(levels, key, json_integer((json_int_t)p->at_level[i]));
    }
    return out_json(json_pack("{s:s, s:s?, s:s, s:s, s:I, s:o, s:o, s:b, s:o}", "database",
                              j->from.db_name, "target", from->name, "location", where, "format",
                              p->v3 ? "litestream-v0.3" : "ltx", "total", (json_int_t)p->total,
                              "oldest", point_json(&p->oldest), "levels", levels, "gap",
                              !p->v3 && p->newest_txid > p->point[p->n - 1].txid, "points", all));
}

static void print_text(const struct job *j, const struct from_replica *from, const char *where)
{
    static const char *const head[] = {"TIME", "TXID", "LEVEL", "SIZE", "RESTORE", NULL};
    static const char *const head_v3[] = {"STORED", "GENERATION/WAL", "KIND", "SIZE", NULL};
    const struct restore_points *p = &j->points;
    const struct restore_point *newest = &p->point[p->n - 1];
    struct out_table t = {.head = p->v3 ? head_v3 : head};
    char a[WHEN_TEXT_SIZE], b[WHEN_TEXT_SIZE], size[32];
    cleanup_free char *first = name_of(&p->oldest), *last = name_of(newest);
    cleanup_free char *title =
        util_printf("%s in %s%s%s%s: %zu point%s", j->from.db_name, from->name ? from->name : where,
                    from->name ? " (" : "", from->name ? where : "", from->name ? ")" : "",
                    p->total, p->total == 1 ? "" : "s");
    out_sentence(stdout, title);
    printf("from %s of %s\nto   %s of %s\n", first, when_text(a, p->oldest.time_ms), last,
           when_text(b, newest->time_ms));
    for (size_t i = 0, any = 0; i < ARRAY_LEN(p->at_level); i++)
        if (p->at_level[i] && p->at_level[i] != p->total) {
            if (p->v3)
                printf("%s%zu %s", any++ ? ", " : "", p->at_level[i], i ? "snapshots" : "segments");
            else
                printf("%s%zu at level %zu", any++ ? ", " : "", p->at_level[i], i);
        } else if (p->at_level[i] && !p->v3) {
            printf("all at level %zu", i);
        }
    printf("\n\n");
    for (size_t i = 0; i < p->n; i++) {
        const struct restore_point *x = &p->point[i];
        struct out_row *row = out_row(&t);
        row->cell[0] = util_printf("%s%s", when_text(a, x->time_ms), x->set_back ? " (clock set back)" : "");
        row->cell[1] = name_of(x);
        row->cell[2] = p->v3 ? util_strdup(x->level ? "snapshot" : "WAL")
                             : util_printf("%u", x->level);
        row->cell[3] = util_strdup(util_size(size, x->size));
        if (!p->v3) /* what a restore to there reads, at most */
            row->cell[4] = util_strdup(util_size(size, x->way));
    }
    out_table_print(&t);
    out_table_done(&t);
    if (p->n < p->total)
        printf("\nThe newest %zu; --limit 0 shows all.\n", p->n);
    if (!p->v3 && p->newest_txid > newest->txid)
        printf("\nThere are files up to TXID %016llx, but a gap before them: the latest state cannot be "
               "restored.\n", (unsigned long long)p->newest_txid);
}

/* ---- the verb ------------------------------------------------------------------------------- */

static int points(struct job *j)
{
    struct err e = {0};
    size_t which = 0;
    cleanup_free char *where = NULL;
    int rc = from_choose(&j->from, &j->opts, &which, &e);
    const struct from_replica *from = &j->from.replica[which];
    j->opts.replica = from->replica;
    if (rc == 0)
        rc = from_store(&j->from, from, look, j, &where, &e);
    if (rc == 1 && !*e.msg) {
        (void)err_set(&e, ERR_NOTFOUND, "no target has a replica of %s", j->from.db_name);
        (void)err_hint(&e, "walsupctl status shows whether it was ever replicated");
    }
    if (rc != 0)
        return out_fail(j->from.c->json, &e);
    if (j->from.c->json)
        (void)print_json(j, from, where);
    else
        print_text(j, from, where);
    restore_points_done(&j->points);
    return 0;
}

int cmd_points(struct ctl *c)
{
    struct job j = {.from = {.c = c}, .limit = LIMIT};
    int status = 0, o;
    while ((o = ctl_option(c, own_option, &status)) >= 0) {
        char *end = NULL;
        switch (o) {
        case OPT_TARGET:
            j.from.target = optarg;
            break;
        case OPT_URL:
            j.from.url = optarg;
            break;
        case OPT_GENERATION:
            j.opts.generation = optarg;
            if (!from_generation(c, optarg, &status))
                return status;
            break;
        default:
            errno = 0;
            j.limit = strtoul(optarg, &end, 10);
            if (errno || *end || *optarg < '0' || *optarg > '9')
                return ctl_usage_error(c, "--limit %s is not a number", optarg);
        }
    }
    if (o == CTL_STOP || !ctl_operands(c, 0, 1, &status))
        return status;
    if (from_open(&j.from, &status))
        status = points(&j);
    from_done(&j.from);
    return status;
}
