/* ctl.h - what every verb of walsupctl gets, and how its arguments are read. A verb returns the
 * program's exit status; it prints its own errors through out_fail. */
#ifndef WALSUP_CTL_H
#define WALSUP_CTL_H

#include <getopt.h>
#include <jansson.h>

#include "common/base/err.h"
#include "common/format/conf.h"

#define CTL_DEFAULT_CONFIG "/etc/walsup.ini"
#define CTL_KEPT_CONFIG "/var/lib/walsup/walsup.ini" /* daemon/core/adhoc.h */

struct ctl;

struct ctl_verb {
    const char *name;
    const char *args; /* one line */
    const char *help; /* one line */
    const char *more; /* the options, for --help */
    int (*run)(struct ctl *c);
};

struct ctl {
    const struct ctl_verb *verb;
    const char *config;
    const char *socket; /* --socket; NULL: what the configuration says */
    bool config_given;
    bool json;
    int argc; /* from the verb on: argv[0] is its name */
    char **argv;
};

enum { CTL_DONE = -1, CTL_STOP = -2 };

/** ctl_option(c, own, ret_status): the next option of the verb; own (ended by a zero row) are its
 * long options, their `val` is returned and optarg set. -c, --socket, --json and --help are dealt
 * with here. CTL_DONE: only operands are left, at c->argv + optind.
 * CTL_STOP: end with *ret_status. */
int ctl_option(struct ctl *c, const struct option *own, int *ret_status);
/** ctl_operands(c, min, max, ret_status): false, with *ret_status set, when another number is
 * left. */
bool ctl_operands(struct ctl *c, int min, int max, int *ret_status);
/** ctl_usage_error(c, fmt, ...): print it with a hint to --help; returns the exit status. */
int ctl_usage_error(struct ctl *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
/** ctl_load(c, ret, ret_status): the configuration; on failure prints all its problems and is
 * false. */
bool ctl_load(struct ctl *c, struct conf **ret, int *ret_status);
/** ctl_load_environment(c): set what the unit gives to the service, if this is its configuration. ctl_load does it. */
void ctl_load_environment(const struct ctl *c);
/** ctl_load_failed(c, e, errors): print why a configuration was not loaded, as ctl_load does;
 * returns the exit status. */
int ctl_load_failed(struct ctl *c, struct err *e, struct buf *errors);
/** ctl_socket(c, ret, ret_status): malloc'ed path of the control socket: --socket, what the
 * configuration says even if something else in it is wrong, else the default. */
bool ctl_socket(struct ctl *c, char **ret, int *ret_status);
/** ctl_absolute(path): malloc'ed; a relative path is taken from the working directory. */
char *ctl_absolute(const char *path);
/** ctl_resolve(c, conf, text, ret, e): the database with this name or path (also a relative one), of a
 * section of its own or of a pattern's, whether or not the file is there. */
int ctl_resolve(struct ctl *c, const struct conf *conf, const char *text, struct conf_found *ret,
                struct err *e);
/** ctl_db_name(c, text): what to call it to the daemon, malloc'ed: its name if the configuration can
 * tell, else the text, or the absolute path that it is. */
char *ctl_db_name(struct ctl *c, const char *text);
/** ctl_suggest(socket, text, e): the daemon does not know `text`: put the nearest of its names into the
 * hint. */
void ctl_suggest(const char *socket, const char *text, struct err *e);
/** ctl_print(c, b): a text that is data for other programs; with --json the member `text`. Returns 0. */
int ctl_print(const struct ctl *c, struct buf *b);
/** ctl_verb_help(v): print what `walsupctl VERB --help` prints. */
void ctl_verb_help(const struct ctl_verb *v);

/** ctl_reload(c, socket, ret, ret_status): have the daemon reload; on failure prints all that is wrong.
 * ctl_print_reload(reply): what it changed. */
int ctl_reload(struct ctl *c, const char *socket, json_t **ret, int *ret_status);
void ctl_print_reload(const json_t *reply);
/** ctl_reload_restart(reply, db, e): whether something in it, or only that database (NULL: any), needs a restart of the
 * daemon; what, in e. */
bool ctl_reload_restart(const json_t *reply, const char *db, struct err *e);

int cmd_status(struct ctl *c);
int cmd_list(struct ctl *c);
int cmd_metrics(struct ctl *c);
int cmd_sync(struct ctl *c);
int cmd_reload(struct ctl *c);
int cmd_snapshot(struct ctl *c);
int cmd_takeover(struct ctl *c);
int cmd_adopt(struct ctl *c);
int cmd_reconcile(struct ctl *c);
int cmd_add(struct ctl *c);
int cmd_remove(struct ctl *c);
int cmd_pause(struct ctl *c);
int cmd_resume(struct ctl *c);
int cmd_restore(struct ctl *c);
int cmd_points(struct ctl *c);
int cmd_verify(struct ctl *c);
int cmd_import(struct ctl *c);
int cmd_check(struct ctl *c);
int cmd_config(struct ctl *c);
int cmd_sandbox(struct ctl *c);
int cmd_version(struct ctl *c);

#endif
