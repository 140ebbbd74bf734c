/* Any text as a pattern, a path, a template and a name: "pattern NL path NL template NL name". */
#include "common/format/glob.h"
#include "common/format/name.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void pattern(const char *text, const char *path)
{
    struct glob *g = NULL;
    struct err e = {0};
    if (*text != '/')
        return;
    if (glob_new(text, &g, &e) < 0) {
        if (!*e.msg)
            abort();
        return;
    }
    size_t n = strlen(glob_base(g));
    /* what matches lies below the base, and every directory on the way may hold it */
    if (*path == '/' && glob_match(g, path) && n > 1 &&
        (strncmp(path, glob_base(g), n) != 0 || path[n] != '/'))
        abort();
    glob_free(g);
}

static void name_back(const char *text)
{
    cleanup_buf struct buf rel = BUF_INIT, again = BUF_INIT;
    if (!name_decode(text, &rel)) {
        if (rel.len)
            abort();
        return;
    }
    name_encode(buf_str(&rel), &again);
    if (strcmp(buf_str(&again), text) != 0)
        abort();
}

static void path_back(const char *tmpl, const char *rel)
{
    bool path = *rel && *rel != '/';
    for (const char *p = rel; path; p++) {
        size_t n = strcspn(p, "/");
        path = n && !(n <= 2 && !memcmp(p, "..", n));
        p += n;
        if (!*p)
            break;
    }
    struct err e = {0};
    if (!path || name_check(tmpl, &e) < 0)
        return;
    cleanup_free char *name = name_make(tmpl, "sec", rel);
    cleanup_free char *back = name_split(tmpl, "sec", name);
    if (!back || strcmp(back, rel) != 0)
        abort();
    cleanup_free char *dir = name_dir(name);
    cleanup_free char *of_dir = name_of_dir(dir);
    if (strchr(dir, '/') || strlen(dir) > 255 || (of_dir && strcmp(of_dir, name) != 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cleanup_free char *text = util_alloc(size + 1);
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    char *part[4];
    static char empty[1];
    char *rest = text;
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        part[i] = rest ? rest : empty;
        char *nl = rest ? strchr(rest, '\n') : NULL;
        if (nl && i + 1 < ARRAY_LEN(part))
            *nl++ = '\0';
        rest = nl;
    }
    pattern(part[0], part[1]);
    path_back(part[2], part[1]);
    name_back(part[3]);
    return 0;
}
