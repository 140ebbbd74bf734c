/* proto.h - control messages: Varlink framing (one JSON object, then a NUL byte), interface
 * io.walsup. Pure: no descriptor. The daemon and the tool share it.
 *
 *   call   {"method":"io.walsup.Status","parameters":{...},"more":false}
 *   reply  {"parameters":{...},"continues":false}
 *   error  {"error":"io.walsup.Error","parameters":{"code":"busy","message":"...","hint":"..."}}
 */
#ifndef WALSUP_PROTO_H
#define WALSUP_PROTO_H

#include <jansson.h>

#include "common/base/buf.h"
#include "common/base/err.h"

#define PROTO_MAX_CALL (64u << 10)   /* bytes of one call */
#define PROTO_MAX_REPLY (64u << 20)  /* bytes of one reply a client accepts */
#define PROTO_INTERFACE "io.walsup"

struct proto_call {
    char *method;      /* whole name, e.g. "io.walsup.Status" */
    json_t *parameters; /* an object, maybe empty */
    bool more;
};

/** proto_next(b, max, ret, e): take one message off the front of b. 0 and *ret (a new reference);
 * 1: not complete yet; negative: malformed, too long, not an object, duplicate names. */
int proto_next(struct buf *b, size_t max, json_t **ret, struct err *e);
/** proto_call_parse(msg, ret, e): check the envelope; unknown fields are refused. */
int proto_call_parse(json_t *msg, struct proto_call *ret, struct err *e);
void proto_call_done(struct proto_call *c);
/** proto_add(b, msg): append msg and a NUL byte; steals the reference. */
void proto_add(struct buf *b, json_t *msg);
/** proto_make_call(method, parameters, more), proto_make_reply(parameters, continues),
 * proto_make_error(e): whole messages; parameters are stolen. The method is given without the
 * interface ("Status"). */
json_t *proto_make_call(const char *method, json_t *parameters, bool more);
json_t *proto_make_reply(json_t *parameters, bool continues);
json_t *proto_make_error(const struct err *e);
/** proto_text(s): a JSON string of any bytes, a file name for one: what JSON cannot hold becomes '?'. */
json_t *proto_text(const char *s);
/** proto_reply_parse(msg, ret_parameters, ret_continues, e): a reply's parameters (new reference), or
 * the error it carries, turned back into e. */
int proto_reply_parse(json_t *msg, json_t **ret_parameters, bool *ret_continues, struct err *e);

#endif
