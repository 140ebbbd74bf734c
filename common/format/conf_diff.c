/* conf_diff.c - from one configuration to the next, key by key, as it is written. */
#include "common/format/conf_int.h"

struct list {
    struct conf_change *item;
    size_t n;
};

static struct conf_change *add(struct list *l, const struct conf_section *s)
{
    l->item = util_realloc(l->item, (l->n + 1) * sizeof *l->item);
    struct conf_change *c = &l->item[l->n++];
    *c = (struct conf_change){
        .section = util_printf("%s%s%s", conf_kind_name[s->kind], *s->name ? " " : "", s->name)};
    return c;
}

static char *shown(const struct conf_value *v)
{
    return !v ? NULL : util_strdup(conf_key[v->key].flags & CONF_SECRET ? "********" : v->text);
}

static void compare(struct list *l, const struct conf_section *a, const struct conf_section *b)
{
    for (size_t k = 0; k < CONF_KEYS; k++) {
        const struct conf_value *was = conf_get(a, (enum conf_key_id)k), *is = conf_get(b, (enum conf_key_id)k);
        if (conf_key[k].kind != b->kind || (!was && !is) || (was && is && !strcmp(was->text, is->text)))
            continue;
        struct conf_change *c = add(l, b);
        c->key = conf_key[k].name;
        c->from = shown(was);
        c->to = shown(is);
        c->restart = !(conf_key[k].flags & CONF_RELOAD);
    }
}

static int order(const struct conf_section *a, const struct conf_section *b)
{
    return a->kind != b->kind ? (int)a->kind - (int)b->kind : strcmp(a->name, b->name);
}

void conf_diff(const struct conf *a, const struct conf *b, struct conf_change **ret, size_t *ret_n)
{
    struct list l = {NULL, 0};
    const struct conf_raw *x = a->raw, *y = b->raw;
    for (size_t i = 0, k = 0; i < x->n || k < y->n;) {
        int d = i == x->n ? 1 : k == y->n ? -1 : order(x->sorted[i], y->sorted[k]);
        if (d < 0)
            add(&l, x->sorted[i++])->from = util_strdup("");
        else if (d > 0)
            add(&l, y->sorted[k++])->to = util_strdup("");
        else
            compare(&l, x->sorted[i++], y->sorted[k++]);
    }
    *ret = l.item;
    *ret_n = l.n;
}

void conf_diff_free(struct conf_change *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(list[i].section);
        free(list[i].from);
        free(list[i].to);
    }
    free(list);
}
