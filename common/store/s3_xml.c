#include "common/store/s3_xml.h"

#include <errno.h>
#include <libxml/parser.h>
#include <libxml/tree.h>

#include "common/store/store_impl.h"

#define MAX_ITEMS 100000 /* in one page; S3 itself sends at most 1000 */

static void free_doc(xmlDoc **d)
{
    if (*d)
        xmlFreeDoc(*d);
}

static void free_text(xmlChar **s)
{
    if (*s)
        xmlFree(*s);
}

/* No document type: S3 sends none, and it is where entity bombs live. */
static xmlDoc *parse(const void *p, size_t n)
{
    if (!n || n > (size_t)1 << 30)
        return NULL;
    xmlDoc *d = xmlReadMemory(p, (int)n, NULL, NULL,
                              XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING |
                                  XML_PARSE_NOCDATA);
    if (d && (d->intSubset || d->extSubset || !xmlDocGetRootElement(d))) {
        xmlFreeDoc(d);
        return NULL;
    }
    return d;
}

static bool named(const xmlNode *node, const char *name)
{
    return node->type == XML_ELEMENT_NODE && !strcmp((const char *)node->name, name);
}

static const xmlNode *child(const xmlNode *of, const char *name)
{
    for (const xmlNode *c = of->children; c; c = c->next) {
        if (named(c, name))
            return c;
    }
    return NULL;
}

static char *text_of(const xmlNode *of, const char *name)
{
    const xmlNode *c = child(of, name);
    if (!c)
        return NULL;
    cleanup(free_text) xmlChar *s = xmlNodeGetContent(c);
    return s ? util_strdup((const char *)s) : NULL;
}

static void copy_text(char *to, size_t cap, const xmlNode *of, const char *name)
{
    cleanup_free char *s = text_of(of, name);
    (void)snprintf(to, cap, "%s", s ? s : "");
    for (char *p = to; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    }
}

bool s3_xml_error(const void *p, size_t n, struct s3_error_doc *ret)
{
    cleanup(free_doc) xmlDoc *d = parse(p, n);
    if (!d)
        return false;
    const xmlNode *root = xmlDocGetRootElement(d);
    if (!named(root, "Error"))
        return false;
    *ret = (struct s3_error_doc){0};
    copy_text(ret->code, sizeof ret->code, root, "Code");
    copy_text(ret->message, sizeof ret->message, root, "Message");
    copy_text(ret->request_id, sizeof ret->request_id, root, "RequestId");
    copy_text(ret->region, sizeof ret->region, root, "Region");
    copy_text(ret->endpoint, sizeof ret->endpoint, root, "Endpoint");
    return true;
}

void s3_page_done(struct s3_page *page)
{
    for (size_t i = 0; i < page->n; i++) {
        free(page->item[i].key);
        free(page->item[i].upload_id);
        free(page->item[i].code);
        free(page->item[i].message);
    }
    free(page->item);
    free(page->next_marker);
    free(page->next_id);
    *page = (struct s3_page){0};
}

static bool read_upload(const xmlNode *node, struct s3_page_item *ret)
{
    cleanup_free char *key = text_of(node, "Key");
    cleanup_free char *id = text_of(node, "UploadId");
    cleanup_free char *when = text_of(node, "Initiated");
    if (!key || !*key || !id || !*id || !when || !store_rfc3339(when, &ret->mtime_ms))
        return false;
    ret->key = TAKE_PTR(key);
    ret->upload_id = TAKE_PTR(id);
    return true;
}

static bool read_item(const xmlNode *node, struct s3_page_item *ret)
{
    cleanup_free char *key = text_of(node, "Key");
    cleanup_free char *size = text_of(node, "Size");
    cleanup_free char *when = text_of(node, "LastModified");
    if (!key || !*key || !size || size[0] < '0' || size[0] > '9')
        return false;
    char *end;
    errno = 0;
    ret->size = strtoull(size, &end, 10);
    if (errno || *end)
        return false;
    if (when && !store_rfc3339(when, &ret->mtime_ms))
        return false;
    ret->key = TAKE_PTR(key);
    return true;
}

static int read_items(const xmlNode *root, const char *name,
                      bool (*read)(const xmlNode *node, struct s3_page_item *ret),
                      struct s3_page *page, struct err *e)
{
    size_t cap = page->n;
    for (const xmlNode *c = root->children; c; c = c->next) {
        if (!named(c, name))
            continue;
        if (page->n == cap) {
            cap = cap ? cap * 2 : 256;
            if (cap > MAX_ITEMS)
                return err_set(e, ERR_STORE, "more than %zu keys in one page", page->n);
            struct s3_page_item *more = realloc(page->item, cap * sizeof *more);
            if (!more)
                return err_set(e, ERR_NOMEM, "no memory for a listing of %zu keys", cap);
            page->item = more;
        }
        page->item[page->n] = (struct s3_page_item){0};
        if (!read(c, &page->item[page->n]))
            return err_set(e, ERR_STORE, "entry %zu of the listing has no usable key, size or time",
                           page->n + 1);
        page->n++;
    }
    return 0;
}

/* Not every server says IsTruncated. Then only a page without keys is known to be the last one; of
 * uploads, one without markers, since an upload is not identified by its key. */
static bool may_go_on(const struct s3_page *page, bool of_objects)
{
    bool marker = page->next_marker && *page->next_marker;
    return of_objects ? page->n || marker : marker && page->next_id && *page->next_id;
}

static int read_page(const void *p, size_t n, const char *root_name, const char *item_name,
                     const char *marker_name,
                     bool (*read)(const xmlNode *node, struct s3_page_item *ret),
                     struct s3_page *ret, struct err *e)
{
    cleanup(free_doc) xmlDoc *d = parse(p, n);
    if (!d)
        return err_set(e, ERR_STORE, "the answer is %s", n ? "no complete XML document" : "empty");
    const xmlNode *root = xmlDocGetRootElement(d);
    if (!named(root, root_name))
        return err_set(e, ERR_STORE, "the answer is <%.40s> and no <%s>", (const char *)root->name,
                       root_name);
    cleanup_free char *truncated = text_of(root, "IsTruncated");
    if (truncated && strcmp(truncated, "true") && strcmp(truncated, "false"))
        return err_set(e, ERR_STORE, "the listing does not say whether it is complete");
    struct s3_page page = {.next_marker = text_of(root, marker_name),
                           .next_id = text_of(root, "NextUploadIdMarker")};
    int r = read_items(root, item_name, read, &page, e);
    if (r < 0) {
        s3_page_done(&page);
        return r;
    }
    page.truncated = truncated ? !strcmp(truncated, "true") : may_go_on(&page, read == read_item);
    *ret = page;
    return 0;
}

int s3_xml_page(const void *p, size_t n, struct s3_page *ret, struct err *e)
{
    return read_page(p, n, "ListBucketResult", "Contents", "NextMarker", read_item, ret, e);
}

int s3_xml_uploads(const void *p, size_t n, struct s3_page *ret, struct err *e)
{
    return read_page(p, n, "ListMultipartUploadsResult", "Upload", "NextKeyMarker", read_upload,
                     ret, e);
}

static bool read_deleted(const xmlNode *node, struct s3_page_item *ret)
{
    ret->key = text_of(node, "Key");
    return ret->key != NULL;
}

static bool read_refused(const xmlNode *node, struct s3_page_item *ret)
{
    char code[64], message[256];
    copy_text(code, sizeof code, node, "Code");
    copy_text(message, sizeof message, node, "Message");
    if (!read_deleted(node, ret))
        return false;
    ret->code = util_strdup(code);
    ret->message = util_strdup(message);
    return true;
}

int s3_xml_deleted(const void *p, size_t n, struct s3_page *ret, struct err *e)
{
    cleanup(free_doc) xmlDoc *d = parse(p, n);
    if (!d)
        return err_set(e, ERR_STORE, "the answer is %s", n ? "no complete XML document" : "empty");
    const xmlNode *root = xmlDocGetRootElement(d);
    if (!named(root, "DeleteResult"))
        return err_set(e, ERR_STORE, "the answer is <%.40s> and no <DeleteResult>", (const char *)root->name);
    struct s3_page page = {0};
    int r = read_items(root, "Deleted", read_deleted, &page, e);
    r = r < 0 ? r : read_items(root, "Error", read_refused, &page, e);
    if (r < 0)
        s3_page_done(&page);
    else
        *ret = page;
    return r;
}

char *s3_xml_created(const void *p, size_t n)
{
    cleanup(free_doc) xmlDoc *d = parse(p, n);
    if (!d || named(xmlDocGetRootElement(d), "Error"))
        return NULL;
    cleanup_free char *id = text_of(xmlDocGetRootElement(d), "UploadId");
    return id && *id ? TAKE_PTR(id) : NULL;
}

bool s3_xml_completed(const void *p, size_t n)
{
    cleanup(free_doc) xmlDoc *d = parse(p, n);
    return d && named(xmlDocGetRootElement(d), "CompleteMultipartUploadResult");
}

/* whatever it is, it stays inside its element */
static void add_escaped(struct buf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '&' || *s == '<' || *s == '>')
            buf_printf(out, "&#%d;", *s);
        else
            buf_add(out, s, 1);
    }
}

void s3_xml_complete(struct buf *out, char *const *etag, size_t n)
{
    buf_add_str(out, "<CompleteMultipartUpload "
                     "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (size_t i = 0; i < n; i++) {
        if (!etag[i])
            continue;
        buf_printf(out, "<Part><PartNumber>%zu</PartNumber><ETag>", i + 1);
        add_escaped(out, etag[i]);
        buf_add_str(out, "</ETag></Part>");
    }
    buf_add_str(out, "</CompleteMultipartUpload>");
}

void s3_xml_delete(struct buf *out, const char *path, const char *const *key, size_t n)
{
    buf_add_str(out, "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (size_t i = 0; i < n; i++) {
        buf_add_str(out, "<Object><Key>");
        add_escaped(out, path);
        add_escaped(out, key[i]);
        buf_add_str(out, "</Key></Object>");
    }
    buf_add_str(out, "</Delete>");
}

void s3_xml_refusal(struct buf *out, const char *code, const char *message)
{
    buf_add_str(out, "<Error><Code>");
    add_escaped(out, code);
    buf_add_str(out, "</Code><Message>");
    add_escaped(out, message);
    buf_add_str(out, "</Message></Error>");
}
