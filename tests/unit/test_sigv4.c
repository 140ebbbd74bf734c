/* Signature Version 4 against what AWS publishes: the S3 documentation's examples and the
 * signature test suite. */
#include "common/format/sigv4.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define S3_KEY "AKIAIOSFODNN7EXAMPLE"
#define S3_SECRET "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
#define S3_HOST "examplebucket.s3.amazonaws.com"
#define S3_DATE "20130524T000000Z"
#define SUITE_SECRET "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
#define SUITE_HOST "example.amazonaws.com"
#define SUITE_DATE "20150830T123600Z"
#define TOKEN                                                                                      \
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIe" \
    "oIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq" \
    "5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC" \
    "9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="

static struct sigv4_request s3(const char *method, const char *path, const char *hash)
{
    return (struct sigv4_request){.method = method, .path = path, .payload_hash = hash,
                                  .date = S3_DATE, .region = "us-east-1", .service = "s3"};
}

static struct sigv4_request suite(const char *method)
{
    return (struct sigv4_request){.method = method, .path = "/", .payload_hash = SIGV4_EMPTY_HASH,
                                  .date = SUITE_DATE, .region = "us-east-1",
                                  .service = "service"};
}

static void check(const struct sigv4_request *r, const char *secret, const char *expect)
{
    char out[SIGV4_HASH_SIZE];
    sigv4_signature(out, r, secret);
    assert_string_equal(out, expect);
}

static void s3_get_object_with_a_range(void **state)
{
    (void)state;
    const struct sigv4_pair h[] = {{"Host", S3_HOST},
                                   {"Range", "bytes=0-9"},
                                   {"x-amz-content-sha256", SIGV4_EMPTY_HASH},
                                   {"x-amz-date", S3_DATE}};
    struct sigv4_request r = s3("GET", "/test.txt", SIGV4_EMPTY_HASH);
    r.header = h;
    r.n_headers = ARRAY_LEN(h);
    cleanup_buf struct buf b = BUF_INIT;
    sigv4_canonical(&b, &r);
    assert_string_equal(buf_str(&b),
                        "GET\n/test.txt\n\nhost:" S3_HOST "\nrange:bytes=0-9\n"
                        "x-amz-content-sha256:" SIGV4_EMPTY_HASH "\nx-amz-date:" S3_DATE "\n\n"
                        "host;range;x-amz-content-sha256;x-amz-date\n" SIGV4_EMPTY_HASH);
    buf_free(&b);
    sigv4_string_to_sign(&b, &r);
    assert_string_equal(buf_str(&b),
                        "AWS4-HMAC-SHA256\n" S3_DATE "\n20130524/us-east-1/s3/aws4_request\n"
                        "7344ae5b7ee6c3e7e6b0fe0640412a37625d1fbfff95c48bbb2dc43964946972");
    check(&r, S3_SECRET, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    buf_free(&b);
    sigv4_authorization(&b, &r, S3_KEY, S3_SECRET);
    assert_string_equal(buf_str(&b),
                        "AWS4-HMAC-SHA256 Credential=" S3_KEY
                        "/20130524/us-east-1/s3/aws4_request, "
                        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature="
                        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

static void s3_put_object(void **state)
{
    (void)state;
    char hash[SIGV4_HASH_SIZE];
    sigv4_hash(hash, "Welcome to Amazon S3.", 21);
    const struct sigv4_pair h[] = {{"host", S3_HOST},
                                   {"date", "Fri, 24 May 2013 00:00:00 GMT"},
                                   {"x-amz-date", S3_DATE},
                                   {"x-amz-storage-class", "REDUCED_REDUNDANCY"},
                                   {"x-amz-content-sha256", hash}};
    cleanup_buf struct buf path = BUF_INIT;
    sigv4_encode(&path, "/test$file.text", true);
    struct sigv4_request r = s3("PUT", buf_str(&path), hash);
    r.header = h;
    r.n_headers = ARRAY_LEN(h);
    check(&r, S3_SECRET, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

static void s3_bucket_lifecycle(void **state)
{
    (void)state;
    const struct sigv4_pair h[] = {{"host", S3_HOST},
                                   {"x-amz-date", S3_DATE},
                                   {"x-amz-content-sha256", SIGV4_EMPTY_HASH}};
    const struct sigv4_pair q[] = {{"lifecycle", ""}};
    struct sigv4_request r = s3("GET", "/", SIGV4_EMPTY_HASH);
    r.header = h;
    r.n_headers = ARRAY_LEN(h);
    r.query = q;
    r.n_query = 1;
    check(&r, S3_SECRET, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

static void s3_list_objects(void **state)
{
    (void)state;
    const struct sigv4_pair h[] = {{"host", S3_HOST},
                                   {"x-amz-date", S3_DATE},
                                   {"x-amz-content-sha256", SIGV4_EMPTY_HASH}};
    const struct sigv4_pair q[] = {{"prefix", "J"}, {"max-keys", "2"}};
    struct sigv4_request r = s3("GET", "/", SIGV4_EMPTY_HASH);
    r.header = h;
    r.n_headers = ARRAY_LEN(h);
    r.query = q;
    r.n_query = 2;
    check(&r, S3_SECRET, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void suite_get_vanilla(void **state)
{
    (void)state;
    const struct sigv4_pair h[] = {{"Host", SUITE_HOST}, {"X-Amz-Date", SUITE_DATE}};
    struct sigv4_request r = suite("GET");
    r.header = h;
    r.n_headers = ARRAY_LEN(h);
    check(&r, SUITE_SECRET, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
    r.method = "POST";
    check(&r, SUITE_SECRET, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
}

static void suite_query_order(void **state)
{
    (void)state;
    const struct sigv4_pair h[] = {{"Host", SUITE_HOST}, {"X-Amz-Date", SUITE_DATE}};
    const struct sigv4_pair q[] = {{"Param2", "value2"}, {"Param1", "value1"}};
    struct sigv4_request r = suite("GET");
    r.header = h;
    r.n_headers = ARRAY_LEN(h);
    r.query = q;
    r.n_query = 2;
    check(&r, SUITE_SECRET, "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
}

static void suite_sts_token(void **state)
{
    (void)state;
    const struct sigv4_pair h[] = {
        {"Host", SUITE_HOST}, {"X-Amz-Date", SUITE_DATE}, {"X-Amz-Security-Token", TOKEN}};
    struct sigv4_request r = suite("POST");
    r.header = h;
    r.n_headers = ARRAY_LEN(h);
    check(&r, SUITE_SECRET, "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead");
}

static void suite_header_value_trim(void **state)
{
    (void)state;
    const struct sigv4_pair h[] = {{"Host", SUITE_HOST},
                                   {"My-Header1", " value1"},
                                   {"My-Header2", " \"a   b   c\""},
                                   {"X-Amz-Date", SUITE_DATE}};
    struct sigv4_request r = suite("GET");
    r.header = h;
    r.n_headers = ARRAY_LEN(h);
    check(&r, SUITE_SECRET, "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736");
}

static void everything_else_is_percent_encoded(void **state)
{
    (void)state;
    cleanup_buf struct buf b = BUF_INIT;
    sigv4_encode(&b, "/a b+c%d/\xc3\xa9~.-_", true);
    assert_string_equal(buf_str(&b), "/a%20b%2Bc%25d/%C3%A9~.-_");
    buf_free(&b);
    const struct sigv4_pair q[] = {{"prefix", "p/0000/ +"}, {"marker", ""}};
    sigv4_query(&b, q, 2);
    assert_string_equal(buf_str(&b), "marker=&prefix=p%2F0000%2F%20%2B");
}

static void dates_are_utc(void **state)
{
    (void)state;
    char out[SIGV4_DATE_SIZE];
    sigv4_date(out, 1369353600123);
    assert_string_equal(out, S3_DATE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(s3_get_object_with_a_range),
        cmocka_unit_test(s3_put_object),
        cmocka_unit_test(s3_bucket_lifecycle),
        cmocka_unit_test(s3_list_objects),
        cmocka_unit_test(suite_get_vanilla),
        cmocka_unit_test(suite_query_order),
        cmocka_unit_test(suite_sts_token),
        cmocka_unit_test(suite_header_value_trim),
        cmocka_unit_test(everything_else_is_percent_encoded),
        cmocka_unit_test(dates_are_utc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
