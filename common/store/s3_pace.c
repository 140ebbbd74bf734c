#include "common/store/s3_pace.h"

#define TOKENS_MAX 50.0
#define TOKENS_A_SECOND 2.0
#define TOKENS_A_SUCCESS 0.5
#define HOLD_MAX_MS 300000
#define GAP_FIRST_MS 50.0
#define GAP_MAX_MS 1000.0 /* recovered from by 16 s of successes */
#define GAP_LEAST_MS 10.0 /* less is none */
#define GAP_A_SUCCESS (15.0 / 16)

void s3_pace_init(struct s3_pace *p, unsigned max, uint64_t now_ms)
{
    *p = (struct s3_pace){.max = max, .limit = max, .tokens = TOKENS_MAX, .refilled_ms = now_ms};
}

static void refill(struct s3_pace *p, uint64_t now_ms)
{
    p->tokens += (double)(now_ms - p->refilled_ms) / 1000 * TOKENS_A_SECOND;
    p->tokens = MIN(p->tokens, TOKENS_MAX);
    p->refilled_ms = now_ms;
}

uint64_t s3_pace_wait(struct s3_pace *p, unsigned running, uint64_t now_ms)
{
    if (now_ms < p->hold_until_ms)
        return p->hold_until_ms - now_ms;
    if (running >= p->limit)
        return UINT64_MAX;
    if (now_ms < p->next_ms)
        return p->next_ms - now_ms;
    if (!p->trouble) {
        p->next_ms = now_ms + (uint64_t)p->gap_ms;
        return 0;
    }
    refill(p, now_ms);
    if (p->tokens < 1)
        return (uint64_t)((1 - p->tokens) * 1000 / TOKENS_A_SECOND) + 1;
    p->tokens -= 1;
    p->next_ms = now_ms + (uint64_t)p->gap_ms;
    return 0;
}

void s3_pace_ok(struct s3_pace *p, uint64_t started_ms)
{
    if (started_ms >= p->failed_ms) {
        p->trouble = false;
        p->hold_until_ms = 0;
    }
    p->gap_ms = p->gap_ms < GAP_LEAST_MS ? 0 : p->gap_ms * GAP_A_SUCCESS;
    p->tokens = MIN(p->tokens + TOKENS_A_SUCCESS, TOKENS_MAX);
    if (p->limit < p->max && ++p->successes >= p->limit) {
        p->successes = 0;
        p->limit++;
    }
}

void s3_pace_failed(struct s3_pace *p, enum retry_class class, uint64_t after_ms,
                    uint64_t started_ms, uint64_t now_ms)
{
    if (class != RETRY_SLOW && class != RETRY_BACKOFF && class != RETRY_PARK &&
        class != RETRY_RESIGN)
        return;
    refill(p, now_ms);
    p->trouble = true;
    p->failed_ms = now_ms;
    if (after_ms)
        p->hold_until_ms = MAX(p->hold_until_ms, now_ms + MIN(after_ms, (uint64_t)HOLD_MAX_MS));
    /* answers to what was sent before the last cut say nothing about the rate since */
    if (class == RETRY_SLOW && started_ms >= p->halved_ms) {
        p->limit = MAX(p->limit / 2, 1u);
        p->successes = 0;
        p->halved_ms = now_ms;
        p->gap_ms = MIN(MAX(p->gap_ms * 2, GAP_FIRST_MS), GAP_MAX_MS);
        p->next_ms = MAX(p->next_ms, now_ms + (uint64_t)p->gap_ms);
    }
}
