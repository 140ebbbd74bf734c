#include "ctl/from.h"

#include "common/base/clk.h"
#include "common/format/when.h"
#include "ctl/from_url.h"

static bool from_url(struct from *f, int *ret_status)
{
    struct err e = {0};
    if (f->target) {
        *ret_status = ctl_usage_error(f->c, "--url and --target exclude each other");
        return false;
    }
    if (conf_parse_url(f->url, &f->url_target, &e) < 0) {
        (void)err_wrap(&e, "--url");
        *ret_status = out_fail(f->c->json, &e);
        return false;
    }
    const char *last = strrchr(f->url_target.path, '/');
    bool named = optind < f->c->argc && f->url != f->c->argv[optind];
    f->db_name = named ? f->c->argv[optind] : last ? last + 1 : f->url_target.path;
    if (!*f->db_name)
        f->db_name = f->url_target.bucket;
    f->replica = util_zalloc(sizeof *f->replica);
    f->replica[0] = (struct from_replica){NULL, &f->url_target, util_strdup("")};
    f->n = 1;
    return true;
}

static bool from_conf(struct from *f, int *ret_status)
{
    struct err e = {0};
    if (optind == f->c->argc) {
        *ret_status = ctl_usage_error(f->c, "which database? Name it, or give --url");
        return false;
    }
    if (!ctl_load(f->c, &f->conf, ret_status))
        return false;
    if (ctl_resolve(f->c, f->conf, f->c->argv[optind], &f->found, &e) < 0) {
        *ret_status = out_fail(f->c->json, &e);
        return false;
    }
    const struct conf_db *d = f->found.db;
    f->db_name = f->found.name;
    f->db_path = f->found.path;
    f->replica = util_zalloc(d->n_replicas * sizeof *f->replica);
    for (size_t i = 0; i < d->n_replicas; i++) {
        const struct conf_target *t = &f->conf->target[d->replica[i].target];
        if (!f->target || !strcmp(f->target, t->name))
            f->replica[f->n++] = (struct from_replica){
                t->name, t, conf_replica_path(d, &d->replica[i], f->found.path)};
    }
    if (f->n)
        return true;
    (void)err_set(&e, ERR_NOTFOUND, "database '%s' is not replicated to a target '%s'", f->db_name,
                  f->target);
    (void)err_hint(&e, "its targets are shown by walsupctl list");
    *ret_status = out_fail(f->c->json, &e);
    return false;
}

bool from_open(struct from *f, int *ret_status)
{
    /* reading, decompressing and checking happen on libuv's workers: one for each processor */
    char workers[16];
    (void)snprintf(workers, sizeof workers, "%ld", MAX(sysconf(_SC_NPROCESSORS_ONLN), 4L));
    (void)setenv("UV_THREADPOOL_SIZE", workers, 0);
    f->progress.quiet = f->c->json;
    (void)uv_loop_init(&f->loop);
    if (!f->url && optind < f->c->argc && strstr(f->c->argv[optind], "://")) /* it is clear what is meant */
        f->url = f->c->argv[optind];
    return f->url ? from_url(f, ret_status) : from_conf(f, ret_status);
}

void from_done(struct from *f)
{
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&f->loop);
    if (f->url)
        conf_target_done(&f->url_target);
    for (size_t i = 0; i < f->n; i++)
        free(f->replica[i].replica);
    free(f->replica);
    conf_found_done(&f->found);
    (void)conf_free(f->conf);
}

/* ---- stores --------------------------------------------------------------------------------- */

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
static bool surely_empty(struct from *f, struct store *s, const char *replica)
{
    struct look l = {.req = {.done = look_done, .data = NULL}};
    cleanup_free char *prefix = *replica ? util_printf("%s/", replica) : util_strdup("");
    l.req.data = &l;
    store_list(s, &l.req, prefix, NULL, look_item, &l);
    while (!l.done)
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    return l.req.err.code == ERR_OK && l.objects == 0;
}

int from_store(struct from *f, const struct from_replica *r,
               int (*fn)(struct store *s, void *arg, struct err *e), void *arg, char **ret_where,
               struct err *e)
{
    struct store *s;
    int rc = store_open(&f->loop, r->target, &s, e);
    if (rc < 0)
        return rc;
    if (ret_where) {
        free(*ret_where);
        *ret_where = util_strdup(store_describe(s));
    }
    rc = fn(s, arg, e);
    out_progress_end(&f->progress);
    bool nothing = rc == -(int)ERR_NOTFOUND;
    if (nothing && surely_empty(f, s, r->replica))
        rc = 1;
    store_close(s, NULL, NULL);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    if (!r->name && nothing)
        from_url_replicas(f, e);
    return rc;
}

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct from *f = arg;
    out_progress(&f->progress, phase, done, total);
}

struct run {
    struct from *f;
    struct restore_opts opts;
    struct restore_result *ret;
};

static int run(struct store *s, void *arg, struct err *e)
{
    struct run *x = arg;
    return restore_run(&x->f->loop, s, &x->opts, on_progress, x->f, x->ret, e);
}

int from_restore(struct from *f, const struct from_replica *r, const struct restore_opts *opts,
                 struct restore_result *ret, char **ret_where, struct err *e)
{
    struct run x = {f, *opts, ret};
    x.opts.replica = r->replica;
    return from_store(f, r, run, &x, ret_where, e);
}

/* Whether a is further than b. What v0.3 stored comes before any TXID: walsup took over from it. */
static bool further(const struct restore_result *a, const struct restore_result *b)
{
    if (a->v3 != b->v3)
        return b->v3;
    return a->v3 ? a->timestamp_ms > b->timestamp_ms : a->txid > b->txid;
}

int from_choose(struct from *f, const struct restore_opts *opts, size_t *ret, struct err *e)
{
    struct err first = {0};
    struct restore_result best = {0};
    size_t failed = 0, found = 0;
    struct restore_opts look = *opts;
    look.dry_run = true;
    if (f->n == 1) {
        *ret = 0;
        return 0;
    }
    for (size_t i = 0; i < f->n; i++) {
        struct restore_result r = {0};
        struct err one = {0};
        int rc = from_restore(f, &f->replica[i], &look, &r, NULL, &one);
        if (rc == 0 && (!found++ || further(&r, &best))) {
            best = r; /* but for the files, which are not looked at */
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
        (void)err_wrap(&one, "target %s", f->replica[i].name);
        if (!failed++)
            first = one;
        out_warning(&one);
    }
    if (found)
        return 0;
    if (!failed)
        return 1;
    *e = first;
    (void)err_wrap(e, "no replica of %s can be used", f->db_name);
    return -(int)e->code;
}

/* ---- options -------------------------------------------------------------------------------- */

bool from_time(struct ctl *c, const char *option, const char *text, int64_t *ret_ms, int *ret_status)
{
    struct err e = {0};
    char then[WHEN_TEXT_SIZE], now_text[WHEN_TEXT_SIZE];
    int64_t ms = 0, now_ms = clk_real_ms();
    if (when_parse(text, now_ms, &ms, &e) == 0 && ms > now_ms) {
        (void)err_set(&e, ERR_USAGE, "%s is in the future: it is %s", when_text(then, ms),
                      when_text(now_text, now_ms));
        (void)err_hint(&e, "without %s the latest state is restored", option);
    }
    if (e.code) {
        (void)err_wrap(&e, "%s", option);
        *ret_status = out_fail(c->json, &e);
        return false;
    }
    *ret_ms = ms;
    return true;
}

bool from_generation(struct ctl *c, const char *text, int *ret_status)
{
    if (v3_generation_ok(text))
        return true;
    *ret_status = ctl_usage_error(c, "--generation %s is none of Litestream v0.3: 16 hexadecimal "
                                  "digits, as walsupctl points shows them", text);
    return false;
}
