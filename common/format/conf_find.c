/* conf_find.c - which section a name or a path belongs to. */
#include "common/format/conf_int.h"

#include "common/format/name.h"

void conf_index(struct conf *c)
{
    c->pattern = util_alloc(c->n_dbs * sizeof(struct conf_db *));
    for (size_t i = c->n_dbs; i-- > 0;) { /* of two with one name, which is an error, the first */
        struct conf_db *d = &c->db[i];
        map_put_str(&c->by_name, d->name, d);
        if (d->path && !d->name_template)
            map_put_str(&c->by_path, d->path, d);
    }
    for (size_t i = 0; i < c->n_dbs; i++)
        if (c->db[i].glob)
            c->pattern[c->n_patterns++] = &c->db[i];
}

const struct conf_target *conf_find_target(const struct conf *c, const char *name)
{
    for (size_t i = 0; i < c->n_targets; i++)
        if (!strcmp(c->target[i].name, name))
            return &c->target[i];
    return NULL;
}

const struct conf_db *conf_find_db(const struct conf *c, const char *name_or_path)
{
    const struct conf_db *d = map_get_str(&c->by_name, name_or_path);
    return d ? d : map_get_str(&c->by_path, name_or_path);
}

static bool below(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return !strncmp(path, dir, n) && (path[n] == '/' || !path[n] || !strcmp(dir, "/"));
}

bool conf_aside(const struct conf *c, const char *path)
{
    for (size_t i = 0; i < c->n_targets; i++)
        if (c->target[i].type == CONF_FILE && c->target[i].path && below(path, c->target[i].path))
            return true;
    return below(path, c->state_dir);
}

const struct conf_db *conf_of_path(const struct conf *c, const char *path)
{
    const struct conf_db *d = map_get_str(&c->by_path, path);
    for (size_t i = 0; i < c->n_patterns && !d; i++)
        if (glob_match(c->pattern[i]->glob, path))
            d = c->pattern[i];
    return d && d->glob && conf_aside(c, path) ? NULL : d;
}

/* below the pattern's fixed directory */
static const char *relative(const struct conf_db *d, const char *path)
{
    const char *base = glob_base(d->glob);
    return path + (base[1] ? strlen(base) + 1 : 1);
}

char *conf_name_of(const struct conf_db *d, const char *path)
{
    return d->glob ? name_make(d->name_template, d->name, relative(d, path)) : util_strdup(d->name);
}

char *conf_replica_path(const struct conf_db *d, const struct conf_replica *r, const char *path)
{
    return d->glob ? name_make(r->path, d->name, relative(d, path)) : util_strdup(r->path);
}

static bool found(const struct conf_db *d, const char *path, struct conf_found *ret)
{
    ret->db = d;
    ret->path = util_strdup(path);
    ret->name = conf_name_of(d, path);
    return true;
}

bool conf_resolve(const struct conf *c, const char *text, struct conf_found *ret)
{
    const struct conf_db *d = map_get_str(&c->by_name, text);
    if (d && !d->glob)
        return found(d, d->path, ret);
    for (size_t i = 0; i < c->n_patterns; i++) {
        const struct conf_db *p = c->pattern[i];
        cleanup_free char *rel = name_split(p->name_template, p->name, text);
        if (!rel)
            continue;
        const char *base = glob_base(p->glob);
        cleanup_free char *path = util_printf("%s/%s", base[1] ? base : "", rel);
        if (conf_of_path(c, path) == p) /* else it belongs to another section, by another name */
            return found(p, path, ret);
    }
    d = *text == '/' ? conf_of_path(c, text) : NULL;
    return d && found(d, text, ret);
}

void conf_found_done(struct conf_found *f)
{
    free(TAKE_PTR(f->name));
    free(TAKE_PTR(f->path));
}
