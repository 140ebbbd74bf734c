#include "common/base/secret.h"

#include <openssl/crypto.h>
#include <sys/mman.h>

/* Pages of its own: what is asked of the kernel is asked for pages. */
struct secret {
    size_t mapped, n;
    char text[];
};

struct secret *secret_new(const char *p, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped = (sizeof(struct secret) + n + 1 + page - 1) / page * page;
    struct secret *s = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED)
        abort(); /* as for any small allocation */
    /* each as far as it can be had: a limit on locked memory is no reason to do without a key */
    (void)mlock(s, mapped);
    (void)madvise(s, mapped, MADV_DONTDUMP);
    (void)madvise(s, mapped, MADV_WIPEONFORK);
    s->mapped = mapped;
    s->n = n;
    memcpy(s->text, p, n);
    return s;
}

struct secret *secret_text(const char *p)
{
    return p && *p ? secret_new(p, strlen(p)) : NULL;
}

struct secret *secret_take(char *p)
{
    struct secret *s = secret_text(p);
    secret_wipe(p);
    return s;
}

struct secret *secret_dup(const struct secret *s)
{
    return s ? secret_new(s->text, s->n) : NULL;
}

const char *secret_reveal(const struct secret *s)
{
    return s ? s->text : "";
}

bool secret_same(const struct secret *a, const struct secret *b)
{
    if (!a || !b)
        return a == b;
    return a->n == b->n && CRYPTO_memcmp(a->text, b->text, a->n) == 0;
}

void secret_free(struct secret *s)
{
    if (!s)
        return;
    size_t mapped = s->mapped;
    explicit_bzero(s, mapped);
    (void)munmap(s, mapped);
}

void secret_wipe(char *p)
{
    if (p)
        explicit_bzero(p, strlen(p));
    free(p);
}

void secret_wipe_buf(struct buf *b)
{
    if (b->p)
        explicit_bzero(b->p, b->cap);
    buf_free(b);
}
