#include "ctl/ctl.h"

#include <ctype.h>
#include <stdarg.h>

#include "common/base/env.h"
#include "common/base/fsx.h"
#include "common/format/name.h"
#include "common/format/near.h"
#include "ctl/client.h"
#include "ctl/out.h"

enum { OPT_HELP = 1000, OPT_SOCKET, OPT_JSON };
#define MAX_OPTIONS 32
#define LIST_TIMEOUT_MS 5000

static const struct option common_option[] = {{"config", required_argument, NULL, 'c'},
                                              {"socket", required_argument, NULL, OPT_SOCKET},
                                              {"json", no_argument, NULL, OPT_JSON},
                                              {"help", no_argument, NULL, OPT_HELP}};

void ctl_verb_help(const struct ctl_verb *v)
{
    printf("Usage: walsupctl %s%s%s\n\n%c%s.\n", v->name, *v->args ? " " : "", v->args,
           toupper((unsigned char)v->help[0]), v->help + 1);
    if (*v->more)
        printf("\n%s", v->more);
    printf("\n  --json                    machine-readable output\n"
           "  -c, --config FILE         configuration (" CTL_DEFAULT_CONFIG ")\n"
           "  --socket PATH             control socket (as configured)\n"
           "  --help                    this text\n");
}

int ctl_print(const struct ctl *c, struct buf *b)
{
    if (c->json)
        return out_json(json_pack("{s:s}", "text", buf_str(b)));
    (void)fwrite(b->p, 1, b->len, stdout);
    return 0;
}

int ctl_usage_error(struct ctl *c, const char *fmt, ...)
{
    char msg[400];
    struct err e;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    (void)err_set(&e, ERR_USAGE, "%s", msg);
    (void)err_hint(&e, "walsupctl %s --help", c->verb->name);
    return out_fail(c->json, &e);
}

static int option_error(struct ctl *c, const struct option *all, int code)
{
    const char *given = optind > 0 ? c->argv[optind - 1] : "";
    if (code == ':')
        return ctl_usage_error(c, "%s needs a value", given);
    if (optopt && given[0] == '-' && given[1] == '-' && strchr(given, '='))
        return ctl_usage_error(c, "%.*s takes no value", (int)strcspn(given, "="), given);
    if (given[0] == '-' && given[1] == '-')
        for (const struct option *o = all; o->name; o++)
            if (near_enough(given + 2, near_distance(given + 2, o->name)))
                return ctl_usage_error(c, "unknown option %s, did you mean --%s?", given, o->name);
    if (optopt && optopt < 256)
        return ctl_usage_error(c, "unknown option -%c", optopt);
    return ctl_usage_error(c, "unknown option %s", given);
}

int ctl_option(struct ctl *c, const struct option *own, int *ret_status)
{
    struct option all[MAX_OPTIONS + ARRAY_LEN(common_option)] = {{0}};
    size_t n = 0;
    bool short_o = false;
    for (; own && own[n].name; n++) {
        all[n] = own[n];
        short_o = short_o || own[n].val == 'o';
    }
    memcpy(all + n, common_option, sizeof common_option);
    opterr = 0;
    for (;;) {
        int o = getopt_long(c->argc, c->argv, short_o ? ":c:o:h" : ":c:h", all, NULL);
        switch (o) {
        case -1:
            return CTL_DONE;
        case 'c':
            c->config = optarg;
            c->config_given = true;
            break;
        case OPT_SOCKET:
            c->socket = optarg;
            break;
        case OPT_JSON:
            c->json = true;
            break;
        case 'h':
        case OPT_HELP:
            ctl_verb_help(c->verb);
            *ret_status = 0;
            return CTL_STOP;
        case '?':
        case ':':
            *ret_status = option_error(c, all, o);
            return CTL_STOP;
        default:
            return o;
        }
    }
}

bool ctl_operands(struct ctl *c, int min, int max, int *ret_status)
{
    int n = c->argc - optind;
    if (n < min)
        *ret_status = ctl_usage_error(c, "%s needs %s", c->verb->name, c->verb->args);
    else if (n > max)
        *ret_status = ctl_usage_error(c, "'%s' is one argument too many", c->argv[optind + max]);
    return n >= min && n <= max;
}

int ctl_load_failed(struct ctl *c, struct err *e, struct buf *errors)
{
    if (e->code != ERR_CONFIG) {
        if (e->code == ERR_NOTFOUND && !c->config_given)
            (void)err_hint(e, "write one (walsupctl config --sample prints a start) or name it "
                              "with --config FILE");
        else if (e->code == ERR_PERM)
            (void)err_hint(e, "run it as root or as a member of the group walsup");
        return out_fail(c->json, e);
    }
    if (c->json)
        return out_fail_json(e, buf_str(errors));
    out_text(stderr, buf_str(errors));
    return err_exit_status(ERR_CONFIG);
}

/* What the service gets from its unit: without it, ${NAME} and keys would mean something else here. */
void ctl_load_environment(const struct ctl *c)
{
    struct err e;
    if (c->config_given || env_load(CONF_ENVIRONMENT, &e) == 0 || e.code == ERR_NOTFOUND || e.code == ERR_PERM)
        return;
    out_warning(&e);
}

bool ctl_load(struct ctl *c, struct conf **ret, int *ret_status)
{
    cleanup_buf struct buf errors = BUF_INIT;
    struct err e = {0};
    ctl_load_environment(c);
    if (conf_load(c->config, ret, &errors, &e) == 0)
        return true;
    *ret_status = ctl_load_failed(c, &e, &errors);
    return false;
}

/* the socket line of a configuration that is wrong somewhere else: the daemon may well run with an
 * older state of it */
static char *socket_line(const char *path)
{
    cleanup_file FILE *f = fopen(path, "re");
    cleanup_free char *line = NULL;
    size_t cap = 0;
    bool in_walsup = false;
    while (f && getline(&line, &cap, f) >= 0) {
        char *p = line + strspn(line, " \t");
        if (*p == '[')
            in_walsup = !strncmp(p, "[walsup]", 8);
        if (!in_walsup || strncmp(p, "socket", 6) != 0)
            continue;
        p += 6 + strspn(p + 6, " \t=:");
        size_t n = strcspn(p, " \t\r\n");
        if (*p == '/')
            return util_strndup(p, n);
    }
    return NULL;
}

bool ctl_socket(struct ctl *c, char **ret, int *ret_status)
{
    struct conf *conf = NULL;
    struct err e = {0};
    if (c->socket) {
        *ret = util_strdup(c->socket);
        return true;
    }
    ctl_load_environment(c);
    if (conf_load(c->config, &conf, NULL, &e) == 0) {
        *ret = util_strdup(conf->socket);
    } else if (c->config_given && e.code != ERR_CONFIG) {
        *ret_status = out_fail(c->json, &e);
        return false;
    } else if (!(*ret = socket_line(c->config))) {
        (void)conf_parse("", "", 0, &conf, NULL, NULL);
        *ret = util_strdup(conf->socket);
    }
    (void)conf_free(conf);
    return true;
}

char *ctl_absolute(const char *path)
{
    if (*path == '/')
        return util_strdup(path);
    while (path[0] == '.' && path[1] == '/')
        path += 2;
    cleanup_free char *cwd = getcwd(NULL, 0);
    return util_printf("%s/%s", cwd && cwd[1] ? cwd : "", path);
}

/* ---- databases ------------------------------------------------------------------------------ */

/* the most likely of the names that somebody may have meant */
struct nearest {
    const char *text;
    size_t distance;
    char *name;
};

static const char *last_part(const char *s)
{
    const char *slash = strrchr(s, '/');
    return slash ? slash + 1 : s;
}

static void consider(struct nearest *n, const char *name)
{
    /* a whole name, or the end of one: most people type what the file is called */
    size_t whole = near_distance(n->text, name);
    const char *a = last_part(n->text), *b = last_part(name);
    size_t part = near_distance(a, b);
    size_t d = near_enough(n->text, whole) ? whole : near_enough(a, part) ? part + 2 : SIZE_MAX;
    if (d >= n->distance)
        return;
    n->distance = d;
    free(n->name);
    n->name = util_strdup(name);
}

static int consider_spool(const char *entry, void *arg)
{
    cleanup_free char *name = name_of_dir(entry);
    if (name && *name != '.')
        consider(arg, name);
    return 0;
}

static void hint_nearest(struct nearest *n, struct err *e)
{
    if (n->name && n->distance) /* 0: that is what was written */
        (void)err_hint(e, "did you mean %s?", n->name);
    free(TAKE_PTR(n->name));
}

static int unknown(struct ctl *c, const struct conf *conf, const char *text, struct err *e)
{
    const struct conf_db *d = conf_find_db(conf, text);
    if (d && d->glob) {
        (void)err_set(e, ERR_NOTFOUND, "[db %s] stands for every database that matches %s", text,
                      d->path);
        return err_hint(e, "name one of them, or give its path; walsupctl list shows them");
    }
    (void)err_set(e, ERR_NOTFOUND, "there is no database '%s' in %s", text, c->config);
    (void)err_hint(e, "walsupctl list shows the names and paths");
    struct nearest n = {text, SIZE_MAX, NULL};
    for (size_t i = 0; i < conf->n_dbs; i++)
        if (!conf->db[i].glob)
            consider(&n, conf->db[i].name);
    if (conf->n_patterns) { /* those that were replicated have left traces */
        cleanup_free char *spools = util_printf("%s/db", conf->state_dir);
        struct err ignored;
        (void)fsx_list(spools, consider_spool, &n, &ignored);
    }
    hint_nearest(&n, e);
    return -ERR_NOTFOUND;
}

static bool resolve(const struct conf *conf, const char *text, struct conf_found *ret)
{
    cleanup_free char *absolute = ctl_absolute(text);
    cleanup_free char *real = realpath(text, NULL);
    return conf_resolve(conf, text, ret) || conf_resolve(conf, absolute, ret) ||
           (real && conf_resolve(conf, real, ret));
}

int ctl_resolve(struct ctl *c, const struct conf *conf, const char *text, struct conf_found *ret,
                struct err *e)
{
    return resolve(conf, text, ret) ? 0 : unknown(c, conf, text, e);
}

char *ctl_db_name(struct ctl *c, const char *text)
{
    struct conf *conf = NULL;
    struct conf_found found = {0};
    struct err e;
    char *name = NULL;
    if (strchr(text, '/') && conf_load(c->config, &conf, NULL, &e) == 0 &&
        resolve(conf, text, &found))
        name = TAKE_PTR(found.name);
    conf_found_done(&found);
    (void)conf_free(conf);
    if (name)
        return name;
    bool path = *text == '/' || !strncmp(text, "./", 2) || (strchr(text, '/') && !access(text, F_OK));
    return path ? ctl_absolute(text) : util_strdup(text);
}

void ctl_suggest(const char *socket, const char *text, struct err *e)
{
    json_t *reply = NULL, *d;
    struct err ignored;
    struct nearest n = {text, SIZE_MAX, NULL};
    size_t i;
    if (e->code != ERR_NOTFOUND ||
        client_call(socket, "List", NULL, LIST_TIMEOUT_MS, &reply, NULL, &ignored) < 0)
        return;
    json_array_foreach(json_object_get(reply, "databases"), i, d) {
        const char *name = json_string_value(json_object_get(d, "name"));
        if (name)
            consider(&n, name);
    }
    hint_nearest(&n, e);
    json_decref(reply);
}
