#include "common/store/s3_log.h"

#include <stdatomic.h>

#include "common/base/log.h"

static atomic_bool wanted;

void s3_log_requests(bool on)
{
    atomic_store(&wanted, on);
}

void s3_log_request(const struct s3_target *t, enum s3_verb verb, const char *key,
                    const struct s3_answer *a, uint64_t ms)
{
    static const char *const what[] = {
        [S3_PUT] = "PUT",       [S3_GET] = "GET",        [S3_LIST] = "LIST",
        [S3_DELETE] = "DELETE", [S3_HEAD] = "HEAD",      [S3_DELETES] = "DELETES",
        [S3_CREATE] = "CREATE", [S3_PART] = "PART",      [S3_COMPLETE] = "COMPLETE",
        [S3_ABORT] = "ABORT",   [S3_UPLOADS] = "UPLOADS"};
    char status[32];
    if (!atomic_load(&wanted))
        return;
    (void)snprintf(status, sizeof status, a->status ? "%ld" : "no answer", (long)a->status);
    log_line(LOG_INFO, "request: %s \"%s\" in %s at %s: %s, %llu ms",
             (size_t)verb < ARRAY_LEN(what) && what[verb] ? what[verb] : "?", key ? key : "",
             t->bucket, t->endpoint, status, (unsigned long long)ms);
}
