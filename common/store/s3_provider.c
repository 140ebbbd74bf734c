#include "common/store/s3_provider.h"

#include <strings.h>

#define DEFAULT_REGION "us-east-1"
#define S3_ (1u << CONF_SSE_AES256)
#define KMS_ (1u << CONF_SSE_KMS)
#define C_ (1u << CONF_SSE_C)

/* In the order of enum conf_provider. [tried]: by tests of this project against the real server.
 * [documented]: by the provider, in its list of what it has of S3. A number: an issue of
 * Litestream, which met it. rclone: its table of providers. [said]: by somebody else who met it.
 * Nothing else is in here.
 *
 * AWS: conditional writes on PutObject and CompleteMultipartUpload since August 2024; its
 * certificate covers buckets in the host name; sse = C has to be allowed for a bucket that was made
 * since April 2026 [documented]. MinIO: [tried], by hand sse = C as well. Ceph RGW: [tried]
 * If-None-Match: * is obeyed on PUT, and ignored on CompleteMultipartUpload; every <Message> is
 * empty; sse = C, which it refuses without TLS unless it is told otherwise. R2: region auto, for
 * which us-east-1 is another name; all parts of an upload of one size but the last; SSE-C and no
 * other kind; STANDARD and STANDARD_IA [documented]; two or three parts of an upload at a time
 * (#948); refuses aws-chunked and x-amz-checksum (#947); obeys If-None-Match [said]. B2: only TLS,
 * only signature 4, region in the host name; SSE-B2 and SSE-C [documented]; refuses x-amz-checksum
 * (#918). Of If-None-Match some say that it is obeyed and some that it is answered with 501: it has
 * to be asked. Hetzner: of the kinds of encryption only SSE-C [documented]; wants signed payloads
 * (Litestream). Scaleway: If-None-Match, SSE-C [documented]; at most 1000 parts; STANDARD and
 * ONEZONE_IA besides GLACIER (rclone); wants Content-Length (#912). DigitalOcean: SSE-C and no
 * other kind [documented]; obeys If-None-Match [said]. Tigris: region auto; X-Tigris-Consistent:
 * true for reads and conditions at the leader; no encryption but with keys of its own; the classes
 * [documented]; DeleteObjects without Content-MD5 (Litestream). GCS: preconditions on PUT by
 * generation, so If-None-Match has to be asked [documented]; signatures must not cover
 *   Accept-Encoding (#1394); DeleteObjects is new there, and was 400 before; 404 to the deletion of
 * what is not there [said]. Supabase: path style below /storage/v1/s3; neither storage classes nor
 * encryption nor conditions on PUT, but ListObjects and DeleteObjects [documented]. */
static const struct s3_provider table[] = {
    {.key = "auto", .title = ""},
    {.key = "generic", .title = "S3", .sse = S3_ | KMS_ | C_},
    {.key = "aws", .title = "Amazon S3", .hosts = {".amazonaws.com", ".amazonaws.com.cn"}, .virtual_host = true,
     .region_label = 2, .condition = true, .sse = S3_ | KMS_ | C_,
     .classes = "STANDARD STANDARD_IA ONEZONE_IA INTELLIGENT_TIERING REDUCED_REDUNDANCY GLACIER_IR EXPRESS_ONEZONE"},
    {.key = "minio", .title = "MinIO", .hosts = {".min.io"}, .condition = true, .sse = S3_ | KMS_ | C_,
     .classes = "STANDARD REDUCED_REDUNDANCY"},
    {.key = "ceph", .title = "Ceph RGW", .condition = true, .sse = S3_ | KMS_ | C_},
    {.key = "r2", .title = "Cloudflare R2", .hosts = {".r2.cloudflarestorage.com"}, .region = "auto", .condition = true,
     .parallel_parts = 2, .sse = C_, .classes = "STANDARD STANDARD_IA"},
    {.key = "b2", .title = "Backblaze B2", .hosts = {".backblazeb2.com"}, .region_label = 2, .sse = S3_ | C_,
     .classes = "STANDARD"},
    {.key = "hetzner", .title = "Hetzner Object Storage", .hosts = {".your-objectstorage.com"}, .region_label = 1,
     .sse = C_, .classes = "STANDARD"},
    {.key = "scaleway", .title = "Scaleway Object Storage", .hosts = {".scw.cloud"}, .region_label = 2,
     .condition = true, .max_parts = 1000, .sse = C_, .classes = "STANDARD ONEZONE_IA"},
    {.key = "digitalocean", .title = "DigitalOcean Spaces", .hosts = {".digitaloceanspaces.com"}, .region_label = 1,
     .condition = true, .sse = C_, .classes = "STANDARD"},
    {.key = "tigris", .title = "Tigris", .hosts = {".tigris.dev", ".storage.dev"}, .region = "auto", .condition = true,
     .digest = S3_DIGEST_SHA256, .classes = "STANDARD STANDARD_IA GLACIER_IR",
     .header = "x-tigris-consistent", .header_value = "true"},
    {.key = "gcs", .title = "Google Cloud Storage", .hosts = {"storage.googleapis.com", ".storage.googleapis.com"},
     .region = "auto", .sse = 0, .classes = "STANDARD NEARLINE COLDLINE ARCHIVE"},
    {.key = "supabase", .title = "Supabase Storage", .hosts = {".supabase.co"}, .base = CONF_SUPABASE_BASE, .sse = 0,
     .classes = ""},
};

/* the host of scheme://host[:port][/base], without port */
static const char *host_of(const char *endpoint, size_t *ret_n)
{
    const char *sep = endpoint ? strstr(endpoint, "://") : NULL;
    const char *host = sep ? sep + 3 : "";
    *ret_n = strcspn(host, ":/");
    return host;
}

static bool matches(const char *pattern, const char *host, size_t n)
{
    size_t want = strlen(pattern);
    if (pattern[0] != '.')
        return n == want && !strncasecmp(host, pattern, n);
    return n > want && !strncasecmp(host + n - want, pattern, want);
}

const struct s3_provider *s3_provider_find(enum conf_provider id, const char *endpoint)
{
    size_t n;
    const char *host = host_of(endpoint, &n);
    if (id != CONF_PROVIDER_AUTO)
        return &table[id];
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        for (size_t j = 0; j < ARRAY_LEN(table[i].hosts) && table[i].hosts[j]; j++) {
            if (matches(table[i].hosts[j], host, n))
                return &table[i];
        }
    }
    if (host[0] && strstr(host, CONF_SUPABASE_BASE)) /* on one's own server */
        return &table[CONF_PROVIDER_SUPABASE];
    return &table[CONF_PROVIDER_GENERIC];
}

/* s3.eu-central-1.amazonaws.com: label 2 of a name that has one more in front of its suffix */
static char *label_of(const struct s3_provider *p, const char *host)
{
    size_t n = strcspn(host, ":/");
    const char *at = host;
    bool ours = false;
    for (size_t j = 0; j < ARRAY_LEN(p->hosts) && p->hosts[j]; j++)
        ours |= matches(p->hosts[j], host, n);
    for (int i = 1; ours && i < p->region_label; i++) {
        at += strcspn(at, ".");
        at += *at == '.';
    }
    size_t len = strcspn(at, ".:/");
    char *label = ours && len ? strndup(at, len) : NULL;
    cleanup_free char *rest = label ? util_printf("%.*s", (int)(n - (size_t)(at - host) - len), at + len) : NULL;
    for (size_t j = 0; rest && j < ARRAY_LEN(p->hosts) && p->hosts[j]; j++) {
        if (!strcasecmp(rest, p->hosts[j]))
            return label;
    }
    free(label);
    return NULL;
}

char *s3_provider_region(const struct s3_provider *p, const char *host, const char *configured)
{
    if (configured && *configured && strcmp(configured, DEFAULT_REGION) != 0)
        return util_strdup(configured);
    char *label = p->region_label ? label_of(p, host) : NULL;
    return label ? label : util_strdup(p->region ? p->region : DEFAULT_REGION);
}

/* a word of a list that is separated by spaces */
static bool listed(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += n) {
        if ((at == list || at[-1] == ' ') && (!at[n] || at[n] == ' '))
            return true;
    }
    return false;
}

bool s3_provider_doubts(const struct s3_provider *p, const struct conf_target *c, struct buf *out)
{
    static const char *const sse[] = {"off", "AES256", "aws:kms", "C"};
    if (c->sse != CONF_SSE_OFF && !(p->sse & 1u << c->sse))
        buf_printf(out, "sse = %s", sse[c->sse]);
    if (c->storage_class && *c->storage_class && p->classes && !listed(p->classes, c->storage_class))
        buf_printf(out, "%sstorage-class = %s", out->len ? " and " : "", c->storage_class);
    if (out->len)
        buf_printf(out, " is nothing that %s is known to have", p->title);
    return out->len > 0;
}
