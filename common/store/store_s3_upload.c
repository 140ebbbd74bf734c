/* Multipart uploads of a bucket. */
#include "common/store/store_s3_int.h"

#include "common/base/clk.h"

/* ---- what nobody finished -------------------------------------------------------------------- */

static bool is_ours(const struct store *s, const char *id)
{
    for (const struct store_upload *u = s->uploads; u; u = u->next) {
        if (u->id && !strcmp(u->id, id))
            return true;
    }
    return false;
}

static void keep_old(struct s3_op *op)
{
    struct s3_page *all = &op->swept, *page = &op->x.page;
    const struct s3_answer *a = &op->x.answer;
    /* a Date is cut to seconds */
    int64_t until = (a->date_ms ? a->date_ms + 999 : clk_real_ms()) - (int64_t)op->older_ms;
    if (!page->n)
        return;
    all->item = util_realloc(all->item, (all->n + page->n) * sizeof *all->item);
    for (size_t i = 0; i < page->n; i++) {
        struct s3_page_item *item = &page->item[i];
        if (item->mtime_ms > until || is_ours(&op->store->base, item->upload_id))
            continue;
        struct s3_page_item *to = &all->item[all->n++];
        *to = (struct s3_page_item){.key = item->key, .upload_id = item->upload_id};
        item->key = item->upload_id = NULL;
    }
}

/* 1: x is the next request of the sweep, 0: there is none, negative: it failed */
static int sweep_on(struct s3_op *op, const struct err *e)
{
    if (e->code)
        return -(int)e->code;
    if (op->x.verb == S3_UPLOADS) {
        keep_old(op);
        if (op->x.page.truncated) {
            free(op->marker);
            free(op->id_marker);
            op->x.marker = op->marker = TAKE_PTR(op->x.page.next_marker);
            op->x.upload_id = op->id_marker = TAKE_PTR(op->x.page.next_id);
            return 1;
        }
    }
    if (op->n_swept == op->swept.n)
        return 0;
    const struct s3_page_item *item = &op->swept.item[op->n_swept++];
    op->x.verb = S3_ABORT;
    op->x.key = item->key;
    op->x.upload_id = item->upload_id;
    return 1;
}

static int on_swept(struct s3_op *op, struct err *e)
{
    return sweep_on(op, e);
}

void s3_sweep(struct store *s, struct store_req *req, const char *prefix, uint64_t older_ms)
{
    struct s3_op *op = s3_op_new(s, req, S3_UPLOADS, prefix, on_swept);
    op->older_ms = older_ms;
    op->x.upload_id = "";
}

/* ---- one upload -------------------------------------------------------------------------------- */

/* A directory has one writer, so what was begun there before and is not ours was left by a process
 * that died. That it cannot be swept is no reason not to go on. */
static int on_begin(struct s3_op *op, struct err *e)
{
    struct store_upload *u = op->upload;
    if (op->x.verb != S3_CREATE) {
        if (sweep_on(op, e) > 0)
            return 1;
        err_clear(e);
        op->x.verb = S3_CREATE;
        op->x.key = op->create_key;
        op->x.meta = u->meta;
        return 1;
    }
    if (e->code)
        return -(int)e->code;
    free(u->id); /* begun twice: the first answer was lost, and is swept some day */
    u->id = op->x.new_id;
    return 0;
}

void s3_upload_begin(struct store_upload *u, struct store_req *req)
{
    const char *slash = strrchr(u->key, '/');
    cleanup_free char *dir = slash ? strndup(u->key, (size_t)(slash - u->key) + 1) : NULL;
    struct s3_op *op =
        s3_op_new(u->store, req, dir ? S3_UPLOADS : S3_CREATE, dir ? dir : u->key, on_begin);
    op->upload = u;
    op->create_key = util_printf("%s%s", op->store->path, u->key);
    op->x.upload_id = "";
    op->x.meta = u->meta;
}

static void remember(struct store_upload *u, size_t at, const char *etag)
{
    if (at >= u->n_etags) {
        size_t n = MAX(at + 1, u->n_etags * 2);
        u->etag = util_realloc(u->etag, n * sizeof *u->etag);
        memset(u->etag + u->n_etags, 0, (n - u->n_etags) * sizeof *u->etag);
        u->n_etags = n;
    }
    free(u->etag[at]);
    u->etag[at] = util_strdup(etag);
}

static int on_part(struct s3_op *op, struct err *e)
{
    if (e->code)
        return -(int)e->code;
    remember(op->upload, op->part, op->x.answer.etag);
    return 0;
}

/* A request about an upload that was never begun is a mistake of the caller. */
static bool begun(const struct store_upload *u, struct store_req *req)
{
    if (u->id)
        return true;
    (void)err_set(&req->err, ERR_USAGE, "the upload of \"%s\" has not begun", u->key);
    store_finish_later(req);
    return false;
}

void s3_upload_add(struct store_upload *u, struct store_req *req, unsigned n,
                   const struct store_body *body)
{
    if (!begun(u, req))
        return;
    struct s3_op *op = s3_op_new(u->store, req, S3_PART, u->key, on_part);
    op->upload = u;
    op->part = n;
    op->x.upload_id = u->id;
    op->x.part = n + 1;
    s3_op_body(op, body);
}

static bool same(const struct s3_op *op)
{
    const struct store_meta *a = &op->info.meta, *b = &op->upload->meta;
    return op->info.size == op->total && b->checksum && b->lineage &&
           a->checksum == b->checksum && a->lineage == b->lineage &&
           a->timestamp_ms == b->timestamp_ms;
}

/* An answer that was lost leaves an object behind and no upload: asked again, the server knows
 * nothing of it, or finds the object in the way of the condition. So look what is there. */
static int on_completed(struct s3_op *op, struct err *e)
{
    if (op->x.verb == S3_COMPLETE) {
        if (e->code != ERR_NOTFOUND && e->code != ERR_CONFLICT)
            return -(int)e->code;
        op->was = util_alloc(sizeof *op->was);
        *op->was = *e;
        op->x.verb = S3_HEAD;
        op->x.body = NULL;
        op->x.if_absent = false;
        op->x.ret_info = &op->info;
        return 1;
    }
    if (!e->code && same(op)) {
        err_clear(e);
        return 0;
    }
    if (!e->code || e->code == ERR_NOTFOUND)
        *e = *op->was;
    return -(int)e->code;
}

void s3_upload_finish(struct store_upload *u, struct store_req *req, uint64_t total)
{
    if (!begun(u, req))
        return;
    size_t n = (size_t)((total - 1) / u->part_bytes) + 1;
    for (size_t i = 0; i < n; i++) {
        if (i < u->n_etags && u->etag[i])
            continue;
        (void)err_set(&req->err, ERR_USAGE, "part %zu of the upload of \"%s\" is missing", i,
                      u->key);
        store_finish_later(req);
        return;
    }
    struct s3_op *op = s3_op_new(u->store, req, S3_COMPLETE, u->key, on_completed);
    op->upload = u;
    op->total = total;
    op->x.upload_id = u->id;
    op->x.if_absent = s3_asks_condition(u->store, u->flags);
    s3_xml_complete(&op->document, u->etag, n);
    struct store_body body = {.p = op->document.p, .size = op->document.len};
    s3_op_body(op, &body);
}

void s3_upload_abort(struct store_upload *u, struct store_req *req)
{
    if (!u->id) {
        store_finish_later(req);
        return;
    }
    struct s3_op *op = s3_op_new(u->store, req, S3_ABORT, u->key, NULL);
    op->upload = u;
    op->x.upload_id = u->id;
}

void s3_upload_free(struct store_upload *u)
{
    for (size_t i = 0; i < u->n_etags; i++)
        free(u->etag[i]);
    free(u->etag);
    free(u->id);
}
