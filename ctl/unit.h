/* unit.h - the unit that runs walsupd, as far as it decides what walsupd can reach: its file and drop-ins are read as
 * systemd reads them, without asking systemd, so that it works where that does not run. Only [Service] is kept. */
#ifndef WALSUP_UNIT_H
#define WALSUP_UNIT_H

#include "common/base/buf.h"
#include "common/base/err.h"

struct unit_line {
    char *key, *value; /* specifiers expanded, but for those of users */
    const char *file;  /* of the unit */
    unsigned line;
};

struct unit {
    char *name;  /* "walsupd.service" */
    char **file; /* the unit's own, then drop-ins in order */
    size_t n_files;
    struct unit_line *line;
    size_t n_lines;
};

/** unit_load(name, without, ret, e): the installed unit of this name, or the file if it has a slash in it. A drop-in
 * called `without` is left out (NULL: none). ERR_NOTFOUND: there is no such unit; it may be masked (ERR_EXISTS). */
int unit_load(const char *name, const char *without, struct unit **ret, struct err *e);
/** unit_of_config(config, without): the installed unit that runs walsupd with this configuration, an absolute path: of
 * walsupd.service, or of walsupd@NAME.service for /etc/walsup@NAME.ini. NULL: none. */
struct unit *unit_of_config(const char *config, const char *without);
/** unit_shipped(): what walsupd.service of this version closes, for where none is installed. */
struct unit *unit_shipped(void);
struct unit *unit_free(struct unit *u);

/** unit_get(u, key): the last line with this key, NULL if there is none or the last one is empty. */
const struct unit_line *unit_get(const struct unit *u, const char *key);
/** unit_is(u, key, value): whether it has that value; yes, true, on and 1 are the same. */
bool unit_is(const struct unit *u, const char *key, const char *value);
/** unit_next(u, key, last): the lines of a list, from the last empty one on; NULL begins, NULL ends. */
const struct unit_line *unit_next(const struct unit *u, const char *key, const struct unit_line *last);
/** unit_word(p, ret): the next word of a value, unquoted, malloc'ed; returns what follows, NULL at the end. */
const char *unit_word(const char *p, char **ret);
/** unit_lists(u, key, word, without): whether a list that a leading ~ may turn round, as that of
 * capabilities, has the word in the end; `without`: the answer where there is no line. */
bool unit_lists(const struct unit *u, const char *key, const char *word, bool without);
/** unit_capable(u, capability): whether the process has it, as "CAP_DAC_OVERRIDE". */
bool unit_capable(const struct unit *u, const char *capability);

/** unit_variable(u, name): of the environment of its process, malloc'ed; NULL: it is not set there (service_env.c). */
char *unit_variable(struct unit *u, const char *name);

/** unit_root(u): RootDirectory=, if the unit has a root of its own. NULL: that of the machine. */
const struct unit_line *unit_root(const struct unit *u);

/* ---- with whom it may talk (unit_net.c) ------------------------------------------------------ */

/** unit_admits(u, address, ret_line): whether IPAddressAllow= and IPAddressDeny= of the unit let
 * packets to and from that address pass: "192.0.2.1:443", "[2001:db8::1]:443", or without a port.
 * *ret_line is the line that does not. What is not an address passes. Those of slices are not known
 * here. */
bool unit_admits(const struct unit *u, const char *address, const struct unit_line **ret_line);

/* ---- what of the file system it sees (unit_paths.c) ------------------------------------------ */

enum unit_sight {
    UNIT_SEES,      /* as it is, writable as far as modes allow */
    UNIT_READ_ONLY, /* it can be read, and not written */
    UNIT_EMPTY,     /* a directory of its own lies there instead, empty when the unit starts */
    UNIT_HIDDEN,    /* nothing can be read there */
};

struct unit_view;

/** unit_view_new(u): the rules of the unit, with the symbolic links of today. unit_view_free(v). */
struct unit_view *unit_view_new(const struct unit *u);
struct unit_view *unit_view_free(struct unit_view *v);
/** unit_look(v, path, ret_line, ret_where): what the unit sees of a path, which need not exist: of
 * the nearest directory that does, then. *ret_line is the line that decides (NULL: none),
 * *ret_where the path in it. Each may be NULL. */
enum unit_sight unit_look(const struct unit_view *v, const char *path, const struct unit_line **ret_line,
                          const char **ret_where);
/** unit_brings(v, path): whether a line of the unit brings what lies there into its own root directory (unit_root). */
bool unit_brings(const struct unit_view *v, const char *path);
/** unit_view_missing(v): the first line with a path that has to exist, and does not, so that the unit cannot start.
 * NULL: none. */
const struct unit_line *unit_view_missing(const struct unit_view *v, const char **ret_path);
/** unit_real(path): malloc'ed; symbolic links resolved as far as there is something; what is not there stays. */
char *unit_real(const char *path);

#endif
