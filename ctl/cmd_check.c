/* check: everything that can be found wrong before the daemon is started */
#include "ctl/check.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

/* one line: what was tried and what came of it */
void check_step(struct check *k, const char *name, enum verdict v, const char *text, const char *hint)
{
    static const char *const word[] = {"ok", "warning", "FAILED"};
    static const enum out_tone tone[] = {OUT_GOOD, OUT_WARN, OUT_BAD};
    k->failed += v == FAILED;
    k->warned += v == WARNING;
    (void)json_array_append_new(
        k->steps, json_pack("{s:s, s:s, s:s%, s:s%}", "step", name, "result",
                            v == FAILED ? "failed" : word[v], "message", text, strlen(text), "hint",
                            hint, strlen(hint)));
    if (k->c->json)
        return;
    if (k->heading) {
        printf("\n");
        out_text(stdout, k->heading);
        printf("\n");
        free(TAKE_PTR(k->heading));
    }
    printf("  %-12s ", name);
    out_tone(stdout, tone[v]);
    (void)fputs(word[v], stdout);
    out_tone(stdout, OUT_PLAIN);
    if (v == OK) {
        printf("  ");
        out_text(stdout, text);
        (void)fputc('\n', stdout);
    } else {
        (void)fputc('\n', stdout);
        out_wrapped(stdout, 4, text);
        if (*hint) {
            cleanup_free char *line = util_printf("hint: %s", hint);
            out_wrapped(stdout, 4, line);
        }
    }
    (void)fflush(stdout);
}

void check_step_err(struct check *k, const char *name, const struct err *e)
{
    check_step(k, name, FAILED, e->msg, e->hint);
}

/* ---- the verb ------------------------------------------------------------------------------- */

static json_t *check_all(struct check *k, const struct conf *conf)
{
    json_t *targets = json_array(), *databases = json_array();
    for (size_t i = 0; i < conf->n_targets; i++) {
        k->steps = json_array();
        unsigned before = k->failed;
        check_target(k, &conf->target[i]);
        free(TAKE_PTR(k->heading));
        (void)json_array_append_new(
            targets, json_pack("{s:s, s:b, s:o}", "name", conf->target[i].name, "ok",
                               k->failed == before, "steps", k->steps));
    }
    for (size_t i = 0; i < conf->n_dbs; i++) {
        k->steps = json_array();
        unsigned before = k->failed;
        if (conf->db[i].glob)
            check_pattern(k, conf, &conf->db[i]);
        else
            check_database(k, &conf->db[i]);
        (void)json_array_append_new(
            databases, json_pack("{s:s, s:s, s:b, s:o}", "name", conf->db[i].name, "path",
                                 conf->db[i].path, "ok", k->failed == before, "steps", k->steps));
    }
    return json_pack("{s:s, s:o, s:o}", "configuration", k->c->config, "targets", targets, "databases", databases);
}

/* Files with a secret that everybody may read: walsupd does not start with them, but the rest can be looked at. */
static json_t *check_exposed(struct check *k, struct buf *exposed)
{
    k->steps = json_array();
    for (const char *p = buf_str(exposed); *p; p += strcspn(p, "\n") + 1) {
        cleanup_free char *file = util_strndup(p, strcspn(p, "\n"));
        cleanup_free char *text = util_printf(
            "%s contains a secret and everybody on this machine can read it, so walsupd "
            "does not start",
            file);
        cleanup_free char *hint = util_printf("chgrp walsup %s && chmod 640 %s", file, file);
        check_step(k, "permissions", FAILED, text, hint);
    }
    return k->steps;
}

static void print_end(const struct check *k, const struct conf *conf)
{
    printf("\n");
    if (conf && !conf->n_dbs && !k->failed)
        printf("no database is configured, so there is nothing to do: add a section "
               "[db NAME]\n");
    else if (k->failed)
        printf("%u problem%s\n", k->failed, PLURAL(k->failed));
    else if (k->warned)
        printf("no problems, %u warning%s\n", k->warned, PLURAL(k->warned));
    else
        printf("everything is fine\n");
}

static int finish(struct check *k, const struct conf *conf, json_t *all, json_t *service)
{
    if (service)
        (void)json_object_set_new(all, "service", service);
    (void)json_object_set_new(all, "ok", json_boolean(!k->failed));
    (void)json_object_set_new(all, "failed", json_integer(k->failed));
    (void)json_object_set_new(all, "warnings", json_integer(k->warned));
    if (k->c->json) {
        (void)out_json(all);
    } else {
        json_decref(all);
        print_end(k, conf);
    }
    return k->failed ? 1 : 0;
}

static int check(struct ctl *c, struct service *s)
{
    cleanup_free char *config = ctl_absolute(c->config);
    cleanup_buf struct buf errors = BUF_INIT, exposed = BUF_INIT;
    struct check k = {.c = c, .config = config, .service = s};
    struct conf *conf = NULL;
    struct err e = {0};
    if (!s)
        ctl_load_environment(c);
    if (conf_load_exposed(c->config, &conf, &exposed, &errors, &e) < 0) {
        if (!s || e.code != ERR_PERM || geteuid() == 0)
            return ctl_load_failed(c, &e, &errors);
        json_t *service = service_check(&k, NULL);
        return finish(&k, NULL, json_pack("{s:s}", "configuration", c->config), service);
    }
    if (!c->json)
        printf("configuration %s: %s, %zu target%s, %zu database%s\n", c->config, exposed.len ? "not ok" : "ok",
               conf->n_targets, PLURAL(conf->n_targets), conf->n_dbs, PLURAL(conf->n_dbs));
    if (!s && !c->json && access("/run/systemd/system", F_OK) == 0)
        printf("judged as this process, since no unit was asked for or uses this configuration\n");
    json_t *permissions = check_exposed(&k, &exposed);
    (void)uv_loop_init(&k.loop);
    k.state_dir = conf->state_dir;
    needs_collect(conf, config, &k.needs);
    needs_environment(&k.needs);
    json_t *service = s ? service_check(&k, conf) : NULL;
    json_t *all = check_all(&k, conf);
    (void)json_object_set_new(all, "steps", permissions);
    (void)uv_loop_close(&k.loop);
    int status = finish(&k, conf, all, service);
    needs_done(&k.needs);
    free(k.heading);
    (void)conf_free(conf);
    return status;
}

/* The unit to judge by, in *ret; NULL: none. */
static bool find_unit(struct ctl *c, const char *named, struct unit **ret, int *ret_status)
{
    cleanup_free char *config = ctl_absolute(c->config);
    struct err e = {0};
    *ret = NULL;
    if (named && !strcmp(named, "none"))
        return true;
    if (named) {
        if (unit_load(named, NULL, ret, &e) == 0)
            return true;
        *ret_status = out_fail(c->json, &e);
        return false;
    }
    /* where systemd does not run, as in a container, nobody runs the unit either */
    if (access("/run/systemd/system", F_OK) == 0)
        *ret = unit_of_config(config, NULL);
    return true;
}

static volatile pid_t child;

static void pass_on(int sig)
{
    if (child > 0)
        (void)kill(child, sig);
}

static void on_signals(void (*handler)(int))
{
    static const int list[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        (void)signal(list[i], handler);
}

/* In a process of its own, which becomes what the service will be; what it was given is taken away afterwards, also if
 * somebody loses patience. */
static int check_as(struct ctl *c, struct service *s)
{
    (void)fflush(NULL);
    on_signals(pass_on);
    child = fork();
    if (child == 0) {
        on_signals(SIG_DFL);
        service_become(s);
        return check(c, s);
    }
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    service_clean(s);
    on_signals(SIG_DFL);
    if (child > 0 && WIFEXITED(status))
        return WEXITSTATUS(status);
    if (child > 0 && WIFSIGNALED(status))
        (void)raise(WTERMSIG(status));
    struct err e;
    (void)err_set(&e, ERR_INTERNAL, "the check ended early");
    return out_fail(c->json, &e);
}

int cmd_check(struct ctl *c)
{
    static const struct option own[] = {{"unit", required_argument, NULL, 'u'}, {NULL, 0, NULL, 0}};
    const char *named = NULL;
    struct unit *unit;
    int status, o;
    while ((o = ctl_option(c, own, &status)) >= 0)
        named = optarg;
    if (o == CTL_STOP || !ctl_operands(c, 0, 0, &status) || !find_unit(c, named, &unit, &status))
        return status;
    struct service *s = unit ? service_new(unit) : NULL;
    status = s ? check_as(c, s) : check(c, NULL);
    (void)service_free(s);
    return status;
}
