/* s3fault: an S3 endpoint that is honest until it is told to be otherwise. See DESIGN.md. */
#include "tests/s3fault/exchange.h"
#include "tests/s3fault/sign.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <strings.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"

struct server server = {.lock = PTHREAD_MUTEX_INITIALIZER, .region = "us-east-1", .ledger_fd = -1};

void server_lock(void)
{
    (void)pthread_mutex_lock(&server.lock);
}

void server_unlock(void)
{
    (void)pthread_mutex_unlock(&server.lock);
}

/* ---- answers ----------------------------------------------------------------------------------- */

void answer_header(struct exchange *x, const char *name, const char *value)
{
    buf_printf(&x->headers, "%s: %s\r\n", name, value);
}

void xml_add(struct buf *out, const char *s)
{
    for (; *s; s++) {
        const char *e = *s == '&' ? "&amp;" : *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : NULL;
        if (e)
            buf_add_str(out, e);
        else
            buf_add(out, s, 1);
    }
}

void answer_error(struct exchange *x, int status, const char *code, const char *message,
                  const char *extra)
{
    x->status = status;
    buf_free(&x->body);
    buf_printf(&x->body, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code>"
                         "<Message>%s</Message>%s<RequestId>TESTREQUEST</RequestId></Error>",
               code, message, extra);
    answer_header(x, "Content-Type", "application/xml");
}

void exchange_log(struct exchange *x)
{
    if (x->logged)
        return;
    x->logged = true;
    json_t *j = json_pack("{s:f, s:s, s:s, s:s, s:i, s:b, s:s, s:I, s:s, s:s, s:I, s:s}", "time",
                          (double)clk_real_ms() / 1000, "verb", x->verb, "bucket",
                          x->bucket ? x->bucket : "", "key", x->key ? x->key : "", "status",
                          x->status, "stored", x->stored, "connection", x->c->peer, "active",
                          (json_int_t)x->active, "etag", x->etag, "sha256", x->sha256, "size",
                          (json_int_t)x->size, "action", x->action);
    server_lock();
    (void)json_array_append_new(server.ledger, j);
    if (server.ledger_fd >= 0) {
        cleanup_free char *line = json_dumps(j, JSON_COMPACT);
        cleanup_free char *nl = util_printf("%s\n", line);
        (void)fsx_write_all(server.ledger_fd, nl, strlen(nl), NULL);
    }
    server_unlock();
}

static void send_range(struct exchange *x, uint64_t from, uint64_t n)
{
    uint8_t *p = util_alloc(65536);
    while (n) {
        size_t part = (size_t)MIN(n, 65536);
        if (x->object)
            object_read(x->object, x->off + from, p, part);
        else
            memcpy(p, x->body.p + from, part);
        if (x->spoil == SPOIL_CORRUPT && from == 0)
            p[part / 2] ^= 1;
        if (!conn_write(x->c, p, part))
            break;
        from += part;
        n -= part;
    }
    free(p);
}

void exchange_stall(struct exchange *x)
{
    struct pollfd p = {x->c->fd, POLLRDHUP, 0};
    exchange_log(x);
    x->c->closing = true;
    while (poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
}

static void send_head(struct exchange *x, uint64_t length)
{
    char date[40];
    cleanup_buf struct buf b = BUF_INIT;
    buf_printf(&b, "HTTP/1.1 %d %s\r\nServer: s3fault\r\nx-amz-request-id: TESTREQUEST\r\n",
               x->status, http_reason(x->status));
    if (!x->headers.len || !strstr(buf_str(&x->headers), "Date: "))
        buf_printf(&b, "Date: %s\r\n", http_date(date, clk_real_ms() + server.clock_offset_ms));
    buf_add(&b, x->headers.p, x->headers.len);
    if (x->spoil == SPOIL_BAD_CHUNK)
        buf_add_str(&b, "Transfer-Encoding: chunked\r\n");
    else if (x->spoil != SPOIL_NO_LENGTH && x->status != 204)
        buf_printf(&b, "Content-Length: %llu\r\n", (unsigned long long)length);
    if (x->c->closing)
        buf_add_str(&b, "Connection: close\r\n");
    buf_add_str(&b, "\r\n");
    if (x->spoil == SPOIL_BAD_CHUNK)
        buf_add_str(&b, "zz\r\nthis is no chunk");
    (void)conn_write(x->c, b.p, b.len);
}

void exchange_send(struct exchange *x)
{
    uint64_t length = x->object ? x->len : x->body.len, n = length;
    exchange_log(x);
    if (x->spoil == SPOIL_CUT || x->spoil == SPOIL_CUT_HONEST || x->spoil == SPOIL_RESET ||
        x->spoil == SPOIL_STALL)
        n /= 2;
    if (x->spoil == SPOIL_CUT_HONEST)
        length = n;
    if (x->spoil == SPOIL_MORE)
        length -= length ? 1 : 0;
    if (x->spoil != SPOIL_NOT && x->spoil != SPOIL_CORRUPT)
        x->c->closing = true;
    send_head(x, length);
    if (!x->head && x->spoil != SPOIL_BAD_CHUNK)
        send_range(x, 0, n);
    if (x->spoil == SPOIL_RESET)
        conn_reset(x->c);
    if (x->spoil == SPOIL_STALL)
        exchange_stall(x);
}

/* ---- one request ------------------------------------------------------------------------------- */

static void locate(struct exchange *x)
{
    const char *host = request_header(&x->r, "host");
    cleanup_free char *path = util_strdup(x->r.path[0] == '/' ? x->r.path + 1 : x->r.path);
    http_decode(path);
    server_lock();
    size_t base = strlen(profile_base());
    if (base && !strncmp(path, profile_base() + 1, base - 1) && path[base - 1] == '/')
        memmove(path, path + base, strlen(path + base) + 1);
    for (const struct bucket *b = server.buckets; b; b = b->next) {
        size_t n = strlen(b->name);
        if (host && !strncmp(host, b->name, n) && host[n] == '.')
            x->bucket = util_strdup(b->name);
    }
    server_unlock();
    if (x->bucket) {
        x->key = TAKE_PTR(path);
        return;
    }
    const char *slash = strchr(path, '/');
    x->bucket = slash ? strndup(path, (size_t)(slash - path)) : util_strdup(path);
    x->key = util_strdup(slash ? slash + 1 : "");
}

static const char *verb_of(const struct exchange *x)
{
    const struct request *r = &x->r;
    bool id = request_query(r, "uploadId"), uploads = request_query(r, "uploads");
    if (!strcmp(r->method, "GET"))
        return !x->key[0] ? (uploads ? "UPLOADS" : "LIST") : id ? "PARTS" : "GET";
    if (!strcmp(r->method, "PUT"))
        return id ? "PART" : "PUT";
    if (!strcmp(r->method, "POST"))
        return request_query(r, "delete") ? "DELETES" : uploads ? "CREATE" : id ? "COMPLETE" : "POST";
    if (!strcmp(r->method, "DELETE"))
        return id ? "ABORT" : "DELETE";
    return !strcmp(r->method, "HEAD") ? "HEAD" : r->method;
}

static bool allowed(struct exchange *x)
{
    struct refusal no = {0};
    server_lock();
    bool exists = bucket_find(x->bucket);
    server_unlock();
    if (!sign_check(&x->r, &no) || !sign_check_body(&x->r, &no)) {
        answer_error(x, no.status, no.code, no.message, no.extra);
        return false;
    }
    if (!exists)
        answer_error(x, 404, "NoSuchBucket", "The specified bucket does not exist", "");
    return exists;
}

static void serve(struct exchange *x)
{
    const char *prefix;
    locate(x);
    x->verb = verb_of(x);
    x->head = !strcmp(x->verb, "HEAD");
    if ((!strcmp(x->verb, "LIST") || !strcmp(x->verb, "UPLOADS")) &&
        (prefix = request_query(&x->r, "prefix"))) {
        free(x->key);
        x->key = util_strdup(prefix);
    }
    x->rule = fault_match(x->verb, x->key);
    x->action = rule_text(x, "action", "");
    if (x->rule && fault_before(x))
        return;
    bool room = profile_enter_part(x), whole = request_body(x->c, &x->r, UINT64_MAX);
    profile_leave_part(x);
    if (!whole) {
        x->c->closing = true;
        return;
    }
    if (!room)
        answer_error(x, 503, "ServiceUnavailable", "Reduce your concurrent request rate for the same object.", "");
    else if (allowed(x) && !profile_refuses(x) && !(x->rule && fault_instead(x)))
        op_run(x);
    if (x->rule)
        fault_after(x);
    if (x->status)
        exchange_send(x);
}

static bool one_request(struct conn *c)
{
    struct exchange x = {.c = c, .action = ""};
    c->drip_ms = 0;
    if (!request_read(c, &x.r)) {
        request_done(&x.r);
        return false;
    }
    const char *connection = request_header(&x.r, "connection");
    c->closing = connection && !strcasecmp(connection, "close");
    if (!strncmp(x.r.path, "/_", 2)) {
        control(&x);
    } else {
        server_lock();
        server.requests++;
        x.active = ++server.active;
        server.peak = MAX(server.peak, server.active);
        server_unlock();
        serve(&x);
        exchange_log(&x);
        server_lock();
        server.active--;
        object_unref(x.object);
        server_unlock();
    }
    request_done(&x.r);
    json_decref(x.rule);
    buf_free(&x.headers);
    buf_free(&x.body);
    free(x.bucket);
    free(x.key);
    free(x.upload_id);
    return !c->closing;
}

/* ---- connections ------------------------------------------------------------------------------- */

/* rules for the verb CONNECT; false: the connection is over */
static bool welcome(struct conn *c)
{
    json_t *rule = fault_match("CONNECT", "");
    struct exchange x = {.c = c, .rule = rule, .verb = "CONNECT"};
    x.action = rule_text(&x, "action", "");
    bool go_on = true;
    if (!strcmp(x.action, "reset-before")) {
        conn_reset(c);
        go_on = false;
    } else if (!strcmp(x.action, "stall")) { /* also in the TLS handshake: it comes later */
        exchange_stall(&x);
        go_on = false;
    } else if (!strcmp(x.action, "plain")) {
        (void)conn_write(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", 47);
        go_on = false;
    }
    json_decref(rule);
    if (!go_on || !server.tls)
        return go_on;
    c->ssl = SSL_new(server.tls);
    (void)SSL_set_fd(c->ssl, c->fd);
    if (SSL_accept(c->ssl) == 1)
        return true;
    server_lock();
    server.tls_failures++;
    server_unlock();
    return false;
}

static void *on_connection(void *arg)
{
    struct conn *c = arg;
    if (welcome(c)) {
        while (one_request(c))
            ;
        if (c->ssl)
            (void)SSL_shutdown(c->ssl);
    }
    SSL_free(c->ssl);
    (void)close(c->fd);
    free(c);
    return NULL;
}

static void accept_for_ever(int fd)
{
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, 512 << 10);
    for (;;) {
        struct sockaddr_in peer;
        socklen_t n = sizeof peer;
        int one = 1, got = accept4(fd, (struct sockaddr *)&peer, &n, SOCK_CLOEXEC);
        if (got < 0)
            continue;
        struct conn *c = util_zalloc(sizeof *c);
        pthread_t t;
        c->fd = got;
        (void)setsockopt(got, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        (void)snprintf(c->peer, sizeof c->peer, "%s:%d", inet_ntoa(peer.sin_addr),
                       ntohs(peer.sin_port));
        server_lock();
        server.connections++;
        server_unlock();
        if (pthread_create(&t, &attr, on_connection, c)) {
            (void)close(got);
            free(c);
        }
    }
}

/* ---- start ------------------------------------------------------------------------------------- */

static void *until_eof(void *arg)
{
    (void)arg;
    char c;
    while (read(STDIN_FILENO, &c, 1) > 0)
        ;
    _exit(0); /* spooled bodies are in the test's own directory */
}

static void add_key(char *text)
{
    struct key_pair *k = &server.key[server.n_keys++];
    k->id = strsep(&text, ":");
    k->secret = strsep(&text, ":");
    k->token = text;
}

static void usage(const char *what)
{
    (void)fprintf(stderr, "s3fault: %s\nusage: s3fault --dir DIR --bucket NAME --key-pair "
                          "ID:SECRET[:TOKEN] [--port N] [--region R] [--cert FILE --key FILE] "
                          "[--ledger FILE] [--seed N] [--min-part BYTES] [--until-eof]\n", what);
    exit(64);
}

static void use_tls(const char *cert, const char *key)
{
    server.tls = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(server.tls, cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(server.tls, key, SSL_FILETYPE_PEM) != 1)
        usage("certificate and key cannot be used");
}

int main(int argc, char **argv)
{
    const char *cert = NULL, *key = NULL;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bool eof = false;
    server.ledger = json_array();
    for (int i = 1; i < argc; i++) {
        const char *o = argv[i];
        if (!strcmp(o, "--until-eof")) {
            eof = true;
            continue;
        }
        char *v = ++i < argc ? argv[i] : NULL;
        if (!v)
            usage("an option lacks its value");
        if (!strcmp(o, "--dir"))
            server.dir = v;
        else if (!strcmp(o, "--bucket"))
            (void)bucket_new(v);
        else if (!strcmp(o, "--key-pair") && server.n_keys < ARRAY_LEN(server.key))
            add_key(v);
        else if (!strcmp(o, "--port"))
            a.sin_port = htons((uint16_t)strtoul(v, NULL, 10));
        else if (!strcmp(o, "--region"))
            server.region = v;
        else if (!strcmp(o, "--cert"))
            cert = v;
        else if (!strcmp(o, "--key"))
            key = v;
        else if (!strcmp(o, "--ledger"))
            server.ledger_fd = open(v, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        else if (!strcmp(o, "--seed"))
            server.seed = strtoull(v, NULL, 10);
        else if (!strcmp(o, "--min-part"))
            server.min_part_bytes = strtoull(v, NULL, 10);
        else
            usage(o);
    }
    if (!server.dir || !server.buckets || !server.n_keys)
        usage("--dir, --bucket and --key-pair are needed");
    (void)mkdir(server.dir, 0700);
    if (cert && key)
        use_tls(cert, key);
    (void)signal(SIGPIPE, SIG_IGN);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t n = sizeof a;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, n) < 0 || listen(fd, 512) < 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) < 0) {
        perror("s3fault: listen");
        return 1;
    }
    (void)printf("%d\n", ntohs(a.sin_port));
    (void)fflush(stdout);
    pthread_t t;
    if (eof && pthread_create(&t, NULL, until_eof, NULL) == 0)
        (void)pthread_detach(t);
    accept_for_ever(fd);
}
