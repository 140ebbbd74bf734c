/* stream.h - a snapshot on its way to one or more replicas: read by slices on workers, uploaded in parts while it is
 * read. For databases whose snapshot should not lie on the disk as a whole.
 *
 * Reading waits for the slowest replica as long as the WAL, which the snapshot's guard keeps from being restarted, is
 * short enough; and it pauses after each slice for as long as that took. When the WAL gets long it reads on at full
 * speed, and what is not uploaded yet stays in the file. Loop thread only. */
#ifndef WALSUP_STREAM_H
#define WALSUP_STREAM_H

#include "daemon/capture/snapshot.h"
#include "daemon/spool/spool.h"

struct database;
struct stream;
struct uploader;

#define STREAM_BYTES (64ull << 20) /* a database so large is not staged */

/** stream_start(db, sn): takes sn over. database_streamed_to() for each replica that has got it, database_streamed()
 * at the end, when s is gone. */
struct stream *stream_start(struct database *db, struct snapshot *sn);
/** stream_txid(s); stream_moved(s): something changed that it may wait for: the WAL got longer. */
uint64_t stream_txid(const struct stream *s);
void stream_moved(struct stream *s);
/** stream_beat(s): of the job under way; NULL: there is none. */
struct beat *stream_beat(struct stream *s);
/** stream_close(s): cancel; database_streamed() comes all the same. */
void stream_close(struct stream *s);
/** stream_trouble(s, u): why u does not get it; NULL. */
const struct err *stream_trouble(const struct stream *s, const struct uploader *u);

#endif
