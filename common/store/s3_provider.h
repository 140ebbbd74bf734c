/* s3_provider.h - where stores that speak S3 differ, as far as it matters here: one table. Pure; any thread.
 *
 * What works everywhere is the default and needs no row: path style, signature of version 4 with the hash of the body,
 * Content-Length, no chunks, no trailers, no x-amz-checksum headers, ListObjects of version 1 with 1000 keys and the
 * last key as the marker, parts of equal size from 16 MiB on. A row says what is different, or better, for one
 * provider; what it says of a feature that is missing is documentation, which may be old: so it is never a reason to
 * refuse a configuration, only to warn of it (s3_provider_doubts), and what a request can find out is found out by
 * that. */
#ifndef WALSUP_S3_PROVIDER_H
#define WALSUP_S3_PROVIDER_H

#include "common/base/buf.h"
#include "common/format/conf.h"

enum s3_digest {
    S3_DIGEST_MD5,    /* Content-MD5 */
    S3_DIGEST_SHA256, /* x-amz-checksum-sha256 */
};

struct s3_provider {
    const char *key;   /* as in provider = */
    const char *title; /* for people */
    const char *hosts[4]; /* the endpoint's host is one of these, or below it if it begins with a dot */
    bool virtual_host;    /* the bucket in the host name, unless addressing says otherwise */
    const char *base;     /* path of its S3 API */
    const char *region;   /* when the configured one is the default; NULL: that */
    int region_label;     /* or this label of the host name, from 1; 0: none */
    bool condition;       /* said to obey If-None-Match: * on PUT; it is asked in any case (fence_probe.c) */
    bool deletes_singly;  /* has no DeleteObjects */
    enum s3_digest digest; /* of the list of DeleteObjects */
    unsigned parallel_parts, max_parts; /* of one upload; 0: as everywhere */
    unsigned sse;         /* 1 << enum conf_sse, of what it has */
    const char *classes;  /* storage classes in which objects can be read at once; NULL: any name may be one */
    const char *header, *header_value; /* sent with every request */
};

/** s3_provider_find(id, endpoint): the row of provider = ..., or that of the endpoint's host for CONF_PROVIDER_AUTO.
 * Never NULL: "generic" has no quirks. */
const struct s3_provider *s3_provider_find(enum conf_provider id, const char *endpoint);
/** s3_provider_region(p, host, configured): the region to sign for; the caller frees it. */
char *s3_provider_region(const struct s3_provider *p, const char *host, const char *configured);
/** s3_provider_doubts(p, c, out): what c asks for that this provider is not known to have, as a sentence; true: there
 * is something. */
bool s3_provider_doubts(const struct s3_provider *p, const struct conf_target *c, struct buf *out);

#endif
