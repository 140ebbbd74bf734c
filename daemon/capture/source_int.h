/* source_int.h - what the parts of a source share: source.c (the job, publishing), source_wal.c (guards,
 * checkpoints, frames: W1 to W8), source_attach.c (attach, proof of continuity, resync), source_leave.c (detach, the
 * last one out), source_aside.c (an application was the last one out), source_audit.c (a second opinion),
 * source_base.c (bases), source_map.c (the page map's life). Nobody else includes it. */
#ifndef WALSUP_SOURCE_INT_H
#define WALSUP_SOURCE_INT_H

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/format/wal.h"
#include "daemon/capture/pagemap.h"
#include "daemon/capture/position.h"
#include "daemon/capture/source.h"

#define SOURCE_STILL_PAGES 16

struct source {
    struct source_conf conf;
    char *path, *dir;
    struct spool_state spool;
    bool loaded;
    struct session *session;
    struct capture_pos pos;
    uint64_t txid;      /* last one given out */
    uint64_t published; /* last one in the spool */
    uint64_t lineage;
    int64_t last_stamp_ms;
    uint64_t clock_txid;     /* since when it grows, as in struct ltx_header */
    uint64_t stamped;        /* the history that it belongs to */
    struct ltx_header tip;     /* of the newest published file */
    uint64_t tip_checksum;     /* of the database after it; 0: not known */
    struct capture_file *out;  /* captured, not yet published; room for SOURCE_MAX_FILES, or NULL */
    size_t n_out;
    struct pagemap *map;       /* stands at txid, or is NULL */
    bool no_map;               /* there is none to be loaded either */
    uint64_t bytes_since_sync; /* published since the map on disk was made durable */
    struct capture_pos recorded; /* what the position file says */
    struct session_index last_look, guard_at, tried_at, forced_at;
    uint64_t guard_ms; /* when the guard took the place of another one */
    bool waited_for;   /* as source_is_waited_for() has seen it since */
    /* What the database file looked like when no checkpoint was under way: until the next one is begun nobody but a
     * tool that does not know SQLite writes into it. */
    struct {
        bool valid;
        uint32_t attempted, copied, salt[2];
        struct position file;
        uint64_t taken_ms;
        bool left;     /* by our own last write, rather than found */
        uint64_t sum[SOURCE_STILL_PAGES]; /* of its first pages: a small WAL may have all that a small file has */
    } still;
    /* Of this file, after a write, with nobody's writing: what is left cannot be told from what is found. */
    bool times_move;
    struct { /* nobody has it open, and it may still be being copied in: how it looks, and since when */
        uint64_t first_ms, since_ms;
        struct position file;
        bool held; /* somebody had it open all the same, and that was waited for */
        bool join; /* for somebody has it open, which need not be true any more when it is opened here */
        unsigned joins; /* that it was not, in a row */
    } arriving;
    /* Somebody wrote into the file who is no SQLite, and not before that time, unless it is as it stood before. */
    bool unexplained;
    uint64_t unexplained_since_ms;
    struct { /* which file it was when it was to be opened last */
        bool known;
        struct position id;
    } file;
    struct { /* when pos became restartable: from then on no checkpoint may write into the file, or another one was the
              * first to restart the WAL */
        bool known;
        struct position file;
        struct session_index x;
    } drained;
    bool changed_under_us; /* by something that is not SQLite, which may not be finished */
    uint64_t slow_until_ms; /* the disk was slow: no barrier before that */
    uint64_t unseen_at_ms; /* commits were on disk that the wal-index did not show; 0: never */
    struct { /* by the last close of an application, while we stood aside */
        uint64_t at_ms;    /* when it was noticed last */
        uint64_t stay_ms;  /* until then we hold our lock, because what it does would be dear to follow */
        bool rest;         /* nobody has it open now, and that is not all the time so */
        bool proven;       /* in this job: the file is as that close left it */
        bool compare;      /* it may not be: the pages are compared */
        bool read_again;   /* it came about while they were */
    } folded;
    unsigned without;      /* enum source_without; for tests */
    unsigned failures; /* jobs in a row */
    struct { /* of the database file, against other processes */
        bool held;
        dev_t dev;
        ino_t ino;
    } lock;
    struct source_counters count;
};

/* an outcome beside those of capture.h: no room for another file before the next publishing */
enum { OUT_FULL = 16 };

/* source.c */
/** source_next_file(s, path): options for the next level 0 file; *path is freed and made anew. */
struct capture_opts source_next_file(struct source *s, char **path);
void source_keep_file(struct source *s, const struct capture_file *f);
/** source_forget_out(s): what is not published was not captured. */
void source_forget_out(struct source *s);
int source_publish(struct source *s, struct source_result *ret, struct err *e);
void source_close_session(struct source *s);
/** source_unlock(s): another walsupd may have the database. In source_attach.c. */
void source_unlock(struct source *s);

/* source_wal.c */
/** source_capture_one(s, end, e): one more file, not beyond `end` (NULL: whatever there is). */
int source_capture_one(struct source *s, const struct session_index *end, struct err *e);
/** source_capture_all(s, e): everything that was committed when the call was made, and no race with a
 * writer that never pauses: 0, OUT_FULL, BROKEN or an error. */
int source_capture_all(struct source *s, struct err *e);
int source_handover(struct source *s, struct err *e);
int source_cycle(struct source *s, bool *ret_done, bool *ret_pinned, struct err *e);
int source_look_after_wal(struct source *s, const struct source_job *job, struct source_result *ret,
                          struct err *e);
void source_choose_checkpointer(struct source *s);
bool source_guard_is_old(struct source *s);
/** source_is_waited_for(s): somebody's checkpoint is under way and not over. It may wait for the read mark that the guard
 * has, because of what it read there before the guard moved to it, and nothing is new: so it has to move on. */
bool source_is_waited_for(struct source *s);
/** source_far_behind(s): a WAL that grows fast is captured in pieces, whatever the sync interval says:
 * the barrier must not find a long tail. */
bool source_far_behind(struct source *s);
/** source_wal_too_long(s): while nothing can be captured the guard makes the application's WAL grow. Its
 * disk is worth more than our continuity. */
bool source_wal_too_long(struct source *s);

/* source_attach.c */
/** source_start_over(s, ret, why, e): continuity is lost (or was never there: why NULL): the pages that
 * differ from the page map, or all of them. */
int source_start_over(struct source *s, struct source_result *ret, const char *why, struct err *e);
int source_attach(struct source *s, struct source_result *ret, struct err *e);
/** source_asleep(s): without attaching: nothing happened since the record of a detach. */
bool source_asleep(struct source *s);
/** source_look(s, p): what is noted is about the file that is open, not about one that has just taken its name. */
bool source_look(struct source *s, struct position *p);
/** source_another_file(s, ret, what): another file is another history: nothing that was known of the old one holds. */
void source_another_file(struct source *s, struct source_result *ret, const char *what);
/** source_record(s): what a later process needs to know to go on from here. */
void source_record(struct source *s);

/* source_leave.c */
/** source_capture_rest(s, ret, ret_x): captured and in the spool up to *ret_x. */
bool source_capture_rest(struct source *s, struct source_result *ret, struct session_index *ret_x);
/** source_position_now(s): what is to be recorded, but for the files' looks. */
struct position source_position_now(const struct source *s);
/** source_check_identity(s, ret): the file under the path is not the one that is open any more: another
 * database, another history. Or one of its side files is not: another session. */
void source_check_identity(struct source *s, struct source_result *ret);
/** source_written_over(s): the file was written since source_stand_still(), and by no checkpoint. */
bool source_written_over(struct source *s);
/** source_written_before(s): after session_folded(): that last close had nothing to copy, and yet
 * the file was written. */
bool source_written_before(struct source *s);
/** source_written_last(s): after the event of a write to the file that came after the last of one
 * to the -wal: the WAL has frames, no checkpoint of them was begun, and they are not newer than the
 * file: that was nobody who knows SQLite. */
bool source_written_last(struct source *s);
/** source_tampered(s): as source_written_over(), and tells it once. */
bool source_tampered(struct source *s);
/** source_stand_still(s, left): while no checkpoint is under way: the file is to stay as it is now, or as it was left by
 * our last write, unless left is NULL. */
void source_stand_still(struct source *s, const struct stat *left);
/** source_replaced(s, ret): after source_tampered(): if nobody else has the database open, forget the WAL that belonged
 * to the old content. sure: it was seen that somebody wrote into the file after the last frame.
 * True: done, and it is not attached any more. */
bool source_replaced(struct source *s, struct source_result *ret, bool sure);
/** source_detach(s, job, ret): so that the next attach can prove that nothing was missed, and the files are left as
 * SQLite's own last close would leave them. ret->stays: it did not, and stays attached. */
void source_detach(struct source *s, const struct source_job *job, struct source_result *ret);

/* source_aside.c */
/** source_folded(s, ret, removed_ns): after session_folded(): if that was the last close of an application, take over where
 * it left the database, and close the session: true. */
bool source_folded(struct source *s, struct source_result *ret, int64_t removed_ns);
/** source_closed_over(s, ret): after CAPTURE_BROKEN: an application's last close came in the middle of the job, so nothing was
 * lost to anybody: the session is closed, and the pages are compared in the next job: true. */
bool source_closed_over(struct source *s, struct source_result *ret);
/** source_stand_aside(s): after an attach, and before each job. */
void source_stand_aside(struct source *s);
/** source_restartable(s, x, file): everything is captured and copied, the next writer may restart the WAL, which is as x
 * says. `file`: looked at before that was seen; NULL: not known. If somebody's checkpoint waits for that, it is looked at
 * again until it is sealed (position_sealed); source_seal(s): the same at the end of a job, when nobody waits. */
void source_restartable(struct source *s, const struct session_index *x, const struct position *file);
void source_seal(struct source *s);
/** source_restarted(s, before, x): the WAL was restarted since source_restartable(), when it stood at `before`: whether what
 * it holds now, x, is all that was committed since. Whoever has the file for himself (locking_mode=EXCLUSIVE) restarts it
 * again and again, and our guard means nothing to him. */
bool source_restarted(struct source *s, const struct capture_pos *before, const struct session_index *x);
/** source_compared(s, bytes): all pages were compared, so many bytes. */
void source_compared(struct source *s, uint64_t bytes);
/** source_shut_out(s, ret): an application has had the database for itself for long: what is visible is captured, and
 * it is not attached any more: true. */
bool source_shut_out(struct source *s, struct source_result *ret);

/* source_audit.c */
/** source_changed_unexplained(s): that, and the file is not, or no longer known to be, as it stood: whatever has
 * happened to it since explains nothing. */
bool source_changed_unexplained(struct source *s);
/** source_waits_until_still(s, ret): nobody has the database open, and it is not certain yet that it is complete. */
bool source_waits_until_still(struct source *s, struct source_result *ret);
/** source_open(s, ret, e): session_open(), or session_join() if it was only because somebody has the database open that it
 * need not be waited for. Outcomes as there. */
int source_open(struct source *s, struct source_result *ret, struct err *e);
/** source_audit(s, ret): fill ret->doubt, ->alone, ->audited. May close the session. */
void source_audit(struct source *s, struct source_result *ret);
/** source_audit_asleep(s): the -wal holds commits that are not on record, or somebody has the database open who would
 * not commit to it: attach and see. */
bool source_audit_asleep(struct source *s);
void source_tell_doubt(struct source_result *ret, long pid);

/* source_base.c */
int source_snapshot(struct source *s, struct source_result *ret, bool base, struct err *e);

/* source_map.c */
/** source_map_load(s): the map of `published`, redone from the spool if need be, while nothing waits to
 * be published. Afterwards s->map, or no_map. */
void source_map_load(struct source *s);
/** source_map_redo(s): the same from what is durable, whatever the last record says. */
void source_map_redo(struct source *s);
/** source_map_forget(s): s->map is ahead of what was published, or failed: the file, with the spool, is the
 * truth. */
void source_map_forget(struct source *s);
/** source_map_drop(s, ret, e): it cannot be used: remove it, and say why once. */
void source_map_drop(struct source *s, struct source_result *ret, const struct err *e);
/** source_map_published(s, ret): everything captured is in the spool: the map may follow. */
void source_map_published(struct source *s, struct source_result *ret);
/** source_map_sync(s, ret): make it durable up to `published`, so that spool files may go. */
void source_map_sync(struct source *s, struct source_result *ret);
/** source_map_copy(s, ret): of the map at `published`, made durable, into ret->map_copy. */
void source_map_copy(struct source *s, struct source_result *ret);
/** source_map_survey(s, ret, e): make the missing map from the database, with everything captured. */
int source_map_survey(struct source *s, struct source_result *ret, struct err *e);

#endif
