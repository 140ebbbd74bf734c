#include "daemon/watch/discover_int.h"

#include "common/base/clk.h"

#define OFFER_MS 5

const struct discover_counters *discover_counters(const struct discover *d)
{
    return &d->count;
}

bool discover_listing(const struct discover *d)
{
    return d->listing > 0;
}

/* ---- now and then ------------------------------------------------------------------------------ */

static void on_later(uv_timer_t *timer);

void discover_offer(struct discover *d)
{
    uint64_t end_ms = clk_mono_ms() + OFFER_MS;
    if (!d->later_files)
        return;
    d->later_files = 0;
    d->offer_soon = false;
    for (struct tree *t = d->tree; t; t = t->next) {
        size_t at = 0;
        for (struct discover_file *f; (f = map_next(&t->files, &at));) {
            if (!f->again)
                continue;
            if (clk_mono_ms() < end_ms) {
                node_offer(d, f);
            } else { /* the loop has other things to do */
                d->later_files++;
                d->offer_soon = true;
                (void)uv_timer_start(&d->later, on_later, 1, LATER_MS);
            }
        }
    }
}

static void on_later(uv_timer_t *timer)
{
    struct discover *d = timer->data;
    if (d->offer_soon || d->ticks++ % OFFER_TICKS == 0)
        discover_offer(d);
    for (struct tree *t = d->wanted_files ? d->tree : NULL; t; t = t->next) {
        size_t at = 0;
        for (struct discover_file *f; (f = map_next(&t->files, &at));)
            if (f->wanted && clk_mono_ms() >= f->next_ms)
                node_want_name(f->node, node_last_part(f->path));
    }
    /* a missing root has no watch to wake it */
    for (struct tree *t = d->tree; t; t = t->next)
        if (t->root && !t->root->busy && !watch_listening(&t->root->listener) &&
            !watch_asking(&t->root->listener) && !t->root->mark.ino) {
            watch_deaf(d->watch, &t->root->listener);
            if (watch_listen(d->watch, t->root->path, &t->root->listener))
                node_want_whole(t->root);
        }
}

void discover_rescan(struct discover *d)
{
    for (struct tree *t = d->tree; t; t = t->next)
        for (struct node *n = t->all; n; n = n->next_all)
            if (!n->twin)
                node_want_whole(n);
}

static void look_at(struct node *n)
{
    if (n->twin) {
        if (n->parent)
            node_want_name(n->parent, node_last_part(n->path));
        return;
    }
    n->whole = true; /* with its mark: nothing is listed if nothing changed */
    node_mark_dirty(n, GATHER_MS);
    for (struct discover_file *f = n->file; f; f = f->next)
        if (!f->database)
            node_want_file(f);
}

void discover_look(struct discover *d, uint64_t ms, uint64_t interval_ms)
{
    for (struct tree *t = d->tree; t; t = t->next) {
        size_t n = ms >= interval_ms ? t->nodes.n : (size_t)(t->nodes.n * ms / interval_ms) + 1;
        for (size_t i = 0; i < MIN(n, t->nodes.n); i++) {
            t->cursor = t->cursor ? t->cursor : t->all;
            d->count.looked++;
            look_at(t->cursor);
            t->cursor = t->cursor->next_all;
        }
        if (watch_counters(d->watch)->unwatched)
            for (struct node *at = t->all; at; at = at->next_all)
                if (!at->twin && !watch_listening(&at->listener))
                    look_at(at);
    }
}

/* ---- configuration ----------------------------------------------------------------------------- */

static void tree_start(struct discover *d, const struct conf_db *c)
{
    struct tree *t = util_zalloc(sizeof *t);
    t->d = d;
    t->section = util_strdup(c->name);
    t->pattern = util_strdup(c->path);
    t->wanted = true;
    struct tree **end = &d->tree;
    while (*end)
        end = &(*end)->next;
    *end = t;
}

/* what a walk must know of the configuration; jobs under way keep the old one */
static void tree_conf(struct tree *t, const struct conf *conf)
{
    struct scan_tree *s = util_zalloc(sizeof *s);
    s->refs = 1;
    (void)glob_new(t->pattern, &s->glob, NULL); /* the configuration was checked */
    s->aside = util_zalloc((conf->n_targets + 1) * sizeof(char *));
    s->aside[s->n_aside++] = util_strdup(conf->state_dir);
    for (size_t i = 0; i < conf->n_targets; i++)
        if (conf->target[i].type == CONF_FILE)
            s->aside[s->n_aside++] = util_strdup(conf->target[i].path);
    scan_tree_unref(t->shared);
    t->shared = s;
    if (t->root)
        return;
    t->root = node_new(t, NULL, glob_base(s->glob), glob_start(s->glob));
    node_enter(t->root);
}

static void tree_free(struct tree *t)
{
    if (t->root)
        node_gone(t->root);
    map_free(&t->nodes);
    map_free(&t->files);
    map_free(&t->visited);
    scan_tree_unref(t->shared);
    free(t->section);
    free(t->pattern);
    free(t);
}

void discover_set(struct discover *d, const struct conf *conf)
{
    for (struct tree *t = d->tree; t; t = t->next) {
        const struct conf_db *c = conf_find_db(conf, t->section);
        t->wanted = c && c->glob && !strcmp(c->path, t->pattern);
    }
    for (struct tree **p = &d->tree; *p;) {
        struct tree *t = *p;
        if (t->wanted) {
            p = &t->next;
            continue;
        }
        *p = t->next;
        tree_free(t);
    }
    for (size_t i = 0; i < conf->n_patterns; i++) {
        const struct tree *t = d->tree;
        while (t && strcmp(t->section, conf->pattern[i]->name) != 0)
            t = t->next;
        if (!t)
            tree_start(d, conf->pattern[i]);
    }
    for (struct tree *t = d->tree; t; t = t->next) {
        tree_conf(t, conf);
        size_t at = 0;
        for (struct discover_file *f; (f = map_next(&t->files, &at));)
            if (!f->user && f->database && !f->again) {
                f->again = true; /* the answer may be another one now */
                d->later_files++;
            }
    }
    d->offered_first = true;
    (void)uv_timer_start(&d->later, on_later, LATER_MS, LATER_MS);
    if (!d->tree)
        (void)uv_timer_stop(&d->later);
    discover_offer(d);
    node_maybe_settled(d);
}

/* ---- start and end ----------------------------------------------------------------------------- */

static void on_overflow(void *arg)
{
    discover_rescan(arg);
}

void discover_new(uv_loop_t *loop, struct scan *s, struct watch *w, const struct discover_calls *calls,
                  void *owner, struct discover **ret)
{
    struct discover *d = util_zalloc(sizeof *d);
    d->loop = loop;
    d->scan = s;
    d->watch = w;
    d->call = *calls;
    d->owner = owner;
    (void)uv_timer_init(loop, &d->gather);
    (void)uv_timer_init(loop, &d->later);
    d->gather.data = d->later.data = d;
    d->open = 2;
    watch_on_overflow(w, on_overflow, d);
    *ret = d;
}

static void on_handle_closed(uv_handle_t *h)
{
    struct discover *d = h->data;
    if (--d->open)
        return;
    void (*closed)(void *) = d->closed;
    void *arg = d->closed_arg;
    char *path;
    for (size_t at = 0; (path = map_next(&d->refused, &at));)
        free(path);
    map_free(&d->refused);
    free(d);
    closed(arg);
}

void discover_close(struct discover *d, void (*closed)(void *arg), void *arg)
{
    d->closing = true;
    d->closed = closed;
    d->closed_arg = arg;
    watch_on_overflow(d->watch, NULL, NULL);
    for (struct tree *t = d->tree; t; t = t->next)
        for (struct node *n = t->all; n; n = n->next_all)
            n->busy = 0; /* the scan is closed: no answer comes */
    while (d->tree) {
        struct tree *t = d->tree;
        d->tree = t->next;
        tree_free(t);
    }
    while (d->limbo) {
        struct node *n = d->limbo;
        n->busy = 0;
        node_leave_limbo(d, n);
    }
    while (d->dirty) {
        struct node *n = d->dirty;
        d->dirty = n->dirty_next;
        node_free(n);
    }
    uv_close((uv_handle_t *)&d->gather, on_handle_closed);
    uv_close((uv_handle_t *)&d->later, on_handle_closed);
}
