/* The seam. The linker's --wrap sends every curl call of libs3.a to the __wrap_ functions at the
 * end of this file. libs3 goes from composing a request to curl_multi_add_handle without yielding,
 * so one static pointer says which transfer it is composing. Of what libs3 composes, only its
 * CURLOPT_PRIVATE and its write function (the parser of listings) are kept: what is sent is
 * composed and set in s3_easy.c. */
#include "common/store/s3_transport.h"

#include <assert.h>
#include <curl/curl.h>
#include <libs3.h>
#include <libxml/parser.h>
#include <signal.h>

#include "common/base/clk.h"
#include "common/store/s3_easy.h"
#include "common/store/s3_log.h"
#include "common/store/s3_peer.h"
#include "common/store/s3_wrap.h"

#define TRANSPORT_MAGIC 0x53751a45u
#define SOCK_MAGIC 0x535ca11eu
#define TICK_MAX_MS 1000

struct sock {
    unsigned magic;
    struct s3_transport *tr;
    struct sock *next, *prev;
    curl_socket_t fd;
    uv_poll_t poll;
};

struct s3_transport {
    unsigned magic;
    uv_loop_t *loop;
    const struct s3_target *target;
    CURLM *multi;
    S3RequestContext *context;
    uv_timer_t timer, tick, round; /* curl's; the watch over idle transfers; what the throttle waits for */
    struct s3_throttle throttle;
    uv_idle_t soon;
    void (*wake)(void *arg);
    void *wake_arg;
    struct sock *socks;
    struct s3_xfer *active;   /* added to the multi handle */
    struct s3_xfer *ended;    /* to be reported to libs3, in order */
    struct s3_xfer *complete; /* libs3 is through with them, done() is due */
    unsigned handles;         /* uv handles whose close callback has not run */
    void (*closed)(void *arg);
    void *closed_arg;
};

static struct s3_xfer *composing;        /* between s3_transport_send and add_handle */
static struct s3_transport *being_built; /* during S3_create_request_context */
static struct s3_transport *reaping;    /* during S3_runonce_request_context */
static unsigned libs3_users;

void s3_transport_body_event(struct s3_xfer *x)
{
    if (x->priv && x->priv->added)
        (void)curl_easy_pause(x->priv->easy, CURLPAUSE_CONT);
}

/* ---- the limit of the target's bandwidth ----------------------------------------------------- */

static void on_round(uv_timer_t *h)
{
    struct s3_transport *tr = h->data;
    assert(tr->magic == TRANSPORT_MAGIC);
    tr->throttle.round++;
    for (struct s3_xfer *x = tr->active; x; x = x->priv->next_active) {
        if (x->priv->throttled)
            s3_transport_body_event(x);
    }
}

static void on_throttled(void *arg)
{
    struct s3_transport *tr = arg;
    assert(tr->magic == TRANSPORT_MAGIC);
    if (!uv_is_active((uv_handle_t *)&tr->round))
        (void)uv_timer_start(&tr->round, on_round, S3_RATE_STEP_MS, 0);
}

/* ---- the end of a transfer ----------------------------------------------------------------- */

/* queue it for libs3 (and so for done()) with a result, unless it has one already */
static void end(struct s3_xfer *x, CURLcode result)
{
    struct s3_private *p = x->priv;
    if (p->in_ended || !p->added)
        return;
    p->in_ended = true;
    p->result = result;
    struct s3_xfer **at = &p->tr->ended;
    while (*at)
        at = &(*at)->priv->next_ended;
    *at = x;
}

static void collect(struct s3_transport *tr)
{
    int left;
    for (CURLMsg *m; (m = __real_curl_multi_info_read(tr->multi, &left));) {
        if (m->msg != CURLMSG_DONE)
            continue;
        for (struct s3_xfer *x = tr->active; x; x = x->priv->next_active) {
            if (x->priv->easy == m->easy_handle) {
                end(x, m->data.result);
                break;
            }
        }
    }
}

static void finish(struct s3_xfer *x)
{
    struct s3_private *p = x->priv;
    x->answer.curl = (int)p->result;
    (void)snprintf(x->answer.curl_text, sizeof x->answer.curl_text, "%s", p->error);
    s3_log_request(p->tr->target, x->verb, x->key, &x->answer, clk_mono_ms() - p->sent_ms);
    s3_reply_verdict(&p->reply, x, p->tr->target);
    x->priv = NULL;
    s3_easy_done(p);
    x->done(x);
}

/* Let libs3 take what has ended, then report it. done() comes last, because it may send again. */
static void reap(struct s3_transport *tr)
{
    int left;
    collect(tr);
    reaping = tr;
    if (tr->ended)
        (void)S3_runonce_request_context(tr->context, &left);
    reaping = NULL;
    while (tr->complete) {
        struct s3_xfer *x = tr->complete;
        tr->complete = x->priv->next_complete;
        finish(x);
    }
}

static void on_soon(uv_idle_t *h)
{
    struct s3_transport *tr = h->data;
    assert(tr->magic == TRANSPORT_MAGIC);
    (void)uv_idle_stop(h);
    reap(tr);
    void (*wake)(void *) = tr->wake;
    tr->wake = NULL;
    if (wake)
        wake(tr->wake_arg);
}

void s3_transport_wake(struct s3_transport *tr, void (*fn)(void *arg), void *arg)
{
    tr->wake = fn;
    tr->wake_arg = arg;
    (void)uv_idle_start(&tr->soon, on_soon);
}

void s3_transport_cancel(struct s3_xfer *x)
{
    if (!x->priv || x->priv->in_ended)
        return;
    if (!x->err.code)
        (void)err_set(&x->err, ERR_CANCELED, "canceled");
    end(x, CURLE_ABORTED_BY_CALLBACK);
    (void)uv_idle_start(&x->priv->tr->soon, on_soon);
}

/* ---- curl on libuv ------------------------------------------------------------------------- */

static void act(struct s3_transport *tr, curl_socket_t fd, int events)
{
    int running;
    (void)curl_multi_socket_action(tr->multi, fd, events, &running);
    reap(tr);
}

static void on_timer(uv_timer_t *h)
{
    struct s3_transport *tr = h->data;
    assert(tr->magic == TRANSPORT_MAGIC);
    act(tr, CURL_SOCKET_TIMEOUT, 0);
}

static int on_curl_timer(CURLM *multi, long timeout_ms, void *arg)
{
    (void)multi;
    struct s3_transport *tr = arg;
    if (timeout_ms < 0)
        return uv_timer_stop(&tr->timer) ? -1 : 0;
    /* libuv's clock is cached and cut to milliseconds: never be early */
    uv_update_time(tr->loop);
    uint64_t ms = timeout_ms ? (uint64_t)timeout_ms + 1 : 0;
    return uv_timer_start(&tr->timer, on_timer, ms, 0) ? -1 : 0;
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct sock *s = h->data;
    assert(s->magic == SOCK_MAGIC);
    /* an error on the socket: curl shall find out by itself which, CURL_CSELECT_ERR would hide it,
     * and with it that a kept connection was dead and the request can be repeated */
    int flags = status < 0 ? CURL_CSELECT_IN | CURL_CSELECT_OUT : 0;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    act(s->tr, s->fd, flags);
}

static void handle_closed(struct s3_transport *tr)
{
    if (--tr->handles)
        return;
    void (*closed)(void *) = tr->closed;
    void *arg = tr->closed_arg;
    tr->magic = 0;
    free(tr);
    closed(arg);
}

static void on_sock_closed(uv_handle_t *h)
{
    struct sock *s = h->data;
    struct s3_transport *tr = s->tr;
    s->magic = 0;
    free(s);
    handle_closed(tr);
}

static void sock_close(struct sock *s)
{
    (void)uv_poll_stop(&s->poll);
    if (s->prev)
        s->prev->next = s->next;
    else
        s->tr->socks = s->next;
    if (s->next)
        s->next->prev = s->prev;
    uv_close((uv_handle_t *)&s->poll, on_sock_closed);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *sock_arg)
{
    struct s3_transport *tr = arg;
    struct sock *s = sock_arg;
    for (struct s3_xfer *x = tr->active; x; x = x->priv->next_active) {
        if (x->peer && x->priv->easy == easy)
            s3_peer_connected(fd, x->peer);
    }
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            (void)curl_multi_assign(tr->multi, fd, NULL);
            sock_close(s);
        }
        return 0;
    }
    if (!s) {
        s = util_zalloc(sizeof *s);
        s->magic = SOCK_MAGIC;
        s->tr = tr;
        s->fd = fd;
        if (uv_poll_init_socket(tr->loop, &s->poll, fd) < 0) {
            free(s);
            return -1;
        }
        s->poll.data = s;
        tr->handles++;
        s->next = tr->socks;
        if (s->next)
            s->next->prev = s;
        tr->socks = s;
        (void)curl_multi_assign(tr->multi, fd, s);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&s->poll, events, on_poll) < 0 ? -1 : 0;
}

/* ---- idle transfers ------------------------------------------------------------------------ */

/* putting an object together from its parts, or deleting a thousand, takes a server time, in which it says nothing */
static uint64_t idle_ms(const struct s3_xfer *x, const struct s3_target *t)
{
    return x->verb == S3_COMPLETE || x->verb == S3_DELETES ? t->idle_ms * 8 : t->idle_ms;
}

static void on_tick(uv_timer_t *h)
{
    struct s3_transport *tr = h->data;
    assert(tr->magic == TRANSPORT_MAGIC);
    uint64_t now = clk_mono_ms();
    for (struct s3_xfer *x = tr->active; x; x = x->priv->next_active) {
        struct s3_private *p = x->priv;
        uint64_t state = s3_easy_state(x);
        if (state != p->last_state || p->throttled) { /* the server is not to blame for a wait of ours */
            p->last_state = state;
            p->last_change_ms = now;
        } else if (now - p->last_change_ms >= idle_ms(x, tr->target) && !p->in_ended) {
            (void)err_set(&x->err, ERR_TIMEOUT, "%s for %llu ms after %llu bytes sent and %llu "
                          "received", x->answer.status ? "nothing more came" : "no answer",
                          (unsigned long long)idle_ms(x, tr->target),
                          (unsigned long long)x->answer.sent,
                          (unsigned long long)x->answer.received);
            end(x, CURLE_OPERATION_TIMEDOUT);
        }
    }
    reap(tr);
    if (!tr->active)
        (void)uv_timer_stop(h);
}

/* ---- through libs3 ------------------------------------------------------------------------- */

static S3Status on_properties(const S3ResponseProperties *properties, void *arg)
{
    (void)properties, (void)arg;
    return S3StatusOK;
}

static void on_complete(S3Status status, const S3ErrorDetails *details, void *arg)
{
    (void)details;
    struct s3_xfer *x = arg;
    struct s3_private *p = x->priv;
    if (!p->easy && !x->err.code) /* it never came to a transfer */
        (void)err_set(&x->err, ERR_INTERNAL, "libs3 cannot compose the request: %s",
                      S3_get_status_name(status));
    struct s3_xfer **at = &p->tr->complete;
    while (*at)
        at = &(*at)->priv->next_complete;
    *at = x;
    (void)uv_idle_start(&p->tr->soon, on_soon);
}

static int on_put_data(int n, char *to, void *arg)
{
    (void)n, (void)to, (void)arg;
    return -1; /* the body is ours: this must never be asked */
}

static S3Status on_get_data(int n, const char *data, void *arg)
{
    (void)n, (void)data, (void)arg;
    return S3StatusOK;
}

/* libs3's reading of the listing, to be held against our own at the end */
static S3Status on_list_data(int truncated, const char *next_marker, int n,
                             const S3ListBucketContent *item, int n_prefixes,
                             const char **prefixes, void *arg)
{
    (void)truncated, (void)next_marker, (void)n_prefixes, (void)prefixes;
    struct s3_xfer *x = arg;
    for (int i = 0; i < n; i++)
        s3_reply_libs3_key(&x->priv->reply, item[i].key, item[i].size);
    return S3StatusOK;
}

void s3_transport_send(struct s3_transport *tr, struct s3_xfer *x)
{
    static const S3ResponseHandler plain = {on_properties, on_complete};
    static const S3PutObjectHandler put = {{on_properties, on_complete}, on_put_data};
    static const S3GetObjectHandler get = {{on_properties, on_complete}, on_get_data};
    static const S3ListBucketHandler list = {{on_properties, on_complete}, on_list_data};
    const struct s3_target *t = tr->target;
    /* key and signature of libs3 are never sent: it need not know the real ones */
    const S3BucketContext b = {"localhost", t->bucket, S3ProtocolHTTP, S3UriStylePath, "k", "s"};

    assert(!composing && !x->priv);
    x->priv = util_zalloc(sizeof *x->priv);
    x->priv->tr = tr;
    x->priv->throttle = &tr->throttle;
    x->priv->round = tr->throttle.round - 1;
    err_clear(&x->err);
    x->page = (struct s3_page){0};
    x->new_id = NULL;
    s3_answer_reset(&x->answer);
    composing = x;
    switch (x->verb) {
    case S3_PUT:
        S3_put_object(&b, x->key, s3_body_size(x->body), NULL, tr->context, &put, x);
        break;
    case S3_GET:
        S3_get_object(&b, x->key, NULL, 0, 0, tr->context, &get, x);
        break;
    case S3_LIST:
        S3_list_bucket(&b, x->key, x->marker, NULL, S3_LIST_MAX_KEYS, tr->context, &list, x);
        break;
    case S3_PART:
    case S3_CREATE:
    case S3_COMPLETE:
    case S3_ABORT:
    case S3_DELETES:
    case S3_UPLOADS: /* libs3 knows none of them: a request of its own is the envelope */
    case S3_DELETE:
        S3_delete_object(&b, x->key, tr->context, &plain, x);
        break;
    case S3_HEAD:
        S3_head_object(&b, x->key, tr->context, &plain, x);
        break;
    }
    composing = NULL;
}

/* ---- life ---------------------------------------------------------------------------------- */

int s3_transport_new(uv_loop_t *loop, const struct s3_target *t, struct s3_transport **ret,
                     struct err *e)
{
    struct s3_transport *tr = util_zalloc(sizeof *tr);
    struct sigaction sa;
    tr->magic = TRANSPORT_MAGIC;
    tr->loop = loop;
    tr->target = t;
    tr->throttle.wait = on_throttled;
    tr->throttle.arg = tr;
    s3_rate_set(&tr->throttle.rate, t->bandwidth_limit_bytes, clk_mono_ms());
    /* OpenSSL writes to sockets whose peer is gone; NOSIGNAL does not cover that */
    if (sigaction(SIGPIPE, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL)
        (void)signal(SIGPIPE, SIG_IGN);
    xmlInitParser();
    S3Status rc = S3_initialize("walsup", S3_INIT_ALL, "localhost");
    being_built = tr;
    if (rc == S3StatusOK)
        rc = S3_create_request_context(&tr->context);
    being_built = NULL;
    if (rc != S3StatusOK || !tr->multi) {
        if (tr->context)
            S3_destroy_request_context(tr->context);
        free(tr);
        return rc != S3StatusOK
                   ? err_set(e, ERR_INTERNAL, "libs3 does not start: %s", S3_get_status_name(rc))
                   : err_set(e, ERR_INTERNAL, "this program was linked without the --wrap flags "
                                              "for libs3 (see Makefile, LIBS3_WRAPS)");
    }
    libs3_users++;
    (void)curl_multi_setopt(tr->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    (void)curl_multi_setopt(tr->multi, CURLMOPT_SOCKETDATA, tr);
    (void)curl_multi_setopt(tr->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    (void)curl_multi_setopt(tr->multi, CURLMOPT_TIMERDATA, tr);
    (void)curl_multi_setopt(tr->multi, CURLMOPT_MAXCONNECTS, (long)t->max_connections);
    (void)uv_timer_init(loop, &tr->timer);
    (void)uv_timer_init(loop, &tr->tick);
    (void)uv_timer_init(loop, &tr->round);
    (void)uv_idle_init(loop, &tr->soon);
    tr->handles = 4;
    tr->timer.data = tr->tick.data = tr->round.data = tr->soon.data = tr;
    *ret = tr;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    handle_closed(h->data);
}

void s3_transport_close(struct s3_transport *tr, void (*closed)(void *arg), void *arg)
{
    assert(tr->magic == TRANSPORT_MAGIC && !tr->active && !tr->ended && !tr->complete);
    tr->closed = closed;
    tr->closed_arg = arg;
    S3_destroy_request_context(tr->context);
    if (!--libs3_users)
        S3_deinitialize();
    while (tr->socks)
        sock_close(tr->socks);
    uv_close((uv_handle_t *)&tr->timer, on_closed);
    uv_close((uv_handle_t *)&tr->tick, on_closed);
    uv_close((uv_handle_t *)&tr->round, on_closed);
    uv_close((uv_handle_t *)&tr->soon, on_closed);
}

/* ---- what libs3's calls of libcurl arrive at ----------------------------------------------- */

CURLcode __wrap_curl_global_init(long flags)
{
    return __real_curl_global_init(flags);
}

CURLM *__wrap_curl_multi_init(void)
{
    CURLM *m = __real_curl_multi_init();
    if (being_built)
        being_built->multi = m;
    return m;
}

CURLMcode __wrap_curl_multi_cleanup(CURLM *m)
{
    return __real_curl_multi_cleanup(m);
}

/* the transfers are driven by on_poll and on_timer; doing both costs a second a request */
CURLMcode __wrap_curl_multi_perform(CURLM *m, int *running)
{
    (void)m;
    *running = 0;
    return CURLM_OK;
}

CURLMcode __wrap_curl_multi_fdset(CURLM *m, fd_set *r, fd_set *w, fd_set *x, int *max)
{
    (void)m, (void)r, (void)w, (void)x;
    *max = -1;
    return CURLM_OK;
}

CURLMcode __wrap_curl_multi_timeout(CURLM *m, long *ms)
{
    (void)m;
    *ms = -1;
    return CURLM_OK;
}

CURLMsg *__wrap_curl_multi_info_read(CURLM *m, int *left)
{
    static CURLMsg msg;
    *left = 0;
    if (!reaping || reaping->multi != m || !reaping->ended)
        return NULL;
    struct s3_xfer *x = reaping->ended;
    reaping->ended = x->priv->next_ended;
    msg = (CURLMsg){.msg = CURLMSG_DONE, .easy_handle = x->priv->easy,
                    .data.result = x->priv->result};
    return &msg;
}

CURLMcode __wrap_curl_multi_add_handle(CURLM *m, CURL *easy)
{
    struct s3_xfer *x = composing;
    if (!x || x->priv->tr->multi != m)
        return CURLM_INTERNAL_ERROR;
    struct s3_private *p = x->priv;
    struct s3_transport *tr = p->tr;
    p->easy = easy;
    CURLMcode rc = s3_easy_prepare(x, tr->target) < 0 ? CURLM_INTERNAL_ERROR
                                                      : __real_curl_multi_add_handle(m, easy);
    if (rc != CURLM_OK) {
        if (!x->err.code)
            (void)err_set(&x->err, ERR_INTERNAL, "libcurl: %s", curl_multi_strerror(rc));
        return rc;
    }
    p->added = true;
    p->sent_ms = p->last_change_ms = clk_mono_ms();
    p->next_active = tr->active;
    if (p->next_active)
        p->next_active->priv->prev_active = x;
    tr->active = x;
    tr->throttle.uploads += s3_easy_uploads(x);
    if (!uv_is_active((uv_handle_t *)&tr->tick)) {
        uint64_t ms = MAX((uint64_t)10, MIN((uint64_t)TICK_MAX_MS, tr->target->idle_ms / 4));
        (void)uv_timer_start(&tr->tick, on_tick, ms, ms);
    }
    return CURLM_OK;
}

CURLMcode __wrap_curl_multi_remove_handle(CURLM *m, CURL *easy)
{
    struct s3_xfer *x = reaping ? reaping->active : NULL;
    while (x && x->priv->easy != easy)
        x = x->priv->next_active;
    if (!x)
        return __real_curl_multi_remove_handle(m, easy);
    struct s3_private *p = x->priv;
    (void)__real_curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &x->answer.status);
    (void)__real_curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &x->answer.os_errno);
    if (x->peer)
        s3_peer_ended(easy, p->result, &x->answer, x->peer);
    /* All that libs3 ever sees of an answer is a listing that has been found whole: its parser
     * leaks the document when there is a DTD, and takes anything for a listing. */
    if (p->result == CURLE_OK && p->libs3_write && s3_reply_page(&p->reply, x))
        (void)p->libs3_write((char *)x->answer.body.p, 1, x->answer.body.len, p->libs3_data);
    p->added = false;
    s3_easy_unthrottled(p);
    p->tr->throttle.uploads -= s3_easy_uploads(x);
    if (p->prev_active)
        p->prev_active->priv->next_active = p->next_active;
    else
        p->tr->active = p->next_active;
    if (p->next_active)
        p->next_active->priv->prev_active = p->prev_active;
    return __real_curl_multi_remove_handle(m, easy);
}

CURL *__wrap_curl_easy_init(void)
{
    return __real_curl_easy_init();
}

void __wrap_curl_easy_cleanup(CURL *easy)
{
    __real_curl_easy_cleanup(easy);
}

void __wrap_curl_easy_reset(CURL *easy)
{
    __real_curl_easy_reset(easy);
}

/* a request without a context would block: there is no such thing here */
CURLcode __wrap_curl_easy_perform(CURL *easy)
{
    (void)easy;
    return CURLE_FAILED_INIT;
}

/* Nothing libs3 asks for is set. Two things are kept for later, by their type. */
CURLcode __wrap_curl_easy_setopt(CURL *easy, CURLoption o, ...)
{
    (void)easy;
    va_list ap;
    va_start(ap, o);
    if (composing && o == CURLOPT_PRIVATE)
        composing->priv->libs3_private = va_arg(ap, void *);
    else if (composing && o == CURLOPT_WRITEDATA)
        composing->priv->libs3_data = va_arg(ap, void *);
    else if (composing && o == CURLOPT_WRITEFUNCTION)
        composing->priv->libs3_write = va_arg(ap, s3_write_fn);
    va_end(ap);
    return CURLE_OK;
}

CURLcode __wrap_curl_easy_getinfo(CURL *easy, CURLINFO what, ...)
{
    va_list ap;
    va_start(ap, what);
    void *to = va_arg(ap, void *); /* every kind of information goes through a pointer */
    va_end(ap);
    return __real_curl_easy_getinfo(easy, what, to);
}

struct curl_slist *__wrap_curl_slist_append(struct curl_slist *list, const char *text)
{
    return __real_curl_slist_append(list, text);
}

void __wrap_curl_slist_free_all(struct curl_slist *list)
{
    __real_curl_slist_free_all(list);
}
