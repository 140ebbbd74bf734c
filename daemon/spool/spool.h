/* spool.h - one database's spool directory: LTX files that are captured but not yet in every
 * replica, and the facts that must survive a restart. A data diode: capture writes, uploaders read,
 * nothing here knows either.
 *
 *   <dir>/l0/<txid>-<txid>.ltx      captured, fsynced, waiting for the replicas
 *   <dir>/snapshot/<1>-<txid>.ltx   base for a replica that has none; scratch, swept at start
 *   <dir>/tip                       header of the newest file, once that file itself is gone
 *   <dir>/acked.<target>            how far that replica is: a hint; if lost, the store is listed
 *
 * TXID, lineage and position come from the newest file or the tip, so publishing a file is one
 * rename and nothing can get out of step with it.
 * Worker threads, one at a time per spool, except spool_path. */
#ifndef WALSUP_SPOOL_H
#define WALSUP_SPOOL_H

#include "common/base/fsx.h"
#include "common/format/ltx.h"

struct spool_file {
    uint64_t txid, size;
    int64_t timestamp_ms;
    uint64_t checksum; /* of the database after it; 0: not known */
    uint64_t lineage;
    bool whole; /* it has every page of the database */
};

struct spool_state {
    struct spool_file *file; /* ascending TXIDs */
    size_t n;
    bool has_tip;
    struct ltx_header tip; /* newest header known: of the last file, or the tip file */
    uint64_t tip_checksum; /* of the database at that TXID; 0: not known */
    char *damage;          /* why files were dropped; NULL: none was damaged */
};

/** spool_open(dir, ret, e): create the directories, sweep temporary files and old snapshots, read what is
 * there. A damaged file is removed together with everything older than it (a replica that lacks
 * them needs a new base); TXIDs are never reused. */
int spool_open(const char *dir, struct spool_state *ret, struct err *e);
void spool_state_done(struct spool_state *st);

/** spool_path(dir, txid), spool_snapshot_path(dir, txid): malloc'ed. */
char *spool_path(const char *dir, uint64_t txid);
char *spool_snapshot_path(const char *dir, uint64_t txid);

/** spool_mark(fd, checksum): the database checksum after this file, kept as an extended attribute.
 * spool_mark_read(fd): 0 if it has none. */
void spool_mark(int fd, uint64_t checksum);
uint64_t spool_mark_read(int fd);

/** spool_drop(dir, tip, tip_checksum, first, last, e): remove the files of TXIDs first..last, which every replica has.
 * tip is the newest header; it is stored before its own file goes. May be called again for files that
 * are gone already. */
int spool_drop(const char *dir, const struct ltx_header *tip, uint64_t tip_checksum, uint64_t first,
               uint64_t last, struct err *e);
/** spool_drop_snapshot(dir, txid, e). */
int spool_drop_snapshot(const char *dir, uint64_t txid, struct err *e);

/** spool_acked_read(dir, target, lineage, ret_txid): false if unknown, or said of another lineage. */
bool spool_acked_read(const char *dir, const char *target, uint64_t lineage, uint64_t *ret_txid);
int spool_acked_write(const char *dir, const char *target, uint64_t lineage, uint64_t txid,
                      struct err *e);

#endif
