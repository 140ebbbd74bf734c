/* framemap.h - page number -> newest WAL frame that carries it, for one range of frames. Pure. */
#ifndef WALSUP_FRAMEMAP_H
#define WALSUP_FRAMEMAP_H

#include "common/base/err.h"

struct framemap_entry {
    uint32_t pgno, frame; /* frame 0: not in the WAL */
};

struct framemap {
    struct framemap_entry *slot; /* hash table; pgno 0 = free */
    size_t n, cap;
};

#define cleanup_framemap cleanup(framemap_free)

void framemap_free(struct framemap *m);
/** framemap_put(m, pgno, frame, e): later frames win. ERR_NOMEM only. */
int framemap_put(struct framemap *m, uint32_t pgno, uint32_t frame, struct err *e);
/** framemap_has(m, pgno): whether the page is there. */
bool framemap_has(const struct framemap *m, uint32_t pgno);
/** framemap_sort(m, max_pgno): turn the table into an array of m->n entries in ascending page order
 * without pages beyond max_pgno; only slot[0..n) may be used after that. */
void framemap_sort(struct framemap *m, uint32_t max_pgno);

#endif
