#include "common/store/store_root.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "common/base/fsx.h"

#define DIR_MODE 0750
#define FILE_MODE 0640
#define TEXT_MAX 1024
#define ID_LINE "id = "

struct store_root {
    char *dir, *name, *marker, *record, *state_dir;
    bool (*used)(const char *state_dir, const char *name);
    atomic_uint refs;
    pthread_mutex_t lock;
    bool loaded;     /* the record was read */
    bool recorded;   /* there is one, maybe of another directory, from which the target was moved */
    uint64_t expected; /* 0: nothing is known of the directory */
    dev_t dev;    /* of the directory when its marker was last read, with which `seen` goes */
    ino_t ino;
    bool seen;
};

struct store_root *store_root_new(const char *dir, const char *name, const char *state_dir,
                                  bool (*used)(const char *state_dir, const char *name))
{
    struct store_root *r = util_zalloc(sizeof *r);
    r->dir = util_strdup(dir);
    r->name = util_strdup(name);
    r->state_dir = util_strdup(state_dir);
    r->marker = util_printf("%s/" STORE_ROOT_MARKER, dir);
    r->record = util_printf("%s/targets/%s", state_dir, name);
    r->used = used;
    r->refs = 1;
    (void)pthread_mutex_init(&r->lock, NULL);
    return r;
}

struct store_root *store_root_ref(struct store_root *r)
{
    atomic_fetch_add(&r->refs, 1);
    return r;
}

const char *store_root_dir(const struct store_root *r)
{
    return r->dir;
}

const char *store_root_target(const struct store_root *r)
{
    return r->name;
}

struct store_root *store_root_unref(struct store_root *r)
{
    if (!r || atomic_fetch_sub(&r->refs, 1) > 1)
        return NULL;
    (void)pthread_mutex_destroy(&r->lock);
    free(r->dir);
    free(r->name);
    free(r->state_dir);
    free(r->marker);
    free(r->record);
    free(r);
    return NULL;
}

/* ---- the two files ------------------------------------------------------------------------------- */

static uint64_t id_in(const char *text)
{
    const char *at = strstr(text, ID_LINE);
    char *end;
    if (!at)
        return 0;
    uint64_t id = strtoull(at + strlen(ID_LINE), &end, 16);
    return end == at + strlen(ID_LINE) + 16 ? id : 0;
}

/* 1: there is none. */
static int read_id(const char *path, uint64_t *ret, struct err *e)
{
    cleanup_buf struct buf b = BUF_INIT;
    int r = fsx_read(path, TEXT_MAX, &b, e);
    if (r == -(int)ERR_NOTFOUND) {
        err_clear(e);
        return 1;
    }
    if (r < 0)
        return r;
    *ret = id_in(buf_str(&b));
    return *ret ? 0 : err_set(e, ERR_CORRUPT, "%s has no line \"" ID_LINE "...\"", path);
}

/* The record is of a directory: with another `path` in the configuration it says nothing. */
static int load(struct store_root *r, struct err *e)
{
    if (r->loaded)
        return 0;
    cleanup_buf struct buf b = BUF_INIT;
    int k = fsx_read(r->record, TEXT_MAX + PATH_MAX, &b, e);
    if (k < 0 && k != -(int)ERR_NOTFOUND)
        return k;
    r->recorded = k == 0;
    if (k == 0) {
        cleanup_free char *line = util_printf("path = %s\n", r->dir);
        r->expected = strstr(buf_str(&b), line) ? id_in(buf_str(&b)) : 0;
    } else {
        err_clear(e);
    }
    r->loaded = true;
    return 0;
}

static int remember(struct store_root *r, uint64_t id, struct err *e)
{
    cleanup_free char *dir = util_printf("%s/targets", r->state_dir);
    cleanup_free char *text = util_printf(ID_LINE "%016" PRIx64 "\npath = %s\n", id, r->dir);
    int k = fsx_mkdirs(dir, 0700, e);
    if (k == 0)
        k = fsx_publish(r->record, text, strlen(text), 0600, FSX_REPLACE, e);
    if (k == 0)
        r->expected = id, r->recorded = true;
    return k;
}

static int make_marker(struct store_root *r, uint64_t *ret, struct err *e)
{
    uint64_t id = 0;
    while (!id)
        util_random(&id, sizeof id);
    cleanup_free char *text =
        util_printf("walsupd knows this directory by this file, and stores nothing here without "
                    "it: leave it in place.\n" ID_LINE "%016" PRIx64 "\n",
                    id);
    cleanup_free char *above = util_printf("%s/..", r->dir);
    bool is_new = access(r->dir, F_OK) < 0;
    int k = fsx_mkdirs(r->dir, DIR_MODE, e);
    if (k == 0 && is_new)
        k = fsx_sync_dir(above, e);
    if (k == 0)
        k = fsx_publish(r->marker, text, strlen(text), FILE_MODE, FSX_REPLACE, e);
    if (k == 0)
        *ret = id;
    return k;
}

/* ---- the decision -------------------------------------------------------------------------------- */

static int refuse(const struct store_root *r, struct err *e, const char *what)
{
    err_set(e, ERR_IO, "%s is not the directory that target %s was stored in before: %s", r->dir, r->name, what);
    return err_hint(e, "is its disk mounted? if the directory was emptied, replaced or moved on purpose, run "
                       "walsupctl adopt %s", r->name);
}

static int on_entry(const char *name, void *arg)
{
    (void)arg;
    return strcmp(name, "lost+found") != 0;
}

static bool is_empty(const struct store_root *r)
{
    return fsx_list(r->dir, on_entry, NULL, NULL) != 1;
}

/* No marker, and no number that it should have. An earlier version has stored here, or nobody has. */
static int begin(struct store_root *r, bool writes, struct err *e)
{
    uint64_t id = 0;
    if (!r->recorded && is_empty(r) && r->used && r->used(r->state_dir, r->name))
        return refuse(r, e, "it is empty, and something was stored in it");
    if (!writes)
        return 0;
    int k = make_marker(r, &id, e);
    return k < 0 ? k : remember(r, id, e);
}

/* The cheap look: the same directory, which still has its marker. */
static bool is_unchanged(const struct store_root *r, const struct stat *st)
{
    struct stat m;
    return r->seen && st->st_dev == r->dev && st->st_ino == r->ino && lstat(r->marker, &m) == 0;
}

static int look(struct store_root *r, bool writes, struct err *e)
{
    struct stat st;
    uint64_t id = 0;
    bool there = stat(r->dir, &st) == 0;
    if (!there && errno != ENOENT && errno != ENOTDIR)
        return err_sys(e, errno, "look at %s", r->dir);
    if (there && is_unchanged(r, &st))
        return 0;
    r->seen = false;
    int k = load(r, e);
    if (k == 0)
        k = there ? read_id(r->marker, &id, e) : 1;
    if (k < 0)
        return k;
    if (k == 1 && r->expected)
        return refuse(r, e, there ? "its file " STORE_ROOT_MARKER " is missing" : "it does not exist");
    if (k == 1)
        return begin(r, writes, e);
    if (r->expected && id != r->expected)
        return refuse(r, e, "its file " STORE_ROOT_MARKER " is another one's");
    if (!r->expected)
        k = remember(r, id, e);
    r->seen = k == 0;
    r->dev = st.st_dev;
    r->ino = st.st_ino;
    return k;
}

int store_root_look(struct store_root *r, bool writes, struct err *e)
{
    struct err none = {0};
    (void)pthread_mutex_lock(&r->lock);
    int k = look(r, writes, e ? e : &none);
    (void)pthread_mutex_unlock(&r->lock);
    return k;
}

static int adopt(struct store_root *r, struct err *e)
{
    uint64_t id;
    int k = read_id(r->marker, &id, e);
    if (k == 1 || k == -(int)ERR_CORRUPT)
        k = make_marker(r, &id, e);
    if (k == 0)
        k = remember(r, id, e);
    r->loaded = r->loaded || k == 0;
    r->seen = false;
    return k;
}

int store_root_adopt(struct store_root *r, struct err *e)
{
    (void)pthread_mutex_lock(&r->lock);
    int k = adopt(r, e);
    (void)pthread_mutex_unlock(&r->lock);
    return k;
}
