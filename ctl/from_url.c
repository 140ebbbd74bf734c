#include "ctl/from_url.h"

#include "ctl/replicas.h"

#define REQUESTS 24 /* of listings; each passes one replica over */

static void look(struct from *f, const struct conf_target *t, struct replicas *l)
{
    struct err ignored;
    (void)replicas_find(&f->loop, t, "", REQUESTS, NULL, NULL, l, &ignored);
}

static void name_them(const struct replicas *l, const char *where, struct err *e)
{
    cleanup_buf struct buf b = BUF_INIT;
    replicas_text(l, &b);
    (void)err_hint(e, "%s there %s %s", where, l->n == 1 ? "is" : "are", buf_str(&b));
}

void from_url_replicas(struct from *f, struct err *e)
{
    struct replicas l = {.n = 0};
    struct conf_target up = f->url_target;
    look(f, &f->url_target, &l);
    if (l.n)
        name_them(&l, "append the name of a replica to the path:", e);
    bool found = l.n > 0;
    replicas_done(&l);
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
    cleanup_free char *place =
        up.type == CONF_FILE ? util_printf("in %s", parent)
                             : util_printf("in the bucket%s%s", *parent ? ", below " : "", parent);
    if (l.n)
        name_them(&l, place, e);
    replicas_done(&l);
}
