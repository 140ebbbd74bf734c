#include "common/format/conf_int.h"

#include <ctype.h>
#include <errno.h>

const struct conf_key conf_key[CONF_KEYS] = {
#define KEY(section, member, key, type, unit, min, max, dflt, example, flags, text)               \
    [CONF_##section##_##member] = {CONF_##section, key, CONF_##type, unit, min, max, dflt,        \
                                   example, flags, text},
#include "common/format/conf.def"
};
const char *const conf_kind_name[CONF_KINDS] = {"walsup", "target", "db", "replica"};

const struct conf_value *conf_get(const struct conf_section *s, enum conf_key_id key)
{
    for (size_t i = 0; s && i < s->n; i++)
        if (s->value[i].key == key)
            return &s->value[i];
    return NULL;
}

struct unit {
    const char *name;
    uint64_t factor;
};

static bool number_with_unit(const char *text, const struct unit *unit, size_t n, uint64_t *ret)
{
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno)
        return false;
    while (*end == ' ')
        end++;
    for (size_t i = 0; i < n; i++)
        if (!strcmp(end, unit[i].name)) {
            uint64_t product;
            if (__builtin_mul_overflow((uint64_t)v, unit[i].factor, &product) ||
                product > INT64_MAX)
                return false;
            *ret = product;
            return true;
        }
    return false;
}

bool conf_size(const char *text, uint64_t *ret)
{
    static const struct unit unit[] = {{"B", 1},
                                       {"KiB", 1ull << 10},
                                       {"MiB", 1ull << 20},
                                       {"GiB", 1ull << 30},
                                       {"TiB", 1ull << 40}};
    return number_with_unit(text, unit, ARRAY_LEN(unit), ret);
}

bool conf_duration(const char *text, uint64_t *ret_ms)
{
    static const struct unit unit[] = {
        {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    return number_with_unit(text, unit, ARRAY_LEN(unit), ret_ms);
}

static const char *const flag_word[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};

static bool choice_index(const char *choices, const char *text, uint64_t *ret)
{
    size_t len = strlen(text);
    uint64_t i = 0;
    for (const char *p = choices;; p++, i++) {
        size_t n = strcspn(p, "|");
        if (n == len && !memcmp(p, text, n)) {
            *ret = i;
            return true;
        }
        p += n;
        if (!*p)
            return false;
    }
}

void conf_limit_text(const struct conf_key *k, uint64_t v, char buf[static 32])
{
    static const struct unit size[] = {
        {"TiB", 1ull << 40}, {"GiB", 1ull << 30}, {"MiB", 1ull << 20}, {"KiB", 1ull << 10}};
    static const struct unit time[] = {{"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};
    const struct unit *u = k->type == CONF_SIZE ? size : time;
    size_t i = 0;
    if (k->type == CONF_COUNT) {
        (void)snprintf(buf, 32, "%llu", (unsigned long long)v);
        return;
    }
    while (i < 3 && v % u[i].factor)
        i++;
    (void)snprintf(buf, 32, "%llu%s", (unsigned long long)(v / u[i].factor), u[i].name);
}

static int bad_number(const struct conf_key *k, const char *text, struct err *e)
{
    bool bare = *text && text[strspn(text, "0123456789")] == '\0';
    (void)err_set(e, ERR_CONFIG,
                  bare && k->type != CONF_COUNT ? "%s = %s has no unit" : "%s = %s is not a %s",
                  k->name, text,
                  k->type == CONF_SIZE       ? "size"
                  : k->type == CONF_DURATION ? "duration"
                                             : "whole number");
    if (k->type == CONF_SIZE)
        return err_hint(e, "a number and KiB, MiB, GiB or TiB, as in 64MiB");
    if (k->type == CONF_DURATION)
        return err_hint(e, "a number and ms, s, m, h or d, as in 500ms or 10s");
    return err_hint(e, "write digits only");
}

int conf_number(const struct conf_key *k, const char *text, uint64_t *ret, struct err *e)
{
    uint64_t v = 0;
    static const struct unit none[] = {{"", 1}};
    if (k->type == CONF_FLAG) {
        for (size_t i = 0; i < ARRAY_LEN(flag_word); i++)
            if (!strcmp(text, flag_word[i])) {
                *ret = i % 2;
                return 0;
            }
        (void)err_set(e, ERR_CONFIG, "%s = %s is neither yes nor no", k->name, text);
        return err_hint(e, "write yes or no");
    }
    if (k->type == CONF_CHOICE) {
        if (choice_index(k->unit, text, ret))
            return 0;
        (void)err_set(e, ERR_CONFIG, "%s = %s is not known", k->name, text);
        return err_hint(e, "one of %s", k->unit);
    }
    if (!(k->type == CONF_SIZE       ? conf_size(text, &v)
          : k->type == CONF_DURATION ? conf_duration(text, &v)
                                     : number_with_unit(text, none, 1, &v)))
        return bad_number(k, text, e);
    if (v < k->min || v > k->max) {
        char lo[32], hi[32];
        conf_limit_text(k, k->min, lo);
        conf_limit_text(k, k->max, hi);
        (void)err_set(e, ERR_CONFIG, "%s = %s is out of range", k->name, text);
        return err_hint(e, "from %s to %s", lo, hi);
    }
    *ret = v;
    return 0;
}

uint64_t conf_default(enum conf_key_id key)
{
    uint64_t v = 0;
    if (conf_key[key].dflt[0])
        (void)conf_number(&conf_key[key], conf_key[key].dflt, &v, NULL);
    return v;
}

bool conf_name_ok(const char *s, size_t n)
{
    static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return n >= 1 && n <= 40 && *s != '.' && strspn(s, ok) >= n;
}

bool conf_utf8_ok(const char *text, size_t n)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + n;
    while (p < end) {
        unsigned more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1
                        : *p >= 0xe0 && *p < 0xf0               ? 2
                        : *p >= 0xf0 && *p < 0xf5               ? 3
                                                                : 9;
        if (more > (size_t)(end - p - 1))
            return false;
        if (more >= 2 && ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
                          (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f)))
            return false;
        for (p++; more; more--, p++)
            if ((*p & 0xc0) != 0x80)
                return false;
    }
    return true;
}

static int path_bad(struct err *e, const char *what, const char *hint)
{
    (void)err_set(e, ERR_CONFIG, "%s", what);
    return err_hint(e, "%s", hint);
}

/* joins the components of path with single slashes; NULL if one is ".." (or "." when strict) */
static char *join_components(const char *path, bool strict)
{
    char *out = util_alloc(strlen(path) + 2), *to = out;
    while (*path) {
        size_t n = strcspn(path, "/");
        bool dot = n == 1 && path[0] == '.';
        if ((n == 2 && path[0] == '.' && path[1] == '.') || (dot && strict)) {
            free(out);
            return NULL;
        }
        if (n && !dot) {
            *to++ = '/';
            memcpy(to, path, n);
            to += n;
        }
        path += n + (path[n] == '/');
    }
    *to = '\0';
    return out;
}

char *conf_path_clean(const char *path, struct err *e)
{
    if (*path != '/') {
        (void)path_bad(e, "the path is not absolute", "begin it with /");
        return NULL;
    }
    char *out = join_components(path, false);
    if (!out)
        (void)path_bad(e, "the path contains '..'", "write the path it stands for");
    else if (!*out)
        memcpy(out, "/", 2);
    return out;
}

char *conf_prefix_clean(const char *path, struct err *e)
{
    size_t n = strlen(path);
    while (n && path[n - 1] == '/')
        n--;
    cleanup_free char *trimmed = strndup(path + (n && *path == '/'), n - (n && *path == '/'));
    if (trimmed && !strstr(trimmed, "//")) {
        char *out = join_components(trimmed, true);
        if (out) {
            if (*out)
                memmove(out, out + 1, strlen(out)); /* the slash in front, with the NUL */
            return out;
        }
    }
    (void)path_bad(e, "the path has an empty, '.' or '..' component",
                   "write plain names with single slashes between them");
    return NULL;
}
