/* from.h - where a database can be restored from: the replicas of a database of the configuration, or
 * a url. */
#ifndef WALSUP_FROM_H
#define WALSUP_FROM_H

#include "common/store/restore.h"
#include "ctl/ctl.h"
#include "ctl/out.h"

struct from_replica {
    const char *name; /* of the target; NULL: --url */
    const struct conf_target *target;
    char *replica;
};

struct from {
    struct ctl *c;
    uv_loop_t loop;
    const char *url, *target; /* as given; NULL: not */
    const char *db_name;      /* as it is called in messages */
    const char *db_path;      /* NULL: --url */
    struct from_replica *replica;
    size_t n;
    struct out_progress progress;
    /* private */
    struct conf *conf;
    struct conf_found found;
    struct conf_target url_target;
};

/** from_open(f, ret_status): fill f from c's operand (which may be a url), f->url and f->target;
 * false with *ret_status set. Either way from_done ends it. */
bool from_open(struct from *f, int *ret_status);
void from_done(struct from *f);

/** from_store(f, r, fn, arg, ret_where, e): fn(store, arg, e) with the store of a replica. Returns what
 * fn does, 1 if that was ERR_NOTFOUND because the replica is empty for certain. ret_where (may be
 * NULL): malloc'ed, where it is. */
int from_store(struct from *f, const struct from_replica *r,
               int (*fn)(struct store *s, void *arg, struct err *e), void *arg, char **ret_where,
               struct err *e);
/** from_restore(f, r, opts, ret, ret_where, e): restore_run that way, opts->replica left out. */
int from_restore(struct from *f, const struct from_replica *r, const struct restore_opts *opts,
                 struct restore_result *ret, char **ret_where, struct err *e);
/** from_choose(f, opts, ret, e): the replica that is furthest, by plans of opts; what is wrong with the
 * others is said. 1: all are empty. */
int from_choose(struct from *f, const struct restore_opts *opts, size_t *ret, struct err *e);

/** from_time(c, option, text, ret_ms, ret_status): a moment as given with an option; a future one is
 * refused. False with *ret_status set. */
bool from_time(struct ctl *c, const char *option, const char *text, int64_t *ret_ms, int *ret_status);
/** from_generation(c, text, ret_status): whether it is the name of a generation. */
bool from_generation(struct ctl *c, const char *text, int *ret_status);

#endif
