/* s3_keys.h - keys that have to be fetched: from a program, or from a service of the machine or the container.
 * Blocking, some seconds at most; any thread but the loop's. Knows libcurl. */
#ifndef WALSUP_S3_KEYS_H
#define WALSUP_S3_KEYS_H

#include "common/store/cred.h"

/** s3_keys_fetch(kind, command, ret, e): a pair, mostly with a token and an end. CRED_PROCESS: what `command`
 * prints, started without a shell; CRED_CONTAINER: $AWS_CONTAINER_CREDENTIALS_{FULL,RELATIVE}_URI; CRED_INSTANCE:
 * the metadata service of EC2, version 2 only. ERR_AUTH: no usable answer. What was printed or answered is in no
 * message. */
int s3_keys_fetch(enum cred_kind kind, const char *command, struct cred *ret, struct err *e);

#endif
