#include "daemon/replica/fence.h"

#include <inttypes.h>
#include <sys/utsname.h>

#include "common/base/clk.h"
#include "common/base/fsx.h"


/* host name, and the start of the machine's boot id: the same machine after a restart is another writer,
 * and so is a copy of it */
void fence_sign(struct store_meta *m)
{
    static char writer[sizeof m->writer];
    if (!writer[0]) {
        struct utsname u;
        cleanup_buf struct buf boot = BUF_INIT;
        (void)fsx_read("/proc/sys/kernel/random/boot_id", 64, &boot, NULL);
        (void)snprintf(writer, sizeof writer, "%.40s/%.8s", uname(&u) == 0 ? u.nodename : "?", buf_str(&boot));
        for (char *p = writer; *p; p++) /* it goes into a header */
            if (*p <= ' ' || *p > '~')
                *p = '?';
    }
    memcpy(m->writer, writer, sizeof writer);
}

static bool is_own(const char *writer)
{
    struct store_meta own = {.timestamp_ms = 0};
    fence_sign(&own);
    size_t host = strcspn(own.writer, "/");
    return host == strcspn(writer, "/") && !strncmp(own.writer, writer, host) && host && own.writer[0] != '?';
}

/* of the database after it: a file may carry it, or only its metadata, which not every directory can keep */
static uint64_t checksum(const struct fence_seen *s)
{
    uint64_t c = be64_get(s->tail);
    return c ? c : s->info.meta.checksum;
}

enum fence_verdict fence_judge(const struct fence_seen *s, const struct spool_file *mine, bool base)
{
    struct ltx_header h;
    if (s->head_n != sizeof s->head || ltx_header_decode(s->head, &h, NULL) < 0 || s->tail_n != sizeof s->tail)
        return FENCE_FOREIGN;
    if (h.node_id != mine->lineage || h.max_txid != mine->txid || h.min_txid != (base ? 1 : mine->txid))
        return FENCE_FOREIGN;
    uint64_t theirs = checksum(s);
    if (mine->checksum && theirs && theirs != mine->checksum)
        return FENCE_FOREIGN;
    if (base && mine->checksum && theirs)
        return FENCE_OURS;
    return s->info.size == mine->size && h.timestamp_ms == mine->timestamp_ms ? FENCE_OURS : FENCE_FOREIGN;
}

enum fence_verdict fence_judge_made(const struct fence_seen *s, const struct level_file *mine)
{
    struct ltx_header h;
    if (s->head_n != sizeof s->head || ltx_header_decode(s->head, &h, NULL) < 0 || s->tail_n != sizeof s->tail)
        return FENCE_FOREIGN;
    if (h.node_id != mine->lineage || h.min_txid != mine->min || h.max_txid != mine->max)
        return FENCE_FOREIGN;
    uint64_t theirs = checksum(s);
    return mine->checksum && theirs && theirs != mine->checksum ? FENCE_FOREIGN : FENCE_OURS;
}

/* A machine, or its state directory, that was put back from a snapshot or a backup meets what it stored itself. */
static int own_past(const char *key, const char *when, uint64_t lineage, struct err *e)
{
    (void)err_set(e, ERR_CONFLICT, "\"%s\" is this machine's own past: it was stored from here, with a commit of %s "
                  "(lineage %016" PRIx64 "), and the state directory does not know it, as if it, or the whole machine, "
                  "went back in time: nothing more is uploaded here", key, when, lineage);
    return err_hint(e, "if a copy of this machine runs elsewhere, stop it first; walsupctl "
                       "takeover, or takeover --all for "
                       "every database, continues behind what is stored");
}

int fence_tell(const struct fence_seen *s, const struct spool_file *mine, const char *key, struct err *e)
{
    struct ltx_header h = {.node_id = 0};
    char when[40] = "an unknown time", whose[96];
    bool ltx = s->head_n == sizeof s->head && ltx_header_decode(s->head, &h, NULL) == 0;
    int64_t ms = s->info.meta.timestamp_ms ? s->info.meta.timestamp_ms : ltx ? h.timestamp_ms : s->info.mtime_ms;
    if (ms)
        (void)util_rfc3339(when, ms);
    uint64_t lineage = s->info.meta.lineage ? s->info.meta.lineage : h.node_id;
    if (lineage == mine->lineage && is_own(s->info.meta.writer))
        return own_past(key, when, lineage, e);
    if (!lineage)
        (void)snprintf(whose, sizeof whose, "of no known history, perhaps by Litestream");
    else
        (void)snprintf(whose, sizeof whose, "%s %016" PRIx64,
                       lineage == mine->lineage ? "as a copy of this history, lineage" : "of the history with lineage",
                       lineage);
    (void)err_set(e, ERR_CONFLICT, "\"%s\" was written by another writer%s%s, %s, with a commit of %s: nothing more "
                  "is uploaded here", key, s->info.meta.writer[0] ? " on " : "", s->info.meta.writer, whose, when);
    return err_hint(e, "stop the other one, or give one of the two another path; then walsupctl takeover makes this "
                       "the replica's writer");
}

static int gather(void *arg, const void *p, size_t n, struct err *e)
{
    (void)e;
    buf_add(arg, p, n);
    return 0;
}

void fence_mark(struct buf *out, uint64_t txid, uint32_t page_size, uint32_t pages)
{
    struct ltx_header h = {.flags = LTX_FLAG_NO_CHECKSUM, .page_size = page_size ? page_size : 4096,
                           .commit = pages ? pages : 1, .min_txid = txid, .max_txid = txid,
                           .timestamp_ms = clk_real_ms()};
    struct ltx_encoder *enc = NULL;
    util_random(&h.node_id, sizeof h.node_id);
    if (ltx_encoder_new(&h, LTX_BLOCK, gather, out, &enc, NULL) == 0)
        (void)ltx_encoder_finish(enc, 0, NULL, NULL);
    (void)ltx_encoder_free(enc);
}

/* ---- remembered ---------------------------------------------------------------------------------- */

static char *path_of(const char *dir, const char *target)
{
    return util_printf("%s/fenced.%s", dir, target);
}

int fence_write(const char *dir, const char *target, const struct err *why, struct err *e)
{
    cleanup_free char *path = path_of(dir, target);
    cleanup_free char *text = util_printf("%s\n%s\n", why->msg, why->hint);
    return fsx_publish(path, text, strlen(text), 0600, FSX_REPLACE, e);
}

bool fence_read(const char *dir, const char *target, struct err *ret)
{
    cleanup_free char *path = path_of(dir, target);
    cleanup_buf struct buf b = BUF_INIT;
    if (access(path, F_OK) < 0)
        return false;
    /* that it is there is what counts; its words are for a person */
    (void)fsx_read(path, 4096, &b, NULL);
    char *text = util_strdup(buf_str(&b)), *rest = text;
    const char *msg = strsep(&rest, "\n"), *hint = rest ? strsep(&rest, "\n") : "";
    (void)err_set(ret, ERR_CONFLICT, "%s", *msg ? msg : "another writer was found here");
    (void)err_hint(ret, "%s", hint);
    free(text);
    return true;
}

int fence_remove(const char *dir, const char *target, struct err *e)
{
    cleanup_free char *path = path_of(dir, target);
    int r = fsx_unlink(path, e);
    return r < 0 ? r : fsx_sync_dir(dir, e);
}

/* ---- histories that lost ------------------------------------------------------------------------- */

bool fence_has_lost(const struct fence_lost *l, uint64_t lineage)
{
    for (size_t i = 0; i < FENCE_LOST; i++)
        if (lineage && l->lineage[i] == lineage)
            return true;
    return false;
}

void fence_lose(struct fence_lost *l, uint64_t lineage)
{
    if (!lineage || fence_has_lost(l, lineage))
        return;
    memmove(l->lineage + 1, l->lineage, (FENCE_LOST - 1) * sizeof l->lineage[0]);
    l->lineage[0] = lineage;
}

static char *lost_path(const char *dir, const char *target)
{
    return util_printf("%s/lost.%s", dir, target);
}

int fence_lost_write(const char *dir, const char *target, const struct fence_lost *l, struct err *e)
{
    cleanup_free char *path = lost_path(dir, target);
    char text[FENCE_LOST * 17 + 1];
    size_t n = 0;
    for (size_t i = 0; i < FENCE_LOST && l->lineage[i]; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%016" PRIx64 "\n", l->lineage[i]);
    return fsx_publish(path, text, n, 0600, FSX_REPLACE, e);
}

void fence_lost_read(const char *dir, const char *target, struct fence_lost *ret)
{
    cleanup_free char *path = lost_path(dir, target);
    cleanup_buf struct buf b = BUF_INIT;
    *ret = (struct fence_lost){{0}};
    if (fsx_read(path, 4096, &b, NULL) < 0)
        return;
    const char *at = buf_str(&b);
    for (size_t i = 0; i < FENCE_LOST; i++) {
        char *end;
        ret->lineage[i] = strtoull(at, &end, 16);
        if (end == at)
            return;
        at = end;
    }
}
