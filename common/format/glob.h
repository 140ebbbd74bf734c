/* glob.h - patterns for paths: *, ?, [...] and **. Pure.
 *
 *   *      any characters within one name, also none
 *   ?      one character (of UTF-8; a byte where the name is none)
 *   [a-z]  one of these; [!a-z] or [^a-z] one that is not. [*] is the way to write a star itself
 *   **     alone between slashes: any number of directories, also none
 *
 * A leading dot is matched by a written dot only, so hidden files and directories stay out. Bytes
 * are compared as they are: no case folding, no normal forms. */
#ifndef WALSUP_GLOB_H
#define WALSUP_GLOB_H

#include "common/base/err.h"
#include "common/base/util.h"

struct glob;

/* A set of places within a pattern that a directory has brought a walker to; bit i: the first i
 * components are matched. Zero: nothing below can match. */
typedef uint64_t glob_at;

/** glob_is(path): whether it has any of * ? [ and so is a pattern. */
bool glob_is(const char *path);
/** glob_base_len(path): how many bytes of it are glob_base(), without the slash at its end. */
size_t glob_base_len(const char *path);
/** glob_new(pattern, ret, e): an absolute, canonical path. ERR_CONFIG: an unclosed [, or more than 60
 * components. */
int glob_new(const char *pattern, struct glob **ret, struct err *e);
struct glob *glob_free(struct glob *g);
/** glob_base(g): the directory before the first component with a wildcard, "/" or without a slash at
 * its end. Everything that matches lies below it. */
const char *glob_base(const struct glob *g);

/** glob_start(g): at the base. glob_step(g, at, name, n): from there to the entry of that name.
 * glob_file(g, at): whether a file there matches. glob_below(g, at): whether anything below a
 * directory there can. */
glob_at glob_start(const struct glob *g);
glob_at glob_step(const struct glob *g, glob_at at, const char *name, size_t n);
bool glob_file(const struct glob *g, glob_at at);
bool glob_below(const struct glob *g, glob_at at);
/** glob_match(g, path): an absolute, canonical path. */
bool glob_match(const struct glob *g, const char *path);

/** glob_aside(name, n): names that are never databases, nor directories with databases, whatever the
 * pattern says: SQLite's -wal, -shm, -journal; temporary files of a restore; Litestream's own
 * directories. */
bool glob_aside(const char *name, size_t n);

#endif
