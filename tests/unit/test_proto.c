#include "common/format/proto.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static int next_of(const char *text, size_t n, size_t max, json_t **ret, struct err *e)
{
    cleanup_buf struct buf b = BUF_INIT;
    buf_add(&b, text, n);
    return proto_next(&b, max, ret, e);
}

static void a_call_survives_the_wire_in_pieces(void **state)
{
    (void)state;
    cleanup_buf struct buf wire = BUF_INIT, in = BUF_INIT;
    struct err e = {0};
    json_t *msg = NULL;
    struct proto_call call;
    proto_add(&wire, proto_make_call("Sync", json_pack("{s:s}", "db", "a"), true));
    proto_add(&wire, proto_make_call("List", NULL, false));
    for (size_t i = 0; i < wire.len; i++) {
        int rc = proto_next(&in, PROTO_MAX_CALL, &msg, &e);
        if (rc == 0)
            break;
        assert_int_equal(rc, 1);
        buf_add(&in, wire.p + i, 1);
        if (i + 1 == wire.len / 2)
            assert_int_equal(wire.p[i] != 0, 1);
    }
    assert_non_null(msg);
    assert_int_equal(proto_call_parse(msg, &call, &e), 0);
    assert_string_equal(call.method, "io.walsup.Sync");
    assert_true(call.more);
    assert_string_equal(json_string_value(json_object_get(call.parameters, "db")), "a");
    proto_call_done(&call);
    json_decref(msg);
    in.len = 0;
    buf_add(&in, wire.p, wire.len); /* both at once: one at a time comes out */
    assert_int_equal(proto_next(&in, PROTO_MAX_CALL, &msg, &e), 0);
    json_decref(msg);
    assert_int_equal(proto_next(&in, PROTO_MAX_CALL, &msg, &e), 0);
    assert_int_equal(proto_call_parse(msg, &call, &e), 0);
    assert_int_equal(json_object_size(call.parameters), 0);
    assert_false(call.more);
    proto_call_done(&call);
    json_decref(msg);
    assert_int_equal(in.len, 0);
}

static void broken_messages_are_refused(void **state)
{
    (void)state;
    json_t *msg = NULL;
    struct err e = {0};
    static const char *const broken[] = {"", "[]", "1", "{", "{}x", "{\"a\":1,\"a\":2}",
                                         "{\"a\":\"\xff\"}",
                                         "{\"a\":\"\\u0000\"}", "nonsense"};
    for (size_t i = 0; i < ARRAY_LEN(broken); i++)
        if (next_of(broken[i], strlen(broken[i]) + 1, 100, &msg, &e) != -ERR_CORRUPT || !*e.msg)
            fail_msg("accepted %s", broken[i]);
    assert_null(msg);
}

static void the_length_is_bounded_before_parsing(void **state)
{
    (void)state;
    json_t *msg = NULL;
    struct err e = {0};
    char text[20] = "{\"a\":\"bbbbbbbbbb\"}"; /* 18 bytes and the NUL */
    assert_int_equal(next_of(text, 19, 18, &msg, &e), 0);
    json_decref(msg);
    assert_int_equal(next_of(text, 19, 17, &msg, &e), -ERR_CORRUPT);
    assert_int_equal(next_of(text, 18, 17, &msg, &e), -ERR_CORRUPT); /* no NUL yet, and too long */
    assert_int_equal(next_of(text, 17, 17, &msg, &e), 1);
}

static void nesting_is_bounded_before_parsing(void **state)
{
    (void)state;
    json_t *msg = NULL;
    struct err e = {0};
    cleanup_buf struct buf b = BUF_INIT;
    for (int depth = 32; depth <= 33; depth++) {
        b.len = 0;
        buf_add_str(&b, "{\"a\":");
        for (int i = 1; i < depth; i++)
            buf_add_str(&b, "[");
        for (int i = 1; i < depth; i++)
            buf_add_str(&b, "]");
        buf_add(&b, "}", 2);
        assert_int_equal(proto_next(&b, 1000, &msg, &e), depth == 32 ? 0 : -ERR_CORRUPT);
        if (depth == 32)
            json_decref(msg);
    }
    b.len = 0; /* brackets within strings do not count, escaped quotes do not end one */
    buf_add_str(&b, "{\"a\":\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"");
    buf_add(&b, "}", 2);
    assert_int_equal(proto_next(&b, 1000, &msg, &e), 0);
    json_decref(msg);
}

static void an_envelope_with_unknown_fields_is_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct proto_call call;
    static const char *const wrong[] = {"{}", "{\"method\":1}", "{\"method\":\"a\",\"x\":1}",
                                        "{\"method\":\"a\",\"parameters\":[]}",
                                        "{\"method\":\"a\",\"more\":1}"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        json_t *msg = json_loads(wrong[i], 0, NULL);
        if (proto_call_parse(msg, &call, &e) != -ERR_USAGE)
            fail_msg("accepted %s", wrong[i]);
        json_decref(msg);
    }
}

static void an_error_arrives_as_it_was(void **state)
{
    (void)state;
    struct err e = {0}, got = {0};
    (void)err_set(&e, ERR_BUSY, "it is busy");
    (void)err_hint(&e, "wait");
    json_t *msg = proto_make_error(&e), *parameters = NULL;
    assert_int_equal(proto_reply_parse(msg, &parameters, NULL, &got), -ERR_BUSY);
    assert_string_equal(got.msg, "it is busy");
    assert_string_equal(got.hint, "wait");
    assert_null(parameters);
    json_decref(msg);
    (void)err_set(&e, ERR_IO, "cut \xc3");
    msg = proto_make_error(&e);
    assert_int_equal(proto_reply_parse(msg, &parameters, NULL, &got), -ERR_IO);
    assert_string_equal(got.msg, "cut ?");
    json_decref(msg);
    msg = json_loads("{\"error\":\"org.varlink.service.MethodNotFound\"}", 0, NULL);
    assert_int_equal(proto_reply_parse(msg, &parameters, NULL, &got), -ERR_INTERNAL);
    json_decref(msg);
    bool continues = false;
    msg = proto_make_reply(json_pack("{s:i}", "n", 3), true);
    assert_int_equal(proto_reply_parse(msg, &parameters, &continues, &got), 0);
    assert_true(continues);
    assert_int_equal(json_integer_value(json_object_get(parameters, "n")), 3);
    json_decref(parameters);
    json_decref(msg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_survives_the_wire_in_pieces),
        cmocka_unit_test(broken_messages_are_refused),
        cmocka_unit_test(the_length_is_bounded_before_parsing),
        cmocka_unit_test(nesting_is_bounded_before_parsing),
        cmocka_unit_test(an_envelope_with_unknown_fields_is_refused),
        cmocka_unit_test(an_error_arrives_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
