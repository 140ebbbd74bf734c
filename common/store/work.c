#include "common/store/work.h"

#include <unistd.h>

#include "common/base/clk.h"
#include "common/base/map.h"

#define YOUNG_MS 1000
#define AHEAD 2 /* begun for each thread that is wanted: none has to wait until the loop gives it its next */
#define THREADS_EACH 4 /* walls that may hang, and one that does not */
#define THREADS_MIN 32u
#define THREADS_MAX 128u

struct work_wall {
    uint64_t key;
    unsigned running;
    struct work *first, *last; /* waiting */
    struct work_wall *prev, *next; /* of those at which somebody waits and may begin */
    bool ready;
};

static struct {
    unsigned at_once, threads; /* 0: no walls */
    unsigned running, n_young;
    struct work *young, *youngest; /* the oldest first */
    struct work_wall *ready, *last_ready;
    struct map walls;
    uv_timer_t timer;
} all;

/* ---- lists --------------------------------------------------------------------------------------- */

static void wall_unready(struct work_wall *x)
{
    if (!x->ready)
        return;
    *(x->prev ? &x->prev->next : &all.ready) = x->next;
    *(x->next ? &x->next->prev : &all.last_ready) = x->prev;
    x->prev = x->next = NULL;
    x->ready = false;
}

/* Where it belongs, at the end of the line. Freed when nobody needs it. */
static void wall_place(struct work_wall *x)
{
    wall_unready(x);
    if (!x->first && !x->running) {
        (void)map_remove(&all.walls, &x->key, sizeof x->key);
        free(x);
        return;
    }
    if (!x->first || x->running >= all.at_once)
        return;
    x->prev = all.last_ready;
    *(x->prev ? &x->prev->next : &all.ready) = x;
    all.last_ready = x;
    x->ready = true;
}

static struct work_wall *wall_get(uint64_t key)
{
    struct work_wall *x = map_get(&all.walls, &key, sizeof key);
    if (x)
        return x;
    x = util_zalloc(sizeof *x);
    x->key = key;
    map_put(&all.walls, &x->key, sizeof x->key, x);
    return x;
}

static void unlink_from(struct work **first, struct work **last, struct work *w)
{
    *(w->prev ? &w->prev->next : first) = w->next;
    *(w->next ? &w->next->prev : last) = w->prev;
    w->prev = w->next = NULL;
}

static void append(struct work **first, struct work **last, struct work *w)
{
    w->prev = *last;
    w->next = NULL;
    *(w->prev ? &w->prev->next : first) = w;
    *last = w;
}

static void not_young(struct work *w)
{
    if (!w->young)
        return;
    unlink_from(&all.young, &all.youngest, w);
    w->young = false;
    all.n_young--;
}

/* ---- who begins ---------------------------------------------------------------------------------- */

static void serve(void);

static void on_timer(uv_timer_t *t)
{
    (void)t;
    serve();
}

static void on_run(uv_work_t *uv)
{
    struct work *w = CONTAINER_OF(uv, struct work, uv);
    if (!w->canceled)
        w->run(uv);
}

static void on_done(uv_work_t *uv, int status)
{
    struct work *w = CONTAINER_OF(uv, struct work, uv);
    struct work_wall *x = w->wall;
    uv_after_work_cb done = w->done;
    int r = w->canceled ? UV_ECANCELED : status;
    if (x) {
        not_young(w);
        all.running--;
        x->running--;
        wall_place(x);
    }
    done(uv, r); /* w may be gone */
    if (x)
        serve();
}

static void begin(struct work *w, uint64_t now)
{
    struct work_wall *x = w->wall;
    unlink_from(&x->first, &x->last, w);
    w->waits = false;
    w->young = true;
    w->begun_ms = now;
    append(&all.young, &all.youngest, w);
    all.n_young++;
    all.running++;
    x->running++;
    wall_place(x);
    (void)uv_queue_work(all.timer.loop, &w->uv, on_run, on_done);
}

static void serve(void)
{
    uint64_t now = clk_mono_ms();
    while (all.young && now >= all.young->begun_ms + YOUNG_MS)
        not_young(all.young);
    while (all.ready && all.running < all.threads && all.n_young < all.at_once)
        begin(all.ready->first, now);
    if (all.ready && all.young && all.running < all.threads)
        (void)uv_timer_start(&all.timer, on_timer, all.young->begun_ms + YOUNG_MS - now, 0);
    else
        (void)uv_timer_stop(&all.timer);
}

/* ---- the interface ------------------------------------------------------------------------------- */

void work_setup(uv_loop_t *loop, unsigned at_once)
{
    all.at_once = MAX(at_once, 1u) * AHEAD;
    all.threads = MAX(MIN(MAX(all.at_once * THREADS_EACH, THREADS_MIN), THREADS_MAX), all.at_once);
    cleanup_free char *threads = util_printf("%u", all.threads);
    (void)setenv("UV_THREADPOOL_SIZE", threads, 1);
    (void)uv_timer_init(loop, &all.timer);
    uv_unref((uv_handle_t *)&all.timer);
}

void work_queue(uv_loop_t *loop, struct work *w, uint64_t wall, uv_work_cb run, uv_after_work_cb done)
{
    w->run = run;
    w->done = done;
    w->waits = w->young = w->canceled = false;
    w->wall = NULL;
    if (!all.threads) {
        (void)uv_queue_work(loop, &w->uv, on_run, on_done);
        return;
    }
    w->wall = wall_get(wall);
    w->waits = true;
    append(&w->wall->first, &w->wall->last, w);
    if (!w->wall->ready)
        wall_place(w->wall);
    serve();
}

void work_cancel(struct work *w)
{
    if (!w->waits) {
        (void)uv_cancel((uv_req_t *)&w->uv);
        return;
    }
    w->canceled = true; /* done() comes by way of a thread, which does nothing */
    struct work_wall *x = w->wall;
    unlink_from(&x->first, &x->last, w);
    w->waits = false;
    w->wall = NULL;
    wall_place(x);
    (void)uv_queue_work(all.timer.loop, &w->uv, on_run, on_done);
}

struct removal {
    struct work work;
    char *path;
};

static void unlink_work(uv_work_t *w)
{
    const struct removal *x = w->data;
    (void)unlink(x->path);
}

static void unlink_done(uv_work_t *w, int status)
{
    struct removal *x = w->data;
    (void)status;
    free(x->path);
    free(x);
}

void work_unlink(uv_loop_t *loop, uint64_t wall, char *path)
{
    struct removal *x = util_zalloc(sizeof *x);
    x->path = path;
    x->work.uv.data = x;
    work_queue(loop, &x->work, wall, unlink_work, unlink_done);
}

unsigned work_under_way(void)
{
    return all.running;
}

void work_close(void)
{
    if (!all.threads)
        return;
    uv_close((uv_handle_t *)&all.timer, NULL);
    map_free(&all.walls);
    all.threads = 0;
}
