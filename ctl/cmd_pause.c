/* pause, resume: leave databases alone for a while. */
#include "ctl/ctl.h"

#include "ctl/client.h"
#include "ctl/out.h"

#define ANSWER_MS 120000 /* the last look at a large database, on a slow disk */

static void print_paused(const json_t *d, uint64_t for_ms)
{
    char dur[32];
    json_int_t files = json_integer_value(json_object_get(d, "pending_files"));
    printf(json_is_true(json_object_get(d, "changed")) ? ": paused" : ": was paused already");
    if (json_is_true(json_object_get(d, "captured")))
        printf(", captured up to TXID %s", json_string_value(json_object_get(d, "txid")));
    if (for_ms)
        printf("; resumes by itself in %s", util_duration(dur, for_ms));
    if (files)
        printf("; %lld file%s still to be uploaded", (long long)files, files == 1 ? " is" : "s are");
    (void)fputc('\n', stdout);
}

static void print_result(const json_t *reply, bool pause, uint64_t for_ms)
{
    size_t i;
    const json_t *d;
    json_array_foreach(json_object_get(reply, "databases"), i, d) {
        const char *name = json_string_value(json_object_get(d, "name"));
        out_text(stdout, name ? name : "?");
        if (pause)
            print_paused(d, for_ms);
        else
            printf(json_is_true(json_object_get(d, "changed")) ? ": resumed\n" : ": was not paused\n");
    }
}

static int run(struct ctl *c, bool pause)
{
    static const struct option with_reason[] = {{"all", no_argument, NULL, 'a'},
                                                {"reason", required_argument, NULL, 'r'},
                                                {"for", required_argument, NULL, 'f'},
                                                {NULL, 0, NULL, 0}};
    static const struct option without[] = {{"all", no_argument, NULL, 'a'}, {NULL, 0, NULL, 0}};
    int status, o;
    bool all = false;
    const char *reason = NULL;
    uint64_t for_ms = 0;
    struct err e = {0};
    json_t *reply = NULL;
    while ((o = ctl_option(c, pause ? with_reason : without, &status)) >= 0) {
        if (o == 'a')
            all = true;
        else if (o == 'r')
            reason = optarg;
        else if (!conf_duration(optarg, &for_ms) || !for_ms)
            return ctl_usage_error(c, "--for %s is not a time such as 10m or 2h", optarg);
    }
    if (o == CTL_STOP || !ctl_operands(c, 0, 1, &status))
        return status;
    if (all == (optind < c->argc))
        return ctl_usage_error(c, all ? "name a database or say --all, not both" : "name a database, or say --all");
    cleanup_free char *socket = NULL;
    if (!ctl_socket(c, &socket, &status))
        return status;
    json_t *p = json_object();
    if (all) {
        (void)json_object_set_new(p, "all", json_true());
    } else {
        cleanup_free char *name = ctl_db_name(c, c->argv[optind]);
        (void)json_object_set_new(p, "db", proto_text(name));
    }
    if (for_ms)
        (void)json_object_set_new(p, "for_ms", json_integer((json_int_t)for_ms));
    if (reason)
        (void)json_object_set_new(p, "reason", proto_text(reason));
    if (client_call(socket, pause ? "Pause" : "Resume", p, ANSWER_MS, &reply, NULL, &e) < 0) {
        if (!all && strstr(e.msg, "no database is called"))
            ctl_suggest(socket, c->argv[optind], &e);
        return out_fail(c->json, &e);
    }
    if (c->json)
        return out_json(reply);
    print_result(reply, pause, for_ms);
    json_decref(reply);
    return 0;
}

int cmd_pause(struct ctl *c)
{
    return run(c, true);
}

int cmd_resume(struct ctl *c)
{
    return run(c, false);
}
