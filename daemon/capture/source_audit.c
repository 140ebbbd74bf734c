/* source_audit.c - a second opinion about one database: what its files show, against what the wal-index that is mapped
 * here makes believe. And before that: whether walsup may be the first to open it. */
#include "daemon/capture/source_int.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/capture/session_os.h"

#define AUDIT_TRIES 4
#define AUDIT_PAUSE_US 2000
#define ONE_SHOT_MS 40
#define OPENING_MS 100
#define JOIN_TRIES 25 /* whoever has it open for so long without a wal-index does not share one */
#define TROUBLED_MS 200 /* somebody is at work on the files with other tools than SQLite */

/* ---- before the first look ------------------------------------------------------------------------------ */

/* How long the files have been as they are, by a clock that cannot be set: 0 at the first look. */
static uint64_t still_ms(struct source *s, const struct position *now)
{
    struct position *was = &s->arriving.file;
    uint64_t t = clk_mono_ms();
    if (!s->arriving.since_ms)
        s->arriving.first_ms = t;
    if (!s->arriving.since_ms || !position_same_content(was, now) || !position_same_wal(was, now)) {
        *was = *now;
        s->arriving.since_ms = t;
    }
    int64_t age = clk_real_ms() - now->newest_ns / 1000000 - (now->newest_ns % 1000000000 ? 0 : 1000);
    return MAX(t - s->arriving.since_ms, (uint64_t)MAX(age, (int64_t)0));
}

static void tell_changed(const struct source *s, struct source_result *ret)
{
    ret->state = SOURCE_ARRIVING;
    (void)snprintf(ret->away, sizeof ret->away, "%s changed a moment ago and no application has it open, so it may still be "
                                                "being copied in", s->path);
}

/* The first opener recovers the WAL. If that is still being copied in, an application that comes later believes the
 * wal-index that we made of a part of it, and loses the rest. */
bool source_waits_until_still(struct source *s, struct source_result *ret)
{
    struct position p, now = {.txid = 0};
    s->arriving.join = false;
    uint64_t wait = s->changed_under_us ? MAX(s->conf.copy_wait_ms, (uint64_t)TROUBLED_MS) : s->conf.copy_wait_ms;
    if (!wait || !position_look(&now, s->path))
        return false;
    bool known = position_read(s->dir, &p) && position_same_file(&p, &now) && !s->changed_under_us;
    bool held = os_holder_of(s->path) >= 0;
    if (known && !now.wal_ino && !held && !position_same_content(&p, &now))
        wait = MIN(wait, (uint64_t)ONE_SHOT_MS); /* a commit of a program that has gone; or a copy, whose -wal follows */
    else if (held)
        wait = known || s->arriving.held ? 0 : MIN(wait, (uint64_t)OPENING_MS); /* not in the middle of its recovery */
    else if (known && !now.wal_ino)
        wait = 0;
    s->arriving.held = s->arriving.held && held;
    s->arriving.join = held;
    if (!held)
        s->arriving.joins = 0;
    if (!wait) {
        s->arriving.since_ms = 0;
        return false;
    }
    char real[PATH_MAX];
    cleanup_free char *wal = util_printf("%s-wal", realpath(s->path, real) ? real : s->path);
    bool written = !held && (os_being_written(s->path) == 1 || (now.wal_ino && os_being_written(wal) == 1));
    uint64_t still = still_ms(s, &now);
    if (held) /* and it writes, perhaps all the time */
        still = MAX(still, clk_mono_ms() - s->arriving.first_ms);
    if (!written && still >= wait) {
        s->arriving.held = held;
        s->arriving.since_ms = 0;
        s->changed_under_us = false;
        return false;
    }
    tell_changed(s, ret);
    ret->again_ms = written ? wait : wait - MIN(still, wait - 1);
    if (written)
        (void)snprintf(ret->away, sizeof ret->away,
                       "%s is open for writing without SQLite's locks: it is being copied in, an application has opened it and "
                       "not read it yet, or it uses locks that walsupd cannot see", s->path);
    return true;
}

/* A program that opens and closes all the time may have gone meanwhile, and its files with it. */
int source_open(struct source *s, struct source_result *ret, struct err *e)
{
    bool join = s->arriving.join && s->arriving.joins < JOIN_TRIES;
    int r = join ? session_join(s->path, &s->session, e) : session_open(s->path, &s->session, e);
    s->arriving.joins = r == SESSION_FIRST ? s->arriving.joins + 1 : 0;
    if (r != SESSION_FIRST)
        return r;
    tell_changed(s, ret);
    ret->again_ms = ONE_SHOT_MS;
    return r;
}

/* ---- attached ------------------------------------------------------------------------------------------- */

void source_tell_doubt(struct source_result *ret, long pid)
{
    static const struct {
        const char *before, *after; /* of the process */
    } text[] = {
        [SOURCE_DOUBT_NONE] = {"", ""},
        [SOURCE_DOUBT_UNSEEN] = {"the -wal holds commits that the -shm does not show: an application uses locks or a wal-index "
                                 "that walsup cannot see (another vfs or kernel, a network file system), or was killed in "
                                 "the middle of a commit",
                                 ""},
        [SOURCE_DOUBT_ELSEWHERE] = {"an application", " has the database open, but not with this -wal and -shm: by another name "
                                                      "(a hard link, a bind mount of the file), or with another vfs"},
        [SOURCE_DOUBT_SIDES] = {"the -wal or -shm was removed while an application", " has it open: restart the application"},
    };
    char who[80];
    _Static_assert(sizeof text / sizeof text[0] == SOURCE_DOUBTS, "each has its words");
    (void)snprintf(ret->doubt_why, sizeof ret->doubt_why, "%s%s%s", text[ret->doubt].before,
                   text[ret->doubt].after[0] ? os_command(pid, who, sizeof who) : "", text[ret->doubt].after);
}

static bool same_index(const struct session_index *a, const struct session_index *b)
{
    return a->n == b->n && !memcmp(a->salt, b->salt, sizeof a->salt);
}

/* Commits on disk that are shown by nobody, though nobody is at work on them either. */
static bool unseen(struct source *s, struct source_result *ret)
{
    for (int i = 0; i < AUDIT_TRIES; i++) {
        struct session_index x, after;
        long pid;
        if (i)
            (void)usleep(AUDIT_PAUSE_US);
        if (session_index(s->session, &x, NULL) < 0)
            return false;
        bool writer = session_writer(s->session, &pid);
        if (!session_unseen(s->session, &x))
            return false;
        writer = writer || session_writer(s->session, &pid);
        ret->writer = writer;
        if (!writer && session_index(s->session, &after, NULL) == 0 && same_index(&x, &after) && i)
            return true;
    }
    return false;
}

static bool elsewhere(struct source *s, long *ret_pid)
{
    for (int i = 0; i < AUDIT_TRIES; i++) {
        if (i)
            (void)usleep(AUDIT_PAUSE_US);
        if (session_company(s->session, ret_pid) != SESSION_ELSEWHERE)
            return false;
    }
    return true;
}

void source_audit(struct source *s, struct source_result *ret)
{
    long pid = 0;
    if (!s->session || !s->pos.valid)
        return;
    long reader;
    if (session_enter(s->session, NULL) != 0) { /* its commits are not to be seen, so nothing can be said */
        ret->more = true;
        return;
    }
    session_exit(s->session);
    ret->audited = true;
    ret->alone = session_company(s->session, &reader) == SESSION_ALONE;
    if (ret->doubt == SOURCE_DOUBT_NONE && unseen(s, ret)) {
        ret->doubt = SOURCE_DOUBT_UNSEEN;
        s->unseen_at_ms = clk_mono_ms();
    }
    if (ret->doubt == SOURCE_DOUBT_NONE && elsewhere(s, &pid))
        ret->doubt = SOURCE_DOUBT_ELSEWHERE;
    if (ret->doubt != SOURCE_DOUBT_NONE && ret->doubt != SOURCE_DOUBT_SIDES)
        source_tell_doubt(ret, pid);
    if (ret->doubt != SOURCE_DOUBT_UNSEEN || !ret->alone)
        return;
    /* nobody else is there to say that they are none: whoever opens the database next recovers them, as we do */
    (void)snprintf(ret->away, sizeof ret->away, "%s", ret->doubt_why);
    source_forget_out(s);
    source_close_session(s);
    s->pos.valid = false;
    s->changed_under_us = true;
    position_remove(s->dir);
    ret->state = SOURCE_ARRIVING;
    ret->again_ms = TROUBLED_MS;
    ret->doubt = SOURCE_DOUBT_NONE;
    ret->audited = false;
}

/* ---- asleep --------------------------------------------------------------------------------------------- */

/* The -wal of an application that uses another name of the file lies beside that name, and tells nothing here. */
static bool elsewhere_asleep(const struct source *s)
{
    for (int i = 0; i < AUDIT_TRIES; i++) {
        if (i)
            (void)usleep(AUDIT_PAUSE_US);
        if (!os_elsewhere(s->path))
            return false;
    }
    return true;
}

/* Does the -wal hold more than the record says? Others have the database open then, or it would have been folded in. */
static bool ahead_asleep(const struct source *s)
{
    struct position p;
    char real[PATH_MAX];
    uint8_t raw[WAL_HEADER_SIZE];
    struct wal_header h;
    if (!position_read(s->dir, &p))
        return false;
    cleanup_free char *path = util_printf("%s-wal", realpath(s->path, real) ? real : s->path);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY); /* carries no locks */
    if (fd < 0 || pread(fd, raw, sizeof raw, 0) != (ssize_t)sizeof raw || wal_header_parse(raw, &h, NULL) < 0)
        return false;
    struct wal_scan w;
    struct wal_frame f;
    wal_scan_init(&w, &h);
    bool same = !memcmp(h.salt, p.pos.salt, sizeof h.salt);
    uint32_t k = same ? p.pos.frame + 1 : 1;
    if (h.salt[0] + 1 == p.pos.salt[0])
        return false;
    if (same && p.pos.frame)
        memcpy(w.s, p.pos.cksum, sizeof w.s);
    size_t size = (size_t)wal_frame_size(h.page_size);
    cleanup_free uint8_t *frame = util_alloc(size);
    while (!w.committed && pread(fd, frame, size, (off_t)wal_frame_off(h.page_size, k)) == (ssize_t)size &&
           wal_scan_frame(&w, frame, &f))
        k++;
    return w.committed != 0;
}

bool source_audit_asleep(struct source *s)
{
    return ahead_asleep(s) || elsewhere_asleep(s);
}
