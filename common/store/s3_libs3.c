#include "common/store/s3_libs3.h"

#include <assert.h>
#include <libs3.h>
#include <libxml/parser.h>

#include "common/base/clk.h"
#include "common/store/s3_easy.h"
#include "common/store/s3_peer.h"
#include "common/store/s3_wrap.h"

/* libs3 goes from composing a request to curl_multi_add_handle without yielding, so one static pointer says which
 * transfer it is composing; likewise for the others. */
static struct s3_xfer *composing;      /* during s3_libs3_send */
static struct s3_libs3 *being_built;   /* during S3_create_request_context */
static struct s3_libs3 *reaping;       /* during S3_runonce_request_context */
static unsigned users;

/* ---- requests ------------------------------------------------------------------------------ */

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
    struct s3_libs3 *l = p->libs3;
    struct s3_xfer **at = &l->complete;
    while (*at)
        at = &(*at)->priv->next_complete;
    *at = x;
    l->completed(l->arg);
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

void s3_libs3_send(struct s3_libs3 *l, struct s3_xfer *x)
{
    static const S3ResponseHandler plain = {on_properties, on_complete};
    static const S3PutObjectHandler put = {{on_properties, on_complete}, on_put_data};
    static const S3GetObjectHandler get = {{on_properties, on_complete}, on_get_data};
    static const S3ListBucketHandler list = {{on_properties, on_complete}, on_list_data};
    const struct s3_target *t = l->target;
    /* key and signature of libs3 are never sent: it need not know the real ones */
    const S3BucketContext b = {"localhost", t->bucket, S3ProtocolHTTP, S3UriStylePath, "k", "s"};

    assert(!composing);
    x->priv->libs3 = l;
    composing = x;
    switch (x->verb) {
    case S3_PUT:
        S3_put_object(&b, x->key, s3_body_size(x->body), NULL, l->context, &put, x);
        break;
    case S3_GET:
        S3_get_object(&b, x->key, NULL, 0, 0, l->context, &get, x);
        break;
    case S3_LIST:
        S3_list_bucket(&b, x->key, x->marker, NULL, S3_LIST_MAX_KEYS, l->context, &list, x);
        break;
    case S3_PART:
    case S3_CREATE:
    case S3_COMPLETE:
    case S3_ABORT:
    case S3_DELETES:
    case S3_UPLOADS: /* libs3 knows none of them: a request of its own is the envelope */
    case S3_DELETE:
        S3_delete_object(&b, x->key, l->context, &plain, x);
        break;
    case S3_HEAD:
        S3_head_object(&b, x->key, l->context, &plain, x);
        break;
    }
    composing = NULL;
}

/* ---- the end of a transfer ----------------------------------------------------------------- */

void s3_libs3_end(struct s3_xfer *x, CURLcode result)
{
    struct s3_private *p = x->priv;
    if (p->in_ended || !p->added)
        return;
    p->in_ended = true;
    p->result = result;
    struct s3_xfer **at = &p->libs3->ended;
    while (*at)
        at = &(*at)->priv->next_ended;
    *at = x;
}

static void collect(struct s3_libs3 *l)
{
    int left;
    for (CURLMsg *m; (m = __real_curl_multi_info_read(l->multi, &left));) {
        if (m->msg != CURLMSG_DONE)
            continue;
        for (struct s3_xfer *x = l->active; x; x = x->priv->next_active) {
            if (x->priv->easy == m->easy_handle) {
                s3_libs3_end(x, m->data.result);
                break;
            }
        }
    }
}

void s3_libs3_reap(struct s3_libs3 *l)
{
    int left;
    collect(l);
    reaping = l;
    if (l->ended)
        (void)S3_runonce_request_context(l->context, &left);
    reaping = NULL;
}

struct s3_xfer *s3_libs3_take_complete(struct s3_libs3 *l)
{
    struct s3_xfer *x = l->complete;
    if (x)
        l->complete = x->priv->next_complete;
    return x;
}

/* ---- life ---------------------------------------------------------------------------------- */

int s3_libs3_open(struct s3_libs3 *l, struct err *e)
{
    xmlInitParser();
    S3Status rc = S3_initialize("walsup", S3_INIT_ALL, "localhost");
    being_built = l;
    if (rc == S3StatusOK)
        rc = S3_create_request_context(&l->context);
    being_built = NULL;
    if (rc != S3StatusOK || !l->multi) {
        if (l->context)
            S3_destroy_request_context(l->context);
        return rc != S3StatusOK
                   ? err_set(e, ERR_INTERNAL, "libs3 does not start: %s", S3_get_status_name(rc))
                   : err_set(e, ERR_INTERNAL, "this program was linked without the --wrap flags "
                                              "for libs3 (see Makefile, LIBS3_WRAPS)");
    }
    users++;
    return 0;
}

void s3_libs3_close(struct s3_libs3 *l)
{
    assert(!l->active && !l->ended && !l->complete);
    S3_destroy_request_context(l->context);
    if (!--users)
        S3_deinitialize();
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

/* the transfers are driven by the transport; doing both costs a second a request */
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
    if (!x || x->priv->libs3->multi != m)
        return CURLM_INTERNAL_ERROR;
    struct s3_private *p = x->priv;
    struct s3_libs3 *l = p->libs3;
    p->easy = easy;
    CURLMcode rc = s3_easy_prepare(x, l->target) < 0 ? CURLM_INTERNAL_ERROR
                                                      : __real_curl_multi_add_handle(m, easy);
    if (rc != CURLM_OK) {
        if (!x->err.code)
            (void)err_set(&x->err, ERR_INTERNAL, "libcurl: %s", curl_multi_strerror(rc));
        return rc;
    }
    p->added = true;
    p->sent_ms = p->last_change_ms = clk_mono_ms();
    p->next_active = l->active;
    if (p->next_active)
        p->next_active->priv->prev_active = x;
    l->active = x;
    l->added(l->arg, x);
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
    p->libs3->removed(p->libs3->arg, x);
    if (p->prev_active)
        p->prev_active->priv->next_active = p->next_active;
    else
        p->libs3->active = p->next_active;
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
