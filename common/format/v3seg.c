#include "common/format/v3seg.h"

#include <lz4frame.h>

#define INDEX_DIGITS 8u
#define INDEX_MAX 0x7fffffffu
#define OFF_DIGITS_MIN 8u
#define OFF_DIGITS_MAX 16u
#define OUT_BYTES (256u * 1024)
#define LZ4_MAGIC 0x184d2204u
#define LZ4_CONTENT_CHECKSUM 0x04u

/* ---- names ---------------------------------------------------------------------------------- */

static size_t hex_digits(const char *s)
{
    return strspn(s, "0123456789abcdef");
}

bool v3_generation_ok(const char *s)
{
    return hex_digits(s) == V3_GENERATION_SIZE - 1 && !s[V3_GENERATION_SIZE - 1];
}

/* "xxxxxxxx" and what follows it */
static const char *take_index(const char *p, uint32_t *ret)
{
    if (hex_digits(p) != INDEX_DIGITS)
        return NULL;
    unsigned long v = strtoul(p, NULL, 16);
    *ret = (uint32_t)v;
    return v <= INDEX_MAX ? p + INDEX_DIGITS : NULL;
}

bool v3_name_parse(const char *name, struct v3_file *ret)
{
    static const char snapshots[] = "snapshots/", wal[] = "wal/";
    struct v3_file f = {.mtime_ms = 0};
    if (hex_digits(name) != V3_GENERATION_SIZE - 1 || name[V3_GENERATION_SIZE - 1] != '/')
        return false;
    memcpy(f.generation, name, V3_GENERATION_SIZE - 1);
    const char *p = name + V3_GENERATION_SIZE;
    f.snapshot = !strncmp(p, snapshots, sizeof snapshots - 1);
    if (!f.snapshot && strncmp(p, wal, sizeof wal - 1) != 0)
        return false;
    p = take_index(p + (f.snapshot ? sizeof snapshots : sizeof wal) - 1, &f.index);
    if (!p)
        return false;
    if (!f.snapshot) {
        if (*p++ != '_')
            return false;
        size_t digits = hex_digits(p);
        if (digits < OFF_DIGITS_MIN || digits > OFF_DIGITS_MAX)
            return false;
        f.off_digits = (uint8_t)digits;
        f.off = strtoull(p, NULL, 16);
        if (f.off > INT64_MAX)
            return false;
        p += digits;
    }
    if (strcmp(p, f.snapshot ? ".snapshot.lz4" : ".wal.lz4") != 0)
        return false;
    *ret = f;
    return true;
}

char *v3_name(const struct v3_file *f)
{
    if (f->snapshot)
        return util_printf("%s/snapshots/%08x.snapshot.lz4", f->generation, f->index);
    return util_printf("%s/wal/%08x_%0*llx.wal.lz4", f->generation, f->index, (int)f->off_digits,
                       (unsigned long long)f->off);
}

/* ---- plan ----------------------------------------------------------------------------------- */

static int by_replay(const void *a, const void *b)
{
    const struct v3_file *x = a, *y = b;
    int g = strcmp(x->generation, y->generation);
    if (g)
        return g;
    if (x->snapshot != y->snapshot)
        return x->snapshot ? -1 : 1;
    if (x->index != y->index)
        return x->index < y->index ? -1 : 1;
    return (x->off > y->off) - (x->off < y->off);
}

/* a generation in the sorted list: snapshots [first, wal), segments [wal, end) */
struct range {
    size_t first, wal, end;
    int64_t newest_ms; /* object that counts */
    bool there;        /* has one that counts */
};

static struct range range_at(const struct v3_file *f, size_t n, size_t first, int64_t until_ms)
{
    struct range r = {.first = first, .wal = first, .newest_ms = INT64_MIN};
    for (r.end = first; r.end < n && !strcmp(f[r.end].generation, f[first].generation); r.end++) {
        if (f[r.end].snapshot)
            r.wal = r.end + 1;
        if (f[r.end].mtime_ms > until_ms)
            continue;
        r.there = true;
        r.newest_ms = MAX(r.newest_ms, f[r.end].mtime_ms);
    }
    return r;
}

static int not_then(const struct v3_file *f, size_t n, const char *generation, int64_t until_ms,
                    struct err *e)
{
    char then[40], first[40];
    int64_t oldest = INT64_MAX;
    for (size_t i = 0; i < n; i++)
        if (!*generation || !strcmp(f[i].generation, generation))
            oldest = MIN(oldest, f[i].mtime_ms);
    err_set(e, ERR_NOTFOUND, "nothing in %s%s was stored by %s: its oldest object is of %s",
            *generation ? "generation " : "the replica", generation, util_rfc3339(then, until_ms),
            util_rfc3339(first, oldest));
    return err_hint(e, "walsupctl points shows what can be restored");
}

static int choose_generation(const struct v3_file *f, size_t n, const char *generation,
                             int64_t until_ms, struct range *ret, struct err *e)
{
    struct range best = {.there = false};
    size_t tie = n;
    bool known = false;
    for (size_t i = 0; i < n;) {
        struct range r = range_at(f, n, i, until_ms);
        i = r.end;
        if (*generation && strcmp(generation, f[r.first].generation) != 0)
            continue;
        known = true;
        if (!r.there || (best.there && r.newest_ms < best.newest_ms))
            continue;
        tie = best.there && r.newest_ms == best.newest_ms ? best.first : n;
        best = r;
    }
    if (!known) {
        err_set(e, ERR_NOTFOUND, "there is no generation %s", generation);
        size_t newest = 0;
        for (size_t i = 1; i < n; i++)
            newest = f[i].mtime_ms > f[newest].mtime_ms ? i : newest;
        return err_hint(e, "the newest object is of generation %s", f[newest].generation);
    }
    if (!best.there)
        return not_then(f, n, generation, until_ms, e);
    if (tie < n) {
        err_set(e, ERR_USAGE, "generations %s and %s are equally new", f[tie].generation,
                f[best.first].generation);
        return err_hint(e, "choose with --generation (were the files copied without their times?)");
    }
    *ret = best;
    return 0;
}

/* How many segments follow the snapshot up to then. The rest was stored later, or is a gap: *gap. */
static size_t count_segments(const struct v3_file *f, size_t n, uint32_t index, int64_t until_ms,
                             const struct v3_file **gap)
{
    uint32_t expected = index;
    *gap = NULL;
    for (size_t i = 0; i < n; i++) {
        if (f[i].mtime_ms > until_ms)
            return i;
        bool next = i ? f[i].index == expected + 1 : f[i].index == expected;
        bool ok = f[i].off ? i && f[i].index == expected && f[i].off > f[i - 1].off : next;
        if (!ok) {
            *gap = &f[i];
            return i;
        }
        expected = f[i].index;
    }
    return n;
}

/* A snapshot has pages of transactions whose segments may have been stored after it. With the first
 * of them but not the last, pages of two states would be mixed. */
static bool mixes(const struct v3_file *snapshot, const struct v3_file *seg, size_t used, size_t n)
{
    return used && used < n && seg[used].index == snapshot->index &&
           seg[used - 1].mtime_ms < snapshot->mtime_ms;
}

static int missing(const struct v3_file *snapshot, const struct v3_file *seg, size_t used,
                   const struct v3_file *gap, struct err *e)
{
    cleanup_free char *name = v3_name(gap);
    char stamp[40];
    const struct v3_file *last = used ? &seg[used - 1] : snapshot;
    if (gap->off && !(used && gap->index == last->index))
        err_set(e, ERR_CORRUPT, "the first segment of WAL index %08x is missing: %s comes first",
                gap->index, name);
    else if (used && gap->index == last->index)
        err_set(e, ERR_CORRUPT, "two segments of WAL index %08x at offset %llx", gap->index,
                (unsigned long long)gap->off);
    else
        err_set(e, ERR_CORRUPT, "the segments of WAL index %08x are missing: %s comes next",
                used ? last->index + 1 : snapshot->index, name);
    return err_hint(e, "--timestamp %s restores the state before the gap",
                    util_rfc3339(stamp, last->mtime_ms));
}

static int no_snapshot(const struct v3_file *f, const struct range *r, int64_t until_ms,
                       struct err *e)
{
    char stamp[40], then[40];
    const char *generation = f[r->first].generation;
    if (until_ms == INT64_MAX || r->wal == r->first) {
        err_set(e, ERR_CORRUPT, "generation %s has no snapshot", generation);
        return err_hint(e, "--generation restores another one, and so an older state");
    }
    err_set(e, ERR_NOTFOUND, "generation %s has no snapshot that restores %s: the oldest is of %s",
            generation, util_rfc3339(then, until_ms), util_rfc3339(stamp, f[r->first].mtime_ms));
    return err_hint(e, "walsupctl points shows what can be restored");
}

int v3_plan(const struct v3_file *file, size_t n, const char *generation, int64_t until_ms,
            struct v3_file **ret, size_t *ret_n, struct err *e)
{
    if (!n)
        return err_set(e, ERR_NOTFOUND, "the replica is empty");
    cleanup_free struct v3_file *f = malloc(n * sizeof *f);
    if (!f)
        return err_set(e, ERR_NOMEM, "no memory for a plan over %zu objects", n);
    memcpy(f, file, n * sizeof *f);
    qsort(f, n, sizeof *f, by_replay);
    struct range r = {.there = false};
    int k = choose_generation(f, n, generation, until_ms, &r, e);
    if (k < 0)
        return k;
    for (size_t s = r.wal; s-- > r.first;) {
        if (f[s].mtime_ms > until_ms)
            continue;
        size_t from = r.wal;
        const struct v3_file *gap;
        while (from < r.end && f[from].index < f[s].index)
            from++;
        size_t used = count_segments(f + from, r.end - from, f[s].index, until_ms, &gap);
        if (gap)
            return missing(&f[s], f + from, used, gap, e);
        if (until_ms != INT64_MAX && mixes(&f[s], f + from, used, r.end - from))
            continue;
        struct v3_file *out = malloc((used + 1) * sizeof *out);
        if (!out)
            return err_set(e, ERR_NOMEM, "no memory for a plan over %zu objects", n);
        out[0] = f[s];
        if (used)
            memcpy(out + 1, f + from, used * sizeof *out);
        *ret = out;
        *ret_n = used + 1;
        return 0;
    }
    return no_snapshot(f, &r, until_ms, e);
}

static int by_time(const void *a, const void *b)
{
    const struct v3_file *x = a, *y = b;
    if (x->mtime_ms != y->mtime_ms)
        return x->mtime_ms < y->mtime_ms ? -1 : 1;
    return by_replay(a, b);
}

/* The segments of f (sorted) that can be reached from a snapshot, appended to out. */
static size_t reachable(const struct v3_file *f, const struct range *r, struct v3_file *out)
{
    size_t n = 0, s = r->first;
    bool chain = false;
    for (size_t i = r->first; i < r->wal; i++)
        out[n++] = f[i];
    for (size_t i = r->wal; i < r->end; i++) {
        while (s < r->wal && f[s].index < f[i].index)
            s++;
        bool starts = !f[i].off && s < r->wal && f[s].index == f[i].index;
        bool follows = chain && i > r->wal &&
                       (f[i].off ? f[i].index == f[i - 1].index && f[i].off > f[i - 1].off
                                 : f[i].index == f[i - 1].index + 1);
        chain = starts || follows;
        if (chain)
            out[n++] = f[i];
    }
    return n;
}

int v3_points(const struct v3_file *file, size_t n, const char *generation, struct v3_file **ret,
              size_t *ret_n, struct err *e)
{
    cleanup_free struct v3_file *f = malloc((n ? n : 1) * sizeof *f);
    cleanup_free struct v3_file *out = malloc((n ? n : 1) * sizeof *out);
    size_t n_out = 0;
    if (!f || !out)
        return err_set(e, ERR_NOMEM, "no memory for a list of %zu objects", n);
    if (n)
        memcpy(f, file, n * sizeof *f);
    qsort(f, n, sizeof *f, by_replay);
    for (size_t i = 0; i < n;) {
        struct range r = range_at(f, n, i, INT64_MAX);
        if (!*generation || !strcmp(f[i].generation, generation))
            n_out += reachable(f, &r, out + n_out);
        i = r.end;
    }
    if (!n_out)
        return err_set(e, ERR_NOTFOUND, "no generation %s%shas a snapshot", generation,
                       *generation ? " " : "");
    qsort(out, n_out, sizeof *out, by_time);
    *ret = TAKE_PTR(out);
    *ret_n = n_out;
    return 0;
}

/* ---- LZ4 ------------------------------------------------------------------------------------ */

struct v3_unpack {
    LZ4F_dctx *ctx;
    uint8_t *out;
};

struct v3_unpack *v3_unpack_new(struct err *e)
{
    struct v3_unpack *u = util_zalloc(sizeof *u);
    u->out = malloc(OUT_BYTES);
    if (!u->out || LZ4F_isError(LZ4F_createDecompressionContext(&u->ctx, LZ4F_VERSION))) {
        (void)err_set(e, ERR_NOMEM, "no memory to decompress");
        v3_unpack_free(u);
        return NULL;
    }
    return u;
}

void v3_unpack_free(struct v3_unpack *u)
{
    if (u) {
        (void)LZ4F_freeDecompressionContext(u->ctx);
        free(u->out);
        free(u);
    }
}

static bool starts_with(const uint8_t *p, size_t n, const char *text)
{
    return n >= strlen(text) && !memcmp(p, text, strlen(text));
}

/* The one kind of frame that v0.3 writes; without its checksum nothing would vouch for a snapshot. */
static int check_frame(const uint8_t *p, size_t n, struct err *e)
{
    uint32_t magic;
    if (starts_with(p, n, "age-encryption.org/v1") ||
        starts_with(p, n, "-----BEGIN AGE ENCRYPTED FILE-----")) {
        err_set(e, ERR_UNSUPPORTED, "it is encrypted with age, which walsup cannot read");
        return err_hint(e, "restore it with Litestream v0.3 and its age identities (the key age: of "
                           "the replica in litestream.yml), or decrypt the objects with age -d");
    }
    if (n < 7)
        return err_set(e, ERR_CORRUPT, "%zu bytes are no LZ4 frame", n);
    memcpy(&magic, p, sizeof magic);
    if (le32toh(magic) != LZ4_MAGIC)
        return err_set(e, ERR_CORRUPT, "it starts with %08x, not with an LZ4 frame", be32_get(p));
    if (!(p[4] & LZ4_CONTENT_CHECKSUM))
        return err_set(e, ERR_CORRUPT, "its LZ4 frame has no content checksum");
    return 0;
}

int v3_unpack(struct v3_unpack *u, const uint8_t *p, size_t n, v3_sink_fn sink, void *arg,
              struct err *e)
{
    int r = check_frame(p, n, e);
    if (r < 0)
        return r;
    LZ4F_resetDecompressionContext(u->ctx);
    for (size_t at = 0, more = 1; more;) {
        size_t in = n - at, out = OUT_BYTES;
        more = LZ4F_decompress(u->ctx, u->out, &out, p + at, &in, NULL);
        if (LZ4F_isError(more))
            return err_set(e, ERR_CORRUPT, "LZ4 frame, near byte %zu of %zu: %s", at, n,
                           LZ4F_getErrorName(more));
        at += in;
        r = out ? sink(arg, u->out, out, e) : 0;
        if (r < 0)
            return r;
        if (more && !in && !out)
            return err_set(e, ERR_CORRUPT, "its LZ4 frame ends early, after %zu bytes", n);
        if (!more && at < n)
            return err_set(e, ERR_CORRUPT, "%zu bytes follow its LZ4 frame", n - at);
    }
    return 0;
}

/* ---- WAL ------------------------------------------------------------------------------------ */

void v3_wal_start(struct v3_wal *w, v3_frame_fn fn, void *arg)
{
    free(w->frame);
    *w = (struct v3_wal){.fn = fn, .arg = arg};
}

void v3_wal_done(struct v3_wal *w)
{
    free(w->frame);
    w->frame = NULL;
}

/* What the frame buffer is filled up to. */
static size_t piece_size(const struct v3_wal *w)
{
    return w->scan.h.page_size ? (size_t)wal_frame_size(w->scan.h.page_size) : WAL_HEADER_SIZE;
}

static int header(struct v3_wal *w, struct err *e)
{
    struct wal_header h;
    int r = wal_header_parse(w->frame, &h, e);
    if (r < 0)
        return r;
    wal_scan_init(&w->scan, &h);
    uint8_t *grown = realloc(w->frame, (size_t)wal_frame_size(h.page_size));
    if (!grown)
        return err_set(e, ERR_NOMEM, "no memory for a frame of %u bytes", h.page_size);
    w->frame = grown;
    return 0;
}

static int frame(struct v3_wal *w, struct err *e)
{
    struct wal_frame f;
    uint64_t k = w->scan.valid + 1;
    if (!wal_scan_frame(&w->scan, w->frame, &f))
        return err_set(e, ERR_CORRUPT, "frame %llu of its WAL, at offset %llx, fails its checksum",
                       (unsigned long long)k,
                       (unsigned long long)wal_frame_off(w->scan.h.page_size, k));
    return w->fn ? w->fn(w->arg, k, &f, w->frame + WAL_FRAME_HEADER_SIZE, e) : 0;
}

int v3_wal_feed(void *arg, const uint8_t *p, size_t n, struct err *e)
{
    struct v3_wal *w = arg;
    if (!w->frame)
        w->frame = malloc(WAL_HEADER_SIZE);
    if (!w->frame)
        return err_set(e, ERR_NOMEM, "no memory for a WAL header");
    while (n) {
        size_t want = piece_size(w), take = MIN(n, want - w->have);
        memcpy(w->frame + w->have, p, take);
        w->have += take;
        w->off += take;
        p += take;
        n -= take;
        if (w->have < want)
            break;
        w->have = 0;
        int r = w->scan.h.page_size ? frame(w, e) : header(w, e);
        if (r < 0)
            return r;
    }
    return 0;
}

bool v3_wal_whole(const struct v3_wal *w)
{
    return w->scan.h.page_size && !w->have && w->scan.committed == w->scan.valid;
}
