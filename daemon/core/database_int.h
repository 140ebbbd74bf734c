/* database_int.h - what database.c (life, events), database_decide.c (scheduling), database_run.c (jobs),
 * database_sync.c (who waits for a sync) and
 * database_spool.c (the files waiting for replicas) share. Loop thread only. */
#ifndef WALSUP_DATABASE_INT_H
#define WALSUP_DATABASE_INT_H

#include "daemon/core/database.h"

/** database_poke(db): look whether something can be started. */
void database_poke(struct database *db);

/* database_decide.c */
void database_on_timer(uv_timer_t *t);

/* database.c */
/** database_is_quiet(db, now): quiet is counted from here; and an event that is told late, of what was
 * written before the events were back, is not yet the next busy time. */
void database_is_quiet(struct database *db, uint64_t now);

/* database_run.c */
void database_start_job(struct database *db, const struct source_job *job);
void database_set_hush(struct database *db, bool on);

/* database_stream.c */
/** database_take_stream(db, sn): the source has begun to read a snapshot. */
void database_take_stream(struct database *db, struct snapshot *sn);
/** database_wants_stream(db, u, txid): it should go there. database_streamed_to(db, u, base, f): it is there.
 * database_streamed(db): that was all. database_distrust(db): compare every page with the map. */
bool database_wants_stream(const struct database *db, const struct uploader *u, uint64_t txid);
void database_streamed_to(struct database *db, struct uploader *u, bool base, const struct spool_file *f);
void database_streamed(struct database *db);
void database_distrust(struct database *db);
/** database_maybe_closed(db): when nothing is left to wait for. */
void database_maybe_closed(struct database *db);

/* database_pause.c */
/** database_pause_load(db, p): what was on record when the spool was read; takes p over, which may be NULL. */
void database_pause_load(struct database *db, struct pause *p);
/** database_paused_job(db, job): what a paused database still does; false: nothing now. */
bool database_paused_job(struct database *db, struct source_job *job);
/** database_pause_left_ms(db): how long until its end is to be looked at; UINT64_MAX: it has none,
 * or it is over: then it is resumed. */
uint64_t database_pause_left_ms(struct database *db);
/** database_pause_check(db): tell those who wait for it that it is let go. database_pause_abandon(db): tell them
 * anyway. */
void database_pause_check(struct database *db);
void database_pause_abandon(struct database *db);

/* database_sync.c */
bool database_sync_unlink(struct database_sync **list, struct database_sync *w);
/** database_sync_finish(w, e): the answer, soon; e may be NULL. w is in no list any more. */
void database_sync_finish(struct database_sync *w, const struct err *e);
/** database_sync_check(db): answer those whose TXID is everywhere. */
void database_sync_check(struct database *db);
/** database_sync_wants_capture(db): somebody waits for one. Unlike `force` this does not cut the pause
 * after a failure short. */
bool database_sync_wants_capture(const struct database *db);
/** database_sync_ride(db): those who came before the job that starts now. */
void database_sync_ride(struct database *db);
/** database_sync_wants_map(db): one of them wants a copy of the page map. */
bool database_sync_wants_map(const struct database *db);
/** database_sync_arm(db, r): the job that just ended covers those who rode on it, if it left nothing
 * behind. */
void database_sync_arm(struct database *db, const struct source_result *r);

/* database_spool.c */
void database_file_add(struct database *db, const struct spool_file *f);
/** database_files_gone(db, last): those up to there were removed. */
void database_files_gone(struct database *db, uint64_t last);
/** database_files_to_drop(db, now_or_never, job): put into the job which files may go: every replica has
 * them, and there are enough to be worth two fsyncs, or there will be no better moment; or there is no
 * room for them. */
void database_files_to_drop(struct database *db, bool now_or_never, struct source_job *job);

#endif
