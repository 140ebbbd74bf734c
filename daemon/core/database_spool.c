#include "daemon/core/database_int.h"

#include "common/base/log.h"

/* Removing files makes the page map durable first: two fsyncs, for so many files at once. */
#define DROP_FILES 64
#define DROP_BYTES (16u << 20)

void database_file_add(struct database *db, const struct spool_file *f)
{
    if (db->n_files == db->cap_files) {
        db->cap_files = db->cap_files ? db->cap_files * 2 : 4;
        db->file = util_realloc(db->file, db->cap_files * sizeof *db->file);
    }
    db->file[db->n_files++] = *f;
    db->spool_bytes += f->size;
}

void database_files_gone(struct database *db, uint64_t last)
{
    size_t n = 0;
    while (n < db->n_files && db->file[n].txid <= last)
        db->spool_bytes -= db->file[n++].size;
    if (n) /* else there may be no array */
        memmove(db->file, db->file + n, (db->n_files - n) * sizeof *db->file);
    db->n_files -= n;
    if (!db->n_files) {
        free(db->file);
        db->file = NULL;
        db->cap_files = 0;
    }
}

/* TXID that every replica has, and is on record to have, and that is merged: files up to there may go. */
static uint64_t done_with(const struct database *db)
{
    uint64_t min = db->shared && db->conf.history.level_ms[0] ? db->merged[0] : UINT64_MAX;
    for (size_t i = 0; i < db->n_up; i++)
        min = MIN(min, db->up[i]->known ? db->up[i]->noted : 0);
    return db->n_up ? min : 0;
}

void database_snapshot_used(struct database *db, uint64_t txid)
{
    bool wanted = history_needs_snapshot_file(db, txid);
    for (size_t i = 0; i < db->n_up; i++)
        wanted = wanted || db->up[i]->snapshot.txid == txid;
    if (!wanted)
        db->drop_snapshot = txid;
}

/* The spool is a place to wait in, with walls: what does not fit goes, oldest first, and a replica that
 * has not got it gets a base once it can be reached again. */
static size_t overflow(struct database *db, size_t n, uint64_t bytes)
{
    uint64_t limit = db->low_space ? 0 : db->conf.spool_limit_bytes;
    if (db->spool_bytes - bytes <= limit)
        return n;
    size_t before = n;
    while (n < db->n_files && db->spool_bytes - bytes > limit - limit / 4)
        bytes += db->file[n++].size;
    if (n > before && !db->overflowed) {
        char size[32];
        db->overflowed = true;
        log_about(LOG_OVERFLOW, db->name, NULL, "behind");
        log_line(LOG_ERROR,
                 "%s: %s (%s wait in it): the oldest %zu files are dropped though not every replica has them; one "
                 "that lacks them gets the whole database when it can be reached again",
                 db->name,
                 db->low_space ? "the spool's file system is full" : "the spool has reached its limit",
                 util_size(size, db->spool_bytes), n - before);
    }
    return n;
}

void database_files_to_drop(struct database *db, bool now_or_never, struct source_job *job)
{
    uint64_t acked = done_with(db), bytes = 0;
    size_t n = 0;
    while (n < db->n_files && db->file[n].txid <= acked)
        bytes += db->file[n++].size;
    if (db->overflowed && n == db->n_files)
        db->overflowed = false;
    if (n < DROP_FILES && bytes < DROP_BYTES && !now_or_never)
        n = 0, bytes = 0;
    n = overflow(db, n, bytes);
    if (!n)
        return;
    job->drop_first = db->file[0].txid;
    job->drop_last = db->file[n - 1].txid;
}
