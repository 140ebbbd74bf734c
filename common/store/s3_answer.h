/* s3_answer.h - where an S3 target is, what came back from it, and what that means. Knows curl's
 * result codes but neither its handles nor libuv. Pure, but for the opening; any thread. */
#ifndef WALSUP_S3_ANSWER_H
#define WALSUP_S3_ANSWER_H

#include "common/base/buf.h"
#include "common/store/cred.h"
#include "common/store/s3_provider.h"
#include "common/store/s3_sse.h"

enum s3_verb {
    S3_PUT,
    S3_GET,
    S3_LIST,
    S3_DELETE,
    S3_HEAD,
    S3_DELETES, /* many keys at a time */
    S3_CREATE,   /* the five of multipart uploads: begin one, */
    S3_PART,     /* send a part of it, */
    S3_COMPLETE, /* make an object of its parts, */
    S3_ABORT,    /* or of nothing; */
    S3_UPLOADS,  /* which ones are there? */
};

/* a target, taken apart once; never changes while the store is open */
struct s3_target {
    char *name;     /* of the section, for hints */
    const struct s3_provider *provider;
    char *endpoint; /* scheme://host[:port] as configured */
    const char *base; /* in front of the bucket in a path, "" as a rule */
    char *host;     /* host[:port] as it stands in the Host header, with the bucket in front of it
                       when addressing is by virtual host */
    char *bucket, *region, *ca_file, *ca_path, *client_cert, *client_key, *storage_class;
    const char *sse; /* NULL: none */
    char *sse_kms_key_id;
    struct s3_customer_key customer_key;
    char *doubts; /* what is asked for that the provider is not known to have; NULL: nothing */
    bool https, virtual_host, aws, skip_verify;
    struct s3_trust *trust; /* what TLS begins with; there before the first request (store_s3_files.c) */
    bool by_url; /* hints are about a url, there is no section */
    struct cred cred;
    struct conf_target keys_from; /* of a target only what cred_load looks at, to look again */
    int64_t clock_offset_ms;      /* the server's clock minus ours, once it has complained */
    unsigned max_connections;
    uint64_t bandwidth_limit_bytes; /* 0 = none */
    uint64_t connect_ms, idle_ms;
    uint64_t put_bytes, part_bytes; /* in one piece up to the first, then in parts of the second */
    unsigned parallel_parts, max_parts;
};

/** s3_target_fill(c, t, e): t from a configuration's target; of the disk only its key files are
 * read. s3_target_done(t): wipe and free, also what a failed fill left. */
int s3_target_fill(const struct conf_target *c, struct s3_target *t, struct err *e);
void s3_target_done(struct s3_target *t);
/** s3_hint_for_url(name, e): what the hint says to write into [target name] goes to the url, or the
 * environment. Returns -e->code. */
int s3_hint_for_url(const char *name, struct err *e);

/* what a transfer left behind, all of it from outside */
struct s3_answer {
    int curl;       /* CURLcode */
    long os_errno;
    char curl_text[256];
    long status;    /* final HTTP status, 0 if there was none */
    uint64_t sent, received; /* body bytes */
    int64_t content_length;  /* -1: not said */
    bool has_range;
    uint64_t range_first, range_last, range_total;
    char etag[128], location[512], region[64], request_id[128];
    int64_t date_ms, modified_ms; /* 0: not said */
    uint64_t retry_after_ms;      /* 0: not said */
    bool wants_digest; /* its message names Content-MD5 or x-amz-checksum */
    char code[64], doc_region[64]; /* of the error document; set with the verdict */
    struct buf body; /* listing, or error document */
    bool body_cut;   /* it was larger than it may be; the rest was not read */
};

void s3_answer_reset(struct s3_answer *a);

/** s3_error(t, verb, key, a, e): the error for an answer that is none of the expected ones: one
 * sentence and a hint, classified by curl's result, then by status, then by the document's code.
 * For S3_LIST key is the prefix. */
int s3_error(const struct s3_target *t, enum s3_verb verb, const char *key,
             const struct s3_answer *a, struct err *e);
/** s3_error_of_key(t, key, code, message, e): the same for one key of S3_DELETES that the store refused to delete.
 * code NULL: it said nothing about it. */
int s3_error_of_key(const struct s3_target *t, const char *key, const char *code, const char *message, struct err *e);
/** s3_error_where(t, verb, key, e): put operation and place in front of an error. */
int s3_error_where(const struct s3_target *t, enum s3_verb verb, const char *key, struct err *e);

#endif
