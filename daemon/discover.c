#include "daemon/discover.h"

#include <errno.h>
#include <sys/inotify.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/base/map.h"

#define GATHER_MS 20   /* names of one directory are looked at together */
#define NAMES_MAX 64   /* more than that: list the directory */
#define EAGER_TRIES 16 /* a file that is no database yet: so often at once, then more and more rarely */
#define TRY_MAX_MS 10000
#define LATER_MS 500
#define OFFER_MS 5

struct tree;

/* One directory. */
struct node {
    struct watch_listener listener; /* first */
    struct discover *d;
    struct tree *tree;
    struct node *parent, *child, *prev, *next; /* siblings */
    struct node *prev_all, *next_all;          /* of the tree */
    struct node *dirty_next, *limbo_next;
    char *path; /* key of tree->nodes */
    glob_at at;
    struct {
        uint64_t dev, ino;
    } id; /* key of tree->visited */
    bool twin;      /* another path leads there and has been taken: not entered */
    bool told;
    unsigned busy;  /* jobs under way */
    bool dirty, whole; /* whole: list it, not only the names */
    bool dead;      /* freed when the jobs are done */
    bool listed;
    struct scan_mark mark;
    char *name[NAMES_MAX];
    size_t n_names;
    struct discover_file *file;
};

struct tree {
    struct discover *d;
    char *section, *pattern;
    struct scan_tree *shared;
    struct map nodes, files; /* by path */
    struct map visited;      /* nodes by id */
    struct node *root, *all, *cursor;
    size_t twins;
    bool wanted; /* by the configuration that is being set */
    struct tree *next;
};

struct discover {
    uv_loop_t *loop;
    struct scan *scan;
    struct watch *watch;
    struct discover_calls call;
    void *owner;
    struct tree *tree;
    struct node *dirty;
    struct node *limbo; /* dead, but a job is under way */
    uv_timer_t gather, later;
    size_t later_files; /* offered and put off, at most */
    size_t wanted_files;
    size_t listing; /* directories that were never listed and are being */
    bool settled, offered_first, closing;
    unsigned open;
    struct discover_counters count;
    void (*closed)(void *arg);
    void *closed_arg;
};

static void node_free(struct node *n);
static void flush_dirty(struct discover *d);

const struct discover_counters *discover_counters(const struct discover *d)
{
    return &d->count;
}

bool discover_listing(const struct discover *d)
{
    return d->listing > 0;
}

/* ---- what to look at --------------------------------------------------------------------------- */

static void on_gather(uv_timer_t *t)
{
    flush_dirty(t->data);
}

static void mark_dirty(struct node *n, uint64_t wait_ms)
{
    struct discover *d = n->tree->d;
    if (!n->dirty) {
        n->dirty = true;
        n->dirty_next = d->dirty;
        d->dirty = n;
    }
    if (d->closing)
        return;
    if (!wait_ms)
        (void)uv_timer_start(&d->gather, on_gather, 0, 0);
    else if (!uv_is_active((uv_handle_t *)&d->gather))
        (void)uv_timer_start(&d->gather, on_gather, wait_ms, 0);
}

static void want_whole(struct node *n)
{
    n->whole = true;
    n->mark = (struct scan_mark){0, 0, 0};
    mark_dirty(n, GATHER_MS);
}

static void want_name(struct node *n, const char *name)
{
    for (size_t i = 0; i < n->n_names; i++)
        if (!strcmp(n->name[i], name))
            return;
    if (n->n_names < NAMES_MAX)
        n->name[n->n_names++] = util_strdup(name);
    else
        want_whole(n);
    mark_dirty(n, GATHER_MS);
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static char *join(const char *dir, const char *name)
{
    return util_printf("%s/%s", dir[1] ? dir : "", name);
}

static void want_file(struct discover_file *f)
{
    struct discover *d = f->node->tree->d;
    if (clk_mono_ms() >= f->next_ms) {
        want_name(f->node, last_part(f->path));
    } else if (!f->wanted) {
        f->wanted = true;
        d->wanted_files++;
    }
}

static void on_event(struct watch_listener *l, const char *name, uint32_t mask)
{
    struct node *n = (struct node *)(void *)l;
    struct tree *t = n->tree;
    if (!name) {
        want_whole(n);
        return;
    }
    size_t len = strlen(name);
    if (glob_aside(name, len) || !glob_step(t->shared->glob, n->at, name, len))
        return;
    if (!(mask & (IN_MODIFY | IN_ATTRIB)) || (mask & IN_ISDIR)) {
        want_name(n, name);
        return;
    }
    cleanup_free char *path = join(n->path, name);
    struct discover_file *f = map_get_str(&t->files, path);
    if (!f)
        want_name(n, name);
    else if (!f->database)
        want_file(f);
}

/* ---- files ------------------------------------------------------------------------------------- */

static void offer(struct discover *d, struct discover_file *f)
{
    f->again = false;
    if (f->user || !f->database)
        return;
    switch (d->call.found(d->owner, f)) {
    case DISCOVER_TAKEN:
    case DISCOVER_FOREIGN:
        break;
    case DISCOVER_LATER:
        f->again = true;
        d->later_files++;
    }
}

static void file_gone(struct discover_file *f)
{
    struct node *n = f->node;
    struct discover *d = n->tree->d;
    if (f->user && !d->closing)
        d->call.gone(d->owner, f);
    d->count.files -= f->database;
    d->wanted_files -= f->wanted;
    (void)map_remove_str(&n->tree->files, f->path);
    if (f->prev)
        f->prev->next = f->next;
    else
        n->file = f->next;
    if (f->next)
        f->next->prev = f->prev;
    free(f->path);
    free(f);
}

static void take_file(struct node *n, const struct scan_item *it)
{
    struct tree *t = n->tree;
    struct discover *d = t->d;
    cleanup_free char *path = join(n->path, it->name);
    struct discover_file *f = map_get_str(&t->files, path);
    if (!f) {
        f = util_zalloc(sizeof *f);
        f->path = TAKE_PTR(path);
        f->section = t->section;
        f->node = n;
        f->next = n->file;
        if (f->next)
            f->next->prev = f;
        n->file = f;
        map_put_str(&t->files, f->path, f);
    }
    f->dev = it->dev;
    f->ino = it->ino;
    d->wanted_files -= f->wanted;
    f->wanted = false;
    if (it->database && !f->database) {
        f->database = true;
        d->count.files++;
    } else if (!it->database && !f->user) { /* once taken it stays: the database says what is wrong */
        d->count.files -= f->database;
        f->database = false;
        uint64_t wait = ++f->tries > EAGER_TRIES
                            ? (uint64_t)50 << MIN(f->tries - EAGER_TRIES, 8u)
                            : 0;
        f->next_ms = clk_mono_ms() + MIN(wait, (uint64_t)TRY_MAX_MS);
    }
    if (!f->user) {
        f->mark[0] = it->db;
        f->mark[1] = it->wal;
        if (!f->again)
            offer(d, f);
    }
}

/* ---- directories ------------------------------------------------------------------------------- */

static void node_enter(struct node *n)
{
    struct tree *t = n->tree;
    map_put(&t->visited, &n->id, sizeof n->id, n);
    /* first the watch, then the list: what appears in between is in one of them */
    watch_listen(t->d->watch, n->path, &n->listener);
    t->d->count.directories++;
    t->d->listing++;
    n->whole = true;
    mark_dirty(n, 0);
}

static struct node *node_new(struct tree *t, struct node *parent, const char *path, glob_at at)
{
    struct node *n = util_zalloc(sizeof *n);
    n->listener.event = on_event;
    n->d = t->d;
    n->tree = t;
    n->parent = parent;
    n->path = util_strdup(path);
    n->at = at;
    if (parent) {
        n->next = parent->child;
        if (n->next)
            n->next->prev = n;
        parent->child = n;
    }
    n->next_all = t->all;
    if (n->next_all)
        n->next_all->prev_all = n;
    t->all = n;
    map_put_str(&t->nodes, n->path, n);
    return n;
}

static void list_over(struct node *n)
{
    struct discover *d = n->tree->d;
    if (n->listed || n->twin)
        return;
    n->listed = true;
    d->listing--;
}

/* Another path led to the directory that is now out of use: perhaps it can be entered by that. */
static void wake_twins(struct tree *t, const struct node *old)
{
    for (struct node *n = t->twins ? t->all : NULL; n; n = n->next_all)
        if (n->twin && n->id.dev == old->id.dev && n->id.ino == old->id.ino && n->parent)
            want_name(n->parent, last_part(n->path));
}

/* with everything below it */
static void node_gone(struct node *n)
{
    struct tree *t = n->tree;
    while (n->child)
        node_gone(n->child);
    while (n->file)
        file_gone(n->file);
    if (n->twin) {
        t->twins--;
    } else {
        list_over(n);
        t->d->count.directories--;
        watch_deaf(t->d->watch, &n->listener);
        if (map_get(&t->visited, &n->id, sizeof n->id) == n)
            (void)map_remove(&t->visited, &n->id, sizeof n->id);
        wake_twins(t, n);
    }
    (void)map_remove_str(&t->nodes, n->path);
    if (n->parent) {
        if (n->prev)
            n->prev->next = n->next;
        else
            n->parent->child = n->next;
        if (n->next)
            n->next->prev = n->prev;
    }
    if (n->prev_all)
        n->prev_all->next_all = n->next_all;
    else
        t->all = n->next_all;
    if (n->next_all)
        n->next_all->prev_all = n->prev_all;
    if (t->cursor == n)
        t->cursor = n->next_all;
    n->dead = true;
    if (n->busy) {
        n->limbo_next = t->d->limbo;
        t->d->limbo = n;
    } else if (!n->dirty) {
        node_free(n);
    }
}

static void node_free(struct node *n)
{
    for (size_t i = 0; i < n->n_names; i++)
        free(n->name[i]);
    free(n->path);
    free(n);
}

static void take_dir(struct node *parent, const struct scan_item *it)
{
    struct tree *t = parent->tree;
    cleanup_free char *path = join(parent->path, it->name);
    struct node *n = map_get_str(&t->nodes, path);
    if (n && !n->twin && (n->id.dev != it->dev || n->id.ino != it->ino)) {
        node_gone(n); /* another directory under the same name */
        n = NULL;
    }
    if (!n) {
        n = node_new(t, parent, path, it->at);
        n->twin = true; /* until it is known not to be one */
        t->twins++;
    }
    if (!n->twin)
        return;
    bool known = n->id.ino == it->ino && n->id.dev == it->dev;
    n->id.dev = it->dev;
    n->id.ino = it->ino;
    struct node *other = map_get(&t->visited, &n->id, sizeof n->id);
    if (!other) {
        n->twin = false;
        t->twins--;
        node_enter(n);
        return;
    }
    if (!known) {
        /* it may have been renamed, and the event about its old name be on its way: look again */
        if (other->parent)
            want_name(other->parent, last_part(other->path));
        want_name(parent, it->name);
    } else if (!n->told) {
        n->told = true;
        log_line(LOG_INFO, "%s is the same directory as %s: looked at once", n->path, other->path);
    }
}

/* ---- answers ----------------------------------------------------------------------------------- */

static void drop_path(struct node *n, const char *name)
{
    cleanup_free char *path = join(n->path, name);
    struct discover_file *f = map_get_str(&n->tree->files, path);
    struct node *child = map_get_str(&n->tree->nodes, path);
    if (f)
        file_gone(f);
    if (child)
        node_gone(child);
}

static void take_item(struct node *n, const struct scan_item *it)
{
    cleanup_free char *path = it->what == SCAN_GONE ? NULL : join(n->path, it->name);
    if (it->what == SCAN_GONE) {
        drop_path(n, it->name);
    } else if (it->what == SCAN_FILE) {
        struct node *child = map_get_str(&n->tree->nodes, path);
        if (child)
            node_gone(child);
        take_file(n, it);
    } else {
        struct discover_file *f = map_get_str(&n->tree->files, path);
        if (f)
            file_gone(f);
        take_dir(n, it);
    }
}

/* what a whole list did not mention */
static void sweep(struct node *n, const struct scan_job *j)
{
    struct map there = MAP_INIT;
    for (size_t i = 0; i < j->n_items; i++)
        map_put_str(&there, j->item[i].name, &j->item[i]);
    for (struct discover_file *f = n->file, *next; f; f = next) {
        next = f->next;
        const struct scan_item *it = map_get_str(&there, last_part(f->path));
        if (!it || it->what != SCAN_FILE)
            file_gone(f);
    }
    for (struct node *c = n->child, *next; c; c = next) {
        next = c->next;
        const struct scan_item *it = map_get_str(&there, last_part(c->path));
        if (!it || it->what != SCAN_DIR)
            node_gone(c);
    }
    map_free(&there);
}

static void maybe_settled(struct discover *d)
{
    if (d->settled || !d->offered_first || d->listing)
        return;
    d->settled = true;
    d->call.settled(d->owner);
}

static void unreadable(struct node *n, int errnum)
{
    bool missing = errnum == ENOENT || errnum == ENOTDIR;
    if (!missing && errnum != EMFILE && errnum != ENFILE)
        log_line(LOG_WARN, "cannot look for databases in %s: %s", n->path, strerror(errnum));
    if (missing && n->parent) {
        node_gone(n);
        return;
    }
    n->mark = (struct scan_mark){0, 0, 0};
    if (missing) /* the fixed directory of a pattern: it may come yet */
        while (n->child || n->file) {
            if (n->child)
                node_gone(n->child);
            else
                file_gone(n->file);
        }
}

/* the last job of a dead node is over */
static void limbo_leave(struct discover *d, struct node *n)
{
    for (struct node **p = &d->limbo; *p; p = &(*p)->limbo_next)
        if (*p == n) {
            *p = n->limbo_next;
            break;
        }
    if (!n->dirty)
        node_free(n);
}

/* which directory it is; of a root that is known only now */
static void identify(struct node *n, const struct scan_job *j)
{
    struct map *visited = &n->tree->visited;
    if (n->id.dev == j->dev && n->id.ino == j->mark.ino)
        return;
    if (map_get(visited, &n->id, sizeof n->id) == n)
        (void)map_remove(visited, &n->id, sizeof n->id);
    n->id.dev = j->dev;
    n->id.ino = j->mark.ino;
    if (!map_get(visited, &n->id, sizeof n->id))
        map_put(visited, &n->id, sizeof n->id, n);
}

/* whatever is done to the node, it lives until its jobs are over */
static bool on_listed(struct scan_job *j)
{
    struct node *n = j->data;
    struct discover *d = n->d;
    if (!n->dead && !j->n_used && !j->errnum && j->kind == SCAN_LIST && !j->same) {
        identify(n, j);
        sweep(n, j);
    }
    for (; j->n_used < j->n_items && !n->dead; j->n_used++) {
        if (j->n_used && scan_due(d->scan))
            return false;
        take_item(n, &j->item[j->n_used]);
    }
    n->busy--;
    if (n->dead) {
        if (!n->busy)
            limbo_leave(d, n);
        return true;
    }
    if (j->kind == SCAN_LIST)
        list_over(n);
    if (j->errnum)
        unreadable(n, j->errnum);
    else if (j->kind == SCAN_LIST)
        n->mark = j->mark;
    maybe_settled(d);
    return true;
}

/* ---- asking ------------------------------------------------------------------------------------ */

static struct scan_job *job_of(struct node *n, enum scan_kind kind)
{
    struct scan_job *j = util_zalloc(sizeof *j);
    j->kind = kind;
    j->done = on_listed;
    j->data = n;
    j->tree = n->tree->shared;
    j->tree->refs++;
    j->path = util_strdup(n->path);
    j->at = n->at;
    n->busy++;
    return j;
}

static void ask(struct node *n)
{
    struct discover *d = n->d;
    if (n->whole) {
        struct scan_job *j = job_of(n, SCAN_LIST);
        j->known = n->mark;
        d->count.lists++;
        scan_add(d->scan, j);
    }
    if (n->n_names) { /* also with a list, which may find the directory as it was */
        struct scan_job *j = job_of(n, SCAN_NAMES);
        j->name = util_alloc(n->n_names * sizeof(char *));
        memcpy(j->name, n->name, n->n_names * sizeof(char *));
        j->n_names = n->n_names;
        scan_add(d->scan, j);
    }
    n->n_names = 0;
    n->whole = false;
}

static void flush_dirty(struct discover *d)
{
    struct node *n = d->dirty, *keep = NULL;
    d->dirty = NULL;
    while (n) {
        struct node *next = n->dirty_next;
        n->dirty = false;
        if (n->dead) {
            if (!n->busy)
                node_free(n);
        } else if (n->busy) {
            n->dirty = true;
            n->dirty_next = keep;
            keep = n;
        } else if (n->whole || n->n_names) {
            ask(n);
        }
        n = next;
    }
    d->dirty = keep;
    if (keep && !d->closing)
        (void)uv_timer_start(&d->gather, on_gather, GATHER_MS, 0);
}

/* ---- now and then ------------------------------------------------------------------------------ */

static void on_later(uv_timer_t *timer);

void discover_offer(struct discover *d)
{
    uint64_t end_ms = clk_mono_ms() + OFFER_MS;
    if (!d->later_files)
        return;
    d->later_files = 0;
    for (struct tree *t = d->tree; t; t = t->next) {
        size_t at = 0;
        for (struct discover_file *f; (f = map_next(&t->files, &at));) {
            if (!f->again)
                continue;
            if (clk_mono_ms() < end_ms) {
                offer(d, f);
            } else { /* the loop has other things to do */
                d->later_files++;
                (void)uv_timer_start(&d->later, on_later, 1, LATER_MS);
            }
        }
    }
}

static void on_later(uv_timer_t *timer)
{
    struct discover *d = timer->data;
    discover_offer(d);
    for (struct tree *t = d->wanted_files ? d->tree : NULL; t; t = t->next) {
        size_t at = 0;
        for (struct discover_file *f; (f = map_next(&t->files, &at));)
            if (f->wanted && clk_mono_ms() >= f->next_ms)
                want_name(f->node, last_part(f->path));
    }
    /* a missing root has no watch to wake it */
    for (struct tree *t = d->tree; t; t = t->next)
        if (t->root && !t->root->busy && !watch_listening(&t->root->listener) && !t->root->mark.ino) {
            watch_deaf(d->watch, &t->root->listener);
            watch_listen(d->watch, t->root->path, &t->root->listener);
            want_whole(t->root);
        }
}

void discover_rescan(struct discover *d)
{
    for (struct tree *t = d->tree; t; t = t->next)
        for (struct node *n = t->all; n; n = n->next_all)
            if (!n->twin)
                want_whole(n);
}

static void look_at(struct node *n)
{
    if (n->twin) {
        if (n->parent)
            want_name(n->parent, last_part(n->path));
        return;
    }
    n->whole = true; /* with its mark: nothing is listed if nothing changed */
    mark_dirty(n, GATHER_MS);
    for (struct discover_file *f = n->file; f; f = f->next)
        if (!f->database)
            want_file(f);
}

void discover_look(struct discover *d, uint64_t ms, uint64_t interval_ms)
{
    for (struct tree *t = d->tree; t; t = t->next) {
        size_t n = ms >= interval_ms ? t->nodes.n : (size_t)(t->nodes.n * ms / interval_ms) + 1;
        for (size_t i = 0; i < MIN(n, t->nodes.n); i++) {
            t->cursor = t->cursor ? t->cursor : t->all;
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
    maybe_settled(d);
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
        limbo_leave(d, n);
    }
    while (d->dirty) {
        struct node *n = d->dirty;
        d->dirty = n->dirty_next;
        node_free(n);
    }
    uv_close((uv_handle_t *)&d->gather, on_handle_closed);
    uv_close((uv_handle_t *)&d->later, on_handle_closed);
}
