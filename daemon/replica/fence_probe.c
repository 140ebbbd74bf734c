#include "daemon/replica/fence_probe.h"

#include "common/base/log.h"
#include "common/store/retry.h"

struct probe {
    struct store *store;
    char *target;
    char key[40];
    const char *keys[1];
    struct store_body body;
    struct store_req req;
    enum { FIRST, SECOND, PLAIN, REMOVE, SWEEP } step;
    bool append_only; /* nothing may be deleted: one object that stays, and is there the next time */
};

#define SWEEP_OLDER_MS ((uint64_t)24 * 3600 * 1000)

static void next(struct probe *p);

static void end(struct probe *p)
{
    free(p->target);
    free(p);
}

static void decide(struct probe *p, enum store_fencing f)
{
    store_fencing_set(p->store, f);
    if (f == STORE_FENCING_OFF) {
        struct err e;
        (void)err_set(&e, ERR_UNSUPPORTED, "target %s: %s ignores the condition that an object must not exist: "
                      "two writers at one path would not notice each other", p->target, store_describe(p->store));
        (void)err_hint(&e, "make sure that only one walsupd has this path; If-None-Match on PUT is "
                           "what the store lacks");
        log_err(LOG_WARN, &e, "fencing is off");
    }
    if (p->append_only) {
        end(p);
        return;
    }
    p->step = REMOVE;
    next(p);
}

static bool refuses(const struct err *e)
{
    return e->retry == RETRY_BUG || e->code == ERR_UNSUPPORTED;
}

static void on_done(struct store_req *req)
{
    struct probe *p = req->data;
    enum err_code code = req->err.code;
    if (p->step == FIRST && code == ERR_OK) {
        p->step = SECOND;
        next(p);
    } else if (p->step == FIRST && code == ERR_CONFLICT && p->append_only) {
        decide(p, STORE_FENCING_ON);
    } else if (p->step == FIRST && refuses(&req->err)) {
        p->step = PLAIN; /* the header, or every object? */
        next(p);
    } else if (p->step == PLAIN && code == ERR_OK) {
        decide(p, STORE_FENCING_OFF);
    } else if (p->step == SECOND && (code == ERR_OK || code == ERR_CONFLICT)) {
        decide(p, code == ERR_OK ? STORE_FENCING_OFF : STORE_FENCING_ON);
    } else if (p->step == SECOND && refuses(&req->err)) {
        decide(p, STORE_FENCING_OFF); /* it does not even know the header */
    } else if (p->step == REMOVE) {
        p->step = SWEEP;
        next(p);
    } else { /* it does not work now, or the scratch object is gone: the next upload asks again */
        if (p->step != SWEEP)
            store_fencing_set(p->store, STORE_FENCING_UNKNOWN);
        end(p);
    }
}

static void next(struct probe *p)
{
    p->req = (struct store_req){.done = on_done, .data = p};
    if (p->step == SWEEP)
        store_sweep(p->store, &p->req, "", SWEEP_OLDER_MS); /* what comes of it is of no consequence */
    else if (p->step == REMOVE)
        store_delete(p->store, &p->req, p->keys, 1);
    else
        store_put(p->store, &p->req, p->key, &p->body, NULL, p->step == PLAIN ? 0 : STORE_IF_ABSENT);
}

void fence_probe(struct store *store, const char *target, bool may_delete)
{
    if (store_fencing(store) != STORE_FENCING_UNKNOWN)
        return;
    struct probe *p = util_zalloc(sizeof *p);
    uint64_t r;
    util_random(&r, sizeof r);
    p->append_only = !may_delete;
    if (p->append_only)
        (void)snprintf(p->key, sizeof p->key, ".walsup-fence");
    else
        (void)snprintf(p->key, sizeof p->key, ".walsup-fence-%016llx", (unsigned long long)r);
    p->keys[0] = p->key;
    p->store = store;
    p->target = util_strdup(target);
    p->body = (struct store_body){.p = "walsup\n", .size = 7};
    store_fencing_set(store, STORE_FENCING_ASKED);
    next(p);
}
