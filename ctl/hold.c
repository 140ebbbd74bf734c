/* SIGINT, SIGTERM and SIGHUP wait while the database is paused: before the exchange they call it off, after it there
 * is nothing left to interrupt; either way the database is resumed. What that cannot cover (kill -9,
 * a crash of the machine) is in the reason of the pause, which walsupctl status shows. */
#include "ctl/hold.h"

#include <signal.h>

#include "common/base/clk.h"
#include "ctl/client.h"
#include "ctl/out.h"

#define UPLOAD_MS 30000
#define ANSWER_MS 120000 /* as for walsupctl pause: the last look at a large database, on a slow disk */

static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
static struct sigaction before[ARRAY_LEN(caught)];
static volatile sig_atomic_t interrupted;

static void on_signal(int signum)
{
    interrupted = signum;
}

static void signals_wait(void)
{
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    interrupted = 0;
    for (size_t i = 0; i < ARRAY_LEN(caught); i++)
        if (sigaction(caught[i], NULL, &before[i]) == 0 && before[i].sa_handler != SIG_IGN)
            (void)sigaction(caught[i], &a, NULL);
}

static void signals_go_on(void)
{
    for (size_t i = 0; i < ARRAY_LEN(caught); i++)
        (void)sigaction(caught[i], &before[i], NULL);
}

static int ask(const struct hold *h, const char *method, json_t *parameters, json_t **ret, struct err *e)
{
    return client_call(h->socket, method, parameters, ANSWER_MS, ret, NULL, e);
}

/* 1: no daemon, or one that has nothing to do with this file; if it holds the file all the same, the restore finds
 * it. Whoever is paused already keeps the reason. */
static int look(struct hold *h, struct err *e)
{
    json_t *reply = NULL;
    int r = ask(h, "Status", json_pack("{s:o}", "db", proto_text(h->path)), &reply, e);
    if (r == -(int)ERR_NET || r == -(int)ERR_NOTFOUND || r == -(int)ERR_PERM) {
        err_clear(e);
        return 1;
    }
    if (r < 0)
        return err_wrap(e, "ask walsupd whether it replicates %s", h->path);
    const json_t *d = json_array_get(json_object_get(reply, "databases"), 0);
    const char *name = json_string_value(json_object_get(d, "name"));
    h->was_paused = json_is_object(json_object_get(d, "paused"));
    h->name = util_strdup(name ? name : h->path);
    json_decref(reply);
    return 0;
}

static int pause_it(struct hold *h, struct err *e)
{
    json_t *reply = NULL, *p;
    cleanup_free char *reason = util_printf("walsupctl restore (pid %ld) is replacing the file", (long)getpid());
    int r = look(h, e);
    if (r != 0)
        return r < 0 ? r : 0;
    p = json_pack("{s:o, s:s*}", "db", proto_text(h->name), "reason", h->was_paused ? NULL : reason);
    r = ask(h, "Pause", p, &reply, e);
    json_decref(reply);
    if (r == 0)
        return 0;
    (void)err_wrap(e, "pause %s while its file is replaced", h->name);
    (void)err_hint(e, "nothing was replaced; if walsupctl status shows it as paused: walsupctl resume %s", h->name);
    free(TAKE_PTR(h->name));
    return r;
}

static void resume_it(struct hold *h)
{
    struct err e = {0};
    json_t *reply = NULL;
    if (!h->name)
        return;
    if (h->was_paused) {
        (void)err_set(&e, ERR_BUSY, "%s was paused before, and stays paused", h->name);
        (void)err_hint(&e, "walsupctl resume %s", h->name);
        out_warning(&e);
    } else if (ask(h, "Resume", json_pack("{s:o}", "db", proto_text(h->name)), &reply, &e) < 0) {
        (void)err_wrap(&e, "%s was paused while its file was replaced, and could not be resumed", h->name);
        (void)err_hint(&e, "when walsupd runs: walsupctl resume %s", h->name);
        out_warning(&e);
    }
    json_decref(reply);
    free(TAKE_PTR(h->name));
}

static int begin(void *arg, struct err *e)
{
    struct hold *h = arg;
    signals_wait();
    int r = pause_it(h, e);
    if (r == 0 && interrupted) {
        resume_it(h);
        r = err_set(e, ERR_CANCELED, "interrupted; nothing was replaced");
    }
    if (r < 0)
        signals_go_on();
    return r;
}

static void end(void *arg)
{
    resume_it(arg);
    signals_go_on();
}

/* ---- what is on its way --------------------------------------------------------------------- */

/* files that the target, or any, still lacks; one that fails is not waited for, and counts in *ret_failed */
static json_int_t pending(const json_t *d, const char *target, json_int_t *ret_failed)
{
    size_t i;
    const json_t *r;
    json_int_t most = 0;
    *ret_failed = 0;
    json_array_foreach(json_object_get(d, "replicas"), i, r) {
        const char *name = json_string_value(json_object_get(r, "target"));
        json_int_t n = json_integer_value(json_object_get(r, "pending_files"));
        if (target && name && strcmp(target, name) != 0)
            continue;
        if (json_is_object(json_object_get(r, "error")) || json_is_string(json_object_get(r, "error")))
            *ret_failed = MAX(*ret_failed, n);
        else
            most = MAX(most, n);
    }
    return most;
}

static void warn_pending(const struct hold *h, json_int_t n)
{
    struct err e = {0};
    if (n <= 0)
        return;
    (void)err_set(
        &e, ERR_BUSY,
        "walsupd has %lld file%s of %s that could not be uploaded yet: what is restored is older "
        "than the database was",
        (long long)n, n == 1 ? "" : "s", h->name);
    (void)err_hint(&e, "walsupctl status says why; when they are uploaded, restore again");
    out_warning(&e);
}

static void wait_uploaded(const struct hold *h, const char *target)
{
    uint64_t end_ms = clk_mono_ms() + UPLOAD_MS;
    for (json_int_t left = 1, failed = 0; left > 0 && !interrupted;) {
        json_t *reply = NULL;
        struct err e;
        if (ask(h, "Status", json_pack("{s:o}", "db", proto_text(h->name)), &reply, &e) < 0)
            return;
        left = pending(json_array_get(json_object_get(reply, "databases"), 0), target, &failed);
        json_decref(reply);
        bool over = clk_mono_ms() >= end_ms;
        if (!left || over) {
            warn_pending(h, MAX(left, failed));
            return;
        }
        (void)usleep(50000);
    }
}

/* Of a database that is there: capture, which says nothing about one that is not to be captured now. */
static void sync_it(const struct hold *h)
{
    json_t *reply = NULL;
    struct err e;
    (void)ask(h, "Sync", json_pack("{s:o, s:b, s:I}", "db", proto_text(h->name), "wait", 0, "timeout_ms",
                                   (json_int_t)UPLOAD_MS), &reply, &e);
    json_decref(reply);
}

int hold_upload(struct hold *h, const char *target, struct err *e)
{
    signals_wait();
    int r = access(h->path, F_OK) == 0 ? look(h, e) : pause_it(h, e); /* to let go is to capture all of it */
    if (r == 0 && h->name) {
        if (access(h->path, F_OK) == 0 && !h->was_paused)
            sync_it(h);
        wait_uploaded(h, target);
    }
    if (access(h->path, F_OK) != 0 && !h->was_paused)
        resume_it(h);
    free(TAKE_PTR(h->name));
    signals_go_on();
    if (r >= 0 && interrupted)
        return err_set(e, ERR_CANCELED, "interrupted; nothing was restored");
    return MIN(r, 0);
}

struct restore_hold hold_init(struct hold *h, struct ctl *c, const char *path)
{
    int status;
    *h = (struct hold){.path = path};
    /* with --url nobody needs a configuration; without one there is no walsupd to ask */
    if ((!c->socket && access(c->config, R_OK) < 0) || !ctl_socket(c, &h->socket, &status))
        return (struct restore_hold){.begin = NULL};
    return (struct restore_hold){begin, end, h};
}

void hold_done(struct hold *h)
{
    free(h->socket);
    free(h->name);
}
