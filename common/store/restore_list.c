/* What a replica holds, and which of it is used. */
#include "common/store/restore_int.h"

static void *grown(void *p, size_t n, size_t *cap, size_t size, struct err *e)
{
    size_t more = MAX(*cap * 2, (size_t)64);
    if (n < *cap)
        return p;
    void *q = realloc(p, more * size);
    if (!q) {
        (void)err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", more);
        return NULL;
    }
    *cap = more;
    return q;
}

/* ---- v0.5: ten levels ----------------------------------------------------------------------- */

static int on_ltx(void *arg, const struct store_object *o, struct err *e)
{
    struct restore_slot *s = arg;
    struct restore *r = s->round->data;
    struct restore_level *l = &r->level[s->job];
    uint64_t min, max;
    /* what lies deeper, or has another name, is not ours */
    if (strncmp(o->key, s->key, strlen(s->key)) != 0 || strchr(o->key + strlen(s->key), '/') ||
        !layout_parse(o->key, &min, &max))
        return 0;
    struct plan_file *f = grown(l->file, l->n, &l->cap, sizeof *f, e);
    if (!f)
        return -(int)ERR_NOMEM;
    l->file = f;
    l->file[l->n++] = (struct plan_file){(unsigned)s->job, min, max, o->size, o->mtime_ms, 0};
    return 0;
}

static void submit_level(struct restore_slot *s)
{
    struct restore *r = s->round->data;
    r->level[s->job].n = 0;
    restore_slot_begin(
        s, layout_prefix(store_type(r->store), r->opts->replica, (unsigned)s->job), NULL);
    store_list(r->store, &s->req, s->key, NULL, on_ltx, s);
}

static void submit_newer(struct restore_slot *s)
{
    struct restore *r = s->round->data;
    enum conf_target_type type = store_type(r->store);
    free(r->after);
    r->after = layout_key(type, r->opts->replica, 0, r->newer_than, r->newer_than);
    r->level[0].n = 0;
    restore_slot_begin(s, layout_prefix(type, r->opts->replica, 0), NULL);
    store_list(r->store, &s->req, s->key, r->after, on_ltx, s);
}

/* levels 0 to n-1 */
static int collect(struct restore *r, size_t levels, struct err *e)
{
    size_t n = 0;
    for (size_t i = 0; i < levels; i++)
        n += r->level[i].n;
    free(r->all);
    r->all = malloc((n ? n : 1) * sizeof *r->all);
    r->n_all = 0;
    if (!r->all)
        return err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", n);
    for (size_t i = 0; i < levels; i++) {
        if (r->level[i].n)
            memcpy(r->all + r->n_all, r->level[i].file, r->level[i].n * sizeof *r->all);
        r->n_all += r->level[i].n;
    }
    return 0;
}

static int list_ltx(struct restore *r, struct err *e)
{
    int k = restore_round_run(&r->round, RESTORE_LEVELS, submit_level, e);
    return k < 0 ? k : collect(r, RESTORE_LEVELS, e);
}

int restore_list_newer(struct restore *r, uint64_t txid, struct err *e)
{
    r->newer_than = txid;
    int k = restore_round_run(&r->round, 1, submit_newer, e);
    return k < 0 ? k : collect(r, 1, e);
}

/* ---- v0.3: generations ---------------------------------------------------------------------- */

static int on_v3(void *arg, const struct store_object *o, struct err *e)
{
    struct restore_slot *s = arg;
    struct restore *r = s->round->data;
    size_t prefix = strlen(s->key);
    struct v3_file f;
    if (strncmp(o->key, s->key, prefix) != 0 || !v3_name_parse(o->key + prefix, &f))
        return 0;
    struct v3_file *all = grown(r->v3_all, r->n_v3, &r->cap_v3, sizeof *all, e);
    if (!all)
        return -(int)ERR_NOMEM;
    f.size = o->size;
    f.mtime_ms = o->mtime_ms;
    r->v3_all = all;
    r->v3_all[r->n_v3++] = f;
    return 0;
}

static void submit_v3(struct restore_slot *s)
{
    struct restore *r = s->round->data;
    const char *replica = r->opts->replica;
    r->n_v3 = 0;
    restore_slot_begin(s, util_printf("%s%s" V3_DIR, replica, *replica ? "/" : ""), NULL);
    store_list(r->store, &s->req, s->key, NULL, on_v3, s);
}

/* ---- both ----------------------------------------------------------------------------------- */

static int wrap(const struct restore *r, struct err *e)
{
    cleanup_free char *place = store_place(r->store, r->opts->replica);
    return err_wrap(e, "%s", place);
}

int restore_list(struct restore *r, struct err *e)
{
    int k = 0;
    restore_phase(r, "list", 0);
    if (!r->opts->generation)
        k = list_ltx(r, e);
    if (!k && !r->n_all)
        k = restore_round_run(&r->round, 1, submit_v3, e);
    if (k < 0)
        return k;
    r->v3 = r->n_v3 > 0;
    if (r->n_all || r->n_v3)
        return 0;
    (void)err_set(e, ERR_NOTFOUND, "%s",
                  r->opts->generation ? "there is no generation" : "the replica is empty");
    (void)store_hint_empty(r->store, e);
    return wrap(r, e);
}

static int plan_v3(struct restore *r, struct err *e)
{
    const struct restore_opts *o = r->opts;
    if (o->txid) {
        (void)err_set(e, ERR_USAGE, "Litestream v0.3 wrote this replica, which has no TXIDs");
        return err_hint(e, "--timestamp restores it to a time; walsupctl points shows which");
    }
    return v3_plan(r->v3_all, r->n_v3, o->generation ? o->generation : "",
                   o->by_time ? o->until_ms : INT64_MAX, &r->v3_plan, &r->n_plan, e);
}

int restore_plan(struct restore *r, struct err *e)
{
    uint64_t txid = r->opts->txid;
    int k = 0;
    if (!r->v3 && r->opts->by_time)
        k = restore_find_time(r, &txid, e);
    if (!k)
        k = r->v3 ? plan_v3(r, e) : plan_restore(r->all, r->n_all, txid, &r->plan, &r->n_plan, e);
    return k < 0 ? wrap(r, e) : 0;
}
