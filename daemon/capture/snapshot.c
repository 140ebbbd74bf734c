#include "daemon/capture/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "daemon/spool/spool.h"

#define PUNCH_ALIGN 4096ull

struct snapshot {
    struct session *session;
    struct session_index x;
    struct capture_reader *reader;
    struct ltx_encoder *enc;
    struct fsx_tmp tmp;
    struct snapshot_info info;
    uint64_t size, punched, sum;
};

int snapshot_open(const char *path, const struct stat *file, struct snapshot **ret, struct session_index *ret_x,
                  struct err *e)
{
    struct snapshot *sn = util_zalloc(sizeof *sn);
    struct stat st;
    sn->tmp = (struct fsx_tmp)FSX_TMP_INIT;
    int r = session_open(path, &sn->session, e);
    if (r == 0 && (session_stat(sn->session, &st) < 0 || st.st_ino != file->st_ino || st.st_dev != file->st_dev))
        r = SESSION_BUSY; /* replaced in between: the next job finds out */
    if (r == 0)
        r = session_index(sn->session, &sn->x, e);
    if (r != 0) {
        (void)snapshot_free(sn);
        return r;
    }
    *ret_x = sn->x;
    *ret = sn;
    return 0;
}

static int write_out(void *arg, const void *p, size_t n, struct err *e)
{
    struct snapshot *sn = arg;
    int r = fsx_write_all(sn->tmp.fd, p, n, e);
    if (r < 0)
        return err_wrap(e, "write %s", sn->tmp.tmp);
    sn->size += n;
    return 0;
}

int snapshot_begin(struct snapshot *sn, const char *dir, enum ltx_encoding encoding, const struct snapshot_info *info,
                   struct err *e)
{
    sn->info = *info;
    sn->info.page_size = sn->x.page_size;
    sn->info.pages = sn->x.pages;
    struct ltx_header h = {
        .flags = LTX_FLAG_NO_CHECKSUM,
        .page_size = sn->x.page_size,
        .commit = sn->x.pages,
        .min_txid = 1,
        .max_txid = info->txid,
        .timestamp_ms = info->timestamp_ms,
        .wal_offset = 32, /* as every whole database has it: see capture.c */
        .node_id = info->lineage,
        .clock_txid = info->clock_txid,
    };
    cleanup_free char *path = spool_snapshot_path(dir, info->txid);
    int r = capture_reader_new(sn->session, &sn->x, sn->x.pages, &sn->reader, e);
    if (r == 0)
        r = fsx_tmp_open(path, 0600, &sn->tmp, e);
    if (r == 0)
        r = ltx_encoder_new(&h, encoding, write_out, sn, &sn->enc, e);
    sn->info.path = sn->tmp.tmp;
    return r;
}

const struct snapshot_info *snapshot_info(const struct snapshot *sn)
{
    return &sn->info;
}

/* A page that cannot be compressed, with what surrounds it and its entry in the index. */
uint64_t snapshot_bound(const struct snapshot *sn)
{
    return 4096 + (uint64_t)sn->info.pages * (sn->info.page_size + sn->info.page_size / 255 + 64);
}

static int finish(struct snapshot *sn, struct err *e)
{
    int r = ltx_encoder_finish(sn->enc, 0, NULL, e);
    if (r == 0 && sn->info.checksum && sn->info.checksum != snapshot_checksum(sn))
        r = err_set(e, ERR_CORRUPT, "pages of the file are not those that went through SQLite's WAL");
    return r;
}

static int one_piece(struct snapshot *sn, struct err *e)
{
    uint32_t first, n, ps = sn->x.page_size, lock = ltx_lock_pgno(ps);
    const uint8_t *pages;
    int r = capture_reader_next(sn->reader, &first, &n, &pages, e);
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        const uint8_t *page = pages + (size_t)i * ps;
        if (first + i == lock)
            continue;
        sn->sum ^= ltx_page_checksum(first + i, page, ps);
        r = ltx_encoder_page(sn->enc, first + i, page, e);
    }
    return r;
}

int snapshot_slice(struct snapshot *sn, uint64_t bytes, uint64_t ms, uint64_t *ret_size, bool *ret_done, struct err *e)
{
    uint64_t stop = sn->size + bytes, until = clk_mono_ms() + ms;
    int r;
    *ret_done = false;
    do
        r = one_piece(sn, e);
    while (r == 0 && sn->size < stop && clk_mono_ms() < until);
    if (r == 1) {
        r = finish(sn, e);
        *ret_done = r == 0;
    }
    *ret_size = sn->size;
    return r;
}

uint64_t snapshot_checksum(const struct snapshot *sn)
{
    return sn->sum | LTX_CHECKSUM_FLAG;
}

void snapshot_punch(struct snapshot *sn, uint64_t bytes)
{
    uint64_t end = bytes / PUNCH_ALIGN * PUNCH_ALIGN;
    if (end <= sn->punched)
        return;
    /* a file system that cannot keeps the whole file until its end */
    (void)!fallocate(sn->tmp.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)sn->punched,
                     (off_t)(end - sn->punched));
    sn->punched = end;
}

void snapshot_rest(struct snapshot *sn)
{
    sn->reader = capture_reader_free(sn->reader);
    sn->enc = ltx_encoder_free(sn->enc);
    sn->session = session_close(sn->session);
}

struct snapshot *snapshot_free(struct snapshot *sn)
{
    if (!sn)
        return NULL;
    snapshot_rest(sn);
    fsx_tmp_abort(&sn->tmp);
    free(sn);
    return NULL;
}
