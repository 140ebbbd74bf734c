/* pause.h - the record that a database is paused: a file in its spool directory, so that a restart keeps it.
 * Worker threads only, but for pause_new. */
#ifndef WALSUP_PAUSE_H
#define WALSUP_PAUSE_H

#include "common/base/err.h"

#define PAUSE_REASON_MAX 200u /* bytes */
#define PAUSE_FOR_MAX_MS (366ll * 24 * 3600 * 1000)

struct pause {
    int64_t since_ms, until_ms; /* real time; until 0: until it is resumed */
    unsigned uid;     /* who asked for it */
    char reason[];    /* maybe empty */
};

/** pause_new(since_ms, until_ms, uid, reason): free() it. */
struct pause *pause_new(int64_t since_ms, int64_t until_ms, unsigned uid, const char *reason);
/** pause_by(p, buf): who asked for it, "root" or "uid 1000": looking names up may take long. Returns buf. */
const char *pause_by(const struct pause *p, char buf[static 24]);
/** pause_read(dir): what is on record there; NULL: it is not paused, or its time is over: then the
 * record is removed. A record that cannot be read counts as one, with that for a reason: somebody
 * wanted it, and status shows it. */
struct pause *pause_read(const char *dir);
/** pause_write(dir, p, e), pause_remove(dir, e): durable when they return. */
int pause_write(const char *dir, const struct pause *p, struct err *e);
int pause_remove(const char *dir, struct err *e);

#endif
