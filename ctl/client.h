/* client.h - one call to the daemon over its control socket; blocking, with a deadline. */
#ifndef WALSUP_CLIENT_H
#define WALSUP_CLIENT_H

#include "common/format/proto.h"

/** client_call(path, method, parameters, timeout_ms, ret, ret_message, e): method without the
 * interface ("Status"); parameters are stolen; *ret is the reply's parameters, a new reference.
 * ERR_NET: the daemon is not running; ERR_TIMEOUT: it did not answer in time; ERR_PERM: it may
 * not be asked;
 * else what it answered; ret_message (may be NULL) then gets the whole message, malloc'ed, for
 * those that are longer than e can hold. */
int client_call(const char *path, const char *method, json_t *parameters, uint64_t timeout_ms,
                json_t **ret, char **ret_message, struct err *e);
/** client_call_held(..., ret_fd, e): the same, and the connection stays open until the caller closes
 * *ret_fd: for answers that are good for as long as it is. */
int client_call_held(const char *path, const char *method, json_t *parameters, uint64_t timeout_ms,
                     json_t **ret, char **ret_message, int *ret_fd, struct err *e);

#endif
