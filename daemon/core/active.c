#include "daemon/core/active.h"

#include "common/base/clk.h"
#include "daemon/core/database.h"

#define PROOF_SCANS 3 /* so many times scan-interval, and a bit, may pass between two looks at the files */
#define PROOF_MS 30000

void active_add(struct active *a, struct database *db)
{
    if (!a || db->at_work.place)
        return;
    if (a->n == a->cap) {
        a->cap = MAX(2 * a->cap, (size_t)16);
        a->db = util_realloc(a->db, a->cap * sizeof(struct database *));
    }
    a->db[a->n++] = db;
    db->at_work.place = a->n;
}

static void take_out(struct active *a, struct database *db)
{
    size_t place = db->at_work.place;
    if (!place)
        return;
    db->at_work.place = 0;
    struct database *last = a->db[--a->n];
    if (last == db)
        return;
    a->db[place - 1] = last;
    last->at_work.place = place;
}

/* ---- proofs -------------------------------------------------------------------------------------- */

uint64_t active_proof_ms(const struct database *db)
{
    return MAX(db->looked_ms, db->audited_ms);
}

uint64_t active_proof_limit_ms(const struct database *db)
{
    return db->conf.scan_ms * PROOF_SCANS + PROOF_MS;
}

bool active_proof_is_old(const struct database *db)
{
    uint64_t now = clk_mono_ms(), at = active_proof_ms(db);
    return now > at && now - at > active_proof_limit_ms(db);
}

static void unlink_proof(struct active *a, struct database *db)
{
    struct active_entry *x = &db->at_work;
    if (!x->proven)
        return;
    *(x->older ? &x->older->at_work.newer : &a->oldest) = x->newer;
    *(x->newer ? &x->newer->at_work.older : &a->newest) = x->older;
    x->older = x->newer = NULL;
    x->proven = false;
}

/* before `newer`; NULL: as the newest */
static void link_proof(struct active *a, struct database *db, struct database *newer)
{
    struct active_entry *x = &db->at_work;
    x->newer = newer;
    x->older = newer ? newer->at_work.older : a->newest;
    *(x->older ? &x->older->at_work.newer : &a->oldest) = db;
    *(newer ? &newer->at_work.older : &a->newest) = db;
    x->proven = true;
}

void active_proven(struct active *a, struct database *db)
{
    if (!a)
        return;
    unlink_proof(a, db);
    link_proof(a, db, NULL);
}

void active_unproven(struct active *a, size_t max)
{
    for (; max && a->oldest && active_proof_is_old(a->oldest); max--) {
        struct database *db = a->oldest;
        unlink_proof(a, db);
        active_add(a, db);
    }
}

/* It may have been taken from the list of proofs because its proof was too old, which a longer scan-interval made
 * good: it belongs among the oldest. */
void active_remove(struct active *a, struct database *db)
{
    take_out(a, db);
    if (db->at_work.proven)
        return;
    struct database *newer = a->oldest;
    while (newer && active_proof_ms(newer) < active_proof_ms(db))
        newer = newer->at_work.newer;
    link_proof(a, db, newer);
}

bool active_is_due(const struct active *a, const struct database *db)
{
    for (const struct database *x = db; x; x = x->at_work.older)
        if (!x->at_work.proven || (x != db && !active_proof_is_old(x)))
            return false;
    return a->oldest != NULL;
}

void active_forget(struct active *a, struct database *db)
{
    take_out(a, db);
    unlink_proof(a, db);
}

void active_done(struct active *a)
{
    free(a->db);
    *a = (struct active){.n = 0};
}
