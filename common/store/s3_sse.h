/* s3_sse.h - the key of sse = C: whoever asks for an object has to send it along. Any thread. */
#ifndef WALSUP_S3_SSE_H
#define WALSUP_S3_SSE_H

#include "common/base/err.h"

struct s3_customer_key {
    char key[48], md5[28]; /* base64, as headers have it; "": there is none. Never in a message */
};

/** s3_sse_load(path, ret, e): from a file with 32 bytes, or with them in base64 or as 64 hex digits. Refused when
 * others may read it. */
int s3_sse_load(const char *path, struct s3_customer_key *ret, struct err *e);

#endif
