/* adhoc.h - walsupd DB URL: a configuration from the command line. It is kept as walsup.ini in the
 * state directory, where walsupctl finds it. */
#ifndef WALSUP_ADHOC_H
#define WALSUP_ADHOC_H

#include "common/base/buf.h"
#include "common/format/conf.h"

struct adhoc {
    const char *const *operand; /* NULL, or DB and one URL or several */
    size_t n;
    const char *const *set; /* KEY=VALUE, of [walsup] */
    size_t n_set;
};

/** adhoc_text(a, out, e): the configuration. ERR_USAGE, ERR_CONFIG: what is wrong with the operands. */
int adhoc_text(const struct adhoc *a, struct buf *out, struct err *e);
/** adhoc_keep(state_dir, text, ret_path, e): write it there, if it differs; *ret_path is malloc'ed. */
int adhoc_keep(const char *state_dir, const char *text, char **ret_path, struct err *e);

#endif
