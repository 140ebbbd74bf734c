/* http.h - HTTP/1.1 over a socket or TLS, as much as S3 clients use, and every way to get it wrong.
 * Blocking; one thread per connection. */
#ifndef S3FAULT_HTTP_H
#define S3FAULT_HTTP_H

#include "tests/s3fault/server.h"

struct conn {
    int fd;
    SSL *ssl;
    char peer[64];
    uint8_t in[65536];
    size_t at, end;
    bool closing;          /* after this answer */
    uint64_t drip_ms;      /* between two bytes of an answer; 0: all at once */
};

struct pair {
    char *name, *value;
};

struct request {
    char *method, *target; /* as they were sent */
    char *path;            /* as it was sent, without the query */
    struct pair header[64], query[16];
    size_t n_headers, n_query;
    uint64_t length;
    bool body_read;
    struct blob *body;
};

/** conn_read(c, p, n): as much as there is, 0 at the end or when it is broken. */
size_t conn_read(struct conn *c, void *p, size_t n);
/** conn_write(c, p, n): false: the peer is gone. */
bool conn_write(struct conn *c, const void *p, size_t n);
/** conn_reset(c): end it with a RST. */
void conn_reset(struct conn *c);

/** request_read(c, r): head of the next request; false: there is none. */
bool request_read(struct conn *c, struct request *r);
/** request_body(c, r, stop_after): its body into r->body; false: it did not come, or stop_after
 * bytes of it came. */
bool request_body(struct conn *c, struct request *r, uint64_t stop_after);
void request_done(struct request *r);
const char *request_header(const struct request *r, const char *name);
/** request_query(r, name): decoded; NULL: not there. */
const char *request_query(const struct request *r, const char *name);
/** http_decode(s): in place, of percent-encoding. */
void http_decode(char *s);
/** http_date(buf, ms): as in Date. */
const char *http_date(char buf[static 40], int64_t ms);
const char *http_reason(int status);

struct blob *blob_ref(struct blob *b);
void blob_unref(struct blob *b);
/** blob_read(b, off, p, n): exactly. */
void blob_read(const struct blob *b, uint64_t off, void *p, size_t n);

#endif
