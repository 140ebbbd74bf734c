#include "common/format/metrics.h"

const struct metrics_row metrics_row[METRICS_N] = {
#define METRIC(id, name, type, scope, labels, help) \
    [METRICS_##id] = {name, METRICS_##type, METRICS_OF_##scope, labels, help},
#include "common/format/metrics.def"
};

const char *metrics_type_name(enum metrics_type t)
{
    return t == METRICS_COUNTER ? "counter" : "gauge";
}

void metrics_head(struct buf *out, enum metrics_id id)
{
    const struct metrics_row *r = &metrics_row[id];
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", r->name, r->help, r->name, metrics_type_name(r->type));
}

/* A name is any bytes that a file name can have; what is no UTF-8 or a control character becomes '?'. */
static void add_label(struct buf *out, const char *value)
{
    cleanup_free char *plain = util_plain(util_strdup(value));
    for (const char *p = plain; *p; p++)
        if (*p == '\n')
            buf_add_str(out, "\\n");
        else if (*p == '\\' || *p == '"')
            buf_add(out, (const char[]){'\\', *p}, 2);
        else
            buf_add(out, p, 1);
}

void metrics_sample(struct buf *out, enum metrics_id id, const char *const *values, int64_t milli)
{
    const char *label = metrics_row[id].labels;
    buf_add_str(out, metrics_row[id].name);
    for (size_t i = 0; *label; i++) {
        size_t n = strcspn(label, ",");
        buf_printf(out, "%c%.*s=\"", i ? ',' : '{', (int)n, label);
        add_label(out, values[i]);
        buf_add_str(out, "\"");
        label += n + (label[n] == ',');
        if (!*label)
            buf_add_str(out, "}");
    }
    const char *sign = milli < 0 ? "-" : "";
    unsigned long long v = milli < 0 ? 0ull - (unsigned long long)milli : (unsigned long long)milli;
    if (v % 1000)
        buf_printf(out, " %s%llu.%03llu\n", sign, v / 1000, v % 1000);
    else
        buf_printf(out, " %s%llu\n", sign, v / 1000);
}

void metrics_man(struct buf *out)
{
    buf_add_str(out, ".Bl -tag -width Ds\n");
    for (size_t i = 0; i < METRICS_N; i++) {
        const struct metrics_row *r = &metrics_row[i];
        buf_printf(out, ".It Sy %s\n", r->name);
        buf_printf(out, "%c%s%s%s.\n", metrics_type_name(r->type)[0] - 'a' + 'A', metrics_type_name(r->type) + 1,
                   *r->labels ? ", by " : "", r->labels);
        /* a line for each sentence or part of one, as mandoc wants it */
        for (const char *p = r->help; *p; p++)
            if (p[0] == ' ' && p[-1] == '.')
                buf_add_str(out, "\n");
            else
                buf_add(out, p, 1);
        buf_add_str(out, "\n");
    }
    buf_add_str(out, ".El\n");
}
