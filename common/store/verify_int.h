/* verify_int.h - what verify.c (list, fetch, the whole), verify_replay.c (one file against the sums),
 * verify_plan.c (in which order, holes, what it means) share. Nobody else includes it, but tests. */
#ifndef WALSUP_VERIFY_INT_H
#define WALSUP_VERIFY_INT_H

#include "common/format/mapfile.h"
#include "common/format/plan.h"
#include "common/store/verify.h"

/* an object of the replica */
struct verify_file {
    struct plan_file f;
    char *name;
    char *why;
    enum verify_state state;
    bool read;     /* fetched and looked at */
    bool whole;    /* all pages of the database are in it */
    bool unusable; /* damaged, foreign or gone: nothing is built on it */
    bool mark;     /* of a takeover: it has no pages, and the next history begins behind it */
    bool gone;     /* not there any more when it was to be fetched */
    bool planned;  /* in the current order already */
    int64_t time_ms;
    uint64_t lineage; /* as its header or its metadata says; 0: Litestream's, or not read */
    uint64_t meta_checksum, meta_lineage; /* 0: it has none */
    int64_t meta_time_ms;
    uint64_t leads_to; /* the database checksum after it, applied where it belongs; 0: not known */
    uint64_t recorded; /* the same as written down, in the metadata or its trailer; 0: nowhere */
};

/* what is done with a file when its turn comes */
enum verify_action {
    VERIFY_READ,    /* its own rules only: no state that it could be applied to */
    VERIFY_CHECK,   /* and where it leads to from the present state */
    VERIFY_ADVANCE, /* and go there */
};

struct verify_step {
    size_t file;
    enum verify_action action;
};

/* Numbers of any amount in an unnamed file. */
struct verify_array {
    int fd;
    uint64_t *p;
    size_t cap;
};

/* the database at a TXID, as the checksums of its pages */
struct verify_sums {
    struct verify_array page; /* p[pgno]; 0: not there */
    uint64_t txid;            /* 0: nothing yet */
    uint64_t xor;             /* of all */
    uint32_t page_size, pages;
    uint64_t lineage;
    int64_t time_ms;
};

struct verify {
    struct verify_file *file;
    size_t n, cap;
    size_t *by_max; /* all of them, for those that a state is to be compared with */
    size_t next_max;
    struct verify_sums sums;
    struct verify_array list; /* page numbers and checksums of the file being read */
    struct verify_step *step;
    size_t n_steps;
    bool stopped; /* a file to go on with was unusable: the order has to be made anew */
    int map_fd;
    struct mapfile_header map;
    uint64_t map_xor; /* of its entries */
    struct verify_result *result;
};

/* verify_plan.c: pure */
/** verify_order(v, e): the steps from the present state on, so that each file is read at the state before
 * it, and the smallest steps are taken. */
int verify_order(struct verify *v, struct err *e);
/** verify_judge(v, opts): holes, points, whether the latest state restores: into v->result. */
void verify_judge(struct verify *v, const struct verify_opts *opts);
/** verify_blame(f, state, fmt, ...): f is not what it should be. The first reason is kept. */
void verify_blame(struct verify_file *f, enum verify_state state, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* verify_replay.c: blocking, any thread */
int verify_array_open(struct verify_array *a, const char *tmp_dir, struct err *e);
void verify_array_close(struct verify_array *a);
/** verify_step_run(v, step, fd, e): one step with the file's bytes in fd. What is wrong with the file is
 * noted in it; negative: trouble of our own. */
int verify_step_run(struct verify *v, const struct verify_step *step, int fd, struct err *e);

/* verify_map.c: blocking, any thread */
/** verify_map_open(v, fd): the map to compare with, -1: none. verify_map_meet(v): compare the present state with
 * it, if it is of this TXID. verify_map_close(v): no state comes any more. What came of it is in v->result. */
void verify_map_open(struct verify *v, int fd);
void verify_map_meet(struct verify *v);
void verify_map_close(struct verify *v);

#endif
