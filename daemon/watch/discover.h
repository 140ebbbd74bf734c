/* discover.h - the databases that the configuration's patterns stand for: found at start, when they
 * appear, and missed when they go. Loop thread only; the looking is done on the scan thread.
 *
 * Each directory that may hold something is watched first and listed then, so that nothing falls
 * between. Events only say which names to look at: what is there is decided by looking. What is not
 * watched, and what no event announced, is looked at by discover_look(). */
#ifndef WALSUP_DISCOVER_H
#define WALSUP_DISCOVER_H

#include "common/format/conf.h"
#include "daemon/watch/scan.h"
#include "daemon/watch/watch.h"

struct discover;

/* A file that a pattern matches and that has an SQLite header. Owned by the discover, from found() to
 * gone(). */
struct discover_file {
    char *path;
    const char *section; /* name of the [db] section */
    uint64_t dev, ino;
    struct scan_mark mark[2]; /* of the file and its -wal when it was found */
    void *user;               /* the owner's; NULL while it is not taken */
    bool told;                /* the owner's: something was said about it */
    /* its own */
    struct node *node;
    struct discover_file *prev, *next;
    bool database, again, wanted;
    unsigned tries;
    uint64_t next_ms;
};

enum discover_answer {
    DISCOVER_TAKEN,
    DISCOVER_FOREIGN, /* somebody else's for as long as the configuration stays */
    DISCOVER_LATER,   /* not now; found() is called again from discover_look() */
};

struct discover_calls {
    enum discover_answer (*found)(void *owner, struct discover_file *f);
    void (*gone)(void *owner, struct discover_file *f); /* only if it was taken */
    void (*settled)(void *owner); /* once: every directory that there was has been listed */
};

void discover_new(uv_loop_t *loop, struct scan *s, struct watch *w, const struct discover_calls *calls,
                  void *owner, struct discover **ret);
/** discover_set(d, conf): look for what this configuration says. What the one before found and this one
 * does not is gone(); files that are not taken are offered again. conf is not kept. */
void discover_set(struct discover *d, const struct conf *conf);
/** discover_look(d, ms, interval_ms): to be called every `ms`, as watch_look(). */
void discover_look(struct discover *d, uint64_t ms, uint64_t interval_ms);
/** discover_offer(d): call found() again for the files that were put off. */
void discover_offer(struct discover *d);
/** discover_listing(d): directories that it has not seen before are being listed. */
bool discover_listing(const struct discover *d);
/** discover_rescan(d): list every directory once. */
void discover_rescan(struct discover *d);
/** discover_close(d, closed, arg): stop; no file is gone(). The scan must have been closed. */
void discover_close(struct discover *d, void (*closed)(void *arg), void *arg);

struct discover_counters {
    uint64_t directories, files, lists;
    uint64_t looked; /* directories at which the safety scan has looked */
};
const struct discover_counters *discover_counters(const struct discover *d);

#endif
