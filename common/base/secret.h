/* secret.h - a text that must not get out: keys, tokens. It cannot be printed by mistake, since it is no char *
 * (the compiler refuses it as %s), and its memory is in no core dump, not swapped out, not inherited by a
 * child that is forked, and wiped when it is freed. Any thread; one secret by one thread at a time. */
#ifndef WALSUP_SECRET_H
#define WALSUP_SECRET_H

#include "common/base/buf.h"

struct secret;

/** secret_new(p, n): a copy of n bytes; never NULL. secret_text(p): of a string; NULL and "" give NULL. */
struct secret *secret_new(const char *p, size_t n);
struct secret *secret_text(const char *p);
/** secret_take(p): of a string that is wiped and freed; NULL and "" give NULL. */
struct secret *secret_take(char *p);
/** secret_dup(s): NULL gives NULL. */
struct secret *secret_dup(const struct secret *s);
/** secret_reveal(s): the text, NUL-terminated, as long as s lives; "" of NULL. For what computes or sends it. */
const char *secret_reveal(const struct secret *s);
/** secret_same(a, b): in a time that does not tell where they differ; NULL is the same as NULL. */
bool secret_same(const struct secret *a, const struct secret *b);
/** secret_free(s): wipe and free; NULL is fine. */
void secret_free(struct secret *s);
static inline void secret_freep(struct secret **s)
{
    secret_free(*s);
}
#define cleanup_secret cleanup(secret_freep)

/** secret_wipe(p): of a string on the heap on its way into a secret: wipe and free; NULL is fine. */
void secret_wipe(char *p);
/** secret_wipe_buf(b): of a buffer that held one: wipe all that it has allocated, and free it. */
void secret_wipe_buf(struct buf *b);
#define cleanup_wiped_buf cleanup(secret_wipe_buf)

#endif
