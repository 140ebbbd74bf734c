#include "daemon/spool/pause.h"

#include <jansson.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"

#define MAX_BYTES 4096u

struct pause *pause_new(int64_t since_ms, int64_t until_ms, unsigned uid, const char *reason)
{
    size_t n = strlen(reason) + 1;
    struct pause *p = util_zalloc(sizeof *p + n);
    p->since_ms = since_ms;
    p->until_ms = until_ms;
    p->uid = uid;
    memcpy(p->reason, reason, n);
    return p;
}

static char *path_of(const char *dir)
{
    return util_printf("%s/paused", dir);
}

static struct pause *unreadable(const char *path, const char *why)
{
    cleanup_free char *text = util_printf("the record %s cannot be read: %s", path, why);
    return pause_new(clk_real_ms(), 0, 0, text);
}

const char *pause_by(const struct pause *p, char buf[static 24])
{
    (void)snprintf(buf, 24, p->uid ? "uid %u" : "root", p->uid);
    return buf;
}

struct pause *pause_read(const char *dir)
{
    cleanup_free char *path = path_of(dir);
    cleanup_buf struct buf b = BUF_INIT;
    struct err e;
    json_error_t je;
    json_int_t since, uid, until = 0;
    const char *reason;
    int r = fsx_read(path, MAX_BYTES, &b, &e);
    if (r == -ERR_NOTFOUND)
        return NULL;
    if (r < 0)
        return unreadable(path, e.msg);
    json_t *j = json_loadb((const char *)b.p, b.len, JSON_REJECT_DUPLICATES, &je);
    struct pause *p = NULL;
    if (j && json_unpack_ex(j, &je, 0, "{s:I, s:I, s:s, s?:I}", "since_ms", &since, "uid", &uid, "reason", &reason,
                            "until_ms", &until) == 0)
        p = pause_new(since, until, (unsigned)uid, reason);
    json_decref(j);
    if (p && p->until_ms && clk_real_ms() >= p->until_ms) {
        free(p);
        (void)pause_remove(dir, &e);
        return NULL;
    }
    return p ? p : unreadable(path, je.text);
}

int pause_write(const char *dir, const struct pause *p, struct err *e)
{
    cleanup_free char *path = path_of(dir);
    json_t *j =
        json_pack("{s:I, s:I, s:s, s:I}", "since_ms", (json_int_t)p->since_ms, "uid",
                  (json_int_t)p->uid, "reason", p->reason, "until_ms", (json_int_t)p->until_ms);
    cleanup_free char *text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    if (!text)
        return err_set(e, ERR_USAGE, "the reason is not UTF-8 text");
    int r = fsx_mkdirs(dir, 0700, e);
    return r < 0 ? r : fsx_publish(path, text, strlen(text), 0600, FSX_REPLACE, e);
}

int pause_remove(const char *dir, struct err *e)
{
    cleanup_free char *path = path_of(dir);
    int r = fsx_unlink(path, e);
    if (r < 0)
        return r;
    r = fsx_sync_dir(dir, e);
    return r == -ERR_NOTFOUND ? 0 : r;
}
