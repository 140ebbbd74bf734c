/* The seam under libs3, and curl on libuv: sockets, timers, what ends a transfer. What libs3 does is in s3_libs3.c. */
#include "common/store/s3_transport.h"

#include <assert.h>
#include <curl/curl.h>
#include <signal.h>

#include "common/base/clk.h"
#include "common/store/s3_easy.h"
#include "common/store/s3_libs3.h"
#include "common/store/s3_log.h"
#include "common/store/s3_peer.h"

#define TRANSPORT_MAGIC 0x53751a45u
#define SOCK_MAGIC 0x535ca11eu
#define TICK_MAX_MS 1000
#define SLOWEST_BYTES_A_MS 256 /* of a store behind a proxy: 256 kB a second */

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
    struct s3_libs3 libs3;
    uv_timer_t timer, tick, round; /* curl's; the watch over idle transfers; what the throttle waits for */
    struct s3_throttle throttle;
    uv_idle_t soon;
    void (*wake)(void *arg);
    void *wake_arg;
    struct sock *socks;
    unsigned handles; /* uv handles whose close callback has not run */
    void (*closed)(void *arg);
    void *closed_arg;
};

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
    for (struct s3_xfer *x = tr->libs3.active; x; x = x->priv->next_active) {
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
    s3_libs3_reap(&tr->libs3);
    for (struct s3_xfer *x; (x = s3_libs3_take_complete(&tr->libs3));)
        finish(x);
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
    s3_libs3_end(x, CURLE_ABORTED_BY_CALLBACK);
    (void)uv_idle_start(&x->priv->tr->soon, on_soon);
}

/* ---- curl on libuv ------------------------------------------------------------------------- */

static void act(struct s3_transport *tr, curl_socket_t fd, int events)
{
    int running;
    (void)curl_multi_socket_action(tr->libs3.multi, fd, events, &running);
    reap(tr);
}

static bool is_connecting(const struct s3_transport *tr)
{
    for (struct s3_xfer *x = tr->libs3.active; x; x = x->priv->next_active) {
        if (!s3_easy_has_connection(x))
            return true;
    }
    return false;
}

/* When an address does not answer, libcurl's timer gives it up but does not begin with the next
 * one: that happens when the transfer is looked at again. Unless somebody does, this is when the
 * time of the next address is over as well (7.88; seen with several addresses of one family).
 * curl_multi_socket_action has no way to ask for a look at a transfer that has neither a socket
 * nor a timer that is due, curl_multi_socket_all is one. */
static void look_again(struct s3_transport *tr)
{
    int running;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    (void)curl_multi_socket_all(tr->libs3.multi, &running);
#pragma GCC diagnostic pop
    reap(tr);
}

static void on_timer(uv_timer_t *h)
{
    struct s3_transport *tr = h->data;
    assert(tr->magic == TRANSPORT_MAGIC);
    act(tr, CURL_SOCKET_TIMEOUT, 0);
    if (is_connecting(tr))
        look_again(tr);
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
    for (struct s3_xfer *x = tr->libs3.active; x; x = x->priv->next_active) {
        if (x->peer && x->priv->easy == easy)
            s3_peer_connected(fd, x->peer);
    }
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            (void)curl_multi_assign(tr->libs3.multi, fd, NULL);
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
        (void)curl_multi_assign(tr->libs3.multi, fd, s);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&s->poll, events, on_poll) < 0 ? -1 : 0;
}

/* ---- idle transfers ------------------------------------------------------------------------ */

/* a proxy may have it all, and hand it on */
static bool is_handed_over(const struct s3_xfer *x)
{
    return s3_easy_uploads(x) && x->answer.sent == s3_body_size(x->body);
}

static uint64_t handed_over_bytes(const struct s3_transport *tr)
{
    uint64_t n = 0;
    for (const struct s3_xfer *x = tr->libs3.active; x; x = x->priv->next_active)
        n += is_handed_over(x) ? x->answer.sent : 0;
    return n;
}

/* Putting an object together from its parts, or deleting a thousand, takes a server time, in which
 * it says nothing. So do uploads that a proxy has taken whole and hands on at the rate of what is
 * behind it: giving them up would only send them once more. */
static uint64_t idle_ms(const struct s3_transport *tr, const struct s3_xfer *x)
{
    uint64_t ms = tr->target->idle_ms;
    if (x->verb == S3_COMPLETE || x->verb == S3_DELETES)
        return ms * 8;
    return is_handed_over(x) ? ms + handed_over_bytes(tr) / SLOWEST_BYTES_A_MS : ms;
}

static void on_tick(uv_timer_t *h)
{
    struct s3_transport *tr = h->data;
    assert(tr->magic == TRANSPORT_MAGIC);
    uint64_t now = clk_mono_ms();
    for (struct s3_xfer *x = tr->libs3.active; x; x = x->priv->next_active) {
        struct s3_private *p = x->priv;
        uint64_t state = s3_easy_state(x);
        if (state != p->last_state || p->throttled) { /* the server is not to blame for a wait of ours */
            p->last_state = state;
            p->last_change_ms = now;
        } else if (now - p->last_change_ms >= idle_ms(tr, x) && !p->in_ended) {
            (void)err_set(&x->err, ERR_TIMEOUT, "%s for %llu ms after %llu bytes sent and %llu "
                          "received", x->answer.status ? "nothing more came" : "no answer",
                          (unsigned long long)idle_ms(tr, x),
                          (unsigned long long)x->answer.sent,
                          (unsigned long long)x->answer.received);
            s3_libs3_end(x, CURLE_OPERATION_TIMEDOUT);
        }
    }
    reap(tr);
    if (!tr->libs3.active)
        (void)uv_timer_stop(h);
}

/* ---- what libs3 has to say ------------------------------------------------------------------ */

static void on_added(void *arg, struct s3_xfer *x)
{
    struct s3_transport *tr = arg;
    assert(tr->magic == TRANSPORT_MAGIC);
    tr->throttle.uploads += s3_easy_uploads(x);
    if (!uv_is_active((uv_handle_t *)&tr->tick)) {
        uint64_t ms = MAX((uint64_t)10, MIN((uint64_t)TICK_MAX_MS, tr->target->idle_ms / 4));
        (void)uv_timer_start(&tr->tick, on_tick, ms, ms);
    }
}

static void on_removed(void *arg, struct s3_xfer *x)
{
    struct s3_transport *tr = arg;
    assert(tr->magic == TRANSPORT_MAGIC);
    s3_easy_unthrottled(x->priv);
    tr->throttle.uploads -= s3_easy_uploads(x);
}

static void on_completed(void *arg)
{
    struct s3_transport *tr = arg;
    assert(tr->magic == TRANSPORT_MAGIC);
    (void)uv_idle_start(&tr->soon, on_soon);
}

void s3_transport_send(struct s3_transport *tr, struct s3_xfer *x)
{
    assert(!x->priv);
    x->priv = util_zalloc(sizeof *x->priv);
    x->priv->tr = tr;
    x->priv->throttle = &tr->throttle;
    x->priv->round = tr->throttle.round - 1;
    err_clear(&x->err);
    x->page = (struct s3_page){0};
    x->new_id = NULL;
    s3_answer_reset(&x->answer);
    s3_libs3_send(&tr->libs3, x);
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
    tr->libs3 = (struct s3_libs3){
        .target = t, .added = on_added, .removed = on_removed, .completed = on_completed, .arg = tr};
    int r = s3_libs3_open(&tr->libs3, e);
    if (r < 0) {
        free(tr);
        return r;
    }
    (void)curl_multi_setopt(tr->libs3.multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    (void)curl_multi_setopt(tr->libs3.multi, CURLMOPT_SOCKETDATA, tr);
    (void)curl_multi_setopt(tr->libs3.multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    (void)curl_multi_setopt(tr->libs3.multi, CURLMOPT_TIMERDATA, tr);
    (void)curl_multi_setopt(tr->libs3.multi, CURLMOPT_MAXCONNECTS, (long)t->max_connections);
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
    assert(tr->magic == TRANSPORT_MAGIC );
    tr->closed = closed;
    tr->closed_arg = arg;
    s3_libs3_close(&tr->libs3);
    while (tr->socks)
        sock_close(tr->socks);
    uv_close((uv_handle_t *)&tr->timer, on_closed);
    uv_close((uv_handle_t *)&tr->tick, on_closed);
    uv_close((uv_handle_t *)&tr->round, on_closed);
    uv_close((uv_handle_t *)&tr->soon, on_closed);
}
