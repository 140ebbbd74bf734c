/* fence.h - two writers must not spoil a replica. Every object is put under the condition that there is
 * none of its name. When there is one, it is compared: it is the one we sent before (an answer was lost), or
 * somebody else continued this history, and then this replica stops, for good, until a person decides.
 *
 * Loop thread only. */
#ifndef WALSUP_FENCE_H
#define WALSUP_FENCE_H

#include "common/format/ltx.h"
#include "common/store/store.h"
#include "daemon/spool/spool.h"
#include "daemon/spool/spool_level.h"

struct uploader;

/* the object in the way, as far as it was read */
struct fence_seen {
    struct store_info info;
    uint8_t head[LTX_HEADER_SIZE], tail[LTX_TRAILER_SIZE];
    size_t head_n, tail_n;
};

enum fence_verdict {
    FENCE_OURS,    /* it is what we wanted to store */
    FENCE_FOREIGN, /* it is not */
};

/** fence_sign(m): say in an object's metadata who wrote it. */
void fence_sign(struct store_meta *m);
/** fence_judge(seen, mine, base): is it what we sent? A base may have been made anew in between: it is the
 * same when history, TXID and the database's checksum are. */
enum fence_verdict fence_judge(const struct fence_seen *seen, const struct spool_file *mine, bool base);
/** fence_judge_made(seen, mine): the same for what is made of commits that the replica has already, a merged
 * file or a snapshot. Made again after a crash it may differ in bytes: history, range and the database's
 * checksum count. */
enum fence_verdict fence_judge_made(const struct fence_seen *seen, const struct level_file *mine);
/** fence_tell(seen, mine, key, e): the sentence for a person: whose it is, from where, since when. */
int fence_tell(const struct fence_seen *seen, const struct spool_file *mine, const char *key, struct err *e);

/** fence_mark(out, txid, page_size, pages): an LTX file without pages, of a history of its own. Whoever takes
 * over puts it where the other writer's next file would go, so that this one is stopped there, although
 * our own numbers may be far beyond. Nothing restores from it: what follows is a whole database. */
void fence_mark(struct buf *out, uint64_t txid, uint32_t page_size, uint32_t pages);

/** fence_write(dir, target, e), fence_read(dir, target, ret), fence_remove(dir, target): the decision
 * outlives the process. Blocking, any thread. */
int fence_write(const char *dir, const char *target, const struct err *why, struct err *e);
bool fence_read(const char *dir, const char *target, struct err *ret);
int fence_remove(const char *dir, const char *target, struct err *e);

/* Histories that lost a replica to another writer: after a takeover nothing of them may go there any more, not even a
 * merged file that was made before. The newest ones are remembered. */
#define FENCE_LOST 4
struct fence_lost {
    uint64_t lineage[FENCE_LOST]; /* 0: none */
};
/** fence_has_lost(l, lineage), fence_lose(l, lineage). fence_lost_write(dir, target, l, e),
 * fence_lost_read(dir, target, ret): blocking, any thread. */
bool fence_has_lost(const struct fence_lost *l, uint64_t lineage);
void fence_lose(struct fence_lost *l, uint64_t lineage);
int fence_lost_write(const char *dir, const char *target, const struct fence_lost *l, struct err *e);
void fence_lost_read(const char *dir, const char *target, struct fence_lost *ret);

#endif
