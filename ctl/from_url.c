#include "ctl/from_url.h"

#include <ctype.h>

#include "common/store/layout.h"

#define SHOWN 8
#define REQUESTS 24 /* of listings; each passes one replica over */

/* ---- hints ------------------------------------------------------------------------------------- */

static char *replaced(const char *text, const char *what, const char *with)
{
    const char *at = strstr(text, what);
    return at ? util_printf("%.*s%s%s", (int)(at - text), text, with, at + strlen(what)) : util_strdup(text);
}

static void replace(char **text, const char *what, const char *with)
{
    char *new = replaced(*text, what, with);
    free(*text);
    *text = new;
}

void from_url_hint(struct err *e)
{
    cleanup_free char *hint = util_strdup(e->hint), *msg = replaced(e->msg, "target url: ", "");
    (void)snprintf(e->msg, sizeof e->msg, "%s", msg);
    if (!strncmp(hint, "write access-key-id ", 20)) {
        (void)err_hint(e, "export WALSUP_ACCESS_KEY_ID and WALSUP_SECRET_ACCESS_KEY (LITESTREAM_* and AWS_* work as well), or "
                          "append profile=NAME to the url for ~/.aws/credentials");
        return;
    }
    if (!strstr(hint, "[target url]"))
        return;
    bool write = strstr(hint, "write ") != NULL;
    replace(&hint, "write ", "append ");
    replace(&hint, write ? " in [target url]" : "[target url]", write ? " to the url" : "the url");
    replace(&hint, "bucket = in the url", "the bucket in the url");
    while (strstr(hint, " = "))
        replace(&hint, " = ", "=");
    (void)err_hint(e, "%s", hint);
}

/* ---- what is there ----------------------------------------------------------------------------- */

struct finds {
    struct store_req req;
    bool done;
    enum conf_target_type type;
    char *name[SHOWN];
    size_t n;
    bool more;
    char *after; /* where the next listing begins */
};

/* The replica that an object belongs to, malloc'ed; NULL: it is no object of a replica. */
static char *replica_of(enum conf_target_type type, const char *key)
{
    uint64_t min, max;
    const char *v3 = strstr(key, "/" V3_DIR), *slash = strrchr(key, '/');
    if (v3)
        return strndup(key, (size_t)(v3 - key));
    if (!slash || !layout_parse(key, &min, &max))
        return NULL;
    /* <replica>/0000/<name> or <replica>/ltx/0/<name> */
    for (unsigned up = type == CONF_S3 ? 1 : 2; up && slash; up--) {
        const char *p = slash;
        while (p > key && p[-1] != '/')
            p--;
        slash = p > key ? p - 1 : NULL;
    }
    return slash ? strndup(key, (size_t)(slash - key)) : NULL;
}

static int on_object(void *arg, const struct store_object *o, struct err *e)
{
    struct finds *l = arg;
    char *replica = replica_of(l->type, o->key);
    const char *slash = strrchr(o->key, '/');
    free(l->after);
    /* behind everything of the replica, or of the directory: '0' comes after '/' */
    l->after = replica ? util_printf("%s0", replica)
               : slash ? util_printf("%.*s0", (int)(slash - o->key), o->key)
                       : util_strdup(o->key);
    if (replica && l->n < SHOWN)
        l->name[l->n++] = replica;
    else if (replica) {
        l->more = true;
        free(replica);
    }
    return err_set(e, ERR_CANCELED, "the next one");
}

static void on_listed(struct store_req *req)
{
    ((struct finds *)req->data)->done = true;
}

static void look(struct from *f, const struct conf_target *t, struct finds *l)
{
    struct store *s;
    struct err e;
    if (store_open(&f->loop, t, &s, &e) < 0)
        return;
    l->type = t->type;
    for (unsigned i = 0; i < REQUESTS && !l->more; i++) {
        cleanup_free char *after = TAKE_PTR(l->after);
        l->req = (struct store_req){.done = on_listed, .data = l};
        l->done = false;
        store_list(s, &l->req, "", after, on_object, l);
        while (!l->done)
            (void)uv_run(&f->loop, UV_RUN_ONCE);
        if (!l->after)
            break;
    }
    store_close(s, NULL, NULL);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
}

static void name_them(const struct finds *l, const char *where, struct err *e)
{
    cleanup_buf struct buf b = BUF_INIT;
    for (size_t i = 0; i < l->n; i++)
        buf_printf(&b, "%s%s", i ? ", " : "", l->name[i]);
    (void)err_hint(e, "%s there %s %s%s", where, l->n == 1 ? "is" : "are", buf_str(&b), l->more ? " and more" : "");
}

static void finds_done(struct finds *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->name[i]);
    free(l->after);
    *l = (struct finds){.done = false};
}

void from_url_replicas(struct from *f, struct err *e)
{
    struct finds l = {.done = false};
    struct conf_target up = f->url_target;
    look(f, &f->url_target, &l);
    if (l.n)
        name_them(&l, "append the name of a replica to the path:", e);
    bool found = l.n > 0;
    finds_done(&l);
    const char *slash = strrchr(f->url_target.path, '/');
    if (found || !*f->url_target.path)
        return;
    cleanup_free char *parent = slash && slash > f->url_target.path
                                    ? util_printf("%.*s", (int)(slash - f->url_target.path), f->url_target.path)
                                    : util_strdup(up.type == CONF_FILE ? "/" : "");
    up.path = parent;
    if (up.type == CONF_FILE && !strcmp(parent, "/"))
        return;
    look(f, &up, &l);
    cleanup_free char *place = up.type == CONF_FILE ? util_printf("in %s", parent) : util_printf("in the bucket%s%s", *parent ? ", below " : "", parent);
    if (l.n)
        name_them(&l, place, e);
    finds_done(&l);
}
