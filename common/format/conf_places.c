/* conf_places.c - two databases in one file, or two replicas in one place. */
#include "common/format/conf_int.h"

#include "common/format/name.h"

struct place {
    char *where;
    const struct conf_db *db;
    const char *target; /* NULL: the database file */
};

/* '/' sorts before everything, so that what lies below a place follows it directly */
static int by_place(const void *pa, const void *pb)
{
    const struct place *a = pa, *b = pb;
    const unsigned char *p = (const unsigned char *)a->where, *q = (const unsigned char *)b->where;
    while (*p && *p == *q) {
        p++;
        q++;
    }
    int x = *p == '/' ? 1 : *p ? *p + 1 : 0, y = *q == '/' ? 1 : *q ? *q + 1 : 0;
    if (x != y)
        return x - y;
    return a->db < b->db ? -1 : a->db > b->db; /* databases in the order they were written */
}

static void check_places(struct conf_ctx *x, struct place *p, size_t n)
{
    const struct place *top = NULL;
    qsort(p, n, sizeof *p, by_place);
    for (size_t i = 0; i < n; i++) {
        size_t len = top ? strlen(top->where) : 0;
        if (!top || strncmp(top->where, p[i].where, len) != 0 ||
            (p[i].where[len] && (p[i].where[len] != '/' || !p[i].target))) {
            top = &p[i];
            continue;
        }
        if (p[i].db != top->db && !strcmp(p[i].db->name, top->db->name))
            continue; /* a duplicate section, reported as that */
        if (!p[i].target)
            conf_problem(x, &p[i].db->origin, "keep one of the sections",
                         "[db %s] and [db %s] (%s:%u) are the same file %s", p[i].db->name,
                         top->db->name, top->db->origin.file, top->db->origin.line, p[i].where);
        else
            conf_problem(x, &p[i].db->origin, "give one of them another path in its [replica] "
                         "section",
                         "the replicas %s@%s and %s@%s (%s:%u) %s %s", p[i].db->name, p[i].target,
                         top->db->name, top->target, top->db->origin.file, top->db->origin.line,
                         p[i].where[len] ? "lie one inside the other at" : "have the same place",
                         p[i].where);
    }
    for (size_t i = 0; i < n; i++)
        free(p[i].where);
}

void conf_check_places(struct conf_ctx *x)
{
    struct conf *c = x->c;
    size_t n = 0, n_replicas = 0;
    for (size_t i = 0; i < c->n_dbs; i++)
        n_replicas += c->db[i].n_replicas;
    struct place *p = util_alloc(MAX(c->n_dbs, n_replicas) * sizeof *p);
    for (size_t i = 0; i < c->n_dbs; i++)
        if (c->db[i].path && !c->db[i].name_template)
            p[n++] = (struct place){util_strdup(c->db[i].path), &c->db[i], NULL};
    check_places(x, p, n);
    n = 0;
    for (size_t i = 0; i < c->n_dbs; i++)
        for (size_t j = 0; j < c->db[i].n_replicas; j++) {
            const struct conf_replica *r = &c->db[i].replica[j];
            const struct conf_target *t = &c->target[r->target];
            if (!t->path || (t->type == CONF_S3 && !t->bucket))
                continue; /* that was reported */
            /* with a pattern: what the places of all its databases begin with. If that is nothing,
             * names that coincide are found when the databases are */
            cleanup_free char *path = c->db[i].name_template
                                          ? name_prefix(r->path, c->db[i].name)
                                          : util_strdup(r->path);
            if (!*path)
                continue;
            char *where = t->type == CONF_FILE ? util_printf("%s/%s", t->path, path)
                                               : util_printf("%s/%s%s%s/%s", t->endpoint, t->bucket,
                                                             *t->path ? "/" : "", t->path, path);
            p[n++] = (struct place){where, &c->db[i], t->name};
        }
    check_places(x, p, n);
    free(p);
}
