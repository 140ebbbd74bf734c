/* What the queue of an S3 store has to know from files, read by workers: whom TLS trusts, before
 * the first request; the keys once more, after they were refused, as somebody may have changed
 * them. */
#include "common/store/store_s3_int.h"

#include "common/base/clk.h"
#include "common/format/crc64.h"
#include "common/store/s3_trust.h"

#define TRUST_MS 600000 /* then it is read again, while the old one serves: the system's store changes as well */

static uint64_t wall(const struct store_s3 *s)
{
    return crc64(2, s->target.name, strlen(s->target.name));
}

static void start(struct store_s3 *s, struct work *w, uv_work_cb run, uv_after_work_cb done)
{
    s->reading++;
    work_queue(s->base.loop, w, wall(s), run, done);
}

/* ---- trust --------------------------------------------------------------------------------------- */

static struct store_s3 *of_trusting(uv_work_t *w)
{
    return CONTAINER_OF(CONTAINER_OF(w, struct work, uv), struct store_s3, trusting.work);
}

static void trust_work(uv_work_t *w)
{
    struct store_s3 *s = of_trusting(w);
    s->trusting.got = s3_trust_read(&s->target); /* of which it looks at what never changes */
}

static void trust_done(uv_work_t *w, int status)
{
    struct store_s3 *s = of_trusting(w);
    (void)status;
    s->reading--;
    s->trusting.running = false;
    s->trusting.read_ms = clk_mono_ms();
    s3_trust_free(s->target.trust);
    s->target.trust = TAKE_PTR(s->trusting.got);
    s3_poke(s);
}

bool s3_trust_ready(struct store_s3 *s)
{
    struct s3_trusting *t = &s->trusting;
    bool known = s->target.trust && !t->doubted;
    if (!s->target.https || (known && clk_mono_ms() < t->read_ms + TRUST_MS))
        return true;
    if (!t->running && !s->base.impl_closing) {
        t->running = true;
        t->doubted = false;
        start(s, &t->work, trust_work, trust_done);
    }
    return known;
}

void s3_trust_doubt(struct store_s3 *s)
{
    s->trusting.doubted = s->target.trust && !s->trusting.running;
}

/* ---- keys ---------------------------------------------------------------------------------------- */

static struct store_s3 *of_rereading(uv_work_t *w)
{
    return CONTAINER_OF(CONTAINER_OF(w, struct work, uv), struct store_s3, rereading.work);
}

static void reread_work(uv_work_t *w)
{
    struct store_s3 *s = of_rereading(w);
    struct err e;
    s->rereading.result = cred_load(&s->target.keys_from, &s->rereading.got, &e);
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

static void take(struct store_s3 *s, struct cred *fresh)
{
    struct cred *c = &s->target.cred;
    if (c->kind == CRED_STATIC && fresh->kind == CRED_STATIC &&
        (!same(fresh->key_id, c->key_id) || !secret_same(fresh->secret, c->secret) ||
         !secret_same(fresh->token, c->token))) {
        cred_done(c);
        *c = *fresh;
        *fresh = (struct cred){0};
        s->peer.key_id = c->key_id;
        s->peer.key_source = c->source;
        s->keys_turn++;
    }
    cred_done(fresh);
}

static void reread_done(uv_work_t *w, int status)
{
    struct store_s3 *s = of_rereading(w);
    (void)status;
    s->reading--;
    s->rereading.running = false;
    if (s->rereading.result == 0)
        take(s, &s->rereading.got);
    s3_ops_resume(s);
    s3_poke(s);
}

void s3_keys_reread(struct store_s3 *s)
{
    if (s->rereading.running)
        return;
    s->rereading.running = true;
    start(s, &s->rereading.work, reread_work, reread_done);
}
