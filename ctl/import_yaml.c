#include "ctl/import.h"

#include <ctype.h>
#include <strings.h>

#include "common/base/env.h"
#include "common/base/secret.h"
#include "ctl/unit.h"

/* ---- environment ---------------------------------------------------------------------------- */

static bool is_name(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

/* what stands behind a '$': its name and how long it is in the text, as in Go's os.Expand */
static size_t name_at(const char *p, const char **ret, size_t *ret_n)
{
    *ret = p;
    *ret_n = 0;
    if (*p == '{') {
        const char *end = strchr(p, '}');
        if (!end)
            return 1; /* bad syntax is eaten */
        *ret = p + 1;
        *ret_n = (size_t)(end - p) - 1;
        return *ret_n + 2;
    }
    if (*p && strchr("*#$@!?-0123456789", *p)) {
        *ret_n = 1;
        return 1;
    }
    while (is_name(p[*ret_n]))
        ++*ret_n;
    return *ret_n;
}

/* Most people have the variables in the unit of Litestream and not in the shell in which they import. */
char *import_variable(struct import *x, const char *name)
{
    struct err ignored;
    char *value = env_get(name);
    if (value || !x->expand)
        return value;
    if (!x->unit_sought && unit_load("litestream.service", NULL, &x->unit, &ignored) < 0)
        x->unit = NULL;
    x->unit_sought = true;
    value = x->unit ? unit_variable(x->unit, name) : NULL;
    return value;
}

void import_expand(struct import *x, const char *text, struct buf *out)
{
    for (const char *p = text; *p;) {
        const char *name;
        size_t n;
        if (*p != '$') {
            buf_add(out, p++, 1);
            continue;
        }
        size_t skip = name_at(p + 1, &name, &n);
        if (!skip)
            buf_add(out, p, 1);
        p += skip + 1;
        if (!n)
            continue;
        cleanup_free char *var = util_strndup(name, n);
        char *value = import_variable(x, var ? var : "");
        if (value)
            buf_add_str(out, value);
        else if (var && !strcmp(var, "PID"))
            buf_printf(out, "%ld", (long)getpid());
        else
            buf_printf(out, IMPORT_UNSET "%s" IMPORT_UNSET_END, var ? var : "");
        secret_wipe(value);
    }
}

/* ---- nodes ---------------------------------------------------------------------------------- */

int import_load(const char *name, const void *p, size_t n, yaml_document_t *doc, struct err *e)
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return err_set(e, ERR_NOMEM, "no memory for a YAML parser");
    yaml_parser_set_input_string(&parser, n ? p : (const void *)"", n);
    int r = 0;
    if (!yaml_parser_load(&parser, doc))
        r = err_set(e, ERR_CONFIG, "%s:%zu: %s%s%s", name, parser.problem_mark.line + 1,
                    parser.problem ? parser.problem : "not YAML", parser.context ? " " : "",
                    parser.context ? parser.context : "");
    yaml_parser_delete(&parser);
    return r;
}

static bool has(const struct import_pair *p, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(p[i].key, key))
            return true;
    return false;
}

static void add_pairs(yaml_document_t *doc, const yaml_node_t *map, struct import_pair **ret,
                      size_t *n, bool merged)
{
    if (!map || map->type != YAML_MAPPING_NODE)
        return;
    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
         p++) {
        const yaml_node_t *key = yaml_document_get_node(doc, p->key);
        const char *text = import_text(key);
        if (!text || !strcmp(text, "<<") || (merged && has(*ret, *n, text)))
            continue;
        *ret = util_realloc(*ret, (*n + 2) * sizeof **ret);
        (*ret)[(*n)++] = (struct import_pair){text, yaml_document_get_node(doc, p->value),
                                              (unsigned)key->start_mark.line + 1};
    }
}

size_t import_pairs(yaml_document_t *doc, const yaml_node_t *map, struct import_pair **ret)
{
    size_t n = 0;
    *ret = util_zalloc(sizeof **ret);
    if (!map || map->type != YAML_MAPPING_NODE)
        return 0;
    add_pairs(doc, map, ret, &n, false);
    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
         p++) {
        const char *text = import_text(yaml_document_get_node(doc, p->key));
        if (text && !strcmp(text, "<<"))
            add_pairs(doc, yaml_document_get_node(doc, p->value), ret, &n, true);
    }
    (*ret)[n] = (struct import_pair){.key = NULL};
    return n;
}

const char *import_text(const yaml_node_t *node)
{
    if (!node || node->type != YAML_SCALAR_NODE)
        return NULL;
    const char *text = (const char *)node->data.scalar.value;
    bool plain = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return plain && (!*text || !strcmp(text, "~") || !strcasecmp(text, "null")) ? NULL : text;
}

size_t import_items(const yaml_node_t *seq)
{
    if (!seq || seq->type != YAML_SEQUENCE_NODE)
        return 0;
    return (size_t)(seq->data.sequence.items.top - seq->data.sequence.items.start);
}

const yaml_node_t *import_item(yaml_document_t *doc, const yaml_node_t *seq, size_t i)
{
    return yaml_document_get_node(doc, seq->data.sequence.items.start[i]);
}

/* ---- values --------------------------------------------------------------------------------- */

bool import_duration(const char *text, uint64_t *ret_ms)
{
    static const struct {
        const char *name;
        double ms;
    } unit[] = {{"ns", 1e-6}, {"us", 1e-3}, {"\xc2\xb5s", 1e-3}, {"\xce\xbcs", 1e-3}, {"ms", 1},
                {"s", 1e3}, {"m", 6e4}, {"h", 3.6e6}};
    double sum = 0;
    if (!strcmp(text, "0")) {
        *ret_ms = 0;
        return true;
    }
    for (const char *p = text; *p || p == text;) {
        char *end;
        if (!isdigit((unsigned char)*p) && *p != '.')
            return false;
        double v = strtod(p, &end);
        size_t i = 0;
        while (i < ARRAY_LEN(unit) && (strncmp(end, unit[i].name, strlen(unit[i].name)) != 0 ||
                                       isalpha((unsigned char)end[strlen(unit[i].name)])))
            i++;
        if (end == p || i == ARRAY_LEN(unit))
            return false;
        sum += v * unit[i].ms;
        p = end + strlen(unit[i].name);
    }
    if (!(sum < 1e15))
        return false;
    *ret_ms = (uint64_t)(sum + 0.5);
    return true;
}

bool import_bool(const char *text, bool *ret)
{
    static const char *const yes[] = {"true", "yes", "on", "y"}, *const no[] = {"false", "no", "off",
                                                                                "n"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
            *ret = !strcasecmp(text, yes[i]);
            return true;
        }
    return false;
}
