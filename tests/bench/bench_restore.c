/* bench_restore OUT THREADS FILE.ltx... - what a restore cannot do without: read the LTX files,
 * decode and checksum every page, write it, fsync. The files are applied one after the other.
 * Prints JSON: seconds, bytes of the database file, MB/s. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/util.h"
#include "common/format/ltx.h"

#define CHUNK 256u

struct chunk {
    struct ltx_index_entry entry[CHUNK];
    unsigned n;
    struct ltx_sum sum;
};

struct run {
    pthread_mutex_t mutex;
    struct ltx_decoder d;
    struct chunk **chunk; /* in the order of the file */
    size_t n;
    int fd;
};

static void fatal(const struct err *e)
{
    (void)fprintf(stderr, "bench_restore: %s\n", e->msg);
    exit(1);
}

static void fatal_errno(const char *what)
{
    (void)fprintf(stderr, "bench_restore: %s: %s\n", what, strerror(errno));
    exit(1);
}

static struct chunk *take(struct run *r)
{
    struct err e = {.code = ERR_OK};
    struct chunk *c = util_zalloc(sizeof *c);
    (void)pthread_mutex_lock(&r->mutex);
    while (c->n < CHUNK) {
        int rc = ltx_walk_next(&r->d, &c->entry[c->n], &e);
        if (rc < 0)
            fatal(&e);
        if (rc > 0)
            break;
        c->n++;
    }
    if (c->n) {
        r->chunk = util_realloc(r->chunk, (r->n + 1) * sizeof(struct chunk *));
        r->chunk[r->n++] = c;
    }
    (void)pthread_mutex_unlock(&r->mutex);
    if (c->n)
        return c;
    free(c);
    return NULL;
}

static void put(int fd, const uint8_t *p, size_t n, uint64_t off)
{
    if (pwrite(fd, p, n, (off_t)off) != (ssize_t)n)
        fatal_errno("pwrite");
}

static void *work(void *arg)
{
    struct run *r = arg;
    struct err e = {.code = ERR_OK};
    size_t ps = r->d.h.page_size;
    uint8_t *pages = util_alloc(CHUNK * ps);
    for (struct chunk *c = take(r); c; c = take(r)) {
        unsigned from = 0; /* start of the run of neighbours not yet written */
        for (unsigned i = 0; i < c->n; i++) {
            if (ltx_walk_page(&r->d, &c->entry[i], pages + i * ps, &c->sum, &e) < 0)
                fatal(&e);
            if (i + 1 < c->n && c->entry[i + 1].pgno == c->entry[i].pgno + 1)
                continue;
            put(r->fd, pages + from * ps, (i + 1 - from) * ps, (c->entry[from].pgno - 1) * ps);
            from = i + 1;
        }
    }
    free(pages);
    return NULL;
}

static void apply(int fd, const char *path, unsigned threads, uint64_t *ret_size)
{
    struct err e = {.code = ERR_OK};
    struct stat st;
    int in = open(path, O_RDONLY | O_CLOEXEC);
    if (in < 0 || fstat(in, &st) < 0)
        fatal_errno(path);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, in, 0);
    if (p == MAP_FAILED)
        fatal_errno(path);
    struct run r = {.mutex = PTHREAD_MUTEX_INITIALIZER, .fd = fd};
    if (ltx_decoder_open(&r.d, p, (size_t)st.st_size, &e) < 0)
        fatal(&e);
    pthread_t thread[64];
    for (unsigned i = 1; i < threads; i++) {
        if (pthread_create(&thread[i], NULL, work, &r) != 0)
            fatal_errno("pthread_create");
    }
    (void)work(&r);
    for (unsigned i = 1; i < threads; i++)
        (void)pthread_join(thread[i], NULL);
    struct ltx_sum all = {0};
    for (size_t i = 0; i < r.n; i++) {
        ltx_sum_join(&all, &r.chunk[i]->sum);
        free(r.chunk[i]);
    }
    free(r.chunk);
    if (ltx_walk_finish(&r.d, &all, &e) < 0)
        fatal(&e);
    *ret_size = (uint64_t)r.d.h.commit * r.d.h.page_size;
    (void)munmap(p, (size_t)st.st_size);
    (void)close(in);
}

int main(int argc, char **argv)
{
    if (argc < 4 || atoi(argv[2]) < 1 || atoi(argv[2]) > 64) {
        (void)fprintf(stderr, "usage: bench_restore OUT THREADS FILE.ltx...\n");
        return 64;
    }
    struct timespec a, b;
    uint64_t size = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &a);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        fatal_errno(argv[1]);
    for (int i = 3; i < argc; i++)
        apply(fd, argv[i], (unsigned)atoi(argv[2]), &size);
    if (ftruncate(fd, (off_t)size) < 0 || fsync(fd) < 0 || close(fd) < 0)
        fatal_errno(argv[1]);
    (void)clock_gettime(CLOCK_MONOTONIC, &b);
    double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
    printf("{\"seconds\":%.3f,\"bytes\":%llu,\"mb_per_s\":%.1f}\n", s, (unsigned long long)size,
           (double)size / 1e6 / s);
    return 0;
}
