/* bucket.h - buckets, the versions of their objects, uploads in parts. Everything here with the
 * server's lock held. */
#ifndef S3FAULT_BUCKET_H
#define S3FAULT_BUCKET_H

#define CUSTOMER_KEY_MD5 "x-amz-server-side-encryption-customer-key-md5"

#include "tests/s3fault/http.h"

struct bucket *bucket_new(const char *name);
struct bucket *bucket_find(const char *name);
/** bucket_get(b, key): the newest version with a reference to be given back, or NULL. */
struct object *bucket_get(const struct bucket *b, const char *key);
/** bucket_put(b, key, seg, n, header, n_headers): a new version, which takes over nothing. */
struct object *bucket_put(struct bucket *b, const char *key, const struct segment *seg, size_t n,
                          char **header, size_t n_headers);
bool bucket_delete(struct bucket *b, const char *key);
/** bucket_after(b, key): index of the first object whose key is behind `key`. */
size_t bucket_after(const struct bucket *b, const char *key);
void object_unref(struct object *o);
/** object_read(o, off, p, n): exactly. Without the lock. */
void object_read(const struct object *o, uint64_t off, void *p, size_t n);

struct upload *upload_new(struct bucket *b, const char *key, char **header, size_t n_headers);
struct upload *upload_find(const struct bucket *b, const char *key, const char *id);
void upload_part(struct upload *u, unsigned part, struct blob *blob);
void upload_free(struct bucket *b, struct upload *u);

/** headers_copy(r, ret_n): those that are kept with an object. */
char **headers_copy(const struct request *r, size_t *ret_n);
void headers_free(char **h, size_t n);

#endif
