/* metrics */
#include "ctl/ctl.h"

#include "common/format/metrics.h"
#include "ctl/client.h"
#include "ctl/out.h"

#define METRICS_TIMEOUT_MS 30000

static json_t *list_json(void)
{
    json_t *all = json_array();
    for (size_t i = 0; i < METRICS_N; i++) {
        json_t *labels = json_array();
        for (const char *p = metrics_row[i].labels; *p;) {
            size_t n = strcspn(p, ",");
            (void)json_array_append_new(labels, json_stringn(p, n));
            p += n + (p[n] == ',');
        }
        (void)json_array_append_new(all, json_pack("{s:s, s:s, s:o, s:s}", "name", metrics_row[i].name, "type",
                                                   metrics_type_name(metrics_row[i].type), "labels", labels, "help",
                                                   metrics_row[i].help));
    }
    return json_pack("{s:o}", "metrics", all);
}

static int print_list(const struct ctl *c)
{
    if (c->json)
        return out_json(list_json());
    for (size_t i = 0; i < METRICS_N; i++) {
        const struct metrics_row *r = &metrics_row[i];
        printf("%s%s%s%s  %s\n", r->name, *r->labels ? "{" : "", r->labels, *r->labels ? "}" : "",
               metrics_type_name(r->type));
        out_wrapped(stdout, 4, r->help);
    }
    return 0;
}

int cmd_metrics(struct ctl *c)
{
    static const struct option own[] = {
        {"list", no_argument, NULL, 'l'}, {"man", no_argument, NULL, 'm'}, {NULL, 0, NULL, 0}};
    int status, o, what = 0;
    struct err e = {0};
    json_t *reply = NULL;
    cleanup_buf struct buf out = BUF_INIT;
    while ((o = ctl_option(c, own, &status)) >= 0)
        what = o;
    if (o == CTL_STOP || !ctl_operands(c, 0, 0, &status))
        return status;
    if (what == 'l')
        return print_list(c);
    if (what == 'm') {
        metrics_man(&out);
        return ctl_print(c, &out);
    }
    cleanup_free char *socket = NULL;
    if (!ctl_socket(c, &socket, &status))
        return status;
    if (client_call(socket, "Metrics", NULL, METRICS_TIMEOUT_MS, &reply, NULL, &e) < 0)
        return out_fail(c->json, &e);
    if (c->json)
        return out_json(reply);
    const char *text = json_string_value(json_object_get(reply, "text"));
    (void)fputs(text ? text : "", stdout);
    json_decref(reply);
    return 0;
}
