/* Any text as a url, a size or a duration. */
#include "common/format/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf_target t;
    struct err e = {0};
    uint64_t n;
    cleanup_free char *text = util_alloc(size + 1);
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    if (conf_parse_url(text, &t, &e) == 0) {
        if (!t.path || (t.type == CONF_S3 ? !t.bucket || !t.endpoint : *t.path != '/'))
            abort();
        conf_target_done(&t);
    } else if (!*e.msg) {
        abort();
    }
    if (conf_size(text, &n) && n > INT64_MAX)
        abort();
    if (conf_duration(text, &n) && n > INT64_MAX)
        abort();
    return 0;
}
