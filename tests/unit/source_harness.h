/* source_harness.h - a source beside a database, and the shadow of all that it has captured. */
#ifndef SOURCE_HARNESS_H
#define SOURCE_HARNESS_H

#include "tests/unit/db_harness.h"

#include "daemon/capture/source.h"

struct src {
    struct tdb t;
    char *spool;
    struct source *s;
    struct source_result r;
    struct shadow sh;
    uint64_t lineage;
};

/* without: of source_set_without(): SOURCE_ASIDE if the application is in this process. */
static inline void src_start(struct src *c, unsigned without)
{
    struct source_conf conf = {.path = c->t.path, .dir = c->spool, .checkpoint_pages = 50,
                               .wal_limit_bytes = 1 << 20};
    c->s = source_new(&conf);
    source_set_without(c->s, without);
}

static inline void run(struct src *c, const struct source_job *job)
{
    source_run(c->s, job, &c->r);
}

/* A job that must work; its files go into the shadow. */
static inline void good(struct src *c, const struct source_job *job)
{
    run(c, job);
    if (c->r.err.code != ERR_OK)
        fail_msg("%s", c->r.err.msg);
    for (size_t i = 0; i < c->r.n_files; i++) {
        cleanup_free char *path = spool_path(c->spool, c->r.file[i].txid);
        struct ltx_header h = shadow_apply(&c->sh, path);
        assert_int_equal(h.min_txid, h.max_txid);
        assert_int_equal(h.node_id, c->r.lineage);
        assert_true(h.timestamp_ms == c->r.file[i].timestamp_ms);
        assert_true(c->r.file[i].checksum == shadow_checksum(&c->sh));
    }
}

/* A life of walsup's begins, beside an application in this process. */
static inline void src_again(struct src *c)
{
    src_start(c, SOURCE_ASIDE);
}

static inline void src_begin(struct src *c)
{
    *c = (struct src){.lineage = 0};
    tdb_new(&c->t, 4096);
    ex(c->t.app, "insert into t values(1, randomblob(20000))");
    c->spool = util_printf("%s/spool", c->t.dir);
    src_again(c);
    good(c, &(struct source_job){.load = true});
    assert_int_equal(c->r.state, SOURCE_LOADED);
}

static inline void capture(struct src *c)
{
    good(c, &(struct source_job){.capture = true});
}

static inline void done(struct src *c)
{
    c->s = source_free(c->s);
    shadow_done(&c->sh);
    free(c->spool);
    tdb_done(&c->t);
}

#endif
