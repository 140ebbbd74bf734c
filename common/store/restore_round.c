#include "common/store/restore_round.h"

#define SLOT_MAGIC 0x5701e0a2u
#define TRIES 5u
#define PARALLEL_MAX 64u

/* Whether there is one. */
static bool take_job(struct restore_slot *s)
{
    struct restore_round *r = s->round;
    struct err e = {0};
    if (!r->take) {
        s->job = r->next_job;
        return r->next_job < r->n_jobs && ++r->next_job;
    }
    int k = r->ended ? 2 : r->take(s, &e);
    r->ended = k > 1;
    if (k < 0)
        restore_round_fail(r, &e);
    return !k;
}

static void next_job(struct restore_slot *s)
{
    struct restore_round *r = s->round;
    if (s->busy)
        r->n_busy--;
    s->busy = false;
    if (r->failed || !take_job(s))
        return;
    s->busy = true;
    r->n_busy++;
    s->got = 0;
    retry_ok(&s->retry);
    r->submit(s);
}

static void on_pause_over(uv_timer_t *t)
{
    struct restore_slot *s = t->data;
    if (s->magic != SLOT_MAGIC)
        abort();
    s->round->submit(s);
}

void restore_round_fail(struct restore_round *r, const struct err *e)
{
    if (r->failed)
        return;
    r->failed = true;
    r->err = *e;
    for (unsigned i = 0; i < r->n_slots; i++) {
        struct restore_slot *s = &r->slot[i];
        if (s->in_flight)
            store_cancel(&s->req);
        else if (s->busy && uv_is_active((uv_handle_t *)&s->pause)) {
            (void)uv_timer_stop(&s->pause);
            next_job(s);
        }
    }
}

/* What another try may mend: the network, the store's mood, an answer cut short. A request that is wrong stays so. */
static bool may_retry(const struct err *e)
{
    enum err_code code = e->code;
    return e->retry != RETRY_BUG &&
           (code == ERR_NET || code == ERR_TIMEOUT || code == ERR_STORE || code == ERR_CORRUPT ||
            code == ERR_BUSY);
}

void restore_slot_begin(struct restore_slot *s, char *key, store_done_fn done)
{
    free(s->key);
    s->key = key;
    s->info = (struct store_info){0};
    s->in_flight = true;
    s->req.done = done ? done : restore_slot_end;
}

void restore_slot_end(struct store_req *req)
{
    struct restore_slot *s = req->data;
    if (s->magic != SLOT_MAGIC)
        abort();
    struct restore_round *r = s->round;
    s->in_flight = false;
    if (!r->failed && req->err.code != ERR_OK) {
        uint64_t wait_ms = retry_after(&s->retry, &req->err);
        if (may_retry(&req->err) && s->retry.failures < TRIES) {
            (void)uv_timer_start(&s->pause, on_pause_over, wait_ms, 0);
            return;
        }
        r->vanished = req->err.code == ERR_NOTFOUND;
        restore_round_fail(r, &req->err);
    }
    next_job(s);
}

void restore_round_kick(struct restore_round *r)
{
    for (unsigned i = 0; i < r->n_slots && !r->failed; i++)
        if (!r->slot[i].busy)
            next_job(&r->slot[i]);
}

static int run(struct restore_round *r, void (*submit)(struct restore_slot *s), struct err *e)
{
    r->submit = submit;
    r->next_job = 0;
    r->failed = r->vanished = r->ended = false;
    restore_round_kick(r);
    while (r->n_busy || (r->take && !r->failed && !r->ended))
        (void)uv_run(r->loop, UV_RUN_ONCE);
    if (!r->failed)
        return 0;
    if (e)
        *e = r->err;
    return -(int)r->err.code;
}

int restore_round_run(struct restore_round *r, size_t n_jobs,
                      void (*submit)(struct restore_slot *s), struct err *e)
{
    r->take = NULL;
    r->n_jobs = n_jobs;
    return run(r, submit, e);
}

int restore_round_feed(struct restore_round *r, int (*take)(struct restore_slot *s, struct err *e),
                       void (*submit)(struct restore_slot *s), struct err *e)
{
    r->take = take;
    return run(r, submit, e);
}

void restore_round_init(struct restore_round *r, uv_loop_t *loop, struct store *s,
                        unsigned parallel, void *data)
{
    *r = (struct restore_round){.loop = loop, .store = s, .data = data};
    unsigned want = parallel ? parallel : store_connections(s);
    r->n_slots = MIN(MAX(want, 1u), PARALLEL_MAX);
    r->slot = util_zalloc(r->n_slots * sizeof *r->slot);
    for (unsigned i = 0; i < r->n_slots; i++) {
        struct restore_slot *slot = &r->slot[i];
        slot->magic = SLOT_MAGIC;
        slot->round = r;
        slot->req.data = slot;
        (void)uv_timer_init(loop, &slot->pause);
        slot->pause.data = slot;
    }
    r->n_handles = r->n_slots;
}

static void on_slot_closed(uv_handle_t *h)
{
    struct restore_slot *s = h->data;
    s->round->n_handles--;
}

void restore_round_done(struct restore_round *r)
{
    for (unsigned i = 0; i < r->n_slots; i++)
        uv_close((uv_handle_t *)&r->slot[i].pause, on_slot_closed);
    while (r->n_handles)
        (void)uv_run(r->loop, UV_RUN_ONCE);
    for (unsigned i = 0; i < r->n_slots; i++)
        free(r->slot[i].key);
    free(r->slot);
    r->slot = NULL;
    r->n_slots = 0;
}
