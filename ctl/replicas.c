#include "ctl/replicas.h"

#include "common/format/v3seg.h"
#include "common/store/layout.h"

struct finds {
    struct store_req req;
    bool done;
    enum conf_target_type type;
    bool (*wanted)(void *arg, const char *name);
    void *arg;
    struct replicas *ret;
    char *after; /* where the next listing begins */
};

/* The replica that an object belongs to, malloc'ed; NULL: it is no object of a replica. */
static char *replica_of(enum conf_target_type type, const char *key)
{
    uint64_t min, max;
    const char *v3 = strstr(key, "/" V3_DIR), *slash = strrchr(key, '/');
    if (v3)
        return util_strndup(key, (size_t)(v3 - key));
    if (!slash || !layout_parse(key, &min, &max))
        return NULL;
    /* <replica>/0000/<name> or <replica>/ltx/0/<name> */
    for (unsigned up = type == CONF_S3 ? 1 : 2; up && slash; up--) {
        const char *p = slash;
        while (p > key && p[-1] != '/')
            p--;
        slash = p > key ? p - 1 : NULL;
    }
    return slash ? util_strndup(key, (size_t)(slash - key)) : NULL;
}

static int on_object(void *arg, const struct store_object *o, struct err *e)
{
    struct finds *l = arg;
    cleanup_free char *replica = replica_of(l->type, o->key);
    const char *slash = strrchr(o->key, '/');
    free(l->after);
    /* behind everything of the replica, or of the directory: '0' comes after '/' */
    l->after = replica ? util_printf("%s0", replica)
               : slash ? util_printf("%.*s0", (int)(slash - o->key), o->key)
                       : util_strdup(o->key);
    if (replica && (!l->wanted || l->wanted(l->arg, replica))) {
        if (l->ret->n < REPLICAS_SHOWN)
            l->ret->name[l->ret->n++] = TAKE_PTR(replica);
        else
            l->ret->more = true;
    }
    return err_set(e, ERR_CANCELED, "the next one");
}

static void on_listed(struct store_req *req)
{
    ((struct finds *)req->data)->done = true;
}

int replicas_find(uv_loop_t *loop, const struct conf_target *target, const char *prefix, unsigned requests,
                  bool (*wanted)(void *arg, const char *name), void *arg, struct replicas *ret, struct err *e)
{
    struct finds l = {.type = target->type, .wanted = wanted, .arg = arg, .ret = ret};
    struct store *s = NULL;
    int r = store_open(loop, target, &s, e);
    for (bool on = r == 0; on && requests && !ret->more; requests--) {
        cleanup_free char *after = TAKE_PTR(l.after);
        l.req = (struct store_req){.done = on_listed, .data = &l};
        l.done = false;
        store_list(s, &l.req, prefix, after, on_object, &l);
        while (!l.done)
            (void)uv_run(loop, UV_RUN_ONCE);
        on = l.after != NULL;
        if (!on && l.req.err.code != ERR_OK) {
            *e = l.req.err;
            r = -(int)e->code;
        }
    }
    free(l.after);
    if (s) {
        store_close(s, NULL, NULL);
        (void)uv_run(loop, UV_RUN_DEFAULT);
    }
    return r;
}

void replicas_text(const struct replicas *r, struct buf *b)
{
    for (size_t i = 0; i < r->n; i++)
        buf_printf(b, "%s%s", i ? ", " : "", r->name[i]);
    if (r->more)
        buf_add_str(b, " and more");
}

void replicas_done(struct replicas *r)
{
    for (size_t i = 0; i < r->n; i++)
        free(r->name[i]);
    *r = (struct replicas){.n = 0};
}
