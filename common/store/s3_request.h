/* s3_request.h - an s3_xfer as URL and header lines, signed. Pure. */
#ifndef WALSUP_S3_REQUEST_H
#define WALSUP_S3_REQUEST_H

#include "common/store/s3_transport.h"

#define S3_REQUEST_HEADERS 24

struct s3_request {
    char *url;
    char *header[S3_REQUEST_HEADERS]; /* "name: value"; "name:" takes one of curl's own away */
    size_t n_headers;
};

/** s3_request_compose(r, x, t, now_ms): r is zero before. Free with s3_request_done: it wipes. */
void s3_request_compose(struct s3_request *r, const struct s3_xfer *x, const struct s3_target *t,
                        int64_t now_ms);
void s3_request_done(struct s3_request *r);

#endif
