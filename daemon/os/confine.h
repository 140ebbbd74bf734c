/* confine.h - the second layer under the unit's sandbox: Landlock, by which the process gives up
 * everything that its configuration does not need, also where there is no systemd. Paths can be
 * written below the directories of databases, state and directory targets, and read below those of
 * the configuration, of keys and certificates, and of the system's own (/usr, /etc: files there are
 * replaced by renaming, so a rule for each would not last); connections go to the ports of the
 * targets. What was given up does not come back, so what a reload adds outside needs a restart. */
#ifndef WALSUP_CONFINE_H
#define WALSUP_CONFINE_H

#include "common/format/conf.h"

/** confine_apply(conf, conf_path): once, before there is any other thread. Never fails: it is a second layer.
 * confine_tell(): say in the log what came of it. */
void confine_apply(const struct conf *conf, const char *conf_path);
void confine_tell(void);
/** confine_missing(conf, conf_path, out): a line for each thing that conf needs and this process has given up; none if
 * it is not confined. */
void confine_missing(const struct conf *conf, const char *conf_path, struct buf *out);

#endif
