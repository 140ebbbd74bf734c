/* LTX files to pages, on all processors.
 *
 * The newest file comes first and a bitmap remembers which pages are there, so every page is
 * written once, whatever the number of files. One thread at a time, under the lock, walks the page
 * index and takes the next few pages: that keeps the files in order and is cheap. Decoding and
 * writing, which are not, happen outside. Pages that a newer file replaced are decoded all the
 * same, because the file checksum covers them.
 *
 * Because every page is written once, the database checksum is the sum of what is written: it needs
 * no memory for each page, and nothing is read again. */
#include "common/store/restore_apply.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sys/mman.h>

#define CHUNK_PAGES 64u
#define CHUNK_BYTES (1u << 20)
#define THREADS_MAX 32u

/* an LTX file being read; closed by whoever finishes its last piece */
struct source {
    const struct restore_input *in;
    void *map;
    struct ltx_decoder d;
    struct ltx_sum *part; /* one for each piece handed out, in order */
    size_t n_part, cap_part;
    size_t pending;  /* pieces not finished */
    uint32_t n_page; /* walked so far */
    bool walked;     /* no more pieces to hand out */
};

struct apply {
    const struct restore_input *in;
    size_t left; /* inputs not opened yet; they are taken from the end */
    int spool, out;
    atomic_uint_fast64_t *done;
    uint32_t chunk_pages;
    struct ltx_header newest;
    const struct restore_input *newest_in;
    uint64_t post_apply; /* of the newest file */

    pthread_mutex_t lock; /* of everything below */
    uint64_t checksum;    /* of the pages written */
    struct source *src;   /* being walked */
    /* the oldest file so far that says of which lineage it is */
    uint64_t lineage;
    const struct restore_input *lineage_in;
    uint32_t lineage_pages, lineage_commit;
    struct err mixed; /* another lineage came before it; told only if no file is damaged */
    uint8_t *have;        /* bitmap of pages 1... of the result */
    uint64_t n_have;
    bool failed;
    struct err err;
};

struct chunk {
    struct source *src;
    size_t part;
    uint32_t n;
    uint64_t want; /* bit i: entry i is the newest version of its page */
    uint64_t checksum; /* of those */
    struct ltx_index_entry x[CHUNK_PAGES];
};

static void source_close(struct source *s)
{
    if (s) {
        if (s->map)
            (void)munmap(s->map, s->in->size);
        free(s->part);
        free(s);
    }
}

/* Whether the file's own checksum is wrong. */
static bool damaged(const struct apply *a, const struct restore_input *in)
{
    void *p = mmap(NULL, in->size, PROT_READ, MAP_PRIVATE, a->spool, (off_t)in->off);
    if (p == MAP_FAILED)
        return false;
    bool bad = ltx_verify(p, in->size, NULL, NULL) < 0;
    (void)munmap(p, in->size);
    return bad;
}

/* Which of the two is wrong? A page size decides how everything else is read. */
static int other_page_size(const struct apply *a, const struct source *s, struct err *e)
{
    if (!damaged(a, s->in) && damaged(a, a->newest_in))
        return err_set(e, ERR_CORRUPT, "page size %u, but %u in %s, which fails its checksum",
                       s->d.h.page_size, a->newest.page_size, a->newest_in->name);
    return err_set(e, ERR_CORRUPT, "page size %u, newer files have %u", s->d.h.page_size,
                   a->newest.page_size);
}

static int source_open(struct apply *a, const struct restore_input *in, struct source **ret,
                       struct err *e)
{
    struct source *s = util_zalloc(sizeof *s);
    s->in = in;
    s->map = in->size ? mmap(NULL, in->size, PROT_READ, MAP_PRIVATE, a->spool, (off_t)in->off)
                      : NULL;
    if (s->map == MAP_FAILED) {
        s->map = NULL;
        int r = err_sys(e, errno, "%s: mmap of %llu bytes", in->name,
                        (unsigned long long)in->size);
        source_close(s);
        return r;
    }
    int r = ltx_decoder_open(&s->d, s->map, in->size, e);
    const struct ltx_header *h = &s->d.h;
    if (!r && (h->min_txid != in->min || h->max_txid != in->max))
        r = err_set(e, ERR_CORRUPT, "its header says TXIDs %016llx to %016llx",
                    (unsigned long long)h->min_txid, (unsigned long long)h->max_txid);
    if (!r && a->have && h->page_size != a->newest.page_size)
        r = other_page_size(a, s, e);
    if (r < 0) {
        r = err_wrap(e, "%s", in->name);
        source_close(s);
        return r;
    }
    (void)madvise(s->map, in->size, MADV_SEQUENTIAL);
    *ret = s;
    return 0;
}

/* The first file opened is the newest and decides what the database is. */
static int start(struct apply *a, const struct source *s, struct err *e)
{
    const struct ltx_header *h = &s->d.h;
    a->newest = *h;
    a->newest_in = s->in;
    a->post_apply = s->d.post_apply;
    a->chunk_pages = MIN(CHUNK_PAGES, CHUNK_BYTES / h->page_size);
    /* commit is not verified yet, but calloc of untouched memory costs nothing */
    a->have = calloc((size_t)h->commit / 8 + 1, 1);
    if (!a->have)
        return err_set(e, ERR_NOMEM, "no memory for the map of %u pages", h->commit);
    return 0;
}

static bool claim(struct apply *a, uint32_t pgno)
{
    /* pages beyond the end went away when the database shrank */
    if (pgno > a->newest.commit)
        return false;
    uint8_t *b = &a->have[pgno / 8], bit = (uint8_t)(1 << pgno % 8);
    if (*b & bit)
        return false;
    *b |= bit;
    a->n_have++;
    return true;
}

/* how many pages the checksum of a database is made of */
static uint32_t all_pages(const struct ltx_header *h)
{
    return h->commit - (ltx_lock_pgno(h->page_size) <= h->commit);
}

/* All pages of the database: what came before does not matter. */
static bool is_whole(const struct source *s)
{
    return s->n_page == all_pages(&s->d.h);
}

static int compare(const char *name, uint64_t expected, uint64_t found, struct err *e)
{
    if (!expected || expected == found)
        return 0;
    (void)err_set(e, ERR_CORRUPT,
                  "%s: the database after it should have checksum %016" PRIx64
                  ", what the replica holds has %016" PRIx64, name, expected, found);
    return err_hint(e, "an object of the replica was replaced or is not the one that belongs "
                       "there; try another target, or an older --txid");
}

/* All pieces of the file were decoded. */
static int source_finish(struct source *s, struct err *e)
{
    struct ltx_sum sum = {0};
    for (size_t i = 0; i < s->n_part; i++)
        ltx_sum_join(&sum, &s->part[i]);
    int r = ltx_walk_finish(&s->d, &sum, e);
    if (r < 0)
        r = err_wrap(e, "%s", s->in->name);
    else if (is_whole(s))
        r = compare(s->in->name, s->in->checksum, sum.db | LTX_CHECKSUM_FLAG, e);
    source_close(s);
    return r;
}

/* A lineage goes back to where one file holds everything. A file without one (Litestream knows
 * none) belongs to its neighbours. */
static void note_lineage(struct apply *a, const struct source *s)
{
    const struct restore_input *in = s->in;
    uint64_t lineage = s->d.h.node_id ? s->d.h.node_id : in->lineage;
    if (!lineage || a->mixed.code)
        return;
    if (a->lineage && lineage != a->lineage) {
        (void)err_set(&a->mixed, ERR_CORRUPT,
                      "%s goes on from another database: it is of lineage %016" PRIx64
                      " and holds %u of %u pages, %s before it is of lineage %016" PRIx64,
                      a->lineage_in->name, a->lineage, a->lineage_pages, a->lineage_commit,
                      in->name, lineage);
        (void)err_hint(&a->mixed, "--txid %016" PRIx64 " restores the older database, another "
                                  "target may have the newer one", in->max);
    }
    a->lineage = lineage;
    a->lineage_in = in;
    a->lineage_pages = s->n_page;
    a->lineage_commit = all_pages(&s->d.h);
}

/* The page index of s was read to its end. */
static void walked(struct apply *a, struct source *s)
{
    s->walked = true;
    a->src = NULL;
    note_lineage(a, s);
    if (is_whole(s))
        for (; a->left; a->left--) /* what is older is done with, too */
            atomic_fetch_add(a->done, a->in[a->left - 1].size);
}

/* Fill c from a->src; at its end the source is detached, and c->n may be 0. */
static int walk(struct apply *a, struct chunk *c, struct err *e)
{
    struct source *s = a->src;
    c->src = s;
    c->n = 0;
    c->want = c->checksum = 0;
    if (s->n_part == s->cap_part) {
        size_t cap = MAX(s->cap_part * 2, (size_t)16);
        struct ltx_sum *part = realloc(s->part, cap * sizeof *part);
        if (!part)
            return err_set(e, ERR_NOMEM, "%s: no memory for its sums", s->in->name);
        s->part = part;
        s->cap_part = cap;
    }
    while (c->n < a->chunk_pages) {
        int r = ltx_walk_next(&s->d, &c->x[c->n], e);
        if (r < 0)
            return err_wrap(e, "%s", s->in->name);
        if (r > 0) {
            walked(a, s);
            break;
        }
        if (claim(a, c->x[c->n].pgno))
            c->want |= 1ull << c->n;
        c->n++;
        s->n_page++;
    }
    if (!c->n)
        return 0;
    c->part = s->n_part++;
    s->pending++;
    return 0;
}

/* The next piece: 0, 1 when there is none left. Under the lock. */
static int take(struct apply *a, struct chunk *c, struct err *e)
{
    for (;;) {
        if (!a->src) {
            if (!a->left)
                return 1;
            int r = source_open(a, &a->in[a->left - 1], &a->src, e);
            if (!r && !a->have)
                r = start(a, a->src, e);
            if (r < 0)
                return r;
            a->left--;
        }
        int r = walk(a, c, e);
        if (r < 0 || c->n)
            return r;
        if (!c->src->pending) {
            r = source_finish(c->src, e);
            if (r < 0)
                return r;
        }
    }
}

static int write_at(int fd, const uint8_t *p, size_t n, uint64_t off, struct err *e)
{
    while (n) {
        ssize_t put = pwrite(fd, p, n, (off_t)off);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_sys(e, errno, "write of %zu bytes at %llu", n, (unsigned long long)off);
        p += put;
        n -= (size_t)put;
        off += (uint64_t)put;
    }
    return 0;
}

static int decode(struct apply *a, struct chunk *c, uint8_t *page, struct ltx_sum *sum,
                  struct err *e)
{
    size_t page_size = a->newest.page_size;
    for (uint32_t i = 0; i < c->n; i++) {
        int r = ltx_walk_page(&c->src->d, &c->x[i], page + i * page_size, sum, e);
        if (r < 0)
            return err_wrap(e, "%s", c->src->in->name);
        if (c->want >> i & 1)
            c->checksum ^= sum->page;
    }
    for (uint32_t i = 0, n; i < c->n; i += n) {
        n = 1;
        if (!(c->want >> i & 1))
            continue;
        while (i + n < c->n && c->want >> (i + n) & 1 && c->x[i + n].pgno == c->x[i].pgno + n)
            n++;
        int r = write_at(a->out, page + i * page_size, n * page_size,
                         (uint64_t)(c->x[i].pgno - 1) * page_size, e);
        if (r < 0)
            return r;
    }
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < c->n; i++)
        bytes += c->x[i].size;
    atomic_fetch_add(a->done, bytes);
    return 0;
}

static void fail(struct apply *a, const struct err *e)
{
    if (!a->failed)
        a->err = *e;
    a->failed = true;
}

static void *work(void *arg)
{
    struct apply *a = arg;
    struct err e = {0};
    struct chunk c;
    cleanup_free uint8_t *page = malloc(CHUNK_BYTES);
    (void)pthread_mutex_lock(&a->lock);
    if (!page) {
        (void)err_set(&e, ERR_NOMEM, "no memory for a buffer of pages");
        fail(a, &e);
    }
    while (!a->failed) {
        int r = take(a, &c, &e);
        if (r > 0)
            break;
        if (!r) {
            struct ltx_sum sum = {0};
            (void)pthread_mutex_unlock(&a->lock);
            r = decode(a, &c, page, &sum, &e);
            (void)pthread_mutex_lock(&a->lock);
            c.src->part[c.part] = sum;
            a->checksum ^= c.checksum;
            /* after a failure the piece in hand may be the last of its file: nobody else frees it */
            if (!--c.src->pending && c.src->walked) {
                if (r < 0 || a->failed)
                    source_close(c.src);
                else
                    r = source_finish(c.src, &e);
            }
        }
        if (r < 0)
            fail(a, &e);
    }
    (void)pthread_mutex_unlock(&a->lock);
    return NULL;
}

static int check_complete(const struct apply *a, struct err *e)
{
    const struct ltx_header *h = &a->newest;
    if (a->n_have == all_pages(h))
        return 0;
    uint32_t missing = 1, lock = ltx_lock_pgno(h->page_size);
    while (missing == lock || a->have[missing / 8] >> missing % 8 & 1)
        missing++;
    return err_set(e, ERR_CORRUPT, "page %u of %u is in none of the files", missing, h->commit);
}

static int run(struct apply *a, unsigned threads, struct err *e)
{
    pthread_t t[THREADS_MAX];
    unsigned n = 0;
    /* this thread works as well, so that it goes on when no other can be had */
    while (n + 1 < threads && pthread_create(&t[n], NULL, work, a) == 0)
        n++;
    (void)work(a);
    while (n)
        (void)pthread_join(t[--n], NULL);
    if (!a->failed && !a->mixed.code)
        return check_complete(a, e);
    /* left only when the failure came while it was walked */
    source_close(a->src);
    if (e)
        *e = a->failed ? a->err : a->mixed;
    return -(int)(a->failed ? a->err : a->mixed).code;
}

int restore_apply(const struct restore_input *in, size_t n, int spool, int out, unsigned threads,
                  atomic_uint_fast64_t *done, struct restore_applied *ret, struct err *e)
{
    struct apply a = {.in = in, .left = n, .spool = spool, .out = out, .done = done};
    if (!n)
        return err_set(e, ERR_INTERNAL, "nothing to apply");
    if (!threads)
        threads = (unsigned)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1l);
    (void)pthread_mutex_init(&a.lock, NULL);
    int r = run(&a, MIN(threads, THREADS_MAX), e);
    if (!r && ftruncate(out, (off_t)a.newest.commit * (off_t)a.newest.page_size) < 0)
        r = err_sys(e, errno, "set the size of the database");
    uint64_t found = a.checksum | LTX_CHECKSUM_FLAG;
    if (!r)
        r = compare(in[n - 1].name, in[n - 1].checksum, found, e);
    if (!r)
        r = compare(in[n - 1].name, a.post_apply, found, e);
    if (!r)
        *ret = (struct restore_applied){
            a.newest, a.newest.node_id ? a.newest.node_id : in[n - 1].lineage, found,
            in[n - 1].checksum ? in[n - 1].checksum : a.post_apply, 0};
    free(a.have);
    (void)pthread_mutex_destroy(&a.lock);
    return r;
}
