#include "common/store/s3_sse.h"

#include <errno.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include "common/base/fsx.h"

#define KEY_BYTES 32
#define FILE_MAX_BYTES 128

static int nibble(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static bool from_hex(const char *s, size_t n, unsigned char out[KEY_BYTES])
{
    if (n != (size_t)KEY_BYTES * 2)
        return false;
    for (size_t i = 0; i < KEY_BYTES; i++) {
        int high = nibble(s[2 * i]), low = nibble(s[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

static bool from_base64(const char *s, size_t n, unsigned char out[KEY_BYTES])
{
    unsigned char all[KEY_BYTES + 4];
    if (n != 44 || s[43] != '=' || s[42] == '=')
        return false;
    bool ok = EVP_DecodeBlock(all, (const unsigned char *)s, (int)n) == KEY_BYTES + 1;
    memcpy(out, all, KEY_BYTES);
    explicit_bzero(all, sizeof all);
    return ok;
}

static bool decode(const struct buf *b, unsigned char out[KEY_BYTES])
{
    const char *s = (const char *)b->p;
    size_t n = b->len;
    if (n == KEY_BYTES) {
        memcpy(out, s, n);
        return true;
    }
    while (n && (s[n - 1] == '\n' || s[n - 1] == '\r'))
        n--;
    return from_hex(s, n, out) || from_base64(s, n, out);
}

static int private_file(const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_sys(e, errno, "%s", path);
    mode_t mode = st.st_mode & 0777;
    if (!(mode & (S_IRWXO | S_IRWXG)) || (st.st_uid == 0 && !(mode & ~0640u))) /* root:walsup, as for secrets */
        return 0;
    (void)err_set(e, ERR_CONFIG, "%s holds a key, but others may read or change it (mode %04o)", path,
                  (unsigned)(st.st_mode & 07777));
    return err_hint(e, "chmod 600 %s", path);
}

int s3_sse_load(const char *path, struct s3_customer_key *ret, struct err *e)
{
    cleanup_wiped_buf struct buf b = BUF_INIT;
    unsigned char key[KEY_BYTES], md[EVP_MAX_MD_SIZE];
    if (private_file(path, e) < 0 || fsx_read(path, FILE_MAX_BYTES, &b, e) < 0)
        return err_wrap(e, "sse-customer-key-file");
    if (!decode(&b, key)) {
        (void)err_set(e, ERR_CONFIG, "sse-customer-key-file %s holds no key of 256 bits", path);
        return err_hint(e, "it has to be 32 bytes, or these in base64 or hex: openssl rand -base64 32 > %s", path);
    }
    char text[48];
    int n = EVP_EncodeBlock((unsigned char *)text, key, KEY_BYTES);
    bool ok = EVP_Digest(key, KEY_BYTES, md, NULL, EVP_md5(), NULL) == 1;
    explicit_bzero(key, sizeof key);
    struct secret *s = secret_new(text, (size_t)n);
    explicit_bzero(text, sizeof text);
    if (!ok) {
        secret_free(s);
        return err_set(e, ERR_UNSUPPORTED, "sse = C needs MD5, which is not allowed on this machine");
    }
    ret->key = s;
    (void)EVP_EncodeBlock((unsigned char *)ret->md5, md, 16);
    return 0;
}
