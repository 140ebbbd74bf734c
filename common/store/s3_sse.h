/* s3_sse.h - the key of sse = C: whoever asks for an object has to send it along. Any thread. */
#ifndef WALSUP_S3_SSE_H
#define WALSUP_S3_SSE_H

#include "common/base/err.h"
#include "common/base/secret.h"

struct s3_customer_key {
    struct secret *key; /* base64, as headers have it; NULL: there is none. The caller frees it */
    char md5[28];       /* of the key, base64 */
};

/** s3_sse_load(path, ret, e): from a file with 32 bytes, or with them in base64 or as 64 hex digits. Refused when
 * others may read it. */
int s3_sse_load(const char *path, struct s3_customer_key *ret, struct err *e);

#endif
