/* sign.h - is a request signed by a key that is known? Written from the description of Signature
 * Version 4, without walsup's own common/format/sigv4.c: a mistake there must not hide here. */
#ifndef S3FAULT_SIGN_H
#define S3FAULT_SIGN_H

#include "tests/s3fault/http.h"

struct refusal {
    int status;
    const char *code, *message;
    char extra[128]; /* XML */
};

/** sign_check(r, ret): the signature; sign_check_body(r, ret): what it says about the body, and
 * Content-MD5. */
bool sign_check(const struct request *r, struct refusal *ret);
bool sign_check_body(const struct request *r, struct refusal *ret);

#endif
