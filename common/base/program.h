/* program.h - programs that the configuration names, run with nothing of ours: no capability, no descriptor, their own
 * session, the environment that is given. Any thread. */
#ifndef WALSUP_PROGRAM_H
#define WALSUP_PROGRAM_H

#include <sys/types.h>

#include "common/base/err.h"

/** program_may_run(path, e): whether nobody but root and our own user can have written the program, or can put another one in
 * its place: such a person could do what we may. 0, or ERR_PERM and others; the sentence does not name the path. Blocks on
 * disks. */
int program_may_run(const char *path, struct err *e);
/** program_start(argv, env, out, e): argv[0] is its absolute path. out: a descriptor for what it prints, or -1: nobody hears
 * it. What it says on standard error is not kept, it may be a secret. Its pid, which is also its process group; the caller
 * waits for it. A program that cannot be executed ends with status 127. */
pid_t program_start(char *const argv[], char *const env[], int out, struct err *e);

#endif
