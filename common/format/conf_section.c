#include "common/format/conf_int.h"

/* ---- the values of one section --------------------------------------------------------------- */

const char *conf_text_of(const struct conf_section *s, enum conf_key_id key)
{
    const struct conf_value *v = conf_get(s, key);
    return v && !v->bad ? v->text : NULL;
}

char *conf_dup_of(const struct conf_section *s, enum conf_key_id key)
{
    const char *t = conf_text_of(s, key);
    return t ? util_strdup(t) : conf_key[key].dflt[0] ? util_strdup(conf_key[key].dflt) : NULL;
}

uint64_t conf_num_of(const struct conf_section *s, enum conf_key_id key)
{
    const struct conf_value *v = conf_get(s, key);
    return v && !v->bad ? v->num : conf_default(key);
}

void conf_problem_err(struct conf_ctx *x, const struct conf_origin *o, const struct err *e)
{
    conf_problem(x, o, e->hint, "%s", e->msg);
}

const struct conf_origin *conf_origin_of(const struct conf_section *s, enum conf_key_id key)
{
    const struct conf_value *v = conf_get(s, key);
    return v ? &v->origin : &s->origin;
}

/* ---- sections by name ----------------------------------------------------------------------- */

static int by_name(const void *pa, const void *pb)
{
    const struct conf_section *a = *(struct conf_section *const *)pa;
    const struct conf_section *b = *(struct conf_section *const *)pb;
    return a->kind != b->kind ? (int)a->kind - (int)b->kind : strcmp(a->name, b->name);
}

void conf_sort_sections(struct conf_ctx *x)
{
    struct conf_raw *raw = x->c->raw;
    raw->sorted = util_alloc(raw->n * sizeof(struct conf_section *));
    if (raw->n)
        memcpy(raw->sorted, raw->section, raw->n * sizeof(struct conf_section *));
    qsort(raw->sorted, raw->n, sizeof(struct conf_section *), by_name);
    for (size_t i = 1; i < raw->n; i++) {
        struct conf_section *a = raw->sorted[i - 1], *b = raw->sorted[i];
        if (a->kind != b->kind || strcmp(a->name, b->name) != 0)
            continue;
        bool swap = a->origin.file == b->origin.file && a->origin.line > b->origin.line;
        const struct conf_origin *first = swap ? &b->origin : &a->origin;
        conf_problem(x, swap ? &a->origin : &b->origin, "merge the two",
                     "duplicate section [%s%s%s], first at %s:%u", conf_kind_name[a->kind],
                     *a->name ? " " : "", a->name, first->file, first->line);
    }
}

struct conf_section *conf_section_find(const struct conf_raw *raw, enum conf_kind kind,
                                       const char *name)
{
    size_t lo = 0, hi = raw->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        struct conf_section *s = raw->sorted[mid];
        int d = s->kind != kind ? (int)s->kind - (int)kind : strcmp(s->name, name);
        if (d == 0)
            return s;
        if (d < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

uint64_t conf_effective(const struct conf_raw *raw, const struct conf_section *replica,
                        const struct conf_section *db, const char *key,
                        struct conf_origin *ret_origin)
{
    const struct conf_section *from[] = {replica, db, conf_section_find(raw, CONF_WALSUP, "")};
    for (size_t i = 0; i < ARRAY_LEN(from); i++)
        for (size_t j = 0; from[i] && j < from[i]->n; j++) {
            const struct conf_value *v = &from[i]->value[j];
            if (v->bad || strcmp(conf_key[v->key].name, key) != 0)
                continue;
            if (ret_origin)
                *ret_origin = v->origin;
            return v->num;
        }
    if (ret_origin)
        *ret_origin = (struct conf_origin){NULL, 0};
    for (size_t k = 0; k < CONF_KEYS; k++)
        if (conf_key[k].kind == CONF_WALSUP && !strcmp(conf_key[k].name, key))
            return conf_default((enum conf_key_id)k);
    return 0;
}
