#include "common/format/conf_int.h"

#include <ctype.h>

void conf_url_done(struct conf_url *u)
{
    free(u->bucket);
    free(u->path);
    free(u->endpoint);
    free(u->region);
    free(u->addressing);
    free(u->skip_verify);
    free(u->ca_file);
    free(u->profile);
    *u = (struct conf_url){0};
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* n bytes with %XX replaced; NULL when malformed or when a control character comes out */
static char *decoded(const char *p, size_t n)
{
    char *out = util_alloc(n + 1), *to = out;
    for (const char *end = p + n; p < end; p++) {
        char c = *p;
        if (c == '%') {
            int hi = end - p > 2 ? hex_digit(p[1]) : -1;
            int lo = end - p > 2 ? hex_digit(p[2]) : -1;
            c = hi < 0 || lo < 0 ? '\0' : (char)(hi * 16 + lo);
            p += 2;
        }
        if ((unsigned char)c < ' ' || c == 0x7f) {
            free(out);
            return NULL;
        }
        *to++ = c;
    }
    *to = '\0';
    if (!conf_utf8_ok(out, (size_t)(to - out))) {
        free(out);
        return NULL;
    }
    return out;
}

static int url_bad(struct err *e, const char *url, const char *what, const char *hint)
{
    /* the text in front of an @ may be a secret */
    const char *shown = strrchr(url, '@') ? "url" : url;
    (void)err_set(e, ERR_CONFIG, "%.200s: %s", shown, what);
    return err_hint(e, "%s", hint);
}

static int take_query(const char *url, const char *q, struct conf_url *u, struct err *e)
{
    const struct {
        const char *name;
        char **to;
    } known[] = {{"endpoint", &u->endpoint},       {"region", &u->region},
                 {"addressing", &u->addressing},   {"skip-verify", &u->skip_verify},
                 {"ca-file", &u->ca_file},         {"profile", &u->profile}};
    while (*q) {
        size_t n = strcspn(q, "&"), name_n = strcspn(q, "=&");
        size_t k = 0;
        while (k < ARRAY_LEN(known) &&
               (strlen(known[k].name) != name_n || memcmp(known[k].name, q, name_n) != 0))
            k++;
        if (k == ARRAY_LEN(known)) {
            (void)err_set(e, ERR_CONFIG, "unknown parameter '%.*s' in the url",
                          (int)MIN(name_n, (size_t)64), q);
            return err_hint(e, "known are endpoint, region, addressing, skip-verify, ca-file and "
                            "profile; keys and secrets do not belong into a url");
        }
        if (*known[k].to)
            return url_bad(e, url, "a parameter is given twice", "keep one of them");
        *known[k].to = name_n < n ? decoded(q + name_n + 1, n - name_n - 1) : NULL;
        if (!*known[k].to || !**known[k].to)
            return url_bad(e, url, "a parameter has no usable value",
                           "write name=value, with %XX for special characters");
        q += n + (q[n] == '&');
    }
    return 0;
}

int conf_url_split(const char *url, struct conf_url *ret, struct err *e)
{
    struct conf_url u = {.type = CONF_S3};
    const char *p;
    bool file = false;
    if (*url == '/') {
        u.type = CONF_FILE;
        u.path = util_strdup(url);
        *ret = u;
        return 0;
    }
    if (!strncmp(url, "s3://", 5)) {
        p = url + 5;
    } else if (!strncmp(url, "file://", 7)) {
        p = url + 7;
        file = true;
    } else if (!strncmp(url, "http://", 7) || !strncmp(url, "https://", 8)) {
        return url_bad(e, url, "this is an endpoint, not a place in it",
                       "write s3://BUCKET/PATH?endpoint=https://HOST");
    } else {
        return url_bad(e, url, "not a url that walsup knows",
                       "write s3://BUCKET/PATH?endpoint=https://HOST or file:///DIRECTORY");
    }
    size_t n = strcspn(p, "?#");
    size_t host_n = file ? 0 : MIN(strcspn(p, "/"), n);
    if (memchr(p, '@', host_n))
        return url_bad(e, url, "it contains a user name or key",
                       "keys come from the configuration or the environment, never from a url");
    if (p[n] == '#')
        return url_bad(e, url, "'#' has no meaning here", "write %23 for a '#' in a path");
    if (file && *p != '/')
        return url_bad(e, url, "the path is not absolute", "write file:///DIRECTORY");
    if (file && p[n] == '?')
        return url_bad(e, url, "a file url takes no parameters", "remove the '?' and what follows");
    if (!file && host_n == 0)
        return url_bad(e, url, "the bucket is missing",
                       "write s3://BUCKET/PATH?endpoint=https://HOST");
    u.type = file ? CONF_FILE : CONF_S3;
    if (!file)
        u.bucket = decoded(p, host_n);
    u.path = decoded(p + host_n, n - host_n);
    int rc = 0;
    if (!u.path || (!file && !u.bucket))
        rc = url_bad(e, url, "it is not properly encoded", "write %XX for special characters only");
    if (rc == 0 && p[n] == '?')
        rc = take_query(url, p + n + 1, &u, e);
    if (rc < 0)
        conf_url_done(&u);
    else
        *ret = u;
    return rc;
}

/* ---- endpoint and bucket -------------------------------------------------------------------- */

char *conf_endpoint_aws(const char *region)
{
    const char *suffix = strncmp(region, "cn-", 3) ? "" : ".cn";
    return util_printf("https://s3.%s.amazonaws.com%s", region, suffix);
}

static bool port_ok(const char *p)
{
    size_t n = strlen(p);
    return n >= 1 && n <= 5 && strspn(p, "0123456789") == n && atoi(p) >= 1 && atoi(p) <= 65535;
}

static bool host_ok(const char *h, size_t n)
{
    static const char name[] = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
    if (n > 2 && h[0] == '[' && h[n - 1] == ']')
        return strspn(h + 1, "0123456789abcdef:.") == n - 2;
    return n >= 1 && n <= 253 && h[0] != '.' && h[0] != '-' && strspn(h, name) >= n;
}

char *conf_endpoint_clean(const char *text, struct err *e)
{
    const char *sep = strstr(text, "://");
    const char *host = sep ? sep + 3 : text;
    const char *scheme = "https";
    if (sep && !strncasecmp(text, "http://", 7)) {
        scheme = "http";
    } else if (sep && strncasecmp(text, "https://", 8) != 0) {
        (void)err_set(e, ERR_CONFIG, "endpoint = %.200s is neither https nor http", text);
        (void)err_hint(e, "write endpoint = https://%.100s", host);
        return NULL;
    }
    if (strchr(host, '@')) {
        (void)err_set(e, ERR_CONFIG, "endpoint contains a user name or password");
        (void)err_hint(e, "keys go into access-key-id and secret-access-key-file");
        return NULL;
    }
    size_t n = strcspn(host, "/?#");
    cleanup_free char *h = strndup(host, n);
    for (char *c = h; c && *c; c++)
        *c = (char)tolower((unsigned char)*c);
    const char *base = host[n] && !strcmp(host + n, CONF_SUPABASE_BASE) ? CONF_SUPABASE_BASE : "";
    if (host[n] && !*base) {
        const char *path = host + n + strspn(host + n, "/");
        (void)err_set(e, ERR_CONFIG, "endpoint = %.200s has %s after the host", text,
                      *path ? "a path" : "a slash");
        if (*path)
            (void)err_hint(e, "write endpoint = %s://%s and put '%.100s' into bucket and path",
                           scheme, h, path);
        else
            (void)err_hint(e, "write endpoint = %s://%s", scheme, h);
        return NULL;
    }
    char *port = h && *h == '[' ? strchr(h, ']') : h;
    port = port ? strchr(port, ':') : NULL;
    size_t host_n = !h ? 0 : port ? (size_t)(port - h) : strlen(h);
    if (!h || !host_ok(h, host_n) || (port && !port_ok(port + 1))) {
        (void)err_set(e, ERR_CONFIG, "endpoint = %.200s is not a host name with an optional port",
                      text);
        (void)err_hint(e, "as in https://s3.example.com or http://127.0.0.1:9000");
        return NULL;
    }
    if (port && !strcmp(port + 1, *scheme == 'h' && scheme[4] ? "443" : "80"))
        *port = '\0';
    return util_printf("%s://%s%s", scheme, h, base);
}

/* labels that end host names and hardly ever bucket names; two letters are countries */
static bool tld_like(const char *label)
{
    static const char *const known[] = {
        "com", "net", "org", "info", "biz", "dev", "app", "cloud", "local", "lan", "home",
        "internal", "localdomain", "example", "test", "online", "site", "xyz", "tech", "space",
        "host", "systems", "network", "arpa", "localhost"};
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (!strcasecmp(label, known[i]))
            return true;
    return strlen(label) == 2 && isalpha((unsigned char)label[0]) &&
           isalpha((unsigned char)label[1]);
}

static bool looks_like_host(const char *bucket)
{
    static const char *const first[] = {"s3", "minio", "storage", "localhost"};
    const char *last = strrchr(bucket, '.');
    const char *colon = strchr(bucket, ':');
    if (colon)
        return port_ok(colon + 1);
    if (!last)
        return !strcmp(bucket, "localhost");
    for (size_t i = 0; i < ARRAY_LEN(first); i++)
        if (!strncasecmp(bucket, first[i], strlen(first[i])))
            return true;
    return tld_like(last + 1) || bucket[strspn(bucket, "0123456789.")] == '\0';
}

bool conf_host_is_local(const char *host)
{
    size_t n = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":/");
    return (n == 9 && !strncmp(host, "localhost", n)) || (n == 5 && !strncmp(host, "[::1]", n)) ||
           (!strncmp(host, "127.", 4) && strspn(host, "0123456789.") == n);
}

static bool bucket_letters(const char *b)
{
    static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = strlen(b);
    return n >= 3 && n <= 63 && strspn(b, ok) == n && *b != '.' && !strstr(b, "..");
}

int conf_bucket_check(const char *bucket, const char *path, const char *region, bool endpoint_set,
                      bool from_url, struct err *e)
{
    if (!endpoint_set && looks_like_host(bucket)) {
        bool local = conf_host_is_local(bucket);
        cleanup_free char *aws = conf_endpoint_aws(region);
        const char *p = path + strspn(path, "/");
        size_t n = strcspn(p, "/");
        (void)err_set(e, ERR_CONFIG,
                      "the bucket was taken to be '%.80s', which looks like a host name, and "
                      "endpoint is not set, so requests would go to AWS (%s)",
                      bucket, aws);
        cleanup_free char *rest = util_strdup(p[n] && p[n + 1] ? p + n + 1 : "");
        size_t rest_n = strlen(rest);
        while (rest_n && rest[rest_n - 1] == '/')
            rest[--rest_n] = '\0';
        if (!from_url)
            return err_hint(e, "write\n    endpoint = %s://%.80s\n    bucket = the bucket's "
                            "name\n  or, if the bucket really has this name at AWS,\n"
                            "    endpoint = %s", local ? "http" : "https", bucket, aws);
        return err_hint(e, "instead of the url write\n    endpoint = %s://%.80s\n"
                        "    bucket = %.*s%s%.80s", local ? "http" : "https", bucket,
                        n ? (int)MIN(n, (size_t)63) : 17, n ? p : "the bucket's name",
                        *rest ? "\n    path = " : "", rest);
    }
    if (bucket_letters(bucket))
        return 0;
    const char *slash = strchr(bucket, '/');
    (void)err_set(e, ERR_CONFIG, "bucket = %.100s is not a bucket name", bucket);
    if (slash && slash > bucket)
        return err_hint(e, "write bucket = %.*s and path = %.80s",
                        (int)MIN(slash - bucket, (ptrdiff_t)63), bucket, slash + 1);
    return err_hint(e, "3 to 63 letters, digits, dots and dashes");
}

enum conf_addressing conf_addressing_resolve(enum conf_addressing a, bool endpoint_set,
                                             const char *bucket)
{
    if (a != CONF_ADDR_AUTO)
        return a;
    /* no certificate for *.s3.region.amazonaws.com covers a bucket with a dot in its name */
    return endpoint_set || strchr(bucket, '.') ? CONF_ADDR_PATH : CONF_ADDR_VIRTUAL;
}

/* ---- restore --url -------------------------------------------------------------------------- */

/* a parameter as the row k of conf.def would take it */
static int parameter(enum conf_key_id k, const char *text, uint64_t *num, struct err *e)
{
    *num = conf_default(k);
    return text ? conf_number(&conf_key[k], text, num, e) : 0;
}

static int target_of(struct conf_url *u, struct conf_target *t, struct err *e)
{
    uint64_t addressing, skip;
    t->type = u->type;
    if (u->type == CONF_FILE) {
        t->path = conf_path_clean(u->path, e);
        return t->path ? 0 : err_wrap(e, "%s", u->path);
    }
    t->region = util_strdup(u->region ? u->region : conf_key[CONF_TARGET_region].dflt);
    if (u->endpoint && !(t->endpoint = conf_endpoint_clean(u->endpoint, e)))
        return -(int)e->code;
    int rc = conf_bucket_check(u->bucket, u->path, t->region, u->endpoint != NULL, true, e);
    if (rc < 0 && !u->endpoint && looks_like_host(u->bucket))
        return err_hint(e, "write s3://%.150s?endpoint=%s://%.80s", u->path + strspn(u->path, "/"),
                        conf_host_is_local(u->bucket) ? "http" : "https", u->bucket);
    if (rc < 0)
        return rc;
    if (!u->endpoint)
        t->endpoint = conf_endpoint_aws(t->region);
    if (!(t->path = conf_prefix_clean(u->path, e)))
        return err_wrap(e, "%s", u->path);
    rc = parameter(CONF_TARGET_addressing, u->addressing, &addressing, e);
    rc = rc < 0 ? rc : parameter(CONF_TARGET_skip_verify, u->skip_verify, &skip, e);
    if (rc < 0)
        return rc;
    if (u->ca_file && !(t->ca_file = conf_path_clean(u->ca_file, e)))
        return err_wrap(e, "ca-file=%s", u->ca_file);
    t->addressing =
        conf_addressing_resolve((enum conf_addressing)addressing, u->endpoint != NULL, u->bucket);
    t->skip_verify = skip != 0;
    t->bucket = TAKE_PTR(u->bucket);
    t->profile = TAKE_PTR(u->profile);
    return 0;
}

int conf_parse_url(const char *url, struct conf_target *ret, struct err *e)
{
    struct err own = {0};
    struct conf_url u = {0};
    struct conf_target t = {0};
    e = e ? e : &own;
    if (!conf_utf8_ok(url, strlen(url)))
        return err_set(e, ERR_CONFIG, "the url is not UTF-8 text");
    int rc = conf_url_split(url, &u, e);
    if (rc < 0)
        return rc;
    t.name = util_strdup("url");
    t.by_url = true;
    t.max_connections = (uint32_t)conf_default(CONF_TARGET_max_connections);
    rc = target_of(&u, &t, e);
    conf_url_done(&u);
    if (rc < 0)
        conf_target_done(&t);
    else
        *ret = t;
    return rc;
}

void conf_target_done(struct conf_target *t)
{
    free(t->name);
    free(t->endpoint);
    free(t->bucket);
    free(t->path);
    free(t->region);
    free(t->access_key_id);
    secret_free(t->secret_access_key);
    free(t->secret_access_key_file);
    secret_free(t->session_token);
    free(t->credentials_file);
    free(t->profile);
    free(t->ca_file);
    free(t->ca_path);
    free(t->sse_kms_key_id);
    free(t->sse_customer_key_file);
    free(t->credential_process);
    free(t->client_certificate);
    free(t->client_key);
    free(t->storage_class);
    *t = (struct conf_target){0};
}
