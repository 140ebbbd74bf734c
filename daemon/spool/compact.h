/* compact.h - files of one level of the spool to one file of the next. Worker threads; one at a time per
 * spool. The files that are merged are not changed, and may be dropped by others meanwhile. */
#ifndef WALSUP_COMPACT_H
#define WALSUP_COMPACT_H

#include "common/format/ltx.h"
#include "daemon/spool/spool_level.h"

#define COMPACT_MAX_FILES 2048u         /* merged at once */
#define COMPACT_MAX_BYTES (512u << 20)

struct compact_job {
    const char *dir; /* the spool directory */
    unsigned level;  /* of the result: 1 to SPOOL_LEVELS */
    enum ltx_encoding encoding;
    const struct level_file *in; /* of the level below, each following the one before it, of one lineage */
    size_t n;
};

enum compact_outcome { COMPACT_GONE = 1 /* a file is not there any more: look again */ };

/** compact_run(job, ret, e): at least one file. ERR_CORRUPT: a file is damaged, or they do not follow each
 * other. */
int compact_run(const struct compact_job *job, struct level_file *ret, struct err *e);

#endif
