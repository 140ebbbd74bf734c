/* cred.h - which access key a target uses, and where it came from. Blocking, but only small local
 * files are read. */
#ifndef WALSUP_CRED_H
#define WALSUP_CRED_H

#include "common/base/err.h"
#include "common/format/conf.h"

/* Keys are at hand, or it is known how to fetch them (s3_keys.h), which takes a while. */
enum cred_kind { CRED_STATIC, CRED_PROCESS, CRED_CONTAINER, CRED_INSTANCE };

struct cred {
    char *key_id;
    struct secret *secret, *token; /* token may be NULL */
    char *source;                  /* "the configuration", "the environment (AWS_*)", a file's name */
    enum cred_kind kind;
    char *command;      /* CRED_PROCESS */
    int64_t expires_ms; /* 0: never, as far as is known; fetched keys only */
};

/** cred_load(t, ret, e): the first that has a pair: $CREDENTIALS_DIRECTORY (files <target>.access-key-id,
 * .secret-access-key, .session-token; for a target that names no keys also s3-access-key-id ...), the target's own keys
 * (secret as value or as file), its credentials-file and profile, WALSUP_*, LITESTREAM_*, AWS_* in the environment,
 * $AWS_SHARED_CREDENTIALS_FILE, ~/.aws/credentials if a profile is named. After them the sources that have to be
 * fetched, whose kind is all that is found out here (the key id is then "(not fetched yet)"): credential-process, also
 * of a profile, a container's role, an instance's role if the target says so. A key id in the configuration is only
 * ever paired with a secret found beside the same key id or beside none. ERR_CONFIG: none found (the hint says where it
 * may be put); ERR_PERM: a file that others may read. */
int cred_load(const struct conf_target *t, struct cred *ret, struct err *e);
/** cred_done(c): wipe and free. */
void cred_done(struct cred *c);

/** cred_read_secret(path, strict, ret, e): a file that holds one secret; strict: nobody but its
 * owner and root may have access, but the group walsup may read what is root's, and in /run/secrets
 * it is as the container's runtime made it. */
int cred_read_secret(const char *path, bool strict, struct secret **ret, struct err *e);
/** cred_take_environment(): secrets of the environment are taken out of it (env.h), where others see them
 * (/proc/PID/environ). Once, at the start of a program, before there are threads. */
void cred_take_environment(void);
/** cred_in_environment(): "WALSUP", "LITESTREAM" or "AWS", the first of which there is a secret; NULL: of none. */
const char *cred_in_environment(void);

#endif
