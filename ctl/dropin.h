/* dropin.h - the file that `walsupctl add` makes of a database: one section, in the directory that `include` of the
 * configuration names. */
#ifndef WALSUP_DROPIN_H
#define WALSUP_DROPIN_H

#include "ctl/ctl.h"

/** dropin_path(conf, config, name, e): where the file of database `name` lies, malloc'ed; NULL:
 * there is no include that would read one. */
char *dropin_path(const struct conf *conf, const char *config, const char *name, struct err *e);
/** dropin_is_ours(path): whether `add` made it. */
bool dropin_is_ours(const char *path);
/** dropin_write(path, text, e): add the mark, and make it visible whole; one that exists is ERR_EXISTS. */
int dropin_write(const char *path, const char *text, struct err *e);
/** dropin_judge(c, path, text, ret, ret_status): the whole configuration as it would be with that text (NULL: without
 * the file); false, with all problems printed, if it would be wrong. */
bool dropin_judge(struct ctl *c, const char *path, const char *text, struct conf **ret, int *ret_status);

#endif
