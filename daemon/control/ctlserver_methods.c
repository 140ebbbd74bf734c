/* The methods of the control socket in one table, from which the interface's description is made; and those that need no
 * file of their own: list, reload, and what Varlink asks of every service. */
#include "common/format/proto.h"
#include "daemon/control/ctlserver_int.h"

static void call_list(struct client *cl, json_t *p)
{
    struct err e;
    if (ctl_unpack(p, &e, "{}") < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    const struct manager *m = ctl_manager(cl);
    json_t *list = json_array();
    for (size_t i = 0; i < m->n_dbs; i++) {
        json_t *targets = json_array();
        for (size_t k = 0; k < m->db[i]->n_up; k++)
            json_array_append_new(targets, json_string(m->db[i]->up[k]->target));
        const struct manager_db *of = m->db[i]->owner;
        json_array_append_new(list, json_pack("{s:s, s:o, s:s, s:o}", "name", m->db[i]->name, "path",
                                              proto_text(m->db[i]->path), "section", of->conf->name,
                                              "targets", targets));
    }
    ctl_reply_ok(cl, json_pack("{s:o}", "databases", list));
}

static json_t *names_json(const struct buf *b)
{
    json_t *a = json_array();
    for (size_t i = 0; i < b->len; i += strlen((const char *)b->p + i) + 1)
        json_array_append_new(a, json_string((const char *)b->p + i));
    return a;
}

static json_t *changes_json(const struct manager_diff *d)
{
    json_t *a = json_array();
    for (size_t i = 0; i < d->n_changes; i++) {
        const struct conf_change *c = &d->change[i];
        json_array_append_new(a, json_pack("{s:s, s:s, s:s?, s:s?, s:s?, s:b}", "section", c->section, "change",
                                           c->key ? "changed" : c->to ? "added" : "removed", "key", c->key, "from",
                                           c->key ? c->from : NULL, "to", c->key ? c->to : NULL, "restart",
                                           (int)c->restart));
    }
    return a;
}

/* its lines */
static json_t *lines_json(struct buf *b)
{
    json_t *a = json_array();
    const char *line = buf_str(b);
    for (size_t n; (n = strcspn(line, "\n")) > 0; line += n + 1) {
        cleanup_free char *text = util_strndup(line, n);
        json_array_append_new(a, proto_text(text));
    }
    return a;
}

static void on_reloaded(void *arg, int r, struct manager_diff *d, struct buf *errors, const struct err *e)
{
    struct client *cl = arg;
    if (r == 0) {
        ctl_reply_ok(cl, json_pack("{s:o, s:o, s:o, s:o, s:o, s:i}", "changes", changes_json(d), "restart",
                                   lines_json(&d->restart), "added", names_json(&d->added), "removed",
                                   names_json(&d->removed), "changed", names_json(&d->changed),
                                   "unchanged", (int)d->unchanged));
    } else {
        /* every problem, not only what fits an error */
        json_t *msg = proto_make_error(e);
        if (errors->len)
            json_object_set_new(json_object_get(msg, "parameters"), "message",
                                json_sprintf("the new configuration is wrong, the old one stays:\n%s",
                                             buf_str(errors)));
        ctl_reply(cl, msg);
    }
    ctl_release(cl);
}

/* What was begun is finished. */
static void abandon(void *arg)
{
    (void)arg;
}

static void call_reload(struct client *cl, json_t *p)
{
    struct err e;
    if (ctl_unpack(p, &e, "{}") < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    ctl_hold(cl, abandon, NULL);
    manager_reload(ctl_manager(cl), on_reloaded, cl);
}

/* ---- what Varlink asks of every service ------------------------------------------------------------ */

static const char service_text[] =
    "# what every Varlink service answers\n"
    "interface org.varlink.service\n\n"
    "method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)\n"
    "method GetInterfaceDescription(interface: string) -> (description: string)\n\n"
    "error InterfaceNotFound(interface: string)\n"
    "error MethodNotFound(method: string)\n"
    "error MethodNotImplemented(method: string)\n"
    "error InvalidParameter(parameter: string)\n"
    "error PermissionDenied()\n"
    "error ExpectedMore()\n";

static void call_info(struct client *cl, json_t *p)
{
    struct err e;
    if (ctl_unpack(p, &e, "{}") < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    ctl_reply_ok(cl, json_pack("{s:s, s:s, s:s, s:s, s:[s, s]}", "vendor", "walsup", "product", "walsupd", "version",
                               WALSUP_VERSION, "url", "man:walsupd(8)", "interfaces", "org.varlink.service",
                               PROTO_INTERFACE));
}

static void call_description(struct client *cl, json_t *p);

#define SERVICE "org.varlink.service"

/* text: as in the description; of methods of our own interface */
static const struct ctl_method methods[] = {
    {PROTO_INTERFACE ".Status", false,
     "# state of one database or all of them; of more than limit, the worst that are not fine, "
     "1000 at most. With more:\n"
     "# again and again, every interval_ms (1000), until the client goes. The fields are in "
     "walsupctl(1)\n"
     "method Status(db: ?string, limit: ?int, interval_ms: ?int) -> (schema: int, version: string, "
     "pid: int, started_ms: int, now_ms: "
     "int, sqlite_version: string, state: string, total: int, counts: object, watch: object, "
     "databases: []object)\n",
     ctl_call_status},
    {PROTO_INTERFACE ".Metrics", false,
     "# what Prometheus would fetch\n"
     "method Metrics() -> (text: string)\n",
     ctl_call_metrics},
    {PROTO_INTERFACE ".List", false, "method List() -> (databases: []object)\n", call_list},
    {PROTO_INTERFACE ".Sync", false,
     "# capture now; with wait also upload now and answer when every replica has it\n"
     "method Sync(db: ?string, wait: ?bool, timeout_ms: ?int) -> (databases: []object)\n",
     ctl_call_sync},
    {PROTO_INTERFACE ".Snapshot", true,
     "# a file with the whole database to every replica, or one; answers when it is there\n"
     "method Snapshot(db: string, target: ?string) -> (name: string, replicas: []object)\n",
     ctl_call_snapshot},
    {PROTO_INTERFACE ".Reconcile", true,
     "# compare what is known of the replicas with the buckets; trust_clock: the clock is right\n"
     "method Reconcile(db: ?string, target: ?string, trust_clock: ?bool) -> (databases: "
     "[]object)\n",
     ctl_call_reconcile},
    {PROTO_INTERFACE ".PageMap", true,
     "# capture now, and leave a copy of the page map at path until the connection is closed: what "
     "the replicas must\n"
     "# come to at txid\n"
     "method PageMap(db: string) -> (name: string, txid: string, lineage: string, path: string, "
     "page_size: int, "
     "pages: int)\n",
     ctl_call_page_map},
    {PROTO_INTERFACE ".Takeover", true,
     "# go on where another writer was found, with a history of its own behind the other's\n"
     "method Takeover(db: string, target: ?string) -> (name: string, targets: []string)\n",
     ctl_call_takeover},
    {PROTO_INTERFACE ".Adopt", true,
     "# the directory of the target, as it is now, is the one to store in\n"
     "method Adopt(target: string) -> (target: string, path: string)\n",
     ctl_call_adopt},
    {PROTO_INTERFACE ".Pause", true,
     "# let go of a database, or all, as a stop does, and stay away, also after a restart; what is "
     "captured is still\n"
     "# uploaded\n"
     "method Pause(db: ?string, all: ?bool, reason: ?string, for_ms: ?int) -> (databases: "
     "[]object)\n",
     ctl_call_pause},
    {PROTO_INTERFACE ".Resume", true,
     "# go on with it\n"
     "method Resume(db: ?string, all: ?bool) -> (databases: []object)\n",
     ctl_call_resume},
    {PROTO_INTERFACE ".Reload", true,
     "# read the configuration again\n"
     "method Reload() -> (changes: []object, restart: []string, added: []string, removed: "
     "[]string, changed: []string, unchanged: int)\n",
     call_reload},
    {SERVICE ".GetInfo", false, NULL, call_info},
    {SERVICE ".GetInterfaceDescription", false, NULL, call_description},
};

const struct ctl_method *ctl_method_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(methods); i++)
        if (!strcmp(name, methods[i].name))
            return &methods[i];
    return NULL;
}

static void describe(struct buf *b)
{
    buf_add_str(b, "# walsup's control interface; version 1. \"admin\": for root and the daemon's "
                   "user only; the others are for\n"
                   "# the group walsup as well\n"
                   "interface " PROTO_INTERFACE "\n\n");
    for (size_t i = 0; i < ARRAY_LEN(methods); i++)
        if (methods[i].text)
            buf_printf(b, "%s%s\n", methods[i].admin ? "# admin\n" : "", methods[i].text);
    buf_add_str(b, "# code: one of usage, not-found, permission, busy, timeout, config and the "
                   "like; the words are for people\n"
                   "error Error(code: string, message: string, hint: string)\n");
}

static void call_description(struct client *cl, json_t *p)
{
    const char *name = NULL;
    struct err e;
    cleanup_buf struct buf b = BUF_INIT;
    if (ctl_unpack(p, &e, "{s:s}", "interface", &name) < 0) {
        ctl_reply_err(cl, &e);
        return;
    }
    if (!strcmp(name, PROTO_INTERFACE))
        describe(&b);
    else if (!strcmp(name, SERVICE))
        buf_add_str(&b, service_text);
    if (b.len) {
        ctl_reply_ok(cl, json_pack("{s:s}", "description", buf_str(&b)));
        return;
    }
    err_set(&e, ERR_NOTFOUND, "there is no interface %.100s", name);
    ctl_reply_varlink(cl, SERVICE ".InterfaceNotFound", "interface", name, &e);
}

void ctl_method_unknown(struct client *cl, const char *name)
{
    struct err e;
    err_set(&e, ERR_UNSUPPORTED, "walsupd %s has no method %.100s", WALSUP_VERSION, name);
    ctl_reply_varlink(cl, SERVICE ".MethodNotFound", "method", name, &e);
}
