/* restore_disk.h - the file system a restore writes to: room, and what a killed one left there.
 * Blocking; any thread. Not for use outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_DISK_H
#define WALSUP_RESTORE_DISK_H

#include "common/base/fsx.h"

/* bytes that a restore takes while it runs; the fetched files go away at its end */
struct restore_need {
    uint64_t database; /* 0 = not known yet */
    uint64_t fetched;  /* as stored in the replica */
    uint64_t there;    /* of both, already on the disk */
};

/** restore_room(output, need, e): ERR_NOSPC, naming the file system, when it is certain not to fit.
 * A file system that does not say what is free has room. */
int restore_room(const char *output, const struct restore_need *need, struct err *e);
/** restore_no_room(output, need, e): e is ERR_NOSPC from somewhere below: say the same of it. */
int restore_no_room(const char *output, const struct restore_need *need, struct err *e);

/** restore_tmp_open(output, t, e): fsx_tmp_open, and locked for as long as this process has it. */
int restore_tmp_open(const char *output, struct fsx_tmp *t, struct err *e);
/** restore_sweep(output): remove what killed restores to `output` left beside it. One that runs holds
 * the lock of its file; failures do not matter. Returns the number of files removed. */
unsigned restore_sweep(const char *output);

#endif
