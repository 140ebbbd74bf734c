/* snapshot.h - a whole database read slice by slice into one LTX file, while the application writes and captures go
 * on. It has connections and a guard of its own, so what it reads is the state of one TXID, however long that
 * takes. What was uploaded is given back to the file system at once: the file is a pipe with an elastic wall.
 * Worker threads, one at a time per snapshot. */
#ifndef WALSUP_SNAPSHOT_H
#define WALSUP_SNAPSHOT_H

#include "daemon/capture/capture.h"

struct snapshot;

struct snapshot_info {
    uint64_t txid, lineage, clock_txid;
    int64_t timestamp_ms;
    uint64_t checksum; /* what the page map says the database has at that TXID; 0: there is no map */
    uint32_t page_size, pages;
    const char *path; /* of the file, until snapshot_free */
};

/** snapshot_open(path, inode, ret, ret_x, e): connections to the database and a guard: from here on *ret_x can be
 * read. inode: only if it still is that file. BUSY and the other outcomes of session_open: not now. */
int snapshot_open(const char *path, const struct stat *file, struct snapshot **ret, struct session_index *ret_x,
                  struct err *e);
/** snapshot_begin(sn, dir, encoding, info, e): everything up to *ret_x is captured as info->txid. Positive: not now. */
int snapshot_begin(struct snapshot *sn, const char *dir, enum ltx_encoding encoding, const struct snapshot_info *info,
                   struct err *e);
const struct snapshot_info *snapshot_info(const struct snapshot *sn);
/** snapshot_bound(sn): no more bytes than this will come of it. */
uint64_t snapshot_bound(const struct snapshot *sn);
/** snapshot_slice(sn, bytes, ms, ret_size, ret_done, e): read on until so many bytes were written
 * or so much time has passed. *ret_size: all that is in the file now; done: that is the whole of
 * it, and its checksum is the map's. BROKEN: the guard did not hold. ERR_CORRUPT: pages of the file
 * are not those that were captured. */
int snapshot_slice(struct snapshot *sn, uint64_t bytes, uint64_t ms, uint64_t *ret_size, bool *ret_done, struct err *e);
/** snapshot_punch(sn, bytes): so much from the beginning is needed no more. */
void snapshot_punch(struct snapshot *sn, uint64_t bytes);
/** snapshot_checksum(sn): of the database, once it is done. */
uint64_t snapshot_checksum(const struct snapshot *sn);
/** snapshot_rest(sn): it is done: connections and guard go, the file stays. */
void snapshot_rest(struct snapshot *sn);
/** snapshot_free(sn): and the file as well. NULL is fine; returns NULL. */
struct snapshot *snapshot_free(struct snapshot *sn);

#endif
