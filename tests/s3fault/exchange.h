/* exchange.h - one request and its answer, between rules, bucket and connection. */
#ifndef S3FAULT_EXCHANGE_H
#define S3FAULT_EXCHANGE_H

#include "tests/s3fault/bucket.h"

/* how the bytes of an answer come to grief on their way */
enum spoil {
    SPOIL_NOT,
    SPOIL_CUT,        /* the headers promise all, half of it comes, then FIN */
    SPOIL_CUT_HONEST, /* half of it, and Content-Length agrees */
    SPOIL_RESET,      /* half of it, then RST */
    SPOIL_STALL,      /* half of it, then nothing, for ever */
    SPOIL_NO_LENGTH,  /* it ends with the connection */
    SPOIL_BAD_CHUNK,  /* a chunk that is none */
    SPOIL_CORRUPT,    /* one byte is another */
    SPOIL_MORE,       /* more comes than was announced */
};

struct exchange {
    struct conn *c;
    struct request r;
    char *bucket, *key;
    const char *verb;
    json_t *rule;       /* what shall go wrong, or NULL */
    const char *action; /* of it, or "" */
    unsigned long long active;
    bool stored, logged;
    char etag[ETAG_SIZE], sha256[HEX_SHA256];
    uint64_t size;
    char *upload_id;
    /* the answer */
    int status;
    struct buf headers, body; /* headers: whole lines */
    struct object *object;    /* instead of body: bytes [off, off + len) of it */
    uint64_t off, len;
    bool head;
    enum spoil spoil;
};

void answer_header(struct exchange *x, const char *name, const char *value);
/** answer_error(x, status, code, message, extra): an <Error> document. */
void answer_error(struct exchange *x, int status, const char *code, const char *message,
                  const char *extra);
/** xml_add(out, s): s as text of an element. */
void xml_add(struct buf *out, const char *s);
/** exchange_log(x): into the ledger, once; before the client can know the outcome. */
void exchange_log(struct exchange *x);
/** exchange_send(x) */
void exchange_send(struct exchange *x);
/** exchange_stall(x): until the peer gives up. */
void exchange_stall(struct exchange *x);

/** op_run(x): what S3 does. The request is whole and its signature good. */
void op_run(struct exchange *x);
/** op_store(x): a PUT, without an answer. */
void op_store(struct exchange *x);

/** fault_match(verb, key): a new reference of the rule that applies now, or NULL. */
json_t *fault_match(const char *verb, const char *key);
/** fault_load(rules, e): replace all rules. With the lock held. */
bool fault_load(json_t *rules, char **ret_why);
json_t *fault_rules(void);
/** fault_before(x): before body and signature: true: the exchange is over. */
bool fault_before(struct exchange *x);
/** fault_instead(x): instead of what S3 does: true: x has its answer, or none is due (status 0). */
bool fault_instead(struct exchange *x);
/** fault_after(x): the answer is there and may be spoilt. */
void fault_after(struct exchange *x);
/** rule_text(x, name, otherwise), rule_int(...) */
const char *rule_text(const struct exchange *x, const char *name, const char *otherwise);
long long rule_int(const struct exchange *x, const char *name, long long otherwise);

/** profile_refuses(x): the provider that is played does not have this: x has its answer. */
bool profile_refuses(struct exchange *x);
/** profile_enter_part(x), profile_leave_part(x): a part begins to come in, and is over; false: one too many. */
bool profile_enter_part(struct exchange *x);
void profile_leave_part(const struct exchange *x);
/** profile_base(): in front of the bucket in a path. profile_misses_missing(): 404 to the deletion of what is not
 * there. With the lock held. */
const char *profile_base(void);
bool profile_misses_missing(void);
const char *profile_created(void);
/** control(x): what tests ask for. */
void control(struct exchange *x);

#endif
