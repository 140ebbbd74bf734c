#include "daemon/os/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/store/needs.h"

/* linux/landlock.h, of which old headers have only a part */
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_add_rule 445
#define __NR_landlock_restrict_self 446
#endif
enum {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_ALL_OF_ABI_2 = (1 << 14) - 1,
    FS_TRUNCATE = 1 << 14, /* ABI 3 */
    FS_READ = FS_EXECUTE | FS_READ_FILE | FS_READ_DIR,
    FS_OF_FILES = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE |
                  FS_TRUNCATE, /* what a file that is no directory can have */
    NET_CONNECT_TCP = 1 << 1,
    RULE_PATH = 1,
    RULE_PORT = 2,
    VERSION = 1, /* flag */
};
struct ruleset {
    uint64_t fs, net;
};
struct __attribute__((packed)) path_rule {
    uint64_t access;
    int32_t fd;
};
struct port_rule {
    uint64_t access, port;
};

#define KEYS_BYTES (1u << 20)
#define ABI_MIN 2  /* before it nothing can be renamed from one directory to another */
#define ABI_PORTS 4

static const char *const system_read[] = {"/usr",
                                          "/lib",
                                          "/lib64",
                                          "/bin",
                                          "/sbin",
                                          "/etc",
                                          "/proc",
                                          "/sys",
                                          "/dev/urandom",
                                          "/run/systemd/resolve",
                                          "/run/NetworkManager",
                                          "/run/resolvconf",
                                          "/run/nscd",
                                          "/run/systemd/userdb"};
static const char *const system_write[] = {"/run/lock", "/dev/null"};

/* What is granted, or would have to be. */
struct place {
    char *path;
    bool write;
    const char *what; /* "db" and so on, and its name, for messages; NULL: the system's, or the environment's */
    const char *name;
};
struct places {
    struct place *item;
    size_t n;
    uint64_t port[64];
    size_t n_ports;
    bool any_port;
};

static struct places granted;
static bool confined, ports_confined;
static char outcome[200];

/* ---- what is needed ---------------------------------------------------------------------------- */

static void add(struct places *l, const char *path, bool write, const char *what, const char *name)
{
    if (!path || *path != '/')
        return;
    l->item = util_realloc(l->item, (l->n + 1) * sizeof *l->item);
    l->item[l->n++] = (struct place){util_strdup(path), write, what, name};
}

/* The directory of a file, since the file may be replaced by renaming; and that of what it is a link to. */
static void add_parent(struct places *l, const char *path, bool write, const char *what, const char *name)
{
    char real[PATH_MAX];
    const char *const each[] = {path, path && realpath(path, real) ? real : NULL};
    for (size_t i = 0; i < ARRAY_LEN(each); i++) {
        if (!each[i] || *each[i] != '/')
            continue;
        cleanup_free char *dir = needs_parent(each[i]);
        add(l, dir, write, what, name);
    }
}

/* Rules are about directories, not about their names: one that is replaced (a release that is switched to, data
 * that is moved away and restored) would be out of reach. So the one above is granted as well, never "/". */
static void widen(struct places *l)
{
    for (size_t i = 0, n = l->n; i < n; i++) {
        const struct place *d = &l->item[i];
        char *slash = d->what && !strcmp(d->what, "db") ? strrchr(d->path, '/') : NULL;
        if (!slash || slash == d->path)
            continue;
        cleanup_free char *above = strndup(d->path, (size_t)(slash - d->path));
        add(l, above, true, d->what, d->name);
    }
}

static void add_port(struct places *l, uint64_t port)
{
    if (l->n_ports == ARRAY_LEN(l->port))
        l->any_port = true;
    else
        l->port[l->n_ports++] = port;
}

static void add_endpoint(struct places *l, const char *endpoint)
{
    const char *host = endpoint ? strstr(endpoint, "://") : NULL, *colon = host ? strrchr(host + 3, ':') : NULL;
    if (!host)
        return;
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    if (digits && (!colon[1 + digits] || colon[1 + digits] == '/')) /* Supabase's has a path */
        add_port(l, strtoull(colon + 1, NULL, 10));
    else
        add_port(l, strncmp(endpoint, "http:", 5) ? 443 : 80);
}

/* Ports, which the environment may add to as well. */
static void add_ports(struct places *l, const struct conf *conf)
{
    static const char *const host[] = {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                                       "AWS_EC2_METADATA_SERVICE_ENDPOINT"};
    for (size_t i = 0; i < conf->n_targets; i++) {
        add_endpoint(l, conf->target[i].type == CONF_S3 ? conf->target[i].endpoint : NULL);
        if (conf->target[i].instance_role)
            add_port(l, 80);
    }
    add_port(l, 53);  /* long answers of a name server */
    add_port(l, 443); /* what is added later is there most likely */
    for (size_t i = 0; i < ARRAY_LEN(host); i++)
        l->any_port = l->any_port || getenv(host[i]);
}

/* A file is granted with its directory, since it may be replaced by renaming. */
static void add_need(struct places *l, const struct need *need)
{
    const char *what = strcmp(need->what, "environment") != 0 ? need->what : NULL;
    switch (need->kind) {
    case NEED_READ_FILE:
        add_parent(l, need->path, false, what, need->name);
        break;
    case NEED_WRITE_BESIDE:
        add_parent(l, need->path, true, what, need->name);
        break;
    case NEED_READ_DIR:
    case NEED_WRITE_DIR:
        add(l, need->path, need->kind == NEED_WRITE_DIR, what, need->name);
        break;
    case NEED_RUN: /* then nothing is confined */
        break;
    }
}

static void collect(const struct conf *conf, const char *conf_path, struct places *l)
{
    char exe[PATH_MAX];
    cleanup_free char *absolute = realpath(conf_path, NULL);
    for (size_t i = 0; i < ARRAY_LEN(system_read); i++)
        add(l, system_read[i], false, NULL, NULL);
    for (size_t i = 0; i < ARRAY_LEN(system_write); i++)
        add(l, system_write[i], true, NULL, NULL);
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[MAX(n, (ssize_t)0)] = '\0';
    add_parent(l, exe, false, NULL, NULL); /* walsupctl lies beside it */
    struct needs need = {.item = NULL};
    needs_collect(conf, absolute, &need);
    needs_environment(&need);
    for (size_t i = 0; i < need.n; i++)
        add_need(l, &need.item[i]);
    needs_done(&need);
    add_ports(l, conf);
}

static void places_done(struct places *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->item[i].path);
    free(l->item);
    *l = (struct places){.item = NULL};
}

static bool names_program(const char *path)
{
    cleanup_buf struct buf b = BUF_INIT;
    struct err e;
    return path && *path == '/' && fsx_read(path, KEYS_BYTES, &b, &e) == 0 && strstr(buf_str(&b), "credential_process");
}

/* Why it cannot be confined; NULL. What other people's programs need, nobody knows. */
static const char *runs_programs(const struct conf *conf)
{
    static const char in_file[] = "a file of keys names a credential_process, and what that needs is not known";
    if (conf->on_state_change)
        return "an on-state-change is configured, and what that program needs is not known";
    const char *home = getenv("HOME");
    cleanup_free char *aws = util_printf("%s/.aws/credentials", home ? home : "");
    if (names_program(getenv("AWS_SHARED_CREDENTIALS_FILE")) || names_program(aws))
        return in_file;
    for (size_t i = 0; i < conf->n_targets; i++)
        if (names_program(conf->target[i].credentials_file))
            return in_file;
    for (size_t i = 0; i < conf->n_targets; i++)
        if (conf->target[i].credential_process)
            return "a credential-process is configured, and what that needs is not known";
    return NULL;
}

/* ---- giving up the rest ------------------------------------------------------------------------ */

/* A directory that is not there yet: the one in which it will be made. Never the root of all. */
static int open_nearest(char *path)
{
    for (;;) {
        int fd = open(path, O_PATH | O_CLOEXEC);
        if (fd >= 0 || errno != ENOENT)
            return fd;
        char *slash = strrchr(path, '/');
        if (!slash || slash == path)
            return -1;
        *slash = '\0';
    }
}

static int grant_path(int ruleset, uint64_t handled, struct place *need)
{
    struct stat st;
    cleanup_close int fd = need->what ? open_nearest(need->path) : open(need->path, O_PATH | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return 0; /* it cannot be used anyway */
    struct path_rule r = {.access = need->write ? handled : FS_READ, .fd = fd};
    if (!S_ISDIR(st.st_mode))
        r.access &= FS_OF_FILES;
    r.access &= handled;
    return (int)syscall(__NR_landlock_add_rule, ruleset, RULE_PATH, &r, 0);
}

static int grant(int ruleset, const struct ruleset *handled, struct places *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (grant_path(ruleset, handled->fs, &l->item[i]) < 0)
            return -1;
    for (size_t i = 0; handled->net && i < l->n_ports; i++) {
        const struct port_rule r = {.access = NET_CONNECT_TCP, .port = l->port[i]};
        if (syscall(__NR_landlock_add_rule, ruleset, RULE_PORT, &r, 0) < 0)
            return -1;
    }
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(__NR_landlock_restrict_self, ruleset, 0) < 0 ? -1 : 0;
}

static void not_confined(const char *why)
{
    (void)snprintf(outcome, sizeof outcome, "not confined by Landlock: %s", why);
}

void confine_apply(const struct conf *conf, const char *conf_path)
{
    const char *programs = runs_programs(conf);
    if (!conf->landlock || programs) {
        not_confined(programs ? programs : "landlock = off");
        return;
    }
    long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, VERSION);
    if (abi < ABI_MIN) {
        not_confined(abi < 0 ? "the kernel has none, or a filter of system calls forbids it"
                             : "the kernel's is too old");
        return;
    }
    collect(conf, conf_path, &granted);
    widen(&granted);
    struct ruleset handled = {.fs = FS_ALL_OF_ABI_2};
    if (abi >= 3)
        handled.fs |= FS_TRUNCATE;
    if (abi >= ABI_PORTS && !granted.any_port)
        handled.net = NET_CONNECT_TCP;
    /* older kernels know the first member only */
    size_t size = abi >= ABI_PORTS ? sizeof handled : sizeof handled.fs;
    cleanup_close int ruleset = (int)syscall(__NR_landlock_create_ruleset, &handled, size, 0);
    if (ruleset < 0 || grant(ruleset, &handled, &granted) < 0) {
        not_confined(strerror(errno));
        places_done(&granted);
        return;
    }
    confined = true;
    ports_confined = handled.net != 0;
    (void)setenv("SQLITE_TMPDIR", conf->state_dir, 1);
    (void)snprintf(outcome, sizeof outcome, "confined by Landlock (ABI %ld) to what the configuration needs%s", abi,
                   ports_confined ? ", and to the ports of its targets" : "");
}

void confine_tell(void)
{
    log_line(LOG_INFO, "%s", outcome);
}

/* ---- after a reload ---------------------------------------------------------------------------- */

static bool has(const struct place *need)
{
    for (size_t i = 0; i < granted.n; i++)
        if (needs_below(need->path, granted.item[i].path) && (granted.item[i].write || !need->write))
            return true;
    return false;
}

void confine_missing(const struct conf *conf, const char *conf_path, struct buf *out)
{
    struct places l = {.item = NULL};
    if (!confined)
        return;
    collect(conf, conf_path, &l);
    for (size_t i = 0; i < l.n; i++)
        if (l.item[i].what && !has(&l.item[i]))
            buf_printf(out, "%s%s%s needs %s, which walsupd gave up when it started (landlock): restart it\n", l.item[i].what,
                       *l.item[i].name ? " " : "", l.item[i].name, l.item[i].path);
    for (size_t i = 0; ports_confined && i < l.n_ports; i++) {
        bool known = false;
        for (size_t k = 0; k < granted.n_ports; k++)
            known = known || granted.port[k] == l.port[i];
        if (!known)
            buf_printf(out,
                       "a target needs port %" PRIu64
                       ", which walsupd gave up when it started (landlock): restart it\n",
                       l.port[i]);
    }
    const char *programs = runs_programs(conf);
    if (programs)
        buf_printf(out, "%s, while walsupd is confined (landlock): restart it\n", programs);
    places_done(&l);
}
