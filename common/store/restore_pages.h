/* restore_pages.h - LTX files, from the newest to the oldest, become the pages of a database: which
 * file has the newest version of each page, what of the file has to be read for it, and the sums that
 * say whether all of it was right. Where the bytes come from is the caller's: restore_local.c,
 * restore_fetch.c.
 *
 * A bitmap remembers which pages a newer file has, so each page is written once. Because of that the
 * checksum of the database is the sum of what is written: it needs no memory for each page, and
 * nothing is read again.
 *
 * Small files are read whole, and so is every file if the replica does not say what the checksum of
 * the database is (Litestream wrote it): then all their pages are decoded, also the replaced ones,
 * and the file's own checksum is compared. Of a large file only the header, the page index and the
 * pages that nothing newer has are read otherwise. What the file's checksum would have said, the
 * database's says: it covers every page that is written. Which file is to blame it does not say;
 * restore.c then reads everything whole.
 *
 * Functions marked "locked" are for one thread at a time. Not for use outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_PAGES_H
#define WALSUP_RESTORE_PAGES_H

#include <stdatomic.h>

#include "common/format/ltx.h"

/* one file of the plan */
struct restore_input {
    char *name;       /* the object's, and for messages; the owner's of the plan */
    uint64_t off;     /* v0.3 only: in the spool, a multiple of restore_align() */
    uint64_t size;
    uint64_t min, max; /* what its name promises */
    uint64_t checksum, lineage; /* from the object's metadata, once it was asked; 0 = it has none */
};

/* what came of applying the files */
struct restore_applied {
    struct ltx_header newest;
    uint64_t lineage;
    uint64_t checksum; /* of the database that was written */
    uint64_t expected; /* what the source's was; 0 = the replica does not say */
    uint64_t dropped_bytes; /* as in struct restore_result */
    uint64_t kept_pages;    /* of an earlier attempt */
    bool in_part;           /* not every file was read whole */
};

/* pages that an earlier attempt has written to the output: those of its TXID */
struct pages_kept {
    uint8_t *map; /* bit n: page n; malloc'ed */
    uint32_t commit, page_size;
    uint64_t txid;
};

struct pages_file {
    struct restore_input *in;
    int fd;        /* where the rest is to be had; -1: elsewhere */
    uint8_t *buf;  /* the file from offset `base` on, malloc'ed: what the decoder needs, at least */
    size_t base;
    struct ltx_decoder d;
    atomic_size_t *held_bytes; /* less held_size when the file is freed; NULL: nobody counts */
    size_t held_size;
    struct err *bad; /* it cannot be opened, which matters only in its turn; malloc'ed */
    bool whole; /* everything is read */
    /* the engine's own */
    struct ltx_sum *part; /* one for each piece handed out, in order */
    size_t n_part, cap_part;
    size_t pending;  /* pieces not finished */
    uint32_t n_page; /* walked so far */
    uint64_t taken;  /* bytes of it in pieces, or read already */
    bool walked, held_back;
    struct ltx_index_entry held; /* walked, but it did not fit into the last piece */
    bool held_want;
};

/* some pages that lie close together */
struct pages_piece {
    struct pages_file *file;
    size_t part;
    uint64_t off, bytes; /* where they are in the file */
    struct ltx_index_entry *x;
    bool *want; /* whether x[i] is the newest version of its page */
    size_t n, cap;
    uint64_t checksum; /* of those */
    struct ltx_sum sum;
};

struct pages {
    /* set by the caller */
    struct restore_input *in; /* in the order of their TXIDs */
    size_t left;              /* not opened yet; they are taken from the end */
    int out;
    uint64_t whole_bytes; /* a file that is not larger is read whole */
    uint64_t piece_bytes, gap_bytes; /* of a piece at most; between its pages at most */
    bool all_whole;       /* every file is */
    bool delta;           /* in[0] need not begin at TXID 1: what is missing stays as it was */
    struct pages_kept kept;
    /* the newest file was opened: newest, expected are known. May drop `kept`; NULL: nothing */
    int (*started)(void *arg, struct pages *p, struct err *e);
    void *arg;
    atomic_uint_fast64_t *done, *total; /* bytes, for the display */
    /* readable when it is over; `have` also by the caller of a delta */
    uint8_t *have; /* bit n: page n of the result */
    uint64_t n_have;
    uint8_t *written; /* bit n: page n is on the disk, or with the kernel */
    bool kept_is_good; /* so is what is left of kept.map */
    struct ltx_header newest;
    uint64_t expected; /* database checksum that the newest file promises; 0 = it does not */
    struct restore_applied applied;
    /* the engine's own */
    struct restore_input *newest_in;
    uint64_t post_apply; /* of the newest file */
    uint64_t checksum;   /* of the pages written */
    bool in_part;
    /* the oldest file so far that says of which lineage it is */
    uint64_t lineage;
    const struct restore_input *lineage_in;
    uint32_t lineage_pages, lineage_commit;
    struct err mixed; /* another lineage came before it; told only if no file is damaged */
};

/** pages_whole(p, in): whether all of that file is to be read. Not before the newest is open. */
bool pages_whole(const struct pages *p, const struct restore_input *in);
/** pages_tail(p, size): how much of the end of a file of that size to read first: the page index is in it
 * as a rule. */
size_t pages_tail(const struct pages *p, size_t size);
/** pages_file_new(in): empty; belongs to whoever has it until pages_open. pages_file_free. */
struct pages_file *pages_file_new(struct restore_input *in);
void pages_file_free(struct pages_file *f);
/** pages_open(p, f, e): locked. The next file, in[left - 1], whose d is open and buf is set; it
 * belongs to p afterwards, also on failure. Decides f->whole. */
int pages_open(struct pages *p, struct pages_file *f, struct err *e);
/** pages_next(p, f, ret, e): locked. The next piece of the file opened last; 1: there is none, f is
 * not to be touched any more, and the next file may be opened if p->left is not 0. After a failure f is
 * the caller's, to be freed when none of its pieces is in other hands. */
int pages_next(struct pages *p, struct pages_file *f, struct pages_piece **ret, struct err *e);
/** pages_decode(p, x, bytes, page, page_bytes, e): any thread. `bytes` are those at x->off; page: a
 * buffer of page_bytes, at least a page. */
int pages_decode(const struct pages *p, struct pages_piece *x, const uint8_t *bytes, uint8_t *page,
                 size_t page_bytes, struct err *e);
/** pages_end(p, x, ok, e): locked. The piece was decoded, or (ok is false) will never be; frees it. */
int pages_end(struct pages *p, struct pages_piece *x, bool ok, struct err *e);
/** pages_finish(p, e): when all pieces ended: is everything there, and what it should be? */
int pages_finish(struct pages *p, struct err *e);
/** pages_drop_kept(p): nothing of an earlier attempt is used. */
void pages_drop_kept(struct pages *p);
/** pages_done(p): free what p has; files that are still walked are the caller's. */
void pages_done(struct pages *p);
/** pages_read(fd, p, n, off, name, e): n bytes of a local object; fewer are ERR_CORRUPT. */
int pages_read(int fd, void *p, size_t n, uint64_t off, const char *name, struct err *e);

#endif
