/* sigv4.h - AWS Signature Version 4 for requests with an Authorization header. Pure: bytes in,
 * text out. Any thread. */
#ifndef WALSUP_SIGV4_H
#define WALSUP_SIGV4_H

#include "common/base/buf.h"

#define SIGV4_HASH_SIZE 65 /* 64 hex digits and a NUL */
#define SIGV4_DATE_SIZE 17 /* 20130524T000000Z and a NUL */
#define SIGV4_EMPTY_HASH "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

struct sigv4_pair {
    const char *name, *value;
};

struct sigv4_request {
    const char *method;
    const char *path;               /* percent-encoded as it is sent, starting with "/" */
    const struct sigv4_pair *query; /* not encoded; any order */
    size_t n_query;
    const struct sigv4_pair *header; /* those to sign, host among them; any case and order */
    size_t n_headers;
    const char *payload_hash; /* hex */
    const char *date;         /* the same text as in x-amz-date */
    const char *region, *service;
};

/** sigv4_encode(out, s, keep_slash): percent-encode all but A-Z a-z 0-9 - . _ ~ (and / if told). */
void sigv4_encode(struct buf *out, const char *s, bool keep_slash);
/** sigv4_query(out, query, n): the canonical query string; it is also what has to be sent. */
void sigv4_query(struct buf *out, const struct sigv4_pair *query, size_t n);
/** The three steps, for tests. */
void sigv4_canonical(struct buf *out, const struct sigv4_request *r);
void sigv4_string_to_sign(struct buf *out, const struct sigv4_request *r);
void sigv4_signature(char out[static SIGV4_HASH_SIZE], const struct sigv4_request *r,
                     const char *secret);
/** sigv4_authorization(out, r, key_id, secret): the value of the Authorization header. */
void sigv4_authorization(struct buf *out, const struct sigv4_request *r, const char *key_id,
                         const char *secret);
/** sigv4_date(out, ms): milliseconds since 1970 as basic ISO 8601. */
void sigv4_date(char out[static SIGV4_DATE_SIZE], int64_t ms);
/** sigv4_hash(out, p, n): SHA-256 in hex. */
void sigv4_hash(char out[static SIGV4_HASH_SIZE], const void *p, size_t n);

#endif
