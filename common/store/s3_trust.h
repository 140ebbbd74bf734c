/* s3_trust.h - whom TLS trusts, and the client's own certificate, read from their files ahead of
 * time. curl would read them during a handshake, and so on the loop, which must not wait for a
 * disk. */
#ifndef WALSUP_S3_TRUST_H
#define WALSUP_S3_TRUST_H

#include <openssl/x509.h>

#include "common/store/s3_answer.h"

struct s3_trust {
    X509_STORE *roots; /* NULL: nobody is verified, or bad says why there are none */
    uint8_t *cert, *key; /* PEM, as it was in the files; NULL: none is configured */
    size_t cert_len, key_len;
    int bad; /* CURLcode: what every handshake fails with, and why; 0: nothing is wrong */
    char why[sizeof(((struct s3_answer *)NULL)->curl_text)];
};

/** s3_trust_read(t): what ca-file, ca-path, client-certificate and client-key of t name; without
 * the first two, the system's store as libcurl knows it. Blocking; any thread. Never NULL: what is
 * wrong is in it. */
struct s3_trust *s3_trust_read(const struct s3_target *t);
/** s3_trust_free(x): connections that use its roots keep them. x may be NULL. */
void s3_trust_free(struct s3_trust *x);

#endif
