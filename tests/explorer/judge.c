/* judge.c - is what lies in the spool what was committed, and the database unharmed? */
#include <errno.h>
#include <sys/stat.h>

#include "common/format/crc64.h"
#include "tests/explorer/apart.h"
#include "tests/explorer/world.h"

struct shadow {
    uint8_t *p; /* the image */
    uint32_t pages, cap;
    uint64_t txid;
    size_t state; /* of the ledger */
};

static void shadow_size(struct shadow *sh, uint32_t pages)
{
    if (pages > sh->cap) {
        sh->cap = pages * 2;
        sh->p = util_realloc(sh->p, (size_t)sh->cap * WORLD_PAGE_SIZE);
    }
    /* a page that no file brings is told from every page that exists */
    if (pages > sh->pages)
        memset(sh->p + (size_t)sh->pages * WORLD_PAGE_SIZE, 0xee,
               (size_t)(pages - sh->pages) * WORLD_PAGE_SIZE);
    sh->pages = pages;
}

static char *find_file(uint64_t txid)
{
    char *path = spool_path(world.spool, txid);
    if (access(path, F_OK) == 0)
        return path;
    free(path);
    path = world.replica ? spool_path(world.replica, txid) : NULL;
    if (path && access(path, F_OK) == 0)
        return path;
    free(path);
    return NULL;
}

static bool apply(struct shadow *sh, const char *path, uint64_t txid)
{
    cleanup_buf struct buf b = BUF_INIT;
    struct err e;
    struct ltx_decoder d;
    if (fsx_read(path, SIZE_MAX, &b, &e) < 0 || ltx_decoder_open(&d, b.p, b.len, &e) < 0) {
        world_violation("%s", e.msg);
        return false;
    }
    shadow_size(sh, d.h.commit);
    uint8_t page[65536];
    uint32_t pgno;
    int r;
    while ((r = ltx_decoder_next(&d, &pgno, page, &e)) == 0) {
        memcpy(sh->p + (size_t)(pgno - 1) * WORLD_PAGE_SIZE, page, WORLD_PAGE_SIZE);
        world.n_pages++;
    }
    if (r < 0)
        world_violation("%s: %s", path, e.msg);
    sh->txid = txid;
    world.n_files++;
    return r >= 0;
}

/* The state must be one that was committed, and none from before the state of the file before it. */
static void find_state(struct shadow *sh)
{
    uint64_t hash = crc64(0, sh->p, (size_t)sh->pages * WORLD_PAGE_SIZE);
    for (size_t i = world.may_lose ? 0 : sh->state; i < world.n_states; i++)
        if (world.state[i] == hash) {
            sh->state = i;
            world.n_states_checked++;
            return;
        }
    if (!world.hidden)
        world_violation("TXID %llu is no state that was ever committed after state %zu of %zu",
                        (unsigned long long)sh->txid, sh->state, world.n_states);
}

/* What a reader sees now: by the application that is in use. */
static bool see(struct buf *b)
{
    sqlite3_int64 bytes = 0;
    if (world.apart)
        return apart_open(apart_app, 0) == APART_DONE && apart_image(apart_app, b);
    world_app_open();
    uint8_t *p = world.app ? world_image(world.app, &bytes) : NULL;
    if (p)
        buf_add(b, p, (size_t)bytes);
    sqlite3_free(p);
    return p != NULL;
}

static void compare(const struct shadow *sh)
{
    cleanup_buf struct buf b = BUF_INIT;
    if (!see(&b)) {
        world_violation("the database cannot be read");
        return;
    }
    const uint8_t *now = b.p;
    size_t bytes = b.len;
    if (!world.hidden && crc64(0, now, bytes) != world.state[world.n_states - 1])
        world_violation("the database is not what the application committed last");
    if (bytes != (size_t)sh->pages * WORLD_PAGE_SIZE)
        world_violation("the spool ends with %u pages, the database has %zu", sh->pages,
                        bytes / WORLD_PAGE_SIZE);
    for (uint32_t i = 0; !world.violation[0] && i < sh->pages; i++)
        if (memcmp(sh->p + (size_t)i * WORLD_PAGE_SIZE, now + (size_t)i * WORLD_PAGE_SIZE,
                   WORLD_PAGE_SIZE) != 0)
            world_violation("page %u of %u differs between the spool and the database", i + 1,
                            sh->pages);
}

static void check_integrity(void)
{
    sqlite3_stmt *st = NULL;
    const char *text = NULL;
    char answer[200];
    if (world.apart) {
        apart_ask(apart_app, "pragma integrity_check", answer, sizeof answer);
        if (strcmp(answer, "ok") != 0)
            world_violation("integrity_check: %.100s", answer);
        return;
    }
    if (sqlite3_prepare_v2(world.app, "pragma integrity_check", -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW)
        text = (const char *)sqlite3_column_text(st, 0);
    if (!text || strcmp(text, "ok") != 0)
        world_violation("integrity_check: %.100s", text ? text : sqlite3_errmsg(world.app));
    (void)sqlite3_finalize(st);
}

void world_judge(void)
{
    struct spool_state st;
    struct err e;
    world_settle();
    if (world.violation[0])
        return;
    if (spool_open(world.spool, &st, &e) < 0) {
        world_violation("%s", e.msg);
        return;
    }
    struct shadow sh = {.p = NULL};
    if (st.damage)
        world_violation("%s", st.damage);
    while (!world.violation[0]) {
        cleanup_free char *path = find_file(sh.txid + 1);
        if (!path)
            break;
        if (apply(&sh, path, sh.txid + 1))
            find_state(&sh);
    }
    if (sh.txid < world.acked_txid || (st.has_tip && sh.txid != st.tip.max_txid))
        world_violation("TXID %llu is missing: acknowledged up to %llu, the spool up to %llu",
                        (unsigned long long)sh.txid + 1, (unsigned long long)world.acked_txid,
                        (unsigned long long)(st.has_tip ? st.tip.max_txid : 0));
    if (!world.violation[0])
        compare(&sh);
    if (!world.violation[0])
        check_integrity();
    free(sh.p);
    spool_state_done(&st);
}
