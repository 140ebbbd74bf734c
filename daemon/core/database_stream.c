/* database_stream.c - a snapshot that is read and uploaded at the same time, from the database's side. */
#include "daemon/core/database_int.h"
#include "daemon/replica/stream.h"

void database_take_stream(struct database *db, struct snapshot *sn)
{
    db->stream = stream_start(db, sn);
}

bool database_wants_stream(const struct database *db, const struct uploader *u, uint64_t txid)
{
    if (db->closing || u->fenced)
        return false;
    if (u->needs_base)
        return !u->flight && txid >= u->acked;
    return history_wants_snapshot(db, u);
}

void database_streamed_to(struct database *db, struct uploader *u, bool base, const struct spool_file *f)
{
    if (base)
        uploader_based(u, f);
    else
        history_streamed(db, u, f);
}

void database_streamed(struct database *db)
{
    db->stream = NULL;
    if (db->closing) {
        database_maybe_closed(db);
        return;
    }
    for (size_t i = 0; i < db->n_up; i++)
        uploader_poke(db->up[i]);
    history_moved(db);
    database_poke(db);
}

void database_distrust(struct database *db)
{
    db->distrust = true;
    db->force = true;
}
