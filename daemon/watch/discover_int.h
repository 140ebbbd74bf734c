/* discover_int.h - what discover.c (configuration, clocks) and discover_tree.c (directories and files)
 * share. Nobody else includes this. */
#ifndef WALSUP_DISCOVER_INT_H
#define WALSUP_DISCOVER_INT_H

#include "common/base/map.h"
#include "daemon/watch/discover.h"

#define NAMES_MAX 64   /* more than that in one directory: list it */
#define GATHER_MS 20   /* names of one directory are looked at together */
#define LATER_MS 500
#define REFUSED_MAX 1000 /* told */
#define OFFER_TICKS 10 /* of LATER_MS: what was put off is offered again */

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
    bool told;      /* that it is a twin, or cannot be read */
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
    struct map refused; /* paths that are not followed, as said; each its own value */
    struct node *dirty;
    struct node *limbo; /* dead, but a job is under way */
    uv_timer_t gather, later;
    unsigned ticks;
    bool offer_soon; /* there was no time for all of them */
    size_t later_files; /* offered and put off, at most */
    size_t wanted_files;
    size_t listing; /* directories that were never listed and are being */
    bool settled, offered_first, closing;
    unsigned open;
    struct discover_counters count;
    void (*closed)(void *arg);
    void *closed_arg;
};

/** node_new(t, parent, path, at): a directory that is not watched yet. node_enter(n): watch and list it.
 * node_gone(n): with everything below it; n is freed, maybe later. */
struct node *node_new(struct tree *t, struct node *parent, const char *path, glob_at at);
void node_enter(struct node *n);
void node_gone(struct node *n);
void node_free(struct node *n);
/** node_leave_limbo(d, n): the last job of a dead node is over. */
void node_leave_limbo(struct discover *d, struct node *n);
/** node_want_whole(n), node_want_name(n, name), node_want_file(f): look soon; at a file that is no
 * database not too often. node_mark_dirty(n, wait_ms): what n wants is asked for after that time. */
void node_want_whole(struct node *n);
void node_want_name(struct node *n, const char *name);
void node_want_file(struct discover_file *f);
void node_mark_dirty(struct node *n, uint64_t wait_ms);
/** node_offer(d, f): to the owner, if it is a database that is not taken. */
void node_offer(struct discover *d, struct discover_file *f);
void node_maybe_settled(struct discover *d);
const char *node_last_part(const char *path);

#endif
