/* needs.h - every file and directory that walsupd uses with a configuration: what Landlock has to
 * grant, what the unit has to open, what `walsupctl check` looks at. Blocking (symbolic links are
 * resolved by callers); any thread. */
#ifndef WALSUP_NEEDS_H
#define WALSUP_NEEDS_H

#include "common/format/conf.h"

enum need_kind {
    NEED_READ_FILE,
    NEED_READ_DIR,
    NEED_WRITE_DIR,
    NEED_WRITE_BESIDE, /* a file that is written, and others beside it: a database, a socket */
    NEED_RUN,          /* a program */
};

struct need {
    char *path; /* absolute */
    enum need_kind kind;
    const char *what; /* "db", "target", "configuration", "include", "state-dir", "socket", "walsup", "environment" */
    const char *name; /* of the database or target, else "" */
    const char *key;  /* what names it: a key of the section, or a variable */
};

struct needs {
    struct need *item;
    size_t n;
};

/** needs_collect(conf, conf_path, l): append what the configuration names; conf_path is where it was read from. The
 * texts but path belong to conf. needs_environment(l): append what the environment of this process names.
 * needs_done(l): free. */
void needs_collect(const struct conf *conf, const char *conf_path, struct needs *l);
void needs_environment(struct needs *l);
void needs_done(struct needs *l);

/** needs_parent(path): malloc'ed directory of an absolute path. */
char *needs_parent(const char *path);
/** needs_below(path, dir): whether path is dir or lies in it. */
bool needs_below(const char *path, const char *dir);

#endif
