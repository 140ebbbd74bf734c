#include "daemon/capture/position.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/stat.h>
#include <time.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/format/crc64.h"

#define FORMAT_VERSION 3
#define MAX_BYTES 512
#define TICK_MS 50      /* file times are kept in steps of a few milliseconds */
#define COARSE_MS 2100  /* or, on FAT, ext4 with small inodes and some network file systems, of up to two seconds */
#define SECOND_NS 1000000000

static int64_t ns(const struct statx_timestamp *t)
{
    return t->tv_sec * 1000000000 + t->tv_nsec;
}

bool position_look(struct position *p, const char *path)
{
    struct statx st;
    struct timespec t;
    p->looked_ns = clock_gettime(CLOCK_REALTIME_COARSE, &t) == 0 ? (int64_t)t.tv_sec * SECOND_NS + t.tv_nsec : 0;
    if (statx(AT_FDCWD, path, 0, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
        return false;
    p->ino = st.stx_ino;
    p->birth_ns = st.stx_mask & STATX_BTIME ? ns(&st.stx_btime) : 0;
    p->size = st.stx_size;
    p->mtime_ns = ns(&st.stx_mtime);
    p->ctime_ns = ns(&st.stx_ctime);
    p->newest_ns = MAX(p->mtime_ns, p->ctime_ns);
    char real[PATH_MAX];
    cleanup_free char *wal = util_printf("%s-wal", realpath(path, real) ? real : path);
    bool there = statx(AT_FDCWD, wal, 0, STATX_BASIC_STATS | STATX_BTIME, &st) == 0;
    p->wal_ino = there ? st.stx_ino : 0;
    p->wal_size = there ? st.stx_size : 0;
    p->wal_mtime_ns = there ? ns(&st.stx_mtime) : 0;
    p->wal_birth_ns = there && st.stx_mask & STATX_BTIME ? ns(&st.stx_btime) : 0;
    p->newest_ns = there ? MAX(p->newest_ns, MAX(p->wal_mtime_ns, ns(&st.stx_ctime))) : p->newest_ns;
    return true;
}

void position_was(struct position *p, const struct stat *st)
{
    p->size = (uint64_t)st->st_size;
    p->mtime_ns = (int64_t)st->st_mtim.tv_sec * SECOND_NS + st->st_mtim.tv_nsec;
    p->ctime_ns = (int64_t)st->st_ctim.tv_sec * SECOND_NS + st->st_ctim.tv_nsec;
}

/* One whole second by chance is one in some hundred: then the longer age costs a moment. */
static uint64_t left_ms(int64_t time_ns, int64_t now_ms)
{
    int64_t grain = time_ns % SECOND_NS ? TICK_MS : COARSE_MS, age = now_ms - time_ns / (SECOND_NS / 1000);
    return age > grain ? 0 : (uint64_t)MIN(grain - age + 1, (int64_t)COARSE_MS);
}

uint64_t position_settled_ms(const struct position *p)
{
    int64_t now = clk_real_ms();
    uint64_t db = MAX(left_ms(p->mtime_ns, now), left_ms(p->ctime_ns, now));
    return p->wal_ino ? MAX(db, left_ms(p->wal_mtime_ns, now)) : db;
}

static int64_t changed_ns(const struct position *p)
{
    return MAX(p->mtime_ns, p->ctime_ns);
}

bool position_sealed(const struct position *p)
{
    return changed_ns(p) % SECOND_NS && p->looked_ns > changed_ns(p);
}

bool position_seals(const struct position *p)
{
    return changed_ns(p) % SECOND_NS && changed_ns(p) - p->looked_ns < TICK_MS * (SECOND_NS / 1000);
}

bool position_successor(const struct position *p, const struct position *now, uint32_t salt)
{
    return p->wal_ino != now->wal_ino || now->wal_birth_ns > p->wal_mtime_ns || salt == p->pos.salt[0] + 1;
}

bool position_same_file(const struct position *p, const struct position *now)
{
    return p->ino == now->ino && p->birth_ns == now->birth_ns;
}

bool position_same_content(const struct position *p, const struct position *now)
{
    return position_same_file(p, now) && p->size == now->size && p->mtime_ns == now->mtime_ns &&
           p->ctime_ns == now->ctime_ns;
}

bool position_same_wal(const struct position *p, const struct position *now)
{
    return p->wal_ino == now->wal_ino && p->wal_size == now->wal_size &&
           p->wal_mtime_ns == now->wal_mtime_ns;
}

uint64_t position_boot(void)
{
    static _Atomic uint64_t boot;
    cleanup_buf struct buf b = BUF_INIT;
    if (!boot && fsx_read("/proc/sys/kernel/random/boot_id", 64, &b, NULL) == 0)
        boot = crc64(0, b.p, b.len) | 1;
    return boot;
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
               " %" SCNu32 " %" SCNu64 " %" SCNd64 " %d %" SCNu64 " %" SCNd64 " %" SCNd64 " %" SCNu64
               " %" SCNu64 " %" SCNd64 " %" SCNx64 " %" SCNx64 "%n",
               &version, &p.txid, &p.lineage, &p.pos.salt[0], &p.pos.salt[1], &p.pos.frame,
               &p.pos.cksum[0], &p.pos.cksum[1], &p.pos.pages, &p.ino, &p.birth_ns, &drained, &p.size,
               &p.mtime_ns, &p.ctime_ns, &p.wal_ino, &p.wal_size, &p.wal_mtime_ns, &p.checksum,
               &p.boot, &used) != 20 ||
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
                     " %08" PRIx32 " %08" PRIx32 " %" PRIu32 " %" PRIu64 " %" PRId64 " %d %" PRIu64
                     " %" PRId64 " %" PRId64 " %" PRIu64 " %" PRIu64 " %" PRId64 " %016" PRIx64
                     " %016" PRIx64,
                     FORMAT_VERSION, p->txid, p->lineage, p->pos.salt[0], p->pos.salt[1],
                     p->pos.frame, p->pos.cksum[0], p->pos.cksum[1], p->pos.pages, p->ino,
                     p->birth_ns, p->drained ? 1 : 0, p->size, p->mtime_ns, p->ctime_ns, p->wal_ino,
                     p->wal_size, p->wal_mtime_ns, p->checksum, p->boot);
    n += snprintf(text + n, sizeof text - (size_t)n, " %016" PRIx64 "\n",
                  crc64(0, text, (size_t)n));
    cleanup_free char *path = position_path(dir);
    return fsx_publish(path, text, (size_t)n, 0600, FSX_REPLACE | (sync ? 0 : FSX_NOSYNC), e);
}

void position_remove(const char *dir)
{
    cleanup_free char *path = position_path(dir);
    (void)fsx_unlink(path, NULL);
}
