/* cred.h - which access key a target uses, and where it came from. Blocking, but only small local
 * files are read. */
#ifndef WALSUP_CRED_H
#define WALSUP_CRED_H

#include "common/base/err.h"
#include "common/format/conf.h"

struct cred {
    char *key_id, *secret, *token; /* token may be NULL */
    char *source;                  /* "walsup.ini", "the environment (AWS_*)", a file's name */
};

/** cred_load(t, ret, e): the first that has a pair: the target's own keys (secret as value or as
 * file), its credentials-file and profile, $CREDENTIALS_DIRECTORY, WALSUP_*, LITESTREAM_*, AWS_*
 * in the environment, $AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials. A key id in the
 * configuration is only ever paired with a secret found beside the same key id or beside none.
 * ERR_CONFIG: none found (the hint says where it may be put); ERR_PERM: a file that others may
 * read. */
int cred_load(const struct conf_target *t, struct cred *ret, struct err *e);
/** cred_done(c): wipe and free. */
void cred_done(struct cred *c);
/** cred_wipe(p): wipe and free one string; NULL is fine. */
void cred_wipe(char *p);

#endif
