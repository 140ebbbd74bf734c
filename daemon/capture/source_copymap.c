/* A copy of the page map, for verify: what the replicas must come to, at the newest TXID of the spool. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/base/fsx.h"
#include "daemon/capture/source_int.h"

char *source_copy_path(const char *dir, uint64_t id)
{
    return util_printf("%s/pagemap.tmp-%016" PRIx64, dir, id);
}

static bool copy(int from, int to)
{
    off_t off = 0;
    struct stat st;
    if (fstat(from, &st) < 0)
        return false;
    while (off < st.st_size) {
        ssize_t n = copy_file_range(from, &off, to, NULL, (size_t)(st.st_size - off), 0);
        if (n <= 0 && !(n < 0 && errno == EINTR))
            return false;
    }
    return true;
}

void source_map_copy(struct source *s, struct source_result *ret)
{
    source_map_sync(s, ret);
    if (!s->map || pagemap_state(s->map)->durable != s->published)
        return;
    uint64_t id = 0;
    while (!id)
        util_random(&id, sizeof id);
    cleanup_free char *map = util_printf("%s/pagemap", s->dir);
    cleanup_free char *path = source_copy_path(s->dir, id);
    cleanup_close int from = open(map, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    cleanup_close int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (from >= 0 && to >= 0 && copy(from, to))
        ret->map_copy = id;
    else if (to >= 0)
        (void)fsx_unlink(path, NULL);
}
