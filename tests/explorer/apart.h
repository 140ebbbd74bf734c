/* apart.h - an application that is a process of its own and does what it is told. Any of its statements
 * can be made to stop at a step of its own (a call of its connection into the VFS: a frame written, a sync,
 * a barrier before or inside the update of the wal-index, a lock), to continue there later, or to be
 * killed there.
 *
 * What it committed, and was told so, goes into the ledger of world.h. What it was killed in may have been
 * committed or not: the next one who reads decides that (world_settle). */
#ifndef APART_H
#define APART_H

#include "common/base/buf.h"

enum apart_answer {
    APART_DONE,
    APART_BUSY,    /* SQLITE_BUSY, an answer like any other; nothing was done */
    APART_STOPPED, /* at the step that was asked for: apart_go or apart_kill comes next */
    APART_FAILED,  /* any other error, which is noted as a violation unless world.any_error */
};

/* The one that stands for "the application" wherever world.apart is set, and another one. */
struct apart;
extern struct apart *const apart_app, *const apart_other;

/** apart_main(argc, argv): first of all in main; does not return in such a process. */
void apart_main(int argc, char **argv);

/* Each of these starts the process if there is none. stop: the step to stop at, 0: none. Or by what the step
 * is: APART_SYNC + n, before the nth sync of the WAL; APART_BARRIER + n, at the nth barrier after a frame was
 * written, the first of which is the one between the two copies of the wal-index' header. */
enum { APART_SYNC = 1000, APART_BARRIER = 2000 };
enum apart_answer apart_open(struct apart *a, unsigned stop);
enum apart_answer apart_sql(struct apart *a, unsigned stop, const char *sql);
/** apart_close(stop): an orderly last close as far as it is concerned. The process stays. */
enum apart_answer apart_close(struct apart *a, unsigned stop);
/** apart_go(): it continues where it was stopped, to the end. */
enum apart_answer apart_go(struct apart *a);
/** apart_kill(): SIGKILL, wherever it is. */
void apart_kill(struct apart *a);

bool apart_is_stopped(const struct apart *a);
bool apart_is_open(const struct apart *a);
/** apart_steps(): how many steps its last statement took, and the name of the one it stopped at. */
unsigned apart_steps(const struct apart *a);
const char *apart_where(const struct apart *a);

/** apart_hash(a, ret): the hash of that, without a word to the ledger; opens the database if it has to. */
bool apart_hash(struct apart *a, uint64_t *ret);
/** apart_image(ret): everything that a reader of that process sees now; false: it cannot read. */
bool apart_image(struct apart *a, struct buf *ret);
/** apart_ask(sql, ret, size): the first value of the first row as text, or the error. */
void apart_ask(struct apart *a, const char *sql, char *ret, size_t size);

#endif
