/* bench_replica DB MIB COMMITS [REPLICA] - a database of so many MiB, then so many small commits. With
 * REPLICA, a directory of walsup's layout: a snapshot of the former and one file of level 0 for each of the
 * latter, as walsupd would write them with a sync after each commit. Without, DB is made if it is not
 * there, else it gets the commits: the same ones, for whoever replicates it meanwhile. Prints JSON. */
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/format/ltx.h"
#include "common/format/wal.h"

#define PAGE 4096u
#define ROW 900

struct run {
    sqlite3 *db;
    const char *path, *replica;
    uint64_t *sum; /* of each page */
    uint32_t pages, cap;
    uint64_t checksum, frames, bytes;
};

static void die(const char *what)
{
    (void)fprintf(stderr, "bench_replica: %s\n", what);
    exit(1);
}

static void sql(struct run *r, const char *text)
{
    if (sqlite3_exec(r->db, text, NULL, NULL, NULL) != SQLITE_OK)
        die(sqlite3_errmsg(r->db));
}

/* text that compresses to about a third, the same in every run */
static void row(char *out, uint64_t seed)
{
    static const char *const word[] = {"invoice ", "customer ", "total ", "pending ", "shipped ", "note "};
    size_t n = 0;
    while (n + 20 < ROW) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        n += (size_t)snprintf(out + n, ROW - n, "%s%llx ", word[seed >> 61 & 3],
                              (unsigned long long)(seed >> 33));
    }
}

static int to_buf(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    buf_add(arg, p, n);
    return 0;
}

static void note(struct run *r, uint32_t pgno, const uint8_t *page)
{
    if (pgno >= r->cap) {
        uint32_t cap = MAX(pgno + 1, r->cap * 2);
        r->sum = util_realloc(r->sum, cap * sizeof *r->sum);
        memset(r->sum + r->cap, 0, (cap - r->cap) * sizeof *r->sum);
        r->cap = cap;
    }
    uint64_t sum = ltx_page_checksum(pgno, page, PAGE);
    r->checksum = (r->checksum ^ r->sum[pgno] ^ sum) | LTX_CHECKSUM_FLAG;
    r->sum[pgno] = sum & ~LTX_CHECKSUM_FLAG;
    r->pages = MAX(r->pages, pgno);
}

static void put(struct run *r, unsigned level, uint64_t min, uint64_t max, const struct buf *b)
{
    char name[LTX_NAME_SIZE], text[17];
    struct err e = {0};
    cleanup_free char *path =
        util_printf("%s/ltx/%u/%s", r->replica, level, ltx_name(name, min, max));
    if (fsx_publish(path, b->p, b->len, 0600, FSX_NOSYNC, &e) < 0)
        die(e.msg);
    (void)snprintf(text, sizeof text, "%016llx", (unsigned long long)r->checksum);
    (void)setxattr(path, "user.walsup-checksum", text, 16, 0);
    r->bytes += b->len;
}

static struct ltx_encoder *encoder(struct run *r, uint64_t min, uint64_t max, uint32_t commit,
                                   struct buf *b)
{
    struct err e = {0};
    struct ltx_encoder *enc;
    struct ltx_header h = {.flags = LTX_FLAG_NO_CHECKSUM, .page_size = PAGE, .commit = commit,
                           .min_txid = min, .max_txid = max, .timestamp_ms = clk_real_ms(),
                           .wal_offset = WAL_HEADER_SIZE};
    (void)r;
    if (ltx_encoder_new(&h, LTX_BLOCK, to_buf, b, &enc, &e) < 0)
        die(e.msg);
    return enc;
}

static void add(struct ltx_encoder *enc, uint32_t pgno, const uint8_t *page)
{
    struct err e = {0};
    if (ltx_encoder_page(enc, pgno, page, &e) < 0)
        die(e.msg);
}

static void snapshot(struct run *r)
{
    struct stat st;
    struct err e = {0};
    cleanup_file FILE *f = fopen(r->path, "rb");
    cleanup_buf struct buf b = BUF_INIT;
    uint8_t page[PAGE];
    if (!f || fstat(fileno(f), &st) < 0)
        die(r->path);
    uint32_t n = (uint32_t)(st.st_size / PAGE);
    struct ltx_encoder *enc = encoder(r, 1, 1, n, &b);
    for (uint32_t i = 1; i <= n; i++) {
        if (fread(page, PAGE, 1, f) != 1)
            die("read");
        if (i == ltx_lock_pgno(PAGE))
            continue;
        note(r, i, page);
        add(enc, i, page);
    }
    if (ltx_encoder_finish(enc, 0, NULL, &e) < 0)
        die(e.msg);
    (void)ltx_encoder_free(enc);
    put(r, LTX_SNAPSHOT_LEVEL, 1, 1, &b);
}

struct frame {
    uint32_t pgno;
    uint8_t page[PAGE];
};

static int by_pgno(const void *a, const void *b)
{
    const struct frame *x = a, *y = b;
    return (x->pgno > y->pgno) - (x->pgno < y->pgno);
}

/* The frames of the last commit become a file. */
static void capture(struct run *r, uint64_t txid)
{
    static struct frame frame[256];
    cleanup_free char *wal = util_printf("%s-wal", r->path);
    cleanup_file FILE *f = fopen(wal, "rb");
    cleanup_buf struct buf b = BUF_INIT;
    struct err e = {0};
    size_t n = 0;
    uint32_t commit = 0;
    if (!f || fseek(f, (long)wal_frame_off(PAGE, r->frames + 1), SEEK_SET) < 0)
        die(wal);
    while (!commit) {
        uint8_t head[WAL_FRAME_HEADER_SIZE];
        if (n == ARRAY_LEN(frame) || fread(head, sizeof head, 1, f) != 1 ||
            fread(frame[n].page, PAGE, 1, f) != 1)
            die("the WAL ends early");
        frame[n++].pgno = be32_get(head);
        commit = be32_get(head + 4);
    }
    r->frames += n;
    qsort(frame, n, sizeof *frame, by_pgno); /* a page is once in the frames of a small commit */
    struct ltx_encoder *enc = encoder(r, txid, txid, commit, &b);
    for (size_t i = 0; i < n; i++) {
        note(r, frame[i].pgno, frame[i].page);
        add(enc, frame[i].pgno, frame[i].page);
    }
    if (ltx_encoder_finish(enc, 0, NULL, &e) < 0)
        die(e.msg);
    (void)ltx_encoder_free(enc);
    put(r, 0, txid, txid, &b);
}

static void fill(struct run *r, uint64_t mib)
{
    char text[ROW] = "";
    sqlite3_stmt *st;
    sql(r, "create table t(a integer primary key, n, b); create index i on t(n); begin");
    (void)sqlite3_prepare_v2(r->db, "insert into t(n, b) values(?1, ?2)", -1, &st, NULL);
    for (uint64_t i = 0; i < mib * 1024 * 1024 / 1024; i++) {
        row(text, i);
        (void)sqlite3_bind_int64(st, 1, (sqlite3_int64)(i * 2654435761u % 1000003));
        (void)sqlite3_bind_text(st, 2, text, -1, SQLITE_STATIC);
        if (sqlite3_step(st) != SQLITE_DONE)
            die(sqlite3_errmsg(r->db));
        (void)sqlite3_reset(st);
    }
    (void)sqlite3_finalize(st);
    sql(r, "commit; pragma wal_checkpoint(truncate)");
}

static void commits(struct run *r, uint64_t n, uint64_t rows, bool paced)
{
    char text[ROW] = "";
    sqlite3_stmt *st;
    (void)sqlite3_prepare_v2(r->db, "update t set b = ?2 where a = ?1", -1, &st, NULL);
    for (uint64_t i = 0; i < n; i++) {
        sql(r, "begin immediate");
        for (uint64_t k = 0; k < 3; k++) {
            row(text, rows + i * 3 + k);
            (void)sqlite3_bind_int64(st, 1, (sqlite3_int64)((i * 3 + k) * 2654435761u % rows + 1));
            (void)sqlite3_bind_text(st, 2, text, -1, SQLITE_STATIC);
            if (sqlite3_step(st) != SQLITE_DONE)
                die(sqlite3_errmsg(r->db));
            (void)sqlite3_reset(st);
        }
        sql(r, "commit");
        if (r->replica)
            capture(r, i + 2);
        if (r->replica && i % 1000 == 999) {
            sql(r, "pragma wal_checkpoint(truncate)");
            r->frames = 0;
        }
        if (paced) {
            struct timespec t = {0, 4000000};
            (void)nanosleep(&t, NULL);
        }
    }
    (void)sqlite3_finalize(st);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        (void)fprintf(stderr, "usage: bench_replica DB MIB COMMITS [REPLICA]\n");
        return 64;
    }
    struct run r = {.path = argv[1], .replica = argc > 4 ? argv[4] : NULL};
    uint64_t mib = strtoull(argv[2], NULL, 10), n = strtoull(argv[3], NULL, 10);
    struct err e = {0};
    bool there = access(r.path, F_OK) == 0;
    if (sqlite3_open(r.path, &r.db) != SQLITE_OK)
        die(r.path);
    (void)sqlite3_busy_timeout(r.db, 20000);
    sql(&r, "pragma page_size=4096; pragma journal_mode=wal; pragma synchronous=off; "
            "pragma wal_autocheckpoint=0");
    if (!there)
        fill(&r, mib);
    if (r.replica) {
        cleanup_free char *l0 = util_printf("%s/ltx/0", r.replica);
        cleanup_free char *l9 = util_printf("%s/ltx/%u", r.replica, LTX_SNAPSHOT_LEVEL);
        if (fsx_mkdirs(l0, 0700, &e) < 0 || fsx_mkdirs(l9, 0700, &e) < 0)
            die(e.msg);
        snapshot(&r);
    }
    if (r.replica || there)
        commits(&r, n, mib * 1024, !r.replica);
    if (r.replica)
        sql(&r, "pragma wal_checkpoint(truncate)");
    (void)sqlite3_close(r.db);
    free(r.sum);
    printf("{\"commits\": %llu, \"pages\": %u, \"replica_bytes\": %llu, \"checksum\": \"%016llx\"}\n",
           (unsigned long long)n, r.pages, (unsigned long long)r.bytes, (unsigned long long)r.checksum);
    return 0;
}
