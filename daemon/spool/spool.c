#include "daemon/spool/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "common/base/log.h"
#include "common/format/crc64.h"

char *spool_path(const char *dir, uint64_t txid)
{
    char name[LTX_NAME_SIZE];
    return util_printf("%s/l0/%s", dir, ltx_name(name, txid, txid));
}

char *spool_snapshot_path(const char *dir, uint64_t txid)
{
    char name[LTX_NAME_SIZE];
    return util_printf("%s/snapshot/%s", dir, ltx_name(name, 1, txid));
}

void spool_state_done(struct spool_state *st)
{
    free(st->file);
    free(st->damage);
    *st = (struct spool_state){.file = NULL};
}

/* ---- reading what is there -------------------------------------------------------------------- */

struct names {
    const char *dir;
    struct spool_file *file;
    size_t n, cap;
    bool sweep_all, tmp_only;
};

static int on_name(const char *name, void *arg)
{
    struct names *l = arg;
    uint64_t min, max;
    if (fsx_is_tmp(name) || l->sweep_all) {
        cleanup_free char *path = util_printf("%s/%s", l->dir, name);
        (void)fsx_unlink(path, NULL);
        return 0;
    }
    if (l->tmp_only || !ltx_name_parse(name, &min, &max) || min != max)
        return 0; /* not ours: leave it alone */
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->file = util_realloc(l->file, l->cap * sizeof *l->file);
    }
    l->file[l->n++] = (struct spool_file){.txid = min};
    return 0;
}

static int by_txid(const void *a, const void *b)
{
    uint64_t x = ((const struct spool_file *)a)->txid;
    uint64_t y = ((const struct spool_file *)b)->txid;
    return (x > y) - (x < y);
}

#define MARK "user.walsup-checksum"

void spool_mark(int fd, uint64_t checksum)
{
    char text[17];
    (void)snprintf(text, sizeof text, "%016" PRIx64, checksum);
    (void)fsetxattr(fd, MARK, text, 16, 0);
}

uint64_t spool_mark_read(int fd)
{
    char text[17] = "";
    uint64_t v;
    int used = 0;
    return fgetxattr(fd, MARK, text, 16) == 16 && sscanf(text, "%16" SCNx64 "%n", &v, &used) == 1 && used == 16
               ? v
               : 0;
}

static int check_file(const char *dir, struct spool_file *f, struct ltx_header *ret_h,
                      struct err *e)
{
    cleanup_free char *path = spool_path(dir, f->txid);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, errno, "open %s", path);
    if (st.st_size < (off_t)LTX_HEADER_SIZE)
        return err_set(e, ERR_CORRUPT, "%s is only %lld bytes long", path, (long long)st.st_size);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return err_sys(e, errno, "map %s", path);
    int r = ltx_verify(p, (size_t)st.st_size, ret_h, e);
    f->whole = r == 0 && ltx_is_whole(p, (size_t)st.st_size);
    (void)munmap(p, (size_t)st.st_size);
    if (r < 0)
        return err_wrap(e, "%s", path);
    if (ret_h->min_txid != f->txid || ret_h->max_txid != f->txid)
        return err_set(e, ERR_CORRUPT, "%s carries TXID %016" PRIx64 "-%016" PRIx64, path,
                       ret_h->min_txid, ret_h->max_txid);
    f->size = (uint64_t)st.st_size;
    f->timestamp_ms = ret_h->timestamp_ms;
    f->checksum = spool_mark_read(fd);
    f->lineage = ret_h->node_id;
    return 0;
}

static char *tip_path(const char *dir)
{
    return util_printf("%s/tip", dir);
}

/* The header, the database checksum, and the CRC of both: without a check a flipped bit would change the numbering. */
enum { TIP_SUM = LTX_HEADER_SIZE, TIP_CRC = TIP_SUM + 8, TIP_SIZE = TIP_CRC + 8 };

static bool tip_read(const char *dir, struct ltx_header *ret, uint64_t *ret_checksum)
{
    cleanup_free char *path = tip_path(dir);
    cleanup_buf struct buf b = BUF_INIT;
    if (fsx_read(path, TIP_SIZE, &b, NULL) < 0 || b.len != TIP_SIZE ||
        be64_get(b.p + TIP_CRC) != crc64(0, b.p, TIP_CRC) || ltx_header_decode(b.p, ret, NULL) < 0)
        return false;
    *ret_checksum = be64_get(b.p + TIP_SUM);
    return true;
}

static int tip_write(const char *dir, const struct ltx_header *h, uint64_t checksum, struct err *e)
{
    uint8_t bytes[TIP_SIZE];
    ltx_header_encode(h, bytes);
    be64_put(bytes + TIP_SUM, checksum);
    be64_put(bytes + TIP_CRC, crc64(0, bytes, TIP_CRC));
    cleanup_free char *path = tip_path(dir);
    return fsx_publish(path, bytes, sizeof bytes, 0600, FSX_REPLACE, e);
}

/* A file that cannot be trusted breaks the chain there: it and everything before it goes; what
 * follows stays, and the numbering goes on. */
static int check_files(const char *dir, struct spool_state *st, struct err *e)
{
    size_t keep_from = 0;
    for (size_t i = 0; i < st->n; i++) {
        struct ltx_header h;
        struct err fe;
        int r = check_file(dir, &st->file[i], &h, &fe);
        if (r == -ERR_CORRUPT) {
            keep_from = i + 1;
            free(st->damage);
            st->damage = util_strdup(fe.msg);
            /* even a damaged name is taken: its TXID must not be given out again */
            if (!st->has_tip)
                st->tip = (struct ltx_header){
                    .flags = LTX_FLAG_NO_CHECKSUM, .page_size = 512, .commit = 1};
            st->tip_checksum = 0;
            st->tip.min_txid = st->tip.max_txid = MAX(st->tip.max_txid, st->file[i].txid);
            st->has_tip = true;
            continue;
        }
        if (r < 0) {
            *e = fe; /* a disk that cannot be read is no reason to throw anything away */
            return r;
        }
        if (!st->has_tip || h.max_txid >= st->tip.max_txid) {
            st->tip = h;
            st->tip_checksum = st->file[i].checksum;
            st->has_tip = true;
        }
    }
    if (keep_from) {
        int r = spool_drop(dir, &st->tip, st->tip_checksum, st->file[0].txid, st->file[keep_from - 1].txid, e);
        if (r < 0)
            return r;
        memmove(st->file, st->file + keep_from, (st->n - keep_from) * sizeof *st->file);
        st->n -= keep_from;
    }
    return 0;
}

int spool_open(const char *dir, struct spool_state *ret, struct err *e)
{
    cleanup_free char *l0 = util_printf("%s/l0", dir);
    cleanup_free char *snapshot = util_printf("%s/snapshot", dir);
    int r = fsx_mkdirs(l0, 0700, e);
    if (r == 0)
        r = fsx_mkdirs(snapshot, 0700, e);
    struct names old = {.dir = snapshot, .sweep_all = true};
    if (r == 0)
        r = fsx_list(snapshot, on_name, &old, e);
    struct names here = {.dir = dir, .tmp_only = true};
    if (r == 0)
        r = fsx_list(dir, on_name, &here, e);
    struct names names = {.dir = l0};
    if (r == 0)
        r = fsx_list(l0, on_name, &names, e);
    if (r < 0) {
        free(names.file);
        return r;
    }
    struct spool_state st = {.file = names.file, .n = names.n};
    if (st.n)
        qsort(st.file, st.n, sizeof *st.file, by_txid);
    st.has_tip = tip_read(dir, &st.tip, &st.tip_checksum);
    r = check_files(dir, &st, e);
    if (r < 0) {
        spool_state_done(&st);
        return r;
    }
    *ret = st;
    return 0;
}

/* ---- removing --------------------------------------------------------------------------------- */

struct dropping {
    const char *dir;
    uint64_t first, last;
    struct err *e;
};

/* By what is there, not by counting: the numbering may have jumped far ahead. */
static int drop_name(const char *name, void *arg)
{
    const struct dropping *d = arg;
    uint64_t min, max;
    if (!ltx_name_parse(name, &min, &max) || min != max || min < d->first || min > d->last)
        return 0;
    cleanup_free char *path = spool_path(d->dir, min);
    return fsx_unlink(path, d->e);
}

static int drop_range(const char *dir, uint64_t first, uint64_t last, struct err *e)
{
    if (last - first > 64) {
        cleanup_free char *l0 = util_printf("%s/l0", dir);
        return fsx_list(l0, drop_name, &(struct dropping){dir, first, last, e}, e);
    }
    for (uint64_t n = last - first + 1, txid = first; n; n--, txid++) {
        cleanup_free char *path = spool_path(dir, txid);
        int r = fsx_unlink(path, e);
        if (r < 0)
            return r;
    }
    return 0;
}

int spool_drop(const char *dir, const struct ltx_header *tip, uint64_t tip_checksum, uint64_t first,
               uint64_t last, struct err *e)
{
    bool newest = tip->max_txid <= last;
    /* the old ones first: on a full disk they are the room for the tip */
    uint64_t old_last = newest ? tip->max_txid - 1 : last;
    int r = first <= old_last ? drop_range(dir, first, old_last, e) : 0;
    if (r == 0 && newest)
        r = tip_write(dir, tip, tip_checksum, e);
    if (r == 0 && newest)
        r = drop_range(dir, MAX(first, tip->max_txid), last, e);
    return r;
}

int spool_drop_snapshot(const char *dir, uint64_t txid, struct err *e)
{
    cleanup_free char *path = spool_snapshot_path(dir, txid);
    return fsx_unlink(path, e);
}

/* ---- how far a replica is --------------------------------------------------------------------- */

static char *acked_path(const char *dir, const char *target)
{
    return util_printf("%s/acked.%s", dir, target);
}

bool spool_acked_read(const char *dir, const char *target, uint64_t lineage, uint64_t *ret_txid)
{
    cleanup_free char *path = acked_path(dir, target);
    cleanup_buf struct buf b = BUF_INIT;
    if (fsx_read(path, 64, &b, NULL) < 0)
        return false;
    uint64_t l, t;
    int used = 0;
    if (sscanf(buf_str(&b), "%16" SCNx64 " %16" SCNx64 "\n%n", &l, &t, &used) != 2 ||
        used != (int)b.len || used != 34 || l != lineage)
        return false;
    *ret_txid = t;
    return true;
}

int spool_acked_write(const char *dir, const char *target, uint64_t lineage, uint64_t txid,
                      struct err *e)
{
    cleanup_free char *path = acked_path(dir, target);
    char text[40];
    int n = snprintf(text, sizeof text, "%016" PRIx64 " %016" PRIx64 "\n", lineage, txid);
    return fsx_publish(path, text, (size_t)n, 0600, FSX_REPLACE | FSX_NOSYNC, e);
}
