#include "common/store/store_impl.h"

int store_s3_new(uv_loop_t *loop, const struct conf_target *t, struct store **ret, struct err *e)
{
    (void)loop, (void)t, (void)ret;
    return err_set(e, ERR_UNSUPPORTED, "S3 targets are not there yet");
}
