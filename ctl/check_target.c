/* check, of a target: one line for each thing that has to work. How the server is reached shows in the
 * first request, a listing; then one small object goes through everything that replication does. */
#include "ctl/check.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/store/cred.h"
#include "common/store/retry.h"
#include "common/store/s3_provider.h"
#include "common/store/store.h"
#include "common/store/store_root.h"

#define STEP_TIMEOUT_MS 30000
#define CLOCK_WARN_MS 60000
#define CLOCK_REFUSED_MS 900000 /* what servers put up with */
#define DAY_MS ((int64_t)24 * 3600 * 1000)
#define EXPIRY_WARN_DAYS 14

struct trip {
    struct check *k;
    const struct conf_target *target;
    struct store *s;
    struct store_req req;
    uv_timer_t timer;
    bool done, seen, no_list;
    char key[48];
    char sent[64];
    size_t n;
    struct buf got;
    uint64_t start_ms;
};

static void trip_done(struct store_req *req)
{
    ((struct trip *)req->data)->done = true;
}

static void trip_timeout(uv_timer_t *timer)
{
    struct trip *t = timer->data;
    if (!t->done)
        store_cancel(&t->req);
}

static void trip_begin(struct trip *t)
{
    t->req = (struct store_req){.done = trip_done, .data = t};
    t->done = false;
    t->start_ms = clk_mono_ms();
    (void)uv_timer_start(&t->timer, trip_timeout, STEP_TIMEOUT_MS, 0);
}

/* runs the submitted request to its end; its outcome is in t->req.err */
static enum err_code trip_run(struct trip *t)
{
    while (!t->done)
        (void)uv_run(&t->k->loop, UV_RUN_ONCE);
    (void)uv_timer_stop(&t->timer);
    if (t->req.err.code == ERR_CANCELED) {
        (void)err_set(&t->req.err, ERR_TIMEOUT, "no answer from %s within 30 s",
                      store_describe(t->s));
        (void)err_hint(&t->req.err, "is the endpoint reachable from here, or is a proxy needed?");
    }
    return t->req.err.code;
}

static void step_took(struct trip *t, const char *name)
{
    char text[64];
    (void)snprintf(text, sizeof text, "%" PRIu64 " ms", clk_mono_ms() - t->start_ms);
    check_step(t->k, name, OK, text, "");
}

/* the same, with a line about it; 0 or -1 */
static int trip_end(struct trip *t, const char *name)
{
    if (trip_run(t) != ERR_OK) {
        if (t->target->type == CONF_FILE && t->req.err.code == ERR_PERM)
            service_denied(t->k, t->target->path, true, &t->req.err);
        check_step_err(t->k, name, &t->req.err);
        return -1;
    }
    step_took(t, name);
    return 0;
}

static int take_bytes(void *arg, const void *p, size_t n, struct err *e)
{
    struct trip *t = arg;
    if (t->got.len + n > sizeof t->sent)
        return err_set(e, ERR_CORRUPT, "more came back than was sent");
    buf_add(&t->got, p, n);
    return 0;
}

static int take_item(void *arg, const struct store_object *o, struct err *e)
{
    struct trip *t = arg;
    (void)e;
    t->seen = t->seen || !strcmp(o->key, t->key);
    return 0;
}

/* ---- the way to a bucket ---------------------------------------------------------------------- */

static bool is_https(const struct trip *t)
{
    return t->target->endpoint && !strncmp(t->target->endpoint, "https://", 8);
}

static bool is_loopback(const struct store_peer *p)
{
    return !strncmp(p->address, "127.", 4) || !strncmp(p->address, "[::1]", 5);
}

static void line_tls(struct trip *t, const struct store_peer *p)
{
    char text[256];
    if (!is_https(t)) {
        cleanup_free char *hint = util_printf("databases and their names go over the wire as they are; if the server "
                                              "speaks TLS, write endpoint = https://... in [target %s]",
                                              t->target->name);
        if (is_loopback(p))
            check_step(t->k, "TLS", OK, "none, and the server is this machine", "");
        else
            check_step(t->k, "TLS", WARNING, "none: the endpoint says http://", hint);
        return;
    }
    int64_t days = (p->expires_ms - clk_real_ms()) / DAY_MS;
    int n = snprintf(text, sizeof text, "%s, certificate issued by %.100s", p->tls, p->issuer[0] ? p->issuer : "nobody");
    if (p->expires_ms && n > 0 && (size_t)n < sizeof text)
        (void)snprintf(text + n, sizeof text - (size_t)n, days < 0 ? ", expired %" PRId64 " days ago"
                                                                   : ", %" PRId64 " days left",
                       days < 0 ? -days : days);
    if (t->target->skip_verify)
        check_step(t->k, "TLS", WARNING, text, "skip-verify is on, so anybody on the way can read and change "
                   "what is stored; with ca-file = the server's CA it is not needed");
    else if (p->expires_ms && days < EXPIRY_WARN_DAYS)
        check_step(t->k, "TLS", WARNING, text, "nothing is replicated once it has expired: renew it on the server");
    else
        check_step(t->k, "TLS", OK, text, "");
}

static void line_clock(struct trip *t, const struct store_peer *p)
{
    char text[96], off[32];
    uint64_t ms = (uint64_t)(p->clock_offset_ms < 0 ? -p->clock_offset_ms : p->clock_offset_ms);
    if (!p->has_clock)
        return;
    if (ms < CLOCK_WARN_MS) {
        check_step(t->k, "clock", OK, ms < 2000 ? "the server's within 2 s" : "the server's within a minute", "");
        return;
    }
    (void)snprintf(text, sizeof text, "this machine's clock is %s %s the server's", util_duration(off, ms),
                   p->clock_offset_ms > 0 ? "behind" : "ahead of");
    check_step(t->k, "clock", WARNING, text,
               ms < CLOCK_REFUSED_MS ? "servers refuse requests from 15 min on: set the clock (timedatectl)"
                                     : "walsup signs by the server's clock, but the times it stores are wrong: set the "
                                       "clock (timedatectl)");
}

static void line_keys(struct trip *t, const struct store_peer *p)
{
    cleanup_free char *text = util_printf("key id %s from %s", p->key_id, p->key_source);
    check_step(t->k, "credentials", OK, text, "");
}

static void line_bucket(struct trip *t, const struct store_peer *p)
{
    cleanup_free char *text = util_printf("%s in region %s", t->target->bucket, p->region);
    const struct s3_provider *provider = s3_provider_find(t->target->provider, t->target->endpoint);
    cleanup_free char *asked = s3_provider_region(provider, strstr(t->target->endpoint, "://") + 3, t->target->region);
    if (!strcmp(asked, p->region)) {
        check_step(t->k, "bucket", OK, text, "");
        return;
    }
    cleanup_free char *hint = util_printf("each start costs a refused request: write region = %s in [target %s]",
                                          p->region, t->target->name);
    cleanup_free char *wrong = util_printf("%s, not %s", text, asked);
    check_step(t->k, "bucket", WARNING, wrong, hint);
}

static bool one_of(const char *code, const char *const *list)
{
    while (*list && strcmp(*list, code) != 0)
        list++;
    return *list;
}

/* what an error document is about; NULL: none of those */
static const char *is_about(const struct store_peer *p)
{
    static const char *const keys[] = {"InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch",
                                       "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AccountProblem", NULL};
    static const char *const clock[] = {"RequestTimeTooSkewed", "RequestExpired", NULL};
    static const char *const bucket[] = {"NoSuchBucket", "InvalidBucketName", "AuthorizationHeaderMalformed",
                                         "PermanentRedirect", "TemporaryRedirect", "AllAccessDisabled",
                                         "IllegalLocationConstraintException", NULL};
    return one_of(p->code, keys) || p->status == 401 ? "credentials"
           : one_of(p->code, clock)                  ? "clock"
           : one_of(p->code, bucket)                 ? "bucket"
           : p->status >= 300 && p->status < 400     ? "bucket"
           : p->status == 403                        ? "list"
                                                     : NULL;
}

/* The server has answered with an error. True: it is one of listing only, and the rest may work. */
static bool answered(struct trip *t, const struct store_peer *p)
{
    const char *about = is_about(p);
    bool of_clock = about && !strcmp(about, "clock");
    if (!of_clock)
        line_clock(t, p);
    if (about && (!strcmp(about, "bucket") || !strcmp(about, "list")))
        line_keys(t, p);
    check_step_err(t->k, about ? about : "answer", &t->req.err);
    t->no_list = about && !strcmp(about, "list");
    return t->no_list;
}

static void line_resolved(struct trip *t, const struct store_peer *p)
{
    cleanup_free char *text = util_printf("%s, %" PRIu64 " ms", p->address[0] ? p->address : "to an address",
                                          p->resolve_ms);
    check_step(t->k, "resolve", OK, text, "");
}

static void line_connected(struct trip *t, const struct store_peer *p)
{
    cleanup_free char *text = util_printf("%" PRIu64 " ms", p->connect_ms);
    check_step(t->k, "connect", OK, text, "");
}

/* The first request. False: nothing more can work; why was printed. */
static bool reach_bucket(struct trip *t)
{
    trip_begin(t);
    store_list(t->s, &t->req, ".walsup-check-", NULL, take_item, t);
    bool ok = trip_run(t) == ERR_OK;
    const struct store_peer *p = store_peer(t->s);
    if (p->no_keys) {
        service_no_keys(t->k, &t->req.err);
        check_step_err(t->k, "credentials", &t->req.err);
        return false;
    }
    if (p->stage == STORE_NOWHERE) {
        check_step_err(t->k, "resolve", &t->req.err);
        return false;
    }
    line_resolved(t, p);
    const char *host = strstr(t->target->endpoint, "://") + 3;
    cleanup_free char *name = util_strndup(host, *host == '[' ? strcspn(host, "]/") : strcspn(host, ":/"));
    if (!service_connects(t->k, p->address, name))
        return false;
    if (p->stage == STORE_RESOLVED) {
        check_step_err(t->k, "connect", &t->req.err);
        return false;
    }
    line_connected(t, p);
    if (is_https(t) && p->stage == STORE_CONNECTED) {
        check_step_err(t->k, "TLS", &t->req.err);
        return false;
    }
    line_tls(t, p);
    if (p->stage != STORE_ANSWERED) {
        check_step_err(t->k, "answer", &t->req.err);
        return false;
    }
    if (!ok)
        return answered(t, p);
    line_clock(t, p);
    line_keys(t, p);
    line_bucket(t, p);
    return true;
}

/* ---- one object, there and back ---------------------------------------------------------------- */

static int there_and_equal(struct trip *t, const char *name, size_t from)
{
    if (t->got.len == t->n - from && !memcmp(t->got.p, t->sent + from, t->n - from))
        return 0;
    check_step(t->k, name, FAILED, "what came back is not what was stored",
               "something between here and the store changes data");
    return -1;
}

static int read_from(struct trip *t, const char *name, size_t from)
{
    buf_free(&t->got);
    trip_begin(t);
    store_get(t->s, &t->req, t->key, from, from ? t->n - from : UINT64_MAX, take_bytes, t, NULL);
    if (trip_run(t) != ERR_OK) {
        check_step_err(t->k, name, &t->req.err);
        return -1;
    }
    if (there_and_equal(t, name, from) < 0)
        return -1;
    step_took(t, name);
    return 0;
}

static void look_up(struct trip *t)
{
    struct store_info info;
    trip_begin(t);
    store_head(t->s, &t->req, t->key, &info);
    if (trip_run(t) != ERR_OK)
        check_step_err(t->k, "look up", &t->req.err);
    else if (info.size != t->n)
        check_step(t->k, "look up", FAILED, "the object has another size than was stored",
                   "what answers here is not a plain S3 server or directory");
    else
        step_took(t, "look up");
}

static void list(struct trip *t)
{
    t->seen = false;
    trip_begin(t);
    store_list(t->s, &t->req, ".walsup-check-", NULL, take_item, t);
    if (trip_run(t) != ERR_OK)
        check_step_err(t->k, "list", &t->req.err);
    else if (!t->seen)
        check_step(t->k, "list", FAILED, "the object just stored is not in the listing",
                   "restores would miss the newest files in this store");
    else
        step_took(t, "list");
}

static void no_condition(struct trip *t, bool ignored)
{
    const struct s3_provider *p = s3_provider_find(t->target->provider, t->target->endpoint);
    cleanup_free char *text = util_printf("the store %s If-None-Match: *, so two writers at one path would not notice "
                                          "each other", ignored ? "ignores" : "does not know");
    cleanup_free char *hint = util_printf("make sure that only one walsupd replicates to this path; status shows "
                                          "fencing: off%s%s%s", p->condition ? ". " : "", p->condition ? p->title : "",
                                          p->condition ? " is said to know it: is a proxy in between?" : "");
    check_step(t->k, "condition", WARNING, text, hint);
}

/* the object exists: a second writer must be refused */
static void condition(struct trip *t, const struct store_body *body)
{
    trip_begin(t);
    store_put(t->s, &t->req, t->key, body, NULL, STORE_IF_ABSENT);
    enum err_code code = trip_run(t);
    if (code == ERR_CONFLICT)
        check_step(t->k, "condition", OK, "a second writer is refused", "");
    else if (code == ERR_OK || t->req.err.retry == RETRY_BUG || code == ERR_UNSUPPORTED)
        no_condition(t, code == ERR_OK);
    else
        check_step_err(t->k, "condition", &t->req.err);
}

/* Uploads in parts work without it: they are given up rarely. */
static void end_of_abort(struct trip *t)
{
    if (trip_run(t) == ERR_OK)
        step_took(t, "multipart");
    else if (t->req.err.retry == RETRY_BUG)
        check_step(t->k, "multipart", WARNING, t->req.err.msg,
                   "parts of interrupted uploads stay, and may cost money, until the store removes them by itself (a "
                   "rule of the bucket's life cycle)");
    else
        check_step_err(t->k, "multipart", &t->req.err);
}

static void big(struct trip *t)
{
    cleanup_free char *key = util_printf("%s-big", t->key);
    struct store_upload *u = store_upload_new(t->s, key, NULL, 0, 0);
    trip_begin(t);
    store_upload_begin(u, &t->req);
    if (trip_run(t) != ERR_OK) {
        check_step_err(t->k, "multipart", &t->req.err);
    } else {
        trip_begin(t);
        store_upload_abort(u, &t->req);
        end_of_abort(t);
    }
    store_upload_free(u);
}

static void cleanup_object(struct trip *t)
{
    const char *key = t->key;
    if (!t->target->may_delete) {
        cleanup_free char *text = util_printf("not tried, because of delete = no: %s stays there", t->key);
        check_step(t->k, "delete", OK, text, "");
        return;
    }
    trip_begin(t);
    store_delete(t->s, &t->req, &key, 1);
    if (trip_run(t) == ERR_OK)
        step_took(t, "delete");
    else if (t->req.err.retained)
        check_step(t->k, "delete", WARNING,
                   "the bucket keeps what is deleted, by Object Lock or a rule of its own",
                   "old files are deleted when it lets them go; until then they take room");
    else
        check_step_err(t->k, "delete", &t->req.err);
}

static void line_digests(struct trip *t)
{
    if (store_peer(t->s)->digests)
        check_step(t->k, "object lock", OK,
                   "the bucket wants a digest with each object, as Object Lock does: it gets one",
                   "");
}

static void line_provider(struct trip *t)
{
    const struct s3_provider *p = s3_provider_find(t->target->provider, t->target->endpoint);
    cleanup_buf struct buf doubts = BUF_INIT;
    if (!s3_provider_doubts(p, t->target, &doubts)) {
        if (p != s3_provider_find(CONF_PROVIDER_GENERIC, NULL))
            check_step(t->k, "provider", OK, p->title, "");
        return;
    }
    cleanup_free char *hint = util_printf("if the steps below are ok it has it all the same; else take it out of "
                                          "[target %s]", t->target->name);
    check_step(t->k, "provider", WARNING, buf_str(&doubts), hint);
}

/* Nothing is written below a mount point where nothing is mounted. Whoever may not read the daemon's record is not told. */
static bool is_the_directory(struct trip *t)
{
    const char *state_dir = t->k->state_dir;
    cleanup_free char *record = util_printf("%s/targets/%s", state_dir, t->target->name);
    struct err e = {0};
    if (access(record, R_OK) < 0)
        return true;
    struct store_root *root = store_root_new(t->target->path, t->target->name, state_dir, NULL);
    bool fine = store_root_look(root, false, &e) == 0;
    (void)store_root_unref(root);
    if (fine)
        check_step(t->k, "directory", OK, "the one that walsupd knows, by its file " STORE_ROOT_MARKER, "");
    else
        check_step_err(t->k, "directory", &e);
    return fine;
}

static void round_trip(struct trip *t)
{
    uint8_t random[8];
    char hex[17];
    util_random(random, sizeof random);
    util_hex(hex, random, sizeof random);
    (void)snprintf(t->key, sizeof t->key, ".walsup-check-%s", hex);
    t->n = (size_t)snprintf(t->sent, sizeof t->sent, "walsup check %s\n", hex);
    struct store_body body = {.p = t->sent, .size = t->n};
    if (t->target->type == CONF_FILE && !is_the_directory(t))
        return;
    if (t->target->type == CONF_S3) {
        line_provider(t);
        if (!reach_bucket(t))
            return;
    }
    trip_begin(t);
    store_put(t->s, &t->req, t->key, &body, NULL, 0);
    if (trip_end(t, "write") < 0)
        return; /* nothing to read; whatever was the reason would only be said again */
    if (t->target->type == CONF_S3)
        line_digests(t);
    condition(t, &body);
    look_up(t);
    if (read_from(t, "read", 0) == 0)
        (void)read_from(t, "read a part", t->n / 2);
    if (!t->no_list)
        list(t);
    if (t->target->type == CONF_S3)
        big(t);
    cleanup_object(t);
}

/* The service sees the target's directory, or the files that it names. */
static bool within_reach(struct check *k, const struct conf_target *target)
{
    bool dir = target->type != CONF_FILE || service_reaches(k, "directory", target->path, true);
    return service_reads(k, "target", target->name) && dir;
}

static void set_heading(struct check *k, const char *name, const char *what)
{
    free(k->heading);
    k->heading = util_printf("target %s%s%s", name, *what ? ": " : "", what);
}

/* None were found, and none are named: then those of the shell that called are what was meant. */
static void no_keys(const struct check *k, const struct conf_target *target, struct err *e)
{
    struct cred c = {0};
    struct err ignored;
    if (target->secret_access_key || target->secret_access_key_file || target->credentials_file)
        return;
    if (cred_load(target, &c, &ignored) < 0)
        service_no_keys(k, e);
    cred_done(&c);
}

void check_target(struct check *k, const struct conf_target *target)
{
    struct trip t = {.k = k, .target = target};
    struct err e = {0};
    const char *where = target->type == CONF_FILE ? target->path : target->endpoint;
    set_heading(k, target->name, where);
    if (!within_reach(k, target))
        return;
    if (store_open(&k->loop, target, &t.s, &e) < 0) {
        set_heading(k, target->name, "");
        no_keys(k, target, &e);
        check_step_err(k, "open", &e);
        return;
    }
    set_heading(k, target->name, store_describe(t.s));
    (void)uv_timer_init(&k->loop, &t.timer);
    t.timer.data = &t;
    round_trip(&t);
    store_close(t.s, NULL, NULL);
    uv_close((uv_handle_t *)&t.timer, NULL);
    (void)uv_run(&k->loop, UV_RUN_DEFAULT);
    buf_free(&t.got);
}
