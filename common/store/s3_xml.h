/* s3_xml.h - the two documents S3 answers with, read as untrusted input: no entities of their own,
 * nothing fetched. Pure; any thread. */
#ifndef WALSUP_S3_XML_H
#define WALSUP_S3_XML_H

#include "common/base/buf.h"
#include "common/base/err.h"

struct s3_error_doc {
    char code[64], message[256], request_id[128], region[64], endpoint[256];
};

struct s3_page_item {
    char *key;
    char *upload_id; /* NULL but in a listing of uploads */
    char *code, *message; /* NULL but for what could not be deleted */
    uint64_t size;
    int64_t mtime_ms;
};

struct s3_page {
    struct s3_page_item *item;
    size_t n;
    bool truncated;
    char *next_marker; /* NULL if absent */
    char *next_id;     /* of uploads, goes with the marker */
};

/** s3_xml_error(p, n, ret): true if it is an <Error> document; texts are cut to what fits and
 * control characters become '?'. */
bool s3_xml_error(const void *p, size_t n, struct s3_error_doc *ret);
/** s3_xml_page(p, n, ret, e): a complete, well-formed ListBucketResult, or an error that says
 * what it is instead. Free with s3_page_done. Without IsTruncated it counts as truncated while it
 * has keys. */
int s3_xml_page(const void *p, size_t n, struct s3_page *ret, struct err *e);
/** s3_xml_uploads(p, n, ret, e): the same for a ListMultipartUploadsResult; mtime_ms is when the
 * upload was begun. */
int s3_xml_uploads(const void *p, size_t n, struct s3_page *ret, struct err *e);
/** s3_xml_deleted(p, n, ret, e): the same for a DeleteResult: an item for each key, with a code if it could not be
 * deleted. */
int s3_xml_deleted(const void *p, size_t n, struct s3_page *ret, struct err *e);
/** s3_xml_delete(out, path, key, n): the document that asks for it, with `path` in front of each key. */
void s3_xml_delete(struct buf *out, const char *path, const char *const *key, size_t n);
/** s3_xml_refusal(out, code, message): an <Error> document, which s3_xml_error reads. */
void s3_xml_refusal(struct buf *out, const char *code, const char *message);
/** s3_xml_created(p, n): the UploadId in an answer to CreateMultipartUpload, or NULL. Whatever the
 * root element is called, but for an <Error>: one server leaves out "Result". */
char *s3_xml_created(const void *p, size_t n);
/** s3_xml_completed(p, n): it is a whole CompleteMultipartUploadResult. */
bool s3_xml_completed(const void *p, size_t n);
/** s3_xml_complete(out, etag, n): the document that asks for it; etag[k] is of part k + 1, NULL: not
 * there. */
void s3_xml_complete(struct buf *out, char *const *etag, size_t n);
void s3_page_done(struct s3_page *page);

#endif
