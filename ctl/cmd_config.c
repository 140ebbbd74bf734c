/* config, version */
#include "ctl/ctl.h"

#include <curl/curl.h>
#include <sqlite3.h>
#include <uv.h>

#include "ctl/out.h"

static json_t *targets_json(const struct conf *conf)
{
    static const char *const addressing[] = {"auto", "path", "virtual"};
    json_t *all = json_array();
    for (size_t i = 0; i < conf->n_targets; i++) {
        const struct conf_target *t = &conf->target[i];
        json_t *o = json_pack("{s:s, s:s, s:s}", "name", t->name, "type",
                              t->type == CONF_FILE ? "file" : "s3", "path", t->path);
        if (t->type == CONF_S3)
            (void)json_object_update_new(
                o, json_pack("{s:s, s:s, s:s, s:s, s:s?, s:b, s:b, s:i, s:I}", "endpoint",
                             t->endpoint, "bucket", t->bucket, "region", t->region, "addressing",
                             addressing[t->addressing], "access-key-id", t->access_key_id,
                             "secret-access-key-set",
                             t->secret_access_key || t->secret_access_key_file, "skip-verify",
                             (int)t->skip_verify, "max-connections", (int)t->max_connections,
                             "bandwidth-limit-bytes", (json_int_t)t->bandwidth_limit_bytes));
        (void)json_object_set_new(
            o, "ltx-encoding", json_string(t->ltx_encoding == LTX_FRAME ? "frame" : "block"));
        (void)json_array_append_new(all, o);
    }
    return all;
}

static json_t *databases_json(const struct conf *conf)
{
    json_t *all = json_array();
    for (size_t i = 0; i < conf->n_dbs; i++) {
        const struct conf_db *d = &conf->db[i];
        json_t *replicas = json_array();
        for (size_t j = 0; j < d->n_replicas; j++)
            (void)json_array_append_new(
                replicas, json_pack("{s:s, s:s, s:I}", "target",
                                    conf->target[d->replica[j].target].name, "path",
                                    d->replica[j].path, "sync-interval-ms",
                                    (json_int_t)d->replica[j].sync_interval_ms));
        (void)json_array_append_new(
            all, json_pack("{s:s, s:s, s:s?, s:I, s:I, s:I, s:o}", "name", d->name, "path", d->path,
                           "name-template", d->name_template, "checkpoint-pages",
                           (json_int_t)d->checkpoint_pages, "wal-limit-bytes",
                           (json_int_t)d->wal_limit_bytes, "spool-limit-bytes",
                           (json_int_t)d->spool_limit_bytes, "replicas", replicas));
    }
    return all;
}

static json_t *conf_json(const struct conf *conf)
{
    json_t *files = json_array();
    for (size_t i = 0; i < conf->n_files; i++)
        (void)json_array_append_new(files, json_string(conf->file[i]));
    return json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:i, s:I, s:I, s:o, s:o, s:o}",
                     "state-dir", conf->state_dir, "socket", conf->socket, "log-level",
                     conf->log_level, "workers", (int)conf->workers, "scan-interval-ms",
                     (json_int_t)conf->scan_interval_ms, "idle-timeout-ms",
                     (json_int_t)conf->idle_timeout_ms, "copy-wait-ms",
                     (json_int_t)conf->copy_wait_ms, "max-open", (int)conf->max_open,
                     "min-free-bytes", (json_int_t)conf->min_free_bytes, "shutdown-timeout-ms",
                     (json_int_t)conf->shutdown_timeout_ms, "files", files, "targets",
                     targets_json(conf), "databases", databases_json(conf));
}

int cmd_config(struct ctl *c)
{
    static const struct option own[] = {{"defaults", no_argument, NULL, 'd'},
                                        {"sample", no_argument, NULL, 's'},
                                        {"man", no_argument, NULL, 'm'},
                                        {NULL, 0, NULL, 0}};
    int status, o;
    void (*fixed)(struct buf *out) = NULL;
    struct conf *conf = NULL;
    cleanup_buf struct buf out = BUF_INIT;
    while ((o = ctl_option(c, own, &status)) >= 0)
        fixed = o == 'd' ? conf_defaults : o == 's' ? conf_sample : conf_man;
    if (o == CTL_STOP || !ctl_operands(c, 0, 0, &status))
        return status;
    if (fixed) {
        fixed(&out);
        return ctl_print(c, &out);
    }
    if (!ctl_load(c, &conf, &status))
        return status;
    if (c->json) {
        (void)out_json(conf_json(conf));
    } else {
        conf_dump(conf, &out);
        (void)ctl_print(c, &out);
    }
    (void)conf_free(conf);
    return 0;
}

int cmd_version(struct ctl *c)
{
    int status;
    if (c->verb && (ctl_option(c, NULL, &status) == CTL_STOP || !ctl_operands(c, 0, 0, &status)))
        return status;
    if (c->json)
        return out_json(json_pack("{s:s, s:s, s:s, s:s, s:s}", "version", WALSUP_VERSION, "sqlite",
                                  sqlite3_libversion(), "libuv", uv_version_string(), "libcurl",
                                  curl_version_info(CURLVERSION_NOW)->version, "jansson",
                                  jansson_version_str()));
    printf("walsupctl " WALSUP_VERSION " (SQLite %s, libuv %s, libcurl %s)\n", sqlite3_libversion(),
           uv_version_string(), curl_version_info(CURLVERSION_NOW)->version);
    return 0;
}
