/* scan.h - a thread that looks at directories and files, so that the loop thread need not: what is in
 * a directory, which files are databases, what changed since the last look.
 *
 * The thread has a table of descriptors of its own. POSIX locks belong to a table, so it may open and
 * close a database to read its header without dropping the locks that the process has on it (I1).
 *
 * Loop thread only, but for what struct scan_job says. One job is done after the other, in order. */
#ifndef WALSUP_SCAN_H
#define WALSUP_SCAN_H

#include <uv.h>

#include "common/base/err.h"
#include "common/format/glob.h"

struct scan;

/* What tells one state of a file from another. mtime_ns 0 with an inode: it was written so recently that
 * a later write may not show; it differs from whatever is seen next. All zero: no such file. */
struct scan_mark {
    uint64_t ino;
    int64_t size_bytes, mtime_ns;
    bool linked; /* it has another name, which is no difference */
};

/* A database and its -wal. */
struct scan_pair {
    char *path;
    struct scan_mark db, wal;
    void *entry; /* the asker's */
};

enum scan_what { SCAN_GONE, SCAN_DIR, SCAN_FILE };

struct scan_item {
    char *name;
    enum scan_what what;
    bool link;     /* a symbolic link to it */
    bool database; /* a file with an SQLite header */
    char *refused; /* why it is not followed (whose.h): it is SCAN_GONE; or NULL */
    glob_at at;
    uint64_t dev, ino;
    struct scan_mark db, wal;
};

/* What a walk through one tree needs; shared by its jobs. The worker only reads it. */
struct scan_tree {
    unsigned refs; /* loop thread only */
    struct glob *glob;
    char **aside; /* directories not to enter, by whatever name they are reached */
    size_t n_aside;
};
void scan_tree_unref(struct scan_tree *t);

enum scan_kind {
    SCAN_LIST,  /* everything in `path` that matters for the pattern */
    SCAN_NAMES, /* the same for `name` alone; each gets an item */
    SCAN_PAIRS, /* marks of `pair` */
};

struct scan_job {
    enum scan_kind kind;
    /* called on the loop thread; false: call me again, the others wait (I have had my time) */
    bool (*done)(struct scan_job *j);
    void *data;
    /* SCAN_LIST, SCAN_NAMES; the job's own */
    struct scan_tree *tree; /* one reference */
    char *path;
    glob_at at;
    struct scan_mark known; /* SCAN_LIST: as the directory was; all zero: list it anyway */
    char **name;
    size_t n_names;
    /* the answer */
    int errnum; /* the directory could not be read */
    bool same;  /* it is as it was known: no items */
    uint64_t dev;
    struct scan_mark mark; /* of the directory, taken before it was read */
    struct scan_item *item; /* directories and files first, then what is reached by links */
    size_t n_items, n_used; /* n_used: for done() to remember how far it got */
    struct scan_pair *pair;
    size_t n_pairs;
    struct scan_job *next; /* scan's own */
};

/** scan_new(loop, ret, e): before any database is opened. */
int scan_new(uv_loop_t *loop, struct scan **ret, struct err *e);
/** scan_add(s, j): malloc'ed by the caller, owned by the scan; everything in it is freed after done(). Jobs
 * that are left when the scan is closed are freed without a call. */
void scan_add(struct scan *s, struct scan_job *j);
/** scan_due(): in a done() that works through many items: whether its time is over. */
bool scan_due(const struct scan *s);
/** scan_close(s, closed, arg): free s, then call closed. */
void scan_close(struct scan *s, void (*closed)(void *arg), void *arg);

/** scan_mark_of(path, ret): any thread; false: no such file, ret is all zero. */
bool scan_mark_of(const char *path, struct scan_mark *ret);
bool scan_mark_same(const struct scan_mark *a, const struct scan_mark *b);

#endif
