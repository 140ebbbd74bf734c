/* Litestream v0.3: all objects of a plan into one file, because a WAL has to be read twice. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>

#include "common/store/restore_int.h"

static int on_bytes(void *arg, const void *p, size_t n, struct err *e)
{
    struct restore_slot *s = arg;
    struct restore *r = s->round->data;
    const struct restore_input *in = &r->in[s->job];
    const uint8_t *b = p;
    if (n > in->size - s->got)
        return err_set(e, ERR_CORRUPT, "%s: more than the %llu bytes that were listed", s->key,
                       (unsigned long long)in->size);
    while (n) {
        ssize_t put = pwrite(r->spool, b, n, (off_t)(in->off + s->got));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            int k = err_sys(e, errno, "write to the temporary file beside it");
            return k == -(int)ERR_NOSPC ? restore_no_room(r->opts->output, &r->need, e)
                                        : err_wrap(e, "%s: fetch %s", r->opts->output, s->key);
        }
        b += put;
        n -= (size_t)put;
        s->got += (uint64_t)put;
        r->need.there += (uint64_t)put;
        atomic_fetch_add(&r->job.done, (uint64_t)put);
    }
    return 0;
}

static void on_fetched(struct store_req *req)
{
    struct restore_slot *s = req->data;
    struct restore *r = s->round->data;
    const struct restore_input *in = &r->in[s->job];
    if (req->err.code == ERR_OK && s->got != in->size)
        (void)err_set(&req->err, ERR_CORRUPT, "%s: %llu bytes of the %llu that were listed", s->key,
                      (unsigned long long)s->got, (unsigned long long)in->size);
    restore_slot_end(req);
}

static void submit_get(struct restore_slot *s)
{
    struct restore *r = s->round->data;
    const struct restore_input *in = &r->in[s->job];
    restore_slot_begin(s, util_strdup(in->name), on_fetched);
    store_get(r->store, &s->req, s->key, s->got, in->size - s->got, on_bytes, s, &s->info);
}

/* An unnamed file in the output's directory, where there has to be room anyway. */
static int open_spool(const char *output, int *ret, struct err *e)
{
    cleanup_free char *copy = util_strdup(output);
    const char *dir = dirname(copy);
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        /* some file systems cannot: give it a name for a moment */
        struct fsx_tmp t = FSX_TMP_INIT;
        int k = fsx_tmp_open(output, 0600, &t, e);
        if (k < 0)
            return k;
        *ret = TAKE_FD(t.fd);
        fsx_tmp_abort(&t);
        return 0;
    }
    if (fd < 0)
        return err_sys(e, errno, "create a temporary file in %s", dir);
    *ret = fd;
    return 0;
}

int restore_v3_fetch(struct restore *r, struct err *e)
{
    r->need = (struct restore_need){.fetched = r->planned};
    int k = restore_room(r->opts->output, &r->need, e);
    if (!k)
        k = open_spool(r->opts->output, &r->spool, e);
    return k < 0 ? k : restore_round_run(&r->round, r->n_plan, submit_get, e);
}
