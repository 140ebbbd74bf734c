/* The replicas of a litestream.yml: a target for each place, and what differs from its defaults. */
#include "ctl/import.h"

#include <ctype.h>

#include "common/base/secret.h"

static bool target_taken(const struct import *x, const char *name)
{
    for (size_t i = 0; i < x->n_targets; i++)
        if (!strcmp(x->target[i].name, name))
            return true;
    return false;
}

static const char **setting(struct import_settings *s, const char *key)
{
    const struct {
        const char *key;
        const char **at;
    } all[] = {{"type", &s->type}, {"name", &s->name}, {"path", &s->path}, {"url", &s->url},
               {"bucket", &s->bucket}, {"region", &s->region}, {"endpoint", &s->endpoint},
               {"force-path-style", &s->path_style}, {"skip-verify", &s->skip_verify},
               {"access-key-id", &s->key_id}, {"secret-access-key", &s->secret},
               {"storage-class", &s->storage_class}, {"sync-interval", &s->sync_interval},
               {"retention", &s->retention}, {"snapshot-interval", &s->snapshot},
               {"validation-interval", &s->validation}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (!strcmp(all[i].key, key))
            return all[i].at;
    return NULL;
}

/* age: {} encrypts nothing */
static bool encrypts(struct import *x, const yaml_node_t *age)
{
    cleanup_free struct import_pair *p = NULL;
    size_t n = import_pairs(&x->doc, age, &p);
    for (size_t i = 0; i < n; i++)
        if (import_items(p[i].value) || import_text(p[i].value))
            return true;
    return false;
}

/* One pair of a replica, or of the defaults; false: the replica cannot be imported. */
bool import_setting(struct import *x, const struct import_pair *p, struct import_settings *s)
{
    const struct import_key *k = import_key(IMPORT_REPLICA, p->key);
    const char **at = setting(s, p->key);
    if (!k) {
        import_note(x, p->line, p->key, "no key of Litestream's, which ignores it");
    } else if (k->act == IMPORT_REFUSE && encrypts(x, p->value)) {
        if (!x->err.code) {
            (void)err_set(&x->err, ERR_UNSUPPORTED, "%s:%u: %s: %s", x->file, p->line, p->key, k->why);
            (void)err_hint(&x->err, "nothing was printed. Use a disk or a bucket that encrypts, and take "
                                    "the key out before you import");
        }
    } else if (k->act == IMPORT_DROP) {
        import_warn(x, p->line, p->key, k->why);
        return false;
    } else if (k->act == IMPORT_NOTE) {
        import_note(x, p->line, p->key, k->why);
    } else if (at) {
        *at = import_text(p->value);
    }
    return true;
}

/* hosts that name both a bucket and a server, as Litestream takes them apart */
static void split_host(const char *host, char **bucket, char **region, char **endpoint)
{
    static const struct {
        const char *prefix, *suffix;
        bool has_region, aws;
    } known[] = {{".s3.", ".amazonaws.com", true, true}, {".s3", ".amazonaws.com", false, true},
                 {".s3.", ".backblazeb2.com", true, false}, {".s3.", ".scw.cloud", true, false},
                 {".", ".digitaloceanspaces.com", true, false}, {".s3", ".filebase.com", false, false}};
    size_t n = strlen(host);
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        size_t suffix = strlen(known[i].suffix), prefix = strlen(known[i].prefix);
        const char *tail = n > suffix ? host + n - suffix : NULL;
        const char *at = strstr(host, known[i].prefix);
        if (!tail || strcmp(tail, known[i].suffix) != 0 || !at || at == host || at + prefix > tail ||
            (!known[i].has_region && at + prefix != tail))
            continue;
        *bucket = util_strndup(host, (size_t)(at - host));
        *region = known[i].has_region ? util_strndup(at + prefix, (size_t)(tail - at) - prefix) : NULL;
        *endpoint = known[i].aws ? NULL : util_printf("https://%s", at + 1);
        return;
    }
    const char *port = strchr(host, ':'), *dot = strchr(host, '.');
    if (port && dot && dot < port) { /* bucket.localhost:9000 */
        *bucket = util_strndup(host, (size_t)(dot - host));
        *endpoint = util_printf("http://%s", dot + 1);
        return;
    }
    *bucket = util_strdup(host);
}

static char *decoded(const char *p, size_t n)
{
    char *out = util_alloc(n + 1), *to = out;
    for (size_t i = 0; i < n; i++) {
        unsigned v;
        if (p[i] == '%' && i + 2 < n + 0 && isxdigit((unsigned char)p[i + 1]) &&
            isxdigit((unsigned char)p[i + 2]) && sscanf(p + i + 1, "%2x", &v) == 1 && v) {
            *to++ = (char)v;
            i += 2;
        } else {
            *to++ = p[i];
        }
    }
    *to = '\0';
    return out;
}

/* what a url says, owned; the rest of the settings stays */
struct from_url {
    char *type, *path, *bucket, *region, *endpoint, *path_style, *skip_verify, *storage_class;
};

static void from_url_done(struct from_url *u)
{
    free(u->type);
    free(u->path);
    free(u->bucket);
    free(u->region);
    free(u->endpoint);
    free(u->path_style);
    free(u->skip_verify);
    free(u->storage_class);
}

static void url_parameter(struct import *x, unsigned line, struct from_url *u, const char *p, size_t n)
{
    const struct {
        const char *key, *other;
        char **at;
    } all[] = {{"endpoint", "endpoint", &u->endpoint}, {"region", "region", &u->region},
               {"forcePathStyle", "force-path-style", &u->path_style},
               {"skipVerify", "skip-verify", &u->skip_verify},
               {"storageClass", "storage-class", &u->storage_class}};
    const char *eq = memchr(p, '=', n);
    size_t k = eq ? (size_t)(eq - p) : n;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (eq && ((strlen(all[i].key) == k && !strncmp(all[i].key, p, k)) ||
                   (strlen(all[i].other) == k && !strncmp(all[i].other, p, k)))) {
            free(*all[i].at);
            *all[i].at = decoded(eq + 1, n - k - 1);
            return;
        }
    cleanup_free char *name = util_strndup(p, k);
    if (k)
        import_note(x, line, name ? name : "", "parameter of the url without equivalent");
}

static void split_url(struct import *x, unsigned line, const char *url, struct from_url *u)
{
    const char *colon = strstr(url, "://");
    if (!colon) {
        u->type = util_strdup("file");
        u->path = util_strdup(url);
        return;
    }
    const char *host = colon + 3, *query = strchr(host, '?');
    const char *end = query ? query : host + strlen(host);
    u->type = util_strndup(url, (size_t)(colon - url));
    if (u->type && !strcmp(u->type, "file")) {
        u->path = decoded(host, (size_t)(end - host));
        return;
    }
    const char *slash = memchr(host, '/', (size_t)(end - host));
    cleanup_free char *name = util_strndup(host, (size_t)((slash ? slash : end) - host));
    u->path = slash ? decoded(slash, (size_t)(end - slash)) : util_strdup("");
    if (name)
        split_host(name, &u->bucket, &u->region, &u->endpoint);
    for (const char *p = query ? query + 1 : ""; *p;) {
        size_t n = strcspn(p, "&");
        url_parameter(x, line, u, p, n);
        p += n + (p[n] == '&');
    }
}

/* Litestream takes http:// for what looks like this machine or network, and https:// else. NULL: it has a scheme. */
static char *with_scheme(const char *endpoint)
{
    static const char *const begins[] = {"localhost", "127.0.0.1", "192.168.", "10.",    "172.16.", "172.17.",
                                         "172.18.",   "172.19.",   "172.2",    "172.30.", "172.31."};
    static const char *const ends[] = {".local", ".localhost"};
    if (!endpoint || !*endpoint || strstr(endpoint, "://") || strstr(endpoint, IMPORT_UNSET) == endpoint)
        return NULL;
    size_t host = strcspn(endpoint, ":/");
    bool local = false;
    for (size_t i = 0; i < ARRAY_LEN(begins); i++)
        local = local || !strncmp(endpoint, begins[i], strlen(begins[i]));
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        size_t n = strlen(ends[i]);
        local = local || (host > n && !strncmp(endpoint + host - n, ends[i], n));
    }
    return util_printf("%s://%s", local ? "http" : "https", endpoint);
}

static void put_flag(struct import *x, struct buf *b, const char *text, const char *yes, const char *no)
{
    bool v;
    if (!text)
        return;
    if (!import_bool(text, &v))
        buf_printf(&x->warnings, "%s: '%s' is neither true nor false\n", x->file, text);
    else if (v ? yes : no)
        buf_printf(b, "%s\n", v ? yes : no);
}

/* retention: {enabled: false} */
static void put_delete(const struct import *x, struct buf *b)
{
    if (x->no_delete)
        buf_add_str(b, "delete = no\n");
}

/* As Litestream: what is not named in the file is looked for in the environment. It is asked for by each name, so that
 * what walsupd does not get there is not lost. */
static void put_keys(struct import *x, unsigned line, const struct import_settings *s, struct buf *b)
{
    static const char *const prefix[] = {"AWS", "LITESTREAM"};
    bool named = (s->key_id && *s->key_id) || (s->secret && *s->secret);
    if (s->key_id && *s->key_id)
        import_put(x, b, "access-key-id", s->key_id);
    if (s->secret && *s->secret)
        import_put(x, b, "secret-access-key", s->secret);
    for (size_t i = 0; i < ARRAY_LEN(prefix) && !named && x->expand; i++) {
        cleanup_free char *id_name = util_printf("%s_ACCESS_KEY_ID", prefix[i]);
        cleanup_free char *secret_name = util_printf("%s_SECRET_ACCESS_KEY", prefix[i]);
        char *id = import_variable(x, id_name), *secret = import_variable(x, secret_name);
        named = id && *id && secret && *secret;
        if (named) {
            buf_printf(b, "; from $%s and $%s\n", id_name, secret_name);
            import_put(x, b, "access-key-id", id);
            import_put(x, b, "secret-access-key", secret);
        }
        secret_wipe(id);
        secret_wipe(secret);
    }
    if (!named)
        import_warn(
            x, line, "no keys",
            "there are none in the file, nor in the environment: write access-key-id and "
            "secret-access-key into the target, or AWS_ACCESS_KEY_ID=... and "
            "AWS_SECRET_ACCESS_KEY=... into /etc/walsup.env (on a machine of AWS's with a role: "
            "instance-role = yes)");
}

/* The target's lines, and what its section may be called. */
static void target_body(struct import *x, unsigned line, const struct import_settings *s, const char *dir,
                        struct buf *b)
{
    if (!strcmp(s->type, "file")) {
        buf_add_str(b, "type = file\n");
        import_put(x, b, "path", dir);
        put_delete(x, b);
        return;
    }
    buf_add_str(b, "type = s3\n");
    if (s->endpoint && *s->endpoint)
        import_put(x, b, "endpoint", s->endpoint);
    import_put(x, b, "bucket", s->bucket ? s->bucket : "");
    if (*dir)
        import_put(x, b, "path", dir);
    if (s->region && *s->region)
        import_put(x, b, "region", s->region);
    put_flag(x, b, s->path_style, "addressing = path", "addressing = virtual");
    put_flag(x, b, s->skip_verify, "skip-verify = yes", NULL);
    put_keys(x, line, s, b);
    if (s->storage_class && *s->storage_class)
        import_put(x, b, "storage-class", s->storage_class);
    put_delete(x, b);
}

/* The target of these lines, made if need be, but none of `used` (", " between): its name. */
static const char *target_of(struct import *x, const struct import_settings *s, struct buf *body,
                             const char *used)
{
    for (size_t i = 0; i < x->n_targets; i++) {
        struct import_target *t = &x->target[i];
        cleanup_free char *listed = util_printf(", %s, ", t->name);
        cleanup_free char *list = util_printf(", %s, ", used);
        if (t->body.len == body->len && !memcmp(t->body.p, body->p, body->len) &&
            !strstr(list, listed))
            return t->name;
    }
    const char *base = s->name ? s->name : !strcmp(s->type, "file") ? "local" : s->bucket;
    char *name = import_name(base ? base : "s3", target_taken, x);
    x->target = util_realloc(x->target, (x->n_targets + 1) * sizeof *x->target);
    x->target[x->n_targets] = (struct import_target){name, *body};
    *body = (struct buf)BUF_INIT;
    return x->target[x->n_targets++].name;
}

static void place_replica(struct import *x, struct import_db *d, unsigned line, const struct import_settings *s)
{
    bool file = !strcmp(s->type, "file");
    const char *given = s->path ? s->path : "";
    cleanup_free char *absolute = NULL, *last = NULL;
    cleanup_buf struct buf body = BUF_INIT;
    if (file && *given != '/') {
        absolute = !strncmp(given, "~/", 2) && getenv("HOME")
                       ? util_printf("%s/%s", getenv("HOME"), given + 2)
                       : ctl_absolute(given);
        import_warn(x, line, "path", "was relative, and is taken from the home or the working directory: correct it if "
                                     "Litestream runs in another one");
    }
    cleanup_free char *dir = import_path(absolute ? absolute : given, file, &last);
    if (!file && (*given == '/' || (*given && given[strlen(given) - 1] == '/')) && !s->url)
        import_note(x, line, "path", "Litestream v0.5 takes the slash at an end as part of the names: a "
                                     "replica that it has written is somewhere else than walsup's");
    if (!*last)
        import_warn(
            x, line, "path",
            "Litestream had none; walsup's replica lies below, under the database's name, and does "
            "not continue Litestream's");
    if (file && !*dir) {
        free(dir);
        dir = *last ? util_printf("/%s", last) : util_strdup("");
        free(last);
        last = util_strdup("");
        import_note(x, line, "path", "walsup's replica is below, under the database's name");
    }
    import_take_notes(x, &d->replicas);
    target_body(x, line, s, dir, &body);
    const char *target = target_of(x, s, &body, buf_str(&d->targets));
    buf_printf(&d->targets, "%s%s", d->targets.len ? ", " : "", target);
    bool same = !d->dir && (!*last || !strcmp(last, d->name));
    if (same && !s->sync_interval)
        return;
    buf_printf(&d->replicas, "[replica %s@%s]\n", d->name, target);
    if (!same) {
        cleanup_free char *path = d->dir ? util_printf("%s%s{path}", last, *last ? "/" : "")
                                         : util_strdup(last);
        import_put(x, &d->replicas, "path", path);
    }
    if (s->sync_interval)
        import_put_duration(x, &d->replicas, "sync-interval", s->sync_interval, IMPORT_SYNC_MIN_MS,
                            IMPORT_DAY_MS);
}

/* What v0.3 has for each replica, walsup has for each database: the longest retention, and the rest as often as any of
 * them. */
static void take_history(struct import *x, struct import_db *d, unsigned line, const struct import_settings *s)
{
    const struct {
        const char *key, *text;
        uint64_t *at;
        bool longest;
    } all[] = {{"retention", s->retention, &d->history.retention_ms, true},
               {"snapshot-interval", s->snapshot, &d->history.snapshot_ms, false},
               {"validation-interval", s->validation, &d->history.verify_ms, false}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        uint64_t ms;
        if (!all[i].text || !*all[i].text)
            continue;
        if (!import_duration(all[i].text, &ms) || !ms) {
            cleanup_free char *why = util_printf("'%s' is not a duration", all[i].text);
            import_warn(x, line, all[i].key, why);
            continue;
        }
        d->differ = d->differ || (*all[i].at && *all[i].at != ms);
        if (!*all[i].at || (all[i].longest ? ms > *all[i].at : ms < *all[i].at))
            *all[i].at = ms;
    }
}

void import_replica(struct import *x, struct import_db *d, const yaml_node_t *node)
{
    struct import_settings s = x->dflt;
    struct from_url u = {.type = NULL};
    cleanup_free struct import_pair *p = NULL;
    size_t n = import_pairs(&x->doc, node, &p);
    unsigned line = n ? p[0].line : node ? (unsigned)node->start_mark.line + 1 : d->line;
    bool ok = true;
    s.sync_interval = NULL; /* of [walsup] */
    if (import_text(node))
        s.url = import_text(node);
    for (size_t i = 0; i < n; i++)
        ok = import_setting(x, &p[i], &s) && ok;
    if (s.url) {
        split_url(x, line, s.url, &u);
        s.type = u.type;
        s.path = u.path;
        s.bucket = u.bucket ? u.bucket : s.bucket;
        /* what stands in keys of their own wins, even if those are the defaults of the file */
        s.region = s.region && *s.region ? s.region : u.region;
        s.endpoint = s.endpoint && *s.endpoint ? s.endpoint : u.endpoint;
        s.path_style = u.path_style ? u.path_style : s.path_style;
        s.skip_verify = u.skip_verify ? u.skip_verify : s.skip_verify;
        s.storage_class = u.storage_class ? u.storage_class : s.storage_class;
    }
    s.type = s.type ? s.type : "file"; /* as Litestream */
    char *endpoint = with_scheme(s.endpoint);
    s.endpoint = endpoint ? endpoint : s.endpoint;
    const char *no = import_no_type(s.type);
    if (!no && !strcmp(s.type, "file") && (!s.path || !*s.path))
        import_warn(x, line, "a replica", no = "it has neither path nor url");
    else if (no)
        import_warn(x, line, s.type, no);
    if (!no && ok) {
        take_history(x, d, line, &s);
        place_replica(x, d, line, &s);
    } else
        import_take_notes(x, &d->replicas);
    free(endpoint);
    from_url_done(&u);
}
