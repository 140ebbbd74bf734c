#include "daemon/core/patterns.h"

#include "common/base/fsx.h"
#include "common/format/name.h"
#include "common/format/proto.h"

/* a section with a pattern that has databases, or had some */
struct had {
    size_t files; /* that it stands for now */
    char section[];
};

static struct had *had_get(struct manager *m, const char *section)
{
    struct had *h = map_get_str(&m->had, section);
    if (h)
        return h;
    size_t n = strlen(section) + 1;
    h = util_zalloc(sizeof *h + n);
    memcpy(h->section, section, n);
    map_put_str(&m->had, h->section, h);
    return h;
}

void patterns_found(struct manager *m, const char *section)
{
    had_get(m, section)->files++;
}

void patterns_gone(struct manager *m, const char *section)
{
    had_get(m, section)->files--;
}

void patterns_forget(struct manager *m)
{
    size_t at = 0;
    for (void *h; (h = map_next(&m->had, &at));)
        free(h);
    map_free(&m->had);
}

static int on_entry(const char *entry, void *arg)
{
    struct manager *m = arg;
    cleanup_free char *name = name_of_dir(entry);
    for (size_t i = 0; name && i < m->conf->n_patterns; i++) {
        const struct conf_db *c = m->conf->pattern[i];
        if (map_get_str(&m->had, c->name))
            continue;
        cleanup_free char *prefix = name_prefix(c->name_template, c->name);
        size_t n = strlen(prefix);
        if (n && !strncmp(name, prefix, n) && name[n] == '/')
            (void)had_get(m, c->name);
    }
    return 0;
}

void patterns_learn(struct manager *m)
{
    cleanup_free char *dir = util_printf("%s/db", m->conf->state_dir);
    if (m->conf->n_patterns)
        (void)fsx_list(dir, on_entry, m, NULL);
}

static bool is_lost(const struct manager *m, const struct conf_db *c)
{
    const struct had *h = m->settled ? map_get_str(&m->had, c->name) : NULL;
    return h && !h->files;
}

size_t patterns_lost(const struct manager *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->conf->n_patterns; i++)
        n += is_lost(m, m->conf->pattern[i]);
    return n;
}

json_t *patterns_json(const struct manager *m)
{
    json_t *all = json_array();
    for (size_t i = 0; i < m->conf->n_patterns; i++) {
        const struct conf_db *c = m->conf->pattern[i];
        if (!is_lost(m, c))
            continue;
        cleanup_free char *hint = util_printf("is a disk not mounted? if the databases were "
                                              "removed on purpose, remove the section [db %s], or "
                                              "their directories below %s/db and restart walsupd",
                                              c->name, m->conf->state_dir);
        json_array_append_new(all, json_pack("{s:s, s:o, s:s, s:o}", "section", c->name, "path", proto_text(c->path),
                                             "detail", "had databases, and has none now", "hint", proto_text(hint)));
    }
    return all;
}
