#include "daemon/os/agenda.h"

#include "common/base/clk.h"

#define AT_ONCE 64 /* then the loop gets a turn */

struct agenda {
    uv_timer_t timer;
    struct agenda_entry **heap; /* heap[0] is not used; the earliest is heap[1] */
    size_t n, cap;
    void (*fire)(void *arg, struct agenda_entry *x);
    void *arg;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* ---- the heap ---------------------------------------------------------------------------------- */

static void put(struct agenda *a, size_t i, struct agenda_entry *x)
{
    a->heap[i] = x;
    x->place = i;
}

static void up(struct agenda *a, size_t i, struct agenda_entry *x)
{
    for (; i > 1 && a->heap[i / 2]->at_ms > x->at_ms; i /= 2)
        put(a, i, a->heap[i / 2]);
    put(a, i, x);
}

static void down(struct agenda *a, size_t i, struct agenda_entry *x)
{
    for (size_t k; (k = 2 * i) <= a->n; i = k) {
        if (k < a->n && a->heap[k + 1]->at_ms < a->heap[k]->at_ms)
            k++;
        if (a->heap[k]->at_ms >= x->at_ms)
            break;
        put(a, i, a->heap[k]);
    }
    put(a, i, x);
}

static void take_out(struct agenda *a, struct agenda_entry *x)
{
    size_t i = x->place;
    struct agenda_entry *last = a->heap[a->n--];
    x->place = 0;
    if (last == x)
        return;
    if (i > 1 && a->heap[i / 2]->at_ms > last->at_ms)
        up(a, i, last);
    else
        down(a, i, last);
}

/* ---- the timer --------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *t);

static void arm(struct agenda *a)
{
    if (a->closed || !a->fire)
        return;
    if (!a->n) {
        (void)uv_timer_stop(&a->timer);
        return;
    }
    uint64_t now = clk_mono_ms(), at = a->heap[1]->at_ms;
    uv_update_time(a->timer.loop);
    (void)uv_timer_start(&a->timer, on_timer, at > now ? at - now : 0, 0);
}

static void on_timer(uv_timer_t *t)
{
    struct agenda *a = t->data;
    uint64_t now = clk_mono_ms();
    for (unsigned i = 0; i < AT_ONCE && a->n && a->heap[1]->at_ms <= now; i++) {
        struct agenda_entry *x = a->heap[1];
        take_out(a, x);
        a->fire(a->arg, x);
    }
    arm(a);
}

void agenda_set(struct agenda *a, struct agenda_entry *x, uint64_t at_ms)
{
    struct agenda_entry *first = a->n ? a->heap[1] : NULL;
    if (x->place)
        take_out(a, x);
    x->at_ms = at_ms;
    if (++a->n >= a->cap) {
        a->cap = MAX(2 * a->cap, (size_t)16);
        a->heap = util_realloc(a->heap, a->cap * sizeof(struct agenda_entry *));
    }
    up(a, a->n, x);
    if (a->heap[1] != first || first == x)
        arm(a);
}

void agenda_sooner(struct agenda *a, struct agenda_entry *x, uint64_t at_ms)
{
    if (!x->place || x->at_ms > at_ms)
        agenda_set(a, x, at_ms);
}

void agenda_remove(struct agenda *a, struct agenda_entry *x)
{
    if (x->place)
        take_out(a, x); /* a timer that fires early finds nothing to do */
}

struct agenda_entry *agenda_first(const struct agenda *a)
{
    return a->n ? a->heap[1] : NULL;
}

bool agenda_look(struct agenda *a)
{
    arm(a);
    return a->n && a->heap[1]->at_ms <= clk_mono_ms();
}

/* ---- life -------------------------------------------------------------------------------------- */

struct agenda *agenda_new(uv_loop_t *loop, void (*fire)(void *arg, struct agenda_entry *x), void *arg)
{
    struct agenda *a = util_zalloc(sizeof *a);
    a->fire = fire;
    a->arg = arg;
    (void)uv_timer_init(loop, &a->timer);
    a->timer.data = a;
    return a;
}

static void on_closed(uv_handle_t *h)
{
    struct agenda *a = h->data;
    void (*closed)(void *) = a->closed;
    void *arg = a->closed_arg;
    free(a->heap);
    free(a);
    closed(arg);
}

void agenda_close(struct agenda *a, void (*closed)(void *arg), void *arg)
{
    a->closed = closed;
    a->closed_arg = arg;
    uv_close((uv_handle_t *)&a->timer, on_closed);
}
