#include "ctl/unit.h"

#include <ctype.h>
#include <dirent.h>
#include <sys/stat.h>

#include "common/base/fsx.h"

#define MAX_FILE (1u << 20)

/* systemd.unit(5), "Unit File Load Path" of the system manager, the first wins */
static const char *const load_path[] = {
    "/etc/systemd/system.control",  "/run/systemd/system.control", "/run/systemd/transient",
    "/run/systemd/generator.early", "/etc/systemd/system",         "/etc/systemd/system.attached",
    "/run/systemd/system",          "/run/systemd/system.attached", "/run/systemd/generator",
    "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",    "/lib/systemd/system",
    "/run/systemd/generator.late"};

static const char shipped[] = "User=walsup\n"
                              "AmbientCapabilities=CAP_DAC_OVERRIDE CAP_CHOWN\n"
                              "CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_CHOWN\n"
                              "StateDirectory=walsup\n"
                              "RuntimeDirectory=walsup\n"
                              "ProtectSystem=strict\n"
                              "ReadWritePaths=-/run/lock -/var/lib -/srv -/opt -/var/www -/var/backups -/backup\n"
                              "InaccessiblePaths=-/etc/shadow -/etc/shadow- -/etc/gshadow -/etc/gshadow- -/etc/ssh\n"
                              "InaccessiblePaths=-/etc/ssl/private -/root -/boot -/var/lib/private -/etc/sudoers\n"
                              "InaccessiblePaths=-/etc/sudoers.d -/var/lib/systemd -/etc/security/opasswd\n"
                              "InaccessiblePaths=-/etc/krb5.keytab -/etc/wireguard -/etc/letsencrypt -/var/lib/sss\n"
                              "ProtectHome=yes\n"
                              "PrivateTmp=yes\n";

/* ---- lines ------------------------------------------------------------------------------------ */

/* %i of walsupd@alice.service is "alice"; NULL: it has none */
static char *instance_of(const char *name)
{
    const char *at = strchr(name, '@'), *dot = strrchr(name, '.');
    return at && dot && dot > at ? util_strndup(at + 1, (size_t)(dot - at - 1)) : NULL;
}

static char *expanded(const struct unit *u, const char *value)
{
    cleanup_buf struct buf b = BUF_INIT;
    cleanup_free char *instance = instance_of(u->name);
    const char *dot = strrchr(u->name, '.');
    for (const char *p = value; *p; p++) {
        if (*p != '%' || !p[1]) {
            buf_add(&b, p, 1);
            continue;
        }
        switch (*++p) {
        case '%':
            buf_add_str(&b, "%");
            break;
        case 'i':
        case 'I':
            buf_add_str(&b, instance ? instance : "");
            break;
        case 'n':
            buf_add_str(&b, u->name);
            break;
        case 'N':
            buf_add(&b, u->name, dot ? (size_t)(dot - u->name) : strlen(u->name));
            break;
        case 'p':
            buf_add(&b, u->name, strcspn(u->name, "@."));
            break;
        case 't':
            buf_add_str(&b, "/run");
            break;
        case 'S':
            buf_add_str(&b, "/var/lib");
            break;
        case 'E':
            buf_add_str(&b, "/etc");
            break;
        case 'h':
            buf_add_str(&b, "/root");
            break;
        default:
            buf_add(&b, p - 1, 2);
        }
    }
    return util_strdup(buf_str(&b));
}

static void take_line(struct unit *u, const char *file, unsigned number, char *text)
{
    char *eq = strchr(text, '=');
    if (!eq)
        return;
    *eq = '\0';
    for (char *end = eq; end > text && isspace((unsigned char)end[-1]);)
        *--end = '\0';
    char *value = eq + 1 + strspn(eq + 1, " \t");
    for (char *end = value + strlen(value); end > value && isspace((unsigned char)end[-1]);)
        *--end = '\0';
    if ((u->n_lines & (u->n_lines - 1)) == 0)
        u->line = util_realloc(u->line, (u->n_lines ? 2 * u->n_lines : 1) * sizeof *u->line);
    u->line[u->n_lines++] = (struct unit_line){util_strdup(text), expanded(u, value), file, number};
}

/* A line that ends in a backslash goes on in the next that is not a comment. */
static void take_text(struct unit *u, const char *file, const char *text, bool in_service)
{
    cleanup_buf struct buf whole = BUF_INIT;
    unsigned number = 0, first = 0;
    for (const char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n') {
        size_t n = strcspn(p, "\r\n");
        const char *q = p + strspn(p, " \t");
        number++;
        if (*q == '#' || *q == ';')
            continue;
        if (!whole.len)
            first = number;
        bool more = n && p[n - 1] == '\\';
        buf_add(&whole, p, more ? n - 1 : n);
        if (more) {
            buf_add_str(&whole, " ");
            continue;
        }
        cleanup_free char *line = util_strdup(buf_str(&whole));
        buf_consume(&whole, whole.len);
        char *start = line + strspn(line, " \t");
        if (*start == '[')
            in_service = !strncmp(start, "[Service]", 9);
        else if (in_service)
            take_line(u, file, first, start);
    }
}

static int take_file(struct unit *u, const char *path, struct err *e)
{
    cleanup_buf struct buf text = BUF_INIT;
    if (fsx_read(path, MAX_FILE, &text, e) < 0)
        return -(int)e->code;
    u->file = util_realloc(u->file, (u->n_files + 1) * sizeof *u->file);
    u->file[u->n_files++] = util_strdup(path);
    take_text(u, u->file[u->n_files - 1], buf_str(&text), false);
    return 0;
}

/* ---- drop-ins --------------------------------------------------------------------------------- */

/* By name: of two with one name, that of the directory that comes first. */
struct dropins {
    char **name, **path;
    size_t n;
};

static void add_dropins(struct dropins *l, const char *dir, const char *without)
{
    DIR *d = opendir(dir);
    for (const struct dirent *ent; d && (ent = readdir(d));) {
        size_t n = strlen(ent->d_name), at = 0;
        if (n < 6 || strcmp(ent->d_name + n - 5, ".conf") != 0 || (without && !strcmp(ent->d_name, without)))
            continue;
        while (at < l->n && strcmp(l->name[at], ent->d_name) < 0)
            at++;
        if (at < l->n && !strcmp(l->name[at], ent->d_name))
            continue;
        l->name = util_realloc(l->name, (l->n + 1) * sizeof *l->name);
        l->path = util_realloc(l->path, (l->n + 1) * sizeof *l->path);
        memmove(l->name + at + 1, l->name + at, (l->n - at) * sizeof *l->name);
        memmove(l->path + at + 1, l->path + at, (l->n - at) * sizeof *l->path);
        l->name[at] = util_strdup(ent->d_name);
        l->path[at] = util_printf("%s/%s", dir, ent->d_name);
        l->n++;
    }
    if (d)
        (void)closedir(d);
}

/* walsupd@alice.service: also what is for walsupd@.service, and for every service. */
static void find_dropins(const char *name, struct dropins *l, const char *without)
{
    cleanup_free char *template = util_strdup(name);
    char *at = strchr(template, '@'), *dot = strrchr(name, '.');
    if (at && dot)
        (void)strcpy(at + 1, dot); /* NOLINT: what follows '@' ends with it */
    const char *const each[] = {name, strcmp(template, name) != 0 ? template : NULL, "service"};
    for (size_t k = 0; k < ARRAY_LEN(each); k++)
        for (size_t i = 0; each[k] && i < ARRAY_LEN(load_path); i++) {
            cleanup_free char *dir = util_printf("%s/%s.d", load_path[i], each[k]);
            add_dropins(l, dir, without);
        }
}

static int take_dropins(struct unit *u, struct dropins *l, struct err *e)
{
    int r = 0;
    for (size_t i = 0; i < l->n; i++) {
        if (r == 0)
            r = take_file(u, l->path[i], e); /* of /dev/null there is nothing */
        free(l->name[i]);
        free(l->path[i]);
    }
    free(l->name);
    free(l->path);
    return r;
}

/* ---- units ------------------------------------------------------------------------------------ */

static char *find_file(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(load_path); i++) {
        char *path = util_printf("%s/%s", load_path[i], name);
        if (access(path, F_OK) == 0)
            return path;
        free(path);
    }
    return NULL;
}

static char *find_unit(const char *name)
{
    char *path = find_file(name);
    const char *at = strchr(name, '@'), *dot = strrchr(name, '.');
    if (path || !at || !dot)
        return path;
    cleanup_free char *template = util_printf("%.*s%s", (int)(at + 1 - name), name, dot);
    return find_file(template);
}

int unit_load(const char *name, const char *without, struct unit **ret, struct err *e)
{
    const char *slash = strrchr(name, '/');
    cleanup_free char *full = util_printf("%s%s", name, strchr(slash ? slash : name, '.') ? "" : ".service");
    cleanup_free char *path = slash ? util_strdup(full) : find_unit(full);
    struct dropins l = {.n = 0};
    struct stat st;
    if (!path) {
        (void)err_set(e, ERR_NOTFOUND, "there is no unit %s", full);
        return err_hint(e, "systemctl list-unit-files 'walsupd*' lists those that are installed");
    }
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        (void)err_set(e, ERR_EXISTS, "the unit %s is masked", full);
        return err_hint(e, "systemctl unmask %s", full);
    }
    struct unit *u = util_zalloc(sizeof *u);
    u->name = util_strdup(slash ? strrchr(full, '/') + 1 : full);
    if (slash) {
        cleanup_free char *dir = util_printf("%s.d", full);
        add_dropins(&l, dir, without);
    } else {
        find_dropins(full, &l, without);
    }
    struct err ignored;
    int r = take_file(u, path, e);
    if (r == 0)
        r = take_dropins(u, &l, e);
    else
        (void)take_dropins(u, &l, &ignored);
    if (r < 0) {
        (void)unit_free(u);
        return r;
    }
    *ret = u;
    return 0;
}

struct unit *unit_shipped(void)
{
    struct unit *u = util_zalloc(sizeof *u);
    u->name = util_strdup("walsupd.service");
    take_text(u, NULL, shipped, true);
    return u;
}

struct unit *unit_free(struct unit *u)
{
    if (!u)
        return NULL;
    for (size_t i = 0; i < u->n_lines; i++) {
        free(u->line[i].key);
        free(u->line[i].value);
    }
    for (size_t i = 0; i < u->n_files; i++)
        free(u->file[i]);
    free(u->line);
    free(u->file);
    free(u->name);
    free(u);
    return NULL;
}

/* the configuration that its command names */
static char *config_of(const struct unit *u)
{
    const struct unit_line *l = unit_get(u, "ExecStart");
    const char *p = l ? l->value + strspn(l->value, "@-:+!") : NULL;
    char *found = util_strdup("/etc/walsup.ini");
    for (char *word; p && (p = unit_word(p, &word));) {
        const char *value = !strncmp(word, "--config=", 9) ? word + 9 : !strncmp(word, "-c", 2) ? word + 2 : NULL;
        char *next = NULL;
        if (!strcmp(word, "--config") || !strcmp(word, "-c"))
            p = unit_word(p, &next);
        if (next || (value && *value)) {
            free(found);
            found = next ? next : util_strdup(value);
        }
        free(word);
    }
    return found;
}

struct unit *unit_of_config(const char *config, const char *without)
{
    const char *base = strrchr(config, '/');
    base = base ? base + 1 : config;
    const char *dot = strrchr(base, '.');
    bool tenant = !strncmp(base, "walsup@", 7) && dot && dot > base + 7;
    cleanup_free char *own = tenant ? util_printf("walsupd@%.*s.service", (int)(dot - base - 7), base + 7) : NULL;
    const char *const each[] = {own, "walsupd.service"};
    for (size_t i = 0; i < ARRAY_LEN(each); i++) {
        struct unit *u = NULL;
        struct err ignored;
        if (!each[i] || unit_load(each[i], without, &u, &ignored) < 0)
            continue;
        cleanup_free char *its = config_of(u), *real = realpath(its, NULL), *given = realpath(config, NULL);
        if (!strcmp(its, config) || (real && given && !strcmp(real, given)))
            return u;
        (void)unit_free(u);
    }
    return NULL;
}

/* ---- values ----------------------------------------------------------------------------------- */

const struct unit_line *unit_get(const struct unit *u, const char *key)
{
    for (size_t i = u->n_lines; i--;)
        if (!strcmp(u->line[i].key, key))
            return *u->line[i].value ? &u->line[i] : NULL;
    return NULL;
}

static const char *truth(const char *v)
{
    static const char *const yes[] = {"yes", "true", "on", "1", "y", "t"};
    static const char *const no[] = {"no", "false", "off", "0", "n", "f"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (!strcasecmp(v, yes[i]))
            return "yes";
        if (!strcasecmp(v, no[i]))
            return "no";
    }
    return v;
}

bool unit_is(const struct unit *u, const char *key, const char *value)
{
    const struct unit_line *l = unit_get(u, key);
    return l && !strcmp(truth(l->value), value);
}

const struct unit_line *unit_next(const struct unit *u, const char *key, const struct unit_line *last)
{
    size_t i = last ? (size_t)(last - u->line) + 1 : 0;
    for (size_t k = 0; !last && k < u->n_lines; k++)
        if (!strcmp(u->line[k].key, key) && !*u->line[k].value)
            i = k + 1;
    for (; i < u->n_lines; i++)
        if (!strcmp(u->line[i].key, key))
            return &u->line[i];
    return NULL;
}

const char *unit_word(const char *p, char **ret)
{
    cleanup_buf struct buf b = BUF_INIT;
    p += strspn(p, " \t");
    if (!*p)
        return NULL;
    for (char quote = '\0'; *p && (quote || !isspace((unsigned char)*p)); p++) {
        if (*p == quote) {
            quote = '\0';
        } else if (!quote && (*p == '"' || *p == '\'')) {
            quote = *p;
        } else {
            p += *p == '\\' && p[1];
            buf_add(&b, p, 1);
        }
    }
    *ret = util_strdup(buf_str(&b));
    return p;
}

bool unit_lists(const struct unit *u, const char *key, const char *word, bool without)
{
    bool has = without;
    const struct unit_line *first = unit_next(u, key, NULL);
    for (const struct unit_line *l = first; l; l = unit_next(u, key, l)) {
        bool turned = *l->value == '~';
        const char *p = l->value + turned;
        if (l == first)
            has = turned;
        for (char *each; (p = unit_word(p, &each)); free(each))
            if (!strcasecmp(each, word))
                has = !turned;
    }
    return has;
}

bool unit_capable(const struct unit *u, const char *capability)
{
    static const char bounding[] = "CapabilityBoundingSet";
    const struct unit_line *user = unit_get(u, "User");
    bool root = user ? !strcmp(user->value, "root") || !strcmp(user->value, "0")
                     : !unit_is(u, "DynamicUser", "yes");
    bool emptied = false; /* an empty line leaves none; without any line there are all */
    for (size_t i = 0; i < u->n_lines; i++)
        emptied = emptied || !strcmp(u->line[i].key, bounding);
    return unit_lists(u, bounding, capability, !emptied) &&
           (root || unit_lists(u, "AmbientCapabilities", capability, false));
}
