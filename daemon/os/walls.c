#include "daemon/os/walls.h"

#include "common/base/clk.h"
#include "common/base/fsx.h"
#include "common/format/crc64.h"

#define MOUNTS_BYTES (4u << 20)
#define FRESH_MS 10000

static struct buf mounts = BUF_INIT; /* the places of the mounts, a NUL byte after each */
static uint64_t read_ms;

/* "\040" is a space. In place; its new length. */
static size_t unescape(char *s)
{
    char *to = s;
    for (const char *p = s; *p; p++) {
        bool octal = p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' &&
                     p[3] >= '0' && p[3] <= '7';
        unsigned code = octal ? ((unsigned)(p[1] - '0') << 6 | (unsigned)(p[2] - '0') << 3 |
                                 (unsigned)(p[3] - '0')) &
                                    0xff
                              : (unsigned char)*p;
        *to++ = (char)code;
        p += octal ? 3 : 0;
    }
    *to = '\0';
    return (size_t)(to - s);
}

static void learn(void)
{
    cleanup_buf struct buf b = BUF_INIT;
    uint64_t now = clk_mono_ms();
    if (read_ms && now < read_ms + FRESH_MS)
        return;
    read_ms = now;
    if (fsx_read("/proc/self/mountinfo", MOUNTS_BYTES, &b, NULL) < 0)
        return; /* as it was known */
    buf_free(&mounts);
    mounts = (struct buf)BUF_INIT;
    char *save = NULL;
    for (char *line = strtok_r((char *)(uintptr_t)buf_str(&b), "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *at = NULL, *word = NULL;
        for (int i = 0; i < 5; i++) /* id, parent, device, root, place */
            word = strtok_r(i ? NULL : line, " ", &at);
        if (word)
            buf_add(&mounts, word, unescape(word) + 1);
    }
}

uint64_t wall_of_mount(const char *path)
{
    size_t longest = 0;
    learn();
    for (size_t i = 0; i < mounts.len;) {
        const char *m = (const char *)mounts.p + i;
        size_t n = strlen(m);
        i += n + 1;
        if (n > longest && !strncmp(path, m, n) && (path[n] == '/' || m[n - 1] == '/'))
            longest = n;
    }
    return crc64(0, path, longest);
}
