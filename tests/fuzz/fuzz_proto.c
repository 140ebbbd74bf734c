/* Any bytes from a control socket: calls and replies, until the stream breaks or ends. */
#include "common/format/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cleanup_buf struct buf in = BUF_INIT;
    struct err e = {0};
    json_t *msg = NULL, *parameters = NULL;
    buf_add(&in, data, size);
    while (proto_next(&in, 4096, &msg, &e) == 0) {
        struct proto_call call;
        bool continues;
        if (proto_call_parse(msg, &call, &e) == 0) {
            if (!json_is_object(call.parameters) || !call.method)
                abort();
            proto_call_done(&call);
        }
        if (proto_reply_parse(msg, &parameters, &continues, &e) == 0) {
            if (!json_is_object(parameters))
                abort();
            json_decref(parameters);
        }
        cleanup_buf struct buf out = BUF_INIT;
        proto_add(&out, proto_make_reply(msg, false)); /* steals msg */
        if (out.failed || out.len < 2 || out.p[out.len - 1] != '\0')
            abort();
    }
    return 0;
}
