#include "ctl/verify.h"

#include "common/format/proto.h"

int verify_status(const struct verify_result *r)
{
    return !r->latest_restores ? 2 : verify_wrong(r) ? 1 : 0;
}

/* ---- for people ------------------------------------------------------------------------------- */

static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

static void add_range(struct buf *b, uint64_t first, uint64_t last)
{
    buf_printf(b, "%016llx", (unsigned long long)first);
    if (last != first)
        buf_printf(b, " to %016llx", (unsigned long long)last);
}

/* what stands in for the name of a hole */
static char *title_of(const struct verify_object *o)
{
    cleanup_buf struct buf b = BUF_INIT;
    if (o->name)
        return util_strdup(o->name);
    buf_printf(&b, "level %u: TXID%s ", o->level, plural(o->max - o->min + 1));
    add_range(&b, o->min, o->max);
    return util_strdup(buf_str(&b));
}

static void print_object(const struct verify_object *o)
{
    static const enum out_tone tone[] = {
        [VERIFY_FOUND] = OUT_GOOD,   [VERIFY_DAMAGED] = OUT_BAD, [VERIFY_FOREIGN] = OUT_WARN,
        [VERIFY_MISSING] = OUT_WARN, [VERIFY_LOST] = OUT_BAD,    [VERIFY_DELAYED] = OUT_PLAIN};
    cleanup_free char *title = title_of(o);
    printf("  ");
    out_tone(stdout, tone[o->state]);
    printf("%-8s", verify_state_name(o->state));
    out_tone(stdout, OUT_PLAIN);
    (void)fputc(' ', stdout);
    out_text(stdout, title);
    (void)fputc('\n', stdout);
    if (o->why)
        out_wrapped(stdout, 11, o->why);
}

static void add_source(struct buf *b, const struct verify_result *r, const char *no_map)
{
    switch (r->map) {
    case VERIFY_MAP_EQUAL:
        buf_printf(b, "; all %u pages are the source's at TXID %016llx", r->map_pages,
                   (unsigned long long)r->map_txid);
        break;
    case VERIFY_MAP_DIFFERS:
        buf_printf(b, "; %u page%s not the source's at TXID %016llx: ", r->map_differ,
                   r->map_differ == 1 ? " is" : "s are", (unsigned long long)r->map_txid);
        for (uint32_t i = 0; i < MIN(r->map_differ, (uint32_t)VERIFY_DIFFER_MAX); i++)
            buf_printf(b, "%s%u", i ? ", " : "", r->differ[i]);
        buf_add_str(b, r->map_differ > VERIFY_DIFFER_MAX ? ", ..." : "");
        break;
    case VERIFY_MAP_UNREACHED:
        buf_printf(b, "; not compared with the source: what is sound does not lead to TXID %016llx, that of its "
                   "page map", (unsigned long long)r->map_txid);
        break;
    case VERIFY_MAP_UNUSABLE:
        buf_printf(b, "; not compared with the source, whose page map cannot be used: %s", r->map_why);
        break;
    case VERIFY_MAP_NONE:
        buf_printf(b, "; not compared with the source: %s", no_map ? no_map : "there is no page map");
        break;
    }
}

static void add_summary(struct buf *b, const struct verify_result *r, const char *no_map)
{
    char size[32];
    size_t wrong = verify_wrong(r);
    buf_add_str(b, !r->latest_restores ? "THE LATEST STATE IS NOT SAFE"
                   : wrong             ? "damaged, but the latest state restores"
                                       : "proven");
    buf_printf(b, ": %zu object%s, %s read, ",
               r->n_objects - r->count[VERIFY_MISSING] - r->count[VERIFY_LOST] -
                   r->count[VERIFY_DELAYED],
               plural(r->n_objects), util_size(size, r->bytes));
    if (wrong)
        buf_printf(b, "%zu thing%s wrong, ", wrong, plural(wrong));
    if (r->n_points) {
        buf_printf(b, "%zu point%s from TXID ", r->n_points, plural(r->n_points));
        add_range(b, r->oldest, r->newest);
    } else {
        buf_add_str(b, "no point that can be restored");
    }
    if (r->compared)
        buf_printf(b, ", %zu recorded checksum%s arrived at", r->compared, plural(r->compared));
    else
        buf_add_str(b, ", no checksums of the database recorded");
    add_source(b, r, no_map);
}

/* What it means for somebody who needs the data. */
static void print_meaning(const struct verify_result *r)
{
    cleanup_buf struct buf b = BUF_INIT;
    if (!r->latest_restores)
        buf_printf(&b, "The latest state cannot be relied on: %s. ", r->latest_why);
    for (size_t i = 0; i < r->n_lost; i++) {
        buf_add_str(&b, i ? ", " : "What cannot be restored: TXID ");
        add_range(&b, r->lost[i].first, r->lost[i].last);
    }
    if (r->n_lost)
        buf_add_str(&b, ". ");
    if (r->latest_restores && verify_wrong(r))
        buf_add_str(&b, r->n_lost ? "The latest state restores. " : "Nothing is lost: every state that the replica "
                    "names can be restored from the other objects. ");
    if (r->count[VERIFY_DAMAGED] && r->latest_restores && !r->n_lost)
        buf_add_str(&b, "Restoring a single TXID may stop at a damaged object; without that object it does "
                    "not. ");
    if (b.len)
        out_wrapped(stdout, 2, buf_str(&b));
}

void verify_print(const struct verify_result *r, const char *db, const char *target, const char *where,
                  const char *no_map, bool all)
{
    cleanup_buf struct buf b = BUF_INIT;
    buf_printf(&b, "%s in %s: ", db, target ? target : where);
    add_summary(&b, r, no_map);
    out_wrapped(stdout, 0, buf_str(&b));
    for (size_t i = 0; i < r->n_objects; i++)
        if (all || r->object[i].state != VERIFY_FOUND)
            print_object(&r->object[i]);
    print_meaning(r);
}

/* ---- for programs ----------------------------------------------------------------------------- */

static json_t *txid_json(uint64_t txid)
{
    char hex[17];
    (void)snprintf(hex, sizeof hex, "%016llx", (unsigned long long)txid);
    return txid ? json_string(hex) : json_null();
}

static json_t *object_json(const struct verify_object *o)
{
    return json_pack("{s:s, s:o, s:i, s:o, s:o, s:I, s:I, s:s?}", "state", verify_state_name(o->state), "name",
                     o->name ? proto_text(o->name) : json_null(), "level", (int)o->level, "min",
                     txid_json(o->min), "max", txid_json(o->max), "size", (json_int_t)o->size, "timestamp_ms",
                     (json_int_t)o->time_ms, "why", o->why);
}

static json_t *source_json(const struct verify_result *r, const char *no_map)
{
    static const char *const name[] = {[VERIFY_MAP_NONE] = "none",
                                       [VERIFY_MAP_UNUSABLE] = "unusable",
                                       [VERIFY_MAP_UNREACHED] = "unreached",
                                       [VERIFY_MAP_DIFFERS] = "differs",
                                       [VERIFY_MAP_EQUAL] = "equal"};
    json_t *pages = json_array();
    for (uint32_t i = 0; i < MIN(r->map_differ, (uint32_t)VERIFY_DIFFER_MAX); i++)
        (void)json_array_append_new(pages, json_integer(r->differ[i]));
    const char *why = r->map == VERIFY_MAP_NONE ? no_map : r->map == VERIFY_MAP_UNUSABLE ? r->map_why : NULL;
    return json_pack("{s:s, s:o, s:I, s:I, s:o, s:s?}", "compared", name[r->map], "txid", txid_json(r->map_txid),
                     "pages", (json_int_t)r->map_pages, "differ", (json_int_t)r->map_differ, "differing", pages,
                     "why", why);
}

json_t *verify_json(const struct verify_result *r, const char *target, const char *where, const char *no_map,
                    bool all)
{
    json_t *objects = json_array(), *lost = json_array(), *counts = json_object();
    for (size_t i = 0; i < r->n_objects; i++)
        if (all || r->object[i].state != VERIFY_FOUND)
            (void)json_array_append_new(objects, object_json(&r->object[i]));
    for (size_t i = 0; i < r->n_lost; i++)
        (void)json_array_append_new(lost, json_pack("{s:o, s:o}", "first", txid_json(r->lost[i].first), "last",
                                                    txid_json(r->lost[i].last)));
    for (int i = 0; i <= VERIFY_DELAYED; i++)
        (void)json_object_set_new(counts, verify_state_name((enum verify_state)i),
                                  json_integer((json_int_t)r->count[i]));
    json_t *o = json_pack("{s:s?, s:s, s:i, s:b, s:b, s:s, s:o, s:I}", "target", target, "location", where,
                          "status", verify_status(r), "proven", verify_status(r) == 0, "latest_restores",
                          (int)r->latest_restores, "latest_why", r->latest_why, "counts", counts, "bytes",
                          (json_int_t)r->bytes);
    (void)json_object_update_new(o, json_pack("{s:I, s:o, s:o, s:I, s:o, s:o, s:o}", "checksums_compared",
                                              (json_int_t)r->compared, "oldest", txid_json(r->oldest), "newest",
                                              txid_json(r->newest), "points", (json_int_t)r->n_points, "lost",
                                              lost, "source", source_json(r, no_map), "objects", objects));
    return o;
}
