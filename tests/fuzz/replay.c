/* Feeds every file of the directories named to a fuzz target: the corpus as a regression test, with
 * an ordinary compiler. Running nothing is a failure. */
#include <dirent.h>

#include "common/base/fsx.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static unsigned ran;

static int run_one(const char *name, void *arg)
{
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    cleanup_free char *path = util_printf("%s/%s", (const char *)arg, name);
    if (name[0] == '.')
        return 0;
    int r = fsx_read(path, 64u << 20, &b, &e);
    if (r < 0) {
        (void)fprintf(stderr, "%s\n", e.msg);
        return r;
    }
    /* exactly as long as the input, so that a sanitizer sees every overrun */
    cleanup_free uint8_t *exact = util_alloc(b.len ? b.len : 1);
    if (b.len)
        memcpy(exact, b.p, b.len);
    (void)LLVMFuzzerTestOneInput(exact, b.len);
    ran++;
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct err e = {0};
        if (fsx_list(argv[i], run_one, argv[i], &e)) {
            (void)fprintf(stderr, "%s: %s\n", argv[i], e.msg);
            return 1;
        }
    }
    (void)printf("%s: %u inputs\n", argv[0], ran);
    return ran ? 0 : 1;
}
