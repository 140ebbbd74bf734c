/* keeper_list.c - a replica against the inventory: when the inventory does not know all of it, or when somebody
 * asks. Ten listings; what seems to be missing is asked for by name, because listings may lag behind. */
#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/format/plan.h"
#include "common/store/layout.h"
#include "daemon/core/history_int.h"

#define HEADS_MAX 1000u /* more than so many gaps are believed without asking for each */

struct keeper_list {
    struct inventory_object *old, *found; /* ascending by level, max, min */
    size_t n_old, n_found, cap_found;
    struct inventory_object *missing;
    size_t n_missing, at; /* at: the one that is asked for */
    unsigned level;
    char *key; /* prefix, or object */
    struct store_info info;
    int64_t began_ms;
    uint64_t acked; /* by the replica, when it was listed */
    bool restores;  /* what was found leads to there */
    size_t heads;
    uint64_t foreign;
    bool at_store; /* else at the inventory */
};

static void on_request(struct store_req *req);
static void on_inventory(struct inventory_req *req);

static void list_free(struct keeper *k)
{
    struct keeper_list *l = TAKE_PTR(k->list);
    free(l->old);
    free(l->found);
    free(l->missing);
    free(l->key);
    free(l);
    k->ask.object = NULL; /* it was one of these */
    k->ask.n = 0;
}

static void end(struct keeper *k)
{
    list_free(k);
    keeper_listed(k);
}

static int order(const void *a, const void *b)
{
    const struct inventory_object *x = a, *y = b;
    if (x->level != y->level)
        return x->level < y->level ? -1 : 1;
    if (x->max != y->max)
        return x->max < y->max ? -1 : 1;
    return (x->min > y->min) - (x->min < y->min);
}

/* ---- the listing ------------------------------------------------------------------------------- */

static int on_item(void *arg, const struct store_object *o, struct err *e)
{
    struct keeper_list *l = ((struct keeper *)arg)->list;
    struct inventory_object x = {.level = l->level, .size = o->size, .time_ms = o->mtime_ms};
    bool below = strchr(o->key + strlen(l->key), '/') != NULL;
    if (below || !layout_parse(o->key, &x.min, &x.max) || x.max > INT64_MAX) {
        l->foreign++;
        return 0;
    }
    if (l->n_found == l->cap_found) {
        size_t cap = MAX(2 * l->cap_found, (size_t)64);
        struct inventory_object *more = realloc(l->found, cap * sizeof *more);
        if (!more)
            return err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", cap);
        l->found = more;
        l->cap_found = cap;
    }
    l->found[l->n_found++] = x;
    return 0;
}

static void list_level(struct keeper *k)
{
    struct keeper_list *l = k->list;
    free(l->key);
    l->key = layout_prefix(store_type(k->u->store), k->u->replica, l->level);
    l->at_store = true;
    store_list(k->u->store, &k->req, l->key, NULL, on_item, k);
}

/* ---- the comparison ---------------------------------------------------------------------------- */

/* Times of what is known already are better than the store's, which are those of the upload. */
static void compare(struct keeper_list *l, struct keeper_found *f)
{
    size_t i = 0;
    if (l->n_found)
        qsort(l->found, l->n_found, sizeof *l->found, order);
    l->missing = util_alloc(MAX(l->n_old, (size_t)1) * sizeof *l->missing);
    for (size_t j = 0; j < l->n_found; j++) {
        struct inventory_object *x = &l->found[j];
        while (i < l->n_old && order(&l->old[i], x) < 0)
            l->missing[l->n_missing++] = l->old[i++];
        if (i < l->n_old && order(&l->old[i], x) == 0)
            x->time_ms = l->old[i++].time_ms;
        else
            f->unknown++;
        f->bytes += x->size;
    }
    while (i < l->n_old)
        l->missing[l->n_missing++] = l->old[i++];
    f->objects = l->n_found;
    f->foreign = l->foreign;
}

/* Whether what is there restores, up to what was stored before it was listed. */
static bool restores(const struct keeper_list *l)
{
    cleanup_free struct plan_file *plan = NULL;
    cleanup_free struct plan_file *all = util_alloc((l->n_found + 1) * sizeof *all);
    size_t n = 0;
    for (size_t i = 0; i < l->n_found; i++)
        all[i] = (struct plan_file){.level = l->found[i].level, .min = l->found[i].min, .max = l->found[i].max};
    return plan_restore(all, l->n_found, 0, &plan, &n, NULL) == 0 && n && plan[n - 1].max >= l->acked;
}

static void write_down(struct keeper *k)
{
    struct keeper_list *l = k->list;
    l->restores = !l->acked || restores(l);
    l->at_store = false;
    k->ask.what = INVENTORY_SET;
    k->ask.at = keeper_place(k);
    k->ask.object = l->found;
    k->ask.n = l->n_found;
    k->ask.since_ms = l->began_ms;
    inventory_ask(k->h->shared->inventory, &k->ask);
}

/* One that is there after all goes back among those that were found. */
static void keep(struct keeper *k, const struct inventory_object *x)
{
    struct keeper_list *l = k->list;
    l->found = util_realloc(l->found, (l->n_found + 1) * sizeof *l->found);
    l->cap_found = l->n_found + 1;
    l->found[l->n_found++] = *x;
    k->found.objects++;
    k->found.bytes += x->size;
}

static void look_for_missing(struct keeper *k)
{
    struct keeper_list *l = k->list;
    if (l->at == l->n_missing || l->heads >= HEADS_MAX) {
        k->found.missing += l->n_missing - l->at;
        write_down(k);
        return;
    }
    const struct inventory_object *x = &l->missing[l->at];
    l->heads++;
    free(l->key);
    l->key = layout_key(store_type(k->u->store), k->u->replica, x->level, x->min, x->max);
    store_head(k->u->store, &k->req, l->key, &l->info);
}

/* A file that a restore may need is gone: a new snapshot makes the replica whole again from now on. */
static void missed(struct keeper *k, const struct inventory_object *x)
{
    char name[LTX_NAME_SIZE];
    if (!k->found.missing++)
        (void)snprintf(k->found.example, sizeof k->found.example, "%u/%s", x->level, ltx_name(name, x->min, x->max));
    if (x->level == 0 || x->level == LTX_SNAPSHOT_LEVEL)
        k->wants_snapshot = true;
}

static void on_request(struct store_req *req)
{
    struct keeper *k = req->data;
    struct keeper_list *l = k->list;
    bool looking = l->missing != NULL, gone = looking && req->err.code == ERR_NOTFOUND;
    if (k->closing || (req->err.code != ERR_OK && !gone)) {
        if (!k->closing)
            keeper_failed(k, &req->err, "not compared with the inventory");
        end(k);
        return;
    }
    if (looking) {
        const struct inventory_object *x = &l->missing[l->at++];
        if (gone)
            missed(k, x);
        else
            keep(k, x);
        look_for_missing(k);
        return;
    }
    if (++l->level < INVENTORY_LEVELS) {
        list_level(k);
        return;
    }
    compare(l, &k->found);
    look_for_missing(k);
}

static void tell(const struct keeper *k)
{
    const struct keeper_found *f = &k->found;
    enum log_level level = f->missing ? LOG_WARN : f->unknown ? LOG_NOTICE : LOG_INFO;
    log_line(level,
             "%s -> %s: compared with the bucket: %" PRIu64 " files, %" PRIu64 " of them not in the inventory, %" PRIu64
             " missing%s%s%s",
             k->h->db->name, k->u->target, f->objects, f->unknown, f->missing, f->missing ? " (such as " : "",
             f->missing ? f->example : "", f->missing ? "); a new snapshot is made" : "");
}

static void on_inventory(struct inventory_req *req)
{
    struct keeper *k = req->data;
    struct keeper_list *l = k->list;
    if (k->closing || req->err.code != ERR_OK) {
        if (req->what == INVENTORY_ALL)
            free(req->object);
        if (!k->closing)
            keeper_failed(k, &req->err, "not compared with the inventory");
        end(k);
        return;
    }
    if (req->what == INVENTORY_ALL) {
        l->old = TAKE_PTR(req->object);
        l->n_old = req->n;
        list_level(k);
        return;
    }
    tell(k);
    if (!l->restores)
        k->wants_snapshot = true;
    else if (!k->wants_snapshot)
        uploader_mended(k->u);
    k->wants_list = false;
    k->stale = true;
    keeper_worked(k);
    end(k);
}

void keeper_list_start(struct keeper *k)
{
    k->doing = KEEPER_LISTS;
    k->list = util_zalloc(sizeof *k->list);
    k->list->began_ms = clk_real_ms();
    k->list->acked = k->u->acked;
    k->found = (struct keeper_found){0};
    k->req.done = on_request;
    k->ask.done = on_inventory;
    k->ask.what = INVENTORY_ALL;
    k->ask.at = keeper_place(k);
    k->ask.object = NULL;
    k->ask.n = 0;
    inventory_ask(k->h->shared->inventory, &k->ask);
}

void keeper_list_cancel(struct keeper *k)
{
    if (k->list->at_store)
        store_cancel(&k->req);
}
