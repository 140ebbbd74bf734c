#include <inttypes.h>
#include <lz4.h>

#include "common/base/buf.h"
#include "common/format/crc64.h"
#include "common/format/ltx_page.h"
#include "common/format/xxh32.h"

#define OUT_SIZE (128u << 10) /* the largest page frame fits with room to gather small ones */
#define INDEX_ENTRY_MAX 25    /* varints of 32, 64 and 64 bits */

struct ltx_encoder {
    struct ltx_header h;
    enum ltx_encoding encoding;
    ltx_write_fn write;
    void *arg;
    uint64_t crc;
    uint64_t written; /* bytes handed to write() */
    uint32_t last_pgno;
    bool failed, finished;
    struct buf index;
    size_t n_out;
    LZ4_stream_t lz4;
    uint8_t out[OUT_SIZE];
};

/* Whatever goes wrong once leaves a hole in the file, so nothing may follow. */
static int fail(struct ltx_encoder *enc, int r)
{
    enc->failed = true;
    return r;
}

static int flush(struct ltx_encoder *enc, struct err *e)
{
    if (!enc->n_out)
        return 0;
    int r = enc->write(enc->arg, enc->out, enc->n_out, e);
    if (r < 0)
        return fail(enc, r);
    enc->written += enc->n_out;
    enc->n_out = 0;
    return 0;
}

/* For bytes of any length under the file checksum; pages do not come through here. */
static int put_summed(struct ltx_encoder *enc, const void *p, size_t n, struct err *e)
{
    enc->crc = crc64(enc->crc, p, n);
    for (const uint8_t *b = p; n;) {
        size_t k = MIN(n, OUT_SIZE - enc->n_out);
        memcpy(enc->out + enc->n_out, b, k);
        enc->n_out += k;
        b += k;
        n -= k;
        if (enc->n_out == OUT_SIZE) {
            int r = flush(enc, e);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

int ltx_encoder_new(const struct ltx_header *h, enum ltx_encoding encoding, ltx_write_fn write,
                    void *arg, struct ltx_encoder **ret, struct err *e)
{
    int r = ltx_header_check(h, ERR_INTERNAL, e);
    if (r < 0)
        return r;
    struct ltx_encoder *enc = malloc(sizeof *enc);
    if (!enc)
        return err_set(e, ERR_NOMEM, "no memory for an LTX encoder");
    enc->h = *h;
    enc->encoding = encoding;
    enc->write = write;
    enc->arg = arg;
    enc->crc = 0;
    enc->written = 0;
    enc->last_pgno = 0;
    enc->failed = enc->finished = false;
    enc->index = (struct buf)BUF_INIT;
    enc->n_out = 0;
    (void)LZ4_initStream(&enc->lz4, sizeof enc->lz4);
    uint8_t head[LTX_HEADER_SIZE];
    ltx_header_encode(h, head);
    (void)put_summed(enc, head, sizeof head, e); /* fits, so nothing is written yet */
    *ret = enc;
    return 0;
}

/* One page as an independent LZ4 block at out, which has room for any: 0 cannot happen. */
static uint32_t compress(struct ltx_encoder *enc, const uint8_t *page, uint8_t *out)
{
    /* this pair forgets the previous page without clearing the 16 KiB hash table */
    LZ4_resetStream_fast(&enc->lz4);
    return (uint32_t)LZ4_compress_fast_continue(&enc->lz4, (const char *)page, (char *)out,
                                                (int)enc->h.page_size,
                                                (int)ltx_payload_max(enc->h.page_size), 1);
}

static size_t put_block(struct ltx_encoder *enc, const uint8_t *page, uint8_t *p)
{
    uint32_t n = compress(enc, page, p + LTX_BLOCK_HEAD_SIZE);
    be16_put(p + 4, LTX_PAGE_FLAG_BLOCK);
    be32_put(p + LTX_PAGE_HEADER_SIZE, n);
    enc->crc = crc64(enc->crc, p, LTX_BLOCK_HEAD_SIZE);
    return LTX_BLOCK_HEAD_SIZE + (size_t)n;
}

static size_t put_frame(struct ltx_encoder *enc, const uint8_t *page, uint8_t *p)
{
    uint32_t page_size = enc->h.page_size, le;
    be16_put(p + 4, 0);
    enc->crc = crc64(enc->crc, p, LTX_PAGE_HEADER_SIZE);
    memcpy(p + LTX_PAGE_HEADER_SIZE, LTX_LZ4_HEADER, LTX_LZ4_HEADER_SIZE);
    uint8_t *payload = p + LTX_FRAME_HEAD_SIZE;
    uint32_t n = compress(enc, page, payload), size = n;
    if (n >= page_size) {
        memcpy(payload, page, page_size);
        n = page_size;
        size = n | LTX_LZ4_STORED;
    }
    le = htole32(size);
    memcpy(payload - 4, &le, 4);
    memset(payload + n, 0, 4);
    le = htole32(xxh32(page, page_size));
    memcpy(payload + n + 4, &le, 4);
    return LTX_FRAME_HEAD_SIZE + (size_t)n + LTX_FRAME_TAIL_SIZE;
}

static uint8_t *put_varint(uint8_t *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

static int check_order(const struct ltx_encoder *enc, uint32_t pgno, struct err *e)
{
    const struct ltx_header *h = &enc->h;
    if (enc->failed || enc->finished)
        return err_set(e, ERR_INTERNAL, "page %u: the LTX file was already given up or finished",
                       pgno);
    if (pgno <= enc->last_pgno)
        return err_set(e, ERR_INTERNAL, "page %u: comes after page %u", pgno, enc->last_pgno);
    if (pgno > h->commit)
        return err_set(e, ERR_INTERNAL, "page %u: beyond commit %u", pgno, h->commit);
    if (pgno == ltx_lock_pgno(h->page_size))
        return err_set(e, ERR_INTERNAL, "page %u: is the lock page", pgno);
    if (h->min_txid == 1 && pgno != ltx_snapshot_next(h, enc->last_pgno))
        return err_set(e, ERR_INTERNAL, "page %u: follows page %u in a snapshot", pgno,
                       enc->last_pgno);
    return 0;
}

/* A page frame of another file as it stands there, if it has our form. */
static size_t put_copy(struct ltx_encoder *enc, const struct ltx_frame *f, const uint8_t *from, uint8_t *p)
{
    memcpy(p, from, f->size);
    enc->crc = crc64(enc->crc, p, f->summed);
    return f->size;
}

static int add_page(struct ltx_encoder *enc, uint32_t pgno, const uint8_t *page, const struct ltx_frame *f,
                    const uint8_t *from, struct err *e)
{
    int r = check_order(enc, pgno, e);
    if (r < 0)
        return fail(enc, r);
    uint32_t max = LTX_FRAME_HEAD_SIZE + ltx_payload_max(enc->h.page_size) + LTX_FRAME_TAIL_SIZE;
    if (OUT_SIZE - enc->n_out < max) {
        r = flush(enc, e);
        if (r < 0)
            return r;
    }
    uint8_t *idx = buf_reserve(&enc->index, INDEX_ENTRY_MAX);
    if (!idx)
        return fail(enc, err_set(e, ERR_NOMEM, "no memory for the page index of an LTX file"));
    uint8_t *p = enc->out + enc->n_out;
    be32_put(p, pgno);
    size_t n = f ? put_copy(enc, f, from, p)
               : enc->encoding == LTX_BLOCK ? put_block(enc, page, p) : put_frame(enc, page, p);
    enc->crc = crc64(enc->crc, page, enc->h.page_size);
    uint8_t *end = put_varint(idx, pgno);
    end = put_varint(end, enc->written + enc->n_out);
    end = put_varint(end, n);
    enc->index.len += (size_t)(end - idx);
    enc->n_out += n;
    enc->last_pgno = pgno;
    return 0;
}

int ltx_encoder_page(struct ltx_encoder *enc, uint32_t pgno, const uint8_t *page, struct err *e)
{
    return add_page(enc, pgno, page, NULL, NULL, e);
}

int ltx_encoder_copy(struct ltx_encoder *enc, const uint8_t *frame, size_t n, const uint8_t *page,
                     struct err *e)
{
    struct ltx_frame f;
    int r = ltx_frame_parse(frame, n, enc->h.page_size, &f, e);
    if (r < 0)
        return fail(enc, r);
    bool same = f.size == n && f.block == (enc->encoding == LTX_BLOCK);
    return add_page(enc, f.pgno, page, same ? &f : NULL, frame, e);
}

int ltx_encoder_finish(struct ltx_encoder *enc, uint64_t post_apply, uint64_t *ret_size,
                       struct err *e)
{
    static const uint8_t zero[LTX_PAGE_HEADER_SIZE];
    const struct ltx_header *h = &enc->h;
    if (enc->failed || enc->finished)
        return err_set(e, ERR_INTERNAL, "the LTX file was already given up or finished");
    if (h->min_txid == 1 && ltx_snapshot_next(h, enc->last_pgno) <= h->commit)
        return fail(enc, err_set(e, ERR_INTERNAL, "snapshot ends at page %u of %u", enc->last_pgno,
                                 h->commit));
    int r = ltx_post_apply_check(h, post_apply, ERR_INTERNAL, e);
    if (r < 0)
        return fail(enc, r);
    buf_add(&enc->index, zero, 1);
    if (enc->index.failed)
        return fail(enc, err_set(e, ERR_NOMEM, "no memory for the page index of an LTX file"));
    uint8_t tail[LTX_INDEX_SIZE_SIZE + 8], sum[8];
    be64_put(tail, enc->index.len);
    be64_put(tail + LTX_INDEX_SIZE_SIZE, post_apply);
    r = put_summed(enc, zero, sizeof zero, e);
    if (!r)
        r = put_summed(enc, enc->index.p, enc->index.len, e);
    if (!r)
        r = put_summed(enc, tail, sizeof tail, e);
    if (r < 0)
        return r;
    be64_put(sum, LTX_CHECKSUM_FLAG | enc->crc);
    r = put_summed(enc, sum, sizeof sum, e);
    if (!r)
        r = flush(enc, e);
    if (r < 0)
        return r;
    enc->finished = true;
    if (ret_size)
        *ret_size = enc->written;
    return 0;
}

struct ltx_encoder *ltx_encoder_free(struct ltx_encoder *enc)
{
    if (enc) {
        buf_free(&enc->index);
        free(enc);
    }
    return NULL;
}
