#include "ctl/follow.h"

#include <signal.h>

#include "common/base/clk.h"
#include "common/format/proto.h"
#include "common/format/when.h"
#include "common/store/restore_follow.h"

#define QUIET_MOST 5u /* an idle replica is asked this much more seldom */
#define FAILED_MOST_MS 60000u

struct run {
    struct from *f;
    const struct from_replica *replica;
    struct restore_opts opts;
    uint64_t interval_ms;
    uv_signal_t on_int, on_term;
    uv_timer_t pause;
    bool over;    /* somebody ended it */
    bool paused, catching;
    unsigned quiet, failed; /* looks in a row */
    uint64_t steps, bytes, start_ms;
    struct follow_step last;
};

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct run *x = arg;
    if (!x->steps) /* later ones are short, and each has its line */
        out_progress(&x->f->progress, phase, done, total);
}

/* ---- what is printed ------------------------------------------------------------------------ */

static void print_step(const struct run *x, const struct follow_step *s)
{
    char from[17], to[17], size[32], stamp[OUT_MOMENT_SIZE];
    (void)snprintf(from, sizeof from, "%016llx", (unsigned long long)s->from);
    (void)snprintf(to, sizeof to, "%016llx", (unsigned long long)s->to);
    if (x->f->c->json) {
        json_t *o = json_pack("{s:s, s:o, s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:s?}", "database",
                              x->f->db_name, "output", proto_text(x->opts.output), "txid", to,
                              "timestamp", out_moment(stamp, s->time_ms), "timestamp_ms",
                              (json_int_t)s->time_ms, "files", (json_int_t)s->files, "fetched_bytes",
                              (json_int_t)s->bytes, "pages", (json_int_t)s->pages, "verified",
                              (int)s->verified, "anew", s->anew);
        (void)json_dumpf(o, stdout, JSON_COMPACT);
        (void)fputc('\n', stdout);
        json_decref(o);
    } else {
        if (s->anew)
            printf("%s: restored anew, its differences were applied\n", s->anew);
        printf("TXID %s of %s: %llu file%s, %s fetched, %llu page%s changed%s\n", to,
               out_moment(stamp, s->time_ms), (unsigned long long)s->files, s->files == 1 ? "" : "s",
               util_size(size, s->bytes), (unsigned long long)s->pages, s->pages == 1 ? "" : "s",
               s->verified ? ", verified" : "");
    }
    (void)fflush(stdout);
}

static void print_end(const struct run *x)
{
    char size[32], took[32], stamp[OUT_MOMENT_SIZE];
    if (x->f->c->json)
        return;
    if (!x->steps) {
        printf("%s: nothing new in %s; run the same command to continue\n", x->opts.output,
               util_duration(took, clk_mono_ms() - x->start_ms));
        return;
    }
    printf("%s follows %s up to TXID %016llx of %s: %llu step%s, %s in %s; run the same command to continue\n",
           x->opts.output, x->f->db_name, (unsigned long long)x->last.to,
           out_moment(stamp, x->last.time_ms), (unsigned long long)x->steps, x->steps == 1 ? "" : "s",
           util_size(size, x->bytes), util_duration(took, clk_mono_ms() - x->start_ms));
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void on_signal(uv_signal_t *s, int signum)
{
    struct run *x = s->data;
    (void)signum;
    x->over = true;
}

static void on_pause(uv_timer_t *t)
{
    struct run *x = t->data;
    x->paused = false;
}

static uint64_t pause_ms(const struct run *x)
{
    uint64_t ms = x->interval_ms;
    if (x->failed)
        return MIN(ms << MIN(x->failed, 16u), MAX((uint64_t)FAILED_MOST_MS, ms));
    return ms * MIN(x->quiet / 10 + 1, QUIET_MOST);
}

static void wait_next(struct run *x)
{
    uint64_t ms = pause_ms(x);
    x->paused = true;
    /* It repeats: uv_run fires a timer that is due before it waits, and would then wait for what never comes. */
    (void)uv_timer_start(&x->pause, on_pause, ms, ms);
    while (x->paused && !x->over)
        (void)uv_run(&x->f->loop, UV_RUN_ONCE);
    (void)uv_timer_stop(&x->pause);
}

/* a restore that somebody interrupts is gone on with by the next one: signals end it as usual */
static void catch_signals(struct run *x)
{
    if (x->catching)
        return;
    x->catching = true;
    (void)uv_signal_init(&x->f->loop, &x->on_int);
    (void)uv_signal_init(&x->f->loop, &x->on_term);
    x->on_int.data = x->on_term.data = x;
    (void)uv_signal_start(&x->on_int, on_signal, SIGINT);
    (void)uv_signal_start(&x->on_term, on_signal, SIGTERM);
}

/* ---- the loop ------------------------------------------------------------------------------- */

/* One look, and what is said about it. */
static int look(struct run *x, struct follow *follow, struct err *e)
{
    struct follow_step s;
    int r = follow_step(follow, &s, e);
    out_progress_end(&x->f->progress);
    if (r >= 0) /* before anything is printed: who reads it may end this at once */
        catch_signals(x);
    if (r == 0) {
        x->steps++;
        x->bytes += s.bytes;
        x->last = s;
        print_step(x, &s);
    }
    x->quiet = r > 0 ? x->quiet + 1 : 0;
    x->failed = r < 0 ? x->failed + 1 : 0;
    return r;
}

static int run(struct store *s, void *arg, struct err *e)
{
    struct run *x = arg;
    struct follow *follow = follow_new(&x->f->loop, s, &x->opts, on_progress, x);
    int r = look(x, follow, e);
    if (r < 0) {
        (void)follow_free(follow);
        return r;
    }
    (void)uv_timer_init(&x->f->loop, &x->pause);
    x->pause.data = x;
    while (!x->over) {
        struct err failed = {0};
        wait_next(x);
        if (!x->over && look(x, follow, &failed) < 0)
            out_warning(&failed);
    }
    print_end(x);
    uv_close((uv_handle_t *)&x->on_int, NULL);
    uv_close((uv_handle_t *)&x->on_term, NULL);
    uv_close((uv_handle_t *)&x->pause, NULL);
    (void)follow_free(follow);
    (void)uv_run(&x->f->loop, UV_RUN_DEFAULT);
    return 0;
}

int follow_run(struct from *f, const struct from_replica *r, const struct restore_opts *opts,
               uint64_t interval_ms)
{
    struct err e = {0};
    struct run x = {.f = f, .replica = r, .opts = *opts, .interval_ms = interval_ms,
                    .start_ms = clk_mono_ms()};
    x.opts.replica = r->replica;
    int rc = from_store(f, r, run, &x, NULL, &e);
    if (rc == 1 && !*e.msg)
        (void)err_set(&e, ERR_NOTFOUND, "there is no replica of %s yet", f->db_name);
    return rc ? out_fail(f->c->json, &e) : 0;
}
