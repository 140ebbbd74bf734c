/* Keys that have to be fetched, for the queue of an S3 store: before the first request, and again before they end. */
#include "common/store/store_s3_int.h"

#include "common/base/clk.h"
#include "common/format/crc64.h"
#include "common/store/s3_keys.h"

#define EARLY_MS (5 * 60000) /* so long before their end new ones are fetched, while the old ones still serve */
#define AGAIN_MS 15000       /* after a failure */
#define SOON_MS 1000         /* after a success, if those keys are refused as well */

static void fetch_work(uv_work_t *w)
{
    struct s3_fetch *f = CONTAINER_OF(CONTAINER_OF(w, struct work, uv), struct s3_fetch, work);
    f->result = s3_keys_fetch(f->kind, f->command, &f->got, &f->err);
}

static void fetch_done(uv_work_t *w, int status)
{
    struct s3_fetch *f = CONTAINER_OF(CONTAINER_OF(w, struct work, uv), struct s3_fetch, work);
    struct store_s3 *s = CONTAINER_OF(f, struct store_s3, fetch);
    (void)status;
    f->running = false;
    free(TAKE_PTR(f->command));
    f->failed = f->result < 0;
    f->again_ms = clk_mono_ms() + (f->failed ? AGAIN_MS : SOON_MS);
    f->early_ms = f->again_ms;
    if (!f->failed && f->got.expires_ms > clk_real_ms()) /* keys of a short life are not fetched all the time */
        f->early_ms = clk_mono_ms() + (uint64_t)(f->got.expires_ms - clk_real_ms()) / 2;
    if (f->failed) {
        (void)err_wrap(&f->err, "target %s", s->target.name);
        f->err.retry = RETRY_BACKOFF;
        f->err.after_ms = AGAIN_MS;
    } else {
        cred_done(&s->target.cred);
        s->target.cred = f->got;
        f->got = (struct cred){0};
        free(TAKE_PTR(s->parked)); /* what was refused was refused to the old ones */
    }
    s->peer.no_keys = f->failed;
    s->peer.key_id = s->target.cred.key_id;
    s->peer.key_source = s->target.cred.source;
    s3_poke(s);
}

static void fetch_start(struct store_s3 *s, uint64_t not_before_ms)
{
    struct s3_fetch *f = &s->fetch;
    const struct cred *c = &s->target.cred;
    if (f->running || clk_mono_ms() < not_before_ms || s->base.impl_closing)
        return;
    f->kind = c->kind;
    f->command = c->command ? util_strdup(c->command) : NULL;
    f->failed = false;
    f->err = (struct err){0};
    f->running = true;
    work_queue(s->base.loop, &f->work, crc64(3, s->target.name, strlen(s->target.name)), fetch_work, fetch_done);
}

bool s3_keys_ready(struct store_s3 *s)
{
    const struct cred *c = &s->target.cred;
    int64_t now = clk_real_ms();
    if (c->kind == CRED_STATIC || !c->expires_ms || now < c->expires_ms - EARLY_MS)
        return true;
    fetch_start(s, now < c->expires_ms ? s->fetch.early_ms : s->fetch.again_ms);
    if (now < c->expires_ms)
        return true;
    uint64_t mono = clk_mono_ms();
    if (!s->fetch.running && !s->fetch.failed && !s->base.impl_closing)
        s3_poke_in(s, s->fetch.again_ms - MIN(mono, s->fetch.again_ms));
    return s->fetch.failed;
}

const struct err *s3_keys_error(const struct store_s3 *s)
{
    const struct cred *c = &s->target.cred;
    return c->kind != CRED_STATIC && c->expires_ms && clk_real_ms() >= c->expires_ms && s->fetch.failed ? &s->fetch.err
                                                                                                      : NULL;
}
