/* restore_check.h - what SQLite says about a restored database, and whether that is damage. Blocking; any thread. Not
 * for use outside restore*.c and tests. */
#ifndef WALSUP_RESTORE_CHECK_H
#define WALSUP_RESTORE_CHECK_H

#include "common/base/err.h"

#define RESTORE_NOTE_SIZE 320u

struct restore_note {
    bool unchecked; /* SQLite could not check it, or not all of it */
    char text[RESTORE_NOTE_SIZE]; /* why, or which values its schema forbids; empty: there is nothing to say */
};

/** check_sqlite(path, full, proven, ret, e): quick_check, or integrity_check if full, of a database that nobody else
 * has open and that has neither -wal nor -journal. ERR_CORRUPT: it is damaged.
 *
 * What this SQLite has not got is no damage: collations and functions of the application are stood in for, so that
 * the pages are checked all the same; values that the schema forbids are a matter between the application and its
 * schema. If nothing but SQLite's word says what the file is (not `proven` by a checksum), a schema or pages that
 * SQLite cannot read count as damage. */
int check_sqlite(const char *path, bool full, bool proven, struct restore_note *ret, struct err *e);

#endif
