/* Uploads in parts, as far as they are the same for every kind of store. */
#include "common/store/store_impl.h"

#include <assert.h>

#define OBJECT_MAX_BYTES ((uint64_t)5 << 40)
#define PART_STEP_BYTES ((uint64_t)1 << 20)

struct store_upload *store_upload_new(struct store *s, const char *key,
                                      const struct store_meta *meta, unsigned flags,
                                      uint64_t at_most)
{
    if (at_most > OBJECT_MAX_BYTES)
        return NULL;
    struct store_upload *u = util_zalloc(sizeof *u);
    u->store = s;
    u->key = util_strdup(key);
    u->flags = flags;
    if (meta)
        u->meta = *meta;
    uint64_t part = at_most / s->max_parts + 1;
    part = (part + PART_STEP_BYTES - 1) / PART_STEP_BYTES * PART_STEP_BYTES;
    u->part_bytes = at_most > s->part_bytes * s->max_parts ? part : s->part_bytes;
    u->tmp = (struct fsx_tmp)FSX_TMP_INIT;
    u->next = s->uploads;
    if (u->next)
        u->next->prev = u;
    s->uploads = u;
    return u;
}

uint64_t store_upload_part_bytes(const struct store_upload *u)
{
    return u->part_bytes;
}

unsigned store_upload_parallel(const struct store_upload *u)
{
    return u->store->parallel_parts;
}

void store_upload_begin(struct store_upload *u, struct store_req *req)
{
    if (store_submit(u->store, req, STORE_BEGIN, u->key))
        u->store->ops->upload_begin(u, req);
}

void store_upload_add(struct store_upload *u, struct store_req *req, unsigned n,
                      const struct store_body *body)
{
    if (!store_submit(u->store, req, STORE_PART, NULL))
        return;
    if (n < u->store->max_parts && body->size && body->size <= u->part_bytes) {
        u->store->ops->upload_add(u, req, n, body);
        return;
    }
    (void)err_set(&req->err, ERR_USAGE, "an impossible part of \"%s\": number %u, %llu bytes",
                  u->key, n, (unsigned long long)body->size);
    store_finish_later(req);
}

void store_upload_finish(struct store_upload *u, struct store_req *req, uint64_t total)
{
    if (!store_submit(u->store, req, STORE_FINISH, NULL))
        return;
    if (total && (total - 1) / u->part_bytes < u->store->max_parts) {
        u->store->ops->upload_finish(u, req, total);
        return;
    }
    (void)err_set(&req->err, ERR_USAGE, "an upload of %llu bytes cannot be finished",
                  (unsigned long long)total);
    store_finish_later(req);
}

void store_upload_abort(struct store_upload *u, struct store_req *req)
{
    if (store_submit(u->store, req, STORE_ABORT, NULL))
        u->store->ops->upload_abort(u, req);
}

void store_upload_free(struct store_upload *u)
{
    if (!u)
        return;
    struct store *s = u->store;
    s->ops->upload_free(u);
    if (u->prev)
        u->prev->next = u->next;
    else
        s->uploads = u->next;
    if (u->next)
        u->next->prev = u->prev;
    free(u->key);
    free(u);
}

void store_sweep(struct store *s, struct store_req *req, const char *prefix, uint64_t older_ms)
{
    if (store_submit(s, req, STORE_SWEEP, NULL))
        s->ops->sweep(s, req, prefix, older_ms);
}
