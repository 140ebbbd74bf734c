#include "daemon/position.h"

#include <inttypes.h>

#include "common/base/fsx.h"
#include "common/format/crc64.h"

#define FORMAT_VERSION 2
#define MAX_BYTES 512

static int64_t ns(const struct timespec *t)
{
    return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

void position_stat(struct position *p, const struct stat *st)
{
    p->dev = st->st_dev;
    p->ino = st->st_ino;
    p->size = (uint64_t)st->st_size;
    p->mtime_ns = ns(&st->st_mtim);
    p->ctime_ns = ns(&st->st_ctim);
}

void position_stat_wal(struct position *p, const struct stat *st)
{
    p->wal_ino = st ? st->st_ino : 0;
    p->wal_size = st ? (uint64_t)st->st_size : 0;
    p->wal_mtime_ns = st ? ns(&st->st_mtim) : 0;
}

bool position_same_wal(const struct position *p, const struct position *now)
{
    return p->wal_ino == now->wal_ino && p->wal_size == now->wal_size &&
           p->wal_mtime_ns == now->wal_mtime_ns;
}

bool position_same_file(const struct position *p, const struct stat *st)
{
    return p->dev == st->st_dev && p->ino == st->st_ino;
}

bool position_same_content(const struct position *p, const struct stat *st)
{
    struct position now = *p;
    position_stat(&now, st);
    return position_same_file(p, st) && now.size == p->size && now.mtime_ns == p->mtime_ns &&
           now.ctime_ns == p->ctime_ns;
}

static char *position_path(const char *dir)
{
    return util_printf("%s/position", dir);
}

bool position_read(const char *dir, struct position *ret)
{
    cleanup_free char *path = position_path(dir);
    cleanup_buf struct buf b = BUF_INIT;
    if (fsx_read(path, MAX_BYTES, &b, NULL) < 0)
        return false;
    const char *text = buf_str(&b);
    struct position p = {.pos = {.valid = true}};
    unsigned version;
    int drained, used = 0;
    uint64_t crc;
    if (sscanf(text,
               "%u %" SCNx64 " %" SCNx64 " %" SCNx32 " %" SCNx32 " %" SCNu32 " %" SCNx32 " %" SCNx32
               " %" SCNu32 " %" SCNu64 " %" SCNu64 " %d %" SCNu64 " %" SCNd64 " %" SCNd64 " %" SCNu64
               " %" SCNu64 " %" SCNd64 " %" SCNx64 "%n",
               &version, &p.txid, &p.lineage, &p.pos.salt[0], &p.pos.salt[1], &p.pos.frame,
               &p.pos.cksum[0], &p.pos.cksum[1], &p.pos.pages, &p.dev, &p.ino, &drained, &p.size,
               &p.mtime_ns, &p.ctime_ns, &p.wal_ino, &p.wal_size, &p.wal_mtime_ns, &p.checksum,
               &used) != 19 ||
        version != FORMAT_VERSION || sscanf(text + used, " %" SCNx64, &crc) != 1 ||
        crc != crc64(0, text, (size_t)used))
        return false;
    p.drained = drained != 0;
    *ret = p;
    return true;
}

int position_write(const char *dir, const struct position *p, bool sync, struct err *e)
{
    char text[MAX_BYTES];
    int n = snprintf(text, sizeof text,
                     "%u %016" PRIx64 " %016" PRIx64 " %08" PRIx32 " %08" PRIx32 " %" PRIu32
                     " %08" PRIx32 " %08" PRIx32 " %" PRIu32 " %" PRIu64 " %" PRIu64 " %d %" PRIu64
                     " %" PRId64 " %" PRId64 " %" PRIu64 " %" PRIu64 " %" PRId64 " %016" PRIx64,
                     FORMAT_VERSION, p->txid, p->lineage, p->pos.salt[0], p->pos.salt[1],
                     p->pos.frame, p->pos.cksum[0], p->pos.cksum[1], p->pos.pages, p->dev, p->ino,
                     p->drained ? 1 : 0, p->size, p->mtime_ns, p->ctime_ns, p->wal_ino, p->wal_size, p->wal_mtime_ns, p->checksum);
    n += snprintf(text + n, sizeof text - (size_t)n, " %016" PRIx64 "\n",
                  crc64(0, text, (size_t)n));
    cleanup_free char *path = position_path(dir);
    return fsx_publish(path, text, (size_t)n, 0600, FSX_REPLACE | (sync ? 0 : FSX_NOSYNC), e);
}
