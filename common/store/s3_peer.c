#include "common/store/s3_peer.h"

#include <netdb.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <time.h>

#include "common/base/clk.h"
#include "common/store/s3_wrap.h"

static void issuer_name(X509 *cert, char *out, size_t cap)
{
    static const int part[] = {NID_organizationName, NID_commonName};
    const X509_NAME *name = X509_get_issuer_name(cert);
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        unsigned char *text = NULL;
        int at = X509_NAME_get_index_by_NID(name, part[i], -1);
        X509_NAME_ENTRY *entry = at < 0 ? NULL : X509_NAME_get_entry(name, at);
        if (!entry || ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(entry)) < 0)
            continue;
        (void)snprintf(out + n, cap - n, "%s%s", n ? " " : "", (const char *)text);
        n = strlen(out);
        OPENSSL_free(text);
    }
}

void s3_peer_secured(CURL *easy, struct store_peer *peer)
{
    struct curl_tlssessioninfo *info = NULL;
    struct tm tm;
    if (peer->tls[0] ||
        __real_curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &info) != CURLE_OK || !info ||
        info->backend != CURLSSLBACKEND_OPENSSL || !info->internals)
        return;
    const SSL *ssl = info->internals;
    (void)snprintf(peer->tls, sizeof peer->tls, "%s", SSL_get_version(ssl));
    X509 *cert = SSL_get1_peer_certificate(ssl);
    if (!cert)
        return;
    issuer_name(cert, peer->issuer, sizeof peer->issuer);
    if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) == 1)
        peer->expires_ms = (int64_t)timegm(&tm) * 1000;
    X509_free(cert);
}

void s3_peer_connected(int fd, struct store_peer *peer)
{
    struct sockaddr_storage a = {.ss_family = AF_UNSPEC};
    socklen_t n = sizeof a;
    char host[64], port[16];
    if (peer->address[0] || getpeername(fd, (struct sockaddr *)&a, &n) < 0 ||
        (a.ss_family != AF_INET && a.ss_family != AF_INET6) || /* curl's own, of the thread that resolves the name */
        getnameinfo((struct sockaddr *)&a, n, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV))
        return;
    (void)snprintf(peer->address, sizeof peer->address, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    peer->stage = MAX(peer->stage, STORE_CONNECTED);
}

static uint64_t time_of(CURL *easy, CURLINFO what)
{
    curl_off_t us = 0;
    (void)__real_curl_easy_getinfo(easy, what, &us);
    return us > 0 ? (uint64_t)us : 0;
}

static bool is_of_tls(CURLcode curl)
{
    return curl == CURLE_SSL_CONNECT_ERROR || curl == CURLE_PEER_FAILED_VERIFICATION ||
           curl == CURLE_SSL_ISSUER_ERROR || curl == CURLE_SSL_CACERT_BADFILE ||
           curl == CURLE_SSL_CERTPROBLEM;
}

static void how_far(CURL *easy, CURLcode curl, struct store_peer *peer)
{
    char *address = NULL;
    long port = 0, local = 0;
    uint64_t resolved = time_of(easy, CURLINFO_NAMELOOKUP_TIME_T);
    uint64_t connected = time_of(easy, CURLINFO_CONNECT_TIME_T);
    uint64_t secured = time_of(easy, CURLINFO_APPCONNECT_TIME_T);
    if (curl == CURLE_COULDNT_RESOLVE_HOST || curl == CURLE_COULDNT_RESOLVE_PROXY)
        return;
    (void)__real_curl_easy_getinfo(easy, CURLINFO_PRIMARY_IP, &address);
    (void)__real_curl_easy_getinfo(easy, CURLINFO_PRIMARY_PORT, &port);
    if (address && address[0])
        (void)snprintf(peer->address, sizeof peer->address,
                       strchr(address, ':') ? "[%s]:%ld" : "%s:%ld", address, port);
    (void)__real_curl_easy_getinfo(easy, CURLINFO_LOCAL_PORT, &local);
    /* curl notes when it was connected only at the end of a TLS handshake, newer versions also where to */
    bool there = peer->stage == STORE_CONNECTED || connected || local > 0 || is_of_tls(curl);
    peer->stage = secured ? STORE_SECURED : there ? STORE_CONNECTED : STORE_RESOLVED;
    peer->resolve_ms = resolved / 1000;
    peer->connect_ms = (connected - MIN(connected, resolved)) / 1000;
    peer->tls_ms = (secured - MIN(secured, connected)) / 1000;
}

void s3_peer_ended(CURL *easy, CURLcode curl, const struct s3_answer *a, struct store_peer *peer)
{
    if (peer->stage != STORE_ANSWERED)
        how_far(easy, curl, peer);
    if (!a->status)
        return;
    peer->stage = STORE_ANSWERED;
    if (a->date_ms) {
        peer->has_clock = true; /* it tells whole seconds: on average half of one has passed */
        peer->clock_offset_ms = a->date_ms + 500 - clk_real_ms();
    }
}
