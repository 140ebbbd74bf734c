/* server.h - what one s3fault process has, shared by its threads: one thread for each connection,
 * one lock over buckets, rules and ledger. Test code, but it plays the part of the truth: whatever
 * it acknowledges is stored, unless a rule says that it shall lie, and the ledger says so. */
#ifndef S3FAULT_SERVER_H
#define S3FAULT_SERVER_H

#include "common/base/buf.h"

#include <jansson.h>
#include <openssl/ssl.h>
#include <pthread.h>

#define ETAG_SIZE 64
#define HEX_SHA256 65

/* Bytes of a request's body: in memory when little, else a file in which zeros are holes. */
struct blob {
    unsigned refs;
    uint8_t *mem;
    char *path;
    uint64_t size;
    char sha256[HEX_SHA256];
    uint8_t md5[16];
};

struct segment {
    struct blob *blob;
    unsigned part;
};

/* a version of an object; the one before stays, for answers that are out of date */
struct object {
    unsigned refs;
    char *key;
    struct segment *seg;
    size_t n_seg;
    uint64_t size;
    char etag[ETAG_SIZE], sha256[HEX_SHA256]; /* sha256: "" for one of several parts */
    int64_t time_ms;
    char **header; /* x-amz-meta-... and storage class, as "name: value" */
    size_t n_headers;
    struct object *before;
};

struct upload {
    struct upload *next;
    char *key, id[40];
    int64_t time_ms;
    char **header;
    size_t n_headers;
    struct segment *part; /* in the order of their numbers */
    size_t n_parts;
    long long under_way; /* parts that are coming in */
};

struct bucket {
    struct bucket *next;
    char *name;
    struct object **object; /* in byte order of the keys */
    size_t n, cap;
    struct upload *uploads;
};

struct key_pair {
    char *id, *secret, *token; /* token NULL: none */
};

struct rule {
    struct rule *next;
    json_t *json;
    const char *verb, *action; /* verb NULL: any */
    void *regex;               /* regex_t; NULL: any key */
    long long seen, fired, nth, count;
    double probability;
    uint64_t random; /* state of its own generator */
};

struct server {
    pthread_mutex_t lock;
    SSL_CTX *tls;
    const char *dir, *region;
    uint64_t seed, min_part_bytes, next_blob;
    struct key_pair key[8];
    size_t n_keys;
    struct bucket *buckets;
    struct rule *rules;
    json_t *profile; /* NULL: everything is as at AWS */
    json_t *ledger;
    int ledger_fd;
    int64_t clock_offset_ms; /* of its clock, against this machine's */
    unsigned long long connections, tls_failures, requests, active, peak, orphans;
    long long parts_peak; /* of one upload at the same time */
};

extern struct server server;

/** server_lock(), server_unlock() */
void server_lock(void);
void server_unlock(void);

#endif
