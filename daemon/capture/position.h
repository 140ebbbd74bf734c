/* position.h - the record that lets a later process go on where this one stopped, instead of
 * capturing the whole database again: <spool>/position, one line of text. It is a hint that proves
 * itself: when it does not fit what is found, it is not used. Worker threads. */
#ifndef WALSUP_POSITION_H
#define WALSUP_POSITION_H

#include "daemon/capture/capture.h"

struct position {
    uint64_t txid; /* the newest published file; the record is worth nothing beside another */
    uint64_t lineage;
    struct capture_pos pos;
    /* Which file it was: inode and time of birth, as long as the file system has that. The number of the
     * device is not part of it, because a reboot may change it. */
    uint64_t ino;
    int64_t birth_ns;
    /* Everything was captured and copied into the database when this was recorded under a guard in
     * slot 0, and the file looked like this. */
    bool drained;
    uint64_t size;
    int64_t mtime_ns, ctime_ns;
    uint64_t wal_ino, wal_size; /* and the -wal like this; wal_ino 0: there was none */
    int64_t wal_mtime_ns;
    /* not on record: when the -wal was created, 0: not known; the latest change to either file */
    int64_t wal_birth_ns, newest_ns;
    int64_t looked_ns; /* nor this: when it was looked at, by the clock of this machine's file systems */
    uint64_t checksum; /* of the database at that TXID, which the page map has reached; 0: it has not */
    uint64_t boot;     /* which boot of the machine wrote this; 0: not known */
};

/** position_look(p, path): take identity, size and times of the database file, and of its -wal; false if
 * there is no such file. */
bool position_look(struct position *p, const char *path);
/** position_was(p, st): after position_look(): the database file's size and times as st, seen before, has them. */
void position_was(struct position *p, const struct stat *st);
/** position_same_file(p, now), position_same_content(p, now): the same file; and not written since.
 * position_same_wal(p, now): nor was its -wal. */
bool position_same_file(const struct position *p, const struct position *now);
bool position_same_content(const struct position *p, const struct position *now);
bool position_same_wal(const struct position *p, const struct position *now);

/** position_settled_ms(p): how much longer the files must stay as they are until a later change is sure to give them
 * another time; 0: it is. The clock of a file system ticks in milliseconds; where no time has a fraction of a
 * second, in up to two seconds. */
uint64_t position_settled_ms(const struct position *p);
/** position_sealed(p): whether the file system's clock had ticked between the last change to the
 * database file and the look, so that a change after the look shows. Only for file systems of this
 * machine. position_seals(p): false: waiting does not help, because its times are whole seconds, or
 * ahead of the clock. */
bool position_sealed(const struct position *p);
bool position_seals(const struct position *p);
/** position_successor(p, salt): whether a WAL with this first salt can be the next one after the recorded one: SQLite
 * counts it up by one, unless the file was removed in between (`now` has another inode, or a later birth). */
bool position_successor(const struct position *p, const struct position *now, uint32_t salt);

/** position_boot(): of this boot; 0 if the kernel does not tell. Any thread. */
uint64_t position_boot(void);

/** position_read(dir, ret): false if there is none or it is damaged. */
bool position_read(const char *dir, struct position *ret);
/** position_write(dir, p, sync, e): replace the record; without sync a power cut may lose it. */
int position_write(const char *dir, const struct position *p, bool sync, struct err *e);

/** position_remove(dir): nothing is known of where it stood. */
void position_remove(const char *dir);

#endif
