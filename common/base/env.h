/* env.h - the environment, with the secrets that were in it. /proc/PID/environ shows a process's environment to others
 * for as long as it lives, and children inherit it; so a secret is taken out of it at the start, and is found here. */
#ifndef WALSUP_ENV_H
#define WALSUP_ENV_H

#include "common/base/err.h"

/** env_get(name): the value, malloc'ed; also of what was hidden. NULL: it is not set. Any thread. */
char *env_get(const char *name);
/** env_hide(name): keep the value here and overwrite it in the environment, where it is empty from now on. Nothing
 * happens if it is not set or empty. Loop thread, or before there are threads. */
void env_hide(const char *name);
/** env_take(name): the same, and the variable is no longer set. Only before there are threads. */
void env_take(const char *name);
/** env_forget(): wipe what was hidden, before another environment is taken. Only before there are threads. */
void env_forget(void);
/** env_name_length(p): how many bytes at p are the name of a variable: letters, digits and '_', no digit first. */
size_t env_name_length(const char *p);
/** env_load(path, e): set what a file of NAME=VALUE lines has and the environment does not. As systemd reads an
 * EnvironmentFile: comments begin with # or ;, a value may be in quotes. A line that is none of these is an error
 * that names it. Only before there are threads. */
int env_load(const char *path, struct err *e);

#endif
