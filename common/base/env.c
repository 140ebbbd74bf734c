#include "common/base/env.h"

#include <ctype.h>

#include "common/base/fsx.h"
#include "common/base/secret.h"

#define MAX_FILE (1u << 20)

struct hidden {
    struct hidden *next;
    struct secret *value;
    char name[];
};
static struct hidden *hidden; /* needed as long as the process lives */

static struct hidden *find(const char *name)
{
    struct hidden *h = hidden;
    while (h && strcmp(h->name, name) != 0)
        h = h->next;
    return h;
}

char *env_get(const char *name)
{
    const char *v = getenv(name);
    const struct hidden *h = v && *v ? NULL : find(name);
    return h ? util_strdup(secret_reveal(h->value)) : v ? util_strdup(v) : NULL;
}

void env_hide(const char *name)
{
    char *v = getenv(name);
    if (!v || !*v)
        return;
    struct hidden *h = find(name);
    if (!h) {
        size_t n = strlen(name) + 1;
        h = util_zalloc(sizeof *h + n);
        memcpy(h->name, name, n);
        h->next = hidden;
        hidden = h;
    }
    secret_free(h->value);
    h->value = secret_text(v);
    explicit_bzero(v, strlen(v));
}

void env_take(const char *name)
{
    env_hide(name);
    (void)unsetenv(name);
}

void env_forget(void)
{
    for (struct hidden *next; hidden; hidden = next) {
        next = hidden->next;
        secret_free(hidden->value);
        free(hidden);
    }
}

size_t env_name_length(const char *p)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
    return isdigit((unsigned char)*p) ? 0 : strspn(p, letters);
}

/* The line is cut up in place. False: it is none. */
static bool take_line(char *line)
{
    line += strspn(line, " \t");
    size_t n = strlen(line), name_n = env_name_length(line);
    while (n && isspace((unsigned char)line[n - 1]))
        line[--n] = '\0';
    if (!n || *line == '#' || *line == ';')
        return true;
    if (!name_n || line[name_n] != '=')
        return false;
    line[name_n] = '\0';
    char *value = line + name_n + 1, *end = line + n;
    value += strspn(value, " \t");
    if (end - value > 1 && (*value == '"' || *value == '\'') && end[-1] == *value) {
        end[-1] = '\0';
        value++;
    }
    (void)setenv(line, value, 0);
    return true;
}

int env_load(const char *path, struct err *e)
{
    cleanup_wiped_buf struct buf b = BUF_INIT;
    int r = fsx_read(path, MAX_FILE, &b, e);
    if (r < 0)
        return r;
    unsigned number = 0;
    char *text = (char *)(uintptr_t)buf_str(&b), *next;
    for (char *line = text; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        number++;
        if (take_line(line))
            continue;
        (void)err_set(e, ERR_CONFIG, "%s:%u: not NAME=VALUE", path, number);
        return err_hint(e, "comments begin with #; a value does not continue on the next line");
    }
    return 0;
}
