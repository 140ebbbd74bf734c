/* PageMap: what the replicas must come to, as a file for whoever verifies them. */
#include "common/format/proto.h"
#include "daemon/control/ctlserver_int.h"

#define TIMEOUT_MS 30000

struct asking {
    struct client *client;
    struct database_sync w;
};

static void on_captured(struct database_sync *w, const struct err *e)
{
    struct asking *a = w->data;
    const struct database *db = w->db;
    struct err none;
    if (e->code != ERR_OK) {
        ctl_reply_err(a->client, e);
    } else if (!w->map_copy) {
        err_set(&none, ERR_NOTFOUND, "%s: walsupd has no page map yet", db->name);
        err_hint(&none, "it is made when the database has been quiet for a moment");
        ctl_reply_err(a->client, &none);
    } else {
        char *path = source_copy_path(db->dir, w->map_copy);
        ctl_reply_ok(a->client, json_pack("{s:s, s:o, s:o, s:o, s:i, s:I}", "name", db->name, "txid",
                                          ctl_hex(w->txid), "lineage", ctl_hex(db->seen.lineage), "path",
                                          proto_text(path), "page_size", (int)db->seen.page_size, "pages",
                                          (json_int_t)db->seen.pages));
        ctl_file(a->client, path);
    }
    ctl_release(a->client);
    free(a);
}

static void on_gone(void *arg)
{
    struct asking *a = arg;
    database_sync_cancel(&a->w);
}

void ctl_call_page_map(struct client *cl, json_t *p)
{
    const char *name = NULL;
    struct database *db;
    struct err e;
    if (ctl_unpack(p, &e, "{s:s}", "db", &name) < 0 || ctl_find_db(ctl_manager(cl), name, &db, &e) < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    if (ctl_manager(cl)->stopping) {
        err_set(&e, ERR_BUSY, "walsupd is stopping");
        ctl_reply_err(cl, &e);
        return;
    }
    struct asking *a = util_zalloc(sizeof *a);
    a->client = cl;
    a->w = (struct database_sync){.done = on_captured, .data = a, .copy_map = true};
    ctl_hold(cl, on_gone, a);
    database_sync(db, &a->w, TIMEOUT_MS);
}
