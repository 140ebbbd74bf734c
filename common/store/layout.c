#include "common/store/layout.h"

char *layout_prefix(enum conf_target_type type, const char *replica, unsigned level)
{
    const char *slash = replica[0] ? "/" : "";
    return type == CONF_S3 ? util_printf("%s%s%04x/", replica, slash, level)
                           : util_printf("%s%sltx/%u/", replica, slash, level);
}

char *layout_key(enum conf_target_type type, const char *replica, unsigned level, uint64_t min,
                 uint64_t max)
{
    char name[LTX_NAME_SIZE];
    cleanup_free char *prefix = layout_prefix(type, replica, level);
    return util_printf("%s%s", prefix, ltx_name(name, min, max));
}

bool layout_parse(const char *key, uint64_t *ret_min, uint64_t *ret_max)
{
    const char *slash = strrchr(key, '/');
    return ltx_name_parse(slash ? slash + 1 : key, ret_min, ret_max);
}
