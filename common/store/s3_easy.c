#include "common/store/s3_easy.h"

#include <linux/sockios.h>
#include <openssl/ssl.h>
#include <sys/ioctl.h>

#include "common/base/clk.h"
#include "common/store/s3_peer.h"
#include "common/store/s3_request.h"
#include "common/store/s3_trust.h"
#include "common/store/s3_wrap.h"

void (*s3_easy_option_hook)(int option, long long number, const char *text);

/* ---- options --------------------------------------------------------------------------------- */

static void saw(struct s3_private *p, CURLcode rc, CURLoption o, long long number,
                const char *text)
{
    if (rc != CURLE_OK)
        p->option_rc = rc;
    if (s3_easy_option_hook)
        s3_easy_option_hook((int)o, number, text);
}

static void set_long(struct s3_private *p, CURLoption o, long v)
{
    saw(p, __real_curl_easy_setopt(p->easy, o, v), o, v, NULL);
}

static void set_off(struct s3_private *p, CURLoption o, curl_off_t v)
{
    saw(p, __real_curl_easy_setopt(p->easy, o, v), o, v, NULL);
}

static void set_text(struct s3_private *p, CURLoption o, const char *v)
{
    saw(p, __real_curl_easy_setopt(p->easy, o, v), o, 0, v);
}

static void set_ptr(struct s3_private *p, CURLoption o, void *v)
{
    saw(p, __real_curl_easy_setopt(p->easy, o, v), o, 0, NULL);
}

/* ---- curl's callbacks: the answer comes in, the body goes out ------------------------------ */

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    struct s3_xfer *x = arg;
    n *= size;
    if (x->peer && n >= 5 && !memcmp(line, "HTTP/", 5))
        s3_peer_secured(x->priv->easy, x->peer);
    return s3_reply_header(&x->priv->reply, x, line, n) < 0 ? 0 : n;
}

static size_t on_write(char *data, size_t size, size_t n, void *arg)
{
    struct s3_xfer *x = arg;
    n *= size;
    return s3_reply_data(&x->priv->reply, x, data, n) < 0 ? CURL_WRITEFUNC_ERROR : n;
}

void s3_easy_unthrottled(struct s3_private *p)
{
    if (p->throttled)
        p->throttle->waiting--;
    p->throttled = false;
}

/* how many of n bytes; 0: it is paused until the next round */
static size_t may_send(struct s3_xfer *x, size_t n)
{
    struct s3_private *p = x->priv;
    struct s3_throttle *t = p->throttle;
    if (!s3_easy_uploads(x) || x->answer.sent == s3_body_size(x->body))
        return n;
    bool had = p->round == t->round && t->waiting > p->throttled;
    size_t some = had ? 0 : s3_rate_take(&t->rate, n, t->uploads, clk_mono_ms());
    if (some) {
        s3_easy_unthrottled(p);
        p->round = t->round;
        return some;
    }
    t->waiting += !p->throttled;
    p->throttled = true;
    t->wait(t->arg);
    return 0;
}

static size_t on_read(char *to, size_t size, size_t n, void *arg)
{
    struct s3_xfer *x = arg;
    size_t some = may_send(x, size * n);
    if (!some)
        return CURL_READFUNC_PAUSE;
    ssize_t got = s3_body_read(x->body, to, some);
    if (s3_easy_uploads(x) && got < (ssize_t)some)
        s3_rate_return(&x->priv->throttle->rate, some - (size_t)MAX(got, (ssize_t)0));
    if (got == S3_BODY_WAIT)
        return CURL_READFUNC_PAUSE;
    if (got < 0) {
        x->err = *s3_body_error(x->body);
        return CURL_READFUNC_ABORT;
    }
    x->answer.sent += (uint64_t)got;
    if (x->progress)
        *x->progress = x->answer.sent;
    return (size_t)got;
}

/* curl repeats a request by itself when a kept connection turned out to be dead */
static int on_seek(void *arg, curl_off_t off, int origin)
{
    struct s3_xfer *x = arg;
    if (off != 0 || origin != SEEK_SET)
        return CURL_SEEKFUNC_CANTSEEK;
    s3_body_rewind(x->body);
    x->answer.sent = 0;
    return CURL_SEEKFUNC_OK;
}

/* ---- the request as it is sent ------------------------------------------------------------- */

static void wipe_list(struct curl_slist *l)
{
    for (struct curl_slist *i = l; i; i = i->next)
        explicit_bzero(i->data, strlen(i->data));
    __real_curl_slist_free_all(l);
}

static bool add_headers(struct s3_private *p, const struct s3_request *r)
{
    for (size_t i = 0; i < r->n_headers; i++) {
        struct curl_slist *more = __real_curl_slist_append(p->headers, r->header[i]);
        if (!more)
            return false;
        p->headers = more;
    }
    return true;
}

static bool compose(struct s3_xfer *x, const struct s3_target *t)
{
    struct s3_private *p = x->priv;
    cleanup(s3_request_done) struct s3_request r = {0};
    s3_request_compose(&r, x, t, clk_real_ms() + t->clock_offset_ms);
    set_text(p, CURLOPT_URL, r.url);
    return add_headers(p, &r);
}

/* At the beginning of each handshake. */
static CURLcode on_tls(CURL *easy, void *ctx, void *arg)
{
    const struct s3_target *t = arg;
    (void)easy;
    if (t->trust->bad)
        return (CURLcode)t->trust->bad;
    if (t->trust->roots)
        SSL_CTX_set1_cert_store(ctx, t->trust->roots);
    return CURLE_OK;
}

static void set_pem(struct s3_private *p, CURLoption o, const uint8_t *pem, size_t n)
{
    struct curl_blob b = {.data = (void *)(uintptr_t)pem, .len = n, .flags = CURL_BLOB_COPY};
    set_ptr(p, o, pem ? &b : NULL);
}

/* What is named replaces the system's store: trust in one CA is not trust in all the others as well. curl itself reads
 * no file, and keeps no store from one handshake to the next. */
static void set_trust(struct s3_private *p, const struct s3_target *t)
{
    set_text(p, CURLOPT_CAINFO, NULL);
    set_text(p, CURLOPT_CAPATH, NULL);
    set_long(p, CURLOPT_CA_CACHE_TIMEOUT, 0);
    CURLcode rc = __real_curl_easy_setopt(p->easy, CURLOPT_SSL_CTX_FUNCTION, on_tls);
    saw(p, rc, CURLOPT_SSL_CTX_FUNCTION, 0, NULL);
    set_ptr(p, CURLOPT_SSL_CTX_DATA, (void *)(uintptr_t)t);
    set_pem(p, CURLOPT_SSLCERT_BLOB, t->trust->cert, t->trust->cert_len);
    set_pem(p, CURLOPT_SSLKEY_BLOB, t->trust->key, t->trust->key_len);
}

static void set_connection(struct s3_private *p, const struct s3_target *t, bool fresh)
{
    const char *scheme = t->https ? "https" : "http";
    set_long(p, CURLOPT_NOSIGNAL, 1);
    set_text(p, CURLOPT_PROTOCOLS_STR, scheme);
    set_text(p, CURLOPT_REDIR_PROTOCOLS_STR, scheme);
    set_long(p, CURLOPT_FOLLOWLOCATION, 0);
    set_text(p, CURLOPT_PROXY, "");
    set_long(p, CURLOPT_NETRC, CURL_NETRC_IGNORED);
    set_long(p, CURLOPT_PATH_AS_IS, 1);
    set_long(p, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    set_text(p, CURLOPT_USERAGENT, "walsup/" WALSUP_VERSION);
    set_long(p, CURLOPT_CONNECTTIMEOUT_MS, (long)t->connect_ms);
    set_long(p, CURLOPT_TCP_NODELAY, 1);
    set_long(p, CURLOPT_TCP_KEEPALIVE, 1);
    set_long(p, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2);
    set_long(p, CURLOPT_SSL_VERIFYPEER, t->skip_verify ? 0 : 1);
    set_long(p, CURLOPT_SSL_VERIFYHOST, t->skip_verify ? 0 : 2);
    if (fresh) { /* the address may be another one now, and a kept connection as dead as the last */
        set_long(p, CURLOPT_FRESH_CONNECT, 1);
        set_long(p, CURLOPT_DNS_CACHE_TIMEOUT, 0);
    }
    if (t->https)
        set_trust(p, t);
}

static void set_callbacks(struct s3_xfer *x)
{
    struct s3_private *p = x->priv;
    CURLcode rc = __real_curl_easy_setopt(p->easy, CURLOPT_HEADERFUNCTION, on_header);
    saw(p, rc, CURLOPT_HEADERFUNCTION, 0, NULL);
    rc = __real_curl_easy_setopt(p->easy, CURLOPT_WRITEFUNCTION, on_write);
    saw(p, rc, CURLOPT_WRITEFUNCTION, 0, NULL);
    set_ptr(p, CURLOPT_HEADERDATA, x);
    set_ptr(p, CURLOPT_WRITEDATA, x);
    set_ptr(p, CURLOPT_ERRORBUFFER, p->error);
    set_ptr(p, CURLOPT_PRIVATE, p->libs3_private);
    if (!x->body)
        return;
    rc = __real_curl_easy_setopt(p->easy, CURLOPT_READFUNCTION, on_read);
    saw(p, rc, CURLOPT_READFUNCTION, 0, NULL);
    rc = __real_curl_easy_setopt(p->easy, CURLOPT_SEEKFUNCTION, on_seek);
    saw(p, rc, CURLOPT_SEEKFUNCTION, 0, NULL);
    set_ptr(p, CURLOPT_READDATA, x);
    set_ptr(p, CURLOPT_SEEKDATA, x);
}

int s3_easy_prepare(struct s3_xfer *x, const struct s3_target *t)
{
    struct s3_private *p = x->priv;
    __real_curl_easy_reset(p->easy);
    set_connection(p, t, x->fresh);
    set_callbacks(x);
    switch (x->verb) {
    case S3_COMPLETE:
    case S3_DELETES:
        set_text(p, CURLOPT_CUSTOMREQUEST, "POST");
        __attribute__((fallthrough));
    case S3_PUT:
    case S3_PART:
        set_long(p, CURLOPT_UPLOAD, 1);
        set_off(p, CURLOPT_INFILESIZE_LARGE, (curl_off_t)s3_body_size(x->body));
        break;
    case S3_CREATE:
        set_long(p, CURLOPT_POST, 1);
        set_off(p, CURLOPT_POSTFIELDSIZE_LARGE, 0);
        break;
    case S3_HEAD:
        set_long(p, CURLOPT_NOBODY, 1);
        break;
    case S3_ABORT:
    case S3_DELETE:
        set_text(p, CURLOPT_CUSTOMREQUEST, "DELETE");
        break;
    case S3_GET:
    case S3_LIST:
    case S3_UPLOADS:
        set_long(p, CURLOPT_HTTPGET, 1);
        break;
    }
    if (!compose(x, t))
        return err_set(&x->err, ERR_NOMEM, "no memory to compose the request");
    set_ptr(p, CURLOPT_HTTPHEADER, p->headers);
    if (p->option_rc != CURLE_OK)
        return err_set(&x->err, ERR_INTERNAL, "libcurl refused an option: %s",
                       curl_easy_strerror(p->option_rc));
    return 0;
}

bool s3_easy_uploads(const struct s3_xfer *x)
{
    return x->verb == S3_PUT || x->verb == S3_PART;
}

/* ---- progress and end ---------------------------------------------------------------------- */

bool s3_easy_has_connection(const struct s3_xfer *x)
{
    curl_off_t us = 0;
    (void)__real_curl_easy_getinfo(x->priv->easy, CURLINFO_PRETRANSFER_TIME_T, &us);
    return us > 0;
}

/* Bytes handed to and taken from the kernel, bytes the peer has acknowledged, file chunks that a
 * worker has read. */
uint64_t s3_easy_state(struct s3_xfer *x)
{
    struct s3_private *p = x->priv;
    curl_off_t up = 0, down = 0;
    long request = 0, header = 0;
    curl_socket_t fd = CURL_SOCKET_BAD;
    int unsent = 0;
    (void)__real_curl_easy_getinfo(p->easy, CURLINFO_SIZE_UPLOAD_T, &up);
    (void)__real_curl_easy_getinfo(p->easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
    (void)__real_curl_easy_getinfo(p->easy, CURLINFO_REQUEST_SIZE, &request);
    (void)__real_curl_easy_getinfo(p->easy, CURLINFO_HEADER_SIZE, &header);
    (void)__real_curl_easy_getinfo(p->easy, CURLINFO_ACTIVESOCKET, &fd);
    if (fd != CURL_SOCKET_BAD)
        (void)ioctl(fd, SIOCOUTQ, &unsent);
    return (uint64_t)up + (uint64_t)down + (uint64_t)request + (uint64_t)header +
           x->answer.received + (uint64_t)unsent * 7919 +
           (x->body ? s3_body_work(x->body) * 104729 : 0);
}

void s3_easy_done(struct s3_private *p)
{
    wipe_list(p->headers);
    free(p);
}
