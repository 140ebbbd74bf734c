/* s3_log.h - a line for each request, for whoever wants to see them: log-requests = yes. Method, key, outcome, time;
 * nothing that is secret is at hand here. Any thread switches, the loop thread logs. */
#ifndef WALSUP_S3_LOG_H
#define WALSUP_S3_LOG_H

#include "common/store/s3_answer.h"

/** s3_log_requests(on): off at the start. */
void s3_log_requests(bool on);
/** s3_log_request(t, verb, key, a, ms): it is over. */
void s3_log_request(const struct s3_target *t, enum s3_verb verb, const char *key,
                    const struct s3_answer *a, uint64_t ms);

#endif
