#include "daemon/core/berths.h"

#define LOADS_MAX 32

struct list {
    struct berth *first, *last; /* oldest first */
};

struct berths {
    unsigned max, taken, asked, waiting, loading;
    struct list in, line, load_line;
};

static void append(struct list *l, struct berth *x)
{
    x->prev = l->last;
    x->next = NULL;
    *(l->last ? &l->last->next : &l->first) = x;
    l->last = x;
}

static void unlink_from(struct list *l, struct berth *x)
{
    *(x->prev ? &x->prev->next : &l->first) = x->next;
    *(x->next ? &x->next->prev : &l->last) = x->prev;
    x->prev = x->next = NULL;
}

struct berths *berths_new(unsigned max)
{
    struct berths *b = util_zalloc(sizeof *b);
    b->max = MAX(max, 1u);
    return b;
}

struct berths *berths_free(struct berths *b)
{
    free(b);
    return NULL;
}

/* Some are kept free, because leaving takes its time: a commit must not wait for it. */
static unsigned spare(const struct berths *b)
{
    return b->max / 8;
}

static void ask(struct berths *b)
{
    unsigned want = b->taken + b->waiting + spare(b);
    unsigned n = want > b->max ? want - b->max : 0;
    for (struct berth *x = b->in.first, *next; x && b->asked < n; x = next) {
        next = x->next;
        if (x->asked)
            continue;
        x->asked = true;
        b->asked++;
        x->call->leave(x);
    }
}

/* Everybody for whom there is room, not only the first: one call may stand for several that left. */
static void serve(struct berths *b)
{
    unsigned room = b->max > b->taken ? b->max - b->taken : 0;
    for (struct berth *x = b->line.first; x && room; x = x->next, room--)
        x->call->enter(x);
}

void berths_resize(struct berths *b, unsigned max)
{
    b->max = MAX(max, 1u);
    ask(b);
    serve(b);
}

bool berths_enter(struct berths *b, struct berth *x)
{
    if (!b || x->where == BERTH_HAS)
        return true;
    unsigned ahead = 0;
    for (struct berth *y = b->line.first; y && y != x && ahead < b->max - MIN(b->taken, b->max); y = y->next)
        ahead++;
    if (b->taken + ahead < b->max) {
        if (x->where == BERTH_WAITS) {
            unlink_from(&b->line, x);
            b->waiting--;
        }
        x->where = BERTH_HAS;
        append(&b->in, x);
        b->taken++;
    } else if (x->where == BERTH_NONE) {
        x->where = BERTH_WAITS;
        append(&b->line, x);
        b->waiting++;
    }
    ask(b);
    return x->where == BERTH_HAS;
}

void berths_touch(struct berths *b, struct berth *x)
{
    if (!b || x->where != BERTH_HAS)
        return;
    if (b->in.last != x) {
        unlink_from(&b->in, x);
        append(&b->in, x);
    }
    if (x->asked && !b->waiting) {
        x->asked = false;
        b->asked--;
        ask(b);
    }
}

void berths_leave(struct berths *b, struct berth *x)
{
    if (!b || x->where == BERTH_NONE)
        return;
    if (x->where == BERTH_LOADS) {
        unlink_from(&b->load_line, x);
        x->where = BERTH_NONE;
        return;
    }
    bool had = x->where == BERTH_HAS;
    unlink_from(had ? &b->in : &b->line, x);
    if (had) {
        b->taken--;
        b->asked -= x->asked;
    } else {
        b->waiting--;
    }
    x->where = BERTH_NONE;
    x->asked = false;
    serve(b);
}

bool berths_load(struct berths *b, struct berth *x)
{
    if (!b)
        return true;
    if (b->loading < LOADS_MAX) {
        berths_leave(b, x); /* the line */
        b->loading++;
        return true;
    }
    if (x->where == BERTH_NONE) {
        x->where = BERTH_LOADS;
        append(&b->load_line, x);
    }
    return false;
}

void berths_loaded(struct berths *b)
{
    if (!b)
        return;
    b->loading--;
    if (b->load_line.first)
        b->load_line.first->call->enter(b->load_line.first);
}

unsigned berths_taken(const struct berths *b)
{
    return b->taken;
}
