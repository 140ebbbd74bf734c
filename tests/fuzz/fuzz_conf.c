/* Any bytes as walsup.ini: no crash; what is accepted can be dumped and is accepted again. */
#include "common/format/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf *c = NULL;
    struct err e = {0};
    cleanup_buf struct buf errors = BUF_INIT, dump = BUF_INIT;
    if (conf_parse("fuzz.ini", (const char *)data, size, &c, &errors, &e) < 0) {
        if (c || !errors.len || e.code != ERR_CONFIG)
            abort();
        return 0;
    }
    conf_dump(c, &dump);
    struct conf *again = NULL;
    if (memchr(data, '%', size)) { /* what a url spells so may have no spelling as a plain value */
        (void)conf_free(c);
        return 0;
    }
    if (errors.len || conf_parse("dump.ini", (const char *)dump.p, dump.len, &again, NULL, &e) < 0)
        abort();
    if (again->n_dbs != c->n_dbs || again->n_targets != c->n_targets)
        abort();
    (void)conf_free(again);
    (void)conf_free(c);
    return 0;
}
