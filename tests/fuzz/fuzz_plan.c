/* Any set of files: a plan is a chain from 1 to the TXID asked for, or there is a reason. Input: a
 * TXID, then files of 3 bytes: level, min, length. A high bit in the level makes the TXIDs huge. */
#include "common/format/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define CHECK(x)     \
    do {             \
        if (!(x))    \
            abort(); \
    } while (0)

static void check_chain(const struct plan_file *f, size_t n, uint64_t txid, uint64_t newest)
{
    CHECK(n && f[0].min == 1);
    for (size_t i = 1; i < n; i++)
        CHECK(f[i].min <= f[i - 1].max + 1 && f[i].max > f[i - 1].max);
    CHECK(f[n - 1].max == (txid ? txid : newest));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    if (!n)
        return 0;
    uint64_t txid = p[0], newest = 0;
    size_t n_files = 0, n_plan = 0;
    struct plan_file *file = calloc(n / 3 + 1, sizeof *file), *plan = NULL;
    struct err e = {0};
    CHECK(file);
    for (size_t at = 1; at + 3 <= n; at += 3) {
        uint64_t far = p[at] & 0x80 ? UINT64_MAX - 300 : 0;
        struct plan_file *f = &file[n_files++];
        f->level = p[at] & 0x0f;
        f->min = far + p[at + 1];
        f->max = f->min + p[at + 2] - 1;
        if (f->level <= 9 && f->min && f->min <= f->max)
            newest = MAX(newest, f->max);
    }
    int r = plan_restore(file, n_files, txid, &plan, &n_plan, &e);
    if (r == 0)
        check_chain(plan, n_plan, txid, newest);
    else
        CHECK(r == -(int)e.code && e.msg[0] &&
              (e.code == ERR_CORRUPT || (e.code == ERR_NOTFOUND && !newest)));
    free(plan);
    free(file);
    return 0;
}
