/* steps.h - everything that walsup does to a file, as numbered steps with a hook at each.
 *
 * A VFS shim, registered as the default one, lies under every connection that does not ask for
 * STEPS_APP_VFS by name: walsup's do not, the tests' applications do. POSIX locks within one process are
 * arbitrated by SQLite itself (one inode, one owner), so both sides meet as two processes would. The link
 * wraps (STEP_WRAPS in tests/engines.mk) add walsup's own file operations, and every look at the
 * wal-index, which makes no call that a VFS could see.
 *
 * Clocks are virtual: a pause takes no time and moves the clock instead, so that no run waits. */
#ifndef STEPS_H
#define STEPS_H

#include "common/base/util.h"

#define STEPS_APP_VFS "application" /* plain "unix", but waiting takes no time */

/* What the step is to do: go on, or fail with an errno (EIO and ENOSPC make sense). */
typedef int (*step_hook)(unsigned n, const char *what);

/** steps_install(): once, after session_setup. */
void steps_install(void);
/** steps_arm(hook): number from 1. The hook is not called for what it does itself. */
void steps_arm(step_hook hook);
/** steps_disarm(): no more hook; how many steps there were. */
unsigned steps_disarm(void);
/** steps_begin(seed): before a run: SQLite's random numbers, which salts come from, start anew. */
void steps_begin(uint64_t seed);
/** steps_clock_reset(): part of steps_begin. */
void steps_clock_reset(void);
/** steps_at(what): a step of the caller's own; 0 or the errno to fail with. */
int steps_at(const char *what);

/* During a step that is an fsync or a write of walsup's own: its descriptor. */
extern int steps_fd;

/* A control: fsyncs of walsup's own files do nothing, and say that they went well. */
extern bool steps_fsync_lies;

/* A control: read locks of walsup are granted, and not taken. Its guards guard nothing. */
extern bool steps_no_guard;

#endif
