/* world.h - one database, one application, one source, and a ledger of every state that the
 * application committed. In a directory on memory; made anew for each run from one template. */
#ifndef WORLD_H
#define WORLD_H

#include <sqlite3.h>

#include "daemon/capture/source.h"

enum { WORLD_PAGE_SIZE = 512 };

struct world {
    char dir[100];
    char *db, *spool;
    char *replica; /* a directory of files that left the spool; NULL: nothing ever leaves it */
    int acks;      /* where states and TXIDs are noted outside of the run; -1: nowhere */
    sqlite3 *app;    /* the application's connection; NULL while it has none */
    sqlite3 *reader; /* of an application that began to read and does not end */
    struct source *s;
    struct source_conf conf;
    struct source_result r; /* of the last job */
    uint64_t *state;        /* hash of the image after each commit */
    size_t n_states, states_cap;
    uint64_t acked_txid; /* the newest that a job said to be in the spool */
    pid_t child;            /* an application in another process */
    bool any_error;  /* errors of jobs are expected: something is made to fail */
    bool may_break;  /* losing continuity is expected: the application broke it */
    bool elsewhere;  /* the application is in another process for the rest of the operation */
    bool may_lose;   /* the application does not sync, the power may go: states may be taken back */
    bool unsettled;  /* an application was killed in a commit: there, or not, is for the next reader to say */
    bool apart;      /* the application is in apart.h's process in this run */
    bool always_apart;     /* in each that begins */
    uint64_t copy_wait_ms; /* of its sources */
    unsigned without;      /* of its sources: enum source_without */
    bool hidden;     /* a commit could not be looked at: intermediate states cannot be judged */
    bool print;      /* what comes of each job */
    char violation[400]; /* the first one; empty: none */
    /* of all runs */
    unsigned long n_begun, n_jobs, n_files, n_pages, n_busy, n_fulls, n_states_checked;
};

extern struct world world;

/** world_setup(in): once: a directory below `in` (NULL: memory, else TMPDIR) and the template. Both
 * are gone when the process ends. */
void world_setup(const char *in);
/** world_adopt(dir, acks): instead of world_setup and world_begin: a directory that another process
 * made (or, with `make`, that this one makes), the ledger kept in the file acks. What was committed, but
 * not noted because the process died, is taken as it is found; that can be one state. */
void world_adopt(const char *dir, const char *acks, bool make);
/** world_begin(seed), world_end(): one run: fresh database, application connected, no source. */
void world_begin(uint64_t seed);
void world_end(void);
/** world_violation(fmt): note what was violated. */
void world_violation(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* ---- the application */
void world_app_open(void);
void world_app_close(void);
/** world_sql(fmt): SQLITE_BUSY is an answer like any other (false); every other error is a violation:
 * walsup harmed an application. The state after it goes into the ledger. */
bool world_sql(const char *fmt, ...) PRINTF_LIKE(1, 2);
/** world_record(): the state as a reader sees it now goes into the ledger. */
void world_record(void);

/** world_settle(): what an application was killed in is there or not, from now on. By the way it is checked
 * that nothing older is back. */
void world_settle(void);
/** world_note_state(hash): the same as world_record, seen by somebody else. */
void world_note_state(uint64_t hash);
/** world_image(d, ret_bytes): everything that a reader who begins now sees; to be freed with sqlite3_free. */
uint8_t *world_image(sqlite3 *d, sqlite3_int64 *ret_bytes);

/* An application that is a process of its own, with locks of its own. */
#define CHILD_CRASHES "crash" /* dies with a write transaction under way, half of it in the WAL */
#define CHILD_DIES "dies"     /* commits, tells the state, dies without closing anything */
#define CHILD_STAYS "stays"   /* the same, but stays connected until the end of the run */
/** world_child(how): returns when it has done its work. */
void world_child(const char *how);
/** world_child_main(argc, argv): first of all in main; does not return in such a process. */
void world_child_main(int argc, char **argv);

/* ---- walsup */
void world_source(uint64_t checkpoint_pages, uint64_t wal_limit_bytes);
void world_job(const struct source_job *job);
/** world_ship(): what is in the spool goes to the replica, and then out of the spool. */
void world_ship(void);
/** world_quiet(): capture until nothing is left; a violation if that does not come about. */
void world_quiet(void);
/** world_judge(): every file of the spool in order: TXIDs without a gap, each state one that was committed
 * and none older than the one before, the last one what a reader sees now; the database itself is
 * sound and unchanged. */
void world_judge(void);
/** world_afterlife(): a few jobs and commits more, which would show a position that is wrong. */
void world_afterlife(void);

#endif
