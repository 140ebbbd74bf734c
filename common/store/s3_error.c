#include "common/store/s3_answer.h"

#include <curl/curl.h>
#include <errno.h>

#include "common/base/clk.h"
#include "common/store/s3_class.h"
#include "common/store/s3_trust.h"
#include "common/store/s3_xml.h"

#define KEY_SHOWN 160

static const char *const verb_name[] = {
    [S3_PUT] = "PUT", [S3_GET] = "GET", [S3_LIST] = "LIST", [S3_DELETE] = "DELETE",
    [S3_HEAD] = "HEAD", [S3_DELETES] = "DELETE several beginning with",
    [S3_CREATE] = "begin the upload of", [S3_PART] = "PUT a part of",
    [S3_COMPLETE] = "complete the upload of", [S3_ABORT] = "abort the upload of",
    [S3_UPLOADS] = "LIST the uploads below"};
static const char *const permission[] = {
    [S3_PUT] = "s3:PutObject", [S3_GET] = "s3:GetObject", [S3_LIST] = "s3:ListBucket",
    [S3_DELETE] = "s3:DeleteObject", [S3_HEAD] = "s3:GetObject", [S3_DELETES] = "s3:DeleteObject",
    [S3_CREATE] = "s3:PutObject",
    [S3_PART] = "s3:PutObject", [S3_COMPLETE] = "s3:PutObject",
    [S3_ABORT] = "s3:AbortMultipartUpload", [S3_UPLOADS] = "s3:ListBucketMultipartUploads"};

void s3_answer_reset(struct s3_answer *a)
{
    buf_free(&a->body);
    *a = (struct s3_answer){.content_length = -1};
}

int s3_error_where(const struct s3_target *t, enum s3_verb verb, const char *key, struct err *e)
{
    size_t n = strlen(key);
    const char *shown = n > KEY_SHOWN ? key + n - KEY_SHOWN : key;
    if (t->by_url)
        (void)s3_hint_for_url(t->name, e);
    return err_wrap(e, "%s \"%s%s\" in bucket %s at %s with key id %s", verb_name[verb],
                    shown == key ? "" : "...", shown, t->bucket, t->endpoint, t->cred.key_id);
}

/* ---- no answer: by curl's result ------------------------------------------------------------- */

/* what OpenSSL and curl say about a certificate, in words, and what helps; the first that fits */
enum remedy { TRUST, RENEW, CLOCK, NAME, STRONGER };
static const struct {
    const char *said, *cause;
    enum remedy remedy;
} untrusted[] = {
    {"self-signed certificate in certificate chain", "its CA is not known here", TRUST},
    {"self signed certificate in certificate chain", "its CA is not known here", TRUST},
    {"self-signed", "it is self-signed", TRUST},
    {"self signed", "it is self-signed", TRUST},
    {"unable to get", "its CA is not known here", TRUST},
    {"has expired", "it has expired", RENEW},
    {"not yet valid", "it is not valid yet", CLOCK},
    {"subject name", "it is made out for another name", NAME},
    {"too weak", "its key or its signature is too weak", STRONGER},
    {"invalid CA certificate", "it was signed by what is no CA", STRONGER},
    {"", "it was refused", TRUST},
};

static int hint_certificate(const struct s3_target *t, enum remedy remedy, struct err *e)
{
    switch (remedy) {
    case TRUST:
        return err_hint(e, "if the certificate is your own, write ca-file = /path/of/its/ca.pem in [target %s]; "
                           "skip-verify = yes trusts anybody", t->name);
    case RENEW:
        return err_hint(e, "renew it on the server, or set this machine's clock if that is what is "
                           "wrong (timedatectl)");
    case CLOCK:
        return err_hint(e, "is this machine's clock behind (timedatectl)?");
    case NAME:
        if (t->virtual_host)
            return err_hint(e, "if it names the host without the bucket, write addressing = path in [target %s]",
                            t->name);
        return err_hint(e, "write endpoint with the name that the certificate has in [target %s]", t->name);
    case STRONGER:
        break;
    }
    return err_hint(e, "the server needs another certificate: RSA of 2048 bits or more, or ECDSA, signed with SHA-256");
}

static int tls_untrusted(const struct s3_target *t, const struct s3_answer *a, struct err *e)
{
    size_t i = 0;
    while (!strstr(a->curl_text, untrusted[i].said))
        i++;
    (void)err_set(e, ERR_CONFIG, "the TLS certificate of %s is not trusted, nothing was sent: %s (%s)", t->host,
                  untrusted[i].cause, a->curl_text);
    return hint_certificate(t, untrusted[i].remedy, e);
}

static int tls_failed(const struct s3_target *t, const struct s3_answer *a, struct err *e)
{
    if (strstr(a->curl_text, "wrong version number") || strstr(a->curl_text, "http request")) {
        (void)err_set(e, ERR_CONFIG, "%s does not speak TLS (%s)", t->host, a->curl_text);
        return err_hint(e, "if it is a plain http server, write endpoint = http://... in "
                           "[target %s]",
                        t->name);
    }
    if (strstr(a->curl_text, "unsupported protocol") || strstr(a->curl_text, "protocol version")) {
        (void)err_set(e, ERR_CONFIG, "%s speaks no TLS newer than 1.1, nothing was sent (%s)", t->host, a->curl_text);
        return err_hint(e, "switch on TLS 1.2 or 1.3 on the server: what is older is not safe");
    }
    if (strstr(a->curl_text, "too small") || strstr(a->curl_text, "too weak")) {
        (void)err_set(e, ERR_CONFIG, "the TLS keys of %s are too weak, nothing was sent (%s)", t->host, a->curl_text);
        return hint_certificate(t, STRONGER, e);
    }
    if (strstr(a->curl_text, "SYSCALL") || strstr(a->curl_text, "unexpected eof") ||
        strstr(a->curl_text, "Connection reset"))
        return err_set(e, ERR_NET, "%s ended the connection in the middle of the TLS handshake (%s)", t->host,
                       a->curl_text);
    if (strstr(a->curl_text, "alert")) {
        (void)err_set(e, ERR_CONFIG, "%s refused the TLS handshake (%s)", t->host, a->curl_text);
        return t->client_cert
                   ? err_hint(e, "does the server know the CA of client-certificate %s?", t->client_cert)
                   : err_hint(e, "if it asks for a client certificate, write client-certificate and client-key in "
                                 "[target %s]", t->name);
    }
    return err_set(e, ERR_NET, "TLS with %s failed: %s", t->host, a->curl_text);
}

static int hint_https(const struct s3_target *t, struct err *e)
{
    return err_hint(e, "if the server speaks TLS, write endpoint = https://... in [target %s]",
                    t->name);
}

/* What was wrong with them when they were read; otherwise what curl says. */
static const char *why_of_files(const struct s3_target *t, const struct s3_answer *a)
{
    return t->trust && t->trust->bad == a->curl ? t->trust->why : a->curl_text;
}

static int by_curl(const struct s3_target *t, const struct s3_answer *a, struct err *e)
{
    switch (a->curl) {
    case CURLE_COULDNT_RESOLVE_HOST:
        (void)err_set(e, ERR_NET, "the host %s does not resolve", t->host);
        return t->virtual_host && !t->aws
                   ? err_hint(e, "check endpoint; if the name without the bucket resolves, write "
                                 "addressing = path in [target %s]", t->name)
                   : err_hint(e, "check endpoint%s in [target %s] and this machine's DNS",
                              t->virtual_host ? ", bucket and region" : "", t->name);
    case CURLE_COULDNT_CONNECT:
        if (a->os_errno == ECONNREFUSED) {
            (void)err_set(e, ERR_NET, "nothing listens at %s (connection refused)", t->host);
            return err_hint(e, "is the server running, and are host and port of endpoint right?");
        }
        return err_set(e, ERR_NET, "no connection to %s: %s", t->host,
                       a->os_errno ? strerror((int)a->os_errno) : a->curl_text);
    case CURLE_OPERATION_TIMEDOUT:
        return err_set(e, ERR_TIMEOUT, "no %sconnection to %s within %llu ms",
                       t->https ? "TLS " : "", t->host,
                       (unsigned long long)t->connect_ms);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
        return tls_untrusted(t, a, e);
    case CURLE_SSL_CACERT_BADFILE:
        (void)err_set(e, ERR_CONFIG, "the ca-file %s cannot be used: %s",
                      t->ca_file ? t->ca_file : "", why_of_files(t, a));
        return err_hint(e, "it has to exist, be readable and hold certificates in PEM form");
    case CURLE_SSL_CERTPROBLEM:
        (void)err_set(e, ERR_CONFIG, "client-certificate %s and client-key %s cannot be used: %s",
                      t->client_cert ? t->client_cert : "", t->client_key ? t->client_key : "", why_of_files(t, a));
        return err_hint(e, "both have to be PEM, readable, and belong together; the key must not have a passphrase");
    case CURLE_SSL_CONNECT_ERROR:
        return tls_failed(t, a, e);
    case CURLE_UNSUPPORTED_PROTOCOL: /* "Received HTTP/0.9": that is no HTTP at all */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_GOT_NOTHING:
        (void)err_set(e, ERR_NET, "%s gave no HTTP answer: %s", t->host, a->curl_text);
        return t->https ? -ERR_NET : hint_https(t, e);
    case CURLE_PARTIAL_FILE:
        return err_set(e, ERR_STORE, "the answer broke off after %llu of %lld bytes",
                       (unsigned long long)a->received, (long long)a->content_length);
    default:
        (void)err_set(e, ERR_NET, "%s",
                      a->curl_text[0] ? a->curl_text : curl_easy_strerror((CURLcode)a->curl));
        if (!t->https && !a->status &&
            (a->curl == CURLE_RECV_ERROR || a->curl == CURLE_SEND_ERROR))
            return hint_https(t, e);
        return -ERR_NET;
    }
}

/* ---- an answer: by status, then by code ------------------------------------------------------ */

static enum err_code code_of_status(long status)
{
    switch (status) {
    case 401:
    case 403:
        return ERR_AUTH;
    case 404:
        return ERR_NOTFOUND;
    case 412:
        return ERR_CONFLICT;
    case 416:
        return ERR_CORRUPT;
    case 507:
        return ERR_NOSPC;
    default: /* 1xx and 2xx that were not asked for, 400, 405, 408, 409, 429, 5xx */
        return status >= 300 && status < 400 ? ERR_CONFIG : ERR_STORE;
    }
}

static int hint_clock(const struct s3_answer *a, struct err *e)
{
    int64_t off = a->date_ms ? clk_real_ms() - a->date_ms : 0;
    char text[32];
    if (!off)
        return err_hint(e, "set this machine's clock (timedatectl)");
    return err_hint(e, "this machine's clock is %s %s the server's: set it (timedatectl)",
                    util_duration(text, (uint64_t)(off < 0 ? -off : off)),
                    off < 0 ? "behind" : "ahead of");
}

static int hint_auth(const struct s3_target *t, enum s3_verb verb, const struct s3_answer *a,
                     const char *code, struct err *e)
{
    if (!strcmp(code, "SignatureDoesNotMatch"))
        return err_hint(e, "the secret access key does not belong to key id %s (it came from %s)",
                        t->cred.key_id, t->cred.source);
    if (!strcmp(code, "InvalidAccessKeyId") || !strcmp(code, "InvalidClientTokenId")) {
        if (t->aws)
            return err_hint(e, "Amazon does not know key id %s (it came from %s); if the bucket is "
                               "kept elsewhere, write endpoint = https://... in [target %s]",
                            t->cred.key_id, t->cred.source, t->name);
        return err_hint(e, "key id %s (it came from %s) is not known at %s: check access-key-id "
                           "and endpoint",
                        t->cred.key_id, t->cred.source, t->endpoint);
    }
    if (!strcmp(code, "RequestTimeTooSkewed") || !strcmp(code, "RequestExpired"))
        return hint_clock(a, e);
    if (!strcmp(code, "ExpiredToken") || !strcmp(code, "InvalidToken") ||
        !strcmp(code, "TokenRefreshRequired"))
        return err_hint(e, "the session token is no longer good: get new temporary keys");
    if (!strcmp(code, "AccessDenied"))
        return err_hint(e, "key id %s needs the permission %s on bucket %s%s", t->cred.key_id,
                        permission[verb], t->bucket,
                        t->aws ? "; the bucket may also belong to somebody else" : "");
    return err_hint(e, "check the keys (from %s) and that key id %s has the permission %s on "
                       "bucket %s", t->cred.source, t->cred.key_id, permission[verb], t->bucket);
}

static int hint_redirect(const struct s3_target *t, const struct s3_answer *a,
                         const struct s3_error_doc *doc, struct err *e)
{
    const char *region = a->region[0] ? a->region : doc->region;
    if (region[0] && strcmp(region, t->region))
        return err_hint(e, "the bucket is in region %s: write region = %s in [target %s]", region,
                        region, t->name);
    if (doc->endpoint[0])
        return err_hint(e, "the bucket is at %s: write that as endpoint in [target %s]",
                        doc->endpoint, t->name);
    return err_hint(e, "redirects are never followed, because the request is signed; write the "
                       "right endpoint and region in [target %s]", t->name);
}

static int hint_bucket(const struct s3_target *t, struct err *e)
{
    return err_hint(e, "create the bucket %s at %s, or fix bucket = in [target %s]", t->bucket,
                    t->endpoint, t->name);
}

static void add_hint(const struct s3_target *t, enum s3_verb verb, const struct s3_answer *a,
                     const struct s3_error_doc *doc, struct err *e)
{
    const char *code = doc->code;
    if (a->status >= 300 && a->status < 400)
        (void)hint_redirect(t, a, doc, e);
    else if (e->code == ERR_AUTH)
        (void)hint_auth(t, verb, a, code, e);
    else if (e->code == ERR_CONFIG)
        (void)hint_redirect(t, a, doc, e);
    else if (e->code == ERR_CONFLICT)
        (void)err_hint(e, "another writer may be replicating to this path");
    else if (e->code == ERR_NOSPC)
        (void)err_hint(e, "free space in bucket %s or raise its quota", t->bucket);
    else if (a->status == 400 && strstr(e->msg, "Server Side Encryption"))
        (void)err_hint(e, "if a key of one's own was used for it, write sse = C and sse-customer-key-file = FILE in "
                          "[target %s]", t->name);
    else if ((a->status == 400 || a->status == 501) && t->doubts && (verb == S3_PUT || verb == S3_CREATE))
        (void)err_hint(e, "%s: take it out of [target %s]", t->doubts, t->name);
    else if (!t->https && a->status == 400 && strstr(e->msg, "HTTPS"))
        (void)err_hint(e, "write endpoint = https://... in [target %s]", t->name);
    else if (e->code == ERR_NOTFOUND && !strcmp(code, "NoSuchBucket"))
        (void)hint_bucket(t, e);
    else if (e->code == ERR_NOTFOUND && !code[0] && (verb == S3_LIST || verb == S3_PUT))
        (void)err_hint(e, "there is no bucket %s at %s, or %s is no S3 server: check bucket and "
                          "endpoint in [target %s]", t->bucket, t->endpoint, t->endpoint, t->name);
}

/* what an error body that is not XML says, as one short line */
static void first_text(char *out, size_t cap, const struct buf *body)
{
    size_t n = 0;
    bool tag = false;
    for (size_t i = 0; i < body->len && n + 1 < cap; i++) {
        unsigned char c = body->p[i];
        if (c == '<')
            tag = true;
        else if (c == '>')
            tag = false;
        else if (!tag && (c > 0x20 || (n && out[n - 1] != ' ')))
            out[n++] = (char)(c > 0x20 && c < 0x7f ? c : ' ');
    }
    while (n && out[n - 1] == ' ')
        n--;
    out[n] = '\0';
}

static int by_status(const struct s3_target *t, enum s3_verb verb, const struct s3_answer *a,
                     struct err *e)
{
    struct s3_error_doc doc = {0};
    char text[160] = "";
    enum err_code code = code_of_status(a->status);
    bool xml = s3_xml_error(a->body.p, a->body.len, &doc);
    if (!xml)
        first_text(text, sizeof text, &a->body);
    /* 400 is a class of its own; elsewhere the code only refines what the status says */
    if (a->status == 400 || a->status == 403) {
        if (strstr(doc.code, "Token") || !strncmp(doc.code, "RequestTimeTooSkewed", 20) ||
            !strcmp(doc.code, "InvalidAccessKeyId"))
            code = ERR_AUTH;
        else if (!strcmp(doc.code, "AuthorizationHeaderMalformed") ||
                 !strcmp(doc.code, "InvalidBucketName") ||
                 !strcmp(doc.code, "IllegalLocationConstraintException"))
            code = ERR_CONFIG;
        else if (strstr(doc.code, "Quota"))
            code = ERR_NOSPC;
    }
    const char *id = a->request_id[0] ? a->request_id : doc.request_id;
    const char *said = xml ? doc.message : text;
    (void)err_set(e, code, "%ld%s%s%s%s%s%s%s%s%s", a->status, doc.code[0] ? " " : "", doc.code,
                  said[0] ? ", \"" : "", said, said[0] ? "\"" : "",
                  a->location[0] ? ", redirect to " : "", a->location,
                  id[0] ? ", request id " : "", id);
    add_hint(t, verb, a, &doc, e);
    return -(int)e->code;
}

int s3_error(const struct s3_target *t, enum s3_verb verb, const char *key,
             const struct s3_answer *a, struct err *e)
{
    /* a refusal that came before the end of the upload, or whose body broke off, is a refusal */
    if (a->status >= 300)
        (void)by_status(t, verb, a, e);
    else if (a->curl != CURLE_OK)
        (void)by_curl(t, a, e);
    else
        (void)by_status(t, verb, a, e);
    e->retry = (uint8_t)s3_class(a, a->code);
    e->retained = (verb == S3_DELETE || verb == S3_DELETES) && s3_is_retained(a, e->msg);
    if (e->retained)
        (void)err_hint(e, "Object Lock, or a retention rule of bucket %s, keeps it for now",
                       t->bucket);
    e->after_ms = (uint32_t)a->retry_after_ms;
    return s3_error_where(t, verb, key, e);
}

/* The status of the answer was 200: what would it have been for this key alone? */
static long status_of_key(const char *code)
{
    static const struct {
        const char *code;
        long status;
    } known[] = {
        {"AccessDenied", 403}, {"InternalError", 500}, {"SlowDown", 503}, {"ServiceUnavailable", 503},
        {"MethodNotAllowed", 405}, {"NotImplemented", 501}, {"ObjectLocked", 403},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (!strcmp(known[i].code, code))
            return known[i].status;
    }
    return 500;
}

int s3_error_of_key(const struct s3_target *t, const char *key, const char *code, const char *message, struct err *e)
{
    struct s3_answer a = {.content_length = -1};
    if (!code) {
        (void)err_set(e, ERR_STORE, "the answer does not say whether it was deleted");
        e->retry = RETRY_BACKOFF;
        return s3_error_where(t, S3_DELETE, key, e);
    }
    a.status = status_of_key(code);
    (void)snprintf(a.code, sizeof a.code, "%s", code);
    s3_xml_refusal(&a.body, code, message ? message : "");
    (void)s3_error(t, S3_DELETE, key, &a, e);
    buf_free(&a.body);
    return -(int)e->code;
}
