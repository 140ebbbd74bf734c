/* Whom TLS trusts, and the client's own certificate, as they are in their files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/util.h"
#include "common/store/s3_trust.h"

static char dir[] = "/tmp/walsup-trustXXXXXX";
static char *pem, *text, *hashed, *beside, *empty_dir;
static struct s3_target t;

static void write_certificate(const char *path, int serial)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    assert_true(key && x);
    X509_NAME *name = X509_get_subject_name(x);
    (void)ASN1_INTEGER_set(X509_get_serialNumber(x), serial);
    (void)X509_gmtime_adj(X509_getm_notBefore(x), 0);
    (void)X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    (void)X509_set_pubkey(x, key);
    (void)X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)path, -1, -1, 0);
    (void)X509_set_issuer_name(x, name);
    assert_true(X509_sign(x, key, EVP_sha256()) > 0);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_X509(f, x), 1);
    assert_int_equal(fclose(f), 0);
    X509_free(x);
    EVP_PKEY_free(key);
}

static int roots(const struct s3_trust *x)
{
    STACK_OF(X509_OBJECT) *all = X509_STORE_get0_objects(x->roots);
    return sk_X509_OBJECT_num(all);
}

static int setup(void **state)
{
    (void)state;
    t = (struct s3_target){.https = true};
    return 0;
}

static void a_ca_file_replaces_the_systems_store(void **state)
{
    (void)state;
    t.ca_file = pem;
    struct s3_trust *x = s3_trust_read(&t);
    assert_int_equal(x->bad, 0);
    assert_int_equal(roots(x), 1);
    s3_trust_free(x);
}

static void without_one_the_systems_store_is_read(void **state)
{
    (void)state;
    const char *system = curl_version_info(CURLVERSION_NOW)->cainfo;
    struct s3_trust *x = s3_trust_read(&t);
    assert_int_equal(x->bad, 0);
    if (system && access(system, R_OK) == 0)
        assert_true(roots(x) > 1);
    s3_trust_free(x);
}

static void a_ca_file_that_cannot_be_used_says_why(void **state)
{
    (void)state;
    cleanup_free char *missing = util_printf("%s/missing.pem", dir);
    t.ca_file = missing;
    struct s3_trust *x = s3_trust_read(&t);
    assert_int_equal(x->bad, CURLE_SSL_CACERT_BADFILE);
    assert_string_equal(x->why, "No such file or directory");
    s3_trust_free(x);
    t.ca_file = text;
    x = s3_trust_read(&t);
    assert_int_equal(x->bad, CURLE_SSL_CACERT_BADFILE);
    assert_string_equal(x->why, "there is no certificate in it");
    s3_trust_free(x);
}

static void of_a_directory_only_what_has_a_hash_for_a_name(void **state)
{
    (void)state;
    t.ca_path = dir; /* ca.pem, beside.pem, 0123abcd.0 and a text called 0123abcd.1 */
    struct s3_trust *x = s3_trust_read(&t);
    assert_int_equal(x->bad, 0);
    assert_int_equal(roots(x), 1);
    s3_trust_free(x);
    t.ca_path = empty_dir; /* nothing is trusted, the handshake will tell */
    x = s3_trust_read(&t);
    assert_int_equal(x->bad, 0);
    assert_int_equal(roots(x), 0);
    s3_trust_free(x);
}

static void the_clients_certificate_and_key(void **state)
{
    (void)state;
    t.ca_file = t.client_cert = pem;
    struct s3_trust *x = s3_trust_read(&t);
    assert_int_equal(x->bad, 0);
    assert_true(x->cert_len > 100 && x->key_len == x->cert_len); /* both are in one file */
    assert_memory_equal(x->cert, "-----BEGIN CERTIFICATE-----", 27);
    s3_trust_free(x);
    cleanup_free char *missing = util_printf("%s/key.pem", dir);
    t.client_key = missing;
    x = s3_trust_read(&t);
    assert_int_equal(x->bad, CURLE_SSL_CERTPROBLEM);
    assert_non_null(strstr(x->why, "key.pem"));
    s3_trust_free(x);
}

static void nobody_is_verified_with_skip_verify_and_over_plain_http(void **state)
{
    (void)state;
    t.skip_verify = true;
    t.ca_file = text; /* would be useless */
    struct s3_trust *x = s3_trust_read(&t);
    assert_null(x->roots);
    assert_int_equal(x->bad, 0);
    s3_trust_free(x);
    t.skip_verify = t.https = false;
    x = s3_trust_read(&t);
    assert_null(x->roots);
    s3_trust_free(x);
    s3_trust_free(NULL);
}

static int make_files(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    pem = util_printf("%s/ca.pem", dir);
    beside = util_printf("%s/beside.pem", dir);
    hashed = util_printf("%s/0123abcd.0", dir);
    text = util_printf("%s/0123abcd.1", dir);
    empty_dir = util_printf("%s/nowhere", dir);
    write_certificate(pem, 1);
    write_certificate(beside, 2);
    write_certificate(hashed, 3);
    FILE *f = fopen(text, "w");
    return !f || fputs("no certificate\n", f) < 0 || fclose(f) != 0;
}

static int remove_files(void **state)
{
    (void)state;
    char **const all[] = {&pem, &beside, &hashed, &text, &empty_dir};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        (void)unlink(*all[i]);
        free(*all[i]);
    }
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_ca_file_replaces_the_systems_store, setup),
        cmocka_unit_test_setup(without_one_the_systems_store_is_read, setup),
        cmocka_unit_test_setup(a_ca_file_that_cannot_be_used_says_why, setup),
        cmocka_unit_test_setup(of_a_directory_only_what_has_a_hash_for_a_name, setup),
        cmocka_unit_test_setup(the_clients_certificate_and_key, setup),
        cmocka_unit_test_setup(nobody_is_verified_with_skip_verify_and_over_plain_http, setup),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
