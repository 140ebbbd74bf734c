#include "daemon/capture/source_int.h"

#define LARGE_PAGES 4096       /* a new map of a smaller database is not worth two fsyncs at once */
#define REDO_BYTES (64u << 20) /* so much of the spool may have to be read again after a crash */

void source_map_forget(struct source *s)
{
    s->map = pagemap_close(s->map);
}

void source_map_drop(struct source *s, struct source_result *ret, const struct err *e)
{
    source_map_forget(s);
    pagemap_remove(s->dir);
    s->no_map = true;
    if (e && !ret->map_lost[0])
        (void)snprintf(ret->map_lost, sizeof ret->map_lost, "%s", e->msg);
}

/* From the map's TXID to the newest, file by file. */
static int redo(struct source *s, struct pagemap *m, struct err *e)
{
    uint64_t from = pagemap_state(m)->txid;
    for (uint64_t txid = from + 1; txid <= s->published; txid++) {
        cleanup_free char *path = spool_path(s->dir, txid);
        int r = pagemap_redo(m, path, e);
        if (r == 0)
            r = pagemap_flush(m, e);
        if (r < 0)
            return r;
    }
    /* entries on disk may have been ahead of the header: the sum is to be counted anew */
    return from < s->published ? pagemap_check(m, true, e) : 0;
}

/* What the last process of this boot handed to the operating system is there, whatever became of the
 * process, and its record tells what it comes to. */
static bool adopt(struct source *s, struct pagemap *m)
{
    struct position p;
    if (!position_read(s->dir, &p) || p.txid != s->published || p.lineage != s->lineage || !p.checksum ||
        !p.boot || p.boot != position_boot())
        return false;
    pagemap_adopt(m, p.txid, p.pos.pages, p.checksum);
    return true;
}

static void load(struct source *s, bool trust_record)
{
    struct err e;
    struct pagemap *m = NULL;
    if (s->map || s->no_map || s->n_out)
        return;
    s->no_map = true;
    if (!s->published || pagemap_open(s->dir, &m, &e) != 0)
        return;
    const struct pagemap_state *st = pagemap_state(m);
    int r = -1;
    if (st->lineage == s->lineage && st->txid <= s->published && s->published - st->txid <= SOURCE_REDO_MAX)
        r = trust_record && adopt(s, m) ? 0 : redo(s, m, &e);
    if (r != 0) {
        (void)pagemap_close(m);
        return; /* replaced by the next full capture or survey */
    }
    s->map = m;
    s->no_map = false;
}

void source_map_load(struct source *s)
{
    load(s, true);
}

void source_map_redo(struct source *s)
{
    source_map_forget(s);
    s->no_map = false;
    load(s, false);
}

void source_map_published(struct source *s, struct source_result *ret)
{
    struct err e;
    if (!s->map || pagemap_state(s->map)->txid != s->published) {
        source_map_forget(s);
        return;
    }
    const struct pagemap_state *st = pagemap_state(s->map);
    bool first = !st->durable && st->pages >= LARGE_PAGES;
    if (first || s->bytes_since_sync >= REDO_BYTES || st->txid - st->durable >= SOURCE_REDO_MAX / 2)
        source_map_sync(s, ret);
    else if (pagemap_flush(s->map, &e) < 0)
        source_map_drop(s, ret, &e);
}

void source_map_sync(struct source *s, struct source_result *ret)
{
    struct err e;
    source_map_load(s);
    if (!s->map || pagemap_state(s->map)->txid != s->published)
        return;
    if (pagemap_sync(s->map, &e) < 0)
        source_map_drop(s, ret, &e);
    else
        s->bytes_since_sync = 0;
}
