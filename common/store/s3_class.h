/* s3_class.h - what an answer that is an error means for the next try: the one table of it. Pure. */
#ifndef WALSUP_S3_CLASS_H
#define WALSUP_S3_CLASS_H

#include "common/store/retry.h"
#include "common/store/s3_answer.h"

/** s3_class(a, code): class of a failed answer; code is the one of its error document or "". */
enum retry_class s3_class(const struct s3_answer *a, const char *code);
/** s3_of_account(code): it is about keys, clock or bucket, so that every request of the target fails
 * the same way, whatever it asks for. */
bool s3_of_account(const char *code);
/** s3_refuses_keys(a): the keys are not good (any more): others may be in their files by now. */
bool s3_refuses_keys(const struct s3_answer *a);
/** s3_is_of_trust(a): a TLS handshake failed over certificates. */
bool s3_is_of_trust(const struct s3_answer *a);
/** s3_wants_digest(a): an object or a part is refused because it came without Content-MD5 or
 * x-amz-checksum. */
bool s3_wants_digest(const struct s3_answer *a);
/** s3_is_retained(a, message): the deletion of an object is refused because it is to be kept for
 * some time, by Object Lock or what a server has of the kind. */
bool s3_is_retained(const struct s3_answer *a, const char *message);
/** s3_learn(t, a): what the answer teaches about clock or region, so that the same request, signed again, may succeed:
 * true: something is different now. Keys that were fetched and are refused count as expired. */
bool s3_learn(struct s3_target *t, const struct s3_answer *a);

#endif
