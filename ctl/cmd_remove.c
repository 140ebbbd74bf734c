/* remove: take back what add made, after everything is in the replicas. */
#include "ctl/ctl.h"

#include <sys/stat.h>

#include "common/base/fsx.h"
#include "ctl/client.h"
#include "ctl/dropin.h"
#include "ctl/out.h"

#define TIMEOUT_MS 60000
#define ANSWER_MS 5000
#define MAX_BYTES (1u << 20)

/* The section by name, or by path. */
static const struct conf_db *find(struct ctl *c, const struct conf *conf, const char *text, struct err *e)
{
    struct conf_found found = {0};
    const struct conf_db *d = conf_find_db(conf, text);
    if (!d && ctl_resolve(c, conf, text, &found, e) < 0)
        return NULL;
    d = d ? d : found.db;
    if (!d->glob || !strcmp(d->name, text)) {
        conf_found_done(&found);
        return d;
    }
    (void)err_set(e, ERR_USAGE, "%s belongs to the pattern of [db %s] (%s:%u)", text, d->name,
                  d->origin.file, d->origin.line);
    (void)err_hint(e, "move the file out of the pattern, or change the pattern");
    conf_found_done(&found);
    return NULL;
}

static bool ours(const struct conf_db *d, const char *config, struct err *e)
{
    if (dropin_is_ours(d->origin.file))
        return true;
    (void)err_set(e, ERR_USAGE, "[db %s] was written by hand, at %s:%u", d->name, d->origin.file, d->origin.line);
    (void)err_hint(e, "delete that section in %s, then walsupctl -c %s reload", d->origin.file, config);
    return false;
}

/* Whether anything of it was ever captured, as far as walsupd knows: else there is nothing to wait for. */
static bool was_captured(const char *socket, const struct conf_db *d)
{
    json_t *reply = NULL;
    struct err ignored;
    if (d->glob || client_call(socket, "Status", json_pack("{s:s}", "db", d->name), ANSWER_MS,
                               &reply, NULL, &ignored) < 0)
        return true;
    const json_t *db = json_array_get(json_object_get(reply, "databases"), 0);
    const char *txid = json_string_value(json_object_get(db, "txid")), *state = json_string_value(json_object_get(db, "state"));
    bool captured = !txid || !state || !strcmp(state, "starting") || txid[strspn(txid, "0")];
    json_decref(reply);
    return captured;
}

/* Everything into the replicas; with what cannot be replicated there is nothing to wait for. */
static int flush(const char *socket, const struct conf_db *d, uint64_t timeout_ms, bool *ret_running, struct err *e)
{
    json_t *reply = NULL;
    json_t *p = json_pack("{s:s, s:b, s:I}", "db", d->name, "wait", 1, "timeout_ms", (json_int_t)timeout_ms);
    if (d->glob) /* as many as it found: its files stay where they are, and so do their spools */
        (void)json_object_del(p, "db");
    int r = client_call(socket, "Sync", p, timeout_ms + ANSWER_MS, &reply, NULL, e);
    json_decref(reply);
    *ret_running = r == 0 || e->code != ERR_NET;
    if (r == 0 || e->code == ERR_NOTFOUND || e->code == ERR_UNSUPPORTED)
        return 0;
    (void)err_wrap(e, "[db %s] stays, since not everything may be in its replicas", d->name);
    if (e->code == ERR_NET)
        return err_hint(e, "start walsupd, or use --force: what is not uploaded stays in the state directory");
    return e->hint[0] ? -(int)e->code
                      : err_hint(e, "--force removes it all the same: what is not uploaded stays "
                                    "in the state directory");
}

/* what restore --url takes */
static char *url_of(const struct conf_target *t, const struct conf_replica *r)
{
    if (t->type == CONF_FILE)
        return util_printf("file://%s/%s", t->path, r->path);
    return util_printf("s3://%s/%s%s%s?endpoint=%s", t->bucket, t->path, *t->path ? "/" : "", r->path, t->endpoint);
}

static int report(const struct ctl *c, const struct conf *conf, const struct conf_db *d,
                  const char *file, bool captured)
{
    json_t *replicas = json_array();
    for (size_t i = 0; captured && i < d->n_replicas; i++) {
        cleanup_free char *url = url_of(&conf->target[d->replica[i].target], &d->replica[i]);
        (void)json_array_append_new(replicas, json_pack("{s:s, s:o}", "target", conf->target[d->replica[i].target].name,
                                                        "url", proto_text(url)));
    }
    if (c->json)
        return out_json(json_pack("{s:s, s:o, s:o, s:o}", "name", d->name, "path", proto_text(d->path), "file",
                                  proto_text(file), "replicas", replicas));
    printf("%s: no longer replicated (", d->name);
    out_text(stdout, d->path);
    printf(captured ? ")\n" : "); nothing of it was captured\n");
    size_t i;
    const json_t *r;
    json_array_foreach(replicas, i, r) {
        printf("its replica stays in %s; to restore it:\n  walsupctl restore --url '",
               json_string_value(json_object_get(r, "target")));
        out_text(stdout, json_string_value(json_object_get(r, "url")));
        printf("' -o FILE\n");
    }
    json_decref(replicas);
    return 0;
}

static int take_away(struct ctl *c, const char *socket, const char *file, bool running)
{
    struct err e = {0};
    cleanup_buf struct buf text = BUF_INIT;
    int status;
    if (fsx_read(file, MAX_BYTES, &text, &e) < 0 || fsx_unlink(file, &e) < 0)
        return out_fail(c->json, &e);
    if (!running)
        return 0;
    json_t *reply = NULL;
    if (ctl_reload(c, socket, &reply, &status) == 0) {
        json_decref(reply);
        return 0;
    }
    (void)umask(0022); /* as add made it */
    if (fsx_publish(file, text.p, text.len, 0644, 0, &e) < 0)
        out_error(&e);
    else
        (void)fputs("walsupctl: nothing was changed\n", stderr);
    return status;
}

static int remove_it(struct ctl *c, const struct conf *conf, const char *text, uint64_t timeout_ms, bool force)
{
    struct err e = {0};
    struct conf *without = NULL;
    int status;
    bool running = true;
    const char *socket = c->socket ? c->socket : conf->socket;
    const struct conf_db *d = find(c, conf, text, &e);
    if (!d || !ours(d, c->config, &e))
        return out_fail(c->json, &e);
    cleanup_free char *file = util_strdup(d->origin.file);
    if (!dropin_judge(c, file, NULL, &without, &status))
        return status;
    (void)conf_free(without);
    bool captured = was_captured(socket, d);
    if (captured && flush(socket, d, timeout_ms, &running, &e) < 0 && !force)
        return out_fail(c->json, &e);
    status = take_away(c, socket, file, running);
    return status ? status : report(c, conf, d, file, captured);
}

int cmd_remove(struct ctl *c)
{
    static const struct option own[] = {{"force", no_argument, NULL, 'f'},
                                        {"timeout", required_argument, NULL, 't'},
                                        {NULL, 0, NULL, 0}};
    int status, o;
    bool force = false;
    uint64_t timeout_ms = TIMEOUT_MS;
    struct conf *conf = NULL;
    while ((o = ctl_option(c, own, &status)) >= 0) {
        if (o == 'f')
            force = true;
        else if (!conf_duration(optarg, &timeout_ms) || timeout_ms > 3600000)
            return ctl_usage_error(c, "--timeout %s is not a duration up to 1h, as in 30s", optarg);
    }
    if (o == CTL_STOP || !ctl_operands(c, 1, 1, &status) || !ctl_load(c, &conf, &status))
        return status;
    status = remove_it(c, conf, c->argv[optind], timeout_ms, force);
    (void)conf_free(conf);
    return status;
}
