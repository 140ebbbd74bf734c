/* s3_peer.h - what the first connection to a target's server was like, for those who have to find out why
 * nothing works. Knows libcurl and OpenSSL. Loop thread. */
#ifndef WALSUP_S3_PEER_H
#define WALSUP_S3_PEER_H

#include <curl/curl.h>

#include "common/store/s3_answer.h"
#include "common/store/store.h"

/** s3_peer_connected(fd, peer): to be called whenever curl waits for something else on the socket:
 * if it is connected, to which address, once. */
void s3_peer_connected(int fd, struct store_peer *peer);
/** s3_peer_secured(easy, peer): to be called while the connection is up: version and certificate of its TLS,
 * once. */
void s3_peer_secured(CURL *easy, struct store_peer *peer);
/** s3_peer_ended(easy, curl, a, peer): a transfer has ended, with that result of curl's: how far it came, as
 * long as none has come to an answer; and what was answered. a->date_ms is the server's clock now. */
void s3_peer_ended(CURL *easy, CURLcode curl, const struct s3_answer *a, struct store_peer *peer);

#endif
