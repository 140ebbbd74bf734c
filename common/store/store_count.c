/* What is counted of each store: operations by outcome, and bytes. */
#include "common/store/store_impl.h"

const struct store_counters *store_counters(const struct store *s)
{
    return &s->count;
}

#define NAME(id, name) [id] = (name),

const char *store_op_name(enum store_op op)
{
    static const char *const name[] = {STORE_OPS(NAME)};
    return name[op];
}

const char *store_outcome_name(enum store_outcome o)
{
    static const char *const name[] = {STORE_OUTCOMES(NAME)};
    return name[o];
}

static enum store_outcome outcome_of(const struct err *e)
{
    switch (e->code) {
    case ERR_OK:
        return STORE_OK;
    case ERR_NOTFOUND: /* the hint is there when it is the bucket, which is a failure */
        return e->hint[0] ? STORE_FAILED : STORE_NOT_FOUND;
    case ERR_CONFLICT:
        return STORE_CONFLICT;
    case ERR_CANCELED:
        return STORE_CANCELED;
    case ERR_AUTH:
    case ERR_PERM:
        return STORE_DENIED;
    default:
        return STORE_FAILED;
    }
}

void store_count(const struct store_req *req)
{
    struct store_counters *c = &req->store->count;
    c->requests[req->op][outcome_of(&req->err)]++;
    if (!req->in_parts)
        c->bytes[req->op] += req->bytes;
}
