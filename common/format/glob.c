#include "common/format/glob.h"

#include "common/base/fsx.h"

#define MAX_COMPONENTS 60

struct component {
    char *text;
    bool deep; /* ** */
};

struct glob {
    char *base;
    size_t base_len;
    size_t n;
    struct component component[MAX_COMPONENTS];
};

bool glob_is(const char *path)
{
    return strpbrk(path, "*?[") != NULL;
}

size_t glob_base_len(const char *path)
{
    size_t n = strcspn(path, "*?[");
    while (n && path[n] != '/')
        n--;
    return n;
}

/* ---- characters -------------------------------------------------------------------------------- */

/* One character of UTF-8; a byte that is not part of any stands for itself, beyond all of them. */
static uint32_t next_char(const char **p, const char *end)
{
    const uint8_t *s = (const uint8_t *)*p;
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0                 ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5                 ? 4
                                                             : 0;
    bool whole = n && n <= (size_t)(end - *p);
    for (size_t i = 1; whole && i < n; i++)
        whole = (s[i] & 0xc0) == 0x80;
    if (!whole) {
        *p += 1;
        return 0x110000u + s[0];
    }
    uint32_t c = n == 1 ? s[0] : s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (s[i] & 0x3f);
    *p += n;
    return c;
}

/* the ] that ends the set whose [ is at p; a ] in the first place stands for itself */
static const char *set_end(const char *p)
{
    p++;
    p += *p == '!' || *p == '^';
    p += *p == ']';
    return strchr(p, ']');
}

static bool in_set(const char *p, const char *end, uint32_t c)
{
    p++;
    bool negated = *p == '!' || *p == '^', hit = false;
    p += negated;
    while (p < end) {
        uint32_t lo = next_char(&p, end), hi = lo;
        if (end - p >= 2 && *p == '-') {
            p++;
            hi = next_char(&p, end);
        }
        hit = hit || (lo <= c && c <= hi);
    }
    return hit != negated;
}

/* one component against one name; a star is tried again from one character further on */
static bool match_name(const char *pattern, const char *name, size_t n)
{
    const char *p = pattern, *s = name, *end = name + n;
    const char *star = NULL, *star_s = NULL;
    if (n && *name == '.' && *pattern != '.')
        return false;
    while (s < end || *p == '*') {
        const char *q = s;
        if (*p == '*') {
            star = p++;
            star_s = s;
            continue;
        }
        if (*p == '?') {
            (void)next_char(&s, end);
            p++;
            continue;
        }
        if (*p == '[') {
            const char *close = set_end(p);
            if (in_set(p, close, next_char(&q, end))) {
                p = close + 1;
                s = q;
                continue;
            }
        } else if (*p && *p == *s) {
            p++;
            s++;
            continue;
        }
        if (!star)
            return false;
        p = star + 1;
        (void)next_char(&star_s, end);
        s = star_s;
    }
    return !*p;
}

/* ---- patterns ---------------------------------------------------------------------------------- */

static int take_component(struct glob *g, const char *p, size_t n, struct err *e)
{
    if (g->n == MAX_COMPONENTS)
        return err_set(e, ERR_CONFIG, "the pattern has more than %d parts", MAX_COMPONENTS);
    struct component *c = &g->component[g->n++];
    c->text = strndup(p, n);
    if (!c->text)
        return err_set(e, ERR_NOMEM, "out of memory");
    c->deep = !strcmp(c->text, "**");
    for (const char *s = c->text; *s; s++)
        if (*s == '[') {
            s = set_end(s);
            if (!s) {
                (void)err_set(e, ERR_CONFIG, "'[' without ']'");
                return err_hint(e, "write [[] for the character itself");
            }
        }
    return 0;
}

int glob_new(const char *pattern, struct glob **ret, struct err *e)
{
    struct glob *g = util_zalloc(sizeof *g);
    const char *p = pattern, *slash = p + glob_base_len(p);
    g->base_len = (size_t)(slash - p);
    g->base = g->base_len ? strndup(p, g->base_len) : util_strdup("/");
    int r = g->base ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    for (p = slash; r == 0 && *p;) {
        p++;
        size_t n = strcspn(p, "/");
        r = take_component(g, p, n, e);
        p += n;
    }
    if (r < 0) {
        (void)glob_free(g);
        return r;
    }
    *ret = g;
    return 0;
}

struct glob *glob_free(struct glob *g)
{
    if (!g)
        return NULL;
    for (size_t i = 0; i < g->n; i++)
        free(g->component[i].text);
    free(g->base);
    free(g);
    return NULL;
}

const char *glob_base(const struct glob *g)
{
    return g->base;
}

/* ---- walking ----------------------------------------------------------------------------------- */

/* ** may stand for no directory at all */
static glob_at skip_deep(const struct glob *g, glob_at at)
{
    for (size_t i = 0; i < g->n; i++)
        if ((at >> i & 1) && g->component[i].deep)
            at |= (glob_at)1 << (i + 1);
    return at;
}

glob_at glob_start(const struct glob *g)
{
    return skip_deep(g, 1);
}

glob_at glob_step(const struct glob *g, glob_at at, const char *name, size_t n)
{
    glob_at next = 0;
    for (size_t i = 0; i < g->n; i++) {
        if (!(at >> i & 1))
            continue;
        if (g->component[i].deep)
            next |= n && *name != '.' ? (glob_at)1 << i : 0;
        else if (match_name(g->component[i].text, name, n))
            next |= (glob_at)1 << (i + 1);
    }
    return skip_deep(g, next);
}

bool glob_file(const struct glob *g, glob_at at)
{
    return at >> g->n & 1;
}

bool glob_below(const struct glob *g, glob_at at)
{
    return (at & (((glob_at)1 << g->n) - 1)) != 0;
}

bool glob_match(const struct glob *g, const char *path)
{
    if (strncmp(path, g->base, g->base_len) != 0 || path[g->base_len] != '/')
        return false;
    glob_at at = glob_start(g);
    size_t n = 0;
    for (const char *p = path + g->base_len; at && *p; p += n) {
        p++;
        n = strcspn(p, "/");
        if (!n || glob_aside(p, n))
            return false;
        at = glob_step(g, at, p, n);
    }
    return n && glob_file(g, at);
}

static bool ends_with(const char *s, size_t n, const char *end)
{
    size_t m = strlen(end);
    return n >= m && !memcmp(s + n - m, end, m);
}

bool glob_aside(const char *name, size_t n)
{
    if (ends_with(name, n, "-wal") || ends_with(name, n, "-shm") || ends_with(name, n, "-journal"))
        return true;
    if (n && *name == '.' && ends_with(name, n, "-litestream"))
        return true;
    cleanup_free char *copy = strndup(name, n);
    return copy && fsx_is_tmp(copy);
}
