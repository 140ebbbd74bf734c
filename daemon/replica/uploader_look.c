/* uploader_look.c - is what the replica holds still there? A bucket may be emptied, a lifecycle rule may expire objects,
 * a disk may not be mounted. An acknowledgement of last month proves nothing of today.
 *
 * A look asks for the newest object and for the whole database (the anchor) that a restore would begin with: two
 * requests, when somebody relies on the replica, when it was silent for a while, and once a day. Where somebody waits
 * for `sync --wait`, all level 0 files since the last merge are listed instead of asking for the newest one only. What
 * lies between is for walsupctl verify. */
#include "daemon/replica/uploader_int.h"

#include <inttypes.h>

#include "common/base/clk.h"
#include "common/base/log.h"
#include "common/store/layout.h"
#include "daemon/core/database.h"

#define LOOK_MS (24 * 3600 * 1000u)  /* at least so often; WALSUP_TEST_LOOK_MS shortens it */
#define SILENT_MS (10 * 60 * 1000u)  /* the store was not heard of for so long: look before anything is built on it */
#define FRESH_MS 2000u               /* a look so recent is good enough for whoever waits; WALSUP_TEST_FRESH_MS */
#define PAGE_DIGITS 3u               /* of a TXID: so many names are few listings */
#define PACE_MS 50u                  /* between the looks of many replicas that nobody waits for; WALSUP_TEST_PACE_MS */

static uint64_t for_tests(uint64_t *ms, const char *name, uint64_t otherwise)
{
    if (!*ms) {
        const char *own = getenv(name);
        uint64_t n = own ? strtoull(own, NULL, 10) : 0;
        *ms = n ? n : otherwise;
    }
    return *ms;
}

static uint64_t look_ms(void)
{
    static uint64_t ms;
    return for_tests(&ms, "WALSUP_TEST_LOOK_MS", LOOK_MS);
}

static uint64_t fresh_ms(void)
{
    static uint64_t ms;
    return for_tests(&ms, "WALSUP_TEST_FRESH_MS", FRESH_MS);
}

static uint64_t pace_ms(void)
{
    static uint64_t ms;
    return for_tests(&ms, "WALSUP_TEST_PACE_MS", PACE_MS);
}

/* ---- when ---------------------------------------------------------------------------------------- */

/* Each gets a turn of its own, so that neither a start with ten thousand databases nor the day after is a burst. */
void uploader_look_plan(struct uploader *u)
{
    struct history_shared *s = u->db->shared;
    if (!s || u->look_due.place || u->closing)
        return;
    uint64_t now = clk_mono_ms();
    s->look_slot_ms = MAX(s->look_slot_ms, now) + pace_ms();
    agenda_set(s->looks, &u->look_due, s->look_slot_ms);
}

void uploader_look_due(struct uploader *u)
{
    struct history_shared *s = u->db->shared;
    uint64_t now = clk_mono_ms(), every = look_ms();
    bool due = !u->anchor_seen_ms || now >= u->looked_ms + every;
    agenda_set(s->looks, &u->look_due, due ? now + every : u->looked_ms + every);
    if (!due || !u->known || u->fenced)
        return;
    u->look_wanted = true;
    uploader_poke(u);
}

void uploader_look_again(struct uploader *u)
{
    if (!u->db->shared || u->closing)
        return;
    agenda_remove(u->db->shared->looks, &u->look_due);
    u->anchor_seen_ms = 0;
    u->retry_at_ms = 0;
    uploader_look_plan(u);
    uploader_poke(u);
}

void uploader_want_look(struct uploader *u)
{
    if (!u->db->shared || (u->anchor_seen_ms && clk_mono_ms() < u->looked_ms + fresh_ms()))
        return;
    u->look_wanted = true;
    u->look_tail = u->anchor_seen_ms != 0; /* the first one is cheap: a start lists nothing */
}

bool uploader_is_seen(const struct uploader *u)
{
    return !u->db->shared || (u->anchor_seen_ms && !u->look_wanted && !u->broken);
}

bool uploader_look_first(const struct uploader *u)
{
    if (!u->db->shared || u->broken || !u->acked)
        return false;
    return u->look_wanted || !u->anchor_seen_ms || clk_mono_ms() >= u->contact_ms + SILENT_MS;
}

bool uploader_look_close(struct uploader *u)
{
    if (u->db->shared)
        agenda_remove(u->db->shared->looks, &u->look_due);
    return u->flight && u->flight->what == FLIGHT_LOOK && u->flight->looking->at == LOOK_INVENTORY;
}

/* ---- what came of it ----------------------------------------------------------------------------- */

static void seen(struct uploader *u)
{
    u->anchor_seen_ms = clk_real_ms();
    u->looked_ms = clk_mono_ms();
    u->look_wanted = u->look_tail = false;
}

static void forget_broken(struct uploader *u, const char *how)
{
    if (!u->broken)
        return;
    free(TAKE_PTR(u->broken));
    log_about(LOG_UPLOADED_AGAIN, u->db->name, u->target, "ok");
    log_line(LOG_NOTICE, "%s -> %s: the replica is whole again: %s", u->db->name, u->target, how);
    retry_ok(&u->retry);
    free(TAKE_PTR(u->err));
    database_uploader_changed(u->db, u);
}

void uploader_anchored(struct uploader *u, uint64_t txid)
{
    if (u->broken && txid < u->broken_txid)
        return;
    seen(u);
    uploader_look_plan(u);
    forget_broken(u, "a new snapshot was stored");
}

void uploader_mended(struct uploader *u)
{
    if (u->broken)
        seen(u);
    forget_broken(u, "what seemed to be missing is there");
}

/* The replica cannot be restored up to its end. The keeper finds out what else is missing, and stores a snapshot. */
static void missed(struct uploader *u, const char *key)
{
    struct err e;
    err_set(&e, ERR_NOTFOUND, "\"%s\" is gone from %s: somebody else deleted what this replica needs", key,
            store_describe(u->store));
    err_hint(&e,
             "a new snapshot is being stored; states before it may be lost (walsupctl verify %s); "
             "look for a lifecycle "
             "rule, or for whoever deletes there",
             u->db->name);
    if (!u->broken)
        u->broken = util_alloc(sizeof *u->broken);
    *u->broken = e;
    u->broken_txid = u->acked;
    u->look_wanted = u->look_tail = false;
    u->anchor_seen_ms = 0;
    log_about(LOG_GONE, u->db->name, u->target, "error");
    log_err(LOG_ERROR, &e, "%s -> %s", u->db->name, u->target);
    uploader_succeeded(u); /* the store has answered; that says what is wrong */
    history_heal(u->db, u);
}

/* ---- the passes ---------------------------------------------------------------------------------- */

static void on_asked(struct inventory_req *req);

static void ask(struct uploader *u, struct uploader_looking *l)
{
    l->at = LOOK_INVENTORY;
    l->ask = (struct inventory_req){.what = INVENTORY_ANCHOR, .done = on_asked, .data = u};
    l->ask.at = (struct inventory_place){u->db->name, u->target, uploader_place(u, 0)};
    inventory_ask(u->db->shared->inventory, &l->ask);
}

void uploader_look(struct uploader *u)
{
    struct uploader_flight *f = uploader_take_off(u, FLIGHT_LOOK, NULL);
    f->looking = util_zalloc(sizeof *f->looking);
    f->looking->tail = u->look_tail;
    ask(u, f->looking);
}

/* key becomes the flight's */
static void head(struct uploader *u, struct uploader_flight *f, enum look_at at, char *key)
{
    free(f->key);
    f->key = key;
    f->looking->at = at;
    store_head(u->store, &f->req, f->key, &f->looking->info);
}

static int on_tail(void *arg, const struct store_object *o, struct err *e)
{
    (void)e;
    struct uploader_looking *l = arg;
    uint64_t min, max;
    if (layout_parse(o->key, &min, &max) && min == l->next && max == min)
        l->next++;
    return 0;
}

static int on_whole(void *arg, const struct store_object *o, struct err *e)
{
    (void)e;
    struct uploader_looking *l = arg;
    uint64_t min, max;
    l->whole = l->whole || (layout_parse(o->key, &min, &max) && min == 1);
    return 0;
}

static char *key_of(const struct uploader *u, unsigned level, uint64_t min, uint64_t max)
{
    return layout_key(store_type(u->store), u->replica, level, min, max);
}

/* prefix and after become the flight's. */
static void list(struct uploader *u, struct uploader_flight *f, enum look_at at, char *prefix, char *after,
                 store_item_fn item)
{
    free(f->key);
    free(f->after);
    f->key = prefix;
    f->after = after;
    f->looking->at = at;
    store_list(u->store, &f->req, f->key, f->after, item, f->looking);
}

/* What the names of level 0 from one TXID to another begin with keeps the listing to a page, mostly; else what is known
 * already is left out of it. */
static void list_tail(struct uploader *u, struct uploader_flight *f, uint64_t first, uint64_t last)
{
    char *prefix = key_of(u, 0, first, first);
    cleanup_free char *end = key_of(u, 0, last, last);
    size_t dir = (size_t)(strrchr(prefix, '/') - prefix) + 1, same = dir;
    while (same < dir + 16 && prefix[same] == end[same])
        same++;
    prefix[same] = '\0';
    bool many = dir + 16 - same > PAGE_DIGITS;
    list(u, f, LOOK_TAIL, prefix, many ? key_of(u, 0, first - 1, first - 1) : NULL, on_tail);
}

/* The whole database below it all. If the inventory knows none it is looked for. */
static void look_at_anchor(struct uploader *u, struct uploader_flight *f)
{
    const struct inventory_anchor *a = &f->looking->ask.anchor;
    if (a->whole)
        head(u, f, LOOK_ANCHOR, key_of(u, a->level, 1, a->whole));
    else
        list(u, f, LOOK_WHOLE, layout_prefix(store_type(u->store), u->replica, LTX_SNAPSHOT_LEVEL), NULL, on_whole);
}

static void look_at_end(struct uploader *u, struct uploader_flight *f)
{
    struct uploader_looking *l = f->looking;
    const struct inventory_anchor *a = &l->ask.anchor;
    uint64_t from = MAX(a->whole, a->merged);
    if (u->acked <= a->whole) { /* it is the anchor itself */
        look_at_anchor(u, f);
    } else if (l->tail && a->whole && from < u->acked) {
        l->next = from + 1;
        list_tail(u, f, from + 1, u->acked);
    } else {
        head(u, f, LOOK_NEWEST, key_of(u, 0, u->acked, u->acked));
    }
}

static void on_asked(struct inventory_req *req)
{
    struct uploader *u = req->data;
    struct uploader_flight *f = u->flight;
    if (!u->closing && req->err.code == ERR_OK) {
        look_at_end(u, f);
        return;
    }
    u->flight = NULL;
    if (!u->closing) {
        f->req.err = req->err;
        uploader_failed(u, f);
    }
    uploader_landed(u, f);
}

/* Somebody deleted it; or the keeper did a moment ago, because a merged file holds the same: what the inventory says
 * now decides. True: a second pass has begun. key is freed. */
static bool missing(struct uploader *u, struct uploader_flight *f, char *key)
{
    bool again = !f->looking->again;
    if (again) {
        f->looking->again = true;
        u->flight = f;
        ask(u, f->looking);
    } else {
        missed(u, key);
    }
    free(key);
    return again;
}

/* True: the next request is under way. */
static bool go_on(struct uploader *u, struct uploader_flight *f)
{
    struct uploader_looking *l = f->looking;
    bool gone = f->req.err.code == ERR_NOTFOUND;
    switch (l->at) {
    case LOOK_INVENTORY:
        break;
    case LOOK_TAIL:
        if (l->next <= u->acked)
            return missing(u, f, key_of(u, 0, l->next, l->next));
        u->flight = f;
        look_at_anchor(u, f);
        return true;
    case LOOK_NEWEST:
        if (gone)
            return missing(u, f, util_strdup(f->key));
        u->flight = f;
        look_at_anchor(u, f);
        return true;
    case LOOK_WHOLE:
        if (!l->whole) {
            u->flight = f;
            head(u, f, LOOK_FIRST, key_of(u, 0, 1, 1));
            return true;
        }
        break;
    case LOOK_ANCHOR:
    case LOOK_FIRST:
        if (gone)
            return missing(u, f, util_strdup(f->key));
        break;
    }
    uploader_succeeded(u);
    seen(u);
    return false;
}

bool uploader_looked(struct uploader *u, struct uploader_flight *f)
{
    bool listing = f->looking->at == LOOK_TAIL || f->looking->at == LOOK_WHOLE;
    if (f->req.err.code == ERR_OK || (f->req.err.code == ERR_NOTFOUND && !listing))
        return go_on(u, f);
    uploader_failed(u, f);
    return false;
}
