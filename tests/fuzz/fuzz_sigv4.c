/* Any name, value, path: encoding must be reversible, the canonical request must not depend on
 * the order of its parts, and nothing may run past an end. */
#include "common/format/sigv4.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int unhex(char c)
{
    return c <= '9' ? c - '0' : c - 'A' + 10;
}

static void check_encoding(const char *s)
{
    cleanup_buf struct buf b = BUF_INIT;
    sigv4_encode(&b, s, false);
    for (const char *p = buf_str(&b); *p; p++, s++) {
        char c = *p;
        if (c == '%') {
            c = (char)(unhex(p[1]) * 16 + unhex(p[2]));
            p += 2;
        }
        assert(c == *s);
    }
    assert(!*s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* lines: path, then name and value by turns; the first half is the query */
    char *text = util_alloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    struct sigv4_pair pair[32], back[32];
    size_t n = 0;
    char *save = NULL;
    const char *path = strtok_r(text, "\n", &save);
    while (n < ARRAY_LEN(pair)) {
        const char *name = strtok_r(NULL, "\n", &save), *value = strtok_r(NULL, "\n", &save);
        if (!name || !value)
            break;
        check_encoding(name);
        check_encoding(value);
        pair[n++] = (struct sigv4_pair){name, value};
    }
    for (size_t i = 0; i < n; i++)
        back[i] = pair[n - 1 - i];
    size_t half = n / 2;
    struct sigv4_request r = {.method = "GET", .path = path ? path : "/",
                              .query = pair, .n_query = half,
                              .header = pair + half, .n_headers = n - half,
                              .payload_hash = SIGV4_EMPTY_HASH, .date = "20130524T000000Z",
                              .region = "us-east-1", .service = "s3"};
    cleanup_buf struct buf a = BUF_INIT, b = BUF_INIT, auth = BUF_INIT;
    sigv4_query(&a, r.query, r.n_query);
    sigv4_query(&b, back + (n - half), half);
    assert(a.len == b.len && !memcmp(buf_str(&a), buf_str(&b), a.len));
    sigv4_authorization(&auth, &r, "AKIAIOSFODNN7EXAMPLE", "secret");
    free(text);
    return 0;
}
