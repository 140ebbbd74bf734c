#include "common/base/err.h"
#include "common/base/util.h"

#include <errno.h>
#include <stdarg.h>

static const struct {
    int exit_status;
    const char *name;
} table[] = {
#define ERR_ROW(code, exit_status, name) [code] = {exit_status, name},
    ERR_TABLE(ERR_ROW)
#undef ERR_ROW
};

void err_clear(struct err *e)
{
    if (!e)
        return;
    e->code = ERR_OK;
    e->msg[0] = '\0';
    e->hint[0] = '\0';
    e->retry = 0;
    e->retained = e->body_gone = false;
    e->after_ms = 0;
}

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    if (!e)
        return -(int)code;
    char msg[sizeof e->msg]; /* the arguments may point into e->msg */
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    memcpy(e->msg, util_plain(msg), sizeof msg);
    e->code = code;
    e->hint[0] = '\0';
    e->retry = 0;
    e->retained = e->body_gone = false;
    e->after_ms = 0;
    return -(int)code;
}

static enum err_code code_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return ERR_NOSPC;
    case ENOENT:
    case ENOTDIR:
        return ERR_NOTFOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_PERM;
    case EEXIST:
        return ERR_EXISTS;
    case ENOMEM:
        return ERR_NOMEM;
    default:
        return ERR_IO;
    }
}

int err_sys(struct err *e, int errnum, const char *fmt, ...)
{
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    /* 0: the call did less than was asked for, without an error */
    return err_set(e, code_of_errno(errnum), "%s: %s", msg,
                   errnum ? strerror(errnum) : "incomplete, and no reason given");
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    if (!e)
        return -ERR_INTERNAL;
    char msg[sizeof e->msg];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof msg)
        (void)snprintf(msg + n, sizeof msg - (size_t)n, ": %s", e->msg);
    memcpy(e->msg, util_plain(msg), sizeof msg);
    return -(int)e->code;
}

int err_hint(struct err *e, const char *fmt, ...)
{
    if (!e)
        return -ERR_INTERNAL;
    char hint[sizeof e->hint];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(hint, sizeof hint, fmt, ap);
    va_end(ap);
    memcpy(e->hint, util_plain(hint), sizeof hint);
    return -(int)e->code;
}

int err_exit_status(enum err_code code)
{
    return (size_t)code < ARRAY_LEN(table) ? table[code].exit_status : table[ERR_INTERNAL].exit_status;
}

const char *err_name(enum err_code code)
{
    return (size_t)code < ARRAY_LEN(table) ? table[code].name : "internal";
}

enum err_code err_by_name(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (!strcmp(table[i].name, name))
            return (enum err_code)i;
    return ERR_INTERNAL;
}
