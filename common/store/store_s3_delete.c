/* Deleting from a bucket: DeleteObjects with up to 1000 keys a request, or DELETE of one key after the other, for a
 * single one and where the store does not have DeleteObjects. */
#include "common/store/store_s3_int.h"

#include <openssl/evp.h>

#include "common/store/retry.h"

static void set_key(struct s3_op *op)
{
    free(op->key);
    op->key = util_printf("%s%s", op->store->path, op->keys[op->at_key]);
    op->x.key = op->key;
}

/* ---- one by one ------------------------------------------------------------------------------ */

static int on_deleted(struct s3_op *op, struct err *e)
{
    if (e->code)
        return -(int)e->code;
    if (++op->at_key == op->n_keys)
        return 0;
    set_key(op);
    return 1;
}

/* ---- many at a time -------------------------------------------------------------------------- */

static size_t batch(const struct s3_op *op)
{
    return MIN(op->n_keys - op->at_key, (size_t)S3_DELETE_MAX_KEYS);
}

/* Stores want a digest of the list, though its hash is signed already: Content-MD5 most of them, for some it is
 * x-amz-checksum-sha256. */
static void set_digests(struct s3_op *op)
{
    unsigned char md[EVP_MAX_MD_SIZE];
    op->x.md5[0] = '\0'; /* where MD5 is not allowed to exist, the store has to take the other one */
    if (EVP_Digest(op->document.p, op->document.len, md, NULL, EVP_md5(), NULL) == 1)
        (void)EVP_EncodeBlock((unsigned char *)op->x.md5, md, 16);
    (void)EVP_Digest(op->document.p, op->document.len, md, NULL, EVP_sha256(), NULL);
    (void)EVP_EncodeBlock((unsigned char *)op->x.sha256, md, 32);
}

static void set_batch(struct s3_op *op)
{
    size_t n = batch(op);
    set_key(op); /* errors name the first */
    buf_free(&op->document);
    s3_xml_delete(&op->document, op->store->path, op->keys + op->at_key, n);
    set_digests(op);
    struct s3_body *before = TAKE_PTR(op->body);
    if (before) /* it was answered: no worker has it */
        s3_body_close(before, NULL, NULL);
    struct store_body body = {.p = op->document.p, .size = op->document.len};
    s3_op_body(op, &body);
}

/* Not the trouble of a moment, nor one that a person can end. */
static bool has_no_such_request(const struct s3_op *op, const struct err *e)
{
    const struct s3_answer *a = &op->x.answer;
    switch (a->status) {
    case 405:
    case 501:
        return true;
    case 404:
        return strcmp(a->code, "NoSuchBucket") != 0;
    case 400:
        return e->retry == RETRY_BUG;
    default:
        return false;
    }
}

static void go_one_by_one(struct s3_op *op)
{
    op->store->deletes_singly = true;
    struct s3_body *before = TAKE_PTR(op->body);
    if (before)
        s3_body_close(before, NULL, NULL);
    op->x.body = NULL;
    op->x.verb = S3_DELETE;
    op->answer = on_deleted;
    set_key(op);
}

/* Answers come in the order of the question, as a rule: so the search begins where the last one ended. */
static const struct s3_page_item *answer_for(const struct s3_page *page, const char *key, size_t *at)
{
    for (size_t i = 0; i < page->n; i++) {
        const struct s3_page_item *item = &page->item[(*at + i) % page->n];
        if (!strcmp(item->key, key)) {
            *at = (*at + i + 1) % page->n;
            return item;
        }
    }
    return NULL;
}

/* Each key has an answer of its own in a 200. */
static int check_batch(struct s3_op *op, struct err *e)
{
    const struct s3_page_item silent = {0};
    size_t n = batch(op), refused = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        cleanup_free char *key = util_printf("%s%s", op->store->path, op->keys[op->at_key + i]);
        const struct s3_page_item *item = answer_for(&op->x.page, key, &at);
        if (item && (!item->code || !strcmp(item->code, "NoSuchKey")))
            continue;
        item = item ? item : &silent;
        if (!refused++)
            (void)s3_error_of_key(&op->store->target, key, item->code, item->message, e);
    }
    if (refused && n > 1)
        (void)err_wrap(e, "%zu of %zu objects were not deleted", refused, n);
    return refused ? -(int)e->code : 0;
}

static int on_batch(struct s3_op *op, struct err *e)
{
    if (e->code && has_no_such_request(op, e)) {
        err_clear(e);
        go_one_by_one(op);
        return 1;
    }
    int r = e->code ? -(int)e->code : check_batch(op, e);
    if (r < 0)
        return r;
    op->at_key += batch(op);
    if (op->at_key == op->n_keys)
        return 0;
    set_batch(op);
    return 1;
}

void s3_delete(struct store *base, struct store_req *req, const char *const *keys, size_t n)
{
    const struct store_s3 *s = CONTAINER_OF(base, struct store_s3, base);
    bool many = n > 1 && !s->deletes_singly;
    struct s3_op *op = s3_op_new(base, req, many ? S3_DELETES : S3_DELETE, keys[0], many ? on_batch : on_deleted);
    op->keys = keys;
    op->n_keys = n;
    if (many)
        set_batch(op);
}
