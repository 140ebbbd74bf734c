/* patterns.h - patterns that stand for nothing any more: their directory is gone, its disk is not mounted, somebody
 * removed everything. Each database has left in good order then, so that nothing else would tell. Loop thread only. */
#ifndef WALSUP_PATTERNS_H
#define WALSUP_PATTERNS_H

#include <jansson.h>

#include "daemon/core/manager.h"

/** patterns_learn(m): once, at the start: which patterns had databases before, by what is in state-dir. */
void patterns_learn(struct manager *m);
/** patterns_found(m, section), patterns_gone(m, section): it has one more, one less. */
void patterns_found(struct manager *m, const char *section);
void patterns_gone(struct manager *m, const char *section);
void patterns_forget(struct manager *m);
/** patterns_lost(m): how many had databases and have none. */
size_t patterns_lost(const struct manager *m);
/** patterns_json(m): of those: section, path, detail. A new reference. */
json_t *patterns_json(const struct manager *m);

#endif
