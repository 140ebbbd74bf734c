/* hook.h - on-state-change: a program that is told when the state of a database changes. One at a time, for a limited
 * time, with nothing of the daemon's but what it is told; what changes meanwhile waits, one change for each database.
 * Whatever it does, nothing here waits for it. Loop thread only. */
#ifndef WALSUP_HOOK_H
#define WALSUP_HOOK_H

#include "common/base/util.h"

struct hook;
struct manager;
struct manager_db;

/* embedded in struct manager_db; zero: was fine when last told */
struct hook_db {
    const char *told;  /* state that the program knows, or will once it has run; NULL: replicating */
    const char *from;  /* what it knew before that; NULL: nothing is waiting to be told */
    struct manager_db *next;
};

/** hook_new(m): m->conf is looked at from now on. hook_close(h, closed, arg): a program that runs is killed. */
struct hook *hook_new(struct manager *m);
void hook_close(struct hook *h, void (*closed)(void *arg), void *arg);
/** hook_look(h, e): is its state another one than what was told? Cheap. hook_forget(h, e): it goes away. */
void hook_look(struct hook *h, struct manager_db *e);
void hook_forget(struct hook *h, struct manager_db *e);
/** hook_at_rest(e): the program knows that it is fine, or was never told anything else. */
bool hook_at_rest(const struct manager_db *e);

#endif
