/* pagemap.h - what the newest captured state of a database looks like: the LTX checksum of every page,
 * and the database checksum that follows from them. It makes two things possible: every file that is
 * uploaded carries the checksum that a restore must arrive at, and a database whose continuity is lost
 * is compared page by page, so that only what differs is captured again.
 *
 * The file <spool>/pagemap: a header, then blocks of 512 bytes (a disk's sector, so none is ever torn)
 * with 63 entries of 8 bytes and a checksum over them, all big-endian. The header names the TXID the
 * map is known to be on disk for; entries may already be those of later TXIDs, as far as their files are
 * in the spool: applying those files again in order gives the exact state (a redo log). Spool files
 * are therefore removed only up to the header's TXID. Whatever does not add up makes the map unusable;
 * then there is none, and a full capture makes a new one.
 *
 * Changes are kept in memory until pagemap_flush(), which is for files that are in the spool for good.
 * Worker threads, one at a time per map. Errors are ERR_IO, ERR_NOSPC, ERR_NOMEM, and ERR_CORRUPT for a
 * map that must not be used; after any error the only useful call is pagemap_close(). */
#ifndef WALSUP_PAGEMAP_H
#define WALSUP_PAGEMAP_H

#include "common/base/err.h"

struct pagemap;

struct pagemap_state {
    uint64_t txid;     /* the state in memory */
    uint64_t durable;  /* the TXID in the header on disk; 0: nothing is on disk yet */
    uint64_t lineage;
    uint64_t checksum; /* of the database: LTX_CHECKSUM_FLAG | XOR of all page checksums */
    uint32_t page_size, pages;
};

enum pagemap_outcome { PAGEMAP_NONE = 1 /* there is no map */ };

/** pagemap_open(dir, ret, e): the map of this spool directory as its header describes it; its `checksum`
 * is that of the header's TXID. NONE if there is no file. */
int pagemap_open(const char *dir, struct pagemap **ret, struct err *e);
/** pagemap_create(dir, page_size, lineage, ret, e): a new, empty map, in a temporary file until
 * pagemap_flush() or pagemap_sync() puts it in the place of the old one. */
int pagemap_create(const char *dir, uint32_t page_size, uint64_t lineage, struct pagemap **ret,
                   struct err *e);
/** pagemap_close(m): what was not flushed is forgotten. NULL is fine; returns NULL. */
struct pagemap *pagemap_close(struct pagemap *m);
/** pagemap_remove(dir): no map is better than a wrong one. */
void pagemap_remove(const char *dir);

/** pagemap_get(m, pgno, ret, e): the page's checksum; 0 if the page is not in the database. */
int pagemap_get(struct pagemap *m, uint32_t pgno, uint64_t *ret, struct err *e);
/** pagemap_put(m, pgno, sum, e): a page of the next TXID. */
int pagemap_put(struct pagemap *m, uint32_t pgno, uint64_t sum, struct err *e);
/** pagemap_commit(m, txid, pages, e): all pages of that TXID were put; those beyond `pages` are gone. */
int pagemap_commit(struct pagemap *m, uint64_t txid, uint32_t pages, struct err *e);
/** pagemap_redo(m, path, e): put and commit the pages of an LTX file of the spool. */
int pagemap_redo(struct pagemap *m, const char *path, struct err *e);
/** pagemap_adopt(m, txid, pages, checksum): the entries are known to be those of this TXID: no redo. */
void pagemap_adopt(struct pagemap *m, uint64_t txid, uint32_t pages, uint64_t checksum);
/** pagemap_check(m, recount, e): read every entry and compare the sum with the checksum; with `recount`
 * (after a redo over entries that were newer already) the sum becomes the checksum instead. */
int pagemap_check(struct pagemap *m, bool recount, struct err *e);

/** pagemap_flush(m, e): hand the changes to the operating system; a new map takes the place of the old
 * one. Its blocks may be lost at a power cut, which is noticed: they were never anything else. */
int pagemap_flush(struct pagemap *m, struct err *e);
/** pagemap_sync(m, e): flush, make durable, and say so in the header: the spool files up to the map's
 * TXID are not needed for a redo any more. */
int pagemap_sync(struct pagemap *m, struct err *e);

const struct pagemap_state *pagemap_state(const struct pagemap *m);

#endif
