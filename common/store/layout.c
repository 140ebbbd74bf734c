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

/* "0000/" to "0009/", or "0/" to "9/" in a directory of their own */
_Static_assert(LTX_SNAPSHOT_LEVEL == 9, "a level is one digit");

char *layout_levels(enum conf_target_type type, const char *replica)
{
    return util_printf("%s%s%s", replica, replica[0] ? "/" : "", type == CONF_S3 ? "000" : "ltx/");
}

bool layout_parse_level(const char *key, size_t n, unsigned *ret_level, uint64_t *ret_min,
                        uint64_t *ret_max)
{
    const char *at = key + n;
    if (at[0] < '0' || at[0] > '9' || at[1] != '/' || !ltx_name_parse(at + 2, ret_min, ret_max))
        return false;
    *ret_level = (unsigned)(at[0] - '0');
    return true;
}

bool layout_parse(const char *key, uint64_t *ret_min, uint64_t *ret_max)
{
    const char *slash = strrchr(key, '/');
    return ltx_name_parse(slash ? slash + 1 : key, ret_min, ret_max);
}
