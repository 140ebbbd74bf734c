/* work.h - calls that may block, on libuv's threads, with walls between them: a file system that
 * hangs keeps the threads that are in it, and no others. Loop thread only, and one loop.
 *
 * Each piece of work names what it waits for: its wall. At most twice `at_once` pieces are under
 * way behind one wall, and at most so many that began within the last second behind all of them:
 * whoever takes longer waits for something, and leaves his place to others. The number of threads
 * bounds it all. */
#ifndef WALSUP_WORK_H
#define WALSUP_WORK_H

#include <uv.h>

#include "common/base/util.h"

struct work_wall;

struct work {
    uv_work_t uv; /* uv.data is the user's */
    /* work.c's */
    uv_work_cb run;
    uv_after_work_cb done;
    struct work_wall *wall;
    uint64_t begun_ms;
    bool waits, young, canceled;
    struct work *prev, *next; /* of those that wait behind the wall, or of the young ones */
};

/** work_setup(loop, at_once): before anything else on the loop, and before libuv's first work. Without it all work
 * begins as soon as a thread is free. */
void work_setup(uv_loop_t *loop, unsigned at_once);
/** work_queue(loop, w, wall, run, done): as uv_queue_work(). wall: any number that stands for a
 * file system, a directory, a server. */
void work_queue(uv_loop_t *loop, struct work *w, uint64_t wall, uv_work_cb run, uv_after_work_cb done);
/** work_cancel(w): as uv_cancel(): if it has not begun, done() comes soon, with UV_ECANCELED. */
void work_cancel(struct work *w);
/** work_unlink(loop, wall, path): the file is removed, later. Takes path over. */
void work_unlink(uv_loop_t *loop, uint64_t wall, char *path);
/** work_under_way(): pieces of work that were begun and are not done. */
unsigned work_under_way(void);
/** work_close(): after the last done(). */
void work_close(void);

#endif
