#include "daemon/os/ending.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "common/base/clk.h"
#include "common/base/log.h"

#define STILL_MS 5000 /* nothing was closed for so long */
#define LOOK_MS 100

static atomic_uint moved;
static int exit_status;

/* A thread of its own, because the loop may be the one that hangs, or exit(), which waits for libuv's threads. */
static void *watch(void *arg)
{
    unsigned seen = atomic_load(&moved);
    uint64_t since = clk_mono_ms();
    (void)arg;
    while (clk_mono_ms() < since + STILL_MS) {
        clk_pause_us(LOOK_MS * 1000L);
        unsigned now = atomic_load(&moved);
        since = now != seen ? clk_mono_ms() : since;
        seen = now;
    }
    log_line(LOG_WARN, "stopped without waiting any longer: a file system does not answer");
    _exit(exit_status);
}

void ending_begin(int status)
{
    pthread_t t;
    exit_status = status;
    if (pthread_create(&t, NULL, watch, NULL) == 0)
        (void)pthread_detach(t);
}

void ending_moved(void)
{
    (void)atomic_fetch_add(&moved, 1);
}
