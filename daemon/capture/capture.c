#include "daemon/capture/capture.h"

#include "daemon/capture/capture_scan.h"

#define OUT_BYTES (256u << 10)
#define ROOM_PAGES 256 /* between two looks at the room that is left */

bool capture_same_wal(const struct capture_pos *pos, const struct session_index *x)
{
    return pos->salt[0] == x->salt[0] && pos->salt[1] == x->salt[1];
}

uint32_t capture_behind(const struct capture_pos *pos, const struct session_index *x)
{
    if (!pos->valid || !capture_same_wal(pos, x))
        return x->n;
    return x->n > pos->frame ? x->n - pos->frame : 0;
}

/* ---- output ----------------------------------------------------------------------------------- */

struct output {
    struct fsx_tmp *tmp;
    uint8_t *buf;
    size_t used;
};

static int output_flush(struct output *o, struct err *e)
{
    int r = fsx_write_all(o->tmp->fd, o->buf, o->used, e);
    o->used = 0;
    return r < 0 ? err_wrap(e, "write %s", o->tmp->tmp) : 0;
}

static int output_write(void *arg, const void *p, size_t n, struct err *e)
{
    struct output *o = arg;
    const uint8_t *from = p;
    while (n) {
        size_t part = MIN(n, OUT_BYTES - o->used);
        memcpy(o->buf + o->used, from, part);
        o->used += part;
        from += part;
        n -= part;
        if (o->used == OUT_BYTES) {
            int r = output_flush(o, e);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static void encoder_freep(struct ltx_encoder **enc)
{
    *enc = ltx_encoder_free(*enc);
}

/* Not down to the last byte: others write to this file system as well, the application perhaps. And a
 * file may be sparse, while what is written of it is not. */
static int room(const struct capture_opts *o, struct err *e)
{
    return fsx_room(o->dir, o->min_free_bytes, e);
}

/* ---- a range of frames ------------------------------------------------------------------------ */

static bool growth_missing(const struct capture_scan *sc)
{
    uint32_t lock = ltx_lock_pgno(sc->wal.page_size);
    for (uint32_t p = sc->least + 1; p && p <= sc->commit; p++)
        if (p != lock && !framemap_has(&sc->map, p))
            return true;
    return false;
}

/* Pages that the database grew by without a frame in the range: a reader would see the latest older
 * frame of this WAL that is not copied yet, else the file (which may have been cut in between, so a
 * frame that is copied no longer counts). */
static int complete_growth(struct session *s, struct capture_scan *sc, const struct session_index *x,
                           uint32_t pos_frame, struct err *e)
{
    uint32_t lock = ltx_lock_pgno(sc->wal.page_size);
    struct framemap older cleanup_framemap = {NULL, 0, 0};
    if (x->n != x->b) {
        uint8_t h[WAL_FRAME_HEADER_SIZE];
        for (uint32_t k = x->b + 1; k <= pos_frame; k++) {
            int r = session_wal_read(s, wal_frame_off(sc->wal.page_size, k), h, sizeof h, e);
            struct wal_frame f = wal_frame_parse(h);
            if (r == 0 && f.pgno > sc->least && f.pgno <= sc->commit)
                r = framemap_put(&older, f.pgno, k, e);
            if (r < 0)
                return r;
        }
        framemap_sort(&older, UINT32_MAX);
    }
    size_t i = 0;
    for (uint32_t p = sc->least + 1; p && p <= sc->commit; p++) {
        if (p == lock || framemap_has(&sc->map, p))
            continue;
        while (i < older.n && older.slot[i].pgno < p)
            i++;
        uint32_t frame = i < older.n && older.slot[i].pgno == p ? older.slot[i].frame : 0;
        int r = framemap_put(&sc->map, p, frame, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int range_pages(struct session *s, const struct capture_opts *o, void *arg,
                       struct ltx_encoder *enc, struct capture_file *out, struct err *e)
{
    struct capture_scan *sc = arg;
    uint32_t lock = ltx_lock_pgno(sc->wal.page_size);
    cleanup_free uint8_t *page = malloc(sc->wal.page_size);
    if (!page)
        return err_set(e, ERR_NOMEM, "no memory for a page");
    framemap_sort(&sc->map, sc->commit);
    for (size_t i = 0; i < sc->map.n; i++) {
        const struct framemap_entry *m = &sc->map.slot[i];
        if (m->pgno == lock)
            continue;
        int r = i && i % ROOM_PAGES == 0 ? room(o, e) : 0; /* the job has looked when it began */
        if (r < 0)
            return r;
        r = m->frame ? capture_scan_page(s, sc, m->frame, page, e)
                     : session_db_read(s, m->pgno, 1, page, e);
        if (r == 0)
            r = ltx_encoder_page(enc, m->pgno, page, e);
        if (r == 0 && o->map)
            r = pagemap_put(o->map, m->pgno, ltx_page_checksum(m->pgno, page, sc->wal.page_size), e);
        if (r < 0)
            return r;
        out->n_pages++;
    }
    return 0;
}

static void fill_header(struct ltx_header *h, const struct capture_opts *o, uint32_t page_size,
                        uint32_t commit)
{
    *h = (struct ltx_header){
        .flags = LTX_FLAG_NO_CHECKSUM,
        .page_size = page_size,
        .commit = commit,
        .min_txid = o->min_txid,
        .max_txid = o->max_txid,
        .timestamp_ms = o->timestamp_ms,
        .node_id = o->lineage,
        .clock_txid = o->clock_txid,
    };
}

/* Header, pages (by fn), trailer; the temporary file is left in out->tmp. */
static int write_file(struct session *s, const struct capture_opts *o, struct capture_file *out,
                      int (*pages)(struct session *, const struct capture_opts *, void *,
                                   struct ltx_encoder *, struct capture_file *, struct err *),
                      void *arg, struct err *e)
{
    cleanup_free uint8_t *buf = malloc(OUT_BYTES);
    if (!buf)
        return err_set(e, ERR_NOMEM, "no memory for an output buffer");
    int r = fsx_tmp_open(o->path, 0600, &out->tmp, e);
    if (r < 0)
        return r;
    struct output output = {&out->tmp, buf, 0};
    cleanup(encoder_freep) struct ltx_encoder *enc = NULL;
    r = ltx_encoder_new(&out->h, o->encoding, output_write, &output, &enc, e);
    if (r == 0)
        r = pages(s, o, arg, enc, out, e);
    if (r == 0)
        r = ltx_encoder_finish(enc, 0, &out->size, e);
    if (r == 0)
        r = output_flush(&output, e);
    if (r != 0)
        fsx_tmp_abort(&out->tmp);
    return r;
}

/* The last step: what may fail here must not leave a file behind that the map does not have. */
static int commit_map(const struct capture_opts *o, uint32_t pages, struct capture_file *out,
                      struct err *e)
{
    if (!o->map)
        return 0;
    int r = pagemap_commit(o->map, o->max_txid, pages, e);
    if (r < 0)
        fsx_tmp_abort(&out->tmp);
    else
        out->checksum = pagemap_state(o->map)->checksum;
    return r;
}

/* Where the range starts: 0 with sc and *ret_first set, BROKEN if the WAL is not the one expected. */
static int range_start(struct session *s, const struct capture_pos *pos,
                       const struct session_index *x, struct capture_scan *sc, uint32_t *ret_first,
                       struct err *e)
{
    int r = capture_scan_header(s, x, sc, e);
    if (r != 0)
        return r;
    bool same = capture_same_wal(pos, x);
    if (!same && !pos->restartable)
        return CAPTURE_BROKEN;
    bool from_start = !same || !pos->frame;
    memcpy(sc->cksum, from_start ? sc->wal.cksum : pos->cksum, sizeof sc->cksum);
    *ret_first = from_start ? 1 : pos->frame + 1;
    return 0;
}

static int range(struct session *s, const struct capture_pos *pos, const struct session_index *x,
                 const struct capture_opts *o, struct capture_scan *sc, struct capture_file *out,
                 struct err *e)
{
    uint32_t first = 1;
    int r = range_start(s, pos, x, sc, &first, e);
    if (r != 0)
        return r;
    uint64_t size = wal_frame_size(x->page_size);
    sc->least = pos->pages;
    r = capture_scan_frames(s, sc, first, x->n, MAX(o->limit_bytes / size, (uint64_t)1), e);
    if (r < 0)
        return r;
    if (growth_missing(sc)) {
        /* The file may already hold newer versions of such pages than a cut in the middle of the
         * WAL would show, so the range goes to the end. */
        if (sc->last < x->n) {
            capture_scan_done(sc);
            memcpy(sc->cksum, first == 1 ? sc->wal.cksum : pos->cksum, sizeof sc->cksum);
            r = capture_scan_frames(s, sc, first, x->n, UINT64_MAX, e);
            if (r < 0)
                return r;
        }
        r = complete_growth(s, sc, x, first - 1, e);
        if (r < 0)
            return r;
    }
    if (!sc->commit || (sc->last == x->n && memcmp(sc->commit_cksum, x->cksum, sizeof x->cksum)))
        return err_set(e, ERR_CORRUPT, "the WAL of %s does not end in the commit its wal-index names",
                       session_path(s));
    fill_header(&out->h, o, x->page_size, sc->commit);
    out->frames = sc->last - first + 1;
    out->h.wal_offset = (int64_t)wal_frame_off(x->page_size, first);
    out->h.wal_size = (int64_t)(out->frames * size);
    memcpy(out->h.wal_salt, x->salt, sizeof x->salt);
    return write_file(s, o, out, range_pages, sc, e);
}

int capture_range(struct session *s, struct capture_pos *pos, const struct capture_opts *opts,
                  struct capture_file *ret, struct err *e)
{
    struct session_index x, after;
    int r = session_index(s, &x, e);
    if (r < 0)
        return r;
    if (opts->end && x.salt[0] == opts->end->salt[0] && x.salt[1] == opts->end->salt[1] && x.n > opts->end->n) {
        x.n = opts->end->n;
        x.pages = opts->end->pages;
        memcpy(x.cksum, opts->end->cksum, sizeof x.cksum);
    }
    if (!pos->valid || (!capture_same_wal(pos, &x) && !pos->restartable) ||
        (capture_same_wal(pos, &x) && x.n < pos->frame)) {
        pos->valid = false;
        return CAPTURE_BROKEN;
    }
    if (!capture_behind(pos, &x))
        return CAPTURE_NOTHING;
    cleanup(capture_scan_done) struct capture_scan sc = {.last = 0};
    *ret = (struct capture_file){.tmp = FSX_TMP_INIT};
    r = range(s, pos, &x, opts, &sc, ret, e);
    if (r == 0 || r == CAPTURE_BROKEN || r == -ERR_CORRUPT) {
        /* A guard that landed in slot 0 with frames not ours cannot stop a restart: whatever was
         * read, or seemed damaged, while that happened means nothing. */
        int r2 = session_index(s, &after, e);
        if (r2 == 0 && (after.salt[0] != x.salt[0] || after.salt[1] != x.salt[1]))
            r2 = CAPTURE_BROKEN;
        if (r2 != 0) {
            fsx_tmp_abort(&ret->tmp);
            r = r2;
        }
    }
    if (r == CAPTURE_BROKEN)
        pos->valid = false;
    if (r == 0)
        r = commit_map(opts, sc.commit, ret, e);
    if (r != 0)
        return r;
    *pos = (struct capture_pos){
        .valid = true,
        .salt = {x.salt[0], x.salt[1]},
        .frame = sc.last,
        .cksum = {sc.commit_cksum[0], sc.commit_cksum[1]},
        .pages = sc.commit,
        .restartable = false,
    };
    return 0;
}

/* ---- the whole database ----------------------------------------------------------------------- */

struct full {
    const struct session_index *x;
    struct capture_reader *reader;
    uint64_t sum; /* XOR of the checksums of the pages read */
};

/* One page as a reader sees it: into the map, and into the file unless the old map has it already. A
 * changed size shows in page 1, so that there is a file to carry it. */
static int full_page(const struct capture_opts *o, struct full *f, uint32_t pgno, const uint8_t *page,
                     struct ltx_encoder *enc, struct capture_file *out, struct err *e)
{
    uint64_t sum = ltx_page_checksum(pgno, page, f->x->page_size), before = 0;
    f->sum ^= sum;
    int r = o->map ? pagemap_put(o->map, pgno, sum, e) : 0;
    if (r == 0 && o->old)
        r = pagemap_get(o->old, pgno, &before, e);
    bool resized = pgno == 1 && o->old && pagemap_state(o->old)->pages != f->x->pages;
    if (r < 0 || !enc || (before == sum && !resized))
        return r;
    out->n_pages++;
    return ltx_encoder_page(enc, pgno, page, e);
}

static int full_pages(struct session *s, const struct capture_opts *o, void *arg,
                      struct ltx_encoder *enc, struct capture_file *out, struct err *e)
{
    (void)s;
    struct full *f = arg;
    uint32_t ps = f->x->page_size, lock = ltx_lock_pgno(ps), first, n;
    const uint8_t *pages;
    int r;
    while ((r = capture_reader_next(f->reader, &first, &n, &pages, e)) == 0) {
        r = room(o, e);
        if (r < 0)
            return r;
        for (uint32_t i = 0; i < n; i++) {
            if (first + i == lock)
                continue;
            r = full_page(o, f, first + i, pages + (size_t)i * ps, enc, out, e);
            if (r < 0)
                return r;
        }
    }
    if (r != 1)
        return r;
    return enc && !out->n_pages ? CAPTURE_SAME : 0;
}

static int full(struct session *s, struct full *f, const struct capture_opts *o,
                struct capture_file *out, struct err *e)
{
    const struct session_index *x = f->x;
    int r = capture_reader_new(s, x, o->touch ? 1 : x->pages, &f->reader, e);
    if (r != 0)
        return r;
    if (x->n != x->b)
        out->frames = x->n;
    fill_header(&out->h, o, x->page_size, x->pages);
    out->h.wal_offset = WAL_HEADER_SIZE;
    out->h.wal_size = (int64_t)(x->n * wal_frame_size(x->page_size));
    memcpy(out->h.wal_salt, x->salt, sizeof x->salt);
    r = o->path ? write_file(s, o, out, full_pages, f, e) : full_pages(s, o, f, NULL, out, e);
    f->reader = capture_reader_free(f->reader);
    return r;
}

int capture_full(struct session *s, const struct session_index *x, struct capture_pos *pos,
                 const struct capture_opts *opts, struct capture_file *ret, struct err *e)
{
    *ret = (struct capture_file){.tmp = FSX_TMP_INIT};
    if (!x->pages)
        return CAPTURE_NOTHING;
    struct full f = {.x = x};
    int r = full(s, &f, opts, ret, e);
    if (r == 0 && !opts->touch)
        ret->checksum = f.sum | LTX_CHECKSUM_FLAG;
    if (r == 0)
        r = commit_map(opts, x->pages, ret, e);
    if (r != 0 && r != CAPTURE_SAME)
        return r;
    *pos = (struct capture_pos){
        .valid = true,
        .salt = {x->salt[0], x->salt[1]},
        .frame = x->n,
        .cksum = {x->cksum[0], x->cksum[1]},
        .pages = x->pages,
        .restartable = x->n == x->b,
    };
    return r;
}
