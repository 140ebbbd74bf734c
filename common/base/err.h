/* err.h - how a failure travels: a code for the program, a sentence for the person.
 *
 * Sign rule: 0 is ok; a negative return means "give up and pass it up", it is -code of the
 * filled struct err; a positive return is a documented outcome of that one function.
 * The sentence is written where the fault is seen, wrapped on the way up ("while doing x: ..."),
 * lower case, no full stop; the hint says what to change. Nothing in common/ logs it: the top
 * does, once. Outputs named ret_* are untouched on failure. */
#ifndef WALSUP_ERR_H
#define WALSUP_ERR_H

#include "common/base/util.h"

/* code, exit status of the tool, name in JSON */
#define ERR_TABLE(X)                   \
    X(ERR_OK, 0, "ok")                 \
    X(ERR_INTERNAL, 70, "internal")    \
    X(ERR_USAGE, 64, "usage")          \
    X(ERR_CONFIG, 78, "config")        \
    X(ERR_IO, 74, "io")                \
    X(ERR_NOSPC, 73, "no-space")       \
    X(ERR_NOMEM, 71, "no-memory")      \
    X(ERR_CORRUPT, 65, "corrupt")      \
    X(ERR_NOTFOUND, 66, "not-found")   \
    X(ERR_EXISTS, 17, "exists")        \
    X(ERR_PERM, 77, "permission")      \
    X(ERR_AUTH, 76, "auth")            \
    X(ERR_NET, 69, "network")          \
    X(ERR_STORE, 68, "store")          \
    X(ERR_BUSY, 75, "busy")            \
    X(ERR_TIMEOUT, 72, "timeout")      \
    X(ERR_CANCELED, 79, "canceled")    \
    X(ERR_CONFLICT, 80, "conflict")    \
    X(ERR_UNSUPPORTED, 81, "unsupported")

enum err_code {
#define ERR_ENUM(code, exit_status, name) code,
    ERR_TABLE(ERR_ENUM)
#undef ERR_ENUM
};

struct err {
    enum err_code code;
    char msg[640];  /* one sentence: what failed, where, why */
    char hint[320]; /* what to do about it; empty when nothing useful can be said */
    /* from a store: enum retry_class of store/retry.h (0: not said), and how long the server asks
     * not to be asked again (0: not said) */
    uint8_t retry;
    uint32_t after_ms;
    bool retained;  /* it may not be deleted yet, by a rule of the store: that is no damage */
    bool body_gone; /* the file that was to be stored is not there */
};

/** err_set(e, code, fmt, ...): fill e (which may be NULL) and return -code. Clears the hint. */
int err_set(struct err *e, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/** err_sys(e, errnum, fmt, ...): the same from an errno; ": <strerror>" is appended and the code
 * chosen (ENOSPC/EDQUOT no-space, ENOENT not-found, EACCES/EPERM/EROFS permission, EEXIST exists,
 * ENOMEM no-memory, everything else io). */
int err_sys(struct err *e, int errnum, const char *fmt, ...) PRINTF_LIKE(3, 4);
/** err_wrap(e, fmt, ...): put "fmt: " in front of the message; returns -e->code. */
int err_wrap(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
/** err_hint(e, fmt, ...): set the hint; returns -e->code. */
int err_hint(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
/** err_clear(e): back to ERR_OK and empty texts. */
void err_clear(struct err *e);
/** err_exit_status(code), err_name(code), err_by_name(name): from the table above; what is not in it is
 * ERR_INTERNAL. */
int err_exit_status(enum err_code code);
const char *err_name(enum err_code code);
enum err_code err_by_name(const char *name);

#endif
