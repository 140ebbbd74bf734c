/* restore_int.h - what restore.c (fetch, the whole), restore_list.c (list, plan), restore_time.c and
 * restore_v3.c share. Nobody else includes this. */
#ifndef WALSUP_RESTORE_INT_H
#define WALSUP_RESTORE_INT_H

#include "common/format/plan.h"
#include "common/store/layout.h"
#include "common/store/restore_publish.h"
#include "common/store/restore_disk.h"
#include "common/store/restore_fetch.h"
#include "common/store/restore_keep.h"
#include "common/store/restore_local.h"
#include "common/store/restore_round.h"

#define RESTORE_LEVELS (LTX_SNAPSHOT_LEVEL + 1u)

struct probes;

struct restore_level {
    struct plan_file *file;
    size_t n, cap;
};

struct restore {
    unsigned magic;
    uv_loop_t *loop;
    struct store *store;
    const struct restore_opts *opts;
    restore_progress_fn progress;
    void *arg;
    uv_timer_t tick;
    bool ticking;
    struct restore_round round;

    /* what is in the replica */
    struct restore_level level[RESTORE_LEVELS];
    struct plan_file *all; /* of every level */
    size_t n_all;
    bool v3;
    struct v3_file *v3_all;
    size_t n_v3, cap_v3;

    /* what of it is used: of v0.5 in plan, of v0.3 in v3_plan, and either way in `in` */
    struct plan_file *plan;
    struct v3_file *v3_plan;
    struct restore_input *in;
    size_t n_plan;
    struct probes *probes; /* restore_time.c */
    struct restore_point found, next; /* by time: the point, and the one after it */
    struct restore_point set_back;    /* and the first after a clock that was set back, if that makes it doubtful */
    int64_t set_back_from_ms;
    int spool;        /* v0.3 only */
    uint64_t planned; /* bytes of all files of the plan */
    uint64_t fetched; /* of them, by the end */
    struct restore_need need;
    struct fsx_tmp tmp; /* the output, until it is published */
    char *location;     /* names store and replica */
    struct keep keep;
    struct pages_kept kept; /* for the next attempt */
    uint64_t newer_than;    /* restore_list_newer */
    char *after;
    bool delta;             /* only what changed is wanted */
    struct pages pages;
    struct restore_job job;
    uv_work_t work;
    int (*fn)(struct restore *r, struct err *e);
    bool working;
    int work_result;
    struct err work_err;
};

/** restore_list(r, e): everything in the replica; ERR_NOTFOUND when that is nothing. Sets v3. */
int restore_list(struct restore *r, struct err *e);
/** restore_plan(r, e): after restore_list: what is used. */
int restore_plan(struct restore *r, struct err *e);
/** restore_list_newer(r, txid, e): of v0.5, level 0: what comes after it, to r->all. */
int restore_list_newer(struct restore *r, uint64_t txid, struct err *e);
/** restore_lay_out(r, e): the objects of r->plan (or v3_plan), to r->in. */
int restore_lay_out(struct restore *r, struct err *e);
/** restore_find_time(r, ret_txid, e): of v0.5: the last point until opts->until_ms; sets found and
 * next. */
int restore_find_time(struct restore *r, uint64_t *ret_txid, struct err *e);
/** restore_phase(r, name, total): for the display. */
void restore_phase(struct restore *r, const char *name, uint64_t total);
/** restore_work(r, fn, e): fn on a worker, while the loop goes on. */
int restore_work(struct restore *r, int (*fn)(struct restore *r, struct err *e), struct err *e);
/** restore_get_pages(r, all_whole, e): the pages of the plan to r->tmp.fd; sets pages, job.applied. */
int restore_get_pages(struct restore *r, bool all_whole, struct err *e);
/** restore_v3_fetch(r, e): all of the plan to the spool. */
int restore_v3_fetch(struct restore *r, struct err *e);
/** restore_v3_apply(j, out, e): what is in the spool becomes the database in the empty file `out`. */
int restore_v3_apply(struct restore_job *j, int out, struct err *e);
/** restore_init, restore_forget(r) (the plan and the lists), restore_done(r). */
void restore_init(struct restore *r);
void restore_forget(struct restore *r);
void restore_done(struct restore *r);

#endif
