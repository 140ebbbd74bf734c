#include "common/format/name.h"

#include <openssl/sha.h>

#define DIR_BYTES 200 /* longer ones are cut and get a hash */
#define DIR_KEEP 150
#define DIR_MARK "%~" /* in no name */
#define HASH_BYTES 16

static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
static const char hex_digit[] = "0123456789ABCDEF";

/* what a replica has below its own directory (common/store/layout.c), Litestream's before v0.5 too */
static bool reserved(const char *p, size_t n)
{
    return (n == 3 && !memcmp(p, "ltx", 3)) || (n == 11 && !memcmp(p, "generations", 11)) ||
           (n == 4 && !memcmp(p, "000", 3) && p[3] >= '0' && p[3] <= '9');
}

static void add_hex(struct buf *out, char c)
{
    const char text[3] = {'%', hex_digit[(uint8_t)c >> 4], hex_digit[c & 15]};
    buf_add(out, text, sizeof text);
}

/* p..p+n has only plain characters and whole %XX, and room for two more bytes */
static void add_piece(struct buf *out, const char *p, size_t n)
{
    if (*p == '.' || reserved(p, n)) {
        add_hex(out, *p);
        p++;
        n--;
    }
    buf_add(out, p, n);
}

static void encode_component(const char *s, size_t n, struct buf *out)
{
    cleanup_buf struct buf text = BUF_INIT;
    for (size_t i = 0; i < n; i++) {
        if (memchr(plain, s[i], sizeof plain - 1))
            buf_add(&text, s + i, 1);
        else
            add_hex(&text, s[i]);
    }
    const char *p = buf_str(&text);
    for (size_t left = text.len; left;) {
        size_t take = MIN(left, (size_t)NAME_PIECE_BYTES - 3); /* %2E in front, % at the end */
        for (size_t k = 1; take < left && k <= 2; k++)
            if (p[take - k] == '%') /* not through a %XX */
                take -= k;
        add_piece(out, p, take);
        p += take;
        left -= take;
        if (left)
            buf_add_str(out, "%/");
    }
}

void name_encode(const char *rel, struct buf *out)
{
    while (*rel) {
        size_t n = strcspn(rel, "/");
        encode_component(rel, n, out);
        rel += n;
        if (*rel) {
            buf_add_str(out, "/");
            rel++;
        }
    }
}

static int hex_value(char c)
{
    const char *at = c ? strchr(hex_digit, c) : NULL;
    return at ? (int)(at - hex_digit) : -1;
}

bool name_decode(const char *text, struct buf *out)
{
    cleanup_buf struct buf rel = BUF_INIT, again = BUF_INIT;
    for (const char *p = text; *p; p++) {
        if (*p != '%') {
            buf_add(&rel, p, 1);
            continue;
        }
        if (p[1] == '/') {
            p++;
            continue;
        }
        int hi = hex_value(p[1]), lo = hi < 0 ? -1 : hex_value(p[2]);
        char c = (char)(hi * 16 + lo);
        if (lo < 0 || !c || c == '/')
            return false;
        buf_add(&rel, &c, 1);
        p += 2;
    }
    /* a path has one name only, and it is a path: no empty, "." or ".." component */
    const char *s = buf_str(&rel);
    for (const char *p = s;; p++) {
        size_t n = strcspn(p, "/");
        if (!n || (n <= 2 && !memcmp(p, "..", n)))
            return false;
        p += n;
        if (!*p)
            break;
    }
    name_encode(s, &again);
    if (strcmp(buf_str(&again), text) != 0)
        return false;
    buf_add(out, rel.p, rel.len);
    return true;
}

/* ---- templates --------------------------------------------------------------------------------- */

static int refuse(struct err *e, const char *what)
{
    (void)err_set(e, ERR_CONFIG, "%s", what);
    return err_hint(e, "as in " NAME_TEMPLATE);
}

int name_check(const char *tmpl, struct err *e)
{
    static const char path[] = "{path}", section[] = "{section}";
    unsigned paths = 0;
    size_t component = 0; /* bytes of the current one */
    for (const char *p = tmpl; *p; p++) {
        if (!strncmp(p, path, sizeof path - 1)) {
            p += sizeof path - 2;
            if (component || (p[1] && p[1] != '/'))
                return refuse(e, "{path} does not stand alone between slashes");
            paths++;
            component = 1;
        } else if (!strncmp(p, section, sizeof section - 1)) {
            p += sizeof section - 2;
            component++;
        } else if (*p == '/') {
            if (!component)
                return refuse(e, "a component is empty");
            component = 0;
        } else if (*p == '{' || *p == '}') {
            return refuse(e, "only {section} and {path} can be in braces");
        } else if (!memchr(plain, *p, sizeof plain - 1)) {
            return refuse(e, "apart from {section} and {path} only A-Z a-z 0-9 . _ - and / can be "
                             "in it");
        } else if (*p == '.' && !component) {
            return refuse(e, "a component begins with a dot");
        } else {
            component++;
        }
    }
    if (!paths)
        return refuse(e, "without {path} all databases would have the same name");
    if (paths > 1)
        return refuse(e, "{path} appears more than once");
    if (!component)
        return refuse(e, "a component is empty");
    return strlen(tmpl) > 100 ? refuse(e, "it is longer than 100 bytes") : 0;
}

/* the template up to `end`, with the section's name in place */
static void add_literal(struct buf *out, const char *p, const char *end, const char *section)
{
    while (p < end) {
        if (*p == '{') {
            buf_add_str(out, section);
            p += strlen("{section}");
        } else {
            buf_add(out, p++, 1);
        }
    }
}

char *name_make(const char *tmpl, const char *section, const char *rel)
{
    cleanup_buf struct buf b = BUF_INIT;
    const char *path = strstr(tmpl, "{path}"), *rest = path + strlen("{path}");
    add_literal(&b, tmpl, path, section);
    name_encode(rel, &b);
    add_literal(&b, rest, rest + strlen(rest), section);
    return util_strdup(buf_str(&b));
}

char *name_split(const char *tmpl, const char *section, const char *name)
{
    cleanup_buf struct buf before = BUF_INIT, after = BUF_INIT, rel = BUF_INIT;
    const char *path = strstr(tmpl, "{path}"), *rest = path + strlen("{path}");
    add_literal(&before, tmpl, path, section);
    add_literal(&after, rest, rest + strlen(rest), section);
    size_t n = strlen(name);
    if (n <= before.len + after.len || (before.len && memcmp(name, before.p, before.len) != 0) ||
        (after.len && memcmp(name + n - after.len, after.p, after.len) != 0))
        return NULL;
    cleanup_free char *middle = strndup(name + before.len, n - before.len - after.len);
    return middle && name_decode(middle, &rel) ? util_strdup(buf_str(&rel)) : NULL;
}

char *name_prefix(const char *tmpl, const char *section)
{
    cleanup_buf struct buf b = BUF_INIT;
    const char *path = strstr(tmpl, "{path}");
    add_literal(&b, tmpl, path > tmpl ? path - 1 : path, section);
    return util_strdup(buf_str(&b));
}

/* ---- one directory entry ----------------------------------------------------------------------- */

char *name_dir(const char *name)
{
    cleanup_buf struct buf b = BUF_INIT;
    for (const char *p = name; *p; p++) {
        if (*p == '/')
            buf_add_str(&b, "%2F"); /* no name has that otherwise: a file name has no slash */
        else
            buf_add(&b, p, 1);
    }
    if (b.len <= DIR_BYTES)
        return util_strdup(buf_str(&b));
    uint8_t digest[SHA256_DIGEST_LENGTH];
    char hex[2 * HASH_BYTES + 1];
    (void)SHA256((const uint8_t *)name, strlen(name), digest);
    util_hex(hex, digest, HASH_BYTES);
    return util_printf("%.*s%s%s", DIR_KEEP, buf_str(&b), DIR_MARK, hex);
}

char *name_of_dir(const char *dir)
{
    if (strstr(dir, DIR_MARK))
        return NULL;
    cleanup_buf struct buf b = BUF_INIT;
    for (const char *p = dir; *p; p++) {
        bool slash = !strncmp(p, "%2F", 3);
        buf_add(&b, slash ? "/" : p, 1);
        p += slash ? 2 : 0;
    }
    return util_strdup(buf_str(&b));
}
