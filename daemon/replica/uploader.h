/* uploader.h - one database's way to one target: learns how far the replica is, then uploads the
 * spool's files in TXID order, one at a time, retrying for ever and saying so.
 *
 * Loop thread only. The uploader belongs to a struct database, which owns the list of files; the
 * uploader only remembers how far it got. */
#ifndef WALSUP_UPLOADER_H
#define WALSUP_UPLOADER_H

#include "common/store/retry.h"
#include "common/store/store.h"
#include "common/store/work.h"
#include "daemon/os/agenda.h"
#include "daemon/replica/fence_look.h"
#include "daemon/replica/inventory.h"
#include "daemon/spool/spool.h"

struct database;
struct database_replica;

/* One request, and everything that must live as long as it. */
struct uploader_flight {
    enum flight_kind {
        FLIGHT_FILE,
        FLIGHT_BASE,
        FLIGHT_LIST,
        FLIGHT_PROBE,
        FLIGHT_AHEAD,
        FLIGHT_IN_THE_WAY,
        FLIGHT_MARK,
        FLIGHT_UNDO,
        FLIGHT_LOOK
    } what;
    bool base;      /* FLIGHT_IN_THE_WAY: the put it is about was one of a base */
    uint64_t ahead; /* FLIGHT_AHEAD: the lowest TXID that is there behind acked; 0: none */
    struct fence_look look;
    struct buf mark;
    struct spool_file sending;
    char *key, *path, *after; /* after: of a listing */
    struct store_body body;
    struct store_meta meta;
    uint8_t head[LTX_HEADER_SIZE]; /* of the newest object: whose is it? */
    size_t head_n;
    struct uploader_looking { /* FLIGHT_LOOK */
        struct inventory_req ask;
        enum look_at { LOOK_INVENTORY, LOOK_TAIL, LOOK_NEWEST, LOOK_ANCHOR, LOOK_WHOLE, LOOK_FIRST } at;
        bool tail;         /* every object since the last merge, not only the newest */
        bool again;        /* something seemed to be missing: this is the second pass */
        uint64_t next;     /* TXID that has to be listed next */
        uint64_t whole;    /* the newest snapshot that was listed */
        struct store_info info;
    } *looking;
    struct store_req req;
};

struct uploader {
    unsigned magic;
    struct database *db;
    struct store *store;
    char *target;  /* name of the target */
    char *replica; /* path below the target's */
    uint64_t interval_ms;
    bool may_delete; /* of what is older than the retention */

    bool known;     /* acked is what the replica has; before that nothing is uploaded */
    uint64_t acked; /* highest TXID the store acknowledged */
    unsigned list_level;
    uint64_t list_max; /* highest TXID seen while listing */
    uint64_t list_l0;  /* and at level 0 */
    char *newest;      /* the object that carries the highest */

    struct uploader_flight *flight; /* the request under way, or NULL */

    struct spool_file snapshot; /* base waiting to be uploaded; txid 0: none */
    bool needs_base;            /* the replica's chain does not reach the oldest file */
    bool alone;                 /* nobody has put anything behind acked, where a base would go: it was looked at */
    uint64_t own_base;          /* TXID of the base put last, as long as its L0 file was not put */
    bool undo_base;             /* that name is another writer's: the base goes away again */
    bool streaming;             /* it, or a snapshot, is on its way by stream.c */
    uint64_t gone;              /* highest TXID whose spool file was found missing */

    bool flush;           /* upload now, whatever the interval says */
    uint64_t batch_last;  /* files up to this TXID belong to the batch under way */
    uint64_t next_due_ms; /* monotonic: when the next batch may start */
    /* Is what it holds still there? (uploader_look.c) */
    int64_t anchor_seen_ms; /* real time of the last look, since this process started, that found the newest object and
                               the whole database below it; 0: none yet. Storing a whole database counts as one */
    uint64_t looked_ms;     /* monotonic, of the same */
    uint64_t contact_ms;    /* monotonic: the store last answered as it should */
    bool look_wanted;       /* before anything else goes up */
    bool look_tail;         /* a thorough one */
    struct err *broken;     /* something is gone, until another whole database is there; NULL: nothing is */
    uint64_t broken_txid;   /* which has to reach up to there */
    struct agenda_entry look_due;

    struct fence_lost lost; /* histories of ours of which nothing goes there any more, since a takeover */
    bool fenced;   /* somebody else writes here: nothing is uploaded until a takeover; err says who */
    bool takeover; /* a person has decided: the next listing is of somebody else, whatever it says */
    struct retry retry;
    uint64_t retry_at_ms; /* monotonic; 0 = not waiting */
    struct err *err;      /* of the last failed attempt; NULL: it worked */
    uv_timer_t timer;
    bool timer_open;

    struct work note; /* writes acked.<target>, and fenced.<target> */
    bool noting, fence_noted;
    uint64_t noted; /* what acked.<target> says */
    uint64_t noting_txid, noting_lineage;
    int noting_fence; /* 1: write it, -1: remove it */
    struct fence_lost noting_lost;
    struct err noting_err;

    int64_t last_success_ms; /* real time; 0 = none since the start */
    uint64_t uploads, bytes, deleted;
    uint64_t level_bytes[LTX_SNAPSHOT_LEVEL + 1]; /* of bytes */
    /* what is known of its newest whole database, and how far back it reaches; 0: not yet */
    uint64_t snapshot_txid, snapshot_bytes;
    int64_t snapshot_ms, oldest_ms;
    bool closing;
};

/** uploader_new(db, r): the store outlives the uploader. */
struct uploader *uploader_new(struct database *db, const struct database_replica *r);
/** uploader_place(u, lineage): lineage and place of the replica in one number: what is remembered of how
 * far it is does not hold for another bucket or directory under the same target name. Any thread. */
uint64_t uploader_place(const struct uploader *u, uint64_t lineage);
/** uploader_learn(u, known, acked): what the spool directory says about the replica; when that is
 * nothing, the store is listed. */
void uploader_learn(struct uploader *u, bool known, uint64_t acked);
/** uploader_fence(u, why): stop, because of somebody else; known from before if `noted`. */
void uploader_fence(struct uploader *u, const struct err *why, bool noted);
/** uploader_takeover(u): go on behind whatever is there, with a history of its own. */
void uploader_takeover(struct uploader *u);
/** uploader_poke(u): start whatever can be started. Cheap; call after anything changed. */
void uploader_poke(struct uploader *u);
/** uploader_has(u, txid): the replica holds our history up to there, and what it stands on was seen since this process
 * started. */
bool uploader_has(const struct uploader *u, uint64_t txid);
/** uploader_due_ms(u): monotonic time at which a commit may be uploaded next (leading edge: now, if the
 * replica was quiet for an interval). */
uint64_t uploader_due_ms(const struct uploader *u);
/** uploader_pending(u, ret_files): bytes and number of spool files that the replica lacks. */
uint64_t uploader_pending(const struct uploader *u, uint64_t *ret_files);
/** uploader_based(u, f): the replica has a base up to there. */
void uploader_based(struct uploader *u, const struct spool_file *f);
/** uploader_want_look(u): somebody relies on the replica: before uploader_has() says yes, see that it is there, unless
 * that was seen a moment ago. uploader_look_due(u): the agenda says that it is time for one. */
void uploader_want_look(struct uploader *u);
void uploader_look_due(struct uploader *u);
/** uploader_look_again(u): what was seen of the replica does not count any more. */
void uploader_look_again(struct uploader *u);
/** uploader_anchored(u, txid): a whole database up to there was stored. uploader_mended(u): the objects that
 * seemed to be missing are there. */
void uploader_anchored(struct uploader *u, uint64_t txid);
void uploader_mended(struct uploader *u);
/** uploader_close(u): cancel; when nothing is in flight any more database_uploader_closed() is
 * called. uploader_free(u): after that, and after everybody else who may have something of the
 * replica's in flight: keepers, a stream. */
void uploader_close(struct uploader *u);
void uploader_free(struct uploader *u);

#endif
