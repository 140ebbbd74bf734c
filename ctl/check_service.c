/* check, as the service will run: with the unit's user, capabilities, environment and credentials; and what its sandbox
 * closes. The sandbox is judged by its rules (unit_paths.c), and not made, so that the line can be named. */
#include "ctl/service_int.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/base/env.h"
#include "common/base/fsx.h"
#include "common/store/cred.h"

/* "walsupd", as people write it for systemctl */
static char *unit_short(const struct unit *u)
{
    size_t n = strlen(u->name);
    bool service = n > 8 && !strcmp(u->name + n - 8, ".service");
    return util_strndup(u->name, service ? n - 8 : n);
}

static void drop_privileges(const struct service *s)
{
    static const struct {
        const char *name;
        unsigned bit;
    } kept[] = {{"CAP_CHOWN", CAP_CHOWN},
                {"CAP_DAC_OVERRIDE", CAP_DAC_OVERRIDE},
                {"CAP_DAC_READ_SEARCH", CAP_DAC_READ_SEARCH},
                {"CAP_FOWNER", CAP_FOWNER},
                {"CAP_NET_BIND_SERVICE", CAP_NET_BIND_SERVICE}};
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct has[2] = {{0}}, caps[2] = {{0}};
    (void)syscall(SYS_capget, &head, has);
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        if (unit_capable(s->unit, kept[i].name))
            caps[0].permitted |= (1u << kept[i].bit) & has[0].permitted;
    caps[0].effective = caps[0].permitted;
    (void)prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    if (setgroups((size_t)s->n_groups, s->group) < 0 || setresgid(s->gid, s->gid, s->gid) < 0 ||
        setresuid(s->uid, s->uid, s->uid) < 0 || syscall(SYS_capset, &head, caps) < 0)
        abort(); /* the rest would be judged, and written, as root */
}

/* ---- beginning and end ------------------------------------------------------------------------ */

struct service *service_new(struct unit *unit)
{
    struct service *s = util_zalloc(sizeof *s);
    s->unit = unit;
    s->view = unit_view_new(unit);
    service_env_keys(s);
    service_env_user(s);
    service_env_take(s);
    service_env_credentials(s);
    return s;
}

static int remove_credential(const char *entry, void *arg)
{
    cleanup_free char *path = util_printf("%s/%s", (const char *)arg, entry);
    (void)unlink(path);
    return 0;
}

void service_clean(struct service *s)
{
    struct err ignored;
    if (!s->credentials)
        return;
    (void)fsx_list(s->credentials, remove_credential, s->credentials, &ignored);
    (void)rmdir(s->credentials);
}

struct service *service_free(struct service *s)
{
    if (!s)
        return NULL;
    service_env_done(s);
    free(s->credentials);
    free(s->user);
    free(s->home);
    free(s->shell);
    free(s->shell_keys);
    (void)unit_view_free(s->view);
    (void)unit_free(s->unit);
    free(s);
    return NULL;
}

static bool of_the_output(const char *variable)
{
    static const char *const kept[] = {"TERM=", "NO_COLOR=", "COLUMNS=", "LANG=", "LC_", "WALSUP_TEST_"};
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        if (!strncmp(variable, kept[i], strlen(kept[i])))
            return true;
    return false;
}

void service_become(struct service *s)
{
    for (char **at = environ; at && *at;) {
        cleanup_free char *name = util_strndup(*at, strcspn(*at, "="));
        if (of_the_output(*at) || !*name)
            at++;
        else
            (void)unsetenv(name); /* moves the next one here */
    }
    for (size_t i = 0; i < s->n_env; i++) {
        char *eq = strchr(s->env[i], '=');
        *eq = '\0';
        (void)setenv(s->env[i], eq + 1, 1);
        *eq = '=';
    }
    env_forget();
    cred_take_environment();
    if (s->drop)
        drop_privileges(s);
}

/* ---- what it reaches -------------------------------------------------------------------------- */

/* "ProtectHome=yes", "InaccessiblePaths=/root" */
static char *rule_text(const struct unit_line *l, const char *where)
{
    bool list = strstr(l->key, "Paths") || !strcmp(l->key, "TemporaryFileSystem");
    return util_printf("%s=%s", l->key, list ? where : l->value);
}

static char *sandbox_command(const struct check *k)
{
    cleanup_free char *unit = unit_short(k->service->unit);
    bool plain = !strcmp(k->config, CTL_DEFAULT_CONFIG);
    cleanup_free char *file = plain ? util_strdup("") : util_printf(" -c %s", k->config);
    return util_printf("walsupctl%s sandbox --install && systemctl restart %s", file, unit);
}

bool service_reaches(struct check *k, const char *step, const char *path, bool write)
{
    const struct service *s = k->service;
    const struct unit_line *l = NULL;
    const char *where = NULL;
    if (!s)
        return true;
    enum unit_sight sight = unit_look(s->view, path, &l, &where);
    if (!l || sight == UNIT_SEES || (sight == UNIT_READ_ONLY && !write))
        return true;
    cleanup_free char *rule = rule_text(l, where), *real = unit_real(path);
    cleanup_free char *same = !strcmp(real, path) ? util_strdup(path) : util_printf("%s, which is %s", path, real);
    cleanup_free char *text = NULL, *hint = sandbox_command(k);
    bool there = access(path, F_OK) == 0;
    if (sight == UNIT_READ_ONLY && !there && strcmp(l->key, "ProtectSystem") == 0)
        text = util_printf("%s may not write %s, which does not exist (%s)", s->unit->name, same, rule);
    else if (sight == UNIT_READ_ONLY)
        text = util_printf("%s may not write %s (%s)", s->unit->name, same, rule);
    else if (sight == UNIT_EMPTY)
        text = util_printf("%s does not see %s, since it has an empty %s of its own (%s)", s->unit->name, same, where,
                           rule);
    else
        text = util_printf("%s does not see %s (%s)", s->unit->name, same, rule);
    if (sight == UNIT_READ_ONLY && !there) {
        char *made = util_printf("mkdir -p %s && %s", path, hint);
        free(hint);
        hint = made;
    } else if (sight != UNIT_READ_ONLY && needs_below(where, real)) {
        free(hint);
        hint = util_printf("move it to a directory of its own, as below /srv: opening all of %s is not a good idea", real);
    }
    check_step(k, step, FAILED, text, hint);
    return false;
}

/* The first name server of libc that the unit keeps away, malloc'ed. NULL: none, or systemd-resolved is asked by a socket
 * of its own. */
static char *denied_name_server(const struct unit *u, const struct unit_line **ret_line)
{
    cleanup_buf struct buf text = BUF_INIT;
    struct err ignored;
    if (access("/run/systemd/resolve/io.systemd.Resolve", F_OK) == 0 ||
        fsx_read("/etc/resolv.conf", 1u << 16, &text, &ignored) < 0)
        return NULL;
    for (const char *p = buf_str(&text); *p; p += strcspn(p, "\n"), p += *p == '\n') {
        const char *at = p + strcspn(p, " \t\n"), *from = at + strspn(at, " \t");
        cleanup_free char *server = util_strndup(from, strcspn(from, " \t\r\n"));
        if (!strncmp(p, "nameserver", 10) && at == p + 10 && *server && !unit_admits(u, server, ret_line))
            return TAKE_PTR(server);
    }
    return NULL;
}

static bool has_family(const struct unit *u, bool six)
{
    return unit_lists(u, "RestrictAddressFamilies", six ? "AF_INET6" : "AF_INET", true);
}

/* A name may have an address of the other family too, which is what the service then takes. Where
 * the unit has neither, line_network() has said so. */
static bool family_passes(struct check *k, const char *address, bool numeric)
{
    bool six = *address == '[';
    const char *family = six ? "AF_INET6" : "AF_INET";
    if (has_family(k->service->unit, six) || !has_family(k->service->unit, !six))
        return true;
    cleanup_free char *text =
        util_printf("the unit's RestrictAddressFamilies= lacks %s, by which %s was reached", family,
                    address);
    cleanup_free char *hint = util_printf("add RestrictAddressFamilies=%s", family);
    check_step(k, "network", numeric ? FAILED : WARNING, text, hint);
    return !numeric;
}

bool service_connects(struct check *k, const char *address, const char *name)
{
    const struct service *s = k->service;
    const struct unit_line *l = NULL;
    if (!s)
        return true;
    cleanup_free char *unit = unit_short(s->unit);
    bool numeric = *name == '[' || !name[strspn(name, "0123456789.")];
    cleanup_free char *server = numeric ? NULL : denied_name_server(s->unit, &l);
    if (server) {
        cleanup_free char *text = util_printf("%s may not ask the name server %s (%s=%s), so %s may not be found",
                                              s->unit->name, server, l->key, l->value, name);
        cleanup_free char *hint = util_printf("systemctl edit %s, and below [Service] write IPAddressAllow=%s", unit, server);
        check_step(k, "network", WARNING, text, hint);
    }
    if (!family_passes(k, address, numeric))
        return false;
    if (unit_admits(s->unit, address, &l))
        return true;
    size_t n = *address == '[' ? strcspn(address, "]") - 1 : strcspn(address, ":");
    cleanup_free char *plain = util_printf("%.*s", (int)n, address + (*address == '['));
    cleanup_free char *text = util_printf("%s may not talk to %s (%s=%s in %s)", s->unit->name, plain, l->key, l->value,
                                          l->file);
    cleanup_free char *hint = util_printf("systemctl edit %s, and below [Service] write IPAddressAllow=%s, or the network "
                                          "that the server's addresses are in", unit, plain);
    check_step(k, "network", FAILED, text, hint);
    return false;
}

void service_denied(const struct check *k, const char *path, bool write, struct err *e)
{
    const struct service *s = k->service;
    struct stat st;
    if (!s || !s->user || (geteuid() != s->uid && !s->drop)) {
        (void)err_hint(e, "run the check as the user of the daemon or as root");
        return;
    }
    bool dir = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    if (write || dir)
        (void)err_hint(e, "%s runs as %s without CAP_DAC_OVERRIDE: setfacl -m u:%s:%s %s", s->unit->name, s->user, s->user,
                       dir ? "rwx" : "rw", path);
    else
        (void)err_hint(e, "%s runs as %s without CAP_DAC_OVERRIDE: chown root:walsup %s && chmod 640 %s", s->unit->name,
                       s->user, path, path);
}

/* As it is called, and as the service can open it. What is not there is said by whoever needs it. */
static bool reads(struct check *k, const struct need *n)
{
    struct err e;
    bool dir = n->kind == NEED_READ_DIR;
    if (!service_reaches(k, n->key, n->path, false))
        return false;
    if (faccessat(AT_FDCWD, n->path, n->kind == NEED_RUN ? X_OK : dir ? R_OK | X_OK : R_OK, AT_EACCESS) == 0 ||
        (errno != EACCES && errno != EPERM))
        return true;
    (void)err_sys(&e, errno, "%s = %s", n->key, n->path);
    service_denied(k, n->path, false, &e);
    check_step_err(k, n->key, &e);
    return false;
}

bool service_reads(struct check *k, const char *what, const char *name)
{
    bool all = true;
    for (size_t i = 0; k->service && i < k->needs.n; i++) {
        const struct need *n = &k->needs.item[i];
        if (strcmp(n->what, what) != 0 || strcmp(n->name, name) != 0)
            continue;
        if (!strcmp(what, "include") && access(n->path, F_OK) < 0 && errno == ENOENT)
            continue; /* nothing is included */
        if (n->kind == NEED_READ_FILE || n->kind == NEED_READ_DIR || n->kind == NEED_RUN)
            all = reads(k, n) && all;
    }
    return all;
}

void service_no_keys(const struct check *k, struct err *e)
{
    const struct service *s = k->service;
    if (!s || !s->shell_keys)
        return;
    const struct unit_line *l = unit_get(s->unit, "EnvironmentFile");
    cleanup_free char *unit = unit_short(s->unit);
    bool file = *s->shell_keys == '/' || !strcmp(s->shell_keys, "AWS_SHARED_CREDENTIALS_FILE");
    if (file)
        (void)err_set(e, e->code, "%s has no keys: those of %.200s are for your shell alone", s->unit->name, s->shell_keys);
    else
        (void)err_set(e, e->code, "%s has no keys: %s is set in the environment of your shell alone", s->unit->name,
                      s->shell_keys);
    if (file)
        (void)err_hint(e, "copy the file to /etc/walsup/credentials (root:walsup, mode 640), and write credentials-file = "
                          "/etc/walsup/credentials into the target's section");
    else if (l)
        (void)err_hint(e, "write them as lines NAME=VALUE to %s (chmod 600), which the unit reads when it starts",
                       l->value + (*l->value == '-'));
    else
        (void)err_hint(e, "write them as lines NAME=VALUE to /etc/walsup.env (chmod 600); systemctl edit %s, and below "
                          "[Service] write EnvironmentFile=/etc/walsup.env", unit);
}

/* ---- its own lines ---------------------------------------------------------------------------- */

/* The manager runs what it has read, which may be older than the files. */
static bool needs_daemon_reload(const char *unit)
{
    cleanup_free char *command = util_printf("systemctl show -p NeedDaemonReload --value -- '%s' 2>/dev/null", unit);
    char answer[8] = "";
    if (strchr(unit, '\'') || access("/run/systemd/system", F_OK) < 0)
        return false;
    FILE *f = popen(command, "re"); /* NOLINT: the name is of a unit that exists */
    if (f && !fgets(answer, sizeof answer, f))
        answer[0] = '\0';
    if (f)
        (void)pclose(f);
    return !strncmp(answer, "yes", 3);
}

static void line_unit(struct check *k)
{
    const struct service *s = k->service;
    const struct unit *u = s->unit;
    const char *missing;
    const struct unit_line *l = unit_view_missing(s->view, &missing);
    size_t n = u->n_files - 1;
    cleanup_free char *text = n ? util_printf("%s, and %zu drop-in%s", u->file[0], n, PLURAL(n)) : util_strdup(u->file[0]);
    if (l) {
        cleanup_free char *why = util_printf("%s has %s=%s (%s:%u), which does not exist, so it cannot start (status "
                                             "226/NAMESPACE)", u->name, l->key, missing, l->file, l->line);
        cleanup_free char *hint = util_printf("mkdir -p %s, or write %s=-%s", missing, l->key, missing);
        check_step(k, "unit", FAILED, why, hint);
    } else if (needs_daemon_reload(u->name)) {
        check_step(k, "unit", WARNING, "its files have changed since systemd read them", "systemctl daemon-reload");
    } else {
        check_step(k, "unit", OK, text, "");
    }
}

/* What the service reads in a root of its own is another file; what is not there at all is said by those who need it. */
static void line_root(struct check *k)
{
    const struct unit *u = k->service->unit;
    const struct unit_line *l = unit_root(u), *start = unit_get(u, "ExecStart");
    if (unit_get(u, "RootImage"))
        check_step(k, "root", WARNING, "the unit runs in a disk image (RootImage=), and what is in it is not judged",
                   "run walsupctl check --unit none in the image");
    if (!l)
        return;
    const char *root = l->value + (*l->value == '-');
    char *program = NULL;
    if (access(root, F_OK) < 0) {
        cleanup_free char *text = util_printf("%s has RootDirectory=%s (%s:%u), which does not exist", u->name, l->value,
                                              l->file, l->line);
        check_step(k, "root", FAILED, text, "take that line out of the unit, or create the root directory");
        return;
    }
    if (start && unit_word(start->value + strspn(start->value, "@-:+!"), &program) && *program == '/' &&
        unit_look(k->service->view, program, NULL, NULL) == UNIT_HIDDEN) {
        cleanup_free char *text = util_printf("there is no %s in RootDirectory=%s, so the unit cannot start (status 203/EXEC)",
                                              program, l->value);
        cleanup_free char *hint = util_printf("install walsup there, or add BindReadOnlyPaths=/usr to the unit");
        check_step(k, "root", FAILED, text, hint);
    } else if (!unit_brings(k->service->view, k->config) && unit_look(k->service->view, k->config, NULL, NULL) == UNIT_SEES) {
        cleanup_free char *text = util_printf("the unit has RootDirectory=%s and reads %s%s, which was not judged", l->value,
                                              root, k->config);
        cleanup_free char *hint = util_printf("chroot %s walsupctl -c %s check --unit none", root, k->config);
        check_step(k, "root", WARNING, text, hint);
    } else {
        check_step(k, "root", OK, root, "");
    }
    free(program);
}

static void line_network(struct check *k, const struct conf *conf)
{
    const struct unit *u = k->service->unit;
    bool remote = false;
    for (size_t i = 0; i < conf->n_targets; i++)
        remote = remote || conf->target[i].type != CONF_FILE;
    if (remote && unit_is(u, "PrivateNetwork", "yes"))
        check_step(k, "network", FAILED, "the unit has PrivateNetwork=yes, so no server can be reached",
                   "take that line out of the drop-in");
    else if (remote && !has_family(u, false) && !has_family(u, true))
        check_step(k, "network", FAILED,
                   "the unit's RestrictAddressFamilies= lacks AF_INET and AF_INET6",
                   "add RestrictAddressFamilies=AF_INET AF_INET6");
    const char *colon = conf->metrics_listen ? strrchr(conf->metrics_listen, ':') : NULL;
    unsigned long port = colon ? strtoul(colon + 1, NULL, 10) : 0;
    if (port && port < 1024 && !k->service->as_root && !unit_capable(u, "CAP_NET_BIND_SERVICE")) {
        cleanup_free char *text = util_printf("metrics-listen = %s: a port below 1024 needs a capability that the unit "
                                              "does not have", conf->metrics_listen);
        check_step(k, "metrics", FAILED, text, "take another port, or add AmbientCapabilities=CAP_NET_BIND_SERVICE and "
                                               "the same to CapabilityBoundingSet= in a drop-in");
    }
}

static void line_paths(struct check *k)
{
    static const char *const what[] = {"configuration", "include", "environment", "walsup"};
    bool all = true;
    for (size_t i = 0; i < ARRAY_LEN(what); i++)
        all = service_reads(k, what[i], "") && all;
    for (size_t i = 0; i < k->needs.n; i++) {
        const struct need *n = &k->needs.item[i];
        cleanup_free char *dir = needs_parent(n->path);
        if (!strcmp(n->what, "state-dir"))
            all = service_reaches(k, n->key, n->path, true) && all;
        else if (!strcmp(n->what, "socket"))
            all = service_reaches(k, n->key, dir, true) && all;
    }
    if (all)
        check_step(k, "files", OK, "those of [walsup] are within its reach", "");
}

static const char *user_name(const struct service *s)
{
    const struct unit_line *l = unit_get(s->unit, "User");
    return s->user ? s->user : l ? l->value : s->as_root ? "root" : "dynamic";
}

json_t *service_check(struct check *k, const struct conf *conf)
{
    const struct service *s = k->service;
    unsigned before = k->failed;
    k->steps = json_array();
    if (!k->c->json)
        printf("\nservice %s, as user %s\n", s->unit->name, user_name(s));
    line_unit(k);
    line_root(k);
    for (size_t i = 0; i < s->n_found; i++)
        check_step(k, s->found[i].step, s->found[i].v, s->found[i].text, s->found[i].hint);
    if (!conf) {
        struct err e;
        (void)err_set(&e, ERR_PERM, "user %s cannot read %s", s->user, k->config);
        (void)err_hint(&e, "chgrp %s %s && chmod 640 %s", s->user, k->config, k->config);
        check_step_err(k, "configuration", &e);
    } else {
        line_network(k, conf);
        line_paths(k);
    }
    return json_pack("{s:s, s:s, s:b, s:o}", "unit", s->unit->name, "user", user_name(s), "ok",
                     k->failed == before, "steps", k->steps);
}
