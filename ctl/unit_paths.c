/* unit_paths.c - what a unit sees of the file system, by the rules of systemd.exec(5): the deepest rule about a path
 * decides, but nothing comes back below what is inaccessible. */
#include "ctl/unit.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "common/store/needs.h"

enum rule_kind { RULE_HIDDEN, RULE_EMPTY, RULE_BIND, RULE_BIND_READ_ONLY, RULE_READ_ONLY, RULE_WRITE };

struct rule {
    char *path;
    enum rule_kind kind;
    const struct unit_line *line;
    size_t order;
    bool brings; /* what lies there comes into a root directory of the unit's own */
};

struct unit_view {
    struct rule *rule; /* by path, so that what contains comes before what is contained */
    size_t n;
    const struct unit_line *missing;
    char *missing_path;
    const struct unit_line *root; /* RootDirectory=; NULL: that of the machine */
};

char *unit_real(const char *path)
{
    char real[PATH_MAX];
    if (realpath(path, real))
        return util_strdup(real);
    cleanup_free char *dir = needs_parent(path);
    const char *last = strrchr(path, '/');
    if (!dir[1] || strlen(dir) >= strlen(path))
        return util_strdup(path);
    cleanup_free char *above = unit_real(dir);
    return util_printf("%s%s", above[1] ? above : "", last);
}

/* systemd resolves links in the paths of rules, and leaves out what is not there; `made`: it makes it itself */
static void add(struct unit_view *v, enum rule_kind kind, const char *path, const struct unit_line *line, bool made)
{
    bool optional = false;
    for (; *path == '-' || *path == '+'; path++)
        optional = optional || *path == '-';
    if (*path != '/')
        return;
    if (!made && access(path, F_OK) < 0 && errno == ENOENT) {
        if (!optional && !v->missing) {
            v->missing = line;
            v->missing_path = util_strdup(path);
        }
        return;
    }
    v->rule = util_realloc(v->rule, (v->n + 1) * sizeof *v->rule);
    bool brings = made || kind == RULE_EMPTY || kind == RULE_BIND || kind == RULE_BIND_READ_ONLY;
    v->rule[v->n] = (struct rule){unit_real(path), kind, line, v->n, brings};
    v->n++;
}

static void add_all(struct unit_view *v, enum rule_kind kind, const char *const *path, size_t n,
                    const struct unit_line *line)
{
    for (size_t i = 0; i < n; i++) {
        cleanup_free char *optional = util_printf("-%s", path[i]);
        add(v, kind, optional, line, false);
    }
}

/* SOURCE[:DESTINATION[:OPTIONS]] and PATH[:OPTIONS]; whether the destination is there does not matter */
static void add_bind(struct unit_view *v, enum rule_kind kind, const char *word, const struct unit_line *line)
{
    cleanup_free char *source = util_strndup(word, strcspn(word, ":"));
    const char *colon = strchr(word, ':');
    cleanup_free char *target = colon && colon[1] == '/' ? util_strndup(colon + 1, strcspn(colon + 1, ":")) : NULL;
    bool optional = *source == '-';
    const char *from = source + strspn(source, "-+");
    if (access(from, F_OK) < 0 && errno == ENOENT)
        add(v, kind, optional ? source : from, line, false); /* is left out, or is what is missing */
    else
        add(v, kind, target ? target : from, line, true);
}

static void add_list(struct unit_view *v, const struct unit *u, const char *key, enum rule_kind kind)
{
    for (const struct unit_line *l = NULL; (l = unit_next(u, key, l));) {
        const char *p = l->value;
        for (char *word; (p = unit_word(p, &word)); free(word))
            switch (kind) {
            case RULE_BIND:
            case RULE_BIND_READ_ONLY:
                add_bind(v, kind, word, l);
                break;
            case RULE_EMPTY:
                word[strcspn(word, ":")] = '\0';
                add(v, kind, word, l, true);
                break;
            case RULE_HIDDEN:
            case RULE_READ_ONLY:
            case RULE_WRITE:
                add(v, kind, word, l, false);
                break;
            }
    }
}

/* StateDirectory= and so on: made by systemd, writable */
static void add_own(struct unit_view *v, const struct unit *u, const char *key, const char *above)
{
    for (const struct unit_line *l = NULL; (l = unit_next(u, key, l));) {
        const char *p = l->value;
        for (char *word; (p = unit_word(p, &word)); free(word)) {
            word[strcspn(word, ":")] = '\0';
            cleanup_free char *path = util_printf("%s/%s", above, word);
            add(v, RULE_WRITE, path, l, true);
        }
    }
}

static void add_system(struct unit_view *v, const struct unit *u)
{
    static const char *const all[] = {"/"}, *const usr[] = {"/usr", "/boot", "/efi"};
    static const char *const full[] = {"/usr", "/boot", "/efi", "/etc"};
    static const char *const api[] = {"/dev", "/proc", "/sys"};
    static const char *const home[] = {"/home", "/root", "/run/user"}, *const tmp[] = {"/tmp", "/var/tmp"};
    const struct unit_line *system = unit_get(u, "ProtectSystem"), *homes = unit_get(u, "ProtectHome");
    /* that implies the strictest system, homes that are read-only at least, and a /tmp of its own */
    bool is_dynamic = unit_is(u, "DynamicUser", "yes");
    const struct unit_line *dynamic = is_dynamic ? unit_get(u, "DynamicUser") : NULL;
    bool strict = unit_is(u, "ProtectSystem", "strict");
    if (dynamic && !strict)
        system = dynamic;
    if (strict || dynamic) {
        add_all(v, RULE_READ_ONLY, all, ARRAY_LEN(all), system);
        add_all(v, RULE_WRITE, api, ARRAY_LEN(api), system);
    } else if (unit_is(u, "ProtectSystem", "full")) {
        add_all(v, RULE_READ_ONLY, full, ARRAY_LEN(full), system);
    } else if (unit_is(u, "ProtectSystem", "yes")) {
        add_all(v, RULE_READ_ONLY, usr, ARRAY_LEN(usr), system);
    }
    if (unit_is(u, "ProtectHome", "yes"))
        add_all(v, RULE_HIDDEN, home, ARRAY_LEN(home), homes);
    else if (unit_is(u, "ProtectHome", "read-only"))
        add_all(v, RULE_READ_ONLY, home, ARRAY_LEN(home), homes);
    else if (unit_is(u, "ProtectHome", "tmpfs"))
        add_all(v, RULE_EMPTY, home, ARRAY_LEN(home), homes);
    else if (dynamic)
        add_all(v, RULE_READ_ONLY, home, ARRAY_LEN(home), dynamic);
    if (unit_is(u, "PrivateTmp", "yes"))
        add_all(v, RULE_EMPTY, tmp, ARRAY_LEN(tmp), unit_get(u, "PrivateTmp"));
    else if (dynamic)
        add_all(v, RULE_EMPTY, tmp, ARRAY_LEN(tmp), dynamic);
}

/* what lies below a path follows it; of one path, what is hidden comes first */
static int by_path(const void *pa, const void *pb)
{
    const struct rule *a = pa, *b = pb;
    int d = strcmp(a->path, b->path);
    return d ? d : a->kind != b->kind ? (int)a->kind - (int)b->kind : a->order < b->order ? -1 : 1;
}

struct unit_view *unit_view_new(const struct unit *u)
{
    struct unit_view *v = util_zalloc(sizeof *v);
    v->root = unit_root(u);
    add_system(v, u);
    add_own(v, u, "StateDirectory", "/var/lib");
    add_own(v, u, "RuntimeDirectory", "/run");
    add_own(v, u, "CacheDirectory", "/var/cache");
    add_own(v, u, "LogsDirectory", "/var/log");
    add_list(v, u, "InaccessiblePaths", RULE_HIDDEN);
    add_list(v, u, "TemporaryFileSystem", RULE_EMPTY);
    add_list(v, u, "BindPaths", RULE_BIND);
    add_list(v, u, "BindReadOnlyPaths", RULE_BIND_READ_ONLY);
    add_list(v, u, "ReadOnlyPaths", RULE_READ_ONLY);
    add_list(v, u, "ReadWritePaths", RULE_WRITE);
    if (v->n)
        qsort(v->rule, v->n, sizeof *v->rule, by_path);
    return v;
}

struct unit_view *unit_view_free(struct unit_view *v)
{
    for (size_t i = 0; v && i < v->n; i++)
        free(v->rule[i].path);
    if (v)
        free(v->rule);
    if (v)
        free(v->missing_path);
    free(v);
    return NULL;
}

const struct unit_line *unit_root(const struct unit *u)
{
    const struct unit_line *l = unit_get(u, "RootDirectory");
    const char *path = l ? l->value + (*l->value == '-') : "";
    return *path == '/' && path[1] ? l : NULL;
}

/* Whether a path that nothing brings there is missing in the unit's own root; of one that is nowhere, the nearest
 * directory that exists is looked up. */
static bool not_in_root(const struct unit_view *v, const char *real)
{
    cleanup_free char *at = util_strdup(real);
    while (at[1] && access(at, F_OK) < 0) {
        char *above = needs_parent(at);
        free(at);
        at = above;
    }
    cleanup_free char *there = util_printf("%s%s", v->root->value + (*v->root->value == '-'), at);
    return access(there, F_OK) < 0;
}

enum unit_sight unit_look(const struct unit_view *v, const char *path, const struct unit_line **ret_line,
                          const char **ret_where)
{
    cleanup_free char *real = unit_real(path);
    enum unit_sight sight = UNIT_SEES;
    const struct rule *by = NULL;
    bool brought = false;
    for (size_t i = 0; i < v->n && sight != UNIT_HIDDEN; i++) {
        const struct rule *r = &v->rule[i];
        bool there = sight != UNIT_EMPTY; /* else there is nothing that a rule could be about */
        if (!needs_below(real, r->path))
            continue;
        brought = brought || r->brings;
        bool decides = true;
        switch (r->kind) {
        case RULE_HIDDEN:
            sight = UNIT_HIDDEN;
            break;
        case RULE_EMPTY:
            sight = UNIT_EMPTY;
            break;
        case RULE_BIND:
            sight = UNIT_SEES;
            break;
        case RULE_BIND_READ_ONLY:
            sight = UNIT_READ_ONLY;
            break;
        case RULE_READ_ONLY:
            decides = there;
            sight = there ? UNIT_READ_ONLY : sight;
            break;
        case RULE_WRITE:
            /* of one path, the stricter rule holds */
            decides = there && !(sight == UNIT_READ_ONLY && !strcmp(by->path, r->path));
            sight = decides ? UNIT_SEES : sight;
            break;
        }
        by = decides ? r : by;
    }
    if (v->root && !brought && not_in_root(v, real)) {
        if (ret_line)
            *ret_line = v->root;
        if (ret_where)
            *ret_where = "/";
        return UNIT_HIDDEN;
    }
    if (ret_line)
        *ret_line = by && sight != UNIT_SEES ? by->line : NULL;
    if (ret_where)
        *ret_where = by ? by->path : NULL;
    return sight;
}

bool unit_brings(const struct unit_view *v, const char *path)
{
    cleanup_free char *real = unit_real(path);
    for (size_t i = 0; i < v->n; i++)
        if (v->rule[i].brings && needs_below(real, v->rule[i].path))
            return true;
    return false;
}

const struct unit_line *unit_view_missing(const struct unit_view *v, const char **ret_path)
{
    *ret_path = v->missing_path;
    return v->missing;
}
