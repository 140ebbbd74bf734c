/* discover_tree.c - the directories of a pattern: watched, listed, entered and left. */
#include "daemon/watch/discover_int.h"

#include <errno.h>
#include <sys/inotify.h>

#include "common/base/clk.h"
#include "common/base/log.h"

#define EAGER_TRIES 16 /* a file that is no database yet: so often at once, then more and more rarely */
#define TRY_MAX_MS 10000

static void flush_dirty(struct discover *d);

/* ---- what to look at --------------------------------------------------------------------------- */

static void on_gather(uv_timer_t *t)
{
    flush_dirty(t->data);
}

void node_mark_dirty(struct node *n, uint64_t wait_ms)
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

void node_want_whole(struct node *n)
{
    n->whole = true;
    n->mark = (struct scan_mark){0};
    node_mark_dirty(n, GATHER_MS);
}

void node_want_name(struct node *n, const char *name)
{
    for (size_t i = 0; i < n->n_names; i++)
        if (!strcmp(n->name[i], name))
            return;
    if (n->n_names < NAMES_MAX)
        n->name[n->n_names++] = util_strdup(name);
    else
        node_want_whole(n);
    node_mark_dirty(n, GATHER_MS);
}

const char *node_last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static char *join(const char *dir, const char *name)
{
    return util_printf("%s/%s", dir[1] ? dir : "", name);
}

void node_want_file(struct discover_file *f)
{
    struct discover *d = f->node->tree->d;
    if (clk_mono_ms() >= f->next_ms) {
        node_want_name(f->node, node_last_part(f->path));
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
        node_want_whole(n);
        return;
    }
    size_t len = strlen(name);
    if (glob_aside(name, len) || !glob_step(t->shared->glob, n->at, name, len))
        return;
    if (!(mask & (IN_MODIFY | IN_ATTRIB)) || (mask & IN_ISDIR)) {
        node_want_name(n, name);
        return;
    }
    cleanup_free char *path = join(n->path, name);
    struct discover_file *f = map_get_str(&t->files, path);
    if (!f)
        node_want_name(n, name);
    else if (!f->database)
        node_want_file(f);
}

/* ---- files ------------------------------------------------------------------------------------- */

void node_offer(struct discover *d, struct discover_file *f)
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
            node_offer(d, f);
    }
}

/* ---- directories ------------------------------------------------------------------------------- */

void node_enter(struct node *n)
{
    struct tree *t = n->tree;
    map_put(&t->visited, &n->id, sizeof n->id, n);
    /* first the watch, then the list: what appears in between is in one of them */
    bool watched = watch_listen(t->d->watch, n->path, &n->listener);
    t->d->count.directories++;
    t->d->listing++;
    if (!watched)
        return; /* on_event() comes */
    n->whole = true;
    node_mark_dirty(n, 0);
}

struct node *node_new(struct tree *t, struct node *parent, const char *path, glob_at at)
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
            node_want_name(n->parent, node_last_part(n->path));
}

/* with everything below it */
void node_gone(struct node *n)
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

void node_free(struct node *n)
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
            node_want_name(other->parent, node_last_part(other->path));
        node_want_name(parent, it->name);
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

/* Once, and not more than so many: whoever makes links makes them by the thousand. */
static void tell_refused(struct node *n, const char *path, const char *why)
{
    struct map *told = &n->d->refused;
    if (told->n >= REFUSED_MAX || map_get_str(told, path))
        return;
    char *key = util_strdup(path);
    map_put_str(told, key, key);
    log_line(LOG_WARN, "not replicated: below %s, %s", n->path, why);
}

static void take_item(struct node *n, const struct scan_item *it)
{
    cleanup_free char *path = it->what == SCAN_GONE && !it->refused ? NULL : join(n->path, it->name);
    if (it->refused)
        tell_refused(n, path, it->refused);
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
        const struct scan_item *it = map_get_str(&there, node_last_part(f->path));
        if (!it || it->what != SCAN_FILE)
            file_gone(f);
    }
    for (struct node *c = n->child, *next; c; c = next) {
        next = c->next;
        const struct scan_item *it = map_get_str(&there, node_last_part(c->path));
        if (!it || it->what != SCAN_DIR)
            node_gone(c);
    }
    map_free(&there);
}

void node_maybe_settled(struct discover *d)
{
    if (d->settled || !d->offered_first || d->listing)
        return;
    d->settled = true;
    d->call.settled(d->owner);
}

static void unreadable(struct node *n, int errnum)
{
    bool missing = errnum == ENOENT || errnum == ENOTDIR;
    if (!missing && !n->told)
        log_line(LOG_WARN, "cannot look for databases in %s: %s", n->path, strerror(errnum));
    n->told = n->told || !missing;
    if (missing && n->parent) {
        node_gone(n);
        return;
    }
    n->mark = (struct scan_mark){0};
    if (missing) /* the fixed directory of a pattern: it may come yet */
        while (n->child || n->file) {
            if (n->child)
                node_gone(n->child);
            else
                file_gone(n->file);
        }
}

/* the last job of a dead node is over */
void node_leave_limbo(struct discover *d, struct node *n)
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
            node_leave_limbo(d, n);
        return true;
    }
    if (j->kind == SCAN_LIST)
        list_over(n);
    if (j->errnum) {
        unreadable(n, j->errnum); /* which may free it */
    } else if (j->kind == SCAN_LIST) {
        n->mark = j->mark;
        n->told = false;
    }
    node_maybe_settled(d);
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
