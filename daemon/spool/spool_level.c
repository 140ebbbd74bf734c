#include "daemon/spool/spool_level.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "common/base/log.h"
#include "common/format/crc64.h"
#include "daemon/spool/spool.h"

char *spool_level_path(const char *dir, unsigned level, uint64_t min, uint64_t max)
{
    char name[LTX_NAME_SIZE];
    return util_printf("%s/l%u/%s", dir, level, ltx_name(name, min, max));
}

/* ---- lists ------------------------------------------------------------------------------------- */

void level_list_add(struct level_list *l, const struct level_file *f)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 8;
        l->file = util_realloc(l->file, l->cap * sizeof *l->file);
    }
    l->file[l->n++] = *f;
}

void level_list_remove(struct level_list *l, size_t i)
{
    l->n--;
    memmove(l->file + i, l->file + i + 1, (l->n - i) * sizeof *l->file);
}

void level_list_done(struct level_list *l)
{
    free(l->file);
    *l = (struct level_list){.file = NULL};
}

/* ---- reading what is there --------------------------------------------------------------------- */

struct found {
    const char *dir;
    struct level_list *list;
};

static int on_name(const char *name, void *arg)
{
    const struct found *x = arg;
    struct level_file f = {0};
    if (fsx_is_tmp(name)) {
        cleanup_free char *path = util_printf("%s/%s", x->dir, name);
        (void)fsx_unlink(path, NULL);
    } else if (ltx_name_parse(name, &f.min, &f.max)) {
        level_list_add(x->list, &f);
    }
    return 0;
}

static int by_txid(const void *a, const void *b)
{
    const struct level_file *x = a, *y = b;
    return x->max != y->max ? (x->max > y->max) - (x->max < y->max) : (x->min < y->min) - (x->min > y->min);
}

static int check(const char *path, struct level_file *f, struct err *e)
{
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    struct ltx_header h;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(e, errno, "open %s", path);
    if (st.st_size < (off_t)LTX_HEADER_SIZE)
        return err_set(e, ERR_CORRUPT, "%s is only %lld bytes long", path, (long long)st.st_size);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return err_sys(e, errno, "map %s", path);
    int r = ltx_verify(p, (size_t)st.st_size, &h, e);
    f->whole = r == 0 && ltx_is_whole(p, (size_t)st.st_size);
    (void)munmap(p, (size_t)st.st_size);
    if (r == 0 && (h.min_txid != f->min || h.max_txid != f->max))
        r = err_set(e, ERR_CORRUPT, "it carries other TXIDs");
    if (r < 0)
        return err_wrap(e, "%s", path);
    f->size = (uint64_t)st.st_size;
    f->timestamp_ms = h.timestamp_ms;
    f->checksum = spool_mark_read(fd);
    f->lineage = h.node_id;
    return 0;
}

static int load_level(const char *dir, unsigned level, struct level_list *list, struct err *e)
{
    cleanup_free char *at = util_printf("%s/l%u", dir, level);
    struct found x = {at, list};
    int r = fsx_list(at, on_name, &x, e);
    if (r == -(int)ERR_NOTFOUND)
        return 0;
    if (r < 0)
        return r;
    if (list->n)
        qsort(list->file, list->n, sizeof *list->file, by_txid);
    for (size_t i = 0; i < list->n;) {
        cleanup_free char *path = spool_level_path(dir, level, list->file[i].min, list->file[i].max);
        r = check(path, &list->file[i], e);
        if (r == -(int)ERR_CORRUPT) {
            log_err(LOG_WARN, e, "removed, level 0 has the same");
            (void)fsx_unlink(path, NULL);
            level_list_remove(list, i);
        } else if (r < 0) {
            return r;
        } else {
            i++;
        }
    }
    return 0;
}

int spool_levels_load(const char *dir, struct level_list ret[static SPOOL_LEVELS], struct err *e)
{
    struct level_list list[SPOOL_LEVELS] = {{.file = NULL}};
    int r = 0;
    for (unsigned i = 0; i < SPOOL_LEVELS && r == 0; i++)
        r = load_level(dir, i + 1, &list[i], e);
    for (unsigned i = 0; i < SPOOL_LEVELS; i++) {
        if (r == 0)
            ret[i] = list[i];
        else
            level_list_done(&list[i]);
    }
    return r;
}

/* ---- how far each level is merged -------------------------------------------------------------- */

static char *merged_path(const char *dir)
{
    return util_printf("%s/merged", dir);
}

enum { MERGED_BYTES = SPOOL_LEVELS * 8, MERGED_SIZE = MERGED_BYTES + 8 };

void spool_merged_read(const char *dir, uint64_t ret[static SPOOL_LEVELS])
{
    cleanup_free char *path = merged_path(dir);
    cleanup_buf struct buf b = BUF_INIT;
    memset(ret, 0, SPOOL_LEVELS * sizeof *ret);
    if (fsx_read(path, MERGED_SIZE, &b, NULL) < 0 || b.len != MERGED_SIZE ||
        be64_get(b.p + MERGED_BYTES) != crc64(0, b.p, MERGED_BYTES))
        return;
    for (unsigned i = 0; i < SPOOL_LEVELS; i++)
        ret[i] = be64_get(b.p + (size_t)i * 8);
}

int spool_merged_write(const char *dir, const uint64_t merged[static SPOOL_LEVELS], struct err *e)
{
    uint8_t bytes[MERGED_SIZE];
    for (unsigned i = 0; i < SPOOL_LEVELS; i++)
        be64_put(bytes + (size_t)i * 8, merged[i]);
    be64_put(bytes + MERGED_BYTES, crc64(0, bytes, MERGED_BYTES));
    cleanup_free char *path = merged_path(dir);
    return fsx_publish(path, bytes, sizeof bytes, 0600, FSX_REPLACE | FSX_NOSYNC, e);
}
