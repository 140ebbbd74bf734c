/* add: a database's section as a file of its own. This program writes it, with the rights of whoever runs it: the
 * daemon takes no path from a client, it only reads its configuration again. */
#include "ctl/ctl.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/base/clk.h"
#include "ctl/client.h"
#include "ctl/dropin.h"
#include "ctl/out.h"

#define TIMEOUT_MS 60000
#define ANSWER_MS 5000
#define LOOK_US 50000

struct job {
    struct ctl *c;
    char *path, *name, *file, *socket;
    struct buf targets, settings; /* "a, b"; lines */
    uint64_t timeout_ms;
    bool running, glob;
    json_int_t pid;
};

/* ---- what the daemon can see ------------------------------------------------------------------- */

/* Its sandbox is a mount namespace of its own, which /proc shows to root. */
static bool outside_sandbox(const struct job *j, struct err *e)
{
    cleanup_free char *dir = util_strdup(j->path);
    struct stat ours, theirs;
    struct statvfs v;
    const char *what = NULL;
    char *slash = strrchr(dir, '/');
    slash[slash == dir] = '\0';
    cleanup_free char *root = util_printf("/proc/%lld/root", (long long)j->pid);
    cleanup_free char *seen = util_printf("%s%s", root, dir);
    if (access(root, X_OK) < 0 || stat(dir, &ours) < 0)
        return false;
    if (stat(seen, &theirs) < 0 || theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino)
        what = "hidden from it";
    else if (statvfs(seen, &v) == 0 && (v.f_flag & ST_RDONLY) && statvfs(dir, &v) == 0 && !(v.f_flag & ST_RDONLY))
        what = "read-only for it";
    if (!what)
        return false;
    (void)err_set(e, ERR_PERM, "%s is outside the sandbox of walsupd: %s is %s", j->path, dir, what);
    (void)err_hint(e, "walsupctl sandbox > /etc/systemd/system/walsupd.service.d/paths.conf && "
                      "systemctl daemon-reload && "
                      "systemctl restart walsupd");
    return true;
}

/* ---- what came of it --------------------------------------------------------------------------- */

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void take_error(const json_t *error, struct err *e)
{
    (void)err_set(e, ERR_STORE, "%s", text_of(error, "message"));
    if (*text_of(error, "hint"))
        (void)err_hint(e, "%s", text_of(error, "hint"));
}

/* 1: not yet; 0: it is replicated; else why not */
static int judge(const struct job *j, const json_t *d, struct err *e)
{
    const char *state = text_of(d, "state");
    const json_t *error = json_object_get(d, "error");
    size_t i;
    const json_t *r;
    if (!strcmp(state, "starting"))
        return 1;
    if (outside_sandbox(j, e))
        return -(int)e->code;
    if (json_is_object(error)) {
        take_error(error, e);
        return -(int)e->code;
    }
    json_array_foreach(json_object_get(d, "replicas"), i, r) {
        if (!json_is_object(json_object_get(r, "error")))
            continue;
        take_error(json_object_get(r, "error"), e);
        return err_wrap(e, "target %s", text_of(r, "target"));
    }
    if (!strcmp(state, "waiting") || !strcmp(state, "not-wal") || !strcmp(state, "paused"))
        return err_set(e, !strcmp(state, "waiting") ? ERR_NOTFOUND : ERR_UNSUPPORTED, "%s: %s",
                       state, text_of(d, "detail"));
    return 0;
}

static int await(const struct job *j, struct err *e)
{
    uint64_t deadline = clk_mono_ms() + j->timeout_ms;
    for (;;) {
        json_t *reply = NULL;
        int r = client_call(j->socket, "Status", json_pack("{s:o}", "db", proto_text(j->name)),
                            ANSWER_MS, &reply, NULL, e);
        if (r == 0)
            r = judge(j, json_array_get(json_object_get(reply, "databases"), 0), e);
        json_decref(reply);
        if (r <= 0)
            return r;
        if (clk_mono_ms() > deadline) {
            (void)err_set(e, ERR_TIMEOUT, "it is still starting");
            return err_hint(e, "walsupctl status %s", j->name);
        }
        (void)usleep(LOOK_US);
    }
}

static int say(struct job *j, const char *what, const struct err *e)
{
    struct err said = {0};
    if (e) {
        said = *e;
        (void)err_wrap(&said, "[db %s] was added in %s, but is not replicated yet", j->name, j->file);
    }
    if (j->c->json) {
        json_t *o = json_pack("{s:o, s:o, s:o, s:s, s:s}", "name", proto_text(j->name), "path",
                              proto_text(j->path), "file", proto_text(j->file), "targets",
                              buf_str(&j->targets), "state", what);
        if (e)
            (void)json_object_set_new(o, "error", json_pack("{s:s, s:s, s:s}", "code", err_name(said.code), "message",
                                                            said.msg, "hint", said.hint));
        (void)out_json(o);
    } else if (!e) {
        out_text(stdout, j->name);
        printf(": ");
        out_text(stdout, j->path);
        printf(" %s ", what);
        out_text(stdout, buf_str(&j->targets));
        printf(" (");
        out_text(stdout, j->file);
        printf(")\n");
    }
    if (!e)
        return 0;
    out_error(&said);
    if (!j->c->json) {
        (void)fputs("It stays configured; walsupctl remove ", stderr);
        out_text(stderr, j->name);
        (void)fputs(" takes it out again.\n", stderr);
    }
    return err_exit_status(said.code);
}

/* ---- the section ------------------------------------------------------------------------------- */

/* What the file is called, without its last suffix, in the letters that a name may have. */
static char *name_for(const char *path)
{
    const char *base = strrchr(path, '/') + 1, *dot = strrchr(base, '.');
    char *name = util_printf("%.*s", (int)(dot && dot > base ? (size_t)(dot - base) : strlen(base)), base);
    for (char *p = name; *p; p++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", *p))
            *p = '-';
    return name;
}

static int default_target(struct job *j, const struct conf *conf)
{
    if (conf->n_targets == 1) {
        buf_add_str(&j->targets, conf->target[0].name);
        return 0;
    }
    cleanup_buf struct buf names = BUF_INIT;
    for (size_t i = 0; i < conf->n_targets; i++)
        buf_printf(&names, "%s%s", i ? ", " : "", conf->target[i].name);
    struct err e = {0};
    (void)err_set(&e, ERR_USAGE,
                  conf->n_targets ? "which target? There are %s" : "no target is configured%s",
                  buf_str(&names));
    (void)err_hint(&e, conf->n_targets ? "--target NAME, once for each"
                                       : "write a section [target NAME] first: walsup.ini(5)");
    return out_fail(j->c->json, &e);
}

static int plan(struct job *j, const struct conf *conf)
{
    struct err e = {0};
    const struct conf_db *other = conf_of_path(conf, j->path);
    j->glob = strpbrk(j->path, "*?[") != NULL;
    if (!j->name && other && !j->glob) {
        cleanup_free char *as = conf_name_of(other, j->path);
        (void)err_set(&e, ERR_EXISTS, "%s is replicated already, as %s, by [db %s] of %s:%u", j->path, as, other->name,
                      other->origin.file, other->origin.line);
        (void)err_hint(&e, other->glob ? "--name NAME gives it a section and a replica of its own"
                                       : "walsupctl remove %s first, or change that section", other->name);
        return out_fail(j->c->json, &e);
    }
    if (!j->name && j->glob)
        return ctl_usage_error(j->c, "a pattern needs --name NAME");
    if (!j->name)
        j->name = name_for(j->path);
    if (!j->targets.len) {
        int status = default_target(j, conf);
        if (status)
            return status;
    }
    if (strchr(j->name, '/') || !*j->name)
        return ctl_usage_error(j->c, "'%s' cannot be the name of a database", j->name);
    j->file = dropin_path(conf, j->c->config, j->name, &e);
    if (j->file && access(j->file, F_OK) == 0) {
        (void)err_set(&e, ERR_EXISTS, "%s exists already", j->file);
        (void)err_hint(&e, "choose another --name, or walsupctl remove %s first", j->name);
    }
    return e.code ? out_fail(j->c->json, &e) : 0;
}

/* Who may not steer the daemon should hear so before anything is written. */
static int meet_daemon(struct job *j)
{
    struct err e = {0};
    json_t *reply = NULL;
    int r = client_call(j->socket, "Status", json_pack("{s:i}", "limit", 0), ANSWER_MS, &reply, NULL, &e);
    if (r < 0 && e.code != ERR_NET)
        return out_fail(j->c->json, &e);
    j->running = r == 0;
    j->pid = json_integer_value(json_object_get(reply, "pid"));
    json_decref(reply);
    return 0;
}

static int carry_out(struct job *j)
{
    struct err e = {0};
    struct conf *conf = NULL;
    int status = meet_daemon(j);
    if (status)
        return status;
    cleanup_free char *text = util_printf("[db %s]\npath = %s\ntarget = %s\n%s", j->name, j->path, buf_str(&j->targets),
                                          buf_str(&j->settings));
    if (!dropin_judge(j->c, j->file, text, &conf, &status))
        return status;
    (void)conf_free(conf);
    if (dropin_write(j->file, text, &e) < 0)
        return out_fail(j->c->json, &e);
    if (!j->running)
        return say(j, "is replicated, once walsupd is started, to", NULL);
    json_t *reply = NULL;
    if (ctl_reload(j->c, j->socket, &reply, &status) < 0) {
        (void)unlink(j->file);
        (void)fprintf(stderr, "walsupctl: nothing was changed\n");
        return status;
    }
    bool restart = ctl_reload_restart(reply, j->name, &e);
    json_decref(reply);
    if (restart)
        return say(j, "not replicated", &e);
    if (j->glob)
        return say(j, "stands for databases that are replicated to", NULL);
    return await(j, &e) < 0 ? say(j, "not replicated", &e) : say(j, "is replicated to", NULL);
}

static bool take_option(struct job *j, int o, int *ret_status)
{
    const char *eq = strchr(optarg, '=');
    for (const char *p = optarg; *p; p++)
        if ((unsigned char)*p < ' ') {
            *ret_status = ctl_usage_error(j->c, "control character in '%s'", optarg);
            return false;
        }
    switch (o) {
    case 'n':
        free(j->name);
        j->name = util_strdup(optarg);
        break;
    case 't':
        buf_printf(&j->targets, "%s%s", j->targets.len ? ", " : "", optarg);
        break;
    case 'S':
        if (!eq || eq == optarg) {
            *ret_status = ctl_usage_error(j->c, "--set %s is not KEY=VALUE, as in retention=14d", optarg);
            return false;
        }
        buf_printf(&j->settings, "%.*s = %s\n", (int)(eq - optarg), optarg, eq + 1);
        break;
    default:
        if (!conf_duration(optarg, &j->timeout_ms)) {
            *ret_status = ctl_usage_error(j->c, "--timeout %s is not a duration, as in 30s", optarg);
            return false;
        }
    }
    return true;
}

static int run(struct job *j)
{
    static const struct option own[] = {{"name", required_argument, NULL, 'n'},
                                        {"target", required_argument, NULL, 't'},
                                        {"set", required_argument, NULL, 'S'},
                                        {"timeout", required_argument, NULL, 'T'},
                                        {NULL, 0, NULL, 0}};
    struct ctl *c = j->c;
    struct conf *conf = NULL;
    int o, status;
    while ((o = ctl_option(c, own, &status)) >= 0)
        if (!take_option(j, o, &status))
            return status;
    if (o == CTL_STOP || !ctl_operands(c, 1, 1, &status) || !ctl_load(c, &conf, &status))
        return status;
    j->path = ctl_absolute(c->argv[optind]);
    j->socket = util_strdup(c->socket ? c->socket : conf->socket);
    status = plan(j, conf);
    (void)conf_free(conf);
    return status ? status : carry_out(j);
}

int cmd_add(struct ctl *c)
{
    struct job j = {.c = c, .targets = BUF_INIT, .settings = BUF_INIT, .timeout_ms = TIMEOUT_MS};
    int status = run(&j);
    free(j.path);
    free(j.name);
    free(j.file);
    free(j.socket);
    buf_free(&j.targets);
    buf_free(&j.settings);
    return status;
}
