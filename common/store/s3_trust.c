#include "common/store/s3_trust.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <openssl/err.h>
#include <unistd.h>

#include "common/base/fsx.h"

#define PEM_MAX_BYTES ((size_t)1 << 20)
#define HASH_DIGITS 8u

static void bad(struct s3_trust *x, int curl, const char *why)
{
    x->bad = curl;
    (void)snprintf(x->why, sizeof x->why, "%s", why);
}

/* ---- roots ------------------------------------------------------------------------------------- */

static bool load_file(struct s3_trust *x, const char *path)
{
    bool ok = X509_STORE_load_file(x->roots, path) == 1;
    ERR_clear_error();
    return ok;
}

/* As `openssl rehash` names them. */
static bool is_hash(const char *name)
{
    size_t n = strspn(name, "0123456789abcdef");
    return n == HASH_DIGITS && name[n] == '.' && isdigit((unsigned char)name[n + 1]) &&
           !name[n + 1 + strspn(name + n + 1, "0123456789")];
}

struct hashed {
    struct s3_trust *x;
    const char *dir;
};

static int load_hashed(const char *name, void *arg)
{
    const struct hashed *h = arg;
    cleanup_free char *path = util_printf("%s/%s", h->dir, name);
    if (is_hash(name))
        (void)load_file(h->x, path);
    return 0;
}

/* OpenSSL would look into it during the handshake, for the one it needs. */
static void load_dir(struct s3_trust *x, const char *dir)
{
    struct hashed h = {x, dir};
    (void)fsx_list(dir, load_hashed, &h, NULL);
}

static void read_roots(struct s3_trust *x, const struct s3_target *t)
{
    const curl_version_info_data *v = curl_version_info(CURLVERSION_NOW);
    bool own = t->ca_file || t->ca_path;
    const char *file = own ? t->ca_file : v->cainfo, *dir = own ? t->ca_path : v->capath;
    x->roots = X509_STORE_new();
    if (!x->roots) {
        bad(x, CURLE_OUT_OF_MEMORY, "no memory for certificates");
        return;
    }
    if (file && !load_file(x, file) && own)
        bad(x, CURLE_SSL_CACERT_BADFILE, access(file, R_OK) < 0 ? strerror(errno) : "there is no certificate in it");
    if (dir)
        load_dir(x, dir);
}

/* ---- the client's own -------------------------------------------------------------------------- */

static void read_pem(struct s3_trust *x, const char *path, uint8_t **ret, size_t *ret_len)
{
    cleanup_wiped_buf struct buf b = BUF_INIT;
    struct err e;
    if (fsx_read(path, PEM_MAX_BYTES, &b, &e) < 0) {
        bad(x, CURLE_SSL_CERTPROBLEM, e.msg);
        return;
    }
    *ret = util_alloc(b.len + 1);
    memcpy(*ret, b.p, b.len);
    *ret_len = b.len;
}

struct s3_trust *s3_trust_read(const struct s3_target *t)
{
    struct s3_trust *x = util_zalloc(sizeof *x);
    if (!t->https)
        return x;
    if (!t->skip_verify)
        read_roots(x, t);
    if (t->client_cert) {
        read_pem(x, t->client_cert, &x->cert, &x->cert_len);
        read_pem(x, t->client_key ? t->client_key : t->client_cert, &x->key, &x->key_len);
    }
    return x;
}

void s3_trust_free(struct s3_trust *x)
{
    if (!x)
        return;
    X509_STORE_free(x->roots);
    if (x->key)
        explicit_bzero(x->key, x->key_len);
    free(x->cert);
    free(x->key);
    free(x);
}
