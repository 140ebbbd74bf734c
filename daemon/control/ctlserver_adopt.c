/* Adopt: a person says that the directory of a target, as it is now, is the one that is meant. */
#include "common/base/log.h"
#include "common/format/proto.h"
#include "common/store/store_root.h"
#include "common/store/work.h"
#include "daemon/control/ctlserver_int.h"
#include "daemon/os/walls.h"

struct adopting {
    struct client *client;
    struct manager *m;
    struct store_root *root;
    struct work work;
    int r;
    struct err err;
};

static void work(uv_work_t *w)
{
    struct adopting *a = w->data;
    a->r = store_root_adopt(a->root, &a->err);
}

/* What was known of the replicas may not be true of this directory. */
static void look_again(const struct adopting *a)
{
    for (size_t i = 0; i < a->m->n_dbs; i++)
        for (size_t k = 0; k < a->m->db[i]->n_up; k++)
            if (store_root_of(a->m->db[i]->up[k]->store) == a->root)
                uploader_look_again(a->m->db[i]->up[k]);
}

static void worked(uv_work_t *w, int status)
{
    (void)status;
    struct adopting *a = w->data;
    const char *target = store_root_target(a->root), *dir = store_root_dir(a->root);
    if (a->r == 0) {
        log_line(LOG_NOTICE, "target %s: the directory %s was adopted", target, dir);
        look_again(a);
        ctl_reply_ok(a->client, json_pack("{s:s, s:o}", "target", target, "path", proto_text(dir)));
    } else {
        ctl_reply_err(a->client, &a->err);
    }
    ctl_release(a->client);
    (void)store_root_unref(a->root);
    free(a);
}

static void on_gone(void *arg)
{
    (void)arg; /* what was asked for is done all the same */
}

static const struct manager_target *find(const struct manager *m, const char *name)
{
    for (size_t i = 0; i < m->n_targets; i++)
        if (!strcmp(m->target[i]->name, name))
            return m->target[i];
    return NULL;
}

void ctl_call_adopt(struct client *cl, json_t *p)
{
    const char *name = NULL;
    struct err e = {0};
    struct manager *m = ctl_manager(cl);
    const struct manager_target *t = NULL;
    if (ctl_unpack(p, &e, "{s:s}", "target", &name) == 0) {
        t = find(m, name);
        if (!t) {
            err_set(&e, ERR_NOTFOUND, "no target is called %s", name);
            err_hint(&e, "walsupctl config lists the targets");
        } else if (!store_root_of(t->store)) {
            err_set(&e, ERR_USAGE, "target %s is a bucket: only a directory can be adopted", name);
        } else if (m->stopping) {
            err_set(&e, ERR_BUSY, "walsupd is stopping");
        }
    }
    if (!t || e.code != ERR_OK) {
        ctl_reply_err(cl, &e);
        return;
    }
    struct adopting *a = util_zalloc(sizeof *a);
    a->client = cl;
    a->m = m;
    a->root = store_root_ref(store_root_of(t->store));
    a->work.uv.data = a;
    ctl_hold(cl, on_gone, a);
    work_queue(m->loop, &a->work, wall_of_mount(store_root_dir(a->root)), work, worked);
}
