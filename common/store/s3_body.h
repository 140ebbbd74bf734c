/* s3_body.h - what a PUT sends: its SHA-256 first, then its bytes, as often as they are asked for.
 * Files are read and hashed by libuv's workers; at most two chunks of one are in memory. Knows
 * libuv, not libcurl. Loop thread. */
#ifndef WALSUP_S3_BODY_H
#define WALSUP_S3_BODY_H

#include "common/store/store.h"

#define S3_BODY_CHUNK_BYTES ((size_t)1 << 20)

struct s3_body;

enum { S3_BODY_WAIT = -1, S3_BODY_FAILED = -2 };

/** s3_body_new(loop, what, event, arg): event(arg) comes on the loop thread, never from inside a
 * call: once when the hash is there or has failed, later whenever s3_body_read may be tried
 * again. */
struct s3_body *s3_body_new(uv_loop_t *loop, const struct store_body *what,
                            void (*event)(void *arg), void *arg);
/** s3_body_hash(b, md5): start hashing; true: it was little, or hashed before, and is done; no
 * event follows. md5: by MD5 as well, where that is allowed to exist. */
bool s3_body_hash(struct s3_body *b, bool md5);
/** s3_body_sha256(b): hex; valid once hashed. s3_body_digests(b, md5, sha256): the same in base64;
 * md5 becomes "" if it was not asked for. */
const char *s3_body_sha256(const struct s3_body *b);
void s3_body_digests(const struct s3_body *b, char md5[static 28], char sha256[static 48]);
/** s3_body_what(b): as it was given to s3_body_new. */
const struct store_body *s3_body_what(const struct s3_body *b);
uint64_t s3_body_size(const struct s3_body *b);
/** s3_body_error(b): NULL, or why it cannot be read. */
const struct err *s3_body_error(const struct s3_body *b);
/** s3_body_read(b, to, n): the next bytes, 0 at the end, S3_BODY_WAIT or S3_BODY_FAILED. */
ssize_t s3_body_read(struct s3_body *b, void *to, size_t n);
/** s3_body_rewind(b): start again at the first byte. */
void s3_body_rewind(struct s3_body *b);
/** s3_body_work(b): grows whenever a worker has read something: the upload is not idle. */
uint64_t s3_body_work(const struct s3_body *b);
/** s3_body_close(b, closed, arg): no event after this call; closed(arg) when no worker uses it any
 * more, maybe at once. */
void s3_body_close(struct s3_body *b, void (*closed)(void *arg), void *arg);

#endif
