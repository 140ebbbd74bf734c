#include "daemon/capture/framemap.h"

void framemap_free(struct framemap *m)
{
    free(m->slot);
    *m = (struct framemap){NULL, 0, 0};
}

static size_t place(const struct framemap_entry *slot, size_t cap, uint32_t pgno)
{
    size_t i = (size_t)(pgno * 2654435761u) & (cap - 1);
    while (slot[i].pgno && slot[i].pgno != pgno)
        i = (i + 1) & (cap - 1);
    return i;
}

static int grow(struct framemap *m, struct err *e)
{
    size_t cap = m->cap ? m->cap * 2 : 256;
    struct framemap_entry *slot = calloc(cap, sizeof *slot);
    if (!slot)
        return err_set(e, ERR_NOMEM, "no memory for a map of %zu pages", m->n);
    for (size_t i = 0; i < m->cap; i++)
        if (m->slot[i].pgno)
            slot[place(slot, cap, m->slot[i].pgno)] = m->slot[i];
    free(m->slot);
    m->slot = slot;
    m->cap = cap;
    return 0;
}

int framemap_put(struct framemap *m, uint32_t pgno, uint32_t frame, struct err *e)
{
    if (m->n * 2 >= m->cap) {
        int r = grow(m, e);
        if (r < 0)
            return r;
    }
    struct framemap_entry *p = &m->slot[place(m->slot, m->cap, pgno)];
    m->n += !p->pgno;
    *p = (struct framemap_entry){pgno, frame};
    return 0;
}

bool framemap_has(const struct framemap *m, uint32_t pgno)
{
    return m->cap && m->slot[place(m->slot, m->cap, pgno)].pgno == pgno;
}

static int by_pgno(const void *a, const void *b)
{
    uint32_t x = ((const struct framemap_entry *)a)->pgno;
    uint32_t y = ((const struct framemap_entry *)b)->pgno;
    return (x > y) - (x < y);
}

void framemap_sort(struct framemap *m, uint32_t max_pgno)
{
    size_t n = 0;
    for (size_t i = 0; i < m->cap; i++)
        if (m->slot[i].pgno && m->slot[i].pgno <= max_pgno)
            m->slot[n++] = m->slot[i];
    m->n = n;
    if (n)
        qsort(m->slot, n, sizeof *m->slot, by_pgno);
}
