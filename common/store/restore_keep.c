#include "common/store/restore_keep.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/base/clk.h"
#include "common/format/crc64.h"

/* magic, location, TXID, lineage: 8 bytes each; page size, commit: 4 each; 16 digits of the temporary
 * file's name; the map; CRC-64 of all that */
#define MAGIC 0x77616c7375702d31ull /* "walsup-1" */
#define HEAD_SIZE (4u * 8 + 2 * 4 + 16)
#define SUM_SIZE 8u
#define NAME_DIGITS 16u
#define EVERY_MS 1000u
#define EVERY_LARGE_MS 10000u
#define LARGE_BYTES (1u << 20)
#define MAX_BYTES ((size_t)1 << 30)

static uint64_t location_of(const struct keep *k)
{
    return crc64(0, k->location, strlen(k->location));
}

/* tests do not wait for a second to pass */
static uint64_t every_ms(size_t map)
{
    const char *own = getenv("WALSUP_TEST_KEEP_MS");
    return own ? strtoull(own, NULL, 10) : map > LARGE_BYTES ? EVERY_LARGE_MS : EVERY_MS;
}

static size_t map_bytes(uint32_t commit)
{
    return (size_t)commit / 8 + 1;
}

/* the digits at the end of its name tell the temporary file */
static int open_tmp(struct keep *k, const uint8_t digits[static NAME_DIGITS], struct fsx_tmp *t)
{
    struct stat st, there;
    struct err e;
    cleanup_free char *tmp = util_printf("%s.tmp-%.*s", k->output, (int)NAME_DIGITS,
                                         (const char *)digits);
    cleanup_close int fd = fsx_open_own(tmp, O_RDWR, &e);
    if (fd == -(int)ERR_PERM)
        (void)snprintf(k->why, sizeof k->why, "%s", e.msg);
    if (fd < 0 || !fsx_is_tmp(tmp) || fstat(fd, &st) < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return 0;
    /* published or removed since it was opened: then the name is another file's, or nobody's */
    if (lstat(tmp, &there) < 0 || there.st_dev != st.st_dev || there.st_ino != st.st_ino)
        return 0;
    *t = (struct fsx_tmp){TAKE_FD(fd), util_strdup(k->output), TAKE_PTR(tmp)};
    return 1;
}

static int parse(struct keep *k, const struct buf *b, struct fsx_tmp *t, struct pages_kept *ret)
{
    const uint8_t *p = b->p;
    if (b->len < HEAD_SIZE + SUM_SIZE || be64_get(p) != MAGIC ||
        be64_get(p + b->len - SUM_SIZE) != crc64(0, p, b->len - SUM_SIZE) ||
        be64_get(p + 8) != location_of(k))
        return 0;
    struct pages_kept kept = {.txid = be64_get(p + 16), .page_size = be32_get(p + 32),
                              .commit = be32_get(p + 36)};
    size_t n = map_bytes(kept.commit);
    if (b->len != HEAD_SIZE + n + SUM_SIZE || !kept.commit)
        return 0;
    kept.map = malloc(n);
    if (!kept.map || !open_tmp(k, p + 40, t)) {
        free(kept.map);
        return 0;
    }
    memcpy(kept.map, p + HEAD_SIZE, n);
    *ret = kept;
    return 1;
}

int keep_open(struct keep *k, struct fsx_tmp *t, struct pages_kept *ret)
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    k->path = util_printf("%s.resume", k->output);
    if (k->off) {
        keep_remove(k);
        return 0;
    }
    k->next_ms = clk_mono_ms() + every_ms(0);
    int r = fsx_read_own(k->path, MAX_BYTES, &b, &e);
    if (r == -(int)ERR_PERM)
        (void)snprintf(k->why, sizeof k->why, "%s", e.msg);
    r = r < 0 ? 0 : parse(k, &b, t, ret);
    if (!r)
        keep_remove(k);
    return r;
}

static void add_u64(struct buf *b, uint64_t v)
{
    uint8_t p[8];
    be64_put(p, v);
    buf_add(b, p, sizeof p);
}

void keep_save(struct keep *k, const struct fsx_tmp *t, const struct pages *p, bool now)
{
    struct err e = {0};
    size_t n = map_bytes(p->newest.commit);
    if (k->off || !p->expected || !p->written || (!now && clk_mono_ms() < k->next_ms))
        return;
    k->next_ms = clk_mono_ms() + every_ms(n);
    cleanup_buf struct buf b = BUF_INIT;
    uint8_t sizes[8];
    add_u64(&b, MAGIC);
    add_u64(&b, location_of(k));
    add_u64(&b, p->newest.max_txid);
    add_u64(&b, p->lineage);
    be32_put(sizes, p->newest.page_size);
    be32_put(sizes + 4, p->newest.commit);
    buf_add(&b, sizes, sizeof sizes);
    buf_add(&b, t->tmp + strlen(t->tmp) - NAME_DIGITS, NAME_DIGITS);
    buf_add(&b, p->written, n);
    size_t kept = p->kept.map && p->kept_is_good ? MIN(n, map_bytes(p->kept.commit)) : 0;
    for (size_t i = 0; i < kept; i++)
        b.p[HEAD_SIZE + i] |= p->kept.map[i];
    add_u64(&b, crc64(0, b.p, b.len));
    (void)fsx_publish(k->path, b.p, b.len, 0600, FSX_REPLACE | FSX_NOSYNC, &e);
}

void keep_leave(struct fsx_tmp *t)
{
    if (t->fd >= 0)
        (void)close(t->fd);
    free(t->path);
    free(t->tmp);
    *t = (struct fsx_tmp)FSX_TMP_INIT;
}

void keep_remove(struct keep *k)
{
    struct err e = {0};
    (void)fsx_unlink(k->path, &e);
}

void keep_done(struct keep *k)
{
    free(k->path);
    k->path = NULL;
}
