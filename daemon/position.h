/* position.h - the record that lets a later process go on where this one stopped, instead of
 * capturing the whole database again: <spool>/position, one line of text. It is a hint that proves
 * itself: when it does not fit what is found, it is not used. Worker threads. */
#ifndef WALSUP_POSITION_H
#define WALSUP_POSITION_H

#include <sys/stat.h>

#include "daemon/capture.h"

struct position {
    uint64_t txid; /* the newest published file; the record is worth nothing beside another */
    uint64_t lineage;
    struct capture_pos pos;
    uint64_t dev, ino;
    /* Everything was captured and copied into the database when this was recorded under a guard in
     * slot 0, and the file looked like this. */
    bool drained;
    uint64_t size;
    int64_t mtime_ns, ctime_ns;
    uint64_t wal_ino, wal_size; /* and the -wal like this; wal_ino 0: there was none */
    int64_t wal_mtime_ns;
    uint64_t checksum; /* of the database at that TXID; 0: not known */
};

/** position_stat(p, st): take identity and times of the database file. */
void position_stat(struct position *p, const struct stat *st);
/** position_stat_wal(p, st): of the -wal; NULL: there is none. */
void position_stat_wal(struct position *p, const struct stat *st);
/** position_same_wal(p, now): the -wal was not touched in between. */
bool position_same_wal(const struct position *p, const struct position *now);
/** position_same_file(p, st), position_same_content(p, st): the same inode; and not written since. */
bool position_same_file(const struct position *p, const struct stat *st);
bool position_same_content(const struct position *p, const struct stat *st);

/** position_read(dir, ret): false if there is none or it is damaged. */
bool position_read(const char *dir, struct position *ret);
/** position_write(dir, p, sync, e): replace the record; without sync a power cut may lose it. */
int position_write(const char *dir, const struct position *p, bool sync, struct err *e);

#endif
